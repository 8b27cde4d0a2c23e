# 146_ssh_mixed.pl
#	  Replicas on this host and on others that follow one another, and take
#	  over from one another; and hosts that are gone for good, whose replicas are
#	  dropped without them.
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

my $primary = ssh_primary('main');
my $h1 = ssh_host($primary, 'h1');
# a home that no quoting survives but the right one
my $h2 = ssh_host($primary, 'h2', home_name => q{host 2 "it's" $(touch x) ;});

$ENV{PGPASSWORD} = q{S3cr:t\\'};

sub sql { return $primary->safe_psql('postgres', $_[0]); }
sub fact { return sql("SELECT facts->>'$_[1]' FROM replica_ctl.replica WHERE name = '$_[0]'"); }

sub create
{
	my ($name, $server, $options) = @_;

	sql("SELECT replica_create('$name', '$server', '" . ($options // '{}') . "')");
	return sql("SELECT replica_wait('$name', '60s')");
}

sub finish
{
	my ($call, $name) = @_;

	sql("SELECT $call");
	return sql("SELECT replica_wait('$name', '60s')");
}

# A replica as a server that is asked directly, over TCP.
sub there
{
	my ($name) = @_;
	my ($host, $port, $dir) = split /\|/,
	  sql("SELECT coalesce(facts->>'address', '127.0.0.1'), facts->>'port', facts->>'data_directory' FROM replica_ctl.replica WHERE name = '$name'");
	return { name => $name, host => $host, port => $port, dir => $dir, user => 'rep' };
}

sub postmaster { return (slurp_file("$_[0]{dir}/postmaster.pid") =~ /^(\d+)/)[0]; }

$h1->server;
$h2->server;
sql('CREATE TABLE t (i int)');

#
# This server, a replica here, one there, one here again: each follows the one before
#
is(create('r1', 'local'), 'succeeded', 'a replica on this host');
is(create('far', 'h1', '{"upstream": "r1"}'), 'succeeded', 'one on another host that follows it');
my ($r1, $far) = (there('r1'), there('far'));
is(fact('far', 'source_port'), $r1->{port}, 'it knows the port of the one here');
is(fact('far', 'source_host'), '127.0.0.1', 'and the address by which its host reaches this one');
is(ask($r1, q{SELECT application_name || ' ' || state FROM pg_stat_replication}), 'replica_ctl_far streaming', 'that is what it follows');
is(sql(q{SELECT count(*) FROM replica_explain('create', 'near', 'local', '{"upstream": "far"}') WHERE status = 'blocked'
	AND detail ~ 'could not log in to replica "far"' AND hint ~ 'USER MAPPING FOR .* SERVER local'}) > 0, 1,
	'one here that follows that one needs a login there');
sql(q{CREATE USER MAPPING FOR PUBLIC SERVER local OPTIONS (user 'rep', password 'S3cr:t\''')});
# on this machine the path of the other host's files exists here, too
like(sql(q{SELECT detail FROM replica_explain('create', 'near', 'local', '{"upstream": "far", "method": "copy"}') WHERE name = 'method'}),
	qr/"copy" cannot be used.*the data directory to copy is not on this host/s, 'its files are not looked for here');
is(create('near', 'local', '{"upstream": "far"}'), 'succeeded', 'one on this host that follows the one there');
is(fact('near', 'method'), 'basebackup', 'it was copied through a connection');
is(ask($far, q{SELECT application_name FROM pg_stat_replication}), 'replica_ctl_near', 'that is what it follows');
sql('INSERT INTO t VALUES (1)');
wait_ask(there('near'), 'SELECT count(*) = 1 FROM t');
pass('a row goes all the way');
wait_for($primary, q{SELECT bool_and(state = 'streaming' AND connected) FROM replica_status});
pass('all are seen to stream');

kill 'QUIT', postmaster($far);
wait_until(sub { ask($far, 'SELECT 1') =~ /^ERROR/ }, 'the end of the one there');
is(finish(q{replica_repair('far')}, 'far'), 'succeeded', 'it is repaired');
wait_ask($far, q{SELECT count(*) = 1 FROM pg_stat_replication WHERE application_name = 'replica_ctl_near'});
like(ask($far, 'SHOW primary_conninfo'), qr/port='?$r1->{port}/, 'and follows the same');
is(finish("replica_drop('$_')", $_), 'succeeded', "drop of $_") for qw(near far);

#
# A replica here takes over, and one on another host follows it
#
is(create('s2', 'h2'), 'succeeded', 'a sibling on another host');
my $s2 = there('s2');
my $main = { name => 'main', host => '127.0.0.1', port => $primary->port, user => 'rep', dir => $primary->data_dir };
{
	my ($state, $operation) = eval { switch_to($main, $r1) };
	diag($@, ask($main, 'SELECT kind, step, state, message, detail, hint FROM replica_operations ORDER BY operation DESC LIMIT 1')) if $@;
	is($state, 'succeeded', 'switchover to the one here') or diag(ask($r1, "SELECT message, detail, hint FROM replica_operations WHERE operation = $operation"));
	like(ask($s2, 'SHOW primary_conninfo'), qr/host='?127.0.0.1'? port='?$r1->{port}/, 'the one there was told where');
	wait_ask($r1, q{SELECT count(*) = 2 FROM pg_stat_replication WHERE state = 'streaming'});
	is(ask($r1, 'INSERT INTO t VALUES (2) RETURNING i'), '2', 'the new primary accepts writes');
	wait_ask($s2, 'SELECT count(*) = 2 FROM t');
	pass('which get there');
	($state) = eval { switch_to($r1, $main, q{SELECT replica_switchover('main')}) };
	diag($@) if $@;
	is($state, 'succeeded', 'and back');
	wait_ask($main, q{SELECT count(*) = 2 FROM pg_stat_replication WHERE state = 'streaming'});
}
# the postmaster of "main" is another one since
$primary->{_pid} = postmaster($main);
is(finish("replica_drop('$_', force => true)", $_), 'succeeded', "drop of $_") for qw(r1 s2);

#
# Hosts that are gone
#
sql('ALTER SYSTEM SET replica_ctl.step_retries = 1');
sql('SELECT pg_reload_conf()');
is(create('g1', 'h2', '{"synchronous": true}'), 'succeeded', 'a replica of which the host will go');
my $g1 = there('g1');
$h2->stop(connections => 1);
sql(q{SELECT replica_drop('g1')});
like(psql_error($primary, q{SELECT replica_wait('g1', '60s')}),
	qr/08006.*no connection to host "127.0.0.3" by ssh.*HINT:.*replica_drop\('g1', force => true\)/s, 'a drop cannot be done, and says what can');
is(sql(q{SELECT state FROM replica_status}), 'streaming', 'the replica is as it was');
like(sql(q{SELECT string_agg(coalesce(hint, ''), ' ') FROM replica_explain('drop', 'g1')}), qr/force => true/, 'explain says so, too');
is(finish(q{replica_drop('g1', force => true)}, 'g1'), 'succeeded', 'a forced drop can');
is(sql(q{SELECT count(*) FROM replica_ctl.replica}), '0', 'it is forgotten');
is(sql(q{SELECT count(*) FROM pg_replication_slots}), '0', 'its slot is gone');
is(sql(q{SHOW synchronous_standby_names}), '', 'nobody waits for it');
my ($message, $command) = split /\n/, sql(q{SELECT message || chr(10) || (detail->>'command') FROM replica_events WHERE kind = 'left_on_host'});
like($message, qr/^The server and the files of replica "g1" stay on host "127.0.0.3": no connection .* run there as ".*": .*pg_ctl/, 'an event says what stays');
is(sql(q{SELECT (detail->>'host') || ' ' || (detail->>'data_directory') FROM replica_events WHERE kind = 'left_on_host'}),
	"127.0.0.3 $g1->{dir}", 'and where');
is(ask($g1, 'SELECT 1'), '1', 'it still runs there');
system('sh', '-c', $command);
is(join("\n", $h2->left), '', 'the command that it tells removes it') or diag($command);
ok(!-e 'x', 'and nothing else');

# it was set up anew: another key
$h2->start;
is(create('g2', 'h2'), 'succeeded', 'another one');
$command = q{echo "[127.0.0.3]:} . $h2->port . q{ $(cat "$0")"};
$h2->write('known_hosts', qx(sh -c '$command' '@{[ $h1->base ]}/etc/host_key.pub'));
is(finish(q{replica_drop('g2', force => true)}, 'g2'), 'succeeded', 'a forced drop where the host key has changed');
like(sql(q{SELECT detail->>'reason' FROM replica_events WHERE kind = 'left_on_host' AND replica = 'g2'}), qr/host key .* has changed/, 'for which reason');
system('sh', '-c', sql(q{SELECT detail->>'command' FROM replica_events WHERE kind = 'left_on_host' AND replica = 'g2'}));
$h2->know;

# it is only away for a moment
sql('ALTER SYSTEM RESET replica_ctl.step_retries');
sql('SELECT pg_reload_conf()');
is(create('g3', 'h2'), 'succeeded', 'a third one');
$h2->stop(connections => 1);
my $operation = sql(q{SELECT replica_drop('g3', force => true)});
wait_for($primary, "SELECT count(*) > 0 FROM replica_ctl.operation_step WHERE operation_id = $operation AND outcome = 'failed'");
$h2->start;
is(wait_operation($primary, $operation), 'succeeded', 'a forced drop waits for a host that comes back');
is(sql(q{SELECT count(*) FROM replica_events WHERE kind = 'left_on_host' AND replica = 'g3'}), '0', 'and does all of it');

# what the program that restarted r1 wrote is left on purpose
is(join("\n", orphans($primary, keep => ['r1_rejoin']), $h1->left, $h2->left), '', 'nothing is left');
done_testing();
