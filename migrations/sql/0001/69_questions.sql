-- Questions about an approval, and their answers. Neither changes the approval: its time, its quorum, its bytes and its version stay.

CREATE TABLE approval_question (     -- what a person wants to know before they decide; answered once
  tenant uuid NOT NULL,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  approval uuid NOT NULL,
  number int NOT NULL,
  asked_by uuid NOT NULL,
  question text NOT NULL,
  asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  addressee uuid NOT NULL,           -- who is asked; whoever else may answer is told nothing
  answered_by uuid,
  answer text,
  answered_at timestamptz,
  PRIMARY KEY (tenant, id),
  FOREIGN KEY (tenant, approval) REFERENCES approval (tenant, id),
  FOREIGN KEY (tenant, asked_by) REFERENCES principal (tenant, id),
  FOREIGN KEY (tenant, addressee) REFERENCES principal (tenant, id),
  FOREIGN KEY (tenant, answered_by) REFERENCES principal (tenant, id),
  CONSTRAINT approval_question_number UNIQUE (tenant, approval, number),
  CONSTRAINT approval_question_bounded CHECK (number BETWEEN 1 AND 50),
  CONSTRAINT approval_question_words CHECK (length(question) <= 2000 AND question ~ '[^[:space:]]'),
  CONSTRAINT approval_question_answer CHECK (length(answer) <= 2000 AND answer ~ '[^[:space:]]'),
  CONSTRAINT approval_question_answered CHECK ((answer IS NULL) = (answered_by IS NULL) AND (answer IS NULL) = (answered_at IS NULL)),
  CONSTRAINT approval_question_others CHECK (addressee <> asked_by AND answered_by <> asked_by)
);

-- A principal and who answers for it, as far as they are not suspended: who hears of what is put to it.
CREATE FUNCTION live_line(p_tenant uuid, p_principal uuid) RETURNS SETOF uuid LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT p.id FROM public.line_of(p_tenant, p_principal) l (id)
  JOIN public.principal p ON p.tenant = p_tenant AND p.id = l.id AND p.suspended_at IS NULL
$$;

-- A question is asked of somebody who can know and is there, by somebody with a say who took no part, ten times at most; afterwards it can only be answered, once: by whom
-- it was put to, by the requester, by whoever answers for the requester, or by whoever runs things.
CREATE FUNCTION guard_question() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE a public.approval;
BEGIN
  PERFORM require_present();
  SELECT * INTO a FROM public.approval x WHERE x.tenant = NEW.tenant AND x.id = NEW.approval FOR UPDATE;
  IF TG_OP = 'INSERT' THEN
    IF a.state IS DISTINCT FROM 'pending' OR clock_timestamp() >= a.expires_at THEN
      RAISE EXCEPTION 'wall: nothing to ask about' USING ERRCODE = 'RX004';
    END IF;
    IF NOT has_a_say(a, NEW.asked_by) THEN
      RAISE EXCEPTION 'wall: questions are asked by who may decide, or runs things' USING ERRCODE = 'RX009';
    END IF;
    IF took_part(NEW.tenant, NEW.asked_by, a.requested_by, a.writeback) THEN
      RAISE EXCEPTION 'wall: nobody asks about their own request' USING ERRCODE = 'RX010';
    END IF;
    IF NOT (owns(NEW.tenant, NEW.addressee, a.requested_by) OR has_a_say(a, NEW.addressee)) THEN
      RAISE EXCEPTION 'wall: this one is not asked' USING ERRCODE = 'RX009';
    END IF;
    IF NOT EXISTS (SELECT 1 FROM live_line(NEW.tenant, NEW.addressee)) THEN
      RAISE EXCEPTION 'wall: nobody is there to answer' USING ERRCODE = 'RX009';
    END IF;
    IF (SELECT count(*) FROM public.approval_question q
        WHERE q.tenant = NEW.tenant AND q.approval = NEW.approval AND q.asked_by = NEW.asked_by) >= 10 THEN
      RAISE EXCEPTION 'wall: one person asks ten questions about it' USING ERRCODE = 'RX036';
    END IF;
    NEW.number := 1 + (SELECT count(*) FROM public.approval_question q WHERE q.tenant = NEW.tenant AND q.approval = NEW.approval);
    NEW.asked_at := clock_timestamp();
    NEW.answered_by := NULL; NEW.answer := NULL; NEW.answered_at := NULL;
    RETURN NEW;
  END IF;
  IF (NEW.tenant, NEW.id, NEW.approval, NEW.number, NEW.asked_by, NEW.question, NEW.asked_at, NEW.addressee) IS DISTINCT FROM
     (OLD.tenant, OLD.id, OLD.approval, OLD.number, OLD.asked_by, OLD.question, OLD.asked_at, OLD.addressee)
     OR OLD.answered_by IS NOT NULL OR NEW.answered_by IS NULL THEN
    RAISE EXCEPTION 'wall: a question can only be answered, once' USING ERRCODE = 'RX001';
  END IF;
  IF NOT (NEW.answered_by = NEW.addressee OR owns(NEW.tenant, NEW.answered_by, a.requested_by)
          OR entitled(NEW.tenant, NEW.answered_by, 'operator')) THEN
    RAISE EXCEPTION 'wall: not for this one to answer' USING ERRCODE = 'RX009';
  END IF;
  NEW.answered_at := clock_timestamp();
  RETURN NEW;
END $$;
CREATE TRIGGER approval_question_guard BEFORE INSERT OR UPDATE ON approval_question FOR EACH ROW EXECUTE FUNCTION guard_question();
CREATE TRIGGER approval_question_keep BEFORE DELETE ON approval_question FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER approval_question_whole BEFORE TRUNCATE ON approval_question FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE approval_question ENABLE ALWAYS TRIGGER approval_question_guard;
ALTER TABLE approval_question ENABLE ALWAYS TRIGGER approval_question_keep;
ALTER TABLE approval_question ENABLE ALWAYS TRIGGER approval_question_whole;
ALTER TABLE approval_question ENABLE ROW LEVEL SECURITY; ALTER TABLE approval_question FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON approval_question USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid);
GRANT SELECT ON approval_question TO {prefix}_api, {prefix}_worker, {prefix}_auditor;

-- Tells a person, and who answers for it when it is a program.
CREATE FUNCTION tell_of_question(p_question approval_question, p_kind text, p_whom uuid) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public, pg_temp AS $$
  INSERT INTO public.notice (tenant, principal, approval, kind, step)
  SELECT p_question.tenant, l.id, p_question.approval, p_kind, p_question.number FROM public.live_line(p_question.tenant, p_whom) l (id)
  ON CONFLICT DO NOTHING
$$;

-- A question about a pending approval, put to p_to, or to who requested it. The text stays here; the ledger has its hash.
-- outcome: asked · or why not: not_found, unauthenticated, not_pending, expired, own_request, no_say, no_words, too_many,
-- too_many_yours, yourself, cannot_answer, nobody_there (whom it is put to is suspended, and nobody answers for them).
CREATE FUNCTION ask_question(p_tenant uuid, p_approval uuid, p_secret text, p_question text, p_to uuid)
RETURNS TABLE (outcome text, state text, version int, who uuid, question uuid)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE a public.approval; q public.approval_question; actor uuid; whom uuid; say text;
BEGIN
  PERFORM require_tenant(p_tenant);
  PERFORM 1 FROM public.mission x
    WHERE x.tenant = p_tenant AND x.id = (SELECT y.mission FROM public.approval y WHERE y.tenant = p_tenant AND y.id = p_approval)
    FOR SHARE;
  SELECT * INTO a FROM public.approval x WHERE x.tenant = p_tenant AND x.id = p_approval FOR UPDATE;
  actor := principal_of(p_tenant, p_secret);
  IF a.id IS NULL THEN RETURN QUERY SELECT 'not_found', NULL::text, NULL::int, actor, NULL::uuid; RETURN; END IF;
  whom := COALESCE(p_to, a.requested_by);
  say := CASE
    WHEN actor IS NULL THEN 'unauthenticated'
    WHEN a.state <> 'pending' THEN 'not_pending'
    WHEN clock_timestamp() >= a.expires_at THEN 'expired'
    WHEN took_part(p_tenant, actor, a.requested_by, a.writeback) THEN 'own_request'
    WHEN NOT has_a_say(a, actor) THEN 'no_say'
    WHEN COALESCE(p_question, '') !~ '[^[:space:]]' THEN 'no_words'
    WHEN (SELECT count(*) FROM public.approval_question x WHERE x.tenant = p_tenant AND x.approval = p_approval) >= 50 THEN 'too_many'
    WHEN (SELECT count(*) FROM public.approval_question x
          WHERE x.tenant = p_tenant AND x.approval = p_approval AND x.asked_by = actor) >= 10 THEN 'too_many_yours'
    WHEN whom = actor THEN 'yourself'
    WHEN NOT (owns(p_tenant, whom, a.requested_by) OR has_a_say(a, whom)) THEN 'cannot_answer'
    WHEN NOT EXISTS (SELECT 1 FROM live_line(p_tenant, whom)) THEN 'nobody_there'
    END;
  IF say IS NOT NULL THEN RETURN QUERY SELECT say, a.state, a.version, actor, NULL::uuid; RETURN; END IF;
  INSERT INTO public.approval_question (tenant, approval, asked_by, question, addressee)
    VALUES (p_tenant, p_approval, actor, btrim(p_question), whom) RETURNING * INTO q;
  PERFORM tell_of_question(q, 'question', whom);
  PERFORM wall_fact(p_tenant, a.mission, 'approval.questioned', 'principal:' || actor, jsonb_build_object(
    'approval', a.id, 'subject', a.subject, 'writeback', a.writeback, 'question', q.id, 'to', whom,
    'question_sha256', encode(sha256(convert_to(q.question, 'UTF8')), 'hex')));
  RETURN QUERY SELECT 'asked', a.state, a.version, actor, q.id;
END $$;

-- The answer to a question, once; also after the approval has closed: what is said too late may be why a change is taken back.
-- outcome: answered · or why not: not_found, unauthenticated, already_answered, own_question, not_for_you, no_words.
CREATE FUNCTION answer_question(p_tenant uuid, p_approval uuid, p_secret text, p_question uuid, p_answer text)
RETURNS TABLE (outcome text, state text, version int, who uuid)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE a public.approval; q public.approval_question; actor uuid; say text;
BEGIN
  PERFORM require_tenant(p_tenant);
  PERFORM 1 FROM public.mission x
    WHERE x.tenant = p_tenant AND x.id = (SELECT y.mission FROM public.approval y WHERE y.tenant = p_tenant AND y.id = p_approval)
    FOR SHARE;
  SELECT * INTO a FROM public.approval x WHERE x.tenant = p_tenant AND x.id = p_approval FOR UPDATE;
  SELECT * INTO q FROM public.approval_question x WHERE x.tenant = p_tenant AND x.approval = p_approval AND x.id = p_question;
  actor := principal_of(p_tenant, p_secret);
  IF q.id IS NULL THEN RETURN QUERY SELECT 'not_found', a.state, a.version, actor; RETURN; END IF;
  say := CASE
    WHEN actor IS NULL THEN 'unauthenticated'
    WHEN q.asked_by = actor THEN 'own_question'
    WHEN NOT (q.addressee = actor OR owns(p_tenant, actor, a.requested_by) OR entitled(p_tenant, actor, 'operator')) THEN 'not_for_you'
    WHEN q.answered_by IS NOT NULL THEN 'already_answered'
    WHEN COALESCE(p_answer, '') !~ '[^[:space:]]' THEN 'no_words'
    END;
  IF say IS NOT NULL THEN RETURN QUERY SELECT say, a.state, a.version, actor; RETURN; END IF;
  UPDATE public.approval_question x SET answered_by = actor, answer = btrim(p_answer), answered_at = clock_timestamp()
    WHERE x.tenant = p_tenant AND x.id = q.id RETURNING * INTO q;
  PERFORM tell_of_question(q, 'answer', q.asked_by);
  PERFORM wall_fact(p_tenant, a.mission, 'approval.answered', 'principal:' || actor, jsonb_build_object(
    'approval', a.id, 'subject', a.subject, 'writeback', a.writeback, 'question', q.id, 'state', a.state,
    'answer_sha256', encode(sha256(convert_to(q.answer, 'UTF8')), 'hex')));
  RETURN QUERY SELECT 'answered', a.state, a.version, actor;
END $$;

REVOKE ALL ON FUNCTION live_line(uuid, uuid), guard_question(), tell_of_question(approval_question, text, uuid),
  ask_question(uuid, uuid, text, text, uuid), answer_question(uuid, uuid, text, uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ask_question(uuid, uuid, text, text, uuid), answer_question(uuid, uuid, text, uuid, text) TO {prefix}_api;
