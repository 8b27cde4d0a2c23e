# Promotions at Aiven by workers that are killed, and after somebody else's.

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
my $node = new_primary('control', conf => $FakeAiven::Promotions::conf);
my $integrations = '/project/demo-project/integration/';

sub value { return $node->safe_psql('postgres', $_[0]) }
sub error_of { return operation_error($node, $_[0]) }

my $trials = FakeAiven::Promotions->new($aiven, $node);

# ---- workers that are killed ----

if (test_build($node))
{
	for my $point ('promote.promote.before', 'promote.promote.after', 'promote.verify.before')
	{
		my ($name, $standby) = $trials->replica('remote');
		set_fault($node, "$point=crash*1");
		my ($state, $op) = $trials->promote($name);
		set_fault($node, '');
		is($state, 'succeeded', "killed at $point: promoted") or diag error_of($op);
		ok(is_primary($standby), "killed at $point: it is a primary");
		$standby->stop('immediate');
	}
}

# ---- already promoted, by Terraform say ----

{
	my ($name, $standby) = $trials->replica('remote');
	my ($id) = map { $_->{service_integration_id} } grep { $_->{dest_service} eq $name } @{ $aiven->control('state')->{integrations} };
	my $http = HTTP::Tiny->new;
	$http->request('DELETE', $aiven->endpoint . "/v1${integrations}$id", { headers => { Authorization => "aivenv1 $FakeAiven::token" } });
	sleep 0.5;
	my ($state, $op) = $trials->promote($name);
	is($state, 'failed', 'promoted already by others');
	like(error_of($op), qr/55000 (Aiven service "$name" is no read replica any more|replica "$name" is not in recovery).*replica_detach/, 'the error says so');
	$standby->stop('immediate');
}

is(join("\n", $aiven->complaints), '', 'no request broke the rules of the document');
done_testing();
