# replica_cnpg with the rights of the manifests in docs/cnpg.md: they are
# enough for everything, each of them is needed, and who lacks one is told the
# rule.  The commands of that page's stories, in SQL and by kubectl.

use strict;
use warnings;
use lib 't';
use FakeKubernetes;
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;

my $kube = FakeKubernetes->new('rights');
my $have_kubectl = system('command -v kubectl >/dev/null') == 0;

# ---- the manifests, as the page has them ----

my @documents = grep { /^kind: Role$/m } map { split /^---\n/m } slurp_file('docs/cnpg.md') =~ /^```yaml\n(.*?)^```/gms;
is(scalar @documents, 2, 'the page has two roles');
sub manifest { my ($name, @roles) = @_; return $kube->file($name, join "---\n", @roles); }
my $all = manifest('role.yaml', @documents);
my @rules;	# [ which document, group, resource, verb, the document without that verb ]
for my $i (0 .. $#documents)
{
	while ($documents[$i] =~ /apiGroups: \[(.*?)\]\n  resources: \[(.*?)\].*\n  verbs: \[(.*?)\]/g)
	{
		my ($group, $resource, $verbs, $from, $to) = ($1, $2, $3, $-[3], $+[3]);
		for my $verb (split /, /, $verbs)
		{
			my $less = $documents[$i];
			substr($less, $from, $to - $from) = join ', ', grep { $_ ne $verb } split /, /, $verbs;
			push @rules, [ $i, $group =~ s/"//gr, $resource, $verb, $less ];
		}
	}
}
is(scalar @rules, 11, 'with these many rights') or diag map { "@$_[0 .. 3]\n" } @rules;

my $primary = new_primary('rights', conf => "log_statement = none\nlog_min_error_statement = panic\nreplica_ctl.step_retries = 0");
sub sql { return $primary->safe_psql('postgres', shift); }
my ($url, $ca) = ($kube->url, $kube->ca);
my $token = $kube->file('token', "robot\n");
sub allow { my ($manifest) = @_; return $kube->tokens("robot $manifest"); }
allow($all);
sql(qq{
	CREATE SERVER k8s FOREIGN DATA WRAPPER replica_cnpg OPTIONS (api_server '$url', ca_file '$ca', token_file '$token',
		namespace 'orders', poll_interval '5');
	CREATE USER MAPPING FOR CURRENT_USER SERVER k8s OPTIONS (replication_password 'never-shown');
	CREATE SERVER alpha FOREIGN DATA WRAPPER replica_cnpg OPTIONS (api_server '$url', ca_file '$ca', token_file '$token',
		namespace 'orders', cluster 'alpha', poll_interval '5');
	CREATE SERVER west FOREIGN DATA WRAPPER replica_cnpg OPTIONS (api_server '$url', ca_file '$ca', token_file '$token',
		namespace 'orders', cluster 'gamma', source_namespace 'orders-east', poll_interval '5');
});
my $options = q{'{"storage_size": "1Gi", "source_host": "db1.example.com", "source_user": "replicator"}'};

sub succeeds
{
	my ($sql, $replica, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	sql($sql);
	my (undef, $out, $err) = $primary->psql('postgres', "SELECT replica_wait('$replica', '60s')");
	return is($out, 'succeeded', $name) || diag $err;
}

# ---- they are enough ----

$kube->new_cluster('orders', 'alpha');
$kube->new_cluster('orders-east', 'gamma', externalClusters => $kube->external('gamma', 'delta'));
succeeds("SELECT replica_create('orders-k8s', 'k8s', $options)", 'orders-k8s', 'a replica of this server, with a password');
succeeds(q{SELECT replica_create('alpha-more', 'alpha', '{"type": "instance"}')}, 'alpha-more', 'one more instance');
wait_for($primary, q{SELECT count(*) = 2 FROM replica_status WHERE service_status = 'Cluster in healthy state'});
pass('the monitor sees both');
succeeds(q{SELECT replica_promote('alpha-more', source_after => 'standby')}, 'alpha-more', 'a switchover inside a Cluster');
succeeds(q{SELECT replica_create('delta', 'west', '{"storage_size": "1Gi", "distributed": true}')}, 'delta', 'a replica of a Cluster in another namespace');
is($kube->cluster('orders', 'delta')->{spec}{externalClusters}[0]{connectionParameters}{host}, 'gamma-rw.orders-east.svc', 'by its service');
succeeds(q{SELECT replica_promote('delta', source_after => 'standby')}, 'delta', 'a move between two namespaces');
is($kube->cluster('orders-east', 'gamma')->{spec}{replica}{primary}, 'delta', 'the other one follows');
SKIP:
{
	skip 'there is no kubectl', 4 if !$have_kubectl;
	like($kube->kubectl('robot', '-n', 'orders', 'get', 'clusters.postgresql.cnpg.io', 'orders-k8s', '-o', 'jsonpath={.status.phase}'),
		qr/^Cluster in healthy state$/, 'kubectl, with the same token: status');
	is($kube->kubectl('robot', '-n', 'orders-east', 'get', 'clusters.postgresql.cnpg.io', 'gamma', '-o', 'jsonpath={.spec.replica.primary}'),
		'delta', 'and the other namespace');
	like($kube->kubectl('robot', '-n', 'orders', 'get', 'secrets'), qr/cannot list resource "secrets"/, 'but no secret can be read');
	like($kube->kubectl('robot', '-n', 'other', 'get', 'clusters.postgresql.cnpg.io'), qr/cannot list resource "clusters"/, 'and no other namespace');
}
succeeds(q{SELECT replica_drop('orders-k8s')}, 'orders-k8s', 'dropped');
is(scalar @{ $kube->kube('GET', '/api/v1/namespaces/orders/secrets')->{items} }, 0, 'with its secret');

# ---- each of them is needed: without it something fails, and names the rule ----

my %used = map { ("@$_" => 1) } @{ $kube->control('/rights') };
is(join(', ', sort keys %used), join(', ', sort keys %{ { map { ("@$_[1 .. 3]" => 1) } @rules } }), 'all of them have been used');

sql(q{SELECT replica_detach('alpha-more'); SELECT replica_detach('delta')});
sql(q{SELECT replica_wait('alpha-more', '30s')}); sql(q{SELECT replica_wait('delta', '30s')});
succeeds("SELECT replica_create('kept', 'k8s', $options)", 'kept', 'a replica to be dropped');
succeeds(q{SELECT replica_attach('two', 'alpha', '{"type": "instance", "instance": "alpha-2"}')}, 'two', 'an instance to be promoted');
$kube->patch_spec('orders', 'delta', replica => { primary => 'gamma', source => 'gamma', promotionToken => undef });
$kube->patch_spec('orders-east', 'gamma', replica => { primary => 'gamma' });
succeeds(q{SELECT replica_attach('delta', 'west', '{"distributed": true}')}, 'delta', 'a Cluster to change roles');
wait_until(sub { my $s = $kube->cluster('orders-east', 'gamma')->{status}; $s->{instancesReportedState}{ $s->{currentPrimary} }{isPrimary} }, 'gamma is the primary');
wait_until(sub { my $s = $kube->cluster('orders', 'delta')->{status}; !$s->{switchReplicaClusterStatus}{inProgress} && !$s->{instancesReportedState}{ $s->{currentPrimary} }{isPrimary} }, 'delta is a replica');

my $create = "SELECT status, coalesce(detail, ''), coalesce(hint, '') FROM replica_explain('create', 'new', 'k8s', $options) WHERE status = 'blocked'";
my $promote = q{SELECT status, coalesce(detail, ''), coalesce(hint, '') FROM replica_explain('promote', '%s') WHERE status = 'blocked'};
my $drop = q{SELECT status, coalesce(detail, ''), coalesce(hint, '') FROM replica_explain('drop', 'kept') WHERE status = 'blocked'};
my $monitor = q{SELECT string_agg(detail->>'hint', '') FROM replica_events WHERE kind LIKE '%watch%'};
my %fails = (
	'0 postgresql.cnpg.io clusters get' => $create,
	'0 postgresql.cnpg.io clusters create' => $create,
	'0 postgresql.cnpg.io clusters patch' => sprintf($promote, 'delta'),
	'0 postgresql.cnpg.io clusters delete' => $drop,
	'0 postgresql.cnpg.io clusters/status patch' => sprintf($promote, 'two'),
	'0  pods get' => sprintf($promote, 'two'),
	'0  secrets create' => $create,
	'0  secrets delete' => $create,
	'1 postgresql.cnpg.io clusters get' => sprintf($promote, 'delta'),
	'1 postgresql.cnpg.io clusters patch' => sprintf($promote, 'delta'));
for my $rule (@rules)
{
	my ($i, $group, $resource, $verb, $less) = @$rule;
	my $key = "$i $group $resource $verb";
	next if $verb eq 'list';
	allow(manifest('less.yaml', map { $_ == $i ? $less : $documents[$_] } 0 .. $#documents));
	my $said = sql($fails{$key} // die "no test without $key");
	my $quoted = $group eq '' ? '""' : $group;
	my $namespace = $i ? 'orders-east' : 'orders';
	like($said, qr/Add the rule \{apiGroups: \[\Q$quoted\E\], resources: \[\Q$resource\E\], verbs: \[$verb\]\} to the role of that account in namespace "$namespace"/,
		"without $verb $resource" . ($i ? ' of the source' : ''));
}
my ($list) = grep { $_->[3] eq 'list' } @rules;
allow(manifest('less.yaml', $list->[4], $documents[1]));
wait_for($primary, q{SELECT count(*) > 0 FROM replica_status WHERE message ~ 'list Clusters'}, 60);
pass('without list the monitor says what it may not');

# ---- nothing is half made: what cannot be undone is not begun ----

allow(manifest('less.yaml', (grep { $_->[2] eq 'secrets' && $_->[3] eq 'delete' } @rules)[0][4], $documents[1]));
sql("SELECT replica_create('new', 'k8s', $options)");
my (undef, undef, $err) = $primary->psql('postgres', "SELECT replica_wait('new', '30s')");
like($err, qr/does not allow: delete a Secret \(dry run\)/, 'a create that could not be undone is refused');
is($kube->cluster('orders', 'new')->{reason} . ' ' . scalar @{ $kube->kube('GET', '/api/v1/namespaces/orders/secrets')->{items} }, 'NotFound 1', 'before it makes anything');
allow($all);
no_orphans_ok($primary);

unlike(slurp_file($primary->logfile), qr/never-shown|robot/, 'no secret in the log');
$primary->stop;
done_testing();
