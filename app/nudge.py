"""Wake-ups between processes over LISTEN/NOTIFY: speed, never truth.

One connection per process. NOTIFY inside every transaction would serialize commits, so commits only mark a channel
and this connection sends one NOTIFY for all marks it finds. A lost wake-up costs a listener one polling interval.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator

import asyncpg
import structlog

from app.db import Way
from app.settings import Address

log = structlog.get_logger("nudge")
RECONNECT_S = 1.0


class Nudger:
    """Sends and receives wake-ups. wake(channel) is an asyncio.Event-like generation that waiters compare."""

    def __init__(self, address: Address | str, channels: Iterable[str]) -> None:
        # a NOTIFY is a transaction too; nobody has to wait until the disk has it, least of all who is to be woken
        direct = Address.of(Address.of(address).direct_url)
        self.way = Way(direct, "mission-root nudger", {"synchronous_commit": "off"})
        self.channels = tuple(channels)
        self.marked: set[str] = set()
        self.mark = asyncio.Event()
        self.waiters: dict[str, set[asyncio.Event]] = {}
        self.task: asyncio.Task[None] | None = None
        self.connected = False

    def start(self) -> None:
        self.task = asyncio.create_task(self._run(), name="nudger")

    async def stop(self) -> None:
        if self.task:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task

    def send(self, channels: Iterable[str]) -> None:
        """Marks channels; waiters of this process wake at once, those of others with the next NOTIFY."""
        for channel in channels:
            self.marked.add(channel)
            self._wake(channel)
        self.mark.set()

    @contextlib.contextmanager
    def listening(self, channel: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the channel is nudged; the holder clears it before looking."""
        event = asyncio.Event()
        self.waiters.setdefault(channel, set()).add(event)
        try:
            yield event
        finally:
            self.waiters[channel].discard(event)

    def _wake(self, channel: str) -> None:
        for event in self.waiters.get(channel, ()):
            event.set()

    def _heard(self, _connection: object, _pid: int, channel: str, _payload: str) -> None:
        self._wake(channel)

    async def _run(self) -> None:
        while True:
            try:
                await self._serve()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
                self.connected = False
                log.warning("nudger lost its connection", error=type(error).__name__)
                await asyncio.sleep(RECONNECT_S)

    async def _serve(self) -> None:
        connection = await self.way.connect()
        try:
            for channel in self.channels:
                await connection.add_listener(channel, self._heard)
            self.connected = True
            for channel in self.channels:
                self._wake(channel)  # whatever was said while nobody listened
            lost = asyncio.Event()

            def closed(_connection: object) -> None:
                lost.set()
                self.mark.set()

            connection.add_termination_listener(closed)
            while not lost.is_set():
                await self.mark.wait()
                self.mark.clear()
                marked, self.marked = self.marked, set()
                if marked:
                    await connection.execute("; ".join(f"NOTIFY {channel}" for channel in sorted(marked)))
            raise ConnectionError("the server closed the nudger's connection")
        finally:
            with contextlib.suppress(Exception):
                await connection.close(timeout=1)


async def wait(event: asyncio.Event, seconds: float) -> None:
    """Returns when the event is set, or after the time: the two are the same to a poller."""
    # not wait_for: in Python 3.11 it swallows a cancellation that comes together with the event, and nobody stops then
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    event.clear()
