-- What the service rehearses, and what came of it.

CREATE TABLE drill_run (
  tenant uuid NOT NULL REFERENCES tenant,
  id uuid NOT NULL,
  drill text NOT NULL,
  asked_by uuid,                     -- null: the schedule
  state text NOT NULL CHECK (state IN ('running', 'passed', 'failed')),
  reason text,                       -- a code, when failed
  evidence jsonb NOT NULL DEFAULT '[]',
  build text NOT NULL,
  started_at timestamptz NOT NULL,
  finished_at timestamptz,
  PRIMARY KEY (tenant, id)
);
ALTER TABLE drill_run ENABLE ROW LEVEL SECURITY; ALTER TABLE drill_run FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON drill_run USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid);
