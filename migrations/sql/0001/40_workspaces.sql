-- Documents as they were ingested, the passages they are searched by, and how often each word occurs in a workspace.

CREATE TABLE workspace (
  tenant uuid NOT NULL REFERENCES tenant,
  id uuid NOT NULL,
  name text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, id),
  UNIQUE (tenant, name)
);

CREATE TABLE document (                -- one row per version; at most one version of a path is current
  tenant uuid NOT NULL,
  id uuid NOT NULL,
  workspace uuid NOT NULL,
  path text NOT NULL CHECK (octet_length(path) BETWEEN 1 AND 500),
  version int NOT NULL CHECK (version >= 1),
  title text NOT NULL CHECK (length(title) <= 300),
  kind text NOT NULL CHECK (kind IN ('markdown', 'rst', 'html', 'pdf', 'text')),
  content_sha256 bytea NOT NULL CHECK (length(content_sha256) = 32),   -- the uploaded bytes
  source_sha256 bytea NOT NULL,                                        -- the text extracted from them: what is cited
  bytes bigint NOT NULL CHECK (bytes > 0),                             -- of the extracted text
  passages int NOT NULL CHECK (passages > 0),
  reader int NOT NULL CHECK (reader >= 1),                             -- which version of the extraction read it
  ingested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  written_at timestamptz CHECK (written_at <= ingested_at),            -- last changed, as far as anybody said; null: nobody did
  state text NOT NULL DEFAULT 'current' CHECK (state IN ('current', 'replaced', 'removed')),
  retired_at timestamptz,
  PRIMARY KEY (tenant, id),
  UNIQUE (tenant, workspace, path, version),
  UNIQUE (tenant, workspace, id),
  FOREIGN KEY (tenant, workspace) REFERENCES workspace (tenant, id),
  FOREIGN KEY (tenant, source_sha256) REFERENCES blob (tenant, sha256),
  CHECK ((state = 'current') = (retired_at IS NULL))
);
CREATE UNIQUE INDEX document_current ON document (tenant, workspace, path) WHERE state = 'current';
CREATE INDEX document_source ON document (tenant, source_sha256);

-- How far a workspace's sources are trusted: rules by path, first match counts, in versions that never change. Kept by tenants'
-- people, read by every review.
CREATE TABLE workspace_trust (
  tenant uuid NOT NULL,
  workspace uuid NOT NULL,
  version int NOT NULL CHECK (version >= 1),
  rules jsonb NOT NULL CHECK (jsonb_typeof(rules) = 'array' AND jsonb_array_length(rules) <= 100
    AND octet_length(rules::text) <= 65536),                           -- [{"of": documents|records, "pattern", "trust"}]
  created_by uuid NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant, workspace, version),
  FOREIGN KEY (tenant, workspace) REFERENCES workspace (tenant, id),
  FOREIGN KEY (tenant, created_by) REFERENCES principal (tenant, id)
);
CREATE TRIGGER workspace_trust_keep BEFORE UPDATE OR DELETE ON workspace_trust FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER workspace_trust_whole BEFORE TRUNCATE ON workspace_trust FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE workspace_trust ENABLE ALWAYS TRIGGER workspace_trust_keep;
ALTER TABLE workspace_trust ENABLE ALWAYS TRIGGER workspace_trust_whole;
ALTER TABLE workspace_trust ENABLE ROW LEVEL SECURITY;
ALTER TABLE workspace_trust FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON workspace_trust USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid);
GRANT SELECT, INSERT ON workspace_trust TO {prefix}_api;
GRANT SELECT ON workspace_trust TO {prefix}_worker, {prefix}_auditor;

-- What a text is found by: English stems of its words (names such as max_overflow, app.db and QueuePool taken apart),
-- and each such name once more as a whole, in lower case. Passages and questions go through this same function.
CREATE FUNCTION search_lexemes(p_text text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT to_tsvector('pg_catalog.english', translate(p_text, '._/:-@<>&', repeat(' ', 9)))
      || to_tsvector('pg_catalog.english', COALESCE(string_agg(regexp_replace(n.name, '([a-z0-9])([A-Z])', '\1 \2', 'g'), ' ')
                                                    FILTER (WHERE n.name ~ '[a-z0-9][A-Z]'), ''))
      || array_to_tsvector(COALESCE(array_agg(DISTINCT lower(n.name)) FILTER (WHERE n.name ~ '[._:/-]'), '{}'))
  FROM (SELECT left(m[1], 100) AS name FROM regexp_matches(
    p_text, '([A-Za-z0-9]+(?:(?:[._]+|-|::|/)[A-Za-z0-9]+)+|[A-Za-z0-9]*[a-z0-9][A-Z][A-Za-z0-9]*)', 'g') m) n
$$;

-- Weights: A its own section's title, B the titles of the sections around that one, D its text. The workspace is a lexeme
-- too, so that the index itself keeps workspaces and tenants apart.
CREATE FUNCTION passage_lexemes(p_workspace uuid, p_heading text, p_body text) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE v_section text := regexp_replace(p_heading, '^.* > ', '');
BEGIN
  RETURN setweight(public.search_lexemes(v_section), 'A')
      || setweight(public.search_lexemes(left(p_heading, length(p_heading) - length(v_section))), 'B')
      || public.search_lexemes(p_body) || array_to_tsvector(ARRAY['=' || p_workspace::text]);
END $$;

CREATE TABLE passage (                 -- of current documents only; bytes [start_byte, end_byte) of the document's source
  tenant uuid NOT NULL,
  workspace uuid NOT NULL,
  document uuid NOT NULL,
  ordinal int NOT NULL CHECK (ordinal >= 0),
  start_byte bigint NOT NULL CHECK (start_byte >= 0),
  end_byte bigint NOT NULL,
  heading text NOT NULL,
  body text NOT NULL,
  lexemes tsvector NOT NULL GENERATED ALWAYS AS (passage_lexemes(workspace, heading, body)) STORED,
  PRIMARY KEY (tenant, document, ordinal),
  FOREIGN KEY (tenant, workspace, document) REFERENCES document (tenant, workspace, id),
  CHECK (end_byte - start_byte = octet_length(body))
);
-- Ranking reads the lexemes of thousands of passages: in the row and uncompressed that is one page read each.
ALTER TABLE passage ALTER COLUMN lexemes SET STORAGE EXTERNAL, ALTER COLUMN body SET STORAGE EXTERNAL;
ALTER TABLE passage SET (toast_tuple_target = 8160);
CREATE INDEX passage_lexemes ON passage USING gin (lexemes);

CREATE TABLE passage_term (            -- in how many passages of a workspace a lexeme occurs; kept by the trigger below
  tenant uuid NOT NULL,
  workspace uuid NOT NULL,
  lexeme text NOT NULL,
  passages int NOT NULL CHECK (passages >= 0),
  PRIMARY KEY (tenant, workspace, lexeme)
) WITH (fillfactor = 70);
CREATE INDEX passage_term_like ON passage_term USING gin (lexeme gin_trgm_ops);

CREATE FUNCTION count_terms() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  INSERT INTO public.passage_term AS t (tenant, workspace, lexeme, passages)
    SELECT c.tenant, c.workspace, l, count(*) FROM changed c, unnest(tsvector_to_array(c.lexemes)) l
    GROUP BY c.tenant, c.workspace, l ORDER BY c.tenant, c.workspace, l   -- one order for all: no deadlocks
    ON CONFLICT (tenant, workspace, lexeme) DO UPDATE SET passages = t.passages + EXCLUDED.passages;
  RETURN NULL;
END $$;
CREATE FUNCTION uncount_terms() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  UPDATE public.passage_term t SET passages = t.passages - gone.passages
    FROM (SELECT c.tenant, c.workspace, l AS lexeme, count(*) AS passages
          FROM changed c, unnest(tsvector_to_array(c.lexemes)) l GROUP BY c.tenant, c.workspace, l) gone
    WHERE t.tenant = gone.tenant AND t.workspace = gone.workspace AND t.lexeme = gone.lexeme;
  RETURN NULL;
END $$;
CREATE TRIGGER passage_counted AFTER INSERT ON passage REFERENCING NEW TABLE AS changed
  FOR EACH STATEMENT EXECUTE FUNCTION count_terms();
CREATE TRIGGER passage_uncounted AFTER DELETE ON passage REFERENCING OLD TABLE AS changed
  FOR EACH STATEMENT EXECUTE FUNCTION uncount_terms();

-- One lexeme as a query that matches exactly it.
CREATE FUNCTION lexeme_query(p_lexeme text) RETURNS tsquery
LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
RETURN ('''' || replace(replace(p_lexeme, '\', '\\'), '''', '''''') || '''')::tsquery;

-- The passages of a workspace that answer a question best, at most 50. Runs as the owner, because row-level security
-- keeps the text search operators from the index; so the tenant is checked first and asked for in every read.
--
-- A word counts by its rarity in the workspace (as in BM25) times ts_rank's saturating measure of how often and where it
-- stands. Passages that hold more of the question, and neighbouring words of it next to each other, come first; release
-- notes and change logs, which mention everything, come a little later. A word that occurs nowhere stands for the most
-- similar ones that do. Only passages with at least one of the rarer words are ranked, which bounds the work.
CREATE FUNCTION search_passages(p_tenant uuid, p_workspace text, p_query text, p_limit int)
RETURNS TABLE (source text, document text, title text, heading text, start_byte bigint, end_byte bigint, body text, score float8)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET jit = off AS $$
#variable_conflict use_column
DECLARE
  v_workspace uuid;
  v_scope text;
  v_total float8;                      -- passages in the workspace
  v_asked tsvector := public.search_lexemes(left(p_query, 2000));
  v_words tsquery[]; v_worth float8[];
  v_pairs tsquery[]; v_pair_worth float8[];
  v_candidates tsquery;
BEGIN
  PERFORM public.require_tenant(p_tenant);
  SELECT w.id INTO v_workspace FROM public.workspace w WHERE w.tenant = p_tenant AND w.name = p_workspace;
  v_scope := '=' || v_workspace::text;
  SELECT t.passages INTO v_total FROM public.passage_term t
    WHERE t.tenant = p_tenant AND t.workspace = v_workspace AND t.lexeme = v_scope;

  WITH asked AS (
    SELECT a.lexeme, COALESCE(t.passages, 0) AS passages FROM unnest(v_asked) a LEFT JOIN public.passage_term t
      ON t.tenant = p_tenant AND t.workspace = v_workspace AND t.lexeme = a.lexeme
  ), known AS (
    SELECT a.lexeme, a.passages, 1.0::float8 AS likeness FROM asked a WHERE a.passages > 0
    UNION ALL
    SELECT n.* FROM asked a CROSS JOIN LATERAL (
      SELECT t.lexeme, t.passages, similarity(t.lexeme, a.lexeme)::float8 AS likeness FROM public.passage_term t
      WHERE t.lexeme % a.lexeme AND t.tenant = p_tenant AND t.workspace = v_workspace AND t.passages > 0
      ORDER BY likeness DESC, t.passages DESC LIMIT 3) n
    WHERE a.passages = 0 AND length(a.lexeme) BETWEEN 4 AND 60 AND n.likeness >= 0.4
  ), valued AS (
    SELECT k.lexeme, max(k.passages) AS passages,
           max(k.likeness * ln(1 + (v_total - k.passages + 0.5) / (k.passages + 0.5))) AS worth
    FROM known k GROUP BY k.lexeme ORDER BY worth DESC LIMIT 32
  ), rarest_first AS (
    SELECT v.*, sum(v.passages) OVER (ORDER BY v.passages, v.lexeme) - v.passages AS before FROM valued v
  )
  SELECT array_agg(public.lexeme_query(r.lexeme)), array_agg(r.worth),
         public.lexeme_query(v_scope)
           && string_agg(public.lexeme_query(r.lexeme)::text, ' | ') FILTER (WHERE r.before < 3000)::tsquery
    INTO v_words, v_worth, v_candidates FROM rarest_first r;

  WITH placed AS (
    SELECT a.lexeme, p.at, ln(1 + (v_total - t.passages + 0.5) / (t.passages + 0.5)) AS worth
    FROM unnest(v_asked) a CROSS JOIN unnest(a.positions) p (at) JOIN public.passage_term t
      ON t.tenant = p_tenant AND t.workspace = v_workspace AND t.lexeme = a.lexeme
  )
  SELECT array_agg(tsquery_phrase(lexeme_query(a.lexeme), lexeme_query(b.lexeme))
                   || tsquery_phrase(lexeme_query(a.lexeme), lexeme_query(b.lexeme), 2)
                   || tsquery_phrase(lexeme_query(b.lexeme), lexeme_query(a.lexeme))),
         array_agg(LEAST(a.worth, b.worth))
    INTO v_pairs, v_pair_worth FROM placed a JOIN placed b ON b.at - a.at BETWEEN 1 AND 3 AND b.lexeme <> a.lexeme
    WHERE NOT EXISTS (SELECT FROM placed c WHERE c.at > a.at AND c.at < b.at);

  RETURN QUERY
  WITH matched AS (
    SELECT p.document, p.ordinal, p.end_byte - p.start_byte AS size, said.*
    FROM public.passage p CROSS JOIN LATERAL (
      SELECT sum(f.worth * f.rank) AS weight, COALESCE(sum(f.worth) FILTER (WHERE f.rank > 0), 0) / sum(f.worth) AS share
      FROM (SELECT w.worth, ts_rank('{0.7, 0.7, 0.5, 1.0}', p.lexemes, w.word) AS rank
            FROM unnest(v_words, v_worth) w (word, worth)) f) said
    WHERE p.lexemes @@ v_candidates AND p.tenant = p_tenant
  ), ranked AS (
    SELECT m.document, m.ordinal, m.weight * sqrt(m.share) / (0.85 + 0.15 * m.size / 650) AS score
    FROM matched m ORDER BY score DESC LIMIT 300
  ), weighed AS (
    SELECT r.document, r.ordinal,
           (r.score + 0.3 * COALESCE((SELECT sum(q.worth) FROM unnest(v_pairs, v_pair_worth) q (pair, worth)
                                      WHERE p.lexemes @@ q.pair), 0))
           * CASE WHEN d.path ~* '(^|[/_-])(releases?|changelog|changes|history|news|whats_?new)([/_.0-9-]|$)'
                  THEN 0.8 ELSE 1 END AS score,
           d.source_sha256, d.path, d.title, p.heading, p.start_byte, p.end_byte, p.body
    FROM ranked r
    JOIN public.passage p ON p.tenant = p_tenant AND p.document = r.document AND p.ordinal = r.ordinal
    JOIN public.document d ON d.tenant = p_tenant AND d.id = r.document
  )
  SELECT encode(w.source_sha256, 'hex'), w.path, w.title, w.heading, w.start_byte, w.end_byte, w.body, w.score
  FROM weighed w ORDER BY w.score DESC, w.path, w.ordinal LIMIT LEAST(GREATEST(p_limit, 1), 50);
END $$;

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['workspace', 'document', 'passage', 'passage_term'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format($p$CREATE POLICY own_tenant ON %I
      USING (tenant = NULLIF(current_setting('app.tenant', true), '')::uuid)$p$, t);
    -- search_passages() reads them all, the triggers keep passage_term; both check or carry the tenant themselves
    EXECUTE format('CREATE POLICY search ON %I TO {prefix}_owner USING (true)', t);
  END LOOP;
END $$;
GRANT SELECT, INSERT ON workspace, document TO {prefix}_api;
GRANT UPDATE (state, retired_at) ON document TO {prefix}_api;
GRANT SELECT, INSERT, DELETE ON passage TO {prefix}_api;
GRANT SELECT ON workspace, document TO {prefix}_worker, {prefix}_auditor;

REVOKE ALL ON FUNCTION search_lexemes(text), passage_lexemes(uuid, text, text), lexeme_query(text), count_terms(), uncount_terms(),
  search_passages(uuid, text, text, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION search_lexemes(text), passage_lexemes(uuid, text, text), search_passages(uuid, text, text, int)
  TO {prefix}_api;
