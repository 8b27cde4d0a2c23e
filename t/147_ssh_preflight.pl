# 147_ssh_preflight.pl
#	  What is looked at on another host before a replica is made there: each
#	  check is seen to fire, on a host whose programs say what the test wants.
#
# slow

use strict;
use warnings;
use lib 't';
use File::Basename;
use File::Path qw(make_path remove_tree);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;
use SshHosts;

plan skip_all => ssh_missing() if ssh_missing();

my $primary = ssh_primary('main');
my $host = ssh_host($primary, 'h1');
my $base = $host->base;
my ($bindir) = $host->options =~ /bindir '(.*?)'/;

sub sql { return $primary->safe_psql('postgres', $_[0]); }

# A program of the host, in the directory that its shell looks into first.
sub fake
{
	my ($name, $text) = @_;

	open my $out, '>', "$base/bin/$name" or die "$name: $!";
	print $out "#!/bin/sh\n$text\n";
	close $out;
	chmod 0755, "$base/bin/$name";
	return;
}

# None of them but these: name => text.
sub fakes
{
	my (%programs) = @_;

	remove_tree("$base/bin");
	make_path("$base/bin");
	fake($_, $programs{$_}) for sort keys %programs;
	return;
}

# The login shell of the user there.
sub with_shell
{
	my ($text) = @_;

	open my $out, '>', "$base/shell" or die;
	print $out "#!/bin/sh\n$text\n";
	close $out;
	chmod 0755, "$base/shell";
	$host->{shell} = "$base/shell";
	$host->stop;
	$host->start;
	return;
}

# The rows of replica_explain for a check: "status: message hint", one a line.
sub explained
{
	my ($check, $options) = @_;
	return sql(q{SELECT status || ': ' || coalesce(detail, '') || ' ' || coalesce(hint, '')
		FROM replica_explain('create', 'r', 'h1', '} . ($options // '{}') . qq{') WHERE name = '$check'});
}

$host->server;
fakes();
with_shell("PATH='$base/bin':\$PATH; export PATH\n[ \"\$1\" = -c ] && exec /bin/sh -c \"\$2\"");
is(sql(q{SELECT count(*) FROM replica_explain('create', 'r', 'h1') WHERE step = 1 AND status <> 'ok'}), '0', 'nothing fires on a host like this one');

#
# The machine
#
fakes(uname => 'echo riscv64');
like(explained('platform'), qr/^blocked: host "127.0.0.2" has another processor architecture.*It is riscv64, and this host is .*same architecture/s,
	'another processor');

# little and big endian, 32 bits: "od" shows the first bytes of postgres
my ($own) = map { s/\s//gr } scalar qx(od -An -v -tx1 -N20 '$bindir/postgres');
my %elf = (
	'32 bits' => substr($own, 0, 8) . '01' . substr($own, 10),
	'another byte order' => substr($own, 0, 10) . '02' . substr($own, 12),
	'another processor' => substr($own, 0, 36) . '2800');
for my $what (sort keys %elf)
{
	fakes(od => "echo $elf{$what}");
	like(explained('platform'), qr/^blocked: PostgreSQL on host "127.0.0.2" was built for another kind of machine.*bindir/s,
		"programs of $what");
}
fakes(od => "echo $own");
like(explained('platform'), qr/^ok/, 'the same');
fakes(od => q{printf '#!/bin/sh exec p'|/usr/bin/od "$1" "$2" "$3" "$4"});
like(explained('platform'), qr/^ok/, 'a script that calls postgres is not judged');

#
# Libraries and collations
#
fakes(getconf => 'echo glibc 2.17');
like(explained('platform'), qr/^ok/, 'another glibc does not matter while nothing is sorted by it');
# any of libc but C
my ($locale) = (grep({ /^[a-z]+_[A-Z]+\.utf-?8$/i } split /\n/, qx(locale -a)), 'C.UTF-8');
sql("CREATE COLLATION sorted (provider = libc, locale = '$locale')");
sql('CREATE TABLE words (w text COLLATE sorted)');
like(explained('platform'), qr/^warning: the C library of host "127.0.0.2" is of another version, and so may be its collations.*glibc 2.17 there and glibc \d\S* here.*REINDEX/s,
	'it does when a column is');
fakes(getconf => 'exit 1');
like(explained('platform'), qr/^warning: .*not known there/s, 'nor is one known that cannot be told');
fakes();
like(explained('platform'), qr/^ok/, 'the same library');
sql('DROP TABLE words');
SKIP:
{
	skip 'PostgreSQL has no ICU', 2 unless sql(q{SELECT count(*) > 0 FROM pg_collation WHERE collprovider = 'i'}) eq 't';
	fakes(ldd => 'echo "	libicuuc.so.49 => /usr/lib/libicuuc.so.49 (0x0)"');
	like(explained('platform'), qr/^ok/, 'another ICU does not matter while nothing is sorted by it');
	sql(q{CREATE TABLE words (w text COLLATE "und-x-icu")});
	like(explained('platform'), qr/^warning: the ICU library of host "127.0.0.2".*49 there and \d+ here.*REINDEX/s, 'it does when a column is');
	sql('DROP TABLE words');
}

#
# Versions
#
{
	my $version = sql('SHOW server_version') =~ /^([\d.]+)/ ? $1 : die;
	my $major = int $version;

	make_path("$base/pg/bin");
	symlink "$bindir/$_", "$base/pg/bin/$_" for qw(pg_basebackup pg_ctl pg_controldata psql);
	open my $out, '>', "$base/pg/bin/postgres" or die;
	print $out "#!/bin/sh\n[ \"\$1\" = --version ] && { echo 'postgres (PostgreSQL) $major.99 (Fake 1)'; exit; }\nexec '$bindir/postgres' \"\$@\"\n";
	close $out;
	chmod 0755, "$base/pg/bin/postgres";
	# where it has its libraries is found from where its programs are
	make_path("$base/pg/lib");
	sql("ALTER SERVER h1 OPTIONS (SET bindir '$base/pg/bin')");
	fakes();
	like(explained('version'), qr/^warning: PostgreSQL on host "127.0.0.2" is of another minor version.*It is $major.99 there and $version here.*replicas first/s,
		'another minor version');
}

#
# Libraries of extensions
#
{
	my $libraries = sql(q{SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'});
	my ($message) = explained('libraries') =~ /there: "(.*?)"/;
	my $directory = dirname($message);

	like(explained('libraries'), qr/^blocked: libraries that this server preloads are missing.*replica_ctl/s, 'a preloaded library is missing');
	make_path($directory);
	symlink "$libraries/replica_ctl.so", "$directory/replica_ctl.so";
	like(explained('libraries'), qr/^warning: libraries of extensions are missing on host "127.0.0.2".*plpgsql.*their functions do not work/s,
		'others are missing');
	sql("ALTER SERVER h1 OPTIONS (SET bindir '$bindir')");
}

#
# Clocks
#
fakes(date => 'exec /bin/date -d "+7 seconds" "$@"');
like(explained('clock'), qr/^warning: the clock of host "127.0.0.2" is [67]\.\d s ahead.*NTP/s, 'a clock that is ahead');
fakes(date => 'exec /bin/date -d "-1 hour" "$@"');
like(explained('clock'), qr/^warning: the clock of host "127.0.0.2" is 3\d\d\d\.\d s behind/s, 'one that is behind');
fakes(date => q{exec perl -MTime::HiRes=time -e 'printf "%.6f\n", time - 0.5'});
like(explained('clock'), qr/^ok/, 'half a second is no matter');
fakes(date => 'echo "date: unknown format" >&2; exit 1');
like(explained('clock'), qr/^warning: the clock of host "127.0.0.2" cannot be read/, 'one that cannot be read');

#
# What is only doubtful does not stop a create, and is told
#
fakes(date => 'exec /bin/date -d "+7 seconds" "$@"');
sql(q{SELECT replica_create('r', 'h1')});
is(sql(q{SELECT replica_wait('r', '60s')}), 'succeeded', 'a create goes on after a warning');
like(sql(q{SELECT severity || ' ' || kind || ' ' || message FROM replica_events WHERE kind = 'check'}), qr/^warning check the clock of host .* ahead/, 'which is an event');
sql(q{SELECT replica_drop('r')});
is(sql(q{SELECT replica_wait('r', '60s')}), 'succeeded', 'drop');

#
# What the host lacks
#
with_shell("PATH='$base/bin':\$PATH; export PATH\nunset HOME\n[ \"\$1\" = -c ] && exec /bin/sh -c \"\$2\"");
fakes();
like(explained('ssh'), qr/^ok/, 'a user without a home will do');
like(explained('directory', qq({"data_directory": "$base/d"})), qr/^ok/, 'with a directory given');
with_shell('[ "$1" = -c ] && exec /bin/sh -c "$2"');
SKIP:
{
	my ($setsid) = grep { -x } '/usr/bin/setsid', '/bin/setsid';
	skip 'needs user namespaces', 1 unless system('unshare --user --mount --map-current-user --keep-caps true 2>/dev/null') == 0;
	my $poor = ssh_host($primary, 'h2', hide => $setsid);
	$poor->server;
	like(sql(q{SELECT detail || ' ' || hint FROM replica_explain('create', 'r', 'h2') WHERE name = 'ssh' AND status = 'blocked'}),
		qr/lacks something: program setsid is missing.*util-linux/s, 'a program that is missing is named');
}

#
# Other shells behind /bin/sh
#
for my $sh ('/bin/bash --posix', '/bin/bash', '/bin/busybox sh', '/bin/zsh --emulate sh')
{
  SKIP:
	{
		my ($program) = split ' ', $sh;
		skip "no $program", 1 unless -x $program;
		with_shell("[ \"\$1\" = -c ] || exit 1\nc=\${2#exec /bin/sh}; eval \"exec $sh \$c\"");
		is(sql(q{SELECT count(*) FROM replica_explain('create', 'r', 'h1') WHERE step = 1 AND status <> 'ok'}), '0', "a /bin/sh that is $sh");
		sql(q{SELECT replica_create('r', 'h1')});
		is(sql(q{SELECT replica_wait('r', '60s')}), 'succeeded', 'makes a replica');
		sql(q{SELECT replica_drop('r')});
		is(sql(q{SELECT replica_wait('r', '60s')}), 'succeeded', 'and drops it');
	}
}

is(join("\n", orphans($primary), $host->left), '', 'nothing is left');
done_testing();
