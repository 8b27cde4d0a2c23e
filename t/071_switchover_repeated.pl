# Switchovers in a row under writers: every commit that a client was told of
# is there at the end, never two servers take writes, the other replica
# follows every time, and nothing is left that would hold WAL.
#
# RCTL_SWITCHOVERS sets how many; ten in the run by hand.
use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $rounds = $ENV{RCTL_SWITCHOVERS} || 3;
my $writers = 3;
my $node = new_primary('main', initdb => ['--data-checksums'], conf => "wal_keep_size = 0\n");

for my $name ('r1', 'r2')
{
	$node->safe_psql('postgres', "SELECT replica_create('$name')");
	is($node->safe_psql('postgres', "SELECT replica_wait('$name')"), 'succeeded', "$name is made");
}
my %at = map { $_ => server_of($node, $_) } 'main', 'r1', 'r2';
$node->safe_psql('postgres', 'CREATE TABLE acked (id text PRIMARY KEY, server int)');

# A client that knows all servers and writes to the one that lets it; the
# keys of which it was told that they are committed go to a file.
my $dir = PostgreSQL::Test::Utils::tempdir();
my $conninfo = 'dbname=postgres target_session_attrs=read-write connect_timeout=5 host='
  . join(',', map { $_->{host} } values %at) . ' port=' . join(',', map { $_->{port} } values %at);

sub writer
{
	my ($number) = @_;
	my $end = 0;
	my $round = 0;

	$SIG{TERM} = sub { $end = 1 };
	alarm(0);
	while (!$end)
	{
		$round++;
		my $sql = join '', map { "INSERT INTO acked VALUES ('$number.$round.$_', current_setting('port')::int) RETURNING id;\n" } 1 .. 200;
		my $out = '';
		IPC::Run::run([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $conninfo, '-f', '-' ],
			'<', \$sql, '>', \$out, '2>', '/dev/null');
		append_to_file("$dir/$number", $out);
		sleep 0.02;
	}
	require POSIX;
	POSIX::_exit(0);
}

my @pids;
for my $number (1 .. $writers)
{
	my $pid = fork() // die "fork: $!";
	writer($number) if $pid == 0;
	push @pids, $pid;
}

my @names = ('main', 'r1', 'r2');
my $primary = 'main';
for my $round (1 .. $rounds)
{
	# there and back, now and then to the other one
	my $next = $primary ne 'main' ? 'main' : $round % 3 ? 'r1' : 'r2';
	my @others = sort grep { $_ ne $next } @names;

	my $start = time;
	is(scalar switch_to($at{$primary}, $at{$next}), 'succeeded', "round $round: from $primary to $next")
	  or last;
	note sprintf('it took %.1f s until the old primary streamed', time - $start);
	wait_ask($at{$next}, q{SELECT count(*) = 2 AND bool_and(connected) FROM replica_status});
	is(ask($at{$next}, q{SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM pg_replication_slots}),
		join(' ', map { "replica_ctl_$_" } @others), 'its slots');
	is(join(' ', map { ask($at{$_}, 'SELECT pg_is_in_recovery(), (SELECT count(*) FROM pg_replication_slots)') } @others),
		't|0 t|0', 'the others are standbys without slots');
	my $timeline = $round + 1;
	wait_ask($at{$_}, "SELECT received_tli = $timeline FROM pg_stat_wal_receiver") for @others;
	$primary = $next;
	sleep 0.5;
}

kill 'TERM', @pids;
waitpid $_, 0 for @pids;

# -- nothing that was acknowledged is missing
my @acked = map { split /\n/, -e $_ ? slurp_file($_) : '' } map { "$dir/$_" } 1 .. $writers;
cmp_ok(scalar @acked, '>', 100 * $rounds, 'the clients did write: ' . scalar @acked . ' rows');
my %there = map { $_ => 1 } split /\n/, ask($at{$primary}, 'SELECT id FROM acked');
my @lost = grep { !$there{$_} } @acked;
is(scalar @lost, 0, 'no acknowledged row is lost') or diag("lost: @lost[0 .. ($#lost > 9 ? 9 : $#lost)]");
cmp_ok(ask($at{$primary}, 'SELECT count(DISTINCT server) FROM acked'), '>=', 2, 'they wrote to more than one server');

# -- nothing holds WAL: after checkpoints the servers keep what is usual
for my $round (1 .. 3)
{
	ask($at{$primary}, 'SELECT pg_switch_wal(); CHECKPOINT');
	my $lsn = ask($at{$primary}, 'SELECT pg_current_wal_lsn()');
	for my $name (grep { $_ ne $primary } @names)
	{
		wait_ask($at{$name}, "SELECT pg_last_wal_replay_lsn() >= '$lsn'");
		ask($at{$name}, 'CHECKPOINT');
	}
}
wait_ask($at{$primary}, q{SELECT max(pg_current_wal_lsn() - restart_lsn) < 2 * 16777216 FROM pg_replication_slots});
pass('the slots move on');

done_testing();
