# Switchover of a cluster laid out as Debian does it: configuration outside the
# data directory, started with -c config_file; with passwords over TCP; and
# with a command of one's own that starts the server.
use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $cluster = debian_cluster('main', conf => "wal_log_hints = on\nmax_wal_senders = 20\nmax_replication_slots = 20\n");
my $secret = 'pass:word\\1';

$cluster->safe_psql('postgres', 'CREATE EXTENSION replica_ctl');
$cluster->safe_psql('postgres', "CREATE ROLE deputy SUPERUSER LOGIN REPLICATION PASSWORD '$secret'");
$cluster->safe_psql('postgres', "CREATE USER MAPPING FOR postgres SERVER local OPTIONS (user 'deputy', password '$secret')");

# All logins of ours are of that role, by its password.
my $hba = slurp_file($cluster->config_dir . '/pg_hba.conf');
$cluster->rewrite('pg_hba.conf', "local all deputy scram-sha-256\nlocal replication deputy scram-sha-256\n$hba");
$cluster->safe_psql('postgres', 'SELECT pg_reload_conf()');
$cluster->safe_psql('postgres', q{SELECT replica_create('r1')});
is($cluster->safe_psql('postgres', q{SELECT replica_wait('r1')}), 'succeeded', 'a replica');

my $user = 'postgres';
my %at = (main => { name => 'main', host => $cluster->host, port => $cluster->port, dir => $cluster->data_dir, user => $user });
$at{r1} = { %{ $at{main} }, name => 'r1' };
@{ $at{r1} }{ 'port', 'dir' } = split /\|/, $cluster->safe_psql('postgres',
	q{SELECT facts->>'port', facts->>'data_directory' FROM replica_ctl.replica});
my $back = $cluster->safe_psql('postgres', 'SHOW cluster_name');
is($back, '15/main', 'the cluster has a name');

is(scalar switch_to($at{main}, $at{r1}), 'succeeded', 'the switchover succeeds');
wait_ask($at{r1}, q{SELECT replica = '15/main' AND state = 'streaming' FROM replica_status});
is(ask($at{main}, 'SHOW config_file'), $cluster->config_dir . '/postgresql.conf', 'it runs with its own configuration');
ok(!-e $cluster->data_dir . '/postgresql.conf' && !-e $cluster->data_dir . '/pg_hba.conf',
	'and has got none of the new primary\'s');
my $conninfo = ask($at{main}, 'SHOW primary_conninfo');
like($conninfo, qr/user='?deputy'? .*passfile=/, 'it logs in by the password file');
unlike($conninfo, qr/pass:word/, 'and the password is nowhere else');
my @found = grep { slurp_file($_) =~ /pass:word|pass\\:word/ } grep { -f && !/passfile$/ }
  glob($cluster->data_dir . '_rejoin/*'), glob($cluster->data_dir . '/*.conf'), $cluster->logfile;
is(join(' ', @found), '', 'not in what was written for the restart, either');

# -- a command of one's own; it is told nothing by a shell
my $program = $cluster->config_dir . '/start_it';
append_to_file($program, <<"END");
#!/bin/sh
printf '%s\\n' "\$#" "\$@" >'$at{r1}{dir}.called'
exec pg_ctl -w -D '$at{r1}{dir}' -l '$at{r1}{dir}.log' start
END
chmod 0755, $program;
ask($at{r1}, "ALTER SYSTEM SET replica_ctl.restart_command = '$program restart * \"\$HOME\";x'");
ask($at{r1}, 'SELECT pg_reload_conf()');
wait_ask($at{r1}, q{SELECT current_setting('replica_ctl.restart_command') <> ''});
like(ask($at{r1}, q{ALTER SYSTEM SET replica_ctl.restart_command = 'restart'}), qr/does not begin with an absolute path/,
	'it needs an absolute path');
is(scalar switch_to($at{r1}, $at{main}, q{SELECT replica_switchover('15/main')}), 'succeeded', 'and back');
wait_ask($at{main}, q{SELECT replica = 'r1' AND state = 'streaming' FROM replica_status});
is(slurp_file("$at{r1}{dir}.called"), "3\nrestart\n*\n\"\$HOME\";x\n", 'the command was run as it stands');
$cluster->stop;

done_testing();
