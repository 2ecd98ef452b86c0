"""One asks for all who want to know the same at the same moment."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)
Found = TypeVar("Found")


class Together(Generic[Name, Found]):
    """A question per name: who asks while it is being answered gets that answer."""

    def __init__(self) -> None:
        self.asking: dict[Name, asyncio.Task[Found]] = {}

    async def ask(self, name: Name, question: Callable[[], Awaitable[Found]]) -> Found:
        """Raises what the question raises, for everybody who waits for it."""
        task = self.asking.get(name)
        if task is None:
            task = self.asking[name] = asyncio.ensure_future(self._answer(name, question))
        return await asyncio.shield(task)  # who goes away takes the answer from nobody

    async def _answer(self, name: Name, question: Callable[[], Awaitable[Found]]) -> Found:
        try:
            return await question()
        finally:
            del self.asking[name]
