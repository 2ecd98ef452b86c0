"""The end of a server: what has connected before it is still answered, and told that it is the last."""

import asyncio
import socket
from typing import Any

import pytest

from app.http.serving import server


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def answered(reader: asyncio.StreamReader) -> str:
    head = await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(2) == b"ok"
    return head.decode().lower()


async def test_a_request_on_its_way_when_the_end_begins_is_answered() -> None:
    one = server(app, "127.0.0.1", 0)
    serving = asyncio.create_task(one.serve())
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
    await serving


async def test_whom_only_the_kernel_has_let_in_is_answered_too() -> None:
    one = server(app, "127.0.0.1", 0)
    serving = asyncio.create_task(one.serve())
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
    await serving
