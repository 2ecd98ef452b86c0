"""Idempotency-Key on POST /v1/missions and its siblings: once per key, whoever asks again, however soon."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.world import World
from tests.world.checks import census, inspector, problem

pytestmark = pytest.mark.usefixtures("public_tool")
ASK: dict[str, Any] = {"mission_type": "oracle_advisory", "user_goal": "What is there?"}
DENIED = {**ASK, "sensitivity_class": "restricted", "tools": ["web.search"]}
KEY = {"Idempotency-Key": "order-66"}


async def ask(client: httpx.AsyncClient, body: Any = ASK, **headers: str) -> httpx.Response:
    return await client.post("/v1/missions", json=body, headers=KEY | headers)


async def test_a_replay_answers_the_same_bytes(world: World) -> None:
    first = await ask(world.submitter)
    assert first.status_code == 202
    assert "idempotent-replayed" not in first.headers
    after_first = await census(world)
    await world.run_work()  # the mission moves on; the answer stays what it was
    moved = await census(world)
    for _ in range(2):
        again = await ask(world.submitter)
        assert (again.status_code, again.content) == (202, first.content)
        assert again.headers["idempotent-replayed"] == "true"
        for name in ("location", "etag", "content-type"):
            assert again.headers[name] == first.headers[name]
    assert await census(world) == moved
    assert moved["mission"] == after_first["mission"] == 1
    assert (await world.mission(first.json()["id"]))["state"] != first.json()["state"]


async def test_another_body_under_the_key_is_refused(world: World) -> None:
    assert (await ask(world.submitter)).status_code == 202
    before = await census(world)
    problem(await ask(world.submitter, {**ASK, "user_goal": "Something else?"}), "idempotency_mismatch")
    spaced = json.dumps(ASK, indent=1).encode()
    headers = {**KEY, "Content-Type": "application/json"}
    problem(await world.submitter.post("/v1/missions", content=spaced, headers=headers), "idempotency_mismatch")
    problem(await world.submitter.post("/v1/missions?x=1", json=ASK, headers=KEY), "idempotency_mismatch")
    assert await census(world) == before


async def test_while_the_first_one_runs_the_second_is_told(world: World) -> None:
    connection = await world.connect("api")
    tenant, submitter = await world.tenant(), (await world.create())["requested_by"]
    name = f"{tenant}|{submitter}|missions.create|{KEY['Idempotency-Key']}"
    before = await census(world)
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 11))", name)
        answer = await ask(world.submitter)
        problem(answer, "idempotency_in_flight")
        assert answer.headers["retry-after"] == "1"
        other = await world.submitter.post("/v1/missions", json=ASK, headers={"Idempotency-Key": "another"})
        assert other.status_code == 202
    assert (await census(world))["mission"] == before["mission"] + 1
    assert (await ask(world.submitter)).status_code == 202


async def test_many_at_once_make_one_mission(world: World) -> None:
    answers = await asyncio.gather(*(ask(world.submitter) for _ in range(5)))
    assert (await census(world))["mission"] == 1
    made = [answer for answer in answers if answer.status_code == 202]
    assert len({answer.content for answer in made}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in made) == 1
    for answer in answers:
        if answer not in made:
            problem(answer, "idempotency_in_flight")


async def test_a_key_belongs_to_its_principal_and_route(world: World) -> None:
    stranger = await world.another_tenant()
    people = (world.submitter, world.operator, stranger.http)
    made = [(await ask(client)).json()["id"] for client in people]
    assert len(set(made)) == 3
    ended = await world.submitter.post(
        f"/v1/missions/{made[0]}/cancel", json={"reason": "x"}, headers={**KEY, "If-Match": '"v1"'}
    )
    assert (ended.status_code, ended.headers.get("idempotent-replayed")) == (200, None)


async def test_a_request_that_failed_leaves_its_key_free(world: World) -> None:
    problem(await ask(world.submitter, {**ASK, "mode": "reckless"}), "validation")
    problem(await ask(world.submitter, {**ASK, "mission_type": "no_such_type"}), "validation")
    problem(await ask(world.auditor), "forbidden")
    world.public.state.settings = world.settings(colony_enabled=False)
    problem(await ask(world.submitter), "colony_disabled")
    world.public.state.settings = world.settings()
    connection = await inspector(world)
    assert await connection.fetchval("SELECT count(*) FROM idempotency") == 0
    assert (await ask(world.submitter)).status_code == 202


async def test_a_denial_is_an_answer_and_is_replayed(world: World) -> None:
    first = await ask(world.submitter, DENIED)
    problem(first, "denied_by_policy")
    before = await census(world)
    again = await ask(world.submitter, DENIED)
    assert (again.status_code, again.content) == (403, first.content)
    assert again.headers["content-type"] == "application/problem+json"
    assert again.headers["idempotent-replayed"] == "true"
    assert await census(world) == before
    problem(await ask(world.submitter, ASK), "idempotency_mismatch")


async def test_without_the_header_each_post_is_its_own(world: World) -> None:
    made = {(await world.submitter.post("/v1/missions", json=ASK)).json()["id"] for _ in range(3)}
    assert len(made) == 3
    assert (await census(world))["idempotency"] == 0


async def test_the_longest_and_oddest_keys_work(world: World) -> None:
    for key in ("x" * 255, "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~", str(uuid4())):
        first = await ask(world.submitter, ASK, **{"Idempotency-Key": key})
        again = await ask(world.submitter, ASK, **{"Idempotency-Key": key})
        assert first.content == again.content
        assert "idempotent-replayed" in again.headers


async def test_a_replayed_cancel_is_the_first_one(world: World) -> None:
    made = await world.create()
    headers = {**KEY, "If-Match": '"v1"'}
    path = f"/v1/missions/{made['id']}/cancel"
    first = await world.operator.post(path, json={"reason": "asked twice"}, headers=headers)
    assert first.status_code == 200
    again = await world.operator.post(path, json={"reason": "asked twice"}, headers=headers)
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["etag"] == first.headers["etag"]
    problem(await world.operator.post(path, json={"reason": "another"}, headers=headers), "idempotency_mismatch")
    other = await world.create()
    elsewhere = await world.operator.post(
        f"/v1/missions/{other['id']}/cancel", json={"reason": "asked twice"}, headers=headers
    )
    problem(elsewhere, "idempotency_mismatch")


async def test_stored_answers_are_forgotten_in_time(world: World) -> None:
    first = (await ask(world.submitter)).json()["id"]
    connection = await inspector(world)
    await connection.execute("UPDATE idempotency SET created_at = created_at - interval '8 days'")
    worker = await world.connect("worker")
    await worker.execute("SELECT sweep_expired(100)")
    assert (await ask(world.submitter)).json()["id"] != first
