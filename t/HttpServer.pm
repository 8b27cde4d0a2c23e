# A server that misbehaves as it is asked to (http_server.py), and certificates.

package HttpServer;

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename;
use File::Path qw(make_path);
use IPC::Open2;

my $script = dirname(abs_path(__FILE__)) . '/http_server.py';

# Why there can be none; undef if there can.
sub missing
{
	for my $program (qw(python3 openssl))
	{
		return "$program is not installed" unless grep { -x "$_/$program" } split /:/, $ENV{PATH};
	}
	return;
}

# HttpServer->new(log file, name => 'certificate,key[,authority of clients]', ...)
sub new
{
	my ($class, $log, %tls) = @_;
	return $class->start($script, $log, map { "$_=$tls{$_}" } sort keys %tls);
}

# Any Python script that prints "NAME PORT" lines and "ready", and ends with its input.
sub start
{
	my ($class, @command) = @_;
	my $self = bless { ports => {} }, $class;

	$self->{pid} = open2($self->{out}, $self->{in}, 'python3', @command);
	while (defined(my $line = readline $self->{out}))
	{
		return $self if $line eq "ready\n";
		$self->{ports}{$1} = $2 if $line =~ /^(\S+) (\d+)$/;
	}
	die "the server of the test did not start\n";
}

sub port { return $_[0]{ports}{ $_[1] } // die "there is no port $_[1]\n" }

sub stop
{
	my ($self) = @_;

	return unless $self->{pid};
	close $self->{in};
	local $?;
	waitpid $self->{pid}, 0;
	delete $self->{pid};
	return;
}

sub DESTROY { $_[0]->stop; return }

sub openssl
{
	my @arguments = @_;
	my $out = `openssl @arguments 2>&1`;

	die "openssl @arguments: $out\n" if $?;
	return;
}

# Makes ca, good (localhost), other (another host), expired, self (signed by itself) and client.
sub certificates
{
	my ($dir) = @_;
	my $key = '-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes';
	my %names = (
		good => 'DNS:localhost,IP:127.0.0.1', other => 'DNS:other.example', expired => 'DNS:localhost',
		client => 'DNS:client');

	make_path($dir);
	# newer clients insist on these extensions
	openssl("req -x509 $key -days 30 -subj /CN=authority -addext keyUsage=critical,keyCertSign,cRLSign -keyout $dir/ca.key -out $dir/ca.crt");
	openssl("req -x509 $key -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout $dir/self.key -out $dir/self.crt");
	for my $name (sort keys %names)
	{
		my $days = $name eq 'expired' ? 0 : 30; # over as it begins

		open my $extension, '>', "$dir/$name.ext" or die "could not write: $!\n";
		print $extension "subjectAltName=$names{$name}\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n";
		close $extension;
		openssl("req $key -subj /CN=$name -keyout $dir/$name.key -out $dir/$name.csr");
		openssl("x509 -req -in $dir/$name.csr -CA $dir/ca.crt -CAkey $dir/ca.key -CAcreateserial -days $days"
			  . " -extfile $dir/$name.ext -out $dir/$name.crt");
	}
	return $dir;
}

1;
