# The network between this server and the replica is cut in each step of a
# planned promotion.  Before the point of no return all is taken back in time,
# whether the network comes back or not; after it, it goes on when it is back.
#
# The replica lives in a network namespace of its own, at the other end of a
# pair of virtual interfaces.  No rights are needed for that where users may
# make namespaces; elsewhere this is skipped.
#
# slow
use strict;
use warnings;

# Before the other modules take over STDOUT.
BEGIN
{
	my @unshare = ('unshare', '--user', '--map-current-user', '--keep-caps', '--net');

	unless ($ENV{RCTL_IN_NAMESPACE})
	{
		my $answer = `@unshare ip link add v0 type veth peer name v1 2>&1`;
		if ($? != 0)
		{
			$answer =~ s/\n.*//s;
			print "1..0 # SKIP no network namespaces here: $answer\n";
			exit 0;
		}
		$ENV{RCTL_IN_NAMESPACE} = 1;
		exec @unshare, $^X, (map { "-I$_" } @INC), $0 or die "unshare: $!\n";
	}
}

use lib 't';
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use ReplicaCtl;
use Test::More;
use Time::HiRes qw(sleep time);

my $here = '10.77.0.1';
my $there = '10.77.0.2';

# ---- the two networks

my $keeper = fork // die "fork: $!";
if ($keeper == 0)
{
	# ends with the test, whatever becomes of it
	exec 'unshare', '--net', $^X, '-e', 'sleep 1 while getppid == $ARGV[0]', getppid or die "unshare: $!\n";
}
my @enter = ('nsenter', "--net=/proc/$keeper/ns/net");

sub there { return system_or_bail(@enter, @_) }

wait_until(sub { (readlink("/proc/$keeper/ns/net") // '') ne readlink("/proc/$$/ns/net") }, 'the other namespace');
system_or_bail('ip', 'link', 'set', 'lo', 'up');
system_or_bail('ip', 'link', 'add', 'v0', 'type', 'veth', 'peer', 'name', 'v1', 'netns', $keeper);
there('ip', 'link', 'set', 'lo', 'up');
system_or_bail('ip', 'addr', 'add', "$here/24", 'dev', 'v0');
system_or_bail('ip', 'link', 'set', 'v0', 'up');
there('ip', 'addr', 'add', "$there/24", 'dev', 'v1');
there('ip', 'link', 'set', 'v1', 'up');

# What is sent goes to nobody: no end is told that the other one cannot be reached.
sub cut
{
	system_or_bail('ip', 'neigh', 'replace', $there, 'lladdr', '02:00:00:00:00:01', 'dev', 'v0', 'nud', 'permanent');
	there('ip', 'neigh', 'replace', $here, 'lladdr', '02:00:00:00:00:02', 'dev', 'v1', 'nud', 'permanent');
	return;
}

sub heal
{
	system_or_bail('ip', 'neigh', 'del', $there, 'dev', 'v0');
	there('ip', 'neigh', 'del', $here, 'dev', 'v1');
	return;
}

# ---- the two servers

my $primary = new_primary('main', initdb => ['--data-checksums'], conf => join("\n",
	"listen_addresses = '$here'", 'wal_sender_timeout = 5s', 'replica_ctl.step_retries = 20'));
plan skip_all => 'needs a test build' unless test_build($primary);
my $user = getpwuid($<);
open my $hba, '>>', $primary->data_dir . '/pg_hba.conf' or die "pg_hba.conf: $!";
print $hba "host all all 10.77.0.0/24 trust\nhost replication all 10.77.0.0/24 trust\n";
close $hba;
$primary->reload;
$primary->safe_psql('postgres', 'CREATE TABLE acked (id int)');

my $main = server_of($primary, 'main');
my $dir = $primary->basedir . '/standby';
my $port = free_port();

sub on_replica
{
	my ($sql) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run([ @enter, 'psql', '-XAtq', '-h', $there, '-p', $port, '-d', 'postgres', '-c', $sql ],
		'>', \$out, '2>', \$err) or return "ERROR $err";
	chomp $out;
	return $out;
}

# The standby's own configuration comes last in its file.
system_or_bail('pg_basebackup', '-D', $dir, '-h', $main->{host}, '-p', $main->{port}, '-X', 'stream', '-c', 'fast', '--no-sync');
append_to_file("$dir/postgresql.conf", join("\n",
	"port = $port", "listen_addresses = '$there'", "unix_socket_directories = ''",
	"primary_conninfo = 'host=$here port=$main->{port} user=$user application_name=r1 connect_timeout=2'",
	'wal_receiver_timeout = 5s', 'wal_retrieve_retry_interval = 200ms', ''));
append_to_file("$dir/standby.signal", '');
there('pg_ctl', '-D', $dir, '-w', '-l', "$dir.log", 'start');
END
{
	if (defined $dir && -f "$dir/postmaster.pid")
	{
		my $status = $?;
		IPC::Run::run([ @enter, 'pg_ctl', '-D', $dir, '-m', 'immediate', 'stop' ], '>', \my $out, '2>&1');
		$? = $status;
	}
	kill 'TERM', $keeper if $keeper;
}

$primary->safe_psql('postgres', qq{SELECT replica_attach('r1', options => '{"host": "$there", "port": $port}')});
is($primary->safe_psql('postgres', q{SELECT replica_wait('r1')}), 'succeeded', 'a replica on another network');
my $id = 0;

sub source_goes_on
{
	my ($what) = @_;

	is(ask($main, 'SELECT phase FROM replica_ctl.fence()'), 'down', "$what: no fence is left");
	is(ask($main, 'SET lock_timeout = 1000; INSERT INTO acked VALUES (' . ++$id . ') RETURNING id'), $id, "$what: the source goes on");
	is(on_replica('SELECT pg_is_in_recovery()'), 't', "$what: the replica is a standby");
	return;
}

# Asks for the operation, cuts the network when the step begins, and returns
# the operation's number.
sub cut_in
{
	my ($kind, $step, $arguments) = @_;

	wait_for($primary, q{SELECT state = 'streaming' FROM replica_status WHERE replica = 'r1'}, 60);
	set_fault($primary, "$kind.$step.before=block*1");
	my $operation = ask($main, "SELECT replica_$kind('r1'$arguments)");
	like($operation, qr/^\d+$/, "$kind, the network is cut in step $step");
	wait_for($primary, "SELECT step = '$step' FROM replica_operations WHERE operation = $operation");
	cut();
	set_fault($primary, '');
	return $operation;
}

# ---- nothing has happened yet that cannot be undone

for my $step (qw(check warm fence zero_lag))
{
	my $operation = cut_in('promote', $step, q{, timeout => '4s'});

	# what is to be replayed must still be on its way
	ask($main, 'INSERT INTO acked VALUES (' . ++$id . ')') if $step eq 'fence';
	is(wait_operation($primary, $operation, 40), 'failed', "$step: taken back");
	my $took = ask($main, "SELECT extract(epoch FROM finished_at - started_at) FROM replica_operations WHERE operation = $operation");
	cmp_ok($took, '<', 12, "$step: in time");
	note "$step: $took s: ", ask($main, "SELECT sqlstate || ' ' || message FROM replica_operations WHERE operation = $operation");
	source_goes_on($step);
	heal();
}

# ---- a switchover has made slots on the replica, which are only removed when it can be reached

my $operation = cut_in('switchover', 'fence', q{, timeout => '6s'});
sleep 8;
source_goes_on('switchover');
heal();
is(wait_operation($primary, $operation, 90), 'failed', 'switchover: taken back');
is(on_replica('SELECT count(*) FROM pg_replication_slots'), 0, 'switchover: no slot is left on the replica');

# ---- after the point of no return

$operation = cut_in('promote', 'promote', q{, timeout => '10s'});
sleep 13;
my $state = ask($main, "SELECT state FROM replica_operations WHERE operation = $operation");
like($state, qr/^(queued|running)$/, 'promote: it is tried again')
  or diag ask($main, "SELECT message, detail, hint FROM replica_operations WHERE operation = $operation");
my $held = ask($main, 'SET statement_timeout = 500; INSERT INTO acked VALUES (0)');
like($held, qr/^ERROR/, 'promote: the source is fenced');
heal();
is(wait_operation($primary, $operation, 60), 'succeeded', 'promote: goes on when the network is back');
is(on_replica('SELECT pg_is_in_recovery()'), 'f', 'promote: the replica is the primary');
is(on_replica('SELECT count(*) = max(id) FROM acked WHERE id > 0'), 't', 'promote: and has all that was written');
is(ask($main, 'SELECT phase FROM replica_ctl.fence()'), 'promoted', 'promote: the source stays fenced');

done_testing();
