-- Many missions at once: one statement that locks them, one that keeps what became of them. What becomes of each is decided
-- between the two, by whoever holds the locks. Both run as whoever calls them and add no right: every table's own triggers,
-- policies and keys judge each row as they would judge it alone.
--
-- Tenants come in the order of their ids, and a tenant's missions in the order of theirs: two that meet on what they share
-- wait for each other, and never in a ring.
--
-- They go to rows one by one through an index (enable_hashjoin, enable_mergejoin, enable_seqscan, LATERAL with OFFSET 0): a plan that was
-- made while a table was small would read all of a tenant's rows for the few that are meant (record 0070).

-- The missions (p_tenant, p_id side by side) that there are, locked until commit. known: which of the bytes (a_sha256, wanted for
-- mission a_mission) are stored as its artifacts already: [sha256, artifact, attempt], or null.
CREATE FUNCTION hold_missions(p_tenant uuid[], p_id uuid[], a_mission uuid[], a_sha256 bytea[])
RETURNS TABLE (m mission, known jsonb)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, pg_temp
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE t uuid; wanted uuid[];
BEGIN
  PERFORM set_config('lock_timeout', '500ms', true);   -- whoever waits for one of them holds up all others: rather alone, and later
  FOR t IN SELECT DISTINCT x FROM unnest(p_tenant) x ORDER BY x LOOP
    PERFORM set_config('app.tenant', t::text, true);
    wanted := ARRAY(SELECT w.id FROM unnest(p_tenant, p_id) w(tenant, id) WHERE w.tenant = t);
    -- NO KEY: rows that refer to a mission may be written meanwhile
    PERFORM 1 FROM mission x WHERE x.tenant = t AND x.id = ANY (wanted) ORDER BY x.id FOR NO KEY UPDATE;
    RETURN QUERY   -- a statement of its own: it sees what was committed while the first one waited
      WITH shown AS MATERIALIZED (   -- by the whole key, one by one: of the bytes that are brought, most are new
        SELECT w.mission, jsonb_agg(jsonb_build_array(encode(w.sha256, 'hex'), a.id, a.attempt)) AS known
        FROM unnest(a_mission, a_sha256) w(mission, sha256), LATERAL (
          SELECT y.id, y.attempt FROM artifact y WHERE y.tenant = t AND y.sha256 = w.sha256 AND y.mission = w.mission OFFSET 0) a
        WHERE w.mission = ANY (wanted)   -- other tenants' are not looked for in this one
        GROUP BY w.mission)
      SELECT x, s.known FROM mission x LEFT JOIN shown s ON s.mission = x.id WHERE x.tenant = t AND x.id = ANY (wanted);
  END LOOP;
END $$;

-- What became of missions that the transaction holds: their rows (m_*), their artifacts (a_*), facts in the order in which they
-- are told (f_*), and work (w_*): added, dropped, done (when nobody wanted it meanwhile), again or failed, these while the fence holds.
-- Attempts count claims since it was added or last done well: as in app/work.py and finish_executor_work.
CREATE FUNCTION keep_missions(
  m_tenant uuid[], m_id uuid[], m_state text[], m_attempt int[], m_last_seq int[], m_stage text[], m_lease_until timestamptz[],
  m_deadline_at timestamptz[], m_degraded text[], m_answer_status text[], m_reason text[], m_reason_note text[],
  a_tenant uuid[], a_id uuid[], a_mission uuid[], a_attempt int[], a_schema_name text[], a_schema_version text[], a_producer text[],
  a_bytes bytea[],
  f_tenant uuid[], f_subject uuid[], f_type text[], f_actor text[], f_body bytea[],
  w_tenant uuid[], w_what text[], w_kind text[], w_subject uuid[], w_at timestamptz[], w_fence bigint[], w_wanted int[])
RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, pg_temp
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE t uuid; moment timestamptz := clock_timestamp(); gone int;
BEGIN
  FOR t IN SELECT DISTINCT x FROM unnest(m_tenant || a_tenant || f_tenant || w_tenant) x ORDER BY x LOOP
    PERFORM set_config('app.tenant', t::text, true);
    IF t = ANY (m_tenant) THEN
      UPDATE mission m SET state = o.state, attempt = o.attempt, last_seq = o.last_seq, stage = o.stage, lease_until = o.lease_until,
          deadline_at = o.deadline_at, degraded = o.degraded::jsonb, answer_status = o.answer_status, reason = o.reason,
          reason_note = o.reason_note,
          pending_approvals = CASE WHEN o.closed THEN '{}' ELSE m.pending_approvals END,
          closed_at = CASE WHEN o.closed THEN moment END
        FROM (SELECT u.*, u.state IN ('completed', 'failed', 'cancelled', 'denied') AS closed
              FROM unnest(m_tenant, m_id, m_state, m_attempt, m_last_seq, m_stage, m_lease_until, m_deadline_at, m_degraded,
                          m_answer_status, m_reason, m_reason_note)
                AS u(tenant, id, state, attempt, last_seq, stage, lease_until, deadline_at, degraded, answer_status, reason, reason_note)
              WHERE u.tenant = t) o
        WHERE m.tenant = t AND m.id = o.id;
    END IF;
    IF t = ANY (a_tenant) THEN
      INSERT INTO artifact (tenant, id, mission, attempt, schema_name, schema_version, producer, bytes)
        SELECT t, o.id, o.mission, o.attempt, o.schema_name, o.schema_version, o.producer, o.bytes
        FROM unnest(a_tenant, a_id, a_mission, a_attempt, a_schema_name, a_schema_version, a_producer, a_bytes) WITH ORDINALITY
          AS o(tenant, id, mission, attempt, schema_name, schema_version, producer, bytes, i) WHERE o.tenant = t ORDER BY o.i;
    END IF;
    IF t = ANY (w_tenant) THEN
      DELETE FROM work w USING unnest(w_tenant, w_what, w_kind, w_subject, w_fence, w_wanted) AS o(tenant, what, kind, subject, fence, wanted)
        WHERE o.tenant = t AND w.tenant = t AND w.kind = o.kind AND w.subject = o.subject
          AND (o.what = 'drop' OR (o.what = 'done' AND w.fence = o.fence AND w.wanted = o.wanted));
      GET DIAGNOSTICS gone = ROW_COUNT;
      IF gone < (SELECT count(*) FROM unnest(w_tenant, w_what) AS o(tenant, what) WHERE o.tenant = t AND o.what <> 'add') THEN
        -- whoever wanted it while it was held is not put off: next_at then holds the time of that wish
        UPDATE work w SET lease_until = NULL, attempts = CASE WHEN o.what = 'failed' THEN w.attempts ELSE 0 END,
            next_at = LEAST(COALESCE(o.at, moment), CASE WHEN w.wanted > o.wanted THEN w.next_at END)
          FROM unnest(w_tenant, w_what, w_kind, w_subject, w_at, w_fence, w_wanted) AS o(tenant, what, kind, subject, at, fence, wanted)
          WHERE o.tenant = t AND o.what IN ('done', 'again', 'failed') AND w.tenant = t AND w.kind = o.kind AND w.subject = o.subject
            AND w.fence = o.fence;
      END IF;
      INSERT INTO work (tenant, kind, subject, queue, next_at)
        SELECT t, o.kind, o.subject, 'worker', COALESCE(o.at, moment)
        FROM unnest(w_tenant, w_what, w_kind, w_subject, w_at) AS o(tenant, what, kind, subject, at)
        WHERE o.tenant = t AND o.what = 'add'
        ON CONFLICT (tenant, kind, subject) DO UPDATE
          SET wanted = work.wanted + 1, next_at = LEAST(work.next_at, excluded.next_at);
    END IF;
    IF t = ANY (f_tenant) THEN
      INSERT INTO ledger (tenant, subject, type, actor, body)
        SELECT t, o.subject, o.type, o.actor, o.body
        FROM unnest(f_tenant, f_subject, f_type, f_actor, f_body) WITH ORDINALITY AS o(tenant, subject, type, actor, body, i)
        WHERE o.tenant = t ORDER BY o.i;
    END IF;
  END LOOP;
END $$;

-- What a dispatch says of missions: their rows, their envelopes, and whether a human was asked anything about the mission itself.
CREATE FUNCTION offered_missions(p_tenant uuid[], p_id uuid[])
RETURNS TABLE (m mission, envelope bytea, asked boolean)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, pg_temp
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE t uuid;
BEGIN
  FOR t IN SELECT DISTINCT x FROM unnest(p_tenant) x ORDER BY x LOOP
    PERFORM set_config('app.tenant', t::text, true);
    RETURN QUERY
      SELECT x, a.bytes, (SELECT true FROM approval q WHERE q.tenant = t AND q.mission = x.id AND q.subject = 'mission' LIMIT 1) IS NOT NULL
      FROM mission x, LATERAL (
        SELECT y.bytes FROM artifact y WHERE y.tenant = t AND y.mission = x.id AND y.schema_name = 'mission_envelope' OFFSET 0) a
      WHERE x.tenant = t AND x.id = ANY (ARRAY(SELECT w.id FROM unnest(p_tenant, p_id) w(tenant, id) WHERE w.tenant = t));
  END LOOP;
END $$;

-- What a review looks at: the artifacts that a mission's current attempt has produced, or said again in the same bytes, oldest
-- first; a row without one when there is none. minimum: what the tenant's own version of the type asks for, as JSON; else null.
CREATE FUNCTION said_of_missions(p_tenant uuid[], p_id uuid[])
RETURNS TABLE (tenant uuid, mission uuid, attempt int, mission_type text, minimum text, artifact artifact)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, pg_temp
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE t uuid;
BEGIN
  FOR t IN SELECT DISTINCT x FROM unnest(p_tenant) x ORDER BY x LOOP
    PERFORM set_config('app.tenant', t::text, true);
    RETURN QUERY
      SELECT t, m.id, m.attempt, m.mission_type, y.definition ->> 'review', a.said
      FROM mission m
      LEFT JOIN mission_type y ON y.tenant = t AND y.name = m.mission_type AND y.version = m.type_version
      LEFT JOIN LATERAL (
        SELECT x AS said, x.created_at, x.id FROM artifact x
        WHERE x.tenant = t AND x.mission = m.id AND x.schema_name IN ('aggregation_packet', 'worker_result', 'writeback_proposal')
          AND (x.attempt = m.attempt OR x.id IN (
            SELECT (convert_from(f.body, 'UTF8')::json ->> 'artifact')::uuid FROM ledger f
            WHERE f.tenant = t AND f.subject = m.id AND f.type = 'artifact.repeated'
              AND (convert_from(f.body, 'UTF8')::json ->> 'attempt')::int = m.attempt)) OFFSET 0) a ON true
      WHERE m.tenant = t AND m.id = ANY (ARRAY(SELECT w.id FROM unnest(p_tenant, p_id) w(tenant, id) WHERE w.tenant = t))
      ORDER BY m.id, a.created_at, a.id;
  END LOOP;
END $$;

-- Remembers nonces of signed calls; which of them had not been seen before.
CREATE FUNCTION use_nonces(p_kid text[], p_nonce text[]) RETURNS boolean[]
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE fresh boolean[] := array_fill(false, ARRAY[cardinality(p_nonce)]); i int;
BEGIN
  FOR i IN SELECT o.i FROM unnest(p_kid, p_nonce) WITH ORDINALITY AS o(kid, nonce, i) ORDER BY o.kid, o.nonce, o.i LOOP
    INSERT INTO nonce (kid, nonce) VALUES (p_kid[i], p_nonce[i]) ON CONFLICT DO NOTHING;
    fresh[i] := FOUND;
  END LOOP;
  RETURN fresh;
END $$;

DO $$
DECLARE f text;
BEGIN
  FOR f IN SELECT oid::regprocedure FROM pg_proc
           WHERE proname IN ('hold_missions', 'keep_missions', 'offered_missions', 'said_of_missions', 'use_nonces') AND pronamespace = 'public'::regnamespace LOOP
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    IF f NOT LIKE 'offered_missions%' AND f NOT LIKE 'said_of_missions%' THEN EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO {prefix}_api', f); END IF;
    IF f NOT LIKE 'use_nonces%' THEN EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO {prefix}_worker', f); END IF;
  END LOOP;
END $$;
