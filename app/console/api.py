"""What the console adds to the API, for it and for every other door: the queue, what stands behind an approval, that it was
looked at, how the desk does, and what people are called."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query, Request, Response
from pydantic import BaseModel
from sqlalchemy import text

from app import evidence, ledger
from app.approvals.models import ApprovalSummary
from app.approvals.queries import view
from app.clock import iso
from app.console import queries
from app.console.desk import Remembered
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import Cursor, Door, Limit, Page, Reply, Routes, reading, writing
from app.http.idempotency import once

router = Routes(tags=["desk"])


class QueuedView(ApprovalSummary):
    """A pending approval in the queue. urgency: seconds left, divided by the weight of its risk."""

    urgency: float
    requested_by_name: str | None
    you_decided: bool


class InboxView(Page[QueuedView]):
    """The queue, most urgent first. soon: how many expire within the hour."""

    waiting: int
    soon: int


class StandingView(BaseModel):
    """Whether the caller may decide, and why not; why_not_edit: why they cannot ask about other values instead; why_not_ask,
    why_not_escalate: why they can put no question, or ask no further role; may_answer: the open questions that they could answer;
    took_part: they asked for it or changed it, or answer for whoever did."""

    may_decide: bool
    standing: Literal["may", "own_request", "decided", "not_entitled"]
    took_part: bool
    why_not: str | None
    why_not_edit: str | None
    why_not_ask: str | None
    why_not_escalate: str | None
    may_answer: list[UUID]
    opened_at: str | None


class BriefingView(BaseModel):
    """What stands behind an approval. people: names by id. policy: what it said, by which rule, in that rule's words of then."""

    approval_id: UUID
    you: StandingView
    may_decide: list[dict[str, Any]]
    may_be_asked: list[dict[str, Any]]
    people: dict[str, dict[str, str]]
    policy: dict[str, Any] | None
    evidence: dict[str, Any]
    earlier: dict[str, Any] | None
    similar: dict[str, Any]
    mission: dict[str, Any]
    budget: dict[str, float]
    producers: dict[str, list[str]]


class LookView(BaseModel):
    """When the caller first had the approval before them."""

    approval_id: UUID
    opened_at: str


class DeskView(BaseModel):
    """The desk's figures of the last days. Reverted: taken back by a person before it left, or overwritten later."""

    days: int
    outcomes: list[dict[str, Any]]
    stages: list[dict[str, Any]]
    waiting: list[dict[str, Any]]
    oldest_waiting_s: float
    operators: list[dict[str, Any]]
    queues: list[dict[str, Any]]


class PeopleView(BaseModel):
    """Names by id; ids of nobody in this tenant are left out."""

    people: dict[str, dict[str, str]]


@router.get("/v1/inbox", operation_id="listInbox", response_model=InboxView, summary="The queue, most urgent first")
async def list_inbox(
    request: Request,
    door: Annotated[Door[ReadSession], reading("approvals.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
    connector: Annotated[str | None, Query(max_length=100)] = None,
    operation: Annotated[str | None, Query(max_length=100)] = None,
    rule: UUID | None = None,
    rule_version: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    risk: Literal["low", "medium", "high"] | None = None,
) -> Response:
    """Pending approvals by risk and time left; rule and rule_version keep to those born under one rule."""
    cursors = request.app.state.cursors
    filters = {
        "connector": connector, "operation": operation, "rule": rule, "rule_version": rule_version, "risk": risk,
    }  # fmt: skip
    scope = f"inbox:{sorted((k, str(v)) for k, v in filters.items() if v is not None)}"
    found = await queries.queue(door.session, filters, cursors.open(scope, cursor, 3), limit + 1)
    shown, further, headers = found[:limit], None, {}
    if len(found) > limit:
        approval, as_of, urgency = shown[-1]
        further = cursors.seal(scope, [as_of, str(urgency), approval.id])
        headers = {"Link": f'<{request.url.include_query_params(cursor=further)}>; rel="next"'}
    names = await queries.people(door.session, {one.requested_by for one, _, _ in shown})
    mine = await queries.voted_on(door.session, door.caller.principal, [one.id for one, _, _ in shown])
    items = [
        {**view(one), "urgency": float(urgency), "you_decided": one.id in mine,
         "requested_by_name": names.get(str(one.requested_by), {}).get("name")}
        for one, _, urgency in shown
    ]  # fmt: skip
    body = {"items": items, "next_cursor": further, "has_more": further is not None}
    return Reply(body | await queries.waiting(door.session), headers=headers).response()


@router.get(
    "/v1/approvals/{approval_id}/briefing",
    operation_id="getBriefing",
    response_model=BriefingView,
    summary="What stands behind an approval",
)
async def get_briefing(
    approval_id: UUID, request: Request, door: Annotated[Door[ReadSession], reading("approvals.read")]
) -> Response:
    """Beside the approval itself: policy and rule, evidence checked now, who else may decide, similar decisions and what became
    of them, the earlier one that it follows, and whether the caller may decide, with the reason when not."""
    found = await queries.briefing(door.session, door.caller.principal, approval_id)
    if found is None:
        raise Problem("not_found", "There is no such approval.")
    said, cited = found
    await door.session.connection.close()  # no transaction is open while a store is read
    await evidence.fetch([cited], request.app.state.objects)
    return Reply(said | {"evidence": queries.strongest(cited)}).response()


LOOK = text("SELECT note_look(:tenant, :approval, :secret)")


@router.post(
    "/v1/approvals/{approval_id}/looks",
    operation_id="noteLook",
    response_model=LookView,
    summary="Say that you have it before you",
)
async def note_look(approval_id: UUID, door: Annotated[Door[WriteSession], writing("approvals.decide")]) -> Response:
    """Notes when the caller first had the approval before them: how long decisions take is read from it. Again changes nothing."""

    async def run() -> Reply:
        asked = {"tenant": door.session.tenant, "approval": approval_id, "secret": door.caller.secret}
        at = await door.session.scalar(LOOK, asked)
        if at is None:
            raise Problem("not_found", "There is no such approval.")
        door.session.nudge(ledger.FACTS)
        return Reply({"approval_id": approval_id, "opened_at": iso(at)})

    return await once(door, "approvals.look", run)


@router.get("/v1/desk", operation_id="getDesk", response_model=DeskView, summary="How the desk does")
async def get_desk(request: Request, door: Annotated[Door[ReadSession], reading("approvals.read")]) -> Response:
    """Outcomes of missions by day, latency of stages, age of what waits, how people decide and how well that held, and what work
    is due. Some seconds old at most, and bounded to the newest."""
    state = request.app.state
    if not hasattr(state, "desk"):
        state.desk = Remembered()
    return Reply(await state.desk.of(door.session)).response()


@router.get("/v1/names", operation_id="listNames", response_model=PeopleView, summary="What people are called")
async def list_names(
    door: Annotated[Door[ReadSession], reading("approvals.read")],
    id: Annotated[list[UUID], Query(min_length=1, max_length=200, description="Ids of principals; repeat for more.")],
) -> Response:
    """The names behind ids that were met somewhere; nobody can be looked for by it."""
    return Reply({"people": await queries.people(door.session, id)}).response()
