# src/net/: child processes, connections, maps and texts, called from an
# ordinary backend by the functions of t/module.

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use Cwd;
use IO::Socket::INET;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

system_or_bail('make', '-s', '-C', 't/module', "PG_CONFIG=$ENV{PG_CONFIG}", 'clean', 'all');

# What a service manager and a careless administrator leave to the server.
my $node = PostgreSQL::Test::Cluster->new('net');
$node->init(allows_streaming => 1, extra => [ '--encoding=UTF8', '--locale=C' ]);
$node->append_conf('postgresql.conf', "restart_after_crash = on\nlog_statement = none\n");
unlink $node->data_dir . '/pg_hba.conf';
$node->append_conf('pg_hba.conf', "local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 scram-sha-256");
$node->append_conf('postgresql.conf', "listen_addresses = '127.0.0.1'\n");
{
	local @ENV{qw(NOTIFY_SOCKET PGDATA PGPASSWORD PGOPTIONS LD_PRELOAD_X)} =
	  ('/run/notify', '/nowhere', 'env-secret', '-c work_mem=1MB', 'x');
	local $ENV{TZ} = 'Asia/Tokyo';
	$node->start;
}
my $library = getcwd() . '/t/module/rctl_test_net';
my $socket = 'host=' . $node->host . ' port=' . $node->port . ' dbname=postgres';
my $spec = 'argv text[], env text[] = NULL, input text = NULL, output_file text = NULL, directory text = NULL';

$node->safe_psql('postgres', qq{
	CREATE FUNCTION process($spec, timeout_ms int = 0, tick_ms int = 0, fail_at_tick int = 0,
		OUT result text, OUT output text, OUT errors text, OUT ticks int) AS '$library', 'rctl_test_process' LANGUAGE C;
	CREATE FUNCTION abandon($spec, owner text = 'statement') RETURNS void
		AS '$library', 'rctl_test_process_abandon' LANGUAGE C;
	CREATE FUNCTION exec(conninfo text, sql text[], params text[] = NULL, timeout_ms int = 20000)
		RETURNS text AS '$library', 'rctl_test_exec' LANGUAGE C;
	CREATE FUNCTION growth(conninfo text, rounds int) RETURNS bigint AS '$library', 'rctl_test_growth' LANGUAGE C;
	CREATE FUNCTION exec_after_error(conninfo text, sql text, timeout_ms int)
		RETURNS text AS '$library', 'rctl_test_exec_after_error' LANGUAGE C;
	CREATE FUNCTION try_connect(conninfo text, timeout_ms int) RETURNS text
		AS '$library', 'rctl_test_try_connect' LANGUAGE C;
	CREATE FUNCTION conninfo(keywords text[], vals text[]) RETURNS text AS '$library', 'rctl_test_conninfo' LANGUAGE C;
	CREATE FUNCTION redact(text) RETURNS text AS '$library', 'rctl_test_redact' LANGUAGE C;
	CREATE FUNCTION last_lines(text, int) RETURNS text AS '$library', 'rctl_test_last_lines' LANGUAGE C;
	CREATE FUNCTION map(jsonb) RETURNS text AS '$library', 'rctl_test_map' LANGUAGE C;
	CREATE FUNCTION map_json(text) RETURNS text AS '$library', 'rctl_test_map_json' LANGUAGE C;
	CREATE DATABASE other;
	CREATE ROLE tester LOGIN PASSWORD 'right-password';
});

test_exit();
test_streams();
test_surroundings();
test_timeout();
test_interrupts();
test_connect();
test_statements();
test_leaks();
test_texts();
test_maps();
test_kill();

done_testing();

# Nothing of a test that failed may be in the way of the next one.
END
{
	local $?;
	kill 'KILL', map { running("NAP$_") } '01' .. '33';
}

sub query { return $node->safe_psql('postgres', naps($_[0])) }

sub error_of { return psql_error($node, naps($_[0])) }

# NAP21 in a text means: a number of seconds that only this test sleeps for.
# So a process is found by its arguments, also if other tests run.
sub naps { return $_[0] =~ s/\bNAP(\d\d)\b/'100.' . $$ . $1/gre }

# Pids of processes that have the text as an argument.
sub running
{
	my $marker = naps($_[0]);
	my @pids;

	for my $file (glob '/proc/[0-9]*/cmdline')
	{
		my ($pid) = $file =~ m{(\d+)/};
		open my $in, '<', $file or next;
		my $command = do { local $/; <$in> } // '';
		push @pids, $pid if $pid != $$ && $command =~ /\x{0}\Q$marker\E\x{0}/;
	}
	return @pids;
}

sub gone_ok
{
	my ($marker, $name, $timeout) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok(eval { wait_until(sub { !running($marker) }, $marker, $timeout // 3) }, $name);
	return;
}

# Starts psql with a statement in the background; returns its handle and
# what it will have said.
sub start_psql
{
	my ($sql) = @_;
	my $error = '';
	my $handle = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $socket, '-v', 'VERBOSITY=verbose', '-c', naps($sql) ],
		'<', \'', '>', \my $out, '2>', \$error);

	return ($handle, \$error);
}

sub backend_pid
{
	my ($marker) = @_;

	return query("SELECT pid FROM pg_stat_activity WHERE query LIKE '%$marker%' AND pid <> pg_backend_pid()");
}

sub test_exit
{
	is(query(q{SELECT result FROM process('{/bin/true}')}), 'exited with code 0', 'exit code 0');
	is(query(q{SELECT result FROM process('{/bin/sh,-c,exit 3}')}), 'exited with code 3', 'exit code 3');
	is(query(q{SELECT result FROM process('{/bin/sh,-c,kill -9 $$}')}),
		'was ended by signal 9: Killed', 'a signal');

	like(error_of(q{SELECT process('{/nonexistent/program}')}),
		qr/58P01: could not execute program "\/nonexistent\/program": No such file or directory/,
		'a program that does not exist');
	like(error_of(q{SELECT process('{/etc/passwd}')}),
		qr/42501: could not execute program "\/etc\/passwd": Permission denied/,
		'a program that cannot be executed');
	like(error_of(q{SELECT process('{/bin/true}', directory => '/nonexistent')}),
		qr/58P01: could not change to directory "\/nonexistent" for program "\/bin\/true": No such file/,
		'a directory that does not exist');
	like(error_of(q{SELECT process('{/bin/true}', output_file => '/nonexistent/file')}),
		qr/58P01: could not open file "\/nonexistent\/file" for program/, 'an output file that cannot be opened');
	like(error_of(q{SELECT process('{true}')}), qr/absolute path/, 'a relative path');

	is(query(q{SELECT output FROM process(ARRAY['/usr/bin/printf', '%s|', '$HOME;`id`', 'a b', '', '*'])}),
		'$HOME;`id`|a b||*|', 'no shell sees the arguments');
	return;
}

sub test_streams
{
	my $perl = '/usr/bin/perl';
	my $both = q{for (1 .. 1000) { print "o" x 999, "\n"; print STDERR "e" x 999, "\n" } print "last o"; print STDERR "last e"};

	is(query(qq{SELECT result, length(output), right(output, 8), length(errors), right(errors, 8)
			FROM process(ARRAY['$perl', '-e', \$perl\$$both\$perl\$], timeout_ms => 20000)}),
		"exited with code 0|65536|o\nlast o|65536|e\nlast e",
		'the last 64 kB of 1 MB on each of two streams');

	is(query(q{SELECT output, errors FROM process('{/bin/cat}', input => E'one\ntwo')}), "one\ntwo|", 'input');
	is(query(q{SELECT output = '' FROM process('{/bin/cat}')}), 't', 'no input is an empty one');
	is(query(q{SELECT length(output), right(output, 3) FROM process('{/bin/cat}',
			input => repeat('x', 1000000) || 'end', timeout_ms => 20000)}),
		'65536|end', '1 MB there and back');
	is(query(q{SELECT result FROM process('{/bin/true}', input => repeat('x', 1000000), timeout_ms => 20000)}),
		'exited with code 0', 'input that nobody reads');

	is(query(qq{SELECT output FROM process(ARRAY['$perl', '-e', 'print "a\\x00b\\xffc\\xc3\\xa9d\\xe2\\x82"'])}),
		"a?b?c\x{c3}\x{a9}d??", 'output becomes valid in the encoding of the database');

	my $file = $node->basedir . '/output';
	query(qq{SELECT process('{/bin/sh,-c,echo out; echo err >&2}', output_file => '$file') FROM generate_series(1, 2)});
	is(slurp_file($file), "out\nerr\nout\nerr\n", 'an output file is appended to');
	is((stat $file)[2] & 0777, 0600, 'nobody else can read it');

	# The shell has exited; what it left behind holds its output.
	my $start = time;
	is(query(q{SELECT output, result FROM process('{/bin/sh,-c,echo started; exec setsid sleep NAP01 & exit 0}')}),
		"started\n|exited with code 0", 'a daemon that keeps the pipe open');
	cmp_ok(time - $start, '<', 10, 'is not waited for');
	ok(eval { wait_until(sub { running('NAP01') }, 'the daemon', 5) }, 'and is not ended');
	kill 'KILL', running('NAP01');
	return;
}

sub test_surroundings
{
	my $env = query(q{SELECT output FROM process('{/usr/bin/env}', env => '{PGAPPNAME=x,TZ=Europe/Oslo}')});
	my %env = map { /^(\w+)=(.*)$/ ? ($1, $2) : () } split /\n/, $env;
	my @unknown = grep { !/^(PATH|HOME|LANG|TZ|PGAPPNAME|LC_\w+)$/ } sort keys %env;

	is("@unknown", '', 'nothing else is in the environment');
	ok($env{PATH} && $env{HOME}, 'PATH and HOME are');
	is($env{PGAPPNAME}, 'x', 'what the caller adds is');
	is($env{TZ}, 'Europe/Oslo', 'and replaces what is inherited');
	is(query(q{SELECT output FROM process('{/usr/bin/printenv,TZ}')}), "Asia/Tokyo\n", 'TZ is inherited');

	is(query(q{SELECT output FROM process('{/bin/sh,-c,ls /proc/$$/fd}')}), "0\n1\n2\n", 'descriptors 0, 1 and 2');
	is(query(q{SELECT output FROM process('{/bin/sh,-c,ls /proc/$$/fd}', input => 'x')}),
		"0\n1\n2\n", 'and no others with input');
	is(query(q{SELECT output FROM process('{/bin/pwd}')}), "/\n", 'the directory is /');
	is(query(q{SELECT output FROM process('{/bin/pwd}', directory => '/usr')}), "/usr\n", 'or the one asked for');

	my $status = query(q{SELECT output FROM process('{/bin/cat,/proc/self/status}')});
	my ($blocked) = $status =~ /^SigBlk:\s*0*(\w*)$/m;
	my ($ignored) = $status =~ /^SigIgn:\s*0*(\w*)$/m;
	# 32 and 33 are the C library's own; below "make" they are ignored
	like("$blocked.$ignored", qr/^\.(180000000)?$/, 'no signal is blocked or ignored');

	# pid, command, state, parent, process group, session, terminal
	my $stat = query(q{SELECT output FROM process('{/bin/cat,/proc/self/stat}')});
	my ($pid, $group, $session, $tty) = $stat =~ /^(\d+) \(cat\) \w \d+ (\d+) (\d+) (-?\d+)/;
	is("$group $session $tty", "$pid $pid 0", 'a process group of its own, without a terminal');
	return;
}

sub test_timeout
{
	my $start = time;
	like(error_of(q{SELECT process('{/bin/sh,-c,echo password=geheim halfway >&2; sleep NAP11 & sleep NAP12; true}', timeout_ms => 300)}),
		qr/57014: program "\/bin\/sh" did not end within 300 ms\nDETAIL:  Its last messages were: password=\*\*\* halfway/,
		'a timeout, with the last messages');
	cmp_ok(time - $start, '<', 5, 'comes in time');
	gone_ok('NAP11', 'the grandchild is ended');
	gone_ok('NAP12', 'the child is ended');

	$start = time;
	error_of(q{SELECT process(ARRAY['/bin/sh', '-c', 'trap "" TERM; sleep NAP13 & sleep NAP14; sleep NAP14'], timeout_ms => 300)});
	cmp_ok(time - $start, '>', 2, 'a group that ignores SIGTERM has a grace');
	gone_ok('NAP13', 'and its grandchild ends by SIGKILL');
	gone_ok('NAP14', 'and its child, too');

	query(q{SELECT process('{/bin/sh,-c,sleep NAP15 & kill -9 $$}')});
	gone_ok('NAP15', 'the rest of a group whose leader was killed is ended');

	is(query(q{SELECT ticks BETWEEN 5 AND 20 FROM process('{/bin/sleep,1}', tick_ms => 50)}), 't', 'ticks');
	like(error_of(q{SELECT process('{/bin/sleep,NAP16}', tick_ms => 50, fail_at_tick => 3)}),
		qr/P0001: tick 3 fails/, 'an error in a tick');
	gone_ok('NAP16', 'ends the process');

	my ($psql) = start_psql(q{SELECT abandon('{/bin/sleep,NAP17}'); SELECT pg_sleep(60) /* NAP17 */});
	wait_until(sub { backend_pid('pg\_sleep%NAP17') }, 'the second statement');
	gone_ok('NAP17', 'a process ends with its memory context');
	query('SELECT pg_terminate_backend(' . backend_pid('pg\_sleep%NAP17') . ')');
	$psql->finish;

	query(q{SELECT abandon('{/bin/sh,-c,sleep NAP18 & sleep NAP19; true}', owner => 'session')});
	gone_ok('NAP18', 'a grandchild ends with the session');
	gone_ok('NAP19', 'and the child');

	query(q{SELECT abandon('{/bin/sleep,NAP02}', owner => 'nobody')});
	wait_for($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE query LIKE '%nobody%' AND pid <> pg_backend_pid()});
	is(scalar(running('NAP02')), 1, 'a released daemon outlives the session');
	kill 'KILL', running('NAP02');
	return;
}

# Cancel, terminate, and a barrier that all processes must take part in.
sub test_interrupts
{
	my ($psql, $error) = start_psql(q{SELECT process('{/bin/sh,-c,sleep NAP21 & sleep NAP22; true}')});
	wait_until(sub { running('NAP22') }, 'the program');

	my $start = time;
	query('DROP DATABASE other');
	cmp_ok(time - $start, '<', 5, 'DROP DATABASE does not wait for a wait');
	ok(running('NAP22'), 'which goes on');

	$start = time;
	query('SELECT pg_cancel_backend(' . backend_pid('NAP21') . ')');
	$psql->finish;
	like($$error, qr/57014: canceling statement due to user request/, 'a wait can be cancelled');
	cmp_ok(time - $start, '<', 2, 'at once');
	gone_ok('NAP22', 'the child is ended', 1);
	gone_ok('NAP21', 'the grandchild is ended', 1);

	($psql, $error) = start_psql(q{SELECT process('{/bin/sh,-c,sleep NAP23 & sleep NAP24; true}')});
	wait_until(sub { running('NAP24') }, 'the program');
	query('SELECT pg_terminate_backend(' . backend_pid('NAP23') . ')');
	$psql->finish;
	like($$error, qr/57P01: terminating connection/, 'a wait can be terminated');
	gone_ok('NAP24', 'the child is ended');
	gone_ok('NAP23', 'the grandchild is ended');
	return;
}

sub test_connect
{
	my $port = $node->port;
	my $tcp = "host=127.0.0.1 port=$port dbname=postgres user=tester";

	is(query("SELECT exec('$socket', '{SELECT 42}')"), '42', 'a connection by socket');
	is(query("SELECT exec('$tcp password=right-password', '{SELECT current_user}')"), 'tester', 'by TCP');
	is(query("SELECT exec('postgresql://tester:right-password\@127.0.0.1:$port/postgres', '{SELECT current_user}')"),
		'tester', 'by URI');

	my $settings = q{SELECT concat_ws(',', current_setting('search_path'), current_setting('synchronous_commit'),
		current_setting('client_min_messages'), current_setting('lock_timeout'), current_setting('client_encoding'),
		current_setting('application_name'), current_setting('work_mem'))};
	is(query("SELECT exec('$socket', ARRAY[\$\$$settings\$\$])"),
		'pg_catalog,local,error,0,UTF8,replica_ctl,4MB', 'settings of a session');
	is(query("SELECT exec('$socket application_name=me options=''-c search_path=public -c work_mem=2MB''', ARRAY[\$\$$settings\$\$])"),
		'pg_catalog,local,error,0,UTF8,me,2MB', 'and what the connection string may change');

	my $error = error_of("SELECT exec('$tcp password=wrong-secret', '{SELECT 1}')");
	like($error, qr/28P01: could not connect to server x\nDETAIL:  connection to server .* failed: FATAL:  password authentication failed for user "tester"$/m,
		'a wrong password');
	unlike($error =~ s/^(STATEMENT|LINE).*//mgr, qr/wrong-secret/, 'is not shown');
	unlike($error, qr/auth\.c/, 'nor is where in the server it was');
	like(error_of("SELECT exec('$socket dbname=nowhere', '{SELECT 1}')"),
		qr/3D000: could not connect to server x\nDETAIL:  .*FATAL:  database "nowhere" does not exist$/m,
		'the SQLSTATE of a refused connection');

	my $unused = free_port();
	like(error_of("SELECT exec('host=127.0.0.1 port=$unused', '{SELECT 1}')"),
		qr/08001: could not connect to server x\nDETAIL:  .*Connection refused/, 'nobody listens');
	for my $bad ('password secret-one', 'passwrod=secret-two', 'postgresql://u:secret-three@h:1:2/x?y', "password='secret-four")
	{
		my ($quoted) = $bad =~ s/'/''/gr;
		my $reason = query("SELECT try_connect('$quoted', 1000)");
		is($reason, '22023 invalid connection string', "not a connection string: $bad");
	}

	# It listens, and that is all.
	my $silent = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1', Proto => 'tcp') or die;
	my $silent_port = $silent->sockport;
	my $start = time;
	like(error_of("SELECT exec('host=127.0.0.1 port=$silent_port', '{SELECT 1}', timeout_ms => 700)"),
		qr/08001: could not connect to server x\nDETAIL:  no answer within 700 ms/, 'a server that never answers');
	cmp_ok(time - $start, '<', 5, 'does not hold us');
	is(query("SELECT try_connect('host=127.0.0.1 port=$silent_port', 300)"),
		'08001 no answer within 300 ms', 'nor does it without an error');

	my ($psql, $text) = start_psql("SELECT try_connect('host=127.0.0.1 port=$silent_port', 60000) /* silent */");
	wait_until(sub { backend_pid('silent') }, 'the backend');
	query('SELECT pg_cancel_backend(' . backend_pid('silent') . ')');
	$psql->finish;
	like($$text, qr/57014: canceling statement due to user request/, 'a connection attempt can be cancelled');
	return;
}

sub test_statements
{
	is(query("SELECT exec('$socket', '{SELECT \$1::int + \$2::int}', '{40,2}')"), '42', 'parameters');
	is(query("SELECT exec('$socket', '{SELECT \$1::text IS NULL}', '{NULL}')"), 't', 'a NULL parameter');
	is(query("SELECT exec('$socket', '{SELECT NULL}') IS NULL"), 't', 'a NULL value');
	is(query("SELECT exec('$socket', '{SELECT 1 WHERE false}') IS NULL"), 't', 'no row');
	is(query("SELECT exec('$socket', '{CREATE TEMP TABLE t (a int),INSERT INTO t VALUES (1),SELECT count(*) FROM t}')"),
		'1', 'several statements');
	is(query("SELECT length(exec('$socket', '{SELECT \$1}', ARRAY[repeat('x', 20000000)]))"),
		'20000000', '20 MB there and back');
	is(query("SELECT exec('$socket replication=true', '{IDENTIFY_SYSTEM}') = system_identifier::text FROM pg_control_system()"),
		't', 'a replication connection');

	my $raise = q{DO $$ BEGIN RAISE EXCEPTION 'broken' USING ERRCODE = 'AB123', DETAIL = 'in detail, password=abc', HINT = 'mend it'; END $$};
	like(error_of("SELECT exec('$socket', ARRAY[\$sql\$$raise\$sql\$])"),
		qr/AB123: server x: broken\nDETAIL:  in detail, password=\*\*\*\nHINT:  mend it\n/,
		'the error of the server with its SQLSTATE, detail and hint');
	like(error_of("SELECT exec('$socket', '{SELECT pg_terminate_backend(pg_backend_pid())}')"),
		qr/57P01: server x: terminating connection/, 'a terminated session');
	is(query("SELECT exec_after_error('$socket', 'SELECT pg_terminate_backend(pg_backend_pid())', 10000)"),
		'connection to server x was lost', 'is a lost connection afterwards');
	is(query("SELECT exec_after_error('$socket', 'SELECT 1/0', 10000)"),
		'none', 'while one with an error goes on');

	my $start = time;
	like(error_of("SELECT exec('$socket', '{SELECT pg_sleep(60) /* slow */}', timeout_ms => 500)"),
		qr/57014: server x did not answer within 500 ms/, 'a statement that takes too long');
	cmp_ok(time - $start, '<', 5, 'is not waited for');
	wait_for($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'replica_ctl'}, 5);
	pass('and the server gave it up');
	is(query("SELECT exec_after_error('$socket', 'SELECT pg_sleep(60)', 300)"),
		'connection to server x was lost', 'the connection is not used again');
	is(query("SELECT exec('$socket', '{SHOW statement_timeout}', timeout_ms => 20000)"), '20500ms',
		'the server has the same bound');

	my ($psql, $text) = start_psql("SELECT exec('$socket', '{SELECT pg_sleep(5) /* remote */}') /* local */");
	wait_until(sub { backend_pid('% local %') && backend_pid('SELECT pg\_sleep%remote') }, 'both backends');
	$start = time;
	query(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%local%' AND pid <> pg_backend_pid()});
	$psql->finish;
	like($$text, qr/57014: canceling statement due to user request/, 'a statement can be cancelled');
	cmp_ok(time - $start, '<', 2, 'at once');
	return;
}

# One backend, many rounds: as many descriptors and bytes as before.
sub test_leaks
{
	my $state = q{SELECT (SELECT count(*) FROM pg_ls_dir('/proc/self/fd')) AS fds,
		(SELECT sum(total_bytes) FROM pg_backend_memory_contexts WHERE name LIKE 'replica_ctl%' OR name = 'TopMemoryContext') AS bytes};
	my $rounds = qq{
		SELECT count(process('{/bin/true}')), count(exec('$socket', '{SELECT 1}')),
			count(try_connect('host=/nonexistent', 1000)) FROM generate_series(1, 100);
		DO \$\$ BEGIN FOR i IN 1 .. 100 LOOP
			BEGIN PERFORM exec('$socket', '{SELECT 1/0}'); EXCEPTION WHEN division_by_zero THEN END;
			BEGIN PERFORM process('{/nonexistent}'); EXCEPTION WHEN undefined_file THEN END;
		END LOOP; END \$\$;};
	my $out = $node->safe_psql('postgres', "$rounds $state \\gset a_\n $rounds $state \\gset b_\n"
		  . 'SELECT :a_fds - :b_fds, :b_bytes - :a_bytes');
	my ($result) = $out =~ /([^\n]*)\z/;

	is($result, '0|0', 'no descriptor and no byte is lost');
	is(query("SELECT growth('$socket', 100)"), '0', 'nor within one memory context');
	wait_for($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'replica_ctl'}, 5);
	pass('no connection is left open');
	return;
}

sub test_texts
{
	my @cases = (
		'host=h password=abc user=u' => 'host=h password=*** user=u',
		"password = 'a b\\'c' user=u" => 'password = *** user=u',
		"SET x = 'host=h password=''a b'' user=u'" => "SET x = 'host=h password=*** user=u'",
		"CREATE ROLE r PASSWORD 'it''s' LOGIN" => 'CREATE ROLE r PASSWORD *** LOGIN',
		'sslpassword=abc PGPASSWORD=def' => 'sslpassword=*** PGPASSWORD=***',
		'postgresql://u:p:w@h:5432/db' => 'postgresql://u:***@h:5432/db',
		'postgres://u:p@w@h/db?password=x&a=b' => 'postgres://u:***@h/db?password=***',
		'see https://h:443/a@b' => 'see https://h:443/a@b',
		'{"password": "abc", "a": 1}' => '{"password": ***, "a": 1}',
		'password=a\\ b c' => 'password=*** c',
		"password='open end" => 'password=***',
		"password='' user=u" => 'password=*** user=u',
		'password authentication failed for user "u"' => 'password authentication failed for user "u"',
		'the password: it is wrong' => 'the password: it is wrong',
		'password' => 'password',
		'' => '',
	);
	while (my ($in, $out) = splice @cases, 0, 2)
	{
		is(query("SELECT redact(\$t\$$in\$t\$)"), $out, "redact: $in");
	}

	is(query(q{SELECT last_lines(E'a\nb\nc\n\n', 2)}), "b\nc", 'the last lines');
	is(query(q{SELECT last_lines(E'a\nb', 5)}), "a\nb", 'fewer lines than asked for');
	is(query(q{SELECT last_lines(E'\n', 5) = '' AND last_lines('', 5) = ''}), 't', 'no lines');
	is(query(q{SELECT length(last_lines(repeat('x', 5000), 5))}), '2048', 'a line that is too long');
	is(query(q{SELECT last_lines(repeat('x', 5000) || E'\nend', 5)}), 'end', 'whole lines where there is one');
	is(query(q{SELECT length(last_lines(repeat(repeat('x', 99) || E'\n', 100), 100))}), '1999', 'as many as fit');

	is(query(q{SELECT conninfo('{host,port,user,password,dbname}', ARRAY['/a b', '', NULL, $$it's\n$$, 'd'])}),
		q{host='/a b' password='it\\'s\\\\n' dbname='d'}, 'a connection string');
	return;
}

sub test_maps
{
	is(query(q{SELECT map('{"text": "a\"b", "number": 1.50, "yes": true, "nothing": null, "same": "s", "removed": 1,
			"nested": {"inner": [1, "x"]}}')::jsonb - 'long'}),
		'{"yes": "true", "json": [1, 2], "same": "s", "text": "a\"b", "inner": "[1, \"x\"]", "nested": {"inner": [1, "x"]}, "number": "1.50", "default": "otherwise"}',
		'a map from jsonb and back');
	is(query(q{SELECT length(map('{}')::jsonb->>'long')}), '1000', 'a long formatted value');
	is(query(q{SELECT map_json('{"b": 1, "aa": {"x": null}}')}), '{"b": "1", "aa": {"x": null}}', 'and from JSON text');
	is(query(q{SELECT map_json('{}')}), '{}', 'an empty one');
	like(error_of(q{SELECT map('[1]')}), qr/22023: argument must be a JSON object/, 'an array is not a map');
	like(error_of(q{SELECT map('"x"')}), qr/22023: argument must be a JSON object/, 'nor is a string');
	like(error_of(q[SELECT map_json('{broken')]),
		qr/22P02: invalid input syntax for type json.*parsing the argument as JSON/s, 'broken JSON says which');
	return;
}

# Last: the server goes down.
sub test_kill
{
	my ($psql) = start_psql(q{SELECT process('{/bin/sleep,NAP31}')});
	wait_until(sub { running('NAP31') }, 'the program');
	kill 'KILL', backend_pid('NAP31');
	$psql->finish;
	gone_ok('NAP31', 'kill -9 of the backend ends the child');
	wait_for($node, 'SELECT true');

	($psql) = start_psql(q{SELECT process('{/bin/sh,-c,sleep NAP32 & sleep NAP33; true}')});
	wait_until(sub { running('NAP33') }, 'the program');
	$node->kill9;
	$psql->finish;
	gone_ok('NAP33', 'kill -9 of the postmaster ends the child');
	gone_ok('NAP32', 'and the grandchild');
	return;
}
