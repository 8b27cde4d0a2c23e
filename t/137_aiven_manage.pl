# Replicas at Aiven that exist: their options are changed, they are powered on,
# and they are deleted only if they are what the registry means.

use strict;
use warnings;
use lib 't';
use FakeAiven;
use ReplicaCtl;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'python3-jsonschema is missing' unless FakeAiven::available();

my $aiven = FakeAiven->new;
my $node = new_primary('control');

sub value { return $node->safe_psql('postgres', $_[0]) }
sub error_of { return operation_error($node, $_[0]) }
sub ends { my ($call) = @_; my $op = value("SELECT $call"); return (wait_operation($node, $op), $op) }
sub service { return $aiven->services->{r1} }

$aiven->seed;
$aiven->uri('primary-postgresql', $node);
my $standby = $aiven->standby('r1', $node);
value($aiven->server_sql('aiven'));
is((ends(q{replica_create('r1', 'aiven', '{"tags": {"team": "data"}}')}))[0], 'succeeded', 'create');
my $mark = service()->{tags}{replica_ctl};

# ---- change ----

sub apply
{
	my ($options) = @_;
	my $spec = qq({"replicas": [{"name": "r1", "server": "aiven", "options": $options}]});
	my @ops = split /\n/, value("SELECT operation FROM replica_apply('$spec') WHERE operation IS NOT NULL");

	is(wait_operation($node, $_), 'succeeded', 'the change is made') or diag error_of($_) for @ops;
	return scalar @ops;
}

$aiven->clear_log;
is(apply('{"tags": {"team": "data"}, "plan": "startup-8", "termination_protection": true, "maintenance_window_dow": "friday"}'), 1, 'one change');
my ($put) = grep { $_->{method} eq 'PUT' } $aiven->log;
is_deeply($put->{body}, { plan => 'startup-8', termination_protection => JSON::PP::true, maintenance => { dow => 'friday' } }, 'what differs is sent');
is(service()->{plan}, 'startup-8', 'it has the new plan');
is(apply('{"tags": {"team": "data"}, "plan": "startup-8", "termination_protection": true, "maintenance_window_dow": "friday"}'), 0, 'once more: nothing to do');
is(apply('{"tags": {"team": "web"}, "plan": "startup-8", "maintenance_window_dow": "friday"}'), 1, 'another change');
is_deeply(service()->{tags}, { team => 'web', replica_ctl => $mark }, 'tags are replaced, our own stays');
ok(!service()->{termination_protection}, 'protection that is asked for no more is off');

# ---- repair ----

$aiven->control('change', project => 'demo-project', name => 'r1', powered => \0);
is((ends(q{replica_repair('r1')}))[0], 'succeeded', 'repair of one that was powered off');
is(service()->{state}, 'RUNNING', 'it runs');

# ---- drop ----

$aiven->control('change', project => 'demo-project', name => 'r1', protected => \1);
like(value(q{SELECT string_agg(name || ' ' || status || ' ' || coalesce(detail, ''), E'\n') FROM replica_explain('drop', 'r1')}),
	qr/deletion blocked .*protected against termination/, 'explain tells of the protection');
my ($state, $op) = ends(q{replica_drop('r1')});
is($state, 'failed', 'a protected service is not deleted');
like(error_of($op), qr/^55000 .*protected against termination/, 'the error says so');
$aiven->control('change', project => 'demo-project', name => 'r1', protected => \0);

$aiven->control('service', project => 'demo-project', name => 'r1-child', source => 'r1');
($state, $op) = ends(q{replica_drop('r1')});
is($state, 'failed', 'one that others follow is not deleted');
like(error_of($op), qr/^55000 other services follow replica "r1".*"r1-child"/, 'the error names them');
$aiven->control('vanish', project => 'demo-project', name => 'r1-child');

like(value(q{SELECT string_agg(name || ' ' || status || ' ' || coalesce(detail, ''), E'\n') FROM replica_explain('drop', 'r1')}),
	qr{DELETE /v1/project/demo-project/service/r1, then GET}, 'explain shows the call');

# made anew by somebody else, under the same name
$aiven->control('vanish', project => 'demo-project', name => 'r1');
$aiven->control('service', project => 'demo-project', name => 'r1', source => 'primary-postgresql');
($state, $op) = ends(q{replica_drop('r1', force => true)});
is($state, 'failed', 'another service of that name is not deleted');
like(error_of($op), qr/^55000 Aiven service "r1" is not the one that replica "r1" is about/, 'the error says so');
ok(service(), 'it is there');

# gone
$aiven->control('vanish', project => 'demo-project', name => 'r1');
like((ends(q{replica_repair('r1')}))[0], qr/failed|needs_attention/, 'what is gone cannot be repaired');
is((ends(q{replica_drop('r1')}))[0], 'succeeded', 'but dropped');
is(value('SELECT count(*) FROM replica_ctl.replica'), '0', 'nothing is left');

is(join("\n", $aiven->complaints), '', 'no request broke the rules of the document');
done_testing();
