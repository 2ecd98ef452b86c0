"""A proposal for what is so already is put before nobody, and written by nobody."""

from typing import Any

from tests.approvals.desk import post
from tests.executor.field import approved_change
from tests.world import World
from tests.world.colony import proposal


async def proposed(world: World, changes: dict[str, Any], lead: str = "L-1001") -> str:
    """A mission that proposes changes to one lead and has been reviewed; its id."""
    dispatch = await world.dispatch(mission_type="crm_lead_intelligence")
    record = await world.colony.tool(dispatch, "crm.read", kind="lead", id=lead)
    await world.colony.complete(dispatch, proposals=[proposal(dispatch.envelope, record, changes)])
    await world.run_work("review")
    return str(dispatch.mission_id)


async def asked(world: World, mission: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await world.operator.get(f"/v1/approvals?mission={mission}")).json()["items"]
    return items


async def withheld(world: World, mission: str) -> list[str]:
    return [fact["body"] for fact in await world.facts(mission) if fact["type"] == "writeback.withheld"]


async def test_a_second_identical_proposal_finds_nothing_to_do(world: World) -> None:
    change = await approved_change(world)
    assert (await change.run())["state"] == "succeeded"
    again = await proposed(world, {"priority": "high"})
    assert await asked(world, again) == []
    [said] = await withheld(world, again)
    assert '"already_so"' in said and "high" not in said  # a fact says why, and quotes nothing
    assert (await world.mission(again))["state"] == "completed"
    assert len(await change.changes()) == 1


async def test_one_value_that_differs_is_asked_about(world: World) -> None:
    change = await approved_change(world)
    await change.run()
    again = await proposed(world, {"priority": "high", "next_action": "Call before noon"})
    assert len(await asked(world, again)) == 1
    assert await withheld(world, again) == []


async def test_a_target_that_cannot_be_read_keeps_nobody_from_being_asked_and_the_executor_looks_again(
    world: World,
) -> None:
    change = await approved_change(world)
    await change.run()
    world.worker.settings = world.settings(crm_base_url="http://127.0.0.1:9")
    change.approval = await only(world, await proposed(world, {"priority": "high"}))
    change.__post_init__()
    assert (await post(world.operator, change.approval)).status_code == 201
    seen = await change.run()
    assert (seen["state"], seen["receipt"]["finding"]) == ("succeeded", "nothing_to_do")
    assert len(await change.changes()) == 1  # the first one
    assert seen["receipt"]["current"]["version"] == "2"


async def only(world: World, mission: str) -> dict[str, Any]:
    [one] = await asked(world, mission)
    return dict((await world.operator.get(f"/v1/approvals/{one['id']}")).json())
