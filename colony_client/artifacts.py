"""The ten artifacts that root and colony exchange: their shapes, their bounds, and the bytes that are hashed.

Bounds are characters for text and entries for lists. They are part of the contract: a value outside them is refused
by whoever receives it. Text never holds NUL or a lone surrogate (Postgres and RFC 8785 take neither), every instant
carries a zone and is kept in UTC, every number survives a double. Spans are byte offsets into the UTF-8 bytes of a
source, `start` included and `end` excluded; `source` is the SHA-256 of those bytes.
"""

import hashlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, get_args
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    model_validator,
)

from colony_client.canonical import canonical as canonical_json

MAX_SAFE_INTEGER = 2**53 - 1  # beyond it a JSON number loses digits in half of the world's parsers
MAX_JSON_DEPTH = 16
MAX_JSON_NODES = 20_000
MAX_JSON_CHARS = 256_000

MAX_GOAL = 8_000
MAX_QUOTE = 4_000
MAX_ANSWER = 50_000
MAX_CLAIMS = 500
MAX_PASSAGES = 500
MAX_CHANGES = 50
MAX_SOURCES = 1_000
MAX_CONTRADICTIONS = 100

NO_NUL = r"^[^\x00]*$"
SINCE = "x-since"  # in a field's schema: the version of the contract that it came with
SINCE_1_1: dict[str, Any] = {SINCE: "1.1"}


def _utc(value: datetime) -> datetime:
    if not 2000 <= value.year <= 2999:  # also keeps astimezone() away from the ends of the calendar
        raise ValueError("the year must be between 2000 and 2999")
    return value.astimezone(UTC)


def _bounded_json(value: Any) -> Any:
    """Refuse free-form JSON that is too deep, too large, or that cannot be hashed the same way twice."""
    nodes = chars = 0
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        nodes += 1
        children: list[Any] = []
        if isinstance(item, str):
            chars += len(item)
            _check_text(item)
        elif isinstance(item, int | float) and not math.isfinite(item):
            raise ValueError("numbers must be finite")
        elif isinstance(item, int | float) and abs(item) > MAX_SAFE_INTEGER:
            raise ValueError(f"numbers must lie within ±{MAX_SAFE_INTEGER}")
        elif isinstance(item, dict):
            children = [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            children = list(item)
        if children and depth >= MAX_JSON_DEPTH:
            raise ValueError(f"nested deeper than {MAX_JSON_DEPTH} levels")
        if nodes + len(waiting) + len(children) > MAX_JSON_NODES:
            raise ValueError(f"more than {MAX_JSON_NODES} values")
        if chars > MAX_JSON_CHARS:
            raise ValueError(f"more than {MAX_JSON_CHARS} characters of text")
        waiting.extend((child, depth + 1) for child in children)
    return value


def _check_text(text: str) -> None:
    if "\x00" in text:
        raise ValueError("text must not contain NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("text must not contain a lone surrogate") from None


Utc = Annotated[AwareDatetime, AfterValidator(_utc)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/#-]{0,127}$")]  # ids of tasks, claims, ...
TypeName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
ToolName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$", max_length=64)]
Line = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=NO_NUL)]
Locator = Annotated[str, StringConstraints(min_length=1, max_length=1_000, pattern=NO_NUL)]  # a path or a record id
Note = Annotated[str, StringConstraints(min_length=1, max_length=2_000, pattern=NO_NUL)]
Quote = Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUOTE, pattern=NO_NUL)]
Goal = Annotated[str, StringConstraints(min_length=1, max_length=MAX_GOAL, pattern=NO_NUL)]
Prose = Annotated[str, StringConstraints(max_length=MAX_ANSWER, pattern=NO_NUL)]
JsonObject = Annotated[dict[str, JsonValue], BeforeValidator(_bounded_json)]

Count = Annotated[int, Field(ge=0, le=1_000_000_000_000)]
Offset = Annotated[int, Field(ge=0, le=2**40)]
SafeInteger = Annotated[int, Field(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
Score = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Money = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Attempt = Annotated[int, Field(ge=1, le=10_000)]

RiskLevel = Literal["low", "medium", "high"]
SensitivityClass = Literal["public", "internal", "confidential", "restricted"]
Mode = Literal["dry_run", "assisted", "autonomous"]
Environment = Literal["local", "staging", "production"]
Trust = Literal["untrusted", "normal", "authoritative"]  # how far a source is trusted, least first


class Part(BaseModel):
    """The base of everything on the wire: immutable, no unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Producer(Part):
    """Who made an artifact: a service and the version of it."""

    name: Line
    version: Line


class Budgets(Part):
    """What one attempt may use: milliseconds, model tokens, US dollars."""

    time_ms: int = Field(ge=1, le=7 * 86_400_000)
    tokens: int = Field(ge=0, le=1_000_000_000)
    cost_usd: Money


class Span(Part):
    """A stretch of bytes of one stored source."""

    source: Sha256
    document: Locator
    start: Offset
    end: Offset

    @model_validator(mode="after")
    def _forwards(self) -> Self:
        if self.start >= self.end:
            raise ValueError("start must lie before end")
        return self


class Citation(Span):
    """A span and the words it is said to hold. Whether they match is checked by review, not by the shape."""

    quote: Quote
    quote_sha256: Sha256


class Claim(Part):
    id: Key
    text: Quote
    section: Line | None = None
    citations: list[Citation] = Field(max_length=50)
    confidence: Share | None = None


class ArtifactBase(Part):
    """What every artifact carries; `schema_name` tells the ten apart."""

    schema_version: Literal["1"] = "1"
    mission_id: UUID
    tenant_id: UUID
    actor_id: UUID
    created_at: Utc
    producer: Producer


class MissionEnvelope(ArtifactBase):
    """The normalized ask. Build it with `sealed_envelope`, which computes `contract_hash`."""

    schema_name: Literal["mission_envelope"] = "mission_envelope"
    mission_type: TypeName
    origin_surface: Line
    actor_role: Line
    user_goal: Goal
    normalized_goal: Goal
    risk_level: RiskLevel
    sensitivity_class: SensitivityClass
    mode: Mode
    environment: Environment
    inputs: JsonObject = Field(default_factory=dict)
    tools: list[ToolName] = Field(default_factory=list, max_length=100)
    labels: dict[Line, Annotated[str, StringConstraints(max_length=200, pattern=NO_NUL)]] = Field(
        default_factory=dict, max_length=50
    )
    budget: Budgets
    contract_hash: Sha256


class Task(Part):
    id: Key
    kind: Line
    title: Line
    question: Goal
    depends_on: list[Key] = Field(default_factory=list, max_length=100)


class MissionTaskGraph(ArtifactBase):
    """The plan. A task names only tasks listed before it, so the graph cannot hold a circle."""

    schema_name: Literal["mission_task_graph"] = "mission_task_graph"
    tasks: list[Task] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        known: set[str] = set()
        for task in self.tasks:
            if task.id in known:
                raise ValueError(f"task {task.id} is listed twice")
            if missing := set(task.depends_on) - known:
                raise ValueError(f"task {task.id} depends on {min(missing)}, which is not listed before it")
            known.add(task.id)
        return self


class Prompt(Part):
    task_id: Key
    role: Line
    instructions: Annotated[str, StringConstraints(max_length=20_000, pattern=NO_NUL)]
    terms: list[Line] = Field(default_factory=list, max_length=200)


class PromptPackage(ArtifactBase):
    schema_name: Literal["prompt_package"] = "prompt_package"
    prompts: list[Prompt] = Field(max_length=100)


class SearchResult(Span):
    score: Score


class Search(Part):
    task_id: Key
    query: Goal
    results: list[SearchResult] = Field(max_length=MAX_PASSAGES)


class LibrarianPass(ArtifactBase):
    """What was looked for and where something was found; the words themselves follow in `research_artifact`."""

    schema_name: Literal["librarian_pass"] = "librarian_pass"
    searches: list[Search] = Field(max_length=500)


class Passage(Span):
    id: Key
    task_id: Key | None = None
    heading: Locator | None = None
    quote: Quote
    quote_sha256: Sha256
    score: Score


class ResearchArtifact(ArtifactBase):
    schema_name: Literal["research_artifact"] = "research_artifact"
    passages: list[Passage] = Field(max_length=MAX_PASSAGES)


class WorkerResult(ArtifactBase):
    schema_name: Literal["worker_result"] = "worker_result"
    task_id: Key
    claims: list[Claim] = Field(max_length=MAX_CLAIMS)
    not_found: list[Note] = Field(default_factory=list, max_length=200)


class Section(Part):
    title: Line
    claim_ids: list[Key] = Field(default_factory=list, max_length=MAX_CLAIMS)
    text: Prose | None = None


class LeadFactor(Part):
    """One reason for a lead's score: the value that was read, the points it gave, and where it stands."""

    name: Line
    value: Note | SafeInteger | Score | bool | None = None
    points: Score
    explanation: Note
    citation: Citation | None = None


class Lead(Part):
    record_id: Line
    name: Line
    score: Score
    factors: list[LeadFactor] = Field(default_factory=list, max_length=50)


class AggregationPacket(ArtifactBase):
    """The composed result. `not_found` is an honest answer and therefore comes without claims."""

    schema_name: Literal["aggregation_packet"] = "aggregation_packet"
    answer_status: Literal["answered", "not_found"]
    answer: Prose
    claims: list[Claim] = Field(default_factory=list, max_length=MAX_CLAIMS)
    sections: list[Section] = Field(default_factory=list, max_length=50)
    not_found: list[Note] = Field(default_factory=list, max_length=200)
    leads: list[Lead] = Field(default_factory=list, max_length=500)
    proposals: int = Field(default=0, ge=0, le=10_000)

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        ids = {claim.id for claim in self.claims}
        if len(ids) < len(self.claims):
            raise ValueError("two claims share an id")
        if self.answer_status == "not_found" and self.claims:
            raise ValueError("an answer that was not found has no claims")
        for section in self.sections:
            if unknown := set(section.claim_ids) - ids:
                raise ValueError(f"a section names claim {min(unknown)}, which does not exist")
        return self


class ReviewedCitation(Part):
    citation: Citation
    verified: bool
    problem: Note | None = None


Days = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class SourceAge(Part):
    """How old sources were at review, in days: the oldest of them, and the median."""

    oldest_days: Days
    median_days: Days


class ReviewedClaim(Part):
    """A claim with the finding on each citation. age and trust are of the sources whose citations hold; the least trust."""

    claim_id: Key
    text: Quote
    citations: list[ReviewedCitation] = Field(max_length=50)
    supported: bool
    age: SourceAge | None = Field(default=None, json_schema_extra=SINCE_1_1)
    trust: Trust | None = Field(default=None, json_schema_extra=SINCE_1_1)


class ReviewedSource(Part):
    """A cited source as the root knows it.

    age_days: at review, since a document was last changed (since it was ingested, when nobody said), since a record was read.
    """

    source: Sha256
    document: Locator
    kind: Literal["document", "record"]
    trust: Trust
    age_days: Days
    read_at: Utc
    ingested_at: Utc | None = None
    written_at: Utc | None = None


class ContradictingSpan(Span):
    """One side of a contradiction: the passage, and the value in it that the other side has otherwise."""

    quote: Quote
    value: Line


class Contradiction(Part):
    """Two passages of different sources that say different things about the same matter. claims: which cite one of them."""

    kind: Literal["number", "amount", "date", "name", "negation"]
    why: Note
    one: ContradictingSpan
    other: ContradictingSpan
    claims: list[Key] = Field(default_factory=list, max_length=MAX_CLAIMS)


class ReviewPacket(ArtifactBase):
    """One review pass, the colony's own or the root's; `coverage` is the share of claims that are supported.

    The root's has, besides: the sources that are cited, how old they are and the least trust among them, and where the
    sources contradict each other. left_uncompared: sources that the mission was shown and that were too many, too large, or said
    more about what is cited than is compared.
    """

    schema_name: Literal["review_packet"] = "review_packet"
    reviewer: Literal["colony", "root"]
    verdict: Literal["passed", "failed"]
    claims: list[ReviewedClaim] = Field(max_length=MAX_CLAIMS)
    coverage: Share
    problems: list[Note] = Field(default_factory=list, max_length=500)
    minimum: JsonObject | None = None
    sources: list[ReviewedSource] | None = Field(default=None, max_length=MAX_SOURCES, json_schema_extra=SINCE_1_1)
    age: SourceAge | None = Field(default=None, json_schema_extra=SINCE_1_1)
    trust: Trust | None = Field(default=None, json_schema_extra=SINCE_1_1)
    contradictions: list[Contradiction] | None = Field(
        default=None, max_length=MAX_CONTRADICTIONS, json_schema_extra=SINCE_1_1
    )
    left_uncompared: Count | None = Field(default=None, json_schema_extra=SINCE_1_1)


class PolicyDecisionArtifact(ArtifactBase):
    schema_name: Literal["policy_decision"] = "policy_decision"
    action: Line
    resource: Locator
    effect: Literal["allow", "deny", "ask"]
    rule: Line
    policy_version: Line
    reason: Note
    inputs_sha256: Sha256
    obligations: JsonObject = Field(default_factory=dict)


class WritebackProposal(ArtifactBase):
    """A wish to change one record of an outside system; `expected_version` is the version it was read at."""

    schema_name: Literal["writeback_proposal"] = "writeback_proposal"
    proposal_id: UUID
    connector: TypeName
    target: Line
    operation: TypeName
    changes: Annotated[JsonObject, Field(min_length=1, max_length=MAX_CHANGES)]
    expected_version: Line | SafeInteger
    summary: Note
    rationale: Quote
    evidence: list[Citation] = Field(default_factory=list, max_length=50)
    risk_level: RiskLevel


Artifact = Annotated[
    MissionEnvelope
    | MissionTaskGraph
    | PromptPackage
    | ResearchArtifact
    | LibrarianPass
    | WorkerResult
    | AggregationPacket
    | ReviewPacket
    | PolicyDecisionArtifact
    | WritebackProposal,
    Field(discriminator="schema_name"),
]

_ANY_ARTIFACT: TypeAdapter[Artifact] = TypeAdapter(Artifact)

ARTIFACT_TYPES: dict[str, type[ArtifactBase]] = {
    kind.model_fields["schema_name"].default: kind for kind in get_args(get_args(Artifact)[0])
}


def parse_artifact(value: Mapping[str, Any] | bytes) -> Artifact:
    """Turn a decoded object, or its JSON bytes, into the artifact that its `schema_name` announces.

    Raises pydantic's ValidationError. Bytes from outside go through `wire.read_model` instead, which also bounds them.
    """
    return _ANY_ARTIFACT.validate_json(value) if isinstance(value, bytes) else _ANY_ARTIFACT.validate_python(value)


def canonical(model: BaseModel) -> bytes:
    """The RFC 8785 bytes of a model: what is stored, hashed, signed and compared."""
    return canonical_json(model.model_dump(mode="json"))


def quote_sha256(cited: bytes) -> str:
    """The hash a citation carries for the bytes it quotes."""
    return hashlib.sha256(cited).hexdigest()


UNSEALED = "0" * 64


def contract_hash(envelope: MissionEnvelope) -> str:
    """SHA-256 over what was agreed: the whole envelope but the hash itself and the moment it was made."""
    said = envelope.model_dump(mode="json")
    return _contract_hash(canonical_json(said), said)


def left_out_of_hash(contract_hash: str, created_at: str) -> bytes:
    """What the contract_hash is not over: it stands in one place of the canonical bytes, and nothing that a caller wrote before it."""
    return f'"contract_hash":"{contract_hash}","created_at":"{created_at}",'.encode()


def _contract_hash(data: bytes, said: dict[str, Any]) -> str:
    left_out = left_out_of_hash(said["contract_hash"], said["created_at"])
    return hashlib.sha256(data.replace(left_out, b"", 1)).hexdigest()


def sealed_envelope(**fields: Any) -> MissionEnvelope:
    """Build an envelope from every field but `contract_hash`, and set that."""
    return sealed(**fields)[0]


def sealed(**fields: Any) -> tuple[MissionEnvelope, bytes]:
    """The same with its canonical bytes."""
    draft = MissionEnvelope(contract_hash=UNSEALED, **fields)
    said = draft.model_dump(mode="json")
    data = canonical_json(said)
    sealed_by = _contract_hash(data, said)
    return draft.model_copy(update={"contract_hash": sealed_by}), data.replace(UNSEALED.encode(), sealed_by.encode(), 1)
