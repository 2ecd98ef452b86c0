"""What is asked: the kind of a question, its terms, and how much each of them matters.

The weights only say how necessary a term is for *this* question; how rare it is in the documents comes later.
"""

import itertools
import re
from dataclasses import dataclass, field, replace
from typing import Literal

from colony.reading.synonyms import PHRASES, alternatives_of
from colony.reading.terms import STOP, forms_of, index, is_identifier, key_of, parts_of, stem, tokens, words

QuestionKind = Literal[
    "how", "default", "definition", "difference", "reason", "time", "amount", "choice", "list", "open"
]

# Words that frame a question rather than name its subject. They help ranking a little and prove nothing.
FRAMING = frozenset(
    stem(word)
    for word in words(
        """
        use used uses work works value values option options setting settings parameter parameters argument
        arguments thing things example examples function functions method methods default defaults set make
        made way ways kind kinds type types name names called call calls program programs application
        applications app code project different difference differences differ compare compared control
        controls configure configures feature features support supported supports available various certain
        particular specific custom own existing new current given variable variables configuration config best
        good correct right proper properly easily automatically simple mechanism purpose role case cases
        instead handle handled handling provide provided provides object objects class classes instance
        instances command commands library framework package module tool software system user users
        documentation docs question answer recommend recommended one two three several multiple number longer
        long many apply applies define defined happens behave behaviour behavior does do take takes put want
        possible
        """
    )
)
_FRAMING_WEIGHT = 0.25
_RELATING = {"befor": 0.4, "after": 0.4, "dure": 0.4, "without": 0.8}
_LEADS = re.compile(
    r"\b(?:(?:do|does|did|can|could|should|would|must|may|shall)\s+(?:i|we|you|one|it|they|a\s+user|someone)|"
    r"(?:how|want|wants|need|needs|able|possible|ways?|try|trying|like)\s+to|how\s+can)\s+"
    r"(?:(?:also|only|just|not|never|safely|quickly|easily)\s+)?([a-z][\w-]*)",
    re.IGNORECASE,
)
_LAST_WORD = re.compile(  # "how long does a session *last* by default?"
    r"\b(?:how|when|where|why)\b.*?\b(?:do|does|did)\b.*?\b([a-z]+)(?=\s+(?:by|in|for|when|if|after|before|on|to|from|with|as)\b|\?|$)",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"``?([^`]+)``?|[\"“]([^\"”]{2,60})[\"”]")
_FLAG = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")


@dataclass(frozen=True)
class Term:
    """`key` is how the index knows it. `weight` is how much a missing one hurts, 1 for an ordinary subject word.

    A `firm` term (an identifier, a flag, something in backticks, a proper name) has to be in the evidence.
    """

    key: str
    surface: str
    weight: float = 1.0
    firm: bool = False
    alternatives: tuple[str, ...] = ()
    form: str = ""  # the word itself in the singular; empty for compounds
    parts: tuple[str, ...] = ()  # of a compound: a document may well write "pool size" for pool_size


@dataclass(frozen=True)
class Question:
    text: str
    kind: QuestionKind
    terms: tuple[Term, ...]
    pairs: tuple[tuple[str, str], ...] = field(default=())  # keys that stand side by side in the question
    focus: tuple[Term, ...] = field(default=())  # what is acted upon or measured: the *last commit* in "undo ..."

    @property
    def subjects(self) -> tuple[Term, ...]:
        return tuple(term for term in self.terms if term.weight >= 0.5)


def analyse(text: str) -> Question:
    plain = _in_plain_words(text)
    kind = kind_of(plain)
    terms = _leaning(_terms(plain), kind)
    return Question(text, kind, tuple(terms), _pairs(plain, terms), _focus(plain, terms))


_UNTIL = (
    r"(?=\s+(?:to|from|in|on|with|for|as|under|by|before|after|when|that|which|and|without|into|at|if|so|during|between|"
    r"using|through|over|per|while|inside|until|than|only)\b|[?.,;]|$)"
)
_ACTED_UPON = re.compile(
    rf"\b(?:do|can|could|should|to)\s+(?:i|we|you|one)\s+(?:\w+ly\s+)?[\w-]+\s+(.*?){_UNTIL}"
    rf"|\b(?:number|length|size|value|name)\s+of\s+(.*?){_UNTIL}",
    re.IGNORECASE,
)


def _focus(text: str, terms: list[Term]) -> tuple[Term, ...]:
    found = _ACTED_UPON.search(text)
    named = (found[1] or found[2] or "").lower() if found else ""
    return tuple(term for term in terms if term.surface.lower() in named and term.weight >= 0.25)


# The word that made a question of its kind is looked for by pattern; as a term it would only count twice.
_NAMES_THE_KIND = {"difference": ("differ", "compar"), "default": ("default",), "reason": ("reason",)}


def _leaning(terms: list[Term], kind: QuestionKind) -> list[Term]:
    """The terms with weights that fit together: with hardly any subject, the framing words have to carry it."""
    own = sum(term.weight for term in terms if term.weight >= 0.5)
    lean = 0.6 if own < 1.5 else 0.25
    named = _NAMES_THE_KIND.get(kind, ())
    return [
        replace(term, weight=0.1)
        if term.key in named
        else replace(term, weight=lean)
        if term.weight == _FRAMING_WEIGHT
        else term
        for term in terms
    ]


_KINDS: tuple[tuple[QuestionKind, str], ...] = (
    (
        "difference",
        r"\bdiffer(?:s|ent|ences?)?\b.*\b(?:from|between|to|than|and)\b|\bcompared? (?:to|with)\b|\bversus\b|\bvs\b",
    ),
    ("default", r"\bdefaults?\b"),
    ("reason", r"\bwhy\b|\bwhat (?:is|are) the reasons?\b|\bhow come\b"),
    ("how", r"\bhow (?:do|can|could|should|would|may|to|must|might)\b|\bway to\b|\bsteps? to\b"),
    (
        "amount",
        r"\bhow (?:many|much|long|large|big|often|far|fast|old|tall|high)\b|\b(?:maximum|minimum) (?:number|size|length)\b",
    ),
    ("time", r"\bwhen\b|\bsince which\b|\bwhat (?:time|year|date)\b"),
    ("list", r"\b(?:which|what) [\w -]*?s (?:are|exist|can|does|do)\b|\blist (?:of|the|all)\b|\bwhat are\b"),
    ("choice", r"\bwhich\b"),
    ("definition", r"^\W*(?:what(?:'s| is| are| does| do)|who|define|explain|describe|meaning of)\b"),
)


def kind_of(text: str) -> QuestionKind:
    lowered = text.lower()
    return next((kind for kind, pattern in _KINDS if re.search(pattern, lowered)), "open")


def _in_plain_words(text: str) -> str:
    text = re.sub(r"(?<=\w)['’]s\b", "", text)
    for pattern, word in PHRASES:
        text = pattern.sub(word, text)
    return text


def _terms(text: str) -> list[Term]:
    quoted = {part for found in _QUOTED.finditer(text) for part in (found[1] or found[2]).split()}
    in_quotes = {key_of(part) for part in quoted if part.lower() not in STOP}
    flags = {key_of(flag) for flag in _FLAG.findall(text)}
    actions = {stem(word.lower()) for word in _LEADS.findall(text)}
    actions |= {stem(found[1].lower()) for found in [_LAST_WORD.search(text)] if found and not _LEADS.search(text)}
    sentence_starts = {found.start(1) for found in re.finditer(r"(?:^|[.?!:]\s+)[^\w]*(\w)", text)}
    terms: dict[str, Term] = {}
    for token in tokens(text):
        word, key = token[0], key_of(token[0])
        firm = key in in_quotes or key in flags or is_identifier(word)
        if word.lower() in STOP and not firm:
            continue
        named = _is_name(word, token.start() in sentence_starts)
        forms = forms_of(word)
        term = Term(
            key,
            word,
            firm=firm or named,
            alternatives=() if firm else alternatives_of(key),
            form=forms[0] if len(forms) == 1 else "",
            parts=() if "." in word else parts_of(word),
        )
        terms.setdefault(key, replace(term, weight=_weight(term, firm, named, actions)))
    return list(terms.values())


def _is_name(word: str, starts_sentence: bool) -> bool:
    if word.isupper() and len(word) > 1 and word.isalpha():
        return True
    return word[0].isupper() and not starts_sentence


def _weight(term: Term, firm: bool, named: bool, actions: set[str]) -> float:
    if firm:
        return 1.6
    if named:
        return 1.2
    if term.key in FRAMING:
        return _FRAMING_WEIGHT
    if term.key in _RELATING:
        return _RELATING[term.key]
    return 0.6 if term.key in actions else 1.0


def _pairs(text: str, terms: list[Term]) -> tuple[tuple[str, str], ...]:
    """Neighbouring terms, at most one small word apart."""
    places = index(text).places
    where = sorted((places[term.key][0], term) for term in terms if term.key in places) if places else []
    where.sort(key=lambda entry: entry[0])
    return tuple(
        (left.key, right.key)
        for (here, left), (there, right) in itertools.pairwise(where)
        if there - here <= 2 and (left.weight >= 0.5 or right.weight >= 0.5)
    )


# --- several questions in one ------------------------------------------------------------------------------------------

_QUESTION_WORD = r"(?:how|what|why|when|which|where|who|can|could|does|do|is|are|should)"
_JOINT = re.compile(
    rf"\s*(?:[,;]\s*(?:and|or|also|but)?|\b(?:and|or))\s+(?=(?:also\s+)?{_QUESTION_WORD}\b)", re.IGNORECASE
)
_BACKWARD = re.compile(r"\b(?:it|its|them|their|they|this|that|these|those|one)\b", re.IGNORECASE)


def split_questions(goal: str, limit: int = 6) -> list[str]:
    """The questions in a goal, each made to stand alone; statements around them become context of the first."""
    sentences = [part.strip() for part in re.split(r"(?<=[.?!])\s+(?=[\w`\"'(])|\n+", goal) if part.strip()]
    asking = [part for part in sentences if _asks(part)]
    if not asking:
        return [" ".join(goal.split())]
    parts = [part.strip(" ,;") for sentence in asking for part in _JOINT.split(sentence) if len(part.split()) > 1]
    if not parts:
        return [" ".join(goal.split())]
    parts = [parts[0], *(part for part in parts[1:] if analyse(part).terms)][:limit]
    return [_standing_alone(part, parts[:at], sentences) for at, part in enumerate(parts)]


def _asks(sentence: str) -> bool:
    return sentence.endswith("?") or bool(re.match(rf"(?:and\s+|also\s+)?{_QUESTION_WORD}\b", sentence, re.IGNORECASE))


def _standing_alone(part: str, earlier: list[str], sentences: list[str]) -> str:
    """A part that speaks of "it" takes along the subjects of what stood before it."""
    own = {term.key for term in analyse(part).subjects}
    if not _BACKWARD.search(part) or len(own) > 2:
        return part
    before = earlier[-1:] or [sentence for sentence in sentences if not _asks(sentence)][-1:]
    if not before:
        return part
    carried = [term.surface for term in analyse(before[0]).subjects if term.key not in own]
    return f"{part.rstrip('?')} ({' '.join(carried)})?" if carried else part
