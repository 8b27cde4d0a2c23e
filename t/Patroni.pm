# Patroni.pm
#	  A real etcd and real Patroni nodes, for tests.
#
#	  my $patroni = Patroni->new(3);      # undef and a reason, if the packages are missing
#	  $patroni->start;
#	  $patroni->wait(sub { ... });        # on the members, by name, as GET /cluster tells
#
# All of it runs as the user of the test, on ports of its own, below a
# temporary directory, and is killed at the end of the test.
package Patroni;

use strict;
use warnings;
use Carp;
use JSON::PP;
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

my @running;

# What is missing; empty if nothing is.
sub missing
{
	my @missing = grep { !-x "/usr/bin/$_" } qw(etcd patroni curl);

	# what Patroni talks to etcd with is a package of its own
	push @missing, 'python3-etcd' if !@missing && system("/usr/bin/python3 -c 'import etcd' >/dev/null 2>&1") != 0;
	return join ', ', @missing;
}

sub port { return PostgreSQL::Test::Cluster::get_free_port() }

sub new
{
	my ($class, $count, %options) = @_;
	my $self = bless {
		dir => PostgreSQL::Test::Utils::tempdir('patroni'),
		scope => $options{scope} // 'orders',
		etcd => $options{etcd} // [ port(), port() ],
		own_etcd => !$options{etcd},
		config => $options{config} // '',
		loop_wait => $options{loop_wait} // 1,
		tls => $options{tls},
		parameters => $options{parameters} ? ", $options{parameters}" : '',
		nodes => {},
		pids => {},
	}, $class;

	$self->{socket} = PostgreSQL::Test::Utils::tempdir_short();
	$self->{nodes}{"p$_"} = { port => port(), rest => port() } for 1 .. $count;
	push @running, $self;
	return $self;
}

sub spawn
{
	my ($self, $name, @command) = @_;
	my $pid = fork() // croak "fork: $!";

	unless ($pid)
	{
		setpgrp;
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', "$self->{dir}/$name.log";
		open STDERR, '>&', \*STDOUT;
		delete @ENV{ grep { /^PG/ } keys %ENV };
		exec @command or POSIX::_exit(127);
	}
	$self->{pids}{$name} = $pid;
	return;
}

sub start_etcd
{
	my ($self) = @_;
	my ($client, $peer) = @{ $self->{etcd} };

	$self->spawn('etcd', 'etcd', '--data-dir', "$self->{dir}/etcd", '--name', 'e',
		'--listen-client-urls', "http://127.0.0.1:$client", '--advertise-client-urls', "http://127.0.0.1:$client",
		'--listen-peer-urls', "http://127.0.0.1:$peer", '--initial-advertise-peer-urls', "http://127.0.0.1:$peer",
		'--initial-cluster', "e=http://127.0.0.1:$peer", '--unsafe-no-fsync');
	return;
}

# The REST interface by TLS, and only for clients with a certificate.
sub restapi_tls
{
	my ($self) = @_;
	my $dir = $self->{tls} // return '';

	return "\n  certfile: $dir/good.crt\n  keyfile: $dir/good.key\n  cafile: $dir/ca.crt\n  verify_client: required\n"
	  . "ctl: {certfile: $dir/good.crt, keyfile: $dir/good.key, cacert: $dir/ca.crt}";
}

# Its configuration; node options "nofailover" and "parameters" (of PostgreSQL, its own).
sub write_config
{
	my ($self, $name) = @_;
	my $node = $self->{nodes}{$name};
	my $file = "$self->{dir}/$name.yml";
	chomp(my $bin = `$ENV{PG_CONFIG} --bindir`);

	open my $yml, '>', $file or croak $!;
	print $yml <<"END";
scope: $self->{scope}
name: $name
restapi:
  listen: 127.0.0.1:$node->{rest}
  connect_address: 127.0.0.1:$node->{rest}
  authentication: {username: rest, password: open-sesame}@{[ $self->restapi_tls ]}
etcd3:
  host: 127.0.0.1:$self->{etcd}[0]
bootstrap:
  dcs:
    ttl: @{[ $self->{loop_wait} > 1 ? 30 : 20 ]}
    loop_wait: $self->{loop_wait}
    retry_timeout: @{[ $self->{loop_wait} > 1 ? 10 : 3 ]}
    maximum_lag_on_failover: 1048576
$self->{config}
    postgresql:
      use_pg_rewind: true
      parameters: {wal_log_hints: 'on', shared_buffers: 16MB, max_connections: 40, fsync: 'off'$self->{parameters}}
  initdb: [{encoding: UTF8}, {locale: C}]
  pg_hba: [local all all trust, host replication repl 127.0.0.1/32 scram-sha-256, host all all 127.0.0.1/32 scram-sha-256]
postgresql:
  listen: 127.0.0.1:$node->{port}
  connect_address: 127.0.0.1:$node->{port}
  data_dir: $self->{dir}/$name
  bin_dir: $bin
  pgpass: $self->{dir}/$name.pgpass
  authentication:
    replication: {username: repl, password: rep-pass}
    superuser: {username: postgres, password: super-pass}
  parameters: {unix_socket_directories: '$self->{socket}'@{[ $node->{parameters} // '' ]}}
tags: {nofailover: @{[ $node->{nofailover} ? 'true' : 'false' ]}}
END
	close $yml;
	return $file;
}

sub start_node
{
	my ($self, $name) = @_;

	$self->spawn($name, 'patroni', $self->write_config($name));
	return;
}

sub start
{
	my ($self) = @_;

	$self->start_etcd if $self->{own_etcd};
	$self->start_node('p1');
	$self->wait(sub { ($_[0]{p1}{role} // '') =~ /leader/ }, 60);
	$self->start_node($_) for grep { $_ ne 'p1' } sort keys %{ $self->{nodes} };
	$self->settled;
	return;
}

# Where their sockets are, for Writers.
sub host { return $_[0]{socket} }

sub url { return ($_[0]{tls} ? 'https' : 'http') . "://127.0.0.1:$_[0]{nodes}{$_[1]}{rest}" }
sub urls { my ($self) = @_; return join ', ', map { $self->url($_) } sort keys %{ $self->{nodes} } }

# curl and what it takes to be let in.
sub curl
{
	my ($self) = @_;
	my $dir = $self->{tls};

	return 'curl -s' . ($dir ? " --cacert $dir/ca.crt --cert $dir/client.crt --key $dir/client.key" : '');
}

# Members by name, as any node tells.
sub members
{
	my ($self) = @_;

	for my $name (sort keys %{ $self->{nodes} })
	{
		my $text = `@{[ $self->curl ]} -m 2 @{[ $self->url($name) ]}/cluster 2>/dev/null`;
		my $cluster = eval { decode_json($text) } or next;
		return { map { $_->{name} => $_ } @{ $cluster->{members} } };
	}
	return {};
}

sub wait
{
	my ($self, $condition, $timeout) = @_;
	my $end = time + ($timeout // 60);

	while (1)
	{
		my $members = $self->members;
		return $members if $condition->($members);
		croak "waited in vain for Patroni: " . encode_json($members) if time > $end;
		sleep 0.3;
	}
}

# Until all nodes that run are in the cluster, with one leader that all follow.
sub settled
{
	my ($self) = @_;

	return $self->wait(
		sub {
			my ($members) = @_;
			my @all = grep { $self->{pids}{$_} } keys %{ $self->{nodes} };
			my @leaders = grep { ($members->{$_}{role} // '') =~ /leader/ } @all;
			return @leaders == 1 && !grep {
				my $m = $members->{$_};
				!$m || ($m->{state} // '') !~ /^(running|streaming)/ || ($m->{timeline} // 0) != ($members->{ $leaders[0] }{timeline} // -1)
				  || (($m->{role} // '') !~ /leader/ && ($m->{lag} // 'unknown') eq 'unknown')
			} @all;
		},
		90);
}

sub leader
{
	my ($self) = @_;
	my $members = $self->members;
	return (grep { ($members->{$_}{role} // '') =~ /leader/ } keys %$members)[0] // '';
}

sub call
{
	my ($self, $name, $method, $path, $body) = @_;
	return `@{[ $self->curl ]} -m 30 -u rest:open-sesame -X $method -d '$body' @{[ $self->url($name) ]}$path 2>/dev/null`;
}

sub sql
{
	my ($self, $name, $sql) = @_;
	my ($out, $err) = ('', '');

	return "there is no member \"$name\"" unless exists $self->{nodes}{$name};
	IPC::Run::run([ 'psql', '-XAtq', '-d', "host=$self->{socket} port=$self->{nodes}{$name}{port} user=postgres dbname=postgres", '-c', $sql ],
		'>', \$out, '2>', \$err, IPC::Run::timeout(30));
	chomp $out;
	return $out . $err;
}

# Patroni itself, not its PostgreSQL.
sub signal
{
	my ($self, $name, $signal) = @_;
	kill $signal, $self->{pids}{$name};
	return;
}

sub stop_node
{
	my ($self, $name) = @_;
	my $pid = delete $self->{pids}{$name} or return;

	kill 'TERM', $pid;
	for (1 .. 100)
	{
		return if waitpid($pid, 1) == $pid;
		sleep 0.1;
	}
	kill 'KILL', $pid;
	waitpid $pid, 0;
	return;
}

# Everything of a member at once, as if its host was gone.
sub kill_host
{
	my ($self, $name) = @_;
	my $pid = delete $self->{pids}{$name} or return;

	kill 'STOP', $pid;
	if (open my $file, '<', "$self->{dir}/$name/postmaster.pid")
	{
		my ($postmaster) = (<$file> // '') =~ /^(\d+)/;
		kill 'KILL', $postmaster if $postmaster;
	}
	kill 'KILL', $pid;
	waitpid $pid, 0;
	return;
}

# Has the leader's lock ("leader"), or a member ("members/p1"), expire now, not only after ttl.
sub expire
{
	my ($self, $what) = @_;
	my $key = encode_base64("/service/$self->{scope}/$what", '');

	return `curl -s -m 5 -X POST -d '{"key": "$key"}' http://127.0.0.1:$self->{etcd}[0]/v3/kv/deleterange 2>/dev/null`;
}

sub end
{
	my ($self) = @_;

	for my $name (grep { $_ ne 'etcd' } keys %{ $self->{pids} })
	{
		kill 'KILL', $self->{pids}{$name};
		waitpid $self->{pids}{$name}, 0;
	}
	my @servers;
	for my $name (keys %{ $self->{nodes} })
	{
		open my $file, '<', "$self->{dir}/$name/postmaster.pid" or next;
		my $pid = <$file>;
		push @servers, $1 if ($pid // '') =~ /^(\d+)/;
	}
	kill 'QUIT', $_ for @servers;
	# on a busy machine that takes its time
	for (1 .. 100)
	{
		last unless grep { kill 0, $_ } @servers;
		sleep 0.1;
	}
	if (my $pid = $self->{pids}{etcd})
	{
		kill 'KILL', $pid;
		waitpid $pid, 0;
	}
	$self->{pids} = {};
	return;
}

END
{
	my $status = $?;
	$_->end for @running;
	$? = $status;
}

1;
