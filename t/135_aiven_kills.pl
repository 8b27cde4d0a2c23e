# Promotions at Aiven by workers that are killed, and after somebody else's.

use strict;
use warnings;
use lib 't';
use FakeAiven;
use ReplicaCtl;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

plan skip_all => 'python3-jsonschema is missing' unless FakeAiven::available();

my $aiven = FakeAiven->new;
my $node = new_primary('control', conf => "wal_receiver_status_interval = 1\nwal_receiver_timeout = 4s");
my $me = getpwuid($<);
my $integrations = '/project/demo-project/integration/';

sub value { return $node->safe_psql('postgres', $_[0]) }
sub detail { return decode_json(value("SELECT detail FROM replica_events WHERE kind = '$_[0]' ORDER BY event DESC LIMIT 1") || '{}') }
sub error_of { return value("SELECT state || ' ' || sqlstate || ' ' || message || ' | ' || coalesce(detail, '') || ' | ' || coalesce(hint, '') FROM replica_operations WHERE operation = $_[0]") }
sub deletions { return scalar grep { m{^DELETE .*/integration/} } $aiven->calls }
sub fence_state { return value('SHOW default_transaction_read_only') }

# Another server as the source, or this one: the first has a source_conninfo
# in server "remote" and none in server "external".
my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "wal_receiver_status_interval = 1\nwal_receiver_timeout = 4s");
$primary->start;

$aiven->seed;
value($aiven->server_sql('here'));
value($aiven->server_sql('remote', source_conninfo => 'host=' . $primary->host . ' port=' . $primary->port . " user=$me dbname=postgres"));
value($aiven->server_sql('external', fence => 'external'));
value($aiven->server_sql('nothing'));

my $number = 0;

# A replica of the source behind server, attached; its name and standby.
sub replica
{
	my ($server, %knobs) = @_;
	my $source = $server eq 'here' ? $node : $primary;
	my $name = 'r' . ++$number;

	$aiven->seed;
	$aiven->uri('primary-postgresql', $source);
	$source->safe_psql('postgres', 'SET default_transaction_read_only = off; ALTER DATABASE postgres RESET default_transaction_read_only')
	  if $server ne 'here';
	$aiven->control('service', project => 'demo-project', name => $name, source => 'primary-postgresql');
	my $standby = $aiven->standby($name, $source);
	$source->wait_for_catchup($standby);
	my $op = value("SELECT replica_attach('$name', '$server')");
	is(wait_operation($node, $op), 'succeeded', "$name is attached") or diag error_of($op);
	$aiven->control('set', unlink => 0.2, promote => 0.3, %knobs);
	$aiven->clear_log;
	return ($name, $standby);
}

sub promote
{
	my ($name, $arguments) = @_;
	my $op = value("SELECT replica_promote('$name'" . ($arguments ? ", $arguments" : '') . ')');
	return (wait_operation($node, $op, 90), $op);
}

sub is_primary { return $_[0]->safe_psql('postgres', 'SELECT pg_is_in_recovery()') eq 'f' }

# ---- workers that are killed ----

if (test_build($node))
{
	for my $point ('promote.promote.before', 'promote.promote.after', 'promote.verify.before')
	{
		my ($name, $standby) = replica('remote');
		set_fault($node, "$point=crash*1");
		my ($state, $op) = promote($name);
		set_fault($node, '');
		is($state, 'succeeded', "killed at $point: promoted") or diag error_of($op);
		ok(is_primary($standby), "killed at $point: it is a primary");
		$standby->stop('immediate');
	}
}

# ---- already promoted, by Terraform say ----

{
	my ($name, $standby) = replica('remote');
	my ($id) = map { $_->{service_integration_id} } grep { $_->{dest_service} eq $name } @{ $aiven->control('state')->{integrations} };
	my $http = HTTP::Tiny->new;
	$http->request('DELETE', $aiven->endpoint . "/v1${integrations}$id", { headers => { Authorization => "aivenv1 $FakeAiven::token" } });
	sleep 0.5;
	my ($state, $op) = promote($name);
	is($state, 'failed', 'promoted already by others');
	like(error_of($op), qr/55000 (Aiven service "$name" is no read replica any more|replica "$name" is not in recovery).*replica_detach/, 'the error says so');
	$standby->stop('immediate');
}

is(join("\n", $aiven->complaints), '', 'no request broke the rules of the document');
done_testing();
