"""Tool layers over HTTP: registering, pinning, looking, switching off, and who may."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from app import work
from app.tools import watch
from app.tools.servers import StdioServer
from tests.tools.odd_server import Odd, odd_server, served_odd
from tests.tools.registered import ask, definition, entry, mission_with, plant, put, register, shown
from tests.world import World
from tests.world.checks import inspector, problem
from tests.world.life import demo

WHY = {"json": {"reason": "a test"}}


@pytest.fixture
async def odd(anyio_backend: str) -> Any:
    async with served_odd() as server:
        yield server


async def facts(world: World, prefix: str) -> list[str]:
    return [fact["type"] for fact in await world.facts(await demo(world)) if fact["type"].startswith(prefix)]


async def test_a_layer_is_registered_checked_changed_and_retired(world: World, odd: Odd) -> None:
    body = definition(odd, entry("say", server_name="echo", description="Ours to describe."), "add")
    only = await put(world, "odd", body, params={"validate_only": True})
    assert (only.status_code, only.json()["outcome"], only.json()["version"]) == (200, "valid", None)
    problem(await world.admin.get("/v1/tool-layers/odd"), "not_found")
    made = await put(world, "odd", body)
    assert (made.status_code, made.json()["outcome"], made.headers["etag"]) == (201, "created", '"v1"')
    assert set(made.json()["schemas"]) == {"odd.say", "odd.add"} and made.json()["key"] is None
    one = await shown(world)
    assert (one["state"], one["owner"], one["calls"], one["place"]) == ("unknown", "The tests", 0, odd.url[7:-4])
    assert [(tool["name"], tool["server_name"], tool["description"]) for tool in one["tools"]] == [
        ("odd.say", "echo", "Ours to describe."), ("odd.add", "add", "Adds two numbers."),
    ]  # fmt: skip
    assert one["schemas"]["say"]["required"] == ["text"] and one["definition"] == body
    looked = (await world.operator.post("/v1/tool-layers/odd/check")).json()
    assert looked["ok"] and [tool["outcome"] for tool in looked["tools"]] == ["same", "same"]
    assert looked["offered"]["echo"] == looked["tools"][0]["pinned_sha256"] and looked["server"] == "odd"
    assert (await shown(world))["state"] == "healthy"
    for seen, code in (("", "precondition_required"), ('"v2"', "stale")):
        problem(await put(world, "odd", body, seen), code)
    assert (await put(world, "odd", body | {"owner": "Others"}, '"v1"')).json()["outcome"] == "changed"
    problem(await world.admin.delete("/v1/tool-layers/odd"), "precondition_required")
    gone = await world.admin.delete("/v1/tool-layers/odd", headers={"If-Match": '"v2"'})
    assert gone.json()["outcome"] == "retired" and (await shown(world))["state"] == "retired"
    problem(await put(world, "new", definition(odd), '"v1"'), "not_found")
    assert await facts(world, "tool_layer") == ["tool_layer.changed"] * 3
    assert [version["version"] for version in (await shown(world))["history"]] == [3, 2, 1]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"kind": "shell"}, "/kind"),
        ({"url": "http://169.254.169.254/mcp"}, "/url"),
        ({"url": "http://127.0.0.1:1/mcp?x=1"}, "/url"),
        ({"server": "odd"}, ""),
        ({"command": "rm"}, "/command"),
        ({"tools": []}, "/tools"),
        ({"tools": [entry("echo"), entry("echo")]}, ""),
        ({"tools": [entry("nothing")]}, "/tools/0/server_name"),
        ({"tools": [entry("echo", schema_sha256="0" * 64)]}, "/tools/0/schema_sha256"),
        (
            {"tools": [entry("echo", becomes={"connector": "crm", "kind": "lead", "id": "/a", "changes": "/b"})]},
            "/tools/0",
        ),
        ({"auth": {}}, "/auth"),
        ({"timeout_s": 0}, "/timeout_s"),
    ],
)
async def test_what_cannot_be_a_layer_is_refused_by_its_field(
    world: World, odd: Odd, change: Any, pointer: str
) -> None:
    said = problem(await put(world, "odd", definition(odd) | change), "validation")
    assert said["errors"][0]["pointer"] == pointer
    assert await facts(world, "tool_layer") == []


async def test_names_of_the_roots_own_tools_are_taken(world: World, odd: Odd) -> None:
    said = problem(await put(world, "crm", definition(odd)), "validation")
    assert [one["parameter"] for one in said["errors"]] == ["name"] and said["detail"].startswith("name: ")
    problem(await put(world, "a" * 31, definition(odd)), "validation")


@pytest.mark.parametrize(
    ("mood", "cause"),
    [
        ("html", "tool_unreachable"), ("unauthorized", "tool_refused"), ("nonsense", "tool_protocol"), ("future", "tool_protocol"),
        ("redirects", "tool_protocol"), ("floods", "tool_protocol"),
    ],
)  # fmt: skip
async def test_a_server_that_does_not_answer_as_one_is_not_registered(
    world: World, odd: Odd, mood: str, cause: str
) -> None:
    odd.mood = mood
    answer = await put(world, "odd", definition(odd))
    said = problem(answer, "upstream_unavailable")
    assert "secret" not in answer.text
    assert said["cause"] in (cause, "tool_too_large"), said


async def test_nobody_is_there(world: World) -> None:
    nobody = Odd()
    nobody.url = "http://127.0.0.1:9/mcp"
    assert problem(await put(world, "odd", definition(nobody)), "upstream_unavailable")["cause"] == "tool_unreachable"


async def test_schemas_that_are_too_large_together_are_said_to_be(world: World, odd: Odd) -> None:
    server = odd_server()
    server._tool_manager._tools["echo"].parameters["description"] = "x" * 60_000
    await odd.become(server)
    body = definition(odd, *(entry(f"echo{number}", server_name="echo") for number in range(20)))
    said = problem(await put(world, "odd", body), "validation")
    assert said["errors"][0]["pointer"] == "/tools" and "1 MiB" in said["detail"]


async def test_a_server_may_call_itself_what_it_likes(world: World, odd: Odd) -> None:
    await odd.become(odd_server("o\x00dd" + "x" * 300))
    assert (await put(world, "odd", definition(odd))).status_code == 201
    looked = (await world.operator.post("/v1/tool-layers/odd/check")).json()
    assert looked["ok"] and looked["server"] == ("odd" + "x" * 300)[:200]


async def test_only_the_deployment_names_programs_and_to_whom(world: World) -> None:
    said = problem(await put(world, "odd", definition(None)), "validation")
    assert said["errors"][0]["pointer"] == "/server"
    world.root.tools.servers["odd"] = StdioServer(command="/nonexistent", tenants=[])
    assert problem(await put(world, "odd", definition(None)), "validation")["errors"][0]["pointer"] == "/server"
    world.root.tools.servers["odd"] = StdioServer(command="/nonexistent")
    assert problem(await put(world, "odd", definition(None)), "upstream_unavailable")["cause"] == "tool_unreachable"


async def test_the_key_is_sent_and_never_shown(world: World, odd: Odd) -> None:
    body = definition(odd, auth={"header": "X-Key", "scheme": None})
    said = problem(await put(world, "odd", body), "validation")
    assert said["errors"] == [{"pointer": "/auth", "detail": "TOOL_DEMO__ODD_KEY is not set"}]
    world.root.tools.settings = world.settings(tool_keys={"TOOL_DEMO__ODD_KEY": "secret-of-the-odd"})
    made = await put(world, "odd", body)
    assert made.json()["key"] == "TOOL_DEMO__ODD_KEY"
    life = await mission_with(world, "odd.echo")
    assert (await ask(world, life.dispatch, "odd.echo", {"text": "hi"})).status_code == 200
    assert odd.said[-1]["x-key"] == "secret-of-the-odd"
    everything = str(await shown(world)) + str(await world.facts(await demo(world)))
    assert "secret-of-the-odd" not in everything


async def test_an_operator_switches_off_and_an_admin_on_again(world: World, odd: Odd) -> None:
    await register(world, odd)
    life = await mission_with(world, "odd.echo")
    problem(await world.submitter.post("/v1/tool-layers/odd/halt", **WHY), "forbidden")
    for name in ("odd", "*"):
        assert (await world.operator.post(f"/v1/tool-layers/{name}/halt", **WHY)).json()["outcome"] == "halted"
        assert (await world.operator.post(f"/v1/tool-layers/{name}/halt", **WHY)).json()["outcome"] == "unchanged"
        assert (await shown(world))["state"] == "halted"
        problem(await ask(world, life.dispatch, "odd.echo", {"text": "hi"}), "tool_halted")
        problem(await world.operator.post(f"/v1/tool-layers/{name}/resume", **WHY), "forbidden")
        assert (await world.admin.post(f"/v1/tool-layers/{name}/resume", **WHY)).json()["outcome"] == "resumed"
    assert (await ask(world, life.dispatch, "odd.echo", {"text": "hi"})).status_code == 200
    assert (await facts(world, "tool_layer"))[1:] == ["tool_layer.halted", "tool_layer.resumed"] * 2
    assert [kind for kind, _ in await life.facts("tool.")] == ["tool.refused", "tool.refused", "tool.called"]
    await world.admin.delete("/v1/tool-layers/odd", headers={"If-Match": '"v1"'})
    problem(await ask(world, life.dispatch, "odd.echo", {"text": "hi"}), "tool_halted")


async def test_another_tenant_sees_and_calls_nothing_of_it(world: World, odd: Odd) -> None:
    await register(world, odd)
    stranger = await world.another_tenant()
    assert (await stranger.http.get("/v1/tool-layers")).json()["items"] == []
    problem(await stranger.http.get("/v1/tool-layers/odd"), "not_found")
    for verb in ("halt", "check"):
        problem(await stranger.http.post(f"/v1/tool-layers/odd/{verb}", **WHY), "not_found")
    named = {"mission_type": "oracle_advisory", "user_goal": "What?", "tools": ["odd.echo"]}
    said = problem(await stranger.http.post("/v1/missions", json=named), "validation")
    assert said["errors"] == [{"pointer": "/tools/0", "detail": "there is no such tool; see GET /v1/tool-layers"}]


async def test_the_background_look_finds_what_drifted_and_comes_back(world: World, odd: Odd) -> None:
    await register(world, odd)
    await world.run_work("tool_check")
    assert (await shown(world))["state"] == "healthy"
    await odd.become(odd_server(drifted=True))
    await world.make_due("tool_check")
    await world.run_work("tool_check")
    one = await shown(world)
    assert (one["state"], one["drifted"], [tool["drifted"] for tool in one["tools"]]) == (
        "drifted",
        ["odd.echo"],
        [True, False],
    )
    await world.make_due("tool_check")
    await world.run_work("tool_check")
    assert (await facts(world, "tool_layer"))[1:] == ["tool_layer.drifted"], "said once"
    odd.mood = "html"
    await world.make_due("tool_check")
    await world.run_work("tool_check")
    assert (await shown(world))["failure"] == "tool_unreachable"


async def test_the_background_look_keeps_its_lease_while_servers_take_their_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        await plant(world, name, entry("echo"))
    connection, lease = await inspector(world), timedelta(seconds=0.4)
    await connection.execute(
        "INSERT INTO work (tenant, kind, subject, queue) SELECT id, 'tool_check', id, 'worker' FROM tenant WHERE name = 'demo'"
    )
    [item], _ = await work.turn(world.worker.database, ["tool_check"], 1, lease)
    monkeypatch.setattr(watch, "PAGE", 1)
    looked, looking, go_on = list[str](), asyncio.Event(), asyncio.Event()

    async def slow(_: Any, layer: Any) -> None:
        looked.append(layer.name)
        looking.set()
        await go_on.wait()

    monkeypatch.setattr(world.worker.tools, "check", slow)
    task = asyncio.create_task(watch.check_layers(world.worker.tools, item, timedelta(minutes=5), lease))
    await looking.wait()
    held = "SELECT lease_until FROM work WHERE kind = 'tool_check'"
    first = await connection.fetchval(held)
    async with asyncio.timeout(20):
        while await connection.fetchval(held) < first + lease:
            await asyncio.sleep(0.01)
    assert (await work.turn(world.worker.database, ["tool_check"], 1, lease))[0] == []
    await connection.execute(
        "UPDATE work SET fence = fence + 1 WHERE kind = 'tool_check'"
    )  # somebody else has it all the same
    during = await connection.fetchval(held)
    async with asyncio.timeout(20):
        while any("lease of a look" in one.get_name() for one in asyncio.all_tasks()):
            await asyncio.sleep(0.01)
    go_on.set()
    await task
    assert looked == ["one"] and await connection.fetchval(held) == during


async def test_the_background_look_sees_past_those_that_are_retired(
    world: World, odd: Odd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.tools.watch.PAGE", 1)
    for name in ("a", "b"):
        await register(world, odd, name=name)
    await register(world, odd)
    for name in ("a", "b"):
        await world.admin.delete(f"/v1/tool-layers/{name}", headers={"If-Match": '"v1"'})
    await world.run_work("tool_check")
    assert (await shown(world))["state"] == "healthy"
    await odd.become(odd_server(drifted=True))
    await world.make_due("tool_check")
    await world.run_work("tool_check")
    assert (await shown(world))["state"] == "drifted"
