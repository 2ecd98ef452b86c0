-- What a mission was answered, call by call, and what is done with it: playing a past mission again without its colony.

CREATE TABLE tape (                  -- one answer of a tool or a model; a call is found by what it asks and the how-manieth of that it is
  tenant uuid NOT NULL REFERENCES tenant,
  mission uuid NOT NULL,             -- or the recording
  attempt int NOT NULL CHECK (attempt >= 1),
  kind text NOT NULL CHECK (kind IN ('tool', 'model')),
  name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  arguments_sha256 bytea NOT NULL GENERATED ALWAYS AS (sha256(arguments)) STORED,
  ordinal int NOT NULL CHECK (ordinal >= 1),
  arguments bytea NOT NULL,          -- canonical JSON
  outcome text NOT NULL CHECK (   -- refused: by the tool; denied: by policy
    outcome IN ('answered', 'refused', 'denied')),
  answer_sha256 bytea NOT NULL,      -- canonical JSON in blob
  took_ms float8 NOT NULL CHECK (took_ms >= 0),
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, mission, attempt, kind, name, arguments_sha256, ordinal),
  FOREIGN KEY (tenant, answer_sha256) REFERENCES blob (tenant, sha256)
);
CREATE INDEX tape_in_order ON tape (tenant, mission, attempt, at);

CREATE TABLE recording (             -- a mission of another environment, imported as one signed file
  tenant uuid NOT NULL REFERENCES tenant,
  id uuid NOT NULL,
  mission uuid NOT NULL,             -- as it is called where it ran
  attempt int NOT NULL CHECK (attempt >= 1),
  mission_type text NOT NULL,
  environment text NOT NULL,
  signed_by text NOT NULL,
  file_sha256 bytea NOT NULL,        -- the file as it came, in blob
  size bigint NOT NULL,
  imported_by uuid NOT NULL,
  imported_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, id),
  UNIQUE (tenant, file_sha256),
  FOREIGN KEY (tenant, imported_by) REFERENCES principal (tenant, id),
  FOREIGN KEY (tenant, file_sha256) REFERENCES blob (tenant, sha256)
);
CREATE INDEX recording_newest ON recording (tenant, imported_at DESC, id DESC);

CREATE TABLE shadow_writeback (      -- what a replay would have asked a human for; nothing that executes ever reads it
  tenant uuid NOT NULL,
  mission uuid NOT NULL,
  proposal uuid NOT NULL,
  payload bytea NOT NULL CHECK (octet_length(payload) <= 262144),
  payload_sha256 bytea NOT NULL GENERATED ALWAYS AS (sha256(payload)) STORED,
  policy_decision uuid NOT NULL,
  effect text NOT NULL CHECK (effect IN ('allow', 'ask')),
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, mission, proposal),
  FOREIGN KEY (tenant, mission) REFERENCES mission (tenant, id),
  FOREIGN KEY (tenant, proposal) REFERENCES artifact (tenant, id)
);

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['tape', 'recording', 'shadow_writeback'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format($p$CREATE POLICY own_tenant ON %I
      USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid)$p$, t);
    EXECUTE format('CREATE TRIGGER %I BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', t || '_keep', t);
    EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', t || '_whole', t);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_keep');
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_whole');
    EXECUTE format('GRANT SELECT ON %I TO {prefix}_api, {prefix}_worker, {prefix}_auditor', t);
  END LOOP;
END $$;
GRANT INSERT (tenant, mission, attempt, kind, name, ordinal, arguments, outcome, answer_sha256, took_ms) ON tape TO {prefix}_api, {prefix}_worker;
GRANT INSERT (tenant, id, mission, attempt, mission_type, environment, signed_by, file_sha256, size, imported_by) ON recording TO {prefix}_api;
GRANT INSERT (tenant, mission, proposal, payload, policy_decision, effect) ON shadow_writeback TO {prefix}_worker;
