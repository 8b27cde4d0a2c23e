# Bad input for Amazon: each mistake is refused as early as it can be known,
# with a hint; and replica_explain shows every check.

use strict;
use warnings;
use lib 't';
use FakeAws;
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;

my $aws = FakeAws->new(tls => 1);
my $node = new_primary('input');

sub sql { return $node->safe_psql('postgres', $_[0]) }

# The statement fails with this SQLSTATE, message and hint.
sub refused
{
	my ($statement, $wanted, $name) = @_;
	my $error = psql_error($node, $statement);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like($error, $wanted, $name);
	like($error, qr/HINT:  \S/, '... with a hint');
	return;
}

sub server_refused
{
	my ($options, $wanted, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	refused("CREATE SERVER bad FOREIGN DATA WRAPPER replica_aws OPTIONS ($options)", $wanted, $name);
	return;
}

# --------------------------------------------------------------------------
note 'options of servers';
# --------------------------------------------------------------------------
my $arn = 'arn:aws:rds:eu-north-1:123456789012:db:orders';
server_refused(q{source 'orders'}, qr/ERROR:  HV00J: option "region" is required/, 'no region');
server_refused(q{region 'eu-north-1'}, qr/ERROR:  HV00J: option "source" is required/, 'no source');
for my $region ('mars-1', 'eu-north', 'EU-NORTH-1', 'eu-north-1.evil.com/', 'us-gov-x')
{
	server_refused("region '$region', source 'orders'", qr/ERROR:  22023: "\Q$region\E" is not a region/, "region $region");
}
for my $region ('us-gov-west-1', 'cn-north-1', 'us-iso-east-1', 'mx-central-1', 'ap-southeast-7')
{
	is(sql("CREATE SERVER good FOREIGN DATA WRAPPER replica_aws OPTIONS (region '$region', source 'orders'); DROP SERVER good"), '',
		"region $region");
}
server_refused("region 'eu-north-1', source '$arn', engine 'mysql'", qr/ERROR:  22023: .*"engine": "mysql"/, 'engine mysql');
server_refused("region 'eu-west-1', engine 'aurora-postgresql', source '$arn'", qr/ERROR:  22023: .*is not in region eu-west-1/,
	'an Aurora replica in another region');
server_refused("region 'eu-north-1', source 'arn:aws:ec2:eu-north-1:123456789012:db:orders'", qr/ERROR:  22023: .*is not the ARN.*names the service "ec2"/s,
	'the ARN of another service');
server_refused("region 'eu-north-1', source 'arn:aws:rds:eu-north-1:123456789012:cluster:orders'", qr/of type "cluster"/, 'the ARN of a cluster');
server_refused("region 'eu-north-1', source 'arn:aws:rds:eu-north-1:1234:db:orders'", qr/12 digits/, 'the ARN of no account');
server_refused("region 'eu-north-1', source 'arn:aws-cn:rds:eu-north-1:123456789012:db:orders'", qr/is in partition aws, not aws-cn/, 'the ARN of another partition');
server_refused("region 'eu-north-1', source 'arn:aws:rds'", qr/seven parts/, 'half an ARN');
for my $name ('1orders', 'or--ders', 'orders-', 'or_ders', 'x' x 64, 'örders')
{
	server_refused("region 'eu-north-1', source '$name'", qr/ERROR:  22023: ".*" is not an identifier/, "source $name");
}
for my $url ('http://rds.example.com', 'http://10.0.0.1:80', 'ftp://127.0.0.1', 'https://user:pw@rds.example.com', 'https://127.0.0.1/path', 'nonsense')
{
	server_refused("region 'eu-north-1', source 'orders', rds_endpoint '$url'", qr/ERROR:  22023: invalid value for option "rds_endpoint"/, "endpoint $url");
}
server_refused("region 'eu-north-1', source 'orders', tags 'aws:x=1'", qr/ERROR:  22023: invalid tag "aws:x"/, 'a tag of Amazon');
server_refused("region 'eu-north-1', source 'orders', tags 'replica_ctl:owner=1'", qr/ERROR:  22023: invalid tag/, 'a tag of ours');
server_refused("region 'eu-north-1', source 'orders', colour 'blue'", qr/ERROR:  HV00D: unrecognized option "colour"/, 'an unknown option');

# --------------------------------------------------------------------------
note 'the documentation has them all';
# --------------------------------------------------------------------------
{
	my $docs = slurp_file('docs/aws.md');
	sql(q{CREATE SERVER documented FOREIGN DATA WRAPPER replica_aws OPTIONS (region 'eu-north-1', source 'orders')});
	for my $statement (q{ALTER SERVER documented OPTIONS ("?" '1')}, q{CREATE USER MAPPING FOR CURRENT_USER SERVER documented OPTIONS ("?" '1')},
		q{SELECT replica_create('x', 'documented', '{"?": 1}')}, q{SELECT replica_attach('x', 'documented', '{"?": 1}')})
	{
		my ($listed) = psql_error($node, $statement) =~ /Valid options are: (.*)\.$/m;
		is(join(' ', grep { $docs !~ /^\| .*`\Q$_\E`.* \|/m } split /, /, $listed), '', "docs/aws.md has the options of $statement");
	}
}

# --------------------------------------------------------------------------
note 'options of replica_create';
# --------------------------------------------------------------------------
$aws->server($node, 'rds');
$aws->server($node, 'aurora', engine => 'aurora-postgresql');
$aws->do('forget');
my $class = '"db_instance_class": "db.r6g.large"';
for my $case (
	[ 'rds', '"engine_version": "15.4"', qr/HV00D: option "engine_version" is not known for engine "postgres".*parameter of replicas of engine "aurora-postgresql"/s ],
	[ 'rds', '"storage_encrypted": true', qr/HV00D: option "storage_encrypted" is not known for engine "postgres"/ ],
	[ 'rds', '"db_cluster_identifier": "x"', qr/HV00D: option "db_cluster_identifier" is not known/ ],
	[ 'aurora', qq{$class, "multi_az": true}, qr/HV00D: option "multi_az" is not known for engine "aurora-postgresql"/ ],
	[ 'aurora', '"port": 5432', qr/22023: option "db_instance_class" is required/ ],
	[ 'aurora', qq{$class, "master_username": "x"}, qr/HV00D: option "master_username" cannot be given for a read replica/ ],
	[ 'aurora', qq{$class, "manage_master_user_password": false}, qr/HV00D: option "manage_master_user_password" cannot be given/ ],
	[ 'aurora', qq{$class, "serverless_v2_scaling_configuration": {"minimum": 1}}, qr/22023: unrecognized key "minimum".*Valid keys are: min_capacity/s ],
	[ 'rds', '"pre_signed_url": "https://x/"', qr/HV00D: option "pre_signed_url" cannot be given/ ],
	[ 'rds', '"db_parameter_group_name": "x"', qr/HV00D: option "db_parameter_group_name" cannot be given/ ],
	[ 'rds', '"port": "many"', qr/22023: invalid value for option "port"/ ],
	[ 'rds', '"multi_az": "maybe"', qr/22023: invalid value for option "multi_az"/ ],
	[ 'rds', '"vpc_security_group_ids": [1, {}]', qr/22023: invalid value for option "vpc_security_group_ids"/ ],
	[ 'rds', '"availability_zone": ""', qr/22023: option "availability_zone" is empty/ ],
	[ 'rds', '"db_instance_identifier": "no_good"', qr/22023: "no_good" is not an identifier/ ],
	[ 'rds', '"db_instance_identifier": "ORDERS"', qr/22023: "ORDERS" is the identifier of the source/ ],
	[ 'rds', '"tags": {"a": "b&c"}', qr/22023: invalid tag "a"/ ],
	[ 'rds', '"colour": "blue"', qr/HV00D: unrecognized option "colour"/ ])
{
	my ($server, $options, $wanted) = @$case;
	refused("SELECT replica_create('x', '$server', '{$options}')", qr/ERROR:  $wanted/s, "$server: $options");
}
refused(q{SELECT replica_create('no_good', 'rds')}, qr/ERROR:  22023: "no_good" is not an identifier/, 'a name that is no identifier');
unlike(psql_error($node, qq{SELECT replica_create('x', 'aurora', '{$class, "master_user_password": "hunter22"}')}) =~ s/LINE.*//sr,
	qr/hunter22.*hunter22/s, 'a password is not repeated');
is(scalar($aws->calls), 0, 'Amazon was not asked about any of it');

# --------------------------------------------------------------------------
note 'what only Amazon knows';
# --------------------------------------------------------------------------
sub create_refused
{
	my ($server, $options, $wanted, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	refused("SELECT replica_create('x1', '$server', '{$options}'); SELECT replica_wait('x1')", $wanted, $name);
	return;
}
sub source_is { $aws->do('change', kind => 'instance', id => 'orders', values => {@_}); return }

$aws->server($node, 'missing', source => 'nowhere');
$aws->server($node, 'mysql', source => 'mysql1');
create_refused('missing', '', qr/ERROR:  42704: .*source "nowhere" does not exist/, 'no such source');
create_refused('mysql', '', qr/ERROR:  42809: .*not an RDS instance of PostgreSQL.*engine is "mysql"/s, 'a MySQL source');
create_refused('rds', '"db_instance_class": "db.nope.large"', qr/ERROR:  22023: .*"db.nope.large" cannot be ordered/, 'no such class');
create_refused('aurora', qq{$class, "engine_version": "14.6"}, qr/ERROR:  22023: .*version 14.6 cannot follow a source of version 15.3/, 'an older version');
create_refused('aurora', qq{$class, "engine_version": "15.9"}, qr/ERROR:  0A000: .*it has: 15.2, 15.3, 15.4/s, 'a version that is not there');
source_is(DBInstanceStatus => 'storage-full');
create_refused('rds', '', qr/ERROR:  55000: .*source is not available.*storage-full/s, 'a source that is full');
source_is(DBInstanceStatus => 'available', BackupRetentionPeriod => 0);
create_refused('rds', '', qr/ERROR:  55000: .*no automated backups/, 'a source without backups');
source_is(BackupRetentionPeriod => 7, EngineVersion => '16.1');
create_refused('aurora', $class, qr/ERROR:  0A000: .*no version that can follow a source of version 16.1/, 'a source that is too new');
source_is(EngineVersion => '14.5');
$aws->do('set', create_seconds => 0.2, cluster_seconds => 0.2);
sql("SELECT replica_create('next', 'aurora', '{$class}')");
is(sql(q{SELECT replica_wait('next')}), 'succeeded', 'a minor version that Aurora does not have');
is(($aws->calls('CreateDBCluster'))[-1]{params}{EngineVersion}, '14.6', 'is followed by the next one');
create_refused('aurora', qq{$class, "db_cluster_identifier": "second"}, qr/ERROR:  55000: .*has an Aurora read replica already: "next"/, 'a second Aurora replica');
source_is(EngineVersion => '15.3', ReadReplicaDBClusterIdentifiers => [], StorageEncrypted => \1);
create_refused('aurora', qq{$class, "storage_encrypted": false, "db_cluster_identifier": "plain"}, qr/ERROR:  22023: .*must be encrypted/, 'no encryption');
source_is(StorageEncrypted => \0);
create_refused('rds', '"kms_key_id": "k"', qr/ERROR:  22023: .*cannot be encrypted/, 'a key for nothing');
$aws->do('metric', name => 'FreeStorageSpace', id => 'orders', value => 1e9);
$aws->do('metric', name => 'TransactionLogsGeneration', id => 'orders', value => 50e6);
create_refused('rds', '', qr/ERROR:  53100: .*may run out of storage.*GiB free/s, 'a source without room for the WAL');

# --------------------------------------------------------------------------
note 'replica_explain';
# --------------------------------------------------------------------------
{
	my %row = map { split /\|/, $_, 2 } split /\n/,
	  sql(q{SELECT name, status || ' ' || coalesce(detail, '') FROM replica_explain('create', 'x2', 'rds') WHERE step = 1});

	for my $check ('source', 'source engine', 'source status', 'source backups', 'version', 'read replicas', 'encryption', 'instance class', 'identifier')
	{
		like($row{$check} // 'is missing', qr/^ok /, "check \"$check\"");
	}
	like($row{storage}, qr/^blocked /, 'the storage is too small');
	$aws->do('metric', name => 'TransactionLogsGeneration', id => 'orders', value => 1e5);
	isnt(sql(q{SELECT status FROM replica_explain('create', 'x2', 'rds') WHERE name = 'storage'}), 'blocked', 'with fewer writes it is not');
	like(sql(q{SELECT status || detail FROM replica_explain('create', 'x2', 'missing') WHERE name = 'source'}), qr/^blocked/, 'no source');
	$aws->do('fault', kind => 'error', action => 'GetMetricData', code => 'AccessDenied', status => 403, message => 'no', times => 5);
	like(sql(q{SELECT status || ' ' || hint FROM replica_explain('create', 'x2', 'rds') WHERE hint LIKE '%GetMetricData%'}),
		qr/^warning Allow cloudwatch:GetMetricData in the IAM policy/, 'without CloudWatch it is a warning');
	$aws->do('clear');
	is(scalar(grep { $_->{params}{DBInstanceIdentifier} && $_->{params}{DBInstanceIdentifier} eq 'x2' } $aws->calls('CreateDBInstanceReadReplica')),
		0, 'nothing is made');
}

# --------------------------------------------------------------------------
note 'TLS';
# --------------------------------------------------------------------------
{
	my $ca = $aws->ca_file;
	$aws->server($node, 'untrusted', endpoint => $aws->tls_url);
	create_refused('untrusted', '', qr/ERROR:  \w+: .*could not reach Amazon RDS/, 'a certificate of an unknown authority');
	$aws->server($node, 'trusted', endpoint => $aws->tls_url, ca_file => $ca, source => 'orders');
	is(sql(q{SELECT status FROM replica_explain('create', 'x3', 'trusted') WHERE name = 'source'}), 'ok', 'ca_file makes it known');
	$aws->server($node, 'nokeys', mapping_access_key_id => undef, mapping_secret_access_key => undef);
	create_refused('nokeys', '', qr/ERROR:  \w+: .*credentials/, 'no credentials');
}

is($aws->complaints, '', 'the fake has nothing to complain about');
done_testing();
