"""A document's text cut into the passages that are searched and cited.

A passage is a run of whole blocks, in bytes [start, end) of the source, under one heading path. Introductions stay with
what they introduce; a block that is too long alone is cut where it hurts least, never inside a character.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from app.workspaces.structure import Block, Kind, blocks

SCRAP = 200  # bytes; a section or a rest below this is too little to find or to cite, and joins its neighbour
SMALL = 400  # below this a passage takes in the next block whatever its size
FULL = 900  # a block that would push a passage beyond this opens the next one
LONGEST = 1200  # beyond this a passage is cut


Span = tuple[str, int, int]  # heading path, start, end


@dataclass(frozen=True, slots=True)
class Passage:
    ordinal: int
    start: int
    end: int
    heading: str  # the path of section titles, outermost first, joined with " > "; empty before the first
    body: str  # exactly source[start:end]


def split(source: bytes, kind: Kind) -> list[Passage]:
    """The passages of a document in order. Held they hold every character that is not white space."""
    passages: list[Passage] = []
    for path, start, end in _packed(blocks(source, kind)):
        for first, last in _pieces(source, start, end):
            passages.append(Passage(len(passages), first, last, path, source[first:last].decode()))
    return passages


def _packed(found: list[Block]) -> Iterator[Span]:
    """Whole blocks gathered under one heading path."""
    sections: list[Block] = []
    settled: list[Block] = []  # what can stand without the next block
    leads: list[Block] = []  # headings and introductions after it, which cannot
    path, last = "", None
    for block in found:
        sections = _sections_around(block, sections)
        here = " > ".join(section.heading or "" for section in sections)
        if settled and _closes(settled, block, here != path):
            last, full = _extended(last, (path, settled[0].start, settled[-1].end))
            if full:
                yield full
            settled, path = [], here
        elif not settled or here != path:
            path = here  # what came before is a heading or a scrap: the passage is about what follows
        leads.append(block)
        if not block.leads:
            settled, leads = settled + leads, []
    rest = settled + leads
    if rest:
        last, full = _extended(last, (path, rest[0].start, rest[-1].end))
        if full:
            yield full
    if last:
        yield last


def _sections_around(block: Block, sections: list[Block]) -> list[Block]:
    """The open sections once this block is reached, itself included when it opens one."""
    if block.heading is not None:
        return [section for section in sections if section.level < block.level] + [block]
    return [section for section in sections if section.until_indent is None or block.indent > section.until_indent]


def _closes(settled: list[Block], block: Block, new_section: bool) -> bool:
    size = settled[-1].end - settled[0].start
    if new_section:
        return size >= SCRAP or (block.heading is not None and block.level == 0)
    return size >= SMALL and block.end - settled[0].start > FULL


def _extended(last: Span | None, now: Span) -> tuple[Span, Span | None]:
    """A scrap at the end of its own section goes back to the passage before it: (held back, ready to leave)."""
    if last and last[0] == now[0] and now[2] - now[1] < SCRAP and now[2] - last[1] <= LONGEST:
        return (last[0], last[1], now[2]), None
    return now, last


_CUTS = [  # where a text that is too long is best cut, best first; the cut is where the match ends
    re.compile(rb"\n[ \t]*\r?\n|\r[ \t]*\r"),
    re.compile(rb"[\r\n](?=[ \t]*(?:[-*+|]|\xe2\x80\xa2|\d{1,3}[.)])[ \t])"),
    re.compile(rb"[.!?][\"')\]`*]*\s"),
    re.compile(rb"[\r\n]"),
    re.compile(rb"[ \t]"),
]


def _pieces(source: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The span without white space around it, in pieces of at most LONGEST bytes."""
    start, end = _stripped(source, start, end)
    while end - start > LONGEST:
        cut = _cut(source, start, end)
        yield _stripped(source, start, cut)
        start, end = _stripped(source, cut, end)
    if end > start:
        yield start, end


def _cut(source: bytes, start: int, end: int) -> int:
    # Two pieces of similar size read better than a full one and a scrap.
    latest = start + min(LONGEST, (end - start) // 2 + SCRAP)
    for preference in _CUTS:
        found = [match.end() for match in preference.finditer(source, start + SMALL, latest)]
        if found:
            return found[-1]
    while source[latest] & 0xC0 == 0x80:  # inside a character
        latest -= 1
    return latest


def _stripped(source: bytes, start: int, end: int) -> tuple[int, int]:
    while start < end and source[start : start + 1].isspace():
        start += 1
    while end > start and source[end - 1 : end].isspace():
        end -= 1
    return start, end
