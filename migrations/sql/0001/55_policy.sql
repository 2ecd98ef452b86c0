-- A tenant's own policies, as versions that are never changed, and the sets of rules that decisions name.

CREATE TABLE policy (
  tenant uuid NOT NULL REFERENCES tenant,
  name text NOT NULL CHECK (name ~ '^[a-z][a-z0-9_]{1,62}$'),
  version int NOT NULL CHECK (version >= 1),
  change bigint NOT NULL CHECK (change >= 1),   -- counts the tenant's changes: the newest one says which set is in force
  text bytea NOT NULL CHECK (octet_length(text) <= 65536),
  sha256 bytea NOT NULL GENERATED ALWAYS AS (sha256(text)) STORED,
  retired boolean NOT NULL DEFAULT false,       -- a policy ends as it began: with a new version
  created_by uuid NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, name, version),
  UNIQUE (tenant, change),
  FOREIGN KEY (tenant, created_by) REFERENCES principal (tenant, id),
  CHECK (retired = (octet_length(text) = 0))
);

-- What a decision's policy_version stands for: the shipped rules it was made with, and which own policies in which version.
-- The version is the hash of the manifest and the manifest holds the hash of the shipped text, so a row cannot lie.
CREATE TABLE policy_set (
  tenant uuid NOT NULL REFERENCES tenant,
  id uuid NOT NULL DEFAULT gen_random_uuid(),   -- two processes may keep the same set: nobody waits for anybody
  manifest bytea NOT NULL CHECK (octet_length(manifest) BETWEEN 2 AND 32768),
  version bytea NOT NULL GENERATED ALWAYS AS (sha256(manifest)) STORED,
  baseline bytea NOT NULL CHECK (octet_length(baseline) BETWEEN 2 AND 131072),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, id),
  CONSTRAINT policy_set_baseline CHECK (
    convert_from(manifest, 'UTF8')::jsonb ->> 'baseline' IS NOT DISTINCT FROM encode(sha256(baseline), 'hex'))
);
CREATE INDEX policy_set_version ON policy_set (tenant, version);

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['policy', 'policy_set'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format($p$CREATE POLICY own_tenant ON %I
      USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid)$p$, t);
    EXECUTE format('GRANT SELECT ON %I TO {prefix}_api, {prefix}_worker, {prefix}_auditor', t);
    EXECUTE format('CREATE TRIGGER %I BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', t || '_keep', t);
    EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', t || '_whole', t);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_keep');
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_whole');
  END LOOP;
END $$;
GRANT INSERT (tenant, manifest, baseline) ON policy_set TO {prefix}_api, {prefix}_worker;

-- Puts a policy, or retires it when p_text is null. Who does it is whoever presents a live secret.
-- outcome: added · changed · retired · unchanged · or why not: unauthenticated, not_entitled, not_found, stale, too_many.
-- p_expected is the version that was seen; 0 says that there was none.
CREATE FUNCTION put_policy(p_tenant uuid, p_secret text, p_name text, p_text bytea, p_expected int)
RETURNS TABLE (outcome text, version int, change bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE last public.policy; who uuid; n bigint; living int; bytes bigint; say text;
BEGIN
  PERFORM require_tenant(p_tenant);
  PERFORM require_present();
  -- one change after the other, or two would take the same number
  PERFORM pg_advisory_xact_lock(hashtextextended(p_tenant::text, 13));
  who := principal_of(p_tenant, p_secret);
  SELECT * INTO last FROM public.policy p WHERE p.tenant = p_tenant AND p.name = p_name ORDER BY p.version DESC LIMIT 1;
  SELECT COALESCE(max(p.change), 0) INTO n FROM public.policy p WHERE p.tenant = p_tenant;
  SELECT count(*), COALESCE(sum(x.size), 0) INTO living, bytes
    FROM (SELECT DISTINCT ON (p.name) p.name, p.retired, octet_length(p.text) AS size FROM public.policy p
    WHERE p.tenant = p_tenant ORDER BY p.name, p.version DESC) x WHERE NOT x.retired AND x.name <> p_name;
  say := CASE
    WHEN who IS NULL THEN 'unauthenticated'
    WHEN NOT entitled(p_tenant, who, 'policy_owner') THEN 'not_entitled'
    WHEN p_text IS NULL AND last.name IS NULL THEN 'not_found'
    WHEN last.text = COALESCE(p_text, ''::bytea) THEN 'unchanged'
    WHEN COALESCE(last.version, 0) IS DISTINCT FROM p_expected THEN 'stale'
    WHEN p_text IS NOT NULL AND (living >= 50 OR bytes + octet_length(p_text) > 262144) THEN 'too_many'
    END;
  IF say IS NOT NULL THEN RETURN QUERY SELECT say, COALESCE(last.version, 0), n; RETURN; END IF;
  INSERT INTO public.policy (tenant, name, version, change, text, retired, created_by)
    VALUES (p_tenant, p_name, COALESCE(last.version, 0) + 1, n + 1, COALESCE(p_text, ''::bytea), p_text IS NULL, who)
    RETURNING * INTO last;
  PERFORM wall_fact(p_tenant, p_tenant, 'policy.changed', 'principal:' || who, jsonb_build_object(
    'policy', last.name, 'version', last.version, 'change', last.change, 'sha256', encode(last.sha256, 'hex'),
    'retired', last.retired));
  RETURN QUERY SELECT CASE WHEN last.retired THEN 'retired' WHEN last.version = 1 THEN 'added' ELSE 'changed' END,
    last.version, last.change;
END $$;

REVOKE ALL ON FUNCTION put_policy(uuid, text, text, bytea, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION put_policy(uuid, text, text, bytea, int) TO {prefix}_api;
