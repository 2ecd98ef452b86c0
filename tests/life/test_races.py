"""Two doors at once: each pair of things that can happen to one mission at the same moment, over separate connections."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import combinations
from typing import Any

import httpx
import pytest

from colony_client.errors import BoundaryError, Busy
from tests.life.test_walks import balanced, execute
from tests.world import World
from tests.world.life import Life, due, in_state

Door = Callable[[Life], Awaitable[Any]]


async def decide_first(life: Life, verdict: Any) -> Any:
    return await life.decide(verdict, (await life.approvals())[0])


async def ring(life: Life, kind: str) -> None:
    await due(life.world, kind, life.id)
    await life.world.run_work(kind)


DOORS: dict[str, dict[str, Door]] = {
    "accepted": {
        "dispatch": Life.take,
        "cancel": lambda life: life.end("cancel"),
        "fail": lambda life: life.end("fail"),
    },
    "running": {
        "heartbeat": lambda life: life.world.colony.send(life.dispatch),
        "complete": lambda life: life.signal("complete"),
        "escalate": lambda life: life.signal("escalate"),
        "lease": Life.lose_lease,
        "cancel": lambda life: life.end("cancel"),
        "tool": lambda life: life.world.colony.tool(life.dispatch, "workspace.outline"),
        "tool denied": lambda life: life.world.colony.tool(life.dispatch, "crm.list", kind="lead"),
    },
    "in_review": {
        "review": lambda life: ring(life, "review"),
        "late": lambda life: life.world.colony.send(life.dispatch),
        "cancel": lambda life: life.end("cancel"),
    },
    "awaiting_approval": {
        "approve": lambda life: decide_first(life, "approve"),
        "reject": lambda life: decide_first(life, "reject"),
        "progress": lambda life: ring(life, "progress"),
        "cancel": lambda life: life.end("cancel"),
        "fail": lambda life: life.end("fail"),
    },
    "executing": {
        "succeeded": lambda life: execute(life, "succeeded"),
        "failed": lambda life: execute(life, "failed"),
        "progress": lambda life: ring(life, "progress"),
        "cancel": lambda life: life.end("cancel"),
    },
}


@pytest.mark.parametrize("state", DOORS)
async def test_two_doors_at_once_leave_the_books_balanced(world: World, state: str) -> None:
    for names in combinations(DOORS[state], 2):
        life = await in_state(world, state)
        version = int((await life.row())["version"])
        answers = await asyncio.gather(*(DOORS[state][name](life) for name in names), return_exceptions=True)
        for name, answer in zip(names, answers, strict=True):
            expected = (BoundaryError, LookupError, AssertionError if name in ("succeeded", "failed") else BoundaryError)
            assert not isinstance(answer, BaseException) or isinstance(answer, expected), (names, name, answer)
            assert not isinstance(answer, Busy), (names, name, answer)  # nobody had to give way: no deadlock
            assert not isinstance(answer, httpx.Response) or answer.status_code < 500, (names, name, answer.text)
        await world.run_work("ask", "review", "progress", "colony_cancel")
        await balanced(life, state if state == "accepted" else await life.state(), version)
