"""A document read and cut, at a safe distance.

Parsers of HTML and PDF are native code or close to it, and some inputs cost them time in the square of their size, or
their life. So documents are read by processes of their own, without this one's secrets, which the kernel ends at their
limits of processor time and memory. Such a process is this module run as a program; it reads one document after the
other: a line of JSON and the document's bytes in, a line of JSON and the text's bytes out, until its input ends.
"""

import asyncio
import contextlib
import json
import os
import resource
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath

from app.workspaces.extract import Unreadable, extract, kind_of
from app.workspaces.passages import Passage, split
from app.workspaces.structure import Kind

AT_ONCE = 2
CPU_SECONDS, PDF_CPU_SECONDS = 20, 120  # the second: some two thousand pages
MEMORY_BYTES = 2_000_000_000
RETIRING_BYTES = 500_000_000  # a process that has grown so far is replaced after its answer
KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")

_threads = ThreadPoolExecutor(AT_ONCE, "reading")  # a slow PDF must not hold up the other threads of this process
_idle: "list[_Reader]" = []


@dataclass(frozen=True, slots=True)
class Reading:
    """What a document says: its text (UTF-8; what is cited), the passages it is searched by, and when it says it was changed."""

    title: str
    kind: Kind
    source: bytes
    passages: list[Passage]
    written: datetime | None = None


async def read_document(path: str, data: bytes) -> Reading | Unreadable:
    """Reads a document, in milliseconds or, if it is a long PDF, in minutes: so never in a transaction."""
    reader = _idle.pop() if _idle else _Reader()
    try:
        read = await asyncio.get_running_loop().run_in_executor(_threads, reader.read, path, data)
    except BaseException:
        reader.end()  # nobody waits for it any more
        raise
    if reader.process and len(_idle) < AT_ONCE:
        _idle.append(reader)
    else:
        reader.end()
    return read


def read_here(path: str, data: bytes) -> Reading | Unreadable:
    """What a reading process does with each document."""
    extracted = extract(path, data)
    if isinstance(extracted, Unreadable):
        return extracted
    passages = split(extracted.source, extracted.kind)
    headings = (passage.heading.split(" > ")[0] for passage in passages if passage.heading and extracted.kind != "pdf")
    title = extracted.title or next(headings, "") or PurePosixPath(path).stem
    # A passage above the first heading is found, and shown, by the document's title.
    passages = [passage if passage.heading else replace(passage, heading=title) for passage in passages]
    return Reading(title, extracted.kind, extracted.source, passages, extracted.written)


# The package's own door would load the web framework and the database driver, which no reader needs.
_PROGRAM = """
import sys, types
package = sys.modules["app.workspaces"] = types.ModuleType("app.workspaces")
package.__path__ = [sys.argv[1]]
from app.workspaces.reading import main
main()
"""


class _Reader:
    """A reading process, started when it is needed and used by one thread at a time."""

    process: "subprocess.Popen[bytes] | None" = None

    def read(self, path: str, data: bytes) -> Reading | Unreadable:
        seconds = PDF_CPU_SECONDS if kind_of(path, data) == "pdf" else CPU_SECONDS
        if self.process is None or self.process.poll() is not None:
            self.process = _started()
        clock = threading.Timer(3 * seconds, self.process.kill)
        clock.start()
        try:
            return self._asked(self.process, path, data, seconds)
        except (OSError, EOFError):
            self.end()
            return Unreadable("malformed", f"{path} cannot be read within {seconds} s and 2 GB; simplify or split it.")
        finally:
            clock.cancel()

    def _asked(self, process: "subprocess.Popen[bytes]", path: str, data: bytes, seconds: int) -> Reading | Unreadable:
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps({"path": path, "size": len(data), "seconds": seconds}).encode() + b"\n" + data)
        process.stdin.flush()
        said = process.stdout.readline()
        if not said.endswith(b"\n"):
            raise EOFError
        head = json.loads(said)
        source = process.stdout.read(head["size"])
        if head["retiring"]:
            self.end()
        if head["refused"]:
            return Unreadable(**head["refused"])
        passages = [
            Passage(ordinal, start, end, heading, source[start:end].decode())
            for ordinal, (start, end, heading) in enumerate(head["passages"])
        ]
        written = datetime.fromisoformat(head["written"]) if head["written"] else None
        return Reading(head["title"], head["kind"], source, passages, written)

    def end(self) -> None:
        process, self.process = self.process, None
        if process:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]


def _started() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-I", "-X", "utf8", "-c", _PROGRAM, str(Path(__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ},
    )


def _peak_bytes() -> int:
    """The most memory this program has held. ru_maxrss would also count the parent's, from before the exec."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):  # no Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """The reading process."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while asked := sys.stdin.buffer.readline():
        ask = json.loads(asked)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(usage.ru_utime + usage.ru_stime) + 1 + ask["seconds"]
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        read = read_here(ask["path"], sys.stdin.buffer.read(ask["size"]))
        grown = _peak_bytes() > RETIRING_BYTES
        answer: dict[str, object] = {"refused": None, "size": 0, "retiring": grown}
        if isinstance(read, Unreadable):
            sys.stdout.buffer.write(json.dumps(answer | {"refused": asdict(read)}).encode() + b"\n")
        else:
            spans = [(passage.start, passage.end, passage.heading) for passage in read.passages]
            answer |= {"title": read.title, "kind": read.kind, "passages": spans, "size": len(read.source)}
            answer["written"] = read.written.isoformat() if read.written else None
            sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + read.source)
        sys.stdout.buffer.flush()
