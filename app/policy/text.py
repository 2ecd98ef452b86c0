"""Cedar text cut into its rules, so that every finding has a line and every rule its own words."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

TOKEN = re.compile(r'\s+|//[^\n]*|"(?:[^"\\]|\\.)*"|[A-Za-z_][A-Za-z0-9_]*|[0-9]+|::|==|!=|<=|>=|&&|\|\||.', re.DOTALL)


@dataclass(frozen=True)
class Piece:
    """A word, string or sign of the text, and the line it stands in."""

    text: str
    line: int
    at: int


@dataclass(frozen=True)
class Statement:
    """One rule's text from its first annotation to its semicolon."""

    text: str
    line: int
    pieces: tuple[Piece, ...]


def pieces(text: str) -> Iterator[Piece]:
    """Everything but spaces and comments."""
    line = 1
    for found in TOKEN.finditer(text):
        word = found.group()
        if not word.isspace() and not word.startswith("//"):
            yield Piece(word, line, found.start())
        line += word.count("\n")


def statements(text: str) -> list[Statement]:
    """The rules of a text in order. What stands behind the last semicolon is one more, unfinished."""
    made: list[Statement] = []
    held: list[Piece] = []
    for piece in pieces(text):
        held.append(piece)
        if piece.text == ";":
            made.append(statement(text, held))
            held = []
    if held:
        made.append(statement(text, held))
    return made


def statement(text: str, held: list[Piece]) -> Statement:
    end = held[-1].at + len(held[-1].text)
    return Statement(text[held[0].at : end], held[0].line, tuple(held))
