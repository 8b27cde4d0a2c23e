# 151_resync.pl
#	  A replica that is lost is made equal to its source again by writing only
#	  what differs; what is half done never starts and can be gone on with.
#
# slow

use strict;
use warnings;
use Carp;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use ReplicaCtl;

my $primary = new_primary('main', initdb => ['--data-checksums'], conf => "max_wal_size = 64MB\nwal_keep_size = 0");
my $dir = replica_dir($primary);
my $data = $primary->data_dir;
my $space = PostgreSQL::Test::Utils::tempdir();
chomp(my $bindir = `pg_config --bindir`);

sub sql { return $primary->safe_psql('postgres', $_[0]) }

sub run_operation
{
	my ($call) = @_;
	my $operation = sql("SELECT $call");

	wait_operation($primary, $operation, 120);
	return $operation;
}

sub state_of { return sql("SELECT state FROM replica_operations WHERE operation = $_[0]") }

sub repaired
{
	my ($what) = @_;
	my $operation = run_operation(q{replica_repair('r1')});

	is(state_of($operation), 'succeeded', "repair: $what")
	  or diag(sql("SELECT message, detail, hint FROM replica_operations WHERE operation = $operation"));
	return $operation;
}

sub kinds
{
	my ($operation) = @_;
	return sql("SELECT string_agg(kind, ' ' ORDER BY event) FROM replica_events WHERE operation = $operation AND kind ~ '^(repair_(slot|start|clone|resync)|resynced|copied)\$'");
}

# What the event of a resync says.
sub told
{
	my ($operation, $key) = @_;
	return sql("SELECT detail->>'$key' FROM replica_events WHERE operation = $operation AND kind = 'resynced'");
}

my $main = server_of($primary, 'main');
my $contents = q{
	SELECT md5(string_agg(md5, ',' ORDER BY md5)) FROM (
		SELECT md5(t::text) FROM t UNION ALL SELECT md5(s::text) FROM s UNION ALL
		SELECT md5(c.relname::text) FROM pg_class c) x};

# The replica has replayed all, and has the same as the primary.
sub same_ok
{
	my ($name) = @_;
	my $lsn = sql('SELECT pg_current_wal_flush_lsn()');
	my $replica = server_of($primary, 'r1');

	wait_ask($replica, "SELECT pg_last_wal_replay_lsn() >= '$lsn'");
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $expected = ask($main, $contents);
	croak $expected if $expected !~ /^[0-9a-f]{32}$/;
	return is(ask($replica, $contents), $expected, $name);
}

# Stops the replica and takes its WAL away.
sub lose
{
	system_or_bail("$bindir/pg_ctl", '-D', "$dir/r1", '-m', 'immediate', '-w', 'stop') if -f "$dir/r1/postmaster.pid";
	wait_for($primary, q{SELECT count(*) = 0 FROM pg_stat_replication WHERE application_name = 'replica_ctl_r1'});
	sql(q{SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'replica_ctl_r1'});
	# all that it does not have
	sql(q{UPDATE t SET text = text || 'x' WHERE id % 100 = 7});
	sql(q{INSERT INTO s SELECT g, 'new' FROM generate_series(1, 10) g});
	for (1 .. 4)
	{
		sql('SELECT pg_switch_wal(); CREATE TABLE IF NOT EXISTS x (); DROP TABLE x; CHECKPOINT');
	}
	return;
}

sub spoil
{
	my ($path, $offset) = @_;
	open my $out, '+<', $path or die "$path: $!";
	seek $out, $offset, 0;
	print $out 'spoiled';
	close $out;
	return;
}

$primary->safe_psql('postgres', "CREATE TABLESPACE space LOCATION '$space'");
sql(q{
	CREATE TABLE t AS SELECT g AS id, md5(g::text) AS text FROM generate_series(1, 200000) g;
	CREATE TABLE s (id int, text text) TABLESPACE space;
	INSERT INTO s SELECT g, 'old' FROM generate_series(1, 20000) g;
	CREATE TABLE later_gone AS SELECT 1 AS one;
	VACUUM;
	CHECKPOINT;});
is(state_of(run_operation(q{replica_create('r1', options => '{"max_rate": 32768}')})), 'succeeded', 'a replica with a tablespace');

#
# Its WAL is gone
#
lose();
my $gone = sql(q{SELECT pg_relation_filepath('later_gone')});
sql('DROP TABLE later_gone; CHECKPOINT');
my $file = sql(q{SELECT pg_relation_filepath('t')});
spoil("$dir/r1/$file", 8192 * 5 + 100);
append_to_file("$dir/r1/base/5/99999999", 'stray');
append_to_file("$dir/r1/base/5/stray.dir", 'stray');
append_to_file("$dir/r1/log/replica_ctl.log", "a line of ours\n");
my $operation = repaired('its WAL is gone');
is(kinds($operation), 'repair_slot repair_start repair_clone repair_resync resynced', 'the old copy is used');
cmp_ok(told($operation, 'bytes_read'), '>', 2 * 20_000_000, 'both sides are read');
cmp_ok(told($operation, 'bytes_written'), '<', told($operation, 'bytes_read') / 4, 'few bytes are written')
  or diag(sql("SELECT detail FROM replica_events WHERE operation = $operation AND kind = 'resynced'"));
cmp_ok(told($operation, 'bytes_written'), '>', 8192, 'but those that differ');
same_ok('the data are the same');
is_deeply([ grep { -e "$dir/r1/$_" } $gone, 'base/5/99999999', 'base/5/stray.dir', 'replica_ctl.resync', 'backup_label' ], [],
	'what the source does not have is gone');
ok(-f "$dir/r1/replica_ctl.id", 'the marker is there');
like(slurp_file("$dir/r1/log/replica_ctl.log"), qr/a line of ours.*ready to accept read-only connections/s, 'its log was kept');

#
# It is interrupted: by a cancel, the end of the program, that of the worker
#
sub comparing
{
	eval { wait_for($primary, q{SELECT phase = 'comparing' AND bytes_done > 0 FROM replica_operations ORDER BY operation DESC LIMIT 1}); 1 }
	  or croak $@ . sql(q{SELECT o FROM replica_operations o ORDER BY operation DESC LIMIT 1});
	my ($pid) = grep { slurp_file("/proc/$_/cmdline") =~ m{replica_ctl_copy\0.*\Q$dir/r1\E}s } replica_processes($primary);
	return $pid;
}

sub unstartable_ok
{
	my ($name) = @_;
	my $log = "$dir.start";

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	isnt(system("$bindir/pg_ctl", '-s', '-D', "$dir/r1", '-l', $log, '-w', 'start'), 0, $name);
	like(slurp_file($log), qr/could not find the database system/, 'as it has no pg_control');
	unlink $log;
	return;
}

lose();
$operation = sql(q{SELECT replica_repair('r1')});
comparing();
sql("SELECT replica_cancel($operation)");
is(wait_operation($primary, $operation), 'cancelled', 'a resync is cancelled');
unstartable_ok('what is half done does not start');

$operation = sql(q{SELECT replica_repair('r1')});
my $pid = comparing();
kill 9, $pid;
is(wait_operation($primary, $operation), 'failed', 'the program is killed');
like(sql("SELECT message FROM replica_events WHERE operation = $operation AND kind = 'repair_clone'"),
	qr/was not finished/, 'the repair knew why the replica was lost');
unstartable_ok('what is half done still does not start');

$operation = sql(q{SELECT replica_repair('r1')});
comparing();
restart_pid($primary, worker_pid($primary, 'replica_ctl operation'));
is(wait_operation($primary, $operation, 120), 'succeeded', 'the worker is killed: the next one does it');
same_ok('the data are the same after all of that');

#
# Another system's files are left alone
#
lose();
my $other = PostgreSQL::Test::Cluster->new('other');
$other->init;
rename "$dir/r1/global/pg_control", "$dir/r1/global/pg_control.mine";
PostgreSQL::Test::RecursiveCopy::copypath($other->data_dir . '/global/pg_control', "$dir/r1/global/pg_control");
$operation = repaired('with the pg_control of another system');
like(kinds($operation), qr/repair_clone copied$/, 'a new copy is made');
same_ok('the data are the same');

# other tablespaces
sql('DROP TABLE s');
sql('DROP TABLESPACE space');
sql('CREATE TABLE s AS SELECT 1 AS id, text FROM t LIMIT 10');
$operation = do { system_or_bail("$bindir/pg_ctl", '-D', "$dir/r1", '-m', 'immediate', '-w', 'stop'); lose(); repaired('tablespaces have changed') };
like(kinds($operation), qr/repair_clone copied$/, 'a new copy is made');
same_ok('the data are the same');

is(state_of(run_operation(q{replica_drop('r1')})), 'succeeded', 'it is dropped');
no_orphans_ok($primary);

done_testing();
