# 157_diverged.pl
#	  A replica that has left its source's history is brought back: by pg_rewind
#	  where that can be used, else by comparing all blocks; and what is half
#	  done is gone on with.
#
# slow

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;

my $primary = new_primary('main', initdb => ['--data-checksums'], conf => "max_wal_size = 96MB\nmin_wal_size = 80MB\nwal_keep_size = 64MB\nautovacuum = off");
my $dir = replica_dir($primary);
my $space = PostgreSQL::Test::Utils::tempdir();
chomp(my $bindir = `pg_config --bindir`);
my $main = server_of($primary, 'main');
my $round = 0;

sub sql { return $primary->safe_psql('postgres', $_[0]) }

sub operation
{
	my ($call) = @_;
	my $operation = sql("SELECT $call");

	wait_operation($primary, $operation, 120);
	return $operation;
}

sub state_of { return sql("SELECT state FROM replica_operations WHERE operation = $_[0]") }

sub succeeded_ok
{
	my ($call, $name) = @_;
	my $operation = operation($call);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(state_of($operation), 'succeeded', $name)
	  or diag(sql("SELECT message, detail, hint FROM replica_operations WHERE operation = $operation"));
	return $operation;
}

# How the replica was brought back, by the events of an operation.
sub ways
{
	my ($operation) = @_;
	return sql("SELECT string_agg(kind, ' ' ORDER BY event) FROM replica_events WHERE operation = $operation
		AND kind IN ('repair_rewind', 'repair_no_rewind', 'repair_resync', 'rewound', 'resynced', 'copied')");
}

sub message
{
	my ($operation, $kind) = @_;
	return sql("SELECT message FROM replica_events WHERE operation = $operation AND kind = '$kind' ORDER BY event DESC LIMIT 1");
}

sub told
{
	my ($operation, $kind, $key) = @_;
	return sql("SELECT detail->>'$key' FROM replica_events WHERE operation = $operation AND kind = '$kind'");
}

# The replica is promoted behind our back, written to, and made a standby again.
sub go_astray
{
	my $replica = server_of($primary, 'r1');

	$round++;
	system_or_bail("$bindir/pg_ctl", '-D', "$dir/r1", '-w', '-s', 'promote');
	ask($replica, "UPDATE t SET text = 'astray $round' WHERE id % 500 = $round");
	ask($replica, "INSERT INTO s VALUES ($round, 'astray')");
	ask($replica, 'CREATE TABLE only_there AS SELECT 1 AS one');
	ask($replica, "SELECT pg_create_physical_replication_slot('only_there')");
	sql("UPDATE t SET text = 'right $round' WHERE id % 500 = $round + 1");
	sql("INSERT INTO s VALUES ($round, 'right')");
	return;
}

sub demote
{
	my ($mode) = @_;
	system_or_bail("$bindir/pg_ctl", '-D', "$dir/r1", '-m', $mode // 'fast', '-w', '-s', 'stop');
	append_to_file("$dir/r1/standby.signal", '');
	return;
}

my $contents = q{SELECT md5(string_agg(md5, ',' ORDER BY md5)) FROM (
	SELECT md5(t::text) FROM t UNION ALL SELECT md5(s::text) FROM s UNION ALL SELECT md5(relname::text) FROM pg_class) x};

sub same_ok
{
	my ($name) = @_;
	my $lsn = sql('SELECT pg_current_wal_flush_lsn()');
	my $replica = server_of($primary, 'r1');

	wait_ask($replica, "SELECT pg_last_wal_replay_lsn() >= '$lsn'");
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(ask($replica, $contents), ask($main, $contents), "$name: the data are the same");
	is(ask($replica, q{SELECT pg_is_in_recovery() AND NOT EXISTS (SELECT FROM pg_replication_slots)}), 't',
		'and it is a standby without slots of its own');
	my $mode = (stat "$dir/r1")[2] & 0777;
	is(sprintf('%o %s', $mode, join ' ', grep { !-e "$dir/r1/$_" } 'replica_ctl.id', 'log/replica_ctl.log'), '700 ',
		'its directory can be read by nobody else, and has the marker and the log');
	is_deeply([ grep { -e } "$dir/r1/replica_ctl.resync", "$dir/r1/backup_label", glob "$dir/r1.*" ], [], 'nothing is left over');
	is(system("$bindir/pg_amcheck", '-h', $replica->{host}, '-p', $replica->{port}, '-d', 'postgres', '--exclude-schema=replica_ctl',
			'--heapallindexed'), 0, 'pg_amcheck finds nothing');
	return;
}

sql("CREATE EXTENSION amcheck; CREATE TABLESPACE space LOCATION '$space'");
sql(q{
	CREATE TABLE t AS SELECT g AS id, md5(g::text) AS text FROM generate_series(1, 200000) g;
	ALTER TABLE t ADD PRIMARY KEY (id);
	CREATE TABLE s (id int, text text) TABLESPACE space;
	INSERT INTO s SELECT g, 'old' FROM generate_series(1, 2000) g;
	CHECKPOINT;});
succeeded_ok(q{replica_create('r1')}, 'a replica');

#
# A replica that is a primary by now is nobody's to take back
#
go_astray();
my $operation = operation(q{replica_repair('r1')});
is(state_of($operation), 'failed', 'one that is promoted is not taken back');
like(psql_error($primary, q{SELECT replica_wait('r1')}), qr/was promoted and is a server of its own/, 'the error says why');
is(ask(server_of($primary, 'r1'), 'SELECT count(*) FROM only_there'), '1', 'it keeps what it has');

#
# One that was made a standby again
#
demote();
append_to_file("$dir/r1/log/replica_ctl.log", "a line of ours\n");
$operation = succeeded_ok(q{replica_repair('r1')}, 'once it is a standby again it is');
is(ways($operation), 'repair_rewind rewound', 'by pg_rewind');
like(message($operation, 'repair_clone'), qr/is on timeline 2, which this server does not have/, 'the reason is known');
my $size = sql('SELECT sum(pg_tablespace_size(oid)) FROM pg_tablespace');
cmp_ok(told($operation, 'rewound', 'bytes_written'), '>', 8192, 'bytes written');
cmp_ok(told($operation, 'rewound', 'bytes_read'), '>=', told($operation, 'rewound', 'bytes_written'), 'bytes read');
like(told($operation, 'rewound', 'diverged_at'), qr{^[0-9A-F]+/[0-9A-F]+$}, 'and since when it had gone its own way');
same_ok('rewound');
like(slurp_file("$dir/r1/log/replica_ctl.log"), qr/a line of ours/, 'its log was kept');

#
# Half of the WAL is not there: its own
#
go_astray();
ask(server_of($primary, 'r1'), 'CHECKPOINT');
demote();
unlink grep { m{/[0-9A-F]{24}$} && m{/00000001} } glob "$dir/r1/pg_wal/*";
$operation = succeeded_ok(q{replica_repair('r1')}, 'without its own WAL it is brought back, too');
is(ways($operation), 'repair_no_rewind repair_resync resynced', 'by a comparison');
like(message($operation, 'repair_no_rewind'), qr/pg_rewind says "could not /, 'an event says why not by pg_rewind');
cmp_ok(told($operation, 'resynced', 'bytes_written'), '<', told($operation, 'resynced', 'bytes_read') / 2, 'which reads all and writes little');
same_ok('compared');

# this server's
go_astray();
demote();
sql('ALTER SYSTEM SET wal_keep_size = 0');
sql('SELECT pg_reload_conf()');
sql(q{SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots});
for (1 .. 8)
{
	sql('SELECT pg_switch_wal()');
	sql('CREATE TABLE x (); DROP TABLE x; CHECKPOINT');
}
sql('ALTER SYSTEM RESET wal_keep_size');
sql('SELECT pg_reload_conf()');
$operation = succeeded_ok(q{replica_repair('r1')}, 'without the WAL of this server');
is(ways($operation), 'repair_no_rewind repair_resync resynced', 'by a comparison');
like(message($operation, 'repair_no_rewind'), qr/this server's WAL from \S+ on is gone/, 'an event says why not by pg_rewind');
same_ok('compared');

#
# pg_rewind fails half-way
#
my $programs = PostgreSQL::Test::Utils::tempdir();
symlink $_, "$programs/" . substr($_, length($bindir) + 1) for glob "$bindir/*";
unlink "$programs/pg_rewind";
append_to_file("$programs/pg_rewind", <<"EOS");
#!/bin/sh
case "\$*" in *--dry-run*) exec "$bindir/pg_rewind" "\$@" ;; esac
[ -e "$programs/slow" ] && { : >"$programs/slow.begun"; exec sleep 600; }
rm -f "$dir/r1/replica_ctl.id" "$dir"/r1_tablespaces/*/replica_ctl.id
"$bindir/pg_ctl" start -D "$dir/r1" -l "$programs/start.log" -s
echo "pg_rewind: error: could not go on" >&2
exit 1
EOS
chmod 0755, $programs, "$programs/pg_rewind";
sql("ALTER SERVER local OPTIONS (bindir '$programs')");
go_astray();
demote();
$operation = succeeded_ok(q{replica_repair('r1')}, 'pg_rewind fails half-way');
is(ways($operation), 'repair_rewind repair_no_rewind repair_resync resynced', 'the comparison does the rest');
like(message($operation, 'repair_no_rewind'), qr/pg_rewind says "could not go on"/, 'with the words of pg_rewind');
like(slurp_file("$programs/start.log"), qr/has invalid permissions/, 'in the meantime it could not start');
same_ok('half rewound, then compared');

# it is cancelled
go_astray();
demote();
append_to_file("$programs/slow", '');
$operation = sql(q{SELECT replica_repair('r1')});
wait_until(sub { -e "$programs/slow.begun" }, 'pg_rewind');
like(psql_error($primary, "SET allow_in_place_tablespaces = on; SET lock_timeout = 100; CREATE TABLESPACE other LOCATION ''"),
	qr/55P03/, 'no tablespace is made in the meantime');
sql("SELECT replica_cancel($operation)");
is(wait_operation($primary, $operation), 'cancelled', 'pg_rewind is cancelled');
isnt(system("$bindir/pg_ctl", '-s', '-D', "$dir/r1", '-l', "$programs/start.log", '-w', 'start'), 0, 'what is half done does not start');
unlink "$dir/r1/replica_ctl.id", glob "$dir/r1_tablespaces/*/replica_ctl.id";
$operation = succeeded_ok(q{replica_repair('r1')}, 'the next repair goes on');
is(ways($operation), 'repair_resync resynced', 'with a comparison');
same_ok('cancelled, then compared');

# its worker is killed
go_astray();
demote();
unlink "$programs/slow.begun";
$operation = sql(q{SELECT replica_repair('r1')});
wait_until(sub { -e "$programs/slow.begun" }, 'pg_rewind');
restart_pid($primary, worker_pid($primary, 'replica_ctl operation'));
is(wait_operation($primary, $operation, 120), 'succeeded', 'its worker is killed: the next one goes on');
is(ways($operation), 'repair_rewind repair_no_rewind repair_resync resynced', 'with a comparison');
same_ok('killed, then compared');

# and dropped
go_astray();
demote();
unlink "$programs/slow.begun";
$operation = sql(q{SELECT replica_repair('r1')});
wait_until(sub { -e "$programs/slow.begun" }, 'pg_rewind');
sql("SELECT replica_cancel($operation)");
is(wait_operation($primary, $operation), 'cancelled', 'cancelled once more');
unlink "$dir/r1/replica_ctl.id", glob "$dir/r1_tablespaces/*/replica_ctl.id";
succeeded_ok(q{replica_drop('r1')}, 'then it is dropped');
sql('ALTER SERVER local OPTIONS (DROP bindir)');
no_orphans_ok($primary);

done_testing();
