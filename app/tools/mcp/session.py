"""One live session with a server: opened once, used by many calls at once, and given up when it breaks."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mcp import Client, MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    REQUEST_TIMEOUT,
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    Implementation,
    PaginatedRequestParams,
    ResourceLink,
    TextContent,
    TextResourceContents,
    ToolListChangedNotification,
)
from pydantic import ValidationError

from app.canonical import canonical, fingerprint
from app.tools.mcp import CODES, MOST_OFFERED, MOST_SCHEMA, MOST_TEXT, OPEN_S, Answer, Offered, ServerFailed, Where
from app.tools.mcp import transports as way
from colony_client.errors import BadBody
from colony_client.wire import read_json

US = Implementation(name="mission-root", version="1")
DEPTH = 24  # of what a tool answers: the colony's own bound leaves room for what stands around it
SAID = 1000  # characters of a tool's own words when it says no
WAYS = {
    way.UNREACHABLE: "tool_unreachable",
    way.FORBIDDEN: "tool_forbidden",
    way.BROKE_OFF: "tool_broke_off",
    way.TOO_LARGE: "tool_too_large",
    CONNECTION_CLOSED: "tool_broke_off",
    REQUEST_TIMEOUT: "tool_timed_out",
}
LASTING = {
    "tool_forbidden",
    "tool_too_large",
    "tool_protocol",
    "tool_refused",
    "tool_said_no",
    "tool_asks_back",
    "tool_malformed",
}
# What the SDK logs quotes what servers say.
for name in ("mcp", "client", "httpx2"):
    logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def failed(code: str, said: str | None = None) -> ServerFailed:
    return ServerFailed(code, CODES[code], retryable=code not in LASTING, said=said)


class Session:
    """The SDK wants a session to be left by the task that entered it: so each has a task, which opens and closes it."""

    def __init__(self, where: Where, timeout_s: float) -> None:
        self.where, self.timeout_s = where, timeout_s
        self.offered: dict[str, Offered] = {}
        self.server_name: str | None = None
        self.protocol: str | None = None
        self.stale = False  # the server said that its tools have changed
        self.broken: str | None = None
        self._client: Client | None = None
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ending = asyncio.Event()
        self._task = asyncio.create_task(self._live(), name="mcp session")

    @property
    def over(self) -> bool:
        return self._task.done() or self.broken is not None

    async def open(self) -> None:
        """Waits until it is open. Raises ServerFailed."""
        try:
            async with asyncio.timeout(OPEN_S):
                await asyncio.shield(self._opened)
        except TimeoutError:
            await self.close()
            raise failed("tool_timed_out") from None

    async def close(self) -> None:
        self._ending.set()
        if not self._opened.done():
            self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await asyncio.wait([self._task], timeout=5)
        if not self._task.done():
            self._task.cancel()

    async def _live(self) -> None:
        try:
            async with Client(
                self._way(),
                mode="auto",
                cache=None,
                client_info=US,
                read_timeout_seconds=self.timeout_s,
                message_handler=self._heard,
            ) as client:
                self._client = client
                self.server_name = kept(client.server_info.name, 200) or None if client.server_info else None
                self.protocol = client.protocol_version
                await self.look()
                self._opened.set_result(None)
                await self._ending.wait()
        except asyncio.CancelledError:
            self.broken = self.broken or "tool_broke_off"
            raise
        except BaseException as error:
            # a session that begins with nonsense speaks no version of the protocol that is known here
            self.broken = self.broken or reason(error) or ("tool_broke_off" if self._opened.done() else "tool_protocol")
        finally:
            if not self._opened.done():
                self._opened.set_exception(failed(self.broken or "tool_broke_off"))
                self._opened.exception()  # whoever waits hears of it; when nobody does, that is no news either

    def _way(self) -> Any:
        if self.where.url is not None:
            return way.over_http(self.where)
        return way.over_stdio(self.where, self._broke)

    def _broke(self, code: str) -> None:
        self.broken = code

    async def _heard(self, message: Any) -> None:
        """What servers say unasked changes nothing, but that their tools changed is worth a look before the next call."""
        if isinstance(message, ToolListChangedNotification):
            self.stale = True

    async def look(self) -> None:
        """Asks for the server's tools: `offered`. Raises ServerFailed."""
        found: dict[str, Offered] = {}
        cursor: str | None = None
        with translated(self):
            for _ in range(50):
                page = await self.client.session.list_tools(
                    params=PaginatedRequestParams(cursor=cursor) if cursor else None
                )
                for tool in page.tools:
                    found[tool.name] = offer(tool.name, tool.input_schema, tool.description or "")
                cursor = page.next_cursor
                if not cursor:
                    break
                if len(found) > MOST_OFFERED:
                    raise failed("tool_too_large")
            else:
                raise failed("tool_too_large")
        self.offered, self.stale = found, False

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    async def call(self, tool: str, arguments: dict[str, Any]) -> Answer:
        """Asks a tool of the server. Raises ServerFailed."""
        with translated(self):
            async with asyncio.timeout(self.timeout_s + 1):
                said = await self.client.session.call_tool(
                    tool, arguments, read_timeout_seconds=self.timeout_s, allow_input_required=True, allow_claimed=True
                )
        if not isinstance(said, CallToolResult):
            raise failed("tool_asks_back")
        return read(said)


@contextmanager
def translated(session: Session) -> Iterator[None]:
    """Whatever the SDK raises as ServerFailed."""
    try:
        yield
    except ServerFailed:
        raise
    except TimeoutError:
        raise failed("tool_timed_out") from None
    except MCPError as error:
        code = WAYS.get(error.code)
        if (
            error.code == CONNECTION_CLOSED and session.where.url is None
        ):  # a program that is gone is gone for everybody
            code = session.broken = session.broken or code
        if code is None and error.code == way.BAD_STATUS:
            code = "tool_unreachable" if error.message.startswith("5") else "tool_refused"
        if code is None and error.message == "Session terminated":
            code = session.broken = "tool_broke_off"
        if code is None and ("exceeds its bound" in error.message or "max_event_size" in error.message):
            code = "tool_too_large"
        if code is None and "broke off" in error.message:
            code = "tool_broke_off"
        raise failed(code or "tool_refused", None if code else error.message[:SAID]) from None
    except (ValidationError, ValueError, RuntimeError, RecursionError):
        raise failed("tool_malformed") from None
    except Exception:  # of a transport that is gone
        session.broken = session.broken or "tool_broke_off"
        raise failed(session.broken) from None


def reason(error: BaseException) -> str | None:
    """The code of a failure that may be wrapped in groups."""
    if isinstance(error, BaseExceptionGroup):
        return next((code for inner in error.exceptions if (code := reason(inner))), None)
    if isinstance(error, ServerFailed):
        return error.code
    if isinstance(error, MCPError):
        if error.code == way.BAD_STATUS:
            return "tool_unreachable" if error.message.startswith("5") else "tool_refused"
        return WAYS.get(error.code, "tool_protocol")
    if isinstance(error, OSError):  # the program is not there
        return "tool_unreachable"
    return None


def offer(name: str, schema: dict[str, Any], description: str) -> Offered:
    """Raises ServerFailed for a schema that cannot be kept."""
    try:
        data = canonical(schema)
        read_json(data, max_bytes=MOST_SCHEMA)
    except (ValueError, BadBody, RecursionError):
        raise failed("tool_malformed") from None
    return Offered(name, schema, fingerprint(schema).hex(), kept(description, 1000))


def kept(text: str, most: int) -> str:
    """A server's words as Postgres can hold them."""
    return text.replace("\x00", "")[:most]


def read(said: CallToolResult) -> Answer:
    """Text, embedded text and structured content are taken; everything else is named and left out. Raises ServerFailed."""
    texts: list[str] = []
    left_out: list[dict[str, Any]] = []
    for part in said.content:
        match part:
            case TextContent():
                texts.append(part.text)
            case EmbeddedResource(resource=TextResourceContents() as resource):
                texts.append(resource.text)
            case EmbeddedResource(resource=BlobResourceContents() as blob):
                left_out.append(named("resource", blob.mime_type, decoded(blob.blob)))
            case ResourceLink():
                left_out.append(named("resource_link", part.mime_type, 0))
            case ImageContent() | AudioContent():
                left_out.append(named(part.type, part.mime_type, decoded(part.data)))
    text = "\n\n".join(one for one in texts if one)
    if said.is_error:
        raise failed("tool_said_no", text[:SAID] or None)
    if len(text) > MOST_TEXT or len(left_out) > 100:
        raise failed("tool_too_large")
    try:
        data = canonical({"text": text, "structured": said.structured_content})
        read_json(data, max_bytes=2 * MOST_TEXT, max_depth=DEPTH)
    except (ValueError, RecursionError):
        raise failed("tool_malformed") from None
    except BadBody as refused:
        raise failed("tool_too_large" if refused.problems[0].code == "too_large" else "tool_malformed") from None
    if not text and said.structured_content is None and left_out:
        raise failed("tool_said_no", f"it answered with {left_out[0]['type']} only, which is not handed on")
    return Answer(text, said.structured_content, left_out)


def named(kind: str, mime_type: str | None, size: int) -> dict[str, Any]:
    return {"type": kind, "mime_type": (mime_type or "")[:100], "bytes": size}


def decoded(base64: str) -> int:
    """How many bytes it stands for."""
    return len(base64) * 3 // 4 - base64[-2:].count("=")
