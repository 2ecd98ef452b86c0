-- Facts delivered to addresses of a tenant's own choice: where to, signed with what, and what came of each.

CREATE TABLE webhook (
  tenant uuid NOT NULL REFERENCES tenant,
  id uuid NOT NULL,
  url text NOT NULL CHECK (length(url) BETWEEN 8 AND 2000),
  types text[] NOT NULL CHECK (cardinality(types) BETWEEN 1 AND 50),
  description text CHECK (length(description) <= 500),
  state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'paused', 'deleted')),
  version int NOT NULL DEFAULT 1,     -- of what its owner sets; deliveries do not move it
  after_xid xid8 NOT NULL,            -- reading position: every fact up to here was looked at
  after_id bigint NOT NULL,
  failures int NOT NULL DEFAULT 0 CHECK (failures >= 0),        -- in a row
  failing_since timestamptz,
  blocked_until timestamptz,          -- an address that fails is left alone for a while
  created_by uuid NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, id),
  FOREIGN KEY (tenant, created_by) REFERENCES principal (tenant, id),
  CHECK ((failures > 0) = (failing_since IS NOT NULL))
);
CREATE INDEX webhook_newest ON webhook (tenant, created_at DESC, id DESC);

CREATE TABLE webhook_secret (          -- a list, so that a new one and an old one are both valid for a while
  tenant uuid NOT NULL,
  id uuid NOT NULL,
  webhook uuid NOT NULL,
  kind text NOT NULL CHECK (kind IN ('v1', 'v1a')),             -- HMAC-SHA256, Ed25519
  sealed bytea NOT NULL CHECK (length(sealed) BETWEEN 40 AND 400),  -- encrypted under a key the database never sees
  public_key bytea CHECK (length(public_key) = 32),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz,
  PRIMARY KEY (tenant, id),
  FOREIGN KEY (tenant, webhook) REFERENCES webhook (tenant, id),
  CHECK ((kind = 'v1a') = (public_key IS NOT NULL))
);
CREATE INDEX webhook_secret_of ON webhook_secret (tenant, webhook, created_at);

CREATE TABLE webhook_delivery (
  tenant uuid NOT NULL,
  id uuid NOT NULL,
  webhook uuid NOT NULL,
  message text NOT NULL CHECK (length(message) BETWEEN 1 AND 100),  -- webhook-id: the same at every try
  type text NOT NULL,
  subject uuid,                       -- with seq: the fact. Both null: a test
  seq bigint,
  state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead', 'cancelled')),
  tries int NOT NULL DEFAULT 0,       -- of the present round; asking for redelivery begins a new one
  last_tries jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(last_tries) = 'array'),
  next_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  settled_at timestamptz,
  PRIMARY KEY (tenant, id),
  UNIQUE (tenant, webhook, subject, seq),
  FOREIGN KEY (tenant, webhook) REFERENCES webhook (tenant, id),
  FOREIGN KEY (tenant, subject, seq) REFERENCES ledger (tenant, subject, seq),
  CHECK ((subject IS NULL) = (seq IS NULL)),
  CHECK ((settled_at IS NOT NULL) = (state <> 'pending'))
);
CREATE INDEX webhook_delivery_newest ON webhook_delivery (tenant, webhook, created_at DESC, id DESC);
-- those that are counted and listed: few, beside all that were delivered
CREATE INDEX webhook_delivery_open ON webhook_delivery (tenant, webhook, state, created_at DESC, id DESC) WHERE state IN ('pending', 'dead');
CREATE INDEX webhook_delivery_age ON webhook_delivery (settled_at) WHERE state <> 'pending';

CREATE FUNCTION guard_webhook() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF (NEW.tenant, NEW.id, NEW.created_by, NEW.created_at) IS DISTINCT FROM (OLD.tenant, OLD.id, OLD.created_by, OLD.created_at)
     OR OLD.state = 'deleted' THEN
    RAISE EXCEPTION 'wall: a webhook keeps its identity, and a deleted one stays deleted' USING ERRCODE = 'RX001';
  END IF;
  -- Turning back would deliver again what was delivered; jumping is what the planner does after it has looked.
  IF (NEW.after_xid, NEW.after_id) < (OLD.after_xid, OLD.after_id) THEN
    RAISE EXCEPTION 'wall: a reading position does not turn back' USING ERRCODE = 'RX001';
  END IF;
  IF (NEW.url, NEW.types, NEW.state) IS DISTINCT FROM (OLD.url, OLD.types, OLD.state)
     OR NEW.description IS DISTINCT FROM OLD.description THEN
    NEW.version := OLD.version + 1;
    NEW.updated_at := clock_timestamp();
  ELSE
    NEW.version := OLD.version;
  END IF;
  RETURN NEW;
END $$;
CREATE FUNCTION guard_webhook_secret() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF (NEW.tenant, NEW.id, NEW.webhook, NEW.kind, NEW.sealed, NEW.created_at)
     IS DISTINCT FROM (OLD.tenant, OLD.id, OLD.webhook, OLD.kind, OLD.sealed, OLD.created_at)
     OR NEW.public_key IS DISTINCT FROM OLD.public_key
     OR COALESCE(NEW.expires_at, 'infinity') > COALESCE(OLD.expires_at, 'infinity') THEN
    RAISE EXCEPTION 'wall: a secret can only be made to end' USING ERRCODE = 'RX001';
  END IF;
  RETURN NEW;
END $$;
CREATE FUNCTION guard_webhook_delivery() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF (NEW.tenant, NEW.id, NEW.webhook, NEW.message, NEW.type, NEW.created_at)
     IS DISTINCT FROM (OLD.tenant, OLD.id, OLD.webhook, OLD.message, OLD.type, OLD.created_at)
     OR NEW.subject IS DISTINCT FROM OLD.subject OR NEW.seq IS DISTINCT FROM OLD.seq
     OR (OLD.state = 'cancelled' AND NEW.state <> 'cancelled') THEN
    RAISE EXCEPTION 'wall: a delivery keeps what it is about' USING ERRCODE = 'RX001';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER webhook_guard BEFORE UPDATE ON webhook FOR EACH ROW EXECUTE FUNCTION guard_webhook();
CREATE TRIGGER webhook_secret_guard BEFORE UPDATE ON webhook_secret FOR EACH ROW EXECUTE FUNCTION guard_webhook_secret();
CREATE TRIGGER webhook_delivery_guard BEFORE UPDATE ON webhook_delivery FOR EACH ROW EXECUTE FUNCTION guard_webhook_delivery();
ALTER TABLE webhook ENABLE ALWAYS TRIGGER webhook_guard;
ALTER TABLE webhook_secret ENABLE ALWAYS TRIGGER webhook_secret_guard;
ALTER TABLE webhook_delivery ENABLE ALWAYS TRIGGER webhook_delivery_guard;
DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['webhook', 'webhook_secret', 'webhook_delivery'] LOOP
    EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', t || '_whole', t);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_whole');
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format($p$CREATE POLICY own_tenant ON %I
      USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid)$p$, t);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['webhook', 'webhook_secret'] LOOP
    EXECUTE format('CREATE TRIGGER %I BEFORE DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', t || '_keep', t);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_keep');
  END LOOP;
END $$;
CREATE POLICY lookup ON webhook FOR SELECT TO {prefix}_owner USING (true);
CREATE POLICY sweep ON webhook_delivery TO {prefix}_owner USING (true);

GRANT SELECT ON webhook, webhook_delivery TO {prefix}_api, {prefix}_worker, {prefix}_auditor;
-- The api makes secrets and shows their public halves; only the worker, which signs, reads the sealed ones.
GRANT SELECT (tenant, id, webhook, kind, public_key, created_at, expires_at) ON webhook_secret TO {prefix}_api, {prefix}_auditor;
GRANT SELECT ON webhook_secret TO {prefix}_worker;
GRANT INSERT (tenant, id, url, types, description, after_xid, after_id, created_by) ON webhook TO {prefix}_api;
GRANT UPDATE (url, types, description, state, failures, failing_since, blocked_until) ON webhook TO {prefix}_api;
GRANT UPDATE (state, after_xid, after_id, failures, failing_since, blocked_until) ON webhook TO {prefix}_worker;
GRANT INSERT (tenant, id, webhook, kind, sealed, public_key) ON webhook_secret TO {prefix}_api;
GRANT UPDATE (expires_at) ON webhook_secret TO {prefix}_api;
GRANT INSERT (tenant, id, webhook, message, type, subject, seq, next_at) ON webhook_delivery TO {prefix}_api, {prefix}_worker;
GRANT UPDATE (state, tries, last_tries, next_at, settled_at) ON webhook_delivery TO {prefix}_api, {prefix}_worker;

-- Which webhooks have facts before them that they have not looked at: ids only, of every tenant. Those whose backlog is full
-- (deliver.BACKLOG) are left out, or a thousand of them would leave no room for others; a suspended tenant's cursors wait.
CREATE FUNCTION waiting_webhooks(p_limit int) RETURNS TABLE (tenant uuid, webhook uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT w.tenant, w.id FROM public.webhook w JOIN public.tenant t ON t.id = w.tenant AND t.suspended_at IS NULL
  WHERE w.state = 'active' AND EXISTS (
    SELECT 1 FROM public.ledger l WHERE l.tenant = w.tenant AND (l.xid, l.id) > (w.after_xid, w.after_id)
      AND l.xid < pg_snapshot_xmin(pg_current_snapshot()))
    AND (SELECT count(*) FROM (SELECT 1 FROM public.webhook_delivery d
      WHERE d.tenant = w.tenant AND d.webhook = w.id AND d.state = 'pending' LIMIT 1000) x) < 1000
  LIMIT LEAST(p_limit, 1000)
$$;
-- Due deliveries, leased to a courier, but of one webhook and of one tenant no more than p_each and p_share together with what it
-- holds of them already (p_webhooks, p_tenants: id -> how many). The rest, and all of a suspended tenant, waits untaken.
CREATE FUNCTION take_webhook_work(p_limit int, p_lease interval, p_webhooks jsonb, p_tenants jsonb, p_each int, p_share int)
RETURNS TABLE (tenant uuid, kind text, subject uuid, fence bigint, wanted int, attempts int, webhook uuid)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH due AS (
    SELECT d.tenant, d.subject, d.next_at, x.webhook,
      COALESCE((p_webhooks ->> x.webhook::text)::int, 0) AS of_webhook, COALESCE((p_tenants ->> d.tenant::text)::int, 0) AS of_tenant
    FROM public.work d JOIN public.tenant t ON t.id = d.tenant AND t.suspended_at IS NULL
      LEFT JOIN public.webhook_delivery x ON x.tenant = d.tenant AND x.id = d.subject
    WHERE d.queue || '/' || d.kind = 'worker/webhook_send' AND d.next_at <= statement_timestamp()
      AND (d.lease_until IS NULL OR d.lease_until <= statement_timestamp())
      AND COALESCE((p_tenants ->> d.tenant::text)::int, 0) < p_share
      AND COALESCE((p_webhooks ->> x.webhook::text)::int, 0) < p_each
    ORDER BY d.next_at LIMIT 2000),
  each AS (
    SELECT *, of_webhook + row_number() OVER (PARTITION BY tenant, webhook ORDER BY next_at, subject) AS nth FROM due),
  share AS (
    SELECT *, of_tenant + row_number() OVER (PARTITION BY tenant ORDER BY next_at, subject) AS nth_of_tenant FROM each WHERE nth <= p_each),
  held AS (
    SELECT d.tenant, d.subject, s.webhook FROM share s
      JOIN public.work d ON d.tenant = s.tenant AND d.kind = 'webhook_send' AND d.subject = s.subject
    WHERE s.nth_of_tenant <= p_share AND d.next_at <= statement_timestamp() AND (d.lease_until IS NULL OR d.lease_until <= statement_timestamp())
    ORDER BY s.next_at LIMIT LEAST(p_limit, 500) FOR UPDATE OF d SKIP LOCKED)
  UPDATE public.work w SET lease_until = clock_timestamp() + LEAST(p_lease, interval '15 minutes'),
                           next_at = clock_timestamp() + LEAST(p_lease, interval '15 minutes'),
                           fence = w.fence + 1, attempts = w.attempts + 1
  FROM held WHERE w.tenant = held.tenant AND w.kind = 'webhook_send' AND w.subject = held.subject
  RETURNING w.tenant, w.kind, w.subject, w.fence, w.wanted, w.attempts, held.webhook
$$;
-- Settled deliveries are forgotten after 30 days; the facts themselves stay.
CREATE FUNCTION sweep_webhook_deliveries(p_limit int) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE n int;
BEGIN
  DELETE FROM public.webhook_delivery WHERE ctid = ANY (ARRAY(
    SELECT x.ctid FROM public.webhook_delivery x
    WHERE x.state <> 'pending' AND x.settled_at < statement_timestamp() - interval '30 days' LIMIT p_limit));
  GET DIAGNOSTICS n = ROW_COUNT;
  RETURN n;
END $$;
REVOKE ALL ON FUNCTION guard_webhook(), guard_webhook_secret(), guard_webhook_delivery(), waiting_webhooks(int),
  take_webhook_work(int, interval, jsonb, jsonb, int, int), sweep_webhook_deliveries(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION waiting_webhooks(int), take_webhook_work(int, interval, jsonb, jsonb, int, int),
  sweep_webhook_deliveries(int) TO {prefix}_worker;
