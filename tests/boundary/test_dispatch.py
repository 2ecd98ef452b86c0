"""Offering missions to the colony: many in one call, each answered for itself, none lost and none offered twice over."""

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID

from fastapi import Request, Response

from app import boundary, work
from colony_client.contract import MAX_BODY_BYTES, DispatchAnswer, DispatchAnswers, DispatchBatch
from tests.world import World
from tests.world.checks import inspector
from tests.world.life import Life, begin, due, in_state


class Offers:
    """A colony that answers each mission as a test decides, and remembers every call."""

    def __init__(self, world: World, **answers: Any) -> None:
        self.world, self.batches, self.answers = world, list[DispatchBatch](), answers
        world.colony.answer = self

    def __call__(self, request: Request, body: bytes) -> Response:
        batch = DispatchBatch.model_validate_json(body)
        self.batches.append(batch)
        self.world.colony.dispatched.extend(batch.missions)
        return self.reply(batch)

    def reply(self, batch: DispatchBatch) -> Response:
        said = [
            DispatchAnswer(
                mission_id=one.mission_id,
                attempt=one.attempt,
                **self.answers.get(one.envelope.user_goal, {"outcome": "accepted"}),
            )
            for one in batch.missions
        ]
        return Response(DispatchAnswers(missions=said).model_dump_json(), media_type="application/json")

    def offered(self) -> Counter[tuple[UUID, int]]:
        return Counter((one.mission_id, one.attempt) for batch in self.batches for one in batch.missions)


async def test_many_missions_of_several_tenants_go_in_one_call(world: World) -> None:
    await world.another_tenant()
    offers = Offers(world)
    made = [await world.create() for _ in range(5)]
    body = {"mission_type": "oracle_advisory", "user_goal": "Is there a freeze?"}
    made += [(await world.other.post("/v1/missions", json=body)).json() for _ in range(3)]
    await world.run_work("dispatch")
    assert [len(batch.missions) for batch in offers.batches] == [8]
    assert offers.offered() == {(UUID(one["id"]), 1): 1 for one in made}
    tenants = Counter(one.envelope.tenant_id for one in offers.batches[0].missions)
    assert sorted(tenants.values()) == [3, 5]
    for one in made:
        assert await Life(world, UUID(one["id"])).state() == "dispatched"


async def test_each_mission_of_a_call_is_answered_for_itself(world: World) -> None:
    offers = Offers(
        world,
        refuse={"outcome": "refused", "reason": "no such kind of work here", "code": "unsupported"},
        busy={"outcome": "busy", "retry_after_s": 40},
    )
    accept, refuse, busy = [await begin(world, user_goal=goal) for goal in ("accept", "refuse", "busy")]
    await world.run_work("dispatch")
    assert len(offers.batches) == 1

    assert await accept.state() == "dispatched"
    row = await refuse.row()
    assert (row["state"], row["reason"], row["reason_note"]) == (
        "failed",
        "refused_by_colony",
        "no such kind of work here",
    )
    shown = await world.mission(busy.id)
    assert shown["state"] == "accepted"
    assert shown["degraded"]["code"] == "colony_busy" and shown["degraded"]["effect"] and shown["degraded"]["since"]
    assert ("mission.degraded", {"code": "colony_busy"}) in await busy.facts()
    wait = await (await inspector(world)).fetchval(
        "SELECT extract(epoch FROM next_at - clock_timestamp()) FROM work WHERE kind = 'dispatch' AND subject = $1",
        busy.id,
    )
    assert 35 < wait <= 40  # the colony's own Retry-After

    world.colony.answer = "accepted"
    await due(world, "dispatch", busy.id)
    await busy.take()
    await busy.complete()
    await world.run_work()
    assert (await world.mission(busy.id))["degraded"] is None
    assert await busy.state() == "completed"


async def test_an_attempt_is_offered_again_under_its_own_number_until_somebody_answers(world: World) -> None:
    """The colony took the mission and its answer was lost: the same attempt is offered again, not another one."""
    offers, life = Offers(world), await begin(world)
    honest = offers.reply
    offers.reply = lambda batch: Response("lost", 500)  # type: ignore[method-assign]
    for _ in range(2):
        await due(world, "dispatch", life.id)
        await life.take()
    offers.reply = honest  # type: ignore[method-assign]
    await due(world, "dispatch", life.id)
    await life.take()
    assert offers.offered() == {(life.id, 1): 3}
    assert (await life.row())["attempt"] == 1 and await life.state() == "dispatched"
    await world.make_due("dispatch")
    await world.run_work("dispatch")
    assert offers.offered() == {(life.id, 1): 3}, "a mission that was taken is not offered again"


async def test_two_workers_with_the_same_work_offer_one_attempt(world: World) -> None:
    """A worker that was slow comes back after its lease: it offers the same attempt again, and one move is made."""
    offers, life = Offers(world), await begin(world)
    [first], _ = await work.turn(world.worker.database, ["dispatch"], 10, world.root_lease())
    await due(world, "dispatch", life.id)
    [second], _ = await work.turn(world.worker.database, ["dispatch"], 10, world.root_lease())
    assert second.fence > first.fence
    colony = world.worker.colony
    await asyncio.gather(*(boundary.dispatch(world.worker.database, colony, [item]) for item in (first, second)))
    assert set(offers.offered()) == {(life.id, 1)}
    assert [type for type, _ in await life.facts("mission.dispatched")] == ["mission.dispatched"]
    rows = await (await inspector(world)).fetch("SELECT kind FROM work WHERE subject = $1", life.id)
    assert [row["kind"] for row in rows] == ["attempt_timer"]


async def test_what_ended_meanwhile_is_not_offered(world: World) -> None:
    offers, life = Offers(world), await begin(world)
    items, _ = await work.turn(world.worker.database, ["dispatch"], 10, world.root_lease())
    assert (await life.end("cancel")).status_code == 200
    await boundary.dispatch(world.worker.database, world.worker.colony, items)
    assert offers.batches == [] and await life.state() == "cancelled"


async def test_a_mission_cancelled_while_it_was_offered_stays_cancelled_and_the_colony_is_told(world: World) -> None:
    offers, life = Offers(world), await begin(world)
    honest = offers.reply

    class Slow(Response):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            assert (await life.end("cancel")).status_code == 200
            await super().__call__(scope, receive, send)

    offers.reply = lambda batch: Slow(honest(batch).body, media_type="application/json")  # type: ignore[method-assign]
    await world.run_work()
    assert await life.state() == "cancelled"
    assert world.colony.cancelled == [life.id]


async def test_a_callback_may_overtake_the_answer_to_its_dispatch(world: World) -> None:
    """The colony works faster than its answer travels, even up to the end of the attempt."""
    for word, reached in (([], "running"), ([{"type": "signal", "signal": "complete"}], "in_review")):
        offers, life = Offers(world), await begin(world)
        honest = offers.reply

        class Late(Response):
            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                world.colony.root.hold(life.id, 1, life.dispatch.mission_token)  # type: ignore[union-attr]  # noqa: B023
                await life.say(*word)  # noqa: B023
                await super().__call__(scope, receive, send)

        offers.reply = lambda batch: Late(honest(batch).body, media_type="application/json")  # type: ignore[method-assign]  # noqa: B023
        await world.run_work("dispatch")
        moves = [type for type, body in await life.facts("mission.") if "was" in body]
        assert moves[:2] == ["mission.dispatched", "mission.running"]
        assert await life.state() == reached
        assert len(offers.batches) == 1
        leases = (await life.row())["lease_until"]
        assert (leases is not None) == (reached == "running")


async def test_a_call_never_grows_beyond_the_contracts_body(world: World) -> None:
    """Missions whose envelopes together are larger than one request may be: they go in several, and all arrive."""
    definition = (await world.product_owner.get("/v1/mission-types/oracle_advisory")).json()
    own = {name: definition[name] for name in ("title", "description", "tools", "defaults", "limits", "review")}
    made = await world.product_owner.put("/v1/mission-types/bulky", json=own | {"inputs_schema": {"type": "object"}})
    assert made.status_code == 201, made.text
    offers = Offers(world)
    for number in range(33):
        body = {"mission_type": "bulky", "user_goal": "語" * 7_900, "inputs": {"text": "ä" * 118_000, "n": number}}
        await world.create(**body)
    await world.run_work("dispatch")
    sizes = [len(batch.model_dump_json().encode()) for batch in offers.batches]
    assert sum(sizes) > MAX_BODY_BYTES >= max(sizes)
    assert len(offers.offered()) == 33 and set(offers.offered().values()) == {1}
    states = await (await inspector(world)).fetch("SELECT DISTINCT state FROM mission")
    assert [row["state"] for row in states] == ["dispatched"]


async def test_a_dispatch_says_what_is_left_of_the_budget(world: World) -> None:
    life = await in_state(world, "running")
    await life.say({"type": "usage.reported", "tokens_in": 1_000, "tokens_out": 500, "cost_usd": 1.5})
    first = life.dispatch.budgets
    await life.lose_lease()
    await life.take()
    second = life.dispatch.budgets
    assert life.dispatch.attempt == 2
    assert second.tokens == first.tokens - 1_500
    assert second.cost_usd == first.cost_usd - 1.5
    assert 0 < second.time_ms < first.time_ms
