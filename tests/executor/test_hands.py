"""Whose work is in hand: a target that hangs holds up its own tenant, and nobody else."""

import asyncio
import time
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from app import executor, work
from app.work import Item
from tests.executor.field import approved_change
from tests.world import World
from tests.world.checks import inspector

MOST = executor.SHARE + executor.BATCH - 1  # of a tenant's in hand
ADD = """INSERT INTO work (tenant, kind, subject, queue, next_at)
         SELECT $1, 'execute', gen_random_uuid(), 'executor', now() - $3 * interval '1 s' FROM generate_series(1, $2)"""


class Target:
    """Stands for the targets of all tenants: those of some hang until they are let go."""

    def __init__(self, world: World, hanging: set[UUID]) -> None:
        self.executor, self.hanging = world.executor(), hanging
        self.go, self.done = asyncio.Event(), Counter[UUID]()
        self.busy, self.most = Counter[UUID](), Counter[UUID]()
        self.changed = asyncio.Event()

    async def handle(self, item: Item) -> None:
        self.busy[item.tenant] += 1
        self.most[item.tenant] = max(self.most[item.tenant], self.busy[item.tenant])
        self.changed.set()
        if item.tenant in self.hanging:
            await self.go.wait()
        await self.executor.finish(item, None)
        self.busy[item.tenant] -= 1
        self.done[item.tenant] += 1
        self.changed.set()

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self.changed.clear()
                await self.changed.wait()


async def test_targets_that_hang_hold_up_their_own_tenants_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = await inspector(world)
    hanging, well = [uuid4() for _ in range(3)], uuid4()
    for tenant in hanging:
        await connection.execute(ADD, tenant, 30, 60)  # due long before the other's
    await connection.execute(ADD, well, 30, 1)
    takes: list[list[Item]] = []
    take = work.take

    async def counted(*given: Any) -> list[Item]:
        takes.append(await take(*given))
        return takes[-1]

    monkeypatch.setattr(work, "take", counted)
    target = Target(world, {*hanging})
    running = asyncio.create_task(target.executor.loop("execute", target.handle))
    try:
        await target.until(lambda: target.done[well] == 30 and all(target.busy[one] for one in hanging))
        assert not any(target.done[one] for one in hanging)
        asked = len(takes)
        await asyncio.sleep(0.5)
        assert len(takes) - asked <= 2, (
            "of what is due, and whose tenants have enough in hand, nobody hears again and again"
        )
        target.go.set()
        await target.until(lambda: all(target.done[one] == 30 for one in hanging))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert all(executor.SHARE <= target.most[one] <= MOST for one in hanging), target.most
    assert max(len(one) for one in takes) <= executor.BATCH
    assert await connection.fetchval("SELECT count(*) FROM work WHERE kind = 'execute'") == 0


async def test_there_are_only_so_many_hands(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "HANDS", 10)
    connection = await inspector(world)
    tenants = [uuid4() for _ in range(5)]
    for tenant in tenants:
        await connection.execute(ADD, tenant, 4, 1)
    target = Target(world, {*tenants})
    running = asyncio.create_task(target.executor.loop("execute", target.handle))
    try:
        await target.until(lambda: target.busy.total() == 10)
        await asyncio.sleep(0.2)
        assert target.busy.total() == 10
        target.go.set()
        await target.until(lambda: target.done.total() == 20)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_hand_that_fails_is_free_again(world: World) -> None:
    connection = await inspector(world)
    tenant = uuid4()
    await connection.execute(ADD, tenant, 12, 1)
    seen = set[UUID]()
    all_of_them = asyncio.Event()
    made = world.executor()

    async def fails(item: Item) -> None:
        seen.add(item.subject)
        if len(seen) == 12:
            all_of_them.set()
        raise RuntimeError("as the test says")

    running = asyncio.create_task(made.loop("execute", fails))
    try:
        async with asyncio.timeout(20):
            await all_of_them.wait()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert not made.in_hand


async def test_an_item_whose_lease_runs_out_stays_in_its_hand(world: World) -> None:
    connection = await inspector(world)
    tenant = uuid4()
    await connection.execute(ADD, tenant, 1, 1)
    target = Target(world, {tenant})
    target.executor.lease = timedelta(milliseconds=100)
    taken = "SELECT fence FROM work WHERE tenant = $1"
    running = asyncio.create_task(target.executor.loop("execute", target.handle))
    try:
        async with asyncio.timeout(20):
            while await connection.fetchval(taken, tenant) < 4:  # it was taken again and again
                await asyncio.sleep(0.02)
        assert target.busy[tenant] == target.most[tenant] == 1
    finally:
        running.cancel()
        target.go.set()
        await asyncio.gather(running, *target.executor.in_hand, return_exceptions=True)


async def test_nothing_is_sent_when_the_lease_is_over(world: World) -> None:
    """An attempt that was slow to ask: somebody else may have it by then, or a human has said what became of it."""
    change = await approved_change(world)
    made = world.executor()
    item, claimed = await change.claim(made)
    assert 0 < claimed.until - time.monotonic() <= made.lease.total_seconds()
    assert await change.call(made, replace(claimed, until=time.monotonic())) is None
    assert await change.changes() == []
    assert (await change.run())["state"] == "succeeded"
    assert len(await change.changes()) == 1 and item.subject == change.id
