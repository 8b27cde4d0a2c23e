# The fence and processes without a client: background workers, autovacuum,
# subscriptions.

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = new_primary('workers', conf => join("\n",
	'wal_level = logical',
	'max_prepared_transactions = 10',
	'autovacuum = off',
	'autovacuum_naptime = 1s',
	'autovacuum_analyze_threshold = 10',
	'autovacuum_vacuum_threshold = 10',
	'wal_retrieve_retry_interval = 200ms'));
my $publisher = PostgreSQL::Test::Cluster->new('publisher');
$publisher->init(allows_streaming => 'logical');
$publisher->append_conf('postgresql.conf', "max_prepared_transactions = 10\nautovacuum = off");
$publisher->start;

$node->safe_psql('postgres', q{
	CREATE EXTENSION pg_walinspect;
	CREATE TABLE t (v int);
	CREATE TABLE a (v int);
	INSERT INTO a SELECT generate_series(1, 1000);
	CREATE FUNCTION background(text, boolean) RETURNS void AS '$libdir/replica_ctl', 'rctl_test_background_sql' LANGUAGE C;
	CREATE FUNCTION raise_as(bigint) RETURNS pg_lsn AS '$libdir/replica_ctl', 'rctl_test_fence_raise' LANGUAGE C;
	CREATE FUNCTION promoted(bigint, text, text) RETURNS void AS '$libdir/replica_ctl', 'rctl_test_fence_promoted' LANGUAGE C;
});

sub wait_held
{
	my ($count) = @_;
	return wait_for($node, "SELECT held >= $count FROM replica_ctl.fence()");
}

sub rows
{
	my ($where) = @_;
	return $node->safe_psql('postgres', "SELECT count(*) FROM t WHERE $where");
}

# The end of the log since the last call.
my $log_position = 0;
sub new_log
{
	my $log = slurp_file($node->logfile);
	my $new = substr($log, $log_position);
	$log_position = length $log;
	return $new;
}

# ---- Background workers, as those of pg_cron

$node->safe_psql('postgres', q{SELECT replica_fence('test')});
$node->safe_psql('postgres', q{SELECT background('INSERT INTO t VALUES (1)', false)});
wait_held(1);
is(rows('v = 1'), 0, 'a background worker is held');
$node->safe_psql('postgres', 'SELECT replica_unfence()');
wait_for($node, 'SELECT count(*) = 1 FROM t WHERE v = 1');
pass('and goes on');
$node->safe_psql('postgres', q{ALTER SYSTEM SET replica_ctl.fence_action = 'error'});
$node->reload;
$node->safe_psql('postgres', q{SELECT replica_fence('test')});
$node->safe_psql('postgres', q{SELECT background('INSERT INTO t VALUES (2)', false)});
wait_until(sub { new_log() =~ /ERROR:  cannot execute INSERT while this server is fenced/ }, 'the error of a worker');
pass('or fails, as fence_action says');
$node->safe_psql('postgres', q{SELECT background('INSERT INTO t VALUES (3)', true)});
wait_for($node, 'SELECT count(*) = 1 FROM t WHERE v = 3');
pass('our own workers can write their notes');
like(psql_error($node, 'INSERT INTO t VALUES (4)'), qr/25006/, 'and nobody else');
$node->safe_psql('postgres', 'SELECT replica_unfence()');
is(rows('v = 2'), 0, 'what failed was not written');

# ---- Autovacuum

new_log();
$node->safe_psql('postgres', 'DELETE FROM a WHERE v > 500');
my $lsn = $node->safe_psql('postgres', q{SELECT replica_fence('test')});
$node->safe_psql('postgres', 'ALTER SYSTEM SET autovacuum = on');
$node->reload;
wait_for($node, q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' AND wait_event_type = 'Extension'});
pass('an autovacuum worker waits, even with fence_action = error');
sleep 1.5;
unlike(new_log(), qr/ERROR/, 'and fills no log');
my $now = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
$node->safe_psql('postgres', 'SELECT replica_unfence()');
wait_for($node, q{SELECT last_autoanalyze IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'a'});
pass('it goes on');
wait_for($node, "SELECT pg_current_wal_flush_lsn() >= '$now'");
is($node->safe_psql('postgres', qq{SELECT count(*) FROM pg_get_wal_records_info('$lsn', '$now')
	WHERE resource_manager = 'Transaction' AND record_type LIKE 'COMMIT%'}), 0, 'and has committed nothing behind the fence')
  if $now ne $lsn;

# ---- A foreign-data wrapper commits on the remote side first

$publisher->safe_psql('postgres', 'CREATE TABLE remote (v int)');
$node->safe_psql('postgres', sprintf(q{
	CREATE EXTENSION postgres_fdw;
	CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '%s', port '%s', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER other;
	CREATE FOREIGN TABLE remote (v int) SERVER other;
}, $publisher->host, $publisher->port));
my $both = $node->background_psql('postgres', on_error_stop => 0);
$both->query('BEGIN; INSERT INTO remote VALUES (1); INSERT INTO t VALUES (50)');
$node->safe_psql('postgres', q{SELECT replica_fence('test')});
$both->query('COMMIT');
like($both->{stderr}, qr/cannot execute COMMIT while this server is fenced/, 'a transaction that has written on two servers is stopped');
is($publisher->safe_psql('postgres', 'SELECT count(*) FROM remote'), 0, 'before it is committed on the other one');
$node->safe_psql('postgres', 'SELECT replica_unfence()');
$both->quit;

# ---- Subscriptions

$publisher->safe_psql('postgres', 'CREATE TABLE t (v int); CREATE PUBLICATION p FOR TABLE t');
my $connection = $publisher->connstr('postgres') =~ s/'/''/gr;
$node->safe_psql('postgres', qq{
	CREATE SUBSCRIPTION plain CONNECTION '$connection' PUBLICATION p WITH (slot_name = 'plain');
});
$node->wait_for_subscription_sync($publisher, 'plain');
$publisher->safe_psql('postgres', 'INSERT INTO t VALUES (101)');
wait_for($node, 'SELECT count(*) = 1 FROM t WHERE v = 101');

new_log();
$node->safe_psql('postgres', q{SELECT replica_fence('test')});
$publisher->safe_psql('postgres', 'INSERT INTO t VALUES (102)');
wait_held(1);
sleep 1;
is(rows('v = 102'), 0, q{a subscription's worker waits, even with fence_action = error});
unlike(new_log(), qr/ERROR/, 'and fills no log');
$node->safe_psql('postgres', 'SELECT replica_unfence()');
wait_for($node, 'SELECT count(*) = 1 FROM t WHERE v = 102');
pass('it goes on');
$node->safe_psql('postgres', 'DROP SUBSCRIPTION plain');

# COMMIT PREPARED arrives from the publisher, and passes no hook of ours.
$node->safe_psql('postgres', qq{
	CREATE SUBSCRIPTION two CONNECTION '$connection' PUBLICATION p WITH (slot_name = 'two', two_phase = on, copy_data = off);
});
wait_for($node, q{SELECT subtwophasestate = 'e' FROM pg_subscription WHERE subname = 'two'});
$publisher->safe_psql('postgres', q{BEGIN; INSERT INTO t VALUES (103); PREPARE TRANSACTION 'p'});
wait_for($node, 'SELECT count(*) = 1 FROM pg_prepared_xacts');
$node->safe_psql('postgres', q{SELECT replica_fence('test')});
$publisher->safe_psql('postgres', q{COMMIT PREPARED 'p'});
wait_held(1);
sleep 1;
is(rows('v = 103'), 0, 'COMMIT PREPARED of a subscription waits');
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), 1, 'prepared it is');
$node->safe_psql('postgres', 'SELECT replica_unfence()');
wait_for($node, 'SELECT count(*) = 1 FROM t WHERE v = 103');
pass('it goes on');

# The new primary has the same subscription, and needs its slot.
$node->safe_psql('postgres', 'DROP SUBSCRIPTION two');
$node->safe_psql('postgres', qq{
	CREATE SUBSCRIPTION shared CONNECTION '$connection' PUBLICATION p WITH (slot_name = 'shared', copy_data = off);
});
wait_for($publisher, q{SELECT active FROM pg_replication_slots WHERE slot_name = 'shared'});
$node->safe_psql('postgres', q{SELECT raise_as(5)});
$node->safe_psql('postgres', q{SELECT promoted(5, 'r1', 'db2:5433')});
wait_for($publisher, q{SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'shared'});
wait_held(1);
sleep 1;
is($publisher->safe_psql('postgres', q{SELECT active FROM pg_replication_slots WHERE slot_name = 'shared'}), 'f',
	'after a promotion the slot is free for the new primary');
$publisher->safe_psql('postgres', 'INSERT INTO t VALUES (104)');
is(rows('v = 104'), 0, 'and nothing is applied');
$node->safe_psql('postgres', 'SELECT replica_unfence()');
wait_for($node, 'SELECT count(*) = 1 FROM t WHERE v = 104');
pass('it goes on if this server is unfenced all the same');
$node->stop;
$publisher->stop;

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
