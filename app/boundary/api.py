"""The internal API: what a colony calls. Its own app on its own port, never mounted on the public one."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, Request, Response

from app import missions
from app.batch import busy
from app.boundary import callbacks
from app.boundary.door import Signed, genuine, proven, signed, spend, token, unknown
from app.boundary.quarantine import quarantine_callback
from app.boundary.reading import Sent, as_it_came, read_batch, read_many, refuse_foreign
from app.db import Database
from app.errors import Problem
from app.http.edge import request_id, trouble
from app.http.lane import ID, Way
from app.http.replies import JSON, problem_reply
from colony_client import tokens
from colony_client.contract import (
    EventAnswer,
    EventAnswers,
    EventBatch,
    EventReceipt,
    Events,
    EventsOfMany,
    RootView,
)
from colony_client.signing import Keys
from colony_client.versions import written
from colony_client.wire import members_of

log = structlog.get_logger("colony")
router = APIRouter(tags=["colony"])
KEEPING_S = 2.0  # what others are told waits for what is kept; what comes later may come again
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
    state, whose = request.app.state, None
    try:
        whose = token(request, mission_id)
        structlog.contextvars.bind_contextvars(mission_id=str(mission_id), tenant_id=str(whose.tenant))
        said = heard(call, whose, read_batch(call.body))
    except Problem as refused:
        await spend(request, call)
        if whose is None or refused.code == "unauthenticated":
            raise
        await quarantine_callback(state.database, call.caller(whose.tenant), mission_id, refused, call.body)
        return problem_reply(request, refused).response()
    [outcome] = (await state.callbacks.take(callbacks.Call(call.kid, call.nonce, [said]))).outcomes
    if isinstance(outcome, Exception):
        raise outcome
    return Response(written(receipt(state.signing_keys, whose, outcome), call.version), media_type=JSON)


@dataclass
class Entry:
    """What was sent of one mission among many, and what becomes of it. whose: what its token says, when it is good."""

    sent: Sent
    whose: tokens.MissionToken | None = None
    said: callbacks.Said | None = None
    outcome: callbacks.Outcome | None = None


@router.post(
    "/internal/v1/events",
    operation_id="sendEventsOfMany",
    response_model=EventAnswers,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": EventsOfMany.model_json_schema()}}}
    },
)
async def events_of_many(request: Request, call: Unspent) -> Response:
    """Takes events of many missions, each with its own token; each is answered for itself, as it would have been alone."""
    try:
        entries = [Entry(sent) for sent in read_many(call.body)]
    except Problem:
        await spend(request, call)
        raise
    structlog.contextvars.bind_contextvars(missions=len(entries))
    for place, one in enumerate(entries):
        try:
            one.whose = proven(request, one.sent.mission, one.sent.token)
            one.said = heard(call, one.whose, one.sent.batch, f"/missions/{place}")
        except Problem as refused:
            one.outcome = refused
    understood = [(one, one.said) for one in entries if one.said is not None]
    if understood:
        taken = await request.app.state.callbacks.take(
            callbacks.Call(call.kid, call.nonce, [said for _, said in understood]),
            others=len(understood) < len(entries),
        )
        for (one, _), outcome in zip(understood, taken.outcomes, strict=True):
            one.outcome = outcome
    # before anything is kept: whoever sends the call again is to meet it
    if not understood or (len(understood) < len(entries) and not taken.used):
        await spend(request, call)
    await keep_misunderstood(request.app.state.database, call, entries)
    answers = EventAnswers(missions=[answer(request, one) for one in entries])
    return Response(written(answers, call.version), media_type=JSON)


async def keep_misunderstood(database: Database, call: Signed, entries: Sequence[Entry]) -> None:
    """Puts into quarantine what was sent in the name of a mission and cannot be taken. What cannot be kept is told so."""
    sent, until = None, time.monotonic() + KEEPING_S
    for place, one in enumerate(entries):
        refused = one.outcome
        if one.said is None and one.whose is not None and isinstance(refused, Problem) and refused.code == "validation":
            sent = sent or members_of(call.body, "missions")
            try:
                if time.monotonic() > until:
                    raise busy()
                caller = call.caller(one.whose.tenant)
                data = as_it_came(sent[place], one.sent.token)
                await quarantine_callback(database, caller, one.sent.mission, refused, data)
            except Exception as error:
                one.outcome = error


def heard(call: Signed, whose: tokens.MissionToken, batch: Events | Problem, within: str = "") -> callbacks.Said:
    """What the token's own attempt says. Raises Problem; within: where in the body the batch stands."""
    if isinstance(batch, Problem):
        raise batch
    refuse_foreign(batch, whose, within)
    if batch.attempt != whose.attempt:
        raise unknown()  # a token opens this door for its own attempt only
    return callbacks.said(call.caller(whose.tenant), whose.mission, batch)


def answer(request: Request, one: Entry) -> EventAnswer:
    """What one mission among many is told."""
    if isinstance(one.outcome, callbacks.Taken):
        assert one.whose is not None
        return EventAnswer(
            mission_id=one.sent.mission, receipt=receipt(request.app.state.signing_keys, one.whose, one.outcome)
        )
    assert one.outcome is not None
    refused = one.outcome if isinstance(one.outcome, Problem) else trouble(request, one.outcome)
    tenant = str(one.whose.tenant) if one.whose else None
    log.warning("events refused", mission_id=str(one.sent.mission), tenant_id=tenant, code=refused.code)
    wait = refused.headers.get("Retry-After")
    return EventAnswer(
        mission_id=one.sent.mission,
        problem=refused.document(request.url.path, request_id(request)),
        retry_after_s=float(wait) if wait is not None else None,
    )


async def without_framework(request: Request, mission: str) -> Response:
    """The same route."""
    return await events(UUID(mission), request, await genuine(request))


async def many_without_framework(request: Request) -> Response:
    """The same route."""
    return await events_of_many(request, await genuine(request))


WAYS = (
    Way(
        re.compile(rf"/internal/v1/missions/{ID}/events"),
        "/internal/v1/missions/{mission_id}/events",
        without_framework,
    ),
    Way(re.compile("/internal/v1/events"), "/internal/v1/events", many_without_framework),
)


def receipt(keys: Keys, whose: tokens.MissionToken, taken: callbacks.Taken) -> EventReceipt:
    return EventReceipt(
        accepted_seq=taken.accepted_seq,
        lease_until=taken.lease_until,
        stop=taken.stop_reason is not None,
        stop_reason=taken.stop_reason,
        next_token=next_token(keys, whose, "callback"),
        next_gateway_token=next_token(keys, whose, "gateway"),
    )


def next_token(keys: Keys, said: tokens.MissionToken, audience: tokens.TokenAudience) -> str:
    return tokens.issue(
        keys, mission=said.mission, tenant=said.tenant, attempt=said.attempt, fence=said.fence, audience=audience
    )


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
