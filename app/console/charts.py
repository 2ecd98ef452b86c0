"""Small charts as SVG, made here from numbers: nothing runs in them, and each says in words what it shows.

Colours are classes of the stylesheet, so that they follow light and dark.
"""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from app.console.words import span, tone

STATES = ("completed", "executing", "awaiting_approval", "running", "failed", "denied", "cancelled")
GAP = 3


def rect(x: float, y: float, width: float, height: float, kind: str, said: str) -> Markup:
    return Markup(
        '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="1.5" class="{}"><title>{}</title></rect>'
    ).format(x, y, max(width, 0.1), max(height, 0.1), kind, said)


def words(x: float, y: float, said: str, kind: str = "", anchor: str = "start") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>').format(x, y, kind, anchor, said)


def frame(width: int, height: int, title: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width, height, title, Markup("").join(parts)
    )


def outcomes(days: Sequence[dict[str, Any]]) -> Markup:
    """Missions by day, stacked by what became of them."""
    width, height, foot = 420, 132, 16
    most = max((sum(day["states"].values()) for day in days), default=0) or 1
    step = width / max(len(days), 1)
    parts = []
    for n, day in enumerate(days):
        top = float(height - foot)
        ordered = sorted(day["states"].items(), key=lambda one: STATES.index(one[0]) if one[0] in STATES else 99)
        for state, many in ordered:
            tall = many / most * (height - foot - 14)
            top -= tall
            parts.append(
                rect(n * step, top, step - GAP, tall, tone(state), f"{day['day']}: {many:,} {state.replace('_', ' ')}")
            )
        if n % max(1, len(days) // 4) == 0:
            parts.append(words(n * step, height - 4, day["day"][5:]))
    parts.append(words(width, 10, f"up to {most:,} a day", anchor="end"))
    total = sum(sum(day["states"].values()) for day in days)
    return frame(width, height, f"{total:,} missions in {len(days)} days, by day and outcome", parts)


def bars(rows: Sequence[tuple[str, float, str]], title: str, kind: str = "accent") -> Markup:
    """A bar for each (name, value, what is said of it)."""
    width, tall, wide = 420, 24, 150
    most = max((value for _, value, _ in rows), default=0) or 1
    parts = []
    for n, (name, value, said) in enumerate(rows):
        y = n * tall
        parts += [
            words(0, y + 15, name),
            rect(126, y + 5, value / most * wide, 12, kind, f"{name}: {said}"),
            words(width, y + 15, said, "strong", "end"),
        ]
    return frame(width, max(tall, len(rows) * tall), title, parts)


def ages(waiting: Sequence[dict[str, Any]]) -> Markup:
    return bars(
        [(one["age"], one["count"], f"{one['count']:,}") for one in waiting], "Pending approvals by how long they wait"
    )


def stages(rows: Sequence[dict[str, Any]]) -> Markup:
    found = [
        (one["stage"].replace("_", " "), one["median_ms"], f"{ms(one['median_ms'])} · p95 {ms(one['p95_ms'])}")
        for one in rows
    ]
    return bars(found, "Median latency of each stage")


def budget(used: float, held: float, limit: float, said: str) -> Markup:
    """What is used and held of a limit, as one bar."""
    whole = max(limit, used + held, 1e-9)
    parts = [
        rect(0, 2, 420, 12, "track", "limit"),
        rect(0, 2, used / whole * 420, 12, "bad" if used > 0.9 * limit else "accent", "used"),
        rect(used / whole * 420, 2, held / whole * 420, 12, "warn", "reserved"),
        words(0, 32, said),
    ]
    return frame(420, 38, said, parts)


def line(stages_: Sequence[dict[str, Any]], total_ms: float) -> Markup:
    """A mission's stages one after another, each as long as it took."""
    width, x, parts = 860, 0.0, []
    whole = sum(one["latency_ms"] for one in stages_) or 1
    for n, one in enumerate(stages_):
        wide = one["latency_ms"] / whole * width
        said = f"{one['stage'].replace('_', ' ')}: {ms(one['latency_ms'])}"
        parts.append(rect(x, 2, wide - 2, 14, f"stage{n % 7}", said))
        x += wide
    return frame(width, 18, f"{len(stages_)} stages in {ms(total_ms)}", parts)


def ms(value: float) -> str:
    return f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.1f} s" if value < 60_000 else span(value / 1000)
