# What becomes of clients while a replica is promoted: logins there wait until
# it accepts writes, statements held here fail or go on, and a fence that
# somebody lifted meanwhile is raised again.
use strict;
use warnings;
use lib 't';
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use ReplicaCtl;
use Test::More;
use Time::HiRes qw(sleep time);
use Writers;

my $primary = new_primary('main', conf => 'max_prepared_transactions = 20');
Writers::prepare($primary);
my $made = 0;

sub make_replica
{
	my $name = 'r' . ++$made;

	$primary->safe_psql('postgres', "SELECT replica_create('$name')");
	$primary->safe_psql('postgres', "SELECT replica_wait('$name')");
	return server_of($primary, $name);
}

sub tidy
{
	my ($replica) = @_;

	$primary->safe_psql('postgres', 'SELECT replica_unfence()');
	$primary->safe_psql('postgres', "SELECT replica_drop('$replica->{name}', force => true)");
	is($primary->safe_psql('postgres', "SELECT replica_wait('$replica->{name}')"), 'succeeded', "$replica->{name} is dropped");
	return;
}

# psql that runs on; what it prints is in out.
sub start_psql
{
	my ($server, $sql, $dbname) = @_;
	my %psql = (out => '', began => time);

	$psql{run} = IPC::Run::start(
		[ 'psql', '-XAtq', '-h', $server->{host}, '-p', $server->{port}, '-d', $dbname // 'dbname=postgres', '-c', $sql ],
		'>', \$psql{out}, '2>&1');
	return \%psql;
}

# Its answer, and how long it took in all.
sub finish
{
	my ($psql) = @_;

	IPC::Run::finish($psql->{run});
	chomp $psql->{out};
	return ($psql->{out}, time - $psql->{began});
}

# ---- logins wait for a promotion

my $replica = make_replica();
my $main = server_of($primary, 'main');
is(ask($main, 'SELECT replica_ctl.hold_logins(1000)'), 'f', 'on a primary no login is held');
my ($answer, $took) = finish(start_psql($main, 'SELECT 1'));
is($answer, 1, 'and none waits');

is(ask($replica, 'SELECT replica_ctl.hold_logins(1500)'), 't', 'on a standby they are');
my $early = start_psql($replica, 'SELECT pg_is_in_recovery()');
sleep 0.2;
my $walsender = start_psql($replica, 'IDENTIFY_SYSTEM', 'dbname=postgres replication=true');
($answer, $took) = finish($walsender);
like($answer, qr/^\d+\|/, 'a connection for replication is not held');
($answer, $took) = finish($early);
is($answer, 't', 'a login goes on when the time is over');
cmp_ok($took, '>=', 1, 'and not before');

# a session that is there already sees that recovery has ended, and tells the others
my $promoter = IPC::Run::start(
	[ 'psql', '-XAtq', '-h', $replica->{host}, '-p', $replica->{port}, '-d', 'postgres',
		'-c', 'SELECT replica_ctl.hold_logins(20000)', '-c', 'SELECT pg_sleep(1)', '-c', 'SELECT pg_promote(true)' ],
	'>', \my $promoted, '2>&1');
sleep 0.5;
my @waiting = map { start_psql($replica, "INSERT INTO acked VALUES (-1, $_) RETURNING pg_is_in_recovery()") } 1 .. 5;
for my $psql (@waiting)
{
	($answer, $took) = finish($psql);
	is($answer, 'f', 'a login that came too early finds a primary');
	cmp_ok($took, '<', 10, 'as soon as it is one');
}
IPC::Run::finish($promoter);
is(ask($replica, 'SELECT replica_ctl.hold_logins(1000)'), 'f', 'no login is held any more');
tidy($replica);

SKIP:
{
	skip 'needs a test build', 1 unless test_build($primary);

	# ---- statements that are held

	for my $after ('read_only', 'read_write')
	{
		$replica = make_replica();
		set_fault($primary, 'promote.zero_lag.after=block');
		my $operation = ask($main, "SELECT replica_promote('$replica->{name}', source_after => '$after')");
		wait_for($primary, q{SELECT phase = 'up' FROM replica_ctl.fence()});
		my $held = start_psql($main, "INSERT INTO acked VALUES (-2, $operation) RETURNING 'written'");
		wait_for($primary, q{SELECT held > 0 FROM replica_ctl.fence()});
		is(wait_operation($primary, $operation), 'succeeded', "$after: promoted");
		($answer) = finish($held);
		if ($after eq 'read_write')
		{
			is($answer, 'written', 'a held statement goes on where the source goes on');
			is(ask($replica, 'SELECT count(*) FROM acked WHERE client = -2 AND seq = ' . $operation), 0, 'on this side only');
			is(ask($main, 'SELECT phase FROM replica_ctl.fence()'), 'down', 'no fence is left');
		}
		else
		{
			like($answer, qr/was promoted in place.*HINT:.*:$replica->{port}|terminating connection/s, 'a held statement fails, and is told where to go');
			is(ask($main, 'SELECT phase FROM replica_ctl.fence()'), 'promoted', 'the fence stays');
		}
		is(ask($replica, 'SELECT pg_is_in_recovery()'), 'f', 'the replica is a primary');
		set_fault($primary, '');
		tidy($replica);
	}

	# ---- the fence is lifted while no worker has the operation

	$replica = make_replica();
	set_fault($primary, 'promote.promote.before=stall*1');
	my $operation = ask($main, "SELECT replica_promote('$replica->{name}')");
	wait_for($primary, "SELECT step = 'promote' FROM replica_operations WHERE operation = $operation");
	# the start of that step is flushed by the step itself
	$primary->safe_psql('postgres', 'SELECT replica_cancel(' . $operation . ')');
	sleep 1;
	$primary->stop('immediate');
	$primary->append_conf('postgresql.conf', "replica_ctl.database = 'template1'");
	$primary->start;
	is(ask($main, 'SELECT phase FROM replica_ctl.fence()'), 'up', 'fenced, and nobody works on the operation');
	ask($main, 'SELECT replica_unfence()');
	is(ask($main, q{INSERT INTO acked VALUES (-3, 1) RETURNING 'written'}), 'written', 'somebody lifts the fence and writes');
	my $writers = Writers->start($primary, [ $primary->port, $replica->{port} ], 'aap');
	$writers->wait_rows(1);
	$primary->stop('fast');
	$primary->append_conf('postgresql.conf', "replica_ctl.database = 'postgres'");
	$primary->start;
	is(wait_operation($primary, $operation), 'succeeded', 'the promotion goes on');
	$writers->wait_rows(1, $replica->{port});
	$writers->stop;
	is(ask($main, 'SELECT phase FROM replica_ctl.fence()'), 'promoted', 'behind a fence');
	is(ask($replica, 'SELECT count(*) FROM acked WHERE client = -3'), 1, 'what was written meanwhile is not lost');
	is_deeply([ $writers->lost(sub { ask($replica, $_[0]) }) ], [], 'nor what was acknowledged to clients');
	is($writers->both_wrote($primary->port, $replica->{port}), 0, 'never two servers that accept writes');
	set_fault($primary, '');
	tidy($replica);
}

no_orphans_ok($primary);
done_testing();
