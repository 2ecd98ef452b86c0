"""A human's decision, as the wall records it and as the caller hears of it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic_core import to_jsonable_python
from sqlalchemy import TextClause, text

from app import ledger, missions, policy
from app.approvals.actions import follow, refused
from app.approvals.queries import decisions
from app.approvals.signatures import check
from app.caller import Caller
from app.db import WriteSession
from app.errors import Problem
from app.telemetry import DECISION_SECONDS, DECISIONS, begin

DECIDE = text("SELECT * FROM decide(:tenant, :approval, :secret, :version, :sha256, :verdict, :comment, :signature)")
FIND = text("""SELECT id, mission, subject, writeback, state, version, extract(epoch FROM clock_timestamp() - created_at)::float8 AS age_s
               FROM approval WHERE tenant = :tenant AND id = :id""")
UNANSWERED = text(
    "SELECT open_questions FROM decision WHERE tenant = :tenant AND approval = :id AND approver = :approver"
)

# What the wall answers when it does not take a decision, and what the caller is told.
REFUSALS: dict[str, tuple[str, str]] = {
    "unauthenticated": ("unauthenticated", "The key that decides is no longer live."),
    "not_pending": ("wrong_state", "The approval is no longer pending."),
    "expired": ("expired", "The approval has expired."),
    "own_request": (
        "own_request",
        "Who requested or changed it, and whoever answers for them, neither decides nor asks.",
    ),
    "not_entitled": ("forbidden", "Deciding this takes a person who holds the approver role of its rule."),
    "other_payload": ("other_payload", "payload_sha256 is not the hash of what is to be approved."),
    "stale": ("stale", "The approval changed since it was read."),
    "already_decided": ("already_decided", "This approver has already decided."),
    "mission_closed": ("wrong_state", "The mission has ended."),
    "halted": ("wrong_state", "Writebacks to this connector are halted."),
    "already_broken": ("wrong_state", "The glass is broken already: a second holder of break_glass votes as usual."),
    "no_rule": ("wrong_state", "This tenant has no break-glass rule for it."),
    "claimed": ("wrong_state", "The executor has claimed it: what has left runs to its truth."),
    "not_a_writeback": (
        "wrong_state",
        "This approval is of the mission itself: approve, reject, or cancel the mission.",
    ),
    "unchanged": ("validation", "The changes are those that are asked about already."),
    "bad_payload": ("validation", "These changes make no payload for this connector and record."),
    "not_stale": ("wrong_state", "Only a stale writeback is renewed."),
    "not_unknown": (
        "wrong_state",
        "Its outcome is known, or nothing was sent yet: only what is unknown takes a human's word.",
    ),
    "too_early": (
        "wrong_state",
        "The executor first took it up less than ten minutes ago, and is still finding out. Most of what is unknown is known soon.",
    ),
    "asked_now": (
        "wrong_state",
        "The executor has it in hand at this moment: look again when that is over, within a minute or two.",
    ),
    "already_renewed": ("wrong_state", "It was renewed already."),
    "no_comment": ("validation", "A reason is missing: a rejection needs one, and under some rules an approval does."),
    "no_say": ("forbidden", "It takes a person who may decide it, or an operator."),
    "asked_already": ("validation", "/role: it is asked already"),
    "too_often": ("wrong_state", "It was handed on as often as one approval can be: 50 times."),
    "too_often_yours": ("wrong_state", "You handed it on 10 times, as often as one person can. Others still may."),
    "no_words": ("validation", "It says nothing."),
    "too_many": ("wrong_state", "50 questions were asked about it, and that is all one approval takes."),
    "too_many_yours": ("wrong_state", "You asked 10 questions about it, as many as one person can. Others still may."),
    "yourself": ("validation", "/to: nobody asks themselves"),
    "cannot_answer": ("validation", "/to: this principal has nothing to say on it"),
    "nobody_there": ("validation", "/to: whom it is put to is suspended, and nobody answers for them"),
    "own_question": ("forbidden", "Whoever asks does not answer."),
    "not_for_you": (
        "forbidden",
        "A question is answered by whom it was put to, by the requester or whoever answers for them, or by an operator.",
    ),
    "already_answered": ("already_answered", "This question has its answer."),
    "unchanged_role": ("validation", "/role: it is with this role already"),
    "not_a_role_of_the_rule": ("validation", "/role: the approval's rule does not name this role"),
    "signature_missing": ("validation", "/signature: this rule counts signed approvals only"),
}


begin(DECISIONS, ["recorded", "approved", "rejected", "vouched", *REFUSALS])


@dataclass(frozen=True)
class Decided:
    """What came of a decision: recorded (a vote below quorum), approved or rejected; not_before ends the undo window."""

    outcome: Literal["recorded", "approved", "rejected"]
    state: str
    version: int
    approver: UUID
    not_before: datetime | None
    mission: UUID
    writeback: UUID | None
    open_questions: int


async def decide(
    session: WriteSession,
    caller: Caller,
    approval: UUID,
    verdict: Literal["approve", "reject"],
    seen_sha256: bytes,
    seen_version: int,
    comment: str | None,
    signature: str | None = None,
) -> Decided | policy.PolicyDecision:
    """Records a decision and lets the mission go on. Raises Problem for everything in REFUSALS, and not_found.

    Answers policy's denial when there is one: its fact is part of the transaction.
    """
    found, mission = await taken_up(session, approval)
    denied = await permitted(session, caller, found, mission, verdict)
    if denied is not None:
        return denied
    if signature is not None:
        await check(session, caller, approval, seen_sha256, verdict, signature)
    said = await wall(
        session,
        DECIDE,
        caller,
        approval,
        version=seen_version,
        sha256=seen_sha256,
        verdict=verdict,
        comment=comment,
        signature=signature.encode() if signature else None,
    )
    DECISIONS.labels(said.outcome).inc()
    if said.outcome not in ("recorded", "approved", "rejected"):
        raise await refuse(session, approval, said, "/comment")
    DECISION_SECONDS.labels(verdict).observe(found.age_s)
    return await let_on(session, caller, mission, found, said)


async def taken_up(session: WriteSession, approval: UUID) -> tuple[Any, missions.Mission]:
    """An approval and its mission, which is locked before the approval, everywhere in this order. Raises Problem not_found."""
    found = await session.first(FIND, {"tenant": session.tenant, "id": approval})
    if found is None:
        raise Problem("not_found", "There is no such approval.")
    return found, await missions.lock(session, found.mission)


async def permitted(
    session: WriteSession, caller: Caller, found: Any, mission: missions.Mission, verdict: Literal["approve", "reject"]
) -> policy.PolicyDecision | None:
    """Policy's denial of a vote, when there is one."""
    about = {"subject": found.subject, "verdict": verdict, "risk_level": mission.risk_level}
    return await policy.admit(session, caller, "operate.approval.decide", str(found.id), about, mission.id)


async def wall(session: WriteSession, function: TextClause, caller: Caller, approval: UUID, **asked: Any) -> Any:
    """What a function of the wall says to somebody about an approval; version: at which they have seen it."""
    who = {"tenant": session.tenant, "approval": approval, "secret": caller.secret}
    said = await session.first(function, who | asked)
    assert said is not None
    return said


async def let_on(session: WriteSession, caller: Caller, mission: missions.Mission, found: Any, said: Any) -> Decided:
    """What a vote that the wall took means for its mission."""
    session.nudge(ledger.FACTS)
    session.nudge("work_worker")
    if said.outcome != "recorded":
        session.nudge("work_executor")  # the wall left it its work row, due when the undo window ends
        if found.subject == "writeback":
            await follow(session, caller, mission.id)
        elif said.outcome == "approved":
            await missions.resume(session, caller, mission)
        else:
            await refused(session, caller, mission, "rejected")
    unanswered = await session.scalar(UNANSWERED, {"tenant": session.tenant, "id": found.id, "approver": said.approver})
    return Decided(
        said.outcome, said.state, said.version, said.approver, said.not_before, mission.id, found.writeback, unanswered
    )


async def refuse(session: WriteSession, approval: UUID, said: Any, reason: str) -> Problem:
    """What the wall said, with the approval as it is now and who decided it: whoever comes second wants to know."""
    current = {"id": str(approval), "state": said.state, "version": said.version}
    return refusal(said.outcome, current | {"decisions": await decisions(session, approval)}, reason)


def refusal(outcome: str, current: dict[str, Any], reason: str = "/comment") -> Problem:
    """Why it was not done; reason is where the request says why it asks."""
    code, detail = REFUSALS[outcome]
    pointers = {
        "no_comment": (reason, "say why"),
        "signature_missing": ("/signature", "sign what you approve"),
        "unchanged_role": ("/role", "name another, or decide"),
        "asked_already": ("/role", "name another, or wait for it"),
        "no_words": (reason, "say something"),
        "yourself": ("/to", "name another, or leave it out to ask the requester"),
        "cannot_answer": ("/to", "name an operator or one who may decide, or leave it out to ask the requester"),
        "nobody_there": ("/to", "name an operator or one who may decide"),
        "unchanged": ("/changes", "change something, or decide"),
        "bad_payload": ("/changes", "name fields of the record, each with a value"),
    }
    errors = [dict(zip(("pointer", "detail"), pointers[outcome], strict=True))] if outcome in pointers else None
    return Problem(code, detail, errors=errors, current=to_jsonable_python(current))
