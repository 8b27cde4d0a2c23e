# 154_copy_kills.pl
#	  A copy, and a resync, met at random moments by a cancel, by kill -9 of the
#	  program that copies, of the worker, of the session of the backup, of the
#	  whole server: it always converges, and nothing is left.
#
#	  RCTL_TEST_ROUNDS=100 makes as many rounds, RCTL_TEST_SEED repeats them.
#
# slow

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use ReplicaCtl;

my $rounds = $ENV{RCTL_TEST_ROUNDS} || 3;
my $seed = $ENV{RCTL_TEST_SEED} || int(time);
my $primary = new_primary('main', initdb => ['--data-checksums'], conf => "max_wal_size = 64MB");
my $dir = replica_dir($primary);
chomp(my $bindir = `pg_config --bindir`);

srand($seed);
note "seed $seed";

sub sql { return $primary->safe_psql('postgres', $_[0]) }

# Again until the server takes it.
sub insist
{
	my ($sql) = @_;
	my $result;

	wait_until(sub { my ($rc, $out) = eval { $primary->psql('postgres', $sql) }; return !$@ && defined $rc && $rc == 0 && defined($result = $out) }, $sql, 60);
	return $result;
}

sub copier
{
	my ($pid) = grep { -r "/proc/$_/cmdline" && (eval { slurp_file("/proc/$_/cmdline") } // '') =~ m{replica_ctl_copy\0}s } replica_processes($primary);
	return $pid;
}

my %disturb = (
	cancel => sub { insist("SELECT replica_cancel($_[0])") },
	copier => sub { my $pid = copier(); kill 9, $pid if $pid; return defined $pid },
	worker => sub { my $pid = worker_pid($primary, 'replica_ctl operation'); kill 9, $pid if $pid; return $pid ne '' },
	session => sub { sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_backup_start%' AND pid <> pg_backend_pid()}) },
	server => sub { crash($primary); $primary->start });
my @ways = sort keys %disturb;

# Calls, waits a while, disturbs; the final state.
sub disturbed
{
	my ($call, $way) = @_;
	my $operation = insist("SELECT $call");
	my $wait = 0.05 + rand(1.5);

	sleep $wait;
	my $hit = $disturb{$way}->($operation);
	insist('SELECT 1');
	my $state = wait_operation($primary, $operation, 120);
	note sprintf('%s: %s after %.2f s%s: %s%s', $call, $way, $wait, $hit ? '' : ' (missed)', $state,
		$state eq 'failed' ? ', ' . insist("SELECT message FROM replica_operations WHERE operation = $operation") : '');
	return $state;
}

my $sum = 'SELECT count(*), sum(hashtext(t::text)) FROM t';

sub same_ok
{
	my ($name) = @_;
	my $lsn = sql('SELECT pg_current_wal_flush_lsn()');
	my $replica = server_of($primary, 'r');

	wait_ask($replica, "SELECT pg_last_wal_replay_lsn() >= '$lsn'");
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(ask($replica, $sum), ask(server_of($primary, 'main'), $sum), $name);
}

sql('CREATE TABLE t AS SELECT g AS id, md5(g::text) AS text FROM generate_series(1, 300000) g');

for my $round (1 .. $rounds)
{
	my $way = $ways[ $round % @ways ];
	my $state = disturbed(q{replica_create('r', options => '{"max_rate": 32768}')}, $way);

	if ($state ne 'succeeded')
	{
		like($state, qr/^(failed|cancelled)$/, "round $round: create, $way: it ends");
		no_orphans_ok($primary, 'and nothing is left');
		my $operation = insist(q{SELECT replica_create('r', options => '{"max_rate": 65536}')});
		is(wait_operation($primary, $operation, 120), 'succeeded', 'it can be done again');
	}
	same_ok("round $round: the replica has the same data");

	# it is lost, and brought back
	system_or_bail("$bindir/pg_ctl", '-D', "$dir/r", '-m', 'immediate', '-w', '-s', 'stop');
	insist(q{SELECT pg_drop_replication_slot('replica_ctl_r')});
	insist("UPDATE t SET text = text || 'x' WHERE id % 50 = $round % 50");
	insist('SELECT pg_switch_wal(); CREATE TABLE gap (); DROP TABLE gap; CHECKPOINT') for 1 .. 6;
	$way = $ways[ int(rand(@ways)) ];
	$state = disturbed(q{replica_repair('r')}, $way);
	if ($state ne 'succeeded')
	{
		like($state, qr/^(failed|cancelled)$/, "round $round: repair, $way: it ends");
		my $operation = insist(q{SELECT replica_repair('r')});
		is(wait_operation($primary, $operation, 120), 'succeeded', 'it can be done again');
	}
	same_ok("round $round: the replica has the same data again");
	my $operation = insist(q{SELECT replica_drop('r')});
	is(wait_operation($primary, $operation), 'succeeded', "round $round: it is dropped");
	no_orphans_ok($primary, "round $round: nothing is left");
}

done_testing();
