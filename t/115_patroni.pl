# 115_patroni.pl
#	  Provider replica_patroni against a real etcd and three Patroni nodes, from
#	  a control server that is none of them.
# slow

use strict;
use warnings;
use IO::Socket::INET;
use lib 't';
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use ReplicaCtl;
use Patroni;

plan skip_all => 'missing: ' . Patroni::missing() if Patroni::missing();

my $patroni = Patroni->new(3);
$patroni->start;
my $control = new_primary('control', conf => 'replica_ctl.sample_interval = 1s');

sub sql { return $control->safe_psql('postgres', $_[0]) }

sub outcome
{
	my ($operation) = @_;
	wait_operation($control, $operation, 120);
	return sql("SELECT concat_ws('|', state, step, message, detail, hint) FROM replica_operations WHERE operation = $operation");
}

# One that accepts connections and never answers goes first, where that is asked for: it costs seconds.
my $hung = IO::Socket::INET->new(Listen => 50, LocalAddr => '127.0.0.1', Proto => 'tcp') or die $!;

sub with_hung_member
{
	my ($code) = @_;

	sql(qq{ALTER SERVER patroni OPTIONS (SET urls 'http://127.0.0.1:@{[ $hung->sockport ]}, @{[ $patroni->urls ]}')});
	my $start = time;
	my $result = $code->();
	cmp_ok(time - $start, '>', 3.5, 'a member that hangs was asked');
	sql(qq{ALTER SERVER patroni OPTIONS (SET urls '@{[ $patroni->urls ]}')});
	return $result;
}

sql(qq{
	CREATE SERVER patroni FOREIGN DATA WRAPPER replica_patroni OPTIONS (urls '@{[ $patroni->urls ]}', scope 'orders', poll_interval '5');
	CREATE USER MAPPING FOR CURRENT_USER SERVER patroni OPTIONS ("user" 'rest', password 'open-sesame', db_user 'postgres', db_password 'super-pass')});

# --------------------------------------------------------------------------
note 'bad input';
# --------------------------------------------------------------------------
like(psql_error($control, q{CREATE SERVER x FOREIGN DATA WRAPPER replica_patroni}), qr/option "urls" is missing/, 'no urls');
like(psql_error($control, q{CREATE SERVER x FOREIGN DATA WRAPPER replica_patroni OPTIONS (urls 'http://192.0.2.1:8008')}), qr/invalid URL/, 'plain http elsewhere');
like(psql_error($control, q{SELECT replica_create('p9', 'patroni')}), qr/cannot create a replica.*patroni\.yml.*replica_attach/s, 'no create, but how to');
like(outcome(sql(q{SELECT replica_attach('p9', 'patroni')})), qr/^failed\|inspect\|the Patroni cluster has no member "p9"\|Its members are: .*p1/, 'no such member');
like(outcome(sql(q{SELECT replica_attach('p1', 'patroni')})), qr/^failed\|inspect\|member "p1" is the leader/, 'the leader');

# --------------------------------------------------------------------------
note 'attach and status';
# --------------------------------------------------------------------------
like(outcome(sql(q{SELECT replica_attach('p2', 'patroni')})), qr/^succeeded/, 'attach p2');
like(with_hung_member(sub { outcome(sql(q{SELECT replica_attach('p3', 'patroni')})) }), qr/^succeeded/, 'attach p3');
wait_for($control, q{SELECT count(*) = 2 FROM replica_status WHERE state = 'streaming' AND connected}, 60);
is(sql(q{SELECT endpoint FROM replica_status WHERE replica = 'p2'}), "127.0.0.1:$patroni->{nodes}{p2}{port}", 'its endpoint');
wait_for($control, q{SELECT count(*) = 2 FROM replica_metrics WHERE metric = 'PatroniLag'}, 60);

my $explain = sql(q{SELECT name, status, detail FROM replica_explain('promote', 'p2')});
like($explain, qr/^source\|ok\|writes on the source are stopped by the service itself/m, 'how writes are stopped');
like($explain, qr/^patroni leader\|ok/m, 'a check');
like($explain, qr/^promote\|ok\|.*POST \/switchover \{"leader": "p1", "candidate": "p2"\}/m, 'the call that would be made');
unlike($explain, qr/blocked/, 'nothing is in the way');

# --------------------------------------------------------------------------
note 'planned promotion';
# --------------------------------------------------------------------------
is($patroni->sql('p1', 'CREATE TABLE t (i int)'), '', 'a table');
my $loop = q{for i in $(seq 5000); do psql -XAtq -d "host=$0,$0 port=$1,$2 user=postgres dbname=postgres target_session_attrs=read-write connect_timeout=2" -c "INSERT INTO t VALUES ($i) RETURNING i" >>"$3" || sleep 0.05; done};
my $writer = IPC::Run::start([ 'sh', '-c', $loop, $patroni->{socket}, $patroni->{nodes}{p1}{port}, $patroni->{nodes}{p2}{port}, "$patroni->{dir}/acked" ],
	'>', '/dev/null', '2>', '/dev/null');
sleep 1;
my $outcome = with_hung_member(sub { outcome(sql(q{SELECT replica_promote('p2', timeout => '40s')})) });
like($outcome, qr/^succeeded/, 'a switchover');
is($patroni->leader, 'p2', 'it leads');
sleep 1;
$writer->kill_kill;
my @acked = slurp_file("$patroni->{dir}/acked") =~ /^(\d+)$/mg;
my %there = map { $_ => 1 } split /\n/, $patroni->sql('p2', 'SELECT i FROM t');
cmp_ok(scalar @acked, '>', 5, 'there were writes');
is(join(' ', grep { !$there{$_} } @acked), '', 'nothing was lost');
is(sql(q{SELECT detail->>'old_leader', detail->>'new_leader' FROM replica_events WHERE kind = 'promoted' AND replica = 'p2'}), 'p1|p2', 'the event');
like($patroni->members->{p1}{role}, qr/replica/, 'the old leader follows');
wait_for($control, q{SELECT count(*) > 0 FROM replica_events WHERE kind = 'patroni' AND message ~ 'member "p2" leads the Patroni cluster'}, 60);
pass('the change of the leader is an event');

# --------------------------------------------------------------------------
note 'somebody else, at the same time';
# --------------------------------------------------------------------------
$patroni->settled;
sql(q{SELECT replica_detach('p2')});
like(outcome(sql(q{SELECT replica_attach('p1', 'patroni')})), qr/^succeeded/, 'attach the old leader');
$control->append_conf('postgresql.conf', "replica_ctl.test_fault = 'promote.promote.before=08006*4'");
$control->reload;
my $operation = sql(q{SELECT replica_promote('p1', timeout => '60s')});
wait_for($control, "SELECT step = 'promote' FROM replica_operations WHERE operation = $operation", 30);
$patroni->call('p1', 'POST', '/switchover', '{"leader": "p2", "candidate": "p3"}');
$outcome = outcome($operation);
like($outcome, qr/^failed\|promote\|member "p3" leads the Patroni cluster now, not "p1"\|It was "p2"/, 'lost, and said so');
is(sql(q{SELECT state FROM replica_ctl.replica WHERE name = 'p1'}), 'streaming', 'it is a replica as before');
$control->append_conf('postgresql.conf', "replica_ctl.test_fault = ''");
$control->reload;
$patroni->settled;

# --------------------------------------------------------------------------
note 'pause, wrong password, worker killed';
# --------------------------------------------------------------------------
$patroni->call('p1', 'PATCH', '/config', '{"pause": true}');
sleep 2;
like(outcome(sql(q{SELECT replica_promote('p1')})), qr/^failed\|check\|the Patroni cluster is paused.*patronictl resume/, 'a pause');
$patroni->call('p1', 'PATCH', '/config', '{"pause": null}');
sleep 2;

sql(q{ALTER USER MAPPING FOR CURRENT_USER SERVER patroni OPTIONS (SET password 'wrong')});
$outcome = outcome(sql(q{SELECT replica_promote('p1')}));
like($outcome, qr/^failed\|promote\|Patroni did not make member "p1" the leader\|It said status 401/, 'a wrong password');
unlike($outcome . sql(q{SELECT string_agg(message || detail::text, ' ') FROM replica_events}), qr/wrong|sesame|super-pass/, 'which nobody sees');
sql(q{ALTER USER MAPPING FOR CURRENT_USER SERVER patroni OPTIONS (SET password 'open-sesame')});

$control->append_conf('postgresql.conf', "replica_ctl.test_fault = 'promote.promote.after=crash*1'");
$control->reload;
like(outcome(sql(q{SELECT replica_promote('p1')})), qr/^succeeded/, 'killed after the switchover: it went on');
is($patroni->leader, 'p1', 'and there was one');
$control->append_conf('postgresql.conf', "replica_ctl.test_fault = ''");
$control->reload;

# --------------------------------------------------------------------------
note 'forced, members that go, repair';
# --------------------------------------------------------------------------
$patroni->settled;
sql(q{SELECT replica_detach('p1')});
wait_for($control, q{SELECT count(*) = 1 FROM replica_status WHERE replica = 'p3'}, 30);
like(outcome(sql(q{SELECT replica_attach('p2', 'patroni')})), qr/^succeeded/, 'attach the new replica');
like(outcome(sql(q{SELECT replica_promote('p2', mode => 'forced')})), qr/^succeeded/, 'forced');
is($patroni->leader, 'p2', 'it leads');
like(sql(q{SELECT detail->>'mode' FROM replica_events WHERE kind = 'promoted' AND replica = 'p2' ORDER BY event DESC LIMIT 1}), qr/forced/, 'the event');

$patroni->settled;
like(outcome(sql(q{SELECT replica_repair('p3')})), qr/^succeeded/, 'a repair');
is(sql(q{SELECT string_agg(s.step, ' ' ORDER BY s.started_at) FROM replica_ctl.operation_step s JOIN replica_ctl.operation USING (operation_id)
	WHERE kind = 'repair' AND outcome = 'done'}), 'examine reinitialize catch_up', 'its steps');
$patroni->stop_node('p3');
$patroni->expire('members/p3');
wait_for($control, q{SELECT count(*) > 0 FROM replica_events WHERE kind = 'patroni' AND message ~ 'member "p3" has left'}, 60);
$patroni->start_node('p3');
wait_for($control, q{SELECT count(*) > 0 FROM replica_events WHERE kind = 'patroni' AND message ~ 'member "p3" has joined'}, 90);
pass('members that go and come are events');

done_testing();
