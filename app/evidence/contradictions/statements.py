"""What a text states, sentence by sentence, in a form in which two sentences about the same matter look alike. Pure.

A statement is its content words in order, without the values in it; two with the same words are about the same matter.
Everything that may make two sentences speak of different things (another time, mood, condition, version, environment) is
either a word of the statement or keeps it from being one: a contradiction that is none costs more than one that is missed.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from app.evidence.contradictions.values import Value, tokens
from app.evidence.contradictions.vocabulary import (
    ALIKE,
    CONDITIONS,
    DONE_BY,
    ENVIRONMENTS,
    FILLERS,
    GENERIC_HEADINGS,
    HEDGES,
    HINTS,
    KINDS_OF_RECORD,
    MOODS,
    NEGATIONS,
    OPPOSITES,
    PAST,
    RELATIONS,
    ROLES,
    SAME_SENSE,
    SAME_STATE,
    STATES,
    STOP,
    VAGUE,
)
from colony_client.canonical import CanonicalizationError, canonical

MOST_CHARACTERS = 600  # of a sentence, or of a field of a record
MOST_OF_HINT = 12  # characters
MOST_OF_HEADING = 200  # characters that are read of one

# Where a sentence ends: behind its point, at a semicolon, an empty line, or a line that begins an item, a row or a pair.
_END = re.compile(
    r"(?<=[.!?])[\"”)*_`]*\s+(?=[\"“(*_`]*[A-Z0-9\u00c0-\u00de])|;\s+|\n\s*\n|\n(?=[ \t]*(?:[-*+|>#]|\d+[.)][ \t]))|"
    r"\n(?=\**[A-Za-z][\w /-]{1,40}:\**[ \t])"
)
_SHORT = re.compile(r"\b(?:e\.g|i\.e|No|Nr|vs|Mr|Mrs|Ms|Dr|St|approx|ca|cf)\.$")
_VERBS = r"needs|takes|is|has|lasts|costs|requires|runs|uses|holds|keeps|allows|weighs|starts|ends"
_CLAUSES = re.compile(rf",?\s+and\s+(?=(?:{_VERBS})\b)|:\s+|,\s+(?:but|while|and)\s+")
_SUBJECT = re.compile(rf"(.{{2,60}}?)\s+(?:{_VERBS})\s")
_VERB = re.compile(rf"(?:{_VERBS})\s")
_HEADING = re.compile(r"^(#{1,6})[ \t]+(\S.*)$", re.M)
_FENCE = re.compile(r"^(```|~~~)(.*)$", re.M)
_BLANKS = re.compile(r"[^\S\n]+")
_NAME = re.compile(r"(?<![.-])[.-]*+\w(?:[\w.-]*\w)?")  # a word with the points and dashes in it
_PAIR = re.compile(r"^\s*(?:[-*+]\s+)?\**([A-Za-z][\w /-]{1,40}?)\**\s*:\**\s+(\S.{0,200})$")
_ROW = re.compile(r"^\s*\|\s*([^|\n]{2,40}?)\s*\|\s*([^|\n]{1,200}?)\s*\|\s*$")
# Programs and commands state nothing: the same line in two of them is two lines.
_CODE = re.compile(r"^(?:>>>|\.\.\.|\$ )|[{}]|\(\)|[=!<>]=|\s[=]\s|[-=]>|::|</?[a-z]|\w\(\w|[a-z]\.[a-z]+\(|\\\w")
_EXAMPLE = re.compile(r"\b(?:e\.g\.|for example|for instance|such as|suppose|imagine|not only|assum\w+)\b|\?\s*$", re.I)
_OF = re.compile(
    rf"^(?:the\s+)?({'|'.join(sorted(ROLES | STATES))})\s+of\s+(?:the\s+)?(.{{2,80}}?)\s+(?:is|are)\s+(?:set\s+to\s+)?(.{{2,80}}?)[.!]?$",
    re.I,
)
_ITS = re.compile(
    rf"^(?:the\s+)?(.{{2,80}}?)['’]s\s+({'|'.join(sorted(ROLES | STATES))})\s+is\s+(.{{2,80}}?)[.!]?$", re.I
)
_BY = re.compile(
    r"^(?:the\s+)?(.{2,80}?)\s+is\s+(owned|maintained|led|managed|written|run)\s+by\s+(.{2,80}?)[.!]?$", re.I
)
_IN = re.compile(
    rf"^(?:the\s+)?(.{{2,80}}?)\s+(?:is|stands)\s+in\s+(?:the\s+)?({'|'.join(sorted(STATES))})\s+[\"“`]?([\w -]{{2,40}}?)[\"”`]?[.!]?$",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a text: characters [start, end)."""

    start: int
    end: int
    words: tuple[str, ...]
    values: tuple[Value, ...] = ()
    negated: bool = False
    mood: str = ""
    past: bool = False
    hedged: bool = False
    conditional: bool = False
    name: tuple[str, frozenset[str], str] | None = None  # which relation, who or what as words, as it is said
    marks: frozenset[str] = frozenset()  # years, versions, environments of the headings above it
    topics: frozenset[str] = frozenset()  # what those headings name

    def weight(self) -> int:
        """How many of its words name a matter."""
        return sum(word not in vague() for word in self.words)

    def anywhere(self) -> "Statement":
        """The same, wherever it is said: two that are equal then say nothing that one of them does not."""
        return replace(self, start=0, end=0)


@dataclass(frozen=True, slots=True)
class Above:
    """The headings that a place stands under. nearest: the words of the last of them; marks, topics: as in a Statement."""

    nearest: tuple[str, ...] = ()
    marks: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset()


class Text:
    """A source as text, with where its code blocks and headings are. What is worked out of a heading is worked out once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.fences = fences(text)
        self.opened = [start for start, _ in self.fences]
        self.headings: list[tuple[str, int]] = []  # what each says, and the number of the one it stands under, or -1
        self.starts: list[int] = []
        over: list[tuple[int, int]] = []  # (depth, number) of those that the next may stand under
        for found in _HEADING.finditer(text):
            if self.fenced(found.start()):
                continue
            depth = len(found[1])
            while over and over[-1][0] >= depth:
                over.pop()
            said = found[2][:MOST_OF_HEADING].rstrip().rstrip("#").rstrip()
            self.headings.append((said, over[-1][1] if over else -1))
            self.starts.append(found.start())
            over.append((depth, len(self.headings) - 1))
        self.known = {-1: Above()}

    def fenced(self, at: int) -> bool:
        """Whether a place is inside a code block."""
        number = bisect_right(self.opened, at) - 1
        return number >= 0 and at < self.fences[number][1]

    def above(self, at: int) -> Above:
        """What the headings say that a place stands under."""
        return self.under(bisect_right(self.starts, at) - 1)

    def under(self, number: int) -> Above:
        """The same for what stands right under a heading; -1: under none. It goes as deep as headings do, six times."""
        if (found := self.known.get(number)) is None:
            said, outer = self.headings[number]
            over, words = self.under(outer), heading_words(said)
            topics = over.topics.union(word for word in words if word not in vague())
            found = self.known[number] = Above(tuple(words), over.marks | marks_of(said), topics)
        return found


def fences(text: str) -> list[tuple[int, int]]:
    """Where code blocks begin and end, in order; a fence that nothing closes opens none."""
    marks = [(found.start(), found.end(), found[1], not found[2].strip(" \t")) for found in _FENCE.finditer(text)]
    closing: dict[str, list[int]] = {"```": [], "~~~": []}  # numbers of the marks that may close
    for number, (_, _, mark, bare) in enumerate(marks):
        if bare:
            closing[mark].append(number)
    found, number = [], 0
    while number < len(marks):
        start, _, mark, _ = marks[number]
        closers = closing[mark]
        behind = bisect_right(closers, number)
        if behind < len(closers):
            found.append((start, marks[closers[behind]][1]))
            number = closers[behind]
        number += 1
    return found


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    word = ALIKE.get(word, word)
    return _stemmer().stemWord(word)


@lru_cache(maxsize=1)
def _stemmer() -> Any:
    import snowballstemmer  # only where there is something to compare

    return snowballstemmer.stemmer("english")


@lru_cache(maxsize=1)
def vague() -> frozenset[str]:
    return frozenset(map(stem, VAGUE))


def hints(said: Statement) -> Set[str]:
    """Beginnings of words of which a sentence that states the same has one: a stem that ends in i may be a y in the text."""
    if said.name:
        return HINTS.get(said.name[0], {said.name[0][:5]})
    return {(word.rstrip("i") or word)[:MOST_OF_HINT] for word in (max(said.words, key=len), said.words[-1])}


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Where the sentences of a text begin and end."""
    at = 0
    for found in _END.finditer(text):
        if _SHORT.search(text, max(at, found.start() - 8), found.start()):
            continue
        yield at, found.start()
        at = found.end()
    yield at, len(text)


def statements(source: Text, wanted: Callable[[int, int], bool]) -> Iterator[Statement]:
    """What those sentences of a source state, in order, whose place is wanted. One that is too long is not even looked at: it
    would be held by one search, and nothing else would run meanwhile."""
    for first, last in sentences(source.text):
        at, said = bare(first, source.text[first:last])
        if not 8 <= len(said) <= MOST_CHARACTERS:
            continue
        if wanted(max(first, at - MOST_OF_HEADING), at + len(said)) and not source.fenced(first):
            yield from of_sentence(source, at, said)


def bare(at: int, said: str) -> tuple[int, str]:
    """A sentence and its place without a heading that it follows without an empty line, and without the blanks around it."""
    if said.lstrip().startswith("#"):
        line, _, rest = said.partition("\n")
        at, said = at + len(line) + 1, rest
    return at + len(said) - len(said.lstrip()), said.strip()


def of_sentence(source: Text, at: int, said: str) -> Iterator[Statement]:
    """What characters of a source state that begin at a place and are one sentence."""
    end, said = at + len(said), _BLANKS.sub(" ", said)  # patterns that skip blanks would try every number of them
    if _EXAMPLE.search(said) or _CODE.search(said):
        return
    above = source.above(at)
    if found := _PAIR.match(said) or _ROW.match(said):
        yield from pair(above, at, end, found[1], found[2])
        return
    body = re.sub(r"^\s*(?:[-*+>]|\d+[.)])\s+", "", said)
    plain = re.sub(r"[*_`]", "", body)
    if (name := named(plain)) is not None:
        words, relation = name
        yield Statement(at, end, words, name=relation, marks=above.marks, topics=above.topics)
    for clause in clauses(plain):
        made = sentence(clause, at, end, above.marks)
        if made.words:
            yield replace(made, topics=above.topics)


def clauses(said: str) -> Iterator[str]:
    """A sentence, and its clauses: one that begins with a verb takes the subject of the first."""
    yield said
    first, *others = _CLAUSES.split(said)
    if others and (found := _SUBJECT.match(first)):
        yield first
        yield from (f"{found[1]} {clause}" for clause in others if _VERB.match(clause))


def sentence(said: str, start: int, end: int, marks: frozenset[str]) -> Statement:
    words: list[str] = []
    values: list[Value] = []
    flips, mood, past, hedged, conditional = 0, "", False, False, False
    before = ""
    for token in tokens(said):
        if token.value is not None:
            values.append(token.value)
            before = ""
            continue
        word = token.text.lower().replace("’", "'")
        if token.named:
            words.append(word)
        elif word in NEGATIONS or word.endswith("n't"):
            flips += 1
            continue
        elif word in MOODS:
            mood = mood or MOODS[word]
        elif word in HEDGES:
            hedged = True
        elif word in ("was", "were", "had") or word in PAST:
            past = True
        elif word in STOP or word in FILLERS:
            pass
        else:
            conditional = conditional or word in CONDITIONS
            if word in OPPOSITES:
                flips += word not in SAME_SENSE
                word = OPPOSITES[word]
            past = past or (
                word.endswith("ed") and before not in ("is", "are", "be", "been", "being", "") and word != "need"
            )
            words.append(stem(word))
        before = word
    return Statement(
        start, end, subject(words), tuple(values), flips % 2 == 1, mood, past, hedged, conditional, marks=marks
    )


def subject(words: list[str]) -> tuple[str, ...]:
    """Words without the kind that a named thing is of: lead L-1001 is L-1001."""
    if any(identifier(word) for word in words):
        words = [word for word in words if word not in KINDS_OF_RECORD]
    return tuple(words)


@lru_cache(maxsize=50_000)
def identifier(word: str) -> bool:
    return bool(re.search(r"\d", word)) and bool(re.search(r"[a-z]", word))


def pair(above: Above, at: int, end: int, key: str, value: str) -> Iterator[Statement]:
    """`Key: value` under a heading that says of what."""
    own = [stem(word.lower()) for word in re.findall(r"[\w-]+", key) if word.lower() not in STOP]
    for one in keyed([*above.nearest, *own], own, at, end, value):
        yield replace(one, marks=above.marks, topics=above.topics)


def keyed(words: Sequence[str], own: Sequence[str], at: int, end: int, value: str) -> Iterator[Statement]:
    relation = next((RELATIONS[word] for word in own if word in RELATIONS), None)
    if relation is not None:
        if who := who_or_what(value, relation):
            rest = [word for word in words if RELATIONS.get(word) != relation]
            yield Statement(at, end, subject([*rest, stem(relation)]), name=(relation, who, value.strip()[:100]))
        return
    told = list(tokens(f": {value}"))
    found = [one.value for one in told if one.value]
    rest = [word for one in told if one.value is None and (word := one.text.lower()) not in STOP | FILLERS]
    if len(found) == 1 and len(rest) <= 1:
        about = subject([*words, *(stem(word) for word in rest if stem(word) not in words)])
        if about:  # "To: 5 minutes" under no heading says nothing of anything
            yield Statement(at, end, about, tuple(found))


def heading_words(heading: str) -> list[str]:
    words = [word for word in _NAME.findall(heading.lower()) if word not in STOP]
    return [] if all(word in GENERIC_HEADINGS for word in words) else [stem(word) for word in words]


def marks_of(heading: str) -> frozenset[str]:
    """What in a heading makes of two places two matters: years, versions, environments."""
    found = _NAME.findall(heading.lower())
    return frozenset(word for word in found if re.search(r"\d", word) or word in ENVIRONMENTS)


def named(said: str) -> tuple[tuple[str, ...], tuple[str, frozenset[str], str]] | None:
    """Who or what something is said to be: (its words, (relation, words of who, as said)); None when it says no such thing."""
    if found := _OF.match(said):
        relation, of, who = found[1], found[2], found[3]
    elif found := _ITS.match(said):
        relation, of, who = found[2], found[1], found[3]
    elif found := _BY.match(said):
        relation, of, who = DONE_BY[found[2].lower()], found[1], found[3]
    elif found := _IN.match(said):
        relation, of, who = found[2], found[1], found[3]
    else:
        return None
    relation = relation.lower()
    words = [token.text.lower() for token in tokens(of) if token.value is None and token.text.lower() not in STOP]
    people = who_or_what(who, relation)
    if not people or not words or len(words) > 6 or NEGATIONS & set(said.lower().split()):
        return None
    told = [word if identifier(word) else stem(word) for word in words]
    return subject([*told, stem(relation)]), (relation, people, who)


def who_or_what(said: str, relation: str) -> frozenset[str]:
    """The words of a name or a state; none when it is no plain one."""
    said = re.sub(r"[*_`\"“”]", "", said).strip().rstrip(".")
    words = re.findall(r"\w+(?:[.'@-]+\w+)*", said)
    if not 1 <= len(words) <= 4 or re.search(
        r"[,;(]|\b(?:and|or|not|no|who|which|unknown|none|tbd|vacant|n/a)\b", said, re.I
    ):
        return frozenset()
    if relation in ROLES and not all(word[0].isupper() or word in STOP for word in words):
        return frozenset()
    if relation in STATES and len(words) > 2:
        return frozenset()
    left = (word.lower() for word in words if word.lower() not in STOP)
    return frozenset(next((group.split()[0] for group in SAME_STATE if word in group.split()), word) for word in left)


def of_record(data: bytes) -> Iterator[Statement]:
    """What a record's snapshot states, field by field; only of records with a name of their own, such as L-1001.

    A snapshot is canonical JSON, so a field is found behind the one before it; what is written otherwise is read up to there.
    """
    try:
        said = json.loads(data)
        id, fields = str(said["id"]).lower(), said["fields"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return
    text, at = data.decode(errors="replace"), 0
    if len(id) > MOST_CHARACTERS or not identifier(id) or not isinstance(fields, dict):
        return
    for key, value in fields.items():
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            continue
        if len(key) + len(str(value)) > MOST_CHARACTERS or "\0" in str(value):
            continue
        try:
            shown = f"{canonical(key).decode()}:{canonical(value).decode()}"
        except CanonicalizationError:
            return
        at = text.find(shown, at)
        if at < 0:
            return
        own = [stem(word.lower()) for word in re.findall(r"[A-Za-z]+", key)]
        if own:
            yield from keyed([id, *own], own, at, at + len(shown), str(value))
