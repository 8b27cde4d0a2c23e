# FakeKubernetes.pm
#	  API servers with CloudNativePG's Cluster resource (fake_kubernetes.py),
#	  as many as a test wants, each with certificates and tokens of its own.
#
#	  my $west = FakeKubernetes->new('west');
#	  $west->tokens('sesame');
#	  $west->url; $west->ca;
#	  $west->kube('GET', '/api/v1/...');    # as an administrator
#	  $west->faults({ match => '^PATCH ', status => 500 });
package FakeKubernetes;

use strict;
use warnings;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Utils;
use ReplicaCtl;

my @servers;

sub new
{
	my ($class, $name) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir("kube_$name");
	my $self = bless { name => $name, dir => $dir, admin => "admin-of-$name", pid => undef }, $class;

	system_or_bail('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', "$dir/server.key", '-out',
		"$dir/server.crt", '-days', '2', '-subj', "/CN=$name", '-addext', 'subjectAltName=IP:127.0.0.1');
	system_or_bail('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', "$dir/client.key", '-out',
		"$dir/clients.crt", '-days', '2', '-subj', '/CN=somebody');
	$self->tokens;
	$self->{pid} = fork() // die "fork: $!";
	if ($self->{pid} == 0)
	{
		exec 'python3', 't/fake_kubernetes.py', $dir, 't/data/cnpg_cluster_crd.json';
		die "exec: $!";
	}
	push @servers, $self;
	wait_until(sub { -s "$dir/ports" }, 'the API server listens');
	($self->{api}, $self->{control}) = split ' ', slurp_file("$dir/ports");
	$self->settings(pace => 0.1);
	return $self;
}

sub url { return "https://127.0.0.1:$_[0]{api}" }
sub ca { return "$_[0]{dir}/server.crt" }
sub dir { return $_[0]{dir} }

# Writes a file in the server's directory, at once; its path.
sub file
{
	my ($self, $name, $text) = @_;
	open my $out, '>', "$self->{dir}/$name.new" or die "$name: $!";
	print $out $text;
	close $out;
	rename "$self->{dir}/$name.new", "$self->{dir}/$name" or die "$name: $!";
	return "$self->{dir}/$name";
}

# The tokens that are valid from now on: "token", or "token manifest".
sub tokens
{
	my ($self, @tokens) = @_;
	return $self->file('tokens', join '', map { "$_\n" } $self->{admin}, @tokens);
}

sub control
{
	my ($self, $path, $what) = @_;
	my ($out, $err) = ('', '');
	my @data = $what ? ('-X', 'POST', '-d', encode_json($what)) : ();

	IPC::Run::run([ 'curl', '-sS', '--fail', @data, "http://127.0.0.1:$self->{control}$path" ], '>', \$out, '2>', \$err)
	  or die "control: $err";
	return decode_json($out);
}

sub faults { my ($self, @faults) = @_; return $self->control('/faults', \@faults); }
sub settings { my ($self, %settings) = @_; return $self->control('/settings', \%settings); }
sub requests { my ($self) = @_; return @{ $self->control('/requests') }; }

# How many requests match: "METHOD path status".
sub asked
{
	my ($self, $pattern) = @_;
	return scalar grep { "@$_[0 .. 2]" =~ $pattern } $self->requests;
}

sub kube
{
	my ($self, $method, $path, $body) = @_;
	my ($out, $err) = ('', '');
	my $type = $method eq 'PATCH' ? 'application/merge-patch+json' : 'application/json';
	my @data = $body ? ('-H', "Content-Type: $type", '-d', encode_json($body)) : ();

	IPC::Run::run([ 'curl', '-sS', '-X', $method, '--cacert', $self->ca, '-H', "Authorization: Bearer $self->{admin}", @data,
		$self->url . $path ], '>', \$out, '2>', \$err) or die "kube: $err";
	return decode_json($out);
}

sub clusters { my ($self, $namespace) = @_; return "/apis/postgresql.cnpg.io/v1/namespaces/$namespace/clusters"; }

sub cluster
{
	my ($self, $namespace, $name) = @_;
	return $self->kube('GET', $self->clusters($namespace) . "/$name");
}

sub patch_spec
{
	my ($self, $namespace, $name, %spec) = @_;
	return $self->kube('PATCH', $self->clusters($namespace) . "/$name", { spec => \%spec });
}

# Those that can name each other, as a distributed topology needs it.
sub external
{
	my ($self, @names) = @_;
	return [ map +{ name => $_, connectionParameters => { host => "$_.example.com", user => 'streaming_replica' } }, @names ];
}

sub new_cluster
{
	my ($self, $namespace, $name, %spec) = @_;

	my $made = $self->kube('POST', $self->clusters($namespace), { apiVersion => 'postgresql.cnpg.io/v1', kind => 'Cluster',
		metadata => { name => $name }, spec => { instances => 2, storage => { size => '1Gi' }, %spec } });
	die "Cluster $name: $made->{message}" if $made->{message};
	wait_until(
		sub {
			my $status = $self->cluster($namespace, $name)->{status};
			return ($status->{phase} // '') eq 'Cluster in healthy state' && $status->{readyInstances} == $made->{spec}{instances};
		},
		"Cluster $name is healthy");
	return $made;
}

# Debian's kubectl with a token; its output, or what it complains about.
sub kubectl
{
	my ($self, $token, @arguments) = @_;
	my ($out, $err) = ('', '');

	local $ENV{HOME} = $self->{dir};
	IPC::Run::run([ 'kubectl', '--server=' . $self->url, '--certificate-authority=' . $self->ca, "--token=$token", @arguments ],
		'>', \$out, '2>', \$err, IPC::Run::timeout(60)) or return $err;
	return $out;
}

sub stop
{
	my ($self) = @_;
	kill 'TERM', $self->{pid} if $self->{pid};
	waitpid $self->{pid}, 0 if $self->{pid};
	$self->{pid} = undef;
	return;
}

END
{
	local $?;
	$_->stop for @servers;
}

1;
