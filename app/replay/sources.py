"""What can be replayed: this tenant's own missions, and recordings that were imported."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app import missions
from app.artifacts import gone, removed
from app.clock import iso
from app.db import ReadSession
from app.listing import Place, behind
from app.replay.recording import Recording, record
from app.replay.transfer import Contents, contents
from colony_client.artifacts import MissionEnvelope

COLUMNS = """id, mission, attempt, mission_type, environment, signed_by, sensitivity_class, file_sha256, size, imported_by, imported_at,
  removed_at"""
ONE = text(f"SELECT {COLUMNS} FROM recording WHERE tenant = :tenant AND id = :id")  # noqa: S608
FILE = text("SELECT file FROM recording WHERE tenant = :tenant AND id = :id")
LIST = f"SELECT {COLUMNS} FROM recording WHERE tenant = :tenant"  # noqa: S608


@dataclass(frozen=True)
class Imported:
    """A recording that came from another environment."""

    id: UUID
    mission: UUID
    attempt: int
    mission_type: str
    environment: str
    signed_by: str
    sensitivity_class: str
    file_sha256: bytes
    size: int
    imported_by: UUID
    imported_at: datetime
    removed_at: datetime | None

    def view(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "mission": self.mission,
            "attempt": self.attempt,
            "mission_type": self.mission_type,
            "environment": self.environment,
            "signed_by": self.signed_by,
            "sensitivity_class": self.sensitivity_class,
            "sha256": self.file_sha256.hex(),
            "size": self.size,
            "imported_by": self.imported_by,
            "imported_at": iso(self.imported_at),
            "removed_at": iso(self.removed_at) if self.removed_at else None,
        }


async def find_imported(session: ReadSession, id: UUID) -> Imported | None:
    row = await session.first(ONE, {"tenant": session.tenant, "id": id})
    return Imported(**row._mapping) if row else None


async def imported(session: ReadSession, before: Place, limit: int) -> list[Imported]:
    """Imported recordings, newest first."""
    return [Imported(**row._mapping) for row in await behind(session, LIST, before, limit, at="imported_at")]


@dataclass(frozen=True)
class Source:
    """What a replay is asked of: the state that the mission is in, or was in when it was exported, and its envelope.

    brought: what it was shown, as far as that came with its recording.
    """

    state: str
    envelope: MissionEnvelope
    brought: Sequence[bytes] = ()


async def find_source(session: ReadSession, id: UUID) -> Source | None:
    """None when there is neither a mission nor a recording. Raises Problem bytes_removed."""
    mission = await missions.find(session, id)
    if mission is not None:
        present(mission.bytes_removed_at)
        return Source(mission.state, await missions.envelope(session, id))
    found = await find_imported(session, id)
    if found is None:
        return None
    came = await imported_contents(session, found)
    return Source(came.recording.state, came.envelope, came.sources)


async def imported_contents(session: ReadSession, found: Imported) -> Contents:
    """Raises Problem bytes_removed."""
    present(found.removed_at)
    file = await session.scalar(FILE, {"tenant": session.tenant, "id": found.id})
    return await asyncio.to_thread(contents, file)  # a large one takes a second, and others are waiting


async def find_recording(session: ReadSession, id: UUID, environment: str) -> Recording | None:
    """The recording of a mission of the session's tenant, or an imported one. None when there is neither.

    Raises Problem bytes_removed.
    """
    mission = await missions.find(session, id)
    if mission is not None:
        present(mission.bytes_removed_at)
        return await record(session, mission, environment)
    found = await find_imported(session, id)
    return (await imported_contents(session, found)).recording if found else None


@dataclass(frozen=True)
class Played:
    """What is played, and what came with it of what it was shown."""

    recording: Recording
    brought: Sequence[bytes] = ()


async def played(session: ReadSession, id: UUID, environment: str) -> Played | str:
    """What a replay plays; a str says how it went away. What is repeated may be removed, and nothing of it is ever deleted."""
    mission = await missions.find(session, id)
    if mission is not None:
        if mission.bytes_removed_at is not None:
            return removed(mission.bytes_removed_at)
        return Played(await record(session, mission, environment))
    found = await find_imported(session, id)
    assert found is not None
    if found.removed_at is not None:
        return removed(found.removed_at)
    came = await imported_contents(session, found)
    return Played(came.recording, came.sources)


def present(removed_at: datetime | None) -> None:
    if removed_at is not None:
        raise gone(removed_at)
