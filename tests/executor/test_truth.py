"""What cannot be done is said as it is: stale, failed in time, halted, undone, cancelled."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from app.clock import now
from tests.executor.field import approved_change
from tests.executor.test_once import applied_once
from tests.world import World
from tests.world.checks import inspector
from tests.world.world import READ_TOKEN

LEASE = timedelta(seconds=1)


async def test_a_record_that_moved_on_makes_the_change_stale(world: World) -> None:
    change = await approved_change(world)
    await change.somebody_else_changes(stage="contacted")
    shown = (await world.operator.get(f"/v1/approvals/{change.approval['id']}")).json()
    assert (shown["current"]["version"], shown["current"]["drifted"]) == ("2", True)
    seen = await change.run()
    assert (seen["state"], seen["receipt"]["finding"], seen["receipt"]["current"]["version"]) == ("stale", "stale", "2")
    assert await change.mission() == ("awaiting_approval", {"stale": 1})  # it goes back to a human
    assert [one["after"] for one in await change.changes()] == [{"stage": "contacted"}]


async def test_a_change_undone_by_somebody_else_is_no_success(world: World) -> None:
    change = await approved_change(world)
    change.failures.drop_after_apply = True
    assert (await change.run())["state"] == "unknown"
    change.failures.drop_after_apply = False
    await change.somebody_else_changes(priority="low")
    seen = await change.run()
    assert (seen["state"], seen["receipt"]["finding"]) == ("failed", "read_back_differs")
    assert seen["read_back"] == {"priority": "low"}
    assert seen["read_back_sha256"] != seen["payload_sha256"]
    assert seen["receipt"]["receipt"]["idempotency_key"] == seen["idempotency_key"]  # that it was applied is kept


async def test_nothing_is_called_within_the_undo_window(world: World) -> None:
    change = await approved_change(world, undo_window=True)
    await world.run_executor()  # its work is not even due
    assert (await change.seen())["attempts"] is None
    executor = world.executor()
    waiting = await executor.claim(await change.item(executor))
    assert isinstance(waiting, datetime)
    assert waiting == datetime.fromisoformat((await change.seen())["not_before"])
    assert timedelta(seconds=7) < waiting - now() <= timedelta(seconds=10)
    assert ((await change.run())["state"], await change.changes()) == ("approved", [])


async def test_the_undo_window_ends_by_itself(world: World) -> None:
    connection = await inspector(world)
    await connection.execute(
        """INSERT INTO approval_rule (tenant, id, version, subject, connector, operation, risk, required, life, undo_window)
           SELECT tenant, id, version + 1, subject, connector, operation, risk, required, life, '0.3 seconds' FROM approval_rule
           WHERE NOT break_glass"""
    )
    change = await approved_change(world, undo_window=True)
    assert await world.run_executor() == 0 or now() >= datetime.fromisoformat((await change.seen())["not_before"])
    executor = world.executor()
    running = asyncio.create_task(executor.loop())  # wakes by the time of the work, not by anybody's word
    try:
        for _ in range(200):
            if (await change.seen())["state"] == "succeeded":
                break
            await asyncio.sleep(0.02)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    await world.run_work("progress")
    seen = await change.seen()
    await applied_once(change, seen)
    assert seen["started_at"] >= seen["not_before"]


async def test_a_cancellation_within_the_undo_window_stops_the_change(world: World) -> None:
    change = await approved_change(world, undo_window=True)
    await change.cancel()
    assert (await change.run())["state"] == "cancelled"
    assert (await change.mission(), await change.changes()) == (("cancelled", {"cancelled": 1}), [])
    assert await (await inspector(world)).fetchval("SELECT count(*) FROM work WHERE subject = $1", change.id) == 0


async def test_a_cancellation_after_the_claim_lets_it_run_to_its_truth(world: World) -> None:
    for crashed in (False, True):
        change = await approved_change(world)
        executor = world.executor()
        item, claimed = await change.claim(executor)
        await change.cancel()
        assert await change.mission() == ("cancelled", {"executing": 1})
        if crashed:
            seen = await change.run()
        else:
            outcome = await change.call(executor, claimed)
            assert outcome is not None and await executor.settle(item.tenant, claimed, outcome)
            await world.run_work("progress")
            seen = await change.seen()
        assert seen["state"] == "succeeded"
        assert await change.mission() == ("cancelled", {"succeeded": 1})  # shown, and the mission stays cancelled
        assert [one["idempotency_key"] for one in await change.changes()][-1:] == [seen["idempotency_key"]]
        await change.somebody_else_changes(priority="low")


async def test_a_halted_connector_waits(world: World) -> None:
    change = await approved_change(world)
    await change.halt()
    assert (await change.run())["state"] == "approved"
    wait = await (await inspector(world)).fetchval("SELECT next_at - now() FROM work WHERE subject = $1", change.id)
    assert timedelta(seconds=25) < wait <= timedelta(seconds=30)
    await change.halt(False)
    await applied_once(change, await change.run())


@pytest.mark.parametrize("arrived", [True, False])
async def test_a_halt_after_the_claim_lets_nobody_do_more_than_ask(world: World, arrived: bool) -> None:
    change = await approved_change(world)
    change.failures.answer, change.failures.drop_after_apply = (None, True) if arrived else (503, False)
    before = (await change.run())["state"]
    assert before == ("unknown" if arrived else "executing")
    change.failures.answer, change.failures.drop_after_apply = None, False
    await change.halt()
    seen = await change.run()
    if arrived:
        await applied_once(change, seen)
        return
    assert (seen["state"], await change.changes()) == ("executing", [])
    wait = await (await inspector(world)).fetchval("SELECT next_at - now() FROM work WHERE subject = $1", change.id)
    # the claim's lease; after it nobody has the change
    over = timedelta(milliseconds=world.settings().execution_lease_ms)
    assert over + timedelta(seconds=25) < wait <= over + timedelta(seconds=30)
    await change.halt(False)
    await applied_once(change, await change.run())


async def test_a_target_that_stays_away_ends_in_failure_when_the_approval_does(world: World) -> None:
    change = await approved_change(world)
    executor = world.executor(execution_lease_ms=1000)
    change.failures.answer = 503
    assert (await change.run(executor))["state"] == "executing"
    change.failures.answer = None
    await change.ends()
    assert (await change.run(executor))["state"] == "executing"  # an attempt might still be under way
    await change.ends(LEASE)
    seen = await change.run(executor)
    assert (seen["state"], seen["receipt"]["finding"]) == ("failed", "not_applied_in_time")
    assert (await change.mission(), await change.changes()) == (("completed", {"failed": 1}), [])


async def test_a_first_attempt_that_could_not_leave_before_the_end_fails_at_once(world: World) -> None:
    change = await approved_change(world)
    executor = world.executor()
    item, claimed = await change.claim(executor)
    change.failures.answer = 503
    soon = replace(claimed, not_after=now() + timedelta(seconds=0.5))
    outcome = await change.call(executor, soon)
    assert outcome is not None and (outcome.state, outcome.receipt and outcome.receipt["finding"]) == (
        "failed",
        "not_applied",
    )
    # of an earlier attempt the same answer says nothing
    outcome = await change.call(executor, replace(soon, unsettled=True))
    assert outcome is not None and outcome.state == "executing"
    await executor.settle(item.tenant, claimed, outcome)


async def test_an_unknown_outcome_is_settled_by_asking_even_after_the_end(world: World) -> None:
    change = await approved_change(world)
    change.failures.drop_after_apply = True
    executor = world.executor(execution_lease_ms=1000)
    assert (await change.run(executor))["state"] == "unknown"
    change.failures.drop_after_apply = False
    await change.ends(timedelta(hours=1))
    await applied_once(change, await change.run(executor))


async def test_what_the_target_refuses_is_failed_and_said(world: World) -> None:
    change = await approved_change(world)
    seen = await change.run(world.executor(crm_write_token=READ_TOKEN))
    assert (seen["state"], seen["receipt"]["finding"], seen["receipt"]["status"]) == ("failed", "refused", 403)
    assert "token-of-tests" not in str(seen)
    assert await change.changes() == []
