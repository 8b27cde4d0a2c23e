# Options of Aiven's servers, user mappings and replicas: what is refused before
# anything is sent, what is sent, and what TLS and tokens have to do with it.

use strict;
use warnings;
use lib 't';
use FakeAiven;
use ReplicaCtl;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'python3-jsonschema is missing' unless FakeAiven::available();

my $aiven = FakeAiven->new(tls => 1);

# What the environment of the server holds.
$ENV{AIVEN_TEST_TOKEN} = $FakeAiven::token;
my $node = new_primary('control');
delete $ENV{AIVEN_TEST_TOKEN};

sub value { return $node->safe_psql('postgres', $_[0]) }
sub fails { my ($sql, $pattern, $name) = @_; like(psql_error($node, $sql), $pattern, $name); return }
sub error_of { return operation_error($node, $_[0]) }

$aiven->seed;
value($aiven->server_sql('aiven'));
value(q{ALTER SYSTEM SET replica_ctl.step_retries = 0});
$node->reload;

# ---- servers ----

my $wrapper = 'FOREIGN DATA WRAPPER replica_aiven OPTIONS';
fails(qq{CREATE SERVER s $wrapper (project 'p')}, qr/ERROR:  HV00J.*needs option "source"/, 'a server without a source');
fails(qq{CREATE SERVER s $wrapper (project 'p', source 's', colour 'red')},
	qr/HV00D.*Valid options are: ca_file, endpoint, poll_interval, project, source, source_conninfo, fence\./s, 'an unknown option');
fails(qq{CREATE SERVER s $wrapper (project 'p', source 's', endpoint 'http://api.example.com')},
	qr/22023.*invalid endpoint.*loopback/s, 'plain http to elsewhere');
fails(qq{CREATE SERVER s $wrapper (project 'p', source 's', endpoint 'ftp://x')}, qr/22023.*invalid endpoint/s, 'an endpoint that is no URL of ours');
fails(qq{CREATE SERVER s $wrapper (project 'p', source 'Upper_Case')}, qr/22023.*invalid value for option "source"/s, 'a source that cannot be');
fails(qq{CREATE SERVER s $wrapper (project 'p', source 's', fence 'maybe')}, qr/22023/, 'a fence that there is not');
fails(q{CREATE USER MAPPING FOR PUBLIC SERVER aiven OPTIONS (tokens 'x')}, qr/HV00D.*token, token_env, token_file/s, 'an unknown option of a mapping');

# ---- tokens ----

value(q{CREATE ROLE alice LOGIN; GRANT USAGE ON FOREIGN SERVER aiven TO alice;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO alice; GRANT USAGE ON SCHEMA replica_ctl TO alice});
like(psql_error($node, q{SET ROLE alice; CREATE USER MAPPING FOR alice SERVER aiven OPTIONS (token_env 'AIVEN_TEST_TOKEN')}),
	qr/42501/, 'the environment is not for everybody');
like(psql_error($node, q{SET ROLE alice; CREATE USER MAPPING FOR alice SERVER aiven OPTIONS (token_file '/etc/passwd')}),
	qr/42501/, 'nor are files of the server');

my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/token", "$FakeAiven::token\n");
append_to_file("$dir/bad", "two words\n");

sub create_as_alice
{
	my ($mapping) = @_;

	value('DROP USER MAPPING IF EXISTS FOR alice SERVER aiven');
	value("CREATE USER MAPPING FOR alice SERVER aiven OPTIONS ($mapping)") if $mapping;
	$aiven->clear_log;
	my $op = value(q{SET ROLE alice; SELECT replica_create('r1', 'aiven', '{"plan": "nonsense"}')});
	wait_operation($node, $op);
	return error_of($op);
}

# Without those of the monitor, which looks at a replica that failed as well.
sub sent_calls { return join ' ', grep { !m{^GET \S*/(service|events)$} } $aiven->calls }

like(create_as_alice(''), qr/^28000 no Aiven token for server "aiven".*CREATE USER MAPPING FOR alice/, 'a user without a mapping has no token');
is(sent_calls(), '', 'and nothing is sent');
like(create_as_alice("token_env 'AIVEN_TEST_TOKEN'"), qr/no plan "nonsense"/, 'a token of the environment');
like(create_as_alice("token_env 'AIVEN_NO_TOKEN'"), qr/^28000 no Aiven token.*"AIVEN_NO_TOKEN" is not set/, 'one that is not there');
like(create_as_alice("token_file '$dir/token'"), qr/no plan "nonsense"/, 'a token of a file');
like(create_as_alice("token_file '$dir/none'"), qr/^58P01 could not open token file/, 'a file that is not there');
like(create_as_alice("token_file '$dir/bad'"), qr/^28000 what option "token_file" gives.*is not an Aiven token/, 'a file with something else');
like(create_as_alice("token 'wrong'"), qr/^28000 .*Authentication failed.*ALTER USER MAPPING FOR alice/, 'a token that Aiven does not know');

# ---- TLS ----

{
	my $other = FakeAiven->new(tls => 1);
	value($aiven->server_sql('wrong_ca', ca_file => $other->ca_file));
	my $op = value(q{SELECT replica_create('r1', 'wrong_ca')});
	is(wait_operation($node, $op), 'failed', 'a certificate of another authority');
	like(error_of($op), qr/could not ask Aiven.*certificate.*ca_file/, 'the error names the option');
	$other->stop;
}

# ---- options of replicas ----

my @refused = (
	[ '{"service_name": "Upper"}', qr/22023.*invalid value for option "service_name"/s ],
	[ '{"service_name": "a_b"}', qr/22023/ ],
	[ '{"service_name": "' . 'a' x 65 . '"}', qr/22023/ ],
	[ '{"service_name": "primary-postgresql"}', qr/22023.*name of the source/s ],
	[ '{"plan": ""}', qr/22023/ ],
	[ '{"plans": "x"}', qr/HV00D.*Valid options are: cloud, cloud_name, cmk_id, disk_space/s ],
	[ '{"cloud": "a", "cloud_name": "b"}', qr/22023.*say the same/s ],
	[ '{"maintenance_window_dow": "someday"}', qr/22023.*"monday"/s ],
	[ '{"maintenance_window_time": "25:00:00"}', qr/22023.*HH:MM:SS/s ],
	[ '{"maintenance_window_time": "10:00"}', qr/22023/ ],
	[ '{"maintenance": {"dow": "sunday", "hour": 3}}', qr/22023/ ],
	[ '{"maintenance": {"dow": "sunday"}, "maintenance_window_dow": "monday"}', qr/22023.*say the same/s ],
	[ '{"project_vpc_id": "short"}', qr/22023.*36 characters/s ],
	[ '{"disk_space": "lots"}', qr/22023/ ],
	[ '{"disk_space_mb": -1}', qr/22023/ ],
	[ '{"tags": {"replica_ctl": "x"}}', qr/22023.*own/s ],
	[ '{"tags": {"a": ["x"]}}', qr/22023/ ],
	[ '{"user_config": {"pg_read_replica": true}}', qr/22023.*integration/s ],
	[ '{"user_config": "text"}', qr/22023.*JSON object/s ],
	[ '{"termination_protection": "perhaps"}', qr/22023/ ],
	[ '{"tech_emails": ["nobody"]}', qr/22023/ ],
	[ '{"terraform": {"service": "no address"}}', qr/22023/ ],
	[ '{"terraform": {"other": "a.b"}}', qr/22023/ ]);

$aiven->clear_log;
for my $case (@refused)
{
	fails("SELECT replica_create('r1', 'aiven', '$case->[0]')", $case->[1], "refused: $case->[0]");
}
fails(q{SELECT replica_create('Ω', 'aiven')}, qr/42602.*service_name/s, 'a name of which none can be made');
fails(q{SELECT replica_attach('r1', 'aiven', '{"plan": "startup-4"}')}, qr/HV00D.*service_name, terraform/s, 'an option that attach does not have');
is(sent_calls(), '', 'nothing was sent for all that');

for my $case (
	[ '{"plan": "startup-5"}', qr/^22023 project "demo-project" has no plan "startup-5".*Valid plans are: hobbyist, startup-4/ ],
	[ '{"cloud": "nowhere"}', qr/^22023 project "demo-project" has no cloud "nowhere".*Valid clouds are: google-northamerica/ ],
	[ '{"user_config": {"colour": "red"}}', qr/^22023 could not create.*Additional properties are not allowed \('colour' was unexpected\)/ ])
{
	my $op = value("SELECT replica_create('r1', 'aiven', '$case->[0]')");
	wait_operation($node, $op);
	like(error_of($op), $case->[1], "Aiven knows better: $case->[0]");
}
for my $case (
	[ "project 'elsewhere'", qr/^42704 project "elsewhere" does not exist at Aiven.*SET project/ ],
	[ "source 'nobody'", qr/^42704 source "nobody" does not exist in Aiven project "demo-project".*SET source/ ])
{
	value("CREATE SERVER IF NOT EXISTS bad $wrapper (project 'demo-project', source 'primary-postgresql', endpoint '"
		. $aiven->endpoint . "', ca_file '" . $aiven->ca_file . "')");
	value("CREATE USER MAPPING IF NOT EXISTS FOR CURRENT_USER SERVER bad OPTIONS (token '$FakeAiven::token')");
	value("ALTER SERVER bad OPTIONS (SET project 'demo-project', SET source 'primary-postgresql')");
	value("ALTER SERVER bad OPTIONS (SET $case->[0])");
	my $op = value(q{SELECT replica_create('r1', 'bad')});
	wait_operation($node, $op);
	like(error_of($op), $case->[1], "a server with $case->[0]");
}

# ---- what is sent ----

my $vpc = '01234567-89ab-cdef-0123-456789abcdef';

sub sent
{
	my ($options) = @_;

	$aiven->seed;
	$aiven->control('project', name => 'demo-project', vpcs => [$vpc]);
	$aiven->control('service', project => 'demo-project', name => 'primary-postgresql');
	$aiven->control('set', build => 60);
	my $op = value("SELECT replica_create('Read Replica_1', 'aiven', \$\$$options\$\$)");
	wait_until(sub { $aiven->services->{'read-replica-1'} }, 'the service');
	my ($post) = grep { $_->{method} eq 'POST' } $aiven->log;
	value("SELECT replica_cancel($op)");
	is(wait_operation($node, $op), 'cancelled', 'cancelled');
	my $body = $post->{body};
	like(delete $body->{tags}{replica_ctl}, qr/^\d+-$op-[0-9a-f]{8}$/, 'it has our tag');
	return $body;
}

my %base = (
	service_name => 'read-replica-1', service_type => 'pg', plan => 'startup-4', cloud => 'google-northamerica-northeast1',
	service_integrations => [ { integration_type => 'read_replica', source_service => 'primary-postgresql' } ]);
my %maintenance = (maintenance => { dow => 'sunday', time => '10:00:00' });

is_deeply(sent('{}'), { %base, tags => {} }, 'without options: plan and cloud of the source');
is_deeply(
	sent(qq({"cloud_name": "aws-eu-north-1", "plan": "startup-8", "maintenance_window_dow": "sunday",
		"maintenance_window_time": "10:00:00", "pg_user_config": {"pg_version": "15", "ip_filter": ["0.0.0.0/0"]},
		"project_vpc_id": "demo-project/$vpc", "tags": {"team": "dät\\"a"}, "termination_protection": true,
		"disk_space": "120GiB", "tech_emails": "a\@example.com, b\@example.com"})),
	{ %base, %maintenance, cloud => 'aws-eu-north-1', plan => 'startup-8', user_config => { pg_version => '15', ip_filter => ['0.0.0.0/0'] },
		project_vpc_id => $vpc, tags => { team => "d\x{e4}t\"a" }, termination_protection => JSON::PP::true, disk_space_mb => 122880,
		tech_emails => [ { email => 'a@example.com' }, { email => 'b@example.com' } ] },
	"Terraform's names");
is_deeply(
	sent('{"cloud": "aws-eu-north-1", "maintenance": {"dow": "sunday", "time": "10:00:00"}, "user_config": {"backup_hour": 3},
		"project_vpc_id": "public", "disk_space_mb": 122880, "termination_protection": "off", "static_ips": ["ip1"]}'),
	{ %base, %maintenance, cloud => 'aws-eu-north-1', user_config => { backup_hour => 3 }, tags => {}, project_vpc_id => undef,
		disk_space_mb => 122880, termination_protection => JSON::PP::false, static_ips => ['ip1'] },
	"Aiven's names");

# ---- explain ----

{
	$aiven->seed;
	my $before = scalar $aiven->calls;
	my $rows = value(q{SELECT coalesce(step::text, ''), name, status, detail, hint FROM replica_explain('create', 'r9', 'aiven', '{"plan": "startup-4"}')});
	like($rows, qr/source\|ok/, 'explain: the source is looked at');
	like($rows, qr/backups\|ok/, 'explain: and its backups');
	like($rows, qr{POST /v1/project/demo-project/service \{.*"source_service": "primary-postgresql"}, 'explain shows the creation');
	like($rows, qr{GET /v1/project/demo-project/service/r9}, 'explain shows the waiting');
	is(join(' ', grep { !/^GET/ } $aiven->calls), '', 'it asks only');
	is(value(q{SELECT count(*) FROM replica_ctl.replica WHERE name = 'r9'}), '0', 'and registers nothing');
	like(value(q{SELECT name || status || detail || hint FROM replica_explain('create', 'r1', 'aiven', '{"plan": "nonsense"}') WHERE status = 'blocked'}),
		qr/^plan.*no plan "nonsense".*Valid plans/, 'explain: a plan that there is not');
}

# ---- docs/aiven.md has every option ----

{
	my $docs = slurp_file('docs/aiven.md');
	my %calls = (
		'replica_create' => q{SELECT replica_create('x', 'aiven', '{"?": 1}')},
		'replica_attach' => q{SELECT replica_attach('x', 'aiven', '{"?": 1}')},
		'server' => q{ALTER SERVER aiven OPTIONS ("?" '1')},
		'user mapping' => q{CREATE USER MAPPING FOR PUBLIC SERVER aiven OPTIONS ("?" '1')});

	for my $what (sort keys %calls)
	{
		my ($listed) = psql_error($node, $calls{$what}) =~ /Valid options are: (.*)\.$/m;
		my ($section) = $docs =~ /^## Options of \Q$what\E\n(.*?)(?=^## |\z)/ms;
		my $pattern = qr/^\| `(\w+)`/m;

		($section, $pattern) = ($docs, qr/^\| \Q$what\E \| `(\w+)`/m) unless defined $section;
		is(join(', ', sort $section =~ /$pattern/g), join(', ', sort split /, /, $listed), "docs/aiven.md has the options of $what");
	}
}

is(join("\n", grep { !/Additional properties/ } $aiven->complaints), '', 'no request broke the rules of the document');
done_testing();
