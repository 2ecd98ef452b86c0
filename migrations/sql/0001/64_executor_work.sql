-- The executor's work rows follow from approvals and executions, so that a lost one can be put back by looking.

CREATE INDEX approval_to_execute ON approval (tenant, expires_at) WHERE state = 'approved' AND writeback IS NOT NULL;

-- Adds the missing `execute` rows: of approved writebacks that nobody claimed, and of executions that are not settled.
-- Takes no input but how much to do at most, and answers how many it put back. Tenant by tenant, because the
-- owner of the tables writes for the one that it has entered only.
CREATE FUNCTION restore_executor_work(p_limit int) RETURNS int LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE t uuid; found int; total int := 0; entered text := current_setting('app.tenant', true);
BEGIN
  FOR t IN SELECT x.id FROM public.tenant x WHERE x.suspended_at IS NULL LOOP
    PERFORM set_config('app.tenant', t::text, true);
    INSERT INTO public.work (tenant, kind, subject, queue, next_at)
      SELECT t, 'execute', lost.writeback, 'executor', lost.due FROM (
        SELECT a.writeback, a.not_before AS due FROM public.approval a
          JOIN public.mission m ON m.tenant = a.tenant AND m.id = a.mission
            AND m.state NOT IN ('completed', 'cancelled', 'failed', 'denied')
          WHERE a.tenant = t AND a.state = 'approved' AND a.writeback IS NOT NULL AND a.expires_at > statement_timestamp()
            AND NOT EXISTS (SELECT 1 FROM public.execution e WHERE e.tenant = t AND e.writeback = a.writeback)
        UNION ALL
        SELECT e.writeback, e.lease_until FROM public.execution e WHERE e.tenant = t AND e.state IN ('executing', 'unknown')) lost
      WHERE NOT EXISTS (SELECT 1 FROM public.work w WHERE w.tenant = t AND w.kind = 'execute' AND w.subject = lost.writeback)
      LIMIT GREATEST(p_limit - total, 0)
      ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS found = ROW_COUNT;
    total := total + found;
    EXIT WHEN total >= p_limit;
  END LOOP;
  PERFORM set_config('app.tenant', COALESCE(entered, ''), true);
  RETURN total;
END $$;
REVOKE ALL ON FUNCTION restore_executor_work(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION restore_executor_work(int) TO {prefix}_worker;
