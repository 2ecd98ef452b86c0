"""Events that come twice, with gaps, or after the end; every other disorder is in test_callback_sequences.py."""

import asyncio
from typing import Any

import pytest

from colony_client.errors import SequenceGap, Superseded
from tests.boundary.deliveries import ENDS, bodies
from tests.boundary.remains import remains
from tests.world import World
from tests.world.life import Life, event, in_state


async def left_of(life: Life) -> dict[str, list[Any]]:
    return (await remains(life.world, [life.id]))[life.id]


async def told_in_order(world: World, script: list[str], end: str) -> Life:
    life = await in_state(world, "dispatched")
    await life.say(*bodies(life.dispatch, script, end))
    return life


async def test_the_same_batch_at_the_same_time_counts_once(world: World) -> None:
    script = ["usage", "artifact", "completed", "usage"]
    expected = await told_in_order(world, script, "complete")
    life = await in_state(world, "dispatched")
    events = life.events(*bodies(life.dispatch, script, "complete"))
    receipts = await asyncio.gather(*(world.colony.send(life.dispatch, *events) for _ in range(4)))
    assert [receipt.accepted_seq for receipt in receipts] == [5] * 4
    assert await left_of(life) == await left_of(expected)


async def test_a_gap_changes_nothing_and_says_where_to_go_on(world: World) -> None:
    life = await in_state(world, "running")
    before = await left_of(life)
    events = life.events(*bodies(life.dispatch, ["usage", "artifact", "usage"], ""))
    with pytest.raises(SequenceGap) as gap:
        await world.colony.send(life.dispatch, *events[1:])
    assert gap.value.expected_seq == 1 and gap.value.code == "sequence_gap"
    assert await left_of(life) == before
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
    before = await left_of(life)
    receipt = await world.colony.send(life.dispatch, event(1, **ENDS[end][0]))
    assert (receipt.accepted_seq, receipt.stop) == (1, True)
    with pytest.raises(Superseded) as refused:
        await world.colony.send(life.dispatch, event(2, type="stage.started", stage="workers"))
    assert (refused.value.status, refused.value.code) == (410, "mission_closed")
    assert await left_of(life) == before


async def test_nothing_follows_the_end_within_a_batch(world: World) -> None:
    life = await in_state(world, "running")
    with pytest.raises(ValueError, match="after the signal"):
        await world.colony.send(
            life.dispatch, event(1, type="signal", signal="complete"), event(2, type="stage.started", stage="workers")
        )
    assert (await life.row())["last_seq"] == 0
