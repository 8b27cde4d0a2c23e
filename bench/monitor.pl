# What watching costs: a sample with few and many slots and WAL segments, the
# views, the same facts by SQL; what a workload notices; what memory it takes.
#
# Goals: a sample takes at most 5 ms of CPU with 200 slots and 10,000 segments
# and grows at most linearly; views answer in less than 2 ms with 200 replicas;
# pgbench cannot tell a server that is sampled from one that is not; an idle
# server writes no more WAL.
#
# CPU times are the kernel's (/proc/PID/schedstat).  The segments are sparse
# files of 1 MB.  pgbench runs on two servers that are the same but for the
# library; each goes first as often as the other, and for the second half of the
# pairs they change roles.
#
# RCTL_BENCH_SECONDS  seconds of each measurement (10)
# RCTL_BENCH_ROUNDS   pairs of pgbench runs (12)

use strict;
use warnings;
use Bench;
use Time::HiRes qw(sleep time);

my $seconds = $ENV{RCTL_BENCH_SECONDS} || 10;
my $rounds = $ENV{RCTL_BENCH_ROUNDS} || 12;

my $server = Bench::Server->new('watched', initdb => ['--wal-segsize=1'],
	settings => {
		max_replication_slots => 210,
		wal_keep_size => "'60GB'",
		checkpoint_timeout => "'1d'",
		autovacuum => 'off',
		'replica_ctl.sample_interval' => "'100ms'" });

samples();
views();
by_sql();
memory();
workload();

sub monitor_pid
{
	my ($its_server) = @_;
	my $pid;
	wait_until(sub { $pid = $its_server->sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'replica_ctl monitor'}) }, 'the monitor');
	return $pid;
}

# CPU time of a process, in milliseconds
sub cpu
{
	my ($pid) = @_;
	open my $in, '<', "/proc/$pid/schedstat" or die "schedstat: $!\n";
	my ($ns) = split / /, <$in>;
	return $ns / 1e6;
}

sub segments { return scalar grep { /[0-9A-F]{24}$/ } glob($server->data_dir . '/pg_wal/*') }

# As many segments as asked for, before the current one.
sub add_segments
{
	my ($wanted) = @_;
	my ($timeline, $log, $segment) = map { hex } unpack 'A8A8A8', $server->sql('SELECT pg_walfile_name(pg_current_wal_lsn())');
	my $number = $log * 4096 + $segment;

	for (my $missing = $wanted - segments(); $missing > 0; $missing--)
	{
		my $path;
		do
		{
			$number--;
			die "there is no room before the current segment\n" if $number <= 0;
			$path = sprintf '%s/pg_wal/%08X%08X%08X', $server->data_dir, $timeline, int($number / 4096), $number % 4096;
		} while (-e $path);
		open my $out, '>', $path or die "$path: $!\n";
		truncate $out, 1048576;
		close $out;
	}
	return;
}

sub add_slots
{
	my ($wanted) = @_;
	$server->sql("SELECT count(pg_create_physical_replication_slot('s' || i, true))
		FROM generate_series((SELECT count(*) + 1 FROM pg_replication_slots), $wanted) i");
	return;
}

# Far enough into the WAL for many segments, without writing them.
sub move_on
{
	$server->shut_down;
	run('pg_resetwal', '-l', '000000010000000500000000', '-D', $server->data_dir);
	$server->start;
	return;
}

sub samples
{
	my @rows;

	move_on();
	for my $segments (100, 1000, 10000)
	{
		add_segments($segments);
		$server->sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots");
		for my $slots (1, 10, 50, 200)
		{
			add_slots($slots);
			push @rows, [ $slots, segments(), measure() ];
		}
	}
	print "### A sample, CPU time ($seconds s each, ten samples a second)\n\n";
	table([ 'slots', 'segments', 'mean of a sample', 'greatest', 'of one CPU, sampling every second' ], @rows);
	return;
}

# The mean of a sample, the greatest single one, and the part of a CPU once a second.
sub measure
{
	my $pid = monitor_pid($server);
	my ($greatest, $end) = (0);

	sleep 1;
	my $start = my $last = cpu($pid);
	my $count = $server->sql('SELECT count(DISTINCT sampled_at) FROM replica_metrics_history');
	my $begin = time;
	while (time < $begin + $seconds)
	{
		sleep 0.02;
		my $now = cpu($pid);
		$greatest = $now - $last if $now - $last > $greatest;
		$last = $now;
	}
	my $samples = (time - $begin) * 10;
	my $mean = (cpu($pid) - $start) / $samples;
	return (sprintf('%.3f ms', $mean), sprintf('%.2f ms', $greatest), sprintf('%.3f %%', $mean / 10));
}

# The median of many runs of a query, in milliseconds, without psql.
sub query_ms
{
	my ($sql, $runs) = @_;
	return $server->sql(qq{
		DO \$do\$ DECLARE times float[]; t timestamptz; r record; BEGIN
			FOR i IN 1..$runs LOOP
				t := clock_timestamp();
				FOR r IN $sql LOOP NULL; END LOOP;
				times := times || (extract(epoch FROM clock_timestamp() - t) * 1000)::float;
			END LOOP;
			PERFORM set_config('bench.median', (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY x) FROM unnest(times) x)::text, false);
		END \$do\$;
		SELECT round(current_setting('bench.median')::numeric, 3)});
}

sub views
{
	$server->sql(q{INSERT INTO replica_ctl.replica (name, server, state, options, facts, created_by, system_identifier, timeline_id, home)
		SELECT 'r' || i, 'local', 'streaming', '{}',
			jsonb_build_object('application_name', 'r' || i, 'slot', 's' || i, 'host', '127.0.0.1', 'port', '1',
				'data_directory', '/nonexistent/r' || i), current_user, '', 1, ''
		FROM generate_series(1, 200) i; ANALYZE replica_ctl.replica; SELECT replica_claim()});
	wait_until(sub { $server->sql(q{SELECT count(*) FROM replica_status WHERE state = 'stopped'}) == 200 }, 'the replicas');
	my @rows = map { [ $_, query_ms("SELECT * FROM $_", 100) . ' ms' ] }
	  qw(replica_status replica_lag replica_slots replica_wal_usage replica_disk_usage replica_metrics);
	print "\n### Views with 200 replicas (median of 100)\n\n";
	table([ 'view', 'time' ], @rows);
	print "\nWith 200 replicas that do not answer, a sample takes ", (measure())[0], " of CPU.\n";
	return;
}

sub by_sql
{
	my @rows = map { [ $_->[0], query_ms($_->[1], 20) . ' ms' ] } (
		[ '`pg_ls_waldir()`: size of pg_wal', 'SELECT count(*), sum(size) FROM pg_ls_waldir()' ],
		[ '`pg_ls_archive_statusdir()`', q{SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'} ],
		[ '`pg_replication_slots`: WAL kept', 'SELECT slot_name, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) FROM pg_replication_slots' ],
		[ '`pg_stat_replication`', 'SELECT * FROM pg_stat_replication' ]);
	print "\n### The same facts by SQL, with 200 slots and ", segments(), " segments (median of 20)\n\n";
	table([ 'query', 'time' ], @rows);
	return;
}

sub memory
{
	my @rows;

	for my $set ([ 3600, 200 ], [ 86400, 200 ], [ 3600, 1000 ], [ 10, 1 ])
	{
		$server->sql("ALTER SYSTEM SET replica_ctl.history_size = $set->[0]");
		$server->sql("ALTER SYSTEM SET replica_ctl.max_replicas = $set->[1]");
		$server->shut_down;
		$server->start;
		push @rows, [ @$set, map { sprintf '%.1f kB', $_ / 1024 } split /\|/,
			$server->sql(q{SELECT sum(allocated_size) FILTER (WHERE name ~ 'sample'), sum(allocated_size) FILTER (WHERE name !~ 'sample')
				FROM pg_shmem_allocations WHERE name ~ '^replica_ctl'}) ];
	}
	print "\n### Shared memory, with 210 slots\n\n";
	table([ 'history_size', 'max_replicas', 'samples', 'everything else of the extension' ], @rows);
	return;
}

sub address
{
	my ($its_server) = @_;
	return ('-h', $its_server->host, '-p', $its_server->port, '-U', 'bench');
}

sub throughput
{
	my ($its_server) = @_;
	my $command = join ' ', 'pgbench', '-n', '-c', 2, '-j', 2, '-T', $seconds, '-M', 'prepared', '-b', 'tpcb-like', address($its_server), 'postgres';
	my ($tps) = `$command 2>&1` =~ /^tps = ([0-9.]+)/m or die "pgbench failed\n";

	return $tps;
}

# One is preloaded and has the extension; both have 50 slots.
sub workload
{
	my @servers = map {
		Bench::Server->new($_, extension => 0, settings => {
			shared_preload_libraries => "''", shared_buffers => "'256MB'", synchronous_commit => 'off', autovacuum => 'off',
			max_replication_slots => 60 })
	} qw(one other);
	my @pairs;

	for my $its_server (@servers)
	{
		run('pgbench', '-i', '-q', '-s', 10, address($its_server), 'postgres');
		# they keep no WAL, which would cost more than looking at them
		$its_server->sql(q{SELECT count(pg_create_physical_replication_slot('s' || i)) FROM generate_series(1, 50) i});
	}
	for my $round (0 .. $rounds - 1)
	{
		my $half = int($round * 2 / $rounds);
		my %tps;

		swap_roles($half, @servers) if $round == 0 || $half != int(($round - 1) * 2 / $rounds);
		for my $index ($round % 2 ? (0, 1) : (1, 0))
		{
			$tps{ $index == $half ? 'with' : 'without' } = throughput($servers[$index]);
		}
		push @pairs, \%tps;
	}
	my @ratios = map { $_->{with} / $_->{without} } @pairs;
	my $part = sub { return sprintf '%.3f', percentile($_[0], @ratios) };
	print "\n### pgbench, TPC-B-like, sampled every second against not ($rounds pairs, 2 clients, $seconds s each)\n\n";
	table([ 'without, tps', 'with, tps', 'ratio: median of the pairs', 'quarter to three quarters', 'least to most', 'with is slower in' ],
		[ (map { my $side = $_; sprintf '%.0f', median(map { $_->{$side} } @pairs) } qw(without with)),
			$part->(50), $part->(25) . ' to ' . $part->(75), $part->(0) . ' to ' . $part->(100),
			scalar(grep { $_ < 1 } @ratios) . " of $rounds pairs" ]);

	# Quiet servers: what is left to be written is written first.
	$_->sql('CHECKPOINT') for @servers;
	sleep 40;
	my @before = map { $_->sql('SELECT pg_current_wal_insert_lsn()') } @servers;
	sleep 2 * $seconds;
	my @bytes = map { $servers[$_]->sql("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '$before[$_]')") } 0, 1;
	printf "\nIdle for %d s: %d bytes of WAL without, %d with sampling.\n", 2 * $seconds, @bytes;
	return;
}

# Restarts both, the one of this index with the library, and warms them.
sub swap_roles
{
	my ($with, @servers) = @_;

	for my $index (0, 1)
	{
		my $its_server = $servers[$index];

		$its_server->stop;
		$its_server->start($index == $with ? "-c shared_preload_libraries=replica_ctl" : '');
		if ($index == $with)
		{
			$its_server->sql('CREATE EXTENSION IF NOT EXISTS replica_ctl');
			monitor_pid($its_server);
		}
		throughput($its_server);
	}
	return;
}
