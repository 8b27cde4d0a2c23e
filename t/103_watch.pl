# What services tell about replicas, by way of the monitor: shown with its age,
# unknown when it is not told, asked for by server, and never a hindrance.
#
# slow

use strict;
use warnings;
use lib 't';
use HttpServer;
use JSON::PP;
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

plan skip_all => HttpServer::missing() if HttpServer::missing();

my $node = new_primary('watch', conf => "replica_ctl.sample_interval = 500ms\n");
test_build($node) or plan skip_all => 'this is no test build';
mock_server($node);

my $dir = PostgreSQL::Test::Utils::tempdir();
my $log = "$dir/requests";
my $server = HttpServer->new($log);
my $url = 'http://127.0.0.1:' . $server->port('plain');
my $json = JSON::PP->new->utf8->canonical;

sub sql { return $node->safe_psql('postgres', $_[0]) }

# What the service tells from now on.
sub service_says
{
	my ($what, $name) = @_;
	my $file = "$dir/" . ($name // 'answer');

	open my $out, '>', "$file.new" or die "could not write: $!\n";
	print $out ref $what ? $json->encode($what) : $what;
	close $out;
	chmod 0644, "$file.new";
	rename "$file.new", $file or die;
	return;
}

sub requests
{
	my ($path) = @_;
	return -e $log ? scalar(grep { $json->decode($_)->{target} =~ m{^\Q$path\E} } split /\n/, slurp_file($log)) : 0;
}

# Another round has ended since.
sub next_round
{
	my $at = sql('SELECT coalesce(max(polled_at), now())::text FROM replica_ctl.services()');

	wait_for($node, "SELECT count(*) FILTER (WHERE polled_at > '$at') = count(*) FROM replica_ctl.services()");
	return;
}

chmod 0755, $dir;
service_says({replicas => {}});
sql('CREATE SERVER watched FOREIGN DATA WRAPPER replica_mock OPTIONS (directory '
	  . "'" . ReplicaCtl::mock_dir($node) . "', watch_url '$url/file?path=$dir/answer', poll_interval '1')");
sql('CREATE USER MAPPING FOR CURRENT_USER SERVER watched OPTIONS (password $$topsecret$$)');
my @operations = map { sql("SELECT replica_create('m$_', 'watched')") } 1 .. 20;
is(wait_operation($node, $_), 'succeeded', "replica of operation $_ is made") for @operations;

# ---- nothing is known ----

wait_for($node, 'SELECT count(*) = 20 FROM replica_ctl.services() WHERE polled_at IS NOT NULL');
sql("UPDATE replica_ctl.replica SET facts = facts - 'host' WHERE name = 'm1'");
is(sql("SELECT service_status IS NULL AND service_percent IS NULL AND endpoint IS NULL AND lag IS NULL AND lag_sampled_at IS NULL"
		  . " AND NOT connected FROM replica_status WHERE replica = 'm1'"), 't', 'what is not told is unknown');
is(sql("SELECT count(*) FROM replica_metrics WHERE replica = 'm1' AND value IS NOT NULL"), '0', 'metrics, too');

# ---- what is told is shown ----

my %all = (status => 'migrating', percent => 40, streaming => JSON::PP::true, host => 'm1.example.com', port => 5433,
	lag => 12.5, lag_age => 100, metrics => [
		{name => 'FreeStorageSpace', value => 1e9, unit => 'Bytes', source => 'cloud orders', age => 90},
		{name => 'ReplicaLag', value => 12.5, unit => 'Seconds', source => 'cloud m1', age => 100},
		map { { name => "m$_", value => $_, unit => 'Count', source => 'cloud' } } 1 .. 20]);
service_says({replicas => {m1 => \%all, m2 => {status => "caf\x{e9} \n" . 'x' x 500, percent => 4000, lag => -1}}});
wait_for($node, "SELECT service_status = 'migrating' FROM replica_status WHERE replica = 'm1'");
is(sql("SELECT state, connected, endpoint, lag, service_percent, extract(epoch FROM now() - lag_sampled_at) BETWEEN 99 AND 120,"
		  . " service_polled_at > now() - interval '10 s' FROM replica_status WHERE replica = 'm1'"),
	'streaming|t|m1.example.com:5433|00:00:12.5|40|t|t', 'status, endpoint, lag and their age');
is(sql("SELECT state, connected, replay_lag, extract(epoch FROM now() - lag_sampled_at) BETWEEN 99 AND 120 FROM replica_lag WHERE replica = 'm1'"),
	'streaming|t|00:00:12.5|t', 'replica_lag as well');
is(sql("SELECT value, unit, source, extract(epoch FROM now() - sampled_at) BETWEEN 89 AND 110 FROM replica_metrics"
		  . " WHERE replica = 'm1' AND metric = 'FreeStorageSpace'"), '1000000000|Bytes|cloud orders|t', 'a metric with its age');
is(sql("SELECT value, source FROM replica_metrics WHERE replica = 'm1' AND metric = 'ReplicaLag'"), '12.5|cloud m1',
	"the service's lag where there is no better one");
is(sql("SELECT count(*) FROM replica_metrics WHERE replica = 'm1'"), '8', 'there is room for eight metrics');
is(sql("SELECT length(service_status) BETWEEN 55 AND 63 AND service_status LIKE 'caf_  xxx%', service_percent, lag FROM replica_status WHERE replica = 'm2'"),
	't||', 'text is cut, and senseless numbers are unknown');

service_says({replicas => {m1 => {status => 'available'}}});
wait_for($node, "SELECT service_status = 'available' FROM replica_status WHERE replica = 'm1'");
is(sql("SELECT lag, service_percent, lag_sampled_at, connected FROM replica_status WHERE replica = 'm1'"), '|||f',
	'what is not told any more is unknown, not the last value');
is(sql("SELECT count(*) FROM replica_metrics WHERE replica = 'm1' AND value IS NOT NULL"), '0', 'nor are metrics 0');

# ---- one request for all ----

my $before = requests('/file');
next_round() for 1 .. 3;
cmp_ok(requests('/file') - $before, '<=', 5, 'a round is one request, for 20 replicas');

# ---- events ----

my @events = ({replica => 'm1', id => 'a', message => 'first', age => 3600}, {replica => 'm1', id => 'b', message => 'second password=topsecret'},
	{replica => 'm2', id => 'a', message => 'of another'}, {id => 'a', message => "of the server \"'\\ <b>"},
	{replica => 'm1', id => 'old', message => 'too old', age => 400 * 86400});
service_says({replicas => {}, events => \@events});
wait_for($node, "SELECT count(*) >= 4 FROM replica_events WHERE kind = 'mock'");
next_round() for 1 .. 3;
is(sql("SELECT string_agg(coalesce(replica, '-') || ':' || (detail->>'id'), ' ' ORDER BY replica NULLS LAST, detail->>'id') FROM replica_events WHERE kind = 'mock'"),
	'm1:a m1:b m2:a -:a', 'each event is written once');
is(sql("SELECT extract(epoch FROM now() - at) BETWEEN 3599 AND 3700 FROM replica_events WHERE kind = 'mock' AND replica = 'm1' AND detail->>'id' = 'a'"),
	't', 'with the time when it happened');
is(sql("SELECT count(*) FROM replica_events WHERE message LIKE '%topsecret%'"), '0', 'and without a password');
$node->restart;
wait_for($node, 'SELECT count(*) = 20 FROM replica_ctl.services() WHERE polled_at IS NOT NULL');
next_round();
is(sql("SELECT count(*) FROM replica_events WHERE kind = 'mock'"), '4', 'also after a restart');
service_says({replicas => {}, events => [ map { { replica => 'm3', id => "many $_", message => "event $_" } } 1 .. 500 ]});
wait_for($node, "SELECT count(*) = 500 FROM replica_events WHERE kind = 'mock' AND replica = 'm3'");
next_round() for 1 .. 2;
is(sql("SELECT count(*) FROM replica_events WHERE kind = 'mock' AND replica = 'm3'"), '500', 'many events');
service_says({replicas => {}, tell_rounds => JSON::PP::true});
wait_for($node, "SELECT count(*) >= 3 FROM replica_events WHERE kind = 'mock' AND detail->>'id' LIKE 'round %'");
pass('what the provider remembers is there in the next round');

# also while the server is fenced
sql("SELECT replica_fence('test')");
service_says({replicas => {}, events => [ {replica => 'm4', id => 'fenced', message => 'happened meanwhile'} ]});
wait_for($node, "SELECT count(*) = 1 FROM replica_events WHERE kind = 'mock' AND replica = 'm4'");
pass('an event is written while the server is fenced');
sql('SELECT replica_unfence()');

# ---- trouble ----

service_says({replicas => {m1 => {status => 'available', streaming => JSON::PP::true, lag => 1}}});
wait_for($node, "SELECT connected FROM replica_status WHERE replica = 'm1'");
service_says('<html>busy</html>');
wait_for($node, "SELECT message LIKE 'the answer of the mock service makes no sense%' FROM replica_status WHERE replica = 'm1'");
is(sql("SELECT service_status, lag FROM replica_status WHERE replica = 'm1'"), 'available|00:00:01', 'a failed round changes nothing else');
wait_for($node, "SELECT NOT connected FROM replica_status WHERE replica = 'm1'");
pass('but that it streams is not known for ever');
service_says({replicas => {m1 => {status => 'half'}}, fail => 'the service is ill'});
wait_for($node, "SELECT message = 'the service is ill' FROM replica_status WHERE replica = 'm1'");
is(sql("SELECT service_status FROM replica_status WHERE replica = 'm1'"), 'available', 'nor does half a round');
$before = requests('/file');
sleep 4;
cmp_ok(requests('/file') - $before, '<=', 3, 'pauses grow with failures');
service_says({replicas => {m1 => {status => 'back'}}});
sql("ALTER SERVER watched OPTIONS (SET poll_interval '2')");
sql("SELECT replica_create('another', 'watched')");
wait_for($node, "SELECT service_status = 'back' AND message IS NULL FROM replica_status WHERE replica = 'm1'");
pass('it recovers');
sql("ALTER SERVER watched OPTIONS (SET poll_interval '1')");

# one that hangs delays nobody else
sql('CREATE SERVER hanging FOREIGN DATA WRAPPER replica_mock OPTIONS (directory '
	  . "'" . ReplicaCtl::mock_dir($node) . "', watch_url '$url/hang?s=300', poll_interval '1')");
sql('CREATE SERVER mute FOREIGN DATA WRAPPER replica_mock OPTIONS (directory '
	  . "'" . ReplicaCtl::mock_dir($node) . "', watch_url 'https://127.0.0.1:" . $server->port('mute') . "/', poll_interval '1')");
sql('CREATE SERVER elsewhere FOREIGN DATA WRAPPER replica_mock OPTIONS (directory '
	  . "'" . ReplicaCtl::mock_dir($node) . "', watch_url 'http://192.0.2.1/', poll_interval '1')");
wait_operation($node, sql("SELECT replica_create('h_$_', '$_')")) for qw(hanging mute elsewhere);
wait_for($node, "SELECT message LIKE '%use https%' FROM replica_status WHERE replica = 'h_elsewhere'");
wait_for($node, "SELECT message LIKE 'could not reach the mock service%' FROM replica_status WHERE replica = 'h_mute'");
cmp_ok(requests('/hang'), '>=', 1, 'one server hangs');
my $pid = worker_pid($node, 'replica_ctl monitor');
my $ticks = cpu_ticks($pid);
$before = requests('/file');
my $samples = sql('SELECT count(*) FROM replica_metrics_history');
sleep 5;
cmp_ok(requests('/file') - $before, '>=', 3, 'others are asked as before');
cmp_ok(sql('SELECT count(*) FROM replica_metrics_history') - $samples, '>=', 12, 'and this server is sampled');
cmp_ok(cpu_ticks($pid) - $ticks, '<', 60, 'waiting takes no CPU time');

# ---- gone ----

wait_operation($node, sql("SELECT replica_drop('h_hanging')"));
wait_for($node, "SELECT count(*) = 23 FROM replica_ctl.services()");
pass('a replica that is dropped is not watched any more');
$before = requests('/file');
service_says({replicas => {}, endless => JSON::PP::true});
wait_for($node, "SELECT message LIKE 'looking at the replicas takes more than % requests' FROM replica_status WHERE replica = 'm1'");
cmp_ok(requests('/file') - $before, '<', 400, 'a round without an end is ended');
is(worker_pid($node, 'replica_ctl monitor'), $pid, 'it was the same monitor all the time');
unlike(slurp_file($node->logfile) =~ s/statement:.*//gir, qr/topsecret/, 'no secret is in the log');

# Clock ticks that a process has used.
sub cpu_ticks
{
	my ($pid) = @_;
	my @fields = split ' ', slurp_file("/proc/$pid/stat") =~ s/^.*\) //r;

	return $fields[11] + $fields[12];
}

$node->stop;
done_testing();
