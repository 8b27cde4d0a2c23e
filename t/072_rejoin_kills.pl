# The program that makes an old primary a standby, killed at random moments,
# alone or with what it has started: after each the server is started as
# anybody would, and never takes a write.  The run that is not killed ends
# with a standby that streams.
#
# RCTL_KILLS multiplies the kills, RCTL_SEED sets when they come.
use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

# Each kill comes a random moment after a mark is there: "" is the start.
my @aims = ('', '', 'aside', 'begun', 'begun', 'begun', 'rewound', 'rewound', 'done', 'done');
@aims = map { ($_) x $ENV{RCTL_KILLS} } @aims if $ENV{RCTL_KILLS};
my $seed = $ENV{RCTL_SEED} || time % 100000;
srand($seed);
note "RCTL_SEED=$seed";

my $node = new_primary('main', initdb => ['--data-checksums']);
my $data = $node->data_dir;
my $work = "${data}_rejoin";
my $log = $node->basedir . '/by_hand.log';

$node->safe_psql('postgres', q{SELECT replica_create('r1')});
is($node->safe_psql('postgres', q{SELECT replica_wait('r1')}), 'succeeded', 'a replica');
my $main = server_of($node, 'main');
my $r1 = server_of($node, 'r1');
$node->safe_psql('postgres', 'CREATE TABLE t (i int); INSERT INTO t SELECT generate_series(1, 20000)');
append_to_file("$data/postgresql.auto.conf",
	"primary_conninfo = 'host=$r1->{host} port=$r1->{port} application_name=replica_ctl_main'\nprimary_slot_name = 'replica_ctl_main'\n");
append_to_file("$data/own.file", "main's own\n");
# as the operation makes it: pg_rewind must find its WAL however often the server is started
$node->safe_psql('postgres', q{SELECT pg_create_physical_replication_slot('replica_ctl_rejoin', true)});
# likewise: pg_rewind removes from the old primary what the new one does not have
ask($r1, q{SELECT pg_create_physical_replication_slot('replica_ctl_main', true)});
my $operation = $node->safe_psql('postgres', q{SELECT replica_promote('r1')});
wait_ask($r1, 'SELECT NOT pg_is_in_recovery()');
wait_for($node, "SELECT state = 'succeeded' FROM replica_operations WHERE operation = $operation");
ask($r1, q{CREATE TABLE new (i int); CHECKPOINT});

chomp(my $share = `"$ENV{PG_CONFIG}" --sharedir`);
chomp(my $bindir = `"$ENV{PG_CONFIG}" --bindir`);
my $script = "$share/extension/replica_ctl_rejoin.sh";
mkdir $work or die "$work: $!";
append_to_file("$work/plan", <<"END");
new_primary='r1'
pgdata='$data'
bindir='$bindir'
config_file=''
source='host=$r1->{host} port=$r1->{port} dbname=postgres'
slots='replica_ctl_rejoin'
fsync=off
stop_timeout=60
restart_command=''
END

sub start_script
{
	my $pid = fork() // die "fork: $!";

	if ($pid == 0)
	{
		POSIX::setsid();
		exec 'sh', $script, $work;
	}
	return $pid;
}

# What the server is, started as anybody would.
sub state_of_server
{
	system("$bindir/pg_ctl -w -t 60 -D '$data' -l '$log' start >>'$log' 2>&1");
	my $recovery = ask($main, 'SELECT pg_is_in_recovery()');
	return 'down' if $recovery !~ /^[tf]$/;
	my $write = ask($main, 'BEGIN; SET TRANSACTION READ WRITE; INSERT INTO t VALUES (0); COMMIT; SELECT 1');
	return 'WRITABLE' if $write !~ /^ERROR/;
	return $recovery eq 't' ? 'standby' : 'fenced';
}

my %seen;
my $finished = 0;
for my $kill (1 .. @aims)
{
	my $aim = $aims[ $kill - 1 ];
	my $pid = start_script();
	my $over = sub { $finished = waitpid($pid, POSIX::WNOHANG()) == $pid };

	wait_until(sub { $aim eq '' || -e "$work/$aim" || $over->() }, "mark $aim", 60);
	my $until = time + rand($aim eq '' ? 1.5 : 0.3);
	sleep 0.005 while time < $until && !$over->();
	last if $finished && !-e "$work/plan";
	unless ($finished)
	{
		my $all = rand() < 0.5;
		kill 9, $all ? -$pid : $pid;
		waitpid $pid, 0;
		note "kill $kill of ", $all ? 'all' : 'the script', ', marks: ',
		  join(' ', map { s{.*/}{}r } grep { -e } glob "$work/{aside,begun,rewound,done,failed}");
	}
	my $state = state_of_server();
	$seen{$state}++;
	isnt($state, 'WRITABLE', "kill $kill: the server is $state");
}
ok(scalar keys %seen, 'seen: ' . join(', ', map { "$_ $seen{$_}" } sort keys %seen));

# A program that was started before may still be at work on the directory.
unless ($finished && !-e "$work/plan")
{
	my $tries = 0;
	wait_until(
		sub {
			return 1 if !-e "$work/plan";
			$tries++;
			waitpid(start_script(), 0);
			return !-e "$work/plan";
		},
		'the script to succeed', 60);
}
ok(!-e "$work/failed", 'it has not failed in the end');
wait_ask($main, 'SELECT pg_is_in_recovery()', 180);
wait_ask($r1, q{SELECT state = 'streaming' FROM pg_stat_replication WHERE application_name = 'replica_ctl_main'});
my $lsn = ask($r1, q{INSERT INTO new VALUES (1); SELECT pg_current_wal_lsn()});
wait_ask($main, "SELECT pg_last_wal_replay_lsn() >= '$lsn'");
is(ask($main, 'SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM new)'), '20000|1', 'it has the data of the new primary');
is(slurp_file("$data/own.file"), "main's own\n", 'and its own files');
ok(-f "$data/standby.signal" && !-e "$data/replica_ctl.fence" && (stat $data)[2] % 02 == 0, 'as a standby should look');
is(join(' ', grep { !/^(lock|rejoin.log|server.log|failed)$/ } map { s{.*/}{}r } glob "$work/*"), '', 'nothing is left of the work');

system("$bindir/pg_ctl -D '$data' -m immediate stop >>'$log' 2>&1");
$node->{_pid} = undef;
done_testing();
