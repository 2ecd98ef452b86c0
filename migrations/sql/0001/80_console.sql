-- What the console needs beside what the API has: one-time links, who has looked at an approval and when, and who might
-- decide.

CREATE TABLE console_link (          -- a way into the console as somebody, once; only the hash of its secret is kept
  tenant uuid NOT NULL,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  principal uuid NOT NULL,
  secret_sha256 bytea NOT NULL CHECK (length(secret_sha256) = 32),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz NOT NULL,
  used_at timestamptz,
  session uuid,                      -- the session it became
  PRIMARY KEY (tenant, id),
  FOREIGN KEY (tenant, principal) REFERENCES principal (tenant, id),
  FOREIGN KEY (tenant, session) REFERENCES session (tenant, id),
  CONSTRAINT console_link_short CHECK (expires_at <= created_at + interval '5 minutes'),
  CHECK ((used_at IS NULL) = (session IS NULL))
);
CREATE UNIQUE INDEX console_link_secret ON console_link (secret_sha256);

-- A link becomes one session, of its own person, in its time. Nothing else ever changes in it.
CREATE FUNCTION guard_console_link() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    NEW.created_at := clock_timestamp(); NEW.used_at := NULL; NEW.session := NULL;
    RETURN NEW;
  END IF;
  IF (NEW.tenant, NEW.id, NEW.principal, NEW.secret_sha256, NEW.created_at, NEW.expires_at) IS DISTINCT FROM
     (OLD.tenant, OLD.id, OLD.principal, OLD.secret_sha256, OLD.created_at, OLD.expires_at) OR NEW.session IS NULL THEN
    RAISE EXCEPTION 'wall: a link can only be used' USING ERRCODE = 'RX001';
  END IF;
  NEW.used_at := clock_timestamp();
  IF OLD.used_at IS NOT NULL OR NEW.used_at >= OLD.expires_at THEN
    RAISE EXCEPTION 'wall: the link was used, or its time is over' USING ERRCODE = 'RX038';
  END IF;
  PERFORM 1 FROM public.session s WHERE s.tenant = NEW.tenant AND s.id = NEW.session AND s.principal = NEW.principal
    AND s.origin = 'console';
  IF NOT FOUND THEN
    RAISE EXCEPTION 'wall: a link becomes a session of its own person' USING ERRCODE = 'RX038';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER console_link_guard BEFORE INSERT OR UPDATE ON console_link FOR EACH ROW EXECUTE FUNCTION guard_console_link();

-- Whose link this is, before any tenant is known. No row: there is none, it was used, or its person is suspended.
CREATE FUNCTION link_of(p_secret_sha256 bytea) RETURNS TABLE (tenant uuid, id uuid, principal uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT l.tenant, l.id, l.principal FROM public.console_link l
  JOIN public.principal p ON p.tenant = l.tenant AND p.id = l.principal AND p.suspended_at IS NULL
  JOIN public.tenant t ON t.id = l.tenant AND t.suspended_at IS NULL
  WHERE l.secret_sha256 = p_secret_sha256 AND l.used_at IS NULL AND l.expires_at > clock_timestamp()
$$;

CREATE TABLE approval_look (         -- when somebody first had an approval before them: how long they took is read from it
  tenant uuid NOT NULL,
  approval uuid NOT NULL,
  principal uuid NOT NULL,
  opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, approval, principal),
  FOREIGN KEY (tenant, approval) REFERENCES approval (tenant, id),
  FOREIGN KEY (tenant, principal) REFERENCES principal (tenant, id)
);

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['console_link', 'approval_look'] LOOP
    EXECUTE format('CREATE TRIGGER %I BEFORE DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', t || '_keep', t);
    EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', t || '_whole', t);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_keep');
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_whole');
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY own_tenant ON %I USING (tenant = NULLIF(current_setting(''app.tenant'', true), '''')::uuid)', t);
  END LOOP;
END $$;
CREATE TRIGGER approval_look_once BEFORE UPDATE ON approval_look FOR EACH ROW EXECUTE FUNCTION refuse_change();
ALTER TABLE console_link ENABLE ALWAYS TRIGGER console_link_guard;
ALTER TABLE approval_look ENABLE ALWAYS TRIGGER approval_look_once;
CREATE POLICY lookup ON console_link FOR SELECT TO {prefix}_owner USING (true);  -- link_of() knows no tenant yet

-- Whoever presents the secret has the approval before them. Answers when they first had; null: no such approval.
CREATE FUNCTION note_look(p_tenant uuid, p_approval uuid, p_secret text) RETURNS timestamptz LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE who uuid; whose uuid; at timestamptz;
BEGIN
  PERFORM require_tenant(p_tenant);
  who := principal_of(p_tenant, p_secret);
  IF who IS NULL THEN RAISE EXCEPTION 'wall: nobody of this tenant presented a live secret' USING ERRCODE = 'RX013'; END IF;
  SELECT a.mission INTO whose FROM public.approval a WHERE a.tenant = p_tenant AND a.id = p_approval;
  IF whose IS NULL THEN RETURN NULL; END IF;
  INSERT INTO public.approval_look (tenant, approval, principal) VALUES (p_tenant, p_approval, who)
    ON CONFLICT DO NOTHING RETURNING opened_at INTO at;
  IF at IS NOT NULL THEN
    PERFORM wall_fact(p_tenant, whose, 'approval.seen', 'principal:' || who, jsonb_build_object('approval', p_approval));
    RETURN at;
  END IF;
  RETURN (SELECT l.opened_at FROM public.approval_look l
          WHERE l.tenant = p_tenant AND l.approval = p_approval AND l.principal = who);
END $$;

-- The people who hold some of these roles now, and which. As authenticate() says it; nothing is locked, for screens.
CREATE FUNCTION holders(p_tenant uuid, p_roles text[]) RETURNS TABLE (principal uuid, name text, roles text[]) LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT p.id, p.name, array_agg(g.role) FROM public.role_grant g
  JOIN public.principal p ON p.tenant = g.tenant AND p.id = g.principal AND p.kind = 'human' AND p.suspended_at IS NULL
  LEFT JOIN public.role_grant s ON s.tenant = g.tenant AND s.id = g.delegated_from AND s.revoked_at IS NULL
  LEFT JOIN public.principal d ON d.tenant = s.tenant AND d.id = s.principal AND d.suspended_at IS NULL
  WHERE g.tenant = p_tenant AND g.role = ANY (p_roles) AND g.revoked_at IS NULL AND g.starts_at <= clock_timestamp()
    AND (g.expires_at IS NULL OR g.expires_at > clock_timestamp()) AND (g.delegated_from IS NULL OR d.id IS NOT NULL)
  GROUP BY p.id, p.name
$$;

-- Who could decide an approval, and who could not although they hold its role. standing: may, own_request or decided.
-- The wall's own judgement comes with the decision; this is so that a screen can say beforehand what it would be.
CREATE FUNCTION deciders(p_tenant uuid, p_approval uuid) RETURNS TABLE (id uuid, name text, standing text) LANGUAGE plpgsql STABLE
SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE a public.approval;
BEGIN
  PERFORM require_tenant(p_tenant);
  SELECT * INTO a FROM public.approval x WHERE x.tenant = p_tenant AND x.id = p_approval;
  RETURN QUERY
    SELECT h.principal, h.name,
      CASE WHEN h.principal IN (SELECT taking_part(p_tenant, a.requested_by, a.writeback)) THEN 'own_request'
           WHEN EXISTS (SELECT 1 FROM public.decision d WHERE d.tenant = a.tenant AND d.approval = a.id AND d.approver = h.principal)
             THEN 'decided'
           ELSE 'may' END
    FROM holders(p_tenant, a.may_decide || a.must_hold) h
    WHERE h.roles && a.may_decide AND (a.must_hold IS NULL OR a.must_hold = ANY (h.roles))
    ORDER BY h.name;
END $$;

-- Who could be asked about an approval: who requested it or answers for who did, first; who runs things; who may decide it.
-- standing: requester, operator or approver; part: whether they took part in it, so that they neither ask nor choose who decides.
CREATE FUNCTION answerers(p_tenant uuid, p_approval uuid) RETURNS TABLE (id uuid, name text, standing text, part boolean) LANGUAGE plpgsql STABLE
SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE a public.approval;
BEGIN
  PERFORM require_tenant(p_tenant);
  SELECT * INTO a FROM public.approval x WHERE x.tenant = p_tenant AND x.id = p_approval;
  RETURN QUERY
    WITH line AS MATERIALIZED (SELECT l.id FROM live_line(p_tenant, a.requested_by) l (id)), found AS (
      SELECT p.id, p.name, 'requester' AS standing FROM line JOIN public.principal p ON p.tenant = p_tenant AND p.id = line.id
      UNION ALL
      SELECT h.principal, h.name, CASE WHEN 'operator' = ANY (h.roles) THEN 'operator' ELSE 'approver' END
      FROM holders(p_tenant, a.may_decide || ARRAY[a.must_hold, 'operator']) h
      WHERE h.principal NOT IN (SELECT line.id FROM line)
        AND ('operator' = ANY (h.roles) OR (h.roles && a.may_decide AND (a.must_hold IS NULL OR a.must_hold = ANY (h.roles)))))
    SELECT f.id, f.name, f.standing, f.id IN (SELECT taking_part(p_tenant, a.requested_by, a.writeback)) FROM found f
    ORDER BY f.standing <> 'requester', f.name;
END $$;

-- How people decide is read from the newest decisions.
CREATE INDEX decision_newest ON decision (tenant, decided_at DESC);

REVOKE ALL ON FUNCTION guard_console_link(), link_of(bytea), note_look(uuid, uuid, text),
  holders(uuid, text[]), deciders(uuid, uuid), answerers(uuid, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION note_look(uuid, uuid, text), deciders(uuid, uuid), answerers(uuid, uuid) TO {prefix}_api;
GRANT EXECUTE ON FUNCTION link_of(bytea) TO {prefix}_registrar;
GRANT SELECT, INSERT ON console_link TO {prefix}_registrar;
GRANT UPDATE (used_at, session) ON console_link TO {prefix}_registrar;
GRANT SELECT ON approval_look TO {prefix}_api, {prefix}_auditor;
