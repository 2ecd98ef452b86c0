"""Events come twice, out of order, late or again: the mission ends as if each had come once, in order."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from colony_client.artifacts import WorkerResult
from colony_client.contract import Event
from colony_client.errors import SequenceGap, Superseded
from tests.world import World
from tests.world.checks import inspector
from tests.world.colony import base
from tests.world.life import Life, change, event, in_state

ENDS: dict[str, list[dict[str, Any]]] = {
    "": [],
    "complete": [{"type": "signal", "signal": "complete"}],
    "blocked": [{"type": "signal", "signal": "blocked", "reason": "the door is locked"}],
    "escalate": [{"type": "signal", "signal": "escalate", "question": "May I?"}],
}
MIDDLE = ("started", "completed", "usage", "checkpoint", "provider", "log", "artifact", "proposal", "continue")
# What differs between two missions that did the same: ids of rows, and hashes over bytes that hold the mission's id.
OWN = ("artifact", "proposal", "approval", "sha256", "payload_sha256", "contract_hash", "policy_decision", "review_packet",
       "expires_at", "writeback", "envelope", "envelope_sha256")  # fmt: skip


def bodies(life: Life, script: list[str], end: str) -> list[dict[str, Any]]:
    """The bodies of the events of a script; artifacts are told apart by the place they have in it."""
    envelope = life.dispatch.envelope
    made: list[dict[str, Any]] = []
    for place, name in enumerate(script):
        result = WorkerResult(**base(envelope), task_id=f"t{place}", claims=[], not_found=[f"nothing at {place}"])
        choices: dict[str, dict[str, Any]] = {
            "started": {"type": "stage.started", "stage": "workers"},
            "completed": {"type": "stage.completed", "stage": "workers", "latency_ms": place + 0.5},
            "usage": {"type": "usage.reported", "tokens_in": 10 * place, "tokens_out": 1, "cost_usd": 0.25},
            "checkpoint": {
                "type": "checkpoint.saved", "checkpoint_id": f"c{place}", "size_bytes": place, "sha256": "0" * 64,
            },
            "provider": {
                "type": "provider.failed", "provider": "search", "code": "timeout", "detail": "-", "retryable": True,
            },
            "log": {"type": "log", "level": "info", "message": f"at {place}"},
            "artifact": {"type": "artifact.produced", "artifact": result},
            "proposal": {"type": "writeback.proposed", "proposal": change(envelope, [], place)},
            "continue": {"type": "signal", "signal": "continue"},
        }  # fmt: skip
        made.append(choices[name])
    return made + ENDS[end]


async def remains(life: Life) -> tuple[Any, ...]:
    """What a mission leaves: its row, its facts, its artifacts, without what only says which mission it was."""
    row = await life.row()
    kept = {
        name: row[name]
        for name in ("state", "stage", "attempt", "last_seq", "used_tokens", "used_cost_usd", "reason", "reason_note")
    }
    facts = [(type, {k: v for k, v in body.items() if k not in OWN}) for type, body in await life.facts()]
    rows = await (await inspector(life.world)).fetch(
        "SELECT schema_name, attempt, convert_from(bytes, 'UTF8')::jsonb - ARRAY['mission_id', 'created_at', 'contract_hash', "
        "'proposal_id', 'inputs_sha256'] AS said FROM artifact WHERE mission = $1 ORDER BY created_at, id",
        life.id,
    )
    return kept, facts, [tuple(row) for row in rows], len(await life.approvals()), await life.quarantined()


async def told_in_order(world: World, script: list[str], end: str) -> Life:
    life = await in_state(world, "dispatched")
    await life.say(*bodies(life, script, end))
    return life


async def deliver(life: Life, events: list[Event], tries: list[tuple[int, int]]) -> None:
    """Sends slices of the events as they come, whole or with gaps, and in the end what is still missing."""
    last, ended = 0, False
    for start, length in [*tries, (0, len(events))]:
        sending = events[start : start + length]
        if sending and sending[0].seq > last + 1 and not ended:
            with pytest.raises(SequenceGap) as gap:
                await life.world.colony.send(life.dispatch, *sending)
            assert gap.value.expected_seq == last + 1
            continue
        receipt = await life.world.colony.send(life.dispatch, *sending)
        last = max(last, sending[-1].seq if sending else 0)
        assert receipt.accepted_seq == last
        ended = ended or getattr(events[last - 1] if last else None, "ends_attempt", False)
        assert receipt.stop == ended


slices = st.tuples(st.integers(0, 11), st.integers(0, 6))


@pytest.mark.anyio
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(
    script=["usage", "artifact", "usage", "proposal"], end="complete", tries=[(2, 2), (0, 3), (1, 2), (4, 1), (0, 6)]
)
@example(script=["artifact"] * 3, end="escalate", tries=[(1, 1), (0, 1), (0, 1), (3, 1), (1, 6), (1, 6)])
@given(
    script=st.lists(st.sampled_from(MIDDLE), min_size=1, max_size=10),
    end=st.sampled_from(sorted(ENDS)),
    tries=st.lists(slices, max_size=8),
)
async def test_any_delivery_ends_like_the_one_in_order(
    world: World, script: list[str], end: str, tries: list[tuple[int, int]]
) -> None:
    expected = await told_in_order(world, script, end)
    life = await in_state(world, "dispatched")
    events = life.events(*bodies(life, script, end))
    await deliver(life, events, tries)
    assert await remains(life) == await remains(expected)


async def test_the_same_batch_at_the_same_time_counts_once(world: World) -> None:
    script = ["usage", "artifact", "completed", "usage"]
    expected = await told_in_order(world, script, "complete")
    life = await in_state(world, "dispatched")
    events = life.events(*bodies(life, script, "complete"))
    receipts = await asyncio.gather(*(world.colony.send(life.dispatch, *events) for _ in range(4)))
    assert [receipt.accepted_seq for receipt in receipts] == [5] * 4
    assert await remains(life) == await remains(expected)


async def test_a_gap_changes_nothing_and_says_where_to_go_on(world: World) -> None:
    life = await in_state(world, "running")
    before = await remains(life)
    events = life.events(*bodies(life, ["usage", "artifact", "usage"], ""))
    with pytest.raises(SequenceGap) as gap:
        await world.colony.send(life.dispatch, *events[1:])
    assert gap.value.expected_seq == 1 and gap.value.code == "sequence_gap"
    assert await remains(life) == before
    await world.colony.send(life.dispatch, *events)
    assert (await life.row())["last_seq"] == 3


async def test_another_event_under_a_number_that_was_taken_is_not_applied(world: World) -> None:
    life = await in_state(world, "running")
    await life.say({"type": "usage.reported", "tokens_in": 5, "tokens_out": 0, "cost_usd": 0})
    receipt = await world.colony.send(
        life.dispatch, event(1, type="usage.reported", tokens_in=900, tokens_out=0, cost_usd=0)
    )
    assert receipt.accepted_seq == 1
    assert (await life.row())["used_tokens"] == 5


@pytest.mark.parametrize("end", ["complete", "blocked", "escalate"])
async def test_what_comes_after_the_end_of_an_attempt_is_refused_and_what_came_before_is_acknowledged(
    world: World, end: str
) -> None:
    life = await in_state(world, "running")
    await life.say(*ENDS[end])
    before = await remains(life)
    receipt = await world.colony.send(life.dispatch, event(1, **ENDS[end][0]))
    assert (receipt.accepted_seq, receipt.stop) == (1, True)
    with pytest.raises(Superseded) as refused:
        await world.colony.send(life.dispatch, event(2, type="stage.started", stage="workers"))
    assert (refused.value.status, refused.value.code) == (410, "mission_closed")
    assert await remains(life) == before


async def test_nothing_follows_the_end_within_a_batch(world: World) -> None:
    life = await in_state(world, "running")
    with pytest.raises(ValueError, match="after the signal"):
        await world.colony.send(
            life.dispatch, event(1, type="signal", signal="complete"), event(2, type="stage.started", stage="workers")
        )
    assert (await life.row())["last_seq"] == 0
