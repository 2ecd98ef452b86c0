"""What the schema itself refuses about budgets and rates, whoever asks."""

import asyncio
import json
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.budgets.test_races import RELEASE, RESERVE, SETTLE, SPEND, account, limit
from tests.walls.ground import DENIED, Ground

TABLES = ("budget_limit", "budget_account", "budget_reservation")
TAKE = "SELECT * FROM take_tokens($1, $2, $3, $4, $5, $6)"


async def reserve(ground: Ground, mission: UUID, tokens: int = 10, life: str = "1 hour") -> asyncpg.Record:
    [row] = await ground.run("api", RESERVE, ground.tenant, mission, tokens, Decimal(0), life)
    return row


async def running(ground: Ground, **more: Any) -> UUID:
    return await ground.mission(state="running", **{"budget_tokens": 100, "budget_cost_usd": 1} | more)


async def end(ground: Ground, mission: UUID, state: str = "completed") -> None:
    await ground.run(
        "api", "UPDATE mission SET state = $3, closed_at = clock_timestamp() WHERE tenant = $1 AND id = $2",
        ground.tenant, mission, state,
    )  # fmt: skip


async def test_no_role_writes_a_budget_but_through_the_functions(ground: Ground) -> None:
    mission = await running(ground)
    await reserve(ground, mission)
    for role in ("api", "worker", "executor", "registrar", "auditor", "reader"):
        for table in TABLES:
            await ground.refused(DENIED, role, f"DELETE FROM {table}")
            await ground.refused(DENIED, role, f"INSERT INTO {table} (tenant) VALUES ($1)", ground.tenant)
        await ground.refused(DENIED, role, "UPDATE budget_account SET settled_tokens = 0")
        await ground.refused(DENIED, role, "UPDATE mission SET used_tokens = 0, used_cost_usd = 0")
        await ground.refused(DENIED, role, "SELECT * FROM rate_bucket")
        await ground.refused(DENIED, role, "DELETE FROM rate_bucket")
    for inner in (
        "move_budget($1, 'tenant', 'x', false, 0, 0, 0, -1, 0, 0, 0, 0)", "note_use($1, $1, 1, 1)",
        "end_budget($1, $1, 'released', 0, 0, 0, 0)", "hold_above($1, current_date, 0, 0, 0)",
    ):  # fmt: skip
        await ground.refused(DENIED, "api", f"SELECT {inner}", ground.tenant)


async def test_the_account_refuses_an_overspend_by_itself(ground: Ground) -> None:
    mission = await running(ground)
    await ground.run("api", SPEND, ground.tenant, mission, 90, Decimal("0.9"))
    for why, change in {
        "budget_account_tokens": "settled_tokens = 101", "budget_account_cost": "reserved_cost_usd = 0.2",
        "budget_account_reserved_tokens_check": "reserved_tokens = -1",
    }.items():  # fmt: skip
        await ground.refused(
            why,
            "owner",
            f"UPDATE budget_account SET {change} WHERE tenant = $1 AND key = $2",
            ground.tenant,
            str(mission),
        )
    await limit(ground, day_time_ms=100)
    refused = (
        "UPDATE budget_account SET limit_time_ms = 5, settled_time_ms = 6 WHERE tenant = $1 AND scope = 'tenant_day'"
    )
    await ground.refused("budget_account_time", "owner", refused, ground.tenant)


async def test_what_was_spent_stays_spent_and_what_was_reserved_does_not_change(ground: Ground) -> None:
    mission = await running(ground)
    held = (await reserve(ground, mission))["reservation"]
    await ground.run("api", SPEND, ground.tenant, mission, 95, Decimal(0))  # 90 settled, 5 over
    for change in ("settled_tokens = 1", "over_tokens = 0", "key = 'x'", "calls = -1", "scope = 'tenant'"):
        statement = f"UPDATE budget_account SET {change} WHERE tenant = $1 AND key = $2"
        await ground.refused("RX001", "owner", statement, ground.tenant, str(mission))
    for change in (
        "tokens = 0",
        "day = day - 1",
        "held_above = true",
        "expires_at = expires_at + interval '1 day'",
        "purpose = 'x'",
    ):
        await ground.refused(
            "RX001",
            "owner",
            f"UPDATE budget_reservation SET {change} WHERE tenant = $1 AND id = $2",
            ground.tenant,
            held,
        )
    await ground.refused(
        "RX001", "owner", "DELETE FROM budget_reservation WHERE tenant = $1 AND id = $2", ground.tenant, held
    )
    await ground.refused("RX001", "owner", "DELETE FROM budget_account WHERE tenant = $1", ground.tenant)
    await ground.run("api", RELEASE, ground.tenant, held)
    for again in ("state = 'reserved', ended_at = NULL", "state = 'settled'"):
        await ground.refused(
            "RX004",
            "owner",
            f"UPDATE budget_reservation SET {again} WHERE tenant = $1 AND id = $2",
            ground.tenant,
            held,
        )
    await limit(ground, day_tokens=5)
    for statement in (
        "UPDATE budget_limit SET day_tokens = 6 WHERE tenant = $1",
        "DELETE FROM budget_limit WHERE tenant = $1",
    ):
        await ground.refused("RX001", "owner", statement, ground.tenant)
    for table in TABLES:
        await ground.refused("RX001", "owner", f"TRUNCATE {table}")


async def test_one_tenant_moves_nothing_of_another(ground: Ground) -> None:
    mission, other = await running(ground), uuid4()
    held = (await reserve(ground, mission))["reservation"]
    calls: dict[str, tuple[Any, ...]] = {
        RESERVE: (mission, 1, Decimal(0), "1 hour"), SETTLE: (held, 1, Decimal(0)), RELEASE: (held,),
        SPEND: (mission, 1, Decimal(0)), "SELECT * FROM put_budget_limits($1, $2, 0, '{}')": (ground.secrets["adam"],),
    }  # fmt: skip
    for statement, args in calls.items():
        await ground.refused("RX002", "api", statement, ground.tenant, *args, tenant=other)
    for statement, args in list(calls.items())[:4]:
        [row] = await ground.run("api", statement, other, *args, tenant=other)
        assert not any(row), "nothing of mine is found from there"
    assert (await account(ground, "mission", mission))["reserved_tokens"] == 10


async def test_amounts_below_nothing_and_no_amounts_are_refused(ground: Ground) -> None:
    mission = await running(ground)
    held = (await reserve(ground, mission))["reservation"]
    for statement, args in (
        (RESERVE, (mission, -1, Decimal(0), "1 hour")), (RESERVE, (mission, None, Decimal(0), "1 hour")),
        (RESERVE, (mission, 1, Decimal(0), None)), (SETTLE, (held, -1, Decimal(0))), (SETTLE, (held, 1, None)),
        (SPEND, (mission, -5, Decimal(0))), (SPEND, (mission, 0, Decimal(-1))), (SPEND, (mission, None, None)),
    ):  # fmt: skip
        await ground.refused("RX005", "api", statement, ground.tenant, *args)
    assert (await account(ground, "mission", mission))["settled_tokens"] == 0


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled", "denied"])
async def test_a_mission_comes_with_its_budget_and_gives_the_rest_back_once(ground: Ground, state: str) -> None:
    await limit(ground, day_tokens=250, total_tokens=10_000)
    first, second = await running(ground), await running(ground)
    with pytest.raises(asyncpg.PostgresError) as refused:
        await running(ground)
    said = json.loads(refused.value.detail or "")
    assert refused.value.sqlstate == "RX020"
    assert (said["account"], said["lacking"], said["left"]["tokens"]) == ("tenant_day", ["tokens"], 50)
    assert said["renews_at"].endswith("T00:00:00Z")
    await ground.run("api", SPEND, ground.tenant, first, 30, Decimal(0))
    day = await account(ground, "tenant_day")
    assert (day["settled_tokens"], day["reserved_tokens"]) == (30, 170)
    await end(ground, first, state)
    for scope in ("tenant_day", "tenant"):
        row = await account(ground, scope)
        assert (row["settled_tokens"], row["reserved_tokens"]) == (30, 100), scope
    await ground.run("api", "UPDATE mission SET state = state WHERE tenant = $1 AND id = $2", ground.tenant, first)
    assert (await account(ground, "tenant"))["reserved_tokens"] == 100, "once"
    await end(ground, second, state)
    ended = await ground.run(
        "admin", "SELECT state FROM budget_reservation WHERE tenant = $1 ORDER BY made_at", ground.tenant
    )
    assert [row["state"] for row in ended] == ["settled", "released"]
    assert await running(ground), "what came back can be held again"
    assert (await reserve(ground, first))["reservation"] is None, "nothing is held for a mission that has ended"


async def test_the_tenant_may_lack_what_the_day_has(ground: Ground) -> None:
    await limit(ground, day_tokens=1_000, total_tokens=150)
    await running(ground)
    with pytest.raises(asyncpg.PostgresError) as refused:
        await running(ground)
    said = json.loads(refused.value.detail or "")
    assert (said["account"], said["renews_at"]) == ("tenant", None)
    assert said["left"] == {"tokens": 50, "cost_usd": None, "time_ms": None}
    assert (await account(ground, "tenant_day"))["reserved_tokens"] == 100, "what did not fit is held nowhere"


async def test_what_a_mission_uses_is_settled_in_the_day_it_came(ground: Ground) -> None:
    await limit(ground, day_tokens=1_000)
    mission = await running(ground)
    async with ground.within("admin") as admin:  # midnight passes: what is held was held yesterday
        await admin.execute("ALTER TABLE budget_reservation DISABLE TRIGGER budget_reservation_guard")
        await admin.execute("ALTER TABLE budget_account DISABLE TRIGGER budget_account_guard")
        await admin.execute("UPDATE budget_reservation SET day = day - 1 WHERE tenant = $1", ground.tenant)
        await admin.execute(
            "UPDATE budget_account SET key = (key::date - 1)::text WHERE tenant = $1 AND scope = 'tenant_day'",
            ground.tenant,
        )
        await admin.execute("ALTER TABLE budget_reservation ENABLE ALWAYS TRIGGER budget_reservation_guard")
        await admin.execute("ALTER TABLE budget_account ENABLE ALWAYS TRIGGER budget_account_guard")
    await ground.run("api", SPEND, ground.tenant, mission, 40, Decimal(0))
    await end(ground, mission)
    row = await account(ground, "tenant_day")  # there is one day only
    assert (row["settled_tokens"], row["reserved_tokens"]) == (40, 0)
    assert row["key"] == str(await ground.value("admin", "SELECT (now() AT TIME ZONE 'UTC')::date - 1"))


async def test_run_time_is_counted_when_a_run_ends(ground: Ground) -> None:
    mission = await running(ground, budget_time_ms=60_000)
    await ground.run(
        "api", "UPDATE mission SET deadline_at = clock_timestamp() + interval '50 seconds' WHERE tenant = $1 AND id = $2",
        ground.tenant, mission,
    )  # fmt: skip
    await ground.run(
        "api", "UPDATE mission SET state = 'in_review' WHERE tenant = $1 AND id = $2", ground.tenant, mission
    )
    await end(ground, mission)
    for scope, key in (("mission", mission), ("tenant_day", None), ("tenant", None)):
        assert 10_000 <= (await account(ground, scope, key))["settled_time_ms"] < 15_000, scope


@pytest.mark.parametrize("state", ["in_review", "failed"])
async def test_missions_that_end_in_one_statement_are_each_counted(ground: Ground, state: str) -> None:
    """One from before the limit, three that hold their budget, one of them since yesterday and one that never ran."""
    unheld = await running(ground, budget_time_ms=60_000)
    await limit(ground, day_time_ms=500_000, total_time_ms=500_000)
    early, late, idle = [await running(ground, budget_time_ms=60_000) for _ in range(3)]
    guard = "ALTER TABLE budget_reservation {} TRIGGER budget_reservation_guard"
    await ground.run("admin", guard.format("DISABLE"))
    moved = """UPDATE budget_reservation SET day = day - 1 WHERE tenant = $1 AND mission = $2 RETURNING day::text, (day + 1)::text"""
    [(yesterday, today)] = await ground.run("admin", moved, ground.tenant, early)
    await ground.run("admin", guard.format("ENABLE ALWAYS"))
    opened = """INSERT INTO budget_account (tenant, scope, key, reserved_tokens, reserved_cost_usd, reserved_time_ms)
                VALUES ($1, 'tenant_day', $2, 100, 1, 60000)"""
    await ground.run(
        "admin", opened, ground.tenant, yesterday
    )  # and today's account holds for it, too, which nobody gives back
    await ground.run(
        "api", "UPDATE mission SET deadline_at = clock_timestamp() + interval '50 seconds' WHERE tenant = $1 AND id = ANY($2)",
        ground.tenant, [unheld, early, late],
    )  # fmt: skip
    await ground.run(
        "api", "UPDATE mission SET state = $3, closed_at = CASE WHEN $4 THEN clock_timestamp() END WHERE tenant = $1 AND id = ANY($2)",
        ground.tenant, [late, unheld, idle, early], state, state == "failed",
    )  # fmt: skip
    ran = {one: (await account(ground, "mission", one))["settled_time_ms"] for one in (unheld, early, late)}
    assert all(10_000 <= used < 15_000 for used in ran.values())
    days = {key: await account(ground, "tenant_day", key) for key in (yesterday, today)}
    whole = await account(ground, "tenant")
    assert days[yesterday]["settled_time_ms"] == ran[early]
    assert days[today]["settled_time_ms"] == ran[unheld] + ran[late]
    assert whole["settled_time_ms"] == sum(ran.values())
    over = 60_000  # what today's account holds for the one that was moved to yesterday
    if state == "failed":
        assert (days[yesterday]["reserved_time_ms"], days[today]["reserved_time_ms"]) == (0, over)
        assert (whole["reserved_time_ms"], whole["reserved_tokens"]) == (0, 0)
    else:
        assert days[yesterday]["reserved_time_ms"] == 60_000 - ran[early]
        assert days[today]["reserved_time_ms"] == 120_000 - ran[late] + over
        assert whole["reserved_time_ms"] == 180_000 - ran[early] - ran[late]
    kept = "SELECT mission, state, used_time_ms FROM budget_reservation WHERE tenant = $1 AND purpose = 'mission'"
    reserved = {
        one["mission"]: (one["state"], one["used_time_ms"]) for one in await ground.run("admin", kept, ground.tenant)
    }
    ended = ("settled", "released") if state == "failed" else ("reserved", "reserved")
    assert reserved == {early: (ended[0], ran[early]), late: (ended[0], ran[late]), idle: (ended[1], 0)}


async def test_a_lower_limit_takes_nothing_back_and_lets_nothing_more_in(ground: Ground) -> None:
    await limit(ground, day_tokens=1_000)
    first, _ = await running(ground), await running(ground)
    await limit(ground, day_tokens=120)
    await ground.run("api", SPEND, ground.tenant, first, 80, Decimal(0))
    row = await account(ground, "tenant_day")
    assert (row["settled_tokens"], row["reserved_tokens"], row["over_tokens"]) == (80, 120, 0), (
        "what is held may be used"
    )
    await end(ground, first)
    with pytest.raises(asyncpg.PostgresError, match="used up"):
        await running(ground, budget_tokens=1)
    row = await account(ground, "tenant_day")
    assert (row["limit_tokens"], row["settled_tokens"], row["reserved_tokens"]) == (180, 80, 100)


async def test_a_mission_from_before_the_limit_is_stopped_by_it(ground: Ground) -> None:
    mission = await running(ground)
    await limit(ground, day_tokens=5)
    row = await reserve(ground, mission, 6)
    said = json.loads(row["lacking"])
    assert (row["reservation"], said["account"], said["left"]["tokens"]) == (None, "tenant_day", 5)
    assert (await account(ground, "mission", mission))["reserved_tokens"] == 0
    held = (await reserve(ground, mission, 5))["reservation"]
    assert held and (await account(ground, "tenant_day"))["reserved_tokens"] == 5
    await ground.run("api", SETTLE, ground.tenant, held, 7, Decimal(0))
    row = await account(ground, "tenant_day")
    assert (row["settled_tokens"], row["over_tokens"], row["reserved_tokens"]) == (5, 2, 0)
    assert (await reserve(ground, mission, 0))["reservation"] is None, "over is over, even for nothing"


async def test_a_hold_whose_holder_was_killed_is_used_says_the_reconciler(ground: Ground) -> None:
    mission = await running(ground)
    connection = await ground.connect("api")
    async with ground.within("api", connection=connection):
        lost = await connection.fetchval(RESERVE, ground.tenant, mission, 60, Decimal(0), "10 milliseconds")
    connection.terminate()  # between reserve and settle
    kept = (await reserve(ground, mission, 20))["reservation"]
    assert (await account(ground, "mission", mission))["reserved_tokens"] == 80
    async with ground.within("owner") as owner:
        await owner.execute("SELECT pg_sleep(0.02)")
    async with ground.within(
        "api", connection=await ground.connect("api")
    ) as busy:  # who is at the mission is not waited for
        await busy.execute("SELECT 1 FROM mission WHERE id = $1 FOR UPDATE", mission)
        await ground.run("worker", "SELECT reconcile_budgets(1000)")
    assert (await account(ground, "mission", mission))["reserved_tokens"] == 80
    assert await ground.value("worker", "SELECT reconcile_budgets(1000)") >= 1
    left = await account(ground, "mission", mission)
    assert (left["reserved_tokens"], left["settled_tokens"]) == (20, 60)
    assert await ground.value("admin", "SELECT state FROM budget_reservation WHERE id = $1", lost) == "presumed"
    [late] = await ground.run("api", SETTLE, ground.tenant, lost, 60, Decimal(0))
    assert late["was_over"] is None, "too late: it is counted already"
    assert await ground.value("api", RELEASE, ground.tenant, kept) is True


async def test_old_history_of_calls_is_forgotten_and_the_sums_stay(ground: Ground) -> None:
    mission = await running(ground)
    held = (await reserve(ground, mission))["reservation"]
    await ground.run("api", SETTLE, ground.tenant, held, 10, Decimal(0))
    async with ground.within("admin") as admin:
        await admin.execute("ALTER TABLE budget_reservation DISABLE TRIGGER budget_reservation_guard")
        await admin.execute("UPDATE budget_reservation SET ended_at = ended_at - interval '8 days' WHERE id = $1", held)
        await admin.execute("ALTER TABLE budget_reservation ENABLE ALWAYS TRIGGER budget_reservation_guard")
    await ground.run("worker", "SELECT reconcile_budgets(1000)")
    assert await ground.run("admin", "SELECT 1 FROM budget_reservation WHERE id = $1", held) == []
    row = await account(ground, "mission", mission)
    assert (row["settled_tokens"], row["calls"]) == (10, 1)


async def test_limits_are_set_by_a_human_admin_on_what_they_have_seen(ground: Ground) -> None:
    put = "SELECT * FROM put_budget_limits($1, $2, $3, $4)"
    for who, outcome in (
        ("nobody", "unauthenticated"),
        (None, "unauthenticated"),
        ("anna", "not_entitled"),
        ("asker", "not_entitled"),
    ):
        secret = ground.secrets.get(who, who) if who else None
        [row] = await ground.run("api", put, ground.tenant, secret, 0, "{}")
        assert row["outcome"] == outcome, who
    await limit(ground, day_tokens=10)
    [row] = await ground.run("api", put, ground.tenant, ground.secrets["adam"], 0, "{}")
    assert (row["outcome"], row["version"]) == ("stale", 1)
    await ground.refused("23514", "api", put, ground.tenant, ground.secrets["adam"], 1, json.dumps({"day_tokens": -1}))
    [fact] = await ground.run(
        "admin", "SELECT * FROM ledger WHERE tenant = $1 AND type = 'budget.limits_changed'", ground.tenant
    )
    assert fact["actor"] == f"principal:{ground.ids['adam']}"
    assert json.loads(fact["body"]) == {"version": 1, "day_tokens": 10}
    assert str(await ground.value("admin", "SELECT set_by FROM budget_limit WHERE tenant = $1", ground.tenant)) == str(
        ground.ids["adam"]
    )
    for role in ("worker", "executor", "registrar", "auditor", "reader"):
        await ground.refused(DENIED, role, put, ground.tenant, "x", 1, "{}")


# --- rates


async def take(
    ground: Ground, want: int, subject: bytes, rate: float = 1.0, burst_s: float = 10.0, scope: str = "key"
) -> asyncpg.Record:
    [row] = await ground.run("api", TAKE, [None], [scope], [subject], [rate], [burst_s], [want])
    return row


async def age(ground: Ground, subject: bytes, by: str) -> None:
    await ground.run("admin", "UPDATE rate_bucket SET at = at + $2::text::interval WHERE subject = $1", subject, by)


async def test_a_bucket_gives_what_it_has_and_fills_with_time(ground: Ground) -> None:
    subject = uuid4().bytes
    first = await take(ground, 4, subject)
    assert (first["granted"], first["capacity"], first["remaining"]) == (4, 10, 6)
    second = await take(ground, 100, subject)
    assert second["granted"] == 6 and second["wait_s"] == 0
    third = await take(ground, 1, subject)
    assert third["granted"] == 0 and 0.5 < third["wait_s"] <= 1
    await age(ground, subject, "-3 seconds")
    assert (await take(ground, 100, subject))["granted"] == 3
    await age(ground, subject, "-1 day")  # or the clock jumped ahead: no more than a full bucket
    assert (await take(ground, 100, subject))["granted"] == 10


async def test_a_clock_that_steps_back_mints_nothing(ground: Ground) -> None:
    subject = uuid4().bytes
    assert (await take(ground, 100, subject))["granted"] == 10
    for _ in range(3):  # back and forth: the same seconds are not counted again
        await age(ground, subject, "30 seconds")
        row = await take(ground, 100, subject)
        assert row["granted"] == 0 and row["wait_s"] > 25
        assert await ground.value(
            "admin", "SELECT at > clock_timestamp() + interval '20 s' FROM rate_bucket WHERE subject = $1", subject
        )
        await age(ground, subject, "-30 seconds")
    await age(ground, subject, "2 days")  # far back: it goes on from there, after the wait of an empty bucket
    assert (await take(ground, 100, subject))["granted"] == 0
    row = await take(ground, 1, subject)
    assert row["granted"] == 0 and row["wait_s"] <= 1.1


async def test_a_tenants_own_rate_wins_over_the_processes(ground: Ground) -> None:
    """And nobody else's, though their buckets are asked for by the same statement; who asks twice is given twice."""
    await limit(ground, rate_tenant_per_s=2, rate_key_per_s=0.5)
    subject, other = uuid4().bytes, uuid4().bytes
    rows = await ground.run(
        "api",
        TAKE,
        [ground.tenant, uuid4(), ground.tenant, ground.tenant, None, ground.tenant],
        ["tenant", "tenant", "key", "principal", "key", "tenant"],
        [subject, other, subject, subject, other, subject],
        [1000.0, 1000.0, 0.0, 0.0, 0.0, 1000.0],
        [10.0] * 6,
        [None, None, None, None, None, 30],
    )
    found = {row["n"]: (row["rate"], row["granted"]) for row in rows}
    assert found == {1: (2, 1), 2: (1000, 100), 3: (0.5, 1), 4: (0, 0), 5: (0, 0), 6: (2, 19)}


async def test_idle_buckets_are_swept_and_busy_ones_stay(ground: Ground) -> None:
    old, new = uuid4().bytes, uuid4().bytes
    for subject in (old, new):
        await take(ground, 1, subject)
    await age(ground, old, "-2 hours")
    assert await ground.value("worker", "SELECT sweep_rates(1000)") >= 1
    left = {row["subject"] for row in await ground.run("admin", "SELECT subject FROM rate_bucket")}
    assert new in left and old not in left
    for role in ("worker", "executor", "auditor", "reader"):
        await ground.refused(DENIED, role, TAKE, [None], ["key"], [old], [1.0], [1.0], [1])
    await ground.refused("23514", "api", TAKE, [None], ["key"], [b"somebody's secret, not a digest"], [1.0], [1.0], [1])


# --- who waits for whom, and what other tenants see


async def test_budgets_of_another_tenant_are_not_seen(ground: Ground) -> None:
    await limit(ground, day_tokens=500)
    mission = await running(ground)
    await ground.run("api", SPEND, ground.tenant, mission, 5, Decimal(0))
    for role in ("api", "worker", "auditor"):
        for table in TABLES:
            assert await ground.run(role, f"SELECT 1 FROM {table} WHERE tenant = $1", ground.tenant), (role, table)
            assert not await ground.run(
                role, f"SELECT 1 FROM {table} WHERE tenant = $1", ground.tenant, tenant=uuid4()
            ), (role, table)


async def test_what_a_mission_holds_is_not_ended_as_a_call(ground: Ground) -> None:
    await limit(ground, day_tokens=500, day_time_ms=10**6)
    await running(ground)
    held = await ground.value("admin", "SELECT id FROM budget_reservation WHERE tenant = $1", ground.tenant)
    assert await ground.value("api", RELEASE, ground.tenant, held) is False
    [settled] = await ground.run("api", SETTLE, ground.tenant, held, 1, Decimal(0))
    assert settled["was_over"] is None
    row = await account(ground, "tenant_day")
    assert (row["reserved_tokens"], row["settled_tokens"]) == (100, 0)
    assert (row["limit_tokens"], row["limit_time_ms"], row["reserved_time_ms"]) == (500, 10**6, 1_000)


async def test_whoever_moves_a_budget_waits_for_who_has_the_mission(ground: Ground) -> None:
    """Also for nothing: the mission's row comes before its account for everybody, or two would wait for each other."""
    mission = await running(ground)
    held = (await reserve(ground, mission))["reservation"]
    busy = ("worker", "UPDATE mission SET stage = 'busy' WHERE id = $1", (mission,))
    for statement, args in (
        (RESERVE, (mission, 0, Decimal(0), "1 hour")), (SPEND, (mission, 0, Decimal(0))), (SETTLE, (held, 0, Decimal(0))),
    ):  # fmt: skip
        [row] = await ground.overtaken(busy, ground.run("api", statement, ground.tenant, *args))
        assert any(value is not None for value in row), statement
    [refused] = await ground.overtaken(
        ("worker", "UPDATE mission SET state = 'failed', closed_at = clock_timestamp() WHERE id = $1", (mission,)),
        ground.run("api", RESERVE, ground.tenant, mission, 1, Decimal(0), "1 hour"),
    )
    assert refused["reservation"] is None, "it has ended while we waited"


async def test_two_missions_that_meet_in_the_day_are_both_counted(ground: Ground) -> None:
    await limit(ground, day_tokens=1_000)
    one, two = await running(ground), await running(ground)
    await ground.overtaken(
        ("api", SPEND, (ground.tenant, one, 30, Decimal(0))),
        spend_elsewhere(ground, two, 40),
    )
    row = await account(ground, "tenant_day")
    assert (row["settled_tokens"], row["reserved_tokens"]) == (70, 130)


async def spend_elsewhere(ground: Ground, mission: UUID, tokens: int) -> None:
    async with ground.within("api", connection=await ground.connect("api")) as connection:
        await connection.fetchrow(SPEND, ground.tenant, mission, tokens, Decimal(0))


async def test_what_is_no_number_is_neither_reserved_nor_spent(ground: Ground) -> None:
    """NaN is greater than everything to Postgres: once in an account it would never leave it."""
    mission, nan = await running(ground), Decimal("NaN")
    await ground.refused("RX005", "api", RESERVE, ground.tenant, mission, 1, nan, "1 minute")
    await ground.refused("RX005", "api", SPEND, ground.tenant, mission, 1, nan)
    held = (await reserve(ground, mission))["reservation"]
    await ground.refused("RX005", "api", SETTLE, ground.tenant, held, 1, nan)
    await ground.refused("RX005", "api", "SELECT * FROM settle_budget($1, $2, 1, 0, 0, NULL)", ground.tenant, held)


async def test_the_reconciler_takes_no_account_out_of_order(ground: Ground) -> None:
    """Day before tenant: a second day taken after the tenant's account would meet somebody who comes the right way."""
    first, second = await running(ground), await running(ground)
    await limit(ground, day_tokens=1000)
    for mission in (first, second):
        assert (await reserve(ground, mission, 10, "10 milliseconds"))["reservation"]
    async with ground.within("admin") as admin:
        await admin.execute("ALTER TABLE budget_reservation DISABLE TRIGGER budget_reservation_guard")
        await admin.execute("UPDATE budget_reservation SET day = day - 1 WHERE mission = $1", second)
        await admin.execute("ALTER TABLE budget_reservation ENABLE ALWAYS TRIGGER budget_reservation_guard")
        await admin.execute(
            """INSERT INTO budget_account (tenant, scope, key, reserved_tokens)
               SELECT tenant, scope, (key::date - 1)::text, 10 FROM budget_account WHERE tenant = $1 AND scope = 'tenant_day'""",
            ground.tenant,
        )
    lock = (
        "SELECT 1 FROM budget_account WHERE tenant = $1 AND scope = $2 AND ($3 OR key < current_date::text) FOR UPDATE"
    )
    other = await ground.connect("admin")
    await other.execute("SET lock_timeout = '3s'")
    async with other.transaction():
        await other.execute(lock, ground.tenant, "tenant_day", False)
        reconciling = asyncio.create_task(ground.run("worker", "SELECT reconcile_budgets(1000)"))
        async with ground.within("owner") as owner:
            await owner.execute("SELECT pg_sleep(0.5)")
        await other.execute(lock, ground.tenant, "tenant", True)
    await reconciling
    await ground.run("worker", "SELECT reconcile_budgets(1000)")
    assert (await account(ground, "tenant"))["reserved_tokens"] == 0


async def test_the_reconciler_queues_at_no_shared_account_for_what_held_nothing(ground: Ground) -> None:
    mission = await running(ground)
    await limit(ground, day_tokens=1000)
    assert (await reserve(ground, mission, 10))["reservation"], "the accounts are there"
    empty = (await reserve(ground, mission, 0, "10 milliseconds"))["reservation"]
    async with ground.within("owner") as owner:
        await owner.execute("SELECT pg_sleep(0.02)")
    other = await ground.connect("admin")
    async with other.transaction():
        await other.execute(
            "SELECT 1 FROM budget_account WHERE tenant = $1 AND scope = 'tenant' FOR UPDATE", ground.tenant
        )
        async with asyncio.timeout(10):
            await ground.run("worker", "SELECT reconcile_budgets(50)")
    assert await ground.value("admin", "SELECT state FROM budget_reservation WHERE id = $1", empty) == "released"
