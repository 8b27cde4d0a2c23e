# 153_snapshot.pl
#	  Replicas made by a command of the user within a backup; a command that
#	  does not do what it should is no danger to the source.

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;

my $primary = new_primary('main');
my $dir = replica_dir($primary);
my $data = $primary->data_dir;
my $scripts = PostgreSQL::Test::Utils::tempdir();
my $space = PostgreSQL::Test::Utils::tempdir();

sub sql { return $primary->safe_psql('postgres', $_[0]) }

sub script
{
	my ($name, $text) = @_;

	append_to_file("$scripts/$name", "#!/bin/sh -e\n$text\n");
	chmod 0755, "$scripts/$name";
	return "$scripts/$name";
}

# The final state of a create with this command, and its error.
sub attempt
{
	my ($name, @command) = @_;
	my $command = join ', ', map { qq("$_") } @command;
	my $operation = sql(qq{SELECT replica_create('$name', options => '{"method": "snapshot", "snapshot_command": [$command]}')});

	wait_operation($primary, $operation);
	return split /\|/, sql("SELECT state, sqlstate, concat_ws(' / ', message, detail, hint) FROM replica_operations WHERE operation = $operation");
}

sub refused_ok
{
	my ($pattern, $name, @command) = @_;
	my ($state, $sqlstate, $error) = attempt('bad', @command);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($state, 'failed', $name);
	like("$sqlstate $error", $pattern, 'it says why');
	return;
}

sql('CREATE TABLE t AS SELECT generate_series(1, 1000) AS i');

# a copy of all files, as a snapshot has them: with postmaster.pid, slots, WAL
my $cp = script('cp', 'echo "$3" >"$0.operation"; cp -a "$1/." "$2"');
my ($state, undef, $error) = attempt('r1', $cp, '{source}', '{target}', 'x{operation}y');
is($state, 'succeeded', 'a replica is made by a command') or diag($error);
like(slurp_file("$cp.operation"), qr/^x\d+y$/, 'which was told the operation');
my $replica = server_of($primary, 'r1');
wait_ask($replica, 'SELECT count(*) = 1000 FROM t');
is(ask($replica, 'SELECT count(*) FROM pg_replication_slots'), '0', 'it has no slots of its source');
is(sql(q{SELECT detail->>'method' FROM replica_events WHERE kind = 'copied'}), 'snapshot', 'an event says how it was made');
sql('CREATE TABLE later AS SELECT 1 AS i');
wait_ask($replica, 'SELECT count(*) = 1 FROM later');

# with a tablespace
is(wait_operation($primary, sql(q{SELECT replica_drop('r1')})), 'succeeded', 'it is dropped');
sql("CREATE TABLESPACE space LOCATION '$space'");
sql('CREATE TABLE s TABLESPACE space AS SELECT generate_series(1, 1000) AS i');
refused_ok(qr/22023.*says nothing of tablespaces/, 'a command that knows no tablespaces', $cp, '{source}', '{target}');
my $spaces = script('spaces', 'cp -a "$1/." "$2"; shift 2; while [ $# -gt 0 ]; do cp -a "$2/." "$3"; shift 3; done');
($state, undef, $error) = attempt('r1', $spaces, '{source}', '{target}', '{tablespaces}');
is($state, 'succeeded', 'a replica with a tablespace') or diag($error);
$replica = server_of($primary, 'r1');
wait_ask($replica, 'SELECT count(*) = 1000 FROM s');
like(ask($replica, q{SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'space'}), qr{^\Q$dir/r1_tablespaces/\E\d+$},
	'which is its own');
is(wait_operation($primary, sql(q{SELECT replica_drop('r1')})), 'succeeded', 'it is dropped');
sql('DROP TABLE s; DROP TABLE t');
sql('DROP TABLESPACE space');

#
# Commands that do something else
#
refused_ok(qr/38000.*exited with code 3 .*no such volume/, 'a command that fails',
	script('fails', 'echo no such volume >&2; exit 3'));
refused_ok(qr/55000.*has not made a copy.*there is no/, 'a command that does nothing', '/bin/true');
refused_ok(qr/58P01|42501|could not|not/, 'a program that is not there', "$scripts/none");
($state, undef, $error) = attempt('bad', script('link', 'rmdir "$2"; ln -s "$1" "$2"'), '{source}', '{target}');
is($state, 'needs_attention', 'a link to the source is not touched');
like($error, qr/there is no directory of its own/, 'it says why');
unlink "$dir/bad";
is(wait_operation($primary, sql(q{SELECT replica_drop('bad')})), 'succeeded', 'once it is gone that is dropped');
refused_ok(qr/55000.*is the file of the source itself/, 'files of the source itself',
	script('hard', 'cp -al "$1/." "$2"'), '{source}', '{target}');
refused_ok(qr/55000.*is a symbolic link to a directory/, 'links to directories of the source',
	script('links', 'cp -a "$1/." "$2"; rm -r "$2/pg_xact"; ln -s "$1/pg_xact" "$2/pg_xact"'), '{source}', '{target}');
ok(-d "$data/pg_xact" && -f "$data/postmaster.pid" && -f "$data/global/pg_control", 'the source has all of its files');
is(sql('SELECT count(*) FROM later'), '1', 'and goes on');

# what is refused before
like(psql_error($primary, q{SELECT replica_create('bad', options => '{"method": "snapshot", "snapshot_command": ["cp", "x"]}')}),
	qr/22023.*absolute path/s, 'no search for the program');
like(psql_error($primary, q{SELECT replica_create('bad', options => '{"method": "snapshot", "snapshot_command": ["/bin/cp", 1]}')}),
	qr/22023.*must be strings/s, 'strings only');
no_orphans_ok($primary);

done_testing();
