"""Group commit: who comes when it has ended is told so, and who waits too long is counted."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import REGISTRY

from app import batch
from app.batch import Batches
from app.errors import Problem


class Connection:
    """As much of one as a batch needs."""

    def is_closed(self) -> bool:
        return False

    async def close(self, timeout: float) -> None:
        pass


async def connect() -> Any:
    return Connection()


async def itself(_: Any, items: Sequence[int]) -> Sequence[int]:
    return items


async def hangs(_: Any, items: Sequence[int]) -> Sequence[int]:
    await asyncio.Event().wait()
    return items


def made(run: Any = itself, **more: Any) -> Batches[int, int]:
    return Batches(connect, run, lambda _: 1, name="of a test", **more)


async def test_who_comes_after_the_end_is_told_so() -> None:
    batches = made()
    batches.start()
    async with asyncio.timeout(5):
        assert await batches.put(1) == 1
        await batches.stop()
        with pytest.raises(Problem) as told:
            await batches.put(2)
    assert told.value.code == "database_busy"


async def test_who_comes_while_it_ends_is_told_so() -> None:
    batches = made(hangs, connections=1)
    batches.start()
    riding = asyncio.create_task(batches.put(1))
    while not batches.riding:
        await asyncio.sleep(0)
    waiting = asyncio.create_task(batches.put(2))
    await asyncio.sleep(0)
    stopping = asyncio.create_task(batches.stop())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        late = asyncio.create_task(batches.put(3))
        told = await asyncio.gather(riding, waiting, late, return_exceptions=True)
        await stopping
    assert [one.code for one in told if isinstance(one, Problem)] == [
        "database_unavailable", "database_busy", "database_busy",
    ]  # fmt: skip


async def test_who_waits_too_long_is_counted_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MOST_PENDING", 2)

    def counted() -> float | None:
        return REGISTRY.get_sample_value("mission_root_pool_exhausted_total", {"pool": "of a test"})

    batches = made(hangs, connections=1, wait_ms=40)
    before = counted()
    assert before is not None, "it is there before anybody has waited"
    batches.start()
    riding = asyncio.create_task(batches.put(1))
    while not batches.riding:
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        told = await asyncio.gather(*(batches.put(n) for n in range(3)), return_exceptions=True)
    assert [one.code for one in told if isinstance(one, Problem)] == ["database_busy"] * 3
    assert counted() == before + 3
    await batches.stop()
    await asyncio.gather(riding, return_exceptions=True)
    assert counted() == before + 3, "the end of a process is no lack of connections"


async def test_what_counts_for_many_goes_with_fewer_others() -> None:
    ran: list[list[int]] = []

    async def noted(_: Any, items: Sequence[int]) -> Sequence[int]:
        ran.append(list(items))
        return items

    batches = made(noted, connections=1, weigh=lambda item: item)
    batches.start()
    async with asyncio.timeout(5):
        weights = [64, 40, 20, 5, 100, 1, 1]
        assert await asyncio.gather(*(batches.put(one) for one in weights)) == weights
        await batches.stop()
    assert ran == [[64], [40, 20], [5], [100], [1, 1]] and batches.riding == 0
