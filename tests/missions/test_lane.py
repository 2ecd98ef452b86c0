"""The short way and the framework's way into POST /v1/missions: whichever a request takes, it is told the same."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from app.missions.lane import MissionLane
from tests.world import World
from tests.world.checks import as_listed, impersonal, inspector, problem
from tests.world.world import served

pytestmark = pytest.mark.usefixtures("public_tool")
ASK = {"mission_type": "oracle_advisory", "user_goal": "What does the release still need?"}
FULL = {
    **ASK, "inputs": {"workspace": "default"}, "mode": "assisted", "origin_surface": "tests", "risk_level": "low",
    "sensitivity_class": "internal", "budget": {"time_ms": 1000, "tokens": 10, "cost_usd": 0.00005}, "labels": {"a": "b"},
    "tools": ["workspace.search"],
}  # fmt: skip
BODIES: dict[str, bytes] = {
    name: json.dumps(body).encode()
    for name, body in {
        "plain": ASK,
        "full": FULL,
        "denied": {**ASK, "sensitivity_class": "restricted", "tools": ["web.search"]},
        "asks a human": {**ASK, "mode": "autonomous", "risk_level": "high"},
        "no such type": {**ASK, "mission_type": "nothing_known"},
        "a field too many": {**ASK, "surprise": 1},
        "nothing to read": {**ASK, "user_goal": " \u200b "},
        "words of many scripts": {**ASK, "user_goal": "Ｗａs \u00e9 e\u0301 \n\n  \u0627\u200c\u0644 \U0001f600?"},
        "wrong inputs": {**ASK, "inputs": {"workspace": 5}},
        "a whole cost": {**ASK, "budget": {"cost_usd": 1}},
        "too little": {"mission_type": "oracle_advisory"},
    }.items()
} | {
    "no json": b"{",
    "a key twice": b'{"mission_type": "oracle_advisory", "user_goal": "a?", "user_goal": "b?"}',
    "not a number": b'{"mission_type": "oracle_advisory", "user_goal": "a?", "budget": {"cost_usd": NaN}}',
    "a lone surrogate": b'{"mission_type": "oracle_advisory", "user_goal": "\\ud800"}',
    "not utf-8": b'{"mission_type": "oracle_advisory", "user_goal": "\xff"}',
    "nothing": b"",
    "a list": b"[]",
    "deep": b'{"mission_type": "oracle_advisory", "user_goal": "a?", "inputs": ' + b'{"a":' * 40 + b"1" + b"}" * 41,
}  # fmt: skip


@pytest.fixture
def short(world: World, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Which requests were answered by the lane itself."""
    taken: list[bool] = []
    take = MissionLane.take

    async def noted(self: MissionLane, *args: Any) -> Any:
        taken.append(True)
        return await take(self, *args)

    monkeypatch.setattr(MissionLane, "take", noted)
    return taken


async def post(http: httpx.AsyncClient, body: bytes, kind: str = "application/json", **headers: str) -> httpx.Response:
    return await http.post("/v1/missions", content=body, headers={"Content-Type": kind, **headers})


LONG = "application/json; charset=utf-8"  # the lane knows no parameters


@pytest.mark.parametrize("name", BODIES)
async def test_both_ways_tell_the_same(world: World, short: list[bool], name: str) -> None:
    await post(world.submitter, BODIES["plain"])  # seen before
    short.clear()
    quick = await post(world.submitter, BODIES[name])
    went = bool(short)
    short.clear()
    slow = await post(world.submitter, BODIES[name], LONG)
    assert not short
    assert went is (name in ("plain", "full", "denied", "asks a human", "no such type", "nothing to read", "wrong inputs",
                             "words of many scripts", "a whole cost")), "which way it took"  # fmt: skip
    if quick.status_code == 202:
        own = ("id", "created_at", "updated_at", "links")
        said = [{n: v for n, v in one.json().items() if n not in own} for one in (quick, slow)]
        assert said[0] == said[1] and list(quick.json()) == list(slow.json())
        assert {n: len(v) for n, v in quick.headers.items() if n != "traceparent"} == {
            n: len(v) for n, v in slow.headers.items() if n != "traceparent"
        }
        shown = await world.submitter.get(quick.headers["location"])
        assert as_listed(shown.json()) == quick.json()
    else:
        quick_said, slow_said = impersonal(quick), impersonal(slow)
        for said in (quick_said, slow_said):
            said[1].pop("policy_decision", None)
            said[2].pop("content-length", None)
        assert quick_said == slow_said


@pytest.mark.parametrize(
    "headers",
    [{"Idempotency-Key": ""}, {"Idempotency-Key": "a b"}, {"Idempotency-Key": "\u00e9"}, {"Authorization": "Basic x"},
     {"Authorization": "Bearer"}, {"Authorization": "Bearer \u00e9"}, {"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}],
    ids=str,
)  # fmt: skip
async def test_odd_headers_are_the_frameworks(world: World, short: list[bool], headers: dict[str, str]) -> None:
    await post(world.submitter, BODIES["plain"])
    short.clear()
    raw = {name: value.encode() for name, value in headers.items()}
    answers = [
        await world.submitter.post(
            "/v1/missions", content=BODIES["plain"], headers={"Content-Type": kind, **raw}
        )
        for kind in ("application/json", LONG)
    ]  # fmt: skip
    if "Content-Encoding" not in headers:
        assert not short
    assert impersonal(answers[0])[0] == impersonal(answers[1])[0]


async def test_a_repeated_request_is_the_same_whichever_way_it_takes(world: World, short: list[bool]) -> None:
    first = await post(world.submitter, BODIES["full"], **{"Idempotency-Key": "k"})
    quick = await post(world.submitter, BODIES["full"], **{"Idempotency-Key": "k"})
    slow = await post(world.submitter, BODIES["full"], LONG, **{"Idempotency-Key": "k"})
    assert first.content == quick.content == slow.content and len(short) == 1
    assert quick.headers["idempotent-replayed"] == slow.headers["idempotent-replayed"] == "true"
    problem(await post(world.submitter, BODIES["plain"], **{"Idempotency-Key": "k"}), "idempotency_mismatch")


@pytest.mark.parametrize("at", [0, 10])
async def test_a_body_that_comes_late_is_waited_for_by_the_framework(world: World, short: list[bool], at: int) -> None:
    await post(world.submitter, BODIES["plain"])
    short.clear()
    async with served(world.public) as base:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(base.rpartition(":")[2]))
        head = f"POST /v1/missions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.people['submitter'].key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(BODIES['full'])}\r\nConnection: close\r\n\r\n"
        for wait_s, quick in ((0.2, 0), (0.0, 1)):
            writer.write(head.encode() + BODIES["full"][:at])
            await writer.drain()
            await asyncio.sleep(wait_s)  # what is tested is the time
            writer.write(BODIES["full"][at:])
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 202 "), answer
            assert len(short) == quick
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", int(base.rpartition(":")[2]))
        writer.close()


async def test_a_trace_that_somebody_keeps_is_continued(world: World, short: list[bool]) -> None:
    await post(world.submitter, BODIES["plain"])
    short.clear()
    kept, thrown = f"00-{'a' * 32}-{'b' * 16}-01", f"00-{'c' * 32}-{'d' * 16}-00"
    answer = await post(world.submitter, BODIES["plain"], traceparent=kept)
    assert answer.status_code == 202 and answer.headers["traceparent"].split("-")[1] == "a" * 32
    made = await post(world.submitter, BODIES["plain"], traceparent=thrown)
    assert len(short) == 2 and "traceparent" not in made.headers
    row = await (await inspector(world)).fetchval(
        "SELECT traceparent FROM mission WHERE id::text = $1", made.json()["id"]
    )
    assert row == thrown


async def test_a_share_of_requests_leaves_a_trace(
    world: World, short: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    await post(world.submitter, BODIES["plain"])
    lane, spans, within = world.public.lane, list[str](), world.public.lane.traced

    async def noted(*args: Any) -> None:
        spans.append("made")
        await within(*args)

    monkeypatch.setattr(lane, "traced", noted)
    short.clear()
    for share, made in ((1.0, 3), (0.0, 0)):
        lane.sample = share
        spans.clear()
        for _ in range(3):
            assert (await post(world.submitter, BODIES["plain"])).status_code == 202
        assert len(spans) == made
    assert len(short) == 6


async def test_a_closed_colony_closes_both_ways(world: World) -> None:
    await post(world.submitter, BODIES["plain"])
    world.public.state.settings.colony_enabled = False
    for kind in ("application/json", LONG):
        problem(await post(world.submitter, BODIES["plain"], kind), "colony_disabled")


async def test_rates_hold_on_the_short_way(world: World, short: list[bool]) -> None:
    await post(world.submitter, BODIES["plain"])
    seen = await post(world.submitter, BODIES["plain"])
    assert "ratelimit" in seen.headers and short
    world.root.limits.rates["key"] = 0.001
    world.root.limits.buckets.clear()
    world.root.limits.leases.clear()
    refused = None
    for _ in range(50):
        refused = await post(world.submitter, BODIES["plain"])
        if refused.status_code != 202:
            break
    assert refused is not None
    assert problem(refused, "rate_limited")["limit"] == "key" and int(refused.headers["retry-after"]) >= 1
