# ReplicaCtl.pm
#	  What the TAP tests of this extension share, on top of
#	  PostgreSQL::Test::Cluster.
#
#	  use ReplicaCtl;
#	  my $primary = new_primary('main');
#	  $primary->safe_psql('postgres', q{SELECT replica_create('r1')});
#	  wait_for($primary, q{SELECT state = 'streaming' FROM replica_status});
#	  ...
#	  no_orphans_ok($primary);
#	  done_testing();
#
# Replicas of a primary made here live in its basedir/replicas, so that what
# belongs to a test can be told by its path.  A test that ends early takes
# its replicas down with it (END below).  A file that runs longer than
# RCTL_TEST_TIMEOUT seconds (900 unless set) is ended as failed.
package ReplicaCtl;

use strict;
use warnings;
use Carp;
use Exporter 'import';
use Fcntl qw(:flock);
use File::Basename;
use File::Path qw(make_path);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(
  new_primary
  wait_for
  wait_until
  wait_operation
  operation_error
  is_primary
  psql_error
  free_port
  small_file_system
  replica_dir
  replica_processes
  no_orphans_ok
  orphans
  restart_pid
  worker_pid
  crash
  debian_cluster
  test_build
  server_of
  ask
  wait_ask
  switch_to
  mock_server
  mock_files
  set_fault
  start_with_clock
  shift_clock
);

my @primaries;

# A replica takes the first free port after its primary's, so that it could
# take one that another test has been promised and does not use yet.  Each
# file, by its number, has 100 ports to itself.
INIT
{
	no warnings 'once';
	my ($number) = basename($0) =~ /^(\d+)/;
	$PostgreSQL::Test::Cluster::last_port_assigned = 10240 + ($number // 0) % 180 * 120 + int(rand(20));
}

my $limit = $ENV{RCTL_TEST_TIMEOUT} || 900;

$SIG{ALRM} = sub { die "the test did not end within $limit s\n" };
alarm($limit);

# new_primary(name, option => value ...)
#
# A running primary with the extension created in "postgres".  Options:
#   conf       => text appended to postgresql.conf, after ours
#   hba        => text that replaces pg_hba.conf
#   initdb     => [more arguments of initdb]
#   checksums  => 0: none, whatever is initdb's default (on from PostgreSQL 18)
#   extension  => 0: do not create the extension
#   start      => 0: do not start it (nor create the extension)
sub new_primary
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	my @initdb = ('--encoding=UTF8', '--locale=C', @{ $options{initdb} // [] });

	push @initdb, '--no-data-checksums' if !($options{checksums} // 1) && $node->pg_version >= 18;
	$node->init(allows_streaming => 1, extra => \@initdb);
	$node->append_conf('postgresql.conf', join("\n",
		"shared_preload_libraries = 'replica_ctl'",
		"replica_ctl.database = 'postgres'",
		"replica_ctl.local_directory = '" . replica_dir($node) . "'",
		'max_worker_processes = 20',
		'max_wal_senders = 20',
		'max_replication_slots = 20',
		'max_connections = 50',
		'restart_after_crash = on',
		'log_min_messages = info',
		$options{conf} // ''));
	if (defined $options{hba})
	{
		open my $hba, '>', $node->data_dir . '/pg_hba.conf' or croak "pg_hba.conf: $!";
		print $hba $options{hba};
		close $hba;
	}
	push @primaries, $node;

	if ($options{start} // 1)
	{
		$node->start;
		$node->safe_psql('postgres', 'CREATE EXTENSION replica_ctl')
		  if $options{extension} // 1;
	}
	return $node;
}

# Where the replicas of a primary made by new_primary live.
sub replica_dir
{
	my ($node) = @_;
	return $node->basedir . '/replicas';
}

# wait_until(sub, what, timeout = 30): calls sub until it returns true, which
# is then returned.  Dies, naming what, if it never does.
sub wait_until
{
	my ($condition, $what, $timeout) = @_;
	my $end = time + ($timeout //= 30);

	while (1)
	{
		my $result = $condition->();
		return $result if $result;
		croak "waited $timeout s in vain for $what" if time > $end;
		sleep 0.05;
	}
}

# wait_for(node, query, timeout = 30): until the query, in "postgres", returns
# "t".  Errors of the query count as false: the server may be restarting.
sub wait_for
{
	my ($node, $query, $timeout) = @_;
	my $last = '';
	my $result = eval {
		wait_until(
			sub {
				# psql that cannot connect may be gone before it is given the query
				my ($rc, $out, $err) = eval { $node->psql('postgres', $query) };
				$last = $@ || "$out$err";
				return !$@ && $rc == 0 && $out eq 't';
			},
			$query, $timeout);
	};

	croak "$@ last result: $last" unless $result;
	return 1;
}

# Waits until the operation has ended, and returns its final state whatever
# it is (replica_operation_wait raises the error of one that failed).
sub wait_operation
{
	my ($node, $operation, $timeout) = @_;

	wait_for($node,
		"SELECT state NOT IN ('queued', 'running') FROM replica_operations WHERE operation = $operation",
		$timeout // 60);
	return $node->safe_psql('postgres',
		"SELECT state FROM replica_operations WHERE operation = $operation");
}

# What an operation that has failed says: "sqlstate message | detail | hint".
sub operation_error
{
	my ($node, $operation) = @_;

	return $node->safe_psql('postgres', qq{
		SELECT sqlstate || ' ' || message || ' | ' || coalesce(detail, '') || ' | ' || coalesce(hint, '')
		FROM replica_operations WHERE operation = $operation});
}

sub is_primary
{
	my ($node) = @_;
	return $node->safe_psql('postgres', 'SELECT pg_is_in_recovery()') eq 'f';
}

# Runs a statement that must fail; returns all that psql says about it, with
# SQLSTATE, detail and hint.
sub psql_error
{
	my ($node, $sql, %options) = @_;
	my ($rc, $out, $err) = $node->psql($options{dbname} // 'postgres',
		"\\set VERBOSITY verbose\n$sql", on_error_stop => 1,
		extra_params => $options{extra_params} // []);

	croak "no error: $sql" if $rc == 0;
	return $err;
}

# A small file system with reflinks, which is this test's alone until it ends;
# undef if there is none.
my $file_system_lock;

sub small_file_system
{
	my $mount = $ENV{RCTL_TEST_XFS} or return undef;

	open $file_system_lock, '>', "$ENV{RCTL_WORK}/xfs.lock" or croak "xfs.lock: $!";
	flock($file_system_lock, LOCK_EX) or croak "flock: $!";
	return $mount;
}

# A port that nothing listens on and that no other test will be given.
sub free_port
{
	return PostgreSQL::Test::Cluster::get_free_port();
}

# The path of a program of PostgreSQL.
sub program
{
	my ($name) = @_;
	my ($path) = grep { -x } map { "$_/$name" } split /:/, $ENV{PATH};

	return $path // croak "no program $name";
}

# Pids of processes that run in, or were called with, a path in the replica
# directory of the node.
sub replica_processes
{
	my ($node) = @_;
	return processes_of(replica_dir($node));
}

sub processes_of
{
	my ($path) = @_;
	my @pids;

	for my $proc (glob '/proc/[0-9]*')
	{
		my $pid = basename($proc);
		next if $pid == $$;
		my $cwd = readlink("$proc/cwd") // '';
		my $command = '';
		if (open my $in, '<', "$proc/cmdline")
		{
			local $/;
			$command = <$in> // '';
		}
		push @pids, $pid if "$cwd/" =~ m{^\Q$path\E/} || $command =~ m{\Q$path\E(/|\0|$)};
	}
	return @pids;
}

# One assertion: nothing is left of any replica (see orphans).
sub no_orphans_ok
{
	my ($node, $name, %options) = @_;
	my @left = orphans($node, %options);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(!@left, $name // 'nothing is left behind') || diag(join("\n", @left));
}

# What is left of replicas, in words: processes, files, slots, cleanup records
# of operations that have ended.  Slots, and names in the replica directory,
# that are in the list keep are expected.
sub orphans
{
	my ($node, %options) = @_;
	my %keep = map { $_ => 1 } @{ $options{keep} // [] };
	my $dir = replica_dir($node);
	my $unexpected = sub {
		return grep { !is_kept($_, $dir, \%keep) } replica_processes($node);
	};
	my @left;

	# processes end a moment after they were told to
	eval { wait_until(sub { !$unexpected->() }, 'processes', $options{patience} // 5) };
	push @left, map { "process $_: " . command_of($_) } $unexpected->();
	push @left, map { "file $_" } grep { !$keep{ basename($_) } } glob "$dir/* $dir/.[!.]*";
	push @left, map { "slot $_" } grep { !$keep{$_} } split /\n/,
	  $node->safe_psql('postgres', 'SELECT slot_name FROM pg_replication_slots');
	push @left, map { "cleanup record $_" } split /\n/, $node->safe_psql('postgres', q{
		SELECT c.type || ' ' || c.object FROM replica_ctl.cleanup c
		JOIN replica_ctl.operation o USING (operation_id)
		WHERE o.state IN ('succeeded', 'failed', 'cancelled')});
	return @left;
}

sub is_kept
{
	my ($pid, $dir, $keep) = @_;
	my $text = (readlink("/proc/$pid/cwd") // '') . ' ' . command_of($pid);

	return grep { $text =~ m{\Q$dir/$_\E(/|\s|$)} } keys %$keep;
}

sub command_of
{
	my ($pid) = @_;

	open my $in, '<', "/proc/$pid/cmdline" or return '';
	local $/;
	my $command = <$in> // '';
	$command =~ tr/\0/ /;
	return $command;
}

# Pid of a background worker whose backend_type begins with the text, or ''.
sub worker_pid
{
	my ($node, $type) = @_;

	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE starts_with(backend_type, '$type') ORDER BY pid LIMIT 1");
}

# kill -9 of the postmaster, and a wait until its children are gone too.
# Start it again with $node->start.
sub crash
{
	my ($node) = @_;
	my $dir = $node->data_dir;
	my $pid = $node->{_pid};

	$node->kill9;
	# it counts as running until init has reaped it
	wait_until(sub { !kill 0, $pid }, "the end of process $pid");
	wait_until(sub { !grep { (readlink("/proc/$_/cwd") // '') eq $dir } processes_of($dir) },
		'the end of the backends');
	return;
}

# kill -9 of one of the node's processes, and a wait until it is gone.  The
# postmaster restarts everything then.
sub restart_pid
{
	my ($node, $pid) = @_;

	kill 9, $pid or croak "could not kill $pid: $!";
	wait_until(sub { !kill 0, $pid }, "the end of process $pid");
	wait_for($node, 'SELECT true');
	return;
}

# Servers that change roles are asked by where they are, whatever they are:
# { name, host, port, dir } of a replica, or of a node; and user, if it is not
# the one who runs the test.
sub server_of
{
	my ($node, $name) = @_;

	return { name => $name, host => $node->host, port => $node->port, dir => $node->data_dir }
	  if $name eq 'main';
	my ($host, $port, $dir) = split /\|/, $node->safe_psql('postgres', qq{
		SELECT coalesce(nullif(split_part(facts->>'socket_directories', ',', 1), ''), facts->>'host'),
			facts->>'port', facts->>'data_directory'
		FROM replica_ctl.replica WHERE name = '$name'});
	return { name => $name, host => $host, port => $port, dir => $dir };
}

# What psql prints, or what it complains about after "ERROR".
sub ask
{
	my ($server, $sql) = @_;
	my ($out, $err) = ('', '');

	# psql that cannot connect does not read its input
	my $success = eval {
		IPC::Run::run(
			[ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-h', $server->{host}, '-p', $server->{port},
				defined $server->{user} ? ('-U', $server->{user}) : (), '-d', 'postgres', '-f', '-' ],
			'<', \$sql, '>', \$out, '2>', \$err);
	};
	chomp($out, $err);
	return $success ? $out : "ERROR $err";
}

# Until the query returns "t" there; errors count as false.
sub wait_ask
{
	my ($server, $sql, $timeout) = @_;
	my $last = '';

	eval { wait_until(sub { ($last = ask($server, $sql)) eq 't' }, $sql, $timeout // 60) };
	croak "$@ last result from $server->{name}: $last" if $last ne 't';
	return 1;
}

# replica_switchover(replica) on one server, and a wait on the other until the
# operation has ended there.  Returns its final state and the operation.
sub switch_to
{
	my ($from, $to, $call) = @_;
	my $operation = ask($from, $call // "SELECT replica_switchover('$to->{name}')");

	croak "switchover: $operation" if $operation !~ /^\d+$/;
	wait_ask($to, qq{SELECT NOT pg_is_in_recovery()});
	wait_ask($to, qq{SELECT state NOT IN ('queued', 'running') FROM replica_operations WHERE operation = $operation}, 90);
	my $state = ask($to, qq{SELECT state FROM replica_operations WHERE operation = $operation});
	return wantarray ? ($state, $operation) : $state;
}

# A primary as Debian's pg_createcluster lays it out: configuration in a
# directory of its own that pg_ctl -D does not see, with an include
# directory, the data elsewhere, started with -c config_file=.  Peer
# authentication on the socket for the superuser "postgres".  Returns an
# object with the methods port, host, data_dir, config_dir, psql, start, stop.
sub debian_cluster
{
	my ($name, %options) = @_;
	return ReplicaCtl::DebianCluster->new($name, %options);
}

# Whether the server has what only test builds have.
sub test_build
{
	my ($node) = @_;
	return $node->safe_psql('postgres',
		q{SELECT count(*) FROM replica_ctl.steps() WHERE provider = 'mock'}) > 0;
}

# Makes server "mock", of the provider that only test builds have.
sub mock_server
{
	my ($node) = @_;
	my $dir = mock_dir($node);

	make_path($dir);
	$node->safe_psql('postgres', qq{
		CREATE FUNCTION validate_mock(text[], oid) RETURNS void AS 'replica_ctl', 'rctl_validate_mock' LANGUAGE C STRICT;
		CREATE FOREIGN DATA WRAPPER replica_mock VALIDATOR validate_mock;
		CREATE SERVER mock FOREIGN DATA WRAPPER replica_mock OPTIONS (directory '$dir');});
	return;
}

sub mock_dir
{
	my ($node) = @_;
	return $node->basedir . '/mock';
}

# What the mock provider's replicas consist of: "1.data 1.slot ...", by id.
sub mock_files
{
	my ($node) = @_;
	return join ' ', sort map { basename($_) } glob mock_dir($node) . '/*';
}

# Sets replica_ctl.test_fault ('' for none), and waits until new workers know.
sub set_fault
{
	my ($node, $fault) = @_;

	$node->safe_psql('postgres', "ALTER SYSTEM SET replica_ctl.test_fault = '$fault'");
	$node->reload;
	wait_until(
		sub { $node->safe_psql('postgres', 'SHOW replica_ctl.test_fault') eq $fault },
		"the fault $fault");
	return;
}

# Starts the node with a system clock that is so many seconds ahead of this
# machine's (for gettimeofday(), from which PostgreSQL has its time), and that
# shift_clock() sets.  There must be a C compiler.
my $clock;

sub start_with_clock
{
	my ($node, $seconds) = @_;
	my $library = "$ENV{TESTDIR}/clock.so";

	open my $c, '>', "$library.c" or croak "$library.c: $!";
	print $c <<'END';
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

int
gettimeofday(struct timeval *now, void *zone)
{
	struct timespec real;
	FILE	   *file = fopen(getenv("RCTL_TEST_CLOCK"), "r");
	long		seconds = 0;

	clock_gettime(CLOCK_REALTIME, &real);
	if (file)
	{
		if (fscanf(file, "%ld", &seconds) != 1)
			seconds = 0;
		fclose(file);
	}
	now->tv_sec = real.tv_sec + seconds;
	now->tv_usec = real.tv_nsec / 1000;
	return 0;
}
END
	close $c;
	system_or_bail('cc', '-shared', '-fPIC', '-o', $library, "$library.c");
	$clock = "$ENV{TESTDIR}/clock";
	shift_clock($seconds);
	local $ENV{LD_PRELOAD} = $library;
	local $ENV{RCTL_TEST_CLOCK} = $clock;
	$node->start;
	return;
}

sub shift_clock
{
	my ($seconds) = @_;

	open my $out, '>', "$clock.tmp" or croak "$clock: $!";
	print $out $seconds;
	close $out;
	rename "$clock.tmp", $clock or croak "$clock: $!";
	return;
}

# Replicas are daemons: they would survive a test that dies.  This runs before
# the END of PostgreSQL::Test::Cluster, which removes the directories.
END
{
	my $status = $?;

	alarm(0);
	for my $node (@primaries)
	{
		# so that no worker restarts what is being stopped
		eval { $node->stop('immediate') if defined $node->{_pid} };
		end_processes(replica_dir($node));
	}
	ReplicaCtl::DebianCluster::stop_all();
	$? = $status;
}

# SIGQUIT (for a postmaster: immediate shutdown), and SIGKILL to what stays.
sub end_processes
{
	my ($path) = @_;

	for my $signal ('QUIT', 'KILL')
	{
		my @pids = processes_of($path) or return;
		kill $signal, @pids;
		eval { wait_until(sub { !processes_of($path) }, 'processes', 5) };
	}
	return;
}

package ReplicaCtl::DebianCluster;

use strict;
use warnings;
use Carp;
use PostgreSQL::Test::Utils;
use Test::More;

my @clusters;

sub new
{
	my ($class, $name, %options) = @_;
	my $base = PostgreSQL::Test::Utils::tempdir("debian_$name");
	my $user = getpwuid($<);
	my $self = bless {
		name => $name,
		base => $base,
		config => "$base/etc/postgresql/15/$name",
		data => "$base/var/lib/postgresql/15/$name",
		socket => PostgreSQL::Test::Utils::tempdir_short(),
		log => "$base/postgresql-15-$name.log",
		port => ReplicaCtl::free_port(),
	}, $class;

	File::Path::make_path($self->{config}, "$base/var/lib/postgresql/15");
	system_or_bail('initdb', '-D', $self->{data}, '--auth-local=peer', '--auth-host=scram-sha-256',
		'-N', '--encoding=UTF8', '--locale=C', '-U', $options{superuser} // 'postgres');
	for my $file ('postgresql.conf', 'pg_hba.conf', 'pg_ident.conf')
	{
		rename "$self->{data}/$file", "$self->{config}/$file" or croak "$file: $!";
	}
	mkdir "$self->{config}/conf.d" or croak "conf.d: $!";

	# The owner of the server is the superuser by peer, as "postgres" is there.
	$self->append('pg_ident.conf', "owner $user " . ($options{superuser} // 'postgres'));
	my $hba = slurp_file("$self->{config}/pg_hba.conf");
	$hba =~ s/^(local\s.*\s)peer$/$1peer map=owner/gm;
	$self->rewrite('pg_hba.conf', $options{hba} // $hba);
	$self->append('postgresql.conf', join("\n",
		"data_directory = '$self->{data}'",
		"hba_file = '$self->{config}/pg_hba.conf'",
		"ident_file = '$self->{config}/pg_ident.conf'",
		"external_pid_file = '$base/$name.pid'",
		"port = $self->{port}",
		"unix_socket_directories = '$self->{socket}'",
		"listen_addresses = 'localhost'",
		"cluster_name = '15/$name'",
		"include_dir = 'conf.d'"));
	$self->rewrite('conf.d/replica_ctl.conf', join("\n",
		"shared_preload_libraries = 'replica_ctl'",
		'fsync = off',
		$options{conf} // '', ''));
	push @clusters, $self;
	$self->start if $options{start} // 1;
	return $self;
}

sub port { return $_[0]{port} }
sub host { return $_[0]{socket} }
sub data_dir { return $_[0]{data} }
sub config_dir { return $_[0]{config} }
sub logfile { return $_[0]{log} }

# Where replicas are made, unless the settings say otherwise.
sub replica_dir { return "$_[0]{data}_replicas" }

sub append
{
	my ($self, $file, $text) = @_;
	append_to_file("$self->{config}/$file", "$text\n");
	return;
}

sub rewrite
{
	my ($self, $file, $text) = @_;
	open my $out, '>', "$self->{config}/$file" or croak "$file: $!";
	print $out $text;
	close $out;
	return;
}

sub start
{
	my ($self) = @_;
	system_or_bail('pg_ctl', '-w', '-D', $self->{data}, '-l', $self->{log},
		'-o', "-c config_file=$self->{config}/postgresql.conf", 'start');
	return;
}

sub stop
{
	my ($self, $mode) = @_;
	system_log('pg_ctl', '-w', '-D', $self->{data}, '-m', $mode // 'fast', 'stop');
	return;
}

# (exit code, stdout, stderr) of psql as the superuser
sub psql
{
	my ($self, $sql, %options) = @_;
	my ($out, $err);

	IPC::Run::run(
		[ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-h', $self->{socket}, '-p', $self->{port},
			'-U', $options{user} // 'postgres', '-d', $options{dbname} // 'postgres', '-f', '-' ],
		'<', \$sql, '>', \$out, '2>', \$err);
	my $rc = $? >> 8;
	chomp($out, $err);
	return ($rc, $out, $err);
}

sub safe_psql
{
	my ($self, $dbname, $sql) = @_;
	my ($rc, $out, $err) = $self->psql($sql, dbname => $dbname);

	croak "psql failed: $err" if $rc != 0;
	return $out;
}

sub stop_all
{
	for my $self (@clusters)
	{
		system_log('pg_ctl', '-w', '-D', $self->{data}, '-m', 'immediate', 'stop')
		  if -f "$self->{data}/postmaster.pid";
		ReplicaCtl::end_processes($self->{base});
	}
	return;
}

1;
