"""OpenAI's shapes around our answers: errors as its clients read them, and server-sent events as they end."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from app.errors import Problem
from app.http.edge import on_bug, on_problem, on_validation

# What OpenAI calls the kinds of its errors.
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    409: "insufficient_quota",
    429: "rate_limit_error",
}
LEFT_OUT = ("type", "title", "status", "detail", "instance", "code", "request_id", "errors", "next_actions")


def error_of(document: dict[str, Any]) -> dict[str, Any]:
    """A problem document as an OpenAI error. What a problem says beyond that stays in it under its own name."""
    status, errors = int(document["status"]), document.get("errors") or []
    param = next((one.get("pointer") or one.get("parameter") for one in errors), None)
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    if status == 409 and document["code"] != "budget_exhausted":
        kind = "invalid_request_error"
    more = {name: value for name, value in document.items() if name not in LEFT_OUT}
    return {
        "error": {
            "message": document["detail"],
            "type": kind,
            "param": param.removeprefix("/").replace("/", ".") if param else None,
            "code": document["code"],
            "request_id": document["request_id"],
            **more,
        }
    }


def as_error(answer: Response) -> Response:
    """An answer that is a problem document, in OpenAI's shape. x-should-retry tells its clients what to do about it: left
    to themselves they repeat every 409."""
    document = json.loads(bytes(answer.body))
    headers = {name: value for name, value in answer.headers.items() if name not in ("content-type", "content-length")}
    headers["X-Should-Retry"] = "true" if document["retryable"] else "false"
    return Response(to_json(error_of(document)), answer.status_code, headers, "application/json")


class OpenAIRoute(APIRoute):
    """A route whose every refusal is an OpenAI error."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await inner(request)
            except Problem as refused:
                return as_error(await on_problem(request, refused))
            except RequestValidationError as refused:
                return as_error(await on_validation(request, refused))
            except Exception as error:
                return as_error(await on_bug(request, error))

        return handle


def event(value: Any) -> bytes:
    return b"data: " + to_json(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"


class Streamed(Response):
    """Server-sent events. When the client goes away, reading ends, and `at_end` is still run to its own end."""

    media_type = "text/event-stream"

    def __init__(
        self, parts: AsyncIterator[bytes], at_end: Callable[[], Awaitable[None]], headers: dict[str, str]
    ) -> None:
        super().__init__(None, 200, {"Cache-Control": "no-store", **headers})
        del self.headers["content-length"]
        self.parts, self.at_end = parts, at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with asyncio.timeout(None) as leash:
                listener = asyncio.create_task(gone(receive, leash))
                try:
                    async for part in self.parts:
                        await send({"type": "http.response.body", "body": part, "more_body": True})
                finally:
                    listener.cancel()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            if not leash.expired():
                raise
        finally:
            await self.at_end()


async def gone(receive: Receive, leash: asyncio.Timeout) -> None:
    """Ends what is on the leash when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    with suppress(RuntimeError):  # it has ended by itself
        leash.reschedule(asyncio.get_running_loop().time())
