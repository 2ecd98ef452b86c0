"""What is cited, held against every other source that the mission was shown. Pure; processor time in proportion to the text."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from typing import Literal

from app.evidence.contradictions.statements import Statement, Text, hints, identifier, of_record, statements
from app.evidence.contradictions.values import Value
from app.evidence.contradictions.vocabulary import ENVIRONMENTS, EVENTS
from colony_client.artifacts import MAX_CONTRADICTIONS, ContradictingSpan, Contradiction

MOST_OTHERS = 50  # sources that were shown and not cited
MOST_BYTES = 2**19  # of all that are compared, together
MOST_STATEMENTS = 500  # of the cited passages
AROUND = 1_000  # characters beside a citation in which its sentences may begin and end

Place = tuple[str, str]  # source hash, document
Kind = Literal["number", "amount", "date", "name", "negation"]


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


def find(sources: Mapping[Place, Source]) -> list[Contradiction]:
    """The contradictions between what is cited and any other source, the same for the same input; at most MAX_CONTRADICTIONS."""
    texts = {place: Text.of(source.data.decode(errors="replace")) for place, source in sources.items()}
    index: dict[tuple[str, ...], list[Cited]] = defaultdict(list)
    for place, source in sorted(sources.items()):
        for one in islice(cited(place, source, texts[place]), MOST_STATEMENTS - sum(map(len, index.values()))):
            index[key(one.said)].append(one)
    if not index:
        return []
    said_by = {hint for ones in index.values() for one in ones for hint in hints(one.said)}
    about = re.compile("|".join(sorted(said_by)), re.I)
    found: dict[tuple[tuple[str, str, int, int], ...], Contradiction] = {}
    for place, source in sorted(sources.items()):
        text = texts[place]
        said = of_record(source.data) if source.kind == "record" else statements(text, about=about)
        for other in said:
            for one in index.get(key(other), ()):
                if one.place[0] == place[0] or parallel(one.place[1], place[1]):
                    continue
                if (why := differ(one.said, other)) is not None:
                    sides = (one.place, one.said), (place, other)
                    name = tuple(sorted((*at, told.start, told.end) for at, told in sides))
                    if name in found:
                        claims = sorted({*found[name].claims, *one.claims})
                        found[name] = found[name].model_copy(update={"claims": claims})
                    else:
                        found[name] = made(texts, sides, why, one.claims)
    return [found[name] for name in sorted(found)][:MAX_CONTRADICTIONS]


def cited(place: Place, source: Source, text: Text) -> Iterable[Cited]:
    """What the cited passages of a source state: the sentences that a citation has some of."""
    told: dict[Statement, list[str]] = {}
    for start, end, claim in source.spans:
        first, last = len(source.data[:start].decode(errors="replace")), len(source.data[:end].decode(errors="replace"))
        low, high = max(text.text.rfind("\n\n", 0, first), first - AROUND, 0), text.text.find("\n\n", last)
        high = min(high if high >= 0 else len(text.text), last + AROUND)
        for said in of_record(source.data) if source.kind == "record" else statements(text, low, high):
            if said.start < last and first < said.end:
                told.setdefault(said, []).extend([claim] if claim else [])
    return [Cited(place, said, tuple(sorted(set(claims)))) for said, claims in told.items()]


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


def made(
    texts: Mapping[Place, Text],
    sides: tuple[tuple[Place, Statement], tuple[Place, Statement]],
    why: tuple[Kind, str, str, str],
    claims: tuple[str, ...],
) -> Contradiction:
    kind, reason, *values = why
    spans = []
    for ((source, document), said), value in zip(sides, values, strict=True):
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
    return Contradiction(kind=kind, why=reason, one=spans[0], other=spans[1], claims=list(claims))
