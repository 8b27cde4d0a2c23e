# 156_reflinks.pl
#	  On a file system whose files can share blocks: a copy needs little room,
#	  shares the blocks, and is made anew where others are made equal again.
#
#	  Needs a directory on such a file system, RCTL_TEST_XFS, with at least
#	  600 MB: dev/with-postgres makes one where it runs as root.

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;

my $mount = small_file_system() or plan skip_all => 'needs a file system with reflinks (RCTL_TEST_XFS)';

sub megabytes_free
{
	system_or_bail('sync', '-f', $mount);
	my ($free) = `df -B1 --output=avail "$mount"` =~ /(\d+)\s*$/;
	return $free / (1 << 20);
}

my $space = "$mount/space.$$";
$PostgreSQL::Test::Utils::tmp_check = $mount;
my $primary = new_primary('reflinks', conf => "max_wal_size = 48MB\nmin_wal_size = 32MB\nwal_keep_size = 0");
my $dir = replica_dir($primary);
chomp(my $bindir = `pg_config --bindir`);

sub sql { return $primary->safe_psql('postgres', $_[0]) }

sub operation
{
	my ($call) = @_;
	my $operation = sql("SELECT $call");

	wait_operation($primary, $operation, 120);
	return split /\|/, sql("SELECT state, operation, sqlstate, concat_ws(' / ', message, detail) FROM replica_operations WHERE operation = $operation");
}

sub told
{
	my ($operation, $key) = @_;
	return sql("SELECT detail->>'$key' FROM replica_events WHERE operation = $operation AND kind = 'copied'");
}

is(index($primary->data_dir, $mount), 0, 'the primary is there');
mkdir $space, 0700;
sql("CREATE TABLESPACE space LOCATION '$space'");
sql(q{CREATE TABLE t AS SELECT g AS id, repeat('x', 1000) AS text FROM generate_series(1, 100000) g});
sql(q{CREATE TABLE s TABLESPACE space AS SELECT g AS id, repeat('x', 1000) AS text FROM generate_series(1, 20000) g});
sql('CHECKPOINT');
my $size = sql('SELECT sum(pg_tablespace_size(oid)) FROM pg_tablespace') / (1 << 20);
my $ballast = megabytes_free() - 110;
system_or_bail('fallocate', '-l', int($ballast) . 'M', "$mount/ballast");
my $free = megabytes_free();
cmp_ok($free, '<', $size, sprintf('%.0f MB are free, less than the %.0f MB that there are to copy', $free, $size));

my ($state, $operation, $sqlstate, $error) = operation(q{replica_create('r1')});
is($state, 'succeeded', 'a replica is made nevertheless') or diag($error);
cmp_ok(told($operation, 'bytes_cloned') / (1 << 20), '>', $size * 0.9, 'its blocks are shared');
cmp_ok(told($operation, 'bytes_written') / (1 << 20), '<', 1, 'and not written');
cmp_ok($free - megabytes_free(), '<', 75, 'it takes no more room than its WAL');
my $replica = server_of($primary, 'r1');
wait_ask($replica, 'SELECT (SELECT count(*) FROM t) = 100000 AND (SELECT count(*) FROM s) = 20000');

# one that is lost: a new copy costs nothing, and the old one is a fallback
system_or_bail("$bindir/pg_ctl", '-D', "$dir/r1", '-m', 'fast', '-w', '-s', 'stop');
sql(q{SELECT pg_drop_replication_slot('replica_ctl_r1')});
sql('CREATE TABLE gap (); DROP TABLE gap; SELECT pg_switch_wal(); CHECKPOINT') for 1 .. 4;
($state, $operation, $sqlstate, $error) = operation(q{replica_repair('r1')});
is($state, 'succeeded', 'one that is lost is repaired') or diag($error);
is(sql("SELECT string_agg(kind, ' ' ORDER BY event) FROM replica_events WHERE operation = $operation AND kind IN ('copied', 'resynced', 'rewound')"),
	'copied', 'by a new copy');
($state, $operation, $sqlstate, $error) = operation(q{replica_drop('r1')});
is($state, 'succeeded', 'it is dropped') or diag($error);

# by ways that do not share
like(join('|', operation(q{replica_create('r2', options => '{"method": "basebackup"}')})),
	qr/failed\|.*53100.*not enough space.*It needs \d+ MB, and \d+ MB are free/, 'by a stream there is no room for it');
SKIP:
{
	skip 'needs a test build', 1 unless test_build($primary);
	set_fault($primary, 'copy.without=clone');
	like(sql(q{SELECT status || ' ' || detail FROM replica_explain('create', 'r2') WHERE name = 'disk'}),
		qr/blocked .*not enough space/, 'nor by a copy without sharing');
	set_fault($primary, '');
}
is(sql(q{SELECT status FROM replica_explain('create', 'r2') WHERE name = 'disk'}), 'ok', 'with it there is');
no_orphans_ok($primary);
$primary->stop;
unlink "$mount/ballast";
system_or_bail('rm', '-rf', $space);

done_testing();
