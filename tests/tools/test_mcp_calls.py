"""Calls of registered tools: what comes back, what may be cited, and what becomes of a server's bad days."""

import asyncio
import hashlib
import json
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from app.clock import now
from app.telemetry import TOOL_SESSIONS_FULL
from app.tools import mcp
from app.tools.servers import StdioServer
from app.tools.sessions import IDLE_S, LOOK_AGAIN_S, Drifted, Full, Sessions, Unusable
from tests.tools import odd_server as module
from tests.tools.odd_server import Odd, odd_server, served_odd
from tests.tools.registered import ask, definition, entry, mission_with, put, register, shown
from tests.world import World
from tests.world.checks import inspector, problem
from tests.world.life import demo

PROGRAM = str(Path(module.__file__))
EVERY = ("echo", "add", "page", "refuse", "slow", "long", "nul", "chatter", "wonder")


@pytest.fixture
async def odd(anyio_backend: str) -> Any:
    async with served_odd() as server:
        yield server


def over_stdio(world: World, *arguments: str) -> None:
    """The odd server as a program of the deployment."""
    root = str(Path(PROGRAM).parents[2])
    world.root.tools.servers["odd"] = StdioServer(
        command=sys.executable, arguments=[PROGRAM, *arguments], environment={"PYTHONPATH": root}
    )


async def said(world: World, life: Any, tool: str, **arguments: Any) -> dict[str, Any]:
    answer = await ask(world, life.dispatch, tool, arguments)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()["result"]
    return result


async def alone(world: World) -> Sessions:
    """The sessions with tool servers as nobody but the test looks after them: nobody closes one, or tells what was seen, in between."""
    await world.root.tools.stop()
    return world.root.tools


# --- what comes back


@pytest.mark.parametrize("transport", ["http", "json", "stdio"])
async def test_text_structure_and_resources_come_back_and_can_be_cited(world: World, transport: str) -> None:
    async with served_odd(json_response=transport == "json") as server:
        odd = server if transport != "stdio" else None
        over_stdio(world)
        await register(world, odd, *EVERY[:3])
        life = await mission_with(world, "odd.echo", "odd.add", "odd.page")
        echo = await said(world, life, "odd.echo", text="größer 🜚", times=2)
        assert (echo["text"], echo["structured"], echo["left_out"]) == ("größer 🜚 größer 🜚", None, [])
        assert echo["source"] == hashlib.sha256(echo["text"].encode()).hexdigest()
        added = await said(world, life, "odd.add", a=2, b=3)
        assert added["structured"] == {"sum": 5} and json.loads(added["text"]) == {"sum": 5}
        page = await said(world, life, "odd.page")
        assert page["text"] == "First line.\n\nEmbedded größe.\n"
        assert page["left_out"] == [{"type": "image", "mime_type": "image/png", "bytes": 8}]
        rows = await (await inspector(world)).fetch(
            """SELECT r.document, r.kind, r.version, b.bytes FROM reading r JOIN blob b ON b.tenant = r.tenant
               AND b.sha256 = r.source_sha256 WHERE r.mission = $1 ORDER BY r.document""",
            life.id,
        )
        assert sorted((row["document"], row["bytes"].decode(), row["version"]) for row in rows) == sorted(
            (one["document"], one["text"], "v1") for one in (echo, added, page)
        )
        assert echo["document"].startswith("odd/echo/")
        called = [body for kind, body in await life.facts("tool.called")]
        assert [body["tool"] for body in called] == ["odd.echo", "odd.add", "odd.page"] and called[0][
            "layer_version"
        ] == 1
        assert "größer" not in str(called)


async def test_what_was_shown_is_evidence_that_the_root_accepts(world: World, odd: Odd) -> None:
    from colony_client import artifacts
    from tests.world.colony import aggregation, citation

    await register(world, odd)
    life = await mission_with(world, "odd.echo")
    found = await said(world, life, "odd.echo", text="The queue is watched by two people.")
    quote = citation(found["source"], found["document"], found["text"].encode(), 4, 20)
    claim = artifacts.Claim(id="c1", text="Two people watch it.", citations=[quote])
    packet = aggregation(life.dispatch.envelope, [claim])
    await life.say({"type": "artifact.produced", "artifact": packet}, {"type": "signal", "signal": "complete"})
    await world.run_work("review")
    assert await life.state() == "completed"


async def test_one_session_serves_many_calls_at_once(world: World, odd: Odd) -> None:
    await register(world, odd, "echo", "slow")
    life = await mission_with(world, "odd.echo", "odd.slow")
    begun = len(odd.said)
    answers = await asyncio.gather(*(ask(world, life.dispatch, "odd.slow", {"seconds": 0.2}) for _ in range(8)))
    assert {answer.json()["result"]["text"] for answer in answers} == {"at last"}
    assert len(world.root.tools.live) == 1 and len(odd.said) - begun < 8 + 6
    await world.root.tools.tell()
    one = await shown(world)
    assert (one["calls"], one["refusals"], one["state"], one["breaker"]["state"]) == (8, 0, "healthy", "up")


async def test_old_sessions_close_while_others_begin_and_break(world: World, odd: Odd) -> None:
    """Closing takes its time; what is called meanwhile neither loses its session nor ends the looking after."""
    async with served_odd() as elsewhere:
        for name, server in (("slow_one", odd), ("other", odd), ("gone", elsewhere)):
            await register(world, server, "echo", "slow", name=name)
        life = await mission_with(world, "slow_one.echo", "other.echo", "other.slow", "gone.echo")
        for name in ("slow_one", "other", "gone"):
            await said(world, life, f"{name}.echo", text="x")
        pool = world.root.tools
        by_name = {which[1]: live for which, live in pool.live.items()}
        closing, go_on, close = asyncio.Event(), asyncio.Event(), by_name["slow_one"].session.close

        async def slowly() -> None:
            closing.set()
            await go_on.wait()
            await close()

        by_name["slow_one"].session.close = slowly  # type: ignore[method-assign]
        for live in by_name.values():
            live.used_at -= IDLE_S + 1
        pruning = asyncio.create_task(pool.prune())
        await closing.wait()
        call = asyncio.create_task(said(world, life, "other.slow", seconds=0.3))
        async with asyncio.timeout(10):
            while not (taken := [live for which, live in pool.live.items() if which[1] == "other"]):
                await asyncio.sleep(0.01)
        elsewhere.mood, by_name["gone"].session.broken = "html", "tool_broke_off"
        problem(await ask(world, life.dispatch, "gone.echo", {"text": "x"}), "upstream_unavailable")
        go_on.set()
        await pruning
        assert (await call)["text"] == "at last"
        [(which, live)] = pool.live.items()
        assert which[1] == "other" and live is taken[0] and not live.session.over


async def test_an_idle_session_that_is_taken_up_again_is_not_old(world: World, odd: Odd) -> None:
    await register(world, odd)
    life = await mission_with(world, "odd.echo")
    pool = await alone(world)
    await said(world, life, "odd.echo", text="x")
    [live] = pool.live.values()
    live.used_at, live.looked_at = live.used_at - IDLE_S - 1, live.looked_at - 2 * IDLE_S  # so it is looked at first
    look = live.session.look

    async def meanwhile() -> None:
        await pool.prune()
        await look()

    live.session.look = meanwhile  # type: ignore[method-assign]
    assert (await said(world, life, "odd.echo", text="y"))["text"] == "y"
    assert list(pool.live.values()) == [live] and not live.session.over


async def test_above_the_bound_only_idle_sessions_close_and_a_call_too_many_hears_so(
    world: World, odd: Odd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tool that is broken off in the middle may run twice."""
    for name in ("one", "two", "three"):
        await register(world, odd, "echo", "slow", name=name)
    life = await mission_with(
        world, *(f"{name}.{tool}" for name in ("one", "two", "three") for tool in ("echo", "slow"))
    )
    monkeypatch.setattr("app.tools.sessions.MOST", 4)  # of which two are its share
    monkeypatch.setattr("app.tools.sessions.FRESH_S", IDLE_S / 2)  # however slow the machine
    pool = world.root.tools
    await said(world, life, "one.echo", text="x")
    by_name = {which[1]: live for which, live in pool.live.items()}
    inside, go_on, whole = asyncio.Event(), asyncio.Event(), by_name["one"].session.call

    async def slowly(*arguments: Any) -> Any:
        inside.set()
        await go_on.wait()
        return await whole(*arguments)

    by_name["one"].session.call = slowly  # type: ignore[method-assign]
    calling = asyncio.create_task(said(world, life, "one.echo", text="y"))
    await inside.wait()
    by_name["one"].used_at -= IDLE_S + 1  # the least used of all
    await said(world, life, "two.echo", text="x")
    await pool.prune()
    [(tenant, _, version)] = [which for which in pool.live if which[1] == "one"]
    three, counted = pool.breaker((tenant, "three", version)), TOOL_SESSIONS_FULL.labels("tenant")._value
    for _ in range(three.opens_after):
        three.failed("away")
    three.opened_at, before = now() - three.stays_open, counted.get()  # a trial is due
    problem(await ask(world, life.dispatch, "three.echo", {"text": "x"}), "rate_limited")
    assert (counted.get() - before, three.failures) == (1, three.opens_after) and three.retry_at() is None
    [two] = [live for which, live in pool.live.items() if which[1] == "two"]
    two.used_at -= IDLE_S / 2
    await said(world, life, "three.echo", text="x")
    assert sorted(which[1] for which in pool.live) == ["one", "three"], "the idle one went"
    refused = problem(await ask(world, life.dispatch, "two.echo", {"text": "x"}), "rate_limited")
    assert refused["limit"] == "tools"
    assert await life.facts("tool.failed") == [], "the root's own trouble"
    go_on.set()
    assert (await calling)["text"] == "y" and not by_name["one"].session.over
    assert [live.asking for live in pool.live.values()] == [0, 0]


async def test_a_newcomers_session_is_an_idle_one_of_whoever_has_more_than_a_share(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant opens up to half of them while it is alone, a third beside another, and so on. Whoever has more gives first, and what is
    in use stays: a newcomer may find no place."""
    monkeypatch.setattr("app.tools.sessions.MOST", 12)
    pool, tenants = world.root.tools, [UUID(int=n) for n in range(4)]
    closed: list[UUID] = []

    async def begin(tenant: UUID, layer: Any) -> Any:
        async def close() -> None:
            closed.append(tenant)

        return SimpleNamespace(over=False, close=close)

    monkeypatch.setattr(pool, "begin", begin)
    layer: Any = None

    async def opened(tenant: UUID) -> int:
        """How many more of its sessions, all of them in use, the tenant gets."""
        for n in count():
            try:
                live, _ = await pool.session((tenant, f"{n} {len(pool.live)}", 1), layer)
            except Full as full:
                refused.append(full.of)
                return n
            live.asking = 1
        raise AssertionError

    refused: list[str] = []
    assert [await opened(tenant) for tenant in tenants] == [6, 4, 2, 0]
    assert refused == ["tenant", "tenant", "process", "process"] and closed == []
    for number, tenant in enumerate(tenants[:3], 1):  # one of each becomes idle, the last tenant's the longest ago
        idle = next(live for which, live in pool.live.items() if which[0] == tenant)
        idle.asking, idle.used_at = 0, idle.used_at - number * IDLE_S
    assert await opened(tenants[3]) == 2
    assert closed == [tenants[1], tenants[0]], "of those who have more than their share the oldest first"
    pool.live.clear()


@pytest.mark.parametrize("what", ["drifted", "drifted before", "broke off and full", "unusable"])
async def test_a_trial_is_what_was_learnt_of_the_server(
    world: World, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A server that answers is there, whatever its tools became; who asked nobody leaves the trial to the next."""
    pool, which = world.root.tools, (UUID(int=1), "odd", 1)
    layer: Any = SimpleNamespace(name="odd", version=1, server_name="odd", pinned={}, entry=lambda _: SimpleNamespace(theirs="echo"),
        definition=SimpleNamespace(tools=[SimpleNamespace(name="odd.echo", theirs="echo")]))  # fmt: skip
    layer.pinned["odd.echo"] = SimpleNamespace(schema_sha256="then")

    async def close() -> None:
        session.over = True

    async def call(*_: Any) -> Any:
        session.over = True
        raise mcp.ServerFailed("tool_broke_off", "as the test says", retryable=True)

    offered = {"echo": SimpleNamespace(schema_sha256="now" if what.startswith("drifted") else "then")}
    session: Any = SimpleNamespace(over=False, stale=False, server_name="odd", offered=offered, close=close, call=call)
    opened = iter([session])

    async def begin(*_: Any) -> Any:
        if what == "unusable":
            raise Unusable("/url", "as the test says")
        for one in opened:
            return one
        raise Full("process")

    monkeypatch.setattr(pool, "begin", begin)
    if what in ("drifted before", "broke off and full"):
        await pool.session(which, layer)
    breaker = pool.breaker(which)
    for _ in range(breaker.opens_after):
        breaker.failed("away")
    breaker.opened_at = now() - breaker.stays_open  # a trial is due
    raised = {"unusable": Unusable, "broke off and full": Full}.get(what, Drifted)
    with pytest.raises(raised):
        await pool.ask(which[0], layer, "odd.echo", {})
    seen, more = pool.seen[which], breaker.failures - breaker.opens_after
    learnt = (breaker.state, more, breaker.retry_at() is None, seen.answered, seen.failure)
    assert (
        learnt
        == {
            "drifted": ("up", -breaker.opens_after, True, True, None),
            "drifted before": (
                "down",
                0,
                True,
                None,
                None,
            ),  # by what was seen of it in this session, which asked nothing now
            "broke off and full": ("down", 1, False, False, "tool_broke_off"),
            "unusable": ("down", 0, True, None, None),
        }[what]
    )
    pool.live.clear()
    pool.seen.clear()


async def test_a_server_started_anew_costs_no_call_also_when_its_tools_are_looked_at_first(
    world: World, odd: Odd
) -> None:
    await register(world, odd)
    life = await mission_with(world, "odd.echo")
    await said(world, life, "odd.echo", text="x")
    [live] = world.root.tools.live.values()
    live.looked_at -= LOOK_AGAIN_S + 1

    async def unknown() -> None:
        live.session.broken = "tool_broke_off"
        raise mcp.ServerFailed("tool_broke_off", "the session is unknown", retryable=True)

    live.session.look = unknown  # type: ignore[method-assign]
    assert (await said(world, life, "odd.echo", text="y"))["text"] == "y"
    assert (
        await life.facts("tool.failed") == [] and world.root.tools.live and live not in world.root.tools.live.values()
    )


async def test_the_looking_after_goes_on_after_a_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.tools.sessions.TELL_S", 0.001)
    pool, again = world.root.tools, asyncio.Event()
    faults = iter([RuntimeError("as the test says")])

    async def prune() -> None:
        for fault in faults:
            raise fault
        again.set()

    await pool.stop()
    monkeypatch.setattr(pool, "prune", prune)
    pool.start()
    async with asyncio.timeout(5):
        await again.wait()


async def test_of_a_failure_and_an_answer_the_last_one_counts(world: World, odd: Odd) -> None:
    await register(world, odd)
    life = await mission_with(world, "odd.echo")
    for mood, state in (("html", "failing"), ("good", "healthy"), ("html", "failing")):
        for odd.mood in ("good" if mood == "html" else "html", mood):
            answer = await ask(world, life.dispatch, "odd.echo", {"text": "x"})
            assert (answer.status_code == 200) == (odd.mood == "good")
        await world.root.tools.tell()
        assert (await shown(world))["state"] == state


# --- arguments and policy


async def test_arguments_are_held_against_the_pinned_schema_before_the_server_sees_them(world: World, odd: Odd) -> None:
    await register(world, odd)
    life = await mission_with(world, "odd.echo")
    for arguments, pointer in (
        ({}, "/arguments"),
        ({"text": 5}, "/arguments/text"),
        ({"text": "x", "times": "y"}, "/arguments/times"),
    ):
        answer = problem(await ask(world, life.dispatch, "odd.echo", arguments), "validation")
        assert answer["errors"][0]["pointer"] == pointer
    problem(await ask(world, life.dispatch, "odd.echo", {"text": "x"}, grounds={"odd": 1}), "validation")
    assert odd.server.calls == []  # type: ignore[attr-defined]
    assert await life.facts("tool.called") == []


async def test_policy_looks_at_list_reach_class_and_layer(world: World, odd: Odd) -> None:
    tools = (entry("echo"), entry("add", sensitivity="public"), entry("page", reach="public"))
    await register(world, odd, *tools)
    life = await mission_with(world, "odd.echo", "odd.add", sensitivity_class="internal")
    denied = {
        "odd.page": "tools.blocked",
        "odd.add": "tools.cleared_material_only",
    }
    for tool, rule in denied.items():
        answer = problem(
            await ask(world, life.dispatch, tool, {"a": 1, "b": 2} if tool == "odd.add" else {}), "denied_by_policy"
        )
        assert answer["rule"] == rule and answer["would_change"]
    text = """@id("own.no_odd") @reason("Not this layer.")
      forbid (principal, action == Action::"tool.call", resource) when { resource.layer == "odd" };"""
    assert (await world.policy_owner.put("/v1/policies/own", json={"text": text})).status_code == 201
    assert (
        problem(await ask(world, life.dispatch, "odd.echo", {"text": "x"}), "denied_by_policy")["rule"] == "own.no_odd"
    )
    await world.root.tools.tell()
    assert (await shown(world))["refusals"] == 3
    problem(await ask(world, life.dispatch, "odd.nothing"), "not_found")
    problem(await ask(world, life.dispatch, "even.echo"), "not_found")


async def test_a_mission_with_restricted_material_takes_no_public_tool(world: World, odd: Odd) -> None:
    await register(world, odd, entry("echo", reach="public"))
    asked = {"mission_type": "oracle_advisory", "user_goal": "What?", "tools": ["odd.echo"]}
    restricted = await world.submitter.post("/v1/missions", json=asked | {"sensitivity_class": "restricted"})
    assert problem(restricted, "denied_by_policy")["rule"] == "admission.restricted_stays_inside"
    answer = (await world.submitter.post("/v1/missions", json=asked)).json()
    assert answer["state"] == "accepted"
    rehearsed = await world.submitter.post("/v1/missions?validate_only=true", json=asked)
    assert rehearsed.json()["policy"]["rule"] == "admission.public_research_asks"


# --- drift


@pytest.mark.parametrize("change", ["schema", "name", "gone"])
async def test_a_tool_that_is_not_what_was_registered_is_refused_until_it_is_registered_anew(
    world: World, odd: Odd, change: str
) -> None:
    await register(world, odd)
    life = await mission_with(world, "odd.echo", "odd.add")
    await said(world, life, "odd.echo", text="x")
    other = odd_server("another" if change == "name" else "odd", drifted=change == "schema")
    if change == "gone":
        other._tool_manager._tools.pop("echo")
    await odd.become(other)
    if change == "name":  # a server without sessions says its name when one begins
        world.root.tools.live.clear()
    refused = problem(await ask(world, life.dispatch, "odd.echo", {"text": "x"}), "tool_drifted")
    assert "registered anew" in refused["detail"]
    # that it was seen is kept: not even a server that is itself again is believed
    await odd.become(odd_server())
    world.root.tools.live.clear()
    problem(await ask(world, life.dispatch, "odd.echo", {"text": "x"}), "tool_drifted")
    if change == "name":
        problem(await ask(world, life.dispatch, "odd.add", {"a": 1, "b": 2}), "tool_drifted")
    else:
        await said(world, life, "odd.add", a=1, b=2)
    assert (await shown(world))["state"] == "drifted"
    assert (await put(world, "odd", definition(odd), '"v1"')).status_code == 200
    assert (await said(world, life, "odd.echo", text="x"))["version"] == "v2"
    types = [fact["type"] for fact in await world.facts(await demo(world)) if fact["type"].startswith("tool_layer")]
    assert types == ["tool_layer.changed", "tool_layer.drifted", "tool_layer.changed"]


async def test_a_server_that_says_its_tools_changed_is_looked_at_before_the_next_call(world: World) -> None:
    over_stdio(world)
    await register(world, None)
    life = await mission_with(world, "odd.echo")
    await said(world, life, "odd.echo", text="x")
    [live] = world.root.tools.live.values()
    looked_at, live.session.stale = live.looked_at, True
    await said(world, life, "odd.echo", text="x")
    assert live.looked_at > looked_at and not live.session.stale


# --- bad days


@pytest.mark.long
@pytest.mark.parametrize(
    ("tool", "arguments", "code", "cause"),
    [
        ("refuse", {"why": "there is no such page"}, "tool_failed", "tool_said_no"),
        ("slow", {"seconds": 30}, "upstream_unavailable", "tool_timed_out"),
        ("long", {}, "tool_failed", "tool_too_large"),
        ("long", {"flood": True}, "tool_failed", "tool_too_large"),
        ("nul", {}, "tool_failed", "tool_malformed"),
        ("page", {"only_image": True}, "tool_failed", "tool_said_no"),
        ("wonder", {}, "tool_failed", "tool_refused"),
    ],
)
@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_whatever_a_server_does_ends_in_a_refusal_with_its_cause(
    world: World, odd: Odd, transport: str, tool: str, arguments: Any, code: str, cause: str
) -> None:
    over_stdio(world)
    await register(world, odd if transport == "http" else None, *EVERY, timeout_s=1.0)
    life = await mission_with(world, *(f"odd.{one}" for one in EVERY))
    found = problem(await ask(world, life.dispatch, f"odd.{tool}", arguments), code)
    assert found["cause"] == cause
    if tool == "refuse":
        assert "no such page" in found["said"] and "no such page" not in str(await life.facts())
    assert await life.facts("tool.called") == []
    # and the next call is answered
    assert (await said(world, life, "odd.echo", text="still here"))["text"] == "still here"


async def test_a_program_that_never_stops_talking_is_cut_off(world: World) -> None:
    over_stdio(world)
    await register(world, None, "echo", "chatter")
    life = await mission_with(world, "odd.echo", "odd.chatter")
    assert (await said(world, life, "odd.chatter", messages=50))["text"] == "done"
    assert (
        problem(await ask(world, life.dispatch, "odd.chatter", {"messages": 4000}), "tool_failed")["cause"]
        == "tool_too_large"
    )
    assert (await said(world, life, "odd.echo", text="another one"))["text"] == "another one"


async def test_a_program_that_dies_is_started_again(world: World) -> None:
    over_stdio(world)
    await register(world, None, "echo", "die")
    life = await mission_with(world, "odd.echo", "odd.die")
    found = problem(await ask(world, life.dispatch, "odd.die"), "upstream_unavailable")
    assert found["cause"] == "tool_broke_off"
    assert (await said(world, life, "odd.echo", text="again"))["text"] == "again"


async def test_a_server_that_was_started_anew_is_asked_in_a_fresh_session(world: World, odd: Odd) -> None:
    await register(world, odd)
    life = await mission_with(world, "odd.echo")
    await said(world, life, "odd.echo", text="x")
    await odd.become(odd_server())
    assert (await said(world, life, "odd.echo", text="y"))["text"] == "y"


async def test_the_breaker_leaves_a_broken_server_alone(world: World, odd: Odd) -> None:
    await register(world, odd)
    life = await mission_with(world, "odd.echo")
    pool, odd.mood = await alone(world), "html"
    for _ in range(3):
        assert (
            problem(await ask(world, life.dispatch, "odd.echo", {"text": "x"}), "upstream_unavailable")["cause"]
            == "tool_unreachable"
        )
    [breaker] = pool.breakers.values()
    breaker.stays_open *= 100  # however slow the machine
    asked = len(odd.said)
    problem(await ask(world, life.dispatch, "odd.echo", {"text": "x"}), "upstream_unavailable")
    assert len(odd.said) == asked, "the breaker is open"
    await pool.tell()
    one = await shown(world)
    assert (one["state"], one["failure"], one["breaker"]["state"]) == ("failing", "tool_unreachable", "down")
    odd.mood = "good"
    breaker.stays_open *= 0
    await said(world, life, "odd.echo", text="x")
    assert (await shown(world))["breaker"]["state"] == "up"


@pytest.mark.long
async def test_a_server_that_hangs_holds_nobody_longer_than_its_time(world: World, odd: Odd, monkeypatch: Any) -> None:
    await register(world, odd, timeout_s=0.5)
    life = await mission_with(world, "odd.echo")
    odd.mood = "hangs"
    began = asyncio.get_running_loop().time()
    found = problem(await ask(world, life.dispatch, "odd.echo", {"text": "x"}), "upstream_unavailable")
    assert found["cause"] == "tool_timed_out" and asyncio.get_running_loop().time() - began < mcp.OPEN_S
