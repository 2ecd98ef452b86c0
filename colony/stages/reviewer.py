"""Reviewer: reads the cited bytes again and drops every claim they do not carry. It trusts no earlier stage."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from colony.case import Case
from colony.reading.plain import is_drawn_from
from colony.stages.aggregator import NOTHING, answer_of
from colony.stages.notes import Notes, Produced
from colony.tools import Stretch
from colony_client.artifacts import (
    AggregationPacket,
    Citation,
    Claim,
    ReviewedCitation,
    ReviewedClaim,
    ReviewPacket,
)

Spot = tuple[str, int, int]  # source, start, end


async def run(case: Case, notes: Notes) -> Produced:
    packet = notes.packet
    assert packet is not None
    spots = {(one.source, one.start, one.end) for claim in packet.claims for one in claim.citations}
    reading = asyncio.gather(*(case.tools.read(*spot) for spot in spots))
    stretches = await case.in_time("reading the cited bytes again", reading)
    read_again = dict(zip(spots, stretches, strict=True))
    reviewed = [review(claim, read_again, literal=case.model is None) for claim in packet.claims]
    if case.model is not None and reviewed:
        from colony.stages.with_model import doubted

        reviewed = await doubted(case.model, reviewed)
    problems = [problem for claim in reviewed if (problem := _problem(claim))]
    supported = sum(claim.supported for claim in reviewed)
    verdict = case.make(
        ReviewPacket,
        reviewer="colony",
        verdict="failed" if reviewed and not supported else "passed",
        claims=reviewed,
        coverage=supported / len(reviewed) if reviewed else 1.0,
        problems=problems,
    )
    if supported == len(reviewed):
        return Produced([verdict])
    kept = {claim.claim_id for claim in reviewed if claim.supported}
    notes.packet = case.make(AggregationPacket, **without_dropped(packet, kept))
    return Produced([notes.packet, verdict])


def review(claim: Claim, read_again: Mapping[Spot, Stretch], *, literal: bool) -> ReviewedClaim:
    """Check every quote against the bytes, and the claim's words against its quotes.

    `literal`: the words of the claim must stand in the quotes, in order. A model's words need not.
    """
    citations = [checked(one, read_again.get((one.source, one.start, one.end))) for one in claim.citations]
    sound = bool(citations) and all(one.verified for one in citations)
    drawn = not literal or is_drawn_from(claim.text, [one.quote for one in claim.citations])
    return ReviewedClaim(claim_id=claim.id, text=claim.text, citations=citations, supported=sound and drawn)


def checked(citation: Citation, stretch: Stretch | None) -> ReviewedCitation:
    problem = None
    if stretch is None or (stretch.start, stretch.end) != (citation.start, citation.end):
        problem = "the source does not reach this far"
    elif stretch.text != citation.quote:
        problem = "the bytes at this place are not the quoted ones"
    elif hashlib.sha256(stretch.text.encode()).hexdigest() != citation.quote_sha256:
        problem = "the quote does not have the hash it is given"
    return ReviewedCitation(citation=citation, verified=problem is None, problem=problem)


def _problem(claim: ReviewedClaim) -> str | None:
    if claim.supported:
        return None
    wrong = [one.problem for one in claim.citations if one.problem]
    return f"{claim.claim_id}: {wrong[0] if wrong else 'its words are not in its quotes'}"


def without_dropped(packet: AggregationPacket, kept: set[str]) -> dict[str, Any]:
    """The packet's fields with only the claims that held; without any, an honest "not found"."""
    claims: Sequence[Claim] = [claim for claim in packet.claims if claim.id in kept]
    dropped = [f"dropped in review: {claim.text[:300]}" for claim in packet.claims if claim.id not in kept]
    missing = [*packet.not_found, *dropped][:200]
    if not claims:
        return {"answer_status": "not_found", "answer": NOTHING, "not_found": missing}
    sections = [
        section.model_copy(update={"claim_ids": [one for one in section.claim_ids if one in kept]})
        for section in packet.sections
    ]
    return {
        "answer_status": "answered",
        "answer": answer_of(claims, sections),
        "claims": claims,
        "sections": sections,
        "not_found": missing,
        "leads": packet.leads,
        "proposals": packet.proposals,
    }
