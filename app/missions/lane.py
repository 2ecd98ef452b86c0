"""A short way into POST /v1/missions for a request that has nothing unusual about it.

The framework's way to a route costs several times what taking a mission in costs. The lane reads the same body with the same
parser into the same model and calls the same verb. Whatever it does not know at a glance (another content type, a body in
pieces, a credential not seen before, anything malformed) it hands on untouched: such requests are answered in one place only.
"""

import asyncio
import contextlib
import re
import time
from typing import Any

import structlog
from fastapi import FastAPI, Request
from pydantic import ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Problem
from app.http.bodies import parse
from app.http.doors import Call, welcome
from app.http.edge import name_request, on_bug, on_problem
from app.http.idempotency import KEY, fingerprint
from app.http.lane import answered, leaves_a_trace
from app.missions.ask import Ask
from app.missions.intake import PATH, Answer, enabled
from app.missions.rows import Asked
from app.telemetry import leaving_a_trace

BEARER = b"bearer "
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
MOST_PIECES = 8
SHORTLY_S = 0.05  # a body that comes later than this is waited for by the framework's reader, and by its clock


class MissionLane:
    """In front of the public app. sample: the share of requests without a trace of their own that go the long way to leave one."""

    def __init__(self, app: FastAPI, framework: ASGIApp, sample: float) -> None:
        self.app, self.framework, self.state, self.sample = app, framework, app.state, sample
        self.limit = app.state.settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not leads_to(scope):
            return await self.framework(scope, receive, send)
        began = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        caller = self.caller(headers)
        if caller is None or len(headers) != len(scope["headers"]) or not usual(headers, self.limit):
            return await self.framework(scope, receive, send)
        if leaves_a_trace(headers.get(b"traceparent"), self.sample):
            with leaving_a_trace():
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
        request_id = name_request(scope, headers)
        scope["app"] = self.app
        request = Request(scope)
        # not taken back: the server runs each request in a context of its own, or in that of the one before on its connection
        structlog.contextvars.bind_contextvars(request_id=request_id, tenant_id=str(caller.tenant))
        try:
            status, sent, content = await self.take(request, Call(caller, request), ask, body, headers, request_id)
        except Problem as problem:
            status, sent, content = plain(await on_problem(request, problem))
        except Exception as error:
            status, sent, content = plain(await on_bug(request, error))
        sent += scope["state"].get("rate_headers", ())
        await send(
            {"type": "http.response.start", "status": status, "headers": [*sent, (b"request-id", request_id.encode())]}
        )
        await send({"type": "http.response.body", "body": content})
        answered("POST", PATH, PATH, status, began, len(body), len(content))

    def caller(self, headers: dict[bytes, bytes]) -> Any:
        """Whom this process has seen with this credential before, when they might submit missions then."""
        shown = headers.get(b"authorization", b"")
        if shown[:7].lower() != BEARER or not shown.isascii():
            return None
        found = self.state.callers.get(shown[7:].decode())
        return found if found is not None and self.state.allow("missions.create", found) else None

    async def take(
        self, request: Request, call: Call, ask: Ask, body: bytes, headers: dict[bytes, bytes], request_id: str
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        await self.state.limits.before_lookup(request, call.caller.secret)
        await welcome(request, call.caller, "missions.create")
        enabled(self.state.settings)
        key = headers.get(b"idempotency-key")
        parent = headers.get(b"traceparent")
        given: Answer = await self.state.intake.take(
            Asked(
                call.caller,
                ask,
                key.decode() if key else None,
                fingerprint("POST", PATH, "", body) if key else b"",
                parent.decode("latin-1") if parent else None,
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
