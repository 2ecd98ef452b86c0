"""An attempt that may have fallen silent, and the word that a mission has ended: what the colony is asked and told about one mission."""

from dataclasses import dataclass
from datetime import timedelta

import structlog

from app import budgets, missions, work
from app.boundary.colony import EFFECTS, SILENT, Colony, answered, asked_for, faulted, settled
from app.boundary.dispatch import out_of_time
from app.caller import system
from app.clock import now
from app.db import Database
from app.missions import Mission
from app.work import Item
from colony_client.errors import BoundaryError, Busy

log = structlog.get_logger("watch")

MOST_CANCELS = 5  # tries in half a minute


async def watch_attempt(database: Database, colony: Colony, item: Item) -> None:
    """A lease or a deadline may have passed: time over fails the mission, silence is asked about, then a new attempt is made."""
    caller = system(item.tenant, "worker")
    async with database.write() as session:
        await session.enter(item.tenant)
        mission = await missions.lock(session, item.subject)
        if mission.state not in ("dispatched", "running") or mission.lease_until is None or mission.deadline_at is None:
            await work.finish(session, item)
            return
        if out_of_time(mission):
            await missions.fail(session, caller, mission.id, "time_budget", reason="time_budget")
            return  # fail() has dropped this item
        grace = budgets.over_until(mission.degraded)
        if grace is not None and grace <= now():
            await missions.fail(session, caller, mission.id, "time_budget", reason="budget_exhausted")
            return
        if mission.lease_until > now():
            await work.again(session, item, min(mission.lease_until, mission.deadline_at, grace or mission.deadline_at))
            return
    said = await ask(database, colony, item, mission)
    async with database.write() as session:
        await session.enter(item.tenant)
        present = await missions.lock(session, item.subject)
        if (present.attempt, present.state, present.last_seq) != (mission.attempt, mission.state, mission.last_seq):
            await work.again(session, item, now())  # it moved while we asked: look again
        elif said.patience_s:
            until = now() + timedelta(seconds=said.patience_s)
            if said.trouble:
                await missions.degrade(session, caller, present, said.trouble, SILENT)
            else:
                await missions.extend(session, present, until)
            await work.again(
                session, item, min(until, mission.deadline_at, budgets.over_until(present.degraded) or until)
            )
        else:
            await missions.requeue(session, caller, present, colony.max_attempts)
            if said.trouble:
                lost = await missions.lock(session, item.subject)
                await missions.degrade(session, caller, lost, said.trouble, EFFECTS[said.trouble])


@dataclass(frozen=True)
class Said:
    """What came of asking about an attempt: for how long it is left alone (0: it is lost), and the code of a call that failed."""

    patience_s: float = 0
    trouble: str | None = None


async def ask(database: Database, colony: Colony, item: Item, mission: Mission) -> Said:
    """Whether the colony works on exactly this attempt. One that is only busy is asked again: another attempt would add to it."""
    lease_s = colony.lease.total_seconds()
    try:
        status = await colony.client.status(mission.id)
    except BoundaryError as error:
        if settled(error):
            answered(colony)
            return Said()
        trouble = await faulted(database, colony, item, "status_answer", error)
        return Said(min(max(asked_for(error), 1.0), lease_s) if isinstance(error, Busy) else 0, trouble)
    answered(colony)
    return Said(lease_s if status.attempt == mission.attempt and status.state == "running" else 0)


async def cancel_in_colony(database: Database, colony: Colony, item: Item) -> None:
    """Tells the colony to stop; a colony that cannot be told finds out by its next callback."""
    try:
        await colony.client.cancel(item.subject, "the mission has ended")
        answered(colony)
    except BoundaryError as error:
        if settled(error):
            answered(colony)
        else:
            log.warning("the colony was not told of a cancel", mission=str(item.subject), error=str(error)[:300])
            await faulted(database, colony, item, "cancel_answer", error)
            if item.attempts < MOST_CANCELS:
                async with database.write() as session:
                    await session.enter(item.tenant)
                    delay = max(2.0**item.attempts, asked_for(error))
                    await work.again(session, item, now() + timedelta(seconds=delay), failed=True)
                return
    await settle(database, item)


async def settle(database: Database, item: Item) -> None:
    async with database.write() as session:
        await session.enter(item.tenant)
        await work.finish(session, item)
