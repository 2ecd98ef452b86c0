"""Workers: each task's passages become claims, every one an excerpt with the bytes it stands in, or "not found"."""

import asyncio

from colony.case import Case, cite
from colony.reading.answerable import ENOUGH, confidence, judge
from colony.reading.choosing import Excerpt, diverse, excerpts
from colony.reading.question import Question
from colony.reading.ranking import Rarity
from colony.stages.brief import BY_KIND, Part
from colony.stages.notes import Notes, Outcome, Produced, Studied
from colony_client.artifacts import Citation, Claim, Task, WorkerResult

MOST_CLAIMS = 4
ANSWER_CHARS = 1400
WORTH_ADDING, TO_THE_POINT = 3.0, 1.5  # how far below the first claim's score a further one may be
_ONE_ANSWER = ("default", "amount", "time", "choice")  # kinds of question that one fact settles
ENOUGH_TO_JOIN = 0.7  # of the first claim's confidence: what a further claim needs
ENOUGH_FOR_A_SECTION = 0.3  # a section asks for less than the whole goal
SPARE = 6  # further claims a section may choose from when others took its best


async def run(case: Case, notes: Notes) -> Produced:
    work = [(task.id, lambda task=task: _work(case, notes, task)) for task in notes.tasks]
    results = await case.each(work)
    notes.outcomes = {task.id: outcome for task, outcome in zip(notes.tasks, results, strict=True)}
    return Produced(
        [
            case.make(WorkerResult, task_id=task_id, claims=list(outcome.claims), not_found=list(outcome.not_found))
            for task_id, outcome in notes.outcomes.items()
        ]
    )


async def _work(case: Case, notes: Notes, task: Task) -> Outcome:
    question, studied = notes.formulations[task.id].question, notes.studied[task.id]
    outcome = await asyncio.to_thread(extract, task, question, studied, _most_claims(case))
    if case.model is None or not outcome.claims:
        return outcome
    from colony.stages.with_model import reworded

    return await reworded(case.model, task, studied)


def _most_claims(case: Case) -> int:
    asked = case.envelope.inputs.get("max_claims")
    return min(asked, 50) if isinstance(asked, int) and not isinstance(asked, bool) and asked > 0 else MOST_CLAIMS


def extract(task: Task, question: Question, studied: Studied, most_claims: int = MOST_CLAIMS) -> Outcome:
    """The claims that answer one task. Pure: the same windows give the same claims."""
    part = BY_KIND.get(task.kind)
    found = excerpts(question, studied.rare, studied.windows)
    if part:
        return _section(task, part, question, studied, found)
    verdict = judge(question, studied.rare, found)
    if not verdict.answered:
        lacking = f" (nothing was found about: {', '.join(verdict.missing[:6])})" if verdict.missing else ""
        return Outcome((), (f"{task.question[:1500]}{lacking}"[:2000],))
    enough = min(ENOUGH, verdict.confidence * ENOUGH_TO_JOIN)
    fitting = [one for one in found if judge(question, studied.rare, [one], enough).answered]
    within = TO_THE_POINT if question.kind in _ONE_ANSWER else WORTH_ADDING
    chosen = diverse(fitting, limit=most_claims, budget=ANSWER_CHARS, within=within)
    return Outcome(
        [claim_of(question, studied.rare, task.id, place, one) for place, one in enumerate(chosen, start=1)], (), chosen
    )


def _section(task: Task, part: Part, question: Question, studied: Studied, found: list[Excerpt]) -> Outcome:
    fitting = [one for one in found if part.cue is None or part.cue.search(one.prose)]
    good = [one for one in fitting if judge(question, studied.rare, [one], ENOUGH_FOR_A_SECTION).answered]
    chosen = diverse(good, limit=part.at_most + SPARE, budget=6_000, within=5.0, sameness=0.5)
    claims = [
        claim_of(question, studied.rare, task.id, place, one, part.title) for place, one in enumerate(chosen, start=1)
    ]
    return Outcome(claims, () if claims else (f"{part.title}: {question.text}"[:2000],), chosen)


def claim_of(
    question: Question, rare: Rarity, task_id: str, place: int, excerpt: Excerpt, section: str | None = None
) -> Claim:
    return Claim(
        id=f"{task_id}-c{place}",
        text=excerpt.text[:4000],
        section=section,
        citations=citations_of(excerpt),
        confidence=round(confidence(question, rare, excerpt), 3),
    )


def citations_of(excerpt: Excerpt) -> list[Citation]:
    """One citation for each run of units that stand together in the source."""
    found, units = excerpt.window.found, excerpt.window.units
    runs: list[list[int]] = []
    for at in excerpt.chosen:
        if runs and at == runs[-1][-1] + 1 and units[at].block == units[runs[-1][-1]].block:
            runs[-1].append(at)
        else:
            runs.append([at])
    citations = []
    for run_ in runs:
        start, end = units[run_[0]].start, units[run_[-1]].end
        quote = found.text[start:end]
        if quote:
            citations.append(cite(found.source, found.document, excerpt.window.byte_span(start, end)[0], quote))
    return citations
