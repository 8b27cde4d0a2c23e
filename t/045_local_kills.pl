# 045_local_kills.pl
#	  Every step of a local drop, repair and undo, met by a kill -9 of the
#	  worker: it always converges, and no slot, directory or process is left.
#
# slow

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;

my $primary = new_primary('main');
my $dir = replica_dir($primary);

plan skip_all => 'needs a test build' unless test_build($primary);

my @drop = qw(check unsync stop directory slot);

sub sql { return $primary->safe_psql('postgres', $_[0]); }

sub fault
{
	my ($fault) = @_;

	# again and again, as the server may be restarting because of the one before
	for my $statement ("ALTER SYSTEM SET replica_ctl.test_fault = '$fault'", 'SELECT pg_reload_conf()')
	{
		wait_until(sub { ($primary->psql('postgres', $statement))[0] == 0 }, $statement);
	}
	wait_for($primary, "SELECT current_setting('replica_ctl.test_fault') = '$fault'");
	return;
}

# The operation's final state, whatever restarts meanwhile.
sub outcome
{
	my ($operation) = @_;
	return wait_operation($primary, $operation, 60);
}

# Waits until the running operation stands at its fault.
sub stalled
{
	my ($operation, $step) = @_;

	wait_for($primary, "SELECT state = 'running' AND step = '$step' FROM replica_operations WHERE operation = $operation");
	wait_until(sub { slurp_file($primary->logfile) =~ /injecting fault \w+\.$step\.\w+=stall/ }, "the stall at $step");
	truncate $primary->logfile, 0;
	return;
}

sub dropped
{
	my $operation = sql(q{SELECT replica_drop('r')});

	outcome($operation) eq 'succeeded' or diag('drop: ' . sql("SELECT state, message, detail FROM replica_operations WHERE operation = $operation"));
	return;
}

# A create that went through all kinds of trouble must have made a replica.
sub works
{
	my ($operation, $name) = @_;

	is(outcome($operation), 'succeeded', $name)
	  or diag(sql("SELECT message, detail, hint FROM replica_operations WHERE operation = $operation"));
	wait_for($primary, q{SELECT count(*) = 1 FROM pg_stat_replication WHERE application_name = 'replica_ctl_r' AND state = 'streaming'});
	return;
}

#
# A cancel whose undo is interrupted.
#
for my $type (qw(server directory slot))
{
	for my $when (qw(before after))
	{
		fault('create.catch_up.after=stall');
		truncate $primary->logfile, 0;
		my $operation = sql(q{SELECT replica_create('r')});
		stalled($operation, 'catch_up');
		fault("undo.$type.$when=crash*1");
		# the crash may come before the answer
		$primary->psql('postgres', "SELECT replica_cancel($operation)");
		wait_until(sub { slurp_file($primary->logfile) =~ /injecting fault undo/ }, 'the fault in the undo');
		wait_for($primary, 'SELECT true');
		fault('');
		is(outcome($operation), 'cancelled', "create: undo killed $when the removal of the $type");
		no_orphans_ok($primary, "no orphans: undo killed $when the removal of the $type");
	}
}

#
# Drop: the worker is killed; the server is killed.
#
for my $step (@drop)
{
	for my $when (qw(before after))
	{
		fault('');
		works(sql(q{SELECT replica_create('r')}), 'a replica');
		fault("drop.$step.$when=crash*1");
		is(outcome(sql(q{SELECT replica_drop('r')})), 'succeeded', "drop: worker killed $when $step");
		no_orphans_ok($primary, "no orphans: drop, worker killed $when $step");
	}
}

#
# Repair by a new copy: the worker is killed.
#
fault('');
my $operation = sql(q{SELECT replica_create('r')});
works($operation, 'a replica to be repaired');
for my $step (qw(examine slot start probe aside copy configure restart catch_up discard))
{
	fault('');
	system_log('pg_ctl', '-D', "$dir/r", '-w', '-s', '-m', 'immediate', 'stop');
	unlink "$dir/r/global/pg_control";
	fault("repair.$step.after=crash*1");
	works(sql(q{SELECT replica_repair('r')}), "repair: worker killed after $step");
	is(join(' ', glob "$dir/*"), "$dir/r", 'one directory');
}
fault('');
dropped();
no_orphans_ok($primary, 'no orphans after the repairs');

done_testing();
