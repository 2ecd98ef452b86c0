"""Replaying missions, comparing two runs, and recordings from one environment to another."""

import asyncio
import json
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import jinja2
from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app import missions
from app.caller import Caller
from app.db import ReadSession
from app.errors import Problem
from app.http import Call, Cursor, Door, Limit, Page, Reply, Routes, calling, paged, read_body, reading
from app.http.doors import admitting
from app.http.edge import request_id
from app.http.idempotency import fingerprint, idempotency_key
from app.missions import Asked, MissionView, Wish
from app.missions.ask import BudgetAsk, Replay
from app.missions.intake import enabled
from app.packet.api import inert, preferred
from app.packet.page import templates
from app.policy.queries import in_force
from app.replay.diff import diff
from app.replay.recording import record
from app.replay.sources import find_imported, find_recording, find_source, imported, present
from app.replay.transfer import MOST_BYTES, PURPOSE, bring_sources, export, keep, shown_to, trusted
from app.telemetry import traceparent
from app.visible import visible
from colony_client.artifacts import MissionEnvelope

PLAYABLE = (*missions.CLOSED, "awaiting_approval", "executing")  # its colony is through with it
router = Routes(tags=["replay"])
recordings = Routes(tags=["replay"])


class ReplayAsk(BaseModel):
    """How a mission is repeated."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"mode": "recorded"}, {"mode": "rerun"}]})
    mode: Literal["rerun", "recorded"] = Field(
        description="rerun: live, a mission like any other. recorded: tools answer from the tape, no model is asked, nothing is written."
    )
    colony: Literal["tape", "live"] = Field(
        "tape", description="Of a recorded replay: whether its colony is played from the ledger, or works on it again."
    )

    @model_validator(mode="after")
    def fits(self) -> Self:
        if self.mode == "rerun" and self.colony == "live":
            raise ValueError("a rerun always has a live colony: leave colony out")
        return self

    @property
    def kept_as(self) -> str:
        return "recorded_with_colony" if self.colony == "live" else self.mode


class RecordingView(BaseModel):
    """A recording that was imported."""

    id: UUID
    mission: UUID
    attempt: int
    mission_type: str
    environment: str
    signed_by: str
    sensitivity_class: str
    sha256: str
    size: int
    imported_by: UUID
    imported_at: str
    removed_at: str | None


class PartView(BaseModel):
    """One part of two runs. left_out: how many differences are not shown."""

    same_in_all: bool
    same: int
    changed: list[dict[str, Any]]
    only_before: list[dict[str, Any]]
    only_after: list[dict[str, Any]]
    left_out: int


class DiffView(BaseModel):
    """What is different about two runs, apart from ids and times."""

    before: dict[str, Any]
    after: dict[str, Any]
    same: bool
    decisions: PartView
    calls: PartView
    artifacts: PartView
    claims: PartView
    changes: PartView
    answer: PartView
    outcome: PartView
    cost: dict[str, Any]
    timing: dict[str, Any]
    divergence: dict[str, Any] | None
    todays_policy: list[dict[str, Any]]


@router.post(
    "/v1/missions/{mission_id}/replay",
    operation_id="replayMission",
    status_code=202,
    response_model=MissionView,
    summary="Repeat a mission",
)
async def replay_mission(
    mission_id: UUID, asked: ReplayAsk, request: Request, call: Annotated[Call, calling("missions.replay")]
) -> Response:
    """Makes a mission with the same request, judged by the rules in force now. Its `replay_of` names the one it repeats."""
    return await repeated(mission_id, asked, request, call)


@recordings.post(
    "/v1/recordings/{recording_id}/replay",
    operation_id="replayRecording",
    status_code=202,
    response_model=MissionView,
    summary="Repeat a mission of another environment",
)
async def replay_recording(
    recording_id: UUID, asked: ReplayAsk, request: Request, call: Annotated[Call, calling("missions.replay")]
) -> Response:
    """The same for an imported recording."""
    return await repeated(recording_id, asked, request, call)


async def repeated(of: UUID, asked: ReplayAsk, request: Request, call: Call) -> Response:
    state = request.app.state
    enabled(state.settings)
    caller = await state.intake.authenticate(call.caller.secret)
    async with state.database.read() as session:
        await session.enter(caller.tenant)
        found = await find_source(session, of)
    if found is None:
        raise Problem("not_found", "There is no such mission, and no such recording.")
    if asked.mode == "recorded" and found.state not in PLAYABLE:
        raise Problem(
            "wrong_state",
            f"The mission is {found.state}: its colony is not through with it yet, so there is nothing to play.",
            current={"id": str(of), "state": found.state},
        )
    if asked.kept_as != "recorded":  # one without a colony is brought them by whoever plays it
        await bring_sources(state.database, state.objects, caller.tenant, found.brought)
    key = idempotency_key(request)
    path = request.url.path
    given = await state.intake.take(
        Asked(
            caller,
            ask_again(found.envelope),
            key,
            fingerprint("POST", path, request.url.query, asked.model_dump_json().encode()) if key else b"",
            traceparent(),
            request_id(request),
            Replay(of, asked.kept_as),
            path,
        )
    )
    return Response(given.body, given.status, given.headers)


def ask_again(said: MissionEnvelope) -> Wish:
    """The request that an envelope was made of, with everything spelled out.

    Raises Problem validation when nobody could ask for that here: elsewhere, or once, something else may have been possible.
    """
    try:
        return Wish(
            mission_type=said.mission_type,
            user_goal=said.user_goal,
            inputs=dict(said.inputs),
            mode=said.mode,
            origin_surface=said.origin_surface,
            risk_level=said.risk_level,
            sensitivity_class=said.sensitivity_class,
            budget=BudgetAsk(time_ms=said.budget.time_ms, tokens=said.budget.tokens, cost_usd=said.budget.cost_usd),
            tools=list(said.tools),
            labels=dict(said.labels),
        )
    except ValidationError as refused:
        found = [f"{'.'.join(str(step) for step in one['loc'])}: {one['msg']}" for one in refused.errors()[:3]]
        raise Problem(
            "validation", f"What was asked for then cannot be asked for here ({'; '.join(found)}): make a new request."
        ) from None


@router.get(
    "/v1/missions/{mission_id}/diff",
    operation_id="diffMission",
    response_model=DiffView,
    summary="What is different about two runs",
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
)
async def get_diff(
    mission_id: UUID,
    request: Request,
    door: Annotated[Door[ReadSession], reading("missions.read")],
    against: Annotated[
        UUID | None, Query(description="Another mission or recording; what it repeats when left out.")
    ] = None,
) -> Response:
    """Decisions, calls, artifacts, claims, changes, answer, cost and timing of a mission beside those of what it repeats, and what
    today's policy would decide of the earlier one. JSON, or a page when the client accepts text/html first."""
    environment = request.app.state.settings.environment
    mission = await missions.find(door.session, mission_id)
    if mission is None:
        raise Problem("not_found", "There is no such mission.")
    other = against or mission.replay_of
    if other is None:
        detail = "the mission repeats nothing: name what it is compared with"
        raise Problem("validation", f"against: {detail}.", errors=[{"parameter": "against", "detail": detail}])
    before = await find_recording(door.session, other, environment)
    if before is None:
        raise Problem("not_found", "There is nothing to compare it with: no such mission, and no such recording.")
    present(mission.bytes_removed_at)
    found = diff(before, await record(door.session, mission, environment), await in_force(door.session))
    if preferred(request.headers.get("accept", "")) == "html":
        return inert(template().render(diff=found))
    return Reply(found).response()


@lru_cache(maxsize=1)
def template() -> jinja2.Template:
    environment = templates()
    environment.filters["visible"] = lambda value: visible(value if isinstance(value, str) else spelled(value))
    return environment.from_string((Path(__file__).parent / "diff.html").read_text())


def spelled(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True)


@router.get(
    "/v1/missions/{mission_id}/recording",
    operation_id="exportRecording",
    summary="A mission as one signed file",
    responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}},
)
async def get_recording(
    mission_id: UUID, request: Request, door: Annotated[Door[ReadSession], reading("missions.export")]
) -> Response:
    """Everything that a replay elsewhere needs, signed with TRANSFER_SIGNING_KEY: what the mission was shown, too."""
    signer = request.app.state.transfer_signer
    if signer is None:
        raise Problem(
            "not_configured", "TRANSFER_SIGNING_KEY is not set: recordings cannot be signed here.", retry_after=300
        )
    mission = await missions.find(door.session, mission_id)
    if mission is None:
        raise Problem("not_found", "There is no such mission.")
    present(mission.bytes_removed_at)
    found = await record(door.session, mission, request.app.state.settings.environment)
    shown = await shown_to(door.session, mission_id)
    await door.session.connection.close()
    data = await export(found, shown, request.app.state.objects, signer)
    name = f'attachment; filename="recording-{mission_id}.json"'
    return Response(data, 200, {"Content-Disposition": name}, "application/json")


@recordings.post(
    "/v1/recordings",
    operation_id="importRecording",
    status_code=201,
    response_model=RecordingView,
    summary="Import a mission of another environment",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"type": "object"},
                    "example": {"signature": "base64", "statement": {"by": "production", "purpose": PURPOSE}},
                }
            },
        }
    },
)
async def import_recording(request: Request, caller: Annotated[Caller, admitting("recordings.import")]) -> Response:
    """Takes a file of getRecording, when a key of TRANSFER_TRUSTED_KEYS has signed it. The same file is kept once."""
    state = request.app.state
    data = await read_body(request, MOST_BYTES)
    found = await asyncio.to_thread(trusted, data, state.transfer_keys)  # it may take a second, and others are waiting
    async with state.database.write() as session:
        await session.enter(caller.tenant)
        id = await keep(session, caller, data, found)
        kept = await find_imported(session, id)
    assert kept is not None
    return Reply(kept.view(), 201, {"Location": f"/v1/recordings/{id}"}).response()


@recordings.get(
    "/v1/recordings",
    operation_id="listRecordings",
    response_model=Page[RecordingView],
    summary="Imported recordings, newest first",
)
async def list_recordings(
    request: Request,
    door: Annotated[Door[ReadSession], reading("missions.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """A page of what was imported."""
    found = partial(imported, door.session)
    return await paged(
        request, "recordings", limit, cursor, found, view=lambda one: one.view(), by=("imported_at", "id")
    )


@recordings.get(
    "/v1/recordings/{recording_id}", operation_id="getRecording", response_model=RecordingView, summary="One recording"
)
async def one_recording(recording_id: UUID, door: Annotated[Door[ReadSession], reading("missions.read")]) -> Response:
    """Where it came from, and who signed it."""
    found = await find_imported(door.session, recording_id)
    if found is None:
        raise Problem("not_found", "There is no such recording.")
    return Reply(found.view()).response()
