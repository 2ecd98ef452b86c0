"""Probes for machines: unauthenticated, and empty of detail. Every process that serves HTTP has them."""

import asyncio

from fastapi import APIRouter, Request, Response

from app.db import Database
from app.migrate import head

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
