"""The short way into the routes of tools and models answers as the framework does, right or wrong."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import pytest

from app.http.lane import Lane
from app.http.limits import Lease
from tests.boundary.calls import call, token_of
from tests.models.conftest import ASK, House, house
from tests.tools.registered import ask, mission_with
from tests.world import World
from tests.world.checks import impersonal
from tests.world.life import Life

__all__ = ["house"]

TRACED = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
Send = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]
BothWays = Callable[[Send], Awaitable[tuple[httpx.Response, httpx.Response]]]


@pytest.fixture
def both_ways(monkeypatch: pytest.MonkeyPatch, world: World) -> BothWays:
    """Sends the same once by the short way and once, without a lane, through the framework; answers both."""
    short, take = list[str](), Lane.take

    async def noticed(self: Lane, *arguments: Any) -> None:
        short.append("taken")
        await take(self, *arguments)

    monkeypatch.setattr(Lane, "take", noticed)

    async def sent(send: Send) -> tuple[httpx.Response, httpx.Response]:
        answers = []
        for lane, taken in ((world.internal.lane, ["taken"]), (None, [])):
            short.clear()
            inside = httpx.ASGITransport(world.internal)
            with monkeypatch.context() as patched:
                patched.setattr(world.internal, "lane", lane)
                async with httpx.AsyncClient(transport=inside, base_url="http://root", headers=TRACED) as via:
                    answers.append(await send(via))
            assert short == taken
        return answers[0], answers[1]

    return sent


def tools_of(world: World, life: Life, tool: str, body: bytes, token: str | None = None) -> Send:
    path = f"/internal/v1/missions/{life.id}/tools/{tool}/calls"
    return lambda via: call(world, path, body, token or life.dispatch.mission_token, via=via)


@pytest.mark.parametrize(
    "body",
    [b'{"arguments": {}}', b'{"arguments": {"x": 1}}', b'{"arguments": [', b"[]", b'{"arguments": {"n": 1e999}}'],
    ids=["right", "unknown argument", "no json", "no object", "no number"],
)
async def test_a_tools_answer_is_the_same_both_ways(world: World, both_ways: BothWays, body: bytes) -> None:
    life = await mission_with(world, "workspace.outline")
    one, other = await both_ways(tools_of(world, life, "workspace.outline", body))
    assert impersonal(one) == impersonal(other)
    assert "traceparent" in one.headers and "traceparent" in other.headers
    told = {"request-id", "ratelimit-policy"}
    assert told & set(one.headers) == told & set(other.headers)


@pytest.mark.parametrize("tool", ["workspace.read", "nothing", "nobody.knows"])
@pytest.mark.parametrize("stranger", [False, True])
async def test_a_refusal_is_the_same_both_ways(world: World, both_ways: BothWays, tool: str, stranger: bool) -> None:
    life = await mission_with(world, "workspace.outline")
    token = token_of(world, life.dispatch, audience="gateway") if stranger else None
    one, other = await both_ways(tools_of(world, life, tool, b'{"arguments": {}}', token))
    own = {"policy_decision": "", "request_id": ""}
    assert one.json() | own == other.json() | own and one.status_code == other.status_code


@pytest.mark.parametrize(
    "said",
    [{"model": "small", "messages": ASK}, {"model": "nobody", "messages": ASK}, {"model": "small"}, "x"],
    ids=["right", "unknown", "incomplete", "no object"],
)
async def test_a_models_answer_is_the_same_both_ways(house: House, both_ways: BothWays, said: Any) -> None:
    life = await house.mission()
    path = f"/internal/v1/missions/{life.id}/openai/v1/chat/completions"
    more = {"Authorization": f"Bearer {life.dispatch.gateway_token}", "Content-Type": "application/json"}
    one, other = await both_ways(lambda via: via.post(path, content=json.dumps(said), headers=more))
    assert one.status_code == other.status_code
    shown = [answer.json() for answer in (one, other)]
    for each in shown:
        each.get("error", {}).pop("request_id", None)
    assert shown[0] == shown[1]
    assert one.headers.get("x-should-retry") == other.headers.get("x-should-retry")


# --- calls that somebody sends again


@dataclass
class Called:
    """A mission that may make three calls, and no more for as long as a test takes; it has made one."""

    life: Life
    lease: Lease
    answer: httpx.Response
    again: Callable[[], Awaitable[httpx.Response]]  # the same call once more, with its nonce
    well_formed: bool


@pytest.fixture(params=[b'{"arguments": {}}', b'{"arguments": ['], ids=["right", "malformed"])
async def called(world: World, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Called:
    life = await mission_with(world, "workspace.outline")
    limits = world.root.limits
    monkeypatch.setattr(limits, "mission_per_s", 0.001)
    monkeypatch.setattr(limits, "burst_s", 3 * 1000.0)
    limits.leases.clear()
    lease = limits.lease(limits.bucket_of(life.dispatch.envelope.tenant_id, life.id))
    path = f"/internal/v1/missions/{life.id}/tools/workspace.outline/calls"
    send = partial(call, world, path, request.param, life.dispatch.mission_token, nonce="n" * 24)
    return Called(life, lease, await send(), send, request.param.endswith(b"}"))


async def test_a_call_that_is_sent_again_uses_up_nobodys_rate(world: World, called: Called) -> None:
    assert called.answer.status_code == (200 if called.well_formed else 422)
    for _ in range(4):
        called.lease.until = 0.0  # what a process has leased is lost after a second
        assert (await called.again()).status_code == 401
    assert (await ask(world, called.life.dispatch, "workspace.outline")).status_code == 200
    assert len(await called.life.facts("tool.called")) == 1 + called.well_formed


async def test_what_was_taken_for_a_call_that_another_process_knew_goes_back(world: World, called: Called) -> None:
    world.root.nonces.used.clear()
    assert called.lease.tokens == 0
    assert (await called.again()).status_code == 401
    assert called.lease.tokens == 1
