"""The life of an attempt: its lease, its time, its budget, and the ways in which it ends."""

import hashlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from app.boundary.dispatch import MOST_DECISIONS, decisions
from app.clock import new_id, now
from colony_client import artifacts
from colony_client.artifacts import ARTIFACT_TYPES, canonical
from colony_client.contract import Dispatch
from colony_client.errors import Refused, Superseded
from tests.world import World
from tests.world.checks import inspector
from tests.world.colony import aggregation, base
from tests.world.life import Life, begin, change, due, escalated, in_state, under_way


async def rings_at(life: Life) -> datetime:
    """When the mission's attempt timer is due."""
    found: datetime = await (await inspector(life.world)).fetchval(
        "SELECT next_at FROM work WHERE kind = 'attempt_timer' AND subject = $1", life.id
    )
    return found


# --- lease


async def test_every_word_extends_the_lease(world: World) -> None:
    life = await in_state(world, "dispatched")
    for word in ([], [{"type": "stage.started", "stage": "planner"}], []):
        await life.past("lease_until")
        receipt = await life.say(*word)
        lease = world.root.settings.mission_lease_ms / 1000
        assert abs((receipt.lease_until - now()).total_seconds() - lease) < 5
        assert (await life.row())["lease_until"] == receipt.lease_until.replace(tzinfo=UTC)


async def test_a_timer_that_rings_while_the_lease_runs_is_set_to_its_end_and_asks_nobody(world: World) -> None:
    life = await in_state(world, "running")
    asked: list[Any] = []
    world.colony.statuses = type("Asked", (dict,), {"get": lambda self, key: asked.append(key)})()
    await due(world, "attempt_timer", life.id)
    await world.run_work("attempt_timer")
    assert asked == []
    assert await rings_at(life) == (await life.row())["lease_until"]
    assert await life.state() == "running"


async def test_a_colony_that_says_it_is_working_keeps_its_attempt(world: World) -> None:
    life = await in_state(world, "running")
    world.colony.statuses[life.id] = {"mission_id": str(life.id), "attempt": 1, "state": "running"}
    for _ in range(3):
        await life.lose_lease()
        row = await life.row()
        assert (row["state"], row["attempt"]) == ("running", 1)
        assert row["lease_until"] > now() and await rings_at(life) == row["lease_until"]
    await life.complete()
    await world.run_work()
    assert await life.state() == "completed"


@pytest.mark.parametrize(
    "status",
    [
        None,
        {"attempt": 2, "state": "running"},
        *({"attempt": 1, "state": state} for state in ("completed", "blocked", "escalated", "cancelled", "failed")),
    ],
    ids=lambda status: "unknown" if status is None else f"{status['state']} {status['attempt']}",
)
async def test_an_attempt_nobody_works_on_is_followed_by_the_next(world: World, status: dict[str, Any] | None) -> None:
    life = await in_state(world, "running")
    await life.say({"type": "stage.started", "stage": "workers"})
    if status:
        world.colony.statuses[life.id] = status | {"mission_id": str(life.id)}
    await life.lose_lease()
    row = await life.row()
    assert (row["state"], row["attempt"], row["last_seq"], row["stage"]) == ("accepted", 2, 0, None)
    await life.take()
    assert life.dispatch.attempt == 2
    await life.complete()
    await world.run_work()
    assert (await life.row())["state"] == "completed"
    review = [body for type, body in await life.facts("mission.reviewed")]
    assert [body["claims"] for body in review] == [1]


async def test_the_next_attempt_is_not_held_to_what_the_lost_one_said(world: World) -> None:
    """Claims and proposals of a lost attempt are kept, and neither reviewed nor put before anybody."""
    life = await in_state(world, "running")
    [citation, *_] = await life.show()
    envelope = life.dispatch.envelope
    await life.say(
        {"type": "writeback.proposed", "proposal": change(envelope, [citation])},
        {"type": "artifact.produced", "artifact": aggregation(envelope, [])},
    )
    await life.lose_lease()
    await life.take()
    await life.say({"type": "signal", "signal": "complete"})
    await world.run_work()
    row = await life.row()
    assert (row["state"], row["answer_status"], row["writebacks"]) == ("completed", "not_found", {})
    kept = (await world.auditor.get(f"/v1/missions/{life.id}/artifacts?schema_name=writeback_proposal")).json()["items"]
    assert len(kept) == 1


async def test_attempts_come_to_an_end_with_a_reason(world: World) -> None:
    life = await begin(world)
    most = world.worker.colony.max_attempts
    for attempt in range(1, most + 1):
        await life.take()
        assert life.dispatch.attempt == attempt
        await life.lose_lease()
    row = await life.row()
    assert (row["state"], row["reason"], row["attempt"]) == ("failed", "attempts_exhausted", most)
    assert (await life.facts("mission."))[-1] == (
        "mission.failed", {"was": "dispatched", "cause": "attempts", "attempt": most, "reason": "attempts_exhausted"},
    )  # fmt: skip
    await world.run_work()
    assert world.colony.cancelled == [life.id], "the colony may be working without saying so: it is told"


# --- time


@pytest.mark.parametrize("state", ["dispatched", "running"])
async def test_time_that_is_up_fails_the_mission_and_the_colony_is_told(world: World, state: str) -> None:
    life = await in_state(world, state)
    world.colony.statuses[life.id] = {"mission_id": str(life.id), "attempt": 1, "state": "running"}
    await life.pass_deadline()
    row = await life.row()
    assert (row["state"], row["reason"]) == ("failed", "time_budget")
    await world.run_work("colony_cancel")
    assert world.colony.cancelled == [life.id]
    with pytest.raises(Superseded) as refused:
        await life.say({"type": "signal", "signal": "complete"})
    assert refused.value.code == "mission_closed"


async def test_the_timer_rings_at_the_deadline_when_that_comes_before_the_leases_end(world: World) -> None:
    life = await begin(world, budget={"time_ms": 2_000})
    await life.take()
    row = await life.row()
    assert row["deadline_at"] < row["lease_until"]
    assert await rings_at(life) == row["deadline_at"]
    assert timedelta(0) < row["deadline_at"] - now() < timedelta(seconds=2)


async def test_a_mission_whose_time_is_up_while_it_waits_for_a_colony_is_not_offered(world: World) -> None:
    life = await in_state(world, "running")
    await life.lose_lease()
    offered = len(world.colony.dispatched)
    await life.pass_deadline()
    row = await life.row()
    assert (row["state"], row["reason"]) == ("failed", "time_budget")
    assert len(world.colony.dispatched) == offered


async def test_the_time_a_human_takes_is_not_the_missions(world: World) -> None:
    life = await escalated(world)
    first = (await life.row())["deadline_at"]
    await life.past("deadline_at")
    await life.decide("approve")
    await life.take()
    row = await life.row()
    assert (row["state"], row["attempt"]) == ("dispatched", 2)
    assert row["deadline_at"] > first


# --- budget


def usage(tokens: int = 0, cost_usd: float = 0) -> dict[str, Any]:
    return {"type": "usage.reported", "tokens_in": tokens, "tokens_out": 0, "cost_usd": cost_usd}


@pytest.mark.parametrize("over", [usage(tokens=101), usage(cost_usd=1.01)], ids=["tokens", "cost"])
async def test_a_mission_over_its_budget_is_told_to_stop_and_gets_no_more_tools(
    world: World, over: dict[str, Any]
) -> None:
    life = await under_way(world, budget={"tokens": 100, "cost_usd": 1.0})
    receipt = await life.say(usage(tokens=100, cost_usd=1.0))
    assert receipt.stop is False, "the budget may be used up to its last token"
    await life.world.colony.tool(life.dispatch, "workspace.outline")
    receipt = await life.say(over)
    assert receipt.stop is True and "budget" in receipt.stop_reason
    receipt = await life.say({"type": "stage.started", "stage": "workers"}, usage(tokens=1))
    assert receipt.stop is True
    said = await life.facts("budget.exceeded")
    assert len(said) == 1, "said once"
    assert said[0][1]["used_tokens"] == 100 + over["tokens_in"]
    with pytest.raises(Refused) as refused:
        await life.world.colony.tool(life.dispatch, "workspace.outline")
    assert refused.value.code == "budget_exhausted"
    shown = (await world.mission(life.id))["budget"]
    assert shown["used_tokens"] == 101 + over["tokens_in"]
    # it may still say what it knows
    await life.signal("complete")
    await world.run_work()
    assert await life.state() == "completed"


async def test_the_smallest_and_the_largest_costs_are_counted(world: World) -> None:
    life = await under_way(world)
    for _ in range(5):
        await life.say(usage(cost_usd=0.000_02))
    assert (await life.row())["used_cost_usd"] == Decimal("0.0001"), "small calls add up"
    receipt = await life.say(*(usage(tokens=10**12, cost_usd=1e6) for _ in range(300)))
    assert receipt.stop is True
    row = await life.row()
    assert row["used_tokens"] == 300 * 10**12
    assert row["used_cost_usd"] == Decimal("300000000.0001")


# --- the ways in which it ends


async def test_blocked_fails_with_the_colonys_own_words(world: World) -> None:
    life = await under_way(world)
    await life.say({"type": "signal", "signal": "blocked", "reason": "The archive needs a key that I was not given."})
    shown = await world.mission(life.id)
    assert (shown["state"], shown["reason"]) == ("failed", "blocked")
    assert shown["reason_note"] == "The archive needs a key that I was not given."
    facts = await life.facts()
    assert ("colony.signalled", {"signal": "blocked", "attempt": 1}) in facts
    assert not any("archive" in str(body) for _, body in facts), "words stay out of the ledger"


async def test_escalate_asks_a_human_and_the_answer_travels_with_the_next_attempt(world: World) -> None:
    life = await under_way(world)
    await life.say({"type": "signal", "signal": "escalate", "question": "May I read the archive?"})
    assert await life.state() == "awaiting_approval"
    [approval] = await life.approvals()
    assert (approval["subject"], approval["summary"]) == ("mission", "May I read the archive?")
    assert approval["payload"]["action"] == "mission.continue"
    assert (await world.mission(life.id))["pending_approvals"] == [approval["id"]]
    answer = await life.decide("approve")
    assert answer.status_code == 201
    await life.take()
    assert life.dispatch.attempt == 2
    [said] = life.dispatch.decisions
    assert (said.question, said.decision, str(said.approval_id)) == (
        "May I read the archive?",
        "approve",
        approval["id"],
    )
    await life.complete()
    await world.run_work()
    assert await life.state() == "completed"


async def test_a_dispatch_carries_as_many_answers_as_it_has_room_for(world: World) -> None:
    life = await in_state(world, "dispatched")
    said = [
        SimpleNamespace(
            mission=life.id, id=new_id(), question=f"{n}?", verdict="approve", comment=None, decided_at=now()
        )
        for n in range(MOST_DECISIONS + 5)
    ]
    told = decisions(said, life.id)
    assert [one.question for one in told][-1] == f"{MOST_DECISIONS + 4}?"
    Dispatch.model_validate(life.dispatch.model_dump() | {"decisions": [one.model_dump() for one in told]})


async def test_what_else_the_colony_says_is_recorded_without_its_words(world: World) -> None:
    life = await under_way(world)
    secret = "Anna Muster, +49 170 0000000"
    await life.say(
        {"type": "stage.started", "stage": "researcher"},
        {"type": "provider.failed", "provider": secret, "code": "timeout", "detail": secret, "retryable": True},
        {"type": "checkpoint.saved", "checkpoint_id": "c1", "size_bytes": 9, "sha256": "a" * 64},
        {"type": "log", "level": "warning", "message": secret},
        {"type": "signal", "signal": "checkpoint", "reason": secret},
        {"type": "stage.completed", "stage": "researcher", "latency_ms": 12.5},
    )
    facts = dict(await life.facts())
    assert facts["stage.started"] == {"stage": "researcher", "attempt": 1}
    assert facts["stage.completed"] == {"stage": "researcher", "attempt": 1, "latency_ms": 12.5}
    assert facts["provider.failed"]["code"] == "other", "a word that only the colony knows"
    assert facts["provider.failed"]["retryable"] is True and len(facts["provider.failed"]["provider_sha256"]) == 64
    assert facts["checkpoint.saved"] == {"sha256": "a" * 64, "size_bytes": 9}
    assert secret not in str(facts)
    assert (await world.mission(life.id))["stage"] == "researcher"


async def test_a_connector_that_failed_is_counted_by_our_own_word_and_told_with_the_mission(world: World) -> None:
    life = await under_way(world)
    before = failures("connector_timed_out")
    why = "librarian: reading every lead took longer than 60 s; crm.list: 503: The CRM did not answer within 10 s."
    await life.say(
        {
            "type": "provider.failed",
            "provider": "crm.list",
            "code": "connector_timed_out",
            "detail": "-",
            "retryable": True,
        },
        {"type": "signal", "signal": "blocked", "reason": why},
    )
    assert failures("connector_timed_out") == before + 1
    assert dict(await life.facts())["provider.failed"]["code"] == "connector_timed_out"
    shown = await world.mission(life.id)
    assert (shown["state"], shown["reason"], shown["reason_note"]) == ("failed", "blocked", why)


def failures(code: str) -> float:
    return REGISTRY.get_sample_value("mission_root_provider_failures_total", {"code": code}) or 0.0


def examples(life: Life) -> dict[str, dict[str, Any]]:
    """One event for every artifact that a colony may produce."""
    envelope, head = life.dispatch.envelope, base(life.dispatch.envelope)
    task = {"id": "t1", "kind": "question", "title": "One", "question": "What is needed?"}
    place = {"source": "a" * 64, "document": "größe.md", "start": 0, "end": 4, "score": 0.5}
    passage = {"id": "p1", "quote": "größ", "quote_sha256": artifacts.quote_sha256("größ".encode()), **place}
    made: list[Any] = [
        artifacts.MissionTaskGraph.model_validate(head | {"tasks": [task]}),
        artifacts.PromptPackage.model_validate(
            head | {"prompts": [{"task_id": "t1", "role": "reader", "instructions": "Read."}]}
        ),
        artifacts.LibrarianPass.model_validate(
            head | {"searches": [{"task_id": "t1", "query": "needed", "results": [place]}]}
        ),
        artifacts.ResearchArtifact.model_validate(head | {"passages": [passage]}),
        artifacts.WorkerResult.model_validate(head | {"task_id": "t1", "claims": []}),
        aggregation(envelope, []),
        artifacts.ReviewPacket.model_validate(
            head | {"reviewer": "colony", "verdict": "passed", "claims": [], "coverage": 1.0}
        ),
    ]
    events = {one.schema_name: {"type": "artifact.produced", "artifact": one} for one in made}
    return events | {"writeback_proposal": {"type": "writeback.proposed", "proposal": change(envelope, [])}}


async def test_all_ten_kinds_of_artifact_pass_or_are_the_roots_own(world: World) -> None:
    """What the contract's own examples look like is stored, byte for byte, and read back under its hash."""
    life = await under_way(world)
    made = examples(life)
    assert set(made) | {"mission_envelope", "policy_decision"} == set(ARTIFACT_TYPES)
    await life.say(*made.values())
    listed = (await world.auditor.get(f"/v1/missions/{life.id}/artifacts?limit=50")).json()["items"]
    by_name = {one["schema_name"]: one for one in listed}
    assert set(by_name) == set(made) | {"mission_envelope"}
    for name, body in made.items():
        shown = await world.auditor.get(f"/v1/missions/{life.id}/artifacts/{by_name[name]['id']}")
        artifact = body.get("artifact") or body["proposal"]
        assert shown.json()["content"] == artifact.model_dump(mode="json"), name
        assert by_name[name]["sha256"] == hashlib.sha256(canonical(artifact)).hexdigest()
