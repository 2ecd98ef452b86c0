"""A document read and cut, at a safe distance.

Parsers of HTML and PDF are native code or close to it, and some inputs cost them time in the square of their size, or
their life. So only small documents are read in this process, in a thread; large ones and every PDF are read by a
process of their own, which the kernel ends at its limits of processor time and memory. That process is this module
run as a program: document on stdin; on stdout one line of JSON, then the text.
"""

import json
import resource
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

from app.workspaces.extract import Unreadable, extract, kind_of
from app.workspaces.passages import Passage, split
from app.workspaces.structure import Kind

SMALL_DOCUMENT = 100_000  # bytes; the worst that so few can cost is about a second
CPU_SECONDS, PDF_CPU_SECONDS = 20, 120  # the second: some two thousand pages
MEMORY_BYTES = 2_000_000_000
_two_at_once = threading.BoundedSemaphore(2)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a document says: its text (UTF-8; what is cited) and the passages it is searched by."""

    title: str
    kind: Kind
    source: bytes
    passages: list[Passage]


def read_document(path: str, data: bytes) -> Reading | Unreadable:
    """Reads a document. Blocks, with a PDF for minutes: call it in a thread, and in no transaction."""
    is_pdf = kind_of(path, data) == "pdf"
    if len(data) <= SMALL_DOCUMENT and not is_pdf:
        return read_here(path, data)
    with _two_at_once:
        return _read_elsewhere(path, data, PDF_CPU_SECONDS if is_pdf else CPU_SECONDS)


def read_here(path: str, data: bytes) -> Reading | Unreadable:
    extracted = extract(path, data)
    if isinstance(extracted, Unreadable):
        return extracted
    passages = split(extracted.source, extracted.kind)
    headings = (passage.heading.split(" > ")[0] for passage in passages if passage.heading and extracted.kind != "pdf")
    title = extracted.title or next(headings, "") or PurePosixPath(path).stem
    # A passage above the first heading is found, and shown, by the document's title.
    passages = [passage if passage.heading else replace(passage, heading=title) for passage in passages]
    return Reading(title, extracted.kind, extracted.source, passages)


# The package's own door would load the web framework and the database driver: a second of work for every document.
_PROGRAM = """
import sys, types
package = sys.modules["app.workspaces"] = types.ModuleType("app.workspaces")
package.__path__ = [sys.argv[1]]
from app.workspaces.reading import main
main(sys.argv[2], int(sys.argv[3]))
"""


def _read_elsewhere(path: str, data: bytes, seconds: int) -> Reading | Unreadable:
    program = [sys.executable, "-I", "-c", _PROGRAM, str(Path(__file__).parent), path, str(seconds)]
    try:
        done = subprocess.run(program, input=data, capture_output=True, timeout=3 * seconds, check=False)
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode:
        return Unreadable("malformed", f"{path} cannot be read within {seconds} s and 2 GB; simplify or split it.")
    said, _, source = done.stdout.partition(b"\n")
    head = json.loads(said)
    if "code" in head:
        return Unreadable(**head)
    passages = [
        Passage(ordinal, start, end, heading, source[start:end].decode())
        for ordinal, (start, end, heading) in enumerate(head["passages"])
    ]
    return Reading(head["title"], head["kind"], source, passages)


def main(path: str, seconds: int) -> None:
    """The reading process: exits with 0 after an answer, a refusal included."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    read = read_here(path, sys.stdin.buffer.read())
    if isinstance(read, Unreadable):
        answer = json.dumps(asdict(read)).encode()
    else:
        spans = [(passage.start, passage.end, passage.heading) for passage in read.passages]
        answer = json.dumps({"title": read.title, "kind": read.kind, "passages": spans}).encode() + b"\n" + read.source
    sys.stdout.buffer.write(answer)
