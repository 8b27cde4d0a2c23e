# A disk that is full, here or on the replica, when writes are fenced and when
# the replica is promoted.  Each server has a small file system of its own, in
# a mount namespace that needs no rights where users may make namespaces;
# elsewhere this is skipped.
use strict;
use warnings;

# Before the other modules take over STDOUT.
BEGIN
{
	my @unshare = ('unshare', '--user', '--map-current-user', '--keep-caps', '--mount');

	unless ($ENV{RCTL_IN_NAMESPACE})
	{
		my $answer = `@unshare mount -t tmpfs -o size=1m tmpfs /mnt 2>&1`;
		if ($? != 0)
		{
			$answer =~ s/\n.*//s;
			print "1..0 # SKIP no mount namespaces here: $answer\n";
			exit 0;
		}
		$ENV{RCTL_IN_NAMESPACE} = 1;
		exec @unshare, $^X, (map { "-I$_" } @INC), $0 or die "unshare: $!\n";
	}
}

use lib 't';
use File::Path qw(make_path);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use ReplicaCtl;
use Test::More;
use Time::HiRes qw(sleep time);

# A file system for this server, and one for its replicas.
my $small = "$PostgreSQL::Test::Utils::tmp_check/035_small";
make_path($small);
mount($small);
$PostgreSQL::Test::Utils::tmp_check = $small;
my $primary = new_primary('main', initdb => ['--wal-segsize=1'],
	conf => "min_wal_size = 24MB\nmax_wal_size = 60MB\nreplica_ctl.step_retries = 30");
my $base = $primary->basedir;
make_path("$base/replicas");
mount("$base/replicas");
plan skip_all => 'needs a test build' unless test_build($primary);
my $main = server_of($primary, 'main');
my $written = 0;

sub mount
{
	return system_or_bail('mount', '-t', 'tmpfs', '-o', 'size=300m', 'tmpfs', $_[0]);
}

sub writes
{
	return ask($main, q{SET lock_timeout = '2s'; INSERT INTO acked VALUES (} . ++$written . ') RETURNING id');
}

sub make_replica
{
	my ($name) = @_;

	$primary->safe_psql('postgres', "SELECT replica_create('$name')");
	$primary->safe_psql('postgres', "SELECT replica_wait('$name')");
	return server_of($primary, $name);
}

# Nothing more can be written to the file system of the directory.
sub fill
{
	my ($dir) = @_;

	# never the disk of this machine
	like(`df -P "$dir" | tail -n 1`, qr/^tmpfs\s/, 'a file system of its own is filled') or die 'it is not';
	open my $file, '>', "$dir/ballast" or die "ballast: $!";
	for my $size (1024 * 1024, 4096, 1)
	{
		my $block = "\0" x $size;
		1 while (syswrite($file, $block) // 0) == $size;
	}
	close $file;
	return;
}

sub empty
{
	my ($dir) = @_;
	unlink "$dir/ballast" or die "ballast: $!";
	return;
}

$primary->safe_psql('postgres', 'CREATE TABLE acked (id int); INSERT INTO acked VALUES (0)');
my $replica = make_replica('r1');

# WAL segments in stock: with a full disk and none, any server stops
$primary->safe_psql('postgres', 'SELECT pg_switch_wal() FROM (SELECT txid_current()) s') for 1 .. 24;
wait_for($primary, q{SELECT lag_bytes < 1000 FROM replica_status WHERE replica = 'r1'});
$primary->safe_psql('postgres', 'CHECKPOINT') for 1 .. 2;

# ---- this server's disk, when it is fenced

fill($base);
my $error = psql_error($primary, q{SELECT replica_fence('full')});
like($error, qr/53100.*No space left/s, 'replica_fence() says that the disk is full');
is(ask($main, 'SELECT phase FROM replica_ctl.fence()'), 'down', 'and raises nothing');
is(writes(), $written, 'writes go on');
empty($base);

set_fault($primary, 'promote.fence.before=block*1');
my $operation = ask($main, q{SELECT replica_promote('r1')});
wait_for($primary, "SELECT step = 'fence' FROM replica_operations WHERE operation = $operation");
fill($base);
sleep 4;
is(ask($main, 'SELECT phase FROM replica_ctl.fence()'), 'down', 'a promotion that cannot write down the fence does not leave one');
is(writes(), $written, 'and writes go on');
empty($base);
is(wait_operation($primary, $operation), 'failed', 'it failed');
like(ask($main, "SELECT sqlstate || ' ' || message FROM replica_operations WHERE operation = $operation"), qr/^53100 .*No space left/, 'and says why');
is(ask($replica, 'SELECT pg_is_in_recovery()'), 't', 'nothing was promoted');
set_fault($primary, '');
ok(!glob($primary->data_dir . '/replica_ctl.fence*'), 'no file is left');

# ---- the replica's disk, before

fill("$base/replicas");
$operation = ask($main, q{SELECT replica_promote('r1')});
is(wait_operation($primary, $operation), 'failed', 'a replica without room is not promoted');
like(ask($main, "SELECT sqlstate || ' ' || message || ' ' || hint FROM replica_operations WHERE operation = $operation"),
	qr/^53100 .*are free.*Free some space there/s, 'and the error says why');
is(writes(), $written, 'writes go on');
empty("$base/replicas");

# ---- and in the middle of the promotion

wait_for($primary, q{SELECT state = 'streaming' FROM replica_status WHERE replica = 'r1'});
set_fault($primary, 'promote.promote.before=block*1');
$operation = ask($main, q{SELECT replica_promote('r1', source_after => 'read_only')});
wait_for($primary, "SELECT step = 'promote' FROM replica_operations WHERE operation = $operation");
fill("$base/replicas");
sleep 5;
my $state = ask($main, "SELECT state FROM replica_operations WHERE operation = $operation");
note "with the disk full: $state, ", ask($main, "SELECT concat_ws(' ', step, sqlstate, message, detail) FROM replica_operations WHERE operation = $operation");
isnt(ask($main, 'SELECT phase FROM replica_ctl.fence()'), 'down', 'the source stays fenced');
empty("$base/replicas");
is(wait_operation($primary, $operation, 60), 'succeeded', 'when there is room again the replica is promoted');
is(ask($replica, 'SELECT pg_is_in_recovery()'), 'f', 'and is the primary');
is(ask($replica, 'SELECT max(id) FROM acked'), $written, 'with all that was written');
set_fault($primary, '');

# ---- this server's disk, when the replica is a primary already

$primary->safe_psql('postgres', 'SELECT replica_unfence()');
$primary->safe_psql('postgres', q{SELECT replica_drop('r1', force => true)});
$primary->safe_psql('postgres', q{SELECT replica_wait('r1')});
$replica = make_replica('r2');
set_fault($primary, 'promote.promote.before=block*1');
$operation = ask($main, q{SELECT replica_promote('r2')});
wait_for($primary, "SELECT step = 'promote' FROM replica_operations WHERE operation = $operation");
fill($base);
sleep 4;
is(ask($replica, 'SELECT pg_is_in_recovery()'), 'f', 'a full disk here does not keep the replica from being promoted');
like(ask($main, 'SELECT phase FROM replica_ctl.fence()'), qr/^(promoted|ERROR)/, 'the source is fenced, if it runs: with a full disk any server may stop');
empty($base);
unless (ask($main, 'SELECT 1') eq '1')
{
	unlink $primary->data_dir . '/postmaster.pid';
	$primary->_update_pid(0);
	$primary->start;
	isnt(ask($main, 'SELECT phase FROM replica_ctl.fence()'), 'down', 'and when it is started');
}
is(wait_operation($primary, $operation), 'succeeded', 'and the operation ends well when there is room');
$primary->stop('immediate');
$primary->start;
is(ask($main, 'SELECT phase FROM replica_ctl.fence()'), 'promoted', 'after a crash, too');

done_testing();
