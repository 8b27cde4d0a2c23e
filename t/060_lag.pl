# Lag in time and connected: right when the primary is idle, when the link is
# cut, when replay is paused or delayed, after a restart, when a replica
# hangs, and for standbys that are not ours.
#
# RCTL_TEST_LONG=1: an idle minute, a cut of 30 s and a delay of 10 s.
#
# slow

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# Replicas take the ports after the primary's: this one comes first.  The
# restart below waits for wal_sender_timeout.
my $foreign = PostgreSQL::Test::Cluster->new('foreign');
my $sender_timeout = $ENV{RCTL_TEST_LONG} ? '60s' : '20s';
my $primary = new_primary('lag', conf => <<"END");
autovacuum = off
wal_keep_size = 512MB
wal_sender_timeout = $sender_timeout
END
my $load;
my ($idle, $cut_for, $delay) = $ENV{RCTL_TEST_LONG} ? (60, 30, 10) : (15, 12, 5);

sub sql { return $primary->safe_psql('postgres', shift); }

# replay_lag in seconds, connected and state of a standby, by application_name
sub lag
{
	my ($name) = @_;
	my ($seconds, $connected, $state, $bytes) = split /\|/, sql(qq{
		SELECT extract(epoch FROM replay_lag), connected, state, replay_lag_bytes
		FROM replica_lag WHERE application_name = '$name'});
	return { seconds => $seconds, connected => $connected, state => $state, bytes => $bytes };
}

# A row every 50 ms, in the background.
sub start_load
{
	my $script = "$ENV{TESTDIR}/load.sql";

	open my $out, '>', $script or die "$script: $!";
	print $out "INSERT INTO t SELECT 1\n\\watch 0.05\n";
	close $out;
	$load = IPC::Run::start(
		[ $primary->installed_command('psql'), '-X', '-q', '-d', $primary->connstr('postgres'), '-f', $script ],
		'<', '/dev/null', '>', '/dev/null', '2>', '/dev/null');
	return;
}

sub stop_load
{
	$load->kill_kill(grace => 1);
	return;
}

sub walreceiver
{
	my ($node) = @_;
	return $node->safe_psql('postgres', 'SELECT pid FROM pg_stat_wal_receiver');
}

# ---- a standby of ours and one that is not ----

sql('CREATE TABLE t (i int)');
my $operation = sql(q{SELECT replica_create('r1')});
is(wait_operation($primary, $operation), 'succeeded', 'a replica is made');
my $ours = sql(q{SELECT facts->>'application_name' FROM replica_ctl.replica});

$primary->backup('base');
$foreign->init_from_backup($primary, 'base', has_streaming => 1);
$foreign->append_conf('postgresql.conf', "hot_standby_feedback = off\n");
$foreign->start;
wait_for($primary, q{SELECT count(*) = 2 FROM replica_lag WHERE state = 'streaming' AND connected});
is(sql(q{SELECT replica IS NULL FROM replica_lag WHERE application_name = 'foreign'}), 't',
	'a standby that is not ours is shown, without a replica');

# ---- idle ----

sql('SELECT pg_switch_wal()');
sql('INSERT INTO t SELECT 1');
sleep 2;
my $worst = 0;
my $end = time + $idle;
while (time < $end)
{
	my $max = sql('SELECT max(extract(epoch FROM replay_lag)) FROM replica_lag');
	$worst = $max if $max eq '' || $max > $worst;
	sleep 0.2;
}
cmp_ok($worst, '==', 0, 'the lag of an idle primary is and stays 0');

# ---- the link is cut ----

start_load();
sleep 2;
cmp_ok(lag('foreign')->{seconds}, '<', 1.5, 'hardly any lag under load');
is(lag('foreign')->{connected}, 't', 'connected under load');
my $receiver = walreceiver($foreign);
kill 'STOP', $receiver;
my $cut = time;
my @wrong;
while (time < $cut + $cut_for)
{
	my $now = lag('foreign');
	my $truth = time - $cut;
	push @wrong, "$now->{seconds} after $truth" if abs($now->{seconds} - $truth) > 1.5;
	sleep 0.5;
}
is(join(', ', @wrong), '', 'the lag follows a cut link within 1.5 s');
my $now = lag('foreign');
is("$now->{connected} $now->{state}", 'f disconnected', 'a cut link is not connected');
cmp_ok(lag($ours)->{seconds}, '<', 1.5, 'the other one does not lag');

# ---- restart of the primary while it is cut ----

stop_load();
my $before = lag('foreign')->{seconds};
my $down = time;
$primary->restart;
$before += time - $down;
wait_for($primary, q{SELECT count(*) > 0 FROM replica_lag WHERE application_name = 'foreign' AND replay_lag IS NOT NULL});
$now = lag('foreign');
cmp_ok(abs($now->{seconds} - $before), '<', 3, 'the clock goes on after a restart')
  or diag("$now->{seconds}, expected $before");
is($now->{connected}, 'f', 'not connected after the restart');
kill 'CONT', $receiver;
wait_for($primary, q{SELECT bool_and(connected AND state = 'streaming' AND replay_lag = '0') FROM replica_lag}, 60);
pass('back to 0 once all is replayed');

# ---- after a crash, without a clock: the files in pg_wal tell ----

my ($host, $port) = sql(q{SELECT endpoint FROM replica_status WHERE replica = 'r1'}) =~ /(.*):(\d+)$/;
my $r1 = "host=$host port=$port dbname=postgres";
$primary->safe_psql('postgres', 'SELECT pg_wal_replay_pause()', connstr => $r1);
sql('INSERT INTO t SELECT 1; SELECT pg_switch_wal()');
my $written = time;
sql('INSERT INTO t SELECT 1; CHECKPOINT');
sleep 3;
restart_pid($primary, worker_pid($primary, 'background writer'));
wait_for($primary, q{SELECT replay_lag > '1 s' FROM replica_lag WHERE replica = 'r1'});
$now = lag($ours);
# within the segment that was current then: rather too much than too little
cmp_ok($now->{seconds} - (time - $written), '>', -1.5, 'after a crash the lag is not taken for less than it is');
cmp_ok($now->{seconds}, '<', time - $^T, 'nor for more than the time since the segment before was written');
$primary->safe_psql('postgres', 'SELECT pg_wal_replay_resume()', connstr => $r1);
wait_for($primary, q{SELECT bool_and(connected AND replay_lag = '0') FROM replica_lag}, 60);

# ---- replay is paused ----

start_load();
sleep 1;
my $replay = $foreign->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
wait_until(sub { $foreign->safe_psql('postgres', 'SELECT pg_get_wal_replay_pause_state()') eq 'paused' }, 'the pause');
my $paused = time;
sleep 5;
$now = lag('foreign');
cmp_ok(abs($now->{seconds} - (time - $paused)), '<', 1.5, 'the lag grows while replay is paused')
  or diag("$now->{seconds}");
is($now->{connected}, 't', 'a paused standby is connected');
my $difference = sql(q{SELECT abs(replay_lag_bytes - pg_wal_lsn_diff(pg_current_wal_flush_lsn(), replay_lsn))
	FROM replica_lag WHERE application_name = 'foreign'});
cmp_ok($difference, '<', 100000, 'bytes agree with the LSNs');
cmp_ok($now->{bytes}, '>', 0, 'and are not 0');
stop_load();
$foreign->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
wait_for($primary, q{SELECT replay_lag = '0' FROM replica_lag WHERE application_name = 'foreign'});

# ---- apply_delay ----

$operation = sql(qq{SELECT replica_create('slow', options => '{"apply_delay": "${delay}s"}')});
is(wait_operation($primary, $operation, 90), 'succeeded', 'a delayed replica is made');
start_load();
sleep $delay + 5;
my $delayed = sql(q{SELECT extract(epoch FROM lag) FROM replica_status WHERE replica = 'slow'});
cmp_ok(abs($delayed - $delay), '<', 1.5, "a delay of $delay s shows as that under load") or diag($delayed);
stop_load();
wait_for($primary, q{SELECT lag = '0' FROM replica_status WHERE replica = 'slow'}, 30);
pass('and as 0 once it is replayed');

# ---- a replica that hangs delays nobody ----

my ($postmaster) = split /\n/, slurp_file(replica_dir($primary) . '/slow/postmaster.pid');
kill 'STOP', $postmaster;
my $hung = time;
my $slowest = 0;
while (time < $hung + 12)
{
	my $start = time;
	sql('SELECT * FROM replica_status');
	my $took = time - $start;
	$slowest = $took if $took > $slowest;
	sleep 0.3;
}
cmp_ok($slowest, '<', 1, 'views answer at once while a replica hangs');
is(sql(q{SELECT now() - max(sampled_at) < '3 s' FROM replica_metrics_history WHERE metric = 'ReplicaLag' AND replica = 'r1'}),
	't', 'the others are still sampled');
kill 'CONT', $postmaster;

# ---- a replica whose server is stopped ----

kill 'QUIT', $postmaster;
wait_for($primary, q{SELECT state = 'stopped' AND NOT connected FROM replica_status WHERE replica = 'slow'});
pass('a stopped server is told from a lost link');
is(sql(q{SELECT state || ' ' || connected FROM replica_status WHERE replica = 'r1'}), 'streaming true',
	'the other one is streaming');

# ---- restart of the registry's replica, drop ----

is(wait_operation($primary, sql(q{SELECT replica_drop('slow', true)})), 'succeeded', 'dropped');
is(sql(q{SELECT count(*) FROM replica_lag WHERE replica = 'slow'}), 0, 'a dropped replica is no longer shown');
is(wait_operation($primary, sql(q{SELECT replica_drop('r1')})), 'succeeded', 'dropped');
$foreign->stop;
no_orphans_ok($primary);
done_testing();
