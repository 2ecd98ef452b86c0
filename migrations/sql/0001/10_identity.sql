-- Tenants, who may act in them, and the one function that turns a presented secret into a principal.
-- Written only by role registrar; the api role can neither read nor write these tables.

CREATE TABLE tenant (
  id uuid PRIMARY KEY,
  name text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 200),
  suspended_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE principal (
  tenant uuid NOT NULL REFERENCES tenant,
  id uuid NOT NULL,
  kind text NOT NULL CHECK (kind IN ('human', 'service', 'agent')),
  name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  owner uuid,                                   -- who answers for an agent or a service; counts as the requester
  suspended_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, id),
  UNIQUE (tenant, name),
  FOREIGN KEY (tenant, owner) REFERENCES principal (tenant, id),
  CHECK (kind <> 'human' OR owner IS NULL)
);

CREATE TABLE role_grant (
  tenant uuid NOT NULL,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  principal uuid NOT NULL,
  role text NOT NULL CHECK (role IN ('submitter', 'operator', 'policy_owner', 'release_owner', 'product_owner',
                                     'auditor', 'colony', 'admin')),
  granted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz,
  revoked_at timestamptz,
  PRIMARY KEY (tenant, id),
  FOREIGN KEY (tenant, principal) REFERENCES principal (tenant, id)
);
CREATE UNIQUE INDEX role_grant_live ON role_grant (tenant, principal, role) WHERE revoked_at IS NULL;

CREATE TABLE api_key (
  tenant uuid NOT NULL,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  principal uuid NOT NULL,
  prefix text NOT NULL CHECK (length(prefix) BETWEEN 8 AND 32),   -- shown in lists and logs; the rest is never stored
  secret_sha256 bytea NOT NULL CHECK (length(secret_sha256) = 32),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz,
  revoked_at timestamptz,
  PRIMARY KEY (tenant, id),
  FOREIGN KEY (tenant, principal) REFERENCES principal (tenant, id)
);
-- A secret leads to exactly one key in the whole installation: the tenant is what it is looked up for.
CREATE UNIQUE INDEX api_key_secret ON api_key (secret_sha256);

-- Shared by every guard below: a statement that is never allowed.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  RAISE EXCEPTION 'wall: % on % is forbidden', TG_OP, TG_TABLE_NAME USING ERRCODE = 'RX001';
END $$;

-- Grants are history: the only change is to revoke a live one, once.
CREATE FUNCTION guard_role_grant() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF (NEW.tenant, NEW.id, NEW.principal, NEW.role, NEW.granted_at) IS DISTINCT FROM
     (OLD.tenant, OLD.id, OLD.principal, OLD.role, OLD.granted_at)
     OR NEW.expires_at IS DISTINCT FROM OLD.expires_at
     OR OLD.revoked_at IS NOT NULL OR NEW.revoked_at IS NULL THEN
    RAISE EXCEPTION 'wall: a grant can only be revoked, once' USING ERRCODE = 'RX001';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER role_grant_guard BEFORE UPDATE ON role_grant FOR EACH ROW EXECUTE FUNCTION guard_role_grant();
CREATE TRIGGER role_grant_keep BEFORE DELETE ON role_grant FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER role_grant_whole BEFORE TRUNCATE ON role_grant FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE role_grant ENABLE ALWAYS TRIGGER role_grant_guard;
ALTER TABLE role_grant ENABLE ALWAYS TRIGGER role_grant_keep;
ALTER TABLE role_grant ENABLE ALWAYS TRIGGER role_grant_whole;

-- Who somebody is never changes, or a service could turn human and approve, or lose the owner whose request it made.
CREATE FUNCTION guard_principal() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF (NEW.tenant, NEW.id, NEW.kind, NEW.created_at) IS DISTINCT FROM (OLD.tenant, OLD.id, OLD.kind, OLD.created_at)
     OR NEW.owner IS DISTINCT FROM OLD.owner THEN
    RAISE EXCEPTION 'wall: who a principal is does not change' USING ERRCODE = 'RX001';
  END IF;
  RETURN NEW;
END $$;
-- A key can only end: revoked once and for good, or made to expire earlier.
CREATE FUNCTION guard_api_key() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF (NEW.tenant, NEW.id, NEW.principal, NEW.prefix, NEW.secret_sha256, NEW.created_at) IS DISTINCT FROM
     (OLD.tenant, OLD.id, OLD.principal, OLD.prefix, OLD.secret_sha256, OLD.created_at)
     OR OLD.revoked_at IS NOT NULL
     OR COALESCE(NEW.expires_at, 'infinity') > COALESCE(OLD.expires_at, 'infinity') THEN
    RAISE EXCEPTION 'wall: a key can only be ended' USING ERRCODE = 'RX001';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER principal_guard BEFORE UPDATE ON principal FOR EACH ROW EXECUTE FUNCTION guard_principal();
CREATE TRIGGER api_key_guard BEFORE UPDATE ON api_key FOR EACH ROW EXECUTE FUNCTION guard_api_key();
ALTER TABLE principal ENABLE ALWAYS TRIGGER principal_guard;
ALTER TABLE api_key ENABLE ALWAYS TRIGGER api_key_guard;
DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['tenant', 'principal', 'api_key'] LOOP
    EXECUTE format('CREATE TRIGGER %I BEFORE DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', t || '_keep', t);
    EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', t || '_whole', t);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_keep');
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_whole');
  END LOOP;
END $$;

-- The tenant a transaction works for. Unset means none: every policy then fails closed.
CREATE FUNCTION current_tenant() RETURNS uuid LANGUAGE sql STABLE
RETURN NULLIF(current_setting('app.tenant', true), '')::uuid;

-- Definer functions call this first: their tenant argument must be the one the transaction entered.
CREATE FUNCTION require_tenant(p_tenant uuid) RETURNS void LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF p_tenant IS NULL OR p_tenant IS DISTINCT FROM current_tenant() THEN
    RAISE EXCEPTION 'wall: tenant differs from the context' USING ERRCODE = 'RX002';
  END IF;
END $$;

ALTER TABLE tenant ENABLE ROW LEVEL SECURITY; ALTER TABLE tenant FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON tenant USING (id = NULLIF(current_setting('app.tenant', true), '')::uuid);
CREATE POLICY lookup ON tenant FOR SELECT TO {prefix}_owner USING (true);
DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['principal', 'role_grant', 'api_key'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format($p$CREATE POLICY own_tenant ON %I
      USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid)$p$, t);
    -- authenticate() looks a secret up before any tenant is known
    EXECUTE format('CREATE POLICY lookup ON %I FOR SELECT TO {prefix}_owner USING (true)', t);
  END LOOP;
END $$;

GRANT SELECT, INSERT ON tenant, principal, role_grant, api_key TO {prefix}_registrar;
GRANT UPDATE (suspended_at) ON tenant, principal TO {prefix}_registrar;
GRANT UPDATE (revoked_at) ON role_grant TO {prefix}_registrar;
GRANT UPDATE (expires_at, revoked_at) ON api_key TO {prefix}_registrar;
GRANT SELECT ON tenant, principal, role_grant TO {prefix}_auditor;

-- A secret's SHA-256 -> who that is. No row: unknown, expired, revoked or suspended, told apart by nobody outside.
CREATE FUNCTION authenticate(p_secret_sha256 bytea)
RETURNS TABLE (tenant uuid, principal uuid, kind text, name text, roles text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT k.tenant, p.id, p.kind, p.name,
         ARRAY(SELECT g.role FROM public.role_grant g
               WHERE g.tenant = p.tenant AND g.principal = p.id AND g.revoked_at IS NULL
                 AND (g.expires_at IS NULL OR g.expires_at > clock_timestamp()) ORDER BY g.role)
  FROM public.api_key k
  JOIN public.principal p ON p.tenant = k.tenant AND p.id = k.principal AND p.suspended_at IS NULL
  JOIN public.tenant t ON t.id = k.tenant AND t.suspended_at IS NULL
  WHERE k.secret_sha256 = p_secret_sha256 AND k.revoked_at IS NULL
    AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
$$;

-- Tenant names for the registrar, which works across tenants by design (creating them) but reads one at a time.
CREATE FUNCTION tenant_by_name(p_name text) RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT id FROM public.tenant WHERE name = p_name
$$;

REVOKE ALL ON FUNCTION authenticate(bytea), tenant_by_name(text), require_tenant(uuid), current_tenant(),
  refuse_change(), guard_role_grant(), guard_principal(), guard_api_key() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION current_tenant() TO {prefix}_api, {prefix}_worker, {prefix}_executor, {prefix}_registrar, {prefix}_auditor, {prefix}_reader;
GRANT EXECUTE ON FUNCTION require_tenant(uuid) TO {prefix}_api, {prefix}_worker, {prefix}_executor;
GRANT EXECUTE ON FUNCTION authenticate(bytea) TO {prefix}_api;
GRANT EXECUTE ON FUNCTION tenant_by_name(text) TO {prefix}_registrar;
