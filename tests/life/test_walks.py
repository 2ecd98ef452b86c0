"""Random walks through a mission's doors and timers: whatever comes in whatever order, the books stay balanced."""

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app import ledger
from app.missions.moves import CLOSED, MOVES
from colony_client.errors import BoundaryError
from tests.world import World
from tests.world.checks import inspector
from tests.world.life import Life, begin, demo, due, stuck

WORKED = ("ask", "review", "progress", "colony_cancel")  # what a worker does at once, so that a walk may wait for it


async def decide_some(life: Life, verdict: Any) -> None:
    for approval in (await life.approvals())[:1]:
        await life.decide(verdict, approval)


async def outlive_some(life: Life) -> None:
    for approval in (await life.approvals())[:1] or (await life.approvals("approved"))[:1]:
        await life.outlive(approval["id"])


async def execute(life: Life, outcome: str) -> None:
    for writeback in await life.writebacks():
        if writeback["state"] in ("approved", "executing", "unknown"):
            claimed = await life.claim(writeback["id"])
            if claimed["outcome"] in ("apply", "reconcile"):
                assert await life.settle(claimed, writeback["id"], outcome)
            return


async def refuse(life: Life, answer: str) -> None:
    life.world.colony.answer = answer
    await due(life.world, "dispatch", life.id)
    await life.take()
    life.world.colony.answer = "accepted"


async def stays_silent(life: Life) -> None:
    life.world.colony.statuses.pop(life.id, None)
    await life.lose_lease()


async def says_it_is_working(life: Life) -> None:
    attempt = (await life.row())["attempt"]
    life.world.colony.statuses[life.id] = {"mission_id": str(life.id), "attempt": attempt, "state": "running"}
    await life.lose_lease()


async def takes_what_is_due(life: Life) -> None:
    await due(life.world, "dispatch", life.id)
    await life.take()


STEPS: dict[str, Callable[[Life], Awaitable[Any]]] = {
    "take": takes_what_is_due,
    "busy": lambda life: refuse(life, "busy"),
    "refuse": lambda life: refuse(life, "refused"),
    "heartbeat": lambda life: life.say(),
    "stage": lambda life: life.say({"type": "stage.started", "stage": "workers"}),
    "usage": lambda life: life.say({"type": "usage.reported", "tokens_in": 9, "tokens_out": 1, "cost_usd": 0.25}),
    "complete": lambda life: life.complete(),
    "complete and propose": lambda life: life.complete(proposals=2),
    "complete dishonestly": lambda life: life.complete(honest=False),
    "blocked": lambda life: life.signal("blocked"),
    "escalate": lambda life: life.signal("escalate"),
    "lease lost in silence": stays_silent,
    "lease lost at work": says_it_is_working,
    "deadline": Life.pass_deadline,
    "approve": lambda life: decide_some(life, "approve"),
    "reject": lambda life: decide_some(life, "reject"),
    "expire": outlive_some,
    **{outcome: lambda life, outcome=outcome: execute(life, outcome)  # type: ignore[misc]
       for outcome in ("succeeded", "failed", "stale", "unknown", "executing")},
    "cancel": lambda life: life.end("cancel"),
    "fail": lambda life: life.end("fail"),
}  # fmt: skip
FORWARD = ("take", "stage", "complete and propose", "approve", "approve", "succeeded", "failed")
BEGINNINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "asks first": {"mode": "autonomous", "risk_level": "medium"},
    "rehearsal": {"mode": "dry_run"},
}


@pytest.mark.long
@pytest.mark.anyio
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(beginning="plain", ahead=0, steps=["busy", "cancel"])
@example(beginning="asks first", ahead=0, steps=["approve", "take", "escalate", "approve", "take", "complete", "fail"])
@example(beginning="plain", ahead=4, steps=["reject", "succeeded", "expire", "unknown", "succeeded"])
@example(beginning="plain", ahead=6, steps=["cancel", "failed", "expire"])
@example(beginning="plain", ahead=4, steps=["unknown", "executing"])
@given(
    beginning=st.sampled_from(sorted(BEGINNINGS)),
    ahead=st.integers(0, len(FORWARD)),
    steps=st.lists(st.sampled_from(sorted(STEPS)), max_size=8),
)
async def test_invariants_hold_along_every_walk(world: World, beginning: str, ahead: int, steps: list[str]) -> None:
    """A walk begins on the straight path and leaves it; after every step the row, the ledger and the wall agree."""
    life = await begin(world, **BEGINNINGS[beginning])
    version = 1
    for step in (*FORWARD[:ahead], *steps):
        before = await life.state()
        with contextlib.suppress(BoundaryError, LookupError):  # refused, or nothing there to do it to
            await STEPS[step](life)
        await world.run_work(*WORKED)
        version = await balanced(life, before, version)
    async with world.root.database.read() as session:
        await session.enter(await demo(world))
        assert (await ledger.verify(session)).verified


async def balanced(life: Life, before: str, version: int) -> int:
    """The invariants of one mission; answers its version."""
    row, facts = await life.row(), await life.facts("mission.")
    moves = [(type.removeprefix("mission."), body) for type, body in facts if "cause" in body]
    state = "accepted"
    for to, body in moves:  # the ledger alone tells the same life as the row
        assert body["was"] == state and body["cause"] in MOVES[state, to], (state, to, body)  # type: ignore[index]
        state = to
    assert state == row["state"]
    assert before not in CLOSED or before == state, "a closed mission moved"
    assert row["version"] >= version and (row["version"] > version or before == state)
    assert (row["closed_at"] is not None) == (state in CLOSED)
    assert (row["lease_until"] is not None) == (state in ("dispatched", "running"))
    assert row["degraded"] is None or state == "accepted"

    writebacks = await life.writebacks()
    assert row["writebacks"] == dict(Counter(one["state"] for one in writebacks)), "the tally is not the writebacks'"
    pending = {str(approval["id"]) for approval in await life.approvals()}
    assert {str(one) for one in row["pending_approvals"]} == pending
    if state in CLOSED:
        assert not pending and not any(one["state"] == "approved" for one in writebacks), "something could still leave"
    connection = await inspector(life.world)
    used = await connection.fetchval(
        """SELECT COALESCE(sum((convert_from(body, 'UTF8')::json ->> 'tokens_in')::int
                             + (convert_from(body, 'UTF8')::json ->> 'tokens_out')::int), 0)
           FROM ledger WHERE subject = $1 AND type = 'usage.reported'""",
        life.id,
    )
    assert row["used_tokens"] == used
    assert await stuck(life.world) == []
    return int(row["version"])
