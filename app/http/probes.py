"""Probes for machines: unauthenticated, and empty of detail. Every process that serves HTTP has them."""

import asyncio

from fastapi import APIRouter, Request, Response
from sqlalchemy import text

from app.db import Database
from app.migrate import FITS, head

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
    """Postgres answers, this code fits its schema, and the process is not draining."""
    state = request.app.state
    return plain(state.started and not state.draining and await fits_the_schema(state.database))


async def fits_the_schema(database: Database) -> bool:
    try:
        async with asyncio.timeout(PROBE_S), database.read() as session:
            found = await session.first(text(FITS), {"head": head()})
            return found is not None and bool(found.fits)
    except Exception:  # whatever is wrong, it is not ready
        return False
