"""What people see in the terminal. stdout carries answers, stderr carries remarks; piped, both are plain text."""

import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from app.visible import visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.panel import Panel
    from rich.status import Status
    from rich.table import Table
    from rich.text import Text

COLOURS = {
    "completed": "green",
    "succeeded": "green",
    "approved": "green",
    "verified": "green",
    "failed": "red",
    "denied": "red",
    "rejected": "red",
    "expired": "red",
    "stale": "red",
    "unknown": "red",
    "cancelled": "yellow",
    "awaiting_approval": "yellow",
    "pending": "yellow",
}
PATIENCE_S = 1.0  # what takes longer says so
SHORT_QUOTE = 160
INDENTED = (0, 0, 0, 3)
SHOWN_CITATIONS = 3  # of one claim; the packet as JSON or HTML has all


class Screen:
    """A terminal, or whatever stands in its place. rich is imported when something is printed: many answers are JSON.

    No text is read as markup: brackets in others' words, split over two of them, would swallow what stands between.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    @cached_property
    def console(self) -> "Console":
        from rich.console import Console

        return Console(highlight=False, markup=False, emoji=False, **self._settings)

    def print(self, *what: Any, **how: Any) -> None:
        self.console.print(*what, **how)


out = Screen(width=None if sys.stdout.isatty() else 140)
err = Screen(stderr=True)


def watched() -> bool:
    """Whether somebody sees what moves on stderr."""
    return sys.stderr.isatty()


def line(sentence: str) -> None:
    out.print(visible(sentence), soft_wrap=True)


def aside(sentence: str) -> None:
    err.print(visible(sentence), style="dim", soft_wrap=True)


def heading(words: str) -> None:
    out.print()
    out.console.rule(coloured(words), align="left", style="cyan")


def coloured(words: str, style: str = "") -> "Text":
    """Text that others wrote, in one style."""
    from rich.text import Text

    return Text(visible(words), style)


def styled(*pieces: str | tuple[str, str]) -> "Text":
    """A line of texts, whoever wrote them, each in its own style or in none."""
    from rich.text import Text

    made = Text()
    for piece in pieces:
        words, style = (piece, "") if isinstance(piece, str) else piece
        made.append(visible(words), style)
    return made


def boxed(title: str, colour: str, *parts: "RenderableType") -> "Panel":
    """One below the other, in a box."""
    from rich.console import Group
    from rich.panel import Panel

    return Panel(Group(*parts), title=coloured(title), title_align="left", border_style=colour)


def state(name: str) -> "Text":
    return coloured(name, COLOURS.get(name, "cyan"))


def rows(*columns: str) -> "Table":
    """A table whose first column, what other commands are given, is never cut."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for number, name in enumerate(columns):
        table.add_column(name, no_wrap=number == 0, min_width=36 if name == "id" else None, overflow="fold")
    return table


def table(columns: Sequence[str], found: Iterable[Sequence[str]]) -> None:
    """A table of plain texts."""
    made = rows(*columns)
    for one in found:
        made.add_row(*map(visible, one))
    out.print(made)


def pairs(values: dict[str, Any]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        if value not in (None, [], {}) and str(value):
            table.add_row(name, value if isinstance(value, Text) else visible(str(value)))
    return table


def instance(up: dict[str, Any], last: str = "Ctrl-C stops everything; the data stays.") -> None:
    """Where everything is, after `up`."""
    places = {
        "console": up["console_url"],
        "API": up["base_url"],
        "its description": f"{up['base_url']}/docs",
        "internal API": up["internal_url"],
        "colony": up["colony_url"],
        "sample CRM": up["crm_url"],
        "metrics": "  ".join(up["metrics_urls"].values()),
        "data and logs": up["data_dir"],
        "processes": ", ".join(f"{name} {pid}" for name, pid in up["pids"].items()),
    }
    heading("Mission root is up")
    out.print(pairs(places), soft_wrap=True)
    heading("API keys, one per role")
    out.print(pairs(up["keys"]), soft_wrap=True)
    heading("Databases")
    out.print(pairs(up["databases"]), soft_wrap=True)
    out.print(f"\n{last}", style="dim")


def mission(found: dict[str, Any]) -> None:
    budget = found.get("budget") or {}
    shown = {
        "mission": found["id"],
        "type": found.get("mission_type"),
        "goal": found.get("user_goal"),
        "state": state(found["state"]),
        "stage": found.get("stage"),
        "reason": found.get("reason"),
        "note": found.get("reason_note"),
        "answer": found.get("answer_status"),
        "degraded": found.get("degraded"),
        "used": f"{budget.get('used_tokens', 0)} tokens, {budget.get('used_cost_usd', 0)} USD",
        "writebacks": ", ".join(f"{count} {name}" for name, count in (found.get("writebacks") or {}).items() if count),
        "waits for": "  ".join(found.get("pending_approvals") or []),
    }
    out.print(pairs(shown), soft_wrap=True)
    if found.get("pending_approvals"):
        line(f"Next: mission-root approvals show {found['pending_approvals'][0]}")


def missions(items: list[dict[str, Any]]) -> None:
    table = rows("id", "type", "state", "created", "goal")
    for item in items:
        goal = visible(str(item.get("user_goal") or ""))
        table.add_row(item["id"], item["mission_type"], state(item["state"]), item["created_at"][:16], goal)
    out.print(table) if items else line("No missions.")


def event(happened: dict[str, Any]) -> None:
    told = "  ".join(f"{name}={value}" for name, value in (happened.get("body") or {}).items() if value is not None)
    line(f"{happened['at']}  {happened['type']:<32}  {told}")


def packet(found: dict[str, Any]) -> None:
    """The answer, claim by claim, each with the passages it stands on."""
    from rich.padding import Padding

    told = all(claim["text"] in found["answer"] for claim in found["claims"])  # then the claims are the answer
    if found["answer"] and not (found["claims"] and told):
        out.print(boxed("Answer", "cyan", coloured(found["answer"])))
    for number, claim in enumerate(found["claims"], 1):
        out.print(styled((f"{number}.", "bold"), f" {claim['text']}"))
        for citation in claim["citations"][:SHOWN_CITATIONS]:
            mark = ("✓ ", "green") if citation["verified"] else ("✗ not verified ", "red")
            out.print(Padding(styled(mark, *quotation(citation)), INDENTED))
        if claim.get("trust") == "untrusted":
            out.print(Padding(coloured("stands on an untrusted source", "red"), INDENTED))
        if more := claim["citations"][SHOWN_CITATIONS:]:
            proved = sum(bool(citation["verified"]) for citation in more)
            out.print(Padding(coloured(f"and {len(more)} more, {proved} of them verified", "dim"), INDENTED))
    for one in (found["review"] or {}).get("contradictions") or []:
        out.print(styled(("contradiction", "red"), f" {one['one']['value']} or {one['other']['value']}?"))
        for side in (one["one"], one["other"]):
            out.print(Padding(styled(*quotation(side)), INDENTED))


def quotation(passage: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Where a passage stands, and its words: for a line of styled texts."""
    place = f"{passage['document']}:{passage['start']}-{passage['end']}"
    return (place, "cyan"), (f" “{short(passage['quote'])}”", "dim")


def short(quote: str) -> str:
    words = " ".join(quote.split())
    return words if len(words) <= SHORT_QUOTE else words[: SHORT_QUOTE - 1] + "…"


def trust(found: dict[str, Any], history: bool) -> None:
    """A workspace's rules of trust in the order in which they are asked."""
    for one in [found, *(found.get("history", []) if history else [])]:
        since = f", since {one['created_at']} by {one['created_by']}" if one["created_at"] else ""
        out.print(styled((f"Version {one['version']}", "bold"), since))
        table = rows("of", "pattern", "trust")
        for rule in one["rules"]:
            table.add_row(rule["of"], visible(rule["pattern"]), rule["trust"])
        table.add_row(coloured("everything else", "dim"), "", "normal")
        out.print(table)


def writeback(found: dict[str, Any]) -> None:
    """What the target answered, and what it holds now."""
    same = found["read_back_sha256"] == found["payload_sha256"]
    compared = coloured("exactly what was approved", "green") if same else coloured("not what was approved", "red")
    told = {
        "writeback": found["id"],
        "target": found["target"],
        "state": state(found["state"]),
        "receipt": json.dumps(found["receipt"], ensure_ascii=False) if found["receipt"] else None,
        "read back": json.dumps(found["read_back"], ensure_ascii=False) if found["read_back"] else None,
        "compared": compared if found["read_back"] else None,
    }
    out.print(pairs(told), soft_wrap=True)


def verdict(found: dict[str, Any]) -> None:
    if found["verified"]:
        line(f"The ledger holds: {found['facts']} facts in {found['subjects']} chains, every link recomputed.")
    anchored = found.get("anchors") or {"state": "off"}
    if anchored["state"] == "ok":
        line(
            f"{anchored['anchors']} anchors sign {anchored['covered']} of them; {anchored['tail']} came after the newest."
        )
    elif anchored["state"] != "failed":
        line(f"No anchor signs them (state {anchored['state']}).")


def ingested(workspace: str, summary: dict[str, Any]) -> None:
    refusals = summary["refused"]
    line(
        f"Workspace {workspace}: {summary['added']} added, {summary['updated']} updated, "
        f"{summary['unchanged']} unchanged, {len(refusals)} refused."
    )
    for refusal in refusals:
        aside(f"refused: {refusal['path']}: {refusal['reason']}")


@contextmanager
def counting(total: int, what: str, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr; yields what to call for each one done. Nothing when piped or quiet."""
    if quiet or not watched():
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err.console, transient=True) as progress:
        task = progress.add_task(visible(what), total=total)
        yield lambda: progress.advance(task)


@contextmanager
def progressing(*, quiet: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A line that follows a mission's events: the stage it is in, and the stages behind it with their times."""
    behind: list[str] = []
    spinning = not quiet and watched()
    with err.console.status("accepted", spinner="dots") if spinning else nullcontext() as status:

        def tell(event: dict[str, Any]) -> None:
            body = event.get("body") or {}
            if event["type"] == "stage.completed":
                behind.append(f"{body.get('stage')} {body.get('latency_ms', 0):.0f} ms")
            if status:
                now = body.get("stage") or event["type"].removeprefix("mission.")
                status.update(styled((f"{now}  ", "cyan"), (" · ".join(behind), "dim")))

        yield tell
    if not quiet and behind:
        line(" · ".join(behind))


@contextmanager
def counting_down(seconds: float, *, quiet: bool) -> Iterator[None]:
    """A bar that fills while a window of time passes; it decides nothing."""
    if quiet or not watched():
        yield
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err.console, transient=True) as progress:
        task = progress.add_task("undo window", total=max(seconds, 0.1))
        done = threading.Event()

        def tick() -> None:
            while not done.wait(0.2) and not progress.finished:
                progress.advance(task, 0.2)

        clock = threading.Thread(target=tick, daemon=True)
        clock.start()
        try:
            yield
        finally:
            done.set()
            clock.join()


@contextmanager
def patience(what: str) -> Iterator[None]:
    """Says on stderr what is waited for, once that has taken a second; nothing when piped, or where a bar shows it already."""
    if not watched():
        yield
        return
    shown: list[Status] = []

    def begin() -> None:  # what is answered within the second does not pay for rich
        from rich.errors import LiveError

        status = err.console.status(coloured(what, "dim"), spinner="dots")
        with suppress(LiveError):  # something else is shown already
            status.start()
            shown.append(status)

    clock = threading.Timer(PATIENCE_S, begin)
    clock.daemon = True
    clock.start()
    try:
        yield
    finally:
        clock.cancel()
        clock.join()
        for status in shown:
            status.stop()
