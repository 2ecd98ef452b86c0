"""Every open mission waits for something: stuck ones of every state, made by force in SQL, are found and repaired, or surfaced."""

import asyncio
import json
from collections.abc import Iterator
from importlib import import_module
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import event, text

from app.errors import Problem
from app.missions.moves import OPEN
from app.operations import liveness
from tests.operations.test_service_health import REMOVE_WORK, component, status
from tests.world import World
from tests.world.checks import inspector
from tests.world.life import Life, age, asked_at_intake, begin, by_force, due, escalated, in_state, reconcile, stuck

reconciler = import_module("app.operations.reconcile")  # the room gives out the verb of that name
STARTS: dict[str, Any] = {
    **{state: lambda world, state=state: in_state(world, state) for state in sorted(OPEN)},
    "asked at intake": asked_at_intake,
    "escalated": escalated,
}
REMOVE_TIMERS = "DELETE FROM work WHERE subject IN (SELECT id FROM approval WHERE mission = $1)"
# start -> what makes it stuck, the finding, the repair, and what the mission is once its work is done
STUCK: dict[str, tuple[tuple[str, ...], str, str, set[str]]] = {
    "accepted": ((REMOVE_WORK,), "no_dispatch", "dispatch_added", {"dispatched"}),
    "dispatched": ((REMOVE_WORK,), "no_lease", "lease_watched", {"dispatched", "accepted"}),
    "running": ((REMOVE_WORK,), "no_lease", "lease_watched", {"running", "accepted"}),
    "in_review": ((REMOVE_WORK,), "no_review", "review_added", {"awaiting_approval"}),
    "awaiting_approval": ((REMOVE_WORK, REMOVE_TIMERS), "no_approval", "timer_added", {"awaiting_approval"}),
    "executing": ((REMOVE_WORK,), "no_execution", "execution_added", {"executing"}),
    "asked at intake": ((REMOVE_WORK, REMOVE_TIMERS), "no_approval", "timer_added", {"awaiting_approval"}),
    "escalated": ((REMOVE_WORK, REMOVE_TIMERS), "no_approval", "timer_added", {"awaiting_approval"}),
}
KINDS = ("dispatch", "ask", "review", "progress", "attempt_timer", "approval_timer")


@pytest.mark.parametrize("start", STARTS)
async def test_what_waits_is_left_alone_and_what_waits_for_nothing_is_repaired(world: World, start: str) -> None:
    life = await STARTS[start](world)
    state = await life.state()
    await age(life)
    await reconcile(world)
    found = await status(world)
    assert (found["violators"], found["liveness"]["missions"]) == ([], 1), "it waits for something"

    statements, finding, repair, after = STUCK[start]
    for statement in statements:
        await (await inspector(world)).execute(statement, life.id)
    await age(life)
    assert await stuck(world) == [f"{life.id} is {state}"]
    await reconcile(world)
    [one] = (await status(world))["violators"]
    assert (one["mission_id"], one["state"], one["finding"], one["repair"]) == (str(life.id), state, finding, repair)
    assert one["over_at"] and one["since"] < one["found_at"]
    assert (await status(world))["status"] == "ok", "it is repaired"
    assert await stuck(world) == []
    [(_, said)] = await life.facts("mission.repaired")
    assert said == {"state": state, "finding": finding, "repair": repair}

    await age(life)
    await reconcile(world)
    assert len((await status(world))["violators"]) == 1, "again changes nothing"
    await world.run_work(*KINDS)
    assert await life.state() in after
    assert await stuck(world) == []


# More ways to be stuck, which only somebody with the database's own rights can make.
FORCED: dict[str, tuple[str, tuple[str, ...], str | None, str]] = {
    "an attempt without a lease": (
        "running",
        ("UPDATE mission SET lease_until = NULL WHERE id = $1",),
        "lease_watched",
        "dispatched",  # as the next attempt: the colony says nothing of this one
    ),
    "an attempt without a deadline": (
        "dispatched",
        ("UPDATE mission SET deadline_at = NULL, lease_until = now() - interval '1 minute' WHERE id = $1", REMOVE_WORK),
        "lease_watched",
        "dispatched",  # as the next attempt: the colony says nothing of this one
    ),
    "decided, and nobody went on": (
        "awaiting_approval",
        (REMOVE_WORK, REMOVE_TIMERS, "UPDATE approval SET state = 'rejected', closed_at = now() WHERE mission = $1"),
        "progress_added",
        "completed",
    ),
    "agreed to, and not resumed": (
        "asked at intake",
        (REMOVE_WORK, REMOVE_TIMERS, "UPDATE approval SET state = 'approved', closed_at = now() WHERE mission = $1"),
        "resumed",
        "dispatched",
    ),
    "rejected, and not ended": (
        "escalated",
        (REMOVE_WORK, REMOVE_TIMERS, "UPDATE approval SET state = 'rejected', closed_at = now() WHERE mission = $1"),
        "ended",
        "failed",
    ),
    "asked about by nobody": (
        "asked at intake",
        (REMOVE_WORK, REMOVE_TIMERS, "UPDATE approval SET state = 'cancelled', closed_at = now() WHERE mission = $1"),
        None,
        "awaiting_approval",
    ),
    "all is settled, and nobody noticed": (
        "executing",
        (
            "UPDATE approval SET state = 'expired', not_before = NULL, closed_at = now() WHERE mission = $1",
            REMOVE_WORK,
            REMOVE_TIMERS,
        ),
        "progress_added",
        "completed",
    ),
}


@pytest.mark.parametrize("case", FORCED)
async def test_what_was_forced_is_repaired_or_surfaced(world: World, case: str) -> None:
    start, statements, repair, after = FORCED[case]
    life = await STARTS[start](world)
    await by_force(world, *statements, life=life)
    await reconcile(world)
    [one] = (await status(world))["violators"]
    assert (one["mission_id"], one["repair"]) == (str(life.id), repair)
    assert (await status(world))["status"] == ("ok" if repair else "degraded")
    await world.run_work(*KINDS)
    assert await life.state() == after, case
    if repair is None:  # told once, and shown until somebody acts
        await reconcile(world)
        assert [type for type, _ in await life.facts("mission.stuck")] == ["mission.stuck"]
        assert (await life.end("fail")).status_code == 200
        await reconcile(world)
        found = await status(world)
        assert found["status"] == "ok" and found["violators"][0]["over_at"]


async def test_a_mission_that_policy_asks_about_is_never_dispatched_unasked(world: World) -> None:
    life = await begin(world, mode="autonomous", risk_level="medium")
    await (await inspector(world)).execute(REMOVE_WORK, life.id)
    await age(life)
    await reconcile(world)
    [one] = (await status(world))["violators"]
    assert one["repair"] == "ask_added"
    await world.run_work("dispatch", "ask")
    assert await life.state() == "awaiting_approval" and world.colony.dispatched == []


async def test_what_does_not_hold_is_given_up_and_shown(world: World) -> None:
    life = await begin(world)
    connection = await inspector(world)
    for turn in range(4):
        await connection.execute(REMOVE_WORK, life.id)
        await age(life)
        await reconcile(world)
        newest = (await status(world))["violators"][0]
        assert (newest["repair"] is None) == (turn == 3)
    assert (await status(world))["status"] == "degraded"


@pytest.mark.parametrize(
    ("met", "refused"),
    [(Problem("wrong_state", "It may not."), "wrong_state"), (RuntimeError("a fault of ours"), "failed")],
)
async def test_a_repair_that_is_refused_is_shown_and_keeps_nobody_else_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch, met: Exception, refused: str
) -> None:
    lives = [await begin(world) for _ in range(2)]
    ill, well = lives
    for life in lives:
        await (await inspector(world)).execute(REMOVE_WORK, life.id)
        await age(life)
    as_always = reconciler.repaired

    async def repaired(session: Any, caller: Any, mission: Any) -> str | None:
        done = await as_always(session, caller, mission)
        if mission.id == ill.id:
            raise met
        return done

    monkeypatch.setattr(reconciler, "repaired", repaired)
    for _ in range(2):
        await reconcile(world)
        found = await status(world)
        said = {
            one["mission_id"]: (one["repair"], one["refused"], one["over_at"] is None) for one in found["violators"]
        }
        assert said == {str(ill.id): (None, refused, True), str(well.id): ("dispatch_added", None, False)}
        assert found["status"] == "degraded"
        assert await stuck(world) == [f"{ill.id} is accepted"], "of what was refused nothing is left"
    assert [said for _, said in await ill.facts("mission.stuck")] == [
        {"state": "accepted", "finding": "no_dispatch", "refused": refused}
    ]
    monkeypatch.undo()
    await reconcile(world)
    found = await status(world)
    assert found["status"] == "ok" and all(one["over_at"] for one in found["violators"]), (
        "once it can be, it is repaired"
    )


async def test_two_reconcilers_at_once_repair_once(world: World) -> None:
    life = await begin(world)
    await (await inspector(world)).execute(REMOVE_WORK, life.id)
    await age(life)
    from app.operations.reconcile import PATIENCE, repair_one

    tenant = await world.tenant()
    found, count = await liveness.look(world.worker.database, tenant, PATIENCE)
    assert (len(found), count) == (1, 1)
    await asyncio.gather(*(repair_one(world.worker.database, tenant, found[0]) for _ in range(5)))
    assert len(await life.facts("mission.repaired")) == 1
    assert await (await inspector(world)).fetchval("SELECT count(*) FROM mission_repair") == 1


async def test_one_at_a_time_looks_at_a_tenant_and_a_lost_row_comes_back(world: World) -> None:
    connection = await inspector(world)
    tenants = await connection.fetchval("SELECT count(*) FROM tenant")
    assert await connection.fetchval("SELECT restore_liveness_work()") == tenants
    assert await connection.fetchval("SELECT restore_liveness_work()") == 0
    rows = await connection.fetch("SELECT tenant, subject FROM work WHERE kind = 'liveness'")
    assert all(row["tenant"] == row["subject"] for row in rows) and len(rows) == tenants
    api = await world.connect("api")
    tenant = await world.tenant()
    async with api.transaction():
        await api.execute("SELECT set_config('app.tenant', $1, true)", str(tenant))
        for statement in (
            "DELETE FROM work WHERE kind = 'liveness'",
            "UPDATE work SET next_at = 'infinity' WHERE kind = 'liveness'",
        ):
            assert (await api.execute(statement)).endswith(" 0"), "whoever serves cannot put it off"


async def test_a_worker_that_is_away_is_seen_by_what_it_did_not_look_at(world: World) -> None:
    await reconcile(world)
    assert component(await status(world), "worker")["state"] == "up"
    await (await inspector(world)).execute("UPDATE liveness_look SET looked_at = now() - interval '10 minutes'")
    found = await status(world)
    said = component(found, "worker")
    assert (found["status"], said["state"]) == ("degraded", "down")
    assert said["effect"].startswith("Missions are accepted and wait") and "600 s" in str(said["detail"])


async def test_one_tenants_stuck_missions_are_not_shown_to_another(world: World) -> None:
    await world.another_tenant()
    body = {"mission_type": "oracle_advisory", "user_goal": "What is missing?"}
    made = (await world.other.post("/v1/missions", json=body)).json()
    theirs = Life(world, UUID(made["id"]))
    connection = await inspector(world)
    await connection.execute(REMOVE_WORK, theirs.id)
    await age(theirs)
    await reconcile(world)
    tenant = await connection.fetchval("SELECT id FROM tenant WHERE name = 'other'")
    await due(world, "liveness", tenant)
    await world.run_work("liveness", rounds=1)
    assert [one["mission_id"] for one in (await status(world, "other"))["violators"]] == [made["id"]]
    assert (await status(world))["violators"] == []


async def test_many_open_missions_are_looked_at_in_bites(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lives = [await begin(world) for _ in range(7)]
    connection = await inspector(world)
    for life in lives[::3]:
        await connection.execute(REMOVE_WORK, life.id)
    for life in lives:
        await age(life)
    bites = {state: str(said).replace(f"LIMIT {liveness.BITE}", "LIMIT 2") for state, said in liveness.LOOK.items()}
    monkeypatch.setattr(liveness, "LOOK", {state: text(said) for state, said in bites.items()})
    monkeypatch.setattr(liveness, "BITE", 2)
    await reconcile(world)
    found = await status(world)
    assert {one["mission_id"] for one in found["violators"]} == {str(life.id) for life in lives[::3]}
    assert found["liveness"]["missions"] == 7


async def test_the_status_counts_missions_and_looks_at_none(world: World) -> None:
    """However many there are: each of its statements that meets missions stops counting at a limit, along an index."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    engine = world.root.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    await status(world)
    event.remove(engine, "before_cursor_execute", note)
    connection, ways = await inspector(world), []
    async with connection.transaction():
        await connection.execute("SET LOCAL enable_seqscan = off")  # a table of a test is small enough to be read whole
        for statement, parameters in sent:
            if statement.lstrip().startswith(("SELECT", "WITH")):
                said = await connection.fetchval(f"EXPLAIN (COSTS OFF, FORMAT JSON) {statement}", *parameters)
                ways += [way for way in down(json.loads(said)[0]["Plan"]) if way[-1][1] == "mission"]
    assert len(ways) == 2, "accepted ones, and those in review"
    for way in ways:
        assert [node for node, _ in way[-3:-1]] == ["Aggregate", "Limit"] and way[-1][0] != "Seq Scan", way


def down(plan: dict[str, Any], above: tuple[tuple[str, str], ...] = ()) -> Iterator[tuple[tuple[str, str], ...]]:
    """Every node of a plan with those above it: what it does, and to which table."""
    way = (*above, (plan["Node Type"], plan.get("Relation Name", "")))
    yield way
    for below in plan.get("Plans", []):
        yield from down(below, way)


async def test_what_was_found_stays_as_it_was_found(world: World) -> None:
    life = await begin(world)
    connection = await inspector(world)
    await connection.execute(REMOVE_WORK, life.id)
    await age(life)
    await reconcile(world)
    for change in ("repair = 'other'", "refused = 'other'", "over_at = now()", "found_at = now()", "state = 'running'"):
        with pytest.raises(asyncpg.PostgresError) as refused:
            await connection.execute(f"UPDATE mission_repair SET {change}")
        assert refused.value.sqlstate == "RX037", change
