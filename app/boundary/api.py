"""The internal API: what a colony calls. Its own app on its own port, never mounted on the public one."""

import re
from typing import Annotated
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, Request, Response

from app import missions
from app.boundary import callbacks
from app.boundary.callbacks import refuse_root_artifacts
from app.boundary.door import Signed, genuine, signed, spend, token, unknown
from app.boundary.quarantine import keep_refused
from app.errors import Problem
from app.http.lane import ID, Way
from app.http.replies import JSON, problem_reply
from colony_client import tokens
from colony_client.contract import EventBatch, EventReceipt, RootView
from colony_client.errors import BadBody
from colony_client.signing import Keys
from colony_client.versions import written
from colony_client.wire import read_model

router = APIRouter(tags=["colony"])
Call = Annotated[Signed, Depends(signed, scope="function")]
Unspent = Annotated[Signed, Depends(genuine, scope="function")]


@router.post(
    "/internal/v1/missions/{mission_id}/events",
    operation_id="sendEvents",
    response_model=EventReceipt,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": EventBatch.model_json_schema()}}}
    },
)
async def events(mission_id: UUID, request: Request, call: Unspent) -> Response:
    """Takes a batch of events of one attempt; an empty one is a heartbeat. Idempotent per (attempt, seq)."""
    state = request.app.state
    try:
        said = token(request, mission_id)
        structlog.contextvars.bind_contextvars(mission_id=str(mission_id), tenant_id=str(said.tenant))
        caller = call.caller(said.tenant)
        batch = read_batch(call.body, mission_id, said)
        if batch.attempt != said.attempt:
            raise unknown()  # a token opens this door for its own attempt only
    except Problem as refused:
        await spend(request, call)
        if refused.code == "unauthenticated":
            raise
        async with state.database.write() as session:
            await session.enter(said.tenant)
            await keep_refused(session, caller, mission_id, "callback", refused.detail, call.body)
        return problem_reply(request, refused).response()
    taken = await state.callbacks.take(callbacks.call(call.kid, call.nonce, caller, mission_id, batch))
    receipt = EventReceipt(
        accepted_seq=taken.accepted_seq,
        lease_until=taken.lease_until,
        stop=taken.stop_reason is not None,
        stop_reason=taken.stop_reason,
        next_token=next_token(state.signing_keys, said, "callback"),
        next_gateway_token=next_token(state.signing_keys, said, "gateway"),
    )
    return Response(written(receipt, call.version), media_type=JSON)


async def without_framework(request: Request, mission: str) -> Response:
    """The same route."""
    return await events(UUID(mission), request, await genuine(request))


WAY = Way(
    re.compile(rf"/internal/v1/missions/{ID}/events"), "/internal/v1/missions/{mission_id}/events", without_framework
)


def next_token(keys: Keys, said: tokens.MissionToken, audience: tokens.TokenAudience) -> str:
    return tokens.issue(
        keys, mission=said.mission, tenant=said.tenant, attempt=said.attempt, fence=said.fence, audience=audience
    )


def read_batch(body: bytes, mission_id: UUID, said: tokens.MissionToken) -> EventBatch:
    """The batch, or the Problem that names what is wrong with it."""
    try:
        batch = read_model(EventBatch, body)
    except BadBody as refused:
        raise Problem(
            "validation",
            str(refused)[:500],
            errors=[{"pointer": one.pointer, "detail": one.detail} for one in refused.problems],
        ) from None
    refuse_root_artifacts(batch.events)
    strangers = batch.strangers(mission_id, said.tenant)
    if strangers:
        raise Problem(
            "validation",
            f"Event {strangers[0]} carries an artifact of another mission or tenant.",
            errors=[
                {"pointer": "/events", "detail": f"event {seq} names another mission or tenant"}
                for seq in strangers[:20]
            ],
        )
    return batch


@router.get("/internal/v1/missions/{mission_id}", operation_id="getRootView", response_model=RootView)
async def root_view(mission_id: UUID, request: Request, call: Call) -> Response:
    """What the root believes of a mission, for a colony that restarted."""
    async with request.app.state.database.read() as session:
        tenant = await session.scalar("SELECT tenant_of_mission(:mission)", {"mission": mission_id})
        if tenant is None:
            raise Problem("not_found", "There is no such mission.")
        await session.enter(tenant)
        found = await missions.find(session, mission_id)
    assert found is not None
    view = RootView(
        mission_id=mission_id,
        state=found.state,
        attempt=found.attempt,
        last_seq=found.last_seq,
        stop=found.state not in ("accepted", "dispatched", "running") or found.over_budget,
    )
    return Response(written(view, call.version), media_type=JSON)
