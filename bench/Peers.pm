# Peers.pm
#	  Two servers each, run by this extension and by other tools, for a
#	  benchmark that lets them change places.
#
#	  my $peer = Peers->new('patroni', settings => { shared_buffers => '128MB' });
#	  $peer->start;
#	  my $leader = $peer->leader;		# a Bench::Server
#	  $peer->switch;					# the command, until it returns
#	  $peer->wait_healthy;				# until both are in their new places
#	  $peer->stop;
#
#	  Packages as Debian has them, default settings but for the paths.  All
#	  servers listen in Bench's socket directory; role "bench" is a superuser.
package Peers;

use strict;
use warnings;
use Bench;
use Carp;
use Cwd;
use File::Path qw(make_path);
use HTTP::Tiny;
use Time::HiRes qw(sleep time);

my $sockets = Bench::Server->host;
chomp(my $bindir = `pg_config --bindir`);

# Programs that a peer needs; those that are missing.
my %programs = (
	replica_ctl => [],
	patroni => [ 'patroni', 'etcd' ],
	pg_auto_failover => ['pg_autoctl'],
	repmgr => [ 'repmgr', "$bindir/repmgr" ]);

sub missing
{
	my ($name) = @_;
	return grep { my $p = $_; !grep { -x } $p =~ m{/} ? $p : map { "$_/$p" } split /:/, $ENV{PATH} } @{ $programs{$name} };
}

sub new
{
	my ($class, $name, %options) = @_;
	my $self = bless {
		name => $name,
		dir => Bench::Server->scratch($name . ($options{suffix} // '')),
		settings => { shared_buffers => '128MB', max_wal_size => '4GB', %{ $options{settings} // {} } },
		ports => [ map { Bench::Server->free_port } 1 .. 2 ],
		pids => [],
	}, "Peers::$name";

	make_path($self->{dir});
	return $self;
}

sub ports { return @{ $_[0]{ports} } }

sub write_file
{
	my ($path, $text) = @_;

	open my $out, '>', $path or croak "$path: $!";
	print $out $text;
	close $out;
	return $path;
}

# A daemon of the peer's, in the background.
sub spawn
{
	my ($self, $log, @command) = @_;
	my $pid = fork // croak "fork: $!";

	if ($pid == 0)
	{
		setpgrp;
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', "$self->{dir}/$log.log";
		open STDERR, '>&', \*STDOUT;
		exec @command or POSIX::_exit(127);
	}
	push @{ $self->{pids} }, $pid;
	return $pid;
}

# What a short-lived psql says, undef if it fails.
sub ask
{
	my ($self, $port, $sql) = @_;
	my $pid = open my $out, '-|';

	croak "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		open STDERR, '>', '/dev/null';
		exec 'psql', '-XAtq', '-h', $sockets, '-p', $port, '-U', 'bench', '-d', 'postgres', '-c', $sql
		  or POSIX::_exit(127);
	}
	my $answer = do { local $/; <$out> } // '';
	close $out;
	chomp $answer;
	return $? == 0 ? $answer : undef;
}

sub leader_port
{
	my ($self) = @_;

	for my $port ($self->ports)
	{
		return $port if ($self->ask($port, 'SELECT pg_is_in_recovery()') // '') eq 'f';
	}
	return;
}

sub leader { return Bench::Server->at($_[0]->leader_port // croak "$_[0]{name} has no primary") }

sub follower_port
{
	my ($self) = @_;
	my $leader = $self->leader_port // 0;
	my ($port) = grep { $_ != $leader } $self->ports;
	return $port;
}

# One primary, from which the other streams, with nothing left to replay.
sub healthy
{
	my ($self) = @_;
	my $leader = $self->leader_port // return 0;

	return ($self->ask($leader, q{SELECT count(*) FROM pg_stat_replication
		WHERE state = 'streaming' AND pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) < 65536}) // 0) >= 1;
}

sub wait_healthy
{
	my ($self) = @_;
	my $end = time + 180;

	until ($self->healthy)
	{
		croak "$self->{name} did not come back" if time > $end;
		sleep 0.1;
	}
	return;
}

sub stop
{
	my ($self) = @_;

	for my $signal ('TERM', 'KILL')
	{
		kill $signal, @{ $self->{pids} };
		my $end = time + 15;
		@{ $self->{pids} } = grep { waitpid($_, POSIX::WNOHANG()) == 0 } @{ $self->{pids} }
		  and sleep 0.1
		  while @{ $self->{pids} } && time < $end;
	}
	for my $data (glob "$self->{dir}/*/postmaster.pid $self->{dir}/*/*/postmaster.pid")
	{
		$data =~ s{/postmaster\.pid$}{};
		eval { Bench::run("$bindir/pg_ctl", '-D', $data, '-m', 'immediate', '-w', 'stop') };
	}
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $@);
	$self->stop;
	return;
}

# ---- this extension

package Peers::replica_ctl;

use strict;
use warnings;
use Bench;

our @ISA = ('Peers');

sub start
{
	my ($self) = @_;
	my %settings = %{ $self->{settings} };
	my $server = Bench::Server->new("ours$self->{ports}[0]", extension => 0,
		settings => { (map { $_ => "'$settings{$_}'" } keys %settings), port => $self->{ports}[0], wal_log_hints => 'on',
			cluster_name => "'main'", 'replica_ctl.local_directory' => "'$self->{dir}'" });

	$self->{first} = $server->data_dir;
	$server = Bench::Server->at($self->{ports}[0]);
	$server->sql('CREATE EXTENSION IF NOT EXISTS replica_ctl');
	$server->sql(qq{SELECT replica_create('other', options => '{"port": $self->{ports}[1]}')});
	$server->sql(q{SELECT replica_wait('other')});
	return;
}

sub switch
{
	my ($self) = @_;
	my $leader = $self->leader_port;
	my $replica = $self->ask($leader, q{SELECT replica FROM replica_status WHERE state = 'streaming'}) or die "no replica\n";

	$self->ask($leader, "SELECT replica_switchover('$replica')") // die "could not switch over\n";
	my ($other) = grep { $_ != $leader } $self->ports;
	Bench::wait_until(sub { ($self->ask($other, 'SELECT pg_is_in_recovery()') // '') eq 'f' }, 'the new primary');
	return;
}

sub healthy
{
	my ($self) = @_;
	my $leader = $self->leader_port // return 0;

	return $self->SUPER::healthy && ($self->ask($leader, q{SELECT count(*) FROM replica_status WHERE state = 'streaming'}) // 0) == 1
	  && ($self->ask($leader, q{SELECT count(*) FROM replica_operations WHERE state IN ('queued', 'running')}) // 1) == 0;
}

sub stop
{
	my ($self) = @_;

	$self->SUPER::stop;
	eval { Bench::run('pg_ctl', '-D', $self->{first}, '-m', 'immediate', '-w', 'stop') }
	  if $self->{first} && -f "$self->{first}/postmaster.pid";
	return;
}

# ---- Patroni, with etcd

package Peers::patroni;

use strict;
use warnings;

our @ISA = ('Peers');

sub start
{
	my ($self) = @_;
	my ($client, $peer) = map { Bench::Server->free_port } 1 .. 2;
	my $dir = $self->{dir};
	my %settings = (%{ $self->{settings} }, unix_socket_directories => $sockets);

	$self->spawn('etcd', 'etcd', '--data-dir', "$dir/etcd", '--listen-client-urls', "http://127.0.0.1:$client",
		'--advertise-client-urls', "http://127.0.0.1:$client", '--listen-peer-urls', "http://127.0.0.1:$peer",
		'--initial-advertise-peer-urls', "http://127.0.0.1:$peer", '--initial-cluster', "default=http://127.0.0.1:$peer");
	Bench::wait_until(sub { HTTP::Tiny->new(timeout => 1)->get("http://127.0.0.1:$client/health")->{success} }, 'etcd');
	$self->{api} = [ map { Bench::Server->free_port } 1 .. 2 ];
	for my $i (0, 1)
	{
		my $parameters = join '', map { "        $_: '$settings{$_}'\n" } sort keys %settings;
		my $file = Peers::write_file("$dir/$i.yml", <<"END");
scope: bench
name: node$i
restapi:
  listen: 127.0.0.1:$self->{api}[$i]
  connect_address: 127.0.0.1:$self->{api}[$i]
etcd3:
  host: 127.0.0.1:$client
bootstrap:
  dcs:
    postgresql:
      use_pg_rewind: true
      parameters:
$parameters  initdb:
  - encoding: UTF8
  - locale: C
  pg_hba:
  - local all all trust
  - host all all 127.0.0.1/32 trust
  - host replication all 127.0.0.1/32 trust
postgresql:
  listen: 127.0.0.1:$self->{ports}[$i]
  connect_address: 127.0.0.1:$self->{ports}[$i]
  data_dir: $dir/data$i
  bin_dir: $bindir
  pgpass: $dir/pgpass$i
  authentication:
    superuser:
      username: bench
      password: bench
    replication:
      username: replicator
      password: replicator
END
		$self->spawn("patroni$i", 'patroni', $file);
		Bench::wait_until(sub { ($self->ask($self->{ports}[0], 'SELECT pg_is_in_recovery()') // '') eq 'f' }, 'Patroni', 120) if $i == 0;
	}
	$self->wait_healthy;
	return;
}

sub node_of
{
	my ($self, $port) = @_;
	return $self->{ports}[0] == $port ? 0 : 1;
}

sub switch
{
	my ($self) = @_;
	my $leader = $self->node_of($self->leader_port);
	my $answer = HTTP::Tiny->new(timeout => 60)->post("http://127.0.0.1:$self->{api}[$leader]/switchover",
		{ content => sprintf('{"leader": "node%d", "candidate": "node%d"}', $leader, 1 - $leader) });

	die "Patroni: $answer->{status} $answer->{content}\n" unless $answer->{success};
	return;
}

# ---- pg_auto_failover

package Peers::pg_auto_failover;

use strict;
use warnings;
use Bench;

our @ISA = ('Peers');

sub start
{
	my ($self) = @_;
	my $monitor = Bench::Server->free_port;
	my $dir = $self->{dir};
	my @common = ('--auth', 'trust', '--no-ssl', '--hostname', 'localhost');
	my $settings = join '', map { "$_ = '$self->{settings}{$_}'\n" } sort keys %{ $self->{settings} };

	local $ENV{XDG_DATA_HOME} = "$dir/share";
	local $ENV{XDG_CONFIG_HOME} = "$dir/config";
	local $ENV{XDG_RUNTIME_DIR} = "$dir/run";
	local $ENV{PG_REGRESS_SOCK_DIR} = $sockets;
	local $ENV{PGHOST} = $sockets;
	# one pg_ctl only may be in sight
	local $ENV{PATH} = "$bindir:/usr/bin:/bin";
	local $ENV{PG_CONFIG} = "$bindir/pg_config";
	$self->{env} = { map { $_ => $ENV{$_} } grep { /^XDG|SOCK_DIR|^PGHOST|^PATH|^PG_CONFIG/ } keys %ENV };
	mkdir "$dir/run";
	run('pg_autoctl', 'create', 'monitor', '--pgdata', "$dir/monitor", '--pgport', $monitor, @common);
	$self->spawn('monitor', 'pg_autoctl', 'run', '--pgdata', "$dir/monitor");
	my $uri = "postgres://autoctl_node\@localhost:$monitor/pg_auto_failover";
	wait_until(sub { system("psql -XAtqc 'SELECT 1' '$uri' >$dir/psql.log 2>&1") == 0 }, 'the monitor', 60);
	for my $i (0, 1)
	{
		run('pg_autoctl', 'create', 'postgres', '--pgdata', "$dir/data$i", '--pgport', $self->{ports}[$i],
			'--name', "node$i", '--monitor', $uri, '--dbname', 'postgres', @common);
		Peers::write_file("$dir/data$i/bench.conf", $settings);
		open my $conf, '>>', "$dir/data$i/postgresql.conf" or die "postgresql.conf: $!\n";
		print $conf "include 'bench.conf'\n";
		close $conf;
		$self->spawn("node$i", 'pg_autoctl', 'run', '--pgdata', "$dir/data$i");
		next if $i > 0;
		my $owner = getpwuid($<);
		wait_until(sub { system("psql -XAtq -h $sockets -p $self->{ports}[0] -U $owner -d postgres -c 'CREATE ROLE bench SUPERUSER LOGIN' >$dir/psql.log 2>&1") == 0 },
			'the first server', 60);
	}
	$self->wait_healthy;
	return;
}

sub healthy
{
	my ($self) = @_;
	local @ENV{ keys %{ $self->{env} } } = values %{ $self->{env} };

	return 0 unless $self->SUPER::healthy;
	# the tool's own idea of it: a switchover is refused before
	my $state = `pg_autoctl show state --pgdata $self->{dir}/data0 2>/dev/null`;
	return $state =~ /\|\s+primary \|\s+primary\s*$/m && $state =~ /\|\s+secondary \|\s+secondary\s*$/m;
}

sub switch
{
	my ($self) = @_;
	local @ENV{ keys %{ $self->{env} } } = values %{ $self->{env} };

	run('pg_autoctl', 'perform', 'switchover', '--pgdata', "$self->{dir}/data0");
	return;
}

# ---- repmgr

package Peers::repmgr;

use strict;
use warnings;
use Bench;

our @ISA = ('Peers');

sub config
{
	my ($self, $i) = @_;
	my $data = "$self->{dir}/data$i";

	return Peers::write_file("$self->{dir}/repmgr$i.conf", join '', map { "$_\n" }
		'node_id=' . ($i + 1), "node_name=node$i", "data_directory='$data'", "pg_bindir='$bindir'",
		"ssh_options='$self->{ssh}'",
		"conninfo='host=127.0.0.1 port=$self->{ports}[$i] user=bench dbname=repmgr connect_timeout=2'",
		"service_start_command='$bindir/pg_ctl -w -D $data -l $self->{dir}/server$i.log start'",
		"service_stop_command='$bindir/pg_ctl -w -D $data -m fast stop'",
		"service_restart_command='$bindir/pg_ctl -w -D $data -l $self->{dir}/server$i.log -m fast restart'");
}

sub repmgr
{
	my ($self, $i, @command) = @_;
	return run("$bindir/repmgr", '-f', "$self->{dir}/repmgr$i.conf", @command);
}

# repmgr works on the other server by ssh: a daemon for one user, who is shown
# to it with a shell.  Without the programs for that, commands are run without
# a login, which is faster.
sub start_ssh
{
	my ($self) = @_;
	my $dir = "$self->{dir}/ssh";
	my ($wrapper) = glob '/usr/lib/*/libnss_wrapper.so';
	my ($name, undef, $uid, $gid) = getpwuid($<);
	my $port = Bench::Server->free_port;

	mkdir $dir;
	unless ($wrapper && -x '/usr/sbin/sshd')
	{
		print "repmgr runs commands without ssh here: openssh-server or libnss-wrapper is missing\n\n";
		chmod 0755, Peers::write_file("$dir/ssh", qq{#!/bin/sh\nwhile [ "\$#" -gt 1 ]; do case "\$1" in -o|-F) shift 2 ;; -*) shift ;; *) shift; break ;; esac; done\nexec sh -c "\$*"\n});
		$ENV{PATH} = "$dir:$ENV{PATH}";
		return '';
	}
	run('ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', "$dir/$_") for 'host', 'user';
	Peers::write_file("$dir/passwd", "$name:x:$uid:$gid:bench:$dir:/bin/sh\n");
	Peers::write_file("$dir/group", (getgrgid($gid) // $name) . ":x:$gid:\n");
	Peers::write_file("$dir/sshd_config", join "\n", "ListenAddress 127.0.0.1:$port", "HostKey $dir/host",
		"AuthorizedKeysFile $dir/user.pub", 'PidFile none', 'StrictModes no', 'UsePAM no', '');
	local $ENV{LD_PRELOAD} = $wrapper;
	local $ENV{NSS_WRAPPER_PASSWD} = "$dir/passwd";
	local $ENV{NSS_WRAPPER_GROUP} = "$dir/group";
	$self->spawn('sshd', '/usr/sbin/sshd', '-D', '-f', "$dir/sshd_config", '-E', "$dir/log");
	return "-F none -p $port -i $dir/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR";
}

sub start
{
	my ($self) = @_;
	my $dir = $self->{dir};
	my %settings = (%{ $self->{settings} }, unix_socket_directories => $sockets, wal_log_hints => 'on',
		shared_preload_libraries => 'repmgr', listen_addresses => '127.0.0.1', hot_standby => 'on', max_wal_senders => 10);

	$self->{ssh} = $self->start_ssh;
	run('initdb', '-D', "$dir/data0", '-U', 'bench', '-A', 'trust', '-N', '--encoding=UTF8', '--locale=C');
	open my $conf, '>>', "$dir/data0/postgresql.conf" or die "postgresql.conf: $!\n";
	print $conf map { "$_ = '$settings{$_}'\n" } sort keys %settings;
	close $conf;
	$self->config($_) for 0, 1;
	for my $i (0, 1)
	{
		$self->repmgr(1, '-h', '127.0.0.1', '-p', $self->{ports}[0], '-U', 'bench', '-d', 'repmgr', '-c', 'standby', 'clone') if $i == 1;
		open my $auto, '>>', "$dir/data$i/postgresql.conf" or die "postgresql.conf: $!\n";
		print $auto "port = $self->{ports}[$i]\n";
		close $auto;
		run('pg_ctl', '-w', '-D', "$dir/data$i", '-l', "$dir/server$i.log", 'start');
		run('createdb', '-h', $sockets, '-p', $self->{ports}[0], '-U', 'bench', 'repmgr') if $i == 0;
		$self->repmgr($i, $i == 0 ? 'primary' : 'standby', 'register');
	}
	$self->wait_healthy;
	return;
}

sub switch
{
	my ($self) = @_;
	my $port = $self->follower_port;

	$self->repmgr($port == $self->{ports}[0] ? 0 : 1, 'standby', 'switchover');
	return;
}

1;
