"""What callers hear while the database is away, slow, or out of connections; and that it heals by itself."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.boundary import EFFECTS
from app.migrate import head
from tests.conftest import Cluster
from tests.console.desk import seat
from tests.delivery.streams import SSE
from tests.http.proxy import Proxy
from tests.world import World
from tests.world.checks import census, inspector, problem

ASK = {"mission_type": "oracle_advisory", "user_goal": "What is there?"}


@pytest.fixture
async def proxy(cluster: Cluster) -> AsyncIterator[Proxy]:
    made = Proxy(cluster.admin_url)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def fragile(cluster: Cluster, database: str, proxy: Proxy) -> AsyncIterator[World]:
    """A world whose API reaches its database through the proxy; the test itself does not."""

    def url(role: str) -> str:
        direct = cluster.url(role, database)
        return proxy.through(direct) if role in ("api", "reader") else direct

    made = World(url)
    await made.open()
    yield made
    await made.close()


async def requests(world: World, mission: str) -> dict[str, Any]:
    """One of each kind of request: reads, writes, bodies, streams."""
    submitter, match = world.submitter, {"If-Match": '"v1"'}
    return {
        "read": submitter.get(f"/v1/missions/{mission}"),
        "list": submitter.get("/v1/missions"),
        "create": submitter.post("/v1/missions", json=ASK, headers={"Idempotency-Key": "k"}),
        "cancel": submitter.post(f"/v1/missions/{mission}/cancel", json={"reason": "x"}, headers=match),
        "stream": submitter.get("/v1/events", headers=SSE),
        "poll": submitter.get("/v1/events?wait=5"),
        "upload": submitter.put("/v1/workspaces/w/documents?path=a.md", content=b"# A\n"),
        "status": submitter.get("/v1/status"),
    }


async def healed(world: World, seconds: float = 5) -> None:
    """Waits until the process calls itself ready and a request works."""
    async with asyncio.timeout(seconds):
        while (await world.anybody.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.05)
    assert (await world.submitter.post("/v1/missions", json=ASK)).status_code == 202


async def test_while_the_database_is_away(fragile: World, proxy: Proxy) -> None:
    mission = (await fragile.create())["id"]
    before = await census(fragile)
    await proxy.cut()
    for _ in range(2):  # with connections that died in the pool, and with none
        for name, request in (await requests(fragile, mission)).items():
            began = time.monotonic()
            answer = await request
            problem(answer, "database_unavailable")
            assert time.monotonic() - began < 2, name
            assert answer.headers["retry-after"] == "2"
    assert (await fragile.anybody.get("/livez")).status_code == 200
    not_ready = await fragile.anybody.get("/readyz")
    assert (not_ready.status_code, not_ready.text, not_ready.headers["retry-after"]) == (503, "not ok\n", "1")
    assert await census(fragile) == before
    await proxy.open()
    await healed(fragile)


async def test_a_page_of_the_console_while_the_database_is_away(fragile: World, proxy: Proxy) -> None:
    desk = await seat(fragile)
    await proxy.cut()
    page = await desk.get("/console/missions?state=completed")
    assert page.status == 503 and page.answer.headers["content-type"].startswith("text/html")
    assert "The database does not answer." in page.text and page.answer.headers["request-id"] in page.text
    assert (
        page.answer.headers["refresh"] == page.answer.headers["retry-after"] == "2" and "by itself in 2 s" in page.text
    )
    sent = await desk.send({"action": "/console/logout", "fields": []})
    assert sent.status == 503 and "refresh" not in sent.answer.headers, "what was sent is not sent again by itself"
    await proxy.open()
    await healed(fragile)
    assert (await desk.get("/console/missions?state=completed")).status == 200


async def test_connections_that_died_in_the_pool(fragile: World, proxy: Proxy) -> None:
    await asyncio.gather(*(fragile.submitter.get("/v1/missions") for _ in range(8)))
    await proxy.cut()
    await proxy.open()
    answers = [await fragile.submitter.get("/v1/missions") for _ in range(3)]
    for answer in answers:
        if answer.status_code != 200:
            problem(answer, "database_unavailable")
    assert answers[-1].status_code == 200
    await healed(fragile)


async def test_connections_that_the_server_closes(world: World) -> None:
    """What a restart or a crash of Postgres does to a pool: refusals that say so, never a 500, and then it works."""
    connection = await inspector(world)
    for _ in range(8):
        await asyncio.gather(*(world.submitter.get("/v1/missions") for _ in range(8)))
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'mission-root api'"
        )
        for answer in await asyncio.gather(*(world.submitter.get("/v1/missions") for _ in range(8))):
            if answer.status_code != 200:
                problem(answer, "database_unavailable")
    await healed(world)


async def test_a_server_that_dies_in_the_middle_of_a_request(fragile: World, proxy: Proxy) -> None:
    for _ in range(3):
        proxy.choke()
        asked = [asyncio.create_task(fragile.submitter.post("/v1/missions", json=ASK)) for _ in range(3)]
        await asyncio.sleep(0.1)
        await proxy.cut()
        proxy.flowing.set()
        for answer in await asyncio.gather(*asked):
            problem(answer, "database_unavailable")
        await proxy.open()
    await healed(fragile)


async def test_a_database_that_does_not_answer(fragile: World, proxy: Proxy) -> None:
    """Readiness gives up in time, and liveness never asks."""
    proxy.choke()
    began = time.monotonic()
    assert (await fragile.anybody.get("/livez")).status_code == 200
    assert time.monotonic() - began < 0.5
    assert (await fragile.anybody.get("/readyz")).status_code == 503
    assert time.monotonic() - began < 4
    proxy.flowing.set()
    await healed(fragile)


async def test_when_every_connection_is_in_use(world: World) -> None:
    engine, size = world.root.database.engine, world.root.settings.database_pool_size
    async with AsyncExitStack() as stack:
        for _ in range(size):
            await stack.enter_async_context(engine.connect())
        began = time.monotonic()
        asked = [asyncio.create_task(world.submitter.post("/v1/missions", json=ASK)) for _ in range(20)]
        await asyncio.sleep(0.1)
        alive = time.monotonic()
        assert (await world.anybody.get("/livez")).status_code == 200
        assert time.monotonic() - alive < 0.5
        for answer in await asyncio.gather(*asked):
            problem(answer, "database_busy")
            assert answer.headers["retry-after"] == "1"
        assert time.monotonic() - began < 3
    assert (await census(world))["mission"] == 0
    assert (await world.submitter.post("/v1/missions", json=ASK)).status_code == 202


async def test_callers_that_hang_up_leave_nothing_behind(world: World) -> None:
    """Requests cancelled at any moment give their connection back, and have happened whole or not at all."""
    pool: Any = world.root.database.engine.pool
    # asyncpg tells the loop about each connection that is dropped while the server still talks; anyio would fail the test
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    for n in range(40):
        asked = asyncio.create_task(world.submitter.post("/v1/missions", json=ASK))
        await asyncio.sleep(n * 0.0007)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    async with asyncio.timeout(5):
        while pool.checkedout():
            await asyncio.sleep(0.01)
    stored = await census(world)
    assert stored["mission"] == stored["artifact"] == stored["policy_decision"] == stored["work"]
    assert (await world.submitter.post("/v1/missions", json=ASK)).status_code == 202


async def test_probes(world: World) -> None:
    for probe in ("/livez", "/healthz", "/startupz", "/readyz"):
        answer = await world.anybody.get(probe)
        assert (answer.status_code, answer.text, answer.headers["content-type"]) == (
            200,
            "ok\n",
            "text/plain; charset=utf-8",
        )
    connection = await inspector(world)
    await connection.execute("UPDATE migration SET version_num = 'another', fits = '{another}'")
    assert (await world.anybody.get("/readyz")).status_code == 503
    assert (await world.anybody.get("/livez")).status_code == 200
    await connection.execute("UPDATE migration SET version_num = $1::text, fits = ARRAY[$1::text]", head())
    assert (await world.anybody.get("/readyz")).status_code == 200
    await connection.execute("ALTER TABLE migration RENAME TO elsewhere")
    assert (await world.anybody.get("/readyz")).status_code == 503
    await connection.execute("ALTER TABLE elsewhere RENAME TO migration")
    world.public.state.draining = True
    assert (await world.anybody.get("/readyz")).status_code == 503
    world.public.state.draining, world.public.state.started = False, False
    assert (await world.anybody.get("/startupz")).status_code == 503
    assert (await world.anybody.get("/readyz")).status_code == 503
    world.public.state.started = True
    assert (await world.anybody.get("/readyz")).status_code == 200


async def test_the_colony_being_away_degrades_and_no_more(world: World) -> None:
    class Gone:
        timeout_s = 1.0

        async def ready(self, timeout_s: float) -> Any:
            from colony_client.errors import Unreachable

            raise Unreachable("nobody listens", before_body=True)

    world.public.state.colony = Gone()
    assert (await world.anybody.get("/readyz")).status_code == 200
    assert (await world.submitter.post("/v1/missions", json=ASK)).status_code == 202
    status = (await world.submitter.get("/v1/status")).json()
    assert status["status"] == "degraded"
    states = {one["name"]: (one["state"], one["effect"]) for one in status["components"]}
    assert states["database"] == ("up", None)
    assert states["colony"] == ("degraded", EFFECTS["colony_unavailable"])


async def test_metrics_name_routes_not_ids(world: World) -> None:
    from prometheus_client import generate_latest

    made = await world.create()
    await world.mission(made["id"])
    await world.submitter.get(f"/v1/nothing/{made['id']}")
    await world.colony.send(await world.dispatch())
    said = generate_latest().decode()
    assert 'handler="/v1/missions/{mission_id}"' in said
    assert 'handler="/internal/v1/missions/{mission_id}/events"' in said, "each app of the process is measured"
    assert made["id"] not in said
    assert 'mission_root_missions_total{mission_type="oracle_advisory",state="accepted"}' in said
    assert (await world.anybody.get("/metrics")).status_code == 404
