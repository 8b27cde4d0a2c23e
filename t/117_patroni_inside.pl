# 117_patroni_inside.pl
#	  A server that is the leader of a Patroni cluster asks for its own
#	  switchover: the operation begins there, Patroni stops the server in the
#	  middle, and the new leader finishes it.
# slow

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use ReplicaCtl;
use PatroniInside;
use Writers;

plan skip_all => 'missing: ' . Patroni::missing() if Patroni::missing();

my $patroni = PatroniInside->new(3);
$patroni->start;

# A switchover with clients that write.
sub take_turns
{
	my ($member, $call, $action) = @_;
	my $before = $patroni->leader;
	my $writers;

	$patroni->sql($before, "ALTER SYSTEM SET replica_ctl.fence_action = '$action'");
	$patroni->sql($before, 'SELECT pg_reload_conf()');
	$writers = Writers->start($patroni, $patroni->ports, 'ampt');
	wait_until(sub { $patroni->lead('SELECT count(*) > 50 FROM acked') eq 't' }, 30);
	like($patroni->outcome($patroni->lead($call)), qr/^succeeded\|after$/, "$call, $action");
	is($patroni->leader, $member, 'it leads');
	sleep 0.5;
	$writers->stop;

	my @acked = $writers->acked;
	my $port = $patroni->{nodes}{$member}{port};

	cmp_ok(scalar(grep { $_->[4] == $port } @acked), '>', 5, 'clients write there');
	is(join(' ', $writers->lost(sub { $patroni->lead($_[0]) })), '', 'nothing was lost');
	is($writers->both_wrote($patroni->{nodes}{$before}{port}, $port), 0, 'never did both take writes');
	is($patroni->sql($before, 'SELECT pg_is_in_recovery()'), 't', 'the old leader is a standby');
	is(-e "$patroni->{dir}/$before/replica_ctl.fence" ? 'file' : 'none', 'none', 'with no fence that could come back');
	is($patroni->fenced($member), 'down', 'the new one is not fenced');
	$patroni->lead('TRUNCATE acked');

	# an error each when its server stops, and, not held, one or so for each attempt behind the fence
	my %last;
	$last{ $_->[0] } = $_->[1] for @acked;
	my $errors = 0;
	$errors += $last{$_} for keys %last;
	return $errors - @acked;
}

# --------------------------------------------------------------------------
note 'attach';
# --------------------------------------------------------------------------
like($patroni->outcome($patroni->lead(qq{SELECT replica_attach('$_', 'patroni')})), qr/^succeeded/, "attach $_") for qw(p2 p3);
like($patroni->outcome($patroni->lead(q{SELECT replica_attach('p1', 'patroni')})), qr/^failed\|inspect\|member "p1" is the leader/, 'the leader itself');
$patroni->lead(q{SELECT replica_detach('p1')});

my $explain = $patroni->lead(q{SELECT name, status, detail FROM replica_explain('promote', 'p2')});
like($explain, qr/^source\|ok\|writes on the source are stopped by the fence of this server/m, 'how writes are stopped');
like($explain, qr/^library\|ok\|the operation will be finished there, in database "postgres"/m, 'who finishes it');
like($explain, qr/^promote\|ok\|.*POST \/switchover \{"leader": "p1", "candidate": "p2"\}/m, 'the call that would be made');
unlike($explain, qr/\|(warning|blocked)\|/, 'nothing is in the way');

# --------------------------------------------------------------------------
note 'there and back';
# --------------------------------------------------------------------------
my $held = take_turns('p2', q{SELECT replica_promote('p2')}, 'hold');
cmp_ok($held, '<=', 5, 'each client lost its connection, and saw no other error');
is($patroni->registry, 'p1 streaming, p3 streaming', 'the old leader is a replica, the other one stays');
is($patroni->lead(q{SELECT message, detail->>'old_leader', detail->>'new_leader', (detail->>'writes_stopped_ms')::numeric > 0
	FROM replica_events WHERE kind = 'promoted'}), 'Promoted read replica "p2" to primary of its cluster|p1|p2|t', 'the event');
ok($patroni->wait_sql('p2', q{SELECT count(*) = 2 FROM replica_status WHERE state = 'streaming' AND connected}), 'both stream');
like(take_turns('p1', q{SELECT replica_switchover('p1')}, 'error'), qr/^\d+$/, 'errors of clients that are not held');
is($patroni->registry, 'p2 streaming, p3 streaming', 'as it was');
is($patroni->lead('SELECT count(*) FROM replica_ctl.cleanup'), '0', 'nothing is left to be undone');

# --------------------------------------------------------------------------
note 'cancel, refusal, worker killed';
# --------------------------------------------------------------------------
sub writes { return $patroni->sql('p1', 'INSERT INTO acked VALUES (0, 0) RETURNING client') }

$patroni->fault('p1', 'promote.zero_lag.before=stall');
my $operation = $patroni->lead(q{SELECT replica_promote('p2')});
ok($patroni->wait_sql('p1', q{SELECT phase = 'up' FROM replica_ctl.fence()}), 'fenced');
is(-e "$patroni->{dir}/p1/replica_ctl.fence" ? 'file' : 'none', 'none', 'in memory only');
is($patroni->lead("SELECT replica_cancel($operation)"), 't', 'a cancel');
like($patroni->outcome($operation), qr/^cancelled/, 'is obeyed');
is(writes(), '0', 'and the fence is off');

$patroni->fault('p1', 'promote.zero_lag.before=crash*1');
$patroni->lead(q{ALTER USER MAPPING FOR PUBLIC SERVER patroni OPTIONS (SET password 'wrong')});
$operation = $patroni->lead(q{SELECT replica_promote('p2')});
like($patroni->outcome($operation), qr/^failed\|promote\|Patroni did not make member "p2" the leader\|It said status 401/,
	'the worker was killed with the server; it went on, and was refused');
is($patroni->fenced('p1'), 'down', 'the fence is off');
is(writes(), '0', 'and writes go on');
is($patroni->registry, 'p2 streaming, p3 streaming', 'the registry as before');
is($patroni->lead("SELECT count(*) FROM replica_ctl.operation_step WHERE operation_id = $operation AND step = 'promote'"), '1', 'it was asked once');
$patroni->lead(q{ALTER USER MAPPING FOR PUBLIC SERVER patroni OPTIONS (SET password 'open-sesame')});
$patroni->fault('p1', '');
is($patroni->leader, 'p1', 'the leader leads');

# --------------------------------------------------------------------------
note 'a drill';
# --------------------------------------------------------------------------
like($patroni->outcome($patroni->lead(q{SELECT replica_drill('p3')})), qr/^succeeded/, 'a drill');
is(writes(), '0', 'writes go on');

# --------------------------------------------------------------------------
note 'forced';
# --------------------------------------------------------------------------
like($patroni->outcome($patroni->lead(q{SELECT replica_promote('p3', mode => 'forced')})), qr/^succeeded\|unlink/, 'forced');
is($patroni->leader, 'p3', 'it leads');
is($patroni->registry, 'p1 streaming, p2 streaming', 'and has the registry');
is($patroni->fenced('p3'), 'down', 'not fenced');

done_testing();
