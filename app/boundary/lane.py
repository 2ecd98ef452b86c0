"""A short way into the events of a mission, for calls without a trace to continue.

The framework's way to a route costs several times what taking a batch of events costs. The lane calls the same route, the
same door and the same answers to errors, with nothing between. A call that is traced goes the long way.
"""

import random
import re
import time
from uuid import UUID

import structlog
from fastapi import FastAPI, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.boundary.api import events
from app.boundary.door import genuine
from app.errors import Problem
from app.http.edge import name_request, on_bug, on_problem
from app.http.serving import count_request
from app.telemetry import leaving_a_trace
from colony_client.versions import saying_version

log = structlog.get_logger("http")
PATH = re.compile(r"/internal/v1/missions/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/events")
ROUTE = "/internal/v1/missions/{mission_id}/events"


class EventLane:
    """In front of the internal app. sample: the share of calls without a trace of their own that leave one."""

    def __init__(self, app: FastAPI, framework: ASGIApp, sample: float) -> None:
        self.app, self.framework, self.sample = app, framework, sample

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        named = PATH.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if named is None:
            return await self.framework(scope, receive, send)
        parent = next((value for name, value in scope["headers"] if name == b"traceparent"), None)
        if parent is not None and not parent.endswith(b"-00"):
            return await self.framework(scope, receive, send)
        if parent is None and random.random() < self.sample:  # noqa: S311  # no secret
            with leaving_a_trace():
                return await self.framework(scope, receive, send)
        await self.take(UUID(named[1]), scope, receive, send)

    async def take(self, mission: UUID, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        request_id = name_request(scope)
        scope["app"] = self.app
        request, status, sent = Request(scope, receive), 0, 0

        async def tagged(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"request-id", request_id.encode())]}
            else:
                sent += len(message.get("body", b""))
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                response = await events(mission, request, await genuine(request))
            except Problem as problem:
                response = await on_problem(request, problem)
            except Exception as error:
                response = await on_bug(request, error)
            await response(scope, receive, saying_version(tagged))
            took = time.perf_counter() - began
            count_request("POST", ROUTE, status, took, len(getattr(request, "_body", b"")), sent)
            log.info("request", method="POST", path=scope["path"], status=status, ms=round(took * 1000, 2))
