# Writers.pm
#	  Clients that write during a promotion, and the look-up of what was
#	  acknowledged to them: Perl around bench/writer.c.
#
#	  my $writers = Writers->start($primary, [$primary->port, $replica_port], 'ampts');
#	  $writers->wait_rows(10);             # each has 10 rows acknowledged
#	  ...
#	  $writers->wait_rows(1, $replica_port);
#	  $writers->stop;
#	  my @lost = $writers->lost(sub { $node->safe_psql('postgres', $_[0]) });
#	  my ($gap_ms) = $writers->gap;
package Writers;

use strict;
use warnings;
use Carp;
use Cwd;
use File::Basename;
use POSIX ();
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

my $program;

# Compiles the client once a test file.
sub program
{
	return $program if $program;
	my $source = dirname(Cwd::abs_path(__FILE__)) . '/../bench/writer.c';
	my $config = $ENV{PG_CONFIG} || 'pg_config';
	my $dir = PostgreSQL::Test::Utils::tempdir('writer');

	chomp(my $include = `"$config" --includedir`);
	system('cc', '-O2', "-I$include", '-I/usr/include/postgresql', '-o', "$dir/writer", $source, '-lpq') == 0
	  or croak 'could not compile bench/writer.c';
	return $program = "$dir/writer";
}

# The table that they write; on the first primary, before start.
sub prepare
{
	my ($node) = @_;
	$node->safe_psql('postgres',
		'CREATE TABLE IF NOT EXISTS acked (client int, seq bigint); TRUNCATE acked');
	return;
}

# One client for each letter of modes (see bench/writer.c), to the hosts by
# port, which share the socket directory of node.
sub start
{
	my ($class, $node, $ports, $modes, $seconds) = @_;
	my $self = bless {
		modes => $modes,
		log => PostgreSQL::Test::Utils::tempdir('acked') . '/log',
	}, $class;
	my $conninfo = sprintf "host=%s port=%s dbname=postgres user=%s connect_timeout=2 target_session_attrs=read-write",
	  join(',', map { $node->host } @$ports), join(',', @$ports), scalar getpwuid($<);

	# not in the child: it must not end as a test does, which stops the servers
	my $program = program();

	$self->{pid} = fork() // croak "fork: $!";
	unless ($self->{pid})
	{
		local $SIG{TERM} = 'DEFAULT';
		open STDOUT, '>', '/dev/null';
		open STDERR, '>', '/dev/null';
		exec { $program } $program, $conninfo, $modes, $seconds // 300, $self->{log} or POSIX::_exit(127);
	}
	return $self;
}

# Waits until each client has at least so many rows acknowledged (by the
# server of a port: one client at least).
sub wait_rows
{
	my ($self, $rows, $port, $timeout) = @_;
	my $end = time + ($timeout //= 60);

	while (1)
	{
		my %count;

		$count{ defined $port ? 'any' : $_->[0] }++ for grep { !defined $port || $_->[4] == $port } $self->acked;
		my @enough = grep { $_ >= $rows } values %count;
		return if @enough >= (defined $port ? 1 : length $self->{modes});
		croak "waited $timeout s in vain for clients that write" if time > $end;
		sleep 0.05;
	}
}

sub stop
{
	my ($self) = @_;
	my $end = time + 10;

	return unless $self->{pid};
	kill 'TERM', $self->{pid};
	while (waitpid($self->{pid}, 1) == 0)
	{
		kill 'KILL', -$self->{pid} if time > $end;
		sleep 0.02;
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

# All acknowledged rows: [client, seq, began, acknowledged, port], by the time
# of the acknowledgement (µs).
sub acked
{
	my ($self) = @_;
	my @rows;

	for my $file (glob "$self->{log}.*")
	{
		open my $in, '<', $file or croak "$file: $!";
		while (<$in>)
		{
			my @row = split;
			push @rows, \@row if @row >= 5 && /\n$/;
		}
	}
	return sort { $a->[3] <=> $b->[3] } @rows;
}

# Acknowledged rows that a server does not hold, "client.seq".  query runs SQL
# there.  skip: letters of modes that may lose rows.
sub lost
{
	my ($self, $query, $skip) = @_;
	my %held = map { $_ => 1 } split /\n/, $query->(q{SELECT client || '.' || seq FROM acked});
	my @modes = split //, $self->{modes};

	return grep { !$held{$_} } map { "$_->[0].$_->[1]" }
	  grep { index($skip // '', $modes[ $_->[0] ]) < 0 } $self->acked;
}

# The longest time in ms between two acknowledgements, over all clients; and
# between which rows.
sub gap
{
	my ($self) = @_;
	my @rows = $self->acked;
	my ($longest, @between) = (0);

	for my $i (1 .. $#rows)
	{
		my $gap = ($rows[$i][3] - $rows[ $i - 1 ][3]) / 1000;
		($longest, @between) = ($gap, $rows[ $i - 1 ], $rows[$i]) if $gap > $longest;
	}
	return ($longest, @between);
}

# Whether a commit that began on one of two servers after the other had
# acknowledged one was acknowledged too: two primaries at the same time.
sub both_wrote
{
	my ($self, $old, $new) = @_;
	my @rows = $self->acked;
	my ($first) = grep { $_->[4] == $new } @rows;

	return 0 unless $first;
	return scalar grep { $_->[4] == $old && $_->[2] > $first->[3] } @rows;
}

1;
