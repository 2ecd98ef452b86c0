-- Tenants, who may act in them, and the one function that turns a presented secret into a principal.
-- Written only by role registrar; the api role can neither read nor write these tables.

CREATE TABLE tenant (
  id uuid PRIMARY KEY,
  name text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 200),
  operator boolean NOT NULL DEFAULT false,      -- the one tenant whose admins look after the installation's tenants
  drills boolean NOT NULL DEFAULT false,        -- the one tenant that drills run in: see 76_drills.sql
  version int NOT NULL DEFAULT 1,
  suspended_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX tenant_operator ON tenant (operator) WHERE operator;
CREATE UNIQUE INDEX tenant_drills ON tenant (drills) WHERE drills;

CREATE TABLE principal (
  tenant uuid NOT NULL REFERENCES tenant,
  id uuid NOT NULL,
  kind text NOT NULL CHECK (kind IN ('human', 'service', 'agent')),
  name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  owner uuid,                                   -- who answers for an agent or a service; counts as the requester
  version int NOT NULL DEFAULT 1,
  sessions_from timestamptz,                    -- no token issued before this becomes a session any more
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
                                     'auditor', 'colony', 'admin', 'break_glass')),
  granted_by uuid,                              -- null for what the command line of the installation gave
  delegated_from uuid,                          -- the grant of whoever passed the role on, and ends with it
  granted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  starts_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz,
  revoked_at timestamptz,
  PRIMARY KEY (tenant, id),
  UNIQUE (tenant, id, role),
  FOREIGN KEY (tenant, principal) REFERENCES principal (tenant, id),
  FOREIGN KEY (tenant, granted_by) REFERENCES principal (tenant, id),
  FOREIGN KEY (tenant, delegated_from, role) REFERENCES role_grant (tenant, id, role),
  CONSTRAINT role_grant_delegation CHECK (delegated_from IS NULL OR (granted_by IS NOT NULL AND expires_at IS NOT NULL))
);
CREATE UNIQUE INDEX role_grant_live ON role_grant (tenant, principal, role, delegated_from) NULLS NOT DISTINCT
  WHERE revoked_at IS NULL;
CREATE INDEX role_grant_passed_on ON role_grant (tenant, granted_by) WHERE delegated_from IS NOT NULL AND revoked_at IS NULL;

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

CREATE TABLE session (               -- a short-lived secret for somebody who proved elsewhere who they are
  tenant uuid NOT NULL,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  principal uuid NOT NULL,
  secret_sha256 bytea NOT NULL CHECK (length(secret_sha256) = 32),
  origin text NOT NULL CHECK (origin IN ('oidc', 'console')),
  token_sha256 bytea CHECK (length(token_sha256) = 32),      -- of the token it was given for
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz NOT NULL,
  revoked_at timestamptz,
  PRIMARY KEY (tenant, id),
  FOREIGN KEY (tenant, principal) REFERENCES principal (tenant, id)
);
CREATE UNIQUE INDEX session_secret ON session (secret_sha256);
CREATE INDEX session_of_principal ON session (tenant, principal) WHERE revoked_at IS NULL;
CREATE INDEX session_of_token ON session (tenant, token_sha256) WHERE token_sha256 IS NOT NULL;

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
  IF (NEW.tenant, NEW.id, NEW.principal, NEW.role, NEW.granted_at, NEW.starts_at) IS DISTINCT FROM
     (OLD.tenant, OLD.id, OLD.principal, OLD.role, OLD.granted_at, OLD.starts_at)
     OR NEW.expires_at IS DISTINCT FROM OLD.expires_at OR NEW.granted_by IS DISTINCT FROM OLD.granted_by
     OR NEW.delegated_from IS DISTINCT FROM OLD.delegated_from
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

-- A role is passed on by a human who was given it themselves, for at most a month and not beyond their own time; what
-- approves goes to humans only, and what makes or overrides approvers goes to nobody.
CREATE FUNCTION guard_delegation() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE source public.role_grant;
BEGIN
  NEW.granted_at := clock_timestamp();
  IF NEW.delegated_from IS NULL THEN RETURN NEW; END IF;
  SELECT * INTO source FROM public.role_grant g WHERE g.tenant = NEW.tenant AND g.id = NEW.delegated_from FOR SHARE;
  PERFORM 1 FROM public.principal p
    WHERE p.tenant = NEW.tenant AND p.id = source.principal AND p.kind = 'human' AND p.suspended_at IS NULL FOR SHARE;
  IF NOT FOUND OR source.delegated_from IS NOT NULL OR source.revoked_at IS NOT NULL OR source.starts_at > clock_timestamp()
     OR COALESCE(source.expires_at, 'infinity') <= clock_timestamp() THEN
    RAISE EXCEPTION 'wall: a role is passed on by a human who holds it themselves' USING ERRCODE = 'RX020';
  END IF;
  IF NEW.principal = source.principal OR NEW.granted_by IS DISTINCT FROM source.principal
     OR NEW.expires_at > LEAST(COALESCE(source.expires_at, 'infinity'), clock_timestamp() + interval '31 days') THEN
    RAISE EXCEPTION 'wall: a role is passed on to another, for at most 31 days and not beyond the own time' USING ERRCODE = 'RX020';
  END IF;
  IF NEW.role IN ('admin', 'break_glass', 'colony') THEN
    RAISE EXCEPTION 'wall: role % is not passed on', NEW.role USING ERRCODE = 'RX020';
  END IF;
  PERFORM 1 FROM public.principal p WHERE p.tenant = NEW.tenant AND p.id = NEW.principal
    AND (p.kind = 'human' OR NEW.role IN ('submitter', 'auditor'));
  IF NOT FOUND THEN
    RAISE EXCEPTION 'wall: a role that approves is passed on to humans only' USING ERRCODE = 'RX020';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER role_grant_delegation BEFORE INSERT ON role_grant FOR EACH ROW EXECUTE FUNCTION guard_delegation();
ALTER TABLE role_grant ENABLE ALWAYS TRIGGER role_grant_delegation;

-- Who somebody is never changes, or a service could turn human and approve, or lose the owner whose request it made.
CREATE FUNCTION guard_principal() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF (NEW.tenant, NEW.id, NEW.kind, NEW.created_at) IS DISTINCT FROM (OLD.tenant, OLD.id, OLD.kind, OLD.created_at)
     OR NEW.owner IS DISTINCT FROM OLD.owner THEN
    RAISE EXCEPTION 'wall: who a principal is does not change' USING ERRCODE = 'RX001';
  END IF;
  NEW.version := OLD.version + 1;
  RETURN NEW;
END $$;
-- Nor which tenant is the operator's, or the drills'.
CREATE FUNCTION guard_tenant() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF (NEW.id, NEW.name, NEW.operator, NEW.drills, NEW.created_at)
     IS DISTINCT FROM (OLD.id, OLD.name, OLD.operator, OLD.drills, OLD.created_at) THEN
    RAISE EXCEPTION 'wall: a tenant can only be suspended and resumed' USING ERRCODE = 'RX001';
  END IF;
  NEW.version := OLD.version + 1;
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
-- Nor does a session do anything but end.
CREATE FUNCTION guard_session() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF (NEW.tenant, NEW.id, NEW.principal, NEW.secret_sha256, NEW.origin, NEW.created_at) IS DISTINCT FROM
     (OLD.tenant, OLD.id, OLD.principal, OLD.secret_sha256, OLD.origin, OLD.created_at)
     OR NEW.token_sha256 IS DISTINCT FROM OLD.token_sha256
     OR OLD.revoked_at IS NOT NULL OR NEW.expires_at > OLD.expires_at THEN
    RAISE EXCEPTION 'wall: a session can only be ended' USING ERRCODE = 'RX001';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER tenant_guard BEFORE UPDATE ON tenant FOR EACH ROW EXECUTE FUNCTION guard_tenant();
CREATE TRIGGER principal_guard BEFORE UPDATE ON principal FOR EACH ROW EXECUTE FUNCTION guard_principal();
CREATE TRIGGER api_key_guard BEFORE UPDATE ON api_key FOR EACH ROW EXECUTE FUNCTION guard_api_key();
CREATE TRIGGER session_guard BEFORE UPDATE ON session FOR EACH ROW EXECUTE FUNCTION guard_session();
ALTER TABLE tenant ENABLE ALWAYS TRIGGER tenant_guard;
ALTER TABLE principal ENABLE ALWAYS TRIGGER principal_guard;
ALTER TABLE api_key ENABLE ALWAYS TRIGGER api_key_guard;
ALTER TABLE session ENABLE ALWAYS TRIGGER session_guard;
DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['tenant', 'principal', 'api_key', 'session'] LOOP
    EXECUTE format('CREATE TRIGGER %I BEFORE DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', t || '_keep', t);
    EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', t || '_whole', t);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_keep');
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_whole');
  END LOOP;
END $$;

-- The tenant a transaction works for. Unset means none: every policy then fails closed.
CREATE FUNCTION current_tenant() RETURNS uuid LANGUAGE sql STABLE
RETURN NULLIF(current_setting('app.tenant', true), '')::uuid;

-- Enters a tenant from within a statement. In a condition of what an INSERT reads, every row enters its own just before it is
-- written, and the policies, which look at each row then, refuse it when it is another's.
CREATE FUNCTION enter_tenant(p_tenant uuid) RETURNS boolean LANGUAGE sql VOLATILE
RETURN set_config('app.tenant', p_tenant::text, true) IS NOT NULL;

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
  FOREACH t IN ARRAY ARRAY['principal', 'role_grant', 'api_key', 'session'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format($p$CREATE POLICY own_tenant ON %I
      USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid)$p$, t);
    -- authenticate() looks a secret up before any tenant is known
    EXECUTE format('CREATE POLICY lookup ON %I FOR SELECT TO {prefix}_owner USING (true)', t);
  END LOOP;
END $$;

GRANT SELECT, INSERT ON tenant, principal, role_grant, api_key, session TO {prefix}_registrar;
GRANT UPDATE (suspended_at) ON tenant TO {prefix}_registrar;
GRANT UPDATE (suspended_at, sessions_from) ON principal TO {prefix}_registrar;
GRANT UPDATE (revoked_at) ON role_grant TO {prefix}_registrar;
GRANT UPDATE (expires_at, revoked_at) ON api_key, session TO {prefix}_registrar;
GRANT SELECT ON tenant, principal, role_grant TO {prefix}_auditor;

-- A secret's SHA-256 -> who that is, and by which credential. No row: unknown, expired, revoked or suspended, told apart
-- by nobody outside.
CREATE FUNCTION authenticate(p_secret_sha256 bytea)
RETURNS TABLE (tenant uuid, principal uuid, kind text, name text, roles text[], credential uuid, credential_kind text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT c.tenant, p.id, p.kind, p.name,
         ARRAY(SELECT g.role FROM public.role_grant g
               WHERE g.tenant = p.tenant AND g.principal = p.id AND g.revoked_at IS NULL
                 AND g.starts_at <= clock_timestamp() AND (g.expires_at IS NULL OR g.expires_at > clock_timestamp())
                 AND (g.delegated_from IS NULL OR EXISTS (   -- what was passed on ends with what it was passed on from
                   SELECT 1 FROM public.role_grant s JOIN public.principal d ON d.tenant = s.tenant AND d.id = s.principal
                   WHERE s.tenant = g.tenant AND s.id = g.delegated_from AND s.revoked_at IS NULL AND d.suspended_at IS NULL))
               GROUP BY g.role ORDER BY g.role),
         c.id, c.kind
  FROM (SELECT k.tenant, k.principal, k.id, 'api_key' AS kind FROM public.api_key k
        WHERE k.secret_sha256 = p_secret_sha256 AND k.revoked_at IS NULL
          AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
        UNION ALL
        SELECT s.tenant, s.principal, s.id, 'session' FROM public.session s
        WHERE s.secret_sha256 = p_secret_sha256 AND s.revoked_at IS NULL
          AND s.expires_at > clock_timestamp()) c
  JOIN public.principal p ON p.tenant = c.tenant AND p.id = c.principal AND p.suspended_at IS NULL
  JOIN public.tenant t ON t.id = c.tenant AND t.suspended_at IS NULL
  LIMIT 1
$$;

-- Who presents this secret, live, in this tenant? The credential is locked against being revoked until commit. In plpgsql, so that
-- its plans are kept by the session; it wants no roles.
CREATE FUNCTION principal_of(p_tenant uuid, p_secret text) RETURNS uuid LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE digest bytea := sha256(convert_to(p_secret, 'UTF8')); who uuid;
BEGIN
  PERFORM 1 FROM public.api_key k WHERE k.tenant = p_tenant AND k.secret_sha256 = digest FOR SHARE;
  PERFORM 1 FROM public.session s WHERE s.tenant = p_tenant AND s.secret_sha256 = digest FOR SHARE;
  -- One look after the other: to prepare for one that is not needed costs as much as the one that is.
  SELECT k.principal INTO who FROM public.api_key k
    WHERE k.secret_sha256 = digest AND k.tenant = p_tenant AND k.revoked_at IS NULL
      AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp());
  IF who IS NULL THEN
    SELECT s.principal INTO who FROM public.session s
      WHERE s.secret_sha256 = digest AND s.tenant = p_tenant AND s.revoked_at IS NULL
        AND s.expires_at > clock_timestamp();
  END IF;
  RETURN (SELECT p.id FROM public.principal p JOIN public.tenant t ON t.id = p.tenant AND t.suspended_at IS NULL
          WHERE p.tenant = p_tenant AND p.id = who AND p.suspended_at IS NULL);
END $$;

-- Tenant names for the registrar, which works across tenants by design (creating them) but reads one at a time.
CREATE FUNCTION tenant_by_name(p_name text) RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT id FROM public.tenant WHERE name = p_name
$$;

-- Who somebody is, for stories of what was done: name and kind of principals of the tenant entered, and nothing else of them.
CREATE FUNCTION names_of(p_tenant uuid, p_principals uuid[]) RETURNS TABLE (id uuid, name text, kind text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM require_tenant(p_tenant);
  RETURN QUERY SELECT p.id, p.name, p.kind FROM public.principal p WHERE p.tenant = p_tenant AND p.id = ANY (p_principals[1:1000]);
END $$;

REVOKE ALL ON FUNCTION authenticate(bytea), names_of(uuid, uuid[]), tenant_by_name(text), require_tenant(uuid), current_tenant(), enter_tenant(uuid),
  refuse_change(), guard_role_grant(), guard_delegation(), guard_tenant(), guard_principal(), guard_api_key(), guard_session(), principal_of(uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION current_tenant() TO {prefix}_api, {prefix}_worker, {prefix}_executor, {prefix}_registrar, {prefix}_auditor, {prefix}_reader;
GRANT EXECUTE ON FUNCTION require_tenant(uuid) TO {prefix}_api, {prefix}_worker, {prefix}_executor;
GRANT EXECUTE ON FUNCTION authenticate(bytea), enter_tenant(uuid), names_of(uuid, uuid[]) TO {prefix}_api;
GRANT EXECUTE ON FUNCTION tenant_by_name(text) TO {prefix}_registrar;
