# A switchover: the replica becomes the primary, the old primary and the other
# replica follow it, the registry goes with it; and back.
use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $old = new_primary('main', initdb => ['--data-checksums']);

$old->safe_psql('postgres', q{SELECT replica_create('r1')});
$old->safe_psql('postgres', q{SELECT replica_create('r2')});
is($old->safe_psql('postgres', "SELECT replica_wait('$_')"), 'succeeded', "$_ is made") for 'r1', 'r2';

# A node object for a replica, to ask it.
sub node_of
{
	my ($name) = @_;
	my ($port, $dir, $socket) = split /\|/, $old->safe_psql('postgres',
		"SELECT facts->>'port', facts->>'data_directory', facts->>'socket_directories' FROM replica_ctl.replica WHERE name = '$name'");
	return { port => $port, dir => $dir, host => $socket };
}

sub ask
{
	my ($at, $sql) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'psql', '-XAtq', '-h', $at->{host}, '-p', $at->{port}, '-d', 'postgres', '-c', $sql ],
		'>', \$out, '2>', \$err);
	chomp($out, $err);
	return $? == 0 ? $out : "ERROR $err";
}

sub wait_ask
{
	my ($at, $sql, $timeout) = @_;
	my $last = '';
	eval { wait_until(sub { ($last = ask($at, $sql)) eq 't' }, $sql, $timeout // 60) };
	return $last eq 't' || diag("$@ last: $last") && 0;
}

my %at = (main => { port => $old->port, host => $old->host, dir => $old->data_dir }, r1 => node_of('r1'), r2 => node_of('r2'));

$old->safe_psql('postgres', q{CREATE TABLE t AS SELECT generate_series(1, 1000) AS i});
my $op = $old->safe_psql('postgres', q{SELECT replica_switchover('r1')});
ok(wait_ask($at{r1}, 'SELECT NOT pg_is_in_recovery()'), 'r1 was promoted');
ok(wait_ask($at{r1}, "SELECT state NOT IN ('queued', 'running') FROM replica_operations WHERE operation = $op"), 'operation ends there');
diag ask($at{r1}, "SELECT * FROM replica_operations WHERE operation = $op");
diag ask($at{r1}, "SELECT * FROM replica_status");
diag ask($at{r1}, "SELECT * FROM replica_events");
diag ask($at{main}, "SELECT pg_is_in_recovery()");
diag `cat @{[ $old->data_dir ]}_rejoin/rejoin.log`;
done_testing();
