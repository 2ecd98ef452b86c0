"""The bytes of a file, turned into the text that is searched and cited.

Markdown, reStructuredText and plain text stay byte for byte as they came when they are UTF-8; other encodings are
decoded by byte order mark, by the shape of UTF-16, or as Windows-1252, and encoded again. HTML becomes Markdown-like
text of its main content, a PDF its pages. Whatever cannot be read is refused with a sentence that names the file and
the remedy; nothing in here raises on bad input.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

from app.workspaces.html import markdown_of
from app.workspaces.structure import Kind
from app.workspaces.written import own_word, pdf_date

LARGEST_DOCUMENT = 25 * 1024 * 1024  # bytes, as uploaded and as extracted

KIND_OF_SUFFIX: dict[str, Kind] = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".mdx": "markdown",
    ".rst": "rst",
    ".rest": "rst",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".txt": "text",
    ".text": "text",
    "": "text",
}


@dataclass(frozen=True, slots=True)
class Extracted:
    title: str  # as the file itself declares it (HTML, PDF); otherwise empty
    kind: Kind
    source: bytes  # UTF-8; spans of passages and citations count in these bytes
    written: datetime | None = None  # when it was last changed, by its own word


@dataclass(frozen=True, slots=True)
class Unreadable:
    code: str  # too_large | unsupported | empty | not_text | malformed | encrypted | too_many_pages
    detail: str  # one sentence: the file, what is wrong, what to do


def kind_of(path: str, data: bytes = b"") -> Kind | None:
    """What a file is taken for by its name and first bytes; None when documents of that name are not read at all."""
    return "pdf" if data.startswith(b"%PDF-") else KIND_OF_SUFFIX.get(PurePosixPath(path).suffix.lower())


def extract(path: str, data: bytes) -> Extracted | Unreadable:
    """Text, title and kind of one document. Costs processor time, and with hostile files a lot of it: see reading.py."""
    kind = kind_of(path, data)
    if kind is None:
        known = " ".join(suffix for suffix in KIND_OF_SUFFIX if suffix)
        return Unreadable("unsupported", f"{path} is of a kind that is not read; convert it to one of {known}.")
    if len(data) > LARGEST_DOCUMENT:
        return Unreadable(
            "too_large",
            f"{path} has {len(data)} bytes, the limit is {LARGEST_DOCUMENT}; split it into several documents.",
        )
    read = _read_pdf(path, data) if kind == "pdf" else _read_text(path, data, kind)
    if isinstance(read, Unreadable):
        return read
    if not read.source.strip():
        remedy = "run text recognition (OCR) on it first" if kind == "pdf" else "upload a document with text in it"
        return Unreadable("empty", f"{path} holds no text; {remedy}.")
    if len(read.source) > LARGEST_DOCUMENT:
        return Unreadable("too_large", f"{path} holds more than {LARGEST_DOCUMENT} bytes of text; split it.")
    return read


def _read_text(path: str, data: bytes, kind: Kind) -> Extracted | Unreadable:
    text = _decoded(data, kind)
    if text is None or _is_binary(text):
        return Unreadable("not_text", f"{path} is not text in a known encoding; save it as UTF-8 and upload it again.")
    title, written = "", own_word(kind, text.encode()) if kind != "text" else None
    if kind == "html":
        text, title = markdown_of(text)
    source = text.encode()  # for text that came as UTF-8: the very bytes it came in
    if kind == "text":
        kind = _disguised(text)
    return Extracted(_short(title), kind, source, written)


# Encodings of the web only: Python knows others that take hours or make no text.
_CHARSET = rb"((?:utf-?8|iso[-_]?8859|windows-|cp|koi8-|shift|sjis|euc|gb|big5|mac|latin|ascii|us-ascii)[\w.:-]{0,20})"
_DECLARED = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*" + _CHARSET + rb"|<\?xml[^>]{0,100}?encoding=[\"']" + _CHARSET, re.I
)
_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def _decoded(data: bytes, kind: Kind) -> str | None:
    """The text of a file of unknown encoding, by the first of these that fits; None when none does."""
    guesses = [encoding for mark, encoding in _MARKS if data.startswith(mark)][:1]
    if not guesses and (wide := _wide(data)):
        guesses.append(wide)
    guesses.append("utf-8")
    if kind == "html" and (declared := _DECLARED.search(data, 0, 4096)):
        guesses.append((declared[1] or declared[2]).decode("ascii"))
    guesses.append("cp1252")
    for encoding in guesses:
        try:
            return data.decode(encoding)
        except (UnicodeDecodeError, LookupError, ValueError):
            continue
    return None


def _wide(data: bytes) -> str | None:
    """UTF-16 without a byte order mark: nearly every second byte of western text is zero."""
    sample = data[:4000]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if len(sample) >= 8 and max(even, odd) > 0.4 * (len(sample) // 2) and min(even, odd) < 0.05 * len(sample):
        return "utf-16-be" if even > odd else "utf-16-le"
    return None


_CONTROL = re.compile(r"[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f]")


def _is_binary(text: str) -> bool:
    # A NUL never occurs in text and no database text may hold it; a few stray control characters do occur.
    return "\0" in text or len(_CONTROL.findall(text)) > 0.002 * len(text) + 2


_RST_MARKS = re.compile(r"^\.\. +(?:[\w:-]{1,40}::|_)|:[a-z]{1,20}(?::[a-z]{1,20})?:`|\w::$", re.M)
_MARKDOWN_MARKS = re.compile(r"^(?:#{1,6} +\S|```|\[[^\]\n]{1,80}\]: )", re.M)


def _disguised(text: str) -> Kind:
    """`.txt` files, and those without a suffix, are often reStructuredText or Markdown."""
    rst, markdown = len(_RST_MARKS.findall(text, 0, 20_000)), len(_MARKDOWN_MARKS.findall(text, 0, 20_000))
    if max(rst, markdown) < 2:
        return "text"
    return "rst" if rst >= markdown else "markdown"


def _read_pdf(path: str, data: bytes) -> Extracted | Unreadable:
    # Imported here: most documents are no PDF, and loading the reader takes longer than reading most of them.
    from app.workspaces.pdf import Refused, pages_of

    try:
        text, title, changed = pages_of(data, LARGEST_DOCUMENT)
    except Refused as refused:
        return Unreadable(refused.code, f"{path} {refused}.")
    return Extracted(_short(title), "pdf", text.encode(), pdf_date(changed))


def _short(title: str) -> str:
    return " ".join(title.replace("\0", "").split())[:300]
