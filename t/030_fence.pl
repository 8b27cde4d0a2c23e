# What the fence stops, what it does not, and what clients are told.

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = new_primary('fence', conf => join("\n",
	'wal_level = logical',
	'max_prepared_transactions = 10',
	'autovacuum = off',
	'wal_writer_delay = 10s',
	'replica_ctl.fence_action = error'));

$node->safe_psql('postgres', q{
	CREATE EXTENSION pg_walinspect;
	CREATE EXTENSION postgres_fdw;
	CREATE TABLE t (id serial PRIMARY KEY, v int, note text);
	INSERT INTO t (v) SELECT g FROM generate_series(1, 1000) g;
	CREATE UNLOGGED TABLE u (v int);
	CREATE SEQUENCE s;
	CREATE SEQUENCE cached CACHE 100;
	CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM t;
	CREATE ROLE somebody;
	CREATE FUNCTION write_one() RETURNS void LANGUAGE plpgsql AS
		$$BEGIN INSERT INTO t (v) VALUES (-1); END$$;
	CREATE FUNCTION write_quietly() RETURNS text LANGUAGE plpgsql AS
		$$BEGIN INSERT INTO t (v) VALUES (-1); RETURN 'written';
		EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE; END$$;
	CREATE FUNCTION next_one() RETURNS bigint LANGUAGE plpgsql AS
		$$DECLARE n bigint; BEGIN n := nextval('s'); RETURN n; END$$;
	CREATE PROCEDURE write_twice() LANGUAGE plpgsql AS
		$$BEGIN COMMIT; INSERT INTO t (v) VALUES (-1); COMMIT; END$$;
	CREATE PROCEDURE read_twice() LANGUAGE plpgsql AS
		$$BEGIN PERFORM count(*) FROM t; COMMIT; PERFORM count(*) FROM t; END$$;
	CREATE FUNCTION raise_as(bigint) RETURNS pg_lsn AS '$libdir/replica_ctl', 'rctl_test_fence_raise' LANGUAGE C;
	CREATE FUNCTION lift_as(bigint) RETURNS boolean AS '$libdir/replica_ctl', 'rctl_test_fence_lift' LANGUAGE C;
	CREATE FUNCTION promoted(bigint, text, text) RETURNS void AS '$libdir/replica_ctl', 'rctl_test_fence_promoted' LANGUAGE C;
});
$node->safe_psql('postgres', sprintf(q{
	CREATE SERVER loop FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '%s', port '%s', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER loop;
	CREATE FOREIGN TABLE foreign_t (id int, v int) SERVER loop OPTIONS (table_name 't');
}, $node->host, $node->port));
my $rows = $node->safe_psql('postgres', 'SELECT count(*) FROM t');

# Newer versions do not let a function set it at all.
my ($by_function) = $node->psql('postgres', q{
	CREATE FUNCTION write_read_write() RETURNS void LANGUAGE plpgsql SET transaction_read_only = off AS
		$$BEGIN INSERT INTO t (v) VALUES (-1); END$$});
$by_function = $by_function == 0;

# A session that stays, with all that it says about errors.
sub session
{
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	$session->query('\set VERBOSITY verbose');
	return $session;
}

# Runs in a session; returns (output, errors).
sub run
{
	my ($session, $sql) = @_;
	my $out = $session->query($sql);
	my $err = $session->{stderr};

	$session->{stderr} = '';
	return ($out, $err);
}

my $fence_error = qr/ERROR:\s+25006: cannot execute .* while this server is fenced.*DETAIL:\s+It has been fenced since .*: by the test\..*HINT:\s+Try again when the fence was lifted with SELECT replica_unfence\(\)\./s;

# One statement, in a session of its own or in the one given, is refused.
sub refused
{
	my ($name, $sql, %options) = @_;
	my $err = $options{session} ? (run($options{session}, $sql))[1] : psql_error($node, $sql);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return like($err, $options{like} // $fence_error, "refused: $name");
}

sub allowed
{
	my ($name, $sql, $expected) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $sql);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is("$rc $out$err", defined $expected ? "0 $expected" : "0 $out", "allowed: $name");
}

sub fence
{
	my ($arguments) = @_;
	return $node->safe_psql('postgres', "SELECT replica_fence(" . ($arguments // "'by the test'") . ")");
}

sub unfence
{
	return $node->safe_psql('postgres', 'SELECT replica_unfence()');
}

sub phase
{
	return $node->safe_psql('postgres', 'SELECT phase FROM replica_ctl.fence()');
}

# Sends a query without waiting for its result.
sub start
{
	my ($session, $sql) = @_;
	return $session->query_until(qr/^started$/m, "\\echo started\n$sql\n");
}

# ---- Before the fence: sessions in the middle of something

my %open;
for my $name (qw(written saved prepares reads cursor prepared plpgsql temporary read_write lo notified raised))
{
	$open{$name} = session();
}
run($open{written}, 'BEGIN; INSERT INTO t (v) VALUES (-2)');
run($open{saved}, 'BEGIN; INSERT INTO t (v) VALUES (-3); SAVEPOINT a');
run($open{prepares}, 'BEGIN; INSERT INTO t (v) VALUES (-4)');
run($open{reads}, 'BEGIN; SELECT count(*) FROM t');
run($open{cursor}, q{BEGIN; DECLARE c CURSOR FOR SELECT nextval('s') FROM generate_series(1, 10); FETCH 1 FROM c});
run($open{prepared}, 'PREPARE ins AS INSERT INTO t (v) SELECT v FROM t WHERE id < $1');
run($open{prepared}, 'EXECUTE ins(0)') for 1 .. 7;
run($open{plpgsql}, 'BEGIN; SELECT write_one(); SELECT next_one(); ROLLBACK') for 1 .. 2;
run($open{temporary}, 'CREATE TEMP TABLE mine (id serial, v int); CREATE TEMP TABLE gone (v int) ON COMMIT DELETE ROWS');
run($open{read_write}, 'SET default_transaction_read_only = off');
run($open{lo}, "BEGIN; SELECT lo_create(4711)");
run($open{notified}, "BEGIN; NOTIFY heard, 'before'");
$node->safe_psql('postgres', q{BEGIN; INSERT INTO t (v) VALUES (-5); PREPARE TRANSACTION 'before'});
$node->safe_psql('postgres', q{BEGIN; INSERT INTO t (v) VALUES (-6); PREPARE TRANSACTION 'before2'});
my $listener = session();
run($listener, 'LISTEN heard');

# ---- Raise

is(phase(), 'down', 'not fenced at first');
my $lsn = fence();
like($lsn, qr{^[0-9A-F]+/[0-9A-F]+$}, 'replica_fence returns an LSN');
is(phase(), 'up', 'fenced');
is($node->safe_psql('postgres', "SELECT pg_current_wal_flush_lsn() >= '$lsn'"), 't', 'which is flushed');
is($node->safe_psql('postgres', "SELECT reason, lsn, operation FROM replica_ctl.fence()"),
	"by the test|$lsn|", 'its state can be seen');

# ---- Statements that begin after it

refused('INSERT, by a superuser', 'INSERT INTO t (v) VALUES (-1)');
refused('UPDATE', 'UPDATE t SET v = v');
refused('DELETE', 'DELETE FROM t');
refused('MERGE', 'MERGE INTO t USING (SELECT 1 AS i) x ON t.id = x.i WHEN MATCHED THEN DELETE');
refused('INSERT in WITH', 'WITH x AS (INSERT INTO t (v) VALUES (-1) RETURNING v) SELECT * FROM x');
refused('INSERT into an unlogged table', 'INSERT INTO u VALUES (1)');
refused('INSERT into a foreign table', 'INSERT INTO foreign_t VALUES (-1, -1)');
refused('EXPLAIN ANALYZE INSERT', 'EXPLAIN ANALYZE INSERT INTO t (v) VALUES (-1)');
refused('SELECT FOR UPDATE', 'SELECT * FROM t WHERE id = 1 FOR UPDATE');
refused('SELECT FOR KEY SHARE', 'SELECT * FROM t WHERE id = 1 FOR KEY SHARE');
refused('TRUNCATE', 'TRUNCATE t');
refused('COPY FROM', "COPY t (v) FROM STDIN;\n1\n\\.\n");
refused('CREATE TABLE', 'CREATE TABLE x (i int)');
refused('CREATE TABLE AS', 'CREATE TABLE x AS SELECT 1');
refused('CREATE TEMP TABLE', 'CREATE TEMP TABLE x (i int)');
refused('SELECT INTO', 'SELECT 1 INTO x');
refused('ALTER TABLE', 'ALTER TABLE t ADD x int');
refused('DROP TABLE', 'DROP TABLE t');
refused('CREATE INDEX CONCURRENTLY', 'CREATE INDEX CONCURRENTLY ON t (v)');
refused('REFRESH MATERIALIZED VIEW', 'REFRESH MATERIALIZED VIEW m');
refused('CREATE DATABASE', 'CREATE DATABASE x');
refused('DROP DATABASE', 'DROP DATABASE template1');
refused('ALTER ROLE', 'ALTER ROLE somebody LOGIN');
refused('GRANT', 'GRANT SELECT ON t TO somebody');
refused('COMMENT', q{COMMENT ON TABLE t IS 'x'});
refused('VACUUM', 'VACUUM t');
refused('ANALYZE', 'ANALYZE t');
refused('REINDEX', 'REINDEX TABLE t');
refused('CLUSTER', 'CLUSTER t USING t_pkey');
refused('nextval', q{SELECT nextval('s')});
refused('nextval of a cached sequence', q{SELECT nextval('cached')});
refused('setval', q{SELECT setval('s', 100)});
refused('currval after nextval in plpgsql', 'SELECT next_one()');
refused('lo_create', 'SELECT lo_create(0)');
refused('lo_from_bytea', q{SELECT lo_from_bytea(0, '\x00')});
refused('lo_import, by libpq', '\lo_import /etc/passwd', like => qr/fenced/);
refused('NOTIFY', 'NOTIFY heard');
refused('pg_notify', q{SELECT pg_notify('heard', '')});
refused('plpgsql', 'SELECT write_one()');
refused('DO', 'DO $$BEGIN INSERT INTO t (v) VALUES (-1); END$$');
refused('nextval in DO', q{DO $$DECLARE n bigint; BEGIN n := nextval('s'); END$$});
refused('CALL with COMMIT', 'CALL write_twice()');
refused('EXECUTE', 'PREPARE p AS INSERT INTO t (v) VALUES (-1); EXECUTE p');
refused('SET transaction_read_only = off', 'BEGIN; SET transaction_read_only = off; INSERT INTO t (v) VALUES (-1)');
refused('BEGIN READ WRITE', 'BEGIN READ WRITE; INSERT INTO t (v) VALUES (-1)');
refused('session READ WRITE', 'SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; INSERT INTO t (v) VALUES (-1)');
refused('a function that sets transaction_read_only', 'SELECT write_read_write()', like => qr/25001/) if $by_function;
refused('set_config', q{SELECT set_config('transaction_read_only', 'off', true)}, like => qr/25001/);
refused('PREPARE TRANSACTION', q{BEGIN; SELECT 1; PREPARE TRANSACTION 'empty'});
refused('COMMIT PREPARED', q{COMMIT PREPARED 'before'});
refused('ROLLBACK PREPARED', q{ROLLBACK PREPARED 'before2'});
is($node->safe_psql('postgres', 'SELECT write_quietly()'), '25006', 'the error can be caught');

# ---- Those that were in the middle of something

refused('the next write of a transaction', 'INSERT INTO t (v) VALUES (-2)', session => $open{written});
run($open{written}, 'ROLLBACK; BEGIN');
refused('a write after a read', 'INSERT INTO t (v) VALUES (-2)', session => $open{reads});
run($open{saved}, 'ROLLBACK TO a; SELECT count(*) FROM t');
refused('the commit of a transaction that has written', 'COMMIT', session => $open{saved});
is((run($open{saved}, 'SELECT count(*) FROM t WHERE v = -3'))[0], '0', 'which is rolled back');
refused('PREPARE TRANSACTION of one that has written', q{PREPARE TRANSACTION 'after'}, session => $open{prepares});
refused('a cursor that writes', 'FETCH 5 FROM c', session => $open{cursor},
	like => qr/25006: cannot execute nextval\(\) in a read-only transaction.*HINT:\s+Try again when the fence/s);
refused('a prepared statement with a plan', 'EXECUTE ins(10)', session => $open{prepared});
refused('a planned function', 'SELECT write_one()', session => $open{plpgsql});
refused('a planned expression', 'SELECT next_one()', session => $open{plpgsql});
refused('a session that wants read-write', 'INSERT INTO t (v) VALUES (-1)', session => $open{read_write});
refused('the commit of a large object', 'COMMIT', session => $open{lo});
refused('the commit of a NOTIFY', 'COMMIT', session => $open{notified});

# ---- What goes on

allowed('SELECT', 'SELECT count(*) FROM t', $rows);
allowed('a read-only procedure with COMMIT', 'CALL read_twice()', '');
allowed('COPY TO', 'COPY (SELECT count(*) FROM t) TO STDOUT', $rows);
allowed('a cursor', 'BEGIN; DECLARE c CURSOR FOR SELECT 1; FETCH c; COMMIT', '1');
allowed('PREPARE and EXECUTE', 'PREPARE p AS SELECT 2; EXECUTE p', '2');
allowed('EXPLAIN INSERT', 'EXPLAIN (COSTS off) INSERT INTO t (v) VALUES (1)');
allowed('EXPLAIN ANALYZE SELECT', 'EXPLAIN (ANALYZE, COSTS off) SELECT 1');
allowed('LISTEN', 'LISTEN heard; UNLISTEN heard', '');
allowed('txid_current', 'SELECT txid_current() > 0', 't');
allowed('DISCARD ALL', 'DISCARD ALL', '');
allowed('CHECKPOINT', 'CHECKPOINT', '');
allowed('LOCK TABLE', 'BEGIN; LOCK TABLE u IN SHARE MODE; COMMIT', '');
allowed('an advisory lock', 'SELECT pg_advisory_lock(1) IS NOT NULL', 't');
allowed('SHOW', 'SHOW transaction_read_only; SHOW default_transaction_read_only', "on\non");
allowed('current_setting', q{SELECT current_setting('transaction_read_only')}, 'on');
allowed('a parallel query',
	q{SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SELECT count(*) FROM t},
	$rows);
allowed('a foreign table', 'SELECT count(*) FROM foreign_t', $rows);
is((run($open{temporary}, 'INSERT INTO mine (v) VALUES (1), (2); UPDATE mine SET v = 3; SELECT sum(v + id) FROM mine'))[0],
	'9', 'allowed: temporary tables');
is((run($open{temporary}, "COPY mine (v) FROM PROGRAM 'echo 5'; BEGIN; INSERT INTO gone VALUES (1); COMMIT; SELECT count(*) FROM mine"))[0],
	'3', 'allowed: COPY to a temporary table, ON COMMIT DELETE ROWS');
refused('nextval of a lasting sequence in such a session', q{SELECT nextval('s')}, session => $open{temporary},
	like => qr/25006.*HINT:\s+Try again when the fence/s);
refused('a lasting table in such a session', q{INSERT INTO t (v) SELECT v FROM mine}, session => $open{temporary});
$node->command_ok([ 'pg_dump', '-f', '/dev/null', $node->connstr('postgres') ], 'allowed: pg_dump');

# ---- Changing it

like(psql_error($node, q{SELECT replica_fence()}), qr/55006: this server is fenced already.*HINT:\s+Lift the fence with SELECT replica_unfence/s,
	'a second fence is refused');
unfence();
is(phase(), 'down', 'lifted');
is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), $rows, 'nothing was written');
is((run($open{reads}, 'ROLLBACK; BEGIN; SELECT 1'))[0], 1, 'a transaction that begins under the next fence');
fence();
run($open{reads}, 'SELECT count(*) FROM t');
unfence();
is((run($open{reads}, 'INSERT INTO t (v) VALUES (1) RETURNING v; COMMIT'))[0], '1', 'can write when it is lifted');
$node->safe_psql('postgres', q{COMMIT PREPARED 'before'; ROLLBACK PREPARED 'before2'});
is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), $rows + 2, 'prepared transactions are still there');
is((run($open{temporary}, q{SELECT nextval('s') > 0; INSERT INTO t (v) VALUES (2) RETURNING v}))[0], "t\n2",
	'sessions write as before');
my ($heard) = run($listener, 'SELECT 1');
unlike($heard, qr/Asynchronous notification/, 'no notification was sent');

like(psql_error($node, q{SELECT replica_fence(timeout => '0s')}), qr/22023: timeout must be greater than 0/,
	'a timeout of zero is refused');
like(psql_error($node, q{SELECT replica_fence(timeout => '-1s')}), qr/22023: timeout is out of range/, 'so is a negative one');
like(psql_error($node, q{SELECT replica_fence(timeout => NULL)}), qr/22004: timeout and drain must not be null/, 'and NULL');
is(phase(), 'down', 'which leaves no fence behind');
like(psql_error($node, q{BEGIN; INSERT INTO t (v) VALUES (1); SELECT replica_fence()}),
	qr/25001: cannot raise the fence in a transaction that has written/, 'a transaction that has written cannot raise it');
is(phase(), 'down', 'which leaves none either');
refused('the session that raised it, whatever fence_action says',
	q{SET replica_ctl.fence_action = hold; SELECT replica_fence('by the test'); INSERT INTO t (v) VALUES (-1)});
is(phase(), 'up', 'it outlives its session');
$node->safe_psql('postgres', 'BEGIN; SELECT replica_unfence(); ROLLBACK');
is(phase(), 'down', 'ROLLBACK does not undo replica_unfence');
my ($rc, $out, $err) = $node->psql('postgres', 'SELECT replica_unfence()');
like("$rc $err", qr/^0 .*NOTICE:  this server is not fenced/, 'replica_unfence without a fence says so');
for my $call ('replica_fence()', 'replica_unfence()')
{
	like(psql_error($node, "SET ROLE somebody; SELECT $call"), qr/42501: permission denied/, "$call is not for everybody");
}

# ---- An operation's fence, and a promotion

$lsn = $node->safe_psql('postgres', 'SELECT raise_as(7)');
like(psql_error($node, 'SELECT lift_as(8)'), qr/55006: the fence does not belong to operation 8/, 'an operation keeps its fence');
is($node->safe_psql('postgres', "SELECT raise_as(7) > '$lsn'"), 't', 'it may raise it again, and gets a new LSN');
is($node->safe_psql('postgres', 'SELECT lift_as(7), lift_as(7)'), 't|f', 'it lifts it once');
$node->safe_psql('postgres', 'SELECT raise_as(7)');
$node->safe_psql('postgres', q{SELECT promoted(7, 'r1', 'db2:5433')});
is($node->safe_psql('postgres', 'SELECT phase, replica, endpoint, promoted_timeline, promoted_lsn FROM replica_ctl.fence()'),
	'promoted|r1|db2:5433|2|0/2A', 'after a promotion');
refused('INSERT after a promotion, at once even with hold', q{SET replica_ctl.fence_action = hold; INSERT INTO t (v) VALUES (-1)},
	like => qr/25006: cannot execute INSERT: replica "r1" was promoted in place of this server.*HINT:\s+Connect to the new primary at db2:5433\./s);
like(($node->psql('postgres', 'SELECT replica_unfence()'))[2],
	qr/WARNING:  replica "r1" was promoted in place of this server, and both accept writes now/,
	'replica_unfence says what it does');
$node->safe_psql('postgres', 'INSERT INTO t (v) VALUES (3)');
is(phase(), 'down', 'and does it');

# ---- Commits in flight: none after the LSN, none lost, none failed

my $bench = $node->basedir . '/bench.sql';
append_to_file($bench, "INSERT INTO t (v) VALUES (0);\n");
my ($bench_out, $bench_err) = ('', '');
my $pgbench = IPC::Run::start(
	[ 'pgbench', '-n', '-c', '4', '-T', '60', '-f', $bench, '-h', $node->host, '-p', $node->port, 'postgres' ],
	'>', \$bench_out, '2>', \$bench_err,
	init => sub { $ENV{PGOPTIONS} = '-c replica_ctl.fence_action=hold' });
wait_for($node, 'SELECT count(*) > 500 FROM t WHERE v = 0');
my $grown = 0;
my $commits = 0;
for my $round (1 .. 30)
{
	my $result = $node->safe_psql('postgres', q{
		SELECT replica_fence('by the test') AS lsn \gset
		SELECT count(*) AS before FROM t \gset
		SELECT pg_sleep(0.02) \g /dev/null
		SELECT count(*) - :before, :'lsn', pg_current_wal_insert_lsn(), replica_unfence() FROM t;
	});
	my ($rows, $from, $to) = split /\|/, $result;

	$grown += $rows;
	wait_for($node, "SELECT pg_current_wal_flush_lsn() > '$to'");
	$commits += $node->safe_psql('postgres', qq{
		SELECT count(*) FROM pg_get_wal_records_info('$from', '$to')
		WHERE resource_manager = 'Transaction' AND record_type LIKE 'COMMIT%'}) if $from ne $to;
}
is($commits, 0, 'no commit record follows the LSN of the fence');
is($grown, 0, 'no row appears after it');
my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM t WHERE v = 0');
wait_for($node, "SELECT count(*) > $before + 500 FROM t WHERE v = 0");
pass('the writers go on');
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'INSERT INTO t (v) VALUES (0)%'});
$pgbench->finish;
unlike($bench_err, qr/fenced|read-only/, 'no writer got an error');

# ---- Asynchronous commits are in it

$lsn = $node->safe_psql('postgres', q{SET synchronous_commit = off; INSERT INTO t (v) VALUES (-7);
	SELECT pg_current_wal_insert_lsn()});
my $fenced_at = fence();
is($node->safe_psql('postgres', "SELECT '$lsn' <= '$fenced_at'::pg_lsn AND pg_current_wal_flush_lsn() >= '$fenced_at'"), 't',
	'an asynchronous commit before the fence is flushed');
unfence();

# ---- Commits that wait for a synchronous standby that is dead

my %waits = (
	'a commit' => [ '', 'INSERT INTO t (v) VALUES (-8);' ],
	'PREPARE TRANSACTION' => [ '', q{BEGIN; INSERT INTO t (v) VALUES (-8); PREPARE TRANSACTION 'waits';} ],
	'COMMIT PREPARED' => [ q{BEGIN; INSERT INTO t (v) VALUES (-8); PREPARE TRANSACTION 'waits2'}, q{COMMIT PREPARED 'waits2';} ]);
for my $what (sort keys %waits)
{
	my ($before, $sql) = @{ $waits{$what} };
	my $session = session();

	$node->safe_psql('postgres', $before) if $before;
	$node->append_conf('postgresql.conf', q{synchronous_standby_names = 'dead'});
	$node->reload;
	wait_for($node, q{SELECT setting = 'dead' FROM pg_settings WHERE name = 'synchronous_standby_names'});
	start($session, $sql);
	wait_for($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'});
	my $begin = time;
	is($node->safe_psql('postgres', q{SELECT replica_fence('by the test', '10s') >= pg_current_wal_flush_lsn() - 1000000}),
		't', "$what that waits for a dead synchronous standby does not delay the fence");
	cmp_ok(time - $begin, '<', 5, 'at all');
	$node->append_conf('postgresql.conf', q{synchronous_standby_names = ''});
	$node->reload;
	$session->query('SELECT 1');
	is($session->{stderr}, '', 'and succeeds');
	$session->quit;
	unfence();
}
is($node->safe_psql('postgres', q{ROLLBACK PREPARED 'waits'; SELECT count(*) FROM t WHERE v = -8}), '2', 'all of them');

# Who sends a notification holds, until its commit is over, a lock that others
# need at theirs.  NOTIFY waits for it before it is in the act of committing; a
# trigger in C that notifies is met by nobody, so that it counts as committing.
$node->safe_psql('postgres', q{
	CREATE EXTENSION tcn;
	CREATE TABLE notifies (id int PRIMARY KEY);
	CREATE TRIGGER notifies AFTER INSERT ON notifies FOR EACH ROW EXECUTE FUNCTION triggered_change_notification();
});
my ($first, $second, $third) = (session(), session(), session());
my $third_pid = (run($third, 'SELECT pg_backend_pid()'))[0];
$node->append_conf('postgresql.conf', q{synchronous_standby_names = 'dead'});
$node->reload;
wait_for($node, q{SELECT setting = 'dead' FROM pg_settings WHERE name = 'synchronous_standby_names'});
start($first, 'BEGIN; INSERT INTO t (v) VALUES (-9); NOTIFY heard; COMMIT;');
wait_for($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'});
start($second, 'NOTIFY heard;');
wait_for($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'});
$node->safe_psql('postgres', q{SELECT replica_fence('by the test', '5s'), replica_unfence()});
pass('a NOTIFY behind one that waits for a dead standby does not delay the fence');
start($third, 'INSERT INTO notifies VALUES (1);');
wait_for($node, q{SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event_type = 'Lock'});
like(psql_error($node, q{SELECT replica_fence('by the test', '500ms')}),
	qr/57014: could not raise the fence in time.*waiting for the commit of process $third_pid\./s,
	'a commit that has not written its record yet is waited for');
$node->append_conf('postgresql.conf', q{synchronous_standby_names = ''});
$node->reload;
is((run($_, 'SELECT 1'))[1] =~ s/.*QUERY_SEPARATOR.*\n?//r, '', 'and succeeds') for $first, $second, $third;
$_->quit for $first, $second, $third;

# ---- What clients are told

my $read_write = 'target_session_attrs=read-write ' . $node->connstr('postgres');
$node->command_ok([ 'psql', '-XAtc', 'SELECT 1', $read_write ], 'libpq finds a read-write server');

# The values of default_transaction_read_only that the server reports after a message.
my $socket;
sub reports
{
	my ($message) = @_;
	my @values;

	$socket->send($message);
	while (1)
	{
		my ($head, $body) = ('', '');
		$socket->read($head, 5) == 5 or die "connection lost\n";
		my ($type, $length) = unpack('aN', $head);
		$socket->read($body, $length - 4) if $length > 4;
		my ($name, $value) = split /\0/, $body;
		push @values, $value if $type eq 'S' && $name eq 'default_transaction_read_only';
		return join(',', @values) if $type eq 'Z';
	}
}

sub query
{
	my ($sql) = @_;
	return reports(pack('aNZ*', 'Q', length($sql) + 5, $sql));
}

my $user = getpwuid($<);
my $startup = pack('N', 196608) . "user\0$user\0database\0postgres\0\0";
$startup = pack('N', length($startup) + 4) . $startup;
$socket = $node->raw_connect;
is(reports($startup), 'off', 'a connection is told that it can write');
fence();
is(query('SELECT 1'), 'on', 'with its next answer it is told that it cannot');
is(query('SELECT 1'), '', 'once');
unfence();
is(query('SELECT 1'), 'off', 'then that it can again');
fence();
$socket = $node->raw_connect;
is(reports($startup), 'on', 'a new connection is told at once');
$node->command_fails_like([ 'psql', '-XAtc', 'SELECT 1', $read_write ], qr/session is read-only/, 'libpq skips this server');
is(query('BEGIN; SELECT 1'), '', 'nothing new');
unfence();
is(query('SELECT 1; COMMIT'), 'off', 'even in a transaction');
is($node->safe_psql('postgres', q{SELECT source, setting FROM pg_settings WHERE name = 'default_transaction_read_only'}),
	'default|off', 'the setting itself is as it was');
$socket->close;

$_->quit for values %open, $listener;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
