"""A short way into the busiest routes of the internal API.

The framework's way to a route costs several times what taking a batch of events costs. The lane calls the same route, the
same door and the same answers to errors, with nothing between but the span of a call that leaves a trace.
"""

import random
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog
from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Problem
from app.http.edge import name_request, on_bug, on_problem, own_headers
from app.http.serving import Traced, count_request
from app.telemetry import leaving_a_trace, leaving_no_trace, say_request
from colony_client.versions import saying_version

ID = r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"  # a mission's, in a path


def leaves_a_trace(parent: bytes | None, sample: float) -> bool:
    """Whether a call has a span: it continues a trace that is kept, or begins one of the share that are."""
    return random.random() < sample if parent is None else not parent.endswith(b"-00")  # noqa: S311  # no secret


def answered(method: str, route: str, path: str, status: int, began: float, received: int, sent: int) -> None:
    """What the framework's layers would count and say of a request."""
    took = time.perf_counter() - began
    count_request(method, route, status, took, received, sent)
    say_request(method, path, status, round(took * 1000, 2))


@dataclass(frozen=True)
class Way:
    """A POST route that the lane leads to. route: its path as metrics name it, in which a parameter stands where path has a group.

    take answers a request, given those groups; what it raises is answered as in the framework, and then handed to `refused`.
    """

    path: re.Pattern[str]
    route: str
    take: Callable[..., Awaitable[Response]]
    refused: Callable[[Response], Response] = lambda answer: answer


class Lane:
    """In front of the internal app. sample: the share of calls without a trace of their own that leave one."""

    def __init__(self, app: FastAPI, framework: ASGIApp, sample: float, ways: Sequence[Way]) -> None:
        self.app, self.framework, self.sample, self.ways = app, framework, sample, ways
        self.traced = {way: Traced("POST", way.route) for way in ways}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            for way in self.ways:
                if (named := way.path.fullmatch(scope["path"])) is not None:
                    return await self.lead(way, named.groups(), scope, receive, send)
        await self.framework(scope, receive, send)

    async def lead(self, way: Way, named: Sequence[str], scope: Scope, receive: Receive, send: Send) -> None:
        parent = next((value for name, value in scope["headers"] if name == b"traceparent"), None)
        if leaves_a_trace(parent, self.sample):
            with leaving_a_trace():
                await self.traced[way](partial(self.take, way, named), scope, receive, send)
        else:
            with leaving_no_trace():
                await self.take(way, named, scope, receive, send)

    async def take(self, way: Way, named: Sequence[str], scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        request_id = name_request(scope)
        scope["app"] = self.app
        request, status, sent = Request(scope, receive), 0, 0

        async def tagged(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *own_headers(scope, request_id)]}
            else:
                sent += len(message.get("body", b""))
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                response = await way.take(request, *named)
            except Problem as problem:
                response = way.refused(await on_problem(request, problem))
            except Exception as error:
                response = way.refused(await on_bug(request, error))
            await response(scope, receive, saying_version(tagged))
            answered("POST", way.route, scope["path"], status, began, len(getattr(request, "_body", b"")), sent)
