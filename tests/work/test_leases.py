"""The leased work table: durable, one holder at a time, taken over by time alone, and old holders change nothing."""

import asyncio
from collections import Counter
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from app import work
from app.clock import now
from app.db import Database
from app.missions import Held, hold_each
from app.work import KINDS, Item
from app.worker import VERBS
from tests.world import World
from tests.world.checks import inspector
from tests.world.life import begin, demo

LONG, GONE = timedelta(seconds=30), timedelta(0)  # a lease of no time is that of a holder that died


async def add(world: World, kind: str, subject: UUID, at: datetime | None = None, tenant: UUID | None = None) -> None:
    async with world.root.database.write() as session:
        await session.enter(tenant or await demo(world))
        await work.add(session, kind, subject, at=at)


async def add_for_executor(world: World, subject: UUID) -> None:
    """As the wall does it: no login adds the executor's work."""
    tenant, connection = await demo(world), await inspector(world)
    async with connection.transaction():
        await connection.execute("SELECT set_config('app.tenant', $1, true)", str(tenant))
        await connection.execute("SELECT want_work($1, 'execute', $2, 'executor', clock_timestamp())", tenant, subject)


async def take(world: World, *kinds: str, limit: int = 10, lease: timedelta = LONG) -> list[Item]:
    items, _ = await work.turn(world.worker.database, list(kinds) or ["review"], limit, lease)
    return items


async def next_due(world: World) -> datetime | None:
    """A look that takes nothing says only when."""
    _, due = await work.turn(world.worker.database, ["review"], 0, LONG)
    return due


async def finish(world: World, item: Item) -> bool:
    async with world.worker.database.write() as session:
        await session.enter(item.tenant)
        return await work.finish(session, item)


async def again(world: World, item: Item, at: datetime | None) -> bool:
    async with world.worker.database.write() as session:
        await session.enter(item.tenant)
        return await work.again(session, item, at)


async def row(world: World, item: Item) -> asyncpg.Record | None:
    return await (await inspector(world)).fetchrow(
        "SELECT *, next_at - clock_timestamp() AS wait FROM work WHERE tenant = $1 AND kind = $2 AND subject = $3",
        item.tenant,
        item.kind,
        item.subject,
    )


async def test_work_is_taken_once_and_gone_when_it_is_finished(world: World) -> None:
    subject = uuid4()
    await add(world, "review", subject)
    [item] = await take(world)
    assert item == Item(await demo(world), "review", subject, fence=1, wanted=1, attempts=1)
    assert await take(world) == []
    assert await finish(world, item)
    assert await row(world, item) is None


async def test_work_added_in_a_transaction_that_fails_was_never_added(world: World) -> None:
    with pytest.raises(RuntimeError):
        async with world.root.database.write() as session:
            await session.enter(await demo(world))
            await work.add(session, "review", uuid4())
            raise RuntimeError("after the add")
    assert await take(world) == []


async def test_work_waits_until_it_is_due(world: World) -> None:
    subject = uuid4()
    await add(world, "review", subject, now() + timedelta(hours=1))
    assert await take(world) == []
    due = await next_due(world)
    assert due is not None and timedelta(minutes=59) < due - now() <= timedelta(hours=1)
    await add(world, "review", subject)
    assert len(await take(world)) == 1


async def test_one_look_takes_what_is_due_and_says_when_the_next_will_be(world: World) -> None:
    subject, hour = uuid4(), now() + timedelta(hours=1)
    await add(world, "review", subject)
    await add(world, "progress", uuid4(), hour)
    await add(world, "dispatch", uuid4(), now() + timedelta(minutes=1))  # nobody asks for this one
    items, due = await work.turn(world.worker.database, ["review", "progress"], 10, LONG)
    assert [item.subject for item in items] == [subject]
    assert due is not None and timedelta(0) < due - now() <= LONG, "what it took is due again when its lease is over"
    assert await finish(world, items[0])
    assert await work.turn(world.worker.database, ["review", "progress"], 10, LONG) == ([], hour)
    assert await work.turn(world.worker.database, ["review"], 10, LONG) == ([], None)


async def test_more_than_a_look_may_take_is_due_at_once(world: World) -> None:
    for _ in range(3):
        await add(world, "review", uuid4())
    items, due = await work.turn(world.worker.database, ["review"], 2, LONG)
    assert len(items) == 2 and due is not None and due <= now()


async def test_adding_again_makes_no_second_row_and_the_earliest_time_wins(world: World) -> None:
    subject = uuid4()
    hour, minute = now() + timedelta(hours=1), now() + timedelta(minutes=1)
    for at in (hour, minute, hour):
        await add(world, "review", subject, at)
    rows = await (await inspector(world)).fetch("SELECT next_at, wanted FROM work WHERE subject = $1", subject)
    assert [(found["next_at"], found["wanted"]) for found in rows] == [(minute, 3)]


async def test_what_is_wanted_while_it_is_held_is_done_again(world: World) -> None:
    subject = uuid4()
    await add(world, "review", subject)
    [held] = await take(world)
    await add(world, "review", subject)
    assert await take(world) == [], "the wish does not take it away from its holder"
    assert await finish(world, held)
    [next_turn] = await take(world)
    assert (next_turn.wanted, next_turn.fence) == (2, 2)
    assert await finish(world, next_turn)
    assert await row(world, next_turn) is None


async def test_a_holder_that_gives_work_back_for_later_does_not_put_off_who_wanted_it_meanwhile(world: World) -> None:
    subject = uuid4()
    await add(world, "review", subject)
    [held] = await take(world)
    await add(world, "review", subject)
    assert await again(world, held, now() + timedelta(hours=1))
    assert len(await take(world)) == 1


async def test_work_given_back_is_due_when_its_holder_says(world: World) -> None:
    subject = uuid4()
    await add(world, "review", subject)
    [held] = await take(world)
    later = now() + timedelta(hours=1)
    assert await again(world, held, later)
    assert await take(world) == []
    found = await row(world, held)
    assert found is not None and (found["next_at"], found["lease_until"]) == (later, None)
    await add(world, "review", subject)
    [second] = await take(world)
    assert (second.fence, second.attempts) == (2, 1), "done for now: what it was tried before counts no more"
    assert await again(world, second, None)
    assert len(await take(world)) == 1, "given back for now: due at once"


class Alone:
    """How one item is taken and given back: by itself."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def wish(self, subject: UUID) -> None:
        await add(self.world, "review", subject)

    async def take(self) -> Item:
        [item] = await take(self.world)
        return item

    async def give_back(self, item: Item, done: bool, failed: bool) -> None:
        async with self.world.worker.database.write() as session:
            await session.enter(item.tenant)
            await (work.finish(session, item) if done else work.again(session, item, None, failed=failed))


class Together(Alone):
    """In one statement with others."""

    async def give_back(self, item: Item, done: bool, failed: bool) -> None:
        def become(held: Held, item: Item) -> None:
            held.finish(item) if done else held.again(item, None, failed=failed)

        await hold_each(self.world.worker.database, [item], become)


class ByTheExecutor(Alone):
    async def wish(self, subject: UUID) -> None:
        await add_for_executor(self.world, subject)

    async def take(self) -> Item:
        [item] = await work.take(self.world.executor().database, "execute", 1, LONG)
        return item

    async def give_back(self, item: Item, done: bool, failed: bool) -> None:
        await self.world.executor().finish(item, None if done else now(), failed=failed)


@pytest.mark.parametrize("way", [Alone, Together, ByTheExecutor])
async def test_attempts_are_those_since_it_was_last_done(world: World, way: type[Alone]) -> None:
    """So that what is done each minute for months is tried again soon when it first fails."""
    subject, by = uuid4(), way(world)
    await by.wish(subject)
    for outcome, attempts in (
        ("failed", 1), ("failed", 2), ("again", 3), ("again", 1), ("failed", 1), ("wanted meanwhile", 2), ("failed", 1), ("failed", 2),
    ):  # fmt: skip
        item = await by.take()
        assert item.attempts == attempts
        if outcome == "wanted meanwhile":
            await by.wish(subject)
        await by.give_back(item, done=outcome == "wanted meanwhile", failed=outcome == "failed")


async def test_a_dead_holders_work_goes_to_somebody_else_and_the_dead_changes_nothing(world: World) -> None:
    subject = uuid4()
    await add(world, "review", subject)
    [dead] = await take(world, lease=GONE)
    [alive] = await take(world)
    assert alive.subject == dead.subject and alive.fence == dead.fence + 1
    before = await row(world, alive)
    assert not await finish(world, dead)
    assert not await again(world, dead, now())
    after = await row(world, alive)
    assert before is not None and after is not None
    assert {**before, "wait": None} == {**after, "wait": None}
    assert await finish(world, alive)
    assert not await finish(world, dead) and not await again(world, dead, None)
    assert await row(world, alive) is None


async def test_a_lease_protects_its_holder_until_it_runs_out(world: World) -> None:
    await add(world, "review", uuid4())
    [item] = await take(world, lease=timedelta(milliseconds=150))
    assert await take(world) == []
    due = await next_due(world)
    assert due is not None and due > now() - timedelta(seconds=5)
    deadline = now() + timedelta(seconds=10)
    while not (taken := await take(world)) and now() < deadline:
        await asyncio.sleep(0.02)
    assert [one.fence for one in taken] == [item.fence + 1]


async def test_a_plan_made_for_an_empty_queue_takes_no_more_than_was_asked(world: World) -> None:
    database = await inspector(world)
    await database.execute("DELETE FROM work")
    await database.execute("VACUUM ANALYZE work")
    assert await take(world) == []
    tenant = await world.tenant()
    await database.execute(
        """INSERT INTO work (tenant, kind, subject, queue)
           SELECT $1, k, gen_random_uuid(), 'worker' FROM generate_series(1, 300), unnest('{review,progress}'::text[]) k""",
        tenant,
    )
    taken, _ = await work.turn(world.worker.database, ["review", "progress"], 7, timedelta(seconds=20))
    assert Counter(one.kind for one in taken) == {"review": 7, "progress": 7}
    assert await database.fetchval("SELECT count(*) FROM work WHERE lease_until IS NOT NULL") == 14


async def test_a_wish_taken_back_is_gone_for_its_holder_too(world: World) -> None:
    subject = uuid4()
    await add(world, "review", subject)
    [held] = await take(world)
    async with world.worker.database.write() as session:
        await session.enter(held.tenant)
        await work.drop(session, "review", subject)
    assert not await finish(world, held) and not await again(world, held, now())
    assert await take(world) == []


async def test_kinds_of_one_subject_are_work_of_their_own(world: World) -> None:
    subject = uuid4()
    for kind in ("review", "progress"):
        await add(world, kind, subject)
    [review] = await take(world, "review")
    assert review.kind == "review"
    assert await finish(world, review)
    assert [item.kind for item in await take(world, "progress")] == ["progress"]


async def test_the_oldest_is_taken_first_and_no_more_than_was_asked_for(world: World) -> None:
    subjects = [uuid4() for _ in range(7)]
    for place, subject in enumerate(subjects):
        await add(world, "review", subject, now() - timedelta(minutes=10 - place))
    first = await take(world, limit=3)
    assert {item.subject for item in first} == set(subjects[:3])
    assert {item.subject for item in await take(world, limit=50)} == set(subjects[3:])


async def test_a_worker_takes_for_every_tenant_and_nobody_reaches_into_anothers_work(world: World) -> None:
    await world.another_tenant()
    theirs = await (await inspector(world)).fetchval("SELECT id FROM tenant WHERE name = 'other'")
    ours = await demo(world)
    subject = uuid4()
    await add(world, "review", subject)
    await add(world, "review", subject, tenant=theirs)
    items = {item.tenant: item for item in await take(world)}
    assert set(items) == {ours, theirs}
    async with world.worker.database.write() as session:
        await session.enter(ours)
        assert not await work.finish(session, items[theirs])
        assert not await work.again(session, items[theirs], now())
        await work.drop(session, "review", subject)
        assert await session.scalar("SELECT count(*) FROM work") == 0
    assert await row(world, items[ours]) is None
    assert await row(world, items[theirs]) is not None


async def test_two_workers_at_once_never_hold_the_same_item(world: World) -> None:
    subjects = {uuid4() for _ in range(60)}
    for subject in subjects:
        await add(world, "review", subject)
    second = Database(world.url("worker"), pool_size=4)
    try:

        async def hoard(database: Database) -> list[Item]:
            held: list[Item] = []
            while taken := (await work.turn(database, ["review"], 5, LONG))[0]:
                assert len(taken) <= 5
                held += taken
            return held

        hoards = await asyncio.gather(*(hoard(one) for one in (world.worker.database, second) for _ in range(3)))
    finally:
        await second.close()
    held = Counter(item.subject for hoard in hoards for item in hoard)
    assert set(held) == subjects and set(held.values()) == {1}
    assert sum(1 for hoard in hoards if hoard) > 1, "one taker got everything: nothing was proved"


async def test_adding_and_finishing_at_once_never_loses_a_wish(world: World) -> None:
    """Whatever the order of an add and the finish of the holder: after the last add there is one more turn."""
    subject = uuid4()
    for _ in range(20):
        await add(world, "review", subject)
        [held] = await take(world)
        await asyncio.gather(finish(world, held), add(world, "review", subject))
        [next_turn] = await take(world)
        assert await finish(world, next_turn)
        assert await row(world, held) is None


async def test_a_slow_holders_verb_finds_the_work_done_and_does_not_do_it_twice(world: World) -> None:
    """Two workers end up with the same review, one after its lease: the mission is concluded once."""
    life = await begin(world)
    await life.take()
    await life.complete(proposals=1)
    [slow] = await take(world, lease=GONE)
    [quick] = await take(world)
    await asyncio.gather(*(world.worker.review([item]) for item in (slow, quick)))
    await world.worker.looked()
    assert await life.state() == "awaiting_approval"
    assert len(await life.facts("mission.reviewed")) == 1
    assert len(await life.writebacks()) == len(await life.approvals()) == 1
    assert await row(world, quick) is None


async def test_work_whose_verb_fails_comes_back_later_each_time(world: World) -> None:
    life = await begin(world)
    await life.take()
    await life.complete()
    connection = await inspector(world)
    await connection.execute("ALTER TABLE artifact RENAME TO hidden")
    waits = []
    for _ in range(3):
        await connection.execute("UPDATE work SET next_at = clock_timestamp() WHERE subject = $1", life.id)
        [item] = await take(world)
        await world.worker.review([item])
        found = await row(world, item)
        assert found is not None and found["lease_until"] is None
        waits.append(found["wait"])
    assert waits == sorted(waits) and waits[0] > timedelta(0)
    await connection.execute("ALTER TABLE hidden RENAME TO artifact")
    await world.make_due("review")
    await world.run_work()
    assert await life.state() == "completed"


# --- the two queues


async def test_the_worker_cannot_reach_the_executors_queue_nor_the_executor_the_workers(world: World) -> None:
    subject = uuid4()
    await add_for_executor(world, subject)
    await add(world, "review", subject)
    assert await take(world, "execute") == []
    executor = world.executor()
    for database, statement in (
        (world.worker.database, "SELECT * FROM take_executor_work(10, interval '1 second', '{}')"),
        (world.worker.database, "SELECT * FROM take_work('executor', ARRAY['execute'], 10, interval '1 second', '{}')"),
        (world.worker.database, "SELECT next_executor_work('execute', '{}')"),
        (executor.database, "SELECT * FROM take_worker_work(ARRAY['review'], 10, interval '1 second')"),
        (executor.database, "SELECT * FROM take_work('worker', ARRAY['review'], 10, interval '1 second', '{}')"),
        (executor.database, "SELECT next_worker_work('{dispatch}')"),
        (executor.database, "SELECT * FROM work"),
        (executor.database, "DELETE FROM work"),
        (world.root.database, "SELECT * FROM take_worker_work(ARRAY['review'], 10, interval '1 second')"),
        (world.root.database, "SELECT * FROM take_executor_work(10, interval '1 second', '{}')"),
    ):
        with pytest.raises(Exception, match="permission denied"):
            async with database.write() as session:
                await session.enter(await demo(world))
                await session.execute(statement)
    assert [item.kind for item in await work.take(executor.database, "execute", 10, LONG)] == ["execute"]
    assert [item.kind for item in await take(world)] == ["review"]


async def test_the_executor_ends_and_postpones_only_what_it_holds(world: World) -> None:
    subject = uuid4()
    executor = world.executor()

    async def give_back(item: Item, at: datetime | None, tenant: UUID | None = None, fence: int | None = None) -> Any:
        async with executor.database.write() as session:
            await session.enter(tenant or item.tenant)
            return await session.scalar(
                "SELECT finish_executor_work(:t, :s, :f, :w, CAST(:at AS timestamptz), false)",
                {
                    "t": item.tenant,
                    "s": item.subject,
                    "f": item.fence if fence is None else fence,
                    "w": item.wanted,
                    "at": at,
                },
            )

    await add_for_executor(world, subject)
    await add(world, "review", subject)
    [dead] = await work.take(executor.database, "execute", 1, GONE)
    [held] = await work.take(executor.database, "execute", 1, LONG)
    assert await give_back(dead, None) is False
    assert await give_back(held, now() + timedelta(hours=1)) is True
    assert await work.take(executor.database, "execute", 1, LONG) == []
    await add_for_executor(world, subject)
    [held] = await work.take(executor.database, "execute", 1, LONG)
    await add_for_executor(world, subject)
    assert await give_back(held, now() + timedelta(hours=1)) is True
    [wished] = await work.take(executor.database, "execute", 1, LONG)  # a wish meanwhile is not put off
    with pytest.raises(Exception, match=r"RX|tenant"):
        await give_back(wished, None, tenant=uuid4())
    assert await give_back(wished, None) is True
    kinds = await (await inspector(world)).fetch("SELECT kind FROM work WHERE subject = $1", subject)
    assert [one["kind"] for one in kinds] == ["review"]


def test_every_kind_of_work_has_a_queue_and_somebody_who_does_it() -> None:
    by_call = {
        "dispatch",
        "replay",
        "review",
        "attempt_timer",
        "colony_cancel",
        "webhook_send",
        "anchor",
        "tool_check",
        "retention",
        "release_check",
    }
    by_call |= {"liveness", "drills", "drill"}
    assert {kind for kind, queue in KINDS.items() if queue == "worker"} == set(VERBS) | by_call
    assert {kind for kind, queue in KINDS.items() if queue == "executor"} == {"execute", "connector_read"}
