"""The short way into the routes of tools and models answers as the framework does, right or wrong."""

import json
from typing import Any

import httpx
import pytest

from tests.boundary.calls import call, token_of
from tests.models.conftest import ASK, House, house
from tests.tools.registered import mission_with
from tests.world import World
from tests.world.checks import impersonal

__all__ = ["house"]

TRACED = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}


def both(one: httpx.Response, other: httpx.Response) -> None:
    first, second = impersonal(one), impersonal(other)
    assert first == second
    assert "traceparent" in other.headers and "traceparent" not in one.headers
    assert {"request-id", "ratelimit-policy"} & set(one.headers) == {"request-id", "ratelimit-policy"} & set(
        other.headers
    )


@pytest.mark.parametrize(
    "body",
    [b'{"arguments": {}}', b'{"arguments": {"x": 1}}', b'{"arguments": [', b"[]", b'{"arguments": {"n": 1e999}}'],
    ids=["right", "unknown argument", "no json", "no object", "no number"],
)
async def test_a_tools_answer_is_the_same_both_ways(world: World, body: bytes) -> None:
    life = await mission_with(world, "workspace.outline")
    path = f"/internal/v1/missions/{life.id}/tools/workspace.outline/calls"
    answers = []
    for headers in ({}, TRACED):
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(world.internal), base_url="http://root", headers=headers
        ) as via:
            answers.append(await call(world, path, body, life.dispatch.mission_token, via=via))
    both(*answers)


@pytest.mark.parametrize("tool", ["workspace.read", "nothing", "nobody.knows"])
async def test_a_refusal_is_the_same_both_ways(world: World, tool: str) -> None:
    life = await mission_with(world, "workspace.outline")
    path = f"/internal/v1/missions/{life.id}/tools/{tool}/calls"
    answers = []
    for headers in ({}, TRACED):
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(world.internal), base_url="http://root", headers=headers
        ) as via:
            answers.append(await call(world, path, b'{"arguments": {}}', life.dispatch.mission_token, via=via))
            stranger = token_of(world, life.dispatch, audience="gateway")
            answers.append(await call(world, path, b'{"arguments": {}}', stranger, via=via))
    said = [{**answer.json(), "policy_decision": ""} for answer in answers]
    for one in said:
        one.pop("request_id")
    assert said[0] == said[2] and said[1] == said[3]
    assert [one.status_code for one in answers[:2]] == [one.status_code for one in answers[2:]]


@pytest.mark.parametrize(
    "said",
    [{"model": "small", "messages": ASK}, {"model": "nobody", "messages": ASK}, {"model": "small"}, "x"],
    ids=["right", "unknown", "incomplete", "no object"],
)
async def test_a_models_answer_is_the_same_both_ways(house: House, said: Any) -> None:
    life = await house.mission()
    answers = []
    for headers in ({}, TRACED):
        async with httpx.AsyncClient(base_url=house.base, headers=headers) as via:
            path = f"/internal/v1/missions/{life.id}/openai/v1/chat/completions"
            more = {"Authorization": f"Bearer {life.dispatch.gateway_token}", "Content-Type": "application/json"}
            answers.append(await via.post(path, content=json.dumps(said), headers=more))
    one, other = answers
    assert one.status_code == other.status_code
    shown = [answer.json() for answer in answers]
    for each in shown:
        each.get("error", {}).pop("request_id", None)
    assert shown[0] == shown[1]
    assert one.headers.get("x-should-retry") == other.headers.get("x-should-retry")


async def test_a_replayed_call_uses_up_nobodys_rate(world: World) -> None:
    life = await mission_with(world, "workspace.outline")
    path = f"/internal/v1/missions/{life.id}/tools/workspace.outline/calls"
    nonce = "n" * 24
    first = await call(world, path, b'{"arguments": {}}', life.dispatch.mission_token, nonce=nonce)
    assert first.status_code == 200
    bucket = world.root.limits.bucket_of(life.dispatch.envelope.tenant_id, life.id)
    before = world.root.limits.lease(bucket).tokens
    again = await call(world, path, b'{"arguments": {}}', life.dispatch.mission_token, nonce=nonce)
    assert again.status_code == 401
    assert world.root.limits.lease(bucket).tokens == before
    assert len(await life.facts("tool.called")) == 1
