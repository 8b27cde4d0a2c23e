# 150_copy.pl
#	  Copies that are made from the files: the methods, what is left out, what
#	  is told about it.

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;

my $primary = new_primary('main', initdb => ['--data-checksums']);
my $dir = replica_dir($primary);

sub sql { return $primary->safe_psql('postgres', $_[0]) }

sub create
{
	my ($name, $options) = @_;
	my $operation = sql("SELECT replica_create('$name', options => '" . ($options // '{}') . "')");

	is(wait_operation($primary, $operation), 'succeeded', "replica $name is made")
	  or diag(sql("SELECT message, detail, hint FROM replica_operations WHERE operation = $operation"));
	return $operation;
}

sub event
{
	my ($operation, $kind) = @_;
	return sql("SELECT detail FROM replica_events WHERE operation = $operation AND kind = '$kind' ORDER BY event DESC LIMIT 1");
}

sql(q{
	CREATE TABLE t AS SELECT g AS id, md5(g::text) AS text FROM generate_series(1, 50000) g;
	CREATE UNLOGGED TABLE u AS SELECT g AS id FROM generate_series(1, 1000) g;
	CREATE INDEX ON u (id);
	VACUUM t;});
my ($u, $ui) = split /\|/, sql(q{SELECT pg_relation_filepath('u'), pg_relation_filepath('u_id_idx')});
my $session = $primary->background_psql('postgres');
$session->query_safe('CREATE TEMP TABLE temporary AS SELECT generate_series(1, 100)');
my ($temporary) = $session->query_safe(q{SELECT pg_relation_filepath('temporary')}) =~ /(base\S+)/;
append_to_file($primary->data_dir . '/pgsql_tmp.old', 'x');

my $operation = create('r1');
is(sql(q{SELECT facts->>'method' FROM replica_ctl.replica}), 'copy', 'files that can be seen are copied');
my $detail = event($operation, 'copied');
note $detail;
like($detail, qr/"method": "copy"/, 'an event says so');
done_testing();
