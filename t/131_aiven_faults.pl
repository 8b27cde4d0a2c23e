# Faults of Aiven's API while a replica is made: answers that are lost, late,
# limited, or no answers of the API at all: there is one service in the end.

use strict;
use warnings;
use lib 't';
use FakeAiven;
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'python3-jsonschema is missing' unless FakeAiven::available();

my $aiven = FakeAiven->new(idle => 2);
my $node = new_primary('control');
my $service = '/project/demo-project/service$';
my $replica = '/service/r1(\?|$)';
my $html = '<html><body><h1>408 Request Time-out</h1></body></html>';

sub value { return $node->safe_psql('postgres', $_[0]) }

$aiven->seed;
value($aiven->server_sql('aiven'));

# What stands behind the service that is made.
my $standby = $aiven->standby('r1', $node);

sub seed
{
	$aiven->seed(@_);
	$aiven->behind('r1', $standby);
	return;
}

# Makes replica r1 with these faults; returns the operation's end and its number.
sub create
{
	my ($faults, $knobs, $options) = @_;

	seed();
	$aiven->control('set', build => 0.3, delete => 0.1, %{ $knobs // {} });
	$aiven->control('fault', %$_) for @{ $faults // [] };
	$aiven->clear_log;
	my $op = value("SELECT replica_create('r1', 'aiven', '" . ($options // '{}') . "')");
	return (wait_operation($node, $op, 90), $op);
}

sub drop
{
	$aiven->control('faults');
	my $op = value(q{SELECT replica_drop('r1')});
	return wait_operation($node, $op);
}

sub posts { return scalar grep { m{^POST .*/service$} } $aiven->calls }
sub error_of { return value("SELECT sqlstate || ' ' || message || ' | ' || coalesce(detail, '') || ' | ' || coalesce(hint, '') FROM replica_operations WHERE operation = $_[0]") }
sub names { return join ' ', sort keys %{ $aiven->services } }

# What a creation must survive: name, faults, knobs, number of POSTs.
my @harmless = (
	[ 'a lost answer to the creation', [ { method => 'POST', path => $service, after => 'lost' } ], {}, 1 ],
	[ 'half an answer to the creation', [ { method => 'POST', path => $service, after => 'cut' } ], {}, 1 ],
	[ 'broken JSON in answer to the creation', [ { method => 'POST', path => $service, after => 'garbage' } ], {}, 1 ],
	[ 'a 503 that did nothing', [ { method => 'POST', path => $service, status => 503, html => $html } ], {}, 2 ],
	[ 'a 408 page that did it', [ { method => 'POST', path => $service, status => 408, html => $html, done => \1 } ], {}, 1 ],
	[ 'a connection that is reset before', [ { method => 'POST', path => $service, before => 'reset' } ], {}, 2 ],
	[ 'a 429 with Retry-After', [ { method => 'POST', path => $service, status => 429, headers => { 'Retry-After' => '1' } } ], {}, 2 ],
	[ 'a 429 that says so in its text',
		[ { status => 429, message => 'Rate limit 120 exceeded - try again in 1s' } ], {}, 1 ],
	[ 'a lost answer, a late integration and late connection data',
		[ { method => 'POST', path => $service, after => 'lost' } ], { integration_late => 1.2, uri_late => 1.5, role => 'null' }, 1 ],
	[ 'a service that is unknown at first',
		[ { method => 'GET', path => $replica, skip => 1, times => 3, status => 404, message => 'Service does not exist' } ], {}, 1 ],
	[ 'pages and cut answers while it is built',
		[ { method => 'GET', path => $replica, skip => 1, status => 502, html => $html },
			{ method => 'GET', path => $replica, skip => 1, after => 'cut' },
			{ method => 'GET', path => $replica, skip => 1, after => 'garbage' } ], { tags => 'null' }, 1 ],
	[ 'a 403, a 401 and a 404 that are gone a moment later',
		[ { method => 'GET', path => $replica, skip => 2, status => 403, message => 'Permission denied' },
			{ method => 'GET', path => $replica, skip => 2, status => 401, message => 'Missing (expired) db token' },
			{ method => 'GET', path => $replica, skip => 3, times => 2, status => 404, message => 'Service does not exist' } ], {}, 1 ],
	[ 'a source that the creation does not know at first, and lists that cannot be had',
		[ { method => 'POST', path => $service, status => 404, message => 'Service primary-postgresql does not exist' },
			{ path => '/plans$', status => 403, message => 'Permission denied' },
			{ path => '/backups$', status => 403, message => 'Permission denied' } ], {}, 2 ],
	[ 'RUNNING that goes back, errors in good answers, a state that is new',
		[], { flap => \1, build => 2, errors_in_success => \1, strange_state => 'MIGRATING' }, 1 ],
);

for my $case (@harmless)
{
	my ($name, $faults, $knobs, $posts) = @$case;
	my ($state, $op) = create($faults, $knobs);

	is($state, 'succeeded', "$name: the replica is made") or diag error_of($op), join "\n", '', $aiven->calls;
	is(posts(), $posts, "$name: number of creations sent");
	is(names(), 'primary-postgresql r1', "$name: there is one service");
	is(drop(), 'succeeded', "$name: dropped");
	is(names(), 'primary-postgresql', "$name: nothing is left");
}

# No secret anywhere
{
	my $log = slurp_file($node->logfile);
	my $rows = value(q{SELECT jsonb_agg(to_jsonb(o)) FROM replica_ctl.operation o})
	  . value(q{SELECT jsonb_agg(to_jsonb(e)) FROM replica_ctl.event e})
	  . value(q{SELECT coalesce(jsonb_agg(to_jsonb(r)), '[]') FROM replica_ctl.replica r})
	  . value(q{SELECT coalesce(jsonb_agg(to_jsonb(c)), '[]') FROM replica_ctl.cleanup c});
	$log =~ s/^.*STATEMENT:.*$|CREATE USER MAPPING.*$//mg;

	unlike($log, qr/\Q$FakeAiven::token\E|aivenv1/, 'no token in the log');
	unlike($rows, qr/\Q$FakeAiven::token\E|aivenv1|AVNS_/, 'no token or password in the tables');
}
is(join("\n", $aiven->complaints), '', 'no request broke the rules of the document');

done_testing();
