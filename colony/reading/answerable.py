"""Do the documents answer at all? Judged by what the best excerpt holds of the question, and by what it lacks.

An excerpt answers when the terms of the question meet in one place: in its own words, in the entry, heading or sentence
it belongs to, or right beside it. How much of that is enough was fitted (logistic regression) on the tuning sets of
`bench/answer_questions.json`. A name or identifier that is asked about has to be there, whatever else is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from colony.reading.choosing import Excerpt
from colony.reading.evidence import AROUND, TITLE
from colony.reading.question import Question, Term
from colony.reading.ranking import Rarity
from colony.reading.scoring import by_number, together

ENOUGH = 0.65  # confidence from which the documents are taken to answer
LOOKED_AT = 3  # candidates; the surest of them speaks for all
COMMON = 1.0  # a firm term rarer than this (idf) may not be missing

_BIAS = -5.15
_BY_RARITY = 0.9  # share of the question that is held, rare words counting more
_BY_WEIGHT = 3.5  # the same with every word counting as the question leans on it
_BY_NUMBER = 0.6  # share of the subjects that are well held
_TOGETHER = 3.3  # neighbours in the question that are neighbours in the text
_ACTED_UPON = 2.55  # what the question acts upon, held


@dataclass(frozen=True)
class Verdict:
    answered: bool
    confidence: float
    missing: tuple[str, ...]  # words of the question that the best place lacks


def judge(question: Question, rare: Rarity, candidates: Sequence[Excerpt], enough: float = ENOUGH) -> Verdict:
    """Judged on the first candidates, those the answer would open with."""
    first = candidates[:LOOKED_AT]
    if not first or not question.subjects:
        return Verdict(False, 0.0, tuple(term.surface for term in question.terms))
    sound = [one for one in first if not lacks(question, rare, one)]
    surest = max(sound or first, key=lambda one: confidence(question, one))
    missing = [*lacks(question, rare, surest), *(one for one in question.terms if surest.grip.levels[one.key] < AROUND)]
    sure = confidence(question, surest)
    return Verdict(bool(sound) and sure >= enough, sure, tuple(dict.fromkeys(term.surface for term in missing)))


def lacks(question: Question, rare: Rarity, excerpt: Excerpt) -> list[Term]:
    """What nothing makes up for: a name that is not there, a subject that stands nowhere in all the documents."""
    levels = excerpt.grip.levels
    firm = [
        term
        for term in question.terms
        if term.firm and rare.idf(term.key) >= COMMON and levels[term.key] < (TITLE if term.weight > 1.5 else AROUND)
    ]
    nowhere = [
        term
        for term in question.terms
        if term.weight >= 0.9 and levels[term.key] < AROUND and rare.absent(term.key) and not term.alternatives
    ]
    return firm + nowhere


def confidence(question: Question, excerpt: Excerpt) -> float:
    """How likely it is that this excerpt belongs to an answer, 0 to 1."""
    levels, terms = excerpt.grip.levels, question.terms
    by_weight = _share([(term.weight, levels[term.key]) for term in terms])
    acted_upon = _share([(term.weight, levels[term.key]) for term in question.focus])
    close = together(question, excerpt.window, excerpt.chosen) if question.pairs else by_weight
    logit = _BIAS + _BY_RARITY * excerpt.grip.coverage + _BY_WEIGHT * by_weight + _BY_NUMBER * by_number(question, excerpt.grip)
    logit += _TOGETHER * close + _ACTED_UPON * acted_upon
    return 1 / (1 + math.exp(-logit))


def _share(weighted: Sequence[tuple[float, float]]) -> float:
    total = sum(weight for weight, _ in weighted)
    return sum(weight * level for weight, level in weighted) / total if total else 1.0
