-- Missions, their typed artifacts, what they were shown, and what policy said.

CREATE TABLE mission_type (          -- a tenant's own types and newer versions of shipped ones; shipped types are files
  tenant uuid NOT NULL REFERENCES tenant,
  name text NOT NULL CHECK (name ~ '^[a-z][a-z0-9_]{2,63}$'),
  version int NOT NULL CHECK (version >= 1),
  definition jsonb NOT NULL,
  created_by uuid NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, name, version),
  FOREIGN KEY (tenant, created_by) REFERENCES principal (tenant, id)
);

CREATE TABLE mission (
  tenant uuid NOT NULL,                                   -- there is such a tenant: whoever asked was found in it
  id uuid NOT NULL,
  mission_type text NOT NULL,
  type_version int NOT NULL,
  mode text NOT NULL CHECK (mode IN ('dry_run', 'assisted', 'autonomous')),
  state text NOT NULL CHECK (state IN ('accepted', 'dispatched', 'running', 'in_review', 'awaiting_approval',
                                       'executing', 'completed', 'failed', 'cancelled', 'denied')),
  stage text,
  version int NOT NULL DEFAULT 1,
  origin_surface text NOT NULL,
  risk_level text NOT NULL CHECK (risk_level IN ('low', 'medium', 'high')),
  sensitivity_class text NOT NULL CHECK (sensitivity_class IN ('public', 'internal', 'confidential', 'restricted')),
  requested_by uuid NOT NULL,                             -- who presented a live secret: take_in() has found out
  workspace text NOT NULL,
  contract_hash bytea NOT NULL CHECK (length(contract_hash) = 32),
  labels jsonb NOT NULL DEFAULT '{}',
  traceparent text,
  replay_of uuid,                    -- the mission, or the imported recording, that this one repeats
  replay_mode text CHECK (replay_mode IN ('rerun', 'recorded', 'recorded_with_colony')),  -- see app/replay; null for a first run
  attempt int NOT NULL DEFAULT 1 CHECK (attempt >= 1),    -- raised when an attempt is given up; also the fence of callbacks
  last_seq int NOT NULL DEFAULT 0,                        -- last event taken from the current attempt
  lease_until timestamptz,
  deadline_at timestamptz,
  budget_time_ms bigint NOT NULL CHECK (budget_time_ms > 0),
  budget_tokens bigint NOT NULL CHECK (budget_tokens >= 0),
  budget_cost_usd numeric(12, 4) NOT NULL CHECK (budget_cost_usd >= 0),
  used_tokens bigint NOT NULL DEFAULT 0,
  used_cost_usd numeric(24, 8) NOT NULL DEFAULT 0,        -- finer than the budget: a single small call costs hundredths of a cent
  answer_status text CHECK (answer_status IN ('answered', 'not_found')),
  pending_approvals uuid[] NOT NULL DEFAULT '{}',
  writebacks jsonb NOT NULL DEFAULT '{}',                 -- tally by state, moved by the approvals room
  degraded jsonb,                                         -- why it waits, since when; null when it does not
  reason text,                                            -- code of why it ended as it did
  reason_note text CHECK (length(reason_note) <= 2000),   -- a human's words; never copied into the ledger
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  closed_at timestamptz,
  bytes_removed_at timestamptz,                           -- when retention removed what it had said; see 66_retention.sql
  PRIMARY KEY (tenant, id),
  UNIQUE (tenant, id, requested_by),
  CHECK ((closed_at IS NOT NULL) = (state IN ('completed', 'failed', 'cancelled', 'denied'))),
  CHECK ((replay_of IS NULL) = (replay_mode IS NULL)),
  CONSTRAINT mission_bytes CHECK (bytes_removed_at IS NULL OR closed_at IS NOT NULL)
);
-- One for every way to list: however long the history, and however rare what is looked for, a page is read and nothing else.
CREATE INDEX mission_newest ON mission (tenant, created_at DESC, id DESC);
CREATE INDEX mission_of_state ON mission (tenant, state, created_at DESC, id DESC);
CREATE INDEX mission_of_type ON mission (tenant, mission_type, created_at DESC, id DESC);
CREATE INDEX mission_of_requester ON mission (tenant, requested_by, created_at DESC, id DESC);
CREATE INDEX mission_of_replay ON mission (tenant, replay_of, created_at DESC, id DESC) WHERE replay_of IS NOT NULL;
-- What retention goes by: closed missions only, so that taking one in has nothing to do with it.
CREATE INDEX mission_retained ON mission (tenant, sensitivity_class, closed_at) WHERE closed_at IS NOT NULL AND bytes_removed_at IS NULL;

CREATE TABLE mission_label (         -- what `labels` says, to find missions by; written with the mission, by note_labels() alone
  tenant uuid NOT NULL,
  name text NOT NULL,
  value text NOT NULL,
  created_at timestamptz NOT NULL,   -- the mission's
  mission uuid NOT NULL,
  PRIMARY KEY (tenant, name, value, created_at, mission)
);
-- No foreign key: nobody else can write these rows, they are read off the missions that were just written, and no mission goes.
CREATE FUNCTION note_labels() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  INSERT INTO public.mission_label (tenant, name, value, created_at, mission)
    SELECT f.tenant, l.key, l.value, f.created_at, f.id FROM fresh f, jsonb_each_text(f.labels) l WHERE enter_tenant(f.tenant);
  RETURN NULL;
END $$;
CREATE TRIGGER mission_labelled AFTER INSERT ON mission REFERENCING NEW TABLE AS fresh
  FOR EACH STATEMENT EXECUTE FUNCTION note_labels();

-- Who asks is proved, not claimed: a mission comes in through take_in() alone, which has the wall's rights and finds out by the
-- presented secret.
CREATE FUNCTION refuse_unproved() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  RAISE EXCEPTION 'wall: a mission comes in through take_in(), which proves who asks' USING ERRCODE = 'RX013';
END $$;
CREATE TRIGGER mission_proof BEFORE INSERT ON mission
  FOR EACH ROW WHEN (current_user <> '{prefix}_owner') EXECUTE FUNCTION refuse_unproved();

CREATE FUNCTION guard_mission() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF OLD.state IN ('completed', 'failed', 'cancelled', 'denied') AND NEW.state <> OLD.state THEN
    RAISE EXCEPTION 'wall: a % mission does not move', OLD.state USING ERRCODE = 'RX004';
  END IF;
  IF (NEW.tenant, NEW.id, NEW.mission_type, NEW.mode, NEW.requested_by, NEW.contract_hash, NEW.created_at, NEW.risk_level,
      NEW.sensitivity_class, NEW.replay_of, NEW.replay_mode, NEW.workspace, NEW.type_version)
     IS DISTINCT FROM
     (OLD.tenant, OLD.id, OLD.mission_type, OLD.mode, OLD.requested_by, OLD.contract_hash, OLD.created_at, OLD.risk_level,
      OLD.sensitivity_class, OLD.replay_of, OLD.replay_mode, OLD.workspace, OLD.type_version)
     OR NEW.attempt < OLD.attempt OR (NEW.attempt = OLD.attempt AND NEW.last_seq < OLD.last_seq) THEN
    RAISE EXCEPTION 'wall: a mission''s request does not change' USING ERRCODE = 'RX001';
  END IF;
  -- Retention counts from here: closed once, by the wall's own clock, whatever is written.
  IF NEW.closed_at IS DISTINCT FROM OLD.closed_at THEN
    NEW.closed_at := COALESCE(OLD.closed_at, clock_timestamp());
  END IF;
  IF NEW.bytes_removed_at IS DISTINCT FROM OLD.bytes_removed_at THEN
    IF OLD.bytes_removed_at IS NOT NULL OR NOT retention_over(NEW.tenant, NEW.id) THEN
      RAISE EXCEPTION 'wall: the mission''s time to be kept is not over' USING ERRCODE = 'RX021';
    END IF;
  END IF;
  NEW.version := OLD.version + 1;
  NEW.updated_at := clock_timestamp();
  RETURN NEW;
END $$;
CREATE TRIGGER mission_guard BEFORE UPDATE ON mission FOR EACH ROW EXECUTE FUNCTION guard_mission();
CREATE TRIGGER mission_keep BEFORE DELETE ON mission FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER mission_whole BEFORE TRUNCATE ON mission FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE artifact (
  tenant uuid NOT NULL,
  id uuid NOT NULL,
  mission uuid NOT NULL,
  attempt int NOT NULL,
  schema_name text NOT NULL CHECK (schema_name IN ('mission_envelope', 'mission_task_graph', 'prompt_package',
    'research_artifact', 'librarian_pass', 'worker_result', 'aggregation_packet', 'review_packet', 'policy_decision',
    'writeback_proposal')),
  schema_version text NOT NULL,
  producer text NOT NULL,
  bytes bytea,                       -- null: removed when its time was over; what it was is kept beside it
  removed_sha256 bytea,
  removed_size bigint,
  removed_at timestamptz,
  sha256 bytea NOT NULL GENERATED ALWAYS AS (COALESCE(removed_sha256, sha256(bytes))) STORED,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, id),
  UNIQUE (tenant, sha256, mission),  -- by hash first: it is also how anybody who holds one finds the mission
  FOREIGN KEY (tenant, mission) REFERENCES mission (tenant, id),
  CONSTRAINT artifact_removed CHECK (num_nulls(removed_sha256, removed_size, removed_at) = CASE WHEN bytes IS NULL THEN 0 ELSE 3 END)
);
CREATE INDEX artifact_of_mission ON artifact (tenant, mission, created_at, id);

CREATE TABLE reading (               -- stored bytes a mission was shown: the only bytes its citations may point into
  tenant uuid NOT NULL,
  mission uuid NOT NULL,
  source_sha256 bytea NOT NULL,
  document text NOT NULL CHECK (length(document) <= 1000),
  kind text NOT NULL CHECK (kind IN ('document', 'record')),
  version text,
  read_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, mission, source_sha256, document),
  FOREIGN KEY (tenant, mission) REFERENCES mission (tenant, id),
  FOREIGN KEY (tenant, source_sha256) REFERENCES blob (tenant, sha256)
);
CREATE INDEX reading_of_source ON reading (tenant, source_sha256);

CREATE TABLE quarantine (            -- payloads refused at the boundary, kept as they came
  tenant uuid NOT NULL REFERENCES tenant,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  mission uuid NOT NULL,
  origin text NOT NULL CHECK (origin IN ('callback', 'dispatch_answer', 'status_answer', 'cancel_answer')),
  problem text NOT NULL CHECK (length(problem) <= 1000),
  bytes bytea,                       -- null: removed, as an artifact's
  removed_sha256 bytea,
  removed_size bigint,
  removed_at timestamptz,
  sha256 bytea NOT NULL GENERATED ALWAYS AS (COALESCE(removed_sha256, sha256(bytes))) STORED,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, id),
  CONSTRAINT quarantine_removed CHECK (num_nulls(removed_sha256, removed_size, removed_at) = CASE WHEN bytes IS NULL THEN 0 ELSE 3 END)
);
CREATE INDEX quarantine_of_mission ON quarantine (tenant, mission, at);

-- What was said or sent stays as it was. The one change there is: its bytes go when its mission's time to be kept is over, and
-- hash and size stay. Whoever tries, and by whatever way: whether it is over is looked up here.
CREATE FUNCTION guard_bytes() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE removed jsonb := jsonb_build_object('bytes', NULL, 'removed_sha256', NULL, 'removed_size', NULL, 'removed_at', NULL, 'sha256', NULL);
BEGIN
  IF TG_OP = 'DELETE' OR OLD.removed_at IS NOT NULL OR NEW.removed_at IS NULL
     OR to_jsonb(NEW) || removed IS DISTINCT FROM to_jsonb(OLD) || removed
     OR (NEW.removed_sha256, NEW.removed_size) IS DISTINCT FROM (OLD.sha256, octet_length(OLD.bytes)::bigint) THEN
    RAISE EXCEPTION 'wall: % on % is forbidden', TG_OP, TG_TABLE_NAME USING ERRCODE = 'RX001';
  END IF;
  IF NOT retention_over(OLD.tenant, OLD.mission) THEN
    RAISE EXCEPTION 'wall: the time of what a mission has said to be kept is not over' USING ERRCODE = 'RX021';
  END IF;
  RETURN NEW;
END $$;

CREATE TABLE policy_decision (
  tenant uuid NOT NULL,
  id uuid NOT NULL,
  mission uuid,                      -- null when the decision was that there shall be no mission
  principal uuid NOT NULL,
  action text NOT NULL,
  resource text NOT NULL,
  effect text NOT NULL CHECK (effect IN ('allow', 'deny', 'ask')),
  rule text NOT NULL,
  policy_version text NOT NULL,
  reason text NOT NULL,
  inputs bytea NOT NULL CHECK (octet_length(inputs) BETWEEN 2 AND 16384),  -- canonical JSON: ids and enums, to decide again by
  obligations jsonb NOT NULL DEFAULT '{}',
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, id),
  FOREIGN KEY (tenant, mission) REFERENCES mission (tenant, id) DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX policy_decision_of_mission ON policy_decision (tenant, mission, at);

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['mission_type', 'mission', 'artifact', 'reading', 'quarantine', 'policy_decision'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format($p$CREATE POLICY own_tenant ON %I
      USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid)$p$, t);
    EXECUTE format('GRANT SELECT ON %I TO {prefix}_api, {prefix}_worker, {prefix}_auditor', t);
    IF t NOT IN ('mission', 'artifact', 'quarantine') THEN EXECUTE format('GRANT INSERT ON %I TO {prefix}_api', t); END IF;
  END LOOP;
  FOREACH t IN ARRAY ARRAY['artifact', 'quarantine', 'mission_type', 'policy_decision'] LOOP
    EXECUTE format('CREATE TRIGGER %I BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION %I()', t || '_keep', t,
      CASE WHEN t IN ('artifact', 'quarantine') THEN 'guard_bytes' ELSE 'refuse_change' END);
    EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', t || '_whole', t);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_keep');
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_whole');
  END LOOP;
END $$;
-- The worker carries missions on; it neither requests one nor says what types there are. Nobody adds what is removed already.
GRANT INSERT ON reading, policy_decision TO {prefix}_worker;
GRANT INSERT (tenant, id, mission, attempt, schema_name, schema_version, producer, bytes) ON artifact TO {prefix}_api, {prefix}_worker;
GRANT INSERT (tenant, mission, origin, problem, bytes) ON quarantine TO {prefix}_api, {prefix}_worker;
ALTER TABLE mission ENABLE ALWAYS TRIGGER mission_proof;
ALTER TABLE mission ENABLE ALWAYS TRIGGER mission_guard;
ALTER TABLE mission ENABLE ALWAYS TRIGGER mission_keep;
ALTER TABLE mission ENABLE ALWAYS TRIGGER mission_whole;
ALTER TABLE mission ENABLE ALWAYS TRIGGER mission_labelled;
ALTER TABLE mission_label ENABLE ROW LEVEL SECURITY; ALTER TABLE mission_label FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON mission_label USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid);
GRANT SELECT ON mission_label TO {prefix}_api, {prefix}_auditor;
CREATE TRIGGER mission_label_keep BEFORE UPDATE OR DELETE ON mission_label FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER mission_label_whole BEFORE TRUNCATE ON mission_label FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE mission_label ENABLE ALWAYS TRIGGER mission_label_keep;
ALTER TABLE mission_label ENABLE ALWAYS TRIGGER mission_label_whole;
GRANT UPDATE (state, stage, attempt, last_seq, lease_until, deadline_at, answer_status,
  pending_approvals, writebacks, degraded, reason, reason_note, closed_at) ON mission TO {prefix}_api, {prefix}_worker;

-- The colony names a mission without its tenant; a signed call may learn whose it is.
CREATE POLICY lookup ON mission FOR SELECT TO {prefix}_owner USING (true);
CREATE FUNCTION tenant_of_mission(p_mission uuid) RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT m.tenant FROM public.mission m WHERE m.id = p_mission
$$;
CREATE UNIQUE INDEX mission_id ON mission (id);
REVOKE ALL ON FUNCTION refuse_unproved(), guard_mission(), guard_bytes(), note_labels(), tenant_of_mission(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenant_of_mission(uuid) TO {prefix}_api;
