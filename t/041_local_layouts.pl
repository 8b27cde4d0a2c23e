# 041_local_layouts.pl
#	  Local replicas of servers that are not laid out as initdb does it:
#	  Debian's, without a socket, on TCP only with passwords, under a service
#	  manager.  And what happens where logins are refused.

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;

# Files below a directory that hold the text and that others could read.
sub holders
{
	my ($text, @places) = @_;
	my ($out, $err);

	IPC::Run::run([ 'grep', '-rlaF', $text, @places ], '>', \$out, '2>', \$err);
	return sort split /\n/, $out;
}

#
# Debian: configuration elsewhere, included files, peer authentication.
#
my $debian = debian_cluster('main', conf => "work_mem = '6MB'\nmax_connections = 30");
$debian->rewrite('conf.d/zz.conf', "include_if_exists = 'extra.inc'\nmaintenance_work_mem = '33MB'\n");
$debian->rewrite('conf.d/extra.inc', "work_mem = '9MB'\n");
$debian->append('pg_hba.conf', 'local @dbs.txt nobody peer');
$debian->rewrite('dbs.txt', "nosuchdb\n");
$debian->stop;
$debian->start;
$debian->safe_psql('postgres', 'CREATE EXTENSION replica_ctl');
$debian->safe_psql('postgres', q{ALTER SYSTEM SET log_statement = 'ddl'});
$debian->safe_psql('postgres', q{ALTER ROLE postgres SET work_mem = '2MB'});
$debian->safe_psql('postgres', q{SELECT pg_reload_conf()});
$debian->safe_psql('postgres', q{SELECT replica_create('r1')});
is($debian->safe_psql('postgres', q{SELECT replica_wait('r1', '60s')}), 'succeeded', 'a replica of a Debian cluster');
my $dir = $debian->replica_dir . '/r1';
my $port = $debian->safe_psql('postgres', q{SELECT facts->>'port' FROM replica_ctl.replica});

sub on_debian
{
	my ($sql) = @_;
	my ($out, $err);

	IPC::Run::run([ 'psql', '-XAtq', '-h', $debian->host, '-p', $port, '-U', 'postgres', '-d', 'postgres', '-c', $sql ],
		'>', \$out, '2>', \$err);
	chomp($out, $err);
	return $out . $err;
}
is(on_debian(q{SELECT setting FROM pg_file_settings WHERE name = 'work_mem'}), '9MB', 'the setting that counts, not the role\'s');
is(on_debian('SHOW maintenance_work_mem'), '33MB', 'a setting of an included file');
is(on_debian('SHOW log_statement'), 'ddl', 'a setting of ALTER SYSTEM');
is(on_debian('SHOW config_file'), "$dir/postgresql.conf", 'its configuration is in its own directory');
is(on_debian('SHOW hba_file'), "$dir/pg_hba.conf", 'pg_hba.conf too');
is(on_debian('SHOW external_pid_file'), '', 'no shared pid file');
is(on_debian(q{SELECT database FROM pg_hba_file_rules WHERE user_name = '{nobody}'}), '{nosuchdb}', 'a list of names is still found');
is(on_debian(q{SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL}), '0', 'no errors in pg_hba.conf');
$debian->stop('immediate');
is(on_debian('SELECT pg_is_in_recovery()'), 't', 'it survives its primary');
$debian->start;
$debian->safe_psql('postgres', q{SELECT replica_drop('r1')});
is($debian->safe_psql('postgres', q{SELECT replica_wait('r1', '60s')}), 'succeeded', 'dropped');
ok(!-e $debian->replica_dir, 'with the directory of replicas');
is($debian->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'), '0', 'and its slot');
$debian->stop;

#
# No socket, TCP with a password; the mapping tells it.
#
my $password = q{s3c:r\et 'x"};
my $tcp = new_primary('tcp', conf => 'log_statement = none');
my $tcp_port = $tcp->port;

sub tcp_sql
{
	my ($sql, %options) = @_;
	my ($out, $err);
	local $ENV{PGPASSWORD} = $password;
	local $ENV{PGCLIENTENCODING} = 'UTF8';

	IPC::Run::run([ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-h', '127.0.0.1', '-p', $options{port} // $tcp_port, '-U', 'boss', '-d', 'postgres', '-c', $sql ],
		'>', \$out, '2>', \$err);
	chomp($out, $err);
	return $out . $err;
}

(my $quoted = $password) =~ s/'/''/g;
$tcp->safe_psql('postgres', "CREATE ROLE boss SUPERUSER LOGIN PASSWORD '$quoted'");
$tcp->safe_psql('postgres', "CREATE ROLE copier REPLICATION LOGIN PASSWORD '$quoted'");
$tcp->stop;
$tcp->append_conf('postgresql.conf', "unix_socket_directories = ''\nlisten_addresses = '127.0.0.1'");
{
	open my $hba, '>', $tcp->data_dir . '/pg_hba.conf' or die;
	print $hba "host all,replication all 127.0.0.1/32 scram-sha-256\n";
	close $hba;
}
# the helper's own start would look at the socket
system_or_bail('pg_ctl', '-w', '-D', $tcp->data_dir, '-l', $tcp->logfile, 'start');

tcp_sql(q{SELECT replica_create('r1')});
my $error = tcp_sql(q{SELECT replica_wait('r1', '60s')});
like($error, qr/28000.*could not log in to this server for replication/s, 'no password: a clear error');
like($error, qr/127\.0\.0\.1 port $tcp_port as "boss"/, 'that lists what was tried');
like($error, qr/HINT:.*CREATE USER MAPPING FOR boss SERVER local OPTIONS/, 'and says what to do');
tcp_sql(q{SELECT replica_drop('r1')});
tcp_sql(q{SELECT replica_wait('r1', '60s')});

tcp_sql("CREATE USER MAPPING FOR boss SERVER local OPTIONS (user 'boss', password '$quoted')");
tcp_sql(q{SELECT replica_create('r1')});
is(tcp_sql(q{SELECT replica_wait('r1', '60s')}), 'succeeded', 'with a user mapping');
my $rport = tcp_sql(q{SELECT facts->>'port' FROM replica_ctl.replica});
my $rdir = replica_dir($tcp) . '/r1';
is(tcp_sql('SELECT pg_is_in_recovery()', port => $rport), 't', 'the replica lets the same role in');
is(tcp_sql(q{SELECT state FROM pg_stat_replication}), 'streaming', 'it streams');
unlike(slurp_file("$rdir/postgresql.auto.conf"), qr/s3c/, 'no password in primary_conninfo');

# the catalog is where the user has put it
my @holders = grep { !m{/(base|global|pg_wal)/} } holders('s3c', $tcp->basedir);
is_deeply(\@holders, ["$rdir/pgsql_tmp.replica_ctl.passfile"], 'the password is in one file');
is((stat $holders[0])[2] & 07777, 0600, 'that nobody else can read');
is_deeply([ holders('s3c', $tcp->logfile) ], [], 'not in the log') if -e $tcp->logfile;
is(tcp_sql(q{SELECT count(*) FROM replica_ctl.event WHERE event::text LIKE '%s3c%'}), '0', 'not in an event');

my $backup = PostgreSQL::Test::Utils::tempdir('backup');
{
	local $ENV{PGPASSWORD} = $password;
	system_or_bail('pg_basebackup', '-h', '127.0.0.1', '-p', $rport, '-U', 'boss', '-D', $backup, '-c', 'fast');
}
is(-e "$backup/pgsql_tmp.replica_ctl.passfile" ? 1 : 0, 0, 'base backups of the replica leave it out');

# cascading through the same login
tcp_sql(q{SELECT replica_create('r2', options => '{"upstream": "r1"}')});
is(tcp_sql(q{SELECT replica_wait('r2', '60s')}), 'succeeded', 'a cascaded one');
for my $name ('r2', 'r1')
{
	tcp_sql("SELECT replica_drop('$name')");
	is(tcp_sql("SELECT replica_wait('$name', '60s')"), 'succeeded', "drop of $name");
}

# a wrong password, and a role that may replicate but not promote
tcp_sql(q{ALTER USER MAPPING FOR boss SERVER local OPTIONS (SET password 'wrong')});
tcp_sql(q{SELECT replica_create('r1')});
like(tcp_sql(q{SELECT replica_wait('r1', '60s')}), qr/28000.*password authentication failed/s, 'a wrong password');
tcp_sql(q{SELECT replica_drop('r1')});
tcp_sql(q{SELECT replica_wait('r1', '60s')});
tcp_sql("ALTER USER MAPPING FOR boss SERVER local OPTIONS (SET user 'copier', SET password '$quoted')");
tcp_sql(q{SELECT replica_create('r1')});
like(tcp_sql(q{SELECT replica_wait('r1', '60s')}), qr/28000.*may not promote/s, 'a role that may not promote');
tcp_sql(q{SELECT replica_drop('r1')});
tcp_sql(q{SELECT replica_wait('r1', '60s')});
is(tcp_sql('SELECT count(*) FROM pg_replication_slots'), '0', 'nothing is left');
is(join(' ', glob replica_dir($tcp) . '/*'), '', 'nowhere');
system_or_bail('pg_ctl', '-w', '-D', $tcp->data_dir, '-m', 'fast', 'stop');
$tcp->{_pid} = undef;

#
# pg_hba.conf without replication.
#
my $closed = new_primary('closed', hba => "local all all trust\n");
$closed->safe_psql('postgres', q{SELECT replica_create('r1')});
$error = psql_error($closed, q{SELECT replica_wait('r1', '60s')});
like($error, qr/28000.*no pg_hba.conf entry/s, 'no replication in pg_hba.conf');
like($error, qr/HINT:.*local  replication  \S+  peer/, 'the hint has the line that is missing');
$closed->safe_psql('postgres', q{SELECT replica_drop('r1')});
$closed->safe_psql('postgres', q{SELECT replica_wait('r1', '60s')});
no_orphans_ok($closed);

done_testing();
