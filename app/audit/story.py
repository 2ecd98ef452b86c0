"""The story of what an id names: the mission it belongs to, the changes, and every step from the request to the read-back."""

import json
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from app import approvals, ledger, writebacks
from app.audit.find import Found
from app.audit.telling import Step, about_others, sentence, short, steps_of
from app.clock import iso
from app.db import ReadSession
from app.identity.queries import names
from app.ledger import Fact, Keyring, Proof, Store
from app.ledger.verify import Reading
from app.missions.queries import find as find_mission
from app.missions.queries import views

MOST_FACTS = 2000  # of one mission: the first and the last half, and how many are left out between
MOST_POSITIONS = 100  # shown of one step; it is judged by all of them
NEWEST_OF_TENANT = 20  # told of the tenant itself
SYSTEM = {"executor": "the executor", "worker": "the root", "api": "the root", "registrar": "the registrar"}


async def explain(session: ReadSession, said: str, found: Found) -> dict[str, Any]:
    """Everything that is known, in the session's one transaction; `proof` is left to `proved`, and `shown` is what is answered."""
    told = [await of_subject(session, subject, found) for subject in reversed(found.subjects)]
    facts = [fact for _, more, _, _ in told for fact in more]
    facts.sort(key=lambda fact: (fact.at, fact.position))
    targets = {str(one.id): one.target for _, _, changes, _ in told for one, _ in changes}
    people = await names(session, {who for fact in facts if (who := principal(fact.actor))} | asked_by(told))
    return {
        "asked": said,
        "kind": found.kind,
        "missions": [about_mission(one, people) for one, _, _, _ in told if one is not None],
        "changes": [about_change(one, approval) for _, _, changes, _ in told for one, approval in changes],
        "steps": [view(step, people, found.marks) for step in steps_of(facts, targets)],
        "left_out": sum(left for _, _, _, left in told),
        "proof": None,
    }


Told = tuple[dict[str, Any] | None, list[Fact], list[tuple[Any, Any]], int]


async def of_subject(session: ReadSession, subject: UUID, found: Found) -> Told:
    """A mission as the API shows it, its facts, its changes with their approvals, and how many facts are left out.

    Of the tenant itself, whose chain is about everything, only the facts that were asked for.
    """
    if subject == session.tenant:
        facts, left = await of_tenant(session, subject, found)
        return None, facts, [], left
    facts, left = await ledger.ends_of(session, subject, MOST_FACTS)
    mission = await find_mission(session, subject)
    if mission is None:
        return None, facts, [], left
    [shown] = await views(session, [mission])
    written = await writebacks.of_mission(session, subject)
    asked = {one.writeback: one for one in await approvals.of_mission(session, subject) if one.writeback}
    if found.writebacks:
        written = [one for one in written if one.id in found.writebacks]
        mine = frozenset(one.id for one in written)
        decided = frozenset(one.approval for one in written)
        proposed = frozenset(one.proposal for one in written)
        facts = [fact for fact in facts if not about_others(fact, mine, decided, proposed)]
    return shown, facts, [(one, asked.get(one.id)) for one in written], left


async def of_tenant(session: ReadSession, tenant: UUID, found: Found) -> tuple[list[Fact], int]:
    """Its facts at the places that were asked for; of what names no place, those that name it among the first and the last.

    And how many were not looked at between those; of the tenant's own id, how many are not among its newest.
    """
    places = [place for mark in found.marks if (place := ledger.Position.parse(mark))]
    if places:
        return [fact for fact in await ledger.at_positions(session, places) if fact.subject == tenant], 0
    ends, between = await ledger.ends_of(session, tenant, MOST_FACTS)
    named = [fact for fact in ends if marked(fact, found.marks)]
    if named or found.kind != "tenant":
        return named, between
    return ends[-NEWEST_OF_TENANT:], between + max(0, len(ends) - NEWEST_OF_TENANT)


def asked_by(told: Iterable[Told]) -> set[UUID]:
    return {mission["requested_by"] for mission, _, _, _ in told if mission is not None}


def about_mission(mission: dict[str, Any], people: dict[UUID, str]) -> dict[str, Any]:
    who = mission["requested_by"]
    kept = ("id", "mission_type", "mode", "state", "risk_level", "user_goal", "reason", "answer_status", "replay_of")
    return {
        **{name: mission[name] for name in kept},
        "requested_by": {"id": who, "name": people.get(who)},
        "created_at": mission["created_at"],
        "closed_at": mission["closed_at"],
        "links": mission["links"],
    }


def about_change(change: writebacks.Writeback, approval: approvals.Approval | None) -> dict[str, Any]:
    payload = json.loads(change.payload)
    seen = change.observed_sha256
    return {
        "writeback_id": change.id,
        "approval_id": change.approval,
        "mission_id": change.mission,
        "state": change.state,
        "connector": change.connector,
        "operation": change.operation,
        "target": change.target,
        "fields": sorted(payload["changes"]),
        "risk_level": change.risk,
        "payload_sha256": change.payload_sha256.hex(),
        "approvals": change.approvals,
        "required": approval.required if approval else None,
        "predecessor": change.predecessor,
        "read_back": None if seen is None else "as_approved" if seen == change.payload_sha256 else "different",
    }


def view(step: Step, people: dict[UUID, str], marks: frozenset[str]) -> dict[str, Any]:
    """A step as it is answered. marked: it holds what was asked for."""
    actor = step.first.actor
    who = called(actor, people)
    return {
        "what": step.what,
        "sentence": sentence(step, who),
        "at": iso(step.first.at),
        "until": iso(step.facts[-1].at),
        "actor": actor,
        "actor_name": who,
        "mission_id": step.first.subject,
        "facts": [str(fact.position) for fact in step.facts],
        "count": len(step.facts),
        "marked": any(marked(fact, marks) for fact in step.facts),
        "proof": None,
    }


def marked(fact: Fact, marks: frozenset[str]) -> bool:
    """Whether a fact is, or names, what was asked for. A mission's own id is in none of its facts."""
    return str(fact.position) in marks or any(isinstance(value, str) and value in marks for value in fact.body.values())


def principal(actor: str) -> UUID | None:
    kind, _, id = actor.partition(":")
    try:
        return UUID(id) if kind == "principal" else None
    except ValueError:
        return None


def called(actor: str, people: dict[UUID, str]) -> str:
    """What an actor is called: people by their names, processes by what they are."""
    kind, _, id = actor.partition(":")
    if kind == "principal":
        who = principal(actor)
        return people.get(who, f"principal {short(id)}") if who else id
    return "the colony" if kind == "colony" else SYSTEM.get(id, f"the root ({id})")


async def proved(
    story: dict[str, Any], reading: Reading, tenant: UUID, store: Store | None, keys: Keyring, subjects: Sequence[UUID]
) -> dict[str, Any]:
    """The story with every step marked: anchored (signed outside the database), chained (its chain holds), broken.

    Opens sessions of its own; nothing is held while the store of anchors is asked.
    """
    proofs = {str(subject): await ledger.prove(reading, tenant, store, keys, subject) for subject in subjects}
    steps = [{**step, "proof": standing(step, proofs[str(step["mission_id"])])} for step in story["steps"]]
    states = [one.anchors for one in proofs.values()]
    worst = next((state for state in ("failed", "unavailable", "off", "none") if state in states), "ok")
    return {
        **story,
        "steps": steps,
        "proof": {
            "verified": all(one.verified for one in proofs.values()),
            "facts": sum(one.facts for one in proofs.values()),
            "anchored": sum(len(one.signed) for one in proofs.values()),
            "anchors": worst,
            "numbers": sorted({number for one in proofs.values() for number in one.numbers}),
            "first_bad": next((one.first_bad for one in proofs.values() if one.first_bad), None),
            "finding": next((one.finding for one in proofs.values() if one.finding), None),
        },
    }


def shown(story: dict[str, Any]) -> dict[str, Any]:
    """The story as it is answered: of a very long step, the first places of its facts."""
    return {**story, "steps": [{**step, "facts": step["facts"][:MOST_POSITIONS]} for step in story["steps"]]}


def standing(step: dict[str, Any], proof: Proof) -> str:
    """What a step is worth: as little as the weakest of its facts."""
    bad = ledger.Position.parse(str(proof.first_bad["position"])) if proof.first_bad else None
    places = [ledger.Position.parse(one) for one in step["facts"]]
    if bad is not None and any(place is None or place >= bad for place in places):
        return "broken"
    if not proof.broken.isdisjoint(step["facts"]):
        return "broken"
    return "anchored" if all(one in proof.signed for one in step["facts"]) else "chained"
