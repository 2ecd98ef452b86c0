"""The life of a mission, as data.

    accepted ──dispatch──▶ dispatched ──first event──▶ running ──complete──▶ in_review ──▶ completed
       │  ▲ ▲                  │                          │ │                    │             ▲
       │  │ └───lease lost─────┴──────────────────────────┘ │                    │ proposals   │ all settled
       │  │                                                 │ escalate           ▼             │
       │  └──────────── approved ───────────────── awaiting_approval ◀───────────┘         executing
       └─ policy asks ───────────────────────────▶        │   └──── approved, claimed ────────▲
                                                          └─ rejected, expired (intake) ▶ denied

    What is stale or was revised is asked about again: executing ──asked again──▶ awaiting_approval.
    An operator takes an attempt back, as a lost lease does: dispatched, running ──redispatch──▶ accepted.

    Any state that is not closed: fail (operator, blocked, review, attempts, time, replay) ▶ failed · cancel ▶ cancelled.

Every move is one guarded UPDATE and one fact. A closed mission never moves; Postgres refuses it too.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args
from uuid import UUID

from sqlalchemy import text

from app import ledger
from app.caller import Caller
from app.db import WriteSession
from app.errors import Problem
from app.missions.types import label, shipped
from app.telemetry import MISSIONS, begin

State = Literal[
    "accepted",
    "dispatched",
    "running",
    "in_review",
    "awaiting_approval",
    "executing",
    "completed",
    "failed",
    "cancelled",
    "denied",
]
STATES: tuple[State, ...] = get_args(State)
CLOSED: frozenset[State] = frozenset({"completed", "failed", "cancelled", "denied"})
OPEN: frozenset[State] = frozenset(STATES) - CLOSED
begin(MISSIONS, [*shipped(), "tenant"], STATES)

# (from, to) -> what causes the move. A test walks every arrow, and every cause that the product knows has one.
MOVES: dict[tuple[State, State], tuple[str, ...]] = {
    ("accepted", "dispatched"): ("dispatch",),
    ("accepted", "awaiting_approval"): ("policy_asks",),
    ("dispatched", "running"): ("first_event",),
    ("dispatched", "accepted"): ("lease_lost", "redispatch"),
    ("running", "accepted"): ("lease_lost", "redispatch"),
    ("running", "in_review"): ("complete",),
    ("running", "awaiting_approval"): ("escalate",),
    ("in_review", "completed"): ("reviewed",),
    ("in_review", "awaiting_approval"): ("proposals",),
    ("awaiting_approval", "accepted"): ("approved",),
    ("awaiting_approval", "executing"): ("decided",),
    ("awaiting_approval", "completed"): ("settled",),
    ("awaiting_approval", "denied"): ("rejected", "expired"),
    ("executing", "completed"): ("settled",),
    ("executing", "awaiting_approval"): ("asked_again",),
    ("running", "failed"): ("blocked",),
    ("in_review", "failed"): ("review",),
    ("awaiting_approval", "failed"): ("rejected", "expired"),
    ("accepted", "failed"): ("refused", "time_budget"),
}
for _state in sorted(OPEN):
    MOVES[(_state, "cancelled")] = ("operator",)
    MOVES[(_state, "failed")] = (*MOVES.get((_state, "failed"), ()), "operator")
for _state in ("dispatched", "running"):
    MOVES[(_state, "failed")] = (*MOVES[(_state, "failed")], "attempts", "time_budget")
for _state in ("accepted", "dispatched", "running"):
    MOVES[(_state, "failed")] = (*MOVES[(_state, "failed")], "replay")

FROM: dict[str, frozenset[State]] = {}
for (_from, _to), _causes in MOVES.items():
    for _cause in _causes:
        FROM[f"{_cause}>{_to}"] = FROM.get(f"{_cause}>{_to}", frozenset()) | {_from}

SETTABLE = (
    "stage",
    "attempt",
    "last_seq",
    "lease_until",
    "deadline_at",
    "answer_status",
    "degraded",
    "reason",
    "reason_note",
    "pending_approvals",
    "writebacks",
)


@dataclass(frozen=True)
class Moved:
    """A move that happened: the state before, and the row's version after."""

    was: State
    now: State
    version: int
    mission_type: str


async def move(
    session: WriteSession,
    caller: Caller,
    mission: UUID,
    to: State,
    cause: str,
    *,
    facts: dict[str, Any] | None = None,
    **changes: Any,
) -> Moved:
    """Moves a mission for a cause, from whichever states have that arrow, and records `mission.<to>`.

    changes are further columns (SETTABLE). Raises Problem not_found or wrong_state; the latter carries the present state.
    """
    allowed = FROM[f"{cause}>{to}"]
    unknown = set(changes) - set(SETTABLE)
    assert not unknown, unknown
    sets = "".join(f", {column} = {cast(column)}" for column in changes)
    closing = ", closed_at = clock_timestamp(), lease_until = NULL" if to in CLOSED else ""
    statement = text(f"""
      UPDATE mission m SET state = :to {sets} {closing}
      FROM (SELECT state FROM mission WHERE tenant = :tenant AND id = :id FOR NO KEY UPDATE) before
      WHERE m.tenant = :tenant AND m.id = :id AND before.state = ANY(:allowed)
      RETURNING before.state AS was, m.version, m.mission_type, m.attempt""")  # noqa: S608  # columns come from SETTABLE
    row = await session.first(
        statement, {"tenant": session.tenant, "id": mission, "to": to, "allowed": sorted(allowed), **changes}
    )
    if row is None:
        raise await why_not(session, mission, to)
    await ledger.record(
        session, caller, f"mission.{to}", mission, was=row.was, cause=cause, attempt=row.attempt, **(facts or {})
    )
    MISSIONS.labels(label(row.mission_type), to).inc()
    return Moved(row.was, to, row.version, row.mission_type)


def cast(column: str) -> str:
    return f"CAST(:{column} AS jsonb)" if column in ("degraded", "writebacks") else f":{column}"


async def why_not(session: WriteSession, mission: UUID, to: State) -> Problem:
    """Not there, or not now."""
    state = await session.scalar(
        "SELECT state FROM mission WHERE tenant = :tenant AND id = :id", {"tenant": session.tenant, "id": mission}
    )
    if state is None:
        return Problem("not_found", "There is no such mission.")
    return Problem(
        "wrong_state",
        f"The mission is {state}; from there it cannot become {to}.",
        current={"id": str(mission), "state": state},
    )
