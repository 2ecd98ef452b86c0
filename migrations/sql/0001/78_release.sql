-- Release: how far missions may go here, what is known of the gates, what people attest, and what other environments say of
-- themselves. Serving roles only look; everything moves through the functions below.

CREATE TABLE verdict (               -- what another environment says of itself: the file as it was signed there
  tenant uuid NOT NULL REFERENCES tenant,
  id uuid NOT NULL,
  file bytea NOT NULL CHECK (octet_length(file) BETWEEN 2 AND 262144),
  sha256 bytea NOT NULL GENERATED ALWAYS AS (sha256(file)) STORED,
  environment text NOT NULL CHECK (environment IN ('local', 'staging', 'production')),   -- this and the next: read off the file
  build text NOT NULL CHECK (length(build) BETWEEN 1 AND 100),
  result text NOT NULL CHECK (result IN ('pass', 'fail', 'inconclusive')),
  signed_by text NOT NULL CHECK (length(signed_by) BETWEEN 1 AND 40),
  ladder jsonb NOT NULL CHECK (jsonb_typeof(ladder) = 'object'),                          -- rung -> autonomy
  replayed text[] NOT NULL,                                                              -- mission types
  made_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  imported_by uuid NOT NULL,
  imported_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, id),
  UNIQUE (tenant, sha256),
  FOREIGN KEY (tenant, imported_by) REFERENCES principal (tenant, id),
  CHECK (expires_at > made_at AND expires_at <= made_at + interval '31 days')
);
CREATE INDEX verdict_newest ON verdict (tenant, environment, made_at DESC);
CREATE INDEX verdict_imported ON verdict (tenant, imported_at DESC, id DESC);

-- What a row says of its file is what the file says.
CREATE FUNCTION read_verdict() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE said jsonb := convert_from(NEW.file, 'UTF8')::jsonb -> 'statement';
BEGIN
  NEW.environment := said ->> 'environment'; NEW.build := said ->> 'build'; NEW.result := said ->> 'result';
  NEW.signed_by := said ->> 'by'; NEW.ladder := said -> 'ladder';
  NEW.replayed := ARRAY(SELECT jsonb_array_elements_text(said -> 'replayed'));
  NEW.made_at := (said ->> 'made_at')::timestamptz; NEW.expires_at := (said ->> 'expires_at')::timestamptz;
  NEW.imported_at := clock_timestamp();
  RETURN NEW;
END $$;
CREATE TRIGGER verdict_read BEFORE INSERT ON verdict FOR EACH ROW EXECUTE FUNCTION read_verdict();

CREATE TABLE rung_change (           -- how far a rung lets missions of its type go, every change of it; the newest holds
  tenant uuid NOT NULL REFERENCES tenant,
  change bigint NOT NULL CHECK (change >= 1),
  environment text NOT NULL CHECK (environment IN ('staging', 'production')),
  rung text NOT NULL CHECK (rung ~ '^[a-z][a-z0-9_]{1,62}$'),
  mission_type text NOT NULL CHECK (mission_type ~ '^([*]|[a-z][a-z0-9_]{2,63})$'),      -- '*': every type
  autonomy text NOT NULL CHECK (autonomy IN ('nothing', 'dry_run', 'assisted', 'autonomous')),
  cause text NOT NULL CHECK (cause IN ('asked', 'stood_on', 'drill_failed', 'error_budget')),
  changed_by uuid,                   -- null: the service itself
  evidence jsonb NOT NULL CHECK (octet_length(evidence::text) <= 65536),
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, change),
  FOREIGN KEY (tenant, changed_by) REFERENCES principal (tenant, id),
  CONSTRAINT rung_change_raised_by_people CHECK (autonomy = 'nothing' OR (changed_by IS NOT NULL AND cause = 'asked')),
  CONSTRAINT rung_change_every_type CHECK (mission_type <> '*' OR autonomy IN ('nothing', 'dry_run'))
);
CREATE INDEX rung_change_newest ON rung_change (tenant, environment, rung, change DESC);

-- The newest end of every drill, whoever asked for it: drills are the service's, and the gates of all its tenants look at them.
CREATE POLICY lookup_newest ON drill_run FOR SELECT TO {prefix}_owner USING (true);
CREATE FUNCTION newest_drills() RETURNS TABLE (drill text, id uuid, state text, reason text, build text, finished_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT n.* FROM unnest(ARRAY['blocked_tool', 'blocked_writeback', 'approved_writeback', 'expired_approval', 'colony_down',
                               'provider_down', 'malformed_payload', 'replay']) d (drill), LATERAL (
    SELECT r.drill, r.id, r.state, r.reason, r.build, r.finished_at FROM public.drill_run r
    WHERE r.tenant = drill_tenant() AND r.drill = d.drill AND r.state <> 'running' ORDER BY r.started_at DESC, r.id DESC LIMIT 1) n
$$;

-- Whether a tenant's missions are admitted by the ladder: everybody's but those of the drills, which have to show what the
-- ladder wants to see.
CREATE FUNCTION ladder_binds(p_tenant uuid) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT p_tenant IS DISTINCT FROM drill_tenant()
$$;

-- The rules of the ladder that nobody switches off: which of them a step would break; null when none. It is asked by
-- enable_rung(), and again by the trigger below, whoever writes the row.
--   nothing_to_stand_on  beyond dry runs only while dry runs are enabled
--   staging_first        production beyond dry runs only while a verdict of staging says that Oracle, CRM and this type were replayed
--   route_not_drilled    no automation, and in production nothing that may propose a change, before a drill of today's week has
--                        let an approved writeback through, stopped a blocked one, and let a late approval expire
--   begins_assisted      production runs assisted before it runs autonomously
CREATE FUNCTION broken_rule(p_tenant uuid, p_environment text, p_type text, p_autonomy text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT CASE
    WHEN p_autonomy IN ('nothing', 'dry_run') THEN NULL
    WHEN COALESCE((SELECT c.autonomy FROM public.rung_change c
                   WHERE c.tenant = p_tenant AND c.environment = p_environment AND c.mission_type = '*'
                   ORDER BY c.change DESC LIMIT 1), 'nothing') = 'nothing' THEN 'nothing_to_stand_on'
    WHEN p_environment = 'production' AND NOT COALESCE((
      SELECT v.expires_at > clock_timestamp() AND v.replayed @> ARRAY['oracle_advisory', 'crm_lead_intelligence', p_type]
      FROM public.verdict v WHERE v.tenant = p_tenant AND v.environment = 'staging' ORDER BY v.made_at DESC LIMIT 1), false)
      THEN 'staging_first'
    WHEN (p_environment = 'production' OR p_autonomy = 'autonomous') AND (
      SELECT count(*) FROM newest_drills() d
      WHERE d.drill IN ('approved_writeback', 'blocked_writeback', 'expired_approval') AND d.state = 'passed'
        AND d.finished_at > clock_timestamp() - interval '7 days') < 3 THEN 'route_not_drilled'
    WHEN p_environment = 'production' AND p_autonomy = 'autonomous' AND COALESCE((
      SELECT c.autonomy FROM public.rung_change c
      WHERE c.tenant = p_tenant AND c.environment = p_environment AND c.mission_type = p_type
      ORDER BY c.change DESC LIMIT 1), 'nothing') NOT IN ('assisted', 'autonomous') THEN 'begins_assisted'
  END
$$;
CREATE FUNCTION guard_rung() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE broken text; last public.rung_change;
BEGIN
  NEW.at := clock_timestamp();
  SELECT * INTO last FROM public.rung_change c WHERE c.tenant = NEW.tenant AND c.rung = NEW.rung ORDER BY c.change DESC LIMIT 1;
  IF last.mission_type <> NEW.mission_type
     OR NEW.change <> COALESCE((SELECT max(c.change) FROM public.rung_change c WHERE c.tenant = NEW.tenant), 0) + 1 THEN
    RAISE EXCEPTION 'wall: not the next change of the ladder' USING ERRCODE = 'RX033';
  END IF;
  broken := broken_rule(NEW.tenant, NEW.environment, NEW.mission_type, NEW.autonomy);
  IF broken IS NOT NULL THEN
    RAISE EXCEPTION 'wall: %', broken USING ERRCODE = CASE broken WHEN 'staging_first' THEN 'RX030'
      WHEN 'begins_assisted' THEN 'RX031' WHEN 'route_not_drilled' THEN 'RX032' ELSE 'RX033' END;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER rung_change_guard BEFORE INSERT ON rung_change FOR EACH ROW EXECUTE FUNCTION guard_rung();

CREATE TABLE attestation (           -- what only a person can judge: the words they signed by presenting their secret
  tenant uuid NOT NULL REFERENCES tenant,
  id uuid NOT NULL,
  environment text NOT NULL CHECK (environment IN ('local', 'staging', 'production')),
  claim text NOT NULL CHECK (claim ~ '^[a-z][a-z0-9_]{1,62}$'),                           -- the check it answers
  role text NOT NULL CHECK (role IN ('product_owner', 'release_owner')),                  -- in which they signed
  statement bytea NOT NULL CHECK (octet_length(statement) BETWEEN 2 AND 16384),           -- canonical JSON: sentence, comment, build
  sha256 bytea NOT NULL GENERATED ALWAYS AS (sha256(statement)) STORED,
  signed_by uuid NOT NULL,
  signed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz NOT NULL,
  withdrawn_by uuid,
  withdrawn_at timestamptz,
  PRIMARY KEY (tenant, id),
  FOREIGN KEY (tenant, signed_by) REFERENCES principal (tenant, id),
  FOREIGN KEY (tenant, withdrawn_by) REFERENCES principal (tenant, id),
  CHECK (expires_at > signed_at AND expires_at <= signed_at + interval '90 days'),
  CHECK ((withdrawn_by IS NULL) = (withdrawn_at IS NULL))
);
CREATE INDEX attestation_newest ON attestation (tenant, signed_at DESC, id DESC);
CREATE INDEX attestation_of_claim ON attestation (tenant, environment, claim, signed_at DESC);
-- It can only be withdrawn, once.
CREATE FUNCTION guard_attestation() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF (NEW.tenant, NEW.id, NEW.environment, NEW.claim, NEW.role, NEW.statement, NEW.signed_by, NEW.signed_at, NEW.expires_at)
     IS DISTINCT FROM
     (OLD.tenant, OLD.id, OLD.environment, OLD.claim, OLD.role, OLD.statement, OLD.signed_by, OLD.signed_at, OLD.expires_at)
     OR OLD.withdrawn_at IS NOT NULL OR NEW.withdrawn_at IS NULL THEN
    RAISE EXCEPTION 'wall: an attestation can only be withdrawn, once' USING ERRCODE = 'RX001';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER attestation_guard BEFORE UPDATE ON attestation FOR EACH ROW EXECUTE FUNCTION guard_attestation();

CREATE TABLE gate_state (            -- the gates of this environment as they were computed last
  tenant uuid NOT NULL REFERENCES tenant,
  environment text NOT NULL CHECK (environment IN ('local', 'staging', 'production')),
  gate text NOT NULL CHECK (gate ~ '^[a-z][a-z0-9_]{1,62}$'),
  result text NOT NULL CHECK (result IN ('pass', 'fail', 'inconclusive')),
  checks jsonb NOT NULL CHECK (octet_length(checks::text) <= 65536),                      -- [{name, result, reason}]
  looked_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,   -- when the first of its evidence is too old
  PRIMARY KEY (tenant, environment, gate)
);
CREATE TABLE gate_change (           -- each time that a gate, or one of its checks, came out differently
  tenant uuid NOT NULL REFERENCES tenant,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  environment text NOT NULL,
  gate text NOT NULL,
  result text NOT NULL,
  was text,                          -- null: it was never computed before
  checks jsonb NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, id)
);
CREATE INDEX gate_change_newest ON gate_change (tenant, at DESC, id DESC);

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['verdict', 'rung_change', 'attestation', 'gate_state', 'gate_change'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format($p$CREATE POLICY own_tenant ON %I
      USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid)$p$, t);
    EXECUTE format('CREATE TRIGGER %I BEFORE DELETE%s ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', t || '_keep',
                   CASE WHEN t IN ('attestation', 'gate_state') THEN '' ELSE ' OR UPDATE' END, t);
    EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', t || '_whole', t);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_keep');
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_whole');
    EXECUTE format('GRANT SELECT ON %I TO {prefix}_api, {prefix}_worker, {prefix}_auditor', t);
  END LOOP;
END $$;
ALTER TABLE verdict ENABLE ALWAYS TRIGGER verdict_read;
ALTER TABLE rung_change ENABLE ALWAYS TRIGGER rung_change_guard;
ALTER TABLE attestation ENABLE ALWAYS TRIGGER attestation_guard;
CREATE POLICY lookup ON gate_state FOR SELECT TO {prefix}_owner USING (true);     -- release_is_healthy() knows no tenant
CREATE POLICY lookup ON rung_change FOR SELECT TO {prefix}_owner USING (true);    -- restore_release_work() looks after all

-- ------------------------------------------------------------------ the ladder
-- Changes of one tenant's ladder and gates come one after the other. Answers how far the rung goes now.
CREATE FUNCTION hold_ladder(p_tenant uuid, p_environment text, p_rung text) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM require_tenant(p_tenant);
  PERFORM require_present();
  PERFORM pg_advisory_xact_lock(hashtextextended(p_tenant::text, 31));
  RETURN COALESCE((SELECT c.autonomy FROM public.rung_change c
    WHERE c.tenant = p_tenant AND c.environment = p_environment AND c.rung = p_rung ORDER BY c.change DESC LIMIT 1), 'nothing');
END $$;
CREATE FUNCTION move_rung(p_tenant uuid, p_environment text, p_rung text, p_type text, p_was text, p_autonomy text, p_cause text,
                          p_who uuid, p_evidence jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE made public.rung_change;
BEGIN
  INSERT INTO public.rung_change (tenant, change, environment, rung, mission_type, autonomy, cause, changed_by, evidence)
    VALUES (p_tenant, COALESCE((SELECT max(c.change) FROM public.rung_change c WHERE c.tenant = p_tenant), 0) + 1, p_environment, p_rung,
      p_type, p_autonomy, p_cause, p_who, p_evidence)
    RETURNING * INTO made;
  PERFORM wall_fact(p_tenant, p_tenant, CASE p_autonomy WHEN 'nothing' THEN 'rung.lowered' ELSE 'rung.enabled' END,
    COALESCE('principal:' || p_who, 'system:release'), jsonb_build_object(
      'rung', p_rung, 'environment', p_environment, 'mission_type', p_type, 'autonomy', p_autonomy, 'was', p_was, 'cause', p_cause,
      'change', made.change, 'evidence_sha256', encode(sha256(convert_to(made.evidence::text, 'UTF8')), 'hex')));
  PERFORM want_work(p_tenant, 'release_check', p_tenant, 'worker', clock_timestamp());
END $$;

-- Enables a rung, or moves it between assisted and autonomous, by a human release owner who presents a live secret.
-- outcome: enabled · unchanged · or why not: unauthenticated, not_entitled, and what broken_rule() answers.
CREATE FUNCTION enable_rung(p_tenant uuid, p_secret text, p_environment text, p_rung text, p_type text, p_autonomy text, p_evidence jsonb)
RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE who uuid; now_at text := hold_ladder(p_tenant, p_environment, p_rung); say text;
BEGIN
  who := principal_of(p_tenant, p_secret);
  say := CASE
    WHEN who IS NULL THEN 'unauthenticated'
    WHEN p_autonomy IS NULL OR p_autonomy = 'nothing' OR NOT entitled(p_tenant, who, 'release_owner') THEN 'not_entitled'
    WHEN now_at = p_autonomy THEN 'unchanged'
    ELSE broken_rule(p_tenant, p_environment, p_type, p_autonomy) END;
  IF say IS NOT NULL THEN RETURN say; END IF;
  PERFORM move_rung(p_tenant, p_environment, p_rung, p_type, now_at, p_autonomy, 'asked', who, p_evidence);
  RETURN 'enabled';
END $$;

-- What a rung is lowered from, with what stands on it: without dry runs nothing runs. Answers how many were lowered.
CREATE FUNCTION drop_rung(p_tenant uuid, p_environment text, p_rung text, p_cause text, p_who uuid, p_evidence jsonb) RETURNS int
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE one record; n int := 0; bottom boolean;
BEGIN
  SELECT bool_or(c.mission_type = '*') INTO bottom FROM public.rung_change c
    WHERE c.tenant = p_tenant AND c.environment = p_environment AND c.rung = p_rung;
  FOR one IN SELECT x.* FROM (SELECT DISTINCT ON (c.rung) c.rung, c.mission_type, c.autonomy, c.change FROM public.rung_change c
               WHERE c.tenant = p_tenant AND c.environment = p_environment ORDER BY c.rung, c.change DESC) x
             WHERE x.autonomy <> 'nothing' AND (bottom OR x.rung = p_rung) ORDER BY x.rung = p_rung, x.change DESC LOOP
    PERFORM move_rung(p_tenant, p_environment, one.rung, one.mission_type, one.autonomy, 'nothing',
      CASE WHEN one.rung = p_rung THEN p_cause ELSE 'stood_on' END, p_who, p_evidence);
    n := n + 1;
  END LOOP;
  RETURN n;
END $$;
-- Lowers a rung by hand: a release owner, or an operator who cannot wait for one.
-- outcome: lowered · unchanged · unauthenticated · not_entitled.
CREATE FUNCTION lower_rung(p_tenant uuid, p_secret text, p_environment text, p_rung text, p_evidence jsonb)
RETURNS TABLE (outcome text, lowered int)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE who uuid; now_at text := hold_ladder(p_tenant, p_environment, p_rung); say text;
BEGIN
  who := principal_of(p_tenant, p_secret);
  say := CASE
    WHEN who IS NULL THEN 'unauthenticated'
    WHEN NOT (entitled(p_tenant, who, 'release_owner') OR entitled(p_tenant, who, 'operator')) THEN 'not_entitled'
    WHEN now_at = 'nothing' THEN 'unchanged' END;
  IF say IS NOT NULL THEN RETURN QUERY SELECT say, 0; RETURN; END IF;
  RETURN QUERY SELECT 'lowered', drop_rung(p_tenant, p_environment, p_rung, 'asked', who, p_evidence);
END $$;
-- The service lowers a rung itself; it never raises one.
CREATE FUNCTION lower_rung_itself(p_tenant uuid, p_environment text, p_rung text, p_cause text, p_evidence jsonb) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF hold_ladder(p_tenant, p_environment, p_rung) = 'nothing' THEN RETURN 0; END IF;
  IF p_cause IS NULL OR p_cause NOT IN ('drill_failed', 'error_budget') THEN
    RAISE EXCEPTION 'wall: the service lowers a rung for a failed drill or a spent error budget' USING ERRCODE = 'RX033';
  END IF;
  RETURN drop_rung(p_tenant, p_environment, p_rung, p_cause, NULL, p_evidence);
END $$;

-- ------------------------------------------------------------------ gates
-- Keeps the gates as they were just computed; a fact for each that came out differently. p_gates: [{gate, result, checks,
-- expires_at}]. Answers the names of those. Under the ladder's lock: whoever keeps gates may lower a rung in the same
-- transaction, and would come to that lock with the tenant's chain of facts in hand, which the lock's holder waits for.
CREATE FUNCTION note_gates(p_tenant uuid, p_environment text, p_gates jsonb) RETURNS text[]
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE one jsonb; known public.gate_state; outcome jsonb; changed text[] := '{}';
BEGIN
  PERFORM require_tenant(p_tenant);
  PERFORM pg_advisory_xact_lock(hashtextextended(p_tenant::text, 31));
  FOR one IN SELECT g FROM jsonb_array_elements(p_gates) g ORDER BY g ->> 'gate' LOOP
    SELECT * INTO known FROM public.gate_state s WHERE s.tenant = p_tenant AND s.environment = p_environment AND s.gate = one ->> 'gate';
    SELECT COALESCE(jsonb_object_agg(c ->> 'name', c ->> 'result'), '{}') INTO outcome FROM jsonb_array_elements(one -> 'checks') c;
    IF known.gate IS NULL OR known.result <> one ->> 'result' OR outcome IS DISTINCT FROM (
         SELECT COALESCE(jsonb_object_agg(c ->> 'name', c ->> 'result'), '{}') FROM jsonb_array_elements(known.checks) c) THEN
      INSERT INTO public.gate_change (tenant, environment, gate, result, was, checks)
        VALUES (p_tenant, p_environment, one ->> 'gate', one ->> 'result', known.result, one -> 'checks');
      PERFORM wall_fact(p_tenant, p_tenant, 'gate.changed', 'system:release', jsonb_strip_nulls(jsonb_build_object(
        'gate', one ->> 'gate', 'environment', p_environment, 'result', one ->> 'result', 'was', known.result, 'checks', outcome)));
      changed := changed || (one ->> 'gate');
    END IF;
    INSERT INTO public.gate_state AS s (tenant, environment, gate, result, checks, looked_at, expires_at)
      VALUES (p_tenant, p_environment, one ->> 'gate', one ->> 'result', one -> 'checks', clock_timestamp(), (one ->> 'expires_at')::timestamptz)
      ON CONFLICT (tenant, environment, gate) DO UPDATE SET result = excluded.result, checks = excluded.checks,
        looked_at = excluded.looked_at, expires_at = excluded.expires_at;
  END LOOP;
  RETURN changed;
END $$;

-- For the probe that says nothing else: do all gates of this environment pass, on evidence that still counts, in the tenant
-- that runs the installation? What nobody has computed for a while does not count.
CREATE FUNCTION release_is_healthy(p_environment text, p_gates text[]) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT count(*) = cardinality(p_gates) FROM public.gate_state s
  JOIN public.tenant t ON t.id = s.tenant AND t.operator AND t.suspended_at IS NULL
  WHERE s.environment = p_environment AND s.gate = ANY (p_gates) AND s.result = 'pass' AND s.expires_at > clock_timestamp()
    AND s.looked_at > clock_timestamp() - interval '15 minutes'
$$;

-- How many live people hold a role: whether there is anybody to see a queue.
CREATE FUNCTION role_holders(p_tenant uuid, p_role text) RETURNS int
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM require_tenant(p_tenant);
  RETURN (SELECT count(DISTINCT p.id) FROM public.principal p JOIN public.role_grant g ON g.tenant = p.tenant AND g.principal = p.id
    WHERE p.tenant = p_tenant AND p.kind = 'human' AND p.suspended_at IS NULL AND g.role = p_role AND g.revoked_at IS NULL
      AND g.starts_at <= clock_timestamp() AND (g.expires_at IS NULL OR g.expires_at > clock_timestamp()));
END $$;
-- What the tenant is called: the one name that it has in every environment.
CREATE FUNCTION tenant_name(p_tenant uuid) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM require_tenant(p_tenant);
  RETURN (SELECT t.name FROM public.tenant t WHERE t.id = p_tenant);
END $$;

-- Puts back the work row of each tenant whose gates are computed all the time: the one that runs the installation, and those that
-- have a ladder. Answers how many.
CREATE FUNCTION restore_release_work() RETURNS int
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH restored AS (
    INSERT INTO public.work (tenant, kind, subject, queue)
    SELECT t.id, 'release_check', t.id, 'worker' FROM public.tenant t
    WHERE (t.operator OR EXISTS (SELECT 1 FROM public.rung_change c WHERE c.tenant = t.id)) AND t.suspended_at IS NULL
      AND NOT EXISTS (SELECT 1 FROM public.work w WHERE w.tenant = t.id AND w.kind = 'release_check' AND w.subject = t.id)
    LIMIT 5000
    ON CONFLICT (tenant, kind, subject) DO NOTHING RETURNING 1)
  SELECT count(*)::int FROM restored
$$;

-- ------------------------------------------------------------------ people and other environments
-- Signs an attestation: a live human of the role presents their secret.
-- outcome: signed · unauthenticated · not_entitled.
CREATE FUNCTION attest(p_tenant uuid, p_secret text, p_id uuid, p_environment text, p_claim text, p_role text, p_statement bytea,
                       p_life interval)
RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE who uuid; made public.attestation;
BEGIN
  PERFORM require_tenant(p_tenant);
  PERFORM require_present();
  who := principal_of(p_tenant, p_secret);
  IF who IS NULL THEN RETURN 'unauthenticated'; END IF;
  IF NOT entitled(p_tenant, who, p_role) THEN RETURN 'not_entitled'; END IF;
  INSERT INTO public.attestation (tenant, id, environment, claim, role, statement, signed_by, signed_at, expires_at)
    VALUES (p_tenant, p_id, p_environment, p_claim, p_role, p_statement, who, statement_timestamp(), statement_timestamp() + p_life)
    RETURNING * INTO made;
  PERFORM wall_fact(p_tenant, p_tenant, 'attestation.signed', 'principal:' || who, jsonb_build_object(
    'attestation', made.id, 'claim', made.claim, 'environment', made.environment, 'role', made.role, 'sha256', encode(made.sha256, 'hex'),
    'expires_at', made.expires_at));
  PERFORM want_work(p_tenant, 'release_check', p_tenant, 'worker', clock_timestamp());
  RETURN 'signed';
END $$;
-- Takes one back: a holder of the role it was signed in, or a release owner.
-- outcome: withdrawn · already_withdrawn · not_found · unauthenticated · not_entitled.
CREATE FUNCTION withdraw_attestation(p_tenant uuid, p_secret text, p_id uuid) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE who uuid; known public.attestation;
BEGIN
  PERFORM require_tenant(p_tenant);
  PERFORM require_present();
  who := principal_of(p_tenant, p_secret);
  IF who IS NULL THEN RETURN 'unauthenticated'; END IF;
  SELECT * INTO known FROM public.attestation a WHERE a.tenant = p_tenant AND a.id = p_id FOR UPDATE;
  IF known.id IS NULL THEN RETURN 'not_found'; END IF;
  IF NOT (entitled(p_tenant, who, known.role) OR entitled(p_tenant, who, 'release_owner')) THEN RETURN 'not_entitled'; END IF;
  IF known.withdrawn_at IS NOT NULL THEN RETURN 'already_withdrawn'; END IF;
  UPDATE public.attestation a SET withdrawn_by = who, withdrawn_at = clock_timestamp() WHERE a.tenant = p_tenant AND a.id = p_id;
  PERFORM wall_fact(p_tenant, p_tenant, 'attestation.withdrawn', 'principal:' || who, jsonb_build_object(
    'attestation', known.id, 'claim', known.claim, 'environment', known.environment));
  PERFORM want_work(p_tenant, 'release_check', p_tenant, 'worker', clock_timestamp());
  RETURN 'withdrawn';
END $$;

-- Keeps the verdict of another environment, whose signature the process that serves has checked, for a human release owner.
-- outcome: kept · known (the same file) · unauthenticated · not_entitled · wrong_environment (this one's own) · other_tenant ·
-- expired · early (it was made in the future) · superseded (a later one is known).
CREATE FUNCTION keep_verdict(p_tenant uuid, p_secret text, p_id uuid, p_environment text, p_file bytea)
RETURNS TABLE (outcome text, id uuid)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE who uuid; made public.verdict; known uuid; say text; said jsonb := convert_from(p_file, 'UTF8')::jsonb -> 'statement';
BEGIN
  PERFORM require_tenant(p_tenant);
  PERFORM require_present();
  PERFORM pg_advisory_xact_lock(hashtextextended(p_tenant::text, 33));
  who := principal_of(p_tenant, p_secret);
  SELECT v.id INTO known FROM public.verdict v WHERE v.tenant = p_tenant AND v.sha256 = sha256(p_file);
  say := CASE
    WHEN who IS NULL THEN 'unauthenticated'
    WHEN NOT entitled(p_tenant, who, 'release_owner') THEN 'not_entitled'
    WHEN said ->> 'environment' IS NOT DISTINCT FROM p_environment THEN 'wrong_environment'
    WHEN said ->> 'tenant' IS DISTINCT FROM tenant_name(p_tenant) THEN 'other_tenant'
    WHEN (said ->> 'expires_at')::timestamptz <= clock_timestamp() THEN 'expired'
    WHEN (said ->> 'made_at')::timestamptz > clock_timestamp() + interval '5 minutes' THEN 'early'
    WHEN known IS NOT NULL THEN 'known'
    WHEN EXISTS (SELECT 1 FROM public.verdict v WHERE v.tenant = p_tenant AND v.environment = said ->> 'environment'
                   AND v.made_at > (said ->> 'made_at')::timestamptz) THEN 'superseded' END;
  IF say IS NOT NULL THEN RETURN QUERY SELECT say, known; RETURN; END IF;
  INSERT INTO public.verdict (tenant, id, file, imported_by) VALUES (p_tenant, p_id, p_file, who) RETURNING * INTO made;
  PERFORM wall_fact(p_tenant, p_tenant, 'verdict.imported', 'principal:' || who, jsonb_build_object(
    'verdict', made.id, 'environment', made.environment, 'result', made.result, 'sha256', encode(made.sha256, 'hex'),
    'made_at', made.made_at, 'expires_at', made.expires_at));
  PERFORM want_work(p_tenant, 'release_check', p_tenant, 'worker', clock_timestamp());
  RETURN QUERY SELECT 'kept', made.id;
END $$;

REVOKE ALL ON FUNCTION read_verdict(), newest_drills(), ladder_binds(uuid), broken_rule(uuid, text, text, text), guard_rung(),
  guard_attestation(), hold_ladder(uuid, text, text), move_rung(uuid, text, text, text, text, text, text, uuid, jsonb),
  enable_rung(uuid, text, text, text, text, text, jsonb), drop_rung(uuid, text, text, text, uuid, jsonb),
  lower_rung(uuid, text, text, text, jsonb), lower_rung_itself(uuid, text, text, text, jsonb), note_gates(uuid, text, jsonb),
  release_is_healthy(text, text[]), role_holders(uuid, text), tenant_name(uuid), restore_release_work(),
  attest(uuid, text, uuid, text, text, text, bytea, interval), withdraw_attestation(uuid, text, uuid),
  keep_verdict(uuid, text, uuid, text, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION newest_drills(), ladder_binds(uuid), role_holders(uuid, text) TO {prefix}_api, {prefix}_worker;
GRANT EXECUTE ON FUNCTION enable_rung(uuid, text, text, text, text, text, jsonb), lower_rung(uuid, text, text, text, jsonb),
  release_is_healthy(text, text[]), tenant_name(uuid), attest(uuid, text, uuid, text, text, text, bytea, interval),
  withdraw_attestation(uuid, text, uuid), keep_verdict(uuid, text, uuid, text, bytea) TO {prefix}_api;
-- How the gates came out is the worker's to say: whose URL leaks from the api does not open the door of a pipeline.
GRANT EXECUTE ON FUNCTION note_gates(uuid, text, jsonb), lower_rung_itself(uuid, text, text, text, jsonb), restore_release_work()
  TO {prefix}_worker;
