# Promotions that Amazon makes: zero lag is shown by data, the call is made
# once whatever becomes of its answer, and what fails is undone or says so.
# slow

use strict;
use warnings;
use lib 't';
use FakeAws;
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;

my $aws = FakeAws->new;
my $node = new_primary('promote', conf => 'replica_ctl.progress_timeout = 15s');

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Creates a replica of a source of its own.
sub replica
{
	my ($name, $engine) = @_;
	my $aurora = $engine eq 'aurora-postgresql';

	$aws->do('change', kind => 'instance', id => "src-$name", values => {});
	$aws->server($node, "srv_$name", engine => $engine, fence => 'external', wait_interval => '100 ms',
		source => $aurora ? "arn:aws:rds:eu-north-1:123456789012:db:src-$name" : "src-$name");
	sql("SELECT replica_create('$name', 'srv_$name', '" . ($aurora ? '{"db_instance_class": "db.r6g.large"}' : '{}') . "')");
	is(sql("SELECT replica_wait('$name')"), 'succeeded', "replica $name of engine $engine");
	return;
}

sub promote
{
	my ($name, $more) = @_;
	return sql("SELECT replica_promote('$name'" . ($more // q{, timeout => '30 s'}) . ')');
}

sub instance
{
	my ($name) = @_;
	return (grep { $_->{DBInstanceIdentifier} eq $name } @{ $aws->do('state')->{instances} })[0];
}

$aws->do('set', create_seconds => 0.2, cluster_seconds => 0.2, delete_seconds => 0.1);

# --------------------------------------------------------------------------
note 'an RDS replica, planned';
# --------------------------------------------------------------------------
{
	replica('plain', 'postgres');
	my %row = map { split /\|/, $_, 2 } split /\n/,
	  sql(q{SELECT name, status || ' ' || coalesce(detail, '') FROM replica_explain('promote', 'plain') WHERE step > 0});
	like($row{$_} // 'is missing', qr/^ok /, "replica_explain: $_") for 'link', 'status', 'lag';
	like($row{promote} // 'is missing', qr/PromoteReadReplica plain/, 'and the call');
	is(sql(q{SELECT count(*) FROM replica_explain('promote', 'plain') WHERE status = 'blocked'}), '0', 'nothing is in the way');
	like(sql(q{SELECT status FROM replica_explain('drop', 'plain') WHERE name = 'deletion'}), qr/^ok/, 'nor of a drop');
	$aws->do('set', lag => 7.0);
	my $op = promote('plain');
	wait_for($node, "SELECT phase LIKE '%ReplicaLag is 7 s%' FROM replica_operations WHERE operation = $op");
	is(scalar($aws->calls('PromoteReadReplica')), 0, 'not before the lag is 0');
	$aws->do('set', lag => 0.0);
	is(sql(q{SELECT replica_wait('plain')}), 'succeeded', 'promoted');
	is(scalar($aws->calls('PromoteReadReplica')), 1, 'by one call');
	is(instance('plain')->{ReadReplicaSourceDBInstanceIdentifier}, undef, 'its link is gone');
	is(sql(q{SELECT state FROM replica_status WHERE replica = 'plain'}), 'promoted', 'and its state says so');
	like(sql(q{SELECT message FROM replica_events WHERE replica = 'plain' AND kind = 'promoted'}),
		qr/^Promoted read replica "plain" to stand-alone primary/, 'there is an event');
	like(psql_error($node, q{SELECT replica_drop('plain'); SELECT replica_wait('plain')}),
		qr/ERROR:  55000: .*"plain" was promoted: it is a database of its own.*HINT:  Forget it with SELECT replica_detach/s,
		'a drop does not delete it');
	sql(q{SELECT replica_drop('plain', force => true)});
	is(sql(q{SELECT replica_wait('plain')}), 'succeeded', 'unless it is forced');
	like(($aws->calls('DeleteDBInstance'))[-1]{params}{FinalDBSnapshotIdentifier}, qr/^plain-final-\d+$/, 'with a last snapshot');
}

# --------------------------------------------------------------------------
note 'an Aurora replica, planned, either wording of the event';
# --------------------------------------------------------------------------
for my $wording ('Promoted Read Replica cluster to stand-alone database cluster',
	'Promoted Read Replica cluster to a stand-alone database cluster.')
{
	my $name = 'au' . length $wording;
	replica($name, 'aurora-postgresql');
	$aws->do('set', event_wording => $wording);
	promote($name);
	is(sql("SELECT replica_wait('$name')"), 'succeeded', 'promoted');
	is(sql("SELECT detail->>'aws_event' FROM replica_events WHERE replica = '$name' AND kind = 'promoted'"), $wording,
		'Amazon\'s event is in ours');
	is_deeply(instance("src-$name")->{ReadReplicaDBClusterIdentifiers}, [], 'source and replica are unlinked');
}
is(scalar($aws->calls('PromoteReadReplicaDBCluster')), 2, 'each by one call');

# --------------------------------------------------------------------------
note 'no data, old data, no replication: not promoted';
# --------------------------------------------------------------------------
{
	replica('lag', 'aurora-postgresql');
	$aws->do('forget');
	for my $case ([ 'no data point', {}, qr/waiting for a data point/ ],
		[ 'a 0 that is older than the last write', { value => 0, age => 120 }, qr/waiting for a data point.*the newest is \d+ s older/ ],
		[ 'a lag', { value => 3 }, qr/RDSToAuroraPostgreSQLReplicaLag is 3 s/ ])
	{
		my ($what, $how, $wanted) = @$case;

		$aws->do('metric', name => 'RDSToAuroraPostgreSQLReplicaLag', id => 'lag-1', %$how);
		promote('lag', q{, timeout => '4 s'});
		my $error = psql_error($node, q{SELECT replica_wait('lag')});
		like($error, qr/ERROR:  57014/, "$what: it times out");
		like($error, $wanted, 'and says what it waited for');
	}
	$aws->do('metric', name => 'RDSToAuroraPostgreSQLReplicaLag', id => 'lag-1', value => -1);
	like(psql_error($node, q{SELECT replica_promote('lag', timeout => '4 s'); SELECT replica_wait('lag')}),
		qr/ERROR:  55000: .*replica "lag" does not replicate/, '-1 is no lag of 0');

	# Amazon's clock is two minutes ahead: a data point that looks newer than the last write is older
	$aws->do('set', skew => 120);
	$aws->do('metric', name => 'RDSToAuroraPostgreSQLReplicaLag', id => 'lag-1', value => 0, age => 60);
	like(psql_error($node, q{SELECT replica_promote('lag', timeout => '4 s'); SELECT replica_wait('lag')}),
		qr/ERROR:  57014: .*the newest is \d+ s older/s, 'times are compared by one clock');
	$aws->do('set', skew => 0);
	is(scalar($aws->calls('PromoteReadReplicaDBCluster')), 0, 'Amazon was never asked to promote it');
	isnt(sql(q{SELECT state FROM replica_status WHERE replica = 'lag'}), 'promoted', 'it is a replica still');
	$aws->do('metric', name => 'RDSToAuroraPostgreSQLReplicaLag', id => 'lag-1', value => 0);
}

# --------------------------------------------------------------------------
note 'refusals, lost answers, crashes';
# --------------------------------------------------------------------------
{
	$aws->do('change', kind => 'cluster', id => 'lag', values => { Status => 'backing-up' });
	like(psql_error($node, q{SELECT replica_promote('lag'); SELECT replica_wait('lag')}),
		qr/ERROR:  55000: .*DB cluster "lag" is not available.*HINT:  Wait until/s, 'one that is busy is refused at once');
	$aws->do('change', kind => 'cluster', id => 'lag', values => { Status => 'available' });

	$aws->do('fault', kind => 'error', action => 'PromoteReadReplicaDBCluster', code => 'AccessDenied', status => 403,
		message => 'User x is not authorized');
	promote('lag');
	my $error = psql_error($node, q{SELECT replica_wait('lag')});
	like($error, qr/ERROR:  42501: .*DETAIL:  Error code AccessDenied, HTTP status 403, request ID [0-9a-f-]+/s, 'a refusal');
	like($error, qr/HINT:  Allow rds:PromoteReadReplicaDBCluster in the IAM policy/, 'names the action');
	is(sql(q{SELECT state FROM replica_operations WHERE replica = 'lag' ORDER BY operation DESC LIMIT 1}), 'failed',
		'and is undone, for nothing has changed');

	$aws->do('forget');
	$aws->do('fault', kind => 'lost', action => 'PromoteReadReplicaDBCluster');
	promote('lag');
	is(sql(q{SELECT replica_wait('lag')}), 'succeeded', 'a lost answer is settled by a look');
	is(scalar($aws->calls('PromoteReadReplicaDBCluster')), 1, 'and not by a second call');

	replica('crash', 'postgres');
	$aws->do('forget');
	$aws->do('set', promote_notice => 1.5, promote_seconds => 3);
	set_fault($node, 'promote.promote.before=exit*1;promote.promote.after=exit*2');
	promote('crash');
	is(sql(q{SELECT replica_wait('crash')}), 'succeeded', 'workers may come and go');
	is(scalar($aws->calls('PromoteReadReplica')), 1, 'with one call');
	set_fault($node, '');
	$aws->do('set', promote_notice => 0.3, promote_seconds => 0.6);
}

# --------------------------------------------------------------------------
note 'while a promotion is under way, and forced';
# --------------------------------------------------------------------------
{
	replica('busy', 'aurora-postgresql');
	$aws->do('set', promote_seconds => 5);
	$aws->server($node, 'above', source => 'orders');
	my $op = promote('busy', q{, mode => 'forced'});
	wait_until(sub { grep { $_->{DBClusterIdentifier} eq 'busy' && $_->{Status} eq 'promoting' } @{ $aws->do('state')->{clusters} } },
		'the promotion');
	like(psql_error($node, q{SELECT replica_drop('busy')}), qr/ERROR:  55006: .*operation $op is running on replica "busy"/,
		'the cluster cannot be dropped');
	is(sql("SELECT replica_cancel($op)"), 'f', 'nor the promotion cancelled');
	is(sql(q{SELECT replica_wait('busy')}), 'succeeded', 'it is promoted');
	$aws->do('set', promote_seconds => 0.6);

	replica('fails', 'aurora-postgresql');
	$aws->do('set', promote_fails => 'inaccessible-encryption-credentials');
	promote('fails');
	my $error = psql_error($node, q{SELECT replica_wait('fails')});
	like($error, qr/ERROR:  55000: .*DB cluster "fails" is in status "inaccessible-encryption-credentials"/, 'one that ends badly');
	is(sql(q{SELECT state FROM replica_operations WHERE replica = 'fails' ORDER BY operation DESC LIMIT 1}), 'needs_attention',
		'is for a person to look at');
}

is($aws->complaints, '', 'the fake has nothing to complain about');
done_testing();
