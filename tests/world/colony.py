"""A colony under a test's control, spoken to over the real contract."""

import json
from typing import Any
from uuid import UUID, uuid4

import httpx
from fastapi import FastAPI, Request, Response

from app.clock import now
from colony_client.artifacts import (
    AggregationPacket,
    Citation,
    Claim,
    MissionEnvelope,
    Producer,
    WritebackProposal,
    canonical,
    quote_sha256,
)
from colony_client.client import RootClient
from colony_client.contract import (
    CONTRACT_VERSION,
    ArtifactProduced,
    Dispatch,
    DispatchBatch,
    Event,
    Signal,
    WritebackProposed,
)
from colony_client.signing import Keys


class ScriptedColony:
    """Accepts dispatches (or answers as told) and sends the events a test wants."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.app = FastAPI()
        self.dispatched: list[Dispatch] = []
        self.cancelled: list[UUID] = []
        self.answer: Any = "accepted"  # or refused, busy, or a callable(Request, bytes) -> Response
        self.statuses: dict[UUID, dict[str, Any]] = {}
        self.app.add_api_route("/v1/missions", self._dispatch, methods=["POST"])
        self.app.add_api_route("/v1/missions/{mission_id}", self._status, methods=["GET"])
        self.app.add_api_route("/v1/missions/{mission_id}/cancel", self._cancel, methods=["POST"])
        self.app.add_api_route("/ready", self._ready, methods=["GET"])
        self.app.add_api_route("/health", self._health, methods=["GET"])
        self.root: RootClient | None = None

    def connect(self, internal_app: Any) -> None:
        """Gives the colony its way back to the root's internal app."""
        self.root = RootClient("http://root", self.keys, transport=httpx.ASGITransport(internal_app))

    async def _dispatch(self, request: Request) -> Response:
        body = await request.body()
        if callable(self.answer):
            return self.answer(request, body)
        batch = DispatchBatch.model_validate_json(body)
        self.dispatched.extend(batch.missions)
        for one in batch.missions:
            assert self.root is not None
            self.root.hold(one.mission_id, one.attempt, one.mission_token, one.gateway_token)
        answers = [
            {
                "mission_id": str(one.mission_id),
                "attempt": one.attempt,
                "outcome": self.answer,
                "reason": "as the test says" if self.answer == "refused" else None,
                "retry_after_s": 0.2 if self.answer == "busy" else None,
            }
            for one in batch.missions
        ]
        return _json({"contract_version": "1.0", "missions": answers})

    async def _status(self, mission_id: UUID) -> Response:
        known = self.statuses.get(mission_id)
        return _json(known) if known else _json({"code": "not_found"}, 404)

    async def _cancel(self, mission_id: UUID) -> Response:
        self.cancelled.append(mission_id)
        return _json({"mission_id": str(mission_id), "attempt": 1, "state": "cancelled"})

    async def _ready(self) -> Response:
        return _json({"ready": True, "providers": {}, "contract_version": "1.0"})

    async def _health(self) -> Response:
        return _json({"service": "scripted", "contract_version": CONTRACT_VERSION})

    def last(self) -> Dispatch:
        return self.dispatched[-1]

    async def send(self, dispatch: Dispatch, *events: Event) -> Any:
        """Sends events of an attempt; answers the receipt or raises the client's error."""
        assert self.root is not None
        return await self.root.send_events(dispatch.mission_id, dispatch.attempt, list(events))

    async def tool(self, dispatch: Dispatch, tool: str, **arguments: Any) -> Any:
        assert self.root is not None
        return await self.root.call_tool(dispatch.mission_id, dispatch.attempt, tool, arguments)

    async def complete(
        self, dispatch: Dispatch, *, claims: list[Claim] | None = None, proposals: list[WritebackProposal] | None = None
    ) -> Any:
        """The shortest honest life of an attempt: an aggregation packet, proposals, and the signal complete."""
        events: list[Event] = []
        for proposal in proposals or []:
            events.append(WritebackProposed(seq=len(events) + 1, at=now(), proposal=proposal))
        packet = aggregation(dispatch.envelope, claims or [], proposals=len(proposals or []))
        events.append(ArtifactProduced(seq=len(events) + 1, at=now(), artifact=packet))
        events.append(Signal(seq=len(events) + 1, at=now(), signal="complete"))
        return await self.send(dispatch, *events)


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value), status, media_type="application/json")


def base(envelope: MissionEnvelope) -> dict[str, Any]:
    """The fields every artifact of a mission carries."""
    return {
        "mission_id": envelope.mission_id,
        "tenant_id": envelope.tenant_id,
        "actor_id": envelope.actor_id,
        "created_at": now(),
        "producer": Producer(name="scripted", version="1"),
    }


def aggregation(envelope: MissionEnvelope, claims: list[Claim], proposals: int = 0) -> AggregationPacket:
    answered = bool(claims)
    return AggregationPacket(
        **base(envelope),
        answer_status="answered" if answered else "not_found",
        answer=" ".join(claim.text for claim in claims),
        claims=claims,
        proposals=proposals,
    )


def citation(source: str, document: str, data: bytes, start: int, end: int) -> Citation:
    """An honest citation of bytes of a source."""
    quote = data[start:end]
    return Citation(
        source=source, document=document, start=start, end=end, quote=quote.decode(), quote_sha256=quote_sha256(quote)
    )


def proposal(
    envelope: MissionEnvelope, record: dict[str, Any], changes: dict[str, Any], **more: Any
) -> WritebackProposal:
    """A proposal about a record as the tool crm.read answered it, with honest evidence."""
    data = record["text"].encode()
    fields: dict[str, Any] = {
        "proposal_id": uuid4(),
        "connector": "sample_crm",
        "target": f"{record['kind']}/{record['record_id']}",
        "operation": "update",
        "changes": changes,
        "expected_version": record["version"],
        "summary": "as the test says",
        "rationale": "because the test says so",
        "evidence": [citation(record["source"], record["document"], data, 0, min(len(data), 60))],
        "risk_level": "low",
    }
    return WritebackProposal(**(base(envelope) | fields | more))


__all__ = ["ScriptedColony", "aggregation", "base", "canonical", "citation", "proposal"]
