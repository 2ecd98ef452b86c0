"""The head of an answer and its body leave together. Uvicorn writes them one after the other, which costs both sides a call of
the system more each, and wakes the receiver for half an answer."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD, END = b"HTTP/1.1 ", b"\r\n\r\n"
MOST_JOINED = 65_536  # bytes: a larger body is not copied for this


class Joined(HttpToolsProtocol):
    """Uvicorn's protocol over a transport that keeps a head until its body comes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(Joining(transport))  # type: ignore[arg-type]  # all that uvicorn asks of one


class Joining:
    """A transport to which a head is written with what follows it, or in the next turn of the loop when nothing does."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._head = transport, b""
        self._soon = asyncio.get_running_loop().call_soon

    def write(self, data: bytes) -> None:
        if self._head:
            if len(data) <= MOST_JOINED:
                data, self._head = self._head + data, b""
            else:
                self._let_go()
            self._transport.write(data)
        elif data.startswith(HEAD) and data.endswith(END):
            self._head = data
            self._soon(self._let_go)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._let_go()
        self._transport.close()

    def _let_go(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
