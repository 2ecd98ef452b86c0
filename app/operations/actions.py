"""Ending a mission by hand. Artifacts, facts and what was already claimed stay."""

from uuid import UUID

from app import approvals, missions
from app.caller import Caller
from app.db import WriteSession


async def cancel(session: WriteSession, caller: Caller, mission_id: UUID, reason: str) -> None:
    """Stops a mission: what has not left does not leave. Raises Problem not_found or wrong_state."""
    await missions.lock(session, mission_id)
    await missions.cancel(session, caller, mission_id, reason)
    await approvals.cancel_open(session, caller, mission_id)


async def fail(session: WriteSession, caller: Caller, mission_id: UUID, reason: str) -> None:
    """Marks a mission as failed by an operator's judgement; otherwise like cancel."""
    await missions.lock(session, mission_id)
    await missions.fail(session, caller, mission_id, "operator", reason="operator", note=reason)
    await approvals.cancel_open(session, caller, mission_id)
