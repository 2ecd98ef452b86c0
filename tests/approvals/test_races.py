"""Real concurrency: two people, two processes, two steps of time at one approval; only allowed ends.

Set RACES (over HTTP) or TURNS (at the wall, see races.py) for more turns; `make races` runs the latter 5,000
times each. Every race looks at all that is left behind, not only at what was answered.
"""

import asyncio
import os
import random
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from app import ledger, policy
from app.caller import system
from tests.approvals.desk import awaiting, post
from tests.approvals.races import RACES as PAIRS
from tests.approvals.races import Arena
from tests.walls.ground import Asked, Ground
from tests.world import World
from tests.world.checks import inspector
from tests.world.life import Life, demo, under_way

RACES = int(os.environ.get("RACES", "20"))  # over HTTP
TURNS = int(os.environ.get("TURNS", "200"))  # at the wall's own doors


@dataclass(frozen=True)
class Left:
    """What a race left behind."""

    approval: str
    verdicts: list[str]
    executions: int
    decided_facts: int
    closed_facts: int


async def left(connection: asyncpg.Connection, approval: UUID) -> Left:
    row = await connection.fetchrow(
        """SELECT a.state, ARRAY(SELECT verdict FROM decision WHERE approval = a.id ORDER BY verdict) AS verdicts,
             (SELECT count(*) FROM execution WHERE approval = a.id) AS executions,
             (SELECT count(*) FROM ledger WHERE subject = a.mission AND type = 'approval.decided'
                AND convert_from(body, 'UTF8')::json ->> 'approval' = a.id::text) AS decided,
             (SELECT count(*) FROM ledger WHERE subject = a.mission AND type = 'approval.closed'
                AND convert_from(body, 'UTF8')::json ->> 'approval' = a.id::text) AS closed
           FROM approval a WHERE a.id = $1""",
        approval,
    )
    return Left(row["state"], row["verdicts"], row["executions"], row["decided"], row["closed"])


def codes(*answers: httpx.Response) -> list[Any]:
    return [answer.status_code if answer.is_success else answer.json()["code"] for answer in answers]


@pytest.mark.parametrize("second", ["approve", "reject"])
async def test_two_operators_on_one_approval(world: World, second: str) -> None:
    life = await awaiting(world, proposals=RACES)
    connection = await inspector(world)
    winners = set()
    for approval in await life.approvals():
        answers = await asyncio.gather(post(world.operator, approval), post(world.second_operator, approval, second))
        assert sorted(map(str, codes(*answers))) in (["201", "wrong_state"], ["201", "stale"])
        winner = next(answer.json() for answer in answers if answer.is_success)
        loser = next(answer.json() for answer in answers if not answer.is_success)
        assert loser["current"]["state"] == winner["state"]
        end = await left(connection, UUID(approval["id"]))
        assert end.approval == winner["state"] == {"approve": "approved", "reject": "rejected"}[end.verdicts[0]]
        assert (len(end.verdicts), end.decided_facts, end.closed_facts) == (1, 1, 0)
        winners.add(winner["approver"])
    tally = (await life.row())["writebacks"]
    assert sum(tally.values()) == RACES and not tally.get("awaiting_approval")


async def test_two_operators_who_are_both_needed(world: World) -> None:
    """Each saw the approval without the other's vote: one is told to look again, and then completes the quorum."""
    connection = await inspector(world)
    await connection.execute(
        """INSERT INTO approval_rule (tenant, id, version, subject, connector, operation, risk, required, life, undo_window)
           SELECT tenant, id, version + 1, subject, connector, operation, risk, 2, life, undo_window FROM approval_rule
           WHERE NOT break_glass"""
    )
    life = await awaiting(world, proposals=RACES)
    for approval in await life.approvals():
        answers = await asyncio.gather(post(world.operator, approval), post(world.second_operator, approval))
        assert sorted(map(str, codes(*answers))) == ["201", "stale"]
        slower = world.operator if answers[1].is_success else world.second_operator
        again = await post(slower, {**approval, "version": 2})
        assert (again.status_code, again.json()["outcome"]) == (201, "approved")
        end = await left(connection, UUID(approval["id"]))
        assert (end.approval, end.verdicts, end.decided_facts) == ("approved", ["approve", "approve"], 2)


async def test_a_decision_and_the_cancellation_of_its_mission(world: World) -> None:
    connection = await inspector(world)
    seen = set()
    for turn in range(RACES):
        life = await awaiting(world)
        [approval] = await life.approvals()
        row = await life.row()

        async def cancel(
            life: Life = life, version: int = row["version"], late: bool = turn % 2 == 1
        ) -> httpx.Response:
            await asyncio.sleep(0.004 * late)
            return await world.second_operator.post(
                f"/v1/missions/{life.id}/cancel", json={"reason": "race"}, headers={"If-Match": f'"v{version}"'}
            )

        decided, cancelled = await asyncio.gather(post(world.operator, approval), cancel())
        end, state = await left(connection, UUID(approval["id"])), await life.state()
        outcome = (*codes(decided, cancelled), end.approval, state)
        assert outcome in {
            (201, 200, "cancelled", "cancelled"),  # approved, then withdrawn unclaimed
            (201, "stale", "approved", "executing"),  # the approval moved the mission under the canceller's eyes
            ("wrong_state", 200, "cancelled", "cancelled"),
        }, outcome
        assert len(end.verdicts) == end.decided_facts == (decided.status_code == 201)
        claimed = await life.claim(approval["writeback_id"]) if state == "cancelled" else None
        assert claimed is None or claimed["outcome"] == "refused"
        seen.add(outcome)
    assert seen


# The other races are run at the wall's own doors, where the executor and the timers stand.


@pytest.mark.long
@pytest.mark.parametrize("name", PAIRS)
async def test_two_calls_at_once_end_in_an_allowed_way(ground: Ground, name: str) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    arena = Arena(ground, random.Random(seed))
    await arena.open()
    try:
        tally = await arena.run(PAIRS[name], TURNS)
    except AssertionError as wrong:
        raise AssertionError(f"seed {seed}: {wrong}") from wrong
    print(f"seed {seed}: {dict(tally)}")
    assert tally.total() == TURNS


async def test_a_forbidden_end_is_noticed(ground: Ground) -> None:
    arena = Arena(ground, random.Random(1))
    await arena.open()
    race = PAIRS["two approve, one is enough"]
    with pytest.raises(AssertionError, match="not allowed"):
        await arena.run(replace(race, allowed=frozenset()), 1)
    with pytest.raises(AssertionError, match="left"):
        await arena.run(replace(race, check=lambda left, turn: left["ayes"] == 2), 1)


async def test_a_claim_and_the_cancellation_of_its_mission(ground: Ground) -> None:
    """As operations.cancel does it: the mission first, then whatever of it is open."""
    api, executor = await ground.connect("api"), await ground.connect("executor")
    admin = await ground.of("admin")

    async def cancel(asked: Asked) -> str:
        async with ground.within("api", connection=api):
            await api.execute("SELECT 1 FROM mission WHERE id = $1 FOR NO KEY UPDATE", asked.mission)
            await api.execute("UPDATE mission SET state = 'cancelled', closed_at = now() WHERE id = $1", asked.mission)
            state: str = await api.fetchval(CLOSE, ground.tenant, asked.approval, "cancelled", ground.secrets["cora"])
            return state

    for _ in range(RACES):
        asked = await ground.approved()
        claimed, closed = await asyncio.gather(call(ground, executor, CLAIM, asked.writeback), cancel(asked))
        end = await left(admin, asked.approval)
        assert (claimed, closed, end.approval, end.executions) in {
            ("apply", "approved", "approved", 1), ("refused", "cancelled", "cancelled", 0),
        }  # fmt: skip
        if claimed == "apply":  # what left runs to its truth
            assert await ground.settle(asked, 1, "succeeded", asked.payload) is True


DECIDE = "SELECT outcome FROM decide($1, $2, $3, 1, $4, 'approve', '')"
CLOSE = "SELECT close_approval($1, $2, $3, $4)"
CLAIM = "SELECT outcome FROM claim($1, $2, interval '20 seconds')"


async def call(ground: Ground, connection: asyncpg.Connection, statement: str, *args: Any) -> str:
    async with ground.within("", connection=connection):
        answer: str = await connection.fetchval(statement, ground.tenant, *args)
        return answer


async def test_everybody_at_once_and_nobody_locks_another_out(ground: Ground) -> None:
    """Decisions, withdrawals, claims, settlements and the mission's own moves, all about one mission: no deadlock."""
    mission = await ground.mission()
    asked = [await ground.ask(mission=mission) for _ in range(RACES)]
    connections = {role: await ground.connect(role) for role in ("api", "worker", "executor")}
    second = await ground.connect("api")

    async def decide_all() -> None:
        for one in asked:
            await call(ground, connections["api"], DECIDE, one.approval, ground.secrets["anna"], one.sha256)

    async def close_some() -> None:
        for one in random.sample(asked, len(asked) // 2):
            await call(ground, connections["worker"], CLOSE, one.approval, "cancelled", None)

    async def execute() -> None:
        for one in [*asked, *asked]:
            outcome = await call(ground, connections["executor"], CLAIM, one.writeback)
            if outcome == "apply":
                settle = "SELECT settle($1, $2, 1, 'succeeded', NULL, $3)::text"
                assert await call(ground, connections["executor"], settle, one.writeback, one.payload) == "true"

    async def move_mission() -> None:
        fact = "INSERT INTO ledger (tenant, subject, type, actor, body) VALUES ($1, $2, 'mission.moved', 'system:api', '{}')"
        for number in range(len(asked)):
            async with ground.within("api", connection=second):
                await second.execute("SELECT 1 FROM mission WHERE id = $1 FOR NO KEY UPDATE", mission)
                await second.execute("UPDATE mission SET stage = $2 WHERE id = $1", mission, str(number))
                await second.execute(fact, ground.tenant, mission)
                await second.fetchval(CLOSE, ground.tenant, asked[number].approval, "expired", ground.secrets["cora"])

    await asyncio.wait_for(asyncio.gather(decide_all(), close_some(), execute(), move_mission()), 20)
    admin = await ground.of("admin")
    for one in asked:
        end = await left(admin, one.approval)
        assert end.executions == 0 or end.approval == "approved"
        assert (end.approval, len(end.verdicts), end.closed_facts) in {
            ("pending", 0, 0), ("approved", 1, 0), ("cancelled", 0, 1), ("cancelled", 1, 1),
        }  # fmt: skip


async def test_a_denied_tool_call_and_the_end_of_its_mission(world: World) -> None:
    """The denial is a fact, and a row whose reference to the mission is checked at commit: the two must not wait in a ring."""
    life = await under_way(world)
    caller = system(await demo(world), "api")
    async with world.root.database.write() as session:
        await session.enter(caller.tenant)
        await policy.decide(session, caller, "tool.call", "crm.read", {"access": "read"}, life.id)
        await ledger.record(session, caller, "tool.denied", life.id, tool="crm.read")
        cancelling = asyncio.create_task(life.end("cancel"))
        connection = await world.connect("admin")
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        while not await connection.fetchval(waiting):
            await asyncio.sleep(0.01)
    assert (await cancelling).status_code == 200
