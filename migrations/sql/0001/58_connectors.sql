-- Which business systems a tenant has: definitions without secrets, in versions that never change.

CREATE TABLE connector (
  tenant uuid NOT NULL REFERENCES tenant,
  name text NOT NULL CHECK (name ~ '^[a-z][a-z0-9]*(_[a-z0-9]+)*$' AND length(name) <= 63),
  version int NOT NULL CHECK (version >= 1),
  kind text NOT NULL CHECK (kind IN ('sample_crm', 'http_json', 'tryton', 'postgresql', 'drill')),
  definition jsonb NOT NULL CHECK (jsonb_typeof(definition) = 'object' AND octet_length(definition::text) <= 65536),
  account text NOT NULL CHECK (account ~ '^CONNECTOR_[A-Z0-9]+(_[A-Z0-9]+)*__[A-Z0-9]+(_[A-Z0-9]+)*$'),  -- what its credentials are called in the environment
  retired boolean NOT NULL DEFAULT false,
  created_by uuid NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, name, version),
  FOREIGN KEY (tenant, created_by) REFERENCES principal (tenant, id)
);

-- Drills meet nothing but the built-in target, and nobody else meets that.
CREATE FUNCTION guard_connector() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM 1 FROM public.tenant t WHERE t.id = NEW.tenant AND t.drills = (NEW.kind = 'drill');
  IF NOT FOUND THEN
    RAISE EXCEPTION 'wall: connectors of kind drill, and no others, belong to the tenant of the drills' USING ERRCODE = 'RX034';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER connector_guard BEFORE INSERT ON connector FOR EACH ROW EXECUTE FUNCTION guard_connector();
ALTER TABLE connector ENABLE ALWAYS TRIGGER connector_guard;

-- A record that a process without a credential wants to see; the executor looks it up. Short-lived: see sweep_connector_reads().
CREATE TABLE connector_read (
  tenant uuid NOT NULL,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  connector text NOT NULL,
  connector_version int NOT NULL,
  kind text NOT NULL CHECK (length(kind) BETWEEN 1 AND 200),
  record_id text NOT NULL CHECK (length(record_id) BETWEEN 1 AND 500),
  asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  answered_at timestamptz,
  value bytea CHECK (octet_length(value) <= 1048576),        -- the record's fields, canonical JSON
  version text CHECK (length(version) <= 1000),
  problem text CHECK (length(problem) <= 1000),
  PRIMARY KEY (tenant, id),
  FOREIGN KEY (tenant, connector, connector_version) REFERENCES connector (tenant, name, version),
  CONSTRAINT connector_read_answer CHECK ((answered_at IS NOT NULL) = (value IS NOT NULL OR problem IS NOT NULL)
    AND (value IS NULL) = (version IS NULL) AND (value IS NULL OR problem IS NULL))
);
CREATE INDEX connector_read_open ON connector_read (tenant, connector, kind, record_id) WHERE answered_at IS NULL;
CREATE INDEX connector_read_age ON connector_read (asked_at);

DO $$
DECLARE t text;
BEGIN
  CREATE TRIGGER connector_keep BEFORE UPDATE OR DELETE ON connector FOR EACH ROW EXECUTE FUNCTION refuse_change();
  CREATE TRIGGER connector_whole BEFORE TRUNCATE ON connector FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
  ALTER TABLE connector ENABLE ALWAYS TRIGGER connector_keep;
  ALTER TABLE connector ENABLE ALWAYS TRIGGER connector_whole;
  FOREACH t IN ARRAY ARRAY['connector', 'connector_read'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format($p$CREATE POLICY own_tenant ON %I
      USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid)$p$, t);
  END LOOP;
END $$;
CREATE POLICY sweep ON connector_read TO {prefix}_owner USING (true);
GRANT SELECT ON connector TO {prefix}_api, {prefix}_worker, {prefix}_auditor;
GRANT SELECT ON connector_read TO {prefix}_api, {prefix}_worker;

-- A name as part of the name of an environment variable.
CREATE FUNCTION environment_word(p_name text) RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT btrim(regexp_replace(upper(p_name), '[^A-Z0-9]+', '_', 'g'), '_')
$$;

-- What the credentials of a tenant's connectors begin with. Null when an older tenant's begin so: an admin of one tenant must
-- not come by the credentials of another by the likeness of their names. Two underscores part the tenant from the connector.
CREATE FUNCTION connector_account(p_tenant uuid, p_name text) RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT 'CONNECTOR_' || public.environment_word(t.name) || '__' || public.environment_word(p_name) FROM public.tenant t
  WHERE t.id = p_tenant AND public.environment_word(t.name) <> '' AND NOT EXISTS (
    SELECT 1 FROM public.tenant o WHERE public.environment_word(o.name) = public.environment_word(t.name)
      AND (o.created_at, o.id) < (t.created_at, t.id))
$$;

-- A connector, its next version, or its end, by an admin. p_version: the version that was seen; null for a new one.
-- p_definition null: it is retired, and stays as it was.
-- outcome: created · changed · retired · or why not: unauthenticated, not_entitled, not_found, stale, account_taken,
-- not_for_this_tenant, bad_connector (see why).
CREATE FUNCTION put_connector(p_tenant uuid, p_secret text, p_name text, p_version int, p_kind text, p_definition jsonb)
RETURNS TABLE (outcome text, version int, why text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE who uuid; was public.connector; c public.connector; account text; broken text;
BEGIN
  PERFORM require_tenant(p_tenant);
  -- waits for claims under way, which hold the rows: see claim()
  PERFORM 1 FROM public.connector x WHERE x.tenant = p_tenant AND x.name = p_name ORDER BY x.version FOR NO KEY UPDATE;
  SELECT * INTO was FROM public.connector x WHERE x.tenant = p_tenant AND x.name = p_name ORDER BY x.version DESC LIMIT 1;
  who := principal_of(p_tenant, p_secret);
  IF who IS NULL THEN RETURN QUERY SELECT 'unauthenticated', NULL::int, NULL::text; RETURN; END IF;
  IF NOT entitled(p_tenant, who, 'admin') THEN RETURN QUERY SELECT 'not_entitled', was.version, NULL::text; RETURN; END IF;
  IF was.name IS NULL AND (p_version IS NOT NULL OR p_definition IS NULL) THEN
    RETURN QUERY SELECT 'not_found', NULL::int, NULL::text; RETURN;
  END IF;
  IF p_version IS DISTINCT FROM was.version THEN RETURN QUERY SELECT 'stale', was.version, NULL::text; RETURN; END IF;
  account := COALESCE(was.account, connector_account(p_tenant, p_name));
  IF account IS NULL THEN RETURN QUERY SELECT 'account_taken', was.version, NULL::text; RETURN; END IF;
  BEGIN
    INSERT INTO public.connector (tenant, name, version, kind, definition, account, retired, created_by)
      VALUES (p_tenant, p_name, COALESCE(was.version, 0) + 1, CASE WHEN p_definition IS NULL THEN was.kind ELSE p_kind END,
              COALESCE(p_definition, was.definition), account, p_definition IS NULL, who)
      RETURNING * INTO c;
  EXCEPTION
    WHEN check_violation OR not_null_violation THEN
      GET STACKED DIAGNOSTICS broken = CONSTRAINT_NAME;
      RETURN QUERY SELECT 'bad_connector', was.version, broken; RETURN;
    WHEN SQLSTATE 'RX034' THEN
      RETURN QUERY SELECT 'not_for_this_tenant', was.version, NULL::text; RETURN;
    WHEN unique_violation THEN       -- somebody else was a moment faster
      RETURN QUERY SELECT 'stale', was.version, NULL::text; RETURN;
  END;
  PERFORM wall_fact(p_tenant, p_tenant, 'connector.changed', 'principal:' || who, jsonb_build_object(
    'connector', c.name, 'connector_version', c.version, 'kind', c.kind, 'retired', c.retired,
    'definition_sha256', encode(sha256(convert_to(c.definition::text, 'UTF8')), 'hex')));
  RETURN QUERY SELECT CASE WHEN c.retired THEN 'retired' WHEN was.name IS NULL THEN 'created' ELSE 'changed' END, c.version, NULL::text;
END $$;

-- Stops or lets go on what is written to a connector ('*': to all of them). Whoever runs things may stop; only an admin goes on.
-- outcome: halted · resumed · unchanged · or why not: unauthenticated, not_entitled, not_found, no_reason.
CREATE FUNCTION switch_connector(p_tenant uuid, p_secret text, p_connector text, p_halt boolean, p_reason text)
RETURNS TABLE (outcome text, halted_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE who uuid; was timestamptz; say text;
BEGIN
  PERFORM require_tenant(p_tenant);
  -- as order_switch() does, and before the look: of two who switch at once the second finds what the first has done
  PERFORM 1 FROM public.tenant t WHERE t.id = p_tenant FOR NO KEY UPDATE;
  SELECT x.halted_at INTO was FROM public.connector_switch x WHERE x.tenant = p_tenant AND x.connector = p_connector;
  who := principal_of(p_tenant, p_secret);
  say := CASE
    WHEN who IS NULL THEN 'unauthenticated'
    WHEN p_halt IS NULL OR NOT (entitled(p_tenant, who, 'admin') OR (p_halt AND entitled(p_tenant, who, 'operator'))) THEN 'not_entitled'
    WHEN p_connector IS NULL OR (p_connector <> '*' AND NOT EXISTS (
      SELECT 1 FROM public.connector c WHERE c.tenant = p_tenant AND c.name = p_connector)) THEN 'not_found'
    WHEN COALESCE(p_reason, '') !~ '[^[:space:]]' THEN 'no_reason'
    WHEN (was IS NOT NULL) = p_halt THEN 'unchanged'
    END;
  IF say IS NOT NULL THEN RETURN QUERY SELECT say, was; RETURN; END IF;
  INSERT INTO public.connector_switch AS s (tenant, connector, halted_at, reason, changed_by, changed_at)
    VALUES (p_tenant, p_connector, CASE WHEN p_halt THEN clock_timestamp() END, btrim(p_reason), who, clock_timestamp())
    ON CONFLICT (tenant, connector) DO UPDATE SET halted_at = excluded.halted_at, reason = excluded.reason,
      changed_by = excluded.changed_by, changed_at = excluded.changed_at
    RETURNING s.halted_at INTO was;
  PERFORM wall_fact(p_tenant, p_tenant, CASE WHEN p_halt THEN 'connector.halted' ELSE 'connector.resumed' END, 'principal:' || who,
    jsonb_build_object('connector', p_connector));
  RETURN QUERY SELECT CASE WHEN p_halt THEN 'halted' ELSE 'resumed' END, was;
END $$;

-- ------------------------------------------------------------------ reading through the executor
-- Asks for a record of a connector that only the executor may read; answers which connector_read to look at. Null: there is no such
-- connector, or too many wait already. Who asks for what is asked for already waits for that.
CREATE FUNCTION ask_connector_read(p_tenant uuid, p_connector text, p_kind text, p_record text) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE c public.connector; found uuid;
BEGIN
  PERFORM require_tenant(p_tenant);
  SELECT * INTO c FROM public.connector x WHERE x.tenant = p_tenant AND x.name = p_connector ORDER BY x.version DESC LIMIT 1;
  IF c.name IS NULL OR c.retired OR c.definition ->> 'read_by' IS DISTINCT FROM 'executor' THEN RETURN NULL; END IF;
  SELECT r.id INTO found FROM public.connector_read r
    WHERE r.tenant = p_tenant AND r.connector = c.name AND r.connector_version = c.version AND r.kind = p_kind AND r.record_id = p_record
      AND r.answered_at IS NULL AND r.asked_at > statement_timestamp() - interval '20 seconds' ORDER BY r.asked_at DESC LIMIT 1;
  IF found IS NOT NULL THEN RETURN found; END IF;
  IF (SELECT count(*) FROM (SELECT 1 FROM public.connector_read r WHERE r.tenant = p_tenant
        AND r.asked_at > statement_timestamp() - interval '60 seconds' AND r.answered_at IS NULL LIMIT 50) waiting) >= 50 THEN RETURN NULL; END IF;
  INSERT INTO public.connector_read (tenant, connector, connector_version, kind, record_id)
    VALUES (p_tenant, c.name, c.version, p_kind, p_record) RETURNING id INTO found;
  PERFORM want_work(p_tenant, 'connector_read', found, 'executor', clock_timestamp());
  RETURN found;
END $$;

CREATE FUNCTION take_read_work(p_limit int, p_lease interval, p_spare uuid[])
RETURNS TABLE (tenant uuid, kind text, subject uuid, fence bigint, wanted int, attempts int)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT * FROM public.take_work('executor', ARRAY['connector_read'], p_limit, p_lease, p_spare)
$$;

-- What is asked for, and how its target is reached; no row when nobody waits for it any more.
CREATE FUNCTION connector_read_of(p_tenant uuid, p_id uuid)
RETURNS TABLE (connector text, kind text, record_id text, connector_kind text, connector_version int, definition jsonb, account text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM require_tenant(p_tenant);
  RETURN QUERY SELECT r.connector, r.kind, r.record_id, c.kind, c.version, c.definition, c.account
    FROM public.connector_read r
    JOIN public.connector c ON c.tenant = r.tenant AND c.name = r.connector AND c.version = r.connector_version
    JOIN public.tenant t ON t.id = r.tenant AND t.suspended_at IS NULL
    WHERE r.tenant = p_tenant AND r.id = p_id AND r.answered_at IS NULL AND r.asked_at > statement_timestamp() - interval '60 seconds';
END $$;

-- The executor's answer, given once, under the fence of its work row, which ends with it.
CREATE FUNCTION answer_connector_read(p_tenant uuid, p_id uuid, p_fence bigint, p_value bytea, p_version text, p_problem text)
RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM require_tenant(p_tenant);
  DELETE FROM public.work w WHERE w.tenant = p_tenant AND w.kind = 'connector_read' AND w.subject = p_id AND w.fence = p_fence;
  IF NOT FOUND THEN RETURN false; END IF;
  UPDATE public.connector_read r SET answered_at = clock_timestamp(), value = p_value, version = p_version, problem = left(p_problem, 1000)
    WHERE r.tenant = p_tenant AND r.id = p_id AND r.answered_at IS NULL AND (p_value IS NOT NULL OR p_problem IS NOT NULL);
  RETURN FOUND;
END $$;

-- Forgets what was read some minutes ago: it was a look, not a record.
CREATE FUNCTION sweep_connector_reads(p_limit int) RETURNS int LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE n int;
BEGIN
  WITH old AS (
    DELETE FROM public.connector_read WHERE ctid = ANY (ARRAY(
      SELECT x.ctid FROM public.connector_read x WHERE x.asked_at < statement_timestamp() - interval '5 minutes' LIMIT p_limit))
    RETURNING tenant, id)
  DELETE FROM public.work w USING old WHERE w.tenant = old.tenant AND w.kind = 'connector_read' AND w.subject = old.id;
  SELECT count(*) INTO n FROM public.connector_read x WHERE x.asked_at < statement_timestamp() - interval '5 minutes';
  RETURN n;
END $$;

REVOKE ALL ON FUNCTION guard_connector(), environment_word(text), connector_account(uuid, text), put_connector(uuid, text, text, int, text, jsonb),
  switch_connector(uuid, text, text, boolean, text), ask_connector_read(uuid, text, text, text), take_read_work(int, interval, uuid[]),
  connector_read_of(uuid, uuid), answer_connector_read(uuid, uuid, bigint, bytea, text, text), sweep_connector_reads(int) FROM PUBLIC;
-- the registrar, for the connector that a demo tenant is born with; it too has to present an admin's secret
GRANT EXECUTE ON FUNCTION put_connector(uuid, text, text, int, text, jsonb) TO {prefix}_api, {prefix}_registrar;
GRANT EXECUTE ON FUNCTION switch_connector(uuid, text, text, boolean, text) TO {prefix}_api;
GRANT EXECUTE ON FUNCTION ask_connector_read(uuid, text, text, text) TO {prefix}_api, {prefix}_worker;
GRANT EXECUTE ON FUNCTION take_read_work(int, interval, uuid[]), connector_read_of(uuid, uuid),
  answer_connector_read(uuid, uuid, bigint, bytea, text, text) TO {prefix}_executor;
GRANT EXECUTE ON FUNCTION sweep_connector_reads(int) TO {prefix}_worker;
