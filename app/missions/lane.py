"""A short way into POST /v1/missions for a request that has nothing unusual about it.

The framework's way to a route costs several times what taking a mission in costs. The lane reads the same body with the same
parser into the same model and calls the same verb. Whatever it does not know at a glance (another content type, a body in
pieces, a credential not seen before, anything malformed) it hands on untouched: such requests are answered in one place only.
"""

import asyncio
import contextlib
import re
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from fastapi import FastAPI, Request
from pydantic import ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.caller import Caller
from app.errors import Problem
from app.http.bodies import parse
from app.http.doors import welcome
from app.http.edge import name_request, on_bug, on_problem, own_headers
from app.http.idempotency import KEY, fingerprint
from app.http.lane import answered, leaves_a_trace
from app.http.serving import Traced
from app.missions.ask import Ask
from app.missions.intake import PATH, Answer, enabled
from app.missions.rows import Asked
from app.telemetry import leaving_a_trace, traceparent

BEARER = b"bearer "
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
MOST_PIECES = 8
SHORTLY_S = 0.05  # a body that comes later than this is waited for by the framework's reader, and by its clock


@dataclass(slots=True)
class Read:
    """A request that has nothing unusual about it, and when its reading began."""

    caller: Caller
    ask: Ask
    body: bytes
    headers: dict[bytes, bytes]
    began: float


class MissionLane:
    """In front of the public app. sample: the share of requests without a trace of their own that leave one."""

    def __init__(self, app: FastAPI, framework: ASGIApp, sample: float) -> None:
        self.app, self.framework, self.state, self.sample = app, framework, app.state, sample
        self.limit, self.traced = app.state.settings.max_body_bytes, Traced("POST", PATH)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not leads_to(scope):
            return await self.framework(scope, receive, send)
        began = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        caller = self.caller(headers)
        if caller is None or len(headers) != len(scope["headers"]) or not usual(headers, self.limit):
            return await self.framework(scope, receive, send)
        there = at_once(receive)
        messages = [there] if there is not None and not there.get("more_body") else await shortly(there, receive)
        body = b"".join(one.get("body", b"") for one in messages)
        try:
            if not whole(messages) or len(body) > self.limit:
                raise Unusual
            ask = Ask.model_validate(parse(body))
        except (Unusual, Problem, ValidationError):
            return await self.framework(scope, again(messages, receive), send)
        read = Read(caller, ask, body, headers, began)
        if leaves_a_trace(headers.get(b"traceparent"), self.sample):
            with leaving_a_trace():
                await self.traced(partial(self.answer, read, True), scope, receive, send)
        else:
            await self.answer(read, False, scope, receive, send)

    async def answer(self, read: Read, traced: bool, scope: Scope, _receive: Receive, send: Send) -> None:
        request_id = name_request(scope, read.headers)
        scope["app"] = self.app
        request = Request(scope)
        # not taken back: the server runs each request in a context of its own
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            status, sent, content = await self.take(request, read, traced, request_id)
        except Problem as problem:
            status, sent, content = plain(await on_problem(request, problem))
        except Exception as error:
            status, sent, content = plain(await on_bug(request, error))
        sent += own_headers(scope, request_id)
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": content})
        answered("POST", PATH, PATH, status, read.began, len(read.body), len(content))

    def caller(self, headers: dict[bytes, bytes]) -> Any:
        """Whom this process has seen with this credential before, when they might submit missions then."""
        shown = headers.get(b"authorization", b"")
        if shown[:7].lower() != BEARER or not shown.isascii():
            return None
        found = self.state.callers.get(shown[7:].decode())
        return found if found is not None and self.state.allow("missions.create", found) else None

    async def take(
        self, request: Request, read: Read, traced: bool, request_id: str
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """traced: the mission belongs to the span of its request, and not to the trace that its caller has thrown away."""
        await self.state.limits.before_lookup(request, read.caller.secret)
        await welcome(request, read.caller, "missions.create")
        enabled(self.state.settings)
        key, parent = read.headers.get(b"idempotency-key"), read.headers.get(b"traceparent")
        given: Answer = await self.state.intake.take(
            Asked(
                read.caller,
                read.ask,
                key.decode() if key else None,
                fingerprint("POST", PATH, "", read.body) if key else b"",
                traceparent() if traced else parent.decode("latin-1") if parent else None,
                request_id,
            )
        )
        length = (b"content-length", str(len(given.body)).encode())
        return (
            given.status,
            [length, *((name.lower().encode(), value.encode()) for name, value in given.headers.items())],
            given.body,
        )


def leads_to(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST" and not scope["query_string"]


class Unusual(Exception):
    """Nothing is wrong with it; the framework takes it."""


def usual(headers: dict[bytes, bytes], limit: int) -> bool:
    length, key = headers.get(b"content-length", b""), headers.get(b"idempotency-key")
    parent = headers.get(b"traceparent")
    return (
        headers.get(b"content-type") == b"application/json"
        and length.isdigit()
        and 0 < int(length) <= limit
        and b"expect" not in headers
        and (key is None or KEY.fullmatch(key.decode("latin-1")) is not None)
        and (parent is None or TRACEPARENT.fullmatch(parent) is not None)
    )


def at_once(receive: Receive) -> Message | None:
    """What is there already; most bodies come with their headers. The server's receive loses nothing when it is given up."""
    waiting: Any = receive()
    try:
        waiting.send(None)
    except StopIteration as there:
        found: Message = there.value
        return found
    waiting.close()
    return None


async def shortly(there: Message | None, receive: Receive) -> list[Message]:
    """The body of a sender who is about to send the rest of it."""
    messages = [] if there is None else [there]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SHORTLY_S):
            while not messages or (messages[-1].get("more_body") and len(messages) < MOST_PIECES):
                messages.append(await receive())
    return messages


def whole(messages: list[Message]) -> bool:
    return bool(messages) and messages[-1]["type"] == "http.request" and not messages[-1].get("more_body")


def again(messages: list[Message], receive: Receive) -> Receive:
    """What was read already, and then the rest."""
    waiting = iter(messages)

    async def receive_again() -> Message:
        for message in waiting:
            return message
        return await receive()

    return receive_again


def plain(response: Any) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    return response.status_code, list(response.raw_headers), response.body
