"""An MCP server in plain Python with good and bad moods: run as a program it speaks over stdio, `served_odd` serves it over HTTP."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, EmbeddedResource, TextContent, TextResourceContents

PIXEL = bytes.fromhex("89504e470d0a1a0a")
LONG = "x" * 400_000
FLOOD = "x" * 3_000_000
WIRE = os.dup(1)  # before the library takes it for itself


def odd_server(name: str = "odd", *, drifted: bool = False) -> MCPServer:
    server = MCPServer(name, version="1")
    calls: list[str] = []

    if drifted:

        @server.tool(name="echo", description="Says it again, and now wants a tone.")
        def echo_in_a_tone(text: str, tone: str) -> str:
            return f"{tone}: {text}"
    else:

        @server.tool(description="Says it again.", structured_output=False)
        def echo(text: str, times: int = 1) -> str:
            calls.append(text)
            return " ".join([text] * times)

    @server.tool(description="Adds two numbers.")
    def add(a: int, b: int) -> dict[str, int]:
        return {"sum": a + b}

    @server.tool(structured_output=False)
    def page(only_image: bool = False) -> CallToolResult:
        image = Image(data=PIXEL, format="png").to_image_content()
        note = EmbeddedResource(resource=TextResourceContents(uri="note://1", text="Embedded größe.\n"))
        parts = [image] if only_image else [TextContent(text="First line."), note, image]
        return CallToolResult(content=parts)

    @server.tool(structured_output=False)
    def refuse(why: str) -> str:
        raise ToolError(why)

    @server.tool(structured_output=False)
    async def slow(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "at last"

    @server.tool(structured_output=False)
    def long(flood: bool = False) -> str:
        return FLOOD if flood else LONG

    @server.tool(structured_output=False)
    def nul() -> str:
        return "a\x00b"

    @server.tool(structured_output=False)
    def chatter(messages: int) -> str:
        """Past its own library: straight to where its answers go."""
        params = {"level": "info", "data": "still at it, and saying so at some length " * 10}
        line = json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": params})
        os.write(WIRE, f"{line}\n".encode() * messages)
        return "done"

    @server.tool(structured_output=False)
    async def wonder(context: Context[Any, Any]) -> str:
        from mcp_types import SamplingMessage

        said = await context.session.create_message(
            messages=[SamplingMessage(role="user", content=TextContent(text="What do you know?"))], max_tokens=10
        )
        return str(said)

    @server.tool(structured_output=False)
    def die() -> str:
        os._exit(3)

    @server.tool(description="Would change a lead.", structured_output=False)
    def set_priority(lead: str, priority: str, version: int | None = None) -> str:
        calls.append("set_priority")
        return "changed!"

    server.calls = calls  # type: ignore[attr-defined]
    return server


class Odd:
    """A server over HTTP whose mood a test sets. said: the headers of each request."""

    def __init__(self) -> None:
        self.said: list[dict[str, str]] = []
        self.url = ""
        self.mood = "good"
        self.server = odd_server()
        self._app: Any = None
        self._left: Any = None

    async def become(self, server: MCPServer, **more: Any) -> None:
        """Another server answers at the same address, and knows nothing of the sessions of the one before."""
        await self.leave()
        self.server = server
        self._app = server.streamable_http_app(json_response=more.pop("json_response", False), **more)
        self._left, self._ended = asyncio.Event(), asyncio.create_task(self._run())
        await self._started.wait()

    async def _run(self) -> None:
        async with self._app.router.lifespan_context(self._app):
            self._started.set()
            await self._left.wait()

    async def leave(self) -> None:
        self._started = asyncio.Event()
        if self._left is not None:
            self._left.set()
            await self._ended
            self._left = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.said.append({name.decode(): value.decode() for name, value in scope["headers"]})
        match self.mood:
            case "good":
                await self._app(scope, receive, send)
            case "hangs":
                while (await receive())["type"] != "http.disconnect":
                    pass  # until whoever asked has gone
            case "html":
                await plain(send, 500, b"<html>secret words of a proxy</html>", b"text/html")
            case "unauthorized":
                await plain(send, 401, b"{}", b"application/json")
            case "nonsense":
                await plain(send, 200, b'{"jsonrpc": "2.0", "id": 1, "result": [', b"application/json")
            case "future":
                body = {
                    "protocolVersion": "2099-01-01",
                    "capabilities": {},
                    "serverInfo": {"name": "odd", "version": "1"},
                }
                await answered(receive, send, body)
            case "redirects":
                await plain(send, 307, b"", b"text/plain", (b"location", b"http://127.0.0.1:1/mcp"))
            case "floods":
                await plain(send, 200, FLOOD.encode(), b"application/json")


async def answered(receive: Any, send: Any, result: Any) -> None:
    """Whatever is asked, the same answer."""
    asked = json.loads((await receive())["body"] or b"{}")
    if asked.get("method") == "server/discover":
        body: dict[str, Any] = {"error": {"code": -32601, "message": "no"}}
    else:
        body = {"result": result}
    await plain(send, 200, json.dumps({"jsonrpc": "2.0", "id": asked.get("id"), **body}).encode(), b"application/json")


async def plain(send: Any, status: int, body: bytes, kind: bytes, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind), *headers]})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def served_odd(**more: Any) -> AsyncIterator[Odd]:
    from tests.world.world import served

    odd = Odd()
    await odd.become(odd_server(), **more)
    try:
        async with served(odd) as base:
            odd.url = f"{base}/mcp"
            yield odd
    finally:
        await odd.leave()


if __name__ == "__main__":
    asyncio.run(odd_server(drifted="drifted" in sys.argv).run_stdio_async())
