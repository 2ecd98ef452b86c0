"""A stretch of text read for one question: which unit holds which term, itself or through what stands around it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from colony.reading.plain import plain, plain_code, plain_row
from colony.reading.question import Question, Term
from colony.reading.ranking import Found, Rarity, strength
from colony.reading.terms import STOP, Indexed, index, same_word
from colony.reading.units import Unit, units

# How far a term counts for a unit, by where it stands.
OWN, HEAD, LEAD, BESIDE, SECTION, PATH, TITLE, AROUND = 1.0, 0.95, 0.8, 0.7, 0.75, 0.65, 0.5, 0.25
SPELT_OUT = 0.9  # pool_size written as "pool size"
INFLECTED = 0.95  # configured for configure
SAME_STEM = 0.6  # extensive for extension
IN_CODE = 0.75  # words in code are about something else as often as not; identifiers count in full
ALTERNATIVE = 0.75  # a synonym instead of the word itself


@dataclass(frozen=True)
class Window:
    """A passage with what stands around it, cut into units. `standing` is its rank score relative to the best, 0 to 1."""

    found: Found
    standing: float

    @cached_property
    def units(self) -> list[Unit]:
        return units(self.found.text)

    @cached_property
    def texts(self) -> list[str]:
        return [as_read(unit, self.found.text[unit.start : unit.end]) for unit in self.units]

    @cached_property
    def indexes(self) -> list[Indexed]:
        return [index(text) for text in self.texts]

    @cached_property
    def whole(self) -> Indexed:
        return index(self.found.text)

    @cached_property
    def path(self) -> Indexed:
        return index(self.found.heading.replace(" > ", " . "))

    def section_of(self, at: int) -> Indexed:
        """The nearest heading above a unit: inside the window, or the last one of the passage's path."""
        heading = self.units[at].heading
        return self.indexes[heading] if heading is not None else self.nearest

    @cached_property
    def nearest(self) -> Indexed:
        return index(self.found.heading.rsplit(" > ", 1)[-1])

    @cached_property
    def title(self) -> Indexed:
        name = self.found.document.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        return index(f"{self.found.title} {name.replace('-', ' ').replace('_', ' ')}")

    def block_of(self, at: int) -> Iterator[int]:
        """Units of the same paragraph or list, in order."""
        block = self.units[at].block
        first = at
        while first and self.units[first - 1].block == block:
            first -= 1
        while first < len(self.units) and self.units[first].block == block:
            yield first
            first += 1

    def byte_span(self, start: int, end: int) -> tuple[int, int]:
        first = self.found.start + len(self.found.text[:start].encode())
        return first, first + len(self.found.text[start:end].encode())


def as_read(unit: Unit, text: str) -> str:
    if unit.kind == "code":
        return plain_code(text)
    if unit.kind == "row":
        return plain_row(text)
    if unit.kind == "entry":
        return ", ".join(plain(line).rstrip(":;").strip() for line in text.splitlines() if line.strip())
    return plain(text)


@dataclass(frozen=True)
class Grip:
    """How well the terms of a question are held: by term, and the weighted share of all."""

    levels: dict[str, float]
    coverage: float
    own: float


def grip(question: Question, rare: Rarity, window: Window, chosen: Sequence[int]) -> Grip:
    """What the chosen units hold of the question, themselves and through their surroundings."""
    layers = list(_layers(window, chosen))
    levels: dict[str, float] = {}
    total = held = own = 0.0
    for term in question.terms:
        level = max((_level(term, layer) for layer in layers), default=0.0)
        levels[term.key] = level
        weight = strength(term, rare)
        total += weight
        held += weight * level
        own += weight * (level if level >= ALTERNATIVE * IN_CODE and _own(term, window, chosen) else 0.0)
    return Grip(levels, held / total if total else 0.0, own / total if total else 0.0)


def titled(question: Question, rare: Rarity, heading: Indexed) -> float:
    """How exactly a heading names what is asked: the share of the question it covers times the share of it that does."""
    content = {word for word in heading.places if word not in STOP}
    if not content:
        return 0.0
    total = sum(strength(term, rare) for term in question.terms)
    covered = sum(strength(term, rare) * _in(term, heading) for term in question.terms)
    wanted = {key for term in question.terms for key in (term.key, *term.alternatives, *term.parts)}
    return covered / total * len(content & wanted) / len(content) if total else 0.0


def _own(term: Term, window: Window, chosen: Sequence[int]) -> bool:
    return any(_in(term, window.indexes[at]) for at in chosen)


def _in(term: Term, indexed: Indexed) -> float:
    if term.key in indexed.places:
        forms = indexed.forms.get(term.key, ()) if term.form else ()
        if not forms or term.form in forms:
            return 1.0
        return INFLECTED if any(same_word(term.form, form) for form in forms) else SAME_STEM
    if term.parts and indexed.runs(term.parts):
        return SPELT_OUT
    return ALTERNATIVE if any(key in indexed.places for key in term.alternatives) else 0.0


@dataclass(frozen=True)
class _Layer:
    factor: float
    indexed: Indexed
    code: bool = False


def _level(term: Term, layer: _Layer) -> float:
    return layer.factor * _in(term, layer.indexed) * (IN_CODE if layer.code and not term.firm else 1.0)


def _layers(window: Window, chosen: Sequence[int]) -> Iterator[_Layer]:
    for at in chosen:
        yield _Layer(OWN, window.indexes[at], window.units[at].kind == "code")
    first, last = window.units[chosen[0]], window.units[chosen[-1]]
    for unit in {window.units[at] for at in chosen}:
        if unit.head is not None:
            yield _Layer(HEAD, window.indexes[unit.head])
            if (outer := window.units[unit.head].head) is not None:
                yield _Layer(PATH, window.indexes[outer])
        if unit.lead is not None:
            yield _Layer(LEAD, window.indexes[unit.lead])
    for beside in (chosen[0] - 1, chosen[-1] + 1):
        if not 0 <= beside < len(window.units) or window.units[beside].kind in ("heading", "change", "entry"):
            continue
        if window.units[beside].heading == (first if beside < chosen[0] else last).heading:
            yield _Layer(BESIDE, window.indexes[beside])
    if first.heading is not None:
        yield _Layer(SECTION, window.indexes[first.heading])
    yield _Layer(PATH if first.heading is not None else SECTION, window.path)
    yield _Layer(TITLE, window.title)
    yield _Layer(AROUND, window.whole)
