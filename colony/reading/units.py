"""A stretch of documentation as units that may be quoted: sentences, list items, code blocks, table rows, entries.

Works on Markdown, reStructuredText, AsciiDoc and plain text by what lines look like. Offsets are characters of the text
that was given. An entry is the head of a definition (`--soft::`, `.. option:: --soft`, a term above an indented body);
`head` and `lead` of a unit are indexes of the entry it belongs to and of the sentence that introduces it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from colony.reading import marks
from colony.reading.sentences import sentence_spans

UnitKind = Literal["heading", "sentence", "item", "code", "row", "entry", "change"]


@dataclass(frozen=True, slots=True)
class Unit:
    kind: UnitKind
    start: int
    end: int
    block: int  # units of one paragraph, one list, one table share it
    indent: int = 0
    head: int | None = None
    lead: int | None = None
    heading: int | None = None


@dataclass(frozen=True, slots=True)
class _Line:
    start: int
    end: int
    text: str
    indent: int  # -1: blank


def units(text: str) -> list[Unit]:
    return _Reader(text).read()


class _Reader:
    """Walks the lines once; `_open` holds the entries whose indented bodies are still running."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = list(_lines(text))
        self.found: list[Unit] = []
        self.block = 0
        self._open: list[tuple[int, int]] = []  # (indent of the entry's line, its unit)
        self._heading: int | None = None
        self._lead: int | None = None
        self._literal_next = False
        self._continued = False  # AsciiDoc: a line with only "+" keeps the entry above it open
        self._skip: set[int] = set()

    def read(self) -> list[Unit]:
        at = 0
        while at < len(self.lines):
            at = at + 1 if self.lines[at].indent < 0 else self._step(at)
        return self.found

    def _step(self, at: int) -> int:
        line = self.lines[at]
        bare = line.text.strip()
        if at in self._skip or bare in ("+", "--"):
            self._continued = self._continued or bare == "+"
            return at + 1
        while self._open and line.indent <= self._open[-1][0] and not self._continued:
            self._open.pop()
        self._continued = False
        self.block += 1
        if self._literal_next:
            self._literal_next = False
            if (end := self._deeper(at)) > at:
                if not self._reads_as_prose(at):
                    return self._code(at, end)
                self._becomes_entry()
        if (fence := marks.FENCE.match(bare)) and (closing := self._closing(at, fence[1])) is not None:
            return self._fence(at, closing, bare)
        if self._is_heading(at):
            return self._take_heading(at)
        if directive := marks.DIRECTIVE.match(bare):
            return self._directive(at, directive[1], directive[2])
        if marks.COMMENT.match(bare):
            return self._deeper_than(at + 1, line.indent)
        if bare.startswith((">>> ", "$ ", "% ", "C:\\")):
            return self._code(at, self._paragraph_end(at, code=True))
        if marks.BORDER.match(line.text):
            return at + 1
        if marks.ROW.match(bare):
            return self._row(at)
        if marks.ITEM.match(bare) or marks.FIELD.match(bare):
            return self._item(at)
        if self._is_entry(at):
            return self._entry(at, line.start + line.indent, line.end)
        return self._paragraph(at)

    # --- what a line is

    def _is_heading(self, at: int) -> bool:
        line = self.lines[at]
        if marks.ATX.match(line.text):
            return True
        if at + 1 >= len(self.lines):
            return False
        below = self.lines[at + 1].text.strip()
        if marks.ADORNMENT.match(line.text.strip()) and at + 2 < len(self.lines) and self.lines[at + 1].indent >= 0:
            return bool(marks.ADORNMENT.match(self.lines[at + 2].text.strip()))
        title = line.text.strip()
        return (
            bool(marks.ADORNMENT.match(below))
            and not marks.ADORNMENT.match(title)
            and len(below) >= 0.6 * len(title)
            and (len(title) < 120 and self.lines[at + 1].indent <= line.indent)
        )

    def _is_entry(self, at: int) -> bool:
        line, bare = self.lines[at], self.lines[at].text.strip()
        below = self.lines[at + 1] if at + 1 < len(self.lines) else None
        if below is None:
            return False
        if marks.ASCIIDOC_TERM.fullmatch(bare):
            return below.indent > line.indent or (below.indent >= 0 and below.text.rstrip().endswith(("::", ";;")))
        if len(bare) > 120 or bare.endswith((".", ":", ",", ";")):
            return bool(marks.OPTION.match(bare)) and below.indent > line.indent
        return below.indent > line.indent and not self._looks_like_code(at)

    def _looks_like_code(self, at: int) -> bool:
        bare = self.lines[at].text.strip()
        return bare.endswith(("{", "(", "[", "\\")) or bool(
            re.match(r"(?:def|class|if|for|while|with|try|import|from) ", bare)
        )

    # --- taking what was recognised

    def _add(self, kind: UnitKind, start: int, end: int, *, indent: int = 0) -> int:
        unit = Unit(
            kind, start, end, self.block, indent, self._open[-1][1] if self._open else None, heading=self._heading
        )
        self.found.append(replace(unit, lead=self._lead) if kind in ("item", "code", "row") else unit)
        return len(self.found) - 1

    def _take_heading(self, at: int) -> int:
        line = self.lines[at]
        title, width = (line, 1) if marks.ATX.match(line.text) else (line, 2)
        if width == 2 and marks.ADORNMENT.match(line.text.strip()):
            title, width = self.lines[at + 1], 3
        self._open, self._lead = [], None
        self._heading = self._add("heading", title.start + title.indent, title.start + len(title.text.rstrip()))
        return at + width

    def _code(self, at: int, end: int) -> int:
        self._add("code", self.lines[at].start, self.lines[end - 1].end, indent=self.lines[at].indent)
        return end

    def _fence(self, at: int, closing: int, opening: str) -> int:
        name = found[1] if (found := marks.MYST.match(opening)) else ""
        if name in marks.SKIPPED_DIRECTIVES:
            return closing + 1
        if name in marks.ADMONITIONS or name == "eval-rst":
            self._skip.add(closing)
            return at + 1
        return self._code(at, closing + 1)

    def _directive(self, at: int, name: str, argument: str) -> int:
        line = self.lines[at]
        short = name.rsplit(":", 1)[-1]
        if name in marks.SKIPPED_DIRECTIVES:
            return self._deeper_than(at + 1, line.indent)
        if name in marks.CODE_DIRECTIVES or name.startswith("click:"):
            return self._code(at, max(self._deeper_than(at + 1, line.indent), at + 1))
        if short in marks.CHANGE_DIRECTIVES:
            end = self._deeper_than(at + 1, line.indent)
            self._add("change", line.start + line.indent, self.lines[end - 1].end)
            return end
        if argument and name not in marks.ADMONITIONS:
            start = line.start + line.text.index("::") + 2
            start += len(self.text[start : line.end]) - len(self.text[start : line.end].lstrip())
            return self._entry(at, start, line.end)
        after = at + 1
        while after < len(self.lines) and marks.FIELD.match(self.lines[after].text.strip()):
            after += 1
        if argument and name in ("note", "warning", "tip", "hint", "important", "caution", "danger", "attention"):
            end = self._paragraph_end(at)
            self._sentences(line.start + line.text.index("::") + 2, self.lines[end - 1].end)
            return end
        return after

    def _entry(self, at: int, start: int, end: int) -> int:
        line = self.lines[at]
        above = self.found[-1] if self.found else None
        if above and above.kind == "entry" and above.end == self.lines[at - 1].end and self.lines[at - 1].indent >= 0:
            self._open.pop() if self._open and self._open[-1][1] == len(self.found) - 1 else None
            self.found.pop()  # -s:: directly above --sign:: are one entry
            start = above.start
        self._open.append((line.indent, self._add("entry", start, end)))
        self._lead = None
        after = at + 1
        while after < len(self.lines) and re.match(r"\s+:[\w-]+:(?:\s|$)", self.lines[after].text):
            after += 1
        return after

    def _row(self, at: int) -> int:
        line = self.lines[at]
        if self.found and self.found[-1].kind == "row" and at and self.lines[at - 1].indent >= 0:
            self.block = self.found[-1].block
        self._add("row", line.start + line.indent, line.end)
        return at + 1

    def _item(self, at: int) -> int:
        line = self.lines[at]
        if self.found and self.found[-1].kind == "item" and self.found[-1].indent == line.indent:
            self.block = self.found[-1].block
        end = at + 1
        while end < len(self.lines):
            here = self.lines[end]
            if (
                here.indent < 0
                or marks.ITEM.match(here.text.strip())
                or (here.indent <= line.indent and marks.FIELD.match(here.text.strip()))
            ):
                break
            end += 1
        self._add("item", line.start + line.indent, self.lines[end - 1].end, indent=line.indent)
        if self.lines[end - 1].text.rstrip().endswith("::"):
            self._literal_next = True
        return end

    def _paragraph(self, at: int) -> int:
        end = self._paragraph_end(at)
        start, stop = self.lines[at].start + self.lines[at].indent, self.lines[end - 1].end
        if self._is_code_paragraph(at, end):
            return self._code(at, end)
        before = len(self.found)
        self._sentences(start, stop)
        last = self.text[start:stop].rstrip()
        self._literal_next = last.endswith("::")
        self._lead = len(self.found) - 1 if last.endswith(":") and len(self.found) > before else None
        return end

    def _is_code_paragraph(self, at: int, end: int) -> bool:
        lines = [line.text.strip() for line in self.lines[at:end]]
        if self.lines[at].indent < 2:
            return False
        marks = sum(1 for line in lines if re.search(r"[={}();<>$|]|^\w+\(|^(?:import|from|def|class) |^- -", line))
        ends = sum(1 for line in lines if re.search(r"[.!?]$", line))
        return marks > 0.6 * len(lines) and ends <= len(lines) / 3

    def _sentences(self, start: int, stop: int) -> None:
        for first, last in sentence_spans(self.text, start, stop):
            self._add("sentence", first, last)

    def _reads_as_prose(self, at: int) -> bool:
        """AsciiDoc may leave a blank line between a term and its body, which then looks like a literal block."""
        end = self._paragraph_end(at)
        text = " ".join(line.text.strip() for line in self.lines[at:end])
        return (
            text[:1].isupper() and text[-1:] in ".:" and len(text.split()) > 7 and not re.search(r"[={};$]|\w\(", text)
        )

    def _becomes_entry(self) -> None:
        if self.found and self.found[-1].kind == "sentence":
            term = self.found[-1]
            self.found[-1] = replace(term, kind="entry")
            self._open.append((term.indent, len(self.found) - 1))
            self._lead = None

    # --- where things end

    def _closing(self, at: int, mark: str) -> int | None:
        if mark[0] in "=.-" and (at == 0 or self.lines[at - 1].indent >= 0) and mark[0] == "=":
            return None
        wanted = mark if mark[0] in "`~" else self.lines[at].text.strip()
        for ahead in range(at + 1, min(at + 200, len(self.lines))):
            if (
                self.lines[ahead].text.strip().startswith(wanted)
                and len(self.lines[ahead].text.strip().strip(mark[0])) == 0
            ):
                return ahead
        return None

    def _deeper(self, at: int) -> int:
        """The end of a literal block that starts at `at`: everything indented at least as deep, when it is indented."""
        own = self.lines[at].indent
        if own <= 0:
            return at
        return self._deeper_than(at + 1, own - 1)

    def _deeper_than(self, at: int, indent: int) -> int:
        end = at
        while at < len(self.lines) and (self.lines[at].indent < 0 or self.lines[at].indent > indent):
            at += 1
            end = at if self.lines[at - 1].indent >= 0 else end
        return max(end, 1)

    def _paragraph_end(self, at: int, *, code: bool = False) -> int:
        end = at + 1
        while end < len(self.lines) and self.lines[end].indent >= 0:
            bare = self.lines[end].text.strip()
            if not code and (
                (marks.ITEM.match(bare) and not bare[0].isalpha())
                or bare in ("+", "--")
                or bare.startswith("```")
                or marks.DIRECTIVE.match(bare)
                or self._is_heading(end)
                or marks.ROW.fullmatch(bare)
            ):
                break
            end += 1
        return end


def _lines(text: str) -> Iterator[_Line]:
    at = 0
    for line in text.splitlines(keepends=True):
        bare = line.rstrip("\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
        stripped = bare.strip()
        indent = len(bare) - len(bare.lstrip()) if stripped else -1
        yield _Line(at, at + len(bare.rstrip()), bare, indent)
        at += len(line)
