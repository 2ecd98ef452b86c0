"""Prompt master: each task becomes something that can be looked for, and instructions for whoever works on it."""

from colony.case import Case
from colony.reading.question import Question, analyse
from colony.stages.brief import BY_KIND
from colony.stages.notes import Formulation, Notes, Produced
from colony_client.artifacts import Prompt, PromptPackage, Task

MOST_QUERIES = 10
MOST_PROBES = 16

_INSTRUCTIONS = (
    "Answer from the passages only. Every claim quotes the words it rests on, byte for byte. "
    "When the passages do not hold the answer, say so and claim nothing."
)


async def run(case: Case, notes: Notes) -> Produced:
    notes.formulations = {task.id: formulate(task) for task in notes.tasks}
    prompts = [_prompt(task, notes.formulations[task.id]) for task in notes.tasks]
    return Produced([case.make(PromptPackage, prompts=prompts)])


def formulate(task: Task) -> Formulation:
    part = BY_KIND.get(task.kind)
    question = analyse(task.question.partition(": ")[2] if part else task.question)
    queries = queries_for(question)
    if part and part.words:
        subjects = " ".join(term.surface for term in question.subjects)
        queries = [f"{subjects} {word}" for word in part.words.split()] + queries
    probes = sorted(question.terms, key=lambda term: -term.weight)[:MOST_PROBES]
    unique = tuple(dict.fromkeys(query for query in queries if query.strip()))
    return Formulation(question, unique[:MOST_QUERIES], tuple((term.key, term.surface) for term in probes))


def queries_for(question: Question) -> list[str]:
    """The same question in several ways, since nobody knows which words the documents use."""
    surface = {term.key: term.surface for term in question.terms}
    subjects = question.subjects or question.terms
    words = [term.surface for term in subjects]
    queries = [" ".join(surface.values()), " ".join(words)]
    queries += [" ".join(term.surface for term in question.terms if term.firm)]
    if question.kind == "default":
        queries.append(" ".join(["default", *words]))
    queries += [f"{surface[left]} {surface[right]}" for left, right in question.pairs]
    others = [other for term in subjects for other in term.alternatives[:4]]
    queries += [" ".join(words + others)] if others else []
    queries += [" ".join(term.parts) for term in question.terms if term.parts]
    return queries


def _prompt(task: Task, formulation: Formulation) -> Prompt:
    return Prompt(
        task_id=task.id,
        role="researcher",
        instructions=f"{_INSTRUCTIONS}\n\n{task.title}: {formulation.question.text}"[:20_000],
        terms=[term.surface[:200] for term in formulation.question.terms][:200],
    )
