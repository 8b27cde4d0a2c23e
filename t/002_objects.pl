# What the extension brings: every object says what it is for, nothing is open
# to PUBLIC, monitoring roles can read the views, and the README knows all of
# it.

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_primary('objects');

sub rows { return $node->safe_psql('postgres', $_[0]) }

# The objects that a user can name; parts of them (indexes, types of tables)
# have none of their own.
my $objects = q{
	SELECT d.classid, d.objid, pg_describe_object(d.classid, d.objid, 0) AS name
	FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
	WHERE e.extname = 'replica_ctl' AND d.deptype = 'e'
		AND d.classid IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_namespace'::regclass,
			'pg_foreign_data_wrapper'::regclass, 'pg_foreign_server'::regclass)
		AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = d.objid AND c.relkind NOT IN ('r', 'v'))
};

cmp_ok(rows("SELECT count(*) FROM ($objects) o"), '>', 20, 'there are objects to look at');
is(rows("SELECT name FROM ($objects) o WHERE coalesce(obj_description(objid, classid::regclass::name), '') = '' ORDER BY 1"),
	'', 'every object has a comment');

is(rows("SELECT name FROM ($objects) o JOIN pg_proc p ON p.oid = o.objid AND o.classid = 'pg_proc'::regclass
	WHERE has_function_privilege('public', p.oid, 'EXECUTE') ORDER BY 1"),
	'', 'no function can be executed by PUBLIC');
is(rows("SELECT name FROM ($objects) o JOIN pg_class c ON c.oid = o.objid AND o.classid = 'pg_class'::regclass
	WHERE has_table_privilege('public', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE') ORDER BY 1"),
	'', 'no table or view is open to PUBLIC');
is(rows("SELECT name FROM ($objects) o JOIN pg_foreign_server s ON s.oid = o.objid AND o.classid = 'pg_foreign_server'::regclass
	WHERE has_server_privilege('public', s.oid, 'USAGE') ORDER BY 1"),
	'', 'no server can be used by PUBLIC');
is(rows("SELECT has_schema_privilege('public', 'replica_ctl', 'USAGE')"), 'f', 'nor the schema');

# Views run their parts with the reader's rights where they call functions:
# read each as a member of pg_monitor.
$node->safe_psql('postgres', 'CREATE ROLE watcher LOGIN IN ROLE pg_monitor');
my @views = split /\n/, rows("SELECT relname FROM ($objects) o JOIN pg_class c ON c.oid = o.objid
	AND o.classid = 'pg_class'::regclass WHERE relkind = 'v' ORDER BY 1");
for my $view (@views)
{
	my ($rc, $out, $err) = $node->psql('postgres', "SET ROLE watcher; SELECT * FROM $view");
	is("$rc $err", '0 ', "pg_monitor can read $view");
}

my $readme = slurp_file('README.md');
my @functions = split /\n/, rows("SELECT DISTINCT proname FROM ($objects) o JOIN pg_proc p ON p.oid = o.objid
	AND o.classid = 'pg_proc'::regclass WHERE p.pronamespace <> 'replica_ctl'::regnamespace ORDER BY 1");
cmp_ok(scalar @functions, '>', 5, 'there are functions for users');
is(join(' ', grep { $readme !~ /^\| `\Q$_\E\(/m } @functions), '', 'the README has a line for every function');
is(join(' ', grep { $readme !~ /^\| `\Q$_\E` \|/m } @views), '', 'the README has a line for every view');

# A provider's page has every option of it, as its errors list them.
$node->safe_psql('postgres', q{CREATE SERVER ssh FOREIGN DATA WRAPPER replica_ssh OPTIONS (host 'x')});
for my $server ('local', 'ssh')
{
	my $page = slurp_file("docs/$server.md");
	my %calls = (
		'replica_create' => qq{SELECT replica_create('x', '$server', '{"?": 1}')},
		'replica_attach' => qq{SELECT replica_attach('x', '$server', '{"?": 1}')},
		'server' => qq{ALTER SERVER $server OPTIONS ("?" '1')},
		'user mapping' => qq{CREATE USER MAPPING FOR CURRENT_USER SERVER $server OPTIONS ("?" '1')});
	for my $what (sort keys %calls)
	{
		my ($listed) = psql_error($node, $calls{$what}) =~ /Valid options are: (.*)\.$/m;
		my ($section) = $page =~ /^## Options of \Q$what\E\n(.*?)(?=^## |\z)/ms;
		my $pattern = qr/^\| `(\w+)`/m;

		# those of servers and user mappings share a table
		($section, $pattern) = ($page, qr/^\| \Q$what\E \| `(\w+)`/m) unless defined $section;
		is(join(', ', sort $section =~ /$pattern/g), join(', ', sort split /, /, $listed),
			"docs/$server.md has the options of $what");
	}
}

# docs/operations.md has every step of it, in order.
my $operations = slurp_file('docs/operations.md');
for my $row (split /\n/, rows(q{SELECT kind, string_agg(step, ' ' ORDER BY step_number)
	FROM replica_ctl.steps() WHERE provider = 'local' GROUP BY kind ORDER BY kind}))
{
	my ($kind, $steps) = split /\|/, $row;
	my ($documented) = $operations =~ /^\| \Q$kind\E \| (.*) \|$/m;
	is(join(' ', ($documented // '') =~ /`(\w+)`/g), $steps, "docs/operations.md has the steps of $kind");
}

# docs/settings.md says the defaults that hold, and which need a restart.
my $settings = slurp_file('docs/settings.md');
for my $row (split /\n/, rows(q{
	SELECT name, boot_val, coalesce(unit, ''), CASE context WHEN 'postmaster' THEN 'needs a restart'
		WHEN 'sighup' THEN 'needs a reload' ELSE 'can be set in a session' END
	FROM pg_settings WHERE name LIKE 'replica\_ctl.%' AND name NOT LIKE '%.test\_%'}))
{
	my ($name, $default, $unit, $needs) = split /\|/, $row;
	my ($text) = $settings =~ /^## `\Q$name\E`\n(.*?)(?=^## |\z)/ms;
	my ($documented) = ($text // '') =~ /\bdefault `?([^`,]+?)`?(?:,|\.\s)/;

	like($text // '', qr/\b$needs\b/, "$name $needs");
	$default = 'empty' if $default eq '';
	if ($unit ne '')
	{
		# times and sizes are documented in words
		my $read = $unit =~ /B$/ ? 'pg_size_bytes(%s)' : 'justify_hours(%s::interval)';
		$default = rows('SELECT ' . sprintf($read, "'$default $unit'"));
		$documented = rows('SELECT ' . sprintf($read, "'$documented'")) if defined $documented;
	}
	is($documented, $default, "the documented default of $name");
}

done_testing();
