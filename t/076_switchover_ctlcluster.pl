# Switchover of a cluster that Debian's own pg_createcluster made, started
# again by its pg_ctlcluster.  Both run as they are installed, but for the
# directory of PostgreSQL's programs: these have this extension.
use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use ReplicaCtl;
use Test::More;

plan skip_all => 'pg_ctlcluster is not here (package postgresql-common)' unless -x '/usr/bin/pg_ctlcluster' && -e '/usr/share/perl5/PgCommon.pm';

chomp(my $bindir = `"$ENV{PG_CONFIG}" --bindir`);
my ($root, $version) = $bindir =~ m{^(.*/)(\d+)/bin$} or plan skip_all => "not laid out as Debian does it: $bindir";
my $base = PostgreSQL::Test::Utils::tempdir('ctlcluster');
my $sockets = PostgreSQL::Test::Utils::tempdir_short();
my $port = free_port();
my $user = getpwuid($<);
my %main = (name => 'main', host => $sockets, port => $port, dir => "$base/data", user => $user);

mkdir "$base/etc";
append_to_file("$base/Elsewhere.pm", "package Elsewhere; use PgCommon; \$PgCommon::binroot = '$root'; 1;\n");
my @environment = ('/usr/bin/env', "PG_CLUSTER_CONF_ROOT=$base/etc");
my @perl = ('/usr/bin/perl', '-I/usr/share/perl5', "-I$base", '-MElsewhere');

sub command_ok_here
{
	my ($program, @arguments) = @_;
	my $output = '';
	my $done = IPC::Run::run([ @environment, @perl, $program eq 'pg_ctlcluster' ? '-T' : (), "/usr/bin/$program", @arguments ], '>&', \$output);

	ok($done, "$program @arguments[0 .. 2]") or diag $output;
	return;
}

command_ok_here('pg_createcluster', $version, 'main', '-u', $user, '-d', $main{dir}, '-s', $sockets, '-p', $port,
	'-l', "$base/main.log", '--start-conf', 'manual', '--', '--data-checksums', '--encoding=UTF8', '--locale=C', '-N');
append_to_file("$base/etc/$version/main/postgresql.conf", join("\n",
	"shared_preload_libraries = 'replica_ctl'", "replica_ctl.local_directory = '$base/replicas'",
	"replica_ctl.restart_command = '@environment @perl -T /usr/bin/pg_ctlcluster $version main start'", ''));
command_ok_here('pg_ctlcluster', $version, 'main', 'start');

is(ask(\%main, 'CREATE EXTENSION replica_ctl'), '', 'the extension');
my $started = ask(\%main, 'SELECT pg_postmaster_start_time()');
ask(\%main, q{SELECT replica_create('r1')});
is(ask(\%main, q{SELECT replica_wait('r1')}), 'succeeded', 'a replica');
my %r1 = (%main, name => 'r1');
@r1{ 'port', 'dir' } = split /\|/, ask(\%main, q{SELECT facts->>'port', facts->>'data_directory' FROM replica_ctl.replica});
END
{
	my $status = $?;
	for my $server (\%main, \%r1)
	{
		system('pg_ctl', '-s', '-D', $server->{dir}, '-m', 'immediate', 'stop') if $server->{dir} && -f "$server->{dir}/postmaster.pid";
	}
	$? = $status;
}

is(scalar switch_to(\%main, \%r1), 'succeeded', 'the switchover succeeds');
my $back = ask(\%r1, q{SELECT replica FROM replica_status WHERE state = 'streaming'});
isnt($back, '', "the old primary streams, as $back");
isnt(ask(\%main, 'SELECT pg_postmaster_start_time()'), $started, 'it was started again');
is(ask(\%main, 'SHOW config_file'), "$base/etc/$version/main/postgresql.conf", 'with the configuration of the cluster');
like(slurp_file("$main{dir}_rejoin/rejoin.log"), qr/pg_ctlcluster/, 'by pg_ctlcluster');
my $list = `PG_CLUSTER_CONF_ROOT=$base/etc /usr/bin/pg_lsclusters -h`;
like($list, qr/^$version\s+main\s+$port\s+online,recovery\s/m, 'pg_lsclusters shows it as a standby');

# the program of the cluster that is the primary now is pg_ctl's; back again
ask(\%r1, q{ALTER SYSTEM SET replica_ctl.restart_command = ''});
ask(\%r1, 'SELECT pg_reload_conf()');
wait_ask(\%r1, q{SELECT current_setting('replica_ctl.restart_command') = ''});
is(scalar switch_to(\%r1, \%main, "SELECT replica_switchover('$back')"), 'succeeded', 'and back');
wait_ask(\%main, q{SELECT state = 'streaming' FROM replica_status});
$list = `PG_CLUSTER_CONF_ROOT=$base/etc /usr/bin/pg_lsclusters -h`;
like($list, qr/^$version\s+main\s+$port\s+online\s/m, 'pg_lsclusters shows it as a primary');

done_testing();
