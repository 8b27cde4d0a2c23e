# FakeAiven.pm
#	  Starts fake_aiven.py for a test and talks to its control endpoint.
#
#	  my $aiven = FakeAiven->new;                 # or ->new(tls => 1)
#	  $aiven->control('set', build => 2);
#	  $aiven->seed;                               # the project of the seed, with its primary
#	  my @calls = $aiven->calls;                  # "POST /v1/project/...", since the last clear
#
#	  my $r1 = FakeAiven::Creations->new($aiven, $node);
#	  my ($state, $operation) = $r1->create(\@faults);
#
#	  my $trials = FakeAiven::Promotions->new($aiven, $node);
#	  my ($name, $standby) = $trials->replica('remote');
#	  ($state, $operation) = $trials->promote($name);
#
# It ends with the test: its standard input is a pipe of ours.
package FakeAiven;

use strict;
use warnings;
use Carp;
use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my @running;

our $token = 'AVNS_token_0123456789abcdefghij';
our $password = 'AVNS_pass+word/0123456789';

sub available
{
	return system('python3 -c "import jsonschema" >/dev/null 2>&1') == 0;
}

# Options: tls (a certificate of a test authority), idle (seconds after which
# idle connections are closed).
sub new
{
	my ($class, %options) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir('aiven');
	my $self = bless { dir => $dir, tls => $options{tls} }, $class;
	my @command = ('python3', 't/fake_aiven.py', '--port-file', "$dir/port");

	if ($options{tls})
	{
		$self->make_certificates;
		push @command, '--tls', "$dir/server.crt", "$dir/server.key";
	}
	push @command, '--idle', $options{idle} if $options{idle};
	my $in = '';
	$self->{stdin} = \$in;
	$self->{run} = IPC::Run::start(\@command, '<', $self->{stdin}, '>', "$dir/out", '2>', "$dir/err",
		IPC::Run::timeout(900));
	my $end = time + 20;
	until (-s "$dir/port")
	{
		croak 'fake_aiven.py did not start: ' . slurp_file("$dir/err") if time > $end;
		sleep 0.05;
	}
	($self->{port}, $self->{control}) = split / /, slurp_file("$dir/port");
	push @running, $self;
	return $self;
}

sub make_certificates
{
	my ($self) = @_;
	my $dir = $self->{dir};

	for my $command (
		"openssl req -x509 -newkey rsa:2048 -nodes -keyout $dir/ca.key -out $dir/ca.crt -days 2 -subj '/CN=test authority'",
		"openssl req -newkey rsa:2048 -nodes -keyout $dir/server.key -out $dir/server.csr -subj /CN=127.0.0.1",
		"printf 'subjectAltName=IP:127.0.0.1' >$dir/ext",
		"openssl x509 -req -in $dir/server.csr -CA $dir/ca.crt -CAkey $dir/ca.key -CAcreateserial -days 2"
		. " -extfile $dir/ext -out $dir/server.crt")
	{
		system("($command) >>$dir/openssl.log 2>&1") == 0 or croak 'openssl: ' . slurp_file("$dir/openssl.log");
	}
	return;
}

sub endpoint
{
	my ($self) = @_;
	return ($self->{tls} ? 'https' : 'http') . "://127.0.0.1:$self->{port}";
}

sub ca_file { return "$_[0]{dir}/ca.crt" }

# Control.NAME of fake_aiven.py.
sub control
{
	my ($self, $name, %arguments) = @_;
	my $http = $self->{http} //= HTTP::Tiny->new(timeout => 30);
	my $response = $http->request('POST', "http://127.0.0.1:$self->{control}/_fake/$name",
		{ content => JSON::PP->new->utf8->canonical->encode(\%arguments) });

	croak "fake_aiven $name: $response->{status} $response->{content}\n" . slurp_file("$self->{dir}/err")
	  unless $response->{success};
	return JSON::PP->new->utf8->allow_nonref->decode($response->{content});
}

sub seed
{
	my ($self, %primary) = @_;

	$self->control('reset');
	$self->control('project', name => 'demo-project');
	$self->control('token', token => $token);
	$self->control('service', project => 'demo-project', name => 'primary-postgresql', %primary);
	return;
}

# Connection data of a service: those of a real server.
sub uri
{
	my ($self, $service, $node, %more) = @_;

	$self->control('uri', $service => {
		host => $node->host, port => '' . $node->port, user => scalar getpwuid($<), dbname => 'postgres',
		password => $password, sslmode => 'disable', %more });
	return;
}

# A real standby of the node, the one behind the service: it is promoted when
# the service is.
sub standby
{
	my ($self, $service, $source) = @_;
	my $standby = PostgreSQL::Test::Cluster->new($service);

	$source->backup("for_$service");
	$standby->init_from_backup($source, "for_$service", has_streaming => 1);
	$standby->start;
	$self->behind($service, $standby);
	return $standby;
}

sub behind
{
	my ($self, $service, $standby) = @_;

	$self->uri($service, $standby);
	$self->control('on_promote', $service => [ 'pg_ctl', '-D', $standby->data_dir, 'promote' ]);
	return;
}

# The services of the project, by name.
sub services
{
	my ($self, $project) = @_;
	return $self->control('state')->{services}{ $project // 'demo-project' };
}

sub log
{
	my ($self) = @_;
	return @{ $self->control('log') };
}

sub clear_log
{
	my ($self) = @_;
	$self->control('log', clear => JSON::PP::true);
	return;
}

# "METHOD path" of each request, without the query.
sub calls
{
	my ($self) = @_;
	return map { my $path = $_->{path}; $path =~ s/\?.*//; "$_->{method} $path" } $self->log;
}

sub names { return join ' ', sort keys %{ $_[0]->services } }

# Creations of services that were asked for, and promotions.
sub posts { return scalar grep { m{^POST .*/service$} } $_[0]->calls }
sub deletions { return scalar grep { m{^DELETE .*/integration/} } $_[0]->calls }

# Two assertions: the node has written no secret, neither to its log nor to a table.
sub no_secrets_ok
{
	my ($self, $node) = @_;
	my $log = slurp_file($node->logfile);
	my $rows = join '', map { $node->safe_psql('postgres', "SELECT coalesce(jsonb_agg(to_jsonb(t)), '[]') FROM replica_ctl.$_ t") }
	  qw(operation event replica cleanup);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$log =~ s/^.*STATEMENT:.*$|CREATE USER MAPPING.*$//mg;
	unlike($log, qr/\Q$token\E|aivenv1/, 'no token in the log');
	unlike($rows, qr/\Q$token\E|aivenv1|AVNS_/, 'no token or password in the tables');
	return;
}

# What the fake had to complain about: requests against the document.
sub complaints
{
	my ($self) = @_;
	return @{ $self->control('state')->{complaints} };
}

# CREATE SERVER and a user mapping for whoever runs it.
sub server_sql
{
	my ($self, $name, %options) = @_;
	my $mapping = delete $options{mapping} // "token '$token'";
	my %all = (
		project => 'demo-project',
		source => 'primary-postgresql',
		endpoint => $self->endpoint,
		$self->{tls} ? (ca_file => $self->ca_file) : (),
		%options);
	my $list = join ', ', map { "$_ '$all{$_}'" } grep { defined $all{$_} } sort keys %all;

	return "CREATE SERVER $name FOREIGN DATA WRAPPER replica_aiven OPTIONS ($list);"
	  . ($mapping eq '' ? '' : "CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS ($mapping);");
}

sub stop
{
	my ($self) = @_;

	return unless $self->{run};
	eval { $self->{run}->kill_kill(grace => 2) };
	delete $self->{run};
	return;
}

END
{
	local ($?, $@);
	$_->stop for @running;
}

# Replica r1 of the node, made by server "aiven" again and again; one standby
# stands behind its service each time.
package FakeAiven::Creations;

use strict;
use warnings;
use ReplicaCtl;

sub new
{
	my ($class, $aiven, $node) = @_;
	my $self = bless { aiven => $aiven, node => $node }, $class;

	$aiven->seed;
	$node->safe_psql('postgres', $aiven->server_sql('aiven'));
	$self->{standby} = $aiven->standby('r1', $node);
	return $self;
}

# Aiven as it was in the beginning, but for the primary's properties.
sub seed
{
	my ($self, %primary) = @_;

	$self->{aiven}->seed(%primary);
	$self->{aiven}->behind('r1', $self->{standby});
	return;
}

# Makes it with these faults; returns the operation's end and its number.
sub create
{
	my ($self, $faults, $knobs, $options) = @_;
	my ($aiven, $node) = @$self{qw(aiven node)};

	$self->seed;
	$aiven->control('set', build => 0.3, delete => 0.1, %{ $knobs // {} });
	$aiven->control('fault', %$_) for @{ $faults // [] };
	$aiven->clear_log;
	my $op = $node->safe_psql('postgres', "SELECT replica_create('r1', 'aiven', '" . ($options // '{}') . "')");
	return (wait_operation($node, $op, 90), $op);
}

sub drop
{
	my ($self) = @_;

	$self->{aiven}->control('faults');
	return wait_operation($self->{node}, $self->{node}->safe_psql('postgres', q{SELECT replica_drop('r1')}));
}

# Promotions asked for at the node: of replicas of the node itself, by server
# "here", and of another primary, by servers that differ in who stops the
# writes: "remote" has its source_conninfo, for "external" somebody else does,
# and for "nothing" nobody can.
package FakeAiven::Promotions;

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use ReplicaCtl;
use Test::More;

# What the node and its replicas need in postgresql.conf, to tell soon of each other.
our $conf = "wal_receiver_status_interval = 1\nwal_receiver_timeout = 4s";

sub new
{
	my ($class, $aiven, $node) = @_;
	my $primary = PostgreSQL::Test::Cluster->new('primary');
	my $conninfo = sprintf 'host=%s port=%s user=%s dbname=postgres', $primary->host, $primary->port, scalar getpwuid($<);

	$primary->init(allows_streaming => 1);
	$primary->append_conf('postgresql.conf', $conf);
	$primary->start;
	$aiven->seed;
	$node->safe_psql('postgres', $_) for (
		$aiven->server_sql('here'), $aiven->server_sql('remote', source_conninfo => $conninfo),
		$aiven->server_sql('external', fence => 'external'), $aiven->server_sql('nothing'));
	return bless { aiven => $aiven, node => $node, primary => $primary, made => 0 }, $class;
}

sub primary { return $_[0]{primary} }

# A replica behind server, attached; its name and standby.
sub replica
{
	my ($self, $server, %knobs) = @_;
	my ($aiven, $node) = @$self{qw(aiven node)};
	my $source = $server eq 'here' ? $node : $self->{primary};
	my $name = 'r' . ++$self->{made};

	$aiven->seed;
	$aiven->uri('primary-postgresql', $source);
	$source->safe_psql('postgres', 'SET default_transaction_read_only = off; ALTER DATABASE postgres RESET default_transaction_read_only')
	  if $server ne 'here';
	$aiven->control('service', project => 'demo-project', name => $name, source => 'primary-postgresql');
	my $standby = $aiven->standby($name, $source);
	$source->wait_for_catchup($standby);
	my $op = $node->safe_psql('postgres', "SELECT replica_attach('$name', '$server')");

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(wait_operation($node, $op), 'succeeded', "$name is attached") or diag operation_error($node, $op);
	$aiven->control('set', unlink => 0.2, promote => 0.3, %knobs);
	$aiven->clear_log;
	return ($name, $standby);
}

# Returns the operation's end and its number.
sub promote
{
	my ($self, $name, $arguments) = @_;
	my $op = $self->{node}->safe_psql('postgres',
		"SELECT replica_promote('$name'" . ($arguments ? ", $arguments" : '') . ')');

	return (wait_operation($self->{node}, $op, 90), $op);
}

1;
