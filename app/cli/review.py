"""`mission-root approvals review`: one approval after the other, with the facts and the keys of the console's screen."""

import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.text import Text

from app.cli import approval_screen, show
from app.cli.approval_screen import Facts
from app.cli.client import Client, Failed, segment
from app.cli.keys_pressed import Keys, keyboard
from app.cli.signing import Verdict, sign

DWELL_S = {"low": 0.0, "medium": 1.0, "high": 1.0}  # how long a screen is on before its `a` counts
REASONS = ("The evidence does not show it.", "It is the wrong record or value.", "It is not the time for it.")
HELP = """j k     next, previous            d       raw bytes of the change
Enter   open                      e       all evidence
a       approve                   r       reject, with a reason
s       ask about it              x       escalate: another role as well
u       take the last one back    l       the queue
?       this help                 q       end

To answer a question: mission-root approvals answer ID NUMBER "…". To change what is proposed: mission-root approvals revise ID.
To see what its mission did: mission-root explain ID."""


@dataclass
class Review:
    """Where the reader is: which approval, how it is shown, what was typed and what was decided."""

    client: Client
    queue: list[dict[str, Any]]
    environment: str
    signing_key: Path | None = None
    at: int = 0
    open: bool = False
    raw: bool = False
    evidence: bool = False
    facts: Facts | None = None
    shown_at: float = 0.0
    note: Text = field(default_factory=Text)
    typed: dict[str, str] = field(default_factory=dict)  # a reason that came too late is offered again
    decided: list[str] = field(default_factory=list)
    last: str = ""
    until: datetime | None = None  # the end of the last one's undo window
    keys: Keys = field(init=False)

    def run(self) -> None:
        with keyboard() as self.keys, suppress(KeyboardInterrupt):
            while self.queue or self.undo:
                self.draw()
                if not self.act(self.keys.next()):
                    break
        self.summary()

    @property
    def undo(self) -> bool:
        """Whether the last one can still be taken back, though nothing waits any more."""
        return self.until is not None and datetime.now(UTC) < self.until

    def sure(self, question: str) -> bool:
        show.out.print(Text(question, "bold"), end="")
        return self.keys.next() in ("y", "Y")

    # --- what is on the screen

    def draw(self) -> None:
        show.out.console.clear()
        if self.open and self.facts is not None:
            show.out.print(approval_screen.screen(self.facts, raw=self.raw, evidence=self.evidence))
            show.out.print(self.actions())
        elif self.queue:
            self.draw_queue()
        if self.note.plain:
            show.out.print(self.note)
        if not self.queue:
            show.out.print(Text("Nothing waits any more.   u takes the last one back  q end", "dim"))
            return
        place = f"{self.at + 1} of {len(self.queue)}"
        show.out.print(Text(f"{place}   j k Enter  d e  a approve  r reject  l queue  ? help  q end", "dim"))

    def draw_queue(self) -> None:
        table = show.rows("", "risk", "expires", "change", "mission")
        for number, one in enumerate(self.queue):
            mark = "▸" if number == self.at else " "
            until, goal = approval_screen.left(one["expires_at"]), one["mission_id"]
            style = "bold" if number == self.at else ""
            cells = (mark, one["risk_level"], until, show.visible(approval_screen.what(one)), goal)
            table.add_row(*cells, style=style)
        show.out.print(table)

    def actions(self) -> Text:
        """Part 9: what can be done, or why it cannot."""
        assert self.facts is not None
        if why := self.closed(self.facts):
            return Text(f"No decision here: {why}", "yellow")
        how = {"low": "a, then y", "medium": "a after a second, then y", "high": "a, then the record's id"}
        told = Text(
            f"[a]pprove ({how.get(self.facts.risk, 'a')})   [r]eject (with a reason)   a[s]k   [x] escalate", "cyan"
        )
        if waits := self.facts.approval.get("open_questions"):
            told.append(f"\n{approval_screen.still_open(waits)}; a decision need not wait for the answer.", "yellow")
        return told

    def closed(self, facts: Facts) -> str:
        """Why nothing can be decided on it; empty when something can."""
        found = facts.approval
        if found["state"] != "pending":
            return f"it is {found['state']}. {happened(facts)}"
        if found.get("signature_required") and self.signing_key is None:
            return "its rule counts signed approvals only. Begin again with --signing-key FILE."
        return ""

    # --- what a key does

    def act(self, pressed: str) -> bool:
        """False ends the review."""
        self.note = Text()
        match pressed:
            case "q" | "\x04":
                return False
            case "j" | "k" | "\x1b[B" | "\x1b[A":
                self.go(1 if pressed in ("j", "\x1b[B") else -1)
            case "\r" | "\n":
                self.open_this()
            case "l":
                self.open, self.facts = False, None
            case "d":
                self.raw = not self.raw
            case "e":
                self.evidence = not self.evidence
            case "?":
                self.note = Text(HELP)
            case "u":
                self.take_back()
            case "a" | "r" if self.open and self.facts is not None:
                self.approve(self.facts) if pressed == "a" else self.reject(self.facts)
            case "s" | "x" if self.open and self.facts is not None:
                self.ask(self.facts) if pressed == "s" else self.escalate(self.facts)
            case "a" | "r" | "s" | "x":
                self.note = Text("Open it first: Enter.", "yellow")
        return True

    def go(self, step: int) -> None:
        self.at = max(0, min(len(self.queue) - 1, self.at + step))
        if self.open:
            self.open_this()

    def open_this(self) -> None:
        """Reads everything anew: what the target holds is what it holds now."""
        if not self.queue:
            return
        self.raw = self.evidence = False
        try:
            self.facts = approval_screen.read(self.client, self.queue[self.at]["id"], self.environment)
        except Failed as failed:
            self.note = Text(show.visible(str(failed)), "red")
            return
        self.open, self.shown_at = True, time.monotonic()

    def approve(self, facts: Facts) -> None:
        if why := self.closed(facts):
            self.note = Text(why, "yellow")
            return
        if time.monotonic() - self.shown_at < DWELL_S.get(facts.risk, 1.0):
            self.note = Text("That was faster than it can be read; look, then press a again.", "yellow")
            return
        if facts.risk == "high":
            if self.keys.line(f"Type {show.visible(facts.record)} to approve") != facts.record:
                self.note = Text("That is not the record's id; nothing was decided.", "yellow")
                return
        elif not self.sure("Approve exactly this? [y/N] "):
            self.note = Text("Nothing was decided.", "yellow")
            return
        comment = ""
        if facts.approval["rule"]["comment_required"]:
            comment = self.keys.line("Its rule wants a reason", self.typed.get(facts.approval["id"], ""))
        self.send(facts, "approve", comment)

    def reject(self, facts: Facts) -> None:
        if why := self.closed(facts):
            self.note = Text(why, "yellow")
            return
        for number, preset in enumerate(REASONS, 1):
            show.out.print(Text(f"  {number}  {preset}", "dim"))
        said = self.keys.line("Reason, or 1 to 3; empty: nothing is decided", self.typed.get(facts.approval["id"], ""))
        reason = REASONS[int(said) - 1] if said in ("1", "2", "3") else said
        if not reason:
            self.note = Text("Nothing was decided.", "yellow")
            return
        self.send(facts, "reject", reason)

    def ask(self, facts: Facts) -> None:
        """Puts a question to the requester; whoever else can answer is asked by the command."""
        self.say(
            facts,
            "questions",
            "What do you want to know; empty: nothing is asked",
            "question",
            {},
            "Asked; nothing else changes.",
        )

    def escalate(self, facts: Facts) -> None:
        found = facts.approval
        further = [one for one in found["rule"].get("may_escalate_to") or [] if one not in found["may_decide"]]
        if found["state"] == "pending" and not further:
            self.note = Text("Its rule names nobody else to ask. A policy owner can, for the next ones.", "yellow")
            return
        role = further[0] if len(further) == 1 else self.keys.line(f"Which role as well: {', '.join(further)}")
        if role:
            self.say(
                facts,
                "escalate",
                f"Why {show.visible(role)} too; empty: nothing is done",
                "reason",
                {"role": role},
                "Asked too.",
            )

    def say(self, facts: Facts, verb: str, question: str, name: str, more: dict[str, str], done: str) -> None:
        """A line of the reader's own about what is open, sent; what is not taken is offered again."""
        found = facts.approval
        kept = f"{verb} {found['id']}"
        words = self.keys.line(question, self.typed.get(kept, ""))
        if not words:
            self.note = Text("Nothing was sent.", "yellow")
            return
        self.typed[kept] = words
        try:
            path = f"/v1/approvals/{segment(found['id'])}/{verb}"
            self.client.post(path, {name: words} | more, if_match="" if verb == "questions" else facts.etag)
        except Failed as failed:
            self.open_this()
            self.note = refusal(failed, self.facts, words)
            return
        del self.typed[kept]
        self.open_this()
        self.note = Text(done, "green")

    def send(self, facts: Facts, decision: Verdict, comment: str) -> None:
        """The decision on exactly what was shown; who was faster is said in place, and what was typed is kept."""
        found = facts.approval
        body = {"decision": decision, "payload_sha256": found["payload_sha256"], "comment": comment or None}
        try:
            if self.signing_key is not None and found.get("signature_required"):
                body["signature"] = sign(self.signing_key, found, decision, found["payload_sha256"])
            path = f"/v1/approvals/{segment(found['id'])}/decisions"
            receipt = self.client.post(path, body, if_match=facts.etag).body
        except Failed as failed:
            self.typed[found["id"]] = comment
            self.open_this()
            self.note = refusal(failed, self.facts, comment)
            return
        self.decided.append(f"{decision} {approval_screen.what(found)}")
        self.last = found["id"]
        self.until = datetime.fromisoformat(receipt["not_before"]) if receipt["not_before"] else None
        self.typed.pop(found["id"], None)
        if receipt["state"] != "pending":
            self.queue = [one for one in self.queue if one["id"] != found["id"]]
        self.note = self.receipt(found, receipt, decision)
        self.on()

    def receipt(self, found: dict[str, Any], receipt: dict[str, Any], decision: str) -> Text:
        """What was recorded, where, what runs next, and how long it can be taken back."""
        told = Text(
            f"{decision.capitalize()} recorded: {show.visible(approval_screen.what(found))} is {receipt['state']}."
            f"{approval_screen.unanswered(receipt)}\n",
            "green",
        )
        try:
            steps = self.client.get("/v1/explain", id=found["id"]).body["steps"]
            facts = [one for step in steps if step["what"] == "decided" for one in step["facts"]]
            told.append(f"Ledger row {facts[-1]}. " if facts else "")
        except Failed:
            pass
        if receipt["not_before"]:
            until = datetime.fromisoformat(receipt["not_before"]) - datetime.now(UTC)
            told.append(f"It is executed in {max(0, until.total_seconds()):.0f} s; until then u takes it back.")
        elif receipt["state"] == "pending":
            told.append("It waits for more approvals.")
        return told

    def take_back(self) -> None:
        if not self.last:
            self.note = Text("There is nothing to take back.", "yellow")
            return
        reason = self.keys.line("Why is it taken back")
        if not reason:
            return
        path = f"/v1/approvals/{segment(self.last)}"
        try:
            done = self.client.post(f"{path}/cancel", {"reason": reason}, if_match=self.client.get(path).etag).body
        except Failed as failed:
            self.note = Text(show.visible(str(failed)), "red")
            self.on()
            return
        self.queue = [one for one in self.queue if one["id"] != self.last]
        self.last, self.until = "", None
        self.decided.pop()
        self.note = Text(f"Taken back: it is {done['state']}, and nothing of it leaves.", "green")
        self.on()

    def on(self) -> None:
        """Back to what is left; the note is said now where no screen follows on which it would stand."""
        self.at = min(self.at, max(0, len(self.queue) - 1))
        self.open, self.facts = False, None
        if not self.queue and not self.undo:
            show.out.print(self.note)

    def summary(self) -> None:
        counted = f"{len(self.decided)} decided"
        show.line(f"{counted}, {len(self.queue)} left." if self.queue else f"{counted}; nothing waits any more.")


def begin(client: Client, limit: int) -> tuple[list[dict[str, Any]], str]:
    """What waits, in the root's order of risk and time left; and which environment this is."""
    queue = client.pages("/v1/inbox", limit)
    try:
        environment = str(client.get("/v1/status").body["environment"])
    except Failed:
        environment = ""
    return queue, environment


def happened(facts: Facts) -> str:
    """The last thing that became of it, with who and when."""
    steps = [one for one in facts.story.get("steps", []) if one["what"] in ("decided", "closed", "approval.superseded")]
    return f"{steps[-1]['sentence']}, at {steps[-1]['at'][:19]}" if steps else ""


def refusal(failed: Failed, facts: Facts | None, typed: str) -> Text:
    told = Text(show.visible(str(failed)), "red")
    if facts is not None and facts.approval["state"] != "pending" and (who := happened(facts)):
        told.append(f"\nMeanwhile: {show.visible(who)}", "yellow")
    if typed:
        told.append(f"\nYou had typed: {show.visible(typed)}", "dim")
    return told


def at_a_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()
