-- What a mission was answered, call by call, and what is done with it: playing a past mission again without its colony.

CREATE TABLE tape (                  -- one answer of a tool or a model; a call is found by what it asks and the how-manieth of that it is
  tenant uuid NOT NULL REFERENCES tenant,
  mission uuid NOT NULL,             -- or the recording
  attempt int NOT NULL CHECK (attempt >= 1),
  kind text NOT NULL CHECK (kind IN ('tool', 'model')),
  name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  arguments_sha256 bytea NOT NULL CHECK (arguments_sha256 = sha256(arguments)),
  ordinal int NOT NULL CHECK (ordinal >= 1),
  arguments bytea,                   -- canonical JSON; null: removed with the mission's bytes, as the answer
  outcome text NOT NULL CHECK (   -- refused: by the tool; denied: by policy
    outcome IN ('answered', 'refused', 'denied')),
  answer_sha256 bytea NOT NULL CHECK (answer_sha256 = sha256(answer)),
  answer bytea,                      -- JSON as it was given; here and not in blob: a replay reads it in its transaction
  took_ms float8 NOT NULL CHECK (took_ms >= 0),
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  removed_at timestamptz,
  PRIMARY KEY (tenant, mission, attempt, kind, name, arguments_sha256, ordinal),
  CONSTRAINT tape_removed CHECK (num_nulls(arguments, answer) = CASE WHEN removed_at IS NULL THEN 0 ELSE 2 END)
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
  sensitivity_class text NOT NULL CHECK (sensitivity_class IN ('public', 'internal', 'confidential', 'restricted')),
  file_sha256 bytea NOT NULL CHECK (file_sha256 = sha256(file)),
  file bytea,                        -- as it came; null: removed, with its tape
  size bigint NOT NULL,
  imported_by uuid NOT NULL,
  imported_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  removed_at timestamptz,
  PRIMARY KEY (tenant, id),
  FOREIGN KEY (tenant, imported_by) REFERENCES principal (tenant, id),
  CONSTRAINT recording_size CHECK (size = octet_length(file)),
  CONSTRAINT recording_removed CHECK ((file IS NULL) = (removed_at IS NOT NULL))
);
CREATE UNIQUE INDEX recording_once ON recording (tenant, file_sha256) WHERE removed_at IS NULL;
CREATE INDEX recording_retained ON recording (tenant, sensitivity_class, imported_at) WHERE removed_at IS NULL;
CREATE INDEX recording_newest ON recording (tenant, imported_at DESC, id DESC);

CREATE TABLE shadow_writeback (      -- what a replay would have asked a human for; nothing that executes ever reads it
  tenant uuid NOT NULL,
  mission uuid NOT NULL,
  proposal uuid NOT NULL,
  payload bytea CHECK (octet_length(payload) <= 262144),   -- null: removed with the mission's bytes
  payload_sha256 bytea NOT NULL CHECK (payload_sha256 = sha256(payload)),
  policy_decision uuid NOT NULL,
  effect text NOT NULL CHECK (effect IN ('allow', 'ask')),
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  removed_at timestamptz,
  PRIMARY KEY (tenant, mission, proposal),
  FOREIGN KEY (tenant, mission) REFERENCES mission (tenant, id),
  FOREIGN KEY (tenant, proposal) REFERENCES artifact (tenant, id),
  CONSTRAINT shadow_removed CHECK ((payload IS NULL) = (removed_at IS NOT NULL))
);

-- Nothing of this changes. The one thing that happens to it: its bytes go when the time of what they belong to is over, which
-- is looked up here whoever tries.
CREATE FUNCTION guard_taped() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  bytes text[] := ARRAY['arguments', 'answer', 'file', 'payload', 'removed_at'];
  whose uuid := (to_jsonb(OLD) ->> CASE TG_TABLE_NAME WHEN 'recording' THEN 'id' ELSE 'mission' END)::uuid;
BEGIN
  IF TG_OP = 'DELETE' OR OLD.removed_at IS NOT NULL OR NEW.removed_at IS NULL OR to_jsonb(NEW) - bytes IS DISTINCT FROM to_jsonb(OLD) - bytes THEN
    RAISE EXCEPTION 'wall: % on % is forbidden', TG_OP, TG_TABLE_NAME USING ERRCODE = 'RX001';
  END IF;
  IF NOT retention_over(OLD.tenant, whose) AND NOT recording_over(OLD.tenant, whose) THEN
    RAISE EXCEPTION 'wall: the time of what a mission was answered to be kept is not over' USING ERRCODE = 'RX021';
  END IF;
  RETURN NEW;
END $$;
REVOKE ALL ON FUNCTION guard_taped() FROM PUBLIC;

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['tape', 'recording', 'shadow_writeback'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format($p$CREATE POLICY own_tenant ON %I
      USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid)$p$, t);
    EXECUTE format('CREATE TRIGGER %I BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION guard_taped()', t || '_keep', t);
    EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', t || '_whole', t);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_keep');
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_whole');
    EXECUTE format('GRANT SELECT ON %I TO {prefix}_api, {prefix}_worker, {prefix}_auditor', t);
  END LOOP;
END $$;
GRANT INSERT (tenant, mission, attempt, kind, name, ordinal, arguments, arguments_sha256, outcome, answer, answer_sha256, took_ms)
  ON tape TO {prefix}_api, {prefix}_worker;
GRANT INSERT (tenant, id, mission, attempt, mission_type, environment, signed_by, sensitivity_class, file_sha256, file, size, imported_by)
  ON recording TO {prefix}_api;
GRANT INSERT (tenant, mission, proposal, payload, payload_sha256, policy_decision, effect) ON shadow_writeback TO {prefix}_worker;
