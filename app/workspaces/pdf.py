"""Reads a PDF from stdin and writes its text to stdout. Run as a program of its own, never imported.

A PDF is a program for a small machine, and readers of it have looped for ever and swallowed gigabytes on hostile files:
here the kernel ends such a run by its processor time and memory limits, and the caller's process is never at risk.
Exit codes: 0 text written, 3 encrypted, 4 too many pages, 5 unreadable. The title is the first line of the output.
"""

import io
import resource
import sys
from collections.abc import Iterator

from pypdf import PdfReader
from pypdf.errors import FileNotDecryptedError, PyPdfError


def main(most_pages: int, cpu_seconds: int, memory_bytes: int, most_text: int) -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    sys.setrecursionlimit(3000)
    try:
        reader = PdfReader(io.BytesIO(sys.stdin.buffer.read()))
        if reader.is_encrypted and not reader.decrypt(""):
            return 3
        if len(reader.pages) > most_pages:
            return 4
        title = str(reader.metadata.title or "") if reader.metadata else ""
        pages = list(_pages(reader, most_text))
    except FileNotDecryptedError:
        return 3
    except (
        PyPdfError,
        MemoryError,
        RecursionError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OSError,
    ):
        return 5
    text = " ".join(title.split()) + "\n" + "\f".join(pages)
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    return 0


def _pages(reader: PdfReader, most_text: int) -> Iterator[str]:
    total = 0
    for page in reader.pages:
        text = page.extract_text().replace("\f", "\n")
        total += len(text)
        if total > most_text:
            raise ValueError("more text than a document may hold")
        yield text


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:5])))
