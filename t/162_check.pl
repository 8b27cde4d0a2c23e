# monitoring/check.sql, in the command that docs/monitoring.md shows: its line
# and its exit status.

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_primary('check', conf => "autovacuum = off\nreplica_ctl.disk_reserve = 0\n");
sub sql { return $primary->safe_psql('postgres', shift); }
sub set { return sql("ALTER SYSTEM SET replica_ctl.$_[0] = '$_[1]'; SELECT pg_reload_conf()"); }

my ($command) = slurp_file('docs/monitoring.md') =~ /^(psql .*check\.sql.*)$/m;
like($command, qr/-d postgres /, 'the documentation has the command');

# Its output and exit status.
sub check
{
	my ($where, $options) = @_;
	my $server = $where // $primary->connstr('postgres');
	my $here = $command =~ s{-d postgres }{-d "$server" -U watcher }r =~ s{-U watcher}{"-U watcher -v disk_warning=0 " . ($options // '')}er;
	my $out = `$here 2>/dev/null`;
	chomp $out;
	return ($? >> 8) . " $out";
}

sql('CREATE ROLE watcher LOGIN IN ROLE pg_monitor');
wait_for($primary, q{SELECT count(*) = 1 FROM replica_wal_usage});
is(check(), '0 OK - all is well', 'no replica');
is(wait_operation($primary, sql(q{SELECT replica_create('r1')})), 'succeeded', 'a replica');
wait_for($primary, q{SELECT connected AND lag = '0' FROM replica_status});
is(check(), '0 OK - all is well', 'a good replica');

# lag
my ($host, $port) = sql('SELECT endpoint FROM replica_status') =~ /(.*):(\d+)$/;
my $r1 = "host=$host port=$port dbname=postgres";
$primary->safe_psql('postgres', 'SELECT pg_wal_replay_pause()', connstr => $r1);
sql('CREATE TABLE t (i int); INSERT INTO t VALUES (1)');
wait_for($primary, q{SELECT lag > '2 s' FROM replica_status});
like(check(undef, '-v lag_warning=1 -v lag_critical=100'), qr/^1 WARNING - replica r1 is \d\d:\d\d:\d\d behind$/, 'a replica that lags');
like(check(undef, '-v lag_warning=1 -v lag_critical=1.5'), qr/^2 CRITICAL - replica r1 is \S+ behind$/, 'much');
is(check(), '0 OK - all is well', 'within the default limits');
$primary->safe_psql('postgres', 'SELECT pg_wal_replay_resume()', connstr => $r1);

# slots
sql(q{SELECT pg_create_physical_replication_slot('unused')});
set('slot_inactive_limit', '1s');
wait_for($primary, q{SELECT verdict = 'warning' FROM replica_slots WHERE slot_name = 'unused'});
is(check(), q{1 WARNING - slot unused: it was never used and reserves no WAL: SELECT pg_drop_replication_slot('unused');},
	'a slot that needs a look, with the statement');
sql(q{SELECT pg_drop_replication_slot('unused')});

# disks: what else goes on on this machine decides, so that only the form can be tested
like(check(undef, '-v disk_warning=31536000 -v disk_critical=0'), qr{^(?:0 OK - all is well|1 WARNING - /\S* will be full in \S.*)$}, 'disks');

# not connected, and a fence: the worst counts, all is told
my ($postmaster) = split /\n/, slurp_file(replica_dir($primary) . '/r1/postmaster.pid');
kill 'QUIT', $postmaster;
wait_for($primary, q{SELECT state = 'stopped' AND NOT connected FROM replica_status});
like(check(), qr/^2 CRITICAL - replica r1 is stopped/, 'a replica that is stopped');
sql('SELECT replica_fence()');
like(check(), qr/^2 CRITICAL - replica r1 is stopped; writes are stopped by a fence/, 'a fence');
sql('SELECT replica_unfence()');
is(check("host=/nonexistent port=1 dbname=postgres"), '2 CRITICAL - no answer', 'no server');
is(check($primary->connstr('template1')), '2 CRITICAL - no answer', 'no extension');

is(wait_operation($primary, sql(q{SELECT replica_drop('r1', true)})), 'succeeded', 'dropped');
no_orphans_ok($primary);
done_testing();
