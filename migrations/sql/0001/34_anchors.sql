-- Anchors of the ledger are kept outside Postgres. Here is only that every tenant is looked after.

-- Puts back the work row of each tenant that has none; answers how many. Idempotent: a row that is there stays as it is.
CREATE FUNCTION restore_anchor_work() RETURNS int
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH restored AS (
    INSERT INTO public.work (tenant, kind, subject, queue)
    SELECT t.id, 'anchor', t.id, 'worker' FROM public.tenant t
    WHERE NOT EXISTS (SELECT 1 FROM public.work w WHERE w.tenant = t.id AND w.kind = 'anchor' AND w.subject = t.id)
    LIMIT 5000
    ON CONFLICT (tenant, kind, subject) DO NOTHING RETURNING 1)
  SELECT count(*)::int FROM restored
$$;
REVOKE ALL ON FUNCTION restore_anchor_work() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION restore_anchor_work() TO {prefix}_worker;
