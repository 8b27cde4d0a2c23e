# 141_ssh_errors.pl
#	  What can be wrong with another host, met before anything is made there:
#	  clear errors in bounded time, and nothing left.  And the quoting of what is
#	  sent there, against real shells.

use strict;
use warnings;
use lib 't';
use File::Path qw(make_path);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;
use SshHosts;
use Time::HiRes qw(time);

plan skip_all => ssh_missing() if ssh_missing();

my $primary = ssh_primary('main');
my $host = ssh_host($primary, 'h1');
my $base = $host->base;

sub sql { return $primary->safe_psql('postgres', $_[0]); }

# An option of the server, or none.
sub with
{
	my ($option, $value) = @_;

	sql("ALTER SERVER h1 OPTIONS (SET $option '$value')");
	return;
}

# The error of a create, without its retries; how long it took is checked.
sub failure
{
	my ($options) = @_;
	my $start = time;
	my $operation = sql("SELECT replica_create('r', 'h1', '" . ($options // '{}') . "')");

	wait_operation($primary, $operation, 90);
	my $error = psql_error($primary, q{SELECT replica_wait('r')});
	my $took = time - $start;
	diag("it took $took s") if $took > 60;
	sql(q{SELECT replica_drop('r', force => true)});
	wait_for($primary, q{SELECT count(*) = 0 FROM replica_ctl.replica}, 60);
	return $error;
}

# The rows of replica_explain for a check, the first unless it is named.
sub explained
{
	my ($check) = @_;
	return sql(q{SELECT status || ': ' || coalesce(detail, '') || ' ' || coalesce(hint, '')
		FROM replica_explain('create', 'r', 'h1') WHERE name = '} . ($check // 'ssh') . q{'});
}

#
# Quoting: what a shell makes of it is what it was.
#
SKIP:
{
	skip 'needs a test build', 4 unless test_build($primary);
	sql(q{CREATE FUNCTION quote_for_sh(bytea) RETURNS bytea AS 'replica_ctl', 'rctl_test_ssh_quote' LANGUAGE C STRICT;
		CREATE FUNCTION words(text) RETURNS text AS 'replica_ctl', 'rctl_test_ssh_words' LANGUAGE C STRICT});
	my $seed = $ENV{RCTL_TEST_SEED} // time;
	note("RCTL_TEST_SEED=$seed");
	srand($seed);
	my @pieces = ("'", '"', '\\', "\n", ' ', "\t", "\r", '$', '`', '$(touch x)', '*', '?', '[a-z]', '~', '#', '!', '&', ';', '|',
		'<', '>', '(', ')', '{a,b}', '-', '--', '-n', '=', '%s', '%', "\xc3\xa9", "\xe2\x82\xac", "\xff", "\x81", "\x88", "\x01", "\x7f", 'a', 'rctl_n', '$rctl_n', "''", "'\\''");
	my @words = ('', '-', '-n', "\n", "\n\n", "'", '\\', map { join '', map { $pieces[rand @pieces] } 1 .. 1 + rand 12 } 1 .. 300);
	my $bytes = join ', ', map { q{('\x} . unpack('H*', $_) . q{')} } @words;
	my @quoted = map { pack 'H*', $_ } split /\n/, sql("SELECT encode(quote_for_sh(w::bytea), 'hex') FROM (VALUES $bytes) v(w)");

	is(scalar @quoted, scalar @words, 'each word is quoted');
	is(scalar(grep { /\n/ } @quoted), 0, 'on one line');
	for my $shell ('/bin/dash', '/bin/bash', '/bin/busybox')
	{
	  SKIP:
		{
			skip "no $shell", 1 unless -x $shell;
			# as it is done: read as a line, then evaluated
			my $line = q{rctl_n=$(printf '\nx'); rctl_n=${rctl_n%x}; set -- } . join(' ', @quoted)
			  . q{; for w; do printf '%s\0' "$w"; done} . "\n";
			my $out;
			my @sh = $shell =~ /busybox/ ? ($shell, 'sh') : ($shell);
			IPC::Run::run([ @sh, '-c', q{LC_ALL=C; IFS= read -r l && eval "$l"} ], '<', \$line, '>', \$out);
			my @got = split /\0/, $out, -1;
			pop @got;
			my @wrong = grep { ($got[$_] // 'none') ne $words[$_] } 0 .. $#words;
			ok(@got == @words && !@wrong, "$shell reads each as it was")
			  or diag("seed $seed: " . join ' ', map { unpack('H*', $words[$_]) . '/' . unpack('H*', $got[$_] // '') } @wrong);
		}
	}
	is(sql(q{SELECT words('/bin/x  a\ b "c ''d" ''e\f'' ""')}), q{[/bin/x][a b][c 'd][e\f][]}, 'words of a command');
	is(sql(q{SELECT words('["/bin/x", "a b", ""]')}), '[/bin/x][a b][]', 'or as JSON');
	like(psql_error($primary, q{SELECT words('/bin/x "a')}), qr/22023.*quote is not closed.*HINT/s, 'an open quote');
	like(psql_error($primary, q{SELECT words('systemctl start')}), qr/22023.*absolute path/s, 'no absolute path');
}

#
# Options
#
like(psql_error($primary, q{CREATE SERVER x FOREIGN DATA WRAPPER replica_ssh OPTIONS (hosts 'a')}),
	qr/HV00D.*Valid options are: address, .*host, identity_file/s, 'an unknown option');
like(psql_error($primary, q{CREATE SERVER x FOREIGN DATA WRAPPER replica_ssh OPTIONS (host 'a', password 'x')}),
	qr/HV00D/, 'a password is no option of a server');
$host->server;
for my $bad ('-oProxyCommand=x', 'a;b', 'a b', 'a`b`')
{
	with('host', $bad);
	like(psql_error($primary, q{SELECT replica_create('r', 'h1')}), qr/22023.*invalid value for option "host"/s, "refused as a host: $bad");
}
with('host', $host->address);
with('user', '-x');
like(psql_error($primary, q{SELECT replica_create('r', 'h1')}), qr/22023.*invalid value for option "user"/s, 'and as a user');
with('user', scalar getpwuid($<));

#
# Keys
#
{
	my $known = slurp_file("$base/etc/known_hosts");
	system_or_bail('ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', "$base/etc/other_key");
	my ($type, $key) = split ' ', slurp_file("$base/etc/other_key.pub");

	$host->write('known_hosts', (split ' ', $known)[0] . " $type $key\n");
	like(failure(), qr/28000.*the host key of host "127.0.0.2" has changed.*HINT:.*ssh-keygen -R/s, 'host key changed');
	like(explained(), qr/blocked: .*has changed/s, 'explain says so, too');
	$host->write('known_hosts', '');
	like(failure(), qr/28000.*the host key of host "127.0.0.2" is not known.*HINT:.*ssh-keyscan/s, 'host key not known');
	is(slurp_file("$base/etc/known_hosts"), '', 'it was not added by itself');
	$host->write('known_hosts', $known);

	my $authorized = slurp_file("$base/etc/authorized_keys");
	$host->write('authorized_keys', '');
	like(failure(), qr/28000.*refuses the login by ssh.*Permission denied.*HINT:.*authorized_keys/s, 'key refused');
	$host->write('authorized_keys', $authorized);

	# nobody is there to type a passphrase
	system_or_bail('ssh-keygen', '-q', '-p', '-P', '', '-N', 'secret', '-f', "$base/etc/user_key");
	like(failure(), qr/28000.*refuses the login by ssh/s, 'ssh does not ask questions');
	system_or_bail('ssh-keygen', '-q', '-p', '-P', 'secret', '-N', '', '-f', "$base/etc/user_key");
	$host->write('ssh_config', "Nonsense yes\n");
	like(failure(), qr/22023.*ssh does not accept its configuration.*nonsense.*HINT:.*ssh_config/s, 'a configuration that is none');
	$host->write('ssh_config', '');
}

#
# Shells: what they print does not matter, unless they do not get to /bin/sh
#
sub with_shell
{
	my ($text, $sshd) = @_;

	if (defined $text && $text =~ m{^/})
	{
		$host->{shell} = $text;
	}
	elsif (defined $text)
	{
		open my $out, '>', "$base/shell" or die;
		print $out $text;
		close $out;
		chmod 0755, "$base/shell";
		$host->{shell} = "$base/shell";
	}
	$host->{sshd_config} = $sshd // '';
	$host->stop;
	$host->start;
	return;
}

with_shell("#!/bin/sh\necho 'Welcome to'; printf 'the host'; echo 'Careful!' >&2\n[ \"\$1\" = -c ] && exec /bin/sh -c \"\$2\"\n");
like(explained(), qr/^ok/, 'a banner is no harm');
is(sql(q{SELECT count(*) FROM replica_explain('create', 'r', 'h1') WHERE status = 'blocked'}), 0, 'in whatever is done');
for my $shell ('/usr/bin/fish', '/bin/tcsh', '/bin/zsh')
{
  SKIP:
	{
		skip "no $shell", 1 unless -x $shell;
		with_shell($shell);
		like(explained(), qr/^ok/, "$shell will do");
	}
}
with_shell("#!/bin/sh\necho 'This account is currently not available.'; exit 1\n");
like(failure(), qr/55000.*host "127.0.0.2" does not run commands.*This account is currently not available.*HINT:.*login shell/s, 'no shell at all');
with_shell("#!/bin/sh\ncat >/dev/null\n");
like(explained(), qr/^blocked/, 'a shell that does something else');
with_shell('/bin/sh', 'ForceCommand echo only this');
like(failure(), qr/55000.*does not run commands.*only this/s, 'a forced command');
with_shell('/bin/sh', 'MaxSessions 1');
sql(q{SELECT replica_create('one', 'h1')});
is(sql(q{SELECT replica_wait('one', '60s')}), 'succeeded', 'an sshd that lets us have one session at a time in a connection');
for my $action ('drop', 'repair', 'promote', 'detach')
{
	is(sql("SELECT count(*) FROM replica_explain('$action', 'one') WHERE status = 'blocked'"), 0, "explain $action");
}
sql(q{SELECT replica_drop('one')});
is(sql(q{SELECT replica_wait('one', '60s')}), 'succeeded', 'likewise to drop it');
with_shell("#!/bin/sh\nPATH=/nonexistent; export PATH\n[ \"\$1\" = -c ] && exec /bin/sh -c \"\$2\"\n");
like(explained(), qr/^ok/, 'nor does a wrong PATH matter');
with_shell('/bin/sh');

#
# The host
#
{
	my $fake = "$base/fake";
	my $bindir = sql(q{SELECT setting FROM pg_config WHERE name = 'BINDIR'});
	my $real = ($host->options =~ /bindir '(.*?)'/)[0];

	make_path($fake);
	symlink "$real/$_", "$fake/$_" for qw(pg_ctl psql pg_controldata);
	for my $program ('postgres', 'pg_basebackup')
	{
		open my $out, '>', "$fake/$program" or die;
		print $out "#!/bin/sh\necho '$program (PostgreSQL) 14.9'\n";
		close $out;
		chmod 0755, "$fake/$program";
	}
	with('bindir', $fake);
	my $version = sql('SHOW server_version') =~ s/ .*//r;
	like(failure(), qr/55000.*another major version.*is of version 14.9, this server of \Q$version\E\..*HINT:.*bindir/s, 'another major version');
	with('bindir', "$base/none");
	like(failure(), qr/58P01.*program "pg_basebackup" not found in ".*none" on host "127.0.0.2".*HINT/s, 'no programs');
	with('bindir', $real);

	like(failure('{"data_directory": "/proc/x/y"}'), qr/42501.*cannot be created.*HINT/s, 'a place that cannot be written');
	make_path("$base/full/of");
	like(failure(qq({"data_directory": "$base/full"})), qr/58P02.*is not empty.*HINT/s, 'one that is not empty');
	my $port = $host->port;
	like(failure(qq({"port": $port})), qr/22023.*port $port is in use/s, 'a port that is taken');

	sql("ALTER SERVER h1 OPTIONS (ADD source_host '127.0.0.77')");
	like(explained('replication login'),
		qr/blocked: could not log in to this server for replication from host "127.0.0.2".*127.0.0.77/s, 'it cannot reach this server');
	sql('ALTER SERVER h1 OPTIONS (DROP source_host)');
	sql(q{ALTER USER MAPPING FOR PUBLIC SERVER h1 OPTIONS (SET password 'wrong')});
	like(failure(), qr/28000.*could not log in to this server for replication from host.*password authentication failed.*HINT:.*USER MAPPING/s, 'a wrong password');
	sql(q{ALTER USER MAPPING FOR PUBLIC SERVER h1 OPTIONS (SET password 'S3cr:t\''')});
	sql(q{ALTER SERVER h1 OPTIONS (ADD address 'no.such.host.invalid')});
	like(explained('way there'), qr/blocked: port \d+ of "no.such.host.invalid" cannot be reached from this server.*address/s,
		'it is not reached by this address');
	sql('ALTER SERVER h1 OPTIONS (DROP address)');

	# programs without this extension's library next to them
	make_path("$base/pg/usr/lib/postgresql/15/bin");
	symlink "$real/$_", "$base/pg/usr/lib/postgresql/15/bin/$_" for qw(postgres pg_basebackup pg_ctl pg_controldata psql);
	with('bindir', "$base/pg/usr/lib/postgresql/15/bin");
	like(explained('libraries'), qr/blocked: libraries that this server preloads are missing.*replica_ctl.so/s, 'a library is missing there');
	with('bindir', $real);

	# a certificate that is here only
	system_or_bail('openssl', 'req', '-new', '-x509', '-days', '2', '-nodes', '-subj', '/CN=here', '-keyout', "$base/key.pem", '-out', "$base/cert.pem");
	chmod 0600, "$base/key.pem";
	sql(q{CREATE TABLE icu (t text COLLATE "und-x-icu")});
	sql(q{CREATE DATABASE other LOCALE 'C.UTF-8' TEMPLATE template0});
	my %programs = (
		locale => 'echo C; echo POSIX', date => 'echo 1000000000.5', ldd => 'echo "libicuuc.so.49 => /x"');
	make_path("$base/bin");
	for my $program (keys %programs)
	{
		open my $out, '>', "$base/bin/$program" or die;
		print $out "#!/bin/sh\n$programs{$program}\n";
		close $out;
		chmod 0755, "$base/bin/$program";
	}
	with_shell("#!/bin/sh\nPATH=$base/bin:\$PATH; export PATH\n[ \"\$1\" = -c ] && exec /bin/sh -c \"\$2\"\n");
	like(explained('platform'), qr/blocked: locale "C.UTF-8" is missing on host.*locale-gen/s, 'a locale is missing there');
	like(explained('clock'), qr/warning: the clock of host "127.0.0.2" is \d+.\d s behind.*NTP/s, 'the clocks differ');
	sql('DROP DATABASE other');
	like(explained('platform'), qr/warning: the ICU library of host.*49 there and \d+ here.*REINDEX/s, 'ICU is another');
	sql("ALTER SYSTEM SET ssl_cert_file = '$base/cert.pem'");
	sql("ALTER SYSTEM SET ssl_key_file = '$base/key.pem'");
	sql('ALTER SYSTEM SET ssl = on');
	sql('SELECT pg_reload_conf()');
	wait_for($primary, q{SELECT current_setting('ssl')::bool});
	like(explained('files'), qr/^ok/, 'the certificate is there');
	rename "$base/key.pem", "$base/key.gone";
	like(explained('files'), qr/blocked: file ".*key.pem", which a setting of this server names, cannot be read.*option settings/s, 'it is not');
	rename "$base/key.gone", "$base/key.pem";
	my $hba = slurp_file($primary->data_dir . '/pg_hba.conf');
	append_to_file($primary->data_dir . '/pg_hba.conf', "host all \@people 127.0.0.9/32 trust # friends\n");
	like(explained('files'), qr/blocked: hba_file .* takes in other files.*\@people/s, 'a list of users that stays here');
	{
		open my $out, '>', $primary->data_dir . '/pg_hba.conf' or die;
		print $out $hba;
		close $out;
	}
	with_shell('/bin/sh');
}
$host->stop;
{
	my $start = time;
	like(explained(), qr/^blocked: no connection to host "127.0.0.2" by ssh.*refused.*BatchMode/s, 'explain: nobody there');
	cmp_ok(time - $start, '<', 10, 'at once');
	is(sql(q{SELECT count(*) FROM replica_explain('create', 'r', 'h1') WHERE detail LIKE 'not checked%'}) > 5, 1, 'the other checks are not made');
	like(failure(), qr/08006.*no connection to host "127.0.0.2" by ssh.*refused.*HINT/s, 'nobody there');
}

is(join("\n", orphans($primary), $host->left), '', 'nothing is left of all that');
is(join("\n", glob $primary->data_dir . '/base/pgsql_tmp/*'), '', 'nor of its connections');
done_testing();
