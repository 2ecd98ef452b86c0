"""What the stages of one attempt share: the ask, the tools, the model if there is one, and how artifacts are made."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5

from colony import VERSION
from colony.tools import Tools
from colony_client.artifacts import ArtifactBase, Citation, MissionEnvelope, Producer, quote_sha256

Result = TypeVar("Result")
Made = TypeVar("Made", bound=ArtifactBase)


class Model(Protocol):
    """A language model: a system text and a user text in, a JSON object out. Raises ModelFailed."""

    name: str

    async def answer(self, instructions: str, question: str) -> dict[str, Any]: ...


class ModelFailed(Exception):
    """The model did not answer, or not with what was asked for."""


class TaskTimeout(Exception):
    """A task took longer than TASK_TIMEOUT_MS."""


@dataclass(frozen=True)
class Case:
    envelope: MissionEnvelope
    tools: Tools
    tell: Callable[..., None]  # (event class, fields): puts an event into the outbox
    workers: int = 4  # tasks worked on at once
    task_seconds: float = 60.0
    model: Model | None = None

    def make(self, kind: type[Made], **fields: Any) -> Made:
        """An artifact of this mission, with what every artifact carries filled in."""
        return kind(
            mission_id=self.envelope.mission_id,
            tenant_id=self.envelope.tenant_id,
            actor_id=self.envelope.actor_id,
            created_at=datetime.now(UTC),
            producer=Producer(name="reference-colony", version=VERSION),
            **fields,
        )

    async def in_time(self, name: str, work: Awaitable[Result]) -> Result:
        """Wait for the work on one task; TaskTimeout when it takes longer than a task may."""
        limit = asyncio.timeout(self.task_seconds)
        try:
            async with limit:
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
            raise TaskTimeout(f"{name} took longer than {self.task_seconds:g} s") from None

    async def each(self, work: Sequence[tuple[str, Callable[[], Awaitable[Result]]]]) -> list[Result]:
        """Work on named tasks, at most `workers` at once; the results in the order given."""
        places = asyncio.Semaphore(self.workers)

        async def one(name: str, start: Callable[[], Awaitable[Result]]) -> Result:
            async with places:
                return await self.in_time(name, start())

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(name, start)) for name, start in work]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None  # the group has ended the others; the first says why
        return [task.result() for task in tasks]

    def proposal_id(self, target: str) -> UUID:
        """The same mission proposes the same thing under the same id, also in its next attempt."""
        return uuid5(NAMESPACE_URL, f"mission:{self.envelope.mission_id}:{target}")


def cite(source: str, document: str, start: int, quote: str) -> Citation:
    """A citation of `quote`, which begins at byte `start` of the source."""
    held = quote.encode()
    return Citation(
        source=source,
        document=document,
        start=start,
        end=start + len(held),
        quote=quote,
        quote_sha256=quote_sha256(held),
    )
