"""The one explicit review pass: what the colony says, held against what the root stored."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Literal
from uuid import UUID

from app import artifacts
from app.artifacts import Artifact, Located, Objects
from app.caller import Caller
from app.clock import now
from app.db import Database, ReadSession
from app.evidence.check import check, finding
from app.evidence.contradictions import Place
from app.evidence.sources import Shown, Source, age, by_place, compared, contradictions, shown_to, uncited
from app.evidence.stored import Stored
from app.missions import Held, Mission
from app.missions.types import shipped
from app.workspaces import LEVELS, lowest
from colony_client.artifacts import (
    MAX_CLAIMS,
    MAX_SOURCES,
    AggregationPacket,
    Citation,
    Claim,
    Contradiction,
    Producer,
    ReviewedClaim,
    ReviewPacket,
    WorkerResult,
    WritebackProposal,
)

MAX_PROBLEMS = 500
MAX_NOTE = 2000
SHOWN_EACH = 5  # of what one part of the minimum misses
SAID = """SELECT s.tenant AS of_tenant, s.mission AS of_mission, s.attempt AS of_attempt, s.mission_type, s.minimum,
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
    """What review found. passed: everything that the mission type's minimum asks for is there."""

    passed: bool
    answer_status: Literal["answered", "not_found"]
    coverage: float
    proposals: list[Proposal]


@dataclass
class Material:
    """What is reviewed: what a mission's attempt has said, the minimum its type sets, and what it was shown of what it cites."""

    tenant: UUID
    attempt: int
    minimum: dict[str, Any]
    claims: list[Claim] = field(default_factory=list)
    status: Literal["answered", "not_found"] = "not_found"
    lead_citations: list[Citation] = field(default_factory=list)
    proposals: list[tuple[Artifact, WritebackProposal]] = field(default_factory=list)
    stored: dict[str, Stored] = field(default_factory=dict)
    placed: dict[str, Located] = field(default_factory=dict)  # what `fetch` reads outside the transaction
    shown: Shown = field(default_factory=dict)
    contradictions: list[Contradiction] = field(default_factory=list)
    left_uncompared: int = 0

    def cited(self) -> list[Citation]:
        of_claims = [citation for claim in self.claims[:MAX_CLAIMS] for citation in claim.citations]
        of_proposals = [citation for _, proposal in self.proposals for citation in proposal.evidence]
        return of_claims + self.lead_citations + of_proposals

    def holds(self, citation: Citation) -> bool:
        return finding(citation, self.stored, self.shown.keys()) is None

    @cached_property
    def spans(self) -> dict[Place, list[tuple[int, int, str | None]]]:
        """Where what is said cites what, as far as it holds, each span with the claim that cites it."""
        said = [(citation, claim.id) for claim in self.claims[:MAX_CLAIMS] for citation in claim.citations]
        others = [*self.lead_citations, *(one for _, proposal in self.proposals for one in proposal.evidence)]
        return by_place(
            ((citation.source, citation.document), citation.start, citation.end, claim)
            for citation, claim in [*said, *((citation, None) for citation in others)]
            if self.holds(citation)
        )


async def material(database: Database, wanted: Sequence[tuple[UUID, UUID]]) -> dict[UUID, Material]:
    """What there is to review of missions, (tenant, mission) pairs; of those that there are. `fetch` completes it."""
    said: dict[UUID, list[Any]] = defaultdict(list)
    for row in await database.fetch(SAID, [tenant for tenant, _ in wanted], [mission for _, mission in wanted]):
        said[row["of_mission"]].append(row)
    found = {mission: heard(rows) for mission, rows in said.items()}
    citing: dict[UUID, dict[UUID, list[Citation]]] = defaultdict(dict)
    for mission, one in found.items():
        if cited := one.cited():
            citing[one.tenant][mission] = cited
    if citing:
        async with database.read() as session:
            for tenant, cited_by in citing.items():
                await session.enter(tenant)
                await look_up(session, found, cited_by)
    return found


async def look_up(
    session: ReadSession, found: Mapping[UUID, Material], cited_by: Mapping[UUID, Sequence[Citation]]
) -> None:
    """Where the bytes are that missions of one tenant cite, and what each of them was shown."""
    hashes = {bytes.fromhex(citation.source) for cited in cited_by.values() for citation in cited}
    placed = {digest.hex(): place for digest, place in (await artifacts.places(session, hashes)).items()}
    stored: dict[str, Stored] = {}
    shown = await shown_to(session, list(cited_by))
    for mission in cited_by:
        found[mission].stored, found[mission].placed = stored, placed
        found[mission].shown = shown.get(mission, {})


async def compare(database: Database, found: Iterable[Material], objects: Objects) -> None:
    """Notes where the sources of each mission contradict each other; the texts of one are in memory at a time.

    After `fetch`. Raises as that does.
    """
    for one in found:
        if len(one.shown) > 1 and (spans := one.spans):
            async with database.read() as session:
                await session.enter(one.tenant)
                others = await uncited(session, one.shown, spans)
            texts = await compared(one.shown, spans, one.placed | others, objects)
            one.contradictions, one.left_uncompared = await contradictions(one.shown, spans, texts)


def heard(rows: Sequence[Any]) -> Material:
    """What a mission's rows of SAID say: of the aggregation packet, or of the worker results when there is none."""
    first, own = rows[0], rows[0]["minimum"]
    kind = shipped().get(first["mission_type"])
    minimum = json.loads(own) if own is not None else kind.review if kind else {"min_coverage": 1.0}
    material = Material(first["of_tenant"], first["of_attempt"], minimum)
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
    said, stored, shown, at = material.claims, material.stored, material.shown.keys(), now()
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
    sources = [material.shown[place] for place in sorted(material.spans)] if shown else []
    missed = missing(material, sources, at)
    problems = [*missed.values(), *problems]
    passed = coverage >= material.minimum["min_coverage"] and not unfounded and not missed
    packet = ReviewPacket(
        mission_id=mission.id,
        tenant_id=caller.tenant,
        actor_id=mission.requested_by,
        created_at=at,
        producer=Producer(name="root", version="1"),
        reviewer="root",
        verdict="passed" if passed else "failed",
        claims=[weighed(one.reviewed, material.shown, at) for one in checked],
        coverage=coverage,
        problems=[problem[:MAX_NOTE] for problem in problems[:MAX_PROBLEMS]],
        minimum=material.minimum,
        sources=[source.reviewed(at) for source in sources[:MAX_SOURCES]],
        age=age(sources, at),
        trust=lowest(source.trust for source in sources),
        contradictions=material.contradictions,
        left_uncompared=material.left_uncompared,
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
        sources=len(sources),
        contradictions=len(material.contradictions),
        missed=sorted(missed),
        review_packet=kept.id,
    )
    return Review(passed, material.status, coverage, judged)


def missing(material: Material, sources: Sequence[Source], at: datetime) -> dict[str, str]:
    """What of the type's minimum is not there, besides coverage: a sentence by its name."""
    minimum, missed = material.minimum, dict[str, str]()
    if (most := minimum.get("max_source_age_days")) is not None:
        old = [source for source in sources if source.age_days(at) > most]
        missed |= told("max_source_age_days", most, [f"{source.document} was {source.aged()}" for source in old])
    if (least := minimum.get("min_trust")) is not None:
        low = [source for source in sources if LEVELS.index(source.trust) < LEVELS.index(least)]
        missed |= told("min_trust", least, [f"{source.document} is {source.trust}" for source in low])
    if minimum.get("contradictions") == "fail" and (found := material.contradictions):
        missed |= told("contradictions", "fail", [f"{one.one.document} and {one.other.document}" for one in found])
    if (count := minimum.get("min_sources")) is not None and material.status == "answered":
        rests_on = {source.source for source in sources}
        if len(rests_on) < count:
            missed |= told("min_sources", count, [f"the answer rests on {len(rests_on)}"])
    return missed


def told(name: str, asked: object, found: Sequence[str]) -> dict[str, str]:
    asked = f"{asked:g}" if isinstance(asked, float) else asked
    more = f" and {len(found) - SHOWN_EACH} more" if len(found) > SHOWN_EACH else ""
    return {name: f"minimum {name} {asked}: {'; '.join(found[:SHOWN_EACH])}{more}"} if found else {}


def weighed(claim: ReviewedClaim, shown: Shown, at: datetime) -> ReviewedClaim:
    """A claim with the age and the least trust of what it stands on."""
    places = {(one.citation.source, one.citation.document) for one in claim.citations if one.verified}
    if not places:
        return claim
    sources = [shown[place] for place in sorted(places)]
    return claim.model_copy(update={"age": age(sources, at), "trust": lowest(source.trust for source in sources)})


def weakness(proposal: WritebackProposal, stored: Mapping[str, Stored], shown: Set[Place]) -> str | None:
    """Why a proposal must not be put before a human."""
    if not proposal.evidence:
        return "it cites no evidence"
    return next((problem for citation in proposal.evidence if (problem := finding(citation, stored, shown))), None)
