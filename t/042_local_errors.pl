# 042_local_errors.pl
#	  Bad input and bad days of the local provider: each a clear error with an
#	  SQLSTATE and a hint, and nothing left behind.

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);
use ReplicaCtl;

my $primary = new_primary('main', conf => "max_wal_senders = 6\nmax_replication_slots = 3");
my $dir = replica_dir($primary);
my $bindir = do { my $b = `$ENV{PG_CONFIG} --bindir`; chomp $b; $b };

sub sql { return $primary->safe_psql('postgres', $_[0]); }

# The error of a create at once.
sub refused
{
	my ($options) = @_;
	return psql_error($primary, "SELECT replica_create('r', options => \$json\$$options\$json\$)");
}

# The error of a create that is queued and fails; the failed row is replaced by the next one.
sub failed
{
	my ($options, $server) = @_;

	sql("SELECT replica_create('r', '" . ($server // 'local') . "', \$json\$" . ($options // '{}') . "\$json\$)");
	return psql_error($primary, "SELECT replica_wait('r', '60s')");
}

sub temp { return PostgreSQL::Test::Utils::tempdir(@_); }

#
# Refused at the call.
#
my $full = temp('full');
append_to_file("$full/file", "x");
my $closed = temp('closed');
chmod 0500, $closed;
my $link = temp('link') . '/link';
symlink temp('target'), $link or die "symlink: $!";
my $data = $primary->data_dir;
my $port = $primary->port;
my $file = "$full/file";

my @refused = (
	[ '{"prot": 1}', qr/HV00D.*unrecognized option "prot" for replica_create.*HINT:.*port/s, 'unknown option' ],
	[ '{"port": "abc"}', qr/22023.*"port": "abc".*HINT/s, 'port that is no number' ],
	[ '{"port": 0}', qr/22023.*1 to 65535/s, 'port 0' ],
	[ '{"port": 65536}', qr/22023.*1 to 65535/s, 'port 65536' ],
	[ qq({"port": $port}), qr/22023.*port $port is in use.*HINT:  Leave out/s, 'port in use' ],
	[ '{"port": [1]}', qr/22023.*single value/s, 'nested value' ],
	[ '{"data_directory": "relative"}', qr/22023.*absolute path/s, 'relative directory' ],
	[ qq({"data_directory": "$full"}), qr/58P02.*exists and is not empty.*HINT/s, 'directory not empty' ],
	[ qq({"data_directory": "$closed/x"}), qr/42501.*cannot be created.*cannot write to "\Q$closed\E".*HINT/s, 'directory not writable' ],
	[ qq({"data_directory": "$closed"}), qr/42501.*not writable.*HINT/s, 'existing directory not writable' ],
	[ qq({"data_directory": "$link"}), qr/22023.*is a symbolic link.*HINT:  Give the directory itself/s, 'directory is a symlink' ],
	[ qq({"data_directory": "$file"}), qr/22023.*is not a directory.*HINT/s, 'directory is a file' ],
	[ qq({"data_directory": "$file/x"}), qr/42501|22023/, 'directory below a file' ],
	[ qq({"data_directory": "$data/x"}), qr/22023.*is inside the data directory of this server.*HINT/s, 'directory inside PGDATA' ],
	[ qq({"data_directory": "$data/../pgdata/base/x"}), qr/22023.*is inside the data directory of this server/s, 'the same with ..' ],
	[ '{"checkpoint": "slow"}', qr/22023.*"fast", "spread"/s, 'checkpoint' ],
	[ '{"max_rate": 1}', qr/22023.*32 to 1048576/s, 'max_rate' ],
	[ '{"synchronous": "perhaps"}', qr/22023.*true or false/s, 'synchronous' ],
	[ '{"apply_delay": "soon"}', qr/22023.*interval/s, 'apply_delay that is none' ],
	[ '{"apply_delay": "-1s"}', qr/22023.*not negative/s, 'apply_delay below 0' ],
	[ '{"apply_delay": "1 year"}', qr/22023.*too long/s, 'apply_delay of a year' ],
	[ '{"upstream": "r"}', qr/22023.*own upstream.*HINT/s, 'its own upstream' ],
	[ '{"settings": "work_mem"}', qr/22023.*JSON object/s, 'settings that are no object' ],
	[ '{"settings": {"wrok_mem": "1MB"}}', qr/42704.*"wrok_mem".*HINT/s, 'unknown setting' ],
	[ '{"settings": {"work_mem": "lots"}}', qr/22023.*"work_mem": "lots"/s, 'bad value of a setting' ],
	[ '{"settings": {"port": 1}}', qr/22023.*HINT:  Use the option port/s, 'setting with an option' ],
	[ '{"settings": {"primary_conninfo": ""}}', qr/22023.*cannot be given/s, 'setting that is ours' ],
	[ '{"settings": {"max_connections": 5}}', qr/22023.*at least 50/s, 'setting below the minimum' ],
	[ '{"settings": {"a b": 5}}', qr/22023.*invalid name/s, 'name of a setting' ],
	[ '{"settings": {"work_mem": [1]}}', qr/22023.*single value/s, 'nested value of a setting' ],
	[ '{"tablespace_mapping": {"a": "b"}}', qr/22023.*absolute paths/s, 'relative tablespace_mapping' ],
);
for my $case (@refused)
{
	my ($options, $error, $name) = @$case;
	like(refused($options), $error, $name);
}
is(sql('SELECT count(*) FROM replica_ctl.replica'), '0', 'none of them has left a row');
like(psql_error($primary, "CREATE SERVER x FOREIGN DATA WRAPPER replica_local OPTIONS (bin '/x')"),
	qr/HV00D.*HINT:  Valid options are: bindir, directory/s, 'unknown server option');
like(psql_error($primary, "SELECT replica_attach('r')"), qr/22023.*HINT:  Give the option data_directory/s, 'attach of nothing');

#
# Found by the preflight.
#
like(failed('{"upstream": "nobody"}'), qr/42704.*upstream replica "nobody" does not exist.*HINT/s, 'unknown upstream');
sql("SELECT pg_create_physical_replication_slot('s' || i) FROM generate_series(1, 3) i");
like(failed(), qr/53400.*no free replication slot.*HINT:.*max_replication_slots = 13/s, 'slots used up');
sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots");
sql("SELECT pg_create_physical_replication_slot('replica_ctl_r')");
like(failed(), qr/42710.*"replica_ctl_r" exists already.*HINT:.*pg_drop_replication_slot/s, 'slot of that name');
is(sql("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'replica_ctl_r'"), '1', 'it was not dropped');
sql("SELECT pg_drop_replication_slot('replica_ctl_r')");

# walsenders used up: five receivers without a slot
my @receivers = map {
	my $d = temp("wal$_");
	my ($out, $err) = ('', '');
	IPC::Run::start([ 'pg_receivewal', '-h', $primary->host, '-p', $port, '-D', $d, '-n' ], '>', \$out, '2>', \$err)
} 1 .. 5;
wait_for($primary, q{SELECT count(*) = 5 FROM pg_stat_replication WHERE state = 'streaming'});
like(failed(), qr/53400.*not enough free walsenders.*HINT:.*max_wal_senders = 16/s, 'walsenders used up');
$_->kill_kill for @receivers;
wait_for($primary, q{SELECT count(*) = 0 FROM pg_stat_replication});
no_orphans_ok($primary);

#
# Programs that are not there, or fail.  A directory of programs with one of
# our own among PostgreSQL's.
#
sub programs
{
	my ($name, $script) = @_;
	my $programs = temp('programs');

	symlink $_, "$programs/" . substr($_, length($bindir) + 1) for glob "$bindir/*";
	unlink "$programs/$name";
	if (defined $script)
	{
		append_to_file("$programs/$name", "#!/bin/sh\n$script\n");
		chmod 0755, "$programs/$name";
	}
	return $programs;
}

my $none = programs('pg_basebackup');
sql("CREATE SERVER none FOREIGN DATA WRAPPER replica_local OPTIONS (bindir '$none')");
like(failed('{}', 'none'), qr/58P01.*program "pg_basebackup" not found.*HINT/s, 'no pg_basebackup');

# A disk that is full: pg_basebackup writes to a small one of its own.
my $mount = 'for d; do case $p in -D) dir=$d;; esac; p=$d; done; mount -t tmpfs -o size=1m none "$dir"';
my $small = programs('pg_basebackup',
	system('unshare -Urm mount -t tmpfs none /mnt 2>/dev/null') == 0
	? qq(exec unshare -Urm sh -c '$mount && exec "\$0" "\$@"' "$bindir/pg_basebackup" "\$@")
	: 'echo "pg_basebackup: error: could not write to file: No space left on device" >&2; exit 1');
sql("CREATE SERVER small FOREIGN DATA WRAPPER replica_local OPTIONS (bindir '$small', directory '$dir')");
like(failed('{"method": "basebackup"}', 'small'), qr/53100.*the disk is full.*No space left on device.*HINT/s, 'disk full during the copy');
no_orphans_ok($primary, 'nothing is left of that');

#
# A replica that will not start: its log is in the detail.
#
like(failed('{"settings": {"shared_preload_libraries": "nosuchlibrary"}}'),
	qr/55000.*did not start.*DETAIL:.*could not access file "nosuchlibrary".*HINT/s, 'replica that will not start');
no_orphans_ok($primary, 'nothing is left of that');

#
# A slow copy, to look at and to disturb.
#
my $slow = '{"max_rate": 1024, "method": "basebackup"}';
sql('CREATE TABLE big AS SELECT repeat(md5(i::text), 20) AS t FROM generate_series(1, 10000) i');

sub copying
{
	wait_for($primary, q{SELECT phase = 'copying' AND bytes_done > 0 FROM replica_operations ORDER BY operation DESC LIMIT 1});
	my ($pid) = grep { (slurp_file("/proc/$_/cmdline")) =~ m{pg_basebackup.*\Q$dir/r\E}s } replica_processes($primary);
	return $pid;
}

my $operation = sql("SELECT replica_create('r', options => '$slow')");
copying();
my ($done, $total, $rate, $progress) = split /\|/,
  sql("SELECT bytes_done, bytes_total, bytes_per_second, progress FROM replica_operations WHERE operation = $operation");
cmp_ok($done, '<', $total, 'bytes done are less than in total');
cmp_ok($total, '>', 20_000_000, 'the total is about the size');
cmp_ok($progress, '>', 0, 'there is progress');
sql('CREATE DATABASE other');
{
	local $ENV{PGOPTIONS} = '-c statement_timeout=5s';
	is($primary->safe_psql('postgres', 'DROP DATABASE other; SELECT 1'), '1', 'another database is dropped meanwhile');
}
sleep 1.5;
cmp_ok(sql("SELECT bytes_done FROM replica_operations WHERE operation = $operation"), '>', $done, 'it goes on');
is(sql("SELECT eta IS NOT NULL AND bytes_per_second > 0 FROM replica_operations WHERE operation = $operation"), 't', 'with rate and ETA');
sql("SELECT replica_cancel($operation)");
is(wait_operation($primary, $operation), 'cancelled', 'cancel during the copy');
no_orphans_ok($primary, 'nothing is left of that');

# pg_basebackup is killed
$operation = sql("SELECT replica_create('r', options => '$slow')");
kill 9, copying();
is(wait_operation($primary, $operation), 'failed', 'pg_basebackup killed: failed');
like(psql_error($primary, "SELECT replica_wait('r')"), qr/38000.*pg_basebackup was ended by signal 9/s, 'the error says so');
no_orphans_ok($primary, 'nothing is left of that');

# its connection is ended: again from the start
$operation = sql("SELECT replica_create('r', options => '{\"max_rate\": 8192, \"method\": \"basebackup\"}')");
copying();
sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = 'replica_ctl_$operation' AND state = 'backup'");
is(wait_operation($primary, $operation), 'succeeded', 'connection of the copy ended: it succeeds')
  or diag(sql("SELECT message, detail FROM replica_operations WHERE operation = $operation"));
is(sql("SELECT count(*) FROM replica_ctl.operation_step WHERE operation_id = $operation AND step = 'copy'"), '2', 'at the second attempt');
sql("SELECT replica_drop('r')");
is(sql("SELECT replica_wait('r', '60s')"), 'succeeded', 'dropped');

# its directory is swapped for another one: not ours to delete
$operation = sql("SELECT replica_create('r', options => '$slow')");
my $pid = copying();
kill 'STOP', $pid;	# it must not notice before the other one is there
rename "$dir/r", "$dir/moved" or die "rename: $!";
mkdir "$dir/r";
append_to_file("$dir/r/precious", 'x');
kill 9, $pid;
is(wait_operation($primary, $operation), 'needs_attention', 'directory replaced during the copy');
like(psql_error($primary, "SELECT replica_wait('r')"), qr/Undo failed: directory ".*" was left as it is/s, 'the error says so');
ok(-e "$dir/r/precious", 'what is not ours was not deleted');
unlink "$dir/r/precious";
PostgreSQL::Test::Utils::system_log('rm', '-rf', "$dir/moved");
sql("SELECT replica_drop('r')");
is(sql("SELECT replica_wait('r', '60s')"), 'succeeded', 'a drop settles it');
no_orphans_ok($primary, 'nothing is left of that');

#
# wal_level = minimal
#
$primary->append_conf('postgresql.conf', "wal_level = minimal\nmax_wal_senders = 0\narchive_mode = off");
$primary->restart;
like(refused('{}'), qr/55000.*wal_level must be "replica" or "logical".*HINT:  ALTER SYSTEM/s, 'wal_level = minimal');

done_testing();
