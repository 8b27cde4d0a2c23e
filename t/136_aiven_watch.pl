# Replicas at Aiven are watched: one list request a round however many there
# are, lag from the replicas themselves, metrics, events, and what is missing.

# slow

use strict;
use warnings;
use lib 't';
use FakeAiven;
use ReplicaCtl;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

plan skip_all => 'python3-jsonschema is missing' unless FakeAiven::available();

my $aiven = FakeAiven->new;
my $node = new_primary('control', conf => "replica_ctl.sample_interval = 500ms\nreplica_ctl.max_replicas = 120");
my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "wal_receiver_status_interval = 1\nwal_receiver_timeout = 4s");
$primary->start;

sub value { return $node->safe_psql('postgres', $_[0]) }

$aiven->seed;
$aiven->uri('primary-postgresql', $primary);
$aiven->control('service', project => 'demo-project', name => 'r1', source => 'primary-postgresql', disk_space_mb => 1000);
my $standby = $aiven->standby('r1', $primary);
value($aiven->server_sql('aiven', poll_interval => 5));
is(wait_operation($node, value(q{SELECT replica_attach('r1', 'aiven')})), 'succeeded', 'attach');

# ---- one replica ----

wait_for($node, q{SELECT service_status = 'RUNNING' FROM replica_status}, 20);
wait_for($node, q{SELECT connected AND state = 'streaming' AND lag = '0' FROM replica_status}, 40);
pass('lag by SQL is 0');
wait_for($node, q{SELECT value = 750 * 1024 * 1024 AND unit = 'Bytes' AND source = 'aiven r1' FROM replica_metrics WHERE metric = 'FreeStorageSpace' AND replica = 'r1'}, 20);
pass('the free space of the disk, by the name of the seed');
is(value(q{SELECT string_agg(metric || ' ' || value || ' ' || unit, ', ' ORDER BY metric) FROM replica_metrics WHERE replica = 'r1' AND source = 'aiven r1' AND metric <> 'FreeStorageSpace'}),
	'CPUUtilization 12.5 Percent, DiskUsage 25 Percent, MemoryUsage 40 Percent', 'and the others');

$aiven->control('event', project => 'demo-project', service_name => 'r1', event_type => 'service_maintenance', event_desc => 'Maintenance update applied');
wait_for($node, q{SELECT count(*) = 1 FROM replica_events WHERE replica = 'r1' AND kind = 'aiven' AND message = 'Maintenance update applied'}, 60);
pass('an event of Aiven');

# a replica that stands still: its lag grows
$primary->safe_psql('postgres', 'CREATE TABLE first AS SELECT 1');
$primary->wait_for_catchup($standby);
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
$primary->safe_psql('postgres', 'CREATE TABLE t AS SELECT 1');
wait_for($node, q{SELECT lag > '1s' FROM replica_status}, 40);
pass('lag grows while nothing is replayed');
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
wait_for($node, q{SELECT lag = '0' FROM replica_status}, 40);
pass('and is 0 again');

# ---- trouble ----

$aiven->control('fault', times => -1, status => 401, message => 'Missing (expired) db token');
wait_for($node, q{SELECT message LIKE '%list%' OR message LIKE '%token%' FROM replica_status WHERE replica = 'r1'}, 30);
unlike(value('SELECT jsonb_agg(to_jsonb(s)) FROM replica_status s'), qr/AVNS_/, 'the message holds no secret');
$aiven->control('faults');

# ---- a hundred replicas ----

my $count = 99;
for my $i (1 .. $count)
{
	$aiven->control('service', project => 'demo-project', name => "many-$i", source => 'primary-postgresql');
}
$aiven->control('set', check_answers => \0);
value(qq{INSERT INTO replica_ctl.replica (name, server, state, timeline_id, created_by, system_identifier, home, options, facts)
	SELECT 'many-' || i, server, state, timeline_id, created_by, system_identifier, home, '{}',
		jsonb_build_object('service_name', 'many-' || i, 'project', 'demo-project', 'integration_id', 'x', 'source_service', 'primary-postgresql')
	FROM replica_ctl.replica, generate_series(1, $count) i WHERE name = 'r1'});
value('SELECT replica_claim()');
wait_for($node, "SELECT count(*) = $count FROM replica_status WHERE service_status = 'RUNNING' AND replica LIKE 'many%'", 90);
pass('all of them are seen');
$aiven->clear_log;
my $start = time;
sleep 16;
my @calls = $aiven->calls;
my $rounds = int((time - $start) / 5) + 1;
my $lists = grep { $_ eq 'GET /v1/project/demo-project/service' } @calls;
cmp_ok($lists, '<=', $rounds, "$lists lists in $rounds rounds");
cmp_ok($lists, '>=', 2, 'there were rounds');
is(scalar(grep { m{/service/[^/]+$} } @calls), 0, 'no service is asked for by itself');
cmp_ok(scalar(@calls) * 60 / 16, '<', 100, scalar(@calls) . ' requests in 16 s: below the limit');
note join ' ', map { s{.*demo-project/}{}r } @calls;

# one vanishes, one is promoted elsewhere, one is switched off
$aiven->control('vanish', project => 'demo-project', name => 'many-1');
$aiven->control('change', project => 'demo-project', name => 'many-2', powered => \0);
wait_for($node, q{SELECT service_status = 'gone' FROM replica_status WHERE replica = 'many-1'}, 30);
wait_for($node, q{SELECT count(*) = 1 FROM replica_events WHERE replica = 'many-1' AND severity = 'error' AND message LIKE '%does not exist any more'}, 30);
wait_for($node, q{SELECT count(*) = 1 FROM replica_events WHERE replica = 'many-2' AND message LIKE '%powered off'}, 30);
pass('what is missing is told, once');

unlike(slurp_file($node->logfile) =~ s/^.*CREATE USER MAPPING.*$//mgr, qr/\Q$FakeAiven::token\E|aivenv1|AVNS_pass/, 'no secret in the log');
is(join("\n", $aiven->complaints), '', 'no request broke the rules of the document');
done_testing();
