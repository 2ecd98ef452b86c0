-- Request rates that hold across processes: one bucket per subject, refilled by the server's clock. Processes take small
-- leases out of it. Unlogged: after a crash of the server every bucket is full again, and that is all that is lost.
-- No tenant: failed authentications are counted before any is known. A subject is a digest; no key and no address stands here.

CREATE UNLOGGED TABLE rate_bucket (
  scope text NOT NULL CHECK (length(scope) <= 40),
  subject bytea NOT NULL CHECK (length(subject) = 16),
  tokens double precision NOT NULL CHECK (tokens >= 0),
  granted int NOT NULL CHECK (granted >= 0),        -- by the last statement; how it learns what it was given
  at timestamptz NOT NULL,
  PRIMARY KEY (scope, subject)
) WITH (fillfactor = 50);
CREATE INDEX rate_bucket_age ON rate_bucket (at);

-- Takes up to p_want tokens from each bucket, of many callers at once. p_rate: tokens a second (0: no limit), p_burst_s: how many
-- seconds' worth a full bucket holds. The limits of p_tenant win over what the process asks with. p_want null: a tenth of a second's
-- worth. n: which of the buckets asked for; granted: how many were there; remaining: what is left; wait_s: until there is one more.
-- The clock may jump: back by up to a minute fills nothing until it has caught up; forward fills no more than the bucket.
CREATE FUNCTION take_tokens(p_tenant uuid[], p_scope text[], p_subject bytea[], p_rate double precision[], p_burst_s double precision[],
                            p_want int[])
RETURNS TABLE (n int, rate double precision, capacity double precision, granted int, remaining double precision, wait_s double precision)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE b record; had public.rate_bucket; moment timestamptz; want int;
BEGIN
  -- in one order, or two processes would wait for each other
  FOR b IN SELECT u.i, u.s, u.x, u.b, u.w, COALESCE(CASE u.s WHEN 'key' THEN l.rate_key_per_s WHEN 'principal' THEN l.rate_principal_per_s
                                                             WHEN 'tenant' THEN l.rate_tenant_per_s END, u.r) AS r
           FROM unnest(p_tenant, p_scope, p_subject, p_rate, p_burst_s, p_want) WITH ORDINALITY AS u (t, s, x, r, b, w, i)
             LEFT JOIN LATERAL (SELECT y.* FROM public.budget_limit y WHERE y.tenant = u.t ORDER BY y.version DESC LIMIT 1) l ON true
           ORDER BY u.s, u.x, u.i LOOP
    n := b.i; rate := b.r;
    IF rate <= 0 THEN
      rate := 0; capacity := 0; granted := 0; remaining := 0; wait_s := 0;
      RETURN NEXT;
      CONTINUE;
    END IF;
    capacity := GREATEST(1, rate * b.b);
    want := LEAST(COALESCE(b.w, CEIL(rate / 10)), 10000)::int;
    moment := clock_timestamp();
    INSERT INTO public.rate_bucket AS k (scope, subject, tokens, granted, at)
      VALUES (b.s, b.x, capacity - LEAST(want, floor(capacity)), LEAST(want, floor(capacity))::int, moment)
      ON CONFLICT (scope, subject) DO UPDATE SET
        granted = LEAST(want, floor(LEAST(capacity, k.tokens + rate * GREATEST(0, EXTRACT(EPOCH FROM excluded.at - k.at)))))::int,
        tokens = LEAST(capacity, k.tokens + rate * GREATEST(0, EXTRACT(EPOCH FROM excluded.at - k.at)))
                 - LEAST(want, floor(LEAST(capacity, k.tokens + rate * GREATEST(0, EXTRACT(EPOCH FROM excluded.at - k.at))))),
        at = CASE WHEN k.at - excluded.at > interval '1 minute' THEN excluded.at ELSE GREATEST(k.at, excluded.at) END
      RETURNING k.* INTO had;
    granted := had.granted; remaining := had.tokens;
    wait_s := CASE WHEN had.granted > 0 THEN 0
                   ELSE (1 - had.tokens) / rate + GREATEST(0, EXTRACT(EPOCH FROM had.at - moment)) END;
    RETURN NEXT;
  END LOOP;
END $$;

-- Buckets nobody asked for in an hour are full again anyway.
CREATE FUNCTION sweep_rates(p_limit int) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE n int;
BEGIN
  DELETE FROM public.rate_bucket WHERE ctid = ANY (ARRAY(
    SELECT x.ctid FROM public.rate_bucket x WHERE x.at < statement_timestamp() - interval '1 hour' LIMIT p_limit FOR UPDATE SKIP LOCKED));
  GET DIAGNOSTICS n = ROW_COUNT;
  RETURN n;
END $$;

REVOKE ALL ON FUNCTION take_tokens(uuid[], text[], bytea[], double precision[], double precision[], int[]), sweep_rates(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION take_tokens(uuid[], text[], bytea[], double precision[], double precision[], int[])
  TO {prefix}_api, {prefix}_registrar;
GRANT EXECUTE ON FUNCTION sweep_rates(int) TO {prefix}_worker;
