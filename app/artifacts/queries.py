"""Reading artifacts and the bytes behind citations."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.db import ReadSession
from app.listing import Place, behind

COLUMNS = "id, mission, attempt, schema_name, schema_version, producer, sha256, bytes, created_at"
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
BLOBS = text("SELECT sha256, bytes FROM blob WHERE tenant = :tenant AND sha256 = ANY(:sources)")
READINGS = text("""SELECT source_sha256, document, kind, version, read_at FROM reading
                   WHERE tenant = :tenant AND mission = :mission ORDER BY read_at, document""")


@dataclass(frozen=True)
class Artifact:
    """A stored artifact; bytes are canonical JSON."""

    id: UUID
    mission: UUID
    attempt: int
    schema_name: str
    schema_version: str
    producer: str
    sha256: bytes
    bytes: bytes
    created_at: datetime

    def content(self) -> Any:
        return json.loads(self.bytes)


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


async def blobs(session: ReadSession, sources: Iterable[bytes]) -> dict[bytes, bytes]:
    """Stored bytes by their hash; what is not stored is absent."""
    rows = await session.rows(BLOBS, {"tenant": session.tenant, "sources": list(set(sources))})
    return {row.sha256: row.bytes for row in rows}


async def readings(session: ReadSession, mission: UUID) -> Sequence[Any]:
    """What a mission was shown: source_sha256, document, kind, version, read_at."""
    return await session.rows(READINGS, {"tenant": session.tenant, "mission": mission})
