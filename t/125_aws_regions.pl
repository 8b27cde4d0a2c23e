# Replicas in other regions, and a planned promotion that asks SQL: the writes
# on the source are stopped there, and the replica shows its own position.

use strict;
use warnings;
use lib 't';
use FakeAws;
use ReplicaCtl;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $aws = FakeAws->new;
my $node = new_primary('regions');

sub sql { return $node->safe_psql('postgres', $_[0]) }

$aws->do('set', create_seconds => 0.2, delete_seconds => 0.1, promote_seconds => 0.5, promote_notice => 0.1);

# --------------------------------------------------------------------------
note 'another region';
# --------------------------------------------------------------------------
{
	my $arn = 'arn:aws:rds:us-west-2:123456789012:db:orders';

	$aws->server($node, 'far', source => $arn, source_endpoint => $aws->url('us-west-2'));
	sql(q{SELECT replica_create('far1', 'far', '{"db_parameter_group_name": "custom"}')});
	is(sql(q{SELECT replica_wait('far1')}), 'succeeded', 'a replica of a source in another region');
	my ($call) = $aws->calls('CreateDBInstanceReadReplica');
	is_deeply([ $call->{region}, @{ $call->{params} }{qw(SourceDBInstanceIdentifier DBParameterGroupName)} ],
		[ 'eu-north-1', $arn, 'custom' ], 'is asked for in its own region, by the ARN');
	is(join(' ', sort map { $_->{action} } grep { $_->{region} eq 'us-west-2' } $aws->calls), 'DescribeDBInstances',
		'the source\'s region was only asked about the source');

	$aws->do('change', kind => 'instance', id => 'orders', region => 'us-west-2', values => { StorageEncrypted => \1 });
	like(psql_error($node, q{SELECT replica_create('far2', 'far'); SELECT replica_wait('far2')}),
		qr/ERROR:  22023: .*needs a KMS key.*HINT:  Give one of region eu-north-1/s, 'an encrypted one needs a key');
	sql(q{SELECT replica_create('far3', 'far', '{"kms_key_id": "alias/here"}')});
	is(sql(q{SELECT replica_wait('far3')}), 'succeeded', 'of the replica\'s region');

	$aws->server($node, 'dark', source => $arn);
	is(sql(q{SELECT count(*) FROM replica_explain('create', 'far4', 'dark') WHERE status = 'warning' AND detail LIKE '%cannot be looked at%'}),
		'1', 'a source that cannot be looked at is a warning');
	sql(q{SELECT replica_drop('far1')});
	is(sql(q{SELECT replica_wait('far1')}), 'succeeded', 'drop');
}

# --------------------------------------------------------------------------
note 'SQL on both sides';
# --------------------------------------------------------------------------
my $source = PostgreSQL::Test::Cluster->new('source');
$source->init(allows_streaming => 1);
$source->append_conf('postgresql.conf', "listen_addresses = '127.0.0.1'");
$source->append_conf('pg_hba.conf', "host all all 127.0.0.1/32 trust");
$source->start;
$source->backup('copy');
my $replica = PostgreSQL::Test::Cluster->new('replica');
$replica->init_from_backup($source, 'copy', has_streaming => 1);
$replica->start;
$source->safe_psql('postgres', 'CREATE TABLE t AS SELECT generate_series(1, 1000) AS i');

my $user = $source->safe_psql('postgres', 'SELECT current_user');
$aws->server($node, 'sqlside', source_conninfo => "host=127.0.0.1 port=" . $source->port . " user=$user dbname=postgres");
sql(q{SELECT replica_create('s1', 'sqlside')});
is(sql(q{SELECT replica_wait('s1')}), 'succeeded', 'a replica');
sql(qq{UPDATE replica_ctl.replica SET facts = facts || '{"host": "127.0.0.1", "port": "${\$replica->port}"}' WHERE name = 's1'});
$aws->do('change', kind => 'instance', id => 's1', values => { Endpoint => { Address => '127.0.0.1', Port => $replica->port } });

# nothing is to be had from CloudWatch, and the replica does not replay
$aws->do('metric', name => 'ReplicaLag', id => 's1');
$replica->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
$source->safe_psql('postgres', 'INSERT INTO t VALUES (0)');
like(psql_error($node, q{SELECT replica_promote('s1', timeout => '5 s'); SELECT replica_wait('s1')}), qr/ERROR:  5\w+: /,
	'a replica that has not replayed the last write is not promoted');
is(scalar($aws->calls('PromoteReadReplica')), 0, 'Amazon was not asked to');
$source->safe_psql('postgres', 'INSERT INTO t VALUES (-1)');
pass('and the source takes writes again');
$replica->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
wait_until(sub { $replica->safe_psql('postgres', 'SELECT count(*) FROM t') == 1002 }, 'the replay');

my $op = sql(q{SELECT replica_promote('s1', timeout => '60 s')});
wait_until(sub { scalar $aws->calls('PromoteReadReplica') }, 'the call', 60);
my ($rc, $out, $err) = $source->psql('postgres', 'INSERT INTO t VALUES (-2)');
like($err, qr/read-only transaction/, 'the source takes no writes when Amazon is asked');
$replica->promote;
is(sql("SELECT replica_operation_wait($op)"), 'succeeded', 'promoted, by positions alone');
is($replica->safe_psql('postgres', 'SELECT count(*) FROM t'), '1002', 'with all that was committed');

is($aws->complaints, '', 'the fake has nothing to complain about');
done_testing();
