-- Which further tools a tenant's missions may be given: layers of registered tools without secrets, in versions that never change.

CREATE TABLE tool_layer (
  tenant uuid NOT NULL REFERENCES tenant,
  name text NOT NULL CHECK (name ~ '^[a-z][a-z0-9]*(_[a-z0-9]+)*$' AND length(name) <= 30 AND name NOT IN ('workspace', 'crm')),
  version int NOT NULL CHECK (version >= 1),
  kind text NOT NULL CHECK (kind IN ('mcp')),
  definition jsonb NOT NULL CHECK (jsonb_typeof(definition) = 'object' AND octet_length(definition::text) <= 1048576),  -- with pinned schemas
  account text NOT NULL CHECK (account ~ '^TOOL_[A-Z0-9]+(_[A-Z0-9]+)*__[A-Z0-9]+(_[A-Z0-9]+)*$'),  -- what its key is called in the environment
  retired boolean NOT NULL DEFAULT false,
  created_by uuid NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, name, version),
  FOREIGN KEY (tenant, created_by) REFERENCES principal (tenant, id)
);

CREATE TABLE tool_layer_switch (      -- one row per layer that was ever switched; '*' is all of them
  tenant uuid NOT NULL REFERENCES tenant,
  layer text NOT NULL,
  halted_at timestamptz,
  reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 2000),
  changed_by uuid NOT NULL,
  changed_at timestamptz NOT NULL,
  PRIMARY KEY (tenant, layer),
  FOREIGN KEY (tenant, changed_by) REFERENCES principal (tenant, id)
);

-- What was seen of a version: whether its server answers, which of its tools are no longer what was registered, and what was asked.
CREATE TABLE tool_layer_state (
  tenant uuid NOT NULL,
  layer text NOT NULL,
  version int NOT NULL,
  drifted text[] NOT NULL DEFAULT '{}',   -- of our names; they only become more, a new version begins without any
  drifted_at timestamptz,
  answered_at timestamptz,
  failed_at timestamptz,
  failure text CHECK (failure ~ '^[a-z_]{1,40}$'),
  calls bigint NOT NULL DEFAULT 0,
  refusals bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant, layer, version),
  FOREIGN KEY (tenant, layer, version) REFERENCES tool_layer (tenant, name, version),
  CONSTRAINT tool_layer_state_failure CHECK ((failed_at IS NULL) = (failure IS NULL)),
  CONSTRAINT tool_layer_state_drift CHECK ((drifted_at IS NULL) = (drifted = '{}'))
);

DO $$
DECLARE t text;
BEGIN
  CREATE TRIGGER tool_layer_keep BEFORE UPDATE OR DELETE ON tool_layer FOR EACH ROW EXECUTE FUNCTION refuse_change();
  CREATE TRIGGER tool_layer_switch_keep BEFORE DELETE ON tool_layer_switch FOR EACH ROW EXECUTE FUNCTION refuse_change();
  FOREACH t IN ARRAY ARRAY['tool_layer', 'tool_layer_switch'] LOOP
    EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', t || '_whole', t);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_keep');
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_whole');
  END LOOP;
  FOREACH t IN ARRAY ARRAY['tool_layer', 'tool_layer_switch', 'tool_layer_state'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format($p$CREATE POLICY own_tenant ON %I
      USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid)$p$, t);
  END LOOP;
END $$;
GRANT SELECT ON tool_layer, tool_layer_switch, tool_layer_state TO {prefix}_api, {prefix}_worker, {prefix}_auditor;

-- A tool that has drifted stays so for its version: only a person, by registering what is there now, lets it be called again.
CREATE FUNCTION guard_tool_layer_state() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF NOT NEW.drifted @> OLD.drifted OR NEW.drifted_at IS DISTINCT FROM COALESCE(OLD.drifted_at, NEW.drifted_at) THEN
    RAISE EXCEPTION 'wall: a tool that has drifted stays so until its layer is registered anew' USING ERRCODE = 'RX001';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER tool_layer_state_guard BEFORE UPDATE ON tool_layer_state FOR EACH ROW EXECUTE FUNCTION guard_tool_layer_state();
CREATE TRIGGER tool_layer_state_keep BEFORE DELETE ON tool_layer_state FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER tool_layer_state_whole BEFORE TRUNCATE ON tool_layer_state FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE tool_layer_state ENABLE ALWAYS TRIGGER tool_layer_state_guard;
ALTER TABLE tool_layer_state ENABLE ALWAYS TRIGGER tool_layer_state_keep;
ALTER TABLE tool_layer_state ENABLE ALWAYS TRIGGER tool_layer_state_whole;

-- What the key of a layer is called in the environment, also of one that is only about to be registered. As with connectors: two
-- tenants whose names are spelled alike must not come by each other's keys.
CREATE FUNCTION tool_account(p_tenant uuid, p_name text) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM require_tenant(p_tenant);
  RETURN regexp_replace(connector_account(p_tenant, p_name), '^CONNECTOR', 'TOOL');
END $$;

-- A layer, its next version, or its end, by an admin. p_version: the version that was seen; null for a new one.
-- p_definition null: it is retired, and stays as it was.
-- outcome: created · changed · retired · or why not: unauthenticated, not_entitled, not_found, stale, account_taken, bad_layer (see why).
CREATE FUNCTION put_tool_layer(p_tenant uuid, p_secret text, p_name text, p_version int, p_kind text, p_definition jsonb)
RETURNS TABLE (outcome text, version int, why text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE who uuid; was public.tool_layer; l public.tool_layer; account text; broken text;
BEGIN
  PERFORM require_tenant(p_tenant);
  SELECT * INTO was FROM public.tool_layer x WHERE x.tenant = p_tenant AND x.name = p_name ORDER BY x.version DESC LIMIT 1;
  who := principal_of(p_tenant, p_secret);
  IF who IS NULL THEN RETURN QUERY SELECT 'unauthenticated', NULL::int, NULL::text; RETURN; END IF;
  IF NOT entitled(p_tenant, who, 'admin') THEN RETURN QUERY SELECT 'not_entitled', was.version, NULL::text; RETURN; END IF;
  IF was.name IS NULL AND (p_version IS NOT NULL OR p_definition IS NULL) THEN
    RETURN QUERY SELECT 'not_found', NULL::int, NULL::text; RETURN;
  END IF;
  IF p_version IS DISTINCT FROM was.version THEN RETURN QUERY SELECT 'stale', was.version, NULL::text; RETURN; END IF;
  account := COALESCE(was.account, tool_account(p_tenant, p_name));
  IF account IS NULL THEN RETURN QUERY SELECT 'account_taken', was.version, NULL::text; RETURN; END IF;
  BEGIN
    INSERT INTO public.tool_layer (tenant, name, version, kind, definition, account, retired, created_by)
      VALUES (p_tenant, p_name, COALESCE(was.version, 0) + 1, CASE WHEN p_definition IS NULL THEN was.kind ELSE p_kind END,
              COALESCE(p_definition, was.definition), account, p_definition IS NULL, who)
      RETURNING * INTO l;
  EXCEPTION
    WHEN check_violation OR not_null_violation THEN
      GET STACKED DIAGNOSTICS broken = CONSTRAINT_NAME;
      RETURN QUERY SELECT 'bad_layer', was.version, broken; RETURN;
    WHEN unique_violation THEN       -- somebody else was a moment faster
      RETURN QUERY SELECT 'stale', was.version, NULL::text; RETURN;
  END;
  INSERT INTO public.tool_layer_state (tenant, layer, version) VALUES (p_tenant, l.name, l.version);
  IF NOT l.retired THEN
    PERFORM want_work(p_tenant, 'tool_check', p_tenant, 'worker', clock_timestamp());
  END IF;
  PERFORM wall_fact(p_tenant, p_tenant, 'tool_layer.changed', 'principal:' || who, jsonb_build_object(
    'layer', l.name, 'layer_version', l.version, 'kind', l.kind, 'retired', l.retired,
    'definition_sha256', encode(sha256(convert_to(l.definition::text, 'UTF8')), 'hex')));
  RETURN QUERY SELECT CASE WHEN l.retired THEN 'retired' WHEN was.name IS NULL THEN 'created' ELSE 'changed' END, l.version, NULL::text;
END $$;

-- Stops or lets go on the tools of a layer ('*': of all of them). Whoever runs things may stop; only an admin goes on.
-- outcome: halted · resumed · unchanged · or why not: unauthenticated, not_entitled, not_found, no_reason.
CREATE FUNCTION switch_tool_layer(p_tenant uuid, p_secret text, p_layer text, p_halt boolean, p_reason text)
RETURNS TABLE (outcome text, halted_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE who uuid; was timestamptz; say text;
BEGIN
  PERFORM require_tenant(p_tenant);
  -- before the look: of two who switch at once the second finds what the first has done
  PERFORM 1 FROM public.tenant t WHERE t.id = p_tenant FOR NO KEY UPDATE;
  SELECT x.halted_at INTO was FROM public.tool_layer_switch x WHERE x.tenant = p_tenant AND x.layer = p_layer;
  who := principal_of(p_tenant, p_secret);
  say := CASE
    WHEN who IS NULL THEN 'unauthenticated'
    WHEN p_halt IS NULL OR NOT (entitled(p_tenant, who, 'admin') OR (p_halt AND entitled(p_tenant, who, 'operator'))) THEN 'not_entitled'
    WHEN p_layer IS NULL OR (p_layer <> '*' AND NOT EXISTS (
      SELECT 1 FROM public.tool_layer l WHERE l.tenant = p_tenant AND l.name = p_layer)) THEN 'not_found'
    WHEN COALESCE(p_reason, '') !~ '[^[:space:]]' OR length(btrim(p_reason)) > 2000 THEN 'no_reason'
    WHEN (was IS NOT NULL) = p_halt THEN 'unchanged'
    END;
  IF say IS NOT NULL THEN RETURN QUERY SELECT say, was; RETURN; END IF;
  INSERT INTO public.tool_layer_switch AS s (tenant, layer, halted_at, reason, changed_by, changed_at)
    VALUES (p_tenant, p_layer, CASE WHEN p_halt THEN clock_timestamp() END, btrim(p_reason), who, clock_timestamp())
    ON CONFLICT (tenant, layer) DO UPDATE SET halted_at = excluded.halted_at, reason = excluded.reason,
      changed_by = excluded.changed_by, changed_at = excluded.changed_at
    RETURNING s.halted_at INTO was;
  PERFORM wall_fact(p_tenant, p_tenant, CASE WHEN p_halt THEN 'tool_layer.halted' ELSE 'tool_layer.resumed' END, 'principal:' || who,
    jsonb_build_object('layer', p_layer));
  RETURN QUERY SELECT CASE WHEN p_halt THEN 'halted' ELSE 'resumed' END, was;
END $$;

-- What a process has seen of a version since it last said so. p_drifted: tools (our names of them) that are not what was registered; a
-- name of none of its tools is left out. p_failure: why the server gave no answer. Answers whether that made something drift.
CREATE FUNCTION note_tool_layer(p_tenant uuid, p_layer text, p_version int, p_answered boolean, p_failure text, p_drifted text[],
                                p_calls int, p_refusals int) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE s public.tool_layer_state; news text[];
BEGIN
  PERFORM require_tenant(p_tenant);
  SELECT * INTO s FROM public.tool_layer_state x WHERE x.tenant = p_tenant AND x.layer = p_layer AND x.version = p_version FOR NO KEY UPDATE;
  IF s.layer IS NULL THEN RETURN false; END IF;
  SELECT array_agg(DISTINCT d ORDER BY d) INTO news FROM unnest(p_drifted) d
    WHERE d <> ALL (s.drifted) AND EXISTS (
      SELECT 1 FROM public.tool_layer l, jsonb_object_keys(COALESCE(l.definition -> 'pinned', '{}')) k
      WHERE l.tenant = p_tenant AND l.name = p_layer AND l.version = p_version AND k = d);
  UPDATE public.tool_layer_state x SET
      answered_at = CASE WHEN p_answered THEN clock_timestamp() ELSE x.answered_at END,
      failed_at = CASE WHEN p_failure IS NOT NULL THEN clock_timestamp() ELSE x.failed_at END,
      failure = COALESCE(left(regexp_replace(NULLIF(p_failure, ''), '[^a-z_]', '_', 'g'), 40), x.failure,
                         CASE WHEN p_failure IS NOT NULL THEN 'unknown' END),
      drifted = x.drifted || COALESCE(news, '{}'),
      drifted_at = CASE WHEN news IS NOT NULL THEN COALESCE(x.drifted_at, clock_timestamp()) ELSE x.drifted_at END,
      calls = x.calls + GREATEST(COALESCE(p_calls, 0), 0), refusals = x.refusals + GREATEST(COALESCE(p_refusals, 0), 0)
    WHERE x.tenant = p_tenant AND x.layer = p_layer AND x.version = p_version;
  IF news IS NULL THEN RETURN false; END IF;
  PERFORM wall_fact(p_tenant, p_tenant, 'tool_layer.drifted', CASE WHEN session_user = '{prefix}_worker' THEN 'system:worker' ELSE 'system:api' END,
    jsonb_build_object('layer', p_layer, 'layer_version', p_version, 'tools', to_jsonb(news[1:100])));
  RETURN true;
END $$;

REVOKE ALL ON FUNCTION guard_tool_layer_state(), tool_account(uuid, text), put_tool_layer(uuid, text, text, int, text, jsonb),
  switch_tool_layer(uuid, text, text, boolean, text), note_tool_layer(uuid, text, int, boolean, text, text[], int, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tool_account(uuid, text), put_tool_layer(uuid, text, text, int, text, jsonb), switch_tool_layer(uuid, text, text, boolean, text) TO {prefix}_api;
GRANT EXECUTE ON FUNCTION note_tool_layer(uuid, text, int, boolean, text, text[], int, int) TO {prefix}_api, {prefix}_worker;
