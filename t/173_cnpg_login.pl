# replica_cnpg: where the API server is and who we are (all kinds of kubeconfig,
# the pod's account, rotated tokens), names, and answers that are none.
#
# slow

use strict;
use warnings;
use lib 't';
use FakeKubernetes;
use ReplicaCtl;
use MIME::Base64;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $kube = FakeKubernetes->new('login');
my $other = FakeKubernetes->new('other');
my $dir = $kube->dir;
my ($url, $ca) = ($kube->url, $kube->ca);
my ($host, $port) = $url =~ m{//(.*):(\d+)};
$kube->tokens('good', 'rotated');

# The account that Kubernetes mounts into a pod: links that change all at once.
my $account = "$dir/account";
mkdir $account; mkdir "$account/..one"; mkdir "$account/..two";
for my $n ([ '..one', 'expired' ], [ '..two', 'rotated' ])
{
	append_to_file("$account/$n->[0]/token", $n->[1]);
	append_to_file("$account/$n->[0]/namespace", 'db');
	append_to_file("$account/$n->[0]/ca.crt", slurp_file($ca));
}
symlink '..one', "$account/..data";
symlink "..data/$_", "$account/$_" for qw(token namespace ca.crt);

local $ENV{RCTL_TEST_SERVICE_ACCOUNT} = $account;
local $ENV{KUBERNETES_SERVICE_HOST} = $host;
local $ENV{KUBERNETES_SERVICE_PORT} = $port;
my $primary = new_primary('login', conf => "log_statement = none\nlog_min_error_statement = panic\nreplica_ctl.step_retries = 0");
sub sql { return $primary->safe_psql('postgres', shift); }
sub psql_says { my (undef, $out, $err) = $primary->psql('postgres', shift); return "$out$err"; }
$kube->new_cluster('db', 'alpha');
$kube->new_cluster('else', 'alpha');

# What replica_explain says to one more instance of "alpha", on a server with these options.
my $servers = 0;
sub explain
{
	my ($options) = @_;
	my $name = 's' . ++$servers;
	sql("CREATE SERVER $name FOREIGN DATA WRAPPER replica_cnpg OPTIONS ($options, cluster 'alpha')");
	return sql("SELECT string_agg(concat_ws(' ', status, name, detail, hint), E'\n' ORDER BY step, name)"
		. " FROM replica_explain('create', 'r', '$name', '{\"type\": \"instance\"}')");
}

# ---- kubeconfig ----

my $client_key = slurp_file("$dir/client.key");
my $client_crt = slurp_file("$dir/clients.crt");
my $inline_ca = encode_base64(slurp_file($ca), '');
$kube->file('token.file', "good\n");
sub config
{
	my (%with) = @_;
	my $cluster = $with{cluster} // "{server: '$url', certificate-authority: server.crt}";
	my $user = $with{user} // '{token: good}';
	my $current = $with{current} // 'here';
	return $kube->file("config$servers", <<"END");
apiVersion: v1
kind: Config
current-context: $current
preferences: {}
contexts:
- {name: nowhere, context: {cluster: gone, user: me}}
- {name: there, context: {cluster: other, user: me, namespace: db}}
- {name: here, context: {cluster: fake, user: me, namespace: db}}
clusters:
- {name: other, cluster: {server: '@{[ $other->url ]}', certificate-authority: '@{[ $other->ca ]}'}}
- name: fake
  cluster: $cluster
users:
- {name: somebody, user: {token: bad}}
- name: me
  user: $user
END
}
sub good_config { my ($name, $more, %with) = @_; return like(explain("kubeconfig '" . config(%with) . "'$more"), qr/^ok kubernetes/m, "kubeconfig: $name"); }
good_config('a token, and an authority beside it', '');
good_config('inline data, a path at the end of the address', '', cluster => "{server: '$url/', certificate-authority-data: $inline_ca}");
good_config('a token in a file beside it', '', user => '{tokenFile: token.file}');
good_config('a token in a file goes before one that stands there', '', user => '{tokenFile: token.file, token: bad}');
good_config('a client certificate in files', '', user => '{client-certificate: clients.crt, client-key: client.key}');
good_config('a client certificate, inline', '', user => '{client-certificate-data: ' . encode_base64($client_crt, '') . ', client-key-data: ' . encode_base64($client_key, '') . '}');
good_config('another context', q{, context 'here'}, current => 'nowhere');
good_config('verification that is not turned off', '', cluster => "{server: '$url', certificate-authority: server.crt, insecure-skip-tls-verify: false}");
good_config('the option token_file goes before its token', ", token_file '$dir/token.file'", user => '{token: bad}');
my $json = $kube->file('config.json', qq({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "f", "user": "u", "namespace": "db"}}],
	"clusters": [{"name": "f", "cluster": {"server": "$url", "certificate-authority": "server.crt"}}], "users": [{"name": "u", "user": {"token": "good"}}]}));
like(explain("kubeconfig '$json'"), qr/^ok kubernetes/m, 'kubeconfig: JSON is YAML');
like(explain("kubeconfig '" . config() . "', context 'there'"), qr/blocked kubernetes .*does not accept our login/, 'a context is another server');
like(explain("kubeconfig '" . config() . "', namespace 'nothing'"), qr/blocked kubernetes .*namespace "nothing"\).*"alpha" not found/, 'the option namespace goes before');

# the token of the options must not be overruled by a certificate of the file
$kube->tokens("good " . $kube->file('nothing.yaml', "kind: Role\nmetadata: {namespace: db}\nrules: []\n"));
like(explain("kubeconfig '" . config(user => '{client-certificate: clients.crt, client-key: client.key}') . "', token_file '$dir/token.file'"),
	qr/Add the rule \{apiGroups: \[postgresql.cnpg.io\], resources: \[clusters\], verbs: \[get\]\}/, 'a token of the options is who we are, whatever certificate the kubeconfig has');
$kube->tokens('good', 'rotated');

for my $bad (
	[ 'exec', { user => '{exec: {command: aws, args: [secret-argument]}}' }, qr/starts a program to log in.*kubectl create token/ ],
	[ 'auth-provider', { user => '{auth-provider: {name: gcp}}' }, qr/starts a program to log in/ ],
	[ 'a password', { user => '{username: u, password: secret-word}' }, qr/user's name and a password/ ],
	[ 'impersonation', { user => '{token: good, as: system-admin}' }, qr/acts as somebody else/ ],
	[ 'no verification', { cluster => "{server: '$url', insecure-skip-tls-verify: true}" }, qr/does not verify.*certificate-authority/ ],
	[ 'no verification, spelled otherwise', { cluster => "{server: '$url', insecure-skip-tls-verify: True}" }, qr/does not verify/ ],
	[ 'a proxy', { cluster => "{server: '$url', certificate-authority: server.crt, proxy-url: 'socks5://p:1'}" }, qr/proxy of its own.*https_proxy/ ],
	[ 'another name', { cluster => "{server: '$url', certificate-authority: server.crt, tls-server-name: k8s}" }, qr/another name.*certificate/ ],
	[ 'a context that is not whole', { current => 'nowhere' }, qr/no whole context "nowhere".*option context/ ],
	[ 'no context', { current => '""' }, qr/no whole context ""/ ],
	[ 'no login', { user => '{}' }, qr/there is no login/ ],
	[ 'data that are no base64', { cluster => "{server: '$url', certificate-authority-data: '***'}" }, qr/is not base64/ ],
	[ 'no YAML', { user => '{token: [secret-word' }, qr/is not valid YAML.*first error is in line/ ],
	[ 'plain http', { cluster => "{server: 'http://10.0.0.1:80'}" }, qr/URL of the Kubernetes API server cannot be used/ ])
{
	my ($name, $with, $pattern) = @$bad;
	my $said = explain("kubeconfig '" . config(%$with) . "'");
	like($said, qr/blocked kubernetes .*$pattern/s, "kubeconfig: $name");
	unlike($said, qr/secret-/, '... told without what it holds') if $said =~ /secret-/;
}
like(explain("kubeconfig '$dir/there-is-none'"), qr/could not open file.*readable for the user/s, 'no kubeconfig');
like(explain("api_server '$url', ca_file '$ca', namespace 'db', token_file '" . $kube->file('empty', "\n") . "'"), qr/does not hold a token.*one word/s, 'an empty token file');
like(explain("api_server '$url', ca_file '@{[ $other->ca ]}', namespace 'db', token_file '$dir/token.file'"), qr/blocked kubernetes .*could not reach.*certificate/s, "somebody else's certificate");

# ---- the pod's account, rotated while an operation runs ----

like(explain(q{in_cluster 'true'}), qr/blocked kubernetes .*does not accept our login.*status 401/s, 'in_cluster: a token that has expired');
symlink '..two', "$account/..new"; rename "$account/..new", "$account/..data";
like(explain(q{in_cluster 'true'}), qr/^ok kubernetes/m, 'in_cluster: the rotated one');
like(explain(q{in_cluster 'true', namespace 'else'}), qr/^ok kubernetes/m, 'in_cluster: another namespace');

# it is rotated between two requests: one 401, then the file is read again
sql(qq{CREATE SERVER k FOREIGN DATA WRAPPER replica_cnpg OPTIONS (api_server '$url', ca_file '$ca', namespace 'db', cluster 'alpha',
	token_file '$dir/token.file', poll_interval '5')});
$kube->faults({ match => '^PATCH .*alpha\?fieldV', status => 401 });
sql(q{SELECT replica_create('a3', 'k', '{"type": "instance"}')});
is(sql(q{SELECT replica_wait('a3', '60s')}), 'succeeded', 'one 401 is no refusal');
is($kube->asked(qr/^PATCH .*alpha\?fieldValidation=Strict 401/), 1, 'but a reason to read the token again');

# ---- 429: as long as it is told ----

$kube->faults({ match => '^PATCH .*alpha\?fieldV', status => 429, retry_after => 3 });
my $before = time;
sql(q{SELECT replica_create('a4', 'k', '{"type": "instance"}')});
is(sql(q{SELECT replica_wait('a4', '60s')}), 'succeeded', '429 with Retry-After');
my @times = map { $_->[3] } grep { "@$_[0 .. 1]" =~ /^PATCH .*alpha\?fieldValidation=Strict$/ && $_->[3] > $before } $kube->requests;
cmp_ok($times[1] - $times[0], '>=', 2.9, 'is obeyed');

# ---- answers that are none ----

for my $answer (
	[ 'a page of a proxy', { raw => '<html>Please log in</html>', type => 'text/html' }, qr/not from a Kubernetes API server.*HINT:  Correct the server's option api_server/s ],
	[ 'an array', { raw => '[1, 2]' }, qr/not from a Kubernetes API server/ ],
	[ 'no CloudNativePG', { raw => '404 page not found', status => 404, type => 'text/plain' }, qr/does not know what was asked for.*whether CloudNativePG is installed/s ],
	[ 'a quota', { status => 403, message => 'exceeded quota: clusters' }, qr/exceeded quota.*It is no role that is missing/s ])
{
	my ($name, $fault, $pattern) = @$answer;
	$kube->faults({ match => '^GET .*clusters/alpha', times => 99, %$fault });
	sql(qq{SELECT replica_create('x', 'k', '{"type": "instance"}')});
	like(psql_says(q{SELECT replica_wait('x', '60s')}), $pattern, $name);
	$kube->faults;
	sql(q{SELECT replica_drop('x')}); sql(q{SELECT replica_wait('x', '30s')});
}

# ---- names and labels ----

my $replica = q{"storage_size": "1Gi"};
sub create_says { my ($name, $more) = @_; return psql_says("SELECT replica_create('$name', 'k', '{$replica$more}')"); }
like(create_says('1st', ''), qr/"1st" is no name for a Cluster.*begin with a letter.*option cluster_name/s, 'a name out of the replica\'s');
like(create_says('no.dots', ''), qr/"no.dots" is no name for a Cluster/, 'dots');
like(create_says('x', ', "cluster_name": "' . 'a' x 51 . '"'), qr/1 to 50 lower-case/, 'more than 50 characters');
like(create_says('x', ', "cluster_name": "a-"'), qr/no hyphen at either end/, 'a hyphen at the end');
like(create_says('x', ', "labels": {"team": "a b"}'), qr/invalid value for label "team".*HINT/s, 'a label with a space');
like(create_says('x', ', "labels": {"team": {"a": 1}}'), qr/invalid value for label "team"/, 'a label that is no text');
like(create_says('x', ', "labels": {"replica-ctl/operation": "1"}'), qr/cannot be set/, 'a label of ours');
like(psql_says(q{CREATE SERVER bad FOREIGN DATA WRAPPER replica_cnpg OPTIONS (api_server 'https://h:1', cluster 'Alpha')}), qr/"Alpha" is no name for a Cluster.*option cluster/s, 'the Cluster of a server');
sql(q{SELECT replica_create('My_Replica', 'k', '{"storage_size": "1Gi", "labels": {"team": "a.b_c-1", "empty": ""}}')});
is(sql(q{SELECT replica_wait('My_Replica', '60s')}), 'succeeded', 'capitals and underscores');
is($kube->cluster('db', 'my-replica')->{metadata}{labels}{team}, 'a.b_c-1', 'make a name that is one');

# ---- the monitor: pages, 410, another Cluster of the name ----

$kube->settings(page => 1);
$kube->faults({ match => 'continue=', status => 410, reason => 'Expired', times => 2 });
wait_for($primary, q{SELECT count(*) = 3 FROM replica_status WHERE service_status = 'Cluster in healthy state'});
pass('a list in pages, of which two came too late');
wait_until(sub { $kube->asked(qr/continue=.* 410/) == 2 && $kube->asked(qr/continue=.* 200/) }, 'pages');
cmp_ok($kube->asked(qr/limit=\d+ 200/), '>=', 3, 'begun anew after each');
$kube->settings(page => 0);
$kube->control('/delete', { kind => 'clusters', name => 'my-replica' });
$kube->new_cluster('db', 'my-replica');
wait_for($primary, q{SELECT service_status = 'missing' FROM replica_status WHERE replica = 'My_Replica'});
pass('another Cluster of its name is not the replica');
is_deeply([ sort split /\n/, sql(q{SELECT service_status FROM replica_status WHERE replica <> 'My_Replica'}) ],
	[ ('Cluster in healthy state') x 2 ], 'and the others are what they were');

# ---- an instance of a Cluster that was made anew is not ours to scale ----

$kube->control('/delete', { kind => 'clusters', name => 'alpha' });
$kube->new_cluster('db', 'alpha', instances => 4);
sql(q{SELECT replica_drop('a4')});
is(sql(q{SELECT replica_wait('a4', '30s')}), 'succeeded', 'an instance of a Cluster that is gone is dropped');
is($kube->cluster('db', 'alpha')->{spec}{instances}, 4, 'and the new Cluster keeps its instances');
sql(q{SELECT replica_promote('a3', source_after => 'standby')});
like(psql_says(q{SELECT replica_wait('a3', '30s')}), qr/Cluster of replica "a3" is gone.*made another one of its name.*replica_detach/s, 'nor to promote');

my $log = slurp_file($primary->logfile);
my $rows = join '', map { sql("SELECT string_agg(t::text, '') FROM $_ t") } qw(replica_operations replica_events replica_ctl.replica replica_ctl.operation);
unlike($log . $rows, qr/Bearer|\b(good|rotated|expired)\b|BEGIN (RSA )?PRIVATE|secret-/, 'no secret in log and tables');
$primary->stop;
done_testing();
