# 140_ssh.pl
#	  Replicas on other hosts, reached by real sshds: made with every option,
#	  used, attached, repaired, dropped, and nothing left of them on either side.
#
# slow

use strict;
use warnings;
use lib 't';
use File::Path qw(make_path remove_tree);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;
use SshHosts;
use Time::HiRes qw(time);

plan skip_all => ssh_missing() if ssh_missing();

my $tablespace = PostgreSQL::Test::Utils::tempdir('space');
my $primary = ssh_primary('main', conf => "work_mem = '5MB'");
my $h1 = ssh_host($primary, 'h1');
# a home that no quoting survives but the right one
my $h2 = ssh_host($primary, 'h2', home_name => q{host 2 "it's" $(touch x) ;});

sub sql { return $primary->safe_psql('postgres', $_[0]); }

sub literal
{
	my ($text) = @_;
	$text =~ s/'/''/g;
	return "'$text'";
}

# A query on a replica, over its address.
sub on
{
	my ($name, $sql) = @_;
	my ($address, $port) = split /\|/,
	  sql("SELECT facts->>'host', facts->>'port' FROM replica_ctl.replica WHERE name = '$name'");

	local $ENV{PGPASSWORD} = q{S3cr:t\\'};
	return ask({ name => $name, host => $address, port => $port, user => 'rep' }, $sql);
}

sub create
{
	my ($name, $server, $options) = @_;

	sql("SELECT replica_create('$name', '$server', " . literal($options // '{}') . ')');
	return sql("SELECT replica_wait('$name', '60s')");
}

sub finish
{
	my ($call, $name) = @_;

	sql("SELECT $call");
	return sql("SELECT replica_wait('$name', '60s')");
}

sub fact { return sql("SELECT facts->>'$_[1]' FROM replica_ctl.replica WHERE name = '$_[0]'"); }

sub left_ok
{
	my ($name) = @_;
	my @left = (orphans($primary), $h1->left, $h2->left, glob $primary->data_dir . '/base/pgsql_tmp/*');

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(!@left, "nothing is left on either side: $name") or diag(join "\n", @left);
	return;
}

$h1->server;
$h2->server;
sql("CREATE TABLESPACE space LOCATION '$tablespace'");
sql('CREATE TABLE t AS SELECT generate_series(1, 1000) AS i');
sql('CREATE TABLE s TABLESPACE space AS SELECT 1 AS i');

#
# What would be done
#
is(sql(q{SELECT string_agg(name || ' ' || status, ', ' ORDER BY ord) FROM replica_explain('create', 'r1', 'h1')
	WITH ORDINALITY e(step, name, status, estimate, detail, hint, ord) WHERE step = 1 AND status <> 'ok'}), '',
	'explain finds nothing in the way');
for my $row ('ssh', 'version', 'platform', 'libraries', 'files', 'clock', 'replication login', 'disk', 'port', 'way there')
{
	is(sql("SELECT status FROM replica_explain('create', 'r1', 'h1') WHERE name = '$row'"), 'ok', "it has a row: $row");
}
left_ok('explain');

#
# No options, and a host whose paths need quotes
#
is(create('r1', 'h1'), 'succeeded', 'a replica on another host');
is(on('r1', 'SELECT count(*), pg_is_in_recovery() FROM t'), '1000|t', 'it has the rows and is a standby');
is(on('r1', 'SELECT i FROM s'), '1', 'and those of the tablespace');
is(on('r1', 'SHOW work_mem'), '5MB', 'settings are carried over');
is(fact('r1', 'data_directory'), $h1->home . '/replicas/r1', 'it is in the home directory of the user there');
is(sql(q{SELECT endpoint FROM replica_status WHERE replica = 'r1'}), $h1->address . ':' . fact('r1', 'port'), 'its endpoint');
wait_for($primary, q{SELECT state = 'streaming' AND connected FROM replica_status WHERE replica = 'r1'});
is(sql(q{SELECT client_addr IS NOT NULL FROM pg_stat_replication WHERE application_name = 'replica_ctl_r1'}), 't', 'it streams over TCP');
sql('INSERT INTO t VALUES (1001)');
wait_for($primary, q{SELECT replay_lsn >= pg_current_wal_lsn() FROM pg_stat_replication WHERE application_name = 'replica_ctl_r1'});
is(on('r1', 'SELECT max(i) FROM t'), '1001', 'it follows');
{
	my $auto = slurp_file($h1->home . '/replicas/r1/postgresql.auto.conf');
	like($auto, qr/host=''127.0.0.1''/, 'it knows this server by the address that the host sees');
	like($auto, qr/passfile=/, 'and a password file');
	unlike($auto, qr/S3cr/, 'not the password');
	my $passfile = $h1->home . '/replicas/r1/pgsql_tmp.replica_ctl.passfile';
	is((stat $passfile)[2] & 07777, 0600, 'which is private');
	my $logs = slurp_file($primary->logfile) . slurp_file($h1->log) . slurp_file($h1->home . '/replicas/r1/log/replica_ctl.log');
	$logs =~ s/^.*\bCREATE (ROLE|USER MAPPING) .*$//mg;
	unlike($logs, qr/S3cr/, 'no password is in a log');
	my ($pid) = slurp_file($h1->home . '/replicas/r1/postmaster.pid') =~ /^(\d+)/;
	my (undef, $session) = slurp_file("/proc/$pid/stat") =~ /\) \S (\d+) \d+ (\d+)/;
	is($session, $pid, 'its server is in a session of its own');
}
is(create('r2', 'h2', '{"upstream": "r1", "apply_delay": "1 hour", "settings": {"work_mem": "7MB"}, "max_rate": 1000000}'),
	'succeeded', 'a cascaded replica with a delay, on a host with awkward paths');
is(on('r1', 'SELECT application_name FROM pg_stat_replication'), 'replica_ctl_r2', 'it follows the first one');
is(on('r2', 'SHOW recovery_min_apply_delay'), '1h', 'with the delay');
is(on('r2', 'SHOW work_mem'), '7MB', 'and the setting');
is(fact('r2', 'data_directory'), $h2->home . '/replicas/r2', 'in that directory');
ok(!-e $primary->basedir . '/x' && !-e 'x' && !-e $h2->home . '/x', 'no shell has read the name');
is(finish(q{replica_drop('r2')}, 'r2'), 'succeeded', 'drop of the cascaded one');

#
# Attach, with what it was before
#
{
	my ($dir, $port) = (fact('r1', 'data_directory'), fact('r1', 'port'));
	is(finish(q{replica_detach('r1')}, 'r1'), 'succeeded', 'detach');
	is(finish("replica_attach('a1', 'h1', " . literal(qq({"data_directory": "$dir"})) . ')', 'a1'), 'succeeded', 'attach by directory');
	is(fact('a1', 'port'), $port, 'its port was found');
	is(finish(q{replica_detach('a1')}, 'a1'), 'succeeded', 'detach again');
	is(finish("replica_attach('a2', 'h1', " . literal(qq({"port": $port})) . ')', 'a2'), 'succeeded', 'attach by port');
	is(fact('a2', 'data_directory'), $dir, 'its directory was found');
	is(finish(q{replica_drop('a2', force => true)}, 'a2'), 'succeeded', 'forced drop');
	left_ok('attach');
}

#
# Repair
#
is(create('r1', 'h1'), 'succeeded', 'once more');
{
	my $dir = fact('r1', 'data_directory');
	my ($pid) = slurp_file("$dir/postmaster.pid") =~ /^(\d+)/;

	kill 'QUIT', $pid;
	wait_until(sub { !kill 0, $pid }, 'the end of the replica');
	is(finish(q{replica_repair('r1')}, 'r1'), 'succeeded', 'repair starts one that is down');
	is(on('r1', 'SELECT pg_is_in_recovery()'), 't', 'it runs');
	is(sql(q{SELECT count(*) FROM replica_events WHERE kind = 'repair_start'}), '1', 'as an event says');

	($pid) = slurp_file("$dir/postmaster.pid") =~ /^(\d+)/;
	kill 'QUIT', $pid;
	wait_until(sub { !kill 0, $pid }, 'the end of the replica');
	unlink "$dir/global/pg_control";
	is(finish(q{replica_repair('r1')}, 'r1'), 'succeeded', 'repair makes a new copy of one that is broken');
	is(on('r1', 'SELECT max(i) FROM t'), '1001', 'which has the rows');
}
is(finish(q{replica_drop('r1')}, 'r1'), 'succeeded', 'drop');
left_ok('repair');

#
# A service manager's commands
#
{
	my $base = $h1->base;
	my $bindir = (sql(q{SELECT setting FROM pg_config WHERE name = 'BINDIR'}));

	open my $out, '>', "$base/manager" or die;
	print $out qq{#!/bin/sh\necho "\$1 [\$2] [\$3] [\$4]" >>"$base/manager.log"\n}
	  . qq{exec pg_ctl -D "\$2" -s -W "\$1" </dev/null >/dev/null 2>&1\n};
	close $out;
	chmod 0755, "$base/manager";
	sql("CREATE SERVER managed FOREIGN DATA WRAPPER replica_ssh OPTIONS ("
		  . $h1->options(start_command => "/usr/bin/env 'PATH=$ENV{PATH}' '$base/manager' start %d %n 'a b%%'",
			stop_command => qq(["/usr/bin/env", "PATH=$ENV{PATH}", "$base/manager", "stop", "%d", "%p"]))
		  . q{); CREATE USER MAPPING FOR CURRENT_USER SERVER managed OPTIONS (user 'rep', password 'S3cr:t\''')});
	is(create('r1', 'managed'), 'succeeded', 'a replica that a service manager starts');
	my ($dir, $port) = (fact('r1', 'data_directory'), fact('r1', 'port'));
	is(finish(q{replica_drop('r1')}, 'r1'), 'succeeded', 'and stops');
	is(slurp_file("$base/manager.log"), "start [$dir] [r1] [a b%]\nstop [$dir] [$port] []\n", 'with the arguments as given');
	left_ok('service manager');
}

#
# Two operations on one host at a time; one is cancelled while it copies
#
sql('CREATE TABLE big AS SELECT repeat(md5(i::text), 20) AS t FROM generate_series(1, 10000) i');
{
	my $slow = sql(q{SELECT replica_create('slow', 'h1', '{"max_rate": 512}')});
	sql(q{SELECT replica_create('quick', 'h1')});
	wait_for($primary, "SELECT phase = 'copying' AND bytes_done > 0 AND bytes_total > 0 AND progress > 0 FROM replica_operations WHERE operation = $slow");
	pass('progress is seen');
	is(sql(q{SELECT replica_wait('quick', '60s')}), 'succeeded', 'another operation on the host is not held up');
	isnt(fact('slow', 'port'), fact('quick', 'port'), 'they have ports of their own');
	my $command = join ' ', map { ReplicaCtl::command_of($_) } ReplicaCtl::processes_of($h1->home . '/replicas/slow');
	like($command, qr/pg_basebackup/, 'pg_basebackup runs there');
	unlike($command, qr/S3cr/, 'without the password among its arguments');
	my $start = time;
	sql("SELECT replica_cancel($slow)");
	wait_until(sub { !grep { ReplicaCtl::command_of($_) =~ m{^\S*/pg_basebackup} } ReplicaCtl::processes_of($h1->home . '/replicas/slow') },
		'the end of pg_basebackup', 10);
	my $took = time - $start;
	cmp_ok($took, '<', 3, "a cancel ends the program there ($took s)");
	is(wait_operation($primary, $slow), 'cancelled', 'and the operation');
	is(finish(q{replica_drop('quick')}, 'quick'), 'succeeded', 'drop of the other');
	left_ok('cancel');
}

done_testing();
