"""Reading writebacks and what came of them."""

import json
from collections import Counter
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
    w.predecessor, w.created_at, s.state, s.approval, s.not_before, s.expires_at, s.attempts,
    e.idempotency_key, e.started_at, e.settled_at, e.receipt, e.observed, e.observed_sha256,
    (SELECT count(*) FROM decision d WHERE d.tenant = w.tenant AND d.approval = s.approval AND d.verdict = 'approve') AS approvals
  FROM writeback w
  JOIN writeback_state s ON s.tenant = w.tenant AND s.id = w.id
  LEFT JOIN execution e ON e.tenant = w.tenant AND e.writeback = w.id
  WHERE w.tenant = :tenant"""
IDS = "SELECT w.id FROM writeback w WHERE w.tenant = :tenant"
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


async def newest(
    session: ReadSession, mission: UUID | None, state: str | None, before: Place, limit: int
) -> list[Writeback]:
    """Writebacks, newest first, of one mission or in one state."""
    only = {"w.mission": mission, "s.state": state}
    ids = IDS if state is None else None  # in which state it is, only the joined tables know
    rows = await behind(session, SELECT, before, limit, at="w.created_at", id="w.id", only=only, ids=ids)
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
