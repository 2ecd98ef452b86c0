-- Budgets: what a mission, a tenant's day and a tenant may use, and what was used. Serving roles only look; everything moves
-- through the functions below, and a CHECK per account refuses an overspend whatever they do.
-- Whoever moves a mission's budget holds the mission's row first; then: mission's account, its reservation, day, tenant, ledger.

CREATE TABLE budget_limit (          -- what an admin has set, every version of it; null is no limit
  tenant uuid NOT NULL REFERENCES tenant,
  version int NOT NULL CHECK (version >= 1),
  day_tokens bigint CHECK (day_tokens BETWEEN 0 AND 1000000000000000),
  day_cost_usd numeric(24, 8) CHECK (day_cost_usd BETWEEN 0 AND 1000000000000),
  day_time_ms bigint CHECK (day_time_ms BETWEEN 0 AND 1000000000000000),
  total_tokens bigint CHECK (total_tokens BETWEEN 0 AND 1000000000000000),
  total_cost_usd numeric(24, 8) CHECK (total_cost_usd BETWEEN 0 AND 1000000000000),
  total_time_ms bigint CHECK (total_time_ms BETWEEN 0 AND 1000000000000000),
  rate_key_per_s double precision CHECK (rate_key_per_s BETWEEN 0.01 AND 1000000),   -- requests a second, instead of the setting's
  rate_principal_per_s double precision CHECK (rate_principal_per_s BETWEEN 0.01 AND 1000000),
  rate_tenant_per_s double precision CHECK (rate_tenant_per_s BETWEEN 0.01 AND 1000000),
  set_by uuid NOT NULL,
  set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, version),
  FOREIGN KEY (tenant, set_by) REFERENCES principal (tenant, id)
);

CREATE TABLE budget_account (        -- limit_*: the limit it was last moved under, never below what is already bound
  tenant uuid NOT NULL REFERENCES tenant,
  scope text NOT NULL CHECK (scope IN ('mission', 'tenant_day', 'tenant')),
  key text NOT NULL CHECK (length(key) <= 40),     -- the mission's id, the day (UTC), the tenant's id
  limit_tokens bigint,
  limit_cost_usd numeric(24, 8),
  limit_time_ms bigint,
  reserved_tokens bigint NOT NULL DEFAULT 0 CHECK (reserved_tokens >= 0),
  reserved_cost_usd numeric(24, 8) NOT NULL DEFAULT 0 CHECK (reserved_cost_usd >= 0),
  reserved_time_ms bigint NOT NULL DEFAULT 0 CHECK (reserved_time_ms >= 0),
  settled_tokens bigint NOT NULL DEFAULT 0 CHECK (settled_tokens >= 0),
  settled_cost_usd numeric(24, 8) NOT NULL DEFAULT 0 CHECK (settled_cost_usd >= 0),
  settled_time_ms bigint NOT NULL DEFAULT 0 CHECK (settled_time_ms >= 0),
  over_tokens bigint NOT NULL DEFAULT 0 CHECK (over_tokens >= 0),           -- reported although nothing was left
  over_cost_usd numeric(24, 8) NOT NULL DEFAULT 0 CHECK (over_cost_usd >= 0),
  over_time_ms bigint NOT NULL DEFAULT 0 CHECK (over_time_ms >= 0),
  calls bigint NOT NULL DEFAULT 0 CHECK (calls >= 0),                       -- tool and model calls of a mission, and how long they took
  calls_ms bigint NOT NULL DEFAULT 0 CHECK (calls_ms >= 0),
  opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, scope, key),
  CONSTRAINT budget_account_tokens CHECK (settled_tokens + reserved_tokens <= limit_tokens),
  CONSTRAINT budget_account_cost CHECK (settled_cost_usd + reserved_cost_usd <= limit_cost_usd),
  CONSTRAINT budget_account_time CHECK (settled_time_ms + reserved_time_ms <= limit_time_ms)
);

CREATE INDEX budget_account_newest ON budget_account (tenant, opened_at DESC, key) WHERE scope = 'mission';

-- purpose 'mission': a whole mission's budget, held in its day and its tenant until it ends. presumed: nobody said what was used.
CREATE TABLE budget_reservation (
  tenant uuid NOT NULL,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  mission uuid NOT NULL,
  purpose text NOT NULL CHECK (purpose ~ '^[a-z][a-z0-9_.:-]{0,79}$'),
  day date NOT NULL,                 -- whose account it is settled in, however late that happens
  held_above boolean NOT NULL,       -- whether day and tenant hold it too, not only the mission's account
  tokens bigint NOT NULL CHECK (tokens >= 0),
  cost_usd numeric(24, 8) NOT NULL CHECK (cost_usd >= 0),
  time_ms bigint NOT NULL CHECK (time_ms >= 0),
  used_tokens bigint NOT NULL DEFAULT 0 CHECK (used_tokens BETWEEN 0 AND tokens),
  used_cost_usd numeric(24, 8) NOT NULL DEFAULT 0 CHECK (used_cost_usd BETWEEN 0 AND cost_usd),
  used_time_ms bigint NOT NULL DEFAULT 0 CHECK (used_time_ms BETWEEN 0 AND time_ms),
  state text NOT NULL DEFAULT 'reserved' CHECK (state IN ('reserved', 'settled', 'released', 'presumed')),
  made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz,            -- null: ends with the mission
  ended_at timestamptz,
  PRIMARY KEY (tenant, id),
  FOREIGN KEY (tenant, mission) REFERENCES mission (tenant, id),
  CHECK ((purpose = 'mission') = (expires_at IS NULL)),
  CHECK ((ended_at IS NOT NULL) = (state <> 'reserved'))
);
CREATE UNIQUE INDEX budget_reservation_of_mission ON budget_reservation (tenant, mission) WHERE purpose = 'mission';
CREATE INDEX budget_reservation_open ON budget_reservation (expires_at) WHERE state = 'reserved';
CREATE INDEX budget_reservation_ended ON budget_reservation (ended_at) WHERE ended_at IS NOT NULL AND purpose <> 'mission';

-- A reservation ends once, and only its use grows before that.
CREATE FUNCTION guard_budget_reservation() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    IF OLD.state = 'reserved' OR OLD.purpose = 'mission' THEN
      RAISE EXCEPTION 'wall: a reservation is ended, not deleted' USING ERRCODE = 'RX001';
    END IF;
    RETURN OLD;
  END IF;
  IF OLD.state <> 'reserved' THEN
    RAISE EXCEPTION 'wall: the reservation is %', OLD.state USING ERRCODE = 'RX004';
  END IF;
  IF (NEW.tenant, NEW.id, NEW.mission, NEW.purpose, NEW.day, NEW.held_above, NEW.tokens, NEW.cost_usd, NEW.time_ms, NEW.made_at)
     IS DISTINCT FROM
     (OLD.tenant, OLD.id, OLD.mission, OLD.purpose, OLD.day, OLD.held_above, OLD.tokens, OLD.cost_usd, OLD.time_ms, OLD.made_at)
     OR NEW.expires_at IS DISTINCT FROM OLD.expires_at OR NEW.used_tokens < OLD.used_tokens
     OR NEW.used_cost_usd < OLD.used_cost_usd OR NEW.used_time_ms < OLD.used_time_ms THEN
    RAISE EXCEPTION 'wall: what was reserved does not change' USING ERRCODE = 'RX001';
  END IF;
  RETURN NEW;
END $$;
-- What was spent stays spent.
CREATE FUNCTION guard_budget_account() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF (NEW.tenant, NEW.scope, NEW.key, NEW.opened_at) IS DISTINCT FROM (OLD.tenant, OLD.scope, OLD.key, OLD.opened_at)
     OR NEW.settled_tokens < OLD.settled_tokens OR NEW.settled_cost_usd < OLD.settled_cost_usd
     OR NEW.settled_time_ms < OLD.settled_time_ms OR NEW.over_tokens < OLD.over_tokens OR NEW.over_cost_usd < OLD.over_cost_usd
     OR NEW.over_time_ms < OLD.over_time_ms OR NEW.calls < OLD.calls OR NEW.calls_ms < OLD.calls_ms THEN
    RAISE EXCEPTION 'wall: what was spent stays spent' USING ERRCODE = 'RX001';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER budget_reservation_guard BEFORE UPDATE OR DELETE ON budget_reservation FOR EACH ROW EXECUTE FUNCTION guard_budget_reservation();
CREATE TRIGGER budget_account_guard BEFORE UPDATE ON budget_account FOR EACH ROW EXECUTE FUNCTION guard_budget_account();
CREATE TRIGGER budget_account_keep BEFORE DELETE ON budget_account FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER budget_limit_keep BEFORE UPDATE OR DELETE ON budget_limit FOR EACH ROW EXECUTE FUNCTION refuse_change();
DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['budget_limit', 'budget_account', 'budget_reservation'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format($p$CREATE POLICY own_tenant ON %I
      USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid)$p$, t);
    EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', t || '_whole', t);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t, t || '_whole');
    EXECUTE format('GRANT SELECT ON %I TO {prefix}_api, {prefix}_worker, {prefix}_auditor', t);
  END LOOP;
END $$;
ALTER TABLE budget_reservation ENABLE ALWAYS TRIGGER budget_reservation_guard;
ALTER TABLE budget_account ENABLE ALWAYS TRIGGER budget_account_guard;
ALTER TABLE budget_account ENABLE ALWAYS TRIGGER budget_account_keep;
ALTER TABLE budget_limit ENABLE ALWAYS TRIGGER budget_limit_keep;
CREATE POLICY lookup ON budget_reservation FOR SELECT TO {prefix}_owner USING (true);   -- reconcile_budgets() serves every tenant
CREATE POLICY lookup ON budget_limit FOR SELECT TO {prefix}_owner USING (true);         -- take_tokens() works before a tenant is entered

-- The limit that holds for an account now.
CREATE FUNCTION budget_limit_now(p_tenant uuid, p_scope text, p_key text, OUT tokens bigint, OUT cost_usd numeric, OUT time_ms bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF p_scope = 'mission' THEN        -- its time is its deadline, not the sum of what runs side by side
    SELECT m.budget_tokens, m.budget_cost_usd INTO tokens, cost_usd FROM public.mission m
      WHERE m.tenant = p_tenant AND m.id = p_key::uuid;
  ELSE
    SELECT CASE p_scope WHEN 'tenant' THEN l.total_tokens ELSE l.day_tokens END,
           CASE p_scope WHEN 'tenant' THEN l.total_cost_usd ELSE l.day_cost_usd END,
           CASE p_scope WHEN 'tenant' THEN l.total_time_ms ELSE l.day_time_ms END INTO tokens, cost_usd, time_ms
      FROM public.budget_limit l WHERE l.tenant = p_tenant ORDER BY l.version DESC LIMIT 1;
  END IF;
END $$;

-- One account, one guarded UPDATE. r_*: by how much more (or, negative, less) is held; s_*: what is spent. Held amounts may be
-- spent whatever the limit became meanwhile; what is spent beyond is kept apart. With p_guard it answers false, and nothing
-- has moved, when the new reservation does not fit under the limit that holds now.
CREATE FUNCTION move_budget(p_tenant uuid, p_scope text, p_key text, p_guard boolean, r_tokens bigint, r_cost numeric, r_time bigint,
                            s_tokens bigint, s_cost numeric, s_time bigint, p_calls int DEFAULT 0, p_calls_ms bigint DEFAULT 0)
RETURNS boolean LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE l record;
BEGIN
  LOOP
    l := budget_limit_now(p_tenant, p_scope, p_key);
    UPDATE public.budget_account a SET
        reserved_tokens = n.r_t, reserved_cost_usd = n.r_c, reserved_time_ms = n.r_m,
        settled_tokens = a.settled_tokens + n.s_t, settled_cost_usd = a.settled_cost_usd + n.s_c,
        settled_time_ms = a.settled_time_ms + n.s_m,
        over_tokens = a.over_tokens + s_tokens - n.s_t, over_cost_usd = a.over_cost_usd + s_cost - n.s_c,
        over_time_ms = a.over_time_ms + s_time - n.s_m,
        calls = a.calls + p_calls, calls_ms = a.calls_ms + p_calls_ms,
        limit_tokens = CASE WHEN l.tokens IS NOT NULL THEN GREATEST(l.tokens, a.settled_tokens + n.s_t + n.r_t) END,
        limit_cost_usd = CASE WHEN l.cost_usd IS NOT NULL THEN GREATEST(l.cost_usd, a.settled_cost_usd + n.s_c + n.r_c) END,
        limit_time_ms = CASE WHEN l.time_ms IS NOT NULL THEN GREATEST(l.time_ms, a.settled_time_ms + n.s_m + n.r_m) END
      FROM (SELECT b.reserved_tokens + r_tokens AS r_t, b.reserved_cost_usd + r_cost AS r_c, b.reserved_time_ms + r_time AS r_m,
              CASE WHEN l.tokens IS NULL THEN s_tokens ELSE LEAST(s_tokens,
                GREATEST(l.tokens, b.settled_tokens + b.reserved_tokens) - b.settled_tokens - b.reserved_tokens - r_tokens) END AS s_t,
              CASE WHEN l.cost_usd IS NULL THEN s_cost ELSE LEAST(s_cost,
                GREATEST(l.cost_usd, b.settled_cost_usd + b.reserved_cost_usd) - b.settled_cost_usd - b.reserved_cost_usd - r_cost) END AS s_c,
              CASE WHEN l.time_ms IS NULL THEN s_time ELSE LEAST(s_time,
                GREATEST(l.time_ms, b.settled_time_ms + b.reserved_time_ms) - b.settled_time_ms - b.reserved_time_ms - r_time) END AS s_m
            FROM public.budget_account b WHERE b.tenant = p_tenant AND b.scope = p_scope AND b.key = p_key FOR UPDATE) n
      WHERE a.tenant = p_tenant AND a.scope = p_scope AND a.key = p_key
        AND (NOT p_guard OR (
          (l.tokens IS NULL OR a.settled_tokens + a.over_tokens + n.r_t <= l.tokens)
          AND (l.cost_usd IS NULL OR a.settled_cost_usd + a.over_cost_usd + n.r_c <= l.cost_usd)
          AND (l.time_ms IS NULL OR a.settled_time_ms + a.over_time_ms + n.r_m <= l.time_ms)));
    IF FOUND THEN RETURN true; END IF;
    INSERT INTO public.budget_account (tenant, scope, key) VALUES (p_tenant, p_scope, p_key) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN RETURN false; END IF;
  END LOOP;
END $$;

-- What stands in the way of an amount: of which of them there is too little, what is left, and when there is more.
CREATE FUNCTION budget_lacking(p_tenant uuid, p_scope text, p_key text, p_tokens bigint, p_cost numeric, p_time bigint)
RETURNS jsonb LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE l record; a public.budget_account; left_t bigint; left_c numeric; left_m bigint;
BEGIN
  SELECT * INTO l FROM budget_limit_now(p_tenant, p_scope, p_key);
  SELECT * INTO a FROM public.budget_account b WHERE b.tenant = p_tenant AND b.scope = p_scope AND b.key = p_key;
  left_t := l.tokens - COALESCE(a.settled_tokens + a.over_tokens + a.reserved_tokens, 0);
  left_c := l.cost_usd - COALESCE(a.settled_cost_usd + a.over_cost_usd + a.reserved_cost_usd, 0);
  left_m := l.time_ms - COALESCE(a.settled_time_ms + a.over_time_ms + a.reserved_time_ms, 0);
  RETURN jsonb_build_object('account', p_scope,
    'lacking', array_remove(ARRAY[CASE WHEN left_t < p_tokens THEN 'tokens' END, CASE WHEN left_c < p_cost THEN 'cost_usd' END,
                                  CASE WHEN left_m < p_time THEN 'time_ms' END], NULL),
    -- null where there is no limit: GREATEST would pass over it and say that nothing is left
    'left', jsonb_build_object('tokens', CASE WHEN left_t IS NOT NULL THEN GREATEST(left_t, 0) END,
      'cost_usd', CASE WHEN left_c IS NOT NULL THEN GREATEST(left_c, 0) END,
      'time_ms', CASE WHEN left_m IS NOT NULL THEN GREATEST(left_m, 0) END),
    'renews_at', CASE p_scope WHEN 'tenant_day' THEN to_char(p_key::date + 1, 'YYYY-MM-DD"T00:00:00Z"') END);
END $$;

-- The day in which a transaction began, so that it never wants a later day's account while it holds an earlier one's.
CREATE FUNCTION budget_day() RETURNS date LANGUAGE sql STABLE SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT (now() AT TIME ZONE 'UTC')::date
$$;

-- Whether the tenant has any limit of its own: without one nobody queues at its accounts before something was spent.
CREATE FUNCTION budget_is_limited(p_tenant uuid) RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT COALESCE((SELECT num_nonnulls(l.day_tokens, l.day_cost_usd, l.day_time_ms, l.total_tokens, l.total_cost_usd, l.total_time_ms) > 0
                   FROM public.budget_limit l WHERE l.tenant = p_tenant ORDER BY l.version DESC LIMIT 1), false)
$$;

-- Holds an amount in day and tenant, or in neither: null, or what stands in the way.
CREATE FUNCTION hold_above(p_tenant uuid, p_day date, p_tokens bigint, p_cost numeric, p_time bigint) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF NOT move_budget(p_tenant, 'tenant_day', p_day::text, true, p_tokens, p_cost, p_time, 0, 0, 0) THEN
    RETURN budget_lacking(p_tenant, 'tenant_day', p_day::text, p_tokens, p_cost, p_time);
  END IF;
  IF NOT move_budget(p_tenant, 'tenant', p_tenant::text, true, p_tokens, p_cost, p_time, 0, 0, 0) THEN
    PERFORM move_budget(p_tenant, 'tenant_day', p_day::text, false, -p_tokens, -p_cost, -p_time, 0, 0, 0);
    RETURN budget_lacking(p_tenant, 'tenant', p_tenant::text, p_tokens, p_cost, p_time);
  END IF;
  RETURN NULL;
END $$;

-- What hold_above would say now, and nothing is held.
CREATE FUNCTION budget_would_lack(p_tenant uuid, p_tokens bigint, p_cost numeric, p_time bigint) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE said jsonb;
BEGIN
  PERFORM require_tenant(p_tenant);
  IF NOT budget_is_limited(p_tenant) THEN RETURN NULL; END IF;
  said := budget_lacking(p_tenant, 'tenant_day', budget_day()::text, p_tokens, p_cost, p_time);
  IF said -> 'lacking' = '[]' THEN said := budget_lacking(p_tenant, 'tenant', p_tenant::text, p_tokens, p_cost, p_time); END IF;
  RETURN CASE WHEN said -> 'lacking' <> '[]' THEN said END;
END $$;

-- Spends in day and tenant: out of what the mission holds there, else out of what the call itself holds (h_*), else as it comes.
CREATE FUNCTION spend_above(p_tenant uuid, p_mission uuid, p_day date, h_tokens bigint, h_cost numeric, h_time bigint,
                            s_tokens bigint, s_cost numeric, s_time bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE e public.budget_reservation; d date := p_day; t bigint := h_tokens; c numeric := h_cost; m bigint := h_time; moved boolean;
BEGIN
  IF s_tokens = 0 AND s_cost = 0 AND s_time = 0 AND h_tokens = 0 AND h_cost = 0 AND h_time = 0 THEN RETURN; END IF;
  SELECT * INTO e FROM public.budget_reservation r
    WHERE r.tenant = p_tenant AND r.mission = p_mission AND r.purpose = 'mission' AND r.state = 'reserved' FOR UPDATE;
  IF e.id IS NOT NULL THEN
    d := e.day;
    UPDATE public.budget_reservation r SET
        used_tokens = LEAST(r.tokens, r.used_tokens + s_tokens), used_cost_usd = LEAST(r.cost_usd, r.used_cost_usd + s_cost),
        used_time_ms = LEAST(r.time_ms, r.used_time_ms + s_time)
      WHERE r.tenant = p_tenant AND r.id = e.id
      RETURNING h_tokens + r.used_tokens - e.used_tokens, h_cost + r.used_cost_usd - e.used_cost_usd,
                h_time + r.used_time_ms - e.used_time_ms INTO t, c, m;
  END IF;
  moved := move_budget(p_tenant, 'tenant_day', d::text, false, -t, -c, -m, s_tokens, s_cost, s_time);
  moved := move_budget(p_tenant, 'tenant', p_tenant::text, false, -t, -c, -m, s_tokens, s_cost, s_time);
END $$;

-- Holds an amount for one call of a mission. Answers the reservation's id, or what stands in the way; neither when there is no
-- such mission or it has ended.
CREATE FUNCTION reserve_budget(p_tenant uuid, p_mission uuid, p_tokens bigint, p_cost numeric, p_time bigint, p_purpose text,
                               p_life interval, OUT reservation uuid, OUT lacking jsonb)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE above boolean; today date := budget_day();
BEGIN
  PERFORM require_tenant(p_tenant);
  IF p_purpose IS NULL OR p_purpose = 'mission' OR p_life IS NULL OR p_tokens IS NULL OR p_cost IS NULL OR p_time IS NULL
     OR p_tokens < 0 OR p_cost < 0 OR p_cost = 'NaN' OR p_time < 0 THEN
    RAISE EXCEPTION 'wall: that is nothing to reserve' USING ERRCODE = 'RX005';
  END IF;
  PERFORM 1 FROM public.mission x WHERE x.tenant = p_tenant AND x.id = p_mission
    AND x.state NOT IN ('completed', 'failed', 'cancelled', 'denied') FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN; END IF;
  IF NOT move_budget(p_tenant, 'mission', p_mission::text, true, p_tokens, p_cost, p_time, 0, 0, 0) THEN
    lacking := budget_lacking(p_tenant, 'mission', p_mission::text, p_tokens, p_cost, p_time);
    RETURN;
  END IF;
  above := budget_is_limited(p_tenant);
  IF above THEN
    above := NOT EXISTS (SELECT 1 FROM public.budget_reservation r
      WHERE r.tenant = p_tenant AND r.mission = p_mission AND r.purpose = 'mission' AND r.state = 'reserved');
  END IF;
  IF above THEN
    lacking := hold_above(p_tenant, today, p_tokens, p_cost, p_time);
    IF lacking IS NOT NULL THEN
      PERFORM move_budget(p_tenant, 'mission', p_mission::text, false, -p_tokens, -p_cost, -p_time, 0, 0, 0);
      RETURN;
    END IF;
  END IF;
  INSERT INTO public.budget_reservation (tenant, mission, purpose, day, held_above, tokens, cost_usd, time_ms, expires_at)
    VALUES (p_tenant, p_mission, p_purpose, today, above, p_tokens, p_cost, p_time,
            clock_timestamp() + LEAST(p_life, interval '1 hour')) RETURNING id INTO reservation;
END $$;

-- Ends a reservation with what was really used; p_state released uses nothing. Answers null when it had ended before, else
-- whether the mission is over its budget now and whether it was before.
CREATE FUNCTION end_budget(p_tenant uuid, p_reservation uuid, p_state text, s_tokens bigint, s_cost numeric, s_time bigint,
                           p_calls_ms bigint, OUT is_over boolean, OUT was_over boolean)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE r public.budget_reservation; moved boolean;
BEGIN
  IF s_tokens IS NULL OR s_cost IS NULL OR s_time IS NULL OR p_calls_ms IS NULL
     OR s_tokens < 0 OR s_cost < 0 OR s_cost = 'NaN' OR s_time < 0 OR p_calls_ms < 0 THEN
    RAISE EXCEPTION 'wall: that is no use' USING ERRCODE = 'RX005';
  END IF;
  SELECT * INTO r FROM public.budget_reservation x WHERE x.tenant = p_tenant AND x.id = p_reservation AND x.purpose <> 'mission';
  IF r.id IS NULL THEN RETURN; END IF;
  PERFORM 1 FROM public.mission x WHERE x.tenant = p_tenant AND x.id = r.mission FOR NO KEY UPDATE;
  UPDATE public.budget_reservation x SET state = p_state, ended_at = clock_timestamp(),
      used_tokens = LEAST(x.tokens, s_tokens), used_cost_usd = LEAST(x.cost_usd, s_cost), used_time_ms = LEAST(x.time_ms, s_time)
    WHERE x.tenant = p_tenant AND x.id = p_reservation AND x.state = 'reserved';
  IF NOT FOUND THEN RETURN; END IF;
  was_over := budget_over(p_tenant, r.mission);
  moved := move_budget(p_tenant, 'mission', r.mission::text, false, -r.tokens, -r.cost_usd, -r.time_ms, s_tokens, s_cost, s_time,
                      (p_state <> 'released')::int, p_calls_ms);
  IF r.held_above THEN
    PERFORM spend_above(p_tenant, r.mission, r.day, r.tokens, r.cost_usd, r.time_ms, s_tokens, s_cost, s_time);
  ELSE
    PERFORM spend_above(p_tenant, r.mission, r.day, 0, 0, 0, s_tokens, s_cost, s_time);
  END IF;
  PERFORM note_use(p_tenant, r.mission, s_tokens, s_cost);
  is_over := budget_over(p_tenant, r.mission);
END $$;

-- The mission's row shows what its account says; nobody else writes those two columns.
CREATE FUNCTION note_use(p_tenant uuid, p_mission uuid, s_tokens bigint, s_cost numeric) RETURNS void LANGUAGE sql VOLATILE
SET search_path = pg_catalog, public, pg_temp AS $$
  UPDATE public.mission m SET used_tokens = a.settled_tokens + a.over_tokens, used_cost_usd = a.settled_cost_usd + a.over_cost_usd
  FROM public.budget_account a
  WHERE a.tenant = p_tenant AND a.scope = 'mission' AND a.key = p_mission::text AND m.tenant = p_tenant AND m.id = p_mission
    AND (s_tokens > 0 OR s_cost > 0)
$$;
CREATE FUNCTION budget_over(p_tenant uuid, p_mission uuid) RETURNS boolean LANGUAGE sql VOLATILE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT COALESCE((SELECT a.over_tokens > 0 OR a.over_cost_usd > 0 FROM public.budget_account a
                   WHERE a.tenant = p_tenant AND a.scope = 'mission' AND a.key = p_mission::text), false)
$$;

CREATE FUNCTION settle_budget(p_tenant uuid, p_reservation uuid, p_tokens bigint, p_cost numeric, p_time bigint, p_calls_ms bigint,
                              OUT is_over boolean, OUT was_over boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE e record;
BEGIN
  PERFORM require_tenant(p_tenant);
  e := end_budget(p_tenant, p_reservation, 'settled', p_tokens, p_cost, p_time, p_calls_ms);
  is_over := e.is_over; was_over := e.was_over;
END $$;
CREATE FUNCTION release_budget(p_tenant uuid, p_reservation uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM require_tenant(p_tenant);
  RETURN (SELECT e.was_over IS NOT NULL FROM end_budget(p_tenant, p_reservation, 'released', 0, 0, 0, 0) e);
END $$;

-- Use that was reported afterwards and never reserved: what the colony says that it has used.
CREATE FUNCTION spend_budget(p_tenant uuid, p_mission uuid, p_tokens bigint, p_cost numeric,
                             OUT is_over boolean, OUT was_over boolean, OUT used_tokens bigint, OUT used_cost_usd numeric)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM require_tenant(p_tenant);
  IF p_tokens IS NULL OR p_cost IS NULL OR p_tokens < 0 OR p_cost < 0 OR p_cost = 'NaN' THEN
    RAISE EXCEPTION 'wall: that is no use' USING ERRCODE = 'RX005';
  END IF;
  PERFORM 1 FROM public.mission x WHERE x.tenant = p_tenant AND x.id = p_mission FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN; END IF;
  was_over := budget_over(p_tenant, p_mission);
  PERFORM move_budget(p_tenant, 'mission', p_mission::text, false, 0, 0, 0, p_tokens, p_cost, 0);
  PERFORM spend_above(p_tenant, p_mission, budget_day(), 0, 0, 0, p_tokens, p_cost, 0);
  PERFORM note_use(p_tenant, p_mission, p_tokens, p_cost);
  is_over := budget_over(p_tenant, p_mission);
  SELECT a.settled_tokens + a.over_tokens, a.settled_cost_usd + a.over_cost_usd INTO used_tokens, used_cost_usd
    FROM public.budget_account a WHERE a.tenant = p_tenant AND a.scope = 'mission' AND a.key = p_mission::text;
END $$;

-- The budget of a held mission has just been used up: what the mission says of itself from then on (p_said, with its `until`), the
-- fact, and somebody who ends the attempt when that moment has come. Adds no right: it runs as whoever calls it.
CREATE FUNCTION budget_used_up(p_tenant uuid, p_mission uuid, p_actor text, p_said jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  UPDATE public.mission m SET degraded = p_said
    WHERE m.tenant = p_tenant AND m.id = p_mission AND m.state IN ('accepted', 'dispatched', 'running');
  INSERT INTO public.work (tenant, kind, subject, queue, next_at)
    SELECT p_tenant, 'attempt_timer', p_mission, 'worker', (p_said ->> 'until')::timestamptz FROM public.mission m
    WHERE m.tenant = p_tenant AND m.id = p_mission AND m.state IN ('dispatched', 'running')   -- an accepted one is given its timer
  ON CONFLICT (tenant, kind, subject) DO UPDATE SET wanted = work.wanted + 1, next_at = LEAST(work.next_at, excluded.next_at);
  INSERT INTO public.ledger (tenant, subject, type, actor, body)
    SELECT p_tenant, p_mission, 'budget.exceeded', p_actor, convert_to(jsonb_build_object(
      'used_tokens', a.settled_tokens + a.over_tokens,
      'used_cost_usd', trim_scale(round(a.settled_cost_usd + a.over_cost_usd, 4)))::text, 'UTF8')
    FROM public.budget_account a WHERE a.tenant = p_tenant AND a.scope = 'mission' AND a.key = p_mission::text;
END $$;

-- A mission comes with its whole budget held, or it does not come at all. Tenants without limits pay one look for this.
CREATE FUNCTION hold_for_mission() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE today date := budget_day(); m record; lacking jsonb;
BEGIN
  FOR m IN SELECT f.tenant, f.id, f.budget_tokens, f.budget_cost_usd, f.budget_time_ms FROM fresh f
           -- ARRAY and OFFSET: each tenant is asked for once, where the planner would do it for each mission
           WHERE f.tenant = ANY (ARRAY(SELECT d.tenant FROM (SELECT DISTINCT x.tenant FROM fresh x OFFSET 0) d
                                       WHERE budget_is_limited(d.tenant)))
             AND (f.replay_mode IS NULL OR f.replay_mode = 'rerun')   -- what is played from a tape uses nothing
           ORDER BY f.tenant, f.id LOOP
    PERFORM enter_tenant(m.tenant);
    lacking := hold_above(m.tenant, today, m.budget_tokens, m.budget_cost_usd, m.budget_time_ms);
    IF lacking IS NOT NULL THEN
      RAISE EXCEPTION 'wall: the budget is used up' USING ERRCODE = 'RX020', DETAIL = lacking::text, HINT = m.tenant::text;
    END IF;
    INSERT INTO public.budget_reservation (tenant, mission, purpose, day, held_above, tokens, cost_usd, time_ms)
      VALUES (m.tenant, m.id, 'mission', today, true, m.budget_tokens, m.budget_cost_usd, m.budget_time_ms);
  END LOOP;
  RETURN NULL;
END $$;
CREATE TRIGGER mission_holds AFTER INSERT ON mission REFERENCING NEW TABLE AS fresh
  FOR EACH STATEMENT EXECUTE FUNCTION hold_for_mission();

-- A run that ends is counted, and a mission that ends gives back what it did not use, once: whoever ends it, by whatever door.
-- All missions of a statement together, each step in one statement; day and tenant, which others wait for, are moved once, in one
-- order, and last.
CREATE FUNCTION let_go_of_missions() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE m record; d record;
BEGIN
  FOR m IN   -- side by side: missions, whether they are over, and for how long they ran (null: they did not)
    SELECT e.tenant, array_agg(e.id ORDER BY e.id) AS ids, array_agg(e.closed ORDER BY e.id) AS closed,
      array_agg(e.ran ORDER BY e.id) AS ran, array_agg(e.tokens ORDER BY e.id) AS tokens, array_agg(e.cost ORDER BY e.id) AS cost
    FROM (SELECT x.tenant, x.id, x.tokens, x.cost, x.state IN ('completed', 'failed', 'cancelled', 'denied') AS closed,
            CASE WHEN x.deadline IS NOT NULL AND x.was IN ('accepted', 'dispatched', 'running') THEN
              GREATEST(0, LEAST(x.time_ms, x.time_ms - (EXTRACT(EPOCH FROM x.deadline - clock_timestamp()) * 1000)::bigint)) END AS ran
          FROM (   -- a row as it is and as it was meet in a group: a join might compare each with each
            SELECT y.tenant, y.id, max(y.state) FILTER (WHERE y.new) AS state, max(y.state) FILTER (WHERE NOT y.new) AS was,
              max(y.deadline_at) FILTER (WHERE NOT y.new) AS deadline, max(y.budget_time_ms) AS time_ms,
              max(y.budget_tokens) AS tokens, max(y.budget_cost_usd) AS cost
            FROM (SELECT true AS new, f.tenant, f.id, f.state, f.deadline_at, f.budget_time_ms, f.budget_tokens, f.budget_cost_usd FROM fresh f
                  UNION ALL
                  SELECT false, g.tenant, g.id, g.state, g.deadline_at, g.budget_time_ms, g.budget_tokens, g.budget_cost_usd FROM gone g) y
            GROUP BY y.tenant, y.id) x
          WHERE x.state <> x.was AND x.state NOT IN ('accepted', 'dispatched', 'running')) e
    GROUP BY e.tenant ORDER BY e.tenant
  LOOP
    -- as move_budget() would: the limit that is noted is never below what was held or spent before
    INSERT INTO public.budget_account AS a (tenant, scope, key, settled_time_ms, limit_tokens, limit_cost_usd)
      SELECT m.tenant, 'mission', x.id::text, x.ran, x.tokens, x.cost
      FROM unnest(m.ids, m.ran, m.tokens, m.cost) AS x(id, ran, tokens, cost) WHERE x.ran IS NOT NULL
    ON CONFLICT (tenant, scope, key) DO UPDATE SET settled_time_ms = a.settled_time_ms + excluded.settled_time_ms,
      limit_tokens = GREATEST(excluded.limit_tokens, a.settled_tokens + a.reserved_tokens),
      limit_cost_usd = GREATEST(excluded.limit_cost_usd, a.settled_cost_usd + a.reserved_cost_usd);
    FOR d IN
      WITH ended AS MATERIALIZED (
        SELECT * FROM unnest(m.ids, m.closed, m.ran) AS u(mission, closed, ran) WHERE u.closed OR u.ran > 0),
      use AS MATERIALIZED (    -- out of what the mission holds, each found by the index, else as it comes; whoever moves it holds the mission
        SELECT u.closed, COALESCE(u.ran, 0) AS ran, h.*, LEAST(h.time_ms, h.used_time_ms + COALESCE(u.ran, 0)) AS now_used
        FROM ended u LEFT JOIN LATERAL (
          SELECT r.* FROM public.budget_reservation r
          WHERE r.tenant = m.tenant AND r.mission = u.mission AND r.purpose = 'mission' AND r.state = 'reserved' OFFSET 0) h ON true),
      moved AS (   -- all of them are there: this finds each by its key, where a join might compare each with each
        INSERT INTO public.budget_reservation AS r
          (tenant, id, mission, purpose, day, held_above, tokens, cost_usd, time_ms, used_time_ms, ended_at, state)
        SELECT u.tenant, u.id, u.mission, u.purpose, u.day, u.held_above, u.tokens, u.cost_usd, u.time_ms, u.now_used,
          CASE WHEN u.closed THEN clock_timestamp() END,
          CASE WHEN NOT u.closed THEN 'reserved'
               WHEN u.used_tokens = 0 AND u.used_cost_usd = 0 AND u.now_used = 0 THEN 'released' ELSE 'settled' END
        FROM use u WHERE u.id IS NOT NULL
        ON CONFLICT (tenant, id) DO UPDATE SET used_time_ms = excluded.used_time_ms, ended_at = excluded.ended_at, state = excluded.state)
      SELECT x.day, sum(x.tokens)::bigint AS tokens, sum(x.cost) AS cost, sum(x.held)::bigint AS held, sum(x.spent)::bigint AS spent
      FROM (SELECT COALESCE(u.day, budget_day()), 0, 0, COALESCE(u.used_time_ms - u.now_used, 0), u.ran FROM use u WHERE u.ran > 0
            UNION ALL
            SELECT u.day, u.used_tokens - u.tokens, u.used_cost_usd - u.cost_usd, u.now_used - u.time_ms, 0
            FROM use u WHERE u.closed AND u.id IS NOT NULL) AS x(day, tokens, cost, held, spent)
      GROUP BY GROUPING SETS ((x.day), ()) HAVING count(*) > 0 ORDER BY x.day NULLS LAST
    LOOP
      PERFORM move_budget(m.tenant, CASE WHEN d.day IS NULL THEN 'tenant' ELSE 'tenant_day' END, COALESCE(d.day::text, m.tenant::text),
                          false, d.tokens, d.cost, d.held, 0, 0, d.spent);
    END LOOP;
  END LOOP;
  RETURN NULL;
END $$;
CREATE TRIGGER mission_lets_go AFTER UPDATE ON mission REFERENCING OLD TABLE AS gone NEW TABLE AS fresh
  FOR EACH STATEMENT EXECUTE FUNCTION let_go_of_missions();
ALTER TABLE mission ENABLE ALWAYS TRIGGER mission_holds;
ALTER TABLE mission ENABLE ALWAYS TRIGGER mission_lets_go;

-- Locks the accounts that held missions (side by side with their tenants) share with others, before any of them is moved: tenants in
-- the order of their ids, days before the tenant. Whoever spends for many one after the other calls it first, and meets nobody in a
-- ring; let_go_of_missions() moves them in that order itself.
CREATE FUNCTION hold_budgets(p_tenant uuid[], p_mission uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE t uuid; days text[];
BEGIN
  FOR t IN SELECT DISTINCT x FROM unnest(p_tenant) x ORDER BY x LOOP
    PERFORM set_config('app.tenant', t::text, true);
    days := ARRAY(
      SELECT r.day::text FROM public.budget_reservation r
        WHERE r.tenant = t AND r.mission = ANY (p_mission) AND r.purpose = 'mission' AND r.state = 'reserved'
      UNION   -- calls that are under way, of which there are few at any moment: all of them are looked through
      SELECT r.day::text FROM public.budget_reservation r
        WHERE r.tenant = t AND r.mission = ANY (p_mission) AND r.expires_at > '-infinity' AND r.state = 'reserved'
      UNION SELECT budget_day()::text ORDER BY 1);
    IF (SELECT count(*) FROM public.budget_account a WHERE a.tenant = t
          AND (a.scope = 'tenant' OR a.scope = 'tenant_day' AND a.key = ANY (days))) <= cardinality(days) THEN   -- the first of its day
      INSERT INTO public.budget_account (tenant, scope, key) SELECT t, 'tenant_day', d FROM unnest(days) d ORDER BY d ON CONFLICT DO NOTHING;
      INSERT INTO public.budget_account (tenant, scope, key) VALUES (t, 'tenant', t::text) ON CONFLICT DO NOTHING;
    END IF;
    PERFORM 1 FROM public.budget_account a WHERE a.tenant = t
      AND (a.scope = 'tenant' OR a.scope = 'tenant_day' AND a.key = ANY (days))
      ORDER BY a.scope = 'tenant', a.key FOR UPDATE;
  END LOOP;
END $$;

-- Limits, by an admin who presents their own secret; p_version is the version they have seen (0: none yet).
-- outcome: set · unauthenticated · not_entitled · stale
CREATE FUNCTION put_budget_limits(p_tenant uuid, p_secret text, p_version int, p_limits jsonb)
RETURNS TABLE (outcome text, version int)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE who uuid; present int; n public.budget_limit;
BEGIN
  PERFORM require_tenant(p_tenant);
  who := principal_of(p_tenant, p_secret);
  IF who IS NULL THEN RETURN QUERY SELECT 'unauthenticated', NULL::int; RETURN; END IF;
  IF NOT entitled(p_tenant, who, 'admin') THEN RETURN QUERY SELECT 'not_entitled', NULL::int; RETURN; END IF;
  PERFORM pg_advisory_xact_lock(hashtextextended(p_tenant::text, 20));
  SELECT COALESCE(max(l.version), 0) INTO present FROM public.budget_limit l WHERE l.tenant = p_tenant;
  IF p_version IS DISTINCT FROM present THEN RETURN QUERY SELECT 'stale', present; RETURN; END IF;
  n := jsonb_populate_record(NULL::public.budget_limit, p_limits);
  n.tenant := p_tenant; n.version := present + 1; n.set_by := who; n.set_at := clock_timestamp();
  INSERT INTO public.budget_limit SELECT n.*;
  PERFORM wall_fact(p_tenant, p_tenant, 'budget.limits_changed', 'principal:' || who,
                    jsonb_strip_nulls(to_jsonb(n) - 'tenant' - 'set_by' - 'set_at'));
  RETURN QUERY SELECT 'set', n.version;
END $$;

-- What a crash left behind: reservations nobody settled in their time, budgets of missions that have ended, old history. Whether
-- such a call was made nobody can say any more, and whoever was asked wants their money: all that it held counts as used.
CREATE FUNCTION reconcile_budgets(p_limit int) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  r record; h public.budget_reservation; lost boolean; n int := 0; was text := current_setting('app.tenant', true);
  tenants uuid[] := '{}'; ids uuid[] := '{}'; missions uuid[] := '{}'; holders uuid[] := '{}'; holding uuid[] := '{}';
BEGIN
  FOR r IN SELECT x.tenant, x.id, x.mission, x.tokens > 0 OR x.cost_usd > 0 OR x.time_ms > 0 AS held FROM public.budget_reservation x
           WHERE x.state = 'reserved' AND x.expires_at <= statement_timestamp() ORDER BY x.tenant, x.expires_at LIMIT p_limit LOOP
    PERFORM set_config('app.tenant', r.tenant::text, true);
    PERFORM 1 FROM public.mission m WHERE m.tenant = r.tenant AND m.id = r.mission FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN CONTINUE; END IF;            -- somebody is at it; next time
    tenants := tenants || r.tenant; ids := ids || r.id; missions := missions || r.mission;
    IF r.held THEN holders := holders || r.tenant; holding := holding || r.mission; END IF;
  END LOOP;
  IF cardinality(holding) > 0 THEN      -- of the others only the mission's own account is moved, for which nobody else queues
    PERFORM hold_budgets(holders, holding);
  END IF;
  FOR r IN SELECT u.tenant, u.id, u.mission FROM unnest(tenants, ids, missions) u(tenant, id, mission) ORDER BY 1, 3, 2 LOOP
    PERFORM set_config('app.tenant', r.tenant::text, true);
    SELECT * INTO h FROM public.budget_reservation x WHERE x.tenant = r.tenant AND x.id = r.id;
    lost := h.tokens > 0 OR h.cost_usd > 0 OR h.time_ms > 0;
    IF (SELECT e.was_over IS NOT NULL FROM end_budget(
          h.tenant, h.id, CASE WHEN lost THEN 'presumed' ELSE 'released' END, h.tokens, h.cost_usd, h.time_ms, 0) e) THEN
      n := n + 1;
      IF lost THEN
        PERFORM wall_fact(h.tenant, h.mission, 'budget.presumed', 'system:worker', jsonb_build_object(
          'purpose', h.purpose, 'tokens', h.tokens, 'cost_usd', trim_scale(h.cost_usd)));
      END IF;
    END IF;
  END LOOP;
  -- How a call was accounted for is looked at for a week; the accounts keep the sums.
  FOR r IN SELECT x.tenant, x.id FROM public.budget_reservation x
           WHERE x.ended_at < statement_timestamp() - interval '7 days' AND x.purpose <> 'mission' LIMIT p_limit LOOP
    PERFORM set_config('app.tenant', r.tenant::text, true);
    DELETE FROM public.budget_reservation x WHERE x.tenant = r.tenant AND x.id = r.id;
    n := n + 1;
  END LOOP;
  PERFORM set_config('app.tenant', COALESCE(was, ''), true);
  RETURN n;
END $$;

REVOKE ALL ON FUNCTION guard_budget_reservation(), guard_budget_account(), budget_limit_now(uuid, text, text),
  move_budget(uuid, text, text, boolean, bigint, numeric, bigint, bigint, numeric, bigint, int, bigint),
  budget_lacking(uuid, text, text, bigint, numeric, bigint), budget_day(), budget_is_limited(uuid),
  hold_above(uuid, date, bigint, numeric, bigint), budget_would_lack(uuid, bigint, numeric, bigint),
  spend_above(uuid, uuid, date, bigint, numeric, bigint, bigint, numeric, bigint),
  reserve_budget(uuid, uuid, bigint, numeric, bigint, text, interval),
  end_budget(uuid, uuid, text, bigint, numeric, bigint, bigint), note_use(uuid, uuid, bigint, numeric), budget_over(uuid, uuid),
  settle_budget(uuid, uuid, bigint, numeric, bigint, bigint), release_budget(uuid, uuid), spend_budget(uuid, uuid, bigint, numeric),
  hold_for_mission(), let_go_of_missions(), hold_budgets(uuid[], uuid[]), budget_used_up(uuid, uuid, text, jsonb), put_budget_limits(uuid, text, int, jsonb),
  reconcile_budgets(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION budget_would_lack(uuid, bigint, numeric, bigint),
  reserve_budget(uuid, uuid, bigint, numeric, bigint, text, interval),
  settle_budget(uuid, uuid, bigint, numeric, bigint, bigint), release_budget(uuid, uuid), spend_budget(uuid, uuid, bigint, numeric),
  put_budget_limits(uuid, text, int, jsonb) TO {prefix}_api;
GRANT EXECUTE ON FUNCTION reconcile_budgets(int) TO {prefix}_worker;
GRANT EXECUTE ON FUNCTION hold_budgets(uuid[], uuid[]), budget_used_up(uuid, uuid, text, jsonb) TO {prefix}_api;
