"""From windows to excerpts: the few contiguous stretches that answer a question, without saying anything twice."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from colony.reading.evidence import Grip, Window, grip
from colony.reading.question import Question
from colony.reading.ranking import Rarity
from colony.reading.scoring import Seen, score
from colony.reading.units import Unit

SHORT_PARAGRAPH = 480  # characters; up to here a paragraph is quoted whole rather than torn
LONGEST_CODE = 600
LONGEST_LIST = 900
LONGEST_LEAD = 320
LONGEST_EXCERPT = 1200

_REFERS_BACK = re.compile(
    r"(?:this|that|these|those|it|they|such|both|here|then|otherwise|however|instead|also|in (?:this|that|these) case|"
    r"as a result|for this|the (?:former|latter|above)|doing so|but|and|so|thus|therefore)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Excerpt:
    """Units of one window that are quoted together, and how well they answer."""

    window: Window
    chosen: tuple[int, ...]
    score: float
    grip: Grip
    seen: Seen

    @property
    def text(self) -> str:
        return composed(self.window, self.chosen)

    @property
    def prose(self) -> str:
        """The text without its code."""
        return " ".join(self.window.texts[at] for at in self.chosen if self.window.units[at].kind != "code")

    @property
    def key(self) -> tuple[str, int]:
        return self.window.found.source, self.window.found.start + self.window.units[self.chosen[0]].start


def composed(window: Window, chosen: Sequence[int]) -> str:
    """The excerpt as plain text: an entry's head, then its sentences; code on lines of its own."""
    text = ""
    for at in chosen:
        unit, words = window.units[at], window.texts[at]
        if not words:
            continue
        if unit.kind == "code":
            text = f"{text}\n{words}\n" if text else f"{words}\n"
        elif unit.kind in ("item", "row") and text:
            text = f"{text.rstrip()}\n- {words}\n" if unit.kind == "item" else f"{text.rstrip()}\n{words}\n"
        elif unit.kind in ("entry", "heading"):
            text += f"{words}: "
        else:
            text += words if not text or text[-1].isspace() else f" {words}"
    return text.strip().rstrip(":") if text.strip().endswith(":") and len(chosen) == 1 else text.strip()


def excerpts(question: Question, rare: Rarity, windows: Iterable[Window]) -> list[Excerpt]:
    """Every candidate, best first; at most one per starting unit."""
    best: dict[tuple[str, int], Excerpt] = {}
    for window in windows:
        for at, unit in enumerate(window.units):
            if unit.kind in ("heading", "change") or not window.texts[at]:
                continue
            first = grip(question, rare, window, (at,))
            if first.own == 0.0 and not _follows_code_or_head(unit):
                continue
            made = _excerpt(question, rare, window, at)
            if made and (made.key not in best or best[made.key].score < made.score):
                best[made.key] = made
    return sorted(best.values(), key=lambda entry: (-entry.score, entry.key))


def _follows_code_or_head(unit: Unit) -> bool:
    return unit.head is not None or unit.kind == "code"


def _excerpt(question: Question, rare: Rarity, window: Window, at: int) -> Excerpt | None:
    chosen = _grown(question, window, at)
    text = composed(window, chosen)
    if chosen == (at,) and window.units[at].kind == "entry":  # a name without a word about it
        return None
    if len(text) < 12 or len(text) > LONGEST_EXCERPT:
        return None
    chosen = _headed(question, window, chosen)
    seen = Seen(question, rare, window, at, chosen, text)
    return Excerpt(window, chosen, score(seen), seen.held, seen)


def _grown(question: Question, window: Window, at: int) -> tuple[int, ...]:
    """The unit with what it cannot be understood without."""
    unit = window.units[at]
    chosen = {at}
    if unit.kind == "sentence":
        chosen |= _paragraph_around(window, at)
    elif unit.kind == "item" and question.kind == "list":
        chosen |= _list_around(window, at)
    elif unit.kind == "entry":
        body = [ahead for ahead in range(at + 1, len(window.units)) if window.units[ahead].head == at]
        if body and window.units[body[0]].kind in ("sentence", "item"):
            chosen |= _paragraph_around(window, body[0])
    lead = unit.lead if unit.lead is not None else at - 1 if unit.kind == "code" and at else None
    if lead is not None and window.units[lead].kind == "sentence" and len(window.texts[lead]) <= LONGEST_LEAD:
        chosen.add(lead)
    if unit.head is not None:
        chosen.add(unit.head)
    after = max(chosen) + 1
    code_follows = after < len(window.units) and window.units[after].kind == "code"
    if code_follows and _wants_code(question, window, after - 1) and len(window.texts[after]) <= LONGEST_CODE:
        chosen.add(after)
    return tuple(sorted(chosen))


def _paragraph_around(window: Window, at: int) -> set[int]:
    block = list(window.block_of(at))
    if sum(len(window.texts[other]) for other in block) <= SHORT_PARAGRAPH:
        return set(block)
    chosen, size = [at], len(window.texts[at])
    while chosen[0] > block[0] and _REFERS_BACK.match(window.texts[chosen[0]]) and size < SHORT_PARAGRAPH:
        chosen.insert(0, chosen[0] - 1)
        size += len(window.texts[chosen[0]])
    while chosen[-1] < block[-1] and size + len(window.texts[chosen[-1] + 1]) <= SHORT_PARAGRAPH:
        chosen.append(chosen[-1] + 1)
        size += len(window.texts[chosen[-1]])
    return set(chosen)


def _list_around(window: Window, at: int) -> set[int]:
    block = [other for other in window.block_of(at) if window.units[other].kind == "item"]
    chosen, size = [at], len(window.texts[at])
    for other in sorted(block, key=lambda other: abs(other - at)):
        if other != at and size + len(window.texts[other]) <= LONGEST_LIST:
            chosen.append(other)
            size += len(window.texts[other])
    return set(chosen)


def _wants_code(question: Question, window: Window, before: int) -> bool:
    return question.kind in ("how", "open") or window.texts[before].endswith(":")


def _headed(question: Question, window: Window, chosen: tuple[int, ...]) -> tuple[int, ...]:
    """With the heading, when only that says what the sentences are about."""
    heading = window.units[chosen[0]].heading
    if heading is None or window.units[chosen[0]].kind == "entry" or heading < chosen[0] - 8:
        return chosen
    named = {term.key for term in question.terms if term.firm and term.key in window.indexes[heading].places}
    said = {key for key in named if any(key in window.indexes[at].places for at in chosen)}
    return (heading, *chosen) if named - said else chosen


def similar(one: Excerpt, other: Excerpt) -> float:
    """The share of the smaller one's words that the larger one has too."""
    left, right = _words(one), _words(other)
    return len(left & right) / max(min(len(left), len(right)), 1)


def _words(excerpt: Excerpt) -> set[str]:
    return {word for at in excerpt.chosen for word in excerpt.window.indexes[at].places}


def diverse(
    candidates: Sequence[Excerpt], *, limit: int, budget: int, within: float, sameness: float = 0.7
) -> list[Excerpt]:
    """The best, then what adds something: at most `limit` excerpts and `budget` characters, none far below the best."""
    taken: list[Excerpt] = []
    spent = 0
    for entry in candidates:
        if len(taken) == limit or (taken and entry.score < taken[0].score - within):
            break
        if any(similar(entry, other) > sameness for other in taken) or (taken and spent + len(entry.text) > budget):
            continue
        taken.append(entry)
        spent += len(entry.text)
    return taken
