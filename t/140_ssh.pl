# 140_ssh.pl
#	  Replicas on another host, reached by a real sshd: made, used, dropped, and
#	  nothing left of them on either side.

use strict;
use warnings;
use lib 't';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ReplicaCtl;
use SshHosts;

plan skip_all => ssh_missing() if ssh_missing();

my $primary = ssh_primary('main');
my $host = ssh_host($primary, 'h1');

sub sql { return $primary->safe_psql('postgres', $_[0]); }

$host->server;
sql('CREATE TABLE t AS SELECT generate_series(1, 1000) AS i');
sql(q{SELECT replica_create('r1', 'h1')});
is(sql(q{SELECT replica_wait('r1', '60s')}), 'succeeded', 'a replica on another host');
done_testing();
