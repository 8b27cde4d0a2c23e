# Clients that have to find the new primary: libpq with several hosts, HAProxy
# and PgBouncer, with the configuration of docs/clients.md.
use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use ReplicaCtl;
use Test::More;
use Time::HiRes qw(sleep);
use Writers;

my $primary = new_primary('main', conf => "listen_addresses = '127.0.0.1'");
my $dir = PostgreSQL::Test::Utils::tempdir('clients');
my $user = getpwuid($<);
my $port = free_port();
my @children;

# The blocks of a language in the documentation.
sub blocks
{
	my ($language) = @_;
	my $text = slurp_file('docs/clients.md');

	return $text =~ /^```$language\n(.*?)^```$/msg;
}

sub write_file
{
	my ($name, $text) = @_;

	open my $out, '>', "$dir/$name" or die "$dir/$name: $!\n";
	print $out $text;
	close $out;
	return "$dir/$name";
}

sub start_program
{
	my ($name, @command) = @_;
	my $pid = fork // die "fork: $!\n";

	unless ($pid)
	{
		open STDOUT, '>', "$dir/$name.log";
		open STDERR, '>&', \*STDOUT;
		exec @command or exit 127;
	}
	push @children, $pid;
	return;
}

# (exit code, answer, error)
sub libpq
{
	my ($conninfo, $sql) = @_;
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run([ 'psql', '-XAtq', '-d', "dbname=postgres connect_timeout=5 $conninfo", '-c', $sql ], '>', \$out, '2>', \$err);

	chomp($out, $err);
	return ($ok ? 0 : 1, $out, $err);
}

# Whether a connection leads to this port within some seconds; '': to none.
sub leads_to
{
	my ($conninfo, $expected, $what) = @_;
	my ($rc, $out, $err);

	eval {
		wait_until(
			sub {
				($rc, $out, $err) = libpq($conninfo, 'SHOW port');
				return $expected eq '' ? $rc != 0 : $out eq $expected;
			}, $what, 15);
	};
	return is($rc == 0 ? $out : '', $expected, $what) || diag $err;
}

# ---- a primary and a replica

$primary->safe_psql('postgres', 'CREATE ROLE replica_check LOGIN');
$primary->safe_psql('postgres', qq{SELECT replica_create('r1', options => '{"port": $port}')});
is($primary->safe_psql('postgres', q{SELECT replica_wait('r1')}), 'succeeded', 'there is a replica');

my $hosts = sprintf 'host=127.0.0.1,127.0.0.1 port=%d,%d', $primary->port, $port;
my $old = $primary->port;

# ---- HAProxy, as documented

my ($write, $read) = (free_port(), free_port());
SKIP:
{
	skip 'haproxy is not installed', 1 unless have('haproxy');
	my ($config) = blocks('haproxy');

	$config =~ s/127\.0\.0\.1:5000/127.0.0.1:$write/;
	$config =~ s/127\.0\.0\.1:5001/127.0.0.1:$read/;
	$config =~ s/10\.0\.0\.1:5432/127.0.0.1:$old/g;
	$config =~ s/10\.0\.0\.2:5433/127.0.0.1:$port/g;
	start_program('haproxy', 'haproxy', '-db', '-f', write_file('haproxy.cfg', $config));
	leads_to("host=127.0.0.1 port=$write", $old, 'HAProxy: writes go to the primary');
	leads_to("host=127.0.0.1 port=$read", $port, 'HAProxy: reads go to the standby');
}

# ---- the fence

is((libpq("$hosts target_session_attrs=read-write", 'SHOW port'))[1], $old, 'libpq: writes go to the primary');
is((libpq("$hosts target_session_attrs=prefer-standby", 'SHOW port'))[1], $port, 'libpq: reads go to the standby');
$primary->safe_psql('postgres', q{SELECT replica_fence('test')});
like((libpq("$hosts target_session_attrs=read-write", 'SHOW port'))[2], qr/session is read-only.*(in hot standby|read-only)/s,
	'libpq: nobody takes writes while the primary is fenced');
leads_to("host=127.0.0.1 port=$write", '', 'HAProxy: nor here') if have('haproxy');
$primary->safe_psql('postgres', 'SELECT replica_unfence()');
is((libpq("$hosts target_session_attrs=read-write", 'SHOW port'))[1], $old, 'libpq: the primary takes them again');
leads_to("host=127.0.0.1 port=$write", $old, 'HAProxy: and here') if have('haproxy');

# ---- PgBouncer: no client sees an error

my $promoted = 0;
SKIP:
{
	skip 'pgbouncer is not installed', 1 unless have('pgbouncer');
	my ($config, $databases) = blocks('ini');
	my ($script) = blocks('sh');
	my $bouncer = free_port();
	my $socket = PostgreSQL::Test::Utils::tempdir_short();

	$config =~ s/6432/$bouncer/;
	$config =~ s/^auth_type.*/auth_type = any/m;
	$config =~ s/^auth_file.*/unix_socket_dir = $socket\nlogfile = $dir\/pgbouncer.log/m;
	$config =~ s{/etc/pgbouncer/databases.ini}{$dir/databases.ini};
	$databases =~ s/host=10.0.0.1 port=5432/host=127.0.0.1 port=$old user=$user/;
	# the clients ask for "postgres"
	s/orders/postgres/g for $databases, $script;
	$script =~ s/dbname=postgres\\n/user=$user dbname=postgres\\n/;
	write_file('databases.ini', $databases);
	start_program('pgbouncer', 'pgbouncer', write_file('pgbouncer.ini', $config));
	leads_to("host=127.0.0.1 port=$bouncer", $old, 'PgBouncer: leads to the primary');

	Writers::prepare($primary);
	my $writers = Writers->start(Bouncer->new($socket), [$bouncer], 'aamm');
	$writers->wait_rows(20);
	$ENV{PRIMARY} = "host=127.0.0.1 port=$old dbname=postgres";
	$ENV{CONSOLE} = "host=$socket port=$bouncer dbname=pgbouncer user=pgbouncer";
	$ENV{DATABASES} = "$dir/databases.ini";

	# one that fails first: the clients go on where they were
	my ($out, $err) = ('', '');
	my @promote = ('sh', write_file('promote.sh', $script));
	ok(!IPC::Run::run([ @promote, 'nobody', '127.0.0.1', 1 ], '>', \$out, '2>', \$err), 'PgBouncer: a promotion that fails');
	like($err, qr/"nobody"/, 'says why');
	sleep 0.5;
	ok(IPC::Run::run([ @promote, 'r1', '127.0.0.1', $port ], '>', \$out, '2>', \$err), 'PgBouncer: a promotion in a pause')
	  or diag "$out$err";
	$promoted = 1;
	my $query = sub { return (libpq("host=127.0.0.1 port=$port", $_[0]))[1] };
	my $here = $primary->safe_psql('postgres', 'SELECT count(*) FROM acked');
	wait_until(sub { ($query->('SELECT count(*) FROM acked') || 0) > $here }, 'writes on the new primary');
	$writers->stop;
	leads_to("host=127.0.0.1 port=$bouncer", $port, 'PgBouncer: leads to the new primary');

	my (%last, %missing, %servers);
	for my $row ($writers->acked)
	{
		my ($client, $seq) = @$row;
		$missing{$client} = 1 if $seq != ($last{$client} // 0) + 1;
		$last{$client} = $seq;
	}
	is(scalar keys %last, 4, 'four clients wrote');
	is_deeply([ keys %missing ], [], 'no client has seen an error');
	is_deeply([ $writers->lost($query) ], [], 'and no acknowledged commit is lost');
	my $there = $query->('SELECT count(*) FROM acked');
	cmp_ok($there, '>', $here, 'some were made on the new primary');
	my ($gap) = $writers->gap;
	note sprintf 'the longest pause was %.0f ms', $gap;
	cmp_ok($gap, '<', 10000, 'the clients waited for seconds at most');
}

# ---- after it

unless ($promoted)
{
	$primary->safe_psql('postgres', q{SELECT replica_promote('r1')});
	$primary->safe_psql('postgres', q{SELECT replica_wait('r1')});
}
is((libpq("$hosts target_session_attrs=read-write", 'SHOW port'))[1], $port, 'libpq: writes go to the new primary');
leads_to("host=127.0.0.1 port=$write", $port, 'HAProxy: and here') if have('haproxy');

kill 'TERM', @children;
waitpid $_, 0 for splice @children;
$primary->safe_psql('postgres', 'SELECT replica_unfence()');
$primary->safe_psql('postgres', q{SELECT replica_drop('r1', force => true)});
$primary->safe_psql('postgres', q{SELECT replica_wait('r1')});
no_orphans_ok($primary);
done_testing();

sub have
{
	my ($program) = @_;
	return scalar grep { -x "$_/$program" } split(/:/, $ENV{PATH}), '/usr/sbin';
}

END
{
	my $status = $?;
	kill 'KILL', @children if @children;
	$? = $status;
}

# What Writers wants of a node.
package Bouncer;

sub new
{
	my ($class, $host) = @_;
	return bless { host => $host }, $class;
}

sub host { return $_[0]{host} }
