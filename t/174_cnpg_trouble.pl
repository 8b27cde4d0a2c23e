# replica_cnpg: the stories of docs/cnpg.md with their own commands; then
# crashes and other people in the middle of promotions, and what is left.
#
# slow

use strict;
use warnings;
use lib 't';
use FakeKubernetes;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use ReplicaCtl;
use Test::More;

my $east = FakeKubernetes->new('east');
my $west = FakeKubernetes->new('west');
my $primary = new_primary('trouble', conf => "log_statement = none\nreplica_ctl.step_retries = 1\nreplica_ctl.progress_timeout = '60s'");
my $standby = PostgreSQL::Test::Cluster->new('standby');
sub sql { return $primary->safe_psql('postgres', shift); }
sub outcome { my ($replica) = @_; my (undef, $out, $err) = $primary->psql('postgres', "SELECT replica_wait('$replica', '90s')"); return "$out$err"; }
sub last_of { my ($column) = @_; return sql("SELECT $column FROM replica_operations ORDER BY operation DESC LIMIT 1"); }
sub is_primary { my ($fake, $ns, $name) = @_; my $s = $fake->cluster($ns, $name)->{status}; return $s->{instancesReportedState}{ $s->{currentPrimary} }{isPrimary} ? 1 : 0; }

# ---- the story of two Kubernetes clusters, as the page tells it ----

my $page = slurp_file('docs/cnpg.md');
my ($story) = $page =~ /^## Two Clusters that change roles\n(.*?)^## /ms;
my @sql = $story =~ /^```sql\n(.*?)^```/gms;
is(scalar @sql, 4, 'servers, replica, move, and back');
for my $side ([ east => $east, 'east-account' ], [ west => $west, 'west-account' ])
{
	my ($name, $fake, $token) = @$side;
	my ($url, $ca) = ($fake->url, $fake->ca);
	$fake->tokens($token);
	my $config = $fake->file('kubeconfig', <<"END");
{current-context: c, contexts: [{name: c, context: {cluster: k, user: u}}],
 clusters: [{name: k, cluster: {server: '$url', certificate-authority: '$ca'}}], users: [{name: u, user: {token: $token}}]}
END
	$sql[0] =~ s{/etc/replica_ctl/$name.kubeconfig}{$config} or die "no kubeconfig of $name";
}
$east->new_cluster('orders-east', 'alpha');
sql('CREATE ROLE dba');
sql($sql[0]);
sql($sql[1]);
like(outcome('beta'), qr/^succeeded/, 'the replica of the page');
my ($patch) = $story =~ /patch clusters.postgresql.cnpg.io alpha --type merge -p '(.*?)'\n/s;
SKIP:
{
	if (system('command -v kubectl >/dev/null') == 0)
	{
		like($east->kubectl('east-account', '-n', 'orders-east', 'patch', 'clusters.postgresql.cnpg.io', 'alpha', '--type', 'merge', '-p', $patch),
			qr/alpha patched/, 'its kubectl patch');
		last SKIP;
	}
	$east->kube('PATCH', $east->clusters('orders-east') . '/alpha', decode_json($patch));
	skip 'there is no kubectl', 1;
}
sql($sql[2]);
is(last_of('state') . ' ' . is_primary($west, 'orders-west', 'beta'), 'succeeded 1', 'its move') or diag last_of('message');
sql($sql[3] =~ s/(SELECT replica_(?:detach|attach)\('(\w+)'.*?\);)/$1 SELECT replica_wait('$2');/gr);
like(outcome('alpha'), qr/^succeeded/, 'and back');
is(is_primary($east, 'orders-east', 'alpha') . is_primary($west, 'orders-west', 'beta'), '10', 'the roles are those of the beginning');

# ---- this server crashes between the demotion and the token ----

sql(q{SELECT replica_detach('alpha'); SELECT replica_wait('alpha')});
sql(q{SELECT replica_attach('beta', 'west', '{"distributed": true}'); SELECT replica_wait('beta')});
$east->settings(token => 'never');
sql(q{SELECT replica_promote('beta', source_after => 'standby')});
wait_for($primary, q{SELECT count(*) = 1 FROM replica_ctl.cleanup WHERE type = 'demotion'});
wait_until(sub { ($east->cluster('orders-east', 'alpha')->{spec}{replica}{primary} // '') eq 'beta' }, 'the demotion');
crash($primary);
$east->settings(token => 'right');
$primary->start;
like(outcome('beta'), qr/^succeeded/, 'after a crash it goes on with the token');
is($west->cluster('orders-west', 'beta')->{status}{lastPromotionToken}, $east->cluster('orders-east', 'alpha')->{status}{demotionToken}, '... of that demotion');
is($east->asked(qr{^PATCH .*alpha\?fieldValidation=Strict 200}), 3, 'and each change was made once');
is(sql(q{SELECT count(*) FROM replica_ctl.cleanup}), 0, 'no record is left');

# ---- the source is out of reach when the demotion is to be undone: it is recorded, and told ----

sub change_back
{
	sql(q{SELECT replica_detach('beta'); SELECT replica_wait('beta')});
	sql(q{SELECT replica_attach('alpha', 'east', '{"distributed": true}'); SELECT replica_wait('alpha')});
	sql(q{SELECT replica_promote('alpha', source_after => 'standby')});
	wait_for($primary, q{SELECT state = 'succeeded' FROM replica_operations WHERE replica = 'alpha' ORDER BY operation DESC LIMIT 1}, 60);
	sql(q{SELECT replica_detach('alpha'); SELECT replica_wait('alpha')});
	sql(q{SELECT replica_attach('beta', 'west', '{"distributed": true}'); SELECT replica_wait('beta')});
	return is(is_primary($east, 'orders-east', 'alpha'), 1, 'moved back');
}
set_fault($primary, 'promote.promote.after=crash*1');
change_back();
set_fault($primary, '');
is(sql(q{SELECT max(s.attempt) FROM replica_ctl.operation_step s JOIN replica_operations o ON o.operation = s.operation_id
	WHERE o.replica = 'alpha' AND s.step = 'promote' AND o.kind = 'promote'}), 2, 'with a crash when the replica had been promoted');
sql(q{ALTER SYSTEM SET replica_ctl.step_retries = 0}); $primary->reload;
sub fail_undo
{
	$west->faults({ match => '^PATCH .*beta\?fieldValidation=Strict$', status => 403, message => 'not today' });
	# the undo's patch, which alone does not say who the Cluster itself is
	$east->faults({ match => '^PATCH .*alpha\?fieldValidation=Strict$', body => '"replica":\{"primary"', times => 99, status => 401 });
	sql(q{SELECT replica_promote('beta', source_after => 'standby')});
	my $said = outcome('beta');
	$_->faults for $east, $west;
	return $said;
}
like(fail_undo(), qr/not today.*Undo failed: Kubernetes \(server "east", namespace "orders-east"\) does not accept our login.*replica_promote\('beta', .* goes on; to go back, run kubectl.*Not removed: demotion \{.*"alpha"/s, 'an undo that is refused is told');
is(last_of('state'), 'needs_attention', 'for a person');
my $explain = sql(q{SELECT string_agg(status || ' ' || name || ' ' || coalesce(detail, ''), E'\n') FROM replica_explain('promote', 'beta')});
like($explain, qr/^warning topology .*"alpha" has been demoted already/m, 'explain sees how far it got');
sql(q{SELECT replica_promote('beta', source_after => 'standby')});
like(outcome('beta'), qr/^succeeded/, 'and the next promotion goes on from there');
is($east->cluster('orders-east', 'alpha')->{spec}{replica}{primary}, 'beta', 'forward, not back');
change_back();
like(fail_undo(), qr/Undo failed/, 'once more');
is(is_primary($east, 'orders-east', 'alpha'), 0, 'nobody is a primary');
sql(q{SELECT replica_drop('beta', force => true)});
like(outcome('beta'), qr/^succeeded/, 'dropping the replica takes back what was left, too');
is(is_primary($east, 'orders-east', 'alpha') . ' ' . $west->cluster('orders-west', 'beta')->{reason}, '1 NotFound', 'the source is the primary again');
sql(q{ALTER SYSTEM RESET replica_ctl.step_retries}); $primary->reload;
sql($sql[1]);
like(outcome('beta'), qr/^succeeded/, 'another replica');

# ---- somebody else ----

$east->settings(token => 'never');
sql(q{SELECT replica_promote('beta', source_after => 'standby')});
wait_until(sub { $east->cluster('orders-east', 'alpha')->{status}{switchReplicaClusterStatus}{inProgress} }, 'the demotion');
$east->control('/patch', { kind => 'clusters', name => 'alpha', patch => { spec => { replica => { primary => 'alpha' } },
	status => { switchReplicaClusterStatus => { inProgress => JSON::PP::false } } } });
like(outcome('beta'), qr/somebody else changes the role of Cluster "alpha"/, 'the source is made a primary by somebody else');
is(last_of('state') . is_primary($east, 'orders-east', 'alpha'), 'failed1', 'nothing is half done');
$east->settings(token => 'right');

$west->control('/delete', { kind => 'clusters', name => 'beta' });
$west->new_cluster('orders-west', 'beta');
sql(q{SELECT replica_promote('beta', source_after => 'standby')});
like(outcome('beta'), qr/Cluster of replica "beta" is gone.*another one of its name/s, 'another Cluster of its name is not promoted');
is($east->cluster('orders-east', 'alpha')->{spec}{replica}{primary}, 'alpha', 'and nothing is demoted for it');
sql(q{SELECT replica_detach('beta'); SELECT replica_wait('beta')});

# ---- two Clusters of one name, told apart by spec.replica.self ----

$east->new_cluster('one', 'orders', externalClusters => $east->external('orders-1', 'orders-2'), replica => { self => 'orders-1', primary => 'orders-1', source => 'orders-2' });
$east->new_cluster('two', 'orders', externalClusters => $east->external('orders-1', 'orders-2'),
	bootstrap => { pg_basebackup => { source => 'orders-1' } }, replica => { self => 'orders-2', primary => 'orders-1', source => 'orders-1' });
my ($url, $ca) = ($east->url, $east->ca);
sql(qq{CREATE SERVER two FOREIGN DATA WRAPPER replica_cnpg OPTIONS (api_server '$url', ca_file '$ca', namespace 'two', cluster 'orders', source_namespace 'one');
	CREATE USER MAPPING FOR CURRENT_USER SERVER two OPTIONS (token 'east-account', replication_password 'of-no-use');
	SELECT replica_attach('orders', 'two', '{"distributed": true}')});
like(outcome('orders'), qr/^succeeded/, 'a Cluster with the name of its source');
sql(q{SELECT replica_promote('orders', source_after => 'standby')});
like(outcome('orders'), qr/^succeeded/, 'changes roles with it');
is($east->cluster('one', 'orders')->{spec}{replica}{primary} . ' ' . $east->cluster('two', 'orders')->{spec}{replica}{source}, 'orders-2 orders-1', 'by the names of the topology');
sql(q{SELECT replica_create('orders-3', 'two', '{"storage_size": "1Gi", "distributed": true, "cluster_name": "orders"}')});
like(outcome('orders-3'), qr/exists already in namespace "two"|cannot be called/, 'a name that is taken');

# ---- an instance: the operator does nothing, or somebody else is quicker ----

sql(qq{CREATE SERVER alpha FOREIGN DATA WRAPPER replica_cnpg OPTIONS (api_server '$url', ca_file '$ca', namespace 'orders-east', cluster 'alpha');
	CREATE USER MAPPING FOR CURRENT_USER SERVER alpha OPTIONS (token 'east-account');
	SELECT replica_attach('a2', 'alpha', '{"type": "instance", "instance": "alpha-2"}')});
like(outcome('a2'), qr/^succeeded/, 'an instance is attached');
$east->faults({ match => '^PATCH .*alpha/status$', status => 409, reason => 'Conflict' }, { match => '^PATCH .*alpha/status$', status => 500, message => 'failed calling webhook' });
sql(q{SELECT replica_promote('a2', source_after => 'standby')});
like(outcome('a2'), qr/^succeeded/, 'promoted, after a conflict and a webhook that failed');
sql(q{SELECT replica_detach('a2'); SELECT replica_wait('a2')});
sql(q{SELECT replica_attach('a1', 'alpha', '{"type": "instance", "instance": "alpha-1"}'); SELECT replica_wait('a1')});
$east->settings(stuck => ['alpha']);
sql(q{ALTER SYSTEM SET replica_ctl.progress_timeout = '3s'; ALTER SYSTEM SET replica_ctl.step_retries = 0}); $primary->reload;
sql(q{SELECT replica_promote('a1', source_after => 'standby')});
like(outcome('a1'), qr/made no progress/, 'an operator that does nothing is waited for as long as progress_timeout');
like(last_of(q{state || ' ' || hint}), qr/^needs_attention .*progress_timeout/, 'and then it is for a person');
$east->settings(stuck => []);
sql(q{ALTER SYSTEM RESET ALL}); $primary->reload;
sql(q{SELECT replica_promote('a1', source_after => 'standby')});
like(outcome('a1'), qr/^succeeded/, 'calling again goes on');

# ---- a promotion of what follows this server is refused: writes go on ----

$primary->backup('b');
$standby->init_from_backup($primary, 'b', has_streaming => 1);
$standby->start;
my $system = sql('SELECT system_identifier FROM pg_control_system()');
$west->settings(system_id => $system);
my $conninfo = 'host=' . $standby->host . ' port=' . $standby->port . ' dbname=postgres';
($url, $ca) = ($west->url, $west->ca);
$west->new_cluster('orders-west', 'here', externalClusters => $west->external('source'), bootstrap => { pg_basebackup => { source => 'source' } },
	replica => { enabled => JSON::PP::true, source => 'source' });
sql(qq{CREATE SERVER plain FOREIGN DATA WRAPPER replica_cnpg OPTIONS (api_server '$url', ca_file '$ca', namespace 'orders-west');
	CREATE USER MAPPING FOR CURRENT_USER SERVER plain OPTIONS (token 'west-account');
	SELECT replica_attach('here', 'plain', '@{[ encode_json({ conninfo => $conninfo }) ]}')});
like(outcome('here'), qr/^succeeded/, 'a standalone Cluster is attached');
$west->faults({ match => '^PATCH .*here\?fieldValidation=Strict$', times => 9, status => 422, message => 'admission webhook "vcluster.cnpg.io" denied the request: no' });
sql(q{SELECT replica_promote('here')});
like(outcome('here'), qr/refused: promote Cluster "here".*denied the request: no/s, 'the operator refuses to promote it');
is(last_of('state'), 'failed', 'that is undone');
is(sql('CREATE TABLE t AS SELECT 1 AS i; SELECT i FROM t'), '1', 'and this server takes writes');
$west->faults;
$west->settings(on_promote => { here => [ $standby->config_data('--bindir') . '/pg_ctl', 'promote', '-w', '-D', $standby->data_dir ] });
$west->faults({ match => '^PATCH .*here\?fieldValidation=Strict$', lost => JSON::PP::true });
sql(q{SELECT replica_promote('here')});
like(outcome('here'), qr/^succeeded/, 'promoted, although the answer was lost');
is($standby->safe_psql('postgres', 'SELECT i FROM t WHERE NOT pg_is_in_recovery()'), '1', 'with everything');
sql('SELECT replica_unfence()');

my $log = slurp_file($primary->logfile);
my $rows = join '', map { sql("SELECT string_agg(t::text, '') FROM $_ t") } qw(replica_operations replica_events replica_ctl.replica replica_ctl.operation);
unlike($log . $rows, qr/(east|west)-account|of-no-use/, 'no secret in log and tables') or diag(grep { /(east|west)-account|of-no-use/ } split /\n/, $log);
$standby->stop;
$primary->stop;
done_testing();
