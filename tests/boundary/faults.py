"""A colony behind a real socket that misbehaves in one of many ways."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from colony_client.client import ColonyClient
from colony_client.contract import CONTRACT_VERSION, DispatchBatch
from tests.world import World
from tests.world.world import served

Send = Callable[[dict[str, Any]], Awaitable[None]]
PROBLEM = {"Content-Type": "application/problem+json"}


class BrokenColony:
    """Answers every call but the question for its version in the manner it is set to; `calls` counts what arrived."""

    def __init__(self) -> None:
        self.manner = ""
        self.calls: list[str] = []

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if scope["path"] == "/health":
            await answer(send, 200, b'{"service": "broken", "contract_version": "1.1"}')
            return
        self.calls.append(scope["path"])
        await getattr(self, self.manner)(send, receive, body)

    # --- it says no

    async def unauthorized(self, send: Send, *_: Any) -> None:
        await answer(send, 401, problem("unauthenticated"), PROBLEM)

    async def forbidden(self, send: Send, *_: Any) -> None:
        await answer(send, 403, problem("forbidden"), PROBLEM)

    async def limited(self, send: Send, *_: Any) -> None:
        await answer(send, 429, problem("rate_limited"), PROBLEM | {"Retry-After": "70"})

    async def draining(self, send: Send, *_: Any) -> None:
        await answer(send, 503, problem("draining"), PROBLEM | {"Retry-After": "70"})

    async def html_500(self, send: Send, *_: Any) -> None:
        await answer(send, 500, b"<html><h1>Internal Server Error</h1></html>", {"Content-Type": "text/html"})

    async def not_found(self, send: Send, *_: Any) -> None:
        await answer(send, 404, problem("not_found"), PROBLEM)

    # --- it does not say

    async def hangs(self, send: Send, receive: Callable[[], Awaitable[Any]], _: bytes) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def drips(self, send: Send, receive: Callable[[], Awaitable[Any]], _: bytes) -> None:
        await start(send, 200, {})
        gone = asyncio.create_task(self.hangs(send, receive, b""))
        while not gone.done():
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
            await asyncio.wait([gone], timeout=0.05)

    # --- it says what nobody can trust

    async def redirects(self, send: Send, *_: Any) -> None:
        await answer(send, 307, b"over there", {"Location": "/elsewhere"})

    async def truncates(self, send: Send, *_: Any) -> None:
        await start(send, 200, {"Content-Length": "500"})
        await send({"type": "http.response.body", "body": b'{"contract_version": "1.0", "miss', "more_body": True})
        raise ConnectionAbortedError("the rest never comes")

    async def babbles(self, send: Send, *_: Any) -> None:
        await answer(send, 200, b'{"contract_version": "1.0", "missions": [NaN}')

    async def bombs(self, send: Send, *_: Any) -> None:
        pack = zlib.compressobj(9, wbits=31)
        packed = b"".join(pack.compress(bytes(1 << 20)) for _ in range(100)) + pack.flush()
        await answer(send, 200, packed, {"Content-Encoding": "gzip"})

    async def floods(self, send: Send, *_: Any) -> None:
        await start(send, 200, {})
        for _number in range(100):
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})

    async def digs(self, send: Send, *_: Any) -> None:
        await answer(send, 200, b"[" * 100_000)

    async def half_a_gzip(self, send: Send, *_: Any) -> None:
        await answer(send, 200, gzip.compress(b'{"contract_version": "1.0"}')[:-5], {"Content-Encoding": "gzip"})

    async def _answers(self, send: Send, body: bytes, version: str = "1.0", **other: Any) -> None:
        batch = DispatchBatch.model_validate_json(body)
        said = [
            {"mission_id": str(one.mission_id), "attempt": one.attempt, "outcome": "accepted"} | other
            for one in batch.missions
        ]
        await answer(send, 200, json.dumps({"contract_version": version, "missions": said}).encode())

    async def wrong_mission(self, send: Send, _: Any, body: bytes) -> None:
        await self._answers(send, body, mission_id=str(UUID(int=4)))

    async def wrong_attempt(self, send: Send, _: Any, body: bytes) -> None:
        await self._answers(send, body, attempt=7)

    async def unknown_outcome(self, send: Send, _: Any, body: bytes) -> None:
        await self._answers(send, body, outcome="perhaps")

    async def refusal_without_reason(self, send: Send, _: Any, body: bytes) -> None:
        await self._answers(send, body, outcome="refused")

    async def another_version(self, send: Send, _: Any, body: bytes) -> None:
        await self._answers(send, body, version="2.0")

    async def too_few(self, send: Send, *_: Any) -> None:
        await answer(send, 200, b'{"contract_version": "1.0", "missions": []}')


# manner -> (code of the degraded state, whether there are bytes to keep)
MANNERS: dict[str, tuple[str, bool]] = {
    "unauthorized": ("colony_unauthorized", False),
    "forbidden": ("colony_unauthorized", False),
    "limited": ("colony_busy", False),
    "draining": ("colony_busy", False),
    "html_500": ("colony_unavailable", True),
    "not_found": ("colony_unavailable", False),
    "hangs": ("colony_unavailable", False),
    "drips": ("colony_unavailable", False),
    "redirects": ("colony_malformed", True),
    "truncates": ("colony_malformed", True),
    "babbles": ("colony_malformed", True),
    "bombs": ("colony_malformed", True),
    "floods": ("colony_malformed", True),
    "digs": ("colony_malformed", True),
    "half_a_gzip": ("colony_malformed", True),
    "wrong_mission": ("colony_malformed", True),
    "wrong_attempt": ("colony_malformed", True),
    "unknown_outcome": ("colony_malformed", True),
    "refusal_without_reason": ("colony_malformed", True),
    "another_version": ("colony_malformed", True),
    "too_few": ("colony_malformed", True),
}

SLOW = ("hangs", "drips")  # what only a timeout ends


def problem(code: str) -> bytes:
    return json.dumps({"type": f"/problems/{code}", "title": code, "detail": code, "code": code}).encode()


async def start(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def answer(send: Send, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    await start(send, status, {"Content-Length": str(len(body))} | (headers or {}))
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def broken(world: World, timeout_s: float = 5) -> Any:
    """While the block runs, the worker's colony is a BrokenColony behind a socket; afterwards it is the honest one."""
    colony, honest = BrokenColony(), world.worker.colony.client
    async with served(colony) as url, ColonyClient(url, world.root.colony_keys, timeout_s=timeout_s) as client:
        world.worker.colony.client = client
        client.version = CONTRACT_VERSION  # known already: the first thing it is asked is what a test looks at
        try:
            yield colony
        finally:
            world.worker.colony.client = honest
