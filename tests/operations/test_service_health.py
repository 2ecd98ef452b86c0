"""How an operator and a machine see that the service is well: status, components, probes, and missions that are stuck."""

import asyncio
import time
from datetime import datetime
from typing import Any

import httpx
import pytest

from app.boundary import EFFECTS
from app.clock import now
from app.http.serving import opened
from app.main import Root, public_app
from colony_client.client import ColonyClient
from tests.boundary.faults import broken
from tests.world import World
from tests.world.checks import inspector, problem
from tests.world.life import begin, reconcile, stuck


async def status(world: World, who: str = "auditor") -> dict[str, Any]:
    answer = await getattr(world, who).get("/v1/status")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def component(found: dict[str, Any], name: str) -> dict[str, Any]:
    [one] = [one for one in found["components"] if one["name"] == name]
    return dict(one)


# --- status


OFF = {
    "anchors": "ANCHOR_STORE is not set",
    "artifacts": "ARTIFACT_STORE is not set: all bytes are kept in the database",
    "object_store": "ANCHOR_STORE is not set",
    "bus": "no worker has a BUS_URL",
}
NAMES = {"database", "colony", "registrar", "worker", "executor", "approvals", *OFF}


async def test_status_of_a_healthy_service(world: World) -> None:
    found = await status(world)
    assert (found["environment"], found["status"], found["violators"]) == ("local", "ok", [])
    assert {one["name"] for one in found["components"]} == NAMES
    assert component(found, "worker")["state"] == "unknown" and found["liveness"] is None, "nobody has looked yet"
    await reconcile(world)
    found = await status(world)
    assert (found["liveness"]["missions"], found["liveness"]["found"]) == (0, 0) and found["liveness"]["age_s"] < 5
    for one in found["components"]:
        if one["name"] in OFF:  # this world has neither
            assert (one["state"], one["detail"]) == ("off", OFF[one["name"]])
            continue
        assert (one["state"], one["effect"], one["detail"]) == ("up", None, None)
        assert datetime.fromisoformat(one["since"]) <= now()
    again = await status(world)
    assert [one["since"] for one in again["components"]] == [one["since"] for one in found["components"]]


@pytest.mark.parametrize("manner", ["html_500", "unauthorized_401", "no_json", "not_ready_503"])
async def test_a_colony_that_is_down_degrades_the_status_and_nothing_else(world: World, manner: str) -> None:
    honest = world.public.state.colony
    async with broken(world) as colony:
        colony.manner = manner
        world.public.state.colony = world.worker.colony.client
        for failures, state in ((1, "degraded"), (2, "degraded"), (3, "down")):
            found = await status(world)
            said = component(found, "colony")
            assert (found["status"], said["state"]) == ("degraded", state), failures
            assert said["effect"] == EFFECTS["colony_unavailable"] and said["detail"]
            assert component(found, "database")["state"] == "up"
        assert (await world.anybody.get("/readyz")).status_code == 200, "the colony is not the root"
        life = await begin(world)
        assert await life.state() == "accepted"
    world.public.state.colony = honest
    found = await status(world)
    assert (found["status"], component(found, "colony")["state"]) == ("ok", "up")


async def test_a_colony_that_is_switched_off_says_so_and_no_mission_is_accepted(world: World) -> None:
    world.public.state.settings = world.settings(colony_enabled=False)
    found = await status(world)
    assert component(found, "colony")["detail"] == "COLONY_ENABLED is false"
    answer = await world.submitter.post("/v1/missions", json={"mission_type": "oracle_advisory", "user_goal": "Now?"})
    problem(answer, "colony_disabled")


async def test_the_status_is_for_those_who_may_read_it(world: World) -> None:
    problem(await world.anybody.get("/v1/status"), "unauthenticated")
    for who in ("submitter", "operator", "auditor", "admin"):
        assert (await status(world, who))["status"] == "ok"


class Gate(httpx.AsyncBaseTransport):
    """The way to the colony; the first who comes waits there until it is opened."""

    def __init__(self, colony: Any) -> None:
        self.behind = httpx.ASGITransport(colony)
        self.come, self.opened = asyncio.Event(), asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not self.come.is_set():
            self.come.set()
            await self.opened.wait()
        return await self.behind.handle_async_request(request)


async def test_two_tenants_who_ask_at_once_are_each_told_their_own(world: World) -> None:
    for _ in range(2):
        await begin(world)
    await reconcile(world)
    await world.another_tenant()
    for name in ("worker", "executor"):
        assert component(await status(world), name)["state"] == "up"
    gate = Gate(world.colony.app)
    world.public.state.colony = ColonyClient("http://colony", world.root.colony_keys, transport=gate)
    own = asyncio.create_task(status(world))
    await gate.come.wait()  # its numbers are counted, and it asks the colony
    theirs = await status(world, "other")
    gate.opened.set()
    mine = await own
    assert component(mine, "worker")["queued"] == component(mine, "colony")["queued"] == {"missions": 2}
    assert [one["name"] for one in theirs["components"] if one["queued"]] == []
    assert component(theirs, "worker")["state"] == "unknown", "nobody has looked at their missions yet"


# --- stuck missions: what is done about them is in test_liveness.py


REMOVE_WORK = "DELETE FROM work WHERE subject = $1 OR subject IN (SELECT id FROM writeback WHERE mission = $1)"


async def test_a_moment_between_two_steps_is_not_yet_stuck(world: World) -> None:
    life = await begin(world)
    await (await inspector(world)).execute(REMOVE_WORK, life.id)
    assert await stuck(world) == [f"{life.id} is accepted"]
    await reconcile(world)
    assert (await status(world))["violators"] == []


# --- probes


PROBES = ("/livez", "/healthz", "/readyz", "/startupz")


async def test_probes_are_open_and_say_nothing_more(world: World) -> None:
    for path in PROBES:
        answer = await world.anybody.get(path)
        assert (answer.status_code, answer.text, answer.headers["content-type"]) == (
            200,
            "ok\n",
            "text/plain; charset=utf-8",
        )


async def test_a_process_without_its_database_is_alive_and_not_ready(world: World) -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    nowhere = f"postgresql://nobody:nothing@127.0.0.1:{port}/none"
    root = Root(world.settings(database_url=nowhere, reader_database_url=nowhere))
    app = public_app(root)
    async with opened(root, app):
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://root.test"
        )
        since = time.monotonic()
        not_there = await client.get("/readyz")
        assert time.monotonic() - since < 5
        assert (not_there.status_code, not_there.text) == (503, "not ok\n") and int(
            not_there.headers["retry-after"]
        ) >= 1
        for path in ("/livez", "/healthz", "/startupz"):
            assert (await client.get(path)).status_code == 200
        answer = await client.get("/v1/missions", headers={"Authorization": f"Bearer {world.people['submitter'].key}"})
        problem(answer, "database_unavailable")
        assert "nothing" not in answer.text and str(port) not in answer.text


async def test_a_process_with_another_schema_is_not_ready(world: World) -> None:
    connection = await inspector(world)
    head = await connection.fetchval("SELECT version_num FROM migration")
    await connection.execute("UPDATE migration SET version_num = 'older', fits = '{older}'")
    assert (await world.anybody.get("/readyz")).status_code == 503
    assert (await world.anybody.get("/livez")).status_code == 200
    assert component(await status(world), "database")["state"] == "degraded"
    await connection.execute("UPDATE migration SET version_num = $1::text, fits = ARRAY[$1::text]", head)
    assert (await world.anybody.get("/readyz")).status_code == 200


async def test_a_process_that_drains_gets_no_more_traffic(world: World) -> None:
    world.public.state.draining = True
    assert (await world.anybody.get("/readyz")).status_code == 503
    assert (await world.anybody.get("/livez")).status_code == 200


async def test_a_process_that_has_not_started_says_so(world: World) -> None:
    root = Root(world.settings())
    app = public_app(root)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://root.test")
    assert [(await client.get(path)).status_code for path in PROBES] == [200, 200, 503, 503]
    async with opened(root, app):
        assert [(await client.get(path)).status_code for path in PROBES] == [200] * 4
    assert [(await client.get(path)).status_code for path in ("/livez", "/readyz")] == [200, 503]


async def test_a_colony_that_hangs_holds_up_neither_probes_nor_requests(world: World) -> None:
    """More status pages than there are connections wait for the colony, and none of them keeps one."""
    async with broken(world, 30) as colony:
        colony.manner = "hangs"
        world.public.state.colony = world.worker.colony.client
        since = time.monotonic()
        waiting = [
            asyncio.create_task(world.auditor.get("/v1/status"))
            for _ in range(world.root.settings.database_pool_size + 1)
        ]
        while len(colony.calls) < len(waiting) and not any(task.done() for task in waiting):
            await asyncio.sleep(0.01)
        assert (await world.anybody.get("/readyz")).status_code == 200
        assert (await world.auditor.get("/v1/missions")).status_code == 200
        assert not any(task.done() for task in waiting)
        answers = await asyncio.gather(*waiting)
        assert {answer.status_code for answer in answers} == {200}
        assert time.monotonic() - since < 15, "a status page that hangs with the colony tells nobody anything"
        assert {component(answer.json(), "colony")["state"] for answer in answers} <= {"degraded", "down"}
