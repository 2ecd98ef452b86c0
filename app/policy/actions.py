"""Deciding and recording the decision."""

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.caller import Caller
from app.canonical import fingerprint
from app.clock import new_id
from app.db import ReadSession, WriteSession
from app.policy.engine import Verdict, evaluate
from app.telemetry import POLICY

INSERT = text("""
  INSERT INTO policy_decision (tenant, id, mission, principal, action, resource, effect, rule, policy_version, reason, inputs_sha256,
                               obligations)
  VALUES (:tenant, :id, :mission, :principal, :action, :resource, :effect, :rule, :policy_version, :reason, :inputs_sha256,
          CAST(:obligations AS jsonb))""")
OF_MISSION = text("""SELECT id, action, resource, effect, rule, policy_version, reason, inputs_sha256, at FROM policy_decision
                     WHERE tenant = :tenant AND mission = :mission ORDER BY at, id LIMIT 500""")


@dataclass(frozen=True)
class PolicyDecision:
    """A verdict with its id and what it was about."""

    id: UUID
    action: str
    resource: str
    inputs_sha256: bytes
    verdict: Verdict


async def decide(
    session: WriteSession, caller: Caller, action: str, resource: str, context: dict[str, Any], mission: UUID | None
) -> PolicyDecision:
    """Evaluates the rules and keeps the decision, its rule and a hash of its inputs in this transaction."""
    verdict = evaluate(str(caller.principal), action, resource, context)
    inputs = fingerprint(
        {"principal": str(caller.principal), "action": action, "resource": resource, "context": context}
    )
    decision = PolicyDecision(new_id(), action, resource, inputs, verdict)
    await session.execute(
        INSERT,
        {
            "tenant": caller.tenant,
            "id": decision.id,
            "mission": mission,
            "principal": caller.principal,
            "action": action,
            "resource": resource,
            "effect": verdict.effect,
            "rule": verdict.rule,
            "policy_version": verdict.policy_version,
            "reason": verdict.reason,
            "inputs_sha256": inputs,
            "obligations": json.dumps(verdict.obligations),
        },
    )
    POLICY.labels(action, verdict.effect).inc()
    return decision


async def recorded(session: ReadSession, mission: UUID) -> list[dict[str, Any]]:
    """The policy decisions about a mission, oldest first."""
    rows = await session.rows(OF_MISSION, {"tenant": session.tenant, "mission": mission})
    return [dict(row._mapping) for row in rows]
