"""The liveness invariant: every open mission waits for exactly one thing, and that thing is there.

What a mission waits for is said by its state, and is one of three: a live lease, a timer, a pending approval.

    accepted              a timer: work of kind `dispatch`, `ask` or `replay`
    dispatched, running   the lease of its attempt
    in_review             a timer: work of kind `review`
    awaiting_approval     a pending approval; or, while something stale may still be renewed, a timer: `progress`
    executing             a timer: work of kind `execute` for one of its changes, or `progress`

A lease and an approval end by the clock, so each comes with a work row that looks at the clock for it (`attempt_timer`,
`approval_timer`). That row is part of the lease or the approval, not a second thing that is waited for; without it the lease
would never be found to have ended, so a lease or an approval whose row is lost counts as missing.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.clock import iso
from app.db import Database, ReadSession
from app.missions.moves import OPEN

BITE = 2000  # missions of one statement


def work_of(*kinds: str) -> str:
    """The condition that a mission m has work of one of these kinds."""
    named = ", ".join(f"'{kind}'" for kind in kinds)
    return f"EXISTS (SELECT 1 FROM work w WHERE w.tenant = m.tenant AND w.kind IN ({named}) AND w.subject = m.id)"  # noqa: S608


PENDING = """EXISTS (SELECT 1 FROM approval a WHERE a.tenant = m.tenant AND a.mission = m.id AND a.state = 'pending'
      AND EXISTS (SELECT 1 FROM work w WHERE w.tenant = m.tenant AND w.kind = 'approval_timer' AND w.subject = a.id))"""
EXECUTING = """EXISTS (SELECT 1 FROM writeback b JOIN work w ON w.tenant = b.tenant AND w.kind = 'execute' AND w.subject = b.id
      WHERE b.tenant = m.tenant AND b.mission = m.id)"""
LEASE = f"m.lease_until IS NOT NULL AND m.deadline_at IS NOT NULL AND {work_of('attempt_timer')}"

# state -> what is wrong when it does not hold, and when it holds
WAITS_FOR: dict[str, tuple[str, str]] = {
    "accepted": ("no_dispatch", work_of("dispatch", "ask", "replay")),
    "dispatched": ("no_lease", LEASE),
    "running": ("no_lease", LEASE),
    "in_review": ("no_review", work_of("review")),
    "awaiting_approval": ("no_approval", f"({PENDING} OR {work_of('progress')})"),
    "executing": ("no_execution", f"({EXECUTING} OR {work_of('progress')})"),
}
assert set(WAITS_FOR) == OPEN

# A bite of the missions of one state, in the order of an index, and which of them wait for nothing. The last row says where the
# next bite begins.
LOOK = {
    state: text(f"""
      WITH bite AS MATERIALIZED (
        SELECT * FROM mission m WHERE m.tenant = :tenant AND m.state = '{state}'
          AND (m.created_at, m.id) > (CAST(:at AS timestamptz), CAST(:id AS uuid)) ORDER BY m.created_at, m.id LIMIT {BITE})
      SELECT m.id, m.created_at, m.updated_at, (SELECT count(*) FROM bite) AS seen,
        CAST(:patience AS interval) < clock_timestamp() - m.updated_at AND NOT ({holds}) AS stuck
      FROM bite m
      WHERE m.id = (SELECT l.id FROM bite l ORDER BY l.created_at DESC, l.id DESC LIMIT 1)
         OR (CAST(:patience AS interval) < clock_timestamp() - m.updated_at AND NOT ({holds}))
      ORDER BY m.created_at, m.id""")  # noqa: S608  # conditions of ours
    for state, (_, holds) in WAITS_FOR.items()
}
IS_STUCK = {
    state: text(f"SELECT NOT ({holds}) FROM mission m WHERE m.tenant = :tenant AND m.id = :id AND m.state = '{state}'")  # noqa: S608
    for state, (_, holds) in WAITS_FOR.items()
}
BEGINNING = (datetime.fromisoformat("0001-01-02T00:00:00+00:00"), UUID(int=0))

KNOWN = text("""
  SELECT mission, state, finding, repair, refused, since, found_at, over_at FROM mission_repair
  WHERE tenant = :tenant AND (over_at IS NULL OR found_at > clock_timestamp() - interval '1 day')
  ORDER BY over_at IS NULL DESC, found_at DESC, id DESC LIMIT 100""")
LAST_LOOK = text("""
  SELECT looked_at, took_ms, missions, found, EXTRACT(EPOCH FROM clock_timestamp() - looked_at)::float8 AS age_s
  FROM liveness_look WHERE tenant = :tenant""")


@dataclass(frozen=True)
class Stuck:
    """An open mission that waits for nothing. finding: what is missing; since: its last move."""

    mission: UUID
    state: str
    finding: str
    since: datetime


async def look(database: Database, tenant: UUID, patience: timedelta) -> tuple[list[Stuck], int]:
    """Every mission of a tenant that has waited for nothing for so long, and how many open ones there are.

    Bite by bite, each in a transaction of its own: what becomes stuck behind the look is found by the next one.
    """
    found, count = [], 0
    for state, (finding, _) in WAITS_FOR.items():
        place = BEGINNING
        while True:
            async with database.read() as session:
                await session.enter(tenant)
                asked = {"tenant": tenant, "at": place[0], "id": place[1], "patience": patience}
                rows = await session.rows(LOOK[state], asked)
            if not rows:
                break
            count += rows[0].seen
            found += [Stuck(row.id, state, finding, row.updated_at) for row in rows if row.stuck]
            place = (rows[-1].created_at, rows[-1].id)
            if rows[0].seen < BITE:
                break
    return found, count


async def is_stuck(session: ReadSession, mission: UUID, state: str) -> bool:
    """Whether a mission that is locked really waits for nothing in this state."""
    return bool(await session.scalar(IS_STUCK[state], {"tenant": session.tenant, "id": mission}))


async def violators(session: ReadSession) -> list[dict[str, Any]]:
    """What the reconciler found in the session's tenant: what it could not repair, and the repairs of the last day.

    At most 100, those that are not over first.
    """
    rows = await session.rows(KNOWN, {"tenant": session.tenant})
    return [
        {
            "mission_id": row.mission,
            "state": row.state,
            "since": iso(row.since),
            "finding": row.finding,
            "repair": row.repair,
            "refused": row.refused,
            "found_at": iso(row.found_at),
            "over_at": iso(row.over_at) if row.over_at else None,
        }
        for row in rows
    ]


async def last_look(session: ReadSession) -> dict[str, Any] | None:
    """When the tenant's open missions were last looked at, how many there were, and how many of them were stuck."""
    row = await session.first(LAST_LOOK, {"tenant": session.tenant})
    if row is None:
        return None
    return {
        "looked_at": iso(row.looked_at),
        "age_s": round(row.age_s, 3),
        "took_ms": row.took_ms,
        "missions": row.missions,
        "found": row.found,
    }
