-- What is going on in the whole installation, in numbers alone: no id, no name of a tenant's, no text ever leaves this way.

-- Approvals and executions are each tenant's own; these two see no more of them than when, and in which state, and
-- full_approval_queues() (77_liveness.sql) how many of a tenant's approvals wait.
CREATE POLICY gauges ON approval FOR SELECT TO {prefix}_owner USING (true);
CREATE POLICY gauges ON execution FOR SELECT TO {prefix}_owner USING (true);
CREATE POLICY gauges ON liveness_look FOR SELECT TO {prefix}_owner USING (true);    -- when it last looked
CREATE POLICY gauges ON mission_repair FOR SELECT TO {prefix}_owner USING (true);   -- what the worker found, and nobody has put right
-- How drills ended is anybody's to see (78_release.sql).

-- One row per number: its name, what it is of (from a fixed set; empty when there is but one), and how much. Ages are seconds.
-- However long the history: what is open is found by the indexes of what is open, and of what is over only the newest run of each
-- drill is read. Open missions and due work are read one by one, so that this costs what there is to do; tenants, too.
CREATE FUNCTION gauges() RETURNS TABLE (name text, label text, value float8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH clock AS (SELECT statement_timestamp() AS at),
  open AS MATERIALIZED (
    SELECT m.tenant, m.id, m.state, m.updated_at FROM public.mission m
    WHERE m.state = ANY (ARRAY['accepted', 'dispatched', 'running', 'in_review', 'awaiting_approval', 'executing'])),
  -- Those of the drills are no operator's: nobody but the drill can decide them, and how drills end has numbers of its own.
  pending AS MATERIALIZED (
    SELECT a.tenant, a.mission, a.subject, a.created_at, a.expires_at FROM public.approval a
    WHERE a.state = 'pending' AND a.tenant IS DISTINCT FROM (SELECT t.id FROM public.tenant t WHERE t.drills)),
  unsettled AS MATERIALIZED (
    SELECT e.state, e.started_at FROM public.execution e WHERE e.state IN ('executing', 'unknown')),
  drills AS MATERIALIZED (SELECT d.drill, d.state, d.finished_at FROM newest_drills() d)
  SELECT 'open_missions', o.state, count(*)::float8 FROM open o GROUP BY 2
  UNION ALL
  SELECT 'open_mission_oldest_seconds', o.state, extract(epoch FROM clock.at - min(o.updated_at))::float8 FROM open o, clock GROUP BY 2, clock.at
  UNION ALL
  SELECT 'invariant_violations', 'liveness', count(*)::float8 FROM public.mission_repair r WHERE r.over_at IS NULL
  UNION ALL
  -- What nobody looked at is not found either: a tenant that was never looked at counts from its beginning.
  SELECT 'liveness_look_oldest_seconds', '', COALESCE(extract(epoch FROM max(clock.at - COALESCE(l.looked_at, t.created_at))), 0)::float8
  FROM clock, public.tenant t LEFT JOIN public.liveness_look l ON l.tenant = t.id WHERE t.suspended_at IS NULL
  UNION ALL
  SELECT 'approvals_pending', p.subject, count(*)::float8 FROM pending p GROUP BY 2
  UNION ALL
  SELECT 'approval_oldest_seconds', '', COALESCE(extract(epoch FROM max(clock.at - p.created_at)), 0)::float8 FROM pending p, clock
  UNION ALL
  SELECT 'approvals_expiring', '', count(*)::float8 FROM pending p, clock WHERE p.expires_at < clock.at + interval '1 hour'
  UNION ALL
  SELECT 'writebacks_unsettled', u.state, count(*)::float8 FROM unsettled u GROUP BY 2
  UNION ALL
  SELECT 'writeback_unknown_oldest_seconds', '', COALESCE(extract(epoch FROM max(clock.at - u.started_at)), 0)::float8
  FROM unsettled u, clock WHERE u.state = 'unknown'
  UNION ALL
  -- A row that is leased falls due when its lease ends, so what is late here nobody has in hand.
  SELECT 'work_waiting', w.kind, count(*)::float8 FROM public.work w GROUP BY 2
  UNION ALL
  SELECT 'work_late_seconds', w.kind, GREATEST(extract(epoch FROM clock.at - min(w.next_at)), 0)::float8 FROM public.work w, clock GROUP BY 2, clock.at
  UNION ALL
  -- Facts that are committed and that no reader sees yet, because some older transaction is still open.
  SELECT 'ledger_lag_seconds', '', COALESCE(extract(epoch FROM max(clock.at - l.at)), 0)::float8 FROM clock, public.ledger l
  WHERE l.xid >= pg_snapshot_xmin(pg_current_snapshot())
  UNION ALL
  SELECT 'drill_passed', d.drill, (d.state = 'passed')::int::float8 FROM drills d
  UNION ALL
  SELECT 'drill_age_seconds', d.drill, extract(epoch FROM clock.at - d.finished_at)::float8 FROM drills d, clock
$$;
REVOKE ALL ON FUNCTION gauges() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION gauges() TO {prefix}_worker;
