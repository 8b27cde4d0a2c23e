# The seed's story at Aiven, in SQL: a read replica is created, watched over,
# promoted without losing a commit, and removed.  Against a strict fake of the
# API, with a real primary, a real standby and real writers behind it.

use strict;
use warnings;
use lib 't';
use FakeAiven;
use ReplicaCtl;
use Writers;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'python3-jsonschema is missing' unless FakeAiven::available();

my $aiven = FakeAiven->new;
my $node = new_primary('control');

# The server behind service primary-postgresql; this extension is not in it.
my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "wal_receiver_status_interval = 1\nwal_receiver_timeout = 4s\n");
$primary->start;

my $api = '/v1/project/demo-project';

sub value { return $node->safe_psql('postgres', $_[0]) }
sub detail { return decode_json(value("SELECT detail FROM replica_events WHERE kind = '$_[0]' ORDER BY event DESC LIMIT 1") || '{}') }
sub error_of { return operation_error($node, $_[0]) }

my $me = getpwuid($<);
my $conninfo = sprintf 'host=%s port=%s user=%s dbname=postgres', $primary->host, $primary->port, $me;

# ---- create ----

$aiven->seed;
$aiven->uri('primary-postgresql', $primary);
my $standby = $aiven->standby('read-replica-postgresql', $primary);
(my $quoted = $conninfo) =~ s/'/''/g;
value($aiven->server_sql('aiven', source_conninfo => $quoted));

my $options = '{"cloud_name": "google-northamerica-northeast1", "plan": "startup-4",
	"maintenance_window_dow": "sunday", "maintenance_window_time": "10:00:00",
	"terraform": {"service": "aiven_pg.postgresql_read_replica", "integration": "aiven_service_integration.pg-readreplica"}}';
my $op = value("SELECT replica_create('read-replica-postgresql', 'aiven', '$options')");
is(wait_operation($node, $op), 'succeeded', 'create') or diag error_of($op);
is(value(q{SELECT state FROM replica_ctl.replica}), 'streaming', 'it streams');
is(value(q{SELECT count(*) FROM replica_events WHERE kind = 'unreachable'}), '0', 'it was reached over SQL');
is(value(q{SELECT facts->>'host' || ':' || (facts->>'port') FROM replica_ctl.replica}), $standby->host . ':' . $standby->port, 'its endpoint');
is(value(q{SELECT facts->>'source_here' FROM replica_ctl.replica}), '', 'its source is not this server');

my $created = detail('service_created');
my $integration = $created->{integration_id};
is_deeply($created->{terraform}{commands},
	[ 'terraform import aiven_pg.postgresql_read_replica demo-project/read-replica-postgresql',
		"terraform import aiven_service_integration.pg-readreplica demo-project/$integration" ],
	'the commands for Terraform');
is($created->{terraform}{add}, <<'END', 'the configuration for Terraform');
resource "aiven_pg" "postgresql_read_replica" {
  project                 = "demo-project"
  service_name            = "read-replica-postgresql"
  cloud_name              = "google-northamerica-northeast1"
  plan                    = "startup-4"
  maintenance_window_dow  = "sunday"
  maintenance_window_time = "10:00:00"
  service_integrations {
    integration_type    = "read_replica"
    source_service_name = "primary-postgresql"
  }
}

resource "aiven_service_integration" "pg-readreplica" {
  project                  = "demo-project"
  integration_type         = "read_replica"
  source_service_name      = "primary-postgresql"
  destination_service_name = "read-replica-postgresql"
}
END

# ---- explain ----

{
	$aiven->clear_log;
	my $rows = value(q{SELECT coalesce(step::text, ''), name, status, detail, hint FROM replica_explain('promote', 'read-replica-postgresql')});
	unlike($rows, qr/\|blocked\|/, 'explain: nothing is in the way');
	like($rows, qr{DELETE $api/integration/$integration, then GET $api/service/read-replica-postgresql}, 'explain shows the calls');
	like($rows, qr/fence\|ok/, 'explain tells of the fence');
	is(join(' ', grep { !/^GET/ } $aiven->calls), '', 'it only asks');
}

# ---- promote, with writers ----

Writers::prepare($primary);
my $writers = Writers->start($primary, [ $primary->port, $standby->port ], 'aap', 60);
wait_for($primary, 'SELECT count(*) > 20 FROM acked');
$aiven->clear_log;
$op = value(q{SELECT replica_promote('read-replica-postgresql')});
is(wait_operation($node, $op, 60), 'succeeded', 'promote') or diag error_of($op);
is($standby->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 'f', 'the replica is a primary');
is(scalar(grep { $_ eq "DELETE $api/integration/$integration" } $aiven->calls), 1, 'by one deletion of the integration');
is($primary->safe_psql('postgres', 'SHOW default_transaction_read_only'), 'on', 'the source stays read-only');
is(value(q{SELECT state FROM replica_ctl.replica}), 'promoted', 'the registry knows');

my $promoted = detail('promoted');
is($promoted->{service_state}, 'RUNNING', 'the event has the state');
is($promoted->{node_role}, 'master', 'and the role');
is($promoted->{verified_by_sql}, 'true', 'and the proof by SQL');
is_deeply($promoted->{terraform}{commands}, ['terraform state rm aiven_service_integration.pg-readreplica'], 'and the commands for Terraform');
like($promoted->{terraform}{remove}, qr/^resource "aiven_service_integration" "pg-readreplica" \{.*^resource "aiven_pg" "postgresql_read_replica" \{\n  service_integrations \{.*depends_on/ms,
	'and what to remove');
cmp_ok($promoted->{writes_stopped_ms}, '<', 20000, "writes stood still for $promoted->{writes_stopped_ms} ms");

wait_for($standby, 'SELECT pg_current_wal_lsn() IS NOT NULL');
sleep 1;
$writers->stop;
is(join(' ', $writers->lost(sub { $standby->safe_psql('postgres', $_[0]) })), '', 'no acknowledged commit is lost');

# ---- drop: a promoted service is not deleted by mistake ----

$op = value(q{SELECT replica_drop('read-replica-postgresql')});
is(wait_operation($node, $op), 'failed', 'a drop of what was promoted');
like(error_of($op), qr/^55000 replica "read-replica-postgresql" was promoted.*force => true/, 'it says so');
is(wait_operation($node, value(q{SELECT replica_detach('read-replica-postgresql')})), 'succeeded', 'it is forgotten');
ok($aiven->services->{'read-replica-postgresql'}, 'and the service stays');

# ---- attach, detach, drop of what was made elsewhere ----

$primary->safe_psql('postgres', 'SET default_transaction_read_only = off; ALTER DATABASE postgres RESET default_transaction_read_only');
$aiven->control('service', project => 'demo-project', name => 'by-terraform', source => 'primary-postgresql');
my $second = $aiven->standby('by-terraform', $primary);
$op = value(q{SELECT replica_attach('by-terraform', 'aiven')});
is(wait_operation($node, $op), 'succeeded', 'attach') or diag error_of($op);
like(detail('service_attached')->{terraform}{commands}[0], qr{^terraform import aiven_pg.by_terraform demo-project/by-terraform$}, 'with the commands for Terraform');
is(wait_operation($node, value(q{SELECT replica_drop('by-terraform')})), 'failed', 'what was attached is not deleted');
is(wait_operation($node, value(q{SELECT replica_detach('by-terraform')})), 'succeeded', 'detach');
is(wait_operation($node, value(q{SELECT replica_attach('t2', 'aiven', '{"service_name": "by-terraform"}')})), 'succeeded', 'attach by another name');

for my $case ([ 'primary-postgresql', qr/^55000 Aiven service "primary-postgresql" is not a read replica|name of the source/ ], [ 'nobody', qr/^42704 Aiven service "nobody" does not exist/ ])
{
	my ($rc, $out, $err) = $node->psql('postgres', "SELECT replica_attach('t3', 'aiven', '{\"service_name\": \"$case->[0]\"}')");
	wait_operation($node, $out) if $rc == 0;
	like($rc == 0 ? error_of($out) : $err, $case->[1], "attach of $case->[0]");
}

# ---- forced: the loss is told as far as it can be known ----

$primary->safe_psql('postgres', 'CREATE TABLE lost AS SELECT generate_series(1, 10)');
$primary->wait_for_catchup($second);
$op = value(q{SELECT replica_promote('t2', mode => 'forced')});
is(wait_operation($node, $op), 'succeeded', 'forced promotion') or diag error_of($op);
$promoted = detail('promoted');
is($promoted->{lost_bytes}, '0', 'the receipt');
like($promoted->{source_lsn}, qr{^[0-9A-F]+/[0-9A-F]+$}, 'it has the positions');
is($second->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 'f', 'it is a primary');
is(wait_operation($node, value(q{SELECT replica_drop('t2', force => true)})), 'succeeded', 'forced drop');
ok(!$aiven->services->{'by-terraform'}, 'the service is gone');
is_deeply(detail('service_deleted')->{terraform}{commands},
	[ 'terraform state rm aiven_service_integration.by_terraform', 'terraform state rm aiven_pg.by_terraform' ], 'with the commands for Terraform');

# ---- no secret anywhere ----

my $log = slurp_file($node->logfile);
$log =~ s/^.*CREATE USER MAPPING.*$//mg;
unlike($log, qr/\Q$FakeAiven::token\E|aivenv1|\Q$FakeAiven::password\E/, 'no token or password in the log');
unlike(value(q{SELECT jsonb_agg(to_jsonb(o)) FROM replica_ctl.operation o}) . value(q{SELECT jsonb_agg(to_jsonb(e)) FROM replica_ctl.event e})
		. value(q{SELECT coalesce(jsonb_agg(to_jsonb(r)), '[]') FROM replica_ctl.replica r}) . value(q{SELECT jsonb_agg(to_jsonb(s)) FROM replica_status s}),
	qr/\Q$FakeAiven::token\E|aivenv1|AVNS_/, 'nor in tables and views');
is(join("\n", $aiven->complaints), '', 'no request broke the rules of the document');

done_testing();
