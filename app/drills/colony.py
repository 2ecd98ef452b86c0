"""The colony of drills: it speaks the contract to the root's own internal API, and misbehaves as its drill says.

It stands where a transport stands: the dispatch that reaches it was signed and sent by the same client as any other. What a drill
makes fail fails here alone; the colony of everybody else is not asked, and its breaker does not know.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import structlog

from app.clock import now
from app.drills.catalog import CONNECTOR
from app.writebacks.connectors.drill import DOWN, KIND
from colony_client import signing
from colony_client.artifacts import AggregationPacket, Citation, Producer, WritebackProposal, quote_sha256
from colony_client.client import RootClient
from colony_client.contract import (
    CONTRACT_VERSION,
    VERSION_HEADER,
    ArtifactProduced,
    Dispatch,
    DispatchAnswer,
    DispatchAnswers,
    DispatchBatch,
    Event,
    Health,
    ProviderFailed,
    Ready,
    Signal,
    WritebackProposed,
)
from colony_client.errors import BoundaryError, Refused, SignatureRefused
from colony_client.signing import Keys
from colony_client.versions import written

log = structlog.get_logger("drills")
DOWN_FOR = timedelta(seconds=2)  # of a mission's first moments, in the drill colony_down
LONGEST_S = 30.0
WRONG = b'{"attempt": 1, "events": [{"type": "no such event", "seq": 1}]}'


class DrillColony(httpx.AsyncBaseTransport):
    """Answers a ColonyClient's requests, and works on what it is given. door: instead of the network, in a test."""

    def __init__(self, keys: Keys, callback_base_url: str, door: httpx.AsyncBaseTransport | None = None) -> None:
        self.keys, self.root_url, self.door = keys, callback_base_url, door
        self.work: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        try:
            signing.check(self.keys, request.method, request.url.raw_path.decode(), body, "colony", request.headers)
        except SignatureRefused:
            return answer(401, b'{"code": "unauthenticated"}')
        match request.method, request.url.path:
            case "GET", "/health":
                return said(Health(service="drill colony", contract_version=CONTRACT_VERSION))
            case "GET", "/ready":
                return said(Ready(ready=True, contract_version=CONTRACT_VERSION))
            case "POST", "/v1/missions":
                return self.take(DispatchBatch.model_validate_json(body))
        return answer(404, b'{"code": "not_found"}')

    def take(self, batch: DispatchBatch) -> httpx.Response:
        for one in batch.missions:
            task = asyncio.create_task(self.play(one), name=f"drill {one.mission_id}")
            self.work.add(task)
            task.add_done_callback(self.work.discard)
        answers = [
            DispatchAnswer(mission_id=one.mission_id, attempt=one.attempt, outcome="accepted") for one in batch.missions
        ]
        return said(DispatchAnswers(missions=answers))

    async def play(self, dispatch: Dispatch) -> None:
        drill = str(dispatch.envelope.inputs["drill"])
        try:
            async with asyncio.timeout(LONGEST_S), RootClient(self.root_url, self.keys, transport=self.door) as root:
                root.hold(dispatch.mission_id, dispatch.attempt, dispatch.mission_token, dispatch.gateway_token)
                await SCRIPTS.get(drill, finish)(Part(self, root, dispatch))
        except (BoundaryError, TimeoutError, httpx.HTTPError) as error:  # the run finds out by what is missing
            log.warning("a drill's colony was stopped", drill=drill, error=type(error).__name__)

    async def aclose(self) -> None:
        for task in self.work:
            task.cancel()
        await asyncio.gather(*self.work, return_exceptions=True)


def said(model: Any) -> httpx.Response:
    return answer(200, written(model, CONTRACT_VERSION))


def answer(status: int, body: bytes) -> httpx.Response:
    """An answer that is still to be read, as one from the network is."""
    headers = {"Content-Type": "application/json", VERSION_HEADER: CONTRACT_VERSION}
    return httpx.Response(status, headers=headers, stream=httpx.ByteStream(body))


class Part:
    """What one attempt says, event by event."""

    def __init__(self, colony: DrillColony, root: RootClient, dispatch: Dispatch) -> None:
        self.colony, self.root, self.dispatch, self.seq = colony, root, dispatch, 0

    async def say(self, *makers: Callable[[int], Event]) -> None:
        events = [make(self.seq + n) for n, make in enumerate(makers, 1)]
        await self.root.send_events(self.dispatch.mission_id, self.dispatch.attempt, events)
        self.seq += len(events)

    async def call(self, tool: str, **arguments: Any) -> Any:
        return await self.root.call_tool(self.dispatch.mission_id, self.dispatch.attempt, tool, arguments)

    def common(self) -> dict[str, Any]:
        envelope = self.dispatch.envelope
        return {
            "mission_id": envelope.mission_id,
            "tenant_id": envelope.tenant_id,
            "actor_id": envelope.actor_id,
            "created_at": now(),
            "producer": Producer(name="drill colony", version="1"),
        }


async def finish(part: Part, *proposals: WritebackProposal) -> None:
    """The shortest honest end: nothing was to be found, and perhaps something is proposed."""
    packet = AggregationPacket(
        **part.common(), answer_status="not_found", answer="", claims=[], proposals=len(proposals)
    )
    await part.say(
        *(lambda seq, one=one: WritebackProposed(seq=seq, at=now(), proposal=one) for one in proposals),
        lambda seq: ArtifactProduced(seq=seq, at=now(), artifact=packet),
        lambda seq: Signal(seq=seq, at=now(), signal="complete"),
    )


async def blocked_tool(part: Part) -> None:
    with contextlib.suppress(Refused):  # as it should be: the record says so
        await part.call("crm.list", connector=CONNECTOR, kind=KIND)
    await finish(part)


def proposing(operation: str) -> Callable[[Part], Awaitable[None]]:
    async def propose(part: Part) -> None:
        record = await part.call("crm.read", connector=CONNECTOR, kind=KIND, id=str(part.dispatch.mission_id))
        data = record["text"].encode()
        cited = Citation(
            source=record["source"],
            document=record["document"],
            start=0,
            end=len(data),
            quote=record["text"],
            quote_sha256=quote_sha256(data),
        )
        await finish(
            part,
            WritebackProposal(
                **part.common(),
                proposal_id=uuid4(),
                connector=CONNECTOR,
                target=f"{KIND}/{record['record_id']}",
                operation=operation,
                changes={"state": "drilled"},
                expected_version=record["version"],
                summary="A drill's change of a drill's record.",
                rationale="To see what becomes of it.",
                evidence=[cited],
                risk_level="low",
            ),
        )

    return propose


async def provider_down(part: Part) -> None:
    code = "none"
    try:
        await part.call("crm.read", connector=CONNECTOR, kind=KIND, id=DOWN)
    except Refused as refused:
        code = str((refused.problem or {}).get("cause", "refused"))
    detail = f"{CONNECTOR} does not answer ({code})"
    await part.say(
        lambda seq: ProviderFailed(seq=seq, at=now(), provider=CONNECTOR, code=code, detail=detail, retryable=True),
        lambda seq: Signal(seq=seq, at=now(), signal="blocked", reason=detail),
    )


async def malformed_payload(part: Part) -> None:
    """Once in no form of the contract, and then as one should."""
    path = f"/internal/v1/missions/{part.dispatch.mission_id}/events"
    async with httpx.AsyncClient(transport=part.colony.door, trust_env=False, timeout=10) as http:
        request = http.build_request("POST", part.colony.root_url.rstrip("/") + path, content=WRONG)
        sent = request.url.raw_path.decode("ascii")
        request.headers.update(signing.sign(part.colony.keys, "POST", sent, WRONG, "root"))
        request.headers["Authorization"] = f"Bearer {part.dispatch.mission_token}"
        request.headers["Content-Type"] = "application/json"
        answer = await http.send(request)
    if answer.status_code != 422:
        log.warning("a malformed payload was not refused", status=answer.status_code)
    await finish(part)


async def read_and_finish(part: Part) -> None:
    await part.call("crm.read", connector=CONNECTOR, kind=KIND, id="tape")
    await finish(part)


SCRIPTS: dict[str, Callable[[Part], Awaitable[None]]] = {
    "blocked_tool": blocked_tool,
    "blocked_writeback": proposing("delete"),
    "approved_writeback": proposing("update"),
    "expired_approval": proposing("create"),
    "provider_down": provider_down,
    "malformed_payload": malformed_payload,
    "replay": read_and_finish,
}
