"""Questions about a pending approval, and their answers. They change nothing of it: no clock, no quorum, no version."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from pydantic_core import to_jsonable_python
from sqlalchemy import text

from app import ledger, policy
from app.approvals.decide import REFUSALS, refusal, taken_up, wall
from app.approvals.queries import handed
from app.caller import Caller
from app.clock import iso
from app.db import ReadSession, WriteSession
from app.errors import Problem

SELECT = """SELECT id, approval, asked_by, question, asked_at, addressee, answered_by, answer, answered_at FROM approval_question
  WHERE tenant = :tenant AND approval = ANY(:approvals)"""
ALL = text(f"{SELECT} ORDER BY approval, number")
ONE = text(f"{SELECT} AND id = :id")
MOST_BEFORE = 10
BEFORE = text("""
  SELECT a.id, a.state, a.closed_at, a.handed, e.revision FROM writeback w
  JOIN writeback e ON e.tenant = w.tenant AND e.proposal = w.proposal AND e.revision < w.revision
  JOIN approval a ON a.tenant = e.tenant AND a.writeback = e.id
  WHERE w.tenant = :tenant AND w.id = :writeback AND (a.handed <> '[]' OR EXISTS (
    SELECT 1 FROM approval_question q WHERE q.tenant = a.tenant AND q.approval = a.id))
  ORDER BY e.revision DESC LIMIT :most""")
ASK = text("SELECT * FROM ask_question(:tenant, :approval, :secret, :question, :to)")
ANSWER = text("SELECT * FROM answer_question(:tenant, :approval, :secret, :question, :answer)")


async def ask(
    session: WriteSession, caller: Caller, approval: UUID, question: str, to: UUID | None
) -> UUID | policy.PolicyDecision:
    """Puts a question to the requester, or to somebody else who can answer; they are told. Answers its id.

    Raises Problem for what the wall refuses. Answers policy's denial when there is one.
    """
    denied = await permitted(session, caller, approval, "operate.approval.ask")
    if denied is not None:
        return denied
    said = await wall(session, ASK, caller, approval, question=question, to=to)
    if said.outcome != "asked":
        raise refused(approval, said, "/question")
    session.nudge(ledger.FACTS)
    asked: UUID = said.question
    return asked


async def answer(
    session: WriteSession, caller: Caller, approval: UUID, question: UUID, words: str
) -> policy.PolicyDecision | None:
    """Answers a question, once; whoever asked is told. Also after the approval closed: see record 0066.

    Raises Problem for what the wall refuses. Answers policy's denial when there is one.
    """
    denied = await permitted(session, caller, approval, "operate.approval.answer")
    if denied is not None:
        return denied
    said = await wall(session, ANSWER, caller, approval, question=question, answer=words)
    if said.outcome == "not_found":
        raise Problem("not_found", "There is no such question about this approval.")
    if said.outcome == "already_answered":  # whoever comes second wants to know who was faster, and what they said
        code, detail = REFUSALS[said.outcome]
        raise Problem(code, detail, current=to_jsonable_python(await one(session, approval, question)))
    if said.outcome != "answered":
        raise refused(approval, said, "/answer")
    session.nudge(ledger.FACTS)
    return None


async def permitted(session: WriteSession, caller: Caller, approval: UUID, action: str) -> policy.PolicyDecision | None:
    """Policy's denial, when there is one; mission and approval are locked in everybody's order. Raises Problem not_found."""
    found, mission = await taken_up(session, approval)
    about = {"subject": found.subject, "risk_level": mission.risk_level}
    return await policy.admit(session, caller, action, str(found.id), about, mission.id)


def refused(approval: UUID, said: Any, words: str) -> Problem:
    return refusal(said.outcome, {"id": str(approval), "state": said.state, "version": said.version}, words)


async def of_approval(session: ReadSession, approval: UUID) -> list[dict[str, Any]]:
    """All questions about an approval with their answers, in the order in which they were asked."""
    return (await of_each(session, [approval]))[approval]


async def of_each(session: ReadSession, approvals: Collection[UUID]) -> dict[UUID, list[dict[str, Any]]]:
    """The same of several, by their ids."""
    found: dict[UUID, list[dict[str, Any]]] = {one: [] for one in approvals}
    for row in await session.rows(ALL, {"tenant": session.tenant, "approvals": list(approvals)}):
        found[row.approval].append(view(row))
    return found


async def asked_before(session: ReadSession, writeback: UUID | None) -> list[dict[str, Any]]:
    """What was asked about the earlier revisions of a change, and to whom they were handed: it was about other values, or an older
    version of the record. Of what was renewed again and again, the newest ten about which anything was said."""
    rows = (await session.rows(BEFORE, {"tenant": session.tenant, "writeback": writeback, "most": MOST_BEFORE}))[::-1]
    questions = await of_each(session, [row.id for row in rows]) if rows else {}
    return [
        {
            "approval_id": row.id,
            "revision": row.revision,
            "state": row.state,
            "closed_at": iso(row.closed_at) if row.closed_at else None,
            "questions": questions[row.id],
            "handed": handed(row),
        }
        for row in rows
    ]


async def one(session: ReadSession, approval: UUID, question: UUID) -> dict[str, Any]:
    row = await session.first(ONE, {"tenant": session.tenant, "approvals": [approval], "id": question})
    assert row is not None
    return view(row)


def view(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "asked_by": row.asked_by,
        "question": row.question,
        "asked_at": iso(row.asked_at),
        "to": row.addressee,
        "answered_by": row.answered_by,
        "answer": row.answer,
        "answered_at": iso(row.answered_at) if row.answered_at else None,
    }
