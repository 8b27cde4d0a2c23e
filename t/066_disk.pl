# A disk that gets full: when that will be, really filled by a stuck slot; the
# guard that acts before; and the disks of replicas on this host.
#
# The disks are file systems in memory of some hundred MB, mounted in a name
# space of the test's own, in which the servers run; that needs no rights where
# user name spaces are allowed.  RCTL_TEST_SMALL_DISK may name an empty
# directory of this user in a file system of 100 to 300 MB instead, for example
# on a loop device; what needs a second disk, or a larger one, is skipped then.
#
# slow

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $mount = "$ENV{TESTDIR}/disks";
my $ready = "$ENV{TESTDIR}/ready";
my $given = $ENV{RCTL_TEST_SMALL_DISK};
my $disk = $given // "$mount/wal";
my ($holder, $holder_pid);

# A shell with the right to mount, which does what it is told.
sub hold_disks
{
	mkdir $_ for $mount, "$mount/wal", "$mount/tablespace";
	$holder_pid = open $holder, '|-', 'unshare', '--user', '--mount', '--map-current-user', '--keep-caps', 'sh', '-s'
	  or return 0;
	$holder->autoflush(1);
	local $SIG{PIPE} = 'IGNORE';
	tell_holder("mount -t tmpfs -o size=150m none $mount/wal && mount -t tmpfs -o size=400m none $mount/tablespace && echo >$ready");
	for (1 .. 50)
	{
		return 1 if -e $ready;
		sleep 0.1;
	}
	return 0;
}

sub tell_holder
{
	my ($command) = @_;
	print $holder "$command\n";
	return;
}

my @enter;
unless ($given)
{
	# what unshare has to say of itself is no part of the output
	open my $stderr, '>&', \*STDERR or die;
	open STDERR, '>', '/dev/null' or die;
	my $held = hold_disks();
	open STDERR, '>&', $stderr or die;
	plan skip_all => 'no file system can be mounted here: user name spaces are not allowed' unless $held;
	@enter = ('nsenter', '--user', '--mount', '--preserve-credentials', "--target=$holder_pid");

	# pg_ctl of the tests starts servers that see the disks
	my $bin = "$ENV{TESTDIR}/bin";
	my ($pg_ctl) = grep { -x } map { "$_/pg_ctl" } split /:/, $ENV{PATH};
	mkdir $bin;
	open my $out, '>', "$bin/pg_ctl" or die "$bin/pg_ctl: $!";
	print $out "#!/bin/sh\nexec @enter $pg_ctl \"\$@\"\n";
	close $out;
	chmod 0755, "$bin/pg_ctl";
	$ENV{PATH} = "$bin:$ENV{PATH}";
}

my $primary = new_primary('disk', start => 0, initdb => ['--wal-segsize=1'], conf => <<'END');
autovacuum = off
min_wal_size = 8MB
max_wal_size = 32MB
checkpoint_timeout = 1h
replica_ctl.disk_reserve = '30 MB'
END
sub sql { return $primary->safe_psql('postgres', shift); }
sub set { return sql("ALTER SYSTEM SET replica_ctl.$_[0] = '$_[1]'; SELECT pg_reload_conf()"); }
sub run_there { return system(@enter, @_) == 0; }

my $data = $primary->data_dir;
run_there('sh', '-c', "cp -a '$data/pg_wal' '$disk/pg_wal' && rm -rf '$data/pg_wal' && ln -s '$disk/pg_wal' '$data/pg_wal'")
  or die 'pg_wal could not be moved';
$primary->start;
sql('CREATE EXTENSION replica_ctl');
wait_for($primary, q{SELECT count(*) = 1 FROM replica_wal_usage});

# about 4 MB/s of WAL
my $load;

sub start_load
{
	my $script = "$ENV{TESTDIR}/load.sql";
	open my $out, '>', $script or die "$script: $!";
	print $out "SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 100000))) FROM generate_series(1, 4)\n\\watch 0.1\n";
	close $out;
	$load = IPC::Run::start(
		[ $primary->installed_command('psql'), '-X', '-q', '-d', $primary->connstr('postgres'), '-f', $script ],
		'<', '/dev/null', '>', '/dev/null', '2>', '/dev/null');
	return;
}

# ---- which disks there are ----

my ($filler, $filling);
SKIP:
{
	skip 'there is one disk only', 8 if $given;
	my $space = "$ENV{TESTDIR}/space";
	mkdir $space;
	run_there('mkdir', "$mount/tablespace/r1");
	sql("CREATE TABLESPACE space LOCATION '$space'");
	sql('CREATE TABLE t (i int) TABLESPACE space; INSERT INTO t SELECT generate_series(1, 1000)');
	my $operation = sql(qq{SELECT replica_create('r1', options => '{"tablespace_mapping": {"$space": "$mount/tablespace/r1"}}')});
	is(wait_operation($primary, $operation), 'succeeded', 'a replica with a tablespace on a disk of its own');
	wait_for($primary, qq{SELECT count(*) = 1 FROM replica_disk_usage WHERE path = '$mount/tablespace' AND replicas = '{r1}'});
	is(sql(qq{SELECT wal, data, total_bytes FROM replica_disk_usage WHERE path = '$mount/tablespace'}),
		'f|f|' . 400 * 1048576, 'its disk, at its place, with its size');
	is(sql(qq{SELECT wal, data, total_bytes FROM replica_disk_usage WHERE path = '$mount/wal'}),
		't|f|' . 150 * 1048576, 'that of pg_wal');
	is(sql(q{SELECT data, wal, replicas, path NOT LIKE '%/disks/%' FROM replica_disk_usage WHERE data}), 't|f|{r1}|t',
		'and that of the data, which the replica uses as well');
	is(sql(q{SELECT value = (SELECT min(free_bytes) FROM replica_disk_usage WHERE 'r1' = ANY (replicas)) FROM replica_metrics
		WHERE metric = 'FreeStorageSpace' AND replica = 'r1'}), 't', 'the metric is the fullest of them');
	is(sql(qq{SELECT time_to_full IS NULL FROM replica_disk_usage WHERE path = '$mount/tablespace'}), 't', 'nothing grows there');
	# the standby keeps its own WAL; it must not follow all of what comes now
	my ($postmaster) = split /\n/, slurp_file(replica_dir($primary) . '/r1/postmaster.pid');
	kill 'QUIT', $postmaster;
	sql(q{SELECT pg_drop_replication_slot(slot) FROM replica_status}) if eval { wait_for($primary, q{SELECT NOT active FROM replica_slots}) };

	# 4 MB/s
	$filler = IPC::Run::start([ @enter, 'sh', '-c',
		"while sleep 0.49; do head -c 2097152 /dev/zero; done >$mount/tablespace/filler" ], '<', '/dev/null', '2>', '/dev/null');
	$filling = time;
}

# ---- the forecast, until the disk is really full ----

sql(q{SELECT pg_create_physical_replication_slot('stuck', true)});
start_load();
my $start = time;
my (@said, $full, $grown);
while (!$full && time < $start + 120)
{
	my $now = time;
	my ($rc, $out) = $primary->psql('postgres',
		'SELECT extract(epoch FROM time_to_full), held_by, free_bytes FROM replica_wal_usage', timeout => 10);
	if (!defined $rc || $rc != 0)
	{
		$full = $now;
		last;
	}
	my ($seconds, $holder, $free) = split /\|/, $out;
	push @said, { at => $now, seconds => $seconds, holder => $holder, free => $free };
	if (!$given && !$grown && $now > $filling + 30)
	{
		$grown = sql(qq{SELECT growth_bytes_per_second || '|' || extract(epoch FROM time_to_full) || '|' || free_bytes
			FROM replica_disk_usage WHERE path = '$mount/tablespace'});
	}
	sleep 0.5;
}
ok($full, 'the disk was filled') or BAIL_OUT('it was not');
like(slurp_file($primary->logfile), qr/No space left on device/, 'that is why the server failed');
$load->kill_kill(grace => 1);
note(sprintf 'full after %.1f s', $full - $start);

# From a third of the time on; near the end a second of sampling counts more than a fifth.
my @wrong;
my $judged = 0;
my $worst = 0;
for my $said (@said)
{
	my $left = $full - $said->{at};
	next if $said->{at} < $start + ($full - $start) / 3 || $left < 5;
	$judged++;
	my $error = $said->{seconds} eq '' ? 9 : abs($said->{seconds} - $left) / $left;
	$worst = $error if $error > $worst;
	push @wrong, sprintf '%s instead of %.1f s', $said->{seconds}, $left if $error > 0.2;
}
cmp_ok($judged, '>', 10, 'it was foretold often');
is(join(', ', @wrong), '', 'within 20 % of when it really was') or diag("$judged judged");
note(sprintf 'at worst %.0f %% off, of %d', $worst * 100, $judged);
is(scalar(grep { $_->{holder} eq 'slot "stuck"' } @said[ 3 .. $#said ]), @said - 3, 'the slot is named');

SKIP:
{
	skip 'there is one disk only', 2 if $given;
	my ($rate, $seconds, $free) = split /\|/, $grown // '0|0|0';
	$filler->kill_kill(grace => 1);
	cmp_ok(abs($rate / 4194304 - 1), '<', 0.25, 'a step of the growth of a tablespace\'s disk shows within a minute') or diag($rate);
	cmp_ok(abs($seconds / ($free / $rate || 1) - 1), '<', 0.01, 'with the time until it is full') or diag("$seconds $free");
}

wait_until(sub { !-e $primary->data_dir . '/postmaster.pid' || !kill 0, $primary->{_pid} }, 'the end of the server');
$primary->{_pid} = undef;

# ---- the guard ----

SKIP:
{
	skip 'the disk cannot be made larger', 9 if $given;
	tell_holder("mount -o remount,size=260m $mount/wal");
	$primary->start;
	wait_for($primary, q{SELECT count(*) = 1 FROM replica_wal_usage WHERE total_bytes = 260 * 1048576});
	set('slot_scope', 'physical');
	set('slot_action', 'drop');
	start_load();
	my $least = 1e12;
	wait_until(
		sub {
			my ($free, $done) = split /\|/, sql(q{SELECT free_bytes, (SELECT count(*) FROM replica_events WHERE kind = 'slot_dropped')
				FROM replica_wal_usage});
			$least = $free if defined $free && $free < $least;
			return $done;
		},
		'the guard', 90);
	sleep 3;
	$load->kill_kill(grace => 1);
	is(sql(q{SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'stuck'}), 0, 'the guard dropped the slot');
	cmp_ok($least, '<', 30 * 1048576, 'when less than the reserve was free');
	cmp_ok($least, '>', 10 * 1048576, 'long before the disk was full');
	wait_for($primary, q{SELECT free_bytes > 100 * 1048576 FROM replica_wal_usage});
	pass('its WAL is gone');
	sql(q{CREATE TABLE alive AS SELECT 1 AS i; CHECKPOINT});
	is(sql(q{SELECT pg_postmaster_start_time() < min(at) FROM replica_events WHERE kind = 'slot_dropped'}), 't', 'the primary is alive');
	is(sql(q{SELECT severity, message FROM replica_events WHERE kind = 'slot_dropped'}),
		'error|replication slot "stuck" was dropped: it keeps the oldest WAL and less is free than replica_ctl.disk_reserve',
		'the event says what was done and why');
	cmp_ok(sql(q{SELECT (detail->>'retained_bytes')::bigint FROM replica_events WHERE kind = 'slot_dropped'}), '>', 100 * 1048576,
		'and how much it kept');
	cmp_ok(sql(q{SELECT count(*) FROM replica_events WHERE kind = 'slot_critical' AND detail->>'slot' = 'stuck'
		AND event < (SELECT event FROM replica_events WHERE kind = 'slot_dropped')}), '>', 0, 'it was said before');
	wait_for($primary, q{SELECT held_by <> 'slot "stuck"' FROM replica_wal_usage});
	pass('nothing holds the WAL any more');
	is(wait_operation($primary, sql(q{SELECT replica_drop('r1', true)})), 'succeeded', 'dropped');
}
$primary->stop('immediate') if $primary->{_pid};
close $holder if $holder;
done_testing();
