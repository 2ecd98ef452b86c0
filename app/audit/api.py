"""One question: what is behind this id?"""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query, Request, Response
from pydantic import BaseModel

from app import ledger
from app.audit.find import LONGEST, find
from app.audit.story import explain, proved, shown
from app.db import ReadSession
from app.errors import Problem
from app.http import Door, Reply, Routes, reading

AT_ONCE = 2  # stories that one process verifies at the same time

router = Routes(tags=["ledger"])


class Asker(BaseModel):
    id: UUID
    name: str | None


class StoryMission(BaseModel):
    """A mission that the story is about. user_goal is the asker's own words."""

    id: UUID
    mission_type: str
    mode: str
    state: str
    risk_level: str
    user_goal: str | None
    reason: str | None
    answer_status: str | None
    replay_of: UUID | None
    requested_by: Asker
    created_at: str
    closed_at: str | None
    links: dict[str, str]


class StoryChange(BaseModel):
    """A change to a business system. read_back: whether the target then showed exactly what was approved; null before that."""

    writeback_id: UUID
    approval_id: UUID
    mission_id: UUID
    state: str
    connector: str
    operation: str
    target: str
    fields: list[str]
    risk_level: str
    payload_sha256: str
    approvals: int
    required: int | None
    predecessor: UUID | None
    read_back: Literal["as_approved", "different"] | None


class StoryStep(BaseModel):
    """Facts that belong together, in one sentence of the root's, which may name records as their system does.

    marked: they hold what was asked for. facts: the places of the first hundred.

    proof: anchored (signed outside the database), chained (its chain holds, no anchor yet), broken; null when not verified.
    """

    what: str
    sentence: str
    at: str
    until: str
    actor: str
    actor_name: str
    mission_id: UUID
    facts: list[str]
    count: int
    marked: bool
    proof: Literal["anchored", "chained", "broken"] | None


class StoryProof(BaseModel):
    """What the chains of these missions and their anchors are worth. anchors: ok, failed, none, off or unavailable."""

    verified: bool
    facts: int
    anchored: int
    anchors: str
    numbers: list[int]
    first_bad: dict[str, Any] | None
    finding: str | None


class Story(BaseModel):
    """Everything around one id. left_out: facts in the middle of a very long chain that are not told; of the tenant's own
    chain, that were not looked at."""

    asked: str
    kind: str
    missions: list[StoryMission]
    changes: list[StoryChange]
    steps: list[StoryStep]
    left_out: int
    proof: StoryProof | None


@router.get("/v1/explain", operation_id="explain", response_model=Story, summary="The whole story of any id")
async def get_story(
    request: Request,
    door: Annotated[Door[ReadSession], reading("ledger.read")],
    id: Annotated[
        str,
        Query(
            min_length=1,
            max_length=LONGEST,
            description="A mission, approval, writeback, artifact or policy decision; the SHA-256 of an artifact, payload or source; "
            "a fact's position; a Request-Id; or a record, such as lead/L-1001.",
            examples=["01a20162-b2c0-771f-a11f-34bb2ddbf3a8"],
        ),
    ],
    verify: Annotated[
        bool, Query(description="Also recompute the chains and look up the anchors, and mark each step.")
    ] = False,
) -> Response:
    """From the request to the read-back, step by step, with who did it and which facts say so."""
    if "\x00" in id:
        raise Problem("validation", "id: holds a NUL character", errors=[{"parameter": "id", "detail": "no NUL"}])
    found = await find(door.session, id)
    if found is None:
        raise Problem("not_found", "Nothing here has this id.")
    story = await explain(door.session, id, found)
    await door.session.connection.rollback()
    await door.session.connection.close()  # nothing outside Postgres is asked while a transaction is open
    if verify:
        state = request.app.state
        tenant = door.caller.tenant
        look = ledger.inside_of(state.database, tenant)
        async with state.proving:
            story = await proved(story, look, tenant, state.anchor_store, state.anchor_keys, found.subjects)
    return Reply(shown(story)).response()
