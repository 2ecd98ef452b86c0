"""The worker's sweep: bite by bite until nothing is left, each in a transaction of its own."""

import pytest

from tests.world import World
from tests.world.checks import inspector

OLD = """INSERT INTO rate_bucket (scope, subject, tokens, granted, at)
         SELECT 'key', decode(lpad(to_hex(n), 32, '0'), 'hex'), 1, 0,
           clock_timestamp() - interval '2 hours' FROM generate_series(1, $1) n"""
LEFT = "SELECT count(*) FROM rate_bucket WHERE at < clock_timestamp() - interval '1 hour'"


@pytest.mark.parametrize(("rows", "bites", "left"), [(25, 200, 0), (30, 2, 10), (10, 200, 0)])
async def test_everything_old_is_swept_in_bites(
    world: World, monkeypatch: pytest.MonkeyPatch, rows: int, bites: int, left: int
) -> None:
    monkeypatch.setattr("app.worker.SWEEP_BITE", 10)
    monkeypatch.setattr("app.worker.SWEEP_BITES", bites)
    connection = await inspector(world)
    await connection.execute(OLD, rows)
    before = await connection.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    assert await world.worker.swept("SELECT sweep_rates(:most)") == rows - left
    after = await connection.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    assert await connection.fetchval(LEFT) == left
    assert after - before >= (rows - left) / 10, "one transaction each"


async def test_a_sweep_that_fails_does_not_end_the_loop(world: World) -> None:
    assert await world.worker.swept("SELECT no_such_sweep(:most)") == 0
