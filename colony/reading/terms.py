"""Text as terms: stemmed words, and identifiers both whole and in parts, each with its place.

`max_overflow` is found under `max_overflow`, `max` and `overflow`; `QuerySets` under `queryset`, `query` and `set`;
`Session.execute()` under `session.execute`, `session` and `execute`. Case never matters.
"""

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import snowballstemmer


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STEMMER = snowballstemmer.stemmer("english")
_ONE_AT_A_TIME = threading.Lock()  # the stemmer keeps the word it works on in itself, and missions read in threads
_TOKEN = re.compile(r"[^\W_][\w]*(?:[.\-:/]{1,2}[^\W_]\w*)*|(?<![\w-])--?[A-Za-z]\b|_+\w+", re.UNICODE)
_PARTS = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z]+|[0-9]+")

STOP = words(
    """
    a an the this that these those it its itself they them their there here he she his her we us our you your
    yours i me my mine one ones and or but nor if then else than as at by for from in into of off on onto out
    over to under up upon with within via per about above across again against all also am another any around anyone anything
    are aren't be because been being below between both can can't cannot could couldn't did didn't do does
    doesn't doing done don't down each either every few further had has have having how however i'm is isn't
    just let lets like may maybe might more most much must neither no not now of often only other others
    otherwise ought own please rather same shall should shouldn't since so some someone something still such
    tell too until very want was wasn't way ways were weren't what what's whatever when whenever where
    wherever whether which while who whom whose why will won't would wouldn't yet explain describe know need
    needs using give given got get gets exactly actually really possible able happen happens mean means
    meaning am exist exists versus vs
    """
)


# Forms that no suffix rule leads back to their verb.
_IRREGULAR = {
    form: verb
    for verb, forms in {
        "keep": "kept", "send": "sent", "run": "ran", "write": "wrote written", "build": "built", "make": "made",
        "find": "found", "hold": "held", "lose": "lost", "choose": "chose chosen", "throw": "threw thrown",
        "show": "shown", "hide": "hid hidden", "break": "broke broken", "begin": "began begun", "take": "took taken",
        "leave": "left", "bind": "bound", "freeze": "froze frozen", "catch": "caught", "override": "overrode overridden",
        "spend": "spent", "forget": "forgot forgotten", "sleep": "slept", "bring": "brought", "think": "thought",
        "rewrite": "rewrote rewritten", "rebuild": "rebuilt", "index": "indices", "tell": "told", "draw": "drawn drew",
    }.items()
    for form in forms.split()
}  # fmt: skip


@lru_cache(maxsize=200_000)
def stem(word: str) -> str:
    """The stem of one lower-case word."""
    if not word.isalpha():
        return word
    with _ONE_AT_A_TIME:
        return str(_STEMMER.stemWord(_IRREGULAR.get(word, word)))


@dataclass(frozen=True)
class Indexed:
    """Where each term stands in a text, counted in words; `length` is the number of words.

    `forms` are the words behind a stem, plurals made singular: *extension* and *extensive* share a stem, but no form.
    """

    places: dict[str, tuple[int, ...]]
    length: int
    forms: dict[str, frozenset[str]] = field(default_factory=dict)

    def count(self, term: str) -> int:
        return len(self.places.get(term, ()))

    def runs(self, terms: Sequence[str]) -> int:
        """How often the terms stand one after the other."""
        if not terms:
            return 0
        later = [set(self.places.get(term, ())) for term in terms[1:]]
        return sum(
            all(at + shift + 1 in where for shift, where in enumerate(later)) for at in self.places.get(terms[0], ())
        )


def index(text: str) -> Indexed:
    places: dict[str, list[int]] = {}
    at = 0
    forms: dict[str, set[str]] = {}
    for token in _TOKEN.finditer(text):
        at += _place(token[0], at, places)
        for form in forms_of(token[0]):
            forms.setdefault(stem(form), set()).add(form)
    kept = {key: frozenset(words) for key, words in forms.items()}
    return Indexed({term: tuple(where) for term, where in places.items()}, at, kept)


def _place(token: str, at: int, places: dict[str, list[int]]) -> int:
    """Record every term of one token from word `at` on; how many words it was."""
    width, terms = _expanded(token)
    for term, shift in terms:
        places.setdefault(term, []).append(at + shift)
    return width


@lru_cache(maxsize=200_000)
def _expanded(token: str) -> tuple[int, tuple[tuple[str, int], ...]]:
    if len(token) == 2 and token[0] == "-":
        return 1, ((token, 0),)
    found: list[tuple[str, int]] = []
    words = _PARTS.findall(token)
    if len(words) > 1 or "_" in token:
        found.extend((whole, 0) for whole in wholes(token))
    for shift, word in enumerate(words):
        found.append((stem(word.lower()), shift))
        found.extend((part, shift) for part in _camel_parts(word))
    return max(len(words), 1), tuple(dict.fromkeys(found))


def wholes(token: str) -> Iterator[str]:
    """The names under which a compound is known: `a.b.c` also as `b.c`; dashes and underscores are the same."""
    if re.fullmatch(r"\d+(?:\.\d+)+", token):
        yield token
        return
    segments = [part.strip("_-").replace("-", "_").lower() for part in re.split(r"[.:/]+", token)]
    segments = [part for part in segments if part]
    for first in range(len(segments)):
        rest = segments[first:]
        if len(rest) > 1:
            yield ".".join(rest)
        elif "_" in rest[0]:
            yield rest[0]


def _camel_parts(word: str) -> list[str]:
    if word.isupper() or word.islower() or word[1:].islower():
        return []
    parts = [part.lower() for part in _CAMEL.findall(word)]
    return [stem(part) for part in parts if len(part) > 1] if len(parts) > 1 else []


def key_of(token: str) -> str:
    """The one term that stands for a token when it is looked for as a whole."""
    if len(token) == 2 and token[0] == "-":
        return token
    bare = token.strip("-_.:/()")
    named = next(iter(wholes(bare)), None) if len(_PARTS.findall(bare)) > 1 else None
    return named or stem(bare.replace("_", "").lower())


@lru_cache(maxsize=200_000)
def forms_of(token: str) -> tuple[str, ...]:
    """The words of a token in lower case, plurals made singular."""
    return tuple(_singular(word.lower()) for word in _PARTS.findall(token))


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


_ENDINGS = ("", "e", "d", "ed", "ing", "er", "or", "ion", "ation", "ment")


@lru_cache(maxsize=50_000)
def same_word(one: str, other: str) -> bool:
    """Do two words of one stem mean the same: *configure* and *configuration*, but not *extension* and *extensive*?"""
    return not _bases(one).isdisjoint(_bases(other))


def _bases(word: str) -> set[str]:
    return {word.removesuffix(ending) for ending in _ENDINGS if word.endswith(ending)}


def parts_of(token: str) -> tuple[str, ...]:
    """The stems of a compound's words, in order; empty for a single word."""
    words = [part for word in _PARTS.findall(token) for part in (_camel_parts(word) or [stem(word.lower())])]
    return tuple(words) if len(words) > 1 else ()


def tokens(text: str) -> list[re.Match[str]]:
    return list(_TOKEN.finditer(text))


def is_identifier(token: str) -> bool:
    """Is this a name out of code: snake_case, dotted.name, camelCase, a number of capitals, a flag?"""
    if token.startswith("-") or "_" in token.strip("_") or "(" in token:
        return True
    if re.search(r"[A-Za-z]\.[A-Za-z]", token):
        return True
    return bool(re.search(r"[a-z][A-Z]|[A-Z]{2,}[a-z]+[A-Z]?", token)) and not token.endswith("s")
