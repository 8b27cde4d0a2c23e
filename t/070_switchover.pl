# A switchover: the replica becomes the primary, the old primary and the other
# replica follow it, the registry goes with it; and back again.  What keeps a
# server from it is said before anything is touched.
use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# both first: replicas take the ports after their primary's
my $stock = new_primary('stock', checksums => 0, conf => 'wal_log_hints = off');
my $node = new_primary('main', initdb => ['--data-checksums']);
my $main_dir = $node->data_dir;

for my $name ('r1', 'r2')
{
	$node->safe_psql('postgres', "SELECT replica_create('$name')");
	is($node->safe_psql('postgres', "SELECT replica_wait('$name')"), 'succeeded', "$name is made");
}
my %at = map { $_ => server_of($node, $_) } 'main', 'r1', 'r2';

# What a new primary and its standbys look like when all is well.
sub all_well
{
	my ($primary, $timeline, @standbys) = @_;
	my @names = sort map { $_->{name} } @standbys;
	my $tables = qq{SELECT string_agg(replica || ' ' || state || ' ' || connected, ', ' ORDER BY replica) FROM replica_status};

	wait_ask($primary, 'SELECT bool_and(connected) FROM replica_status', 60);
	is(ask($primary, $tables), join(', ', map { "$_ streaming true" } @names), "$primary->{name} has the registry");
	is(ask($primary, 'SELECT string_agg(slot_name, \', \' ORDER BY slot_name) FROM pg_replication_slots'),
		join(', ', map { "replica_ctl_$_" } @names), "the slots on $primary->{name} are those of its replicas");
	is(ask($primary, 'SELECT count(*) FROM replica_ctl.cleanup'), 0, 'no cleanup record is left');
	my $lsn = ask($primary, 'SELECT pg_current_wal_lsn() FROM (SELECT pg_switch_wal()) s');
	for my $standby (@standbys)
	{
		wait_ask($standby, "SELECT pg_last_wal_replay_lsn() >= '$lsn'");
		is(ask($standby, 'SELECT pg_is_in_recovery(), status, received_tli, slot_name FROM pg_stat_wal_receiver'),
			"t|streaming|$timeline|replica_ctl_$standby->{name}", "$standby->{name} streams on timeline $timeline");
		is(ask($standby, 'SELECT count(*) FROM pg_replication_slots'), 0, "$standby->{name} holds no slot");
	}
	return;
}

# Files of the old primary's own, some of which the replica has too.
append_to_file("$main_dir/postgresql.conf", "# this is main's own\n");
append_to_file("$main_dir/server.key", "main's key\n");
mkdir "$main_dir/conf.d";
append_to_file("$main_dir/conf.d/own.conf", "# own\n");
append_to_file("$at{r1}{dir}/server.key", "r1's key\n");
append_to_file("$at{r1}{dir}/only_r1", "r1's file\n");
$node->safe_psql('postgres', 'ALTER SYSTEM SET work_mem = \'5MB\'');
$node->safe_psql('postgres', 'CREATE TABLE t AS SELECT generate_series(1, 1000) AS i');

# -- there
my ($state, $operation) = switch_to($at{main}, $at{r1});
is($state, 'succeeded', 'the switchover succeeds, as its new primary says');
all_well($at{r1}, 2, $at{main}, $at{r2});
is(ask($at{main}, 'SELECT count(*) FROM t'), 1000, 'the old primary has the data');
like(ask($at{main}, 'INSERT INTO t VALUES (1)'), qr/read-only transaction/, 'and takes no writes');
is(ask($at{main}, 'SHOW work_mem'), '5MB', 'its postgresql.auto.conf is its own');
is(ask($at{main}, 'SHOW port'), $at{main}{port}, 'so is postgresql.conf');
like(slurp_file("$main_dir/postgresql.conf"), qr/this is main's own/, 'as it was');
is(slurp_file("$main_dir/server.key"), "main's key\n", 'its key is not that of the new primary');
ok(-f "$main_dir/conf.d/own.conf", 'its directories are kept');
ok(!-e "$main_dir/only_r1", 'it has no file that only the new primary had');
ok(!-e "$main_dir/replica_ctl.id", 'nor its marker');
ok(-f "$main_dir/standby.signal" && !-e "$main_dir/replica_ctl.fence", 'it is a standby, and not fenced');
is((stat $main_dir)[2] & 07777, 0700, 'its directory has the mode that it had');
is(join(' ', sort map { s{.*/}{}r } glob "${main_dir}_rejoin/*"), 'lock rejoin.log', 'what the restart needed is gone');
like(ask($at{r1}, "SELECT string_agg(kind, ' ' ORDER BY event) FROM replica_events WHERE operation = $operation"),
	qr/^switchover_requested promoted rejoined switchover_succeeded$/, 'the events tell it');
like(ask($at{r1}, "SELECT replica_promote('r2', mode => 'forced', source_after => 'standby')"),
	qr/source_after "standby" needs a planned promotion/, 'a forced promotion does not end as a switchover');

# -- and back, from there
is(scalar switch_to($at{r1}, $at{main}), 'succeeded', 'the switchover back succeeds');
all_well($at{main}, 3, $at{r1}, $at{r2});
is(slurp_file("$at{r1}{dir}/server.key"), "r1's key\n", 'r1 has its own key');
ok(-f "$at{r1}{dir}/only_r1" && -f "$at{r1}{dir}/replica_ctl.id", 'and its files');

# -- the same, called as a promotion
is(scalar switch_to($at{main}, $at{r2}, q{SELECT replica_promote('r2', source_after => 'standby')}),
	'succeeded', 'replica_promote(source_after => standby) does the same');
all_well($at{r2}, 4, $at{main}, $at{r1});
is(ask($at{r2}, 'SELECT count(*) FROM t'), 1000, 'nothing is lost');
is(scalar switch_to($at{r2}, $at{main}), 'succeeded', 'and back');
all_well($at{main}, 5, $at{r1}, $at{r2});

# -- what is not possible is said before anything is touched
$node->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('somebody')");
$node->safe_psql('postgres', 'ALTER SYSTEM SET full_page_writes = off');
$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
wait_for($node, q{SELECT current_setting('full_page_writes') = 'off'});
$operation = $node->safe_psql('postgres', q{SELECT replica_switchover('r1')});
is(wait_operation($node, $operation), 'failed', 'without full_page_writes it fails');
like($node->safe_psql('postgres', "SELECT detail || hint FROM replica_operations WHERE operation = $operation"),
	qr/full_page_writes, which is off.*ALTER SYSTEM SET full_page_writes = on/, 'and says what to do');
is($node->safe_psql('postgres', 'SELECT string_agg(slot_name, \' \' ORDER BY slot_name) FROM pg_replication_slots'),
	'replica_ctl_r1 replica_ctl_r2 somebody', 'the slots are as before');
is(ask($at{r1}, 'SELECT count(*) FROM pg_replication_slots'), 0, 'on the replica, too');
$node->safe_psql('postgres', 'INSERT INTO t VALUES (2)');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET full_page_writes');
$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
wait_for($node, q{SELECT current_setting('full_page_writes') = 'on'});

# -- a failure behind the first changes undoes them
ask($at{r1}, 'SELECT pg_wal_replay_pause()');
$node->safe_psql('postgres', 'INSERT INTO t VALUES (3)');
SKIP:
{
	skip 'not a test build', 4 unless test_build($node);
	ask($at{r1}, 'SELECT pg_wal_replay_resume()');
	$node->safe_psql('postgres', q{ALTER SYSTEM SET replica_ctl.test_fault = 'switchover.fence.before=22023'});
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
	wait_for($node, q{SELECT current_setting('replica_ctl.test_fault') <> ''});
	$operation = $node->safe_psql('postgres', q{SELECT replica_switchover('r1')});
	is(wait_operation($node, $operation), 'failed', 'a failure just before the fence');
	wait_for($node, q{SELECT bool_and(connected) FROM replica_status});
	is(ask($at{r2}, 'SELECT sender_port FROM pg_stat_wal_receiver'), $at{main}{port}, 'r2 follows this server again');
	is(ask($at{r1}, 'SELECT count(*) FROM pg_replication_slots'), 0, 'r1 has no slots');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'replica_ctl_rejoin'}), 0,
		'nor is there one here');
}

# -- neither checksums nor wal_log_hints, as a plain initdb makes it before PostgreSQL 18
$stock->safe_psql('postgres', q{SELECT replica_create('r1')});
$stock->safe_psql('postgres', q{SELECT replica_wait('r1')});
like($stock->safe_psql('postgres', q{SELECT replica_switchover('r1')}), qr/^\d+$/, 'queued');
like(psql_error($stock, q{SELECT replica_wait('r1')}),
	qr/pg_rewind needs data checksums or wal_log_hints.*ALTER SYSTEM SET wal_log_hints = on/s, 'refused with a hint');
is($stock->safe_psql('postgres', 'SELECT state FROM replica_status'), 'streaming', 'and the replica goes on');

done_testing();
