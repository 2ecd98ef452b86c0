"""What is different about two runs of a mission, apart from ids and times.

Each run is told as lists of comparable entries; entries that both have are same or changed, the others only in one.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.canonical import canonical
from app.policy import PolicySet
from app.policy.engine import Asker, evaluate
from app.policy.vocabulary import ACTIONS
from app.replay.recording import Recording

# Members that differ between any two runs and say nothing of either.
OWN = ("mission_id", "tenant_id", "actor_id", "created_at", "id", "contract_hash", "proposal_id", "approval_id")
# What the root says of when it looked, and of how old things were then.
ROOTS_TIMES = ("created_at", "decided_at", "at", "read_at", "ingested_at", "written_at", "age", "age_days")
OPERATORS = "operate."  # decisions on what people did with a mission are no part of its run
MOST_SHOWN = 200
MOST_TEXT = 2000


@dataclass(frozen=True)
class Entry:
    """One thing of a run. key: what makes two of them the same thing; value: what is compared, and shown."""

    key: str
    value: Any


def diff(before: Recording, after: Recording, now: PolicySet) -> dict[str, Any]:
    """before is what was recorded, after the run that repeats it; now are the rules in force."""
    parts = {
        "decisions": compared(decisions(before), decisions(after)),
        "calls": compared(calls(before), calls(after)),
        "artifacts": compared(artifacts(before), artifacts(after)),
        "claims": compared(claims(before), claims(after)),
        "changes": compared(changes(before), changes(after)),
        "answer": compared([Entry("answer", answer(before))], [Entry("answer", answer(after))]),
        "outcome": compared([Entry("outcome", outcome(before))], [Entry("outcome", outcome(after))]),
    }
    return {
        "before": about(before),
        "after": about(after),
        "same": all(part["same_in_all"] for part in parts.values()),
        **parts,
        "cost": {"before": cost(before), "after": cost(after)},
        "timing": {"before": timing(before), "after": timing(after)},
        "divergence": next((fact.body for fact in after.facts if fact.type == "replay.diverged"), None),
        "todays_policy": todays(before, now),
    }


def about(run: Recording) -> dict[str, Any]:
    return {
        "mission": str(run.mission),
        "environment": run.environment,
        "mission_type": run.mission_type,
        "attempt": run.attempt,
        "state": run.state,
        "created_at": run.created_at,
        "closed_at": run.closed_at,
    }


# --- what is compared


def decisions(run: Recording) -> list[Entry]:
    """What policy said, by what it was asked: the how-manieth of the same question."""
    return counted(
        [one for one in run.decisions if not one.action.startswith(OPERATORS)],
        lambda one: f"{one.action} {one.resource}",
        lambda one: {"effect": one.effect, "rule": one.rule, "facts": one.inputs.get("context")},
    )


def calls(run: Recording) -> list[Entry]:
    return [
        Entry(
            f"{one.kind} {one.name} {one.call.sha256.hex()[:16]} {one.ordinal}",
            {
                "arguments": one.arguments,
                "outcome": one.outcome,
                # a denial names the decision it was made by, which is another one each time
                "answer_sha256": None if one.outcome == "denied" else hashlib.sha256(one.answer_bytes).hexdigest(),
            },
        )
        for one in run.calls
    ]


def artifacts(run: Recording) -> list[Entry]:
    """The artifacts of the attempt that is compared, each by its canonical bytes without what is the run's own."""
    of_attempt = [one for one in run.artifacts if one.attempt == run.attempt or one.schema_name == "mission_envelope"]
    return counted(
        of_attempt,
        lambda one: f"{one.schema_name} {one.producer}",
        lambda one: {"sha256": hashlib.sha256(canonical(bare(one.content))).hexdigest(), "content": bare(one.content)},
    )


def claims(run: Recording) -> list[Entry]:
    """What the root's review says of each claim."""
    reviews = [
        one for one in run.artifacts if one.schema_name == "review_packet" and one.content.get("reviewer") == "root"
    ]
    if not reviews:
        return []
    said: Any = reviews[-1].content
    return counted(
        said.get("claims", []),
        lambda one: str(one.get("text")),
        lambda one: {
            "supported": one.get("supported"),
            "citations": [
                {
                    "document": each["citation"]["document"],
                    "quote_sha256": each["citation"]["quote_sha256"],
                    "verified": each["verified"],
                }
                for each in one.get("citations", [])
            ],
        },
    )


def changes(run: Recording) -> list[Entry]:
    """What would be written where. In which state it is does not belong to it: a replay only has shadows."""
    return counted(
        run.changes,
        lambda one: (
            f"{one.payload.get('connector')} {json.dumps(one.payload.get('target'), sort_keys=True)} {one.payload.get('operation')}"
        ),
        lambda one: one.payload,
    )


def answer(run: Recording) -> dict[str, Any]:
    found = [one for one in run.artifacts if one.schema_name == "aggregation_packet" and one.attempt == run.attempt]
    said: Any = found[-1].content if found else {}
    return {"status": run.answer_status, "text": said.get("answer"), "not_found": said.get("not_found", [])}


def outcome(run: Recording) -> dict[str, Any]:
    """How it ended. Where a human had to be asked the first time, a replay is completed: its changes are shadows."""
    ended = "completed" if run.state in ("awaiting_approval", "executing") else run.state
    return {"state": ended, "reason": run.reason}


def cost(run: Recording) -> dict[str, Any]:
    """What its colony reported, and what models that were asked through the root used, whoever paid for it."""
    return {**used(run, "usage.reported"), "models": used(run, "model.called"), "calls": len(run.calls)}


def used(run: Recording, kind: str) -> dict[str, Any]:
    said = [fact.body for fact in run.facts if fact.type == kind]
    return {
        "tokens": sum(int(str(one.get("tokens_in", 0))) + int(str(one.get("tokens_out", 0))) for one in said),
        "cost_usd": round(sum(float(str(one.get("cost_usd", 0))) for one in said), 8),
    }


def timing(run: Recording) -> dict[str, Any]:
    """Milliseconds of each stage, as its colony reported them, and of each call."""
    stages = {
        str(fact.body["stage"]): fact.body["latency_ms"] for fact in run.of_attempt() if fact.type == "stage.completed"
    }
    return {"stages_ms": stages, "calls_ms": round(sum(one.took_ms for one in run.calls), 3)}


def todays(run: Recording, now: PolicySet) -> list[dict[str, Any]]:
    """What the rules in force now say to everything that was decided then."""
    found = []
    for one in run.decisions:
        if one.action not in ACTIONS:
            continue
        asked: Any = one.inputs
        who = Asker(asked["principal"]["id"], asked["principal"]["kind"], frozenset(asked["principal"]["roles"]))
        said = evaluate(who, one.action, one.resource, asked["context"], now)
        found.append(
            {
                "action": one.action,
                "resource": one.resource,
                "then": {"effect": one.effect, "rule": one.rule},
                "now": {"effect": said.effect, "rule": said.rule, "reason": said.reason},
                "changed": (one.effect, one.rule) != (said.effect, said.rule),
            }
        )
    return found


# --- comparing


def compared(before: Sequence[Entry], after: Sequence[Entry]) -> dict[str, Any]:
    old, new = {one.key: one.value for one in before}, {one.key: one.value for one in after}
    changed = [key for key in old if key in new and old[key] != new[key]]
    missing, added = [key for key in old if key not in new], [key for key in new if key not in old]
    return {
        "same_in_all": not (changed or missing or added),
        "same": len(old) - len(changed) - len(missing),
        "changed": [{"what": clipped(key), "before": clipped(old[key]), "after": clipped(new[key])} for key in changed][
            :MOST_SHOWN
        ],
        "only_before": [{"what": clipped(key), "is": clipped(old[key])} for key in missing][:MOST_SHOWN],
        "only_after": [{"what": clipped(key), "is": clipped(new[key])} for key in added][:MOST_SHOWN],
        "left_out": max(0, len(changed) - MOST_SHOWN)
        + max(0, len(missing) - MOST_SHOWN)
        + max(0, len(added) - MOST_SHOWN),
    }


def counted(found: Sequence[Any], key: Callable[[Any], str], value: Callable[[Any], Any]) -> list[Entry]:
    """Entries whose keys may repeat: told apart by how many there were before."""
    seen: dict[str, int] = {}
    entries = []
    for one in found:
        name = key(one)
        seen[name] = seen.get(name, 0) + 1
        entries.append(Entry(name if seen[name] == 1 else f"{name} ({seen[name]})", value(one)))
    return entries


def bare(value: Any) -> Any:
    """Without the ids and times of a run, all the way down."""
    if isinstance(value, Mapping):
        return {name: bare(one) for name, one in value.items() if name not in OWN and name not in ROOTS_TIMES}
    if isinstance(value, list):
        return [bare(one) for one in value]
    return value


def clipped(value: Any) -> Any:
    """Short enough to be read beside another."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    if len(text) <= MOST_TEXT:
        return value
    return text[:MOST_TEXT] + "…"
