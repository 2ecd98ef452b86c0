"""Sentences and figures in a person's words, made from what the root knows."""

import json
import re
from collections import Counter
from datetime import datetime
from typing import Any

from app.clock import now

TONES = {
    "good": "completed succeeded approved verified ok up pass on allow permit healthy low done enabled",
    "bad": "failed denied rejected expired down fail deny high halted drifted broken forbid",
    "warn": "cancelled awaiting_approval pending medium unknown stale degraded inconclusive ask executing retired open untrusted",
}
TONE = {state: tone for tone, states in TONES.items() for state in states.split()}


def tone(state: str) -> str:
    """Whether a state is good news: good, bad, warn, or calm."""
    return TONE.get(state, "calm")


def ago(moment: datetime, at: datetime) -> str:
    seconds = (at - moment).total_seconds()
    return f"in {span(-seconds)}" if seconds < -1 else "now" if seconds < 2 else f"{span(seconds)} ago"


def span(seconds: float) -> str:
    """A length of time in its largest unit or two."""
    seconds = max(0, int(seconds))
    for size, name, lower, below in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            rest = seconds % size // lower
            return f"{seconds // size} {name}" + (f" {rest} {below}" if rest and seconds < 10 * size else "")
    return f"{seconds} s"


def left(said: str) -> str:
    """How long until a moment; that it is over."""
    seconds = (datetime.fromisoformat(said) - now()).total_seconds()
    return span(seconds) if seconds > 0 else "over"


def count(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def usd(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 0.01 or amount == 0 else f"${amount:.4f}"


def share(part: float, whole: float) -> str:
    return f"{round(100 * part / whole)} %" if whole else "–"


VERBS = {"update": "Update", "create": "Create", "delete": "Delete", "append": "Add to"}


def sentence(approval: dict[str, Any], environment: str, now_values: dict[str, Any] | None = None) -> dict[str, Any]:
    """Part 1 of an approval, from the payload alone: verb, count, kind, record, system, and each field's change."""
    payload = approval["payload"] or {}
    if approval["subject"] == "mission":
        return {"verb": "Let run", "what": f"1 mission of type {approval['mission_type']}", "record": "", "system": "",
                "environment": environment, "changes": []}  # fmt: skip
    before = now_values or {}
    changes = [
        {"field": name, "before": before.get(name), "known": name in before, "after": value}
        for name, value in sorted(payload["changes"].items())
    ]
    verb = VERBS.get(payload["operation"], payload["operation"].replace("_", " ").capitalize())
    return {
        "verb": verb,
        "what": f"1 {payload['target']['kind'].replace('_', ' ')}",
        "record": payload["target"]["id"],
        "system": payload["connector"],
        "environment": environment,
        "changes": changes,
    }


FACTS = {
    "mission.accepted": "Asked for, and accepted",
    "mission.refused": "Asked for, and refused by policy",
    "mission.dispatched": "Handed to the colony",
    "mission.running": "The colony began",
    "mission.in_review": "Handed in for review",
    "mission.reviewed": "Evidence reviewed by the root",
    "mission.awaiting_approval": "Waits for a human",
    "mission.executing": "Approved changes are carried out",
    "mission.completed": "Completed",
    "mission.failed": "Failed",
    "mission.denied": "Denied",
    "mission.cancelled": "Cancelled",
    "mission.degraded": "Waits: something is away",
    "colony.signalled": "The colony said how it goes on",
    "stage.started": "Stage began",
    "stage.completed": "Stage done",
    "artifact.stored": "Artifact kept",
    "artifact.repeated": "Artifact said again",
    "tool.called": "Tool asked",
    "tool.denied": "Tool refused by policy",
    "tool.failed": "Tool failed",
    "model.called": "Model asked",
    "model.denied": "Model refused by policy",
    "budget.presumed": "A call whose end is not known counts with all it held",
    "writeback.proposed": "Change proposed",
    "writeback.withheld": "Change withheld",
    "writeback.denied": "Change refused by policy",
    "writeback.shadowed": "Change shadowed: a replay writes nothing",
    "writeback.claimed": "Claimed: the call may leave now, once",
    "writeback.attempted": "Target called",
    "writeback.settled": "Settled",
    "writeback.renewed": "Asked again for the newer version",
    "approval.opened": "Approval asked for",
    "approval.seen": "Opened by somebody who may decide",
    "approval.decided": "Decided",
    "approval.closed": "Approval closed",
    "approval.reminded": "Approvers reminded",
    "approval.escalated": "Another role asked too",
    "approval.reassigned": "Handed to another role",
    "approval.questioned": "Question asked",
    "approval.answered": "Question answered",
    "approval.glass_broken": "Glass broken",
    "approval.superseded": "Replaced by another revision",
}
STOPPED = {
    "connector_retired": "Its connector was retired after it was approved.",
    "connector_changed": "Its connector was defined anew after it was approved. The same can be asked for by a new mission.",
}
VOUCHED = {"applied": "that the change is there", "not_applied": "that the change is not there"}
IDENTIFIER = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Where a story turns. What lies between is told in one line each, and opened when somebody wants to see it.
TURNS = {name for name in FACTS if name.startswith(("approval.", "writeback.", "mission."))} - {
    "mission.running",
    "mission.degraded",
}
KINDS = {"tool": "tool call", "stage": "stage", "artifact": "artifact", "model": "model call"}


def fact(type: str) -> str:
    """What a fact's type says, as a step of a story."""
    return FACTS.get(type) or type.replace("_", " ").replace(".", ": ", 1).capitalize()


def between(steps: list[dict[str, Any]]) -> str:
    """Steps between two turns of a story, counted: 6 tool calls, 3 stages."""
    done = [one for one in steps if one["type"] != "stage.started"]
    counted = Counter(KINDS.get(one["type"].partition(".")[0], "other step") for one in done or steps)
    return ", ".join(count(n, kind) for kind, n in counted.most_common())


def said(body: dict[str, Any]) -> list[tuple[str, Any]]:
    """The members of a fact's body that a person wants to see; the rest is in the export."""
    wanted = ("state", "verdict", "stage", "schema_name", "tool", "name", "outcome", "effect", "rule", "verdict", "reason", "connector",
              "operation", "target", "latency_ms", "attempt", "model", "role", "risk_level", "required", "coverage")  # fmt: skip
    found = [(name, body[name]) for name in dict.fromkeys(wanted) if body.get(name) not in (None, "", [], {})]
    return [(name, value) for name, value in found if not (isinstance(value, str) and IDENTIFIER.fullmatch(value))]


def hashes(body: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (name.removesuffix("_sha256"), value)
        for name, value in sorted(body.items())
        if name.endswith("sha256") and value
    ]


def pretty(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True)
