"""What the rules say and why, what would change it, and what a changed policy would have said of the past."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cedarpy

from app.clock import iso
from app.identity import ROLES
from app.policy.engine import Asker, PolicySet, Rule, Verdict, evaluate, question, verdict
from app.policy.vocabulary import ACTIONS, KINDS, Action


@dataclass(frozen=True)
class Explained:
    """A verdict with the rules behind it and the single facts that would turn it."""

    verdict: Verdict
    rule: Rule | None
    forbids: list[Rule]
    permits: list[Rule]
    changes: list[dict[str, Any]]


def explain(asker: Asker, action: Action, resource: str, facts: Mapping[str, Any], policies: PolicySet) -> Explained:
    """The whole answer. The verdict is that of `evaluate`, by the same rules and nothing else."""
    said = evaluate(asker, action.name, resource, facts, policies)
    by_id = {} if policies.broken else {rule.id: rule for rule in policies.rules.values()}
    spoke = [by_id[name] for name in said.spoke]
    forbids = [rule for rule in spoke if rule.effect == "forbid"]
    permits = overruled(asker, action, resource, facts, policies) if forbids else spoke
    changes = turning(asker, action, resource, facts, policies, said)
    return Explained(said, by_id.get(said.rule), forbids, permits, changes)


def overruled(asker: Asker, action: Action, resource: str, facts: Mapping[str, Any], policies: PolicySet) -> list[Rule]:
    """The permits that would have spoken, had nothing forbidden it."""
    parsed, rules = policies.permits
    asked, entities = question(asker, action, resource, facts)
    answer = cedarpy.is_authorized(asked, parsed, entities)
    return sorted((rules[name] for name in answer.diagnostics.reasons), key=lambda rule: rule.id)


def turning(
    asker: Asker, action: Action, resource: str, facts: Mapping[str, Any], policies: PolicySet, now: Verdict
) -> list[dict[str, Any]]:
    """Every single fact that, being different, would give another effect: tried out, not guessed."""
    if policies.broken:
        return []
    tries: list[tuple[dict[str, Any], Asker, Mapping[str, Any]]] = []
    for name, fact in action.facts.items():
        for value in fact.values:
            if value != facts[name]:
                tries.append(({"fact": name, "from": facts[name], "to": value}, asker, {**facts, name: value}))
    if action.principal == "Principal":
        tries += others(asker, facts)
    found = []
    for change, who, what in tries:
        asked, entities = question(who, action, resource, what)
        then = verdict(action, cedarpy.is_authorized(asked, policies.parsed, entities), policies)
        if then.effect != now.effect:
            found.append(change | {"effect": then.effect, "rule": then.rule})
    return found


def others(asker: Asker, facts: Mapping[str, Any]) -> list[tuple[dict[str, Any], Asker, Mapping[str, Any]]]:
    """The same question from somebody with one role more or less, or of another kind."""
    tried: list[tuple[dict[str, Any], Asker, Mapping[str, Any]]] = []
    for role in ROLES:
        has = role in asker.roles
        roles = asker.roles - {role} if has else asker.roles | {role}
        said = {"fact": "roles", "from": role if has else None, "to": None if has else role}
        tried.append((said, replace(asker, roles=roles), facts))
    for kind in KINDS:
        if kind != asker.kind:
            tried.append(({"fact": "kind", "from": asker.kind, "to": kind}, replace(asker, kind=kind), facts))
    return tried


def redecide(decisions: Sequence[Mapping[str, Any]], now: PolicySet, then: PolicySet) -> list[dict[str, Any]]:
    """Which of these recorded decisions another set would decide otherwise than the set in force."""
    found = []
    for row in decisions:
        asked = json.loads(row["inputs"])
        if asked["action"] not in ACTIONS:
            continue
        who = Asker(asked["principal"]["id"], asked["principal"]["kind"], frozenset(asked["principal"]["roles"]))
        before = evaluate(who, asked["action"], asked["resource"], asked["context"], now)
        after = evaluate(who, asked["action"], asked["resource"], asked["context"], then)
        if (before.effect, before.rule, before.obligations) != (after.effect, after.rule, after.obligations):
            found.append(
                {
                    "decision": row["id"],
                    "mission_id": row["mission"],
                    "at": iso(row["at"]),
                    "action": row["action"],
                    "resource": row["resource"],
                    "recorded": short(row["effect"], row["rule"], row["obligations"]),
                    "now": short(before.effect, before.rule, before.obligations),
                    "then": short(after.effect, after.rule, after.obligations),
                }
            )
    return found


def short(effect: str, rule: str, obligations: Mapping[str, str]) -> dict[str, Any]:
    return {"effect": effect, "rule": rule, "obligations": dict(obligations)}
