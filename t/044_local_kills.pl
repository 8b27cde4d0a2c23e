# 044_local_kills.pl
#	  Every step of a local create, met by a kill -9 of the worker, a kill -9 of
#	  the whole server, and a cancel: it always converges, and no slot,
#	  directory or process is left.
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

my @create = qw(preflight slot copy configure start catch_up);

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
# The worker is killed: before and after each step's work.
#
for my $step (@create)
{
	for my $when (qw(before after))
	{
		fault("create.$step.$when=crash*1");
		works(sql(q{SELECT replica_create('r')}), "create: worker killed $when $step");
		fault('');
		dropped();
		no_orphans_ok($primary, "no orphans: worker killed $when $step");
	}
}

# in the middle of the copy
{
	sql('CREATE TABLE big AS SELECT repeat(md5(i::text), 20) AS t FROM generate_series(1, 10000) i');
	my $operation = sql(q{SELECT replica_create('r', options => '{"max_rate": 8192}')});
	wait_for($primary, q{SELECT phase = 'copying' AND bytes_done > 0 FROM replica_operations ORDER BY operation DESC LIMIT 1});
	restart_pid($primary, worker_pid($primary, 'replica_ctl op'));
	works($operation, 'create: worker killed in the middle of the copy');
	dropped();
	no_orphans_ok($primary, 'no orphans: worker killed in the middle of the copy');
	sql('DROP TABLE big');
}

#
# The whole server is killed, after each step's work.
#
for my $step (@create)
{
	truncate $primary->logfile, 0;
	fault("create.$step.after=stall*1");
	my $operation = sql(q{SELECT replica_create('r')});
	stalled($operation, $step);
	crash($primary);
	$primary->start;
	works($operation, "create: server killed after $step");
	fault('');
	dropped();
	no_orphans_ok($primary, "no orphans: server killed after $step");
}

#
# A cancel, after each step's work.
#
for my $step (@create)
{
	truncate $primary->logfile, 0;
	fault("create.$step.after=stall");
	my $operation = sql(q{SELECT replica_create('r')});
	stalled($operation, $step);
	sql("SELECT replica_cancel($operation)");
	is(outcome($operation), 'cancelled', "create: cancelled after $step");
	no_orphans_ok($primary, "no orphans: cancelled after $step");
}

done_testing();
