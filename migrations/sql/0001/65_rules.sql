-- What moves approvals beside decisions: the ladder of time, the broken glass, edits, renewals, withdrawals; and who hears of it.

CREATE TABLE notice (                -- a person is told that an approval wants them; written by the wall alone
  tenant uuid NOT NULL,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  principal uuid NOT NULL,
  approval uuid NOT NULL,
  kind text NOT NULL CHECK (kind IN ('reminder', 'escalation', 'glass_broken', 'reassigned', 'question', 'answer')),
  step int NOT NULL,                 -- of the ladder; 0 for a broken glass; counted on from the ladder's when a person handed it on;
                                     -- the question's number
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  seen_at timestamptz,
  PRIMARY KEY (tenant, id),
  CONSTRAINT notice_once UNIQUE (tenant, approval, kind, step, principal),
  FOREIGN KEY (tenant, principal) REFERENCES principal (tenant, id),
  FOREIGN KEY (tenant, approval) REFERENCES approval (tenant, id)
);
CREATE INDEX notice_newest ON notice (tenant, principal, at DESC, id DESC);

-- A notice can only be seen, once.
CREATE FUNCTION guard_notice() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF (NEW.tenant, NEW.id, NEW.principal, NEW.approval, NEW.kind, NEW.step, NEW.at) IS DISTINCT FROM
     (OLD.tenant, OLD.id, OLD.principal, OLD.approval, OLD.kind, OLD.step, OLD.at)
     OR OLD.seen_at IS NOT NULL OR NEW.seen_at IS NULL THEN
    RAISE EXCEPTION 'wall: a notice can only be seen, once' USING ERRCODE = 'RX001';
  END IF;
  NEW.seen_at := clock_timestamp();
  RETURN NEW;
END $$;
CREATE TRIGGER notice_guard BEFORE UPDATE ON notice FOR EACH ROW EXECUTE FUNCTION guard_notice();
CREATE TRIGGER notice_keep BEFORE DELETE ON notice FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER notice_whole BEFORE TRUNCATE ON notice FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE notice ENABLE ALWAYS TRIGGER notice_guard;
ALTER TABLE notice ENABLE ALWAYS TRIGGER notice_keep;
ALTER TABLE notice ENABLE ALWAYS TRIGGER notice_whole;
ALTER TABLE notice ENABLE ROW LEVEL SECURITY; ALTER TABLE notice FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON notice USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid);
GRANT SELECT ON notice TO {prefix}_api, {prefix}_auditor;

-- Tells every live holder of one of the roles. Who took part or has decided already is not asked to decide.
CREATE FUNCTION give_notice(p_approval approval, p_kind text, p_step int, p_roles text[]) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public, pg_temp AS $$
  INSERT INTO public.notice (tenant, principal, approval, kind, step)
  SELECT p.tenant, p.id, p_approval.id, p_kind, p_step FROM public.principal p
  WHERE p.tenant = p_approval.tenant AND p.kind = 'human' AND p.suspended_at IS NULL
    AND EXISTS (SELECT 1 FROM public.role_grant g WHERE g.tenant = p.tenant AND g.principal = p.id AND g.role = ANY (p_roles)
      AND g.revoked_at IS NULL AND (g.expires_at IS NULL OR g.expires_at > clock_timestamp()))
    AND (p_kind = 'glass_broken' OR NOT (
      public.took_part(p.tenant, p.id, p_approval.requested_by, p_approval.writeback)
      OR EXISTS (SELECT 1 FROM public.decision d WHERE d.tenant = p.tenant AND d.approval = p_approval.id AND d.approver = p.id)
      OR NOT public.entitled_to(p.tenant, p.id, p_roles, p_approval.must_hold)))
  ON CONFLICT DO NOTHING
$$;

-- "I have seen it", by the person it was for. outcome: seen · already_seen · not_found · unauthenticated.
CREATE FUNCTION see_notice(p_tenant uuid, p_notice uuid, p_secret text)
RETURNS TABLE (outcome text, seen_at timestamptz, approval uuid, mission uuid, principal uuid)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE n public.notice; who uuid; m uuid; was timestamptz;
BEGIN
  PERFORM require_tenant(p_tenant);
  who := principal_of(p_tenant, p_secret);
  IF who IS NULL THEN RETURN QUERY SELECT 'unauthenticated', NULL::timestamptz, NULL::uuid, NULL::uuid, NULL::uuid; RETURN; END IF;
  SELECT * INTO n FROM public.notice x WHERE x.tenant = p_tenant AND x.id = p_notice AND x.principal = who FOR UPDATE;
  IF n.id IS NULL THEN RETURN QUERY SELECT 'not_found', NULL::timestamptz, NULL::uuid, NULL::uuid, who; RETURN; END IF;
  SELECT a.mission INTO m FROM public.approval a WHERE a.tenant = p_tenant AND a.id = n.approval;
  was := n.seen_at;
  IF was IS NULL THEN
    UPDATE public.notice x SET seen_at = clock_timestamp() WHERE x.tenant = p_tenant AND x.id = p_notice RETURNING * INTO n;
    PERFORM wall_fact(p_tenant, m, 'notice.seen', 'principal:' || who, jsonb_build_object(
      'notice', n.id, 'approval', n.approval, 'kind', n.kind));
  END IF;
  RETURN QUERY SELECT CASE WHEN was IS NULL THEN 'seen' ELSE 'already_seen' END, n.seen_at, n.approval, m, who;
END $$;

-- ------------------------------------------------------------------ time
-- When an approval next changes by time alone; null when it never will.
CREATE FUNCTION next_step(p_approval approval) RETURNS timestamptz LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT CASE
    WHEN p_approval.state = 'pending' THEN LEAST(p_approval.expires_at, CASE WHEN p_approval.glass_broken_by IS NULL THEN
      (p_approval.ladder -> cardinality(p_approval.climbed) ->> 'at')::timestamptz END)
    WHEN p_approval.state = 'approved' AND p_approval.writeback IS NOT NULL AND NOT EXISTS (
      SELECT 1 FROM public.execution e WHERE e.tenant = p_approval.tenant AND e.writeback = p_approval.writeback)
      THEN p_approval.expires_at END
$$;

-- Does every step of the ladder whose time has come, each once and each with its fact; the step after the last is expiry,
-- which fails closed. Answers when to come again; null: never.
CREATE FUNCTION climb(p_tenant uuid, p_approval uuid) RETURNS timestamptz
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE a public.approval; hop jsonb; done int; due int; escalates boolean;
BEGIN
  PERFORM require_tenant(p_tenant);
  PERFORM 1 FROM public.mission x
    WHERE x.tenant = p_tenant AND x.id = (SELECT y.mission FROM public.approval y WHERE y.tenant = p_tenant AND y.id = p_approval)
    FOR SHARE;
  SELECT * INTO a FROM public.approval x WHERE x.tenant = p_tenant AND x.id = p_approval FOR UPDATE;
  IF a.id IS NULL THEN RETURN NULL; END IF;
  IF clock_timestamp() >= a.expires_at THEN    -- nobody is reminded of what can no longer be decided
    PERFORM close_approval(p_tenant, p_approval, 'expired', NULL);
    RETURN NULL;
  END IF;
  IF a.state = 'pending' AND a.glass_broken_by IS NULL THEN
    done := cardinality(a.climbed);
    due := (SELECT count(*) FROM jsonb_array_elements(a.ladder) h (hop) WHERE (h.hop ->> 'at')::timestamptz <= clock_timestamp());
    IF due > done THEN
      UPDATE public.approval x SET climbed = x.climbed || array_fill(clock_timestamp(), ARRAY[due - done])
        WHERE x.tenant = p_tenant AND x.id = p_approval RETURNING * INTO a;
      FOR step IN done + 1 .. due LOOP
        hop := a.ladder -> (step - 1);
        escalates := hop ->> 'kind' = 'escalate';    -- as the guard says: who is asked already is reminded
        PERFORM give_notice(a, CASE WHEN escalates THEN 'escalation' ELSE 'reminder' END, step,
                            CASE WHEN hop ? 'role' THEN ARRAY[hop ->> 'role'] ELSE a.may_decide END);
        PERFORM wall_fact(p_tenant, a.mission, CASE WHEN escalates THEN 'approval.escalated' ELSE 'approval.reminded' END,
          'system:ladder', jsonb_strip_nulls(jsonb_build_object(
            'approval', a.id, 'writeback', a.writeback, 'hop', step, 'role', hop ->> 'role', 'due_at', hop ->> 'at')));
      END LOOP;
    END IF;
  END IF;
  RETURN next_step(a);
END $$;

-- A ladder does not stop because a row of the work table was lost. Answers how many were put back; tenant by tenant, because
-- not even the owner of the tables sees two at once.
CREATE FUNCTION restore_approval_timers() RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE t uuid; n int; total int := 0; entered text := current_setting('app.tenant', true);
BEGIN
  FOR t IN SELECT x.id FROM public.tenant x LOOP
    PERFORM set_config('app.tenant', t::text, true);
    INSERT INTO public.work (tenant, kind, subject, queue)
    SELECT t, 'approval_timer', (lost.approval).id, 'worker' FROM (
      SELECT due.approval FROM (
        SELECT a AS approval FROM public.approval a WHERE a.tenant = t AND a.state = 'pending'
        UNION ALL   -- approved ones stay for ever; an answered question waits for nothing
        SELECT a FROM public.approval a WHERE a.tenant = t AND a.state = 'approved' AND a.writeback IS NOT NULL
          AND a.expires_at > statement_timestamp() - interval '7 days') due
      -- each by its key: a join might compare each with each
      WHERE (SELECT true FROM public.work k
             WHERE k.tenant = t AND k.kind = 'approval_timer' AND k.subject = (due.approval).id OFFSET 0) IS NULL
      OFFSET 0) lost   -- what step would be next is worked out for those alone
    WHERE next_step(lost.approval) IS NOT NULL
    LIMIT 1000
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS n = ROW_COUNT;
    total := total + n;
  END LOOP;
  PERFORM set_config('app.tenant', COALESCE(entered, ''), true);
  RETURN total;
END $$;

-- ------------------------------------------------------------------ people
-- Breaking the glass: the pending approval moves under the tenant's break-glass rule, and the declaration is its first vote.
-- outcome: recorded · approved (an earlier vote completed the quorum) · or why not: not_found, unauthenticated, not_pending,
-- already_broken, expired, own_request, not_entitled, already_decided, other_payload, stale, mission_closed, halted, no_comment,
-- no_rule, and what decide() answers.
CREATE FUNCTION break_glass(p_tenant uuid, p_approval uuid, p_secret text, p_version int, p_sha256 bytea, p_reason text,
                            p_signature bytea DEFAULT NULL)
RETURNS TABLE (outcome text, state text, version int, approver uuid, not_before timestamptz, expires_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE a public.approval; was public.approval; m record; who uuid; say text; vote record;
BEGIN
  PERFORM require_tenant(p_tenant);
  SELECT x.state INTO m FROM public.mission x
    WHERE x.tenant = p_tenant AND x.id = (SELECT y.mission FROM public.approval y WHERE y.tenant = p_tenant AND y.id = p_approval)
    FOR SHARE;
  SELECT * INTO a FROM public.approval x WHERE x.tenant = p_tenant AND x.id = p_approval FOR UPDATE;
  who := principal_of(p_tenant, p_secret);
  IF a.id IS NULL THEN
    RETURN QUERY SELECT 'not_found', NULL::text, NULL::int, who, NULL::timestamptz, NULL::timestamptz; RETURN;
  END IF;
  say := CASE
    WHEN who IS NULL THEN 'unauthenticated'
    WHEN a.state <> 'pending' THEN 'not_pending'
    WHEN clock_timestamp() >= a.expires_at THEN 'expired'
    WHEN took_part(p_tenant, who, a.requested_by, a.writeback) THEN 'own_request'
    WHEN NOT entitled_to(p_tenant, who, ARRAY['break_glass'], a.must_hold) THEN 'not_entitled'
    WHEN EXISTS (SELECT 1 FROM public.decision d WHERE d.tenant = p_tenant AND d.approval = p_approval AND d.approver = who)
      THEN 'already_decided'
    WHEN a.glass_broken_by IS NOT NULL THEN 'already_broken'
    WHEN COALESCE(p_reason, '') !~ '[^[:space:]]' THEN 'no_comment'
    WHEN a.payload_sha256 IS DISTINCT FROM p_sha256 THEN 'other_payload'
    WHEN a.version IS DISTINCT FROM p_version THEN 'stale'
    WHEN (glass_rule(p_tenant, a.subject)).id IS NULL THEN 'no_rule'
    END;
  IF say IS NOT NULL THEN RETURN QUERY SELECT say, a.state, a.version, who, a.not_before, a.expires_at; RETURN; END IF;
  was := a;
  BEGIN
    UPDATE public.approval x SET glass_broken_by = who WHERE x.tenant = p_tenant AND x.id = p_approval RETURNING * INTO a;
    PERFORM wall_fact(p_tenant, a.mission, 'approval.glass_broken', 'principal:' || who, jsonb_build_object(
      'approval', a.id, 'subject', a.subject, 'writeback', a.writeback, 'payload_sha256', encode(a.payload_sha256, 'hex'),
      'rule', a.rule, 'rule_version', a.rule_version, 'was_rule', a.was_rule, 'was_rule_version', a.was_rule_version,
      'required', a.required, 'expires_at', a.expires_at));
    PERFORM give_notice(a, 'glass_broken', 0, ARRAY['admin']);
    SELECT d.* INTO vote FROM decide(p_tenant, p_approval, p_secret, a.version, p_sha256, 'approve', p_reason, p_signature) d;
    IF vote.outcome NOT IN ('recorded', 'approved') THEN
      RAISE EXCEPTION 'wall: %', vote.outcome USING ERRCODE = 'RX015';   -- a declaration without its vote is none
    END IF;
  EXCEPTION
    WHEN SQLSTATE 'RX015' THEN
      RETURN QUERY SELECT vote.outcome, was.state, was.version, who, was.not_before, was.expires_at; RETURN;
    WHEN SQLSTATE 'RX004' THEN
      RETURN QUERY SELECT 'expired', was.state, was.version, who, was.not_before, was.expires_at; RETURN;
  END;
  IF vote.state = 'pending' THEN PERFORM want_work(p_tenant, 'approval_timer', p_approval, 'worker', a.expires_at); END IF;
  RETURN QUERY SELECT vote.outcome, vote.state, vote.version, who, vote.not_before, a.expires_at;
END $$;

-- A person takes back what is pending, or approved and not yet claimed.
-- outcome: cancelled · or why not: not_found, unauthenticated, not_entitled, not_a_writeback, claimed, not_pending, stale, no_comment.
CREATE FUNCTION withdraw(p_tenant uuid, p_approval uuid, p_secret text, p_version int, p_reason text)
RETURNS TABLE (outcome text, state text, version int, who uuid)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE a public.approval; was text; actor uuid; say text;
BEGIN
  PERFORM require_tenant(p_tenant);
  PERFORM 1 FROM public.mission x
    WHERE x.tenant = p_tenant AND x.id = (SELECT y.mission FROM public.approval y WHERE y.tenant = p_tenant AND y.id = p_approval)
    FOR SHARE;
  SELECT * INTO a FROM public.approval x WHERE x.tenant = p_tenant AND x.id = p_approval FOR UPDATE;
  actor := principal_of(p_tenant, p_secret);
  IF a.id IS NULL THEN RETURN QUERY SELECT 'not_found', NULL::text, NULL::int, actor; RETURN; END IF;
  say := CASE
    WHEN actor IS NULL THEN 'unauthenticated'
    WHEN NOT entitled(p_tenant, actor, 'operator') THEN 'not_entitled'
    WHEN a.writeback IS NULL THEN 'not_a_writeback'
    WHEN EXISTS (SELECT 1 FROM public.execution e WHERE e.tenant = p_tenant AND e.writeback = a.writeback) THEN 'claimed'
    WHEN a.state NOT IN ('pending', 'approved') THEN 'not_pending'
    WHEN a.version IS DISTINCT FROM p_version THEN 'stale'
    WHEN COALESCE(p_reason, '') !~ '[^[:space:]]' THEN 'no_comment'
    END;
  IF say IS NOT NULL THEN RETURN QUERY SELECT say, a.state, a.version, actor; RETURN; END IF;
  was := a.state;
  UPDATE public.approval x SET state = 'cancelled', note = btrim(p_reason), withdrawn_by = actor
    WHERE x.tenant = p_tenant AND x.id = p_approval RETURNING * INTO a;
  PERFORM wall_fact(p_tenant, a.mission, 'approval.closed', 'principal:' || actor, jsonb_build_object(
    'approval', a.id, 'subject', a.subject, 'writeback', a.writeback, 'state', a.state, 'was', was,
    'note_sha256', encode(sha256(convert_to(a.note, 'UTF8')), 'hex')));
  RETURN QUERY SELECT 'cancelled', a.state, a.version, actor;
END $$;

-- A person hands a pending approval to another role, out of those that its rule names: instead of those asked so far, so that votes of
-- who may decide no longer do not count while a veto stands; or as well, as the ladder would later.
-- outcome: reassigned · escalated · or why not: not_found, unauthenticated, not_pending, expired, own_request, not_entitled, no_say,
-- stale, no_comment, already_broken, unchanged_role, asked_already, not_a_role_of_the_rule, too_often,
-- too_often_yours. further: whom the rule names besides.
CREATE FUNCTION hand_on(p_tenant uuid, p_approval uuid, p_secret text, p_version int, p_role text, p_instead boolean, p_reason text)
RETURNS TABLE (outcome text, state text, version int, who uuid, may_decide text[], further text[])
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE a public.approval; r public.approval_rule; was text[]; named text[]; actor uuid; say text;
BEGIN
  PERFORM require_tenant(p_tenant);
  PERFORM 1 FROM public.mission x
    WHERE x.tenant = p_tenant AND x.id = (SELECT y.mission FROM public.approval y WHERE y.tenant = p_tenant AND y.id = p_approval)
    FOR SHARE;
  SELECT * INTO a FROM public.approval x WHERE x.tenant = p_tenant AND x.id = p_approval FOR UPDATE;
  actor := principal_of(p_tenant, p_secret);
  IF a.id IS NULL THEN RETURN QUERY SELECT 'not_found', NULL::text, NULL::int, actor, NULL::text[], NULL::text[]; RETURN; END IF;
  SELECT * INTO r FROM public.approval_rule x WHERE x.tenant = a.tenant AND x.id = a.rule AND x.version = a.rule_version;
  named := r.may_escalate_to || CASE WHEN p_instead THEN ARRAY[r.approver_role] ELSE '{}' END;
  say := CASE
    WHEN actor IS NULL THEN 'unauthenticated'
    WHEN a.state <> 'pending' THEN 'not_pending'
    WHEN clock_timestamp() >= a.expires_at THEN 'expired'
    WHEN took_part(p_tenant, actor, a.requested_by, a.writeback) THEN 'own_request'
    WHEN p_instead AND NOT entitled(p_tenant, actor, 'operator') THEN 'not_entitled'
    WHEN NOT has_a_say(a, actor) THEN 'no_say'
    WHEN a.version IS DISTINCT FROM p_version THEN 'stale'
    WHEN a.glass_broken_by IS NOT NULL THEN 'already_broken'
    WHEN COALESCE(p_reason, '') !~ '[^[:space:]]' THEN 'no_comment'
    WHEN NOT p_instead AND p_role = ANY (a.may_decide) THEN 'asked_already'
    WHEN (p_role = ANY (named)) IS NOT TRUE THEN 'not_a_role_of_the_rule'
    WHEN a.may_decide = ARRAY[p_role] THEN 'unchanged_role'
    WHEN jsonb_array_length(a.handed) >= 50 THEN 'too_often'
    WHEN handed_by(a.handed, actor::text) >= 10 THEN 'too_often_yours'
    END;
  IF say IS NOT NULL THEN
    RETURN QUERY SELECT say, a.state, a.version, actor, a.may_decide,
      ARRAY(SELECT DISTINCT x.role FROM unnest(named) x (role) WHERE ARRAY[x.role] <> a.may_decide
        AND (p_instead OR x.role <> ALL (a.may_decide)) ORDER BY 1);
    RETURN;
  END IF;
  was := a.may_decide;
  UPDATE public.approval x SET handed = x.handed || jsonb_build_object('by', actor, 'to', p_role, 'instead', p_instead, 'reason', p_reason)
    WHERE x.tenant = p_tenant AND x.id = p_approval RETURNING * INTO a;
  PERFORM give_notice(a, CASE WHEN p_instead THEN 'reassigned' ELSE 'escalation' END,
                      jsonb_array_length(a.ladder) + jsonb_array_length(a.handed), ARRAY[p_role]);
  PERFORM wall_fact(p_tenant, a.mission, CASE WHEN p_instead THEN 'approval.reassigned' ELSE 'approval.escalated' END,
    'principal:' || actor, jsonb_build_object(
      'approval', a.id, 'subject', a.subject, 'writeback', a.writeback, 'role', p_role, 'was', to_jsonb(was),
      'reason_sha256', encode(sha256(convert_to(a.handed -> -1 ->> 'reason', 'UTF8')), 'hex')));
  RETURN QUERY SELECT CASE WHEN p_instead THEN 'reassigned' ELSE 'escalated' END, a.state, a.version, actor, a.may_decide, '{}'::text[];
END $$;

-- Two lists of obligations as one: of each the stricter. Whom policy named when it was first asked stays named: what a
-- serving process says now may add, and takes nothing away.
CREATE FUNCTION stricter(p_old jsonb, p_new jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT COALESCE(p_new, '{}') || p_old || jsonb_strip_nulls(jsonb_build_object(
    'approvals', GREATEST((p_old ->> 'approvals')::int, (p_new ->> 'approvals')::int),
    'expires_s', LEAST((p_old ->> 'expires_s')::numeric, (p_new ->> 'expires_s')::numeric)))
$$;

-- The next revision of a writeback with an approval of its own, under the rule that fits now. Only for the two below.
CREATE FUNCTION ask_again(p_old writeback, p_was approval, p_payload bytea, p_obligations jsonb, p_editor uuid,
                          p_who uuid,
                          OUT writeback uuid, OUT approval uuid)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE a public.approval;
BEGIN
  writeback := gen_random_uuid();
  INSERT INTO public.writeback (tenant, id, mission, requested_by, risk, payload, proposal, revision, edited_by, predecessor)
    VALUES (p_old.tenant, writeback, p_old.mission, p_old.requested_by, p_old.risk, p_payload, p_old.proposal, p_old.revision + 1,
            p_editor, p_old.id);
  INSERT INTO public.approval (tenant, id, mission, subject, writeback, requested_by, payload_sha256, obligations)
    VALUES (p_old.tenant, gen_random_uuid(), p_old.mission, 'writeback', writeback, p_old.requested_by, sha256(p_payload),
            stricter(p_was.obligations, p_obligations))
    RETURNING * INTO a;
  approval := a.id;
  PERFORM want_work(a.tenant, 'approval_timer', a.id, 'worker', next_step(a));
  PERFORM wall_fact(a.tenant, a.mission, 'approval.opened', 'principal:' || p_who, jsonb_build_object(
    'approval', a.id, 'subject', a.subject, 'writeback', a.writeback, 'payload_sha256', encode(a.payload_sha256, 'hex'),
    'required', a.required, 'rule', a.rule, 'rule_version', a.rule_version, 'expires_at', a.expires_at, 'predecessor', p_old.id));
END $$;

-- An entitled person changes what is proposed: the old approval closes, and the new bytes are asked about anew.
-- outcome: revised · or why not: not_found, unauthenticated, not_a_writeback, claimed, not_pending, expired, own_request,
-- not_entitled, other_payload, stale, mission_closed, no_comment, unchanged, bad_payload.
CREATE FUNCTION revise(p_tenant uuid, p_approval uuid, p_secret text, p_version int, p_sha256 bytea, p_payload bytea, p_reason text,
                       p_obligations jsonb)
RETURNS TABLE (outcome text, state text, version int, editor uuid, new_writeback uuid, new_approval uuid)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE a public.approval; w public.writeback; m record; who uuid; say text; was text; made record;
BEGIN
  PERFORM require_tenant(p_tenant);
  SELECT x.state INTO m FROM public.mission x
    WHERE x.tenant = p_tenant AND x.id = (SELECT y.mission FROM public.approval y WHERE y.tenant = p_tenant AND y.id = p_approval)
    FOR SHARE;
  SELECT * INTO a FROM public.approval x WHERE x.tenant = p_tenant AND x.id = p_approval FOR UPDATE;
  who := principal_of(p_tenant, p_secret);
  IF a.id IS NULL THEN RETURN QUERY SELECT 'not_found', NULL::text, NULL::int, who, NULL::uuid, NULL::uuid; RETURN; END IF;
  SELECT * INTO w FROM public.writeback x WHERE x.tenant = p_tenant AND x.id = a.writeback;
  say := CASE
    WHEN who IS NULL THEN 'unauthenticated'
    WHEN w.id IS NULL THEN 'not_a_writeback'
    WHEN EXISTS (SELECT 1 FROM public.execution e WHERE e.tenant = p_tenant AND e.writeback = a.writeback) THEN 'claimed'
    WHEN a.state NOT IN ('pending', 'approved') THEN 'not_pending'
    WHEN clock_timestamp() >= a.expires_at THEN 'expired'
    WHEN took_part(p_tenant, who, a.requested_by, a.writeback) THEN 'own_request'
    WHEN NOT entitled_to(p_tenant, who, a.may_decide, a.must_hold) THEN 'not_entitled'
    WHEN a.payload_sha256 IS DISTINCT FROM p_sha256 THEN 'other_payload'
    WHEN a.version IS DISTINCT FROM p_version THEN 'stale'
    WHEN m.state IN ('completed', 'cancelled', 'failed', 'denied') THEN 'mission_closed'
    WHEN COALESCE(p_reason, '') !~ '[^[:space:]]' THEN 'no_comment'
    -- read, not compared as bytes: other spellings of the same change would clear its votes
    WHEN CASE WHEN convert_from(p_payload, 'UTF8') IS JSON OBJECT WITH UNIQUE KEYS
      THEN convert_from(w.payload, 'UTF8')::jsonb = convert_from(p_payload, 'UTF8')::jsonb END THEN 'unchanged'
    END;
  IF say IS NOT NULL THEN RETURN QUERY SELECT say, a.state, a.version, who, NULL::uuid, NULL::uuid; RETURN; END IF;
  was := a.state;
  BEGIN
    UPDATE public.approval x SET state = 'cancelled', note = btrim(p_reason) WHERE x.tenant = p_tenant AND x.id = p_approval
      RETURNING * INTO a;
    SELECT * INTO made FROM ask_again(w, a, p_payload, p_obligations, who, who);
    PERFORM wall_fact(p_tenant, a.mission, 'approval.superseded', 'principal:' || who, jsonb_build_object(
      'approval', a.id, 'subject', a.subject, 'writeback', a.writeback, 'state', a.state, 'was', was,
      'payload_sha256', encode(a.payload_sha256, 'hex'), 'new_approval', made.approval, 'new_writeback', made.writeback,
      'new_payload_sha256', encode(sha256(p_payload), 'hex'), 'note_sha256', encode(sha256(convert_to(a.note, 'UTF8')), 'hex')));
  EXCEPTION WHEN SQLSTATE 'RX005' OR check_violation THEN
    SELECT * INTO a FROM public.approval x WHERE x.tenant = p_tenant AND x.id = p_approval;
    RETURN QUERY SELECT 'bad_payload', a.state, a.version, who, NULL::uuid, NULL::uuid; RETURN;
  END;
  RETURN QUERY SELECT 'revised', a.state, a.version, who, made.writeback, made.approval;
END $$;

-- A stale writeback goes back to a human: the same changes to the target's present version, asked about anew.
-- outcome: renewed · or why not: not_found, unauthenticated, not_entitled, not_stale, already_renewed, mission_closed, bad_payload.
CREATE FUNCTION renew(p_tenant uuid, p_writeback uuid, p_secret text, p_payload bytea, p_obligations jsonb)
RETURNS TABLE (outcome text, who uuid, new_writeback uuid, new_approval uuid)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE w public.writeback; a public.approval; e public.execution; m record; actor uuid; say text; made record;
BEGIN
  PERFORM require_tenant(p_tenant);
  SELECT * INTO w FROM public.writeback x WHERE x.tenant = p_tenant AND x.id = p_writeback;
  SELECT x.state INTO m FROM public.mission x WHERE x.tenant = p_tenant AND x.id = w.mission FOR SHARE;
  SELECT * INTO a FROM public.approval x WHERE x.tenant = p_tenant AND x.writeback = p_writeback FOR UPDATE;
  SELECT * INTO e FROM public.execution x WHERE x.tenant = p_tenant AND x.writeback = p_writeback;
  actor := principal_of(p_tenant, p_secret);
  say := CASE
    WHEN w.id IS NULL THEN 'not_found'
    WHEN actor IS NULL THEN 'unauthenticated'
    WHEN NOT entitled(p_tenant, actor, 'operator') THEN 'not_entitled'
    WHEN e.state IS DISTINCT FROM 'stale' THEN 'not_stale'
    WHEN EXISTS (SELECT 1 FROM public.writeback n WHERE n.tenant = p_tenant AND n.proposal = w.proposal AND n.revision > w.revision)
      THEN 'already_renewed'
    WHEN m.state IN ('completed', 'cancelled', 'failed', 'denied') THEN 'mission_closed'
    END;
  IF say IS NOT NULL THEN RETURN QUERY SELECT say, actor, NULL::uuid, NULL::uuid; RETURN; END IF;
  BEGIN
    SELECT * INTO made FROM ask_again(w, a, p_payload, p_obligations, NULL, actor);
  EXCEPTION WHEN SQLSTATE 'RX005' OR check_violation THEN
    RETURN QUERY SELECT 'bad_payload', actor, NULL::uuid, NULL::uuid; RETURN;
  END;
  PERFORM wall_fact(p_tenant, w.mission, 'writeback.renewed', 'principal:' || actor, jsonb_build_object(
    'writeback', w.id, 'new_writeback', made.writeback, 'new_approval', made.approval));
  RETURN QUERY SELECT 'renewed', actor, made.writeback, made.approval;
END $$;

-- ------------------------------------------------------------------ rules
-- A rule, or its next version, by a policy owner. p_version: the version that was seen; null for a new rule.
-- outcome: created · changed · or why not: unauthenticated, not_entitled, not_found, stale, bad_rule (see why).
CREATE FUNCTION put_rule(p_tenant uuid, p_secret text, p_rule uuid, p_version int, p_body jsonb)
RETURNS TABLE (outcome text, version int, why text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE who uuid; was public.approval_rule; r public.approval_rule; broken text;
BEGIN
  PERFORM require_tenant(p_tenant);
  PERFORM 1 FROM public.approval_rule x WHERE x.tenant = p_tenant AND x.id = p_rule AND x.version = 1 FOR NO KEY UPDATE;
  SELECT * INTO was FROM public.approval_rule x WHERE x.tenant = p_tenant AND x.id = p_rule ORDER BY x.version DESC LIMIT 1;
  who := principal_of(p_tenant, p_secret);
  IF who IS NULL THEN RETURN QUERY SELECT 'unauthenticated', NULL::int, NULL::text; RETURN; END IF;
  IF NOT entitled(p_tenant, who, 'policy_owner') THEN RETURN QUERY SELECT 'not_entitled', was.version, NULL::text; RETURN; END IF;
  IF p_version IS NOT NULL AND was.id IS NULL THEN RETURN QUERY SELECT 'not_found', NULL::int, NULL::text; RETURN; END IF;
  IF p_version IS DISTINCT FROM was.version THEN RETURN QUERY SELECT 'stale', was.version, NULL::text; RETURN; END IF;
  r := jsonb_populate_record(NULL::public.approval_rule, p_body);
  BEGIN
    INSERT INTO public.approval_rule (tenant, id, version, subject, connector, operation, risk, required, deny_threshold, approver_role,
        life, undo_window, comment_required, signature_required, may_escalate_to, hops, break_glass, created_by)
      VALUES (p_tenant, p_rule, COALESCE(was.version, 0) + 1, r.subject, r.connector, r.operation, r.risk, r.required, r.deny_threshold,
        r.approver_role, r.life, r.undo_window, r.comment_required,
        COALESCE(r.signature_required, was.signature_required, false), r.may_escalate_to, r.hops, r.break_glass, who)
      RETURNING * INTO r;
  EXCEPTION
    WHEN check_violation OR not_null_violation THEN
      GET STACKED DIAGNOSTICS broken = CONSTRAINT_NAME;
      RETURN QUERY SELECT 'bad_rule', was.version, broken; RETURN;
    WHEN SQLSTATE 'RX004' THEN
      RETURN QUERY SELECT 'bad_rule', was.version, 'another kind of rule'; RETURN;
    WHEN unique_violation THEN       -- somebody else was a moment faster
      RETURN QUERY SELECT 'stale', was.version, NULL::text; RETURN;
  END;
  PERFORM wall_fact(p_tenant, p_tenant, 'rule.changed', 'principal:' || who, jsonb_build_object(
    'rule', r.id, 'rule_version', r.version, 'subject', r.subject, 'connector', r.connector, 'operation', r.operation, 'risk', r.risk,
    'required', r.required, 'deny_threshold', r.deny_threshold, 'approver_role', r.approver_role, 'break_glass', r.break_glass,
    'signature_required', r.signature_required));
  RETURN QUERY SELECT CASE WHEN was.id IS NULL THEN 'created' ELSE 'changed' END, r.version, NULL::text;
END $$;

REVOKE ALL ON FUNCTION guard_notice(), give_notice(approval, text, int, text[]), see_notice(uuid, uuid, text),
  next_step(approval), climb(uuid, uuid), restore_approval_timers(), break_glass(uuid, uuid, text, int, bytea, text, bytea),
  withdraw(uuid, uuid, text, int, text), hand_on(uuid, uuid, text, int, text, boolean, text), stricter(jsonb, jsonb), ask_again(writeback, approval, bytea, jsonb, uuid, uuid),
  revise(uuid, uuid, text, int, bytea, bytea, text, jsonb),
  renew(uuid, uuid, text, bytea, jsonb), put_rule(uuid, text, uuid, int, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION see_notice(uuid, uuid, text), break_glass(uuid, uuid, text, int, bytea, text, bytea),
  withdraw(uuid, uuid, text, int, text), hand_on(uuid, uuid, text, int, text, boolean, text),
  revise(uuid, uuid, text, int, bytea, bytea, text, jsonb),
  renew(uuid, uuid, text, bytea, jsonb),
  put_rule(uuid, text, uuid, int, jsonb) TO {prefix}_api;
GRANT EXECUTE ON FUNCTION climb(uuid, uuid), restore_approval_timers() TO {prefix}_worker;
