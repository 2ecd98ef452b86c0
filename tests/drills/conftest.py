"""The root with its worker and executor running as they do in a deployment, and a tenant for drills."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from app import drills
from colony_client.signing import parse_keys
from tests.world import World

KEY = "one:drill-secret-of-the-tests"


class Doors(httpx.AsyncBaseTransport):
    """The root's two apps, each at its own host."""

    def __init__(self, world: World) -> None:
        self.apps = {"root.test": httpx.ASGITransport(world.public), "root": httpx.ASGITransport(world.internal)}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self.apps[request.url.host].handle_async_request(request)


async def prepared(world: World) -> None:
    await drills.prepare(world.url("registrar"), parse_keys(KEY, "DRILL_KEY"))


@pytest.fixture
async def drilled(world: World) -> AsyncIterator[World]:
    """The world with worker and executor running, and drills prepared. What is asked for is done."""
    await prepared(world)
    async with at_work(world):
        yield world


@asynccontextmanager
async def at_work(world: World) -> AsyncIterator[None]:
    """The worker, which has the drills' key, and the executor run meanwhile."""
    worker, settings = (
        world.worker,
        world.settings(drill_key=KEY, root_base_url="http://root.test", drill_interval_s=0),
    )
    await worker.drills.close()
    worker.drills = drills.Drills(settings, worker.database, worker.colony, Doors(world))
    executor = world.executor()
    running = [asyncio.create_task(worker.run()), asyncio.create_task(executor.run())]
    try:
        yield
    finally:
        worker.stopping.set()
        executor.stopping.set()
        await asyncio.gather(*running)
