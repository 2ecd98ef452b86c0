"""Fits the weights of `colony/reading/scoring.py` and `answerable.py` on the tuning sets, and says how well they carry over.

    python bench/fit_answer_weights.py --docs DIR

Prints a suggestion and its leave-one-set-out score; people copy what convinces them. Held-out sets are never read.
"""

import argparse
import asyncio
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from answer_quality import holds, ingest
from memory_workspace import MemoryWorkspace, case_over

from colony.reading.answerable import _FITTED, lacks, measures
from colony.reading.choosing import excerpts
from colony.reading.scoring import WEIGHTS, features
from colony.stages import librarian, planner, prompt_master, researcher
from colony.stages.notes import Notes

CANDIDATES = 150
ROUNDS, STEP, DECAY = 150, 0.05, 0.01
Vector = list[float]


@dataclass
class Case:
    """One question: the features of its candidates, which of them hold the evidence, and what confidence looks at."""

    set: str
    answerable: bool
    candidates: list[Vector]
    good: list[bool]
    opening: Vector | None


async def read_case(name: str, workspace: MemoryWorkspace, ask: str, evidence: list[str]) -> Case:
    case, notes = case_over(workspace, ask), Notes()
    for stage in (planner, prompt_master, librarian, researcher):
        await stage.run(case, notes)
    task = notes.tasks[0]
    question, studied = notes.formulations[task.id].question, notes.studied[task.id]
    found = excerpts(question, studied.rare, studied.windows)[:CANDIDATES]
    opening = (
        measures(question, studied.rare, found[0]) if found and not lacks(question, studied.rare, found[0]) else None
    )
    rows = [list(features(one.seen).values()) for one in found] if evidence else []
    good = [holds(one.text, evidence) for one in found] if evidence else []
    return Case(name, bool(evidence), rows, good, list(opening) if opening else None)


def dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def ranking_gradient(weights: Vector, case: Case) -> Vector:
    """Of -log(share of the softmax that falls on candidates with the evidence)."""
    scores = [dot(weights, row) for row in case.candidates]
    top = max(scores)
    soft = [math.exp(score - top) for score in scores]
    all_, good = sum(soft), sum(one for one, is_good in zip(soft, case.good, strict=True) if is_good)
    pulls = [one / all_ - (one / good if is_good else 0.0) for one, is_good in zip(soft, case.good, strict=True)]
    return [
        sum(pull * row[place] for pull, row in zip(pulls, case.candidates, strict=True))
        for place in range(len(weights))
    ]


def answering_gradient(weights: Vector, case: Case) -> Vector:
    assert case.opening is not None
    row = [*case.opening, 1.0]
    wrong = 1 / (1 + math.exp(-dot(weights, row))) - float(case.answerable)
    return [wrong * value for value in row]


def descend(size: int, cases: Sequence[Case], gradient, rounds: int, step: float) -> Vector:  # type: ignore[no-untyped-def]
    """Plain Adam with weight decay."""
    weights, first, second = [0.0] * size, [0.0] * size, [0.0] * size
    for turn in range(1, rounds + 1):
        total = [DECAY * weight * len(cases) for weight in weights]
        for case in cases:
            total = [a + b for a, b in zip(total, gradient(weights, case), strict=True)]
        for place, value in enumerate(total):
            value /= len(cases)
            first[place] = 0.9 * first[place] + 0.1 * value
            second[place] = 0.99 * second[place] + 0.01 * value * value
            moved = first[place] / (1 - 0.9**turn) / (math.sqrt(second[place] / (1 - 0.99**turn)) + 1e-9)
            weights[place] -= step * moved
    return weights


def hits(weights: Vector, cases: Iterable[Case], among: int) -> int:
    found = 0
    for case in cases:
        order = sorted(range(len(case.good)), key=lambda place: -dot(weights, case.candidates[place]))
        found += any(case.good[place] for place in order[:among])
    return found


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=Path, required=True)
    docs = parser.parse_args().docs
    cases: list[Case] = []
    for name, kept in json.loads(Path(__file__).with_name("answer_questions.json").read_text()).items():
        if kept["role"] == "tuning" and (docs / name).is_dir():
            workspace = ingest(docs / name)
            cases += [await read_case(name, workspace, one["ask"], one["evidence"]) for one in kept["questions"]]
    ranked, judged = [one for one in cases if any(one.good)], [one for one in cases if one.opening]

    first = third = 0
    for left_out in dict.fromkeys(one.set for one in ranked):
        rest = [one for one in ranked if one.set != left_out]
        weights = descend(len(WEIGHTS), rest, ranking_gradient, ROUNDS, STEP)
        test = [one for one in ranked if one.set == left_out]
        first, third = first + hits(weights, test, 1), third + hits(weights, test, 3)
    print(f"left-out sets: evidence first {first}, among the first three {third}, of {len(ranked)}")
    weights = descend(len(WEIGHTS), ranked, ranking_gradient, ROUNDS, STEP)
    print("\n".join(f'    "{name}": {weight:.2f},' for name, weight in zip(WEIGHTS, weights, strict=True)))
    sure = descend(len(_FITTED) + 1, judged, answering_gradient, 10 * ROUNDS, STEP)
    print("\n".join(f'    "{name}": {weight:.2f},' for name, weight in zip([*_FITTED, "bias"], sure, strict=True)))


if __name__ == "__main__":
    asyncio.run(main())
