# 158_full_disk.pl
#	  The file system of a replica is another one than the primary's, and gets
#	  full: while a copy is made, and while an old copy is made equal again.
#
#	  Needs a small file system, RCTL_TEST_XFS: dev/with-postgres makes one
#	  where it runs as root.

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;

my $mount = small_file_system() or plan skip_all => 'needs a small file system (RCTL_TEST_XFS)';
my $place = "$mount/full.$$";
my $ballast = "$place/ballast";

mkdir $place, 0700;
my $primary = new_primary('main', initdb => ['--data-checksums'], conf => "max_wal_size = 64MB\nwal_keep_size = 0");
chomp(my $bindir = `pg_config --bindir`);

sub sql { return $primary->safe_psql('postgres', $_[0]) }

sub operation
{
	my ($call) = @_;
	my $operation = sql("SELECT $call");

	wait_operation($primary, $operation, 120);
	return ($operation, sql("SELECT state || ' ' || concat_ws(' / ', sqlstate, message, detail, hint) FROM replica_operations WHERE operation = $operation"));
}

# Leaves that many megabytes.
sub leave
{
	my ($megabytes) = @_;

	unlink $ballast;
	return unless defined $megabytes;
	system_or_bail('sync', '-f', $mount);
	my ($free) = `df -B1M --output=avail "$mount"` =~ /(\d+)\s*$/;
	system_or_bail('fallocate', '-l', ($free - $megabytes) . 'M', $ballast);
	return;
}

sub same_ok
{
	my ($name) = @_;
	my $lsn = sql('SELECT pg_current_wal_flush_lsn()');
	my $replica = server_of($primary, 'r');
	my $sum = 'SELECT count(*), sum(hashtext(t::text)) FROM t';

	wait_ask($replica, "SELECT pg_last_wal_replay_lsn() >= '$lsn'");
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(ask($replica, $sum), ask(server_of($primary, 'main'), $sum), $name);
}

sql(q{CREATE TABLE t AS SELECT g AS id, repeat('x', 500) AS text FROM generate_series(1, 40000) g; CHECKPOINT});
my $create = qq{replica_create('r', options => '{"data_directory": "$place/r", "max_rate": 40000}')};

# seen before
leave(15);
my ($operation, $state) = operation($create);
like($state, qr{^failed 53100 / not enough space for the replica in "\Q$place\E" / It needs \d+ MB, and \d+ MB are free\.}, 'that there is no room is seen before');

# it gets full while the copy is made
leave();
$operation = sql("SELECT $create");
wait_for($primary, "SELECT bytes_done > 0 FROM replica_operations WHERE operation = $operation");
leave(2);
wait_operation($primary, $operation);
like(sql("SELECT state || ' ' || concat_ws(' / ', sqlstate, message, hint) FROM replica_operations WHERE operation = $operation"),
	qr{^failed 53100 / the disk is full: could not (?:write|create) .* / Free some space}, 'it gets full while the copy is made');
no_orphans_ok($primary, 'nothing is left of that');
is_deeply([ grep { $_ ne $ballast } glob "$place/*" ], [], 'nor in its place');

leave();
($operation, $state) = operation($create);
like($state, qr/^succeeded/, 'with room it is made');
like(sql("SELECT detail->>'notes' FROM replica_events WHERE operation = $operation AND kind = 'copied'"),
	qr/Files were not cloned: Invalid cross-device link/, 'on another file system, which the event tells');
same_ok('with the same data');

#
# A resync
#
system_or_bail("$bindir/pg_ctl", '-D', "$place/r", '-m', 'fast', '-w', '-s', 'stop');
sql(q{SELECT pg_drop_replication_slot('replica_ctl_r')});
# more than the WAL that goes
sql(q{CREATE TABLE more AS SELECT g AS id, repeat('y', 1000) AS text FROM generate_series(1, 120000) g});
sql(q{UPDATE t SET text = 'z' || text WHERE id % 100 = 1});
for (1 .. 6) { sql('SELECT pg_switch_wal()'); sql('CREATE TABLE gap (); DROP TABLE gap; CHECKPOINT') }
leave(1);
($operation, $state) = operation(q{replica_repair('r')});
like($state, qr{^failed 53100 / the disk is full: could not (?:write|create) .* / Free some space}, 'a resync finds the disk full');
ok(-e "$place/r/replica_ctl.resync" && !-e "$place/r/global/pg_control", 'what is half done cannot start');
leave();
($operation, $state) = operation(q{replica_repair('r')});
like($state, qr/^succeeded/, 'with room the next repair goes on');
is(sql("SELECT count(*) FROM replica_events WHERE operation = $operation AND kind = 'resynced'"), '1', 'where it was');
same_ok('the data are the same');

($operation, $state) = operation(q{replica_drop('r')});
like($state, qr/^succeeded/, 'it is dropped');
no_orphans_ok($primary);

# somebody else's directory
SKIP:
{
	skip 'needs a directory that is not ours', 1 if $> == (stat '/usr/lib')[4];
	like(psql_error($primary, qq{SELECT replica_create('r', options => '{"data_directory": "/usr/lib"}')}),
		qr/ERROR:  (42501|55000|22023|58P02).*directory "\/usr\/lib"/s, "somebody else's directory is refused");
}
rmdir $place;

done_testing();
