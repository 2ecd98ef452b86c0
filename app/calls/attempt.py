"""Whether an attempt may call anything: it is the current one, under way, in time, and something is left of its budget."""

from uuid import UUID

from app import ledger
from app.caller import Caller
from app.clock import now
from app.db import WriteSession
from app.errors import Problem
from app.missions import Mission
from colony_client import tokens


def check_attempt(mission: Mission | None, said: tokens.MissionToken) -> None:
    """Only the current attempt of a mission under way, within its budget, calls tools and models. Raises Problem."""
    if mission is None:
        raise Problem("not_found", "There is no such mission.")
    if (ended := over(mission, said)) is not None:
        raise ended


def over(mission: Mission, said: tokens.MissionToken) -> Problem | None:
    """Why the attempt of a token is not, or not any more, under way."""
    if mission.attempt != said.attempt:
        return Problem("attempt_superseded", f"The current attempt is {mission.attempt}.")
    if mission.state not in ("accepted", "dispatched", "running"):
        return Problem("mission_closed", f"The mission is {mission.state}.")
    if mission.over_budget:
        return Problem("budget_exhausted", "The mission's budget is used up.", account="mission")
    if mission.deadline_at is not None and mission.deadline_at <= now():
        return Problem("budget_exhausted", "The mission's time is used up.", account="mission", lacking=["time_ms"])
    return None


async def left_over(session: WriteSession, caller: Caller, mission: UUID, refused: Problem) -> Problem:
    """The refusal of a call for which too little is left, with its fact."""
    if refused.code == "budget_exhausted":
        await ledger.record(
            session,
            caller,
            "budget.refused",
            mission,
            account=refused.members["account"],
            lacking=refused.members["lacking"],
        )
    return refused
