"""HTTP/1.1 on raw asyncio sockets, as small as the benchmark needs it: a server, a client of kept connections, a stream.

A general client or server written in Python costs more than much of what is measured here, and would be measured with it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Message:
    """One request or one answer. `start` is its first line without the protocol: `POST /path` or `202 Accepted`."""

    start: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def status(self) -> int:
        return int(self.start[:3])


class Cut:
    """Cuts the bytes of one connection into messages with a Content-Length."""

    def __init__(self) -> None:
        self.received = bytearray()

    def take(self, data: bytes) -> list[Message]:
        """What is complete now. Raises ValueError for a body whose length is not said."""
        self.received += data
        found = []
        while (one := self._next()) is not None:
            found.append(one)
        return found

    def _next(self) -> Message | None:
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return None
        first, *lines = self.received[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "transfer-encoding" in headers:
            raise ValueError("chunked bodies are not taken here")
        length = int(headers.get("content-length", "0"))
        if len(self.received) < end + 4 + length:
            return None
        body = bytes(self.received[end + 4 : end + 4 + length])
        del self.received[: end + 4 + length]
        return Message(first[9:] if first.startswith("HTTP/") else first[: -len(" HTTP/1.1")], headers, body)


def request(method: str, path: str, host: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


class Client:
    """Kept connections to one server; a request waits for a free one."""

    def __init__(self, base_url: str, connections: int = 16) -> None:
        address = urlsplit(base_url)
        self.host, self.port = address.hostname or "", address.port or 80
        self.netloc = address.netloc
        self._free: asyncio.Queue[_Caller | None] = asyncio.Queue()
        for _ in range(connections):
            self._free.put_nowait(None)

    async def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Message:
        """The answer, whatever its status. Raises OSError when the connection breaks, TimeoutError after half a minute."""
        kept = await self._free.get()
        try:
            if kept is None or kept.transport.is_closing():
                loop = asyncio.get_running_loop()
                _, kept = await loop.create_connection(_Caller, self.host, self.port)
            async with asyncio.timeout(30):
                answer = await kept.send(request(method, path, self.netloc, headers, body))
        except BaseException:
            if kept is not None:
                kept.transport.abort()
            self._free.put_nowait(None)
            raise
        self._free.put_nowait(kept)
        return answer

    def close(self) -> None:
        while not self._free.empty():
            kept = self._free.get_nowait()
            if kept is not None:
                kept.transport.abort()


class _Caller(asyncio.Protocol):
    def __init__(self) -> None:
        self.cut = Cut()
        self.waiting: asyncio.Future[Message] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, data: bytes) -> asyncio.Future[Message]:
        self.waiting = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return self.waiting

    def data_received(self, data: bytes) -> None:
        for answer in self.cut.take(data):
            if self.waiting is not None and not self.waiting.done():
                self.waiting.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(error or ConnectionError("the server closed the connection"))


Handler = Callable[[Message], Awaitable[tuple[int, bytes]]]


async def serve(handler: Handler, port: int) -> asyncio.Server:
    """Answers every request with the status and the JSON that `handler` gives, in order on each connection."""
    return await asyncio.get_running_loop().create_server(lambda: _Served(handler), "127.0.0.1", port, backlog=512)


class _Served(asyncio.Protocol):
    def __init__(self, handler: Handler) -> None:
        self.handler, self.cut = handler, Cut()
        self.turn: asyncio.Task[None] | None = None
        self.waiting: list[Message] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.waiting += self.cut.take(data)
        if self.waiting and (self.turn is None or self.turn.done()):
            self.turn = asyncio.create_task(self._answer())

    async def _answer(self) -> None:
        while self.waiting:
            status, body = await self.handler(self.waiting.pop(0))
            head = f"HTTP/1.1 {status} .\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            self.transport.write(head.encode() + body)
