-- The lines of risk that a leaked or taken-over api does not lower: how risky a kind of change is at least, whatever its
-- asker says of it, and which rules want signatures.

CREATE TABLE risk_floor (
  tenant uuid NOT NULL REFERENCES tenant,
  connector text NOT NULL CHECK (length(connector) BETWEEN 1 AND 100),   -- '*' for every one
  operation text NOT NULL CHECK (length(operation) BETWEEN 1 AND 100),
  version int NOT NULL CHECK (version >= 1),
  risk text NOT NULL CHECK (risk IN ('low', 'medium', 'high')),
  created_by uuid NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, connector, operation, version),
  FOREIGN KEY (tenant, created_by) REFERENCES principal (tenant, id)
);
CREATE TRIGGER risk_floor_keep BEFORE UPDATE OR DELETE ON risk_floor FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER risk_floor_whole BEFORE TRUNCATE ON risk_floor FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE risk_floor ENABLE ALWAYS TRIGGER risk_floor_keep;
ALTER TABLE risk_floor ENABLE ALWAYS TRIGGER risk_floor_whole;
ALTER TABLE risk_floor ENABLE ROW LEVEL SECURITY; ALTER TABLE risk_floor FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON risk_floor USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid);
GRANT SELECT ON risk_floor TO {prefix}_api, {prefix}_worker, {prefix}_registrar, {prefix}_auditor;

-- The highest of what is said, of what the mission is and of every floor that fits.
CREATE FUNCTION raised_risk(p_tenant uuid, p_mission uuid, p_connector text, p_operation text, p_risk text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT (ARRAY['low', 'medium', 'high'])[max(array_position(ARRAY['low', 'medium', 'high'], said.risk))]
  FROM (SELECT p_risk
        UNION ALL SELECT m.risk_level FROM public.mission m WHERE m.tenant = p_tenant AND m.id = p_mission
        UNION ALL SELECT f.risk FROM public.risk_floor f
          WHERE f.tenant = p_tenant AND f.connector IN ('*', p_connector) AND f.operation IN ('*', p_operation)
            AND NOT EXISTS (SELECT 1 FROM public.risk_floor n WHERE n.tenant = f.tenant AND n.connector = f.connector
                              AND n.operation = f.operation AND n.version > f.version)) said (risk)
$$;

-- The same for whoever asks policy before a writeback is written: no floor moves until the end of this transaction, so that
-- policy hears of the very risk that the writeback will be of. put_risk_floor() waits for this lock.
CREATE FUNCTION standing_risk(p_tenant uuid, p_mission uuid, p_connector text, p_operation text, p_risk text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM require_tenant(p_tenant);
  PERFORM require_present();
  PERFORM 1 FROM public.tenant t WHERE t.id = p_tenant FOR SHARE;
  RETURN raised_risk(p_tenant, p_mission, p_connector, p_operation, p_risk);
END $$;

-- Sets a floor, answers its version. By a policy owner with their own secret, over the registrar's login: a serving
-- process holds live secrets, so that one that was taken over could lower what only has to be high once.
CREATE FUNCTION put_risk_floor(p_tenant uuid, p_secret text, p_connector text, p_operation text, p_risk text) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE who uuid; number int;
BEGIN
  PERFORM require_tenant(p_tenant);
  who := presenter(p_tenant, p_secret);
  IF NOT entitled(p_tenant, who, 'policy_owner') THEN
    RAISE EXCEPTION 'wall: risk floors are set by a policy owner' USING ERRCODE = 'RX009';
  END IF;
  PERFORM 1 FROM public.tenant t WHERE t.id = p_tenant FOR NO KEY UPDATE;      -- two at a time would take one version
  SELECT COALESCE(max(f.version), 0) + 1 INTO number FROM public.risk_floor f
    WHERE f.tenant = p_tenant AND f.connector = p_connector AND f.operation = p_operation;
  INSERT INTO public.risk_floor (tenant, connector, operation, version, risk, created_by)
    VALUES (p_tenant, p_connector, p_operation, number, p_risk, who);
  PERFORM wall_fact(p_tenant, p_tenant, 'risk.floor_changed', 'principal:' || who,
    jsonb_build_object('connector', p_connector, 'operation', p_operation, 'version', number, 'risk', p_risk));
  RETURN number;
END $$;
-- The next version of a rule without its demand for signatures; null when there is no such rule. Raising it again goes
-- through put_rule().
CREATE FUNCTION waive_signatures(p_tenant uuid, p_secret text, p_rule uuid) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE who uuid; r public.approval_rule;
BEGIN
  PERFORM require_tenant(p_tenant);
  who := presenter(p_tenant, p_secret);
  IF NOT entitled(p_tenant, who, 'policy_owner') THEN
    RAISE EXCEPTION 'wall: signatures are waived by a policy owner' USING ERRCODE = 'RX009';
  END IF;
  PERFORM 1 FROM public.approval_rule x WHERE x.tenant = p_tenant AND x.id = p_rule ORDER BY x.version FOR NO KEY UPDATE;
  SELECT * INTO r FROM public.approval_rule x WHERE x.tenant = p_tenant AND x.id = p_rule ORDER BY x.version DESC LIMIT 1;
  IF r.signature_required IS NOT TRUE THEN RETURN NULL; END IF;
  r.version := r.version + 1; r.signature_required := false; r.created_by := who;
  INSERT INTO public.approval_rule VALUES (r.*);
  PERFORM wall_fact(p_tenant, p_tenant, 'rule.changed', 'principal:' || who, jsonb_build_object(
    'rule', r.id, 'rule_version', r.version, 'signature_required', false));
  RETURN r.version;
END $$;
REVOKE ALL ON FUNCTION waive_signatures(uuid, text, uuid), raised_risk(uuid, uuid, text, text, text),
  standing_risk(uuid, uuid, text, text, text), put_risk_floor(uuid, text, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION raised_risk(uuid, uuid, text, text, text), standing_risk(uuid, uuid, text, text, text)
  TO {prefix}_api, {prefix}_worker;
GRANT EXECUTE ON FUNCTION put_risk_floor(uuid, text, text, text, text), waive_signatures(uuid, text, uuid) TO {prefix}_registrar;
