# Bench.pm
#	  What the benchmarks share: throw-away servers, timing, tables.
#
#	  use Bench;
#	  my $server = Bench::Server->new('primary', settings => { ... });
#	  my $seconds = timed { $server->sql('SELECT 1') };
#	  table([ 'what', 'median' ], [ 'by hand', ms(median(@by_hand)) ], ...);
#
#	  Servers run with fsync on, in TMPDIR, and end with the benchmark.
package Bench;

use strict;
use warnings;
use Carp;
use Exporter 'import';
use Time::HiRes qw(sleep time);

our @EXPORT = qw(timed median percentile ms seconds table wait_until run);

# Seconds that the block takes.
sub timed(&)
{
	my ($block) = @_;
	my $start = time;

	$block->();
	return time - $start;
}

sub percentile
{
	my ($percent, @values) = @_;

	croak 'nothing was measured' unless @values;
	@values = sort { $a <=> $b } @values;
	return $values[ int($percent / 100 * $#values + 0.5) ];
}

sub median { return percentile(50, @_) }

sub ms { return sprintf '%.0f ms', $_[0] * 1000 }

sub seconds { return sprintf '%.2f s', $_[0] }

# A Markdown table: the first row is the heading.
sub table
{
	my ($heading, @rows) = @_;

	print '| ', join(' | ', @$heading), " |\n";
	print '|', join('|', ('---') x @$heading), "|\n";
	print '| ', join(' | ', @$_), " |\n" for @rows;
	return;
}

sub wait_until
{
	my ($condition, $what, $timeout) = @_;
	my $end = time + ($timeout // 120);

	until ($condition->())
	{
		croak "waited in vain for $what" if time > $end;
		sleep 0.005;
	}
	return;
}

# Runs a program; dies with its output if it fails.
sub run
{
	my (@command) = @_;
	my $log = "$Bench::Server::dir/command.log";
	my $pid = fork // croak "fork: $!";

	if ($pid == 0)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>', $log;
		open STDERR, '>&', \*STDOUT;
		exec @command or die "$command[0]: $!\n";
	}
	waitpid $pid, 0;
	return if $? == 0;
	open my $in, '<', $log;
	croak "@command failed:\n", <$in>;
}

package Bench::Server;

use strict;
use warnings;
use Carp;
use File::Temp;
use IPC::Open2;

our $dir = File::Temp::tempdir('bench.XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $port = 21000 + $$ % 8000;
my @servers;

# new(name, settings => { GUC => value }, initdb => [ options ],
# data => directory): a running server with the
# extension created in "postgres", and replicas under its directory.
sub new
{
	my ($class, $name, %options) = @_;
	my $self = bless { name => $name, data => $options{data} // "$dir/$name", port => $port++, log => "$dir/$name.log" }, $class;
	my %settings = (
		listen_addresses => "''",
		unix_socket_directories => "'$dir'",
		port => $self->{port},
		max_wal_size => "'4GB'",
		shared_preload_libraries => "'replica_ctl'",
		'replica_ctl.local_directory' => "'$dir/$name.replicas'",
		%{ $options{settings} // {} });

	Bench::run('initdb', '-D', $self->{data}, '-U', 'bench', '-A', 'trust', '-N', '--encoding=UTF8', '--locale=C',
		@{ $options{initdb} // [] });
	open my $conf, '>>', "$self->{data}/postgresql.conf" or croak "postgresql.conf: $!";
	print $conf "$_ = $settings{$_}\n" for sort keys %settings;
	close $conf;
	Bench::run('pg_ctl', '-D', $self->{data}, '-l', $self->{log}, '-w', 'start');
	push @servers, $self->{data};
	$self->sql('CREATE EXTENSION replica_ctl') if $options{extension} // 1;
	return $self;
}

# Ends it as at a shutdown of the machine; start() goes on with it.
sub shut_down
{
	my ($self) = @_;

	if (my $psql = delete $self->{psql})
	{
		close delete $self->{to};
		waitpid $psql, 0;
	}
	Bench::run('pg_ctl', '-D', $self->{data}, '-m', 'fast', '-w', 'stop');
	return;
}

# start(options of postgres)
sub start
{
	my ($self, $options) = @_;

	Bench::run('pg_ctl', '-D', $self->{data}, '-l', $self->{log}, '-w', '-o', $options // '', 'start');
	return;
}

# A server that something else made, by its port.
sub at
{
	my ($class, $its_port) = @_;
	return bless { name => "port $its_port", port => $its_port }, $class;
}

sub host { return $dir }
sub port { return $_[0]{port} }
sub data_dir { return $_[0]{data} }
sub log { return $_[0]{log} }

# Ends it early.
sub stop
{
	my ($self) = @_;

	close $self->{to} if delete $self->{psql};
	Bench::run('pg_ctl', '-D', $self->{data}, '-m', 'immediate', '-w', 'stop');
	@servers = grep { $_ ne $self->{data} } @servers;
	return;
}

# A directory that goes with the benchmark, and a port.
sub scratch { return "$dir/$_[1]" }
sub free_port { return $port++ }

# To be stopped at the end: the data directory of a server made otherwise.
sub adopt
{
	my (undef, $data) = @_;
	push @servers, $data;
	return;
}

# The answer of a statement, through one psql that stays: no start-up time.
sub sql
{
	my ($self, $sql) = @_;
	my $end = 'end of answer';
	my $answer = '';

	unless ($self->{psql})
	{
		local $ENV{PGOPTIONS} = '-c client_min_messages=error';
		$self->{psql} = open2($self->{from}, $self->{to}, 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1',
			'-h', $dir, '-p', $self->{port}, '-U', 'bench', '-d', 'postgres');
	}
	print { $self->{to} } "$sql\n;\n\\echo $end\n";
	$self->{to}->flush;
	while (my $line = readline $self->{from})
	{
		if ($line eq "$end\n")
		{
			chomp $answer;
			return $answer;
		}
		$answer .= $line;
	}
	croak "psql ended after: $sql";
}

sub stop_all
{
	for my $data (@servers, glob "$dir/*.replicas/*")
	{
		Bench::run('pg_ctl', '-D', $data, '-m', 'immediate', '-w', 'stop') if -f "$data/postmaster.pid";
	}
	@servers = ();
	return;
}

END
{
	my $status = $?;
	eval { stop_all() };
	warn $@ if $@;
	$? = $status;
}

1;
