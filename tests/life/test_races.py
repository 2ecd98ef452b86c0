"""Two doors at once: each pair of things that can happen to one mission at the same moment, over separate connections."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import combinations
from typing import Any

import httpx
import pytest

from colony_client.errors import BoundaryError, Busy
from tests.life.test_walks import balanced
from tests.world import World
from tests.world.life import Life, due, in_state

# A door is first made ready, alone, and then walked through, at the same time as another one.
Ready = Callable[[], Awaitable[Any]]
Door = Callable[[Life], Awaitable[Ready]]


def work(kind: str) -> Door:
    async def ready(life: Life) -> Ready:
        await due(life.world, kind, life.id)
        return lambda: life.world.run_work(kind)

    return ready


def says(call: Callable[[Life], Awaitable[Any]]) -> Door:
    async def ready(life: Life) -> Ready:
        return lambda: call(life)

    return ready


def ends(verb: Any) -> Door:
    async def ready(life: Life) -> Ready:
        version = (await life.row())["version"]
        return lambda: life.world.operator.post(
            f"/v1/missions/{life.id}/{verb}", json={"reason": "now"}, headers={"If-Match": f'"v{version}"'}
        )

    return ready


def decides(verdict: Any) -> Door:
    async def ready(life: Life) -> Ready:
        [approval, *_] = await life.approvals()
        return lambda: life.decide(verdict, approval)

    return ready


def settles(state: str) -> Door:
    async def ready(life: Life) -> Ready:
        writeback = next(one["id"] for one in await life.writebacks() if one["state"] == "approved")
        claimed = await life.claim(writeback)
        connection = await life.world.connect("executor")
        return lambda: life.settle(claimed, writeback, state, connection)

    return ready


async def lease_lost(life: Life) -> Ready:
    await life.past("lease_until")
    return await work("attempt_timer")(life)


DOORS: dict[str, dict[str, Door]] = {
    "accepted": {"dispatch": work("dispatch"), "cancel": ends("cancel"), "fail": ends("fail")},
    "running": {
        "heartbeat": says(lambda life: life.world.colony.send(life.dispatch)),
        "complete": says(lambda life: life.signal("complete")),
        "escalate": says(lambda life: life.signal("escalate")),
        "lease": lease_lost,
        "cancel": ends("cancel"),
        "tool": says(lambda life: life.world.colony.tool(life.dispatch, "workspace.outline")),
        "tool denied": says(lambda life: life.world.colony.tool(life.dispatch, "crm.list", kind="lead")),
    },
    "in_review": {
        "review": work("review"),
        "late": says(lambda life: life.world.colony.send(life.dispatch)),
        "cancel": ends("cancel"),
    },
    "awaiting_approval": {
        "approve": decides("approve"),
        "reject": decides("reject"),
        "progress": work("progress"),
        "cancel": ends("cancel"),
        "fail": ends("fail"),
    },
    "executing": {
        "succeeded": settles("succeeded"),
        "failed": settles("failed"),
        "progress": work("progress"),
        "cancel": ends("cancel"),
    },
}


@pytest.mark.parametrize("state", DOORS)
async def test_two_doors_at_once_leave_the_books_balanced(world: World, state: str) -> None:
    for names in combinations(DOORS[state], 2):
        life = await in_state(world, state)
        version = int((await life.row())["version"])
        ready = [await DOORS[state][name](life) for name in names]
        answers = await asyncio.gather(*(walk() for walk in ready), return_exceptions=True)
        for name, answer in zip(names, answers, strict=True):
            assert not isinstance(answer, BaseException) or isinstance(answer, BoundaryError), (names, name, answer)
            assert not isinstance(answer, Busy), (names, name, answer)  # nobody had to give way: no deadlock
            assert not isinstance(answer, httpx.Response) or answer.status_code < 500, (names, name, answer.text)
        await world.run_work("ask", "review", "progress", "colony_cancel")
        await balanced(life, await life.state(), version)
