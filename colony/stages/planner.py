"""Planner: the goal becomes tasks, one for each question in it, or one for each section of a brief."""

from colony.case import Case
from colony.reading.question import split_questions
from colony.stages.brief import PARTS, subject_of
from colony.stages.notes import Notes, Produced
from colony_client.artifacts import MAX_GOAL, MissionTaskGraph, Task


async def run(case: Case, notes: Notes) -> Produced:
    notes.tasks = plan(case.envelope.normalized_goal, case.envelope.mission_type)
    return Produced([case.make(MissionTaskGraph, tasks=list(notes.tasks))])


def plan(goal: str, mission_type: str) -> list[Task]:
    """Tasks in the order they are answered. Parts that speak of "it" depend on the part before them."""
    if mission_type == "catalyst_strategy_brief":
        subject = subject_of(goal)
        return [
            Task(id=part.kind, kind=part.kind, title=part.title, question=f"{part.asks}: {subject}"[:MAX_GOAL])
            for part in PARTS
        ]
    questions = split_questions(goal)
    return [
        Task(
            id=f"q{place}",
            kind="question",
            title=question[:200],
            question=question[:MAX_GOAL],
            depends_on=[f"q{place - 1}"] if place > 1 and question.endswith(")?") else [],
        )
        for place, question in enumerate(questions, start=1)
    ]
