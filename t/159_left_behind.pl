# 159_left_behind.pl
#	  A replica that had more than the one that was promoted: the new primary
#	  brings it back, and takes what it had more.

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;

my $primary = new_primary('main', initdb => ['--data-checksums'], conf => "wal_keep_size = 64MB\nautovacuum = off");
my $dir = replica_dir($primary);
chomp(my $bindir = `pg_config --bindir`);

sub sql { return $primary->safe_psql('postgres', $_[0]) }

sql('CREATE TABLE t AS SELECT g AS id, md5(g::text) AS text FROM generate_series(1, 20000) g');
for my $name (qw(r1 r2))
{
	is(wait_operation($primary, sql("SELECT replica_create('$name', options => '{\"method\": \"copy\"}')")), 'succeeded', "$name is made");
}
my $r1 = server_of($primary, 'r1');
my $r2 = server_of($primary, 'r2');

# r2 gets no more, and r1 does
ask($r2, q{ALTER SYSTEM SET primary_conninfo = ''});
ask($r2, 'SELECT pg_reload_conf()');
wait_for($primary, q{SELECT count(*) = 0 FROM pg_stat_replication WHERE application_name = 'replica_ctl_r2'});
sql(q{UPDATE t SET text = 'lost' WHERE id % 100 = 1; CREATE TABLE lost ();});
my $lsn = sql('SELECT pg_current_wal_flush_lsn()');
wait_ask($r1, "SELECT pg_last_wal_replay_lsn() >= '$lsn'");
$primary->stop('immediate');
system_or_bail("$bindir/pg_ctl", '-D', "$dir/r2", '-w', '-s', 'promote');
wait_ask($r2, 'SELECT NOT pg_is_in_recovery()');
ask($r2, q{UPDATE t SET text = 'new' WHERE id % 100 = 2});
like(ask($r2, q{SELECT replica_claim()}), qr/^(?!ERROR)/, 'it takes the place of the old primary');
my $operation = ask($r2, q{SELECT replica_repair('r1')});
like($operation, qr/^\d+$/, 'a repair is asked for') or BAIL_OUT($operation);
wait_ask($r2, "SELECT state NOT IN ('queued', 'running') FROM replica_operations WHERE operation = $operation", 100);
is(ask($r2, "SELECT state || ' ' || concat_ws('/', message, detail, hint) FROM replica_operations WHERE operation = $operation"),
	'succeeded ', 'the other one is brought back');
is(ask($r2, "SELECT string_agg(kind, ' ' ORDER BY event) FROM replica_events WHERE operation = $operation
	AND kind IN ('repair_rewind', 'repair_no_rewind', 'repair_resync', 'rewound', 'resynced', 'copied')"),
	'repair_rewind rewound', 'by pg_rewind');
note(ask($r2, "SELECT message FROM replica_events WHERE operation = $operation AND kind = 'repair_clone'"));
$lsn = ask($r2, 'SELECT pg_current_wal_flush_lsn()');
wait_ask($r1, "SELECT pg_last_wal_replay_lsn() >= '$lsn'");
my $sum = 'SELECT count(*), sum(hashtext(t::text)), (SELECT count(*) FROM pg_class) FROM t';
is(ask($r1, $sum), ask($r2, $sum), 'the data are the same');
is(ask($r1, q{SELECT count(*) FROM t WHERE text = 'lost'}), '0', 'what the new primary never had is gone');

done_testing();
