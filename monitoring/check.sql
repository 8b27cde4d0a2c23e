-- One line "code|text" for Nagios, Icinga and their like: 0 OK, 1 WARNING,
-- 2 CRITICAL.  docs/monitoring.md has the command around it.  Limits in
-- seconds: -v lag_warning=60 -v lag_critical=600 -v disk_warning=86400
-- -v disk_critical=3600 (until a disk is full)
\if :{?lag_warning} \else \set lag_warning 60 \endif
\if :{?lag_critical} \else \set lag_critical 600 \endif
\if :{?disk_warning} \else \set disk_warning 86400 \endif
\if :{?disk_critical} \else \set disk_critical 3600 \endif
SELECT coalesce(max(code), 0) || '|' ||
	CASE coalesce(max(code), 0) WHEN 0 THEN 'OK' WHEN 1 THEN 'WARNING' ELSE 'CRITICAL' END || ' - ' ||
	coalesce(string_agg(translate(text, E'\n', ' '), '; ' ORDER BY code DESC, text), 'all is well')
FROM (
	SELECT CASE WHEN NOT connected OR lag >= make_interval(secs => :lag_critical) THEN 2 ELSE 1 END AS code,
		format('replica %s is %s', replica, CASE WHEN connected THEN lag::interval(0) || ' behind' ELSE state END) AS text
	FROM replica_status
	WHERE state NOT IN ('creating', 'promoted', 'dropping')
		AND (NOT connected OR lag >= make_interval(secs => :lag_warning))
	UNION ALL
	SELECT CASE verdict WHEN 'warning' THEN 1 ELSE 2 END, format('slot %s: %s', slot_name, advice)
	FROM replica_slots WHERE verdict <> 'ok'
	UNION ALL
	SELECT CASE WHEN time_to_full < make_interval(secs => :disk_critical) THEN 2 ELSE 1 END,
		format('%s will be full in %s', path, time_to_full::interval(0))
	FROM replica_disk_usage WHERE time_to_full < make_interval(secs => :disk_warning)
	UNION ALL
	SELECT 2, format('operation %s needs attention: %s', operation, hint)
	FROM replica_operations WHERE state = 'needs_attention'
	UNION ALL
	SELECT 2, 'writes are stopped by a fence' FROM replica_ctl.fence() WHERE phase <> 'down'
	UNION ALL
	SELECT 1, 'the monitor does not sample'
	WHERE NOT EXISTS (SELECT FROM replica_wal_usage)
) found;
