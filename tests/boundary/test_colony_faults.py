"""Whatever the colony does, a mission that nobody took waits as accepted, says why, and completes when it is over."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from app.clock import now
from colony_client.client import ColonyClient
from tests.boundary.faults import MANNERS, SLOW, BrokenColony, broken
from tests.world import World
from tests.world.checks import inspector
from tests.world.life import Life, begin, due, in_state, stuck


async def waits(life: Life, code: str, kept: bool) -> dict[str, Any]:
    """Checks that the mission waits for a colony, in every place where that is said."""
    shown = await life.world.mission(life.id)
    assert (shown["state"], shown["attempt"]) == ("accepted", 1), code
    degraded: dict[str, Any] = shown["degraded"]
    assert set(degraded) == {"code", "effect", "since"} and degraded["code"] == code
    assert degraded["effect"].endswith(".") and datetime.fromisoformat(degraded["since"]) <= now()
    assert [body for _, body in await life.facts("mission.degraded")] == [{"code": code}], "once, not at every attempt"
    quarantined = await life.quarantined()
    assert [origin for origin, _ in quarantined] == ["dispatch_answer"] * kept, (code, quarantined)
    stored = [body for _, body in await life.facts("payload.quarantined")]
    assert [body["origin"] for body in stored] == ["dispatch_answer"] * kept
    assert await stuck(life.world) == []
    return degraded


async def retry_in_s(life: Life) -> float:
    return float(
        await (await inspector(life.world)).fetchval(
            "SELECT extract(epoch FROM next_at - clock_timestamp()) FROM work WHERE kind = 'dispatch' AND subject = $1",
            life.id,
        )
    )


async def again(life: Life) -> None:
    await due(life.world, "dispatch", life.id)
    await life.take()


@pytest.mark.parametrize(("manners", "timeout_s"), [(set(MANNERS) - set(SLOW), 5), (set(SLOW), 0.2)])
async def test_every_fault_is_survived_said_and_over_when_it_is_over(
    world: World, manners: set[str], timeout_s: float
) -> None:
    async with broken(world, timeout_s) as colony:
        for manner in sorted(manners):
            code, kept = MANNERS[manner]
            colony.manner, colony.calls, world.worker.colony.component.failures = manner, [], 0
            life = await begin(world)
            await life.take()
            assert colony.calls == ["/v1/missions"], f"{manner}: a redirect was followed, or nothing was asked"
            await waits(life, code, kept)
            if manner in ("limited", "draining"):
                assert 60 < await retry_in_s(life) <= 70, manner
                assert world.worker.colony.component.failures == 0, "a busy colony is not a broken one"
            else:
                assert 0 < await retry_in_s(life) <= 30, manner
                assert world.worker.colony.component.failures == 1, manner
            await again(life)
            await waits(life, code, kept)  # the same bytes are kept once
            honest = world.worker.colony.client
            world.worker.colony.client = world.root.colony
            world.worker.colony.component.opened_at = None
            await again(life)
            world.worker.colony.client = honest
            await life.complete()
            await world.run_work()
            row = await life.row()
            assert (row["state"], row["degraded"], row["attempt"]) == ("completed", None, 1), manner


@pytest.mark.parametrize("listening", [False, True])
async def test_a_colony_that_is_not_there_or_hangs_up_is_waited_for(world: World, listening: bool) -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    if not listening:
        server.close()
        await server.wait_closed()
    life, honest = await begin(world), world.worker.colony.client
    async with ColonyClient(f"http://127.0.0.1:{port}", world.root.colony_keys, timeout_s=1) as client:
        world.worker.colony.client = client
        await life.take()
    server.close()
    await waits(life, "colony_unavailable", kept=False)
    world.worker.colony.client = honest
    await again(life)
    assert await life.state() == "dispatched"


@pytest.mark.parametrize("manner", ["babbles", "html_500"])
async def test_bytes_are_kept_as_they_came(world: World, manner: str) -> None:
    sent = {
        "babbles": b'{"contract_version": "1.0", "missions": [NaN}',
        "html_500": b"<html><h1>Internal Server Error</h1></html>",
    }
    async with broken(world) as colony:
        colony.manner = manner
        life = await begin(world)
        await life.take()
    assert await life.quarantined() == [("dispatch_answer", sent[manner])]


async def test_the_breaker_opens_after_three_failures_and_closes_with_the_first_success(world: World) -> None:
    component = world.worker.colony.component
    life = await begin(world)
    async with broken(world) as colony:
        colony.manner = "html_500"
        component.stays_open = timedelta(hours=1)
        for count in (1, 2, 3):
            assert component.retry_at() is None
            await again(life)
            assert len(colony.calls) == count
        assert component.state == "down"
        second = await begin(world)
        for waiting in (life, second):
            await again(waiting)
        assert len(colony.calls) == 3, "an open breaker asks nobody"
        await waits(second, "colony_unavailable", kept=False)
        assert 3500 < await retry_in_s(second) <= 3600, "the next trial is when the breaker lets it"

        component.stays_open = timedelta(0)  # its time is over: one trial, which fails, and it is open again
        await again(life)
        assert len(colony.calls) == 4
        component.stays_open = timedelta(hours=1)
        await again(life)
        assert len(colony.calls) == 4
    component.stays_open = timedelta(0)
    await again(life)
    await world.run_work("dispatch")
    assert await life.state() == "dispatched"
    assert (component.state, component.retry_at(), component.failures) == ("up", None, 0)
    await again(second)
    for one in (life, second):
        await one.complete()
    await world.run_work()
    assert [await one.state() for one in (life, second)] == ["completed", "completed"]


async def test_an_outage_is_one_fact_for_each_mission_however_often_they_take_turns(world: World) -> None:
    """What is wrong is said once, also to missions whose turn comes while the breaker is open."""
    world.worker.colony.component.stays_open = timedelta(hours=1)
    lives = [await begin(world) for _ in range(3)]
    async with broken(world) as colony:
        colony.manner = "unauthorized"
        for _ in range(4):
            for life in lives:
                await again(life)
            world.worker.colony.component.opened_at = None  # its time is over: the next one is the trial
        assert 3 < len(colony.calls) < 12, "some were tried and some waited"
    for life in lives:
        await waits(life, "colony_unauthorized", kept=False)


async def test_a_fault_in_the_middle_of_a_batch_loses_none_of_it(world: World) -> None:
    lives = [await begin(world) for _ in range(6)]
    async with broken(world) as colony:
        for colony.manner in ("truncates", "wrong_attempt", "html_500"):
            await world.make_due("dispatch")
            await world.run_work("dispatch", rounds=1)
    await world.make_due("dispatch")
    await world.run_work("dispatch")
    assert {one.mission_id for one in world.colony.dispatched} == {life.id for life in lives}
    assert {one.attempt for one in world.colony.dispatched} == {1}
    assert len(world.colony.dispatched) == len(lives)
    assert {await life.state() for life in lives} == {"dispatched"}


async def test_an_unreadable_status_counts_as_silence_and_its_bytes_are_kept(world: World) -> None:
    life = await in_state(world, "running")
    async with broken(world) as colony:
        colony.manner = "babbles"
        await life.lose_lease()
    assert await life.quarantined() == [("status_answer", b'{"contract_version": "1.0", "missions": [NaN}')]
    row = await life.row()
    assert (row["state"], row["attempt"]) == ("accepted", 2)


@pytest.mark.parametrize("manner", ["draining", "html_500", "truncates", "hangs"])
async def test_a_colony_that_cannot_be_told_of_a_cancel_is_told_later(world: World, manner: str) -> None:
    life = await in_state(world, "running")
    async with broken(world, 0.2 if manner in SLOW else 5) as colony:
        colony.manner = manner
        assert (await life.end("cancel")).status_code == 200
        await world.run_work("colony_cancel")
        assert colony.calls == [f"/v1/missions/{life.id}/cancel"]
    await due(world, "colony_cancel", life.id)
    await world.run_work("colony_cancel")
    assert world.colony.cancelled == [life.id]


def test_the_list_of_faults_is_the_colonys() -> None:
    manners = {name for name, value in vars(BrokenColony).items() if not name.startswith("_") and callable(value)}
    assert manners == set(MANNERS)
