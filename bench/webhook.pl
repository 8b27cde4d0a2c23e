# What HTTP costs the monitor, measured by the webhook: CPU time and memory for
# requests over a kept connection, and while it waits for a receiver that is
# dead, or that accepts and does not answer.
#
# Goal: waiting takes no more CPU time than an idle monitor does, and memory
# stays flat.
#
# RCTL_BENCH_EVENTS   events to send (10000)
# RCTL_BENCH_SECONDS  seconds of each wait (20)

use strict;
use warnings;
use lib 't';
use Bench;
use HttpServer;
use Time::HiRes qw(sleep time);

if (my $missing = HttpServer::missing())
{
	print "$missing\n";
	exit 0;
}

my $events = $ENV{RCTL_BENCH_EVENTS} || 10000;
my $wait = $ENV{RCTL_BENCH_SECONDS} || 20;
my $server = Bench::Server->new('webhook', settings => {});
my $receiver = HttpServer->new($server->scratch('requests'));
my $pid = $server->sql("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'replica_ctl monitor%'");
my @rows;

# CPU time in ms, and resident memory in kB, of the monitor.
sub used
{
	open my $stat, '<', "/proc/$pid/stat" or die "could not read: $!\n";
	my @fields = split ' ', readline($stat) =~ s/^.*\) //r;
	open my $statm, '<', "/proc/$pid/statm" or die "could not read: $!\n";
	return (($fields[11] + $fields[12]) * 10, (split ' ', readline $statm)[1] * 4);
}

sub webhook
{
	my ($url) = @_;

	$server->sql("ALTER SYSTEM SET replica_ctl.webhook_url = '$url'");
	$server->sql('SELECT pg_reload_conf()');
	return;
}

sub queue
{
	$server->sql("WITH e AS (INSERT INTO replica_ctl.event (severity, kind, message, actor)"
		  . " SELECT 'info', 'bench', 'event ' || g, current_user FROM generate_series(1, $_[0]) g RETURNING event_id)"
		  . ' INSERT INTO replica_ctl.webhook_queue SELECT event_id FROM e');
	return;
}

sub measure
{
	my ($what, $block) = @_;
	my ($cpu, $memory) = used();
	my $took = timed { $block->() };
	my ($cpu_after, $memory_after) = used();

	push @rows, [ $what, seconds($took), sprintf('%d ms', $cpu_after - $cpu),
		sprintf('%.1f ms', ($cpu_after - $cpu) / $took), sprintf('%+d kB', $memory_after - $memory) ];
	return $took;
}

sub drained { wait_until(sub { $server->sql('SELECT pending = 0 FROM replica_webhook') eq 't' }, 'the queue', 600); return }

sleep 3;
measure("no webhook, $wait s", sub { sleep $wait });
webhook('http://127.0.0.1:' . $receiver->port('plain') . '/ok');
queue(200);
drained();
measure("a webhook, nothing to send, $wait s", sub { sleep $wait });
my $took = measure("$events events", sub { queue($events); drained() });
webhook('http://127.0.0.1:' . $receiver->port('plain') . '/hang?s=3600');
queue(10);
sleep 2;
measure("a receiver that does not answer, $wait s", sub { sleep $wait });
webhook('http://127.0.0.1:' . Bench::Server->free_port . '/');
sleep 2;
measure("a dead receiver, $wait s", sub { sleep $wait });

print "### HTTP in the monitor: the webhook\n\n";
table([ 'what', 'time', 'CPU time', 'CPU time a second', 'memory' ], @rows);
printf "\n%.0f events a second, one request each.\n", $events / $took;
