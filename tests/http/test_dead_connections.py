"""Connections that died in their pools are replaced before anything is sent over them: nobody hears of it."""

import asyncio

import pytest

from tests.world import World
from tests.world.checks import inspector

KILL = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
          WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename LIKE 'mission\\_root\\_%'"""
THERE = """SELECT DISTINCT usename || ': ' || application_name FROM pg_stat_activity
           WHERE datname = current_database() AND usename LIKE 'mission\\_root\\_%'"""
ALL = {
    "mission_root_api: mission-root api",
    "mission_root_api: mission-root limits",
    "mission_root_api: mission-root nudger",
    "mission_root_reader: mission-root reader",
    "mission_root_registrar: mission-root registrar",
    "mission_root_registrar: mission-root limits",
    "mission_root_registrar: mission-root nudger",
}


async def all_there(world: World) -> None:
    """Whatever lost its connection has one again."""
    look = await inspector(world)
    async with asyncio.timeout(10):
        while not {row[0] for row in await look.fetch(THERE)} >= ALL:
            await asyncio.sleep(0.01)


async def test_after_the_server_was_away_the_first_request_works(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pool of both processes held connections: requests, rate limits, wake-ups, the reader and the registrar."""
    monkeypatch.setattr("app.nudge.RECONNECT_S", 0.05)
    await asyncio.gather(*(world.auditor.get("/v1/missions") for _ in range(4)))
    await asyncio.gather(*(world.admin.get("/v1/whoami") for _ in range(4)))
    pools = [world.root.database, world.registrar.database]
    async with world.root.tail.subscribed(await world.tenant(), None) as followed:
        for _ in range(3):
            await all_there(world)
            assert all(database.engine.pool.checkedin() for database in pools)  # type: ignore[attr-defined]
            assert await (await inspector(world)).fetchval(KILL) >= len(ALL)
            await asyncio.sleep(0.2)  # the sockets are closed by then
            for limits in (world.root.limits, world.registrar.limits):
                limits.leases.clear()
            *answers, made, ready = await asyncio.gather(
                *(world.auditor.get("/v1/missions") for _ in range(3)),
                *(world.admin.get("/v1/whoami") for _ in range(3)),
                world.submitter.post(
                    "/v1/missions", json={"mission_type": "oracle_advisory", "user_goal": "Still there?"}
                ),
                world.anybody.get("/readyz"),
            )
            codes = [answer.status_code for answer in (*answers, made, ready)]
            assert codes == [200] * 6 + [202, 200], [a.text for a in (*answers, made, ready)]
            async with asyncio.timeout(5):
                while not any(made.json()["id"].encode() in piece.events for piece in followed.take()):
                    await followed.news.wait()
                while not (world.root.nudger.connected and world.registrar.nudger.connected):
                    await asyncio.sleep(0.01)
