"""How many connections a root holds when all is busy is what the pages say, and the manifests have room for it."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from app.batch import FEW, Batches
from app.http.serving import opened
from app.main import Root, public_app
from tests.world import World
from tests.world.checks import inspector

REPOSITORY = Path(__file__).parents[2]
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
BESIDE_THE_POOL = 13
OTHERS = {"worker": 18, "registrar": 12, "executor": 8}  # in all, as docs/deploying.md has them


def batches_of(one: Any, depth: int = 2) -> list[Batches[Any, Any]]:
    """Whatever is committed together in a process."""
    if isinstance(one, Batches):
        return [one]
    inside = vars(one).values() if depth and type(one).__module__.startswith("app.") else ()
    return [found for each in inside for found in batches_of(each, depth - 1)]


async def test_a_busy_root_holds_as_many_as_the_pages_say(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    running = list[Any]()

    async def never(connection: Any, _: Any) -> Any:
        running.append(connection)
        await asyncio.Event().wait()

    root, look = Root(world.settings()), await inspector(world)
    before = {row["pid"] for row in await look.fetch(SESSIONS)}
    async with opened(root, public_app(root)), AsyncExitStack() as busy:
        pending = []
        for batches in batches_of(root):
            monkeypatch.setattr(batches, "run", never)
            some = [SimpleNamespace(size=1, asks=[1], said=[1]) for _ in range(2 * FEW * batches.connections)]
            pending += [asyncio.ensure_future(batches.put(one)) for one in some]
        for database, size in ((root.database, root.settings.database_pool_size), (root.reader, 2)):
            for _ in range(size):
                session = await busy.enter_async_context(database.read())
                await session.scalar("SELECT 1")
        await root.watch.turn()
        async with asyncio.timeout(10):
            while not root.nudger.connected or len(running) < sum(one.connections for one in batches_of(root)):
                await asyncio.sleep(0.01)
        found = {row["pid"] for row in await look.fetch(SESSIONS)} - before
        assert len(found) == root.settings.database_pool_size + BESIDE_THE_POOL
    await asyncio.gather(*pending, return_exceptions=True)
    for page in ("docs/scaling.md", "docs/deploying.md"):
        assert f"`DATABASE_POOL_SIZE` and {BESIDE_THE_POOL} more" in (REPOSITORY / page).read_text()
    assert f"DATABASE_POOL_SIZE + {BESIDE_THE_POOL} connections" in manifest("root")


def manifest(name: str) -> str:
    return (REPOSITORY / "deploy/kubernetes" / f"{name}.yaml").read_text()


def test_the_manifests_have_room_for_all_of_them() -> None:
    """As many as may run, and one more of each while it is replaced."""
    [pool] = [
        one["data"]["DATABASE_POOL_SIZE"]
        for one in yaml.safe_load_all(manifest("settings"))
        if "DATABASE_POOL_SIZE" in one["data"]
    ]
    [most] = [
        one["spec"]["maxReplicas"]
        for one in yaml.safe_load_all(manifest("root"))
        if one["kind"] == "HorizontalPodAutoscaler"
    ]
    asked, replaced = most * (int(pool) + BESIDE_THE_POOL), int(pool) + BESIDE_THE_POOL
    for name, each in OTHERS.items():
        [replicas] = [
            one["spec"]["replicas"] for one in yaml.safe_load_all(manifest(name)) if one["kind"] == "Deployment"
        ]
        asked, replaced = asked + replicas * each, replaced + each
    page = (REPOSITORY / "docs/deploying.md").read_text()
    assert f"ask for {asked} with the default sizes, and for {replaced} more" in page
    [server] = [one for one in yaml.safe_load_all(manifest("postgres.example")) if one["kind"] == "Cluster"]
    assert asked + replaced < int(server["spec"]["postgresql"]["parameters"]["max_connections"])
