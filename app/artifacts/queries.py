"""Reading artifacts and the bytes behind citations."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.artifacts.objects import Located
from app.db import ReadSession
from app.listing import Place, behind

COLUMNS = """id, mission, attempt, schema_name, schema_version, producer, sha256, COALESCE(bytes, '') AS bytes, created_at,
  removed_at, removed_size"""
OF_MISSION = f"SELECT {COLUMNS} FROM artifact WHERE tenant = :tenant AND mission = :mission"  # noqa: S608
OF_ATTEMPT = text(f"""SELECT {COLUMNS} FROM artifact
  WHERE tenant = :tenant AND mission = :mission AND schema_name = :schema AND (attempt = :attempt OR id IN (
    SELECT (convert_from(f.body, 'UTF8')::json ->> 'artifact')::uuid FROM ledger f
    WHERE f.tenant = :tenant AND f.subject = :mission AND f.type = 'artifact.repeated'
      AND (convert_from(f.body, 'UTF8')::json ->> 'attempt')::int = :attempt))
  ORDER BY created_at, id""")  # noqa: S608
ONE = text(f"SELECT {COLUMNS} FROM artifact WHERE tenant = :tenant AND mission = :mission AND id = :id")  # noqa: S608
LATEST = text(f"""SELECT {COLUMNS} FROM artifact
  WHERE tenant = :tenant AND mission = :mission AND schema_name = :schema AND (:producer = '' OR producer = :producer)
  ORDER BY attempt DESC, created_at DESC, id DESC LIMIT 1""")  # noqa: S608
PLACE_ALONE = "b.tenant, b.sha256, b.size, b.object, b.chunks, b.removed_at"  # and not the bytes that are in the row
PLACE = f"{PLACE_ALONE}, b.bytes AS inline"
PLACES = text(f"SELECT {PLACE} FROM blob b WHERE b.tenant = :tenant AND b.sha256 = ANY(:sources)")  # noqa: S608
SOURCES = text("""SELECT r.document, r.source_sha256, r.kind, r.version, r.read_at, b.size, b.removed_at
  FROM reading r JOIN blob b ON b.tenant = r.tenant AND b.sha256 = r.source_sha256
  WHERE r.tenant = :tenant AND r.mission = :mission AND (r.document, encode(r.source_sha256, 'hex')) > (:document, :source)
  ORDER BY r.document, encode(r.source_sha256, 'hex') LIMIT :limit""")
SOURCE = text(f"""SELECT r.kind, {PLACE} FROM reading r JOIN blob b ON b.tenant = r.tenant AND b.sha256 = r.source_sha256
  WHERE r.tenant = :tenant AND r.mission = :mission AND r.source_sha256 = :source LIMIT 1""")  # noqa: S608
READINGS = text("""SELECT source_sha256, document, kind, version, read_at FROM reading
                   WHERE tenant = :tenant AND mission = :mission ORDER BY read_at, document""")


@dataclass(frozen=True)
class Artifact:
    """A stored artifact; bytes are canonical JSON, and empty when retention has removed them."""

    id: UUID
    mission: UUID
    attempt: int
    schema_name: str
    schema_version: str
    producer: str
    sha256: bytes
    bytes: bytes
    created_at: datetime
    removed_at: datetime | None = None
    removed_size: int | None = None

    @property
    def size(self) -> int:
        return len(self.bytes) if self.removed_size is None else self.removed_size

    def content(self) -> Any:
        """None when it was removed."""
        return json.loads(self.bytes) if self.removed_at is None else None


async def of_mission(
    session: ReadSession, mission: UUID, schema: str | None = None, after: Place = None, limit: int = 500
) -> list[Artifact]:
    """A mission's artifacts, oldest first, all types or one."""
    only = {"schema_name": schema}
    rows = await behind(session, OF_MISSION, after, limit, oldest_first=True, only=only, mission=mission)
    return [Artifact(**row._mapping) for row in rows]


async def of_attempt(session: ReadSession, mission: UUID, attempt: int, schema: str) -> list[Artifact]:
    """All artifacts of a type that an attempt produced, or said again in the same bytes, oldest first."""
    rows = await session.rows(
        OF_ATTEMPT, {"tenant": session.tenant, "mission": mission, "attempt": attempt, "schema": schema}
    )
    return [Artifact(**row._mapping) for row in rows]


async def one(session: ReadSession, mission: UUID, artifact: UUID) -> Artifact | None:
    row = await session.first(ONE, {"tenant": session.tenant, "mission": mission, "id": artifact})
    return Artifact(**row._mapping) if row else None


async def latest(session: ReadSession, mission: UUID, schema: str, producer: str = "") -> Artifact | None:
    """The newest artifact of a type, of the newest attempt that has one."""
    row = await session.first(
        LATEST, {"tenant": session.tenant, "mission": mission, "schema": schema, "producer": producer}
    )
    return Artifact(**row._mapping) if row else None


async def places(session: ReadSession, sources: Iterable[bytes]) -> dict[bytes, Located]:
    """Where bytes are by their hash, and the bytes themselves where they are in the row; what was never stored is absent."""
    rows = await session.rows(PLACES, {"tenant": session.tenant, "sources": list(set(sources))})
    return {row.sha256: Located(**row._mapping) for row in rows}


@dataclass(frozen=True)
class Source:
    """Something that a mission was shown; size in bytes."""

    document: str
    source_sha256: bytes
    kind: str
    version: str | None
    read_at: datetime
    size: int
    removed_at: datetime | None

    @property
    def source(self) -> str:
        return self.source_sha256.hex()


async def sources(session: ReadSession, mission: UUID, after: Place, limit: int) -> list[Source]:
    """What a mission was shown, by document."""
    document, source = after or ("", "")
    asked = {"tenant": session.tenant, "mission": mission, "document": document, "source": source, "limit": limit}
    return [Source(**row._mapping) for row in await session.rows(SOURCES, asked)]


async def shown(session: ReadSession, mission: UUID, source: bytes) -> tuple[str, Located] | None:
    """The kind of a source that the mission was shown, and where its bytes are."""
    row = await session.first(SOURCE, {"tenant": session.tenant, "mission": mission, "source": source})
    if row is None:
        return None
    found = dict(row._mapping)
    return found.pop("kind"), Located(**found)


async def readings(session: ReadSession, mission: UUID) -> Sequence[Any]:
    """What a mission was shown: source_sha256, document, kind, version, read_at."""
    return await session.rows(READINGS, {"tenant": session.tenant, "mission": mission})
