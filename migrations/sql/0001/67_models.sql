-- Models: which providers are switched off for the whole installation, and what each tenant used of whom.

CREATE TABLE model_switch (          -- one row per provider that was ever switched, kept by the operator's tenant; read by model_switches()
  tenant uuid NOT NULL REFERENCES tenant,
  provider text NOT NULL CHECK (provider ~ '^[a-z][a-z0-9_]{0,62}$'),
  off_at timestamptz,                -- null: it was switched on again
  reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 2000),
  changed_by uuid NOT NULL,
  changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, provider),
  FOREIGN KEY (tenant, changed_by) REFERENCES principal (tenant, id)
);

CREATE TABLE model_use (             -- sums of the facts `model.called`, so that nobody has to read those for them
  tenant uuid NOT NULL REFERENCES tenant,
  day date NOT NULL,                 -- UTC
  provider text NOT NULL CHECK (provider ~ '^[a-z][a-z0-9_]{0,62}$'),
  calls bigint NOT NULL DEFAULT 0 CHECK (calls >= 0),
  failed bigint NOT NULL DEFAULT 0 CHECK (failed BETWEEN 0 AND calls),
  tokens_in bigint NOT NULL DEFAULT 0 CHECK (tokens_in >= 0),
  tokens_out bigint NOT NULL DEFAULT 0 CHECK (tokens_out >= 0),
  cost_usd numeric(24, 8) NOT NULL DEFAULT 0 CHECK (cost_usd >= 0),
  PRIMARY KEY (tenant, day, provider)
);

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['model_switch', 'model_use'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format($p$CREATE POLICY own_tenant ON %I
      USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid)$p$, t);
    EXECUTE format('CREATE TRIGGER %I BEFORE DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', t || '_keep', t);
    EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', t || '_whole', t);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_keep');
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_whole');
    EXECUTE format('GRANT SELECT ON %I TO {prefix}_api, {prefix}_auditor', t);
  END LOOP;
END $$;
CREATE POLICY lookup ON model_switch FOR SELECT TO {prefix}_owner USING (true);   -- model_switches() answers every tenant

-- The switches as everybody may see them: what is off, since when and why.
CREATE FUNCTION model_switches() RETURNS TABLE (provider text, off_at timestamptz, reason text, changed_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT s.provider, s.off_at, s.reason, s.changed_at FROM public.model_switch s
  JOIN public.tenant t ON t.id = s.tenant AND t.operator
$$;

-- Switches a provider off or on for the whole installation, by a human admin of the operator's tenant.
-- outcome: off · on · unchanged · or why not: unauthenticated, not_entitled, no_reason.
CREATE FUNCTION switch_model_provider(p_tenant uuid, p_secret text, p_provider text, p_off boolean, p_reason text)
RETURNS TABLE (outcome text, off_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE who uuid; was timestamptz; operators boolean; say text;
BEGIN
  PERFORM require_tenant(p_tenant);
  -- before the look: of two who switch at once the second finds what the first has done
  SELECT t.operator INTO operators FROM public.tenant t WHERE t.id = p_tenant FOR NO KEY UPDATE;
  SELECT x.off_at INTO was FROM public.model_switch x WHERE x.tenant = p_tenant AND x.provider = p_provider;
  who := principal_of(p_tenant, p_secret);
  say := CASE
    WHEN who IS NULL THEN 'unauthenticated'
    WHEN p_off IS NULL OR operators IS NOT TRUE OR NOT entitled(p_tenant, who, 'admin') THEN 'not_entitled'
    WHEN COALESCE(p_reason, '') !~ '[^[:space:]]' THEN 'no_reason'
    WHEN (was IS NOT NULL) = p_off THEN 'unchanged'
    END;
  IF say IS NOT NULL THEN RETURN QUERY SELECT say, was; RETURN; END IF;
  INSERT INTO public.model_switch AS s (tenant, provider, off_at, reason, changed_by, changed_at)
    VALUES (p_tenant, p_provider, CASE WHEN p_off THEN clock_timestamp() END, btrim(p_reason), who, clock_timestamp())
    ON CONFLICT (tenant, provider) DO UPDATE SET off_at = excluded.off_at, reason = excluded.reason,
      changed_by = excluded.changed_by, changed_at = excluded.changed_at
    RETURNING s.off_at INTO was;
  PERFORM wall_fact(p_tenant, p_tenant, CASE WHEN p_off THEN 'model_provider.switched_off' ELSE 'model_provider.switched_on' END,
    'principal:' || who, jsonb_build_object('provider', p_provider));
  RETURN QUERY SELECT CASE WHEN p_off THEN 'off' ELSE 'on' END, was;
END $$;

-- Adds one call to the sums of its day. Call it last in a transaction: others wait for the row.
CREATE FUNCTION note_model_use(p_tenant uuid, p_provider text, p_failed boolean, p_in bigint, p_out bigint, p_cost numeric)
RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM require_tenant(p_tenant);
  INSERT INTO public.model_use AS u (tenant, day, provider, calls, failed, tokens_in, tokens_out, cost_usd)
    VALUES (p_tenant, budget_day(), p_provider, 1, p_failed::int, p_in, p_out, p_cost)
    ON CONFLICT (tenant, day, provider) DO UPDATE SET calls = u.calls + 1, failed = u.failed + excluded.failed,
      tokens_in = u.tokens_in + excluded.tokens_in, tokens_out = u.tokens_out + excluded.tokens_out,
      cost_usd = u.cost_usd + excluded.cost_usd;
END $$;

REVOKE ALL ON FUNCTION model_switches(), switch_model_provider(uuid, text, text, boolean, text),
  note_model_use(uuid, text, boolean, bigint, bigint, numeric) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION model_switches(), switch_model_provider(uuid, text, text, boolean, text),
  note_model_use(uuid, text, boolean, bigint, bigint, numeric) TO {prefix}_api;
