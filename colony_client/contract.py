"""What root and colony say to each other, version 1: dispatch and status one way, events and tool calls the other.

Requests refuse unknown fields; the client drops unknown fields of answers, so that a newer peer may add some. A field that
came with a later minor version says so (`since`), and is left out for a peer that does not know it (`versions`).
Every list and text is bounded here or in `artifacts`; bodies are bounded in bytes and depth before they are parsed.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from colony_client.artifacts import (
    NO_NUL,
    SINCE,
    Artifact,
    Attempt,
    Budgets,
    Citation,
    Count,
    JsonObject,
    Key,
    Line,
    MissionEnvelope,
    Money,
    Note,
    Part,
    Quote,
    Sha256,
    ToolName,
    Utc,
    WritebackProposal,
)

CONTRACT_VERSION = "1.2"
FIRST_VERSION = "1.0"  # what a peer speaks that does not say
VERSION_HEADER = "Colony-Contract-Version"

MAX_BODY_BYTES = 8 * 1024 * 1024  # one request or one answer, after decompression
MAX_BODY_DEPTH = 32
MAX_MISSIONS_PER_DISPATCH = 64
MAX_EVENTS_PER_BATCH = 500
MAX_MISSIONS_PER_CALL = 64  # whose events come together
MANY_SINCE = "1.2"  # the version that events of many missions came with

STAGES = ("planner", "prompt_master", "librarian", "researcher", "workers", "aggregator", "reviewer")

# The `code` of the root's problem answers that a colony acts upon.
CODE_SEQUENCE_GAP = "sequence_gap"  # 409, with the integer member `expected_seq`
CODE_SUPERSEDED = "attempt_superseded"  # 409 or 410: another attempt holds the mission
CODE_CLOSED = "mission_closed"  # 409 or 410: the mission has ended

Stage = Literal["planner", "prompt_master", "librarian", "researcher", "workers", "aggregator", "reviewer"]
ContractVersion = Annotated[str, StringConstraints(pattern=r"^1\.(0|[1-9][0-9]{0,2})$")]
Token = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,2048}$")]
TraceParent = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]
Seq = Annotated[int, Field(ge=1, le=1_000_000_000)]
Acknowledged = Annotated[int, Field(ge=0, le=1_000_000_000)]


def url_origin(url: str) -> str:
    """`scheme://host:port` of an http(s) URL, lower-case, the port spelled out; ValueError for anything else."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("must be an http or https URL with a host and without credentials")
    if parts.query or parts.fragment:
        raise ValueError("must have neither a query nor a fragment")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def since(version: str) -> Any:
    """An optional field that came with a minor version."""
    return Field(default=None, json_schema_extra={SINCE: version})


def _base_url(url: str) -> str:
    url_origin(url)
    return url.rstrip("/")


BaseUrl = Annotated[str, StringConstraints(max_length=2_000, pattern=r"^[\x21-\x7e]+$"), AfterValidator(_base_url)]


# --- root to colony ---------------------------------------------------------------------------------------------------


class HumanDecision(Part):
    """What a human said to a question about the mission itself, such as one an earlier attempt escalated."""

    approval_id: UUID
    question: Note
    decision: Literal["approve", "reject"]
    comment: Note | None = None
    decided_at: Utc


class Dispatch(Part):
    """One attempt at one mission, and all that the colony needs to work on it and to call back."""

    mission_id: UUID
    attempt: Attempt
    envelope: MissionEnvelope
    decisions: list[HumanDecision] = Field(default_factory=list, max_length=50)
    callback_base_url: BaseUrl
    mission_token: Token
    gateway_token: Token | None = since("1.1")  # the key of the model gateway's routes
    budgets: Budgets
    traceparent: TraceParent | None = None

    @model_validator(mode="after")
    def _one_mission(self) -> Self:
        if self.envelope.mission_id != self.mission_id:
            raise ValueError("the envelope belongs to another mission")
        return self


class DispatchBatch(Part):
    """`contract_version`, here and elsewhere, is the version that the message is written in."""

    contract_version: ContractVersion = FIRST_VERSION
    missions: list[Dispatch] = Field(min_length=1, max_length=MAX_MISSIONS_PER_DISPATCH)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len({dispatch.mission_id for dispatch in self.missions}) < len(self.missions):
            raise ValueError("a mission is named twice")
        return self


class DispatchAnswer(Part):
    """The colony's word on one dispatch: `refused` is final and says why, `busy` may be tried again later."""

    mission_id: UUID
    attempt: Attempt
    outcome: Literal["accepted", "refused", "busy"]
    reason: Note | None = None
    code: Key | None = None
    retry_after_s: float | None = Field(default=None, ge=0, le=86_400, allow_inf_nan=False)

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if self.outcome == "refused" and self.reason is None:
            raise ValueError("a refusal needs a reason")
        return self


class DispatchAnswers(Part):
    contract_version: ContractVersion = FIRST_VERSION
    missions: list[DispatchAnswer] = Field(min_length=1, max_length=MAX_MISSIONS_PER_DISPATCH)


class MissionStatus(Part):
    mission_id: UUID
    attempt: Attempt
    state: Literal["running", "completed", "blocked", "escalated", "cancelled", "failed"]
    stage: Stage | None = None
    last_seq_sent: Acknowledged = 0
    reason: Note | None = None


class CancelRequest(Part):
    reason: Note


class Health(Part):
    """`contract_version` is the newest that the colony speaks."""

    status: Literal["ok"] = "ok"
    service: Line
    contract_version: ContractVersion = FIRST_VERSION


class ProviderState(Part):
    state: Literal["ok", "degraded", "unavailable", "disabled"]
    detail: Note | None = None


class Ready(Part):
    ready: bool
    providers: dict[Line, ProviderState] = Field(default_factory=dict, max_length=50)
    contract_version: ContractVersion = FIRST_VERSION


# --- colony to root ---------------------------------------------------------------------------------------------------


class EventBase(Part):
    seq: Seq
    at: Utc


class StageStarted(EventBase):
    type: Literal["stage.started"] = "stage.started"
    stage: Stage


class StageCompleted(EventBase):
    type: Literal["stage.completed"] = "stage.completed"
    stage: Stage
    latency_ms: float = Field(ge=0, le=1e12, allow_inf_nan=False)


class ArtifactProduced(EventBase):
    type: Literal["artifact.produced"] = "artifact.produced"
    artifact: Artifact


class Signal(EventBase):
    """`complete`, `blocked` and `escalate` end the attempt; the last two say why or what they ask."""

    type: Literal["signal"] = "signal"
    signal: Literal["continue", "complete", "blocked", "escalate", "checkpoint"]
    reason: Note | None = None
    question: Note | None = None

    @property
    def ends_attempt(self) -> bool:
        return self.signal in ("complete", "blocked", "escalate")

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if self.signal in ("blocked", "escalate") and not (self.reason or self.question):
            raise ValueError(f"signal {self.signal} needs a reason or a question")
        return self


class CheckpointSaved(EventBase):
    type: Literal["checkpoint.saved"] = "checkpoint.saved"
    checkpoint_id: Key
    size_bytes: Count
    sha256: Sha256


class ProviderFailed(EventBase):
    type: Literal["provider.failed"] = "provider.failed"
    provider: Line
    code: Key
    detail: Note
    retryable: bool


class UsageReported(EventBase):
    """What was used since the previous report, not a running total."""

    type: Literal["usage.reported"] = "usage.reported"
    tokens_in: Count
    tokens_out: Count
    cost_usd: Money
    provider: Line | None = None


class WritebackProposed(EventBase):
    type: Literal["writeback.proposed"] = "writeback.proposed"
    proposal: WritebackProposal


class Log(EventBase):
    type: Literal["log"] = "log"
    level: Literal["debug", "info", "warning", "error"]
    message: Note


Event = Annotated[
    StageStarted
    | StageCompleted
    | ArtifactProduced
    | Signal
    | CheckpointSaved
    | ProviderFailed
    | UsageReported
    | WritebackProposed
    | Log,
    Field(discriminator="type"),
]


class Events(Part):
    """Events of one attempt with consecutive `seq`; none are a heartbeat."""

    attempt: Attempt
    events: list[Event] = Field(default_factory=list, max_length=MAX_EVENTS_PER_BATCH)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for earlier, later in zip(self.events, self.events[1:], strict=False):
            if later.seq != earlier.seq + 1:
                raise ValueError(f"event {later.seq} does not follow event {earlier.seq}")
            if isinstance(earlier, Signal) and earlier.ends_attempt:
                raise ValueError(f"event {later.seq} comes after the signal that ended the attempt")
        return self

    def strangers(self, mission_id: UUID, tenant_id: UUID) -> Sequence[int]:
        """The `seq` of every event whose artifact names another mission or tenant than the one that is speaking."""
        return [
            event.seq
            for event in self.events
            if (body := _artifact_of(event)) and (body.mission_id, body.tenant_id) != (mission_id, tenant_id)
        ]


class _Written(Part):
    contract_version: ContractVersion = FIRST_VERSION


class EventBatch(Events, _Written):
    """What is sent of one mission."""


class _Proven(Part):
    mission_id: UUID
    token: Token


class MissionEvents(Events, _Proven):
    """What is sent of one among many missions. token: its own newest callback token."""


class EventsOfMany(Part):
    """Events of 1 to 64 missions in one call, each mission once. Each is answered for itself."""

    contract_version: ContractVersion = FIRST_VERSION
    missions: list[MissionEvents] = Field(min_length=1, max_length=MAX_MISSIONS_PER_CALL)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len({one.mission_id for one in self.missions}) < len(self.missions):
            raise ValueError("a mission is named twice")
        return self


def _artifact_of(event: Event) -> Artifact | None:
    match event:
        case ArtifactProduced(artifact=artifact):
            return artifact
        case WritebackProposed(proposal=proposal):
            return proposal
    return None


class EventReceipt(Part):
    """Everything up to `accepted_seq` is stored. `stop` asks the colony to end this attempt at the next safe point."""

    accepted_seq: Acknowledged
    next_token: Token
    next_gateway_token: Token | None = since("1.1")
    lease_until: Utc
    stop: bool = False
    stop_reason: Note | None = None


class FieldError(BaseModel):
    """One thing that is wrong with a request: a JSON Pointer into the body, or the name of a parameter, and why."""

    model_config = ConfigDict(extra="allow")

    pointer: str | None = None
    parameter: str | None = None
    detail: str


class ProblemDocument(BaseModel):
    """RFC 9457, `application/problem+json`: every answer of status 400 and above. More members may stand beside these."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int = Field(ge=400, le=599)
    code: str
    detail: str
    errors: list[FieldError] = Field(default_factory=list)
    expected_seq: int | None = Field(default=None, ge=1, description="With the code sequence_gap: go on from here.")


class _AsProblem:
    """A problem that is handed on as it came: its schema says what to expect of it, and nothing of it is dropped."""

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(ProblemDocument.__pydantic_core_schema__)


class EventAnswer(Part):
    """What became of one mission's events: the receipt or the problem that they would have been answered with by themselves.

    retry_after_s: with a problem, when it is worth coming again.
    """

    mission_id: UUID
    receipt: EventReceipt | None = None
    problem: Annotated[dict[str, JsonValue], _AsProblem()] | None = None
    retry_after_s: float | None = Field(default=None, ge=0, le=86_400, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.receipt is None) == (self.problem is None):
            raise ValueError("an answer is a receipt or a problem")
        if self.problem is not None:
            status = self.problem.get("status")
            if type(status) is not int or not 400 <= status <= 599:
                raise ValueError("a problem names its status")
        return self


class EventAnswers(Part):
    """One answer for each mission, in the order they were sent."""

    missions: list[EventAnswer] = Field(min_length=1, max_length=MAX_MISSIONS_PER_CALL)


class Grounds(Part):
    """Why a change is wanted, for the humans who decide on it. evidence: bytes that the mission was shown."""

    summary: Note | None = None
    rationale: Quote | None = None
    evidence: list[Citation] = Field(default_factory=list, max_length=50)


class ToolCall(Part):
    """grounds go with a tool that changes something: its call becomes a proposal."""

    arguments: JsonObject = Field(default_factory=dict)
    grounds: Grounds | None = since("1.1")

    @model_serializer(mode="wrap")
    def _without_nothing(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A root that knows no grounds takes every call that has none."""
        said: dict[str, Any] = whole(self)
        return said if self.grounds is not None else {"arguments": said["arguments"]}


class ToolAnswer(Part):
    """What a tool returned; bounded by the size and depth of the whole body."""

    result: JsonValue


class ToolOffer(Part):
    """A tool that a mission may call. needed: its mission is blocked without it. why: what keeps it from being called now."""

    name: ToolName
    description: Annotated[str, StringConstraints(max_length=2_000, pattern=NO_NUL)]
    access: Literal["read", "mutate"]
    reach: Literal["internal", "public"]
    input_schema: dict[str, JsonValue]
    needed: bool = False
    usable: bool = True
    why: Note | None = None


class ToolOffers(Part):
    tools: list[ToolOffer] = Field(max_length=100)


class RootView(Part):
    """What the root believes about a mission, for a colony that lost its memory."""

    mission_id: UUID
    state: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_NUL)]
    attempt: Annotated[int, Field(ge=0, le=10_000)]
    last_seq: Acknowledged
    stop: bool
