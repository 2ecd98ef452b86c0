"""Concurrent spends never exceed a limit. BUDGET_RACES sets how many runs (make budget-races: 2,000)."""

import asyncio
import contextlib
import json
import os
import random
from decimal import Decimal
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.conftest import Cluster
from tests.walls.ground import Ground, laid

RUNS = int(os.environ.get("BUDGET_RACES", "200"))
SPENDS = 50
RESERVE = "SELECT * FROM reserve_budget($1, $2, $3, $4, 0, 'test', $5::text::interval)"
SETTLE = "SELECT * FROM settle_budget($1, $2, $3, $4, 0, 1)"
RELEASE = "SELECT release_budget($1, $2)"
SPEND = "SELECT * FROM spend_budget($1, $2, $3, $4)"
SUMS = "tokens", "cost_usd"


async def limit(ground: Ground, **limits: float) -> None:
    """The tenant's limits, by its admin."""
    seen = await ground.value(
        "admin", "SELECT COALESCE(max(version), 0) FROM budget_limit WHERE tenant = $1", ground.tenant
    )
    outcome = await ground.value(
        "api", "SELECT outcome FROM put_budget_limits($1, $2, $3, $4)", ground.tenant, ground.secrets["adam"], seen,
        json.dumps(limits),
    )  # fmt: skip
    assert outcome == "set"


async def account(ground: Ground, scope: str, key: object = None) -> asyncpg.Record:
    [row] = await ground.run(
        "admin",
        """SELECT *, settled_tokens + reserved_tokens AS bound_tokens, settled_cost_usd + reserved_cost_usd AS bound_cost_usd
           FROM budget_account WHERE tenant = $1 AND scope = $2 AND ($3::text IS NULL OR key = $3)""",
        ground.tenant, scope, None if key is None else str(key),
    )  # fmt: skip
    return row


Free = asyncio.Queue[asyncpg.Connection]


async def one_spend(free: Free, tenant: UUID, mission: UUID, chance: random.Random) -> tuple[int, Decimal]:
    """A call: reserve, then settle with less, as much or more, or release; or a report without any reservation."""
    tokens, cost = chance.randrange(0, 9), Decimal(chance.randrange(0, 9)) / 10
    used, cents = chance.randrange(0, 12), Decimal(chance.randrange(0, 12)) / 10

    async def within(statement: str, *args: object) -> asyncpg.Record:
        connection = await free.get()
        try:
            return await connection.fetchrow(statement, tenant, *args)  # a transaction of its own
        finally:
            free.put_nowait(connection)

    turn = chance.random()
    if turn < 0.1:
        await within(SPEND, mission, used, cents)
        return used, cents
    made = await within(RESERVE, mission, tokens, cost, "1 minute")
    if made["reservation"] is None:
        assert made["lacking"] is not None
        return 0, Decimal(0)
    if turn < 0.3:
        assert (await within(RELEASE, made["reservation"]))[0] is True
        return 0, Decimal(0)
    settled = await within(SETTLE, made["reservation"], used, cents)
    assert settled["was_over"] is not None
    return used, cents


@pytest.mark.long
async def test_concurrent_spends_never_exceed_any_limit(ground: Ground) -> None:
    """RUNS missions, each spent on by SPENDS calls at once; the last half also share a limit of the day and of the tenant."""
    free: Free = asyncio.Queue()
    connections = [await ground.connect("api") for _ in range(SPENDS)]
    for connection in connections:
        await connection.execute("SELECT set_config('app.tenant', $1, false)", str(ground.tenant))
        free.put_nowait(connection)
    chance = random.Random(20_260_712)
    sums: dict[str, Decimal] = {"tokens": Decimal(0), "cost_usd": Decimal(0)}
    for number in range(RUNS):
        if number == RUNS // 2:
            used = await account(ground, "tenant")
            room = RUNS // 2 * 60  # less than the missions have together
            await limit(
                ground,
                day_tokens=int(used["settled_tokens"]) + room,
                total_cost_usd=float(used["settled_cost_usd"]) + room,
            )
        mission = await mission_without_hold(ground, budget_tokens=100, budget_cost_usd=10)
        spent = await asyncio.gather(*(one_spend(free, ground.tenant, mission, chance) for _ in range(SPENDS)))
        row = await account(ground, "mission", mission)
        assert row["bound_tokens"] <= 100 and row["bound_cost_usd"] <= 10, dict(row)
        assert row["reserved_tokens"] == 0 and row["reserved_cost_usd"] == 0, "everything has ended"
        for index, name in enumerate(SUMS):
            told = sum((Decimal(one[index]) for one in spent), Decimal(0))
            assert row[f"settled_{name}"] + row[f"over_{name}"] == told, "what was told is what is counted"
            sums[name] += told
        shown = await ground.run("admin", "SELECT used_tokens, used_cost_usd FROM mission WHERE id = $1", mission)
        assert shown[0]["used_tokens"] == row["settled_tokens"] + row["over_tokens"], "one truth"
        assert shown[0]["used_cost_usd"] == row["settled_cost_usd"] + row["over_cost_usd"]
    for scope in ("tenant_day", "tenant"):
        row = await account(ground, scope)
        for name in SUMS:
            assert row[f"settled_{name}"] + row[f"over_{name}"] == sums[name], (scope, name)
            assert row[f"limit_{name}"] is None or row[f"bound_{name}"] <= row[f"limit_{name}"]


async def mission_without_hold(ground: Ground, **more: object) -> UUID:
    """A mission from before its tenant had any limit: it holds nothing above, so its calls do."""
    mission = await ground.mission(state="running", **more) if not await has_limit(ground) else None
    if mission is None:
        async with ground.within("admin") as admin:
            await admin.execute("ALTER TABLE mission DISABLE TRIGGER mission_holds")
        try:
            mission = await ground.mission(state="running", **more)
        finally:
            await ground.run("admin", "ALTER TABLE mission ENABLE ALWAYS TRIGGER mission_holds")
    return mission


async def has_limit(ground: Ground) -> bool:
    return bool(await ground.value("admin", "SELECT count(*) FROM budget_limit WHERE tenant = $1", ground.tenant))


async def test_missions_that_come_at_once_never_hold_more_than_the_day_has(ground: Ground) -> None:
    await limit(ground, day_tokens=1_000, total_cost_usd=50)
    connections = [await ground.connect("admin") for _ in range(12)]

    async def file(connection: asyncpg.Connection, number: int) -> bool:
        mission = uuid4()
        try:
            async with ground.within("owner", connection=connection):  # as take_in() does
                await connection.execute(
                    """INSERT INTO mission (tenant, id, mission_type, type_version, mode, state, origin_surface, risk_level,
                         sensitivity_class, requested_by, workspace, contract_hash, budget_time_ms, budget_tokens, budget_cost_usd)
                       VALUES ($1, $2, 'oracle_advisory', 1, 'assisted', 'accepted', 'test', 'low', 'internal', $3, 'default', $4,
                         1000, $5, 1)""",
                    ground.tenant, mission, ground.ids["asker"], bytes(32), 60 + number,
                )  # fmt: skip
        except asyncpg.PostgresError as error:
            assert error.sqlstate == "RX020", error
            return False
        if number % 3 == 0:  # some end at once and give theirs back
            async with ground.within("owner", connection=connection):
                await connection.execute(
                    "UPDATE mission SET state = 'cancelled', closed_at = clock_timestamp() WHERE tenant = $1 AND id = $2",
                    ground.tenant, mission,
                )  # fmt: skip
        return True

    async def many(connection: asyncpg.Connection) -> int:
        return sum([await file(connection, number) for number in range(6)])

    came = await asyncio.gather(*(many(connection) for connection in connections))
    assert 0 < sum(came) < 72, "some came in and some did not"
    day = await account(ground, "tenant_day")
    held = await ground.value(
        "admin",
        "SELECT COALESCE(sum(tokens), 0) FROM budget_reservation WHERE tenant = $1 AND state = 'reserved'",
        ground.tenant,
    )
    assert day["reserved_tokens"] == held <= 1_000
    assert day["settled_tokens"] == 0


async def test_two_missions_and_their_ends_wait_for_nobody_in_a_circle(ground: Ground) -> None:
    """Spends of two missions cross in the day's account while both end: whoever deadlocks fails the gather."""
    await limit(ground, day_tokens=10_000_000)
    all_spent: list[int] = []
    for _ in range(10):
        missions = [await ground.mission(state="running", budget_tokens=1_000) for _ in range(2)]
        connections = [await ground.connect("api") for _ in range(8)]

        async def life(connection: asyncpg.Connection, number: int) -> None:
            mine, other = missions[number % 2], missions[(number + 1) % 2]  # noqa: B023
            for subject in (mine, other, mine):
                spent = 2
                async with ground.within("api", connection=connection):
                    made = await connection.fetchrow(RESERVE, ground.tenant, subject, 3, Decimal(0), "1 minute")
                async with ground.within("api", connection=connection):
                    await connection.fetchrow(SPEND, ground.tenant, subject, 2, Decimal("0.1"))
                    if made["reservation"]:
                        await connection.fetchrow(SETTLE, ground.tenant, made["reservation"], 4, Decimal(0))
                        spent += 4
                    await connection.execute(
                        "INSERT INTO ledger (tenant, subject, type, actor, body) VALUES ($1, $2, 'usage.reported', 'colony:test', $3)",
                        ground.tenant, subject, b"{}",
                    )  # fmt: skip
                all_spent.append(spent)
            if number < 2:
                async with ground.within("api", connection=connection):
                    await connection.execute(
                        """UPDATE mission SET state = 'failed', closed_at = clock_timestamp()
                           WHERE tenant = $1 AND id = $2""",
                        ground.tenant, mine,
                    )  # fmt: skip

        await asyncio.gather(*(life(connection, number) for number, connection in enumerate(connections)))
        for connection in connections:
            await connection.close()
    day = await account(ground, "tenant_day")
    assert len(all_spent) == 10 * 8 * 3
    assert (day["settled_tokens"], day["reserved_tokens"]) == (sum(all_spent), 0)


class Accounts(RuleBasedStateMachine):
    """One mission with 100 tokens, and a model of its account."""

    ground: Ground
    loop: asyncio.AbstractEventLoop

    @initialize()
    def begin(self) -> None:
        self.mission = self.wait(self.ground.mission(state="running", budget_tokens=100, budget_cost_usd=1))
        self.held: dict[UUID, int] = {}
        self.ended: list[UUID] = []
        self.settled = self.over = 0

    def wait(self, coroutine):  # type: ignore[no-untyped-def]
        return self.loop.run_until_complete(coroutine)

    def row(self, statement: str, *args: object) -> asyncpg.Record:
        [found] = self.wait(self.ground.run("api", statement, self.ground.tenant, *args))
        return found

    def count(self, used: int) -> None:
        room = 100 - self.settled - sum(self.held.values())
        self.settled, self.over = self.settled + min(used, room), self.over + max(0, used - room)

    @rule(tokens=st.integers(0, 60), life=st.sampled_from(["1 hour", "0"]))
    def reserve(self, tokens: int, life: str) -> None:
        fits = self.settled + self.over + sum(self.held.values()) + tokens <= 100
        made = self.row(RESERVE, self.mission, tokens, Decimal(0), life)
        assert (made["reservation"] is not None) == fits
        if fits and life == "0":  # its holder crashed at once
            self.wait(self.ground.run("worker", "SELECT reconcile_budgets(1000)"))
            self.ended.append(made["reservation"])
            self.count(tokens)
        elif fits:
            self.held[made["reservation"]] = tokens

    @rule(tokens=st.integers(0, 60))
    def crash_in_the_transaction(self, tokens: int) -> None:
        async def crash() -> None:
            connection = await self.ground.connect("api")
            async with self.ground.within("api", connection=connection):
                await connection.fetchrow(RESERVE, self.ground.tenant, self.mission, tokens, Decimal(0), "1 hour")
                connection.terminate()

        with contextlib.suppress(asyncpg.InterfaceError):
            self.wait(crash())

    @rule(used=st.integers(0, 90), data=st.data())
    def settle(self, used: int, data: st.DataObject) -> None:
        if not self.held:
            return
        which = data.draw(st.sampled_from(sorted(self.held)))
        answer = self.row(SETTLE, which, used, Decimal(0))
        assert answer["was_over"] == (self.over > 0)
        del self.held[which]
        self.count(used)
        assert answer["is_over"] == (self.over > 0)
        self.ended.append(which)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.held:
            which = data.draw(st.sampled_from(sorted(self.held)))
            assert self.row(RELEASE, which)[0] is True
            del self.held[which]
            self.ended.append(which)

    @rule(data=st.data(), used=st.integers(0, 50))
    def end_it_again(self, data: st.DataObject, used: int) -> None:
        if self.ended:
            which = data.draw(st.sampled_from(self.ended))
            assert self.row(SETTLE, which, used, Decimal(0))["was_over"] is None
            assert self.row(RELEASE, which)[0] is False

    @rule(used=st.integers(0, 70))
    def report(self, used: int) -> None:
        answer = self.row(SPEND, self.mission, used, Decimal(0))
        self.count(used)
        assert answer["is_over"] == (self.over > 0)
        assert answer["used_tokens"] == self.settled + self.over

    @invariant()
    def the_account_is_the_model(self) -> None:
        rows = self.wait(
            self.ground.run(
                "admin", "SELECT * FROM budget_account WHERE scope = 'mission' AND key = $1", str(self.mission)
            )
        )
        if not rows:
            assert not self.held and self.settled == self.over == 0
            return
        found = (rows[0]["reserved_tokens"], rows[0]["settled_tokens"], rows[0]["over_tokens"])
        assert found == (sum(self.held.values()), self.settled, self.over)
        assert found[0] + found[1] <= 100


def test_whatever_happens_the_account_is_what_a_model_says(cluster: Cluster, walled: str) -> None:
    """Not an async test: hypothesis drives it step by step on a loop of its own."""
    loop = asyncio.new_event_loop()
    laying = laid(lambda role: cluster.url(role, walled))
    try:
        ground = loop.run_until_complete(laying.__aenter__())
        machine = type("Machine", (Accounts,), {"ground": ground, "loop": loop})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=int(os.environ.get("BUDGET_EXAMPLES", "20")),
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        loop.run_until_complete(laying.__aexit__(None, None, None))
    finally:
        loop.close()
