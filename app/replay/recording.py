"""What is known of a mission, in one value: read from the tables, written to a file, and read from it again."""

import base64
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from sqlalchemy import text

from app import artifacts, ledger, missions, tape, writebacks
from app.canonical import parsed
from app.clock import iso
from app.db import ReadSession
from app.ledger.queries import START
from app.missions import Mission

MOST_FACTS = 20_000
PAGE = 2000
MOST_ATTEMPTS = 2**31 - 1  # what the database counts to
NO_NUL = r"^[^\x00]*$"  # which it keeps in no text
DECISIONS = text("""
  SELECT action, resource, effect, rule, policy_version, reason, convert_from(inputs, 'UTF8') AS inputs, at FROM policy_decision
  WHERE tenant = :tenant AND mission = :mission ORDER BY at, id LIMIT 5000""")
SHADOWED = text("""
  SELECT payload, effect FROM shadow_writeback WHERE tenant = :tenant AND mission = :mission ORDER BY at, proposal""")


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fact(Part):
    """A fact of the mission, as in the ledger."""

    seq: int
    type: str = Field(max_length=80)
    actor: str = Field(max_length=300)
    at: str = Field(max_length=40)
    body: dict[str, JsonValue]


class Answered(Part):
    """A call of a tool or a model, and what was answered (JSON in base64, as it was)."""

    kind: str = Field(pattern="^(tool|model)$")
    name: str = Field(min_length=1, max_length=200, pattern=NO_NUL)
    arguments: JsonValue
    ordinal: int = Field(ge=1)
    outcome: str = Field(pattern="^(answered|refused|denied)$")
    answer: str
    took_ms: float = Field(ge=0, allow_inf_nan=False)

    @property
    def call(self) -> tape.Call:
        return tape.call(self.kind, self.name, self.arguments)  # type: ignore[arg-type]

    @property
    def answer_bytes(self) -> bytes:
        return base64.b64decode(self.answer, validate=True)


class Stored(Part):
    """An artifact, and whose word it is."""

    id: UUID
    schema_name: str = Field(max_length=80)
    attempt: int
    producer: str = Field(max_length=200)
    content: dict[str, JsonValue]


class Decided(Part):
    """A policy decision and what it was made from."""

    action: str = Field(max_length=100)
    resource: str = Field(max_length=1000)
    effect: str = Field(pattern="^(allow|deny|ask)$")
    rule: str = Field(max_length=300)
    policy_version: str = Field(max_length=100)
    reason: str
    inputs: dict[str, JsonValue]


class Change(Part):
    """A change to a business system that came as far as being asked about, or would have."""

    payload: dict[str, JsonValue]
    state: str = Field(max_length=40)


class Recording(Part):
    """A mission as it went. attempt is the one that is played."""

    mission: UUID
    tenant: UUID
    environment: str = Field(max_length=40, pattern=NO_NUL)
    mission_type: str = Field(max_length=64, pattern=NO_NUL)
    attempt: int = Field(ge=1, le=MOST_ATTEMPTS)
    state: str = Field(max_length=40)
    reason: str | None = Field(None, max_length=200)
    reason_note: str | None = Field(None, max_length=2000)
    answer_status: str | None = None
    created_at: str = Field(max_length=40)
    closed_at: str | None = Field(None, max_length=40)
    envelope: dict[str, JsonValue]
    facts: list[Fact] = Field(max_length=MOST_FACTS)
    calls: list[Answered] = Field(max_length=MOST_FACTS)
    artifacts: list[Stored] = Field(max_length=MOST_FACTS)
    decisions: list[Decided] = Field(max_length=5000)
    changes: list[Change] = Field(max_length=5000)

    def of_attempt(self) -> list[Fact]:
        """The facts of the attempt that is played, in order, from when the mission was accepted for it: a first call overtakes the
        answer to the dispatch now and then. What was under way when an attempt was lost is told after that, and is no part of it."""
        begins = 0
        for place, fact in enumerate(self.facts):
            if fact.type == "mission.accepted" and fact.body.get("attempt", 1) == self.attempt:
                begins = place
        return [fact for fact in self.facts[begins:] if fact.body.get("attempt", self.attempt) == self.attempt]

    def artifact(self, id: Any) -> Stored | None:
        return next((one for one in self.artifacts if str(one.id) == str(id)), None)


async def record(session: ReadSession, mission: Mission, environment: str) -> Recording:
    """A mission of the session's tenant, as it is now."""
    assert session.tenant is not None
    envelope = (await missions.envelopes(session, [mission.id]))[mission.id]
    found = await every_fact(session, mission.id)
    stored = await every_artifact(session, mission.id)
    decided = await session.rows(DECISIONS, {"tenant": session.tenant, "mission": mission.id})
    return Recording(
        mission=mission.id,
        tenant=session.tenant,
        environment=environment,
        mission_type=mission.mission_type,
        attempt=mission.attempt,
        state=mission.state,
        reason=mission.reason,
        reason_note=mission.reason_note,
        answer_status=mission.answer_status,
        created_at=iso(mission.created_at),
        closed_at=iso(mission.closed_at) if mission.closed_at else None,
        envelope=parsed(envelope),
        facts=[Fact(seq=one.seq, type=one.type, actor=one.actor, at=iso(one.at), body=one.body) for one in found],
        calls=[
            Answered(
                kind=one.kind,
                name=one.name,
                arguments=parsed(one.arguments),
                ordinal=one.ordinal,
                outcome=one.outcome,
                answer=base64.b64encode(one.answer).decode(),
                took_ms=one.took_ms,
            )
            for one in await tape.calls(session, mission.id, mission.attempt)
        ],
        artifacts=[
            Stored(
                id=one.id,
                schema_name=one.schema_name,
                attempt=one.attempt,
                producer=one.producer,
                content=parsed(one.bytes),
            )
            for one in stored
        ],
        decisions=[
            Decided(
                action=row.action,
                resource=row.resource,
                effect=row.effect,
                rule=row.rule,
                policy_version=row.policy_version,
                reason=row.reason,
                inputs=parsed(row.inputs),
            )
            for row in decided
        ],
        changes=await changes(session, mission),
    )


async def every_fact(session: ReadSession, mission: UUID) -> list[ledger.Fact]:
    found: list[ledger.Fact] = []
    after = START
    while len(found) < MOST_FACTS:
        page = await ledger.facts(session, after, PAGE, mission)
        found += page
        if len(page) < PAGE:
            break
        after = page[-1].position
    return found[:MOST_FACTS]


async def every_artifact(session: ReadSession, mission: UUID) -> list[artifacts.Artifact]:
    found: list[artifacts.Artifact] = []
    after: tuple[str, str] | None = None
    while len(found) < MOST_FACTS:
        page = await artifacts.of_mission(session, mission, after=after, limit=PAGE)
        found += page
        if len(page) < PAGE:
            break
        after = (iso(page[-1].created_at), str(page[-1].id))
    return found[:MOST_FACTS]


async def changes(session: ReadSession, mission: Mission) -> list[Change]:
    """What was asked about, in the payloads that were approved or refused; of a replay what would have been."""
    if mission.played:
        rows = await session.rows(SHADOWED, {"tenant": session.tenant, "mission": mission.id})
        return [Change(payload=parsed(row.payload), state="shadow") for row in rows]
    first: dict[UUID, Change] = {}  # of each proposal what the colony said, before anybody edited it
    for one in await writebacks.of_mission(session, mission.id):
        first.setdefault(one.proposal, Change(payload=parsed(one.payload), state=one.state))
    return list(first.values())
