# The recipes of docs/pg_cron.md, as they stand there, run by pg_cron at their
# times: the server's clock is set to just before each.
#
# slow

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::Local;

# Debian's package is for the server that was copied.
my ($sharedir) = run_command([ $ENV{PG_CONFIG}, '--sharedir' ]);
plan skip_all => 'pg_cron (package postgresql-NN-cron) is not installed' unless -e "$sharedir/extension/pg_cron.control";

# To three seconds before a time (GMT).
sub seconds_to
{
	my ($year, $month, $day, $hour, $minute) = @_;
	return timegm(0, $minute, $hour, $day, $month - 1, $year) - 3 - time;
}

sub set_clock { shift_clock(seconds_to(@_)); return }

my $primary = new_primary('cron', start => 0, conf => <<'END');
autovacuum = off
shared_preload_libraries = 'replica_ctl, pg_cron'
timezone = 'GMT'
replica_ctl.retention = 0
END
$primary->append_conf('postgresql.conf', "cron.host = '" . $primary->host . "'");
# a Sunday
start_with_clock($primary, seconds_to(2032, 8, 1, 2, 30));
sub sql { return $primary->safe_psql('postgres', shift); }
sub runs { return sql("SELECT count(*) FROM cron.job_run_details d JOIN cron.job j USING (jobid) WHERE jobname = '$_[0]' AND d.status = '$_[1]'"); }
# of the last run of a job, also one that is gone
sub last_run { return sql("SELECT status || ': ' || coalesce(return_message, '') FROM cron.job_run_details WHERE command LIKE '%$_[0]%' ORDER BY runid DESC LIMIT 1"); }

sub ran
{
	my ($what, $timeout) = @_;
	wait_for($primary, "SELECT count(*) > 0 FROM cron.job_run_details WHERE command LIKE '%$what%' AND status IN ('succeeded', 'failed')", $timeout // 30);
	return last_run($what);
}

sql('CREATE EXTENSION replica_ctl; CREATE EXTENSION pg_cron');
for my $name (qw(r1 r2 copy))
{
	is(wait_operation($primary, sql("SELECT replica_create('$name')")), 'succeeded', "replica $name");
}

# ---- the recipes, as documented ----

my %recipe = map { my ($name) = /^SELECT cron\.schedule\('([^']+)'/; ($name => $_) }
  slurp_file('docs/pg_cron.md') =~ /^```sql\n(SELECT cron\.schedule\(.*?)^```/gms;
is(join(', ', sort keys %recipe), 'drill, new copy, promote, replica lag', 'four recipes');
sql($recipe{$_}) for sort keys %recipe;
is(sql('SELECT count(*) FROM cron.job'), 4, 'are scheduled');

# the lag: well, then not
set_clock(2032, 8, 1, 2, 50);
like(ran('replicas lag'), qr/^succeeded/, 'the check of lag is content');
my ($postmaster) = split /\n/, slurp_file(replica_dir($primary) . '/copy/postmaster.pid');
kill 'QUIT', $postmaster;
wait_for($primary, q{SELECT state = 'stopped' FROM replica_status WHERE replica = 'copy'});
set_clock(2032, 8, 1, 2, 51);
wait_for($primary, q{SELECT count(*) > 0 FROM cron.job_run_details WHERE command LIKE '%replicas lag%' AND status = 'failed'});
like(last_run('replicas lag'), qr/^failed: .*replicas lag: copy: stopped/s, 'and fails, with the name, when one is stopped');

# the drill
set_clock(2032, 8, 1, 3, 15);
like(ran('replica_drill'), qr/^succeeded/, 'the drill is started');
wait_for($primary, q{SELECT count(*) = 1 FROM replica_events WHERE kind = 'drill' AND replica = 'r1'});
is(sql(q{SELECT phase FROM replica_ctl.fence()}), 'down', 'and done');
my ($query) = slurp_file('docs/pg_cron.md') =~ /^(SELECT at, message FROM replica_events.*)$/m;
like(sql($query), qr/^2032-08-01 03:15:/, 'its times can be listed');

# the new copy of what was broken
my $old = sql(q{SELECT replica_id FROM replica_ctl.replica WHERE name = 'copy'});
set_clock(2032, 8, 1, 4, 0);
like(ran('replica_drop', 60), qr/^succeeded/, 'a new copy is made');
wait_for($primary, q{SELECT state = 'streaming' FROM replica_status WHERE replica = 'copy'});
cmp_ok(sql(q{SELECT replica_id FROM replica_ctl.replica WHERE name = 'copy'}), '>', $old, 'another one');

# the promotion
set_clock(2032, 12, 1, 6, 0);
wait_for($primary, q{SELECT count(*) = 1 FROM replica_operations WHERE kind = 'promote' AND state NOT IN ('queued', 'running')}, 60);
is(sql(q{SELECT state, requested_at::date FROM replica_operations WHERE kind = 'promote'}), 'succeeded|2032-12-01', 'and succeeded');
is(sql(q{SELECT phase FROM replica_ctl.fence()}), 'promoted', 'this server is read only');
is(sql(q{SELECT count(*) FROM cron.job WHERE jobname = 'promote'}), 0, 'its job is gone');
$primary->stop('immediate');
done_testing();
