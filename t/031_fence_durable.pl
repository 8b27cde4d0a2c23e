# The fence across crashes and restarts, in copies, and when it cannot be
# raised or lifted.

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = new_primary('durable', conf => join("\n",
	'max_prepared_transactions = 10',
	'autovacuum = off',
	'wal_writer_delay = 10s',
	'replica_ctl.fence_action = error'));
my $file = $node->data_dir . '/replica_ctl.fence';

$node->safe_psql('postgres', q{
	CREATE TABLE t (id int);
	CREATE FUNCTION raise_as(bigint) RETURNS pg_lsn AS '$libdir/replica_ctl', 'rctl_test_fence_raise' LANGUAGE C;
	CREATE FUNCTION promoted(bigint, text, text) RETURNS void AS '$libdir/replica_ctl', 'rctl_test_fence_promoted' LANGUAGE C;
});

sub state
{
	my ($server) = @_;
	return ($server // $node)->safe_psql('postgres', 'SELECT phase FROM replica_ctl.fence()');
}

sub writes_fail
{
	my ($name, $pattern) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return like(psql_error($node, 'INSERT INTO t VALUES (0)'), $pattern // qr/25006: .*fenced/, $name);
}

sub writes_succeed
{
	my ($server, $name) = @_;
	my ($rc, $out, $err) = $server->psql('postgres', 'INSERT INTO t VALUES (1)');
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is("$rc$err", '0', $name);
}

# ---- Crashes and restarts

ok(!-e $file, 'no file without a fence');
$node->safe_psql('postgres', q{SET synchronous_commit = off; INSERT INTO t SELECT generate_series(1, 100)});
my $reason = "it's a \"test\" \\ of\n two lines = 2";
my $quoted = $reason =~ s/'/''/gr;
$node->safe_psql('postgres', "SELECT replica_fence('$quoted')");
ok(-e $file, 'a file with one');
is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), 100, 'there are rows');
crash($node);
$node->start;
is(state(), 'up', 'it is up after a crash of the server');
writes_fail('and stops writes');
is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), 100, 'asynchronous commits before it survived');
is($node->safe_psql('postgres', 'SELECT reason FROM replica_ctl.fence()'), $reason, 'the reason as well');
like(slurp_file($node->logfile), qr/this server is fenced since .*it's a "test"/, 'the log says so');
restart_pid($node, worker_pid($node, 'replica_ctl launcher'));
is(state(), 'up', 'it is up after a crash of a process');
$node->restart;
is(state(), 'up', 'and after a restart');
writes_fail('and stops writes');

# ---- Copies are not fenced

my $backup = $node->backup_dir . '/hot';
$node->command_ok([ 'pg_basebackup', '-D', $backup, '-c', 'fast', '-X', 'stream', '-d', $node->connstr('postgres') ],
	'a base backup can be taken behind the fence');
ok(-e "$backup/replica_ctl.fence", 'which has the file');
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($node, 'hot');
$copy->start;
is(state($copy), 'down', 'a server made from it is not fenced');
writes_succeed($copy, 'and takes writes');
ok(!-e $copy->data_dir . '/replica_ctl.fence', 'the copied file is removed');
like(slurp_file($copy->logfile), qr/removing the fence file: it was copied from another server/, 'the log says why');
$copy->stop;
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'hot', has_streaming => 1);
$standby->start;
$standby->promote;
writes_succeed($standby, 'a promoted standby takes writes');
$standby->stop;
is(state(), 'up', 'the original is fenced as before');

# ---- Lifted, a crash does not bring it back

$node->safe_psql('postgres', 'SELECT replica_unfence()');
ok(!-e $file, 'the file is gone with the fence');
crash($node);
$node->start;
is(state(), 'down', 'and does not come back');
writes_succeed($node, 'writes go on');

# ---- After a promotion

$node->safe_psql('postgres', q{SELECT raise_as(12)});
$node->restart;
is($node->safe_psql('postgres', 'SELECT phase, operation, lsn IS NULL FROM replica_ctl.fence()'), 'up|12|t',
	q{an operation's fence is still the operation's});
like($node->safe_psql('postgres', 'SELECT raise_as(12)'), qr{/}, 'which gets a new LSN');
$node->safe_psql('postgres', q{SELECT promoted(12, 'r1', 'db2:5433')});
crash($node);
$node->start;
is($node->safe_psql('postgres', 'SELECT phase, operation, replica, endpoint, promoted_timeline, promoted_lsn FROM replica_ctl.fence()'),
	'promoted|12|r1|db2:5433|2|0/2A', 'a promotion is remembered');
writes_fail('and stops writes for good', qr/25006: .*replica "r1" was promoted in place of this server.*db2:5433/s);
like(slurp_file($node->logfile), qr/this server is fenced: replica "r1" was promoted in its place\n.*HINT:  The new primary is db2:5433/,
	'the log says where to go');

# ---- As a standby in between

$node->stop;
append_to_file($node->data_dir . '/standby.signal', '');
$node->start;
is($node->safe_psql('postgres', 'SELECT pg_is_in_recovery(), phase FROM replica_ctl.fence()'), 't|down',
	'a standby is not fenced');
like(psql_error($node, 'SELECT replica_fence()'), qr/55000: cannot fence a server that is in recovery/, 'and cannot be');
$node->stop;
unlink $node->data_dir . '/standby.signal';
$node->start;
is(state(), 'promoted', 'taking standby.signal away makes no second primary');
$node->stop;
append_to_file($node->data_dir . '/standby.signal', '');
$node->start;

# Without a checkpoint on the new timeline the control file names the old one.
my $checkpointer = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'});
kill 'STOP', $checkpointer;
$node->promote;
writes_succeed($node, 'a promotion of its own makes it a primary');
restart_pid($node, $checkpointer);
writes_succeed($node, 'also when it crashes at once');
like(slurp_file($node->logfile), qr/this server is fenced.*lifting the fence: this server has moved to a later timeline/s,
	'as it finds out');
is(state(), 'down', 'and the fence of its past is void');
ok(!-e $file, 'with its file');

# ---- Damage errs on the safe side

$node->safe_psql('postgres', 'SELECT replica_fence()');
$node->stop;
truncate $file, (-s $file) - 1;
$node->start;
is($node->safe_psql('postgres', 'SELECT phase, reason FROM replica_ctl.fence()'), 'up|the fence file is damaged',
	'a damaged file fences');
writes_fail('and stops writes');
$node->safe_psql('postgres', 'SELECT replica_unfence()');
writes_succeed($node, 'until replica_unfence');
is(state(), 'down', 'down again');

# ---- When it cannot be raised

sub untouched
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(!-e $file && state() eq 'down', "$name: no fence is left");
	return writes_succeed($node, "$name: writes go on");
}

mkdir "$file.new";
like(psql_error($node, 'SELECT replica_fence()'), qr/could not create file "replica_ctl.fence.new"/, 'a file that cannot be written');
untouched('unwritable file');
rmdir "$file.new";

# DROP DATABASE cannot be undone at its commit, so it is waited for; another
# session in that database makes it wait.
sub slow_drop
{
	my $other = $node->background_psql('slow');
	my $drop = $node->background_psql('postgres', on_error_stop => 0);
	$drop->query_until(qr/^started$/m, "\\echo started\nDROP DATABASE slow;\n");
	wait_for($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'DROP DATABASE%' AND state = 'active'});
	sleep 0.1;
	return ($other, $drop);
}

$node->safe_psql('postgres', 'CREATE DATABASE slow');
my ($other, $drop) = slow_drop();
like(psql_error($node, q{SELECT replica_fence(timeout => '300ms')}),
	qr/57014: could not raise the fence in time.*DETAIL:  It was still waiting for the commit of process \d+\..*HINT:  Writes go on/s,
	'a time-out');
untouched('time-out');
like(psql_error($node, q{SET statement_timeout = '300ms'; SELECT replica_fence()}), qr/57014: canceling statement/, 'a cancel');
untouched('cancel');
my $raiser = $node->background_psql('postgres', on_error_stop => 0);
my $raiser_pid = $raiser->query('SELECT pg_backend_pid()');
$raiser->query_until(qr/^started$/m, "\\echo started\nSELECT replica_fence();\n");
wait_for($node, q{SELECT phase = 'up' FROM replica_ctl.fence()});
like(psql_error($node, 'SELECT replica_unfence()'), qr/55006: the fence is being changed by process $raiser_pid/,
	'one process changes it at a time');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($raiser_pid, 5000)");
untouched('end of the session');
$other->quit;
$drop->query('SELECT 1');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_database WHERE datname = 'slow'}), 0, 'the database was dropped');
eval { $raiser->quit };
$drop->quit;
$node->safe_psql('postgres', q{SELECT replica_fence(timeout => '300ms'), replica_unfence()});

# ---- When it cannot be lifted

$node->safe_psql('postgres', 'SELECT replica_fence()');
rename $file, "$file.aside";
mkdir $file;
like(psql_error($node, 'SELECT replica_unfence()'), qr/could not remove file "replica_ctl.fence"/, 'a file that cannot be removed');
is(state(), 'up', 'keeps the fence up');
writes_fail('which stops writes');
rmdir $file;
rename "$file.aside", $file;
$node->safe_psql('postgres', 'SELECT replica_unfence()');
writes_succeed($node, 'until it can');

unlike(slurp_file($node->logfile), qr/PANIC|TRAP/, 'no process failed');
done_testing();
