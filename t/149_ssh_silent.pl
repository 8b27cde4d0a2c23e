# 149_ssh_silent.pl
#	  Hosts that answer, but not as they should: silence, another protocol, a
#	  banner, a session that freezes; waits are bounded.  And paths there with
#	  characters that mean something to a shell.
#
# slow

use strict;
use warnings;
use lib 't';
use File::Path qw(make_path);
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;
use SshHosts;
use Time::HiRes qw(sleep time);

plan skip_all => ssh_missing() if ssh_missing();

my $primary = ssh_primary('main');
my $host = ssh_host($primary, 'h1');
my @listeners;

sub sql { return $primary->safe_psql('postgres', $_[0]); }
sub message { return sql("SELECT concat_ws(' ', step, sqlstate, message, detail, hint) FROM replica_operations WHERE operation = $_[0]"); }
sub explained { return sql(q{SELECT status || ': ' || detail || ' ' || coalesce(hint, '') FROM replica_explain('create', 'r', 'h1') WHERE name = 'ssh'}); }
sub connections { return glob $primary->data_dir . '/base/pgsql_tmp/*'; }

# A port on the host's address at which every connection is served by this.
sub listener
{
	my ($serve) = @_;
	my $socket = IO::Socket::INET->new(LocalAddr => $host->address, Listen => 5, ReuseAddr => 1) or die "listen: $!";
	my $pid = fork // die "fork: $!";

	if ($pid == 0)
	{
		while (my $client = $socket->accept) { $serve->($client); }
		POSIX::_exit(0);
	}
	push @listeners, $pid;
	sql("ALTER SERVER h1 OPTIONS (SET port '" . $socket->sockport . "')");
	return;
}

END
{
	my $status = $?;

	kill 'KILL', @listeners;
	$? = $status;
}

$host->server;

#
# What answers is no sshd
#
{
	my @clients;

	listener(sub { push @clients, $_[0] });
	my $start = time;
	like(explained(), qr/^blocked: no connection to host "127.0.0.2" by ssh.*tim(ed out|eout)/s, 'a port that says nothing');
	my $took = time - $start;
	cmp_ok($took, '<', 20, "which takes a bounded time ($took s)");
	$start = time;
	like(psql_error($primary, q{SET statement_timeout = '1s'; SELECT * FROM replica_explain('create', 'r', 'h1')}), qr/57014/, 'a look at it can be cancelled');
	cmp_ok(time - $start, '<', 8, 'at once');
	my $operation = sql(q{SELECT replica_create('r', 'h1')});
	wait_for($primary, "SELECT state = 'running' FROM replica_operations WHERE operation = $operation");
	sleep 1;
	sql("SELECT replica_cancel($operation)");
	is(wait_operation($primary, $operation, 20), 'cancelled', 'and so can a create');
	is(join(' ', connections()), '', 'nothing is left of the connections');
	is(sql('SELECT count(*) FROM replica_ctl.replica'), '0', 'nor of the replica');
}
listener(sub { print { $_[0] } "HTTP/1.1 400 Bad Request\r\n\r\n"; $_[0]->flush; close $_[0] });
like(explained(), qr/^blocked: no connection to host "127.0.0.2" by ssh/, 'a port of another protocol');
listener(sub { close $_[0] });
like(explained(), qr/^blocked: no connection to host "127.0.0.2" by ssh.*BatchMode/s, 'a port that hangs up');
sql(q{ALTER SERVER h1 OPTIONS (SET port '} . $host->port . q{')});

#
# A banner before the login
#
{
	append_to_file($host->base . '/etc/banner', "Authorized use only.\nPermission denied to all others.\nHost key verification failed\n");
	$host->{sshd_config} = 'Banner "' . $host->base . '/etc/banner"';
	$host->stop;
	$host->start;
	like(explained(), qr/^ok/, 'what is said before the login does not matter');
	$host->write('authorized_keys', '');
	like(explained(), qr/^blocked: host "127.0.0.2" refuses the login/, 'nor is it mistaken for the reason');
	$host->write('authorized_keys', slurp_file($host->base . '/etc/user_key.pub'));
	$host->{sshd_config} = '';
	$host->stop;
	$host->start;
}

#
# The session there freezes in the middle of the copy
#
sql('CREATE TABLE big AS SELECT repeat(md5(i::text), 20) AS t FROM generate_series(1, 10000) i');
{
	my $operation = sql(q{SELECT replica_create('r', 'h1', '{"max_rate": 4096}')});

	wait_for($primary, "SELECT phase = 'copying' AND bytes_done > 0 FROM replica_operations WHERE operation = $operation");
	my @frozen = $host->sessions;
	my @copies = grep { ReplicaCtl::command_of($_) =~ m{^\S*/pg_basebackup} } ReplicaCtl::processes_of($host->home);
	my $start = time;
	kill 'STOP', @frozen;
	wait_for($primary, "SELECT count(*) > 0 FROM replica_ctl.operation_step WHERE operation_id = $operation AND outcome = 'failed'", 60);
	my $took = time - $start;
	cmp_ok($took, '>', 5, 'it takes a while until nobody is believed to be there');
	cmp_ok($took, '<', 40, "a session that freezes is given up ($took s)");
	wait_until(sub { !grep { kill 0, $_ } @copies }, 'the end of the old pg_basebackup', 60);
	is(wait_operation($primary, $operation, 120), 'succeeded', 'and the copy is made again') or diag(message($operation));
	kill 'KILL', @frozen;
	sql(q{SELECT replica_drop('r')});
	is(sql(q{SELECT replica_wait('r', '60s')}), 'succeeded', 'drop');
}

#
# Paths
#
{
	my $space = PostgreSQL::Test::Utils::tempdir('space');
	my $odd = q{a b'c"d$(touch x)`e`;f&g*[h]\\i%d};
	my $base = $host->home;
	my ($dir, $there) = ("$base/$odd", "$base/ts $odd");

	sql("CREATE TABLESPACE space LOCATION '$space'");
	sql('CREATE TABLE s TABLESPACE space AS SELECT 1 AS i');
	my $options = $primary->safe_psql('postgres',
		q{SELECT jsonb_build_object('data_directory', $d$} . $dir . q{$d$, 'tablespace_mapping', jsonb_build_object('} . $space . q{', $d$} . $there . q{$d$))});
	$options =~ s/'/''/g;
	sql("SELECT replica_create('odd', 'h1', '$options')");
	is(sql(q{SELECT replica_wait('odd', '60s')}), 'succeeded', 'directories that no quoting survives but the right one');
	ok(-f "$dir/PG_VERSION" && -d $there, 'are where they were asked for');
	my ($pid) = slurp_file("$dir/postmaster.pid") =~ /^(\d+)/;
	kill 'QUIT', $pid;
	wait_until(sub { !kill 0, $pid }, 'the end of the replica');
	unlink "$dir/global/pg_control";
	sql(q{SELECT replica_repair('odd')});
	is(sql(q{SELECT replica_wait('odd', '60s')}), 'succeeded', 'a new copy in their place');
	sql(q{SELECT replica_drop('odd')});
	is(sql(q{SELECT replica_wait('odd', '60s')}), 'succeeded', 'drop');
	ok(!-e $dir && !-e $there && !-e "$base/x" && !-e 'x', 'they are gone, and no shell has read their names');
}

is(join("\n", orphans($primary), $host->left, connections()), '', 'nothing is left');
done_testing();
