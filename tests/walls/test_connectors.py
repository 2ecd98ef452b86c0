"""Connectors as walled data: who may put, halt and resume them, what a change does to what waits, reading by the executor."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.walls.ground import DENIED, LEASE, Asked, Ground, payload
from tests.walls.test_tenants import neighbour_of

PUT = "SELECT * FROM put_connector($1, $2, $3, $4, $5, $6)"
SWITCH = "SELECT outcome FROM switch_connector($1, $2, $3, $4, $5)"


async def put(
    ground: Ground, name: str, version: int | None, body: Any, who: str = "adam", kind: str = "http_json"
) -> tuple[Any, ...]:
    definition = None if body is None else json.dumps(body)
    [row] = await ground.run("api", PUT, ground.tenant, ground.secrets.get(who, who), name, version, kind, definition)
    return tuple(row)


async def facts(ground: Ground, subject: UUID, kind: str) -> list[dict[str, Any]]:
    rows = await ground.run(
        "admin", "SELECT actor, convert_from(body, 'UTF8') AS body FROM ledger WHERE subject = $1 AND type = $2 ORDER BY seq", subject, kind
    )  # fmt: skip
    return [{"actor": row["actor"], **json.loads(row["body"])} for row in rows]


# --- definitions


async def test_an_admin_puts_changes_and_retires_and_every_step_is_a_fact(ground: Ground) -> None:
    assert await put(ground, "tickets", None, {"a": 1}) == ("created", 1, None)
    assert await put(ground, "tickets", 1, {"a": 2}) == ("changed", 2, None)
    assert await put(ground, "tickets", 2, None, kind="postgresql") == ("retired", 3, None)
    assert await put(ground, "tickets", 3, {"a": 3}) == ("changed", 4, None)
    kept = await ground.run(
        "admin", "SELECT * FROM connector WHERE name = 'tickets' AND tenant = $1 ORDER BY version", ground.tenant
    )
    assert [(row["version"], json.loads(row["definition"]), row["retired"]) for row in kept] == [
        (1, {"a": 1}, False), (2, {"a": 2}, False), (3, {"a": 2}, True), (4, {"a": 3}, False),
    ]  # fmt: skip
    assert {row["created_by"] for row in kept} == {ground.ids["adam"]}
    assert {row["kind"] for row in kept} == {"http_json"}  # what is retired keeps its kind
    stated = [
        fact for fact in await facts(ground, ground.tenant, "connector.changed") if fact["connector"] == "tickets"
    ]
    assert [(fact["connector_version"], fact["retired"]) for fact in stated] == [
        (1, False),
        (2, False),
        (3, True),
        (4, False),
    ]
    assert {fact["actor"] for fact in stated} == {f"principal:{ground.ids['adam']}"}


async def test_only_a_live_human_admin_puts_a_definition(ground: Ground) -> None:
    for who, outcome in (
        ("anna", "not_entitled"), ("asker", "not_entitled"), ("robot", "not_entitled"),
        ("nobody's secret", "unauthenticated"), ("", "unauthenticated"),
    ):  # fmt: skip
        assert (await put(ground, "tickets", None, {}, who))[0] == outcome
    async with neighbour_of(ground) as other:
        assert (await put(ground, "tickets", None, {}, other.secrets["adam"]))[0] == "unauthenticated"
        with pytest.raises(asyncpg.PostgresError, match="tenant differs"):
            await other.run("api", PUT, ground.tenant, ground.secrets["adam"], "tickets", None, "http_json", "{}")
    await ground.revoke("adam", "admin")
    assert (await put(ground, "tickets", None, {}))[0] == "not_entitled"
    assert (
        await ground.run("admin", "SELECT 1 FROM connector WHERE name = 'tickets' AND tenant = $1", ground.tenant) == []
    )


async def test_a_definition_is_put_on_the_version_that_was_seen(ground: Ground) -> None:
    assert await put(ground, "tickets", 1, {}) == ("not_found", None, None)
    assert await put(ground, "tickets", None, None) == ("not_found", None, None)
    await put(ground, "tickets", None, {})
    for seen in (None, 0, 2):
        assert await put(ground, "tickets", seen, {}) == ("stale", 1, None)
    for name, kind, body in (
        ("Tickets", "http_json", {}),
        ("a__b", "http_json", {}),
        ("tickets2", "shell", {}),
        ("tickets2", "http_json", []),
    ):
        assert (await put(ground, name, None, body, kind=kind))[0] == "bad_connector"


async def test_two_who_put_at_once_do_not_make_one_version_twice(ground: Ground) -> None:
    await put(ground, "tickets", None, {})
    first = ("api", PUT, (ground.tenant, ground.secrets["adam"], "tickets", 1, "http_json", '{"a": 1}'))
    assert await ground.overtaken(first, put(ground, "tickets", 1, {"a": 2})) == ("stale", 2, None)


@asynccontextmanager
async def spelled_alike(ground: Ground) -> AsyncIterator[Ground]:
    """A younger tenant, renamed to be spelled like this one: nothing else can do it, and the wall is asked what follows."""
    async with neighbour_of(ground) as like:
        async with like.within("admin") as admin:
            await admin.execute("ALTER TABLE tenant DISABLE TRIGGER tenant_guard")
            await admin.execute("UPDATE tenant SET name = $2 WHERE id = $1", like.tenant, f"T {ground.tenant}")
            await admin.execute("ALTER TABLE tenant ENABLE ALWAYS TRIGGER tenant_guard")
        yield like


async def test_two_tenants_never_share_a_credentials_name(ground: Ground) -> None:
    assert (await put(ground, "tickets", None, {}))[0] == "created"
    account = "SELECT account FROM connector WHERE tenant = $1 AND name = 'tickets'"
    mine = await ground.value("admin", account, ground.tenant)
    assert mine == f"CONNECTOR_T_{str(ground.tenant).replace('-', '_').upper()}__TICKETS"
    async with spelled_alike(ground) as like:
        assert (await put(like, "tickets", None, {}))[0] == "account_taken"
    assert (await put(ground, "more", None, {}))[0] == "created"


async def test_drills_meet_the_built_in_target_and_nobody_else_does(ground: Ground) -> None:
    assert (await put(ground, "tickets", None, {}, kind="drill"))[0] == "not_for_this_tenant"
    insert = """INSERT INTO connector (tenant, name, version, kind, definition, account, created_by)
                VALUES ($1, $2, 1, $3, '{}', 'CONNECTOR_A__B', $4)"""
    await ground.refused("RX034", "owner", insert, ground.tenant, "tickets", "drill", ground.ids["adam"])
    drills, tester = await ground.drills(), uuid4()
    await ground.run("registrar", "INSERT INTO principal (tenant, id, kind, name) VALUES ($1, $2, 'human', $3)",
                     drills, tester, f"tester-{tester}", tenant=drills)  # fmt: skip
    name = f"c{tester.hex}"
    await ground.refused("RX034", "owner", insert, drills, name, "sample_crm", tester, tenant=drills)
    await ground.run("owner", insert, drills, name, "drill", tester, tenant=drills)


# --- what waits


async def test_a_writeback_names_the_definition_it_was_proposed_for(ground: Ground) -> None:
    await ground.connector("crm")
    await ground.connector("crm", base_url="https://elsewhere.example")
    asked = await ground.ask()
    assert await ground.value("admin", "SELECT connector_version FROM writeback WHERE id = $1", asked.writeback) == 2
    for name in ("never", "retired"):
        if name == "retired":
            await ground.connector(name)
            await put(ground, name, 1, None)
        ground.connectors[name] = 1
        with pytest.raises(asyncpg.PostgresError, match="no such connector"):
            await ground.ask(name)


async def claimed(ground: Ground, asked: Asked) -> tuple[Any, ...]:
    row = await ground.claim(asked)
    return row["outcome"], row["why"], row["payload"]


async def test_what_was_approved_under_another_definition_is_not_carried_out(ground: Ground) -> None:
    asked = await ground.approved()
    await ground.connector("crm", description="only words")
    row = await ground.claim(asked)
    assert (row["outcome"], row["connector_kind"], row["connector_version"]) == ("apply", "sample_crm", 1)
    assert json.loads(row["definition"]) == {} and row["account"].endswith("__CRM")

    for change in ("changed", "retired"):
        asked = await ground.approved()
        version = ground.connectors["crm"]
        body = None if change == "retired" else {"base_url": "https://elsewhere.example"}
        assert (await put(ground, "crm", version, body, kind="sample_crm"))[0] == change
        assert await claimed(ground, asked) == ("refused", f"connector_{change}", None)
        assert await ground.state(asked) == "cancelled"
        [row] = await ground.run("admin", "SELECT note, stopped FROM approval WHERE id = $1", asked.approval)
        assert tuple(row) == (None, f"connector_{change}"), "people's words are people's"
        assert await claimed(ground, asked) == ("refused", "cancelled", None)
        assert await ground.run("admin", "SELECT 1 FROM execution WHERE writeback = $1", asked.writeback) == []
        [closed] = await facts(ground, asked.mission, "approval.closed")
        assert (closed["actor"], closed["state"], closed["reason"]) == (
            "system:executor",
            "cancelled",
            f"connector_{change}",
        )
        assert (
            await ground.run("admin", "SELECT 1 FROM work WHERE kind = 'progress' AND subject = $1", asked.mission)
            != []
        )
        ground.connectors["crm"] = version + 1
        await ground.connector("crm", base_url="https://elsewhere.example")

    asked = await ground.approved()
    assert (await put(ground, "crm", ground.connectors["crm"], {}, kind="tryton"))[0] == "changed"
    assert (await claimed(ground, asked))[1] == "connector_changed"


async def test_what_was_claimed_before_the_change_may_only_be_asked_about_where_it_went(ground: Ground) -> None:
    asked = await ground.approved()
    [row] = await ground.run("executor", "SELECT * FROM claim($1, $2, '0')", ground.tenant, asked.writeback)
    assert row["outcome"] == "apply"
    await ground.connector("crm", base_url="https://elsewhere.example")
    row = await ground.claim(asked)
    assert (row["outcome"], row["why"], row["connector_version"], json.loads(row["definition"])) == (
        "reconcile", "connector_changed", 1, {},
    )  # fmt: skip


async def test_no_claim_follows_a_definition_that_is_committed(ground: Ground) -> None:
    asked = await ground.approved()
    changing = (
        "api",
        PUT,
        (ground.tenant, ground.secrets["adam"], "crm", 1, "sample_crm", '{"base_url": "https://elsewhere.example"}'),
    )
    row = await ground.overtaken(changing, ground.claim(asked))
    assert (row["outcome"], row["why"]) == ("refused", "connector_changed")


# --- the switch


async def switch(ground: Ground, who: str, halt: bool, connector: str = "crm", reason: str | None = "a reason") -> str:
    return await ground.value("api", SWITCH, ground.tenant, ground.secrets.get(who, who), connector, halt, reason)


async def test_operators_halt_and_only_admins_go_on(ground: Ground) -> None:
    await ground.connector("crm")
    for who, outcome in (
        ("asker", "not_entitled"),
        ("gwen", "not_entitled"),
        ("machine", "not_entitled"),
        ("x", "unauthenticated"),
    ):
        assert await switch(ground, who, True) == outcome
    assert await switch(ground, "anna", True, "nothing") == "not_found"
    for reason in (None, "", "  \n"):
        assert await switch(ground, "anna", True, reason=reason) == "no_reason"
    assert await switch(ground, "anna", False) == "not_entitled"
    assert await switch(ground, "anna", True) == "halted"
    assert await switch(ground, "anna", True) == "unchanged"
    assert await switch(ground, "anna", False) == "not_entitled"
    assert await switch(ground, "adam", False) == "resumed"
    assert await switch(ground, "adam", False) == "unchanged"
    assert await switch(ground, "adam", True, "*") == "halted"
    [row] = await ground.run("api", "SELECT * FROM connector_switch WHERE connector = '*'")
    assert (row["reason"], row["changed_by"], row["halted_at"] is not None) == ("a reason", ground.ids["adam"], True)
    for kind, who, connectors in (("connector.halted", "anna adam", "crm *"), ("connector.resumed", "adam", "crm")):
        said = await facts(ground, ground.tenant, kind)
        assert [fact["actor"] for fact in said] == [f"principal:{ground.ids[name]}" for name in who.split()]
        assert [fact["connector"] for fact in said] == connectors.split()
        assert not any("reason" in fact for fact in said)  # people's words are no fact


async def test_two_who_halt_at_once_halt_once(ground: Ground) -> None:
    await ground.connector("crm")
    first = ("api", SWITCH, (ground.tenant, ground.secrets["anna"], "crm", True, "a reason"))
    assert await ground.overtaken(first, switch(ground, "ben", True)) == "unchanged"


async def test_no_login_switches_or_defines_past_the_functions(ground: Ground) -> None:
    await ground.halt("crm")
    for role in ("api", "worker", "registrar", "executor", "reader", "auditor"):
        for statement in (
            "UPDATE connector_switch SET halted_at = NULL", "DELETE FROM connector_switch", "UPDATE connector SET retired = false",
            f"INSERT INTO connector (tenant, name, version, kind, definition, account, created_by) VALUES ('{ground.tenant}', 'x', 1, "
            f"'sample_crm', '{{}}', 'CONNECTOR_A__B', '{ground.ids['adam']}')",
            "UPDATE connector_read SET value = 'x'", "DELETE FROM connector_read", "INSERT INTO connector_read DEFAULT VALUES",
        ):  # fmt: skip
            await ground.refused(DENIED, role, statement)


# --- reading by the executor

ASK = "SELECT ask_connector_read($1, $2, $3, $4)"
ANSWER = "SELECT answer_connector_read($1, $2, $3, $4, $5, $6)"


async def read_ground(ground: Ground) -> UUID:
    await ground.connector("far", read_by="executor")
    asked: UUID = await ground.value("api", ASK, ground.tenant, "far", "lead", "L-1")
    return asked


async def taken(ground: Ground, asked: UUID) -> int:
    for row in await ground.run("executor", "SELECT * FROM take_read_work(50, $1, '{}')", LEASE):
        if row["subject"] == asked:
            return int(row["fence"])
    raise AssertionError("nothing to read")


async def test_a_read_is_asked_for_once_taken_by_the_executor_and_answered_once(ground: Ground) -> None:
    asked = await read_ground(ground)
    assert await ground.value("worker", ASK, ground.tenant, "far", "lead", "L-1") == asked
    assert await ground.value("api", ASK, ground.tenant, "far", "lead", "L-2") != asked
    await ground.connector("near")
    for name in ("near", "nothing"):
        assert await ground.value("api", ASK, ground.tenant, name, "lead", "L-1") is None
    fence = await taken(ground, asked)
    [row] = await ground.run("executor", "SELECT * FROM connector_read_of($1, $2)", ground.tenant, asked)
    assert (row["connector"], row["kind"], row["record_id"], json.loads(row["definition"])) == (
        "far",
        "lead",
        "L-1",
        {"read_by": "executor"},
    )
    for refused in (fence - 1, fence + 1):
        assert await ground.value("executor", ANSWER, ground.tenant, asked, refused, b"{}", "1", None) is False
    for value, version, problem in ((b"{}", None, None), (b"{}", "1", "failed"), (None, "1", "failed")):
        await ground.refused(
            "connector_read_answer", "executor", ANSWER, ground.tenant, asked, fence, value, version, problem
        )
    assert await ground.value("executor", ANSWER, ground.tenant, asked, fence, b"{}", "1", None) is True
    assert await ground.value("executor", ANSWER, ground.tenant, asked, fence, b"[]", "2", None) is False
    [row] = await ground.run("api", "SELECT * FROM connector_read WHERE id = $1", asked)
    assert (row["value"], row["version"], row["problem"], row["answered_at"] is not None) == (b"{}", "1", None, True)
    assert await ground.run("executor", "SELECT * FROM connector_read_of($1, $2)", ground.tenant, asked) == []
    assert await ground.run("admin", "SELECT 1 FROM work WHERE subject = $1", asked) == []


async def test_reads_are_bounded_and_forgotten(ground: Ground) -> None:
    asked = await read_ground(ground)
    for number in range(2, 51):
        assert await ground.value("api", ASK, ground.tenant, "far", "lead", f"L-{number}") is not None
    assert await ground.value("api", ASK, ground.tenant, "far", "lead", "L-51") is None
    assert await ground.value("api", ASK, ground.tenant, "far", "lead", "L-1") == asked
    await ground.run(
        "owner", "UPDATE connector_read SET asked_at = asked_at - interval '6 minutes' WHERE id = $1", asked
    )
    assert await ground.run("executor", "SELECT * FROM connector_read_of($1, $2)", ground.tenant, asked) == []
    await ground.run("worker", "SELECT sweep_connector_reads(1000)")
    assert await ground.run("admin", "SELECT 1 FROM connector_read WHERE id = $1", asked) == []
    assert await ground.run("admin", "SELECT 1 FROM work WHERE subject = $1", asked) == []
    assert await ground.value("admin", "SELECT count(*) FROM connector_read WHERE tenant = $1", ground.tenant) == 49


async def test_nobody_else_reads_or_answers_for_a_tenant(ground: Ground) -> None:
    asked = await read_ground(ground)
    async with neighbour_of(ground) as other:
        assert await other.run("executor", "SELECT * FROM connector_read_of($1, $2)", other.tenant, asked) == []
        for statement, args in (
            ("SELECT * FROM connector_read_of($1, $2)", (ground.tenant, asked)),
            (ANSWER, (ground.tenant, asked, 1, b"{}", "1", None)),
            (ASK, (ground.tenant, "far", "lead", "L-1")),
        ):
            role = "api" if statement == ASK else "executor"
            await other.refused("RX002", role, statement, *args)
    await ground.run("registrar", "UPDATE tenant SET suspended_at = clock_timestamp() WHERE id = $1", ground.tenant)
    assert await ground.run("executor", "SELECT * FROM connector_read_of($1, $2)", ground.tenant, asked) == []
    for role in ("api", "worker"):  # what the executor is to do, it is told by functions alone
        with pytest.raises(asyncpg.PostgresError):
            await ground.run(role, "INSERT INTO work (tenant, kind, subject, queue) VALUES ($1, 'connector_read', $2, 'executor')",
                             ground.tenant, uuid4())  # fmt: skip


def test_the_payload_of_these_tests_is_for_the_connector_it_names() -> None:
    assert json.loads(payload("far"))["connector"] == "far"
