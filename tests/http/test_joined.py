"""The head of an answer and its body are one write to the transport, and a head without a body waits for nobody."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import Response, StreamingResponse

from app.http import joined
from app.http.joined import MOST_JOINED, Joining
from app.http.serving import server

HUGE = b"x" * (MOST_JOINED + 1)


class Noting:
    """A transport that says what was written to it, piece by piece."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.written.append(b"closed")


@asynccontextmanager
async def served(app: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[int, list[bytes]]]:
    """The port of the app in the product's own server, and what was written to connections of it."""
    written: list[bytes] = []

    class Telling:
        def __init__(self, transport: Any) -> None:
            self.transport = transport

        def write(self, data: bytes) -> None:
            written.append(bytes(data))
            self.transport.write(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.transport, name)

    monkeypatch.setattr(joined, "Joining", lambda transport: Joining(Telling(transport)))  # type: ignore[arg-type]
    one = server(app, "127.0.0.1", 0)
    serving = asyncio.create_task(one.serve())
    while not one.started:
        await asyncio.sleep(0.005)
    try:
        yield one.servers[0].sockets[0].getsockname()[1], written
    finally:
        one.should_exit = True
        await serving


async def asked(port: int, method: str, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer


async def test_answers_of_the_server_are_one_write_each(monkeypatch: pytest.MonkeyPatch) -> None:
    app, go_on = FastAPI(), asyncio.Event()

    @app.api_route("/whole", methods=["GET", "HEAD"])
    async def whole() -> Response:
        return Response(b"all of it")

    @app.get("/huge")
    async def huge() -> Response:
        return Response(HUGE)

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"first"
            await go_on.wait()
            yield b"second"

        return StreamingResponse(pieces())

    async with served(app, monkeypatch) as (port, written):
        assert (await asked(port, "GET", "/whole")).endswith(b"\r\n\r\nall of it")
        assert len(written) == 1 and written[0].endswith(b"\r\n\r\nall of it")
        written.clear()
        assert (await asked(port, "HEAD", "/whole")).endswith(b"\r\n\r\n")
        assert b"".join(written).count(b"HTTP/1.1 200") == 1
        written.clear()
        assert (await asked(port, "GET", "/huge")).endswith(HUGE)
        assert [len(one) for one in written][-1] == len(HUGE), "what is large is not copied"

        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"first" in await asyncio.wait_for(reader.readuntil(b"first"), 5), (
            "what is there is sent before the rest"
        )
        go_on.set()
        assert b"second" in await reader.read()
        writer.close()


async def test_a_head_that_nothing_follows_leaves_in_the_next_turn_of_the_loop() -> None:
    noting = Noting()
    one = Joining(noting)  # type: ignore[arg-type]
    one.write(b"HTTP/1.1 200 OK\r\n\r\n")
    assert noting.written == []
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert noting.written == [b"HTTP/1.1 200 OK\r\n\r\n"]
    one.write(b"later")
    one.write(b"HTTP/1.1 200 OK\r\n\r\n")
    one.close()
    assert noting.written[1:] == [b"later", b"HTTP/1.1 200 OK\r\n\r\n", b"closed"], "a head is not lost at the end"
