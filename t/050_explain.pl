# 050_explain.pl
#	  replica_explain: every check that can be provoked on real servers, the
#	  steps with their times, that it changes nothing, and that a replica that
#	  does not answer costs a few seconds and no more.

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;
use Time::HiRes qw(sleep time);

my $primary = new_primary('main', checksums => 0,
	conf => "max_prepared_transactions = 5\nwal_level = logical\nautovacuum = off\nwal_log_hints = off\n");

sub sql { return $primary->safe_psql('postgres', $_[0]); }

# A session on a replica, as the superuser over its socket.
sub on
{
	my ($replica, @sql) = @_;
	my $port = sql("SELECT facts->>'port' FROM replica_ctl.replica WHERE name = '$replica'");
	my ($out, $err);

	IPC::Run::run([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-h', $primary->host, '-p', $port,
			'-d', 'postgres', map { ('-c', $_) } @sql ],
		'>', \$out, '2>', \$err) or die "on $replica: $err";
	chomp $out;
	return $out;
}

sub pid_of
{
	my ($replica) = @_;
	my $dir = sql("SELECT facts->>'data_directory' FROM replica_ctl.replica WHERE name = '$replica'");
	return (split /\n/, slurp_file("$dir/postmaster.pid"))[0];
}

# explained(action, replica, options = '{}'): rows by name, of those of a plan
# with the step's number before it, and the names in order.
sub explained
{
	my ($action, $replica, $options) = @_;
	my (%row, @names);

	$options //= '{}';
	for my $line (split /\n/, sql("SELECT concat_ws('|', coalesce(step::text, '-'), name, status,"
				. " coalesce(extract(epoch FROM estimate)::text, '-'), replace(detail, E'\\n', ' '), hint)"
				. " FROM replica_explain('$action', '$replica', options => '$options')"))
	{
		my ($step, $name, $status, $estimate, $detail, $hint) = split /\|/, $line, 6;
		my $r = { step => $step, status => $status, estimate => $estimate, detail => $detail, hint => $hint // '' };

		$row{$name} = $r unless exists $row{$name};
		$row{"$step $name"} = $r;
		push @names, "$step $name";
	}
	$row{names} = \@names;
	return \%row;
}

# The row of one check after something was done about it.
sub finds
{
	my ($name, $status, $detail, $hint, $rows) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$rows //= explained('promote', 'r1');
	my $row = $rows->{$name} // { status => 'missing', detail => '', hint => '' };
	is($row->{status}, $status, "$name: $status") or diag("$row->{detail} $row->{hint}");
	like($row->{detail}, $detail, "$name: what") if $detail;
	like($row->{hint}, $hint, "$name: hint") if $hint;
	return;
}

sub blocked
{
	my ($rows) = @_;
	return join ', ', map { s/^\S+ //r } grep { $rows->{$_}{status} eq 'blocked' } @{ $rows->{names} };
}

# A failed promotion: the error of replica_wait, which must be that of the check.
sub promotion_error
{
	my ($arguments) = @_;
	sql("SELECT replica_promote('r1'" . ($arguments // '') . ')');
	return psql_error($primary, "SELECT replica_wait('r1', '60s')");
}

#
# Arguments
#
like(psql_error($primary, "SELECT replica_explain('reboot', 'r1')"),
	qr/invalid action: "reboot".*promote, switchover, create, drop, attach, detach, repair, drill/s,
	'an invalid action, with the valid ones');
like(psql_error($primary, "SELECT replica_explain(NULL, 'r1')"), qr/22004.*must not be null/s, 'no action');
like(psql_error($primary, "SELECT replica_explain('create', NULL)"), qr/22004.*must not be null/s, 'no replica');
like(psql_error($primary, "SELECT replica_explain('create', 'r1', 'nowhere')"),
	qr/42704.*server "nowhere" does not exist/s, 'no such server');
like(psql_error($primary, q{SELECT replica_explain('create', 'r1', options => '{"colour": 1}')}),
	qr/HV00D.*unrecognized option "colour" for action "create".*data_directory/s, 'an unknown option');
like(psql_error($primary, q{SELECT replica_explain('create', E'a\tb')}), qr/42602.*control characters/s, 'a bad name');
{
	my $rows = explained('promote', 'nobody');

	is(blocked($rows), 'registry', 'an unknown replica is one blocked row');
	like($rows->{registry}{detail}, qr/replica "nobody" does not exist/, 'which says so');
	like($rows->{registry}{hint}, qr/SELECT replica FROM replica_status/, 'and where they are');
}
sql('CREATE ROLE visitor LOGIN; GRANT USAGE ON SCHEMA public TO visitor');
like(psql_error($primary, "SET ROLE visitor; SELECT replica_explain('create', 'r1')"),
	qr/42501.*permission denied for function replica_explain/s, 'nobody may by default');
sql('GRANT EXECUTE ON FUNCTION replica_explain TO visitor');
like(psql_error($primary, "SET ROLE visitor; SELECT replica_explain('create', 'r1')"),
	qr/42501.*permission denied for foreign server local/s, 'rights on the server are needed as for the action');

#
# Create
#
{
	my $rows = explained('create', 'r1');

	is(blocked($rows), '', 'nothing is in the way of a first replica');
	is(join(', ', grep { /^\d/ && $rows->{$_}{step} > 1 } @{ $rows->{names} }),
		'2 slot, 3 copy, 4 configure, 5 start, 6 catch_up', 'the steps of the plan, in order');
	cmp_ok($rows->{'3 copy'}{estimate}, '>', 0, 'the copy takes some time');
	like($rows->{'3 copy'}{detail}, qr/assumed, as there was no copy yet/, 'by an assumed rate');
	is($rows->{'5 start'}{estimate}, '-', 'no start was measured yet');
	is(sql('SELECT count(*) FROM replica_ctl.replica') + sql('SELECT count(*) FROM replica_ctl.operation'),
		0, 'the registry is empty as before');
	ok(!-e replica_dir($primary), 'and no directory was made');

	$rows = explained('create', 'r1', '{"port": ' . $primary->port . '}');
	like(blocked($rows), qr/\boptions\b.*\bport\b/, 'a port in use blocks');
	like($rows->{port}{detail}, qr/port \d+ is in use/, 'and is named');
	$rows = explained('create', 'r1', '{"data_directory": "' . $primary->data_dir . '/inside"}');
	like($rows->{directory}{detail}, qr/is inside the data directory/, 'a directory inside PGDATA blocks');
	like(blocked($rows), qr/\bdirectory\b/, 'its check');
	$rows = explained('create', 'r1', '{"upstream": "r9"}');
	like($rows->{upstream}{detail}, qr/upstream replica "r9" does not exist/, 'an upstream that is not there blocks');
	is($rows->{programs}{status}, 'ok', 'and the other checks go on');

	sql("SELECT pg_create_physical_replication_slot('replica_ctl_r1')");
	finds('source', 'blocked', qr/"replica_ctl_r1" exists already/, qr/SELECT pg_drop_replication_slot/, explained('create', 'r1'));
	sql("SELECT pg_drop_replication_slot('replica_ctl_r1')");

	sql("ALTER SYSTEM SET max_slot_wal_keep_size = '32MB'");
	sql('SELECT pg_reload_conf()');
	wait_for($primary, "SELECT current_setting('max_slot_wal_keep_size') = '32MB'");
	finds('slot limit', 'warning', qr/may lose WAL/, qr/ALTER SYSTEM SET max_slot_wal_keep_size/, explained('create', 'r1'));
	sql('ALTER SYSTEM RESET max_slot_wal_keep_size');
	sql('SELECT pg_reload_conf()');
	finds('options', 'blocked', qr/needs to know where the standby is/, qr/data_directory/, explained('attach', 'r1'));
}

for my $name ('r1', 'r2')
{
	# slow enough for its size to be seen
	sql("SELECT replica_create('$name', options => '{\"max_rate\": 16384}')");
	is(sql("SELECT replica_wait('$name', '60s')"), 'succeeded', "made $name");
}
{
	my $rows = explained('create', 'r1');

	is(blocked($rows), 'name, directory, source', 'the name is taken, and so is all that would be called like it');
	like($rows->{'3 copy'}{detail}, qr/as in the latest copies/, 'the rate is known by now');
	cmp_ok($rows->{'5 start'}{estimate}, '>', 0, 'and how long a start takes');
	like($rows->{'5 start'}{detail}, qr/Median of the last 2 runs/, 'from both');
	like(psql_error($primary, q{SELECT replica_explain('drop', 'r1', 'elsewhere')}),
		qr/22023.*replica "r1" is on server "local"/s, 'the server of a replica is known');
}

#
# Nothing is in the way, and nothing is changed
#
sub world
{
	return join "\n", sql(q{SELECT md5(string_agg(r::text, '')) FROM (SELECT * FROM replica_ctl.replica ORDER BY 1) r}),
	  sql('SELECT count(*), max(operation_id) FROM replica_ctl.operation'),
	  sql('SELECT count(*) FROM replica_ctl.event'), sql('SELECT count(*) FROM replica_ctl.cleanup'),
	  sql('SELECT string_agg(slot_name, $$,$$ ORDER BY 1) FROM pg_replication_slots'),
	  sql('SELECT txid_current_snapshot()'),
	  join(',', map { sort glob "$_/*" } replica_dir($primary), replica_dir($primary) . '/r1');
}

{
	my %steps = (
		'promote' => '2 warm, 3 fence, 4 zero_lag, 5 promote, 6 verify, 7 unlink, 8 after',
		'drill' => '2 warm, 3 fence, 4 zero_lag, 5 lift, 6 report',
		'drop' => '2 unsync, 3 stop, 4 directory, 5 slot',
		'detach' => '1 unlink');

	for my $action (sort keys %steps)
	{
		wait_for($primary, "SELECT bool_and(lag_bytes = 0) FROM replica_status");
		my $before = world();
		my $rows = explained($action, 'r1');

		is(join(', ', map { "$_: $rows->{$_}{detail}" } grep { $rows->{$_}{status} ne 'ok' } @{ $rows->{names} }),
			'', "nothing is in the way of $action");
		like(join(', ', @{ $rows->{names} }), qr/\Q$steps{$action}\E(?:, - writes stopped)?, - total$/, "the steps of $action");
		is(world(), $before, "explaining $action changes nothing");
	}
}
is(sql(q{BEGIN; SELECT count(*) > 10 FROM replica_explain('promote', 'r1');
	SELECT pg_current_xact_id_if_assigned() IS NULL; COMMIT}), "t\nt", 'in a transaction, without an XID');
is(sql(q{BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY; SELECT count(*) > 10 FROM replica_explain('promote', 'r1'); COMMIT}),
	't', 'in a read-only transaction');
is(sql(q{BEGIN; CREATE TABLE made (a int); SELECT count(*) > 10 FROM replica_explain('promote', 'r1');
	SELECT current_user = session_user AND current_setting('search_path') LIKE '%public%'; COMMIT;
	SELECT count(*) FROM made; DROP TABLE made}), "t\nt\n0", 'the transaction goes on as it was');
{
	my $rows = explained('promote', 'r1');

	cmp_ok($rows->{'writes stopped'}{estimate}, '>', 0, 'the time without writes is predicted');
	like($rows->{'5 promote'}{detail}, qr/Assumed/, 'by an assumption, as nothing was promoted yet');
	sql("SELECT replica_drill('r1')");
	sql("SELECT replica_wait('r1')");
	$rows = explained('promote', 'r1');
	like($rows->{'3 fence'}{detail}, qr/One past run/, 'a drill is a past run of the steps that it shares');
}

#
# This server
#
sql("SELECT replica_fence('a test')");
finds('fence', 'blocked', qr/this server is fenced. The reason given: a test/, qr/SELECT replica_unfence\(\)/);
is(blocked(explained('drop', 'r1')), '', 'which is not in the way of other actions');
is(sql(q{SELECT count(*) FROM replica_explain('promote', 'r1', options => '{"mode": "forced"}') WHERE status = 'blocked'}),
	0, 'nor of force');
sql('SELECT replica_unfence()');
finds('fence', 'ok');
finds('timeout', 'blocked', qr/a timeout of zero/, qr/Leave out timeout/, explained('promote', 'r1', '{"timeout": "0"}'));
{
	my $writer = $primary->background_psql('postgres');

	sql('CREATE TABLE t (a int)');
	$writer->query_safe('BEGIN; INSERT INTO t VALUES (1)');
	my $pid = $writer->query_safe('SELECT pg_backend_pid()');
	finds('open writes', 'ok', qr/1 sessions have writes/, undef, explained('promote', 'r1', '{"drain": "1 hour"}'));
	my $rows = explained('promote', 'r1', '{"drain": "0"}');
	finds('open writes', 'warning', qr/process $pid of/, qr/pg_terminate_backend\($pid\)/, $rows);
	is(blocked($rows), '', 'but do not block');
	$rows = explained('promote', 'r1', '{"drain": "7s"}');
	cmp_ok($rows->{'3 fence'}{estimate}, '>=', 7, 'the fence may take all of the drain time');
	$writer->query_safe("PREPARE TRANSACTION 'it''s'");
	$rows = explained('promote', 'r1');
	finds('open writes', 'ok', undef, undef, $rows);
	finds('prepared transactions', 'warning', qr/1 transactions are prepared/, qr/ROLLBACK PREPARED 'it''s'/, $rows);
	sql("ROLLBACK PREPARED 'it''s'");
	finds('prepared transactions', 'ok');
	$writer->quit;
}
sql("SELECT pg_create_logical_replication_slot('changes', 'test_decoding')");
finds('logical slots', 'warning', qr/do not exist on the replica: changes/, qr/pg_create_logical_replication_slot/);
sql("SELECT pg_drop_replication_slot('changes')");
finds('logical slots', 'ok');
sql("CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false)");
sql('UPDATE pg_subscription SET subenabled = true');
finds('subscriptions', 'warning', qr/subscriptions of this server: s/, qr/ALTER SUBSCRIPTION .* DISABLE/);
sql('UPDATE pg_subscription SET subenabled = false');
sql('ALTER SUBSCRIPTION s SET (slot_name = NONE)');
sql('DROP SUBSCRIPTION s');
finds('subscriptions', 'ok');

# An archiver that fails, and one that has much to do.
sql(q{ALTER SYSTEM SET archive_command = 'false'});
sql(q{ALTER SYSTEM SET archive_mode = on});
$primary->restart;
wait_for($primary, "SELECT bool_and(connected) FROM replica_status");
sql('SELECT pg_switch_wal()');
wait_for($primary, 'SELECT failed_count > 0 FROM pg_stat_archiver');
finds('archiver', 'warning', qr/archiving fails here, \d+ WAL segments wait/, qr/archive_command/);
finds('settings', 'warning', qr/archive_mode off instead of on/, qr/ALTER SYSTEM/);
sql('ALTER SYSTEM RESET archive_command');
sql('ALTER SYSTEM RESET archive_mode');
$primary->restart;
wait_for($primary, "SELECT bool_and(connected) FROM replica_status");
finds('archiver', 'ok');

#
# The replica: each is found by explain, and by the promotion before anything is touched
#
on('r1', 'SELECT pg_wal_replay_pause()');
wait_until(sub { on('r1', 'SELECT pg_get_wal_replay_pause_state()') eq 'paused' }, 'the pause');
sql('INSERT INTO t SELECT generate_series(1, 100000)');
{
	my $rows = explained('promote', 'r1');

	finds('replay', 'blocked', qr/WAL replay is paused on replica "r1"/, qr/SELECT pg_wal_replay_resume\(\)/, $rows);
	like($rows->{'replay lag'}{detail}, qr/^\d+ [kM]B are not replayed$/, 'the lag is in replay, though it has received all');
	like($rows->{'4 zero_lag'}{detail}, qr/has replayed nothing while it was looked at/, 'which cannot be forecast');
	is($rows->{'4 zero_lag'}{estimate}, '-', 'and is not');
	is($rows->{'writes stopped'}{estimate}, '-', 'nor is the time without writes');
	finds('loss', 'ok', qr/has received all/, undef, explained('promote', 'r1', '{"mode": "forced"}'));
}
like(promotion_error(), qr/55000.*WAL replay is paused on replica "r1".*pg_wal_replay_resume/s,
	'a promotion refuses it with the same words');
is(sql("SELECT count(*) FROM replica_events WHERE kind = 'check_warnings'"), 0, 'a refusal is no warning');
is(sql("SELECT state FROM replica_ctl.replica WHERE name = 'r1'"), 'streaming', 'and the replica is what it was');
on('r1', 'SELECT pg_wal_replay_resume()');
finds('replay', 'ok');

# Sets a setting of r1, or takes it back, and waits until it is in force.
sub set_there
{
	my ($name, $value) = @_;
	my $wanted = $value // on('r1', "SELECT boot_val FROM pg_settings WHERE name = '$name'");

	on('r1', defined $value ? "ALTER SYSTEM SET $name = '$value'" : "ALTER SYSTEM RESET $name",
		'SELECT pg_reload_conf()');
	wait_until(sub { on('r1', "SELECT '$wanted' IN (setting, current_setting(name)) FROM pg_settings WHERE name = '$name'") eq 't' },
		"$name on r1");
	return;
}

set_there('recovery_min_apply_delay', '30s');
{
	my $rows = explained('promote', 'r1');

	finds('apply delay', 'warning', qr/applies commits 30.0 s late/, qr/recovery_min_apply_delay = 0/, $rows);
	cmp_ok($rows->{'writes stopped'}{estimate}, '>=', 30, 'and counts for the time without writes');
	finds('apply delay', 'blocked', qr/no less than the timeout/, undef, explained('promote', 'r1', '{"timeout": "30s"}'));
}
set_there('recovery_min_apply_delay');
set_there('default_transaction_read_only', 'on');
finds('read only', 'blocked', qr/It would refuse writes/, qr/default_transaction_read_only = off/);
like(promotion_error(), qr/55000.*default_transaction_read_only is on for replica "r1"/s, 'a promotion refuses that');
set_there('default_transaction_read_only');
set_there('synchronous_standby_names', 'elsewhere');
finds('synchronous standbys', 'blocked', qr/"elsewhere" there, and nobody follows it/, qr/synchronous_standby_names = ''/);
set_there('synchronous_standby_names');
is(blocked(explained('promote', 'r1')), '', 'all is well again');

# A rule here that is not there, and one there that cannot be read.
append_to_file($primary->data_dir . '/pg_hba.conf', "host all visitor 192.0.2.7/32 scram-sha-256\n");
finds('clients', 'warning', qr/lacks 1 rules.*192\.0\.2\.7/, qr/pg_reload_conf/);
my $r1 = replica_dir($primary) . '/r1';
append_to_file("$r1/pg_hba.conf", "host all visitor 192.0.2.7/32 scram-sha-256\n");
finds('clients', 'ok');
append_to_file("$r1/pg_hba.conf", "host all visitor nonsense\n");
finds('clients', 'warning', qr/has errors/, qr/Correct the file/);
{
	my $hba = slurp_file("$r1/pg_hba.conf");
	$hba =~ s/^.*nonsense\n//m;
	open my $out, '>', "$r1/pg_hba.conf" or die $!;
	print $out $hba;
	close $out;
}

# Other replicas, as seen by a forced promotion.
on('r1', "ALTER SYSTEM SET primary_conninfo = 'host=/nowhere'", 'SELECT pg_reload_conf()');
wait_for($primary, "SELECT NOT connected FROM replica_status WHERE replica = 'r1'");
sql('INSERT INTO t SELECT generate_series(1, 1000)');
wait_for($primary, "SELECT lag_bytes = 0 FROM replica_status WHERE replica = 'r2'");
{
	my $rows = explained('promote', 'r1');

	finds('streaming', 'blocked', qr/is not connected to this server/, qr/SELECT replica_repair\('r1'\)/, $rows);
	is(blocked($rows), 'streaming', 'a disconnected replica can be asked all the same');
	like(promotion_error(), qr/55000.*replica "r1" is not connected to this server.*replica_repair/s,
		'a promotion refuses it');
	is(sql(q{SELECT count(*) FROM replica_ctl.operation_step s JOIN replica_ctl.operation o USING (operation_id)
		WHERE o.kind = 'promote' AND s.step NOT IN ('check', 'undo')}), 0, 'none of these got further than the check');

	$rows = explained('promote', 'r1', '{"mode": "forced"}');
	is(blocked($rows), '', 'force does not ask for streaming');
	finds('loss', 'warning', qr/\d+ (?:bytes|kB) of WAL would be lost.*received up to \S+, this server has flushed up to/,
		qr/SELECT replica_promote\('r1'\)/, $rows);
	finds('other replicas', 'warning', qr/replica "r2" is .* further ahead/, qr/replica_promote\('r2', mode => 'forced'\)/, $rows);
	ok(!exists $rows->{'writes stopped'}, 'and there is no fence');
}

# Switchover: the checks of its second step, too.
{
	my $rows = explained('switchover', 'r1');

	is($rows->{'rewind'}{step}, 2, 'checks of the second step have its number');
	finds('rewind', 'blocked', qr/pg_rewind needs data checksums or wal_log_hints/, qr/wal_log_hints = on/, $rows);
	is(blocked($rows), 'streaming, rewind', 'that is all that is in the way');
	like(join(', ', @{ $rows->{names} }),
		qr/3 warm, 4 prepare, 5 siblings, 6 fence, 7 zero_lag, 8 promote, 9 verify, 10 siblings_verify, 11 unlink, 12 demote, 13 arrive, - writes stopped, - total$/,
		'the steps of a switchover');
	is(join(', ', @{ explained('promote', 'r1', '{"source_after": "standby"}')->{names} }),
		join(', ', @{ $rows->{names} }), 'which a promotion with source_after standby is, too');
	ok(!-e $primary->data_dir . '_rejoin', 'nothing was made for it');
	on('r1', "SELECT pg_create_physical_replication_slot('s' || i) FROM generate_series(1, 19) i");
	sql("SELECT pg_create_physical_replication_slot('theirs')");
	$rows = explained('switchover', 'r1');
	finds('room for standbys', 'blocked', qr/2 of each will be needed; 1 slots and \d+ walsenders are free/,
		qr/max_replication_slots/, $rows);
	finds('other slots', 'warning', qr/will be gone: theirs/, undef, $rows);
	on('r1', 'SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots');
	sql("SELECT pg_drop_replication_slot('theirs')");
	finds('room for standbys', 'ok', undef, undef, explained('switchover', 'r1'));
}

# Busy, and gone.
{
	my $pid = pid_of('r1');
	my ($start, $rows);

	kill STOP => $pid;
	$start = time;
	$rows = explained('promote', 'r1');
	cmp_ok(time - $start, '<', 6, 'a replica that does not answer costs at most 5 seconds');
	finds('connection', 'blocked', qr/(?:could not connect|no answer within)/, undef, $rows);

	my $session = $primary->background_psql('postgres', on_error_stop => 0);
	my $backend = $session->query('SELECT pg_backend_pid()');
	$session->query_until(qr/started/, "\\echo started\nSELECT count(*) FROM replica_explain('promote', 'r1');\n");
	sleep 0.5;
	$start = time;
	sql("SELECT pg_cancel_backend($backend)");
	wait_for($primary, "SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $backend");
	cmp_ok(time - $start, '<', 2, 'and can be cancelled');
	like($session->query('SELECT 1'), qr/^1$/m, 'after which the session is fine');
	$session->quit;
	kill CONT => $pid;

	on('r1', 'SELECT 1');
	system_or_bail('pg_ctl', '-D', $r1, '-m', 'immediate', '-w', '-s', 'stop');
	$start = time;
	$rows = explained('promote', 'r1');
	cmp_ok(time - $start, '<', 3, 'one that is down is told at once');
	is(blocked($rows), 'streaming, connection', 'what is in the way');
	like($rows->{connection}{hint}, qr/replica_repair/, 'and what to do');
	is(blocked(explained('drop', 'r1')), '', 'it can be dropped');
	finds('streaming', 'ok', qr/not connected/, undef, explained('repair', 'r1'));
}

#
# Drop: what depends on it
#
sql(q{UPDATE replica_ctl.replica SET facts = facts || '{"upstream": "r2"}' WHERE name = 'r1'});
finds('deletion', 'blocked', qr/other replicas follow replica "r2"/, qr/Drop those first/, explained('drop', 'r2'));
finds('dependents', 'warning', qr/other replicas follow it: "r1"/, undef, explained('detach', 'r2'));
is(blocked(explained('drop', 'r2', '{"force": true}')), '', 'force overcomes it');
sql(q{UPDATE replica_ctl.replica SET facts = facts - 'upstream' WHERE name = 'r1'});
sql("UPDATE replica_ctl.replica SET state = 'promoted' WHERE name = 'r1'");
finds('registry', 'blocked', qr/was promoted and is a server of its own/, qr/SELECT replica_detach\('r1'\)/);
sql("UPDATE replica_ctl.replica SET state = 'streaming', home = 'elsewhere' WHERE name = 'r1'");
finds('registry', 'blocked', qr/belongs to another server/, qr/replica_claim/);
sql('SELECT replica_claim()');
sql("SELECT replica_drop('r1')");
is(sql("SELECT replica_wait('r1', '60s')"), 'succeeded', 'dropped r1');

#
# A warning of the check is an event of the promotion, and does not stop it
#
sql("SELECT pg_create_logical_replication_slot('changes', 'test_decoding')");
my $promotion = sql("SELECT replica_promote('r2', source_after => 'read_write')");
is(sql("SELECT replica_operation_wait($promotion, '60s')"), 'succeeded', 'promoted r2');
is(sql(q{SELECT severity, detail->>'logical slots' FROM replica_events WHERE kind = 'check_warnings' AND operation = } . $promotion),
	'warning|logical replication slots do not exist on the replica: changes', 'with the warning as an event');
sql("SELECT pg_drop_replication_slot('changes')");

done_testing();
