"""What is played is one attempt, whole and nothing else, in whichever order its first calls and the last ones of another came in."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from app.tools import api as tools_api
from tests.replay.test_recorded import diff, replay
from tests.tools.odd_server import Odd, odd_server, served_odd
from tests.tools.registered import ask, mission_with, register
from tests.tools.test_missions_and_tools import WHY, put_kind
from tests.world import World
from tests.world.checks import problem
from tests.world.life import Life, begin, give_guide, under_way


@pytest.fixture
async def odd(anyio_backend: str) -> Any:
    async with served_odd() as server:
        yield server


async def late(world: World, life: Life, monkeypatch: pytest.MonkeyPatch, holding: Any, name: str, tool: str) -> Any:
    """A call of the first attempt of which nothing is told until the second is under way. Held at holding.name."""
    inside, let, whole = asyncio.Event(), asyncio.Event(), getattr(holding, name)

    async def held(*arguments: Any) -> Any:
        inside.set()
        await let.wait()
        return await whole(*arguments)

    monkeypatch.setattr(holding, name, held)
    task = asyncio.create_task(ask(world, life.dispatch, tool, {"query": "rollback"}))
    await inside.wait()
    await life.lose_lease()
    await life.take()
    await life.say()
    let.set()
    answer = await task
    monkeypatch.undo()
    return answer


@pytest.mark.parametrize("kind", ["called", "failed", "denied"])
async def test_a_late_word_of_an_earlier_attempt_is_no_part_of_what_is_played(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    life = await mission_with(world, "workspace.search", "workspace.read")
    await give_guide(world)
    await ask(world, life.dispatch, "workspace.search", {"query": "x"})
    tool = {"called": "workspace.search", "failed": "workspace.read", "denied": "workspace.outline"}[kind]
    where = {
        "called": (world.root.closings, "put"),
        "failed": (tools_api.gateway, "ask"),
        "denied": (tools_api, "judge"),
    }
    await late(world, life, monkeypatch, *where[kind], tool)
    assert [body["attempt"] for _, body in await life.facts(f"tool.{kind}")][-1] == 1
    types = [(type, body.get("attempt")) for type, body in await life.facts()]
    assert types.index(("mission.dispatched", 2)) < types.index((f"tool.{kind}", 1), 7 if kind == "called" else 0)
    await life.complete()
    await world.run_work("review")
    again = await replay(life, world)
    found = await diff(again)
    assert found["divergence"] is None and await again.state() == "completed"
    assert found["calls"]["same_in_all"] and found["calls"]["same"] == 1, found["calls"]


async def test_a_call_that_overtakes_the_answer_to_the_dispatch_is_played(world: World) -> None:
    life = await begin(world)
    world.colony.answer = "busy"  # it has the mission in its hands; that it took it is not known yet
    await life.take()
    await give_guide(world)
    assert (await ask(world, life.dispatch, "workspace.search", {"query": "rollback"})).status_code == 200
    assert await life.state() == "accepted"
    world.colony.answer = "accepted"
    await world.make_due("dispatch")
    await life.take()
    await life.complete()
    await world.run_work("review")
    found = await diff(await replay(life, world))
    assert found["same"] is True and found["calls"]["same"] == 2, found


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("cause", ["halted", "found drifted", "denied"])
async def test_what_a_call_had_ended_it_ends_again(world: World, odd: Odd, cause: str, live: bool) -> None:
    await register(world, odd)
    await put_kind(world)
    life = await begin(world, mission_type="odd_questions")
    world.colony.answer = "busy"
    await life.take()
    code = {"halted": "tool_halted", "denied": "denied_by_policy"}.get(cause, "tool_drifted")
    if cause == "halted":
        await world.operator.post("/v1/tool-layers/odd/halt", **WHY)
    elif cause == "denied":
        rule = '@id("own.no") @reason("Not today.") forbid (principal, action == Action::"tool.call", resource);'
        await world.policy_owner.put("/v1/policies/own", json={"text": rule})
    else:
        await odd.become(odd_server(drifted=True))
    refused = problem(await ask(world, life.dispatch, "odd.echo", {"text": "x"}), code)
    assert refused["blocks"] is True
    world.colony.answer = "accepted"
    if live:
        body = {"mode": "recorded", "colony": "live"}
        made = await world.submitter.post(f"/v1/missions/{life.id}/replay", json=body)
        again = Life(world, UUID(made.json()["id"]))
        await again.take()
        said = problem(await ask(world, again.dispatch, "odd.echo", {"text": "x"}), code)
        assert said["blocks"] is True
    else:
        again = await replay(life, world)
    row = await again.row()
    assert (row["state"], row["reason"]) == ("failed", "blocked")
    assert row["reason_note"] == (await life.row())["reason_note"]
    found = await diff(again)
    assert found["calls"]["same_in_all"] and found["calls"]["same"] == 1 and found["outcome"]["same_in_all"], found


async def test_a_number_that_is_written_like_a_large_integer_is_played(world: World) -> None:
    """1e16 is 10000000000000000 in canonical form, which read as an integer has none."""
    life = await under_way(world)
    problem(await ask(world, life.dispatch, "workspace.search", {"query": "x", "limit": 1e16}), "validation")
    await life.complete()
    await world.run_work("review")
    assert (await diff(await replay(life, world)))["same"] is True
    assert (await world.operator.get(f"/v1/missions/{life.id}/recording")).status_code == 200
