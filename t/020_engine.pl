# The engine, on the mock provider: states and their edges, retries, deadlines,
# cancels, undo, rows that cannot be worked on, ownership, events.

use strict;
use warnings;
use JSON::PP;
use List::Util qw(uniq);
use Time::HiRes qw(sleep time);
use lib 't';
use ReplicaCtl;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_primary(
	'engine',
	conf => join("\n",
		'replica_ctl.max_operations = 16',
		'replica_ctl.step_retries = 2',
		'max_worker_processes = 40'));
mock_server($node);

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Queues a create on the mock server, with options as JSON pairs; returns the operation.
sub create
{
	my ($name, %options) = @_;
	return sql("SELECT replica_create('$name', 'mock', '" . encode_json(\%options) . "')");
}

# Columns of an operation, as psql prints them.
sub operation
{
	my ($operation, $columns) = @_;
	return sql("SELECT $columns FROM replica_operations WHERE operation = $operation");
}

# The files of a replica, by what they are.
sub files
{
	my ($replica_id) = @_;
	return join ' ', map { /^\Q$replica_id\E\.(.*)/ ? $1 : () } split / /, mock_files($node);
}

sub replica_id
{
	my ($operation) = @_;
	return sql("SELECT replica_id FROM replica_ctl.operation WHERE operation_id = $operation");
}

# Waits until the server's log says it so many times.
sub wait_log
{
	my ($text, $times) = @_;
	wait_until(sub { my @found = slurp_file($node->logfile) =~ /\Q$text\E/g; @found >= ($times // 1) }, "\"$text\" in the log");
	return;
}

# --------------------------------------------------------------------------
note 'the edges of the state machine';
# --------------------------------------------------------------------------
{
	my %edges;
	my %known = map { $_ => 1 } qw(queued running succeeded failed cancelled needs_attention);
	my %terminal = map { $_ => 1 } qw(succeeded failed cancelled);

	for my $edge (split /\n/, sql('SELECT from_state, event, to_state FROM replica_ctl.operation_edges()'))
	{
		my ($from, $event, $to) = split /\|/, $edge;
		ok(!exists $edges{$from}{$event}, "one edge for $event from $from");
		$edges{$from}{$event} = $to;
	}
	my %reached = (queued => 1);
	my @look = ('queued');
	while (defined(my $state = shift @look))
	{
		push @look, grep { !$reached{$_}++ } values %{ $edges{$state} // {} };
	}
	is_deeply([ sort keys %reached ], [ sort keys %known ], 'every state can be reached, and no other');
	for my $state (sort keys %known)
	{
		if ($terminal{$state})
		{
			ok(!$edges{$state}, "$state is an end");
			next;
		}
		my %seen = ($state => 1);
		my @from = ($state);
		while (defined(my $s = shift @from))
		{
			push @from, grep { !$seen{$_}++ } values %{ $edges{$s} // {} };
		}
		ok((grep { $terminal{$_} } keys %seen) > 0, "$state leads to an end");
	}
	my @in_table = $node->safe_psql('postgres',
		q{SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'replica_ctl.operation'::regclass
			AND contype = 'c' AND pg_get_constraintdef(oid) LIKE '%queued%'}) =~ /'(\w+)'/g;
	is_deeply([ sort @in_table ], [ sort keys %known ], 'the table allows the same states');
}

# --------------------------------------------------------------------------
note 'a life';
# --------------------------------------------------------------------------
{
	my $op = create('life', bytes => 1000, duration_ms => 200);
	is(sql("SELECT replica_wait('life')"), 'succeeded', 'create');
	is(files(replica_id($op)), 'data process slot', 'its files are there');
	is(operation($op, 'step, step_number, steps, progress, bytes_done, bytes_total, attempts'),
		'start|3|3|1|1000|1000|3', 'its operation says so');
	is(sql("SELECT provider, state, endpoint FROM replica_status WHERE replica = 'life'"),
		'mock|disconnected|mock:1', 'its status');
	sql("SELECT replica_repair('life')");
	is(sql("SELECT replica_wait('life')"), 'succeeded', 'repair');
	sql("SELECT replica_drop('life')");
	is(sql("SELECT replica_wait('life')"), 'succeeded', 'drop');
	is(files(replica_id($op)), '', 'its files are gone');
	is(sql("SELECT count(*) FROM replica_status WHERE replica = 'life'"), '0', 'its row is gone');

	sql("SELECT replica_attach('life', 'mock')");
	is(sql("SELECT replica_wait('life')"), 'succeeded', 'attach');
	sql("SELECT replica_detach('life')");
	is(sql("SELECT replica_wait('life')"), 'succeeded', 'detach');
	is(sql("SELECT count(*) FROM replica_status WHERE replica = 'life'"), '0', 'its row is gone');
	is(sql(q{SELECT string_agg(kind, ' ' ORDER BY event) FROM replica_events WHERE replica = 'life'}),
		join(' ', map { ("${_}_requested", "${_}_succeeded") } qw(create repair drop attach detach)), 'its events');
}

# --------------------------------------------------------------------------
note 'progress';
# --------------------------------------------------------------------------
{
	my $op = create('progress', bytes => 100_000_000, duration_ms => 2500);
	my (@progress, $rate, $eta);
	wait_until(
		sub {
			my ($state, $phase, $progress, $done, $total, $r, $e) = split /\|/, operation($op,
				'state, phase, progress, bytes_done, bytes_total, bytes_per_second, eta', 1), -1;
			push @progress, $progress if ($phase // '') eq 'copying' && $done > 0;
			($rate, $eta) = ($r, $e) if $r;
			return $state eq 'succeeded';
		},
		'the copy');
	cmp_ok(scalar(uniq @progress), '>=', 5, 'progress moves while the copy runs');
	is_deeply(\@progress, [ sort { $a <=> $b } @progress ], 'and never back');
	cmp_ok($progress[-1] - $progress[0], '>', 0.5, 'most of it is the copy');
	ok($progress[-1] < 1, 'and 1 is for the end');
	cmp_ok(abs($rate - 40_000_000), '<', 20_000_000, "the rate is about right ($rate)");
	like($eta, qr/^00:00:0[0-2]/, 'so is the time that it takes');
}

# --------------------------------------------------------------------------
note 'retries';
# --------------------------------------------------------------------------
{
	my $op = create('retry', fault => 'create.copy.before=08006*2');
	wait_for($node, "SELECT state = 'queued' AND sqlstate = '08006' AND message = 'injected fault' FROM replica_operations WHERE operation = $op");
	my ($wait) = sql("SELECT extract(epoch FROM not_before - e.ended_at) FROM replica_ctl.operation o
		JOIN replica_ctl.operation_step e USING (operation_id)
		WHERE operation_id = $op AND e.step = 'copy' AND e.attempt = o.attempt AND e.outcome = 'failed'");
	ok($wait > 0.4 && $wait < 2, "it waits before it tries again ($wait s)");
	is(sql("SELECT replica_wait('retry')"), 'succeeded', 'the third attempt works');
	is(sql("SELECT string_agg(format('%s %s %s', step, attempt, outcome), ', ' ORDER BY started_at)
			FROM replica_ctl.operation_step WHERE operation_id = $op"),
		'reserve 1 done, copy 1 failed, copy 2 failed, copy 3 done, start 1 done', 'the attempts are recorded');
	is(operation($op, 'attempts, sqlstate, message, detail, hint'), '5||||', 'and no error is left of them');
	my @waits = split /\n/, sql("SELECT extract(epoch FROM started_at - lag(ended_at) OVER (ORDER BY attempt))
		FROM replica_ctl.operation_step WHERE operation_id = $op AND step = 'copy' ORDER BY attempt OFFSET 1");
	cmp_ok($waits[1], '>', 1.3 * $waits[0], "it backs off (@waits)");

	$op = create('retry2', fault => 'create.copy.after=08006');
	my $error = psql_error($node, "SELECT replica_wait('retry2')");
	like($error, qr/ERROR:  08006: create of replica "retry2" failed: injected fault/, 'used up retries: the error');
	like($error, qr/DETAIL:  It is 08006\.\nHINT:  Inject none\./, 'with its detail and hint');
	is(operation($op, 'state, attempts, sqlstate, message, detail, hint'),
		'failed|4|08006|injected fault|It is 08006.|Inject none.', 'the operation');
	is(files(replica_id($op)), '', 'what was made is gone');
	is(sql("SELECT state, message FROM replica_status WHERE replica = 'retry2'"), 'failed|injected fault', 'the status');
	create('retry2');
	is(sql("SELECT replica_wait('retry2')"), 'succeeded', 'the name can be used at once');

	$op = create('noretry', fault => 'create.start.after=53100');
	like(psql_error($node, "SELECT replica_wait('noretry')"), qr/ERROR:  53100: .*injected fault/, 'other errors are not retried');
	is(operation($op, 'attempts'), '3', 'not once');
	is(files(replica_id($op)), '', 'what was made is gone');
	is(sql("SELECT count(*) FROM replica_ctl.cleanup"), '0', 'and no record is left');
}

# --------------------------------------------------------------------------
note 'the deadline is for standing still';
# --------------------------------------------------------------------------
{
	sql("ALTER SYSTEM SET replica_ctl.progress_timeout = '700ms'");
	$node->reload;
	wait_for($node, "SELECT current_setting('replica_ctl.progress_timeout') = '700ms'");
	my $still = create('still', fault => 'create.copy.before=stall');
	my $long = create('long', bytes => 1000, duration_ms => 2500);
	my $error = psql_error($node, "SELECT replica_wait('still')");
	like($error, qr/ERROR:  57014: .*step "copy" made no progress for 700 ms/, 'a step that stands still is ended');
	like($error, qr/HINT:  replica_ctl\.progress_timeout sets/, 'with a hint');
	is(operation($long, 'state'), 'running', 'a longer one that moves goes on');
	is(sql("SELECT replica_wait('long')"), 'succeeded', 'to its end');
	is(files(replica_id($still)), '', 'what the first had made is gone');
	sql("ALTER SYSTEM RESET replica_ctl.progress_timeout");
	$node->reload;
}

# --------------------------------------------------------------------------
note 'cancel';
# --------------------------------------------------------------------------
{
	# At each step, before and after its work
	my %op;
	for my $step (qw(reserve copy start))
	{
		$op{"$step.$_"} = create("cancel $step $_", fault => "create.$step.$_=stall") for qw(before after);
	}
	wait_log("injecting fault create.$_=stall") for keys %op;
	my $begin = time;
	is(sql("SELECT bool_and(replica_cancel(operation_id)) FROM replica_ctl.operation WHERE state = 'running'"), 't',
		'cancel is accepted at every step');
	for my $place (sort keys %op)
	{
		is(sql("SELECT replica_operation_wait($op{$place})"), 'cancelled', "cancelled $place");
		is(files(replica_id($op{$place})), '', "nothing is left $place");
	}
	cmp_ok(time - $begin, '<', 3, 'at once');
	is(sql("SELECT count(*) FROM replica_status WHERE replica LIKE 'cancel%'"), '0', 'nor of their rows');
	is(sql("SELECT replica_cancel($op{'copy.before'})"), 'f', 'an ended operation cannot be cancelled');

	# While it backs off
	my $op = create('backing off', fault => 'create.copy.after=08006');
	wait_for($node, "SELECT state = 'queued' AND attempts = 3 FROM replica_operations WHERE operation = $op");
	$begin = time;
	is(sql("SELECT replica_cancel($op)"), 't', 'cancel while it backs off');
	is(sql("SELECT replica_operation_wait($op)"), 'cancelled', 'is obeyed');
	cmp_ok(time - $begin, '<', 0.8, 'at once');
	is(files(replica_id($op)), '', 'nothing is left');

	# Never started
	is($node->safe_psql('postgres', q{
			BEGIN;
			SELECT replica_create('same transaction', 'mock') AS op \gset
			SELECT replica_cancel(:op);
			SELECT replica_operation_wait(:op);
			COMMIT;
			SELECT replica_operation_wait(:op)}),
		"t\ncancelled\ncancelled", 'cancel in the transaction that asked');
	my $launcher = worker_pid($node, 'replica_ctl launcher');
	kill 'STOP', $launcher;
	$op = create('queued');
	is(sql("SELECT replica_cancel($op)"), 't', 'cancel of a queued one');
	is(operation($op, 'state, started_at IS NULL, finished_at IS NOT NULL'), 'cancelled|t|t', 'needs no worker');
	is(sql("SELECT count(*) FROM replica_status WHERE replica = 'queued'"), '0', 'its row is gone');
	is(sql("SELECT kind FROM replica_events WHERE operation = $op ORDER BY event DESC LIMIT 1"), 'create_cancelled', 'the event');
	is(sql("SELECT replica_cancel($op)"), 'f', 'once is enough');
	$op = sql("SELECT replica_drop('long')");
	is(sql("SELECT state FROM replica_status WHERE replica = 'long'"), 'dropping', 'a drop that waits');
	is(sql("SELECT replica_cancel($op)"), 't', 'is cancelled');
	is(sql("SELECT state FROM replica_status WHERE replica = 'long'"), 'disconnected', 'and the replica is what it was');
	kill 'CONT', $launcher;

	# The worker has been asked for already when the cancel commits
	my $session = $node->background_psql('postgres');
	kill 'STOP', $launcher;
	$op = create('overtaken');
	$session->query_safe("BEGIN; SELECT replica_cancel($op)");
	kill 'CONT', $launcher;
	wait_for($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'replica_ctl operation' AND wait_event_type = 'Lock'");
	$session->query_safe('COMMIT');
	$session->quit;
	is(sql("SELECT replica_operation_wait($op)"), 'cancelled', 'the worker that comes too late leaves it alone');
	wait_for($node, "SELECT count(*) = 0 FROM replica_ctl.board()");
	is(operation($op, 'state, steps'), 'cancelled|0', 'really');

	# A cancel is not lost to an error of the step, nor between worker and row
	$op = create('error', fault => 'create.copy.before=block;create.copy.after=08006*1');
	wait_log('injecting fault create.copy.before=block');
	is(sql("SELECT replica_cancel($op)"), 't', 'cancel of a step that fails without looking');
	is(sql("SELECT replica_operation_wait($op)"), 'cancelled', 'is obeyed');
	$op = create('error2', fault => 'create.copy.before=block;create.copy.after=53100');
	wait_log('injecting fault create.copy.before=block', 2);
	is(sql("SELECT replica_cancel($op)"), 't', 'cancel of a step that fails for good');
	is(sql("SELECT replica_operation_wait($op)"), 'cancelled', 'is obeyed');
	$op = create('late', fault => 'create.copy.after=08006*1;create.retry.after=block');
	wait_log('injecting fault create.retry.after=block');
	is(sql("SELECT replica_cancel($op)"), 't', 'cancel of a worker that is about to exit');
	is(sql("SELECT replica_operation_wait($op)"), 'cancelled', 'is obeyed');

	# Like replica_cancel()
	$op = create('by pid', fault => 'create.copy.after=stall');
	wait_for($node, "SELECT state = 'running' AND step = 'copy' FROM replica_operations WHERE operation = $op");
	sql("SELECT pg_cancel_backend(pid) FROM replica_ctl.board() WHERE operation = $op");
	is(sql("SELECT replica_operation_wait($op)"), 'cancelled', 'pg_cancel_backend() of the worker cancels');
	is(files(replica_id($op)), '', 'nothing is left');

	# Past the point of no return, and right before it
	$op = create('no return', fault => 'drop.stop.after=stall*1');
	is(sql("SELECT replica_operation_wait($op)"), 'succeeded', 'a replica to drop');
	my $drop = sql("SELECT replica_drop('no return')");
	wait_log('injecting fault drop.stop.after=stall');
	my ($rc, $out, $err) = $node->psql('postgres', "SELECT replica_cancel($drop)");
	is($out, 'f', 'no cancel past the point of no return');
	like($err, qr/NOTICE:  operation $drop \(drop of replica "no return"\) can no longer be cancelled/, 'and it says why');
	sql("SELECT pg_terminate_backend(pid) FROM replica_ctl.board() WHERE operation = $drop");
	is(sql("SELECT replica_operation_wait($drop)"), 'succeeded', 'it goes on to its end');
	is(files(replica_id($op)), '', 'nothing is left');
	$op = create('last moment', fault => 'drop.look.after=block');
	is(sql("SELECT replica_operation_wait($op)"), 'succeeded', 'a replica to drop');
	$drop = sql("SELECT replica_drop('last moment')");
	wait_log('injecting fault drop.look.after=block');
	is(sql("SELECT replica_cancel($drop)"), 't', 'a cancel in the last moment before it');
	is(sql("SELECT replica_operation_wait($drop)"), 'cancelled', 'is obeyed');
	is(files(replica_id($op)), 'data process slot', 'everything is still there');
	is(sql("SELECT state FROM replica_status WHERE replica = 'last moment'"), 'disconnected', 'and the replica is what it was');

	# An undo is not cancelled, nor renamed
	$op = create('undoing', fault => 'create.start.after=53100;undo.data.before=08006*1');
	wait_for($node, "SELECT undoing AND state = 'queued' FROM replica_ctl.operation WHERE operation_id = $op");
	is(sql("SELECT replica_cancel($op)"), 't', 'a cancel while it undoes');
	like(psql_error($node, "SELECT replica_operation_wait($op)"), qr/ERROR:  53100:/, 'does not hide why it failed');
	is(operation($op, 'state'), 'failed', 'it failed');
}

# --------------------------------------------------------------------------
note 'undo';
# --------------------------------------------------------------------------
{
	my $op = create('undo', fault => 'create.start.after=53100;undo.data.after=08006*2');
	like(psql_error($node, "SELECT replica_wait('undo')"), qr/ERROR:  53100: .*injected fault\n.*DETAIL:  It is 53100\.\n/s,
		'an undo that fails twice is tried again, and the first error stays');
	is(files(replica_id($op)), '', 'nothing is left');
	is(sql("SELECT count(*) FROM replica_ctl.cleanup WHERE operation_id = $op"), '0', 'nor of the records');

	$op = create('stuck', fault => 'create.start.after=53100;undo.data.before=55000');
	my $id = replica_id($op);
	my $error = psql_error($node, "SELECT replica_wait('stuck')");
	like($error, qr/ERROR:  53100: create of replica "stuck" needs attention: injected fault/, 'an undo that cannot be done');
	like($error, qr/DETAIL:  It is 53100\.\n.*Undo failed: injected fault\. It is 55000\.\n.*Not removed: data \{"path": "[^"]*\/$id\.data"\}\./s, 'names what is left');
	like($error, qr/HINT:  When the cause is gone, run SELECT replica_drop\('stuck'\)\./, 'and the next command');
	is(operation($op, 'state, finished_at IS NOT NULL'), 'needs_attention|t', 'needs attention');
	is(sql("SELECT state, message FROM replica_status WHERE replica = 'stuck'"), 'failed|injected fault', 'the status');
	is(files($id), 'data', 'the rest of it was undone');

	# what a drop cannot remove itself either
	my $dir = $node->basedir . '/mock';
	mkdir "$dir/else";
	append_to_file("$dir/else/x", '');
	sql(qq{UPDATE replica_ctl.cleanup SET object = '{"path": "$dir/else/x"}' WHERE operation_id = $op});
	sql("UPDATE replica_ctl.replica SET options = options - 'fault' WHERE name = 'stuck'");
	sql("SELECT replica_drop('stuck')");
	is(sql("SELECT replica_wait('stuck')"), 'succeeded', 'that command works');
	is(operation($op, 'state'), 'failed', 'and settles the first operation');
	ok(!-e "$dir/else/x", 'what the undo could not remove is gone');
	is(files($id), '', 'nothing is left');
	is(sql("SELECT count(*) FROM replica_ctl.cleanup"), '0', 'nor of the records');

	# neither a step nor an undo kills its worker for ever
	$op = create('exits', fault => 'create.copy.after=exit');
	like(psql_error($node, "SELECT replica_wait('exits')"), qr/ERROR:  57000: .*step "copy" was interrupted 3 times\n.*HINT:/s,
		'a step that never ends is undone');
	is(files(replica_id($op)), '', 'nothing is left');
	$op = create('exits2', fault => 'create.start.after=53100;undo.data.before=exit');
	like(psql_error($node, "SELECT replica_wait('exits2')"), qr/ERROR:  53100: .*needs attention.*DETAIL:.*Undo failed: it was interrupted 3 times\./s,
		'an undo that never ends is left to a person');
	sql("UPDATE replica_ctl.replica SET options = options - 'fault' WHERE name = 'exits2'");
	sql("SELECT replica_drop('exits2')");
	is(sql("SELECT replica_wait('exits2')"), 'succeeded', 'who drops it');
	is(files(replica_id($op)), '', 'nothing is left');

	# past the point of no return there is no undo
	$op = create('half dropped', fault => 'drop.remove.before=53100');
	is(sql("SELECT replica_operation_wait($op)"), 'succeeded', 'a replica to drop');
	sql("SELECT replica_drop('half dropped')");
	like(psql_error($node, "SELECT replica_wait('half dropped')"), qr/ERROR:  53100: drop of replica "half dropped" needs attention/,
		'a drop that cannot go on needs attention');
	is(sql("SELECT state FROM replica_status WHERE replica = 'half dropped'"), 'failed', 'the replica is no longer what it was');
	sql("UPDATE replica_ctl.replica SET options = options - 'fault' WHERE name = 'half dropped'");
	sql("SELECT replica_drop('half dropped')");
	is(sql("SELECT replica_wait('half dropped')"), 'succeeded', 'until it is dropped again');
	is(files(replica_id($op)), '', 'nothing is left');
}

# --------------------------------------------------------------------------
note 'rows that cannot be worked on';
# --------------------------------------------------------------------------
{
	my %bad;
	my $dir = $node->basedir . '/mock';
	sql("CREATE SERVER gone FOREIGN DATA WRAPPER replica_mock OPTIONS (directory '$dir')");
	for my $name (qw(kind step server options scratch))
	{
		my $server = $name eq 'server' ? 'gone' : 'mock';
		sql("SELECT replica_create('bad $name', '$server'); SELECT replica_wait('bad $name')") if $name;
	}
	kill 'STOP', my $launcher = worker_pid($node, 'replica_ctl launcher');
	$bad{$_} = sql("SELECT replica_repair('bad $_')") for qw(kind step server options scratch);
	my $good = create('good');
	sql("UPDATE replica_ctl.operation SET kind = 'garbage' WHERE operation_id = $bad{kind};
		UPDATE replica_ctl.operation SET step = 'nowhere' WHERE operation_id = $bad{step};
		UPDATE replica_ctl.replica SET options = '[1]' WHERE name = 'bad options';
		UPDATE replica_ctl.operation SET scratch = '17' WHERE operation_id = $bad{scratch};
		DROP SERVER gone");
	kill 'CONT', $launcher;
	is(sql("SELECT replica_operation_wait($good)"), 'succeeded', 'the good one is worked on');
	wait_for($node, "SELECT count(*) = 1 FROM replica_ctl.standbys() s JOIN replica_ctl.replica USING (replica_id) WHERE name = 'good'");

	my %code = (kind => 'XX001', step => 'XX001', server => '42704', options => '22023', scratch => '22023');
	for my $name (sort keys %bad)
	{
		like(psql_error($node, "SELECT replica_operation_wait($bad{$name})"),
			qr/ERROR:  $code{$name}: \w+ of replica "bad $name" needs attention: /, "bad $name is parked");
		is(sql("SELECT count(*) FROM replica_events WHERE operation = $bad{$name} AND severity = 'error'"), '1', 'with an event');
	}
	like(operation($bad{server}, 'hint'), qr/^Create it again with CREATE SERVER/, 'a hint where there is something to do');
	sql("CREATE SERVER gone FOREIGN DATA WRAPPER replica_mock OPTIONS (directory '$dir')");
	sql("UPDATE replica_ctl.replica SET options = '{}' WHERE name = 'bad options'");
	for my $name (sort keys %bad)
	{
		sql("SELECT replica_drop('bad $name')");
		is(sql("SELECT replica_wait('bad $name')"), 'succeeded', "bad $name can be dropped then");
	}
}

# --------------------------------------------------------------------------
note 'a worker that cannot even start its work is not started in a loop';
# --------------------------------------------------------------------------
{
	sql(q{CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'disk full' USING ERRCODE = '53100'; END $$;
		CREATE TRIGGER disk_full BEFORE UPDATE ON replica_ctl.operation FOR EACH ROW EXECUTE FUNCTION disk_full()});
	my $op = create('loop');
	my $begin = time;
	wait_log("replica_ctl operation $op was interrupted: disk full");
	sleep 1;
	my @times = slurp_file($node->logfile) =~ /replica_ctl operation $op was interrupted/g;
	my $elapsed = time - $begin;
	cmp_ok(scalar @times, '<=', 3 + 4 * $elapsed, sprintf('tried %d times in %.1f s', scalar @times, $elapsed));
	is(operation($op, 'state'), 'queued', 'it waits for better times');
	sql('DROP TRIGGER disk_full ON replica_ctl.operation; DROP FUNCTION disk_full()');
	is(sql("SELECT replica_operation_wait($op)"), 'succeeded', 'which come');
}

# --------------------------------------------------------------------------
note 'notifications';
# --------------------------------------------------------------------------
{
	my $session = $node->background_psql('postgres');
	$session->query_safe('LISTEN replica_ctl');
	my $op = create('notify');
	sql("SELECT replica_wait('notify')");
	create('big notify', fault => 'create.copy.before=53100' . 'x' x 9000);
	$node->psql('postgres', "SELECT replica_wait('big notify')");
	my $out = $session->query('SELECT 1');
	my @sent = map { decode_json($_) } $out =~ /^Asynchronous notification "replica_ctl" with payload "(.*)" received/mg;
	my @events = map { decode_json($_) } split /\n/, sql("SELECT to_jsonb(e) FROM replica_events e WHERE replica = 'notify' ORDER BY event");
	is_deeply([ grep { $_->{replica} eq 'notify' } @sent ], \@events, 'each event is sent as its row in replica_events');
	is(scalar @events, 2, 'there were two');
	my ($big) = grep { $_->{kind} eq 'create_failed' } @sent;
	is($big->{replica}, 'big notify', 'one that is too long is sent');
	ok(!exists $big->{detail}, 'without its detail');
	$session->quit;
}

# --------------------------------------------------------------------------
note 'the launcher is woken by the commit';
# --------------------------------------------------------------------------
{
	my @ms;
	for my $i (1 .. 20)
	{
		my $op = create("wake $i");
		sql("SELECT replica_operation_wait($op)");
		push @ms, sql("SELECT round(extract(epoch FROM started_at - requested_at) * 1000, 1) FROM replica_operations WHERE operation = $op");
	}
	@ms = sort { $a <=> $b } @ms;
	diag("from the call to the first step: median $ms[10] ms, longest $ms[-1] ms");
	cmp_ok($ms[10], '<', 50, 'less than 50 ms from the call to the first step');
}

# --------------------------------------------------------------------------
note 'every step was reached';
# --------------------------------------------------------------------------
is(sql("SELECT kind, step FROM replica_ctl.steps() WHERE provider = 'mock'
		EXCEPT SELECT o.kind, s.step FROM replica_ctl.operation o JOIN replica_ctl.operation_step s USING (operation_id)
			WHERE s.outcome = 'done'"), '', 'every step of every plan was done once at least');
is(sql("SELECT string_agg(DISTINCT state, ' ' ORDER BY state) FROM replica_operations"), 'cancelled failed succeeded',
	'and no operation is left unfinished');

# --------------------------------------------------------------------------
note 'another server with our tables leaves our replicas alone';
# --------------------------------------------------------------------------
{
	my $op = create('ours', fault => 'create.copy.after=stall*1');
	my $undo = create('ours undoing', fault => 'create.start.after=53100;undo.data.before=stall*1');
	my $ours2 = create('ours 2', fault => 'create.copy.after=stall*1');
	my $ours3 = create('ours 3', fault => 'create.copy.after=stall*1');
	wait_for($node, "SELECT count(*) = 3 FROM replica_operations WHERE state = 'running' AND step = 'copy'");
	wait_for($node, "SELECT undoing FROM replica_ctl.operation WHERE operation_id = $undo");

	# old rows, to be removed at the next start
	sql("INSERT INTO replica_ctl.event (at, severity, kind, message, actor)
			SELECT now() - interval '31 days', 'info', 'old', 'old', 'x' FROM generate_series(1, 2500);
		INSERT INTO replica_ctl.event (at, severity, kind, message, actor) VALUES (now() - interval '29 days', 'info', 'old', 'old', 'x');
		UPDATE replica_ctl.operation SET finished_at = now() - interval '31 days' WHERE replica IN ('life', 'long', 'good')");
	my $kept = sql("SELECT string_agg(format('%s %s', replica, kind), ', ' ORDER BY operation) FROM replica_operations WHERE replica IN ('life', 'long', 'good')");
	is($kept, 'life create, life repair, life drop, life attach, life detach, long create, long drop, good create', 'old operations');

	$node->stop('immediate');
	my $clone = PostgreSQL::Test::Cluster->new('engine_clone');
	PostgreSQL::Test::RecursiveCopy::copypath($node->data_dir, $clone->data_dir);
	unlink $clone->data_dir . '/postmaster.pid';
	chmod 0700, $clone->data_dir;
	$clone->append_conf('postgresql.conf', 'port = ' . $clone->port);
	$clone->append_conf('postgresql.conf', "unix_socket_directories = '" . $clone->host . "'");
	$clone->start;
	wait_for($clone, "SELECT count(*) = 4 FROM replica_operations WHERE state = 'needs_attention'");
	is($clone->safe_psql('postgres', "SELECT DISTINCT sqlstate, message FROM replica_operations WHERE state = 'needs_attention' ORDER BY 1"),
		"53100|injected fault\n55000|the operation belongs to another server", 'a copy that is started parks the operations');
	is(files(replica_id_of($clone, $op)), 'data slot', 'and touches nothing');
	like($clone->safe_psql('postgres', "SELECT hint FROM replica_operations WHERE operation = $op"), qr/replica_claim\(\)/, 'the hint');
	for my $call (qw(drop repair detach))
	{
		my $error = psql_error($clone, "SELECT replica_$call('long')");
		like($error, qr/ERROR:  55000: replica "long" belongs to another server\n.*HINT: .*replica_claim\(\)/s, "$call is refused");
	}
	like(psql_error($clone, "SELECT replica_create('long', 'mock')"), qr/ERROR:  42710:/, 'its names are taken');
	like(psql_error($clone, "SELECT replica_operation_wait($op)"), qr/ERROR:  55000: .*needs attention.*HINT:.*replica_claim/s, 'waiting says so');
	$clone->stop;

	# the same rows, but for where they were written
	$node->start;
	is(sql("SELECT replica_operation_wait($op)"), 'succeeded', 'their owner goes on with them');
	like(psql_error($node, "SELECT replica_operation_wait($undo)"), qr/ERROR:  53100:/, 'in both directions');
	is(sql("SELECT replica_operation_wait($ours2), replica_operation_wait($ours3)"), 'succeeded|succeeded', 'all of them');

	wait_for($node, "SELECT count(*) = 0 FROM replica_events WHERE at < now() - interval '30 days'");
	is(sql("SELECT count(*) FROM replica_events WHERE at < now() - interval '28 days'"), '1', 'old events are removed');
	wait_for($node, "SELECT count(*) = 2 FROM replica_operations WHERE replica IN ('life', 'long', 'good')");
	is(sql("SELECT string_agg(format('%s %s', replica, kind), ', ' ORDER BY operation) FROM replica_operations WHERE replica IN ('life', 'long', 'good')"),
		'long drop, good create', 'old operations too, but for the last one of each replica');

	set_fault($node, 'repair.look.before=stall*1');
	my @ops = map { sql("SELECT replica_repair('$_')") } ('ours 2', 'ours 3', 'ours');
	my $reundo = create('reundo', fault => 'create.start.after=53100;undo.data.before=stall*1');
	wait_for($node, "SELECT count(*) = 3 FROM replica_operations WHERE state = 'running' AND step = 'look'");
	wait_for($node, "SELECT undoing FROM replica_ctl.operation WHERE operation_id = $reundo");
	$node->stop('fast');
	$node->start;
	is(sql("SELECT replica_operation_wait($_)"), 'succeeded', 'a restart is no other server') for @ops;
	like(psql_error($node, "SELECT replica_operation_wait($reundo)"), qr/ERROR:  53100:/, 'nor for an undo');
	set_fault($node, '');

	# each of the three things that tell a server
	$node->safe_psql('postgres', "SELECT replica_create('other $_', 'mock'); SELECT replica_wait('other $_')") for 1 .. 3;
	set_fault($node, 'repair.look.before=stall');
	my %other = map { $_ => sql("SELECT replica_repair('other $_')") } 1 .. 3;
	wait_for($node, "SELECT count(*) = 3 FROM replica_operations WHERE state = 'running' AND step = 'look'");
	set_fault($node, '');
	my $i = 0;
	for my $change (q{system_identifier = '1'}, 'timeline_id = 17', q{home = 'elsewhere'})
	{
		$i++;
		# with no attempt left: whoever claims it starts afresh
		sql("UPDATE replica_ctl.operation SET attempt = 9, $change WHERE operation_id = $other{$i}; UPDATE replica_ctl.replica SET $change WHERE name = 'other $i'");
	}
	$node->stop('immediate');
	$node->start;
	wait_for($node, "SELECT count(*) = 3 FROM replica_operations WHERE state = 'needs_attention'");
	like(psql_error($node, "SELECT replica_drop('other $_')"), qr/ERROR:  55000: .*belongs to another server/, "guarded $_") for 1 .. 3;
	is(sql('SELECT replica_claim()'), '6', 'claim takes the rows');
	is(sql("SELECT replica_operation_wait($other{$_})"), 'succeeded', "and goes on with the operation $_") for 1 .. 3;
	is(sql('SELECT replica_claim()'), '0', 'there is nothing more to claim');
	is(sql("SELECT count(*) FROM replica_events WHERE kind IN ('parked', 'claimed')"), '2', 'both are events');
}

sub replica_id_of
{
	my ($server, $operation) = @_;
	return $server->safe_psql('postgres', "SELECT replica_id FROM replica_ctl.operation WHERE operation_id = $operation");
}

# --------------------------------------------------------------------------
note 'and all is tidy';
# --------------------------------------------------------------------------
is(sql("SELECT count(*) FROM replica_ctl.cleanup c JOIN replica_ctl.operation o USING (operation_id)"), '0', 'no cleanup record is left');
my %alive = map { $_ => 1 } split /\n/, sql('SELECT replica_id FROM replica_ctl.replica');
is(join(' ', grep { /^(\d+)\./ && !$alive{$1} } split / /, mock_files($node)), '', 'no file without a replica');
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|was terminated by signal 11|no edge for event/, 'nothing bad in the log');

done_testing();
