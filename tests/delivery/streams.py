"""Reading server-sent events as a client does, and writing facts as fast as a test likes."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx

from app import ledger
from app.caller import Caller, system
from app.db import Database
from tests.world import World
from tests.world.world import served

SSE = {"Accept": "text/event-stream"}


@asynccontextmanager
async def serving(world: World, app: Any = None) -> AsyncIterator[str]:
    """The world's public app on a real socket: ASGITransport would keep a stream back until it ends."""

    async def http_only(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("the world has opened it already")
        await (app or world.public)(scope, receive, send)

    async with served(http_only) as base_url:
        yield base_url


@asynccontextmanager
async def client(base_url: str, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=base_url, headers={"Authorization": f"Bearer {key}"}, timeout=20) as http:
        yield http


class Stream:
    """An open stream: `next()` gives the following event, None when the server has ended it."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.lines = response.aiter_lines()
        self.comments: list[str] = []

    async def next(self, seconds: float = 10) -> dict[str, Any] | None:
        said: dict[str, str] = {}
        async with asyncio.timeout(seconds):
            async for line in self.lines:
                name, _, value = line.partition(": ")
                if line.startswith(":"):
                    self.comments.append(line)
                elif name in ("id", "event", "data"):
                    said[name] = value
                elif not line and "data" in said:
                    fact: dict[str, Any] = json.loads(said["data"])
                    assert (fact["id"], fact["type"]) == (said["id"], said["event"])
                    return fact
        return None


@asynccontextmanager
async def stream(http: httpx.AsyncClient, path: str, last: str | None = None) -> AsyncIterator[Stream]:
    headers = SSE | ({"Last-Event-ID": last} if last else {})
    async with http.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Stream(response)


class Writer:
    """Records facts of a tenant in transactions of its own."""

    def __init__(self, database: Database, tenant: UUID) -> None:
        self.database = database
        self.caller: Caller = system(tenant, "api")

    async def write(self, *subjects: UUID, hold: float = 0) -> None:
        """One transaction with a fact about each subject, kept open for a while before it commits."""
        async with self.database.write() as session:
            await session.enter(self.caller.tenant)
            for subject in sorted(subjects):  # always in one order: two writers may not wait for each other
                await ledger.record(session, self.caller, "test.happened", subject)
                if hold:
                    await asyncio.sleep(hold / len(subjects))

    async def keep_writing(self, subjects: list[UUID], times: int, dice: random.Random) -> None:
        for _ in range(times):
            await self.write(*dice.sample(subjects, dice.randint(1, 2)), hold=dice.choice([0, 0, 0.002, 0.02]))


async def in_reading_order(world: World, tenant: UUID) -> list[tuple[str, str]]:
    """(id, subject) of all facts of a tenant, as every reader must have seen them in the end."""
    connection = await world.connect("admin")
    rows = await connection.fetch(
        "SELECT xid::text || '-' || id AS place, subject FROM ledger WHERE tenant = $1 ORDER BY xid, id", tenant
    )
    return [(row["place"], str(row["subject"])) for row in rows]
