"""The one explicit review pass: what the colony says, held against what the root stored."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from app import artifacts, ledger
from app.caller import Caller
from app.clock import now
from app.db import WriteSession
from app.evidence.check import check, finding
from app.missions import Mission
from app.missions.types import type_of
from colony_client.artifacts import (
    MAX_CLAIMS,
    AggregationPacket,
    Citation,
    Claim,
    Producer,
    ReviewPacket,
    WorkerResult,
    WritebackProposal,
)

MAX_PROBLEMS = 500
MAX_NOTE = 2000


@dataclass(frozen=True)
class Proposal:
    """A proposal of the reviewed attempt; problem says why its evidence does not hold, None when it does."""

    artifact: artifacts.Artifact
    content: WritebackProposal
    problem: str | None


@dataclass(frozen=True)
class Review:
    """What review found. passed: the supported share of claims reaches the mission type's minimum."""

    passed: bool
    answer_status: Literal["answered", "not_found"]
    coverage: float
    proposals: list[Proposal]


async def review(session: WriteSession, caller: Caller, mission: Mission) -> Review:
    """Checks every claim and proposal of the mission's current attempt and stores the root's review_packet."""
    said, status, lead_citations = await said_by_colony(session, mission)
    claims = said[:MAX_CLAIMS]
    proposed = await artifacts.of_attempt(session, mission.id, mission.attempt, "writeback_proposal")
    proposals = [(artifact, WritebackProposal.model_validate_json(artifact.bytes)) for artifact in proposed]
    cited = [citation for claim in claims for citation in claim.citations]
    cited += [*lead_citations, *(citation for _, proposal in proposals for citation in proposal.evidence)]
    stored = await stored_sources(session, cited)
    shown = {(row.source_sha256.hex(), row.document) for row in await artifacts.readings(session, mission.id)}

    checked = [check(claim, stored, shown) for claim in claims]
    problems = [problem for one in checked for problem in one.problems]
    problems += [
        f"a lead's factor: {problem}" for citation in lead_citations if (problem := finding(citation, stored, shown))
    ]
    judged = [Proposal(artifact, proposal, weakness(proposal, stored, shown)) for artifact, proposal in proposals]
    problems += [f"proposal {one.content.proposal_id}: {one.problem}" for one in judged if one.problem]
    if status == "answered" and not claims:
        problems.append("an answer without a single claim")
    if len(said) > MAX_CLAIMS:  # what is not looked at is not supported
        problems.insert(0, f"only {MAX_CLAIMS} of {len(said)} claims fit one review")

    coverage = sum(one.reviewed.supported for one in checked) / len(said) if said else 1.0
    kind = await type_of(session, mission.mission_type, mission.type_version)
    minimum = kind.review["min_coverage"] if kind else 1.0
    passed = coverage >= minimum and not (status == "answered" and not claims)
    packet = ReviewPacket(
        mission_id=mission.id,
        tenant_id=caller.tenant,
        actor_id=mission.requested_by,
        created_at=now(),
        producer=Producer(name="root", version="1"),
        reviewer="root",
        verdict="passed" if passed else "failed",
        claims=[one.reviewed for one in checked],
        coverage=coverage,
        problems=[problem[:MAX_NOTE] for problem in problems[:MAX_PROBLEMS]],
        minimum={"min_coverage": minimum},
    )
    kept = await artifacts.store(session, caller, mission.id, mission.attempt, packet)
    await ledger.record(
        session,
        caller,
        "mission.reviewed",
        mission.id,
        verdict=packet.verdict,
        coverage=coverage,
        claims=len(said),
        problems=len(packet.problems),
        review_packet=kept.id,
    )
    return Review(passed, status, coverage, judged)


async def said_by_colony(
    session: WriteSession, mission: Mission
) -> tuple[list[Claim], Literal["answered", "not_found"], list[Citation]]:
    """Claims, answer status and lead citations: of the aggregation packet, or of the worker results when there is none."""
    found = await artifacts.of_attempt(session, mission.id, mission.attempt, "aggregation_packet")
    if found:
        packet = AggregationPacket.model_validate_json(found[-1].bytes)
        cited = [factor.citation for lead in packet.leads for factor in lead.factors if factor.citation]
        return packet.claims, packet.answer_status, cited
    results = [
        WorkerResult.model_validate_json(artifact.bytes)
        for artifact in await artifacts.of_attempt(session, mission.id, mission.attempt, "worker_result")
    ]
    claims = [claim for result in results for claim in result.claims]
    return claims, "answered" if claims else "not_found", []


async def stored_sources(session: WriteSession, citations: Iterable[Citation]) -> dict[str, bytes]:
    found = await artifacts.blobs(session, (bytes.fromhex(citation.source) for citation in citations))
    return {digest.hex(): data for digest, data in found.items()}


def weakness(proposal: WritebackProposal, stored: dict[str, bytes], shown: set[tuple[str, str]]) -> str | None:
    """Why a proposal must not be put before a human."""
    if not proposal.evidence:
        return "it cites no evidence"
    return next((problem for citation in proposal.evidence if (problem := finding(citation, stored, shown))), None)
