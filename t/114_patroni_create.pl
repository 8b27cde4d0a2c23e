# 114_patroni_create.pl
#	  Members of a real Patroni cluster that are made and removed through a real
#	  sshd, where somebody has written a patroni.yml.
# slow

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use Patroni;
use ReplicaCtl;
use SshHosts;

plan skip_all => 'missing: ' . Patroni::missing() if Patroni::missing();
plan skip_all => ssh_missing() if ssh_missing();

my $patroni = Patroni->new(2);
my $control = ssh_primary('control');
my $host = ssh_host($control, 'h3');
$patroni->start;

sub sql { return $control->safe_psql('postgres', $_[0]) }

sub outcome
{
	my ($operation) = @_;
	wait_operation($control, $operation, 120);
	return sql("SELECT concat_ws('|', state, step, message, detail, hint) FROM replica_operations WHERE operation = $operation");
}

sub create
{
	my ($name, %options) = @_;
	my $json = join ', ', map { qq{"$_": "$options{$_}"} } sort keys %options;
	return outcome(sql("SELECT replica_create('$name', 'orders', '{$json}')"));
}

# A configuration there, of a member that nobody has started, whose copy takes a few seconds.
$patroni->{nodes}{p3} = { port => Patroni::port(), rest => Patroni::port() };
my $yml = $patroni->write_config('p3');
append_to_file($yml, "log: {level: INFO}\n");
{
	my $text = slurp_file($yml);
	$text =~ s/^(postgresql:\n)/$1  create_replica_methods: [basebackup]\n  basebackup: [{max-rate: 2M}, {checkpoint: fast}]\n/m;
	unlink $yml;
	append_to_file($yml, $text);
}
my $data = "$patroni->{dir}/p3";

# A service manager in small: Patroni that is told to end while it copies goes on, and is killed in the end.
my $manager = $host->base . '/manager';
append_to_file($manager, <<"END");
#!/bin/sh
pid=\$(cat "$manager.pid" 2>/dev/null)
echo "\$1" >>"$manager.log"
case \$1 in
	start)
		if [ -n "\$pid" ] && kill -0 "\$pid" 2>/dev/null; then exit 0; fi
		env -i PATH="\$PATH" LANG=C.UTF-8 setsid patroni "$yml" </dev/null >>"$patroni->{dir}/p3.log" 2>&1 &
		echo \$! >"$manager.pid" ;;
	stop)
		[ -n "\$pid" ] || exit 0
		kill "\$pid" 2>/dev/null
		for i in \$(seq 50); do kill -0 "\$pid" 2>/dev/null || break; sleep 0.1; done
		kill -KILL "\$pid" 2>/dev/null
		rm -f "$manager.pid" ;;
esac
END
chmod 0755, $manager;

sub manager_log { return -e "$manager.log" ? join(' ', split ' ', slurp_file("$manager.log")) : '' }

END
{
	my $status = $?;
	system($manager, 'stop') if defined $manager && -e "$manager.pid";
	$? = $status;
}

sql(q{CREATE SERVER orders FOREIGN DATA WRAPPER replica_patroni OPTIONS (scope 'orders', poll_interval '5', urls '} . $patroni->urls . q{');
	CREATE USER MAPPING FOR CURRENT_USER SERVER orders OPTIONS ("user" 'rest', password 'open-sesame', db_user 'postgres', db_password 'super-pass')});
$host->server(start_command => "$manager start", stop_command => "$manager stop");

# --------------------------------------------------------------------------
note 'refused';
# --------------------------------------------------------------------------
like(psql_error($control, q{SELECT replica_create('p3', 'orders')}),
	qr/0A000.*without a way to its host.*patroni\.yml.*replica_attach\('p3', server\).*ssh_server/s, 'no host, but how to');
sql('CREATE ROLE ops LOGIN; GRANT EXECUTE ON FUNCTION replica_create TO ops; GRANT USAGE ON FOREIGN SERVER orders TO ops');
like(psql_error($control, q{SELECT replica_create('p3', 'orders', '{"ssh_server": "h3"}')}, extra_params => [ '-U', 'ops' ]),
	qr/42501.*permission denied to run programs.*GRANT pg_execute_server_program TO ops/s, 'nobody gets at a shell by Patroni');
sql('GRANT pg_execute_server_program TO ops');
like(outcome($control->safe_psql('postgres', q{SELECT replica_create('p3', 'orders', '{"ssh_server": "h3"}')}, extra_params => [ '-U', 'ops' ])),
	qr/^failed\|preflight\|permission denied for foreign server h3/, 'nor at a host');
like(create('p3', ssh_server => 'nowhere'), qr/^failed\|preflight\|there is no server "nowhere" of wrapper replica_ssh/, 'no such server');
like(create('p3', ssh_server => 'h3', config_file => "$yml.not"), qr/^failed\|preflight\|there is no file "\Q$yml.not\E" on .*option config_file/, 'no configuration');
like(create('p4', ssh_server => 'h3', config_file => $yml), qr/^failed\|preflight\|.*is not the configuration of member "p4"\|Its name is "p3"/, "another member's");
like(create('p2', ssh_server => 'h3', config_file => $yml), qr/^failed\|preflight\|the Patroni cluster has a member "p2" already.*replica_attach/, 'a member that is there');
sql(q{ALTER SERVER orders OPTIONS (SET scope 'invoices')});
like(create('p3', ssh_server => 'h3', config_file => $yml), qr/^failed\|preflight\|.*is of another cluster\|Its scope is "orders", that of the cluster is "invoices"/, "another cluster's");
sql(q{ALTER SERVER orders OPTIONS (SET scope 'orders')});
append_to_file("$host->{base}/broken.yml", "name: p3\nsecret: 'super-pass\n");
my $outcome = create('p3', ssh_server => 'h3', config_file => "$host->{base}/broken.yml");
like($outcome, qr/^failed\|preflight\|.*broken\.yml/, 'no YAML');
unlike($outcome, qr/super-pass/, 'of which nothing is shown');
mkdir $data;
append_to_file("$data/mine", 'x');
like(create('p3', ssh_server => 'h3', config_file => $yml), qr/^failed\|preflight\|"\Q$data\E" on .* is not empty/, 'a directory with something in it');
ok(-e "$data/mine", 'which stays');
unlink "$data/mine";
is(manager_log(), '', 'nothing was started');

my $checks = sql(qq{SELECT name, status FROM replica_explain('create', 'p3', 'orders', '{"ssh_server": "h3", "config_file": "$yml"}') WHERE status <> 'step'});
like($checks, qr/^$_\|ok/m, "explain: $_") for 'cluster', 'ssh', 'configuration', 'version', 'data directory';

# --------------------------------------------------------------------------
note 'a member is made';
# --------------------------------------------------------------------------
# Patroni does not tell how far it is: that must not look like standstill.
$control->append_conf('postgresql.conf', "replica_ctl.progress_timeout = '5s'\nreplica_ctl.test_fault = 'create.start.after=crash*1'");
$control->reload;
my $began = time;
like(create('p3', ssh_server => 'h3', config_file => $yml), qr/^succeeded/, 'p3, with a worker killed after the start');
cmp_ok(time - $began, '>', 6, 'longer than the progress time-out');
like(manager_log(), qr/^start( start)?$/, 'Patroni was started');
$control->append_conf('postgresql.conf', "replica_ctl.progress_timeout = '10min'\nreplica_ctl.test_fault = ''");
$control->reload;
like($patroni->members->{p3}{state}, qr/^(running|streaming)/, 'it is a member');
wait_for($control, q{SELECT state = 'streaming' FROM replica_status WHERE replica = 'p3'});
is(sql(q{SELECT endpoint FROM replica_status WHERE replica = 'p3'}), "127.0.0.1:$patroni->{nodes}{p3}{port}", 'and a replica');
is($patroni->sql('p3', 'SELECT pg_is_in_recovery()'), 't', 'that works');
like(create('p9', ssh_server => 'h3', config_file => $yml, member => 'p3'), qr/^failed\|preflight\|member "p3" is attached already/, 'once');

# --------------------------------------------------------------------------
note 'dropped';
# --------------------------------------------------------------------------
like(outcome(sql(q{SELECT replica_attach('p2', 'orders')})), qr/^succeeded/, 'another one is attached');
like(outcome(sql(q{SELECT replica_drop('p2')})), qr/^failed\|check\|member "p2" was not made by replica_create\|.*replica_detach\('p2'\)/, 'and not ours to drop');
like(outcome(sql(q{SELECT replica_drop('p3')})), qr/^succeeded/, 'p3 is');
like(manager_log(), qr/stop$/, 'Patroni was stopped');
is_deeply([ glob "$data/*" ], [], 'its data is gone');
ok(-d $data, 'the directory that was there is not');

# --------------------------------------------------------------------------
note 'one that does not come up';
# --------------------------------------------------------------------------
$patroni->wait(sub { ($_[0]{p3}{state} // 'stopped') eq 'stopped' });
my $good = slurp_file($yml);
(my $bad = $good) =~ s/max-rate: 2M/no-such-option: x/;
unlink $yml;
append_to_file($yml, $bad);
like(create('p3', ssh_server => 'h3', config_file => $yml),
	qr/^failed\|catch_up\|member "p3" of the Patroni cluster does not come up\|Patroni has begun to copy the leader 4 times.*logs of Patroni/, 'an end to attempts that fail');
like(manager_log(), qr/stop$/, 'Patroni was stopped');
unlink $yml;
append_to_file($yml, $good);

# --------------------------------------------------------------------------
note 'undone';
# --------------------------------------------------------------------------
$patroni->wait(sub { ($_[0]{p3}{state} // 'stopped') eq 'stopped' });
rmdir $data;
unlink "$manager.log";
my $operation = sql(qq{SELECT replica_create('p3', 'orders', '{"ssh_server": "h3", "config_file": "$yml"}')});
wait_for($control, "SELECT phase ~ 'creating replica' FROM replica_operations WHERE operation = $operation", 60);
sql("SELECT replica_cancel($operation)");
like(outcome($operation), qr/^cancelled/, 'in the middle of the copy');
is(manager_log(), 'start stop', 'Patroni was stopped');
ok(!-e $data, 'its data is gone');
is(sql(q{SELECT count(*) FROM replica_ctl.cleanup}), '0', 'nothing is left to be removed');
unlike(sql(q{SELECT string_agg(concat(message, detail), ' ') FROM replica_events}), qr/super-pass|rep-pass|open-sesame/, 'no secret was told');
unlike(slurp_file($control->logfile), qr/rep-pass/, 'nor logged');

done_testing();
