# 116_patroni_standby.pl
#	  A Patroni standby cluster, whose source's writes are stopped by SQL and
#	  which is promoted by its configuration; and a server that runs under
#	  Patroni itself.

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;
use Patroni;

plan skip_all => 'missing: ' . Patroni::missing() if Patroni::missing();

my $main = Patroni->new(1, scope => 'main', parameters => "shared_preload_libraries: replica_ctl, replica_ctl.database: postgres, max_worker_processes: 20");
$main->start;
my $port = $main->{nodes}{p1}{port};
my $dr = Patroni->new(1, scope => 'dr', etcd => $main->{etcd}, config => "    standby_cluster: {host: 127.0.0.1, port: $port}");
$dr->start;
is($dr->members->{p1}{role}, 'standby_leader', 'a standby cluster');

my $control = new_primary('control');
sub sql { return $control->safe_psql('postgres', $_[0]) }

sub outcome
{
	my ($operation) = @_;
	wait_operation($control, $operation, 120);
	return sql("SELECT concat_ws('|', state, step, message, detail, hint) FROM replica_operations WHERE operation = $operation");
}

# --------------------------------------------------------------------------
note 'a standby cluster';
# --------------------------------------------------------------------------
sql(qq{CREATE SERVER dr FOREIGN DATA WRAPPER replica_patroni OPTIONS (urls '@{[ $dr->urls ]}');
	CREATE USER MAPPING FOR CURRENT_USER SERVER dr OPTIONS ("user" 'rest', password 'open-sesame', source_password 'super-pass')});
like(outcome(sql(q{SELECT replica_attach('dr', 'dr', '{"member": "p1"}')})), qr/^succeeded/, 'attach its leader');
like(outcome(sql(q{SELECT replica_promote('dr')})), qr/^failed\|check\|writes on the source of replica "dr" cannot be stopped/, 'Patroni does not stop its source');
sql(qq{ALTER SERVER dr OPTIONS (ADD source_conninfo 'host=127.0.0.1 port=$port user=postgres dbname=postgres')});
like(sql(q{SELECT detail FROM replica_explain('promote', 'dr') WHERE name = 'promote'}), qr/PATCH \/config \{"standby_cluster": null\}/, 'the call that would be made');
is($main->sql('p1', 'CREATE TABLE t AS SELECT 1 AS i'), '', 'a table');
like(outcome(sql(q{SELECT replica_promote('dr', timeout => '60s')})), qr/^succeeded/, 'promoted');
is($dr->members->{p1}{role}, 'leader', 'it leads a cluster of its own');
is($dr->sql('p1', 'SELECT i FROM t'), '1', 'with the data');
is($dr->sql('p1', 'INSERT INTO t VALUES (2) RETURNING i'), '2', 'and takes writes');
like($main->sql('p1', 'INSERT INTO t VALUES (3)'), qr/read-only/, 'its source does not');
$main->sql('p1', "BEGIN READ WRITE; ALTER DATABASE $_ RESET default_transaction_read_only; COMMIT") for qw(postgres template1);

# --------------------------------------------------------------------------
note 'a server that Patroni runs';
# --------------------------------------------------------------------------
is($main->sql('p1', 'CREATE EXTENSION replica_ctl'), '', 'the extension there');
my $directory = PostgreSQL::Test::Utils::tempdir() . '/replica';
like($main->sql('p1', "SELECT replica_create('r1', options => '{\"data_directory\": \"$directory\"}')"), qr/^\d+$/, 'a local replica');
is($main->sql('p1', q{SELECT replica_wait('r1', '60s')}), 'succeeded', 'can be made');
like($main->sql('p1', q{SELECT status, detail, hint FROM replica_explain('promote', 'r1') WHERE name = 'patroni'}),
	qr/^blocked\|this server is run by Patroni\..*replica_patroni/, 'but not promoted');
like($main->sql('p1', q{SELECT status FROM replica_explain('switchover', 'r1') WHERE name = 'patroni'}), qr/^blocked/, 'nor switched over to');
like($main->sql('p1', q{SELECT replica_promote('r1')}), qr/^\d+$/, 'asked for nevertheless');
like($main->sql('p1', q{SELECT replica_wait('r1', '60s')}), qr/this server is run by Patroni/, 'it is refused');
is($main->leader, 'p1', 'the leader leads');
like($main->sql('p1', q{SELECT replica_drop('r1')}), qr/^\d+$/, 'a drop');
is($main->sql('p1', q{SELECT replica_wait('r1', '60s')}), 'succeeded', 'of the replica');

done_testing();
