"""Workers and executors that are told to stop: what is in hand is waited for together, and for no longer than it may take."""

import asyncio
import contextlib
from collections.abc import Collection
from typing import Any

import pytest
from structlog.testing import capture_logs

from app import process
from app.executor import Executor
from app.worker import Worker
from tests.boundary.faults import broken
from tests.world import World
from tests.world.life import begin

HURRY = 50


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seconds that are waited for what is in hand are fiftieths."""
    finished = process.finished

    async def soon(in_hand: Collection[asyncio.Future[Any]], within_s: float = process.DRAIN_S) -> bool:
        return await finished(in_hand, within_s / HURRY)

    monkeypatch.setattr(process, "finished", soon)


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_what_is_in_hand_is_cancelled_with_the_wait_for_it() -> None:
    """A loop that is late runs two timers in one turn, and the outer one may come first."""
    inner = asyncio.ensure_future(for_ever())
    waiting = asyncio.ensure_future(process.finished([inner], 3600))
    async with asyncio.timeout(10):
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, inner, return_exceptions=True)
    assert waiting.cancelled() and inner.cancelled()


@pytest.mark.parametrize("twice", [False, True])
async def test_a_review_is_let_go_even_when_other_work_is_late(world: World, twice: bool) -> None:
    """Whatever is left in hand would go on without its database. twice: the wait for it is itself cut short."""
    await begin(world)
    async with broken(world, "hangs", timeout_s=30) as colony:
        review = asyncio.ensure_future(for_ever())
        world.worker.looking.add(review)
        working = asyncio.create_task(world.worker.take_up())
        async with asyncio.timeout(10):
            while not colony.calls:
                await asyncio.sleep(0.01)
            working.cancel()
            if twice:
                await asyncio.sleep(0)
                working.cancel()
            await asyncio.gather(working, review, return_exceptions=True)
    assert review.cancelled()


async def test_a_receiver_that_is_silent_does_not_hold_up_the_end(world: World) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        asked.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        left.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    assert (await world.admin.post("/v1/webhooks", json={"url": url})).status_code == 201
    worker = Worker(world.settings())
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(10):
        await world.create()
        await asked.wait()
    worker.stopping.set()
    try:
        async with asyncio.timeout(3):  # of the fifteen seconds that one try may take
            await running
            await left.wait()
    finally:
        server.close()
    assert worker.courier is not None and not worker.courier.sending


async def test_what_cannot_be_closed_does_not_hold_up_the_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(world.settings())
    for one in (worker.tools, worker.drills):
        monkeypatch.setattr(one, "stop" if one is worker.tools else "close", for_ever)
    worker.stopping.set()
    async with asyncio.timeout(10):
        await worker.run()


async def test_an_executor_says_how_much_it_leaves(world: World) -> None:
    executor = Executor(world.settings(executor_database_url=world.url("executor")))
    executor.in_hand |= {asyncio.ensure_future(for_ever())}
    executor.stopping.set()
    with capture_logs() as logs:
        await executor.run()
    assert [one["items"] for one in logs if "left to the next executor" in one["event"]] == [1]
