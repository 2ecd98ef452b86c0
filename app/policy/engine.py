"""Asking Cedar, and saying its answer in our words."""

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import cedarpy

Effect = Literal["allow", "deny", "ask"]
BASELINE = Path(__file__).parent / "baseline.cedar"
VERSION = "baseline-1"


@dataclass(frozen=True)
class Rule:
    """One rule as a person reads it."""

    id: str
    effect: Literal["permit", "forbid"]
    reason: str
    ask: str | None
    change: str | None


@dataclass(frozen=True)
class Verdict:
    """What the rules say about one action. rule is the deciding one, `default` when none spoke."""

    effect: Effect
    rule: str
    reason: str
    policy_version: str
    would_change: str | None = None
    obligations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PolicySet:
    """Parsed rules: parsing costs ten times an evaluation, so it happens once."""

    version: str
    text: str
    parsed: cedarpy.PolicySet
    rules: dict[str, Rule]  # by the id that Cedar reports


@lru_cache(maxsize=1)
def baseline() -> PolicySet:
    text = BASELINE.read_text()
    found: dict[str, Rule] = {}
    for name, policy in json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"].items():
        notes = policy.get("annotations", {})
        found[name] = Rule(notes["id"], policy["effect"], notes["reason"], notes.get("ask"), notes.get("change"))
    return PolicySet(VERSION, text, cedarpy.PolicySet.from_str(text), found)


def evaluate(
    principal: str, action: str, resource: str, context: dict[str, Any], policies: PolicySet | None = None
) -> Verdict:
    """The verdict of the rules: deny unless permitted, forbid wins, and a permission that asks outranks one that does not."""
    policies = policies or baseline()
    question = {
        "principal": {"type": "Principal", "id": principal},
        "action": {"type": "Action", "id": action},
        "resource": {"type": "Resource", "id": resource},
        "context": context,
    }
    answer = cedarpy.is_authorized(question, policies.parsed, [])
    if answer.diagnostics.errors:
        # A rule that cannot be evaluated must never open a door.
        return Verdict(
            "deny", "error", f"A rule could not be evaluated: {answer.diagnostics.errors[0]}"[:500], policies.version
        )
    speaking = sorted(
        (policies.rules[name] for name in answer.diagnostics.reasons), key=lambda rule: (rule.ask is None, rule.id)
    )
    if not speaking:
        return Verdict("deny", "default", f"No rule permits {action}.", policies.version)
    rule = speaking[0]
    effect: Effect = "deny" if answer.decision != cedarpy.Decision.Allow else "ask" if rule.ask else "allow"
    obligations = {"approver_role": rule.ask} if effect == "ask" and rule.ask else {}
    return Verdict(effect, rule.id, rule.reason, policies.version, rule.change, obligations)
