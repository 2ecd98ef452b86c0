"""Reading approvals: the inbox, one approval with everything a decision needs, and who decided what."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.clock import iso
from app.db import ReadSession
from app.listing import Place, behind

SELECT = """
  SELECT a.id, a.mission, a.subject, a.writeback, a.requested_by, a.payload_sha256, a.required, a.deny_threshold, a.state, a.version,
    a.created_at, a.expires_at, a.not_before, a.closed_at, a.rule, a.rule_version, a.signature_required,
    a.obligations, a.must_hold, a.may_decide, a.ladder, a.climbed, a.glass_broken_at, a.glass_broken_by, a.was_rule, a.was_rule_version,
    a.handed, a.note, a.stopped, a.withdrawn_by,
    r.approver_role, r.may_escalate_to, r.comment_required, r.life, r.undo_window, r.risk AS rule_risk,
    m.mission_type, m.risk_level AS mission_risk, w.payload, w.risk, w.predecessor, w.connector, w.revision, w.edited_by,
    n.id AS successor, na.id AS successor_approval,
    COALESCE(p.bytes, q.bytes) AS proposal,
    (SELECT count(*) FROM decision d WHERE d.tenant = a.tenant AND d.approval = a.id AND d.verdict = 'approve') AS approvals,
    (SELECT count(*) FROM approval_question o WHERE o.tenant = a.tenant AND o.approval = a.id AND o.answered_at IS NULL) AS open_questions
  FROM approval a
  JOIN approval_rule r ON r.tenant = a.tenant AND r.id = a.rule AND r.version = a.rule_version
  JOIN mission m ON m.tenant = a.tenant AND m.id = a.mission
  LEFT JOIN writeback w ON w.tenant = a.tenant AND w.id = a.writeback
  LEFT JOIN writeback n ON n.tenant = w.tenant AND n.proposal = w.proposal AND n.revision = w.revision + 1
  LEFT JOIN approval na ON na.tenant = n.tenant AND na.writeback = n.id
  LEFT JOIN artifact p ON p.tenant = a.tenant AND p.id = w.proposal
  LEFT JOIN artifact q ON q.tenant = a.tenant AND q.mission = a.mission AND q.sha256 = a.question_sha256
  WHERE a.tenant = :tenant"""
IDS = "SELECT a.id FROM approval a WHERE a.tenant = :tenant"
ONE = text(f"{SELECT} AND a.id = :id")
OF_MISSION = text(f"{SELECT} AND a.mission = :mission ORDER BY a.created_at, a.id LIMIT 1000")
DECISIONS = text("""SELECT approver, verdict, comment, decided_at, open_questions FROM decision
                    WHERE tenant = :tenant AND approval = :approval ORDER BY decided_at, approver""")


@dataclass(frozen=True)
class Approval:
    """An approval with its rule and its subject: a writeback's payload and proposal, or the question about a mission."""

    id: UUID
    mission: UUID
    subject: str
    writeback: UUID | None
    requested_by: UUID
    payload_sha256: bytes
    required: int
    deny_threshold: int
    state: str
    version: int
    created_at: datetime
    expires_at: datetime
    not_before: datetime | None
    closed_at: datetime | None
    signature_required: bool
    obligations: Any
    must_hold: str | None
    may_decide: list[str]
    ladder: Any
    climbed: list[datetime]
    handed: Any
    glass_broken_at: datetime | None
    glass_broken_by: UUID | None
    was_rule: UUID | None
    was_rule_version: int | None
    note: str | None
    stopped: str | None
    withdrawn_by: UUID | None
    comment_required: bool
    life: Any
    rule: UUID
    rule_version: int
    approver_role: str
    may_escalate_to: list[str]
    undo_window: Any
    rule_risk: str
    mission_type: str
    mission_risk: str
    payload: bytes | None
    risk: str | None
    predecessor: UUID | None
    connector: str | None
    revision: int | None
    edited_by: UUID | None
    successor: UUID | None
    successor_approval: UUID | None
    proposal: bytes | None
    approvals: int
    open_questions: int


async def one(session: ReadSession, id: UUID) -> Approval | None:
    row = await session.first(ONE, {"tenant": session.tenant, "id": id})
    return Approval(**row._mapping) if row else None


async def of_mission(session: ReadSession, mission: UUID) -> list[Approval]:
    rows = await session.rows(OF_MISSION, {"tenant": session.tenant, "mission": mission})
    return [Approval(**row._mapping) for row in rows]


def order(state: str | None) -> str:
    """By which moment an inbox is ordered: who has least time left comes first."""
    return "expires_at" if state == "pending" else "created_at"


async def inbox(
    session: ReadSession, state: str | None, mission: UUID | None, after: Place, limit: int
) -> list[Approval]:
    """Approvals; pending ones by the time they have left, others newest first."""
    only, at, ids = {"a.state": state, "a.mission": mission}, f"a.{order(state)}", IDS
    if state == "pending":  # said in the statement itself, for the index of those that are
        only["a.state"], ids = None, f"{IDS} AND a.state = 'pending'"
    rows = await behind(
        session, SELECT, after, limit, at=at, id="a.id", oldest_first=state == "pending", only=only, ids=ids
    )
    return [Approval(**row._mapping) for row in rows]


ANSWERS = text("""
  SELECT a.mission, a.id, d.verdict, d.comment, d.decided_at, convert_from(q.bytes, 'UTF8')::jsonb ->> 'reason' AS question
  FROM approval a
  JOIN decision d ON d.tenant = a.tenant AND d.approval = a.id
  JOIN artifact q ON q.tenant = a.tenant AND q.mission = a.mission AND q.sha256 = a.question_sha256
  WHERE a.tenant = :tenant AND a.mission = ANY(:missions) AND a.state = 'approved' ORDER BY d.decided_at""")


async def answers(session: ReadSession, missions: list[UUID]) -> Sequence[Any]:
    """What humans agreed to about missions themselves: mission, id, question, verdict, comment, decided_at."""
    return await session.rows(ANSWERS, {"tenant": session.tenant, "missions": missions})


async def decisions(session: ReadSession, approval: UUID) -> list[dict[str, Any]]:
    rows = await session.rows(DECISIONS, {"tenant": session.tenant, "approval": approval})
    return [
        {
            "approver": row.approver,
            "verdict": row.verdict,
            "comment": row.comment,
            "decided_at": iso(row.decided_at),
            "open_questions": row.open_questions,
        }
        for row in rows
    ]


def view(found: Approval) -> dict[str, Any]:
    """What the API says of an approval. rationale is the agent's word, not the root's."""
    said = json.loads(found.proposal) if found.proposal else {}
    question = said if found.subject == "mission" else None
    return {
        "id": found.id,
        "subject": found.subject,
        "mission_id": found.mission,
        "mission_type": found.mission_type,
        "writeback_id": found.writeback,
        "state": found.state,
        "version": found.version,
        "requested_by": found.requested_by,
        "risk_level": found.risk or found.mission_risk,
        "payload": json.loads(found.payload) if found.payload else question,
        "payload_sha256": found.payload_sha256.hex(),
        "required": found.required,
        "approvals": found.approvals,
        "deny_threshold": found.deny_threshold,
        "rule": {
            "id": found.rule,
            "version": found.rule_version,
            "approver_role": found.approver_role,
            "undo_window_s": found.undo_window.total_seconds(),
            "comment_required": found.comment_required,
            "may_escalate_to": found.may_escalate_to,
        },
        "may_decide": found.may_decide if found.state == "pending" else [],
        "must_hold": found.must_hold,
        "obligations": found.obligations,
        "revision": found.revision,
        "edited_by": found.edited_by,
        "predecessor": found.predecessor,
        "successor": found.successor,
        "successor_approval": found.successor_approval,
        "glass": glass(found),
        "open_questions": found.open_questions,
        "note": found.note,
        "stopped": found.stopped,
        "withdrawn_by": found.withdrawn_by,
        "summary": said.get("summary") or said.get("reason"),
        "rationale": said.get("rationale"),
        "evidence": said.get("evidence", []),
        "created_at": iso(found.created_at),
        "expires_at": iso(found.expires_at),
        "not_before": iso(found.not_before) if found.not_before else None,
        "closed_at": iso(found.closed_at) if found.closed_at else None,
        "signature_required": found.signature_required,
    }


def handed(found: Any) -> list[dict[str, Any]]:
    """How people handed an approval to further roles: who, to which, instead of those asked so far or as well, and why."""
    return [one | {"at": iso(datetime.fromisoformat(one["at"]))} for one in found.handed]


def glass(found: Approval) -> dict[str, Any] | None:
    """Who broke the glass and when, and the rule it was under before; null when it is whole."""
    if found.glass_broken_at is None:
        return None
    return {
        "broken_by": found.glass_broken_by,
        "broken_at": iso(found.glass_broken_at),
        "was_rule": found.was_rule,
        "was_rule_version": found.was_rule_version,
    }


def ladder(found: Approval) -> list[dict[str, Any]]:
    """The steps of time, each with when it is due and when it was done; the last is expiry, which fails closed.

    Of a closed approval, or behind a broken glass, only what was done and the end are left. A role that is asked already will only
    be reminded.
    """
    alive = found.state == "pending" and found.glass_broken_at is None
    told = []
    for number, step in enumerate(found.ladder):
        done = found.climbed[number] if number < len(found.climbed) else None
        if done is not None or alive:
            reminds = done is None and step.get("role") in found.may_decide
            told.append(
                {
                    "at": iso(datetime.fromisoformat(step["at"])),
                    "kind": "remind" if reminds else step["kind"],
                    "role": step.get("role"),
                    "done_at": iso(done) if done else None,
                }
            )
    ended = iso(found.closed_at) if found.state == "expired" and found.closed_at else None
    return [*told, {"at": iso(found.expires_at), "kind": "expire", "role": None, "done_at": ended}]
