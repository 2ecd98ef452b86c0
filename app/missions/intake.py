"""Taking a mission in: the one path, whoever asks."""

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app import ledger, work
from app.artifacts import store
from app.budgets.actions import Amounts, foresee, not_admitted
from app.caller import Caller
from app.clock import new_id
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.missions.normalize import Defaults, build, reaches_public
from app.missions.types import MissionType, find_type
from app.policy import PolicyDecision, Verdict, consult, decide
from app.telemetry import MISSIONS, traceparent
from colony_client.artifacts import MissionEnvelope

ROLE_ORDER = ("submitter", "operator", "product_owner")  # as whom a caller with several roles submits


class BudgetAsk(BaseModel):
    """What the mission may use; what is left out comes from the settings, what is too much is clamped to the type's limit."""

    model_config = ConfigDict(extra="forbid", strict=True)
    time_ms: int | None = Field(None, ge=1, le=7 * 86_400_000)
    tokens: int | None = Field(None, ge=0, le=1_000_000_000)
    cost_usd: float | None = Field(None, ge=0, le=1e6, allow_inf_nan=False)


Label = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class Ask(BaseModel):
    """A request for a mission."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "mission_type": "oracle_advisory",
                    "user_goal": "What has to be true before a writeback is executed?",
                    "inputs": {"workspace": "default"},
                    "mode": "assisted",
                }
            ]
        },
    )
    mission_type: str = Field(pattern=r"^[a-z][a-z0-9_]{2,63}$", description="One of GET /v1/mission-types.")
    user_goal: str = Field(min_length=1, max_length=8000, description="What the mission is for, in plain words.")
    inputs: dict[str, Any] = Field(default_factory=dict, max_length=100, description="Fits the type's inputs_schema.")
    mode: Literal["dry_run", "assisted", "autonomous"] | None = None
    origin_surface: str = Field(
        "api", min_length=1, max_length=200, description="Where the wish came up, such as ui or cli."
    )
    risk_level: Literal["low", "medium", "high"] | None = None
    sensitivity_class: Literal["public", "internal", "confidential", "restricted"] | None = None
    budget: BudgetAsk = Field(default_factory=lambda: BudgetAsk(time_ms=None, tokens=None, cost_usd=None))
    tools: (
        list[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$", max_length=64)]] | None
    ) = Field(None, max_length=50, description="Tools the mission may call; the type's own when left out.")
    labels: dict[Label, Annotated[str, StringConstraints(max_length=200)]] = Field(default_factory=dict, max_length=20)


@dataclass(frozen=True)
class Intake:
    """What every request is measured against."""

    defaults: Defaults


@dataclass(frozen=True)
class Requested:
    """What came of a request. mission is None when policy denied it."""

    mission: UUID | None
    envelope: MissionEnvelope
    decision: PolicyDecision


INSERT = text("""
  INSERT INTO mission (tenant, id, mission_type, type_version, mode, state, origin_surface, risk_level, sensitivity_class, presented,
    workspace, contract_hash, labels, traceparent, budget_time_ms, budget_tokens, budget_cost_usd)
  VALUES (:tenant, :id, :mission_type, :type_version, :mode, 'accepted', :origin_surface, :risk_level, :sensitivity_class, :presented,
    :workspace, :contract_hash, CAST(:labels AS jsonb), :traceparent, :time_ms, :tokens, :cost_usd)""")


async def request(session: WriteSession, caller: Caller, ask: Ask, intake: Intake) -> Requested:
    """Normalizes, asks policy, and keeps mission, envelope, decision, fact and work in one transaction.

    A denial keeps decision and fact only. When policy asks, the mission waits for a human before it is dispatched.
    Raises Problem `validation`.
    """
    kind = await known_type(session, ask)
    mission = new_id()
    envelope = build(ask, kind, caller, submitting_role(caller), mission, intake.defaults)
    decision = await decide(
        session, caller, "mission.create", kind.name, admission(envelope), mission, makes_mission=True
    )
    verdict = decision.verdict
    if verdict.effect == "deny":
        await ledger.record(
            session,
            caller,
            "mission.refused",
            caller.tenant,
            policy_decision=decision.id,
            rule=verdict.rule,
            policy_version=verdict.policy_version,
            mission_type=kind.name,
        )
        return Requested(None, envelope, decision)
    await insert(
        session,
        caller,
        {
            "tenant": caller.tenant,
            "id": mission,
            "mission_type": kind.name,
            "type_version": kind.version,
            "mode": envelope.mode,
            "origin_surface": envelope.origin_surface,
            "risk_level": envelope.risk_level,
            "sensitivity_class": envelope.sensitivity_class,
            "presented": caller.secret,  # the wall finds out itself whose mission this is
            "workspace": ask.inputs.get("workspace", "default"),
            "contract_hash": bytes.fromhex(envelope.contract_hash),
            "labels": json.dumps(ask.labels),
            "traceparent": traceparent(),
            "time_ms": envelope.budget.time_ms,
            "tokens": envelope.budget.tokens,
            "cost_usd": envelope.budget.cost_usd,
        },
    )
    await ledger.record(
        session,
        caller,
        "mission.accepted",
        mission,
        mission_type=kind.name,
        type_version=kind.version,
        mode=envelope.mode,
        risk_level=envelope.risk_level,
        sensitivity_class=envelope.sensitivity_class,
        contract_hash=envelope.contract_hash,
        policy_decision=decision.id,
        effect=verdict.effect,
        rule=verdict.rule,
        policy_version=verdict.policy_version,
    )
    await store(session, caller, mission, 1, envelope)
    await work.add(session, "ask" if verdict.effect == "ask" else "dispatch", mission)
    MISSIONS.labels(kind.name, "accepted").inc()
    return Requested(mission, envelope, decision)


async def insert(session: WriteSession, caller: Caller, row: dict[str, Any]) -> None:
    """The mission with its budget held, or Problem budget_exhausted and nothing of it."""
    try:
        await session.execute(INSERT, row)
    except DBAPIError as error:
        raise not_admitted(error, caller) or error from None


async def rehearse(session: ReadSession, caller: Caller, ask: Ask, intake: Intake) -> tuple[MissionEnvelope, Verdict]:
    """Every check of a request, and nothing kept: the envelope it would have and what policy would say.

    Raises Problem `validation`, and `budget_exhausted` when the request itself would.
    """
    kind = await known_type(session, ask)
    envelope = build(ask, kind, caller, submitting_role(caller), new_id(), intake.defaults)
    verdict = await consult(session, caller, "mission.create", kind.name, admission(envelope))
    if verdict.effect != "deny":
        budget = envelope.budget
        await foresee(session, Amounts(budget.tokens, Decimal(str(budget.cost_usd)), budget.time_ms))
    return envelope, verdict


async def known_type(session: ReadSession, ask: Ask) -> MissionType:
    kind = await find_type(session, ask.mission_type)
    if kind is None:
        raise Problem(
            "validation",
            f"/mission_type: there is no mission type {ask.mission_type}",
            errors=[{"pointer": "/mission_type", "detail": "see GET /v1/mission-types"}],
        )
    return kind


def submitting_role(caller: Caller) -> str:
    return next((role for role in ROLE_ORDER if role in caller.roles), "submitter")


def admission(envelope: MissionEnvelope) -> dict[str, Any]:
    """What the admission rules look at."""
    return {
        "mode": envelope.mode,
        "risk_level": envelope.risk_level,
        "sensitivity_class": envelope.sensitivity_class,
        "environment": envelope.environment,
        "public_tools": reaches_public(envelope.tools),
    }
