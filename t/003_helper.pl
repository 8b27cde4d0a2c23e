# The helper of the other tests finds what it looks for: orphans of each sort,
# and leftovers in a cluster laid out as Debian does it.

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use Test::More;

my $node = new_primary('helper');
my $dir = replica_dir($node);

no_orphans_ok($node, 'a new primary has no orphans');

$node->safe_psql('postgres', q{SELECT pg_create_physical_replication_slot('forgotten')});
is_deeply([ orphans($node) ], ['slot forgotten'], 'a slot is found');
is_deeply([ orphans($node, keep => ['forgotten']) ], [], 'unless it is expected');
$node->safe_psql('postgres', q{SELECT pg_drop_replication_slot('forgotten')});

mkdir $dir or die "$dir: $!";
mkdir "$dir/r1" or die "$dir/r1: $!";
is_deeply([ orphans($node) ], ["file $dir/r1"], 'a directory is found');

my $pid = fork // die "fork: $!";
if ($pid == 0)
{
	chdir "$dir/r1";
	exec 'sleep', '60';
}
wait_until(sub { readlink("/proc/$pid/cwd") eq "$dir/r1" }, 'the process');
like(join(' ', orphans($node, patience => 0)), qr/process $pid: sleep 60 .*file/, 'a process is found');
is_deeply([ orphans($node, keep => ['r1']) ], [], 'unless it is expected');
kill 'KILL', $pid;
waitpid $pid, 0;
rmdir "$dir/r1";

$node->safe_psql('postgres', q{
	INSERT INTO replica_ctl.operation (replica_id, replica, kind, state, requested_by, system_identifier, timeline_id, home)
		VALUES (1, 'r1', 'create', 'failed', 'x', 'x', 1, 'x');
	INSERT INTO replica_ctl.cleanup (operation_id, type, object, always)
		SELECT operation_id, 'slot', '{}', false FROM replica_ctl.operation});
is_deeply([ orphans($node) ], ['cleanup record slot {}'], 'a cleanup record is found');

like(psql_error($node, 'SELECT 1/0'), qr/22012/, 'errors come with their SQLSTATE');
is(eval { psql_error($node, 'SELECT 1'); 1 }, undef, 'and no error is an error');
is(eval { wait_for($node, 'SELECT false', 1); 1 }, undef, 'a wait in vain is an error');

my $debian = debian_cluster('main');
is($debian->safe_psql('postgres', 'SHOW config_file'), $debian->config_dir . '/postgresql.conf',
	'the configuration is outside the data directory');
is($debian->safe_psql('postgres', 'SELECT session_user'), 'postgres', 'its superuser logs in');
ok(!-e $debian->data_dir . '/postgresql.conf', 'no configuration in the data directory');

done_testing();
