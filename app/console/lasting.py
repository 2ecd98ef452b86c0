"""Whether what was written lasted, or a later change of the same record set one of the same fields to something else."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from app.db import ReadSession

MOST_WRITTEN, MOST_BYTES = 4_000, 32 * 1024 * 1024
# Payloads are canonical: two values are the same when their text is. Only ids leave the database.
OVERWRITTEN = text("""
  WITH written AS (
    SELECT w.*, sum(octet_length(w.payload)) OVER (ORDER BY w.created_at DESC, w.id DESC) AS bytes FROM (
      SELECT l.id, l.connector, l.target, l.created_at, l.payload
      FROM writeback l JOIN execution e ON e.tenant = l.tenant AND e.writeback = l.id AND e.state = 'succeeded'
      WHERE l.tenant = :tenant AND l.created_at >= :since
        AND (l.connector, l.target) IN (SELECT * FROM unnest(CAST(:connectors AS text[]), CAST(:targets AS text[])))
      ORDER BY l.created_at DESC, l.id DESC LIMIT :most) w),
  said AS (
    SELECT w.id, f.value, min(f.value) OVER later AS lowest, max(f.value) OVER later AS highest
    FROM written w CROSS JOIN LATERAL (
      SELECT key, encode(sha256(convert_to(value::text, 'UTF8')), 'hex') AS value
      FROM json_each(convert_from(w.payload, 'UTF8')::json -> 'changes')) f
    WHERE w.bytes <= :bytes
    -- the newest first: a frame that begins at the first row grows, and one that ends at the last would be added up for each row
    WINDOW later AS (PARTITION BY w.connector, w.target, f.key ORDER BY w.created_at DESC, w.id DESC
                     ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING))
  SELECT DISTINCT id FROM said WHERE value <> lowest OR value <> highest""")


async def overwritten(session: ReadSession, records: Iterable[tuple[str, str]], since: datetime) -> set[UUID]:
    """Which of the changes that were written to these records since then did not last. records: connector and target.

    Bounded: the newest MOST_WRITTEN changes of these records are looked at, and of those the newest MOST_BYTES.
    """
    wanted = sorted(set(records))
    asked = {
        "tenant": session.tenant,
        "since": since,
        "connectors": [connector for connector, _ in wanted],
        "targets": [target for _, target in wanted],
        "most": MOST_WRITTEN,
        "bytes": MOST_BYTES,
    }
    return {row.id for row in await session.rows(OVERWRITTEN, asked)} if wanted else set()
