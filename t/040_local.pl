# 040_local.pl
#	  Local replicas that work: every option, on a stock initdb cluster with
#	  checksums and tablespaces, and nothing left of them after a drop.

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;

my $primary = new_primary('main',
	initdb => ['--data-checksums'],
	conf => "archive_command = 'exit 1'\nwork_mem = '5MB'\nlog_line_prefix = 'it''s \\\\ %p '");
my $dir = replica_dir($primary);

sub sql { return $primary->safe_psql('postgres', $_[0]); }

# A query on a replica, as the superuser over its socket.
sub on
{
	my ($replica, $sql) = @_;
	my $port = sql("SELECT facts->>'port' FROM replica_ctl.replica WHERE name = " . literal($replica));
	my ($out, $err);

	IPC::Run::run([ 'psql', '-XAtq', '-h', $primary->host, '-p', $port, '-d', 'postgres', '-c', $sql ],
		'>', \$out, '2>', \$err);
	chomp($out, $err);
	return $out . $err;
}

sub literal
{
	my ($text) = @_;
	$text =~ s/'/''/g;
	return "'$text'";
}

sub create
{
	my ($name, $options) = @_;
	my $quoted = literal($name);

	sql("SELECT replica_create($quoted, options => " . literal($options // '{}') . ')');
	return sql("SELECT replica_wait($quoted, '60s')");
}

sub drop
{
	my ($name) = @_;
	my $quoted = literal($name);

	sql("SELECT replica_drop($quoted)");
	return sql("SELECT replica_wait($quoted, '60s')");
}

sub fact
{
	my ($name, $fact) = @_;
	return sql("SELECT facts->>'$fact' FROM replica_ctl.replica WHERE name = " . literal($name));
}

#
# No options at all.
#
sql('CREATE TABLE t AS SELECT generate_series(1, 1000) AS i');
is(create('r1'), 'succeeded', 'a replica without options');
is(on('r1', 'SELECT count(*), pg_is_in_recovery() FROM t'), '1000|t', 'it has the rows and is a standby');
is(sql(q{SELECT state, application_name FROM pg_stat_replication}), 'streaming|replica_ctl_r1', 'it streams');
is(sql(q{SELECT active, wal_status FROM pg_replication_slots WHERE slot_name = 'replica_ctl_r1'}),
	't|reserved', 'through its own slot');
is(on('r1', 'SHOW data_checksums'), 'on', 'checksums stay');
is(on('r1', 'SHOW work_mem'), '5MB', 'settings are carried over');
is(on('r1', 'SHOW log_line_prefix'), q{it's \\ %p }, 'with quotes and backslashes');
is(on('r1', 'SHOW cluster_name'), 'r1', 'it has a cluster_name of its own');
is(on('r1', 'SHOW archive_command'), '(disabled)', 'no archive_mode, no archive_command');
is((stat "$dir/r1")[2] & 07777, 0700, 'its directory is private');
ok(!-e "$dir/r1/backup_manifest", 'no stale manifest');
sql('INSERT INTO t VALUES (1001)');
my $lsn = sql('SELECT pg_current_wal_lsn()');
wait_for($primary, "SELECT replay_lsn >= '$lsn' FROM pg_stat_replication");
is(on('r1', 'SELECT max(i) FROM t'), '1001', 'it follows');

#
# It is a daemon of its own: stopping the primary, in whatever way, leaves it.
#
my ($pid) = slurp_file("$dir/r1/postmaster.pid") =~ /^(\d+)/;
$primary->stop('immediate');
ok(kill(0, $pid), 'it survives an immediate stop of the primary');
$primary->start;
crash($primary);
ok(kill(0, $pid), 'and a kill -9 of its postmaster');
$primary->start;
wait_for($primary, q{SELECT state = 'streaming' FROM pg_stat_replication});
pass('it streams again');
{
	my $environment = slurp_file("/proc/$pid/environ");
	unlike($environment, qr/NOTIFY_SOCKET|PGDATA|PGPORT|PGHOST/, 'its environment is its own');
}
system_or_bail('pg_ctl', '-D', "$dir/r1", '-w', '-l', "$dir/r1/log/replica_ctl.log", 'restart');
wait_for($primary, q{SELECT state = 'streaming' FROM pg_stat_replication});
pass('pg_ctl can restart it');

#
# A second one takes another port; cascading.
#
is(create('r2', '{"upstream": "r1"}'), 'succeeded', 'a cascaded replica');
isnt(fact('r2', 'port'), fact('r1', 'port'), 'ports differ');
is(on('r1', 'SELECT application_name FROM pg_stat_replication'), 'replica_ctl_r2', 'it follows the first one');
is(on('r1', q{SELECT slot_name, active FROM pg_replication_slots}), 'replica_ctl_r2|t', 'by a slot there');
is(sql('SELECT count(*) FROM pg_replication_slots'), '1', 'not by one here');
is(on('r2', 'SELECT max(i) FROM t'), '1001', 'and has the rows');
sql("SELECT replica_drop('r1')");
like(psql_error($primary, "SELECT replica_wait('r1', '60s')"),
	qr/2BP01.*other replicas follow replica "r1".*Drop those first/s, 'a replica that others follow is not dropped');
is(on('r1', 'SELECT pg_is_in_recovery()'), 't', 'it was not touched');
is(drop('r2'), 'succeeded', 'drop of the cascaded one');
is(on('r1', 'SELECT count(*) FROM pg_replication_slots'), '0', 'its slot on the other is gone');
is(drop('r1'), 'succeeded', 'drop of the first one');
no_orphans_ok($primary);

#
# Tablespaces: default places, then a mapping; and one that is in use below.
#
my $space1 = PostgreSQL::Test::Utils::tempdir('space1');
my $space2 = PostgreSQL::Test::Utils::tempdir('space2');
sql("CREATE TABLESPACE one LOCATION '$space1'");
sql("CREATE TABLESPACE two LOCATION '$space2'");
sql('CREATE TABLE t1 TABLESPACE one AS SELECT generate_series(1, 10) AS i');
sql('CREATE TABLE t2 TABLESPACE two AS SELECT generate_series(1, 20) AS i');
is(create('spaces'), 'succeeded', 'a replica with tablespaces');
is(on('spaces', 'SELECT (SELECT count(*) FROM t1) + (SELECT count(*) FROM t2)'), '30', 'with their tables');
like(on('spaces', q{SELECT string_agg(pg_tablespace_location(oid), ' ') FROM pg_tablespace WHERE spcname IN ('one', 'two')}),
	qr{^\Q$dir\E/spaces_tablespaces/\d+ \Q$dir\E/spaces_tablespaces/\d+$}, 'in directories next to it');
wait_for($primary, q{SELECT connected FROM replica_status WHERE replica = 'spaces'});
my $space3 = PostgreSQL::Test::Utils::tempdir('space3');
like(psql_error($primary, "CREATE TABLESPACE three LOCATION '$space3'"),
	qr/55000.*cannot be created while replica "spaces" is on the same host.*HINT.*replica_drop\('spaces'\)/s,
	'a tablespace that the replica would use as well');
is(sql(q{SET allow_in_place_tablespaces = on; CREATE TABLESPACE inside LOCATION ''; DROP TABLESPACE inside; SELECT 1}), '1',
	'but for one inside the data directory');
is(drop('spaces'), 'succeeded', 'dropped');
no_orphans_ok($primary);

my $target = PostgreSQL::Test::Utils::tempdir('targets') . '/a=b c';
is(create('spaces', qq({"tablespace_mapping": {"$space1": "$target"}})), 'succeeded', 'a replica with a mapping');
is(on('spaces', q{SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'one'}), $target, 'is there');
is(drop('spaces'), 'succeeded', 'dropped');
ok(!-e $target, 'with the mapped directory');
no_orphans_ok($primary);
sql("SELECT replica_create('spaces', options => '{\"tablespace_mapping\": {\"/nowhere\": \"/tmp/x\"}}')");
like(psql_error($primary, "SELECT replica_wait('spaces', '60s')"), qr/22023.*names "\/nowhere"/, 'a mapping of nothing');
sql("SELECT replica_create('spaces', options => '{\"tablespace_mapping\": {\"$space1\": \"$space2/x\"}}')");
like(psql_error($primary, "SELECT replica_wait('spaces', '60s')"), qr/22023.*is inside a tablespace/, 'a mapping into a tablespace');
drop('spaces');
sql('DROP TABLE t1'); sql('DROP TABLE t2');
sql('DROP TABLESPACE one'); sql('DROP TABLESPACE two');

#
# The other options.
#
my $own = PostgreSQL::Test::Utils::tempdir('own');
my $port = free_port();
is(create('opts', qq({"data_directory": "$own", "port": $port, "listen_addresses": "127.0.0.1",
	"settings": {"work_mem": "7MB", "log_min_duration_statement": "10s", "max_connections": 60, "my.setting": "it's"},
	"apply_delay": "2 seconds", "max_rate": 1048576, "checkpoint": "spread"})), 'succeeded', 'a replica with options');
is(fact('opts', 'port'), $port, 'port');
is(fact('opts', 'host'), '127.0.0.1', 'host');
is(on('opts', 'SHOW data_directory'), $own, 'data_directory');
is(on('opts', 'SHOW work_mem'), '7MB', 'settings');
is(on('opts', 'SHOW max_connections'), '60', 'a setting that may be raised');
is(on('opts', 'SHOW my.setting'), "it's", 'a setting of no library');
is(on('opts', 'SHOW recovery_min_apply_delay'), '2s', 'apply_delay');
drop('opts');
ok(-d $own, 'a directory that existed stays');
is(join(' ', glob "$own/*"), '', 'and is empty');
no_orphans_ok($primary);

#
# Synchronous: the name comes and goes, whatever else is in the list.
#
is(create('sync', '{"synchronous": true}'), 'succeeded', 'a synchronous replica');
wait_for($primary, q{SELECT sync_state = 'sync' FROM pg_stat_replication});
is(sql('SHOW synchronous_standby_names'), 'replica_ctl_sync', 'its name is in the list');
is(drop('sync'), 'succeeded', 'dropped');
wait_for($primary, q{SELECT current_setting('synchronous_standby_names') = ''});
unlike(slurp_file($primary->data_dir . '/postgresql.auto.conf'), qr/synchronous_standby_names/, 'no trace of it');

$primary->append_conf('postgresql.conf', q{synchronous_standby_names = 'ANY 1 (other, "Other, too")'});
$primary->reload;
# nobody of the list is there: commits of others would hang, ours must not
$primary->append_conf('postgresql.conf', q{synchronous_commit = local});
$primary->reload;
is(create('sync', '{"synchronous": true}'), 'succeeded', 'another, with others in the list');
wait_for($primary, q{SELECT current_setting('synchronous_standby_names') = 'ANY 1 (other, "Other, too", replica_ctl_sync)'});
is(drop('sync'), 'succeeded', 'dropped');
wait_for($primary, q{SELECT current_setting('synchronous_standby_names') = 'ANY 1 (other, "Other, too")'});

# one that leaves, by promotion or detached, must not be waited for
is(create('sync', '{"synchronous": true}'), 'succeeded', 'another');
sql(q{SELECT replica_promote('sync', mode => 'forced')});
is(sql(q{SELECT replica_wait('sync', '60s')}), 'succeeded', 'promoted');
wait_for($primary, q{SELECT current_setting('synchronous_standby_names') = 'ANY 1 (other, "Other, too")'});
sql(q{SELECT replica_drop('sync', force => true)});
wait_for($primary, q{SELECT count(*) = 0 FROM replica_ctl.replica});
unlike(slurp_file($primary->data_dir . '/postgresql.auto.conf'), qr/synchronous_standby_names/, 'no trace of it');
no_orphans_ok($primary);

#
# A directory whose name would mean something to a shell or a configuration file.
#
{
	my $odd = PostgreSQL::Test::Utils::tempdir('odd') . q{/it's "a" $(touch hurt) \\\\ %d};
	(my $json = $odd) =~ s/(["\\])/\\$1/g;
	is(create('odd', qq({"data_directory": "$json"})), 'succeeded', 'an odd directory');
	ok(-e "$odd/PG_VERSION", 'it is there');
	sql(q{SELECT replica_repair('odd')});
	is(sql(q{SELECT replica_wait('odd', '60s')}), 'succeeded', 'repaired there');
	is(drop('odd'), 'succeeded', 'dropped');
	ok(!-e $odd, 'and gone');
}

#
# Several at once: ports and names do not clash.
#
sql(q{SELECT replica_create('many' || i) FROM generate_series(1, 4) i});
for my $i (1 .. 4)
{
	is(sql("SELECT replica_wait('many$i', '60s')"), 'succeeded', "one of several at once");
}
is(sql(q{SELECT count(DISTINCT facts->>'port') FROM replica_ctl.replica}), '4', 'each has its own port');
is(sql(q{SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'}), '4', 'all stream');
sql(q{SELECT replica_drop('many' || i) FROM generate_series(1, 4) i});
wait_for($primary, q{SELECT count(*) = 0 FROM replica_ctl.replica});
no_orphans_ok($primary);

#
# Names.
#
my %names = (
	q{it's "quoted"} => qr/^replica_ctl_it_s__quoted__\d+$/,
	'UPPER' => qr/^replica_ctl_upper_\d+$/,
	'../up' => qr/^replica_ctl____up_\d+$/,
	'-rf' => qr/^replica_ctl__rf_\d+$/,
	'n' x 63 => qr/^replica_ctl_n+_\d+$/,
	"\x{c3}\x{b6}l" => qr/^replica_ctl_+l_\d+$/,
);
for my $name (sort keys %names)
{
	is(create($name), 'succeeded', "replica $name");
	like(fact($name, 'slot'), $names{$name}, 'its slot');
	is(index(fact($name, 'data_directory'), "$dir/"), 0, 'its directory is below the directory of replicas');
	is(drop($name), 'succeeded', 'dropped');
}
no_orphans_ok($primary);

done_testing();
