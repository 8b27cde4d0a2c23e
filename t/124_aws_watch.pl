# The monitor asks Amazon: status, metrics and events of all replicas of a
# server in three requests, while they are made, too; what is not known is not
# shown.

use strict;
use warnings;
use lib 't';
use FakeAws;
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;

my $aws = FakeAws->new;
my $node = new_primary('watch', conf => "replica_ctl.max_operations = 30\nmax_worker_processes = 60\nreplica_ctl.sample_interval = 500ms");

sub sql { return $node->safe_psql('postgres', $_[0]) }

$aws->do('set', create_seconds => 0.2, cluster_seconds => 0.2, delete_seconds => 0.1);
$aws->server($node, 'rds', poll_interval => 5);
$aws->do('change', kind => 'instance', id => 'second', values => {});
$aws->server($node, 'aurora', engine => 'aurora-postgresql', source => 'second', poll_interval => 5);
# more often than anybody may ask
sql(q{UPDATE pg_foreign_server SET srvoptions = array_replace(srvoptions, 'poll_interval=5', 'poll_interval=1')});

# --------------------------------------------------------------------------
note 'while it is made';
# --------------------------------------------------------------------------
$aws->do('set', cluster_seconds => 60);
sql(q{SELECT replica_create('au', 'aurora', '{"db_instance_class": "db.r6g.large"}')});
wait_for($node, q{SELECT service_status = 'creating' AND service_percent = 10 FROM replica_status WHERE replica = 'au'});
pass('status and percent of one that is being made');
wait_for($node, q{SELECT count(*) = 1 FROM replica_metrics WHERE replica = 'au' AND metric = 'FreeStorageSpace' AND source = 'cloudwatch second'});
pass('and the free storage of its source');
is(sql(q{SELECT state FROM replica_status WHERE replica = 'au'}), 'creating', 'its state stays');
$aws->do('change', kind => 'cluster', id => 'au', values => { Status => 'available', PercentProgress => '100', _plan => [] });
$aws->do('set', cluster_seconds => 0.2);
is(sql(q{SELECT replica_wait('au')}), 'succeeded', 'it is made');

# --------------------------------------------------------------------------
note 'metrics and their units';
# --------------------------------------------------------------------------
wait_for($node, q{SELECT count(*) = 4 FROM replica_metrics WHERE replica = 'au' AND value IS NOT NULL AND source LIKE 'cloudwatch %'});
is(sql(q{SELECT string_agg(format('%s %s %s %s', metric, value, unit, source), ', ' ORDER BY metric) FROM replica_metrics
		WHERE replica = 'au' AND source LIKE 'cloudwatch %'}),
	'FreeStorageSpace 12884901888 Bytes cloudwatch second, OldestReplicationSlotLag 3.5 Megabytes cloudwatch second, '
	  . 'RDSToAuroraPostgreSQLReplicaLag 0 Seconds cloudwatch au-1, TransactionLogsDiskUsage 128 Megabytes cloudwatch second',
	'the metrics of the seed');
is(sql(q{SELECT bool_and(now() - sampled_at BETWEEN '-2 s' AND '30 s') FROM replica_metrics WHERE replica = 'au' AND source LIKE 'cloudwatch %'}), 't',
	'with the age of the data point');
$aws->do('metric', name => 'RDSToAuroraPostgreSQLReplicaLag', id => 'au-1', value => 42);
wait_for($node, q{SELECT lag = '42 s' AND connected FROM replica_status WHERE replica = 'au'});
pass('the lag is shown');
$aws->do('metric', name => 'RDSToAuroraPostgreSQLReplicaLag', id => 'au-1', value => -1);
wait_for($node, q{SELECT lag IS NULL AND NOT connected FROM replica_status WHERE replica = 'au'});
pass('-1 is no lag, and no replication');
$aws->do('metric', name => 'RDSToAuroraPostgreSQLReplicaLag', id => 'au-1');
wait_for($node, q{SELECT lag IS NULL FROM replica_status WHERE replica = 'au'});
is(sql(q{SELECT count(*) FROM replica_metrics WHERE replica = 'au' AND metric = 'RDSToAuroraPostgreSQLReplicaLag' AND value IS NOT NULL}), '0',
	'no data point is no value');

# --------------------------------------------------------------------------
note 'events';
# --------------------------------------------------------------------------
wait_for($node, q{SELECT count(*) = 1 FROM replica_events WHERE replica = 'au' AND kind = 'aws' AND message LIKE '%created'});
$aws->do('event', id => 'au', type => 'db-cluster', message => 'Replication for the DB cluster has been terminated.');
$aws->do('event', id => 'second', type => 'db-instance', message => 'The free storage capacity is low.');
$aws->do('event', id => 'stranger', type => 'db-instance', message => 'Not our business.');
wait_for($node, q{SELECT count(*) = 2 FROM replica_events WHERE kind = 'aws' AND (message LIKE '%terminated%' OR message LIKE '%storage%')});
is(sql(q{SELECT string_agg(severity, ' ' ORDER BY severity) FROM replica_events WHERE kind = 'aws' AND (message LIKE '%terminated%' OR message LIKE '%storage%')}),
	'error warning', 'severities');
sleep 3;
is(sql(q{SELECT count(*) FROM replica_events WHERE kind = 'aws' AND message LIKE '%terminated%'}), '1', 'each is written once');
is(sql(q{SELECT count(*) FROM replica_events WHERE message LIKE '%business%'}), '0', 'those of others are not');

# --------------------------------------------------------------------------
note 'a hundred replicas, three requests';
# --------------------------------------------------------------------------
sql('DROP USER MAPPING FOR CURRENT_USER SERVER rds');
sql(q{CREATE USER MAPPING FOR CURRENT_USER SERVER rds OPTIONS (access_key_id 'AKIDTEST', secret_access_key 'sEcReT/Key+1')});
$aws->do('copies', count => 100, template => 'rr%03d');
sql(q{INSERT INTO replica_ctl.replica (name, server, options, facts, state, system_identifier, timeline_id, home, created_by)
	SELECT format('rr%s', to_char(i, 'FM000')), 'rds', '{}', jsonb_build_object('identifier', format('rr%s', to_char(i, 'FM000')), 'engine', 'postgres'),
		'streaming', r.system_identifier, r.timeline_id, r.home, r.created_by
	FROM replica_ctl.replica r, generate_series(1, 100) i WHERE r.name = 'au'});
# of the other server no more; an operation lets the monitor read the registry anew
sql(q{ALTER SERVER aurora OPTIONS (SET poll_interval '3600')});
sql(q{SELECT replica_repair('au')});
sql(q{SELECT replica_wait('au')});
wait_for($node, q{SELECT count(*) = 100 FROM replica_status WHERE replica LIKE 'rr%' AND service_status = 'available'});
sleep 1.5;
$aws->do('forget');
sleep 5;
my %count = %{ $aws->do('count')->{actions} };
my $rounds = $count{GetMetricData};
cmp_ok($rounds, '>=', 2, "there were $rounds rounds");
is(join(' ', sort keys %count), 'DescribeDBInstances DescribeEvents GetMetricData', 'descriptions, metrics, events');
cmp_ok($count{DescribeDBInstances} + $count{DescribeEvents} + $count{GetMetricData}, '<=', 3 * $rounds + 2, 'three requests a round');
is(sql(q{SELECT count(*) FROM replica_metrics WHERE replica LIKE 'rr%' AND metric = 'ReplicaLag' AND value = 0}), '100', 'each has its lag');
$aws->do('set', metric_page => 40, page_size => 30);
sleep 2;
wait_for($node, q{SELECT count(*) = 100 FROM replica_metrics WHERE replica LIKE 'rr%' AND metric = 'ReplicaLag' AND value = 0 AND sampled_at > now() - interval '4 s'});
pass('pages are read to their end');

# --------------------------------------------------------------------------
note 'trouble';
# --------------------------------------------------------------------------
$aws->do('set', metric_page => 500, page_size => 100);
$aws->do('fault', kind => 'error', action => 'GetMetricData', code => 'AccessDenied', status => 403, message => 'no', times => 100);
wait_for($node, q{SELECT message LIKE '%Amazon CloudWatch refused GetMetricData%' FROM replica_status WHERE replica = 'rr001'});
pass('an error of the service is shown');
$aws->do('clear');
wait_for($node, q{SELECT message IS NULL OR message NOT LIKE '%GetMetricData%' FROM replica_status WHERE replica = 'rr001'}, 60);
pass('until it is gone');
is(sql(q{SELECT count(*) FROM replica_events WHERE detail::text LIKE '%sEcReT%' OR message LIKE '%sEcReT%'}), '0', 'no secret is seen');

is($aws->complaints, '', 'the fake has nothing to complain about');
done_testing();
