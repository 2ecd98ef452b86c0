"""Reading drills and their runs. The session has entered the drills' tenant."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.clock import iso
from app.db import ReadSession
from app.drills.catalog import DRILLS, Drill
from app.listing import Place, behind

COLUMNS = "id, drill, asked_by, state, reason, evidence, build, started_at, finished_at"
EVERY = f"SELECT {COLUMNS} FROM drill_run WHERE tenant = :tenant AND drill = :drill"  # noqa: S608
ONE = text(f"SELECT {COLUMNS} FROM drill_run WHERE tenant = :tenant AND id = :id")  # noqa: S608
NEWEST = text(f"""SELECT DISTINCT ON (drill) {COLUMNS} FROM drill_run WHERE tenant = :tenant AND (:ended IS FALSE OR state <> 'running')
  ORDER BY drill, started_at DESC, id DESC""")  # noqa: S608


async def one(session: ReadSession, id: UUID) -> Any:
    """The row of a run; None when there is no such run."""
    return await session.first(ONE, {"tenant": session.tenant, "id": id})


async def runs(session: ReadSession, drill: str, before: Place, limit: int) -> Sequence[Any]:
    """Runs of a drill, newest first."""
    return await behind(session, EVERY, before, limit, at="started_at", drill=drill)


async def all_of_them(session: ReadSession, interval_s: float) -> list[dict[str, Any]]:
    """Every drill, with the run that is under way, the last that has ended, and when the schedule runs it next."""
    newest = {row.drill: row for row in await session.rows(NEWEST, {"tenant": session.tenant, "ended": False})}
    ended = {row.drill: row for row in await session.rows(NEWEST, {"tenant": session.tenant, "ended": True})}
    return [shown(one, newest.get(one.name), ended.get(one.name), interval_s) for one in DRILLS.values()]


def shown(drill: Drill, newest: Any, ended: Any, interval_s: float) -> dict[str, Any]:
    running = newest if newest is not None and newest.state == "running" else None
    next_at = None
    if interval_s and newest is not None:
        next_at = iso(newest.started_at + timedelta(seconds=interval_s))
    return {
        "name": drill.name,
        "shows": drill.shows,
        "state": newest.state if newest is not None else "never",
        "running": view(running) if running is not None else None,
        "last": view(ended) if ended is not None else None,
        "next_at": next_at,
    }


def view(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "drill": row.drill,
        "asked_by": row.asked_by,
        "state": row.state,
        "reason": row.reason,
        "evidence": row.evidence,
        "build": row.build,
        "started_at": iso(row.started_at),
        "finished_at": iso(row.finished_at) if row.finished_at else None,
    }
