"""Do the documents answer at all? Judged by what the best excerpt holds of the question, and by what it lacks.

An excerpt answers when the terms of the question meet in one place: in its own words, in the entry, heading or sentence
it belongs to, or right beside it. A name or identifier that is asked about has to be there, whatever else is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from colony.reading.choosing import Excerpt
from colony.reading.evidence import AROUND, TITLE
from colony.reading.question import Question
from colony.reading.ranking import Rarity, strength

ENOUGH = 0.56  # weighted share of the question that has to be held in one place
COMMON = 1.0  # a term rarer than this (idf) and firm may not be missing
ABSENT_MATTERS = 0.9  # a subject of at least this weight that stands nowhere in the documents


@dataclass(frozen=True)
class Verdict:
    answered: bool
    coverage: float
    missing: tuple[str, ...]  # words of the question that the best place lacks


def judge(question: Question, rare: Rarity, candidates: Sequence[Excerpt], enough: float = ENOUGH) -> Verdict:
    """Judged on the first candidate: the one the answer would open with."""
    if not candidates or not question.terms:
        return Verdict(False, 0.0, tuple(term.surface for term in question.terms))
    levels = candidates[0].grip.levels
    missing = [term for term in question.terms if levels[term.key] < AROUND]
    lacking_firm = [
        term
        for term in question.terms
        if term.firm and rare.idf(term.key) >= COMMON and levels[term.key] < (TITLE if term.weight > 1.5 else AROUND)
    ]
    absent = [
        term
        for term in missing
        if term.weight >= ABSENT_MATTERS and rare.absent(term.key) and not _has_other(term, rare)
    ]
    coverage = candidates[0].grip.coverage
    held = sum(strength(term, rare) for term in question.terms if levels[term.key] >= AROUND)
    answered = coverage >= enough and not lacking_firm and not absent and held > 0
    return Verdict(
        answered, coverage, tuple(term.surface for term in dict.fromkeys([*lacking_firm, *absent, *missing]))
    )


def _has_other(term, rare: Rarity) -> bool:  # type: ignore[no-untyped-def]
    return any(not rare.absent(key) for key in term.alternatives if key in rare.frequency)
