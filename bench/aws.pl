# What waiting for Amazon costs: CPU time and memory of the worker of a create
# that waits, for thousands of looks and at the usual pace, against a fake of
# the service.
#
# Goal: memory stays flat over 10,000 requests, and waiting is no busy loop.
#
# RCTL_BENCH_REQUESTS  looks of the fast wait (10000)
# RCTL_BENCH_SECONDS   seconds of the slow one (20)

use strict;
use warnings;
use Bench;
use HTTP::Tiny;
use IPC::Open2;
use JSON::PP;
use Time::HiRes qw(sleep time);

my $requests = $ENV{RCTL_BENCH_REQUESTS} || 10000;
my $wait = $ENV{RCTL_BENCH_SECONDS} || 20;
my $python = -x '/usr/bin/python3' ? '/usr/bin/python3' : 'python3';

if (system("$python -c 'import botocore.auth' >/dev/null 2>&1") != 0)
{
	print "Debian package python3-botocore is not there\n";
	exit 0;
}

my $server = Bench::Server->new('aws', settings => { 'replica_ctl.progress_timeout' => 0 });
my $ready = $server->scratch('ready');
my $fake = open2(my $from, my $to, $python, 't/fake_aws.py', '--ready', $ready);
wait_until(sub { -e $ready }, 'the fake of Amazon');
open my $in, '<', $ready or die "could not read: $!\n";
my $ports = decode_json(readline $in);
my $http = HTTP::Tiny->new;
my @rows;

sub fake
{
	my (%what) = @_;
	return decode_json($http->post("http://127.0.0.1:$ports->{control}/", { content => encode_json(\%what) })->{content});
}

sub looks { return fake(do => 'count')->{actions}{DescribeDBInstances} // 0 }

# CPU time in ms, and resident memory in kB, of a process.
sub used
{
	my ($pid) = @_;

	open my $stat, '<', "/proc/$pid/stat" or die "could not read: $!\n";
	my @fields = split ' ', readline($stat) =~ s/^.*\) //r;
	open my $statm, '<', "/proc/$pid/statm" or die "could not read: $!\n";
	return (($fields[11] + $fields[12]) * 10, (split ' ', readline $statm)[1] * 4);
}

# A create that waits, with its worker's pid.
sub waiting
{
	my ($name, $interval) = @_;

	$server->sql("CREATE SERVER $name FOREIGN DATA WRAPPER replica_aws OPTIONS (region 'eu-north-1', source 'orders',"
		  . " endpoint 'http://127.0.0.1:$ports->{'eu-north-1'}', wait_interval '$interval')");
	$server->sql("CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS (access_key_id 'AKIDTEST', secret_access_key 'sEcReT/Key+1')");
	my $operation = $server->sql("SELECT replica_create('$name', '$name')");
	wait_until(sub { $server->sql("SELECT step = 'instance_wait' FROM replica_operations WHERE operation = $operation") eq 't' }, 'the wait');
	return ($operation, $server->sql("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'replica_ctl operation%' ORDER BY backend_start DESC LIMIT 1"));
}

sub end
{
	my ($operation) = @_;

	$server->sql("SELECT replica_cancel($operation)");
	wait_until(sub { $server->sql("SELECT state = 'cancelled' FROM replica_operations WHERE operation = $operation") eq 't' }, 'the cancel');
	return;
}

fake(do => 'set', create_seconds => 100000);

my ($operation, $pid) = waiting('fast', '10 ms');
wait_until(sub { looks() > $requests / 10 }, 'the first looks', 600);
my ($cpu, $memory) = used($pid);
my $before = looks();
wait_until(sub { sleep 0.5; looks() - $before >= $requests }, 'the looks', 3600);
my ($cpu_after, $memory_after) = used($pid);
my $count = looks() - $before;
push @rows, [ "$count looks, one after the other", sprintf('%.2f ms each', ($cpu_after - $cpu) / $count),
	"$memory kB", sprintf('%+d kB', $memory_after - $memory) ];
end($operation);

($operation, $pid) = waiting('slow', '15 s');
sleep 3;
$before = looks();
($cpu, $memory) = used($pid);
sleep $wait;
($cpu_after, $memory_after) = used($pid);
push @rows, [ sprintf('waiting %d s, %d looks', $wait, looks() - $before), sprintf('%d ms', $cpu_after - $cpu),
	"$memory kB", sprintf('%+d kB', $memory_after - $memory) ];
end($operation);
close $to;
waitpid $fake, 0;

print "## Waiting for Amazon\n\n";
table([ 'the worker of a create', 'CPU time', 'memory', 'growth' ], @rows);
