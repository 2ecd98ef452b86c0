"""Group commit: what many requests want of the database at the same moment is done together, in one statement and one commit.

Whatever is pending when a connection is free goes at once. There is no timer, so a lone request waits for nobody; under
load each commit carries more. A batch that fails as a whole is repeated one by one, so that a failure meets its own
request only; nobody waits longer than a moment for what others hold.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

import asyncpg
import structlog

from app.db import after_commit, unavailable
from app.errors import Problem
from app.telemetry import POOL_EXHAUSTED

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_TOGETHER = 64
FEW = 16  # so many go together always
MOST_BYTES = 2_000_000  # of what goes together; a single item may be larger
MOST_PENDING = 10_000
LOST = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError, OSError, TimeoutError)
log = structlog.get_logger("batch")


@dataclass
class Pending(Generic[Item, Result]):
    """One request's wish; answer is set when its commit is durable, or when it failed."""

    item: Item
    answer: "asyncio.Future[Result]"
    weight: int = 1
    since: float = field(default_factory=time.monotonic)


class Batches(Generic[Item, Result]):
    """run does the items of a batch over one connection, in a transaction of its own, and answers each in turn. A batch whose run
    raises is done again; so what is counted and told once it is committed is done by told, which fails nobody.

    connect opens such a connection. size says of an item how many bytes it brings, and weigh for how many it counts.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        run: Callable[[asyncpg.Connection, Sequence[Item]], Awaitable[Sequence[Result]]],
        size: Callable[[Item], int],
        *,
        name: str,
        weigh: Callable[[Item], int] = lambda _: 1,
        told: Callable[[Sequence[Item], Sequence[Result]], None] | None = None,
        connections: int = 2,
        wait_ms: int = 1000,
    ) -> None:
        self.connect, self.run, self.size, self.name, self.told = connect, run, size, name, told
        self.weigh = weigh
        self.connections, self.wait_s = connections, wait_ms / 1000
        self.pending: deque[Pending[Item, Result]] = deque()
        self.riding = 0  # how many are in batches that the database has
        self.idle: list[asyncio.Event] = []  # of each hand that has nothing to do; who was busy last is on top
        self.tasks: list[asyncio.Task[None]] = []
        POOL_EXHAUSTED.labels(name)

    def start(self) -> None:
        self.idle = []
        self.tasks = [asyncio.create_task(self._hand(), name=f"{self.name} {n}") for n in range(self.connections)]
        self.tasks.append(asyncio.create_task(self._impatience(), name=f"{self.name} impatience"))

    async def stop(self) -> None:
        """After the last request was answered; what still waits, or comes later, is told that the service ends."""
        tasks, self.tasks = self.tasks, []
        for task in tasks:
            task.cancel()
        left, self.pending = list(self.pending), deque()
        for one in left:
            fail(one, busy())
        await asyncio.gather(*tasks, return_exceptions=True)

    async def put(self, item: Item) -> Result:
        """The result of one item, once it is committed. Raises what run raised for it, or Problem database_busy."""
        if not self.tasks:
            raise busy()
        if len(self.pending) >= MOST_PENDING:
            raise self._exhausted()
        one: Pending[Item, Result] = Pending(item, asyncio.get_running_loop().create_future(), self.weigh(item))
        self.pending.append(one)
        if self.idle:
            self.idle.pop().set()
        return await one.answer

    async def _hand(self) -> None:
        connection: asyncpg.Connection | None = None
        wake = asyncio.Event()
        try:
            while True:
                while not self.pending:
                    wake.clear()  # the next lone one comes this way, too: what a session has looked up once it knows
                    self.idle.append(wake)
                    await wake.wait()
                # one turn of the loop for those who are just arriving: they would otherwise wait for a whole commit
                await asyncio.sleep(0)
                if together := self._cut():
                    weight = sum(one.weight for one in together)
                    self.riding += weight
                    try:
                        connection = await self._try(connection, together)
                    finally:
                        self.riding -= weight
        finally:
            if connection is not None:
                with contextlib.suppress(Exception):
                    await connection.close(timeout=1)

    def _cut(self) -> list[Pending[Item, Result]]:
        """The oldest of what is pending: a connection's share of everybody who is here.

        If one batch took them all, they would all come back at once: this process would be idle while the database works, and
        the other way round. In shares, some are worked on here while others are there.
        """
        together: list[Pending[Item, Result]] = []
        most = MOST_TOGETHER * self.connections  # more of them change no share
        room, here = MOST_BYTES, self.riding + sum(one.weight for one in islice(self.pending, most))
        share = min(MOST_TOGETHER, max(FEW, -(-here // self.connections)))
        while self.pending and share > 0:
            one = self.pending[0]
            if not one.answer.done():
                room, share = room - self.size(one.item), share - one.weight
                if together and (room < 0 or share < 0):
                    break
                together.append(one)
            self.pending.popleft()
        return together

    async def _try(
        self, connection: asyncpg.Connection | None, together: list[Pending[Item, Result]]
    ) -> asyncpg.Connection | None:
        """Does a batch, and answers everybody in it; answers the connection for the next one, None when it is lost."""
        try:
            if connection is None or connection.is_closed():
                connection = await self.connect()
        except Exception as error:
            self._lost(None, together, error)
            return None
        except asyncio.CancelledError:
            fail_all(together, busy())
            raise
        try:
            items = [one.item for one in together]
            results = await self.run(connection, items)
            if self.told is not None:
                with after_commit():
                    self.told(items, results)
            for one, result in zip(together, results, strict=True):
                if not one.answer.done():
                    one.answer.set_result(result)
        except Exception as error:
            if lost(error):
                self._lost(connection, together, error)
                return None
            if len(together) == 1:
                fail(together[0], error)
                return connection
            log.info("a batch is repeated one by one", batch=self.name, items=len(together), error=type(error).__name__)
            return await self._one_by_one(connection, together)
        finally:
            # only when this was cancelled is anybody left: nobody knows whether it was committed
            fail_all(together, unknown())
        return connection

    async def _one_by_one(
        self, connection: asyncpg.Connection | None, together: list[Pending[Item, Result]]
    ) -> asyncpg.Connection | None:
        for one in together:
            if one.answer.done():
                continue
            if time.monotonic() - one.since > 2 * self.wait_s:
                fail(one, self._exhausted())
            else:
                connection = await self._try(connection, [one])
        return connection

    def _lost(
        self, connection: asyncpg.Connection | None, together: list[Pending[Item, Result]], error: Exception
    ) -> None:
        """Whether a batch was committed nobody knows when its connection broke, as with any request."""
        log.warning("a batch lost its connection", batch=self.name, items=len(together), error=type(error).__name__)
        if connection is not None:
            connection.terminate()
        fail_all(together, error)

    async def _impatience(self) -> None:
        """A database that hangs holds the batches that it has; nobody else waits for it."""
        while True:
            await asyncio.sleep(self.wait_s / 4)
            too_long = time.monotonic() - self.wait_s
            while self.pending and self.pending[0].since < too_long:
                one = self.pending.popleft()
                if not one.answer.done():
                    fail(one, self._exhausted())

    def _exhausted(self) -> Problem:
        """What somebody is told who has waited long enough; counted, as for a session that got no connection."""
        POOL_EXHAUSTED.labels(self.name).inc()
        return busy()


def lost(error: Exception) -> bool:
    """Whether the connection is gone."""
    return isinstance(error, LOST) and not isinstance(error, asyncpg.DataError)


def fail_all(together: Sequence[Pending[Item, Result]], error: BaseException) -> None:
    for one in together:
        fail(one, error)


def fail(one: Pending[Item, Result], error: BaseException) -> None:
    if not one.answer.done():
        one.answer.set_exception(unavailable(error) or error)


def busy() -> Problem:
    return Problem("database_busy", "Every database connection is in use.", retry_after=1)


def unknown() -> Problem:
    return Problem("database_unavailable", "The process ended before the database answered.", retry_after=2)
