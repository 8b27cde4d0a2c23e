# replica_cnpg against a strict API server: replicas that are instances of a
# Cluster, Clusters that follow this server, and Clusters that change roles;
# with lost answers, conflicts, rotated tokens and refusals on the way.

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use JSON::PP;
use MIME::Base64;
use Test::More;
use Time::HiRes qw(sleep time);

# ---- the API server ----

my $dir = PostgreSQL::Test::Utils::tempdir();
for my $name (qw(server other))
{
	system_or_bail('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', "$dir/$name.key", '-out',
		"$dir/$name.crt", '-days', '2', '-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1');
}
sub tokens { my ($text) = @_; append_to_file("$dir/tokens.new", "$text\n"); rename "$dir/tokens.new", "$dir/tokens"; }
tokens('sesame-1');
my $fake = fork() // die "fork: $!";
if ($fake == 0)
{
	exec 'python3', 't/fake_kubernetes.py', $dir, 't/data/cnpg_cluster_crd.json';
	die "exec: $!";
}
END { local $?; kill 'TERM', $fake if $fake; }
wait_until(sub { -s "$dir/ports" }, 'the API server listens');
my ($api, $control) = split ' ', slurp_file("$dir/ports");

sub control
{
	my ($path, $what) = @_;
	my ($out, $err) = ('', '');
	my @data = $what ? ('-X', 'POST', '-d', encode_json($what)) : ();
	IPC::Run::run([ 'curl', '-sS', '--fail', @data, "http://127.0.0.1:$control$path" ], '>', \$out, '2>', \$err)
	  or die "control: $err";
	return decode_json($out);
}
sub faults { control('/faults', [@_]) }
sub asked { my ($pattern) = @_; return scalar grep { "@$_" =~ $pattern } @{ control('/requests') }; }

sub kube
{
	my ($method, $path, $body) = @_;
	my ($out, $err) = ('', '');
	my @data = $body ? ('-H', 'Content-Type: ' . ($method eq 'PATCH' ? 'application/merge-patch+json' : 'application/json'),
		'-d', encode_json($body)) : ();
	my ($token) = split ' ', slurp_file("$dir/tokens");
	IPC::Run::run([ 'curl', '-sS', '-X', $method, '--cacert', "$dir/server.crt", '-H', "Authorization: Bearer $token", @data,
		"https://127.0.0.1:$api$path" ], '>', \$out, '2>', \$err) or die "kube: $err";
	return decode_json($out);
}
my $clusters = '/apis/postgresql.cnpg.io/v1/namespaces/db/clusters';
sub cluster { return kube('GET', "$clusters/$_[0]"); }

sub new_cluster
{
	my ($name, %spec) = @_;
	kube('POST', $clusters, { apiVersion => 'postgresql.cnpg.io/v1', kind => 'Cluster', metadata => { name => $name },
		spec => { instances => 2, storage => { size => '1Gi' }, %spec } });
	wait_until(sub { my $s = cluster($name)->{status}; ($s->{phase} // '') eq 'Cluster in healthy state' && $s->{readyInstances} == ($spec{instances} // 2) }, "Cluster $name is healthy");
}

# ---- servers ----

my $primary = new_primary('cnpg', conf => "log_statement = none\nlog_min_error_statement = panic");
my $standby = PostgreSQL::Test::Cluster->new('standby');
sub sql { return $primary->safe_psql('postgres', shift); }
sub fails_like
{
	my ($sql, $pattern, $name) = @_;
	my (undef, undef, $err) = $primary->psql('postgres', $sql);
	like($err, $pattern, $name);
}

control('/settings', { pace => 0.1 });
my $system = sql('SELECT system_identifier FROM pg_control_system()');
sql(qq{
	CREATE SERVER kube FOREIGN DATA WRAPPER replica_cnpg OPTIONS (api_server 'https://127.0.0.1:$api', ca_file '$dir/server.crt',
		namespace 'db', poll_interval '5');
	CREATE SERVER alpha FOREIGN DATA WRAPPER replica_cnpg OPTIONS (api_server 'https://127.0.0.1:$api', ca_file '$dir/server.crt',
		namespace 'db', cluster 'alpha', token_file '$dir/token', poll_interval '5');
	CREATE USER MAPPING FOR CURRENT_USER SERVER kube OPTIONS (token 'sesame-1', replication_password 'pass-of-source');
});
append_to_file("$dir/token", "sesame-1\n");

# ---- options ----

fails_like(q{SELECT replica_create('x', 'kube', '{"colour": 1}')}, qr/unrecognized option.*HINT:  Valid options are: type,/s, 'unknown option');
fails_like(q{SELECT replica_create('x', 'kube', '{"source_host": "h", "source_user": "u"}')}, qr/option "storage_size" is missing/, 'no size');
fails_like(q{SELECT replica_create('x', 'kube', '{"storage_size": "1Gi"}')}, qr/option "source_host" is missing/, 'no source');
fails_like(q{SELECT replica_create('x', 'kube', '{"type": "instance"}')}, qr/an instance needs a Cluster/, 'no Cluster');
fails_like(q{SELECT replica_create('x', 'alpha', '{"storage_size": "1Gi", "cluster_name": "Bad_Name"}')}, qr/is no name for a Cluster/, 'bad name');
fails_like(q{SELECT replica_create('x', 'alpha', '{"storage_size": "1Gi", "spec": {"replica": {}}}')}, qr/"replica" cannot be set/, 'a field of ours');
fails_like(q{SELECT replica_create('x', 'alpha', '{"storage_size": "1Gi", "conninfo": "host=h password=p"}')}, qr/must not hold a password/, 'a password');

# ---- who we are ----

sql(q{ALTER USER MAPPING FOR CURRENT_USER SERVER kube OPTIONS (SET token 'wrong-secret-token')});
my $plain = q{'{"storage_size": "1Gi", "source_host": "h", "source_user": "u", "cluster_name": "follower"}'};
sql("SELECT replica_create('follower', 'kube', $plain)");
fails_like(q{SELECT replica_wait('follower', '30s')}, qr/does not accept our login.*status 401.*HINT/s, 'a wrong token');
sql(q{ALTER USER MAPPING FOR CURRENT_USER SERVER kube OPTIONS (SET token 'sesame-1')});

# ---- a Cluster that follows this server ----

control('/settings', { system_id => $system });
like(sql("SELECT string_agg(name || ' ' || status, ', ' ORDER BY step, name) FROM replica_explain('create', 'follower2', 'kube', "
		. q{'{"storage_size": "1Gi", "source_host": "h", "source_user": "u"}')}), qr/kubernetes ok/, 'explain of a create');
is(asked(qr/^POST .*clusters.* 201/) , asked(qr{^POST .*clusters\?dryRun=All.* 201}), 'which only asks for a dry run');

# the answers to the Secret and to the Cluster are lost, the operator is slow to start
faults({ match => '^POST .*/secrets', lost => JSON::PP::true }, { match => '^POST .*/clusters\?fieldV', lost => JSON::PP::true },
	{ match => '^GET .*/clusters/follower$', skip => 2, times => 2, status => 503 });
sql("SELECT replica_create('follower', 'kube', $plain)");
is(sql(q{SELECT replica_wait('follower', '60s')}), 'succeeded', 'created, with lost answers and 503');
faults();
is(asked(qr/^POST .*clusters\?fieldV/), 1, 'by one POST');
my $made = cluster('follower');
is_deeply($made->{spec}{replica}, { enabled => JSON::PP::true, source => 'source' }, 'a standalone replica cluster');
is($made->{spec}{externalClusters}[0]{connectionParameters}{host}, 'h', 'of the source that was named');
my $secret = $made->{spec}{externalClusters}[0]{password}{name};
is(decode_base64(kube('GET', "/api/v1/namespaces/db/secrets/$secret")->{data}{password}), 'pass-of-source', 'with a Secret of its password');
is(sql(q{SELECT endpoint FROM replica_status WHERE replica = 'follower'}), 'follower-rw.db.svc:5432', 'its endpoint');
fails_like("SELECT replica_create('other', 'kube', $plain); SELECT replica_wait('other', '30s')", qr/exists already|cannot be run|queued/, 'a second one of that name');
fails_like(q{SELECT replica_wait('other', '30s')}, qr/Cluster "follower" exists already in namespace "db".*HINT/s, 'is refused');

# ---- failures on the way leave nothing ----

control('/settings', { stuck => ['broken'] });
sql("SELECT replica_create('broken', 'kube', " . q{'{"storage_size": "1Gi", "source_host": "h", "source_user": "u"}')});
wait_for($primary, q{SELECT step = 'wait' FROM replica_operations WHERE replica = 'broken'});
my $start = time;
sql(q{SELECT replica_cancel(operation) FROM replica_operations WHERE replica = 'broken'});
is(sql(q{SELECT replica_wait('broken', '30s')}), 'cancelled', 'a create is cancelled');
ok(time - $start < 10, 'soon');
is(cluster('broken')->{reason}, 'NotFound', 'its Cluster is gone');
is(scalar(grep { $_->{metadata}{name} =~ /^broken/ } @{ kube('GET', '/api/v1/namespaces/db/secrets')->{items} }), 0, 'and its Secret');
control('/settings', { stuck => [] });

sql("SELECT replica_create('denied', 'kube', " . q{'{"storage_size": "1Gi", "source_host": "h", "source_user": "u", "spec": {"maxSyncReplicas": 5}}')});
fails_like(q{SELECT replica_wait('denied', '30s')}, qr/Kubernetes .* refused.*maxSyncReplicas must be lower.*HINT/s, "the webhook's refusal");
sql("SELECT replica_create('odd', 'kube', " . q{'{"storage_size": "1Gi", "source_host": "h", "source_user": "u", "spec": {"colour": "blue"}}')});
fails_like(q{SELECT replica_wait('odd', '30s')}, qr/unknown field "spec.colour"/, 'an unknown field');
for my $case ([ 403, qr/does not allow: .*HINT:  It is no role that is missing/s ], [ 429, qr/Kubernetes .* failed.*the server is told to say so/s ],
	[ 500, qr/Kubernetes .* failed/ ])
{
	my ($status, $pattern) = @$case;
	faults({ match => 'dryRun', times => 1000, status => $status });
	sql("SELECT replica_create('s$status', 'kube', " . q{'{"storage_size": "1Gi", "source_host": "h", "source_user": "u"}')});
	if ($status == 403)
	{
		fails_like("SELECT replica_wait('s$status', '60s')", $pattern, "status $status");
	}
	else
	{
		wait_for($primary, qq{SELECT message IS NOT NULL FROM replica_operations WHERE replica = 's$status'});
		like(sql("SELECT message || ' ' || detail FROM replica_operations WHERE replica = 's$status'"), $pattern, "status $status is shown");
		faults();
		is(sql("SELECT replica_wait('s$status', '60s')"), 'succeeded', 'and passes');
	}
}
faults();

# ---- what the monitor sees ----

wait_for($primary, q{SELECT count(*) > 0 FROM replica_events WHERE kind = 'cnpg' AND message LIKE 'Ready is True%'});
wait_for($primary, q{SELECT service_status = 'Cluster in healthy state' FROM replica_status WHERE replica = 'follower'});

# ---- an instance of a Cluster ----

new_cluster('alpha');
faults({ match => '^PATCH .*/clusters/alpha$', lost => JSON::PP::true });
sql(q{SELECT replica_create('a3', 'alpha', '{"type": "instance"}')});
is(sql(q{SELECT replica_wait('a3', '60s')}), 'succeeded', 'an instance more, with a lost answer');
is(cluster('alpha')->{spec}{instances}, 3, 'one, not two');
is(sql(q{SELECT facts->>'instance' FROM replica_ctl.replica WHERE name = 'a3'}), 'alpha-3', 'its pod');
is_deeply([ grep { /replica-ctl/ } keys %{ cluster('alpha')->{metadata}{annotations} // {} } ], [], 'no mark is left');

# the token is rotated; another one changes the Cluster between look and patch
unlink "$dir/tokens.new"; unlink "$dir/token";
append_to_file("$dir/token", "sesame-2\n"); tokens("sesame-2\nsesame-1");
faults({ match => '^PATCH .*/clusters/alpha$', status => 409, reason => 'Conflict', times => 2 });
sql(q{SELECT replica_create('a4', 'alpha', '{"type": "instance"}')});
is(sql(q{SELECT replica_wait('a4', '60s')}), 'succeeded', 'with conflicts and a new token');
faults();
sql(q{SELECT replica_drop('a3')});
fails_like(q{SELECT replica_wait('a3', '30s')}, qr/would remove instance "alpha-4", not "alpha-3".*HINT/s, 'not the one that scaling would remove');

# promotion: the status of the Cluster is changed; the source follows by itself
control('/patch', { kind => 'clusters', name => 'alpha', patch => { status => { conditions => [
	{ type => 'Ready', status => 'True', reason => 'ClusterIsReady', message => 'm', lastTransitionTime => '2026-01-01T00:00:00Z' },
	{ type => 'ContinuousArchiving', status => 'True', reason => 'ContinuousArchivingSuccess', message => 'm', lastTransitionTime => '2026-01-01T00:00:00Z' } ] } } });
sql(q{SELECT replica_promote('a4', source_after => 'standby')});
is(sql(q{SELECT replica_wait('a4', '60s')}), 'succeeded', 'an instance is promoted');
is(cluster('alpha')->{status}{currentPrimary}, 'alpha-4', 'it is the primary');
is(sql(q{SELECT state FROM replica_status WHERE replica = 'a4'}), 'promoted', 'promoted');
sql(q{SELECT replica_drop('a4', true)});
fails_like(q{SELECT replica_wait('a4', '30s')}, qr/is the primary of Cluster "alpha"/, 'a primary is not dropped');
sql(q{SELECT replica_detach('a4')}); sql(q{SELECT replica_wait('a4', '30s')});
sql(q{SELECT replica_drop('a3')});
is(sql(q{SELECT replica_wait('a3', '60s')}), 'succeeded', 'the youngest one that is no primary is dropped');
is(join(' ', sort @{ cluster('alpha')->{status}{instanceNames} }), 'alpha-1 alpha-2 alpha-4', 'it, and no other');

# ---- a Cluster that can change roles ----

sql(q{SELECT replica_create('beta', 'alpha', '{"storage_size": "1Gi", "distributed": true}')});
is(sql(q{SELECT replica_wait('beta', '60s')}), 'succeeded', 'a distributed Cluster');
is_deeply(cluster('beta')->{spec}{replica}, { self => 'beta', primary => 'alpha', source => 'alpha' }, 'knows both');
sql(q{SELECT replica_promote('beta', source_after => 'standby')});
fails_like(q{SELECT replica_wait('beta', '60s')}, qr/does not know ".*" by its spec.externalClusters.*HINT/s, 'the source must know it');
is(sql(q{SELECT state FROM replica_operations WHERE replica = 'beta' ORDER BY operation DESC LIMIT 1}), 'failed', 'nothing has been done');
kube("PATCH", "$clusters/alpha", { spec => { externalClusters => [ map +{ name => $_, connectionParameters => { host => "$_-rw" } }, qw(alpha beta) ] } });
faults({ match => '^PATCH .*/clusters/beta$', lost => JSON::PP::true });
sql(q{SELECT replica_promote('beta', source_after => 'standby')});
is(sql(q{SELECT replica_wait('beta', '60s')}), 'succeeded', 'a controlled move');
faults();
my $token = cluster('beta')->{status}{lastPromotionToken};
ok($token, 'by the token');
is(cluster('alpha')->{spec}{replica}{primary}, 'beta', 'of the source, which follows');

# ---- a standalone one that follows this server: our fence, and lag 0 by SQL ----

$primary->backup('b');
$standby->init_from_backup($primary, 'b', has_streaming => 1);
$standby->start;
my $conninfo = 'host=' . $standby->host . ' port=' . $standby->port . ' dbname=postgres';
my $attach = "SELECT replica_attach('real', 'kube', '" . encode_json({ cluster_name => 'follower', conninfo => $conninfo }) . "')";
sql($attach);
fails_like(q{SELECT replica_wait('real', '30s')}, qr/is a replica here already/, 'it cannot be attached twice');
sql(q{SELECT replica_detach('follower')}); sql(q{SELECT replica_wait('follower', '30s')});
sql($attach);
is(sql(q{SELECT replica_wait('real', '30s')}), 'succeeded', 'attached with a connection string');
control('/settings', { on_promote => { follower => [ $standby->config_data('--bindir') . '/pg_ctl', 'promote', '-w', '-D', $standby->data_dir ] } });
sql('CREATE TABLE t AS SELECT 1 AS i');
sql(q{SELECT replica_promote('real')});
is(sql(q{SELECT replica_wait('real', '60s')}), 'succeeded', 'a standalone Cluster is promoted');
is($standby->safe_psql('postgres', 'SELECT i FROM t WHERE NOT pg_is_in_recovery()'), '1', 'with everything');
is(cluster('follower')->{spec}{replica}{enabled}, JSON::PP::false, 'by its spec');
is(sql(q{SELECT default_transaction_read_only FROM (SELECT current_setting('default_transaction_read_only') AS default_transaction_read_only) s}), 'on', 'this server is fenced');
sql(q{SELECT replica_unfence()});
sql(q{SELECT replica_drop('real')});
fails_like(q{SELECT replica_wait('real', '30s')}, qr/was attached, not made here.*HINT/s, 'what was attached is not dropped unasked');
sql(q{SELECT replica_promote('s429', mode => 'forced')});
is(sql(q{SELECT replica_wait('s429', '60s')}), 'succeeded', 'a forced promotion');
sql(q{SELECT replica_drop('s429')});
fails_like(q{SELECT replica_wait('s429', '30s')}, qr/was promoted and is a server of its own.*HINT/s, 'a primary is not dropped unasked');
sql(q{SELECT replica_drop('s500')});
is(sql(q{SELECT replica_wait('s500', '60s')}), 'succeeded', 'a replica is dropped');
is(cluster('s500')->{reason}, 'NotFound', 'with its Cluster');

# ---- kubectl sees the same: the API server is not just what we believe ----

sub kubectl
{
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'kubectl', "--server=https://127.0.0.1:$api", "--certificate-authority=$dir/server.crt", '--token=sesame-1',
		'-n', 'db', @_ ], '>', \$out, '2>', \$err, IPC::Run::timeout(60)) or return $err;
	return $out;
}
SKIP:
{
	skip 'there is no kubectl', 3 if system('command -v kubectl >/dev/null') != 0;
	$ENV{HOME} = $dir;
	like(kubectl('get', 'clusters.postgresql.cnpg.io', 'follower', '-o', 'jsonpath={.spec.replica.enabled}'), qr/^false$/, 'kubectl: get');
	like(kubectl('patch', 'clusters.postgresql.cnpg.io', 'follower', '--type', 'merge', '-p', '{"spec":{"instances":0}}'), qr/invalid|Invalid/, 'kubectl: a bad patch');
	like(kubectl('get', 'pods'), qr/^alpha-1 /m, 'kubectl: pods');
}

# ---- a kubeconfig, and another server's certificate ----

append_to_file("$dir/kubeconfig", <<"END");
apiVersion: v1
kind: Config
current-context: here
contexts:
- name: here
  context: {cluster: fake, user: me, namespace: db}
clusters:
- name: fake
  cluster:
    server: https://127.0.0.1:$api/
    certificate-authority: server.crt
users:
- name: me
  user: {tokenFile: token}
END
sql(qq{CREATE SERVER config FOREIGN DATA WRAPPER replica_cnpg OPTIONS (kubeconfig '$dir/kubeconfig', cluster 'alpha');
	CREATE SERVER liar FOREIGN DATA WRAPPER replica_cnpg OPTIONS (kubeconfig '$dir/kubeconfig', ca_file '$dir/other.crt', cluster 'alpha')});
like(sql(q{SELECT string_agg(name || ' ' || status, ', ') FROM replica_explain('create', 'kc', 'config', '{"type": "instance"}')}),
	qr/kubernetes ok/, 'a kubeconfig');
like(sql(q{SELECT string_agg(status || ' ' || coalesce(detail, ''), ', ') FROM replica_explain('create', 'kc', 'liar', '{"type": "instance"}')}),
	qr/blocked .*certificate/, 'a certificate of somebody else');
fails_like(q{CREATE SERVER plain FOREIGN DATA WRAPPER replica_cnpg OPTIONS (api_server 'http://10.0.0.1:80')}, qr/http/, 'no plain http to elsewhere');

# ---- what is gone; no secret anywhere ----

control('/delete', { kind => 'clusters', name => 'beta' });
new_cluster('beta');
sql(q{SELECT replica_drop('beta', true)});
is(sql(q{SELECT replica_wait('beta', '30s')}), 'succeeded', 'a Cluster that is gone is dropped');
is(cluster('beta')->{metadata}{name}, 'beta', 'and another one of its name is left alone');

my $log = slurp_file($primary->logfile);
my $rows = sql(q{SELECT string_agg(o::text, '') FROM replica_operations o}) . sql(q{SELECT string_agg(e::text, '') FROM replica_events e})
  . sql(q{SELECT string_agg(r::text, '') FROM replica_ctl.replica r}) . sql(q{SELECT string_agg(o::text, '') FROM replica_ctl.operation o});
unlike($log . $rows, qr/sesame|pass-of-source|wrong-secret-token/ , 'no secret in log and tables')
  or diag(grep { /sesame|pass-of-source|wrong-secret/ } split /\n/, $log);

$standby->stop;
$primary->stop;
done_testing();
