-- How long bytes are kept, what keeps them longer, and the one door through which they go. The ledger, hashes, sizes and all
-- metadata stay for good.

CREATE TABLE retention_schedule (    -- what somebody has set, every version of it: days after a mission's end; null is for good
  tenant uuid NOT NULL REFERENCES tenant,
  version int NOT NULL CHECK (version >= 1),
  public_days int CHECK (public_days BETWEEN 0 AND 36500),
  internal_days int CHECK (internal_days BETWEEN 0 AND 36500),
  confidential_days int CHECK (confidential_days BETWEEN 0 AND 36500),
  restricted_days int CHECK (restricted_days BETWEEN 0 AND 36500),
  unread_days int CHECK (unread_days BETWEEN 0 AND 36500),   -- of what no mission was shown, and of documents no longer current
  set_by uuid NOT NULL,
  set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, version),
  FOREIGN KEY (tenant, set_by) REFERENCES principal (tenant, id)
);

CREATE TABLE legal_hold (            -- while it stands, nothing of what it names is removed
  tenant uuid NOT NULL REFERENCES tenant,
  name text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
  scope text NOT NULL CHECK (scope IN ('tenant', 'mission', 'label')),
  mission uuid,
  label_name text CHECK (length(label_name) BETWEEN 1 AND 100),
  label_value text CHECK (length(label_value) <= 200),
  reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 2000),
  placed_by uuid NOT NULL,
  placed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  lift_reason text CHECK (length(lift_reason) BETWEEN 1 AND 2000),
  lifted_by uuid,
  lifted_at timestamptz,
  PRIMARY KEY (tenant, name),
  FOREIGN KEY (tenant, mission) REFERENCES mission (tenant, id),
  FOREIGN KEY (tenant, placed_by) REFERENCES principal (tenant, id),
  FOREIGN KEY (tenant, lifted_by) REFERENCES principal (tenant, id),
  CONSTRAINT legal_hold_mission CHECK ((scope = 'mission') = (mission IS NOT NULL)),
  CONSTRAINT legal_hold_label CHECK (num_nonnulls(label_name, label_value) = CASE scope WHEN 'label' THEN 2 ELSE 0 END),
  CONSTRAINT legal_hold_lifted CHECK (num_nulls(lift_reason, lifted_by, lifted_at) IN (0, 3)),
  CONSTRAINT legal_hold_another CHECK (lifted_by <> placed_by)
);
CREATE INDEX legal_hold_standing ON legal_hold (tenant) WHERE lifted_at IS NULL;

-- A hold is lifted, once; nothing else of it changes.
CREATE FUNCTION guard_hold() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE lifting jsonb := jsonb_build_object('lift_reason', NULL, 'lifted_by', NULL, 'lifted_at', NULL);
BEGIN
  IF OLD.lifted_at IS NOT NULL OR NEW.lifted_at IS NULL OR to_jsonb(NEW) || lifting IS DISTINCT FROM to_jsonb(OLD) || lifting THEN
    RAISE EXCEPTION 'wall: a hold can only be lifted, once' USING ERRCODE = 'RX001';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER legal_hold_guard BEFORE UPDATE ON legal_hold FOR EACH ROW EXECUTE FUNCTION guard_hold();
CREATE TRIGGER legal_hold_keep BEFORE DELETE ON legal_hold FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER retention_schedule_keep BEFORE UPDATE OR DELETE ON retention_schedule FOR EACH ROW EXECUTE FUNCTION refuse_change();
ALTER TABLE legal_hold ENABLE ALWAYS TRIGGER legal_hold_guard;
ALTER TABLE legal_hold ENABLE ALWAYS TRIGGER legal_hold_keep;
ALTER TABLE retention_schedule ENABLE ALWAYS TRIGGER retention_schedule_keep;
DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['retention_schedule', 'legal_hold'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format($p$CREATE POLICY own_tenant ON %I
      USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid)$p$, t);
    EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', t || '_whole', t);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_whole');
    EXECUTE format('GRANT SELECT ON %I TO {prefix}_api, {prefix}_worker, {prefix}_auditor', t);
  END LOOP;
END $$;

-- Schedules, holds and removals of a tenant happen one after the other: a hold stands before a removal looks, or comes after it.
CREATE FUNCTION retention_in_turn(p_tenant uuid) RETURNS void LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM require_tenant(p_tenant);
  PERFORM require_present();
  PERFORM pg_advisory_xact_lock(hashtextextended(p_tenant::text, 17));
END $$;

-- What holds where nobody has set anything.
CREATE FUNCTION shipped_retention(p_class text) RETURNS int LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT CASE p_class WHEN 'internal' THEN 1095 WHEN 'confidential' THEN 365 WHEN 'restricted' THEN 90 WHEN 'unread' THEN 30 END
$$;

-- How many days bytes of a class are kept; null is for good. The longest of what was in force within the last week: a shorter
-- time waits so long, and there is time to notice it, to set it back, or to place a hold.
CREATE FUNCTION retention_days(p_tenant uuid, p_class text) RETURNS int LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  WITH old AS (SELECT max(s.version) AS version FROM public.retention_schedule s
               WHERE s.tenant = p_tenant AND s.set_at <= clock_timestamp() - interval '7 days'),
  said AS (
    SELECT CASE p_class WHEN 'public' THEN s.public_days WHEN 'internal' THEN s.internal_days WHEN 'confidential' THEN s.confidential_days
             WHEN 'restricted' THEN s.restricted_days WHEN 'unread' THEN s.unread_days END AS days
    FROM public.retention_schedule s, old WHERE s.tenant = p_tenant
      AND (s.set_at > clock_timestamp() - interval '7 days' OR s.version = old.version)
    UNION ALL SELECT shipped_retention(p_class) FROM old WHERE old.version IS NULL)
  SELECT CASE WHEN bool_or(said.days IS NULL) THEN NULL ELSE max(said.days) END FROM said
$$;

-- The holds that keep a mission's bytes, by name.
CREATE FUNCTION holds_on(p_tenant uuid, p_mission uuid) RETURNS text[] LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT COALESCE(array_agg(h.name ORDER BY h.name), '{}') FROM public.legal_hold h
  WHERE h.tenant = p_tenant AND h.lifted_at IS NULL AND CASE h.scope
    WHEN 'tenant' THEN true WHEN 'mission' THEN h.mission = p_mission
    ELSE EXISTS (SELECT FROM public.mission m WHERE m.tenant = p_tenant AND m.id = p_mission AND m.labels ->> h.label_name = h.label_value) END
$$;

-- Whether a mission's bytes may go: it has closed, its class's days are over, and nothing holds it.
CREATE FUNCTION retention_over(p_tenant uuid, p_mission uuid) RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT COALESCE((
    SELECT m.closed_at + make_interval(days => retention_days(p_tenant, m.sensitivity_class)) <= clock_timestamp()
      AND cardinality(holds_on(p_tenant, m.id)) = 0
    FROM public.mission m WHERE m.tenant = p_tenant AND m.id = p_mission), false)
$$;

-- The same for a recording of another environment: its class's days count from its import.
CREATE FUNCTION recording_over(p_tenant uuid, p_recording uuid) RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT COALESCE((
    SELECT r.imported_at + make_interval(days => retention_days(p_tenant, r.sensitivity_class)) <= clock_timestamp()
      AND cardinality(holds_on(p_tenant, r.id)) = 0
    FROM public.recording r WHERE r.tenant = p_tenant AND r.id = p_recording), false)
$$;

-- From when on nobody needs a source: infinity while a document is current, a mission that was shown it keeps its bytes or is
-- held, or the tenant is. An hour after it was last brought somebody may still be about to use it.
CREATE FUNCTION source_needed_until(p_tenant uuid, p_sha256 bytea, p_kept_at timestamptz) RETURNS timestamptz LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT CASE
    WHEN EXISTS (SELECT FROM public.legal_hold h WHERE h.tenant = p_tenant AND h.scope = 'tenant' AND h.lifted_at IS NULL) THEN 'infinity'
    WHEN EXISTS (SELECT FROM public.document d WHERE d.tenant = p_tenant AND d.source_sha256 = p_sha256 AND d.state = 'current') THEN 'infinity'
    WHEN EXISTS (SELECT FROM public.reading r JOIN public.mission m ON m.tenant = p_tenant AND m.id = r.mission
                 WHERE r.tenant = p_tenant AND r.source_sha256 = p_sha256
                   AND (m.bytes_removed_at IS NULL OR cardinality(holds_on(p_tenant, m.id)) > 0)) THEN 'infinity'
    ELSE GREATEST(p_kept_at + interval '1 hour', (
      SELECT COALESCE(max(u.since) + make_interval(days => retention_days(p_tenant, 'unread')),
                      CASE WHEN max(u.since) IS NULL THEN '-infinity' ELSE 'infinity' END::timestamptz)
      FROM (SELECT d.retired_at AS since FROM public.document d WHERE d.tenant = p_tenant AND d.source_sha256 = p_sha256
            UNION ALL SELECT p_kept_at WHERE NOT EXISTS (
              SELECT FROM public.reading r WHERE r.tenant = p_tenant AND r.source_sha256 = p_sha256)) u))
    END
$$;

-- A source's bytes go only when nobody needs them, and come back only as they were.
CREATE FUNCTION guard_blob() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF (NEW.tenant, NEW.sha256, NEW.size, NEW.created_at) IS DISTINCT FROM (OLD.tenant, OLD.sha256, OLD.size, OLD.created_at)
     OR NEW.kept_at < OLD.kept_at
     OR ((OLD.removed_at IS NULL) = (NEW.removed_at IS NULL)
         AND (NEW.bytes IS DISTINCT FROM OLD.bytes OR NEW.object IS DISTINCT FROM OLD.object OR NEW.chunks IS DISTINCT FROM OLD.chunks
              OR NEW.removed_at IS DISTINCT FROM OLD.removed_at)) THEN
    RAISE EXCEPTION 'wall: what is kept under a hash does not change' USING ERRCODE = 'RX001';
  END IF;
  IF OLD.removed_at IS NULL AND NEW.removed_at IS NOT NULL
     AND source_needed_until(OLD.tenant, OLD.sha256, OLD.kept_at) > clock_timestamp() THEN
    RAISE EXCEPTION 'wall: somebody needs these bytes' USING ERRCODE = 'RX021';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER blob_guard BEFORE UPDATE ON blob FOR EACH ROW EXECUTE FUNCTION guard_blob();
CREATE TRIGGER blob_keep BEFORE DELETE ON blob FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER blob_whole BEFORE TRUNCATE ON blob FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE blob ENABLE ALWAYS TRIGGER blob_guard;
ALTER TABLE blob ENABLE ALWAYS TRIGGER blob_keep;
ALTER TABLE blob ENABLE ALWAYS TRIGGER blob_whole;

-- Who shows a mission a source, or makes it a document, relies on its bytes. By now the foreign key has locked the row, so no
-- removal comes after this look; one that came first is seen.
CREATE FUNCTION require_kept() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM fresh f JOIN public.blob b ON b.tenant = f.tenant AND b.sha256 = f.source_sha256
             WHERE b.removed_at IS NOT NULL) THEN
    RAISE EXCEPTION 'wall: the bytes of this source are removed' USING ERRCODE = 'RX022';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER reading_kept AFTER INSERT ON reading REFERENCING NEW TABLE AS fresh
  FOR EACH STATEMENT EXECUTE FUNCTION require_kept();
CREATE TRIGGER document_kept AFTER INSERT ON document REFERENCING NEW TABLE AS fresh
  FOR EACH STATEMENT EXECUTE FUNCTION require_kept();
ALTER TABLE reading ENABLE ALWAYS TRIGGER reading_kept;
ALTER TABLE document ENABLE ALWAYS TRIGGER document_kept;

-- Keeps bytes under their hash: in the row, or as the object that was written just before. What is kept already stays as it is;
-- what was removed is back.
CREATE FUNCTION keep_blob(p_tenant uuid, p_sha256 bytea, p_size bigint, p_bytes bytea, p_object uuid, p_chunks bytea) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM require_tenant(p_tenant);
  -- An object that no row names is swept a day after it was written: a row that names it later would name nothing.
  IF p_object IS NOT NULL AND (uuid_extract_timestamp(p_object)
       BETWEEN clock_timestamp() - interval '1 hour' AND clock_timestamp() + interval '1 hour') IS NOT TRUE THEN
    RAISE EXCEPTION 'wall: an object is named within an hour' USING ERRCODE = 'RX022';
  END IF;
  INSERT INTO public.blob AS b (tenant, sha256, size, bytes, object, chunks)
    VALUES (p_tenant, p_sha256, p_size, p_bytes, p_object, p_chunks)
    ON CONFLICT (tenant, sha256) DO UPDATE SET kept_at = clock_timestamp(), removed_at = NULL,
      bytes = CASE WHEN b.removed_at IS NULL THEN b.bytes ELSE excluded.bytes END,
      object = CASE WHEN b.removed_at IS NULL THEN b.object ELSE excluded.object END,
      chunks = CASE WHEN b.removed_at IS NULL THEN b.chunks ELSE excluded.chunks END,
      look_at = CASE WHEN b.removed_at IS NULL THEN b.look_at ELSE excluded.look_at END;
END $$;

-- Says on a chain what was removed, in facts that each hold at most 80 hashes.
CREATE FUNCTION tell_removed(p_tenant uuid, p_subject uuid, p_hashes bytea[], p_body jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE parts int := GREATEST(1, (cardinality(p_hashes) + 79) / 80); i int;
BEGIN
  FOR i IN 1 .. parts LOOP
    PERFORM wall_fact(p_tenant, p_subject, 'bytes.removed', 'system:worker', p_body || jsonb_build_object('part', i, 'parts', parts,
      'sha256', (SELECT COALESCE(jsonb_agg(encode(h, 'hex')), '[]') FROM unnest(p_hashes[i * 80 - 79 : i * 80]) h)));
  END LOOP;
END $$;

-- Empties the tape of a mission or recording, and what a replay would have asked about.
CREATE FUNCTION forget_tape(p_tenant uuid, p_mission uuid, OUT hashes bytea[], OUT calls int, OUT size bigint)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public, pg_temp AS $$
  WITH t AS (UPDATE public.tape t SET arguments = NULL, answer = NULL, removed_at = clock_timestamp()
             WHERE t.tenant = p_tenant AND t.mission = p_mission AND t.removed_at IS NULL
             RETURNING old.arguments_sha256 AS a, old.answer_sha256 AS b, octet_length(old.arguments) + octet_length(old.answer) AS size),
  s AS (UPDATE public.shadow_writeback s SET payload = NULL, removed_at = clock_timestamp()
        WHERE s.tenant = p_tenant AND s.mission = p_mission AND s.removed_at IS NULL
        RETURNING old.payload_sha256 AS a, octet_length(old.payload) AS size),
  gone AS (SELECT a AS hash FROM t UNION SELECT b FROM t UNION SELECT a FROM s)
  SELECT (SELECT COALESCE(array_agg(hash ORDER BY hash), '{}') FROM gone), (SELECT count(*)::int FROM t),
    (SELECT COALESCE(sum(t.size), 0) FROM t) + (SELECT COALESCE(sum(s.size), 0) FROM s)
$$;

-- The one door through which bytes go: those of closed missions and of recordings whose time is over, then sources that nobody needs. A bite of
-- each, at most p_most; full says that there may be more. Only whoever holds the tenant's work row gets anything done. objects:
-- what to delete outside now that no row names it any more, as sha256.object.
CREATE FUNCTION remove_bytes(p_tenant uuid, p_fence bigint, p_most int)
RETURNS TABLE (missions int, artifacts int, sources int, size bigint, objects text[], more boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  most int := LEAST(GREATEST(p_most, 1), 500); class text; days int; m record; b record; hashes bytea[]; n int; q int; bytes bigint;
  free timestamptz; gone record; taped record; removed bytea[] := '{}'; looked int := 0;
BEGIN
  PERFORM require_tenant(p_tenant);
  missions := 0; artifacts := 0; sources := 0; size := 0; objects := '{}'; more := false;
  PERFORM 1 FROM public.work w WHERE w.tenant = p_tenant AND w.kind = 'retention' AND w.subject = p_tenant AND w.fence = p_fence FOR UPDATE;
  IF NOT FOUND THEN RETURN; END IF;
  PERFORM retention_in_turn(p_tenant);
  IF EXISTS (SELECT FROM public.legal_hold h WHERE h.tenant = p_tenant AND h.scope = 'tenant' AND h.lifted_at IS NULL) THEN
    RETURN NEXT; RETURN;
  END IF;
  FOREACH class IN ARRAY ARRAY['restricted', 'confidential', 'internal', 'public'] LOOP
    days := retention_days(p_tenant, class);
    CONTINUE WHEN days IS NULL;
    FOR m IN SELECT x.id FROM public.mission x
             WHERE x.tenant = p_tenant AND x.sensitivity_class = class AND x.closed_at IS NOT NULL AND x.bytes_removed_at IS NULL
               AND x.closed_at <= statement_timestamp() - make_interval(days => days) AND cardinality(holds_on(p_tenant, x.id)) = 0
             ORDER BY x.closed_at LIMIT most - missions FOR NO KEY UPDATE SKIP LOCKED LOOP
      WITH g AS (UPDATE public.artifact a SET bytes = NULL, removed_sha256 = a.sha256, removed_size = octet_length(a.bytes),
                   removed_at = clock_timestamp() WHERE a.tenant = p_tenant AND a.mission = m.id AND a.removed_at IS NULL
                 RETURNING a.sha256, a.removed_size)
        SELECT COALESCE(array_agg(g.sha256 ORDER BY g.sha256), '{}'), COALESCE(sum(g.removed_size), 0) INTO hashes, bytes FROM g;
      n := cardinality(hashes);
      WITH g AS (UPDATE public.quarantine a SET bytes = NULL, removed_sha256 = a.sha256, removed_size = octet_length(a.bytes),
                   removed_at = clock_timestamp() WHERE a.tenant = p_tenant AND a.mission = m.id AND a.removed_at IS NULL
                 RETURNING a.sha256, a.removed_size)
        SELECT hashes || COALESCE(array_agg(g.sha256 ORDER BY g.sha256), '{}'), bytes + COALESCE(sum(g.removed_size), 0), count(*)
          INTO hashes, bytes, q FROM g;
      taped := forget_tape(p_tenant, m.id);
      hashes := hashes || taped.hashes; bytes := bytes + taped.size;
      UPDATE public.mission x SET bytes_removed_at = clock_timestamp() WHERE x.tenant = p_tenant AND x.id = m.id;
      -- One that somebody else holds is looked at in its own time: by now this may hold a chain that they wait for.
      UPDATE public.blob x SET look_at = clock_timestamp() WHERE x.tenant = p_tenant AND x.sha256 = ANY (ARRAY(
        SELECT y.sha256 FROM public.blob y WHERE y.tenant = p_tenant AND y.removed_at IS NULL AND y.sha256 IN (
          SELECT r.source_sha256 FROM public.reading r WHERE r.tenant = p_tenant AND r.mission = m.id)
        FOR NO KEY UPDATE SKIP LOCKED));
      PERFORM tell_removed(p_tenant, m.id, hashes, jsonb_build_object(
        'sensitivity_class', class, 'days', days, 'artifacts', n, 'quarantined', q, 'calls', taped.calls, 'size', bytes));
      missions := missions + 1; artifacts := artifacts + n + q; size := size + bytes;
    END LOOP;
    FOR m IN SELECT x.id, x.file_sha256, x.size FROM public.recording x
             WHERE x.tenant = p_tenant AND x.sensitivity_class = class AND x.removed_at IS NULL
               AND x.imported_at <= statement_timestamp() - make_interval(days => days) AND cardinality(holds_on(p_tenant, x.id)) = 0
             ORDER BY x.imported_at LIMIT most - missions FOR NO KEY UPDATE SKIP LOCKED LOOP
      taped := forget_tape(p_tenant, m.id);
      UPDATE public.recording x SET file = NULL, removed_at = clock_timestamp() WHERE x.tenant = p_tenant AND x.id = m.id;
      PERFORM tell_removed(p_tenant, p_tenant, taped.hashes || m.file_sha256, jsonb_build_object(
        'recording', m.id, 'sensitivity_class', class, 'days', days, 'calls', taped.calls, 'size', m.size + taped.size));
      missions := missions + 1; size := size + m.size + taped.size;
    END LOOP;
    more := more OR missions >= most;
    EXIT WHEN more;
  END LOOP;
  -- FOR UPDATE: whoever is just referring to one has a key lock on it, and it is left for the next turn
  FOR b IN SELECT x.sha256, x.kept_at FROM public.blob x
           WHERE x.tenant = p_tenant AND x.removed_at IS NULL AND x.look_at <= clock_timestamp()
           ORDER BY x.look_at LIMIT most FOR UPDATE SKIP LOCKED LOOP
    looked := looked + 1;
    free := source_needed_until(p_tenant, b.sha256, b.kept_at);
    IF free > clock_timestamp() THEN
      UPDATE public.blob x SET look_at = LEAST(free, clock_timestamp() + interval '7 days') WHERE x.tenant = p_tenant AND x.sha256 = b.sha256;
      CONTINUE;
    END IF;
    UPDATE public.blob x SET bytes = NULL, object = NULL, chunks = NULL, removed_at = clock_timestamp()
      WHERE x.tenant = p_tenant AND x.sha256 = b.sha256 RETURNING old.object AS object, old.size AS size INTO gone;
    removed := removed || b.sha256; sources := sources + 1; size := size + gone.size;
    IF gone.object IS NOT NULL THEN objects := objects || (encode(b.sha256, 'hex') || '.' || gone.object); END IF;
  END LOOP;
  more := more OR looked >= most;
  IF sources > 0 THEN
    PERFORM tell_removed(p_tenant, p_tenant, removed, jsonb_build_object('sources', sources));
  END IF;
  RETURN NEXT;
END $$;

-- New times to be kept; who sets them is whoever presents a live secret. p_seen is the version that was seen; 0: none was set.
-- outcome: set · or why not: unauthenticated, not_entitled, stale.
CREATE FUNCTION put_retention(p_tenant uuid, p_secret text, p_seen int, p_public int, p_internal int, p_confidential int, p_restricted int,
                              p_unread int)
RETURNS TABLE (outcome text, version int)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE who uuid; last int; say text;
BEGIN
  PERFORM retention_in_turn(p_tenant);
  who := principal_of(p_tenant, p_secret);
  SELECT COALESCE(max(s.version), 0) INTO last FROM public.retention_schedule s WHERE s.tenant = p_tenant;
  say := CASE
    WHEN who IS NULL THEN 'unauthenticated'
    WHEN NOT entitled_to(p_tenant, who, ARRAY['admin', 'policy_owner'], NULL) THEN 'not_entitled'
    WHEN last IS DISTINCT FROM p_seen THEN 'stale' END;
  IF say IS NOT NULL THEN RETURN QUERY SELECT say, last; RETURN; END IF;
  INSERT INTO public.retention_schedule (tenant, version, public_days, internal_days, confidential_days, restricted_days, unread_days, set_by)
    VALUES (p_tenant, last + 1, p_public, p_internal, p_confidential, p_restricted, p_unread, who);
  PERFORM wall_fact(p_tenant, p_tenant, 'retention.changed', 'principal:' || who, jsonb_build_object('version', last + 1,
    'public_days', p_public, 'internal_days', p_internal, 'confidential_days', p_confidential, 'restricted_days', p_restricted,
    'unread_days', p_unread));
  RETURN QUERY SELECT 'set', last + 1;
END $$;

-- Places a hold. Saying the same again changes nothing, and a name is used once.
-- outcome: placed · unchanged · or why not: unauthenticated, not_entitled, no_mission, taken.
CREATE FUNCTION place_hold(p_tenant uuid, p_secret text, p_name text, p_scope text, p_mission uuid, p_label_name text, p_label_value text,
                           p_reason text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE who uuid; h public.legal_hold; say text;
BEGIN
  PERFORM retention_in_turn(p_tenant);
  who := principal_of(p_tenant, p_secret);
  SELECT * INTO h FROM public.legal_hold x WHERE x.tenant = p_tenant AND x.name = p_name;
  say := CASE
    WHEN who IS NULL THEN 'unauthenticated'
    WHEN NOT entitled_to(p_tenant, who, ARRAY['admin', 'policy_owner', 'auditor'], NULL) THEN 'not_entitled'
    WHEN h.name IS NOT NULL AND h.lifted_at IS NULL AND (h.scope, h.reason) = (p_scope, p_reason)
      AND (h.mission, h.label_name, h.label_value) IS NOT DISTINCT FROM (p_mission, p_label_name, p_label_value) THEN 'unchanged'
    WHEN h.name IS NOT NULL THEN 'taken'
    WHEN p_scope = 'mission' AND NOT EXISTS (SELECT FROM public.mission m WHERE m.tenant = p_tenant AND m.id = p_mission) THEN 'no_mission' END;
  IF say IS NOT NULL THEN RETURN say; END IF;
  INSERT INTO public.legal_hold (tenant, name, scope, mission, label_name, label_value, reason, placed_by)
    VALUES (p_tenant, p_name, p_scope, p_mission, p_label_name, p_label_value, p_reason, who);
  PERFORM wall_fact(p_tenant, COALESCE(p_mission, p_tenant), 'hold.placed', 'principal:' || who,
    jsonb_build_object('hold', p_name, 'scope', p_scope));
  RETURN 'placed';
END $$;

-- Lifts a hold; it takes another person than the one who placed it.
-- outcome: lifted · or why not: unauthenticated, not_entitled, not_found, lifted_before, own_hold.
CREATE FUNCTION lift_hold(p_tenant uuid, p_secret text, p_name text, p_reason text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE who uuid; h public.legal_hold; say text;
BEGIN
  PERFORM retention_in_turn(p_tenant);
  who := principal_of(p_tenant, p_secret);
  SELECT * INTO h FROM public.legal_hold x WHERE x.tenant = p_tenant AND x.name = p_name;
  say := CASE
    WHEN who IS NULL THEN 'unauthenticated'
    WHEN NOT entitled_to(p_tenant, who, ARRAY['admin', 'policy_owner'], NULL) THEN 'not_entitled'
    WHEN h.name IS NULL THEN 'not_found'
    WHEN h.lifted_at IS NOT NULL THEN 'lifted_before'
    WHEN h.placed_by = who THEN 'own_hold' END;
  IF say IS NOT NULL THEN RETURN say; END IF;
  UPDATE public.legal_hold x SET lift_reason = p_reason, lifted_by = who, lifted_at = clock_timestamp()
    WHERE x.tenant = p_tenant AND x.name = p_name;
  PERFORM wall_fact(p_tenant, COALESCE(h.mission, p_tenant), 'hold.lifted', 'principal:' || who,
    jsonb_build_object('hold', h.name, 'scope', h.scope));
  RETURN 'lifted';
END $$;

-- Puts back the work row of each tenant that has none, as restore_anchor_work() does.
CREATE FUNCTION restore_retention_work() RETURNS int
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH restored AS (
    INSERT INTO public.work (tenant, kind, subject, queue)
    SELECT t.id, 'retention', t.id, 'worker' FROM public.tenant t
    WHERE NOT EXISTS (SELECT 1 FROM public.work w WHERE w.tenant = t.id AND w.kind = 'retention' AND w.subject = t.id)
    LIMIT 5000
    ON CONFLICT (tenant, kind, subject) DO NOTHING RETURNING 1)
  SELECT count(*)::int FROM restored
$$;
-- Whose bytes and chains of facts there are to verify: ids, in order, behind one.
CREATE FUNCTION tenants_after(p_after uuid, p_limit int) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT t.id FROM public.tenant t WHERE p_after IS NULL OR t.id > p_after ORDER BY t.id LIMIT LEAST(p_limit, 1000)
$$;

DO $$
DECLARE f text;
BEGIN
  FOR f IN SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname IN (
      'guard_hold', 'guard_blob', 'require_kept', 'retention_in_turn', 'shipped_retention', 'retention_days', 'holds_on', 'retention_over',
      'recording_over', 'forget_tape', 'source_needed_until', 'keep_blob', 'tell_removed', 'remove_bytes', 'put_retention', 'place_hold', 'lift_hold',
      'restore_retention_work', 'tenants_after') LOOP
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    IF f ~ '^(keep_blob|retention_days|holds_on|shipped_retention)\(' THEN   -- what comes with a recording, and what a packet says
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO {prefix}_worker', f);
    END IF;
    IF f ~ '^(keep_blob|put_retention|place_hold|lift_hold|retention_days|holds_on|shipped_retention)\(' THEN
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO {prefix}_api', f);
    ELSIF f ~ '^(remove_bytes|restore_retention_work)\(' THEN EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO {prefix}_worker', f);
    ELSIF f ~ '^tenants_after\(' THEN EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO {prefix}_api, {prefix}_auditor', f); END IF;
  END LOOP;
END $$;
