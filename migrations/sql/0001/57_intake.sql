-- Many requests for missions at once: one statement, one commit, one wake-up for all of them. It runs as whoever calls it and
-- adds no right: every table's own triggers, policies and keys judge each row as they would judge it alone.
--
-- The api has judged the requests from memory: who is behind a secret, which rules are in force and where the tenant stands on the
-- ladder (c_*, once for all requests that were judged by the same; c_ladder null: no ladder binds it), which version of a type is the
-- newest, and whether that is the tenant's own. Here, in the transaction that keeps the mission, each of these is looked at once more,
-- and what was judged by something that is no longer so comes back undone, to be judged anew.
--
-- outcome: accepted · refused (by policy: decision and fact are kept) · replayed (the answer given under this Idempotency-Key) ·
-- or, with nothing kept: unauthenticated, caller_changed, policy_changed, ladder_changed, type_changed, in_flight, mismatch, exhausted (the
-- tenant's budget: body says what is lacking).
-- An answer is head || at || middle || at || tail: only here is known when the mission was taken in. Without a tail it is head.
CREATE FUNCTION take_in(
  c_secret text[], c_tenant uuid[], c_principal uuid[], c_roles text[], c_change bigint[], c_set bytea[], c_ladder bigint[],
  m_caller int[], m_id uuid[], m_type text[], m_type_version int[], m_own boolean[], m_mode text[], m_surface text[], m_risk text[],
  m_sensitivity text[], m_workspace text[], m_contract bytea[], m_labels text[], m_trace text[], m_time bigint[], m_tokens bigint[],
  m_cost numeric[], m_replay_of uuid[], m_replay_mode text[],
  d_id uuid[], d_effect text[], d_rule text[], d_policy_version text[], d_reason text[], d_inputs bytea[], d_obligations text[],
  e_id uuid[], e_bytes bytea[], f_body bytea[], f_request uuid[],
  k_key text[], k_fingerprint bytea[], k_status int[], k_headers text[], k_head bytea[], k_middle bytea, k_tail bytea[])
RETURNS TABLE (n int, outcome text, at timestamptz, status int, headers jsonb, body bytea)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE
  who record; doubt text[] := '{}'; t uuid; newest bigint; moment timestamptz := clock_timestamp();
  stamp bytea := convert_to(to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'UTF8');
  say text[] := array_fill(NULL::text, ARRAY[cardinality(m_id)]); lacking text[] := '{}'; c int; i int; rungs bigint;
  line int[]; firsts int[]; lasts int[]; piece int[]; low int; high int; why text; whose text;
BEGIN
  PERFORM set_config('lock_timeout', '500ms', true);   -- whoever waits holds up everybody in the batch: rather alone, and later
  FOR c IN 1 .. cardinality(c_secret) LOOP
    SELECT a.tenant, a.principal, (SELECT COALESCE(string_agg(r, ',' ORDER BY r COLLATE "C"), '') FROM unnest(a.roles) r) AS roles INTO who
      FROM authenticate(sha256(convert_to(c_secret[c], 'UTF8'))) a;
    doubt[c] := CASE WHEN who.tenant IS NULL THEN 'unauthenticated'
      WHEN (who.tenant, who.principal, who.roles) IS DISTINCT FROM (c_tenant[c], c_principal[c], c_roles[c]) THEN 'caller_changed' END;
  END LOOP;
  FOR i IN 1 .. cardinality(m_id) LOOP say[i] := doubt[m_caller[i]]; END LOOP;
  -- always in the same order: two batches that meet on what tenants share wait for each other, and never in a ring
  FOR t IN SELECT DISTINCT x FROM unnest(c_tenant) x ORDER BY x LOOP
    PERFORM set_config('app.tenant', t::text, true);
    SELECT COALESCE(max(p.change), 0) INTO newest FROM policy p WHERE p.tenant = t;
    -- a key is looked up after its lock is taken, and so by a later statement
    FOR i IN SELECT o.i FROM unnest(m_caller, k_key) WITH ORDINALITY AS o(caller, key, i)
             WHERE c_tenant[o.caller] = t AND say[o.i] IS NULL AND o.key IS NOT NULL AND NOT pg_try_advisory_xact_lock(
               hashtextextended(t || '|' || c_principal[o.caller] || '|missions.create|' || o.key, 11)) LOOP
      say[i] := 'in_flight';
    END LOOP;
    -- row by row through the index (OFFSET 0), however small the table was when this was planned
    FOR who IN SELECT o.i, x.fingerprint = o.fingerprint AS same, x.status, x.headers, x.body
               FROM unnest(m_caller, k_key, k_fingerprint) WITH ORDINALITY AS o(caller, key, fingerprint, i), LATERAL (
                 SELECT y.* FROM idempotency y WHERE y.tenant = t AND y.principal = c_principal[o.caller]
                   AND y.route = 'missions.create' AND y.key = o.key OFFSET 0) x
               WHERE c_tenant[o.caller] = t AND o.key IS NOT NULL AND say[o.i] IS NULL LOOP
      say[who.i] := CASE WHEN who.same THEN 'replayed' ELSE 'mismatch' END;
      IF who.same THEN
        n := who.i; outcome := 'replayed'; at := NULL; status := who.status; headers := who.headers; body := who.body;
        RETURN NEXT;
      END IF;
    END LOOP;
    IF num_nonnulls(VARIADIC c_ladder) > 0 THEN
      SELECT COALESCE(max(r.change), 0) INTO rungs FROM rung_change r WHERE r.tenant = t;
      FOR i IN SELECT o.i FROM unnest(m_caller) WITH ORDINALITY AS o(caller, i)
               WHERE c_tenant[o.caller] = t AND say[o.i] IS NULL AND c_ladder[o.caller] <> rungs LOOP
        say[i] := 'ladder_changed';
      END LOOP;
    END IF;
    FOR who IN SELECT m.i, m.judged FROM (
                 SELECT o.*, newest = c_change[o.caller] AND (
                     SELECT true FROM policy_set s WHERE s.tenant = t AND s.version = c_set[o.caller] LIMIT 1) IS NOT NULL AS judged
                 FROM unnest(m_caller, m_type, m_type_version, m_own) WITH ORDINALITY AS o(caller, type, version, own, i)
                 WHERE c_tenant[o.caller] = t AND say[o.i] IS NULL) m
               WHERE NOT m.judged OR (
                 SELECT true FROM mission_type y WHERE y.tenant = t AND y.name = m.type
                   AND (y.version > m.version OR NOT m.own AND y.version = m.version) LIMIT 1) IS NOT NULL LOOP
      say[who.i] := CASE WHEN who.judged THEN 'type_changed' ELSE 'policy_changed' END;
    END LOOP;
  END LOOP;
  -- All together, in the order of their tenants; when a tenant's budget refuses, those before it, its own one by one, and those
  -- after it: then it refuses that one only. Each row enters its own tenant just before it is written (enter_tenant); that what it
  -- is read from is MATERIALIZED keeps the planner from entering all of them first, which the policies would refuse.
  SELECT array_agg(o.i ORDER BY c_tenant[o.caller], o.i) INTO line
    FROM unnest(m_caller) WITH ORDINALITY AS o(caller, i) WHERE say[o.i] IS NULL;
  firsts := ARRAY[1]; lasts := ARRAY[COALESCE(cardinality(line), 0)];
  WHILE cardinality(firsts) > 0 LOOP
    piece := line[firsts[1]:lasts[1]];
    BEGIN
      WITH one AS MATERIALIZED (
        SELECT o.*, c_tenant[o.caller] AS tenant, c_principal[o.caller] AS principal, c_secret[o.caller] AS secret
        FROM unnest(m_caller, m_id, m_type, m_type_version, m_mode, m_surface, m_risk, m_sensitivity, m_workspace, m_contract,
                    m_labels, m_trace, m_time, m_tokens, m_cost, m_replay_of, m_replay_mode, d_id, d_effect, d_rule, d_policy_version,
                    d_reason, d_inputs, d_obligations, e_id, e_bytes, k_key, k_fingerprint, k_status, k_headers, k_head, k_tail)
             WITH ORDINALITY AS o(caller, id, type, type_version, mode, surface, risk, sensitivity, workspace, contract, labels,
                    trace, time_ms, tokens, cost, replay_of, replay_mode, decision, effect, rule, policy_version, reason, inputs, obligations, artifact,
                    bytes, key, fingerprint, status, headers, head, tail, i)
        WHERE o.i = ANY (piece) ORDER BY c_tenant[o.caller], o.i),
      made AS (
        INSERT INTO mission (tenant, id, mission_type, type_version, mode, state, origin_surface, risk_level, sensitivity_class,
            presented, workspace, contract_hash, labels, traceparent, budget_time_ms, budget_tokens, budget_cost_usd,
            replay_of, replay_mode, created_at, updated_at)
          SELECT o.tenant, o.id, o.type, o.type_version, o.mode, 'accepted', o.surface, o.risk, o.sensitivity, o.secret, o.workspace,
            o.contract, o.labels::jsonb, o.trace, o.time_ms, o.tokens, o.cost, o.replay_of, o.replay_mode, moment, moment
          FROM one o WHERE o.effect <> 'deny' AND enter_tenant(o.tenant)),
      decided AS (
        INSERT INTO policy_decision (tenant, id, mission, principal, action, resource, effect, rule, policy_version, reason,
            inputs, obligations)
          SELECT o.tenant, o.decision, CASE WHEN o.effect <> 'deny' THEN o.id END, o.principal, 'mission.create', o.type, o.effect,
            o.rule, o.policy_version, o.reason, o.inputs, o.obligations::jsonb FROM one o WHERE enter_tenant(o.tenant)),
      kept AS (
        INSERT INTO artifact (tenant, id, mission, attempt, schema_name, schema_version, producer, bytes)
          SELECT o.tenant, o.artifact, o.id, 1, 'mission_envelope', '1', 'root', o.bytes
          FROM one o WHERE o.effect <> 'deny' AND enter_tenant(o.tenant)),
      queued AS (
        INSERT INTO work (tenant, kind, subject, queue, next_at)
          SELECT o.tenant, CASE WHEN o.replay_mode = 'recorded' THEN 'replay' WHEN o.replay_mode = 'recorded_with_colony' THEN 'dispatch'
              WHEN o.effect = 'ask' THEN 'ask' ELSE 'dispatch' END, o.id, 'worker', moment
          FROM one o WHERE o.effect <> 'deny' AND enter_tenant(o.tenant))
      INSERT INTO idempotency (tenant, principal, route, key, fingerprint, status, headers, body)
        SELECT o.tenant, o.principal, 'missions.create', o.key, o.fingerprint, o.status, o.headers::jsonb,
          CASE WHEN o.tail IS NULL THEN o.head ELSE o.head || stamp || k_middle || stamp || o.tail END
        FROM one o WHERE o.key IS NOT NULL AND enter_tenant(o.tenant);
      -- last, and by itself: rows that others refer to and accounts are locked before a tenant's chain of facts
      WITH one AS MATERIALIZED (
        SELECT o.*, c_tenant[o.caller] AS tenant, c_principal[o.caller] AS principal
        FROM unnest(m_caller, m_id, d_effect, f_body, f_request) WITH ORDINALITY AS o(caller, id, effect, fact, request, i)
        WHERE o.i = ANY (piece) ORDER BY c_tenant[o.caller], o.i)
      INSERT INTO ledger (tenant, subject, type, actor, body, request)
        SELECT o.tenant, CASE WHEN o.effect = 'deny' THEN o.tenant ELSE o.id END,
          CASE WHEN o.effect = 'deny' THEN 'mission.refused' ELSE 'mission.accepted' END, 'principal:' || o.principal, o.fact, o.request
        FROM one o WHERE enter_tenant(o.tenant);
      firsts := firsts[2:]; lasts := lasts[2:];
    EXCEPTION WHEN SQLSTATE 'RX020' THEN
      GET STACKED DIAGNOSTICS why = PG_EXCEPTION_DETAIL, whose = PG_EXCEPTION_HINT;
      IF cardinality(piece) = 1 THEN
        say[piece[1]] := 'exhausted'; lacking[piece[1]] := why;
        firsts := firsts[2:]; lasts := lasts[2:];
      ELSE
        SELECT min(x), max(x) INTO low, high FROM generate_series(firsts[1], lasts[1]) x WHERE c_tenant[m_caller[line[x]]] = whose::uuid;
        firsts := firsts[1] || array(SELECT generate_series(low, high)) || high + 1 || firsts[2:];
        lasts := low - 1 || array(SELECT generate_series(low, high)) || lasts;
      END IF;
    END;
  END LOOP;
  FOR i IN 1 .. cardinality(m_id) LOOP
    CONTINUE WHEN say[i] = 'replayed';
    n := i; outcome := COALESCE(say[i], CASE d_effect[i] WHEN 'deny' THEN 'refused' ELSE 'accepted' END);
    at := moment; status := NULL; headers := NULL; body := convert_to(lacking[i], 'UTF8');
    RETURN NEXT;
  END LOOP;
END $$;
DO $$
BEGIN
  EXECUTE (SELECT format('REVOKE ALL ON FUNCTION %s FROM PUBLIC; GRANT EXECUTE ON FUNCTION %1$s TO {prefix}_api', oid::regprocedure)
           FROM pg_proc WHERE proname = 'take_in' AND pronamespace = 'public'::regnamespace);
END $$;
