"""From windows to excerpts: the few contiguous stretches that answer a question, without saying anything twice."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from colony.reading.evidence import OWN, Grip, Window, grip, titled
from colony.reading.question import Question, QuestionKind
from colony.reading.ranking import Rarity
from colony.reading.units import Unit

SHORT_PARAGRAPH = 480  # characters; up to here a paragraph is quoted whole rather than torn
LONGEST_CODE = 700
LONGEST_LIST = 900
LONGEST_LEAD = 320
LONGEST_EXCERPT = 1500

_REFERS_BACK = re.compile(
    r"(?:this|that|these|those|it|they|such|both|here|then|otherwise|however|instead|also|in (?:this|that|these) case|"
    r"as a result|for this|the (?:former|latter|above)|doing so|but|and|so|thus|therefore)\b",
    re.IGNORECASE,
)
_CUES: dict[QuestionKind, tuple[re.Pattern[str], float]] = {
    "default": (re.compile(r"\bdefault(?:s|ed)?\b", re.IGNORECASE), 0.15),
    "difference": (
        re.compile(
            r"\b(?:differ\w*|unlike|whereas|while|in contrast|compared|instead|however|but|rather|than|main)\b", re.I
        ),
        0.1,
    ),
    "reason": (
        re.compile(
            r"\b(?:because|since|so that|in order to|otherwise|reasons?|prevents?|avoids?|ensures?|therefore|thus|due to|"
            r"leads? to|causes?|allows?|would|security|inefficient|used (?:for|to))\b",
            re.IGNORECASE,
        ),
        0.12,
    ),
    "time": (
        re.compile(r"\b(?:when|whenever|after|before|once|until|as soon as|at the (?:time|end|start)|during)\b", re.I),
        0.08,
    ),
    "amount": (
        re.compile(r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|twelve|hundred|thousand)\b", re.I),
        0.14,
    ),
    "how": (
        re.compile(
            r"\b(?:you can|use|using|pass|call|set|specify|add|run|by \w+ing|to \w+|can be|may be|provide|must|decorator|"
            r"option|argument|parameter|command|setting)\b",
            re.IGNORECASE,
        ),
        0.06,
    ),
    "list": (re.compile(r",.*,.*\b(?:and|or)\b|:\s*$", re.DOTALL), 0.08),
    "choice": (re.compile(r"\b(?:is|are|use|supports?|determines?|specif\w+|controls?)\b"), 0.04),
    "definition": (
        re.compile(
            r"\b(?:is|are) (?:an?|the|used|called|where|what|how)\b|\bmeans?\b|\brefers? to\b|\bknown as\b", re.I
        ),
        0.07,
    ),
}


@dataclass(frozen=True)
class Excerpt:
    """Units of one window that are quoted together, and how well they answer."""

    window: Window
    chosen: tuple[int, ...]
    score: float
    grip: Grip

    @property
    def text(self) -> str:
        return composed(self.window, self.chosen)

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
    if len(text) < 12 or len(text) > LONGEST_EXCERPT * 1.5:
        return None
    core = grip(question, rare, window, (at,))
    chosen = _headed(question, window, chosen)
    held = grip(question, rare, window, chosen)
    score = (0.55 * held.coverage + 0.2 * held.own + 0.25 * core.own) * (0.55 + 0.45 * window.standing)
    score *= 1.0 + _cue(question, window, at, text) - _flaws(question, window, at, text)
    score *= 1.0 + _placed(question, rare, window, at)
    score *= _on_the_point(question, held, text)
    return Excerpt(window, chosen, score, held)


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
    if after < len(window.units) and window.units[after].kind == "code" and _wants_code(question, window, after - 1):
        if len(window.texts[after]) <= LONGEST_CODE:
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


def _cue(question: Question, window: Window, at: int, text: str) -> float:
    pattern, worth = _CUES.get(question.kind, (None, 0.0))
    bonus = worth if pattern and pattern.search(text) else 0.0
    unit = window.units[at]
    if (
        question.kind in ("how", "open")
        and "\n" in text
        and any(window.units[i].kind == "code" for i in (at, at + 1) if i < len(window.units))
    ):
        bonus += 0.08
    if question.kind in ("definition", "default") and unit.head is not None and at == unit.head + 1:
        bonus += 0.08
    if question.kind == "default" and re.search(
        r"\bdefaults?(?: value)?(?: is|:| to|=)|\bby default\b", text, re.IGNORECASE
    ):
        bonus += 0.15
    return bonus


def _on_the_point(question: Question, held: Grip, text: str) -> float:
    """A default that is not named, or a comparison with one side left out, is beside the point."""
    if question.kind == "default":
        return 1.0 if re.search(r"default", text, re.IGNORECASE) else 0.7
    if question.kind == "difference":
        sides = [held.levels[term.key] for term in question.subjects]
        return 1.0 if sides and min(sides) >= OWN * 0.9 else 0.7
    return 1.0


def _placed(question: Question, rare: Rarity, window: Window, at: int) -> float:
    """A section named like the question is about it, and says so in its first paragraph."""
    match = titled(question, rare, window.section_of(at))
    unit = window.units[at]
    opens = unit.heading is not None and all(
        other.block == unit.block or other.kind in ("heading", "entry", "change")
        for other in window.units[unit.heading : at]
    )
    if question.kind in ("definition", "difference", "default"):
        return match * (0.35 if opens else 0.15)
    return match * (0.15 if opens else 0.1)


def _headed(question: Question, window: Window, chosen: tuple[int, ...]) -> tuple[int, ...]:
    """With the heading, when only that says what the sentences are about."""
    heading = window.units[chosen[0]].heading
    if heading is None or window.units[chosen[0]].kind == "entry" or heading < chosen[0] - 8:
        return chosen
    for term in question.terms:
        if term.firm and term.key in window.indexes[heading].places:
            if not any(term.key in window.indexes[at].places for at in chosen):
                return (heading, *chosen)
    return chosen


def _flaws(question: Question, window: Window, at: int, text: str) -> float:
    unit, words = window.units[at], window.texts[at]
    minus = 0.0
    if words.endswith("?"):
        minus += 0.3
    if unit.kind == "code" and question.kind not in ("how", "open"):
        minus += 0.15
    if len(words) < 25 and unit.kind not in ("code", "entry") and not re.search(r"default", words, re.IGNORECASE):
        minus += 0.2
    if re.match(
        r"(?:see(?: also)?|refer to|for more|read|learn more|added in|changed in|new in|deprecated)\b",
        words,
        re.IGNORECASE,
    ):
        minus += 0.25
    if len(re.findall(r"https?://|\w+\.\w+\.\w+\.\w+", words)) > 2:
        minus += 0.2
    if unit.kind == "row":
        minus += 0.05
    return minus


def similar(one: Excerpt, other: Excerpt) -> float:
    """The share of the smaller one's words that the larger one has too."""
    left, right = _words(one), _words(other)
    return len(left & right) / max(min(len(left), len(right)), 1)


def _words(excerpt: Excerpt) -> set[str]:
    return {word for at in excerpt.chosen for word in excerpt.window.indexes[at].places}


def diverse(
    candidates: Sequence[Excerpt], *, limit: int, budget: int, floor: float = 0.62, sameness: float = 0.7
) -> list[Excerpt]:
    """The best, then what adds something: at most `limit` excerpts and `budget` characters, none far below the best."""
    taken: list[Excerpt] = []
    spent = 0
    for entry in candidates:
        if len(taken) == limit or (taken and entry.score < floor * taken[0].score):
            break
        if any(similar(entry, other) > sameness for other in taken) or (taken and spent + len(entry.text) > budget):
            continue
        taken.append(entry)
        spent += len(entry.text)
    return taken
