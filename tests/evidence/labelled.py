"""The labelled pairs, and how well contradictions are found in them: `python -m tests.evidence.labelled`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.canonical import sha256
from app.evidence.contradictions import Place, Source, find
from colony_client.artifacts import Contradiction

PAIRS: dict[str, list[dict[str, Any]]] = json.loads(Path(__file__).with_name("pairs.json").read_text())
PATHS = {"a": "handbook/operations.md", "b": "wiki/notes.md"}


def sources(pair: dict[str, Any], cited: str) -> dict[Place, Source]:
    """Both sides of a pair; one of them is cited from end to end."""
    found = {}
    for side in "ab":
        data = pair[side].encode()
        place = sha256(data).hex(), pair.get(f"path_{side}", PATHS[side])
        spans: list[tuple[int, int, str | None]] = [(0, len(data), "c1")] if side == cited else []
        found[place] = Source("record" if pair.get(f"record_{side}") else "document", data, spans)
    return found


def found_in(pair: dict[str, Any]) -> list[list[Contradiction]]:
    """What is found when one side is cited, and when the other is."""
    return [find(sources(pair, cited))[0] for cited in "ab"]


def figures() -> tuple[int, int, int]:
    """How many are found rightly, wrongly, and missed."""
    hits = sum(any(found_in(pair)) for pair in PAIRS["true"])
    return hits, sum(any(found_in(pair)) for pair in PAIRS["near"]), len(PAIRS["true"]) - hits


def told() -> Iterator[str]:
    right, wrong, missed = figures()
    yield f"{len(PAIRS['true'])} contradictions, {len(PAIRS['near'])} near misses"
    yield f"precision {right / (right + wrong):.2f} ({wrong} false alarms), recall {right / (right + missed):.2f} ({missed} missed)"
    yield from (f"  missed: {pair['what']}" for pair in PAIRS["true"] if not any(found_in(pair)))
    yield from (f"  false alarm: {pair['what']}" for pair in PAIRS["near"] if any(found_in(pair)))


if __name__ == "__main__":
    print("\n".join(told()))
