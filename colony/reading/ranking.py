"""Passages in order of how well they answer: word statistics over what the searches brought, no corpus at hand.

The rarity of a term is estimated from its own search: when that found fewer passages than it was allowed to return, the
count is exact; otherwise from its share among what the *other* searches found.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from colony.reading.question import Question, Term
from colony.reading.terms import Indexed, index

SEARCH_LIMIT = 50
_K1 = 1.2
_FIELDS = {"body": (1.0, 0.6), "heading": (1.6, 0.5), "title": (0.8, 0.3)}  # weight, length normalisation
_CHANGES = re.compile(
    r"\b(?:change|release|what.?s.?new|whatsnew|histor|news|relnotes|migration_\d|announce)", re.IGNORECASE
)
_SIDELINES = re.compile(
    r"\b(?:genindex|index|toc|contents|search|modindex|glossary|contribut|sponsors|licen[cs]e|authors)\b"
)


@dataclass(frozen=True)
class Found:
    """One passage as a search returned it; offsets are bytes of the source."""

    source: str
    document: str
    title: str
    heading: str
    start: int
    end: int
    text: str

    @property
    def key(self) -> tuple[str, int, int]:
        return self.source, self.start, self.end


@dataclass(frozen=True)
class Rarity:
    """How many passages there are, and in how many of them each term stands."""

    passages: int
    frequency: Mapping[str, float]

    def idf(self, key: str) -> float:
        count = self.frequency.get(key, 0.0)
        return math.log(1 + (self.passages - count + 0.5) / (count + 0.5)) if count < self.passages else 0.1


@dataclass(frozen=True)
class Read:
    """A passage with its fields indexed."""

    found: Found
    body: Indexed
    heading: Indexed
    title: Indexed

    def holds(self, key: str) -> bool:
        return key in self.body.places or key in self.heading.places or key in self.title.places


@dataclass(frozen=True)
class Ranked:
    read: Read
    score: float
    coverage: float


def read(found: Found) -> Read:
    name = re.sub(r"\.\w+$", "", found.document).replace("/", " ").replace("-", " ").replace("_", " ")
    return Read(found, index(found.text), index(found.heading.replace(" > ", " . ")), index(f"{found.title} {name}"))


def rarity(keys: Sequence[str], alone: Mapping[str, Sequence[Read]], pool: Sequence[Read], passages: int) -> Rarity:
    """`alone` holds for each key what a search for only that key returned."""
    frequency: dict[str, float] = {}
    for key in keys:
        own = [entry for entry in alone.get(key, ()) if entry.holds(key)]
        if len(own) < SEARCH_LIMIT * 0.9:
            frequency[key] = float(max(len(own), sum(1 for entry in pool if entry.holds(key))))
            continue
        mine = {entry.found.key for entry in own}
        others = [entry for entry in pool if entry.found.key not in mine]
        share = sum(1 for entry in others if entry.holds(key)) / max(len(others), 1)
        frequency[key] = min(max(len(own), share * passages), passages * 0.9)
    return Rarity(max(passages, len(pool), 1), frequency)


def strength(term: Term, rare: Rarity) -> float:
    """What a term counts for: how much the question leans on it times how rare it is."""
    return term.weight * rare.idf(term.key)


def rank(question: Question, pool: Sequence[Read], rare: Rarity) -> list[Ranked]:
    """Best first. The score is 0 for a passage without any term of the question."""
    if not pool:
        return []
    mean = {field: max(1.0, sum(getattr(entry, field).length for entry in pool) / len(pool)) for field in _FIELDS}
    ranked = [_score(question, entry, rare, mean) for entry in pool]
    return sorted(ranked, key=lambda entry: (-entry.score, entry.read.found.document, entry.read.found.start))


def _score(question: Question, entry: Read, rare: Rarity, mean: Mapping[str, float]) -> Ranked:
    total = covered = possible = 0.0
    for term in question.terms:
        weight = strength(term, rare)
        own = _frequency(entry, term.key, mean) or _spelt_out(entry, term)
        other = max((_frequency(entry, key, mean) for key in term.alternatives), default=0.0)
        tf = max(own, 0.6 * other)
        total += weight * tf * (_K1 + 1) / (tf + _K1)
        covered += weight * (1.0 if own else 0.6 if other else 0.0)
        possible += weight
    coverage = covered / possible if possible else 0.0
    score = total * (0.35 + 0.65 * coverage) * (1 + 0.35 * _pairing(question, entry))
    return Ranked(entry, score * _standing(question, entry.found), coverage)


def _frequency(entry: Read, key: str, mean: Mapping[str, float]) -> float:
    tf = 0.0
    for field, (weight, b) in _FIELDS.items():
        indexed: Indexed = getattr(entry, field)
        if count := indexed.count(key):
            tf += weight * count / (1 - b + b * indexed.length / mean[field])
    return tf


def _spelt_out(entry: Read, term: Term) -> float:
    return min(2.0, entry.body.runs(term.parts) + 1.6 * entry.heading.runs(term.parts)) if term.parts else 0.0


def _pairing(question: Question, entry: Read) -> float:
    """The share of neighbouring question terms that also stand close together in the passage."""
    if not question.pairs:
        return 0.0
    close = sum(
        1 for left, right in question.pairs if any(near(part, left, right) for part in (entry.body, entry.heading))
    )
    return close / len(question.pairs)


def near(indexed: Indexed, left: str, right: str, reach: int = 3) -> bool:
    there = indexed.places.get(right, ())
    return any(abs(a - b) <= reach for a in indexed.places.get(left, ()) for b in there)


def _standing(question: Question, found: Found) -> float:
    """Release notes and registers hold every word and explain none of them."""
    where = f"{found.document} {found.title} {found.heading}"
    factor = 1.0
    if _CHANGES.search(where) and not re.search(
        r"\b(?:version|release|changed?|since|added|removed|new in)\b", question.text, re.IGNORECASE
    ):
        factor *= 0.55
    if _SIDELINES.search(where.lower()):
        factor *= 0.8
    return factor
