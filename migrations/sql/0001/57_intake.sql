-- Many requests for missions at once: one statement, one commit, one wake-up for all of them. It runs with the wall's rights, so that
-- whose request it is need not be found out again for each row (record 0068): it finds each caller itself, and writes for nobody else.
--
-- The api has judged the requests from memory: who is behind a secret, which rules are in force and where the tenant stands on the
-- ladder (c_*, once for all requests of the same caller; c_ladder null: no ladder binds it), which version of a type is the newest,
-- whether that is the tenant's own, and what rules say of all who ask alike (j_*, once for all of them; j_caller: whose it is, a place
-- in c_*). m_judged is a place in j_*. Here, in the transaction that keeps the mission, each of these is looked at once more, and
-- what was judged by something that is no longer so comes back undone, to be judged anew.
--
-- outcome: accepted · refused (by policy: decision and fact are kept) · replayed (the answer given under this Idempotency-Key) ·
-- or, with nothing kept: unauthenticated, caller_changed, policy_changed, ladder_changed, type_changed, in_flight, mismatch, exhausted (the
-- tenant's budget: body says what is lacking).
-- An answer is head || at || middle || at || tail: only here is known when the mission was taken in. Without a tail it is head.
CREATE FUNCTION take_in(
  c_secret text[], c_tenant uuid[], c_principal uuid[], c_roles text[], c_change bigint[], c_set bytea[], c_ladder bigint[],
  j_caller int[], j_type text[], j_type_version int[], j_own boolean[], j_mode text[], j_surface text[], j_risk text[],
  j_sensitivity text[], j_time bigint[], j_tokens bigint[], j_cost numeric[], j_replay_of uuid[], j_replay_mode text[],
  j_effect text[], j_rule text[], j_policy_version text[], j_reason text[], j_inputs bytea[], j_obligations text[],
  m_judged int[], m_id uuid[], m_workspace text[], m_contract bytea[], m_labels text[], m_trace text[],
  d_id uuid[], e_id uuid[], e_bytes bytea[], f_body bytea[], f_request uuid[],
  k_key text[], k_fingerprint bytea[], k_status int[], k_headers text[], k_head bytea[], k_middle bytea, k_tail bytea[])
RETURNS TABLE (n int, outcome text, at timestamptz, status int, headers jsonb, body bytea)
-- one plan for each statement, whatever number of requests it is for: planning costs more than confirming does. So it has to be one
-- that reads through an index, however small a table was when it was made.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  who record; doubt text[]; stale text[]; tenants uuid[]; principals uuid[]; retyped boolean[]; moment timestamptz := clock_timestamp();
  stamp bytea := convert_to(to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'UTF8');
  say text[] := array_fill(NULL::text, ARRAY[cardinality(m_id)]); m_caller int[] := array_fill(0, ARRAY[cardinality(m_id)]);
  lacking text[] := '{}'; i int; line int[]; firsts int[]; lasts int[]; piece int[]; low int; high int; why text; whose text;
BEGIN
  PERFORM set_config('lock_timeout', '500ms', true);   -- whoever waits holds up everybody in the batch: rather alone, and later
  -- Each caller and each judgement in its own tenant: what a CASE says after enter_tenant is looked at after it, for every row anew.
  -- What is written from here on is written for whom the secret has led to (tenants, principals), and never for whom the caller
  -- named: an array that begins at another number than 1 would have another one in the place that was looked at.
  SELECT array_agg(x.who ORDER BY x.c), array_agg(x.rest ORDER BY x.c), array_agg(x.tenant ORDER BY x.c), array_agg(x.principal ORDER BY x.c)
  INTO doubt, stale, tenants, principals FROM (
    SELECT o.c, a.tenant, a.principal,
      CASE WHEN a.tenant IS NULL THEN 'unauthenticated'
           WHEN (a.tenant, a.principal, a.roles) IS DISTINCT FROM (o.tenant, o.principal, o.roles) THEN 'caller_changed' END AS who,
      CASE WHEN NOT enter_tenant(o.tenant) THEN NULL
           WHEN o.ladder IS NOT NULL
             AND o.ladder <> (SELECT COALESCE(max(r.change), 0) FROM rung_change r WHERE r.tenant = o.tenant) THEN 'ladder_changed'
           WHEN o.change <> (SELECT COALESCE(max(p.change), 0) FROM policy p WHERE p.tenant = o.tenant)
             OR (SELECT true FROM policy_set s WHERE s.tenant = o.tenant AND s.version = o.rules LIMIT 1) IS NULL
             THEN 'policy_changed' END AS rest
    FROM unnest(c_secret, c_tenant, c_principal, c_roles, c_change, c_set, c_ladder) WITH ORDINALITY
           AS o(secret, tenant, principal, roles, change, rules, ladder, c)
         LEFT JOIN LATERAL (
           SELECT f.tenant, f.principal, (SELECT COALESCE(string_agg(r, ',' ORDER BY r COLLATE "C"), '') FROM unnest(f.roles) r) AS roles
           FROM authenticate(sha256(convert_to(o.secret, 'UTF8'))) f) a ON true) x;
  SELECT array_agg(CASE WHEN enter_tenant(tenants[o.caller]) THEN (
           SELECT true FROM mission_type y WHERE y.tenant = tenants[o.caller] AND y.name = o.type
             AND (y.version > o.version OR NOT o.own AND y.version = o.version) LIMIT 1) END ORDER BY o.j) INTO retyped
    FROM unnest(j_caller, j_type, j_type_version, j_own) WITH ORDINALITY AS o(caller, type, version, own, j);
  FOR i IN 1 .. cardinality(m_id) LOOP
    m_caller[i] := j_caller[m_judged[i]];
    say[i] := doubt[m_caller[i]];
  END LOOP;
  IF num_nonnulls(VARIADIC k_key) > 0 THEN
    -- a key is looked up after its lock is taken, and so by a later statement
    FOR i IN SELECT o.i FROM unnest(m_caller, k_key) WITH ORDINALITY AS o(caller, key, i)
             WHERE say[o.i] IS NULL AND o.key IS NOT NULL AND NOT pg_try_advisory_xact_lock(hashtextextended(
               tenants[o.caller] || '|' || principals[o.caller] || '|missions.create|' || o.key, 11)) LOOP
      say[i] := 'in_flight';
    END LOOP;
    FOR who IN SELECT o.i, (o.known).fingerprint = o.fingerprint AS same, (o.known).status, (o.known).headers, (o.known).body FROM (
                 SELECT u.i, u.fingerprint, CASE WHEN enter_tenant(tenants[u.caller]) THEN (
                   SELECT y FROM idempotency y WHERE y.tenant = tenants[u.caller] AND y.principal = principals[u.caller]
                     AND y.route = 'missions.create' AND y.key = u.key LIMIT 1) END AS known
                 FROM unnest(m_caller, k_key, k_fingerprint) WITH ORDINALITY AS u(caller, key, fingerprint, i)
                 WHERE u.key IS NOT NULL AND say[u.i] IS NULL OFFSET 0) o
               WHERE (o.known).key IS NOT NULL LOOP
      say[who.i] := CASE WHEN who.same THEN 'replayed' ELSE 'mismatch' END;
      IF who.same THEN
        n := who.i; outcome := 'replayed'; at := NULL; status := who.status; headers := who.headers; body := who.body;
        RETURN NEXT;
      END IF;
    END LOOP;
  END IF;
  FOR i IN 1 .. cardinality(m_id) LOOP
    say[i] := COALESCE(say[i], stale[m_caller[i]], CASE WHEN retyped[m_judged[i]] THEN 'type_changed' END);
  END LOOP;
  -- All together, in the order of their tenants; when a tenant's budget refuses, those before it, its own one by one, and those
  -- after it: then it refuses that one only. Each row enters its own tenant just before it is written (enter_tenant); that what it
  -- is read from is MATERIALIZED keeps the planner from entering all of them first, which the policies would refuse.
  SELECT array_agg(o.i ORDER BY tenants[o.caller], o.i) INTO line
    FROM unnest(m_caller) WITH ORDINALITY AS o(caller, i) WHERE say[o.i] IS NULL;
  firsts := ARRAY[1]; lasts := ARRAY[COALESCE(cardinality(line), 0)];
  WHILE cardinality(firsts) > 0 LOOP
    piece := line[firsts[1]:lasts[1]];
    BEGIN
      WITH one AS MATERIALIZED (
        SELECT o.*, tenants[o.caller] AS tenant, principals[o.caller] AS principal, j_effect[o.judged] AS effect
        FROM unnest(m_caller, m_judged, m_id, m_workspace, m_contract, m_labels, m_trace, d_id, e_id, e_bytes,
                    k_key, k_fingerprint, k_status, k_headers, k_head, k_tail)
             WITH ORDINALITY AS o(caller, judged, id, workspace, contract, labels, trace, decision, artifact, bytes,
                    key, fingerprint, status, headers, head, tail, i)
        WHERE o.i = ANY (piece) ORDER BY tenants[o.caller], o.i),
      made AS (
        INSERT INTO mission (tenant, id, mission_type, type_version, mode, state, origin_surface, risk_level, sensitivity_class,
            requested_by, workspace, contract_hash, labels, traceparent, budget_time_ms, budget_tokens, budget_cost_usd,
            replay_of, replay_mode, created_at, updated_at)
          SELECT o.tenant, o.id, j_type[o.judged], j_type_version[o.judged], j_mode[o.judged], 'accepted', j_surface[o.judged],
            j_risk[o.judged], j_sensitivity[o.judged], o.principal, o.workspace, o.contract, o.labels::jsonb, o.trace,
            j_time[o.judged], j_tokens[o.judged], j_cost[o.judged], j_replay_of[o.judged], j_replay_mode[o.judged], moment, moment
          FROM one o WHERE o.effect <> 'deny' AND enter_tenant(o.tenant)),
      decided AS (
        INSERT INTO policy_decision (tenant, id, mission, principal, action, resource, effect, rule, policy_version, reason,
            inputs, obligations)
          SELECT o.tenant, o.decision, CASE WHEN o.effect <> 'deny' THEN o.id END, o.principal, 'mission.create', j_type[o.judged],
            o.effect, j_rule[o.judged], j_policy_version[o.judged], j_reason[o.judged], j_inputs[o.judged],
            j_obligations[o.judged]::jsonb
          FROM one o WHERE enter_tenant(o.tenant)),
      kept AS (
        INSERT INTO artifact (tenant, id, mission, attempt, schema_name, schema_version, producer, bytes)
          SELECT o.tenant, o.artifact, o.id, 1, 'mission_envelope', '1', 'root', o.bytes
          FROM one o WHERE o.effect <> 'deny' AND enter_tenant(o.tenant)),
      queued AS (
        INSERT INTO work (tenant, kind, subject, queue, next_at)
          SELECT o.tenant, CASE WHEN j_replay_mode[o.judged] = 'recorded' THEN 'replay'
              WHEN j_replay_mode[o.judged] = 'recorded_with_colony' THEN 'dispatch' WHEN o.effect = 'ask' THEN 'ask' ELSE 'dispatch' END,
            o.id, 'worker', moment
          FROM one o WHERE o.effect <> 'deny' AND enter_tenant(o.tenant))
      INSERT INTO idempotency (tenant, principal, route, key, fingerprint, status, headers, body)
        SELECT o.tenant, o.principal, 'missions.create', o.key, o.fingerprint, o.status, o.headers::jsonb,
          CASE WHEN o.tail IS NULL THEN o.head ELSE o.head || stamp || k_middle || stamp || o.tail END
        FROM one o WHERE o.key IS NOT NULL AND enter_tenant(o.tenant);
      -- last, and by itself: rows that others refer to and accounts are locked before a tenant's chain of facts
      WITH one AS MATERIALIZED (
        SELECT o.*, tenants[o.caller] AS tenant, j_effect[o.judged] AS effect
        FROM unnest(m_caller, m_judged, m_id, f_body, f_request) WITH ORDINALITY AS o(caller, judged, id, fact, request, i)
        WHERE o.i = ANY (piece) ORDER BY tenants[o.caller], o.i)
      INSERT INTO ledger (tenant, subject, type, actor, body, request)
        SELECT o.tenant, CASE WHEN o.effect = 'deny' THEN o.tenant ELSE o.id END,
          CASE WHEN o.effect = 'deny' THEN 'mission.refused' ELSE 'mission.accepted' END, 'principal:' || principals[o.caller],
          o.fact, o.request
        FROM one o WHERE enter_tenant(o.tenant);
      firsts := firsts[2:]; lasts := lasts[2:];
    EXCEPTION WHEN SQLSTATE 'RX020' THEN
      GET STACKED DIAGNOSTICS why = PG_EXCEPTION_DETAIL, whose = PG_EXCEPTION_HINT;
      IF cardinality(piece) = 1 THEN
        say[piece[1]] := 'exhausted'; lacking[piece[1]] := why;
        firsts := firsts[2:]; lasts := lasts[2:];
      ELSE
        SELECT min(x), max(x) INTO low, high FROM generate_series(firsts[1], lasts[1]) x WHERE tenants[m_caller[line[x]]] = whose::uuid;
        firsts := firsts[1] || array(SELECT generate_series(low, high)) || high + 1 || firsts[2:];
        lasts := low - 1 || array(SELECT generate_series(low, high)) || lasts;
      END IF;
    END;
  END LOOP;
  FOR i IN 1 .. cardinality(m_id) LOOP
    CONTINUE WHEN say[i] = 'replayed';
    n := i; outcome := COALESCE(say[i], CASE j_effect[m_judged[i]] WHEN 'deny' THEN 'refused' ELSE 'accepted' END);
    at := moment; status := NULL; headers := NULL; body := convert_to(lacking[i], 'UTF8');
    RETURN NEXT;
  END LOOP;
END $$;
DO $$
BEGIN
  EXECUTE (SELECT format('REVOKE ALL ON FUNCTION %s FROM PUBLIC; GRANT EXECUTE ON FUNCTION %1$s TO {prefix}_api', oid::regprocedure)
           FROM pg_proc WHERE proname = 'take_in' AND pronamespace = 'public'::regnamespace);
END $$;
