-- What was found of missions that nothing would move any more, and what was done about it.

CREATE TABLE mission_repair (
  tenant uuid NOT NULL,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  mission uuid NOT NULL,
  state text NOT NULL,               -- the mission's, when it was found
  finding text NOT NULL CHECK (finding ~ '^[a-z_]{1,40}$'),  -- what was missing
  repair text CHECK (repair ~ '^[a-z_]{1,40}$'),             -- what was done; null: it takes a person
  refused text CHECK (refused IS NULL OR repair IS NULL AND refused ~ '^[a-z_]{1,40}$'),  -- why a repair that was tried could not be made
  since timestamptz NOT NULL,        -- of the mission's last move
  found_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  over_at timestamptz,               -- when it was no longer so: at once, when it was repaired
  PRIMARY KEY (tenant, id),
  FOREIGN KEY (tenant, mission) REFERENCES mission (tenant, id)
);
CREATE UNIQUE INDEX mission_repair_open ON mission_repair (tenant, mission) WHERE over_at IS NULL;
CREATE INDEX mission_repair_newest ON mission_repair (tenant, found_at DESC, id DESC);
CREATE INDEX mission_repair_of_mission ON mission_repair (tenant, mission, found_at);

-- When somebody last looked at all of a tenant's open missions. Without it an empty list would mean nothing.
CREATE TABLE liveness_look (
  tenant uuid PRIMARY KEY REFERENCES tenant,
  looked_at timestamptz NOT NULL,
  took_ms int NOT NULL,
  missions int NOT NULL,             -- open ones
  found int NOT NULL                 -- that were stuck
);

CREATE FUNCTION guard_mission_repair() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF OLD.over_at IS NOT NULL OR NEW.over_at IS NULL OR (NEW.tenant, NEW.id, NEW.mission, NEW.state, NEW.finding, NEW.since, NEW.found_at)
     IS DISTINCT FROM (OLD.tenant, OLD.id, OLD.mission, OLD.state, OLD.finding, OLD.since, OLD.found_at)
     OR (NEW.repair, NEW.refused) IS DISTINCT FROM (OLD.repair, OLD.refused) THEN
    RAISE EXCEPTION 'wall: what was found stays, and is over once' USING ERRCODE = 'RX037';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER mission_repair_guard BEFORE UPDATE ON mission_repair FOR EACH ROW EXECUTE FUNCTION guard_mission_repair();
CREATE TRIGGER mission_repair_keep BEFORE DELETE ON mission_repair FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER mission_repair_whole BEFORE TRUNCATE ON mission_repair FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE mission_repair ENABLE ALWAYS TRIGGER mission_repair_guard;
ALTER TABLE mission_repair ENABLE ALWAYS TRIGGER mission_repair_keep;
ALTER TABLE mission_repair ENABLE ALWAYS TRIGGER mission_repair_whole;
DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['mission_repair', 'liveness_look'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format($p$CREATE POLICY own_tenant ON %I
      USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid)$p$, t);
    EXECUTE format('GRANT SELECT ON %I TO {prefix}_api, {prefix}_worker, {prefix}_auditor', t);
    EXECUTE format('GRANT INSERT ON %I TO {prefix}_worker', t);
  END LOOP;
END $$;
GRANT UPDATE (over_at) ON mission_repair TO {prefix}_worker;
GRANT UPDATE (looked_at, took_ms, missions, found) ON liveness_look TO {prefix}_worker;

-- One row of work for each tenant, by which its missions are looked at; answers how many were missing.
CREATE FUNCTION restore_liveness_work() RETURNS int LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
  WITH restored AS (
    INSERT INTO public.work (tenant, kind, subject, queue)
    SELECT t.id, 'liveness', t.id, 'worker' FROM public.tenant t
    WHERE NOT EXISTS (SELECT 1 FROM public.work w WHERE w.tenant = t.id AND w.kind = 'liveness' AND w.subject = t.id)
    LIMIT 5000
    ON CONFLICT (tenant, kind, subject) DO NOTHING RETURNING 1)
  SELECT count(*)::int FROM restored
$$;
-- Likewise the rows by which an executor finds one mission's changes: what restore_executor_work() does for everybody.
CREATE FUNCTION restore_execution_of(p_tenant uuid, p_mission uuid) RETURNS int LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE n int;
BEGIN
  PERFORM require_tenant(p_tenant);
  INSERT INTO public.work (tenant, kind, subject, queue, next_at)
    SELECT p_tenant, 'execute', w.id, 'executor', COALESCE(e.lease_until, a.not_before)
    FROM public.writeback w JOIN public.approval a ON a.tenant = p_tenant AND a.writeback = w.id
    LEFT JOIN public.execution e ON e.tenant = p_tenant AND e.writeback = w.id
    WHERE w.tenant = p_tenant AND w.mission = p_mission
      AND (e.state IN ('executing', 'unknown') OR e.writeback IS NULL AND a.state = 'approved' AND a.expires_at > statement_timestamp())
    ON CONFLICT DO NOTHING;
  GET DIAGNOSTICS n = ROW_COUNT;
  RETURN n;
END $$;

-- Numbers for whoever asks how the installation is, of all tenants together; nothing of any.
CREATE FUNCTION doctor_numbers(p_old interval, p_soon interval)
RETURNS TABLE (tenants int, looked_age_s float8, stuck int, keys int, old_keys int, ending_keys int)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE t uuid; entered text := current_setting('app.tenant', true); age float8; n int;
BEGIN
  tenants := 0; stuck := 0;
  FOR t IN SELECT x.id FROM public.tenant x WHERE x.suspended_at IS NULL LOOP
    PERFORM set_config('app.tenant', t::text, true);
    tenants := tenants + 1;
    -- a tenant that nobody has looked at yet counts from its beginning
    SELECT extract(epoch FROM clock_timestamp() - COALESCE((SELECT l.looked_at FROM public.liveness_look l WHERE l.tenant = t), x.created_at))
      INTO age FROM public.tenant x WHERE x.id = t;
    looked_age_s := GREATEST(looked_age_s, age);
    SELECT count(*) INTO n FROM public.mission_repair r WHERE r.tenant = t AND r.over_at IS NULL;
    stuck := stuck + n;
  END LOOP;
  PERFORM set_config('app.tenant', COALESCE(entered, ''), true);
  SELECT count(*), count(*) FILTER (WHERE k.created_at < statement_timestamp() - p_old),
         count(*) FILTER (WHERE k.expires_at < statement_timestamp() + p_soon)
    INTO keys, old_keys, ending_keys
    FROM public.api_key k JOIN public.tenant x ON x.id = k.tenant AND x.suspended_at IS NULL
    JOIN public.principal p ON p.tenant = k.tenant AND p.id = k.principal AND p.suspended_at IS NULL
    WHERE k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > statement_timestamp());
  RETURN NEXT;
END $$;

-- Which tenants have as many approvals waiting as they may: no mission is dispatched there that would add to them.
CREATE FUNCTION full_approval_queues(p_most int) RETURNS uuid[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT array(SELECT a.tenant FROM public.approval a JOIN public.tenant t ON t.id = a.tenant AND t.suspended_at IS NULL
    WHERE a.state = 'pending' GROUP BY a.tenant HAVING count(*) >= p_most)
$$;

REVOKE ALL ON FUNCTION guard_mission_repair(), restore_liveness_work(), restore_execution_of(uuid, uuid),
  doctor_numbers(interval, interval), full_approval_queues(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION restore_liveness_work(), restore_execution_of(uuid, uuid) TO {prefix}_worker;
GRANT EXECUTE ON FUNCTION doctor_numbers(interval, interval) TO {prefix}_api, {prefix}_worker, {prefix}_registrar, {prefix}_auditor;
GRANT EXECUTE ON FUNCTION full_approval_queues(int) TO {prefix}_api;
