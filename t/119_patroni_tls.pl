# 119_patroni_tls.pl
#	  A Patroni whose REST interface wants TLS and a client certificate; and a
#	  member that becomes the leader without our library.
# slow

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use HttpServer;
use ReplicaCtl;
use PatroniInside;

plan skip_all => 'missing: ' . Patroni::missing() if Patroni::missing();
plan skip_all => 'missing: openssl' unless grep { -x "$_/openssl" } split /:/, $ENV{PATH};

my $tls = HttpServer::certificates(PostgreSQL::Test::Utils::tempdir('tls'));
my $patroni = PatroniInside->new(2, tls => $tls);
$patroni->{nodes}{p2}{parameters} = ", shared_preload_libraries: ''";
$patroni->start;

# a connection that fails is tried again
$patroni->lead('ALTER SYSTEM SET replica_ctl.step_retries = 0');
$patroni->lead('SELECT pg_reload_conf()');

sub attach { return $patroni->outcome($patroni->lead(q{SELECT replica_attach('p2', 'patroni')})) }

# --------------------------------------------------------------------------
note 'certificates';
# --------------------------------------------------------------------------
like(attach(), qr/^failed\|inspect\|no member of the Patroni cluster answers\|.*certificate/, 'an authority that is not known');
$patroni->lead("ALTER SERVER patroni OPTIONS (ADD ca_file '$tls/self.crt')");
like(attach(), qr/^failed\|inspect\|no member of the Patroni cluster answers\|.*certificate/, 'another authority');
$patroni->lead("ALTER SERVER patroni OPTIONS (SET ca_file '$tls/ca.crt')");
# in TLS 1.3 the server says so after the handshake, and its end of the connection may come first
like(attach(), qr/^failed\|inspect\|no member of the Patroni cluster answers\|https:.*(certificate|reset|closed|not connected)/, 'no certificate of ours');
$patroni->lead("ALTER SERVER patroni OPTIONS (ADD cert_file '$tls/client.crt', ADD key_file '$tls/client.key')");
like(attach(), qr/^succeeded/, 'with one');

# --------------------------------------------------------------------------
note 'a new leader without the library';
# --------------------------------------------------------------------------
like($patroni->lead(q{SELECT status, detail, hint FROM replica_explain('promote', 'p2') WHERE name = 'library'}),
	qr/^warning\|replica_ctl is not preloaded on replica "p2".*nobody finishes the operation.*\|.*patronictl edit-config/, 'a warning');
my $operation = $patroni->lead(q{SELECT replica_promote('p2')});
$patroni->wait(sub { ($_[0]{p2}{role} // '') eq 'leader' && ($_[0]{p1}{state} // '') =~ /^(running|streaming)/ });
is($patroni->sql('p2', 'SELECT pg_is_in_recovery()'), 'f', 'the member leads');
is($patroni->sql('p2', 'INSERT INTO acked VALUES (1, 1) RETURNING client'), '1', 'and takes writes');
is($patroni->sql('p2', "SELECT state, step FROM replica_ctl.operation WHERE operation_id = $operation"), 'running|promote', 'nobody finishes the operation');

$patroni->{nodes}{p2}{parameters} = '';
$patroni->write_config('p2');
$patroni->call('p2', 'POST', '/reload', '');
ok($patroni->wait_sql('p2', q{SELECT count(*) > 0 FROM pg_settings WHERE pending_restart}), 'the library is configured');
like($patroni->call('p2', 'POST', '/restart', '{}'), qr/restarted successfully/, 'and the server restarted');
like($patroni->outcome($operation), qr/^succeeded/, 'now it is finished');
is($patroni->leader, 'p2', 'by the leader');
is($patroni->registry, 'p1 streaming', 'whose replica is the old one');
is($patroni->fenced('p2'), 'down', 'which is not fenced');

done_testing();
