# Clients.pm
#	  Clients that write while a benchmark does something to their server:
#	  Perl around writer.c.
#
#	  my $clients = Clients->start($server, [ $server->port, $port ], 'aaaa');
#	  ...
#	  $clients->stop;
#	  my $seconds = $clients->gap;
#
#	  They are given all ports, and go where writes are taken.
package Clients;

use strict;
use warnings;
use Bench;
use Carp;
use Cwd;
use File::Basename;
use POSIX ();
use Time::HiRes qw(sleep time);

my $started = 0;

sub program
{
	my $program = Bench::Server->scratch('writer');
	my $source = dirname(Cwd::abs_path(__FILE__)) . '/writer.c';

	return $program if -x $program;
	chomp(my $include = `pg_config --includedir`);
	run('cc', '-O2', "-I$include", '-I/usr/include/postgresql', '-o', $program, $source, '-lpq');
	return $program;
}

# One client for each letter of modes (see writer.c).
sub start
{
	my ($class, $server, $ports, $modes) = @_;
	my $program = program();
	my $self = bless { log => $server->scratch('acked' . ++$started) }, $class;
	my $conninfo = sprintf 'host=%s port=%s dbname=postgres user=bench connect_timeout=2 target_session_attrs=read-write',
	  join(',', map { $server->host } @$ports), join(',', @$ports);

	$self->{pid} = fork // croak "fork: $!";
	unless ($self->{pid})
	{
		open STDOUT, '>', '/dev/null';
		open STDERR, '>', '/dev/null';
		exec $program, $conninfo, $modes, 600, $self->{log} or POSIX::_exit(127);
	}
	return $self;
}

# Waits until all of them have written for that long.
sub warm_up
{
	my ($self, $seconds) = @_;

	wait_until(sub { scalar(grep { -s } glob "$self->{log}.*") }, 'the first write');
	sleep $seconds;
	return;
}

sub stop
{
	my ($self) = @_;
	my $end = time + 10;

	return unless $self->{pid};
	kill 'TERM', $self->{pid};
	while (waitpid($self->{pid}, POSIX::WNOHANG()) == 0)
	{
		kill 'KILL', -$self->{pid} if time > $end;
		sleep 0.01;
	}
	delete $self->{pid};
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local $?;
	$self->stop;
	return;
}

# Acknowledged rows by time: [client, seq, began, acknowledged, port], in µs.
sub acked
{
	my ($self) = @_;
	my @rows;

	return @{ $self->{acked} } if $self->{acked};
	for my $file (glob "$self->{log}.*")
	{
		open my $in, '<', $file or croak "$file: $!";
		while (<$in>)
		{
			my @row = split;
			push @rows, \@row if @row >= 5 && /\n$/;
		}
	}
	@rows = sort { $a->[3] <=> $b->[3] } @rows;
	$self->{acked} = \@rows unless $self->{pid};
	return @rows;
}

# The longest time between two acknowledgements, over all clients.
sub gap
{
	my ($self) = @_;
	my @rows = $self->acked;
	my $longest = 0;

	for my $i (1 .. $#rows)
	{
		my $gap = $rows[$i][3] - $rows[ $i - 1 ][3];
		$longest = $gap if $gap > $longest;
	}
	return $longest / 1e6;
}

# How many acknowledged rows of table acked a server lacks.
sub lost
{
	my ($self, $server) = @_;
	my %held = map { $_ => 1 } split /\n/, $server->sql(q{SELECT client || '.' || seq FROM acked});

	return scalar grep { !$held{"$_->[0].$_->[1]"} } $self->acked;
}

1;
