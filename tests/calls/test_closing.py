"""Calls that end at the same moment are closed in one transaction, each once and whatever becomes of the others."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app import calls
from tests.calls.test_opening import opening, run
from tests.tools.registered import ask, mission_with
from tests.world import World
from tests.world.checks import inspector, problem
from tests.world.life import Life, give_guide

SHOWN = "SELECT count(*) FROM reading WHERE mission = $1"


async def ended(world: World, life: Life, monkeypatch: pytest.MonkeyPatch) -> tuple[calls.Ended, asyncio.Task[Any]]:
    """A call that has been answered and waits to be closed."""
    waiting: asyncio.Future[calls.Ended] = asyncio.get_running_loop().create_future()
    let: asyncio.Event = asyncio.Event()

    async def put(one: calls.Ended) -> None:
        waiting.set_result(one)
        await let.wait()

    with monkeypatch.context() as patch:
        patch.setattr(world.root.closings, "put", put)
        task = asyncio.create_task(ask(world, life.dispatch, "workspace.search", {"query": "rollback release"}))
        one = await waiting
    let.set()
    assert (await task).status_code == 200
    return one, task


async def test_a_call_is_closed_once_however_often_it_is_put(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    life = await mission_with(world, "workspace.search")
    await give_guide(world)
    one, _ = await ended(world, life, monkeypatch)
    assert one.shown and await life.facts("tool.called") == []
    await world.root.closings.put(one)
    await world.root.closings.put(one)
    connection = await world.connect("api")
    await world.root.closings.run(connection, [one, one])
    assert len(await life.facts("tool.called")) == 1
    found = await (await inspector(world)).fetchrow(
        "SELECT state, (SELECT count(*) FROM tape t WHERE t.mission = r.mission) AS taped FROM budget_reservation r WHERE r.id = $1",
        one.reservation,
    )
    assert tuple(found) == ("settled", 1)


async def test_who_shows_what_is_not_there_spoils_nobody_elses_call(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    good, bad = await mission_with(world, "workspace.search"), await mission_with(world, "workspace.search")
    await give_guide(world)
    (one, _), (other, _) = [await ended(world, life, monkeypatch) for life in (good, bad)]
    other = replace(other, shown=[(b"\x00" * 32, "nothing.md", None)])
    sizes: list[int] = []
    closings = world.root.closings

    async def noticed(connection: Any, items: Any) -> Any:
        sizes.append(len(items))
        return await type(closings).run(closings, connection, items)

    monkeypatch.setattr(closings.batches, "run", noticed)
    done = await asyncio.gather(closings.put(one), closings.put(other), return_exceptions=True)
    assert done[0] is None and isinstance(done[1], asyncpg.ForeignKeyViolationError)
    assert sizes == [2, 1, 1]
    assert len(await good.facts("tool.called")) == 1 and await bad.facts("tool.called") == []
    assert await (await inspector(world)).fetchval(SHOWN, bad.id) == 0


async def test_a_source_removed_meanwhile_is_asked_for_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    life = await mission_with(world, "workspace.search")
    await give_guide(world)
    await ask(world, life.dispatch, "workspace.search", {"query": "rollback release"})
    connection = await inspector(world)

    async def gone(*_: Any) -> None:
        error = asyncpg.RaiseError("wall: the bytes of this source are removed")
        error.sqlstate = "RX022"
        raise error

    monkeypatch.setattr(world.root.closings.batches, "run", gone)
    said = problem(await ask(world, life.dispatch, "workspace.search", {"query": "rollback release"}), "database_busy")
    assert "retention" in said["detail"]
    states = await connection.fetch(
        "SELECT state FROM budget_reservation WHERE mission = $1 AND purpose <> 'mission'", life.id
    )
    assert sorted(row["state"] for row in states) == ["released", "settled"]


async def test_fifty_at_once_on_a_budget_for_ten_are_ten(world: World) -> None:
    from decimal import Decimal

    from app import budgets

    lives = [await mission_with(world, "workspace.outline", budget={"tokens": 1000})]
    await ask(world, lives[0].dispatch, "workspace.outline")
    amounts = budgets.Amounts(100, Decimal(0))
    wanted = [await opening(lives[0], "workspace.outline", purpose="model", amounts=amounts) for _ in range(50)]
    outcomes = await asyncio.gather(*(world.root.openings.open(one) for one in wanted))
    assert sum(isinstance(one, UUID) for one in outcomes) == 10 and outcomes.count("again") == 40
    assert await run(world, wanted[0]) == ["replayed"]
