# The guard: slots that break a limit are reported, then dropped if the
# settings say so, and only those that may be.

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $primary = new_primary('guard', conf => <<'END');
autovacuum = off
wal_level = logical
min_wal_size = 32MB
replica_ctl.slot_wal_limit = '40MB'
replica_ctl.disk_reserve = 0
END

sub sql { return $primary->safe_psql('postgres', shift); }
sub set { return sql("ALTER SYSTEM SET replica_ctl.$_[0] = '$_[1]'; SELECT pg_reload_conf()"); }
sub events { return sql("SELECT count(*) FROM replica_events WHERE kind = '$_[0]' AND detail->>'slot' = '$_[1]'"); }
sub wal { return sql("INSERT INTO t SELECT repeat(md5(i::text), 100) FROM generate_series(1, $_[0] * 250) i"); }

sql('CREATE TABLE t (x text); ALTER TABLE t ALTER x SET STORAGE EXTERNAL');
is(wait_operation($primary, sql(q{SELECT replica_create('r1')})), 'succeeded', 'a replica is made');
my $slot = sql(q{SELECT slot FROM replica_status});
my ($postmaster) = split /\n/, slurp_file(replica_dir($primary) . '/r1/postmaster.pid');
sql(q{SELECT pg_create_physical_replication_slot('foreign', true)});
sql(q{SELECT pg_create_logical_replication_slot('logical', 'pgoutput')});
wait_for($primary, q{SELECT bool_and(connected) FROM replica_lag});

# ---- warn ----

kill 'QUIT', $postmaster;
wait_for($primary, q{SELECT state = 'stopped' FROM replica_status});
wal(60);
wait_for($primary, q{SELECT count(DISTINCT detail->>'slot') = 3 FROM replica_events WHERE kind = 'slot_critical'});
pass('all three are reported');
sleep 4;
is(events('slot_critical', $slot), 1, 'each once');
is(sql('SELECT count(*) FROM pg_replication_slots'), 3, 'and none is dropped');
like(sql(qq{SELECT advice FROM replica_slots WHERE slot_name = '$slot'}), qr/: SELECT replica_repair\('r1'\);$/,
	'the advice for a replica is to repair it');

# ---- drop ----

my $before = sql(q{SELECT wal_bytes FROM replica_wal_usage});
set('slot_action', 'drop');
wait_for($primary, qq{SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name = '$slot'});
wait_for($primary, qq{SELECT count(*) = 1 FROM replica_events WHERE kind = 'slot_dropped'});
is(sql(qq{SELECT replica, detail->>'slot', (detail->>'retained_bytes')::bigint > 40000000, detail->>'advice', message
	FROM replica_events WHERE kind = 'slot_dropped'}),
	"r1|$slot|t|SELECT replica_repair('r1');|replication slot \"$slot\" was dropped: it keeps more WAL than replica_ctl.slot_wal_limit",
	'the event says what was done, why, and what to do');
sleep 3;
is(sql('SELECT string_agg(slot_name, \' \' ORDER BY slot_name) FROM pg_replication_slots'), 'foreign logical',
	'slots that are not ours are left alone');

set('slot_scope', 'physical');
wait_for($primary, q{SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name = 'foreign'}, 60);
pass('unless the scope is wider');
sleep 3;
is(sql('SELECT slot_name FROM pg_replication_slots'), 'logical', 'a logical one is never dropped');
is(events('slot_dropped', 'logical'), 0, 'nor said to be');
sql(q{SELECT pg_drop_replication_slot('logical')});

# ---- repair ----

set('slot_scope', 'owned');
set('slot_action', 'warn');
is(wait_operation($primary, sql(q{SELECT replica_repair('r1')}), 120), 'succeeded', 'the advice brings the replica back');
wait_for($primary, q{SELECT state = 'streaming' AND connected FROM replica_status}, 60);
is(sql(q{SELECT verdict FROM replica_slots}), 'ok', 'its slot is well');

# ---- the disk, with a standby that is connected but slow ----

set('slot_wal_limit', '0');
my ($host, $port) = sql('SELECT endpoint FROM replica_status') =~ /(.*):(\d+)$/;
my $receiver = $primary->safe_psql('postgres', 'SELECT pid FROM pg_stat_wal_receiver',
	connstr => "host=$host port=$port dbname=postgres");
kill 'STOP', $receiver;
wal(60);
sql('CHECKPOINT');
is(sql(q{SELECT verdict FROM replica_slots}), 'ok', 'within bounds');
set('slot_action', 'drop');
set('disk_reserve', '1000 TB');
wait_for($primary, q{SELECT count(*) = 3 FROM replica_events WHERE kind = 'slot_dropped'}, 60);
like(sql(q{SELECT message FROM replica_events WHERE kind = 'slot_dropped' ORDER BY event DESC LIMIT 1}),
	qr/less is free than replica_ctl.disk_reserve/, 'a slot in use is dropped for the sake of the disk');
wait_for($primary, q{SELECT held_by = 'checkpoint' FROM replica_wal_usage});
pass('nothing keeps the WAL any more');
kill 'CONT', $receiver;
sql('INSERT INTO t SELECT 1');
pass('the primary is alive');

is(wait_operation($primary, sql(q{SELECT replica_drop('r1', true)})), 'succeeded', 'dropped');
no_orphans_ok($primary);
done_testing();
