"""Values in a sentence: numbers with units, amounts of money, percentages, dates. Text in, comparable values out. Pure."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from app.evidence.contradictions.vocabulary import BEFORE, MONTHS, NAMED, SPELLED

Bound = Literal["", "least", "most", "about"]
MONTH_OF = {name: number for number, names in enumerate(MONTHS, 1) for name in names.split()}
WORDS = {word: number for number, word in enumerate(SPELLED.split())} | {
    "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "hundred": 100,
}  # fmt: skip
SCALES = {"thousand": 1e3, "k": 1e3, "million": 1e6, "m": 1e6, "mn": 1e6, "billion": 1e9, "bn": 1e9}
# unit: (dimension, how many of the dimension's smallest)
UNITS: dict[str, tuple[str, float]] = {
    "ms": ("time", 0.001), "millisecond": ("time", 0.001), "s": ("time", 1), "sec": ("time", 1), "second": ("time", 1),
    "min": ("time", 60), "minute": ("time", 60), "h": ("time", 3600), "hr": ("time", 3600), "hour": ("time", 3600),
    "day": ("time", 86_400), "week": ("time", 604_800), "month": ("months", 1), "quarter": ("months", 3), "year": ("months", 12),
    "byte": ("bytes", 1), "kb": ("bytes", 1e3), "kilobyte": ("bytes", 1e3), "kib": ("bytes", 1024), "mb": ("bytes", 1e6),
    "megabyte": ("bytes", 1e6), "mib": ("bytes", 2**20), "gb": ("bytes", 1e9), "gigabyte": ("bytes", 1e9), "gib": ("bytes", 2**30),
    "tb": ("bytes", 1e12), "terabyte": ("bytes", 1e12), "tib": ("bytes", 2**40), "%": ("percent", 1), "percent": ("percent", 1),
    "mm": ("length", 0.001), "cm": ("length", 0.01), "metre": ("length", 1), "meter": ("length", 1), "km": ("length", 1000),
    "g": ("mass", 1), "kg": ("mass", 1000),
}  # fmt: skip
MONEY = {
    "€": "EUR",
    "$": "USD",
    "£": "GBP",
    "eur": "EUR",
    "euro": "EUR",
    "usd": "USD",
    "dollar": "USD",
    "gbp": "GBP",
    "chf": "CHF",
}
BOUNDS: dict[str, Bound] = {
    "at least": "least", "no less than": "least", "not less than": "least", "a minimum of": "least", "minimum of": "least",
    "more than": "least", "over": "least", "above": "least", "≥": "least", ">=": "least", ">": "least",
    "no fewer than": "least", "no earlier than": "least",
    "at most": "most", "no more than": "most", "not more than": "most", "up to": "most", "a maximum of": "most",
    "maximum of": "most", "less than": "most", "fewer than": "most", "under": "most", "below": "most", "within": "most",
    "≤": "most", "<=": "most", "<": "most", "no later than": "most", "by": "most",
    "about": "about", "around": "about", "approximately": "about", "roughly": "about", "nearly": "about", "almost": "about",
    "some": "about", "~": "about", "≈": "about",
}  # fmt: skip
_NUMBER = r"\d{1,3}(?:[, ’']\d{3})+(?:\.\d+)?(?!\d)|\d+(?:\.\d+)?"
_MONTH = "|".join(sorted((f"{name[0].upper()}{name[1:]}" for name in MONTH_OF), key=len, reverse=True))
_UNIT = "|".join(sorted((re.escape(unit) for unit in UNITS), key=len, reverse=True))
_SAID = "|".join(re.escape(one).replace(r"\ ", r"\s+") for one in sorted(BOUNDS, key=len, reverse=True))
_SPELLED = "|".join(WORDS)
_SCALE = r"thousand|million|billion|bn|mn"
_CURRENCY = r"EUR|USD|GBP|CHF|euros?|dollars?"
TOKEN = re.compile(
    rf"""(?P<iso>\b\d{{4}}-\d\d-\d\d)(?![-\d])
  | (?P<dotted>\b\d{{1,2}}\.\d{{1,2}}\.\d{{4}}\b)
  | (?P<dmy>\b(?P<dmy_d>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<dmy_m>{_MONTH})\b\.?(?:,?\s+(?P<dmy_y>\d{{4}}))?)
  | (?P<mdy>\b(?P<mdy_m>{_MONTH})\b\.?\s+(?P<mdy_d>\d{{1,2}})(?!\d)(?:st|nd|rd|th)?(?:,?\s+(?P<mdy_y>\d{{4}}))?)
  | (?P<my>\b(?P<my_m>{_MONTH})\b\.?,?\s+(?P<my_y>\d{{4}})\b)
  | (?P<clock>\b\d{{1,2}}:\d\d(?::\d\d)?\b(?:\s?[ap]\.?m\b\.?)?)
  | (?P<slash>\b\d{{1,4}}/\d{{1,2}}/\d{{1,4}}\b)
  | (?P<money>(?P<money_s>[€$£])\s?(?P<money_n>{_NUMBER})\s?(?P<money_k>{_SCALE}|[kKmM])?\b
        | (?P<money_n2>\b(?:{_NUMBER}))\s?(?P<money_k2>{_SCALE}|[kKmM])?\s?(?P<money_s2>€|{_CURRENCY})(?!\w))
  | (?P<name>\b(?:[A-Za-z_]+[-_.]?\d[\w.-]*\w|[A-Za-z_]+\d)\b | \b\d+(?:\.\d+){{2,}}\b | \b\d+[-_/][A-Za-z]\w*\b | \#\d+)
  | (?P<range>\b(?P<range_a>{_NUMBER})\s?(?:[-–]|to|and)\s?(?P<range_b>{_NUMBER})\s?(?P<range_u>(?:{_UNIT})(?:s)?(?!\w))?)
  | (?P<unit>\b(?P<unit_n>{_NUMBER})(?:\s?|-)(?P<unit_k>(?:{_SCALE})\s)?(?P<unit_u>(?:{_UNIT})(?:s|es)?(?!\w)))
  | (?P<number>\b(?:{_NUMBER})(?![\w]))
  | (?P<spelled>\b(?:{_SPELLED})\b(?:[\s-](?P<spelled_u>(?:{_UNIT})(?:s|es)?\b))?)
  | (?P<bound>(?:(?<!\w)(?:{_SAID})(?!\w)))
  | (?P<word>[^\W\d_](?:[\w’'-]*\w)?(?:\.\w+)*)
  | (?P<mark>[:=?])""",
    re.X | re.I,
)


@dataclass(frozen=True, slots=True)
class Value:
    """What one place of a sentence says. low and high are in the dimension's smallest unit, for dates days in order."""

    kind: Literal["number", "amount", "date"]
    dimension: str
    low: float
    high: float
    bound: Bound
    said: str
    step: float = 1.0  # what its last digit counts
    size: float = 1.0  # of its unit

    def against(self, other: "Value") -> bool | None:
        """Whether the two say different things: True, False, or None when they cannot be held against each other."""
        if (self.kind, self.dimension) != (other.kind, other.dimension):
            return None
        if self.bound == other.bound and self.bound in ("", "least", "most"):
            return not self.same(other) and (self.low > other.high or other.low > self.high)
        (a, b), (c, d) = self.reach(), other.reach()
        return a > d or c > b

    def same(self, other: "Value") -> bool:
        """Equal, also as far as the coarser of two was rounded."""
        if math.isclose(self.low, other.low, rel_tol=1e-9) and math.isclose(self.high, other.high, rel_tol=1e-9):
            return True
        if self.kind == "date" or self.size != other.size or self.step == other.step:
            return False
        return abs(self.low - other.low) <= max(self.step, other.step) / 2

    def reach(self) -> tuple[float, float]:
        """From where to where it lies, with what its bound allows."""
        if self.bound == "least":
            return self.low, math.inf
        if self.bound == "most":
            return -math.inf, self.high
        if self.bound == "about":
            return self.low * 0.8, self.high * 1.2
        return self.low, self.high


@dataclass(frozen=True, slots=True)
class Token:
    """A word (with a value when it is one), in the order of the sentence."""

    text: str
    value: Value | None = None
    named: bool = False  # a name with digits in it


def tokens(sentence: str) -> Iterator[Token]:
    """The words and values of a sentence; bounds are taken into the values that they stand before."""
    before, bound, bound_text = "", "", ""
    for found in TOKEN.finditer(sentence):
        kind, text = found.lastgroup or "", found[0]
        kind = next(name for name in KINDS if found[name] is not None)
        if kind == "bound":
            if bound:
                yield Token(bound_text)
            bound, bound_text = BOUNDS[" ".join(text.lower().split())], text
            continue
        value = read(kind, found, before, bound)  # type: ignore[arg-type]
        if bound and value is None:
            yield Token(bound_text)  # "over" of the wall, not of a number
        bound = ""
        if kind == "mark":
            before = text
            continue
        yield Token(text, value, named=kind in ("name", "slash", "clock") or (value is None and text[0].isdigit()))
        before = text.lower()
    if bound:
        yield Token(bound_text)


KINDS = (
    "iso", "dotted", "dmy", "mdy", "my", "clock", "slash", "money", "name", "range", "unit", "number", "spelled", "bound", "word",
    "mark",
)  # fmt: skip


def read(kind: str, found: re.Match[str], before: str, bound: Bound) -> Value | None:
    """The value of a match; None where it is a word or a name."""
    text = " ".join(found[0].split())
    if kind in ("iso", "dotted", "dmy", "mdy", "my"):
        days = dated(kind, found)
        return (
            Value("date", "date" if days[2] else "date without year", days[0], days[1], bound, text) if days else None
        )
    if kind == "money":
        sign = (found["money_s"] or found["money_s2"]).lower().rstrip("s") or "$"
        scale = SCALES.get((found["money_k"] or found["money_k2"] or "").lower(), 1)
        number = figure(found["money_n"] or found["money_n2"])
        return Value("amount", MONEY.get(sign, sign), number * scale, number * scale, bound, text, last(text) * scale)
    if kind == "range":
        low, high = figure(found["range_a"]), figure(found["range_b"])
        dimension, times = unit(found["range_u"])
        return Value("number", dimension, low * times, high * times, bound, text) if low < high else None
    if kind == "unit":
        dimension, size = unit(found["unit_u"])
        times = SCALES.get((found["unit_k"] or "").strip().lower(), 1) * size
        number = figure(found["unit_n"]) * times
        return Value("number", dimension, number, number, bound, text, last(found["unit_n"]) * times, size)
    if kind == "number":
        if before in NAMED or (not follows(found.string[found.end() :]) and before not in BEFORE and not bound):
            return None
        times = scaled(found.string[found.end() :])
        number = figure(found[0]) * times
        return Value("number", "", number, number, bound, text, last(text) * times)
    if kind == "spelled":
        word = re.split(r"[\s-]", found[0], maxsplit=1)[0].lower()
        after = found.string[found.end() :].lstrip().lower()
        if before in NAMED or (
            word == "one"
            and (
                before in ("no", "any", "every", "each", "this", "that", "which", "the", "other")
                or re.match(r"(of|another|by|or|that|who|is|has|can|may|must)\b|[.,;:?!]|$", after)
            )
        ):
            return None
        dimension, size = unit(found["spelled_u"])
        return Value("number", dimension, WORDS[word] * size, WORDS[word] * size, bound, text, size, size)
    return None


def follows(rest: str) -> bool:
    """Whether a word stands behind a number: what it counts."""
    return re.match(r"[\s-][^\W\d_]{2,}", rest) is not None


def scaled(rest: str) -> float:
    found = re.match(rf"\s({_SCALE})\b", rest)
    return SCALES[found[1].lower()] if found else 1.0


def unit(said: str | None) -> tuple[str, float]:
    name = (said or "").lower()
    return UNITS.get(name) or UNITS.get(name.removesuffix("s")) or ("", 1.0)


def figure(said: str) -> float:
    return float(re.sub(r"[, ’']", "", said))


def last(said: str) -> float:
    """What the last digit of a number counts: 1, a tenth, a hundredth."""
    found = re.search(r"\.(\d+)", said)
    return 10.0 ** -len(found[1]) if found else 1.0


def dated(kind: str, found: re.Match[str]) -> tuple[float, float, bool] | None:
    """First and last day of a date as numbers in order, and whether it has a year."""
    if kind == "iso":
        year, month, day = (int(part) for part in found[0].split("-"))
    elif kind == "dotted":
        day, month, year = (int(part) for part in found[0].split("."))
    elif kind == "my":
        year, month = int(found["my_y"]), MONTH_OF[found["my_m"].lower()]
        return year * 372 + month * 31, year * 372 + month * 31 + 30, True
    else:
        day, month = int(found[f"{kind}_d"]), MONTH_OF[found[f"{kind}_m"].lower()]
        year = int(found[f"{kind}_y"] or 0)
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    return year * 372 + month * 31 + day - 1, year * 372 + month * 31 + day - 1, bool(year)
