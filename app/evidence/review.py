"""The one explicit review pass: what the colony says, held against what the root stored."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from app import artifacts
from app.artifacts import Artifact, Located
from app.caller import Caller
from app.clock import now
from app.db import ReadSession
from app.evidence.check import check, finding
from app.evidence.sources import Stored
from app.missions import Held, Mission
from app.missions.types import shipped
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
SAID = """SELECT s.tenant AS of_tenant, s.mission AS of_mission, s.attempt AS of_attempt, s.mission_type, s.min_coverage,
          (s.artifact).* FROM said_of_missions($1, $2) s"""
ARTIFACT = tuple(Artifact.__dataclass_fields__)


@dataclass(frozen=True)
class Proposal:
    """A proposal of the reviewed attempt; problem says why its evidence does not hold, None when it does."""

    artifact: Artifact
    content: WritebackProposal
    problem: str | None


@dataclass(frozen=True)
class Review:
    """What review found. passed: the supported share of claims reaches the mission type's minimum."""

    passed: bool
    answer_status: Literal["answered", "not_found"]
    coverage: float
    proposals: list[Proposal]


@dataclass
class Material:
    """What is reviewed: what a mission's attempt has said, the minimum its type sets, and what it was shown of what it cites."""

    tenant: UUID
    attempt: int
    minimum: float
    claims: list[Claim] = field(default_factory=list)
    status: Literal["answered", "not_found"] = "not_found"
    lead_citations: list[Citation] = field(default_factory=list)
    proposals: list[tuple[Artifact, WritebackProposal]] = field(default_factory=list)
    stored: dict[str, Stored] = field(default_factory=dict)
    placed: dict[str, Located] = field(default_factory=dict)  # what `fetch` reads outside the transaction
    shown: set[tuple[str, str]] = field(default_factory=set)

    def cited(self) -> list[Citation]:
        of_claims = [citation for claim in self.claims[:MAX_CLAIMS] for citation in claim.citations]
        of_proposals = [citation for _, proposal in self.proposals for citation in proposal.evidence]
        return of_claims + self.lead_citations + of_proposals


async def material(session: ReadSession, wanted: Sequence[tuple[UUID, UUID]]) -> dict[UUID, Material]:
    """What there is to review of missions, (tenant, mission) pairs; of those that there are. `fetch` completes it."""
    said: dict[UUID, list[Any]] = defaultdict(list)
    for row in await session.fetch(SAID, [tenant for tenant, _ in wanted], [mission for _, mission in wanted]):
        said[row["of_mission"]].append(row)
    found = {mission: heard(rows) for mission, rows in said.items()}
    citing: dict[UUID, dict[UUID, list[Citation]]] = defaultdict(dict)
    for mission, one in found.items():
        if cited := one.cited():
            citing[one.tenant][mission] = cited
    for tenant, cited_by in citing.items():
        await session.enter(tenant)
        hashes = {bytes.fromhex(citation.source) for cited in cited_by.values() for citation in cited}
        placed = {digest.hex(): place for digest, place in (await artifacts.places(session, hashes)).items()}
        stored: dict[str, Stored] = {}
        for mission in cited_by:
            readings = await artifacts.readings(session, mission)
            found[mission].stored, found[mission].placed = stored, placed
            found[mission].shown = {(row.source_sha256.hex(), row.document) for row in readings}
    return found


def heard(rows: Sequence[Any]) -> Material:
    """What a mission's rows of SAID say: of the aggregation packet, or of the worker results when there is none."""
    first, minimum = rows[0], rows[0]["min_coverage"]
    if minimum is None:
        kind = shipped().get(first["mission_type"])
        minimum = kind.review["min_coverage"] if kind else 1.0
    material = Material(first["of_tenant"], first["of_attempt"], float(minimum))
    made: dict[str, list[Artifact]] = defaultdict(list)
    for row in rows:
        if row["id"] is not None:
            made[row["schema_name"]].append(Artifact(**{name: row[name] for name in ARTIFACT}))
    if packets := made["aggregation_packet"]:
        packet = AggregationPacket.model_validate_json(packets[-1].bytes)
        material.claims, material.status = packet.claims, packet.answer_status
        material.lead_citations = [
            factor.citation for lead in packet.leads for factor in lead.factors if factor.citation
        ]
    else:
        results = [WorkerResult.model_validate_json(artifact.bytes) for artifact in made["worker_result"]]
        material.claims = [claim for result in results for claim in result.claims]
        material.status = "answered" if material.claims else "not_found"
    material.proposals = [
        (artifact, WritebackProposal.model_validate_json(artifact.bytes)) for artifact in made["writeback_proposal"]
    ]
    return material


def review(held: Held, caller: Caller, mission: Mission, material: Material) -> Review:
    """Checks every claim and proposal of a held mission's current attempt and stores the root's review_packet."""
    said, stored, shown = material.claims, material.stored, material.shown
    claims = said[:MAX_CLAIMS]
    checked = [check(claim, stored, shown) for claim in claims]
    problems = [problem for one in checked for problem in one.problems]
    problems += [
        f"a lead's factor: {problem}"
        for citation in material.lead_citations
        if (problem := finding(citation, stored, shown))
    ]
    judged = [Proposal(artifact, content, weakness(content, stored, shown)) for artifact, content in material.proposals]
    problems += [f"proposal {one.content.proposal_id}: {one.problem}" for one in judged if one.problem]
    unfounded = material.status == "answered" and not claims
    if unfounded:
        problems.append("an answer without a single claim")
    if len(said) > MAX_CLAIMS:  # what is not looked at is not supported
        problems.insert(0, f"only {MAX_CLAIMS} of {len(said)} claims fit one review")

    coverage = sum(one.reviewed.supported for one in checked) / len(said) if said else 1.0
    passed = coverage >= material.minimum and not unfounded
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
        minimum={"min_coverage": material.minimum},
    )
    kept = held.store(caller, mission.id, mission.attempt, artifacts.made(packet))
    held.tell(
        caller,
        "mission.reviewed",
        mission.id,
        verdict=packet.verdict,
        coverage=coverage,
        claims=len(said),
        problems=len(packet.problems),
        review_packet=kept.id,
    )
    return Review(passed, material.status, coverage, judged)


def weakness(proposal: WritebackProposal, stored: dict[str, Stored], shown: set[tuple[str, str]]) -> str | None:
    """Why a proposal must not be put before a human."""
    if not proposal.evidence:
        return "it cites no evidence"
    return next((problem for citation in proposal.evidence if (problem := finding(citation, stored, shown))), None)
