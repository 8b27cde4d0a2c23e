# Many operations, many rounds, and nothing to do: what the launcher costs.

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $operations = 500;
my $slots = 8;
my $duration_ms = 200;
my $rounds = 100_000;

my $node = new_primary(
	'scale',
	conf => join("\n", "replica_ctl.max_operations = $slots", 'autovacuum = off', 'log_statement = none'));
mock_server($node);

sub sql { return $node->safe_psql('postgres', $_[0]) }

# --------------------------------------------------------------------------
note "$operations operations";
# --------------------------------------------------------------------------
sql(qq{SELECT count(replica_create('r' || i, 'mock', '{"duration_ms": $duration_ms}')) FROM generate_series(1, $operations) i});
wait_for($node, "SELECT count(*) = 0 FROM replica_operations WHERE state IN ('queued', 'running')", 300);
is(sql("SELECT count(*) FROM replica_operations WHERE state = 'succeeded'"), $operations, 'all of them succeed');

# What a slot does besides running an operation is waiting for the launcher,
# and for a process to start.
my ($busy, $elapsed, $most, $per_second) = split /\|/, sql(qq{
	WITH o AS (SELECT started_at, finished_at FROM replica_operations)
	SELECT round(sum(extract(epoch FROM finished_at - started_at)) / ($slots * extract(epoch FROM max(finished_at) - min(started_at))), 3),
		round(extract(epoch FROM max(finished_at) - min(started_at)), 1),
		(SELECT max(n) FROM (SELECT sum(d) OVER (ORDER BY at, d) AS n FROM
			(SELECT started_at AS at, 1 AS d FROM o UNION ALL SELECT finished_at, -1 FROM o) e) s),
		round(count(*) / extract(epoch FROM max(finished_at) - min(started_at)), 1) FROM o});
diag("$operations operations of $duration_ms ms in $elapsed s, $per_second a second; their slots were busy for " . 100 * $busy . ' % of the time');
cmp_ok($busy, '>', 0.7, 'the slots are busy: the launcher keeps up');
cmp_ok($most, '<=', $slots, 'and never more than there are');
is(sql(q{SELECT count(*) FROM (SELECT operation, rank() OVER (ORDER BY started_at) AS started FROM replica_operations) o
	JOIN (SELECT operation, rank() OVER (ORDER BY requested_at, operation) AS asked FROM replica_operations) a USING (operation)
	WHERE abs(started - asked) > 16}), '0', 'in about the order in which they were asked for');

# --------------------------------------------------------------------------
note "$rounds rounds of the launcher";
# --------------------------------------------------------------------------
# One operation that is not due, so that there is something to read.
sql(q{SELECT replica_create('later', 'mock', '{"fault": "create.copy.before=08006"}')});
wait_for($node, "SELECT state = 'queued' AND attempts > 0 FROM replica_operations WHERE replica = 'later'");
sql("UPDATE replica_ctl.operation SET not_before = now() + interval '1 day' WHERE replica = 'later'");
my $begin = time;
my $lsn = sql('SELECT pg_current_wal_insert_lsn()');
sql("ALTER SYSTEM SET replica_ctl.test_rounds = $rounds");
$node->reload;
my ($before, $after);
wait_until(
	sub { ($before, $after) = slurp_file($node->logfile) =~ /LOG:  $rounds launcher rounds: (\d+) bytes before, (\d+) bytes after/ },
	"$rounds rounds", 500);
diag(sprintf('%d rounds in %.1f s: %d bytes before, %d after', $rounds, time - $begin, $before, $after));
is($after, $before, 'its memory does not grow');
# the server itself notes what runs, every now and then
cmp_ok(sql("SELECT pg_current_wal_insert_lsn() - '$lsn'::pg_lsn"), '<', $rounds / 10, 'and it writes no WAL');

# --------------------------------------------------------------------------
note 'nothing to do';
# --------------------------------------------------------------------------
my $launcher = worker_pid($node, 'replica_ctl launcher');

sub ticks
{
	my @stat = split / /, (slurp_file("/proc/$launcher/stat") =~ /\) (.*)/)[0];
	return $stat[11] + $stat[12];
}

# PostgreSQL writes a little after others have written, and then no more.
my ($cpu, $wal);
for my $try (1 .. 8)
{
	my ($cpu_before, $wal_before) = (ticks(), sql('SELECT pg_current_wal_insert_lsn()'));
	sleep 5;
	my $wal_after = sql('SELECT pg_current_wal_insert_lsn()');
	$cpu = ticks() - $cpu_before;
	$wal = sql("SELECT '$wal_after'::pg_lsn - '$wal_before'::pg_lsn");
	last if $wal == 0 && $cpu == 0;
}
is($wal, 0, 'an idle launcher writes no WAL in 5 s');
is($cpu, 0, 'and uses no CPU');
is(sql("SELECT count(*) FROM replica_ctl.board()"), '0', 'nothing runs');

sql('ALTER SYSTEM RESET replica_ctl.test_rounds');
$node->stop;
unlike(slurp_file($node->logfile), qr/ERROR|WARNING/, 'nor was anything wrong');

# --------------------------------------------------------------------------
note 'no background worker is free';
# --------------------------------------------------------------------------
# The launcher, the monitor and PostgreSQL's own take three.
$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
my $from = -s $node->logfile;
$node->start;
sql(q{SELECT replica_create('patient', 'mock')});
wait_until(sub { slurp_file($node->logfile, $from) =~ /no background worker is free/ }, 'the complaint');
sleep 2.5;
my @complaints = slurp_file($node->logfile, $from) =~ /LOG:  no background worker is free for a replica_ctl operation\n.*HINT:  Consider increasing max_worker_processes/g;
is(scalar @complaints, 1, 'is said once');
is(sql(q{SELECT state FROM replica_operations WHERE replica = 'patient'}), 'queued', 'the operation waits');
$node->append_conf('postgresql.conf', 'max_worker_processes = 20');
$node->restart;
is(sql(q{SELECT replica_wait('patient', '30s')}), 'succeeded', 'until there is one');
$node->stop;

done_testing();
