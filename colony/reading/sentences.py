"""Where sentences begin and end in running text that may hold markup, abbreviations and version numbers."""

import re
from collections.abc import Iterator

_STOP = re.compile(r"[.!?](?:[\"')\]`*_]|\u201d)*(?=\s+(?:[\"'(\[`*:_\u201c{<-]*[A-Z0-9]|[`:*\[{]+[a-z_]|$))")
_SHORT = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|mr|mrs|dr|no|fig|approx|resp|sec|ver|incl|a\.k\.a|[A-Z]))\.$", re.IGNORECASE
)
_NUMBERED = re.compile(r"\W*\d+\.")  # the number of a list entry, not a sentence


def sentence_spans(text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Where the sentences of one paragraph begin and end, white space around them left out."""
    at = start
    for found in _STOP.finditer(text, start, stop):
        before = text[at : found.start() + 1]
        shortened = _SHORT.search(before[-12:]) and not before.endswith("etc.")
        if shortened or _NUMBERED.fullmatch(before) or before.count("``") % 2:
            continue
        yield from _trimmed(text, at, found.end())
        at = found.end()
    yield from _trimmed(text, at, stop)


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if end > start:
        yield start, end
