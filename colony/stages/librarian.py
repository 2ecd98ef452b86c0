"""Librarian: runs every formulation against the workspace and keeps what came back."""

import asyncio

from colony.case import Case
from colony.reading.ranking import Found
from colony.stages.notes import Formulation, Gathered, Notes, Produced
from colony_client.artifacts import LibrarianPass, Search, SearchResult

BYTES_PER_PASSAGE = 700  # the root cuts passages of 200 to 1,200 bytes
FALLBACK_PASSAGES = 5_000
RECORDED = 20  # results of one search that the artifact names


async def run(case: Case, notes: Notes) -> Produced:
    held = await case.in_time("the outline of the workspace", case.tools.bytes_held())
    notes.passages = max(held // BYTES_PER_PASSAGE, 1) if held else FALLBACK_PASSAGES
    work = [(task.id, lambda task=task: gather(case, notes.formulations[task.id])) for task in notes.tasks]
    results = await case.each(work)
    notes.gathered = {task.id: result for task, result in zip(notes.tasks, results, strict=True)}
    searches = [search for task in notes.tasks for search in _recorded(task.id, notes.gathered[task.id])]
    return Produced([case.make(LibrarianPass, searches=searches[:500])])


async def gather(case: Case, formulation: Formulation) -> Gathered:
    """Every query once, also when a term alone is one of them."""
    wanted = list(dict.fromkeys([*formulation.queries, *(words for _, words in formulation.probes)]))
    found = dict(zip(wanted, await asyncio.gather(*(case.tools.search(query) for query in wanted)), strict=True))
    return Gathered(
        by_query={query: found[query] for query in formulation.queries},
        by_term={key: found[words] for key, words in formulation.probes},
    )


def _recorded(task_id: str, gathered: Gathered) -> list[Search]:
    """Where something was found; a score here is only the place in the root's order."""
    everything = {**gathered.by_query, **gathered.by_term}
    return [
        Search(
            task_id=task_id,
            query=query,
            results=[_result(found, place) for place, found in enumerate(results[:RECORDED])],
        )
        for query, results in everything.items()
    ]


def _result(found: Found, place: int) -> SearchResult:
    return SearchResult(
        source=found.source, document=found.document, start=found.start, end=found.end, score=round(1 / (1 + place), 6)
    )
