"""What operators do to missions, and the status of the service."""

from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.caller import Caller
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import Door, Reply, Routes, etag, once, reading, require_version, writing
from app.http.replies import problem_reply
from app.missions import MissionView, find
from app.missions.queries import views
from app.operations.actions import cancel, extend, fail, redispatch
from app.operations.health import inside, look
from app.operations.liveness import violators
from app.policy import refusal

router = Routes(tags=["operations"])


class Reason(BaseModel):
    """Why, in a person's words. Kept with the mission, not in the ledger."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"reason": "asked twice"}]})
    reason: str = Field(min_length=1, max_length=2000)


@router.post(
    "/v1/missions/{mission_id}/cancel",
    operation_id="cancelMission",
    response_model=MissionView,
    summary="Cancel a mission",
    tags=["missions"],
)
async def cancel_mission(
    mission_id: UUID, ask: Reason, request: Request, door: Annotated[Door[WriteSession], writing("missions.cancel")]
) -> Response:
    """Ends a mission that is not closed. What was claimed runs to its truth; nothing else leaves. If-Match required."""
    return await operate(mission_id, request, door, partial(cancel, reason=ask.reason), "missions.cancel")


@router.post(
    "/v1/missions/{mission_id}/fail",
    operation_id="failMission",
    response_model=MissionView,
    summary="Mark a mission failed",
    tags=["missions"],
)
async def fail_mission(
    mission_id: UUID, ask: Reason, request: Request, door: Annotated[Door[WriteSession], writing("missions.fail")]
) -> Response:
    """Ends a mission that an operator judges to be lost. Artifacts are kept. If-Match required."""
    return await operate(mission_id, request, door, partial(fail, reason=ask.reason), "missions.fail")


class Extension(Reason):
    """How much more time, and why."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"time_ms": 600_000, "reason": "the provider was slow"}]},
    )
    time_ms: int = Field(ge=1000, le=86_400_000)


@router.post(
    "/v1/missions/{mission_id}/redispatch",
    operation_id="redispatchMission",
    response_model=MissionView,
    summary="Offer a mission to the colony anew",
    tags=["missions"],
)
async def redispatch_mission(
    mission_id: UUID, ask: Reason, request: Request, door: Annotated[Door[WriteSession], writing("missions.redispatch")]
) -> Response:
    """Takes a mission from the attempt that has it, and offers it anew as the next one; a waiting one is offered now.

    If-Match required.
    """
    return await operate(mission_id, request, door, partial(redispatch, reason=ask.reason), "missions.redispatch")


@router.post(
    "/v1/missions/{mission_id}/extend",
    operation_id="extendMission",
    response_model=MissionView,
    summary="Give a mission more time",
    tags=["missions"],
)
async def extend_mission(
    mission_id: UUID, ask: Extension, request: Request, door: Annotated[Door[WriteSession], writing("missions.extend")]
) -> Response:
    """Moves the deadline of a mission that has been dispatched: the one that the root keeps, and that the next dispatch names.

    The attempt under way was told its time when it was dispatched, and does not hear of more: redispatch the mission for a colony
    to use the new time. If-Match required.
    """
    verb = partial(extend, reason=ask.reason, time_ms=ask.time_ms)
    return await operate(mission_id, request, door, verb, "missions.extend")


async def operate(mission_id: UUID, request: Request, door: Door[WriteSession], verb: Any, route: str) -> Response:
    """One verb on an open mission, at the version that was seen."""

    async def run() -> Reply:
        found = await find(door.session, mission_id, lock=True)
        if found is None:
            raise Problem("not_found", "There is no such mission.")
        if found.closed and "if-match" in request.headers:
            raise Problem(
                "wrong_state",
                f"The mission is already {found.state}.",
                current={"id": str(found.id), "state": found.state},
            )
        require_version(request, found.version, (await views(door.session, [found]))[0])
        if own_only(door.caller) and found.requested_by != door.caller.principal:
            raise Problem("forbidden", "A submitter ends only missions of their own.", action=route)
        environment = request.app.state.settings.environment
        if denied := await verb(door.session, door.caller, found, environment=environment):
            return problem_reply(request, refusal(denied))
        after = await find(door.session, mission_id)
        assert after is not None
        return Reply((await views(door.session, [after]))[0], headers={"ETag": etag(after.version)})

    return await once(door, route, run)


def own_only(caller: Caller) -> bool:
    return "operator" not in caller.roles


class StatusView(BaseModel):
    """Every dependency's state with what its absence means and what waits for it; missions that nothing would have moved, and
    when somebody last looked for such."""

    environment: str
    status: str
    components: list[dict[str, Any]]
    violators: list[dict[str, Any]]
    liveness: dict[str, Any] | None


@router.get("/v1/status", operation_id="getStatus", response_model=StatusView, summary="How the service is")
async def get_status(request: Request, door: Annotated[Door[ReadSession], reading("status.read")]) -> Response:
    """Components as this process sees them, and violators of the liveness invariant in the caller's tenant.

    A violator was found by the worker, which looks every few seconds; `repair` says what it did, null that a person has to act,
    and `refused` why a repair that was tried could not be made.
    `liveness` is null until a tenant's missions were looked at for the first time.
    """
    state = request.app.state
    stuck = await violators(door.session)
    own = await inside(door.session, state)
    await door.session.connection.close()  # nothing outside Postgres is asked while a transaction is open
    await look(state)
    shared = [one.view(own.for_colony if name == "colony" else None) for name, one in state.components.items()]
    found = [*shared, *(one.component.view() for one in state.models.health.values()), *own.views]
    ill = any(one["over_at"] is None for one in stuck) or any(one["state"] in ("down", "degraded") for one in found)
    body = {
        "environment": state.settings.environment,
        "status": "degraded" if ill else "ok",
        "components": found,
        "violators": stuck,
        "liveness": own.liveness,
    }
    return Reply(body).response()
