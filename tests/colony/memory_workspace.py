"""A workspace in memory: passages under an inverted index, searched by BM25. Stands in for the root's tools."""

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from colony.case import Case
from colony.reading.terms import STOP, index
from colony.tools import Tools
from colony_client.artifacts import Budgets, MissionEnvelope, Producer, sealed_envelope

LIMIT = 50
Cut = Callable[[str, str], Iterable[tuple[int, int, str]]]  # (text, document) -> (start byte, end byte, heading path)


@dataclass(frozen=True)
class Stored:
    source: str
    document: str
    title: str
    heading: str
    start: int
    end: int
    text: str


class MemoryWorkspace:
    """Answers `workspace.search`, `workspace.read` and `workspace.outline` with the shapes the root answers."""

    def __init__(self, cut: Cut | None = None) -> None:
        self.cut = cut or paragraphs
        self.bytes: dict[str, bytes] = {}
        self.documents: list[dict[str, Any]] = []
        self.passages: list[Stored] = []
        self._postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._lengths: list[int] = []

    def add(self, document: str, text: str, title: str | None = None) -> str:
        body = text.encode()
        source = hashlib.sha256(body).hexdigest()
        title = (
            title or next((line.strip(" #=*") for line in text.splitlines() if re.search(r"\w", line)), document)[:120]
        )
        self.bytes[source] = body
        self.documents.append({"document": document, "source": source, "title": title, "bytes": len(body)})
        for start, end, heading in self.cut(text, document):
            self._store(Stored(source, document, title, heading, start, end, body[start:end].decode()))
        return source

    def add_folder(self, folder: Path, suffixes: tuple[str, ...] = (".md", ".rst", ".txt")) -> None:
        for path in sorted(folder.rglob("*")):
            if path.suffix in suffixes and path.is_file():
                self.add(str(path.relative_to(folder)), path.read_text(errors="replace"))

    def _store(self, passage: Stored) -> None:
        counts: Counter[str] = Counter()
        for text, weight in ((passage.text, 1), (passage.heading, 2), (passage.title, 1)):
            for term, places in index(text).places.items():
                counts[term] += weight * len(places)
        for term, count in counts.items():
            self._postings[term].append((len(self.passages), float(count)))
        self._lengths.append(sum(counts.values()))
        self.passages.append(passage)

    def search(self, query: str, limit: int = LIMIT) -> list[dict[str, Any]]:
        mean = sum(self._lengths) / max(len(self._lengths), 1)
        scores: dict[int, float] = defaultdict(float)
        for term in {term for term in index(query).places if term not in STOP}:
            postings = self._postings.get(term, [])
            idf = math.log(1 + (len(self.passages) - len(postings) + 0.5) / (len(postings) + 0.5))
            for number, count in postings:
                norm = 1.2 * (0.25 + 0.75 * self._lengths[number] / mean)
                scores[number] += idf * count * 2.2 / (count + norm)
        best = sorted(scores, key=lambda number: (-scores[number], number))[: min(limit, LIMIT)]
        return [self._row(self.passages[number], scores[number]) for number in best]

    def _row(self, passage: Stored, score: float) -> dict[str, Any]:
        return {**asdict(passage), "score": score}

    def read(self, source: str, start: int, end: int) -> dict[str, Any]:
        body = self.bytes[source]
        start, end = max(0, min(start, len(body))), max(0, min(end, len(body)))
        while start and start < len(body) and body[start] & 0xC0 == 0x80:
            start -= 1
        while end < len(body) and body[end] & 0xC0 == 0x80:
            end += 1
        return {"text": body[start:end].decode(), "start": start, "end": end, "total": len(body)}

    async def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        """A tool call as the root would answer it."""
        if tool == "workspace.search":
            return {"passages": self.search(arguments["query"], arguments.get("limit", 10))}
        if tool == "workspace.read":
            return self.read(arguments["source"], arguments["start"], arguments["end"])
        if tool == "workspace.outline":
            return {"documents": self.documents}
        raise KeyError(tool)


def envelope_for(goal: str, mission_type: str = "oracle_advisory", **inputs: Any) -> MissionEnvelope:
    return sealed_envelope(
        mission_id=uuid4(),
        tenant_id=uuid4(),
        actor_id=uuid4(),
        created_at=datetime.now(UTC),
        producer=Producer(name="test", version="1"),
        mission_type=mission_type,
        origin_surface="test",
        actor_role="submitter",
        user_goal=goal,
        normalized_goal=goal,
        risk_level="low",
        sensitivity_class="internal",
        mode="assisted",
        environment="local",
        inputs=inputs,
        budget=Budgets(time_ms=60_000, tokens=0, cost_usd=0),
    )


def case_over(workspace: Any, goal: str, mission_type: str = "oracle_advisory", **inputs: Any) -> Case:
    """A case as an attempt would make it, with its tools answered by `workspace.call`."""
    return Case(envelope_for(goal, mission_type, **inputs), Tools(workspace.call), lambda *_, **__: None)


def paragraphs(text: str, document: str) -> Iterable[tuple[int, int, str]]:
    """Passages of whole paragraphs, up to about 900 bytes, under the nearest heading."""
    heading, at, start, size = "", 0, 0, 0
    for part in re.split(r"(\n[ \t]*\n)", text):
        width = len(part.encode())
        lines = part.strip().splitlines()
        title = _title(lines)
        if (title or size > 700) and size:
            yield start, at, heading
            start, size = at, 0
        heading = title or heading
        at += width
        size += width if part.strip() else 0
        if not size:
            start = at
    if size:
        yield start, at, heading


def _title(lines: list[str]) -> str | None:
    if lines and re.match(r"#{1,6} ", lines[0]):
        return lines[0].strip("# ")
    if len(lines) > 1 and re.fullmatch(r"([=\-~^*+])\1{2,}", lines[1].strip()):
        return lines[0].strip()
    return None
