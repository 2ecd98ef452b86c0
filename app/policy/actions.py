"""Deciding and recording the decision; putting and retiring policies."""

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app import ledger
from app.caller import Caller
from app.canonical import canonical, sha256
from app.clock import new_id
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.policy.engine import Asker, PolicySet, Verdict, evaluate
from app.policy.queries import SHELF, in_force, load
from app.policy.vocabulary import ACTIONS
from app.telemetry import BLOCKS, POLICY, begin

# The row is only written when the rules it was decided by are those in force now, and when their set is kept: so the
# check of the memory costs no round trip, and no decision ever names rules that nobody can look up.
INSERT = text("""
  INSERT INTO policy_decision (tenant, id, mission, principal, action, resource, effect, rule, policy_version, reason, inputs,
                               obligations)
  SELECT CAST(:tenant AS uuid), CAST(:id AS uuid), CAST(:mission AS uuid), CAST(:principal AS uuid), CAST(:action AS text),
         CAST(:resource AS text), CAST(:effect AS text), CAST(:rule AS text), CAST(:policy_version AS text),
         CAST(:reason AS text), CAST(:inputs AS bytea), CAST(:obligations AS jsonb)
  WHERE COALESCE((SELECT max(change) FROM policy WHERE tenant = :tenant), 0) = :change
    AND EXISTS (SELECT 1 FROM policy_set WHERE tenant = :tenant AND version = CAST(:set AS bytea))""")
KEEP_SET = text("""
  INSERT INTO policy_set (tenant, manifest, baseline)
  SELECT CAST(:tenant AS uuid), CAST(:manifest AS bytea), CAST(:baseline AS bytea)
  WHERE NOT EXISTS (SELECT 1 FROM policy_set WHERE tenant = :tenant AND version = sha256(CAST(:manifest AS bytea)))""")
PUT = text("SELECT * FROM put_policy(:tenant, :secret, :name, CAST(:text AS bytea), :expected)")
TRIES = 8
REMEMBERED = 2048  # verdicts of one set


@dataclass(frozen=True)
class PolicyDecision:
    """A verdict with its id and what it was about."""

    id: UUID
    action: str
    resource: str
    inputs_sha256: bytes
    verdict: Verdict


def asker(caller: Caller, action: str, requester: UUID | None) -> Asker:
    """Who acts: the caller with roles, or, for what a mission does, whoever requested it."""
    known = ACTIONS.get(action)
    if known is not None and known.principal == "Principal":
        return Asker(str(caller.principal), caller.kind, caller.roles)
    return Asker(str(requester or caller.principal))


@dataclass(frozen=True)
class Judgement:
    """A verdict, and the canonical bytes that it was made from."""

    who: Asker
    inputs: bytes
    verdict: Verdict


def judge(
    caller: Caller,
    action: str,
    resource: str,
    context: dict[str, Any],
    policies: PolicySet,
    requester: UUID | None = None,
) -> Judgement:
    """What a set of rules says. The same inputs have the same verdict, so a set remembers its last ones."""
    who = asker(caller, action, requester)
    inputs = canonical(
        {
            "principal": {"id": who.id, "kind": who.kind, "roles": sorted(who.roles)},
            "action": action,
            "resource": resource,
            "context": context,
        }
    )
    known = policies.verdicts.get(inputs)
    if known is None:
        known = evaluate(who, action, resource, context, policies)
        if len(policies.verdicts) >= REMEMBERED:
            policies.verdicts.clear()
        policies.verdicts[inputs] = known
    return Judgement(who, inputs, known)


@dataclass(frozen=True)
class Draft:
    """A decision by the rules that this process remembers. It stands when it is written while they are in force."""

    decision: PolicyDecision
    principal: UUID
    inputs: bytes
    change: int  # the tenant's changes of its rules that were known
    policies: PolicySet


def draft(
    caller: Caller,
    action: str,
    resource: str,
    context: dict[str, Any],
    *,
    requester: UUID | None = None,
    known: tuple[int, PolicySet] | None = None,
) -> Draft:
    """What `decide` would keep, by the rules that are known: those remembered when none are given. Nothing is read or kept."""
    change, policies = known or SHELF.get(caller.tenant)
    judgement = judge(caller, action, resource, context, policies, requester)
    decision = PolicyDecision(new_id(), action, resource, sha256(judgement.inputs), judgement.verdict)
    return Draft(decision, UUID(judgement.who.id), judgement.inputs, change, policies)


async def decide(
    session: WriteSession,
    caller: Caller,
    action: str,
    resource: str,
    context: dict[str, Any],
    mission: UUID | None,
    *,
    requester: UUID | None = None,
) -> PolicyDecision:
    """Evaluates the rules in force and keeps the decision, its rule and its inputs in this transaction.

    requester is for whom a mission acts.
    """
    known = SHELF.get(caller.tenant)
    for _ in range(TRIES):
        said = draft(caller, action, resource, context, requester=requester, known=known)
        if await keep(session, caller.tenant, said, mission):
            count(action, said.decision.verdict)
            return said.decision
        known = await renew(session)
    raise Problem("database_busy", "The policies changed again and again while they were read.", retry_after=1)


async def keep(session: WriteSession, tenant: UUID, said: Draft, mission: UUID | None) -> bool:
    """Writes the decision, unless its rules are out of date or their set is not kept yet."""
    decision, verdict = said.decision, said.decision.verdict
    done = await session.execute(
        INSERT,
        {
            "tenant": tenant,
            "id": decision.id,
            "mission": mission,
            "principal": said.principal,
            "action": decision.action,
            "resource": decision.resource,
            "effect": verdict.effect,
            "rule": verdict.rule,
            "policy_version": verdict.policy_version,
            "reason": verdict.reason,
            "inputs": said.inputs,
            "obligations": json.dumps(verdict.obligations),
            "change": said.change,
            "set": bytes.fromhex(said.policies.version),
        },
    )
    return bool(done.rowcount)


async def renew(session: WriteSession) -> tuple[int, PolicySet]:
    """The rules in force, read anew, and kept for the decisions that will name them."""
    assert session.tenant is not None
    change, policies = await load(session)
    await keep_set(session, session.tenant, policies)
    return change, policies


async def keep_set(session: WriteSession, tenant: UUID, policies: PolicySet) -> None:
    await session.execute(
        KEEP_SET,
        {"tenant": tenant, "manifest": policies.manifest, "baseline": policies.sources[0].text.encode()},
    )


def count(action: str, verdict: Verdict, times: int = 1) -> None:
    """Metrics. A tenant's own rule ids are words of the tenant and would be labels without end."""
    label = action if action in ACTIONS else "unknown"
    POLICY.labels(label, verdict.effect).inc(times)
    if verdict.effect == "deny":
        BLOCKS.labels(label, rule_label(verdict.rule)).inc(times)


def rule_label(rule: str) -> str:
    from_us = rule in ("default", "error", "conflict") or rule in SHIPPED
    return rule if from_us else "tenant"


SHIPPED = frozenset(rule.id for rule in SHELF.get(UUID(int=0))[1].rules.values())


begin(POLICY, ACTIONS, ["allow", "ask", "deny"])


async def consult(session: ReadSession, caller: Caller, action: str, resource: str, context: dict[str, Any]) -> Verdict:
    """What `decide` would say now; nothing is kept."""
    return evaluate(asker(caller, action, None), action, resource, context, await in_force(session))


async def admit(
    session: WriteSession, caller: Caller, action: str, resource: str, context: dict[str, Any], mission: UUID | None
) -> PolicyDecision | None:
    """Decides an operator's action. None: go on. Otherwise the denial, which has left its fact: answer with refusal()."""
    decision = await decide(session, caller, action, resource, context, mission)
    if decision.verdict.effect == "allow":
        return None
    await ledger.record(
        session,
        caller,
        "operation.denied",
        mission or caller.tenant,
        action=action,
        policy_decision=decision.id,
        rule=decision.verdict.rule,
        policy_version=decision.verdict.policy_version,
    )
    return decision


def refusal(decision: PolicyDecision, detail: str | None = None, **members: Any) -> Problem:
    """A denial as its caller hears it. detail: what is known beyond the rule's own reason."""
    verdict = decision.verdict
    return Problem(
        "denied_by_policy",
        detail or verdict.reason,
        rule=verdict.rule,
        would_change=verdict.would_change,
        policy_version=verdict.policy_version,
        policy_decision=str(decision.id),
        **members,
    )


# What the wall answers when it does not take a policy, and what the caller is told.
REFUSALS = {
    "unauthenticated": ("unauthenticated", "The key that puts a policy is no longer live."),
    "not_entitled": ("forbidden", "Putting a policy takes a person who is policy_owner."),
    "not_found": ("not_found", "There is no such policy."),
    "stale": ("stale", "The policy changed since it was read."),
    "too_many": ("validation", "/text: a tenant has at most 50 policies of at most 262144 bytes together"),
}


async def put(session: WriteSession, caller: Caller, name: str, text_: str | None, expected: int) -> tuple[str, int]:
    """Puts a checked policy, or retires it when the text is None; answers what happened and the version.

    Raises Problem for everything in REFUSALS. The wall records who it was and the fact `policy.changed`.
    """
    said = await session.first(
        PUT,
        {
            "tenant": caller.tenant,
            "secret": caller.secret,
            "name": name,
            "text": None if text_ is None else text_.encode(),
            "expected": expected,
        },
    )
    assert said is not None
    if said.outcome in REFUSALS:
        code, detail = REFUSALS[said.outcome]
        errors = [{"pointer": "/text", "detail": "retire a policy, or join two"}] if code == "validation" else None
        raise Problem(code, detail, errors=errors, current={"name": name, "version": said.version})
    session.nudge(ledger.FACTS)
    return said.outcome, said.version
