"""The end of a server: what has connected before it is still answered, and told that it is the last."""

import asyncio
import socket
from typing import Any

import pytest
import structlog
from fastapi import FastAPI

from app.http import serving
from app.http.serving import serve_all, server


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def answered(reader: asyncio.StreamReader) -> str:
    head = await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(2) == b"ok"
    return head.decode().lower()


async def test_a_request_on_its_way_when_the_end_begins_is_answered() -> None:
    one = server(app, "127.0.0.1", 0)
    running = asyncio.create_task(one.serve())
    while not one.started:
        await asyncio.sleep(0.01)
    address = one.servers[0].sockets[0].getsockname()
    fresh, kept = await asyncio.open_connection(*address), await asyncio.open_connection(*address)
    ask = b"GET / HTTP/1.1\r\nHost: root\r\n\r\n"
    kept[1].write(ask)
    assert "connection: close" not in await answered(kept[0])
    one.should_exit = True
    while (b"connection", b"close") not in one.server_state.default_headers:  # the end has begun
        await asyncio.sleep(0.01)
    late = await asyncio.open_connection(*address)
    for reader, writer in (fresh, kept, late):
        writer.write(ask)
        assert "connection: close" in await answered(reader)
        assert await reader.read() == b""
        writer.close()
    await running


async def test_a_request_that_came_with_another_begins_with_nothing_of_it() -> None:
    """A connection's next request, sent before the first is answered, is begun while that one's answer is being written."""
    seen: list[dict[str, Any]] = []

    async def says(scope: Any, receive: Any, send: Any) -> None:
        seen.append(structlog.contextvars.get_contextvars())
        structlog.contextvars.bind_contextvars(request_id=scope["path"])
        await app(scope, receive, send)

    one = server(says, "127.0.0.1", 0)
    running = asyncio.create_task(one.serve())
    while not one.started:
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection(*one.servers[0].sockets[0].getsockname())
    writer.write(b"".join(b"GET /%d HTTP/1.1\r\nHost: root\r\n\r\n" % n for n in range(3)))
    for _ in range(3):
        await answered(reader)
    writer.close()
    one.should_exit = True
    await running
    assert seen == [{}, {}, {}]


async def test_whom_only_the_kernel_has_let_in_is_answered_too() -> None:
    one = server(app, "127.0.0.1", 0)
    running = asyncio.create_task(one.serve())
    while not one.started:
        await asyncio.sleep(0.01)
    door = socket.create_server(("127.0.0.1", 0))  # nobody listens at it
    address = door.getsockname()
    reader, writer = await asyncio.open_connection(*address)
    await one.take_in(door)
    writer.write(b"GET / HTTP/1.1\r\nHost: root\r\nConnection: close\r\n\r\n")
    await answered(reader)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)
    writer.close()
    one.should_exit = True
    await running


async def test_who_connects_while_the_port_is_closed_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop has let go of the port, and nobody has taken in what the kernel lets in meanwhile."""
    one = server(app, "127.0.0.1", 0)
    running = asyncio.create_task(one.serve())
    while not one.started:
        await asyncio.sleep(0.01)
    listening, late = one.servers[0], list[socket.socket]()
    address, close = listening.sockets[0].getsockname(), listening.close

    def closed() -> None:
        close()
        if not late:
            late.append(socket.create_connection(address))
            late[0].sendall(b"GET / HTTP/1.1\r\nHost: root\r\n\r\n")

    monkeypatch.setattr(listening, "close", closed)
    one.should_exit = True
    async with asyncio.timeout(10):
        await running
        reader, writer = await asyncio.open_connection(sock=late[0])
        assert "connection: close" in await answered(reader)
    writer.close()


class Opened:
    """What the apps of a process work with."""

    def __init__(self) -> None:
        self.is_open = False

    async def open(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False


async def test_what_requests_need_is_open_until_the_last_port_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    told, held, asked, go_on = list[asyncio.Event](), Opened(), asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        asked.set()
        await go_on.wait()
        headers = [(b"content-length", b"2"), (b"x-open", str(held.is_open).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    monkeypatch.setattr(serving, "set_when_told_to_stop", told.append)
    state = FastAPI()
    first, second = server(app, "127.0.0.1", 0), server(slow, "127.0.0.1", 0)
    serve, first_is_gone = first.serve, asyncio.Event()

    async def noted() -> None:
        await serve()
        first_is_gone.set()

    monkeypatch.setattr(first, "serve", noted)
    running = asyncio.create_task(serve_all(held, state, first, second))
    async with asyncio.timeout(10):
        while not (first.started and second.started):
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection(*second.servers[0].sockets[0].getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: root\r\n\r\n")
        await asked.wait()
        assert state.state.started
        told[0].set()
        await first_is_gone.wait()
        assert state.state.draining and held.is_open
        go_on.set()
        assert "x-open: true" in await answered(reader)
        await running
    writer.close()
    assert not held.is_open


async def test_what_is_cancelled_at_the_end_may_still_say_what_it_has_used(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, said = asyncio.Event(), asyncio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            said.set()

    monkeypatch.setattr(serving, "GRACE_S", 0)
    one = server(endless, "127.0.0.1", 0)
    ending = asyncio.create_task(one.serve())
    while not one.started:
        await asyncio.sleep(0.01)
    _, writer = await asyncio.open_connection(*one.servers[0].sockets[0].getsockname())
    writer.write(b"GET / HTTP/1.1\r\nHost: root\r\n\r\n")
    await asked.wait()
    one.should_exit = True
    await ending
    assert said.is_set()
    writer.close()
