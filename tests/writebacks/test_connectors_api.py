"""Connectors over HTTP: what is shown, putting and retiring, halting, a look, and reading through the executor."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.approvals import api as approvals_api
from app.executor import Executor
from app.work import READS
from app.writebacks import book
from app.writebacks.connectors_api import EXAMPLE as EVERYTHING
from tests.approvals.desk import post
from tests.policy.test_changing import rule
from tests.world import World
from tests.world.checks import inspector, pending_change, problem
from tests.world.world import READ_TOKEN, WRITE_TOKEN

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "sample_crm.yaml"
OWN = "CONNECTOR_DEMO__SAMPLE_CRM"
WHY = {"json": {"reason": "a test"}}


async def put(world: World, name: str, body: Any, seen: str = "", who: str = "admin", **more: Any) -> httpx.Response:
    headers = {"If-Match": seen} if seen else {}
    client = world.people[who].http
    if isinstance(body, bytes):
        return await client.put(
            f"/v1/connectors/{name}", content=body, headers=headers | {"Content-Type": "application/yaml"}, **more
        )
    return await client.put(f"/v1/connectors/{name}", json=body, headers=headers, **more)


async def seen(world: World, name: str = "sample_crm") -> tuple[dict[str, Any], str]:
    answer = await world.auditor.get(f"/v1/connectors/{name}")
    assert answer.status_code == 200, answer.text
    return answer.json(), answer.headers["etag"]


def declared(world: World) -> bytes:
    """The sample CRM through the generic connector."""
    assert world.crm_base_url is not None
    return EXAMPLE.read_bytes().replace(b"http://127.0.0.1:8070", world.crm_base_url.encode())


# --- what is shown


async def test_the_demo_tenant_has_the_sample_crm_and_nobody_else_has(world: World) -> None:
    await world.with_crm()
    [shown] = (await world.submitter.get("/v1/connectors")).json()["items"]
    assert (shown["name"], shown["kind"], shown["version"], shown["readable"], shown["retired"]) == (
        "sample_crm",
        "sample_crm",
        1,
        True,
        False,
    )
    assert shown["hosts"] == [world.crm_base_url.removeprefix("http://")]  # type: ignore[union-attr]
    assert shown["capabilities"]["operations"] == {"lead": ["update"], "activity": ["update"]}
    assert shown["credentials"] == {"read": f"{OWN}_READ", "write": f"{OWN}_WRITE"}
    assert shown["switch"]["halted"] is False and shown["created_by"]
    assert READ_TOKEN not in json.dumps(shown)
    one, tag = await seen(world)
    assert tag == '"v1"' and [old["version"] for old in one["history"]] == [1] and one["definition"] == {}
    stranger = await world.another_tenant()
    assert (await stranger.http.get("/v1/connectors")).json()["items"] == []
    problem(await stranger.http.get("/v1/connectors/sample_crm"), "not_found")
    problem(await stranger.http.post("/v1/connectors/sample_crm/halt", **WHY), "not_found")


async def test_connectors_come_in_pages_by_name(world: World) -> None:
    for name in ("a_crm", "z_crm"):
        assert (await put(world, name, {"kind": "sample_crm"})).status_code == 201
    first = (await world.auditor.get("/v1/connectors?limit=2")).json()
    rest = (await world.auditor.get(f"/v1/connectors?limit=2&cursor={first['next_cursor']}")).json()
    assert [one["name"] for one in first["items"] + rest["items"]] == ["a_crm", "sample_crm", "z_crm"] and not rest[
        "has_more"
    ]


# --- putting


async def test_yaml_and_json_are_put_checked_changed_and_retired(world: World) -> None:
    await world.with_crm()
    only = await put(world, "tickets", declared(world), params={"validate_only": True})
    assert (only.status_code, only.json()["outcome"], only.json()["version"]) == (200, "valid", None)
    problem(await world.admin.get("/v1/connectors/tickets"), "not_found")
    made = await put(world, "tickets", declared(world))
    assert (made.status_code, made.json()["outcome"], made.headers["etag"]) == (201, "created", '"v1"')
    assert made.json()["capabilities"]["operations"] == {"lead": ["update"], "activity": []}
    assert made.json()["credentials"]["write"] == "CONNECTOR_DEMO__TICKETS_WRITE"
    definition = (await seen(world, "tickets"))[0]["definition"]
    for headers, code in (("", "precondition_required"), ('"v2"', "stale")):
        problem(await put(world, "tickets", {"kind": "http_json", **definition}, headers), code)
    changed = await put(world, "tickets", {"kind": "http_json", **definition, "description": "x"}, '"v1"')
    assert (changed.status_code, changed.json()["outcome"]) == (200, "changed")
    problem(await world.admin.delete("/v1/connectors/tickets"), "precondition_required")
    gone = await world.admin.delete("/v1/connectors/tickets", headers={"If-Match": '"v2"'})
    assert gone.json()["outcome"] == "retired"
    shown, tag = await seen(world, "tickets")
    assert (shown["retired"], shown["readable"], tag, [old["version"] for old in shown["history"]]) == (
        True,
        False,
        '"v3"',
        [3, 2, 1],
    )
    problem(await put(world, "nothing", {"kind": "sample_crm"}, '"v1"'), "not_found")
    types = [fact["type"] for fact in await world.facts(await world.tenant())]
    assert types.count("connector.changed") == 4  # with the one the tenant was born with


async def test_a_definition_that_is_too_large_as_the_database_writes_it_is_said_to_be(world: World) -> None:
    await world.with_crm()
    ticket = EVERYTHING["kinds"]["ticket"] | {"rename": {f"f{number}": f"g{number}" for number in range(200)}}
    body = EVERYTHING | {"base_url": world.crm_base_url, "kinds": {f"kind{number}": ticket for number in range(22)}}
    made = await put(world, "tickets", body)
    said = problem(made, "validation")
    assert said["errors"][0]["pointer"] == "" and "64 KiB" in said["detail"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/kind"), ([], "/kind"), ({"kind": "shell"}, "/kind"), ({"kind": "sample_crm", "token": "x"}, "/token"),
        ({"kind": "sample_crm", "base_url": "http://10.0.0.1"}, "/base_url"),
        ({"kind": "sample_crm", "base_url": "https://crm.example"}, "/base_url"),
        ({"kind": "tryton", "base_url": "http://127.0.0.1"}, "/database"),
        ({"kind": "postgresql", "host": "db.example", "database": "x", "receipts": {"table": "r"},
          "kinds": {"a": {"table": "a", "key": {"column": "id"}, "version": {"type": "xmin"},
                          "columns": {"b": {"type": "text"}}}}}, "/host"),
        (b"kind: http_json\nbase_url: 5\n", "/base_url"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_said_by_its_place(world: World, body: Any, pointer: str) -> None:
    said = problem(await put(world, "tickets", body), "validation")
    assert pointer in [error["pointer"] for error in said["errors"]]
    problem(await world.admin.get("/v1/connectors/tickets"), "not_found")


async def test_bodies_are_bounded_and_of_two_types(world: World) -> None:
    put_as = world.admin.put
    problem(
        await put_as("/v1/connectors/x", content=b"a", headers={"Content-Type": "text/plain"}), "unsupported_media_type"
    )
    problem(
        await put_as("/v1/connectors/x", content=b"a: &a [*a]", headers={"Content-Type": "application/yaml"}),
        "malformed",
    )
    problem(
        await put_as("/v1/connectors/x", content=b'{"a":1,"a":2}', headers={"Content-Type": "application/json"}),
        "malformed",
    )
    problem(
        await put_as("/v1/connectors/x", content=b" " * 65_537, headers={"Content-Type": "application/yaml"}),
        "too_large",
    )
    for name in ("X", "a__b", "a-b", "x" * 64, "*"):
        problem(await put(world, name, {"kind": "sample_crm"}), "validation")


async def test_only_admins_define_and_only_people_who_are_admins(world: World) -> None:
    for who in ("operator", "policy_owner", "auditor", "submitter"):
        problem(await put(world, "tickets", {"kind": "sample_crm"}, who=who), "forbidden")


# --- what a definition does to what waits


async def test_a_writeback_goes_through_a_declared_connector_to_its_end(world: World) -> None:
    """The generic connector in place of the sample CRM's own: proposed, approved, executed, read back."""
    await world.with_crm()
    own = {"CONNECTOR_DEMO__SAMPLE_CRM_READ": READ_TOKEN}
    for app in (world.public, world.internal):
        app.state.settings = world.settings(connector_credentials=own)
    assert (await put(world, "sample_crm", declared(world), '"v1"')).status_code == 200
    await world.no_undo_window()
    approval = await pending_change(world)
    assert approval["current"]["value"] == {"priority": "normal"} and approval["current"]["age_s"] < 5
    assert (await post(world.operator, approval)).status_code == 201
    executor = world.executor(connector_credentials={f"{OWN}_WRITE": WRITE_TOKEN}, outbound_allowed_hosts="127.0.0.1")
    assert await world.run_executor(executor) == 1
    done = (await world.auditor.get(f"/v1/writebacks/{approval['writeback_id']}")).json()
    assert (done["state"], done["read_back"], done["read_back_sha256"]) == (
        "succeeded",
        {"priority": "high"},
        done["payload_sha256"],
    )


async def test_a_definition_changed_after_the_approval_stops_the_change(world: World) -> None:
    await world.with_crm()
    await world.no_undo_window()
    approval = await pending_change(world)
    assert (await post(world.operator, approval)).status_code == 201
    assert (await put(world, "sample_crm", declared(world), '"v1"')).status_code == 200
    await world.run_executor()
    await world.run_work("progress")
    done = (await world.auditor.get(f"/v1/writebacks/{approval['writeback_id']}")).json()
    assert (done["state"], done["attempts"]) == ("cancelled", None)
    assert (await world.mission(approval["mission_id"]))["state"] == "completed"
    assert await (await inspector(world)).fetchval("SELECT count(*) FROM work WHERE kind = 'execute'") == 0


# --- the switch


async def test_halting_and_resuming_over_http(world: World) -> None:
    path = "/v1/connectors/sample_crm"
    problem(await world.auditor.post(f"{path}/halt", **WHY), "forbidden")
    problem(await world.operator.post(f"{path}/halt", json={"reason": ""}), "validation")
    problem(await world.operator.post(f"{path}/halt", json={"reason": "  "}), "validation")
    problem(await world.operator.post("/v1/connectors/nothing/halt", **WHY), "not_found")
    key = {"Idempotency-Key": "halt-1"}
    halted = await world.operator.post(f"{path}/halt", headers=key, **WHY)
    assert (halted.status_code, halted.json()["outcome"]) == (200, "halted")
    assert (await world.operator.post(f"{path}/halt", headers=key, **WHY)).headers["idempotent-replayed"] == "true"
    assert (await world.operator.post(f"{path}/halt", **WHY)).json()["outcome"] == "unchanged"
    switch = (await seen(world))[0]["switch"]
    assert (switch["halted"], switch["reason"]) == (True, "a test")
    problem(await world.operator.post(f"{path}/resume", **WHY), "forbidden")
    assert (await world.admin.post(f"{path}/resume", **WHY)).json()["outcome"] == "resumed"
    assert (await world.operator.post("/v1/connectors/*/halt", **WHY)).json()["name"] == "*"
    assert (await seen(world))[0]["switch"]["halted"] is True
    types = [fact["type"] for fact in await world.facts(await world.tenant())]
    assert (types.count("connector.halted"), types.count("connector.resumed")) == (2, 1)


async def test_policy_is_asked_before_a_connector_is_switched(world: World) -> None:
    path, key = "/v1/connectors/sample_crm", {"Idempotency-Key": "denied"}
    both = '[Action::"operate.connector.halt", Action::"operate.connector.resume"]'
    text = rule(f"forbid (principal, action in {both}, resource)")
    made = await world.policy_owner.put("/v1/policies/own", json={"text": text})
    assert made.status_code == 201, made.text
    refused = await world.operator.post(f"{path}/halt", headers=key, **WHY)
    assert problem(refused, "denied_by_policy")["rule"] == "own.a"
    again = await world.operator.post(f"{path}/halt", headers=key, **WHY)
    assert again.headers["idempotent-replayed"] == "true" and again.json() == refused.json()
    assert (await seen(world))[0]["switch"]["halted"] is False
    problem(await world.admin.post(f"{path}/resume", **WHY), "denied_by_policy")
    problem(await world.operator.post("/v1/connectors/*/halt", **WHY), "denied_by_policy")
    facts = await world.facts(await world.tenant())
    denied = [json.loads(fact["body"]) for fact in facts if fact["type"] == "operation.denied"]
    assert [fact["action"].rpartition(".")[2] for fact in denied] == ["halt", "resume", "halt"]
    kept = await (await inspector(world)).fetch(
        "SELECT id::text, effect, resource FROM policy_decision WHERE action LIKE 'operate.connector.%' ORDER BY id"
    )
    assert {row["id"] for row in kept} == {fact["policy_decision"] for fact in denied}
    assert {(row["effect"], row["resource"]) for row in kept} == {("deny", "sample_crm"), ("deny", "*")}
    gone = await world.policy_owner.delete("/v1/policies/own", headers={"If-Match": '"v1"'})
    assert gone.status_code == 200
    assert (await world.operator.post(f"{path}/halt", **WHY)).json()["outcome"] == "halted"


# --- a look


async def test_a_check_reads_a_record_and_shows_what_it_saw(world: World) -> None:
    path, lead = "/v1/connectors/sample_crm/check", {"kind": "lead", "id": "L-1001"}
    away = (await world.operator.post(path, json=lead)).json()
    assert (away["ok"], away["fields"]) == (False, None) and "CRM_BASE_URL" in away["problem"]
    await world.with_crm()
    found = (await world.operator.post(path, json=lead)).json()
    assert (found["ok"], found["version"], found["fields"]["priority"]) == (True, "1", "normal") and found[
        "took_ms"
    ] > 0
    missing = (await world.operator.post(path, json={"kind": "lead", "id": "L-9"})).json()
    assert (missing["ok"], missing["missing"]) == (False, True)
    problem(await world.submitter.post(path, json=lead), "forbidden")
    problem(await world.operator.post("/v1/connectors/nothing/check", json=lead), "not_found")


# --- reading through the executor


@asynccontextmanager
async def reading_executor(world: World) -> AsyncIterator[Executor]:
    """An executor that answers reads while the block runs."""
    executor = world.executor()
    executor.nudger.start()
    task = asyncio.create_task(executor.loop("connector_read", executor.answer))
    try:
        yield executor
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await executor.nudger.stop()


async def unreadable(world: World) -> None:
    """The sample CRM as a target without a read-only account."""
    await world.with_crm()
    assert (await put(world, "sample_crm", {"kind": "sample_crm", "read_by": "executor"}, '"v1"')).status_code == 200
    for app in (world.public, world.internal):
        app.state.settings = world.settings(crm_read_token=None)


async def test_what_only_the_executor_may_read_is_read_by_it(world: World) -> None:
    await unreadable(world)
    assert (await seen(world))[0]["read_by"] == "executor"
    async with reading_executor(world):
        lead = (
            await world.operator.post("/v1/connectors/sample_crm/check", json={"kind": "lead", "id": "L-1001"})
        ).json()
        assert (lead["ok"], lead["version"], lead["fields"]["priority"]) == (True, "1", "normal") and lead[
            "took_ms"
        ] < 2500
        missing = (
            await world.operator.post("/v1/connectors/sample_crm/check", json={"kind": "lead", "id": "L-9"})
        ).json()
        assert (missing["ok"], missing["missing"]) == (False, True)
        odd = (
            await world.operator.post("/v1/connectors/sample_crm/check", json={"kind": "nothing", "id": "L-9"})
        ).json()
        assert odd["ok"] is False and "kind" in odd["problem"]
        dispatch = await world.dispatch(mission_type="crm_lead_intelligence")
        record = await world.colony.tool(dispatch, "crm.read", kind="lead", id="L-1001")
        assert record["version"] == "1" and record["document"] == "sample_crm/lead/L-1001"
    waiting = await (await inspector(world)).fetchval("SELECT count(*) FROM work WHERE kind = 'connector_read'")
    assert waiting == 0


async def test_an_answer_that_does_not_come_is_said_and_an_earlier_one_shown_with_its_age(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await unreadable(world)
    monkeypatch.setattr(book.ExecutorReader.__init__, "__defaults__", (0.3,))
    check = ("/v1/connectors/sample_crm/check", {"kind": "lead", "id": "L-1001"})
    nothing = (await world.operator.post(check[0], json=check[1])).json()
    assert nothing["ok"] is False and "not read it" in nothing["problem"]
    async with reading_executor(world):
        assert (await world.operator.post(check[0], json=check[1])).json()["ok"] is True
    connection = await inspector(world)
    await connection.execute("UPDATE connector_read SET answered_at = answered_at - interval '42 seconds'")
    old = (await world.operator.post(check[0], json=check[1])).json()
    assert old["ok"] is True and 42 <= old["age_s"] < 50


async def test_an_approval_shows_what_the_executor_read_or_that_it_is_reading(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    approval = await pending_change(world)
    assert (await put(world, "sample_crm", {"kind": "sample_crm", "read_by": "executor"}, '"v1"')).status_code == 200
    monkeypatch.setattr(book.ExecutorReader.__init__, "__defaults__", (0.3,))
    path = f"/v1/approvals/{approval['id']}"
    assert (await world.operator.get(path)).json()["current"]["reading"] is True
    async with reading_executor(world):
        shown = (await world.operator.get(path)).json()["current"]
    assert (shown["value"], shown["version"], shown["drifted"]) == ({"priority": "normal"}, "1", False) and shown[
        "age_s"
    ] < 10
    assert approvals_api.current.__doc__ and READS in world.root.nudger.channels


async def test_the_executor_reads_only_what_it_alone_may_read(world: World) -> None:
    """A row of the table is no order: the definition says who reads."""
    await world.with_crm()
    connection = await inspector(world)
    tenant = await world.tenant()
    asked = await connection.fetchval(
        """INSERT INTO connector_read (tenant, connector, connector_version, kind, record_id)
           VALUES ($1, 'sample_crm', 1, 'lead', 'L-1001') RETURNING id""",
        tenant,
    )
    await connection.execute(
        "INSERT INTO work (tenant, kind, subject, queue) VALUES ($1, 'connector_read', $2, 'executor')", tenant, asked
    )
    async with reading_executor(world):
        for _ in range(300):
            row = await connection.fetchrow("SELECT value, problem FROM connector_read WHERE id = $1", asked)
            if row["problem"]:
                break
            await asyncio.sleep(0.01)
    assert row["value"] is None and row["problem"].startswith("failed")
