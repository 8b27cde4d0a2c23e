# replica_report(): a valid page of its own for no, some and very many
# replicas, whatever they are called.

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use File::Temp;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $odd = q{a"<b>&'/>ö日};
# first, so that no replica takes its port
my $foreign = PostgreSQL::Test::Cluster->new('foreign');
my $primary = new_primary('report', conf => <<'END');
max_replication_slots = 220
autovacuum = off
END
sub sql { return $primary->safe_psql('postgres', shift); }

# The void elements that the page has, which take no end tag.
my %void = map { $_ => 1 } qw(meta);

# Elements that are not closed in order, and attributes that are not quoted.
sub unbalanced
{
	my ($page) = @_;
	my (@open, @wrong);

	$page =~ s/\A<!DOCTYPE html>\n// or push @wrong, 'doctype';
	$page =~ s{<style>[^<]*</style>}{};
	while ($page =~ /<([^>]*)>/g)
	{
		my $tag = $1;
		if ($tag =~ m{^/(\w+)$})
		{
			my $last = pop @open // '';
			push @wrong, "</$1> ends <$last>" if $last ne $1;
		}
		elsif ($tag =~ /^(\w+)(?: [\w:-]+="[^"<]*")*$/)
		{
			push @open, $1 unless $void{$1};
		}
		else
		{
			push @wrong, "<$tag>";
		}
	}
	$page =~ s/<[^>]*>//g;
	push @wrong, $& while $page =~ /[<>]|&(?!(?:lt|gt|amp|quot|#39|#x[0-9A-F]+);).{0,9}/g;
	return join ' ', @wrong, @open;
}

# What tidy has to say of it, but for what is newer than tidy.
sub tidy_says
{
	my ($file) = @_;
	my @lines = split /\n/, `tidy -q -e -utf8 --show-info no '$file' 2>&1`;
	return join "\n", grep { !/is not approved by W3C|proprietary attribute|trimming empty/ } @lines;
}

# The page, checked; the session may be of any encoding.
sub page_ok
{
	my ($name, %options) = @_;
	my $page = sql(($options{before} // '') . "SELECT replica_report(" . ($options{since} // '') . ')');
	my $file = "$ENV{TESTDIR}/report_" . ($name =~ s/\W+/_/gr) . '.html';

	unlike($page, qr/[^\t\n -~]/, "$name: pure ASCII");
	is(unbalanced($page), '', "$name: well-formed");
	my $tags = join "\n", $page =~ /<[^>]*>/g;
	unlike($tags, qr{<(?:script|link|img|iframe|object|embed|image|use|base|form)|\b(?:src|href|action|on\w+)=}i,
		"$name: it loads and runs nothing");
	unlike($page, qr{https?:|[@]import}i, "$name: nor does it name an address");
	unlike($page, qr/url\((?!#box\))/, "$name: nor by its style");
	unlike($page, qr/\b(?:nan|inf|infinity|null)\b/, "$name: no value that is none");
	my @ids = $page =~ /\bid="([^"]*)"/g;
	my %seen;
	is(join(' ', grep { $seen{$_}++ } @ids), '', "$name: no id twice");
	open my $out, '>', $file or die "$file: $!";
	print $out "$page\n";
	close $out;
  SKIP:
	{
		skip 'tidy is not installed', 1 unless grep { -x "$_/tidy" } split /:/, $ENV{PATH};
		is(tidy_says($file), '', "$name: tidy has no complaint");
	}
	rendered_ok($name, $file) if $options{render};
	return $page;
}

# Chromium shows it, and has nothing to say on its console.
sub rendered_ok
{
	my ($name, $file) = @_;

  SKIP:
	{
		skip 'chromium is not installed', 4 unless grep { -x "$_/chromium" } split /:/, $ENV{PATH};
		for my $width (400, 1200)
		{
			my $profile = File::Temp::tempdir(CLEANUP => 1);
			my $image = $file =~ s/html$/$width.png/r;
			my ($out, $err);
			IPC::Run::run(
				[ 'chromium', '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
					'--disable-background-networking', '--disable-component-update', '--disable-sync',
					"--user-data-dir=$profile", '--enable-logging=stderr', "--screenshot=$image",
					"--window-size=$width,2000", "file://$file" ],
				'<', '/dev/null', '>', \$out, '2>', \$err, IPC::Run::timeout(120));
			ok(-s $image, "$name: rendered at a width of $width");
			unlike($err, qr/CONSOLE/, "$name: no message on the console");
		}
	}
	return;
}

# ---- none ----

wait_for($primary, q{SELECT count(*) = 1 FROM replica_wal_usage});
my $page = page_ok('none', render => 1);
like($page, qr/All is well\./, 'all is well');
like($page, qr/No replicas\./, 'it says that there are none');
like($page, qr{<h1>Replication of <bdi>report</bdi></h1>}, 'it is of this server');
like($page, qr/WAL rate/, 'there are charts');

# ---- some ----

sql(q{SELECT replica_create('} . ($odd =~ s/'/''/gr) . q{')});
sql(q{SELECT replica_operation_wait(1)});
sql(q{SELECT replica_create('r2', options => '} . ('{"upstream": "' . ($odd =~ s/(["])/\\$1/gr =~ s/'/''/gr) . '"}') . q{')});
sql(q{SELECT replica_operation_wait(2)});
is(sql(q{SELECT count(*) FROM replica_status WHERE upstream = '} . ($odd =~ s/'/''/gr) . q{'}), 1, 'replica_status has the upstream');
wait_for($primary, q{SELECT count(*) = 2 FROM replica_status WHERE state = 'streaming'});
$primary->backup('base');
$foreign->init_from_backup($primary, 'base', has_streaming => 1);
$foreign->append_conf('postgresql.conf',
	q{primary_conninfo = '} . $primary->connstr =~ s/'/''/gr . q{ application_name=''for<eign>'''});
$foreign->start;
sql(q{SELECT pg_create_physical_replication_slot('stuck', true)});
sql(q{ALTER SYSTEM SET replica_ctl.slot_wal_limit = '2MB'; SELECT pg_reload_conf();
	CREATE TABLE t AS SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 10000) i});
wait_for($primary, q{SELECT verdict = 'critical' FROM replica_slots WHERE slot_name = 'stuck'});
wait_for($primary, q{SELECT count(*) = 3 FROM replica_lag WHERE connected AND replay_lag_bytes IS NOT NULL});

# a slow copy, to have an operation that runs
sql(q{SELECT replica_create('slow', options => '{"max_rate": 100}')});
wait_for($primary, q{SELECT bytes_done > 0 AND bytes_per_second > 0 FROM replica_operations WHERE operation = 3});
sql(q{INSERT INTO replica_ctl.event (severity, kind, message, actor, replica)
	VALUES ('error', '<i>', E'<img src="x" onerror="y"> \x01 \u0085 &amp; tail', 'p"<&>', '<u>')});
$page = page_ok('some', render => 1);

my $shown = 'a&quot;&lt;b&gt;&amp;&#39;/&gt;&#xF6;&#x65E5;';
like($page, qr/<text class="name"[^>]*>\Q$shown\E</, 'a replica is in the topology, by its name');
like($page, qr/<text class="lag"[^>]*>[\d.]+ m?s</, 'with its lag on the edge');
like($page, qr{follows <bdi>\Q$shown\E</bdi>}, 'a cascade is shown');
my ($x1) = $page =~ /translate\((\d+) \d+\)[^>]*><title>\Q$shown\E:/;
my ($x2) = $page =~ /translate\((\d+) \d+\)[^>]*><title>r2:/;
cmp_ok($x2, '>', $x1, 'and drawn behind its upstream');
like($page, qr/class="foreign ok"[^>]*><title>[^<]*for&lt;eign&gt;/, 'a standby that is not ours is shown');
like($page, qr{<progress max="100" value="\d+">}, 'an operation has a progress bar');
like($page, qr{Needs action\.}, 'the verdict');
like($page, qr{Slot <bdi>&quot;stuck&quot;</bdi> is critical and keeps}, 'and its reason');
like($page, qr{SELECT pg_drop_replication_slot\(&#39;stuck&#39;\);}, 'with the advice');
like($page, qr{<td data-label="Used by">this server, replicas <bdi>\Q$shown\E, r2</bdi>}, 'the disk, with who uses it');
like($page, qr{&#xFFFD; &#xFFFD; &amp;amp; tail}, 'events are escaped, and control characters replaced');
is(() = $page =~ /<figure class="chart">/g, 4, 'four charts');
like($page, qr{<path class="curve c0" d="M[\d. ]+h\.1"></path>}, 'with curves');

# the client's encoding does not matter
like(page_ok('latin1', before => q{SET client_encoding = 'LATIN1'; }), qr/\Q$shown\E/, 'as LATIN1: the same names');

# nor does a search_path that is out to deceive
is(sql(q{CREATE SCHEMA trap; CREATE FUNCTION trap.to_char(timestamptz, text) RETURNS text LANGUAGE sql AS $$SELECT 1 / 0$$;
	CREATE VIEW trap.replica_status AS SELECT 1 / 0 AS replica;
	SET search_path = trap, pg_catalog, public; SELECT length(public.replica_report()) > 1000}), 't', 'a search_path that deceives');

# ---- who, and how much ----

sql('CREATE ROLE watcher IN ROLE pg_monitor; CREATE ROLE outsider');
is(sql(q{SET ROLE watcher; SELECT length(replica_report('1 second')) > 1000}), 't', 'pg_monitor may');
like(psql_error($primary, 'SET ROLE outsider; SELECT replica_report()'), qr/42501.*permission denied for function/s, 'others may not');
for my $since ('0', '-1 hour')
{
	like(psql_error($primary, "SELECT replica_report('$since')"), qr/22023.*must be greater than zero.*HINT/s, "since = $since");
}
unlike(page_ok('short', since => q{'1 microsecond'}), qr{onerror}, 'only events of the time are shown');
like(page_ok('long', since => q{'100 years'}), qr{onerror}, 'a hundred years');
is($foreign->safe_psql('postgres', 'SELECT count(*) FROM (SELECT replica_report()) r WHERE replica_report LIKE $$%in recovery%$$'),
	1, 'on a standby as well');

# ---- very many ----

sql(q{SELECT replica_cancel(3)});
wait_operation($primary, 3);
sql(q{SELECT count(pg_create_physical_replication_slot('s' || i, true)) FROM generate_series(1, 195) i});
sql(q{INSERT INTO replica_ctl.replica (name, server, state, options, facts, created_by, system_identifier, timeline_id, home)
	SELECT 'many' || i, 'local', 'streaming', '{}',
		jsonb_build_object('application_name', 'many' || i, 'slot', 's' || i, 'host', '127.0.0.1', 'port', '1',
			'data_directory', '/nonexistent/many' || i)
			|| CASE WHEN i > 190 THEN jsonb_build_object('upstream', 'many' || CASE i WHEN 195 THEN 191 ELSE i + 1 END) ELSE '{}' END,
		current_user, '', 1, ''
	FROM generate_series(1, 198) i; SELECT replica_claim()});
wait_for($primary, q{SELECT count(*) >= 190 FROM replica_status WHERE state = 'stopped'});
is(sql(q{SELECT count(*) FROM replica_status WHERE state IN ('stopped', 'disconnected')}), 198, 'many replicas');
sql(q{INSERT INTO replica_ctl.event (severity, kind, message, actor)
	SELECT 'info', 'test', repeat('long text ', 20), 'me' FROM generate_series(1, 500)});
$page = page_ok('many', render => 1);
is(() = $page =~ m{<td data-label="Replica"><bdi><b>}g, sql('SELECT count(*) FROM replica_lag'), 'each has a row');
cmp_ok(() = $page =~ /<text class="name"/g, '<', 40, 'the topology has those that matter');
like($page, qr{<text class="name"[^>]*>\d+ more<}, 'and sums up the others');
like($page, qr{\d+ more replicas are not streaming}, 'so does the verdict');
like($page, qr{Events, the last 200 of 5\d\d}, 'events are limited');
my $best = sql(q{
	DO $$ DECLARE best float := 1e9; t timestamptz; BEGIN
		FOR i IN 1..5 LOOP
			t := clock_timestamp();
			PERFORM replica_report();
			best := least(best, extract(epoch FROM clock_timestamp() - t) * 1000);
		END LOOP;
		PERFORM set_config('test.best', best::text, false);
	END $$;
	SELECT current_setting('test.best')});
cmp_ok($best, '<', 300, 'made in less than 300 ms') and note("$best ms, " . length($page) . ' bytes');

sql('DELETE FROM replica_ctl.replica WHERE name LIKE $$many%$$');
$foreign->stop;
done_testing();
