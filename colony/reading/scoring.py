"""How well an excerpt answers a question: a weighted sum of things that can be pointed at.

The weights were fitted on the tuning sets of `bench/answer_questions.json` so that excerpts with the evidence come
before those without (`bench/fit_answer_weights.py`). Some were then set by hand: evidence strings like long excerpts
with code more than readers do, and too few questions there ask for a definition. The held-out sets were never used.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from colony.reading.evidence import OWN, Grip, Window, grip, titled
from colony.reading.question import Question, QuestionKind, Term
from colony.reading.ranking import Rarity, near
from colony.reading.terms import STOP, Indexed, index

UBIQUITOUS = 0.2  # idf of a word that nearly every passage has
WELL_HELD = 0.5  # a subject held at least at this level counts as held

WEIGHTS: Mapping[str, float] = {
    "coverage": 1.0,
    "own": 1.75,
    "core": 1.5,
    "standing": 1.6,
    "by_number": 1.05,
    "together": 1.0,
    "cue": 0.95,
    "value": 1.2,
    "defines": 1.6,
    "one_sided": -0.5,
    "with_code": 1.4,
    "only_code": -0.65,
    "titled": 1.65,
    "opens": 1.0,
    "document": 0.9,
    "entry": 0.3,
    "item": 0.1,
    "asks": -0.5,
    "scrap": -0.3,
    "points_away": -0.5,
    "dense": 1.1,
    "length": 0.15,
}


def _any_of(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.DOTALL)


_CUES: Mapping[QuestionKind, re.Pattern[str]] = {
    "default": _any_of(r"\bdefault"),
    "difference": _any_of(
        r"\b(?:differ\w*|unlike|whereas|while|in contrast|compared|instead|however|but|rather|than|main|just like)\b"
    ),
    "reason": _any_of(
        r"\b(?:because|since|so that|in order to|otherwise|reasons?|prevents?|avoids?|ensures?|therefore|thus|due to|"
        r"leads? to|causes?|allows?|would|security|inefficient|used (?:for|to))\b"
    ),
    "time": _any_of(r"\b(?:when|whenever|after|before|once|until|as soon as|at the (?:time|end|start)|during)\b"),
    "amount": _any_of(r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|twelve|hundred|thousand|unlimited)\b"),
    "how": _any_of(
        r"\b(?:you can|use|using|pass|call|set|specify|add|run|by \w+ing|to \w+|can be|may be|provide|must|decorator|"
        r"option|argument|parameter|command|setting)\b"
    ),
    "list": _any_of(r",.*,.*\b(?:and|or)\b|:\s*$|\n- "),
    "choice": _any_of(r"\b(?:is|are|use|supports?|determines?|specif\w+|controls?)\b"),
    "definition": _any_of(
        r"\b(?:is|are) (?:\w+ly )?(?:an?|the|used|called|where|what|how)\b|\bmeans?\b|\brefers? to\b|\bknown as\b"
    ),
}
_VALUE = _any_of(r"\bdefaults?(?: value)?(?: is|:| to|=| of)|\bby default\b|\(default\b")
_POINTS_AWAY = re.compile(
    r"(?:see(?: also)?|refer to|for more|for details|read|learn more|added in|changed in|new in|deprecated)\b", re.I
)
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)
_IS = re.compile(
    r"(?:\w+ly\s+|sometimes\s+)?(?:(?:is|are)\s+(?:\w+ly\s+|sometimes\s+)*"
    r"(?:an?|the|one|used|where|when|what|how|called|known|referred|comparable|similar)|"
    r"means?|refers?|represents?|describes?|denotes?|stands?|defines?|keeps?|lets?|allows?|makes?|controls?|specif\w+|"
    r"sets?|provides?|contains?|determines?|tells?)\b"
)


@dataclass(frozen=True)
class Seen:
    """One candidate: the unit it grew from, the units it quotes, and how they read together."""

    question: Question
    rare: Rarity
    window: Window
    at: int
    chosen: tuple[int, ...]
    text: str

    @cached_property
    def held(self) -> Grip:
        return grip(self.question, self.rare, self.window, self.chosen)

    @cached_property
    def core(self) -> Grip:
        return grip(self.question, self.rare, self.window, (self.at,))


def score(seen: Seen) -> float:
    return sum(WEIGHTS[name] * value for name, value in features(seen).items())


def features(seen: Seen) -> dict[str, float]:
    question, window, at = seen.question, seen.window, seen.at
    unit, said, kind = window.units[at], window.texts[at], question.kind
    cue = _CUES.get(kind)
    title = titled(question, seen.rare, window.section_of(at))
    has_code = any(window.units[one].kind == "code" for one in seen.chosen)
    return {
        "coverage": seen.held.coverage,
        "own": seen.held.own,
        "core": seen.core.own,
        "standing": window.standing,
        "by_number": by_number(question, seen.rare, seen.held),
        "together": together(question, seen.rare, window, seen.chosen),
        "cue": float(bool(cue and cue.search(seen.text))),
        "value": float(kind == "default" and bool(_VALUE.search(seen.text))),
        "defines": _defines(seen) if kind == "definition" else 0.0,
        "one_sided": float(kind == "difference" and _one_sided(seen)),
        "with_code": float(kind in ("how", "open") and has_code),
        "only_code": float(unit.kind == "code" and kind not in ("how", "open")),
        "titled": title,
        "opens": title * _opens(window, at),
        "document": titled(question, seen.rare, window.title),
        "entry": float(unit.head is not None and at == unit.head + 1),
        "item": float(unit.kind in ("item", "row")),
        "asks": float(said.endswith("?")),
        "scrap": float(len(said) < 25 and unit.kind not in ("code", "entry") and not _VALUE.search(said)),
        "points_away": float(bool(_POINTS_AWAY.match(said))),
        "dense": _density(seen),
        "length": math.log(max(len(seen.text), 20) / 200),
    }


def by_number(question: Question, rare: Rarity, held: Grip) -> float:
    """The share of the question's subjects that are well held; words that stand everywhere do not count."""
    return share([(says(term, rare), float(held.levels[term.key] >= WELL_HELD)) for term in question.subjects])


def says(term: Term, rare: Rarity) -> float:
    """0 for a word that nearly every passage has, such as the name of what is documented; 1 from a usual rarity on."""
    return min(1.0, rare.idf(term.key) / 1.5)


def share(weighted: Sequence[tuple[float, float]]) -> float:
    """The weighted mean of levels, 1 when there is nothing to hold."""
    total = sum(weight for weight, _ in weighted)
    return sum(weight * level for weight, level in weighted) / total if total else 1.0


def together(question: Question, rare: Rarity, window: Window, chosen: Sequence[int]) -> float:
    """The share of neighbours in the question that are neighbours here; half for those near by in the window."""
    pairs = [pair for pair in question.pairs if min(rare.idf(pair[0]), rare.idf(pair[1])) > UBIQUITOUS]
    if not pairs:
        return 0.5
    own: Indexed = index(" ".join(window.texts[one] for one in chosen))
    held = [1.0 if near(own, *pair) else 0.5 if near(window.whole, *pair) else 0.0 for pair in pairs]
    return sum(held) / len(held)


def _density(seen: Seen) -> float:
    """The share of the unit's own words that the question asks about: short and to the point is better."""
    unit = seen.window.indexes[seen.at]
    wanted = {key for term in seen.question.terms for key in (term.key, *term.alternatives)}
    content = [key for key in unit.places if key not in STOP]
    return sum(key in wanted for key in content) / (len(content) + 3)


def _one_sided(seen: Seen) -> bool:
    """Of two things to be compared, is one only near by?"""
    sides = [seen.held.levels[term.key] for term in seen.question.subjects]
    return not sides or min(sides) < OWN * 0.8


def _opens(window: Window, at: int) -> float:
    """Is this the first paragraph of its section?"""
    unit = window.units[at]
    if unit.heading is None:
        return 0.0
    between = window.units[unit.heading : at]
    return float(all(one.block == unit.block or one.kind in ("heading", "entry", "change") for one in between))


def _defines(seen: Seen) -> float:
    """Does this unit open with the subject and say what it is, or belong to an entry of that name?"""
    terms = [term for term in seen.question.terms if term.weight >= 0.5 or term.firm]
    wanted = {term.key for term in terms}
    unit, said = seen.window.units[seen.at], seen.window.texts[seen.at]
    if not wanted:
        return 0.0
    if unit.head is not None and seen.at == unit.head + 1:
        parts = {part for term in terms for part in term.parts}
        named = {key for key in seen.window.indexes[unit.head].places if key not in STOP} - parts
        if wanted <= named and len(named) <= len(wanted) + 1:
            return 1.0
    opening = _ARTICLE.sub("", said).split()[: len(wanted) + 6]
    for width in range(1, len(wanted) + 3):
        if wanted <= index(" ".join(opening[:width])).places.keys():
            return 1.0 if _IS.match(" ".join(opening[width:])) else 0.2
    return 0.0
