# What others do meanwhile: databases and the extension itself are dropped, made
# anew and altered while operations run and sessions wait for them.

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = new_primary('extension', conf => 'replica_ctl.max_operations = 8');
mock_server($node);

# A statement that hangs fails.
sub sql { return $node->safe_psql('postgres', "SET lock_timeout = '20s'; SET statement_timeout = '25s'; $_[0]") }

sub stalled
{
	my ($name, $place) = @_;
	my $op = sql(qq{SELECT replica_create('$name', 'mock', '{"fault": "$place=stall*1"}')});
	my ($step) = $place =~ /\.(\w+)/;
	wait_for($node, "SELECT state = 'running' AND step = '$step' FROM replica_operations WHERE operation = $op");
	return $op;
}

# --------------------------------------------------------------------------
note 'DROP DATABASE of another database';
# --------------------------------------------------------------------------
{
	my $op = stalled('busy', 'create.copy.after');
	my $session = $node->background_psql('postgres');
	$session->query_until(qr/started/, "\\echo started\nSELECT replica_operation_wait($op, '60s');\n");
	wait_for($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%operation_wait($op%' AND wait_event = 'Extension'");
	my $begin = time;
	$node->safe_psql('postgres', 'CREATE DATABASE other');
	sql('DROP DATABASE other');
	ok(time - $begin < 10, sprintf('is not held up by a worker, the launcher or a session that waits (%.1f s)', time - $begin));
	sql("SELECT replica_cancel($op)");
	is($session->query('SELECT 1'), "cancelled\n1", 'which all go on');
	$session->quit;
}

# --------------------------------------------------------------------------
note 'DROP EXTENSION';
# --------------------------------------------------------------------------
{
	my $launcher = worker_pid($node, 'replica_ctl launcher');
	my $op = stalled('dropped', 'create.start.after');
	isnt(mock_files($node), '', 'a half-made replica');
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	$session->query_until(qr/started/, "\\echo started\nSELECT replica_operation_wait($op, '60s');\n");
	wait_for($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%operation_wait($op%' AND wait_event = 'Extension'");
	my $worker = worker_pid($node, 'replica_ctl operation');

	# made anew at once: the first operation has the number that an old one had
	my $begin = time;
	sql('BEGIN; DROP EXTENSION replica_ctl CASCADE; CREATE EXTENSION replica_ctl; COMMIT');
	ok(time - $begin < 10, sprintf('is not held up by a worker nor by a session that waits (%.1f s)', time - $begin));
	my $first = sql("SELECT replica_create('first', 'mock')");
	cmp_ok($first, '<=', $op, 'operations are counted from 1 again');
	sql("SELECT replica_create('more $_', 'mock')") for $first + 1 .. $op;
	for my $new ($first .. $op)
	{
		is(sql("SELECT replica_operation_wait($new)"), 'succeeded', "operation $new of the new registry");
	}
	wait_until(sub { !kill 0, $worker }, 'the end of the old worker');
	is(sql("SELECT count(*) FROM replica_operations WHERE state <> 'succeeded' OR attempts <> 3"), '0', 'the old worker did not touch the new rows');
	like($session->query('SELECT 1'), qr/1$/, 'the session that waited can go on');
	$session->quit;
	my %alive = map { $_ => 1 } split /\n/, sql('SELECT replica_id FROM replica_ctl.replica');
	my %files;
	$files{$_}++ for map { /^(\d+)\./ } split / /, mock_files($node);
	is(join(' ', sort keys %files), join(' ', sort keys %alive), 'what the dropped operation had made is gone');
	like(slurp_file($node->logfile), qr/LOG:  operation $op \(create of replica "dropped"\) ended: extension replica_ctl was dropped/, 'the log says so');

	# and dropped for good
	$op = stalled('dropped again', 'create.copy.after');
	$worker = worker_pid($node, 'replica_ctl operation');
	my $id = sql("SELECT replica_id FROM replica_ctl.operation WHERE operation_id = $op");
	sql('DROP EXTENSION replica_ctl CASCADE');
	wait_until(sub { !kill 0, $worker }, 'the end of the worker');
	unlike(mock_files($node), qr/\b$id\./, 'what it had made is gone');
	is(worker_pid($node, 'replica_ctl launcher'), $launcher, 'the launcher lives through all that');
	like(psql_error($node, 'SELECT replica_wait(1)'), qr/ERROR:  42883: /, 'there is no function');
	sql('CREATE EXTENSION replica_ctl');
	sql("SELECT replica_create('again', 'mock')");
	is(sql("SELECT replica_wait('again')"), 'succeeded', 'and back');
}

# --------------------------------------------------------------------------
note 'ALTER EXTENSION UPDATE';
# --------------------------------------------------------------------------
{
	chomp(my $share = `pg_config --sharedir`);
	my $script = "$share/extension/replica_ctl--1.0--1.1.sql";
	die "the installation is not ours" unless -w "$share/extension";
	append_to_file($script, q{
		ALTER TABLE replica_ctl.operation ADD COLUMN priority integer NOT NULL DEFAULT 0;
		ALTER TABLE replica_ctl.replica ADD COLUMN note text;
		ALTER TABLE replica_ctl.operation DROP COLUMN priority;
		ALTER TABLE replica_ctl.operation ADD COLUMN priority bigint DEFAULT 17;
	});
	my $stalled = stalled('altered', 'create.copy.after');
	my $long = sql(q{SELECT replica_create('long', 'mock', '{"bytes": 1000, "duration_ms": 1500}')});
	my $begin = time;
	sql("ALTER EXTENSION replica_ctl UPDATE TO '1.1'");
	ok(time - $begin < 1.4, sprintf('is not held up by workers (%.1f s)', time - $begin));
	unlink $script;
	is(sql("SELECT replica_operation_wait($long)"), 'succeeded', 'which go on');
	sql("SELECT replica_cancel($stalled)");
	is(sql("SELECT replica_operation_wait($stalled)"), 'cancelled', 'in both directions');
	sql("SELECT replica_create('new', 'mock')");
	is(sql("SELECT replica_wait('new')"), 'succeeded', 'and new ones start');
	is(sql("SELECT DISTINCT priority FROM replica_ctl.operation"), '17', 'with the new column');

	# the same, undone
	append_to_file($script, 'ALTER TABLE replica_ctl.operation ADD COLUMN x integer; SELECT 1/0;');
	sql('DROP EXTENSION replica_ctl CASCADE');
	sql("CREATE EXTENSION replica_ctl VERSION '1.0'");
	like(psql_error($node, "ALTER EXTENSION replica_ctl UPDATE TO '1.1'"), qr/ERROR:  22012: /, 'an update that fails');
	unlink $script;
	sql("SELECT 1 FROM replica_operations");
}

# --------------------------------------------------------------------------
note 'a dump';
# --------------------------------------------------------------------------
{
	sql("SELECT replica_create('dumped', 'mock')");
	is(sql("SELECT replica_wait('dumped')"), 'succeeded', 'a replica');
	my $stalled = stalled('dumped stalled', 'create.copy.after');
	my $files = mock_files($node);
	my $copy = new_primary('restored', extension => 0);
	my $dump = $node->basedir . '/dump';
	$node->command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', $dump ], 'pg_dump');
	$copy->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $copy->connstr('postgres'), '-f', $dump ], 'restore');
	is($copy->safe_psql('postgres', "SELECT srvname FROM pg_foreign_server ORDER BY 1"), "local\nmock", 'servers are restored');
	is($copy->safe_psql('postgres', 'SELECT (SELECT count(*) FROM replica_status), (SELECT count(*) FROM replica_operations)'), '0|0', 'replicas are not');
	sleep 0.5;
	is(mock_files($node), $files, 'nor are they touched');
	$copy->stop;
	sql("SELECT replica_cancel($stalled)");
	is(sql("SELECT replica_operation_wait($stalled)"), 'cancelled', 'the dumped server goes on');
}

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|was terminated by signal 11|no edge for event/, 'nothing bad in the log');
done_testing();
