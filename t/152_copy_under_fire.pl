# 152_copy_under_fire.pl
#	  A copy, and a resync, while relations are made, extended, cut, dropped and
#	  rewritten, databases and tablespaces come and go, and checkpoints are
#	  made.  Afterwards everything is compared with the primary at one LSN.
#
#	  RCTL_TEST_ROUNDS=100 makes as many copies; each at another moment and
#	  with another number of threads, by RCTL_TEST_SEED.
#
# slow

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use ReplicaCtl;

my $rounds = $ENV{RCTL_TEST_ROUNDS} || 1;
my $seed = $ENV{RCTL_TEST_SEED} || time;
my $primary = new_primary('main', initdb => ['--data-checksums'],
	conf => "max_wal_size = 256MB\nallow_in_place_tablespaces = on\nautovacuum_naptime = 1\nlog_statement = none");
my $dir = replica_dir($primary);
chomp(my $bindir = `pg_config --bindir`);

srand($seed);
note "seed $seed";

sub sql { return $primary->safe_psql('postgres', $_[0]) }

sub succeeded_ok
{
	my ($call, $name) = @_;
	my $operation = sql("SELECT $call");

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(wait_operation($primary, $operation, 300), 'succeeded', $name)
	  or diag(sql("SELECT message, detail, hint FROM replica_operations WHERE operation = $operation"));
	return $operation;
}

#
# The fire: clients that go on until they are told to stop
#
my @clients;

sub fire
{
	my ($sql, $dbname) = @_;
	my $stop = $primary->basedir . '/stop';
	my $pid = fork // die "fork: $!";

	if ($pid == 0)
	{
		# no test of ours ends with this process
		$SIG{TERM} = 'DEFAULT';
		for (my $i = 0; !-e $stop; $i++)
		{
			(my $statements = $sql) =~ s/%i/$i/g;
			open STDERR, '>', '/dev/null';
			open STDOUT, '>', '/dev/null';
			system("$bindir/psql", '-Xq', '-h', $primary->host, '-p', $primary->port, '-d', $dbname // 'postgres', '-c', $_)
			  for split /;\s*/, $statements;
		}
		require POSIX;
		POSIX::_exit(0);
	}
	push @clients, $pid;
	return;
}

sub start_fire
{
	my $bench = "$bindir/pgbench";

	fire(q{CREATE TABLE made%i AS SELECT g AS id, repeat('x', 200) AS text FROM generate_series(1, 3000) g;
		CREATE INDEX ON made%i (id); DELETE FROM made%i WHERE id % 3 = 0; VACUUM FULL made%i;
		TRUNCATE made%i; INSERT INTO made%i VALUES (1, 'y'); DROP TABLE IF EXISTS old; ALTER TABLE made%i RENAME TO old});
	fire(q{DELETE FROM grown WHERE id > 2000; VACUUM grown; INSERT INTO grown SELECT g, repeat('z', 100) FROM generate_series(2001, 20000) g;
		CLUSTER grown USING grown_pkey; CHECKPOINT});
	fire(q{CREATE DATABASE d%i; DROP DATABASE d%i; CREATE DATABASE e%i STRATEGY file_copy; DROP DATABASE e%i});
	fire(q{CREATE TABLESPACE ts%i LOCATION ''; CREATE TABLE in_ts%i TABLESPACE ts%i AS SELECT generate_series(1, 5000) AS id;
		CREATE UNLOGGED TABLE u%i AS SELECT generate_series(1, 1000) AS id; DROP TABLE in_ts%i; DROP TABLE u%i; DROP TABLESPACE ts%i});
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		open STDERR, '>', '/dev/null';
		open STDOUT, '>', '/dev/null';
		exec $bench, '-n', '-h', $primary->host, '-p', $primary->port, '-c', 2, '-T', 600, 'postgres';
	}
	push @clients, $pid;
	return;
}

sub stop_fire
{
	my $stop = $primary->basedir . '/stop';

	append_to_file($stop, 'x');
	kill 'TERM', $clients[-1] if @clients;
	waitpid $_, 0 for @clients;
	@clients = ();
	unlink $stop;
	wait_for($primary, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name IN ('psql', 'pgbench')});
	return;
}

END { stop_fire() if @clients }

#
# Everything there is, database by database: contents of tables by md5
#
my $tables = q{
	SELECT string_agg(format('SELECT %L, md5(string_agg(md5, '','' ORDER BY md5)) FROM (SELECT md5(t::text) FROM %s t) x',
		oid::regclass, oid::regclass), ' UNION ALL ' ORDER BY oid::regclass::text COLLATE "C")
	FROM pg_class WHERE relkind IN ('r', 'm') AND relpersistence = 'p'
	AND oid NOT IN ('pg_statistic'::regclass) AND relnamespace NOT IN ('replica_ctl'::regnamespace)};

sub everything
{
	my ($server) = @_;
	my $query = sql($tables);
	return ask($server, $query);
}

# What both have at one LSN.  The fire is out, but an autovacuum worker may
# still be changing pg_class: then they are asked again.
sub both_at_one_lsn
{
	my ($replica) = @_;

	for (1 .. 100)
	{
		my $lsn = sql(q{SELECT pg_create_restore_point('comparison')});
		wait_ask($replica, "SELECT pg_last_wal_replay_lsn() >= '$lsn'", 120);
		my @both = (everything(server_of($primary, 'main')), everything($replica));

		return @both if sql('SELECT pg_current_wal_insert_lsn()') eq $lsn;
		sleep 0.1;
	}
	die 'the primary does not come to rest';
}

# The lines that only one of the two has
sub differences
{
	my %seen;

	$seen{$_}++ for map { split /\n/ } @_;
	return join "\n", sort grep { $seen{$_} == 1 } keys %seen;
}

sub equal_ok
{
	my ($name) = @_;
	my $replica = server_of($primary, $name);
	my ($expected, $got) = both_at_one_lsn($replica);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like($expected, qr/^still\|[0-9a-f]{32}$/m, 'there is something to compare');
	is(differences($expected, $got), '', "$name: every table is the same");
	is(ask($replica, 'SELECT string_agg(datname::text, $$ $$ ORDER BY 1) FROM pg_database'),
		sql('SELECT string_agg(datname::text, $$ $$ ORDER BY 1) FROM pg_database'), "$name: the databases are the same");
	is(system("$bindir/pg_amcheck", '-h', $replica->{host}, '-p', $replica->{port}, '--all', '--exclude-schema=replica_ctl',
			'--heapallindexed', '--no-dependent-toast') , 0, "$name: pg_amcheck finds nothing");
	return;
}

# With its server stopped; it is started by a repair.
sub checksums_ok
{
	my ($name) = @_;

	system_or_bail("$bindir/pg_ctl", '-D', "$dir/$name", '-m', 'fast', '-w', '-s', 'stop');
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(system("$bindir/pg_checksums", '-D', "$dir/$name", '--check'), 0, "$name: pg_checksums finds nothing");
	return;
}

sql(q{CREATE EXTENSION amcheck; CREATE TABLE grown (id int PRIMARY KEY, text text);
	INSERT INTO grown SELECT g, repeat('z', 100) FROM generate_series(1, 20000) g;
	CREATE TABLE still AS SELECT g AS id, md5(g::text) AS text FROM generate_series(1, 100000) g;
	CREATE INDEX ON still (text)});
$primary->command_ok([ 'pgbench', '-i', '-q', '-s', 2, '-h', $primary->host, '-p', $primary->port, 'postgres' ], 'pgbench -i');

for my $round (1 .. $rounds)
{
	my $name = "r$round";
	my $jobs = 1 + int(rand(4));

	start_fire();
	sleep rand(2);
	my $operation = succeeded_ok(qq{replica_create('$name', options => '{"jobs": $jobs, "max_rate": 24000}')},
		"$name: copied under fire by $jobs threads");
	note(sql("SELECT detail FROM replica_events WHERE operation = $operation AND kind = 'copied'"));
	is(sql("SELECT detail->>'bad_blocks' FROM replica_events WHERE operation = $operation AND kind = 'copied'"), '0',
		"$name: no checksum was wrong");
	stop_fire();
	equal_ok($name);
	checksums_ok($name);

	# it is lost
	sql("SELECT pg_drop_replication_slot('replica_ctl_$name')");
	sql('SELECT pg_switch_wal(); CREATE TABLE gap (); DROP TABLE gap; CHECKPOINT') for 1 .. 6;
	start_fire();
	sleep rand(2);
	$operation = succeeded_ok("replica_repair('$name')", "$name: repaired under fire");
	note(sql("SELECT detail FROM replica_events WHERE operation = $operation AND kind = 'resynced'"));
	is(sql("SELECT count(*) FROM replica_events WHERE operation = $operation AND kind = 'resynced'"), '1', "$name: by a resync");
	stop_fire();
	equal_ok($name);
	checksums_ok($name);
	succeeded_ok("replica_drop('$name')", "$name: dropped");
}
no_orphans_ok($primary);

done_testing();
