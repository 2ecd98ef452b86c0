"""The rules in force, what they would say, and changing a tenant's own."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.canonical import sha256
from app.clock import iso
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import Door, Reply, Routes, etag, reading, require_version, writing
from app.identity import ROLES
from app.policy import queries
from app.policy.actions import put
from app.policy.check import MAX_BYTES, MAX_RULES_TOGETHER, Finding, check
from app.policy.engine import BASELINE_NAME, Asker, PolicySet, Rule, Source, baseline_source, compiled, read_rule
from app.policy.explain import explain, redecide
from app.policy.text import statements
from app.policy.vocabulary import ACTIONS, KINDS, NAME, OBLIGING, Action, completed, faults, schema_text

router = Routes(tags=["policies"])
DESK = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policies")

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
    action = known_action(question)
    policies, in_force = await rules_for(door.session, question)
    who = asked_as(door, question, action)
    facts = completed(action, question.context)
    await door.session.connection.close()  # explaining takes a while, and needs the database no more
    said = await aside(explain, who, action, question.resource, facts, policies)
    return Reply(
        {
            "effect": said.verdict.effect,
            "rule": said.verdict.rule,
            "reason": said.verdict.reason,
            "policy_version": said.verdict.policy_version,
            "would_change": said.verdict.would_change,
            "obligations": said.verdict.obligations,
            "in_force": in_force,
            "deciding": vars(said.rule) if said.rule else None,
            "forbids": [vars(rule) for rule in said.forbids],
            "permits": [vars(rule) for rule in said.permits],
            "changes": said.changes,
            "facts": facts,
            "assumed": sorted(facts.keys() - question.context.keys()),
        }
    ).response()


def known_action(question: Question) -> Action:
    """The action asked about. Raises Problem when it, a fact or a role is none that rules know."""
    action = ACTIONS.get(question.action)
    if action is None:
        found = [{"pointer": "/action", "detail": f"must be one of {', '.join(ACTIONS)}"}]
        raise Problem("validation", f"/action: there is no action {question.action[:100]}", errors=found)
    found = [
        {"pointer": "/context/" + name.replace("~", "~0").replace("/", "~1"), "detail": detail}
        for name, detail in faults(action, question.context)
    ]
    for number, role in enumerate(question.principal.roles if question.principal else []):
        if role not in ROLES:
            found.append({"pointer": f"/principal/roles/{number}", "detail": f"must be one of {', '.join(ROLES)}"})
    if found:
        raise Problem("validation", f"{found[0]['pointer']}: {found[0]['detail']}", errors=found[:20])
    return action


def asked_as(door: Door[Any], question: Question, action: Action) -> Asker:
    caller, other = door.caller, question.principal
    if action.principal != "Principal":
        return Asker(str(caller.principal))
    if other is not None:
        return Asker(str(caller.principal), other.kind, frozenset(other.roles))
    return Asker(str(caller.principal), caller.kind, caller.roles)


async def rules_for(session: ReadSession, question: Question) -> tuple[PolicySet, bool]:
    """The rules the question is about, and whether they are in force."""
    if question.policies and question.against:
        found = [{"pointer": "/against", "detail": "leave it out, or leave out policies"}]
        raise Problem("validation", "/against: asks about one set, policies about another", errors=found)
    if question.policies:
        return await proposed_rules(session, question.policies), False
    current = await queries.in_force(session)
    if question.against is None:
        return current, True
    then = await queries.set_of(session, question.against)
    if then is None:
        found = [{"pointer": "/against", "detail": "must be the policy_version of a decision of this tenant"}]
        raise Problem("validation", "/against: no decision was made by that version", errors=found)
    return then, then.version == current.version


async def proposed_rules(session: ReadSession, given: list[Proposed]) -> PolicySet:
    """The set as it would be. Raises Problem for every fault of a text, by its place in the list."""
    current = await queries.in_force(session)
    await session.connection.close()  # what follows needs the database no more
    rules = sum(len(statements(one.text)) for one in given)
    if rules > MAX_RULES_TOGETHER:
        found = [{"pointer": "/policies", "detail": f"at most {MAX_RULES_TOGETHER} rules in all, and here are {rules}"}]
        refuse(found)
    found = [
        {**finding, "pointer": f"/policies/{number}{finding['pointer']}"}
        for number, one in enumerate(given)
        for finding in await aside(check, one.name, one.text, without_broken(current))
    ]
    names = [one.name for one in given]
    found += [
        {"pointer": f"/policies/{number}/name", "detail": "each name once"}
        for number, name in enumerate(names)
        if name in names[:number]
    ]
    refuse(found)
    made: PolicySet = await aside(queries.replaced, current, {one.name: one.text for one in given})
    return made


async def aside(work: Callable[..., Any], *given: Any) -> Any:
    """What may take a while, in a thread of its own and one after the other: nobody's question holds up the others."""
    return await asyncio.get_running_loop().run_in_executor(DESK, work, *given)


def without_broken(policies: PolicySet) -> PolicySet:
    """The rules a text is checked beside. Those of a set that cannot be read are no help: the shipped ones are."""
    return compiled(()) if policies.broken else policies


def named(found: list[Finding]) -> list[Finding]:
    """The same where the name stands in the address and not in the body."""
    return [{"parameter": "name", "detail": one["detail"]} if one["pointer"] == "/name" else one for one in found]


def refuse(found: list[Finding]) -> None:
    if found:
        place = found[0].get("pointer") or found[0]["parameter"]
        raise Problem("validation", f"{place}: {found[0]['detail']}", errors=found[:20])


@router.get("/v1/policies", operation_id="listPolicies", response_model=list[PolicyView], summary="The rules in force")
async def list_policies(door: Annotated[Door[ReadSession], reading("policies.evaluate")]) -> Response:
    """The shipped baseline first, then the tenant's own policies, each with its Cedar text and its rules in words."""
    own = [own_view(row) for row in await queries.policies(door.session) if not row["retired"]]
    return Reply([baseline_view(), *own]).response()


@router.get(
    "/v1/policy-vocabulary",
    operation_id="getPolicyVocabulary",
    response_model=Vocabulary,
    summary="What rules may speak of",
)
async def get_vocabulary(door: Annotated[Door[ReadSession], reading("policies.evaluate")]) -> Response:
    """Actions with their facts and values, obligations, roles, and the Cedar schema every policy is held against."""
    actions = [
        {
            "name": action.name,
            "meaning": action.meaning,
            "principal": action.principal,
            "resource": action.resource,
            "obligations": action.asks,
            "facts": [
                {
                    "name": name,
                    "meaning": fact.meaning,
                    "values": list(fact.values),
                    "assumed": fact.assumed,
                    "written": f"{fact.place}.{name}",
                }
                for name, fact in action.facts.items()
            ],
        }
        for action in ACTIONS.values()
    ]
    said = {"actions": actions, "obligations": list(OBLIGING), "roles": list(ROLES), "kinds": list(KINDS)}
    return Reply(said | {"cedar_schema": schema_text()}).response()


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
    views = [source_view(one) for one in found.sources]
    return Reply({"version": version, "in_force": version == current.version, "policies": views}).response()


@router.get("/v1/policies/{name}", operation_id="getPolicy", response_model=PolicyHistory, summary="One policy")
async def get_policy(name: Name, door: Annotated[Door[ReadSession], reading("policies.evaluate")]) -> Response:
    """The newest version and all before it. Its ETag is what a change wants as If-Match."""
    if name == BASELINE_NAME:
        return Reply(baseline_view() | {"history": []}).response()
    found = await queries.history(door.session, name)
    if not found:
        raise Problem("not_found", "There is no such policy.")
    return Reply(history_view(found), headers={"ETag": etag(found[0]["version"])}).response()


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
    current = await queries.in_force(door.session)
    refuse(named(await aside(check, name, ask.text, without_broken(current))))
    found = await queries.history(door.session, name)
    seen = found[0]["version"] if found else 0
    if found and found[0]["text"].decode() != ask.text and not validate_only:
        require_version(request, seen, history_view(found))
    if validate_only:
        return Reply(source_view(Source(name, seen + 1, ask.text))).response()
    outcome, version = await put(door.session, door.caller, name, ask.text, seen)
    [now, *_] = await queries.history(door.session, name)
    return Reply(own_view(now), 201 if outcome == "added" else 200, {"ETag": etag(version)}).response()


@router.delete("/v1/policies/{name}", operation_id="retirePolicy", response_model=PolicyView, summary="Retire a policy")
async def retire_policy(
    name: Name, request: Request, door: Annotated[Door[WriteSession], writing("policies.write")]
) -> Response:
    """Ends a policy by a new version without rules; its history stays. If-Match required."""
    found = await queries.history(door.session, name)
    if not found:
        raise Problem("not_found", "There is no such policy.")
    require_version(request, found[0]["version"], history_view(found))
    _, version = await put(door.session, door.caller, name, None, found[0]["version"])
    [now, *_] = await queries.history(door.session, name)
    return Reply(own_view(now), headers={"ETag": etag(version)}).response()


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
    current = await queries.in_force(door.session)
    refuse(named(await aside(check, name, ask.text, without_broken(current))))
    then = await queries.proposed(door.session, {name: ask.text})
    decisions = await queries.last_decisions(door.session, ask.last)
    await door.session.connection.close()  # deciding takes a while, and needs the database no more
    changed = await aside(redecide, decisions, current, then)
    return Reply({"examined": len(decisions), "policy_version": then.version, "changed": changed}).response()


# --- views ------------------------------------------------------------------------------------------------------------


def rules_of(name: str, text: str) -> list[Rule]:
    """The rules of a text; none when it cannot be read, which the rest of the view then shows."""
    try:
        return [read_rule(name, one.text) for one in statements(text)]
    except (ValueError, KeyError):
        return []


def source_view(source: Source) -> dict[str, Any]:
    data = source.text.encode()
    return {
        "name": source.name,
        "version": source.version or sha256(data).hex(),
        "sha256": sha256(data).hex(),
        "retired": False,
        "text": source.text,
        "rules": [vars(rule) for rule in rules_of(source.name, source.text)],
        "created_by": None,
        "created_at": None,
    }


def baseline_view() -> dict[str, Any]:
    return source_view(baseline_source())


def own_view(row: dict[str, Any]) -> dict[str, Any]:
    source = Source(row["name"], row["version"], row["text"].decode())
    return source_view(source) | {
        "retired": row["retired"],
        "created_by": row["created_by"],
        "created_at": iso(row["created_at"]),
    }


def history_view(found: list[dict[str, Any]]) -> dict[str, Any]:
    """One policy with its versions."""
    history = [
        {
            "version": row["version"],
            "sha256": row["sha256"].hex(),
            "retired": row["retired"],
            "text": row["text"].decode(),
            "created_by": row["created_by"],
            "created_at": iso(row["created_at"]),
        }
        for row in found
    ]
    return own_view(found[0]) | {"history": history}
