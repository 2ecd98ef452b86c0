"""Reading writebacks and what came of them."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.clock import iso
from app.db import ReadSession
from app.listing import Place, behind

SELECT = """
  SELECT w.id, w.mission, w.connector, w.operation, w.target, w.risk, w.requested_by, w.payload, w.payload_sha256, w.proposal,
    w.predecessor, w.created_at, s.state, s.approval, s.asked_at, s.not_before, s.expires_at, s.attempts,
    e.idempotency_key, e.started_at, e.settled_at, e.receipt, e.observed, e.observed_sha256,
    (SELECT count(*) FROM decision d WHERE d.tenant = w.tenant AND d.approval = s.approval AND d.verdict = 'approve') AS approvals
  FROM writeback w
  JOIN writeback_state s ON s.tenant = w.tenant AND s.id = w.id
  LEFT JOIN execution e ON e.tenant = w.tenant AND e.writeback = w.id
  WHERE w.tenant = :tenant"""
IDS = "SELECT w.id FROM writeback w WHERE w.tenant = :tenant"
# The approvals of writebacks in one state, in the order in which they were asked for: from the table that knows it, by its index.
ASKED = "SELECT id AS approval, tenant, created_at AS asked_at FROM approval WHERE writeback IS NOT NULL"
UNDONE = """ AND state = 'approved' AND expires_at > statement_timestamp() - interval '7 days'
  AND NOT EXISTS (SELECT 1 FROM execution e WHERE e.tenant = approval.tenant AND e.writeback = approval.writeback)"""
IN_STATE = {
    "awaiting_approval": f"{ASKED} AND state = 'pending'",
    "approved": ASKED
    + UNDONE,  # whose time is over expires in a moment: they are not looked for among all ever approved
    **{state: f"{ASKED} AND state = '{state}'" for state in ("rejected", "expired", "cancelled")},
    **{
        state: f"SELECT approval, tenant, asked_at FROM execution WHERE state = '{state}'"  # noqa: S608  # these five
        for state in ("executing", "succeeded", "failed", "unknown", "stale")
    },
}
# A mission has few: they are found first, whatever the planner thinks of their number.
ITS = "w.id = ANY (ARRAY(SELECT x.id FROM writeback x WHERE x.tenant = :tenant AND x.mission = :mission OFFSET 0))"
ONE = text(f"{SELECT} AND w.id = :id")
OF_MISSION = text(f"{SELECT} AND w.mission = :mission ORDER BY w.created_at, w.id LIMIT 1000")
TALLY = text(
    "SELECT state, count(*) AS n FROM writeback_state WHERE tenant = :tenant AND mission = :mission GROUP BY state"
)


@dataclass(frozen=True)
class Writeback:
    """A writeback with its approval's and execution's state. payload, receipt and observed are JSON bytes."""

    id: UUID
    mission: UUID
    connector: str
    operation: str
    target: str
    risk: str
    requested_by: UUID
    payload: bytes
    payload_sha256: bytes
    proposal: UUID
    predecessor: UUID | None
    created_at: datetime
    state: str
    approval: UUID
    asked_at: datetime  # when the approval was
    not_before: datetime | None
    expires_at: datetime
    attempts: int | None
    idempotency_key: UUID | None
    started_at: datetime | None
    settled_at: datetime | None
    receipt: bytes | None
    observed: bytes | None
    observed_sha256: bytes | None
    approvals: int


async def one(session: ReadSession, id: UUID) -> Writeback | None:
    row = await session.first(ONE, {"tenant": session.tenant, "id": id})
    return Writeback(**row._mapping) if row else None


async def of_mission(session: ReadSession, mission: UUID) -> list[Writeback]:
    rows = await session.rows(OF_MISSION, {"tenant": session.tenant, "mission": mission})
    return [Writeback(**row._mapping) for row in rows]


def order(mission: UUID | None, state: str | None) -> Sequence[str]:
    """By what a list is ordered. In a state it is by when the approval was asked for, which is a moment after the writeback was made."""
    return ("created_at", "id") if state is None or mission is not None else ("asked_at", "approval")


async def newest(
    session: ReadSession, mission: UUID | None, state: str | None, before: Place, limit: int
) -> list[Writeback]:
    """Writebacks, newest first, of one mission or in one state. before: what order() names of the one before."""
    if mission is not None:
        its, only = f"{SELECT} AND {ITS}", {"s.state": state}
        rows = await behind(session, its, before, limit, at="w.created_at", id="w.id", only=only, mission=mission)
    elif state is None:
        rows = await behind(session, SELECT, before, limit, at="w.created_at", id="w.id", ids=IDS)
    else:
        ids = f"SELECT s.approval FROM ({IN_STATE[state]}) s WHERE s.tenant = :tenant"  # noqa: S608  # one of ours
        rows = await behind(session, SELECT, before, limit, at="s.asked_at", id="s.approval", ids=ids)
    return [Writeback(**row._mapping) for row in rows]


async def tally(session: ReadSession, mission: UUID) -> dict[str, int]:
    """How many writebacks of a mission are in which state."""
    counted = Counter(
        {row.state: row.n for row in await session.rows(TALLY, {"tenant": session.tenant, "mission": mission})}
    )
    return dict(sorted(counted.items()))


def view(found: Writeback) -> dict[str, Any]:
    """What the API says of a writeback. read_back holds the approved fields as the target showed them afterwards."""
    observed = json.loads(found.observed) if found.observed else None
    return {
        "id": found.id,
        "mission_id": found.mission,
        "approval_id": found.approval,
        "proposal_id": found.proposal,
        "state": found.state,
        "connector": found.connector,
        "operation": found.operation,
        "target": found.target,
        "risk_level": found.risk,
        "requested_by": found.requested_by,
        "payload": json.loads(found.payload),
        "payload_sha256": found.payload_sha256.hex(),
        "predecessor": found.predecessor,
        "approvals": found.approvals,
        "attempts": found.attempts,
        "idempotency_key": found.idempotency_key,
        "not_before": stamp(found.not_before),
        "expires_at": stamp(found.expires_at),
        "started_at": stamp(found.started_at),
        "settled_at": stamp(found.settled_at),
        "receipt": json.loads(found.receipt) if found.receipt else None,
        "read_back": observed["changes"] if observed else None,
        "read_back_sha256": found.observed_sha256.hex() if found.observed_sha256 else None,
        "created_at": iso(found.created_at),
    }


def stamp(moment: datetime | None) -> str | None:
    return iso(moment) if moment else None
