"""Recomputing every hash of a tenant's chains where the bytes are stored."""

from dataclasses import dataclass

from sqlalchemy import text

from app.db import ReadSession


@dataclass(frozen=True)
class Verdict:
    """What verification found; first_bad is the first fact, in reading order, that does not fit its chain."""

    verified: bool
    facts: int
    subjects: int
    first_bad: dict[str, object] | None


VERIFY = text("""
  WITH chained AS (
    SELECT xid, id, subject, seq, type,
           row_number() OVER chain AS expected,
           prev = COALESCE(lag(hash) OVER chain, '\\x'::bytea) AS linked,
           hash = fact_hash(prev, tenant, subject, seq, type, actor, at, body) AS whole,
           -- positions are this cluster's, so that no hash holds them: readers must at least meet a chain in its order
           COALESCE((xid, id) > (lag(xid) OVER chain, lag(id) OVER chain), true)
             AND xid < pg_snapshot_xmax(pg_current_snapshot()) AS placed
    FROM ledger WHERE tenant = :tenant
    WINDOW chain AS (PARTITION BY subject ORDER BY seq))
  SELECT count(*) AS facts, count(DISTINCT subject) AS subjects,
         (SELECT to_jsonb(b) FROM (SELECT subject, seq, type,
              CASE WHEN seq <> expected THEN 'a fact before it is missing' WHEN NOT linked THEN 'does not follow its predecessor'
                   WHEN NOT whole THEN 'its content does not match its hash' ELSE 'readers would not meet it in order' END AS finding
            FROM chained WHERE seq <> expected OR NOT linked OR NOT whole OR NOT placed ORDER BY xid, id LIMIT 1) b) AS first_bad
  FROM chained""")


async def verify(session: ReadSession) -> Verdict:
    """Checks order, links and hashes of all chains of the session's tenant."""
    row = await session.first(VERIFY, {"tenant": session.tenant})
    assert row is not None
    return Verdict(row.first_bad is None, row.facts, row.subjects, row.first_bad)
