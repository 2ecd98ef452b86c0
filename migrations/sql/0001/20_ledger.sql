-- The one record: append-only facts, hash-chained per subject, readable in commit-safe order.

CREATE SEQUENCE ledger_id AS bigint;
CREATE TABLE ledger (
  tenant uuid NOT NULL,               -- no foreign key: see record 0068
  xid xid8 NOT NULL,                  -- reading position, with id: see chain_fact()
  id bigint NOT NULL,
  subject uuid NOT NULL,              -- what the chain is about: a mission, or the tenant itself
  seq bigint NOT NULL,                -- 1, 2, 3 … per subject, without gaps
  -- words with dots between; here and below a regular expression only looks for one letter that may not be: one that goes through
  -- the whole word costs more than all of a row's indexes
  type text NOT NULL CHECK (type !~ '[^a-z_.]' AND '.' || type || '.' NOT LIKE '%..%' AND type LIKE '%.%' AND length(type) <= 80),
  actor text NOT NULL CHECK (actor !~ '[^A-Za-z0-9_:-]' AND split_part(actor, ':', 1) IN ('principal', 'colony', 'system')
                             AND actor NOT LIKE '%:%:%' AND length(split_part(actor, ':', 2)) BETWEEN 1 AND 80),
  at timestamptz NOT NULL,
  body bytea NOT NULL CHECK (octet_length(body) <= 8192),  -- JSON: ids, states, hashes, small typed fields
  prev bytea NOT NULL,
  hash bytea NOT NULL CHECK (length(hash) = 32),
  request uuid,                       -- by which request it was recorded: 16 bytes of its id's SHA-256, to be found by; not hashed
  PRIMARY KEY (tenant, subject, seq)
);
CREATE UNIQUE INDEX ledger_position ON ledger (tenant, xid, id);
CREATE INDEX ledger_position_all ON ledger (xid, id);
CREATE INDEX ledger_request ON ledger (tenant, request) WHERE request IS NOT NULL;
CREATE INDEX ledger_anchored ON ledger (tenant, xid, id) WHERE type = 'ledger.anchored';  -- which anchor covers a place

-- What is hashed. One line of fields, one line of body bytes, after the previous hash: easy to redo in any language.
-- Its names were bound when it was made, so that no search_path leads it astray; setting one would cost as much as the hash.
CREATE FUNCTION fact_hash(p_prev bytea, p_tenant uuid, p_subject uuid, p_seq bigint, p_type text, p_actor text,
                          p_at timestamptz, p_body bytea)
RETURNS bytea LANGUAGE sql STABLE
RETURN sha256(p_prev || convert_to(concat_ws('|', p_tenant, p_subject, p_seq, p_type, p_actor,
  to_char(p_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')) || E'\n', 'UTF8') || p_body);

-- Runs before every insert. The advisory lock makes facts of one subject queue up until commit, so seq has no gaps
-- and follows commit order. The reading position is never below the predecessor's and never below this transaction's
-- own id: a reader that stops at the oldest running transaction therefore loses nothing and sees each subject in order.
CREATE FUNCTION chain_fact() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE last record; said text;
BEGIN
  IF pg_advisory_xact_lock(hashtextextended(NEW.tenant::text || NEW.subject::text, 7)) IS NULL THEN NULL; END IF;  -- PERFORM would run a query
  SELECT l.seq, l.hash, l.xid INTO last FROM public.ledger l
    WHERE l.tenant = NEW.tenant AND l.subject = NEW.subject ORDER BY l.seq DESC LIMIT 1;
  NEW.seq := COALESCE(last.seq, 0) + 1;
  NEW.prev := COALESCE(last.hash, ''::bytea);    -- not '\x': a session may read backslashes its own way
  NEW.xid := GREATEST(pg_current_xact_id(), COALESCE(last.xid, '0'::xid8));
  NEW.id := nextval('public.ledger_id');
  NEW.at := clock_timestamp();
  NEW.request := COALESCE(NEW.request, NULLIF(current_setting('app.request', true), '')::uuid);
  -- Facts that only the wall itself may state; anybody else writing them would be forging a decision.
  IF (NEW.type = ANY (ARRAY['approval.decided', 'approval.closed', 'approval.reminded', 'approval.escalated',
        'approval.glass_broken', 'approval.superseded', 'approval.reassigned', 'approval.questioned', 'approval.answered',
        'writeback.claimed', 'writeback.settled', 'writeback.attempted', 'writeback.renewed', 'notice.seen', 'approval.seen', 'budget.limits_changed',
        'budget.presumed'])
      OR split_part(NEW.type, '.', 1) = ANY (ARRAY['rule', 'risk', 'policy', 'connector', 'approver_key', 'tool_layer', 'model_provider',
           'bytes', 'hold', 'retention', 'rung', 'gate', 'attestation', 'verdict']))
     AND current_user <> '{prefix}_owner' THEN
    RAISE EXCEPTION 'wall: facts of type % are written by the wall only', NEW.type USING ERRCODE = 'RX003';
  END IF;
  -- Likewise who may act: only who writes those rows says that they were written.
  IF split_part(NEW.type, '.', 1) = ANY (ARRAY['tenant', 'principal', 'role', 'key', 'session'])
     AND current_user <> '{prefix}_registrar' THEN
    RAISE EXCEPTION 'wall: facts of type % are written by the registrar only', NEW.type USING ERRCODE = 'RX003';
  END IF;
  IF NEW.type = 'ledger.anchored' AND session_user <> '{prefix}_worker' THEN
    RAISE EXCEPTION 'wall: facts of type % are written by the worker only', NEW.type USING ERRCODE = 'RX003';
  END IF;
  -- How a drill ended, and what was found stuck: gates and alerts rest on these, so whoever is asked by strangers does not say it.
  IF NEW.type = ANY (ARRAY['drill.passed', 'drill.failed', 'mission.repaired', 'mission.stuck'])
     AND session_user = ANY (ARRAY['{prefix}_api', '{prefix}_registrar']) THEN
    RAISE EXCEPTION 'wall: facts of type % are written by the worker only', NEW.type USING ERRCODE = 'RX003';
  END IF;
  -- In whose name a login may speak: a person's or a colony's is the api's to vouch for, the wall finds out by the secret.
  IF current_user <> '{prefix}_owner' AND NOT (CASE session_user
      WHEN '{prefix}_worker' THEN NEW.actor LIKE 'system:%' AND NEW.actor NOT IN ('system:executor', 'system:registrar', 'system:api')
      WHEN '{prefix}_api' THEN NEW.actor LIKE 'principal:%' OR NEW.actor LIKE 'colony:%' OR NEW.actor = 'system:api'
      WHEN '{prefix}_registrar' THEN NEW.actor LIKE 'principal:%' OR NEW.actor = 'system:registrar'
      ELSE NEW.actor LIKE 'system:%' END) THEN
    RAISE EXCEPTION 'wall: % does not speak for %', session_user, NEW.actor USING ERRCODE = 'RX003';
  END IF;
  -- One body that is no JSON object would stop every reader of the ledger, of every tenant; so would one that they cannot
  -- parse or say again: endless depth, and numbers that a double does not hold.
  said := convert_from(NEW.body, 'UTF8');
  IF NOT said IS JSON OBJECT WITH UNIQUE KEYS THEN
    RAISE EXCEPTION 'wall: the body of a fact is a JSON object' USING ERRCODE = 'RX005';
  END IF;
  -- Only a value that holds others, a number of many digits, or one with an exponent can be either; most bodies have none of them.
  -- No backslash here either.
  IF said ~ '[:,[][[:space:]]*([[{]|-?([0-9]{16}|[0-9.]+[eE]))' AND (jsonb_path_exists(said::jsonb, 'strict $.**{9 to last}') OR jsonb_path_exists(
       said::jsonb, 'strict $.** ? (@ > 9007199254740991 || @ < -9007199254740991)')) THEN
    RAISE EXCEPTION 'wall: the body of a fact is too deep, or holds a number that is too large' USING ERRCODE = 'RX005';
  END IF;
  NEW.hash := fact_hash(NEW.prev, NEW.tenant, NEW.subject, NEW.seq, NEW.type, NEW.actor, NEW.at, NEW.body);
  RETURN NEW;
END $$;
CREATE TRIGGER ledger_chain BEFORE INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION chain_fact();
CREATE TRIGGER ledger_keep BEFORE UPDATE OR DELETE ON ledger FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER ledger_whole BEFORE TRUNCATE ON ledger FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE ledger ENABLE ALWAYS TRIGGER ledger_chain;
ALTER TABLE ledger ENABLE ALWAYS TRIGGER ledger_keep;
ALTER TABLE ledger ENABLE ALWAYS TRIGGER ledger_whole;

ALTER TABLE ledger ENABLE ROW LEVEL SECURITY; ALTER TABLE ledger FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON ledger USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid);
CREATE POLICY read_all ON ledger FOR SELECT TO {prefix}_owner USING (true);
GRANT SELECT ON ledger TO {prefix}_api, {prefix}_worker, {prefix}_auditor;
GRANT INSERT (tenant, subject, type, actor, body) ON ledger TO {prefix}_api, {prefix}_worker, {prefix}_registrar;
GRANT USAGE ON SEQUENCE ledger_id TO {prefix}_api, {prefix}_worker, {prefix}_registrar;
GRANT SELECT ON ledger TO {prefix}_registrar;
GRANT EXECUTE ON FUNCTION fact_hash(bytea, uuid, uuid, bigint, text, text, timestamptz, bytea)
  TO {prefix}_api, {prefix}_worker, {prefix}_registrar, {prefix}_auditor;

-- The whole ledger in reading order, for fan-out processes that serve every tenant (role reader has nothing else).
CREATE FUNCTION read_ledger(p_xid xid8, p_id bigint, p_limit int)
RETURNS TABLE (tenant uuid, xid xid8, id bigint, subject uuid, seq bigint, type text, actor text, at timestamptz, body bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT l.tenant, l.xid, l.id, l.subject, l.seq, l.type, l.actor, l.at, l.body FROM public.ledger l
  WHERE (l.xid, l.id) > (p_xid, p_id) AND l.xid < pg_snapshot_xmin(pg_current_snapshot())
  ORDER BY l.xid, l.id LIMIT LEAST(p_limit, 5000)
$$;
REVOKE ALL ON FUNCTION read_ledger(xid8, bigint, int), chain_fact(),
  fact_hash(bytea, uuid, uuid, bigint, text, text, timestamptz, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION read_ledger(xid8, bigint, int) TO {prefix}_reader;
