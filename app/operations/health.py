"""Probes for machines: unauthenticated, and empty of detail."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from app.components import Component
from app.db import Database
from app.migrate import head
from colony_client.client import ColonyClient
from colony_client.errors import BoundaryError

probes = APIRouter(include_in_schema=True, tags=["probes"])
PROBE_S = 2.0


def plain(ok: bool) -> Response:
    return Response(
        b"ok\n" if ok else b"not ok\n",
        200 if ok else 503,
        media_type="text/plain",
        headers={} if ok else {"Retry-After": "1"},
    )


@probes.get("/livez", operation_id="livez", summary="Is the process alive?", response_class=Response)
@probes.get("/healthz", operation_id="healthz", summary="Is the process alive?", response_class=Response)
async def livez() -> Response:
    """Never touches the database: a process that answers this should not be killed."""
    return plain(True)


@probes.get("/startupz", operation_id="startupz", summary="Has the process started?", response_class=Response)
async def startupz(request: Request) -> Response:
    return plain(bool(request.app.state.started))


@probes.get("/readyz", operation_id="readyz", summary="May it get traffic?", response_class=Response)
async def readyz(request: Request) -> Response:
    """Postgres answers, its schema is the one this code knows, and the process is not draining."""
    state = request.app.state
    return plain(state.started and not state.draining and await schema_is_current(state.database))


async def schema_is_current(database: Database) -> bool:
    try:
        async with asyncio.timeout(PROBE_S), database.read() as session:
            return bool(await session.scalar("SELECT version_num FROM migration") == head())
    except Exception:  # whatever is wrong, it is not ready
        return False


async def components(state: Any) -> list[dict[str, object]]:
    """What this process sees of its dependencies, asked now."""
    database: Component = state.components["database"]
    colony: Component = state.components["colony"]
    if await schema_is_current(state.database):
        database.succeeded()
    else:
        database.failed("no answer, or another schema")
    await look_at_colony(state.colony, colony, state.settings.colony_enabled)
    registrar: Component = state.components["registrar"]
    if await state.upstream.ready(PROBE_S):
        registrar.succeeded()
    else:
        registrar.failed("no answer")
    told = (database, colony, registrar, state.components["anchors"], state.components["bus"])
    return [one.view() for one in told]


async def look_at_colony(client: ColonyClient, component: Component, enabled: bool) -> None:
    if not enabled:
        component.failed("COLONY_ENABLED is false")
        return
    try:
        ready = await client.ready(timeout_s=PROBE_S)
    except BoundaryError as error:
        component.failed(str(error)[:200])
        return
    if ready.ready:
        component.succeeded()
    else:
        component.failed("the colony says it is not ready")
