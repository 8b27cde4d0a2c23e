# Making a replica of a small idle primary over ssh to the loopback, against
# the same on this host, in turns; and the write gap of a planned promotion of
# either.  Then the same with some data, RCTL_BENCH_MB (1024).
#
# Goals: a create takes at most 1.3 times as long; the gap is the same.

use strict;
use warnings;
use Bench;

my $rounds = $ENV{RCTL_BENCH_ROUNDS} || 10;
my ($wrapper) = glob '/usr/lib/*/libnss_wrapper.so';

print "### Creating a replica over ssh ($rounds rounds)\n\n";
unless (-x '/usr/sbin/sshd' && defined $wrapper)
{
	print "needs the packages openssh-server and libnss-wrapper\n";
	exit 0;
}

my $server = Bench::Server->new('primary', settings => { listen_addresses => "'127.0.0.1'" });
my $etc = $server->scratch('ssh');
my ($name, undef, $uid, $gid) = getpwuid($<);
my %where = (local => 'local', basebackup => 'local', ssh => 'host');
my %options = (local => '{}', basebackup => '{"method": "basebackup"}', ssh => '{}');
my (%create, %gap);

start_host();
$server->sql('CREATE TABLE t AS SELECT g AS id, md5(g::text) AS text FROM generate_series(1, 100000) g');
measure($rounds);
creates();
print "\n";
table(
	[ 'planned promotion: writes were stopped for', 'median', 'worst' ],
	map { [ $_->[0], ms(median(@{ $gap{ $_->[1] } })), ms(percentile(100, @{ $gap{ $_->[1] } })) ] }
	  [ 'a replica here', 'basebackup' ], [ 'a replica over ssh', 'ssh' ]);

my $megabytes = $ENV{RCTL_BENCH_MB} // 1024;
exit 0 unless $megabytes;
$server->sql("CREATE TABLE big AS SELECT g, repeat('x', 1900) AS text FROM generate_series(1, $megabytes * 512) g");
my $size = $server->sql('SELECT pg_size_pretty(sum(pg_database_size(oid))) FROM pg_database');
print "\nWith $size of data:\n\n";
measure($rounds < 3 ? $rounds : 3);
creates();

# Makes, promotes and drops a replica of each kind, in turns.
sub measure
{
	my ($times) = @_;

	%create = %gap = ();
	for my $round (0 .. $times)
	{
		my @turns = sort keys %where;

		# each goes first as often as the others
		push @turns, shift @turns for 1 .. $round % 3;
		for my $what (@turns)
		{
			my $replica = "${what}_$round";
			my $took = timed
			{
				$server->sql("SELECT replica_create('$replica', '$where{$what}', '$options{$what}')");
				$server->sql("SELECT replica_wait('$replica')");
			};
			my $gap = promote($replica);

			$server->sql("SELECT replica_drop('$replica', force => true)");
			$server->sql("SELECT replica_wait('$replica')");

			# the first round warms the caches
			next if $round == 0;
			push @{ $create{$what} }, $took;
			push @{ $gap{$what} }, $gap;
		}
	}
	return;
}

sub creates
{
	table(
		[ 'what', 'median', 'worst', 'times local' ],
		map { my $values = $create{$_->[1]}; [ $_->[0], seconds(median(@$values)), seconds(percentile(100, @$values)),
				sprintf('%.2f', median(@$values) / median(@{ $create{ $_->[2] } })) ] }
		  [ 'create here, default method', 'local', 'local' ],
		  [ 'create here, pg_basebackup', 'basebackup', 'local' ],
		  [ 'create over ssh', 'ssh', 'local' ],
		  [ 'create over ssh, against pg_basebackup here', 'ssh', 'basebackup' ]);
	return;
}

# Seconds for which writes were stopped, as the event has it.
sub promote
{
	my ($replica) = @_;

	$server->sql("SELECT replica_promote('$replica', source_after => 'read_write')");
	$server->sql("SELECT replica_wait('$replica')");
	return $server->sql(qq{SELECT (detail->>'writes_stopped_ms')::float / 1000 FROM replica_events
		WHERE replica = '$replica' AND detail ? 'writes_stopped_ms' ORDER BY event DESC LIMIT 1}) || 0;
}

sub write_file
{
	my ($file, $text) = @_;

	open my $out, '>', "$etc/$file" or die "$etc/$file: $!\n";
	print $out $text;
	close $out;
	chmod 0600, "$etc/$file";
	return;
}

sub read_file
{
	my ($file) = @_;

	open my $in, '<', "$etc/$file" or die "$etc/$file: $!\n";
	local $/;
	return <$in>;
}

# An sshd of ours on the loopback, for a user with a shell.
sub start_host
{
	my $port = $server->free_port;
	my ($bindir) = grep { -x "$_/postgres" } split /:/, $ENV{PATH};

	mkdir $etc or die "$etc: $!\n";
	run('ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', "$etc/$_") for 'host_key', 'user_key';
	write_file('authorized_keys', read_file('user_key.pub'));
	write_file('known_hosts', "[127.0.0.1]:$port " . read_file('host_key.pub'));
	write_file('ssh_config', '');
	write_file('passwd', "$name:x:$uid:$gid:bench:$etc:/bin/sh\n");
	write_file('group', "$name:x:$gid:\n");
	write_file('sshd_config', join("\n", "ListenAddress 127.0.0.1:$port", "HostKey $etc/host_key",
			"AuthorizedKeysFile $etc/authorized_keys", "PidFile $etc/pid", 'StrictModes no', 'UsePAM no',
			'PasswordAuthentication no', 'KbdInteractiveAuthentication no', ''));
	{
		local @ENV{ 'LD_PRELOAD', 'NSS_WRAPPER_PASSWD', 'NSS_WRAPPER_GROUP' } = ($wrapper, "$etc/passwd", "$etc/group");
		run('/usr/sbin/sshd', '-f', "$etc/sshd_config", '-E', "$etc/log");
	}
	wait_until(sub { -s "$etc/pid" }, 'sshd');
	$server->sql(qq{CREATE SERVER host FOREIGN DATA WRAPPER replica_ssh OPTIONS (host '127.0.0.1', port '$port', user '$name',
		identity_file '$etc/user_key', known_hosts_file '$etc/known_hosts', ssh_config '$etc/ssh_config',
		bindir '$bindir', directory '} . $server->scratch('hosts.replicas') . q{')});
	return;
}

END
{
	my $status = $?;

	kill 'TERM', read_file('pid') =~ /(\d+)/ if defined $etc && -s "$etc/pid";
	$? = $status;
}
