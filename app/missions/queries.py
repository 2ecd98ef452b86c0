"""Reading missions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import text

from app.clock import iso
from app.db import ReadSession
from app.listing import Place, behind
from app.missions.moves import CLOSED, State
from colony_client.artifacts import MissionEnvelope

COLUMNS = """id, mission_type, type_version, mode, state, stage, version, origin_surface, risk_level, sensitivity_class, requested_by,
  workspace, contract_hash, labels, traceparent, replay_of, replay_mode, attempt, last_seq,
  lease_until, deadline_at, budget_time_ms, budget_tokens,
  budget_cost_usd, used_tokens, used_cost_usd, answer_status, pending_approvals, writebacks, degraded, reason, reason_note,
  created_at, updated_at, closed_at, bytes_removed_at"""
PLAYED = ("recorded", "recorded_with_colony")  # modes of a replay in which nobody is asked


@dataclass(frozen=True)
class Mission:
    """One row of the mission table."""

    id: UUID
    mission_type: str
    type_version: int
    mode: str
    state: State
    stage: str | None
    version: int
    origin_surface: str
    risk_level: str
    sensitivity_class: str
    requested_by: UUID
    workspace: str
    contract_hash: bytes
    labels: dict[str, str]
    traceparent: str | None
    attempt: int
    last_seq: int
    lease_until: datetime | None
    deadline_at: datetime | None
    budget_time_ms: int
    budget_tokens: int
    budget_cost_usd: Decimal
    used_tokens: int
    used_cost_usd: Decimal
    answer_status: str | None
    pending_approvals: list[UUID]
    writebacks: dict[str, int]
    degraded: dict[str, Any] | None
    reason: str | None
    reason_note: str | None
    created_at: datetime
    updated_at: datetime
    closed_at: datetime | None
    replay_of: UUID | None = None
    replay_mode: str | None = None
    bytes_removed_at: datetime | None = None

    @property
    def played(self) -> bool:
        """Whether tools answer it from the tape of what it repeats: then it neither spends nor changes anything."""
        return self.replay_mode in PLAYED

    @property
    def closed(self) -> bool:
        return self.state in CLOSED

    @property
    def over_budget(self) -> bool:
        """Whether reported use exceeds tokens or cost."""
        return self.used_tokens > self.budget_tokens or self.used_cost_usd > self.budget_cost_usd


class BudgetView(BaseModel):
    """What the mission may use and has used."""

    time_ms: int
    tokens: int
    cost_usd: float
    used_tokens: int
    used_cost_usd: float


class MissionView(BaseModel):
    """A mission as the API shows it."""

    id: UUID
    mission_type: str
    mode: str
    state: str
    stage: str | None
    version: int
    attempt: int
    origin_surface: str
    risk_level: str
    sensitivity_class: str
    requested_by: UUID
    workspace: str
    user_goal: str | None
    labels: dict[str, str]
    budget: BudgetView
    answer_status: str | None
    pending_approvals: list[UUID]
    writebacks: dict[str, int]
    degraded: dict[str, Any] | None
    reason: str | None
    reason_note: str | None
    replay_of: UUID | None
    replay_mode: Literal["rerun", "recorded", "recorded_with_colony"] | None
    created_at: str
    updated_at: str
    closed_at: str | None
    links: dict[str, str]


ONE = text(f"SELECT {COLUMNS} FROM mission WHERE tenant = :tenant AND id = :id")  # noqa: S608
EVERY = f"SELECT {COLUMNS} FROM mission m WHERE m.tenant = :tenant"  # noqa: S608
LABELLED = f"""SELECT {", ".join(f"m.{one.strip()}" for one in COLUMNS.split(","))}
               FROM mission_label l JOIN mission m ON m.tenant = l.tenant AND m.id = l.mission
               WHERE l.tenant = :tenant AND l.name = :label_name AND l.value = :label_value"""  # noqa: S608
# NO KEY: rows that refer to the mission may be written meanwhile. A denied tool call writes one and checks the reference
# at its commit, holding the mission's place in the ledger: with a full lock the two would wait for each other.
LOCKED = text(f"SELECT {COLUMNS} FROM mission WHERE tenant = :tenant AND id = :id FOR NO KEY UPDATE")  # noqa: S608
ENVELOPES = text("""SELECT mission, bytes FROM artifact
                    WHERE tenant = :tenant AND mission = ANY(:missions) AND schema_name = 'mission_envelope'
                      AND removed_at IS NULL""")


def mission(row: Any) -> Mission:
    return Mission(**row._mapping)


FIELDS = tuple(Mission.__dataclass_fields__)


def from_row(row: Mapping[str, Any]) -> Mission:
    """A row as the driver gives it, whose JSON may still be text; what else it holds is left out."""
    values = {name: row[name] for name in FIELDS}
    for name in ("labels", "writebacks", "degraded"):
        if isinstance(values[name], str):
            values[name] = json.loads(values[name])
    return Mission(**values)


async def find(session: ReadSession, id: UUID, *, lock: bool = False) -> Mission | None:
    """The mission, locked until commit when asked. None when absent or another tenant's."""
    row = await session.first(LOCKED if lock else ONE, {"tenant": session.tenant, "id": id})
    return mission(row) if row else None


async def newest(session: ReadSession, filters: dict[str, Any], before: Place, limit: int) -> list[Mission]:
    """Missions, newest first. filters: state, mission_type, requested_by, replay_of, created_after, created_before, label (name, value)."""
    clauses = {
        "state": "state = :state",
        "mission_type": "mission_type = :mission_type",
        "requested_by": "requested_by = :requested_by",
        "replay_of": "replay_of = :replay_of",
        "created_after": "created_at >= :created_after",
        "created_before": "created_at < :created_before",
    }
    used = {name: value for name, value in filters.items() if value is not None}
    label = used.pop("label", None)
    where = "".join(f" AND m.{clauses[name]}" for name in used)
    if label is None:
        found = await behind(session, EVERY + where, before, limit, at="m.created_at", id="m.id", **used)
    else:
        used["label_name"], used["label_value"] = label
        found = await behind(session, LABELLED + where, before, limit, at="l.created_at", id="l.mission", **used)
    return [mission(row) for row in found]


async def envelopes(session: ReadSession, missions: Sequence[UUID]) -> dict[UUID, bytes]:
    """The stored envelope bytes of missions; those that retention removed are absent."""
    rows = await session.rows(ENVELOPES, {"tenant": session.tenant, "missions": list(missions)})
    return {row.mission: row.bytes for row in rows}


async def envelope(session: ReadSession, id: UUID) -> MissionEnvelope:
    """The envelope of an existing mission."""
    return MissionEnvelope.model_validate_json((await envelopes(session, [id]))[id])


def view(found: Mission, user_goal: str | None) -> dict[str, Any]:
    """What the API says of a mission; the keys are MissionView's."""
    own = f"/v1/missions/{found.id}"
    return {
        "id": found.id,
        "mission_type": found.mission_type,
        "mode": found.mode,
        "state": found.state,
        "stage": found.stage,
        "version": found.version,
        "attempt": found.attempt,
        "origin_surface": found.origin_surface,
        "risk_level": found.risk_level,
        "sensitivity_class": found.sensitivity_class,
        "requested_by": found.requested_by,
        "workspace": found.workspace,
        "user_goal": user_goal,
        "labels": found.labels,
        "budget": {
            "time_ms": found.budget_time_ms,
            "tokens": found.budget_tokens,
            "cost_usd": float(found.budget_cost_usd),
            "used_tokens": found.used_tokens,
            "used_cost_usd": float(found.used_cost_usd),
        },
        "answer_status": found.answer_status,
        "pending_approvals": found.pending_approvals,
        "writebacks": found.writebacks,
        "degraded": found.degraded,
        "reason": found.reason,
        "reason_note": found.reason_note,
        "replay_of": found.replay_of,
        "replay_mode": found.replay_mode,
        "created_at": iso(found.created_at),
        "updated_at": iso(found.updated_at),
        "closed_at": iso(found.closed_at) if found.closed_at else None,
        "links": {"self": own, "events": f"{own}/events", "artifacts": f"{own}/artifacts", "packet": f"{own}/packet"},
    }


async def views(session: ReadSession, found: Sequence[Mission]) -> list[dict[str, Any]]:
    """Missions with the goals from their envelopes."""
    stored = await envelopes(session, [one.id for one in found])
    return [view(one, json.loads(stored[one.id])["user_goal"] if one.id in stored else None) for one in found]
