-- The whole current schema of replica_ctl, readable from top to bottom:
-- registry, wrappers, functions, views, grants.
--
-- Tables live in schema replica_ctl; what users call lives in the schema that
-- was chosen at CREATE EXTENSION (@extschema@).  Table rows do not travel
-- with pg_dump: a restored dump is another server, and the replicas are not
-- its own.

\echo Use "CREATE EXTENSION replica_ctl" to load this file. \quit

CREATE SCHEMA replica_ctl;
COMMENT ON SCHEMA replica_ctl IS 'registry of replicas, operations and events';
REVOKE ALL ON SCHEMA replica_ctl FROM PUBLIC;

----------------------------------------------------------------------------
-- Registry
----------------------------------------------------------------------------

CREATE TABLE replica_ctl.replica (
	replica_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name name NOT NULL UNIQUE,
	server name NOT NULL,
	state text NOT NULL CHECK (state IN ('creating', 'streaming', 'promoting', 'promoted', 'dropping', 'failed')),
	since timestamptz NOT NULL DEFAULT now(),
	options jsonb NOT NULL,
	facts jsonb NOT NULL DEFAULT '{}',
	message text,
	created_by name NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now(),
	system_identifier text NOT NULL,
	timeline_id integer NOT NULL,
	home text NOT NULL
);
COMMENT ON TABLE replica_ctl.replica IS 'replicas that this server owns';
COMMENT ON COLUMN replica_ctl.replica.state IS 'the last settled state; replica_status shows what is true now';
COMMENT ON COLUMN replica_ctl.replica.facts IS 'what the provider decided and made: directory, port, slot';
COMMENT ON COLUMN replica_ctl.replica.home IS 'fingerprint of the machine and data directory that own the row';

CREATE TABLE replica_ctl.operation (
	operation_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	replica_id bigint NOT NULL,
	replica name NOT NULL,
	kind text NOT NULL,
	state text NOT NULL DEFAULT 'queued'
		CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'needs_attention')),
	arguments jsonb NOT NULL DEFAULT '{}',
	scratch jsonb NOT NULL DEFAULT '{}',
	step text,
	step_number integer NOT NULL DEFAULT 0,
	steps integer NOT NULL DEFAULT 0,
	attempt integer NOT NULL DEFAULT 0,
	attempts integer NOT NULL DEFAULT 0,
	progress real NOT NULL DEFAULT 0,
	bytes_done bigint,
	bytes_total bigint,
	undoing boolean NOT NULL DEFAULT false,
	no_return boolean NOT NULL DEFAULT false,
	cancel_requested boolean NOT NULL DEFAULT false,
	not_before timestamptz NOT NULL DEFAULT '-infinity',
	previous_state text,
	requested_by name NOT NULL,
	requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	started_at timestamptz,
	finished_at timestamptz,
	sqlstate text,
	message text,
	detail text,
	hint text,
	system_identifier text NOT NULL,
	timeline_id integer NOT NULL,
	home text NOT NULL
);
CREATE UNIQUE INDEX operation_one_per_replica ON replica_ctl.operation (replica_id)
	WHERE state IN ('queued', 'running');
CREATE INDEX operation_by_replica ON replica_ctl.operation (replica, operation_id);
COMMENT ON TABLE replica_ctl.operation IS 'one asked-for change each, worked on step by step';
COMMENT ON COLUMN replica_ctl.operation.scratch IS 'what its steps remember; no secrets';
COMMENT ON COLUMN replica_ctl.operation.no_return IS 'a step without a way back has started';
COMMENT ON COLUMN replica_ctl.operation.previous_state IS 'state of the replica before, restored by an undo';

CREATE TABLE replica_ctl.operation_step (
	operation_id bigint NOT NULL REFERENCES replica_ctl.operation ON DELETE CASCADE,
	step text NOT NULL,
	attempt integer NOT NULL,
	started_at timestamptz NOT NULL,
	ended_at timestamptz,
	outcome text CHECK (outcome IN ('done', 'failed')),
	PRIMARY KEY (operation_id, step, attempt)
);
COMMENT ON TABLE replica_ctl.operation_step IS 'attempts at steps; a start without an outcome was interrupted';

CREATE TABLE replica_ctl.cleanup (
	cleanup_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	operation_id bigint NOT NULL REFERENCES replica_ctl.operation ON DELETE CASCADE,
	type text NOT NULL,
	object jsonb NOT NULL,
	always boolean NOT NULL,
	UNIQUE (operation_id, type, object)
);
COMMENT ON TABLE replica_ctl.cleanup IS 'what an operation is about to make outside the database, recorded first';

CREATE TABLE replica_ctl.event (
	event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	at timestamptz NOT NULL DEFAULT clock_timestamp(),
	replica name,
	operation_id bigint,
	severity text NOT NULL CHECK (severity IN ('info', 'warning', 'error')),
	kind text NOT NULL,
	message text NOT NULL,
	detail jsonb NOT NULL DEFAULT '{}',
	actor name NOT NULL
);
CREATE INDEX event_at ON replica_ctl.event (at);
CREATE INDEX event_once ON replica_ctl.event ((detail->>'id')) WHERE detail->>'id' IS NOT NULL;
COMMENT ON TABLE replica_ctl.event IS 'what happened, in order; sent by NOTIFY replica_ctl as well';

CREATE TABLE replica_ctl.webhook_queue (
	event_id bigint PRIMARY KEY REFERENCES replica_ctl.event ON DELETE CASCADE
);
COMMENT ON TABLE replica_ctl.webhook_queue IS 'events that wait to be sent to the webhook';

CREATE TABLE replica_ctl.webhook (
	sent bigint NOT NULL DEFAULT 0,
	dropped bigint NOT NULL DEFAULT 0,
	last_sent_at timestamptz,
	last_failure text,
	last_failure_at timestamptz
);
COMMENT ON TABLE replica_ctl.webhook IS 'one row: what became of the events for the webhook';
INSERT INTO replica_ctl.webhook DEFAULT VALUES;

----------------------------------------------------------------------------
-- Wrappers and servers
----------------------------------------------------------------------------

CREATE FUNCTION replica_ctl.validate_local(text[], oid) RETURNS void
	AS 'MODULE_PATHNAME', 'rctl_validate_local' LANGUAGE C STRICT;
COMMENT ON FUNCTION replica_ctl.validate_local(text[], oid) IS 'checks the options of replica_local servers and user mappings';

CREATE FOREIGN DATA WRAPPER replica_local VALIDATOR replica_ctl.validate_local;
COMMENT ON FOREIGN DATA WRAPPER replica_local IS 'replicas in directories on this host';

CREATE FUNCTION replica_ctl.validate_ssh(text[], oid) RETURNS void
	AS 'MODULE_PATHNAME', 'rctl_validate_ssh' LANGUAGE C STRICT;
COMMENT ON FUNCTION replica_ctl.validate_ssh(text[], oid) IS 'checks the options of replica_ssh servers and user mappings';

CREATE FOREIGN DATA WRAPPER replica_ssh VALIDATOR replica_ctl.validate_ssh;
COMMENT ON FOREIGN DATA WRAPPER replica_ssh IS 'replicas on other hosts, reached by ssh';

CREATE FUNCTION replica_ctl.validate_aws(text[], oid) RETURNS void
	AS 'MODULE_PATHNAME', 'rctl_validate_aws' LANGUAGE C STRICT;
COMMENT ON FUNCTION replica_ctl.validate_aws(text[], oid) IS 'checks the options of replica_aws servers and user mappings';

CREATE FOREIGN DATA WRAPPER replica_aws VALIDATOR replica_ctl.validate_aws;
COMMENT ON FOREIGN DATA WRAPPER replica_aws IS 'read replicas of Amazon RDS and Aurora';

CREATE FUNCTION replica_ctl.validate_cnpg(text[], oid) RETURNS void
	AS 'MODULE_PATHNAME', 'rctl_validate_cnpg' LANGUAGE C STRICT;
COMMENT ON FUNCTION replica_ctl.validate_cnpg(text[], oid) IS 'checks the options of replica_cnpg servers and user mappings';

CREATE FOREIGN DATA WRAPPER replica_cnpg VALIDATOR replica_ctl.validate_cnpg;
COMMENT ON FOREIGN DATA WRAPPER replica_cnpg IS 'replicas that CloudNativePG runs on Kubernetes';

CREATE FUNCTION replica_ctl.validate_aiven(text[], oid) RETURNS void
	AS 'MODULE_PATHNAME', 'rctl_validate_aiven' LANGUAGE C STRICT;
COMMENT ON FUNCTION replica_ctl.validate_aiven(text[], oid) IS 'checks the options of replica_aiven servers and user mappings';

CREATE FOREIGN DATA WRAPPER replica_aiven VALIDATOR replica_ctl.validate_aiven;
COMMENT ON FOREIGN DATA WRAPPER replica_aiven IS 'read replicas of an Aiven for PostgreSQL service';

CREATE FUNCTION replica_ctl.validate_patroni(text[], oid) RETURNS void
	AS 'MODULE_PATHNAME', 'rctl_validate_patroni' LANGUAGE C STRICT;
COMMENT ON FUNCTION replica_ctl.validate_patroni(text[], oid) IS 'checks the options of replica_patroni servers and user mappings';

CREATE FOREIGN DATA WRAPPER replica_patroni VALIDATOR replica_ctl.validate_patroni;
COMMENT ON FOREIGN DATA WRAPPER replica_patroni IS 'replicas in clusters that Patroni runs';

CREATE SERVER local FOREIGN DATA WRAPPER replica_local;
COMMENT ON SERVER local IS 'this host';

----------------------------------------------------------------------------
-- Functions
----------------------------------------------------------------------------

CREATE FUNCTION @extschema@.replica_create(replica name, server name DEFAULT 'local', options jsonb DEFAULT '{}')
	RETURNS bigint AS 'MODULE_PATHNAME', 'rctl_sql_create' LANGUAGE C STRICT VOLATILE;
COMMENT ON FUNCTION @extschema@.replica_create(name, name, jsonb) IS 'makes a replica and brings it to streaming; returns the operation';

CREATE FUNCTION @extschema@.replica_attach(replica name, server name DEFAULT 'local', options jsonb DEFAULT '{}')
	RETURNS bigint AS 'MODULE_PATHNAME', 'rctl_sql_attach' LANGUAGE C STRICT VOLATILE;
COMMENT ON FUNCTION @extschema@.replica_attach(name, name, jsonb) IS 'takes over an existing standby; returns the operation';

CREATE FUNCTION @extschema@.replica_detach(replica name)
	RETURNS bigint AS 'MODULE_PATHNAME', 'rctl_sql_detach' LANGUAGE C STRICT VOLATILE;
COMMENT ON FUNCTION @extschema@.replica_detach(name) IS 'forgets a replica and drops its slot, leaving the standby alone; returns the operation';

CREATE FUNCTION @extschema@.replica_drop(replica name, force boolean DEFAULT false)
	RETURNS bigint AS 'MODULE_PATHNAME', 'rctl_sql_drop' LANGUAGE C STRICT VOLATILE;
COMMENT ON FUNCTION @extschema@.replica_drop(name, boolean) IS 'stops and deletes a replica, its slot and its row; returns the operation';

CREATE FUNCTION @extschema@.replica_repair(replica name)
	RETURNS bigint AS 'MODULE_PATHNAME', 'rctl_sql_repair' LANGUAGE C STRICT VOLATILE;
COMMENT ON FUNCTION @extschema@.replica_repair(name) IS 'brings a lost or broken replica back; returns the operation';

CREATE FUNCTION @extschema@.replica_promote(replica name, mode text DEFAULT 'planned',
	timeout interval DEFAULT '60s', drain interval DEFAULT '1s', source_after text DEFAULT 'read_only')
	RETURNS bigint AS 'MODULE_PATHNAME', 'rctl_sql_promote' LANGUAGE C STRICT VOLATILE;
COMMENT ON FUNCTION @extschema@.replica_promote(name, text, interval, interval, text) IS 'makes a replica a primary of its own, planned (nothing is lost) or forced; returns the operation';

CREATE FUNCTION @extschema@.replica_switchover(replica name, timeout interval DEFAULT '60s', drain interval DEFAULT '1s')
	RETURNS bigint AS 'MODULE_PATHNAME', 'rctl_sql_switchover' LANGUAGE C STRICT VOLATILE;
COMMENT ON FUNCTION @extschema@.replica_switchover(name, interval, interval) IS 'promotes a replica and makes this server and the other replicas its standbys; returns the operation, which goes on there';

CREATE FUNCTION @extschema@.replica_drill(replica name, timeout interval DEFAULT '60s', drain interval DEFAULT '1s')
	RETURNS bigint AS 'MODULE_PATHNAME', 'rctl_sql_drill' LANGUAGE C STRICT VOLATILE;
COMMENT ON FUNCTION @extschema@.replica_drill(name, interval, interval) IS 'rehearses a planned promotion: fences, waits for zero lag, lifts the fence, and records the times as an event; returns the operation';

CREATE FUNCTION @extschema@.replica_explain(action text, replica name, server name DEFAULT NULL, options jsonb DEFAULT '{}')
	RETURNS TABLE (step integer, name text, status text, estimate interval, detail text, hint text)
	AS 'MODULE_PATHNAME', 'rctl_sql_explain' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION @extschema@.replica_explain(text, name, name, jsonb) IS 'what a promote, switchover, create, drop, attach, detach, repair or drill would do: every check and step, how long it takes, what is in the way; changes nothing';

CREATE FUNCTION @extschema@.replica_wait(replica name, timeout interval DEFAULT '1 hour')
	RETURNS text AS 'MODULE_PATHNAME', 'rctl_sql_wait' LANGUAGE C STRICT VOLATILE;
COMMENT ON FUNCTION @extschema@.replica_wait(name, interval) IS 'waits for the latest operation of a replica; returns its final state or raises its error';

CREATE FUNCTION @extschema@.replica_operation_wait(operation bigint, timeout interval DEFAULT '1 hour')
	RETURNS text AS 'MODULE_PATHNAME', 'rctl_sql_operation_wait' LANGUAGE C STRICT VOLATILE;
COMMENT ON FUNCTION @extschema@.replica_operation_wait(bigint, interval) IS 'waits for an operation; returns its final state or raises its error';

CREATE FUNCTION @extschema@.replica_cancel(operation bigint)
	RETURNS boolean AS 'MODULE_PATHNAME', 'rctl_sql_cancel' LANGUAGE C STRICT VOLATILE;
COMMENT ON FUNCTION @extschema@.replica_cancel(bigint) IS 'asks an operation to stop and undo; false if it had ended';

CREATE FUNCTION @extschema@.replica_claim()
	RETURNS bigint AS 'MODULE_PATHNAME', 'rctl_sql_claim' LANGUAGE C STRICT VOLATILE;
COMMENT ON FUNCTION @extschema@.replica_claim() IS 'says that this server owns the registry''s replicas, after its data directory was moved or restored; returns how many rows changed hands';

CREATE FUNCTION @extschema@.replica_fence(reason text DEFAULT NULL, timeout interval DEFAULT '60s',
	drain interval DEFAULT '0s')
	RETURNS pg_lsn AS 'MODULE_PATHNAME', 'rctl_sql_fence' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION @extschema@.replica_fence(text, interval, interval) IS 'stops all writes to this server, until replica_unfence; returns an LSN after which nothing was committed';

CREATE FUNCTION @extschema@.replica_unfence()
	RETURNS void AS 'MODULE_PATHNAME', 'rctl_sql_unfence' LANGUAGE C STRICT VOLATILE;
COMMENT ON FUNCTION @extschema@.replica_unfence() IS 'lets writes to this server go on';

CREATE FUNCTION @extschema@.replica_report(since interval DEFAULT '1 hour')
	RETURNS text AS 'MODULE_PATHNAME', 'rctl_sql_report' LANGUAGE C STRICT VOLATILE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.replica_report(interval) IS 'an HTML page that needs nothing else: topology, charts of lag, WAL and disk, slots, operations, events';

CREATE FUNCTION @extschema@.replica_spec()
	RETURNS jsonb AS 'MODULE_PATHNAME', 'rctl_sql_spec' LANGUAGE C STRICT VOLATILE;
COMMENT ON FUNCTION @extschema@.replica_spec() IS 'the replicas as they are, in the form that replica_plan and replica_apply take';

CREATE FUNCTION @extschema@.replica_plan(spec jsonb, OUT action text, OUT replica name, OUT server name,
	OUT before jsonb, OUT after jsonb, OUT reason text)
	RETURNS SETOF record AS 'MODULE_PATHNAME', 'rctl_sql_plan' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION @extschema@.replica_plan(jsonb) IS 'what it takes until the replicas are as the spec says; changes nothing';

CREATE FUNCTION @extschema@.replica_apply(spec jsonb, allow_promote boolean DEFAULT false, allow_drop boolean DEFAULT false,
	OUT operation bigint, OUT action text, OUT replica name, OUT server name, OUT reason text)
	RETURNS SETOF record AS 'MODULE_PATHNAME', 'rctl_sql_apply' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION @extschema@.replica_apply(jsonb, boolean, boolean) IS 'queues what replica_plan says; promotes and drops only if that is allowed; an operation of null was not queued';

-- For the views, and for whoever wants to know how the engine works.

CREATE FUNCTION replica_ctl.board(OUT operation bigint, OUT pid integer, OUT phase text,
	OUT bytes_done bigint, OUT bytes_total bigint, OUT bytes_per_second double precision,
	OUT progress double precision)
	RETURNS SETOF record AS 'MODULE_PATHNAME', 'rctl_sql_board' LANGUAGE C STRICT VOLATILE;
COMMENT ON FUNCTION replica_ctl.board() IS 'operations that a worker runs now, from shared memory';

CREATE FUNCTION replica_ctl.operation_edges(OUT from_state text, OUT event text, OUT to_state text)
	RETURNS SETOF record AS 'MODULE_PATHNAME', 'rctl_sql_operation_edges' LANGUAGE C STRICT IMMUTABLE;
COMMENT ON FUNCTION replica_ctl.operation_edges() IS 'the state machine of operations, as the engine follows it';

CREATE FUNCTION replica_ctl.steps(OUT provider text, OUT kind text, OUT step_number integer, OUT step text,
	OUT title text, OUT point_of_no_return boolean)
	RETURNS SETOF record AS 'MODULE_PATHNAME', 'rctl_sql_steps' LANGUAGE C STRICT IMMUTABLE;
COMMENT ON FUNCTION replica_ctl.steps() IS 'the steps of every kind of operation, by provider';

CREATE FUNCTION replica_ctl.providers(OUT provider text, OUT wrapper text, OUT can_create boolean, OUT can_attach boolean,
	OUT can_drop boolean, OUT can_repair boolean, OUT can_promote boolean, OUT can_switchover boolean,
	OUT can_drill boolean, OUT can_change boolean, OUT runs_programs boolean, OUT service_promotes boolean)
	RETURNS SETOF record AS 'MODULE_PATHNAME', 'rctl_sql_providers' LANGUAGE C STRICT IMMUTABLE;
COMMENT ON FUNCTION replica_ctl.providers() IS 'what each provider can do, under the view replica_providers';

CREATE FUNCTION replica_ctl.fence(OUT phase text, OUT since timestamptz, OUT reason text, OUT operation bigint,
	OUT pid integer, OUT lsn pg_lsn, OUT held integer, OUT replica text, OUT endpoint text,
	OUT promoted_timeline integer, OUT promoted_lsn pg_lsn)
	RETURNS record AS 'MODULE_PATHNAME', 'rctl_sql_fence_state' LANGUAGE C STRICT VOLATILE;
COMMENT ON FUNCTION replica_ctl.fence() IS 'whether writes to this server are stopped (down, draining, up, promoted), since when, by whom, and how many sessions wait';

CREATE FUNCTION replica_ctl.hold_logins(milliseconds integer)
	RETURNS boolean AS 'MODULE_PATHNAME', 'rctl_sql_hold_logins' LANGUAGE C STRICT VOLATILE;
COMMENT ON FUNCTION replica_ctl.hold_logins(integer) IS 'on a standby that is about to be promoted: sessions that log in wait until it accepts writes, for so long at most';
REVOKE ALL ON FUNCTION replica_ctl.hold_logins(integer) FROM PUBLIC;

-- Under the monitoring views: shared memory only, no network.

CREATE FUNCTION replica_ctl.standbys(OUT replica_id bigint, OUT application_name text, OUT client_addr text,
	OUT state text, OUT sync_state text, OUT connected boolean,
	OUT sent_lsn pg_lsn, OUT write_lsn pg_lsn, OUT flush_lsn pg_lsn, OUT replay_lsn pg_lsn,
	OUT sent_lag_bytes bigint, OUT write_lag_bytes bigint, OUT write_lag interval,
	OUT flush_lag_bytes bigint, OUT flush_lag interval, OUT replay_lag_bytes bigint, OUT replay_lag interval,
	OUT timeline integer, OUT message text)
	RETURNS SETOF record AS 'MODULE_PATHNAME', 'rctl_sql_standbys' LANGUAGE C STRICT VOLATILE ROWS 10;
COMMENT ON FUNCTION replica_ctl.standbys() IS 'standbys that are or were connected to this server, and monitored replicas';

CREATE FUNCTION replica_ctl.slots(OUT slot_name text, OUT slot_type text, OUT active boolean,
	OUT wal_status text, OUT restart_lsn pg_lsn, OUT retained_bytes bigint,
	OUT growth_bytes_per_second double precision, OUT inactive_since timestamptz,
	OUT verdict text, OUT advice text)
	RETURNS SETOF record AS 'MODULE_PATHNAME', 'rctl_sql_slots' LANGUAGE C STRICT VOLATILE ROWS 10;
COMMENT ON FUNCTION replica_ctl.slots() IS 'replication slots of this server, with growth and verdict';

CREATE FUNCTION replica_ctl.wal_usage(OUT wal_bytes bigint, OUT wal_segments bigint,
	OUT wal_bytes_per_second double precision, OUT free_bytes bigint, OUT total_bytes bigint,
	OUT time_to_full interval, OUT held_by text, OUT held_bytes bigint,
	OUT archive_ready bigint, OUT archive_failed bigint)
	RETURNS SETOF record AS 'MODULE_PATHNAME', 'rctl_sql_wal_usage' LANGUAGE C STRICT VOLATILE ROWS 1;
COMMENT ON FUNCTION replica_ctl.wal_usage() IS 'the last sample of this server''s WAL and disk';

CREATE FUNCTION replica_ctl.disks(OUT path text, OUT wal boolean, OUT data boolean, OUT replicas name[],
	OUT free_bytes bigint, OUT total_bytes bigint, OUT growth_bytes_per_second double precision,
	OUT time_to_full interval)
	RETURNS SETOF record AS 'MODULE_PATHNAME', 'rctl_sql_disks' LANGUAGE C STRICT VOLATILE ROWS 3;
COMMENT ON FUNCTION replica_ctl.disks() IS 'the last sample of the file systems of this host that matter';

CREATE FUNCTION replica_ctl.metrics(OUT metric text, OUT replica text, OUT value double precision,
	OUT unit text, OUT sampled_at timestamptz, OUT source text)
	RETURNS SETOF record AS 'MODULE_PATHNAME', 'rctl_sql_metrics' LANGUAGE C STRICT VOLATILE ROWS 10;
COMMENT ON FUNCTION replica_ctl.metrics() IS 'the latest value of each metric';

CREATE FUNCTION replica_ctl.metrics_history(OUT metric text, OUT replica text, OUT value double precision,
	OUT unit text, OUT sampled_at timestamptz)
	RETURNS SETOF record AS 'MODULE_PATHNAME', 'rctl_sql_metrics_history' LANGUAGE C STRICT VOLATILE ROWS 10000;
COMMENT ON FUNCTION replica_ctl.metrics_history() IS 'the samples of each metric, oldest first';

CREATE FUNCTION replica_ctl.services(OUT replica_id bigint, OUT polled_at timestamptz, OUT status text,
	OUT percent integer, OUT streaming boolean, OUT endpoint text, OUT lag interval,
	OUT lag_sampled_at timestamptz, OUT message text)
	RETURNS SETOF record AS 'MODULE_PATHNAME', 'rctl_sql_services' LANGUAGE C STRICT VOLATILE ROWS 10;
COMMENT ON FUNCTION replica_ctl.services() IS 'what services told last about the replicas they run, and why they could not be asked';

CREATE FUNCTION replica_ctl.service_metrics(OUT metric text, OUT replica text, OUT value double precision,
	OUT unit text, OUT sampled_at timestamptz, OUT source text)
	RETURNS SETOF record AS 'MODULE_PATHNAME', 'rctl_sql_service_metrics' LANGUAGE C STRICT VOLATILE ROWS 10;
COMMENT ON FUNCTION replica_ctl.service_metrics() IS 'the latest metrics that services told about the replicas they run';

----------------------------------------------------------------------------
-- Views
--
-- Functions are qualified and operators meet the types that they are made
-- for: a better match in the schema of CREATE EXTENSION must not be taken.
----------------------------------------------------------------------------

-- A replica and its WAL sender belong together by application_name.  A replica
-- that the monitor has not seen yet is disconnected.  What a service tells about
-- a replica counts where nothing better is known.
CREATE VIEW @extschema@.replica_lag AS
	SELECT r.name AS replica, coalesce(s.application_name, r.facts->>'application_name') AS application_name,
		s.client_addr::inet AS client_addr,
		CASE WHEN v.streaming AND s.connected IS NOT TRUE THEN 'streaming' ELSE coalesce(s.state, 'disconnected') END AS state,
		s.sync_state,
		coalesce(s.connected, false) OR coalesce(v.streaming, false) AS connected,
		s.sent_lsn, s.write_lsn, s.flush_lsn, s.replay_lsn,
		s.sent_lag_bytes, s.write_lag_bytes, s.write_lag, s.flush_lag_bytes, s.flush_lag,
		s.replay_lag_bytes, coalesce(s.replay_lag, v.lag) AS replay_lag,
		CASE WHEN s.replay_lag IS NULL THEN v.lag_sampled_at END AS lag_sampled_at
	FROM replica_ctl.standbys() s
		FULL JOIN (SELECT * FROM replica_ctl.replica WHERE state NOT IN ('creating', 'promoted')) r
			ON s.application_name = coalesce(r.facts->>'application_name', r.name)
		LEFT JOIN replica_ctl.services() v ON v.replica_id = r.replica_id
	WHERE r.name IS NOT NULL OR s.replica_id IS NULL;
COMMENT ON VIEW @extschema@.replica_lag IS 'standbys, ours or not, connected or not, and how far behind they are';

CREATE VIEW @extschema@.replica_status AS
	SELECT r.name AS replica, r.server, pg_catalog.regexp_replace(w.fdwname::text, '^replica_', '') AS provider,
		CASE WHEN r.state <> 'streaming' THEN r.state
			WHEN v.streaming AND s.connected IS NOT TRUE THEN 'streaming'
			ELSE coalesce(s.state, 'disconnected') END AS state,
		coalesce((r.facts->>'host') || ':' || (r.facts->>'port'), v.endpoint) AS endpoint,
		coalesce(s.connected, false) OR coalesce(v.streaming, false) AS connected,
		coalesce(s.timeline, r.timeline_id) AS timeline,
		s.replay_lag_bytes AS lag_bytes, coalesce(s.replay_lag, v.lag) AS lag,
		p.slot_name AS slot, p.retained_bytes AS slot_wal_bytes,
		o.operation_id AS operation, o.step, r.since,
		CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'this server is a standby, which knows only the registry: ask its primary'
			ELSE coalesce(o.message, r.message, v.message, s.message) END AS message,
		(r.facts->>'upstream')::name AS upstream,
		v.status AS service_status, v.percent AS service_percent, v.polled_at AS service_polled_at,
		CASE WHEN s.replay_lag IS NULL THEN v.lag_sampled_at END AS lag_sampled_at
	FROM replica_ctl.replica r
		LEFT JOIN replica_ctl.standbys() s
			ON s.application_name = coalesce(r.facts->>'application_name', r.name)
		LEFT JOIN replica_ctl.services() v ON v.replica_id = r.replica_id
		LEFT JOIN replica_ctl.slots() p ON p.slot_name = r.facts->>'slot' AND NOT r.facts ? 'upstream'
		LEFT JOIN pg_catalog.pg_foreign_server f ON f.srvname = r.server
		LEFT JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = f.srvfdw
		LEFT JOIN replica_ctl.operation o ON o.replica_id = r.replica_id AND o.state IN ('queued', 'running');
COMMENT ON VIEW @extschema@.replica_status IS 'one row a replica: what it is and how it is';

CREATE VIEW @extschema@.replica_slots AS
	SELECT s.slot_name, s.slot_type, r.name AS replica, r.name IS NOT NULL AS owned, s.active,
		s.wal_status, s.restart_lsn, s.retained_bytes, s.growth_bytes_per_second, s.inactive_since,
		s.verdict, s.advice
	FROM replica_ctl.slots() s
		LEFT JOIN replica_ctl.replica r ON r.facts->>'slot' = s.slot_name AND NOT r.facts ? 'upstream';
COMMENT ON VIEW @extschema@.replica_slots IS 'replication slots, what they keep, and what is to be done about it';

CREATE VIEW @extschema@.replica_wal_usage AS
	SELECT wal_bytes, wal_segments, wal_bytes_per_second, free_bytes, total_bytes, time_to_full,
		held_by, held_bytes, archive_ready, archive_failed
	FROM replica_ctl.wal_usage();
COMMENT ON VIEW @extschema@.replica_wal_usage IS 'WAL of this server, who keeps it, and when the disk is full';

CREATE VIEW @extschema@.replica_disk_usage AS
	SELECT path, wal, data, replicas, free_bytes, total_bytes, growth_bytes_per_second, time_to_full
	FROM replica_ctl.disks();
COMMENT ON VIEW @extschema@.replica_disk_usage IS 'file systems of this host that this server or its replicas use, and when they are full';

CREATE VIEW @extschema@.replica_metrics AS
	SELECT metric, replica::name AS replica, value, unit, sampled_at, source FROM replica_ctl.metrics() m
	WHERE m.value IS NOT NULL OR m.replica IS NULL
		OR NOT EXISTS (SELECT FROM replica_ctl.service_metrics() v WHERE v.metric = m.metric AND v.replica = m.replica)
	UNION ALL
	SELECT metric, replica::name AS replica, value, unit, sampled_at, source FROM replica_ctl.service_metrics();
COMMENT ON VIEW @extschema@.replica_metrics IS 'the latest value of each metric';

CREATE VIEW @extschema@.replica_metrics_history AS
	SELECT metric, replica::name AS replica, value, unit, sampled_at FROM replica_ctl.metrics_history();
COMMENT ON VIEW @extschema@.replica_metrics_history IS 'samples of each metric, as far back as replica_ctl.history_size reaches';

CREATE VIEW @extschema@.replica_webhook AS
	SELECT q.pending, q.oldest_pending, w.sent, w.dropped, w.last_sent_at, w.last_failure, w.last_failure_at
	FROM replica_ctl.webhook w,
		(SELECT pg_catalog.count(*) AS pending, pg_catalog.min(e.at) AS oldest_pending
			FROM replica_ctl.webhook_queue JOIN replica_ctl.event e USING (event_id)) q;
COMMENT ON VIEW @extschema@.replica_webhook IS 'events sent to the webhook, waiting for it, and dropped because it was away for too long';

CREATE VIEW @extschema@.replica_operations AS
	SELECT o.operation_id AS operation, o.replica, o.kind, o.state, o.step, o.step_number, o.steps,
		b.phase,
		CASE o.state WHEN 'succeeded' THEN 1 ELSE coalesce(b.progress, o.progress) END::double precision AS progress,
		coalesce(b.bytes_done, o.bytes_done) AS bytes_done,
		coalesce(b.bytes_total, o.bytes_total) AS bytes_total,
		b.bytes_per_second,
		CASE WHEN b.bytes_per_second > 0.0::double precision AND b.bytes_total >= b.bytes_done
			THEN pg_catalog.make_interval(secs => (b.bytes_total - b.bytes_done)::double precision / b.bytes_per_second) END AS eta,
		o.attempts, o.requested_by, o.requested_at, o.started_at, o.finished_at,
		o.sqlstate, o.message, o.detail, o.hint
	FROM replica_ctl.operation o LEFT JOIN replica_ctl.board() b ON b.operation = o.operation_id;
COMMENT ON VIEW @extschema@.replica_operations IS 'operations, with live progress of those that run';

CREATE VIEW @extschema@.replica_events AS
	SELECT event_id AS event, at, replica, operation_id AS operation, severity, kind, message, detail, actor
	FROM replica_ctl.event;
COMMENT ON VIEW @extschema@.replica_events IS 'what happened, in order';

CREATE VIEW @extschema@.replica_providers AS
	SELECT provider, wrapper, can_create, can_attach, can_drop, can_repair, can_promote, can_switchover,
		can_drill, can_change, runs_programs, service_promotes
	FROM replica_ctl.providers();
COMMENT ON VIEW @extschema@.replica_providers IS 'what each provider can do';

----------------------------------------------------------------------------
-- Grants: nothing to PUBLIC, the views to pg_monitor
----------------------------------------------------------------------------

REVOKE ALL ON ALL TABLES IN SCHEMA replica_ctl FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA replica_ctl FROM PUBLIC;
REVOKE ALL ON FUNCTION
	@extschema@.replica_create(name, name, jsonb),
	@extschema@.replica_attach(name, name, jsonb),
	@extschema@.replica_detach(name),
	@extschema@.replica_drop(name, boolean),
	@extschema@.replica_repair(name),
	@extschema@.replica_promote(name, text, interval, interval, text),
	@extschema@.replica_switchover(name, interval, interval),
	@extschema@.replica_drill(name, interval, interval),
	@extschema@.replica_explain(text, name, name, jsonb),
	@extschema@.replica_wait(name, interval),
	@extschema@.replica_operation_wait(bigint, interval),
	@extschema@.replica_cancel(bigint),
	@extschema@.replica_claim(),
	@extschema@.replica_fence(text, interval, interval),
	@extschema@.replica_unfence(),
	@extschema@.replica_report(interval),
	@extschema@.replica_spec(),
	@extschema@.replica_plan(jsonb),
	@extschema@.replica_apply(jsonb, boolean, boolean)
	FROM PUBLIC;

GRANT USAGE ON SCHEMA replica_ctl TO pg_monitor;
GRANT EXECUTE ON FUNCTION replica_ctl.board(), replica_ctl.fence(), replica_ctl.operation_edges(), replica_ctl.steps(),
	replica_ctl.providers(),
	replica_ctl.standbys(), replica_ctl.slots(), replica_ctl.wal_usage(), replica_ctl.disks(),
	replica_ctl.metrics(), replica_ctl.metrics_history(), replica_ctl.services(), replica_ctl.service_metrics(),
	@extschema@.replica_report(interval) TO pg_monitor;
GRANT SELECT ON @extschema@.replica_lag, @extschema@.replica_status, @extschema@.replica_slots,
	@extschema@.replica_wal_usage, @extschema@.replica_disk_usage, @extschema@.replica_metrics, @extschema@.replica_metrics_history,
	@extschema@.replica_operations, @extschema@.replica_events, @extschema@.replica_providers,
	@extschema@.replica_webhook TO pg_monitor;
