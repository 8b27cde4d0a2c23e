# A transaction that notifies and waits for a synchronous standby which is dead
# keeps everybody else's NOTIFY waiting.  Operations must not stop behind it.
use strict;
use warnings;
use lib 't';
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use ReplicaCtl;
use Test::More;
use Time::HiRes qw(sleep time);

my $primary = new_primary('main');
my $main = server_of($primary, 'main');

sub stuck
{
	return ask($main, q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'});
}

$primary->safe_psql('postgres', q{CREATE TABLE t (); ALTER SYSTEM SET synchronous_standby_names = 'nobody'});
$primary->reload;
wait_for($primary, q{SELECT current_setting('synchronous_standby_names') = 'nobody'});

my $user = IPC::Run::start([ 'psql', '-XAtq', '-h', $main->{host}, '-p', $main->{port}, '-d', 'postgres',
		'-c', 'BEGIN', '-c', 'NOTIFY heard', '-c', 'CREATE TABLE u ()', '-c', 'COMMIT' ], '>', \my $out, '2>&1');
wait_until(sub { stuck() == 1 }, 'a commit that waits for a standby');

# calls are transactions of their own that need not wait for a standby, nor for a NOTIFY
my $local = 'SET synchronous_commit = local;';
my $operation = ask($main, "SET synchronous_commit = local; SET lock_timeout = '10s'; SELECT replica_create('r1')");
like($operation, qr/^\d+$/, 'an operation is asked for');
is(wait_operation($primary, $operation), 'succeeded', 'and carried out');
is(stuck(), 1, 'while the commit waits');
ok(slurp_file($primary->logfile) =~ /could not notify of/, 'the log says that nobody was notified');

my $replica = server_of($primary, 'r1');
$operation = ask($main, "$local SELECT replica_promote('r1', drain => '0s', timeout => '20s')");
is(wait_operation($primary, $operation), 'succeeded', 'a replica is promoted');
is(ask($replica, 'SELECT pg_is_in_recovery()'), 'f', 'and is a primary');
is(ask($replica, q{SELECT to_regclass('u') IS NOT NULL}), 't', 'with what had committed here');
is(ask($main, qq{SELECT string_agg(kind, ' ' ORDER BY event) FROM replica_events WHERE operation = $operation}),
	'promote_requested check_warnings promoted promote_succeeded', 'all events are in the table');

$primary->safe_psql('postgres', 'ALTER SYSTEM RESET synchronous_standby_names');
$primary->reload;
IPC::Run::finish($user);

# sent again, by workers and for what was asked for
$primary->safe_psql('postgres', 'SELECT replica_unfence()');
my $listener = $primary->background_psql('postgres');
$listener->query_safe('LISTEN replica_ctl');
$primary->safe_psql('postgres', q{SELECT replica_drop('r1', force => true)});
is($primary->safe_psql('postgres', q{SELECT replica_wait('r1')}), 'succeeded', 'the replica is dropped');
my $heard = '';
wait_until(sub { $heard .= $listener->query('SELECT 1'); $heard =~ /drop_succeeded/ }, 'the last notification');
like($heard, qr/drop_requested.*drop_succeeded/s, 'and notifications arrive again');
$listener->quit;

no_orphans_ok($primary);
done_testing();
