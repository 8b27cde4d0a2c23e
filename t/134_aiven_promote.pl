# Promotions at Aiven that meet trouble: lost answers, refusals, services that
# are slow or say little, writes that somebody else stops.

# slow

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

# ---- the source is this very server ----

{
	my ($name, $standby) = replica('here');
	is(value("SELECT facts->>'source_here' FROM replica_ctl.replica WHERE name = '$name'"), 'true', 'the source is known to be this server');
	value('CREATE TABLE t AS SELECT 1');
	my ($state, $op) = promote($name, "source_after => 'read_write'");
	is($state, 'succeeded', 'promoted behind the fence of this server') or diag error_of($op);
	ok(is_primary($standby), 'it is a primary');
	is($standby->safe_psql('postgres', 'SELECT count(*) FROM t'), '1', 'with everything');
	is(fence_state(), 'off', 'this server writes again, as was asked');
	$standby->stop('immediate');
}

# ---- answers that are lost, and retries that find nothing ----

for my $case (
	[ 'a lost answer', [ { method => 'DELETE', path => $integrations, after => 'lost' } ], {} ],
	[ 'a page that did it', [ { method => 'DELETE', path => $integrations, status => 504, html => '<h1>504</h1>', done => \1 } ], {} ],
	[ 'a 429, a late end, no roles, an integration that is listed for long',
		[ { method => 'DELETE', path => $integrations, status => 429, message => 'Rate limit 120 exceeded - try again in 1s' } ],
		{ unlink => 2, promote => 3, role => 'absent' } ])
{
	my ($text, $faults, $knobs) = @$case;
	my ($name, $standby) = replica('remote', %$knobs);

	$aiven->control('fault', %$_) for @$faults;
	my ($state, $op) = promote($name);
	is($state, 'succeeded', "$text: promoted") or diag error_of($op);
	ok(is_primary($standby), "$text: it is a primary");
	is(detail('promoted')->{verified_by_sql}, 'true', "$text: proven by SQL");
	$standby->stop('immediate');
}

# ---- refused: nothing has happened, and the source goes on ----

{
	my ($name, $standby) = replica('remote');
	$aiven->control('fault', method => 'DELETE', path => $integrations, status => 403, message => 'Permission denied', code => 'permission_denied');
	my ($state, $op) = promote($name);
	is($state, 'failed', 'without the right to promote: failed, not parked');
	like(error_of($op), qr/42501 .*project:integrations:write or the role role:services:recover/, 'the error names the right');
	ok(!is_primary($standby), 'it is a standby still');
	is($primary->safe_psql('postgres', 'SHOW default_transaction_read_only'), 'off', 'the source writes again');

	# and with a token that may do just that
	$aiven->control('token', token => 'AVNS_recover_only', rights => 'recover');
	value("ALTER USER MAPPING FOR CURRENT_USER SERVER remote OPTIONS (SET token 'AVNS_recover_only')");
	($state, $op) = promote($name, "source_after => 'read_write'");
	is($state, 'succeeded', 'the role that may recover services can promote') or diag error_of($op);
	value("ALTER USER MAPPING FOR CURRENT_USER SERVER remote OPTIONS (SET token '$FakeAiven::token')");
	is($primary->safe_psql('postgres', 'SHOW default_transaction_read_only'), 'off', 'the source writes again, as was asked');
	$standby->stop('immediate');
}

# ---- writes are stopped by somebody else ----

{
	my ($name, $standby) = replica('external');
	my ($state, $op) = promote($name);
	is($state, 'succeeded', 'promoted with writes stopped elsewhere') or diag error_of($op);
	ok(is_primary($standby), 'it is a primary');
	$standby->stop('immediate');

	# a replica that does not hear from its source proves nothing
	($name, $standby) = replica('external');
	$standby->safe_psql('postgres', q{ALTER SYSTEM SET primary_conninfo = ''});
	$standby->reload;
	wait_for($standby, 'SELECT count(*) = 0 FROM pg_stat_wal_receiver');
	($state, $op) = promote($name, "timeout => '4s'");
	is($state, 'failed', 'no data about lag are no proof of lag 0');
	like(error_of($op), qr/message of the source/, 'the error says what was waited for');
	ok(!is_primary($standby), 'it is a standby still');
	is(deletions(), 0, 'the integration was not touched');
	$standby->stop('immediate');
}

# ---- nobody can stop the writes ----

{
	my ($name, $standby) = replica('nothing');
	my ($state, $op) = promote($name);
	is($state, 'failed', 'without a way to stop writes there is no planned promotion');
	like(error_of($op), qr/source_conninfo/, 'the error names the option');
	is(deletions(), 0, 'the integration was not touched');

	# forced, out of reach by SQL, and without roles: proven by Aiven only
	$standby->stop('immediate');
	$aiven->control('set', role => 'null');
	($state, $op) = promote($name, "mode => 'forced'");
	like($state, qr/^(succeeded|needs_attention)$/, 'forced, out of reach');
	is(deletions(), 1, 'the integration is deleted');
}

is(join("\n", $aiven->complaints), '', 'no request broke the rules of the document');
done_testing();
