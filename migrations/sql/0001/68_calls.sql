-- Calls of tools and models: those that begin at the same moment are opened by one statement, those that end by another. Both run as
-- whoever calls them and add no right: every table's own triggers, policies and keys judge each row as they would judge it alone.
-- Locks come in one order: nonces, missions (by tenant and id), the accounts that they share, blobs, the ledger, the sums of models.

-- What missions were accepted with, none of which ever changes, and their envelopes: what their calls are judged by, in one look.
CREATE FUNCTION terms_of_missions(p_tenant uuid[], p_mission uuid[])
RETURNS TABLE (tenant uuid, id uuid, mission_type text, type_version int, mode text, sensitivity_class text, requested_by uuid,
               workspace text, replay_mode text, envelope bytea)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, pg_temp
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE t uuid;
BEGIN
  FOR t IN SELECT DISTINCT x FROM unnest(p_tenant) x ORDER BY x LOOP
    PERFORM set_config('app.tenant', t::text, true);
    RETURN QUERY
      SELECT t, m.id, m.mission_type, m.type_version, m.mode, m.sensitivity_class, m.requested_by, m.workspace, m.replay_mode, a.bytes
      FROM mission m JOIN artifact a ON a.tenant = t AND a.mission = m.id AND a.schema_name = 'mission_envelope' AND a.removed_at IS NULL
      WHERE m.tenant = t AND m.id = ANY (ARRAY(SELECT w.id FROM unnest(p_tenant, p_mission) w(tenant, id) WHERE w.tenant = t));
  END LOOP;
END $$;

-- Opens calls (c_*, the lists side by side) that were judged from memory. Everything that was remembered and may have changed is looked
-- at once more under the mission's lock: its attempt, state, deadline and budget; the rules in force (c_change, c_set); the layer of
-- the tool (c_layer null: no layer), its version, its switch, and whether the tool has drifted; which providers are switched off
-- (c_off, their names in order with commas; null: no model). What still stands gets its reservation, and the decisions about it
-- are kept (d_*; d_call: whose), of which one at least allows it. Of everything else nothing is kept but its nonce (n_nonce null: it has none).
-- outcome: opened · again (judge it anew: something is no longer so, or too little is left) · replayed (its nonce was seen before).
CREATE FUNCTION open_calls(
  n_kid text[], n_nonce text[], c_tenant uuid[], c_mission uuid[], c_attempt int[], c_change bigint[], c_set bytea[], c_layer text[],
  c_version int[], c_tool text[], c_off text[], c_purpose text[], c_tokens bigint[], c_cost numeric[], c_life interval[],
  d_call int[], d_id uuid[], d_principal uuid[], d_action text[], d_resource text[], d_effect text[], d_rule text[],
  d_policy_version text[], d_reason text[], d_inputs bytea[], d_obligations text[])
RETURNS TABLE (n int, outcome text, reservation uuid)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, pg_temp
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
  t uuid; i int; switched_off text; newest bigint; one uuid; held uuid[] := array_fill(NULL::uuid, ARRAY[cardinality(c_mission)]);
  say text[] := array_fill('again'::text, ARRAY[cardinality(c_mission)]);
BEGIN
  PERFORM set_config('lock_timeout', '500ms', true);   -- whoever waits holds up everybody in the batch: rather alone, and later
  FOR i IN
    SELECT s.places[f.n] FROM (
      SELECT array_agg(o.i::int ORDER BY o.i) AS places, use_nonces(array_agg(o.kid ORDER BY o.i), array_agg(o.nonce ORDER BY o.i)) AS fresh
      FROM unnest(n_kid, n_nonce) WITH ORDINALITY AS o(kid, nonce, i) WHERE o.nonce IS NOT NULL HAVING count(*) > 0) s,
      unnest(s.fresh) WITH ORDINALITY AS f(fresh, n)
    WHERE NOT f.fresh
  LOOP
    say[i] := 'replayed';
  END LOOP;
  FOR t IN SELECT DISTINCT x FROM unnest(c_tenant) x ORDER BY x LOOP
    PERFORM set_config('app.tenant', t::text, true);
    PERFORM 1 FROM mission x WHERE x.tenant = t AND x.id = ANY (c_mission) ORDER BY x.id FOR NO KEY UPDATE;
  END LOOP;
  IF num_nonnulls(VARIADIC c_off) > 0 THEN
    SELECT COALESCE(string_agg(s.provider, ',' ORDER BY s.provider COLLATE "C"), '') INTO switched_off FROM model_switches() s WHERE s.off_at IS NOT NULL;
  END IF;
  FOR t IN SELECT DISTINCT x FROM unnest(c_tenant) x ORDER BY x LOOP
    PERFORM set_config('app.tenant', t::text, true);
    SELECT COALESCE(max(p.change), 0) INTO newest FROM policy p WHERE p.tenant = t;
    -- each mission through its index (OFFSET 0), however small the table was when this was planned
    FOR i IN
      SELECT o.i FROM unnest(c_tenant, c_mission, c_attempt, c_change, c_set, c_layer, c_version, c_tool, c_off)
          WITH ORDINALITY AS o(tenant, mission, attempt, change, set, layer, version, tool, off, i), LATERAL (
        SELECT x.* FROM mission x WHERE x.tenant = t AND x.id = o.mission OFFSET 0) m
      WHERE o.tenant = t AND say[o.i] = 'again' AND m.attempt = o.attempt AND m.state IN ('accepted', 'dispatched', 'running')
        AND m.used_tokens <= m.budget_tokens AND m.used_cost_usd <= m.budget_cost_usd
        AND (m.deadline_at IS NULL OR m.deadline_at > clock_timestamp())
        AND o.change = newest AND (SELECT true FROM policy_set s WHERE s.tenant = t AND s.version = o.set LIMIT 1)
        AND (o.off IS NULL OR o.off = switched_off)
        AND (o.layer IS NULL OR (
          (SELECT l.version = o.version AND NOT l.retired FROM tool_layer l WHERE l.tenant = t AND l.name = o.layer ORDER BY l.version DESC LIMIT 1)
          AND NOT EXISTS (SELECT FROM tool_layer_switch w WHERE w.tenant = t AND w.layer IN (o.layer, '*') AND w.halted_at IS NOT NULL)
          AND NOT EXISTS (SELECT FROM tool_layer_state s WHERE s.tenant = t AND s.layer = o.layer AND s.version = o.version
                            AND o.tool = ANY (s.drifted))))
      ORDER BY o.mission, o.i
    LOOP
      one := (reserve_budget(t, c_mission[i], c_tokens[i], c_cost[i], 0, c_purpose[i], c_life[i])).reservation;
      IF one IS NOT NULL THEN
        say[i] := 'opened'; held[i] := one;
      END IF;
    END LOOP;
    INSERT INTO policy_decision (tenant, id, mission, principal, action, resource, effect, rule, policy_version, reason, inputs, obligations)
      SELECT t, d.id, c_mission[d.call], d.principal, d.action, d.resource, d.effect, d.rule, d.policy_version, d.reason, d.inputs,
        d.obligations::jsonb
      FROM unnest(d_call, d_id, d_principal, d_action, d_resource, d_effect, d_rule, d_policy_version, d_reason, d_inputs, d_obligations)
        AS d(call, id, principal, action, resource, effect, rule, policy_version, reason, inputs, obligations)
      WHERE c_tenant[d.call] = t AND say[d.call] = 'opened';
  END LOOP;
  RETURN QUERY SELECT o.i::int, o.outcome, o.reservation FROM unnest(say, held) WITH ORDINALITY AS o(outcome, reservation, i);
END $$;

-- Calls that have ended (c_*, the lists side by side): each is settled, told, put on the tape (t_attempt null: it is on none) and added
-- up, once, however often it is given. Before that the bytes that were shown are kept (b_*, each with its call) and noted as shown (r_*).
CREATE FUNCTION close_calls(
  c_tenant uuid[], c_mission uuid[], c_reservation uuid[], c_kind text[], c_in bigint[], c_out bigint[], c_cost numeric[],
  c_calls_ms bigint[], c_provider text[], c_failed boolean[], c_type text[], c_actor text[], c_fact bytea[], c_used_up jsonb,
  t_attempt int[], t_name text[], t_arguments bytea[], t_outcome text[], t_answer bytea[], t_took double precision[],
  b_call int[], b_sha256 bytea[], b_size bigint[], b_bytes bytea[], b_object uuid[], b_chunks bytea[],
  r_call int[], r_source bytea[], r_document text[], r_kind text[], r_version text[]) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, pg_temp
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_sort = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE t uuid; i int; b record; used record; ended text; told int[] := '{}';
BEGIN
  PERFORM set_config('lock_timeout', '500ms', true);
  FOR t IN SELECT DISTINCT x FROM unnest(c_tenant) x ORDER BY x LOOP
    PERFORM set_config('app.tenant', t::text, true);
    PERFORM 1 FROM public.mission x WHERE x.tenant = t AND x.id = ANY (c_mission) ORDER BY x.id FOR NO KEY UPDATE;
  END LOOP;
  -- a tool uses nothing that others share, and a call alone takes what it uses in the same order
  IF cardinality(c_kind) > 1 AND 'model' = ANY (c_kind) THEN
    PERFORM hold_budgets(array_agg(o.tenant), array_agg(o.mission))
      FROM unnest(c_tenant, c_mission, c_kind) o(tenant, mission, kind) WHERE o.kind = 'model';
  END IF;
  -- the same bytes once: everybody who shows them waits for their row
  FOR b IN SELECT DISTINCT ON (c_tenant[o.call], o.sha256) c_tenant[o.call] AS tenant, o.*
           FROM unnest(b_call, b_sha256, b_size, b_bytes, b_object, b_chunks) o(call, sha256, size, bytes, object, chunks)
           ORDER BY c_tenant[o.call], o.sha256 LOOP
    PERFORM set_config('app.tenant', b.tenant::text, true);
    PERFORM keep_blob(b.tenant, b.sha256, b.size, b.bytes, b.object, b.chunks);
  END LOOP;
  FOR t IN SELECT DISTINCT c_tenant[o.call] FROM unnest(r_call) o(call) ORDER BY 1 LOOP
    PERFORM set_config('app.tenant', t::text, true);
    INSERT INTO public.reading (tenant, mission, source_sha256, document, kind, version)
      SELECT t, c_mission[o.call], o.source, o.document, o.kind, o.version
      FROM unnest(r_call, r_source, r_document, r_kind, r_version) o(call, source, document, kind, version)
      WHERE c_tenant[o.call] = t ORDER BY c_mission[o.call], o.source, o.document ON CONFLICT DO NOTHING;
  END LOOP;
  FOR i IN SELECT o.n FROM unnest(c_tenant, c_mission) WITH ORDINALITY o(tenant, mission, n) ORDER BY o.tenant, o.mission, o.n LOOP
    PERFORM set_config('app.tenant', c_tenant[i]::text, true);
    SELECT r.state INTO ended FROM public.budget_reservation r WHERE r.tenant = c_tenant[i] AND r.id = c_reservation[i];
    CONTINUE WHEN ended = 'settled';   -- a commit of which nobody has heard
    used := settle_budget(c_tenant[i], c_reservation[i], c_in[i] + c_out[i], c_cost[i], 0, c_calls_ms[i]);
    IF used.was_over IS NULL THEN      -- its time was over first, and the reservation says nothing of what came after
      -- a model's fact names its decision: no other call has the same
      CONTINUE WHEN c_kind[i] = 'model' AND EXISTS (
        SELECT FROM public.ledger l WHERE l.tenant = c_tenant[i] AND l.subject = c_mission[i] AND l.type = c_type[i] AND l.body = c_fact[i]);
      -- it was used all the same, if not all that it held was counted then
      IF ended IS DISTINCT FROM 'presumed' AND (c_in[i] + c_out[i] > 0 OR c_cost[i] > 0) THEN
        used := spend_budget(c_tenant[i], c_mission[i], c_in[i] + c_out[i], c_cost[i]);
      END IF;
    END IF;
    IF used.is_over AND NOT used.was_over THEN
      PERFORM budget_used_up(c_tenant[i], c_mission[i], c_actor[i], c_used_up);
    END IF;
    INSERT INTO public.ledger (tenant, subject, type, actor, body)
      VALUES (c_tenant[i], c_mission[i], c_type[i], c_actor[i], c_fact[i]);
    IF t_attempt[i] IS NOT NULL THEN   -- the fact before it holds the mission's place in the ledger: ordinals are not given twice
      INSERT INTO public.tape (tenant, mission, attempt, kind, name, ordinal, arguments, arguments_sha256, outcome, answer, answer_sha256,
                               took_ms)
      VALUES (c_tenant[i], c_mission[i], t_attempt[i], c_kind[i], t_name[i], 1 + COALESCE((
          SELECT t.ordinal FROM public.tape t
          WHERE t.tenant = c_tenant[i] AND t.mission = c_mission[i] AND t.attempt = t_attempt[i] AND t.kind = c_kind[i]
            AND t.name = t_name[i] AND t.arguments_sha256 = sha256(t_arguments[i]) ORDER BY t.ordinal DESC LIMIT 1), 0), t_arguments[i],
        sha256(t_arguments[i]), t_outcome[i], t_answer[i], sha256(t_answer[i]), t_took[i]);
    END IF;
    told := told || i;
  END LOOP;
  FOR i IN SELECT o.n FROM unnest(c_tenant, c_provider) WITH ORDINALITY o(tenant, provider, n)
           WHERE o.n = ANY (told) AND o.provider IS NOT NULL ORDER BY o.tenant, o.provider, o.n LOOP
    PERFORM set_config('app.tenant', c_tenant[i]::text, true);
    PERFORM note_model_use(c_tenant[i], c_provider[i], c_failed[i], c_in[i], c_out[i], c_cost[i]);
  END LOOP;
END $$;

DO $$
DECLARE f text;
BEGIN
  FOR f IN SELECT oid::regprocedure FROM pg_proc
           WHERE proname IN ('terms_of_missions', 'open_calls', 'close_calls') AND pronamespace = 'public'::regnamespace LOOP
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO {prefix}_api', f);
  END LOOP;
END $$;
