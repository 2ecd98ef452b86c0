"""Request rates: across processes, in headers, for guesses; and what happens without the database."""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import structlog
from starlette.requests import Request

from app.caller import Caller
from app.http import limits
from app.http.limits import address_of, grant, networks
from app.http.serving import opened, server
from app.main import Root, public_app
from tests.world import World
from tests.world.checks import inspector, problem

POLICY = re.compile(r'"(\w+)";q=(\d+);w=(\d+)')
STANDING = re.compile(r'"(\w+)";r=(\d+);t=(\d+)')


def read(answer: httpx.Response) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]]:
    """What RateLimit-Policy and RateLimit say; every member has to be well-formed."""
    found = []
    for field, shape in (("ratelimit-policy", POLICY), ("ratelimit", STANDING)):
        members = answer.headers[field].split(", ")
        assert all(shape.fullmatch(member) for member in members), answer.headers[field]
        found.append({m[1]: (int(m[2]), int(m[3])) for m in map(shape.fullmatch, members) if m})
    return found[0], found[1]


@asynccontextmanager
async def served(world: World, address: str = "192.0.2.1", **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Another process of the same installation, as far as its own memory goes."""
    root = Root(world.settings(**settings))
    app = public_app(root)
    transport = httpx.ASGITransport(app, client=(address, 1234), raise_app_exceptions=False)
    async with opened(root, app), httpx.AsyncClient(transport=transport, base_url="http://root.test") as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def ask(client: httpx.AsyncClient, key: str) -> httpx.Response:
    return await client.get("/v1/mission-types", headers=bearer(key))


async def test_every_answer_says_what_is_left(world: World) -> None:
    key = world.people["operator"].key
    async with served(world, rate_limit_key_per_s=2, rate_limit_burst_s=5) as client:
        first = await ask(client, key)
        policy, standing = read(first)
        assert first.status_code == 200
        assert policy["key"] == (10, 5) and set(policy) == set(standing) == {"key", "principal", "tenant"}
        assert standing["key"][0] == 9
        forbidden = await client.post("/v1/missions", json={}, headers=bearer(world.people["auditor"].key))
        assert forbidden.status_code in (403, 422) and read(forbidden)[1]["key"][0] == 9
        unknown = await client.get("/v1/nothing", headers=bearer(key))
        assert "ratelimit" not in unknown.headers, "no route, no door, no count"
        assert "ratelimit" not in (await client.get("/livez")).headers


@pytest.mark.parametrize("scope", ["key", "principal", "tenant"])
async def test_who_asks_too_often_is_told_when_to_come_back_and_then_let_in(world: World, scope: str) -> None:
    key = world.people["operator"].key
    async with served(world, **{f"rate_limit_{scope}_per_s": 2, "rate_limit_burst_s": 2}) as client:
        answers = [await ask(client, key) for _ in range(5)]
        assert [answer.status_code for answer in answers][:4] == [200] * 4
        refused = answers[4] if answers[4].status_code == 429 else await ask(client, key)
        said = problem(refused, "rate_limited")
        assert said["limit"] == scope
        assert read(refused)[1][scope][0] == 0
        wait = int(refused.headers["retry-after"])
        assert wait == 1
        await asyncio.sleep(wait)
        assert (await ask(client, key)).status_code == 200


async def test_one_tenant_does_not_use_up_anothers_rate(world: World) -> None:
    stranger = await world.another_tenant()
    async with served(world, rate_limit_tenant_per_s=1, rate_limit_burst_s=2) as client:
        assert 429 in [(await ask(client, world.people["operator"].key)).status_code for _ in range(5)]
        assert (await ask(client, world.people["auditor"].key)).status_code == 429, "the same tenant"
        assert (await ask(client, stranger.key)).status_code == 200


async def test_a_tenants_own_limit_wins(world: World) -> None:
    made = await world.admin.put("/v1/budgets", json={"rate_key_per_s": 0.1}, headers={"If-Match": '"v0"'})
    assert made.status_code == 200, made.text
    async with served(world, rate_limit_key_per_s=0) as client:
        answers = [await ask(client, world.people["operator"].key) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 429, 429]
    assert int(answers[2].headers["retry-after"]) in (9, 10)


async def test_without_limits_nothing_is_counted(world: World) -> None:
    off = {f"rate_limit_{scope}_per_s": 0 for scope in ("key", "principal", "tenant")}
    async with served(world, **off) as client:
        answer = await ask(client, world.people["operator"].key)
        guess = await ask(client, "mr_12345678_" + "x" * 43)
    assert (answer.status_code, guess.status_code) == (200, 401)
    assert not [name for one in (answer, guess) for name in one.headers if name.startswith("ratelimit")]
    scopes = {row["scope"] for row in await (await inspector(world)).fetch("SELECT scope FROM rate_bucket")}
    assert not scopes & {"key", "principal", "tenant"}


CHILD = """
import asyncio, sys
from app.caller import Caller
from app.db import Way
from app.errors import Problem
from app.http.limits import Limits
from app.settings import Address
from starlette.requests import Request
from uuid import UUID
url, tenant, seconds = sys.argv[1], UUID(sys.argv[2]), float(sys.argv[3])
async def main():
    limits = Limits(Way(Address.of(url), "test"), key_per_s=40, principal_per_s=1e6, tenant_per_s=1e6, mission_per_s=0, burst_s=1,
                    failures_per_minute=0)
    limits.open()
    caller = Caller(tenant, UUID(int=7), "principal:x", credential=UUID(int=8))
    admitted = 0
    async def one():
        nonlocal admitted
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            try:
                await limits.admit(Request({"type": "http", "headers": [], "client": ("127.0.0.1", 1)}), caller)
                admitted += 1
            except Problem:
                await asyncio.sleep(0.01)
    await asyncio.gather(*(one() for _ in range(8)))
    await limits.close()
    print(admitted)
print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main())
"""


async def test_processes_together_never_exceed_the_rate(world: World) -> None:
    """Two real processes, eight eager callers in each: no more than a full bucket and what flowed in meanwhile."""
    tenant = await world.tenant()
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, world.url("api"), str(tenant), "3"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        for _ in range(2)
    ]  # fmt: skip
    try:
        for child in children:
            assert child.stdout and child.stdout.readline() == "ready\n"
        began = time.monotonic()
        for child in children:
            assert child.stdin
            child.stdin.write("\n")
            child.stdin.flush()
        said = [await asyncio.to_thread(child.communicate, timeout=20) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    took, admitted = time.monotonic() - began, [int(out) for out, _ in said]
    assert sum(admitted) <= 40 + 40 * took, (admitted, took)
    assert sum(admitted) >= 80 and min(admitted) > 0, f"a limit that lets nobody through is none either: {admitted}"


async def test_a_flood_of_guesses_ends_before_the_lookup_and_locks_nobody_else_out(world: World) -> None:
    guess, key, other = "mr_12345678_" + "x" * 43, world.people["operator"].key, world.people["auditor"].key
    async with served(world, auth_failures_per_minute=5) as client:
        assert (await ask(client, key)).status_code == 200
        answers = [await ask(client, guess + str(number)) for number in range(8)]
        assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 3
        said = problem(answers[7], "rate_limited")
        assert said["limit"] == "auth_pair" and int(answers[7].headers["retry-after"]) >= 1
        assert read(answers[7])[1]["auth_pair"][0] == 0
        assert (await ask(client, key)).status_code == 200, "who has been here"
        assert (await ask(client, other)).status_code == 200, "and who has not, from the same address"
        for number in range(40):  # every prefix once: the address runs out
            answer = await ask(client, f"mr_{number:08d}_{'y' * 43}")
        assert problem(answer, "rate_limited")["limit"] == "auth_address"
        assert (await ask(client, key)).status_code == 200
    async with served(world, "198.51.100.7", auth_failures_per_minute=5) as client:  # another process, another address
        assert (await ask(client, world.people["admin"].key)).status_code == 200
        assert (await ask(client, guess + "x")).status_code == 401


async def test_guesses_are_counted_across_processes_and_not_looked_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    guess = "mr_12345678_" + "x" * 43
    async with served(world, auth_failures_per_minute=4) as one, served(world, auth_failures_per_minute=4) as two:
        codes = [(await ask(client, guess)).status_code for client in (one, two) * 4]
    assert codes == [401] * 4 + [429] * 4


async def test_a_revoked_key_is_a_guess_again(world: World) -> None:
    key = world.people["second_operator"].key
    async with served(world, auth_failures_per_minute=2) as client:
        assert (await ask(client, key)).status_code == 200
        await (await inspector(world)).execute("UPDATE api_key SET revoked_at = now() WHERE prefix = $1", key[:11])
        assert [(await ask(client, key)).status_code for _ in range(5)] == [401] * 3 + [429] * 2


async def test_no_key_and_no_address_stands_in_the_table(world: World) -> None:
    guess = "mr_12345678_" + "x" * 43
    async with served(world, "203.0.113.77") as client:
        await ask(client, world.people["operator"].key)
        await ask(client, guess)
    rows = await (await inspector(world)).fetch("SELECT scope, subject, rate_bucket::text AS whole FROM rate_bucket")
    assert {row["scope"] for row in rows} >= {"key", "principal", "tenant", "auth_pair", "auth_address", "auth_prefix"}
    for row in rows:
        assert len(row["subject"]) == 16
        for secret in (guess, world.people["operator"].key):
            for part in (secret[:11], secret[11:22], "203.0.113.77"):
                assert part.encode() not in row["subject"] and part not in row["whole"]
                assert part.encode().hex() not in row["whole"]


async def test_tool_calls_of_a_mission_are_limited(world: World) -> None:
    from tests.boundary.calls import call
    from tests.tools.test_builtin_tools import tool_path
    from tests.world.life import under_way

    life = await under_way(world)
    world.root.limits.mission_per_s, world.root.limits.burst_s = 1, 2
    answers = [await call(world, tool_path(life.dispatch, "workspace.outline"), b'{"arguments": {}}', life.dispatch.mission_token)
               for _ in range(4)]  # fmt: skip
    assert [answer.status_code for answer in answers][:2] == [200, 200]
    said = problem(answers[3], "rate_limited")
    assert said["limit"] == "mission" and int(answers[3].headers["retry-after"]) >= 1
    events = await life.say({"type": "stage.started", "stage": "workers"})
    assert events.accepted_seq >= 1, "what it has to say is still taken"


async def test_streams_are_counted_when_they_are_opened(world: World) -> None:
    mission = (await world.create())["id"]
    async with served(world, rate_limit_key_per_s=1, rate_limit_burst_s=1) as client:
        headers = bearer(world.people["auditor"].key)
        await client.get("/v1/mission-types", headers=headers)
        refused = await client.get(f"/v1/missions/{mission}/events", headers={**headers, "Accept": "text/event-stream"})
        problem(refused, "rate_limited")


async def test_without_the_database_nobody_is_let_through_on_credit(world: World) -> None:
    async with served(world, database_url="postgresql://mission_root_api:x@127.0.0.1:9/none") as client:
        problem(await ask(client, world.people["operator"].key), "database_unavailable")
        problem(await ask(client, "mr_12345678_" + "x" * 43), "database_unavailable")


async def test_memory_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.http.limits.MOST_LEASES", 30)
    monkeypatch.setattr("app.http.limits.MOST_PROVED", 10)
    limits = world.root.limits
    request = Request({"type": "http", "headers": [], "client": ("192.0.2.1", 1)})
    for number in range(40):
        secret = f"mr_{number:08d}_secret"
        limits.succeeded(request, secret)
        await limits.admit(request, Caller(uuid4(), uuid4(), "principal:x", credential=uuid4()))
    assert len(limits.leases) <= 30 and len(limits.proved) <= 10


def came(client: str, forwarded: str = "") -> Request:
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    return Request({"type": "http", "headers": headers, "client": (client, 1) if client else None})


@pytest.mark.parametrize(
    ("trusted", "client", "forwarded", "address"),
    [
        ("", "192.0.2.1", "198.51.100.1", "192.0.2.1"),  # nobody is believed
        ("10.0.0.0/8", "192.0.2.1", "198.51.100.1", "192.0.2.1"),  # not this one
        ("10.0.0.0/8", "10.1.1.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.0/8", "10.1.1.1", "203.0.113.5, 198.51.100.1", "198.51.100.1"),  # what the client wrote itself
        ("10.0.0.0/8", "10.1.1.1", "198.51.100.1, 10.2.2.2", "198.51.100.1"),  # a chain of proxies
        ("10.0.0.0/8", "10.1.1.1", "nonsense", "10.1.1.1"),
        ("10.0.0.0/8", "10.1.1.1", "", "10.1.1.1"),
        ("", "2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::/64"),  # one machine has the whole subnet
        ("10.0.0.0/8", "::ffff:10.1.1.1", "198.51.100.1", "198.51.100.1"),
        ("", "", "", "unknown"),
    ],
)
def test_whose_address_is_believed(trusted: str, client: str, forwarded: str, address: str) -> None:
    assert address_of(came(client, forwarded), networks(trusted)) == address


def test_what_a_proxy_says_in_a_line_of_its_own_is_the_last_word() -> None:
    request = came("10.1.1.1", "203.0.113.5")
    request.scope["headers"].append((b"x-forwarded-for", b"198.51.100.1"))
    assert address_of(request, networks("10.0.0.0/8")) == "198.51.100.1"


def test_a_subnet_handed_on_to_the_registrar_is_still_that_subnet() -> None:
    first = address_of(came("2001:db8:1:2:3:4:5:6"), ())
    assert address_of(came(first), ()) == first == "2001:db8:1:2::/64"


async def test_a_busy_caller_is_not_taken_for_a_guesser_by_a_fresh_process(world: World) -> None:
    key = world.people["operator"].key
    async with served(world, auth_failures_per_minute=5, database_pool_wait_ms=20_000) as client:
        answers = await asyncio.gather(*(ask(client, key) for _ in range(40)))
        assert {answer.status_code for answer in answers} == {200}
        guess = "mr_12345678_" + "x" * 43
        codes = [(await ask(client, guess)).status_code for _ in range(7)]
    assert codes == [401] * 5 + [429] * 2, "one after the other, every wrong one counts"


@pytest.mark.parametrize(("trusted", "seen"), [("", "127.0.0.1"), ("127.0.0.0/8", "203.0.113.9")])
async def test_the_server_itself_believes_nobody(trusted: str, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a real socket from 127.0.0.1, which uvicorn believes unless it is told not to."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found = address_of(Request(scope), networks(trusted))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-scheme", scope["scheme"].encode())]})
        await send({"type": "http.response.body", "body": found.encode()})

    one = server(app, "127.0.0.1", 0)
    running = asyncio.create_task(one.serve())
    try:
        while not one.started:
            await asyncio.sleep(0.01)
        port = one.servers[0].sockets[0].getsockname()[1]
        said = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{port}/", headers=said)
    finally:
        one.should_exit = True
        await running
    assert (answer.text, answer.headers["x-scheme"]) == (seen, "http")


async def test_what_asks_for_rates_belongs_to_no_request(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is logged there later would carry the ids of the request that happened to be first."""
    carried = list[dict[str, Any]]()

    async def seen(*given: Any) -> Any:
        carried.append(structlog.contextvars.get_contextvars())
        return await grant(*given)

    monkeypatch.setattr(limits, "grant", seen)
    async with served(world) as client:
        assert (await ask(client, world.people["operator"].key)).status_code == 200
    assert carried and not any({"request_id", "tenant_id"} & one.keys() for one in carried), carried
