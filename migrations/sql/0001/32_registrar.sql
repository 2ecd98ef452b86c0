-- What the registrar needs to serve identity over HTTP: who somebody is at the identity provider, its own answers kept for
-- repeats, and the list of tenants that the operator's admins see.

CREATE TABLE oidc_identity (         -- whom a subject of the identity provider acts as
  tenant uuid NOT NULL,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  principal uuid NOT NULL,
  issuer text NOT NULL CHECK (length(issuer) BETWEEN 8 AND 500),
  subject text NOT NULL CHECK (length(subject) BETWEEN 1 AND 255),
  linked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  unlinked_at timestamptz,
  PRIMARY KEY (tenant, id),
  FOREIGN KEY (tenant, principal) REFERENCES principal (tenant, id)
);
-- A subject leads to one principal of the whole installation: its tenant is what it is looked up for.
CREATE UNIQUE INDEX oidc_identity_live ON oidc_identity (issuer, subject) WHERE unlinked_at IS NULL;
CREATE INDEX oidc_identity_of_principal ON oidc_identity (tenant, principal);

CREATE FUNCTION guard_oidc_identity() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF (NEW.tenant, NEW.id, NEW.principal, NEW.issuer, NEW.subject, NEW.linked_at) IS DISTINCT FROM
     (OLD.tenant, OLD.id, OLD.principal, OLD.issuer, OLD.subject, OLD.linked_at)
     OR OLD.unlinked_at IS NOT NULL OR NEW.unlinked_at IS NULL THEN
    RAISE EXCEPTION 'wall: a link can only be ended, once' USING ERRCODE = 'RX001';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER oidc_identity_guard BEFORE UPDATE ON oidc_identity FOR EACH ROW EXECUTE FUNCTION guard_oidc_identity();
CREATE TRIGGER oidc_identity_keep BEFORE DELETE ON oidc_identity FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER oidc_identity_whole BEFORE TRUNCATE ON oidc_identity FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE oidc_identity ENABLE ALWAYS TRIGGER oidc_identity_guard;
ALTER TABLE oidc_identity ENABLE ALWAYS TRIGGER oidc_identity_keep;
ALTER TABLE oidc_identity ENABLE ALWAYS TRIGGER oidc_identity_whole;
ALTER TABLE oidc_identity ENABLE ROW LEVEL SECURITY; ALTER TABLE oidc_identity FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON oidc_identity USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid);
CREATE POLICY lookup ON oidc_identity FOR SELECT TO {prefix}_owner USING (true);
GRANT SELECT, INSERT ON oidc_identity TO {prefix}_registrar;
GRANT UPDATE (unlinked_at) ON oidc_identity TO {prefix}_registrar;
GRANT SELECT ON oidc_identity TO {prefix}_auditor;

-- Who a verified subject is, before any tenant is known. No row: not linked, or suspended.
CREATE FUNCTION principal_of_subject(p_issuer text, p_subject text) RETURNS TABLE (tenant uuid, principal uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT i.tenant, i.principal FROM public.oidc_identity i
  JOIN public.principal p ON p.tenant = i.tenant AND p.id = i.principal AND p.suspended_at IS NULL
  JOIN public.tenant t ON t.id = i.tenant AND t.suspended_at IS NULL
  WHERE i.issuer = p_issuer AND i.subject = p_subject AND i.unlinked_at IS NULL
$$;

-- Every tenant, for who has entered the operator's. Anybody else sees their own.
CREATE FUNCTION visible_tenants() RETURNS SETOF tenant
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT t.* FROM public.tenant t WHERE t.id = current_tenant()
    OR EXISTS (SELECT 1 FROM public.tenant o WHERE o.id = current_tenant() AND o.operator)
$$;

REVOKE ALL ON FUNCTION guard_oidc_identity(), principal_of_subject(text, text), visible_tenants() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION principal_of_subject(text, text), visible_tenants(), authenticate(bytea) TO {prefix}_registrar;
GRANT SELECT ON idempotency TO {prefix}_registrar;
GRANT INSERT (tenant, principal, route, key, fingerprint, status, headers, body) ON idempotency TO {prefix}_registrar;
