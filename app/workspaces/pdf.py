"""The pages of a PDF as text: one string, pages parted by form feeds.

Only for use in a process that may be killed (reading.py): a PDF is a program for a small machine, and readers of it
have looped for ever and swallowed gigabytes on hostile files.
"""

import io
import re
import unicodedata

from pypdf import PdfReader
from pypdf.errors import FileNotDecryptedError, PyPdfError

MOST_PAGES = 2_000

_HYPHENATED = re.compile(r"(?<=[^\W\d_])[-\u00ad\u2010]\n(?=[^\W\d_])")
_LIGATURES = str.maketrans({chr(code): unicodedata.normalize("NFKC", chr(code)) for code in range(0xFB00, 0xFB07)})
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|[\ud800-\udfff]")


class Refused(Exception):
    """A PDF that is not read: code and what is wrong with it."""

    def __init__(self, code: str, problem: str) -> None:
        super().__init__(problem)
        self.code = code


def pages_of(data: bytes, most_text: int) -> tuple[str, str, str]:
    """Text, title and date (as PDF writes it) of a PDF; title and date may be empty. Raises Refused."""
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Refused("encrypted", "is protected by a password; upload a copy without one")
        if len(reader.pages) > MOST_PAGES:
            raise Refused("too_many_pages", f"has more than {MOST_PAGES} pages; split it into several documents")
        about = reader.metadata
        title = str(about.title or "") if about else ""
        changed = str(about.get("/ModDate") or about.get("/CreationDate") or "") if about else ""
        pages: list[str] = []
        for page in reader.pages:
            pages.append(page_text(page.extract_text()))
            most_text -= len(pages[-1])
            if most_text < 0:
                raise Refused("too_large", "holds too much text; split it into several documents")
    except FileNotDecryptedError:
        raise Refused("encrypted", "is protected by a password; upload a copy without one") from None
    except (
        PyPdfError,
        ArithmeticError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        OSError,
        RecursionError,
    ) as broken:
        # pypdf meets damaged files with whatever its code trips over; all of it means the same to the person who asks.
        raise Refused(
            "malformed", "could not be read as a PDF; print it to a new PDF or convert it to text"
        ) from broken
    return "\n\f\n".join(pages), _CONTROL.sub("", title), changed[:40]


def page_text(page: str) -> str:
    """One page: control characters gone, ligatures spelt out, words divided at a line's end joined again."""
    text = _CONTROL.sub("", page.replace("\r\n", "\n").replace("\f", "\n")).translate(_LIGATURES)
    text = _HYPHENATED.sub(lambda m: "" if text[m.end()].islower() else m[0][:1], text)
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")
