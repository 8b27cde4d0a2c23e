# What Amazon and the network do to a create: answers that are lost, broken,
# huge or hostile, refusals, bad ends, crashes of ours.  Nothing is made twice,
# nothing is left behind, and no secret is seen.
# slow

use strict;
use warnings;
use lib 't';
use FakeAws;
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $aws = FakeAws->new;
my $node = new_primary('faults', conf => "replica_ctl.progress_timeout = 20s\nreplica_ctl.max_operations = 20\nmax_worker_processes = 60");
my $token = 'tOkEn//abc+123456789=';

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Creates a source and a server for a replica of that name, and asks for it.
sub begin
{
	my ($name, $aurora, %options) = @_;

	$aws->do('change', kind => 'instance', id => "src-$name", values => {});
	$aws->server($node, "srv_$name", wait_interval => '50 ms', engine => $aurora ? 'aurora-postgresql' : 'postgres',
		source => "src-$name", %options);
	return sql("SELECT replica_create('$name', 'srv_$name', '" . ($aurora ? '{"db_instance_class": "db.r6g.large"}' : '{}') . "')");
}

sub outcome
{
	my ($name) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT replica_wait('$name', '120 s')");
	return "$out$err";
}

# What is there of a replica: its clusters and instances.
sub made
{
	my ($name) = @_;
	return join ' ', grep { /^$name(-1)?$/ } split / /, join ' ', $aws->identifiers('clusters'), $aws->identifiers('instances');
}

sub count
{
	my ($action, $name) = @_;
	return scalar grep { ($_->{params}{DBInstanceIdentifier} // '') =~ /^$name/ || ($_->{params}{DBClusterIdentifier} // '') =~ /^$name/ }
	  $aws->calls($action);
}

$aws->do('set', create_seconds => 0.2, cluster_seconds => 0.2, delete_seconds => 0.1);

# --------------------------------------------------------------------------
note 'reading through all of it';
# --------------------------------------------------------------------------
{
	my $spy = $aws->url('us-west-2') . '/spy';

	for my $fault ({ kind => 'drop' }, { kind => 'html' }, { kind => 'error', code => 'Throttling', status => 400 },
		{ kind => 'cut' }, { kind => 'truncated' }, { kind => 'garbage' }, { kind => 'empty' }, { kind => 'wrong' },
		{ kind => 'stale' }, { kind => 'entity', location => $spy }, { kind => 'laughs' }, { kind => 'headers' },
		{ kind => 'error', code => 'InternalFailure', status => 500 }, { kind => 'error', code => 'RequestLimitExceeded', status => 503, headers => { 'Retry-After' => '1' } })
	{
		$aws->do('fault', action => 'DescribeDBInstances', %$fault);
	}
	begin('reads', 0);
	is(outcome('reads'), 'succeeded', 'a create reads on through every broken answer');
	is(scalar(grep { !$_->{taken} } @{ $aws->do('faults') }), 0, 'all of which were served');
	is_deeply($aws->do('count')->{gets}, [], 'an external entity is not fetched');
	$aws->do('clear');

	$aws->do('fault', action => 'DescribeDBInstances', kind => 'huge', times => 100);
	begin('huge', 0);
	like(outcome('huge'), qr/ERROR:  54000: .*DETAIL:  The answer is larger than/s, 'a huge answer is an error');
	$aws->do('clear');

	$aws->do('fault', action => 'DescribeDBInstances', kind => 'redirect', location => $spy, times => 100);
	begin('redirect', 0);
	like(outcome('redirect'), qr/ERROR:  .*Amazon RDS answered DescribeDBInstances with a redirection.*HINT:  Check the server's endpoint/s,
		'a redirection is not followed');
	is(scalar(grep { $_->{region} eq 'us-west-2' } $aws->calls), 0, 'not by anybody');
	$aws->do('clear');
}

# --------------------------------------------------------------------------
note 'answers to what changes something';
# --------------------------------------------------------------------------
{
	my @cases = (
		[ 'CreateDBInstanceReadReplica', 'lost', 1 ], [ 'CreateDBInstanceReadReplica', 'drop', 2 ],
		[ 'CreateDBInstanceReadReplica', 'cut', 1 ], [ 'CreateDBInstanceReadReplica', 'garbage', 1 ],
		[ 'CreateDBInstanceReadReplica', 'html', 2 ], [ 'CreateDBCluster', 'lost', 1 ], [ 'CreateDBInstance', 'lost', 1 ],
		[ 'CreateDBInstance', 'empty', 1 ], [ 'CreateDBCluster', 'throttle', 3 ]);
	my $n = 0;

	for my $case (@cases)
	{
		my ($action, $kind, $calls) = @$case;
		my $name = 'write' . ++$n;

		$aws->do('clear');
		$aws->do('fault', action => $action, ($kind eq 'throttle' ? (kind => 'error', code => 'Throttling', status => 400, times => 2) : (kind => $kind)));
		begin($name, $action ne 'CreateDBInstanceReadReplica');
		is(outcome($name), 'succeeded', "$action: $kind");
		is(count($action, $name), $calls, "calls: $calls");
	}
	$aws->do('clear');
	$aws->do('set', list_tags_only => 1);
	$aws->do('fault', action => 'CreateDBInstanceReadReplica', kind => 'lost');
	begin('tags', 0);
	is(outcome('tags'), 'succeeded', 'where descriptions do not have the tags, they are asked for');
	cmp_ok(scalar($aws->calls('ListTagsForResource')), '>', 0, 'by a call of their own');
	sql(q{SELECT replica_drop('tags')});
	is(outcome('tags'), 'succeeded', 'by a drop, too');
	is(made('tags'), '', 'which deletes it');
	$aws->do('set', list_tags_only => 0);
}

# --------------------------------------------------------------------------
note 'bad ends';
# --------------------------------------------------------------------------
for my $status ('failed', 'incompatible-restore', 'storage-full')
{
	my $name = 'end' . substr($status, 0, 3);

	$aws->do('set', fatal => $status);
	my $op = begin($name, $status ne 'failed');
	like(outcome($name), qr/ERROR:  55000: .*is in status "$status".*DETAIL:  .*replication stopped: injected/s, "status $status is an error");
	is(made($name), '', 'and all that was made is gone');
	is(sql("SELECT state FROM replica_operations WHERE operation = $op"), 'failed', 'the operation has failed');
	$aws->do('set', fatal => undef);
}
{
	$aws->do('fault', action => 'CreateDBInstance', kind => 'error', code => 'InsufficientDBInstanceCapacity', message => 'none left');
	begin('capacity', 1);
	like(outcome('capacity'), qr/ERROR:  53000: .*none left.*DETAIL:  Error code InsufficientDBInstanceCapacity.*HINT:  Choose another/s,
		'no capacity for the instance');
	is(made('capacity'), '', 'the cluster is removed');
	is(count('CreateDBCluster', 'capacity'), 1, 'that had been made');
}

# --------------------------------------------------------------------------
note 'our own crashes';
# --------------------------------------------------------------------------
{
	set_fault($node, join ';', map { "create.$_.before=exit*1;create.$_.after=exit*2" } qw(cluster cluster_wait instance instance_wait));
	begin('crashes', 1);
	is(outcome('crashes'), 'succeeded', 'workers that end at every step');
	is(count('CreateDBCluster', 'crashes') . count('CreateDBInstance', 'crashes'), '11', 'make each thing once');
	set_fault($node, 'create.instance.after=57P05');
	begin('undone', 1);
	like(outcome('undone'), qr/ERROR:  57P05/, 'an error after all was made');
	is(made('undone'), '', 'leaves nothing');
	set_fault($node, '');
}

# --------------------------------------------------------------------------
note 'waiting and cancelling';
# --------------------------------------------------------------------------
{
	$aws->do('set', create_seconds => 300);
	my $op = begin('slow', 0, wait_interval => '60 s');
	wait_for($node, "SELECT phase LIKE '%creating slow: creating%' FROM replica_operations WHERE operation = $op");
	my $at = time;
	sql("SELECT replica_cancel($op)");
	wait_until(sub { count('DeleteDBInstance', 'slow') > 0 }, 'the undo');
	my $taken = (grep { $_->{params}{DBInstanceIdentifier} eq 'slow' } $aws->calls('DeleteDBInstance'))[0]{at} - $at;
	cmp_ok($taken, '<', 2.0, "a cancel in a wait is obeyed at once ($taken s)");
	is(wait_operation($node, $op), 'cancelled', 'and undone');
	is(made('slow'), '', 'wholly');
	$aws->do('set', create_seconds => 2, delete_creating => 0);
	$op = begin('early', 1);
	wait_for($node, "SELECT step = 'instance_wait' FROM replica_operations WHERE operation = $op");
	sql("SELECT replica_cancel($op)");
	is(wait_operation($node, $op), 'cancelled', 'what Amazon does not delete while it is being made');
	is(made('early'), '', 'is deleted when it is');
	$aws->do('set', create_seconds => 0.2, delete_creating => 1);

	$aws->do('fault', action => 'DescribeDBInstances', kind => 'hang', seconds => 30, skip => 2);
	$op = begin('hangs', 0);
	my $other = begin('other', 0);
	wait_until(sub { grep { $_->{taken} && $_->{kind} eq 'hang' } @{ $aws->do('faults') } }, 'the hanging request');
	is(outcome('other') eq 'succeeded' || outcome('hangs') eq 'succeeded' ? 1 : 0, 1, 'a request that hangs delays no other operation');
	my $hanging = sql("SELECT operation FROM replica_operations WHERE operation IN ($op, $other) AND state = 'running'");
	$at = time;
	sql("SELECT replica_cancel($hanging)");
	is(wait_operation($node, $hanging), 'cancelled', 'its own can be cancelled');
	cmp_ok(time - $at, '<', 10, 'long before it would time out');
	$aws->do('clear');
}

# --------------------------------------------------------------------------
note 'credentials, clocks, and what must not be seen';
# --------------------------------------------------------------------------
{
	$aws->do('credentials', key => 'ASIAEXPIRED1', secret => 'expiredSecret', token => $token, expires => time - 60);
	begin('expired', 0, mapping_access_key_id => 'ASIAEXPIRED1', mapping_secret_access_key => 'expiredSecret', mapping_session_token => $token);
	like(outcome('expired'), qr/ERROR:  28000: .*the credentials have expired.*Error code ExpiredToken.*request ID.*HINT:  Set new credentials/s,
		'expired credentials');
	begin('wrong', 0, mapping_secret_access_key => 'wrongSecret');
	like(outcome('wrong'), qr/ERROR:  28000: .*it does not accept the signature.*Error code SignatureDoesNotMatch.*HINT:  Check secret_access_key/s,
		'a wrong secret');
	begin('unknown', 0, mapping_access_key_id => 'AKIAUNKNOWN');
	like(outcome('unknown'), qr/ERROR:  28000: .*does not know these credentials.*Error code InvalidClientTokenId/s, 'an unknown key');
	$aws->do('credentials', key => 'AKIADENIED', secret => 'deniedSecret', denied => ['CreateDBInstanceReadReplica']);
	begin('denied', 0, mapping_access_key_id => 'AKIADENIED', mapping_secret_access_key => 'deniedSecret');
	like(outcome('denied'), qr/ERROR:  42501: .*HINT:  Allow rds:CreateDBInstanceReadReplica in the IAM policy/s, 'a missing permission is named');

	# Amazon's words may repeat what was signed
	$aws->do('fault', action => 'CreateDBInstanceReadReplica', kind => 'error', code => 'InvalidParameterValue',
		message => "you sent $FakeAws::key and $FakeAws::secret");
	begin('echo', 0);
	unlike(outcome('echo'), qr/\Q$FakeAws::key\E|\Q$FakeAws::secret\E/, 'a message that repeats the keys does not show them');

	$aws->do('set', skew => 3600);
	begin('skew', 0);
	is(outcome('skew'), 'succeeded', 'a clock that differs by an hour is corrected');
	$aws->do('set', skew => 0);

	my $dump = sql(q{SELECT string_agg(t::text, ' ') FROM (
		SELECT to_jsonb(e) FROM replica_events e UNION ALL SELECT to_jsonb(o) FROM replica_operations o
		UNION ALL SELECT to_jsonb(s) FROM replica_status s UNION ALL SELECT to_jsonb(r) FROM replica_ctl.replica r
		UNION ALL SELECT to_jsonb(p) FROM replica_ctl.operation p UNION ALL SELECT to_jsonb(c) FROM replica_ctl.cleanup c) t});
	my $log = join "\n", grep { !/STATEMENT:|LOG:  statement:.*USER MAPPING/ } split /\n/, slurp_file($node->logfile);

	for my $what ($FakeAws::secret, $token, 'expiredSecret', 'wrongSecret', 'deniedSecret', 'AWS4-HMAC-SHA256', 'Signature=')
	{
		is(index($dump, $what), -1, "no table or view has \"$what\"");
		is(index($log, $what), -1, 'nor the log');
	}
	cmp_ok(length $dump, '>', 10000, 'and there was something to look through');
}

is($aws->complaints, '', 'the fake has nothing to complain about');
done_testing();
