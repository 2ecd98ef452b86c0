"""Putting a mission's packet together from what is stored; nothing in it is recomputed by the colony."""

from datetime import datetime
from typing import Any
from uuid import UUID

from app import approvals, artifacts, ledger, policy, retention, writebacks
from app.approvals.queries import decisions, handed
from app.approvals.queries import view as approval_view
from app.approvals.questions import of_each
from app.clock import iso
from app.db import ReadSession
from app.ledger.queries import START
from app.missions.queries import find, views
from app.writebacks.queries import view as writeback_view
from colony_client.artifacts import AggregationPacket, ReviewPacket

MAX_FACTS = 2000
REVIEWED = (
    "verdict", "coverage", "problems", "minimum", "sources", "age", "trust", "contradictions", "left_uncompared",
)  # fmt: skip


async def assemble(session: ReadSession, mission_id: UUID) -> dict[str, Any] | None:
    """The packet of a mission in any state; parts that do not exist yet are empty. None when there is no such mission."""
    mission = await find(session, mission_id)
    if mission is None:
        return None
    [shown] = await views(session, [mission])
    found = await artifacts.of_attempt(session, mission_id, mission.attempt, "aggregation_packet")
    aggregation = AggregationPacket.model_validate_json(found[-1].bytes) if found and found[-1].bytes else None
    reviewed = await artifacts.latest(session, mission_id, "review_packet", "root")
    review = ReviewPacket.model_validate_json(reviewed.bytes) if reviewed and reviewed.bytes else None
    facts = await ledger.facts(session, START, MAX_FACTS, mission_id)
    written = await writebacks.of_mission(session, mission_id)
    asked = await approvals.of_mission(session, mission_id)
    questions = await of_each(session, [one.id for one in asked])
    stated = claims(review, aggregation)
    return {
        "mission": shown,
        "retention": await retention.of_mission(session, mission_id),
        "answer_status": mission.answer_status or (aggregation.answer_status if aggregation else "not_found"),
        "answer": aggregation.answer if aggregation else " ".join(claim["text"] for claim in stated),
        "claims": stated,
        "sections": [section.model_dump(mode="json") for section in aggregation.sections] if aggregation else [],
        "leads": [lead.model_dump(mode="json") for lead in aggregation.leads] if aggregation else [],
        "not_found": list(aggregation.not_found) if aggregation else [],
        "review": view_of(review) | {"artifact_id": str(reviewed.id), "sha256": reviewed.sha256.hex()}
        if review and reviewed
        else None,
        "stages": stages(facts),
        "policy_decisions": [
            {**row, "id": str(row["id"]), "inputs_sha256": row["inputs_sha256"].hex(), "at": iso(row["at"])}
            for row in await policy.recorded(session, mission_id)
        ],
        "approvals": [
            {
                **approval_view(one),
                "decisions": await decisions(session, one.id),
                "questions": questions[one.id],
                "handed": handed(one),
            }
            for one in asked
        ],
        "writebacks": [writeback_view(one) for one in written],
        "artifacts": [
            {
                "id": str(one.id),
                "schema_name": one.schema_name,
                "producer": one.producer,
                "attempt": one.attempt,
                "sha256": one.sha256.hex(),
                "created_at": iso(one.created_at),
                "removed_at": iso(one.removed_at) if one.removed_at else None,
            }
            for one in await artifacts.of_mission(session, mission_id)
        ],
        "timeline": [ledger.fact_view(fact) for fact in facts],
    }


def view_of(review: ReviewPacket) -> dict[str, Any]:
    said = review.model_dump(mode="json", include=set(REVIEWED))
    unsupported = [claim.claim_id for claim in review.claims if not claim.supported]
    return {**{name: said[name] for name in REVIEWED}, "unsupported": unsupported}


def claims(review: ReviewPacket | None, aggregation: AggregationPacket | None) -> list[dict[str, Any]]:
    """Each claim with its citations and the root's finding on each; before the review, nothing counts as verified."""
    if review is not None:
        return [
            {
                "id": claim.claim_id,
                "text": claim.text,
                "supported": claim.supported,
                "age": claim.age.model_dump() if claim.age else None,
                "trust": claim.trust,
                "citations": [
                    {**cited(one.citation), "verified": one.verified, "problem": one.problem} for one in claim.citations
                ],
            }
            for claim in review.claims
        ]
    if aggregation is not None:
        return [
            {
                "id": claim.id,
                "text": claim.text,
                "supported": False,
                "age": None,
                "trust": None,
                "citations": [
                    {**cited(one), "verified": False, "problem": "not reviewed yet"} for one in claim.citations
                ],
            }
            for claim in aggregation.claims
        ]
    return []


def cited(citation: Any) -> dict[str, Any]:
    return {
        "document": citation.document,
        "source": citation.source,
        "start": citation.start,
        "end": citation.end,
        "quote": citation.quote,
        "quote_sha256": citation.quote_sha256,
    }


def stages(facts: list[ledger.Fact]) -> list[dict[str, Any]]:
    """The colony's stages with their latency, by attempt."""
    begun: dict[tuple[int, str], datetime] = {}
    found: list[dict[str, Any]] = []
    for fact in facts:
        key = (fact.body.get("attempt", 1), fact.body.get("stage", ""))
        if fact.type == "stage.started":
            begun[key] = fact.at
        elif fact.type == "stage.completed":
            found.append(
                {
                    "attempt": key[0],
                    "stage": key[1],
                    "latency_ms": fact.body["latency_ms"],
                    "started_at": iso(begun[key]) if key in begun else None,
                    "completed_at": iso(fact.at),
                }
            )
    return found
