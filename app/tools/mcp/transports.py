"""The two ways to a server, each bounded: HTTP through the guard of every outgoing call, and a program of the deployment."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import httpx2
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCResponse, jsonrpc_message_adapter

from app import outbound
from app.tools.mcp import MOST_BYTES, Where

# JSON-RPC codes that are ours alone: with them the way itself answers for a server that does not.
UNREACHABLE, FORBIDDEN, BROKE_OFF, TOO_LARGE, BAD_STATUS = -32_801, -32_802, -32_803, -32_804, -32_805
DIES_IN_S = 1.0  # how long a program that is no longer needed may take to end
OURS = {
    "connection",
    "content-length",
    "transfer-encoding",
    "host",
    "accept-encoding",
}  # what the guarded client says itself


class Guarded(httpx2.AsyncBaseTransport):
    """The SDK's HTTP over our own guarded client: the same judgement of names and addresses, the same bounds.

    A failure of one request is answered as an error of that request; raised, it would end the session for everybody.
    """

    def __init__(self, way: outbound.Straight) -> None:
        self.way = way

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":  # a stream of what the server wants to say unasked: nobody here listens
            return httpx2.Response(405)
        headers = [(name, value) for name, value in request.headers.raw if name.lower().decode("latin-1") not in OURS]
        content = await request.aread()
        try:
            answer = await self.way.ask(request.method, str(request.url), content, headers)
        except outbound.Forbidden:
            return on_behalf(FORBIDDEN)
        except outbound.TooLarge:
            return on_behalf(TOO_LARGE)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            return on_behalf(UNREACHABLE)
        except httpx.HTTPError:
            return on_behalf(BROKE_OFF)
        if (
            answer.status_code >= 400 and answer.status_code != 404
        ):  # its words are nobody's business; 404 ends a session
            await answer.aclose()
            return on_behalf(BAD_STATUS, str(answer.status_code))
        kept = [(name, value) for name, value in answer.headers.raw if name.lower() != b"transfer-encoding"]
        return httpx2.Response(answer.status_code, headers=kept, stream=Body(answer))

    async def aclose(self) -> None:
        await self.way.aclose()


class Body(httpx2.AsyncByteStream):
    """An answer's bytes. What goes wrong is said as the SDK expects it of one request's stream."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self.answer.aiter_raw():
                yield part
        except outbound.TooLarge:
            raise httpx2.StreamError("the answer exceeds its bound") from None
        except httpx.HTTPError:
            raise httpx2.StreamError("the answer broke off") from None

    async def aclose(self) -> None:
        await self.answer.aclose()


def on_behalf(code: int, message: str = "") -> httpx2.Response:
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}
    return httpx2.Response(502, headers={"content-type": "application/json"}, content=json.dumps(error))


@asynccontextmanager
async def over_http(where: Where) -> AsyncIterator[Any]:
    from mcp.client.streamable_http import streamable_http_client

    assert where.url is not None
    # each call has a time limit of its own: one that is slow must not end the session of the others
    guarded = outbound.straight(
        allowed=where.allowed,
        any_public=False,
        timeout_s=90,
        connect_s=5,
        max_bytes=MOST_BYTES,
        headers=where.headers,
        idle=32,
    )
    async with (
        httpx2.AsyncClient(transport=Guarded(guarded), timeout=None, trust_env=False) as client,
        streamable_http_client(where.url, http_client=client, max_sse_event_size=MOST_BYTES) as streams,
    ):
        yield streams


@asynccontextmanager
async def over_stdio(where: Where, broke: Callable[[str], None]) -> AsyncIterator[Any]:
    """Runs the program in a session of its own, with nothing of our environment, and speaks to it line by line.

    broke is told why a program that says too much is cut off. What it writes to its error stream is thrown away.
    """
    process = await anyio.open_process(
        list(where.command), env=where.environment, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdin is not None and process.stdout is not None
    stdin, stdout = process.stdin, process.stdout
    heard, to_session = anyio.create_memory_object_stream[Any](0), anyio.create_memory_object_stream[Any](0)
    (heard_in, heard_out), (said_in, said_out) = heard, to_session

    async def listen() -> None:
        """Everything between two answers counts together, so that a flood of small messages is one, too."""
        kept, since = b"", 0
        async with heard_in:
            with contextlib.suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError, OSError):
                while True:
                    part = await stdout.receive(65_536)
                    since += len(part)
                    *lines, kept = (kept + part).split(b"\n")
                    for line in filter(None, (one.strip() for one in lines)):
                        message = read_line(line)
                        if since > MOST_BYTES:
                            broke("tool_too_large")
                            return
                        if isinstance(message, SessionMessage) and isinstance(
                            message.message, JSONRPCResponse | JSONRPCError
                        ):
                            since = 0
                        await heard_in.send(message)
                    if since > MOST_BYTES:
                        broke("tool_too_large")
                        return

    async def say() -> None:
        try:
            async with said_out:
                async for one in said_out:
                    line = one.message.model_dump_json(by_alias=True, exclude_unset=True) + "\n"
                    await stdin.send(line.encode())
        except (anyio.ClosedResourceError, anyio.BrokenResourceError, OSError):
            await heard_in.aclose()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            group.start_soon(say)
            try:
                yield heard_out, said_in
            finally:
                group.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await end(process)
            for stream in (heard_in, heard_out, said_in, said_out):
                stream.close()


def read_line(line: bytes) -> Any:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as wrong:
        return wrong


async def end(process: anyio.abc.Process) -> None:
    """Closes its input, which ends an honest program, and then ends it and whatever it started."""
    with contextlib.suppress(Exception):
        await process.stdin.aclose()  # type: ignore[union-attr]
    with anyio.move_on_after(DIES_IN_S):
        await process.wait()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with anyio.move_on_after(DIES_IN_S), contextlib.suppress(Exception):
        await process.aclose()
