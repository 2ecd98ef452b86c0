"""Prints what was measured: one line a comparison, ours, theirs and the ratio, medians with their spread."""

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = ("", "ours", "theirs", "ratio", "least", "most", "target")


def table(rows: Sequence[Sequence[str]], columns: Sequence[str] = COLUMNS) -> str:
    """Columns as wide as they need to be; the first to the left, the others to the right."""
    lines = [[str(cell) for cell in line] for line in (columns, *rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    laid = [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    rule = "-" * len(laid[0])
    return "\n".join([laid[0], rule, *laid[1:]])


def compared(title: str, figure: Mapping[str, Any], target: str = "") -> list[str]:
    """The row of one comparison: {"ours": spread, "theirs": spread, "ratio": spread}."""
    ratio = figure["ratio"]
    return [
        title,
        shown(figure["ours"]["median"]),
        shown(figure["theirs"]["median"]),
        shown(ratio["median"]),
        shown(ratio["min"]),
        shown(ratio["max"]),
        target,
    ]


def alone(title: str, figure: Mapping[str, Any], target: str = "") -> list[str]:
    """The row of a figure that stands for itself."""
    return [title, shown(figure["median"]), "", "", shown(figure["min"]), shown(figure["max"]), target]


def absent(title: str, why: str) -> list[str]:
    return [f"{title}: {why[:90]}", "", "", "", "", "", ""]


def shown(value: float) -> str:
    """Three digits that say something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
