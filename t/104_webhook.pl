# The webhook: every event arrives, in order and signed; a receiver that is
# dead, slow or wrong stops nothing, and what it costs is bounded and visible.
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

my $node = new_primary('webhook');
test_build($node) or plan skip_all => 'this is no test build';
my $dir = PostgreSQL::Test::Utils::tempdir();
my ($log, $control, $secret) = ("$dir/log", "$dir/control", "$dir/secret");
my $json = JSON::PP->new->utf8;

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub file
{
	my ($name, $content, $mode) = @_;

	open my $out, '>', "$name.new" or die "could not write: $!\n";
	print $out $content;
	close $out;
	chmod $mode // 0644, "$name.new";
	rename "$name.new", $name or die;
	return;
}

sub control { file($control, $_[0]); return }
sub received { return -e $log ? map { $json->decode($_) } split /\n/, slurp_file($log) : () }

# Events, by hand, in the way that they are written.
sub events
{
	my ($message, $count) = @_;
	sql("SELECT count(note(format('%s %s', \$\$$message\$\$, g))) FROM generate_series(1, $count) g");
	return;
}

sub configure
{
	my (%settings) = @_;

	$node->append_conf('postgresql.conf', join '', map { "replica_ctl.webhook_$_ = '$settings{$_}'\n" } sort keys %settings);
	$node->reload;
	for my $name (keys %settings)
	{
		wait_for($node, "SELECT current_setting('replica_ctl.webhook_$name') = '$settings{$name}'");
	}
	return;
}

sub drained { wait_for($node, 'SELECT pending = 0 FROM replica_webhook', $_[0] // 60); return }

sql(q{CREATE FUNCTION note(text) RETURNS void AS '$libdir/replica_ctl', 'rctl_test_event' LANGUAGE C STRICT});
chmod 0755, $dir;
file($secret, "correct horse battery staple\n", 0600);
control('ok');
my $receiver = HttpServer->start('t/webhook_receiver.py', $log, $control, $secret);
my $url = 'http://127.0.0.1:' . $receiver->port('http') . '/hook?token=urltoken';

# ---- off, and on ----

events('before', 3);
is(sql('SELECT pending, sent, dropped FROM replica_webhook'), '0|0|0', 'without a webhook nothing waits for it');
my ($rc, $out, $err) = $node->psql('postgres', "ALTER SYSTEM SET replica_ctl.webhook_url = 'ftp://x/'");
like($err, qr/invalid value for parameter.*\n?.*does not begin with "https:/, 'a URL that is none');
configure(url => $url, secret_file => $secret);

events(qq{quotes '" \\ \xc3\xa9 <b> \t}, 1);
drained();
my @got = received();
is(scalar @got, 1, 'an event is sent');
is($got[0][2], 'good', 'its signature is right');
is($got[0][3], sql('SELECT message FROM replica_events ORDER BY event DESC LIMIT 1') =~ s/\xc3\xa9/\x{e9}/r, 'its message');
is(join(',', sort keys %{ $got[0][4] }), 'actor,at,cluster_name,detail,event,kind,message,operation,replica,severity,system_identifier',
	'and all there is to it');
is($got[0][1], $got[0][4]{system_identifier} . '-' . $got[0][0], 'its id');
is(sql('SELECT sent, dropped, last_failure, last_sent_at IS NOT NULL FROM replica_webhook'), '1|0||t', 'that is counted');
is(sql('SELECT count(*) FROM (SELECT note(NULL)) x'), '1', 'nothing else');

events('many', 500);
drained();
@got = received();
is(scalar @got, 501, 'many are sent');
is(scalar(grep { $_->[2] eq 'good' } @got), 501, 'each signed');
is(join(',', map { $_->[0] } @got), join(',', sort { $a <=> $b } map { $_->[0] } @got), 'in order');
sql("BEGIN; SELECT note('rolled back'); ROLLBACK");
events('after', 1);
drained();
ok(!grep({ $_->[3] =~ /rolled back/ } received()), 'what is rolled back is not');

# a real operation
mock_server($node);
is(wait_operation($node, sql("SELECT replica_create('r1', 'mock')")), 'succeeded', 'an operation');
drained();
is(scalar(grep { ($_->[4]{replica} // '') eq 'r1' } received()), sql("SELECT count(*) FROM replica_events WHERE replica = 'r1'"),
	'its events are sent');

# ---- trouble ----

my $count = received();
control('500');
events('refused', 10);
wait_for($node, "SELECT last_failure = 'the webhook answered with status 500' FROM replica_webhook");
is(sql('SELECT pending FROM replica_webhook'), '10', 'they wait');
is(sql('SELECT count(*) FROM replica_wal_usage'), '1', 'and nothing waits for them');
$node->restart;
control('ok');
drained();
is(scalar(received()), $count + 10, 'they arrive later, also after a restart');

# fenced, and after a crash
sql("SELECT replica_fence('test')");
events('fenced', 2);
drained();
sql('SELECT replica_unfence()');
drained();
pass('events are sent while the server is fenced');
control('500');
events('crash', 5);
wait_for($node, 'SELECT pending = 5 FROM replica_webhook');
kill 'KILL', worker_pid($node, 'replica_ctl monitor');
control('ok');
drained();
my %crashed = map { $_->[1] => 1 } grep { $_->[3] =~ /^crash/ } received();
is(scalar keys %crashed, 5, 'they arrive after a crash');

control('close');
events('cut', 2);
wait_for($node, "SELECT last_failure NOT LIKE '%500%' AND pending = 2 FROM replica_webhook");
control('retry');
wait_for($node, "SELECT last_failure LIKE '%503' FROM replica_webhook");
control('400 bad');
drained();
events('bad', 1);
events('good', 3);
drained(120);
@got = received();
is(scalar(grep { $_->[3] =~ /^good/ } @got), 3, 'an event that is never taken does not hold up those behind it');
is(sql('SELECT dropped FROM replica_webhook'), '1', 'and is counted as dropped');
control('ok');

# slow
control('slow');
events('slow', 1);
sleep 2;
my $start = time;
my $before = sql('SELECT count(*) FROM replica_metrics_history');
is(wait_operation($node, sql("SELECT replica_create('r2', 'mock')")), 'succeeded', 'while the receiver is slow operations go on');
wait_for($node, "SELECT count(*) > $before + 6 FROM replica_metrics_history");
cmp_ok(time - $start, '<', 14, 'and so does the monitor');
control('ok');
drained(120);

# the secret
file($secret, 'another', 0600);
events('wrongly signed', 1);
drained();
is((received())[-1][2], 'bad', 'the secret is read anew');
file($secret, 'correct horse battery staple', 0644);
events('not signed', 1);
wait_for($node, "SELECT last_failure LIKE '%can be read by everybody%' AND pending = 1 FROM replica_webhook");
unlink $secret;
wait_for($node, "SELECT last_failure LIKE 'could not open the file of replica_ctl.webhook_secret_file%' FROM replica_webhook");
pass('nothing is sent without a signature if there should be one');
file($secret, 'correct horse battery staple', 0600);
drained();
is((received())[-1][2], 'good', 'signed again');

# TLS
my $certs = HttpServer::certificates("$dir/certs");
my $tls = HttpServer->start('t/webhook_receiver.py', "$log.tls", $control, $secret, "$certs/good.crt", "$certs/good.key");
configure(url => 'https://localhost:' . $tls->port('http') . '/');
events('by TLS', 1);
wait_for($node, "SELECT last_failure LIKE '%certificate%' AND pending = 1 FROM replica_webhook");
pass('a certificate that nobody vouches for');
configure(ca_file => "$certs/ca.crt");
drained();
like(slurp_file("$log.tls"), qr/by TLS/, 'an authority from a file');

# ---- dead, with a long queue ----

configure(url => 'http://127.0.0.1:' . free_port() . '/');
my $pid = worker_pid($node, 'replica_ctl monitor');
my $memory = resident_kb($pid);
my $dropped = sql('SELECT dropped FROM replica_webhook');
events('pending', 10500);
wait_for($node, 'SELECT pending = 10000 FROM replica_webhook', 60);
is(sql('SELECT dropped FROM replica_webhook') - $dropped, 500, 'the queue is bounded; what is dropped is counted');
my $ticks = cpu_ticks($pid);
$before = sql('SELECT count(*) FROM replica_metrics_history');
sleep 4;
cmp_ok(sql('SELECT count(*) FROM replica_metrics_history') - $before, '>=', 6, 'the monitor goes on');
cmp_ok(cpu_ticks($pid) - $ticks, '<', 60, 'at little cost');
cmp_ok(resident_kb($pid) - $memory, '<', 4096, "the monitor's memory does not grow");
unlink $log;
$receiver->stop;
$receiver = HttpServer->start('t/webhook_receiver.py', $log, $control, $secret);
$start = time;
configure(url => 'http://127.0.0.1:' . $receiver->port('http') . '/hook?token=urltoken');
drained(300);
note(sprintf '10,000 events in %.1f s', time - $start);
@got = received();
my %ids = map { $_->[1] => 1 } @got;
is(scalar keys %ids, 10000, 'all that waited arrive');
is(scalar(grep { $_->[2] eq 'good' } @got), scalar @got, 'with right signatures');
cmp_ok(resident_kb($pid) - $memory, '<', 4096, "the monitor's memory has not grown") or diag(resident_kb($pid) - $memory);

control('500');
events('forgotten', 5);
wait_for($node, 'SELECT pending = 5 FROM replica_webhook');
configure(url => '');
drained();
pass('without a webhook what waits is forgotten');
is(worker_pid($node, 'replica_ctl monitor'), $pid, 'the monitor has not failed');
# PostgreSQL itself logs changed settings, and the tests' statements
my $logged = slurp_file($node->logfile) =~ s/(statement:|changed to).*//gir;
unlike($logged, qr/horse|urltoken|v1=/, 'no secret is in the log');
is(sql("SELECT count(*) FROM replica_webhook WHERE last_failure ~ 'horse|urltoken'"), '0', 'or in the view');

sub resident_kb
{
	my ($pid) = @_;
	return (split ' ', slurp_file("/proc/$pid/statm"))[1] * 4;
}

sub cpu_ticks
{
	my ($pid) = @_;
	my @fields = split ' ', slurp_file("/proc/$pid/stat") =~ s/^.*\) //r;

	return $fields[11] + $fields[12];
}

$node->stop;
done_testing();
