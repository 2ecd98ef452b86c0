"""Budgets through the product's doors: limits, refusals with their facts, and a mission that uses up what it has."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import pytest

from app import budgets
from app.budgets.actions import used_up
from app.caller import system
from app.db import Database
from app.errors import Problem
from colony_client.errors import Refused
from tests.world import World
from tests.world.checks import census, fact_types, inspector, problem
from tests.world.life import begin, due, under_way

ASK = {"mission_type": "oracle_advisory", "user_goal": "What is there?"}


async def put(world: World, seen: int = 0, who: str = "admin", **limits: Any) -> httpx.Response:
    client: httpx.AsyncClient = getattr(world, who)
    return await client.put("/v1/budgets", json=limits, headers={"If-Match": f'"v{seen}"'})


async def usage(world: World) -> dict[str, Any]:
    answer = await world.auditor.get("/v1/budgets/usage")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def used(tokens: int, cost_usd: float = 0) -> dict[str, Any]:
    return {"type": "usage.reported", "tokens_in": tokens, "tokens_out": 0, "cost_usd": cost_usd}


async def test_limits_are_versions_that_an_admin_sets(world: World) -> None:
    none = await world.submitter.get("/v1/budgets")
    assert (none.status_code, none.headers["etag"], none.json()["version"], none.json()["day_tokens"]) == (
        200,
        '"v0"',
        0,
        None,
    )
    problem(await put(world, who="operator", day_tokens=1), "forbidden")
    problem(await world.admin.put("/v1/budgets", json={}), "precondition_required")
    problem(await put(world, day_tokens=-1), "validation")
    problem(await put(world, day_token=1), "validation")
    problem(await put(world, day_tokens=True), "validation")
    problem(await put(world, day_cost_usd="50"), "validation")
    made = await put(world, day_tokens=1_000, total_cost_usd=2.5, rate_tenant_per_s=10)
    assert (made.status_code, made.headers["etag"]) == (200, '"v1"'), made.text
    said = made.json()
    assert (said["day_tokens"], said["total_cost_usd"], said["rate_tenant_per_s"], said["day_time_ms"]) == (
        1_000,
        2.5,
        10,
        None,
    )
    stale = problem(await put(world, day_tokens=5), "stale")
    assert stale["current"]["day_tokens"] == 1_000
    assert (await world.auditor.get("/v1/budgets")).json() == said
    assert "budget.limits_changed" in await fact_types(world, await world.tenant())
    again = await world.admin.put("/v1/budgets", json={}, headers={"If-Match": '"v1"', "Idempotency-Key": "once"})
    repeat = await world.admin.put("/v1/budgets", json={}, headers={"If-Match": '"v1"', "Idempotency-Key": "once"})
    assert (again.json()["version"], again.json()["day_tokens"]) == (2, None)
    assert repeat.json() == again.json() and repeat.headers["idempotent-replayed"] == "true"


async def test_a_mission_that_does_not_fit_is_refused_with_a_fact_and_may_be_asked_again(world: World) -> None:
    assert (await put(world, day_tokens=500)).status_code == 200
    first = await world.create(budget={"tokens": 300})
    key = {"Idempotency-Key": "later"}
    refused = await world.submitter.post("/v1/missions", json={**ASK, "budget": {"tokens": 300}}, headers=key)
    said = problem(refused, "budget_exhausted")
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
    assert (said["account"], said["lacking"]) == ("tenant_day", ["tokens"])
    assert said["left"] == {"tokens": 200, "cost_usd": None, "time_ms": None}, "of what has no limit nobody says 0"
    assert said["renews_at"] == f"{tomorrow}T00:00:00Z"
    assert 0 < int(refused.headers["retry-after"]) <= 86_401
    facts = await world.facts(await world.tenant())
    assert [fact["type"] for fact in facts].count("budget.refused") == 1
    rows = await (await inspector(world)).fetch("SELECT id FROM mission")
    assert [str(row["id"]) for row in rows] == [first["id"]], "nothing is left of the one that was refused"
    ended = await world.operator.post(
        f"/v1/missions/{first['id']}/cancel", json={"reason": "room"}, headers={"If-Match": f'"v{first["version"]}"'}
    )
    assert ended.status_code == 200, ended.text
    again = await world.submitter.post("/v1/missions", json={**ASK, "budget": {"tokens": 300}}, headers=key)
    assert again.status_code == 202, "a refusal that time heals is not kept under the key"
    now = (await usage(world))["today"]["tokens"]
    assert now == {"used": 0, "reserved": 300, "limit": 500, "left": 200}


@pytest.mark.parametrize(
    "limits", [{"day_tokens": 500}, {"total_tokens": 500}, {"day_cost_usd": 0.5}, {"total_time_ms": 90_000}]
)
async def test_a_rehearsal_says_what_the_request_would_meet(world: World, limits: dict[str, float]) -> None:
    body = {**ASK, "budget": {"tokens": 300, "cost_usd": 0.3, "time_ms": 60_000}}

    async def rehearse(**more: Any) -> httpx.Response:
        return await world.submitter.post("/v1/missions?validate_only=true", json=body | more)

    assert (await put(world, **limits)).status_code == 200
    assert (await rehearse()).status_code == 200
    assert (await world.submitter.post("/v1/missions", json=body)).status_code == 202
    before = await census(world)
    foretold = problem(await rehearse(), "budget_exhausted")
    assert await census(world) == before, "nothing is held and nothing is noted"
    said = problem(await world.submitter.post("/v1/missions", json=body), "budget_exhausted")
    assert [said[name] for name in ("account", "lacking", "left", "renews_at", "detail")] == [
        foretold[name] for name in ("account", "lacking", "left", "renews_at", "detail")
    ]
    less = {"tokens": 200, "cost_usd": 0.2, "time_ms": 30_000}
    assert (await rehearse(budget=less)).json()["valid"] is True, "just what is left"
    assert (await world.submitter.post("/v1/missions", json=body | {"budget": less})).status_code == 202


async def test_a_call_that_the_day_has_no_room_for_leaves_decision_and_fact(world: World) -> None:
    life = await under_way(world, budget={"tokens": 100})
    assert (await put(world, day_tokens=1_000)).status_code == 200
    await life.say(used(100))
    assert (await put(world, seen=1, day_tokens=50)).status_code == 200
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            await world.colony.tool(life.dispatch, "workspace.outline")
        assert refused.value.code == "budget_exhausted"
    facts = [body for _, body in await life.facts("budget.refused")]
    assert facts == [{"account": "tenant_day", "lacking": ["tokens"]}] * 2
    connection = await inspector(world)
    assert await connection.fetchval("SELECT count(*) FROM policy_decision WHERE action = 'tool.call'") == 2
    assert await connection.fetchval("SELECT count(*) FROM budget_reservation WHERE purpose LIKE 'tool:%'") == 0


async def test_use_is_counted_with_and_without_limits(world: World) -> None:
    life = await under_way(world, budget={"tokens": 1_000, "cost_usd": 1.0})
    await life.say(used(70, 0.25), used(30))
    await world.colony.tool(life.dispatch, "workspace.outline")
    assert (await put(world, day_tokens=5_000)).status_code == 200
    found = await usage(world)
    assert found["today"]["tokens"] == {"used": 100, "reserved": 0, "limit": 5_000, "left": 4_900}
    assert found["total"]["cost_usd"] == {"used": 0.25, "reserved": 0, "limit": None, "left": None}
    assert [one["day"] for one in found["days"]] == [found["today"]["day"]]
    [mission] = found["missions"]
    assert (mission["mission"], mission["tokens"]["left"], mission["calls"]) == (str(life.id), 900, 1)
    row = await life.row()
    assert (row["used_tokens"], row["used_cost_usd"]) == (100, Decimal("0.25"))


async def test_a_mission_over_its_budget_may_finish_within_its_grace(world: World) -> None:
    life = await under_way(world, budget={"tokens": 100, "cost_usd": 1.0})
    receipt = await life.say(used(150))
    assert receipt.stop is True
    shown = await world.mission(life.id)
    assert (shown["state"], shown["degraded"]["code"]) == ("running", "budget_exhausted")
    until = datetime.fromisoformat(shown["degraded"]["until"]) - datetime.now(UTC)
    assert timedelta(seconds=20) < until <= budgets.GRACE
    receipt = await life.say({"type": "stage.started", "stage": "workers"})
    assert receipt.stop is True and (await world.mission(life.id))["degraded"]["code"] == "budget_exhausted"
    with pytest.raises(Refused) as refused:
        await world.colony.tool(life.dispatch, "workspace.outline")
    assert refused.value.code == "budget_exhausted"
    assert len(await life.facts("budget.exceeded")) == 1
    connection = await inspector(world)
    await connection.execute(
        "UPDATE mission SET degraded = jsonb_set(degraded, '{until}', '\"2020-01-01T00:00:00.000000Z\"') WHERE id = $1",
        life.id,
    )
    await due(world, "attempt_timer", life.id)
    await world.run_work("attempt_timer")
    row = await life.row()
    assert (row["state"], row["reason"]) == ("failed", "budget_exhausted")
    account = await connection.fetchrow("SELECT * FROM budget_account WHERE key = $1", str(life.id))
    assert (account["settled_tokens"], account["over_tokens"], account["limit_tokens"]) == (100, 50, 100)


async def test_what_overtook_the_answer_to_a_dispatch_stays_used_up(world: World) -> None:
    """A call of an attempt that is only just being taken may use the budget up before the colony has said that it took it."""
    life = await begin(world)
    said = used_up()
    connection = await inspector(world)
    tell = "SELECT budget_used_up($1, $2, 'colony', $3)"
    await connection.execute(tell, await world.tenant(), life.id, json.dumps(said))
    assert await life.state() == "accepted"
    await world.run_work("dispatch")
    shown = await world.mission(life.id)
    assert (shown["state"], shown["degraded"]) == ("dispatched", said)
    timer = "SELECT next_at FROM work WHERE kind = 'attempt_timer' AND subject = $1"
    assert await connection.fetchval(timer, life.id) <= datetime.fromisoformat(said["until"])


async def test_a_silent_attempt_without_budget_is_not_tried_again(world: World) -> None:
    life = await under_way(world, budget={"tokens": 100})
    await life.say(used(101))
    await life.lose_lease()
    row = await life.row()
    assert (row["state"], row["reason"], row["attempt"]) == ("failed", "budget_exhausted", 1)


async def test_no_tool_is_called_after_the_deadline(world: World) -> None:
    life = await under_way(world)
    await life.past("deadline_at")
    with pytest.raises(Refused) as refused:
        await world.colony.tool(life.dispatch, "workspace.outline")
    assert refused.value.code == "budget_exhausted"
    receipt = await life.say({"type": "stage.started", "stage": "workers"})
    assert receipt.stop is True and "time" in receipt.stop_reason


async def test_a_call_that_fails_gives_back_what_it_held(world: World) -> None:
    life = await begin(world)
    await life.take()
    database: Database = world.root.database
    caller = system(await world.tenant(), "api")

    async def held(purpose: str = "model") -> UUID:
        async with database.write() as session:
            await session.enter(caller.tenant)
            return await budgets.reserve(
                session,
                caller,
                life.id,
                budgets.Amounts(tokens=400, cost_usd=Decimal("0.5")),
                purpose,
                life=timedelta(minutes=1),
            )

    async def states() -> list[str]:
        rows = await (await inspector(world)).fetch("SELECT state FROM budget_reservation ORDER BY made_at")
        return [row["state"] for row in rows]

    with pytest.raises(ZeroDivisionError):
        async with budgets.charge(database, caller, life.id, await held()):
            _ = 1 / 0
    with pytest.raises(ZeroDivisionError):  # settled, but in a transaction that is taken back
        async with budgets.charge(database, caller, life.id, await held()) as hold, database.write() as session:
            await session.enter(caller.tenant)
            await hold.settle(session, budgets.Amounts(tokens=10))
            _ = 1 / 0
    async with budgets.charge(database, caller, life.id, await held()) as hold:
        async with database.write() as session:
            await session.enter(caller.tenant)
            spent = await hold.settle(session, budgets.Amounts(tokens=10**9))
        assert spent is not None and spent.over and spent.newly_over
    assert await states() == ["released", "released", "settled"]
    assert len(await life.facts("budget.exceeded")) == 1
    with pytest.raises(Problem, match="budget_exhausted"):
        await held()


async def test_the_worker_puts_right_what_a_killed_call_left(world: World) -> None:
    life = await under_way(world)
    caller = system(await world.tenant(), "api")
    async with world.root.database.write() as session:
        await session.enter(caller.tenant)
        await budgets.reserve(session, caller, life.id, budgets.Amounts(tokens=40), "model", life=timedelta(0))
    async with world.worker.database.write() as session:
        assert await budgets.reconcile(session) == 1
    [mission] = (await usage(world))["missions"]
    assert (mission["tokens"]["reserved"], mission["tokens"]["used"]) == (0, 40)
