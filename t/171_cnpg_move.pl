# replica_cnpg: two Clusters change roles, in two Kubernetes clusters (other
# addresses, certificates, accounts, namespaces), and what is undone when one
# side refuses, hangs or is gone in the middle.
#
# slow

use strict;
use warnings;
use lib 't';
use FakeKubernetes;
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $east = FakeKubernetes->new('east');
my $west = FakeKubernetes->new('west');
$east->tokens('east-token-1', 'reader');
$west->tokens('west-token-1');
my $east_token = $east->file('token', "east-token-1\n");

my $primary = new_primary('move', conf => "log_statement = none\nlog_min_error_statement = panic\nreplica_ctl.step_retries = 1");
sub sql { return $primary->safe_psql('postgres', shift); }
sub fails_like
{
	my ($sql, $pattern, $name) = @_;
	my (undef, undef, $err) = $primary->psql('postgres', $sql);
	return like($err, $pattern, $name);
}
sub promote
{
	my ($replica, $more) = @_;
	return sql("SELECT replica_promote('$replica', source_after => 'standby'" . ($more // '') . ')');
}
sub primary_of { my ($fake, $namespace, $name) = @_; return $fake->cluster($namespace, $name)->{spec}{replica}{primary} // 'none'; }
sub is_primary
{
	my ($fake, $namespace, $name) = @_;
	my $status = $fake->cluster($namespace, $name)->{status};
	return $status->{instancesReportedState}{ $status->{currentPrimary} }{isPrimary} ? 1 : 0;
}

# ---- the two sides ----

my ($east_url, $east_ca, $west_url, $west_ca) = ($east->url, $east->ca, $west->url, $west->ca);
sql(qq{
	CREATE SERVER east FOREIGN DATA WRAPPER replica_cnpg OPTIONS (api_server '$east_url', ca_file '$east_ca',
		namespace 'orders-east', token_file '$east_token');
	CREATE SERVER west FOREIGN DATA WRAPPER replica_cnpg OPTIONS (api_server '$west_url', ca_file '$west_ca',
		namespace 'orders-west', cluster 'alpha', source_server 'east');
	CREATE USER MAPPING FOR CURRENT_USER SERVER west OPTIONS (token 'west-token-1', replication_password 'never-sent');
});
$east->new_cluster('orders-east', 'alpha', externalClusters => $east->external('alpha', 'beta'));

fails_like(q{CREATE SERVER x FOREIGN DATA WRAPPER replica_cnpg OPTIONS (source_server 'east')}, qr/need option "cluster"/, 'a source without a Cluster');
fails_like(q{CREATE SERVER x FOREIGN DATA WRAPPER replica_cnpg OPTIONS (namespace 'Orders')}, qr/"Orders" is no name for a namespace.*HINT/s, 'a namespace with a capital');
fails_like(q{SELECT replica_create('beta', 'west', '{"type": "instance"}')}, qr/an instance needs a Cluster of its own server.*HINT/s, 'an instance of a Cluster elsewhere');
fails_like(q{SELECT replica_create('beta', 'west', '{"storage_size": "1Gi", "distributed": true}')}, qr/option "source_host" is missing/, 'nobody can guess how it is reached from there');
my $create = q{SELECT replica_create('beta', 'west', '{"storage_size": "1Gi", "distributed": true, "source_host": "alpha.example.com"}')};
sql($create);
is(sql(q{SELECT replica_wait('beta', '60s')}), 'succeeded', 'a replica in the west of the Cluster in the east');
my $made = $west->cluster('orders-west', 'beta');
is_deeply($made->{spec}{replica}, { self => 'beta', primary => 'alpha', source => 'alpha' }, 'a distributed one');
is($made->{spec}{externalClusters}[0]{connectionParameters}{host}, 'alpha.example.com', 'that reaches the source over there');
is($made->{spec}{externalClusters}[0]{sslKey}{name}, 'alpha-replication', 'with the certificate of its operator');
is($west->asked(qr/^POST .*secrets/), 0, 'and no password');
is($east->asked(qr/^(POST|PATCH) .*alpha/), 0, 'the source was only looked at') or diag map { "@$_\n" } $east->requests;

# ---- explain ----

my $explain = sql(q{SELECT string_agg(status || ' ' || name || ': ' || coalesce(detail, ''), E'\n' ORDER BY step, name) FROM replica_explain('promote', 'beta')});
like($explain, qr/^ok topology/m, 'both sides are asked by dry runs');
like($explain, qr{clusters/alpha on server "east".*demotionToken.*clusters/beta on server "west", namespace "orders-west"}s, 'explain tells the order and the sides')
  or diag $explain;
is($east->asked(qr/^PATCH .*alpha.*dryRun=All 200/), 1, 'one on the source');
is($west->asked(qr/^PATCH .*beta.*dryRun=All 200/), 1, 'one on the replica');
is(primary_of($east, 'orders-east', 'alpha'), 'none', 'and nothing is changed');

# ---- refused before anything is touched; the message says on which side ----

sub refused
{
	my ($pattern, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	promote('beta');
	fails_like(q{SELECT replica_wait('beta', '60s')}, $pattern, $name);
	is(primary_of($east, 'orders-east', 'alpha') . ' ' . is_primary($east, 'orders-east', 'alpha'), 'none 1', '... the source is as it was');
	return;
}
$east->tokens('east-token-2');
refused(qr/Kubernetes \(server "east", namespace "orders-east"\) does not accept our login/, 'the login in the east');
$east->file('token', "east-token-2\n");
$east->patch_spec('orders-east', 'alpha', externalClusters => $east->external('alpha'));
refused(qr/Cluster "alpha" does not know "beta" by its spec.externalClusters.*server "east"/s, 'the source must know the replica');
$east->patch_spec('orders-east', 'alpha', externalClusters => $east->external('alpha', 'beta'));
$west->faults({ match => '^PATCH .*beta.*dryRun', status => 422, message => 'no such thing here' });
refused(qr/Kubernetes \(server "west", namespace "orders-west"\) refused: promote Cluster "beta" \(dry run\).*no such thing here/s, 'what the west would refuse');
$west->faults;
sql(q{CREATE ROLE mover LOGIN; GRANT USAGE ON FOREIGN SERVER west TO mover; GRANT pg_read_server_files TO mover;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO mover; CREATE USER MAPPING FOR mover SERVER west OPTIONS (token 'west-token-1')});
sql(q{SET ROLE mover; SELECT replica_promote('beta', source_after => 'standby')});
fails_like(q{SELECT replica_wait('beta', '60s')}, qr/permission denied for foreign server east.*HINT:  Run GRANT USAGE ON FOREIGN SERVER east TO mover/s, 'USAGE of both servers is needed');
$west->stop;
refused(qr/could not reach Kubernetes \(server "west"/, 'the replica must be reachable, or the source is not demoted');

# ---- the west again, with what it had ----

$west = FakeKubernetes->new('west2');
$west->tokens('west-token-1');
($west_url, $west_ca) = ($west->url, $west->ca);
sql(qq{ALTER SERVER west OPTIONS (SET api_server '$west_url', SET ca_file '$west_ca')});
sql(q{SELECT replica_detach('beta')}); sql(q{SELECT replica_wait('beta', '30s')});
sql($create);
is(sql(q{SELECT replica_wait('beta', '60s')}), 'succeeded', 'made once more');

# ---- undone in the middle: the source is a primary again ----

sub undone
{
	my ($pattern, $name, $meanwhile) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	promote('beta');
	$meanwhile->() if $meanwhile;
	fails_like(q{SELECT replica_wait('beta', '90s')}, $pattern, $name);
	is(sql(q{SELECT state FROM replica_operations WHERE replica = 'beta' ORDER BY operation DESC LIMIT 1}), 'failed', '... it is undone')
	  or diag sql(q{SELECT message, detail, hint FROM replica_operations WHERE replica = 'beta' ORDER BY operation DESC LIMIT 1});
	is(primary_of($east, 'orders-east', 'alpha'), 'alpha', '... the source is the primary by its spec');
	is(is_primary($east, 'orders-east', 'alpha'), 1, '... and by its status');
	is(primary_of($west, 'orders-west', 'beta'), 'alpha', '... and the replica follows it');
	return;
}
$west->faults({ match => '^PATCH .*beta\?fieldValidation=Strict$', status => 403, times => 9, message => 'not today' });
undone(qr/server "west", namespace "orders-west"\) does not allow: promote Cluster "beta".*not today/s, 'the replica refuses after the demotion');
like(sql(q{SELECT message FROM replica_events WHERE kind = 'demotion_undone'}), qr/"alpha" was demoted, and is the primary again/, 'an event tells');
sql(q{ALTER SYSTEM SET replica_ctl.step_retries = 0}); $primary->reload;
$west->faults({ match => '^PATCH .*beta\?fieldValidation=Strict$', status => 503, times => 999 });
undone(qr/server "west", namespace "orders-west"\) failed: promote Cluster "beta".*status 503/s, 'the replica cannot be asked, all attempts long');
$west->faults;
sql(q{ALTER SYSTEM SET replica_ctl.progress_timeout = '4s'}); $primary->reload;
$east->settings(token => 'empty');
undone(qr/made no progress/, 'no token comes: an empty one is none');
$east->settings(token => 'never');
undone(qr/made no progress/, 'the demotion takes too long', sub {
	wait_for($primary, q{SELECT undoing FROM replica_ctl.operation ORDER BY operation_id DESC LIMIT 1});
	$east->settings(token => 'right');
});
is($east->asked(qr/^PATCH .*alpha.* 422/), 0, '... the undo has waited for its end');
$east->settings(token => 'right');
sql(q{ALTER SYSTEM RESET ALL}); $primary->reload;

# ---- the move, with lost answers, conflicts, and an old token in the status ----

ok($east->cluster('orders-east', 'alpha')->{status}{timelineID} > 1, 'the source has been promoted before');
$east->control('/patch', { kind => 'clusters', name => 'alpha', patch => { status => { demotionToken => 'b2xkIHRva2Vu' } } });
$east->settings(keep_token => JSON::PP::true, pace => 0.5);
$east->faults({ match => '^PATCH .*/alpha\?fieldValidation=Strict$', lost => JSON::PP::true },
	{ match => '^GET .*/alpha$', skip => 6, status => 503 });
$west->faults({ match => '^PATCH .*/beta\?fieldValidation=Strict$', status => 409, reason => 'Conflict', times => 2 },
	{ match => '^PATCH .*/beta\?fieldValidation=Strict$', lost => JSON::PP::true });
promote('beta');
is(sql(q{SELECT replica_wait('beta', '90s')}), 'succeeded', 'a controlled move between two Kubernetes clusters');
$_->faults for $east, $west;
is(primary_of($east, 'orders-east', 'alpha'), 'beta', 'the east follows');
is(is_primary($west, 'orders-west', 'beta'), 1, 'the west is the primary');
my $used = $west->cluster('orders-west', 'beta')->{status}{lastPromotionToken};
isnt($used, 'b2xkIHRva2Vu', 'not by the token of an earlier demotion');
is($used, $east->cluster('orders-east', 'alpha')->{status}{demotionToken}, 'but by that of this one');
my @east = $east->requests;
my @west = $west->requests;
my ($demoted) = map { $_->[3] } grep { "@$_[0, 1, 2]" =~ /^PATCH .*alpha\?fieldValidation=Strict 200/ } reverse @east;
my ($promoted) = map { $_->[3] } grep { "@$_[0, 1]" =~ /^PATCH .*beta\?fieldValidation=Strict$/ } reverse @west;
ok($demoted < $promoted, 'in this order');
is(sql(q{SELECT state FROM replica_status WHERE replica = 'beta'}), 'promoted', 'promoted');

# ---- and back: the other server names the first one ----

sql(q{SELECT replica_detach('beta')}); sql(q{SELECT replica_wait('beta', '30s')});
sql(q{ALTER SERVER east OPTIONS (ADD cluster 'beta', ADD source_server 'west')});
sql(q{SELECT replica_attach('alpha', 'east')});
fails_like(q{SELECT replica_wait('alpha', '30s')}, qr/"alpha" is part of a distributed topology.*HINT:  Set the option distributed to true/s, 'it must be said that it is distributed');
sql(q{SELECT replica_attach('alpha', 'east', '{"distributed": true}')});
is(sql(q{SELECT replica_wait('alpha', '30s')}), 'succeeded', 'the old primary is attached');
$east->settings(keep_token => JSON::PP::false, pace => 0.1);
promote('alpha');
is(sql(q{SELECT replica_wait('alpha', '60s')}), 'succeeded', 'and moved back to');
is(primary_of($west, 'orders-west', 'beta') . is_primary($east, 'orders-east', 'alpha'), 'alpha1', 'with the roles of before');

# ---- past the point of no return: a person is told the commands ----

sql(q{SELECT replica_detach('alpha')}); sql(q{SELECT replica_wait('alpha', '30s')});
sql(q{SELECT replica_attach('beta', 'west', '{"distributed": true}')});
is(sql(q{SELECT replica_wait('beta', '30s')}), 'succeeded', 'attached the other way round');
$east->settings(token => 'wrong');
promote('beta');
fails_like(q{SELECT replica_wait('beta', '60s')}, qr/given up on the promotion of Cluster "beta".*token content is not correct.*nobody takes writes.*HINT:  To go back, run kubectl patch/s,
	'a token that the operator refuses');
is(sql(q{SELECT state FROM replica_operations WHERE replica = 'beta' ORDER BY operation DESC LIMIT 1}), 'needs_attention', 'is for a person');
my $hint = sql(q{SELECT hint FROM replica_operations WHERE replica = 'beta' ORDER BY operation DESC LIMIT 1});
my ($first, $second) = $hint =~ /kubectl (patch .*?'\{.*?\}'), and .* kubectl (patch .*?'\{.*?\}')\./;
$east->settings(token => 'right');
SKIP:
{
	skip 'there is no kubectl', 2 if system('command -v kubectl >/dev/null') != 0;
	my $words = sub { my ($command) = @_; $command =~ s/'//g; return split ' ', $command; };
	like($west->kubectl('west-token-1', '-n', 'orders-west', $words->($first)), qr/beta patched/, 'the first command of the hint');
	like($east->kubectl('east-token-2', '-n', 'orders-east', $words->($second)), qr/alpha patched/, 'and the second');
	wait_until(sub { is_primary($east, 'orders-east', 'alpha') }, 'alpha is the primary again');
}

# ---- forced: the east is gone ----

$west->control('/patch', { kind => 'clusters', name => 'beta', patch => { status => { phase => 'Cluster in healthy state', phaseReason => undef } } });
$east->stop;
sql(q{SELECT replica_promote('beta', mode => 'forced')});
is(sql(q{SELECT replica_wait('beta', '60s')}), 'succeeded', 'a forced promotion does not ask the source');
is($west->cluster('orders-west', 'beta')->{spec}{replica}{promotionToken} // 'none', 'none', 'and has no token');

my $log = slurp_file($primary->logfile);
my $rows = join '', map { sql("SELECT string_agg(t::text, '') FROM $_ t") } qw(replica_operations replica_events replica_ctl.replica replica_ctl.operation);
unlike($log . $rows, qr/east-token|west-token|never-sent/, 'no secret in log and tables');
$primary->stop;
done_testing();
