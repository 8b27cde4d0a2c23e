# What monitoring/ has for Prometheus and Grafana: the exporter exports what
# the views say, promtool accepts the rules, and every metric that a rule or
# the dashboard names exists.

use strict;
use warnings;
use lib 't';
use ReplicaCtl;
use IO::Socket::INET;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my $rules = slurp_file('monitoring/prometheus_rules.yml');
my $dashboard = decode_json(slurp_file('monitoring/grafana_dashboard.json'));

sub program
{
	my ($name) = @_;
	return grep { -x "$_/$name" } split /:/, $ENV{PATH};
}

# ---- the rules ----

SKIP:
{
	skip 'promtool (package prometheus) is not installed', 3 unless program('promtool');
	my ($out, $err) = run_command([ 'promtool', 'check', 'rules', 'monitoring/prometheus_rules.yml' ]);
	like($out, qr/SUCCESS: \d+ rules found/, 'promtool accepts the rules') or diag("$out$err");
	($out, $err) = run_command([ 'promtool', 'test', 'rules', 'monitoring/prometheus_rules_test.yml' ]);
	like("$out$err", qr/^\s*SUCCESS$/m, 'and their tests pass') or diag("$out$err");
	my $tests = slurp_file('monitoring/prometheus_rules_test.yml');
	is(join(' ', grep { $tests !~ /alertname: $_\n.*\n\s+exp_alerts:\n\s+- exp_labels/ } $rules =~ /- alert: (\w+)/g), '',
		'each rule is tested to fire');
}

# ---- the dashboard ----

my @panels = @{ $dashboard->{panels} };
cmp_ok(scalar @panels, '>', 10, 'the dashboard has panels');
my %seen;
is(join(' ', grep { $seen{$_}++ } map { $_->{id} } @panels), '', 'each with an id of its own');
is(scalar(grep { !$_->{title} || !$_->{description} || !@{ $_->{targets} } } @panels), 0, 'a title, a description and a query');
my @overlaps;
for my $i (0 .. $#panels)
{
	for my $j (0 .. $i - 1)
	{
		my ($a, $b) = ($panels[$i]{gridPos}, $panels[$j]{gridPos});
		push @overlaps, "$panels[$i]{title} and $panels[$j]{title}"
		  if $a->{x} < $b->{x} + $b->{w} && $b->{x} < $a->{x} + $a->{w} && $a->{y} < $b->{y} + $b->{h} && $b->{y} < $a->{y} + $a->{h};
	}
}
is(join(', ', @overlaps), '', 'none covers another');
my $expressions = join "\n", map { $_->{expr} } map { @{ $_->{targets} } } @panels;
my %named = map { $_ => 1 } "$expressions\n$rules" =~ /\b(replica_ctl_\w+)/g;
cmp_ok(scalar keys %named, '>', 15, 'rules and dashboard name metrics');

# ---- the exporter ----

SKIP:
{
	skip 'prometheus-postgres-exporter is not installed', 1 unless program('prometheus-postgres-exporter');
	exporter_ok();
}
done_testing();

sub scrape
{
	my ($port) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 10) or return '';
	print $socket "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
	return do { local $/; <$socket> } // '';
}

sub exporter_ok
{
	# replicas take the ports after the primary's
	my $port = free_port();
	my $primary = new_primary('exported', conf => "autovacuum = off\nlisten_addresses = '127.0.0.1'\n");
	my $sql = sub { return $primary->safe_psql('postgres', shift); };
	my $odd = q{a"b\\c'd};
	my $quoted = $odd =~ s/'/''/gr;

	is(wait_operation($primary, $sql->("SELECT replica_create('$quoted')")), 'succeeded', 'a replica');
	$sql->(q{SELECT pg_create_physical_replication_slot('stuck', true); CREATE ROLE watcher LOGIN IN ROLE pg_monitor;
		CREATE TABLE t AS SELECT repeat(md5(i::text), 100) FROM generate_series(1, 1000) i});
	wait_for($primary, q{SELECT bool_and(connected AND lag = '0') FROM replica_status});
	wait_for($primary, q{SELECT count(value) > 0 FROM replica_metrics WHERE metric = 'ReplicaLag'});

	local $ENV{DATA_SOURCE_NAME} = sprintf 'postgresql://watcher@127.0.0.1:%d/postgres?sslmode=disable', $primary->port;
	my $exporter = IPC::Run::start(
		[ 'prometheus-postgres-exporter', "--web.listen-address=127.0.0.1:$port", '--disable-default-metrics',
			'--extend.query-path=monitoring/postgres_exporter.yml' ],
		'<', '/dev/null', '>', '/dev/null', '2>', "$ENV{TESTDIR}/exporter.log");
	my $page = wait_until(sub { my $got = scrape($port); return $got =~ /^replica_ctl_monitor/m && $got }, 'the exporter');
	my @failed = grep { /level=(?:error|warn)/ && !/landing page|auth_modules|Error loading config/ } split /\n/, slurp_file("$ENV{TESTDIR}/exporter.log");
	is(join("\n", @failed), '', 'the exporter has no complaint');
	like($page, qr/^pg_exporter_last_scrape_error(?:\{.*\})? 0$/m, 'nor an error of a query');

	my %exported = map { $_ => 1 } $page =~ /^(replica_ctl_\w+)/gm;
	is(join(' ', grep { !$exported{$_} } sort keys %named), '', 'every metric that rules and dashboard name is exported');
	my $label = $odd =~ s/(["\\])/\\$1/gr;
	like($page, qr/^replica_ctl_replica_connected\{[^\n]*replica="\Q$label\E"[^\n]*\} 1$/m, 'a replica, its name escaped');
	like($page, qr/^replica_ctl_replica_lag_seconds\{[^\n]*\} \d[\d.e-]*$/m, 'its lag');
	like($page, qr/^replica_ctl_standby_replay_lag_seconds\{[^\n]*\} \d[\d.e-]*$/m, 'also as a standby');
	my $segments = $sql->('SELECT wal_segments FROM replica_wal_usage');
	like($page, qr/^replica_ctl_wal_segments\{[^\n]*\} $segments$/m, 'the segments of WAL, as the view says');
	my $total = sprintf '%.6g', $sql->('SELECT total_bytes FROM replica_wal_usage');
	my ($exported_total) = $page =~ /^replica_ctl_wal_total_bytes\{[^\n]*\} (\S+)$/m;
	is(sprintf('%.6g', $exported_total), $total, 'the size of the disk');
	my ($kept) = $page =~ /^replica_ctl_slot_retained_bytes\{[^\n]*slot_name="stuck"[^\n]*\} (\S+)$/m;
	my $really = $sql->(q{SELECT retained_bytes FROM replica_slots WHERE slot_name = 'stuck'});
	cmp_ok(abs($kept - $really), '<', 100000, 'what a slot keeps');
	like($page, qr/^replica_ctl_metric_value\{metric="ReplicaLag",replica="\Q$label\E"[^\n]*unit="Seconds"\} \d[\d.e-]*$/m, 'a metric by its known name');
	like($page, qr/^replica_ctl_fence_up\{[^\n]*\} 0$/m, 'no fence');
	$sql->('SELECT replica_fence()');
	like(scrape($port), qr/^replica_ctl_fence_up\{[^\n]*\} 1$/m, 'a fence does not stop the exporter');
	$sql->('SELECT replica_unfence()');
	$exporter->kill_kill(grace => 2);
	$sql->(q{SELECT pg_drop_replication_slot('stuck')});
	is(wait_operation($primary, $sql->("SELECT replica_drop('$quoted')")), 'succeeded', 'dropped');
	no_orphans_ok($primary);
	return;
}
