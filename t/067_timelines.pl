# Lag of a cascaded replica, and on the server that was promoted: across the
# change of the timeline the clock goes on telling the truth.

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# Replicas take the ports after the primary's: these come first.
my $next = PostgreSQL::Test::Cluster->new('next');
my $last = PostgreSQL::Test::Cluster->new('last');
my $primary = new_primary('timelines', conf => "autovacuum = off\nwal_keep_size = 256MB\n");
my $load;

sub sql { return $primary->safe_psql('postgres', shift); }

sub start_load
{
	my ($node) = @_;
	my $script = "$ENV{TESTDIR}/load.sql";

	open my $out, '>', $script or die "$script: $!";
	print $out "INSERT INTO t SELECT 1\n\\watch 0.05\n";
	close $out;
	$load = IPC::Run::start(
		[ $node->installed_command('psql'), '-X', '-q', '-d', $node->connstr('postgres'), '-f', $script ],
		'<', '/dev/null', '>', '/dev/null', '2>', '/dev/null');
	return;
}

sub lag
{
	my ($node, $where) = @_;
	return $node->safe_psql('postgres', "SELECT extract(epoch FROM replay_lag) FROM replica_lag WHERE $where");
}

# ---- a cascade ----

sql('CREATE TABLE t (i int)');
is(wait_operation($primary, sql(q{SELECT replica_create('r1')})), 'succeeded', 'a replica');
is(wait_operation($primary, sql(q{SELECT replica_create('r2', options => '{"upstream": "r1"}')})), 'succeeded', 'and one that follows it');
wait_for($primary, q{SELECT count(*) = 2 FROM replica_lag WHERE connected AND replay_lag = '0'});
my ($host, $port) = sql(q{SELECT endpoint FROM replica_status WHERE replica = 'r2'}) =~ /(.*):(\d+)$/;
my $r2 = "host=$host port=$port dbname=postgres";
start_load($primary);
sleep 2;
cmp_ok(lag($primary, q{replica = 'r2'}), '<', 2.5, 'it hardly lags under load');
$primary->safe_psql('postgres', 'SELECT pg_wal_replay_pause()', connstr => $r2);
wait_until(sub { $primary->safe_psql('postgres', 'SELECT pg_get_wal_replay_pause_state()', connstr => $r2) eq 'paused' }, 'the pause');
my $paused = time;
sleep 6;
my $lag = lag($primary, q{replica = 'r2'});
cmp_ok(abs($lag - (time - $paused)), '<', 1.5, 'it lags by as long as its replay is paused') or diag($lag);
cmp_ok(lag($primary, q{replica = 'r1'}), '<', 1.5, 'the one before it does not');
is(sql(q{SELECT connected FROM replica_lag WHERE replica = 'r2'}), 't', 'it is connected all the while');
$primary->safe_psql('postgres', 'SELECT pg_wal_replay_resume()', connstr => $r2);
$load->kill_kill(grace => 1);
wait_for($primary, q{SELECT replay_lag = '0' FROM replica_lag WHERE replica = 'r2'});
pass('and not at all once it is replayed and the primary is idle');

# ---- the one before it is cut off: what it has cannot be replayed by the next ----

start_load($primary);
sleep 1;
my $receiver = $primary->safe_psql('postgres', 'SELECT pid FROM pg_stat_wal_receiver',
	connstr => sprintf 'host=%s port=%s dbname=postgres', sql(q{SELECT endpoint FROM replica_status WHERE replica = 'r1'}) =~ /(.*):(\d+)$/);
kill 'STOP', $receiver;
my $cut = time;
sleep 8;
$lag = lag($primary, q{replica = 'r2'});
cmp_ok(abs($lag - (time - $cut)), '<', 1.5, 'behind a link that is cut it lags as well') or diag($lag);
# its server could not be stopped at once
kill 'CONT', $receiver;
$load->kill_kill(grace => 1);
is(wait_operation($primary, sql(q{SELECT replica_drop('r2', true)})), 'succeeded', 'dropped');
is(wait_operation($primary, sql(q{SELECT replica_drop('r1', true)})), 'succeeded', 'dropped');

# ---- a promoted server ----

$primary->backup('base');
$next->init_from_backup($primary, 'base', has_streaming => 1);
$next->start;
$last->init_from_backup($primary, 'base');
$last->enable_streaming($next);
$last->append_conf('postgresql.conf', "recovery_target_timeline = 'latest'\nwal_retrieve_retry_interval = 500ms\n");
$last->start;
start_load($primary);
sleep 2;
$load->kill_kill(grace => 1);
wait_for($primary, q{SELECT replay_lag = '0' FROM replica_lag WHERE application_name = 'next'});
$next->promote;
wait_for($next, q{SELECT replay_lag = '0' AND connected AND state = 'streaming' FROM replica_lag WHERE application_name = 'last'}, 60);
pass('no lag on the new timeline while nothing is written');
start_load($next);
sleep 3;
$lag = lag($next, q{application_name = 'last'});
cmp_ok($lag, '<', 1.5, 'hardly any under load');
kill 'STOP', $last->safe_psql('postgres', 'SELECT pid FROM pg_stat_wal_receiver');
$cut = time;
sleep 8;
$lag = lag($next, q{application_name = 'last'});
cmp_ok(abs($lag - (time - $cut)), '<', 1.5, 'and what it is when the link is cut') or diag($lag);
is($next->safe_psql('postgres', q{SELECT connected FROM replica_lag WHERE application_name = 'last'}), 'f', 'which is not connected');
is($next->safe_psql('postgres', q{SELECT count(*) FROM replica_lag WHERE least(write_lag, flush_lag, replay_lag) < '0'
	OR least(sent_lag_bytes, write_lag_bytes, flush_lag_bytes, replay_lag_bytes) < 0}), 0, 'nothing is negative');
kill 'CONT', $last->safe_psql('postgres', 'SELECT pid FROM pg_stat_wal_receiver');
$load->kill_kill(grace => 1);
wait_for($next, q{SELECT replay_lag = '0' FROM replica_lag WHERE application_name = 'last'}, 60);
pass('back to 0');
$last->stop;
$next->stop;
no_orphans_ok($primary);
done_testing();
