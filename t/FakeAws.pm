# FakeAws.pm
#	  Amazon, as far as the tests need it: starts t/fake_aws.py and tells it
#	  what to do.
#
#	  use FakeAws;
#	  my $aws = FakeAws->new;			# skips the file where it cannot run
#	  $aws->server($node, 'rds', source => 'orders');
#	  $aws->do('fault', kind => 'lost', action => 'CreateDBCluster');
#	  my @calls = $aws->calls('CreateDBCluster');
package FakeAws;

use strict;
use warnings;
use Carp;
use Cwd;
use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Utils;
use ReplicaCtl;
use Test::More;

# What must never be seen anywhere.
our $key = 'AKIDTEST';
our $secret = 'sEcReT/Key+1';

my @fakes;
my $python = -x '/usr/bin/python3' ? '/usr/bin/python3' : 'python3';

sub new
{
	my ($class, %options) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir_short();
	my $ready = "$dir/ready";
	my @command = ($python, 't/fake_aws.py', '--ready', $ready);
	my ($in, $out) = ('', '');
	my $self = bless { dir => $dir }, $class;

	plan(skip_all => 'Debian package python3-botocore is not there')
	  if system("$python -c 'import botocore.auth' >/dev/null 2>&1") != 0;
	push @command, '--tls', $self->certificate('server', 'IP:127.0.0.1,DNS:localhost') if $options{tls};
	$self->{in} = \$in;
	$self->{process} = IPC::Run::start(\@command, '<', \$in, '>', "$dir/out", '2>', "$dir/err", IPC::Run::timeout(3600));
	push @fakes, $self;
	wait_until(sub { -e $ready }, 'the fake of Amazon');
	$self->{ports} = decode_json(slurp_file($ready));
	$self->{http} = HTTP::Tiny->new(timeout => 20);
	return $self;
}

# A certificate of a test authority (made when it is first needed): its paths, certificate and key.
sub certificate
{
	my ($self, $name, $names) = @_;
	my $dir = $self->{dir};
	my $ca = "$dir/ca.pem";

	run_quietly('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=test authority',
		'-keyout', "$dir/ca.key", '-out', $ca)
	  unless -e $ca;
	run_quietly('openssl', 'req', '-newkey', 'rsa:2048', '-nodes', '-subj', "/CN=$name", '-keyout', "$dir/$name.key",
		'-out', "$dir/$name.csr");
	open my $ext, '>', "$dir/$name.ext" or croak "$name.ext: $!";
	print $ext "subjectAltName=$names\n";
	close $ext;
	run_quietly('openssl', 'x509', '-req', '-days', '2', '-in', "$dir/$name.csr", '-CA', $ca, '-CAkey', "$dir/ca.key",
		'-CAcreateserial', '-extfile', "$dir/$name.ext", '-out', "$dir/$name.pem");
	return ("$dir/$name.pem", "$dir/$name.key");
}

sub ca_file { return "$_[0]{dir}/ca.pem" }

sub run_quietly
{
	my ($out, $err) = ('', '');

	IPC::Run::run([@_], '<', \undef, '>', \$out, '2>', \$err) or croak "@_: $err";
	return;
}

# "http://127.0.0.1:port" of a region.
sub url
{
	my ($self, $region) = @_;
	return 'http://127.0.0.1:' . $self->{ports}{ $region // 'eu-north-1' };
}

sub tls_url { return "https://127.0.0.1:$_[0]{ports}{tls}" }

# Tells the fake what to do (class Control there); returns its answer.
sub do
{
	my ($self, $what, %arguments) = @_;
	my $response = $self->{http}->post("http://127.0.0.1:$self->{ports}{control}/",
		{ content => encode_json({ do => $what, %arguments }) });

	croak "the fake of Amazon does not answer: $response->{content}\n" . slurp_file("$self->{dir}/err")
	  unless $response->{success};
	my $answer = decode_json($response->{content});
	croak "the fake of Amazon: $answer->{error}" if ref $answer eq 'HASH' && defined $answer->{error};
	return $answer;
}

# The requests of an action, oldest first.
sub calls
{
	my ($self, $action) = @_;
	return @{ $self->do('requests', defined $action ? (action => $action) : ()) };
}

# Identifiers of all instances or clusters of the first region, sorted.
sub identifiers
{
	my ($self, $kind) = @_;
	my $name = $kind eq 'clusters' ? 'DBClusterIdentifier' : 'DBInstanceIdentifier';

	return join ' ', sort map { $_->{$name} } grep { $_->{Region} eq 'eu-north-1' } @{ $self->do('state')->{$kind} };
}

# Creates a server with a user mapping.  Options beginning with "mapping_" are of that.
sub server
{
	my ($self, $node, $name, %options) = @_;
	my %server = (region => 'eu-north-1', source => 'orders', endpoint => $self->url, wait_interval => '200 ms');
	my %mapping = (access_key_id => $key, secret_access_key => $secret);

	for my $option (keys %options)
	{
		my $map = $option =~ /^mapping_(.*)/ ? \%mapping : \%server;
		my $key = $1 && $map == \%mapping ? $1 : $option;
		$map->{$key} = $options{$option};
		delete $map->{$key} if !defined $map->{$key};
	}
	my $list = sub { my ($map) = @_; return join ', ', map { "$_ '$map->{$_}'" } sort keys %$map };
	$node->safe_psql('postgres', "CREATE SERVER $name FOREIGN DATA WRAPPER replica_aws OPTIONS (" . $list->(\%server) . ')');
	$node->safe_psql('postgres', "CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS (" . $list->(\%mapping) . ')')
	  if %mapping;
	return;
}

# What the fake itself complained about.
sub complaints { return slurp_file("$_[0]{dir}/err") }

END
{
	my $status = $?;

	for my $self (@fakes)
	{
		eval { $self->{process}->kill_kill(grace => 2) };
	}
	$? = $status;
}

1;
