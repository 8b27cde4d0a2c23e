# 145_ssh_network.pl
#	  Two hosts in networks of their own, with links that are slowed and cut:
#	  with TLS and SCRAM, then with client certificates.
#
# slow

use strict;
use warnings;
use lib 't';
use Networks;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;
use SshHosts;
use Time::HiRes qw(sleep time);

plan skip_all => ssh_missing() if ssh_missing();
plan skip_all => 'needs to make networks (root, or user namespaces)' unless $Networks::here;

my %n1 = ssh_network(1);
my %n2 = ssh_network(2);
my $pki = PostgreSQL::Test::Utils::tempdir('pki');

# An authority, a certificate for the servers, and one for the role.
system_or_bail('sh', '-ec', q{cd "$1"; umask 077
	openssl req -new -x509 -days 2 -nodes -subj /CN=authority -keyout ca.key -out ca.crt
	for n in server rep; do
		openssl req -new -nodes -subj "/CN=$n" -keyout $n.key -out $n.csr
		openssl x509 -req -in $n.csr -days 2 -CA ca.crt -CAkey ca.key -CAcreateserial -out $n.crt
	done}, 'sh', $pki);

my $primary = ssh_primary('main',
	conf => "listen_addresses = '*'\nssl = on\nssl_cert_file = '$pki/server.crt'\nssl_key_file = '$pki/server.key'\nssl_ca_file = '$pki/ca.crt'",
	hba => "local all all trust\nlocal replication all trust\n"
	  . "hostssl all rep 10.9.0.0/16 scram-sha-256\nhostssl replication rep 10.9.0.0/16 scram-sha-256\n"
	  . "hostssl all cert 10.9.0.0/16 cert map=c\nhostssl replication cert 10.9.0.0/16 cert map=c\n");
append_to_file($primary->data_dir . '/pg_ident.conf', "c rep cert\n");
$primary->safe_psql('postgres', 'CREATE ROLE cert LOGIN SUPERUSER REPLICATION; SELECT pg_reload_conf()');
my $h1 = ssh_host($primary, 'h1', %n1);
my $h2 = ssh_host($primary, 'h2', %n2);

sub sql { return $primary->safe_psql('postgres', $_[0]); }
sub link_is { system_or_bail('ip', 'link', 'set', $_[0], $_[1]); return; }
sub message { return sql("SELECT sqlstate || ' ' || message || ' ' || coalesce(detail, '') FROM replica_operations WHERE operation = $_[0]"); }

sub create
{
	my ($name, $server, $options) = @_;
	return sql("SELECT replica_create('$name', '$server', '" . ($options // '{}') . "')");
}

sub succeeds
{
	my ($operation, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(wait_operation($primary, $operation, 120), 'succeeded', $name) or diag(message($operation));
	return;
}

sub copies
{
	return grep { ReplicaCtl::command_of($_) =~ m{^\S*/pg_basebackup} } ReplicaCtl::processes_of($_[0]->home);
}

#
# TLS and SCRAM; a cascade between the hosts goes through us
#
$h1->server(sslmode => 'verify-ca', sslrootcert => "$pki/ca.crt");
succeeds(create('r1', 'h1'), 'a replica in another network');
is(sql(q{SELECT client_addr, ssl FROM pg_stat_replication JOIN pg_stat_ssl USING (pid)}), '10.9.1.2|t', 'it streams from there, by TLS');
is(sql(q{SELECT endpoint LIKE '10.9.1.2:%' FROM replica_status}), 't', 'that is where it is reached');
wait_for($primary, q{SELECT state = 'streaming' AND connected FROM replica_status});

# what SCRAM is for: the wrong password is of no use, nor is no TLS
sql('ALTER SERVER h1 OPTIONS (SET sslmode \'disable\')');
like(sql(q{SELECT detail FROM replica_explain('create', 'x', 'h1') WHERE name = 'replication login'}),
	qr/could not log in.*no encryption/s, 'no TLS, no login');
sql('ALTER SERVER h1 OPTIONS (SET sslmode \'verify-ca\')');

#
# A client certificate
#
$h2->server(sslmode => 'verify-ca', sslrootcert => "$pki/ca.crt", sslcert => "$pki/rep.crt", sslkey => "$pki/rep.key");
sql(q{DROP USER MAPPING FOR PUBLIC SERVER h2; CREATE USER MAPPING FOR PUBLIC SERVER h2 OPTIONS (user 'cert')});
succeeds(create('r2', 'h2'), 'a replica that logs in by its certificate');
is(sql(q{SELECT usename, client_dn FROM pg_stat_replication JOIN pg_stat_ssl USING (pid) WHERE application_name = 'replica_ctl_r2'}),
	'cert|/CN=rep', 'as the server sees');
sql("SELECT replica_drop('r2')");
is(sql(q{SELECT replica_wait('r2', '60s')}), 'succeeded', 'drop');

#
# A cut of the replication alone
#
link_is('a1', 'down');
sleep 1;
link_is('a1', 'up');
wait_for($primary, q{SELECT state = 'streaming' FROM replica_status WHERE replica = 'r1'}, 60);
pass('it streams again after a cut');
sql("SELECT replica_drop('r1')");
is(sql(q{SELECT replica_wait('r1', '60s')}), 'succeeded', 'drop of the other');

#
# Cut for two seconds at a step
#
for my $step (1, 3, 4, 6)
{
	my $operation = create('r', 'h1');
	wait_for($primary, "SELECT step_number >= $step OR state <> 'running' AND state <> 'queued' FROM replica_operations WHERE operation = $operation");
	link_is('a1', 'down');
	sleep 2;
	link_is('a1', 'up');
	succeeds($operation, "link cut at step $step");
	sql("SELECT replica_drop('r')");
	is(sql(q{SELECT replica_wait('r', '60s')}), 'succeeded', "drop after a cut at step $step");
}

#
# A slow link, which is then cut for long in the middle of the copy
#
sql('CREATE TABLE big AS SELECT repeat(md5(i::text), 20) AS t FROM generate_series(1, 30000) i');
system_or_bail('tc', 'qdisc', 'add', 'dev', 'a1', 'root', 'tbf', 'rate', '20mbit', 'burst', '64kb', 'latency', '300ms');
{
	my $operation = create('r', 'h1');
	wait_for($primary, "SELECT phase = 'copying' AND bytes_done > 4000000 FROM replica_operations WHERE operation = $operation", 60);
	pass('the copy makes progress over a slow link');
	my @old = copies($h1);
	is(scalar(@old) > 0, 1, 'pg_basebackup runs there');
	link_is('a1', 'down');
	my $start = time;
	wait_until(sub { !grep { kill 0, $_ } @old }, 'the end of pg_basebackup', 60);
	my $took = time - $start;
	cmp_ok($took, '<', 40, "the program there ends by itself when the link is gone ($took s)");
	wait_for($primary, "SELECT count(*) > 0 FROM replica_ctl.operation_step WHERE operation_id = $operation AND outcome = 'failed'", 90);
	pass('the operation tries again');
	system_or_bail('tc', 'qdisc', 'del', 'dev', 'a1', 'root');
	link_is('a1', 'up');
	succeeds($operation, 'and succeeds when the link is back');
	sql("SELECT replica_drop('r')");
	is(sql(q{SELECT replica_wait('r', '60s')}), 'succeeded', 'drop');
}

is(join("\n", orphans($primary), $h1->left, $h2->left), '', 'nothing is left');
done_testing();
