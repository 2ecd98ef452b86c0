"""How good are the colony's answers without a model, next to plain BM25 over paragraphs (top three)?

    python bench/answer_quality.py --docs DIR [--set NAME ...] [--role held_out] [--show] [--json FILE]

DIR holds one folder of documentation per question set of `answer_questions.json` (flask, django, ...). Each is cut into
passages by the root's own ingestion, and the colony's own stages run over a workspace in memory. A question is hit when
the answer contains one of its evidence strings ("first": its first claim does; "longer": as many BM25 paragraphs as fill
the length of the answer do); one without evidence has no answer in the documents, and any answer to
it is false. "tuning" sets were looked at while the colony was written, "held_out" ones were only measured.
"""

import argparse
import asyncio
import json
import math
import re
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "colony")]

from memory_workspace import MemoryWorkspace, case_over  # noqa: E402

from app.workspaces.extract import Unreadable, extract, kind_of  # noqa: E402
from app.workspaces.passages import split  # noqa: E402
from colony.stages import aggregator, librarian, planner, prompt_master, researcher, workers  # noqa: E402
from colony.stages.notes import Notes  # noqa: E402

WORD = re.compile(r"[a-z0-9_]+")
SUFFIXES = {".md", ".rst", ".txt", ".html"}


@dataclass
class Asked:
    set: str
    role: str
    ask: str
    answerable: bool
    answered: bool
    hit: bool
    first_hit: bool
    bm25_hit: bool
    chars: int
    bm25_chars: int
    bm25_same_length_hit: bool
    seconds: float
    answer: str


def ingest(folder: Path) -> MemoryWorkspace:
    kinds: dict[str, Any] = {}

    def cut(text: str, document: str) -> Iterable[tuple[int, int, str]]:
        return [(one.start, one.end, one.heading) for one in split(text.encode(), kinds[document])]

    workspace = MemoryWorkspace(cut)
    for path in sorted(folder.resolve().rglob("*")):
        document = str(path.relative_to(folder.resolve()))
        if path.is_file() and path.suffix in SUFFIXES and kind_of(document):
            extracted = extract(document, path.read_bytes())
            if not isinstance(extracted, Unreadable):
                kinds[document] = extracted.kind
                workspace.add(document, extracted.source.decode(), extracted.title)
    return workspace


class Paragraphs:
    """The yardstick: BM25 (k1 1.5, b 0.75) over paragraphs between blank lines, words as they are written."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.paragraphs = [
            part.strip() for text in texts for part in re.split(r"\n[ \t]*\n", text) if len(part.strip()) >= 20
        ]
        self.postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        counts = [Counter(WORD.findall(part.lower())) for part in self.paragraphs]
        for number, count in enumerate(counts):
            for word, times in count.items():
                self.postings[word].append((number, times))
        self.lengths = [sum(count.values()) for count in counts]
        self.mean = sum(self.lengths) / max(len(self.lengths), 1)

    def top(self, ask: str, count: int = 3, chars: int = 0) -> list[str]:
        """The best paragraphs: `count` of them, and more until they have as many characters."""
        scores: dict[int, float] = defaultdict(float)
        for word in set(WORD.findall(ask.lower())):
            postings = self.postings.get(word, [])
            idf = math.log(1 + (len(self.paragraphs) - len(postings) + 0.5) / (len(postings) + 0.5))
            for number, times in postings:
                norm = 1.5 * (0.25 + 0.75 * self.lengths[number] / self.mean)
                scores[number] += idf * times * 2.5 / (times + norm)
        found: list[str] = []
        for number in sorted(scores, key=lambda number: (-scores[number], number)):
            if len(found) >= count and sum(map(len, found)) >= chars:
                break
            found.append(self.paragraphs[number])
        return found


def squashed(text: str) -> str:
    """Without markup and line breaks, so that only words decide."""
    return re.sub(r"\s+", " ", re.sub(r"[`*\\]|:[a-z:]+:(?=`)", "", text)).lower()


def holds(text: str, evidence: list[str]) -> bool:
    return any(squashed(one) in squashed(text) for one in evidence)


async def answer(workspace: MemoryWorkspace, ask: str) -> tuple[bool, list[str]]:
    """Whether it was answered, and the texts of the claims."""
    case, notes = case_over(workspace, ask), Notes()
    for stage in (planner, prompt_master, librarian, researcher, workers, aggregator):
        await stage.run(case, notes)
    assert notes.packet is not None
    return notes.packet.answer_status == "answered", [claim.text for claim in notes.packet.claims]


async def measure(name: str, role: str, questions: list[dict[str, Any]], folder: Path) -> list[Asked]:
    began = time.perf_counter()
    workspace = ingest(folder)
    texts = [body.decode() for body in workspace.bytes.values()]
    paragraphs, everything = Paragraphs(texts), squashed("\n".join(texts))
    size = sum(map(len, texts)) / 1e6
    print(
        f"{name}: {size:.1f} MB, {len(workspace.passages)} passages, {time.perf_counter() - began:.0f} s",
        file=sys.stderr,
    )
    rows = []
    for question in questions:
        ask, evidence = question["ask"], question["evidence"]
        if evidence and not any(squashed(one) in everything for one in evidence):
            print(f"  no such evidence in these documents: {ask}", file=sys.stderr)
            continue
        start = time.perf_counter()
        answered, claims = await answer(workspace, ask)
        took = time.perf_counter() - start
        best, longer = paragraphs.top(ask), paragraphs.top(ask, chars=sum(map(len, claims)))
        rows.append(
            Asked(
                name,
                role,
                ask,
                bool(evidence),
                answered,
                hit=holds("\n".join(claims), evidence),
                first_hit=bool(claims) and holds(claims[0], evidence),
                bm25_hit=holds("\n".join(best), evidence),
                chars=sum(map(len, claims)),
                bm25_chars=sum(map(len, best)),
                bm25_same_length_hit=holds("\n".join(longer), evidence),
                seconds=round(took, 3),
                answer="\n\n".join(claims),
            )
        )
    return rows


def report(rows: list[Asked]) -> None:
    columns = ["asked", "hit", "first", "BM25", "longer", "chars", "BM25", "refused", "no answer", "false"]
    print(f"{'set':<12}" + "".join(f"{column:>10}" for column in columns))
    for title, some in [*_groups(rows), ("all", rows)]:
        real = [row for row in some if row.answerable]
        none = [row for row in some if not row.answerable]
        if not real:
            continue
        hits = [sum(getattr(row, name) for row in real) / len(real) for name in _HITS]
        chars = [statistics.mean(getattr(row, name) for row in real) for name in ("chars", "bm25_chars")]
        counts = [sum(not row.answered for row in real), len(none), sum(row.answered for row in none)]
        cells = [f"{len(real)}", *(f"{hit:.0%}" for hit in hits), *(f"{one:.0f}" for one in chars), *map(str, counts)]
        print(f"{title:<12}" + "".join(f"{cell:>10}" for cell in cells))
    times = [row.seconds for row in rows]
    print(f"seconds per question: median {statistics.median(times)}, most {max(times)}")


_HITS = ("hit", "first_hit", "bm25_hit", "bm25_same_length_hit")


def _groups(rows: list[Asked]) -> list[tuple[str, list[Asked]]]:
    names = dict.fromkeys(row.set for row in rows)
    return [(name, [row for row in rows if row.set == name]) for name in names]


async def main() -> None:
    parser = argparse.ArgumentParser(description="Quality of answers without a model, against BM25 over paragraphs.")
    parser.add_argument("--docs", type=Path, required=True, help="folder with one folder of documents per question set")
    parser.add_argument("--questions", type=Path, default=Path(__file__).with_name("answer_questions.json"))
    parser.add_argument("--set", action="append", default=[], help="only this set (may be repeated)")
    parser.add_argument("--role", choices=["tuning", "held_out"])
    parser.add_argument("--show", action="store_true", help="print every answer")
    parser.add_argument("--json", type=Path, help="write every question and answer to this file")
    ask = parser.parse_args()
    rows: list[Asked] = []
    for name, kept in json.loads(ask.questions.read_text()).items():
        if (ask.set and name not in ask.set) or (ask.role and kept["role"] != ask.role):
            continue
        if not (ask.docs / name).is_dir():
            print(f"{name}: skipped, {ask.docs / name} is not there", file=sys.stderr)
            continue
        rows += await measure(name, kept["role"], kept["questions"], ask.docs / name)
    if not rows:
        sys.exit("nothing was measured: no folder under --docs is named like a question set")
    for row in rows:
        wrong = row.answered != row.answerable or (row.answerable and not row.hit)
        if ask.show or wrong:
            verdict = (
                "hit"
                if row.hit
                else "MISSED"
                if row.answerable and row.answered
                else "refused"
                if row.answerable
                else "FALSE"
            )
            print(f"[{verdict if row.answerable or row.answered else 'right refusal'}] {row.set}: {row.ask}")
            print("    " + row.answer.replace("\n", "\n    ") if ask.show else "", end="\n" if ask.show else "")
    report(rows)
    if ask.json:
        ask.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    asyncio.run(main())
