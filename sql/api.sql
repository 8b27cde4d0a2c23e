-- The SQL surface: functions and views as designed, and what they say to bad
-- arguments.

-- Runs a statement that must fail, and says how it did.  Numbers of operations
-- and lists of options are left out: they are not what is tested here.
CREATE FUNCTION try(statement text, OUT code text, OUT error text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	error := 'no error';
EXCEPTION WHEN OTHERS OR query_canceled THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, error = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
	error := regexp_replace(error, 'operation \d{1,6} ', 'operation N ');
	hint := regexp_replace(regexp_replace(hint, '(?<=Valid options are: ).*', '...'), '(?<=replica_cancel\()\d+', 'N');
END $$;

-- Functions
SELECT p.oid::regprocedure AS function, pg_get_function_result(p.oid) AS returns,
	(SELECT string_agg(format('%s = %s', p.proargnames[i], pg_get_function_arg_default(p.oid, i)), ', ' ORDER BY i)
		FROM generate_series(1, p.pronargs) i WHERE pg_get_function_arg_default(p.oid, i) IS NOT NULL) AS defaults
FROM pg_proc p
WHERE p.proname IN ('replica_create', 'replica_promote', 'replica_switchover', 'replica_drop', 'replica_attach',
	'replica_detach', 'replica_repair', 'replica_wait', 'replica_operation_wait', 'replica_cancel', 'replica_claim',
	'replica_unfence')
ORDER BY p.proname;

-- Views: columns that are missing
SELECT v.name AS view, c AS column
FROM (VALUES
	('replica_status', 'replica, server, provider, state, endpoint, connected, timeline, lag_bytes, lag, slot, slot_wal_bytes, operation, step, since, message'),
	('replica_lag', 'replica, application_name, client_addr, state, sync_state, connected, sent_lsn, write_lsn, flush_lsn, replay_lsn, sent_lag_bytes, write_lag_bytes, flush_lag_bytes, replay_lag_bytes, write_lag, flush_lag, replay_lag'),
	('replica_slots', 'slot_name, slot_type, replica, owned, active, wal_status, restart_lsn, retained_bytes, growth_bytes_per_second, inactive_since, verdict, advice'),
	('replica_wal_usage', 'wal_bytes, wal_segments, wal_bytes_per_second, free_bytes, total_bytes, time_to_full, held_by, held_bytes, archive_ready, archive_failed'),
	('replica_operations', 'operation, replica, kind, state, step, step_number, steps, progress, bytes_done, bytes_total, bytes_per_second, eta, attempts, requested_by, requested_at, started_at, finished_at, sqlstate, message, detail, hint'),
	('replica_events', 'event, at, replica, operation, severity, kind, message, detail, actor'),
	('replica_metrics', 'metric, replica, value, unit, sampled_at, source'),
	('replica_metrics_history', 'metric, replica, value, unit, sampled_at')) v (name, columns),
	string_to_table(v.columns, ', ') c
WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = v.name::regclass AND a.attname = c);
SELECT attname, atttypid::regtype FROM pg_attribute
WHERE attrelid = 'replica_operations'::regclass AND attname IN ('progress', 'eta', 'operation') ORDER BY 1;

-- Every table and function is described.
SELECT relname FROM pg_class WHERE relnamespace = 'replica_ctl'::regnamespace AND relkind = 'r' AND obj_description(oid, 'pg_class') IS NULL;
SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'replica_ctl'::regnamespace AND obj_description(oid, 'pg_proc') IS NULL;

\pset format unaligned
\pset tuples_only

-- Names and servers
SELECT * FROM try($$SELECT replica_create('')$$);
SELECT * FROM try($$SELECT replica_create(E'a\tb')$$);
SELECT * FROM try($$SELECT replica_create('r', '')$$);
SELECT * FROM try($$SELECT replica_create('r', 'nowhere')$$);
SELECT * FROM try($$SELECT replica_attach('r', 'nowhere')$$);
CREATE FOREIGN DATA WRAPPER foreign_wrapper;
CREATE SERVER foreign_server FOREIGN DATA WRAPPER foreign_wrapper;
SELECT * FROM try($$SELECT replica_create('r', 'foreign_server')$$);

-- Options of calls
CREATE FUNCTION validate_mock(text[], oid) RETURNS void AS 'replica_ctl', 'rctl_validate_mock' LANGUAGE C STRICT;
CREATE FOREIGN DATA WRAPPER replica_mock VALIDATOR validate_mock;
CREATE SERVER mock FOREIGN DATA WRAPPER replica_mock OPTIONS (directory '/nonexistent');
SELECT * FROM try($$SELECT replica_create('r', options => '{"colour": "blue"}')$$);
SELECT * FROM try($$SELECT replica_create('r', 'mock', '{"colour": "blue"}')$$);
SELECT * FROM try($$SELECT replica_attach('r', 'mock', '{"colour": "blue"}')$$);
SELECT * FROM try($$SELECT replica_create('r', 'mock', '{"bytes": "many"}')$$);
SELECT * FROM try($$SELECT replica_create('r', 'mock', '{"bytes": -1}')$$);
SELECT * FROM try($$SELECT replica_create('r', 'mock', '{"bytes": 1e30}')$$);
SELECT * FROM try($$SELECT replica_create('r', 'mock', '{"bytes": [1]}')$$);
SELECT * FROM try($$SELECT replica_create('r', 'mock', '[]')$$);
SELECT * FROM try($$SELECT replica_create('r', 'mock', '7')$$);
SELECT * FROM try($$SELECT replica_create('r', 'mock', 'null')$$);
SELECT * FROM try($$SELECT replica_create('r', 'mock', 'not json')$$);

-- Options of servers, user mappings and wrappers
SELECT * FROM try($$CREATE SERVER s FOREIGN DATA WRAPPER replica_local OPTIONS (colour 'blue')$$);
SELECT * FROM try($$CREATE SERVER s FOREIGN DATA WRAPPER replica_mock OPTIONS (directory 'relative')$$);
SELECT * FROM try($$ALTER SERVER mock OPTIONS (ADD password 'secret')$$);
SELECT * FROM try($$CREATE USER MAPPING FOR CURRENT_USER SERVER mock OPTIONS (directory '/x')$$);
SELECT * FROM try($$ALTER FOREIGN DATA WRAPPER replica_mock OPTIONS (ADD x 'y')$$);
SELECT * FROM try($$CREATE FOREIGN TABLE t (i int) SERVER mock OPTIONS (x 'y')$$);
CREATE USER MAPPING FOR CURRENT_USER SERVER mock OPTIONS (password 'secret');
DROP USER MAPPING FOR CURRENT_USER SERVER mock;

-- Replicas and operations that do not exist
SELECT * FROM try($$SELECT replica_drop('nobody')$$);
SELECT * FROM try($$SELECT replica_detach('nobody')$$);
SELECT * FROM try($$SELECT replica_repair('nobody')$$);
SELECT * FROM try($$SELECT replica_promote('nobody')$$);
SELECT * FROM try($$SELECT replica_promote('nobody', 'forced')$$);
SELECT * FROM try($$SELECT replica_wait('nobody')$$);
SELECT * FROM try($$SELECT replica_operation_wait(0)$$);
SELECT * FROM try($$SELECT replica_operation_wait(-1)$$);
SELECT * FROM try($$SELECT replica_operation_wait(9223372036854775807)$$);
SELECT * FROM try($$SELECT replica_cancel(9223372036854775807)$$);

-- Words and times
SELECT * FROM try($$SELECT replica_promote('nobody', 'slowly')$$);
SELECT * FROM try($$SELECT replica_promote('nobody', source_after => 'gone')$$);
SELECT * FROM try($$SELECT replica_promote('nobody', timeout => '-1 s')$$);
SELECT * FROM try($$SELECT replica_promote('nobody', drain => '1 month')$$);
SELECT * FROM try($$SELECT replica_wait('nobody', '-1 s')$$);
SELECT * FROM try($$SELECT replica_wait('nobody', '25 days')$$);
SELECT * FROM try($$SELECT replica_operation_wait(1, '1 year')$$);

-- Null is no argument
SELECT replica_create(NULL), replica_drop(NULL), replica_wait(NULL), replica_operation_wait(NULL), replica_cancel(NULL);

-- What a provider cannot do.  Here nothing can be made: there is no directory.
SELECT replica_create('r', 'mock') AS operation \gset
SELECT * FROM try($$SELECT replica_wait('r')$$);
SELECT * FROM try(format('SELECT replica_operation_wait(%s)', :operation));
SELECT state, sqlstate, hint FROM replica_operations WHERE operation = :operation;
SELECT replica, server, provider, state, connected FROM replica_status;
SELECT * FROM try($$SELECT replica_promote('r', 'forced')$$);
SELECT * FROM try($$SELECT replica_promote('r')$$);
SELECT replica_cancel(:operation);
SELECT replica_attach('r', 'mock') AS operation \gset
SELECT replica_wait('r');
SELECT * FROM try($$SELECT replica_attach('r', 'mock')$$);
SELECT * FROM try($$SELECT replica_create('r', 'mock')$$);
SELECT replica_wait('r', '0');
SELECT replica_detach('r') AS operation \gset
SELECT replica_wait('r');
SELECT severity, kind, message ~ '^operation \d+ \(detach of replica "r"\) succeeded$' AS message, actor = session_user AS actor
FROM replica_events WHERE operation = :operation ORDER BY event DESC LIMIT 1;
SELECT count(*) FROM replica_status;

-- An operation that does not end by itself
SELECT replica_create('s', 'mock', '{"fault": "create.reserve.before=stall"}') AS operation \gset
SELECT * FROM try($$SELECT replica_wait('s', '0')$$);
SELECT * FROM try($$SELECT replica_wait('s', '10 ms')$$);
SELECT * FROM try($$SELECT replica_drop('s')$$);
SELECT * FROM try($$SELECT replica_create('s', 'mock')$$);
SELECT replica_cancel(:operation);
SELECT replica_wait('s');
SELECT replica_cancel(:operation);
SELECT count(*) FROM replica_status;

\pset format aligned
\pset tuples_only

-- What the engine says about itself
SELECT * FROM replica_ctl.operation_edges();
SELECT * FROM replica_ctl.steps() WHERE provider = 'mock' ORDER BY kind, step_number;
-- the last worker may be about to end
DO $$
BEGIN
	FOR i IN 1 .. 100 LOOP
		EXIT WHEN NOT EXISTS (SELECT FROM replica_ctl.board());
		PERFORM pg_sleep(0.1);
	END LOOP;
END
$$;
SELECT count(*) FROM replica_ctl.board();

DROP SERVER mock;
DROP SERVER foreign_server;
DROP FOREIGN DATA WRAPPER replica_mock;
DROP FOREIGN DATA WRAPPER foreign_wrapper;
DROP FUNCTION validate_mock(text[], oid);
DROP FUNCTION try(text);
