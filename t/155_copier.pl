# 155_copier.pl
#	  The program that copies and compares files, by itself: whatever was there
#	  before, and whatever the file system lacks, the target is the same as the
#	  source afterwards; and what it does to the page cache.
#
#	  RCTL_TEST_ROUNDS=100 makes as many rounds, RCTL_TEST_SEED repeats them.

use strict;
use warnings;
use lib 't';
use File::Find;
use File::Path qw(make_path remove_tree);
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;

my $rounds = $ENV{RCTL_TEST_ROUNDS} || 3;
my $seed = $ENV{RCTL_TEST_SEED} || time;
chomp(my $bindir = `pg_config --bindir`);
my $program = "$bindir/replica_ctl_copy";
my $dir = PostgreSQL::Test::Utils::tempdir();
my ($source, $target) = ("$dir/source", "$dir/target");

srand($seed);
note "seed $seed";

# Runs the program on the two; what it says, by names, or "error".
sub copier
{
	my (@options) = @_;
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run([ $program, @options, '--version-directory', 'PG_x', '--status', "$dir/status",
			'--tree', 0, $source, $target ], '>', \$out, '2>', \$err);

	return { error => $err } unless $ok;
	return { map { /^(\S+) (.*)/ } split /\n/, $out };
}

sub write_file
{
	my ($path, $content) = @_;

	open my $fh, '>:raw', $path or die "$path: $!";
	print $fh $content;
	close $fh or die "$path: $!";
	return;
}

sub noise
{
	my ($length) = @_;
	my $piece = join '', map { chr rand 256 } 1 .. 4099;

	return substr($piece x (1 + $length / 4099), 0, $length);
}

# Everything below a directory: name to type, mode and content.
sub everything
{
	my ($top) = @_;
	my %all;

	find({ no_chdir => 1, wanted => sub {
		my ($mode) = (lstat $_)[2];
		my $name = substr($_, length $top);
		return if $name eq '' || $name =~ /replica_ctl\.id$/;
		$all{$name} = sprintf('%o', $mode) . (-f _ ? ' ' . Digest::MD5::md5_hex(slurp_file($_)) : '');
	} }, $top);
	return \%all;
}

my @sizes = (0, 1, 4096, 8192, 8193, 300_000, 262_144, 1 << 20, (1 << 20) + 1, 3 * (1 << 20) - 8192, 5_000_000);
my @names = map { "base/5/$_" } 16384 .. 16400, '16384_fsm', '16384_vm', '16385.1', 'PG_VERSION', 'odd';

sub make_source
{
	remove_tree($source);
	make_path(map { "$source/$_" } qw(base/5 global pg_wal pg_tblspc other));
	write_file("$source/$_", noise($sizes[ rand @sizes ])) for @names, 'PG_VERSION', 'other/file', 'global/1262';
	# relations have whole pages: what is left of one is not copied
	for my $name (grep { m{/\d+[^/]*$} } @names, 'global/1262')
	{
		my $size = -s "$source/$name";

		truncate "$source/$name", $size - $size % 8192;
	}
	# one that is split between the threads, most of it a hole
	open my $fh, '>:raw', "$source/base/5/20000" or die $!;
	for my $at (0, 7, 64, 65, 129)
	{
		seek $fh, $at << 20, 0;
		print $fh noise(20_000);
	}
	truncate $fh, 130 << 20;
	close $fh;
	return;
}

# An old copy of it, as bad as can be.
sub make_target
{
	remove_tree($target);
	system_or_bail('cp', '-a', $source, $target);
	for my $name (@names, 'base/5/20000')
	{
		my $path = "$target/$name";
		my $size = -s $path;
		my $what = int(rand(9));

		if ($what == 0) { unlink $path }
		elsif ($what == 1) { truncate $path, int(rand($size + 1)) }
		elsif ($what == 2) { truncate $path, $size + 1 + int(rand(100_000)) }
		elsif ($what == 3) { unlink $path; mkdir $path; write_file("$path/in_it", 'x') }
		elsif ($what == 4) { unlink $path; symlink "$source/PG_VERSION", $path }
		elsif ($what == 5) { chmod 0640, $path }
		elsif ($what < 8 && $size > 0)
		{
			open my $fh, '+<:raw', $path or die $!;
			for (0 .. rand 5)
			{
				seek $fh, int(rand($size)), 0;
				print $fh 'changed';
			}
			truncate $fh, $size;
			close $fh;
		}
	}
	write_file("$target/base/5/99999", 'stray');
	make_path("$target/base/6/sub");
	write_file("$target/base/6/sub/file", 'stray');
	write_file("$target/replica_ctl.id", 'ours');
	return;
}

require Digest::MD5;
my @withouts = ('', 'clone,range', 'clone,range,direct', 'direct,syncfs');
my $test_build = copier('--without', 'syncfs')->{error} !~ /invalid argument "--without"/;

for my $round (1 .. $rounds)
{
	my $without = $test_build ? $withouts[ $round % @withouts ] : '';
	my @options = ('--jobs', 1 + int(rand(4)), '--verify', 'off', $without ? ('--without', $without) : ());

	make_source();
	my $expected = everything($source);
	remove_tree($target);
	mkdir $target, 0700;
	my $told = copier(@options);
	is($told->{error}, undef, "round $round: copied, @options");
	is_deeply(everything($target), $expected, 'the copy is the same');
	make_target();
	$told = copier('--resync', @options);
	is($told->{error}, undef, "round $round: compared, @options");
	is_deeply(everything($target), $expected, 'the target is the same');
	is(slurp_file("$target/replica_ctl.id"), 'ours', 'but for what is its own');
	is(copier('--resync', @options)->{bytes_written}, 0, 'then nothing is to be written');
}

# few bytes for few changes
make_source();
remove_tree($target);
system_or_bail('cp', '-a', $source, $target);
write_file("$source/base/5/30000", noise(4 << 20));
write_file("$target/base/5/30000", slurp_file("$source/base/5/30000"));
for my $block (0, 1, 100, 511)
{
	open my $fh, '+<:raw', "$target/base/5/30000" or die $!;
	seek $fh, $block * 8192 + 77, 0;
	print $fh 'changed';
	close $fh;
}
is(copier('--resync', '--verify', 'off')->{bytes_written}, 4 * 8192, 'the blocks that differ are written, and no others');

# what cannot be
SKIP:
{
	skip 'root may do anything', 2 if $> == 0;
	write_file("$source/base/5/30001", 'new');
	mkdir "$source/base/5/sub";
	chmod 0500, "$source/base/5";
	like(copier('--resync')->{error}, qr/^42501 could not create .*: Permission denied$/, 'a directory that cannot be written');
	chmod 0700, "$source/base/5", "$target/base/5";
	chmod 0, "$target/base/5/16384";
	like(copier('--resync')->{error}, qr/^42501 could not open ".*16384": Permission denied$/, 'a file that cannot be read');
}

#
# The page cache: what was in there stays, what was not does not come
#
SKIP:
{
	my $file = 'base/5/40000';
	my $bytes = 48 << 20;
	my $cached = sub { my $found = `fincore -b -n -o RES "$_[0]" 2>/dev/null`; return $found =~ /(\d+)/ ? $1 / $bytes : undef };
	my $forget = sub { system_or_bail('sync', $_[0]); system_or_bail('dd', "of=$_[0]", 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0', 'status=none') };

	remove_tree($source, $target);
	make_path(map { "$source/$_" } qw(base/5 global pg_wal pg_tblspc));
	mkdir $target, 0700;
	write_file("$source/$file", noise($bytes));
	$forget->("$source/$file");
	skip 'needs fincore, and a file system whose files can leave the page cache', 6 unless defined $cached->("$source/$file") && $cached->("$source/$file") < 0.1;
	copier('--jobs', 2);
	cmp_ok($cached->("$source/$file"), '<', 0.1, 'a source that is not in the page cache does not come there');
	cmp_ok($cached->("$target/$file"), '<', 0.1, 'nor does its copy');
	copier('--resync', '--jobs', 2);
	cmp_ok($cached->("$source/$file") + $cached->("$target/$file"), '<', 0.1, 'nor do both by being compared');
	slurp_file("$source/$file");
	$forget->("$target/$file");
	copier('--resync', '--jobs', 2);
	cmp_ok($cached->("$source/$file"), '>', 0.9, 'a source that is in the page cache stays there');
	cmp_ok($cached->("$target/$file"), '<', 0.1, 'its copy comes not there');
	# half of it
	$forget->("$source/$file");
	open my $fh, '<:raw', "$source/$file" or die $!;
	for (my $at = 0; $at < $bytes; $at += 1 << 19)
	{
		seek $fh, $at, 0;
		sysseek $fh, $at, 0;
		sysread $fh, my $some, 4096;
	}
	close $fh;
	my $before = $cached->("$source/$file");
	remove_tree($target);
	mkdir $target, 0700;
	copier('--jobs', 2);
	cmp_ok(abs($cached->("$source/$file") - $before), '<', 0.1, sprintf('what is in there in part (%.2f) stays so', $before));
}

done_testing();
