"""Every arrow of the mission's life, driven through the doors that the product has; and nothing beside the arrows."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, get_args
from uuid import UUID

import asyncpg
import pytest

from app import ledger, work
from app.approvals.models import ApprovalState, DecisionAsk
from app.caller import system
from app.errors import Problem
from app.missions import moves
from app.missions.moves import CLOSED, FROM, MOVES, OPEN, STATES, move
from app.operations.api import router as operator_routes
from colony_client.contract import Signal
from colony_client.errors import BoundaryError, Superseded
from tests.world import World
from tests.world.checks import inspector
from tests.world.life import OPEN as ORDER
from tests.world.life import Life, approve_all, asked_at_intake, begin, demo, escalated, give_guide, in_state

Arrow = tuple[str, str, str]
Start = Callable[[World], Awaitable[Life]]
ARROWS: set[Arrow] = {(was, to, cause) for (was, to), causes in MOVES.items() for cause in causes}

# Where every cause comes from. Names on the left are all the contract's signals, all ways an approval can end, all
# timers and other work, and all operator verbs; an empty tuple says that it moves no mission by itself.
SIGNALS = {
    "continue": (),
    "checkpoint": (),
    "complete": ("complete",),
    "blocked": ("blocked",),
    "escalate": ("escalate",),
}
VERDICTS = {"approve": ("approved", "decided"), "reject": ("rejected", "settled")}
CLOSINGS = {
    "pending": (), "approved": VERDICTS["approve"], "rejected": VERDICTS["reject"], "expired": ("expired", "settled"),
    "cancelled": (),
}  # fmt: skip
DUTIES = {
    "ask": ("policy_asks",), "dispatch": ("dispatch", "refused", "time_budget"),
    "attempt_timer": ("lease_lost", "attempts", "time_budget"), "review": ("reviewed", "proposals", "review"),
    "progress": ("settled", "asked_again"), "approval_timer": CLOSINGS["expired"], "colony_cancel": (), "execute": (),
    "webhook_send": (), "anchor": (), "connector_read": (), "replay": ("replay",), "tool_check": (), "retention": (),
    "release_check": (),
    "liveness": (), "drills": (), "drill": (),
}  # fmt: skip
VERBS = {
    "cancelMission": ("operator",), "failMission": ("operator",), "redispatchMission": ("redispatch",), "extendMission": (),
}  # fmt: skip
COLONY_SPEAKS = ("first_event",)


def at(state: str) -> Start:
    async def start(world: World) -> Life:
        return await in_state(world, state)

    return start


async def weak_review(world: World) -> Life:
    life = await in_state(world, "running")
    await life.complete(honest=False)
    return life


async def clean_review(world: World) -> Life:
    life = await in_state(world, "running")
    await life.complete()
    return life


async def all_claimed_and_done(life: Life) -> None:
    for writeback in await life.writebacks():
        await life.settle(await life.claim(writeback["id"]), writeback["id"], "succeeded")
    await life.world.run_work("progress")


async def all_claimed_and_stale(life: Life) -> None:
    for writeback in await life.writebacks():
        await life.settle(await life.claim(writeback["id"]), writeback["id"], "stale")
    await life.world.run_work("progress")


async def revises_one(life: Life) -> None:
    [approval, *_] = await life.approvals("approved")
    answer = await life.world.operator.post(
        f"/v1/approvals/{approval['id']}/revisions",
        json={
            "payload_sha256": approval["payload_sha256"],
            "changes": {"status": "other"},
            "reason": "as the test says",
        },
        headers={"If-Match": f'"v{approval["version"]}"'},
    )
    assert answer.status_code == 201, answer.text


async def rejects_all(life: Life) -> None:
    for approval in await life.approvals():
        assert (await life.decide("reject", approval)).status_code == 201


async def refused_by_colony(life: Life) -> None:
    life.world.colony.answer = "refused"
    await life.take()
    life.world.colony.answer = "accepted"


async def last_attempt_is_lost(life: Life) -> None:
    life.world.worker.colony.max_attempts = 1
    await life.lose_lease()
    life.world.worker.colony.max_attempts = 4


async def waiting_again(world: World) -> Life:
    """Accepted for the second time: the clock of its time budget runs."""
    life = await in_state(world, "running")
    await life.lose_lease()
    return life


async def replayed(world: World, **how: Any) -> Life:
    """A replay of a mission whose colony looked at something before it said anything."""
    life = await in_state(world, "dispatched")
    await give_guide(world)
    await world.colony.tool(life.dispatch, "workspace.search", query="rollback release", limit=5)
    await life.end("cancel")
    answer = await world.submitter.post(f"/v1/missions/{life.id}/replay", json={"mode": "recorded", **how})
    assert answer.status_code == 202, answer.text
    return Life(world, UUID(answer.json()["id"]))


async def replayed_live(world: World) -> Life:
    life = await replayed(world, colony="live")
    await life.take()
    return life


async def replayed_live_and_running(world: World) -> Life:
    life = await replayed_live(world)
    await life.say()
    return life


async def is_denied_now(life: Life) -> None:
    rule = '@id("no_search.here") @reason("A test.") forbid(principal, action == Action::"tool.call", resource);'
    put = await life.world.policy_owner.put("/v1/policies/no_search", json={"text": rule})
    assert put.status_code in (200, 201), put.text
    await life.world.run_work("replay")
    gone = await life.world.policy_owner.delete("/v1/policies/no_search", headers={"If-Match": put.headers["etag"]})
    assert gone.status_code == 200, gone.text


async def leaves_its_tape(life: Life) -> None:
    with pytest.raises(Superseded):
        await life.world.colony.tool(life.dispatch, "workspace.search", query="something else", limit=5)


async def outlive_pending(life: Life) -> None:
    await life.outlive((await life.approvals())[0]["id"])


def verb(name: Any) -> Callable[[Life], Awaitable[Any]]:
    async def drive(life: Life) -> None:
        assert (await life.end(name)).status_code == 200

    return drive


DRIVERS: dict[Arrow, list[tuple[Start, Callable[[Life], Awaitable[Any]]]]] = {
    ("accepted", "dispatched", "dispatch"): [(at("accepted"), Life.take), (waiting_again, Life.take)],
    ("accepted", "awaiting_approval", "policy_asks"): [
        (lambda world: begin(world, mode="autonomous", risk_level="high"), lambda life: life.world.run_work("ask"))
    ],
    ("accepted", "failed", "refused"): [(at("accepted"), refused_by_colony)],
    ("accepted", "failed", "time_budget"): [(waiting_again, Life.pass_deadline)],
    ("dispatched", "running", "first_event"): [
        (at("dispatched"), Life.say),
        (at("dispatched"), lambda life: life.say({"type": "stage.started", "stage": "planner"})),
    ],
    ("dispatched", "accepted", "lease_lost"): [(at("dispatched"), Life.lose_lease)],
    ("running", "accepted", "lease_lost"): [(at("running"), Life.lose_lease)],
    ("dispatched", "accepted", "redispatch"): [(at("dispatched"), verb("redispatch"))],
    ("running", "accepted", "redispatch"): [(at("running"), verb("redispatch"))],
    ("running", "in_review", "complete"): [(at("running"), lambda life: life.signal("complete"))],
    ("running", "awaiting_approval", "escalate"): [(at("running"), lambda life: life.signal("escalate"))],
    ("running", "failed", "blocked"): [(at("running"), lambda life: life.signal("blocked"))],
    ("in_review", "completed", "reviewed"): [(clean_review, lambda life: life.world.run_work("review"))],
    ("in_review", "awaiting_approval", "proposals"): [(at("in_review"), lambda life: life.world.run_work("review"))],
    ("in_review", "failed", "review"): [(weak_review, lambda life: life.world.run_work("review"))],
    ("awaiting_approval", "accepted", "approved"): [
        (asked_at_intake, lambda life: life.decide("approve")),
        (escalated, lambda life: life.decide("approve")),
    ],
    ("awaiting_approval", "executing", "decided"): [(at("awaiting_approval"), approve_all)],
    ("awaiting_approval", "completed", "settled"): [(at("awaiting_approval"), rejects_all)],
    ("awaiting_approval", "denied", "rejected"): [(asked_at_intake, lambda life: life.decide("reject"))],
    ("awaiting_approval", "denied", "expired"): [(asked_at_intake, outlive_pending)],
    ("awaiting_approval", "failed", "rejected"): [(escalated, lambda life: life.decide("reject"))],
    ("awaiting_approval", "failed", "expired"): [(escalated, outlive_pending)],
    ("executing", "completed", "settled"): [(at("executing"), all_claimed_and_done)],
    ("executing", "awaiting_approval", "asked_again"): [
        (at("executing"), all_claimed_and_stale),
        (at("executing"), revises_one),
    ],
    **{(state, "cancelled", "operator"): [(at(state), verb("cancel"))] for state in OPEN},
    **{(state, "failed", "operator"): [(at(state), verb("fail"))] for state in OPEN},
    **{(state, "failed", "attempts"): [(at(state), last_attempt_is_lost)] for state in ("dispatched", "running")},
    **{(state, "failed", "time_budget"): [(at(state), Life.pass_deadline)] for state in ("dispatched", "running")},
    ("accepted", "failed", "replay"): [(replayed, is_denied_now)],
    ("dispatched", "failed", "replay"): [(replayed_live, leaves_its_tape)],
    ("running", "failed", "replay"): [(replayed_live_and_running, leaves_its_tape)],
}


def test_every_arrow_has_a_driver_and_every_driver_an_arrow() -> None:
    assert set(DRIVERS) == ARROWS


def test_everything_that_happens_to_missions_has_an_arrow_and_every_arrow_something_that_happens() -> None:
    assert set(SIGNALS) == set(get_args(Signal.model_fields["signal"].annotation))
    assert set(VERDICTS) == set(get_args(DecisionAsk.model_fields["decision"].annotation))
    assert set(CLOSINGS) == set(get_args(ApprovalState))
    assert set(DUTIES) == set(work.KINDS)
    assert set(VERBS) == {route.operation_id for route in operator_routes.routes if "POST" in route.methods}  # type: ignore[attr-defined]
    named = {
        cause for table in (SIGNALS, VERDICTS, CLOSINGS, DUTIES, VERBS) for causes in table.values() for cause in causes
    }
    assert named | set(COLONY_SPEAKS) == {cause for _, _, cause in ARROWS}


def test_the_drawing_shows_every_state_and_nothing_leaves_a_closed_one() -> None:
    drawing = moves.__doc__ or ""
    assert [state for state in STATES if state not in drawing] == []
    assert [arrow for arrow in ARROWS if arrow[0] in CLOSED] == []
    assert {arrow[0] for arrow in ARROWS} == OPEN  # an open state without a way out would be a trap


async def test_every_arrow_moves_by_its_door_and_leaves_its_fact(world: World) -> None:
    for arrow in sorted(ARROWS):
        was, to, cause = arrow
        for start, drive in DRIVERS[arrow]:
            life = await start(world)
            before, told = await life.row(), len(await life.facts("mission."))
            assert before["state"] == was, arrow
            await drive(life)
            after, new = await life.row(), (await life.facts("mission."))[told:]
            moved = [(type, body["was"], body["cause"], body["attempt"]) for type, body in new if "cause" in body]
            another = to == "accepted" and before["deadline_at"] is not None  # what ran before begins anew
            assert moved[0] == (f"mission.{to}", was, cause, before["attempt"] + another), (arrow, moved)
            assert after["state"] == moved[-1][0].removeprefix("mission."), arrow
            assert after["version"] > before["version"], arrow
            assert (after["closed_at"] is not None) == (after["state"] in CLOSED)
    async with world.root.database.read() as session:
        await session.enter(await demo(world))
        assert (await ledger.verify(session)).verified


def closed_by(arrow: Arrow) -> Start:
    async def start(world: World) -> Life:
        begun, drive = DRIVERS[arrow][0]
        life = await begun(world)
        await drive(life)
        return life

    return start


REACH: dict[str, Start] = {
    "completed": closed_by(("in_review", "completed", "reviewed")),
    "failed": closed_by(("running", "failed", "blocked")),
    "cancelled": closed_by(("running", "cancelled", "operator")),
    "denied": closed_by(("awaiting_approval", "denied", "rejected")),
    **{state: at(state) for state in reversed(ORDER)},
}


async def every_state(world: World) -> dict[str, Life]:
    """One mission in every state; those that due work would move on come last."""
    reached = {state: await start(world) for state, start in REACH.items()}
    assert {state: await life.state() for state, life in reached.items()} == {state: state for state in STATES}
    return reached


async def snapshot(life: Life) -> tuple[dict[str, Any], int, list[Any]]:
    waits = await (await inspector(life.world)).fetch("SELECT * FROM work WHERE subject = $1 ORDER BY kind", life.id)
    return await life.row(), len(await life.facts()), waits


async def test_what_is_not_in_the_table_is_refused_and_changes_nothing(world: World) -> None:
    """Every (state, cause, new state) beside the table, generated from it, against a real row in that state."""
    lives, tenant = await every_state(world), await demo(world)
    for state, life in lives.items():
        before = await snapshot(life)
        for key, allowed in FROM.items():
            if state in allowed:
                continue
            cause, _, to = key.partition(">")
            with pytest.raises(Problem) as refused:
                async with world.worker.database.write() as session:
                    await session.enter(tenant)
                    await move(session, system(tenant, "worker"), life.id, to, cause, reason="beside the table")  # type: ignore[arg-type]
            assert refused.value.code == "wrong_state", (state, key)
            assert refused.value.members["current"] == {"id": str(life.id), "state": state}
        assert await snapshot(life) == before, state


async def test_a_move_nobody_drew_is_a_bug_and_an_absent_mission_is_not_found(world: World) -> None:
    tenant, life = await demo(world), await in_state(world, "accepted")
    stranger = await world.another_tenant()
    async with world.worker.database.write() as session:
        await session.enter(tenant)
        with pytest.raises(KeyError):
            await move(session, system(tenant, "worker"), life.id, "completed", "dispatch")
        with pytest.raises(Problem, match="not_found"):
            await move(session, system(tenant, "worker"), tenant, "dispatched", "dispatch")
    theirs = await (await inspector(world)).fetchval("SELECT id FROM tenant WHERE name = $1", stranger.name)
    async with world.worker.database.write() as session:
        await session.enter(theirs)
        with pytest.raises(Problem, match="not_found"):
            await move(session, system(theirs, "worker"), life.id, "dispatched", "dispatch")
    assert await life.state() == "accepted"


DOORS: dict[str, tuple[tuple[str, ...], Callable[[Life], Awaitable[Any]]]] = {
    "heartbeat": (COLONY_SPEAKS, Life.say),
    "stage": (COLONY_SPEAKS, lambda life: life.say({"type": "stage.started", "stage": "planner"})),
    **{
        name: (COLONY_SPEAKS + causes, lambda life, name=name: life.signal(name))  # type: ignore[misc]
        for name, causes in SIGNALS.items()
    },
    "lease": (DUTIES["attempt_timer"], Life.lose_lease),
    "deadline": (DUTIES["attempt_timer"] + DUTIES["dispatch"], Life.pass_deadline),
    "cancel": (VERBS["cancelMission"], lambda life: life.end("cancel")),
    "fail": (VERBS["failMission"], lambda life: life.end("fail")),
    "approve": (VERDICTS["approve"], lambda life: life.decide("approve")),
    "reject": (VERDICTS["reject"], lambda life: life.decide("reject")),
    **{
        kind: (DUTIES[kind], lambda life, kind=kind: force(life, kind))  # type: ignore[misc]
        for kind in ("ask", "dispatch", "attempt_timer", "review", "progress", "colony_cancel")
    },
}


async def force(life: Life, kind: str) -> None:
    """Work of a kind is added and done although nothing asked for it: what a stale or repeated item would do."""
    async with life.world.worker.database.write() as session:
        await session.enter(await demo(life.world))
        await work.add(session, kind, life.id)
    await life.world.run_work(kind)


async def test_every_door_leaves_a_mission_alone_in_the_states_it_has_no_arrow_from(world: World) -> None:
    """Doors × states: whatever comes, in whatever state, the mission moves along an arrow or not at all."""
    for state in STATES:
        tried: Life | None = None
        for name, (causes, door) in DOORS.items():
            if any(arrow[0] == state and arrow[2] in causes for arrow in ARROWS):
                continue
            tried = tried or await REACH[state](world)
            told = await tried.facts("mission.")
            # refused aloud, or there is no attempt or approval to speak of: as good as silence
            with contextlib.suppress(BoundaryError, LookupError):
                await door(tried)
            assert await tried.state() == state, (state, name)
            assert await tried.facts("mission.") == told, (state, name)


async def test_postgres_itself_keeps_a_closed_mission_where_it_is(world: World) -> None:
    lives = await every_state(world)
    for role_name in ("worker", "api"):
        connection = await world.connect(role_name)
        for state in CLOSED:
            for to in set(STATES) - {state}:
                with pytest.raises(asyncpg.PostgresError) as refused:
                    async with connection.transaction():
                        await connection.execute("SELECT set_config('app.tenant', $1, true)", str(await demo(world)))
                        await connection.execute("UPDATE mission SET state = $2 WHERE id = $1", lives[state].id, to)
                assert refused.value.sqlstate == "RX004", (role_name, state, to)
    with pytest.raises(asyncpg.PostgresError, match=r"append-only|does not|refuse|wall"):
        await (await inspector(world)).execute("DELETE FROM mission WHERE id = $1", lives["completed"].id)
    assert {name: await life.state() for name, life in lives.items()} == {name: name for name in STATES}
