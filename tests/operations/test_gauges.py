"""The numbers about the whole installation: each is what is really there, and an old reading is not said again."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from app.clock import new_id, now
from app.db import Database
from app.operations.gauges import GAUGES, SAID, STALE_AFTER, Gauges
from app.telemetry import POOL_EXHAUSTED, POOL_IN_USE, POOL_WAIT
from app.work import KINDS
from tests.release.scene import drilled
from tests.world import World
from tests.world.checks import inspector
from tests.world.life import OPEN, approve_all, in_state

Read = dict[str, dict[str, float]]


async def read(world: World) -> Read:
    gauges = Gauges()
    await gauges.read(world.worker.database)
    assert gauges.found is not None
    return gauges.found


async def a_moment_ago(world: World, mission: Any) -> None:
    """The mission has not moved for longer than the invariant is patient."""
    connection = await inspector(world)
    await connection.execute("ALTER TABLE mission DISABLE TRIGGER mission_guard")
    await connection.execute(
        "UPDATE mission SET updated_at = clock_timestamp() - interval '9 s' WHERE id = $1", mission
    )
    await connection.execute("ALTER TABLE mission ENABLE ALWAYS TRIGGER mission_guard")


async def test_open_missions_are_counted_in_their_states_and_closed_ones_are_not(world: World) -> None:
    assert (await read(world)).get("open_missions") is None
    lives = [await in_state(world, state) for state in reversed(OPEN)]
    found = await read(world)
    assert found["open_missions"] == dict.fromkeys(OPEN, 1.0)
    assert found["approvals_pending"] == {"writeback": 2.0}
    assert all(0 <= age < 60 for age in found["open_mission_oldest_seconds"].values())
    assert set(found["work_waiting"]) <= set(KINDS) and found["work_waiting"]["execute"] == 2
    for life in lives:
        assert (await life.end("cancel")).status_code == 200
    found = await read(world)
    assert "open_missions" not in found and "approvals_pending" not in found


async def test_a_mission_that_only_a_person_can_get_going_is_a_violation_until_somebody_does(world: World) -> None:
    assert (await read(world))["invariant_violations"]["liveness"] == 0
    mission, connection = (await world.create())["id"], await inspector(world)
    await connection.execute(
        """INSERT INTO mission_repair (tenant, mission, state, finding, since)
           SELECT tenant, id, 'executing', 'no_execution', now() FROM mission WHERE id = $1""", UUID(mission),
    )  # fmt: skip
    assert (await read(world))["invariant_violations"]["liveness"] == 1
    await connection.execute("UPDATE mission_repair SET over_at = clock_timestamp()")
    assert (await read(world))["invariant_violations"]["liveness"] == 0


async def test_a_tenant_that_nobody_looks_at_is_seen(world: World) -> None:
    await world.another_tenant()
    connection = await inspector(world)

    async def oldest() -> float:
        return (await read(world))["liveness_look_oldest_seconds"][""]

    await connection.execute("ALTER TABLE tenant DISABLE TRIGGER ALL")
    await connection.execute("UPDATE tenant SET created_at = now() - interval '1 h' WHERE name = 'other'")
    assert 3600 <= await oldest() < 3700, "that was never looked at"
    await connection.execute(
        "INSERT INTO liveness_look SELECT id, now() - interval '20 min', 1, 0, 0 FROM tenant WHERE name = 'other'"
    )
    assert 1200 <= await oldest() < 3600
    await connection.execute("UPDATE tenant SET suspended_at = now() WHERE name = 'other'")
    assert await oldest() < 1200, "of a suspended one nothing moves"


async def test_ages_of_approvals_and_of_what_nobody_knows(world: World) -> None:
    found = await read(world)
    assert found["approval_oldest_seconds"] == found["writeback_unknown_oldest_seconds"] == {"": 0.0}
    life = await in_state(world, "awaiting_approval")
    connection = await inspector(world)
    await connection.execute("ALTER TABLE approval DISABLE TRIGGER approval_guard")
    await connection.execute(
        "UPDATE approval SET created_at = clock_timestamp() - interval '1 h', expires_at = clock_timestamp() + interval '1 min'"
    )
    await connection.execute("ALTER TABLE approval ENABLE ALWAYS TRIGGER approval_guard")
    found = await read(world)
    assert 3600 <= found["approval_oldest_seconds"][""] < 3660 and found["approvals_expiring"][""] == 2
    await approve_all(life)
    first, second = [one["id"] for one in await life.writebacks()]
    await life.settle(await life.claim(first), first, "unknown")
    await life.claim(second)
    found = await read(world)
    assert found["writebacks_unsettled"] == {"unknown": 1.0, "executing": 1.0}
    assert 0 < found["writeback_unknown_oldest_seconds"][""] < 60 and found["approval_oldest_seconds"][""] == 0


async def test_late_work_is_what_nobody_has_in_hand(world: World) -> None:
    await world.create()
    connection = await inspector(world)
    await connection.execute("UPDATE work SET next_at = clock_timestamp() - interval '90 s' WHERE kind = 'dispatch'")
    assert 90 <= (await read(world))["work_late_seconds"]["dispatch"] < 120
    await world.worker.database.fetch("SELECT * FROM take_worker_work($1, 1, $2)", ["dispatch"], timedelta(seconds=60))
    assert (await read(world))["work_late_seconds"]["dispatch"] == 0


async def test_the_ledger_lags_while_an_older_transaction_is_open(world: World) -> None:
    open_one = await world.connect("admin")
    await open_one.execute("BEGIN; SELECT pg_current_xact_id()")
    await world.create()
    assert (await read(world))["ledger_lag_seconds"][""] > 0
    await open_one.execute("COMMIT")
    assert (await read(world))["ledger_lag_seconds"][""] == 0


async def test_of_a_drill_the_newest_run_counts_and_the_others_are_not_read(world: World) -> None:
    await drilled(world, "colony_down", ago="40 min")
    connection = await inspector(world)
    tenant = await connection.fetchval("SELECT id FROM tenant WHERE drills")
    for state, minutes in (("failed", 30), ("passed", 20), ("running", 1)):
        await connection.execute(
            """INSERT INTO drill_run (tenant, id, drill, state, reason, build, started_at, finished_at)
               VALUES ($1, $2, 'replay', $3, CASE WHEN $3 = 'failed' THEN 'timed_out' END, 'b', $4,
                 CASE WHEN $3 <> 'running' THEN $4::timestamptz END)""",
            tenant, new_id(), state, now() - timedelta(minutes=minutes),
        )  # fmt: skip
    found = await read(world)
    assert found["drill_passed"] == {"replay": 1.0, "colony_down": 1.0}
    assert 1200 <= found["drill_age_seconds"]["replay"] < 1300 and found["drill_age_seconds"]["colony_down"] >= 2400
    await connection.execute(
        """INSERT INTO drill_run (tenant, id, drill, state, build, started_at, finished_at)
           SELECT $1, gen_random_uuid(), 'replay', 'passed', 'b', at, at
           FROM generate_series(now() - interval '2000 h', now() - interval '1 h', interval '1 h') at""", tenant,
    )  # fmt: skip
    await connection.execute("ANALYZE drill_run")
    async with connection.transaction():
        await connection.fetch("SELECT * FROM gauges()")
        rows = await connection.fetchval(
            "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'drill_run'"
        )
    assert 0 < rows < 10, "of two thousand"


async def test_other_tenants_are_counted_and_not_named(world: World) -> None:
    await world.create()
    stranger = await world.another_tenant()
    ask = {"mission_type": "oracle_advisory", "user_goal": "What does the release still need?"}
    assert (await stranger.http.post("/v1/missions", json=ask)).status_code == 202
    found = await read(world)
    assert found["open_missions"] == {"accepted": 2.0}
    for name, labels in found.items():
        always = SAID[name][1]
        assert not always or set(labels) <= set(always), name
        assert all(isinstance(value, float) for value in labels.values())


def test_nothing_is_said_before_the_first_reading_nor_long_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, gauges = CollectorRegistry(), Gauges()
    registry.register(gauges)

    def samples() -> list[str]:
        return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]

    assert samples() == []
    gauges.take([{"name": "open_missions", "label": "running", "value": 3.0}])
    assert 'mission_root_open_missions{state="running"} 3.0' in samples()
    assert 'mission_root_open_missions{state="accepted"} 0.0' in samples(), "nothing of a kind is said as 0"
    gauges.read_at -= STALE_AFTER * gauges.period_s
    assert [line.split()[0] for line in samples()] == ["mission_root_gauges_read_timestamp_seconds"]


async def test_a_database_that_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    asked = asyncio.Event()

    class Away:
        turns = 0

        async def fetch(self, _: str) -> Any:
            self.turns += 1
            if self.turns == 1:
                raise ConnectionError
            asked.set()
            return [{"name": "ledger_lag_seconds", "label": "", "value": 0.5}]

    gauges = Gauges()
    task = asyncio.create_task(gauges.keep_reading(Away(), 0.1))  # type: ignore[arg-type]
    await asyncio.wait_for(asked.wait(), 5)
    task.cancel()
    assert gauges.found == {"ledger_lag_seconds": {"": 0.5}} and GAUGES is not gauges


async def test_waiting_for_a_connection_is_measured_and_running_out_is_counted(world: World) -> None:
    from sqlalchemy.exc import TimeoutError as PoolTimeout

    database = Database(world.url("api"), pool_size=1, wait_ms=50, name="mission-root of-a-test")
    assert database.pool == "of-a-test"
    async with database.read():
        assert POOL_IN_USE.labels("of-a-test")._value is not None
        assert f'mission_root_pool_in_use{{pool="{database.pool}"}} 1.0' in generate_latest().decode()
        with pytest.raises(PoolTimeout):
            async with database.write():
                pass
    assert POOL_EXHAUSTED.labels("of-a-test")._value.get() == 1
    assert POOL_WAIT.labels("of-a-test")._sum.get() > 0
    await database.close()
