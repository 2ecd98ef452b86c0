"""The reading tools through the internal API: what they show, to the byte, and to whom they do not."""

import asyncio
import hashlib
import json
import socket
from typing import Any
from uuid import uuid4

import pytest

from app.tools import TOOLS
from colony_client.contract import Dispatch
from colony_client.errors import Refused, Superseded
from tests.boundary.calls import call, token_of
from tests.world import World
from tests.world.checks import inspector, problem
from tests.world.life import Life, give_guide, in_state, under_way

CRM = {"mission_type": "crm_lead_intelligence"}
LONG = "# Lang\n\n" + "äöü ß 語🜚 " * 8_000  # more than one answer of workspace.read


def tool_path(dispatch: Dispatch, tool: str) -> str:
    return f"/internal/v1/missions/{dispatch.mission_id}/tools/{tool}/calls"


async def ask(world: World, dispatch: Dispatch, tool: str, arguments: Any, token: str | None = None) -> Any:
    body = json.dumps({"arguments": arguments}).encode()
    return await call(world, tool_path(dispatch, tool), body, token or dispatch.mission_token)


async def readings(life: Life) -> list[tuple[str, str, str, str | None]]:
    rows = await (await inspector(life.world)).fetch(
        "SELECT encode(source_sha256, 'hex') AS source, document, kind, version FROM reading WHERE mission = $1 ORDER BY document",
        life.id,
    )
    return [(row["source"], row["document"], row["kind"], row["version"]) for row in rows]


async def blob(world: World, source: str) -> bytes:
    data: bytes = await (await inspector(world)).fetchval(
        "SELECT bytes FROM blob WHERE sha256 = $1", bytes.fromhex(source)
    )
    assert hashlib.sha256(data).hexdigest() == source
    return data


# --- the workspace


async def test_search_shows_passages_that_are_the_stored_bytes(world: World) -> None:
    source = await give_guide(world)
    await give_guide(world, LONG, "lang.md")
    life = await under_way(world)
    found = await world.colony.tool(life.dispatch, "workspace.search", query="Who is needed for a rollback?", limit=3)
    passages = found["passages"]
    assert 0 < len(passages) <= 3
    assert passages[0]["source"] == source and "two people" in passages[0]["text"]
    assert [one["score"] for one in passages] == sorted((one["score"] for one in passages), reverse=True)
    for one in passages:
        assert (await blob(world, one["source"]))[one["start"] : one["end"]] == one["text"].encode()
    assert await readings(life) == sorted({(one["source"], one["document"], "document", None) for one in passages})


async def test_search_in_a_workspace_that_does_not_exist_finds_nothing(world: World) -> None:
    life = await under_way(world, inputs={"workspace": "empty"})
    assert await world.colony.tool(life.dispatch, "workspace.search", query="rollback") == {"passages": []}
    assert await world.colony.tool(life.dispatch, "workspace.outline") == {"documents": []}
    assert await readings(life) == []


async def test_outline_lists_documents_and_shows_none_of_them(world: World) -> None:
    source = await give_guide(world, LONG)
    life = await under_way(world)
    assert await world.colony.tool(life.dispatch, "workspace.outline") == {
        "documents": [{"document": "guide.md", "source": source, "title": "Lang", "bytes": len(LONG.encode())}]
    }
    assert await readings(life) == [], "a title in a list is no evidence"


@pytest.mark.parametrize(
    ("start", "end"), [(0, 65_536), (8, 9), (9, 10), (10, 11), (20, 5), (0, 10**12), (10**12, 10**13)]
)
async def test_read_shows_whole_characters_of_the_stored_bytes(world: World, start: int, end: int) -> None:
    source = await give_guide(world, LONG, "lang.md")
    life = await under_way(world)
    found = await world.colony.tool(life.dispatch, "workspace.read", source=source, start=start, end=end)
    data = await blob(world, source)
    assert data == LONG.encode() and found["total"] == len(data)
    assert data[found["start"] : found["end"]].decode() == found["text"]
    assert len(found["text"].encode()) <= 65_536 + 6
    if start < end <= len(data):
        assert found["start"] <= start and found["end"] >= min(end, start + 65_536), "asked for and not shown"
    assert await readings(life) == [(source, "lang.md", "document", None)]


async def test_read_knows_only_what_the_workspace_holds(world: World) -> None:
    source = await give_guide(world)
    other = await give_guide(world, "# Elsewhere\n\nSomething else.\n", "else.md", workspace="second")
    life = await under_way(world)
    for absent in (other, "0" * 64):
        problem(await ask(world, life.dispatch, "workspace.read", {"source": absent}), "not_found")
    await world.submitter.delete("/v1/workspaces/default/documents?path=guide.md")
    problem(await ask(world, life.dispatch, "workspace.read", {"source": source}), "not_found")
    assert await readings(life) == []


async def test_a_mission_reads_its_own_workspace_and_no_other(world: World) -> None:
    await give_guide(world)
    await give_guide(world, workspace="second")
    life = await under_way(world, inputs={"workspace": "second"})
    named = await world.colony.tool(life.dispatch, "workspace.search", query="rollback", workspace="second")
    assert named["passages"]
    for tool, arguments in (("search", {"query": "rollback"}), ("outline", {}), ("read", {"source": "0" * 64})):
        said = problem(
            await ask(world, life.dispatch, f"workspace.{tool}", arguments | {"workspace": "default"}),
            "denied_by_policy",
        )
        assert said["rule"] == "tools.own_workspace"


async def test_another_tenants_workspace_of_the_same_name_is_not_seen(world: World) -> None:
    await world.another_tenant()
    answer = await world.other.put(
        "/v1/workspaces/default/documents?path=secret.md", content=b"# Secret\n\nThe rollback password is swordfish.\n"
    )
    theirs = answer.json()["source"]
    life = await under_way(world)
    assert await world.colony.tool(life.dispatch, "workspace.search", query="rollback password") == {"passages": []}
    problem(await ask(world, life.dispatch, "workspace.read", {"source": theirs}), "not_found")


# --- the CRM


async def test_crm_records_come_as_snapshots_that_can_be_cited(world: World) -> None:
    await world.with_crm()
    life = await under_way(world, **CRM)
    page = await world.colony.tool(life.dispatch, "crm.list", kind="lead", limit=5)
    assert len(page["records"]) == 5
    rest = await world.colony.tool(life.dispatch, "crm.list", kind="lead", limit=5, cursor=page["next_cursor"])
    assert not {one["record_id"] for one in page["records"]} & {one["record_id"] for one in rest["records"]}
    for one in page["records"]:
        assert await blob(world, one["source"]) == one["text"].encode()
        said = json.loads(one["text"])
        assert (said["kind"], said["id"], said["version"], said["fields"]) == (
            "lead", one["record_id"], one["version"], one["fields"],
        )  # fmt: skip
        assert one["document"] == f"sample_crm/lead/{one['record_id']}"
    again = await world.colony.tool(life.dispatch, "crm.read", kind="lead", id=page["records"][0]["record_id"])
    assert again == page["records"][0], "an unchanged record is the same snapshot"
    seen = {(one["source"], one["document"], "record", one["version"]) for one in page["records"] + rest["records"]}
    assert set(await readings(life)) == seen
    mine = await world.colony.tool(life.dispatch, "crm.list", kind="activity", lead_id="L-1001", limit=200)
    assert mine["records"] and {one["fields"]["lead_id"] for one in mine["records"]} == {"L-1001"}


async def test_what_the_crm_does_not_know_is_not_found_and_what_it_refuses_is_the_callers_fault(world: World) -> None:
    await world.with_crm()
    life = await under_way(world, **CRM)
    problem(await ask(world, life.dispatch, "crm.read", {"kind": "lead", "id": "L-9999"}), "not_found")
    problem(await ask(world, life.dispatch, "crm.read", {"kind": "lead", "id": "../../health"}), "validation")
    problem(await ask(world, life.dispatch, "crm.list", {"kind": "lead", "cursor": "???"}), "validation")
    problem(await ask(world, life.dispatch, "crm.list", {"kind": "lead", "lead_id": "L-1001"}), "validation")


async def test_a_system_that_is_not_connected_is_not_found_and_nobody_waits_for_it(world: World) -> None:
    life = await under_way(world, **CRM)
    for more in ({}, {"connector": "no_such_connector"}):  # not configured here, and not known to the tenant
        for tool, arguments in (("crm.list", {"kind": "lead"}), ("crm.read", {"kind": "lead", "id": "L-1001"})):
            said = problem(await ask(world, life.dispatch, tool, arguments | more), "not_found")
            assert said["retryable"] is False
    assert await life.state() == "running"


async def test_a_crm_that_is_away_is_unavailable_and_may_be_asked_again(world: World) -> None:
    life = await under_way(world, **CRM)
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for listening in (True, False):
        if not listening:
            server.close()
            await server.wait_closed()
        world.internal.state.settings = world.settings(crm_base_url=base)
        said = problem(
            await ask(world, life.dispatch, "crm.read", {"kind": "lead", "id": "L-1001"}), "upstream_unavailable"
        )
        assert said["retryable"] is True and base not in json.dumps(said)
    said = [(type, body["code"]) for type, body in await life.facts("tool.")]
    assert said == [("tool.failed", "upstream_unavailable")] * 2
    assert await life.state() == "running"


# --- who, and with what


async def test_every_call_leaves_one_fact_without_words(world: World) -> None:
    await give_guide(world)
    life = await under_way(world)
    await world.colony.tool(life.dispatch, "workspace.search", query="Wer ist Anna Muster?")
    await world.colony.tool(life.dispatch, "workspace.outline")
    facts = await life.facts("tool.called")
    assert [(body["tool"], body["attempt"]) for _, body in facts] == [("workspace.search", 1), ("workspace.outline", 1)]
    for _, body in facts:
        assert set(body) == {"tool", "attempt", "arguments_sha256", "result_sha256", "sources"}
    assert "Muster" not in str(facts)


async def test_a_tool_the_mission_does_not_list_is_denied_and_that_is_on_record(world: World) -> None:
    life = await under_way(world, tools=["workspace.outline"])
    await world.colony.tool(life.dispatch, "workspace.outline")
    for tool in ("workspace.search", "crm.list"):
        arguments = {"query": "x"} if tool == "workspace.search" else {"kind": "lead"}
        said = problem(await ask(world, life.dispatch, tool, arguments), "denied_by_policy")
        assert said["rule"] == "tools.blocked" and said["would_change"]
        (_, fact) = (await life.facts("tool.denied"))[-1]
        assert (fact["tool"], fact["rule"]) == (tool, "tools.blocked")
        packet = (await world.auditor.get(f"/v1/missions/{life.id}/packet")).json()
        [decision] = [one for one in packet["policy_decisions"] if one["id"] == fact["policy_decision"]]
        assert (decision["action"], decision["resource"], decision["effect"]) == ("tool.call", tool, "deny")
    assert len(await life.facts("tool.called")) == 1


BAD: list[tuple[str, Any, str]] = [
    ("workspace.search", {}, "/arguments/query"),
    ("workspace.search", {"query": ""}, "/arguments/query"),
    ("workspace.search", {"query": 7}, "/arguments/query"),
    ("workspace.search", {"query": "x" * 2_001}, "/arguments/query"),
    ("workspace.search", {"query": "x", "limit": 0}, "/arguments/limit"),
    ("workspace.search", {"query": "x", "limit": 51}, "/arguments/limit"),
    ("workspace.search", {"query": "x", "limit": "5"}, "/arguments/limit"),
    ("workspace.search", {"query": "x", "mood": 1}, "/arguments/mood"),
    ("workspace.read", {}, "/arguments/source"),
    ("workspace.read", {"source": "abc"}, "/arguments/source"),
    ("workspace.read", {"source": "A" * 64}, "/arguments/source"),
    ("workspace.read", {"source": "0" * 64, "start": -1}, "/arguments/start"),
    ("workspace.read", {"source": "0" * 64, "end": 0}, "/arguments/end"),
    ("workspace.outline", {"everything": True}, "/arguments/everything"),
    ("crm.list", {}, "/arguments/kind"),
    ("crm.list", {"kind": "pass/word"}, "/arguments/kind"),
    ("crm.list", {"kind": "lead", "limit": 201}, "/arguments/limit"),
    ("crm.read", {"kind": "lead"}, "/arguments/id"),
    ("crm.read", {"kind": "lead", "id": "x" * 201}, "/arguments/id"),
    ("crm.update", {"kind": "lead", "id": "L-1001", "changes": {"a": 1}}, "/arguments/evidence"),
]


async def test_bad_arguments_are_named_by_pointer(world: World) -> None:
    assert {tool for tool, _, _ in BAD} == set(TOOLS), "a tool without its refusals"
    life = await under_way(world, **CRM, tools=list(TOOLS))
    for tool, arguments, pointer in BAD:
        said = problem(await ask(world, life.dispatch, tool, arguments), "validation")
        assert pointer in [error["pointer"] for error in said["errors"]], (tool, arguments, said["errors"])
    for body in (b"", b"[]", b'{"arguments": []}', b'{"arguments": {}, "x": 1}', b'{"arguments": NaN}', b"[" * 10_000):
        answer = await call(world, tool_path(life.dispatch, "workspace.outline"), body, life.dispatch.mission_token)
        problem(answer, "validation")
    assert {(type, body["code"]) for type, body in await life.facts("tool.")} == {("tool.failed", "validation")}


async def test_a_tool_that_does_not_exist_is_not_found(world: World) -> None:
    life = await under_way(world)
    for tool in ("workspace.erase", "x", "workspace", "crm.write", "%2e%2e", "x" * 500):
        problem(await ask(world, life.dispatch, tool, {}), "not_found")


async def test_only_the_current_attempt_of_an_open_mission_calls_tools(world: World) -> None:
    life = await under_way(world)
    first = life.dispatch
    await life.lose_lease()
    await life.take()
    problem(await ask(world, first, "workspace.outline", {}), "attempt_superseded")
    assert await world.colony.tool(life.dispatch, "workspace.outline") == {"documents": []}
    with pytest.raises(Superseded):
        await world.colony.tool(first, "workspace.outline")
    for state in ("in_review", "awaiting_approval", "executing"):
        closed = await in_state(world, state)
        problem(await ask(world, closed.dispatch, "workspace.outline", {}), "mission_closed")
    cancelled = await under_way(world)
    await cancelled.end("cancel")
    problem(await ask(world, cancelled.dispatch, "workspace.outline", {}), "mission_closed")


async def test_a_tool_call_needs_the_token_of_its_mission(world: World) -> None:
    life, other = await under_way(world), await under_way(world)
    for token in (token_of(world, life.dispatch, audience="gateway"), other.dispatch.mission_token, "nonsense"):
        problem(await ask(world, life.dispatch, "workspace.outline", {}, token), "unauthenticated")
    absent = token_of(world, life.dispatch, mission=uuid4())
    path = f"/internal/v1/missions/{uuid4()}/tools/workspace.outline/calls"
    problem(await call(world, path, b"{}", absent), "unauthenticated")
    problem(await call(world, tool_path(life.dispatch, "workspace.outline"), b"{}", None), "unauthenticated")


async def test_a_mission_cancelled_while_a_tool_works_gets_the_answer_and_nothing_more(world: World) -> None:
    await world.with_crm()
    life = await under_way(world, **CRM)
    call_crm = world.colony.tool(life.dispatch, "crm.list", kind="lead", limit=200)
    answers: Any = await asyncio.gather(call_crm, life.end("cancel"), return_exceptions=True)
    assert isinstance(answers[0], dict | Refused) and answers[1].status_code == 200
    with pytest.raises(Superseded):
        await world.colony.tool(life.dispatch, "crm.list", kind="lead")


async def test_no_connection_to_the_database_is_held_while_a_target_is_asked(world: World) -> None:
    asked: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _reader, writer: asked.append(writer), "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    world.internal.state.settings = world.settings(crm_base_url=base)
    life = await under_way(world, **CRM)
    calls = [
        asyncio.create_task(ask(world, life.dispatch, "crm.read", {"kind": "lead", "id": "L-1001"}))
        for _ in range(world.root.settings.database_pool_size + 1)
    ]
    while len(asked) < len(calls) and not any(call.done() for call in calls):
        await asyncio.sleep(0.01)
    assert await world.colony.tool(life.dispatch, "workspace.outline") == {"documents": []}
    assert not any(call.done() for call in calls)
    for writer in asked:
        writer.close()
    server.close()
    for answer in await asyncio.gather(*calls):
        problem(answer, "upstream_unavailable")


@pytest.mark.long
async def test_a_crm_that_never_answers_is_named_as_the_cause(world: World) -> None:
    """It takes the connection, and says nothing: what the colony hears can be counted when it gives up."""
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        world.crm_base_url = f"http://127.0.0.1:{frozen.getsockname()[1]}"
        world.internal.state.settings = world.settings()
        life = await under_way(world, **CRM)
        said = problem(await ask(world, life.dispatch, "crm.list", {"kind": "lead"}), "upstream_unavailable")
        assert (said["cause"], said["detail"]) == ("connector_timed_out", "The CRM did not answer within 10 s.")
    said = problem(await ask(world, life.dispatch, "crm.list", {"kind": "lead"}), "upstream_unavailable")
    assert said["cause"] == "connector_unreachable"
