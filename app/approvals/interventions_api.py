"""Break the glass, revise, renew, take back; and the notices that the wall wrote."""

import json
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app import writebacks
from app.approvals import interventions, notices
from app.approvals.api import ApprovalState
from app.approvals.queries import Approval, view
from app.approvals.queries import one as one_approval
from app.clock import iso
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import Cursor, Door, Limit, Page, Reply, Routes, etag, once, page, reading, require_version, writing
from app.http.replies import problem_reply
from app.policy import PolicyDecision, refusal
from app.writebacks import Writeback
from app.writebacks import one as one_writeback
from app.writebacks.connectors import ConnectorError

router = Routes(tags=["approvals"])

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="The approval's payload_sha256, as seen.")]
Reason = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"\S", description="Why, in a person's words.")]
SEEN = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


class GlassAsk(BaseModel):
    """What was seen, and why it cannot wait."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"payload_sha256": SEEN, "reason": "The price is wrong and the shop is open."}]
        },
    )
    payload_sha256: Sha256
    reason: Reason
    signature: str | None = Field(None, max_length=4096, description="A compact JWS, where the rule wants signatures.")


class GlassView(BaseModel):
    """A broken glass. The declaration is the first vote; a second holder of break_glass decides as usual."""

    approval_id: UUID
    outcome: Literal["recorded", "approved"]
    state: ApprovalState
    version: int
    approver: UUID
    not_before: str | None
    expires_at: str
    mission_id: UUID
    writeback_id: UUID | None


class CancelAsk(BaseModel):
    """Why it is taken back. Kept with the approval, not in the ledger."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"reason": "The customer called."}]}
    )
    reason: Reason


class CancelView(BaseModel):
    approval_id: UUID
    state: ApprovalState
    version: int
    mission_id: UUID
    writeback_id: UUID | None


class RevisionAsk(BaseModel):
    """Other changes to the same record, and the hash of what they replace."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"payload_sha256": SEEN, "changes": {"priority": "high"}, "reason": "Low was a slip."}]
        },
    )
    payload_sha256: Sha256
    changes: dict[str, Any] = Field(min_length=1, max_length=200)
    expected_version: str | None = Field(
        None, min_length=1, max_length=200, description="The record's version it is meant for; else the old one."
    )
    reason: Reason


class AskedAgainView(BaseModel):
    """The next revision of a writeback, waiting for its own approval. predecessor is what it replaces."""

    writeback_id: UUID
    approval_id: UUID
    predecessor: UUID
    payload_sha256: str
    required: int
    expires_at: str
    mission_id: UUID
    by: UUID


class RenewAsk(BaseModel):
    """Nothing to say: the changes stay, the version is read."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{}]})


class NoticeView(BaseModel):
    """What the wall told a person: an approval wants them, or the glass was broken."""

    id: UUID
    kind: Literal["reminder", "escalation", "glass_broken"]
    step: int
    approval_id: UUID
    mission_id: UUID
    approval_state: ApprovalState
    expires_at: str
    at: str
    seen_at: str | None


async def seen(door: Door[Any], request: Request, approval_id: UUID, open_states: tuple[str, ...]) -> Approval:
    """The approval as it is, at the version that was seen; a closed one is refused for that, not for its version."""
    found = await one_approval(door.session, approval_id)
    if found is None:
        raise Problem("not_found", "There is no such approval.")
    if found.state in open_states or "if-match" not in request.headers:
        require_version(request, found.version, view(found))
    return found


@router.post(
    "/v1/approvals/{approval_id}/break-glass",
    operation_id="breakGlass",
    status_code=201,
    response_model=GlassView,
    summary="Break the glass",
)
async def break_glass(
    approval_id: UUID,
    ask: GlassAsk,
    request: Request,
    door: Annotated[Door[WriteSession], writing("approvals.break_glass")],
) -> Response:
    """Moves a pending approval under the break-glass rule: two holders of that role, 15 minutes, no waiting, a reason.

    It shortens the time and skips the ladder and the undo window. Hash, quorum, policy, halts and read-back stay.
    """

    async def run() -> Reply:
        found = await seen(door, request, approval_id, ("pending",))
        done = await interventions.break_glass(
            door.session,
            door.caller,
            approval_id,
            bytes.fromhex(ask.payload_sha256),
            found.version,
            ask.reason,
            ask.signature,
        )
        if isinstance(done, PolicyDecision):
            return problem_reply(request, refusal(done))
        vote = done.vote
        body = {
            "approval_id": approval_id,
            "outcome": vote.outcome,
            "state": vote.state,
            "version": vote.version,
            "approver": vote.approver,
            "not_before": iso(vote.not_before) if vote.not_before else None,
            "expires_at": iso(done.expires_at),
            "mission_id": vote.mission,
            "writeback_id": vote.writeback,
        }
        return Reply(body, 201, {"Location": f"/v1/approvals/{approval_id}", "ETag": etag(vote.version)})

    return await once(door, "approvals.break_glass", run)


@router.post(
    "/v1/approvals/{approval_id}/cancel",
    operation_id="cancelApproval",
    response_model=CancelView,
    summary="Take an approval back",
)
async def cancel(
    approval_id: UUID,
    ask: CancelAsk,
    request: Request,
    door: Annotated[Door[WriteSession], writing("approvals.cancel")],
) -> Response:
    """Withdraws what is pending, or approved and not yet claimed. Afterwards nothing of it leaves. If-Match required."""

    async def run() -> Reply:
        found = await seen(door, request, approval_id, ("pending", "approved"))
        await interventions.withdraw(door.session, door.caller, approval_id, found.version, ask.reason)
        now = await one_approval(door.session, approval_id)
        assert now is not None
        body = {
            "approval_id": approval_id,
            "state": now.state,
            "version": now.version,
            "mission_id": now.mission,
            "writeback_id": now.writeback,
        }
        return Reply(body, headers={"ETag": etag(now.version)})

    return await once(door, "approvals.cancel", run)


@router.post(
    "/v1/approvals/{approval_id}/revisions",
    operation_id="reviseApproval",
    status_code=201,
    response_model=AskedAgainView,
    summary="Ask about other changes instead",
)
async def revise(
    approval_id: UUID,
    ask: RevisionAsk,
    request: Request,
    door: Annotated[Door[WriteSession], writing("approvals.revise")],
) -> Response:
    """Replaces the changes of a proposal that is not claimed: a new writeback with an approval of its own.

    The old approval closes. Neither the requester nor whoever edited may approve the new one. If-Match required.
    """

    async def run() -> Reply:
        found = await seen(door, request, approval_id, ("pending", "approved"))
        done = await interventions.revise(
            door.session,
            door.caller,
            approval_id,
            bytes.fromhex(ask.payload_sha256),
            found.version,
            ask.changes,
            ask.expected_version,
            ask.reason,
        )
        return await asked_again(door, request, done)

    return await once(door, "approvals.revise", run)


@router.post(
    "/v1/writebacks/{writeback_id}/renew",
    operation_id="renewWriteback",
    status_code=201,
    response_model=AskedAgainView,
    summary="Ask about a stale writeback again",
    tags=["writebacks"],
)
async def renew(
    writeback_id: UUID,
    ask: RenewAsk,
    request: Request,
    door: Annotated[Door[ReadSession], reading("writebacks.renew")],
) -> Response:
    """The same changes to the version that the record has now, with an approval of their own: nothing is approved by it."""
    old = await one_writeback(door.session, writeback_id)
    if old is None:
        raise Problem("not_found", "There is no such writeback.")
    version = await present_version(request, door, old) if old.state == "stale" else ""
    async with request.app.state.database.write() as session:
        await session.enter(door.caller.tenant)
        inside: Door[WriteSession] = Door(session, door.caller, request)

        async def run() -> Reply:
            return await asked_again(inside, request, await interventions.renew(session, inside.caller, old, version))

        return await once(inside, "writebacks.renew", run)


async def present_version(request: Request, door: Door[ReadSession], old: Writeback) -> str:
    """The record's version now, read outside any transaction."""
    target = json.loads(old.payload)["target"]
    await door.session.connection.close()
    try:
        state = request.app.state
        async with writebacks.reading(
            state.database, state.settings, door.caller.tenant, old.connector, state.root.nudger
        ) as opened:
            observed = await opened.read(target["kind"], target["id"])
    except ConnectorError as error:
        raise Problem("upstream_unavailable", error.reason, retry_after=5) from error
    return observed.version


async def asked_again(door: Door[Any], request: Request, done: Any) -> Reply:
    if isinstance(done, PolicyDecision):
        return problem_reply(request, refusal(done))
    made = await one_approval(door.session, done.approval)
    assert made is not None
    body = {
        "writeback_id": done.writeback,
        "approval_id": done.approval,
        "predecessor": made.predecessor,
        "payload_sha256": made.payload_sha256.hex(),
        "required": made.required,
        "expires_at": iso(made.expires_at),
        "mission_id": made.mission,
        "by": done.by,
    }
    return Reply(body, 201, {"Location": f"/v1/approvals/{done.approval}", "ETag": etag(made.version)})


@router.get("/v1/notices", operation_id="listNotices", response_model=Page[NoticeView], summary="What you were told")
async def list_notices(
    request: Request,
    door: Annotated[Door[ReadSession], reading("notices.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
    unseen: Annotated[bool, Query(description="Only what you have not marked as seen.")] = False,
) -> Response:
    """Your own notices, newest first."""
    cursors, scope = request.app.state.cursors, f"notices:{door.caller.principal}:{unseen}"
    found = await notices.own(door.session, door.caller.principal, unseen, cursors.open(scope, cursor, 2), limit + 1)
    return page(
        request, found, limit, notices.view, lambda last: cursors.seal(scope, [last.at.isoformat(), last.id])
    ).response()


@router.post(
    "/v1/notices/{notice_id}/seen", operation_id="seeNotice", response_model=NoticeView, summary="Mark as seen"
)
async def see_notice(notice_id: UUID, door: Annotated[Door[WriteSession], writing("notices.see")]) -> Response:
    """Marks one of your own notices as seen. Again changes nothing."""

    async def run() -> Reply:
        return Reply(notices.view(await notices.see(door.session, door.caller, notice_id)))

    return await once(door, "notices.see", run)
