"""Creating and reading missions and their types."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

import jsonschema_rs
from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app import labels, retention
from app.caller import Caller
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import (
    Call,
    Cursor,
    Door,
    Limit,
    Page,
    Reply,
    Routes,
    calling,
    etag,
    paged,
    reading,
    require_version,
    writing,
)
from app.http.edge import request_id
from app.http.idempotency import fingerprint, idempotency_key
from app.missions.ask import Ask
from app.missions.intake import enabled, rehearse
from app.missions.normalize import validator
from app.missions.queries import MissionView, find, newest, views
from app.missions.rows import Asked
from app.missions.tools import Tools, refuse_tools, unknown_tools
from app.missions.types import MissionType, find_type, lock_type, put_type, types
from app.telemetry import traceparent
from colony_client.artifacts import ToolName, Trust, Utc

router = Routes(tags=["missions"])

StateName = Literal[
    "accepted",
    "dispatched",
    "running",
    "in_review",
    "awaiting_approval",
    "executing",
    "completed",
    "failed",
    "cancelled",
    "denied",
]


class MissionDetail(MissionView):
    """A mission with how long what it has said is kept."""

    retention: retention.RetentionView


class Rehearsal(BaseModel):
    """What a request would become: its envelope, and what policy would say. Nothing was kept."""

    valid: bool
    envelope: dict[str, Any]
    policy: dict[str, Any]


@router.post(
    "/v1/missions",
    operation_id="createMission",
    status_code=202,
    response_model=MissionView,
    summary="Request a mission",
    responses={200: {"model": Rehearsal, "description": "With validate_only: every check was made, nothing was kept."}},
)
async def create(
    ask: Ask,
    request_: Request,
    call: Annotated[Call, calling("missions.create")],
    validate_only: Annotated[bool, Query(description="Make every check and change nothing.")] = False,
) -> Response:
    """Accepts a mission: it is normalized, judged by policy, kept and queued before the answer is sent."""
    state = request_.app.state
    enabled(state.settings)
    if validate_only:
        return (await rehearsal(state, call.caller, ask)).response()
    key = idempotency_key(request_)
    asked = Asked(
        call.caller,
        ask,
        key,
        fingerprint("POST", request_.url.path, request_.url.query, await request_.body()) if key else b"",
        traceparent(),
        request_id(request_),
    )
    given = await state.intake.take(asked)
    return Response(given.body, given.status, given.headers)


async def rehearsal(state: Any, caller: Caller, ask: Ask) -> Reply:
    caller = await state.intake.authenticate(caller.secret)
    async with state.database.read() as session:
        await session.enter(caller.tenant)
        envelope, verdict = await rehearse(session, caller, ask, state.intake.defaults, state.intake.tools)
    return Reply(
        {
            "valid": verdict.effect != "deny",
            "envelope": envelope.model_dump(mode="json"),
            "policy": {
                "effect": verdict.effect,
                "rule": verdict.rule,
                "reason": verdict.reason,
                "policy_version": verdict.policy_version,
                "would_change": verdict.would_change,
            },
        }
    )


@router.get(
    "/v1/missions", operation_id="listMissions", response_model=Page[MissionView], summary="Missions, newest first"
)
async def list_missions(
    request_: Request,
    door: Annotated[Door[ReadSession], reading("missions.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
    state: StateName | None = None,
    mission_type: Annotated[str | None, Query(max_length=64)] = None,
    requested_by: UUID | None = None,
    replay_of: Annotated[UUID | None, Query(description="Replays of this mission or recording.")] = None,
    created_after: Utc | None = None,
    created_before: Utc | None = None,
    label: Annotated[
        str | None, Query(max_length=labels.LONGEST, pattern=labels.NAME_AND_VALUE, description="name:value")
    ] = None,
) -> Response:
    """A page of missions; every filter narrows it."""
    filters = {
        "state": state,
        "mission_type": mission_type,
        "requested_by": requested_by,
        "replay_of": replay_of,
        "created_after": created_after,
        "created_before": created_before,
        "label": tuple(label.split(":", 1)) if label else None,
    }
    found = partial(newest, door.session, filters)
    return await paged(request_, "missions", limit, cursor, found, views=partial(views, door.session))


@router.get("/v1/missions/{mission_id}", operation_id="getMission", response_model=MissionDetail, summary="One mission")
async def get_mission(mission_id: UUID, door: Annotated[Door[ReadSession], reading("missions.read")]) -> Response:
    """State, stage, why it waits, budget used, approvals pending. The ETag is what cancel and fail want as If-Match."""
    found = await find(door.session, mission_id)
    if found is None:
        raise Problem("not_found", "There is no such mission.")
    [shown] = await views(door.session, [found])
    kept = await retention.of_mission(door.session, mission_id)
    return Reply(shown | {"retention": kept}, headers={"ETag": etag(found.version)}).response()


class Minimum(BaseModel):
    """What a review must find; a mission that misses any of it fails with reason `review`. Left out: not asked for.

    min_coverage: the share of claims that stored bytes support. max_source_age_days and min_trust: of every source that is
    cited. contradictions: whether sources may contradict each other. min_sources: how many different sources an answer cites.
    """

    model_config = ConfigDict(extra="forbid")
    min_coverage: float = Field(ge=0, le=1)
    max_source_age_days: float | None = Field(default=None, gt=0, le=36_500)
    min_trust: Trust | None = None
    contradictions: Literal["allow", "fail"] | None = None
    min_sources: int | None = Field(default=None, ge=1, le=50)


class TypeDefinition(BaseModel):
    """A mission type without name and version."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "title": "Supplier check",
                    "description": "What the documents of a workspace say of a supplier.",
                    "inputs_schema": {"type": "object", "properties": {"workspace": {"type": "string"}}},
                    "tools": ["workspace.search", "workspace.read"],
                    "defaults": {"risk_level": "low", "sensitivity_class": "internal", "mode": "assisted"},
                    "limits": {"time_ms": 600000, "tokens": 100000, "cost_usd": 1},
                    "review": {"min_coverage": 1.0},
                }
            ]
        },
    )
    title: str = Field(min_length=1, max_length=200)
    description: str = Field(min_length=1, max_length=2000)
    inputs_schema: dict[str, Any]
    tools: list[ToolName] = Field(max_length=50)
    defaults: dict[Literal["risk_level", "sensitivity_class", "mode"], str]
    limits: dict[Literal["time_ms", "tokens", "cost_usd"], float]
    review: Minimum
    needs: list[ToolName] = Field(
        default_factory=list, max_length=50, description="Those of its tools without which a mission is blocked."
    )


class TypeView(TypeDefinition):
    """A mission type; shipped ones come with the product."""

    model_config = ConfigDict(json_schema_extra={})
    name: str
    version: int
    shipped: bool


def type_view(kind: MissionType) -> dict[str, Any]:
    return kind.said()


@router.get(
    "/v1/mission-types",
    operation_id="listMissionTypes",
    response_model=list[TypeView],
    summary="Mission types",
    tags=["mission types"],
)
async def list_types(door: Annotated[Door[ReadSession], reading("mission_types.read")]) -> Response:
    """Every type this tenant can ask for, with the schema of its inputs."""
    return Reply([type_view(kind) for kind in await types(door.session)]).response()


@router.get(
    "/v1/mission-types/{name}",
    operation_id="getMissionType",
    response_model=TypeView,
    summary="One mission type",
    tags=["mission types"],
)
async def get_type(name: str, door: Annotated[Door[ReadSession], reading("mission_types.read")]) -> Response:
    """The type in force. Its ETag is what a change wants as If-Match."""
    kind = await find_type(door.session, name)
    if kind is None:
        raise Problem("not_found", "There is no such mission type.")
    return Reply(type_view(kind), headers={"ETag": etag(kind.version)}).response()


@router.put(
    "/v1/mission-types/{name}",
    operation_id="putMissionType",
    response_model=TypeView,
    summary="Add or change a mission type",
    tags=["mission types"],
)
async def change_type(
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{2,63}$")],
    definition: TypeDefinition,
    request_: Request,
    door: Annotated[Door[WriteSession], writing("mission_types.write")],
) -> Response:
    """Keeps a new version. Changing an existing type needs If-Match; missions under way keep the version they have."""
    await lock_type(door.session, name)
    known = await find_type(door.session, name)
    if known is not None:
        require_version(request_, known.version, type_view(known))
    check_definition(definition)
    await check_tools(door.session, request_.app.state.intake.tools, definition)
    kind = await put_type(door.session, door.caller, name, said(definition))
    return Reply(type_view(kind), 200 if known else 201, {"ETag": etag(kind.version)}).response()


def said(definition: TypeDefinition) -> dict[str, Any]:
    return definition.model_dump() | {"review": definition.review.model_dump(exclude_none=True)}


ALLOWED = {
    "risk_level": ("low", "medium", "high"),
    "sensitivity_class": ("public", "internal", "confidential", "restricted"),
    "mode": ("dry_run", "assisted", "autonomous"),
}

LIMITS = {"time_ms": (1, 7 * 86_400_000), "tokens": (1, 1_000_000_000), "cost_usd": (0.0001, 1_000_000)}


async def check_tools(session: ReadSession, tools: Tools, definition: TypeDefinition) -> None:
    """Every tool of a type is one that there is. Raises Problem validation."""
    known = await tools.reaches(session, definition.tools)
    found = unknown_tools(definition.tools, known)
    found += [
        {"pointer": f"/needs/{number}", "detail": "must be one of the type's tools"}
        for number, tool in enumerate(definition.needs)
        if tool not in definition.tools
    ]
    refuse_tools(found)


def check_definition(definition: TypeDefinition) -> None:
    """A type that could not be used is refused when it is made."""
    found: list[dict[str, str]] = []
    defaults: Mapping[Any, str] = definition.defaults
    limits: Mapping[Any, float] = definition.limits
    for name, choices in ALLOWED.items():
        if defaults.get(name) not in choices:
            found.append({"pointer": f"/defaults/{name}", "detail": f"one of {', '.join(choices)}"})
    for limit, (least, most) in LIMITS.items():
        if not least <= limits.get(limit, 0) <= most:
            found.append({"pointer": f"/limits/{limit}", "detail": f"a number from {least} to {most}"})
    try:
        validator(json.dumps(definition.inputs_schema))
    except jsonschema_rs.ValidationError as refused:
        found.append({"pointer": "/inputs_schema", "detail": refused.message[:300]})
    if found:
        raise Problem("validation", f"{found[0]['pointer']}: {found[0]['detail']}", errors=found)
