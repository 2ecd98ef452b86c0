"""What an operator does to a mission by hand. Artifacts, facts and what was already claimed stay.

Every verb takes the mission as its caller has locked it.
"""

from app import approvals, missions, policy
from app.caller import Caller
from app.db import WriteSession
from app.errors import Problem
from app.missions import Mission
from app.operations.reconcile import first_step
from app.policy import PolicyDecision


async def cancel(
    session: WriteSession, caller: Caller, mission: Mission, reason: str, environment: str
) -> PolicyDecision | None:
    """Stops a mission: what has not left does not leave. Raises Problem wrong_state.

    Answers policy's denial when there is one; nothing was stopped then.
    """
    if denied := await admit(session, caller, "cancel", mission, environment):
        return denied
    await missions.cancel(session, caller, mission.id, reason)
    await approvals.cancel_open(session, caller, mission.id)
    return None


async def fail(
    session: WriteSession, caller: Caller, mission: Mission, reason: str, environment: str
) -> PolicyDecision | None:
    """Marks a mission as failed by an operator's judgement; otherwise like cancel."""
    if denied := await admit(session, caller, "fail", mission, environment):
        return denied
    await missions.fail(session, caller, mission.id, "operator", reason="operator", note=reason)
    await approvals.cancel_open(session, caller, mission.id)
    return None


async def redispatch(
    session: WriteSession, caller: Caller, mission: Mission, reason: str, environment: str
) -> PolicyDecision | None:
    """Offers a mission to the colony anew, now; what its present attempt still says is not heard. The reason is kept with the
    mission. Raises Problem wrong_state for one that a colony could do nothing about, or that humans have to agree to first."""
    if denied := await admit(session, caller, "redispatch", mission, environment):
        return denied
    if mission.state == "accepted" and await first_step(session, mission) != "dispatch":
        raise Problem(
            "wrong_state",
            "The mission is not for the colony now: it is played from its record, or humans have to agree to it first.",
            current={"id": str(mission.id), "state": mission.state},
        )
    await missions.redispatch(session, caller, mission)
    await missions.note_reason(session, mission.id, reason)
    return None


async def extend(
    session: WriteSession, caller: Caller, mission: Mission, reason: str, environment: str, time_ms: int
) -> PolicyDecision | None:
    """Gives a mission more time than it asked for. Raises Problem wrong_state when no time runs."""
    if denied := await admit(session, caller, "extend", mission, environment):
        return denied
    await missions.prolong(session, caller, mission, time_ms)
    await missions.note_reason(session, mission.id, reason)
    return None


async def admit(
    session: WriteSession, caller: Caller, what: str, mission: Mission, environment: str
) -> PolicyDecision | None:
    """Whether policy lets the caller do this to the mission; its denial when it does not."""
    facts = {"own": mission.requested_by == caller.principal, "environment": environment}
    return await policy.admit(session, caller, f"operate.mission.{what}", str(mission.id), facts, mission.id)
