# 118_patroni_trouble.pl
#	  A switchover asked for in Patroni's leader, when somebody else switches
#	  over at the same time, when the leader is gone while it is fenced, and
#	  when Patroni does not answer.
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
$patroni->outcome($patroni->lead(qq{SELECT replica_attach('$_', 'patroni')})) for qw(p2 p3);
is($patroni->registry, 'p2 streaming, p3 streaming', 'two replicas');

# An operation on p1's replica that has fenced p1 and does not go on.
sub stall
{
	my ($member) = @_;

	$patroni->fault('p1', 'promote.promote.before=stall');
	my $operation = $patroni->sql('p1', "SELECT replica_promote('$member')");
	ok($patroni->wait_sql('p1', "SELECT step = 'promote' AND (SELECT phase = 'up' FROM replica_ctl.fence())
		FROM replica_operations WHERE operation = $operation"), "fenced, about to promote $member");
	return $operation;
}

# --------------------------------------------------------------------------
note 'somebody else switches over';
# --------------------------------------------------------------------------
my $operation = stall('p2');
my $answer = $patroni->call('p2', 'POST', '/switchover', '{"leader": "p1", "candidate": "p3"}');
like($answer, qr/^Successfully switched over to "p3"/, 'Patroni can do its work while its leader is fenced');
like($patroni->outcome($operation), qr/^failed\|promote\|member "p3" leads the Patroni cluster now, not "p2"\|It was "p1"/, 'lost, and said so');
is($patroni->fenced('p3'), 'down', 'the new leader is not fenced');
is($patroni->registry, 'p1 streaming, p2 streaming', 'and has the registry, with the old leader');
$patroni->settled;
$patroni->fault('p1', '');

# --------------------------------------------------------------------------
note 'Patroni moves its leader by itself';
# --------------------------------------------------------------------------
like($patroni->call('p2', 'POST', '/switchover', '{"leader": "p3", "candidate": "p1"}'), qr/^Successfully/, 'back');
ok($patroni->wait_sql('p1', q{SELECT count(*) = 2 FROM replica_ctl.replica WHERE name IN ('p2', 'p3') AND timeline_id = 3}),
	'the registry is handed on although nobody asked us');
is($patroni->lead(q{SELECT message FROM replica_events WHERE kind = 'leader' ORDER BY event DESC LIMIT 1}),
	'Member "p1" is the primary of cluster "orders" now; the former one is replica "p3"', 'the event');
is($patroni->fenced('p1'), 'down', 'a leader that was fenced once takes writes');
$patroni->settled;

# --------------------------------------------------------------------------
note 'the leader is gone while it is fenced';
# --------------------------------------------------------------------------
$operation = stall('p2');
$patroni->kill_host('p1');
$patroni->expire('leader');
my $members = $patroni->wait(sub { grep { $_->{role} eq 'leader' && $_->{name} ne 'p1' && $_->{state} eq 'running' } values %{ $_[0] } }, 60);
my ($leader) = grep { $members->{$_}{role} eq 'leader' } keys %$members;
my $other = $leader eq 'p2' ? 'p3' : 'p2';
note "$leader leads";
ok($patroni->wait_sql($leader, 'SELECT NOT pg_is_in_recovery()', 10), 'it was promoted');
like($patroni->sql($leader, 'INSERT INTO acked VALUES (1, 1) RETURNING client'), qr/^1$/, 'the new leader takes writes');
$patroni->start_node('p1');
my $outcome = $patroni->outcome($operation);
$leader eq 'p2'
  ? like($outcome, qr/^succeeded/, 'it is the candidate: a success')
  : like($outcome, qr/^failed\|promote\|member "p3" leads the Patroni cluster now, not "p2"/, 'it is not the candidate: a failure');
$patroni->settled;
is($patroni->registry, "p1 streaming, $other streaming", 'the registry is handed on');
is($patroni->sql('p1', 'SELECT pg_is_in_recovery()'), 't', 'the dead one comes back as a standby');
is(-e "$patroni->{dir}/p1/replica_ctl.fence" ? 'file' : 'none', 'none', 'without a fence');

# --------------------------------------------------------------------------
note 'the candidate cannot be promoted, nobody answers';
# --------------------------------------------------------------------------
$patroni->fault('p1', '');
$patroni->fault($leader, 'promote.promote.before=block*1');
$operation = $patroni->lead("SELECT replica_promote('$other')");
ok($patroni->wait_sql($leader, "SELECT step = 'promote' FROM replica_operations WHERE operation = $operation"), 'about to be promoted');
$patroni->signal($other, 'STOP');
$outcome = $patroni->outcome($operation);
$patroni->signal($other, 'CONT');
like($outcome, qr/^failed\|promote\|Patroni did not make member "$other" the leader\|It said status 412/, 'refused: no good candidates');
is($patroni->fenced($leader), 'down', 'and the fence is off');
is($patroni->sql($leader, 'INSERT INTO acked VALUES (1, 1) RETURNING client'), '1', 'writes go on');

done_testing();
