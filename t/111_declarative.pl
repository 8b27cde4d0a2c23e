# 111_declarative.pl
#	  replica_plan, replica_apply, replica_spec and the view replica_providers,
#	  on the local provider and the mocks.

use strict;
use warnings;
use File::Path qw(make_path);
use lib 't';
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;

my $node = new_primary('declared');
my $dir = $node->basedir . '/service';
make_path($dir);
mock_server($node);

sub sql { return $node->safe_psql('postgres', $_[0]) }

sql(qq{
	CREATE FUNCTION validate_mock_managed(text[], oid) RETURNS void AS 'replica_ctl', 'rctl_validate_mock_managed' LANGUAGE C STRICT;
	CREATE FOREIGN DATA WRAPPER replica_mock_managed VALIDATOR validate_mock_managed;
	CREATE SERVER far FOREIGN DATA WRAPPER replica_mock_managed OPTIONS (directory '$dir', fence 'external')});

sub planned
{
	my ($replicas) = @_;
	return sql("SELECT action, replica, server, before, after FROM replica_plan('{\"replicas\": $replicas}')");
}

sub apply
{
	my ($replicas, $arguments) = @_;
	my $rows = sql("SELECT action, replica, operation IS NOT NULL FROM replica_apply('{\"replicas\": $replicas}'"
		  . ($arguments ? ", $arguments" : '') . ')');

	wait_for($node, q{SELECT NOT EXISTS (SELECT FROM replica_operations WHERE state IN ('queued', 'running'))}, 60);
	return $rows;
}

sub states { return sql(q{SELECT string_agg(name || ' ' || state, ', ' ORDER BY name) FROM replica_ctl.replica}) }

# --------------------------------------------------------------------------
note 'an empty registry';
# --------------------------------------------------------------------------
is(sql('SELECT replica_spec()'), '{"replicas": {}}', 'an empty spec');
is(sql('SELECT count(*) FROM replica_plan(replica_spec())'), '0', 'which plans nothing');

# --------------------------------------------------------------------------
note 'create, and nothing more';
# --------------------------------------------------------------------------
my $spec = '{"r1": {"options": {"checkpoint": "fast"}}, "m1": {"server": "mock", "options": {"bytes": 5}}, "f1": {"server": "far", "options": {"class": "x"}}}';

is(planned($spec), qq(create|f1|far||{"class": "x"}\ncreate|m1|mock||{"bytes": "5"}\ncreate|r1|local||{"checkpoint": "fast"}), 'three to create');
is(states(), '', 'a plan changes nothing');
is(apply($spec), "create|f1|t\ncreate|m1|t\ncreate|r1|t", 'applied');
is(states(), 'f1 streaming, m1 streaming, r1 streaming', 'they are there');
is(apply($spec), '', 'applying twice does nothing');
is(planned($spec), '', 'nor is there a plan');
is(sql('SELECT count(*) FROM replica_plan(replica_spec())'), '0', 'the round trip');
is(sql(q{SELECT replica_spec() #>> '{replicas,m1}'}), '{"role": "replica", "server": "mock", "options": {"bytes": "5"}}', 'the spec of one');

# --------------------------------------------------------------------------
note 'defaults and other spellings are no differences';
# --------------------------------------------------------------------------
for my $same ('{}', '{"synchronous": false}', '{"apply_delay": "0"}', '{"apply_delay": "0 hours", "settings": {}, "checkpoint": "fast"}')
{
	is(planned(qq({"r1": {"options": $same}, "m1": {"server": "mock", "options": {"bytes": "05"}}, "f1": {"server": "far", "options": {"class": "x", "size": 1}}})),
		'', "r1 with $same");
}

# --------------------------------------------------------------------------
note 'changes';
# --------------------------------------------------------------------------
$spec = '{"r1": {}, "m1": {"server": "mock", "options": {"bytes": 5}}, "f1": {"server": "far", "options": {"class": "x", "size": 3}}}';
is(planned($spec), 'change|f1|far|{}|{"size": "3"}', 'an option that the provider can change');
is(apply($spec), 'change|f1|t', 'is changed');
is(slurp_file("$dir/calls"), "change f1 size 3\n", 'by the provider');
is(planned($spec), '', 'and then as it should be');
like(apply('{"r1": {}, "m1": {"server": "mock", "options": {"bytes": 6}}, "f1": {"server": "far", "options": {"size": 4}}}'),
	qr/^blocked\|f1\|f\nblocked\|m1\|f$/, 'options that cannot be changed');
like(sql(q{SELECT reason FROM replica_plan('{"replicas": {"f1": {"server": "far"}}}') WHERE replica = 'f1'}),
	qr/^provider "mock_managed" cannot change these options of a replica: class;/, 'the reason');
like(sql(q{SELECT action, reason FROM replica_plan('{"replicas": {"f1": {"server": "mock"}}}') WHERE replica = 'f1'}),
	qr/^blocked\|it is on server "far"/, 'another server');

# --------------------------------------------------------------------------
note 'promotion';
# --------------------------------------------------------------------------
$spec = '{"r1": {}, "m1": {"server": "mock", "options": {"bytes": 5}}, "f1": {"server": "far", "role": "standalone", "options": {"class": "x", "size": 3}}}';
is(planned($spec), 'promote|f1|far||', 'standalone');
is(apply($spec), 'promote|f1|f', 'not unless it is allowed');
is(apply($spec, 'allow_drop => true'), 'promote|f1|f', 'which allow_drop does not');
is(apply($spec, 'allow_promote => true'), 'promote|f1|t', 'promoted');
like(states(), qr/f1 promoted/, 'it stands alone');
is(apply($spec, 'allow_promote => true'), '', 'applying twice does nothing');
is(sql('SELECT count(*) FROM replica_plan(replica_spec())'), '0', 'the round trip');
like(sql(q{SELECT action, reason FROM replica_plan('{"replicas": {"f1": {"server": "far"}}}') WHERE replica = 'f1'}),
	qr/^blocked\|it was promoted/, 'no way back');

# --------------------------------------------------------------------------
note 'what is not in the spec';
# --------------------------------------------------------------------------
is(apply('{"r1": {}}'), "detach|f1|f\ndrop|m1|f", 'nothing is dropped unless it is allowed');
is(apply('{"r1": {}}', 'allow_promote => true'), "detach|f1|f\ndrop|m1|f", 'which allow_promote does not');
is(apply('{"r1": {}}', 'allow_drop => true'), "detach|f1|t\ndrop|m1|t", 'dropped, and the promoted one forgotten');
is(states(), 'r1 streaming', 'they are gone');
ok(-e glob("$dir/*.role"), 'but not what was promoted');
is(planned('{"r1": {}, "f1": {"server": "far", "role": "standalone"}}'), '', 'one that stands alone and was forgotten is not made again');

# --------------------------------------------------------------------------
note 'replicas that follow replicas';
# --------------------------------------------------------------------------
$spec = '{"a2": {"options": {"upstream": "r1"}}, "a3": {"options": {"upstream": "a2"}}, "r1": {}}';
is(apply($spec), "create|a2|t\ncreate|a3|f", 'one after the other');
is(apply($spec), 'create|a3|t', 'the next one');
is(apply($spec), '', 'all are there');
is(apply('{"r1": {}}', 'allow_drop => true'), "drop|a2|f\ndrop|a3|t", 'the last one first');
is(apply('{"r1": {}}', 'allow_drop => true'), 'drop|a2|t', 'then the one before');
like(sql(q{SELECT action, reason FROM replica_plan('{"replicas": {"r1": {}, "b": {"options": {"upstream": "nobody"}}}}')}),
	qr/^blocked\|its upstream "nobody" is neither/, 'an upstream that nobody has');

# --------------------------------------------------------------------------
note 'an operation is running';
# --------------------------------------------------------------------------
$spec = '{"r1": {}, "m2": {"server": "mock", "options": {"duration_ms": 3000}}}';
sql("SELECT count(*) FROM replica_apply('{\"replicas\": $spec}')");
is(planned($spec), '', 'on its way to what the spec says');
like(sql(q{SELECT action, reason FROM replica_plan('{"replicas": {"r1": {}}}')}), qr/^drop\|operation \d+ is running on it/, 'a drop waits for it');
is(apply('{"r1": {}}', 'allow_drop => true'), 'drop|m2|f', 'and is not queued');
is(apply('{"r1": {}}', 'allow_drop => true'), 'drop|m2|t', 'but it is later');

# --------------------------------------------------------------------------
note 'bad specs';
# --------------------------------------------------------------------------
for my $case (
	['null', qr/22023.*spec must be a JSON object/],
	['[]', qr/22023.*spec must be a JSON object/],
	['"x"', qr/22023.*spec must be a JSON object/],
	['{}', qr/22023.*has no object or array "replicas".*replica_spec/s],
	['{"replicas": 5}', qr/22023.*has no object or array "replicas"/],
	['{"replicas": {}, "replica": {}}', qr/22023.*unrecognized key "replica" in the spec.*Valid keys are: replicas/s],
	['{"replicas": {"x": 5}}', qr/22023.*replica "x" of the spec must be a JSON object/],
	['{"replicas": {"x": {"sever": "local"}}}', qr/22023.*unrecognized key "sever".*attach, options, role, server/s],
	['{"replicas": {"x": {"role": "boss"}}}', qr/22023.*invalid role of replica "x".*replica, standalone/s],
	['{"replicas": {"x": {"attach": "perhaps"}}}', qr/22023.*invalid value of "attach"/],
	['{"replicas": {"x": {"options": []}}}', qr/22023.*"options" of replica "x" in the spec must be a JSON object/],
	['{"replicas": {"x": {"server": "nowhere"}}}', qr/42704.*server "nowhere" does not exist/],
	['{"replicas": {"x": {"options": {"speed": 1}}}}', qr/HV00D.*unrecognized option "speed" for replica "x" in the spec.*Valid options/s],
	['{"replicas": {"x": {"options": {"port": "many"}}}}', qr/22023.*invalid value for option "port"/],
	['{"replicas": {"x": {"options": {"host": "h"}}}}', qr/HV00D.*unrecognized option "host"/],
	['{"replicas": {"": {}}}', qr/42602.*must not be empty/],
	['{"replicas": {"' . ('x' x 64) . '": {}}}', qr/42622.*too long/],
	['{"replicas": [{"name": "x"}, {"name": "x", "server": "mock"}]}', qr/42710.*replica "x" occurs twice in the spec/],
	['{"replicas": [{"server": "mock"}]}', qr/22023.*element 1 .* has no "name"/],
	['{"replicas": [5]}', qr/22023.*must be a JSON object/])
{
	my ($bad, $error) = @$case;
	like(psql_error($node, "SELECT * FROM replica_plan('$bad')"), $error, $bad);
}
like(psql_error($node, 'SELECT * FROM replica_plan(NULL)'), qr/22004.*spec must not be null/, 'no spec');
is(planned('[{"name": "r1"}, {"name": "x", "server": "mock"}]'), 'create|x|mock||{}', 'the array');
is(planned('{"r1": {}, "x": {"attach": true, "options": {"host": "h", "port": 1}}}'), 'attach|x|local||{"host": "h", "port": "1"}', 'attach');

# --------------------------------------------------------------------------
note 'rights';
# --------------------------------------------------------------------------
sql('CREATE ROLE ops LOGIN; GRANT EXECUTE ON FUNCTION replica_plan, replica_apply TO ops');
like(psql_error($node, q{SELECT * FROM replica_plan('{"replicas": {"x": {"server": "mock"}}}')}, extra_params => [ '-U', 'ops' ]),
	qr/42501.*permission denied for foreign server mock/, 'a server that the caller must not use');

# --------------------------------------------------------------------------
note 'replica_providers';
# --------------------------------------------------------------------------
my $columns = 'can_create, can_attach, can_drop, can_repair, can_promote, can_switchover, can_drill, can_change, runs_programs, service_promotes';
is(sql("SELECT wrapper, $columns FROM replica_providers WHERE provider = 'local'"), 'replica_local|t|t|t|t|t|t|t|f|t|f', 'local');
is(sql("SELECT wrapper, $columns FROM replica_providers WHERE provider = 'mock'"), 'replica_mock|t|t|t|t|f|f|f|f|f|f', 'mock');
is(sql("SELECT wrapper, $columns FROM replica_providers WHERE provider = 'mock_managed'"), 'replica_mock_managed|t|t|t|f|t|t|t|t|f|t', 'mock_managed');
is(sql(q{SELECT count(*) FROM replica_providers p FULL JOIN (SELECT DISTINCT provider FROM replica_ctl.steps()) s USING (provider)
	WHERE p.wrapper IS NULL OR s.provider IS NULL}), '0', 'all providers');

done_testing();
