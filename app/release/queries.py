"""Reading the ladder as it stands, the history of the gates, and attestations."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from app.clock import iso, now
from app.db import ReadSession
from app.ladder import Rung, Standing, ladder
from app.listing import Place, behind
from app.release.actions import Picture, missing
from app.release.gates import GATES

HEALTHY = "SELECT release_is_healthy(:environment, CAST(:gates AS text[]))"
CHANGES = """SELECT id, environment, gate, result, was, checks, at FROM gate_change WHERE tenant = :tenant"""
ATTESTATIONS = """SELECT id, environment, claim, role, convert_from(statement, 'UTF8') AS statement, sha256, signed_by, signed_at,
    expires_at, withdrawn_by, withdrawn_at FROM attestation WHERE tenant = :tenant"""


async def healthy(session: ReadSession, environment: str) -> bool:
    """Whether all gates passed when they were computed last, in the tenant that runs the installation; tells nothing else."""
    return bool(await session.scalar(HEALTHY, {"environment": environment, "gates": list(GATES)}))


async def ladder_view(session: ReadSession, seen: Picture) -> dict[str, Any]:
    """Every rung with where it stands, and what the ones of this environment still want."""
    here, stands, elsewhere = seen.around.environment, seen.stands, seen.elsewhere()
    items = []
    for rung in ladder().rungs:
        for place in rung.environments:
            if place == here:
                items.append(await rung_view(session, seen, rung))
            else:
                items.append(one_there(rung, place, elsewhere.get(place)))
    types = [rung.mission_type for rung in ladder().rungs if rung.mission_type != "*"]
    return {
        "environment": here,
        "build": seen.around.build,
        "bound": stands.change is not None,
        "why": ladder().why[here],
        "admits": {name: stands.autonomy(name) for name in dict.fromkeys(types)},
        "items": items,
    }


def told(rung: Rung, place: str) -> dict[str, Any]:
    return {
        "rung": rung.name,
        "title": rung.title,
        "environment": place,
        "mission_type": rung.mission_type,
        "enables": rung.autonomy,
        "at_most": rung.at_most,
        "gates": list(rung.gates),
        "checks": list(rung.checks),
    }


async def rung_view(session: ReadSession, seen: Picture, rung: Rung) -> dict[str, Any]:
    """A rung of this environment with everything that it wants."""
    wants = await missing(session, seen, rung)
    return where_it_stands(rung, seen.stands) | {"ready": not wants, "missing": [one.view() for one in wants]}


def where_it_stands(rung: Rung, stands: Standing) -> dict[str, Any]:
    """A rung of this environment, without a look at what it wants."""
    step = stands.steps.get(rung.name)
    said: dict[str, Any] = {
        "state": "enabled" if stands.enabled(rung.name) else "not_enabled",
        "autonomy": step.autonomy if step else "nothing",
        "last_change": step.view() if step else None,
        "ready": None,
        "missing": [],
    }
    return told(rung, stands.environment) | said


def one_there(rung: Rung, place: str, rungs: dict[str, str] | None) -> dict[str, Any]:
    autonomy = None if rungs is None else rungs.get(rung.name, "nothing")
    state = "unknown" if autonomy is None else "not_enabled" if autonomy == "nothing" else "enabled"
    said: dict[str, Any] = {
        "state": state,
        "autonomy": autonomy,
        "last_change": None,
        "ready": None,
        "missing": [],
    }
    return told(rung, place) | said


@dataclass(frozen=True)
class GateChange:
    """A gate that came out differently."""

    id: UUID
    environment: str
    gate: str
    result: str
    was: str | None
    checks: Any
    at: datetime

    def view(self) -> dict[str, Any]:
        return vars(self) | {"id": str(self.id), "at": iso(self.at), "checks": self.checks}


async def history(session: ReadSession, after: Place, limit: int, gate: str | None) -> list[GateChange]:
    """How the gates came out over time, newest first."""
    rows = await behind(session, CHANGES, after, limit, at="at", only={"gate": gate})
    return [GateChange(**row._mapping) for row in rows]


@dataclass(frozen=True)
class Attestation:
    """What a person signed."""

    id: UUID
    environment: str
    claim: str
    role: str
    statement: str
    sha256: bytes
    signed_by: UUID
    signed_at: datetime
    expires_at: datetime
    withdrawn_by: UUID | None
    withdrawn_at: datetime | None

    def view(self) -> dict[str, Any]:
        said = json.loads(self.statement)
        state = "withdrawn" if self.withdrawn_at else "expired" if self.expires_at <= now() else "live"
        return {
            "id": str(self.id),
            "environment": self.environment,
            "claim": self.claim,
            "sentence": said["sentence"],
            "comment": said["comment"],
            "build": said["build"],
            "role": self.role,
            "sha256": self.sha256.hex(),
            "state": state,
            "signed_by": str(self.signed_by),
            "signed_at": iso(self.signed_at),
            "expires_at": iso(self.expires_at),
            "withdrawn_by": str(self.withdrawn_by) if self.withdrawn_by else None,
            "withdrawn_at": iso(self.withdrawn_at) if self.withdrawn_at else None,
        }


async def attestations(session: ReadSession, after: Place, limit: int, claim: str | None) -> list[Attestation]:
    """Newest first."""
    rows = await behind(session, ATTESTATIONS, after, limit, at="signed_at", only={"claim": claim})
    return [Attestation(**row._mapping) for row in rows]


async def attestation(session: ReadSession, id: UUID) -> Attestation | None:
    row = await session.first(f"{ATTESTATIONS} AND id = :id", {"tenant": session.tenant, "id": id})
    return Attestation(**row._mapping) if row else None
