"""The stream on the other side: found or made, its end known, and messages put there one behind the other.

Each message says after which number it belongs (`Nats-Expected-Last-Sequence`). So a message that is lost on the way takes
all behind it along instead of being overtaken, and what a process sends that has lost its turn unknowingly is refused.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

import nats.errors
from nats.aio.client import Client, RawCredentials
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StorageType
from nats.js.errors import APIError, NotFoundError

CONNECT_S = 5
ASK_S = 5.0
ANSWER_S = 5.0  # for a whole batch to be acknowledged
DUPLICATES_S = 120.0  # how long the bus remembers message ids
NO_STREAM, WRONG_END = "503", 10071
NO_TLS = "the bus offers no TLS"
FAULTS = (nats.errors.Error, OSError, TimeoutError)


class Unreachable(Exception):
    """The bus cannot be used now. The message is ours alone: it repeats neither addresses nor what the bus said."""


class StartOver(Unreachable):
    """The stream is not what it was when it was looked at: look again."""


@dataclass(frozen=True)
class Place:
    """Where to publish. credentials: the text of a NATS credentials file."""

    urls: list[str] = field(repr=False)
    credentials: str | None = field(repr=False)
    stream: str
    replicas: int
    max_age_s: float


@dataclass(frozen=True)
class Message:
    """A fact as it is sent."""

    id: str
    subject: str
    payload: bytes


@dataclass(frozen=True)
class Found:
    """The stream as it was found. fresh: it was not there and has been made just now."""

    made: datetime
    seq: int
    last: Message | None
    fresh: bool


@dataclass(frozen=True)
class Outcome:
    """What came of a batch: how many of it, from the first on, are on the stream, its end then, and what stopped the rest."""

    stored: int
    seq: int
    error: Unreachable | None


class CarefulClient(Client):
    """The library asks the server whether to encrypt, and takes its no, tls:// or not. Nothing secret is sent after such a no."""

    secure = False
    fault: Exception | None = None  # the last one of connecting; the library's own only says that there was one

    def _connect_command(self) -> bytes:
        if self.secure and not self._server_info.get("tls_required"):
            raise nats.errors.Error(NO_TLS)
        return super()._connect_command()

    async def failed(self, error: Exception) -> None:
        """Told instead of the library's logging it with whatever it quotes."""
        self.fault = error


class Stream:
    """One connection, which ends with its first fault: what it still held back could otherwise be sent much later."""

    def __init__(self, place: Place, client: Client) -> None:
        self.place, self.client = place, client
        self.jetstream: JetStreamContext = client.jetstream(timeout=ASK_S)
        self.inbox = client.new_inbox()
        self.turn = 0
        self.answers: list[Msg | None] = []
        self.missing = 0
        self.answered = asyncio.Event()

    async def look(self) -> Found:
        """Finds the stream, or makes it. Raises Unreachable."""
        place, fresh = self.place, False
        try:
            try:
                info = await self.jetstream.stream_info(place.stream)
            except NotFoundError:
                fresh = True
                info = await self.jetstream.add_stream(
                    name=place.stream,
                    description="Facts of the ledger, in reading order",
                    subjects=[f"{place.stream}.>"],
                    storage=StorageType.FILE,
                    discard=DiscardPolicy.OLD,
                    num_replicas=place.replicas,
                    max_age=place.max_age_s,
                    duplicate_window=DUPLICATES_S,
                )
            last = await self.message(info.state.last_seq) if info.state.messages else None
        except APIError as refused:
            if refused.err_code is None:
                raise Unreachable("the bus has no JetStream") from None
            raise Unreachable(f"the bus refused the stream (its error {refused.err_code})") from None
        except FAULTS as fault:
            raise Unreachable(told(fault)) from None
        if info.created is None:
            raise Unreachable("the bus does not say when the stream was made")
        return Found(info.created, info.state.last_seq, last, fresh)

    async def message(self, seq: int) -> Message | None:
        try:
            found = await self.jetstream.get_msg(self.place.stream, seq)
        except NotFoundError:
            return None
        return Message((found.headers or {}).get("Nats-Msg-Id", ""), found.subject or "", found.data or b"")

    async def check(self, made: datetime | None) -> None:
        """Whether the stream is still the one that was made then. Raises Unreachable."""
        try:
            info = await self.jetstream.stream_info(self.place.stream)
        except NotFoundError:
            raise StartOver("the stream is gone") from None
        except FAULTS as fault:
            raise Unreachable(told(fault)) from None
        if info.created != made:
            raise StartOver("the stream is another one")

    async def put(self, messages: list[Message], seq: int) -> Outcome:
        """Puts messages behind number seq, without waiting in between. Never raises for what the bus does."""
        self.turn += 1
        self.answers, self.missing = [None] * len(messages), len(messages)
        self.answered.clear()
        with contextlib.suppress(*FAULTS):
            async with asyncio.timeout(ANSWER_S):
                for n, message in enumerate(messages):
                    await self.client.publish(
                        message.subject,
                        message.payload,
                        reply=f"{self.inbox}.{self.turn}.{n}",
                        headers={
                            "Nats-Msg-Id": message.id,
                            "Nats-Expected-Stream": self.place.stream,
                            "Nats-Expected-Last-Sequence": str(seq + n),
                        },
                    )
                await self.answered.wait()
        for n, answer in enumerate(self.answers):
            number = judged(answer)
            if isinstance(number, Unreachable):
                return Outcome(n, seq, number)
            seq = max(seq, number)  # a message that was there already has a lower one
        return Outcome(len(messages), seq, None)

    async def heard(self, message: Msg) -> None:
        turn, n = (int(part) for part in message.subject.rsplit(".", 2)[1:])
        if turn == self.turn and self.answers[n] is None:
            self.answers[n] = message
            self.missing -= 1
            if not self.missing:
                self.answered.set()


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Stream]:
    """A connection for the length of the block. Raises Unreachable."""
    client = CarefulClient()
    client.secure = any(url.startswith("tls:") for url in place.urls)
    stream: Stream | None = None

    async def closed() -> None:
        if stream:
            stream.answered.set()

    try:
        try:
            async with asyncio.timeout(CONNECT_S * len(place.urls)):
                await client.connect(
                    list(place.urls),
                    name="mission-root",
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=CONNECT_S,
                    ping_interval=5,
                    error_cb=client.failed,
                    closed_cb=closed,
                    user_credentials=RawCredentials(place.credentials) if place.credentials else None,
                )
            stream = Stream(place, client)
            await client.subscribe(f"{stream.inbox}.>", cb=stream.heard)
        except FAULTS as fault:
            raise Unreachable(told(client.fault or fault)) from None
        except Exception as fault:  # credentials that the library cannot read fail in ways of their own
            raise Unreachable(f"no connection: {type(fault).__name__}") from None
        yield stream
    finally:
        with contextlib.suppress(*FAULTS):
            async with asyncio.timeout(1):
                await client.close()


def judged(answer: Msg | None) -> int | Unreachable:
    """The number that the bus has given a message, or why it has none."""
    if answer is None:
        return Unreachable("the bus did not answer in time, or the connection broke")
    if (answer.headers or {}).get("Status") == NO_STREAM:
        return StartOver("no stream takes the messages")
    try:
        said = json.loads(answer.data)
        if error := said.get("error"):
            if error["err_code"] == WRONG_END:
                return StartOver("somebody else writes to the stream")
            return Unreachable(f"the bus refused a message (its error {int(error['err_code'])})")
        return int(said["seq"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return Unreachable("the bus answered something that is no acknowledgement")


def told(fault: BaseException) -> str:
    if "authorization violation" in str(fault).lower():
        return "the bus refuses the credentials"
    if str(fault) == NO_TLS:
        return NO_TLS
    return f"no connection: {type(fault).__name__}"
