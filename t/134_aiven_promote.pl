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
my $node = new_primary('control', conf => $FakeAiven::Promotions::conf);
my $integrations = '/project/demo-project/integration/';

sub value { return $node->safe_psql('postgres', $_[0]) }
sub detail { return decode_json(value("SELECT detail FROM replica_events WHERE kind = '$_[0]' ORDER BY event DESC LIMIT 1") || '{}') }
sub error_of { return operation_error($node, $_[0]) }

my $trials = FakeAiven::Promotions->new($aiven, $node);
my $primary = $trials->primary;

# ---- the source is this very server ----

{
	my ($name, $standby) = $trials->replica('here');
	is(value("SELECT facts->>'source_here' FROM replica_ctl.replica WHERE name = '$name'"), 'true', 'the source is known to be this server');
	value('CREATE TABLE t AS SELECT 1');
	my ($state, $op) = $trials->promote($name, "source_after => 'read_write'");
	is($state, 'succeeded', 'promoted behind the fence of this server') or diag error_of($op);
	ok(is_primary($standby), 'it is a primary');
	is($standby->safe_psql('postgres', 'SELECT count(*) FROM t'), '1', 'with everything');
	is(value('SHOW default_transaction_read_only'), 'off', 'this server writes again, as was asked');
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
	my ($name, $standby) = $trials->replica('remote', %$knobs);

	$aiven->control('fault', %$_) for @$faults;
	my ($state, $op) = $trials->promote($name);
	is($state, 'succeeded', "$text: promoted") or diag error_of($op);
	ok(is_primary($standby), "$text: it is a primary");
	is(detail('promoted')->{verified_by_sql}, 'true', "$text: proven by SQL");
	$standby->stop('immediate');
}

# ---- refused: nothing has happened, and the source goes on ----

{
	my ($name, $standby) = $trials->replica('remote');
	$aiven->control('fault', method => 'DELETE', path => $integrations, status => 403, message => 'Permission denied', code => 'permission_denied');
	my ($state, $op) = $trials->promote($name);
	is($state, 'failed', 'without the right to promote: failed, not parked');
	like(error_of($op), qr/42501 .*project:integrations:write or the role role:services:recover/, 'the error names the right');
	ok(!is_primary($standby), 'it is a standby still');
	is($primary->safe_psql('postgres', 'SHOW default_transaction_read_only'), 'off', 'the source writes again');

	# and with a token that may do just that
	$aiven->control('token', token => 'AVNS_recover_only', rights => 'recover');
	value("ALTER USER MAPPING FOR CURRENT_USER SERVER remote OPTIONS (SET token 'AVNS_recover_only')");
	($state, $op) = $trials->promote($name, "source_after => 'read_write'");
	is($state, 'succeeded', 'the role that may recover services can promote') or diag error_of($op);
	value("ALTER USER MAPPING FOR CURRENT_USER SERVER remote OPTIONS (SET token '$FakeAiven::token')");
	is($primary->safe_psql('postgres', 'SHOW default_transaction_read_only'), 'off', 'the source writes again, as was asked');
	$standby->stop('immediate');
}

# ---- writes are stopped by somebody else ----

{
	my ($name, $standby) = $trials->replica('external');
	my ($state, $op) = $trials->promote($name);
	is($state, 'succeeded', 'promoted with writes stopped elsewhere') or diag error_of($op);
	ok(is_primary($standby), 'it is a primary');
	$standby->stop('immediate');

	# a replica that does not hear from its source proves nothing
	($name, $standby) = $trials->replica('external');
	$standby->safe_psql('postgres', q{ALTER SYSTEM SET primary_conninfo = ''});
	$standby->reload;
	wait_for($standby, 'SELECT count(*) = 0 FROM pg_stat_wal_receiver');
	($state, $op) = $trials->promote($name, "timeout => '4s'");
	is($state, 'failed', 'no data about lag are no proof of lag 0');
	like(error_of($op), qr/message of the source/, 'the error says what was waited for');
	ok(!is_primary($standby), 'it is a standby still');
	is($aiven->deletions, 0, 'the integration was not touched');
	$standby->stop('immediate');
}

# ---- nobody can stop the writes ----

{
	my ($name, $standby) = $trials->replica('nothing');
	my ($state, $op) = $trials->promote($name);
	is($state, 'failed', 'without a way to stop writes there is no planned promotion');
	like(error_of($op), qr/source_conninfo/, 'the error names the option');
	is($aiven->deletions, 0, 'the integration was not touched');

	# forced, out of reach by SQL, and without roles: proven by Aiven only
	$standby->stop('immediate');
	$aiven->control('set', role => 'null');
	($state, $op) = $trials->promote($name, "mode => 'forced'");
	like($state, qr/^(succeeded|needs_attention)$/, 'forced, out of reach');
	is($aiven->deletions, 1, 'the integration is deleted');
}

is(join("\n", $aiven->complaints), '', 'no request broke the rules of the document');
done_testing();
