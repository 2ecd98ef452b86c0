"""What a mission was accepted with: none of it ever changes, so whoever has read it once may remember it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from app.missions.queries import PLAYED, Mission
from colony_client.artifacts import MissionEnvelope


@dataclass(frozen=True)
class Terms:
    """What calls of a mission are judged by, apart from how it stands at the moment."""

    id: UUID
    mission_type: str
    type_version: int
    mode: str
    sensitivity_class: str
    requested_by: UUID
    workspace: str
    replay_mode: str | None
    tools: frozenset[str]  # that it may be given
    environment: str

    @property
    def played(self) -> bool:
        """As of the mission: whether it is answered from a tape."""
        return self.replay_mode in PLAYED

    @classmethod
    def of(cls, mission: Mission, envelope: MissionEnvelope) -> "Terms":
        return cls(**{name: getattr(mission, name) for name in COLUMNS}, **from_envelope(envelope))


COLUMNS = (
    "id",
    "mission_type",
    "type_version",
    "mode",
    "sensitivity_class",
    "requested_by",
    "workspace",
    "replay_mode",
)


def from_envelope(envelope: MissionEnvelope) -> dict[str, Any]:
    return {"tools": frozenset(envelope.tools), "environment": envelope.environment}


def terms_of(row: Mapping[str, Any]) -> Terms:
    """From a row of `terms_of_missions`."""
    envelope = MissionEnvelope.model_validate_json(row["envelope"])
    return Terms(**{name: row[name] for name in COLUMNS}, **from_envelope(envelope))
