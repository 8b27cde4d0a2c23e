# The slot policy: which slot goes first and which never, slots that are lost,
# left over or were never used, and the statements that the advice ends with.
#
# slow

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $odd = q{Far away='x', 日};
my $primary = new_primary('slots', conf => <<'END');
autovacuum = off
min_wal_size = 32MB
replica_ctl.disk_reserve = 0
END

sub sql { return $primary->safe_psql('postgres', shift); }
sub set { return sql("ALTER SYSTEM SET replica_ctl.$_[0] = $_[1]; SELECT pg_reload_conf()"); }
sub wal { return sql("INSERT INTO t SELECT repeat(md5(i::text), 100) FROM generate_series(1, $_[0] * 250) i"); }
sub slots { return sql(q{SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM pg_replication_slots}); }
sub dropped { return sql(q{SELECT string_agg(detail->>'slot', ' ' ORDER BY event) FROM replica_events WHERE kind = 'slot_dropped'}); }
sub verdict { return sql("SELECT verdict FROM replica_slots WHERE slot_name = '$_[0]'"); }
sub advice { return sql("SELECT advice FROM replica_slots WHERE slot_name = '$_[0]'"); }

# ---- the setting ----

for my $bad ([ 'r1', qr/is not of the form name=priority/ ], [ '=first', qr/is not of the form/ ],
	[ 'r1=soon', qr/"soon" is not a priority.*HINT.*first, normal, last, never/s ],
	[ 'r1=first, ,r2=last', qr/List syntax is invalid/ ], [ 'x' x 64 . '=last', qr/is too long/ ])
{
	my ($value, $error) = @$bad;
	my $says = psql_error($primary, "ALTER SYSTEM SET replica_ctl.slot_priority = '$value'");
	like($says, qr/22023.*invalid value for parameter "replica_ctl.slot_priority"/s, "slot_priority '$value' is refused");
	like($says, $error, 'with the reason');
}

# ---- of several that break a limit, by priority ----

sql('CREATE TABLE t (x text); ALTER TABLE t ALTER x SET STORAGE EXTERNAL');
sql(q{SELECT pg_create_physical_replication_slot('a', true)});
wal(20);
sql('CHECKPOINT');
sql("SELECT pg_create_physical_replication_slot('$_', true)") for qw(b c d);
set('slot_priority', q{'a=last, b=normal, "c=first", d=NEVER'});
set('slot_scope', 'physical');
wal(12);
set('slot_wal_limit', q{'8MB'});
wait_for($primary, q{SELECT count(*) = 4 FROM replica_slots WHERE verdict = 'critical'});
# the monitor has seen it, too
wait_for($primary, q{SELECT count(DISTINCT detail->>'slot') = 4 FROM replica_events WHERE kind = 'slot_critical'});
set('slot_action', q{'drop'});
wait_for($primary, q{SELECT count(*) = 1 FROM replica_events WHERE kind = 'slot_dropped'});
is(dropped(), 'c', 'the first to go');
sleep 2.5;
is(slots(), 'a b d', 'time is given before the next one goes');
set('slot_action', 'warn');
set('slot_wal_limit', '0');

# ---- for the sake of the disk: who is dropped when ----

my $free = sql('SELECT free_bytes / 1048576 FROM replica_wal_usage');
sub reserve { return set('disk_reserve', sprintf q{'%d MB'}, $free * $_[0]); }

set('slot_priority', q{'a=last, b=first'});
sub reason { return sql(q{SELECT verdict || ' ' || coalesce(advice, '') FROM replica_slots WHERE slot_name = 'a'}); }
reserve(0.8);
sleep 2.5;
like(reason(), qr/^ok/, 'enough is free');
reserve(1.3);
wait_for($primary, q{SELECT verdict = 'critical' FROM replica_slots WHERE slot_name = 'a'});
like(reason(), qr/less is free than replica_ctl.disk_reserve/, 'less is free than the reserve');
set('slot_action', q{'drop'});
sleep 3.5;
is(slots(), 'a b d', 'the last to go is kept until half of the reserve is used up');
is(verdict('b'), 'ok', 'to drop another one would free nothing');
set('slot_priority', q{'a=never'});
reserve(5);
sleep 3.5;
is(slots(), 'a b d', 'never is never');
set('slot_action', 'warn');
set('slot_priority', q{'a=first'});
reserve(0.6);
wait_for($primary, q{SELECT verdict = 'critical' FROM replica_slots WHERE slot_name = 'a'});
like(advice('a'), qr/is to go first, and less is free than twice replica_ctl.disk_reserve: SELECT pg_drop_replication_slot\('a'\);$/,
	'first is judged at twice the reserve');
set('slot_priority', q{'a=last'});
reserve(2.5);
set('slot_action', q{'drop'});
wait_for($primary, q{SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name = 'a'}, 45);
like(sql(q{SELECT message FROM replica_events WHERE kind = 'slot_dropped' ORDER BY event DESC LIMIT 1}),
	qr/less is free than half of replica_ctl.disk_reserve/, 'the last one goes when half of it is used up');
set('slot_action', 'warn');
set('slot_priority', q{''});

# b and d keep the same WAL
set('slot_priority', q{'d=first'});
wait_for($primary, q{SELECT held_by = 'slot "d"' FROM replica_wal_usage});
set('slot_priority', q{'d=last'});
wait_for($primary, q{SELECT held_by = 'slot "b"' FROM replica_wal_usage});
pass('of two that keep the same WAL it is the one to go first');
set('slot_priority', q{''});
set('disk_reserve', '0');
sql("SELECT pg_drop_replication_slot('$_')") for qw(b d);

# ---- left over, and never used ----

set('slot_inactive_limit', q{'2s'});
sql(q{SELECT pg_create_physical_replication_slot('replica_ctl_gone', true)});
sql(q{SELECT pg_create_physical_replication_slot('never_used')});
wait_for($primary, q{SELECT count(*) = 2 FROM replica_slots WHERE verdict = 'warning'});
is(advice('replica_ctl_gone'),
	q{it was made for a replica, and no replica of this server uses it: SELECT pg_drop_replication_slot('replica_ctl_gone');},
	'a slot of ours that is left over');
is(advice('never_used'), q{it was never used and reserves no WAL: SELECT pg_drop_replication_slot('never_used');},
	'a slot that reserves no WAL');
wait_for($primary, q{SELECT count(DISTINCT detail->>'slot') = 2 FROM replica_events WHERE kind = 'slot_warning'
	AND detail->>'slot' IN ('replica_ctl_gone', 'never_used')});
is(sql(q{SELECT string_agg(detail->>'slot' || ' ' || severity, ', ' ORDER BY detail->>'slot') FROM replica_events WHERE kind = 'slot_warning'
	AND detail->>'slot' IN ('replica_ctl_gone', 'never_used')}),
	'never_used warning, replica_ctl_gone warning', 'both are events');
sql((advice($_) =~ /: (SELECT .*;)$/)[0]) for qw(replica_ctl_gone never_used);
is(slots(), '', 'the advice cleans up');
set('slot_inactive_limit', q{'1d'});

# ---- lost, of a replica with an odd name ----

my $quoted = $odd =~ s/'/''/gr;
is(wait_operation($primary, sql("SELECT replica_create('$quoted')")), 'succeeded', 'a replica is made');
my $slot = sql('SELECT slot FROM replica_status');
my ($directory) = sql(q{SELECT facts->>'data_directory' FROM replica_ctl.replica});
my ($postmaster) = split /\n/, slurp_file("$directory/postmaster.pid");
kill 'QUIT', $postmaster;
wait_for($primary, q{SELECT state = 'stopped' FROM replica_status});
sql(q{ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'; SELECT pg_reload_conf()});
for (1 .. 3) { wal(2); sql('SELECT pg_switch_wal()'); }
sql('CHECKPOINT');
wait_for($primary, "SELECT verdict = 'lost' FROM replica_slots WHERE slot_name = '$slot'");
my $statement = "SELECT replica_repair('$quoted');";
like(advice($slot), qr/: \Q$statement\E$/, 'the advice for a lost slot is to repair its replica');
wait_for($primary, q{SELECT count(*) = 1 FROM replica_events WHERE kind = 'slot_lost' AND severity = 'error'});
set('slot_action', q{'drop'});
sleep 3;
is(slots(), $slot, 'it is not dropped: it keeps nothing');
set('slot_action', 'warn');
is(sql("SELECT replica FROM replica_events WHERE kind = 'slot_lost'"), $odd, 'the event names the replica');
is(sql("SELECT detail->>'advice' FROM replica_events WHERE kind = 'slot_lost'"), advice($slot), 'and has the statement');
sql('ALTER SYSTEM RESET max_slot_wal_keep_size; SELECT pg_reload_conf()');
is(wait_operation($primary, sql($statement), 120), 'succeeded', 'the statement repairs it');
wait_for($primary, q{SELECT state = 'streaming' AND connected FROM replica_status}, 60);
wait_for($primary, q{SELECT verdict = 'ok' FROM replica_slots});
pass('and it streams again');

# ---- an event that cannot be written is written later ----

sql(q{SELECT pg_create_physical_replication_slot('late', true)});
sql('ALTER TABLE replica_ctl.event ADD CONSTRAINT disk_full CHECK (kind !~ $$^slot_$$) NOT VALID');
wal(4);
set('slot_priority', q{''});
set('slot_scope', 'physical');
set('slot_wal_limit', q{'2MB'});
set('slot_action', q{'drop'});
wait_for($primary, q{SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name = 'late'}, 45);
pass('a slot is dropped although no event can be written');
set('slot_action', 'warn');
is(sql(q{SELECT count(*) FROM replica_events WHERE detail->>'slot' = 'late'}), 0, 'there is none');
cmp_ok(sql(q{SELECT clock_timestamp() - max(sampled_at) < '3 s' FROM replica_metrics_history}), 'eq', 't', 'the monitor goes on');
sql('ALTER TABLE replica_ctl.event DROP CONSTRAINT disk_full');
wait_for($primary, q{SELECT count(*) = 2 FROM replica_events WHERE detail->>'slot' = 'late'});
is(sql(q{SELECT string_agg(kind, ' ' ORDER BY event) FROM replica_events WHERE detail->>'slot' = 'late'}),
	'slot_critical slot_dropped', 'they follow when they can be written, in order');

# ---- a replica that is being made ----

my $operation = sql(q{SELECT replica_create('making', options => '{"max_rate": 100}')});
wait_for($primary, q{SELECT count(*) = 1 FROM replica_slots WHERE slot_name = 'replica_ctl_making'});
wal(4);
wait_for($primary, q{SELECT verdict = 'critical' AND replica = 'making' AND advice LIKE '%replica_operations%'
	FROM replica_slots WHERE slot_name = 'replica_ctl_making'});
like(advice('replica_ctl_making'), qr/: SELECT \* FROM replica_operations WHERE replica = 'making';$/, 'one that is being made is not to be repaired');
sql("SELECT replica_cancel($operation)");
is(wait_operation($primary, $operation), 'cancelled', 'cancelled');

is(wait_operation($primary, sql("SELECT replica_drop('$quoted', true)")), 'succeeded', 'dropped');
no_orphans_ok($primary);
done_testing();
