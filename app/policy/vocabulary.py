"""What rules may speak of: actions, their principals, resources and facts, and the obligations a permit may carry.

The Cedar schema is made from these tables, so a rule that passes it asks only about facts that will be there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import cedarpy

from app.identity import ROLES

Place = Literal["context", "resource"]


@dataclass(frozen=True)
class Fact:
    """One thing the rules may look at. values are all it may be; empty for open words. assumed answers a question that leaves it out."""

    meaning: str
    values: tuple[str, ...] | tuple[bool, ...]
    assumed: str | bool
    place: Place = "context"

    @property
    def cedar(self) -> str:
        return "Bool" if isinstance(self.assumed, bool) else "String"


def flag(meaning: str, assumed: bool, place: Place = "context") -> Fact:
    return Fact(meaning, (True, False), assumed, place)


def word(meaning: str, assumed: str = "", place: Place = "context") -> Fact:
    return Fact(meaning, (), assumed, place)


MODE = Fact("The mission's mode.", ("dry_run", "assisted", "autonomous"), "assisted")
RISK = Fact("How much harm it could do.", ("low", "medium", "high"), "low")
CLASS = Fact("How sensitive the material is.", ("public", "internal", "confidential", "restricted"), "internal")
ENVIRONMENT = Fact("Where this service runs.", ("local", "staging", "production"), "local")
REACH = Fact("Whether it leaves the installation.", ("internal", "public"), "internal", "resource")


@dataclass(frozen=True)
class Action:
    """One thing that is decided. principal: `Principal` has roles and a kind; `Requester` is known by id only.

    asks says that somebody carries obligations out there: elsewhere a permit must not promise them.
    """

    name: str
    meaning: str
    principal: Literal["Principal", "Requester"]
    resource: str
    facts: Mapping[str, Fact]
    asks: bool = False
    group: str | None = None

    def of(self, place: Place) -> dict[str, Fact]:
        return {name: fact for name, fact in self.facts.items() if fact.place == place}


OPERATE = "operate"


def operate(name: str, meaning: str, resource: str, **facts: Fact) -> Action:
    return Action(f"{OPERATE}.{name}", meaning, "Principal", resource, facts, group=OPERATE)


OWN = flag("Whether the caller requested the mission.", False)
ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        Action(
            "mission.create",
            "A mission is requested.",
            "Principal",
            "MissionType",
            {
                "mode": MODE,
                "risk_level": RISK,
                "sensitivity_class": CLASS,
                "environment": ENVIRONMENT,
                "public_tools": flag("Whether a tool it names reaches the public web.", False),
                "on_ladder": flag("Whether the rollout ladder lets missions of this type go this far here.", True),
            },
            asks=True,
        ),
        Action(
            "tool.call",
            "A mission under way calls a tool.",
            "Requester",
            "Tool",
            {
                "access": Fact("Whether the tool reads or changes.", ("read", "mutate"), "read", "resource"),
                "reach": REACH,
                "layer": word(
                    "The registered layer it belongs to; built_in for the root's own.", "built_in", "resource"
                ),
                "cleared": flag("Whether the tool may be told of material of the mission's class.", True),
                "listed": flag("Whether the mission's own list of tools holds it.", True),
                "own_workspace": flag("Whether it stays in the mission's workspace.", True),
                "mode": MODE,
                "sensitivity_class": CLASS,
                "environment": ENVIRONMENT,
            },
        ),
        Action(
            "model.call",
            "A mission under way asks a language model.",
            "Requester",
            "Model",
            {
                "provider": word("Who runs the model.", "deterministic", "resource"),
                "reach": REACH,
                "route": Fact("Through the root's gateway, or past it.", ("gateway", "direct"), "gateway"),
                "listed": flag("Whether the deployment lets the provider see material of this class.", True),
                "mode": MODE,
                "sensitivity_class": CLASS,
                "environment": ENVIRONMENT,
            },
        ),
        Action(
            "writeback.propose",
            "A reviewed proposal to change a business system is to be put before humans.",
            "Requester",
            "Operation",
            {
                "connector": word("The connector's name.", "sample_crm", "resource"),
                "operation": word("What would be done there.", "update", "resource"),
                "known_connector": flag("Whether the tenant has this connector.", True),
                "risk_level": RISK,
                "mode": MODE,
                "sensitivity_class": CLASS,
                "environment": ENVIRONMENT,
                "approval_route_tested": flag("Whether humans have let one change through and stopped another.", False),
            },
            asks=True,
        ),
        operate(
            "approval.decide",
            "Somebody decides an approval; the wall checks afterwards that they may.",
            "Approval",
            subject=Fact("What is to be approved.", ("writeback", "mission"), "writeback"),
            verdict=Fact("What they decide.", ("approve", "reject"), "approve"),
            risk_level=RISK,
        ),
        operate(
            "approval.reassign",
            "Somebody hands an approval to another role; the wall checks afterwards that they may.",
            "Approval",
            subject=Fact("What is to be approved.", ("writeback", "mission"), "writeback"),
            role=word("The role that it goes to.", "admin"),
            risk_level=RISK,
        ),
        operate(
            "approval.escalate",
            "Somebody asks another role as well; the wall checks afterwards that they may.",
            "Approval",
            subject=Fact("What is to be approved.", ("writeback", "mission"), "writeback"),
            role=word("The role that is asked as well.", "admin"),
            risk_level=RISK,
        ),
        operate(
            "approval.ask",
            "Somebody asks a question about an approval; the wall checks afterwards that they may.",
            "Approval",
            subject=Fact("What is to be approved.", ("writeback", "mission"), "writeback"),
            risk_level=RISK,
        ),
        operate(
            "approval.answer",
            "Somebody answers a question about an approval; the wall checks afterwards that they may.",
            "Approval",
            subject=Fact("What is to be approved.", ("writeback", "mission"), "writeback"),
            risk_level=RISK,
        ),
        operate(
            "writeback.vouch",
            "An operator says what became of a change that its target cannot tell of; the wall checks afterwards that they may.",
            "Writeback",
            found=Fact("What they found.", ("applied", "not_applied", "cannot_tell"), "not_applied"),
            risk_level=RISK,
        ),
        operate("mission.cancel", "Somebody ends a mission.", "Mission", own=OWN, environment=ENVIRONMENT),
        operate("mission.fail", "Somebody marks a mission as failed.", "Mission", own=OWN, environment=ENVIRONMENT),
        operate(
            "mission.replay",
            "Somebody has a mission run again.",
            "Mission",
            own=OWN,
            replay=Fact("From its record, or for real.", ("recorded", "rerun"), "recorded"),
            environment=ENVIRONMENT,
        ),
        operate(
            "mission.redispatch",
            "Somebody takes a mission from the colony's hands and offers it anew.",
            "Mission",
            own=OWN,
            environment=ENVIRONMENT,
        ),
        operate("mission.extend", "Somebody gives a mission more time.", "Mission", own=OWN, environment=ENVIRONMENT),
        operate("connector.halt", "Somebody stops writing through a connector.", "Connector", environment=ENVIRONMENT),
        operate("connector.resume", "Somebody lets it write again.", "Connector", environment=ENVIRONMENT),
        operate("tool_layer.halt", "Somebody switches a layer of tools off.", "ToolLayer", environment=ENVIRONMENT),
        operate("tool_layer.resume", "Somebody switches it on again.", "ToolLayer", environment=ENVIRONMENT),
    )
}

HELD_BY_PEOPLE = tuple(role for role in ROLES if role != "colony")
KINDS = ("human", "service", "agent")
# What a permit may carry, and how it is written. `id`, `reason` and `change` say; the others oblige.
NAME = re.compile(r"[a-z][a-z0-9_]{1,62}")
RULE_ID = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)+")
PERIOD = re.compile(r"([1-9][0-9]{0,4})([smhd])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST_S = 30 * 86_400
SAYING = ("id", "reason", "change")
OBLIGING = ("approvals", "approver_role", "expires", "escalate_to")
RESERVED = ("baseline", "evaluate", "default", "error", "conflict")


def seconds(period: str) -> int:
    """`4h` as seconds. Raises ValueError for anything that is no period of at most 30 days."""
    found = PERIOD.fullmatch(period)
    if found is None or (length := int(found[1]) * SECONDS[found[2]]) > LONGEST_S:
        raise ValueError(f"{period!r} is no period such as 30m, 4h or 2d, of at most 30 days")
    return length


def obligation_fault(name: str, value: str) -> str | None:
    """Why an obligation's value cannot be kept; None when it can."""
    if name == "approvals" and not re.fullmatch("[1-9]", value):
        return "@approvals takes a number from 1 to 9, in quotes"
    if name in ("approver_role", "escalate_to") and value not in HELD_BY_PEOPLE:
        return f"@{name} takes one of {', '.join(HELD_BY_PEOPLE)}"
    if name == "expires":
        try:
            seconds(value)
        except ValueError as refused:
            return str(refused)
    return None


def schema_text() -> str:
    """The Cedar schema that every policy is held against."""
    attributes: dict[str, dict[str, Fact]] = {}
    for action in ACTIONS.values():
        attributes.setdefault(action.resource, {}).update(action.of("resource"))
    lines = [
        "// Whose roles are known, and whose id only: what a mission does is done for its requester.",
        "entity Role;",
        "entity Principal in [Role] = { kind: String };",
        "entity Requester;",
    ]
    for resource, facts in attributes.items():
        if resource == "Connector":
            continue
        within = " in [Connector]" if resource == "Operation" else ""
        lines.append(f"entity {resource}{within}{record(facts, ' = ')};")
    lines += ["entity Connector;", f'action "{OPERATE}";']
    for action in ACTIONS.values():
        within = f' in [Action::"{action.group}"]' if action.group else ""
        lines += [
            f"// {action.meaning}",
            f'action "{action.name}"{within} appliesTo {{',
            f"  principal: [{action.principal}], resource: [{action.resource}],",
            f"  context: {record(action.of('context'))}",
            "};",
        ]
    return "\n".join(lines) + "\n"


def record(facts: Mapping[str, Fact], before: str = "") -> str:
    said = ", ".join(f"{name}: {fact.cedar}" for name, fact in facts.items())
    return f"{before}{{ {said} }}" if said or not before else ""


@lru_cache(maxsize=1)
def schema() -> cedarpy.Schema:
    return cedarpy.Schema.from_str(schema_text())


def faults(action: Action, context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with the facts of a question, as (name, what to do). Facts that were left out are no fault."""
    found = []
    for name, value in context.items():
        fact = action.facts.get(name)
        if fact is None:
            found.append((name, f"{action.name} has no such fact; it has {', '.join(action.facts)}"))
        elif type(value) is not type(fact.assumed):
            found.append((name, "must be true or false" if isinstance(fact.assumed, bool) else "must be a word"))
        elif fact.values and value not in fact.values:
            found.append((name, f"must be one of {', '.join(map(str, fact.values))}"))
    return found


def completed(action: Action, context: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a question with what was left out filled in."""
    return {name: fact.assumed for name, fact in action.facts.items()} | dict(context)
