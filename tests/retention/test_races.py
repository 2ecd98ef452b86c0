"""Who is faster: holds against sweeps, sweeps against sweeps, readers and writers against removals. Locks decide, and are awaited."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app.errors import Problem
from app.retention import Sweeper
from tests.retention.house import LARGE, House

BIG = b"y" * (3 * LARGE)
REMOVE = "SELECT * FROM remove_bytes($1, $2, 100)"


async def over(house: House, data: bytes = BIG) -> tuple[Any, bytes]:
    """A mission and its source whose time is over."""
    mission, source = await house.mission(), await house.keep(data)
    await house.read(mission, source)
    await house.end(mission, days_ago=91)
    await house.age(source)
    return mission, source


async def waiting(house: House, count: int = 1) -> None:
    """Until so many sessions of this database wait for a lock."""
    admin = await house.ground.of("admin")
    for _ in range(400):
        found = await admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        if found >= count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody waits")


@pytest.mark.parametrize("scope", ["mission", "label", "tenant"])
async def test_a_hold_that_is_faster_keeps_everything(house: House, scope: str) -> None:
    mission, source = await over(house)
    item = await house.item()
    label = ("laid", "ground") if scope == "label" else None
    async with house.ground.within("api", connection=await house.ground.connect("api")) as api:
        said = await api.fetchval(
            "SELECT place_hold($1, $2, 'case', $3, $4, $5, $6, 'x')", house.tenant, house.ground.secrets["adam"], scope,
            mission if scope == "mission" else None, *(label or (None, None)),
        )  # fmt: skip
        assert said == "placed"
        sweep = asyncio.ensure_future(house.sweeper.turn(item))
        await waiting(house)
    await sweep
    assert (await house.said(mission), await house.state(source)) == ([True], "kept")
    assert await house.facts("bytes.removed") == []


async def test_a_hold_that_is_slower_waits_for_the_removal_and_says_what_is_gone(house: House) -> None:
    mission, source = await over(house)
    item = await house.item()
    connection = await house.ground.connect("worker")
    async with house.ground.within("worker", connection=connection) as worker:
        [row] = await worker.fetch(REMOVE, house.tenant, item.fence)
        assert (row["missions"], row["sources"]) == (1, 1)
        holding = asyncio.ensure_future(house.hold("case", mission=mission))
        await waiting(house)
        assert not holding.done()
    assert await holding == "placed"
    assert await house.state(source) == "removed"
    assert await house.ground.value("api", "SELECT holds_on($1, $2)", house.tenant, mission) == ["case"]


async def test_a_removal_waits_for_nobody_who_brings_a_source_again(house: House) -> None:
    """Who brings it holds its row, and may wait for a chain that the removal holds."""
    mission, source = await over(house, b"small")
    item = await house.item()
    async with house.ground.within("api", connection=await house.ground.connect("api")) as api:
        await api.execute("SELECT keep_blob($1, $2, 5, $3, NULL, NULL)", house.tenant, source, b"small")
        await asyncio.wait_for(house.sweeper.turn(item), 10)
        assert await house.said(mission) == [False]
    assert await house.state(source) == "kept"


async def test_two_sweeps_remove_once(house: House) -> None:
    for number in range(5):
        await over(house, b"%d" % number)
    item = await house.item()
    other = Sweeper(house.worker, house.objects, house.sweeper.interval)
    await asyncio.gather(house.sweeper.turn(item), other.turn(item), other.turn(item))
    missions = [fact for fact in await house.facts("bytes.removed") if fact["subject"] != house.tenant]
    assert len(missions) == 5
    stale = await house.item()
    await house.item()  # somebody else has it by now
    late, source = await over(house, b"late")
    await house.sweeper.turn(stale)
    assert (await house.said(late), await house.state(source)) == ([True], "kept")


async def test_a_reader_that_is_faster_keeps_the_source(house: House) -> None:
    _, source = await over(house)
    fresh = await house.mission()
    connection = await house.ground.connect("api")
    async with house.ground.within("api", connection=connection) as api:
        await api.execute(
            "INSERT INTO reading (tenant, mission, source_sha256, document, kind) VALUES ($1, $2, $3, 'd', 'document')",
            house.tenant, fresh, source,
        )  # fmt: skip
        await house.sweep()  # passes it by, and does not wait
    await house.sweep()
    assert await house.state(source) == "kept"


async def test_a_reader_that_is_slower_is_refused_and_a_writer_brings_it_back(house: House) -> None:
    _, source = await over(house)
    fresh, item = await house.mission(), await house.item()
    connection = await house.ground.connect("worker")
    async with house.ground.within("worker", connection=connection) as worker:
        [row] = await worker.fetch(REMOVE, house.tenant, item.fence)
        reading = asyncio.ensure_future(house.read(fresh, source))
        await waiting(house)
    with pytest.raises(asyncpg.PostgresError, match="bytes of this source are removed"):
        await reading
    assert await house.keep(BIG) == source
    await house.objects.discard(
        house.tenant, row["objects"]
    )  # the sweep deletes what it let go, after somebody was faster
    assert await house.state(source) == "kept"


async def test_what_is_read_while_it_is_removed_breaks_off_or_is_whole(house: House) -> None:
    mission, source = await over(house, b"z" * 3_000_000)
    place = await house.place_of(source)
    pieces = house.objects.stream(place)
    got = len(await anext(pieces))
    await house.sweep()
    assert await house.said(mission) == [False]
    with pytest.raises(Problem) as refused:
        async for piece in pieces:
            got += len(piece)
    assert refused.value.code == "artifact_missing" and got < place.size
    assert await house.state(source) == "removed"


async def test_an_object_on_its_way_into_a_row_is_no_orphan_and_an_old_one_is(house: House) -> None:
    laid = await house.objects.lay_down(house.tenant, BIG)
    assert laid.object is not None
    old = laid.object.int - (25 * 3600 * 1000 << 80)
    label = f"{laid.sha256.hex()}.{UUID(int=old)}"
    folder = house.objects.store.folder / str(house.tenant)  # type: ignore[union-attr,operator]
    (folder / label[:2]).mkdir(exist_ok=True)
    (folder / label[:2] / label).write_bytes(BIG)
    (folder / "somebody-elses.file").write_bytes(b"x")
    kept = await house.keep(b"k" * LARGE)
    named = {one for one in await house.stored() if one.startswith(kept.hex())}
    await house.sweep()
    assert await house.stored() == {f"{laid.sha256.hex()}.{laid.object}", "somebody-elses.file", *named}


async def test_the_store_is_away_and_back(house: House) -> None:
    _, source = await over(house)
    folder = house.objects.store.folder  # type: ignore[union-attr]
    assert folder is not None
    place = await house.place_of(source)
    away = folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(Problem) as refused:
        await house.objects.read(place)
    assert refused.value.code == "upstream_unavailable"
    away.rename(folder)
    assert await house.state(source) == "kept"
