"""Calls that come at the same moment are taken in one transaction, and each fares as if it had come alone."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.boundary import callbacks
from app.boundary.callbacks import Answer, Call, Taken
from app.caller import SYSTEM, Caller
from app.errors import Problem
from app.missions.held import holding
from app.work import Item, turn
from colony_client.contract import Event, EventBatch
from tests.boundary.deliveries import ENDS, MIDDLE, bodies
from tests.boundary.remains import remains
from tests.world import World
from tests.world.checks import inspector
from tests.world.life import Life, begin, event, in_state


def call(life: Life, attempt: int, events: list[Event], nonce: str | None = None) -> Call:
    tenant = life.dispatch.envelope.tenant_id
    caller = Caller(tenant=tenant, principal=SYSTEM, actor="colony:local", name="colony")
    said = callbacks.said(caller, life.id, EventBatch(attempt=attempt, events=events))
    return Call("local", nonce or uuid4().hex, [said])


def said(answer: Any) -> Any:
    """What one mission is told, or the whole call."""
    outcome = answer if isinstance(answer, Problem) else answer.outcomes[0]
    if isinstance(outcome, Problem):
        return outcome.code, outcome.detail, outcome.members
    return outcome.accepted_seq, outcome.stop_reason


async def take(world: World, call: Call) -> Taken:
    [outcome] = (await world.root.callbacks.take(call)).outcomes
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


async def at_attempt(world: World, attempt: int, lives: int) -> list[Life]:
    """Missions whose colony has taken them for the first or the second time."""
    found = [await begin(world) for _ in range(lives)]
    await world.run_work("dispatch")
    if attempt == 2:
        for life in found:
            await life.say()
            await life.lose_lease()
        await world.run_work("dispatch")
    return found


tries = st.tuples(
    st.integers(0, 2),  # which mission
    st.sampled_from([1, 2, 2, 2]),  # by which attempt it says to be, when it is at its second
    st.integers(0, 6),  # from which event on
    st.integers(0, 7),  # how many
    st.integers(0, 9),  # 0: a call seen before, again
)


@pytest.mark.anyio
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(  # a duplicate, a gap, the rest, something after the end, a replay
    attempt=1,
    script=["artifact", "usage", "artifact", "proposal"],
    end="complete",
    sent=[(0, 1, 0, 2, 1), (0, 1, 0, 2, 1), (0, 1, 4, 2, 1), (0, 1, 1, 7, 1), (0, 1, 0, 7, 1), (0, 1, 0, 1, 0)],
)
@example(  # a superseded attempt between the words of the present one
    attempt=2,
    script=["started", "artifact"],
    end="blocked",
    sent=[(0, 1, 0, 2, 1), (0, 2, 0, 1, 1), (1, 1, 0, 7, 1), (0, 2, 0, 7, 1), (0, 1, 0, 0, 1), (1, 2, 0, 7, 1)],
)
@given(
    attempt=st.sampled_from([1, 2]),
    script=st.lists(st.sampled_from(MIDDLE), min_size=1, max_size=5),
    end=st.sampled_from(sorted(set(ENDS) - {"escalate"})),
    sent=st.lists(tries, min_size=1, max_size=10),
)
async def test_calls_of_one_batch_fare_as_one_after_the_other(
    world: World, attempt: int, script: list[str], end: str, sent: list[tuple[int, int, int, int, int]]
) -> None:
    alone, together = [await at_attempt(world, attempt, 3) for _ in range(2)]
    connection = await world.connect("api")
    outcomes = []
    for lives in (alone, together):
        calls: list[Call] = []
        for which, by, start, length, again in sent:
            events = [event(n + 1, **body) for n, body in enumerate(bodies(lives[which].dispatch, script, end))]
            nonce = calls[0].nonce if calls and not again else None
            calls.append(call(lives[which], min(by, attempt), events[start : start + length], nonce))
        if lives is together:
            outcomes.append([said(one) for one in await world.root.callbacks.run(connection, calls)])
        else:
            outcomes.append([said((await world.root.callbacks.run(connection, [one]))[0]) for one in calls])
    assert outcomes[0] == outcomes[1]
    left = await remains(world, [life.id for life in alone + together])
    for one, other in zip(alone, together, strict=True):
        assert left[one.id] == left[other.id]
    await connection.close()


async def commits(world: World, type: str) -> list[int]:
    """How many facts of a type each transaction has written."""
    rows = await (await inspector(world)).fetch(
        "SELECT count(*) AS n FROM ledger WHERE type = $1 GROUP BY xid ORDER BY 1", type
    )
    return [row["n"] for row in rows]


async def test_what_is_pending_goes_in_one_commit_from_dispatch_to_the_end(world: World) -> None:
    await world.another_tenant()
    lives = [await begin(world) for _ in range(6)]
    body = {"mission_type": "oracle_advisory", "user_goal": "Is there a freeze?"}
    for _ in range(3):
        made = (await world.other.post("/v1/missions", json=body)).json()
        lives.append(Life(world, type(lives[0].id)(made["id"])))
    await world.run_work("dispatch")
    assert await commits(world, "mission.dispatched") == [9]
    end = {"type": "signal", "signal": "complete"}
    answers = await world.root.callbacks.run(
        await world.connect("api"), [call(life, 1, [event(1, **end)]) for life in lives]
    )
    assert [said(one) for one in answers] == [(1, "the attempt has ended")] * 9
    assert await commits(world, "mission.in_review") == [9]
    await world.run_work("review")
    assert await commits(world, "mission.completed") == [9]
    assert [await life.state() for life in lives] == ["completed"] * 9
    left = await (await inspector(world)).fetch(
        "SELECT kind FROM work WHERE subject = ANY($1)", [one.id for one in lives]
    )
    assert left == []


async def test_a_call_that_the_wall_refuses_fails_alone_and_may_come_again(world: World) -> None:
    lives = [await in_state(world, "running") for _ in range(4)]
    admin = await inspector(world)
    await admin.execute(f"ALTER TABLE ledger ADD CONSTRAINT poison CHECK (subject <> '{lives[1].id}') NOT VALID")
    calls = [call(life, 1, [event(1, type="stage.started", stage="workers")]) for life in lives]
    found = await asyncio.gather(*(take(world, one) for one in calls), return_exceptions=True)
    assert isinstance(found[1], asyncpg.CheckViolationError)
    assert [one.accepted_seq for one in found if isinstance(one, Taken)] == [1, 1, 1]
    assert [(await life.row())["last_seq"] for life in lives] == [1, 0, 1, 1]
    await admin.execute("ALTER TABLE ledger DROP CONSTRAINT poison")
    assert (await take(world, calls[1])).accepted_seq == 1
    for one in calls:
        with pytest.raises(Problem) as refused:
            await take(world, one)
        assert refused.value.code == "unauthenticated"


async def test_a_mission_that_somebody_holds_keeps_only_its_own_callers_waiting(world: World) -> None:
    lives = [await in_state(world, "running") for _ in range(4)]
    calls = [call(life, 1, [event(1, type="stage.started", stage="workers")]) for life in lives]
    admin = await world.connect("admin")
    async with admin.transaction():
        await admin.execute("SELECT 1 FROM mission WHERE id = $1 FOR UPDATE", lives[2].id)
        found = await asyncio.gather(*(take(world, one) for one in calls), return_exceptions=True)
    assert [one.accepted_seq for one in found if isinstance(one, Taken)] == [1, 1, 1]
    assert isinstance(found[2], Problem) and found[2].code == "database_busy"
    assert (await take(world, calls[2])).accepted_seq == 1


async def test_an_answer_that_cannot_be_kept_is_the_only_one_that_is_lost(world: World) -> None:
    lives = [await begin(world) for _ in range(4)]
    admin = await inspector(world)
    await admin.execute(f"ALTER TABLE ledger ADD CONSTRAINT poison CHECK (subject <> '{lives[1].id}') NOT VALID")
    await world.run_work("dispatch")
    assert [await life.state() for life in lives] == ["dispatched", "accepted", "dispatched", "dispatched"]
    assert len(world.colony.dispatched) == 5  # all of them once, and then the one again
    await admin.execute("ALTER TABLE ledger DROP CONSTRAINT poison")
    await world.make_due("dispatch")
    await world.run_work("dispatch")
    assert await lives[1].state() == "dispatched"


async def test_batches_of_several_tenants_never_wait_for_each_other_in_a_ring(world: World) -> None:
    """Each uses something up for one tenant and ends a mission of the other."""
    await world.another_tenant()
    connections = [await world.connect("api"), await world.connect("api")]
    for _ in range(8):
        batches: list[list[Call]] = []
        for at in range(2):
            ours, theirs = await in_state(world, "running"), await begin_elsewhere(world)
            used = event(1, type="usage.reported", tokens_in=1, tokens_out=1, cost_usd=0.01)
            ends = event(1, type="signal", signal="blocked", reason="no")
            pair = [call(ours, 1, [used if at else ends]), call(theirs, 1, [ends if at else used])]
            batches.append(pair[::-1] if at else pair)
        runs = (world.root.callbacks.run(one, batch) for one, batch in zip(connections, batches, strict=True))
        for answers in await asyncio.gather(*runs):
            assert all(isinstance(one, Answer) and isinstance(one.outcomes[0], Taken) for one in answers)
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert await (await inspector(world)).fetchval(deadlocks) == 0


async def begin_elsewhere(world: World) -> Life:
    made = await world.other.post(
        "/v1/missions", json={"mission_type": "oracle_advisory", "user_goal": "Is there a freeze?"}
    )
    life = Life(world, UUID(made.json()["id"]))
    await world.run_work("dispatch")
    return life


async def test_a_review_that_cannot_be_kept_fails_alone(world: World) -> None:
    lives = [await in_state(world, "running") for _ in range(4)]
    for life in lives:
        await life.say({"type": "signal", "signal": "complete"})
    admin = await inspector(world)
    await admin.execute(f"ALTER TABLE ledger ADD CONSTRAINT poison CHECK (subject <> '{lives[2].id}') NOT VALID")
    await world.run_work("review")
    assert [await life.state() for life in lives] == ["completed", "completed", "in_review", "completed"]
    await admin.execute("ALTER TABLE ledger DROP CONSTRAINT poison")
    await world.make_due("review")
    await world.run_work("review")
    assert await lives[2].state() == "completed"


async def test_whoever_lost_the_lease_ends_nothing(world: World) -> None:
    """What is written for many at once is fenced row by row."""
    lives = [await begin(world) for _ in range(2)]
    items, _ = await turn(world.worker.database, ["dispatch"], 10, world.root_lease())
    late = [Item(one.tenant, one.kind, one.subject, one.fence - 1, one.wanted, one.attempts) for one in items[:1]]
    async with holding(world.worker.database, [(one.tenant, one.subject) for one in items]) as held:
        held.finish(late[0])
        held.finish(items[1])
    rows = await (await inspector(world)).fetch(
        "SELECT subject, lease_until IS NOT NULL AS held FROM work WHERE subject = ANY($1)", [one.id for one in lives]
    )
    assert [tuple(row) for row in rows] == [(late[0].subject, True)]
    async with holding(world.worker.database, [(one.tenant, one.subject) for one in items]) as held:
        held.again(late[0], None)
    again, _ = await turn(world.worker.database, ["dispatch"], 10, world.root_lease())
    assert again == []


async def test_a_mission_of_another_tenant_is_not_there(world: World) -> None:
    life = await in_state(world, "running")
    stranger = await world.another_tenant()
    database = await inspector(world)
    tenant = await database.fetchval("SELECT id FROM tenant WHERE name = $1", stranger.name)
    genuine = call(life, 1, [event(1, type="stage.started", stage="workers")])
    stolen = callbacks.said(Caller(tenant, SYSTEM, "colony:local"), life.id, genuine.said[0].batch)
    forged = Call("local", uuid4().hex, [stolen])
    refused, taken = await world.root.callbacks.run(await world.connect("api"), [forged, genuine])
    assert (said(refused)[0], said(taken)[0]) == ("not_found", 1)
