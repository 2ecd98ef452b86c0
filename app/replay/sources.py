"""What can be replayed: this tenant's own missions, and recordings that were imported."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app import artifacts, missions
from app.clock import iso
from app.db import ReadSession
from app.listing import Place, behind
from app.replay.recording import Recording, record
from app.replay.transfer import contents
from colony_client.artifacts import MissionEnvelope

COLUMNS = "id, mission, attempt, mission_type, environment, signed_by, file_sha256, size, imported_by, imported_at"
ONE = text(f"SELECT {COLUMNS} FROM recording WHERE tenant = :tenant AND id = :id")  # noqa: S608
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
    file_sha256: bytes
    size: int
    imported_by: UUID
    imported_at: datetime

    def view(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "mission": self.mission,
            "attempt": self.attempt,
            "mission_type": self.mission_type,
            "environment": self.environment,
            "signed_by": self.signed_by,
            "sha256": self.file_sha256.hex(),
            "size": self.size,
            "imported_by": self.imported_by,
            "imported_at": iso(self.imported_at),
        }


async def find_imported(session: ReadSession, id: UUID) -> Imported | None:
    row = await session.first(ONE, {"tenant": session.tenant, "id": id})
    return Imported(**row._mapping) if row else None


async def imported(session: ReadSession, before: Place, limit: int) -> list[Imported]:
    """Imported recordings, newest first."""
    return [Imported(**row._mapping) for row in await behind(session, LIST, before, limit, at="imported_at")]


@dataclass(frozen=True)
class Source:
    """What a replay is asked of: the state that the mission is in, or was in when it was exported, and its envelope."""

    state: str
    envelope: MissionEnvelope


async def find_source(session: ReadSession, id: UUID) -> Source | None:
    mission = await missions.find(session, id)
    if mission is not None:
        return Source(mission.state, await missions.envelope(session, id))
    found = await find_imported(session, id)
    if found is None:
        return None
    recording = await imported_recording(session, found)
    return Source(recording.state, MissionEnvelope.model_validate_json(json.dumps(recording.envelope)))


async def imported_recording(session: ReadSession, found: Imported) -> Recording:
    stored = await artifacts.blobs(session, [found.file_sha256])
    return contents(stored[found.file_sha256]).recording


async def find_recording(session: ReadSession, id: UUID, environment: str) -> Recording | None:
    """The recording of a mission of the session's tenant, or an imported one. None when there is neither."""
    mission = await missions.find(session, id)
    if mission is not None:
        return await record(session, mission, environment)
    found = await find_imported(session, id)
    return await imported_recording(session, found) if found else None
