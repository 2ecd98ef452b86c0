"""A human's decision, as the wall records it and as the caller hears of it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic_core import to_jsonable_python
from sqlalchemy import text

from app import ledger, missions, work
from app.approvals.actions import progress, refused
from app.approvals.queries import decisions
from app.caller import Caller
from app.db import WriteSession
from app.errors import Problem
from app.telemetry import DECISIONS

DECIDE = text("SELECT * FROM decide(:tenant, :approval, :secret, :version, :sha256, :verdict, :comment)")
FIND = text("SELECT id, mission, subject, writeback, state, version FROM approval WHERE tenant = :tenant AND id = :id")

# What the wall answers when it does not take a decision, and what the caller is told.
REFUSALS: dict[str, tuple[str, str]] = {
    "unauthenticated": ("unauthenticated", "The key that decides is no longer live."),
    "not_pending": ("wrong_state", "The approval is no longer pending."),
    "expired": ("expired", "The approval has expired."),
    "own_request": ("own_request", "The requester, and whoever answers for the requester, cannot decide."),
    "not_entitled": ("forbidden", "Deciding this takes a person who holds the approver role of its rule."),
    "other_payload": ("other_payload", "payload_sha256 is not the hash of what is to be approved."),
    "stale": ("stale", "The approval changed since it was read."),
    "already_decided": ("already_decided", "This approver has already decided."),
    "mission_closed": ("wrong_state", "The mission has ended."),
    "halted": ("wrong_state", "Writebacks to this connector are halted."),
    "no_comment": ("validation", "/comment: a rejection needs a reason"),
}


@dataclass(frozen=True)
class Decided:
    """What came of a decision: recorded (a vote below quorum), approved or rejected; not_before ends the undo window."""

    outcome: Literal["recorded", "approved", "rejected"]
    state: str
    version: int
    approver: UUID
    not_before: datetime | None
    mission: UUID
    writeback: UUID | None


async def decide(
    session: WriteSession,
    caller: Caller,
    approval: UUID,
    verdict: Literal["approve", "reject"],
    seen_sha256: bytes,
    seen_version: int,
    comment: str | None,
) -> Decided:
    """Records a decision and lets the mission go on. Raises Problem for everything in REFUSALS, and not_found."""
    found = await session.first(FIND, {"tenant": session.tenant, "id": approval})
    if found is None:
        raise Problem("not_found", "There is no such approval.")
    mission = await missions.lock(session, found.mission)  # before the approval's own lock, everywhere in this order
    said = await session.first(
        DECIDE,
        {
            "tenant": session.tenant,
            "approval": approval,
            "secret": caller.secret,
            "version": seen_version,
            "sha256": seen_sha256,
            "verdict": verdict,
            "comment": comment,
        },
    )
    assert said is not None
    DECISIONS.labels(said.outcome).inc()
    if said.outcome not in ("recorded", "approved", "rejected"):
        current = {"id": str(approval), "state": said.state, "version": said.version}
        raise refusal(said.outcome, current | {"decisions": await decisions(session, approval)})
    session.nudge(ledger.FACTS)
    if said.outcome != "recorded":
        await work.drop(session, "approval_timer", approval)
        if found.subject == "writeback":
            if said.outcome == "approved":
                await work.add(session, "execute", found.writeback, at=said.not_before)
                # an approval that nobody can carry out in time expires all the same
                await work.add(session, "approval_timer", approval, at=await expiry(session, approval))
            await progress(session, caller, mission.id)
        elif said.outcome == "approved":
            await missions.resume(session, caller, mission)
        else:
            await refused(session, caller, mission, "rejected")
    return Decided(said.outcome, said.state, said.version, said.approver, said.not_before, mission.id, found.writeback)


async def expiry(session: WriteSession, approval: UUID) -> datetime:
    return await session.scalar(
        "SELECT expires_at FROM approval WHERE tenant = :tenant AND id = :id",
        {"tenant": session.tenant, "id": approval},
    )


def refusal(outcome: str, current: dict[str, Any]) -> Problem:
    """What the wall said, with the approval as it is now and who decided it: whoever comes second wants to know."""
    code, detail = REFUSALS[outcome]
    errors = [{"pointer": "/comment", "detail": "say why"}] if outcome == "no_comment" else None
    return Problem(code, detail, errors=errors, current=to_jsonable_python(current))
