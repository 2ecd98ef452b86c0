"""POST …/cancel and …/fail: on a version that was seen, by those who may, and with everything kept."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.world import World
from tests.world.checks import as_listed, census, fact_types, hire, inspector, pending_change, problem

VERBS = {"cancel": "cancelled", "fail": "failed"}
both = pytest.mark.parametrize("verb", VERBS)


async def end(
    client: httpx.AsyncClient, mission: Any, verb: str, tag: str | None = None, **body: Any
) -> httpx.Response:
    headers = {"If-Match": tag} if tag else {}
    return await client.post(f"/v1/missions/{mission}/{verb}", json={"reason": "asked twice", **body}, headers=headers)


async def tag(world: World, mission: Any) -> str:
    return (await world.operator.get(f"/v1/missions/{mission}")).headers["etag"]


@both
async def test_a_mission_ends_and_says_why(world: World, verb: str) -> None:
    made = await world.create()
    answer = await end(world.operator, made["id"], verb, '"v1"')
    assert answer.status_code == 200, answer.text
    ended = answer.json()
    assert (ended["state"], ended["reason_note"]) == (VERBS[verb], "asked twice")
    assert ended["reason"] == {"cancel": "cancelled", "fail": "operator"}[verb]
    assert ended["closed_at"] and answer.headers["etag"] == f'"v{ended["version"]}"' == await tag(world, made["id"])
    assert (await fact_types(world, made["id"]))[-1] == f"mission.{VERBS[verb]}"
    assert "asked twice" not in str(await world.facts(made["id"]))
    await world.run_work()
    assert world.colony.dispatched == []
    assert (await census(world))["work"] == 0


@both
async def test_without_the_version_nothing_happens(world: World, verb: str) -> None:
    made = await world.create()
    before = await census(world)
    missing = await end(world.operator, made["id"], verb)
    problem(missing, "precondition_required")
    assert missing.headers["etag"] == '"v1"'
    stale = await end(world.operator, made["id"], verb, '"v9"')
    current = problem(stale, "stale")["current"]
    assert current == as_listed(await world.mission(made["id"]))
    assert stale.headers["etag"] == '"v1"'
    for body in ({"reason": ""}, {"reason": "x" * 2001}, {"reason": None}, {"more": 1}):
        problem(await end(world.operator, made["id"], verb, '"v1"', **body), "validation")
    assert await census(world) == before


@both
async def test_a_moved_mission_needs_its_new_version(world: World, verb: str) -> None:
    dispatch = await world.dispatch()
    problem(await end(world.operator, dispatch.mission_id, verb, '"v1"'), "stale")
    now = await tag(world, dispatch.mission_id)
    assert (await end(world.operator, dispatch.mission_id, verb, now)).status_code == 200


@both
async def test_what_has_ended_does_not_end_again(world: World, verb: str) -> None:
    made = await world.create()
    assert (await end(world.operator, made["id"], "cancel", '"v1"')).status_code == 200
    before = await census(world)
    for seen in ('"v1"', await tag(world, made["id"])):
        said = problem(await end(world.operator, made["id"], verb, seen), "wrong_state")
        assert said["current"] == {"id": made["id"], "state": "cancelled"}
    problem(await end(world.operator, uuid4(), verb, '"v1"'), "not_found")
    assert await census(world) == before


async def test_a_submitter_ends_only_missions_of_their_own(world: World) -> None:
    own = await world.create()
    others = (
        await world.operator.post("/v1/missions", json={"mission_type": "oracle_advisory", "user_goal": "Mine?"})
    ).json()
    colleague = await hire(world, "colleague", "submitter")
    problem(await end(world.submitter, others["id"], "cancel", '"v1"'), "forbidden")
    problem(await end(colleague.http, own["id"], "cancel", '"v1"'), "forbidden")
    problem(await end(world.submitter, own["id"], "fail", '"v1"'), "forbidden")
    assert (await world.mission(others["id"]))["state"] == "accepted"
    assert (await end(world.submitter, own["id"], "cancel", '"v1"')).status_code == 200
    both_roles = await hire(world, "both", "submitter", "operator")
    assert (await end(both_roles.http, others["id"], "cancel", '"v1"')).status_code == 200


@both
async def test_the_colony_is_told_and_artifacts_stay(world: World, verb: str) -> None:
    dispatch = await world.dispatch()
    mission = dispatch.mission_id
    await world.colony.send(dispatch)
    kept = (await world.submitter.get(f"/v1/missions/{mission}/artifacts")).json()["items"]
    assert (await end(world.operator, mission, verb, await tag(world, mission))).status_code == 200
    connection = await inspector(world)
    kinds = {row["kind"] for row in await connection.fetch("SELECT kind FROM work WHERE subject = $1", mission)}
    assert kinds == {"colony_cancel"}
    assert world.colony.cancelled == []
    await world.run_work("colony_cancel")
    assert world.colony.cancelled == [mission]
    assert (await world.submitter.get(f"/v1/missions/{mission}/artifacts")).json()["items"] == kept != []
    receipt = await world.colony.send(dispatch)
    assert receipt.stop
    assert (await world.submitter.get(f"/v1/missions/{mission}/packet")).status_code == 200


@both
async def test_what_waits_for_a_human_dies_with_its_mission(world: World, verb: str) -> None:
    change = await pending_change(world)
    mission = change["mission_id"]
    answer = await end(world.operator, mission, verb, await tag(world, mission))
    assert answer.status_code == 200, answer.text
    assert (answer.json()["pending_approvals"], answer.json()["writebacks"]) == ([], {"cancelled": 1})
    assert (await world.operator.get(f"/v1/approvals/{change['id']}")).json()["state"] == "cancelled"
    late = await world.operator.post(
        f"/v1/approvals/{change['id']}/decisions",
        json={"decision": "approve", "payload_sha256": change["payload_sha256"]},
        headers={"If-Match": change["etag"]},
    )
    problem(late, "wrong_state")
    assert (await census(world))["execution"] == 0


async def test_of_many_at_once_one_ends_it(world: World) -> None:
    made = await world.create()
    answers = await asyncio.gather(
        *(end(world.operator, made["id"], verb, '"v1"') for verb in ("cancel", "fail", "cancel"))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409]
    facts = [name for name in await fact_types(world, made["id"]) if name in ("mission.cancelled", "mission.failed")]
    assert len(facts) == 1


async def test_an_end_that_cannot_be_committed_did_not_happen(world: World) -> None:
    made = await world.create()
    connection = await inspector(world)
    await connection.execute(
        """CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
           CREATE CONSTRAINT TRIGGER broken AFTER UPDATE ON mission DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION broken()"""
    )
    before = await census(world)
    problem(await end(world.operator, made["id"], "cancel", '"v1"'), "internal")
    assert await census(world) == before
    row = await connection.fetchrow("SELECT state, version FROM mission WHERE id = $1", UUID(made["id"]))
    assert tuple(row) == ("accepted", 1)
