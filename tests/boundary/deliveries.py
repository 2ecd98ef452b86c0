"""What a colony may tell the root of one attempt, and every way in which the network may deliver it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from app.boundary.callbacks import Answer, Call, Callbacks
from app.main import Root
from colony_client import signing
from colony_client.artifacts import WorkerResult
from colony_client.contract import Dispatch, Event
from tests.boundary.calls import batch, events_path
from tests.world import World
from tests.world.colony import base
from tests.world.life import change

ENDS: dict[str, list[dict[str, Any]]] = {
    "": [],
    "complete": [{"type": "signal", "signal": "complete"}],
    "blocked": [{"type": "signal", "signal": "blocked", "reason": "the door is locked"}],
    "escalate": [{"type": "signal", "signal": "escalate", "question": "May I?"}],
}
MIDDLE = ("started", "completed", "usage", "checkpoint", "provider", "log", "artifact", "proposal", "continue")
TOOL = "workspace.outline"


def bodies(dispatch: Dispatch, script: Sequence[str], end: str) -> list[dict[str, Any]]:
    """The bodies of the events of a script; artifacts are told apart by the place they have in it."""
    envelope = dispatch.envelope
    made: list[dict[str, Any]] = []
    for place, name in enumerate(script):
        result = WorkerResult(**base(envelope), task_id=f"t{place}", claims=[], not_found=[f"nothing at {place}"])
        choices: dict[str, dict[str, Any]] = {
            "started": {"type": "stage.started", "stage": "workers"},
            "completed": {"type": "stage.completed", "stage": "workers", "latency_ms": place + 0.5},
            "usage": {"type": "usage.reported", "tokens_in": 10 * place, "tokens_out": 1, "cost_usd": 0.25},
            "checkpoint": {
                "type": "checkpoint.saved", "checkpoint_id": f"c{place}", "size_bytes": place, "sha256": "0" * 64,
            },
            "provider": {
                "type": "provider.failed", "provider": "search", "code": "timeout", "detail": "-", "retryable": True,
            },
            "log": {"type": "log", "level": "info", "message": f"at {place}"},
            "artifact": {"type": "artifact.produced", "artifact": result},
            "proposal": {"type": "writeback.proposed", "proposal": change(envelope, [], place)},
            "continue": {"type": "signal", "signal": "continue"},
        }  # fmt: skip
        made.append(choices[name])
    return made + ENDS[end]


class Door:
    """The internal API of one root process, without a network between."""

    def __init__(self, root: Root, app: Callable[..., Awaitable[None]]) -> None:
        self.root, self.app, self.knocks, self.doomed = root, app, 0, ""
        root.callbacks.batches.run = self._run
        root.callbacks.escalate = self._escalate  # type: ignore[method-assign]

    async def knock(self, path: str, body: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[int, dict[str, Any]]:
        """(status, document) of a POST."""
        status, said = 0, b""
        self.knocks += 1
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http", "path": path,
            "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": headers, "client": ("127.0.0.1", 1),
            "server": ("root", 80),
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status, said
            status, said = message.get("status", status), said + message.get("body", b"")

        await self.app(scope, receive, send)
        return status, json.loads(said)

    def doom(self, moment: str) -> None:
        """The process will end with what it takes next: before its commit, or between that and the answers."""
        self.doomed = moment

    def dies(self, moment: str) -> None:
        if self.doomed == moment:
            self.doomed = ""
            raise ConnectionError("the process has ended")

    async def _run(self, connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
        self.dies("before")
        outcomes = await Callbacks.run(self.root.callbacks, connection, calls)
        self.dies("after")
        return outcomes

    async def _escalate(self, call: Call) -> Answer:
        self.dies("before")
        outcome = await Callbacks.escalate(self.root.callbacks, call)
        self.dies("after")
        return outcome


@dataclass
class Packet:
    """A signed request as bytes: whoever has it can send it again, and that is all they can do with it."""

    path: str
    body: bytes
    headers: list[tuple[bytes, bytes]]
    first: int  # seq of its first event, 0 when it has none
    sent: int = 0
    judged: int = 0  # how often it was taken for what it is, and not for a replay


# Where a delivery begins among the events, how many it has, by which door, what becomes of it, and whether the next one waits for it
Delivery = tuple[int, int, int, str, bool]
FATES = ("answered", "answered", "answer lost", "sent twice", "late", "dies before", "dies after")


@dataclass
class Teller:
    """A colony at one attempt: it says its events in any disorder, and goes on until the root has them all."""

    world: World
    doors: list[Door]
    dispatch: Dispatch
    events: list[Event]
    superseded: bool = False
    acknowledged: int = 0  # as far as this colony knows
    most: int = 0  # the highest number it has ever sent
    delayed: list[Packet] = field(default_factory=list)

    def packet(self, path: str, body: bytes, first: int = 0) -> Packet:
        headers = signing.sign(self.world.colony.keys, "POST", path, body, "root")
        headers |= {"Authorization": f"Bearer {self.dispatch.mission_token}", "Content-Type": "application/json"}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        return Packet(path, body, raw, first)

    def telling(self, events: Sequence[Event]) -> Packet:
        self.most = max([self.most, *(event.seq for event in events)])
        return self.packet(events_path(self.dispatch), batch(self.dispatch, *events), events[0].seq if events else 0)

    async def send(self, packet: Packet, door: int, heard: bool = True) -> int:
        """Sends it, and looks whether the answer is one that it may get; answers the status."""
        packet.sent += 1
        status, said = await self.doors[door].knock(packet.path, packet.body, packet.headers)
        packet.judged += status not in (401, 503)
        assert packet.judged <= 1, "a request that was recorded and sent again was taken a second time"
        if status == 200:
            assert not self.superseded, "a superseded attempt has written"
            assert said["accepted_seq"] <= self.most
            if heard:
                self.acknowledged = max(self.acknowledged, said["accepted_seq"])
        elif self.superseded:
            assert status in (401, 503) or said["code"] == "attempt_superseded", said
        elif status == 409:
            assert said["code"] == "sequence_gap" and 1 <= said["expected_seq"] < packet.first, said
        else:
            assert status == 503 or (status == 401 and packet.sent > 1), said
        return status

    async def tell(self, deliveries: Sequence[Delivery], free: int) -> None:
        """Delivers some of the first events in disorder, then makes sure of all of them."""
        flying: list[asyncio.Task[int]] = []
        for start, length, door, fate, waits in deliveries:
            packet = self.telling(self.events[min(start, free) : min(start + length, free)])
            if fate == "late":
                self.delayed.append(packet)
                continue
            if fate.startswith("dies "):
                self.doors[door].doom(fate.removeprefix("dies "))
            for by in (0, 1) if fate == "sent twice" else (door,):
                flying.append(asyncio.create_task(self.send(packet, by, heard=fate == "answered")))
            if waits:
                await asyncio.gather(*flying)
        await asyncio.gather(*flying)
        await self.settle(free)

    async def settle(self, free: int) -> None:
        """As an honest colony goes on: from what is acknowledged, until everything is."""
        for turn in range(100):
            packet = self.telling(self.events[self.acknowledged : free])
            if await self.send(packet, turn % 2) == 200 and self.acknowledged >= free:
                return
        raise AssertionError(f"{free - self.acknowledged} events are never taken")

    async def straggle(self, *packets: Packet) -> None:
        """What lay somewhere in the network arrives after all, at one door or the other."""
        await asyncio.gather(*(self.send(one, number % 2) for number, one in enumerate([*self.delayed, *packets])))
        self.delayed.clear()

    async def look(self) -> None:
        """Calls a tool; the request comes to both doors at once, and counts once."""
        path = f"/internal/v1/missions/{self.dispatch.mission_id}/tools/{TOOL}/calls"
        packet = self.packet(path, b'{"arguments": {}}')
        answers = await asyncio.gather(*(door.knock(path, packet.body, packet.headers) for door in self.doors))
        assert sorted(status for status, _ in answers) == [200, 401], answers
