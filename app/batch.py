"""Group commit: what many requests want of the database at the same moment is done together, in one statement and one commit.

Whatever is pending when a connection is free goes at once. There is no timer, so a lone request waits for nobody; under
load each commit carries more. A batch that fails as a whole is repeated one by one, so that a failure meets its own
request only.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import asyncpg

from app.db import asyncpg_url, unavailable
from app.errors import Problem

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_TOGETHER = 64
MOST_PENDING = 10_000
LOST = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError, OSError, TimeoutError)


@dataclass
class Pending(Generic[Item, Result]):
    """One request's wish; answer is set when its commit is durable, or when it failed."""

    item: Item
    answer: "asyncio.Future[Result]"
    since: float = field(default_factory=time.monotonic)


class Batches(Generic[Item, Result]):
    """run does the items of a batch over one connection, in a transaction of its own, and answers each in turn."""

    def __init__(
        self,
        url: str,
        run: Callable[[asyncpg.Connection, Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        name: str,
        connections: int = 2,
        wait_ms: int = 1000,
    ) -> None:
        self.url, self.run, self.name, self.connections, self.wait_s = (
            asyncpg_url(url),
            run,
            name,
            connections,
            wait_ms / 1000,
        )
        self.pending: deque[Pending[Item, Result]] = deque()
        self.wake = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []
        self.free = 0  # hands that wait for something to do

    def start(self) -> None:
        self.tasks = [asyncio.create_task(self._hand(), name=f"{self.name} {n}") for n in range(self.connections)]
        self.tasks.append(asyncio.create_task(self._impatience(), name=f"{self.name} impatience"))

    async def stop(self) -> None:
        """After the last request was answered; what still waits is told that the service ends."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for one in self._drain():
            one.answer.set_exception(busy())

    async def put(self, item: Item) -> Result:
        """The result of one item, once it is committed. Raises what run raised for it, or Problem database_busy."""
        if len(self.pending) >= MOST_PENDING:
            raise busy()
        one: Pending[Item, Result] = Pending(item, asyncio.get_running_loop().create_future())
        self.pending.append(one)
        self.wake.set()
        return await one.answer

    async def _hand(self) -> None:
        connection: asyncpg.Connection | None = None
        try:
            while True:
                while not self.pending:
                    self.wake.clear()
                    await self.wake.wait()
                # one turn of the loop for those who are just arriving: they would otherwise wait for a whole commit
                await asyncio.sleep(0)
                together = [self.pending.popleft() for _ in range(min(MOST_TOGETHER, len(self.pending)))]
                together = [one for one in together if not one.answer.done()]
                if together:
                    connection = await self._try(connection, together)
        finally:
            if connection is not None:
                with contextlib.suppress(Exception):
                    await connection.close(timeout=1)

    async def _try(
        self, connection: asyncpg.Connection | None, together: list[Pending[Item, Result]]
    ) -> asyncpg.Connection | None:
        """Does a batch; answers the connection for the next one, None when it is lost."""
        try:
            if connection is None or connection.is_closed():
                connection = await self._connect()
            results = await self.run(connection, [one.item for one in together])
        except LOST as error:
            if connection is not None:
                connection.terminate()
            for one in together:  # whether it was committed nobody knows: as with any request whose connection broke
                fail(one, error)
            return None
        except Exception as error:
            if len(together) == 1:
                fail(together[0], error)
            else:
                for one in together:
                    connection = await self._try(connection, [one])
        except asyncio.CancelledError:
            for one in together:
                fail(one, busy())
            raise
        else:
            for one, result in zip(together, results, strict=True):
                if not one.answer.done():
                    one.answer.set_result(result)
        return connection

    async def _connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(
            self.url, timeout=5, command_timeout=25, server_settings={"application_name": f"mission-root {self.name}"}
        )

    async def _impatience(self) -> None:
        """A database that hangs holds the batches that it has; nobody else waits for it."""
        while True:
            await asyncio.sleep(self.wait_s / 4)
            too_long = time.monotonic() - self.wait_s
            while self.pending and self.pending[0].since < too_long:
                fail(self.pending.popleft(), busy())

    def _drain(self) -> list[Pending[Item, Result]]:
        left, self.pending = [one for one in self.pending if not one.answer.done()], deque()
        return left


def fail(one: Pending[Item, Result], error: BaseException) -> None:
    if not one.answer.done():
        one.answer.set_exception(unavailable(error) or error)


def busy() -> Problem:
    return Problem("database_busy", "Every database connection is in use.", retry_after=1)
