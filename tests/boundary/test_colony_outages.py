"""Outages of the colony, one by one: what is kept, who waits how long, and what nobody does twice."""

import asyncio
import importlib
from datetime import timedelta

import pytest

from app import work
from app.boundary import quarantine
from app.clock import now
from app.worker import Worker
from tests.boundary.faults import broken
from tests.boundary.outage import again, origins, retry_in_s, says, waits
from tests.world import World
from tests.world.checks import inspector
from tests.world.life import begin, due, in_state, under_way

dispatch = importlib.import_module("app.boundary.dispatch")  # the room's door has a verb of this name


@pytest.mark.parametrize("manner", ["no_json", "html_500"])
async def test_bytes_are_kept_as_they_came(world: World, manner: str) -> None:
    sent = {
        "no_json": b'{"contract_version": "1.0", "missions": [NaN}',
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
        await waits(second, "colony_unavailable")
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
        colony.manner = "unauthorized_401"
        for _ in range(4):
            for life in lives:
                await again(life)
            world.worker.colony.component.opened_at = None  # its time is over: the next one is the trial
        assert 3 < len(colony.calls) < 12, "some were tried and some waited"
    for life in lives:
        await waits(life, "colony_unauthorized")


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


async def test_each_mission_of_a_call_in_vain_waits_by_its_own_attempts(world: World) -> None:
    """Who has failed for long is offered beside who comes for the first time, and puts that one off no longer than it has to be."""
    old, new = await begin(world), await begin(world)
    await (await inspector(world)).execute(
        "UPDATE work SET attempts = 6 WHERE kind = 'dispatch' AND subject = $1", old.id
    )
    async with broken(world) as colony:
        colony.manner = "html_500"
        await world.run_work("dispatch", rounds=1)
        assert len(colony.calls) == 1
    assert 20 < await retry_in_s(old) <= 30
    assert await retry_in_s(new) <= 0.5


async def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_ones(world: World) -> None:
    first, second = await begin(world), await begin(world)
    async with broken(world, "answers_everything_twice") as colony:
        await due(world, "dispatch", first.id)
        await world.run_work("dispatch")
        assert {await first.state(), await second.state()} == {"dispatched"}
        third = await begin(world)
        await third.take()
        await waits(third, "colony_malformed")
        assert len(colony.calls) == 2
        await again(third)  # over a connection of its own
        assert await third.state() == "dispatched"


async def test_whoever_makes_the_same_mistake_in_other_words_fills_no_disk(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "MOST_KEPT", 4)
    life = await begin(world)
    async with broken(world, "another_page_each_time") as colony:
        for _ in range(6):
            await again(life)
        assert len(colony.calls) == 6
        assert await origins(life) == ["dispatch_answer"] * 4
        monkeypatch.setattr(quarantine, "MOST_KEPT_BYTES", 20)
        other = await begin(world)
        for _ in range(3):
            await again(other)
        assert await other.quarantined() == [("dispatch_answer", b"<p>Incident 7</p>")]


async def test_a_colony_that_is_too_busy_to_say_keeps_its_attempt(world: World) -> None:
    """Another attempt would add to what it has to do. When it answers again, nothing is left of it."""
    life = await in_state(world, "running")
    async with broken(world, "limited_429"):
        await life.lose_lease()
    row = await life.row()
    assert (row["state"], row["attempt"]) == ("running", 1)
    await says(life, "colony_busy")
    world.colony.statuses[life.id] = {"mission_id": str(life.id), "attempt": 1, "state": "running"}
    await due(world, "attempt_timer", life.id)
    await world.run_work("attempt_timer")
    row = await life.row()
    assert (row["state"], row["degraded"]) == ("running", None) and row["lease_until"] > now()


async def test_a_used_up_budget_stays_what_is_said_of_a_mission_that_falls_silent(world: World) -> None:
    life = await under_way(world, budget={"tokens": 1})
    await life.say({"type": "usage.reported", "tokens_in": 2, "tokens_out": 0, "cost_usd": 0})
    async with broken(world, "limited_429"):
        await life.lose_lease()
    assert (await world.mission(life.id))["degraded"]["code"] == "budget_exhausted"
    assert await life.facts("mission.degraded") == []


async def test_an_attempt_is_not_offered_by_two_workers_at_one_time_however_long_the_colony_hangs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several calls in turn, each of which hangs, last longer than the lease on the work."""
    monkeypatch.setattr(dispatch, "MAX_MISSIONS_PER_DISPATCH", 1)
    lives = [await begin(world) for _ in range(4)]
    other = Worker(world.worker.settings)
    workers = [world.worker, other]
    async with broken(world, "hangs", timeout_s=0.3) as colony:
        other.colony.client = world.worker.colony.client
        for worker in workers:
            worker.colony.component.opens_after = 100
            worker.lease, worker.begin_calls_s = timedelta(seconds=0.9), 0.9 * 0.9 - 0.3

        async def toil(worker: Worker) -> None:
            while len(colony.calls) < 8:
                items, _ = await work.turn(worker.database, ["dispatch"], 10, worker.lease)
                await (worker.dispatch(items) if items else asyncio.sleep(0.02))

        async with asyncio.timeout(20):
            await asyncio.gather(*(toil(worker) for worker in workers))
        assert colony.twice == set()
    await other.database.close()
    await world.make_due("dispatch")
    await world.run_work("dispatch")
    assert {await life.state() for life in lives} == {"dispatched"}


async def test_work_is_leased_for_longer_than_a_call_may_last(world: World) -> None:
    for timeout_ms in (1, 10_000, 60_000, 300_000):
        worker = Worker(world.settings(colony_timeout_ms=timeout_ms))
        lease_s = worker.lease.total_seconds()
        assert 0 < worker.begin_calls_s < worker.begin_calls_s + timeout_ms / 1000 < lease_s <= 15 * 60
