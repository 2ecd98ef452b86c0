"""What the human desk is asked and answers over HTTP."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from app.signed import LONGEST

ApprovalState = Literal["pending", "approved", "rejected", "expired", "cancelled"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="The approval's payload_sha256, as seen.")]
Reason = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"\S", description="Why, in a person's words.")]
Words = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"\S", description="In a person's words.")]
Found = Literal["applied", "not_applied", "cannot_tell"]
NoticeKind = Literal["reminder", "escalation", "glass_broken", "reassigned", "question", "answer"]
Further = Literal["operator", "policy_owner", "release_owner", "product_owner", "admin"]
SEEN = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


class RuleRef(BaseModel):
    id: UUID
    version: int
    approver_role: str
    undo_window_s: float
    comment_required: bool
    may_escalate_to: list[str]


class ApprovalSummary(BaseModel):
    """An approval in a list. withdrawn_by: who took it back; null for one that was replaced, or whose mission or connector ended.
    note: a person's words on why it was taken back or replaced. stopped: why it ended after the approval without a person.
    """

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
    open_questions: int
    note: str | None
    stopped: Literal["connector_retired", "connector_changed"] | None
    withdrawn_by: UUID | None
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
    kind: NoticeKind
    at: str
    seen_at: str | None


class Handed(BaseModel):
    """A person handed it to a further role: instead of those asked so far, or as well (an escalation by hand)."""

    by: UUID
    to: str
    instead: bool
    reason: str
    at: str


class QuestionView(BaseModel):
    """A question about an approval; answered once, or not yet. It changes nothing of the approval."""

    id: UUID
    asked_by: UUID
    question: str
    asked_at: str
    to: UUID
    answered_by: UUID | None
    answer: str | None
    answered_at: str | None


class AskedBefore(BaseModel):
    """What was asked about an earlier revision of the same change, and to whom it was handed; nothing of it counts for this one."""

    approval_id: UUID
    revision: int
    state: ApprovalState
    closed_at: str | None
    questions: list[QuestionView]
    handed: list[Handed]


class DecisionMade(BaseModel):
    """Who decided what; open_questions: how many questions nobody had answered by then."""

    approver: UUID
    verdict: Literal["approve", "reject"]
    comment: str | None
    decided_at: str
    open_questions: int


class ApprovalView(ApprovalSummary):
    """One approval. current is what the target shows now: value, version, age; null when it cannot be read."""

    current: dict[str, Any] | None
    decisions: list[DecisionMade]
    questions: list[QuestionView]
    handed: list[Handed]
    asked_before: list[AskedBefore]
    signing: Signing
    ladder: list[LadderStep]
    notices: list[NoticeSent]


class DecisionAsk(BaseModel):
    """What the approver decides, and the hash of what they saw."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"decision": "approve", "payload_sha256": SEEN}]},
    )
    decision: Literal["approve", "reject"]
    payload_sha256: Sha256
    comment: str | None = Field(None, max_length=2000, description="Why; a rejection needs it.")
    signature: str | None = Field(
        None,
        min_length=1,
        max_length=LONGEST,
        description="A compact JWS by the approver's registered key; rules with signature_required count no approval without it.",
    )


class DecisionView(BaseModel):
    """The receipt of a decision. recorded: counted, more approvers are needed; not_before: when the undo window ends.

    open_questions: how many questions about it nobody has answered.
    """

    approval_id: UUID
    outcome: Literal["recorded", "approved", "rejected"]
    state: ApprovalState
    version: int
    approver: UUID
    not_before: str | None
    open_questions: int
    mission_id: UUID
    writeback_id: UUID | None


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
    open_questions: int
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


class ReassignAsk(BaseModel):
    """Which role is asked instead, and why. Kept with the approval, not in the ledger."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"role": "admin", "reason": "All are on leave."}]}
    )
    role: Further
    reason: Reason


class EscalateAsk(BaseModel):
    """Which role is asked as well, and why. Kept with the approval, not in the ledger."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"role": "admin", "reason": "It is more than we should decide alone."}]},
    )
    role: Further
    reason: Reason


class HandedView(BaseModel):
    """An approval that was handed to a further role: who may decide it now."""

    approval_id: UUID
    state: ApprovalState
    version: int
    may_decide: list[str]
    mission_id: UUID
    writeback_id: UUID | None


class QuestionAsk(BaseModel):
    """What somebody wants to know before they decide. to: who is asked; the requester unless it is said."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"question": "Which call is the new price from?"}]},
    )
    question: Words
    to: UUID | None = Field(
        None,
        strict=False,
        description="Another principal who can answer: an operator, or one who may decide. Left out: the requester.",
    )


class AnswerAsk(BaseModel):
    """The answer to one question. It is given once, and stays."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"answer": "From the call of the 3rd, with Ms Reyes."}]},
    )
    answer: Words


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


class VouchAsk(BaseModel):
    """What a human found in the target, and how they know. Kept in the writeback's receipt; the ledger has who found what,
    and the hash of how."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"found": "not_applied", "comment": "The CRM was shut down; its last backup has the old price."}
            ]
        },
    )
    found: Found = Field(description="Whether the change is there: applied, not_applied, or cannot_tell.")
    comment: Reason


class NoticeView(BaseModel):
    """What the wall told a person: an approval wants them, or the glass was broken."""

    id: UUID
    kind: NoticeKind
    step: int
    approval_id: UUID
    mission_id: UUID
    approval_state: ApprovalState
    expires_at: str
    at: str
    seen_at: str | None
