"""Aggregator: the workers' claims become one answer, section by section, nothing added and nothing said twice."""

from collections.abc import Mapping, Sequence
from typing import Any

from colony.case import Case
from colony.reading.plain import words_of
from colony.stages.brief import BY_KIND
from colony.stages.notes import Notes, Outcome, Produced
from colony_client.artifacts import MAX_ANSWER, AggregationPacket, Claim, Section, Task

NOTHING = "Not found in the evidence."
_FIRST_PICK = ("recommendation", "risks", "options", "situation")  # the section with the narrowest needs chooses first


async def run(case: Case, notes: Notes) -> Produced:
    notes.packet = case.make(AggregationPacket, **compose(notes.tasks, notes.outcomes))
    return Produced([notes.packet])


def compose(tasks: Sequence[Task], outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """The fields of the packet."""
    if any(task.kind in BY_KIND for task in tasks):
        return _brief(tasks, outcomes)
    claims: list[Claim] = []
    sections: list[Section] = []
    missing: list[str] = []
    for task in tasks:
        fresh = [claim for claim in outcomes[task.id].claims if not _said(claim, claims)]
        claims += fresh
        missing += outcomes[task.id].not_found
        sections.append(Section(title=task.title, claim_ids=[claim.id for claim in fresh]))
    return _packet(claims, sections if len(tasks) > 1 else [], missing)


def _brief(tasks: Sequence[Task], outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    kinds = {task.kind: task for task in tasks}
    taken: list[Claim] = []
    chosen: dict[str, list[Claim]] = {}
    for kind in _FIRST_PICK:
        fresh: list[Claim] = []
        for claim in outcomes[kinds[kind].id].claims:
            if len(fresh) < BY_KIND[kind].at_most and not _said(claim, taken + fresh):
                fresh.append(claim)
        chosen[kind], taken = fresh, taken + fresh
    claims: list[Claim] = []
    sections: list[Section] = []
    missing: list[str] = []
    for task in tasks:
        part, own = BY_KIND[task.kind], chosen[task.kind]
        claims += own
        lacking = part.at_least - len(own)
        if lacking > 0:
            missing.append(f"{part.title}: {'not found' if not own else f'only {len(own)} of {part.at_least} found'}")
        sections.append(Section(title=part.title, claim_ids=[claim.id for claim in own], text=None if own else NOTHING))
    return _packet(claims, sections, missing)


def _packet(claims: list[Claim], sections: list[Section], missing: list[str]) -> dict[str, Any]:
    if not claims:
        return {"answer_status": "not_found", "answer": NOTHING, "not_found": missing[:200]}
    return {
        "answer_status": "answered",
        "answer": answer_of(claims, sections)[:MAX_ANSWER],
        "claims": claims,
        "sections": sections,
        "not_found": missing[:200],
    }


def answer_of(claims: Sequence[Claim], sections: Sequence[Section]) -> str:
    """The claims as text; with several sections each under its title, an empty one saying so."""
    if len(sections) < 2:
        return "\n\n".join(claim.text for claim in claims)
    by_id = {claim.id: claim.text for claim in claims}
    parts = [
        f"{section.title}\n\n" + ("\n\n".join(by_id[claim_id] for claim_id in section.claim_ids) or NOTHING)
        for section in sections
    ]
    return "\n\n".join(parts)


def _said(claim: Claim, earlier: Sequence[Claim]) -> bool:
    """Was this said before: the same bytes, or nearly all of the same words?"""
    words = set(words_of(claim.text))
    for other in earlier:
        if any(_overlap(mine, theirs) for mine in claim.citations for theirs in other.citations):
            return True
        theirs_words = set(words_of(other.text))
        if len(words & theirs_words) > 0.85 * min(len(words), len(theirs_words)):
            return True
    return False


def _overlap(mine: Any, theirs: Any) -> bool:
    if mine.source != theirs.source:
        return False
    shared = min(mine.end, theirs.end) - max(mine.start, theirs.start)
    return shared > 0.5 * min(mine.end - mine.start, theirs.end - theirs.start)
