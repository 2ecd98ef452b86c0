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
from colony.reading.scoring import by_number, features, says, share, together
from colony.reading.terms import is_identifier

ENOUGH = 0.7  # confidence from which the documents are taken to answer
LEAST_HELD = 0.5  # of the question, rare words counting more; below this no answer whatever else
LOOKED_AT = 3  # candidates; the surest of them speaks for all
SCARCE = 3  # passages; a subject as scarce as that is what the question is about
INCIDENTAL = 8  # passages; a thing named in so few of them may just be mentioned
NAMED_AFTER = 0.3  # how exactly a heading has to name a thing for its section to be about it
COMMON = 1.0  # a firm term rarer than this (idf) may not be missing

_BIAS = -4.85
_FITTED = {
    "by rarity": 0.85,  # share of the question that is held, rare words counting more
    "by weight": 3.4,  # the same with every word counting as the question leans on it
    "by number": 0.1,  # share of the subjects that are well held
    "together": 3.45,  # neighbours in the question that are neighbours in the text
    "acted upon": 2.75,  # what the question acts upon, held
}


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
    surest = max(sound or first, key=lambda one: confidence(question, rare, one))
    missing = [*lacks(question, rare, surest), *(one for one in question.terms if surest.grip.levels[one.key] < AROUND)]
    sure = confidence(question, rare, surest)
    held = surest.grip.coverage >= LEAST_HELD and not _only_mentioned(question, rare, first)
    answered = bool(sound) and held and sure >= enough
    return Verdict(answered, sure, tuple(dict.fromkeys(term.surface for term in missing)))


def lacks(question: Question, rare: Rarity, excerpt: Excerpt) -> list[Term]:
    """What nothing makes up for: a name that is not there, a subject that stands next to nowhere in all the documents."""
    levels = excerpt.grip.levels
    firm = [
        term
        for term in question.terms
        if term.firm and rare.idf(term.key) >= COMMON and levels[term.key] < (TITLE if term.weight > 1.5 else AROUND)
    ]
    scarce = [
        term
        for term in question.terms
        if term.weight >= 0.9
        and levels[term.key] < AROUND
        and rare.frequency.get(term.key, 0) <= SCARCE
        and not term.alternatives
    ]
    return firm + scarce


def _only_mentioned(question: Question, rare: Rarity, first: Sequence[Excerpt]) -> bool:
    """Asked what a thing is: do the documents just mention it, without a section about it or a word on what it is?"""
    subjects = [term for term in question.subjects if not is_identifier(term.surface)]
    if question.kind != "definition" or len(subjects) != 1 or len(question.subjects) != 1:
        return False
    if rare.frequency.get(subjects[0].key, 0) > INCIDENTAL:
        return False
    seen = [features(one.seen) for one in first]
    return not any(one["defines"] == 1.0 or one["titled"] >= NAMED_AFTER for one in seen)


def confidence(question: Question, rare: Rarity, excerpt: Excerpt) -> float:
    """How likely it is that this excerpt belongs to an answer, 0 to 1."""
    held = dict(zip(_FITTED, measures(question, rare, excerpt), strict=True))
    return 1 / (1 + math.exp(-_BIAS - sum(weight * held[name] for name, weight in _FITTED.items())))


def measures(question: Question, rare: Rarity, excerpt: Excerpt) -> tuple[float, ...]:
    """What confidence is made of, in the order of the fitted weights."""
    levels = excerpt.grip.levels

    def weighted(terms: Sequence[Term]) -> float:
        return share([(term.weight * says(term, rare), levels[term.key]) for term in terms])

    return (
        excerpt.grip.coverage,
        weighted(question.terms),
        by_number(question, rare, excerpt.grip),
        together(question, rare, excerpt.window, excerpt.chosen) if question.pairs else weighted(question.terms),
        weighted(question.focus),
    )
