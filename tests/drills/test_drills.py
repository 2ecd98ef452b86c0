"""Drills, run as they run in a deployment: by a worker, over the root's own doors, in a tenant of their own."""

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text

from app import drills
from app.drills import actions, queries
from app.drills.catalog import CONNECTOR, DRILLS, TENANT
from app.drills.people import OPERATOR, PEOPLE, SUBMITTER, secret_of
from colony_client.signing import parse_keys
from tests.drills.conftest import KEY, Doors, at_work, prepared
from tests.release.scene import drilled as drilled_lately
from tests.world import World
from tests.world.checks import inspector, problem
from tests.world.life import Life

LEFT = """SELECT m.state, (SELECT a.state FROM approval a WHERE a.tenant = m.tenant AND a.mission = m.id) AS approval FROM mission m
          WHERE m.tenant = $1 AND m.labels ->> 'drill' = 'expired_approval' ORDER BY m.created_at"""


async def ended(world: World, name: str, run: str | None = None) -> dict[str, Any]:
    """The newest run of a drill, or one of them, once it has ended."""
    async with asyncio.timeout(30):
        while True:
            answer = await world.operator.get(f"/v1/drills/{name}/runs")
            found = [one for one in answer.json()["items"] if run in (None, one["id"])]
            if found and found[0]["state"] != "running":
                return dict(found[0])
            await asyncio.sleep(0.05)


async def ask(world: World, name: str) -> str:
    asked = await world.operator.post(f"/v1/drills/{name}/run", json={})
    assert asked.status_code == 202, asked.text
    assert asked.json()["state"] == "running"
    return str(asked.json()["id"])


async def run(world: World, name: str) -> dict[str, Any]:
    return await ended(world, name, await ask(world, name))


SHOWN: dict[str, tuple[str, dict[str, str]]] = {
    "colony": ("mission_root_component_up", {"component": "colony"}),
    "quarantined": ("mission_root_quarantined_payloads_total", {"origin": "callback"}),
}


async def test_every_drill_passes_and_leaves_its_fact_and_its_evidence(drilled: World) -> None:
    before = {name: REGISTRY.get_sample_value(*sample) for name, sample in SHOWN.items()}
    asked = {name: await ask(drilled, name) for name in DRILLS}  # they run side by side
    found = [await ended(drilled, name, id) for name, id in asked.items()]
    connection = await inspector(drilled)
    tenant = await connection.fetchval("SELECT id FROM tenant WHERE drills")
    for name, one in zip(DRILLS, found, strict=True):
        assert (one["drill"], one["state"], one["reason"]) == (name, "passed", None), one
        assert one["build"] and one["finished_at"] >= one["started_at"]
        missions = [UUID(said["id"]) for said in one["evidence"] if said["kind"] == "mission"]
        whose = await connection.fetch("SELECT tenant, mission_type FROM mission WHERE id = ANY ($1)", missions)
        assert missions and {tuple(row) for row in whose} == {(tenant, "drill")}
        [fact] = await drilled.facts(one["id"])
        body = json.loads(fact["body"])
        assert (fact["type"], fact["actor"]) == ("drill.passed", "system:drills")
        assert (body["drill"], body["evidence"]) == (name, one["evidence"])
    assert await connection.fetchval("SELECT count(*) FROM mission WHERE tenant <> $1", tenant) == 0
    assert drilled.colony.dispatched == drilled.colony.cancelled == [], "the colony of everybody else was not asked"
    assert drilled.worker.colony.component.state in ("unknown", "up"), "and its breaker knows of nothing"
    now = {name: REGISTRY.get_sample_value(*sample) for name, sample in SHOWN.items()}
    assert now == before, "nor does anything that alarms somebody"
    listed = (await drilled.auditor.get("/v1/drills")).json()["items"]
    assert [(one["name"], one["state"], one["last"]["state"]) for one in listed] == [
        (name, "passed", "passed") for name in DRILLS
    ]


async def test_drills_that_begin_at_once_make_their_type_of_mission_together(
    drilled: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, looked, inner = ("blocked_tool", "blocked_writeback"), asyncio.Barrier(2), Doors.handle_async_request
    held: list[str] = []

    async def together(self: Doors, request: httpx.Request) -> httpx.Response:
        answer = await inner(self, request)
        if request.method == "GET" and request.url.path == "/v1/mission-types/drill" and len(held) < len(names):
            held.append(str(answer.status_code))
            async with asyncio.timeout(10):
                await looked.wait()
        return answer

    monkeypatch.setattr(Doors, "handle_async_request", together)
    runner = drilled.worker.drills.runner
    assert runner is not None
    found = await asyncio.gather(*(runner.run(name, uuid4(), 15) for name in names))
    assert held == ["404", "404"], "neither has seen it"
    assert [(one.state, one.reason) for one in found] == [("passed", None)] * 2


# What somebody may have broken, and what the drill that looks at it says.
BREAKS = {
    "blocked_tool": ("app.tools.api.judge", "tool_not_denied"),
    "malformed_payload": ("app.boundary.api.quarantine_callback", "not_kept"),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_a_guard_that_is_gone_fails_its_drill(drilled: World, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, reason = BREAKS[name]

    async def nothing(*_: Any, **__: Any) -> None:
        return None

    monkeypatch.setattr(place, nothing)
    found = await run(drilled, name)
    assert (found["state"], found["reason"]) == ("failed", reason)
    [fact] = await drilled.facts(found["id"])
    assert fact["type"] == "drill.failed" and json.loads(fact["body"])["reason"] == reason
    shown = next(one for one in (await drilled.auditor.get("/v1/drills")).json()["items"] if one["name"] == name)
    assert (shown["state"], shown["last"]["reason"]) == ("failed", reason)


async def test_an_approval_that_outlives_its_time_fails_the_drill_of_what_expires(
    drilled: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.drills.worker.SHARE", 0.2)  # four seconds
    connection = await inspector(drilled)
    tenant = await connection.fetchval("SELECT id FROM tenant WHERE drills")
    await connection.execute(
        """INSERT INTO approval_rule (tenant, id, version, subject, operation, risk, required, life, undo_window)
           SELECT tenant, id, 2, subject, operation, risk, required, '10 minutes', '0' FROM approval_rule
           WHERE tenant = $1 AND operation = 'create'""",
        tenant,
    )
    found = await run(drilled, "expired_approval")  # nobody decides, and it does not expire in time
    assert (found["state"], found["reason"]) == ("failed", "timed_out")
    [left] = await connection.fetch(LEFT, tenant)
    assert tuple(left) == ("cancelled", "cancelled"), "nobody but a drill could decide it, and no drill will"


async def test_what_a_worker_that_died_has_left_open_the_next_run_cancels(
    drilled: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await inspector(drilled)
    tenant = await connection.fetchval("SELECT id FROM tenant WHERE drills")
    with monkeypatch.context() as dying:
        dying.setattr("app.drills.worker.SHARE", 0.1)  # too short for what expires
        dying.setattr("app.drills.run.CLEARING_S", 0.0)
        assert (await run(drilled, "expired_approval"))["reason"] == "timed_out"
    [left] = await connection.fetch(LEFT, tenant)
    assert left["state"] not in ("cancelled", "completed")
    assert (await run(drilled, "expired_approval"))["state"] == "passed"
    states = [row["state"] for row in await connection.fetch(LEFT, tenant)]
    assert states == ["cancelled", "completed"]


async def test_no_gauge_counts_an_approval_that_no_operator_can_decide(drilled: World) -> None:
    """One that a drill waits for; the tenant's own is counted as ever."""
    connection = await inspector(drilled)
    tenant = await connection.fetchval("SELECT id FROM tenant WHERE drills")
    running = await ask(drilled, "expired_approval")
    async with asyncio.timeout(20):
        while not await connection.fetchval(
            "SELECT count(*) FROM approval WHERE tenant = $1 AND state = 'pending'", tenant
        ):
            await asyncio.sleep(0.02)
    shown = {
        row["name"]: row["value"]
        for row in await connection.fetch("SELECT * FROM gauges() WHERE name LIKE 'approval%'")
    }
    assert shown == {"approvals_expiring": 0, "approval_oldest_seconds": 0}, shown
    assert (await ended(drilled, "expired_approval", running))["state"] == "passed"


async def test_two_who_ask_at_once_have_one_run(drilled: World) -> None:
    asked = await asyncio.gather(
        *(
            who.post("/v1/drills/colony_down/run", json={})
            for who in (drilled.operator, drilled.admin, drilled.operator)
        )
    )
    assert sorted(answer.status_code for answer in asked) == [200, 200, 202], [answer.text for answer in asked]
    assert len({answer.json()["id"] for answer in asked}) == 1
    assert (await ended(drilled, "colony_down"))["state"] == "passed"
    tenant = await drilled.tenant()
    types = [fact["type"] for fact in await drilled.facts(tenant)]
    assert types.count("drill.asked") == 1


async def test_who_asks_and_who_looks(drilled: World) -> None:
    for who in (drilled.submitter, drilled.auditor, drilled.product_owner):
        problem(await who.post("/v1/drills/replay/run", json={}), "forbidden")
        assert (await who.get("/v1/drills")).status_code == 200
    problem(await drilled.operator.post("/v1/drills/nothing/run", json={}), "not_found")
    problem(await drilled.operator.get("/v1/drills/nothing/runs"), "not_found")
    never = (await drilled.operator.get("/v1/drills")).json()["items"]
    assert {(one["state"], one["last"], one["running"], one["next_at"]) for one in never} == {
        ("never", None, None, None)
    }
    assert (await drilled.operator.get("/v1/drills/replay/runs")).json()["items"] == []


async def test_where_nobody_prepared_drills_it_says_what_to_do(world: World) -> None:
    for answer in (await world.operator.get("/v1/drills"), await world.operator.post("/v1/drills/replay/run", json={})):
        said = problem(answer, "not_configured")
        assert "DRILL_KEY" in said["detail"] and "drills prepare" in said["detail"]


async def test_drills_that_are_prepared_while_a_worker_runs_do_not_go_to_everybodys_colony(world: World) -> None:
    async with at_work(world):
        life = Life(world, UUID((await world.create())["id"]))
        async with asyncio.timeout(10):
            while await life.state() == "accepted":  # dispatched by a worker that has looked whose it is
                await asyncio.sleep(0.02)
        await prepared(world)
        found = await run(world, "blocked_tool")
    assert (found["state"], found["reason"]) == ("passed", None)
    assert [one.mission_id for one in world.colony.dispatched] == [life.id]


async def test_the_schedule_runs_what_is_due_and_nothing_twice(drilled: World) -> None:
    connection = await inspector(drilled)
    drilled.worker.drills.interval = type(drilled.worker.drills.interval)(hours=6)
    await connection.execute("SELECT restore_drill_work()")
    await connection.execute("UPDATE work SET next_at = now() WHERE kind = 'drills'")
    for name in DRILLS:
        assert (await ended(drilled, name))["asked_by"] is None
    await connection.execute("UPDATE work SET next_at = now() WHERE kind = 'drills'")
    drilled.worker.nudger.send(["work_worker"])
    async with asyncio.timeout(10):
        while await connection.fetchval(
            "SELECT next_at < now() OR lease_until > now() FROM work WHERE kind = 'drills'"
        ):
            await asyncio.sleep(0.02)
    assert await connection.fetchval("SELECT count(*) FROM drill_run") == len(DRILLS)


async def test_of_thousands_of_runs_the_newest_are_read(world: World) -> None:
    await drilled_lately(world, "replay", ago="2 h")
    connection = await inspector(world)
    await connection.execute(
        """INSERT INTO drill_run (tenant, id, drill, state, build, started_at, finished_at)
           SELECT t.id, gen_random_uuid(), d, 'passed', 'b', at, at FROM tenant t, unnest(ARRAY['replay', 'colony_down']) d,
             generate_series(now() - interval '2000 h', now() - interval '1 h', interval '1 h') at WHERE t.drills"""
    )
    await connection.execute("ANALYZE drill_run")
    found = {one["name"]: one for one in (await world.auditor.get("/v1/drills")).json()["items"]}
    assert (
        found["replay"]["state"] == found["colony_down"]["state"] == "passed"
        and found["blocked_tool"]["state"] == "never"
    )
    async with world.worker.database.write() as session:
        await session.enter(await actions.tenant_of_drills(session))
        for ended in (False, True):
            assert {*await queries.newest(session, ended)} == {"replay", "colony_down"}
        read = await session.scalar(
            text("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'drill_run'")
        )
    assert 0 < read < 10, "of four thousand"


async def test_a_run_that_no_worker_comes_to_the_end_of_is_a_failure(drilled: World) -> None:
    connection = await inspector(drilled)
    tenant = await connection.fetchval("SELECT id FROM tenant WHERE drills")
    await connection.execute(
        """WITH made AS (INSERT INTO drill_run (tenant, id, drill, state, build, started_at)
             VALUES ($1, gen_random_uuid(), 'replay', 'running', '1', now()) RETURNING id)
           INSERT INTO work (tenant, kind, subject, queue, attempts) SELECT $1, 'drill', id, 'worker', 3 FROM made""",
        tenant,
    )
    drilled.worker.nudger.send(["work_worker"])
    found = await ended(drilled, "replay")
    assert (found["state"], found["reason"]) == ("failed", "interrupted")


async def test_a_root_that_is_still_starting_is_waited_for(drilled: World, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[httpx.ConnectError] = []
    inner = Doors.handle_async_request

    async def starting(self: Doors, request: httpx.Request) -> httpx.Response:
        if len(refused) < 2:
            refused.append(nobody_there(request))
            raise refused[-1]
        return await inner(self, request)

    monkeypatch.setattr(Doors, "handle_async_request", starting)
    found = await run(drilled, "blocked_tool")
    assert (found["state"], found["reason"], len(refused)) == ("passed", None, 2)


async def test_a_root_that_does_not_answer_is_a_failure_with_a_reason(
    drilled: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.drills.run.STARTING_S", 0.3)
    drilled.worker.drills.runner.people[SUBMITTER]._transport = httpx.MockTransport(refuse)  # type: ignore[union-attr]
    found = await run(drilled, "replay")
    assert (found["state"], found["reason"], found["evidence"]) == ("failed", "root_unreachable", [])


def nobody_there(request: httpx.Request) -> httpx.ConnectError:
    return httpx.ConnectError("nobody is there", request=request)


def refuse(request: httpx.Request) -> httpx.Response:
    raise nobody_there(request)


# --- the tenant and its people


async def test_the_tenant_has_the_drills_connector_and_can_have_no_other(drilled: World) -> None:
    connection = await inspector(drilled)
    tenant = await connection.fetchval("SELECT id FROM tenant WHERE drills")
    kept = await connection.fetch("SELECT name, kind FROM connector WHERE tenant = $1", tenant)
    assert [tuple(row) for row in kept] == [(CONNECTOR, "drill")]
    keeper = await connection.fetchval("SELECT id FROM principal WHERE tenant = $1 AND name = 'drill keeper'", tenant)
    for whose, kind in ((tenant, "http_json"), (tenant, "sample_crm"), (await drilled.tenant(), "drill")):
        with pytest.raises(asyncpg.PostgresError) as refused:
            await connection.execute(
                """INSERT INTO connector (tenant, name, version, kind, definition, account, created_by)
                   VALUES ($1, 'another', 1, $2, '{}', 'CONNECTOR_A__B', $3)""",
                whose, kind, keeper,
            )  # fmt: skip
        assert refused.value.sqlstate == "RX034", kind
    answer = await drilled.admin.put("/v1/connectors/mine", json={"kind": "drill"})
    assert problem(answer, "validation")["errors"][0]["pointer"] == "/kind"


async def test_the_drills_people_reach_nothing_else(drilled: World) -> None:
    keys = parse_keys(KEY, "DRILL_KEY")
    mission = (await drilled.create())["id"]
    for name in (SUBMITTER, OPERATOR):
        client = drilled.client(secret_of(keys, name))
        who = (await client.get("/v1/whoami")).json()
        assert set(who["roles"]) == set(PEOPLE[name][1])
        problem(await client.get(f"/v1/missions/{mission}"), "not_found")
        assert (await client.get("/v1/missions")).json()["items"] == []
        problem(await client.put("/v1/connectors/mine", json={"kind": "sample_crm"}), "forbidden")
    connection = await inspector(drilled)
    live = await connection.fetchval(
        """SELECT count(*) FROM api_key k JOIN principal p ON p.tenant = k.tenant AND p.id = k.principal
           WHERE p.name = 'drill keeper' AND k.revoked_at IS NULL"""
    )
    assert live == 0, "whoever put the connector has no key any more"


async def test_another_key_takes_the_place_of_the_first(world: World) -> None:
    old, new = parse_keys(KEY, "DRILL_KEY"), parse_keys("two:another-drill-secret-of-tests", "DRILL_KEY")
    assert await drills.prepare(world.url("registrar"), old) is True
    assert await drills.prepare(world.url("registrar"), old) is False
    assert (await world.client(secret_of(old, OPERATOR)).get("/v1/whoami")).status_code == 200
    assert await drills.prepare(world.url("registrar"), new) is False
    assert (await world.client(secret_of(new, OPERATOR)).get("/v1/whoami")).status_code == 200
    problem(await world.client(secret_of(old, OPERATOR)).get("/v1/whoami"), "unauthenticated")
    connection = await inspector(world)
    assert await connection.fetchval("SELECT count(*) FROM tenant WHERE name = $1", TENANT) == 1


async def test_a_run_ends_once_and_only_the_worker_says_how(drilled: World) -> None:
    found = await run(drilled, "blocked_tool")
    connection = await inspector(drilled)
    for change in ("state = 'failed', reason = 'x'", "evidence = '[]'", "drill = 'replay'"):
        with pytest.raises(asyncpg.PostgresError) as refused:
            await connection.execute(f"UPDATE drill_run SET {change} WHERE id = $1", UUID(found["id"]))
        assert refused.value.sqlstate == "RX035"
    api = await drilled.connect("api")
    tenant = await connection.fetchval("SELECT id FROM tenant WHERE drills")
    for state in ("passed", "failed"):
        async with api.transaction():
            await api.execute("SELECT set_config('app.tenant', $1, true)", str(tenant))
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with api.transaction():
                    await api.execute(
                        """INSERT INTO drill_run (tenant, id, drill, asked_by, state, build, started_at)
                           VALUES ($1, gen_random_uuid(), 'replay', $1, $2, '1', now())""",
                        tenant, state,
                    )  # fmt: skip
            with pytest.raises(asyncpg.PostgresError) as forged:
                async with api.transaction():
                    await api.execute(
                        "INSERT INTO ledger (tenant, subject, type, actor, body) VALUES ($1, $1, $2, 'system:api', '{}')",
                        tenant, f"drill.{state}",
                    )  # fmt: skip
            assert forged.value.sqlstate == "RX003"
