"""Requests as `take_in` is given them (migrations/sql/0001/57_intake.sql), and what it answers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from app.caller import Caller
from app.canonical import canonical, sha256
from app.missions.ask import Ask, workspace
from app.missions.types import MissionType
from app.policy import PolicySet, Verdict
from colony_client.artifacts import MissionEnvelope

MIDDLE = b'","updated_at":"'  # what stands between the two times of an answer
TAKE_IN = f"SELECT n, outcome, at, status, headers, body FROM take_in({', '.join(f'${n}' for n in range(1, 40))})"  # noqa: S608  # $1, $2, ...


@dataclass(frozen=True)
class Asked:
    """One request: who, what, and how it is told apart from its repetitions."""

    caller: Caller
    ask: Ask
    key: str | None = None  # Idempotency-Key
    fingerprint: bytes = b""
    traceparent: str | None = None
    request_id: str | None = None


@dataclass(frozen=True)
class Judged:
    """A request with what became of it, ready to be kept. An answer without a tail is its head."""

    asked: Asked
    mission: UUID
    kind: MissionType
    envelope: MissionEnvelope
    envelope_bytes: bytes
    decision: UUID
    artifact: UUID
    change: int
    policies: PolicySet
    verdict: Verdict
    inputs: bytes
    status: int
    headers: dict[str, str]
    head: bytes
    tail: bytes | None

    @property
    def size(self) -> int:
        return 2 * len(self.envelope_bytes) + len(self.inputs) + len(self.head)


@dataclass(frozen=True)
class Kept:
    """What take_in says of one row."""

    outcome: str
    at: datetime
    status: int | None = None
    headers: dict[str, str] | None = None
    body: bytes | None = None


def columns(together: Sequence[Judged]) -> list[Any]:
    """The arguments of take_in, in its order: by what requests were judged once, then a list for every column."""
    judges = [judged_by(one) for one in together]
    places = {judge: place for place, judge in enumerate(dict.fromkeys(judges), 1)}
    rows = [row(one) for one in together]
    return [
        *(list(column) for column in zip(*places, strict=True)),
        [places[judge] for judge in judges],
        *(list(column) for column in zip(*(values[:-1] for values in rows), strict=True)),
        MIDDLE,
        [values[-1] for values in rows],
    ]


def judged_by(one: Judged) -> tuple[Any, ...]:
    """What has to be so still: who asks, as whom, and by which rules."""
    caller = one.asked.caller
    roles = ",".join(sorted(caller.roles))
    return caller.secret, caller.tenant, caller.principal, roles, one.change, bytes.fromhex(one.policies.version)


def row(one: Judged) -> tuple[Any, ...]:
    envelope, verdict, asked = one.envelope, one.verdict, one.asked
    return (
        one.mission,
        one.kind.name,
        one.kind.version,
        not one.kind.shipped,
        envelope.mode,
        envelope.origin_surface,
        envelope.risk_level,
        envelope.sensitivity_class,
        workspace(asked.ask),
        bytes.fromhex(envelope.contract_hash),
        json.dumps(asked.ask.labels),
        asked.traceparent,
        envelope.budget.time_ms,
        envelope.budget.tokens,
        Decimal(str(envelope.budget.cost_usd)),
        one.decision,
        verdict.effect,
        verdict.rule,
        verdict.policy_version,
        verdict.reason,
        one.inputs,
        json.dumps(verdict.obligations),
        one.artifact,
        one.envelope_bytes,
        fact(one),
        asked.key,
        asked.fingerprint,
        one.status,
        json.dumps(one.headers),
        one.head,
        one.tail,
    )


def fact(one: Judged) -> bytes:
    """The body of `mission.accepted`, or of `mission.refused`."""
    verdict, envelope = one.verdict, one.envelope
    said: dict[str, Any] = {
        "mission_type": one.kind.name,
        "policy_decision": str(one.decision),
        "policy_version": verdict.policy_version,
        "rule": verdict.rule,
    }
    if verdict.effect != "deny":
        said |= {
            "type_version": one.kind.version,
            "mode": envelope.mode,
            "risk_level": envelope.risk_level,
            "sensitivity_class": envelope.sensitivity_class,
            "contract_hash": envelope.contract_hash,
            "effect": verdict.effect,
            "envelope": str(one.artifact),
            "envelope_sha256": sha256(one.envelope_bytes).hex(),
        }
    return canonical(said)
