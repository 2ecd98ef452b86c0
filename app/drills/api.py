"""Drills: which there are, how they ended, and running one now."""

from functools import partial
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict

from app.build import name_of
from app.db import ReadSession, WriteSession
from app.drills import actions, queries
from app.drills.catalog import DRILLS
from app.errors import Problem
from app.http import Cursor, Door, Limit, Page, Reply, Routes, once, paged, reading, writing

router = Routes(tags=["drills"])


class RunView(BaseModel):
    """One run. reason: a code of what was seen instead, when it failed. evidence: what it left in the drills' own tenant."""

    id: UUID
    drill: str
    asked_by: UUID | None
    state: Literal["running", "passed", "failed"]
    reason: str | None
    evidence: list[dict[str, str]]
    build: str
    started_at: str
    finished_at: str | None


class DrillView(BaseModel):
    """A drill, what it shows when it passes, and its newest runs. next_at: when the schedule runs it; null: only when asked."""

    name: str
    shows: str
    state: Literal["never", "running", "passed", "failed"]
    running: RunView | None
    last: RunView | None
    next_at: str | None


class DrillList(BaseModel):
    items: list[DrillView]


class RunAsk(BaseModel):
    """Nothing to say: which drill stands in the address."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{}]})


@router.get("/v1/drills", operation_id="listDrills", response_model=DrillList, summary="Drills and how they ended")
async def list_drills(request: Request, door: Annotated[Door[ReadSession], reading("drills.read")]) -> Response:
    """All drills of the installation. They run in a tenant of their own and say nothing of anybody's."""
    await door.session.enter(await actions.tenant_of_drills(door.session))
    found = await queries.all_of_them(door.session, request.app.state.settings.drill_interval_s)
    return Reply({"items": found}).response()


@router.get(
    "/v1/drills/{name}/runs", operation_id="listDrillRuns", response_model=Page[RunView], summary="Runs of a drill"
)
async def list_runs(
    name: str,
    request: Request,
    door: Annotated[Door[ReadSession], reading("drills.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """A page of its runs, newest first."""
    if name not in DRILLS:
        raise Problem("not_found", f"There is no such drill; there are {', '.join(DRILLS)}.")
    await door.session.enter(await actions.tenant_of_drills(door.session))
    found = partial(queries.runs, door.session, name)
    return await paged(request, f"drills:{name}", limit, cursor, found, queries.view, by=["started_at", "id"])


@router.post(
    "/v1/drills/{name}/run",
    operation_id="runDrill",
    status_code=202,
    response_model=RunView,
    summary="Run a drill",
)
async def run_drill(
    name: str, ask: RunAsk, request: Request, door: Annotated[Door[WriteSession], writing("drills.run")]
) -> Response:
    """Asks a worker to run it. While a run of it is under way, that one is answered with 200."""

    async def run() -> Reply:
        made, new = await actions.ask(door.session, door.caller, name, name_of(request.app.state.settings.build))
        await door.session.enter(await actions.tenant_of_drills(door.session))
        row = await queries.one(door.session, made)
        await door.session.enter(door.caller.tenant)
        return Reply(queries.view(row), 202 if new else 200, {"Location": f"/v1/drills/{name}/runs"})

    return await once(door, "drills.run", run)
