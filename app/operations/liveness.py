"""The liveness invariant: a mission that is not closed has a lease, a timer, or a human to wait for."""

from typing import Any

from sqlalchemy import text

from app.clock import iso
from app.db import ReadSession

VIOLATORS = text("""
  SELECT m.id, m.state, m.updated_at FROM mission m
  WHERE m.tenant = :tenant AND m.state IN ('accepted', 'dispatched', 'running', 'in_review', 'awaiting_approval', 'executing')
    AND m.updated_at < clock_timestamp() - interval '5 seconds'
    AND NOT EXISTS (SELECT 1 FROM work w WHERE w.tenant = m.tenant AND w.subject = m.id)
    AND NOT EXISTS (SELECT 1 FROM approval a WHERE a.tenant = m.tenant AND a.mission = m.id AND a.state = 'pending')
    AND NOT EXISTS (SELECT 1 FROM work w JOIN writeback b ON b.tenant = w.tenant AND b.id = w.subject
                    WHERE w.tenant = m.tenant AND b.mission = m.id)
  ORDER BY m.updated_at LIMIT 100""")


async def violators(session: ReadSession) -> list[dict[str, Any]]:
    """Open missions of the session's tenant that nothing would ever move again."""
    rows = await session.rows(VIOLATORS, {"tenant": session.tenant})
    return [{"mission_id": row.id, "state": row.state, "since": iso(row.updated_at)} for row in rows]
