# Making a replica of a small idle primary: replica_create against the same by
# hand (pg_basebackup -c fast, pg_ctl start, wait for streaming), in turns.
#
# Goals: at most 1.3 times the time by hand; from COMMIT to the first step
# less than 50 ms; from the end of the copy to streaming less than 1 s.

use strict;
use warnings;
use Bench;

my $rounds = $ENV{RCTL_BENCH_ROUNDS} || 10;
my $server = Bench::Server->new('primary');
my (@by_hand, @by_call, @to_first_step, @after_copy);

$server->sql('CREATE TABLE t AS SELECT g AS id, md5(g::text) AS text FROM generate_series(1, 100000) g');

for my $round (0 .. $rounds)
{
	my ($hand, $call);

	# each goes first as often as the other
	$hand = timed { by_hand($round) } if $round % 2 == 0;
	$call = timed { by_call($round) };
	$hand = timed { by_hand($round) } if $round % 2 == 1;
	my ($first, $after) = split /\|/, $server->sql(qq{
		SELECT extract(epoch FROM min(s.started_at) - o.requested_at),
			extract(epoch FROM o.finished_at - max(s.ended_at) FILTER (WHERE s.step = 'copy'))
		FROM replica_ctl.operation o JOIN replica_ctl.operation_step s USING (operation_id)
		WHERE o.replica = 'r$round' AND o.kind = 'create' GROUP BY o.operation_id});
	$server->sql("SELECT replica_drop('r$round')");
	$server->sql("SELECT replica_wait('r$round')");
	remove_by_hand($round);

	# the first round warms the caches
	next if $round == 0;
	push @by_hand, $hand;
	push @by_call, $call;
	push @to_first_step, $first;
	push @after_copy, $after;
}

my $ratio = median(@by_call) / median(@by_hand);
print "### Creating a replica of a small idle primary ($rounds rounds)\n\n";
table(
	[ 'what', 'median', 'worst', 'goal' ],
	[ 'by hand: slot, pg_basebackup, pg_ctl start, wait', seconds(median(@by_hand)), seconds(percentile(100, @by_hand)), '' ],
	[ 'replica_create, replica_wait', seconds(median(@by_call)), seconds(percentile(100, @by_call)), '' ],
	[ 'ratio', sprintf('%.2f', $ratio), '', 'at most 1.3' ],
	[ 'from the request to the first step', ms(median(@to_first_step)), ms(percentile(100, @to_first_step)), 'under 50 ms' ],
	[ 'from the end of the copy to streaming', ms(median(@after_copy)), ms(percentile(100, @after_copy)), 'under 1 s' ]);

sub by_hand
{
	my ($round) = @_;
	my $data = $server->scratch("hand$round");
	my $port = $server->free_port;

	run('pg_basebackup', '-h', $server->host, '-p', $server->port, '-U', 'bench', '-D', $data,
		'-c', 'fast', '-X', 'stream', '-R', '-C', '-S', "hand$round");
	open my $conf, '>>', "$data/postgresql.conf" or die "postgresql.conf: $!\n";
	print $conf "port = $port\n";
	close $conf;
	run('pg_ctl', '-D', $data, '-l', "$data.log", '-w', 'start');
	Bench::Server->adopt($data);
	wait_until(
		sub { $server->sql("SELECT count(*) FROM pg_stat_replication r JOIN pg_replication_slots s
			ON s.active_pid = r.pid WHERE s.slot_name = 'hand$round' AND r.state = 'streaming'") eq '1' },
		"streaming of hand$round");
	return;
}

sub remove_by_hand
{
	my ($round) = @_;
	my $data = $server->scratch("hand$round");

	run('pg_ctl', '-D', $data, '-m', 'fast', '-w', 'stop');
	$server->sql("SELECT pg_drop_replication_slot('hand$round')");
	run('rm', '-rf', $data);
	return;
}

sub by_call
{
	my ($round) = @_;

	$server->sql("SELECT replica_create('r$round')");
	$server->sql("SELECT replica_wait('r$round')");
	return;
}
