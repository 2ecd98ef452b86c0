"""Events of many missions on their way to the root: what waits while calls are on their way goes together in the next one.

There is no timer: a batch that finds room leaves at once and by itself, so a lone colony's mission waits for nobody.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from colony_client.contract import MAX_MISSIONS_PER_CALL, EventBatch, EventReceipt
from colony_client.errors import TimedOut, Unreachable

log = structlog.get_logger()

AT_ONCE = 4  # calls on their way
MOST_BYTES = 2_000_000  # that go together; what one mission says may be more


@dataclass
class Words:
    """What is said of one mission. token: the newest when it was said; answer: is set when somebody waits for it here."""

    mission_id: UUID
    attempt: int
    batch: EventBatch
    token: str
    size: int = 0
    answer: "asyncio.Future[EventReceipt]" = field(init=False, repr=False)


Alone = Callable[[Words], Awaitable[EventReceipt]]
Many = Callable[[Sequence[Words]], Awaitable[Sequence[EventReceipt | Exception | None]]]


class Together:
    """alone sends one and raises what it is refused with; many sends several, and answers for each a receipt or its error,
    or nothing when it has to be sent alone.

    patience_s: nobody waits longer.
    """

    def __init__(self, alone: Alone, many: Many, patience_s: float) -> None:
        self.alone, self.many, self.patience_s = alone, many, patience_s
        self.waiting: deque[Words] = deque()
        self.under_way = 0
        self.tasks: dict[asyncio.Task[None], list[Words]] = {}
        self.closed = False

    async def put(self, words: Words) -> EventReceipt:
        if self.closed:
            raise closed()
        if self.under_way < AT_ONCE and not self.waiting:
            self.under_way += 1
            try:
                return await self.alone(words)
            finally:
                self._room()
        words.size = len(words.batch.model_dump_json().encode())
        words.answer = asyncio.get_running_loop().create_future()
        self.waiting.append(words)
        try:
            async with asyncio.timeout(self.patience_s):
                return await words.answer
        except TimeoutError:
            raise TimedOut(f"no answer within {self.patience_s:.3g} s") from None

    async def close(self) -> None:
        self.closed = True
        for task in self.tasks:
            task.cancel()
        tell(self.waiting, closed())
        self.waiting.clear()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _room(self) -> None:
        """A call has come back: those who wait go now."""
        self.under_way -= 1
        while self.under_way < AT_ONCE and (together := self._cut()):
            self.under_way += 1
            # in nobody's trace: they are of many
            task = asyncio.create_task(self._send(together), context=contextvars.Context())
            self.tasks[task] = together
            task.add_done_callback(self._back)

    def _back(self, task: asyncio.Task[None]) -> None:
        """Not the end of `_send`: what is cancelled before its first step has none."""
        tell(self.tasks.pop(task), closed())  # only when it was cancelled is anybody left
        self._room()

    def _cut(self) -> list[Words]:
        """The oldest of those who wait, each mission once."""
        together: dict[UUID, Words] = {}
        later: list[Words] = []
        room = MOST_BYTES
        while self.waiting and len(together) < MAX_MISSIONS_PER_CALL:
            one = self.waiting.popleft()
            if one.answer.done():  # whoever said it waits no longer
                continue
            if one.mission_id in together:
                later.append(one)
                continue
            room -= one.size
            if together and room < 0:
                later.append(one)
                break
            together[one.mission_id] = one
        self.waiting.extendleft(reversed(later))
        return list(together.values())

    async def _send(self, together: list[Words]) -> None:
        """One call for all, then one for each whom it leaves without an answer."""
        if len(together) > 1:
            try:
                for one, answer in zip(together, await self.many(together), strict=True):
                    if answer is not None:
                        tell([one], answer)
            except Exception as mistake:  # ours, so nobody else's loss: what was taken already may be sent again
                log.error("a call for many missions failed; each goes alone", missions=len(together), exc_info=mistake)
        for one in together:
            if one.answer.done():  # or whoever said it waits no longer
                continue
            try:
                tell([one], await self.alone(one))
            except Exception as error:
                tell([one], error)


def tell(words: Iterable[Words], answer: EventReceipt | Exception) -> None:
    for one in words:
        if one.answer.done():
            continue
        if isinstance(answer, Exception):
            one.answer.set_exception(answer)
        else:
            one.answer.set_result(answer)


def closed() -> Unreachable:
    return Unreachable("this client was closed", before_body=False)
