# Every step of the mock provider's plans, and every object of an undo, before
# and after its work, is interrupted in every way: kill -9 of the worker,
# kill -9 of the postmaster, fast and immediate shutdown, cancel.  Each
# operation ends as it should, and each file belongs to a replica.

use strict;
use warnings;
use JSON::PP;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = new_primary(
	'kill',
	conf => join("\n", 'replica_ctl.max_operations = 32', 'max_worker_processes = 50'));
mock_server($node);

sub sql { return $node->safe_psql('postgres', $_[0]) }

my %steps;
for my $row (split /\n/, sql("SELECT kind, step FROM replica_ctl.steps() WHERE provider = 'mock' ORDER BY 1, step_number"))
{
	my ($kind, $step) = split /\|/, $row;
	push @{ $steps{$kind} }, $step;
}
my @places;
for my $kind (sort keys %steps)
{
	push @places, map { ("$kind.$_.before", "$kind.$_.after") } @{ $steps{$kind} };
}
push @places, map { ("undo.$_.before", "undo.$_.after") } qw(process data slot);
diag(scalar(@places) . ' places: ' . join(' ', @places));

my $run = 0;

# Makes the replicas that the places need, each with its fault; returns the
# names and the calls that get there, by place.
sub prepare
{
	my ($action, @which) = @_;
	my (%name, %call, @first);

	for my $place (@which)
	{
		my ($kind) = $place =~ /^(\w+)/;
		my $name = "$place " . ++$run;
		my $fault = "$place=$action" . ($kind eq 'undo' ? ';create.start.after=53100' : '');
		my $options = "'$name', 'mock', '" . encode_json({ fault => $fault }) . "'";

		$name{$place} = $name;
		$call{$place} = $kind eq 'create' || $kind eq 'undo' ? "replica_create($options)"
		  : $kind eq 'attach' ? "replica_attach($options)" : "replica_$kind('$name')";
		push @first, "SELECT replica_create($options) AS op \\gset\nSELECT replica_operation_wait(:op);"
		  if $call{$place} !~ /mock/;
	}
	sql(join "\n", @first) if @first;
	return (\%name, \%call);
}

# What must be true in the end, of operations by place: state and files
sub check
{
	my ($how, $op) = @_;
	my $ops = join ', ', values %$op;

	wait_for($node, "SELECT count(*) = 0 FROM replica_operations WHERE operation IN ($ops) AND state IN ('queued', 'running')", 60);
	my %got = map { my @row = split /\|/, $_, -1; $row[0] => \@row } split /\n/,
	  sql("SELECT operation_id, o.state, replica_id, coalesce(o.sqlstate, ''), coalesce(r.state, '')
		FROM replica_ctl.operation o LEFT JOIN replica_ctl.replica r USING (replica_id) WHERE operation_id IN ($ops)");
	my @files = split / /, mock_files($node);

	for my $place (sort keys %$op)
	{
		my ($kind, $step) = $place =~ /^(\w+)\.(\w+)/;
		my (undef, $state, $id, $sqlstate, $replica) = @{ $got{ $op->{$place} } };
		my @all = ('data process slot', 'streaming');
		my @expected = $kind =~ /^(?:create|repair)$/ ? ('succeeded', @all)
		  : $kind eq 'attach' ? ('succeeded', '', 'streaming')
		  : $kind eq 'detach' ? ('succeeded', 'data process slot', '')
		  : $kind eq 'undo' ? ('failed', '', 'failed')
		  : ('succeeded', '', '');

		@expected = ('cancelled', $kind =~ /^(?:create|attach)$/ ? ('', '') : @all)
		  if $how eq 'cancel' && $kind ne 'undo' && $place !~ /^drop\.(?!look)/;
		my $left = join ' ', map { /^\Q$id\E\.(.*)/ ? $1 : () } @files;
		is_deeply([ $state, $left, $replica ], \@expected, "$how, $place: " . join(', ', map { "'$_'" } @expected));
		is($sqlstate, '53100', "$how, $place: the first error") if $kind eq 'undo';

		# detached files are nobody's; tidy up for the next
		unlink glob $node->basedir . "/mock/$id.*" if $kind eq 'detach' && $state eq 'succeeded';
	}
	return;
}

sub log_position { return -s $node->logfile }

sub wait_injected
{
	my ($from, $times) = @_;
	wait_until(
		sub { my @found = slurp_file($node->logfile, $from) =~ /LOG:  injecting fault \S+=(?!53100)/g; @found >= $times },
		"$times injected faults", 60);
	return;
}

sub tidy_ok
{
	my ($how) = @_;
	is(sql("SELECT count(*) FROM replica_operations WHERE state NOT IN ('succeeded', 'failed', 'cancelled')"), '0', "$how: no operation is stuck");
	is(sql('SELECT count(*) FROM replica_ctl.cleanup'), '0', "$how: no record is left");
	my %alive = map { $_ => 1 } split /\n/, sql('SELECT replica_id FROM replica_ctl.replica');
	is(join(' ', grep { /^(\d+)\./ && !$alive{$1} } split / /, mock_files($node)), '', "$how: no file is without a replica");
	return;
}

# All places at once: each operation stalls at its own, then something happens
# to all of them.
sub all_at_once
{
	my ($how, $action) = @_;
	my $begin = time;
	my ($name, $call) = prepare('stall*1', @places);
	my $from = log_position();
	my %op;

	@op{@places} = split /\n/, sql(join '', map { "SELECT $call->{$_};\n" } @places);
	wait_injected($from, scalar @places);
	$action->(\%op);
	check($how, \%op);
	tidy_ok($how);
	diag(sprintf('%s: %d places in %.1f s', $how, scalar @places, time - $begin));
	return;
}

# --------------------------------------------------------------------------
note 'kill -9 of the worker: the server restarts all of its processes';
# --------------------------------------------------------------------------
{
	my $begin = time;
	for my $place (@places)
	{
		my ($name, $call) = prepare('crash*1', $place);
		my $from = log_position();
		$node->psql('postgres', "SELECT $call->{$place}");	# it may be among those that are ended
		wait_until(sub { slurp_file($node->logfile, $from) =~ /was terminated by signal 9/ }, "the kill at $place");
		wait_for($node, 'SELECT true');
		check('worker killed',
			{ $place => sql("SELECT max(operation) FROM replica_operations WHERE replica = '$name->{$place}'") });
	}
	tidy_ok('worker killed');
	diag(sprintf('worker killed: %d places in %.1f s', scalar @places, time - $begin));
}

all_at_once('postmaster killed', sub { crash($node); $node->start });
all_at_once('immediate shutdown', sub { $node->stop('immediate'); $node->start });
all_at_once('fast shutdown', sub { $node->stop('fast'); $node->start });
all_at_once('worker terminated', sub { sql('SELECT pg_terminate_backend(pid) FROM replica_ctl.board()') });
all_at_once(
	'cancel',
	sub {
		my ($op) = @_;
		my %accepted;
		@accepted{@places} = split /\n/, sql(join '', map { "SELECT replica_cancel($op->{$_});\n" } @places);
		is(join(' ', grep { $accepted{$_} ne 't' } @places),
			join(' ', grep { /^drop\.(?!look)/ } @places), 'cancel is accepted everywhere but past the point of no return');
		# what cannot be cancelled goes on; an undo too
		sql('SELECT pg_terminate_backend(pid) FROM replica_ctl.board() JOIN replica_ctl.operation ON operation = operation_id WHERE no_return OR undoing');
	});

# --------------------------------------------------------------------------
note 'the launcher';
# --------------------------------------------------------------------------
{
	my $old = worker_pid($node, 'replica_ctl launcher');
	my $from = log_position();
	sql(q{SELECT replica_create('without launcher', 'mock', '{"fault": "create.copy.after=stall*1"}')});
	wait_injected($from, 1);
	sql("SELECT pg_terminate_backend($old)");
	wait_for($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $old");
	sql('SELECT pg_terminate_backend(pid) FROM replica_ctl.board()');
	my $op = sql(q{SELECT replica_create('queued meanwhile', 'mock')});
	is(sql(q{SELECT replica_wait('queued meanwhile', '20s')}), 'succeeded', 'a new launcher takes up what was queued');
	is(sql(q{SELECT replica_wait('without launcher', '20s')}), 'succeeded', 'and what was interrupted');
	isnt(worker_pid($node, 'replica_ctl launcher'), $old, 'it is a new one');
	tidy_ok('launcher');
}

$node->stop;
done_testing();
