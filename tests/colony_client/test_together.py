"""What many missions say at once goes together, and each is told its own; a root that does not know that is never asked."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import uvicorn
from boundary_samples import KEYS, NOW
from structlog.testing import capture_logs

from colony.outbox import Outbox
from colony_client import contract as c
from colony_client.client import EVENTS_OF_MANY, RootClient
from colony_client.errors import (
    BoundaryError,
    Busy,
    Incompatible,
    Malformed,
    Refused,
    SequenceGap,
    Superseded,
    TimedOut,
    Unauthorized,
    Unreachable,
)
from colony_client.together import AT_ONCE, MOST_BYTES
from colony_client.wire import read_model

pytestmark = pytest.mark.anyio
LOG = c.Log(seq=1, at=NOW, level="info", message="hello")


def receipt(seq: int = 1, token: str = "next") -> dict[str, Any]:
    return json.loads(c.EventReceipt(accepted_seq=seq, next_token=token, lease_until=NOW).model_dump_json())


def refused(status: int, code: str, **more: Any) -> dict[str, Any]:
    return {"type": "x", "title": "x", "status": status, "code": code, "detail": "x"} | more


class Root:
    """A root of some version; its answers wait until they are let go. said: what one mission is answered, when not a receipt."""

    def __init__(self, version: str = "1.2") -> None:
        self.version = version
        self.calls: list[tuple[str, list[UUID]]] = []
        self.bearers: list[str] = []
        self.open = asyncio.Event()
        self.said: dict[UUID, dict[str, Any]] = {}
        self.held: dict[UUID, asyncio.Event] = {}  # whose own call waits longer than the others
        self.whole: Callable[[], httpx.Response] | None = None
        self.here = self.most = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        path, body = request.url.path, request.content
        many = path == EVENTS_OF_MANY
        if many:
            missions = read_model(c.EventsOfMany, body).missions
            self.calls.append(("many", [one.mission_id for one in missions]))
            self.bearers += [one.token for one in missions]
        else:
            read_model(c.EventBatch, body)
            self.calls.append(("one", [UUID(path.split("/")[4])]))
            self.bearers.append(request.headers["authorization"].removeprefix("Bearer "))
        asked = self.calls[-1][1]
        self.here += 1
        self.most = max(self.most, self.here)
        await self.open.wait()
        if not many and asked[0] in self.held:
            await self.held[asked[0]].wait()
        self.here -= 1
        if many and self.version < "1.2":
            return self.answer(404, refused(404, "not_found"))
        if many and self.whole is not None:
            return self.whole()
        told = [self.said.get(one) for one in asked]
        if many:
            missions_told = [
                {"mission_id": str(one), "receipt": None if bad else receipt(), "problem": bad, "retry_after_s": 3.0 if bad else None}
                for one, bad in zip(asked, told, strict=True)
            ]  # fmt: skip
            return self.answer(200, {"missions": missions_told})
        return self.answer(told[0]["status"], told[0]) if told[0] else self.answer(200, receipt())

    def answer(self, status: int, body: Any) -> httpx.Response:
        return httpx.Response(status, json=body, headers={c.VERSION_HEADER: self.version})

    def shapes(self) -> list[tuple[str, int]]:
        return [(kind, len(missions)) for kind, missions in self.calls]


class Wire(httpx.AsyncBaseTransport):
    """To a root in this process; an answer is a stream, as it is from a socket."""

    def __init__(self, root: Root) -> None:
        self.root = root

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        said = await self.root(request)
        return httpx.Response(said.status_code, headers=said.headers, stream=httpx.ByteStream(said.content))


@asynccontextmanager
async def served(root: Root) -> AsyncIterator[str]:
    """The same root behind a socket."""

    async def door(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        said = await root(
            httpx.Request(scope["method"], f"http://root{scope['path']}", headers=scope["headers"], content=body)
        )
        await send({"type": "http.response.start", "status": said.status_code, "headers": said.headers.raw})
        await send({"type": "http.response.body", "body": said.content})

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(door, log_level="critical", lifespan="off", timeout_graceful_shutdown=1))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


class Colony:
    """A client that has heard the root's version, and missions to speak of. url: where the root is, when it is served."""

    def __init__(self, root: Root, missions: int, url: str | None = None, **more: Any) -> None:
        self.root = root
        self.client = RootClient(url or "http://root", KEYS, transport=None if url else Wire(root), **more)
        self.missions = [uuid4() for _ in range(missions)]
        for n, one in enumerate(self.missions):
            self.client.hold(one, 1, f"token-{n}")

    async def meet(self) -> None:
        self.root.open.set()
        await self.client.send_events(self.missions[0], 1)
        self.root.open.clear()
        self.root.calls.clear()
        self.root.bearers.clear()

    def say(self, *missions: UUID, events: Any = (LOG,)) -> list[asyncio.Task[c.EventReceipt]]:
        return [
            asyncio.create_task(self.client.send_events(one, 1, events)) for one in (missions or tuple(self.missions))
        ]

    async def settled(self, tasks: list[asyncio.Task[Any]]) -> list[Any]:
        """What becomes of them when the root answers, which it does after everybody has spoken."""
        await quiet()
        self.root.open.set()
        async with asyncio.timeout(10):
            return await asyncio.gather(*tasks, return_exceptions=True)


async def under_way(root: Root, calls: int = AT_ONCE) -> None:
    async with asyncio.timeout(5):
        while len(root.calls) < calls:
            await asyncio.sleep(0)
    await quiet()


async def quiet() -> None:
    """Whatever can happen without an answer has happened."""
    for _ in range(100):
        await asyncio.sleep(0)


async def met(missions: int, version: str = "1.2", **more: Any) -> Colony:
    colony = Colony(Root(version), missions, **more)
    await colony.meet()
    return colony


async def test_what_waits_while_calls_are_on_their_way_goes_together(missions: int = 90) -> None:
    colony = await met(missions)
    tasks = colony.say()
    await under_way(colony.root)
    assert colony.root.shapes() == [("one", 1)] * AT_ONCE
    told = await colony.settled(tasks)
    assert [one.accepted_seq for one in told] == [1] * missions
    assert colony.root.shapes()[AT_ONCE:] == [("many", c.MAX_MISSIONS_PER_CALL), ("many", missions - AT_ONCE - 64)]
    assert [one for _, asked in colony.root.calls for one in asked] == colony.missions, "who came first goes first"
    assert colony.root.bearers[1:] == [f"token-{n}" for n in range(1, missions)], "each by its own token"
    assert colony.root.most <= AT_ONCE


async def test_a_lone_mission_waits_for_nobody_and_uses_its_own_route() -> None:
    colony = await met(1)
    for _ in range(3):
        [said] = await colony.settled(colony.say())
        assert said.accepted_seq == 1
    assert colony.root.shapes() == [("one", 1)] * 3


async def test_the_next_token_is_taken_over_from_a_shared_answer() -> None:
    colony = await met(AT_ONCE + 2)
    await colony.settled(colony.say())
    colony.root.bearers.clear()
    await colony.settled(colony.say(colony.missions[-1]))
    assert colony.root.bearers == ["next"]


REFUSALS: dict[str, tuple[dict[str, Any], type[BoundaryError]]] = {
    "gap": (refused(409, "sequence_gap", expected_seq=7), SequenceGap),
    "superseded": (refused(409, "attempt_superseded"), Superseded),
    "closed": (refused(410, "mission_closed"), Superseded),
    "token": (refused(401, "unauthenticated"), Unauthorized),
    "validation": (refused(422, "validation", rule="of somebody"), Refused),
    "busy": (refused(503, "database_busy"), Busy),
    "internal": (refused(500, "internal"), Refused),
}


async def test_each_is_told_its_own() -> None:
    colony = await met(AT_ONCE + 2 * len(REFUSALS))
    unlucky = colony.missions[AT_ONCE::2]
    for one, (said, _) in zip(unlucky, REFUSALS.values(), strict=True):
        colony.root.said[one] = said
    told = await colony.settled(colony.say())
    assert colony.root.shapes()[AT_ONCE:] == [("many", 2 * len(REFUSALS))]
    for one, (said, kind) in zip(told[AT_ONCE::2], REFUSALS.values(), strict=True):
        assert type(one) is kind and (one.status, one.code) == (said["status"], said["code"])
        assert one.problem == said, "nothing of it is dropped"
        assert one.retry_after == 3.0
    assert told[AT_ONCE].expected_seq == 7
    assert all(one.accepted_seq == 1 for one in told[AT_ONCE + 1 :: 2])


async def test_what_is_refused_whole_is_said_one_by_one() -> None:
    colony = await met(AT_ONCE + 3)
    colony.root.whole = lambda: colony.root.answer(422, refused(422, "validation"))
    colony.root.said[colony.missions[-1]] = REFUSALS["validation"][0]
    told = await colony.settled(colony.say())
    assert colony.root.shapes()[AT_ONCE:] == [("many", 3), *[("one", 1)] * 3]
    assert [type(one) for one in told] == [c.EventReceipt] * (AT_ONCE + 2) + [Refused]


WHOLE: dict[str, tuple[Callable[[], httpx.Response], type[BoundaryError]]] = {
    "a fault": (lambda: httpx.Response(500, json=refused(500, "internal")), Refused),
    "busy": (lambda: httpx.Response(503, json=refused(503, "draining"), headers={"Retry-After": "1"}), Busy),
    "a stranger": (lambda: httpx.Response(401, json=refused(401, "unauthenticated")), Unauthorized),
    "other missions": (
        lambda: httpx.Response(200, json={"missions": [{"mission_id": str(uuid4()), "receipt": receipt()}]}),
        Malformed,
    ),
    "neither of both": (lambda: httpx.Response(200, json={"missions": [{"mission_id": str(uuid4())}]}), Malformed),
    "another major": (
        lambda: httpx.Response(400, json={}, headers={c.VERSION_HEADER: "2.0"}),
        Incompatible,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
async def test_what_befalls_a_call_is_told_to_everybody_in_it(name: str) -> None:
    colony = await met(AT_ONCE + 3)
    colony.root.whole, kind = WHOLE[name]
    told = await colony.settled(colony.say())
    assert [type(one) for one in told] == [c.EventReceipt] * AT_ONCE + [kind] * 3
    assert colony.root.shapes()[AT_ONCE:] == [("many", 3)]


async def test_a_connection_that_breaks_is_told_to_everybody_in_it() -> None:
    colony = await met(AT_ONCE + 2)

    def breaks() -> httpx.Response:
        raise httpx.ConnectError("refused")

    colony.root.whole = breaks
    told = await colony.settled(colony.say())
    assert [type(one) for one in told[AT_ONCE:]] == [Unreachable] * 2
    colony.root.whole = None
    assert (await colony.settled(colony.say(colony.missions[0])))[0].accepted_seq == 1


async def test_a_root_of_the_version_before_is_spoken_to_mission_by_mission() -> None:
    colony = await met(AT_ONCE + 6, "1.1")
    tasks = colony.say()
    await under_way(colony.root, AT_ONCE + 6)
    assert [one.accepted_seq for one in await colony.settled(tasks)] == [1] * (AT_ONCE + 6)
    assert colony.root.shapes() == [("one", 1)] * (AT_ONCE + 6)


async def test_a_root_that_is_replaced_by_an_older_one_is_understood_at_once() -> None:
    colony = await met(AT_ONCE + 3)
    tasks = colony.say()
    await under_way(colony.root)
    colony.root.version = "1.1"
    assert [one.accepted_seq for one in await colony.settled(tasks)] == [1] * (AT_ONCE + 3)
    assert ("many", 3) not in colony.root.shapes()[AT_ONCE + 1 :], "asked at most once"
    colony.root.calls.clear()
    await colony.settled(colony.say())
    assert colony.root.shapes() == [("one", 1)] * (AT_ONCE + 3)


async def test_no_mission_stands_twice_in_a_call_and_what_it_says_keeps_its_order() -> None:
    colony = await met(AT_ONCE + 2)
    twice, other = colony.missions[AT_ONCE:]
    tasks = colony.say() + colony.say(twice) + colony.say(other)
    await colony.settled(tasks)
    assert colony.root.calls[AT_ONCE:] == [("many", [twice, other]), ("many", [twice, other])]


async def test_what_is_large_goes_in_several_calls() -> None:
    colony = await met(AT_ONCE + 5)
    words = [LOG.model_copy(update={"seq": n + 1, "message": "x" * 2_000}) for n in range(400)]
    size = sum(len(one.model_dump_json()) for one in words)
    assert MOST_BYTES // 3 < size < MOST_BYTES // 2
    await colony.settled(colony.say(events=words))
    assert sorted(colony.root.shapes()[AT_ONCE:]) == [("many", 2), ("many", 2), ("one", 1)]


async def test_who_waits_no_longer_is_not_spoken_for() -> None:
    colony = await met(AT_ONCE + 3)
    tasks = colony.say()
    await under_way(colony.root)
    tasks[AT_ONCE].cancel()
    told = await colony.settled(tasks)
    assert isinstance(told[AT_ONCE], asyncio.CancelledError)
    assert [one.accepted_seq for one in told[AT_ONCE + 1 :]] == [1, 1]
    assert colony.root.calls[AT_ONCE:] == [("many", colony.missions[AT_ONCE + 1 :])]


async def test_who_names_a_time_waits_for_nobody() -> None:
    colony = await met(AT_ONCE + 2)
    tasks = colony.say(*colony.missions[:-1])
    await under_way(colony.root)
    hasty = asyncio.create_task(colony.client.send_events(colony.missions[-1], 1, [LOG], timeout_s=5))
    await under_way(colony.root, AT_ONCE + 1)
    assert colony.root.calls[-1] == ("one", [colony.missions[-1]])
    await colony.settled([*tasks, hasty])


async def test_nobody_waits_longer_than_a_call_may_take() -> None:
    colony = await met(AT_ONCE + 2)
    colony.client._together.patience_s = 0.05
    tasks = colony.say()
    async with asyncio.timeout(5):
        told = await asyncio.gather(*tasks[AT_ONCE:], return_exceptions=True)
    assert [type(one) for one in told] == [TimedOut] * 2 and colony.root.here == AT_ONCE
    assert [one.accepted_seq for one in await colony.settled(tasks[:AT_ONCE])] == [1] * AT_ONCE
    assert colony.root.shapes() == [("one", 1)] * AT_ONCE


async def test_who_still_waits_when_the_client_is_closed_is_told_so() -> None:
    colony = await met(AT_ONCE + 2 + 1)
    tasks = colony.say()
    await under_way(colony.root)
    await colony.client.aclose()
    told = await asyncio.gather(*tasks[AT_ONCE:], return_exceptions=True)
    assert [type(one) for one in told] == [Unreachable] * 3
    await colony.settled(tasks)


async def test_who_is_closed_before_a_call_has_begun_is_told_so_and_gives_its_place_back() -> None:
    colony = await met(AT_ONCE + 3)
    tasks = colony.say()
    await under_way(colony.root)

    async def closes() -> None:
        await colony.root.open.wait()  # as those do whose answers make room: in the same turn, after them
        await colony.client.aclose()

    closing = asyncio.create_task(closes())
    told = await colony.settled(tasks)
    await closing
    assert [type(one) for one in told] == [c.EventReceipt] * AT_ONCE + [Unreachable] * 3
    assert all("closed" in str(one) for one in told[AT_ONCE:])
    assert colony.root.shapes() == [("one", 1)] * AT_ONCE, "nothing was sent for them"
    assert colony.client._together.under_way == 0


async def test_who_speaks_after_the_end_is_told_so() -> None:
    colony = await met(1)
    await colony.client.aclose()
    [told] = await colony.settled(colony.say())
    assert isinstance(told, Unreachable) and "closed" in str(told)
    [mission] = colony.missions
    for asked in (
        colony.client.send_events(mission, 1, timeout_s=1),
        colony.client.call_tool(mission, 1, "crm.read", {}),
    ):
        with pytest.raises(Unreachable, match="closed"):  # nor by itself
            await asked
    assert not colony.root.calls


# --- what goes wrong with one of them, or with us, is nobody else's

NO_TOKEN = "not a token"


async def test_what_cannot_stand_in_a_shared_call_goes_alone_and_costs_nobody_else_anything() -> None:
    root = Root()
    async with served(root) as url:
        colony = Colony(root, AT_ONCE + 5, url)
        await colony.meet()
        odd, *others = colony.missions[AT_ONCE:]
        colony.client.hold(odd, 1, NO_TOKEN)
        root.said[odd] = REFUSALS["token"][0]
        first = colony.say(*colony.missions[:AT_ONCE])
        async with asyncio.timeout(5):
            while len(root.calls) < AT_ONCE:
                await asyncio.sleep(0.001)
        boxes = [Outbox(colony.client, one, 1) for one in others]
        [said] = colony.say(odd)
        await quiet()
        speaking = [asyncio.create_task(box.run()) for box in boxes]
        for box in boxes:
            box.put(c.Log, level="info", message="begun")
        await colony.settled([*first, *(asyncio.create_task(box.settled()) for box in boxes)])
        assert root.shapes()[AT_ONCE] == ("many", 4) and root.calls[AT_ONCE][1] == others
        with pytest.raises(Unauthorized):
            await said
        assert root.calls[AT_ONCE + 1 :] == [("one", [odd])] and root.bearers[-1] == NO_TOKEN
        assert not any(task.done() for task in speaking) and [box.trouble for box in boxes] == [None] * 4
        for box, task in zip(boxes, speaking, strict=True):
            box.close()
            await task
        await colony.client.aclose()


@pytest.mark.parametrize("name", WHOLE)
async def test_what_befalls_a_call_is_not_told_to_whom_it_did_not_hold(name: str) -> None:
    colony = await met(AT_ONCE + 3)
    odd, *others = colony.missions[AT_ONCE:]
    colony.client.hold(odd, 1, NO_TOKEN)
    colony.root.said[odd] = REFUSALS["superseded"][0]
    colony.root.whole, kind = WHOLE[name]
    told = await colony.settled(colony.say())
    assert [type(one) for one in told[AT_ONCE:]] == [Superseded, kind, kind]
    assert colony.root.calls[AT_ONCE:] == [("many", others), ("one", [odd])]


async def test_when_all_but_one_cannot_share_a_call_none_is_made() -> None:
    colony = await met(AT_ONCE + 3)
    for one in colony.missions[AT_ONCE + 1 :]:
        colony.client.hold(one, 1, NO_TOKEN)
    told = await colony.settled(colony.say())
    assert [one.accepted_seq for one in told] == [1] * (AT_ONCE + 3)
    assert colony.root.shapes() == [("one", 1)] * (AT_ONCE + 3)


async def test_a_mistake_in_making_a_shared_call_is_told_to_the_log_and_everybody_is_spoken_for() -> None:
    colony = await met(AT_ONCE + 3)
    twice: Any = str(colony.missions[-1])  # the same mission under another name
    colony.client.hold(twice, 1, "its-token")
    with capture_logs() as log:
        told = await colony.settled(colony.say(*colony.missions, twice))
    assert [one.accepted_seq for one in told] == [1] * (AT_ONCE + 4)
    assert colony.root.shapes() == [("one", 1)] * (AT_ONCE + 4)
    [mistake] = [one for one in log if one["log_level"] == "error"]
    assert mistake["missions"] == 4 and "named twice" in str(mistake["exc_info"])


async def test_what_only_its_own_call_can_tell_is_told_to_its_own_caller() -> None:
    colony = await met(AT_ONCE + 3)
    colony.client.hold(
        colony.missions[AT_ONCE], 1, "sch\N{LATIN SMALL LETTER O WITH DIAERESIS}n"
    )  # no header can carry it
    told = await colony.settled(colony.say())
    assert isinstance(told[AT_ONCE], UnicodeEncodeError)
    assert [one.accepted_seq for one in told[:AT_ONCE] + told[AT_ONCE + 1 :]] == [1] * (AT_ONCE + 2)


async def test_who_waits_no_longer_is_not_spoken_for_one_by_one_either() -> None:
    colony = await met(AT_ONCE + 4)
    colony.root.whole = lambda: colony.root.answer(422, refused(422, "validation"))
    first, cancelled, late, last = colony.missions[AT_ONCE:]
    colony.root.held[first] = asyncio.Event()
    tasks = colony.say(*colony.missions[:-2])
    await under_way(colony.root)
    colony.client._together.patience_s = 0.2
    tasks += colony.say(late)
    await quiet()
    colony.client._together.patience_s = 10
    tasks += colony.say(last)
    await quiet()
    colony.root.open.set()
    await under_way(colony.root, AT_ONCE + 2)  # refused whole, and the first has begun
    tasks[AT_ONCE + 1].cancel()
    with pytest.raises(TimedOut):
        await tasks[AT_ONCE + 2]
    colony.root.held[first].set()
    told = await colony.settled(tasks)
    assert [type(one) for one in told[AT_ONCE:]] == [c.EventReceipt, asyncio.CancelledError, TimedOut, c.EventReceipt]
    assert colony.root.calls[AT_ONCE:] == [("many", [first, cancelled, late, last]), ("one", [first]), ("one", [last])]


async def test_who_is_answered_one_by_one_does_not_wait_for_the_others() -> None:
    colony = await met(AT_ONCE + 3)
    colony.root.whole = lambda: colony.root.answer(422, refused(422, "validation"))
    slow = colony.missions[-1]
    colony.root.held[slow] = asyncio.Event()
    tasks = colony.say()
    told = await colony.settled(tasks[:-1])
    assert [one.accepted_seq for one in told] == [1] * (AT_ONCE + 2) and not tasks[-1].done()
    colony.root.held[slow].set()
    await colony.settled(tasks[-1:])
