"""The executor's work row is lost by force: the worker's sweep finds out by looking, and the change is made all the same."""

import asyncio
import contextlib

from tests.executor.field import approved_change
from tests.world import World
from tests.world.checks import inspector

LEFT = "SELECT count(*) FROM work WHERE kind = 'execute' AND subject = $1"


async def swept(world: World, change_id: object) -> None:
    """The worker's own sweep, until the row is there."""
    connection = await inspector(world)
    sweep = asyncio.create_task(world.worker.sweep())
    try:
        async with asyncio.timeout(10):
            while not await connection.fetchval(LEFT, change_id):
                await asyncio.sleep(0.01)
    finally:
        sweep.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweep


async def test_work_that_was_lost_before_the_claim_comes_back(world: World) -> None:
    change = await approved_change(world)
    await (await inspector(world)).execute("DELETE FROM work WHERE subject = $1", change.id)
    assert await world.run_executor() == 0
    await swept(world, change.id)
    assert (await change.run())["state"] == "succeeded"
    assert len(await change.changes()) == 1


async def test_work_that_was_lost_with_an_executor_comes_back(world: World) -> None:
    change = await approved_change(world)
    await change.claim(world.executor())  # which then dies, and its row with it
    await (await inspector(world)).execute("DELETE FROM work WHERE subject = $1", change.id)
    await swept(world, change.id)
    seen = await change.run()
    assert (seen["state"], seen["attempts"]) == ("succeeded", 2)
    assert len(await change.changes()) == 1
