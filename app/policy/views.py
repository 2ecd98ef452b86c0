"""Policies, answers and the vocabulary, as the API says them."""

from typing import Any

from app.canonical import sha256
from app.clock import iso
from app.identity import ROLES
from app.policy.engine import Rule, Source, baseline_source, read_rule
from app.policy.explain import Explained
from app.policy.text import statements
from app.policy.vocabulary import ACTIONS, KINDS, OBLIGING, schema_text


def answer(said: Explained, in_force: bool) -> dict[str, Any]:
    verdict = said.verdict
    return {
        "effect": verdict.effect,
        "rule": verdict.rule,
        "reason": verdict.reason,
        "policy_version": verdict.policy_version,
        "would_change": verdict.would_change,
        "obligations": verdict.obligations,
        "in_force": in_force,
        "deciding": vars(said.rule) if said.rule else None,
        "forbids": [vars(rule) for rule in said.forbids],
        "permits": [vars(rule) for rule in said.permits],
        "changes": said.changes,
    }


def vocabulary() -> dict[str, Any]:
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
    return said | {"cedar_schema": schema_text()}


def rules_of(name: str, text: str) -> list[Rule]:
    """The rules of a text; none when it cannot be read, which the rest of the view then shows."""
    try:
        return [read_rule(name, one.text) for one in statements(text)]
    except (ValueError, KeyError):
        return []


def source(one: Source) -> dict[str, Any]:
    data = one.text.encode()
    return {
        "name": one.name,
        "version": one.version or sha256(data).hex(),
        "sha256": sha256(data).hex(),
        "retired": False,
        "text": one.text,
        "rules": [vars(rule) for rule in rules_of(one.name, one.text)],
        "created_by": None,
        "created_at": None,
    }


def baseline() -> dict[str, Any]:
    return source(baseline_source())


def own(row: dict[str, Any]) -> dict[str, Any]:
    return source(Source(row["name"], row["version"], row["text"].decode())) | {"retired": row["retired"]} | kept(row)


def kept(row: dict[str, Any]) -> dict[str, Any]:
    """Who put a version, and when."""
    return {"created_by": row["created_by"], "created_at": iso(row["created_at"])}


def history(found: list[dict[str, Any]]) -> dict[str, Any]:
    """One policy with its versions."""
    versions = [
        {
            "version": row["version"],
            "sha256": row["sha256"].hex(),
            "retired": row["retired"],
            "text": row["text"].decode(),
            **kept(row),
        }
        for row in found
    ]
    return own(found[0]) | {"history": versions}
