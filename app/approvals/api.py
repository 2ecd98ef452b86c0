"""The inbox, one approval with the target's value now, and the decision."""

import json
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app import writebacks
from app.approvals.decide import decide
from app.approvals.notices import of_approval
from app.approvals.queries import Approval, decisions, inbox, ladder, one, view
from app.approvals.signatures import signing
from app.clock import iso
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import Cursor, Door, Limit, Page, Reply, Routes, etag, once, page, reading, require_version, writing
from app.http.replies import problem_reply
from app.policy import PolicyDecision, refusal
from app.signed import LONGEST
from app.writebacks.connectors import ConnectorError

router = Routes(tags=["approvals"])

ApprovalState = Literal["pending", "approved", "rejected", "expired", "cancelled"]


class RuleRef(BaseModel):
    id: UUID
    version: int
    approver_role: str
    undo_window_s: float
    comment_required: bool


class ApprovalSummary(BaseModel):
    """An approval in a list."""

    id: UUID
    subject: Literal["writeback", "mission"]
    mission_id: UUID
    mission_type: str
    writeback_id: UUID | None
    state: ApprovalState
    version: int
    requested_by: UUID
    risk_level: str
    payload: dict[str, Any] | None
    payload_sha256: str
    required: int
    approvals: int
    deny_threshold: int
    rule: RuleRef
    may_decide: list[str]
    must_hold: str | None
    obligations: dict[str, Any]
    revision: int | None
    edited_by: UUID | None
    predecessor: UUID | None
    successor: UUID | None
    successor_approval: UUID | None
    glass: dict[str, Any] | None
    note: str | None
    summary: str | None
    rationale: str | None
    evidence: list[dict[str, Any]]
    created_at: str
    expires_at: str
    not_before: str | None
    closed_at: str | None
    signature_required: bool


class SigningKey(BaseModel):
    id: UUID
    public_key: str


class Signing(BaseModel):
    """What signing a decision takes: who the caller is in the statement, and which of their keys are registered."""

    required: bool
    tenant: UUID
    approver: UUID
    keys: list[SigningKey]


class LadderStep(BaseModel):
    """What happens when nobody decides. The last step is expiry, which fails closed."""

    at: str
    kind: Literal["remind", "escalate", "expire"]
    role: str | None
    done_at: str | None


class NoticeSent(BaseModel):
    principal: UUID
    kind: Literal["reminder", "escalation", "glass_broken"]
    at: str
    seen_at: str | None


class ApprovalView(ApprovalSummary):
    """One approval. current is what the target shows now: value, version, age; null when it cannot be read."""

    current: dict[str, Any] | None
    decisions: list[dict[str, Any]]
    signing: Signing
    ladder: list[LadderStep]
    notices: list[NoticeSent]


class DecisionAsk(BaseModel):
    """What the approver decides, and the hash of what they saw."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "decision": "approve",
                    "payload_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                }
            ]
        },
    )
    decision: Literal["approve", "reject"]
    payload_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="The approval's payload_sha256, as seen.")
    comment: str | None = Field(None, max_length=2000, description="Why; a rejection needs it.")
    signature: str | None = Field(
        None,
        min_length=1,
        max_length=LONGEST,
        description="A compact JWS by the approver's registered key; rules with signature_required count no approval without it.",
    )


class DecisionView(BaseModel):
    """The receipt of a decision. recorded: counted, more approvers are needed; not_before: when the undo window ends."""

    approval_id: UUID
    outcome: Literal["recorded", "approved", "rejected"]
    state: ApprovalState
    version: int
    approver: UUID
    not_before: str | None
    mission_id: UUID
    writeback_id: UUID | None


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
    cursors, scope = request.app.state.cursors, f"approvals:{state}"
    found = await inbox(door.session, state, mission, cursors.open(scope, cursor, 2), limit + 1)

    def seal(last: Approval) -> str:
        return cursors.seal(scope, [(last.expires_at if state == "pending" else last.created_at).isoformat(), last.id])

    return page(request, found, limit, view, seal).response()


@router.get(
    "/v1/approvals/{approval_id}", operation_id="getApproval", response_model=ApprovalView, summary="One approval"
)
async def get_approval(
    approval_id: UUID, request: Request, door: Annotated[Door[ReadSession], reading("approvals.read")]
) -> Response:
    """Everything a decision needs, with the target's value read now. The ETag is what a decision wants as If-Match."""
    found = await one(door.session, approval_id)
    if found is None:
        raise Problem("not_found", "There is no such approval.")
    made = await decisions(door.session, approval_id)
    told = await of_approval(door.session, approval_id)
    signs = await signing(door.session, door.caller, found.signature_required)
    await door.session.connection.close()  # nothing outside Postgres is asked while a transaction is open
    shown = {
        **view(found),
        "ladder": ladder(found),
        "notices": [sent(notice) for notice in told],
        "decisions": made,
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
        found = await one(door.session, approval_id)
        if found is None:
            raise Problem("not_found", "There is no such approval.")
        if found.state == "pending" or "if-match" not in request.headers:
            require_version(
                request, found.version, view(found)
            )  # a closed one is refused for that, not for its version
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
        return Reply(
            {
                "approval_id": approval_id,
                "outcome": decided.outcome,
                "state": decided.state,
                "version": decided.version,
                "approver": decided.approver,
                "not_before": iso(decided.not_before) if decided.not_before else None,
                "mission_id": decided.mission,
                "writeback_id": decided.writeback,
            },
            201,
            {"Location": f"/v1/approvals/{approval_id}", "ETag": etag(decided.version)},
        )

    return await once(door, "approvals.decide", run)


def sent(notice: Any) -> dict[str, Any]:
    return {
        "principal": notice.principal,
        "kind": notice.kind,
        "at": iso(notice.at),
        "seen_at": iso(notice.seen_at) if notice.seen_at else None,
    }


async def current(request: Request, tenant: UUID, found: Approval) -> dict[str, Any] | None:
    """What the target shows now of the record to be changed; an unreachable target is said, not hidden."""
    if found.payload is None or found.connector is None:
        return None
    payload = json.loads(found.payload)
    try:
        state = request.app.state
        async with writebacks.reading(
            state.database, state.settings, tenant, found.connector, state.root.nudger
        ) as target:
            observed = await target.read(payload["target"]["kind"], payload["target"]["id"])
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
