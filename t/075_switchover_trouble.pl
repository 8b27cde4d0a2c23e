# Switchovers with something in the way: a replica that is down, an archiver
# that keeps the old primary from shutting down, a restart that fails.
use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

chomp(my $bindir = `"$ENV{PG_CONFIG}" --bindir`);
my $node = new_primary('main', initdb => ['--data-checksums']);

for my $name ('r1', 'r2')
{
	$node->safe_psql('postgres', "SELECT replica_create('$name')");
	is($node->safe_psql('postgres', "SELECT replica_wait('$name')"), 'succeeded', "$name is made");
}
my %at = map { $_ => server_of($node, $_) } 'main', 'r1', 'r2';

# -- a replica that is down stays behind, and is brought back by a repair
system("$bindir/pg_ctl -s -D '$at{r2}{dir}' -m fast stop");
is(scalar switch_to($at{main}, $at{r1}), 'succeeded', 'a replica that is down is in nobody\'s way');
like(ask($at{r1}, q{SELECT message FROM replica_events WHERE kind = 'sibling_failed'}),
	qr/^Replica "r2" could not be told to follow replica "r1": /, 'there is an event about it');
is(ask($at{r1}, q{SELECT state FROM replica_status WHERE replica = 'r2'}) =~ /^(stopped|disconnected)$/, 1, 'its state is told');
my $operation = ask($at{r1}, q{SELECT replica_repair('r2')});
wait_ask($at{r1}, "SELECT state NOT IN ('queued', 'running') FROM replica_operations WHERE operation = $operation");
is(ask($at{r1}, "SELECT state, message FROM replica_operations WHERE operation = $operation"), 'succeeded|', 'a repair brings it back');
is(ask($at{r2}, q{SELECT sender_port FROM pg_stat_wal_receiver}), $at{r1}{port}, 'and it follows the new primary');
is(ask($at{r1}, q{SELECT count(*) FROM replica_events WHERE kind = 'repair_clone'}), 0, 'without a new copy');

# -- a restart that fails leaves a standby that can be started by hand
ask($at{r1}, q{ALTER SYSTEM SET replica_ctl.restart_command = '/bin/false'});
ask($at{r1}, 'SELECT pg_reload_conf()');
wait_ask($at{r1}, q{SELECT current_setting('replica_ctl.restart_command') <> ''});
$operation = ask($at{r1}, q{SELECT replica_switchover('main')});
wait_ask($at{main}, 'SELECT NOT pg_is_in_recovery()');
wait_until(sub { -e "$at{r1}{dir}_rejoin/failed" }, 'the restart to fail', 90);
like(slurp_file("$at{r1}{dir}_rejoin/rejoin.log"), qr/FAILED: the server in .* does not start.*go on with: sh /s, 'its log says what to do');
is(ask($at{main}, "SELECT state, step FROM replica_operations WHERE operation = $operation"), 'running|arrive',
	'the new primary waits');
is(ask($at{main}, q{SELECT connected FROM replica_status WHERE replica = 'r1'}), 'f', 'and shows it disconnected');
system("$bindir/pg_ctl -s -w -D '$at{r1}{dir}' -l '$at{r1}{dir}.log' start");
wait_ask($at{main}, "SELECT state = 'succeeded' FROM replica_operations WHERE operation = $operation");
pass('started by hand, it arrives');

# -- an archiver that hangs
ask($at{main}, q{ALTER SYSTEM SET archive_mode = on});
ask($at{main}, q{ALTER SYSTEM SET archive_command = 'sleep 600'});
system("$bindir/pg_ctl -s -w -D '$at{main}{dir}' -l '$at{main}{dir}.log' restart");
wait_ask($at{main}, q{SELECT count(*) = 2 AND bool_and(connected) FROM replica_status});
ask($at{main}, 'SELECT pg_switch_wal()');
my $start = time;
is(scalar switch_to($at{main}, $at{r1}), 'succeeded', 'an archiver that hangs does not stop it');
note 'after ' . (time - $start) . ' s';
wait_ask($at{r1}, q{SELECT count(*) = 2 AND bool_and(connected) FROM replica_status});
ok((grep { m{/[0-9A-F]{24}$} } glob "$at{main}{dir}_rejoin/unarchived/*") > 0, 'what it did not archive is kept');

# -- what the failed restart has left is not taken for the next one's
ask($at{r1}, 'ALTER SYSTEM RESET replica_ctl.restart_command');
ask($at{r1}, 'SELECT pg_reload_conf()');
wait_ask($at{r1}, q{SELECT current_setting('replica_ctl.restart_command') = ''});
ok(-e "$at{r1}{dir}_rejoin/done", 'there are marks of the restart that failed');
ask($at{r1}, 'CREATE TABLE t AS SELECT generate_series(1, 1000) AS i');
is(scalar switch_to($at{r1}, $at{main}), 'succeeded', 'the next switchover succeeds');
wait_ask($at{main}, q{SELECT count(*) = 2 AND bool_and(connected) FROM replica_status});
is(ask($at{r1}, 'SELECT count(*), pg_is_in_recovery() FROM t'), '1000|t', 'r1 is a standby with its data');
ok(!-e "$at{r1}{dir}_rejoin/plan" && (my @old = glob "$at{r1}{dir}_rejoin.old_*/plan"), 'they were put away');

system("$bindir/pg_ctl -s -D '$at{main}{dir}' -m immediate stop");
$node->{_pid} = undef;
done_testing();
