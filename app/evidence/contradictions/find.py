"""What is cited, held against every other source that the mission was shown. Pure; processor time in proportion to the text.

All of it goes by statements and pairs of them up to a number. Each source gets its share of both, and what says the same again
takes none: a hostile text that goes on and on hides no other. What is not looked at is told.
"""

import re
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import zip_longest
from typing import Literal, TypeVar

from app.evidence.contradictions.statements import Statement, Text, hints, identifier, of_record, statements
from app.evidence.contradictions.values import Value
from app.evidence.contradictions.vocabulary import ENVIRONMENTS, EVENTS
from colony_client.artifacts import MAX_CONTRADICTIONS, ContradictingSpan, Contradiction

MOST_OTHERS = 50  # sources that were shown and not cited
MOST_BYTES = 2**19  # of all that are compared, together
MOST_STATEMENTS = 500  # of the cited passages, together
MOST_HELD = 10_000  # pairs of statements that are held against each other

INSIDE = bytes(range(0x80, 0xC0))  # bytes of UTF-8 that begin no character

Place = tuple[str, str]  # source hash, document
Kind = Literal["number", "amount", "date", "name", "negation"]
T = TypeVar("T")


@dataclass
class Source:
    """A shown source. spans: the bytes [start, end) of it that are cited, each with the claim that cites it, if any."""

    kind: Literal["document", "record"]
    data: bytes
    spans: list[tuple[int, int, str | None]] = field(default_factory=list)


@dataclass(frozen=True)
class Cited:
    """A statement of a cited passage, and the claims that stand on it."""

    place: Place
    said: Statement
    claims: tuple[str, ...]


@dataclass
class Differing:
    """Two statements that contradict each other, each with its place; (kind, why, value here, value there); who stands on it."""

    sides: tuple[tuple[Place, Statement], tuple[Place, Statement]]
    why: tuple[Kind, str, str, str]
    claims: set[str] = field(default_factory=set)


def find(sources: Mapping[Place, Source]) -> tuple[list[Contradiction], set[Place]]:
    """The contradictions between what is cited and any other source, the same for the same input; at most MAX_CONTRADICTIONS.
    And the sources that say more about it than was looked at."""
    texts = {place: Text(source.data.decode(errors="replace")) for place, source in sources.items()}
    saying = {
        place: iter(cited(place, source, texts[place])) for place, source in sorted(sources.items()) if source.spans
    }
    ones, unread = in_turn(saying, MOST_STATEMENTS)
    if not ones:
        return [], unread
    index: dict[tuple[str, ...], list[Cited]] = defaultdict(list)
    for one in ones:
        index[key(one.said)].append(one)
    about = re.compile(any_of({hint for one in ones for hint in hints(one.said)}), re.I)
    pairs, unpaired = in_turn(
        {place: alike(place, source, texts[place], about, index) for place, source in sorted(sources.items())},
        MOST_HELD,
    )
    found: dict[tuple[tuple[str, str, int, int], ...], Differing] = {}
    for one, place, other in pairs:
        if (why := differ(one.said, other)) is not None:
            sides = (one.place, one.said), (place, other)
            if any("\x00" in words for words in (*why, *(texts[at].text[told.start : told.end] for at, told in sides))):
                continue  # no artifact may quote it
            name = tuple(sorted((*at, told.start, told.end) for at, told in sides))
            found.setdefault(name, Differing(sides, why)).claims.update(one.claims)
    return [made(texts, found[name]) for name in sorted(found)[:MAX_CONTRADICTIONS]], unread | unpaired


def in_turn(waiting: Mapping[Place, Iterator[T]], most: int) -> tuple[list[T], set[Place]]:
    """One of each place after the other, as long as there are some, so many at most; and the places that have more."""
    found, rest, more = list[T](), dict(waiting), set[Place]()
    while rest:
        for place, coming in list(rest.items()):
            one = next(coming, None)
            if one is None or len(found) == most:
                del rest[place]
                more.update([place] if one is not None else [])
            else:
                found.append(one)
    return found, more


def any_of(words: Iterable[str]) -> str:
    """A pattern that finds one of some words. It reads each character of a text once for all of them, not once for each."""
    rest: dict[str, list[str]] = defaultdict(list)
    for word in words:
        if not word:
            return ""
        rest[word[0]].append(word[1:])
    return f"(?:{'|'.join(re.escape(first) + any_of(rest[first]) for first in sorted(rest))})"


def alike(
    place: Place, source: Source, text: Text, about: re.Pattern[str], index: Mapping[tuple[str, ...], Sequence[Cited]]
) -> Iterator[tuple[Cited, Place, Statement]]:
    """What is cited of others beside what a source states about the same matter, always in the same order: everything that it
    states with what comes first, then with what comes second."""
    said = {one.said.anywhere(): one.said for ones in index.values() for one in ones if one.place == place}
    of_others: dict[tuple[str, ...], list[Cited]] = {}
    told: dict[Statement, list[Cited]] = {}
    for other in stated(source, text, partial(mentions, about, text.text)):
        about_it = key(other)
        if about_it not in index:
            continue
        if about_it not in of_others:
            of_others[about_it] = [one for one in index[about_it] if apart(one.place, place)]
        if of_others[about_it]:
            told.setdefault(other.anywhere(), of_others[about_it])
            said.setdefault(other.anywhere(), other)
    for rank in range(max(map(len, told.values()), default=0)):
        for what, ones in told.items():
            if rank < len(ones):
                yield ones[rank], place, said[what]


def apart(one: Place, other: Place) -> bool:
    return one[0] != other[0] and not parallel(one[1], other[1])


def cited(place: Place, source: Source, text: Text) -> list[Cited]:
    """What the cited passages of a source state: all sentences that a citation has some of. What says the same again adds the
    claims that stand on it."""
    spans = in_characters(source)
    waiting, open_ = deque(spans), list[tuple[int, int, str | None]]()
    said, claims = dict[Statement, Statement](), defaultdict[Statement, set[str]](set)
    for one in stated(source, text, partial(overlaps, merged(spans))):
        while waiting and waiting[0][0] < one.end:
            open_.append(waiting.popleft())
        open_ = [span for span in open_ if one.start < span[1]]
        if open_:
            what = one.anywhere()
            said.setdefault(what, one)
            claims[what].update(claim for _, _, claim in open_ if claim)
    return [Cited(place, one, tuple(sorted(claims[what]))) for what, one in said.items()]


def stated(source: Source, text: Text, wanted: Callable[[int, int], bool]) -> Iterator[Statement]:
    """What a source states in the sentences that are wanted; of a record, in all of its fields."""
    return of_record(source.data) if source.kind == "record" else statements(text, wanted)


def in_characters(source: Source) -> list[tuple[int, int, str | None]]:
    """A source's spans by characters instead of bytes, in order."""
    at, counted, places = 0, 0, dict[int, int]()
    for place in sorted({place for start, end, _ in source.spans for place in (start, end)}):
        counted += len(source.data[at:place].translate(None, INSIDE))
        at, places[place] = place, counted
    found = ((places[start], places[end], claim) for start, end, claim in source.spans)
    return sorted(found, key=lambda one: one[:2])


def merged(spans: Iterable[tuple[int, int, str | None]]) -> list[tuple[int, int]]:
    """What spans in order cover, as spans that do not overlap."""
    found: list[tuple[int, int]] = []
    for start, end, _ in spans:
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def overlaps(spans: Sequence[tuple[int, int]], first: int, last: int) -> bool:
    at = bisect_left(spans, (last,)) - 1
    return at >= 0 and first < spans[at][1]


def mentions(about: re.Pattern[str], text: str, first: int, last: int) -> bool:
    return about.search(text, first, last) is not None


def key(said: Statement) -> tuple[str, ...]:
    """What two statements about the same matter have in common. The order of more than two words says who does what."""
    return said.words if len(said.words) > 2 else tuple(sorted(said.words))


def differ(one: Statement, other: Statement) -> tuple[Kind, str, str, str] | None:
    """(kind, why, value here, value there) when two statements with the same words contradict each other."""
    if (one.marks, one.mood, one.past, one.hedged) != (other.marks, other.mood, other.past, other.hedged):
        return None
    if one.name and other.name:
        (relation, here, said), (_, there, otherwise) = one.name, other.name
        if relation != other.name[0] or here & there or not matter(one, other, 1):
            return None
        return "name", f"the {relation} of the same is named differently", said, otherwise
    if one.name or other.name:
        return None
    differing = compared(one.values, other.values)
    if differing is None or len(differing) > 1:
        return None
    if one.negated != other.negated:
        plain = not (one.hedged or one.conditional or differing) and one.mood != "should"
        if not plain or len(one.words) < 3 or not matter(one, other, 2):
            return None
        words = ("denied", "affirmed") if one.negated else ("affirmed", "denied")
        return "negation", f"the same statement, once {words[0]} and once {words[1]}", *words
    if not differing or not matter(one, other, 2):
        return None
    [(here_, there_)] = differing
    if here_.kind == "date" and not EVENTS & set(one.words):
        return None
    why = f"the same statement, once with “{here_.said}” and once with “{there_.said}”"
    return here_.kind, why, here_.said, there_.said


def compared(ones: Sequence[Value], others: Sequence[Value]) -> list[tuple[Value, Value]] | None:
    """The values that differ, place by place; None when they cannot be held against each other."""
    differing = []
    for one, other in zip_longest(ones, others):
        verdict = one.against(other) if one is not None and other is not None else None
        if verdict is None:
            return None
        if verdict:
            differing.append((one, other))
    return differing


def matter(one: Statement, other: Statement, words: int) -> bool:
    """Whether two statements say enough of what they are about: so many words that name something, or a name with digits.

    Under headings that name the same, or where neither has any, one word less is enough.
    """
    if any(identifier(word) for word in one.words):
        return True
    together = bool(one.topics & other.topics) or not (one.topics or other.topics)
    return one.weight() >= max(words - together, 1)


@lru_cache(maxsize=4096)
def parallel(one: str, other: str) -> bool:
    """Whether two documents are of one series, where the same sentence is meant to say different things.

    The same but for numbers (release-15.md, release-16.md), two environments, or siblings such as team-a/x.md and team-b/x.md.
    """
    if one == other:
        return True
    a, b = one.lower(), other.lower()
    if re.sub(r"\d+", "0", a) == re.sub(r"\d+", "0", b):
        return True
    here, there = set(re.findall(r"[a-z]+", a)), set(re.findall(r"[a-z]+", b))
    if here & ENVIRONMENTS != there & ENVIRONMENTS:
        return True
    parts, others = a.split("/"), b.split("/")
    if len(parts) != len(others) or parts[-1] != others[-1]:
        return False
    at = [number for number, (x, y) in enumerate(zip(parts, others, strict=True)) if x != y]
    return len(at) == 1 and (
        at[0] > 0 or parts[at[0]][:3] == others[at[0]][:3] or parts[at[0]][-3:] == others[at[0]][-3:]
    )


def made(texts: Mapping[Place, Text], found: Differing) -> Contradiction:
    kind, reason, *values = found.why
    spans = []
    for ((source, document), said), value in zip(found.sides, values, strict=True):
        text = texts[source, document].text
        start = len(text[: said.start].encode())
        quote = text[said.start : said.end]
        spans.append(
            ContradictingSpan(
                source=source,
                document=document,
                start=start,
                end=start + len(quote.encode()),
                quote=quote,
                value=value[:200],
            )
        )
    return Contradiction(kind=kind, why=reason, one=spans[0], other=spans[1], claims=sorted(found.claims))
