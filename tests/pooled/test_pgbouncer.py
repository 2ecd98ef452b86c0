"""DATABASE_POOLED: everything works through PgBouncer in transaction mode, where the next transaction is another server's."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.conftest import Cluster
from tests.executor.field import approved_change
from tests.pooled.pooler import SERVERS, PooledWorld, pooled_world
from tests.world.checks import inspector
from tests.world.life import Life

pytestmark = pytest.mark.pgbouncer
ASK = {"mission_type": "oracle_advisory", "user_goal": "What does the release still need?"}


@pytest.fixture
async def pooled(cluster: Cluster, database: str) -> AsyncIterator[PooledWorld]:
    async with pooled_world(cluster, database) as world:
        yield world


async def test_a_crowd_shares_few_servers_and_everything_is_kept(pooled: PooledWorld) -> None:
    asked = [
        pooled.submitter.post("/v1/missions", json=ASK, headers={"Idempotency-Key": f"k{n}"} if n % 2 else {})
        for n in range(60)
    ]
    looked = [pooled.operator.get("/v1/missions?limit=5") for _ in range(30)]
    answers = await asyncio.gather(*asked, *looked)
    assert [one.status_code for one in answers] == [202] * 60 + [200] * 30
    lives = [Life(pooled, one) for one in await missions(pooled)]
    assert len(lives) == 60
    while await pooled.run_work("dispatch"):
        pass
    await asyncio.gather(*(life.signal("complete") for life in lives))
    await pooled.run_work("review")
    assert {await life.state() for life in lives} == {"completed"}
    assert (await pooled.auditor.post("/v1/ledger/verify")).json()["verified"] is True
    found = await pooled.servers()
    assert {"api", "worker"} <= set(found) and max(found.values()) <= SERVERS


async def missions(world: PooledWorld) -> list[object]:
    return [row["id"] for row in await (await inspector(world)).fetch("SELECT id FROM mission ORDER BY created_at")]


async def test_a_change_is_approved_executed_and_read_back(pooled: PooledWorld) -> None:
    change = await approved_change(pooled)
    seen = await change.run()
    assert (seen["state"], seen["attempts"]) == ("succeeded", 1)
    assert seen["read_back_sha256"] == seen["payload_sha256"]
    assert len(await change.changes()) == 1


async def test_news_come_around_the_pooler(pooled: PooledWorld) -> None:
    """LISTEN has a connection of its own to PostgreSQL: whoever waits hears of a commit at once, and not at the next look."""
    made = await pooled.create()
    page = (await pooled.submitter.get(f"/v1/missions/{made['id']}/events")).json()
    assert pooled.root.nudger.connected
    with pooled.root.nudger.listening("work_worker") as heard:
        connection = await pooled.connect("worker")
        await connection.execute("NOTIFY work_worker")
        async with asyncio.timeout(5):
            await heard.wait()
    following = {"cursor": page["next_cursor"], "wait": 30}
    waiting = asyncio.create_task(pooled.submitter.get(f"/v1/missions/{made['id']}/events", params=following))
    await pooled.run_work("dispatch")
    async with asyncio.timeout(10):
        assert [fact["type"] for fact in (await waiting).json()["items"]] == ["mission.dispatched"]


async def test_a_pooler_that_dies_and_comes_back_is_an_outage_and_no_more(pooled: PooledWorld) -> None:
    await pooled.create()
    pooled.pooler.kill()
    answer = await pooled.submitter.post("/v1/missions", json=ASK)
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert (await pooled.anybody.get("/readyz")).status_code == 503
    pooled.pooler.start()
    assert (await pooled.anybody.get("/readyz")).status_code == 200
    await pooled.create()
    assert len(await missions(pooled)) == 2
