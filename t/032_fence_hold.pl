# Statements that are held by the fence: they wait, and go on when it is
# lifted; draining.  RCTL_TEST_HOLD says how many seconds they are held.

use strict;
use warnings;

# Sessions live as long as statements are held.
BEGIN { $ENV{PG_TEST_TIMEOUT_DEFAULT} = 60 + 3 * ($ENV{RCTL_TEST_HOLD} || 2) }

use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $hold = $ENV{RCTL_TEST_HOLD} || 2;
my $node = new_primary('hold', conf => join("\n",
	'max_prepared_transactions = 10',
	'autovacuum = off'));

$node->safe_psql('postgres', q{
	CREATE TABLE t (id serial PRIMARY KEY, v int);
	INSERT INTO t (v) SELECT g FROM generate_series(1, 100) g;
	CREATE TABLE emptied (v int);
	INSERT INTO emptied VALUES (1);
	CREATE SEQUENCE s;
	CREATE FUNCTION write_one(n int) RETURNS text LANGUAGE plpgsql AS
		$$BEGIN INSERT INTO t (v) VALUES (n); RETURN 'written ' || n; END$$;
	CREATE FUNCTION write_again(n int) RETURNS text LANGUAGE plpgsql AS
		$$BEGIN
			BEGIN INSERT INTO t (id, v) VALUES (1, n);
			EXCEPTION WHEN unique_violation THEN INSERT INTO t (v) VALUES (n); END;
			RETURN 'written ' || n;
		END$$;
	CREATE PROCEDURE write_twice(n int) LANGUAGE plpgsql AS
		$$BEGIN INSERT INTO t (v) VALUES (n); COMMIT; INSERT INTO t (v) VALUES (n); COMMIT; END$$;
	CREATE FUNCTION promoted(bigint, text, text) RETURNS void AS '$libdir/replica_ctl', 'rctl_test_fence_promoted' LANGUAGE C;
});

sub session
{
	my ($sql) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);

	$session->query('\set VERBOSITY verbose');
	$session->query($sql) if $sql;
	return $session;
}

# Sends a statement without waiting for its end.
sub start
{
	my ($session, $sql) = @_;
	$session->query_until(qr/^started$/m, "\\echo started\n$sql;\n");
	return $session;
}

# Waits for its end; returns all that was said.
sub finish
{
	my ($session) = @_;
	my $out = $session->query('');
	my $err = $session->{stderr} =~ s/background_psql: QUERY_SEPARATOR.*\n?//gr;

	$session->{stderr} = '';
	return $out . $err;
}

sub wait_held
{
	my ($count) = @_;
	return wait_for($node, "SELECT held = $count FROM replica_ctl.fence()");
}

sub fence
{
	return $node->safe_psql('postgres', "SELECT replica_fence('test')");
}

sub unfence
{
	return $node->safe_psql('postgres', 'SELECT replica_unfence()');
}

sub count_rows
{
	my ($where) = @_;
	return $node->safe_psql('postgres', "SELECT count(*) FROM t WHERE $where");
}

is($node->safe_psql('postgres', 'SHOW replica_ctl.fence_action'), 'hold', 'statements are held by default');

# ---- All kinds wait, and go on

my $copy = $node->basedir . '/copy';
append_to_file($copy, "1003\n");
$node->safe_psql('postgres', q{BEGIN; INSERT INTO t (v) VALUES (1015); PREPARE TRANSACTION 'before'});

# what a session did before, what is held, what it says in the end
my %kinds = (
	'INSERT' => [ '', 'INSERT INTO t (v) VALUES (1001) RETURNING v', '1001' ],
	'EXECUTE' => [ 'PREPARE p AS INSERT INTO t (v) VALUES (1002) RETURNING v', 'EXECUTE p', '1002' ],
	'COPY' => [ '', "\\copy t (v) FROM '$copy'", '' ],
	'plpgsql' => [ '', 'SELECT write_one(1004)', 'written 1004' ],
	'plpgsql with EXCEPTION' => [ '', 'SELECT write_again(1005)', 'written 1005' ],
	'CALL with COMMIT' => [ '', 'CALL write_twice(1006)', '' ],
	'a transaction that has read' => [ 'BEGIN; SELECT 1', 'UPDATE t SET v = v WHERE id = 1; COMMIT', '' ],
	'a transaction that has written' => [ 'BEGIN; INSERT INTO t (v) VALUES (1008)', 'INSERT INTO t (v) VALUES (1008); COMMIT', '' ],
	'COMMIT' => [ 'BEGIN; INSERT INTO t (v) VALUES (1009)', 'COMMIT', '' ],
	'nextval' => [ '', q{SELECT nextval('s') > 0}, 't' ],
	'lo_create' => [ '', 'SELECT lo_create(4711)', '4711' ],
	'NOTIFY' => [ '', 'NOTIFY heard', '' ],
	'CREATE TABLE' => [ '', 'CREATE TABLE made (v int)', '' ],
	'TRUNCATE' => [ '', 'TRUNCATE emptied', '' ],
	'VACUUM' => [ '', 'VACUUM t', '' ],
	'PREPARE TRANSACTION' => [ 'BEGIN; INSERT INTO t (v) VALUES (1014)', q{PREPARE TRANSACTION 'after'}, '' ],
	'COMMIT PREPARED' => [ '', q{COMMIT PREPARED 'before'}, '' ],
	'SELECT FOR UPDATE' => [ '', 'SELECT v FROM t WHERE id = 2 FOR UPDATE', '2' ],
	'a repeatable read' => [ 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1', 'UPDATE t SET v = v WHERE id = 3; COMMIT', '' ],
	'EXPLAIN ANALYZE' => [ '', 'EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) INSERT INTO emptied VALUES (2)', qr/^Insert on emptied/ ],
	'CREATE DATABASE' => [ '', 'CREATE DATABASE made STRATEGY wal_log', '' ]);
my %sessions = map { $_ => session($kinds{$_}[0]) } keys %kinds;

# waits for a row lock that a held transaction has
my $locker = session('BEGIN; UPDATE t SET v = v WHERE id = 50');
my $waiter = session();
start($waiter, 'UPDATE t SET v = v WHERE id = 50');

fence();
start($locker, 'UPDATE t SET v = v WHERE id = 51; COMMIT');
start($sessions{$_}, $kinds{$_}[1]) for sort keys %kinds;
wait_held(keys(%kinds) + 1);
pass('all are held: ' . (keys(%kinds) + 1));
my $rows = count_rows('true');
is(count_rows('v > 1000'), 0, 'reads go on');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND state = 'active'}),
	keys(%kinds) + 1, 'one can see that they wait');
sleep $hold;
is(count_rows('true'), $rows, 'and nothing else happens');
my $lifted = time;
unfence();
for my $kind (sort keys %kinds)
{
	my $said = finish($sessions{$kind});
	my $expected = $kinds{$kind}[2];

	$expected = qr/^\Q$expected\E$/ unless ref $expected;
	like($said, $expected, "goes on: $kind");
}
is(finish($locker) . finish($waiter), '', 'goes on: one that waits for another that is held');
cmp_ok(time - $lifted, '<', 10, 'soon');
is($node->safe_psql('postgres', q{SELECT string_agg(v || ':' || n, ' ' ORDER BY v) FROM
	(SELECT v, count(*) AS n FROM t WHERE v > 1000 GROUP BY v) c}),
	'1001:1 1002:1 1003:1 1004:1 1005:1 1006:2 1008:2 1009:1 1015:1', 'each has done what it had to do');
is($node->safe_psql('postgres', q{COMMIT PREPARED 'after'; SELECT count(*) FROM t WHERE v = 1014}), '1', 'the prepared one too');
is($node->safe_psql('postgres', 'SELECT held FROM replica_ctl.fence()'), '0', 'nobody is held any more');
$_->quit for values %sessions, $locker, $waiter;

# ---- Waiting ends otherwise

my %ends = (
	'statement_timeout' => [ q{SET statement_timeout = '300ms'}, 'INSERT INTO t (v) VALUES (2001)',
		qr/57014: canceling statement due to statement timeout/ ],
	'statement_timeout at commit' => [ q{SET statement_timeout = '300ms'; BEGIN; INSERT INTO t (v) VALUES (2001)}, 'COMMIT',
		qr/57014: canceling statement due to statement timeout.*DETAIL:  It was waiting for this server's fence to be lifted\./s ],
	'lock_timeout' => [ q{SET lock_timeout = '300ms'}, 'INSERT INTO t (v) VALUES (2001)',
		qr/55P03: canceling statement due to lock timeout.*DETAIL:  It was waiting for this server's fence to be lifted\./s ],
	'lock_timeout at commit' => [ q{SET lock_timeout = '300ms'; BEGIN; INSERT INTO t (v) VALUES (2001)}, 'COMMIT',
		qr/55P03: canceling statement due to lock timeout/ ]);
%sessions = map { $_ => session($ends{$_}[0]) } keys %ends;
my $cancelled = session();
my $cancelled_commit = session('BEGIN; INSERT INTO t (v) VALUES (2001)');
my $gone = session('CREATE TEMP TABLE mine (v int)');
fence();
start($sessions{$_}, $ends{$_}[1]) for sort keys %ends;
like(finish($sessions{$_}), $ends{$_}[2], "ends by $_") for sort keys %ends;
start($cancelled, 'INSERT INTO t (v) VALUES (2001)');
start($cancelled_commit, 'COMMIT');
wait_held(2);
$node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND backend_type = 'client backend'});
like(finish($cancelled), qr/57014: canceling statement due to user request/, 'ends by a cancel');
like(finish($cancelled_commit), qr/57014: canceling statement due to user request/, 'ends by a cancel at commit');
is($node->safe_psql('postgres', 'SELECT held FROM replica_ctl.fence()'), '0', 'nobody is held any more');
$gone->quit;
wait_for($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE query LIKE 'CREATE TEMP TABLE%'}, 10);
pass('a session with temporary tables can end');
unfence();
is(count_rows('v = 2001'), 0, 'none of them has written');
$_->quit for values %sessions, $cancelled, $cancelled_commit;

my $insert = session();
my $commit = session('BEGIN; INSERT INTO t (v) VALUES (2002)');
fence();
start($insert, 'INSERT INTO t (v) VALUES (2002)');
start($commit, 'COMMIT');
wait_held(2);
$node->safe_psql('postgres', q{SELECT promoted(0, 'r1', 'db2:5433')});
like(finish($insert), qr/25006: cannot execute INSERT: replica "r1" was promoted in place of this server.*HINT:  Connect to the new primary at db2:5433/s,
	'ends with an error by a promotion');
like(finish($commit), qr/25006: cannot execute COMMIT: replica "r1" was promoted in place of this server/s, 'at commit too');
$node->safe_psql('postgres', 'SELECT replica_unfence()');
is(count_rows('v = 2002'), 0, 'neither has written');
$_->quit for $insert, $commit;

# ---- Drain

my $writing = session('BEGIN; INSERT INTO t (v) VALUES (3001)');
my $waiting = session('SET replica_ctl.fence_action = error');
my $raiser = session();
start($raiser, q{SELECT replica_fence('test', drain => '30s')});
wait_for($node, q{SELECT phase = 'draining' FROM replica_ctl.fence()});
start($waiting, 'INSERT INTO t (v) VALUES (3002)');
wait_held(1);
pass('while it drains, a new write waits even with fence_action = error');
is(finish(start($writing, 'UPDATE t SET v = 3001 WHERE id = 10')), '', 'one that has written goes on writing');
is($node->safe_psql('postgres', 'SELECT phase FROM replica_ctl.fence()'), 'draining', 'still');
is(finish(start($writing, 'COMMIT')), '', 'and commits');
like(finish($raiser), qr{^[0-9A-F]+/[0-9A-F]+$}, 'then the fence is up');
like(finish($waiting), qr/25006: cannot execute INSERT while this server is fenced/, 'and the other one fails');
is(count_rows('v = 3001'), 2, 'what was committed is there');
unfence();

finish(start($writing, 'BEGIN; INSERT INTO t (v) VALUES (3003)'));
my $began = time;
$node->safe_psql('postgres', q{SELECT replica_fence('test', drain => '500ms')});
my $took = time - $began;
ok($took > 0.4 && $took < 5, "draining ends in time: $took s");
start($writing, 'COMMIT');
wait_held(1);
unfence();
is(finish($writing), '', 'the transaction that did not end is held, and goes on');
finish(start($writing, 'BEGIN; INSERT INTO t (v) VALUES (3004)'));
like(psql_error($node, q{SELECT replica_fence('test', timeout => '300ms', drain => '10s')}),
	qr/57014: could not raise the fence in time.*DETAIL:  It was still waiting for transactions to finish\./s,
	'the time-out bounds draining');
is($node->safe_psql('postgres', 'SELECT phase FROM replica_ctl.fence()'), 'down', 'and leaves no fence');
is(finish(start($writing, 'COMMIT')), '', 'nor harm');
$_->quit for $writing, $waiting, $raiser;

# ---- Throughput afterwards

my $script = $node->basedir . '/bench.sql';
append_to_file($script, "INSERT INTO t (v) VALUES (0);\n");
my $output = '';
my $pgbench = IPC::Run::start(
	[ 'pgbench', '-n', '-c', '4', '-T', $hold + 4, '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres' ],
	'>&', \$output);
wait_for($node, 'SELECT count(*) > 100 FROM t WHERE v = 0');
my $before = count_rows('v = 0');
sleep 1;
my $rate = count_rows('v = 0') - $before;
fence();
$before = count_rows('v = 0');
sleep $hold;
is(count_rows('v = 0'), $before, 'writers stand still');
unfence();
sleep 1;
my $after = count_rows('v = 0') - $before;
cmp_ok($after, '>', $rate / 5, "writers go on as before: $after transactions in the first second, $rate before");
$pgbench->finish;
unlike($output, qr/ERROR|abort/, 'and have seen no error');

# ---- A server with held statements can be stopped

my $last = session();
fence();
start($last, 'INSERT INTO t (v) VALUES (5000)');
wait_held(1);
$began = time;
$node->stop('fast');
cmp_ok(time - $began, '<', 20, 'a server with held statements stops');
eval { $last->quit };
$node->start;
is($node->safe_psql('postgres', 'SELECT phase FROM replica_ctl.fence()'), 'up', 'and is fenced when it is back');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
