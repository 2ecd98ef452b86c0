-- Leased work, idempotency answers and nonces: what makes a crash or a repeat harmless.

CREATE TABLE work (
  tenant uuid NOT NULL,               -- no foreign key, here and below: see record 0068
  kind text NOT NULL CHECK (kind !~ '[^a-z_]' AND length(kind) BETWEEN 1 AND 40),
  subject uuid NOT NULL,              -- ids only: what to do is read from the subject's own rows
  queue text NOT NULL CHECK (queue IN ('worker', 'executor')),
  next_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  wanted int NOT NULL DEFAULT 1,      -- raised by every add; a finish that saw an older value leaves the row for another turn
  lease_until timestamptz,
  fence bigint NOT NULL DEFAULT 0,    -- raised by every claim; a holder whose fence is old changes nothing (a claim that a crash forgot: record 0061)
  attempts int NOT NULL DEFAULT 0,    -- claims since it was added, or last done well
  added_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, kind, subject),
  CONSTRAINT work_queue CHECK ((queue = 'executor') = (kind IN ('execute', 'connector_read')))
);
-- An expression, so that only who takes from the queue finds it: a row that is looked up by its key is never found by going through its queue,
-- whatever the planner thinks of a table that is empty one moment and long the next.
CREATE INDEX work_due ON work ((queue || '/' || kind), next_at);
ALTER TABLE work ENABLE ROW LEVEL SECURITY; ALTER TABLE work FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON work USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid);
CREATE POLICY claims ON work TO {prefix}_owner USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON work TO {prefix}_api, {prefix}_worker;
-- What the executor does is added and ended by the wall's functions alone. A policy and not a trigger: it is the same kind
-- of rule as the tenant's, said in one place, and costs the other rows nothing.
CREATE POLICY walled_in ON work AS RESTRICTIVE FOR INSERT TO {prefix}_api, {prefix}_worker WITH CHECK (queue = 'worker');
CREATE POLICY walled_up ON work AS RESTRICTIVE FOR UPDATE TO {prefix}_api, {prefix}_worker
  USING (queue = 'worker') WITH CHECK (queue = 'worker');
CREATE POLICY walled_out ON work AS RESTRICTIVE FOR DELETE TO {prefix}_api, {prefix}_worker USING (queue = 'worker');
-- Some of it is the worker's alone: whose URL leaks from the api must not put off what would show what they did (anchor), what
-- removes bytes in time (retention), what repairs (liveness, drills), nor what lowers a rung (release_check).
DO $$
DECLARE others constant text := $k$ (kind NOT IN ('anchor', 'retention', 'liveness', 'drills', 'release_check')) $k$;
BEGIN
  EXECUTE 'CREATE POLICY workers_in ON work AS RESTRICTIVE FOR INSERT TO {prefix}_api WITH CHECK' || others;
  EXECUTE 'CREATE POLICY workers_up ON work AS RESTRICTIVE FOR UPDATE TO {prefix}_api USING' || others || 'WITH CHECK' || others;
  EXECUTE 'CREATE POLICY workers_out ON work AS RESTRICTIVE FOR DELETE TO {prefix}_api USING' || others;
END $$;

-- The wall's own way to ask for attention: repeating it never makes a second row, only an earlier one.
CREATE FUNCTION want_work(p_tenant uuid, p_kind text, p_subject uuid, p_queue text, p_at timestamptz) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public, pg_temp AS $$
  INSERT INTO public.work (tenant, kind, subject, queue, next_at) VALUES (p_tenant, p_kind, p_subject, p_queue, p_at)
  ON CONFLICT (tenant, kind, subject) DO UPDATE SET wanted = work.wanted + 1, next_at = LEAST(work.next_at, excluded.next_at)
$$;

-- Due rows of one queue, up to p_limit of each kind, leased to the caller. Recovery is by time alone: a lease that ran out is
-- simply due again. Kind by kind, and by a time that stands still: so what is not due yet, and what nobody asks for, is not read.
-- p_spare: tenants that its taker has enough of in hand.
CREATE FUNCTION take_work(p_queue text, p_kinds text[], p_limit int, p_lease interval, p_spare uuid[])
RETURNS TABLE (tenant uuid, kind text, subject uuid, fence bigint, wanted int, attempts int)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
  -- However long a lease its taker wants: nobody may keep work from the others for good. MATERIALIZED: found once, not again
  -- for every row that is looked at, or more would be leased than was asked for.
  WITH due AS MATERIALIZED (
    SELECT d.* FROM (SELECT DISTINCT k FROM unnest(p_kinds) k) asked, LATERAL (
      SELECT x.tenant, x.kind, x.subject FROM public.work x
      WHERE x.queue || '/' || x.kind = p_queue || '/' || asked.k AND x.next_at <= statement_timestamp()
        AND (x.lease_until IS NULL OR x.lease_until <= statement_timestamp()) AND x.tenant <> ALL (p_spare)
      ORDER BY x.next_at LIMIT LEAST(p_limit, 500) FOR UPDATE SKIP LOCKED) d)
  UPDATE public.work w SET lease_until = statement_timestamp() + LEAST(p_lease, interval '15 minutes'),
                           next_at = statement_timestamp() + LEAST(p_lease, interval '15 minutes'),   -- the same instant
                           fence = w.fence + 1, attempts = w.attempts + 1
  FROM due WHERE w.tenant = due.tenant AND w.kind = due.kind AND w.subject = due.subject
  RETURNING w.tenant, w.kind, w.subject, w.fence, w.wanted, w.attempts
$$;
-- When the next row of these kinds falls due (null: nothing waits), so that a holder sleeps no longer than that. Rows that were
-- wanted again while somebody holds them are left out: their holder gives them back. VOLATILE: asked in the statement that takes
-- what is due, it sees what was taken.
CREATE FUNCTION next_work(p_queue text, p_kinds text[], p_spare uuid[]) RETURNS timestamptz
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT min(d.next_at) FROM unnest(p_kinds) k, LATERAL (
    SELECT x.next_at FROM public.work x
    WHERE x.queue || '/' || x.kind = p_queue || '/' || k
      AND (x.lease_until IS NULL OR x.lease_until <= x.next_at OR x.lease_until <= statement_timestamp()) AND x.tenant <> ALL (p_spare)
    ORDER BY x.next_at LIMIT 1) d
$$;
-- Nobody waits until the disk has such a lease: one that a crash of the server forgets leaves the row due, as any that runs out, and
-- whatever its holder writes reaches the disk after it.
CREATE FUNCTION take_worker_work(p_kinds text[], p_limit int, p_lease interval)
RETURNS TABLE (tenant uuid, kind text, subject uuid, fence bigint, wanted int, attempts int)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT set_config('synchronous_commit', 'off', true);
  SELECT * FROM public.take_work('worker', p_kinds, p_limit, p_lease, '{}')
$$;
CREATE FUNCTION next_worker_work(p_kinds text[]) RETURNS timestamptz
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$ SELECT public.next_work('worker', p_kinds, '{}') $$;
CREATE FUNCTION take_executor_work(p_limit int, p_lease interval, p_spare uuid[])
RETURNS TABLE (tenant uuid, kind text, subject uuid, fence bigint, wanted int, attempts int)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT * FROM public.take_work('executor', ARRAY['execute'], p_limit, p_lease, p_spare)
$$;
CREATE FUNCTION next_executor_work(p_kind text, p_spare uuid[]) RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT public.next_work('executor', ARRAY[p_kind], p_spare)
$$;
-- The executor has no table grants; it ends or postpones its own work rows by fence through this.
-- p_again null: done. p_failed: its attempts count on. The answer says whether the fence still held.
CREATE FUNCTION finish_executor_work(p_tenant uuid, p_subject uuid, p_fence bigint, p_wanted int, p_again timestamptz, p_failed boolean)
RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM require_tenant(p_tenant);
  IF p_again IS NULL THEN
    DELETE FROM public.work w WHERE w.tenant = p_tenant AND w.kind = 'execute' AND w.subject = p_subject
      AND w.queue = 'executor' AND w.fence = p_fence AND w.wanted = p_wanted;
    IF FOUND THEN RETURN true; END IF;
  END IF;
  -- Whoever wanted it while it was held is not put off.
  UPDATE public.work w SET lease_until = NULL, attempts = CASE WHEN p_failed THEN w.attempts ELSE 0 END,
      next_at = LEAST(COALESCE(p_again, clock_timestamp()), CASE WHEN w.wanted > p_wanted THEN w.next_at END)
    WHERE w.tenant = p_tenant AND w.kind = 'execute' AND w.subject = p_subject
      AND w.queue = 'executor' AND w.fence = p_fence;
  RETURN FOUND;
END $$;

-- The answer of a request that carried an Idempotency-Key, kept in the transaction that did the work.
CREATE TABLE idempotency (
  tenant uuid NOT NULL,
  principal uuid NOT NULL,
  route text NOT NULL,
  key text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
  fingerprint bytea NOT NULL CHECK (length(fingerprint) = 32),
  status int NOT NULL,
  headers jsonb NOT NULL,
  body bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, principal, route, key)
);
CREATE INDEX idempotency_age ON idempotency (created_at);
ALTER TABLE idempotency ENABLE ROW LEVEL SECURITY; ALTER TABLE idempotency FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON idempotency USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid);
CREATE POLICY sweep ON idempotency TO {prefix}_owner USING (true);
GRANT SELECT ON idempotency TO {prefix}_api;
GRANT INSERT (tenant, principal, route, key, fingerprint, status, headers, body) ON idempotency TO {prefix}_api;

-- Nonces of signed calls, shared by all root processes. Unlogged: after a server crash the five-minute window is
-- the only memory lost, and timestamps bound it. No tenant: a nonce is used before any is known.
CREATE UNLOGGED TABLE nonce (
  kid text NOT NULL,
  nonce text NOT NULL,
  seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (kid, nonce)
);
CREATE INDEX nonce_age ON nonce (seen_at);
GRANT INSERT (kid, nonce) ON nonce TO {prefix}_api;

-- Forgets what is older than its purpose, a bounded bite at a time; the worker calls it between other work. Compared with the
-- time of the statement, here and in every other sweep: with a clock that moves on, no index can be used.
CREATE FUNCTION sweep_expired(p_limit int) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE n int; m int;
BEGIN
  DELETE FROM public.nonce WHERE ctid = ANY (ARRAY(
    SELECT x.ctid FROM public.nonce x WHERE x.seen_at < statement_timestamp() - interval '11 minutes' LIMIT p_limit));
  GET DIAGNOSTICS n = ROW_COUNT;
  DELETE FROM public.idempotency WHERE ctid = ANY (ARRAY(
    SELECT x.ctid FROM public.idempotency x WHERE x.created_at < statement_timestamp() - interval '24 hours' LIMIT p_limit));
  GET DIAGNOSTICS m = ROW_COUNT;
  RETURN n + m;
END $$;

REVOKE ALL ON FUNCTION want_work(uuid, text, uuid, text, timestamptz), take_work(text, text[], int, interval, uuid[]), next_work(text, text[], uuid[]), take_worker_work(text[], int, interval),
  next_worker_work(text[]), take_executor_work(int, interval, uuid[]), next_executor_work(text, uuid[]),
  finish_executor_work(uuid, uuid, bigint, int, timestamptz, boolean), sweep_expired(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION take_worker_work(text[], int, interval), next_worker_work(text[]), sweep_expired(int) TO {prefix}_worker;
GRANT EXECUTE ON FUNCTION take_executor_work(int, interval, uuid[]), next_executor_work(text, uuid[]),
  finish_executor_work(uuid, uuid, bigint, int, timestamptz, boolean) TO {prefix}_executor;

-- Bytes by content: document text, record snapshots. Typed artifacts carry their own bytes. Large ones are objects outside the
-- database, each under a name of its own: what is deleted is never what somebody has just put there again. How bytes come and
-- go: 66_retention.sql.
CREATE TABLE blob (
  tenant uuid NOT NULL REFERENCES tenant,
  sha256 bytea NOT NULL CHECK (length(sha256) = 32),
  size bigint NOT NULL CHECK (size >= 0),
  bytes bytea,                        -- null: kept as an object, or removed
  object uuid,                        -- which object; a version 7 UUID, so it says when it was written
  chunks bytea,                       -- the SHA-256 of each 256 KiB of an object: a part of it is checked without the rest
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  kept_at timestamptz NOT NULL DEFAULT clock_timestamp(),   -- when somebody last brought them
  look_at timestamptz NOT NULL DEFAULT clock_timestamp() + interval '1 day',   -- when to see whether anybody needs them
  removed_at timestamptz,
  PRIMARY KEY (tenant, sha256),
  CONSTRAINT blob_place CHECK (num_nonnulls(bytes, object, removed_at) = 1),
  CONSTRAINT blob_size CHECK (size = octet_length(bytes)),
  CONSTRAINT blob_hash CHECK (sha256 = sha256(bytes)),
  CONSTRAINT blob_chunks CHECK ((object IS NULL) = (chunks IS NULL)),
  CONSTRAINT blob_chunks_all CHECK (octet_length(chunks) = 32 * ((size + 262143) / 262144))
);
CREATE INDEX blob_to_look_at ON blob (tenant, look_at) WHERE removed_at IS NULL;
CREATE UNIQUE INDEX blob_object ON blob (tenant, object) WHERE object IS NOT NULL;
ALTER TABLE blob ENABLE ROW LEVEL SECURITY; ALTER TABLE blob FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON blob USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid);
GRANT SELECT ON blob TO {prefix}_api, {prefix}_worker, {prefix}_auditor;
