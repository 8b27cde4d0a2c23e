# 148_ssh_cuts.pl
#	  Links to hosts in networks of their own are cut while their replicas are
#	  managed, and while one of them is about to take over: nothing is half
#	  done, and nobody is kept from writing.
#
# slow

use strict;
use warnings;
use lib 't';
use Networks;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;
use SshHosts;
use Time::HiRes qw(sleep time);

plan skip_all => ssh_missing() if ssh_missing();
plan skip_all => 'needs to make networks (root, or user namespaces)' unless $Networks::here;

my @networks = map { { ssh_network($_) } } 1, 2;
# the hosts reach each other through us
for my $number (1, 2)
{
	system_or_bail('nsenter', "--net=/proc/$networks[$number - 1]{network}/ns/net", 'ip', 'route', 'add', 'default', 'via', "10.9.$number.1");
}
if (open my $forward, '>', '/proc/sys/net/ipv4/ip_forward') { print $forward "1\n"; close $forward; }

my $primary = ssh_primary('main', initdb => ['--data-checksums'],
	conf => "listen_addresses = '*'\nwal_receiver_timeout = '10s'\nreplica_ctl.step_retries = 8",
	hba => "local all all trust\nlocal replication all trust\n"
	  . "host all all 10.9.0.0/16 scram-sha-256\nhost replication all 10.9.0.0/16 scram-sha-256\n");
plan skip_all => 'needs a test build' unless test_build($primary);
my ($h1, $h2) = map { ssh_host($primary, "h$_", %{ $networks[$_ - 1] }) } 1, 2;

$ENV{PGPASSWORD} = q{S3cr:t\\'};

sub sql { return $primary->safe_psql('postgres', $_[0]); }
sub link_is { system_or_bail('ip', 'link', 'set', "a$_[0]", $_[1]); return; }
sub message { return sql("SELECT concat_ws(' ', step, sqlstate, message, detail) FROM replica_operations WHERE operation = $_[0]"); }

sub set
{
	my ($name, $value) = @_;

	sql("ALTER SYSTEM SET $name = '$value'");
	sql('SELECT pg_reload_conf()');
	wait_for($primary, "SELECT current_setting('$name') = '$value'");
	return;
}

# Asks for the operation, whose worker waits two seconds before (or after) a
# step, and cuts the link meanwhile.
sub cut_at
{
	my ($call, $step, $number) = @_;

	set('replica_ctl.test_fault', "$step=block*1");
	truncate $primary->logfile, 0;
	my $operation = sql("SELECT $call");
	wait_until(sub { slurp_file($primary->logfile) =~ /injecting fault/ }, "step $step");
	link_is($number, 'down');
	set('replica_ctl.test_fault', '');
	return $operation;
}

# The same, until the step has begun; it succeeds.
sub short_cut_ok
{
	my ($call, $step) = @_;
	my $operation = cut_at($call, $step, 1);

	sleep 2.5;
	link_is(1, 'up');
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(wait_operation($primary, $operation, 120), 'succeeded', "link cut at $step") or diag(message($operation));
	return;
}

$_->server for $h1, $h2;
sql('CREATE TABLE t (i int)');
sql("SELECT replica_create('r', 'h1')");
is(sql(q{SELECT replica_wait('r', '60s')}), 'succeeded', 'a replica in another network');

#
# What manages replicas: it goes on when the link is back
#
{
	my ($port, $dir) = split /\|/, sql("SELECT facts->>'port', facts->>'data_directory' FROM replica_ctl.replica");
	sub stop_it
	{
		my ($pid) = slurp_file("$_[0]/postmaster.pid") =~ /^(\d+)/;

		kill 'QUIT', $pid;
		wait_until(sub { !kill 0, $pid }, 'the end of the replica');
		return;
	}

	stop_it($dir);
	short_cut_ok(q{replica_repair('r')}, 'repair.start.before');
	wait_for($primary, q{SELECT state = 'streaming' FROM replica_status});
	stop_it($dir);
	unlink "$dir/global/pg_control";
	short_cut_ok(q{replica_repair('r')}, 'repair.aside.after');
	is(sql(q{SELECT count(*) FROM replica_events WHERE kind = 'repair_clone'}), '1', 'with a new copy');
	sql(q{SELECT replica_detach('r')});
	is(sql(q{SELECT replica_wait('r', '60s')}), 'succeeded', 'detach');
	short_cut_ok(qq{replica_attach('r', 'h1', '{"port": $port}')}, 'attach.slot.before');
	short_cut_ok(q{replica_drop('r', force => true)}, 'drop.stop.after');
	# t/145 has other steps of a create
	short_cut_ok(q{replica_create('r', 'h1')}, 'create.start.before');
	short_cut_ok(q{replica_drop('r')}, 'drop.check.before');
	is(join("\n", orphans($primary), $h1->left), '', 'nothing is left');
}

#
# The ssh processes on this side are killed again and again while a replica is made
#
{
	my $operation = sql(q{SELECT replica_create('r', 'h1')});
	my $killed = 0;
	my $end = time + 4;

	while (time < $end)
	{
		my @ssh = grep { ReplicaCtl::command_of($_) =~ m{^/usr/bin/ssh } } ReplicaCtl::processes_of($primary->data_dir . '/base/pgsql_tmp');
		$killed += kill 'KILL', @ssh if @ssh;
		sleep 0.4;
	}
	cmp_ok($killed, '>', 1, "ssh was killed $killed times");
	is(wait_operation($primary, $operation, 120), 'succeeded', 'the replica is made') or diag(message($operation));
	is(sql(q{SELECT count(*) FROM replica_status}), '1', 'one');
	sql(q{SELECT replica_drop('r')});
	is(sql(q{SELECT replica_wait('r', '60s')}), 'succeeded', 'and dropped');
	is(join("\n", orphans($primary), $h1->left), '', 'nothing is left');
	is(join("\n", glob $primary->data_dir . '/base/pgsql_tmp/*'), '', 'nor of the connections');
}

#
# A switchover whose way to the new primary, or to a sibling, is cut
#
set('replica_ctl.step_retries', 1);
sql("SELECT replica_create('r$_', 'h$_')") for 1, 2;
is(sql("SELECT replica_wait('r$_', '60s')"), 'succeeded', "replica $_") for 1, 2;
my @slots = split /\n/, sql(q{SELECT slot_name FROM pg_replication_slots ORDER BY 1});
for my $step ('prepare.before', 'siblings.before')
{
	my $start = time;
	my $operation = cut_at(q{replica_switchover('r1')}, "switchover.$step", 1);
	my $writes = 0;

	# nobody is kept from writing, as there was no fence yet
	until (sql("SELECT state NOT IN ('queued', 'running') FROM replica_operations WHERE operation = $operation") eq 't')
	{
		sql('INSERT INTO t VALUES (1)');
		$writes++;
		die "it does not end: " . message($operation) if time - $start > 90;
		sleep 0.5;
	}
	my $took = time - $start;
	cmp_ok($took, '<', 90, "the way to the new primary is cut at $step: it ends ($took s)");
	my $state = sql("SELECT state FROM replica_operations WHERE operation = $operation");
	note("$state: " . message($operation));
	isnt($state, 'succeeded', 'without success');
	cmp_ok($writes, '>', 0, "$writes writes meanwhile");
	link_is(1, 'up');
	wait_for($primary, q{SELECT count(*) = 2 FROM pg_stat_replication WHERE state = 'streaming'});
	pass('both replicas follow this server');
	if ($state eq 'needs_attention')
	{
		like(sql("SELECT hint FROM replica_operations WHERE operation = $operation"), qr/\S/, 'what it could not undo is told, with a command');
	}
	wait_for($primary, q{SELECT count(*) = 0 FROM pg_stat_replication WHERE state <> 'streaming'});
}
{
	# the sibling cannot be told: it stays behind, and is repaired from the new primary
	my ($r1, $r2) = map {
		my ($address, $port) = split /\|/, sql("SELECT facts->>'address', facts->>'port' FROM replica_ctl.replica WHERE name = 'r$_'");
		{ name => "r$_", host => $address, port => $port, user => 'rep' }
	} 1, 2;
	my $operation = cut_at(q{replica_switchover('r1')}, 'switchover.siblings.before', 2);
	my $start = time;

	wait_ask($r1, 'SELECT NOT pg_is_in_recovery()', 90);
	wait_ask($r1, "SELECT state NOT IN ('queued', 'running') FROM replica_operations WHERE operation = $operation", 90);
	my $took = time - $start;
	cmp_ok($took, '<', 50, "a sibling that is out of reach does not hold it up ($took s)");
	is(ask($r1, "SELECT state FROM replica_operations WHERE operation = $operation"), 'succeeded', 'the way to a sibling is cut: a switchover does without it');
	like(ask($r1, q{SELECT message FROM replica_events WHERE kind = 'sibling_failed'}), qr/^Replica "r2" could not be told/, 'an event says so');
	is(ask($r1, 'INSERT INTO t VALUES (2) RETURNING i'), '2', 'the new primary accepts writes');
	link_is(2, 'up');
	$operation = ask($r1, q{SELECT replica_repair('r2')});
	eval { wait_ask($r1, "SELECT state NOT IN ('queued', 'running') FROM replica_operations WHERE operation = $operation", 150) };
	diag($@, ask($r1, "SELECT * FROM replica_operations WHERE operation = $operation"), ask($r2, 'SELECT * FROM pg_stat_wal_receiver'),
		slurp_file($h2->home . '/replicas/r2/log/replica_ctl.log')) if $@;
	is(ask($r1, "SELECT concat_ws(' ', state, message, detail) FROM replica_operations WHERE operation = $operation"), 'succeeded', 'it is repaired from the new primary');
	wait_ask($r2, 'SELECT max(i) = 2 FROM t');
	pass('and follows it');
}

done_testing();
