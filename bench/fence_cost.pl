# What the fence's hooks cost while there is no fence: pgbench with and without
# the library preloaded, in pairs, select-only and TPC-B-like.
#
# Two servers that are the same but for the library; each goes first as often
# as the other, and for the second half of the pairs they change roles, so that
# neither the order nor the files make a difference.  TPC-B-like runs do not
# wait for the disk (synchronous_commit = off), which would hide the cost.
#
# Goal: the ratio cannot be told from 1.
#
# RCTL_BENCH_ROUNDS   pairs of each kind (12)
# RCTL_BENCH_SECONDS  seconds of each run (5)

use strict;
use warnings;
use Bench;

my $rounds = $ENV{RCTL_BENCH_ROUNDS} || 12;
my $seconds = $ENV{RCTL_BENCH_SECONDS} || 5;
my @servers = map {
	Bench::Server->new($_, extension => 0,
		settings => { shared_preload_libraries => "''", shared_buffers => "'256MB'", synchronous_commit => 'off', autovacuum => 'off' })
} qw(one other);
my @kinds = ([ 'select-only', '-S' ], [ 'TPC-B-like', '-b', 'tpcb-like' ]);
my %pairs;

run('pgbench', '-i', '-q', '-s', 10, address($_), 'postgres') for @servers;
for my $round (0 .. $rounds - 1)
{
	my $half = int($round * 2 / $rounds);

	swap_roles($half) if $round == 0 || $half != int(($round - 1) * 2 / $rounds);
	for my $kind (@kinds)
	{
		my ($name, @options) = @$kind;
		my %tps;

		for my $index ($round % 2 ? (0, 1) : (1, 0))
		{
			$tps{ $index == $half ? 'with' : 'without' } = throughput($servers[$index], @options);
		}
		push @{ $pairs{$name} }, \%tps;
	}
}

print "### pgbench with the library preloaded against without ($rounds pairs, 2 clients, $seconds s each)\n\n";
table(
	[ 'what', 'without, tps', 'with, tps', 'ratio: median of the pairs', 'quarter to three quarters', 'least to most', 'with is slower in' ],
	map { row($_->[0]) } @kinds);

sub row
{
	my ($name) = @_;
	my @pairs = @{ $pairs{$name} };
	my @ratios = map { $_->{with} / $_->{without} } @pairs;
	my $part = sub { return sprintf '%.3f', percentile($_[0], @ratios) };

	return [ $name, (map { my $side = $_; sprintf '%.0f', median(map { $_->{$side} } @pairs) } qw(without with)),
		$part->(50), $part->(25) . ' to ' . $part->(75), $part->(0) . ' to ' . $part->(100),
		scalar(grep { $_ < 1 } @ratios) . " of $rounds pairs" ];
}

sub address
{
	my ($server) = @_;
	return ('-h', $server->host, '-p', $server->port, '-U', 'bench');
}

# Restarts both, the one of this index with the library, and warms them.
sub swap_roles
{
	my ($with) = @_;

	for my $index (0, 1)
	{
		my $server = $servers[$index];
		my $library = $index == $with ? 'replica_ctl' : '';

		run('pg_ctl', '-D', $server->data_dir, '-l', $server->log, '-m', 'fast', '-w', '-o', "-c shared_preload_libraries=$library", 'restart');
		throughput($server, @{ $_ }[ 1 .. $#$_ ]) for @kinds;
	}
	return;
}

sub throughput
{
	my ($server, @options) = @_;
	my $command = join ' ', 'pgbench', '-n', '-c', 2, '-j', 2, '-T', $seconds, '-M', 'prepared', @options, address($server), 'postgres';
	my ($tps) = `$command 2>&1` =~ /^tps = ([0-9.]+)/m or die "pgbench failed\n";

	return $tps;
}
