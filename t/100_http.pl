# HTTP as our workers speak it: TLS, time-outs, limits, lost and garbled
# answers, retries, proxies, many at once, and memory that stays flat.

use strict;
use warnings;
use lib 't';
use HttpServer;
use JSON::PP;
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

plan skip_all => HttpServer::missing() if HttpServer::missing();

my $dir = PostgreSQL::Test::Utils::tempdir();
my $log = "$dir/requests";
my $certs = HttpServer::certificates("$dir/certs");
my $server = HttpServer->new($log,
	good => "$certs/good.crt,$certs/good.key",
	other => "$certs/other.crt,$certs/other.key",
	expired => "$certs/expired.crt,$certs/expired.key",
	self => "$certs/self.crt,$certs/self.key",
	client => "$certs/good.crt,$certs/good.key,$certs/ca.crt");
my $plain = 'http://127.0.0.1:' . $server->port('plain');
my $https = 'https://localhost:' . $server->port('good');

# Look-ups of one name hang.
my $shim = "$dir/slow_lookup.so";
my $compiled = slow_lookup($shim);
$ENV{LD_PRELOAD} = $shim if $compiled;

# The proxy of the server's environment.
$ENV{https_proxy} = $ENV{http_proxy} = 'http://user:proxysecret@127.0.0.1:' . $server->port('proxy');
$ENV{no_proxy} = 'localhost,nowhere.invalid,hanging.invalid';
my $node = new_primary('http');
delete @ENV{qw(https_proxy http_proxy no_proxy LD_PRELOAD)};
test_build($node) or plan skip_all => 'this is no test build';

$node->safe_psql('postgres', q{
	CREATE FUNCTION http(text) RETURNS text AS '$libdir/replica_ctl', 'rctl_test_http' LANGUAGE C STRICT;
	CREATE FUNCTION http_call(text) RETURNS text AS '$libdir/replica_ctl', 'rctl_test_http_call' LANGUAGE C STRICT;
	CREATE FUNCTION http_repeat(text, int, int) RETURNS text AS '$libdir/replica_ctl', 'rctl_test_http_repeat' LANGUAGE C STRICT;
	CREATE FUNCTION http_tasks(text, int) RETURNS text AS '$libdir/replica_ctl', 'rctl_test_http_tasks' LANGUAGE C STRICT;
	CREATE FUNCTION http_problem(text, boolean) RETURNS text AS '$libdir/replica_ctl', 'rctl_test_http_problem' LANGUAGE C STRICT;
});

my $json = JSON::PP->new->utf8->canonical;

# Calls a function with a request (a hash), and returns what it answers.
sub call
{
	my ($function, $request, @more) = @_;
	my $text = $json->encode($request);

	$text =~ s/'/''/g;
	return $json->decode($node->safe_psql('postgres',
			"SELECT $function(" . join(', ', "'$text'", @more) . ')', timeout => 120));
}

sub http { return call('http', {@_}) }

# The kinds of RctlHttpFailure.
my ($REFUSED, $RESOLVE, $CONNECT, $TLS, $TIMEOUT, $LOST, $TOO_LARGE, $GARBAGE) = 1 .. 8;

sub fails
{
	my ($name, $failure, $reason, %request) = @_;
	my $start = time;
	my $got = http(%request);

	ok($got->{status} == 0 && $got->{failure} == $failure && $got->{reason} =~ $reason, "$name")
	  or diag(explain($got));
	$got->{seconds} = time - $start;
	return $got;
}

# ---- what is said ----

my $got = http(method => 'POST', url => "$plain/echo", body => 'a=b', headers => {'X-One' => '1', 'Empty' => ''});
my $said = $json->decode($got->{body});
is($got->{status}, 200, 'a request is answered');
is($said->{method}, 'POST', 'its method');
is($said->{body}, 'a=b', 'its body');
is($said->{headers}{'x-one'}, '1', 'its header');
ok(!exists $said->{headers}{empty}, 'an empty header is left out');
ok(!exists $said->{headers}{expect} && !exists $said->{headers}{'content-type'}, 'libcurl adds none of its own');
is($said->{headers}{host}, '127.0.0.1:' . $server->port('plain'), 'the host has its port');
is($got->{type}, 'application/json', 'a header of the answer');
like($got->{date}, qr/^2026-11-22 0?\d:02:03|^2026-11-2\d \d\d:02:03/, 'the date of the answer');
like($got->{request_id}, qr/^id-\d+$/, 'its request id');
is($got->{sent}, JSON::PP::true, 'it was sent');

for my $method (qw(PUT DELETE PATCH GET))
{
	$said = $json->decode(http(method => $method, url => "$plain/echo")->{body});
	is($said->{method}, $method, "method $method");
}
is(http(url => "$plain/status?n=$_")->{status}, $_, "status $_ is an answer") for (400, 403, 404, 500);
is(http(url => "$plain/interim")->{body}, 'after all', 'an interim answer is left out');
is(http(url => "$plain/nul")->{length}, 4, 'a body is bytes');
is(http(url => "$plain/redirect?to=$plain/ok")->{status}, 302, 'a redirect is not followed');
is(http(url => "$plain/status?n=503&after=7")->{retry_after_ms}, 7000, 'Retry-After in seconds');
is(http(url => "$plain/status?n=503&after=Wed,%2021%20Oct%202015%2007:28:00%20GMT")->{retry_after_ms}, 0,
	'Retry-After as a date in the past');
is(http(url => "$plain/status?n=503&after=soon")->{retry_after_ms}, -1, 'Retry-After that is none');

# ---- TLS ----

is(http(url => "$https/ok", ca_file => "$certs/ca.crt")->{status}, 200, 'TLS by an authority from a file');
is(http(url => "$https/ok", ca_pem => slurp_file("$certs/ca.crt"))->{status}, 200, 'TLS by an authority as text');
$got = fails('an authority that the system does not know', $TLS, qr/certificate/, url => "$https/ok");
is($got->{sent}, JSON::PP::false, 'nothing is sent then');
fails('a certificate of another host', $TLS, qr/host name|match/, url => 'https://localhost:' . $server->port('other') . '/ok',
	ca_file => "$certs/ca.crt");
fails('an expired certificate', $TLS, qr/expired/, url => 'https://localhost:' . $server->port('expired') . '/ok',
	ca_file => "$certs/ca.crt");
fails('a certificate signed by itself', $TLS, qr/self/, url => 'https://localhost:' . $server->port('self') . '/ok',
	ca_file => "$certs/ca.crt");
fails('an authority file that does not exist', $REFUSED, qr/file/, url => "$https/ok", ca_file => "$certs/none");
is(http(url => 'https://localhost:' . $server->port('client') . '/ok', ca_file => "$certs/ca.crt",
		cert_file => "$certs/client.crt", key_file => "$certs/client.key")->{status}, 200, 'a client certificate');
is(http(url => 'https://localhost:' . $server->port('client') . '/ok', ca_file => "$certs/ca.crt",
		cert_pem => slurp_file("$certs/client.crt"), key_pem => slurp_file("$certs/client.key"))->{status}, 200,
	'a client certificate as text');
is(http(url => 'https://localhost:' . $server->port('client') . '/ok', ca_file => "$certs/ca.crt")->{status}, 0,
	'no client certificate where one is needed');
fails('TLS to one who does not speak it', $CONNECT, qr/TLS/, url => 'https://localhost:' . $server->port('plain') . '/ok', connect_ms => 500);

# ---- where to ----

for my $bad ('http://192.0.2.1/', 'http://example.com/', 'ftp://127.0.0.1/', 'https://user:pw@localhost/',
	'https://localhost/#x', 'https://local host/', 'https:///x', '/x', 'file:///etc/passwd',
	'http://127.0.0.1.example.com/', 'http://169.254.169.254/', "https://localhost/\x{fc}")
{
	fails("refused: $bad", $REFUSED, qr/./, url => $bad);
}
is($node->safe_psql('postgres', "SELECT http_problem('$_', true) IS NULL"), 't', "metadata: $_")
  for ('http://169.254.169.254/latest', 'http://[fd00:ec2::254]/latest', 'http://127.0.0.1:1/');
is($node->safe_psql('postgres', "SELECT http_problem('http://10.0.0.1/', true)"),
	'plain http is for loopback and link-local addresses only', 'metadata services are link-local');
fails('a header with a line feed', $REFUSED, qr/control character/, url => "$plain/ok", headers => {X => "a\r\nY: b"});
$got = fails('a host that does not exist', $RESOLVE, qr/resolve/, url => 'https://nowhere.invalid/', what => 'nobody');
fails('a port where nobody listens', $CONNECT, qr/./, url => 'http://127.0.0.1:' . free_port() . '/');

# ---- time ----

$got = fails('no answer in time', $TIMEOUT, qr/no answer came within 500 ms/, url => "$plain/hang", total_ms => 500);
is($got->{sent}, JSON::PP::true, 'but the request was sent');
cmp_ok($got->{elapsed_ms}, '<', 2000, 'it ends in time');
fails('slow headers', $TIMEOUT, qr/within 500 ms/, url => "$plain/slow-head", total_ms => 500);
fails('a slow body', $TIMEOUT, qr/not complete within 500 ms/, url => "$plain/slow-body", total_ms => 500);
$got = fails('no TLS in time', $CONNECT, qr/no TLS connection was made within 5\d\d ms/, url => 'https://localhost:' . $server->port('mute') . '/',
	connect_ms => 500);
is($got->{sent}, JSON::PP::false, 'the request was not sent');

# ---- what comes back ----

is(http(url => "$plain/big?n=1000000")->{length}, 1000000, 'a large body');
fails('a body that is too large', $TOO_LARGE, qr/larger than 1048576 bytes/, url => "$plain/big?n=2000000");
fails('a body that is too large, in pieces', $TOO_LARGE, qr/larger/, url => "$plain/big?n=2000000&chunked=1");
is(http(url => "$plain/big?n=2000000", max_body => 3000000)->{length}, 2000000, 'the bound can be raised');
fails('headers without an end', $TOO_LARGE, qr/larger/, url => "$plain/endless-head");
fails('a body that is cut', $LOST, qr/./, url => "$plain/cut");
$got = fails('no answer at all', $LOST, qr/./, url => "$plain/close");
is($got->{sent}, JSON::PP::true, 'it may have been done');
fails('that is not HTTP', $GARBAGE, qr/./, url => "$plain/garbage");

my ($rc, $out, $err) = $node->psql('postgres',
	qq{SELECT http('{"url": "$plain/close", "raise": true, "what": "the service", "action": "Create"}')});
like($err, qr/ERROR:  no answer from the service to Create\nDETAIL:  /, 'an error of a lost answer');
($rc, $out, $err) = $node->psql('postgres', q{SELECT http('{"url": "https://nowhere.invalid/x?secret=1", "raise": true}')});
like($err, qr/ERROR:  could not reach nowhere.invalid\nDETAIL:  /, 'an error of one that was not sent');
unlike($err, qr/secret/, 'without what stands behind the host');

# ---- connections ----

$got = call('http_repeat', {url => "$plain/ok"}, 1, 20);
is($got->{failures}, 0, 'many requests');
my @seen = grep { $_->{on} eq 'plain' && $_->{target} eq '/ok' } requests();
my %on = map { $_->{connection} => 1 } @seen[-20 .. -1];
is(scalar keys %on, 1, 'go over one connection');
$got = call('http_repeat', {url => "$plain/stale"}, 1, 20);
is($got->{failures}, 0, 'a kept connection that was closed meanwhile is no failure');
my $before = grep { $_->{target} eq '/echo' } requests();
call('http_repeat', {url => "$plain/echo", once => JSON::PP::true, method => 'POST'}, 0, 5);
@seen = grep { $_->{target} eq '/echo' } requests();
%on = map { $_->{connection} => 1 } @seen[$before .. $#seen];
is(scalar keys %on, 5, 'what may be sent once only has a connection of its own');

# ---- proxy ----

my $port = $server->port('good');
is(http(url => "https://127.0.0.1:$port/ok", ca_file => "$certs/ca.crt")->{status}, 200, 'https by the proxy of the environment');
my @proxied = grep { $_->{on} eq 'proxy' } requests();
is(scalar @proxied, 1, 'the proxy was used once: for https, and not where no_proxy says so');
is($proxied[0]{target}, "127.0.0.1:$port", 'and asked for the host');
is(http(url => "https://127.0.0.1:$port/ok", ca_file => "$certs/ca.crt", metadata => JSON::PP::true)->{status}, 200,
	'a metadata service');
is(scalar(grep { $_->{on} eq 'proxy' } requests()), 1, 'is asked without it');

# ---- trying again ----

sub tries
{
	my ($name, $made, $status, %request) = @_;
	my $got = call('http_call', {base_ms => 20, %request});

	ok($got->{made} == $made && $got->{response}{status} == $status, $name) or diag(explain($got));
	return $got;
}

my $key = 0;
sub flaky { my $more = shift; $key++; return "$plain/flaky?key=$key&$more" }

$got = tries('503 is tried again', 3, 200, url => flaky('n=2'), action => 'Ask');
is(join(',', map { "$_->{attempt}:$_->{status}" } @{ $got->{trace} }), '1:503,2:503,3:200', 'the trace has each attempt');
is($got->{trace}[0]{action}, 'Ask', 'with what was asked');
is(join(',', sort keys %{ $got->{trace}[0] }), 'action,attempt,host,method,ms,request_id,status', 'and no more than that');
tries('attempts have an end', 3, 503, url => flaky('n=9'));
tries('500 is not, if doing it twice does harm', 1, 500, url => flaky('n=1&status=500'));
tries('500 is, if not', 2, 200, url => flaky('n=1&status=500'), idempotent => JSON::PP::true);
tries('a lost answer is not, if doing it twice does harm', 1, 0, url => flaky('n=1&status=close'), once => JSON::PP::true);
tries('a lost answer is, if not', 2, 200, url => flaky('n=1&status=close'), once => JSON::PP::true,
	idempotent => JSON::PP::true);
tries('400 is not', 1, 400, url => flaky('n=1&status=400'), idempotent => JSON::PP::true);
tries('400 is, if the caller says so', 2, 200, url => flaky('n=1&status=400&body=again'), judge => JSON::PP::true);
my $start = time;
tries('Retry-After is waited for', 2, 200, url => flaky('n=1&after=1'));
cmp_ok(time - $start, '>=', 1, 'as long as it says');
$start = time;
tries('up to a bound', 2, 200, url => flaky('n=1&after=3600'), max_retry_after_ms => 300);
cmp_ok(time - $start, '<', 10, 'that is ours');
tries('a certificate does not become better', 1, 0, url => "$https/ok", idempotent => JSON::PP::true);

# ---- many at once ----

$got = call('http_tasks', [
		(map { {url => "$plain/hang?s=30", times => 1, total_ms => 3000} } 1 .. 3),
		(map { {url => "$plain/ok", times => 5} } 1 .. 10),
		{url => "$plain/ok", times => 2, delay_ms => 300},
		{url => "$plain/ok", times => 3, fail => JSON::PP::true},
		{url => 'http://192.0.2.1/', times => 2},
		{url => 'https://localhost:' . $server->port('mute') . '/', times => 1, connect_ms => 1000}], 10000);
is(scalar(grep { $_->{ended} } @$got), 17, 'all conversations end');
cmp_ok($_->{ms}, '<', 2500, 'one is not delayed by those that hang') for (@$got[3 .. 5]);
is(scalar(grep { $_->{status} == 200 } map { @{ $_->{answers} } } @$got[3 .. 12]), 50, 'each has its answers');
is($got->[0]{answers}[0]{failure}, $TIMEOUT, 'one that hangs has a time-out');
cmp_ok($got->[13]{ms}, '>=', 600, 'a delay is kept');
is($got->[14]{error}, 'the generator failed', 'an error ends its conversation');
is($got->[15]{answers}[1]{failure}, $REFUSED, 'one that cannot start has an answer as well');

# ---- a wait can be ended, and costs nothing ----

my $session = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $session->query('SELECT pg_backend_pid()');
$session->query_until(qr/going/, qq{\\echo going\nSELECT http('{"url": "$plain/hang?s=30", "total_ms": 60000}');\n});
wait_for($node, "SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $pid");
$start = time;
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
$session->query('SELECT 1');
cmp_ok(time - $start, '<', 1.5, 'a cancel is answered at once');
$session->quit;

# a name server that does not answer
SKIP:
{
	skip 'there is no compiler', 4 unless $compiled;
	$got = fails('a look-up that hangs', $CONNECT, qr/the host name was not resolved within 5\d\d ms/,
		url => 'https://hanging.invalid/', connect_ms => 500);
	cmp_ok($got->{seconds}, '<', 3, 'ends in time');
	$session = $node->background_psql('postgres', on_error_stop => 0);
	$pid = $session->query('SELECT pg_backend_pid()');
	$session->query_until(qr/going/, qq{\\echo going\nSELECT http('{"url": "https://hanging.invalid/", "connect_ms": 60000}');\n});
	wait_for($node, "SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $pid");
	$start = time;
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
	$session->query('SELECT 1');
	cmp_ok(time - $start, '<', 1.5, 'and can be cancelled');
	my $ok = call('http_tasks', [
			{url => 'https://hanging.invalid/', times => 1, connect_ms => 3000}, {url => "$plain/ok", times => 5}], 10000);
	cmp_ok($ok->[1]{ms}, '<', 2000, 'and delays nobody else');
	$session->quit;
}

$got = call('http_repeat', {url => "$plain/hang?s=3"}, 0, 1);
cmp_ok($got->{cpu_ms}, '<', 100, 'waiting takes no CPU time');

# ---- memory ----

$got = call('http_repeat', {url => "$plain/echo", method => 'POST', body => 'x' x 2000,
		headers => {Authorization => 'Bearer topsecret'}}, 1000, 10000);
is($got->{failures}, 0, '10,000 requests');
cmp_ok($got->{after_kb} - $got->{before_kb}, '<', 512, 'memory stays flat') or diag(explain($got));
note(sprintf '10,000 requests: %d kB more, %.0f ms of CPU', $got->{after_kb} - $got->{before_kb}, $got->{cpu_ms});
$got = call('http_repeat', {url => "$https/ok", ca_file => "$certs/ca.crt", once => JSON::PP::true}, 50, 200);
is($got->{failures}, 0, '200 requests with a TLS connection each');
cmp_ok($got->{after_kb} - $got->{before_kb}, '<', 1024, 'memory stays flat') or diag(explain($got));

my $logged = slurp_file($node->logfile);
unlike($logged, qr/proxysecret/, "the proxy's password is in no log");
unlike($logged =~ s/statement:.*//gir, qr/topsecret/, 'nor is a header');

# A library in which the look-up of hanging.invalid takes 20 seconds.
sub slow_lookup
{
	my ($file) = @_;

	open my $out, '>', "$file.c" or die "could not write: $!\n";
	print $out <<'SOURCE';
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
	int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
		(int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **)) dlsym(RTLD_NEXT, "getaddrinfo");

	if (node && strcmp(node, "hanging.invalid") == 0)
		sleep(20);
	return real(node, service, hints, result);
}
SOURCE
	close $out;
	return system("gcc -shared -fPIC -o $file $file.c -ldl >/dev/null 2>&1") == 0;
}

sub requests
{
	return map { $json->decode($_) } split /\n/, slurp_file($log);
}

$node->stop;
done_testing();
