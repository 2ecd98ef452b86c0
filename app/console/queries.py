"""What screens and terminals read beside the rooms' own lists: the queue by urgency, what stands behind one approval, how
the desk decides."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app import artifacts, declared, evidence, missions, policy
from app.approvals.queries import SELECT, Approval
from app.approvals.queries import one as approval_of
from app.approvals.questions import of_approval
from app.artifacts import Located
from app.clock import iso, now
from app.console.lasting import overwritten
from app.db import ReadSession
from app.evidence.stored import Stored
from app.identity.queries import NAMES
from app.listing import Place
from app.writebacks.book import CONNECTORS
from colony_client.artifacts import Citation

# Less time left comes first, and risk shortens it: an hour at high risk weighs like nine at low.
# A mission is looked up only where there is no writeback: the queue is long, and its missions are many.
RISK = "COALESCE(w.risk, (SELECT m.risk_level FROM mission m WHERE m.tenant = a.tenant AND m.id = a.mission))"
WEIGHT = f"CASE {RISK} WHEN 'high' THEN 9 WHEN 'medium' THEN 3 ELSE 1 END"
QUEUE = f"""
  SELECT a.id, extract(epoch FROM a.expires_at - CAST(:as_of AS timestamptz)) / {WEIGHT} AS urgency
  FROM approval a LEFT JOIN writeback w ON w.tenant = a.tenant AND w.id = a.writeback
  WHERE a.tenant = :tenant AND a.state = 'pending'"""  # noqa: S608
WHOLE = text(f"{SELECT} AND a.id = ANY(:ids)")
WAITING = text("""SELECT count(*) AS waiting, count(*) FILTER (WHERE expires_at < clock_timestamp() + interval '1 hour') AS soon
                  FROM approval WHERE tenant = :tenant AND state = 'pending'""")
SEEN = text(
    """SELECT approval FROM decision WHERE tenant = :tenant AND approver = :who AND approval = ANY(:approvals)"""
)


async def queue(
    session: ReadSession, filters: dict[str, Any], place: Place, limit: int
) -> list[tuple[Approval, datetime, float]]:
    """Pending approvals by urgency: each with the moment the order is of, and its weighed seconds left.

    filters: connector, operation, rule, rule_version, risk. A place keeps the moment, so that pages fit together.
    """
    as_of = datetime.fromisoformat(place[0]) if place else now()
    asked: dict[str, Any] = {"tenant": session.tenant, "as_of": as_of, "limit": limit}
    columns = {
        "connector": "w.connector",
        "operation": "w.operation",
        "rule": "a.rule",
        "rule_version": "a.rule_version",
        "risk": RISK,
    }
    where = ""
    for name, value in filters.items():
        if value is not None:
            where += f" AND {columns[name]} = :{name}"
            asked[name] = value
    page = f"SELECT * FROM ({QUEUE}{where}) q"  # noqa: S608
    if place:
        page += " WHERE (q.urgency, q.id) > (CAST(:urgency AS numeric), :after)"
        asked |= {"urgency": str(place[1]), "after": UUID(place[2])}
    rows = await session.rows(f"{page} ORDER BY q.urgency, q.id LIMIT :limit", asked)
    whole = await session.rows(WHOLE, {"tenant": session.tenant, "ids": [row.id for row in rows]})
    found = {row.id: Approval(**row._mapping) for row in whole}
    return [(found[row.id], as_of, row.urgency) for row in rows]


async def waiting(session: ReadSession) -> dict[str, int]:
    """How many approvals are pending, and how many of them for less than another hour."""
    row = await session.first(WAITING, {"tenant": session.tenant})
    assert row is not None
    return {"waiting": row.waiting, "soon": row.soon}


async def voted_on(session: ReadSession, who: UUID, approvals: Sequence[UUID]) -> set[UUID]:
    """Which of these somebody has decided already."""
    rows = await session.rows(SEEN, {"tenant": session.tenant, "who": who, "approvals": list(approvals)})
    return {row.approval for row in rows}


async def people(session: ReadSession, ids: Iterable[Any]) -> dict[str, dict[str, str]]:
    """Names of principals by id: {id: {name, kind}}."""
    wanted = {one if isinstance(one, UUID) else UUID(str(one)) for one in ids if one}
    if not wanted:
        return {}
    rows = await session.rows(NAMES, {"tenant": session.tenant, "principals": list(wanted)[:500]})
    return {str(row.id): {"name": row.name, "kind": row.kind} for row in rows}


DECIDERS = text("SELECT id, name, standing FROM deciders(:tenant, :approval)")
ANSWERERS = text("SELECT id, name, standing, part FROM answerers(:tenant, :approval)")
EARLIER = text("""
  SELECT w.id AS writeback, a.id AS approval, a.state, a.closed_at, a.note, a.stopped, s.state AS writeback_state,
    (SELECT e.receipt FROM execution e WHERE e.tenant = w.tenant AND e.writeback = w.id AND e.state = 'failed') AS receipt,
    (SELECT jsonb_agg(jsonb_build_object('approver', d.approver, 'verdict', d.verdict, 'comment', d.comment) ORDER BY d.decided_at)
     FROM decision d WHERE d.tenant = a.tenant AND d.approval = a.id) AS votes
  FROM writeback w JOIN approval a ON a.tenant = w.tenant AND a.writeback = w.id
  JOIN writeback_state s ON s.tenant = w.tenant AND s.id = w.id
  WHERE w.tenant = :tenant AND w.id = :writeback""")
JUDGED = text("""
  SELECT action, resource, effect, rule, policy_version, reason, obligations, at FROM policy_decision
  WHERE tenant = :tenant AND mission = :mission AND action = :action AND resource = :resource ORDER BY at DESC LIMIT 1""")
# Of the newest decided changes of the same kind: what became of each.
SIMILAR = text("""
  SELECT a.id AS approval, w.id AS writeback, w.connector, w.target, w.payload, w.created_at, a.state, a.closed_at,
    s.state AS writeback_state,
    a.withdrawn_by IS NOT NULL AS withdrawn,
    EXISTS (SELECT 1 FROM decision d WHERE d.tenant = a.tenant AND d.approval = a.id AND d.verdict = 'approve') AS approved,
    (SELECT d.approver FROM decision d WHERE d.tenant = a.tenant AND d.approval = a.id ORDER BY d.decided_at DESC LIMIT 1) AS by
  FROM (SELECT * FROM writeback x WHERE x.tenant = :tenant ORDER BY x.created_at DESC, x.id DESC LIMIT 500) w
  JOIN approval a ON a.tenant = w.tenant AND a.writeback = w.id AND a.state <> 'pending'
  JOIN writeback_state s ON s.tenant = w.tenant AND s.id = w.id
  WHERE w.connector = :connector AND w.operation = :operation AND split_part(w.target, '/', 1) = :kind AND w.id <> :writeback
  ORDER BY a.closed_at DESC LIMIT 20""")
LOOKED = text(
    "SELECT opened_at FROM approval_look WHERE tenant = :tenant AND approval = :approval AND principal = :who"
)
CLAIMED = text("SELECT EXISTS (SELECT 1 FROM execution WHERE tenant = :tenant AND writeback = :writeback)")

MOST_NAMED = 200  # of those who may decide
NOBODY_ELSE = "Nobody is there to answer: who asked for it is suspended, and nobody else decides it or runs things."


@dataclass
class Cited:
    """What an approval's change cites; `evidence.fetch` completes it. bare: the claims of the mission that nothing supports."""

    citations: list[Citation]
    left_out: int
    shown: Mapping[tuple[str, str], Any]
    bare: list[dict[str, Any]]
    placed: dict[str, Located] = field(default_factory=dict)
    stored: dict[str, Stored] = field(default_factory=dict)

    def cited(self) -> list[Citation]:
        return self.citations


async def briefing(session: ReadSession, who: UUID, id: UUID) -> tuple[dict[str, Any], Cited] | None:
    """What stands behind an approval, beside the approval itself; and what it cites. None when there is no such approval."""
    found = await approval_of(session, id)
    if found is None:
        return None
    mission = await missions.find(session, found.mission)
    assert mission is not None
    said = json.loads(found.proposal) if found.proposal else {}
    payload = json.loads(found.payload) if found.payload else {}
    may = await session.rows(DECIDERS, {"tenant": session.tenant, "approval": id})
    standing = next((row.standing for row in may if row.id == who), "not_entitled")
    why_not = await open_to(session, found, mission, standing)
    claimed = await session.scalar(CLAIMED, {"tenant": session.tenant, "writeback": found.writeback})
    can = await session.rows(ANSWERERS, {"tenant": session.tenant, "approval": id})
    mine = next((row for row in can if row.id == who), None)
    others = [row for row in can if row.id != who]
    unasked = silent(found, mine)
    earlier = await before(session, found.predecessor)
    similar = await alike(session, found, payload)
    looked = await session.scalar(LOOKED, {"tenant": session.tenant, "approval": id, "who": who})
    named = [found.requested_by, found.edited_by, found.glass_broken_by, who]
    named += [vote["approver"] for vote in (earlier or {}).get("votes", [])] + [one["by"] for one in similar["items"]]
    named += [(earlier or {}).get("vouched_by")]
    return {
        "approval_id": id,
        "you": {"may_decide": why_not is None, "standing": standing, "took_part": mine is not None and mine.part, "why_not": why_not,
                "why_not_edit": closed_to_edits(found, mission, standing, claimed),
                "opened_at": iso(looked) if looked else None,
                "why_not_ask": unasked or (None if others else NOBODY_ELSE), "why_not_escalate": unasked or closed_to_others(found),
                "may_answer": for_whom(await of_approval(session, id), who, mine)},
        "may_decide": [{"id": row.id, "name": row.name} for row in may if row.standing == "may"][:MOST_NAMED],
        "may_be_asked": [{"id": row.id, "name": row.name, "standing": row.standing} for row in others][:MOST_NAMED],
        "people": await people(session, named),
        "policy": await judgement(session, found, mission),
        "earlier": earlier,
        "similar": similar,
        "mission": {"id": mission.id, "state": mission.state, "mission_type": mission.mission_type, "mode": mission.mode,
                    "risk_level": mission.risk_level, "sensitivity_class": mission.sensitivity_class},
        "budget": {"used_tokens": mission.used_tokens, "tokens": mission.budget_tokens,
                   "used_cost_usd": float(mission.used_cost_usd), "cost_usd": float(mission.budget_cost_usd)},
        "producers": await producers(session, found.mission),
    }, await cited_by(session, found.mission, said.get("evidence", []))  # fmt: skip


async def open_to(session: ReadSession, found: Approval, mission: missions.Mission, standing: str) -> str | None:
    """What the wall would say to a decision now, in the words of a button that cannot be pressed; None when it can."""
    if found.state != "pending":
        return f"It is {found.state} already."
    if why := over(found) or excluded(found, standing):
        return why
    if standing == "decided":
        return "You have decided already. Each person decides once."
    if mission.closed:
        return f"The mission is {mission.state}: nothing of it is decided any more."
    if found.connector:
        stops = await declared.switches(session, CONNECTORS, [found.connector])
        if any(one.halted_at for one in stops.values()):
            return "Changes to this system are halted. An admin resumes them under Connectors."
    return None


def closed_to_edits(found: Approval, mission: missions.Mission, standing: str, claimed: bool) -> str | None:
    """Why somebody of this standing cannot ask about other values instead; None when they can, until the change is claimed."""
    if found.writeback is None:
        return "This asks about the mission itself: there is nothing to edit."
    if found.state not in ("pending", "approved"):
        return f"It is {found.state} already."
    if claimed:
        return "The executor has claimed it: what may have left is not edited any more."
    if why := over(found) or excluded(found, standing):
        return why
    return f"The mission is {mission.state}: nothing of it is changed any more." if mission.closed else None


def silent(found: Approval, mine: Any) -> str | None:
    """Why somebody cannot ask about it, nor have others asked; None when they can. mine: what they are to it."""
    if found.state != "pending":
        return f"It is {found.state} already."
    if why := over(found):
        return why
    if mine is not None and mine.part:
        return "It is your own request: others ask about it, and you can answer."
    if mine is None:
        return "It takes who may decide it, or an operator."
    return None


def closed_to_others(found: Approval) -> str | None:
    """Why no further role can be asked, whoever wants it."""
    if found.glass_broken_at is not None:
        return "The glass is broken: two holders of break_glass decide, and nobody else is asked."
    if not set(found.may_escalate_to) - set(found.may_decide):
        return "Its approval rule names no further role. A policy owner can add one, for later approvals."
    return None


def for_whom(asked: Sequence[dict[str, Any]], who: UUID, mine: Any) -> list[UUID]:
    """Which open questions somebody could answer: those put to them, and of the requester and operators all, but none of their own."""
    every = mine is not None and mine.standing in ("requester", "operator")
    return [
        one["id"] for one in asked if not one["answered_by"] and one["asked_by"] != who and (every or one["to"] == who)
    ]


def over(found: Approval) -> str | None:
    """That its time is over, when it is."""
    late = found.expires_at <= now()
    return "The time to decide is over. What expires is not executed; it can be asked for again." if late else None


def excluded(found: Approval, standing: str) -> str | None:
    """Why somebody of this standing has no say in it at all; None when they have one."""
    if standing == "own_request":
        return "You asked for this, changed it, or answer for whoever did. Nobody approves their own request."
    if standing == "not_entitled":
        more = f", and {found.must_hold}" if found.must_hold else ""
        return f"You hold none of the roles that decide this. It takes {' or '.join(found.may_decide)}{more}."
    return None


async def before(session: ReadSession, writeback: UUID | None) -> dict[str, Any] | None:
    """The dead writeback that this one follows: its approval, how it ended and who said what."""
    if writeback is None:
        return None
    row = await session.first(EARLIER, {"tenant": session.tenant, "writeback": writeback})
    if row is None:
        return None
    return {
        "writeback_id": row.writeback,
        "approval_id": row.approval,
        "state": row.writeback_state,
        "closed_at": iso(row.closed_at) if row.closed_at else None,
        "note": row.note,
        "stopped": row.stopped,
        "votes": row.votes or [],
        **failure(json.loads(row.receipt or b"{}")),
    }


def failure(receipt: dict[str, Any]) -> dict[str, Any]:
    """Why a change has failed, and whose word it is that it has: approvers of the next one weigh whether it is there after all."""
    return {"failed": receipt.get("detail"), "vouched": receipt.get("vouched"), "vouched_by": receipt.get("by"),
            "comment": receipt.get("comment")}  # fmt: skip


async def judgement(session: ReadSession, found: Approval, mission: missions.Mission) -> dict[str, Any] | None:
    """What policy said about it: the rule that spoke, its text as it was then, and what it obliged to."""
    about = ("writeback.propose", f"{found.connector}.{json.loads(found.payload)['operation']}") if found.payload else (
        "mission.create", mission.mission_type)  # fmt: skip
    row = await session.first(
        JUDGED, {"tenant": session.tenant, "mission": found.mission, "action": about[0], "resource": about[1]}
    )
    if row is None:
        return None
    rule = await policy.rule_then(session, row.policy_version, row.rule)
    return {
        "effect": row.effect,
        "action": row.action,
        "rule": row.rule,
        "reason": row.reason,
        "policy_version": row.policy_version,
        "obligations": row.obligations,
        "text": rule.text if rule else None,
        "change": rule.change if rule else None,
        "policy": rule.policy if rule else None,
        "at": iso(row.at),
    }


MOST_QUOTES, MOST_CHECKED = 8, 50


async def cited_by(session: ReadSession, mission: UUID, said: list[dict[str, Any]]) -> Cited:
    """What is looked up about evidence while a session is open."""
    citations = [Citation.model_validate(one) for one in said[:MOST_CHECKED]]
    shown = (await evidence.shown_to(session, [mission])).get(mission, {})
    placed = await artifacts.places(session, (bytes.fromhex(one.source) for one in citations))
    reviewed = await artifacts.latest(session, mission, "review_packet", "root")
    claims = json.loads(reviewed.bytes)["claims"] if reviewed and reviewed.bytes else []
    bare = [{"id": claim["claim_id"], "text": claim["text"]} for claim in claims if not claim["supported"]]
    return Cited(
        citations, max(0, len(said) - MOST_CHECKED), shown, bare, {one.hex(): place for one, place in placed.items()}
    )


def strongest(found: Cited) -> dict[str, Any]:
    """The cited evidence, checked against the stored bytes now, the strongest first; and the claims that nothing supports."""
    items = []
    for one in found.citations:
        source = found.shown.get((one.source, one.document))
        problem = evidence.finding(one, found.stored, found.shown.keys())
        items.append(
            {
                **one.model_dump(include={"document", "source", "start", "end", "quote", "quote_sha256"}),
                "verified": problem is None,
                "problem": problem,
                "trust": source.trust if source else None,
                "kind": source.kind if source else None,
                "read_at": iso(source.read_at) if source else None,
                "since": iso(source.since) if source else None,
            }
        )
    ranks = {"authoritative": 0, "normal": 1, "untrusted": 2, None: 3}
    items.sort(key=lambda item: (not item["verified"], ranks[item["trust"]]))
    more = max(0, len(items) - MOST_QUOTES) + found.left_out
    return {"items": items[:MOST_QUOTES], "more": more, "unsupported": found.bare[:20],
            "unsupported_more": max(0, len(found.bare) - 20)}  # fmt: skip


async def alike(session: ReadSession, found: Approval, payload: dict[str, Any]) -> dict[str, Any]:
    """Decisions on changes of the same kind, newest first, those with the same fields before others; and how many were
    taken back or overwritten afterwards. Looks among the tenant's newest 500 changes."""
    if not payload:
        return {"items": [], "approved": 0, "rejected": 0, "reverted": 0}
    asked = {"tenant": session.tenant, "connector": payload["connector"], "operation": payload["operation"],
             "kind": payload["target"]["kind"], "writeback": found.writeback}  # fmt: skip
    rows, items = await session.rows(SIMILAR, asked), []
    written = [row for row in rows if row.writeback_state == "succeeded"]
    since = min((row.created_at for row in written), default=now())
    replaced = await overwritten(session, ((row.connector, row.target) for row in written), since)
    for row in rows:
        was = json.loads(row.payload)
        taken_back = row.approved and row.withdrawn
        items.append(
            {
                "approval_id": row.approval,
                "target": was["target"]["id"],
                "fields": sorted(was["changes"]),
                "same_fields": set(was["changes"]) == set(payload["changes"]),
                "state": row.writeback_state,
                "decision": row.state,
                "by": row.by,
                "closed_at": iso(row.closed_at) if row.closed_at else None,
                "reverted": "taken back" if taken_back else "overwritten later" if row.writeback in replaced else None,
            }
        )
    items.sort(key=lambda one: not one["same_fields"])
    decided = [one["decision"] for one in items]
    return {"items": items[:5], "approved": decided.count("approved"), "rejected": decided.count("rejected"),
            "reverted": sum(one["reverted"] is not None for one in items)}  # fmt: skip


PRODUCERS = text(
    """SELECT DISTINCT producer FROM artifact WHERE tenant = :tenant AND mission = :mission AND producer <> 'root' LIMIT 20"""
)
MODELS = text("""SELECT DISTINCT convert_from(l.body, 'UTF8')::jsonb ->> 'model' AS model FROM ledger l
                 WHERE l.tenant = :tenant AND l.subject = :mission AND l.type LIKE 'model.%' LIMIT 20""")


async def producers(session: ReadSession, mission: UUID) -> dict[str, list[str]]:
    """Who made the mission's artifacts as they name themselves, and which models were asked through the root."""
    asked = {"tenant": session.tenant, "mission": mission}
    made = [row.producer for row in await session.rows(PRODUCERS, asked)]
    models = [row.model for row in await session.rows(MODELS, asked) if row.model]
    return {"made_by": sorted(made), "models": sorted(models)}
