# Networks.pm
#	  Runs the test again in a network of its own, in which its user may make
#	  others:
#
#	  use Networks;
#	  plan skip_all => '...' unless $Networks::here;
#
# It must come before any module that changes where output goes.
package Networks;

use strict;
use warnings;

our $here = $ENV{RCTL_TEST_NETWORK};

my @unshare = ('unshare', '--user', '--net', '--map-current-user', '--keep-caps');

unless ($here)
{
	my $try = 'ip link set lo up && ip link add a0 type veth peer name b0 && tc qdisc add dev a0 root tbf rate 20mbit burst 64kb latency 300ms';

	$ENV{PATH} .= ':/usr/sbin:/sbin';
	if (system(join(' ', @unshare, 'sh', '-c', "'$try'", '>/dev/null', '2>&1')) == 0)
	{
		$ENV{RCTL_TEST_NETWORK} = 1;
		exec @unshare, $^X, (map { "-I$_" } grep { !ref } @INC), $0, @ARGV or die "unshare: $!\n";
	}
}
system('ip', 'link', 'set', 'lo', 'up') if $here;

1;
