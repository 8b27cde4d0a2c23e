# 143_ssh_copy.pl
#	  The copy to another host goes wrong in its middle: the connection is cut or
#	  falls silent, the worker is killed, the disk gets full.  The program there
#	  ends, and nothing is left on either side.
#
# slow

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;
use SshHosts;
use Time::HiRes qw(sleep time);

plan skip_all => ssh_missing() if ssh_missing();

my $primary = ssh_primary('main');
my $host = ssh_host($primary, 'h1');

sub sql { return $primary->safe_psql('postgres', $_[0]); }

sub create
{
	my ($options) = @_;
	return sql("SELECT replica_create('r', 'h1', '" . ($options // '{}') . "')");
}

sub message { return sql("SELECT sqlstate || ' ' || message || ' ' || coalesce(detail, '') || ' ' || coalesce(hint, '') FROM replica_operations WHERE operation = $_[0]"); }

sub copying
{
	my ($operation) = @_;
	wait_for($primary, "SELECT phase = 'copying' AND bytes_done > 0 FROM replica_operations WHERE operation = $operation");
	return;
}

sub copies
{
	return grep { ReplicaCtl::command_of($_) =~ m{^\S*/pg_basebackup} } ReplicaCtl::processes_of($host->home);
}

sub gone
{
	my ($name) = @_;
	my $operation = sql(q{SELECT replica_drop('r', force => true)});

	wait_operation($primary, $operation) eq 'succeeded' or diag('drop: ' . message($operation));
	nothing_left($name);
	return;
}

sub nothing_left
{
	my ($name) = @_;
	my @left = (orphans($primary), $host->left, glob $primary->data_dir . '/base/pgsql_tmp/*');

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(!@left, "nothing is left: $name") or diag(join "\n", @left);
	return;
}

sub works
{
	my ($operation, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(wait_operation($primary, $operation, 90), 'succeeded', $name) or diag(message($operation));
	wait_for($primary, q{SELECT count(*) = 1 FROM pg_stat_replication WHERE application_name = 'replica_ctl_r' AND state = 'streaming'});
	return;
}

$host->server;

#
# In the middle of the copy
#
sql('CREATE TABLE big AS SELECT repeat(md5(i::text), 20) AS t FROM generate_series(1, 20000) i');
{
	my $operation = create('{"max_rate": 2048}');
	copying($operation);
	my $start = time;
	$host->stop(connections => 1);
	wait_until(sub { !copies() }, 'the end of pg_basebackup', 8);
	cmp_ok(time - $start, '<', 8, 'a copy whose connection is cut ends there');
	wait_for($primary, "SELECT count(*) > 0 FROM replica_ctl.operation_step WHERE operation_id = $operation AND outcome = 'failed'", 40);
	$host->start;
	sql("SELECT replica_cancel($operation)");
	is(wait_operation($primary, $operation), 'cancelled', 'a cancel while the copy is made again');
	nothing_left('connection cut in the middle of the copy');

	$operation = create('{"max_rate": 8192}');
	copying($operation);
	kill 'KILL', $host->sessions;
	works($operation, 'connection cut in the middle of the copy');
	gone('connection cut in the middle of the copy, once');

	# the worker is killed: the program does not outlive it
	$operation = create('{"max_rate": 2048}');
	copying($operation);
	my @old = copies();
	restart_pid($primary, worker_pid($primary, 'replica_ctl op'));
	wait_until(sub { !grep { kill 0, $_ } @old }, 'the end of pg_basebackup', 10);
	pass('a copy whose worker is killed ends there');
	wait_until(sub { eval { sql("SELECT replica_cancel($operation)"); 1 } }, 'a cancel');
	is(wait_operation($primary, $operation), 'cancelled', 'cancelled');
	nothing_left('worker killed in the middle of the copy');

	# the link is silent: nobody tells either side
	$operation = create('{"max_rate": 2048}');
	copying($operation);
	@old = copies();
	my @silent = grep { ReplicaCtl::command_of($_) =~ m{^/usr/bin/ssh } } ReplicaCtl::processes_of($primary->data_dir . '/base/pgsql_tmp');
	ok(@silent > 1, 'the connection and the channel of the copy') or diag("@silent");
	kill 'STOP', @silent;
	$start = time;
	wait_until(sub { !grep { kill 0, $_ } @old }, 'the end of pg_basebackup', 40);
	my $took = time - $start;
	cmp_ok($took, '<', 30, "a copy that gets no sign of life ends there ($took s)");
	kill 'KILL', @silent;
	sql("SELECT replica_cancel($operation)");
	is(wait_operation($primary, $operation), 'cancelled', 'cancelled');
	nothing_left('a silent link');
}

#
# A disk that gets full there
#
SKIP:
{
	my $small = ssh_small_host($primary, 'h2', 30);
	skip 'needs user namespaces', 3 unless $small;
	$small->server;
	is(sql(q{SELECT count(*) FROM replica_explain('create', 'r', 'h2') WHERE name = 'disk' AND status = 'blocked'}), '1',
		'that there is no room is seen before');
	my $operation = sql(q{SELECT replica_create('r', 'h2')});
	is(wait_operation($primary, $operation), 'failed', 'and refused');
	like(message($operation), qr/^53100 not enough space/, 'with the reason');
	sql('DROP TABLE big');
	sql('CHECKPOINT');
	my $room = sql(q{SELECT pg_size_bytes('30 MB') - sum(pg_tablespace_size(oid)) FROM pg_tablespace});
	note("$room bytes of room");
	# it grows while it is copied
	$operation = sql(q{SELECT replica_create('r', 'h2', '{"max_rate": 4096}')});
	copying($operation);
	sql('CREATE TABLE big AS SELECT repeat(md5(i::text), 20) AS t FROM generate_series(1, 30000) i');
	isnt(wait_operation($primary, $operation, 120), 'succeeded', 'the disk gets full in the middle of the copy');
	like(message($operation), qr/^53100 the disk is full.*No space left on device/s, 'which is said');
	is(join("\n", $small->left_inside), '', 'and nothing is left there');
	sql(q{SELECT replica_drop('r', force => true)});
}

done_testing();
