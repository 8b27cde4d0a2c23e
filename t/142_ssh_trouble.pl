# 142_ssh_trouble.pl
#	  Trouble with another host while a replica is made there: the worker is
#	  killed at each step, the host is down after each step, it is
#	  cancelled.  It converges, and nothing is left on either side.
#
# slow

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;
use SshHosts;
use Time::HiRes qw(sleep time);

plan skip_all => ssh_missing() if ssh_missing();

my $primary = ssh_primary('main');
plan skip_all => 'needs a test build' unless test_build($primary);
my $host = ssh_host($primary, 'h1');
my @steps = qw(preflight slot copy configure start catch_up);

sub sql { return $primary->safe_psql('postgres', $_[0]); }

# Sets a fault, again and again, as the server may be restarting because of the one before.
sub fault
{
	my ($fault) = @_;

	for my $statement ("ALTER SYSTEM SET replica_ctl.test_fault = '$fault'", 'SELECT pg_reload_conf()')
	{
		wait_until(sub { eval { ($primary->psql('postgres', $statement))[0] == 0 } }, $statement);
	}
	wait_for($primary, "SELECT current_setting('replica_ctl.test_fault') = '$fault'");
	return;
}

sub create
{
	my ($options) = @_;
	return sql("SELECT replica_create('r', 'h1', '" . ($options // '{}') . "')");
}

sub message { return sql("SELECT sqlstate || ' ' || message || ' ' || coalesce(detail, '') || ' ' || coalesce(hint, '') FROM replica_operations WHERE operation = $_[0]"); }

sub stalled
{
	my ($operation, $step) = @_;

	wait_for($primary, "SELECT state = 'running' AND step = '$step' FROM replica_operations WHERE operation = $operation");
	wait_until(sub { slurp_file($primary->logfile) =~ /injecting fault \w+\.$step\.\w+=stall/ }, "the stall at $step");
	truncate $primary->logfile, 0;
	return;
}

sub gone
{
	my ($name) = @_;
	my $operation = sql(q{SELECT replica_drop('r', force => true)});

	wait_operation($primary, $operation) eq 'succeeded' or diag('drop: ' . message($operation));
	nothing_left($name);
	return;
}

sub nothing_left
{
	my ($name) = @_;
	my @left = (orphans($primary), $host->left, glob $primary->data_dir . '/base/pgsql_tmp/*');

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(!@left, "nothing is left: $name") or diag(join "\n", @left);
	return;
}

sub works
{
	my ($operation, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(wait_operation($primary, $operation, 90), 'succeeded', $name) or diag(message($operation));
	wait_for($primary, q{SELECT count(*) = 1 FROM pg_stat_replication WHERE application_name = 'replica_ctl_r' AND state = 'streaming'});
	return;
}

$host->server;

#
# The worker is killed.  (The server restarts all its processes then.)
#
for my $step (@steps)
{
	my $when = $step eq 'copy' ? 'after' : 'before';
	fault("create.$step.$when=crash*1");
	works(create(), "worker killed $when $step");
	fault('');
	gone("worker killed $when $step");
}

#
# The host is down for a while after each step, with all its connections
#
for my $step (@steps)
{
	fault("create.$step.after=stall*1");
	my $operation = create();
	stalled($operation, $step);
	$host->stop(connections => 1);
	fault('');
	# the worker is rid of its stall
	sleep 1 if $step eq 'preflight';
	my $worker = worker_pid($primary, 'replica_ctl op');
	restart_pid($primary, $worker) if $worker;
	sleep 1;
	$host->start;
	works($operation, "host down after $step");
	gone("host down after $step");
}

#
# A cancel, with nothing, a copy and a server there (t/044 has every step)
#
for my $step ('slot', 'copy', 'start')
{
	truncate $primary->logfile, 0;
	fault("create.$step.after=stall");
	my $operation = create();
	stalled($operation, $step);
	sql("SELECT replica_cancel($operation)");
	is(wait_operation($primary, $operation), 'cancelled', "cancelled after $step");
	nothing_left("cancelled after $step");
}
fault('');

done_testing();
