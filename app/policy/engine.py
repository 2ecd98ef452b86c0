"""Asking Cedar, and saying its answer in our words."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import cedarpy

from app.canonical import canonical, sha256
from app.policy.text import statements
from app.policy.vocabulary import ACTIONS, OBLIGING, OPERATE, Action, seconds

Effect = Literal["allow", "deny", "ask"]
BASELINE = Path(__file__).parent / "baseline.cedar"
BASELINE_NAME = "baseline"


@dataclass(frozen=True)
class Asker:
    """Who acts, as the rules see them. kind is empty where only the id is known: for what a mission does."""

    id: str
    kind: str = ""
    roles: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Source:
    """One policy: a name, a version and Cedar text. The baseline is version 0."""

    name: str
    version: int
    text: str


@dataclass(frozen=True)
class Rule:
    """One rule as a person reads it."""

    id: str
    policy: str
    effect: Literal["permit", "forbid"]
    reason: str
    change: str | None
    obligations: dict[str, str]
    text: str


@dataclass(frozen=True)
class Verdict:
    """What the rules say about one action. rule is the deciding one, `default` when none spoke."""

    effect: Effect
    rule: str
    reason: str
    policy_version: str
    would_change: str | None = None
    obligations: dict[str, str] = field(default_factory=dict)
    spoke: tuple[str, ...] = ()


@dataclass(frozen=True)
class PolicySet:
    """The baseline and a tenant's own policies, parsed once: parsing costs far more than asking.

    broken says why the rules cannot be read; a set that cannot be read denies everything.
    """

    sources: tuple[Source, ...]
    broken: str | None = None

    @cached_property
    def manifest(self) -> bytes:
        """Which rules these are, as canonical bytes; their hash is the set's version."""
        own = [
            {"name": one.name, "version": one.version, "sha256": sha256(one.text.encode()).hex()}
            for one in self.sources[1:]
        ]
        return canonical({"baseline": sha256(self.sources[0].text.encode()).hex(), "policies": own})

    @cached_property
    def version(self) -> str:
        return sha256(self.manifest).hex()

    @cached_property
    def version_bytes(self) -> bytes:
        return sha256(self.manifest)

    @cached_property
    def verdicts(self) -> dict[bytes, Verdict]:
        """What was answered lately, by the canonical bytes of what was asked."""
        return {}

    @cached_property
    def parsed(self) -> cedarpy.PolicySet:
        """Read from the very rules that are checked, listed and explained: the text between them is nobody's rule, whatever
        Cedar would make of it (its comments end at a carriage return, too)."""
        rules = [rule.text for one in self.sources for rule in statements(one.text)]
        return cedarpy.PolicySet.from_str("\n".join(rules))

    @cached_property
    def rules(self) -> dict[str, Rule]:
        """The rules by the number Cedar gives them: its numbers follow the order of the text."""
        found: list[Rule] = []
        for source in self.sources:
            found += [read_rule(source.name, one.text) for one in statements(source.text)]
        if len(found) != len(self.parsed):
            raise ValueError("a rule was not recognized")
        return {f"policy{number}": rule for number, rule in enumerate(found)}

    @cached_property
    def permits(self) -> tuple[cedarpy.PolicySet, dict[str, Rule]]:
        """The permits alone: what would have spoken for an action, had nothing forbidden it."""
        rules = [rule for rule in self.rules.values() if rule.effect == "permit"]
        parsed = cedarpy.PolicySet.from_str("\n".join(rule.text for rule in rules))
        return parsed, {f"policy{number}": rule for number, rule in enumerate(rules)}


def read_rule(policy: str, text: str) -> Rule:
    """One rule of a checked text. Raises ValueError or KeyError for what the check would have refused."""
    [said] = json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"].values()
    notes = said.get("annotations", {})
    obligations = {name: notes[name] for name in OBLIGING if name in notes}
    return Rule(notes["id"], policy, said["effect"], notes["reason"], notes.get("change"), obligations, text)


@lru_cache(maxsize=1)
def baseline_source() -> Source:
    return Source(BASELINE_NAME, 0, BASELINE.read_text())


def compiled(own: Sequence[Source]) -> PolicySet:
    """The baseline with a tenant's own policies. Text that cannot be read makes a set that denies."""
    if not own:
        return baseline()
    made = PolicySet((baseline_source(), *sorted(own, key=lambda one: one.name)))
    try:
        _ = made.parsed, made.rules
    except (ValueError, KeyError) as refused:
        return PolicySet(made.sources, broken=f"A policy cannot be read: {type(refused).__name__}.")
    return made


@lru_cache(maxsize=1)
def baseline() -> PolicySet:
    made = PolicySet((baseline_source(),))
    _ = made.parsed, made.rules, made.version
    return made


# --- asking -----------------------------------------------------------------------------------------------------------


def question(asker: Asker, action: Action, resource: str, facts: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """What Cedar is asked, and the things it may look at."""
    context = {name: facts[name] for name in action.facts if action.facts[name].place == "context"}
    attributes = {name: facts[name] for name in action.facts if action.facts[name].place == "resource"}
    who = {"type": action.principal, "id": asker.id}
    what = {"type": action.resource, "id": resource}
    parents = [{"type": "Connector", "id": attributes["connector"]}] if action.resource == "Operation" else []
    entities: list[dict[str, Any]] = [{"uid": what, "attrs": attributes, "parents": parents}]
    if action.principal == "Principal":
        roles = [{"type": "Role", "id": role} for role in sorted(asker.roles)]
        entities.append({"uid": who, "attrs": {"kind": asker.kind}, "parents": roles})
    if action.group:
        uid = {"type": "Action", "id": action.name}
        entities.append({"uid": uid, "attrs": {}, "parents": [{"type": "Action", "id": OPERATE}]})
    asked = {"principal": who, "action": {"type": "Action", "id": action.name}, "resource": what, "context": context}
    return asked, json.dumps(entities)


def evaluate(asker: Asker, action: str, resource: str, context: Mapping[str, Any], policies: PolicySet) -> Verdict:
    """The verdict of the rules: deny unless permitted, forbid wins, obligations of all permits that spoke hold together.

    Whatever cannot be evaluated is denied: an unknown action, facts that are missing or unknown, rules that fail.
    """
    known = ACTIONS.get(action)
    if known is None:
        return failed(f"There is no action {action}.", policies)
    if policies.broken:
        return failed(policies.broken, policies)
    if context.keys() != known.facts.keys():
        return failed(f"The facts of {action} are not complete.", policies)
    asked, entities = question(asker, known, resource, context)
    answer = cedarpy.is_authorized(asked, policies.parsed, entities)
    return verdict(known, answer, policies)


def verdict(action: Action, answer: cedarpy.AuthzResult, policies: PolicySet) -> Verdict:
    if answer.diagnostics.errors:
        # A rule that cannot be evaluated must never open a door.
        return failed(f"A rule could not be evaluated: {answer.diagnostics.errors[0]}"[:500], policies)
    speaking = sorted(
        (policies.rules[name] for name in answer.diagnostics.reasons), key=lambda rule: (not rule.obligations, rule.id)
    )
    if not speaking:
        return Verdict("deny", "default", f"No rule permits {action.name}.", policies.version)
    rule, spoke = speaking[0], tuple(one.id for one in speaking)
    if answer.decision != cedarpy.Decision.Allow:
        return Verdict("deny", rule.id, rule.reason, policies.version, rule.change, {}, spoke)
    obligations, conflict = together(speaking)
    if conflict:
        return Verdict("deny", "conflict", conflict, policies.version, None, {}, spoke)
    effect: Effect = "ask" if obligations else "allow"
    return Verdict(effect, rule.id, rule.reason, policies.version, rule.change, obligations, spoke)


def failed(why: str, policies: PolicySet) -> Verdict:
    return Verdict("deny", "error", why, policies.version)


def together(rules: Sequence[Rule]) -> tuple[dict[str, str], str | None]:
    """The obligations of several permits as one: most approvals, shortest life, and the tenant's word on who before ours.

    Two rules of the tenant that name different people cannot both be kept: that is said, and denied.
    """
    found: dict[str, str] = {}
    said = [(rule, name, value) for rule in rules for name, value in rule.obligations.items()]
    if numbers := [int(value) for _, name, value in said if name == "approvals"]:
        found["approvals"] = str(max(numbers))
    for who in ("approver_role", "escalate_to"):
        named = [(rule, value) for rule, name, value in said if name == who]
        own = {value for rule, value in named if rule.policy != BASELINE_NAME}
        ours = {value for rule, value in named if rule.policy == BASELINE_NAME}
        chosen = own or ours
        if len(chosen) > 1:
            ids = ", ".join(sorted(rule.id for rule, value in named if value in chosen))
            return {}, f"Rules name different people as {who}: {ids}."
        if chosen:
            found[who] = chosen.pop()
    if periods := [value for _, name, value in said if name == "expires"]:
        found["expires"] = min(periods, key=seconds)
    return found, None
