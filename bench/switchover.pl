# How long writes stand still when a replica takes over, under four clients
# that write one row a transaction: a planned promotion against pg_promote
# alone, and against the same by hand, in turns in one run.
#
# Goals for the write gap: median at most 1.5 times pg_promote alone and at
# most 100 ms, 95th percentile at most 250 ms; with 1 GB of dirty buffers at
# most 1.5 times that of a small database.  From the fence to zero lag with
# pgbench at full speed: median below 50 ms.
#
# RCTL_BENCH_ROUNDS     runs of each side (20)
# RCTL_BENCH_SIDES      which ones, of bare, ours, hand (all)
# RCTL_BENCH_PARTS      which parts, of gap, dirty, drill, held (all)
# RCTL_BENCH_ARGUMENTS  more arguments of replica_promote

use strict;
use warnings;
use Bench;
use Clients;
use Time::HiRes qw(sleep time);

my $rounds = $ENV{RCTL_BENCH_ROUNDS} || 20;
my @sides = split /[ ,]+/, $ENV{RCTL_BENCH_SIDES} // 'bare,ours,hand';
my %parts = map { $_ => 1 } split /[ ,]+/, $ENV{RCTL_BENCH_PARTS} // 'gap,dirty,drill,held';
my $arguments = $ENV{RCTL_BENCH_ARGUMENTS} ? ", $ENV{RCTL_BENCH_ARGUMENTS}" : '';
my %describe = (
	bare => 'pg_promote alone: from the request to the first write',
	ours => 'replica_promote: write gap',
	hand => 'by hand (read-only, terminate, wait for replay, pg_promote): write gap');
my %side = (bare => \&bare, ours => \&ours, hand => \&hand);
my $made = 0;
my $lost = 0;
my %small;

my $server = Bench::Server->new('primary',
	settings => { shared_buffers => "'128MB'", 'replica_ctl.fence_action' => 'hold' });
$server->sql('CREATE TABLE acked (client int, seq bigint)');

compare_gaps() if $parts{gap};
time_to_zero_lag() if $parts{drill};
hold_and_lift() if $parts{held};
dirty_buffers() if $parts{dirty};

# ---- the write gap

sub compare_gaps
{
	my (%seconds, @steps);

	for my $round (0 .. $rounds)
	{
		# each goes first as often as the others
		my @order = map { $sides[ ($round + $_) % @sides ] } 0 .. $#sides;

		for my $name (@order)
		{
			my ($gap, $detail) = measure($side{$name});

			# the first round warms the caches
			next if $round == 0;
			push @{ $seconds{$name} }, $gap;
			push @steps, $detail if $detail;
		}
	}
	%small = %seconds;
	print "### Four clients write while a replica takes over ($rounds rounds)\n\n";
	table([ 'what', 'median', '95 %', 'least', 'most', 'of pg_promote alone' ],
		map { gap_row($describe{$_}, $seconds{$_}, $seconds{bare}) } @sides);
	print "\nAcknowledged rows that were lost by a planned promotion or by hand: $lost\n";
	show_steps(@steps) if @steps;
	return;
}

sub gap_row
{
	my ($what, $seconds, $base) = @_;

	return [ $what, ms(median(@$seconds)), ms(percentile(95, @$seconds)), ms(percentile(0, @$seconds)),
		ms(percentile(100, @$seconds)), $base ? sprintf('%.2f', median(@$seconds) / median(@$base)) : '' ];
}

# Where the time of a planned promotion goes, from the events.
sub show_steps
{
	my (@details) = @_;
	my @keys = qw(fence_ms zero_lag_ms segment_ms promote_ms writes_stopped_ms);

	print "\n";
	table([ 'planned promotion: ms of', 'median', '95 %', 'most' ],
		map {
			my $key = $_;
			my @values = grep { defined } map { $_->{$key} } @details;
			@values ? [ $key, map { sprintf '%.1f', percentile($_, @values) } 50, 95, 100 ] : ();
		} @keys);
	return;
}

# One run: a new replica, clients, the take-over, and back.  Its seconds, and
# the detail of the event if there is one.
sub measure
{
	my ($side) = @_;
	my $name = 'r' . ++$made;
	my ($replica, $clients, @result);

	$server->sql("TRUNCATE acked; SELECT replica_create('$name')");
	$server->sql("SELECT replica_wait('$name')");
	$replica = Bench::Server->at($server->sql("SELECT split_part(endpoint, ':', 2) FROM replica_status WHERE replica = '$name'"));
	$replica->sql('SELECT 1');
	$server->sql('CHECKPOINT');
	$clients = Clients->start($server, [ $server->port, $replica->port ], 'aaaa');
	$clients->warm_up(1);
	@result = $side->($name, $replica, $clients);
	$clients->stop;
	$server->sql('SELECT replica_unfence()') if $server->sql(q{SELECT phase <> 'down' FROM replica_ctl.fence()}) eq 't';
	$server->sql("SELECT replica_drop('$name', force => true)");
	$server->sql("SELECT replica_wait('$name')");
	return @result;
}

sub wait_until_primary
{
	my ($replica) = @_;

	until ($replica->sql('SELECT pg_is_in_recovery()') eq 'f') { sleep 0.001 }
	return;
}

# The clients go on writing to the old primary: a floor, not a take-over.
sub bare
{
	my ($name, $replica) = @_;

	return timed
	{
		$replica->sql('SELECT pg_promote(false)');
		wait_until_primary($replica);
		$replica->sql('INSERT INTO acked VALUES (-1, 1)');
	};
}

sub ours
{
	my ($name, $replica, $clients) = @_;
	my %detail;

	$server->sql("SELECT replica_promote('$name'$arguments)");
	$server->sql("SELECT replica_wait('$name')");
	finish($replica, $clients);
	%detail = map { split /=/, $_, 2 } split /\n/, $server->sql(qq{
		SELECT key || '=' || value FROM replica_events, jsonb_each_text(detail)
		WHERE replica = '$name' AND kind = 'promoted'});
	return ($clients->gap, \%detail);
}

sub hand
{
	my ($name, $replica, $clients) = @_;
	my $lsn;

	$server->sql('ALTER SYSTEM SET default_transaction_read_only = on');
	$server->sql('SELECT pg_reload_conf()');
	$server->sql(q{SELECT count(pg_terminate_backend(pid, 1000)) FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()});
	$lsn = $server->sql('SELECT pg_current_wal_flush_lsn()');
	until ($replica->sql("SELECT pg_last_wal_replay_lsn() >= '$lsn'") eq 't') { sleep 0.001 }
	$replica->sql('SELECT pg_promote(false)');
	wait_until_primary($replica);
	finish($replica, $clients);
	$server->sql('SET default_transaction_read_only = off');
	$server->sql('ALTER SYSTEM RESET default_transaction_read_only');
	$server->sql('SELECT pg_reload_conf()');
	return $clients->gap;
}

sub finish
{
	my ($replica, $clients) = @_;

	sleep 0.5;
	$clients->stop;
	$lost += $clients->lost($replica);
	return;
}

# ---- pgbench at full speed

sub start_pgbench
{
	my ($seconds, @more) = @_;
	my $pid = fork // die "fork: $!\n";

	return $pid if $pid;
	open STDOUT, '>', $server->scratch('pgbench.out');
	open STDERR, '>&', \*STDOUT;
	exec 'pgbench', '-n', '-h', $server->host, '-p', $server->port, '-U', 'bench', '-c', 8, '-j', 2, '-T', $seconds, @more, 'postgres'
	  or die "pgbench: $!\n";
}

sub time_to_zero_lag
{
	my (@fence, @zero_lag, @stopped, $pgbench);

	run('pgbench', '-i', '-q', '-s', 10, '-h', $server->host, '-p', $server->port, '-U', 'bench', 'postgres');
	$server->sql(q{SELECT replica_create('drilled')});
	$server->sql(q{SELECT replica_wait('drilled')});
	$pgbench = start_pgbench(600);
	sleep 3;
	for my $round (1 .. $rounds)
	{
		$server->sql(q{SELECT replica_drill('drilled')});
		$server->sql(q{SELECT replica_wait('drilled')});
		my ($fence, $zero_lag, $stopped) = split /\|/, $server->sql(q{
			SELECT detail->>'fence_ms', detail->>'zero_lag_ms', detail->>'writes_stopped_ms'
			FROM replica_events WHERE kind = 'drill' ORDER BY event DESC LIMIT 1});
		push @fence, $fence / 1000;
		push @zero_lag, $zero_lag / 1000;
		push @stopped, $stopped / 1000;
		sleep 0.5;
	}
	kill 'TERM', $pgbench;
	waitpid $pgbench, 0;
	$server->sql(q{SELECT replica_drop('drilled')});
	$server->sql(q{SELECT replica_wait('drilled')});
	print "\n### replica_drill with pgbench at full speed (8 clients, $rounds rounds)\n\n";
	table([ 'what', 'median', '95 %', 'least', 'most' ],
		map { my ($what, @seconds) = @$_; [ $what, map { ms(percentile($_, @seconds)) } 50, 95, 0, 100 ] }
		  ([ 'fence', @fence ], [ 'fence to zero lag (goal: median below 50 ms)', @zero_lag ], [ 'writes stood still', @stopped ]));
	return;
}

# ---- a fence of a minute

# Transactions by second, from pgbench's log.
sub throughput
{
	my ($prefix) = @_;
	my %count;

	for my $file (glob "$prefix*")
	{
		open my $in, '<', $file or die "$file: $!\n";
		while (<$in>)
		{
			my (undef, undef, undef, undef, $second, $us) = split;
			$count{ int($second + $us / 1e6) }++;
		}
	}
	return %count;
}

sub hold_and_lift
{
	my $hold = $ENV{RCTL_BENCH_HOLD} || 60;
	my $prefix = $server->scratch('held');
	my ($pgbench, $held, $lifted, %count, @before, $after, $status);

	run('pgbench', '-i', '-q', '-s', 10, '-h', $server->host, '-p', $server->port, '-U', 'bench', 'postgres');
	$pgbench = start_pgbench($hold + 20, '-l', "--log-prefix=$prefix");
	sleep 10;
	my $fenced = time;
	$server->sql(q{SELECT replica_fence('benchmark')});
	sleep $hold;
	$held = $server->sql('SELECT held FROM replica_ctl.fence()');
	$lifted = time;
	$server->sql('SELECT replica_unfence()');
	waitpid $pgbench, 0;
	$status = $?;

	%count = throughput($prefix);
	@before = map { $count{$_} // 0 } int($fenced) - 6 .. int($fenced) - 2;
	my ($during) = sort { $b <=> $a } map { $count{$_} // 0 } int($fenced) + 1 .. int($lifted) - 1;
	($after) = grep { ($count{$_} // 0) >= 0.8 * median(@before) } int($lifted) .. int($lifted) + 30;
	print "\n### A fence held for $hold s and lifted, under pgbench (8 clients)\n\n";
	table([ 'what', 'value' ],
		[ 'transactions a second before', median(@before) ],
		[ 'most in a second behind the fence', $during // 0 ],
		[ 'sessions that were held (clients and autovacuum)', $held ],
		[ 'clients that failed', $status == 0 ? 'none' : 'some: see pgbench.out' ],
		[ 'back at 80 % in the second that begins', $after ? sprintf('%.2f s after the fence was lifted', $after - $lifted) : 'never' ]);
	return;
}

# ---- dirty buffers

# A server with room for 1 GB of them, which no checkpoint and no background
# writer takes away; the replica's are as dirty.
sub dirty_buffers
{
	my (%seconds, @steps);

	$server = Bench::Server->new('large',
		settings => { shared_buffers => "'1536MB'", checkpoint_timeout => "'1h'", max_wal_size => "'16GB'", bgwriter_lru_maxpages => 0, wal_compression => 'on' });
	$server->sql('CREATE TABLE acked (client int, seq bigint)');
	$server->sql('CREATE TABLE large (id int, text text) WITH (fillfactor = 80)');
	$server->sql(q{INSERT INTO large SELECT g, repeat('x', 730) FROM generate_series(1, 1100000) g});
	for my $round (0 .. ($ENV{RCTL_BENCH_DIRTY_ROUNDS} || 5))
	{
		for my $name (grep { $_ ne 'hand' } @sides)
		{
			my $function = $side{$name};
			my ($gap, $detail) = measure(
				sub {
					my ($replica_name, $replica, $clients) = @_;
					# one row of each block, in place
					$server->sql('UPDATE large SET id = id WHERE id % 8 = 0');
					my $lsn = $server->sql('SELECT pg_current_wal_insert_lsn()');
					wait_until(sub { $replica->sql("SELECT pg_last_wal_replay_lsn() >= '$lsn'") eq 't' }, 'the replica');
					return $function->($replica_name, $replica, $clients);
				});
			next if $round == 0;
			push @{ $seconds{$name} }, $gap;
			push @steps, $detail if $detail;
		}
	}
	print "\n### The same with 1 GB of dirty buffers\n\n";
	table([ 'what', 'median', 'least', 'most', 'of the small one' ],
		map {
			my @values = @{ $seconds{$_} };
			[ $describe{$_}, (map { ms(percentile($_, @values)) } 50, 0, 100),
				$small{$_} ? sprintf('%.2f', median(@values) / median(@{ $small{$_} })) : '' ];
		} grep { $seconds{$_} } @sides);
	show_steps(@steps);
	return;
}
