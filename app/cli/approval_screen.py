"""One approval on one screen: facts by the root first, the agent's words last and boxed."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from app.cli import show
from app.cli.client import Client, Failed, segment
from app.cli.show import boxed, coloured, pairs, quotation, rows, state, styled
from app.visible import visible

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

STRONGEST = 2  # evidence shown before `e` asks for all
LONG_VALUE = 400  # characters of a value shown before `d` asks for all


@dataclass
class Facts:
    """What is known of one approval, read at one moment; etag is the version that a decision names."""

    approval: dict[str, Any]
    etag: str
    mission: dict[str, Any] = field(default_factory=dict)
    rule: dict[str, Any] = field(default_factory=dict)
    story: dict[str, Any] = field(default_factory=dict)
    before: list[dict[str, Any]] = field(default_factory=list)
    environment: str = ""
    names: dict[str, str] = field(default_factory=dict)

    @property
    def writes(self) -> bool:
        return bool(self.approval["subject"] == "writeback")

    @property
    def risk(self) -> str:
        return str(self.approval["risk_level"])

    @property
    def record(self) -> str:
        """The id of the record that would change; of a question about a mission, the mission's."""
        return str(self.approval["payload"]["target"]["id"] if self.writes else self.approval["mission_id"])


def read(client: Client, approval: str, environment: str = "") -> Facts:
    """Everything the screen shows. What the caller may not read, or what does not answer, is left out and said so."""
    seen = client.get(f"/v1/approvals/{segment(approval)}")
    found = seen.body

    def more(path: str, **parameters: Any) -> dict[str, Any]:
        try:
            read: dict[str, Any] = client.get(path, **parameters).body
            return read
        except Failed:
            return {}

    facts = Facts(found, seen.etag, environment=environment)
    facts.mission = more(f"/v1/missions/{found['mission_id']}")
    facts.rule = more(f"/v1/approval-rules/{found['rule']['id']}")
    facts.story = more("/v1/explain", id=found["id"])
    if facts.writes:
        target = found["payload"]["target"]
        known = more("/v1/explain", id=f"{found['payload']['connector']}/{target['kind']}/{target['id']}")
        facts.before = [one for one in known.get("changes", []) if one["approval_id"] != found["id"]]
    facts.names = names(client, found)
    return facts


def names(client: Client, found: dict[str, Any]) -> dict[str, str]:
    """What those are called who asked, were asked and answered, or handed it on."""
    met = []
    for about in (found, *found["asked_before"]):
        met += [one[name] for one in about["questions"] for name in ("asked_by", "to", "answered_by")]
        met += [one["by"] for one in about["handed"]]
    ids = sorted({str(id) for id in met if id})
    try:
        people = client.get("/v1/names", id=ids).body["people"] if ids else {}
    except Failed:
        return {}
    return {id: str(one["name"]) for id, one in people.items()}


def target(payload: dict[str, Any]) -> str:
    return f"{payload['target']['kind']} {payload['target']['id']}"


def plain(value: Any) -> str:
    return "(empty)" if value in (None, "") else value if isinstance(value, str) else json.dumps(value)


def short(value: Any) -> str:
    said = plain(value)
    return said if len(said) <= LONG_VALUE else f"{said[:LONG_VALUE]}… ({len(said)} characters)"


def sentence(facts: Facts) -> str:
    """Part 1: what happens, made from the payload by the root's own words."""
    found = facts.approval
    if not facts.writes:
        return "Let the mission itself go on."
    payload, now = found["payload"], ((found.get("current") or {}).get("value") or {})
    told = [f"{name} {short(now[name]) + ' → ' if name in now else ''}{short(value)}"[:120]
            for name, value in payload["changes"].items()]  # fmt: skip
    where = payload["connector"] + (f" ({facts.environment})" if facts.environment else "")
    back = "It can be set back." if payload["operation"] == "update" else "It cannot be taken back once it is written."
    verb, what = payload["operation"].capitalize(), target(payload)
    return f"{verb} 1 record, {what}, in {where}: {', '.join(told[:4])}{' …' if len(told) > 4 else ''}. {back}"


def changes(found: dict[str, Any], whole: bool = True) -> "Table":
    """Field by field: what the target holds now, and what it would hold."""
    now = (found.get("current") or {}).get("value") or {}
    say = plain if whole else short
    table = rows("field", "now", "proposed")
    for name, value in found["payload"]["changes"].items():
        before = say(now[name]) if name in now else "?"
        table.add_row(visible(name), coloured(f"- {before}", "red"), coloured(f"+ {say(value)}", "green"))
    return table


def beware(found: dict[str, Any]) -> "Text":
    """Drift since the proposal, or why the target could not be read."""
    current = found.get("current") or {}
    if current.get("drifted"):
        return coloured(f"the target has moved on to version {current.get('version')}", "red")
    return coloured(str(current.get("problem") or ""), "red")


def screen(facts: Facts, *, raw: bool = False, evidence: bool = False) -> "RenderableType":
    """Parts 1 to 8, in this order."""
    found = facts.approval
    parts: list[RenderableType] = [coloured(sentence(facts), "bold")]
    if facts.writes:
        parts += [changes(found, whole=raw)]
        if raw:
            parts += [coloured(json.dumps(found["payload"], indent=2, ensure_ascii=False), "dim")]
    parts += [pairs({"beware": beware(found), "SHA-256": found["payload_sha256"], **why(facts)})]
    parts += quoted(found, evidence)
    parts += [
        pairs(who(facts) | clock(found, facts.names)),
        *questions(found, facts.names),
        *earlier(facts),
        agent(found),
    ]
    title = f"{found['state']} · {facts.risk} risk · {found['id']}"
    return boxed(title, "yellow", *parts)


def why(facts: Facts) -> dict[str, Any]:
    """Part 3: the rule, and what would have made it automatic."""
    found, rule = facts.approval, facts.rule
    which = f"rule {found['rule']['id']} v{found['rule']['version']}"
    fits = (
        [f"{'any' if rule[name] == '*' else rule[name]} {name}" for name in ("connector", "operation", "risk")]
        if rule
        else []
    )
    said = f": {', '.join(fits)}" if fits else ""
    policy = "; ".join(f"{name} {value}" for name, value in (found.get("obligations") or {}).items())
    automatic = "nothing: a change waits for a human in every mode" if facts.writes else ""
    return {"why here": f"{which}{said}", "policy wants": policy, "automatic if": automatic}


def quoted(found: dict[str, Any], every: bool) -> "list[RenderableType]":
    """Part 4: what it stands on, each checked by the root against the bytes it stored."""
    items = found.get("evidence") or []
    lines: list[RenderableType] = [
        styled(("✓ ", "green"), *quotation(one)) for one in (items if every else items[:STRONGEST])
    ]
    if len(items) > STRONGEST and not every:
        lines.append(coloured(f"and {len(items) - STRONGEST} more: e", "dim"))
    if not items and found["subject"] == "writeback":
        lines.append(coloured("no evidence is named for it", "red"))
    return lines


def who(facts: Facts) -> dict[str, Any]:
    """Part 5."""
    found, mission = facts.approval, facts.mission
    names = [one["requested_by"]["name"] for one in facts.story.get("missions", [])]
    name = next((one for one in names if one), found["requested_by"])
    budget = mission.get("budget") or {}
    cost = (
        f"{budget.get('used_tokens', 0)} of {budget.get('tokens', 0)} tokens, "
        f"{budget.get('used_cost_usd', 0)} of {budget.get('cost_usd', 0)} USD"
    )
    goal = show.short(str(mission.get("user_goal") or ""))
    return {
        "asked by": name,
        "mission": f"{found['mission_id']}  {found['mission_type']}" + (f"  “{goal}”" if goal else ""),
        "used": cost if budget else "",
    }


def clock(found: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Part 6."""
    roles = ", ".join(found.get("may_decide") or []) + (f" and {extra}" if (extra := found.get("must_hold")) else "")
    made = ", ".join(f"{one['verdict']} {one['decided_at'][:16]}" for one in found.get("decisions") or [])
    return {
        "expires": f"{left(found['expires_at'])} ({found['expires_at'][:16]})",
        "quorum": f"{found['approvals']} of {found['required']}{f': {made}' if made else ''}; may decide: {roles}",
        "handed on": handed(found, names),
        "signed": "this rule counts signed approvals only: --signing-key" if found.get("signature_required") else "",
        "glass": coloured(f"broken at {glass['broken_at']}", "red") if (glass := found.get("glass")) else "",
        "replaces": found.get("predecessor"),
        "replaced by": found.get("successor_approval"),
    }


def inset(words: str) -> str:
    """Somebody's words behind a bar from their second line on, so that none of their lines passes for one of ours."""
    return "\n   │ ".join(words.split("\n"))


def handed(found: dict[str, Any], names: dict[str, str]) -> str:
    """Whom people had asked beside or instead of those whom the rule asks, and why."""
    return "\n".join(
        f"to {one['to']}{' instead' if one['instead'] else ' as well'}, by {names.get(one['by'], one['by'])}: {inset(one['reason'])}"
        for one in found["handed"]
    )


def questions(found: dict[str, Any], names: dict[str, str]) -> "list[RenderableType]":
    """What people asked about it, and what was answered: their words, in a box of their own; and boxes of what was asked about earlier
    revisions."""
    boxes: list[RenderableType] = []
    for about in found["asked_before"]:
        title = f"about the earlier revision {about['revision']}, {about['approval_id']}, which is {about['state']}: not about this one"
        hands = handed(about, names)
        boxes.append(boxed(title, "dim", *asked(about, names), *([coloured(f"handed on {hands}")] if hands else [])))
    if found["questions"]:
        boxes.append(boxed("asked about it, in people's own words", "cyan", *asked(found, names)))
    return boxes


def asked(about: dict[str, Any], names: dict[str, str]) -> "list[Text]":
    lines: list[Text] = []
    for number, one in enumerate(about["questions"], 1):
        who, to = (names.get(one[name], one[name]) for name in ("asked_by", "to"))
        lines.append(coloured(f"{number}  {who} asked {to}, {one['asked_at'][:16]}: {inset(one['question'])}"))
        if one["answered_at"]:
            answerer = names.get(one["answered_by"], one["answered_by"])
            lines.append(coloured(f"   {answerer} answered {one['answered_at'][:16]}: {inset(one['answer'])}", "green"))
        else:
            lines.append(coloured("   not answered", "yellow"))
    return lines


def left(moment: str) -> str:
    """How long until then."""
    seconds = (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()
    if seconds <= 0:
        return "its time is over"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"in {seconds / size:.0f} {unit}"
    return f"in {seconds:.0f} s"


def earlier(facts: Facts) -> "list[RenderableType]":
    """Part 7: what became of other changes to the same record."""
    if not facts.before:
        return []
    lines = [
        f"{one['state']:<18} {one['operation']} {', '.join(one['fields'])}"
        + (f", read back {one['read_back'].replace('_', ' ')}" if one["read_back"] else "")
        for one in facts.before[-3:]
    ]
    return [coloured("Earlier changes to this record", "dim"), coloured("\n".join(lines))]


def agent(found: dict[str, Any]) -> "RenderableType":
    """Part 8: the agent's own words, which nobody checked."""
    words = "\n".join(str(said) for said in (found.get("summary"), found.get("rationale")) if said)
    return boxed("written by the agent, not verified", "dim", coloured(words[:4000] or "nothing"))


def approval(client: Client, found: dict[str, Any]) -> None:
    """The short form: what a decision has to name, without the loop around it."""
    payload, called = found["payload"], names(client, found)
    writes = found["subject"] == "writeback"
    about = {
        "approval": found["id"],
        "mission": found["mission_id"],
        "state": state(found["state"]),
        "change": f"{payload['operation']} {target(payload)} in {payload['connector']}" if writes else "",
        "version": payload.get("expected_version"),
        "beware": beware(found),
        "summary": found.get("summary"),
        "why": found.get("rationale"),
        "approvals": f"{found['approvals']} of {found['required']}",
        "may decide": ", ".join(found.get("may_decide") or [])
        + (f" and {extra}" if (extra := found.get("must_hold")) else ""),
        "handed on": handed(found, called),
        "glass": coloured(f"broken at {glass['broken_at']}" if (glass := found.get("glass")) else "", "red"),
        "replaces": found.get("predecessor"),
        "replaced by": found.get("successor_approval"),
        "ladder": "\n".join(step(one) for one in found.get("ladder") or []),
        "expires": found["expires_at"],
        "SHA-256": found["payload_sha256"],
    }
    shown: list[RenderableType] = [pairs(about), "", changes(found)] if writes else [pairs(about)]
    shown += questions(found, called)
    show.out.print(boxed("Proposed change" if writes else "Question about the mission itself", "yellow", *shown))


def step(found: dict[str, Any]) -> str:
    """One step of the ladder: when, what, to whom, and whether it was done."""
    what = " to ".join(word for word in (found["kind"], found.get("role")) if word)
    return f"{found['at'][:16]}  {what}" + (f"  (done {found['done_at'][:16]})" if found["done_at"] else "")


def approvals(items: list[dict[str, Any]]) -> None:
    table = rows("id", "state", "risk", "change", "mission", "expires")
    for item in items:
        risk = str(item.get("risk_level") or "")
        table.add_row(
            item["id"], state(item["state"]), risk, visible(what(item)), item["mission_id"], item["expires_at"][:16]
        )
    if items:
        show.out.print(table)
    else:
        show.line("Nothing waits.")
        show.aside("What was decided: mission-root approvals list --state ''")


def what(item: dict[str, Any]) -> str:
    payload = item["payload"]
    return f"{payload['operation']} {target(payload)}" if item["subject"] == "writeback" else "the mission"


def decided(found: dict[str, Any]) -> None:
    show.line(f"Recorded; the approval is {found['state']}.{unanswered(found)}")
    if found["not_before"]:
        show.line(f"It is executed after {found['not_before']}, the end of the undo window.")


def unanswered(receipt: dict[str, Any]) -> str:
    """That a decision did not wait for an answer."""
    return f" {still_open(receipt['open_questions'])}." if receipt["open_questions"] else ""


def still_open(count: int) -> str:
    return "1 question about it is open" if count == 1 else f"{count} questions about it are open"
