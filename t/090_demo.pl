# "make demo", on a small database: all its checks hold, it says what it did
# without a terminal, and leaves nothing behind, whether it works or is
# interrupted.

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;

$ENV{RCTL_DEMO_SCALE} = 2;
$ENV{RCTL_DEMO_RATE} = 16384;
$ENV{TMPDIR} = PostgreSQL::Test::Utils::tempdir_short();

sub left
{
	return join ' ', glob("$ENV{TMPDIR}/*"),
	  grep { (readlink("/proc/$_/cwd") // '') =~ m{^\Q$ENV{TMPDIR}\E/} }
	  map { m{(\d+)$} } glob '/proc/[0-9]*';
}

my $output;
IPC::Run::run([ 'dev/demo' ], '<', '/dev/null', '>&', \$output);
is($?, 0, 'the demo works');
print $output;
like($output, qr/^  r1 .*\d+%/m, 'it shows progress by lines');
unlike($output, qr/\e/, 'without control characters');
like($output, qr/missing on r1: 0$/m, 'no acknowledged row is missing');
like($output, qr/^  \[ok\] left of r2: nothing$/m, 'nothing is left of the dropped replica');
is(left(), '', 'nothing is left of it');
diag($output) unless Test::More->builder->is_passing;

# Interrupted in the middle of the copy.
my $partial = '';
$ENV{RCTL_DEMO_RATE} = 1024;
my $demo = IPC::Run::start([ 'dev/demo' ], '<', '/dev/null', '>&', \$partial, IPC::Run::timeout(60));
$demo->pump until $partial =~ /replica_operations shows/;
$demo->signal('TERM');
$demo->finish;
is(left(), '', 'nothing is left of it when it is interrupted');

done_testing();
