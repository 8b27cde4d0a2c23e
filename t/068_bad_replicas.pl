# Replicas that answer nonsense, another system, errors, slowly or not at all,
# and names that need escaping: each is told for what it is, and none of them
# disturbs another.
#
# slow

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $other = PostgreSQL::Test::Cluster->new('other');
$other->init;
$other->start;

# A library for which a name that begins with "slow" takes long to look up, and
# one that begins with "good" is this host.
my $library = "$ENV{TESTDIR}/names.so";
open my $c, '>', "$library.c" or die "$library.c: $!";
print $c <<'END';
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
	int			(*real) (const char *, const char *, const struct addrinfo *, struct addrinfo **) =
		(int (*) (const char *, const char *, const struct addrinfo *, struct addrinfo **)) dlsym(RTLD_NEXT, "getaddrinfo");

	if (node && !(hints && (hints->ai_flags & AI_NUMERICHOST)))
	{
		if (strncmp(node, "slow", 4) == 0)
		{
			sleep(20);
			return EAI_AGAIN;
		}
		if (strncmp(node, "bad", 3) == 0)
			return EAI_NONAME;
		if (strncmp(node, "good", 4) == 0)
			node = "127.0.0.1";
	}
	return real(node, service, hints, result);
}
END
close $c;
system_or_bail('cc', '-shared', '-fPIC', '-o', $library, "$library.c");

my $primary = new_primary('bad', start => 0, conf => <<'END');
autovacuum = off
listen_addresses = '127.0.0.1'
END
{
	local $ENV{LD_PRELOAD} = $library;
	$primary->start;
}
$primary->safe_psql('postgres', 'CREATE EXTENSION replica_ctl');
sub sql { return $primary->safe_psql('postgres', shift); }
sub set { return sql("ALTER SYSTEM SET replica_ctl.$_[0] = '$_[1]'; SELECT pg_reload_conf()"); }

# ---- servers that misbehave ----

sub message { my ($type, $body) = @_; return $type . pack('N', 4 + length $body) . $body; }

my $logged_in = message('R', pack('N', 0)) . message('Z', 'I');

# The answer to the query: so many columns, with these values.
sub row
{
	my (@values) = @_;
	my $columns = pack('n', scalar @values) . join '', map { "c$_\0" . pack('NnNnNn', 0, 0, 25, 0xffff, 0xffffffff, 0) } 0 .. $#values;
	my $data = pack('n', scalar @values) . join '', map { defined $_ ? pack('N', length $_) . $_ : pack('N', 0xffffffff) } @values;
	return message('T', $columns) . message('D', $data) . message('C', "SELECT 1\0") . message('Z', 'I');
}

sub error { return message('E', "SFATAL\0VFATAL\0C$_[0]\0M$_[1]\0\0"); }

my $system = sql('SELECT system_identifier FROM pg_control_system()');
my %bad = (
	garbage => { connect => "\x00\xff" x 4000 },
	http => { connect => "HTTP/1.1 400 Bad Request\r\n\r\n" },
	refuses => { connect => error('28P01', qq{password authentication failed for user "<b>\x{1b}[31m\xff\xfe"\nand more}) },
	empty => { connect => $logged_in, answer => message('I', '') . message('Z', 'I') },
	columns => { connect => $logged_in, answer => row('t') },
	nonsense => { connect => $logged_in, answer => row('t', $system, 'no lsn', 'nor this', 'f', 't', '1', undef) },
	nulls => { connect => $logged_in, answer => row((undef) x 8) },
	huge => { connect => $logged_in, answer => row('t', 'x' x 3000000, undef, undef, 'f', 't', '1', undef) },
	fails => { connect => $logged_in, answer => error('XX000', 'long ' x 200) . message('Z', 'I') },
	hangs => { connect => $logged_in },
	mute => {},
	closes => { close => 1 });

# One process serves them all.
my %listener;
for my $name (sort keys %bad)
{
	my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 20) or die "listen: $!";
	$listener{ fileno $socket } = [ $socket, $name ];
	$bad{$name}{port} = $socket->sockport;
}
my $server = fork // die "fork: $!";
if ($server == 0)
{
	my $select = IO::Select->new(map { $_->[0] } values %listener);
	my %client;
	$SIG{PIPE} = 'IGNORE';
	while (1)
	{
		for my $ready ($select->can_read(1))
		{
			if (my $listening = $listener{ fileno $ready })
			{
				my $socket = $ready->accept or next;
				next if $bad{ $listening->[1] }{close};
				$client{ fileno $socket } = [ $socket, $listening->[1], 0 ];
				$select->add($socket);
				next;
			}
			my $client = $client{ fileno $ready };
			my $behaviour = $bad{ $client->[1] };
			my $data;
			if (!sysread $ready, $data, 65536)
			{
				$select->remove($ready);
				delete $client{ fileno $ready };
				close $ready;
				next;
			}
			# no encryption is on offer
			if ($behaviour->{connect} && $client->[2] == 0 && $client->[1] !~ /garbage|http/ && length $data == 8)
			{
				syswrite $ready, 'N';
				next;
			}
			my $what = $client->[2]++ ? 'answer' : 'connect';
			$ready->blocking(1);
			syswrite $ready, $behaviour->{$what} if defined $behaviour->{$what};
		}
	}
}
END { local $?; kill 'KILL', $server if $server; }

# ---- their rows ----

sub register
{
	my ($name, $host, $port) = @_;
	$name =~ s/'/''/g;
	sql(qq{INSERT INTO replica_ctl.replica (name, server, state, options, facts, created_by, system_identifier, timeline_id, home)
		VALUES ('$name', 'local', 'streaming', '{}', jsonb_build_object('application_name', '$name', 'slot', 's_' || md5('$name'),
			'host', '$host', 'port', '$port', 'login_host', '$host', 'login_port', '$port', 'login_user', 'me'), current_user, '', 1, '')});
	return;
}
is(wait_operation($primary, sql(q{SELECT replica_create('good')})), 'succeeded', 'a good replica');
register($_, '127.0.0.1', $bad{$_}{port}) for sort keys %bad;
register('other', $other->host, $other->port);
register('nobody', '127.0.0.1', free_port());
register("slow$_", "slow$_.example", 5432) for 1 .. 20;
register('bad', 'bad.example', 5432);
register('named', 'good.example', $bad{nonsense}{port});
register('several', 'bad.example,good.example', "1,$bad{nonsense}{port}");
sql(q{SELECT replica_claim()});

my %expected = (
	garbage => qr/\S/,
	http => qr/expected authentication request|received invalid response/,
	refuses => qr/password authentication failed for user "<b>[^\x00-\x1f]*"$/,
	empty => qr/^its answer makes no sense$/,
	columns => qr/^its answer makes no sense$/,
	nonsense => qr/^its answer makes no sense$/,
	nulls => qr/^another database system answers there$/,
	huge => qr/^another database system answers there$/,
	fails => qr/^(?:ERROR|FATAL):\s+long long .*\S$/,
	hangs => qr/^it does not answer in time$/,
	mute => qr/^it accepts no connection in time$/,
	closes => qr/closed the connection|Connection reset/,
	other => qr/^another database system answers there$|role "me" does not exist/,
	nobody => qr/Connection refused/,
	bad => qr/^could not translate host name "bad.example" to address: Name or service not known$/,
	named => qr/^its answer makes no sense$/,
	several => qr/^its answer makes no sense$/,
	(map { ("slow$_" => qr/^its host name is not found in time$/) } 1 .. 20));

my $slowest = 0;
my $deadline = time + 25;
while (time < $deadline)
{
	my $start = time;
	my $missing = sql(q{SELECT count(*) FROM replica_status WHERE replica <> 'good' AND message IS NULL});
	$slowest = time - $start if time - $start > $slowest;
	last if $missing == 0;
	sleep 0.3;
}
cmp_ok($slowest, '<', 1, 'views answer at once');
for my $name (sort keys %expected)
{
	my ($state, $connected, $message) = split /\|/, sql("SELECT state, connected, message FROM replica_status WHERE replica = '$name'"), 3;
	is("$state $connected", 'disconnected f', "$name is not connected");
	like($message, $expected{$name}, "$name: the reason");
	unlike($message, qr/[\x00-\x1f\x7f]/, "$name: without control characters");
	cmp_ok(length $message, '<=', 200, "$name: a line");
}
is(sql(q{SELECT state, connected, lag, message IS NULL FROM replica_status WHERE replica = 'good'}), 'streaming|t|00:00:00|t',
	'the good one is not disturbed');
my $count = sql(q{SELECT count(*) FROM replica_metrics_history WHERE metric = 'ReplicaLag' AND replica = 'good'
	AND sampled_at > clock_timestamp() - interval '10 s'});
cmp_ok($count, '>=', 6, 'it was sampled all the while');
cmp_ok(sql(q{SELECT count(*) FROM replica_metrics WHERE value = 'NaN' OR value < 0}), '==', 0, 'no metric is nonsense');

# ---- names ----

sql(q{DELETE FROM replica_ctl.replica WHERE name <> 'good'});
sql(q{SELECT replica_claim()});
my $name = q{a"b<i>&'\\} . '日';
my $quoted = $name =~ s/'/''/gr;
is(wait_operation($primary, sql("SELECT replica_create('$quoted')")), 'succeeded', 'a replica with an odd name');
wait_for($primary, "SELECT state = 'streaming' FROM replica_status WHERE replica = '$quoted'");
is(sql("SELECT count(*) FROM $_ WHERE replica = '$quoted'"), 1, "$_ has it") for qw(replica_lag replica_status);
is(sql("SELECT count(*) FROM replica_slots WHERE replica = '$quoted' AND owned AND slot_name ~ '^[a-z0-9_]+\$'"), 1, 'its slot has a plain name');
is(sql("SELECT count(*) FROM replica_metrics WHERE replica = '$quoted' AND metric = 'ReplicaLag'"), 1, 'replica_metrics has it');
my $event = sql("SELECT to_json(e) FROM replica_events e WHERE replica = '$quoted' ORDER BY event DESC LIMIT 1");
is(decode_json($event)->{replica}, decode_json(qq{["a\\"b<i>&'\\\\日"]})->[0], 'an event is JSON');
set('slot_wal_limit', '1MB');
sql('CREATE TABLE t (x text); ALTER TABLE t ALTER x SET STORAGE EXTERNAL;
	INSERT INTO t SELECT repeat(md5(i::text), 100) FROM generate_series(1, 1000) i');
my ($postmaster) = split /\n/, slurp_file(sql("SELECT facts->>'data_directory' FROM replica_ctl.replica WHERE name = '$quoted'") . '/postmaster.pid');
kill 'QUIT', $postmaster;
wait_for($primary, "SELECT state = 'stopped' FROM replica_status WHERE replica = '$quoted'");
sql('INSERT INTO t SELECT x FROM t');
wait_for($primary, "SELECT verdict = 'critical' FROM replica_slots WHERE replica = '$quoted'");
my ($statement) = sql("SELECT advice FROM replica_slots WHERE replica = '$quoted'") =~ /: (SELECT .*;)$/;
wait_for($primary, "SELECT count(*) = 1 FROM replica_events WHERE kind = 'slot_critical' AND replica = '$quoted'");
is(sql("SELECT detail->>'advice' FROM replica_events WHERE kind = 'slot_critical' AND replica = '$quoted'") =~ /\Q$statement\E/, 1, 'the event has the advice');
is(wait_operation($primary, sql($statement)), 'succeeded', 'which is good SQL');
like(sql('SELECT replica_report()'), qr/a&quot;b&lt;i&gt;&amp;&#39;\\&#x65E5;/, 'the report escapes it');
is(wait_operation($primary, sql("SELECT replica_drop('$quoted', true)")), 'succeeded', 'dropped');

# ---- settings ----

my %refused = (
	sample_interval => [ '0', q('99ms'), q('1d'), '-1', q('soon') ],
	history_size => [ '9', '86401', '-1' ],
	max_replicas => [ '0', '1001' ],
	disk_reserve => [ '-1', q('1kg') ],
	slot_wal_limit => ['-1'],
	slot_inactive_limit => ['-1'],
	slot_action => ['destroy'],
	slot_scope => ['logical']);
for my $setting (sort keys %refused)
{
	like(psql_error($primary, "ALTER SYSTEM SET replica_ctl.$setting = $_"), qr/22023/, "$setting = $_ is refused")
	  for @{ $refused{$setting} };
}
sql("ALTER SYSTEM SET replica_ctl.$_->[0] = $_->[1]") for [ history_size => 86400 ], [ max_replicas => 1000 ], [ sample_interval => 100 ];
is(wait_operation($primary, sql(q{SELECT replica_drop('good', true)})), 'succeeded', 'dropped');
$primary->restart;
wait_for($primary, q{SELECT count(*) = 1 FROM replica_wal_usage});
is(sql('SELECT count(*) FROM replica_metrics_history') % 1, 0, 'a history of the greatest size works');

# More than the machine has: PostgreSQL says so, and nothing is lost.
$primary->stop;
SKIP:
{
	my ($pages) = `ulimit -v 1500000 2>&1; ulimit -v` =~ /(\d+)/ or skip 'there is no limit of memory', 2;
	my $command = sprintf q{ulimit -v 400000; pg_ctl -w -D '%s' -l '%s' start}, $primary->data_dir, $primary->logfile;
	isnt(system('sh', '-c', "$command >/dev/null 2>&1"), 0, 'a history that does not fit into memory');
	like(slurp_file($primary->logfile), qr/could not map anonymous shared memory|Cannot allocate memory|out of memory/, 'the log says why');
}
$primary->append_conf('postgresql.auto.conf', "replica_ctl.history_size = 10\nreplica_ctl.max_replicas = 1\n");
$primary->start;
wait_for($primary, q{SELECT count(*) = 1 FROM replica_wal_usage});
sleep 2;
cmp_ok(sql('SELECT count(DISTINCT sampled_at) FROM replica_metrics_history'), '<=', 10, 'the smallest history');
no_orphans_ok($primary);
done_testing();
