"""Where the blocks of a document begin and end, by byte.

Every format is reduced to one list of blocks in reading order. Blocks never overlap, and every line with something on
it lies in exactly one of them; what differs between formats is only how a block is recognised.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token

Kind = Literal["markdown", "rst", "html", "pdf", "text"]


@dataclass(frozen=True, slots=True)
class Block:
    """One block: bytes [start, end) of the source.

    `heading` is set when the block opens a section; `level` then orders sections (a lower number contains the higher),
    and a section of level 0 never shares a passage with the one before it (pages).
    `until_indent` closes the section early: at the first block indented no deeper than that (rst directives).
    `leads` says that the block only introduces the next one and must not be parted from it.
    """

    start: int
    end: int
    heading: str | None = None
    level: int = 0
    indent: int = 0
    until_indent: int | None = None
    leads: bool = False


@dataclass(frozen=True, slots=True)
class _Line:
    start: int
    end: int  # without the line break
    text: bytes
    indent: int  # -1: nothing on this line


def blocks(source: bytes, kind: Kind) -> list[Block]:
    """The blocks of UTF-8 text that extraction made from a document of this kind."""
    lines = list(_lines(source))
    if kind in ("markdown", "html") and len(lines) <= MOST_MARKDOWN_LINES:
        return _markdown(source, lines)
    if kind == "pdf":
        return list(_pages(lines))
    return _indented(lines)


_BREAK = re.compile(rb"\r\n|\n|\r")


def _lines(source: bytes) -> Iterator[_Line]:
    at = 0
    for found in _BREAK.finditer(source):
        yield _line(source, at, found.start())
        at = found.end()
    if at < len(source):
        yield _line(source, at, len(source))


def _line(source: bytes, start: int, end: int) -> _Line:
    text = source[start:end]
    stripped = text.strip()
    indent = len(text) - len(text.lstrip(b" \t")) if stripped else -1
    return _Line(start, end, text, indent)


_ROLE = re.compile(r":[\w:+-]+:(?=`)")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|`([^`<]*?)\s*<[^>]*>`_*")
_ATTRIBUTES = re.compile(r"\s*\{[^}]*\}\s*$")
_EMPHASIS = re.compile(r"(\*{1,3}|`+)(\S[^*`]*)\1")


def _heading_text(raw: bytes) -> str:
    """A heading without its markup, on one line, at most 200 characters."""
    text = _plain(raw).strip("#").strip()
    text = _ATTRIBUTES.sub("", _LINK.sub(lambda m: m[1] or m[2] or "", _ROLE.sub("", text)))
    return _EMPHASIS.sub(r"\2", text)[:200]


def _plain(raw: bytes) -> str:
    return " ".join(raw[:600].decode(errors="ignore").split())[:200]


# --- Markdown, and the Markdown that HTML becomes ---------------------------------------------------------------------

MOST_MARKDOWN_LINES = 200_000  # some seconds of parsing; anything longer is cut by blank lines and indentation

# Only block structure is wanted: inline parsing would cost most of the time and say nothing about lines.
_blocks_only = MarkdownIt("commonmark", {"maxNesting": 20}).enable("table")
_blocks_only.core.ruler.enableOnly(["normalize", "block"])
LONGEST_TERM = 80  # bytes; a longer beginning of a list item is a sentence, unless it is a signature
_FRONT_MATTER = re.compile(rb"(?:\xef\xbb\xbf)?---[ \t]*\r?\n(?:.*\r?\n){0,100}?---[ \t]*(?:\r?\n|$)")


def _markdown(source: bytes, lines: list[_Line]) -> list[Block]:
    front = _FRONT_MATTER.match(source)
    skipped = sum(1 for line in lines if line.start < front.end()) if front else 0
    body = source[front.end() if front else 0 :].decode().removeprefix("\ufeff")
    found: list[Block] = [_join(lines[:skipped], leads=True)] if skipped else []
    covered = skipped
    for token, is_term in _leaves(_blocks_only.parse(body)):
        first, last = (token.map or [0, 0])[0] + skipped, min((token.map or [0, 0])[1] + skipped, len(lines))
        found.extend(_loose(lines, covered, first))
        inside = _trimmed(lines[max(first, covered) : last])
        covered = max(covered, last)
        if inside:
            found.append(_from_token(token, is_term, inside))
    found.extend(_loose(lines, covered, len(lines)))
    return found


_WHOLE = {"table_open": "table_close", "blockquote_open": "blockquote_close"}
_LEAVES = {"paragraph_open", "heading_open", "fence", "code_block", "html_block", "hr"}


def _leaves(tokens: list[Token]) -> Iterator[tuple[Token, bool]]:
    """Blocks that hold text themselves, lists being opened up; and whether one begins a list item that goes on."""
    closing: tuple[str, int] | None = None
    for number, token in enumerate(tokens):
        if closing:
            closing = None if (token.type, token.level) == closing else closing
        elif token.type in _WHOLE:
            closing = _WHOLE[token.type], token.level
            yield token, False
        elif token.type in _LEAVES and token.map:
            begins_item = token.type == "paragraph_open" and tokens[number - 1].type == "list_item_open"
            after = tokens[number + 3].type if begins_item else ""  # past this paragraph's text and its end
            yield token, begins_item and (after in _LEAVES or after in _WHOLE)


def _from_token(token: Token, is_term: bool, lines: list[_Line]) -> Block:
    text = b" ".join(line.text.strip() for line in lines)
    ends = text[-1:]
    if token.type == "heading_open":
        title = text if token.markup[:1] == "#" else b" ".join(line.text for line in lines[:-1])
        return _join(lines, heading=_heading_text(title), level=int(token.tag[1]), leads=True)
    if is_term and (len(text) <= LONGEST_TERM or b"(" in text[:LONGEST_TERM]) and ends not in b".:;":
        indent = lines[0].indent
        return _join(lines, heading=_plain(text[2:]), level=100 + indent, until_indent=indent, leads=True)
    return _join(lines, leads=token.type == "paragraph_open" and ends == b":")


def _loose(lines: list[_Line], first: int, last: int) -> list[Block]:
    """Lines that no token covers (link definitions, for one) still belong to the document."""
    rest = _trimmed(lines[first:last])
    return [_join(rest)] if rest else []


def _trimmed(lines: list[_Line]) -> list[_Line]:
    first, last = 0, len(lines)
    while first < last and lines[first].indent < 0:
        first += 1
    while last > first and lines[last - 1].indent < 0:
        last -= 1
    return lines[first:last]


def _join(lines: list[_Line], **how: object) -> Block:
    return Block(lines[0].start, lines[-1].end, indent=max(lines[0].indent, 0), **how)  # type: ignore[arg-type]


# --- PDF: one section per page ----------------------------------------------------------------------------------------


def _pages(lines: list[_Line]) -> Iterator[Block]:
    page, waiting = 1, []
    for line in [*lines, None]:
        if line is not None and line.text != b"\f":
            waiting.append(line)
            continue
        if rest := _trimmed(waiting):
            yield Block(rest[0].start, rest[0].end, heading=f"page {page}")
            if len(rest) > 1:
                yield _join(rest[1:])
        page, waiting = page + 1, []


# --- reStructuredText and plain text: blank lines, indentation, underlines --------------------------------------------

_ADORNMENT = re.compile(rb"([=\-~^\"'`#*+.:_<>!$%&,/;?@\\|])\1{2,}[ \t]*$")
_DIRECTIVE = re.compile(rb"\.\. +([\w:.+-]+)::(?:[ \t]+(.*))?$")
_TARGET = re.compile(
    rb"\.\. +(?:_|\[|\||index::|module::|currentmodule::|py:module::|highlight::|sectionauthor::|moduleauthor::)"
)
# Directives whose argument is no name of anything: they open no section of their own.
_NOT_A_NAME = re.compile(
    rb"(?:code|code-block|sourcecode|literalinclude|include|image|figure|note|warning|tip|hint|important|caution|danger|"
    rb"attention|error|seealso|versionadded|versionchanged|versionremoved|deprecated|deprecated-removed|index|toctree|"
    rb"highlight|module|currentmodule|py:module|py:currentmodule|only|ifconfig|table|csv-table|list-table|rubric|raw|"
    rb"math|contents|replace|parsed-literal|productionlist|testcode|testsetup|testoutput|doctest|automodule|autoclass|"
    rb"autofunction|automethod|autoattribute|impl-detail|sectionauthor|moduleauthor|role|default-role|container|class|"
    rb"tabularcolumns|centered|hlist|grid|tab|tabs|card|graphviz|plantuml|mermaid|unicode|date|meta|title|epigraph)$"
)
_LITERAL = re.compile(
    rb"(?:code|code-block|sourcecode|parsed-literal|productionlist|testcode|testsetup|testoutput|doctest|math|table|"
    rb"csv-table|list-table|toctree|graphviz|mermaid|raw)$"
)


def _indented(lines: list[_Line]) -> list[Block]:
    found: list[Block] = []
    styles: list[tuple[bytes, bool]] = []
    at, literal = 0, None  # literal: how far the paragraph was indented that announced literal text with `::`
    while at < len(lines):
        line = lines[at]
        if line.indent < 0:
            at += 1
        elif literal is not None and line.indent > literal:
            end = _end_of_deeper(lines, at, literal)
            found.append(_join(lines[at:end]))
            at, literal = end, None
        elif titled := _title_at(lines, at):
            length, style, title = titled
            if style not in styles:
                styles.append(style)
            level = styles.index(style) + 1
            found.append(_join(lines[at : at + length], heading=_heading_text(title), level=level, leads=True))
            at, literal = at + length, None
        else:
            end = next((n for n in range(at, len(lines)) if lines[n].indent < 0), len(lines))
            block, announces = _chunk(lines[at:end])
            found.append(block)
            at, literal = end, line.indent if announces else None
    return found


def _title_at(lines: list[_Line], at: int) -> tuple[int, tuple[bytes, bool], bytes] | None:
    """A section title here? How many lines it takes, its style (character, overlined), and the title."""
    if at + 1 >= len(lines):
        return None
    first, second = lines[at], lines[at + 1]
    if _ADORNMENT.match(first.text) and second.indent >= 0 and at + 2 < len(lines):
        under = lines[at + 2].text
        if _ADORNMENT.match(under) and under[:1] == first.text[:1] and not _ADORNMENT.match(second.text):
            return 3, (under[:1], True), second.text
    if first.indent == 0 and _ADORNMENT.match(second.text) and not _ADORNMENT.match(first.text):
        title = first.text.removeprefix(b"\xef\xbb\xbf").rstrip()
        if len(title) <= 200 and len(second.text.rstrip()) >= 0.6 * len(title.decode(errors="replace")):
            return 2, (second.text[:1], False), title
    return None


def _chunk(lines: list[_Line]) -> tuple[Block, bool]:
    """Lines without a blank one between them as a block, and whether deeper lines after it are literal text."""
    indent, head, last = lines[0].indent, lines[0].text.lstrip(), lines[-1].text.rstrip()
    directive = _DIRECTIVE.match(head)
    if not directive:
        leads = bool(_TARGET.match(head)) or last.endswith(b":")
        return _join(lines, leads=leads), last.endswith(b"::")
    name, argument = directive[1], (directive[2] or b"").strip()
    if _LITERAL.match(name):
        return _join(lines, leads=True), True
    if argument and not _NOT_A_NAME.match(name):
        return _join(lines, heading=_plain(argument), level=100 + indent, until_indent=indent, leads=True), False
    opens_literal = last.endswith(b"::") and bool(argument or len(lines) > 1)
    return _join(lines, leads=bool(_TARGET.match(head)) or last.endswith(b":")), opens_literal


def _end_of_deeper(lines: list[_Line], at: int, indent: int) -> int:
    """Past the last line of the run that is blank or indented deeper than `indent`."""
    end = at
    while at < len(lines) and (lines[at].indent < 0 or lines[at].indent > indent):
        at += 1
        end = at if lines[at - 1].indent >= 0 else end
    return end
