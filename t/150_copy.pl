# 150_copy.pl
#	  Copies that are made from the files: the methods, what is left out, what
#	  is told about it, and what goes wrong.
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

my $primary = new_primary('main', initdb => ['--data-checksums']);
my $dir = replica_dir($primary);
my $data = $primary->data_dir;
chomp(my $bindir = `pg_config --bindir`);

sub sql { return $primary->safe_psql('postgres', $_[0]) }

sub create
{
	my ($name, $options, $server) = @_;
	$options //= '{}';
	$server //= 'local';
	return sql("SELECT replica_create('$name', '$server', '$options')");
}

sub created
{
	my ($name, $options) = @_;
	my $operation = create($name, $options);

	is(wait_operation($primary, $operation), 'succeeded', "replica $name is made")
	  or diag(sql("SELECT message, detail, hint FROM replica_operations WHERE operation = $operation"));
	return $operation;
}

sub failed
{
	my (@arguments) = @_;
	my $operation = create('bad', @arguments);

	is(wait_operation($primary, $operation), 'failed', 'a failure');
	return psql_error($primary, "SELECT replica_wait('bad')");
}

# What the latest event of a kind says.
sub event
{
	my ($kind, $key) = @_;
	return sql("SELECT detail->>'$key' FROM replica_events WHERE kind = '$kind' ORDER BY event DESC LIMIT 1");
}

sub dropped
{
	my ($name) = @_;
	is(wait_operation($primary, sql("SELECT replica_drop('$name')")), 'succeeded', "$name is dropped");
	return;
}

# Contents of table t there, as one value.
sub contents
{
	my ($server) = @_;
	return ask($server, q{SELECT count(*) || ' ' || md5(string_agg(t::text, ',' ORDER BY id)) FROM t});
}

sql(q{
	CREATE TABLE t AS SELECT g AS id, md5(g::text) AS text FROM generate_series(1, 50000) g;
	CREATE UNLOGGED TABLE u AS SELECT g AS id FROM generate_series(1, 1000) g;
	VACUUM t;});
my $unlogged = sql(q{SELECT pg_relation_filepath('u')});
my $session = $primary->background_psql('postgres');
$session->query_safe('CREATE TEMP TABLE temporary AS SELECT generate_series(1, 100)');
my ($temporary) = $session->query_safe(q{SELECT pg_relation_filepath('temporary')}) =~ m{(base/\S+)};
append_to_file("$data/pgsql_tmp.old", 'x');
append_to_file("$data/base/pgsql_tmp9.9", 'x');
sql('CHECKPOINT');

#
# What is copied, and what is not
#
created('r1');
is(sql(q{SELECT facts->>'method' FROM replica_ctl.replica}), 'copy', 'files that can be seen are copied');
is(event('copied', 'method'), 'copy', 'an event says so');
cmp_ok(event('copied', 'bytes'), '>', 20_000_000, 'with the bytes');
is(event('copied', 'bad_blocks'), '0', 'no checksum is wrong');
my $main = server_of($primary, 'main');
is(contents(server_of($primary, 'r1')), contents($main), 'it has the same data');
ok(-s "$data/$unlogged" && -f "$data/$temporary", 'there are an unlogged and a temporary table');
ok(!-s "$dir/r1/$unlogged", 'the unlogged table is empty');
ok(!-e "$dir/r1/$temporary", 'the temporary table is not there');
is_deeply([ grep { -e "$dir/r1/$_" } 'pgsql_tmp.old', 'base/pgsql_tmp9.9', 'backup_manifest' ], [],
	'nor are temporary files');
is_deeply([ glob "$dir/r1/pg_replslot/*" ], [], 'nor are slots');
is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_backup%' AND application_name = 'replica_ctl'}),
	'0', 'the session of the backup has ended');

$session->quit;

# from a replica
created('r2', '{"upstream": "r1", "jobs": 1}');
is(event('copied', 'method'), 'copy', 'a replica is copied, too');
is(contents(server_of($primary, 'r2')), contents($main), 'with the same data');
ok(!-e "$dir/r2/backup_label", 'the label has been used');
dropped('r2');

# by other methods
created('r2', '{"method": "basebackup"}');
is(sql(q{SELECT facts->>'method' FROM replica_ctl.replica WHERE name = 'r2'}), 'basebackup', 'pg_basebackup if asked for');
dropped('r2');

# to a file system of another kind
SKIP:
{
	my $shm = '/dev/shm';

	skip 'no second file system to copy to', 4 unless -w $shm && (stat $shm)[0] != (stat $data)[0];
	created('r2', qq({"data_directory": "$shm/replica_ctl_test_$$", "verify_checksums": "on"}));
	like(event('copied', 'notes'), qr/Files were not cloned: \w/, 'the event says what could not be used');
	is(contents(server_of($primary, 'r2')), contents($main), 'the data are the same');
	dropped('r2');
	ok(!-e "$shm/replica_ctl_test_$$", 'and gone with it');
}

# without what the file system may lack
SKIP:
{
	skip 'needs a test build', 4 unless test_build($primary);
	set_fault($primary, 'copy.without=clone,range,direct,syncfs');
	created('r2', '{"jobs": 3}');
	like(event('copied', 'notes'), qr/Files were not cloned: Operation not supported/, 'without cloning');
	is(contents(server_of($primary, 'r2')), contents($main), 'the data are the same');
	dropped('r2');
	set_fault($primary, '');
}

#
# Checksums
#
sql(q{CREATE TABLE broken AS SELECT g AS id, md5(g::text) AS text FROM generate_series(1, 5000) g; CHECKPOINT});
my $file = sql(q{SELECT pg_relation_filepath('broken')});
sub spoil
{
	open my $out, '+<', "$data/$file" or die "$file: $!";
	binmode $out;
	seek $out, 3 * 8192 + 4000, 0;
	read $out, my $byte, 1;
	seek $out, 3 * 8192 + 4000, 0;
	print $out chr(ord($byte) ^ 255);
	close $out;
	return;
}
spoil();
created('r2', '{"verify_checksums": "on"}');
is(event('bad_checksums', 'bad_blocks'), '1', 'an event tells of the wrong checksum');
like(event('bad_checksums', 'notes'), qr/block 3 in file ".*\Q$file\E"/, 'and where it is');
dropped('r2');
like(failed('{"verify_checksums": "fail"}'), qr/XX001.*checksum of block 3 in file/s, 'or it is an error');
is(sql(q{SELECT count(*) FROM replica_events WHERE kind = 'bad_checksums'}), 1, 'told once');
spoil();
no_orphans_ok($primary, 'nothing is left of that', keep => [qw(r1 replica_ctl_r1)]);

#
# What cannot be
#
like(psql_error($primary, q{SELECT replica_create('bad', options => '{"method": "snapshot"}')}),
	qr/22023.*needs the option snapshot_command.*HINT/s, 'a snapshot needs a command');
like(psql_error($primary, q{SELECT replica_create('bad', options => '{"snapshot_command": ["/bin/true"]}')}),
	qr/22023.*is for method "snapshot" only.*HINT/s, 'and only it has one');
append_to_file("$data/secret", 'x');
chmod 0, "$data/secret";
like(failed(), qr/42501.*could not open ".*secret": Permission denied.*HINT/s, 'a file that cannot be read');
unlink "$data/secret";
no_orphans_ok($primary, 'nothing is left of that', keep => [qw(r1 replica_ctl_r1)]);

# a disk that is full: the program writes to a small one of its own
my $programs = PostgreSQL::Test::Utils::tempdir();
symlink $_, "$programs/" . substr($_, length($bindir) + 1) for glob "$bindir/*";
unlink "$programs/replica_ctl_copy";
my $mount = 'for d; do p=$d; done; mount -t tmpfs -o size=1m none "$p"';
append_to_file("$programs/replica_ctl_copy", "#!/bin/sh\n"
	  . (system('unshare -Urm mount -t tmpfs none /mnt 2>/dev/null') == 0
		? qq(exec unshare -Urm sh -c '$mount && exec "\$0" "\$@"' "$bindir/replica_ctl_copy" "\$@"\n)
		: qq(echo '53100 could not write "x": No space left on device' >&2; exit 1\n)));
chmod 0755, "$programs/replica_ctl_copy";
chmod 0755, $programs;
sql("CREATE SERVER small FOREIGN DATA WRAPPER replica_local OPTIONS (bindir '$programs', directory '$dir')");
like(failed('{}', 'small'), qr/53100.*the disk is full: could not .*No space left on device.*HINT/s, 'disk full');
no_orphans_ok($primary, 'nothing is left of that', keep => [qw(r1 replica_ctl_r1)]);

# without the program
unlink "$programs/replica_ctl_copy";
like(failed('{"method": "copy"}', 'small'), qr/55000.*method "copy" cannot be used.*is not installed.*HINT/s, 'the program is missing');
is(wait_operation($primary, create('r2', '{}', 'small')), 'succeeded', 'then another method is taken');
is(sql(q{SELECT facts->>'method' FROM replica_ctl.replica WHERE name = 'r2'}), 'basebackup', 'pg_basebackup');
dropped('r2');

#
# A slow copy, to look at and to disturb
#
mkdir "$data/stray";
append_to_file("$data/stray/$_", 'x' x 100_000) for 1 .. 60;
my $slow = '{"max_rate": 4096}';

sub copying
{
	wait_for($primary, q{SELECT phase = 'copying' AND bytes_done > 0 AND progress > 0 FROM replica_operations ORDER BY operation DESC LIMIT 1});
	my ($pid) = grep { slurp_file("/proc/$_/cmdline") =~ m{replica_ctl_copy\0.*\Q$dir/r2\E}s } replica_processes($primary);
	return $pid;
}

my $operation = create('r2', $slow);
my $pid = copying();
my ($done, $total) = split /\|/, sql("SELECT bytes_done, bytes_total FROM replica_operations WHERE operation = $operation");
cmp_ok($total, '>', 20_000_000, 'the total is about the size');
cmp_ok($done, '<', $total, 'bytes done are less');
sleep 1;
is(sql("SELECT bytes_done > $done AND eta IS NOT NULL AND bytes_per_second BETWEEN 1000000 AND 8000000 FROM replica_operations WHERE operation = $operation"),
	't', 'it goes on at the rate, with an ETA');
my $start = time;
sql("SELECT replica_cancel($operation)");
wait_until(sub { !kill 0, $pid }, 'the end of the program');
cmp_ok(time - $start, '<', 3, 'a cancel ends it soon');
is(wait_operation($primary, $operation), 'cancelled', 'cancelled');
no_orphans_ok($primary, 'nothing is left of that', keep => [qw(r1 replica_ctl_r1)]);

# the program is killed
my $postmaster = sql('SELECT pg_postmaster_start_time()');
$operation = create('r2', $slow);
kill 9, copying();
is(wait_operation($primary, $operation), 'failed', 'the program is killed');
like(psql_error($primary, "SELECT replica_wait('r2')"), qr/38000.*replica_ctl_copy was ended by signal 9/s, 'the error says so');
is(sql('SELECT pg_postmaster_start_time()') . sql('SELECT count(*) > 0 FROM t'), "${postmaster}t", 'the server is not hurt');
no_orphans_ok($primary, 'nothing is left of that', keep => [qw(r1 replica_ctl_r1)]);

# the session of the backup is ended: again from the start; files go, shrink and grow
$operation = create('r2', '{"max_rate": 16384}');
$pid = copying();
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_backup_start%' AND pid <> pg_backend_pid()});
wait_until(sub { !kill 0, $pid }, 'the end of the program');
copying();
unlink map { "$data/stray/$_" } 1 .. 20;
truncate "$data/stray/$_", 5000 for 21 .. 40;
append_to_file("$data/stray/$_", 'y' x 100_000) for 41 .. 60;
is(wait_operation($primary, $operation), 'succeeded', 'a second attempt after the session was ended');
cmp_ok(sql("SELECT max(attempt) FROM replica_ctl.operation_step WHERE operation_id = $operation AND step = 'copy'"), '>', 1, 'it was one');
is(contents(server_of($primary, 'r2')), contents($main), 'the data are the same');
dropped('r2');

dropped('r1');
no_orphans_ok($primary);

done_testing();
