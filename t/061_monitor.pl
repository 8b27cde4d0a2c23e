# The monitor: slots and their verdicts, the forecast, the metrics and their
# history, many slots and replicas, restarts, a system clock that steps back.

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $standby = PostgreSQL::Test::Cluster->new('standby');
my $primary = new_primary('monitor', start => 0, conf => <<"END");
autovacuum = off
max_replication_slots = 220
max_wal_size = 1GB
min_wal_size = 64MB
END
start_with_clock($primary, 0);
sub sql { return $primary->safe_psql('postgres', shift); }

sql('CREATE EXTENSION replica_ctl; CREATE TABLE t (i int, x text)');
wait_for($primary, q{SELECT count(*) = 1 FROM replica_wal_usage});

# ---- settings ----

like(psql_error($primary, "ALTER SYSTEM SET replica_ctl.sample_interval = $_->[1]"),
	qr/is outside the valid range/, "sample_interval = $_->[1] is refused")
  for [ zero => 0 ], [ day => q('1d') ];
like(psql_error($primary, 'ALTER SYSTEM SET replica_ctl.history_size = 5'),
	qr/is outside the valid range/, 'history_size = 5 is refused');

# ---- this server ----

my $files = grep { /[0-9A-F]{24}$/ } glob($primary->data_dir . '/pg_wal/*');
is(sql('SELECT wal_segments, wal_bytes FROM replica_wal_usage'), "$files|" . $files * 16777216,
	'the size of pg_wal is that of its files');
is(sql(q{SELECT string_agg(metric || ' ' || unit, ', ' ORDER BY metric) FROM replica_metrics WHERE value IS NOT NULL}),
	'FreeStorageSpace Bytes, OldestReplicationSlotLag Megabytes, TransactionLogsDiskUsage Megabytes',
	'metrics and units');
my ($free) = (qx(df -Pk '@{[ $primary->data_dir ]}') =~ /\s(\d+)\s+\d+%/);
cmp_ok(abs(sql(q{SELECT free_bytes FROM replica_wal_usage}) / ($free * 1024) - 1), '<', 0.05, 'free space as df says');

# ---- the slots' verdicts ----

sql(q{SELECT pg_create_physical_replication_slot('stuck', true)});
sql(q{SELECT pg_create_physical_replication_slot('unused')});
sql('INSERT INTO t SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 20000) i');
is(sql(q{SELECT owned, active, verdict, retained_bytes > 10000000, replica IS NULL FROM replica_slots WHERE slot_name = 'stuck'}),
	'f|f|ok|t|t', 'a slot that is not ours, within bounds');
is(sql(q{SELECT wal_status IS NULL, restart_lsn IS NULL, retained_bytes IS NULL, verdict FROM replica_slots WHERE slot_name = 'unused'}),
	't|t|t|ok', 'a slot that was never used reserves nothing');
wait_for($primary, q{SELECT held_by = 'slot "stuck"' AND held_bytes > 10000000 FROM replica_wal_usage});
pass('the slot that keeps the oldest WAL is named');
wait_for($primary, q{SELECT inactive_since > now() - interval '1 minute' FROM replica_slots WHERE slot_name = 'stuck'});

sql(q{ALTER SYSTEM SET replica_ctl.slot_wal_limit = '20MB'; ALTER SYSTEM SET replica_ctl.slot_inactive_limit = '1s'; SELECT pg_reload_conf()});
wait_for($primary, q{SELECT verdict = 'critical' FROM replica_slots WHERE slot_name = 'stuck'});
wait_for($primary, q{SELECT verdict = 'warning' FROM replica_slots WHERE slot_name = 'unused'});
like(sql(q{SELECT advice FROM replica_slots WHERE slot_name = 'stuck'}),
	qr/slot_wal_limit: SELECT pg_drop_replication_slot\('stuck'\);$/, 'the advice ends with the statement');

sql(q{ALTER SYSTEM RESET replica_ctl.slot_wal_limit; ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'; SELECT pg_reload_conf()});
sql('SELECT pg_switch_wal(); INSERT INTO t SELECT 1; SELECT pg_switch_wal(); INSERT INTO t SELECT 1');
sql('CHECKPOINT');
wait_for($primary, q{SELECT verdict = 'lost' AND wal_status = 'lost' FROM replica_slots WHERE slot_name = 'stuck'});
pass('a slot whose WAL was removed is lost');
my ($statement) = sql(q{SELECT advice FROM replica_slots WHERE slot_name = 'stuck'}) =~ /: (SELECT .*;)$/;
sql($statement);
is(sql(q{SELECT count(*) FROM replica_slots WHERE slot_name = 'stuck'}), 0, 'the advice drops it');
sql(q{SELECT pg_drop_replication_slot('unused'); ALTER SYSTEM RESET max_slot_wal_keep_size;
	ALTER SYSTEM RESET replica_ctl.slot_inactive_limit; SELECT pg_reload_conf()});

# ---- the forecast ----

sql(q{SELECT pg_create_physical_replication_slot('stuck', true)});
my $script = "$ENV{TESTDIR}/load.sql";
open my $out, '>', $script or die "$script: $!";
print $out "INSERT INTO t SELECT 1, repeat('x', 1000) FROM generate_series(1, 200)\n\\watch 0.1\n";
close $out;
my $load = IPC::Run::start(
	[ $primary->installed_command('psql'), '-X', '-q', '-d', $primary->connstr('postgres'), '-f', $script ],
	'<', '/dev/null', '>', '/dev/null', '2>', '/dev/null');
sleep 20;
my ($lsn, $start) = (sql('SELECT pg_current_wal_lsn()'), time);
sleep 20;
my $rate = sql("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '$lsn')") / (time - $start);
my ($wal_rate, $growth, $held) = split /\|/, sql(q{
	SELECT wal_bytes_per_second, growth_bytes_per_second, held_by FROM replica_wal_usage, replica_slots});
cmp_ok(abs($wal_rate / $rate - 1), '<', 0.2, 'a step of the WAL rate shows within a minute') or diag("$wal_rate, $rate");
cmp_ok(abs($growth / $rate - 1), '<', 0.2, 'so does the growth of what a slot keeps') or diag("$growth, $rate");
is($held, 'slot "stuck"', 'the slot holds it');
my ($full, $room) = split /\|/, sql(q{SELECT extract(epoch FROM time_to_full), free_bytes FROM replica_wal_usage});
cmp_ok($full, '<=', 1.2 * $room / $rate, 'the time to full is not longer than what growth and room make');
cmp_ok($full, '>', 0, 'and not nothing');
$load->kill_kill(grace => 1);
sql(q{SELECT pg_drop_replication_slot('stuck')});

# ---- the system's clock steps back ----

$primary->backup('base');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
wait_for($primary, q{SELECT connected AND replay_lag = '0' FROM replica_lag});
my $receiver = $standby->safe_psql('postgres', 'SELECT pid FROM pg_stat_wal_receiver');
kill 'STOP', $receiver;
sql('INSERT INTO t SELECT 1');
my $cut = time;
sleep 3;
shift_clock(-3600);
sleep 3;
my $lag = sql('SELECT extract(epoch FROM replay_lag) FROM replica_lag');
cmp_ok(abs($lag - (time - $cut)), '<', 1.5, 'a step back of the clock changes no lag') or diag($lag);
kill 'CONT', $receiver;
wait_for($primary, q{SELECT connected AND replay_lag = '0' FROM replica_lag});
is(sql(q{SELECT count(*) FROM replica_ctl.standbys() WHERE least(write_lag, flush_lag, replay_lag) < '0'}), 0,
	'no negative lag');
shift_clock(0);

# ---- a standby that preloads the library ----

is(worker_pid($standby, 'replica_ctl'), '', 'no worker runs on a standby');
is($standby->safe_psql('postgres', "SELECT count(*) FROM $_"), 0, "$_ can be read there")
  for qw(replica_lag replica_status replica_wal_usage replica_metrics replica_metrics_history);
$standby->stop;
wait_for($primary, q{SELECT NOT connected AND state = 'disconnected' AND replay_lsn IS NOT NULL
	FROM replica_lag WHERE application_name = 'standby'});
pass('a standby that has gone is shown with what is known of it');

# ---- restarts ----

my $count = sql(q{SELECT count(*) FROM replica_metrics_history});
cmp_ok($count, '>', 100, 'there is a history');
my $oldest = sql('SELECT min(sampled_at) FROM replica_metrics_history');
$primary->restart;
wait_for($primary, q{SELECT count(*) = 1 FROM replica_wal_usage});
is(sql('SELECT min(sampled_at) FROM replica_metrics_history'), $oldest, 'the history survives a restart');
is(sql(q{SELECT count(*) FROM replica_lag WHERE application_name = 'standby'}), 1, 'so does a standby that has gone');
my $old = worker_pid($primary, 'replica_ctl monitor');
sql("SELECT pg_terminate_backend($old)");
wait_for($primary, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'replica_ctl monitor' AND pid <> $old");
is(sql('SELECT min(sampled_at) FROM replica_metrics_history'), $oldest, 'and the end of the monitor');
restart_pid($primary, worker_pid($primary, 'background writer'));
wait_for($primary, q{SELECT count(*) = 1 FROM replica_wal_usage});
isnt(sql('SELECT min(sampled_at) FROM replica_metrics_history'), $oldest, 'a crash loses it, and no more');

# ---- many ----

sql(q{SELECT count(pg_create_physical_replication_slot('s' || i, true)) FROM generate_series(1, 200) i});
sql(q{INSERT INTO replica_ctl.replica (name, server, state, options, facts, created_by, system_identifier, timeline_id, home)
	SELECT 'r' || i, 'local', 'streaming', '{}',
		jsonb_build_object('application_name', 'r' || i, 'slot', 's' || i, 'host', '127.0.0.1', 'port', '1',
			'data_directory', '/nonexistent/r' || i),
		current_user, '', 1, ''
	FROM generate_series(1, 200) i});
is(sql(q{SELECT replica_claim()}), 200, '200 replicas are registered');
wait_for($primary, q{SELECT count(*) = 200 FROM replica_status WHERE state = 'stopped'});
is(sql('SELECT count(*), count(DISTINCT slot) FROM replica_status'), '200|200', 'all are shown');
for my $view (qw(replica_lag replica_status replica_slots replica_wal_usage replica_metrics))
{
	# the best of some: what the machine does beside is not ours
	my $best = sql(qq{
		DO \$\$ DECLARE best float := 1e9; t timestamptz; r record; BEGIN
			FOR i IN 1..30 LOOP
				t := clock_timestamp();
				FOR r IN SELECT * FROM $view LOOP NULL; END LOOP;
				best := least(best, extract(epoch FROM clock_timestamp() - t) * 1000);
			END LOOP;
			PERFORM set_config('test.best', best::text, false);
		END \$\$;
		SELECT current_setting('test.best')});
	cmp_ok($best, '<', 2, "$view with 200 replicas takes less than 2 ms") and note("$view: $best ms");
}

sub cpu_ms
{
	my ($stat) = slurp_file('/proc/' . worker_pid($primary, 'replica_ctl monitor') . '/stat') =~ /\) (.*)/;
	my @fields = split / /, $stat;
	return ($fields[11] + $fields[12]) * 10;
}
# the background writer logs running transactions once, within 15 s of the last change
sleep 17;
my $used = cpu_ms();
my $position = sql('SELECT pg_current_wal_insert_lsn()');
sleep 10;
$used = cpu_ms() - $used;
cmp_ok($used, '<', 200, 'the monitor of 200 slots and 200 dead replicas takes less than 2 % of a CPU');
note("$used ms in 10 s");
is(sql('SELECT pg_current_wal_insert_lsn()'), $position, 'and writes no WAL');

done_testing();
