# Style.pm
#	  The style of the C sources: PostgreSQL's, by pg_bsd_indent.
#
#	  Shared by dev/indent, which rewrites, and dev/check-style, which
#	  compares.  pg_bsd_indent must be told which words are types; they are
#	  found in our own sources and in the headers of PostgreSQL and libcurl.
package Style;

use strict;
use warnings;
use Exporter 'import';
use File::Find;

our @EXPORT_OK = qw(c_files slurp indent find_typedefs without_comments);

# The flags of PostgreSQL's own pgindent.
my @flags = qw(-bad -bap -bbb -bc -bl -cli1 -cp33 -cdb -nce -d0 -di12 -nfc1 -i4
  -l79 -lp -lpl -nip -npro -sac -tpg -ts4);

# Words that are types somewhere, and that pgindent too does not take as such.
my %never = map { $_ => 1 } qw(date interval timestamp ANY FD_SET boolean inline);

# Types of the C library, whose headers are too wild to be read.
my @system = qw(bool size_t ssize_t off_t pid_t uid_t gid_t mode_t time_t socklen_t sigset_t
  int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t intptr_t uintptr_t va_list
  FILE DIR jmp_buf sigjmp_buf suseconds_t nfds_t);

sub c_files
{
	return sort(glob('src/*.[ch]'), glob('src/*/*.[ch]'));
}

sub slurp
{
	my ($file) = @_;
	open my $in, '<', $file or die "could not read $file: $!\n";
	local $/;
	my $text = <$in>;
	close $in;
	return $text // '';
}

# The text with comments and the contents of strings blanked out, line by line.
sub without_comments
{
	my ($text) = @_;
	my $blank = sub { my $s = shift; $s =~ s/[^\n]/ /g; return $s };

	$text =~ s{(/\*.*?\*/)|("(?:[^"\\\n]|\\.)*")|('(?:[^'\\\n]|\\.)+')}{
		defined $1 ? $blank->($1) : defined $2 ? '"' . $blank->(substr($2, 2)) . '"' : $3 }gse;
	return $text;
}

# Names of the types that a source or header declares.
sub typedefs_in
{
	my ($text) = @_;
	my @names;

	$text = without_comments($text);
	$text =~ s/\bextern\s+"\s*"\s*\{//g;
	1 while $text =~ s/\{[^{}]*\}/ /g;
	push @names, $1 while $text =~ /\btypedef\b[^;()]*?\b(\w+)\s*(?:\[[^\]]*\]\s*)*;/g;
	push @names, $1 while $text =~ /\btypedef\b[^;()]*\(\s*\*?\s*(\w+)\s*\)\s*\(/g;
	push @names, $1 while $text =~ /\btypedef\b[^;()]*\b(\w+)\s*\([^;]*\)[^;()]*;/g;
	return @names;
}

# The words of our sources that are types.
sub find_typedefs
{
	my %words;
	my %types = map { $_ => 1 } @system;
	my @directories;
	my $pg_config = $ENV{PG_CONFIG} || find_pg_config();

	for my $file (c_files())
	{
		my $text = slurp($file);
		$words{$_} = 1 for $text =~ /\b([A-Za-z_]\w*)\b/g;
		$types{$_} = 1 for typedefs_in($text);
	}
	for my $option ('--includedir-server', '--includedir')
	{
		chomp(my $dir = `"$pg_config" $option`);
		push @directories, $dir if -d $dir;
	}
	push @directories, grep { -d } glob('/usr/include/*/curl'), '/usr/include/curl';
	find(
		{
			no_chdir => 1,
			follow_fast => 1,
			follow_skip => 2,
			wanted => sub {
				return unless /\.h$/;
				$types{$_} = 1 for typedefs_in(slurp($File::Find::name));
			}
		},
		@directories);
	return grep { $words{$_} && !$never{$_} } sort keys %types;
}

sub find_pg_config
{
	return run_shell('find_pg_config') || 'pg_config';
}

# What a function of dev/lib.sh prints.
sub run_shell
{
	my ($function) = @_;
	my $found = `bash -c '. dev/lib.sh; $function'`;
	chomp $found;
	return $found;
}

# The text as pgindent would have it.  Dies with indent's complaint.
sub indent
{
	my ($text, @typedefs) = @_;
	my $dir = $ENV{TMPDIR} || '/tmp';
	require File::Temp;
	my $types = File::Temp->new(DIR => $dir);
	my $in = File::Temp->new(DIR => $dir, SUFFIX => '.c');
	my $out = File::Temp->new(DIR => $dir);

	print $types "$_\n" for @typedefs;
	close $types;

	# a comment that starts with dashes keeps its line breaks
	$text =~ s{/\* +---}{/*---X_X}g;
	print $in $text;
	close $in;

	our $program //= run_shell('find_pg_bsd_indent') || die "pg_bsd_indent is missing; dev/install-deps --style installs it\n";
	my $errors = `$program @flags -U$types $in $out 2>&1`;
	die $errors if $? != 0 || $errors =~ /\S/;
	$text = slurp("$out");
	$text =~ s{/\*---X_X}{/* ---}g;
	$text =~ s{\*/(/\*.*\*/)$}{*/\t$1}gm;
	$text =~ s{^([A-Za-z_]\S*)[ \t]+\*$}{$1 *}gm;
	# as later versions of pg_bsd_indent have it
	$text =~ s{,\.(?=[a-z]\w* = )}{, .}g;
	$text =~ s{[ \t]+$}{}gm;
	return $text;
}

1;
