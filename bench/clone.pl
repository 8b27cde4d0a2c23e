# How fast a local replica is made and brought back: the methods of
# replica_create, and the same by hand, all in one run, in turns.
#
# Sizes: RCTL_BENCH_SCALE (pgbench, 280 makes 4 GB), RCTL_BENCH_TABLE_MB (a
# table next to it, 3072), RCTL_BENCH_ROUNDS (5), RCTL_BENCH_RATE (kB/s, for
# the throughput of the primary, 65536), RCTL_BENCH_SECONDS (15, of that).
# RCTL_BENCH_XFS names a directory on a file system with reflinks for the part
# that needs one; "bench/on-xfs make bench B=bench/clone.pl", as root, makes
# one in a loop mount.
#
# Goals: method copy at most 0.55 times pg_basebackup, until streaming, and at
# least 0.8 of the speed of a two-thread cp and sync; at most 1 s with
# reflinks; a repair with 1 % of the blocks changed at most 0.4 times a copy,
# and writes within 1.2 times of what changed; throughput of TPC-B within 10 %
# of that during pg_basebackup at the same rate.

use strict;
use warnings;
use Bench;
use Time::HiRes qw(sleep time);

my $rounds = $ENV{RCTL_BENCH_ROUNDS} || 5;
my $scale = $ENV{RCTL_BENCH_SCALE} || 280;
my $table_mb = $ENV{RCTL_BENCH_TABLE_MB} || 3072;
my $rate = $ENV{RCTL_BENCH_RATE} || 65536;
my $server = Bench::Server->new('primary', settings => { shared_buffers => "'256MB'", max_wal_size => "'8GB'", wal_keep_size => 0 });
my $replicas = $server->data_dir . '.replicas';
my $dir = Bench::Server->host;
my %seconds;

fill();
my $bytes = $server->sql('SELECT sum(pg_database_size(oid)) FROM pg_database');
print STDERR sprintf("filled: %.1f GB\n", $bytes / 1e9);

for my $round (1 .. $rounds)
{
	# each goes at another place in every round
	my @ways = (
		[ 'basebackup' => sub { create('{"method": "basebackup"}') } ],
		[ 'cp' => \&cp_and_sync ],
		(map { my $jobs = $_; [ "copy $jobs" => sub { create(qq({"method": "copy", "jobs": $jobs})) } ] } 1, 2, 4));
	push @ways, splice @ways, 0, $round % @ways;
	for my $way (@ways)
	{
		my ($name, $run) = @$way;
		push @{ $seconds{$name} }, $run->();
		print STDERR "round $round: $name ", seconds($seconds{$name}[-1]), "\n";
	}
	my ($resync, $written, $changed) = resync($round);
	push @{ $seconds{resync} }, $resync;
	push @{ $seconds{written} }, $written / $changed;
	print STDERR "round $round: resync ", seconds($resync), "\n";
}

my %m = map { $_ => median(@{ $seconds{$_} }) } keys %seconds;
my ($best) = sort { $m{$a} <=> $m{$b} } 'copy 1', 'copy 2', 'copy 4';
my $row = sub {
	my ($what, $key, $ratio, $goal) = @_;
	return [ $what, seconds($m{$key}), seconds(percentile(100, @{ $seconds{$key} })), sprintf('%.0f MB/s', $bytes / 1e6 / $m{$key}), $ratio // '', $goal // '' ];
};
printf "### Making a local replica of %.1f GB, until it streams (%d rounds)\n\n", $bytes / 1e9, $rounds;
table(
	[ 'what', 'median', 'worst', 'speed', 'ratio', 'goal' ],
	$row->('method basebackup', 'basebackup'),
	$row->('two threads of cp, and sync: no replica', 'cp'),
	$row->('method copy, 1 thread', 'copy 1', sprintf('%.2f', $m{'copy 1'} / $m{basebackup})),
	$row->('method copy, 2 threads', 'copy 2', sprintf('%.2f', $m{'copy 2'} / $m{basebackup})),
	$row->('method copy, 4 threads', 'copy 4', sprintf('%.2f', $m{'copy 4'} / $m{basebackup})),
	[ 'best of these, to method basebackup', '', '', '', sprintf('%.2f', $m{$best} / $m{basebackup}), 'at most 0.55' ],
	[ 'best of these, to cp', '', '', '', sprintf('%.2f', $m{cp} / $m{$best}), 'at least 0.8' ],
	$row->('repair of a lost one, 1 % of the blocks changed', 'resync', sprintf('%.2f', $m{resync} / $m{$best}), 'at most 0.4 of a copy'),
	[ 'bytes written by that, to bytes changed', '', '', '', sprintf('%.2f', $m{written}), 'at most 1.2' ]);

reflinks();
throughput();

# pgbench and one large table.
sub fill
{
	run('pgbench', '-i', '-q', '-s', $scale, '-h', $dir, '-p', $server->port, '-U', 'bench', 'postgres');
	# about 100 MB at once
	my $rows = 102_400;
	$server->sql('CREATE TABLE large (id bigint, text text)');
	$server->sql("INSERT INTO large SELECT g, repeat(md5(g::text), 31) FROM generate_series(1, $rows) g")
	  for 1 .. int($table_mb / 107) || 1;
	$server->sql('VACUUM (ANALYZE) large');
	$server->sql('CHECKPOINT');
	return;
}

sub drop_replica
{
	my ($name) = @_;

	$server->sql("SELECT replica_drop('$name', force => true)");
	$server->sql("SELECT replica_wait('$name')");
	return;
}

# Seconds until a replica streams that is dropped then.
sub create
{
	my ($options) = @_;

	settle();
	my $took = timed { $server->sql("SELECT replica_create('r', options => '$options')"); $server->sql("SELECT replica_wait('r')") };
	drop_replica('r');
	return $took;
}

# What was removed or written before is not paid for by the next.
sub settle
{
	$server->sql('CHECKPOINT');
	run('sync');
	return;
}

sub cp_and_sync
{
	my $target = "$dir/cp";
	my $from = $server->data_dir;
	my $took;

	settle();
	mkdir $target;
	$took = timed
	{
		# by files, largest first, in two heaps
		run('sh', '-c', qq(cd "$from" && find . -type d -exec mkdir -p "$target/{}" \\; ; find . -type f -size +0 ! -path './pg_wal/*' -printf '%s %p\\n' | sort -rn | cut -d' ' -f2- | xargs -P 2 -n 8 cp --reflink=never --parents -t "$target"; sync));
	};
	run('rm', '-rf', $target);
	return $took;
}

# Seconds of a repair, bytes that it wrote, bytes that had changed.
sub resync
{
	my ($round) = @_;

	$server->sql(q{SELECT replica_create('lost', options => '{"method": "copy"}')});
	$server->sql(q{SELECT replica_wait('lost')});
	run('pg_ctl', '-D', "$replicas/lost", '-m', 'fast', '-w', 'stop');
	$server->sql(q{SELECT pg_drop_replication_slot('replica_ctl_lost')});
	# one row in each hundredth block, which fits there as it is not longer
	$server->sql("UPDATE large SET id = -id WHERE ctid IN (SELECT format('(%s,1)', b)::tid FROM generate_series($round, (SELECT relpages - 1 FROM pg_class WHERE relname = 'large'), 100) b)");
	for (1 .. 3) { $server->sql('SELECT pg_switch_wal()'); $server->sql('CHECKPOINT') }
	settle();
	my $changed = changed_bytes();
	my $took = timed { $server->sql(q{SELECT replica_repair('lost')}); $server->sql(q{SELECT replica_wait('lost')}) };
	my ($kind, $written) = split /\|/, $server->sql(q{SELECT kind, coalesce(detail->>'bytes_written', '0') FROM replica_events
		WHERE replica = 'lost' AND kind IN ('resynced', 'copied') ORDER BY event DESC LIMIT 1});
	die "it was not a resync: $kind\n" if $kind ne 'resynced';
	drop_replica('lost');
	return ($took, $written, $changed);
}

# What the stopped replica has different, in bytes of blocks.  It reads both
# sides, so that both are in the page cache as far as there is memory: a
# comparison of what is on disk takes the time of reading it there.
sub changed_bytes
{
	my $count = 0;
	my $from = $server->data_dir;
	my @files = split /\n/, `cd "$from" && find base global -type f ! -name 'pg_internal.init' ! -name pg_control`;
	for my $file (@files)
	{
		open my $a, '<:raw', "$from/$file" or next;
		open my $b, '<:raw', "$replicas/lost/$file" or do { $count += -s $a; next };
		my ($x, $y);
		while (my $got = sysread $a, $x, 1 << 20)
		{
			sysread $b, $y, 1 << 20;
			next if $x eq $y;
			for (my $at = 0; $at < $got; $at += 8192)
			{
				$count += 8192 if substr($x, $at, 8192) ne ($at < length $y ? substr($y, $at, 8192) : '');
			}
		}
	}
	return $count || 1;
}

# On a file system that clones.
sub reflinks
{
	my $mount = xfs() or return;
	my $reflinked;

	print "\n### The same on a file system with reflinks (XFS)\n\n";
	for my $share (0.25, 1)
	{
		my $primary = Bench::Server->new("xfs$share", data => "$mount/data$share", settings => { 'replica_ctl.local_directory' => "'$mount/replicas$share'" });
		my $rows = int(102_400 * $bytes * $share / 107e6 / 4);
		$primary->sql('CREATE TABLE large (id bigint, text text)');
		$primary->sql("INSERT INTO large SELECT g, repeat(md5(g::text), 31) FROM generate_series(1, $rows) g") for 1 .. 4;
		$primary->sql('CHECKPOINT');
		run('sync');
		my $free = free($mount);
		my @took;
		my $used;
		for my $round (1 .. $rounds)
		{
			push @took, timed { $primary->sql("SELECT replica_create('r$round')"); $primary->sql("SELECT replica_wait('r$round')") };
			$used //= $free - free($mount);
			$primary->sql("SELECT replica_drop('r$round')");
			$primary->sql("SELECT replica_wait('r$round')");
		}
		push @$reflinked, [ sprintf('%.1f GB', $primary->sql('SELECT sum(pg_database_size(oid)) FROM pg_database') / 1e9),
			seconds(median(@took)), seconds(percentile(100, @took)), sprintf('%.0f MB', $used / 1e6), 'at most 1 s' ];
		$primary->stop;
	}
	table([ 'size', 'median', 'worst', 'the file system has less free by', 'goal' ], @$reflinked);
	return;
}

sub free
{
	my ($mount) = @_;

	run('sync');
	my ($free) = `df -B1 --output=avail "$mount"` =~ /(\d+)\s*$/;
	return $free;
}

# A directory on a file system that clones; nothing if there is none.
sub xfs
{
	return $ENV{RCTL_BENCH_XFS} if $ENV{RCTL_BENCH_XFS};
	print "\nNo file system with reflinks was given (RCTL_BENCH_XFS): that part is left out. See bench/on-xfs.\n";
	return;
}

# Transactions per second of the primary while a copy goes on at a rate.
sub throughput
{
	my %tps;

	for my $round (1 .. $rounds)
	{
		for my $method ($round % 2 ? qw(basebackup copy none) : qw(none copy basebackup))
		{
			settle();
			if ($method ne 'none')
			{
				$server->sql(qq{SELECT replica_create('slow', options => '{"method": "$method", "max_rate": $rate}')});
				wait_until(sub { $server->sql(q{SELECT count(*) FROM replica_operations WHERE phase = 'copying' AND state = 'running'}) eq '1' }, 'the copy');
			}
			my $seconds = $ENV{RCTL_BENCH_SECONDS} || 15;
			my $out = `pgbench -n -c 4 -j 2 -T $seconds -h "$dir" -p @{[ $server->port ]} -U bench postgres 2>&1`;
			my ($tps) = $out =~ /tps = ([\d.]+)/ or die "pgbench: $out";
			push @{ $tps{$method} }, $tps;
			next if $method eq 'none';
			warn "the copy by $method had ended before pgbench\n"
			  if $server->sql(q{SELECT count(*) FROM replica_operations WHERE state = 'running' AND replica = 'slow'}) ne '1';
			$server->sql(q{SELECT replica_cancel(operation) FROM replica_operations WHERE replica = 'slow' AND state = 'running'});
			wait_until(sub { $server->sql(q{SELECT count(*) FROM replica_operations WHERE replica = 'slow' AND state IN ('queued', 'running')}) eq '0' }, 'the end of it');
			drop_replica('slow') if $server->sql(q{SELECT count(*) FROM replica_status WHERE replica = 'slow'}) eq '1';
		}
	}
	print "\n### TPC-B of pgbench on the primary while a replica is made at $rate kB/s\n\n";
	table(
		[ 'method', 'transactions per second, median', 'to basebackup', 'goal' ],
		map { [ $_, sprintf('%.0f', median(@{ $tps{$_} })), sprintf('%.2f', median(@{ $tps{$_} }) / median(@{ $tps{basebackup} })),
				$_ eq 'copy' ? 'at least 0.9' : '' ] } qw(none basebackup copy));
	return;
}
