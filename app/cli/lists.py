"""A list as every command shows one: JSON, a table, or the sentence that says how the first of them comes about."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from app.cli import show
from app.cli.client import emit

Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many at most.")]
Row = Callable[[dict[str, Any]], Sequence[Any]]


def listed(items: list[dict[str, Any]], as_json: bool, columns: Sequence[str], row: Row, nothing: str) -> None:
    """nothing: what an empty list says, with what to do next."""
    if as_json:
        emit({"items": items})
    elif items:
        show.table(columns, [["" if cell is None else str(cell) for cell in row(one)] for one in items])
    else:
        show.line(nothing)
