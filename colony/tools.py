"""The root's read-only tools as typed calls, tried again while the root is away."""

import asyncio
import hashlib
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from colony.reading.ranking import SEARCH_LIMIT, Found
from colony_client.errors import BoundaryError, Refused, Superseded, Unauthorized

log = structlog.get_logger()

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 2.0
AT_ONCE = 4  # tool calls one mission has under way
PAGE = 200
MOST_RECORDS = 5_000

CAUSE = re.compile(r"[a-z][a-z0-9_]{0,63}")
Call = Callable[[str, Mapping[str, Any]], Awaitable[Any]]


class ToolFailed(Exception):
    """A tool cannot be used: it refused, or its answer is not what was agreed."""

    def __init__(self, tool: str, code: str, detail: str, *, retryable: bool) -> None:
        super().__init__(f"{tool}: {detail}")
        self.tool, self.code, self.detail, self.retryable = tool, code, detail, retryable


@dataclass(frozen=True)
class Stretch:
    """Bytes [start, end) of a source as text; `total` is the size of the source."""

    text: str
    start: int
    end: int
    total: int


@dataclass(frozen=True)
class Record:
    """One CRM record as the root stored it: `text` is the canonical JSON whose bytes have the hash `source`.

    `document` is the name under which the root showed it, and under which it may be cited.
    """

    kind: str
    record_id: str
    document: str
    version: str | int
    source: str
    text: str
    fields: dict[str, Any]


class Tools:
    """`call` is how one tool is called; everything else is shapes, patience and a bound on parallel calls."""

    def __init__(self, call: Call, workspace: str = "default") -> None:
        self._call = call
        self.workspace = workspace
        self._places = asyncio.Semaphore(AT_ONCE)
        self._failing: dict[str, ToolFailed] = {}

    @property
    def failing(self) -> list[ToolFailed]:
        """The tools that are being tried again right now, each with what it last said."""
        return list(self._failing.values())

    async def search(self, query: str, limit: int = SEARCH_LIMIT) -> list[Found]:
        arguments = {"query": query[:2000], "limit": limit, "workspace": self.workspace}
        return await self._shaped(
            "workspace.search", arguments, lambda result: [_found(row) for row in result["passages"]]
        )

    async def read(self, source: str, start: int, end: int) -> Stretch:
        arguments = {"source": source, "start": max(start, 0), "end": end}
        return await self._shaped("workspace.read", arguments, _stretch)

    async def bytes_held(self) -> int:
        """The size of all documents together."""
        arguments = {} if self.workspace == "default" else {"workspace": self.workspace}
        return await self._shaped(
            "workspace.outline", arguments, lambda result: sum(int(row["bytes"]) for row in result["documents"])
        )

    async def records(self, kind: str) -> list[Record]:
        found: list[Record] = []
        cursor: str | None = None
        while len(found) < MOST_RECORDS:
            arguments = {"kind": kind, "limit": PAGE} | ({"cursor": cursor} if cursor else {})
            page, cursor = await self._shaped("crm.list", arguments, lambda result: _page(kind, result))
            found.extend(page)
            if not cursor or not page:
                break
        return found

    async def record(self, kind: str, record_id: str) -> Record:
        arguments = {"kind": kind, "id": record_id}
        return await self._shaped("crm.read", arguments, lambda result: _record(kind, result.get("record", result)))

    async def _shaped(self, tool: str, arguments: Mapping[str, Any], shape: Callable[[Any], Any]) -> Any:
        async with self._places:
            result = await self._patiently(tool, arguments)
        try:
            return shape(result)
        except (KeyError, TypeError, ValueError, AttributeError) as wrong:
            detail = f"the answer is not what was agreed ({type(wrong).__name__}: {wrong})"
            raise ToolFailed(tool, "malformed_answer", detail, retryable=False) from None

    async def _patiently(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        """Try until it works, is refused for good, or the caller's time is over."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                answer = await self._call(tool, arguments)
                self._failing.pop(tool, None)
                return answer
            except Superseded:
                raise
            except BoundaryError as error:
                if not error.retryable or isinstance(error, Unauthorized):
                    self._failing.pop(tool, None)
                    raise ToolFailed(tool, refusal(error), said(error)[:1500], retryable=False) from None
                self._failing[tool] = ToolFailed(tool, cause(error), str(error)[:1500], retryable=True)
                log.warning("tool call failed, trying again", tool=tool, kind=error.kind, detail=str(error)[:300])
                wait = max(pause, getattr(error, "retry_after", None) or 0.0)
            await asyncio.sleep(wait * random.uniform(1.0, 1.3))  # noqa: S311 (spreads retries; never before the time that was named)
            pause = min(pause * 2, LONGEST_PAUSE_S)


def refusal(error: BoundaryError) -> str:
    """The code that the root refused with, such as denied_by_policy, or the kind of the failure."""
    code = error.code if isinstance(error, Refused) else None
    return code if code is not None and CAUSE.fullmatch(code) else error.kind


def said(error: BoundaryError) -> str:
    """What the root says, with the rule that forbids it and what would change that."""
    problem = (error.problem or {}) if isinstance(error, Refused) else {}
    rule, change = problem.get("rule"), problem.get("would_change")
    more = [f"rule {rule}"] if isinstance(rule, str) else []
    more += [change] if isinstance(change, str) else []
    return f"{error} ({'; '.join(more)})" if more else str(error)


def cause(error: BoundaryError) -> str:
    """What the root says stood behind a refusal, or the kind of the failure."""
    said = (error.problem or {}).get("cause") if isinstance(error, Refused) else None
    return said if isinstance(said, str) and CAUSE.fullmatch(said) else error.kind


def _found(row: Mapping[str, Any]) -> Found:
    start, end, text = int(row["start"]), int(row["end"]), str(row["text"])
    if len(text.encode()) != end - start:
        raise ValueError("a passage's text does not fill its span")
    return Found(
        source=str(row["source"]),
        document=str(row["document"]),
        title=str(row.get("title") or ""),
        heading=str(row.get("heading") or ""),
        start=start,
        end=end,
        text=text,
    )


def _stretch(result: Mapping[str, Any]) -> Stretch:
    stretch = Stretch(str(result["text"]), int(result["start"]), int(result["end"]), int(result["total"]))
    if len(stretch.text.encode()) != stretch.end - stretch.start:
        raise ValueError("the text does not fill its span")
    return stretch


def _page(kind: str, result: Mapping[str, Any]) -> tuple[list[Record], str | None]:
    return [_record(kind, row) for row in result["records"]], result.get("next_cursor")


def _record(kind: str, row: Mapping[str, Any]) -> Record:
    name = str(row["record_id"])
    document, text, fields = str(row.get("document") or name), str(row["text"]), dict(row["fields"])
    record = Record(kind, name, document, row["version"], str(row["source"]), text, fields)
    if hashlib.sha256(record.text.encode()).hexdigest() != record.source:
        raise ValueError(f"record {record.record_id} does not have the bytes its hash promises")
    return record
