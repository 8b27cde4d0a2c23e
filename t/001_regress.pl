# The SQL tests: each sql/NAME.sql against expected/NAME.out, by pg_regress,
# in alphabetical order, in database "postgres" of one server in which the
# extension exists.

use strict;
use warnings;
use File::Basename;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;

my @tests = map { basename($_, '.sql') } grep { !/replica_ctl--/ } sort glob 'sql/*.sql';

plan skip_all => 'there are no SQL tests' unless @tests;

my $node = new_primary('regress');
my $output = "$ENV{TESTDIR}/regress";
mkdir $output;

my ($stdout, $stderr);
IPC::Run::run(
	[
		$ENV{PG_REGRESS}, '--inputdir=.', "--outputdir=$output", '--bindir=',
		'--use-existing', '--dbname=postgres',
		'--host=' . $node->host, '--port=' . $node->port, @tests
	],
	'>', \$stdout, '2>', \$stderr);
my $status = $?;
print $stdout, $stderr;

# Version 15 says "test NAME ... ok", later ones speak TAP.
for my $test (@tests)
{
	my $ok = $stdout =~ /^test \Q$test\E\s+\.\.\. ok\b/m
	  || $stdout =~ /^ok \d+\s+[-+] \Q$test\E\s/m;
	ok($ok, "sql/$test.sql");
}
is($status, 0, 'pg_regress succeeded');
diag(slurp_file("$output/regression.diffs")) if -s "$output/regression.diffs";

done_testing();
