"""The rules in force, what they would say, and changing a tenant's own.

The models stay in this module: where two rooms have one of the same name, the OpenAPI document names it by its module.
"""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import Door, Reply, Routes, etag, reading, require_version, writing
from app.policy import queries, views
from app.policy.actions import put
from app.policy.asking import aside, asked_as, known_action, rules_for, sound
from app.policy.check import MAX_BYTES
from app.policy.engine import BASELINE_NAME, Source
from app.policy.explain import explain, redecide
from app.policy.vocabulary import NAME, completed

router = Routes(tags=["policies"])

Name = Annotated[str, Path(pattern=f"^{NAME.pattern}$", description="A policy's name.")]
SetVersion = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="The policy_version of a decision.")]
Text = Annotated[str, Field(min_length=1, max_length=MAX_BYTES, description="Cedar rules; docs/policies.md says how.")]
Effect = Literal["allow", "deny", "ask"]
EXAMPLE = """@id("crm_care.two_for_leads")
@reason("A change to the CRM takes two people here, whatever its risk.")
@approvals("2")
permit (principal, action == Action::"writeback.propose", resource in Connector::"sample_crm")
when { context.known_connector };
"""


class Proposed(BaseModel):
    """A policy as it might be."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=f"^{NAME.pattern}$")
    text: Text


class Person(BaseModel):
    """As whom to ask; the caller when left out."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["human", "service", "agent"] = "human"
    roles: list[str] = Field(default_factory=list, max_length=20, description="Such as operator.")


class Question(BaseModel):
    """What would policy say? context holds the facts the rules look at; those left out are assumed, and the answer says how."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "action": "mission.create",
                    "resource": "oracle_advisory",
                    "context": {
                        "mode": "autonomous",
                        "risk_level": "high",
                        "sensitivity_class": "internal",
                        "environment": "production",
                        "public_tools": False,
                        "on_ladder": True,
                    },
                }
            ]
        },
    )
    action: str = Field(min_length=1, max_length=100, description="One of GET /v1/policy-vocabulary.")
    resource: str = Field(min_length=1, max_length=200)
    context: dict[str, bool | int | str] = Field(default_factory=dict, max_length=50)
    principal: Person | None = None
    against: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="The policy_version to ask instead of the one in force."
    )
    policies: list[Proposed] = Field(
        default_factory=list, max_length=20, description="Texts to ask as if they were in force already."
    )


class RuleView(BaseModel):
    """One rule. policy is `baseline` for shipped ones."""

    id: str
    policy: str
    effect: Literal["permit", "forbid"]
    reason: str
    change: str | None
    obligations: dict[str, str]
    text: str


class Turn(BaseModel):
    """A single fact that, being different, would give another effect."""

    fact: str
    from_: Any = Field(alias="from")
    to: Any
    effect: Effect
    rule: str


class Answer(BaseModel):
    """The verdict, the rule that gave it, every other rule that spoke, and what would change it."""

    effect: Effect
    rule: str
    reason: str
    policy_version: str
    would_change: str | None
    obligations: dict[str, str]
    in_force: bool
    deciding: RuleView | None
    forbids: list[RuleView]
    permits: list[RuleView]
    changes: list[Turn]
    facts: dict[str, bool | str]
    assumed: list[str]


class PolicyView(BaseModel):
    """A policy in its newest version. version of the baseline is the hash of the shipped text."""

    name: str
    version: int | str
    sha256: str
    retired: bool
    text: str
    rules: list[RuleView]
    created_by: UUID | None
    created_at: str | None


class PolicyHistory(PolicyView):
    """A policy with every version it ever had, newest first."""

    history: list[dict[str, Any]]


class PolicySetView(BaseModel):
    """Exactly the rules that a recorded decision names."""

    version: str
    in_force: bool
    policies: list[PolicyView]


class FactView(BaseModel):
    name: str
    meaning: str
    values: list[bool | str]
    assumed: bool | str
    written: str


class ActionView(BaseModel):
    name: str
    meaning: str
    principal: str
    resource: str
    obligations: bool
    facts: list[FactView]


class Vocabulary(BaseModel):
    """What rules may speak of, and the Cedar schema made of it."""

    actions: list[ActionView]
    obligations: list[str]
    roles: list[str]
    kinds: list[str]
    cedar_schema: str


class PolicyText(BaseModel):
    """A policy's whole text."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"text": EXAMPLE}]})
    text: Text


class PreviewAsk(PolicyText):
    """A policy's text, and how many of the newest decisions to decide again."""

    last: int = Field(500, ge=1, le=1000)


class Preview(BaseModel):
    """What the newest decisions would have been: those that would differ, and how many were looked at."""

    examined: int
    policy_version: str
    changed: list[dict[str, Any]]


@router.post("/v1/policies/evaluate", operation_id="evaluatePolicy", response_model=Answer, summary="Ask before acting")
async def evaluate_policy(
    question: Question, door: Annotated[Door[ReadSession], reading("policies.evaluate")]
) -> Response:
    """Decides without recording or changing anything, and explains: by the rules in force, those of then, or proposed ones."""
    action = known_action(question.action, question.context, question.principal.roles if question.principal else ())
    policies, in_force = await rules_for(
        door.session, question.against, [(one.name, one.text) for one in question.policies]
    )
    who = asked_as(door.caller, action, question.principal)
    facts = completed(action, question.context)
    await door.session.connection.close()  # explaining takes a while, and needs the database no more
    said = await aside(explain, who, action, question.resource, facts, policies)
    assumed = sorted(facts.keys() - question.context.keys())
    return Reply(views.answer(said, in_force) | {"facts": facts, "assumed": assumed}).response()


@router.get("/v1/policies", operation_id="listPolicies", response_model=list[PolicyView], summary="The rules in force")
async def list_policies(door: Annotated[Door[ReadSession], reading("policies.evaluate")]) -> Response:
    """The shipped baseline first, then the tenant's own policies, each with its Cedar text and its rules in words."""
    own = [views.own(row) for row in await queries.policies(door.session) if not row["retired"]]
    return Reply([views.baseline(), *own]).response()


@router.get(
    "/v1/policy-vocabulary",
    operation_id="getPolicyVocabulary",
    response_model=Vocabulary,
    summary="What rules may speak of",
)
async def get_vocabulary(door: Annotated[Door[ReadSession], reading("policies.evaluate")]) -> Response:
    """Actions with their facts and values, obligations, roles, and the Cedar schema every policy is held against."""
    return Reply(views.vocabulary()).response()


@router.get(
    "/v1/policy-sets/{version}",
    operation_id="getPolicySet",
    response_model=PolicySetView,
    summary="The rules of a recorded decision",
)
async def get_set(version: SetVersion, door: Annotated[Door[ReadSession], reading("policies.evaluate")]) -> Response:
    """What a decision's policy_version stands for: the very texts it was decided by, however often they changed since."""
    found = await queries.set_of(door.session, version)
    if found is None:
        raise Problem("not_found", "There is no such policy version.")
    current = await queries.in_force(door.session)
    policies = [views.source(one) for one in found.sources]
    return Reply({"version": version, "in_force": version == current.version, "policies": policies}).response()


@router.get("/v1/policies/{name}", operation_id="getPolicy", response_model=PolicyHistory, summary="One policy")
async def get_policy(name: Name, door: Annotated[Door[ReadSession], reading("policies.evaluate")]) -> Response:
    """The newest version and all before it. Its ETag is what a change wants as If-Match."""
    if name == BASELINE_NAME:
        return Reply(views.baseline() | {"history": []}).response()
    found = await known(door.session, name)
    return Reply(views.history(found), headers={"ETag": etag(found[0]["version"])}).response()


@router.put(
    "/v1/policies/{name}",
    operation_id="putPolicy",
    response_model=PolicyView,
    summary="Add or change a policy",
    responses={201: {"model": PolicyView, "description": "The policy was not there before."}},
)
async def put_policy(
    name: Name,
    ask: PolicyText,
    request: Request,
    door: Annotated[Door[WriteSession], writing("policies.write")],
    validate_only: Annotated[bool, Query(description="Make every check and change nothing.")] = False,
) -> Response:
    """Checks the text against the schema and keeps it as a new version, in force at once. A change wants If-Match.

    The same text again changes nothing. Decisions already made keep the version they were made by.
    """
    await sound(door.session, name, ask.text)
    found = await queries.history(door.session, name)
    seen = found[0]["version"] if found else 0
    if validate_only:
        return Reply(views.source(Source(name, seen + 1, ask.text))).response()
    if found and found[0]["text"].decode() != ask.text:
        require_version(request, seen, views.history(found))
    return await changed(door, name, ask.text, seen)


@router.delete("/v1/policies/{name}", operation_id="retirePolicy", response_model=PolicyView, summary="Retire a policy")
async def retire_policy(
    name: Name, request: Request, door: Annotated[Door[WriteSession], writing("policies.write")]
) -> Response:
    """Ends a policy by a new version without rules; its history stays. If-Match required."""
    found = await known(door.session, name)
    require_version(request, found[0]["version"], views.history(found))
    return await changed(door, name, None, found[0]["version"])


@router.post(
    "/v1/policies/{name}/preview",
    operation_id="previewPolicy",
    response_model=Preview,
    summary="What a changed policy would have said",
)
async def preview_policy(
    name: Name, ask: PreviewAsk, door: Annotated[Door[ReadSession], reading("policies.evaluate")]
) -> Response:
    """Decides the newest recorded decisions again, as if this text were in force; nothing is kept or changed."""
    current = await sound(door.session, name, ask.text)
    then = await queries.proposed(door.session, {name: ask.text})
    decisions = await queries.last_decisions(door.session, ask.last)
    await door.session.connection.close()  # deciding takes a while, and needs the database no more
    turned = await aside(redecide, decisions, current, then)
    return Reply({"examined": len(decisions), "policy_version": then.version, "changed": turned}).response()


async def known(session: ReadSession, name: str) -> list[dict[str, Any]]:
    """A policy's versions, newest first. Raises Problem not_found."""
    found = await queries.history(session, name)
    if not found:
        raise Problem("not_found", "There is no such policy.")
    return found


async def changed(door: Door[WriteSession], name: str, text: str | None, seen: int) -> Response:
    """The policy after a change that was made on seeing a version."""
    outcome, version = await put(door.session, door.caller, name, text, seen)
    [now, *_] = await queries.history(door.session, name)
    return Reply(views.own(now), 201 if outcome == "added" else 200, {"ETag": etag(version)}).response()
