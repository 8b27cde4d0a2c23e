# Signatures for Amazon, by known ones; and where credentials are found, who
# may use them, when they are fetched anew, and what is said when there are none.

use strict;
use warnings;
use lib 't';
use HttpServer;
use JSON::PP;
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => HttpServer::missing() if HttpServer::missing();

my $node = new_primary('aws_credentials');
test_build($node) or plan skip_all => 'this is no test build';

my $dir = PostgreSQL::Test::Utils::tempdir();
my ($log, $control) = ("$dir/requests", "$dir/control");
my $identity = HttpServer->start('t/aws_identity.py', $log, $control);
my $url = 'http://127.0.0.1:' . $identity->port('sts');
my $json = JSON::PP->new->utf8->canonical;

$node->safe_psql('postgres', q{
	CREATE FUNCTION env(text, text) RETURNS void AS '$libdir/replica_ctl', 'rctl_test_setenv' LANGUAGE C;
	CREATE FUNCTION sign(text, timestamptz) RETURNS text AS '$libdir/replica_ctl', 'rctl_test_aws_sign' LANGUAGE C STRICT;
	CREATE FUNCTION credentials(text) RETURNS text AS '$libdir/replica_ctl', 'rctl_test_aws_credentials' LANGUAGE C STRICT;
	CREATE FUNCTION forget() RETURNS void AS '$libdir/replica_ctl', 'rctl_test_aws_forget' LANGUAGE C;
});

sub quoted { my $text = shift; $text =~ s/'/''/g; return "'$text'" }

# ---- signatures ----

for my $vector (@{ $json->decode(slurp_file('t/sigv4-vectors.json')) })
{
	my $at = $vector->{amz_date} =~ s/^(....)(..)(..)T(..)(..)(..)Z$/$1-$2-$3 $4:$5:$6+00/r;

	is($node->safe_psql('postgres', 'SELECT sign(' . quoted($json->encode($vector)) . ", '$at')"),
		$vector->{authorization}, "signature: $vector->{name}");
}

# ---- credentials ----

sub file
{
	my ($name, $content) = @_;

	open my $out, '>', "$dir/$name" or die "could not write: $!\n";
	print $out $content;
	close $out;
	chmod 0644, "$dir/$name";
	return "$dir/$name";
}

sub control { file('control', $json->encode({@_})); return }
sub requests { return -e $log ? map { $json->decode($_) } split /\n/, slurp_file($log) : () }

# What is found with these options and this environment, in a new session;
# more is SQL run after it in the same session.
sub find
{
	my ($options, $env, $more) = @_;
	my %env = (AWS_EC2_METADATA_DISABLED => 'true', HOME => "$dir/home", %{ $env // {} });
	my $sql = join '', map { "SELECT env('$_', " . quoted($env{$_}) . ");\n" } sort keys %env;
	my $call = 'SELECT credentials(' . quoted($json->encode($options)) . ');';
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql$call\n" . ($more ? "$more$call" : ''),
		on_error_stop => 0, timeout => 60);

	return $out =~ s/^\n+//r . $err;
}

my %sts = (sts_endpoint => "$url/");
my %ambient = (%sts, ambient_credentials => 'on');
my %keys = (access_key_id => 'AKIDBASE', secret_access_key => 'basesecret');

mkdir "$dir/home";
mkdir "$dir/home/.aws";
is(find({server => {}, mapping => {%keys, session_token => 't'}}), 'user mapping AKIDBASE basesecret t stays',
	'keys in the user mapping');
like(find({server => {}, mapping => {access_key_id => 'AKIDBASE'}}), qr/ERROR:  28000: .*only one of/, 'half of a pair');
like(find({server => {}}), qr/ERROR:  28000: there are no credentials for server "aurora"\nDETAIL:  The user has no user mapping for it.\nHINT:  CREATE USER MAPPING/,
	'no user mapping');
like(find({server => {}, mapping => {}}), qr/has neither keys nor/, 'an empty one');

my %env = (AWS_ACCESS_KEY_ID => 'AKIDENV', AWS_SECRET_ACCESS_KEY => 'envsecret');
like(find({server => {}}, \%env), qr/ERROR:  28000: there are no credentials/, "the server's environment is not for everybody");
like(find({server => {}, mapping => {}}, \%env), qr/ERROR:  28000: /, 'nor for whoever has a user mapping without keys');
is(find({server => {%ambient}}, \%env), 'environment AKIDENV envsecret - stays', 'it is if the server says so');
is(find({server => {%ambient}}, {%env, AWS_SESSION_TOKEN => 's'}), 'environment AKIDENV envsecret s stays', 'with a session token');
is(find({server => {%ambient}, mapping => {%keys}}, \%env), 'user mapping AKIDBASE basesecret - stays', 'the user mapping goes first');

# files
my $file = file('credentials', "# comment\n[other]\naws_access_key_id = X\n[ default ]\naws_access_key_id=AKIDBASE\n"
	  . "aws_secret_access_key = basesecret \n s3 =\n   aws_session_token = nested\n[dev]\naws_access_key_id = AKIDDEV\n"
	  . "aws_secret_access_key = a=b\naws_session_token = dt\n[roled]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = default\n");
is(find({server => {}, mapping => {credentials_file => $file}}), 'credentials file AKIDBASE basesecret - stays', 'a credentials file');
is(find({server => {}, mapping => {credentials_file => $file, profile => 'dev'}}), 'credentials file AKIDDEV a=b dt stays', 'a profile');
like(find({server => {}, mapping => {credentials_file => $file, profile => 'other'}}), qr/no keys in profile "other"/, 'one without keys');
like(find({server => {}, mapping => {credentials_file => "$dir/none"}}), qr/could not read credentials file.*No such file/, 'no file');
like(find({server => {}, mapping => {credentials_file => $dir}}), qr/is no credentials file/, 'a directory');
system('mkfifo', "$dir/pipe") == 0 or die;
like(find({server => {}, mapping => {credentials_file => "$dir/pipe"}}), qr/is no credentials file/, 'a pipe');
like(find({server => {%sts}, mapping => {credentials_file => $file, profile => 'roled'}}),
	qr/^assumed role ASIAROLE\d+ rolesecret roletoken expires$/, 'a profile with a role');
is(find({server => {%ambient}}, {AWS_SHARED_CREDENTIALS_FILE => $file, AWS_PROFILE => 'dev'}),
	'shared credentials file AKIDDEV a=b dt stays', 'the shared credentials file');
file('home/.aws/config', "[default]\nregion = eu-north-1\n[profile p]\naws_access_key_id = C\naws_secret_access_key = c\n");
is(find({server => {%ambient}}, {AWS_PROFILE => 'p'}), 'shared credentials file C c - stays', 'the configuration file');

# roles
my %role = (%keys, role_arn => 'arn:aws:iam::123456789012:role/external', external_id => 'ext/1 &');
like(find({server => {%sts}, mapping => {%role}}), qr/^assumed role ASIAROLE\d+ rolesecret roletoken expires$/, 'a role is assumed');
SKIP:
{
	skip 'python3-botocore is not installed, so that nobody verifies signatures', 1 unless $identity->port('botocore');
	like(find({server => {%sts}, mapping => {%role, secret_access_key => 'wrong'}}),
		qr/ERROR:  28000: Amazon STS gave no credentials\nDETAIL:  SignatureDoesNotMatch: no \(status 403, request request-1\)/,
		'with a signature that is verified');
}
like(find({server => {%sts}, mapping => {%role, external_id => 'no'}}), qr/AccessDenied/, 'the external ID counts');
like(find({server => {%ambient}, mapping => {role_arn => 'arn:aws:iam::1:role/x'}}, \%env), qr/^assumed role ASIAROLE/,
	"a role by the server's own credentials");
control(sts => 403);
like(find({server => {%sts}, mapping => {%role}}), qr/AccessDenied: User: .* is not authorized to perform: sts:AssumeRole/, 'a refused role');
control(sts => 'signature');
my $said = find({server => {%sts}, mapping => {%role}});
like($said, qr/SignatureDoesNotMatch: The request signature/, 'a refused signature');
unlike($said, qr/topsecrettoken/, 'is explained without the token');
control(sts => 'entity');
like(find({server => {%sts}, mapping => {%role}}), qr/makes no sense: it has a document type declaration/, 'XML with an entity');
control(sts => 'html');
my $before = requests();
like(find({server => {%sts}, mapping => {%role}}), qr/ERROR:  08006: .*\n.*status of its answer was 503/, 'STS is busy');
is(requests() - $before, 3, 'and was asked three times');
control();

# the cache
$before = requests();
$said = find({server => {%sts}, mapping => {%role}}, {}, '');
my $again = "SELECT 1 WHERE false;\n";
like(find({server => {%sts}, mapping => {%role}}, {}, $again), qr/^assumed role (ASIAROLE\d+) .*\n\1?.*\g1 /s, 'credentials are kept');
is(requests() - $before, 2, 'and STS is not asked again');
like(find({server => {%sts}, mapping => {%role}}, {}, "SELECT forget();\n"), qr/ASIAROLE(\d+)(?!.*ASIAROLE\1).*ASIAROLE\d+/s, 'until they are refused');
control(lifetime => 62);
$before = requests();
find({server => {%sts}, mapping => {%role}}, {}, "SELECT pg_sleep(3);\n");
is(requests() - $before, 2, 'or are about to expire');
control();

# web identity
file('web', "webtoken\n");
%env = (AWS_WEB_IDENTITY_TOKEN_FILE => "$dir/web", AWS_ROLE_ARN => 'arn:aws:iam::1:role/w');
like(find({server => {%ambient}}, \%env), qr/^web identity ASIAROLE\d+ rolesecret roletoken expires$/, 'web identity');
like(find({server => {%ambient}}, {%env, AWS_WEB_IDENTITY_TOKEN_FILE => "$dir/nothing"}), qr/could not read/, 'without its token');

# container
%env = (AWS_CONTAINER_CREDENTIALS_FULL_URI => "$url/container", AWS_CONTAINER_AUTHORIZATION_TOKEN => 'containerauth');
is(find({server => {%ambient}}, \%env), 'container ASIACONTAINER containersecret containertoken expires', 'a container');
file('auth', "containerauth\n");
is(find({server => {%ambient}}, {%env, AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE => "$dir/auth", AWS_CONTAINER_AUTHORIZATION_TOKEN => ''}),
	'container ASIACONTAINER containersecret containertoken expires', 'with its token in a file');
like(find({server => {%ambient}}, {%env, AWS_CONTAINER_AUTHORIZATION_TOKEN => "a\nX: y"}), qr/control character/, 'a token with a line feed');
like(find({server => {%ambient}}, {%env, AWS_CONTAINER_CREDENTIALS_FULL_URI => 'http://10.0.0.1/x'}),
	qr/loopback and link-local/, 'a container elsewhere');
like(find({server => {%ambient}}, {%env, AWS_CONTAINER_AUTHORIZATION_TOKEN => 'no'}), qr/gave no credentials\n.*401/, 'it refuses');

# instance
%env = (AWS_EC2_METADATA_DISABLED => 'false', AWS_EC2_METADATA_SERVICE_ENDPOINT => $url);
is(find({server => {%ambient}}, \%env), 'instance metadata ASIAINSTANCE instancesecret instancetoken expires', 'an instance');
like(find({server => {%ambient}, mapping => {role_arn => 'arn:aws:iam::1:role/x'}}, \%env), qr/^assumed role ASIAROLE/, 'and a role from there');
control(imds => 'norole');
like(find({server => {%ambient}}, \%env), qr/there are no credentials/, 'an instance without a role');
control(imds => 'off');
like(find({server => {%ambient}}, \%env), qr/gave no credentials/, 'one whose service is off');
control(imds => 'failed');
like(find({server => {%ambient}}, \%env), qr/its code is not Success/, 'one that failed');
control(imds => 'expired');
like(find({server => {%ambient}}, \%env), qr/they have expired/, 'one whose credentials have expired');
control(imds => 'slow');
like(find({server => {%ambient}}, \%env), qr/gave no credentials|no answer from the instance metadata service/, 'one that is slow');
like(find({server => {%ambient}}, {%env, AWS_EC2_METADATA_SERVICE_ENDPOINT => 'http://127.0.0.1:' . free_port()}),
	qr/there are no credentials/, 'no instance at all');
control();

# ---- who may give away what the server can read ----

$node->safe_psql('postgres', q{
	CREATE ROLE plain;
	CREATE ROLE reader;
	GRANT pg_read_server_files TO reader;
	GRANT USAGE ON FOREIGN DATA WRAPPER replica_aws TO plain, reader;
	GRANT CREATE ON DATABASE postgres TO plain, reader;
	CREATE SERVER aws FOREIGN DATA WRAPPER replica_aws OPTIONS (region 'eu-north-1', engine 'postgres', source 'orders');
	GRANT USAGE ON FOREIGN SERVER aws TO plain, reader;
});

sub as
{
	my ($role, $sql) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nSET ROLE $role; $sql");

	return $rc == 0 ? 'done' : $err;
}

is(as('plain', q{CREATE USER MAPPING FOR plain SERVER aws OPTIONS (access_key_id 'a', secret_access_key 'b')}), 'done',
	'anybody may use keys that he knows');
like(as('plain', q{ALTER USER MAPPING FOR plain SERVER aws OPTIONS (ADD credentials_file '/etc/x')}),
	qr/ERROR:  42501: permission denied to set option "credentials_file"/, 'but not a file of the server');
is(as('reader', q{CREATE USER MAPPING FOR reader SERVER aws OPTIONS (credentials_file '/etc/x')}), 'done',
	'who may read files may');
like(as('plain', q{CREATE SERVER own FOREIGN DATA WRAPPER replica_aws OPTIONS (region 'eu-north-1', engine 'postgres', source 'orders', ambient_credentials 'true')}),
	qr/ERROR:  42501: permission denied to set option "ambient_credentials"/, "nor the server's own credentials");
is(as('plain', q{CREATE SERVER own FOREIGN DATA WRAPPER replica_aws OPTIONS (region 'eu-north-1', engine 'postgres', source 'orders', ambient_credentials 'false')}),
	'done', 'forbidding them takes no rights');

# ---- the trace of an operation ----

control(sts => 403);
$node->safe_psql('postgres', qq{
	CREATE SERVER refusing FOREIGN DATA WRAPPER replica_aws
		OPTIONS (region 'eu-north-1', engine 'postgres', source 'orders', endpoint '$url');
	CREATE USER MAPPING FOR CURRENT_USER SERVER refusing OPTIONS (access_key_id 'AKIDBASE', secret_access_key 'basesecret');
});
is(wait_operation($node, $node->safe_psql('postgres', "SELECT replica_create('refused', 'refusing')")), 'failed', 'an operation fails');
like($node->safe_psql('postgres', "SELECT jsonb_path_query_first(detail, '\$.http[*]') FROM replica_events WHERE replica = 'refused' AND kind = 'create_failed'"),
	qr/^\{"ms": \d+, "host": "127.0.0.1:\d+", "action": "\w+", "method": "POST", "status": 403, "attempt": 1, "request_id": "request-1"\}$/,
	'its event says what was asked, and what came back');
control();

# ---- secrets ----

my $logged = slurp_file($node->logfile);
$logged =~ s/statement:.*?(?=^\d{4}-)//gims;
unlike($logged, qr/(base|env|instance|container|role)secret|topsecrettoken|(role|instance|container|imds|web)token/, 'no secret is in the log');

$node->stop;
done_testing();
