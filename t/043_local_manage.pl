# 043_local_manage.pl
#	  Attach, detach and repair of local replicas; drops of unusual ones.

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;

my $primary = new_primary('main', conf => "wal_keep_size = 0\nmax_wal_size = 64MB\nmin_wal_size = 32MB");
my $dir = replica_dir($primary);

sub sql { return $primary->safe_psql('postgres', $_[0]); }

sub on
{
	my ($replica, $sql) = @_;
	my $port = $replica =~ /^\d+$/ ? $replica : fact($replica, 'port');
	my ($out, $err);

	IPC::Run::run([ 'psql', '-XAtq', '-h', $primary->host, '-p', $port, '-d', 'postgres', '-c', $sql ],
		'>', \$out, '2>', \$err);
	chomp($out, $err);
	return $out . $err;
}

sub fact
{
	my ($name, $fact) = @_;
	return sql("SELECT facts->>'$fact' FROM replica_ctl.replica WHERE name = '$name'");
}

# Runs a function on a replica and waits; the outcome.
sub run
{
	my ($function, $name, $more) = @_;

	sql("SELECT replica_$function('$name'" . ($more ? ", $more" : '') . ')');
	return sql("SELECT replica_wait('$name', '60s')");
}

# The same where it must fail; the error.
sub fails
{
	my ($function, $name, $more) = @_;

	sql("SELECT replica_$function('$name'" . ($more ? ", $more" : '') . ')');
	return psql_error($primary, "SELECT replica_wait('$name', '60s')");
}

sub dropped
{
	my ($name, $more) = @_;

	sql("SELECT replica_drop('$name'" . ($more ? ", $more" : '') . ')');
	wait_for($primary, "SELECT count(*) = 0 FROM replica_ctl.replica WHERE name = '$name'");
	return;
}

sub streams
{
	my ($name) = @_;
	my $application_name = fact($name, 'application_name');

	wait_for($primary, "SELECT count(*) = 1 FROM pg_stat_replication WHERE application_name = '$application_name' AND state = 'streaming'");
	return;
}

sub ctl
{
	my ($name, @arguments) = @_;
	return system_log('pg_ctl', '-D', "$dir/$name", '-w', '-s', @arguments);
}

sub events
{
	my ($name) = @_;
	return sql("SELECT string_agg(kind, ' ' ORDER BY event_id) FROM replica_ctl.event WHERE kind LIKE 'repair\\_%'"
		. " AND kind NOT LIKE '%requested' AND kind NOT LIKE '%succeeded'"
		. " AND operation_id = (SELECT max(operation_id) FROM replica_ctl.operation WHERE replica = '$name')");
}

# A standby that was made by hand; returns its port.
sub standby
{
	my ($path, $conf) = @_;
	my $port = free_port();

	# -R would write it down
	local $ENV{PGAPPNAME};
	delete $ENV{PGAPPNAME};
	system_or_bail('pg_basebackup', '-h', $primary->host, '-p', $primary->port, '-D', $path, '-R', '-c', 'fast');
	append_to_file("$path/postgresql.conf", "port = $port\n" . ($conf // ''));
	system_or_bail('pg_ctl', '-D', $path, '-w', '-s', '-l', "$path/log", 'start');
	return $port;
}

sql('CREATE TABLE t AS SELECT generate_series(1, 1000) AS i');

#
# Attach: by directory, without a slot.
#
mkdir $dir;
my $path = "$dir/hand";
my $port = standby($path, "cluster_name = 'hand'");
is(run('attach', 'a1', "options => '{\"data_directory\": \"$path\"}'"), 'succeeded', 'attach by directory');
is(fact('a1', 'port'), $port, 'its port was found');
is(fact('a1', 'application_name'), 'hand', 'and its application_name');
is(fact('a1', 'slot'), 'replica_ctl_a1', 'it got a slot');
wait_for($primary, q{SELECT active FROM pg_replication_slots WHERE slot_name = 'replica_ctl_a1'});
is(on($port, 'SELECT pg_postmaster_start_time() < now() - interval \'0 s\' AND pg_is_in_recovery()'), 't', 'it runs on');
like(fails('drop', 'a1'), qr/55000.*was attached, not made here.*HINT:.*replica_detach.*force => true/s, 'it is not dropped just so');
is(on($port, 'SELECT 1'), '1', 'it was not stopped');
system_or_bail('pg_ctl', '-D', $path, '-w', '-s', '-m', 'fast', 'stop');
is(run('repair', 'a1'), 'succeeded', 'repair of an attached one that was stopped');
is(events('a1'), 'repair_start', 'starts it');
is(on($port, 'SHOW port'), $port, 'as it was');
sql(q{SELECT replica_detach('a1')});
wait_for($primary, q{SELECT count(*) = 0 FROM replica_ctl.replica});
is(on($port, 'SELECT 1'), '1', 'detach leaves it running');
wait_for($primary, q{SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'});
pass('and streaming, without a slot');
is(sql('SELECT count(*) FROM pg_replication_slots'), '0', 'its slot is gone');

# by host and port; one that has a slot
sql(q{SELECT pg_create_physical_replication_slot('by_hand', true)});
on($port, q{ALTER SYSTEM SET primary_slot_name = 'by_hand'});
on($port, q{SELECT pg_reload_conf()});
wait_for($primary, q{SELECT active FROM pg_replication_slots WHERE slot_name = 'by_hand'});
my $host = $primary->host;
like(fails('attach', 'a2', "options => '{\"host\": \"$host\", \"port\": $port, \"slot\": \"other\"}'"),
	qr/22023.*uses replication slot "by_hand", not "other"/s, 'another slot than it uses');
is(sql('SELECT count(*) FROM pg_replication_slots'), '1', 'its slot was not touched');
is(run('attach', 'a2', "options => '{\"host\": \"$host\", \"port\": $port}'"), 'succeeded', 'attach by host and port');
is(fact('a2', 'slot'), 'by_hand', 'the slot that it uses was found');
is(fact('a2', 'data_directory'), $path, 'and its directory');
sql(q{SELECT replica_detach('a2')});
wait_for($primary, q{SELECT count(*) = 0 FROM replica_ctl.replica});
is(sql(q{SELECT active FROM pg_replication_slots WHERE slot_name = 'by_hand'}), 't', 'detach leaves it its own slot');
is(run('attach', 'a2', "options => '{\"host\": \"$host\", \"port\": $port}'"), 'succeeded', 'attached again');
dropped('a2', 'force => true');
ok(!-e $path, 'a forced drop deletes it');
is(sql('SELECT count(*) FROM pg_replication_slots'), '0', 'with its slot');

# what is not a standby of ours
like(fails('attach', 'a3', "options => '{\"data_directory\": \"$path\"}'"), qr/55000.*no server runs in/s, 'attach of nothing');
like(fails('attach', 'a3', sprintf(q(options => '{"host": "%s", "port": %d}'), $host, $primary->port)),
	qr/55000.*is not a standby/s, 'attach of the primary itself');
my $stranger = PostgreSQL::Test::Cluster->new('stranger');
$stranger->init;
$stranger->start;
like(fails('attach', 'a3', sprintf(q(options => '{"host": "%s", "port": %d}'), $stranger->host, $stranger->port)),
	qr/28000.*another database system answers there/s, 'attach of another system');
$stranger->stop;
dropped('a3');
no_orphans_ok($primary, 'nothing is left of attached ones');

#
# Repair.
#
is(run('create', 'r1'), 'succeeded', 'a replica');
is(run('repair', 'r1'), 'succeeded', 'repair of one that is well');
is(events('r1'), '', 'does nothing');

ctl('r1', '-m', 'fast', 'stop');
is(run('repair', 'r1'), 'succeeded', 'repair of a stopped one');
is(events('r1'), 'repair_start', 'starts it');
streams('r1');

my ($pid) = slurp_file("$dir/r1/postmaster.pid") =~ /^(\d+)/;
kill 9, $pid;
is(run('repair', 'r1'), 'succeeded', 'repair of one whose server was killed');
is(events('r1'), 'repair_start', 'starts it');

ctl('r1', '-m', 'fast', 'stop');
sql(q{SELECT pg_drop_replication_slot('replica_ctl_r1')});
is(run('repair', 'r1'), 'succeeded', 'repair of one without a slot');
is(events('r1'), 'repair_slot repair_start', 'makes the slot');
wait_for($primary, q{SELECT active FROM pg_replication_slots WHERE slot_name = 'replica_ctl_r1'});

# the WAL that it needs is gone
ctl('r1', '-m', 'fast', 'stop');
sql(q{SELECT pg_drop_replication_slot('replica_ctl_r1')});
for (1 .. 4)
{
	sql('INSERT INTO t SELECT 1');
	sql('SELECT pg_switch_wal()');
	sql('CHECKPOINT');
}
is(run('repair', 'r1'), 'succeeded', 'repair of one whose WAL is gone');
like(events('r1'), qr/repair_clone/, 'makes a new copy');
like(sql(q{SELECT message FROM replica_ctl.event WHERE kind = 'repair_clone'}), qr/The WAL that it needs, from .* on, is gone/, 'and says why');
streams('r1');
is(on('r1', 'SELECT count(*) FROM t'), sql('SELECT count(*) FROM t'), 'with all rows');
is(join(' ', glob "$dir/*"), "$dir/r1", 'the old copy is gone');

# its slot has lost its WAL
ctl('r1', '-m', 'fast', 'stop');
$primary->append_conf('postgresql.conf', 'max_slot_wal_keep_size = 1MB');
$primary->reload;
for (1 .. 4)
{
	sql('INSERT INTO t SELECT 1');
	sql('SELECT pg_switch_wal()');
	sql('CHECKPOINT');
}
is(sql(q{SELECT wal_status FROM pg_replication_slots}), 'lost', 'a slot that has lost its WAL');
is(run('repair', 'r1'), 'succeeded', 'repair of that');
streams('r1');
$primary->append_conf('postgresql.conf', 'max_slot_wal_keep_size = -1');
$primary->reload;

# it does not start: damaged; gone altogether
ctl('r1', '-m', 'fast', 'stop');
unlink "$dir/r1/global/pg_control";
is(run('repair', 'r1'), 'succeeded', 'repair of a damaged one');
like(events('r1'), qr/repair_clone/, 'makes a new copy');
ctl('r1', '-m', 'fast', 'stop');
system_or_bail('rm', '-rf', "$dir/r1");
is(run('repair', 'r1'), 'succeeded', 'repair of one whose directory is gone');
streams('r1');

# somebody else's files in its place
ctl('r1', '-m', 'fast', 'stop');
system_or_bail('rm', '-rf', "$dir/r1");
mkdir "$dir/r1";
append_to_file("$dir/r1/precious", 'x');
like(fails('repair', 'r1'), qr/55000.*is in the way of a new copy.*HINT/s, 'files of somebody else are in the way');
ok(-e "$dir/r1/precious", 'they stay');
unlink "$dir/r1/precious";
is(run('repair', 'r1'), 'succeeded', 'once they are gone it is repaired');

# the primary has moved to another port
$primary->stop;
my $moved = free_port();
$primary->append_conf('postgresql.conf', "port = $moved");
$primary->{_port} = $moved;
$primary->start;
is(run('repair', 'r1'), 'succeeded', 'repair after the primary has moved to another port');
is(events('r1'), 'repair_conninfo', 'tells it the new one');
streams('r1');
dropped('r1');
no_orphans_ok($primary, 'nothing is left of repaired ones');

# a repair that is cancelled leaves things as they were
is(run('create', 'r2', q(options => '{"max_rate": 4096}')), 'succeeded', 'a replica that is copied slowly');
ctl('r2', '-m', 'fast', 'stop');
rename "$dir/r2/global/pg_control", "$dir/r2/global/pg_control.away";
append_to_file("$dir/r2/witness", 'x');
my $operation = sql(q{SELECT replica_repair('r2')});
wait_for($primary, "SELECT phase = 'copying' FROM replica_operations WHERE operation = $operation");
ok(!-e "$dir/r2/witness", 'the old copy was moved aside');
sql("SELECT replica_cancel($operation)");
is(wait_operation($primary, $operation), 'cancelled', 'cancel of a repair');
ok(-e "$dir/r2/witness", 'the old copy is back');
is(join(' ', glob "$dir/*"), "$dir/r2", 'and nothing else');
rename "$dir/r2/global/pg_control.away", "$dir/r2/global/pg_control";
is(run('repair', 'r2'), 'succeeded', 'it can be repaired still');

# diverged: promoted behind our back
ctl('r2', 'promote');
like(fails('repair', 'r2'), qr/55000.*was promoted and is a server of its own.*HINT:.*replica_detach/s, 'repair of one that was promoted by hand');
like(fails('drop', 'r2'), qr/55000.*was promoted.*HINT:.*force => true/s, 'it is not dropped just so');
is(on('r2', 'SELECT pg_is_in_recovery()'), 'f', 'it was not touched');
dropped('r2', 'force => true');
no_orphans_ok($primary, 'nothing is left after a forced drop');

#
# Promotion, and what comes after.
#
is(run('create', 'p1'), 'succeeded', 'a replica');
is(run('promote', 'p1', q(mode => 'forced')), 'succeeded', 'is promoted');
is(on('p1', 'CREATE TABLE own AS SELECT 1 AS i; SELECT count(*) FROM own'), '1', 'it accepts writes');
like(fails('drop', 'p1'), qr/55000.*was promoted/s, 'it is not dropped just so');
my $pport = fact('p1', 'port');
sql(q{SELECT replica_detach('p1')});
wait_for($primary, q{SELECT count(*) = 0 FROM replica_ctl.replica});
is(on($pport, 'SELECT count(*) FROM own'), '1', 'detached, it lives on');
ctl('p1', '-m', 'fast', 'stop');
system_or_bail('rm', '-rf', "$dir/p1");

#
# Drops of what is half gone.
#
is(run('create', 'd1'), 'succeeded', 'a replica');
ctl('d1', '-m', 'immediate', 'stop');
dropped('d1');
is(run('create', 'd1'), 'succeeded', 'another');
system_or_bail('rm', '-rf', "$dir/d1");
dropped('d1');
pass('a drop of one whose directory is gone');
no_orphans_ok($primary, 'nothing is left');

# a cascaded one whose upstream does not run
is(run('create', 'u1'), 'succeeded', 'an upstream');
is(run('create', 'u2', q(options => '{"upstream": "u1"}')), 'succeeded', 'one that follows it');
ctl('u1', '-m', 'fast', 'stop');
dropped('u2', 'force => true');
is(sql(q{SELECT count(*) FROM replica_ctl.event WHERE kind = 'slot_left'}), '1', 'a forced drop leaves the slot that it cannot reach, and says so');
dropped('u1');
no_orphans_ok($primary, 'nothing is left of these');

done_testing();
