"""Break the glass, revise, renew, hand on, escalate, take back, vouch; and the notices that the wall wrote."""

import json
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Request, Response

from app.approvals import interventions, notices
from app.approvals.api import known, located, look, seen, voted
from app.approvals.models import (
    AskedAgainView,
    CancelAsk,
    CancelView,
    EscalateAsk,
    GlassAsk,
    GlassView,
    HandedView,
    NoticeView,
    ReassignAsk,
    RenewAsk,
    RevisionAsk,
    VouchAsk,
)
from app.clock import iso
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import Cursor, Door, Limit, Page, Reply, Routes, etag, once, paged, reading, writing
from app.http.replies import problem_reply
from app.policy import PolicyDecision, refusal
from app.writebacks import Writeback
from app.writebacks import one as one_writeback
from app.writebacks.api import WritebackView
from app.writebacks.connectors import ConnectorError
from app.writebacks.queries import view

router = Routes(tags=["approvals"])


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
        return voted(approval_id, done.vote, expires_at=iso(done.expires_at))

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
        now = await known(door.session, approval_id)
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
    "/v1/approvals/{approval_id}/reassign",
    operation_id="reassignApproval",
    response_model=HandedView,
    summary="Hand an approval to another role",
)
async def reassign(
    approval_id: UUID,
    ask: ReassignAsk,
    request: Request,
    door: Annotated[Door[WriteSession], writing("approvals.reassign")],
) -> Response:
    """Asks another role instead, out of those that the approval's rule names. Its holders are told.

    Time, quorum and payload stay. Votes of who may no longer decide do not count; a rejection stands. If-Match required.
    """

    async def run() -> Reply:
        return await handed_on(door, request, approval_id, ask, instead=True)

    return await once(door, "approvals.reassign", run)


@router.post(
    "/v1/approvals/{approval_id}/escalate",
    operation_id="escalateApproval",
    response_model=HandedView,
    summary="Ask another role as well",
)
async def escalate(
    approval_id: UUID,
    ask: EscalateAsk,
    request: Request,
    door: Annotated[Door[WriteSession], writing("approvals.escalate")],
) -> Response:
    """Asks a further role beside those asked so far, now instead of when the ladder would. Its holders are told.

    One that the approval's rule names under may_escalate_to, by an operator or whoever may decide it, and nobody who took part.
    Time, quorum, payload, votes and version stay. If-Match required.
    """

    async def run() -> Reply:
        return await handed_on(door, request, approval_id, ask, instead=False)

    return await once(door, "approvals.escalate", run)


async def handed_on(
    door: Door[WriteSession], request: Request, approval_id: UUID, ask: ReassignAsk | EscalateAsk, instead: bool
) -> Reply:
    found = await seen(door, request, approval_id, ("pending",))
    session, caller = door.session, door.caller
    done = await interventions.hand_on(session, caller, approval_id, found.version, ask.role, ask.reason, instead)
    if isinstance(done, PolicyDecision):
        return problem_reply(request, refusal(done))
    now = await known(session, approval_id)
    body = {
        "approval_id": approval_id,
        "state": now.state,
        "version": now.version,
        "may_decide": done,
        "mission_id": now.mission,
        "writeback_id": now.writeback,
    }
    return Reply(body, headers={"ETag": etag(now.version)})


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


@router.post(
    "/v1/writebacks/{writeback_id}/vouch",
    operation_id="vouchForWriteback",
    response_model=WritebackView,
    summary="Say what became of an unknown writeback",
    tags=["writebacks"],
)
async def vouch(
    writeback_id: UUID,
    ask: VouchAsk,
    request: Request,
    door: Annotated[Door[WriteSession], writing("writebacks.vouch")],
) -> Response:
    """Ends a writeback that stays `unknown` because its target cannot say what became of it, from ten minutes after
    the executor first took it up.

    It becomes `failed` whatever was found, for only what was read back is a success; its receipt says who found what. No call
    begins for it any more. An operator who took no part in the change does this.
    """

    async def run() -> Reply:
        old = await one_writeback(door.session, writeback_id)
        if old is None:
            raise Problem("not_found", "There is no such writeback.")
        denied = await interventions.vouch(door.session, door.caller, old, ask.found, ask.comment)
        if denied is not None:
            return problem_reply(request, refusal(denied))
        now = await one_writeback(door.session, writeback_id)
        assert now is not None
        return Reply(view(now))

    return await once(door, "writebacks.vouch", run)


async def present_version(request: Request, door: Door[ReadSession], old: Writeback) -> str:
    """The record's version now, read outside any transaction."""
    await door.session.connection.close()
    try:
        observed = await look(request, door.caller.tenant, old.connector, json.loads(old.payload)["target"])
    except ConnectorError as error:
        raise Problem("upstream_unavailable", error.reason, retry_after=5) from error
    return observed.version


async def asked_again(door: Door[Any], request: Request, done: Any) -> Reply:
    if isinstance(done, PolicyDecision):
        return problem_reply(request, refusal(done))
    made = await known(door.session, done.approval)
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
    return Reply(body, 201, located(done.approval, made.version))


@router.get("/v1/notices", operation_id="listNotices", response_model=Page[NoticeView], summary="What you were told")
async def list_notices(
    request: Request,
    door: Annotated[Door[ReadSession], reading("notices.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
    unseen: Annotated[bool, Query(description="Only what you have not marked as seen.")] = False,
) -> Response:
    """Your own notices, newest first."""
    scope = f"notices:{door.caller.principal}:{unseen}"
    found = partial(notices.own, door.session, door.caller.principal, unseen)
    return await paged(request, scope, limit, cursor, found, notices.view, by=["at", "id"])


@router.post(
    "/v1/notices/{notice_id}/seen", operation_id="seeNotice", response_model=NoticeView, summary="Mark as seen"
)
async def see_notice(notice_id: UUID, door: Annotated[Door[WriteSession], writing("notices.see")]) -> Response:
    """Marks one of your own notices as seen. Again changes nothing."""

    async def run() -> Reply:
        return Reply(notices.view(await notices.see(door.session, door.caller, notice_id)))

    return await once(door, "notices.see", run)
