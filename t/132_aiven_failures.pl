# Creations at Aiven that cannot succeed: the error says why, nothing is left of
# them, and nothing that is not ours is touched.  And workers that are killed.

use strict;
use warnings;
use lib 't';
use FakeAiven;
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

plan skip_all => 'python3-jsonschema is missing' unless FakeAiven::available();

my $aiven = FakeAiven->new;
my $node = new_primary('control');
my $service = '/project/demo-project/service$';
my $replica = '/service/r1(\?|$)';
my $html = '<html><body><h1>408 Request Time-out</h1></body></html>';

sub value { return $node->safe_psql('postgres', $_[0]) }
sub error_of { return operation_error($node, $_[0]) }

my $r1 = FakeAiven::Creations->new($aiven, $node);

# What it must not survive: name, faults, knobs, pattern of the error.
my @fatal = (
	[ 'expired token', [ { status => 401, message => 'Missing (expired) db token' } ], {},
		qr/^28000 .*Missing \(expired\) db token.*ALTER USER MAPPING/ ],
	[ 'unknown token', [ { status => 403, message => 'Authentication failed' } ], {}, qr/^28000 .*403: Authentication failed/ ],
	[ 'no right to create', [ { method => 'POST', path => $service, status => 403, message => 'Permission denied', code => 'permission_denied' } ], {},
		qr/^42501 .*permission_denied.*project:services:write/ ],
	[ 'no integrations for this service', [ { method => 'POST', path => $service, status => 403, message => 'Service integrations are not available for this service' } ], {},
		qr/^55000 .*not available for this service/ ],
	[ 'a plan without replicas', [ { method => 'POST', path => $service, status => 403, message => 'Creation of a read replica not allowed under current plan' } ], {},
		qr/^55000 Aiven refuses a read replica.*not allowed under current plan.*its plan/ ],
	[ 'invalid input', [ { method => 'POST', path => $service, status => 400, message => q{Invalid input: 'x' is a required property} } ], {},
		qr/^22023 .*'x' is a required property/ ],
	[ 'an endless failure', [ { method => 'POST', path => $service, times => -1, status => 500, html => $html } ], {}, qr/^08006 .*status 500/ ],
);

value(q{ALTER SYSTEM SET replica_ctl.step_retries = 0});
$node->reload;
for my $case (@fatal)
{
	my ($name, $faults, $knobs, $pattern) = @$case;
	my ($state, $op) = $r1->create($faults, $knobs);

	is($state, 'failed', "$name: the creation fails");
	like(error_of($op), $pattern, "$name: the error");
	$aiven->control('faults');
	is($aiven->names, 'primary-postgresql', "$name: nothing is left");
}

# The source and its backups
{
	my ($state, $op) = (undef, undef);

	for my $case (
		[ { backups => 0 }, qr/^55000 source "primary-postgresql" has no backup yet/ ],
		[ { state => 'POWEROFF' }, qr/^55000 source "primary-postgresql" is powered off/ ],
		[ { state => 'REBUILDING' }, qr/^57P03 source "primary-postgresql" does not run yet/ ],
		[ { service_type => 'mysql' }, qr/^42809 source "primary-postgresql" is not an Aiven for PostgreSQL service/ ],
		[ { source => 'other' }, qr/^55000 source "primary-postgresql" is itself a read replica.*follows service "other"/ ])
	{
		$aiven->seed(%{ $case->[0] });
		my $op = value(q{SELECT replica_create('r1', 'aiven')});
		is(wait_operation($node, $op), 'failed', 'a source that is not good');
		like(error_of($op), $case->[1], 'the error says why');
		is($aiven->posts, 0, 'and nothing was asked for');
	}
}

# A name that is taken: before, and between the look and the creation
{
	$aiven->seed;
	$aiven->control('service', project => 'demo-project', name => 'r1');
	my $op = value(q{SELECT replica_create('r1', 'aiven')});
	is(wait_operation($node, $op), 'failed', 'a name that is taken');
	like(error_of($op), qr/^42710 Aiven service "r1" already exists.*replica_attach/, 'the error names the way to attach it');
	is($aiven->names, 'primary-postgresql r1', 'the other service stays');

	$aiven->seed;
	$aiven->control('set', check_answers => \0);
	$aiven->control('service', project => 'demo-project', name => 'r1', source => 'primary-postgresql',
		tags => { replica_ctl => 'somebody-else' });
	$aiven->control('fault', method => 'GET', path => $replica, status => 404, message => 'Service does not exist');
	$op = value(q{SELECT replica_create('r1', 'aiven')});
	is(wait_operation($node, $op), 'failed', 'a name that is taken meanwhile');
	like(error_of($op), qr/^42710 .*made by somebody else/, 'the error says so');
	is($aiven->names, 'primary-postgresql r1', 'the other service stays, although it looks like ours');
}

# A service that vanishes, and one that is switched off, while it is built
{
	for my $what ('vanish', 'poweroff')
	{
		$aiven->seed;
		$aiven->control('set', build => 30);
		my $op = value(q{SELECT replica_create('r1', 'aiven')});
		wait_until(sub { $aiven->services->{r1} }, 'the service');
		wait_until(sub { grep({ m{GET .*/service/r1$} } $aiven->calls) > 2 }, 'looks at it');
		is(value("SELECT step FROM replica_operations WHERE operation = $op"), 'build', "$what: it is being built");
		$what eq 'vanish'
		  ? $aiven->control('vanish', project => 'demo-project', name => 'r1')
		  : $aiven->control('change', project => 'demo-project', name => 'r1', powered => \0);
		is(wait_operation($node, $op), 'failed', "$what: the creation fails");
		like(error_of($op), qr/^55000 Aiven service "r1" did not come to run/, "$what: the error");
		is($aiven->names, 'primary-postgresql', "$what: nothing is left");
	}
}

# Progress, and a cancel while it is built; protection is no obstacle for what is half made
{
	$aiven->seed;
	$aiven->control('set', build => 6);
	my $op = value(q{SELECT replica_create('r1', 'aiven', '{"termination_protection": true}')});
	wait_for($node, "SELECT bytes_total = 8::bigint * 1024 * 1024 * 1024 AND bytes_done > 0 FROM replica_operations WHERE operation = $op");
	pass('progress is that of the base backup');
	$aiven->control('set', build => 60);
	my $start = time;
	is(value("SELECT replica_cancel($op)"), 't', 'cancel is accepted');
	wait_until(sub { !$aiven->services->{r1} }, 'deletion');
	cmp_ok(time - $start, '<', 3, 'the cancel is obeyed at once');
	is(wait_operation($node, $op), 'cancelled', 'the operation is cancelled');
	is($aiven->names, 'primary-postgresql', 'the protected service is gone');
}

# Workers that are killed around the creation
if (test_build($node))
{
	value(q{ALTER SYSTEM RESET replica_ctl.step_retries});
	for my $point ('create.service.before', 'create.service.after', 'create.settle.before')
	{
		$r1->seed;
		$aiven->control('set', build => 0.3);
		set_fault($node, "$point=crash*1");
		my $op = value(q{SELECT replica_create('r1', 'aiven')});
		is(wait_operation($node, $op, 90), 'succeeded', "killed at $point: the replica is made");
		cmp_ok(value("SELECT attempts FROM replica_operations WHERE operation = $op"), '>', 0, "killed at $point: it was");
		set_fault($node, '');
		is($aiven->names, 'primary-postgresql r1', "killed at $point: there is one service");
		is(wait_operation($node, value(q{SELECT replica_drop('r1')})), 'succeeded', "killed at $point: dropped");
	}
}

$aiven->no_secrets_ok($node);
is(join("\n", $aiven->complaints), '', 'no request broke the rules of the document');

done_testing();
