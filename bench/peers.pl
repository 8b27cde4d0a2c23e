# How long writes stand still when two servers change places, under four
# clients that write one row a transaction: this extension's switchover beside
# those of Patroni (with etcd), pg_auto_failover and repmgr, in turns in one
# run.  Then the same with 1 GB of dirty shared buffers.
#
# Goals: a tenth of each of theirs; with dirty buffers at most 1.5 times the
# value without.
#
# RCTL_BENCH_ROUNDS        switchovers of each (10), after one that is not counted
# RCTL_BENCH_DIRTY_ROUNDS  the same with dirty buffers (3; 0 leaves them out)
# RCTL_BENCH_PEERS         which (replica_ctl,patroni,pg_auto_failover,repmgr)
#
# The peers' packages are installed by "dev/install-deps --bench"; one that is
# not there is left out, and said so.

use strict;
use warnings;
use Bench;
use Clients;
use Peers;
use POSIX ();
use Time::HiRes qw(sleep time);

my $rounds = $ENV{RCTL_BENCH_ROUNDS} // 10;
my $dirty_rounds = $ENV{RCTL_BENCH_DIRTY_ROUNDS} // 3;
my @names = split /[ ,]+/, $ENV{RCTL_BENCH_PEERS} // 'replica_ctl,patroni,pg_auto_failover,repmgr';
my %small;
my $lost = 0;

for my $name (@names)
{
	my @missing = Peers::missing($name) or next;
	print "$name is left out: @missing not found; see dev/install-deps --bench\n\n";
	@names = grep { $_ ne $name } @names;
}

compare($rounds) if $rounds > 0;
compare_dirty($dirty_rounds) if $dirty_rounds > 0;

# One switchover under clients: the write gap and what the command took, in
# seconds; nothing if it failed.
sub measure
{
	my ($peer) = @_;
	my $from = $peer->leader_port;
	my $leader = Bench::Server->at($from);
	my ($command, $clients, $holder, $failed);

	$leader->sql('TRUNCATE acked; CHECKPOINT') unless $peer->{dirty};
	$clients = Clients->start($leader, [ $peer->ports ], 'aaaa');
	$clients->warm_up(1);
	$command = timed { eval { $peer->switch; 1 } or $failed = $@ };
	if (!$failed)
	{
		wait_until(sub { ($peer->leader_port // $from) != $from }, 'the new primary', 60);
		sleep 1;
	}
	$clients->stop;
	$peer->wait_healthy;
	if ($failed)
	{
		warn "$peer->{name}: $failed";
		return;
	}
	$holder = $peer->leader;
	$lost += $clients->lost($holder);
	return ($clients->gap, $command);
}

sub prepare
{
	my ($peer) = @_;

	$peer->start;
	$peer->leader->sql('CREATE TABLE acked (client int, seq bigint)');
	$peer->wait_healthy;
	return;
}

sub compare
{
	my ($count) = @_;
	my %peer = map { $_ => Peers->new($_) } @names;
	my (%gap, %command);

	prepare($_) for map { $peer{$_} } @names;
	for my $round (0 .. $count)
	{
		for my $name (map { $names[ ($round + $_) % @names ] } 0 .. $#names)
		{
			my ($gap, $command) = measure($peer{$name});

			# the first one warms the caches
			next if $round == 0 || !defined $gap;
			push @{ $gap{$name} }, $gap;
			push @{ $command{$name} }, $command;
		}
	}
	$_->stop for values %peer;
	%small = map { $_ => median(@{ $gap{$_} }) } keys %gap;
	print "### Four clients write while two servers change places ($count switchovers of each)\n\n";
	report(\%gap, \%command, 'times ours', sub { $small{replica_ctl} ? $small{ $_[0] } / $small{replica_ctl} : 0 });
	print "\nAcknowledged rows that were lost: $lost\n";
	return;
}

sub report
{
	my ($gap, $command, $title, $ratio) = @_;

	table([ 'tool', 'write gap: median', 'least', 'most', $title, 'the command', 'runs' ],
		map {
			my @gaps = @{ $gap->{$_} };
			[ $_, (map { ms(percentile($_, @gaps)) } 50, 0, 100), sprintf('%.1f', $ratio->($_)),
				seconds(median(@{ $command->{$_} })), scalar @gaps ];
		} grep { $gap->{$_} } @names);
	return;
}

# One after the other, as each takes 3 GB of memory.
sub compare_dirty
{
	my ($count) = @_;
	my %settings = (shared_buffers => '1536MB', checkpoint_timeout => '1h', max_wal_size => '16GB', bgwriter_lru_maxpages => 0, wal_compression => 'on');
	my (%gap, %command);

	for my $name (@names)
	{
		my $peer = Peers->new($name, suffix => '_dirty', settings => \%settings);

		prepare($peer);
		$peer->{dirty} = 1;
		$peer->leader->sql('CREATE TABLE large (id int, text text) WITH (fillfactor = 80)');
		$peer->leader->sql(q{INSERT INTO large SELECT g, repeat('x', 730) FROM generate_series(1, 1100000) g});
		for my $round (1 .. $count)
		{
			my $leader = $peer->leader;

			$leader->sql('TRUNCATE acked');
			# one row of each block, in place
			$leader->sql('UPDATE large SET id = id WHERE id % 8 = 0');
			$peer->wait_healthy;
			my ($gap, $command) = measure($peer);
			next unless defined $gap;
			push @{ $gap{$name} }, $gap;
			push @{ $command{$name} }, $command;
		}
		$peer->stop;
	}
	print "\n### The same with 1 GB of dirty buffers ($count switchovers of each)\n\n";
	report(\%gap, \%command, 'of the small one', sub { $small{ $_[0] } ? median(@{ $gap{ $_[0] } }) / $small{ $_[0] } : 0 });
	return;
}
