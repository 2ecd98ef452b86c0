"""A colony behind a raw socket that misbehaves in one of many ways: one table, for every call that the root makes."""

import asyncio
import contextlib
import gzip
import json
import socket
import struct
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from colony_client.client import ColonyClient
from colony_client.contract import CONTRACT_VERSION, VERSION_HEADER, DispatchBatch
from tests.world import World

MEBI = 1 << 20
LATE_S = 0.1  # after its caller's time is over
OFFERS, ASKS = ("one", "batch"), ("status", "cancel", "ready")


@dataclass(frozen=True)
class Fault:
    """A way to misbehave. code: of the degraded state. kept: whether there are bytes to keep. slow: only time ends it.

    of: the calls in which it is a fault; in others it would be an honest answer.
    """

    act: Callable[["Call"], Awaitable[None]]
    code: str
    kept: bool
    slow: bool
    of: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.act.__name__


@dataclass
class Call:
    """One request to the colony, and the ways to answer it."""

    colony: "BrokenColony"
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    method: str
    path: str
    body: bytes

    def missions(self) -> list[tuple[UUID, int]]:
        """(mission, attempt) of a dispatch."""
        if (self.method, self.path) != ("POST", "/v1/missions"):
            return []
        return [(one.mission_id, one.attempt) for one in DispatchBatch.model_validate_json(self.body).missions]

    def right(self) -> dict[str, Any]:
        """What an honest colony would say."""
        offered = [{"mission_id": str(mission), "attempt": n, "outcome": "accepted"} for mission, n in self.missions()]
        if offered:
            return {"contract_version": "1.0", "missions": offered}
        if self.path == "/ready":
            return {"contract_version": "1.0", "ready": True, "providers": {}}
        state = "cancelled" if self.method == "POST" else "running"
        return {"mission_id": self.path.split("/")[3], "attempt": 1, "state": state, "last_seq_sent": 0}

    async def say(self, data: bytes) -> None:
        """These bytes, whatever they are; a caller who is gone hears nothing."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def head(self, status: str = "200 OK", **headers: Any) -> None:
        said = {VERSION_HEADER: CONTRACT_VERSION} | headers
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in said.items()]
        await self.say("\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode())

    async def answer(self, body: bytes | dict[str, Any], status: str = "200 OK", **headers: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.head(status, **({"content_type": "application/json", "content_length": len(data)} | headers))
        await self.say(data)

    async def refuse(self, status: int, code: str, **headers: Any) -> None:
        problem = {"type": f"/problems/{code}", "title": code, "detail": code, "code": code}
        await self.answer(problem, f"{status} No", content_type="application/problem+json", **headers)

    async def caller_gone(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self.reader.read()

    async def until_gone(self, say: Callable[[], Awaitable[None]], pause_s: float) -> None:
        """Goes on saying it for as long as anybody listens."""
        gone = asyncio.ensure_future(self.caller_gone())
        try:
            while not gone.done():
                await say()
                await asyncio.wait([gone], timeout=pause_s)
        finally:
            gone.cancel()

    def reset(self) -> None:
        """The connection ends with a RST, and what was not read by then is lost."""
        there = self.writer.get_extra_info("socket")
        there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass
class BrokenColony:
    """Answers every call but the question for its version in the manner it is set to.

    calls: what arrived, in order; twice: attempts offered twice at one time.
    """

    timeout_s: float
    manner: str = ""
    calls: list[str] = field(default_factory=list)
    twice: set[tuple[UUID, int]] = field(default_factory=set)
    elsewhere: int = 0  # how many have followed a redirect
    port: int = 0
    elsewhere_port: int = 0
    _open: Counter[tuple[UUID, int]] = field(default_factory=Counter)
    _server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def leave(self) -> None:
        """Nobody listens any more."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
                lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
                body = await reader.readexactly(int(lines.get(b"content-length", b"0")))
                call = Call(self, reader, writer, method, path, body)
                if path == "/health":
                    await call.answer({"status": "ok", "service": "broken", "contract_version": CONTRACT_VERSION})
                    continue
                self.calls.append(path)
                offered = call.missions()
                self.twice |= {one for one in offered if self._open[one]}
                self._open.update(offered)
                try:
                    await self._act(call)
                finally:
                    self._open.subtract(offered)
                if self.manner in HANG_UP or FAULTS.get(self.manner, NO_FAULT).slow:
                    break
        writer.close()

    async def _act(self, call: Call) -> None:
        await (OTHERS.get(self.manner) or FAULTS[self.manner].act)(call)

    async def count(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Whoever comes here has followed a redirect."""
        self.elsewhere += 1
        writer.close()


FAULTS: dict[str, Fault] = {}
Act = Callable[[Call], Awaitable[None]]


def fault(
    code: str, *, kept: bool = True, slow: bool = False, of: tuple[str, ...] = OFFERS + ASKS
) -> Callable[[Act], Act]:
    def put(act: Act) -> Act:
        made = Fault(act, f"colony_{code}", kept, slow, of)
        FAULTS[made.name] = made
        return act

    return put


# --- it says no


@fault("unauthorized", kept=False)
async def unauthorized_401(call: Call) -> None:
    await call.refuse(401, "unauthenticated")


@fault("unauthorized", kept=False)
async def forbidden_403(call: Call) -> None:
    await call.refuse(403, "forbidden")


@fault("busy", kept=False)
async def limited_429(call: Call) -> None:
    await call.refuse(429, "rate_limited", retry_after=70)


@fault("busy", kept=False)
async def draining_503(call: Call) -> None:
    await call.refuse(503, "draining", retry_after=70)


@fault("busy")
async def html_503(call: Call) -> None:
    await call.answer(b"<h1>No server is available</h1>", "503 Service Unavailable", content_type="text/html")


@fault("unavailable")
async def html_500(call: Call) -> None:
    await call.answer(b"<html><h1>Internal Server Error</h1></html>", "500 Oh", content_type="text/html")


@fault("unavailable")
async def empty_502(call: Call) -> None:
    await call.answer(b"", "502 Bad Gateway")


@fault("unavailable", kept=False)
async def problem_422(call: Call) -> None:
    await call.refuse(422, "invalid_body")


@fault("unavailable", kept=False, of=OFFERS)
async def not_found_404(call: Call) -> None:
    await call.refuse(404, "not_found")


@fault("unavailable", kept=False, of=("ready",))
async def not_ready_503(call: Call) -> None:
    await call.answer({"ready": False, "providers": {"research": {"state": "unavailable"}}}, "503 No")


# --- it does not say


@fault("unavailable", kept=False)
async def refused(_: Call) -> None:
    """Nobody listens: no call ever gets here."""


@fault("unavailable", kept=False)
async def hangs_up(call: Call) -> None:
    call.writer.close()


@fault("unavailable", kept=False)
async def resets(call: Call) -> None:
    call.reset()


@fault("unavailable", kept=False, slow=True)
async def hangs(call: Call) -> None:
    await call.caller_gone()


@fault("unavailable", kept=False, slow=True)
async def late(call: Call) -> None:
    """The right answer, when nobody waits for it any more."""
    await asyncio.sleep(call.colony.timeout_s + LATE_S)
    await call.answer(call.right())


@fault("unavailable", slow=True)
async def byte_by_byte(call: Call) -> None:
    await call.head(content_length=1000)
    await call.until_gone(lambda: call.say(b" "), 0.05)


@fault("unavailable", slow=True)
async def chunks_without_end(call: Call) -> None:
    await call.head(transfer_encoding="chunked")
    await call.until_gone(lambda: call.say(b"1\r\n \r\n"), 0.01)


@fault("unavailable", slow=True)
async def a_head_without_end(call: Call) -> None:
    await call.say(b"HTTP/1.1 200 OK\r\n")
    await call.until_gone(lambda: call.say(b"x-more: more\r\n"), 0.05)


@fault("unavailable", slow=True)
async def soon_without_end(call: Call) -> None:
    await call.until_gone(lambda: call.say(b"HTTP/1.1 102 Processing\r\n\r\n"), 0.02)


# --- it says what is no HTTP


@fault("malformed")
async def half_a_head(call: Call) -> None:
    await call.say(b"HTTP/1.1 200 OK\r\nContent-Type: applic")
    call.writer.close()


@fault("malformed")
async def another_protocol(call: Call) -> None:
    await call.say(b"SSH-2.0-OpenSSH_9.6\r\n")


@fault("malformed")
async def headers_100_mb(call: Call) -> None:
    await call.say(b"HTTP/1.1 200 OK\r\n")
    line = b"x-fill: " + b"y" * 65_000 + b"\r\n"
    for _ in range(100 * MEBI // len(line)):
        if call.writer.transport.is_closing():
            break
        await call.say(line)


@fault("malformed")
async def resets_half_way(call: Call) -> None:
    await call.head(content_length=500)
    await call.say(b'{"contract_version": "1.0", "miss')
    await asyncio.sleep(0.02)  # a RST overtakes what lies unread
    call.reset()


@fault("malformed")
async def truncates(call: Call) -> None:
    data = json.dumps(call.right()).encode()
    await call.head(content_length=len(data))
    await call.say(data[: len(data) // 2])
    call.writer.close()


@fault("malformed")
async def announces_too_little(call: Call) -> None:
    data = json.dumps(call.right()).encode()
    await call.answer(data, content_length=len(data) - 3)


@fault("malformed")
async def a_broken_chunk(call: Call) -> None:
    await call.head(transfer_encoding="chunked")
    await call.say(b'5\r\n{"mis\r\nzz\r\n')


# --- it says too much


@fault("malformed")
async def floods_100_mb(call: Call) -> None:
    await call.head(content_length=100 * MEBI)
    piece = bytes(MEBI)
    for _ in range(100):
        if call.writer.transport.is_closing():
            break
        await call.say(piece)


@fault("malformed")
async def gzip_bomb(call: Call) -> None:
    await call.answer(BOMB, content_encoding="gzip")


@fault("malformed")
async def deep(call: Call) -> None:
    await call.answer(b"[" * 100_000)


@fault("malformed")
async def nothing_but_lists(call: Call) -> None:
    """A kilobyte on the wire, two megabytes to be read, fifty in memory."""
    await call.answer(LISTS, content_encoding="gzip")


# --- it says what nobody can trust


@fault("malformed")
async def redirects(call: Call) -> None:
    there = f"http://127.0.0.1:{call.colony.elsewhere_port}{call.path}"
    await call.answer(b"", "307 Elsewhere", location=there)


@fault("malformed")
async def wrong_content_type(call: Call) -> None:
    await call.answer(b"<html>Welcome. Please sign in.</html>", content_type="text/html")


@fault("malformed")
async def empty_body(call: Call) -> None:
    await call.answer(b"")


@fault("malformed")
async def no_content_204(call: Call) -> None:
    await call.head("204 No Content")


@fault("malformed")
async def no_json(call: Call) -> None:
    await call.answer(b'{"contract_version": "1.0", "missions": [NaN}')


@fault("malformed")
async def half_a_gzip(call: Call) -> None:
    await call.answer(gzip.compress(json.dumps(call.right()).encode())[:-5], content_encoding="gzip")


@fault("malformed")
async def no_gzip(call: Call) -> None:
    await call.answer(call.right(), content_encoding="gzip")


@fault("malformed")
async def unknown_encoding(call: Call) -> None:
    await call.answer(call.right(), content_encoding="br")


@fault("malformed")
async def duplicate_key(call: Call) -> None:
    data = json.dumps(call.right())
    await call.answer((data[:-1] + ", " + data[1:]).encode())


@fault("malformed")
async def no_utf8(call: Call) -> None:
    await call.answer(json.dumps(call.right() | {"note": "gr\u00f6\u00dfer"}, ensure_ascii=False).encode("latin-1"))


@fault("malformed")
async def a_problem_in_200(call: Call) -> None:
    await call.answer({"type": "about:blank", "title": "no", "status": 500, "detail": "no", "code": "internal"})


@fault("malformed")
async def old_schema(call: Call) -> None:
    said = call.right()
    said = {"id": said.get("mission_id"), "status": "ok", "accepted": said.get("missions"), "version": 0}
    await call.answer(said)


@fault("malformed", of=(*OFFERS, "ready"))
async def another_version(call: Call) -> None:
    await call.answer(call.right() | {"contract_version": "2.0"})


@fault("malformed")
async def unknown_enum(call: Call) -> None:
    said = call.right() | {"state": "dreaming", "ready": "perhaps"}
    said["missions"] = [one | {"outcome": "perhaps"} for one in said.get("missions", [])]
    await call.answer(said)


@fault("malformed", of=(*OFFERS, "status", "cancel"))
async def wrong_id(call: Call) -> None:
    said = call.right() | {"mission_id": str(UUID(int=4))}
    said["missions"] = [one | {"mission_id": str(UUID(int=4))} for one in said.get("missions", [])]
    await call.answer(said)


@fault("malformed", of=OFFERS)
async def wrong_attempt(call: Call) -> None:
    said = call.right()
    await call.answer(said | {"missions": [one | {"attempt": 7} for one in said["missions"]]})


@fault("malformed", of=OFFERS)
async def a_mission_not_asked(call: Call) -> None:
    said = call.right()
    more = {"mission_id": str(UUID(int=4)), "attempt": 1, "outcome": "accepted"}
    await call.answer(said | {"missions": [*said["missions"], more]})


@fault("malformed", of=OFFERS)
async def answered_twice(call: Call) -> None:
    said = call.right()
    await call.answer(said | {"missions": [*said["missions"], said["missions"][0] | {"outcome": "busy"}]})


@fault("malformed", of=OFFERS)
async def too_few(call: Call) -> None:
    said = call.right()
    await call.answer(said | {"missions": said["missions"][1:]})


@fault("malformed", of=OFFERS)
async def refusal_without_reason(call: Call) -> None:
    said = call.right()
    await call.answer(said | {"missions": [one | {"outcome": "refused"} for one in said["missions"]]})


# --- what a caller need not notice at once


async def answers_everything_twice(call: Call) -> None:
    """In one piece: whoever reads on finds an answer that nobody has asked for."""
    data = json.dumps(call.right()).encode()
    await call.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data) * 2)


async def another_page_each_time(call: Call) -> None:
    await call.answer(b"<p>Incident %d</p>" % len(call.colony.calls), "500 Oh")


async def honest(call: Call) -> None:
    await call.answer(call.right())


OTHERS = {act.__name__: act for act in (answers_everything_twice, another_page_each_time, honest)}
NO_FAULT = Fault(honest, "", False, False, ())
HANG_UP = ("hangs_up", "resets", "resets_half_way", "half_a_head", "truncates", "announces_too_little", "a_broken_chunk",
           "another_protocol", "headers_100_mb", "floods_100_mb")  # fmt: skip
LISTS = gzip.compress(b"[" + b"[]," * 699_000 + b"[]]")
PACK = zlib.compressobj(9, wbits=31)
BOMB = b"".join(PACK.compress(bytes(MEBI)) for _ in range(100)) + PACK.flush()


@asynccontextmanager
async def broken(world: World, manner: str = "", timeout_s: float = 5) -> AsyncIterator[BrokenColony]:
    """While the block runs, the colony of the worker and of the public API is a broken one; afterwards it is the honest one."""
    colony, honest = BrokenColony(timeout_s, manner), world.worker.colony.client
    elsewhere = await asyncio.start_server(colony.count, "127.0.0.1", 0)
    colony.elsewhere_port = elsewhere.sockets[0].getsockname()[1]
    await colony.listen()
    if manner == "refused":
        await colony.leave()
    async with ColonyClient(colony.url, world.root.colony_keys, timeout_s=timeout_s) as client:
        world.worker.colony.client = world.public.state.colony = client
        client.version = CONTRACT_VERSION  # known already: the first thing it is asked is what a test looks at
        try:
            yield colony
        finally:
            world.worker.colony.client = world.public.state.colony = honest
            elsewhere.close()
            await colony.leave()
