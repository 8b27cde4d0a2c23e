# Promotions that are refused, each with an error that says what to do and
# before anything is touched: replicas in a state that does not allow it,
# logins that have changed since the replica was made, a second promotion.
use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use ReplicaCtl;
use Test::More;
use Time::HiRes qw(sleep time);

my $primary = new_primary('main');
my $main = server_of($primary, 'main');
my $written = 0;
$primary->safe_psql('postgres', 'CREATE TABLE acked (id int)');

sub make_replica
{
	my ($name, $options) = @_;

	$primary->safe_psql('postgres', sprintf q{SELECT replica_create('%s', options => '%s')}, $name, $options // '{}');
	is($primary->safe_psql('postgres', "SELECT replica_wait('$name')"), 'succeeded', "$name is made");
	return server_of($primary, $name);
}

sub unharmed
{
	my ($what) = @_;

	is(ask($main, 'SELECT phase FROM replica_ctl.fence()'), 'down', "$what: no fence");
	is(ask($main, q{SET lock_timeout = '2s'; INSERT INTO acked VALUES (} . ++$written . ') RETURNING id'), $written, "$what: writes go on");
	return;
}

# The error of the operation that a call has queued.
sub refused
{
	my ($call, $pattern, $what) = @_;
	my $operation = ask($main, "SELECT $call");

	like($operation, qr/^\d+$/, "$what: asked for");
	like(psql_error($primary, "SELECT replica_operation_wait($operation, '60s')"), $pattern, "$what: the error says so");
	unharmed($what);
	return;
}

my $r1 = make_replica('r1');

# ---- a replica that does not stream

refused(q{replica_switchover('r1', timeout => '0s')}, qr/22023|57014/, 'switchover with a time-out of zero');

my $conninfo = ask($r1, 'SHOW primary_conninfo');
(my $elsewhere = $conninfo) =~ s/port='?\d+'?/port='1'/;
$elsewhere =~ s/'/''/g;
ask($r1, "ALTER SYSTEM SET primary_conninfo = '$elsewhere'");
ask($r1, 'SELECT pg_reload_conf()');
wait_for($primary, q{SELECT NOT connected FROM replica_status WHERE replica = 'r1'});
refused(q{replica_promote('r1')}, qr/55000.*r1.*HINT:/s, 'disconnected');
$conninfo =~ s/'/''/g;
ask($r1, "ALTER SYSTEM SET primary_conninfo = '$conninfo'");
ask($r1, 'SELECT pg_reload_conf()');
wait_for($primary, q{SELECT state = 'streaming' FROM replica_status WHERE replica = 'r1'}, 60);

# ---- one that lags more than the time-out allows

ask($r1, q{ALTER SYSTEM SET recovery_min_apply_delay = '3s'});
ask($r1, 'SELECT pg_reload_conf()');
wait_ask($r1, q{SELECT current_setting('recovery_min_apply_delay') = '3s'});
ask($main, 'INSERT INTO acked SELECT 0 FROM generate_series(1, 10)');
refused(q{replica_promote('r1', timeout => '1s')}, qr/55000.*applies commits 3\.0 s late.*HINT:/s, 'applies later than the time-out');
ask($r1, 'ALTER SYSTEM RESET recovery_min_apply_delay');
ask($r1, 'SELECT pg_reload_conf()');

# ---- its pg_hba.conf does not let us in any more

my $hba = slurp_file("$r1->{dir}/pg_hba.conf");
open my $out, '>', "$r1->{dir}/pg_hba.conf" or die "pg_hba.conf: $!";
print $out "local all all reject\nhost all all all reject\n";
close $out;
kill 'HUP', (split /\n/, slurp_file("$r1->{dir}/postmaster.pid"))[0];
wait_until(sub { ask($r1, 'SELECT 1') =~ /reject/ }, 'pg_hba.conf');
refused(q{replica_promote('r1', timeout => '5s')}, qr/28000.*could not log in to replica "r1".*HINT:/s, 'pg_hba.conf has changed');
open $out, '>', "$r1->{dir}/pg_hba.conf" or die "pg_hba.conf: $!";
print $out $hba;
close $out;
kill 'HUP', (split /\n/, slurp_file("$r1->{dir}/postmaster.pid"))[0];
wait_until(sub { ask($r1, 'SELECT 1') eq '1' }, 'pg_hba.conf');

# ---- it is being dropped, or another one is promoted

SKIP:
{
	skip 'needs a test build', 1 unless test_build($primary);

	my $r2 = make_replica('r2');
	set_fault($primary, 'drop.stop.before=stall;promote.zero_lag.before=stall');
	my $steps = ask($main, q{SELECT string_agg(step, ' ') FROM replica_ctl.steps() WHERE provider = 'local' AND kind = 'drop'});
	my ($first) = split / /, $steps;
	set_fault($primary, "drop.$first.before=stall;promote.zero_lag.before=stall");
	my $drop = ask($main, q{SELECT replica_drop('r2')});
	wait_for($primary, "SELECT state = 'running' FROM replica_operations WHERE operation = $drop");
	like(psql_error($primary, q{SELECT replica_promote('r2')}), qr/55006.*r2.*HINT:/s, 'a replica that is being dropped');
	unharmed('being dropped');

	my $promote = ask($main, q{SELECT replica_promote('r1', drain => '0s')});
	wait_for($primary, q{SELECT phase = 'up' FROM replica_ctl.fence()});
	my $r3 = ask($main, q{SELECT replica_promote('r1')});
	like($r3, qr/operation $promote|busy|is running/i, 'the same replica a second time');
	like(psql_error($primary, q{SELECT replica_fence('by hand')}), qr/55006.*operation $promote.*HINT:/s, 'a fence by hand meanwhile');
	like(psql_error($primary, q{SELECT replica_unfence()}), qr/55006.*operation $promote.*replica_cancel\($promote\)/s, 'nor is the operation\'s lifted by hand');
	is(ask($main, "SELECT replica_cancel($promote)"), 't', 'the first is cancelled');
	is(wait_operation($primary, $promote), 'cancelled', 'and taken back');
	is(ask($main, "SELECT replica_cancel($drop)") =~ /^[tf]$/, 1, 'the drop goes on');
	set_fault($primary, '');
	wait_operation($primary, $drop);
	unharmed('after a cancel');

	# another replica is promoted while one has the fence
	my $r4 = make_replica('r4');
	set_fault($primary, 'promote.zero_lag.before=block*1');
	$promote = ask($main, q{SELECT replica_promote('r1', drain => '0s')});
	wait_for($primary, q{SELECT phase = 'up' FROM replica_ctl.fence()});
	like(psql_error($primary, q{SELECT replica_promote('r4', timeout => '10s')}),
		qr/55006.*operation $promote has fenced this server.*HINT:/s, 'another replica meanwhile');
	is(wait_operation($primary, $promote), 'succeeded', 'the first is promoted');
	my $second = ask($main, q{SELECT replica_promote('r4')});
	like(psql_error($primary, "SELECT replica_operation_wait($second)"), qr/this server is fenced.*"r1" was promoted.*HINT:/s, 'and another one after that');
	is(ask($r4, 'SELECT pg_is_in_recovery()'), 't', 'it is a standby');
	set_fault($primary, '');
	like(psql_error($primary, q{SELECT replica_promote('r1')}), qr/55000.*was promoted.*replica_detach/s, 'one that was promoted already');
}
done_testing();
