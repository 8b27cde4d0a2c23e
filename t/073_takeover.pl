# What a promoted server makes of the registry that it carries, and what its
# old primary is after a restart; crashes in the middle of a switchover.
use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

chomp(my $bindir = `"$ENV{PG_CONFIG}" --bindir`);

my $node = new_primary('main', initdb => ['--data-checksums']);
my $data = $node->data_dir;
for my $name ('r1', 'r2', 'r3')
{
	$node->safe_psql('postgres', "SELECT replica_create('$name')");
	is($node->safe_psql('postgres', "SELECT replica_wait('$name')"), 'succeeded', "$name is made");
}
my %at = map { $_ => server_of($node, $_) } 'main', 'r1', 'r2', 'r3';
$node->safe_psql('postgres', 'CREATE TABLE t (i int)');

# -- promoted by hand: it knows itself, and takes nothing over
ask($at{r3}, 'SELECT pg_promote()');
wait_ask($at{r3}, q{SELECT state = 'promoted' FROM replica_ctl.replica WHERE name = 'r3'});
is(ask($at{r3}, q{SELECT string_agg(name, ' ' ORDER BY name) FROM replica_ctl.replica, pg_control_checkpoint()
	WHERE replica_ctl.replica.timeline_id = 1}), 'r1 r2', 'the other replicas are not its own');
like(ask($at{r3}, q{SELECT replica_drop('r1')}), qr/belongs to another server/, 'and it cannot touch them');
like(ask($at{r3}, q{SELECT message FROM replica_events WHERE kind = 'promoted'}),
	qr/^Promoted read replica "r3" to stand-alone primary$/, 'the event says what happened');
like(ask($at{r3}, q{SELECT replica_detach('r3')}), qr/^\d+$/, 'it can forget itself');
wait_ask($at{r3}, q{SELECT NOT EXISTS (SELECT FROM replica_ctl.replica WHERE name = 'r3')});
system("$bindir/pg_ctl -D '$at{r3}{dir}' -m immediate -s stop");

# -- a copy of a replica that is recovered elsewhere is not that replica
my $copy = $node->basedir . '/replicas/copy';
# replicas have the ports after their primary's
my $port = $at{r3}{port} + 10;
system_or_bail("$bindir/pg_basebackup", '-D', $copy, '-h', $at{r1}{host}, '-p', $at{r1}{port}, '-c', 'fast', '-X', 'stream');
append_to_file("$copy/postgresql.auto.conf", "primary_conninfo = ''\nport = $port\n");
system_or_bail("$bindir/pg_ctl", '-w', '-D', $copy, '-l', $node->basedir . '/copy.log', 'start');
my $elsewhere = { name => 'copy', host => $at{r1}{host}, port => $port };
ask($elsewhere, 'SELECT pg_promote()');
wait_ask($elsewhere, 'SELECT NOT pg_is_in_recovery()');
wait_ask($elsewhere, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'replica_ctl launcher'});
sleep 1;
is(ask($elsewhere, q{SELECT string_agg(name || ' ' || state, ', ' ORDER BY name) FROM replica_ctl.replica WHERE timeline_id = 1}),
	'r1 streaming, r2 streaming, r3 streaming', 'it leaves all rows to their owner');
system("$bindir/pg_ctl -D '$copy' -m immediate -s stop");
system('rm', '-rf', $copy);
ask($at{main}, q{SELECT replica_drop('r3', force => true)});
wait_ask($at{main}, q{SELECT NOT EXISTS (SELECT FROM replica_ctl.replica WHERE name = 'r3')});

# -- crashes of the old primary in the middle of a switchover
SKIP:
{
	skip 'not a test build', 1 unless test_build($node);
	my ($from, $to) = ('main', 'r1');
	for my $fault ('siblings.after', 'fence.after', 'promote.before', 'promote.after', 'unlink.after', 'demote.before')
	{
		ask($at{$from}, "ALTER SYSTEM SET replica_ctl.test_fault = 'switchover.$fault=crash*1'");
		ask($at{$from}, 'SELECT pg_reload_conf()');
		wait_ask($at{$from}, q{SELECT current_setting('replica_ctl.test_fault') <> ''});
		my $state = eval { switch_to($at{$from}, $at{$to}) } // "failed: $@";
		is($state, 'succeeded', "switchover from $from to $to with a crash at $fault");
		wait_ask($at{$to}, q{SELECT count(*) = 2 AND bool_and(connected) FROM replica_status});
		ask($at{$to}, 'INSERT INTO t VALUES (1)');
		like(ask($at{$from}, 'INSERT INTO t VALUES (1)'), qr/read-only/, "$from takes no writes");
		is(ask($at{$from}, 'SELECT count(*) FROM pg_replication_slots'), 0, 'and has no slots');
		($from, $to) = ($to, $from);
	}
	ask($at{main}, 'ALTER SYSTEM RESET replica_ctl.test_fault');
	ask($at{main}, 'SELECT pg_reload_conf()');
}

# -- a plain promotion: the old primary never comes up writable
my $operation = ask($at{main}, q{SELECT replica_promote('r1')});
wait_ask($at{r1}, 'SELECT NOT pg_is_in_recovery()');
wait_ask($at{main}, "SELECT state = 'succeeded' FROM replica_operations WHERE operation = $operation");
wait_ask($at{r1}, "SELECT state = 'succeeded' FROM replica_operations WHERE operation = $operation");
is(ask($at{r1}, q{SELECT state FROM replica_ctl.replica WHERE name = 'r1'}), 'promoted', 'the promoted server knows that it was');
my $log = $node->basedir . '/guard.log';

sub try_write
{
	return ask($at{main}, 'BEGIN; SET TRANSACTION READ WRITE; INSERT INTO t VALUES (0); COMMIT; SELECT 1');
}

system("$bindir/pg_ctl -s -D '$data' -m immediate stop");
system("$bindir/pg_ctl -s -w -D '$data' -l '$log' start");
like(try_write(), qr/replica "r1" was promoted in place of this server/, 'killed and started again it takes no writes');
like(slurp_file($log), qr/this server is fenced: replica "r1" was promoted in its place.*HINT: +The new primary is/s,
	'the log says why, and where to go');
system("$bindir/pg_ctl -s -D '$data' -m fast stop");
my ($out, $single) = ('', '');
my $sql = "INSERT INTO t VALUES (0)\n";
IPC::Run::run([ "$bindir/postgres", '--single', '-D', $data, 'postgres' ], '<', \$sql, '>', \$out, '2>', \$single);
like($single, qr/was promoted in place of this server/, 'nor does it in single-user mode') or diag($out);
$node->{_pid} = undef;

done_testing();
