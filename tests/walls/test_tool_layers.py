"""Tool layers as walled data: who may register and switch them, and that what has drifted stays so."""

import json
from typing import Any

import asyncpg
import pytest

from tests.walls.ground import DENIED, Ground
from tests.walls.test_connectors import facts, spelled_alike
from tests.walls.test_tenants import neighbour_of

PUT = "SELECT * FROM put_tool_layer($1, $2, $3, $4, $5, $6)"
SWITCH = "SELECT outcome FROM switch_tool_layer($1, $2, $3, $4, $5)"
NOTE = "SELECT note_tool_layer($1, $2, $3, $4, $5, $6, $7, $8)"
BODY = {"pinned": {"a": {}, "b": {}}}


async def put(
    ground: Ground, version: int | None, body: Any = BODY, who: str = "adam", name: str = "odd", kind: str = "mcp"
) -> tuple[Any, ...]:
    definition = None if body is None else json.dumps(body)
    [row] = await ground.run("api", PUT, ground.tenant, ground.secrets.get(who, who), name, version, kind, definition)
    return tuple(row)


async def switch(
    ground: Ground, halt: bool | None, who: str = "adam", name: str = "odd", why: str | None = "a test"
) -> str:
    return str(await ground.value("api", SWITCH, ground.tenant, ground.secrets.get(who, who), name, halt, why))


async def note(
    ground: Ground, version: int = 1, *drifted: str, role: str = "api", failure: str | None = None, calls: int = 0
) -> bool:
    values = (ground.tenant, "odd", version, failure is None, failure, list(drifted), calls, 0)
    return bool(await ground.value(role, NOTE, *values))


async def state(ground: Ground, version: int = 1) -> dict[str, Any]:
    [row] = await ground.run(
        "admin", "SELECT * FROM tool_layer_state WHERE tenant = $1 AND version = $2", ground.tenant, version
    )
    return dict(row)


async def test_an_admin_registers_changes_and_retires_and_every_step_is_a_fact(ground: Ground) -> None:
    assert await put(ground, None) == ("created", 1, None)
    assert await put(ground, 1, {"x": 1}) == ("changed", 2, None)
    assert await put(ground, 2, None, kind="another") == ("retired", 3, None)  # its kind stays
    assert await put(ground, 3) == ("changed", 4, None)
    kept = await ground.run("admin", "SELECT * FROM tool_layer WHERE tenant = $1 ORDER BY version", ground.tenant)
    assert [(row["version"], json.loads(row["definition"]), row["retired"]) for row in kept] == [
        (1, BODY, False), (2, {"x": 1}, False), (3, {"x": 1}, True), (4, BODY, False),
    ]  # fmt: skip
    assert {row["created_by"] for row in kept} == {ground.ids["adam"]}
    assert {row["account"] for row in kept} == {f"TOOL_T_{str(ground.tenant).replace('-', '_').upper()}__ODD"}
    stated = await facts(ground, ground.tenant, "tool_layer.changed")
    assert [(fact["layer_version"], fact["retired"]) for fact in stated] == [
        (1, False),
        (2, False),
        (3, True),
        (4, False),
    ]
    due = await ground.run(
        "admin", "SELECT kind, queue FROM work WHERE tenant = $1 AND kind = 'tool_check'", ground.tenant
    )
    assert [tuple(row) for row in due] == [("tool_check", "worker")]


async def test_only_a_live_human_admin_registers(ground: Ground) -> None:
    for who, outcome in (
        ("anna", "not_entitled"), ("asker", "not_entitled"), ("robot", "not_entitled"),
        ("nobody's secret", "unauthenticated"), ("", "unauthenticated"),
    ):  # fmt: skip
        assert (await put(ground, None, who=who))[0] == outcome
    async with neighbour_of(ground) as other:
        assert (await put(ground, None, who=other.secrets["adam"]))[0] == "unauthenticated"
        with pytest.raises(asyncpg.PostgresError, match="tenant differs"):
            await other.run("api", PUT, ground.tenant, ground.secrets["adam"], "odd", None, "mcp", "{}")
    await ground.refused(DENIED, "api", "INSERT INTO tool_layer (tenant) VALUES ($1)", ground.tenant)
    assert await ground.run("admin", "SELECT 1 FROM tool_layer WHERE tenant = $1", ground.tenant) == []


async def test_a_layer_is_registered_on_the_version_that_was_seen(ground: Ground) -> None:
    assert await put(ground, 1) == ("not_found", None, None)
    assert await put(ground, None, None) == ("not_found", None, None)
    await put(ground, None)
    for seen in (None, 0, 2):
        assert await put(ground, seen) == ("stale", 1, None)
    for name, kind, body in (
        ("Odd", "mcp", {}), ("crm", "mcp", {}), ("workspace", "mcp", {}), ("a" * 31, "mcp", {}), ("odd2", "shell", {}), ("odd2", "mcp", []),
    ):  # fmt: skip
        assert (await put(ground, None, body, name=name, kind=kind))[0] == "bad_layer"
    first = ("api", PUT, (ground.tenant, ground.secrets["adam"], "odd", 1, "mcp", '{"a": 1}'))
    assert await ground.overtaken(first, put(ground, 1)) == ("stale", 1, None)


async def test_two_tenants_never_share_a_keys_name(ground: Ground) -> None:
    assert (await put(ground, None))[0] == "created"
    async with spelled_alike(ground) as like:
        assert await put(like, None) == ("account_taken", None, None)


async def test_an_operator_halts_and_only_an_admin_resumes(ground: Ground) -> None:
    assert await switch(ground, True) == "not_found"
    await put(ground, None)
    assert await switch(ground, True, "asker") == "not_entitled" and await switch(ground, None) == "not_entitled"
    assert await switch(ground, True, "nobody's") == "unauthenticated"
    for why in (None, "", "  \n", "x" * 2001):
        assert await switch(ground, True, why=why) == "no_reason"
    for name in ("odd", "*"):
        assert await switch(ground, True, "anna", name) == "halted"
        assert await switch(ground, True, "anna", name) == "unchanged"
        assert await switch(ground, False, "anna", name) == "not_entitled"
        assert await switch(ground, False, "adam", name) == "resumed"
    assert len(await facts(ground, ground.tenant, "tool_layer.halted")) == 2
    assert len(await facts(ground, ground.tenant, "tool_layer.resumed")) == 2


async def test_two_who_switch_at_once_are_one_after_the_other(ground: Ground) -> None:
    await put(ground, None)
    first = ("api", SWITCH, (ground.tenant, ground.secrets["anna"], "odd", True, "a test"))
    assert await ground.overtaken(first, switch(ground, True)) == "unchanged"


async def test_what_has_drifted_is_a_fact_once_and_stays(ground: Ground) -> None:
    await put(ground, None)
    assert not await note(ground, 1, "nothing", "")
    assert await note(ground, 1, "a", "nothing") and not await note(ground, 1, "a")
    assert await note(ground, 1, "b", "b", role="worker")
    found = await state(ground)
    assert (found["drifted"], found["answered_at"] is not None, found["failed_at"]) == (["a", "b"], True, None)
    said = await facts(ground, ground.tenant, "tool_layer.drifted")
    assert [(fact["actor"], fact["tools"]) for fact in said] == [("system:api", ["a"]), ("system:worker", ["b"])]
    for wish in ("drifted = '{}', drifted_at = NULL", "drifted = '{b}'", "drifted_at = clock_timestamp()"):
        await ground.refused("RX001", "owner", f"UPDATE tool_layer_state SET {wish} WHERE tenant = $1", ground.tenant)
    await ground.refused(DENIED, "api", "UPDATE tool_layer_state SET calls = 0")
    await put(ground, 1)
    assert (await state(ground, 2))["drifted"] == [] and (await state(ground, 1))["drifted"] == ["a", "b"]


async def test_two_who_see_the_same_drift_at_once_tell_it_once(ground: Ground) -> None:
    await put(ground, None)
    first = ("api", NOTE, (ground.tenant, "odd", 1, True, None, ["a"], 1, 0))
    assert await ground.overtaken(first, note(ground, 1, "a", role="worker")) is False
    assert len(await facts(ground, ground.tenant, "tool_layer.drifted")) == 1


async def test_what_was_seen_adds_up(ground: Ground) -> None:
    await put(ground, None)
    await note(ground, calls=3)
    await note(ground, failure="")
    assert (await state(ground))["failure"] == "unknown"
    await note(ground, failure="tool_timed_out", calls=2)
    await note(ground, failure="Words of a server!", calls=-5)
    found = await state(ground)
    assert (found["calls"], found["failure"]) == (5, "_ords_of_a_server_")
    assert not await note(ground, 9)
    async with neighbour_of(ground) as other:
        with pytest.raises(asyncpg.PostgresError, match="tenant differs"):
            await other.run("api", NOTE, ground.tenant, "odd", 1, True, None, ["a"], 1, 1)
