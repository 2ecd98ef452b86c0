-- Drills: what the service does to itself, in a tenant of its own, to show that its guards hold. Runs are rows, and facts.

CREATE TABLE drill_run (
  tenant uuid NOT NULL REFERENCES tenant,
  id uuid NOT NULL,
  drill text NOT NULL CHECK (drill ~ '^[a-z_]{1,40}$'),
  asked_by uuid,                     -- a principal, perhaps of another tenant; null: the schedule
  state text NOT NULL CHECK (state IN ('running', 'passed', 'failed')),
  reason text CHECK (reason ~ '^[a-z_]{1,60}$'),             -- a code, when failed
  evidence jsonb NOT NULL DEFAULT '[]'                       -- [{"kind": "mission", "id": "..."}]
    CHECK (jsonb_typeof(evidence) = 'array' AND octet_length(evidence::text) <= 16384),
  build text NOT NULL CHECK (length(build) BETWEEN 1 AND 100),
  started_at timestamptz NOT NULL,
  finished_at timestamptz,
  PRIMARY KEY (tenant, id),
  CHECK ((finished_at IS NOT NULL) = (state <> 'running')),
  CHECK ((reason IS NOT NULL) = (state = 'failed'))
);
CREATE UNIQUE INDEX drill_run_one ON drill_run (tenant, drill) WHERE state = 'running';   -- two clicks are one run
CREATE INDEX drill_run_newest ON drill_run (tenant, drill, started_at DESC, id DESC);

-- A run ends once, and what it was stays.
CREATE FUNCTION guard_drill_run() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF OLD.state <> 'running' OR (NEW.tenant, NEW.id, NEW.drill, NEW.build, NEW.started_at)
     IS DISTINCT FROM (OLD.tenant, OLD.id, OLD.drill, OLD.build, OLD.started_at) OR NEW.asked_by IS DISTINCT FROM OLD.asked_by THEN
    RAISE EXCEPTION 'wall: a run of a drill ends once' USING ERRCODE = 'RX035';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER drill_run_guard BEFORE UPDATE ON drill_run FOR EACH ROW EXECUTE FUNCTION guard_drill_run();
CREATE TRIGGER drill_run_keep BEFORE DELETE ON drill_run FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER drill_run_whole BEFORE TRUNCATE ON drill_run FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE drill_run ENABLE ALWAYS TRIGGER drill_run_guard;
ALTER TABLE drill_run ENABLE ALWAYS TRIGGER drill_run_keep;
ALTER TABLE drill_run ENABLE ALWAYS TRIGGER drill_run_whole;
ALTER TABLE drill_run ENABLE ROW LEVEL SECURITY; ALTER TABLE drill_run FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON drill_run USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid);
GRANT SELECT ON drill_run TO {prefix}_api, {prefix}_worker, {prefix}_auditor;
-- Whoever is asked by strangers may ask for a run; how it ended the worker says.
GRANT INSERT (tenant, id, drill, asked_by, state, build, started_at) ON drill_run TO {prefix}_api, {prefix}_worker;
GRANT UPDATE (state, reason, evidence, finished_at) ON drill_run TO {prefix}_worker;
CREATE POLICY asked_for ON drill_run AS RESTRICTIVE FOR INSERT TO {prefix}_api WITH CHECK (state = 'running' AND asked_by IS NOT NULL);

-- The tenant that drills run in; null where none was prepared, or it is suspended.
CREATE FUNCTION drill_tenant() RETURNS uuid LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT t.id FROM public.tenant t WHERE t.drills AND t.suspended_at IS NULL
$$;
-- The one row by which the schedule of the drills is looked after; answers how many were missing.
CREATE FUNCTION restore_drill_work() RETURNS int LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
  WITH restored AS (
    INSERT INTO public.work (tenant, kind, subject, queue)
    SELECT t.id, 'drills', t.id, 'worker' FROM public.tenant t WHERE t.drills AND t.suspended_at IS NULL
    ON CONFLICT (tenant, kind, subject) DO NOTHING RETURNING 1)
  SELECT count(*)::int FROM restored
$$;
REVOKE ALL ON FUNCTION guard_drill_run(), drill_tenant(), restore_drill_work() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION drill_tenant() TO {prefix}_api, {prefix}_worker, {prefix}_registrar;
GRANT EXECUTE ON FUNCTION restore_drill_work() TO {prefix}_worker;
