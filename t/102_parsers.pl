# JSON and XML from elsewhere: whatever the bytes are, in any database encoding.

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_primary('parsers');
test_build($node) or plan skip_all => 'this is no test build';

my @databases = qw(postgres latin1 eucjp ascii);
$node->safe_psql('postgres', "CREATE DATABASE $_->[0] TEMPLATE template0 ENCODING '$_->[1]' LC_COLLATE 'C' LC_CTYPE 'C'")
  for ([ 'latin1', 'LATIN1' ], [ 'eucjp', 'EUC_JP' ], [ 'ascii', 'SQL_ASCII' ]);
$node->safe_psql($_, q{
	CREATE FUNCTION read_json(bytea, text) RETURNS text AS '$libdir/replica_ctl', 'rctl_test_json' LANGUAGE C STRICT;
	CREATE FUNCTION read_xml(bytea, text, text) RETURNS text AS '$libdir/replica_ctl', 'rctl_test_xml' LANGUAGE C STRICT;
}) for @databases;

sub parsed
{
	my ($database, $function, $bytes, @more) = @_;
	my $list = join ', ', map { "'$_'" } @more;

	# as hex, so that nothing depends on psql's encoding
	return $node->safe_psql($database, sprintf(q{SELECT encode(convert_to(%s('\x%s', %s), getdatabaseencoding()), 'escape')},
			$function, unpack('H*', $bytes), $list));
}

sub json_is { my ($bytes, $path, $expected, $name, $db) = @_; return is(parsed($db // 'postgres', 'read_json', $bytes, $path), $expected, $name) }
sub xml_is { my ($bytes, $path, $item, $expected, $name, $db) = @_; return is(parsed($db // 'postgres', 'read_xml', $bytes, $path, $item), $expected, $name) }

# ---- JSON ----

my $document = '{"items": [{"name": "a", "n": 12.50, "ok": true}, {"name": "b"}], "deep": {"er": null}, "big": 123456789012345678901234567890}';
json_is($document, 'items/1/name', 'b', 'a path');
json_is($document, 'items/0/n', '12.50', 'a number');
json_is($document, 'items/0/ok', 'true', 'a boolean');
json_is($document, 'big', '123456789012345678901234567890', 'a long number');
json_is($document, $_, '', "nothing at $_") for ('items/2/name', 'items/x', 'deep/er', 'deep/er/x', 'none/of/it', 'items', 'items/99999999999');
json_is('"text"', '', 'text', 'a scalar');
json_is($_->[0], 'a', "problem: it is $_->[1]", "refused: $_->[2]") for (
	[ '', 'not JSON', 'nothing' ],
	[ '{"a": ', 'not JSON', 'half of it' ],
	[ '{"a": 1} x', 'not JSON', 'more than it' ],
	[ '<html></html>', 'not JSON', 'HTML' ],
	[ "{\"a\": \"\xff\xfe\"}", 'not UTF-8 text', 'invalid UTF-8' ],
	[ "{\"a\": \"x\0y\"}", 'not UTF-8 text', 'a NUL byte' ],
	[ "{\"a\": \"x\ny\"}", 'not JSON', 'a line feed in a string' ],
	[ '{"a": 1e999999999}', 'not JSON', 'a number out of range' ],
	[ '{"a": NaN}', 'not JSON', 'NaN' ],
	[ '[' x 100000 . ']' x 100000, 'nested too deeply', '100,000 levels' ],
	[ '{"a":' x 101 . '1' . '}' x 101, 'nested too deeply', '101 levels' ],
	[ "\xef\xbb\xbf{}", 'not JSON', 'a byte order mark' ]);
json_is('{"a": "x\u0000y"}', 'a', 'x?y', 'a NUL escape');
json_is('{"a": "\ud83d"}', 'a', '?', 'half of a surrogate pair');
json_is('{"a": "\ud83d\u0041"}', 'a', '?A', 'half of one, and more');
json_is('{"a": "\"\\\\\u005c\n"}', 'a', "\"\\\\\\\\\\\\\n" =~ s/\\\\\\\\\\\\/\\\\\\\\/r, 'escapes');
json_is('{"\u0061": 1}', 'a', '1', 'an escape in a key');
json_is('{"a": "' . 'x' x 500000 . '"}', 'a', 'x' x 500000, 'a long string');

my %eacute = (postgres => '\303\251', latin1 => '\351', eucjp => '\217\253\261', ascii => '\303\251');
my %euro = (postgres => '\342\202\254', latin1 => '?', eucjp => '?', ascii => '\342\202\254');
for my $db (@databases)
{
	json_is("{\"a\": \"\xc3\xa9\"}", 'a', $eacute{$db}, "a character in $db", $db);
	json_is('{"a": "\u00e9"}', 'a', $eacute{$db}, "an escaped one in $db", $db);
	json_is("{\"a\": \"\xe2\x82\xac\"}", 'a', $euro{$db}, "one that may be missing in $db", $db);
	json_is('{"a": "\u20ac"}', 'a', $euro{$db}, "the same, escaped, in $db", $db);
	like(parsed($db, 'read_json', '{"a": "\ud83d\ude00"}', 'a'), qr/^(\?|\\360\\237\\230\\200)$/, "an emoji in $db");
	json_is("{\"a\": \"\xff\"}", 'a', 'problem: it is not UTF-8 text', "invalid bytes in $db", $db);
	xml_is("<r><a>\xc3\xa9</a></r>", '', 'a', "[$eacute{$db}]", "XML in $db", $db);
	xml_is("<r><a>&#x20ac;</a></r>", '', 'a', "[$euro{$db}]", "a reference in XML in $db", $db);
	is($node->safe_psql($db, 'SELECT 1'), '1', "$db goes on");
}

# ---- XML ----

my $answer = '<?xml version="1.0"?>
<R xmlns="http://x/" xmlns:p="http://y/">
  <p:Result> <List><Item> one </Item><Other/><Item>two &amp; <![CDATA[<3>]]></Item><Item/></List></p:Result>
</R>';
xml_is($answer, 'Result/List', 'Item', '[one][two & <3>][(null)]', 'elements by their local names');
xml_is($answer, 'Result/None', 'Item', '', 'none');
for my $bad (
	[ '', 'not XML', 'nothing' ],
	[ '<a><b></a>', 'not XML', 'not well-formed' ],
	[ '<a>', 'not XML', 'half of it' ],
	[ '<html><body><p>busy<br></body></html>', 'not XML', 'HTML' ],
	[ "<a>\xff\xfe</a>", 'not XML', 'invalid bytes' ],
	[ "<a>\0</a>", 'not XML', 'a NUL byte' ],
	[ '<a>&nothing;</a>', 'not XML', 'an unknown entity' ],
	[ '<a>' x 100000, 'not XML', '100,000 levels' ],
	[ '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><a>&e;</a>', 'a document type declaration', 'an external entity' ],
	[ '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><a>&c;&c;</a>',
		'a document type declaration', 'entities that grow' ],
	[ '<!DOCTYPE html><html></html>', 'a document type declaration', 'any document type' ])
{
	like(parsed('postgres', 'read_xml', $bad->[0], '', 'a'), qr/^problem: it (is|has) $bad->[1]$/, "refused: $bad->[2]");
}
xml_is("<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><r><a>\xe9</a></r>", '', 'a', '[\303\251]', 'another encoding');
xml_is('<r>' . '<a>x</a>' x 50000 . '</r>', '', 'b', '', 'many elements');

# PostgreSQL's own XML in the same session
is($node->safe_psql('postgres', q{
	DO $$BEGIN PERFORM xmlparse(DOCUMENT '<a>'); EXCEPTION WHEN OTHERS THEN NULL; END$$;
	SELECT read_xml('<r><a>1</a></r>', '', 'a') || (xpath('/b/text()', '<b>2</b>'))[1]::text || read_xml('<r><a>', '', 'a');
}), '[1]2problem: it is not XML', "PostgreSQL's own XML is not disturbed");
unlike(slurp_file($node->logfile), qr/PANIC|signal 11|parser error|Extra content/, 'libxml2 says nothing by itself');

$node->stop;
done_testing();
