# Read replicas at Amazon, end to end: an RDS replica and an Aurora replica are
# made, shown, attached, detached, repaired and dropped.

use strict;
use warnings;
use JSON::PP;
use lib 't';
use FakeAws;
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;

my $aws = FakeAws->new;
my $node = new_primary('aws');

sub sql { return $node->safe_psql('postgres', $_[0]) }

$aws->server($node, 'rds', tags => 'team=db, cost center=42');
$aws->server($node, 'aurora', engine => 'aurora-postgresql', source => 'arn:aws:rds:eu-north-1:123456789012:db:orders');

# --------------------------------------------------------------------------
note 'an RDS read replica';
# --------------------------------------------------------------------------
{
	my %options = (
		db_instance_class => 'db.r6g.large', multi_az => JSON::PP::true, availability_zone => 'eu-north-1a',
		vpc_security_group_ids => [ 'sg-1', 'sg-2' ], processor_features => { coreCount => '4' }, port => 5433,
		enable_cloudwatch_logs_exports => 'postgresql, upgrade', tags => { purpose => 'reports + more' });
	my $create = sql("SELECT replica_create('R1', 'rds', '" . encode_json(\%options) . "')");

	is(sql("SELECT replica_wait('R1')"), 'succeeded', 'it is made');
	my ($call) = $aws->calls('CreateDBInstanceReadReplica');
	my $sent = $call->{params};
	my %tags = map { $sent->{"Tags.Tag.$_.Key"} // '' => $sent->{"Tags.Tag.$_.Value"} } 1 .. 9;

	is($sent->{DBInstanceIdentifier}, 'r1', 'by its name in lower case');
	is($sent->{SourceDBInstanceIdentifier}, 'orders', 'of the source');
	is_deeply([ @$sent{qw(MultiAZ AvailabilityZone DBInstanceClass Port)} ], [ 'true', 'eu-north-1a', 'db.r6g.large', '5433' ],
		'with the scalars of the options');
	is_deeply([ @$sent{ 'VpcSecurityGroupIds.VpcSecurityGroupId.1', 'VpcSecurityGroupIds.VpcSecurityGroupId.2',
				'EnableCloudwatchLogsExports.member.1', 'EnableCloudwatchLogsExports.member.2' } ],
		[ 'sg-1', 'sg-2', 'postgresql', 'upgrade' ], 'the lists');
	is_deeply([ @$sent{ 'ProcessorFeatures.ProcessorFeature.1.Name', 'ProcessorFeatures.ProcessorFeature.1.Value' } ],
		[ 'coreCount', '4' ], 'the objects');
	is_deeply([ @tags{ 'team', 'cost center', 'replica_ctl:replica' } ], [ 'db', '42', 'R1' ], 'and the tags');
	is($tags{purpose}, 'reports + more', 'whatever is in them');
	like($tags{'replica_ctl:owner'}, qr/^\d+-\d+-[0-9a-f]{16}$/, 'and the one that says whose it is');
	like(sql("SELECT endpoint FROM replica_status WHERE replica = 'R1'"), qr/^r1\.c\d+\.eu-north-1\.rds\.amazonaws\.com:5432$/,
		'its endpoint is shown');
	is(sql("SELECT provider FROM replica_status WHERE replica = 'R1'"), 'aws', 'and the provider');

	like(psql_error($node, q{SELECT replica_create('r2', 'rds', '{"db_instance_identifier": "r1"}'); SELECT replica_wait('r2')}),
		qr/ERROR:  42710: .*another replica of this server is the DB instance "r1"/, 'its identifier is taken');
	is($aws->identifiers('instances'), 'mysql1 orders r1', 'and whose it is is not deleted by the undo');

	sql(q{SELECT replica_repair('R1')});
	is(sql(q{SELECT replica_wait('R1')}), 'succeeded', 'repair finds nothing to do');
	sql(q{SELECT replica_drop('R1')});
	is(sql(q{SELECT replica_wait('R1')}), 'succeeded', 'drop');
	is($aws->identifiers('instances'), 'mysql1 orders', 'it is gone');
	is(($aws->calls('DeleteDBInstance'))[0]{params}{SkipFinalSnapshot}, 'true', 'a replica has no last snapshot');
	is(sql(q{SELECT count(*) FROM replica_ctl.cleanup}), '0', 'and no record is left');
}

# --------------------------------------------------------------------------
note 'an Aurora read replica';
# --------------------------------------------------------------------------
{
	my %options = (
		db_instance_class => 'db.r6g.large', db_subnet_group_name => 'mysubnetgroup', vpc_security_group_ids => 'sg-c7e5b0d2',
		serverless_v2_scaling_configuration => { min_capacity => '0.5', max_capacity => '8' }, promotion_tier => 1);
	my $create = sql("SELECT replica_create('sample', 'aurora', '" . encode_json(\%options) . "')");

	is(sql("SELECT replica_wait('sample')"), 'succeeded', 'it is made');
	my ($cluster) = $aws->calls('CreateDBCluster');
	my ($instance) = $aws->calls('CreateDBInstance');
	my $sent = $cluster->{params};

	is_deeply([ @$sent{qw(DBClusterIdentifier Engine ReplicationSourceIdentifier DBSubnetGroupName EngineVersion)} ],
		[ 'sample', 'aurora-postgresql', 'arn:aws:rds:eu-north-1:123456789012:db:orders', 'mysubnetgroup', '15.3' ],
		'the cluster');
	is($sent->{'ServerlessV2ScalingConfiguration.MinCapacity'}, '0.5', 'with structures');
	ok(!exists $sent->{DBInstanceClass} && !exists $sent->{MasterUsername} && !exists $sent->{ManageMasterUserPassword},
		'without what is not the cluster\'s, or not for a replica');
	$sent = $instance->{params};
	is_deeply([ @$sent{qw(DBClusterIdentifier DBInstanceIdentifier Engine DBInstanceClass PromotionTier)} ],
		[ 'sample', 'sample-1', 'aurora-postgresql', 'db.r6g.large', '1' ], 'its instance');
	ok(!exists $sent->{AllocatedStorage} && !exists $sent->{'VpcSecurityGroupIds.VpcSecurityGroupId.1'},
		'without what is the cluster\'s');
	cmp_ok($instance->{at}, '>', $cluster->{at} + 0.4, 'after the cluster was available');
	like(sql("SELECT endpoint FROM replica_status WHERE replica = 'sample'"),
		qr/^sample\.cluster-c\d+\.eu-north-1\.rds\.amazonaws\.com:5432$/, 'the endpoint is that of the cluster');

	sql(q{SELECT replica_detach('sample')});
	is(sql(q{SELECT replica_wait('sample')}), 'succeeded', 'detach');
	is($aws->identifiers('clusters'), 'sample', 'leaves it alone');
	my $error = psql_error($node, q{SELECT replica_attach('taken', 'aurora', '{"db_cluster_identifier": "sample"}'); SELECT replica_wait('taken')});
	like($error, qr/ERROR:  55006: .*DB cluster "sample" belongs to another registry/, 'what has a tag is not taken over');
	like($error, qr/HINT:  .*take_over/, 'unless that is said');
	sql(q{SELECT replica_attach('taken', 'aurora', '{"db_cluster_identifier": "sample", "take_over": true}')});
	is(sql(q{SELECT replica_wait('taken')}), 'succeeded', 'attach');
	is(scalar($aws->calls('AddTagsToResource')), 2, 'tags the cluster and its instance');
	sql(q{SELECT replica_drop('taken')});
	is(sql(q{SELECT replica_wait('taken')}), 'succeeded', 'drop');
	is($aws->identifiers('clusters') . $aws->identifiers('instances'), 'mysql1 orders', 'deletes instance and cluster');
	is(scalar($aws->calls('PromoteReadReplicaDBCluster')), 1,
		'promoted before, for Amazon does not delete the last instance of a replica');
	my $orders = (grep { $_->{DBInstanceIdentifier} eq 'orders' } @{ $aws->do('state')->{instances} })[0];
	is_deeply($orders->{ReadReplicaDBClusterIdentifiers}, [], 'the source has no replica left');
}

# --------------------------------------------------------------------------
note 'what is not ours is left alone';
# --------------------------------------------------------------------------
{
	$aws->do('change', kind => 'instance', id => 'foreign', values => { ReadReplicaSourceDBInstanceIdentifier => 'orders' });
	my $error = psql_error($node, q{SELECT replica_create('foreign', 'rds'); SELECT replica_wait('foreign')});
	like($error, qr/ERROR:  42710: .*DB instance "foreign" already exists/, 'a name that is taken');
	ok((grep { $_ eq 'foreign' } split / /, $aws->identifiers('instances')), 'is not deleted by the undo');
	sql(q{SELECT replica_attach('adopted', 'rds', '{"db_instance_identifier": "foreign"}')});
	is(sql(q{SELECT replica_wait('adopted')}), 'succeeded', 'attach');
	$aws->do('change', kind => 'instance', id => 'foreign', values => { TagList => { other => 'x' } });
	$error = psql_error($node, q{SELECT replica_drop('adopted'); SELECT replica_wait('adopted')});
	like($error, qr/ERROR:  42501: .*DB instance "foreign" is not the one of this replica/, 'without the tag it is not dropped');
	like($error, qr/HINT:  .*replica_detach\('adopted'\)/, 'with a hint');
	is(scalar(grep { $_->{params}{DBInstanceIdentifier} eq 'foreign' } $aws->calls('DeleteDBInstance')), 0, 'nor asked to be');
	sql(q{SELECT replica_detach('adopted')});
	is(sql(q{SELECT replica_wait('adopted')}), 'succeeded', 'but can be detached');
	like(psql_error($node, q{SELECT replica_attach('no', 'rds', '{"db_instance_identifier": "mysql1"}'); SELECT replica_wait('no')}),
		qr/ERROR:  55000: .*DB instance "mysql1" is not a read replica of "orders"/, 'attach wants a read replica of the source');
}

is($aws->complaints, '', 'the fake has nothing to complain about');
done_testing();
