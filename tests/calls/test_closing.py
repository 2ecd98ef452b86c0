"""Calls that end at the same moment are closed in one transaction, each once and whatever becomes of the others."""

import asyncio
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app import budgets, calls, ledger
from app.errors import Problem
from tests.calls.test_opening import colony, opening, run, run_out
from tests.tools.registered import ask, mission_with
from tests.world import World
from tests.world.checks import inspector
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
    """Retention takes the bytes between the answer of the tool and the closing of its call."""
    life = await mission_with(world, "workspace.search")
    await give_guide(world)
    one, _ = await ended(world, life, monkeypatch)
    connection = await inspector(world)
    async with connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute("ALTER TABLE blob DISABLE TRIGGER USER")
        gone = await connection.execute(
            "UPDATE blob SET bytes = NULL, object = NULL, chunks = NULL, removed_at = clock_timestamp() WHERE sha256 = ANY ($1)",
            [source for source, _, _ in one.shown],
        )
        for (name,) in await connection.fetch(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = 'blob'::regclass AND NOT tgisinternal"
        ):
            await connection.execute(f"ALTER TABLE blob ENABLE ALWAYS TRIGGER {name}")
    assert gone == "UPDATE 1"
    with pytest.raises(Problem, match="retention") as told:
        await world.root.closings.put(one)
    assert told.value.code == "database_busy" and "Retry-After" in told.value.headers
    assert await life.facts("tool.called") == [] and await connection.fetchval(SHOWN, life.id) == 0


# --- what is used up


async def a_model(world: World, life: Life, tokens: int) -> calls.Ended:
    """A call of a model for which a hundred tokens were held, and which took so many."""
    await ask(world, life.dispatch, "workspace.outline")
    wanted = await opening(life, "workspace.outline", purpose="model", amounts=budgets.Amounts(100, Decimal(0)))
    [reservation] = await run(world, wanted)
    assert isinstance(reservation, UUID)
    told = ledger.fact(
        colony(life), "model.called", life.id, model="small", policy_decision=wanted.drafts[0].decision.id
    )
    return calls.Ended("model", told, reservation, 5, tokens_in=tokens)


async def used(life: Life) -> int:
    found: int = await (await inspector(life.world)).fetchval(
        "SELECT settled_tokens + over_tokens FROM budget_account WHERE scope = 'mission' AND key = $1", str(life.id)
    )
    return found


@pytest.mark.parametrize("ran_out", [False, True])
async def test_what_a_call_used_is_counted_once_also_when_its_reservation_ran_out_first(
    world: World, ran_out: bool
) -> None:
    """A connection that breaks while a commit is on its way tells nobody what became of it: the call is put again."""
    life = await mission_with(world, "workspace.outline", budget={"tokens": 1000})
    one, other = await a_model(world, life, 70), await a_model(world, life, 7)
    if ran_out:
        await run_out(world)
    for ended_call in (one, one, other, one):
        await world.root.closings.put(ended_call)
    assert await used(life) == (
        200 if ran_out else 77
    )  # of whose end nobody had heard all that was held is counted, not more
    assert len(await life.facts("model.called")) == 2


async def test_a_call_that_uses_up_the_budget_says_so_as_the_colonys_own_word_does(world: World) -> None:
    """The fact with what was used, the mission's own word, and somebody who ends the attempt when its grace is over."""
    connection, left = await inspector(world), []
    for door in ("closing", "settling", "reporting"):
        life = await mission_with(world, "workspace.outline", budget={"tokens": 100})
        one = await a_model(world, life, 170)
        await connection.execute(
            "UPDATE work SET next_at = clock_timestamp() + interval '1 hour' WHERE kind = 'attempt_timer' AND subject = $1",
            life.id,
        )
        if door == "closing":
            await world.root.closings.put(one)
        elif door == "settling":
            async with world.root.database.write() as session:
                await session.enter(one.told.tenant)
                await budgets.settle(session, colony(life), life.id, one.reservation, budgets.Amounts(170))
        else:
            await life.say({"type": "usage.reported", "tokens_in": 170, "tokens_out": 0, "cost_usd": 0.0})
        degraded = (await world.mission(life.id))["degraded"]
        due = await connection.fetchval(
            "SELECT next_at FROM work WHERE kind = 'attempt_timer' AND subject = $1", life.id
        )
        assert due == datetime.fromisoformat(degraded["until"])
        [(_, said)] = await life.facts("budget.exceeded")
        left.append((said, degraded["code"], degraded["effect"]))
    assert left[0] == left[1] == left[2] and left[0][0] == {"used_tokens": 170, "used_cost_usd": 0}
