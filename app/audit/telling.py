"""Facts told as steps: which facts go together, and the one sentence that says what they were. The words are the root's own."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from app.ledger import Fact

COLONYS = {"stage", "artifact", "usage", "checkpoint", "colony", "model", "provider"}
GOES_ON = {
    "mission.dispatched",
    "mission.running",
    "mission.in_review",
    "mission.reviewed",
}  # what it was doing, it goes on doing
SHORT = 12  # characters of a hash in a sentence; the step's facts hold all of it


@dataclass
class Step:
    """Facts that belong together: one after the other, or of many changes at the same stage."""

    group: tuple[Any, ...]
    facts: list[Fact] = field(default_factory=list)
    targets: Mapping[str, str] = field(default_factory=dict)

    @property
    def what(self) -> str:
        return str(self.group[0])

    @property
    def first(self) -> Fact:
        return self.facts[0]

    @property
    def body(self) -> Mapping[str, Any]:
        return self.facts[0].body

    @property
    def change(self) -> str:
        """Which change it is about, when it is one: the record."""
        target = self.targets.get(str(self.body.get("writeback")))
        return f"the change to {target}" if target else "it"

    def count(self, type: str) -> int:
        return sum(fact.type == type for fact in self.facts)


def steps_of(facts: Sequence[Fact], targets: Mapping[str, str] | None = None) -> list[Step]:
    """In the order in which they began; each of one subject alone, whose chain is what proves it. A move of a mission ends
    what was going on in it before.

    targets: the record that each writeback would change, by the writeback's id.
    """
    steps: list[Step] = []
    going: dict[tuple[Any, ...], Step] = {}
    for fact in facts:
        group = (*group_of(fact), fact.subject)
        if fact.type.startswith("mission.") and fact.type not in GOES_ON:
            going = {other: step for other, step in going.items() if step.first.subject != fact.subject}
        if group not in going:
            steps.append(going.setdefault(group, Step(group, targets=targets or {})))
        going[group].facts.append(fact)
    return steps


def group_of(fact: Fact) -> tuple[Any, ...]:
    """What facts of one subject are told together: the name of the step, and what has to be the same."""
    body, (room, _, verb) = fact.body, fact.type.partition(".")
    match fact.type:
        case "mission.dispatched" | "mission.running":
            return "handed_over", body.get("attempt")
        case "mission.reviewed":
            return ("reviewed",)
        case "artifact.stored" if fact.actor.startswith("system:"):
            return ("reviewed",)
        case "tool.called" | "writeback.proposed" | "mission.in_review":
            return "worked", body.get("attempt", 1)
        case "approval.decided":
            return "decided", body.get("verdict"), fact.actor, body.get("state")
        case "approval.escalated" | "approval.reminded" | "approval.reassigned":
            return fact.type, fact.actor, body.get("role")
        case "approval.answered":
            return fact.type, fact.actor, body.get("state")
        case "approval.closed":
            return "closed", body.get("state"), fact.actor, body.get("reason")
        case "writeback.settled":
            return (
                "settled",
                body.get("state"),
                same(body),
                body.get("vouched") and fact.position,
                body.get("observed_sha256") is None,
            )
        case "writeback.withheld":
            return "withheld", body.get("reason")
        case "writeback.denied" | "tool.denied" | "operation.denied" | "model.denied":
            return "policy_denied", fact.type, body.get("rule")
    if room in COLONYS and not fact.actor.startswith("principal:"):
        return "worked", body.get("attempt", 1)
    if room == "mission":
        return verb, fact.position  # each move is a step of its own
    return fact.type, fact.actor


def same(body: Mapping[str, Any]) -> bool:
    """Whether what was read back is, byte for byte, what was approved."""
    return body.get("observed_sha256") is not None and body["observed_sha256"] == body.get("payload_sha256")


def sentence(step: Step, who: str) -> str:
    """What the step was. who: what its actor is called."""
    tell = SENTENCES.get(step.what)
    return tell(step, who) if tell else plain(step, who)


def plain(step: Step, who: str) -> str:
    """A fact that nothing more is known of: its type in words."""
    room, _, verb = step.first.type.partition(".")
    return f"{times(len(step.facts), room.replace('_', ' '))} {verb.replace('_', ' ').replace('.', ' ')}, by {who}"


def requested(step: Step, who: str) -> str:
    body = step.body
    risk = f"{body['risk_level']} risk, " if "risk_level" in body else ""
    mode = f"{body['mode']}, " if "mode" in body else ""
    verdict = "refused" if step.what == "refused" else str(body.get("effect", "allow"))
    again = f"; it repeats {body['replay_of']}" if body.get("replay_of") else ""
    return f"{who} asked for {body.get('mission_type')} ({mode}{risk}policy: {verdict} by {body.get('rule')}){again}"


def handed_over(step: Step, who: str) -> str:
    taken = "handed to the colony" if step.count("mission.dispatched") else "the colony began"
    return f"{taken}, attempt {step.body.get('attempt', 1)}"


def worked(step: Step, who: str) -> str:
    seen = Counter(fact.type for fact in step.facts)
    parts = [
        times(seen[type], name)
        for type, name in (
            ("stage.completed", "stage"),
            ("tool.called", "tool call"),
            ("model.called", "model call"),
            ("provider.failed", "failure of a provider"),
            ("artifact.stored", "artifact"),
            ("writeback.proposed", "proposed change"),
        )
        if seen[type]
    ]
    took = (step.facts[-1].at - step.first.at).total_seconds()
    return f"the colony worked {took:.1f} s: {', '.join(parts) or times(len(step.facts), 'event')}"


def reviewed(step: Step, who: str) -> str:
    said = next((fact.body for fact in step.facts if fact.type == "mission.reviewed"), None)
    if said is None:
        return f"the root stored {times(len(step.facts), 'artifact')}"
    found = f"{said.get('contradictions') or 0} contradictions, {said.get('problems') or 0} problems"
    return (
        f"the root checked {times(int(said.get('claims') or 0), 'claim')} against the stored bytes: {said.get('verdict')}, "
        f"coverage {float(said.get('coverage') or 0):.0%}, {found}"
    )


def opened(step: Step, who: str) -> str:
    body, many = step.body, len(step.facts)
    what = "the mission itself" if body.get("subject") == "mission" else times(many, "change")
    waits = "waits" if many == 1 else "wait"
    wanted = times(int(body.get("required") or 1), "approval")
    return f"{what} {waits} for {wanted}{' each' if many > 1 else ''}, until {str(body.get('expires_at'))[:16]}"


def decided(step: Step, who: str) -> str:
    body, many = step.body, len(step.facts)
    verb = {"approve": "approved", "reject": "rejected"}.get(str(body.get("verdict")), "decided")
    unanswered = sum(int(fact.body.get("open_questions") or 0) for fact in step.facts)
    asked = f", with {times(unanswered, 'question')} unanswered" if unanswered else ""
    if many > 1:
        return f"{who} {verb} {many} changes, each by the hash of its payload{asked}"
    votes = f", {body.get('approvals')} of {body.get('required')}" if body.get("verdict") == "approve" else ""
    what = f"{step.change}: " if step.change != "it" else ""
    return f"{who} {verb} {what}exactly {short(body.get('payload_sha256'))}{votes}{asked}"


def reminded(step: Step, who: str) -> str:
    return f"{step.body.get('role') or 'whoever may decide'} was reminded, {times(len(step.facts), 'time')}"


def escalated(step: Step, who: str) -> str:
    """By the clock, when it went on waiting; or by a person, who gave a reason."""
    role = step.body.get("role") or "another role"
    if step.first.actor.startswith("principal:"):
        return f"{who} had {role} asked too"
    return f"it was still undecided: {role} was asked too"


def reassigned(step: Step, who: str) -> str:
    was = ", ".join(str(one) for one in step.body.get("was") or [])
    return f"{who} had {step.body.get('role') or 'another role'} asked instead{f' of {was}' if was else ''}"


def questioned(step: Step, who: str) -> str:
    return f"{who} asked {times(len(step.facts), 'question')} about {step.change}"


def answered(step: Step, who: str) -> str:
    state = step.body.get("state")
    late = f", after it was {state}" if state not in (None, "pending") else ""
    return f"{who} answered {times(len(step.facts), 'question')} about {step.change}{late}"


def closed(step: Step, who: str) -> str:
    what = times(len(step.facts), "approval")
    if step.body.get("state") == "expired":
        return f"the time for {what} was over: nothing was written"
    why = f" ({step.body['reason']})" if step.body.get("reason") else ""
    return f"{who} withdrew {what}{why}: nothing was written"


def claimed(step: Step, who: str) -> str:
    if len(step.facts) > 1:
        return f"the executor took {len(step.facts)} changes, each once"
    return f"the executor took {step.change}, once, under the idempotency key {step.body.get('idempotency_key')}"


def settled(step: Step, who: str) -> str:
    state, many = step.body.get("state"), len(step.facts)
    what = times(many, "change") if many > 1 or step.change == "it" else step.change
    if state == "succeeded":
        seen = "the target shows exactly what was approved" if same(step.body) else "the target shows something else"
        return (
            f"{what} was written and read back: {seen}" if many == 1 else f"{what} were written and read back: {seen}"
        )
    if vouched := step.body.get("vouched"):
        seen = {"applied": "is in the target", "not_applied": "is not in the target"}.get(
            str(vouched), "may be in the target or not"
        )
        return f"{who} ended what nobody could settle, and says that {what} {seen}: nothing was read back, so it counts as failed"
    if state == "failed" and step.body.get("observed_sha256"):
        return f"{what} failed: it was written, and the target shows something else"
    told = {
        "stale": "was not written: the record had changed meanwhile",
        "failed": "failed: its receipt says why",
        "unknown": "was written or not: nobody can know yet, the target is asked again",
    }
    return f"{what} {told.get(str(state), str(state))}"


def withheld(step: Step, who: str) -> str:
    return f"{times(len(step.facts), 'proposal')} not asked about: {step.body.get('reason')}"


def denied(step: Step, who: str) -> str:
    what = {"tool": "call of a tool", "model": "call of a model", "writeback": "change"}.get(
        step.first.type.partition(".")[0], "operation"
    )
    name = step.body.get("tool") or step.body.get("action") or step.body.get("operation") or ""
    return f"policy denied {times(len(step.facts), what)}{f' ({name})' if name else ''}: {step.body.get('rule')}"


def moved(words: str) -> Callable[[Step, str], str]:
    def tell(step: Step, who: str) -> str:
        by = f", by {who}" if step.first.actor.startswith("principal:") else ""
        why = step.body.get("reason") or step.body.get("code") or step.body.get("cause")
        return f"{words}{by}{f' ({why})' if why else ''}"

    return tell


SENTENCES: dict[str, Callable[[Step, str], str]] = {
    "accepted": lambda step, who: (
        requested(step, who) if "mission_type" in step.body else moved("back to be dispatched")(step, who)
    ),
    "refused": requested,
    "handed_over": handed_over,
    "worked": worked,
    "reviewed": reviewed,
    "approval.opened": opened,
    "decided": decided,
    "closed": closed,
    "approval.reminded": reminded,
    "approval.escalated": escalated,
    "approval.reassigned": reassigned,
    "approval.questioned": questioned,
    "approval.answered": answered,
    "approval.glass_broken": lambda step, who: f"{who} broke the glass: two holders of that role decide at once",
    "approval.superseded": lambda step, who: f"{who} asked about other changes instead",
    "writeback.claimed": claimed,
    "writeback.attempted": lambda step, who: f"the target was tried again, {times(len(step.facts), 'time')}",
    "writeback.renewed": lambda step, who: f"{who} asked again on the record's newer version",
    "settled": settled,
    "withheld": withheld,
    "policy_denied": denied,
    "writeback.would_propose": lambda step, who: f"a dry run: {times(len(step.facts), 'change')} would be asked about",
    "writeback.shadowed": lambda step, who: f"a replay: {times(len(step.facts), 'change')} kept beside, never executed",
    "awaiting_approval": moved("the mission waits for a human"),
    "executing": moved("the mission carries out what was decided"),
    "degraded": moved("the mission waits: something it needs does not answer"),
    "completed": moved("the mission is completed"),
    "failed": moved("the mission failed"),
    "cancelled": moved("the mission was cancelled"),
    "denied": moved("the mission is denied"),
}  # fmt: skip


def times(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def short(hash: object) -> str:
    return f"{str(hash)[:SHORT]}…"


def about_others(
    fact: Fact, writebacks: frozenset[UUID], approvals: frozenset[UUID], proposals: frozenset[UUID]
) -> bool:
    """Whether a fact tells only of changes that the story is not about."""
    mine = {str(one) for one in writebacks | approvals | proposals}
    named = [fact.body.get(name) for name in ("writeback", "approval", "proposal")]
    said = [str(one) for one in named if one]
    return bool(said) and not mine.intersection(said)
