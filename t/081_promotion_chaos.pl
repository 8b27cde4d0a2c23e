# Many planned promotions in a row under writers of all kinds, in half of them
# with a kill -9 of a random process at a random moment.  Whatever happens: no
# acknowledged commit is lost, there are never two servers that accept writes,
# a promotion that did not happen leaves no fence, and replica_status explains
# the state.
#
#	  RCTL_TEST_CHAOS_ROUNDS   how many (6; by hand 200)
#	  RCTL_TEST_CHAOS_SEED     repeats a run (the time unless set; printed)
#	  RCTL_TEST_CHAOS_VICTIM   only kills of this one, in every round: "replica postmaster"
use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use ReplicaCtl;
use Test::More;
use Time::HiRes qw(sleep time);
use Writers;

my $rounds = $ENV{RCTL_TEST_CHAOS_ROUNDS} || 6;
my $seed = $ENV{RCTL_TEST_CHAOS_SEED} || time ^ $$;
srand($seed);
diag("RCTL_TEST_CHAOS_SEED=$seed RCTL_TEST_CHAOS_ROUNDS=$rounds");
alarm(60 + 60 * $rounds);

my $primary = new_primary('main', conf => "fsync = on\nmax_prepared_transactions = 20\nreplica_ctl.step_retries = 8");
Writers::prepare($primary);

# psql on a port of this host; what it printed, or undef.
sub on_port
{
	my ($port, $sql) = @_;
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run([ 'psql', '-XAtq', '-h', $primary->host, '-p', $port, '-d', 'postgres', '-c', $sql ],
		'>', \$out, '2>', \$err);

	chomp $out;
	return $ok ? $out : undef;
}

# Pids of a server's processes by what they call themselves; "postmaster" for the first.
sub process_named
{
	my ($dir, $name) = @_;
	my $file = "$dir/postmaster.pid";

	open my $in, '<', $file or return;
	chomp(my $postmaster = <$in>);
	return ($postmaster) if $name eq 'postmaster';
	my @pids;
	for my $stat (glob '/proc/[0-9]*/stat')
	{
		open my $proc, '<', $stat or next;
		my $line = <$proc> // next;
		my ($pid, $parent) = $line =~ /^(\d+) \(.*\) \S (\d+)/ or next;
		next unless $parent == $postmaster;
		open my $cmd, '<', "/proc/$pid/cmdline" or next;
		push @pids, $pid if (<$cmd> // '') =~ /\Q$name\E/;
	}
	return @pids;
}

# What can be killed: [whose, process]
my @victims = (
	[ 'source', 'postmaster' ],
	[ 'source', 'replica_ctl operation' ],
	[ 'source', 'replica_ctl launcher' ],
	[ 'source', 'walsender' ],
	[ 'replica', 'postmaster' ],
	[ 'replica', 'startup' ],
	[ 'replica', 'walreceiver' ],
	[ 'replica', 'checkpointer' ]);

# Starts a server that we killed, as often as it takes: it fails while the one
# that was killed is not reaped, or its children have not noticed.
sub revive
{
	my ($port, $dir) = @_;

	return if on_port($port, 'SELECT 1');
	wait_until(
		sub {
			IPC::Run::run([ 'pg_ctl', '-D', $dir, '-s', '-w', '-l', "$dir/revived.log", 'start' ],
				'>', \my $out, '2>', \my $err);
			return on_port($port, 'SELECT 1');
		},
		"the server in $dir", 60);
	return;
}

@victims = grep { "@$_" eq $ENV{RCTL_TEST_CHAOS_VICTIM} } @victims if $ENV{RCTL_TEST_CHAOS_VICTIM};

my %count;
for my $round (1 .. $rounds)
{
	my $name = "r$round";
	my $victim = rand() < 0.5 || $ENV{RCTL_TEST_CHAOS_VICTIM} ? $victims[ rand @victims ] : undef;
	my $delay = rand() * 0.35;	# a promotion takes about that long
	my $what = $victim ? sprintf("kill of %s's %s after %.0f ms", @$victim, $delay * 1000) : 'no kill';

	# a client may have been cut off between its two phases
	$primary->safe_psql('postgres', "ROLLBACK PREPARED '$_'")
	  for split /\n/, $primary->safe_psql('postgres', 'SELECT gid FROM pg_prepared_xacts');
	$primary->safe_psql('postgres', 'TRUNCATE acked');
	$primary->safe_psql('postgres', "SELECT replica_create('$name')");
	$primary->safe_psql('postgres', "SELECT replica_wait('$name')");
	my ($port, $dir) = split /\|/, $primary->safe_psql('postgres',
		"SELECT facts->>'port', facts->>'data_directory' FROM replica_ctl.replica WHERE name = '$name'");
	my $writers = Writers->start($primary, [ $primary->port, $port ], 'aampts');
	$writers->wait_rows(5);

	my $operation = $primary->safe_psql('postgres', "SELECT replica_promote('$name', timeout => '20s')");
	if ($victim)
	{
		sleep $delay;
		my @pids = process_named($victim->[0] eq 'source' ? $primary->data_dir : $dir, $victim->[1]);
		kill 9, @pids if @pids;
		$what .= ' (nothing to kill)' unless @pids;
		sleep 0.2;
		revive($primary->port, $primary->data_dir);
		$primary->_update_pid(1);	# what the node's own methods go by
	}
	my $state = eval {
		wait_until(
			sub {
				my $s = on_port($primary->port, "SELECT state FROM replica_operations WHERE operation = $operation");
				return $s && $s !~ /queued|running/ ? $s : undef;
			},
			"the end of operation $operation", 120);
	} // 'endless';
	sleep 0.3;
	$writers->stop;

	# the kill may have come when all was done
	revive($port, $dir) if $state eq 'succeeded';
	$count{$state}++;

	# Killed in the moment between the removal of standby.signal and the first
	# record of the new timeline, the replica is a primary by crash recovery.
	my $why = on_port($primary->port, "SELECT ': ' || step || ': ' || message FROM replica_operations WHERE operation = $operation") // '';
	my $shared_timeline = $state eq 'needs_attention' && $why =~ /takes writes, but on timeline/;

	my $phase = on_port($primary->port, 'SELECT phase FROM replica_ctl.fence()');
	my $holder = $state eq 'succeeded' || $shared_timeline ? $port : $primary->port;
	my @lost = $writers->lost(sub { on_port($holder, $_[0]) // '' }, $victim ? 's' : '');
	my $both = $writers->both_wrote($primary->port, $port);
	my $shown = on_port($primary->port, "SELECT state || ' ' || coalesce(message, '') FROM replica_status WHERE replica = '$name'");
	my $fine = !@lost && !$both && defined $shown
	  && ($state eq 'succeeded' || $shared_timeline ? $phase eq 'promoted' && (on_port($port, 'SELECT NOT pg_is_in_recovery()') // '') eq 't'
		: $state eq 'failed' ? $phase eq 'down' && (on_port($port, 'SELECT pg_is_in_recovery()') // 't') eq 't'
		: 0);

	ok($fine, "round $round: $what: $state$why")
	  or diag("lost @lost[0 .. ($#lost < 5 ? $#lost : 5)], both wrote $both, fence $phase, status " . ($shown // 'none')
		. ', ' . (on_port($primary->port, "SELECT concat_ws(' ', step, sqlstate, message, detail) FROM replica_operations WHERE operation = $operation") // ''));

	$primary->safe_psql('postgres', 'SELECT replica_unfence()');
	$primary->safe_psql('postgres', "SELECT replica_drop('$name', force => true)");
	is(wait_operation($primary, $primary->safe_psql('postgres', 'SELECT max(operation) FROM replica_operations'), 90), 'succeeded', "round $round: dropped");
}
note join ', ', map { "$count{$_} $_" } sort keys %count;
no_orphans_ok($primary);
done_testing();
