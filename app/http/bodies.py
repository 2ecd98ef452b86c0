"""Request bodies: bounded in size, depth and time, and parsed as strict JSON before any route sees them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from app.errors import Problem
from colony_client.errors import BadBody
from colony_client.wire import read_json

MAX_DEPTH = 32
NUL = {"parameter": "url", "detail": "must not hold a NUL character"}


class StrictRequest(Request):
    """A request whose JSON was read by our own parser: no duplicate keys, NaN, lone surrogates or NUL."""

    parsed: Any = None

    async def json(self) -> Any:
        return self.parsed


class StrictRoute(APIRoute):
    """Reads and parses the body ahead of FastAPI, so that a refusal is ours and comes with a remedy."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()
        takes_json = self.body_field is not None

        async def handle(request: Request) -> Response:
            if b"%00" in request.scope.get("raw_path", b"") or b"%00" in request.scope["query_string"]:
                raise Problem("validation", "The address holds a NUL character.", errors=[NUL])
            if not takes_json:
                return await inner(request)
            strict = StrictRequest(request.scope, request.receive)
            if getattr(request.app.state, "bearer_first", False) and not strict.headers.get("authorization"):
                raise Problem("unauthenticated", "The request carries no API key.")
            settings = request.app.state.settings
            body = await read_body(strict, settings.max_body_bytes)
            if body:
                kind = strict.headers.get("content-type", "").partition(";")[0].strip().lower()
                if kind != "application/json":
                    raise Problem("unsupported_media_type", f"The content type is {kind or 'missing'}.")
                strict.parsed = parse(body)
            return await inner(strict)

        return handle


class Routes(APIRouter):
    """A router whose routes read bodies strictly."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=StrictRoute, **options)


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, at most `limit` bytes, within the time of BODY_TIMEOUT_MS. Raises Problem 413 or 408."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise Problem(
            "too_large", f"The body has {declared} bytes; this route takes {limit}.", headers={"Connection": "close"}
        )
    chunks, size = [], 0
    try:
        async with asyncio.timeout(request.app.state.settings.body_timeout_ms / 1000):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise Problem(
                        "too_large", f"The body has more than {limit} bytes.", headers={"Connection": "close"}
                    )
                chunks.append(chunk)
    except TimeoutError:
        raise Problem("too_slow", "The body did not arrive in time.", headers={"Connection": "close"}) from None
    request._body = b"".join(chunks)  # the place where Starlette keeps a body that was read
    return request._body


def parse(body: bytes) -> Any:
    try:
        return read_json(body, max_bytes=len(body), max_depth=MAX_DEPTH)
    except BadBody as refused:
        raise Problem(
            "malformed",
            f"{str(refused)[:1].upper()}{str(refused)[1:]}.",
            errors=[{"pointer": p.pointer, "detail": p.detail} for p in refused.problems],
        ) from None
