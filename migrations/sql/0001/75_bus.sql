-- How far the ledger was handed to the message bus, who does it, and what came of it. One row for the whole installation.

CREATE TABLE bus (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  after_xid xid8 NOT NULL DEFAULT '0',  -- reading position: every fact up to here is on the bus
  after_id bigint NOT NULL DEFAULT 0,
  fence bigint NOT NULL DEFAULT 0,      -- grows with every holder; nobody moves the row under an old one
  lease_until timestamptz,              -- null: anybody may take it
  state text NOT NULL DEFAULT 'off' CHECK (state IN ('off', 'up', 'down')),
  detail text CHECK (length(detail) <= 200),
  heard_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  stream_made timestamptz,              -- which stream the position speaks of: the bus's own word for when it was made
  stream_seq bigint NOT NULL DEFAULT 0 CHECK (stream_seq >= 0)  -- the last number it has acknowledged
);
INSERT INTO bus DEFAULT VALUES;

GRANT SELECT ON bus TO {prefix}_worker;
GRANT UPDATE (after_xid, after_id, fence, lease_until, state, detail, heard_at, stream_made, stream_seq) ON bus TO {prefix}_worker;
GRANT SELECT (state, detail, heard_at) ON bus TO {prefix}_api;
