"""What a mission may be given, what it is told of it, and what becomes of one that is refused what it cannot do without."""

from typing import Any

import pytest

from app.tools.sessions import Drifted
from tests.boundary.calls import call
from tests.replay.test_recorded import diff, replay
from tests.tools.odd_server import Odd, odd_server, served_odd
from tests.tools.registered import ask, entry, mission_with, plant, register
from tests.world import World
from tests.world.checks import problem
from tests.world.life import begin, under_way

KIND = {
    "title": "Odd questions", "description": "Asked of the odd server.", "inputs_schema": {"type": "object"},
    "tools": ["workspace.search", "odd.echo"], "needs": ["odd.echo"],
    "defaults": {"risk_level": "low", "sensitivity_class": "internal", "mode": "assisted"},
    "limits": {"time_ms": 600000, "tokens": 1000, "cost_usd": 1}, "review": {"min_coverage": 1.0},
}  # fmt: skip
WHY = {"json": {"reason": "a test"}}


@pytest.fixture
async def odd(anyio_backend: str) -> Any:
    async with served_odd() as server:
        yield server


async def put_kind(world: World, **more: Any) -> Any:
    return await world.product_owner.put("/v1/mission-types/odd_questions", json=KIND | more)


async def test_intake_takes_registered_tools_and_refuses_unknown_ones_by_their_place(world: World) -> None:
    await plant(world, "web", entry("search", reach="public"), entry("read"))
    asked = {"mission_type": "oracle_advisory", "user_goal": "What?"}
    for tools, place in ((["workspace.read", "web.nothing"], 1), (["nothing.search"], 0), (["web"], 0)):
        for query in ("", "?validate_only=true"):
            said = problem(
                await world.submitter.post(f"/v1/missions{query}", json=asked | {"tools": tools}), "validation"
            )
            assert said["errors"][0]["pointer"] == f"/tools/{place}"
    made = await world.create(tools=["web.read", "crm.update"])
    assert made["state"] == "accepted"


async def test_a_type_names_tools_that_there_are_and_needs_some_of_them(world: World) -> None:
    assert problem(await put_kind(world), "validation")["errors"][0]["pointer"] == "/tools/1"
    await plant(world, "odd", entry("echo"))
    assert problem(await put_kind(world, needs=["crm.read"]), "validation")["errors"][0]["pointer"] == "/needs/0"
    assert (await put_kind(world)).json()["needs"] == ["odd.echo"]


async def test_a_colony_is_told_what_it_may_call(world: World, odd: Odd) -> None:
    await register(world, odd, "echo", entry("add", reach="public"))
    await put_kind(world)
    life = await under_way(world, mission_type="odd_questions")
    offers = await world.colony.root.tools(life.id, 1)  # type: ignore[union-attr]
    assert [(one.name, one.access, one.reach, one.needed, one.usable) for one in offers] == [
        ("workspace.search", "read", "internal", False, True), ("odd.echo", "read", "internal", True, True),
    ]  # fmt: skip
    assert offers[1].input_schema["required"] == ["text"] and offers[1].description == "Says it again."
    assert offers[0].input_schema["properties"]["query"]["maxLength"] == 2000
    await world.operator.post("/v1/tool-layers/odd/halt", **WHY)
    [_, echo] = await world.colony.root.tools(life.id, 1)  # type: ignore[union-attr]
    assert not echo.usable and "halted" in str(echo.why)
    path = f"/internal/v1/missions/{life.id}/tools"
    problem(await call(world, path, b"", None, method="GET"), "unauthenticated")
    problem(await world.inside.get(path), "unauthenticated")


@pytest.mark.parametrize("cause", ["halted", "denied", "drifted", "found drifted"])
async def test_a_mission_that_is_refused_what_it_needs_is_blocked_with_the_reason(
    world: World, odd: Odd, cause: str
) -> None:
    await register(world, odd)
    await put_kind(world)
    life = await under_way(world, mission_type="odd_questions")
    code = "tool_drifted"
    if cause == "halted":
        code = "tool_halted"
        await world.operator.post("/v1/tool-layers/odd/halt", **WHY)
    elif cause == "denied":
        code = "denied_by_policy"
        rule = '@id("own.no") @reason("Not today.") forbid (principal, action == Action::"tool.call", resource);'
        await world.policy_owner.put("/v1/policies/own", json={"text": rule})
    else:
        await odd.become(odd_server(drifted=True))
        if cause == "drifted":
            await world.operator.post("/v1/tool-layers/odd/check")
    said = problem(await ask(world, life.dispatch, "odd.echo", {"text": "x"}), code)
    assert said["blocks"] is True
    row = await life.row()
    assert (row["state"], row["reason"]) == ("failed", "blocked")
    assert row["reason_note"].startswith("odd.echo, which the mission cannot do without, was refused")
    problem(await ask(world, life.dispatch, "workspace.search", {"query": "x"}), "mission_closed")


async def test_a_tool_found_drifted_is_on_the_tape_of_the_mission_that_it_ends(world: World, odd: Odd) -> None:
    await register(world, odd)
    await put_kind(world)
    life = await under_way(world, mission_type="odd_questions")
    await odd.become(odd_server(drifted=True))
    problem(await ask(world, life.dispatch, "odd.echo", {"text": "x"}), "tool_drifted")
    [(_, failed)] = await life.facts("tool.failed")
    assert (failed["tool"], failed["code"], failed["attempt"]) == ("odd.echo", "tool_drifted", 1)
    found = await diff(await replay(life, world))
    assert found["divergence"] is None and found["calls"]["same_in_all"] and found["calls"]["same"] == 1


async def test_the_word_of_an_attempt_that_is_over_ends_no_later_one(
    world: World, odd: Odd, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(world, odd)
    await put_kind(world)
    life = await under_way(world, mission_type="odd_questions")

    async def meanwhile(*_: Any) -> Any:
        assert (await life.end("redispatch")).status_code == 200
        raise Drifted(["echo"])

    monkeypatch.setattr(world.root.tools, "ask", meanwhile)
    said = problem(await ask(world, life.dispatch, "odd.echo", {"text": "x"}), "tool_drifted")
    row = await life.row()
    assert "blocks" not in said and (row["state"], row["attempt"]) == ("accepted", 2)
    assert [body["attempt"] for _, body in await life.facts("tool.failed")] == [1]


async def test_a_first_word_that_overtakes_the_answer_to_the_dispatch_blocks_too(world: World, odd: Odd) -> None:
    await register(world, odd)
    await put_kind(world)
    await world.operator.post("/v1/tool-layers/odd/halt", **WHY)
    life = await begin(world, mission_type="odd_questions")
    world.colony.answer = "busy"  # it has the mission in its hands; that it took it is not known yet
    await life.take()
    assert await life.state() == "accepted"
    assert problem(await ask(world, life.dispatch, "odd.echo", {"text": "x"}), "tool_halted")["blocks"] is True
    row = await life.row()
    assert (row["state"], row["reason"]) == ("failed", "blocked")
    moves = [kind for kind, _ in await life.facts("mission.")]
    assert moves[-3:] == ["mission.dispatched", "mission.running", "mission.failed"]
    world.colony.answer = "accepted"
    await world.make_due("dispatch")
    await world.run_work("dispatch", "colony_cancel")
    assert await life.state() == "failed" and world.colony.cancelled == [life.id]


async def test_a_mission_goes_on_without_what_it_does_not_need(world: World, odd: Odd) -> None:
    await register(world, odd)
    life = await mission_with(world, "odd.echo", "workspace.search")
    await world.operator.post("/v1/tool-layers/odd/halt", **WHY)
    said = problem(await ask(world, life.dispatch, "odd.echo", {"text": "x"}), "tool_halted")
    assert "blocks" not in said and await life.state() == "running"
    assert (await ask(world, life.dispatch, "workspace.search", {"query": "x"})).status_code == 200
