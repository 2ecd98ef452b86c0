"""The wire between the root and Tryton, where a test can be on the spot when a change goes over it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.tryton.server import Tryton

Moment = Callable[[], None]


@dataclass
class Wire:
    """Forwards calls to Tryton. A call that changes an opportunity meets the test's `before` and `after`.

    before: what happens when the whole request has come, before Tryton gets it. after: what happens when Tryton's answer
    begins, which is after its commit; the answer is then lost. instead: members of the answer that the change gets
    without ever reaching Tryton. Each happens once.
    """

    server: Tryton
    port: int = 0
    before: Moment | None = None
    after: Moment | None = None
    instead: str | None = None
    changes: int = 0
    calls: set["asyncio.Task[None] | None"] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.calls.add(asyncio.current_task())
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self.call(reader, writer)
        finally:
            self.calls.discard(asyncio.current_task())
            if not writer.is_closing():
                writer.transport.abort()

    async def call(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        [length] = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = await reader.readexactly(length)
        changing = b'"model.sale.opportunity.' in body and any(
            f'.{method}"'.encode() in body for method in ("write", "lead", "opportunity", "lost", "cancel")
        )
        if changing:
            self.changes += 1
            happens, self.before = self.before, None
            if happens:
                happens()
            if self.instead:
                said = f'{{"id": {json.loads(body)["id"]}, {self.instead}}}'.encode()
                self.instead = None
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(said)
                )
                writer.write(said)
                await writer.drain()
                writer.close()
                return
        there, back = await asyncio.open_connection("127.0.0.1", self.server.port)
        back.write(head + body)
        await back.drain()
        try:
            while part := await there.read(65_536):
                if changing and self.after:
                    happens, self.after = self.after, None
                    happens()
                    return
                writer.write(part)
                await writer.drain()
        finally:
            back.transport.abort()


@asynccontextmanager
async def wire(server: Tryton) -> AsyncIterator[Wire]:
    made = Wire(server)
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        listening.close()
        left = [call for call in made.calls if call]
        for call in left:
            call.cancel()
        await asyncio.gather(*left, return_exceptions=True)
