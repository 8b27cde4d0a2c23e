# 144_ssh_switchover.pl
#	  Replicas on other hosts take over: promotions that need no ssh, planned
#	  and forced; a switchover to another host, with a replica on a third one
#	  that follows, and back again.  Writers lose nothing.
#
# slow

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;
use SshHosts;
use Time::HiRes qw(time);

plan skip_all => ssh_missing() if ssh_missing();

my $primary = ssh_primary('main', initdb => ['--data-checksums']);
# this server's own host is one, too, for the one that takes over
my $home = ssh_host($primary, 'home', address => '127.0.0.1');
my $h1 = ssh_host($primary, 'h1');
my $h2 = ssh_host($primary, 'h2');

sub sql { return $primary->safe_psql('postgres', $_[0]); }

sub create
{
	my ($name, $server) = @_;
	sql("SELECT replica_create('$name', '$server')");
	return sql("SELECT replica_wait('$name', '60s')");
}

# A replica as a server that is asked directly, over TCP.
sub there
{
	my ($name) = @_;
	my ($host, $port, $dir) = split /\|/,
	  sql("SELECT facts->>'host', facts->>'port', facts->>'data_directory' FROM replica_ctl.replica WHERE name = '$name'");
	return { name => $name, host => $host, port => $port, dir => $dir, user => 'rep' };
}

$ENV{PGPASSWORD} = q{S3cr:t\\'};
$home->server(home_server => 'h1');
$h1->server(home_server => 'home');
$h2->server;
sql('CREATE TABLE t (i int)');
sql('INSERT INTO t VALUES (1)');

#
# Promotions while no host can be reached by ssh
#
is(create('p1', 'h1'), 'succeeded', 'a replica to promote');
is(create('p2', 'h2'), 'succeeded', 'and another');
{
	my ($p1, $p2) = (there('p1'), there('p2'));

	$h1->stop(connections => 1);
	$h2->stop(connections => 1);
	is(sql(q{SELECT count(*) FROM replica_explain('promote', 'p1') WHERE status = 'blocked'}), '0', 'explain promote finds nothing in the way');
	sql(q{SELECT replica_promote('p1', source_after => 'read_write')});
	is(sql(q{SELECT replica_wait('p1', '60s')}), 'succeeded', 'planned promotion without ssh');
	is(ask($p1, 'INSERT INTO t VALUES (2) RETURNING i'), '2', 'it accepts writes');
	sql('INSERT INTO t VALUES (3)');
	sql(q{SELECT replica_promote('p2', 'forced')});
	is(sql(q{SELECT replica_wait('p2', '60s')}), 'succeeded', 'forced promotion without ssh');
	is(ask($p2, 'SELECT pg_is_in_recovery()'), 'f', 'it is a primary');
	$h1->start;
	$h2->start;
	sql(q{SELECT replica_drop('p1')});
	like(psql_error($primary, q{SELECT replica_wait('p1', '60s')}), qr/was promoted and is a server of its own/, 'a promoted one is not deleted by a plain drop');
	sql("SELECT replica_drop('$_', force => true)") for qw(p1 p2);
	is(sql("SELECT replica_wait('$_', '60s')"), 'succeeded', "forced drop of $_") for qw(p1 p2);
	is(join("\n", orphans($primary), $h1->left, $h2->left), '', 'nothing is left of them');
}

#
# A switchover, and back
#
is(create('r1', 'h1'), 'succeeded', 'the replica that takes over');
is(create('r2', 'h2'), 'succeeded', 'a sibling on a third host');
my $main = { name => 'main', host => '127.0.0.1', port => $primary->port, user => 'rep' };
my ($r1, $r2) = (there('r1'), there('r2'));
{
	$h1->stop(connections => 1);
	$h2->stop(connections => 1);
	my ($state, $operation) = eval { switch_to($main, $r1) };
	diag(ask($main, 'SELECT kind, step, state, message, detail, hint FROM replica_operations ORDER BY operation DESC LIMIT 1')) if $@;
	$h1->start;
	$h2->start;
	is($state, 'succeeded', 'switchover, without ssh') or diag(ask($r1, "SELECT message, detail, hint FROM replica_operations WHERE operation = $operation"));
	is(ask($r1, 'INSERT INTO t VALUES (4) RETURNING i'), '4', 'the other host has the primary');
	wait_ask($r1, q{SELECT count(*) = 2 FROM pg_stat_replication WHERE state = 'streaming'});
	is(ask($r1, q{SELECT string_agg(replica || ' ' || server, ', ' ORDER BY replica) FROM replica_status}),
		'main home, r2 h2', 'which has the other two as its replicas');
	wait_ask($r1, q{SELECT bool_and(state = 'streaming') FROM replica_status});
	wait_ask($main, 'SELECT max(i) = 4 FROM t');
	wait_ask($r2, 'SELECT max(i) = 4 FROM t');
	pass('they have the rows');

	# the new primary manages them by ssh: a replica that is down is started
	my ($pid) = slurp_file("$r2->{dir}/postmaster.pid") =~ /^(\d+)/;
	kill 'QUIT', $pid;
	wait_until(sub { !kill 0, $pid }, 'the end of the sibling');
	ask($r1, q{SELECT replica_repair('r2')});
	is(ask($r1, q{SELECT replica_wait('r2', '60s')}), 'succeeded', 'the new primary repairs the sibling by ssh');
	like(ask($r2, 'SHOW primary_conninfo'), qr/port='?$r1->{port}/, 'which follows the new primary');
}
{
	my ($state, $operation) = switch_to($r1, $main, q{SELECT replica_switchover('main')});
	is($state, 'succeeded', 'switchover back') or diag(ask($main, "SELECT message, detail, hint FROM replica_operations WHERE operation = $operation"));
	is(ask($main, 'INSERT INTO t VALUES (5) RETURNING i'), '5', 'the first host has it again');
	wait_ask($main, q{SELECT count(*) = 2 FROM pg_stat_replication WHERE state = 'streaming'});
	wait_ask($r1, 'SELECT max(i) = 5 FROM t');
	wait_ask($r2, 'SELECT max(i) = 5 FROM t');
	is(ask($main, q{SELECT string_agg(replica || ' ' || server, ', ' ORDER BY replica) FROM replica_status}),
		'r1 h1, r2 h2', 'with the same replicas as before');
	is(ask($main, q{SELECT string_agg(DISTINCT i::text, ',' ORDER BY i::text) FROM t}), '1,3,4,5', 'every row is there');
}

# the postmaster of "main" is another one since
$primary->{_pid} = (slurp_file($primary->data_dir . '/postmaster.pid') =~ /^(\d+)/)[0];
sql("SELECT replica_drop('$_', force => true)") for qw(r1 r2);
is(sql("SELECT replica_wait('$_', '60s')"), 'succeeded', "drop of $_ by ssh") for qw(r1 r2);
# what the program that restarted r1 wrote is left on purpose, as of local ones
is(join("\n", orphans($primary), grep { !/r1_rejoin$/ } $h1->left, $h2->left), '', 'nothing is left');

done_testing();
