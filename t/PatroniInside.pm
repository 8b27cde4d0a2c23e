# PatroniInside.pm
#	  What the tests share in which replica_ctl runs in the members of a
#	  Patroni cluster: registered in Patroni's leader, which may change.
package PatroniInside;

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);
use parent -norequire, 'Patroni';
use Patroni;

sub new
{
	my ($class, $count, %options) = @_;
	my $parameters = 'shared_preload_libraries: replica_ctl, replica_ctl.database: postgres, max_worker_processes: 20,'
	  . ' replica_ctl.sample_interval: 1s';
	my $self = Patroni->new($count, %options, parameters => $parameters);

	return bless $self, $class;
}

# Starts it and makes server "patroni", for all members.
sub start
{
	my ($self) = @_;
	my $me = getpwuid($<);

	$self->Patroni::start;
	$self->lead("CREATE EXTENSION replica_ctl; CREATE ROLE $me SUPERUSER LOGIN; CREATE TABLE acked (client int, seq bigint);
		CREATE SERVER patroni FOREIGN DATA WRAPPER replica_patroni OPTIONS (urls '@{[ $self->urls ]}', poll_interval '5');
		CREATE USER MAPPING FOR PUBLIC SERVER patroni OPTIONS (\"user\" 'rest', password 'open-sesame', db_user 'postgres', db_password 'super-pass')");
	return;
}

sub ports { my ($self) = @_; return [ map { $self->{nodes}{$_}{port} } sort keys %{ $self->{nodes} } ] }

# On whichever member leads.
sub lead
{
	my ($self, $sql) = @_;
	return $self->sql($self->leader, $sql);
}

# How an operation ends, on whichever member leads then.
sub outcome
{
	my ($self, $operation, $timeout) = @_;
	my $end = time + ($timeout // 120);

	while (time < $end)
	{
		my $text = $self->lead("SELECT concat_ws('|', state, step, message, detail, hint) FROM replica_operations"
			  . " WHERE operation = $operation AND NOT pg_is_in_recovery()");
		return $text if $text =~ /^(succeeded|failed|cancelled|needs_attention)/;
		sleep 0.2;
	}
	return 'no end: ' . $self->lead("SELECT replica_operations FROM replica_operations WHERE operation = $operation");
}

# Until SQL on a member answers "t".
sub wait_sql
{
	my ($self, $member, $sql, $timeout) = @_;
	my $end = time + ($timeout // 60);

	while (time < $end)
	{
		return 1 if $self->sql($member, $sql) eq 't';
		sleep 0.1;
	}
	return 0;
}

# A fault in the steps of operations on one member; '' for none.
sub fault
{
	my ($self, $member, $fault) = @_;

	$self->sql($member, "ALTER SYSTEM SET replica_ctl.test_fault = '$fault'");
	$self->sql($member, 'SELECT pg_reload_conf()');
	$self->wait_sql($member, "SELECT current_setting('replica_ctl.test_fault') = '$fault'", 10);
	return;
}

sub fenced
{
	my ($self, $member) = @_;
	return $self->sql($member, 'SELECT phase FROM replica_ctl.fence()');
}

# Names of the replicas in the registry of the leader.
sub registry
{
	my ($self) = @_;
	return $self->lead(q{SELECT string_agg(name || ' ' || state, ', ' ORDER BY name) FROM replica_ctl.replica});
}

1;
