"""What one attempt tells the root: events in order, sent again until they are acknowledged, and a sign of life between.

The root may be gone for a while and come back: nothing is dropped, sending goes on with growing pauses for as long as
the attempt lives. Numbers are given when an event is put in; when the root already holds more events of this attempt
than were ever sent from here (a colony that was restarted), the rest is numbered on from there.
"""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import structlog

from colony_client.client import RootClient
from colony_client.contract import Event, EventReceipt, Signal
from colony_client.errors import BoundaryError, Refused, SequenceGap, Superseded, Unauthorized

log = structlog.get_logger()

HEARTBEAT_S = 3.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
BATCH_EVENTS, BATCH_BYTES = 100, 2_000_000
UNAUTHORIZED_TRIES = 5  # a root that restarts may refuse for a moment; one that goes on refusing means it


class Stopped(Exception):
    """This attempt cannot go on: `cancelled` when the root does not want it, `failed` when the root cannot take it."""

    def __init__(self, reason: str, state: Literal["cancelled", "failed"] = "cancelled") -> None:
        super().__init__(reason)
        self.state = state


class Outbox:
    def __init__(self, root: RootClient, mission_id: UUID, attempt: int) -> None:
        self._root, self._mission_id, self._attempt = root, mission_id, attempt
        self._events: list[Event] = []  # all of them: a root restored from a backup may ask for old ones
        self._first = 1  # seq of self._events[0]
        self._acknowledged = 0
        self._sent = 0
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._closed = False
        self._unauthorized = 0
        self._given_up: str | None = None  # why the root will not take what we have to say
        self.trouble: str | None = None  # why the last sending failed; None when it did not

    @property
    def last_seq_sent(self) -> int:
        return self._sent

    def put(self, event: Callable[..., Event], **fields: Any) -> None:
        """Queue an event; it leaves at once if nothing else is on its way, else with what has gathered meanwhile."""
        if self._given_up:
            return
        seq = self._first + len(self._events)
        self._events.append(event(seq=seq, at=datetime.now(UTC), **fields))
        self._settled.clear()
        self._wake.set()

    async def settled(self) -> None:
        """Wait until everything put so far is acknowledged. Raises Stopped when the root would not take it."""
        if self._acknowledged < self._last:
            await self._settled.wait()
        if self._given_up:
            raise Stopped(self._given_up, "failed")

    def close(self) -> None:
        """Stop sending, and let go of the events: thousands of ended attempts are remembered for their status."""
        self._closed = True
        self._wake.set()
        self._events = []

    @property
    def _last(self) -> int:
        return self._first + len(self._events) - 1

    async def run(self) -> None:
        """Send until closed. Raises Stopped when the root says so."""
        pause = FIRST_PAUSE_S
        while not self._closed:
            try:
                await self._send_some()
                pause, self.trouble, self._unauthorized = FIRST_PAUSE_S, None, 0
            except BoundaryError as error:
                wait = self._after(error, pause)
                pause = min(pause * 2, LONGEST_PAUSE_S)
                await asyncio.sleep(wait * random.uniform(1.0, 1.3))  # noqa: S311 (spreads retries; never before the time that was named)
                continue
            if self._acknowledged >= self._last:
                await self._rest()

    async def _rest(self) -> None:
        """Until there is something to say, or the root should hear that we are alive."""
        self._wake.clear()
        if self._acknowledged < self._last or self._closed:
            return
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _send_some(self) -> None:
        batch = self._next_batch()
        if batch:
            self._sent = max(self._sent, batch[-1].seq)
        receipt = await self._root.send_events(self._mission_id, self._attempt, batch)
        self._take(receipt)

    def _next_batch(self) -> list[Event]:
        batch: list[Event] = []
        size = 0
        for event in self._events[max(self._acknowledged + 1 - self._first, 0) :][:BATCH_EVENTS]:
            size += len(event.model_dump_json())
            if batch and size > BATCH_BYTES:
                break
            batch.append(event)
        return batch

    def _take(self, receipt: EventReceipt) -> None:
        if receipt.accepted_seq > self._sent:
            self._renumber(receipt.accepted_seq)
        self._acknowledged = max(self._acknowledged, receipt.accepted_seq)
        if self._acknowledged >= self._last:
            self._settled.set()
            if self._given_up:
                raise Stopped(self._given_up, "failed")
        if receipt.stop and not self._ended_by_us():
            raise Stopped(receipt.stop_reason or "the root asked to stop")

    def _renumber(self, already: int) -> None:
        """The root holds `already` events of an earlier life of this attempt: ours are the ones after those."""
        log.info("continuing the event numbers of an earlier process", seq=already)
        self._events = [
            event.model_copy(update={"seq": already + place}) for place, event in enumerate(self._events, start=1)
        ]
        self._first, self._sent = already + 1, already

    def _ended_by_us(self) -> bool:
        last = self._events[-1] if self._events else None
        return isinstance(last, Signal) and last.ends_attempt and self._acknowledged >= last.seq

    def _give_up(self, reason: str) -> None:
        """Instead of the events that were refused, one that says so; when that is refused too, silence."""
        if self._given_up:
            raise Stopped(self._given_up, "failed")
        self._events = self._events[: max(self._acknowledged + 1 - self._first, 0)]
        self.put(Signal, signal="blocked", reason=reason)
        self._given_up = reason

    def _after(self, error: BoundaryError, pause: float) -> float:
        """How long to wait before the next try; raises Stopped when there is none."""
        self.trouble = f"{error.kind}: {error}"[:500]
        log.warning(
            "events were not taken", kind=error.kind, detail=str(error)[:300], pending=self._last - self._acknowledged
        )
        if isinstance(error, SequenceGap):
            if error.expected_seq < self._first:
                raise Stopped(f"the root expects event {error.expected_seq}, which an earlier process sent")
            self._acknowledged = min(error.expected_seq - 1, self._last)
            return pause if self._acknowledged + 1 > self._last else 0.0
        if isinstance(error, Superseded):
            raise Stopped("the root has moved on")
        if isinstance(error, Unauthorized):
            self._unauthorized += 1
            if self._unauthorized >= UNAUTHORIZED_TRIES:
                raise Stopped("the root refuses our signature or token")
            return pause
        if isinstance(error, Refused) and not error.retryable:
            self._give_up(f"the root refuses our events ({error})"[:2000])
            return pause
        return max(pause, error.retry_after or 0.0) if isinstance(error, Refused) else pause
