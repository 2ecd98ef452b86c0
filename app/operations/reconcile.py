"""Missions that wait for nothing are given back what they should wait for: by the worker, tenant by tenant, again and again.

It takes no input, and doing it twice does what doing it once does. One worker at a time does it for a tenant, because it is a row
of the work table. A repair adds the work that the mission's state asks for; what that work then does is the same verb as always.
"""

import time
from datetime import timedelta
from uuid import UUID

import structlog
from sqlalchemy import text

from app import approvals, ledger, missions, policy, work
from app.caller import Caller, system
from app.clock import now
from app.db import Database, WriteSession
from app.errors import Problem
from app.missions import Mission
from app.operations.liveness import Stuck, is_stuck, look
from app.telemetry import REPAIRS
from app.work import Item

log = structlog.get_logger("liveness")
PATIENCE = timedelta(seconds=5)  # between two steps a mission may wait for nothing for a moment
MOST_REPAIRS = 3  # of one mission in an hour; what does not hold is a person's to look at

REPAIRED_LATELY = text("""
  SELECT count(*) FROM mission_repair WHERE tenant = :tenant AND mission = :mission AND repair IS NOT NULL
    AND found_at > clock_timestamp() - interval '1 hour'""")
OPEN_ROW = text("SELECT 1 FROM mission_repair WHERE tenant = :tenant AND mission = :mission AND over_at IS NULL")
NOTE = text("""
  INSERT INTO mission_repair (tenant, mission, state, finding, repair, refused, since, over_at)
  VALUES (:tenant, :mission, :state, :finding, CAST(:repair AS text), CAST(:refused AS text), :since,
          CASE WHEN CAST(:repair AS text) IS NOT NULL THEN clock_timestamp() END)""")
UNREPAIRED = text("""
  SELECT r.mission, m.state FROM mission_repair r JOIN mission m ON m.tenant = r.tenant AND m.id = r.mission
  WHERE r.tenant = :tenant AND r.over_at IS NULL""")
OVER = text("""
  UPDATE mission_repair SET over_at = clock_timestamp() WHERE tenant = :tenant AND mission = ANY (:missions) AND over_at IS NULL""")
LOOKED = text("""
  INSERT INTO liveness_look (tenant, looked_at, took_ms, missions, found)
  VALUES (:tenant, clock_timestamp(), :took_ms, :missions, :found)
  ON CONFLICT (tenant) DO UPDATE SET looked_at = excluded.looked_at, took_ms = excluded.took_ms, missions = excluded.missions,
    found = excluded.found""")
RESTORE_EXECUTION = text("SELECT restore_execution_of(:tenant, :mission)")
QUESTIONS = text("""
  SELECT id, state, expires_at FROM approval WHERE tenant = :tenant AND mission = :mission AND subject = 'mission'
  ORDER BY created_at DESC, id DESC LIMIT 1""")
WAITING = text("SELECT id FROM approval WHERE tenant = :tenant AND mission = :mission AND state = 'pending'")
HAS_CHANGES = text("SELECT EXISTS (SELECT 1 FROM writeback WHERE tenant = :tenant AND mission = :mission)")


async def reconcile(database: Database, item: Item, interval: timedelta) -> None:
    """One look at one tenant's open missions, and what it takes to get those going that nothing would have moved."""
    began = time.monotonic()
    found, count = await look(database, item.tenant, PATIENCE)
    for one in found:
        await repair_one(database, item.tenant, one)
    async with database.write() as session:
        await session.enter(item.tenant)
        await end_what_is_over(session)
        took_ms = round((time.monotonic() - began) * 1000)
        values = {"tenant": item.tenant, "took_ms": took_ms, "missions": count, "found": len(found)}
        await session.execute(LOOKED, values)
        await work.again(session, item, now() + interval)


async def repair_one(database: Database, tenant: UUID, found: Stuck) -> None:
    """Repairs one mission. One that cannot be moved is shown, and keeps nobody else from being looked after."""
    try:
        await attempt(database, tenant, found)
    except Problem as refused:
        log.error("a repair was refused", mission=str(found.mission), code=refused.code)
        await attempt(database, tenant, found, refused=refused.code)
    except Exception:
        log.exception("a repair failed", mission=str(found.mission))
        await attempt(database, tenant, found, refused="failed")


async def attempt(database: Database, tenant: UUID, found: Stuck, refused: str | None = None) -> None:
    """Under the mission's lock: looks once more, repairs, and says so. Whoever moved it meanwhile was faster.

    refused: why it was not possible a moment ago; then it is only said that it waits for a person.
    """
    caller = system(tenant, "liveness")
    async with database.write() as session:
        await session.enter(tenant)
        mission = await missions.lock(session, found.mission)
        if mission.state != found.state or not await is_stuck(session, mission.id, mission.state):
            return
        asked = {"tenant": tenant, "mission": mission.id}
        enough = refused is not None or await session.scalar(REPAIRED_LATELY, asked) >= MOST_REPAIRS
        repair = None if enough else await repaired(session, caller, mission)
        if repair is None and await session.scalar(OPEN_ROW, asked):
            return  # it is known, and waits for a person
        said = {"state": found.state, "finding": found.finding}
        await session.execute(NOTE, asked | said | {"repair": repair, "refused": refused, "since": found.since})
        kind = "mission.repaired" if repair else "mission.stuck"
        await ledger.record(session, caller, kind, mission.id, **said, repair=repair, refused=refused)
    REPAIRS.labels(found.state, repair or "none").inc()
    log.warning("a mission waited for nothing", mission=str(found.mission), repair=repair, **said)


async def repaired(session: WriteSession, caller: Caller, mission: Mission) -> str | None:
    """Gives a locked mission back what its state waits for. Answers what was done, None when only a person can go on."""
    match mission.state:
        case "accepted":
            kind = await first_step(session, mission)
            await work.add(session, kind, mission.id)
            return f"{kind}_added"
        case "dispatched" | "running":
            await missions.watch(session, mission)
            return "lease_watched"
        case "in_review":
            await work.add(session, "review", mission.id)
            return "review_added"
        case "executing":
            if await session.scalar(RESTORE_EXECUTION, {"tenant": session.tenant, "mission": mission.id}):
                session.nudge("work_executor")
                return "execution_added"
            await work.add(session, "progress", mission.id)
            return "progress_added"
        case _:
            return await go_on(session, caller, mission)


async def first_step(session: WriteSession, mission: Mission) -> str:
    """What an accepted mission waits for: to be played, to be asked about, or its turn at the colony.

    A mission that policy wants humans to be asked about is never dispatched unasked.
    """
    if mission.replay_mode == "recorded":
        return "replay"
    asks = any(row["effect"] == "ask" for row in await policy.recorded(session, mission.id))
    question = await session.first(QUESTIONS, {"tenant": session.tenant, "mission": mission.id})
    agreed = question is not None and question.state == "approved"
    live = mission.replay_mode in (None, "rerun")  # nobody is asked on behalf of a replay
    return "ask" if live and asks and not agreed else "dispatch"


async def go_on(session: WriteSession, caller: Caller, mission: Mission) -> str | None:
    """A mission that waits for humans and is asked about by nobody: what was decided last is carried on."""
    asked = {"tenant": session.tenant, "mission": mission.id}
    waiting = [row.id for row in await session.rows(WAITING, asked)]
    for approval in waiting:
        await work.add(session, "approval_timer", approval)
    if waiting:
        return "timer_added"
    if await session.scalar(HAS_CHANGES, asked):
        await work.add(session, "progress", mission.id)
        return "progress_added"
    question = await session.first(QUESTIONS, asked)
    if question is None or question.state == "cancelled":
        return None
    if question.state == "approved":
        await missions.resume(session, caller, mission)
        return "resumed"
    await approvals.refused(session, caller, mission, question.state)
    return "ended"


async def end_what_is_over(session: WriteSession) -> None:
    """What was found and not repaired, and is no longer so: somebody has moved or ended it."""
    rows = await session.rows(UNREPAIRED, {"tenant": session.tenant})
    over = [
        row.mission
        for row in rows
        if row.state in missions.CLOSED or not await is_stuck(session, row.mission, row.state)
    ]
    if over:
        await session.execute(OVER, {"tenant": session.tenant, "missions": over})
