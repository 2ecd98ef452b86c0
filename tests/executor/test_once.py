"""An approved change arrives exactly once: on good days, on bad ones, and after a crash between any two steps."""

import asyncio
import threading
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

import sample_crm.service
from app import executor as process
from app.embedded import free_port
from app.writebacks.connectors import Applied
from app.writebacks.connectors.sample_crm import SampleCrmWriter
from tests.approvals.desk import post
from tests.executor.field import Change, approved_change
from tests.world import World
from tests.world.checks import inspector
from tests.world.colony import proposal
from tests.world.world import WRITE_TOKEN


async def applied_once(change: Change, seen: dict[str, Any]) -> None:
    """The proof: one change in the CRM, under the execution's key, equal to what was approved."""
    assert seen["state"] == "succeeded", seen
    [applied] = await change.changes()
    assert applied["idempotency_key"] == seen["idempotency_key"]
    assert applied["after"] == change.approval["payload"]["changes"] == seen["read_back"]
    assert seen["read_back_sha256"] == seen["payload_sha256"] == change.approval["payload_sha256"]
    assert await change.mission() == ("completed", {"succeeded": 1})


async def test_an_approved_change_is_made_once_and_read_back(world: World) -> None:
    change = await approved_change(world)
    assert await change.mission() == ("executing", {"approved": 1})
    seen = await change.run()
    await applied_once(change, seen)
    assert (seen["attempts"], seen["receipt"]["finding"], seen["receipt"]["observed_version"]) == (1, "applied", "2")
    assert seen["receipt"]["receipt"]["idempotency_key"] == seen["idempotency_key"]
    facts = [fact["type"] for fact in await world.facts(change.approval["mission_id"])]
    assert facts[-4:] == ["mission.executing", "writeback.claimed", "writeback.settled", "mission.completed"]
    # nothing is left to do, and doing it again does nothing
    assert await world.run_executor() == 0
    await (await inspector(world)).execute(
        "INSERT INTO work (tenant, kind, subject, queue) SELECT tenant, 'execute', id, 'executor' FROM writeback WHERE id = $1",
        change.id,
    )
    assert (await change.run())["attempts"] == 1
    assert len(await change.changes()) == 1


async def test_the_claim_is_committed_and_no_transaction_open_when_the_target_is_called(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = await approved_change(world)
    called = []

    class Watched(SampleCrmWriter):
        async def apply(self, claimed: bytes, idempotency_key: str) -> Applied:
            watching = await world.connect("admin")
            called.append(
                await watching.fetchrow(
                    """SELECT (SELECT state FROM execution WHERE writeback = $1),
                         (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                          AND usename = 'mission_root_executor' AND xact_start IS NOT NULL)""",
                    change.id,
                )
            )
            return await super().apply(claimed, idempotency_key)

    monkeypatch.setattr(process, "writer", lambda name, settings: Watched(settings.crm_base_url, WRITE_TOKEN))
    await applied_once(change, await change.run())
    assert called == [("executing", 0)]


async def test_a_crash_after_the_claim_and_before_the_call(world: World) -> None:
    change = await approved_change(world)
    _, claimed = await change.claim(world.executor())
    assert claimed.unsettled is False
    assert (await change.seen())["state"] == "executing"
    seen = await change.run()  # another executor, once the lease is over
    await applied_once(change, seen)
    assert seen["attempts"] == 2
    assert seen["idempotency_key"] == claimed.idempotency_key


async def test_a_crash_after_the_call_and_before_the_settling(world: World) -> None:
    change = await approved_change(world)
    dead = world.executor()
    _, claimed = await change.claim(dead)
    outcome = await change.call(dead, claimed)
    assert outcome is not None and outcome.state == "succeeded"
    assert len(await change.changes()) == 1
    assert (await change.seen())["state"] == "executing"
    await applied_once(change, await change.run())


async def test_a_crash_after_the_settling_and_before_the_work_is_ended(world: World) -> None:
    change = await approved_change(world)
    dead = world.executor()
    item, claimed = await change.claim(dead)
    outcome = await change.call(dead, claimed)
    assert outcome is not None and await dead.settle(item.tenant, claimed, outcome)
    seen = await change.run()
    await applied_once(change, seen)
    assert seen["attempts"] == 1


async def test_another_executor_waits_for_the_lease(world: World) -> None:
    change = await approved_change(world)
    item, _ = await change.claim(world.executor())
    waiting = await world.executor().claim(item)
    lease = await (await inspector(world)).fetchval("SELECT lease_until FROM execution WHERE writeback = $1", change.id)
    assert waiting == lease


async def test_who_lost_the_lease_settles_nothing(world: World) -> None:
    change = await approved_change(world)
    slow, fast = world.executor(), world.executor()
    item, first = await change.claim(slow)
    outcome = await change.call(slow, first)
    assert outcome is not None
    _, second = await change.claim(fast)
    assert (second.fence, second.unsettled) == (first.fence + 1, True)
    assert await slow.settle(item.tenant, first, outcome) is False
    assert (await change.seen())["state"] == "executing"
    found = await change.call(fast, second)
    assert found is not None and await fast.settle(item.tenant, second, found) is True
    await world.run_work("progress")
    await applied_once(change, await change.seen())


async def test_an_answer_that_got_lost_is_asked_for(world: World) -> None:
    change = await approved_change(world)
    change.failures.drop_after_apply = True
    seen = await change.run()
    assert (seen["state"], seen["receipt"]["finding"]) == ("unknown", "unknown")
    assert await change.mission() == ("executing", {"unknown": 1})
    change.failures.drop_after_apply = False
    seen = await change.run()
    await applied_once(change, seen)
    assert seen["attempts"] == 2


async def test_a_call_that_arrives_late_is_not_made_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    change = await approved_change(world)
    gate, passed = threading.Event(), []

    def wait(seconds: float) -> None:
        if seconds:
            passed.append(gate.wait(seconds))

    def impatient(name: str, settings: Any) -> SampleCrmWriter:
        return SampleCrmWriter(settings.crm_base_url, WRITE_TOKEN, total_s=0.3)

    monkeypatch.setattr(sample_crm.service, "time", SimpleNamespace(sleep=wait))
    monkeypatch.setattr(process, "writer", impatient)
    change.failures.before_apply_s = 30
    assert (await change.run())["state"] == "unknown"
    assert await change.changes() == []  # still under way
    assert (await change.run())["state"] == "unknown"  # asked, not there yet, sent again under the same key
    gate.set()
    while len(passed) < 2 or not await change.changes():
        await asyncio.sleep(0.01)
    await applied_once(change, await change.run())
    assert passed == [True, True]


@pytest.mark.parametrize("answer", [429, 503])
async def test_a_target_that_says_not_now_is_tried_again_under_the_same_key(world: World, answer: Any) -> None:
    change = await approved_change(world)
    change.failures.answer = answer
    executor = world.executor()
    keys = set()
    for attempt in (1, 2, 3):
        seen = await change.run(executor)
        assert (seen["state"], seen["attempts"], seen["receipt"]["finding"]) == (
            "executing",
            attempt,
            "not_applied_yet",
        )
        keys.add(seen["idempotency_key"])
        wait = "SELECT next_at - now() FROM work WHERE subject = $1"
        assert timedelta(seconds=0.5) < await (await inspector(world)).fetchval(wait, change.id) <= timedelta(seconds=1)
    assert await change.changes() == []
    change.failures.answer = None
    seen = await change.run(executor)
    await applied_once(change, seen)
    assert keys == {seen["idempotency_key"]}


async def test_a_target_that_is_away_is_tried_again(world: World) -> None:
    change = await approved_change(world)
    away = world.executor(crm_base_url=f"http://127.0.0.1:{free_port()}")
    seen = await change.run(away)
    assert (seen["state"], seen["receipt"]["finding"]) == ("executing", "not_applied_yet")
    seen = await change.run(away)  # now nobody can be asked whether the first attempt arrived
    assert seen["state"] == "unknown"
    await applied_once(change, await change.run())


async def test_an_executor_without_the_targets_address_changes_nothing_and_loses_nothing(world: World) -> None:
    change = await approved_change(world)
    for finding in ("not_applied_yet", "unknown"):
        assert (await change.run(world.executor(crm_base_url=None)))["receipt"]["finding"] == finding
    assert await change.changes() == []
    await applied_once(change, await change.run())


async def test_bytes_that_are_no_payload_are_refused_for_good(world: World) -> None:
    """Only a taken-over writer could put them there; the executor must not chew on them for ever."""
    change = await approved_change(world)
    executor = world.executor()
    item, claimed = await change.claim(executor)
    for unsettled in (False, True):
        outcome = await change.call(executor, replace(claimed, unsettled=unsettled, payload=claimed.payload + b" "))
        assert outcome is not None and (outcome.state, outcome.again_s) == ("failed", None)
    assert await change.changes() == []
    assert outcome is not None and await executor.settle(item.tenant, claimed, outcome)
    await world.run_work("progress")
    assert await change.mission() == ("completed", {"failed": 1})


async def test_several_executors_share_the_work_without_doing_any_twice(world: World) -> None:
    changes = [await approved_change(world)]
    leads = (await changes[0].crm("GET", "/records/lead"))["items"][1:7]
    dispatch = await world.dispatch(mission_type="crm_lead_intelligence")
    records = [await world.colony.tool(dispatch, "crm.read", kind="lead", id=lead["id"]) for lead in leads]
    await world.colony.complete(
        dispatch,
        proposals=[proposal(dispatch.envelope, record, {"next_action": "Call before noon"}) for record in records],
    )
    await world.run_work("review")
    for approval in (await world.operator.get(f"/v1/approvals?mission={dispatch.mission_id}")).json()["items"]:
        assert (await post(world.operator, approval)).status_code == 201
        changes.append(Change(world, approval, changes[0].failures))
    assert len(changes) == 7
    executors = [world.executor() for _ in range(3)]
    await asyncio.gather(*(world.run_executor(executor) for executor in executors))
    await world.run_work("progress")
    for change in changes:
        assert (await change.seen())["state"] == "succeeded"
        assert len(await change.changes()) == 1
    assert (await world.mission(dispatch.mission_id))["writebacks"] == {"succeeded": 6}
