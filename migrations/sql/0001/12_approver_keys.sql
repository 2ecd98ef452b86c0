-- Keys with which approvers sign. Postgres keeps them where no serving process can write, the executor checks with them.
-- Registering one takes two people, each with their own secret, and the registrar's login; none of it goes over HTTP.

CREATE TABLE approver_key (
  tenant uuid NOT NULL,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  principal uuid NOT NULL,             -- whose decisions it signs
  public_key bytea NOT NULL CHECK (length(public_key) = 32),   -- Ed25519
  requested_by uuid NOT NULL,
  requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  confirmed_by uuid,
  confirmed_at timestamptz,
  revoked_by uuid,
  revoked_at timestamptz,
  PRIMARY KEY (tenant, id),
  UNIQUE (tenant, public_key),         -- nobody signs for two, and what was revoked does not come back
  FOREIGN KEY (tenant, principal) REFERENCES principal (tenant, id),
  FOREIGN KEY (tenant, requested_by) REFERENCES principal (tenant, id),
  FOREIGN KEY (tenant, confirmed_by) REFERENCES principal (tenant, id),
  FOREIGN KEY (tenant, revoked_by) REFERENCES principal (tenant, id),
  CONSTRAINT approver_key_confirmed CHECK ((confirmed_by IS NULL) = (confirmed_at IS NULL)),
  CONSTRAINT approver_key_revoked CHECK ((revoked_by IS NULL) = (revoked_at IS NULL)),
  CONSTRAINT approver_key_two_people CHECK (confirmed_by <> requested_by AND confirmed_by <> principal)
);
CREATE INDEX approver_key_of_principal ON approver_key (tenant, principal);

-- Requested by the human it belongs to or by an admin, confirmed by another human who is an admin, revoked once.
CREATE FUNCTION guard_approver_key() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    PERFORM 1 FROM public.principal p WHERE p.tenant = NEW.tenant AND p.id = NEW.principal AND p.kind = 'human';
    IF NOT FOUND THEN RAISE EXCEPTION 'wall: only a human signs' USING ERRCODE = 'RX009'; END IF;
    IF NEW.requested_by <> NEW.principal AND NOT entitled(NEW.tenant, NEW.requested_by, 'admin') THEN
      RAISE EXCEPTION 'wall: a key is requested by its owner or by an admin' USING ERRCODE = 'RX009';
    END IF;
    NEW.requested_at := clock_timestamp();
    NEW.confirmed_by := NULL; NEW.confirmed_at := NULL; NEW.revoked_by := NULL; NEW.revoked_at := NULL;
    RETURN NEW;
  END IF;
  IF (NEW.tenant, NEW.id, NEW.principal, NEW.public_key, NEW.requested_by, NEW.requested_at) IS DISTINCT FROM
     (OLD.tenant, OLD.id, OLD.principal, OLD.public_key, OLD.requested_by, OLD.requested_at)
     OR OLD.revoked_at IS NOT NULL
     OR (OLD.confirmed_at IS NOT NULL AND NEW.confirmed_by IS DISTINCT FROM OLD.confirmed_by) THEN
    RAISE EXCEPTION 'wall: a key is confirmed once and revoked once' USING ERRCODE = 'RX001';
  END IF;
  IF NEW.confirmed_by IS DISTINCT FROM OLD.confirmed_by THEN
    IF NOT entitled(NEW.tenant, NEW.confirmed_by, 'admin') THEN
      RAISE EXCEPTION 'wall: a key is confirmed by a human who is an admin' USING ERRCODE = 'RX009';
    END IF;
    NEW.confirmed_at := clock_timestamp();
  ELSE
    NEW.confirmed_at := OLD.confirmed_at;
  END IF;
  NEW.revoked_at := CASE WHEN NEW.revoked_by IS NOT NULL THEN clock_timestamp() END;
  RETURN NEW;
END $$;
CREATE TRIGGER approver_key_guard BEFORE INSERT OR UPDATE ON approver_key FOR EACH ROW EXECUTE FUNCTION guard_approver_key();
CREATE TRIGGER approver_key_keep BEFORE DELETE ON approver_key FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER approver_key_whole BEFORE TRUNCATE ON approver_key FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE approver_key ENABLE ALWAYS TRIGGER approver_key_guard;
ALTER TABLE approver_key ENABLE ALWAYS TRIGGER approver_key_keep;
ALTER TABLE approver_key ENABLE ALWAYS TRIGGER approver_key_whole;
ALTER TABLE approver_key ENABLE ROW LEVEL SECURITY; ALTER TABLE approver_key FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON approver_key USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid);
GRANT SELECT ON approver_key TO {prefix}_registrar, {prefix}_auditor;

-- Whoever presents the secret, or an error: the three doors below are for people.
CREATE FUNCTION presenter(p_tenant uuid, p_secret text) RETURNS uuid LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE who uuid := principal_of(p_tenant, p_secret);
BEGIN
  IF who IS NULL THEN
    RAISE EXCEPTION 'wall: nobody of this tenant presented a live secret' USING ERRCODE = 'RX013';
  END IF;
  RETURN who;
END $$;

CREATE FUNCTION request_approver_key(p_tenant uuid, p_secret text, p_principal uuid, p_public_key bytea) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE who uuid; key uuid;
BEGIN
  PERFORM require_tenant(p_tenant);
  who := presenter(p_tenant, p_secret);
  INSERT INTO public.approver_key (tenant, principal, public_key, requested_by)
    VALUES (p_tenant, p_principal, p_public_key, who) RETURNING id INTO key;
  PERFORM wall_fact(p_tenant, p_tenant, 'approver_key.requested', 'principal:' || who, jsonb_build_object(
    'key', key, 'principal', p_principal, 'public_key_sha256', encode(sha256(p_public_key), 'hex')));
  RETURN key;
END $$;

-- The second person. False when there is no such key that waits.
CREATE FUNCTION confirm_approver_key(p_tenant uuid, p_secret text, p_key uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE who uuid; owner uuid;
BEGIN
  PERFORM require_tenant(p_tenant);
  who := presenter(p_tenant, p_secret);
  UPDATE public.approver_key k SET confirmed_by = who
    WHERE k.tenant = p_tenant AND k.id = p_key AND k.confirmed_at IS NULL AND k.revoked_at IS NULL RETURNING k.principal INTO owner;
  IF owner IS NULL THEN RETURN false; END IF;
  PERFORM wall_fact(p_tenant, p_tenant, 'approver_key.confirmed', 'principal:' || who,
    jsonb_build_object('key', p_key, 'principal', owner));
  RETURN true;
END $$;

-- By its owner or an admin, at once. False when there is no such live key.
CREATE FUNCTION revoke_approver_key(p_tenant uuid, p_secret text, p_key uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE who uuid; owner uuid;
BEGIN
  PERFORM require_tenant(p_tenant);
  who := presenter(p_tenant, p_secret);
  SELECT k.principal INTO owner FROM public.approver_key k
    WHERE k.tenant = p_tenant AND k.id = p_key AND k.revoked_at IS NULL FOR UPDATE;
  IF owner IS NULL THEN RETURN false; END IF;
  IF who <> owner AND NOT entitled(p_tenant, who, 'admin') THEN
    RAISE EXCEPTION 'wall: a key is revoked by its owner or by an admin' USING ERRCODE = 'RX009';
  END IF;
  UPDATE public.approver_key k SET revoked_by = who WHERE k.tenant = p_tenant AND k.id = p_key;
  PERFORM wall_fact(p_tenant, p_tenant, 'approver_key.revoked', 'principal:' || who,
    jsonb_build_object('key', p_key, 'principal', owner));
  RETURN true;
END $$;

-- An approver's live keys, so that the api can say early that a signature is none. It sees them and changes nothing.
CREATE FUNCTION approver_keys(p_tenant uuid, p_principal uuid) RETURNS TABLE (id uuid, public_key bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM require_tenant(p_tenant);
  RETURN QUERY SELECT k.id, k.public_key FROM public.approver_key k
    WHERE k.tenant = p_tenant AND k.principal = p_principal AND k.confirmed_at IS NOT NULL AND k.revoked_at IS NULL;
END $$;

REVOKE ALL ON FUNCTION guard_approver_key(), presenter(uuid, text), request_approver_key(uuid, text, uuid, bytea),
  confirm_approver_key(uuid, text, uuid), revoke_approver_key(uuid, text, uuid), approver_keys(uuid, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION request_approver_key(uuid, text, uuid, bytea), confirm_approver_key(uuid, text, uuid),
  revoke_approver_key(uuid, text, uuid) TO {prefix}_registrar;
GRANT EXECUTE ON FUNCTION approver_keys(uuid, uuid) TO {prefix}_api;
