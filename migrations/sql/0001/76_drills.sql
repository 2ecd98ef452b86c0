-- Drills: what the service has tried out on itself, in a tenant of its own, and what came of it.

ALTER TABLE tenant ADD COLUMN drills boolean NOT NULL DEFAULT false;
CREATE TABLE drill_run (
  tenant uuid NOT NULL, id uuid NOT NULL, drill text NOT NULL, asked_by uuid,            -- NULL: the schedule
  state text NOT NULL CHECK (state IN ('running', 'passed', 'failed')), reason text,      -- a code, when failed
  evidence jsonb NOT NULL DEFAULT '[]',                                                    -- [{"kind": "mission", "id": "..."}]
  build text NOT NULL, started_at timestamptz NOT NULL, finished_at timestamptz, PRIMARY KEY (tenant, id));
CREATE INDEX drill_run_newest ON drill_run (tenant, drill, started_at DESC, id DESC);
ALTER TABLE drill_run ENABLE ROW LEVEL SECURITY; ALTER TABLE drill_run FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON drill_run USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid);
CREATE FUNCTION drill_tenant() RETURNS uuid LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT t.id FROM public.tenant t WHERE t.drills AND t.suspended_at IS NULL
$$;
REVOKE ALL ON FUNCTION drill_tenant() FROM PUBLIC;
