"""Times and holds over HTTP."""

from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app import labels
from app.clock import iso
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import Cursor, Door, Limit, Page, Reply, Routes, etag, once, paged, reading, require_version, writing
from app.retention.actions import lift_hold, place_hold, set_schedule
from app.retention.queries import Hold, history, hold, holds, schedule, view

router = Routes(tags=["retention"])

Days = Annotated[int | None, Field(ge=0, le=36_500)]
Words = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"\S")]
Name = Annotated[
    str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="The hold's name, such as a case number; used once.")
]


class Times(BaseModel):
    """Days after a mission's end until its bytes are removed, by sensitivity class; null keeps them for good."""

    public_days: Days
    internal_days: Days
    confidential_days: Days
    restricted_days: Days
    unread_days: Days = Field(description="Of what no mission was shown, and of documents that are no longer current.")


class TimesAsk(Times):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "public_days": 3650,
                    "internal_days": 1095,
                    "confidential_days": 365,
                    "restricted_days": 90,
                    "unread_days": 30,
                }
            ]
        },
    )


class TimesView(Times):
    """The times that were set last. Version 0: nobody has set any, and these are shipped."""

    version: int
    set_by: UUID | None
    set_at: str | None


class ScheduleView(TimesView):
    """counted is what the sweep goes by: for a week after a change, the longer of both times."""

    counted: Times


class HoldAsk(BaseModel):
    """What is held: the whole tenant, a mission, or every mission with a label, those of the future too."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"scope": "label", "label": "case:2026-17", "reason": "Litigation hold."}]},
    )
    scope: Literal["tenant", "mission", "label"]
    mission_id: UUID | None = None
    label: Annotated[
        str | None, Field(max_length=labels.LONGEST, pattern=labels.NAME_AND_VALUE, description="name:value")
    ] = None
    reason: Words

    @model_validator(mode="after")
    def whole(self) -> "HoldAsk":
        if (self.mission_id is not None) != (self.scope == "mission") or (self.label is not None) != (
            self.scope == "label"
        ):
            raise ValueError("scope mission takes mission_id, scope label takes label, and scope tenant neither")
        return self


class Lift(BaseModel):
    """Why a hold is lifted, in a person's words. Kept with the hold, not in the ledger."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"reason": "case closed"}]})
    reason: Words


class HoldView(BaseModel):
    """A legal hold. While it stands nothing of what it names is removed."""

    name: str
    state: Literal["standing", "lifted"]
    scope: Literal["tenant", "mission", "label"]
    mission_id: UUID | None
    label: str | None
    reason: str
    placed_by: UUID
    placed_at: str
    lift_reason: str | None
    lifted_by: UUID | None
    lifted_at: str | None


def hold_view(found: Hold) -> dict[str, Any]:
    return {
        "name": found.name,
        "state": "standing" if found.lifted_at is None else "lifted",
        "scope": found.scope,
        "mission_id": found.mission,
        "label": None if found.label_name is None else f"{found.label_name}:{found.label_value}",
        "reason": found.reason,
        "placed_by": found.placed_by,
        "placed_at": iso(found.placed_at),
        "lift_reason": found.lift_reason,
        "lifted_by": found.lifted_by,
        "lifted_at": iso(found.lifted_at) if found.lifted_at else None,
    }


@router.get(
    "/v1/retention", operation_id="getRetention", response_model=ScheduleView, summary="How long bytes are kept"
)
async def get_retention(door: Annotated[Door[ReadSession], reading("retention.read")]) -> Response:
    """Days by sensitivity class. The ETag is what a change wants as If-Match."""
    found = await schedule(door.session)
    return Reply(found, headers={"ETag": etag(found["version"])}).response()


@router.put(
    "/v1/retention", operation_id="putRetention", response_model=ScheduleView, summary="Set how long bytes are kept"
)
async def put_retention(
    ask: TimesAsk, request: Request, door: Annotated[Door[WriteSession], writing("retention.write")]
) -> Response:
    """Replaces all times. A longer one counts at once, a shorter one after a week."""

    async def run() -> Reply:
        present = await schedule(door.session)
        require_version(request, present["version"], present)
        await set_schedule(door.session, door.caller, present["version"], ask.model_dump())
        found = await schedule(door.session)
        return Reply(found, headers={"ETag": etag(found["version"])})

    return await once(door, "retention.put", run)


@router.get(
    "/v1/retention/versions",
    operation_id="listRetentionVersions",
    response_model=Page[TimesView],
    summary="Times that were ever set",
)
async def list_versions(
    request: Request,
    door: Annotated[Door[ReadSession], reading("retention.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Every version with who set it, newest first."""
    found = partial(history, door.session)
    return await paged(request, "retention", limit, cursor, found, view, by=["version"])


@router.get("/v1/legal-holds", operation_id="listLegalHolds", response_model=Page[HoldView], summary="Legal holds")
async def list_holds(
    request: Request,
    door: Annotated[Door[ReadSession], reading("holds.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
    state: Annotated[Literal["standing", "lifted"] | None, Query(description="Left out: both.")] = None,
) -> Response:
    """Holds by name, with who placed and who lifted them, and why."""
    found = partial(holds, door.session, None if state is None else state == "standing")
    return await paged(request, f"legal_holds:{state}", limit, cursor, found, hold_view, by=["name"])


@router.get("/v1/legal-holds/{name}", operation_id="getLegalHold", response_model=HoldView, summary="One legal hold")
async def get_hold(name: Name, door: Annotated[Door[ReadSession], reading("holds.read")]) -> Response:
    """A hold, standing or lifted."""
    return Reply(await shown(door.session, name)).response()


@router.put(
    "/v1/legal-holds/{name}", operation_id="putLegalHold", response_model=HoldView, summary="Place a legal hold"
)
async def put_hold(name: Name, ask: HoldAsk, door: Annotated[Door[WriteSession], writing("holds.place")]) -> Response:
    """From the answer on nothing of what it names is removed. Saying the same again changes nothing."""
    label = ask.label.split(":", 1) if ask.label else None
    placed = await place_hold(
        door.session,
        door.caller,
        name,
        ask.scope,
        ask.reason,
        mission=ask.mission_id,
        label=(label[0], label[1]) if label else None,
    )
    return Reply(await shown(door.session, name), 201 if placed == "placed" else 200).response()


@router.delete(
    "/v1/legal-holds/{name}", operation_id="liftLegalHold", response_model=HoldView, summary="Lift a legal hold"
)
async def delete_hold(name: Name, ask: Lift, door: Annotated[Door[WriteSession], writing("holds.lift")]) -> Response:
    """Lifting takes another person than the one who placed it. The hold stays in the list, as lifted."""
    await lift_hold(door.session, door.caller, name, ask.reason)
    return Reply(await shown(door.session, name)).response()


async def shown(session: ReadSession, name: str) -> dict[str, Any]:
    found = await hold(session, name)
    if found is None:
        raise Problem("not_found", "There is no such hold.")
    return hold_view(found)
