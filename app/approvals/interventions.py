"""What a person does to an approval beside deciding it: break the glass, revise, renew, hand on, escalate, take back;
and to a writeback that nobody can settle.

The wall judges each.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app import ledger, missions, policy
from app.approvals.actions import follow, judge
from app.approvals.decide import REFUSALS, Decided, let_on, permitted, refusal, refuse, taken_up, wall
from app.approvals.models import Found
from app.approvals.obligations import parse
from app.caller import Caller
from app.clock import iso
from app.db import WriteSession
from app.errors import Problem
from app.telemetry import DECISION_SECONDS, DECISIONS
from app.writebacks import Writeback, one
from app.writebacks.actions import MAX_PAYLOAD
from app.writebacks.connectors import BadPayload, Payload, decode, encode

BREAK = text("SELECT * FROM break_glass(:tenant, :approval, :secret, :version, :sha256, :reason, :signature)")
WITHDRAW = text("SELECT * FROM withdraw(:tenant, :approval, :secret, :version, :reason)")
HAND_ON = text("SELECT * FROM hand_on(:tenant, :approval, :secret, :version, :role, :instead, :reason)")
REVISE = text("""SELECT * FROM revise(:tenant, :approval, :secret, :version, :sha256, :payload, :reason,
                                      CAST(:obligations AS jsonb))""")
VOUCH = text("SELECT * FROM vouch(:tenant, :writeback, :secret, :found, :comment, :said)")
RENEW = text("SELECT * FROM renew(:tenant, :writeback, :secret, :payload, CAST(:obligations AS jsonb))")


# What differs from deciding in who may say what became of a change.
NO_WORD = {
    "own_request": "Who requested or changed it, and whoever answers for them, does not say what became of it.",
    "not_entitled": "Saying what became of it takes a person who is an operator.",
}


@dataclass(frozen=True)
class Broken:
    """A broken glass: the declaration's vote, and until when there is time."""

    vote: Decided
    expires_at: datetime


@dataclass(frozen=True)
class AskedAgain:
    """The next revision of a writeback and the approval it waits for."""

    writeback: UUID
    approval: UUID
    by: UUID


async def break_glass(
    session: WriteSession,
    caller: Caller,
    approval: UUID,
    seen_sha256: bytes,
    seen_version: int,
    reason: str,
    signature: str | None = None,
) -> Broken | policy.PolicyDecision:
    """Moves a pending approval under the break-glass rule; the declaration is its first vote.

    Raises Problem for what the wall refuses. Answers policy's denial when there is one: what it forbids stays forbidden.
    """
    found, mission = await taken_up(session, approval)
    denied = await permitted(session, caller, found, mission, "approve")
    if denied is not None:
        return denied
    said = await wall(
        session,
        BREAK,
        caller,
        approval,
        version=seen_version,
        sha256=seen_sha256,
        reason=reason,
        signature=signature.encode() if signature else None,
    )
    DECISIONS.labels(said.outcome).inc()
    if said.outcome not in ("recorded", "approved"):
        raise await refuse(session, approval, said, "/reason")
    DECISION_SECONDS.labels("approve").observe(found.age_s)
    return Broken(await let_on(session, caller, mission, found, said), said.expires_at)


async def withdraw(session: WriteSession, caller: Caller, approval: UUID, seen_version: int, reason: str) -> None:
    """Takes back what is pending, or approved and not yet claimed. Raises Problem for what the wall refuses."""
    _, mission = await taken_up(session, approval)
    said = await wall(session, WITHDRAW, caller, approval, version=seen_version, reason=reason)
    if said.outcome != "cancelled":
        raise await refuse(session, approval, said, "/reason")
    session.nudge(ledger.FACTS)
    await follow(session, caller, mission.id)


async def hand_on(
    session: WriteSession, caller: Caller, approval: UUID, seen_version: int, role: str, reason: str, instead: bool
) -> list[str] | policy.PolicyDecision:
    """Hands a pending approval to another role, out of those its rule names: instead of those asked so far, or as well.

    Answers which roles may decide it now. Raises Problem for what the wall refuses. Answers policy's denial when there is one.
    """
    found, mission = await taken_up(session, approval)
    about = {"subject": found.subject, "role": role, "risk_level": mission.risk_level}
    action = "operate.approval.reassign" if instead else "operate.approval.escalate"
    denied = await policy.admit(session, caller, action, str(found.id), about, mission.id)
    if denied is not None:
        return denied
    said = await wall(
        session, HAND_ON, caller, approval, version=seen_version, role=role, instead=instead, reason=reason
    )
    if said.outcome == "not_a_role_of_the_rule":
        raise no_such_role(approval, said)
    if said.outcome not in ("reassigned", "escalated"):
        raise await refuse(session, approval, said, "/reason")
    session.nudge(ledger.FACTS)
    return list(said.may_decide)


def no_such_role(approval: UUID, said: Any) -> Problem:
    """Whom the rule does name; and when that is nobody else, who can change it."""
    remedy = (
        f"must be one of {', '.join(said.further)}"
        if said.further
        else "the rule names nobody else: its policy owner adds roles to may_escalate_to with PUT /v1/approval-rules/{id}, "
        "for the approvals that come after"
    )
    current = {"id": str(approval), "state": said.state, "version": said.version, "may_decide": said.may_decide}
    code, detail = REFUSALS[said.outcome]
    return Problem(code, detail, errors=[{"pointer": "/role", "detail": remedy}], current=current)


def payload_with(old: bytes, changes: Mapping[str, Any] | None, expected_version: str | None) -> bytes:
    """The old payload with other changes, or for another version of the record. Raises Problem when that is none."""
    was = decode(old)
    try:
        payload = encode(
            Payload(
                connector=was.connector,
                kind=was.kind,
                record_id=was.record_id,
                operation=was.operation,
                changes=dict(was.changes if changes is None else changes),
                expected_version=was.expected_version if expected_version is None else expected_version,
            )
        )
    except BadPayload as bad:
        raise Problem(
            "validation", bad.reason, errors=[{"pointer": "/changes", "detail": "must make a payload"}]
        ) from bad
    if len(payload) > MAX_PAYLOAD:
        raise Problem("validation", "The payload is too large.", errors=[{"pointer": "/changes", "detail": "say less"}])
    return payload


async def revise(
    session: WriteSession,
    caller: Caller,
    approval: UUID,
    seen_sha256: bytes,
    seen_version: int,
    changes: Mapping[str, Any],
    expected_version: str | None,
    reason: str,
) -> AskedAgain | policy.PolicyDecision:
    """Asks about other changes instead; the old approval closes. Whoever edits does not approve.

    Raises Problem for what the wall refuses. Answers policy's denial of what would be asked, when there is one.
    """
    found, mission = await taken_up(session, approval)
    if found.writeback is None:
        raise refusal("not_a_writeback", {"id": str(approval), "state": found.state, "version": found.version})
    old = await one(session, found.writeback)
    assert old is not None
    payload = payload_with(old.payload, changes, expected_version)
    decision = await judge(session, caller, mission, old.connector, old.operation, old.risk)
    if decision.verdict.effect == "deny":
        return decision
    said = await wall(
        session,
        REVISE,
        caller,
        approval,
        version=seen_version,
        sha256=seen_sha256,
        payload=payload,
        reason=reason,
        obligations=json.dumps(parse(decision.verdict.obligations)),
    )
    if said.outcome != "revised":
        raise await refuse(session, approval, said, "/reason")
    await asked_again(session, caller, mission.id)
    return AskedAgain(said.new_writeback, said.new_approval, said.editor)


async def renew(
    session: WriteSession, caller: Caller, old: Writeback, version: str
) -> AskedAgain | policy.PolicyDecision:
    """Asks about a stale writeback anew, for the version its record has now; approved is nothing by that.

    Raises Problem for what the wall refuses. Answers policy's denial of what would be asked, when there is one.
    """
    mission = await missions.lock(session, old.mission)
    decision = await judge(session, caller, mission, old.connector, old.operation, old.risk)
    if decision.verdict.effect == "deny":
        return decision
    said = await session.first(
        RENEW,
        {
            "tenant": session.tenant,
            "writeback": old.id,
            "secret": caller.secret,
            "payload": payload_with(old.payload, None, version),
            "obligations": json.dumps(parse(decision.verdict.obligations)),
        },
    )
    assert said is not None
    if said.outcome != "renewed":
        raise refusal(said.outcome, {"id": str(old.id), "state": old.state})
    await asked_again(session, caller, mission.id)
    return AskedAgain(said.new_writeback, said.new_approval, said.who)


async def vouch(
    session: WriteSession, caller: Caller, old: Writeback, found: Found, comment: str
) -> policy.PolicyDecision | None:
    """Ends a writeback that nobody can settle by a human's word: it is `failed`, for nothing was read back, and its receipt says who
    found what.

    Raises Problem for what the wall refuses. Answers policy's denial when there is one.
    """
    mission = await missions.lock(session, old.mission)
    about = {"found": found, "risk_level": mission.risk_level}
    denied = await policy.admit(session, caller, "operate.writeback.vouch", str(old.id), about, mission.id)
    if denied is not None:
        return denied
    last = json.loads(old.receipt or b"{}").get("detail")
    asked = {"writeback": old.id, "secret": caller.secret, "found": found, "comment": comment}
    said = await session.first(VOUCH, {"tenant": session.tenant, "said": str(last) if last else None} | asked)
    assert said is not None
    DECISIONS.labels(said.outcome).inc()
    if said.outcome != "vouched":
        current = {
            "id": str(old.id),
            "state": old.state,
            "not_before": iso(said.not_before) if said.not_before else None,
        }
        refused = refusal(said.outcome, current)
        refused.detail = NO_WORD.get(said.outcome, refused.detail)
        if said.outcome == "too_early":
            refused.detail = f"{refused.detail} A human's word is taken from {iso(said.not_before)}."
        raise refused
    await asked_again(session, caller, mission.id)
    return None


async def asked_again(session: WriteSession, caller: Caller, mission: UUID) -> None:
    session.nudge(ledger.FACTS)
    session.nudge("work_worker")
    await follow(session, caller, mission)
