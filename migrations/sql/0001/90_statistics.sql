-- What the planner believes of tables that nobody has analysed yet (record 0070). A database that is a minute old has no statistics, and
-- a plan is made once for a session: with PostgreSQL's own guess (a tenant has the 200th part of few rows) every index that begins
-- with the tenant costs the same, and one was taken that reads all of a tenant's rows for the one that is meant. So it is told: one
-- tenant has everything, any other id is found once, and one that may be missing mostly is. The first ANALYZE puts what is true in its place.
DO $$
DECLARE c record;
BEGIN
  FOR c IN SELECT t.relname::text AS of_table, a.attname::text AS name, a.attnotnull AS always FROM pg_class t JOIN pg_attribute a ON a.attrelid = t.oid
           WHERE t.relkind = 'r' AND t.relnamespace = 'public'::regnamespace AND a.atttypid = 'uuid'::regtype AND NOT a.attisdropped LOOP
    PERFORM pg_restore_attribute_stats('schemaname', 'public', 'relname', c.of_table, 'attname', c.name, 'inherited', false,
      'null_frac', CASE WHEN c.always THEN 0 ELSE 0.9 END::real, 'avg_width', 16, 'n_distinct', CASE c.name WHEN 'tenant' THEN 1 ELSE -1 END::real);
  END LOOP;
END $$;
