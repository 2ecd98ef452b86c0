"""A peer that behaves as its base URL asks: properly under `/good`, and in every wrong way elsewhere."""

import asyncio
import email.utils
import gzip
import json
import zlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from boundary_samples import KEYS, MISSION, NOW, OTHER
from starlette.datastructures import Headers

from colony_client import contract as c
from colony_client import signing
from colony_client.wire import read_model

Send = Callable[[dict[str, Any]], Awaitable[None]]
HEALTH = c.Health(service="colony").model_dump()
PADDED = 1_000  # bytes that the gzipped answer unpacks to


class BadPeer:
    def __init__(self, url: str) -> None:
        self.url = url
        self.nonces = signing.MemoryNonces()
        self.seen: list[tuple[str, Headers, bytes]] = []

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = Headers(scope=scope)
        self.seen.append((scope["path"], headers, body))
        _, manner, rest = scope["path"].split("/", 2)
        if manner == "late" and rest == "health":
            await asyncio.sleep(0.4)
            await answer(send, 200, HEALTH)
        elif manner in ("hang", "late"):
            await self._dawdle("hang", receive, send)
        elif manner in ("drip", "flood"):
            await self._dawdle(manner, receive, send)
        elif manner in ("good", "root"):
            audience: signing.Audience = "root" if manner == "root" else "colony"
            path = signing.signed_path(scope)
            await signing.verify(KEYS, scope["method"], path, body, audience, headers, self.nonces.first_use)
            await answer(send, 200, (self._as_root if manner == "root" else self._as_colony)(rest, headers, body))
        else:
            await getattr(self, manner)(send)

    # --- as it should be

    def _as_colony(self, path: str, headers: Headers, body: bytes) -> Any:
        running = c.MissionStatus(mission_id=MISSION, attempt=1, state="running", stage="workers", last_seq_sent=3)
        match path.split("/"):
            case ["health"]:
                return HEALTH
            case ["ready"]:
                return c.Ready(ready=True, providers={"research": c.ProviderState(state="ok")})
            case ["v1", "missions"]:
                asked = read_model(c.DispatchBatch, body)
                answers = [
                    c.DispatchAnswer(mission_id=one.mission_id, attempt=one.attempt, outcome="accepted")
                    for one in asked.missions
                ]
                return c.DispatchAnswers(missions=answers[::-1])
            case ["v1", "missions", _, "cancel"]:
                assert read_model(c.CancelRequest, body).reason
                return running.model_copy(update={"state": "cancelled"})
        return running

    def _as_root(self, path: str, headers: Headers, body: bytes) -> Any:
        match path.split("/"):
            case [*_, "events"]:
                batch = read_model(c.EventBatch, body)
                token = headers["authorization"].removeprefix("Bearer ")
                last = batch.events[-1].seq if batch.events else 0
                return c.EventReceipt(accepted_seq=last, next_token=token + "+1".replace("+", "-"), lease_until=NOW)
            case [*_, "calls"]:
                assert headers["authorization"].startswith("Bearer ")
                return c.ToolAnswer(result={"echo": read_model(c.ToolCall, body).arguments})
        return c.RootView(mission_id=MISSION, state="running", attempt=1, last_seq=4, stop=False)

    # --- as it should not be

    async def redirect(self, send: Send) -> None:
        await answer(send, 307, b"", {"Location": f"{self.url}/good/health"})

    async def html(self, send: Send) -> None:
        await answer(send, 500, b"<html><h1>Internal Server Error</h1></html>", {"Content-Type": "text/html"})

    async def html200(self, send: Send) -> None:
        await answer(send, 200, b"<html>Welcome to the proxy</html>", {"Content-Type": "text/html"})

    async def truncated(self, send: Send) -> None:
        await start(send, 200, {"Content-Length": "500"})
        await send({"type": "http.response.body", "body": b'{"status": "o', "more_body": True})
        raise ConnectionAbortedError("the rest never comes")

    async def truncated_gzip(self, send: Send) -> None:
        await answer(send, 200, gzip.compress(json.dumps(HEALTH).encode())[:-9], {"Content-Encoding": "gzip"})

    async def damaged_gzip(self, send: Send) -> None:
        await answer(send, 200, b"\x1f\x8b\x08 no gzip at all", {"Content-Encoding": "gzip"})

    async def gzipped(self, send: Send) -> None:
        body = json.dumps(HEALTH).ljust(PADDED).encode()
        await answer(send, 200, gzip.compress(body), {"Content-Encoding": "gzip"})

    async def two_gzips(self, send: Send) -> None:
        one = gzip.compress(json.dumps(HEALTH).encode())
        await answer(send, 200, one + one, {"Content-Encoding": "gzip"})

    async def bomb(self, send: Send) -> None:
        pack = zlib.compressobj(9, wbits=31)
        packed = b"".join(pack.compress(bytes(1024 * 1024)) for _ in range(100)) + pack.flush()
        assert len(packed) < 200_000
        await answer(send, 200, packed, {"Content-Encoding": "gzip"})

    async def brotli(self, send: Send) -> None:
        await answer(send, 200, b"\x0b\x00\x80", {"Content-Encoding": "br"})

    async def flood_with_problem(self, send: Send) -> None:
        await answer(send, 500, b'{"detail": "' + b"x" * 5_000_000 + b'"}')

    async def not_found(self, send: Send) -> None:
        await problem(send, 404, "not_found")

    async def limited(self, send: Send) -> None:
        await problem(send, 429, "rate_limited", {"Retry-After": "7"})

    async def resting(self, send: Send) -> None:
        then = datetime.now(UTC) + timedelta(seconds=60)
        await problem(send, 503, "draining", {"Retry-After": email.utils.format_datetime(then, usegmt=True)})

    async def unready(self, send: Send) -> None:
        state = c.ProviderState(state="unavailable", detail="no route")
        await answer(send, 503, c.Ready(ready=False, providers={"research": state}))

    async def unknown_key(self, send: Send) -> None:
        await problem(send, 401, "unauthorized")

    async def forbidden(self, send: Send) -> None:
        await problem(send, 403, "forbidden")

    async def gap(self, send: Send) -> None:
        await problem(send, 409, "sequence_gap", expected_seq=5)

    async def odd_gap(self, send: Send) -> None:
        await problem(send, 409, "sequence_gap", expected_seq="5; drop table")

    async def superseded(self, send: Send) -> None:
        await problem(send, 409, "attempt_superseded")

    async def gone(self, send: Send) -> None:
        await answer(send, 410, b"")

    async def deep(self, send: Send) -> None:
        await answer(send, 200, b"[" * 100_000)

    async def newer(self, send: Send) -> None:
        await answer(send, 200, json.dumps(HEALTH | {"contract_version": "1.9", "mood": {"is": "fine"}}).encode())

    async def next_major(self, send: Send) -> None:
        await answer(send, 200, json.dumps(HEALTH | {"contract_version": "2.0"}).encode())

    async def wrong_mission(self, send: Send) -> None:
        await answer(send, 200, c.MissionStatus(mission_id=OTHER, attempt=1, state="running"))

    async def wrong_answers(self, send: Send) -> None:
        said = c.DispatchAnswer(mission_id=OTHER, attempt=1, outcome="accepted")
        await answer(send, 200, c.DispatchAnswers(missions=[said]))

    async def twice_answered(self, send: Send) -> None:
        said = c.DispatchAnswer(mission_id=MISSION, attempt=1, outcome="accepted")
        await answer(send, 200, c.DispatchAnswers(missions=[said, said.model_copy(update={"outcome": "busy"})]))

    async def unknown_state(self, send: Send) -> None:
        await answer(send, 200, json.dumps({"mission_id": str(MISSION), "attempt": 1, "state": "dreaming"}).encode())

    async def cookies(self, send: Send) -> None:
        await answer(send, 200, HEALTH, {"Set-Cookie": "tracking=yes"})

    async def empty(self, send: Send) -> None:
        await answer(send, 204, b"")

    async def _dawdle(self, manner: str, receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        """Say nothing, a byte now and then, or megabytes without end, until the caller has had enough."""
        gone = asyncio.ensure_future(receive())
        if manner != "hang":
            await start(send, 200, {})
        while not gone.done():
            if manner != "hang":
                piece = b" " if manner == "drip" else b" " * 1024 * 1024
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.wait([gone], timeout=0 if manner == "flood" else 0.02)


async def start(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def answer(send: Send, status: int, said: Any, headers: dict[str, str] | None = None) -> None:
    body = said if isinstance(said, bytes) else json.dumps(said).encode() if isinstance(said, dict) else b""
    body = body or (said.model_dump_json().encode() if hasattr(said, "model_dump_json") else b"")
    await start(send, status, {"Content-Length": str(len(body))} | (headers or {}))
    await send({"type": "http.response.body", "body": body})


async def problem(send: Send, status: int, code: str, headers: dict[str, str] | None = None, **more: Any) -> None:
    document = {"type": "about:blank", "status": status, "detail": f"because of {code}", "code": code} | more
    await answer(send, status, json.dumps(document).encode(), headers)
