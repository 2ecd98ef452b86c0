"""The inbox, one approval with the target's value now, and the decision."""

import json
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import Request, Response

from app import writebacks
from app.approvals.decide import Decided, decide
from app.approvals.models import ApprovalState, ApprovalSummary, ApprovalView, DecisionAsk, DecisionView
from app.approvals.notices import of_approval
from app.approvals.queries import Approval, decisions, handed, inbox, ladder, one, order, view
from app.approvals.questions import asked_before
from app.approvals.questions import of_approval as questions_of
from app.approvals.signatures import signing
from app.clock import iso
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import Cursor, Door, Limit, Page, Reply, Routes, etag, once, paged, reading, require_version, writing
from app.http.replies import problem_reply
from app.policy import PolicyDecision, refusal
from app.writebacks.connectors import ConnectorError, Observed

router = Routes(tags=["approvals"])


@router.get("/v1/approvals", operation_id="listApprovals", response_model=Page[ApprovalSummary], summary="The inbox")
async def list_approvals(
    request: Request,
    door: Annotated[Door[ReadSession], reading("approvals.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
    state: ApprovalState | None = None,
    mission: UUID | None = None,
) -> Response:
    """Approvals; with state=pending those that expire first come first, otherwise the newest."""
    found = partial(inbox, door.session, state, mission)
    return await paged(request, f"approvals:{state}", limit, cursor, found, view, by=[order(state), "id"])


@router.get(
    "/v1/approvals/{approval_id}", operation_id="getApproval", response_model=ApprovalView, summary="One approval"
)
async def get_approval(
    approval_id: UUID, request: Request, door: Annotated[Door[ReadSession], reading("approvals.read")]
) -> Response:
    """Everything a decision needs, with the target's value read now. The ETag is what a decision wants as If-Match."""
    found = await known(door.session, approval_id)
    made = await decisions(door.session, approval_id)
    told = await of_approval(door.session, approval_id)
    asked = await questions_of(door.session, approval_id)
    before = await asked_before(door.session, found.writeback)
    signs = await signing(door.session, door.caller, found.signature_required)
    await door.session.connection.close()  # nothing outside Postgres is asked while a transaction is open
    shown = {
        **view(found),
        "ladder": ladder(found),
        "notices": [sent(notice) for notice in told],
        "decisions": made,
        "questions": asked,
        "handed": handed(found),
        "asked_before": before,
        "signing": signs,
        "current": await current(request, door.caller.tenant, found),
    }
    return Reply(shown, headers={"ETag": etag(found.version)}).response()


@router.post(
    "/v1/approvals/{approval_id}/decisions",
    operation_id="decide",
    status_code=201,
    response_model=DecisionView,
    summary="Approve or reject",
)
async def post_decision(
    approval_id: UUID,
    ask: DecisionAsk,
    request: Request,
    door: Annotated[Door[WriteSession], writing("approvals.decide")],
) -> Response:
    """Decides on exactly the payload that was seen, at the version that was seen."""

    async def run() -> Reply:
        found = await seen(door, request, approval_id, ("pending",))
        decided = await decide(
            door.session,
            door.caller,
            approval_id,
            ask.decision,
            bytes.fromhex(ask.payload_sha256),
            found.version,
            ask.comment,
            ask.signature,
        )
        if isinstance(decided, PolicyDecision):
            return problem_reply(request, refusal(decided))
        return voted(approval_id, decided)

    return await once(door, "approvals.decide", run)


async def known(session: ReadSession, approval_id: UUID) -> Approval:
    found = await one(session, approval_id)
    if found is None:
        raise Problem("not_found", "There is no such approval.")
    return found


async def seen(door: Door[Any], request: Request, approval_id: UUID, open_states: tuple[str, ...]) -> Approval:
    """The approval as it is, at the version that was seen; a closed one is refused for that, not for its version."""
    found = await known(door.session, approval_id)
    if found.state in open_states or "if-match" not in request.headers:
        require_version(request, found.version, view(found))
    return found


def voted(approval_id: UUID, vote: Decided, **more: str) -> Reply:
    """The receipt of a vote that was taken."""
    body = {
        "approval_id": approval_id,
        "outcome": vote.outcome,
        "state": vote.state,
        "version": vote.version,
        "approver": vote.approver,
        "not_before": iso(vote.not_before) if vote.not_before else None,
        **more,
        "open_questions": vote.open_questions,
        "mission_id": vote.mission,
        "writeback_id": vote.writeback,
    }
    return Reply(body, 201, located(approval_id, vote.version))


def located(approval_id: UUID, version: int) -> dict[str, str]:
    return {"Location": f"/v1/approvals/{approval_id}", "ETag": etag(version)}


def sent(notice: Any) -> dict[str, Any]:
    return {
        "principal": notice.principal,
        "kind": notice.kind,
        "at": iso(notice.at),
        "seen_at": iso(notice.seen_at) if notice.seen_at else None,
    }


async def look(request: Request, tenant: UUID, connector: str, target: dict[str, str]) -> Observed:
    """What a target shows now of a record, read while no transaction is open. Raises ConnectorError."""
    state = request.app.state
    async with writebacks.reading(state.database, state.settings, tenant, connector, state.root.nudger) as reader:
        return await reader.read(target["kind"], target["id"])


async def current(request: Request, tenant: UUID, found: Approval) -> dict[str, Any] | None:
    """What the target shows now of the record to be changed; an unreachable target is said, not hidden."""
    if found.payload is None or found.connector is None:
        return None
    payload = json.loads(found.payload)
    try:
        observed = await look(request, tenant, found.connector, payload["target"])
    except writebacks.StillReading as waiting:
        return {"problem": waiting.reason, "reading": True}
    except ConnectorError as error:
        return {"problem": error.reason}
    return {
        "value": {name: observed.value.get(name) for name in payload["changes"]},
        "version": observed.version,
        "read_at": iso(observed.read_at),
        "age_s": writebacks.age_s(observed),
        "drifted": observed.version != payload["expected_version"],
    }
