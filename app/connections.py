"""Connections to one side of the world that wait for their next request: httpcore's own connections, kept by us.

httpcore's pool looks at every connection and asks the system about each idle one whenever a request begins or ends, which grows
with the square of what is under way. Here the connection that came back last is looked at, and no other (record 0067).
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import anyio
import httpcore

One = httpcore.AsyncHTTPConnection


class Connections:
    """What httpx asks instead of a pool of httpcore's. A connection carries one request at a time, of one scheme, name and port.

    most: requests under way at once, the others wait; idle: connections that wait for a request, of all names together, and idle_s:
    for how long. Raises what httpcore's pool raises.
    """

    def __init__(
        self, context: ssl.SSLContext, backend: httpcore.AsyncNetworkBackend, *, most: int, idle: int, idle_s: float
    ) -> None:
        self.context, self.backend, self.idle, self.idle_s = context, backend, idle, idle_s
        self.room = asyncio.Semaphore(most)
        self.busy: set[One] = set()
        self.kept: list[tuple[float, One]] = []  # with when its time is over; who came back last stands last

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        await self.enter(request.extensions.get("timeout", {}).get("pool"))
        one = None
        try:
            one = await self.take(request.url.origin)
            answer = await one.handle_async_request(request)
        except httpcore.ConnectionNotAvailable as closed:  # httpcore's word to its own pool: nothing was sent
            await self.leave(one)
            raise httpcore.ConnectError("the connection was closed before it was used") from closed
        except BaseException:
            await self.leave(one)
            raise
        return httpcore.Response(
            answer.status,
            headers=answer.headers,
            content=Answer(self, one, answer.stream),
            extensions=answer.extensions,
        )

    async def enter(self, wait_s: float | None) -> None:
        if not self.room.locked():
            await self.room.acquire()
            return
        try:
            async with asyncio.timeout(wait_s):
                await self.room.acquire()
        except TimeoutError as late:
            raise httpcore.PoolTimeout("no connection was free in time") from late

    async def take(self, origin: httpcore.Origin) -> One:
        """The youngest connection that is kept for an origin, or a new one. It counts as busy."""
        while (one := self.youngest(origin)) is not None:
            if not one.has_expired():  # nor has the other side closed it meanwhile
                break
            await shut([one])
        else:
            one = One(origin, self.context, keepalive_expiry=self.idle_s, network_backend=self.backend)
        self.busy.add(one)
        return one

    def youngest(self, origin: httpcore.Origin) -> One | None:
        for place in range(len(self.kept) - 1, -1, -1):
            if self.kept[place][1].can_handle_request(origin):
                return self.kept.pop(place)[1]
        return None

    async def leave(self, one: One | None) -> None:
        """After a request, however it went: a connection that is in order waits for the next one."""
        self.room.release()
        over, now = [], time.monotonic()
        if one is not None and one in self.busy:  # else everything was closed meanwhile
            self.busy.remove(one)
            if one.is_idle() and not one.is_closed():  # one that never connected is both
                self.kept.append((now + self.idle_s, one))
            else:
                over.append(one)
        while self.kept and (len(self.kept) > self.idle or self.kept[0][0] < now):
            over.append(self.kept.pop(0)[1])
        await shut(over)

    async def aclose(self) -> None:
        every = [*self.busy, *(one for _, one in self.kept)]
        self.busy, self.kept = set(), []
        await shut(every)

    async def __aenter__(self) -> "Connections":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class Answer:
    """The bytes of an answer. When they have ended, or are closed, the connection goes back, once."""

    def __init__(self, connections: Connections, one: One, stream: Any) -> None:
        self.connections, self.one, self.stream, self.closed = connections, one, stream, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self.stream:
                yield part
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        if self.closed:
            return
        self.closed = True
        try:
            with anyio.CancelScope(shield=True):
                await self.stream.aclose()
        finally:
            await self.connections.leave(self.one)


async def shut(every: list[One]) -> None:
    """Closes connections, all of them also for somebody who is cancelled meanwhile."""
    if every:
        await asyncio.shield(asyncio.gather(*(one.aclose() for one in every), return_exceptions=True))
