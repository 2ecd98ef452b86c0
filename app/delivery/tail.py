"""One reader per process follows the whole ledger and hands new facts to the streams that want them.

A stream first catches up from the database, then lives on what the tail hands it. A stream too slow for its bounded
queue is told to catch up again; it never makes the tail, or another stream, wait.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from uuid import UUID

import structlog

from app.db import Database
from app.ledger import Fact, Position, horizon
from app.ledger.actions import FACTS
from app.ledger.queries import everybodys_facts
from app.nudge import Nudger, wait

log = structlog.get_logger("tail")
BATCH = 500
IDLE_S = 1.0  # how long a lost nudge can go unnoticed
LAGGING_S = 0.02  # while a transaction holds the horizon back
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
    """Follows the ledger with role reader from the moment it starts."""

    def __init__(self, database: Database, nudger: Nudger) -> None:
        self.database, self.nudger = database, nudger
        self.position: Position | None = None
        # by tenant and subject; subject None wants everything of the tenant
        self.wanted: dict[tuple[UUID, UUID | None], set[Subscription]] = {}
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.task = asyncio.create_task(self._run(), name="ledger tail")

    async def stop(self) -> None:
        for group in self.wanted.values():
            for subscription in group:
                with contextlib.suppress(asyncio.QueueFull):
                    subscription.queue.put_nowait(None)
        if self.task:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task

    @contextlib.contextmanager
    def subscribed(self, tenant: UUID, subject: UUID | None) -> Iterator[Subscription]:
        subscription = Subscription(tenant, subject)
        group = self.wanted.setdefault((tenant, subject), set())
        group.add(subscription)
        try:
            yield subscription
        finally:
            group.discard(subscription)
            if not group and self.wanted.get((tenant, subject)) is group:
                del self.wanted[tenant, subject]

    async def _run(self) -> None:
        with self.nudger.listening(FACTS) as woken:
            while True:
                try:
                    open_transactions = await self._read()
                except Exception as error:  # the tail outlives any fault of the database
                    log.warning("the tail could not read", error=type(error).__name__)
                    await asyncio.sleep(IDLE_S)
                    continue
                await wait(woken, LAGGING_S if open_transactions else IDLE_S)

    async def _read(self) -> bool:
        async with self.database.read() as session:
            low, open_transactions = await horizon(session)
            if self.position is None:
                self.position = Position(low, 0)
        while True:
            async with self.database.read() as session:
                found = await everybodys_facts(session, self.position, BATCH)
            for fact in found:
                self._hand(fact)
                self.position = fact.position
            if len(found) < BATCH:
                return open_transactions

    def _hand(self, fact: Fact) -> None:
        for subject in (None, fact.subject):
            for subscription in self.wanted.get((fact.tenant, subject), ()):
                subscription.offer(fact)
