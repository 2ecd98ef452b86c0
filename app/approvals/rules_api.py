"""Approval rules over HTTP: read them, write them as a policy owner, ask which one would be chosen."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.approvals import rules
from app.clock import new_id
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import Door, Reply, Routes, etag, once, reading, require_version, writing

router = Routes(tags=["approvals"])

Role = Literal["operator", "policy_owner", "release_owner", "product_owner", "admin", "break_glass"]
Escalation = Literal["operator", "policy_owner", "release_owner", "product_owner", "admin"]
Risk = Literal["*", "low", "medium", "high"]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^(\*|[A-Za-z0-9_.-]+)$")]
ValidateOnly = Annotated[bool, Query(description="Check everything, change nothing.")]


class Step(BaseModel):
    """A step of the ladder: everybody who may decide is reminded, or a further role may decide too and is told."""

    model_config = ConfigDict(extra="forbid", strict=True)
    after_s: float = Field(gt=0, le=2_592_000, description="Seconds after the approval was opened.")
    kind: Literal["remind", "escalate"]
    role: Escalation | None = Field(None, description="Whom an escalation asks; one of may_escalate_to.")

    @model_validator(mode="after")
    def only_escalations_have_roles(self) -> "Step":
        if (self.kind == "escalate") != (self.role is not None):
            raise ValueError("an escalation names a role, a reminder does not")
        return self


class RuleAsk(BaseModel):
    """A rule: what it is for, and what it asks."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "subject": "writeback",
                    "connector": "sample_crm",
                    "risk": "high",
                    "required": 2,
                    "approver_role": "operator",
                    "life_s": 14_400,
                    "undo_window_s": 30,
                    "may_escalate_to": ["admin"],
                    "hops": [
                        {"after_s": 3600, "kind": "remind"},
                        {"after_s": 7200, "kind": "escalate", "role": "admin"},
                    ],
                }
            ]
        },
    )
    subject: Literal["writeback", "mission"]
    connector: Name = "*"
    operation: Name = Field("*", description="Of a mission: its type.")
    risk: Risk = "*"
    required: int = Field(ge=1, le=5, description="How many different people have to approve.")
    deny_threshold: int = Field(1, ge=1, le=5, description="How many rejections end it.")
    approver_role: Role = "operator"
    life_s: float = Field(ge=1, le=2_592_000, description="Seconds until it expires; nothing happens then.")
    undo_window_s: float = Field(0, ge=0, le=3600, description="Seconds between the quorum and the earliest execution.")
    comment_required: bool = Field(False, description="Approving too takes a reason.")
    signature_required: bool = Field(False, description="Only signed approvals count, and the executor checks them.")
    may_escalate_to: list[Escalation] = Field(default_factory=list, max_length=5)
    hops: list[Step] = Field(default_factory=list, max_length=10, description="The ladder, in order.")
    break_glass: bool = Field(False, description="Chosen only when somebody breaks the glass.")

    def body(self) -> dict[str, Any]:
        """As put_rule() takes it."""
        said = self.model_dump(exclude={"life_s", "undo_window_s", "hops"})
        hops = [step.model_dump(exclude_none=True) for step in self.hops]
        return said | {"life": f"{self.life_s} seconds", "undo_window": f"{self.undo_window_s} seconds", "hops": hops}


class RuleView(BaseModel):
    """One version of a rule. created_by is null for rules that every tenant is born with."""

    id: UUID
    version: int
    subject: Literal["writeback", "mission"]
    connector: str
    operation: str
    risk: Risk
    required: int
    deny_threshold: int
    approver_role: str
    life_s: float
    undo_window_s: float
    comment_required: bool
    signature_required: bool
    may_escalate_to: list[str]
    hops: list[Step]
    break_glass: bool
    created_by: UUID | None
    created_at: str


class RuleHistory(RuleView):
    """The version in force, and those before it, newest first. Open approvals keep the one they were born under."""

    history: list[RuleView]


class Rules(BaseModel):
    items: list[RuleView]


class ChooseAsk(BaseModel):
    """What would be asked about."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"connector": "sample_crm", "operation": "update", "risk": "high"}]},
    )
    subject: Literal["writeback", "mission"] = "writeback"
    connector: str = Field("*", min_length=1, max_length=100)
    operation: str = Field(min_length=1, max_length=100, description="Of a mission: its type.")
    risk: Literal["low", "medium", "high"]


class Fitting(BaseModel):
    rule: RuleView
    why: str


class Chosen(BaseModel):
    """The rule that would be chosen and why; the others that fit, in the order in which they would follow."""

    chosen: Fitting | None
    others: list[Fitting]


@router.get("/v1/approval-rules", operation_id="listApprovalRules", response_model=Rules, summary="Approval rules")
async def list_rules(door: Annotated[Door[ReadSession], reading("approval_rules.read")]) -> Response:
    """The rules in force: the newest version of each, those for breaking the glass last."""
    return Reply({"items": [rules.view(rule) for rule in await rules.newest(door.session)]}).response()


@router.get(
    "/v1/approval-rules/{rule_id}", operation_id="getApprovalRule", response_model=RuleHistory, summary="One rule"
)
async def get_rule(rule_id: UUID, door: Annotated[Door[ReadSession], reading("approval_rules.read")]) -> Response:
    """A rule with its history. The ETag is what a change wants as If-Match."""
    return shown(await rules.history(door.session, rule_id)).response()


@router.post(
    "/v1/approval-rules/choose",
    operation_id="chooseApprovalRule",
    response_model=Chosen,
    summary="Which rule would it be?",
)
async def choose(ask: ChooseAsk, door: Annotated[Door[ReadSession], reading("approval_rules.read")]) -> Response:
    """Which rule a change, or a mission, would be put under, and why. Opens nothing."""
    found = await rules.fitting(door.session, ask.subject, ask.connector, ask.operation, ask.risk)
    told = [{"rule": rules.view(rule), "why": rules.why(rule)} for rule in found]
    return Reply({"chosen": told[0] if told else None, "others": told[1:]}).response()


@router.post(
    "/v1/approval-rules",
    operation_id="createApprovalRule",
    status_code=201,
    response_model=RuleHistory,
    summary="A new rule",
)
async def create_rule(
    ask: RuleAsk,
    door: Annotated[Door[WriteSession], writing("approval_rules.write")],
    validate_only: ValidateOnly = False,
) -> Response:
    """Writes a new rule, by a policy owner. Of two rules that fit alike the stricter one is chosen."""
    return await put(door, "approval_rules.create", new_id(), None, ask, validate_only)


@router.put(
    "/v1/approval-rules/{rule_id}",
    operation_id="putApprovalRule",
    response_model=RuleHistory,
    summary="A rule's next version",
)
async def put_rule(
    rule_id: UUID,
    ask: RuleAsk,
    request: Request,
    door: Annotated[Door[WriteSession], writing("approval_rules.write")],
    validate_only: ValidateOnly = False,
) -> Response:
    """Writes the next version of a rule, by a policy owner. What is open stays under the version it was born under."""
    found = await rules.history(door.session, rule_id)
    if not found:
        raise Problem("not_found", "There is no such rule.")
    require_version(request, found[0].version, rules.view(found[0]))
    return await put(door, "approval_rules.put", rule_id, found[0].version, ask, validate_only)


async def put(
    door: Door[WriteSession], route: str, rule: UUID, seen_version: int | None, ask: RuleAsk, validate_only: bool
) -> Response:
    async def run() -> Reply:
        trial = await door.session.connection.begin_nested() if validate_only else None
        outcome, _ = await rules.put(door.session, door.caller, rule, seen_version, ask.body())
        reply = shown(await rules.history(door.session, rule))
        if trial is not None:
            await trial.rollback()
            return Reply(reply.body)
        if outcome == "created":
            return Reply(reply.body, 201, {**reply.headers, "Location": f"/v1/approval-rules/{rule}"})
        return reply

    return await once(door, route, run)


def shown(found: Any) -> Reply:
    if not found:
        raise Problem("not_found", "There is no such rule.")
    told = [rules.view(rule) for rule in found]
    return Reply({**told[0], "history": told[1:]}, headers={"ETag": etag(found[0].version)})
