"""One reader per process follows the whole ledger and hands new facts to the streams that want them.

A stream first catches up from the database, then lives on what the tail hands it. A stream too slow for its bounded
queue is told to catch up again; it never makes the tail, or another stream, wait.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

import structlog

from app.db import Database
from app.errors import Problem
from app.ledger import Fact, Position, horizon
from app.ledger.actions import FACTS
from app.ledger.queries import everybodys_facts
from app.nudge import Nudger, wait

log = structlog.get_logger("tail")
BATCH = 500
IDLE_S = 1.0  # how long a lost nudge can go unnoticed
LAGGING_S = 0.02  # while a transaction holds the horizon back
COALESCE_S = 0.003
PATIENCE_S = 5.0
QUEUE = 1000


class Subscription:
    """What one stream wants, and the facts waiting for it."""

    def __init__(self, tenant: UUID, subject: UUID | None) -> None:
        self.tenant, self.subject = tenant, subject
        self.queue: asyncio.Queue[Fact | None] = asyncio.Queue(QUEUE)
        self.overflowed = False

    def offer(self, fact: Fact) -> None:
        if self.overflowed:
            return
        try:
            self.queue.put_nowait(fact)
        except asyncio.QueueFull:
            self.overflowed = True

    def drain(self) -> None:
        """Forgets what waits; the stream is about to read it from the database."""
        while not self.queue.empty():
            self.queue.get_nowait()
        self.overflowed = False


class Tail:
    """Follows the ledger with role reader for as long as anybody listens; without a listener it costs nothing."""

    def __init__(self, database: Database, nudger: Nudger) -> None:
        self.database, self.nudger = database, nudger
        # None: nobody listened; the next listener starts it at the horizon of then
        self.position: Position | None = None
        # set while position is: a listener catches up only after that, or facts would fall between
        self.placed = asyncio.Event()
        self.interest = asyncio.Event()
        self.stopped = False
        # by tenant and subject; subject None wants everything of the tenant
        self.wanted: dict[tuple[UUID, UUID | None], set[Subscription]] = {}
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.task = asyncio.create_task(self._run(), name="ledger tail")

    async def stop(self) -> None:
        """Ends every stream, and lets none begin."""
        self.stopped = True
        for group in self.wanted.values():
            for subscription in group:
                with contextlib.suppress(asyncio.QueueFull):
                    subscription.queue.put_nowait(None)
        if self.task:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task

    def admit(self) -> None:
        """Raises Problem when the process is shutting down: no stream begins that would end at once."""
        if self.stopped:
            raise Problem("draining", "This process is shutting down.", retry_after=1)

    @contextlib.asynccontextmanager
    async def subscribed(self, tenant: UUID, subject: UUID | None) -> AsyncIterator[Subscription]:
        """Facts from now on. What is below the horizon when the block begins is the listener's to read.

        Raises Problem when the process is shutting down or the tail cannot read.
        """
        self.admit()
        subscription = Subscription(tenant, subject)
        group = self.wanted.setdefault((tenant, subject), set())
        group.add(subscription)
        self.interest.set()
        try:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self.placed.wait()
            except TimeoutError:
                raise Problem(
                    "database_unavailable", "The ledger cannot be followed at the moment.", retry_after=2
                ) from None
            yield subscription
        finally:
            group.discard(subscription)
            if not group and self.wanted.get((tenant, subject)) is group:
                del self.wanted[tenant, subject]

    async def _run(self) -> None:
        with self.nudger.listening(FACTS) as woken:
            while True:
                if not self.wanted:
                    self.position = None
                    self.placed.clear()
                    self.interest.clear()
                    await self.interest.wait()
                try:
                    lagging = await self._read()
                except Exception as error:  # the tail outlives any fault of the database
                    log.warning("the tail could not read", error=type(error).__name__)
                    await asyncio.sleep(IDLE_S)
                    continue
                await asyncio.sleep(COALESCE_S)  # many commits, one look
                await wait(woken, LAGGING_S if lagging else IDLE_S)

    async def _read(self) -> bool:
        """Hands on everything up to the horizon. True: a running transaction holds the horizon back, so look again soon."""
        while True:
            async with self.database.read() as session:
                low, lagging = await horizon(session)
                if self.position is None:
                    self.position = Position(low, 0)
                    self.placed.set()
                found = await everybodys_facts(session, self.position, BATCH)
            for fact in found:
                self._hand(fact)
                self.position = fact.position
            if len(found) < BATCH:
                return lagging

    def _hand(self, fact: Fact) -> None:
        for subject in (None, fact.subject):
            for subscription in self.wanted.get((fact.tenant, subject), ()):
                subscription.offer(fact)
