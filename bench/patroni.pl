# A switchover of a Patroni cluster with four clients that write: Patroni's
# own (POST /switchover to the leader by hand) against replica_promote on the
# leader, with held clients and with errors, in turns in one run.
#
# Goals: what we do before Patroni is asked (explain, fence, lag 0) takes at
# most 10 % of Patroni's own switchover, from the request to the first write on
# the new leader; held clients see no more errors.
#
# RCTL_BENCH_ROUNDS     runs of each side (10)
# RCTL_BENCH_LOOP_WAIT  Patroni's loop_wait in seconds (1)

use strict;
use warnings;

# The tests' Patroni needs what the tests have.
my $out;

BEGIN
{
	open $out, '>&', \*STDOUT or die "could not keep the output: $!\n";
	chomp(my $pgxs = `$ENV{PG_CONFIG} --pgxs`);
	my $dir = "$ENV{RCTL_WORK}/tmp/bench_patroni";

	mkdir $_ for $dir, "$dir/log", "$dir/ports";
	@ENV{qw(TESTDIR TESTDATADIR TESTLOGDIR PG_TEST_PORT_DIR)} = ($dir, $dir, "$dir/log", "$dir/ports");
	$ENV{PG_REGRESS} = 'none';
	unshift @INC, 't', $pgxs =~ s{/[^/]*/[^/]*$}{}r . '/../src/test/perl', $pgxs =~ s{/[^/]*$}{}r . '/../test/perl';
}
use Bench;
use PatroniInside;
use Time::HiRes qw(sleep time);
use Writers;

select $out;
$| = 1;

my $rounds = $ENV{RCTL_BENCH_ROUNDS} || 10;
my @sides = qw(patroni hold error);
my %describe = (
	patroni => 'POST /switchover by hand',
	hold => "replica_promote, fence_action = 'hold'",
	error => "replica_promote, fence_action = 'error'");
my (%total, %gap, %errors, @steps);
my $lost = 0;

print "### A Patroni switchover under four clients ($rounds rounds)\n\n";
if (Patroni::missing())
{
	print 'needs: ', Patroni::missing(), "\n";
	exit 0;
}

my $patroni = PatroniInside->new(2, loop_wait => $ENV{RCTL_BENCH_LOOP_WAIT});
$patroni->start;
$patroni->outcome($patroni->lead(q{SELECT replica_attach('p2', 'patroni')})) =~ /^succeeded/ or die "could not attach\n";

for my $round (0 .. $rounds)
{
	# each goes first as often as the others, and with an odd number of
	# sides in both directions
	for my $side (map { $sides[ ($round + $_) % @sides ] } 0 .. $#sides)
	{
		my ($total, $gap, $errors) = measure($side);

		# the first round warms the caches
		next if $round == 0;
		push @{ $total{$side} }, $total;
		push @{ $gap{$side} }, $gap;
		push @{ $errors{$side} }, $errors;
	}
}

table([ 'what', 'request to first write: median', 'most', 'of Patroni alone', 'write gap: median', 'most', 'of Patroni alone', 'errors a client' ],
	map { row($_) } @sides);
printf "\nAcknowledged rows that were lost: %d\n", $lost;

my %took = map { $_ => step($_) } qw(check warm fence zero_lag);
my $before = 0;

$before += $_ for values %took;
printf "Before Patroni is asked (medians): %s; together %.1f %% of Patroni's own switchover\n",
  join(', ', map { sprintf '%s %.0f ms', $_, $took{$_} } qw(check warm fence zero_lag)),
  100 * $before / 1000 / median(@{ $total{patroni} });

sub row
{
	my ($side) = @_;

	return [ $describe{$side}, ms(median(@{ $total{$side} })), ms(percentile(100, @{ $total{$side} })),
		sprintf('%.2f', median(@{ $total{$side} }) / median(@{ $total{patroni} })),
		ms(median(@{ $gap{$side} })), ms(percentile(100, @{ $gap{$side} })),
		sprintf('%.2f', median(@{ $gap{$side} }) / median(@{ $gap{patroni} })),
		sprintf('%.2f', median(@{ $errors{$side} })) ];
}

sub step
{
	my ($step) = @_;
	return $patroni->lead("SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM ended_at - started_at) * 1000)
		FROM replica_ctl.operation_step WHERE step = '$step'");
}

# One switchover to the member that does not lead.
sub measure
{
	my ($side) = @_;
	my $leader = $patroni->leader;
	my $member = $leader eq 'p1' ? 'p2' : 'p1';
	my $port = $patroni->{nodes}{$member}{port};
	my ($writers, $start, $operation, %last);

	$patroni->sql($leader, 'TRUNCATE acked');
	$patroni->sql($leader, "ALTER SYSTEM SET replica_ctl.fence_action = '" . ($side eq 'error' ? 'error' : 'hold') . "'");
	$patroni->sql($leader, 'SELECT pg_reload_conf()');
	$writers = Writers->start($patroni, $patroni->ports, 'aaaa');
	sleep 1.5;
	$start = time;
	if ($side eq 'patroni')
	{
		$patroni->call($leader, 'POST', '/switchover', qq({"leader": "$leader", "candidate": "$member"}));
	}
	else
	{
		$operation = $patroni->sql($leader, "SELECT replica_promote('$member')");
	}
	wait_until(sub { $patroni->sql($member, 'SELECT NOT pg_is_in_recovery()') eq 't' }, 'the new leader');
	sleep 1;
	$writers->stop;
	$patroni->outcome($operation) =~ /^succeeded/ or die "the promotion failed\n" if $operation;

	my @acked = $writers->acked;
	my ($first) = grep { $_->[4] == $port } @acked;
	my $errors = 0;

	$last{ $_->[0] } = $_->[1] for @acked;
	$errors += $last{$_} for keys %last;
	$lost += $writers->lost(sub { $patroni->lead($_[0]) });
	wait_until(sub { eval { $patroni->settled; 1 } && $patroni->lead('SELECT count(*) FROM pg_stat_replication') eq '1' }, 'the cluster to settle');
	wait_until(sub { $patroni->registry eq "$leader streaming" }, 'the registry');
	return ($first->[3] / 1e6 - $start, ($writers->gap)[0] / 1e3, ($errors - @acked) / 4);
}
