"""Publishing: one worker at a time reads the ledger from the cursor on and puts each fact on the stream.

Where to go on is known twice: from the cursor in Postgres, which moves after the bus has acknowledged, and from the last
message of the stream, which is ahead of the cursor when a publisher died between the two. Both agree on positions, so
that a fact is sent again only when the bus has lost it. Whoever holds the cursor may publish; whoever lost it unknowingly
is refused by the stream itself (`app/delivery/bus/stream.py`).
"""

import asyncio
import contextlib
import random
from datetime import timedelta

import structlog

from app.clock import now
from app.db import Database
from app.delivery.bus import cursor
from app.delivery.bus.cursor import Hold, Lost
from app.delivery.bus.stream import ANSWER_S, Message, Place, StartOver, Stream, Unreachable, opened
from app.ledger import FACTS, Fact, Position
from app.ledger.queries import everybodys_facts
from app.nudge import Nudger, wait
from app.telemetry import BUS_FACTS, BUS_LAG

log = structlog.get_logger("bus")

BATCH = 500  # facts in memory, and unacknowledged, at most
LEASE_S = 15.0  # longer than a batch can take; after a crash another worker begins when it has run out
BEAT_S = 3.0  # how often the stream is looked at, and the lease kept, while there is nothing to publish
LAGGING_S = 0.1  # while a transaction holds the horizon back
COALESCE_S = 0.01
STANDBY_S = 1.0
PAUSE_S = 1.0
LONGEST_PAUSE_S = 10.0


class Publisher:
    """database: role worker, which keeps the cursor; reader: role reader, which sees every tenant's facts."""

    def __init__(self, database: Database, reader: Database, nudger: Nudger, place: Place) -> None:
        self.database, self.reader, self.nudger, self.place = database, reader, nudger, place
        self.failures = 0  # in a row
        self.safe_until = 0.0  # on the loop's clock: a batch that begins before this is over before the lease is

    async def run(self) -> None:
        """Publishes, or stands by, until cancelled."""
        with self.nudger.listening(FACTS) as woken:
            while not cancelled():
                pause = STANDBY_S
                try:
                    hold = await cursor.take(self.database, timedelta(seconds=LEASE_S))
                    if hold:
                        await self.hold(hold, woken)
                except Lost:
                    log.warning("another worker publishes to the bus now")
                except Exception as error:  # the bus is away, or the database: whatever it is, try again, for ever
                    self.failures += 1
                    pause = min(PAUSE_S * 2 ** min(self.failures - 1, 8), LONGEST_PAUSE_S) * random.uniform(0.8, 1.2)  # noqa: S311
                    if self.failures == 1 or pause > LONGEST_PAUSE_S * 0.8:
                        log.warning("facts cannot be published", why=said(error), failures=self.failures)
                with contextlib.suppress(Exception):
                    await self.measure()
                await asyncio.sleep(pause)

    async def close(self) -> None:
        await self.reader.close()

    async def hold(self, hold: Hold, woken: asyncio.Event) -> None:
        """Publishes as long as it goes well, and gives the cursor back in the end, with the reason when it did not."""
        why: str | None = None
        if not self.failures:
            log.info("this worker publishes to the bus", fence=hold.fence, after=str(hold.after))
        try:
            while not cancelled():
                before = hold.after
                try:
                    await self.publish(hold, woken)
                except StartOver as error:
                    if hold.after == before and self.failures:
                        raise  # looking again has not helped
                    self.failures += 1
                    log.warning("looking at the stream again", why=said(error))
        except Exception as error:
            why = said(error)
            raise
        finally:
            with contextlib.suppress(Exception):
                await cursor.give_back(self.database, hold, why)

    async def publish(self, hold: Hold, woken: asyncio.Event) -> None:
        """Runs until something goes wrong. Raises Unreachable, StartOver, Lost, or what the database raises."""
        async with opened(self.place) as stream:
            last = await self.settle_in(stream, hold)
            clock = asyncio.get_running_loop().time
            kept = clock()
            while not cancelled():
                found, lagging = await self.following(hold.after)
                if found:
                    await self.hand_on(stream, hold, found, last)
                    last, kept = None, clock()
                elif clock() - kept >= BEAT_S:
                    await stream.check(hold.made)
                    await self.keep(hold)
                    kept, self.failures = clock(), 0
                BUS_LAG.set(age(found) if len(found) == BATCH else 0)
                if len(found) < BATCH:
                    await asyncio.sleep(COALESCE_S)  # many commits, one batch
                    await wait(woken, LAGGING_S if lagging else BEAT_S)

    async def settle_in(self, stream: Stream, hold: Hold) -> Message | None:
        """Compares the stream with what the cursor knows of it; gives its last message."""
        found = await stream.look()
        if hold.made is None:
            log.info("the stream is new to this ledger", stream=self.place.stream, made=found.fresh)
        elif found.made != hold.made:
            log.error(
                "the stream was gone and was made again: earlier facts are in the ledger, not in the stream",
                stream=self.place.stream,
                after=str(hold.after),
            )
        elif found.seq < hold.seq:  # its machine died before it had written down what it acknowledged
            back = Position.parse(found.last.id) if found.last else None
            if back is not None and back < hold.after:
                hold.after = back
            log.error("the bus lost messages", lost=hold.seq - found.seq, sent_again_after=str(back) if back else None)
        hold.made, hold.seq = found.made, found.seq
        await self.keep(hold)
        return found.last

    async def following(self, after: Position) -> tuple[list[Fact], bool]:
        """The next facts of everybody, and whether a running transaction holds further ones back."""
        news = await everybodys_facts(self.reader, after, BATCH)
        return news.facts, news.lagging

    async def hand_on(self, stream: Stream, hold: Hold, found: list[Fact], last: Message | None) -> None:
        """Puts facts on the stream and moves the cursor behind those that are there. last: the stream's end, when just found."""
        messages = [message(self.place.stream, fact) for fact in found]
        there = messages.index(last) + 1 if last in messages else 0  # a publisher died before it moved the cursor
        if asyncio.get_running_loop().time() > self.safe_until:
            await self.keep(hold)  # nobody else begins while these are on their way
        outcome = await stream.put(messages[there:], hold.seq)
        done = there + outcome.stored
        hold.seq = outcome.seq
        if done:
            hold.after = found[done - 1].position
            await self.keep(hold)
            BUS_FACTS.inc(done)
            self.failures = 0
        if outcome.error:
            raise outcome.error

    async def keep(self, hold: Hold) -> None:
        self.safe_until = asyncio.get_running_loop().time() + LEASE_S - 2 * ANSWER_S
        await cursor.keep(self.database, hold, timedelta(seconds=LEASE_S))

    async def measure(self) -> None:
        """The lag while this worker does not publish."""
        BUS_LAG.set(age((await everybodys_facts(self.reader, await cursor.reached(self.database), 1)).facts))


def message(stream: str, fact: Fact) -> Message:
    """One subject for each mission (or tenant): a consumer that follows one sees its facts in the order of its chain."""
    return Message(str(fact.position), f"{stream}.{fact.tenant}.{fact.subject}", fact.text.encode())


def cancelled() -> bool:
    """Also when the cancellation itself was lost: in Python 3.11 wait_for, which the client library uses, can swallow one."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def said(error: Exception) -> str:
    return str(error) if isinstance(error, Unreachable) else type(error).__name__


def age(found: list[Fact]) -> float:
    return max((now() - found[0].at).total_seconds(), 0.0) if found else 0.0
