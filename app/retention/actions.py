"""Setting times, placing and lifting holds. Postgres finds out by the presented secret who does it, and records the fact."""

from typing import Any, Literal
from uuid import UUID

from sqlalchemy import text

from app import ledger
from app.caller import Caller
from app.db import WriteSession
from app.errors import Problem

PUT = text("""SELECT outcome, version FROM put_retention(:tenant, :secret, :seen, :public_days, :internal_days, :confidential_days,
  :restricted_days, :unread_days)""")
PLACE = text("SELECT place_hold(:tenant, :secret, :name, :scope, :mission, :label_name, :label_value, :reason)")
LIFT = text("SELECT lift_hold(:tenant, :secret, :name, :reason)")
Placed = Literal["placed", "unchanged"]


async def set_schedule(session: WriteSession, caller: Caller, seen: int, days: dict[str, int | None]) -> int:
    """A new version of the times, after the one that was seen; answers its number. days: a key for every class."""
    row = await session.first(PUT, {"tenant": caller.tenant, "secret": caller.secret, "seen": seen, **days})
    assert row is not None
    if row.outcome == "stale":
        raise Problem("stale", f"The times are at version {row.version}.", current={"version": row.version})
    if row.outcome != "set":
        raise refusal(row.outcome, "retention.write", "Times are set by a human who is admin or policy_owner.")
    session.nudge(ledger.FACTS)
    version: int = row.version
    return version


async def place_hold(
    session: WriteSession,
    caller: Caller,
    name: str,
    scope: str,
    reason: str,
    *,
    mission: UUID | None = None,
    label: tuple[str, str] | None = None,
) -> Placed:
    """From this transaction's end on nothing of what it names is removed. Raises Problem forbidden, not_found or taken."""
    label_name, label_value = label or (None, None)
    asked: dict[str, Any] = {"name": name, "scope": scope, "mission": mission, "reason": reason}
    asked |= {"label_name": label_name, "label_value": label_value}
    said = await session.scalar(PLACE, {"tenant": caller.tenant, "secret": caller.secret, **asked})
    match said:
        case "placed" | "unchanged":
            session.nudge(ledger.FACTS)
            placed: Placed = said
            return placed
        case "no_mission":
            raise Problem("not_found", "There is no such mission to hold.")
        case "taken":
            raise Problem("taken", "There is or was another hold of this name; a name is used once.")
    raise refusal(said, "holds.place", "Holds are placed by a human who is admin, policy_owner or auditor.")


async def lift_hold(session: WriteSession, caller: Caller, name: str, reason: str) -> None:
    """Raises Problem forbidden, second_person, not_found or wrong_state."""
    match said := await session.scalar(
        LIFT, {"tenant": caller.tenant, "secret": caller.secret, "name": name, "reason": reason}
    ):
        case "lifted":
            session.nudge(ledger.FACTS)
            return
        case "not_found":
            raise Problem("not_found", "There is no such hold.")
        case "lifted_before":
            raise Problem("wrong_state", "The hold is lifted already.", current={"name": name, "state": "lifted"})
        case "own_hold":
            raise Problem("second_person", "A hold is lifted by another person than the one who placed it.")
    raise refusal(said, "holds.lift", "Holds are lifted by a human who is admin or policy_owner.")


def refusal(said: str, action: str, detail: str) -> Problem:
    if said == "not_entitled":
        return Problem("forbidden", detail, action=action)
    return Problem("unauthenticated", "The credential is unknown, expired or revoked.")
