"""The seven stages of a CRM mission. Records take the place of passages; proposals leave only after the review."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from colony.case import Case
from colony.leads.facts import LeadFacts, assemble
from colony.leads.proposing import changes_for, proposal, rationale
from colony.leads.scoring import evidence_of, score
from colony.stages.notes import Produced
from colony.stages.reviewer import checked
from colony.tools import Record, Stretch
from colony_client.artifacts import (
    AggregationPacket,
    Claim,
    Lead,
    LibrarianPass,
    MissionTaskGraph,
    Passage,
    Prompt,
    PromptPackage,
    ResearchArtifact,
    ReviewedClaim,
    ReviewPacket,
    Search,
    SearchResult,
    Section,
    Task,
    WorkerResult,
    quote_sha256,
)

MOST_LEADS = 200  # open ones are scored, and their records looked at, up to this many
NOTHING = "Not found in the evidence."

TASKS = (
    Task(id="read", kind="read", title="Read leads and activities", question="Which leads and activities are there?"),
    Task(
        id="score",
        kind="score",
        title="Score every open lead",
        question="How promising is each open lead, and why?",
        depends_on=["read"],
    ),
    Task(
        id="propose",
        kind="propose",
        title="Propose changes",
        question="Which records should say something else?",
        depends_on=["score"],
    ),
)
_RULES = (
    "Score from fields and activities only: company size, budget, source, how recently and how well the lead answered. "
    "Cite the field behind every factor. Propose a change only where the record says something else."
)


@dataclass
class Notes:
    leads: list[LeadFacts] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    scored: dict[str, Lead] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    packet: AggregationPacket | None = None


async def planner(case: Case, notes: Notes) -> Produced:
    return Produced([case.make(MissionTaskGraph, tasks=list(TASKS))])


async def prompt_master(case: Case, notes: Notes) -> Produced:
    prompts = [Prompt(task_id=task.id, role="analyst", instructions=f"{_RULES}\n\n{task.question}") for task in TASKS]
    return Produced([case.make(PromptPackage, prompts=prompts)])


async def librarian(case: Case, notes: Notes) -> Produced:
    """Every lead and every activity, as the root stored them."""
    searches = []
    for kind in ("lead", "activity"):
        found = await case.in_time(f"reading every {kind}", case.tools.records(kind))
        notes.records += found
        results = [_whole(record) for record in found if record.text][:500]
        searches.append(Search(task_id="read", query=f"crm.list {kind}", results=results))
    return Produced([case.make(LibrarianPass, searches=searches)])


async def researcher(case: Case, notes: Notes) -> Produced:
    """Puts activities to their leads; the passages are the lead records that will be judged."""
    by_kind = {kind: [one for one in notes.records if one.kind == kind] for kind in ("lead", "activity")}
    asked = case.envelope.inputs.get("lead_ids")
    wanted = frozenset(str(one) for one in asked) if isinstance(asked, list) else frozenset()
    notes.leads = assemble(by_kind["lead"], by_kind["activity"], wanted)[:MOST_LEADS]
    passages = [_passage(facts.record) for facts in notes.leads if len(facts.record.text) <= 4000]
    return Produced([case.make(ResearchArtifact, passages=passages)])


async def workers(case: Case, notes: Notes) -> Produced:
    notes.scored = {facts.record.record_id: score(facts) for facts in notes.leads if facts.open}
    notes.claims = [claim for facts in notes.leads if facts.open and (claim := _claim(facts, notes.scored))]
    missing = [] if notes.leads else ["no lead was found"]
    return Produced([case.make(WorkerResult, task_id="score", claims=notes.claims, not_found=missing)])


async def aggregator(case: Case, notes: Notes) -> Produced:
    notes.packet = _packet(case, notes, {claim.id for claim in notes.claims})
    return Produced([notes.packet])


async def reviewer(case: Case, notes: Notes) -> Produced:
    """Reads every cited record again; what no longer holds is dropped, and nothing is proposed on it."""
    cited = {one.document for claim in notes.claims for one in claim.citations}
    records = [record for record in notes.records if record.document in cited]
    reading = asyncio.gather(*(case.tools.record(record.kind, record.record_id) for record in records))
    read_again = await case.in_time("reading the cited records again", reading)
    again = {record.document: record for record in read_again}
    reviewed = [_review(claim, again) for claim in notes.claims]
    kept = {claim.claim_id for claim in reviewed if claim.supported}
    problems = [f"{claim.claim_id}: a record it rests on has changed" for claim in reviewed if not claim.supported]
    verdict = case.make(
        ReviewPacket,
        reviewer="colony",
        verdict="failed" if reviewed and not kept else "passed",
        claims=reviewed,
        coverage=len(kept) / len(reviewed) if reviewed else 1.0,
        problems=problems,
    )
    proposals = [
        proposal(case, facts, notes.scored[facts.record.record_id], changes)
        for facts in notes.leads
        if _claim_id(facts) in kept and (changes := changes_for(facts, notes.scored[facts.record.record_id]))
    ][: _most_proposals(case)]
    if len(kept) == len(reviewed):
        return Produced([verdict], proposals)
    return Produced([_packet(case, notes, kept), verdict], proposals)


def _most_proposals(case: Case) -> int:
    asked = case.envelope.inputs.get("max_proposals")
    return asked if isinstance(asked, int) and not isinstance(asked, bool) and asked >= 0 else MOST_LEADS


LINE = {
    "planner": planner,
    "prompt_master": prompt_master,
    "librarian": librarian,
    "researcher": researcher,
    "workers": workers,
    "aggregator": aggregator,
    "reviewer": reviewer,
}


def _whole(record: Record) -> SearchResult:
    size = len(record.text.encode())
    return SearchResult(source=record.source, document=record.document, start=0, end=size, score=1.0)


def _passage(record: Record) -> Passage:
    held = record.text.encode()
    return Passage(
        id=f"lead-{quote_sha256(record.record_id.encode())[:16]}",
        task_id="read",
        source=record.source,
        document=record.document,
        start=0,
        end=len(held),
        quote=record.text,
        quote_sha256=quote_sha256(held),
        score=1.0,
    )


def _claim_id(facts: LeadFacts) -> str:
    return f"score-{quote_sha256(facts.record.record_id.encode())[:16]}"


def _claim(facts: LeadFacts, scored: Mapping[str, Lead]) -> Claim | None:
    lead = scored[facts.record.record_id]
    citations = evidence_of(lead)
    if not citations:
        return None
    return Claim(
        id=_claim_id(facts), text=rationale(facts, lead), section=facts.name[:200], citations=citations, confidence=1.0
    )


def _packet(case: Case, notes: Notes, kept: set[str]) -> AggregationPacket:
    """Leads best first, each with its claim; a lead whose claim did not hold is named and left out."""
    standing = [facts for facts in notes.leads if facts.open and _claim_id(facts) in kept]
    standing.sort(key=lambda facts: (-notes.scored[facts.record.record_id].score, facts.record.record_id))
    claims = {claim.id: claim for claim in notes.claims}
    ordered = [claims[_claim_id(facts)] for facts in standing]
    missing = [_left_out(facts) for facts in notes.leads if _claim_id(facts) not in kept]
    changed = sum(bool(changes_for(facts, notes.scored[facts.record.record_id])) for facts in standing)
    return case.make(
        AggregationPacket,
        answer_status="answered" if ordered else "not_found",
        answer="\n\n".join(claim.text for claim in ordered)[:50_000] if ordered else NOTHING,
        claims=ordered,
        sections=[Section(title=(claim.section or claim.id), claim_ids=[claim.id]) for claim in ordered][:50],
        not_found=[note[:2000] for note in missing][:200] or ([] if ordered else ["no lead was found"]),
        leads=[notes.scored[facts.record.record_id] for facts in standing],
        proposals=min(changed, _most_proposals(case)),
    )


def _left_out(facts: LeadFacts) -> str:
    why = "no evidence that holds" if facts.open else f"already {facts.record.fields.get('stage')}"
    return f"{facts.name} ({facts.record.record_id}): {why}"


def _review(claim: Claim, again: Mapping[str, Record]) -> ReviewedClaim:
    citations = []
    for one in claim.citations:
        record = again.get(one.document)
        held = record.text.encode() if record and record.source == one.source else b""
        there = one.end <= len(held)
        stretch = (
            Stretch(held[one.start : one.end].decode(errors="replace"), one.start, one.end, len(held))
            if there
            else None
        )
        citations.append(checked(one, stretch))
    return ReviewedClaim(
        claim_id=claim.id, text=claim.text, citations=citations, supported=all(one.verified for one in citations)
    )
