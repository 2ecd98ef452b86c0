"""Events of a mission, events of a tenant, and the ledger page."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

import structlog
from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from app.caller import Caller
from app.db import ReadSession, unavailable
from app.delivery.rights import Rights
from app.delivery.tail import Piece, Subscription, pieces
from app.errors import Problem
from app.http import Cursor, Door, Limit, Page, Reply, Routes, reading
from app.http.pages import bad_cursor
from app.ledger import Fact, Position, facts, known
from app.ledger.queries import START, head, views

router = Routes(tags=["events"])
log = structlog.get_logger("events")

READ_AT_ONCE = 200  # facts; a stream that has far to go
READ_ON = 500  # then reads on in larger pages
KEEP_ALIVE_S = 15.0
RECHECK_S = (
    4.0  # a stream whose key was revoked ends within this time and that for which one look is good for all its streams
)
Wait = Annotated[int, Query(ge=0, le=60, description="Seconds to wait for the first event when there is none yet.")]


class FactView(BaseModel):
    """One fact. `id` is its place in reading order and the SSE event id."""

    id: str
    seq: int
    type: str
    at: str
    actor: str
    subject: str
    body: dict[str, Any]


STREAMS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page of facts, or a stream when the client accepts text/event-stream.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.get(
    "/v1/missions/{mission_id}/events",
    operation_id="listMissionEvents",
    response_model=Page[FactView],
    responses=STREAMS,
    summary="Events of one mission",
)
async def mission_events(
    mission_id: UUID,
    request: Request,
    door: Annotated[Door[ReadSession], reading("events.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
    wait: Wait = 0,
) -> Response:
    """The mission's facts in order: a JSON page, a long poll with `wait`, or SSE that resumes from Last-Event-ID."""
    if not await known(door.session, mission_id):
        raise Problem("not_found", "There is no such mission.")
    return await answer(door, request, mission_id, limit, cursor, wait)


@router.get(
    "/v1/events",
    operation_id="listEvents",
    response_model=Page[FactView],
    responses=STREAMS,
    summary="Events of the tenant",
)
async def tenant_events(
    request: Request,
    door: Annotated[Door[ReadSession], reading("events.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
    wait: Wait = 0,
) -> Response:
    """Every fact of the tenant in reading order; same forms as a mission's events."""
    return await answer(door, request, None, limit, cursor, wait)


@router.get(
    "/v1/ledger",
    operation_id="listLedger",
    response_model=Page[FactView],
    summary="The ledger, page by page",
    tags=["ledger"],
)
async def ledger_page(
    request: Request,
    door: Annotated[Door[ReadSession], reading("ledger.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
    subject: UUID | None = None,
) -> Response:
    """Facts of the tenant, or of one subject, from the beginning or from a cursor."""
    found = await facts(door.session, start(request, cursor), limit + 1, subject)
    return page_of(request, found[:limit], len(found) > limit, start(request, cursor)).response()


class HeadView(BaseModel):
    """Where the record ends now. id is what a stream takes as Last-Event-ID, cursor what a list takes."""

    id: str
    cursor: str


@router.get(
    "/v1/ledger/head",
    operation_id="getLedgerHead",
    response_model=HeadView,
    summary="Where the record ends",
    tags=["ledger"],
)
async def ledger_head(request: Request, door: Annotated[Door[ReadSession], reading("ledger.read")]) -> Response:
    """The place of the newest fact: from there on a stream or a list tells only what is new."""
    place = await head(door.session)
    return Reply({"id": str(place), "cursor": request.app.state.cursors.seal("facts", [str(place)])}).response()


async def answer(
    door: Door[ReadSession], request: Request, subject: UUID | None, limit: int, cursor: str | None, wait: int
) -> Response:
    after = start(request, cursor)
    if "text/event-stream" in request.headers.get("accept", ""):
        request.app.state.tail.admit()
        return StreamingResponse(
            stream(request, door.caller, subject, after),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
    found = await facts(door.session, after, limit + 1, subject)
    if not found and wait:
        await door.session.connection.rollback()  # a long poll holds no connection while it waits
        await door.session.connection.close()
        found = await long_poll(request, door.caller, subject, after, limit, wait)
    return page_of(request, found[:limit], len(found) > limit, after).response()


async def long_poll(
    request: Request, caller: Caller, subject: UUID | None, after: Position, limit: int, wait: int
) -> list[Fact]:
    async with request.app.state.tail.subscribed(caller.tenant, subject) as subscription:
        found = await read(request, caller, subject, after, limit + 1)
        if not found:
            try:
                async with asyncio.timeout(wait):
                    await subscription.news.wait()
            except TimeoutError:
                return []
            found = await read(request, caller, subject, after, limit + 1)
    return found


async def stream(request: Request, caller: Caller, subject: UUID | None, after: Position) -> AsyncIterator[bytes]:
    """Server-sent events from a position on: first from the database, then from the tail, without a gap or a repeat.

    When the ledger cannot be read any more the stream just ends: the client comes back with Last-Event-ID.
    """
    yield b"retry: 1000\n\n"
    try:
        async with request.app.state.tail.subscribed(caller.tenant, subject) as subscription:
            watch = Watch(request.app.state.rights, caller)
            while not subscription.ended:
                subscription.drain()
                limit = READ_AT_ONCE
                while found := await read(request, caller, subject, after, limit):
                    for piece in pieces(found):
                        yield piece.events
                        if subscription.ended or not await watch.holds():
                            return
                    after, more, limit = found[-1].position, len(found) == limit, READ_ON
                    found = []  # a stream that waits keeps nothing
                    if not more:
                        break
                async for news in live(watch, subscription):
                    fresh = [piece for piece in news if piece.end > after]
                    if fresh:
                        yield b"".join(piece.after(after) for piece in fresh)
                        after = fresh[-1].end
                    elif not news:
                        yield b": still here\n\n"
                if not subscription.overflowed:
                    return
    except Exception as error:
        if not isinstance(error, Problem) and unavailable(error) is None:
            raise
        log.info("stream ended", error=type(error).__name__)


class Watch:
    """Whether one stream's caller may still read, looked at every RECHECK_S, whatever the stream does meanwhile."""

    def __init__(self, rights: Rights, caller: Caller) -> None:
        self.rights, self.caller = rights, caller
        self.due = asyncio.get_running_loop().time() + RECHECK_S

    async def holds(self) -> bool:
        if asyncio.get_running_loop().time() < self.due:
            return True
        held = await self.rights.hold(self.caller)
        self.due = asyncio.get_running_loop().time() + RECHECK_S
        return held


async def live(watch: Watch, subscription: Subscription) -> AsyncIterator[list[Piece]]:
    """Pieces as they come, as many as are written at once; none when it has been quiet. Ends on overflow, shutdown, or when the
    caller lost the right."""
    loop = asyncio.get_running_loop()
    quiet_since = loop.time()
    while not subscription.overflowed:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min(watch.due, quiet_since + KEEP_ALIVE_S)):
                await subscription.news.wait()
        if not await watch.holds():
            return
        if found := subscription.take():
            quiet_since = loop.time()
            yield found
        elif subscription.ended:
            return
        elif loop.time() - quiet_since >= KEEP_ALIVE_S:
            quiet_since = loop.time()
            yield []


async def read(request: Request, caller: Caller, subject: UUID | None, after: Position, limit: int) -> list[Fact]:
    async with request.app.state.database.read() as session:
        await session.enter(caller.tenant)
        return await facts(session, after, limit, subject)


def start(request: Request, cursor: str | None) -> Position:
    """Where to begin: the cursor, else Last-Event-ID, else the beginning."""
    position = request.app.state.cursors.open("facts", cursor, 1)
    if position is not None:
        return Position.parse(str(position[0])) or START
    said = request.headers.get("last-event-id")
    if said is None:
        return START
    parsed = Position.parse(said)
    if parsed is None:
        raise bad_cursor("Last-Event-ID", "must be the id of an event that was received")
    return parsed


def page_of(request: Request, found: list[Fact], more: bool, after: Position) -> Reply:
    """A page whose cursor is always set, so that a client can go on asking from where it is."""
    end = found[-1].position if found else after
    cursor = request.app.state.cursors.seal("facts", [str(end)])
    headers = {"Link": f'<{request.url.include_query_params(cursor=cursor)}>; rel="next"'} if more else {}
    return Reply({"items": views(found), "next_cursor": cursor, "has_more": more}, headers=headers)
