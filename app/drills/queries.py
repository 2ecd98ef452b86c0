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
# One row a drill by its index, however often it ran; one run of it at most is under way.
NEWEST = text(f"""SELECT r.* FROM unnest(CAST(:drills AS text[])) d (drill) CROSS JOIN LATERAL (
    SELECT {COLUMNS} FROM drill_run x WHERE x.tenant = :tenant AND x.drill = d.drill AND (:ended IS FALSE OR x.state <> 'running')
    ORDER BY x.started_at DESC, x.id DESC LIMIT 1) r""")  # noqa: S608


async def one(session: ReadSession, id: UUID) -> Any:
    """The row of a run; None when there is no such run."""
    return await session.first(ONE, {"tenant": session.tenant, "id": id})


async def runs(session: ReadSession, drill: str, before: Place, limit: int) -> Sequence[Any]:
    """Runs of a drill, newest first."""
    return await behind(session, EVERY, before, limit, at="started_at", drill=drill)


async def newest(session: ReadSession, ended: bool = False) -> dict[str, Any]:
    """The newest run of each drill that ever ran; ended: of those that are over."""
    asked = {"tenant": session.tenant, "drills": list(DRILLS), "ended": ended}
    return {row.drill: row for row in await session.rows(NEWEST, asked)}


async def all_of_them(session: ReadSession, interval_s: float) -> list[dict[str, Any]]:
    """Every drill, with the run that is under way, the last that has ended, and when the schedule runs it next."""
    begun, ended = await newest(session), await newest(session, ended=True)
    return [shown(one, begun.get(one.name), ended.get(one.name), interval_s) for one in DRILLS.values()]


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
