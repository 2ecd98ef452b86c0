"""One reader per process follows the whole ledger and hands new facts to the streams that want them.

A stream first catches up from the database, then lives on what the tail hands it: pieces, made once and shared by all streams
that want the same facts. A stream for which too much waits is told to catch up again; it never makes the tail, or another
stream, wait.
"""

import asyncio
import contextlib
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from uuid import UUID

import structlog

from app.db import Database
from app.errors import Problem
from app.ledger import Fact, Position
from app.ledger.actions import FACTS
from app.ledger.queries import everybodys_facts
from app.nudge import Nudger, wait

log = structlog.get_logger("tail")
BATCH = 500
IDLE_S = 1.0  # how long a lost nudge can go unnoticed
LAGGING_S = 0.02  # while a transaction holds the horizon back
COALESCE_S = 0.003
PATIENCE_S = 5.0
PIECE = 65_536  # bytes of a stream that are written at once
MOST_WAITING = 8 * 2**20  # bytes for one stream; streams that want the same facts share them


@dataclass(frozen=True, slots=True)
class Piece:
    """The events of a stream that tell some facts, in reading order; where each fact is, and where its event begins."""

    places: tuple[Position, ...]
    begins: tuple[int, ...]
    events: bytes

    def after(self, place: Position) -> bytes:
        """The events of those facts that come after a place."""
        seen = bisect_right(self.places, place)
        return self.events[self.begins[seen] :] if seen < len(self.places) else b""

    @property
    def end(self) -> Position:
        return self.places[-1]


def pieces(facts: Iterable[Fact]) -> Iterator[Piece]:
    """Few, since each costs the server and the network; but a reader who stands still is handed no more than one."""
    places: list[Position] = []
    begins: list[int] = []
    events: list[bytes] = []
    size = 0
    for fact in facts:
        places.append(fact.position)
        begins.append(size)
        events.append(event_of(fact))
        size += len(events[-1])
        if size >= PIECE:
            yield Piece(tuple(places), tuple(begins), b"".join(events))
            places, begins, events, size = [], [], [], 0
    if places:
        yield Piece(tuple(places), tuple(begins), b"".join(events))


def event_of(fact: Fact) -> bytes:
    return f"id: {fact.position}\nevent: {fact.type}\ndata: {fact.text}\n\n".encode()


class Subscription:
    """What one stream wants, and the pieces waiting for it."""

    def __init__(self, tenant: UUID, subject: UUID | None) -> None:
        self.tenant, self.subject = tenant, subject
        self.waiting: deque[Piece] = deque()
        self.size = 0  # of their events, in bytes
        self.overflowed = self.ended = False
        self.news = (
            asyncio.Event()
        )  # set while a look is worth it: a piece waits, too much waited, or the process stops

    def offer(self, piece: Piece) -> None:
        if self.overflowed:
            return
        if self.size + len(piece.events) > MOST_WAITING and self.waiting:
            self.waiting.clear()
            self.size, self.overflowed = 0, True
        else:
            self.waiting.append(piece)
            self.size += len(piece.events)
        self.news.set()

    def take(self) -> list[Piece]:
        """What waits, up to what is written at once."""
        found: list[Piece] = []
        size = 0
        while self.waiting and (not found or size + len(self.waiting[0].events) <= PIECE):
            found.append(self.waiting.popleft())
            size += len(found[-1].events)
        self.size -= size
        if not (self.waiting or self.overflowed or self.ended):
            self.news.clear()
        return found

    def drain(self) -> None:
        """Forgets what waits; the stream is about to read it from the database."""
        self.waiting.clear()
        self.size, self.overflowed = 0, False
        if not self.ended:
            self.news.clear()

    def end(self) -> None:
        self.ended = True
        self.news.set()


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
                subscription.end()
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
            news = await everybodys_facts(self.database, self.position, BATCH)
            if self.position is None:
                self.position = Position(news.low, 0)
                self.placed.set()
                continue
            if news.facts:
                self._hand(news.facts)
                self.position = news.facts[-1].position
            if len(news.facts) < BATCH:
                return news.lagging

    def _hand(self, found: list[Fact]) -> None:
        shares: dict[tuple[UUID, UUID | None], list[Fact]] = {}
        for fact in found:
            for subject in (None, fact.subject):
                if (fact.tenant, subject) in self.wanted:
                    shares.setdefault((fact.tenant, subject), []).append(fact)
        for share, facts in shares.items():
            for piece in pieces(facts):
                for subscription in self.wanted[share]:
                    subscription.offer(piece)
