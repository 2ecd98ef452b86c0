"""The sections of a strategy brief, as data: what each looks for, and by which words its sentences are known."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    kind: str
    title: str
    asks: str  # how the task reads in the plan
    words: str  # added to the searches
    cue: re.Pattern[str] | None  # a claim of this section contains it
    at_least: int
    at_most: int


def _cue(*words: str) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(words) + r")\b", re.IGNORECASE)


PARTS = (
    Part("situation", "Situation", "What is the situation", "", None, 1, 2),
    Part(
        "options",
        "Options",
        "Which options are there",
        "option alternative choose instead approach either",
        _cue(
            r"options?", r"alternativ\w+", r"either", r"instead", r"choose", r"choices?", r"approach\w*", r"strateg\w+",
            r"another", r"other ways?", r"(?:you )?can(?: also)?", r"(?:two|three|several|different) ways", r"use",
        ),
        2,
        4,
    ),
    Part(
        "risks",
        "Risks",
        "What are the risks",
        "warning caution careful risk fail avoid problem",
        _cue(
            r"warnings?", r"caution", r"danger\w*", r"risk\w*", r"careful\w*", r"beware", r"fail\w*", r"los[est]\w*",
            r"insecure", r"vulnerab\w+", r"deprecated", r"not recommended", r"limit(?:ation|ed)\w*", r"do(?:es)? not",
            r"cannot", r"can't", r"(?:must|should|may|might|will) not", r"avoid\w*", r"unsafe", r"problem\w*", r"issues?",
            r"however", r"overhead", r"slow\w*", r"expensive", r"never", r"drawbacks?", r"downsides?",
        ),
        1,
        3,
    ),
    Part(
        "recommendation",
        "Recommendation",
        "What is recommended",
        "recommended should best prefer consider",
        _cue(
            r"recommend\w*", r"should(?! not)", r"best", r"prefer\w*", r"advis\w+", r"suggest\w*", r"consider\w*",
            r"ideal\w*", r"always", r"better", r"good (?:practice|idea|place|choice)", r"encouraged", r"make sure",
        ),
        1,
        2,
    ),
)  # fmt: skip

BY_KIND = {part.kind: part for part in PARTS}

_ASKING_FOR_IT = re.compile(
    r"^\W*(?:please\s+)?(?:prepare|write|draft|give|create|make|produce|compose|i need|we need)?\s*(?:me|us)?\s*"
    r"(?:an?|the)?\s*(?:short|one[- ]page)?\s*(?:catalyst|strategy|strategic)?\s*(?:strategy)?\s*brief(?:ing)?\s*"
    r"(?:on|about|for|regarding|of|:)?\s+",
    re.IGNORECASE,
)


def subject_of(goal: str) -> str:
    """The goal without the words that only ask for a brief."""
    return _ASKING_FOR_IT.sub("", goal).strip() or goal
