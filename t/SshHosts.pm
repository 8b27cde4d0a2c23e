# SshHosts.pm
#	  Hosts for tests of the provider "ssh": an sshd each, run by the user who
#	  runs the test, on an address and port of the loopback of its own.
#
#	  my $host = ssh_host($primary, 'h1');
#	  $host->server;                  # CREATE SERVER h1 ...
#	  $host->home                     # where its replicas are
#	  $host->stop; $host->start;
#
# The login shell, which tests choose, comes from a passwd file that
# libnss_wrapper shows to sshd.  Where the kernel lets users make networks, a
# host can be in one of its own, whose link is cut and slowed.
package SshHosts;

use strict;
use warnings;
use Carp;
use Exporter 'import';
use File::Basename;
use File::Path qw(make_path);
use POSIX ();
use PostgreSQL::Test::Utils;
use ReplicaCtl;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(ssh_missing ssh_network ssh_host ssh_small_host ssh_primary);

my @hosts;
my @networks;

# A network behind a link of its own: this side is 10.9.NUMBER.1 on interface
# aNUMBER, the other 10.9.NUMBER.2.  Options for ssh_host().
sub ssh_network
{
	my ($number) = @_;
	my $pid = fork // die "fork: $!";

	if ($pid == 0)
	{
		exec 'unshare', '--net', 'sleep', '900' or POSIX::_exit(1);
	}
	push @networks, $pid;
	wait_until(sub { (readlink("/proc/$pid/ns/net") // '') ne readlink('/proc/self/ns/net') && slurp_file("/proc/$pid/comm") =~ /sleep/ }, 'a network');
	system_or_bail('sh', '-ec', 'ip link add a$1 type veth peer name b$1; ip link set b$1 netns $2
		ip addr add 10.9.$1.1/24 dev a$1; ip link set a$1 up
		nsenter --net=/proc/$2/ns/net sh -ec "ip link set lo up; ip addr add 10.9.$1.2/24 dev b$1; ip link set b$1 up"', 'sh', $number, $pid);
	return (address => "10.9.$number.2", network => $pid);
}

# Why such hosts cannot be had here; '' if they can.
sub ssh_missing
{
	return 'needs openssh-server' unless -x '/usr/sbin/sshd' && -x '/usr/bin/ssh';
	return 'needs libnss-wrapper' unless wrapper();
	return '';
}

sub wrapper
{
	my ($path) = glob '/usr/lib/*/libnss_wrapper.so /usr/lib*/libnss_wrapper.so';
	return $path;
}

# A primary that listens on 127.0.0.1 and wants SCRAM of everybody there, with
# the role "rep".
sub ssh_primary
{
	my ($name, %options) = @_;
	my $primary = new_primary($name, %options,
		conf => "listen_addresses = '127.0.0.1'\npassword_encryption = 'scram-sha-256'\n" . ($options{conf} // ''),
		hba => $options{hba} // "local all all trust\nlocal replication all trust\n"
		  . "host all all 127.0.0.0/8 scram-sha-256\nhost replication all 127.0.0.0/8 scram-sha-256\n");

	$primary->safe_psql('postgres', q{CREATE ROLE rep LOGIN SUPERUSER REPLICATION PASSWORD 'S3cr:t\'''});
	return $primary;
}

sub ssh_host
{
	my ($primary, $name, %options) = @_;
	my $base = $primary->basedir . "/host_$name";
	my $number = @hosts + 2;
	my $self = bless {
		primary => $primary,
		name => $name,
		base => $base,
		home => "$base/" . (delete $options{home_name} // 'home'),
		address => "127.0.0.$number",
		port => free_port(),
		shell => '/bin/sh',
		%options,
	}, 'SshHosts::Host';

	push @hosts, $self;
	make_path($self->{home}, "$base/etc");
	for my $key ('host_key', 'user_key')
	{
		system_or_bail('ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', "$base/etc/$key");
	}
	$self->write('ssh_config', '');
	$self->write('authorized_keys', slurp_file("$base/etc/user_key.pub"));
	$self->know;
	$self->start;
	return $self;
}

# One whose home is a file system of so many MB; undef if there cannot be one.
sub ssh_small_host
{
	my ($primary, $name, $megabytes) = @_;

	return undef unless system("unshare --user --mount --map-current-user --keep-caps true 2>/dev/null") == 0;
	return ssh_host($primary, $name, megabytes => $megabytes);
}

END
{
	my $status = $?;

	for my $host (@hosts)
	{
		$host->stop;
		ReplicaCtl::end_processes($host->{base});
	}
	kill 'KILL', @networks;
	$? = $status;
}

package SshHosts::Host;

use strict;
use warnings;
use Carp;
use File::Basename;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

sub home { return $_[0]{home} }
sub base { return $_[0]{base} }
sub address { return $_[0]{address} }
sub port { return $_[0]{port} }
sub log { return "$_[0]{base}/sshd.log" }

sub write
{
	my ($self, $file, $text) = @_;
	open my $out, '>', "$self->{base}/etc/$file" or croak "$file: $!";
	print $out $text;
	close $out;
	chmod 0600, "$self->{base}/etc/$file";
	return;
}

# The known hosts file, with the key that the host has now.
sub know
{
	my ($self) = @_;
	my ($type, $key) = split ' ', slurp_file("$self->{base}/etc/host_key.pub");

	$self->write('known_hosts', "[$self->{address}]:" . $self->{port} . " $type $key\n");
	return;
}

sub start
{
	my ($self) = @_;
	my $base = $self->{base};
	my ($name, undef, $uid, $gid) = getpwuid($<);

	$self->write('passwd', "$name:x:$uid:$gid:test:$self->{home}:$self->{shell}\n");
	$self->write('group', (getgrgid($gid) // $name) . ":x:$gid:\n");
	$self->write('sshd_config', join("\n",
		"ListenAddress $self->{address}:$self->{port}",
		"HostKey \"$base/etc/host_key\"",
		"AuthorizedKeysFile \"$base/etc/authorized_keys\"",
		"PidFile \"$base/sshd.pid\"",
		'StrictModes no', 'UsePAM no', 'PasswordAuthentication no', 'KbdInteractiveAuthentication no',
		'MaxStartups 100:30:200', 'LogLevel VERBOSE', $self->{sshd_config} // '', ''));
	{
		local $ENV{LD_PRELOAD} = SshHosts::wrapper();
		local $ENV{NSS_WRAPPER_PASSWD} = "$base/etc/passwd";
		local $ENV{NSS_WRAPPER_GROUP} = "$base/etc/group";
		my @sshd = ('/usr/sbin/sshd', '-f', "$base/etc/sshd_config", '-E', $self->log);
		@sshd = ('unshare', '--user', '--mount', '--map-current-user', '--keep-caps', 'sh', '-c',
			'mount -t tmpfs -o size=$1m,mode=700 tmpfs "$2" && shift 2 && exec "$@"', 'sh', $self->{megabytes}, $self->{home}, @sshd)
		  if $self->{megabytes};
		# a program that the host does not have
		@sshd = ('unshare', '--user', '--mount', '--map-current-user', '--keep-caps', 'sh', '-c',
			'mount --bind "$1" "$2" && shift 2 && exec "$@"', 'sh', "$base/etc/ssh_config", $self->{hide}, @sshd)
		  if $self->{hide};
		unshift @sshd, 'nsenter', "--net=/proc/$self->{network}/ns/net" if $self->{network};
		system(@sshd) == 0
		  or croak "sshd: " . slurp_file($self->log);
	}
	ReplicaCtl::wait_until(sub { -s "$base/sshd.pid" }, 'sshd');
	($self->{pid}) = slurp_file("$base/sshd.pid") =~ /(\d+)/;
	return;
}

# sshd, and with connections => 1 the sessions that it serves.
sub stop
{
	my ($self, %options) = @_;

	my @pids = $options{connections} ? $self->sessions : ();
	push @pids, $self->{pid} if defined $self->{pid};
	kill 'KILL', @pids if @pids;
	unlink "$self->{base}/sshd.pid";
	delete $self->{pid};
	return;
}

# The processes of sshd that serve a connection: its children, and theirs
# (programs of their own from OpenSSH 9.8 on).
sub sessions
{
	my ($self) = @_;
	my %parent;
	my @found;

	return () unless defined $self->{pid};
	for my $proc (glob '/proc/[0-9]*')
	{
		my ($title, $ppid) = (eval { slurp_file("$proc/stat") } // '') =~ /\((.*)\) \S (\d+)/ or next;
		$parent{ basename($proc) } = $ppid if $title =~ /^sshd(-session|-auth)?$/;
	}
	for my $pid (keys %parent)
	{
		push @found, $pid if $parent{$pid} == $self->{pid} || ($parent{ $parent{$pid} } // 0) == $self->{pid};
	}
	return @found;
}

# The options of a CREATE SERVER for it.
sub options
{
	my ($self, %more) = @_;
	my $bindir = dirname(ReplicaCtl::program('postgres'));
	my %options = (
		host => $self->{address},
		port => $self->{port},
		user => scalar getpwuid($<),
		identity_file => "$self->{base}/etc/user_key",
		known_hosts_file => "$self->{base}/etc/known_hosts",
		ssh_config => "$self->{base}/etc/ssh_config",
		bindir => $bindir,
		%more,
	);

	return join ', ', map { my $value = $options{$_}; $value =~ s/'/''/g; "$_ '$value'" }
	  grep { defined $options{$_} } sort keys %options;
}

# CREATE SERVER, named like the host, and a user mapping for "rep".
sub server
{
	my ($self, %more) = @_;
	my $options = $self->options(%more);

	$self->{primary}->safe_psql('postgres', qq{
		CREATE SERVER $self->{name} FOREIGN DATA WRAPPER replica_ssh OPTIONS ($options);
		CREATE USER MAPPING FOR PUBLIC SERVER $self->{name} OPTIONS (user 'rep', password 'S3cr:t\\''')});
	return;
}

# The same where the home is another file system for sshd than for us.
sub left_inside
{
	my ($self) = @_;
	my $home = "/proc/$self->{pid}/root$self->{home}";

	return ($self->left, map { "file $_" } glob("$home/replicas/* $home/*passfile*"));
}

# What is left of replicas there: processes and files, in words.
sub left
{
	my ($self) = @_;
	my $look = sub {
		grep { $_ ne $$ } ReplicaCtl::processes_of($self->{home});
	};

	eval { ReplicaCtl::wait_until(sub { !$look->() }, 'processes', 6) };
	return ((map { "process $_: " . ReplicaCtl::command_of($_) } $look->()),
		(map { "file $_" } glob("\Q$self->{home}\E/replicas/* \Q$self->{home}\E/*passfile*")));
}

1;
