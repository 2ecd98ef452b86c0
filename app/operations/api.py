"""Cancel and fail, and the status of the service."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app import delivery, ledger
from app.caller import Caller
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import Door, Reply, Routes, etag, once, reading, require_version, writing
from app.http.replies import problem_reply
from app.missions import MissionView, find
from app.missions.queries import views
from app.operations.actions import cancel, fail
from app.operations.health import components
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
    return await end(mission_id, ask, request, door, cancel, "missions.cancel")


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
    return await end(mission_id, ask, request, door, fail, "missions.fail")


async def end(
    mission_id: UUID, ask: Reason, request: Request, door: Door[WriteSession], verb: Any, route: str
) -> Response:
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
        if denied := await verb(door.session, door.caller, mission_id, ask.reason, environment):
            return problem_reply(request, refusal(denied))
        ended = await find(door.session, mission_id)
        assert ended is not None
        return Reply((await views(door.session, [ended]))[0], headers={"ETag": etag(ended.version)})

    return await once(door, route, run)


def own_only(caller: Caller) -> bool:
    return "operator" not in caller.roles


class StatusView(BaseModel):
    """Every dependency's state with what its absence means, and missions that nothing would move any more."""

    environment: str
    status: str
    components: list[dict[str, Any]]
    violators: list[dict[str, Any]]


@router.get("/v1/status", operation_id="getStatus", response_model=StatusView, summary="How the service is")
async def get_status(request: Request, door: Annotated[Door[ReadSession], reading("status.read")]) -> Response:
    """Components as this process sees them, and violators of the liveness invariant in the caller's tenant."""
    stuck = await violators(door.session)
    await ledger.look(door.session, request.app.state.settings, request.app.state.components["anchors"])
    await delivery.bus.look(door.session, request.app.state.components["bus"])
    await door.session.connection.close()  # nothing outside Postgres is asked while a transaction is open
    found = await components(request.app.state)
    worst = "degraded" if stuck or any(one["state"] in ("down", "degraded") for one in found) else "ok"
    return Reply(
        {
            "environment": request.app.state.settings.environment,
            "status": worst,
            "components": found,
            "violators": stuck,
        }
    ).response()
