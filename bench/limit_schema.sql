-- The least a mission leaves behind: four rows with their keys, without tenants, chains, policies or checks.
CREATE TABLE mission (
  id uuid PRIMARY KEY,
  tenant int NOT NULL,
  state text NOT NULL DEFAULT 'accepted',
  body jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX mission_newest ON mission (tenant, created_at DESC);
CREATE TABLE fact (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  mission uuid NOT NULL REFERENCES mission,
  seq int NOT NULL,
  type text NOT NULL,
  body jsonb NOT NULL,
  at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX fact_of_mission ON fact (mission, seq);
CREATE TABLE audit (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  mission uuid NOT NULL,
  actor text NOT NULL,
  action text NOT NULL,
  detail jsonb NOT NULL,
  at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE work (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  mission uuid NOT NULL,
  kind text NOT NULL,
  next_at timestamptz NOT NULL DEFAULT now(),
  attempts int NOT NULL DEFAULT 0
);
CREATE INDEX work_due ON work (next_at, id);
