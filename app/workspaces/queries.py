"""Finding documents and passages, and reading the bytes behind them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.artifacts import PLACE_ALONE, Located, Objects
from app.db import ReadSession
from app.listing import Place

MOST_BYTES_READ = 65_536
MOST_OUTLINED = 10_000

WORKSPACE = text("SELECT id FROM workspace WHERE tenant = :tenant AND name = :name")
WORKSPACES = text("""
  SELECT w.id, w.name, w.created_at, count(d.id) AS documents, COALESCE(sum(d.bytes), 0)::bigint AS bytes,
         COALESCE(sum(d.passages), 0)::bigint AS passages
  FROM workspace w LEFT JOIN document d ON d.tenant = w.tenant AND d.workspace = w.id AND d.state = 'current'
  WHERE w.tenant = :tenant AND w.name > :after GROUP BY w.id, w.name, w.created_at ORDER BY w.name LIMIT :limit""")
COLUMNS = "id, workspace, path, version, title, kind, content_sha256, source_sha256, bytes, passages, reader, ingested_at, written_at"
CURRENT = text(f"""SELECT {COLUMNS} FROM document
  WHERE tenant = :tenant AND workspace = :workspace AND path = :path AND state = 'current'""")  # noqa: S608
DOCUMENTS = text(f"""SELECT {COLUMNS} FROM document
  WHERE tenant = :tenant AND workspace = :workspace AND state = 'current' AND path > :after
  ORDER BY path LIMIT :limit""")  # noqa: S608
# A version that was replaced while a mission reads it stays readable; one that was removed does not.
SPAN = text(f"""
  SELECT substring(b.bytes FROM CAST(:start AS int) + 1 FOR CAST(:length AS int)) AS part, {PLACE_ALONE}
  FROM blob b WHERE b.tenant = :tenant AND b.sha256 = :source AND EXISTS (
    SELECT FROM document d WHERE d.tenant = b.tenant AND d.source_sha256 = b.sha256 AND d.workspace = :workspace
      AND d.state <> 'removed')""")  # noqa: S608
PATHS = text("""SELECT DISTINCT path FROM document
  WHERE tenant = :tenant AND workspace = :workspace AND source_sha256 = :source AND state <> 'removed' ORDER BY path LIMIT 50""")
SEARCH = text("SELECT * FROM search_passages(:tenant, :workspace, :query, :limit)")


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace and the size of what is current in it."""

    id: UUID
    name: str
    created_at: datetime
    documents: int
    bytes: int
    passages: int


@dataclass(frozen=True, slots=True)
class Document:
    """The current version of a path."""

    id: UUID
    workspace: UUID
    path: str
    version: int
    title: str
    kind: str
    content_sha256: bytes
    source_sha256: bytes
    bytes: int
    passages: int
    reader: int
    ingested_at: datetime
    written_at: datetime | None


@dataclass(frozen=True, slots=True)
class Found:
    """A passage that answers a question: bytes [start, end) of `source`, the SHA-256 in hex of the document's text."""

    source: str
    document: str
    title: str
    heading: str
    start: int
    end: int
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes [start, end) of a source of `total` bytes."""

    text: str
    start: int
    end: int
    total: int


@dataclass(frozen=True, slots=True)
class Apart:
    """Bytes [start, end) of a source that is not in its row: read() gets them when no transaction is open."""

    place: Located
    start: int
    end: int

    async def read(self, objects: Objects) -> Span:
        """Raises Problem as Objects.read does."""
        first = max(0, self.start - 3)
        return cut(await objects.read(self.place, first, self.end + 3), first, self.start, self.end, self.place.size)


async def find_workspace(session: ReadSession, name: str) -> UUID | None:
    found: UUID | None = await session.scalar(WORKSPACE, {"tenant": session.tenant, "name": name})
    return found


async def workspaces(session: ReadSession, after: Place, limit: int) -> list[Workspace]:
    """By name, those after a name."""
    [name] = after or [""]
    rows = await session.rows(WORKSPACES, {"tenant": session.tenant, "after": name, "limit": limit})
    return [Workspace(**row._mapping) for row in rows]


async def current_document(session: ReadSession, workspace: UUID, path: str) -> Document | None:
    row = await session.first(CURRENT, {"tenant": session.tenant, "workspace": workspace, "path": path})
    return Document(**row._mapping) if row else None


async def documents(
    session: ReadSession, workspace: UUID, after: Place = None, limit: int = MOST_OUTLINED
) -> list[Document]:
    """Current documents by path, those after a path. Without a limit: the outline of the whole workspace."""
    [path] = after or [""]
    asked = {"tenant": session.tenant, "workspace": workspace, "after": path, "limit": limit}
    rows = await session.rows(DOCUMENTS, asked)
    return [Document(**row._mapping) for row in rows]


async def search(session: ReadSession, workspace_name: str, query: str, limit: int = 20) -> list[Found]:
    """The passages that answer a question best, best first, at most 50. An unknown workspace holds none."""
    rows: Sequence[Any] = await session.rows(
        SEARCH,
        {"tenant": session.tenant, "workspace": workspace_name, "query": query.replace("\0", " "), "limit": limit},
    )
    return [Found(*row) for row in rows]


async def read_span(session: ReadSession, workspace: UUID, source: bytes, start: int, end: int) -> Span | Apart | None:
    """Text of a source that the workspace holds, at most MOST_BYTES_READ bytes; None when it holds no such source.

    Bounds beyond the text are drawn in, and an end inside a character is moved outwards to the character's edge.
    """
    start = max(0, min(start, 2**31 - 5))
    end = max(start, min(end, start + MOST_BYTES_READ))
    first = max(0, start - 3)  # a character has at most four bytes: enough to find its edges on either side
    row = await session.first(
        SPAN,
        {"tenant": session.tenant, "workspace": workspace, "source": source, "start": first, "length": end + 3 - first},
    )
    if row is None:
        return None
    if row.part is None:
        found = dict(row._mapping)
        found.pop("part")
        return Apart(Located(**found), start, end)
    return cut(row.part, first, start, end, row.size)


def cut(data: bytes, first: int, start: int, end: int, size: int) -> Span:
    """[start, end) of a text of size bytes, out of data that begins at its byte `first`, at the edges of characters."""
    if start >= size:
        return Span("", size, size, size)
    low, high = start - first, min(end, size) - first
    while 0 < low < len(data) and data[low] & 0xC0 == 0x80:
        low -= 1
    while high < len(data) and data[high] & 0xC0 == 0x80:
        high += 1
    return Span(data[low:high].decode(), first + low, first + high, size)


async def paths_of(session: ReadSession, workspace: UUID, source: bytes) -> list[str]:
    """Under which paths the workspace holds a source."""
    rows = await session.rows(PATHS, {"tenant": session.tenant, "workspace": workspace, "source": source})
    return [row.path for row in rows]
