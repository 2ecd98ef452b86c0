-- The writeback wall: a row in execution IS the permission to call an outside system, and one path creates it.

CREATE TABLE connector_switch (      -- one row per connector that was ever switched; halted stops decisions and claims
  tenant uuid NOT NULL REFERENCES tenant,
  connector text NOT NULL,
  halted_at timestamptz,
  reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 2000),
  changed_by uuid NOT NULL,
  changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, connector),
  FOREIGN KEY (tenant, changed_by) REFERENCES principal (tenant, id)
);

-- Is this a ladder? Steps in order, each within the life of what it is for; an escalation names a role that is allowed.
CREATE FUNCTION is_ladder(p_hops jsonb, p_life interval, p_roles text[]) RETURNS boolean LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE hop jsonb; reached numeric := 0;
BEGIN
  IF jsonb_typeof(p_hops) IS DISTINCT FROM 'array' OR jsonb_array_length(p_hops) > 10 THEN RETURN false; END IF;
  FOR hop IN SELECT jsonb_array_elements(p_hops) LOOP
    IF jsonb_typeof(hop) <> 'object' OR jsonb_typeof(hop -> 'after_s') IS DISTINCT FROM 'number' THEN RETURN false; END IF;
    IF (hop ->> 'after_s')::numeric <= reached OR (hop ->> 'after_s')::numeric >= extract(epoch FROM p_life) THEN RETURN false; END IF;
    reached := (hop ->> 'after_s')::numeric;
    IF NOT COALESCE(CASE hop ->> 'kind'
      WHEN 'remind' THEN hop - 'after_s' - 'kind' = '{}'
      WHEN 'escalate' THEN hop ->> 'role' = ANY (p_roles) AND hop - 'after_s' - 'kind' - 'role' = '{}' END, false) THEN RETURN false; END IF;
  END LOOP;
  RETURN true;
END $$;

CREATE TABLE approval_rule (         -- who must approve what; versioned, and never chosen by the asker
  tenant uuid NOT NULL REFERENCES tenant,
  id uuid NOT NULL,
  version int NOT NULL CHECK (version >= 1),
  subject text NOT NULL CHECK (subject IN ('writeback', 'mission')),
  connector text NOT NULL DEFAULT '*' CHECK (length(connector) BETWEEN 1 AND 100),
  operation text NOT NULL DEFAULT '*' CHECK (length(operation) BETWEEN 1 AND 100),
  risk text NOT NULL CHECK (risk IN ('*', 'low', 'medium', 'high')),
  required int NOT NULL CHECK (required BETWEEN 1 AND 5),
  deny_threshold int NOT NULL DEFAULT 1 CHECK (deny_threshold BETWEEN 1 AND 5),
  approver_role text NOT NULL DEFAULT 'operator'
    CHECK (approver_role IN ('operator', 'policy_owner', 'release_owner', 'product_owner', 'admin', 'break_glass')),
  life interval NOT NULL CHECK (life BETWEEN interval '1 second' AND interval '30 days'),
  undo_window interval NOT NULL CHECK (undo_window BETWEEN interval '0' AND interval '1 hour'),
  comment_required boolean NOT NULL DEFAULT false,           -- a reason for approving too
  may_escalate_to text[] NOT NULL DEFAULT '{}'
    CHECK (may_escalate_to <@ ARRAY['operator', 'policy_owner', 'release_owner', 'product_owner', 'admin']),
  hops jsonb NOT NULL DEFAULT '[]',                          -- the ladder: [{after_s, kind: remind|escalate, role}]
  break_glass boolean NOT NULL DEFAULT false,                -- never chosen but by break_glass()
  signature_required boolean NOT NULL DEFAULT false CHECK (NOT signature_required OR subject = 'writeback'),
  created_by uuid,                                           -- the policy owner; null for what a tenant is born with
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, id, version),
  UNIQUE (tenant, id, version, required, deny_threshold),
  FOREIGN KEY (tenant, created_by) REFERENCES principal (tenant, id),
  CONSTRAINT approval_rule_ladder CHECK (is_ladder(hops, life, may_escalate_to)),
  CONSTRAINT approval_rule_glass_role CHECK (break_glass = (approver_role = 'break_glass')),
  -- what is done in a hurry is done by two, within minutes, and says why
  CONSTRAINT approval_rule_glass CHECK (NOT break_glass OR (required >= 2 AND deny_threshold = 1 AND life <= interval '15 minutes'
    AND undo_window = interval '0' AND comment_required AND hops = '[]'))
);

-- A rule has one history: its versions follow each other, and none makes another kind of rule of it.
CREATE FUNCTION guard_rule() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE was record;
BEGIN
  SELECT r.version, r.subject, r.break_glass, r.signature_required, r.connector, r.operation, r.risk INTO was FROM public.approval_rule r
    WHERE r.tenant = NEW.tenant AND r.id = NEW.id ORDER BY r.version DESC LIMIT 1;
  IF NEW.version <> COALESCE(was.version, 0) + 1
     OR (was.version IS NOT NULL AND (NEW.subject, NEW.break_glass) IS DISTINCT FROM (was.subject, was.break_glass)) THEN
    RAISE EXCEPTION 'wall: not the next version of this rule' USING ERRCODE = 'RX004';
  END IF;
  -- A serving process holds secrets of policy owners: taken over, it could take back what was to hold it off.
  IF was.signature_required AND session_user <> '{prefix}_registrar' AND NOT (NEW.signature_required
       AND NEW.connector IN ('*', was.connector) AND NEW.operation IN ('*', was.operation) AND NEW.risk IN ('*', was.risk)) THEN
    RAISE EXCEPTION 'wall: signatures are waived over the registrar''s login only'
      USING ERRCODE = 'check_violation', CONSTRAINT = 'approval_rule_signature_kept';
  END IF;
  NEW.created_at := clock_timestamp();
  RETURN NEW;
END $$;
CREATE TRIGGER approval_rule_guard BEFORE INSERT ON approval_rule FOR EACH ROW EXECUTE FUNCTION guard_rule();
ALTER TABLE approval_rule ENABLE ALWAYS TRIGGER approval_rule_guard;

-- The rules that fit, best first: exact connector before '*', exact operation before '*', exact risk before '*', newest
-- version only; of two that fit alike the stricter one.
CREATE FUNCTION fitting_rules(p_tenant uuid, p_subject text, p_connector text, p_operation text, p_risk text)
RETURNS SETOF approval_rule LANGUAGE sql STABLE SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT r.* FROM public.approval_rule r
  WHERE r.tenant = p_tenant AND r.subject = p_subject AND NOT r.break_glass AND r.connector IN ('*', p_connector)
    AND r.operation IN ('*', p_operation) AND r.risk IN ('*', p_risk)
    AND NOT EXISTS (SELECT 1 FROM public.approval_rule n WHERE n.tenant = r.tenant AND n.id = r.id AND n.version > r.version)
  ORDER BY (r.connector <> '*')::int DESC, (r.operation <> '*')::int DESC, (r.risk <> '*')::int DESC,
    r.required DESC, r.deny_threshold, r.life, r.id
$$;
CREATE FUNCTION choose_rule(p_tenant uuid, p_subject text, p_connector text, p_operation text, p_risk text)
RETURNS approval_rule LANGUAGE sql STABLE SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT f FROM public.fitting_rules(p_tenant, p_subject, p_connector, p_operation, p_risk) f LIMIT 1
$$;
-- The rule of a broken glass: the strictest there is.
CREATE FUNCTION glass_rule(p_tenant uuid, p_subject text) RETURNS approval_rule LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT r FROM public.approval_rule r
  WHERE r.tenant = p_tenant AND r.subject = p_subject AND r.break_glass
    AND NOT EXISTS (SELECT 1 FROM public.approval_rule n WHERE n.tenant = r.tenant AND n.id = r.id AND n.version > r.version)
  ORDER BY r.required DESC, r.life, r.id LIMIT 1
$$;

-- Every tenant is born with rules; the undo windows are the product's: 10 s at low risk, 30 s above. After a third of an
-- approval's life whoever may decide is reminded, after two thirds the admins are asked too, at its end it fails closed.
CREATE FUNCTION first_rules() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF NEW.drills THEN     -- nobody waits there: an update is decided at once, and what is created is left to expire
    INSERT INTO public.approval_rule (tenant, id, version, subject, operation, risk, required, life, undo_window)
      SELECT NEW.id, gen_random_uuid(), 1, b.subject, b.operation, '*', 1, b.life, '0'
      FROM (VALUES ('writeback', '*', interval '10 minutes'), ('writeback', 'create', '2 seconds'), ('mission', '*', '10 minutes'))
        b (subject, operation, life);
    RETURN NEW;
  END IF;
  INSERT INTO public.approval_rule (tenant, id, version, subject, risk, required, life, undo_window, may_escalate_to, hops)
    SELECT NEW.id, gen_random_uuid(), 1, b.subject, b.risk, b.required, b.life, b.undo_window, ARRAY['admin'], jsonb_build_array(
      jsonb_build_object('after_s', (extract(epoch FROM b.life) / 3)::int, 'kind', 'remind'),
      jsonb_build_object('after_s', (extract(epoch FROM b.life) * 2 / 3)::int, 'kind', 'escalate', 'role', 'admin'))
    FROM (VALUES
      ('writeback', 'low', 1, interval '72 hours', interval '10 seconds'),
      ('writeback', 'medium', 1, '72 hours', '30 seconds'),
      ('writeback', 'high', 2, '24 hours', '30 seconds'),
      ('mission', '*', 1, '72 hours', '0')) b (subject, risk, required, life, undo_window);
  INSERT INTO public.approval_rule (tenant, id, version, subject, risk, required, life, undo_window, approver_role, comment_required,
                                    break_glass)
    SELECT NEW.id, gen_random_uuid(), 1, b.subject, '*', 2, '15 minutes', '0', 'break_glass', true, true
    FROM (VALUES ('writeback'), ('mission')) b (subject);
  RETURN NEW;
END $$;
CREATE TRIGGER tenant_rules AFTER INSERT ON tenant FOR EACH ROW EXECUTE FUNCTION first_rules();

CREATE TABLE writeback (
  tenant uuid NOT NULL,
  id uuid NOT NULL,
  mission uuid NOT NULL,
  requested_by uuid NOT NULL,
  connector text NOT NULL,
  connector_version int NOT NULL,    -- the definition it was proposed for
  operation text NOT NULL,
  target text NOT NULL,
  risk text NOT NULL CHECK (risk IN ('low', 'medium', 'high')),
  payload bytea NOT NULL CHECK (octet_length(payload) BETWEEN 2 AND 262144),
  payload_sha256 bytea NOT NULL GENERATED ALWAYS AS (sha256(payload)) STORED,
  proposal uuid NOT NULL,            -- the writeback_proposal artifact: rationale and evidence
  revision int NOT NULL DEFAULT 1 CHECK (revision >= 1),     -- above 1: a person changed or renewed the revision before
  edited_by uuid,                    -- who changed it; counts as a requester too
  predecessor uuid,                  -- the dead writeback this one asks again for
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, id),
  UNIQUE (tenant, id, payload_sha256, requested_by),
  UNIQUE (tenant, id, mission),
  UNIQUE (tenant, proposal, revision),  -- a proposal becomes a writeback once, however often a crash repeats the step
  FOREIGN KEY (tenant, mission, requested_by) REFERENCES mission (tenant, id, requested_by),
  FOREIGN KEY (tenant, proposal) REFERENCES artifact (tenant, id),
  FOREIGN KEY (tenant, predecessor) REFERENCES writeback (tenant, id),
  FOREIGN KEY (tenant, edited_by) REFERENCES principal (tenant, id),
  FOREIGN KEY (tenant, connector, connector_version) REFERENCES connector (tenant, name, version),
  CHECK (edited_by IS NULL OR revision > 1),
  CHECK (revision = 1 OR predecessor IS NOT NULL)
);
CREATE INDEX writeback_of_mission ON writeback (tenant, mission, created_at, id);
CREATE INDEX writeback_newest ON writeback (tenant, created_at DESC, id DESC);
CREATE INDEX writeback_of_target ON writeback (tenant, connector, target, created_at);
CREATE INDEX writeback_of_payload ON writeback (tenant, payload_sha256);
CREATE INDEX writeback_of_record ON writeback (tenant, (substr(target, strpos(target, '/') + 1)), created_at);  -- by the record's own id

-- Connector, operation and target are read out of the payload, so that rules and screens speak of the bytes themselves;
-- a writeback whose like is dead names it as predecessor.
CREATE FUNCTION guard_writeback() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE body jsonb; old jsonb; gone boolean;
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
  -- What is played from a tape changes nothing outside: it never comes as far as asking.
  PERFORM 1 FROM public.mission m WHERE m.tenant = NEW.tenant AND m.id = NEW.mission AND m.replay_mode <> 'rerun';
  IF FOUND THEN RAISE EXCEPTION 'wall: a replay from a tape writes nothing' USING ERRCODE = 'RX023'; END IF;
  -- What the approver reads beside the payload is what this mission's colony said, not another's.
  PERFORM 1 FROM public.artifact p WHERE p.tenant = NEW.tenant AND p.id = NEW.proposal AND p.mission = NEW.mission
    AND p.schema_name = 'writeback_proposal';
  IF NOT FOUND THEN RAISE EXCEPTION 'wall: the proposal is not one of this mission' USING ERRCODE = 'RX005'; END IF;
  SELECT c.version, c.retired INTO NEW.connector_version, gone FROM public.connector c
    WHERE c.tenant = NEW.tenant AND c.name = NEW.connector ORDER BY c.version DESC LIMIT 1;
  IF NEW.connector_version IS NULL OR gone THEN
    RAISE EXCEPTION 'wall: the tenant has no such connector' USING ERRCODE = 'RX005';
  END IF;
  -- A writeback is never of less risk than the mission that asks for it, nor than its kind is set to be.
  NEW.risk := raised_risk(NEW.tenant, NEW.mission, NEW.connector, NEW.operation, NEW.risk);
  IF NEW.revision > 1 THEN
    -- The next revision of a dead one: another person's changes to the same record, or the same changes to its newer version.
    SELECT convert_from(w.payload, 'UTF8')::jsonb INTO old FROM public.writeback w
      JOIN public.approval a ON a.tenant = w.tenant AND a.writeback = w.id
      LEFT JOIN public.execution e ON e.tenant = w.tenant AND e.writeback = w.id
      WHERE w.tenant = NEW.tenant AND w.id = NEW.predecessor AND w.proposal = NEW.proposal AND w.mission = NEW.mission
        AND w.revision = NEW.revision - 1 AND (a.state = 'cancelled' OR e.state = 'stale');
    IF old IS NULL OR body - 'changes' - 'expected_version' <> old - 'changes' - 'expected_version'
       OR (NEW.edited_by IS NULL AND body -> 'changes' <> old -> 'changes') THEN
      RAISE EXCEPTION 'wall: not a revision of a dead writeback' USING ERRCODE = 'RX005';
    END IF;
    RETURN NEW;
  END IF;
  SELECT w.id INTO NEW.predecessor FROM public.writeback w
    JOIN public.approval a ON a.tenant = w.tenant AND a.writeback = w.id
    LEFT JOIN public.execution e ON e.tenant = w.tenant AND e.writeback = w.id
    WHERE w.tenant = NEW.tenant AND w.connector = NEW.connector AND w.target = NEW.target AND w.operation = NEW.operation
      AND (a.state IN ('rejected', 'expired', 'cancelled') OR e.state IN ('stale', 'failed'))
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
  rule_required int NOT NULL,
  required int NOT NULL CHECK (required <= 9),
  deny_threshold int NOT NULL,
  obligations jsonb NOT NULL DEFAULT '{}',                   -- what policy wants besides: approvals, approver_role, expires_s, escalate_to
  must_hold text,                    -- a role that every approver needs besides one of may_decide
  may_decide text[] NOT NULL,        -- roles: the rule's, and those it was escalated to
  ladder jsonb NOT NULL,             -- what happens at what time: [{at, kind, role}], of climbed steps what happened; the step after the
                                     -- last is expiry
  climbed timestamptz[] NOT NULL DEFAULT '{}',               -- when its steps were done
  glass_broken_at timestamptz,
  glass_broken_by uuid,              -- who moved it under the break-glass rule
  handed jsonb NOT NULL DEFAULT '[]',                        -- how people handed it to further roles: [{by, to, instead, reason, at}]
  was_rule uuid,                     -- the rule it was born under then
  was_rule_version int,
  note text CHECK (length(note) <= 2000),                    -- a person's words on why it was withdrawn or replaced
  stopped text,                      -- why no person ended it: what it was approved for is no longer there
  withdrawn_by uuid,                 -- who took it back; nobody, where it was replaced or what it belongs to ended
  signature_required boolean NOT NULL,                       -- approvals count at the executor only when signed; never lowered
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
  CONSTRAINT approval_under_rule FOREIGN KEY (tenant, rule, rule_version, rule_required, deny_threshold)
    REFERENCES approval_rule (tenant, id, version, required, deny_threshold),
  FOREIGN KEY (tenant, glass_broken_by) REFERENCES principal (tenant, id),
  FOREIGN KEY (tenant, withdrawn_by) REFERENCES principal (tenant, id),
  FOREIGN KEY (tenant, was_rule, was_rule_version) REFERENCES approval_rule (tenant, id, version),
  CONSTRAINT approval_tightened CHECK (required >= rule_required),   -- policy may want more than the rule, never less
  CONSTRAINT approval_glass CHECK ((glass_broken_by IS NULL) = (glass_broken_at IS NULL)
    AND (glass_broken_by IS NULL) = (was_rule IS NULL) AND (was_rule IS NULL) = (was_rule_version IS NULL)),
  CONSTRAINT approval_handed CHECK (CASE jsonb_typeof(handed) WHEN 'array' THEN jsonb_array_length(handed) <= 50 ELSE false END),
  CONSTRAINT approval_stopped CHECK (stopped IS NULL OR (state = 'cancelled' AND stopped IN ('connector_retired', 'connector_changed'))),
  CONSTRAINT approval_withdrawn CHECK (withdrawn_by IS NULL OR state = 'cancelled'),
  CHECK ((subject = 'writeback') = (writeback IS NOT NULL)),
  CHECK ((subject = 'mission') = (question_sha256 IS NOT NULL)),
  CHECK (question_sha256 IS NULL OR question_sha256 = payload_sha256)
);
CREATE UNIQUE INDEX approval_per_writeback ON approval (tenant, writeback) WHERE writeback IS NOT NULL;
CREATE UNIQUE INDEX approval_per_question ON approval (tenant, mission, question_sha256) WHERE question_sha256 IS NOT NULL;
CREATE INDEX approval_inbox ON approval (tenant, expires_at, id) WHERE state = 'pending';
CREATE INDEX approval_of_mission ON approval (tenant, mission, created_at, id);
CREATE INDEX approval_newest ON approval (tenant, created_at DESC, id DESC);
CREATE INDEX approval_in_state ON approval (tenant, state, created_at DESC, id DESC);

CREATE TABLE decision (
  tenant uuid NOT NULL,
  approval uuid NOT NULL,
  approver uuid NOT NULL,
  requested_by uuid NOT NULL,
  payload_sha256 bytea NOT NULL,     -- what the approver saw, from the request, not from the row
  verdict text NOT NULL CHECK (verdict IN ('approve', 'reject')),
  comment text CHECK (length(comment) <= 2000),
  open_questions int NOT NULL DEFAULT 0,                      -- how many questions about it nobody had answered by then
  signature bytea CHECK (octet_length(signature) BETWEEN 1 AND 4096),  -- the approver's own, over what was decided; the executor checks it
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
  asked_at timestamptz NOT NULL,      -- the approval's own created_at: writebacks are listed in its order, in each state too
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
CREATE INDEX execution_in_state ON execution (tenant, state, asked_at DESC, approval DESC);

-- The guards judge by what is committed now. A transaction that froze its view earlier would be judged by the past: by a
-- rule since tightened, a key since revoked, a connector not yet halted.
CREATE FUNCTION require_present() RETURNS void LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION 'wall: only at isolation level read committed' USING ERRCODE = 'RX012';
  END IF;
END $$;

-- The ladder of one approval: the rule's steps, each at its share of the life that policy leaves. Where policy names whom
-- to escalate to, and the rule allows it, that role is asked instead (half way, when the rule has no such step).
CREATE FUNCTION lay_ladder(p_rule approval_rule, p_from timestamptz, p_life interval, p_escalate_to text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, public, pg_temp AS $$
  WITH named AS (SELECT CASE WHEN p_escalate_to = ANY (p_rule.may_escalate_to) THEN p_escalate_to END AS role),
  steps AS (
    SELECT (h.hop ->> 'after_s')::float8 / extract(epoch FROM p_rule.life)::float8 AS share, h.hop ->> 'kind' AS kind,
      CASE h.hop ->> 'kind' WHEN 'escalate' THEN COALESCE(named.role, h.hop ->> 'role') END AS role
    FROM jsonb_array_elements(p_rule.hops) h (hop), named
    UNION ALL
    SELECT 0.5, 'escalate', named.role FROM named
    WHERE named.role IS NOT NULL AND NOT p_rule.hops @> '[{"kind": "escalate"}]')
  SELECT COALESCE(jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
    'at', p_from + s.share * p_life, 'kind', s.kind, 'role', s.role)) ORDER BY s.share), '[]') FROM steps s
$$;

-- How often somebody has handed an approval on.
CREATE FUNCTION handed_by(p_handed jsonb, p_who text) RETURNS bigint LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT count(*) FROM jsonb_array_elements(p_handed) h (hand) WHERE h.hand ->> 'by' = p_who
$$;

-- Approvals: born pending under the rule the system chose, immutable but for their own moves.
CREATE FUNCTION guard_approval() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE r public.approval_rule; n_ok int; n_no int; w record; m record; life interval; step int;
  judged text; risks text[] := ARRAY['low', 'medium', 'high']; hand jsonb; instead boolean;
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
    -- Policy has let just this through: a change of this kind, of no less risk than the writeback is kept with. What a
    -- serving process says of its decision is its own word; this is against its mistakes, and the rule holds without it.
    IF NEW.subject = 'writeback' THEN
      SELECT CASE WHEN d.effect <> 'deny' THEN convert_from(d.inputs, 'UTF8')::jsonb -> 'context' ->> 'risk_level' END INTO judged
        FROM public.policy_decision d
        WHERE d.tenant = NEW.tenant AND d.mission = NEW.mission AND d.action = 'writeback.propose'
          AND d.resource = w.connector || '.' || w.operation
        ORDER BY d.at DESC LIMIT 1;
      IF (array_position(risks, judged) >= array_position(risks, w.risk)) IS NOT TRUE THEN
        RAISE EXCEPTION 'wall: policy was not asked about a change of % risk', w.risk USING ERRCODE = 'RX016';
      END IF;
    END IF;
    NEW.rule := r.id; NEW.rule_version := r.version; NEW.rule_required := r.required; NEW.deny_threshold := r.deny_threshold;
    -- What policy obliges to can only tighten: more approvers, a role more, less time.
    NEW.required := GREATEST(r.required, (NEW.obligations ->> 'approvals')::int);
    NEW.must_hold := NULLIF(NEW.obligations ->> 'approver_role', r.approver_role);
    life := LEAST(r.life, make_interval(secs => (NEW.obligations ->> 'expires_s')::float8));
    IF life < interval '1 second' THEN RAISE EXCEPTION 'wall: no time to decide' USING ERRCODE = 'RX006'; END IF;
    -- A rule that asks for signatures is not got round by a narrower one that does not.
    IF NEW.subject = 'writeback' THEN
      NEW.signature_required := EXISTS (
        SELECT 1 FROM fitting_rules(NEW.tenant, 'writeback', w.connector, w.operation, w.risk) f WHERE f.signature_required);
    ELSE
      NEW.signature_required := false;
    END IF;
    NEW.state := 'pending'; NEW.version := 1; NEW.not_before := NULL; NEW.closed_at := NULL; NEW.note := NULL;
    NEW.withdrawn_by := NULL; NEW.stopped := NULL;
    NEW.created_at := clock_timestamp();
    NEW.expires_at := NEW.created_at + life;
    NEW.may_decide := ARRAY[r.approver_role]; NEW.climbed := '{}';
    NEW.ladder := lay_ladder(r, NEW.created_at, life, NEW.obligations ->> 'escalate_to');
    NEW.glass_broken_by := NULL; NEW.glass_broken_at := NULL; NEW.was_rule := NULL; NEW.was_rule_version := NULL;
    NEW.handed := '[]';
    RETURN NEW;
  END IF;
  IF (NEW.tenant, NEW.id, NEW.mission, NEW.subject, NEW.requested_by, NEW.payload_sha256, NEW.rule, NEW.rule_version, NEW.rule_required,
      NEW.required, NEW.deny_threshold, NEW.created_at, NEW.expires_at, NEW.obligations, NEW.may_decide, NEW.ladder) IS DISTINCT FROM
     (OLD.tenant, OLD.id, OLD.mission, OLD.subject, OLD.requested_by, OLD.payload_sha256, OLD.rule, OLD.rule_version, OLD.rule_required,
      OLD.required, OLD.deny_threshold, OLD.created_at, OLD.expires_at, OLD.obligations, OLD.may_decide, OLD.ladder)
     OR NEW.writeback IS DISTINCT FROM OLD.writeback OR NEW.question_sha256 IS DISTINCT FROM OLD.question_sha256
     OR NEW.signature_required <> OLD.signature_required
     OR NEW.must_hold IS DISTINCT FROM OLD.must_hold OR NEW.was_rule IS DISTINCT FROM OLD.was_rule
     OR NEW.was_rule_version IS DISTINCT FROM OLD.was_rule_version OR NEW.glass_broken_at IS DISTINCT FROM OLD.glass_broken_at
     OR (NEW.state = OLD.state AND (NEW.not_before IS DISTINCT FROM OLD.not_before OR NEW.note IS DISTINCT FROM OLD.note
         OR NEW.withdrawn_by IS DISTINCT FROM OLD.withdrawn_by OR NEW.stopped IS DISTINCT FROM OLD.stopped)) THEN
    RAISE EXCEPTION 'wall: an approval is immutable except for its state' USING ERRCODE = 'RX001';
  END IF;
  NEW.version := OLD.version + 1;
  IF NEW.state = OLD.state THEN
    IF OLD.state <> 'pending' THEN RAISE EXCEPTION 'wall: the approval is closed' USING ERRCODE = 'RX004'; END IF;
    IF NEW.glass_broken_by IS DISTINCT FROM OLD.glass_broken_by THEN
      -- The glass is broken once, in time, by a holder of that role who asked for none of it. The stricter quorum stays.
      IF OLD.glass_broken_by IS NOT NULL OR NEW.climbed <> OLD.climbed OR NEW.handed <> OLD.handed
         OR clock_timestamp() >= OLD.expires_at THEN
        RAISE EXCEPTION 'wall: no glass to break' USING ERRCODE = 'RX004';
      END IF;
      IF NOT entitled_to(NEW.tenant, NEW.glass_broken_by, ARRAY['break_glass'], NEW.must_hold) THEN
        RAISE EXCEPTION 'wall: the glass is broken by who holds role break_glass' USING ERRCODE = 'RX009';
      END IF;
      IF took_part(NEW.tenant, NEW.glass_broken_by, NEW.requested_by, NEW.writeback) THEN
        RAISE EXCEPTION 'wall: nobody breaks the glass for their own request' USING ERRCODE = 'RX010';
      END IF;
      r := glass_rule(NEW.tenant, NEW.subject);
      IF r.id IS NULL THEN RAISE EXCEPTION 'wall: no break-glass rule' USING ERRCODE = 'RX006'; END IF;
      NEW.was_rule := OLD.rule; NEW.was_rule_version := OLD.rule_version; NEW.glass_broken_at := clock_timestamp();
      NEW.rule := r.id; NEW.rule_version := r.version; NEW.rule_required := r.required; NEW.deny_threshold := r.deny_threshold;
      NEW.required := GREATEST(OLD.required, r.required);
      NEW.may_decide := ARRAY[r.approver_role];
      NEW.expires_at := LEAST(OLD.expires_at, NEW.glass_broken_at + r.life);
    ELSIF NEW.climbed IS DISTINCT FROM OLD.climbed THEN
      -- Steps are climbed one after another, each when its time has come; a broken glass has no ladder any more.
      step := cardinality(NEW.climbed);
      IF step IS NULL OR step <= cardinality(OLD.climbed) OR step > jsonb_array_length(OLD.ladder) OR OLD.glass_broken_by IS NOT NULL
         OR NEW.handed <> OLD.handed OR (OLD.ladder -> (step - 1) ->> 'at')::timestamptz > clock_timestamp() THEN
        RAISE EXCEPTION 'wall: no step to climb' USING ERRCODE = 'RX004';
      END IF;
      NEW.climbed := OLD.climbed || array_fill(clock_timestamp(), ARRAY[step - cardinality(OLD.climbed)]);
      FOR n IN cardinality(OLD.climbed) .. step - 1 LOOP
        CONTINUE WHEN OLD.ladder -> n ->> 'kind' <> 'escalate';
        IF OLD.ladder -> n ->> 'role' = ANY (NEW.may_decide) THEN   -- who is asked already is reminded, and the step says so
          NEW.ladder := jsonb_set(NEW.ladder, ARRAY[n::text, 'kind'], '"remind"');
        ELSE
          NEW.may_decide := NEW.may_decide || (OLD.ladder -> n ->> 'role');
        END IF;
      END LOOP;
      NEW.version := OLD.version;    -- what there is to decide did not change: whoever has it on the screen may decide it
    ELSIF NEW.handed IS DISTINCT FROM OLD.handed THEN
      -- Handed to one more role that the rule's owner has named for it, by somebody who took no part: instead of those asked so far,
      -- or as well. Only who runs things takes it from those who were asked.
      hand := NEW.handed -> -1;
      instead := hand ->> 'instead';
      SELECT * INTO r FROM public.approval_rule x WHERE x.tenant = NEW.tenant AND x.id = NEW.rule AND x.version = NEW.rule_version;
      IF OLD.glass_broken_by IS NOT NULL OR clock_timestamp() >= OLD.expires_at OR NEW.handed IS DISTINCT FROM OLD.handed || hand
         OR instead IS NULL OR COALESCE(hand ->> 'reason', '') !~ '[^[:space:]]' OR length(hand ->> 'reason') > 2000
         OR (hand ->> 'to' = ANY (r.may_escalate_to || CASE WHEN instead THEN ARRAY[r.approver_role] ELSE '{}' END)) IS NOT TRUE
         OR (NOT instead AND hand ->> 'to' = ANY (OLD.may_decide)) OR handed_by(OLD.handed, hand ->> 'by') >= 10 THEN
        RAISE EXCEPTION 'wall: not handed to this role' USING ERRCODE = 'RX036';
      END IF;
      IF NOT has_a_say(OLD, (hand ->> 'by')::uuid)
         OR (instead AND NOT entitled(NEW.tenant, (hand ->> 'by')::uuid, 'operator')) THEN
        RAISE EXCEPTION 'wall: an approval is handed on by who runs things, or decides it' USING ERRCODE = 'RX009';
      END IF;
      IF took_part(NEW.tenant, (hand ->> 'by')::uuid, NEW.requested_by, NEW.writeback) THEN
        RAISE EXCEPTION 'wall: nobody chooses who decides their own request' USING ERRCODE = 'RX010';
      END IF;
      NEW.handed := OLD.handed || jsonb_build_object('by', hand ->> 'by', 'to', hand ->> 'to', 'instead', instead,
        'reason', btrim(hand ->> 'reason'), 'at', clock_timestamp());
      IF instead THEN
        NEW.may_decide := ARRAY[hand ->> 'to'];
      ELSE
        NEW.may_decide := OLD.may_decide || (hand ->> 'to');
        NEW.version := OLD.version;  -- as when the ladder escalates: what there is to decide did not change
      END IF;
    END IF;
    RETURN NEW;                      -- a vote below quorum only raises the version
  END IF;
  IF NEW.climbed <> OLD.climbed OR NEW.glass_broken_by IS DISTINCT FROM OLD.glass_broken_by OR NEW.handed <> OLD.handed THEN
    RAISE EXCEPTION 'wall: one move at a time' USING ERRCODE = 'RX004';
  END IF;
  IF NOT ((OLD.state = 'pending' AND NEW.state IN ('approved', 'rejected', 'expired', 'cancelled'))
       OR (OLD.state = 'approved' AND NEW.state IN ('expired', 'cancelled'))) THEN
    RAISE EXCEPTION 'wall: illegal move % -> %', OLD.state, NEW.state USING ERRCODE = 'RX004';
  END IF;
  SELECT * INTO r FROM public.approval_rule x WHERE x.tenant = NEW.tenant AND x.id = NEW.rule AND x.version = NEW.rule_version;
  IF NEW.state IN ('approved', 'rejected') THEN
    SELECT v.n_ok, v.n_no INTO n_ok, n_no FROM votes(NEW.tenant, NEW.id, NEW.may_decide, NEW.must_hold, r.comment_required) v;
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
DECLARE source uuid;
BEGIN
  PERFORM 1 FROM public.principal p WHERE p.tenant = p_tenant AND p.id = p_principal AND p.kind = 'human'
    AND p.suspended_at IS NULL FOR SHARE;
  IF NOT FOUND THEN RETURN false; END IF;
  FOR source IN SELECT g.delegated_from FROM public.role_grant g
      WHERE g.tenant = p_tenant AND g.principal = p_principal AND g.role = p_role AND g.revoked_at IS NULL
        AND g.starts_at <= clock_timestamp() AND (g.expires_at IS NULL OR g.expires_at > clock_timestamp())
      ORDER BY g.delegated_from NULLS FIRST FOR SHARE LOOP
    IF source IS NULL THEN RETURN true; END IF;
    -- passed on: whoever passed it on must still hold it
    PERFORM 1 FROM public.role_grant s JOIN public.principal d ON d.tenant = s.tenant AND d.id = s.principal
      WHERE s.tenant = p_tenant AND s.id = source AND s.revoked_at IS NULL AND d.suspended_at IS NULL FOR SHARE;
    IF FOUND THEN RETURN true; END IF;
  END LOOP;
  RETURN false;
END $$;

-- One of the roles, and the further one that policy wants.
CREATE FUNCTION entitled_to(p_tenant uuid, p_principal uuid, p_roles text[], p_must_hold text) RETURNS boolean LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE role text;
BEGIN
  IF p_must_hold IS NOT NULL AND NOT entitled(p_tenant, p_principal, p_must_hold) THEN RETURN false; END IF;
  FOREACH role IN ARRAY p_roles LOOP
    IF entitled(p_tenant, p_principal, role) THEN RETURN true; END IF;
  END LOOP;
  RETURN false;
END $$;

-- Who has something to say on a pending approval beside deciding it: who may decide it, and who runs things.
CREATE FUNCTION has_a_say(p_approval approval, p_human uuid) RETURNS boolean LANGUAGE sql VOLATILE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT public.entitled(p_approval.tenant, p_human, 'operator')
    OR public.entitled_to(p_approval.tenant, p_human, p_approval.may_decide, p_approval.must_hold)
$$;

-- In whose right somebody votes: their own, or that of whoever passed it on to them.
CREATE FUNCTION stands_for(p_tenant uuid, p_human uuid, p_roles text[], p_must_hold text) RETURNS uuid[] LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  WITH live AS (
    SELECT g.role, s.principal AS giver FROM public.role_grant g
    LEFT JOIN public.role_grant s ON s.tenant = g.tenant AND s.id = g.delegated_from
    WHERE g.tenant = p_tenant AND g.principal = p_human AND (g.role = ANY (p_roles) OR g.role = p_must_hold)
      AND g.revoked_at IS NULL AND g.starts_at <= clock_timestamp() AND (g.expires_at IS NULL OR g.expires_at > clock_timestamp()))
  SELECT ARRAY[p_human] || CASE
    WHEN EXISTS (SELECT 1 FROM live WHERE giver IS NULL AND role = ANY (p_roles))
     AND (p_must_hold IS NULL OR EXISTS (SELECT 1 FROM live WHERE giver IS NULL AND role = p_must_hold)) THEN '{}'
    ELSE ARRAY(SELECT giver FROM live WHERE giver IS NOT NULL) END
$$;

-- How many votes count now: approvals of people who may still decide, with a reason where the rule wants one, each right
-- once, whoever of those who share it was first; any rejection.
CREATE FUNCTION votes(p_tenant uuid, p_approval uuid, p_roles text[], p_must_hold text, p_comment boolean,
                      OUT n_ok int, OUT n_no int)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public, pg_temp AS $$
  WITH cast_votes AS MATERIALIZED (
    SELECT d.verdict, d.approver, d.decided_at, public.stands_for(d.tenant, d.approver, p_roles, p_must_hold) AS rights,
      d.verdict = 'approve' AND (d.comment IS NOT NULL OR NOT p_comment)
        AND public.entitled_to(d.tenant, d.approver, p_roles, p_must_hold) AS fits
    FROM public.decision d JOIN public.approval a ON a.tenant = d.tenant AND a.id = d.approval AND a.payload_sha256 = d.payload_sha256
    WHERE d.tenant = p_tenant AND d.approval = p_approval)
  SELECT count(*) FILTER (WHERE v.fits AND NOT EXISTS (SELECT 1 FROM cast_votes o WHERE o.fits AND o.rights && v.rights
           AND (o.decided_at, o.approver) < (v.decided_at, v.approver))),
         count(*) FILTER (WHERE v.verdict = 'reject')
  FROM cast_votes v
$$;

-- Decisions: by an entitled human who is neither the requester nor an editor, nor answers for one of them.
CREATE FUNCTION guard_decision() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE a public.approval; talks boolean;
BEGIN
  PERFORM require_present();
  SELECT * INTO a FROM public.approval x WHERE x.tenant = NEW.tenant AND x.id = NEW.approval FOR UPDATE;
  IF a.state IS DISTINCT FROM 'pending' OR clock_timestamp() >= a.expires_at THEN
    RAISE EXCEPTION 'wall: nothing to decide' USING ERRCODE = 'RX004';
  END IF;
  IF NOT entitled_to(NEW.tenant, NEW.approver, a.may_decide, a.must_hold) THEN
    RAISE EXCEPTION 'wall: the approver does not hold role %', a.may_decide USING ERRCODE = 'RX009';
  END IF;
  IF took_part(NEW.tenant, NEW.approver, a.requested_by, a.writeback) THEN
    RAISE EXCEPTION 'wall: nobody approves their own request' USING ERRCODE = 'RX010';
  END IF;
  SELECT r.comment_required INTO talks FROM public.approval_rule r
    WHERE r.tenant = a.tenant AND r.id = a.rule AND r.version = a.rule_version;
  IF talks AND NEW.comment IS NULL THEN
    RAISE EXCEPTION 'wall: this rule wants a reason' USING ERRCODE = 'RX014';
  END IF;
  NEW.open_questions := (SELECT count(*) FROM public.approval_question q
                         WHERE q.tenant = NEW.tenant AND q.approval = NEW.approval AND q.answered_at IS NULL);
  NEW.decided_at := clock_timestamp();
  RETURN NEW;
END $$;

-- A principal, and who answers for it.
CREATE FUNCTION line_of(p_tenant uuid, p_principal uuid) RETURNS SETOF uuid LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH RECURSIVE line AS (
    SELECT p.id, p.owner FROM public.principal p WHERE p.tenant = p_tenant AND p.id = p_principal
    UNION
    SELECT p.id, p.owner FROM public.principal p JOIN line ON p.tenant = p_tenant AND p.id = line.owner)
  SELECT line.id FROM line
$$;

-- Is p_human the requester, or who answers for it?
CREATE FUNCTION owns(p_tenant uuid, p_human uuid, p_requester uuid) RETURNS boolean LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT EXISTS (SELECT 1 FROM public.line_of(p_tenant, p_requester) l (id) WHERE l.id = p_human)
$$;

-- Who asked for it, changed it in this or an earlier revision, or answers for who did; and who holds a role that one of them passed
-- on: they act for that person too, or people would appoint their own approvers.
CREATE FUNCTION taking_part(p_tenant uuid, p_requester uuid, p_writeback uuid) RETURNS SETOF uuid LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH own AS MATERIALIZED (
    SELECT l.id FROM public.line_of(p_tenant, p_requester) l (id) UNION
    SELECT l.id FROM public.writeback w
    JOIN public.writeback e ON e.tenant = w.tenant AND e.proposal = w.proposal AND e.revision <= w.revision AND e.edited_by IS NOT NULL
    CROSS JOIN LATERAL public.line_of(p_tenant, e.edited_by) l (id)
    WHERE w.tenant = p_tenant AND w.id = p_writeback)
  SELECT own.id FROM own UNION
  SELECT g.principal FROM own
  JOIN public.role_grant g ON g.tenant = p_tenant AND g.granted_by = own.id AND g.delegated_from IS NOT NULL
    AND g.revoked_at IS NULL AND g.expires_at > clock_timestamp()
$$;

-- Is p_human one of them?
CREATE FUNCTION took_part(p_tenant uuid, p_human uuid, p_requester uuid, p_writeback uuid) RETURNS boolean LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT p_human IN (SELECT public.taking_part(p_tenant, p_requester, p_writeback))
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
    NEW.asked_at := a.created_at; NEW.not_after := a.expires_at; NEW.receipt := NULL; NEW.observed := NULL; NEW.settled_at := NULL;
    RETURN NEW;
  END IF;
  IF (NEW.tenant, NEW.writeback, NEW.approval, NEW.payload_sha256, NEW.asked_at, NEW.idempotency_key, NEW.started_at, NEW.not_after)
     IS DISTINCT FROM
     (OLD.tenant, OLD.writeback, OLD.approval, OLD.payload_sha256, OLD.asked_at, OLD.idempotency_key, OLD.started_at, OLD.not_after)
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
    a.created_at AS asked_at, a.not_before, a.expires_at, e.settled_at, e.attempts
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

-- A human's decision. The presented secret says who; p_sha256 and p_version say what was seen.
-- outcome: recorded (a vote below quorum) · approved · rejected · or why not: not_found, unauthenticated, not_pending,
-- expired, stale, other_payload, not_entitled, own_request, already_decided, mission_closed, halted, no_comment.
CREATE FUNCTION decide(p_tenant uuid, p_approval uuid, p_secret text, p_version int, p_sha256 bytea, p_verdict text,
                       p_comment text, p_signature bytea DEFAULT NULL)
RETURNS TABLE (outcome text, state text, version int, approver uuid, not_before timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE a public.approval; r public.approval_rule; m record; who uuid; n_ok int; n_no int; say text; next_state text; unanswered int; why text;
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
    WHEN took_part(p_tenant, who, a.requested_by, a.writeback) THEN 'own_request'
    WHEN NOT entitled_to(p_tenant, who, a.may_decide, a.must_hold) THEN 'not_entitled'
    WHEN a.payload_sha256 IS DISTINCT FROM p_sha256 THEN 'other_payload'
    WHEN a.version IS DISTINCT FROM p_version THEN 'stale'
    WHEN m.state IN ('completed', 'cancelled', 'failed', 'denied') THEN 'mission_closed'
    WHEN (p_verdict = 'reject' OR r.comment_required) AND COALESCE(p_comment, '') !~ '[^[:space:]]' THEN 'no_comment'
    WHEN p_verdict = 'approve' AND a.signature_required AND p_signature IS NULL THEN 'signature_missing'
    WHEN p_verdict = 'approve' AND a.writeback IS NOT NULL AND EXISTS (
      SELECT 1 FROM public.connector_switch s JOIN public.writeback w ON w.tenant = s.tenant AND w.id = a.writeback
      WHERE s.tenant = p_tenant AND s.connector IN (w.connector, '*') AND s.halted_at IS NOT NULL) THEN 'halted'
    END;
  IF say IS NOT NULL THEN RETURN QUERY SELECT say, a.state, a.version, who, a.not_before; RETURN; END IF;
  BEGIN
    INSERT INTO public.decision (tenant, approval, approver, requested_by, payload_sha256, verdict, comment, signature)
      VALUES (p_tenant, p_approval, who, a.requested_by, p_sha256, p_verdict, NULLIF(btrim(p_comment), ''), p_signature)
      RETURNING open_questions, comment INTO unanswered, why;
    SELECT v.n_ok, v.n_no INTO n_ok, n_no FROM votes(p_tenant, p_approval, a.may_decide, a.must_hold, r.comment_required) v;
    -- Votes may count again since a role was given back: a rejection then approves nothing all the same.
    next_state := CASE WHEN n_no >= a.deny_threshold THEN 'rejected'
      WHEN p_verdict = 'approve' AND n_ok >= a.required THEN 'approved' ELSE 'pending' END;
    UPDATE public.approval x SET state = next_state WHERE x.tenant = p_tenant AND x.id = p_approval RETURNING * INTO a;
  EXCEPTION WHEN SQLSTATE 'RX004' OR SQLSTATE 'RX008' THEN     -- its time ran out between our look and the guards'
    RETURN QUERY SELECT 'expired', a.state, a.version, who, a.not_before; RETURN;
  END;
  IF next_state <> 'pending' THEN
    DELETE FROM public.work x WHERE x.tenant = p_tenant AND x.kind = 'approval_timer' AND x.subject = p_approval;
  END IF;
  IF next_state = 'approved' AND a.writeback IS NOT NULL THEN
    PERFORM want_work(p_tenant, 'execute', a.writeback, 'executor', a.not_before);
    PERFORM want_work(p_tenant, 'approval_timer', p_approval, 'worker', a.expires_at);   -- what nobody carries out in time expires
  END IF;
  PERFORM wall_fact(p_tenant, a.mission, 'approval.decided', 'principal:' || who, jsonb_build_object(
    'approval', a.id, 'subject', a.subject, 'writeback', a.writeback, 'verdict', p_verdict,
    'payload_sha256', encode(a.payload_sha256, 'hex'), 'state', a.state, 'approvals', n_ok, 'required', a.required,
    'rule', a.rule, 'rule_version', a.rule_version, 'not_before', a.not_before,
    'open_questions', unanswered, 'comment_sha256', encode(sha256(convert_to(why, 'UTF8')), 'hex')));
  RETURN QUERY SELECT CASE next_state WHEN 'pending' THEN 'recorded' ELSE next_state END, a.state, a.version, who, a.not_before;
END $$;

-- Closes an approval without a decision: 'cancelled' (also after approval, while nothing was claimed) or 'expired'.
-- A person presents their secret; only the worker closes without one. Answers the state it is in afterwards; null when
-- there is no such approval.
CREATE FUNCTION close_approval(p_tenant uuid, p_approval uuid, p_state text, p_secret text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE a public.approval; actor text;
BEGIN
  PERFORM require_tenant(p_tenant);
  IF p_state NOT IN ('cancelled', 'expired') THEN RAISE EXCEPTION 'wall: % does not close', p_state USING ERRCODE = 'RX004'; END IF;
  -- mission, approval, ledger: the order in which everybody locks, or two of them would wait for each other
  PERFORM 1 FROM public.mission x
    WHERE x.tenant = p_tenant AND x.id = (SELECT y.mission FROM public.approval y WHERE y.tenant = p_tenant AND y.id = p_approval)
    FOR SHARE;
  SELECT * INTO a FROM public.approval x WHERE x.tenant = p_tenant AND x.id = p_approval FOR UPDATE;
  actor := CASE WHEN session_user = '{prefix}_worker' AND p_secret IS NULL THEN 'system:worker'
    ELSE 'principal:' || principal_of(p_tenant, p_secret) END;
  IF actor IS NULL THEN
    RAISE EXCEPTION 'wall: nobody of this tenant presented a live secret' USING ERRCODE = 'RX013';
  END IF;
  IF a.id IS NULL THEN RETURN NULL; END IF;
  IF a.state NOT IN ('pending', 'approved') OR (p_state = 'expired' AND clock_timestamp() < a.expires_at)
     OR EXISTS (SELECT 1 FROM public.execution e WHERE e.tenant = p_tenant AND e.writeback = a.writeback) THEN
    RETURN a.state;
  END IF;
  -- An approved mission question has done its work; only an approved, unclaimed writeback can still be closed.
  IF a.state = 'approved' AND a.writeback IS NULL THEN RETURN a.state; END IF;
  UPDATE public.approval x SET state = p_state WHERE x.tenant = p_tenant AND x.id = p_approval;
  PERFORM wall_fact(p_tenant, a.mission, 'approval.closed', actor, jsonb_build_object(
    'approval', a.id, 'subject', a.subject, 'writeback', a.writeback, 'state', p_state, 'was', a.state));
  RETURN p_state;
END $$;

-- Who signed what, for the executor to check by itself: null when the rule asks for no signatures. Of each approver only
-- keys that a second person confirmed before the decision, and that nobody had revoked when the writeback was first claimed.
CREATE FUNCTION signed_decisions(p_approval approval, p_claimed timestamptz) RETURNS jsonb LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT CASE WHEN p_approval.signature_required THEN jsonb_build_object(
    'approval', p_approval.id, 'required', p_approval.required, 'decisions', COALESCE((
      SELECT jsonb_agg(jsonb_build_object(
          'approver', d.approver, 'verdict', d.verdict, 'signature', convert_from(d.signature, 'UTF8'),
          'keys', (SELECT COALESCE(jsonb_object_agg(k.id, encode(k.public_key, 'hex')), '{}') FROM public.approver_key k
                   WHERE k.tenant = d.tenant AND k.principal = d.approver AND k.confirmed_at < d.decided_at
                     AND (k.revoked_at IS NULL OR k.revoked_at > p_claimed))) ORDER BY d.decided_at)
      FROM public.decision d WHERE d.tenant = p_approval.tenant AND d.approval = p_approval.id AND d.signature IS NOT NULL), '[]')) END
$$;

-- The executor's first step, committed before the target is called.
-- outcome: apply (a fresh permission) · reconcile (an earlier attempt is unsettled: ask the target first, and when `why`
-- names a brake, do no more than ask) · too_early · busy (another holder's lease runs) · settled · refused (see why).
CREATE FUNCTION claim(p_tenant uuid, p_writeback uuid, p_lease interval)
RETURNS TABLE (outcome text, why text, payload bytea, payload_sha256 bytea, idempotency_key uuid, fence bigint,
               not_before timestamptz, not_after timestamptz, attempts int, mission uuid,
               signed jsonb, connector_kind text, connector_version int, definition jsonb, account text, traceparent text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE w public.writeback; a public.approval; e public.execution; m record; stop text; brake text; until timestamptz;
  c public.connector; newest public.connector;
BEGIN
  PERFORM require_tenant(p_tenant);
  SELECT * INTO w FROM public.writeback x WHERE x.tenant = p_tenant AND x.id = p_writeback;
  IF w.id IS NULL THEN outcome := 'refused'; why := 'not_found'; RETURN NEXT; RETURN; END IF;
  mission := w.mission;
  SELECT x.state, x.traceparent INTO m FROM public.mission x WHERE x.tenant = p_tenant AND x.id = w.mission FOR SHARE;
  traceparent := m.traceparent;
  SELECT * INTO a FROM public.approval x WHERE x.tenant = p_tenant AND x.writeback = p_writeback FOR SHARE;
  SELECT * INTO e FROM public.execution x WHERE x.tenant = p_tenant AND x.writeback = p_writeback FOR UPDATE;
  -- however long a lease the executor wants: nobody may keep an execution from the others for good
  until := clock_timestamp() + LEAST(p_lease, interval '15 minutes');
  -- Where and how the bytes go is part of what was asked about. put_connector() locks these rows: once it has committed, no claim
  -- follows that does not know.
  PERFORM 1 FROM public.connector x WHERE x.tenant = p_tenant AND x.name = w.connector ORDER BY x.version FOR SHARE;
  SELECT * INTO newest FROM public.connector x WHERE x.tenant = p_tenant AND x.name = w.connector ORDER BY x.version DESC LIMIT 1;
  SELECT * INTO c FROM public.connector x WHERE x.tenant = p_tenant AND x.name = w.connector AND x.version = w.connector_version;
  brake := CASE
    WHEN EXISTS (SELECT 1 FROM public.tenant t WHERE t.id = p_tenant AND t.suspended_at IS NOT NULL) THEN 'tenant_suspended'
    WHEN EXISTS (SELECT 1 FROM public.connector_switch s WHERE s.tenant = p_tenant AND s.connector IN (w.connector, '*')
                 AND s.halted_at IS NOT NULL) THEN 'halted'
    WHEN newest.retired THEN 'connector_retired'
    WHEN (newest.kind, newest.definition - 'description') IS DISTINCT FROM (c.kind, c.definition - 'description') THEN 'connector_changed'
    END;
  IF e.writeback IS NOT NULL THEN
    fence := e.fence; attempts := e.attempts;
    IF e.state NOT IN ('executing', 'unknown') THEN outcome := 'settled'; why := e.state; RETURN NEXT; RETURN; END IF;
    IF e.lease_until > clock_timestamp() THEN
      outcome := 'busy'; why := e.state; not_before := e.lease_until; RETURN NEXT; RETURN;
    END IF;
    UPDATE public.execution x SET fence = x.fence + 1, attempts = x.attempts + 1, lease_until = until
      WHERE x.tenant = p_tenant AND x.writeback = p_writeback RETURNING * INTO e;
    outcome := 'reconcile'; why := brake;
  ELSE
    stop := CASE
      WHEN a.state IS DISTINCT FROM 'approved' THEN COALESCE(a.state, 'not_approved')
      WHEN clock_timestamp() >= a.expires_at THEN 'expired'
      WHEN m.state IN ('completed', 'cancelled', 'failed', 'denied') THEN 'mission_' || m.state
      ELSE brake
      END;
    IF stop IN ('connector_retired', 'connector_changed') THEN
      -- It can never be carried out as it was approved, and says so at once instead of when its time is over.
      UPDATE public.approval x SET state = 'cancelled', stopped = stop WHERE x.tenant = p_tenant AND x.id = a.id;
      DELETE FROM public.work x WHERE x.tenant = p_tenant AND x.kind = 'approval_timer' AND x.subject = a.id;
      PERFORM wall_fact(p_tenant, w.mission, 'approval.closed', 'system:executor', jsonb_build_object(
        'approval', a.id, 'subject', a.subject, 'writeback', w.id, 'state', 'cancelled', 'was', 'approved', 'reason', stop,
        'connector_version', w.connector_version));
      PERFORM tell_mission(p_tenant, w.mission);
    END IF;
    IF stop IS NOT NULL THEN outcome := 'refused'; why := stop; RETURN NEXT; RETURN; END IF;
    IF clock_timestamp() < a.not_before THEN
      outcome := 'too_early'; why := 'undo_window'; not_before := a.not_before; RETURN NEXT; RETURN;
    END IF;
    -- What is called next must not outlive its permission in a crash, whatever the session or the server prefers.
    IF current_setting('synchronous_commit') = 'off' THEN PERFORM set_config('synchronous_commit', 'on', true); END IF;
    BEGIN
      INSERT INTO public.execution (tenant, writeback, approval, payload_sha256, lease_until, not_after)
        VALUES (p_tenant, p_writeback, a.id, w.payload_sha256, until, a.expires_at)
        ON CONFLICT (tenant, writeback) DO NOTHING RETURNING * INTO e;
    EXCEPTION WHEN SQLSTATE 'RX007' THEN       -- its time ran out between our look and the guard's
      outcome := 'refused'; why := 'expired'; RETURN NEXT; RETURN;
    END;
    IF e.writeback IS NULL THEN                -- another holder was a moment faster
      outcome := 'busy'; why := 'executing'; not_before := until; RETURN NEXT; RETURN;
    END IF;
    PERFORM wall_fact(p_tenant, w.mission, 'writeback.claimed', 'system:executor', jsonb_build_object(
      'writeback', w.id, 'approval', a.id, 'payload_sha256', encode(w.payload_sha256, 'hex'), 'idempotency_key', e.idempotency_key));
    PERFORM tell_mission(p_tenant, w.mission);
    outcome := 'apply';
  END IF;
  payload := w.payload; payload_sha256 := w.payload_sha256; idempotency_key := e.idempotency_key; fence := e.fence;
  not_before := a.not_before; not_after := e.not_after; attempts := e.attempts;
  signed := signed_decisions(a, e.started_at);
  connector_kind := c.kind; connector_version := c.version; definition := c.definition; account := c.account;
  RETURN NEXT;
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
  END IF;
  IF p_state <> was THEN   -- 'unknown' that was proved not applied is 'executing' again: the mission's tally says so, too
    PERFORM tell_mission(p_tenant, (SELECT w.mission FROM public.writeback w WHERE w.tenant = p_tenant AND w.id = p_writeback));
  END IF;
  RETURN true;
END $$;

-- A human's word on a writeback that stays 'unknown', because its target cannot say what became of it. It ends as 'failed' whatever
-- was seen: success is what was read back, and nobody's word. The executor begins no call any more (nor may it after its
-- lease), and an attempt that is still under way settles nothing: its fence is old. p_said: the executor's last words, to be kept beside the human's.
-- outcome: vouched · or why not: not_found, unauthenticated, own_request, not_entitled, not_unknown, too_early, asked_now, no_comment.
CREATE FUNCTION vouch(p_tenant uuid, p_writeback uuid, p_secret text, p_found text, p_comment text, p_said text)
RETURNS TABLE (outcome text, who uuid, not_before timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE a public.approval; e public.execution; actor uuid; say text; ripe constant interval := '10 minutes'; why text := left(p_comment, 2000);
BEGIN
  PERFORM require_tenant(p_tenant);
  IF p_found IS NULL OR p_found NOT IN ('applied', 'not_applied', 'cannot_tell') THEN
    RAISE EXCEPTION 'wall: nobody finds %', p_found USING ERRCODE = 'RX004';
  END IF;
  SELECT * INTO a FROM public.approval x WHERE x.tenant = p_tenant AND x.writeback = p_writeback;   -- whose execution keeps it as it is
  SELECT * INTO e FROM public.execution x WHERE x.tenant = p_tenant AND x.writeback = p_writeback FOR UPDATE;
  actor := principal_of(p_tenant, p_secret);     -- after the waiting: a key revoked meanwhile says nothing
  say := CASE
    WHEN a.id IS NULL THEN 'not_found'
    WHEN actor IS NULL THEN 'unauthenticated'
    WHEN took_part(p_tenant, actor, a.requested_by, p_writeback) THEN 'own_request'
    WHEN NOT entitled(p_tenant, actor, 'operator') THEN 'not_entitled'
    WHEN e.state IS DISTINCT FROM 'unknown' THEN 'not_unknown'
    WHEN clock_timestamp() < e.started_at + ripe THEN 'too_early'    -- most of what is unknown is known a moment later
    WHEN e.lease_until > clock_timestamp() THEN 'asked_now'
    WHEN COALESCE(p_comment, '') !~ '[^[:space:]]' THEN 'no_comment'
    END;
  IF say IS NOT NULL THEN RETURN QUERY SELECT say, actor, e.started_at + ripe; RETURN; END IF;
  UPDATE public.execution x SET state = 'failed', fence = x.fence + 1, lease_until = clock_timestamp(), settled_at = clock_timestamp(),
      receipt = convert_to(jsonb_build_object('finding', 'vouched', 'vouched', p_found, 'by', actor, 'comment', why,
                                              'detail', left(p_said, 2000))::text, 'UTF8')
    WHERE x.tenant = p_tenant AND x.writeback = p_writeback;
  DELETE FROM public.work x WHERE x.tenant = p_tenant AND x.kind = 'execute' AND x.subject = p_writeback;
  PERFORM wall_fact(p_tenant, a.mission, 'writeback.settled', 'principal:' || actor, jsonb_build_object(
    'writeback', p_writeback, 'state', 'failed', 'attempts', e.attempts, 'payload_sha256', encode(e.payload_sha256, 'hex'),
    'observed_sha256', encode(e.observed_sha256, 'hex'), 'vouched', p_found,
    'comment_sha256', encode(sha256(convert_to(why, 'UTF8')), 'hex')));
  PERFORM tell_mission(p_tenant, a.mission);
  RETURN QUERY SELECT 'vouched', actor, e.started_at + ripe;
END $$;

REVOKE ALL ON FUNCTION is_ladder(jsonb, interval, text[]), guard_rule(), fitting_rules(uuid, text, text, text, text),
  glass_rule(uuid, text), lay_ladder(approval_rule, timestamptz, interval, text), entitled_to(uuid, uuid, text[], text),
  has_a_say(approval, uuid), handed_by(jsonb, text), stands_for(uuid, uuid, text[], text),
  votes(uuid, uuid, text[], text, boolean), taking_part(uuid, uuid, uuid),
  took_part(uuid, uuid, uuid, uuid),
  choose_rule(uuid, text, text, text, text), first_rules(), guard_writeback(), guard_approval(),
  require_present(), order_switch(),
  entitled(uuid, uuid, text), guard_decision(), line_of(uuid, uuid), owns(uuid, uuid, uuid), guard_execution(),
  wall_fact(uuid, uuid, text, text, jsonb), tell_mission(uuid, uuid), signed_decisions(approval, timestamptz),
  decide(uuid, uuid, text, int, bytea, text, text, bytea), close_approval(uuid, uuid, text, text),
  claim(uuid, uuid, interval), settle(uuid, uuid, bigint, text, bytea, bytea), vouch(uuid, uuid, text, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION decide(uuid, uuid, text, int, bytea, text, text, bytea), vouch(uuid, uuid, text, text, text, text) TO {prefix}_api;
GRANT EXECUTE ON FUNCTION close_approval(uuid, uuid, text, text) TO {prefix}_api, {prefix}_worker;
GRANT EXECUTE ON FUNCTION claim(uuid, uuid, interval), settle(uuid, uuid, bigint, text, bytea, bytea) TO {prefix}_executor;
GRANT EXECUTE ON FUNCTION choose_rule(uuid, text, text, text, text), fitting_rules(uuid, text, text, text, text),
  lay_ladder(approval_rule, timestamptz, interval, text), require_present() TO {prefix}_api, {prefix}_worker;
GRANT INSERT (tenant, id, mission, requested_by, risk, payload, proposal) ON writeback TO {prefix}_api, {prefix}_worker;
GRANT INSERT (tenant, id, mission, subject, writeback, question_sha256, requested_by, payload_sha256, obligations)
  ON approval TO {prefix}_api, {prefix}_worker;
