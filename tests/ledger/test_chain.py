"""The chain of facts under concurrency: no gaps, verifiable anywhere, and an order in which no reader loses a fact."""

import asyncio
import hashlib
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ledger.test_facts import BENT
from tests.walls.ground import Ground

WRITE = """INSERT INTO ledger (tenant, subject, type, actor, body) VALUES ($1, $2, $3,
  CASE session_user WHEN 'mission_root_worker' THEN 'system:worker' ELSE 'system:api' END, $4)"""
READ = """SELECT tenant, xid::text::numeric::bigint AS xid, id, subject, seq, type, actor, at, body, prev, hash FROM ledger
          WHERE tenant = $1 ORDER BY xid, id"""


def hashed(fact: Any) -> bytes:
    """The hash as anybody can redo it from the stored fields, without Postgres."""
    at = fact["at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    line = "|".join(str(fact[name]) for name in ("tenant", "subject", "seq", "type", "actor")) + f"|{at}\n"
    return hashlib.sha256(fact["prev"] + line.encode() + fact["body"]).digest()


def check_chains(facts: list[Any]) -> None:
    """Given in reading order: each subject's facts come in order, without a gap, each linked to the one before."""
    last: dict[UUID, Any] = {}
    for fact in facts:
        before = last.get(fact["subject"])
        assert fact["seq"] == (before["seq"] + 1 if before else 1)
        assert fact["prev"] == (before["hash"] if before else b"")
        assert fact["hash"] == hashed(fact)
        last[fact["subject"]] = fact


async def facts_of(ground: Ground) -> list[Any]:
    return await ground.run("auditor", READ, ground.tenant)


# A plan is what several writers do in turn: (writer, subject), or (writer, None) to commit.
plans = st.lists(st.tuples(st.integers(0, 3), st.one_of(st.none(), st.integers(0, 2))), min_size=4, max_size=30)


async def test_any_interleaving_of_writers_keeps_every_chain(ground: Ground) -> None:
    writers = [await ground.connect("api" if number % 2 else "worker") for number in range(4)]

    async def interleave(plan: list[tuple[int, int | None]]) -> list[Any]:
        subjects, queues = (
            [uuid4() for _ in range(3)],
            [[subject for w, subject in plan if w == writer] for writer in range(4)],
        )

        async def write(writer: int, mine: list[int | None]) -> None:
            """Its steps in the plan's order; between the writers the event loop and the locks decide."""
            connection, open_ = writers[writer], None
            for subject in mine:
                if subject is None or open_ is None:
                    if open_ is not None:
                        await open_.commit()
                    open_ = connection.transaction()
                    await open_.start()
                    await connection.execute("SELECT set_config('app.tenant', $1, true)", str(ground.tenant))
                if subject is not None:
                    try:
                        await connection.execute(
                            WRITE, ground.tenant, subjects[subject], f"test.step_{'abcd'[writer]}", b"{}"
                        )
                    except asyncpg.DeadlockDetectedError:
                        await open_.rollback()
                        open_ = None
                await asyncio.sleep(0)
            if open_ is not None:
                await open_.commit()

        await asyncio.gather(*(write(writer, mine) for writer, mine in enumerate(queues)))
        return [fact for fact in await facts_of(ground) if fact["subject"] in subjects]

    loop = asyncio.get_running_loop()
    done: list[list[Any]] = []

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(plans)
    def every(plan: list[tuple[int, int | None]]) -> None:
        facts = asyncio.run_coroutine_threadsafe(interleave(plan), loop).result(20)
        check_chains(facts)
        done.append(facts)

    await asyncio.to_thread(every)
    assert any(len({fact["xid"] for fact in facts}) < len(facts) > 1 for facts in done)


async def test_a_reader_that_pages_below_the_horizon_loses_nothing(ground: Ground) -> None:
    """Six writers of one and of several facts; the reader follows while they write and sees every fact, once, in order."""
    subjects = [uuid4() for _ in range(5)]
    writers = [await ground.connect("api") for _ in range(6)]
    reader = await ground.connect("reader")
    writing = [True]
    seen: list[Any] = []

    async def write(number: int, connection: asyncpg.Connection) -> None:
        for turn in range(25):
            async with ground.within("api", connection=connection):
                for subject in sorted({subjects[(number + turn) % 5], subjects[(number * 3 + turn) % 5]}):
                    await connection.execute(WRITE, ground.tenant, subject, "test.written", b'{"n":1}')

    async def follow() -> None:
        at: tuple[str, int] = ("0", 0)
        while True:
            last_round = not writing[0]
            page = await reader.fetch("SELECT *, xid::text AS x FROM read_ledger($1::text::xid8, $2, 50)", *at)
            seen.extend(fact for fact in page if fact["tenant"] == ground.tenant)
            if page:
                at = (page[-1]["x"], page[-1]["id"])
            elif last_round:
                return
            await asyncio.sleep(0)

    following = asyncio.create_task(follow())
    await asyncio.gather(*(write(number, connection) for number, connection in enumerate(writers)))
    writing[0] = False
    await following
    stored = await facts_of(ground)
    assert len(stored) >= 150
    assert [(fact["subject"], fact["seq"]) for fact in seen] == [(fact["subject"], fact["seq"]) for fact in stored]
    check_chains(stored)


async def test_facts_of_one_subject_queue_up_until_commit(ground: Ground) -> None:
    subject, other = uuid4(), uuid4()
    first, second = await ground.connect("api"), await ground.connect("api")
    async with ground.within("api", connection=first):
        await first.execute(WRITE, ground.tenant, subject, "test.first", b"{}")
        async with ground.within("api", connection=second):
            await second.execute(WRITE, ground.tenant, other, "test.other", b"{}")  # another subject does not wait
        with pytest.raises(asyncpg.LockNotAvailableError):
            async with ground.within("api", connection=second):
                await second.execute("SET LOCAL lock_timeout = '50ms'")
                await second.execute(WRITE, ground.tenant, subject, "test.second", b"{}")
    async with ground.within("api", connection=second):
        await second.execute(WRITE, ground.tenant, subject, "test.second", b"{}")
    assert [f["type"] for f in await facts_of(ground) if f["subject"] == subject] == ["test.first", "test.second"]


async def test_a_fact_taken_back_leaves_no_gap(ground: Ground) -> None:
    subject = uuid4()
    api = await ground.of("api")
    for taken_back in (False, True, True, False):
        transaction = api.transaction()
        await transaction.start()
        await api.execute("SELECT set_config('app.tenant', $1, true)", str(ground.tenant))
        await api.execute(WRITE, ground.tenant, subject, "test.said", b"{}")
        await (transaction.rollback() if taken_back else transaction.commit())
    facts = [fact for fact in await facts_of(ground) if fact["subject"] == subject]
    assert [fact["seq"] for fact in facts] == [1, 2]
    check_chains(facts)


async def test_a_transaction_older_than_its_predecessor_reads_after_it(ground: Ground) -> None:
    """The older transaction writes last: by its own id it would land before what its chain says came first."""
    subject = uuid4()
    older, younger = await ground.connect("api"), await ground.connect("api")
    async with ground.within("api", connection=older):
        await older.execute(WRITE, ground.tenant, uuid4(), "test.elsewhere", b"{}")  # takes its transaction id now
        async with ground.within("api", connection=younger):
            await younger.execute(WRITE, ground.tenant, subject, "test.first", b"{}")
        await older.execute(WRITE, ground.tenant, subject, "test.second", b"{}")
    facts = [fact for fact in await facts_of(ground) if fact["subject"] == subject]
    assert [fact["type"] for fact in facts] == ["test.first", "test.second"]
    check_chains(facts)


async def test_a_sessions_own_settings_do_not_bend_the_chain(ground: Ground) -> None:
    subject = uuid4()
    api = await ground.connect("api")
    for setting in BENT:
        await api.execute(f"SET {setting}")
    for _ in range(3):
        async with ground.within("api", connection=api):
            await api.execute(WRITE.replace("ledger", "public.ledger"), ground.tenant, subject, "test.said", b"{}")
    facts = [fact for fact in await facts_of(ground) if fact["subject"] == subject]
    assert len(facts) == 3
    check_chains(facts)
