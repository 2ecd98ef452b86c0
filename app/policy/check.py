"""Whether a text may become a policy: every fault with its line and what to do about it."""

import json
import re
from collections.abc import Sequence

import cedarpy

from app.policy.engine import PolicySet
from app.policy.text import Statement, statements
from app.policy.vocabulary import ACTIONS, NAME, OBLIGING, RESERVED, RULE_ID, SAYING, obligation_fault, schema

MAX_BYTES = 65_536
MAX_RULES = 100
MAX_RULES_TOGETHER = 400
MAX_NOTE = 500
MAX_PIECES = 2_000
END = "unexpected end of input"
# What a reader does not see, and Cedar may read otherwise than we do: a carriage return alone ends its comments.
ODD = re.compile(r"\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

Finding = dict[str, str]


def check(name: str, text: str, others: PolicySet) -> list[Finding]:
    """The faults of a policy's text beside the other policies of its tenant, each with pointer, line and remedy."""
    if fault := name_fault(name, others):
        return [{"pointer": "/name", "detail": fault}]
    if len(text.encode()) > MAX_BYTES:
        return [{"pointer": "/text", "detail": f"at most {MAX_BYTES} bytes; split it into two policies"}]
    if hidden := ODD.search(text):
        line = text.count("\n", 0, hidden.start()) + 1
        return [at(line, "holds a control character; lines end with a line feed, and text is plain")]
    rules = statements(text)
    if not rules:
        return [at(1, "holds no rule; to end a policy, DELETE it")]
    room = MAX_RULES_TOGETHER - sum(one.policy not in (name, "baseline") for one in others.rules.values())
    if len(rules) > min(MAX_RULES, room):
        return [
            at(
                rules[min(MAX_RULES, max(room, 0))].line,
                f"at most {MAX_RULES} rules here, {MAX_RULES_TOGETHER} in all policies",
            )
        ]
    found: list[Finding] = []
    seen: dict[str, int] = {}
    for rule in rules:
        found += check_rule(name, rule, seen)
        if len(found) >= 20:
            break
    return found[:20]


def name_fault(name: str, others: PolicySet) -> str | None:
    taken = {rule.id.split(".")[0] for rule in others.rules.values() if rule.policy == "baseline"} | set(RESERVED)
    if not NAME.fullmatch(name):
        return "2 to 63 of a-z, 0-9 and _, beginning with a letter"
    return f"{name} belongs to the product; choose another name" if name in taken else None


def at(line: int, detail: str) -> Finding:
    return {"pointer": "/text", "line": str(line), "detail": f"line {line}: {detail}"}


def check_rule(name: str, rule: Statement, seen: dict[str, int]) -> list[Finding]:
    if len(rule.pieces) > MAX_PIECES:
        return [at(rule.line, f"a rule has at most {MAX_PIECES} words and signs; split it")]
    try:
        said = json.loads(cedarpy.policies_to_json_str(rule.text))
    except ValueError as refused:
        return [syntax(rule, str(refused))]
    if len(said["staticPolicies"]) != 1:
        return [at(rule.line, "templates are not taken: write the rule without ?principal and ?resource")]
    [policy] = said["staticPolicies"].values()
    found = [at(line_of(rule, note), detail) for note, detail in note_faults(name, policy, rule, seen)]
    if not found:
        found = [
            at(rule.line, remedy(error.error)) for error in cedarpy.validate_policies(rule.text, schema()).errors[:5]
        ]
    return found or [at(rule.line, detail) for detail in obligation_faults(policy, rule)]


def syntax(rule: Statement, said: str) -> Finding:
    """Where Cedar stops reading: the first word after which no continuation could make a rule."""
    low, high = 0, len(rule.pieces)
    begin = rule.pieces[0].at
    while low < high:
        middle = (low + high) // 2
        last = rule.pieces[middle]
        if viable(rule.text[: last.at - begin + len(last.text)]):
            low = middle + 1
        else:
            high = middle
    where = rule.pieces[min(low, len(rule.pieces) - 1)]
    hint = "end the rule with a semicolon" if said == END else "see docs/policies.md for how a rule is written"
    return at(where.line, f"{said}; {hint}")


def viable(beginning: str) -> bool:
    try:
        cedarpy.policies_to_json_str(beginning)
    except ValueError as refused:
        return str(refused) == END
    return True


def line_of(rule: Statement, note: str) -> int:
    """The line of an annotation, or of the rule that lacks it."""
    for before, piece in zip(rule.pieces, rule.pieces[1:], strict=False):
        if before.text == "@" and piece.text == note:
            return piece.line
    return rule.line


def note_faults(name: str, policy: dict[str, object], rule: Statement, seen: dict[str, int]) -> list[tuple[str, str]]:
    notes = policy.get("annotations", {})
    assert isinstance(notes, dict)
    found = []
    for note, value in notes.items():
        if note not in SAYING + OBLIGING:
            found.append((note, f"there is no @{note}; there is @{', @'.join(SAYING + OBLIGING)}"))
        elif not isinstance(value, str) or not 1 <= len(value) <= MAX_NOTE:
            found.append((note, f"@{note} takes 1 to {MAX_NOTE} characters in quotes"))
        elif note in OBLIGING and (fault := obligation_fault(note, value)):
            found.append((note, fault))
        elif note in OBLIGING and policy["effect"] == "forbid":
            found.append(
                (note, f"@{note} belongs to a permit: a forbid lets nothing through that could be asked about")
            )
    for note in ("id", "reason"):
        if note not in notes:
            found.append((note, f'the rule lacks @{note}("…"), by which people and the record know it'))
    id_ = notes.get("id")
    if isinstance(id_, str) and id_:
        if not RULE_ID.fullmatch(id_) or not id_.startswith(f"{name}.") or len(id_) > 100:
            found.append(
                ("id", f'write @id("{name}.…"): policy, dot, and a name of a-z, 0-9 and _, at most 100 in all')
            )
        elif id_ in seen:
            found.append(("id", f"{id_} is the id of the rule in line {seen[id_]} already"))
        seen.setdefault(id_, rule.line)
    return found


def obligation_faults(policy: dict[str, object], rule: Statement) -> list[str]:
    """An obligation that nobody would carry out is refused rather than ignored."""
    notes = policy.get("annotations", {})
    assert isinstance(notes, dict)
    if not any(note in OBLIGING for note in notes):
        return []
    silent = [name for name in actions_of(rule) if not ACTIONS[name].asks]
    asking = ", ".join(name for name, action in ACTIONS.items() if action.asks)
    return [f"{silent[0]} asks nobody: obligations are kept for {asking} only; name that action"] if silent else []


def actions_of(rule: Statement) -> Sequence[str]:
    """The actions a rule can speak of: those for which it would still be valid beside a request of theirs."""
    policies = cedarpy.PolicySet.from_str(bare(rule))
    found = []
    for name, action in ACTIONS.items():
        asked = {
            "principal": {"type": action.principal, "id": "x"},
            "action": {"type": "Action", "id": name},
            "resource": {"type": action.resource, "id": "x"},
        }
        parents = [{"type": "Action", "id": action.group}] if action.group else []
        entities = [{"uid": asked["action"], "attrs": {}, "parents": parents}]
        if cedarpy.is_authorized(asked, policies, entities).diagnostics.reasons:
            found.append(name)
    return found


def bare(rule: Statement) -> str:
    """The rule for everybody and everything, without its conditions: only which actions it is about."""
    said = json.loads(cedarpy.policies_to_json_str(rule.text))
    [policy] = said["staticPolicies"].values()
    policy |= {"conditions": [], "principal": {"op": "All"}, "resource": {"op": "All"}}
    return cedarpy.policies_from_json_str(json.dumps(said))


REMEDIES = (
    (
        "not found",
        "GET /v1/policy-vocabulary lists the facts of every action; name the action whose facts the rule uses",
    ),
    ("unrecognized action", "GET /v1/policy-vocabulary lists the actions"),
    ("unrecognized entity type", "GET /v1/policy-vocabulary shows the schema with its types"),
    (
        "applicable action",
        "what a mission does has a Requester without roles; name principal and resource types that the action has",
    ),
    ("not compatible", "compare with a value of the fact's own type"),
)


def remedy(error: str) -> str:
    said = error.removeprefix("for policy `policy0`, ")
    return next((f"{said}; {what}" for sign, what in REMEDIES if sign in said), said)[:500]
