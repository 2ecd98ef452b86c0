-- The writeback wall: a row in execution IS the permission to call an outside system, and one path creates it.

CREATE TABLE connector_switch (      -- one row per connector that was ever switched; halted stops decisions and claims
  tenant uuid NOT NULL REFERENCES tenant,
  connector text NOT NULL,
  halted_at timestamptz,
  PRIMARY KEY (tenant, connector)
);

CREATE TABLE approval_rule (         -- who must approve what; versioned, and never chosen by the asker
  tenant uuid NOT NULL REFERENCES tenant,
  id uuid NOT NULL,
  version int NOT NULL CHECK (version >= 1),
  subject text NOT NULL CHECK (subject IN ('writeback', 'mission')),
  connector text NOT NULL DEFAULT '*',
  operation text NOT NULL DEFAULT '*',
  risk text NOT NULL CHECK (risk IN ('*', 'low', 'medium', 'high')),
  required int NOT NULL CHECK (required BETWEEN 1 AND 5),
  deny_threshold int NOT NULL DEFAULT 1 CHECK (deny_threshold BETWEEN 1 AND 5),
  approver_role text NOT NULL DEFAULT 'operator',
  life interval NOT NULL CHECK (life BETWEEN interval '1 second' AND interval '30 days'),
  undo_window interval NOT NULL CHECK (undo_window BETWEEN interval '0' AND interval '1 hour'),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, id, version),
  UNIQUE (tenant, id, version, required, deny_threshold)
);

-- The rule that fits best: exact connector before '*', exact operation before '*', exact risk before '*', newest version;
-- of two that fit alike the stricter one.
CREATE FUNCTION choose_rule(p_tenant uuid, p_subject text, p_connector text, p_operation text, p_risk text)
RETURNS approval_rule LANGUAGE sql STABLE SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT r FROM public.approval_rule r
  WHERE r.tenant = p_tenant AND r.subject = p_subject AND r.connector IN ('*', p_connector)
    AND r.operation IN ('*', p_operation) AND r.risk IN ('*', p_risk)
    AND NOT EXISTS (SELECT 1 FROM public.approval_rule n WHERE n.tenant = r.tenant AND n.id = r.id AND n.version > r.version)
  ORDER BY (r.connector <> '*')::int DESC, (r.operation <> '*')::int DESC, (r.risk <> '*')::int DESC,
    r.required DESC, r.deny_threshold, r.life, r.id LIMIT 1
$$;

-- Every tenant is born with rules; the undo windows are the product's: 10 s at low risk, 30 s above.
CREATE FUNCTION first_rules() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  INSERT INTO public.approval_rule (tenant, id, version, subject, risk, required, life, undo_window) VALUES
    (NEW.id, gen_random_uuid(), 1, 'writeback', 'low', 1, '72 hours', '10 seconds'),
    (NEW.id, gen_random_uuid(), 1, 'writeback', 'medium', 1, '72 hours', '30 seconds'),
    (NEW.id, gen_random_uuid(), 1, 'writeback', 'high', 2, '24 hours', '30 seconds'),
    (NEW.id, gen_random_uuid(), 1, 'mission', '*', 1, '72 hours', '0');
  RETURN NEW;
END $$;
CREATE TRIGGER tenant_rules AFTER INSERT ON tenant FOR EACH ROW EXECUTE FUNCTION first_rules();

CREATE TABLE writeback (
  tenant uuid NOT NULL,
  id uuid NOT NULL,
  mission uuid NOT NULL,
  requested_by uuid NOT NULL,
  connector text NOT NULL,
  operation text NOT NULL,
  target text NOT NULL,
  risk text NOT NULL CHECK (risk IN ('low', 'medium', 'high')),
  payload bytea NOT NULL CHECK (octet_length(payload) BETWEEN 2 AND 262144),
  payload_sha256 bytea NOT NULL GENERATED ALWAYS AS (sha256(payload)) STORED,
  proposal uuid NOT NULL,            -- the writeback_proposal artifact: rationale and evidence
  predecessor uuid,                  -- the dead writeback this one asks again for
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, id),
  UNIQUE (tenant, id, payload_sha256, requested_by),
  UNIQUE (tenant, id, mission),
  UNIQUE (tenant, proposal),         -- a proposal becomes a writeback once, however often a crash repeats the step
  FOREIGN KEY (tenant, mission, requested_by) REFERENCES mission (tenant, id, requested_by),
  FOREIGN KEY (tenant, proposal) REFERENCES artifact (tenant, id),
  FOREIGN KEY (tenant, predecessor) REFERENCES writeback (tenant, id)
);
CREATE INDEX writeback_of_mission ON writeback (tenant, mission, created_at, id);
CREATE INDEX writeback_of_target ON writeback (tenant, connector, target, created_at);

-- Connector, operation and target are read out of the payload, so that rules and screens speak of the bytes themselves;
-- a writeback whose like is dead names it as predecessor.
CREATE FUNCTION guard_writeback() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE body jsonb; floor text;
BEGIN
  -- jsonb would silently keep one of two equal keys, and the rule would be chosen by what nobody approved.
  IF NOT convert_from(NEW.payload, 'UTF8') IS JSON OBJECT WITH UNIQUE KEYS THEN
    RAISE EXCEPTION 'wall: the payload is not a JSON object with each key once' USING ERRCODE = 'RX005';
  END IF;
  body := convert_from(NEW.payload, 'UTF8')::jsonb;
  NEW.connector := body ->> 'connector';
  NEW.operation := body ->> 'operation';
  NEW.target := (body -> 'target' ->> 'kind') || '/' || (body -> 'target' ->> 'id');
  IF NEW.connector IS NULL OR NEW.operation IS NULL OR NEW.target IS NULL
     OR jsonb_typeof(body -> 'changes') IS DISTINCT FROM 'object' OR NOT body ? 'expected_version' THEN
    RAISE EXCEPTION 'wall: the payload lacks connector, target, operation, changes or expected_version' USING ERRCODE = 'RX005';
  END IF;
  -- What the approver reads beside the payload is what this mission's colony said, not another's.
  PERFORM 1 FROM public.artifact p WHERE p.tenant = NEW.tenant AND p.id = NEW.proposal AND p.mission = NEW.mission
    AND p.schema_name = 'writeback_proposal';
  IF NOT FOUND THEN RAISE EXCEPTION 'wall: the proposal is not one of this mission' USING ERRCODE = 'RX005'; END IF;
  -- A writeback is never of less risk than the mission that asks for it.
  SELECT m.risk_level INTO floor FROM public.mission m WHERE m.tenant = NEW.tenant AND m.id = NEW.mission;
  IF array_position(ARRAY['low', 'medium', 'high'], NEW.risk) < array_position(ARRAY['low', 'medium', 'high'], floor) THEN
    NEW.risk := floor;
  END IF;
  SELECT w.id INTO NEW.predecessor FROM public.writeback w
    JOIN public.approval a ON a.tenant = w.tenant AND a.writeback = w.id AND a.state IN ('rejected', 'expired', 'cancelled')
    WHERE w.tenant = NEW.tenant AND w.connector = NEW.connector AND w.target = NEW.target AND w.operation = NEW.operation
    ORDER BY w.created_at DESC LIMIT 1;
  RETURN NEW;
END $$;
CREATE TRIGGER writeback_guard BEFORE INSERT ON writeback FOR EACH ROW EXECUTE FUNCTION guard_writeback();

CREATE TABLE approval (
  tenant uuid NOT NULL,
  id uuid NOT NULL,
  mission uuid NOT NULL,
  subject text NOT NULL CHECK (subject IN ('writeback', 'mission')),
  writeback uuid,                    -- the subject when it is a writeback
  question_sha256 bytea,             -- the policy_decision artifact asked about when the subject is the mission
  requested_by uuid NOT NULL,
  payload_sha256 bytea NOT NULL,     -- the bytes to be approved, whichever subject
  rule uuid NOT NULL,
  rule_version int NOT NULL,
  required int NOT NULL,
  deny_threshold int NOT NULL,
  state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'approved', 'rejected', 'expired', 'cancelled')),
  version int NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz NOT NULL,
  not_before timestamptz,            -- end of the undo window, set at quorum
  closed_at timestamptz,
  PRIMARY KEY (tenant, id),
  UNIQUE (tenant, id, requested_by, payload_sha256),
  UNIQUE (tenant, id, writeback, payload_sha256, state),
  FOREIGN KEY (tenant, mission, requested_by) REFERENCES mission (tenant, id, requested_by),
  FOREIGN KEY (tenant, writeback, payload_sha256, requested_by) REFERENCES writeback (tenant, id, payload_sha256, requested_by),
  FOREIGN KEY (tenant, writeback, mission) REFERENCES writeback (tenant, id, mission),
  FOREIGN KEY (tenant, mission, question_sha256) REFERENCES artifact (tenant, mission, sha256),
  FOREIGN KEY (tenant, rule, rule_version, required, deny_threshold)
    REFERENCES approval_rule (tenant, id, version, required, deny_threshold),
  CHECK ((subject = 'writeback') = (writeback IS NOT NULL)),
  CHECK ((subject = 'mission') = (question_sha256 IS NOT NULL)),
  CHECK (question_sha256 IS NULL OR question_sha256 = payload_sha256)
);
CREATE UNIQUE INDEX approval_per_writeback ON approval (tenant, writeback) WHERE writeback IS NOT NULL;
CREATE UNIQUE INDEX approval_per_question ON approval (tenant, mission, question_sha256) WHERE question_sha256 IS NOT NULL;
CREATE INDEX approval_inbox ON approval (tenant, expires_at, id) WHERE state = 'pending';
CREATE INDEX approval_of_mission ON approval (tenant, mission, created_at, id);
CREATE INDEX approval_newest ON approval (tenant, created_at DESC, id DESC);

CREATE TABLE decision (
  tenant uuid NOT NULL,
  approval uuid NOT NULL,
  approver uuid NOT NULL,
  requested_by uuid NOT NULL,
  payload_sha256 bytea NOT NULL,     -- what the approver saw, from the request, not from the row
  verdict text NOT NULL CHECK (verdict IN ('approve', 'reject')),
  comment text CHECK (length(comment) <= 2000),
  decided_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, approval, approver),
  FOREIGN KEY (tenant, approval, requested_by, payload_sha256) REFERENCES approval (tenant, id, requested_by, payload_sha256),
  FOREIGN KEY (tenant, approver) REFERENCES principal (tenant, id),
  CHECK (approver <> requested_by),
  CHECK (verdict = 'approve' OR COALESCE(length(comment), 0) > 0)
);

CREATE TABLE execution (
  tenant uuid NOT NULL,
  writeback uuid NOT NULL,
  approval uuid NOT NULL,
  payload_sha256 bytea NOT NULL,
  approval_state text NOT NULL GENERATED ALWAYS AS ('approved') STORED,
  idempotency_key uuid NOT NULL,
  fence bigint NOT NULL DEFAULT 1,
  state text NOT NULL DEFAULT 'executing' CHECK (state IN ('executing', 'succeeded', 'failed', 'unknown', 'stale')),
  attempts int NOT NULL DEFAULT 1,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  lease_until timestamptz NOT NULL,
  not_after timestamptz NOT NULL,
  settled_at timestamptz,
  receipt bytea CHECK (octet_length(receipt) <= 262144),    -- what the target answered
  observed bytea CHECK (octet_length(observed) <= 262144),  -- the payload again, with its changes as read back
  observed_sha256 bytea GENERATED ALWAYS AS (sha256(observed)) STORED,
  PRIMARY KEY (tenant, writeback),
  FOREIGN KEY (tenant, approval, writeback, payload_sha256, approval_state)
    REFERENCES approval (tenant, id, writeback, payload_sha256, state),
  CHECK ((settled_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'stale'))),
  -- success means: the approved payload, with its changes as they were read back, is byte for byte what was approved
  CHECK (state <> 'succeeded' OR (observed IS NOT NULL AND sha256(observed) = payload_sha256))
);
CREATE INDEX execution_open ON execution (tenant, lease_until) WHERE state IN ('executing', 'unknown');

-- The guards judge by what is committed now. A transaction that froze its view earlier would be judged by the past: by a
-- rule since tightened, a key since revoked, a connector not yet halted.
CREATE FUNCTION require_present() RETURNS void LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION 'wall: only at isolation level read committed' USING ERRCODE = 'RX012';
  END IF;
END $$;

-- Approvals: born pending under the rule the system chose, immutable but for their own moves.
CREATE FUNCTION guard_approval() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE r public.approval_rule; n_ok int; n_no int; w record; m record;
BEGIN
  PERFORM require_present();
  IF TG_OP = 'INSERT' THEN
    IF NEW.subject = 'writeback' THEN
      SELECT x.connector, x.operation, x.risk INTO w FROM public.writeback x WHERE x.tenant = NEW.tenant AND x.id = NEW.writeback;
      r := choose_rule(NEW.tenant, 'writeback', w.connector, w.operation, w.risk);
    ELSE
      SELECT x.mission_type, x.risk_level INTO m FROM public.mission x WHERE x.tenant = NEW.tenant AND x.id = NEW.mission;
      r := choose_rule(NEW.tenant, 'mission', '*', m.mission_type, m.risk_level);
    END IF;
    IF r.id IS NULL THEN RAISE EXCEPTION 'wall: no approval rule fits' USING ERRCODE = 'RX006'; END IF;
    NEW.rule := r.id; NEW.rule_version := r.version; NEW.required := r.required; NEW.deny_threshold := r.deny_threshold;
    NEW.state := 'pending'; NEW.version := 1; NEW.not_before := NULL; NEW.closed_at := NULL;
    NEW.created_at := clock_timestamp();
    NEW.expires_at := NEW.created_at + r.life;
    RETURN NEW;
  END IF;
  IF (NEW.tenant, NEW.id, NEW.mission, NEW.subject, NEW.requested_by, NEW.payload_sha256, NEW.rule, NEW.rule_version,
      NEW.required, NEW.deny_threshold, NEW.created_at, NEW.expires_at) IS DISTINCT FROM
     (OLD.tenant, OLD.id, OLD.mission, OLD.subject, OLD.requested_by, OLD.payload_sha256, OLD.rule, OLD.rule_version,
      OLD.required, OLD.deny_threshold, OLD.created_at, OLD.expires_at)
     OR NEW.writeback IS DISTINCT FROM OLD.writeback OR NEW.question_sha256 IS DISTINCT FROM OLD.question_sha256
     OR (NEW.state = OLD.state AND NEW.not_before IS DISTINCT FROM OLD.not_before) THEN
    RAISE EXCEPTION 'wall: an approval is immutable except for its state' USING ERRCODE = 'RX001';
  END IF;
  NEW.version := OLD.version + 1;
  IF NEW.state = OLD.state THEN
    IF OLD.state <> 'pending' THEN RAISE EXCEPTION 'wall: the approval is closed' USING ERRCODE = 'RX004'; END IF;
    RETURN NEW;                      -- a vote below quorum only raises the version
  END IF;
  IF NOT ((OLD.state = 'pending' AND NEW.state IN ('approved', 'rejected', 'expired', 'cancelled'))
       OR (OLD.state = 'approved' AND NEW.state IN ('expired', 'cancelled'))) THEN
    RAISE EXCEPTION 'wall: illegal move % -> %', OLD.state, NEW.state USING ERRCODE = 'RX004';
  END IF;
  SELECT * INTO r FROM public.approval_rule x WHERE x.tenant = NEW.tenant AND x.id = NEW.rule AND x.version = NEW.rule_version;
  IF NEW.state IN ('approved', 'rejected') THEN
    SELECT count(*) FILTER (WHERE d.verdict = 'approve' AND entitled(d.tenant, d.approver, r.approver_role)),
           count(*) FILTER (WHERE d.verdict = 'reject')
      INTO n_ok, n_no FROM public.decision d
      WHERE d.tenant = NEW.tenant AND d.approval = NEW.id AND d.payload_sha256 = NEW.payload_sha256;
    IF NEW.state = 'approved' AND (n_ok < NEW.required OR n_no >= NEW.deny_threshold) THEN
      RAISE EXCEPTION 'wall: % of % approvals, % rejections', n_ok, NEW.required, n_no USING ERRCODE = 'RX007';
    END IF;
    IF NEW.state = 'rejected' AND n_no < NEW.deny_threshold THEN
      RAISE EXCEPTION 'wall: % of % rejections', n_no, NEW.deny_threshold USING ERRCODE = 'RX007';
    END IF;
  END IF;
  IF NEW.state = 'approved' THEN
    IF clock_timestamp() >= NEW.expires_at THEN RAISE EXCEPTION 'wall: expired' USING ERRCODE = 'RX008'; END IF;
    NEW.not_before := clock_timestamp() + r.undo_window;
  END IF;
  IF NEW.state = 'expired' AND clock_timestamp() < NEW.expires_at THEN
    RAISE EXCEPTION 'wall: not yet expired' USING ERRCODE = 'RX008';
  END IF;
  NEW.closed_at := clock_timestamp();
  RETURN NEW;
END $$;

-- A live human with a live grant of the role, both locked against being taken away until commit.
CREATE FUNCTION entitled(p_tenant uuid, p_principal uuid, p_role text) RETURNS boolean LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM 1 FROM public.principal p WHERE p.tenant = p_tenant AND p.id = p_principal AND p.kind = 'human'
    AND p.suspended_at IS NULL FOR SHARE;
  IF NOT FOUND THEN RETURN false; END IF;
  PERFORM 1 FROM public.role_grant g WHERE g.tenant = p_tenant AND g.principal = p_principal AND g.role = p_role
    AND g.revoked_at IS NULL AND (g.expires_at IS NULL OR g.expires_at > clock_timestamp()) FOR SHARE;
  RETURN FOUND;
END $$;

-- Decisions: by an entitled human who is neither the requester nor the owner of the requesting agent.
CREATE FUNCTION guard_decision() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE a public.approval; role text;
BEGIN
  PERFORM require_present();
  SELECT * INTO a FROM public.approval x WHERE x.tenant = NEW.tenant AND x.id = NEW.approval FOR UPDATE;
  IF a.state IS DISTINCT FROM 'pending' OR clock_timestamp() >= a.expires_at THEN
    RAISE EXCEPTION 'wall: nothing to decide' USING ERRCODE = 'RX004';
  END IF;
  SELECT r.approver_role INTO role FROM public.approval_rule r
    WHERE r.tenant = a.tenant AND r.id = a.rule AND r.version = a.rule_version;
  IF NOT entitled(NEW.tenant, NEW.approver, role) THEN
    RAISE EXCEPTION 'wall: the approver does not hold role %', role USING ERRCODE = 'RX009';
  END IF;
  IF owns(NEW.tenant, NEW.approver, a.requested_by) THEN
    RAISE EXCEPTION 'wall: nobody approves their own request' USING ERRCODE = 'RX010';
  END IF;
  NEW.decided_at := clock_timestamp();
  RETURN NEW;
END $$;

-- Is p_human the requester, or who answers for it?
CREATE FUNCTION owns(p_tenant uuid, p_human uuid, p_requester uuid) RETURNS boolean LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH RECURSIVE line AS (
    SELECT p.id, p.owner FROM public.principal p WHERE p.tenant = p_tenant AND p.id = p_requester
    UNION
    SELECT p.id, p.owner FROM public.principal p JOIN line ON p.tenant = p_tenant AND p.id = line.owner)
  SELECT EXISTS (SELECT 1 FROM line WHERE line.id = p_human)
$$;

CREATE FUNCTION guard_execution() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE a public.approval; m record; w record;
BEGIN
  PERFORM require_present();
  IF TG_OP = 'INSERT' THEN
    SELECT x.mission, x.connector INTO w FROM public.writeback x WHERE x.tenant = NEW.tenant AND x.id = NEW.writeback;
    SELECT x.state INTO m FROM public.mission x WHERE x.tenant = NEW.tenant AND x.id = w.mission FOR SHARE;
    IF m.state IS NULL OR m.state IN ('completed', 'cancelled', 'failed', 'denied') THEN
      RAISE EXCEPTION 'wall: the mission is %', m.state USING ERRCODE = 'RX011';
    END IF;
    -- before the switches are looked at: order_switch() waits for this lock
    PERFORM 1 FROM public.tenant t WHERE t.id = NEW.tenant AND t.suspended_at IS NULL FOR SHARE;
    IF NOT FOUND THEN RAISE EXCEPTION 'wall: the tenant is suspended' USING ERRCODE = 'RX011'; END IF;
    PERFORM 1 FROM public.connector_switch s WHERE s.tenant = NEW.tenant AND s.connector IN (w.connector, '*')
      AND s.halted_at IS NOT NULL;
    IF FOUND THEN RAISE EXCEPTION 'wall: writebacks are halted' USING ERRCODE = 'RX011'; END IF;
    SELECT * INTO a FROM public.approval x WHERE x.tenant = NEW.tenant AND x.id = NEW.approval FOR SHARE;
    IF a.state IS DISTINCT FROM 'approved' OR clock_timestamp() >= a.expires_at OR clock_timestamp() < a.not_before THEN
      RAISE EXCEPTION 'wall: approval is %, between % and %', a.state, a.not_before, a.expires_at USING ERRCODE = 'RX007';
    END IF;
    -- The key is the writeback's own: were the claim itself lost (a replica that lacked the last moments took over), the
    -- next one would still be the same call to the target.
    NEW.idempotency_key := NEW.writeback;
    NEW.state := 'executing'; NEW.fence := 1; NEW.attempts := 1; NEW.started_at := clock_timestamp();
    NEW.not_after := a.expires_at; NEW.receipt := NULL; NEW.observed := NULL; NEW.settled_at := NULL;
    RETURN NEW;
  END IF;
  IF (NEW.tenant, NEW.writeback, NEW.approval, NEW.payload_sha256, NEW.idempotency_key, NEW.started_at, NEW.not_after)
     IS DISTINCT FROM
     (OLD.tenant, OLD.writeback, OLD.approval, OLD.payload_sha256, OLD.idempotency_key, OLD.started_at, OLD.not_after)
     OR NEW.fence < OLD.fence OR NEW.attempts < OLD.attempts
     OR OLD.state NOT IN ('executing', 'unknown') THEN
    RAISE EXCEPTION 'wall: illegal change of an execution' USING ERRCODE = 'RX004';
  END IF;
  RETURN NEW;
END $$;

-- A halt is a promise: once it is committed no claim follows. Its row may not exist yet, so that the tenant's row is what
-- it and the claims queue on.
CREATE FUNCTION order_switch() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM 1 FROM public.tenant t WHERE t.id = NEW.tenant FOR NO KEY UPDATE;
  RETURN NEW;
END $$;
CREATE TRIGGER connector_switch_order BEFORE INSERT OR UPDATE ON connector_switch FOR EACH ROW EXECUTE FUNCTION order_switch();
ALTER TABLE connector_switch ENABLE ALWAYS TRIGGER connector_switch_order;

CREATE TRIGGER approval_guard BEFORE INSERT OR UPDATE ON approval FOR EACH ROW EXECUTE FUNCTION guard_approval();
CREATE TRIGGER decision_guard BEFORE INSERT ON decision FOR EACH ROW EXECUTE FUNCTION guard_decision();
CREATE TRIGGER execution_guard BEFORE INSERT OR UPDATE ON execution FOR EACH ROW EXECUTE FUNCTION guard_execution();
ALTER TABLE approval ENABLE ALWAYS TRIGGER approval_guard;
ALTER TABLE decision ENABLE ALWAYS TRIGGER decision_guard;
ALTER TABLE execution ENABLE ALWAYS TRIGGER execution_guard;
ALTER TABLE writeback ENABLE ALWAYS TRIGGER writeback_guard;
DO $$
DECLARE t text; moves text;
BEGIN
  FOREACH t IN ARRAY ARRAY['writeback', 'approval', 'decision', 'execution', 'approval_rule', 'connector_switch'] LOOP
    moves := CASE WHEN t IN ('approval', 'execution', 'connector_switch') THEN 'DELETE' ELSE 'UPDATE OR DELETE' END;
    EXECUTE format('CREATE TRIGGER %I BEFORE %s ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', t || '_keep', moves, t);
    EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', t || '_whole', t);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_keep');
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_whole');
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format($p$CREATE POLICY own_tenant ON %I
      USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid)$p$, t);
    EXECUTE format('GRANT SELECT ON %I TO {prefix}_api, {prefix}_worker, {prefix}_auditor', t);
  END LOOP;
END $$;
ALTER TABLE tenant ENABLE ALWAYS TRIGGER tenant_rules;

-- One place that says what state a writeback is in.
CREATE VIEW writeback_state WITH (security_invoker = true) AS
  SELECT w.tenant, w.id, w.mission, a.id AS approval,
    CASE WHEN e.state IS NOT NULL THEN e.state
         WHEN a.state = 'pending' THEN 'awaiting_approval'
         ELSE a.state END AS state,          -- approved, rejected, expired, cancelled
    a.not_before, a.expires_at, e.settled_at, e.attempts
  FROM writeback w
  JOIN approval a ON a.tenant = w.tenant AND a.writeback = w.id
  LEFT JOIN execution e ON e.tenant = w.tenant AND e.writeback = w.id;
GRANT SELECT ON writeback_state TO {prefix}_api, {prefix}_worker, {prefix}_auditor;

-- ------------------------------------------------------------------ the doors
-- A fact about a mission, from inside the wall.
CREATE FUNCTION wall_fact(p_tenant uuid, p_mission uuid, p_type text, p_actor text, p_body jsonb) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public, pg_temp AS $$
  INSERT INTO public.ledger (tenant, subject, type, actor, body)
  VALUES (p_tenant, p_mission, p_type, p_actor, convert_to(p_body::text, 'UTF8'))
$$;

-- Who presents this secret, live, in this tenant? The key is locked against being revoked until commit.
CREATE FUNCTION principal_of(p_tenant uuid, p_secret text) RETURNS uuid LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE digest bytea := sha256(convert_to(p_secret, 'UTF8'));
BEGIN
  PERFORM 1 FROM public.api_key k WHERE k.tenant = p_tenant AND k.secret_sha256 = digest FOR SHARE;
  RETURN (SELECT a.principal FROM public.authenticate(digest) a WHERE a.tenant = p_tenant);
END $$;

-- A human's decision. The presented secret says who; p_sha256 and p_version say what was seen.
-- outcome: recorded (a vote below quorum) · approved · rejected · or why not: not_found, unauthenticated, not_pending,
-- expired, stale, other_payload, not_entitled, own_request, already_decided, mission_closed, halted, no_comment.
CREATE FUNCTION decide(p_tenant uuid, p_approval uuid, p_secret text, p_version int, p_sha256 bytea, p_verdict text,
                       p_comment text)
RETURNS TABLE (outcome text, state text, version int, approver uuid, not_before timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE a public.approval; r public.approval_rule; m record; who uuid; n_ok int; n_no int; say text; next_state text;
BEGIN
  PERFORM require_tenant(p_tenant);
  SELECT x.state INTO m FROM public.mission x
    WHERE x.tenant = p_tenant AND x.id = (SELECT y.mission FROM public.approval y WHERE y.tenant = p_tenant AND y.id = p_approval)
    FOR SHARE;
  SELECT * INTO a FROM public.approval x WHERE x.tenant = p_tenant AND x.id = p_approval FOR UPDATE;
  who := principal_of(p_tenant, p_secret);     -- after the waiting: a key revoked meanwhile decides nothing
  IF a.id IS NULL THEN RETURN QUERY SELECT 'not_found', NULL::text, NULL::int, who, NULL::timestamptz; RETURN; END IF;
  SELECT * INTO r FROM public.approval_rule x WHERE x.tenant = a.tenant AND x.id = a.rule AND x.version = a.rule_version;
  say := CASE
    WHEN who IS NULL THEN 'unauthenticated'
    WHEN EXISTS (SELECT 1 FROM public.decision d WHERE d.tenant = p_tenant AND d.approval = p_approval AND d.approver = who)
      THEN 'already_decided'
    WHEN a.state <> 'pending' THEN 'not_pending'
    WHEN clock_timestamp() >= a.expires_at THEN 'expired'
    WHEN owns(p_tenant, who, a.requested_by) THEN 'own_request'
    WHEN NOT entitled(p_tenant, who, r.approver_role) THEN 'not_entitled'
    WHEN a.payload_sha256 IS DISTINCT FROM p_sha256 THEN 'other_payload'
    WHEN a.version IS DISTINCT FROM p_version THEN 'stale'
    WHEN m.state IN ('completed', 'cancelled', 'failed', 'denied') THEN 'mission_closed'
    WHEN p_verdict = 'reject' AND COALESCE(p_comment, '') !~ '[^[:space:]]' THEN 'no_comment'
    WHEN p_verdict = 'approve' AND a.writeback IS NOT NULL AND EXISTS (
      SELECT 1 FROM public.connector_switch s JOIN public.writeback w ON w.tenant = s.tenant AND w.id = a.writeback
      WHERE s.tenant = p_tenant AND s.connector IN (w.connector, '*') AND s.halted_at IS NOT NULL) THEN 'halted'
    END;
  IF say IS NOT NULL THEN RETURN QUERY SELECT say, a.state, a.version, who, a.not_before; RETURN; END IF;
  BEGIN
    INSERT INTO public.decision (tenant, approval, approver, requested_by, payload_sha256, verdict, comment)
      VALUES (p_tenant, p_approval, who, a.requested_by, p_sha256, p_verdict, NULLIF(btrim(p_comment), ''));
    SELECT count(*) FILTER (WHERE d.verdict = 'approve' AND entitled(d.tenant, d.approver, r.approver_role)),
           count(*) FILTER (WHERE d.verdict = 'reject') INTO n_ok, n_no
      FROM public.decision d WHERE d.tenant = p_tenant AND d.approval = p_approval;
    next_state := CASE WHEN n_no >= a.deny_threshold THEN 'rejected' WHEN n_ok >= a.required THEN 'approved' ELSE 'pending' END;
    UPDATE public.approval x SET state = next_state WHERE x.tenant = p_tenant AND x.id = p_approval RETURNING * INTO a;
  EXCEPTION WHEN SQLSTATE 'RX004' OR SQLSTATE 'RX008' THEN     -- its time ran out between our look and the guards'
    RETURN QUERY SELECT 'expired', a.state, a.version, who, a.not_before; RETURN;
  END;
  PERFORM wall_fact(p_tenant, a.mission, 'approval.decided', 'principal:' || who, jsonb_build_object(
    'approval', a.id, 'subject', a.subject, 'writeback', a.writeback, 'verdict', p_verdict,
    'payload_sha256', encode(a.payload_sha256, 'hex'), 'state', a.state, 'approvals', n_ok, 'required', a.required,
    'rule', a.rule, 'rule_version', a.rule_version, 'not_before', a.not_before));
  RETURN QUERY SELECT CASE next_state WHEN 'pending' THEN 'recorded' ELSE next_state END, a.state, a.version, who, a.not_before;
END $$;

-- Closes an approval without a decision: 'cancelled' (also after approval, while nothing was claimed) or 'expired'.
-- Answers the state it is in afterwards; null when there is no such approval.
CREATE FUNCTION close_approval(p_tenant uuid, p_approval uuid, p_state text, p_actor text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE a public.approval;
BEGIN
  PERFORM require_tenant(p_tenant);
  IF p_state NOT IN ('cancelled', 'expired') THEN RAISE EXCEPTION 'wall: % does not close', p_state USING ERRCODE = 'RX004'; END IF;
  -- mission, approval, ledger: the order in which everybody locks, or two of them would wait for each other
  PERFORM 1 FROM public.mission x
    WHERE x.tenant = p_tenant AND x.id = (SELECT y.mission FROM public.approval y WHERE y.tenant = p_tenant AND y.id = p_approval)
    FOR SHARE;
  SELECT * INTO a FROM public.approval x WHERE x.tenant = p_tenant AND x.id = p_approval FOR UPDATE;
  IF a.id IS NULL THEN RETURN NULL; END IF;
  IF a.state NOT IN ('pending', 'approved') OR (p_state = 'expired' AND clock_timestamp() < a.expires_at)
     OR EXISTS (SELECT 1 FROM public.execution e WHERE e.tenant = p_tenant AND e.writeback = a.writeback) THEN
    RETURN a.state;
  END IF;
  -- An approved mission question has done its work; only an approved, unclaimed writeback can still be closed.
  IF a.state = 'approved' AND a.writeback IS NULL THEN RETURN a.state; END IF;
  UPDATE public.approval x SET state = p_state WHERE x.tenant = p_tenant AND x.id = p_approval;
  PERFORM wall_fact(p_tenant, a.mission, 'approval.closed', p_actor, jsonb_build_object(
    'approval', a.id, 'subject', a.subject, 'writeback', a.writeback, 'state', p_state, 'was', a.state));
  RETURN p_state;
END $$;

-- The executor's first step, committed before the target is called.
-- outcome: apply (a fresh permission) · reconcile (an earlier attempt is unsettled: ask the target first, and when `why`
-- names a brake, do no more than ask) · too_early · busy (another holder's lease runs) · settled · refused (see why).
CREATE FUNCTION claim(p_tenant uuid, p_writeback uuid, p_lease interval)
RETURNS TABLE (outcome text, why text, payload bytea, payload_sha256 bytea, idempotency_key uuid, fence bigint,
               not_before timestamptz, not_after timestamptz, attempts int, mission uuid)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE w public.writeback; a public.approval; e public.execution; m record; stop text; brake text; until timestamptz;
BEGIN
  PERFORM require_tenant(p_tenant);
  SELECT * INTO w FROM public.writeback x WHERE x.tenant = p_tenant AND x.id = p_writeback;
  IF w.id IS NULL THEN
    RETURN QUERY SELECT 'refused', 'not_found', NULL::bytea, NULL::bytea, NULL::uuid, NULL::bigint, NULL::timestamptz, NULL::timestamptz, NULL::int, NULL::uuid;
    RETURN;
  END IF;
  SELECT x.state INTO m FROM public.mission x WHERE x.tenant = p_tenant AND x.id = w.mission FOR SHARE;
  SELECT * INTO a FROM public.approval x WHERE x.tenant = p_tenant AND x.writeback = p_writeback FOR SHARE;
  SELECT * INTO e FROM public.execution x WHERE x.tenant = p_tenant AND x.writeback = p_writeback FOR UPDATE;
  -- however long a lease the executor wants: nobody may keep an execution from the others for good
  until := clock_timestamp() + LEAST(p_lease, interval '15 minutes');
  brake := CASE
    WHEN EXISTS (SELECT 1 FROM public.tenant t WHERE t.id = p_tenant AND t.suspended_at IS NOT NULL) THEN 'tenant_suspended'
    WHEN EXISTS (SELECT 1 FROM public.connector_switch s WHERE s.tenant = p_tenant AND s.connector IN (w.connector, '*')
                 AND s.halted_at IS NOT NULL) THEN 'halted'
    END;
  IF e.writeback IS NOT NULL THEN
    IF e.state NOT IN ('executing', 'unknown') THEN
      RETURN QUERY SELECT 'settled', e.state, NULL::bytea, NULL::bytea, NULL::uuid, e.fence, NULL::timestamptz, NULL::timestamptz, e.attempts, w.mission;
    ELSIF e.lease_until > clock_timestamp() THEN
      RETURN QUERY SELECT 'busy', e.state, NULL::bytea, NULL::bytea, NULL::uuid, e.fence, e.lease_until, NULL::timestamptz, e.attempts, w.mission;
    ELSE
      UPDATE public.execution x SET fence = x.fence + 1, attempts = x.attempts + 1, lease_until = until
        WHERE x.tenant = p_tenant AND x.writeback = p_writeback RETURNING * INTO e;
      RETURN QUERY SELECT 'reconcile', brake, w.payload, w.payload_sha256, e.idempotency_key, e.fence, a.not_before, e.not_after, e.attempts, w.mission;
    END IF;
    RETURN;
  END IF;
  stop := CASE
    WHEN a.state IS DISTINCT FROM 'approved' THEN COALESCE(a.state, 'not_approved')
    WHEN clock_timestamp() >= a.expires_at THEN 'expired'
    WHEN m.state IN ('completed', 'cancelled', 'failed', 'denied') THEN 'mission_' || m.state
    ELSE brake
    END;
  IF stop IS NOT NULL THEN
    RETURN QUERY SELECT 'refused', stop, NULL::bytea, NULL::bytea, NULL::uuid, NULL::bigint, NULL::timestamptz, NULL::timestamptz, NULL::int, w.mission;
    RETURN;
  END IF;
  IF clock_timestamp() < a.not_before THEN
    RETURN QUERY SELECT 'too_early', 'undo_window', NULL::bytea, NULL::bytea, NULL::uuid, NULL::bigint, a.not_before, NULL::timestamptz, NULL::int, w.mission;
    RETURN;
  END IF;
  -- What is called next must not outlive its permission in a crash, whatever the session or the server prefers.
  IF current_setting('synchronous_commit') = 'off' THEN PERFORM set_config('synchronous_commit', 'on', true); END IF;
  INSERT INTO public.execution (tenant, writeback, approval, payload_sha256, lease_until, not_after)
    VALUES (p_tenant, p_writeback, a.id, w.payload_sha256, until, a.expires_at)
    ON CONFLICT (tenant, writeback) DO NOTHING RETURNING * INTO e;
  IF e.writeback IS NULL THEN                  -- another holder was a moment faster
    RETURN QUERY SELECT 'busy', 'executing', NULL::bytea, NULL::bytea, NULL::uuid, NULL::bigint, until, NULL::timestamptz, NULL::int, w.mission;
    RETURN;
  END IF;
  PERFORM wall_fact(p_tenant, w.mission, 'writeback.claimed', 'system:executor', jsonb_build_object(
    'writeback', w.id, 'approval', a.id, 'payload_sha256', encode(w.payload_sha256, 'hex'), 'idempotency_key', e.idempotency_key));
  PERFORM tell_mission(p_tenant, w.mission);
  RETURN QUERY SELECT 'apply', NULL::text, w.payload, w.payload_sha256, e.idempotency_key, e.fence, a.not_before, e.not_after, e.attempts, w.mission;
END $$;

-- Leaves the worker a note that a mission's writebacks moved.
CREATE FUNCTION tell_mission(p_tenant uuid, p_mission uuid) RETURNS void LANGUAGE sql VOLATILE
SET search_path = pg_catalog, public, pg_temp AS $$
  INSERT INTO public.work (tenant, kind, subject, queue) VALUES (p_tenant, 'progress', p_mission, 'worker')
  ON CONFLICT (tenant, kind, subject) DO UPDATE SET wanted = work.wanted + 1, next_at = LEAST(work.next_at, clock_timestamp())
$$;

-- The executor's last step. 'executing' means: proved not applied, may be tried again; 'unknown': nobody can tell yet.
-- Answers false when the fence is no longer the holder's, or the execution is already settled: nothing changed then.
CREATE FUNCTION settle(p_tenant uuid, p_writeback uuid, p_fence bigint, p_state text, p_receipt bytea, p_observed bytea)
RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE e public.execution; was text;
BEGIN
  PERFORM require_tenant(p_tenant);
  IF p_state NOT IN ('succeeded', 'failed', 'stale', 'unknown', 'executing') THEN
    RAISE EXCEPTION 'wall: % is no outcome', p_state USING ERRCODE = 'RX004';
  END IF;
  SELECT * INTO e FROM public.execution x WHERE x.tenant = p_tenant AND x.writeback = p_writeback FOR UPDATE;
  IF e.writeback IS NULL OR e.fence IS DISTINCT FROM p_fence OR e.state NOT IN ('executing', 'unknown') THEN RETURN false; END IF;
  was := e.state;
  UPDATE public.execution x SET
      state = p_state, lease_until = clock_timestamp(),
      receipt = COALESCE(p_receipt, x.receipt), observed = COALESCE(p_observed, x.observed),
      settled_at = CASE WHEN p_state IN ('succeeded', 'failed', 'stale') THEN clock_timestamp() END
    WHERE x.tenant = p_tenant AND x.writeback = p_writeback RETURNING * INTO e;
  IF p_state = 'executing' OR p_state = was THEN
    PERFORM wall_fact(p_tenant, (SELECT w.mission FROM public.writeback w WHERE w.tenant = p_tenant AND w.id = p_writeback),
      'writeback.attempted', 'system:executor', jsonb_build_object('writeback', p_writeback, 'state', p_state, 'attempts', e.attempts));
  ELSE
    PERFORM wall_fact(p_tenant, (SELECT w.mission FROM public.writeback w WHERE w.tenant = p_tenant AND w.id = p_writeback),
      'writeback.settled', 'system:executor', jsonb_build_object(
        'writeback', p_writeback, 'state', p_state, 'attempts', e.attempts,
        'payload_sha256', encode(e.payload_sha256, 'hex'), 'observed_sha256', encode(e.observed_sha256, 'hex')));
    PERFORM tell_mission(p_tenant, (SELECT w.mission FROM public.writeback w WHERE w.tenant = p_tenant AND w.id = p_writeback));
  END IF;
  RETURN true;
END $$;

REVOKE ALL ON FUNCTION choose_rule(uuid, text, text, text, text), first_rules(), guard_writeback(), guard_approval(),
  require_present(), order_switch(),
  entitled(uuid, uuid, text), guard_decision(), owns(uuid, uuid, uuid), guard_execution(),
  wall_fact(uuid, uuid, text, text, jsonb), principal_of(uuid, text), tell_mission(uuid, uuid),
  decide(uuid, uuid, text, int, bytea, text, text), close_approval(uuid, uuid, text, text),
  claim(uuid, uuid, interval), settle(uuid, uuid, bigint, text, bytea, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION decide(uuid, uuid, text, int, bytea, text, text) TO {prefix}_api;
GRANT EXECUTE ON FUNCTION close_approval(uuid, uuid, text, text) TO {prefix}_api, {prefix}_worker;
GRANT EXECUTE ON FUNCTION claim(uuid, uuid, interval), settle(uuid, uuid, bigint, text, bytea, bytea) TO {prefix}_executor;
GRANT EXECUTE ON FUNCTION choose_rule(uuid, text, text, text, text), require_present() TO {prefix}_api, {prefix}_worker;
GRANT INSERT (tenant, id, mission, requested_by, risk, payload, proposal) ON writeback TO {prefix}_api, {prefix}_worker;
GRANT INSERT (tenant, id, mission, subject, writeback, question_sha256, requested_by, payload_sha256) ON approval TO {prefix}_api, {prefix}_worker;
GRANT INSERT ON approval_rule, connector_switch TO {prefix}_registrar;
GRANT SELECT ON approval_rule, connector_switch TO {prefix}_registrar;
GRANT UPDATE (halted_at) ON connector_switch TO {prefix}_registrar;
