"""Reading writebacks. Nothing here changes one: proposing, deciding and executing have doors of their own."""

from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Request, Response
from pydantic import BaseModel

from app.db import ReadSession
from app.errors import Problem
from app.http import Cursor, Door, Limit, Page, Reply, Routes, paged, reading
from app.writebacks.queries import newest, one, order, view

router = Routes(tags=["writebacks"])

WritebackState = Literal[
    "awaiting_approval",
    "approved",
    "rejected",
    "expired",
    "cancelled",
    "executing",
    "succeeded",
    "failed",
    "unknown",
    "stale",
]


class WritebackView(BaseModel):
    """A change to an outside system, from proposal to read-back.

    read_back_sha256 is the hash of the payload with its changes as read back: it equals payload_sha256 exactly when the
    target shows what was approved.
    """

    id: UUID
    mission_id: UUID
    approval_id: UUID
    proposal_id: UUID
    state: WritebackState
    connector: str
    operation: str
    target: str
    risk_level: str
    requested_by: UUID
    payload: dict[str, Any]
    payload_sha256: str
    predecessor: UUID | None
    approvals: int
    attempts: int | None
    idempotency_key: UUID | None
    not_before: str | None
    expires_at: str
    started_at: str | None
    settled_at: str | None
    receipt: dict[str, Any] | None
    read_back: dict[str, Any] | None
    read_back_sha256: str | None
    created_at: str


@router.get(
    "/v1/writebacks",
    operation_id="listWritebacks",
    response_model=Page[WritebackView],
    summary="Writebacks, newest first",
)
async def list_writebacks(
    request: Request,
    door: Annotated[Door[ReadSession], reading("writebacks.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
    mission: UUID | None = None,
    state: WritebackState | None = None,
) -> Response:
    """A page of writebacks, of one mission or in one state. Those in one state of all missions are in the order in which their approvals
    were asked for. `approved` leaves out what no worker has declared expired a week after its approval ended."""
    found = partial(newest, door.session, mission, state)
    by = order(mission, state)
    return await paged(request, f"writebacks:{by[0]}", limit, cursor, found, view, by=by)


@router.get(
    "/v1/writebacks/{writeback_id}", operation_id="getWriteback", response_model=WritebackView, summary="One writeback"
)
async def get_writeback(writeback_id: UUID, door: Annotated[Door[ReadSession], reading("writebacks.read")]) -> Response:
    """The approved bytes, the receipt, and what was read back."""
    found = await one(door.session, writeback_id)
    if found is None:
        raise Problem("not_found", "There is no such writeback.")
    return Reply(view(found)).response()
