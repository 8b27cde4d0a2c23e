# 110_managed.pl
#	  Promotions that a service makes, on the mock of such a service: writes on
#	  a source elsewhere are stopped by SQL, and go on if it fails.
#
#	  "control" has the extension, "source" is another server and has not; its
#	  standbys are what the mock promotes.

use strict;
use warnings;
use File::Path qw(make_path);
use Time::HiRes qw(sleep);
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;

my $control = new_primary('control', conf => "replica_ctl.step_retries = 3\nreplica_ctl.sample_interval = 1s");
my $dir = $control->basedir . '/service';
make_path($dir);

my $source = PostgreSQL::Test::Cluster->new('source');
$source->init(allows_streaming => 1);
$source->append_conf('postgresql.conf', "max_prepared_transactions = 5\nautovacuum = off");
$source->start;
$source->safe_psql('postgres', q{
	CREATE ROLE manager LOGIN PASSWORD 'sesame' IN ROLE pg_read_all_stats, pg_signal_backend;
	CREATE ROLE app LOGIN;
	CREATE DATABASE app OWNER manager;
	CREATE DATABASE "the ""other""" OWNER manager;
	CREATE DATABASE loose OWNER manager;
	ALTER DATABASE "the ""other""" SET work_mem = '5MB';
	ALTER DATABASE loose SET default_transaction_read_only = 'off';
	ALTER DATABASE loose SET work_mem = '6MB'});
$source->safe_psql('app', 'CREATE TABLE t (i int); GRANT ALL ON t TO PUBLIC');
my $hba = slurp_file($source->data_dir . '/pg_hba.conf');
open my $file, '>', $source->data_dir . '/pg_hba.conf' or die $!;
print $file "local all manager scram-sha-256\n$hba";
close $file;
$source->reload;
$source->backup('b');

sub sql { return $control->safe_psql('postgres', $_[0]) }

# What a replica is taken for, when it is promoted and no real one.
my $elsewhere = PostgreSQL::Test::Cluster->new('elsewhere');
$elsewhere->init_from_backup($source, 'b');
$elsewhere->start;

sub standby
{
	my ($name) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init_from_backup($source, 'b', has_streaming => 1);
	$node->start;
	$source->wait_for_catchup($node);
	return $node;
}

my $conninfo = 'host=' . $source->host . ' port=' . $source->port . ' dbname=postgres user=manager';

sql(qq{
	CREATE FUNCTION validate_mock_managed(text[], oid) RETURNS void AS 'replica_ctl', 'rctl_validate_mock_managed' LANGUAGE C STRICT;
	CREATE FOREIGN DATA WRAPPER replica_mock_managed VALIDATOR validate_mock_managed;
	CREATE SERVER far FOREIGN DATA WRAPPER replica_mock_managed OPTIONS (directory '$dir', source_conninfo '$conninfo');
	CREATE SERVER nowhere FOREIGN DATA WRAPPER replica_mock_managed OPTIONS (directory '$dir');
	CREATE SERVER vouched FOREIGN DATA WRAPPER replica_mock_managed OPTIONS (directory '$dir', fence 'external');
	CREATE SERVER watched FOREIGN DATA WRAPPER replica_mock_managed OPTIONS (directory '$dir', fence 'external', source_conninfo '$conninfo');
	CREATE SERVER serviced FOREIGN DATA WRAPPER replica_mock_managed OPTIONS (directory '$dir', fences 'on', follows 'on');
	CREATE SERVER here FOREIGN DATA WRAPPER replica_mock_managed OPTIONS (directory '$dir', here 'on');
	CREATE USER MAPPING FOR CURRENT_USER SERVER far OPTIONS (source_password 'sesame');
	CREATE USER MAPPING FOR CURRENT_USER SERVER watched OPTIONS (source_password 'sesame')});

# What the source's databases are set to, exactly.
my $settings_sql = 'SELECT datname, setconfig FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase ORDER BY 1';
sub settings { return $source->safe_psql('postgres', $settings_sql) }

my $number = 0;

# A new replica on the server; returns its name.
sub replica
{
	my ($server, %options) = @_;
	my $name = 'm' . ++$number;

	$options{promoted} = 'dbname=postgres ' . $elsewhere->connstr if $server eq 'far' && !$options{conninfo} && !$options{promoted};
	my $json = join ', ', map { qq{"$_": "$options{$_}"} } sort keys %options;

	sql("SELECT replica_create('$name', '$server', '{$json}')");
	sql("SELECT replica_wait('$name', '30s')");
	return $name;
}

sub promote
{
	my ($name, $arguments) = @_;
	return sql("SELECT replica_promote('$name'" . ($arguments ? ", $arguments" : '') . ')');
}

sub outcome
{
	my ($operation) = @_;
	wait_operation($control, $operation);
	return sql("SELECT concat_ws('|', state, step, message, detail, hint) FROM replica_operations WHERE operation = $operation");
}

sub touch { append_to_file("$dir/$_[0]", $_[1] // ''); return }

sub calls
{
	my ($name) = @_;
	return 0 unless -e "$dir/calls";
	return scalar grep { $_ eq "promote $name" } split /\n/, slurp_file("$dir/calls");
}

my $before = settings();

# --------------------------------------------------------------------------
note 'replica_explain';
# --------------------------------------------------------------------------
{
	my $name = replica('far');
	my $explain = sql("SELECT name, status, detail, hint FROM replica_explain('promote', '$name')");

	like($explain, qr/^source\|ok\|writes on the source are stopped by read-only databases/m, 'how writes are stopped');
	like($explain, qr/^source rights\|warning\|.*: postgres/m, 'databases of others');
	like($explain, qr/^service\|ok\|the service is ready/m, "the provider's checks");
	like($explain, qr{^promote\|ok\|have the service promote the replica: POST /promote/$name}m, 'the call that would be made');
	like($explain, qr/^replay lag\|warning\|.*not known/m, 'a lag that is not known is said to be');
	like($explain, qr/^connection\|warning/m, 'a replica that cannot be reached is no obstacle');
	unlike($explain, qr/sesame/, 'no password');
	like($explain, qr/^replica login\|ok/m, 'the replica can be made writable');
	like(outcome(promote(replica('far', promoted => 'host=127.0.0.1 port=1'))),
		qr/^failed\|check\|replica "m\d+" could not be made writable/, 'one that could not be is not promoted');

	touch('doubtful');
	like(sql("SELECT status, detail, hint FROM replica_explain('promote', '$name') WHERE name = 'service'"),
		qr/^warning\|the service of "$name" is doubtful\. There is a file\.\|Remove it\.$/, 'a doubt of the provider');
	unlink "$dir/doubtful";
	touch('blocked');
	like(sql("SELECT status, detail FROM replica_explain('promote', '$name') WHERE name = 'service'"),
		qr/^blocked\|the service is not ready/, 'an obstacle');
	like(outcome(promote($name)), qr/^failed\|check\|the service is not ready/, 'which stops the operation');
	unlink "$dir/blocked";
	is(settings(), $before, 'the source was not touched');

	$name = replica('nowhere');
	like(outcome(promote($name)), qr/^failed\|check\|writes on the source of replica "$name" cannot be stopped.*source_conninfo/,
		'nobody can stop writes');
	like(outcome(promote($name, q{source_after => 'standby'})), qr/^failed\|check\|the source of replica "$name" cannot become a replica/,
		'source_after standby');
	like(psql_error($control, "SELECT replica_promote('$name', source_after => 'nonsense')"), qr/invalid source_after/, 'nonsense');
	like(sql("SELECT string_agg(status, ',') FROM replica_explain('drill', '$name') WHERE name = 'source'"), qr/blocked/, 'no drill');
}

# --------------------------------------------------------------------------
note 'a planned promotion under load';
# --------------------------------------------------------------------------
{
	my $standby = standby('standby1');
	my $name = replica('far', conninfo => 'dbname=postgres ' . $standby->connstr);
	my @run;

	# Two writers that know, and one that overrules the setting; an open transaction.
	for my $client (1 .. 3)
	{
		local $ENV{PGOPTIONS} = $client == 3 ? '-c default_transaction_read_only=off' : '';
		my $loop = q{for i in $(seq 2000); do psql -XAtq -h "$0" -p "$1" -U app -d app -c "INSERT INTO t VALUES ($2) RETURNING i" >>"$3" || sleep 0.05; done};
		push @run, IPC::Run::start([ 'sh', '-c', $loop, $source->host, $source->port, $client, "$dir/acked.$client" ],
			'>', '/dev/null', '2>', '/dev/null');
	}
	my $open = IPC::Run::start([ 'psql', '-XAtq', '-h', $source->host, '-p', $source->port, '-U', 'app', '-d', 'app',
			'-c', 'BEGIN; INSERT INTO t VALUES (-1); SELECT pg_sleep(60)' ], '>', '/dev/null', '2>', '/dev/null');
	sleep 1;
	my $operation = promote($name, q{drain => '200ms', timeout => '40s'});
	my $state = wait_operation($control, $operation);
	$_->kill_kill for @run, $open;
	is($state, 'succeeded', 'planned promotion of a standby of another server') or diag outcome($operation);
	is($standby->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 'f', 'it is a primary');
	is(calls($name), 1, 'the service was called once');

	my $event = sql("SELECT detail->>'fence_lsn', detail->>'terraform', detail ? 'writes_stopped_ms' FROM replica_events WHERE kind = 'promoted' AND replica = '$name'");
	like($event, qr{^[0-9A-F]+/[0-9A-F]+\|remove the block\|t$}, 'the event');
	for my $client (1 .. 3)
	{
		my $acked = () = slurp_file("$dir/acked.$client") =~ /^\d/mg;
		my $there = $standby->safe_psql('app', "SELECT count(*) FROM t WHERE i = $client");
		my $told = sql("SELECT count(*) FROM replica_events WHERE kind = 'source_written' AND replica = '$name'");

		note "client $client: $acked acknowledged, $there on the new primary";
		cmp_ok($acked, '>', 0, "client $client wrote");
		ok($there >= $acked || ($client == 3 && $told), "client $client: nothing was lost" . ($client == 3 ? ', or it was told' : ''));
	}
	is($source->safe_psql('app', 'SELECT count(*) FROM t WHERE i = -1'), '0', 'the open transaction was ended');
	is(($standby->psql('app', 'INSERT INTO t VALUES (-3)', extra_params => [ '-U', 'app' ]))[0], 0, 'the new primary takes writes');
	is($standby->safe_psql('postgres', $settings_sql), $before, 'by the settings that the source had');
	like(psql_error($source, 'INSERT INTO t VALUES (-2)', dbname => 'app', extra_params => [ '-U', 'app' ]), qr/25006/, 'the source stays read-only');
	isnt(settings(), $before, 'by its settings');
	$source->safe_psql('postgres', q{SET default_transaction_read_only = off;
		ALTER DATABASE app RESET default_transaction_read_only});
	$source->safe_psql('postgres', q{SET default_transaction_read_only = off;
		ALTER DATABASE "the ""other""" RESET default_transaction_read_only});
	$source->safe_psql('postgres', q{SET default_transaction_read_only = off;
		ALTER DATABASE loose SET default_transaction_read_only = 'off'});
	is(settings(), $before, 'nothing else was changed');
	$standby->stop('immediate');
}

# --------------------------------------------------------------------------
note 'undo';
# --------------------------------------------------------------------------
{
	my $name = replica('far');

	touch('lag', 'unknown');
	my $outcome = outcome(promote($name, q{timeout => '2s', drain => '0s'}));
	like($outcome, qr/^failed\|zero_lag\|replica "$name" was not ready in time\|.*there are no data about its lag/, 'no data are no proof');
	is(settings(), $before, 'the settings are as before');
	is(calls($name), 0, 'the service was not called');

	my $operation = promote($name, q{timeout => '60s', drain => '0s'});
	wait_for($control, "SELECT step = 'zero_lag' FROM replica_operations WHERE operation = $operation");
	isnt(settings(), $before, 'read-only');
	like(sql("SELECT object FROM replica_ctl.cleanup WHERE operation_id = $operation"), qr/"app": ""/, 'what to undo is recorded');
	$control->stop('immediate');
	$control->start;
	wait_for($control, "SELECT step = 'zero_lag' AND state = 'running' FROM replica_operations WHERE operation = $operation");
	sql("SELECT replica_cancel($operation)");
	like(outcome($operation), qr/^cancelled/, 'cancelled after a crash of the server');
	is(settings(), $before, 'the settings are as before');
	unlink "$dir/lag";

	touch('refuse');
	like(outcome(promote($name)), qr/^failed\|promote\|the service refuses/, 'a refusal is no doubt');
	is(settings(), $before, 'the settings are as before');
	is(sql("SELECT state FROM replica_ctl.replica WHERE name = '$name'"), 'streaming', 'the replica is one as before');
	unlink "$dir/refuse";

	touch('lose');
	like(outcome(promote($name, q{source_after => 'read_write'})), qr/^succeeded/, 'a lost answer is settled by looking');
	is(calls($name), 2, 'without another call');
	is(settings(), $before, 'source_after read_write');
}

# --------------------------------------------------------------------------
note 'kill -9 of the worker';
# --------------------------------------------------------------------------
for my $place (qw(check.after fence.before fence.after zero_lag.after promote.before promote.after verify.after unlink.after after.before))
{
	my $name = replica('far', fault => "promote.$place=crash*1");

	like(outcome(promote($name, q{source_after => 'read_write', drain => '0s'})), qr/^succeeded/, "killed at $place: it went on");
	is(settings() eq $before && calls($name), 1, "killed at $place: one call, and the source as before");
}
{
	my $name = replica('far', fault => 'promote.zero_lag.after=22000;undo.source_read_only.before=crash*1;undo.source_read_only.after=crash*1');

	like(outcome(promote($name, q{drain => '0s'})), qr/^failed\|zero_lag\|injected fault/, 'killed in the undo');
	is(settings(), $before, 'the settings are as before');
}

# --------------------------------------------------------------------------
note 'a source that is not there for the undo';
# --------------------------------------------------------------------------
{
	my $name = replica('far');

	touch('lag', '5');
	my $operation = promote($name, q{drain => '0s'});
	wait_for($control, "SELECT step = 'zero_lag' FROM replica_operations WHERE operation = $operation");
	$source->stop('fast');
	sql("SELECT replica_cancel($operation)");
	sleep 1;
	$source->start;
	like(outcome($operation), qr/^cancelled/, 'the undo waits for it');
	is(settings(), $before, 'the settings are as before');
	unlink "$dir/lag";
}

# --------------------------------------------------------------------------
note 'what the source must be like';
# --------------------------------------------------------------------------
{
	my $name = replica('far');

	$source->safe_psql('app', q{BEGIN; INSERT INTO t VALUES (0); PREPARE TRANSACTION 'p'});
	like(outcome(promote($name)), qr/^failed\|check\|1 transactions are prepared.*COMMIT PREPARED 'p'/, 'a prepared transaction');
	$source->safe_psql('app', q{ROLLBACK PREPARED 'p'; ALTER ROLE app SET default_transaction_read_only = off});
	like(outcome(promote($name)), qr/^failed\|check\|roles of the source have .* app\|/, 'a role that overrules');
	$source->safe_psql('postgres', 'ALTER ROLE app RESET ALL; REVOKE pg_signal_backend FROM manager');
	like(outcome(promote($name)), qr/^failed\|check\|role "manager" may not see and end sessions/, 'rights');
	$source->safe_psql('postgres', 'GRANT pg_signal_backend TO manager');

	sql('CREATE ROLE ops LOGIN; GRANT USAGE ON FOREIGN SERVER far TO ops; GRANT EXECUTE ON FUNCTION replica_promote TO ops;'
		  . 'GRANT USAGE ON SCHEMA replica_ctl TO ops');
	my ($rc, $out, $err) = $control->psql('postgres', "SELECT replica_promote('$name')", extra_params => [ '-U', 'ops' ]);
	like(outcome($out), qr/^failed\|check\|password for the source of replica "$name" is missing/, 'no superuser without a password');
	sql(q{CREATE USER MAPPING FOR ops SERVER far OPTIONS (source_password 'wrong')});
	($rc, $out, $err) = $control->psql('postgres', "SELECT replica_promote('$name')", extra_params => [ '-U', 'ops' ]);
	like(outcome($out), qr/^failed\|check\|could not connect to source of replica "$name"/, 'a wrong password');
	unlike(outcome($out) . sql('SELECT string_agg(detail::text, \' \') FROM replica_events'), qr/wrong|sesame/, 'which nobody sees');
	like(psql_error($control, q{ALTER SERVER far OPTIONS (SET source_conninfo 'host=x password=secret')}),
		qr/must not hold a password.*source_password/s, 'a password in the wrong place');
	like(psql_error($control, q{ALTER SERVER far OPTIONS (SET source_conninfo 'nonsense')}), qr/not a connection string/, 'nonsense');
	is(settings(), $before, 'the settings are as before');
}

# --------------------------------------------------------------------------
note 'other ways';
# --------------------------------------------------------------------------
{
	my $writer = IPC::Run::start([ 'psql', '-XAtq', '-h', $source->host, '-p', $source->port, '-U', 'app', '-d', 'app',
			'-c', 'BEGIN; INSERT INTO t VALUES (0); SELECT pg_sleep(60)' ], '>', '/dev/null', '2>', '/dev/null');
	wait_until(sub { $source->safe_psql('postgres', 'SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL') }, 'a writer');
	my $name = replica('watched');
	like(outcome(promote($name)), qr/^failed\|fence\|the source of replica "$name" still takes writes\|.*process \d+ of app/, 'external, but untrue');
	$source->safe_psql('postgres', 'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_xid IS NOT NULL');
	$writer->finish;
	wait_until(sub { !$source->safe_psql('postgres', 'SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL') }, 'no writer');
	like(outcome(promote($name)), qr/^succeeded/, 'external, and true');
	like(outcome(promote(replica('vouched'))), qr/^succeeded/, 'external, and not verifiable');
	is(settings(), $before, 'the source was not touched');

	$name = replica('serviced');
	like(outcome(promote($name)), qr/^succeeded/, 'the service stops the source');
	$name = replica('serviced');
	like(outcome(sql("SELECT replica_switchover('$name')")), qr/^succeeded/, 'where the source follows it is a switchover');
	like(outcome(promote(replica('serviced'), q{source_after => 'read_write'})), qr/^failed\|check\|the source of .* becomes a replica/,
		'and cannot be anything else');

	$name = replica('far');
	my $operation = promote($name, q{mode => 'forced'});
	like(outcome($operation), qr/^succeeded/, 'forced');
	is(sql("SELECT detail->>'lag_seconds', detail->>'lag_source', detail ? 'source_lsn', detail ? 'lost_bytes' FROM replica_events"
			  . " WHERE kind = 'promoted' AND replica = '$name'"), '7|mock|t|f', 'its receipt, as far as it is known');

	$name = replica('far');
	like(outcome(sql("SELECT replica_drill('$name', drain => '0s')")), qr/^succeeded/, 'a drill with a source elsewhere');
	is(settings(), $before, 'the settings are as before');
	ok(calls($name) == 0, 'nothing was promoted');
	like(sql("SELECT status, detail FROM replica_explain('drill', '" . replica('serviced') . "') WHERE name = 'source'"),
		qr/^blocked\|a drill with replica .* would stop no writes/, 'a drill that would be none');

	$name = replica('here');
	sql('CREATE TABLE t (i int)');
	touch('lag', 'unknown');
	$operation = promote($name, q{timeout => '1500ms'});
	wait_for($control, "SELECT step = 'zero_lag' FROM replica_operations WHERE operation = $operation");
	is(sql('SHOW default_transaction_read_only'), 'on', 'this server as the source: fenced');
	like(outcome($operation), qr/^failed\|zero_lag/, 'undone');
	is(sql('INSERT INTO t VALUES (1) RETURNING i'), '1', 'and takes writes again');
	unlink "$dir/lag";
	like(outcome(promote($name)), qr/^succeeded/, 'promoted');
	like(psql_error($control, 'INSERT INTO t VALUES (2)'), qr/was promoted in place of this server/, 'this server stays fenced');
	sql('SELECT replica_unfence()');
}

done_testing();
