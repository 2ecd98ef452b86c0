"""The outermost layer of an app: request ids, and problem documents for every error."""

import re
import time
from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic_core import to_json
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.clock import random_bytes
from app.db import sqlstate, unavailable
from app.errors import Problem
from app.telemetry import say_request, traceparent

log = structlog.get_logger("http")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
MAX_ERRORS = 20


def name_request(scope: Scope, headers: Mapping[bytes, bytes] | None = None) -> str:
    """The request's id: the one it brought when that is well formed, else a new one."""
    given = (dict(scope["headers"]) if headers is None else headers).get(b"request-id", b"").decode("latin-1")
    request_id = given if given and REQUEST_ID.fullmatch(given) else random_bytes(16).hex()
    scope.setdefault("state", {})["request_id"] = request_id
    return request_id


def own_headers(scope: Scope, request_id: str) -> list[tuple[bytes, bytes]]:
    """What every answer says beside its own headers: the request's id, where its caller stands, and the span it was answered in."""
    headers = [(b"request-id", request_id.encode()), *scope["state"].get("rate_headers", ())]
    if (parent := traceparent()) is not None:
        headers.append((b"traceparent", parent.encode()))
    return headers


class RequestIds:
    """Takes a well-formed Request-Id or makes one, binds it to the log, sends it back, and logs the request's end."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request_id = name_request(scope)
        began, status = time.perf_counter(), 0

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *own_headers(scope, request_id)]}
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self.app(scope, receive, tagged)
            if scope["path"] not in QUIET:
                say_request(scope["method"], scope["path"], status, round((time.perf_counter() - began) * 1000, 2))


QUIET = ("/livez", "/readyz", "/startupz", "/healthz")  # asked every second by machines


def install(app: FastAPI) -> None:
    """Adds the error handlers and the request ids to an app."""
    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_bug)
    app.add_middleware(Unbroken)
    app.add_middleware(RequestIds)


class Unbroken:
    """Answers uncaught exceptions itself: Starlette's own last handler would also raise them into the server's log."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as error:
            if scope["type"] != "http" or started:
                raise
            await (await on_bug(Request(scope), error))(scope, receive, send)


async def on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    document = error.document(request.url.path, request_id(request))
    return Response(to_json(document), error.kind.status, error.headers, "application/problem+json")


async def on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [entry(item["loc"], item["msg"]) for item in error.errors()[:MAX_ERRORS]]
    first = found[0]
    name = first.get("pointer") or first.get("parameter") or "the body"
    return await on_problem(request, Problem("validation", f"{name}: {first['detail']}", errors=found))


def entry(location: tuple[Any, ...], message: str) -> dict[str, str]:
    """A finding as a JSON Pointer into the body, or as the name of a parameter."""
    place, *steps = location or ("body",)
    message = message.removeprefix("Value error, ")
    if place != "body":
        return {"parameter": str(steps[0] if steps else place), "detail": message}
    return {
        "pointer": "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps),
        "detail": message,
    }


CODES = {404: "not_found", 405: "method_not_allowed", 401: "unauthenticated", 403: "forbidden", 413: "too_large"}


async def on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = CODES.get(error.status_code, "validation" if error.status_code < 500 else "internal")
    detail = "There is no such path." if error.status_code == 404 else f"{error.detail}."
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(allowed_methods(request))
    return await on_problem(request, Problem(code, detail, headers=headers))


def allowed_methods(request: Request) -> list[str]:
    """Every method that some route takes at this path; the router itself names only those of the first one."""
    routes = iter_route_contexts(request.app.routes)
    return sorted({m for r in routes if r.path_regex.match(request.url.path) for m in r.methods or () if m != "HEAD"})


async def on_bug(request: Request, error: Exception) -> Response:
    return await on_problem(request, trouble(request, error))


def trouble(request: Request, error: Exception) -> Problem:
    """A database that is away becomes 503; everything else is ours, logged with its traceback, answered without it."""
    problem = unavailable(error)
    if problem is None and isinstance(error, DBAPIError) and sqlstate(error) == "RX013":
        problem = Problem(
            "unauthenticated", "The credential ended while it was used."
        )  # the wall found nobody behind it
    elif problem is None:
        log.error("uncaught", path=request.url.path, exc_info=error)
        problem = Problem("internal", "An error that is ours; the request id finds it in the log.")
    else:
        log.warning("database fault", path=request.url.path, error=type(error).__name__)
    return problem


def request_id(request: Request) -> str | None:
    return request.scope.get("state", {}).get("request_id")
