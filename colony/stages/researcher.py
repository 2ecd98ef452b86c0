"""Researcher: ranks what the librarian brought and reads around the best of it."""

import asyncio

from colony.case import Case
from colony.reading.evidence import Window
from colony.reading.ranking import Found, Ranked, Rarity, rank, rarity, read
from colony.stages.notes import Formulation, Gathered, Notes, Produced, Studied
from colony.tools import Stretch
from colony_client.artifacts import MAX_QUOTE, Passage, ResearchArtifact, quote_sha256

WINDOWS = 14
AROUND = 700  # bytes read before and after a passage
WORTH_READING = 0.2  # of the best score


async def run(case: Case, notes: Notes) -> Produced:
    work = [
        (task.id, lambda task=task: _study(case, notes.formulations[task.id], notes.gathered[task.id], notes.passages))
        for task in notes.tasks
    ]
    results = await case.each(work)
    notes.studied = {task.id: result for task, result in zip(notes.tasks, results, strict=True)}
    passages = [
        _passage(task_id, place, window)
        for task_id, studied in notes.studied.items()
        for place, window in enumerate(studied.windows, start=1)
    ]
    return Produced([case.make(ResearchArtifact, passages=passages[:500])])


async def _study(case: Case, formulation: Formulation, gathered: Gathered, passages: int) -> Studied:
    rare, ranked = await asyncio.to_thread(shortlist, formulation, gathered, passages)
    stretches = await asyncio.gather(
        *(
            case.tools.read(one.read.found.source, one.read.found.start - AROUND, one.read.found.end + AROUND)
            for one in ranked
        )
    )
    best = ranked[0].score if ranked else 1.0
    windows = [
        Window(widened(one.read.found, stretch), one.score / best)
        for one, stretch in zip(ranked, stretches, strict=True)
    ]
    return Studied(rare, windows)


def shortlist(formulation: Formulation, gathered: Gathered, passages: int) -> tuple[Rarity, list[Ranked]]:
    """The passages worth reading, best first, none of them twice under another document."""
    indexed = {found.key: read(found) for results in _all(gathered) for found in results}
    pool = list(indexed.values())
    alone = {key: [indexed[found.key] for found in results] for key, results in gathered.by_term.items()}
    keys = [term.key for term in formulation.question.terms]
    rare = rarity(keys, alone, pool, passages)
    best: list[Ranked] = []
    seen: set[str] = set()
    for entry in rank(formulation.question, pool, rare):
        if entry.score <= 0 or (best and entry.score < WORTH_READING * best[0].score) or len(best) == WINDOWS:
            break
        words = " ".join(entry.read.found.text.split())
        if words not in seen:
            seen.add(words)
            best.append(entry)
    return rare, best


def _all(gathered: Gathered) -> list:
    return [*gathered.by_query.values(), *gathered.by_term.values()]


def widened(found: Found, stretch: Stretch) -> Found:
    """The passage with what stands around it, cut back to whole paragraphs and to what a citation may hold."""
    held = stretch.text.encode()
    first, last = found.start - stretch.start, found.end - stretch.start
    if not 0 <= first <= last <= len(held):
        return found
    left = right = 0
    if stretch.start > 0:
        blank = held.find(b"\n\n", 0, first)
        left = blank + 2 if blank >= 0 else first
    right = len(held)
    if stretch.end < stretch.total:
        blank = held.rfind(b"\n\n", last)
        right = blank if blank >= 0 else last
    if right - left > MAX_QUOTE:
        left, right = first, min(last, first + MAX_QUOTE)
    text = held[left:right].decode(errors="ignore")
    start = stretch.start + left
    return Found(found.source, found.document, found.title, found.heading, start, start + len(text.encode()), text)


def _passage(task_id: str, place: int, window: Window) -> Passage:
    found = window.found
    return Passage(
        id=f"{task_id}-p{place}",
        task_id=task_id,
        source=found.source,
        document=found.document,
        heading=found.heading[:1000] or None,
        start=found.start,
        end=found.end,
        quote=found.text,
        quote_sha256=quote_sha256(found.text.encode()),
        score=round(window.standing, 6),
    )
