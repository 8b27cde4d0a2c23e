# What a call checks, and what a transaction means to it: names, rights,
# servers, isolation levels, places where it cannot work.

use strict;
use warnings;
use JSON::PP;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use utf8;
use Encode qw(encode_utf8);

my $node = new_primary('calls', conf => "replica_ctl.max_operations = 8\nreplica_ctl.step_retries = 1");
mock_server($node);

sub sql { return $node->safe_psql('postgres', $_[0]) }

# --------------------------------------------------------------------------
note 'transactions';
# --------------------------------------------------------------------------
sql(q{BEGIN; SELECT replica_create('t1', 'mock'); ROLLBACK;
	BEGIN; SAVEPOINT s; SELECT replica_create('t2', 'mock'); ROLLBACK TO s; COMMIT});
sleep 0.5;
is(sql('SELECT (SELECT count(*) FROM replica_operations), (SELECT count(*) FROM replica_status), (SELECT count(*) FROM replica_events)'),
	'0|0|0', 'after ROLLBACK it never happened');
is(mock_files($node), '', 'nor did anything outside');

my $error = psql_error($node, q{BEGIN; SELECT replica_create('t3', 'mock'); SELECT replica_wait('t3')});
like($error, qr/ERROR:  55000: operation (\d+) cannot go on before this transaction commits\n.*HINT:  .*replica_operation_wait\(\g1\)/s,
	'waiting in the same transaction is refused');
like(psql_error($node, q{SELECT replica_operation_wait(op) FROM (SELECT replica_create('t4', 'mock') AS op) s}),
	qr/ERROR:  55000: /, 'in the same statement too');
like(psql_error($node, q{BEGIN READ ONLY; SELECT replica_create('t5', 'mock')}), qr/ERROR:  25006: /, 'a read-only transaction');
like(psql_error($node, q{BEGIN; SELECT replica_create('t6', 'mock'); PREPARE TRANSACTION 'x'}), qr/ERROR:  /, 'a prepared transaction');

# An operation that is queued after the snapshot was taken, and ends.
for my $level ('REPEATABLE READ', 'SERIALIZABLE', 'READ COMMITTED')
{
	my $session = $node->background_psql('postgres');
	$session->query_safe("BEGIN ISOLATION LEVEL $level, READ ONLY; SELECT count(*) FROM replica_operations");
	my $op = sql(qq{SELECT replica_create('$level', 'mock', '{"duration_ms": 300}')});
	my $begin = time;
	is($session->query_safe("SELECT replica_wait('$level', '10s')"), 'succeeded', "waiting under $level");
	cmp_ok(time - $begin, '<', 5, 'sees it end');
	is($session->query_safe("SELECT replica_operation_wait($op)"), 'succeeded', 'by its number too');
	$session->query_safe('COMMIT');
	$session->quit;
}

# Cancel from a transaction that may not write, while it runs.
my $op = sql(q{SELECT replica_create('read only cancel', 'mock', '{"fault": "create.copy.after=stall"}')});
wait_for($node, "SELECT state = 'running' AND step = 'copy' FROM replica_operations WHERE operation = $op");
is(sql("BEGIN READ ONLY; SELECT replica_cancel($op); COMMIT"), 't', 'a running operation is cancelled by a read-only transaction');
is(sql("SELECT replica_operation_wait($op)"), 'cancelled', 'at once');

# Two sessions, one name
{
	my ($first, $second) = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 2;
	for my $end ('COMMIT', 'ROLLBACK')
	{
		$first->query_safe("BEGIN; SELECT replica_create('race $end', 'mock')");
		$second->query_until(qr/started/, "\\echo started\n\\set VERBOSITY verbose\nSELECT replica_create('race $end', 'mock');\n");
		wait_for($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%race $end%'");
		$first->query_safe($end);
		my $out = $second->query('SELECT 1');
		my $err = $second->{stderr};
		$second->{stderr} = '';
		if ($end eq 'COMMIT')
		{
			like($err, qr/ERROR:  42710: replica "race COMMIT" already exists\n.*HINT:  .*replica_drop\('race COMMIT'\)/s,
				'the second of two who create waits, and is refused');
		}
		else
		{
			is($err, '', 'or goes on when the first gives up');
		}
		is(sql("SELECT replica_wait('race $end')"), 'succeeded', 'and one replica is made');
		is(sql("SELECT count(*) FROM replica_operations WHERE replica = 'race $end'"), '1', 'by one operation');
	}

	# Two operations on one replica, the first invisible to the second's snapshot
	$second->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM replica_status');
	set_fault($node, 'repair.look.before=stall');
	my $repair = sql("SELECT replica_repair('race COMMIT')");
	$second->query("SELECT replica_repair('race COMMIT')");
	like($second->{stderr}, qr/ERROR:  40001: /, 'a serialization failure under REPEATABLE READ');
	like(psql_error($node, "SELECT replica_repair('race COMMIT')"),
		qr/ERROR:  55006: operation $repair is running on replica "race COMMIT"\n.*HINT:  .*replica_wait\('race COMMIT'\).*replica_cancel\($repair\)/s,
		'object in use under READ COMMITTED');
	like(psql_error($node, "SELECT replica_drop('race COMMIT')"), qr/ERROR:  55006: /, 'for a drop too');
	sql("SELECT replica_cancel($repair)");
	set_fault($node, '');
	is(sql("SELECT replica_operation_wait($repair)"), 'cancelled', 'until it is cancelled');
	$_->quit for $first, $second;
}

# A dead synchronous standby
{
	my $setting = "SELECT current_setting('synchronous_commit')";
	is(sql("BEGIN; SELECT replica_create('sync', 'mock') > 0; $setting; ROLLBACK"), "t\nlocal", 'a call does not wait for synchronous standbys');
	is(sql("BEGIN; SELECT txid_current() > 0; SELECT replica_create('sync', 'mock') > 0; $setting; ROLLBACK"), "t\nt\non",
		'what was written before it does');
	sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
	$node->reload;
	wait_for($node, "SELECT current_setting('synchronous_standby_names') = 'nobody'");
	sql("SELECT replica_create('sync', 'mock')");
	is(sql("SELECT replica_wait('sync', '10s')"), 'succeeded', 'with a dead one a replica is made');
	sql("SELECT replica_drop('sync')");
	is(sql("SELECT replica_wait('sync', '10s')"), 'succeeded', 'and dropped');
	sql("SET synchronous_commit = local; ALTER SYSTEM RESET synchronous_standby_names");
	$node->reload;
	wait_for($node, "SELECT current_setting('synchronous_standby_names') = ''");
}

# --------------------------------------------------------------------------
note 'names';
# --------------------------------------------------------------------------
my $long = 'x' x 63;
for my $name ("it's", 'say "hello"', 'two words', ' blanks ', $long, 'größe', 'реплика', '日本', 'a;b', '../up', '$(rm)', '-f', '%s%n', '\\', '.')
{
	my $quoted = "'" . encode_utf8($name =~ s/'/''/gr) . "'";
	$quoted = "E$quoted" =~ s/\\/\\\\/gr if $name =~ /\\/;
	sql("SELECT replica_create($quoted, 'mock')");
	is(sql("SELECT replica_wait($quoted)"), 'succeeded', encode_utf8("create $name"));
	is(sql("SELECT replica FROM replica_status WHERE replica = $quoted"), encode_utf8($name), 'by that name');
	sql("SELECT replica_drop($quoted)");
	is(sql("SELECT replica_wait($quoted)"), 'succeeded', 'and drop');
}
like(psql_error($node, "SELECT replica_create('', 'mock')"), qr/ERROR:  42602: replica name must not be empty/, 'an empty name');
like(psql_error($node, "SELECT replica_create(E'a\\nb', 'mock')"), qr/ERROR:  42602: replica name must not contain control characters/, 'a name of two lines');
like(psql_error($node, "SELECT replica_create(E'\\x7f', 'mock')"), qr/ERROR:  42602: /, 'a name with DEL');

# --------------------------------------------------------------------------
note 'rights';
# --------------------------------------------------------------------------
sql(q{CREATE ROLE nobody_special LOGIN; CREATE ROLE maker LOGIN; CREATE ROLE other LOGIN; CREATE ROLE runner LOGIN;
	GRANT EXECUTE ON FUNCTION replica_create, replica_drop, replica_repair, replica_cancel, replica_wait, replica_operation_wait TO maker, other, runner;
	GRANT pg_execute_server_program TO runner;
	GRANT USAGE ON FOREIGN SERVER local TO maker, runner;
	GRANT USAGE ON FOREIGN SERVER mock TO maker;
	GRANT pg_monitor TO maker});

sub as
{
	my ($role, $query) = @_;
	return psql_error($node, $query, extra_params => [ '-U', $role ]);
}
like(as('nobody_special', "SELECT replica_create('n', 'mock')"), qr/ERROR:  42501: permission denied for function replica_create/, 'no EXECUTE');
like(as('nobody_special', 'SELECT * FROM replica_status'), qr/ERROR:  42501: /, 'no SELECT on a view');
like(as('nobody_special', 'SELECT * FROM replica_ctl.replica'), qr/ERROR:  42501: /, 'nor on a table');
like(as('maker', 'SELECT * FROM replica_ctl.replica'), qr/ERROR:  42501: /, 'tables are for nobody');
like(as('other', "SELECT replica_create('n', 'mock')"), qr/ERROR:  42501: permission denied for foreign server mock/, 'no USAGE on the server');
like(as('maker', "SELECT replica_create('n')"),
	qr/ERROR:  42501: permission denied to run programs for server "local"\nDETAIL:  .*\nHINT:  GRANT pg_execute_server_program TO maker\./,
	'a provider that runs programs needs pg_execute_server_program');
like(as('runner', q{SELECT replica_create('n', 'local', '{"port": 0}')}), qr/ERROR:  22023: /, 'with it the options are looked at');
like(as('maker', "SELECT replica_create('n', 'nowhere')"), qr/ERROR:  42704: server "nowhere" does not exist\n.*HINT:  .*CREATE SERVER/s, 'no such server');
sql('CREATE FOREIGN DATA WRAPPER stranger; CREATE SERVER strange FOREIGN DATA WRAPPER stranger');
like(as('maker', "SELECT replica_create('n', 'strange')"), qr/ERROR:  42809: server "strange" is not a replica_ctl server\n.*HINT:/s, 'not our server');

my $maker = sub { return $node->safe_psql('postgres', $_[0], extra_params => [ '-U', 'maker' ]) };
$op = $maker->(q{SELECT replica_create('made', 'mock', '{"fault": "create.copy.after=stall*1"}')});
is(sql("SELECT requested_by, (SELECT actor FROM replica_events WHERE operation = $op LIMIT 1) FROM replica_operations WHERE operation = $op"),
	'maker|maker', 'it is known who asked');
like(as('other', "SELECT replica_cancel($op)"), qr/ERROR:  42501: permission denied for foreign server mock/, 'somebody else cannot cancel it');
is(sql("SELECT state FROM replica_operations WHERE operation = $op"), 'running', 'nor does it');
sql('REVOKE USAGE ON FOREIGN SERVER mock FROM maker');
is($maker->("SELECT replica_cancel($op)"), 't', 'who asked can, even without the right to ask again');
is($maker->("SELECT replica_operation_wait($op)"), 'cancelled', 'and wait');
like(as('maker', "SELECT replica_drop('race COMMIT')"), qr/ERROR:  42501: permission denied for foreign server mock/, 'a drop needs the server as well');
sql('GRANT USAGE ON FOREIGN SERVER mock TO maker');

# SET ROLE and SECURITY DEFINER: the rights that are checked are those that are used
$op = sql("SET ROLE maker; SELECT replica_create('by role', 'mock')");
is(sql("SELECT requested_by, (SELECT actor FROM replica_events WHERE operation = $op LIMIT 1) = session_user FROM replica_operations WHERE operation = $op"),
	'maker|t', 'SET ROLE: asked by the role, as an act of the user');
sql(q{SET ROLE maker; SELECT replica_wait('by role')});
sql(q{GRANT CREATE ON SCHEMA public TO maker; SET ROLE maker;
	CREATE FUNCTION make(name) RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = public AS $$ SELECT replica_create($1, 'mock') $$});
$op = $node->safe_psql('postgres', "SELECT make('definer')", extra_params => [ '-U', 'other' ]);
is(sql("SELECT requested_by FROM replica_operations WHERE operation = $op"), 'maker', 'SECURITY DEFINER: asked by its owner');
is(sql("SELECT replica_operation_wait($op)"), 'succeeded', 'and done');
is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'maker'}), '0', 'sessions end');

# An error in the bracket of the registry leaves the session as it was.
is(sql(q{SET ROLE maker;
	DO $$ BEGIN PERFORM replica_create('race COMMIT', 'mock'); EXCEPTION WHEN duplicate_object THEN NULL; END $$;
	DO $$ BEGIN PERFORM replica_create('x', 'mock', '{"fault": 1, "wrong": 2}'); EXCEPTION WHEN OTHERS THEN NULL; END $$;
	DO $$ BEGIN PERFORM replica_repair('nobody'); EXCEPTION WHEN undefined_object THEN NULL; END $$;
	SELECT current_user, current_setting('search_path')}), 'maker|"$user", public', 'user and search_path survive errors');
sql(q{CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
	CREATE TRIGGER fail BEFORE INSERT ON replica_ctl.event FOR EACH ROW EXECUTE FUNCTION fail()});
is(sql(q{SET ROLE maker;
	DO $$ BEGIN PERFORM replica_create('trouble', 'mock'); EXCEPTION WHEN raise_exception THEN NULL; END $$;
	SELECT current_user, current_setting('search_path'), current_setting('is_superuser')}), 'maker|"$user", public|off', 'errors inside it too');
sql('DROP TRIGGER fail ON replica_ctl.event; DROP FUNCTION fail()');
is(sql("SELECT count(*) FROM replica_operations WHERE replica = 'trouble'"), '0', 'of which nothing is left');

# A better match in the caller's search_path is not taken, nor one in the
# schema that the extension is created in.
my $evil = q{
	CREATE FUNCTION regexp_replace(name, text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'evil'; END $$;
	CREATE FUNCTION evil(bigint, double precision) RETURNS double precision LANGUAGE plpgsql AS $$ BEGIN RAISE 'evil'; END $$;
	CREATE FUNCTION evil(double precision, integer) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'evil'; END $$;
	CREATE FUNCTION evil(double precision, numeric) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'evil'; END $$;
	CREATE OPERATOR / (LEFTARG = bigint, RIGHTARG = double precision, FUNCTION = evil);
	CREATE OPERATOR > (LEFTARG = double precision, RIGHTARG = integer, FUNCTION = evil);
	CREATE OPERATOR > (LEFTARG = double precision, RIGHTARG = numeric, FUNCTION = evil);
};
$node->safe_psql('postgres', 'CREATE DATABASE evil');
$node->safe_psql('evil', "$evil CREATE EXTENSION replica_ctl SCHEMA public");
is($node->safe_psql('evil', q{
	SELECT pg_describe_object(d.refclassid, d.refobjid, 0) || ' in ' || c.relname
	FROM pg_depend d JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid JOIN pg_class c ON c.oid = r.ev_class
	WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
		AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = d.refclassid AND e.objid = d.refobjid AND e.deptype = 'e')
		AND c.relname LIKE 'replica%'}), '', 'views use no function or operator of the schema that they stand in');
sql("CREATE SCHEMA evil; SET search_path = evil; $evil");
is(sql(q{SET search_path = evil, pg_catalog, public;
	SELECT replica_create('searched', 'mock') AS op \gset
	SELECT replica_operation_wait(:op)}), 'succeeded', 'nor do calls use those of the caller');

# --------------------------------------------------------------------------
note 'places where it cannot work';
# --------------------------------------------------------------------------
$error = psql_error($node, "SELECT replica_create('e', 'local')", dbname => 'evil');
like($error, qr/ERROR:  55000: replica_ctl works in database "postgres", not in this one\n.*HINT:  .*replica_ctl\.database = 'evil'/s, 'another database');

$node->backup('standby');
my $standby = PostgreSQL::Test::Cluster->new('calls_standby');
$standby->init_from_backup($node, 'standby', has_streaming => 1);
$standby->start;
for my $call ("replica_create('s')", "replica_drop('definer')", "replica_wait('definer')", "replica_operation_wait(1)", 'replica_cancel(1)', 'replica_claim()')
{
	like(psql_error($standby, "SELECT $call"), qr/ERROR:  25006: this server is a standby\n.*HINT:  /s, "$call on a standby");
}
is($standby->safe_psql('postgres', "SELECT count(*) FROM replica_operations WHERE state = 'succeeded'"),
	sql("SELECT count(*) FROM replica_operations WHERE state = 'succeeded'"), 'its views can be read');
$standby->safe_psql('postgres', "SELECT * FROM $_") for qw(replica_status replica_events replica_lag);
is($standby->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'replica_ctl%'"), '0',
	'and no worker of ours runs there');
$standby->stop;

my $bare = new_primary('bare', extension => 0, start => 0);
$bare->append_conf('postgresql.conf', "shared_preload_libraries = ''");
my $conf = slurp_file($bare->data_dir . '/postgresql.conf');
$conf =~ s/^replica_ctl\..*\n//mg;
open my $out, '>', $bare->data_dir . '/postgresql.conf' or die;
print $out $conf;
close $out;
$bare->start;
$bare->safe_psql('postgres', 'CREATE EXTENSION replica_ctl');
$error = psql_error($bare, "SELECT replica_create('b')");
like($error, qr/ERROR:  55000: replica_ctl must be loaded via shared_preload_libraries\n.*HINT:  Run ALTER SYSTEM SET shared_preload_libraries = 'replica_ctl' and restart the server\./s,
	'without shared_preload_libraries');
for my $view (qw(replica_status replica_operations replica_events replica_lag))
{
	my ($rc, undef, $err) = $bare->psql('postgres', "SELECT * FROM $view");
	is("$rc$err", '0', "$view can be read all the same");
}
$bare->append_conf('postgresql.conf', "shared_preload_libraries = 'auto_explain'");
$bare->restart;
like(psql_error($bare, "SELECT replica_create('b')"), qr/HINT:  Add replica_ctl to shared_preload_libraries, which is now "auto_explain", and restart the server\./,
	'the hint keeps what is loaded');
$bare->stop;

is(sql('SELECT count(*) FROM replica_ctl.cleanup'), '0', 'nothing is left behind');
$node->stop;
done_testing();
