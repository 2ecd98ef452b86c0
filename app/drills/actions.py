"""A run of a drill as it is kept: asked for, ended, and asked for again when its time has come."""

import json
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text

from app import ledger, work
from app.caller import Caller, system
from app.clock import new_id, now
from app.db import ReadSession, WriteSession
from app.drills.catalog import DRILLS
from app.drills.queries import newest
from app.drills.run import Outcome
from app.errors import Problem

# of two who ask at once the second finds the run of the first
ASK = text("""
  INSERT INTO drill_run (tenant, id, drill, asked_by, state, build, started_at)
  VALUES (:tenant, :id, :drill, :asked_by, 'running', :build, clock_timestamp())
  ON CONFLICT (tenant, drill) WHERE state = 'running' DO NOTHING RETURNING id""")
RUNNING = text("SELECT id FROM drill_run WHERE tenant = :tenant AND drill = :drill AND state = 'running'")
END = text("""
  UPDATE drill_run SET state = :state, reason = :reason, evidence = CAST(:evidence AS jsonb), finished_at = clock_timestamp()
  WHERE tenant = :tenant AND id = :id AND state = 'running' RETURNING drill, build""")
TENANT = text("SELECT drill_tenant()")
LOOK = timedelta(minutes=1)  # how often the schedule is looked at, at most


async def tenant_of_drills(session: ReadSession) -> UUID:
    """Raises Problem not_configured where nobody has prepared it."""
    found: UUID | None = await session.scalar(TENANT)
    if found is None:
        detail = "There is no tenant for drills: set DRILL_KEY, and run `mission-root drills prepare` as the registrar."
        raise Problem("not_configured", detail, retry_after=300)
    return found


async def ask(session: WriteSession, caller: Caller, drill: str, build: str) -> tuple[UUID, bool]:
    """Asks for a run, in the name of somebody of any tenant; the one that is under way is answered when there is one.

    Answers its id, and whether it is new. Raises Problem not_found or not_configured. The session is in the caller's tenant.
    """
    if drill not in DRILLS:
        raise Problem("not_found", f"There is no such drill; there are {', '.join(DRILLS)}.")
    await session.enter(await tenant_of_drills(session))
    run, new = await begin(session, drill, caller.principal, build)
    await session.enter(caller.tenant)
    if new:
        await ledger.record(session, caller, "drill.asked", caller.tenant, drill=drill, run=run)
    return run, new


async def begin(session: WriteSession, drill: str, asked_by: UUID | None, build: str) -> tuple[UUID, bool]:
    """A run, to be done by a worker. The session has entered the drills' tenant."""
    values = {"tenant": session.tenant, "id": new_id(), "drill": drill, "asked_by": asked_by, "build": build}
    made: UUID | None = await session.scalar(ASK, values)
    run = made or await session.scalar(RUNNING, values)
    if run is None:  # it has ended between the two
        raise Problem("database_busy", "A run of this drill has just ended.", retry_after=1)
    await work.add(session, "drill", run)
    return run, made is not None


async def end(session: WriteSession, run: UUID, outcome: Outcome) -> None:
    """Keeps how a run ended, with its fact. A run that has ended already stays as it is."""
    assert session.tenant is not None
    values = {
        "tenant": session.tenant,
        "id": run,
        "state": outcome.state,
        "reason": outcome.reason,
        "evidence": json.dumps(outcome.evidence),
    }
    row = await session.first(END, values)
    if row is not None:
        said = {"drill": row.drill, "build": row.build, "reason": outcome.reason, "evidence": outcome.evidence}
        await ledger.record(session, system(session.tenant, "drills"), f"drill.{outcome.state}", run, **said)


async def plan(session: WriteSession, interval: timedelta, build: str) -> datetime:
    """Begins what is due, and puts back the work of runs that lost theirs. Answers when to look again.

    interval: from the beginning of one run of a drill to the next; zero: drills run only when somebody asks.
    """
    begun, moment = await newest(session), now()
    for drill in DRILLS:
        last = begun.get(drill)
        if last is not None and last.state == "running":
            await work.add(session, "drill", last.id)
        elif interval and (last is None or last.started_at + interval <= moment):
            await begin(session, drill, None, build)
    return moment + (min(interval, LOOK) if interval else LOOK)
