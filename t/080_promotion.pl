# Planned promotion: what it promises, under clients that write; what makes
# it refuse; and that it takes everything back when it cannot go on.
#
# slow
use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use ReplicaCtl;
use Test::More;
use Time::HiRes qw(sleep time);
use Writers;

my $primary = new_primary('main', conf => 'max_prepared_transactions = 20');
my $made = 0;

# A new replica; its name and port.
sub make_replica
{
	my ($options) = @_;
	my $name = 'r' . ++$made;

	$primary->safe_psql('postgres', sprintf q{SELECT replica_create('%s', options => '%s')}, $name, $options // '{}');
	$primary->safe_psql('postgres', "SELECT replica_wait('$name')");
	return ($name, $primary->safe_psql('postgres',
		"SELECT split_part(endpoint, ':', 2) FROM replica_status WHERE replica = '$name'"));
}

sub on_port
{
	my ($port, $sql) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run([ 'psql', '-XAtq', '-h', $primary->host, '-p', $port, '-d', 'postgres', '-c', $sql ],
		'>', \$out, '2>', \$err);
	chomp $out;
	return wantarray ? ($out, $err) : $out;
}

# Back to a primary that writes, without the replica.
sub tidy
{
	my ($name) = @_;

	$primary->safe_psql('postgres', 'SELECT replica_unfence()');
	$primary->safe_psql('postgres', "SELECT replica_drop('$name', force => true)");
	$primary->safe_psql('postgres', "SELECT replica_wait('$name')");
	return;
}

sub fence_phase { return $primary->safe_psql('postgres', 'SELECT phase FROM replica_ctl.fence()') }

# ---- under writers, all kinds

Writers::prepare($primary);
my ($r, $port) = make_replica();
my ($sibling) = make_replica();
my $writers = Writers->start($primary, [ $primary->port, $port ], 'aampts');
$writers->wait_rows(20);
my $idle = $primary->background_psql('postgres', on_error_stop => 0);
$idle->query_safe('SELECT 1');
my ($rc, $out, $err) = $primary->psql('postgres', "SELECT replica_promote('$r');\nSELECT replica_wait('$r');");
is($rc, 0, 'the session that asked and waits is spared') or diag $err;
like($out, qr/succeeded/, 'a planned promotion under writers succeeds');
$writers->wait_rows(1, $port);
$writers->stop;
my @acked = $writers->acked;
cmp_ok(scalar @acked, '>', 100, 'the writers wrote');
is_deeply([ $writers->lost(sub { on_port($port, $_[0]) }) ], [], 'no acknowledged commit is lost');
is($writers->both_wrote($primary->port, $port), 0, 'never two servers that accept writes');
my %by_client;
$by_client{ $_->[0] }++ for @acked;
is(scalar keys %by_client, 6, 'each in its way');
my %by_port;
$by_port{ $_->[4] }++ for @acked;
is_deeply([ sort keys %by_port ], [ sort $primary->port, $port ], 'they wrote on the source, then on the replica');
my ($gap) = $writers->gap;
note sprintf 'write gap %.1f ms', $gap;
is(fence_phase(), 'promoted', 'the source stays fenced');
is(on_port($port, 'SELECT pg_is_in_recovery()'), 'f', 'the replica is a primary');
is($primary->safe_psql('postgres', "SELECT state FROM replica_status WHERE replica = '$r'"), 'promoted', 'and shown as promoted');
is($primary->safe_psql('postgres', q{SELECT count(*) FROM replica_events WHERE kind = 'promoted'
	AND message LIKE 'Promoted read replica % to stand-alone primary' AND detail ? 'writes_stopped_ms'}), 1, 'the event says so, with times');
is($primary->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'), 1, 'its slot is gone');
eval { $idle->query_safe('SELECT 1') };
isnt($@, '', 'the other sessions were ended');
$idle->quit;
like(psql_error($primary, 'CREATE TABLE x ()'), qr/25006.*HINT:.*:$port/s, 'a writer is told where to go');
like(psql_error($primary, "SELECT replica_promote('$r')"), qr/55000|25006/, 'it is not promoted twice');

# what is left here can be managed, and nothing else written with it
like(psql_error($primary, "BEGIN; SELECT replica_drop('$sibling'); INSERT INTO acked VALUES (-9, 9); COMMIT"), qr/25006/, 'a write beside a call is still refused');
like(psql_error($primary, "DO \$\$ BEGIN PERFORM replica_drop('nobody'); EXCEPTION WHEN OTHERS THEN INSERT INTO acked VALUES (-9, 9); END \$\$"), qr/25006/, 'and after an error in one');
$primary->safe_psql('postgres', "SELECT replica_drop('$sibling')");
is($primary->safe_psql('postgres', "SELECT replica_wait('$sibling')"), 'succeeded', 'a sibling is dropped behind the fence');

# the promoted replica goes on alone: the source may be started again, it stays fenced
$primary->stop('immediate');
$primary->start;
is(fence_phase(), 'promoted', 'fenced after a crash');
tidy($r);

# ---- the source goes on as a server of its own

($r, $port) = make_replica();
$primary->safe_psql('postgres', "SELECT replica_promote('$r', source_after => 'read_write')");
$primary->safe_psql('postgres', "SELECT replica_wait('$r')");
$primary->safe_psql('postgres', 'INSERT INTO acked VALUES (-1, 1)');
is(fence_phase(), 'down', 'read_write: the fence is lifted');
is(on_port($port, 'SELECT pg_is_in_recovery()'), 'f', 'read_write: the replica was promoted');
tidy($r);

# ---- refusals, each before anything is touched

($r, $port) = make_replica();
like(psql_error($primary, "SELECT replica_promote('nobody')"), qr/42704.*replica_status/s, 'unknown replica');
like(psql_error($primary, "SELECT replica_promote('$r', mode => 'gently')"), qr/22023.*planned, forced/s, 'unknown mode');
like(psql_error($primary, "SELECT replica_promote('$r', source_after => 'off')"), qr/22023.*read_only, read_write, standby/s, 'unknown source_after');
like(psql_error($primary, "SELECT replica_promote('$r', timeout => '-1s')"), qr/22023/, 'negative time-out');

sub refused
{
	my ($pattern, $what, $args) = @_;
	my $events = $primary->safe_psql('postgres', 'SELECT count(*) FROM acked');

	$primary->safe_psql('postgres', "SELECT replica_promote('$r'" . ($args // '') . ')');
	like(psql_error($primary, "SELECT replica_wait('$r', '60s')"), $pattern, $what);
	$primary->safe_psql('postgres', 'INSERT INTO acked VALUES (-1, 2)');
	is(fence_phase(), 'down', "$what: writes go on");
	return;
}

refused(qr/57014/, 'time-out of zero', ", timeout => '0s'");
on_port($port, 'SELECT pg_wal_replay_pause()');
refused(qr/55000.*pg_wal_replay_resume/s, 'replay paused');
on_port($port, 'SELECT pg_wal_replay_resume()');
my $dir = $primary->safe_psql('postgres', "SELECT facts->>'data_directory' FROM replica_ctl.replica WHERE name = '$r'");
system_or_bail('pg_ctl', '-D', $dir, '-m', 'fast', '-w', 'stop');
refused(qr/08|55000/, 'replica stopped');
$primary->safe_psql('postgres', "SELECT replica_repair('$r')");
is($primary->safe_psql('postgres', "SELECT replica_wait('$r')"), 'succeeded', 'repair starts it again');

SKIP:
{
	skip 'needs a test build', 1 unless test_build($primary);

	sub fault
	{
		my ($place) = @_;
		$primary->safe_psql('postgres', "ALTER SYSTEM SET replica_ctl.test_fault = '$place'");
		$primary->safe_psql('postgres', 'SELECT pg_reload_conf()');
		wait_for($primary, "SELECT current_setting('replica_ctl.test_fault') = '$place'");
		return;
	}

	# ---- a second promotion meanwhile, and a cancel while writes stand still
	fault('promote.zero_lag.after=stall');
	my $operation = $primary->safe_psql('postgres', "SELECT replica_promote('$r')");
	wait_for($primary, q{SELECT phase = 'up' FROM replica_ctl.fence()});
	like(psql_error($primary, "SELECT replica_promote('$r')"), qr/55006|25006/, 'a second promotion is refused');
	my $held = $primary->background_psql('postgres', on_error_stop => 0);
	$held->query_until(qr/sent/, "\\echo sent\nINSERT INTO acked VALUES (-2, 1) RETURNING 'written';\n");
	is($primary->safe_psql('postgres', "SELECT replica_cancel($operation)"), 't', 'a cancel behind the fence');
	is(wait_operation($primary, $operation), 'cancelled', 'ends the operation');
	fault('');
	is(fence_phase(), 'down', 'and lifts the fence');
	wait_for($primary, 'SELECT count(*) = 1 FROM acked WHERE client = -2');
	pass('a held statement goes on');
	$held->quit;

	# ---- the worker, or this server, dies at each step
	for my $step (qw(check warm fence zero_lag promote verify unlink after))
	{
		for my $when (qw(before after))
		{
			fault("promote.$step.$when=crash*1");
			$operation = $primary->safe_psql('postgres', "SELECT replica_promote('$r', timeout => '30s')");
			wait_for($primary, "SELECT state NOT IN ('queued', 'running') FROM replica_operations WHERE operation = $operation", 60);
			my $state = $primary->safe_psql('postgres', "SELECT state FROM replica_operations WHERE operation = $operation");
			my $recovery = on_port($port, 'SELECT pg_is_in_recovery()');
			# the start of "promote" is flushed by the step itself
			my $early = "$when $step" =~ /check|warm|fence|zero_lag|before promote/;

			ok(($state eq 'succeeded' && $recovery eq 'f' && fence_phase() eq 'promoted')
				|| ($early && $state eq 'failed' && $recovery eq 't' && fence_phase() eq 'down'),
				"crash $when $step ends well ($state)")
			  or diag "recovery $recovery, fence " . fence_phase();
			fault('');
			if ($state eq 'succeeded')
			{
				tidy($r);
				($r, $port) = make_replica();
			}
		}
	}
}

# ---- drill, asked for before the replica has come back after a restart

$primary->restart;
$primary->safe_psql('postgres', "SELECT replica_drill('$r')");
is($primary->safe_psql('postgres', "SELECT replica_wait('$r')"), 'succeeded', 'a drill succeeds');
is(fence_phase(), 'down', 'and lifts the fence');
is($primary->safe_psql('postgres', q{SELECT count(*) FROM replica_events WHERE kind = 'drill' AND detail ? 'writes_stopped_ms'}), 1, 'its event has the times');
is(on_port($port, 'SELECT pg_is_in_recovery()'), 't', 'nothing was promoted');
like(on_port($port, "SELECT message FROM replica_status WHERE replica = '$r'"), qr/is a standby.*ask its primary/, 'which says whom to ask');

# ---- forced: the source is lost behind a pause

on_port($port, 'SELECT pg_wal_replay_pause()');
$primary->safe_psql('postgres', 'INSERT INTO acked SELECT -3, g FROM generate_series(1, 1000) g');
on_port($port, 'SELECT pg_wal_replay_resume()');
$primary->safe_psql('postgres', "SELECT replica_promote('$r', mode => 'forced')");
is($primary->safe_psql('postgres', "SELECT replica_wait('$r')"), 'succeeded', 'a forced promotion succeeds');
is(fence_phase(), 'down', 'without a fence');
is($primary->safe_psql('postgres', q{SELECT detail ? 'lost_bytes' AND detail ? 'replica_lsn' AND detail ? 'source_lsn'
	FROM replica_events WHERE kind = 'promoted' ORDER BY event DESC LIMIT 1}), 't', 'and leaves a loss receipt');
$primary->safe_psql('postgres', "SELECT replica_drop('$r', force => true)");
$primary->safe_psql('postgres', "SELECT replica_wait('$r')");

no_orphans_ok($primary);
done_testing();
