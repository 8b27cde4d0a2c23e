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
sub error_of { return operation_error($node, $_[0]) }

my $r1 = FakeAiven::Creations->new($aiven, $node);

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
	my ($state, $op) = $r1->create($faults, $knobs);

	is($state, 'succeeded', "$name: the replica is made") or diag error_of($op), join "\n", '', $aiven->calls;
	is($aiven->posts, $posts, "$name: number of creations sent");
	is($aiven->names, 'primary-postgresql r1', "$name: there is one service");
	is($r1->drop, 'succeeded', "$name: dropped");
	is($aiven->names, 'primary-postgresql', "$name: nothing is left");
}

$aiven->no_secrets_ok($node);
is(join("\n", $aiven->complaints), '', 'no request broke the rules of the document');

done_testing();
