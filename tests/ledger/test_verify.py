"""verify() finds what a superuser with the triggers off has done to the rows, and names the first bad one."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from app import ledger
from app.db import Database
from tests.walls.ground import Ground

Tamper = Callable[[asyncpg.Connection, UUID, UUID], Awaitable[Any]]
HASH = "fact_hash(prev, tenant, subject, seq, type, actor, at, body)"


async def verdict(ground: Ground) -> ledger.Verdict:
    database = Database(ground.url("api"), pool_size=1)
    try:
        async with database.read() as session:
            await session.enter(ground.tenant)
            return await ledger.verify(session)
    finally:
        await database.close()


async def told(ground: Ground) -> tuple[UUID, UUID]:
    """Two subjects with six facts each, told in turn."""
    first, second = uuid4(), uuid4()
    for number in range(6):
        for subject in (first, second):
            await ground.run(
                "api",
                "INSERT INTO ledger (tenant, subject, type, actor, body) VALUES ($1, $2, $3, 'system:api', $4)",
                ground.tenant, subject, f"test.step_{'abcdef'[number]}", b'{"n":%d}' % number,
            )  # fmt: skip
    return first, second


def edit(change: str, seq: int = 3) -> Tamper:
    return lambda admin, one, _: admin.execute(f"UPDATE ledger SET {change} WHERE subject = $1 AND seq = {seq}", one)


async def delete(admin: asyncpg.Connection, one: UUID, _: UUID) -> None:
    await admin.execute("DELETE FROM ledger WHERE subject = $1 AND seq = 3", one)


async def delete_and_close_up(admin: asyncpg.Connection, one: UUID, _: UUID) -> None:
    await delete(admin, one, _)
    await admin.execute("UPDATE ledger SET seq = -seq WHERE subject = $1 AND seq > 3", one)
    await admin.execute("UPDATE ledger SET seq = -seq - 1 WHERE subject = $1 AND seq < 0", one)


async def delete_the_first(admin: asyncpg.Connection, one: UUID, _: UUID) -> None:
    await admin.execute("DELETE FROM ledger WHERE subject = $1 AND seq = 1", one)


async def swap(admin: asyncpg.Connection, one: UUID, _: UUID) -> None:
    for was, now in ((3, 99), (4, 3), (99, 4)):
        await admin.execute(f"UPDATE ledger SET seq = {now} WHERE subject = $1 AND seq = {was}", one)


async def swap_bodies(admin: asyncpg.Connection, one: UUID, _: UUID) -> None:
    await admin.execute(
        """UPDATE ledger l SET body = o.body FROM ledger o
           WHERE l.subject = $1 AND o.subject = $1 AND l.seq IN (3, 4) AND o.seq = 7 - l.seq""",
        one,
    )


async def insert(admin: asyncpg.Connection, one: UUID, _: UUID) -> None:
    """Between the second and the third, with a hash of its own that fits."""
    await admin.execute("UPDATE ledger SET seq = -seq - 1 WHERE subject = $1 AND seq >= 3", one)
    await admin.execute("UPDATE ledger SET seq = -seq WHERE subject = $1 AND seq < 0", one)
    await admin.execute(
        f"""INSERT INTO ledger (tenant, xid, id, subject, seq, type, actor, at, body, prev, hash)
            SELECT tenant, xid, nextval('ledger_id'), subject, 3, 'test.forged', actor, at, body, hash,
              {HASH.replace("prev", "hash", 1).replace("seq", "3", 1).replace("type", "'test.forged'", 1)}
            FROM ledger WHERE subject = $1 AND seq = 2""",
        one,
    )


async def relink(admin: asyncpg.Connection, one: UUID, _: UUID) -> None:
    """Edited, and its own hash made to fit: the next fact still says what stood there."""
    await admin.execute("UPDATE ledger SET body = '{\"n\":7}' WHERE subject = $1 AND seq = 2", one)
    await admin.execute(f"UPDATE ledger SET hash = {HASH} WHERE subject = $1 AND seq = 2", one)


async def move_to_another_subject(admin: asyncpg.Connection, one: UUID, other: UUID) -> None:
    await admin.execute("UPDATE ledger SET seq = 7, subject = $2 WHERE subject = $1 AND seq = 6", one, other)


# what was done: (how, the seq of the first bad fact, what is wrong with it)
CONTENT, LINK, GAP = (
    "its content does not match its hash",
    "does not follow its predecessor",
    "a fact before it is missing",
)
ORDER = "readers would not meet it in order"
TAMPERED: dict[str, tuple[Tamper, int, str]] = {
    "body": (edit('body = \'{"n":3, "n2":0}\''), 3, CONTENT),
    "one bit of the body": (edit("body = set_bit(body, 9, 1 - get_bit(body, 9))"), 3, CONTENT),
    "type": (edit("type = 'test.other'"), 3, CONTENT),
    "actor": (edit("actor = 'system:other'"), 3, CONTENT),
    "time": (edit("at = at + interval '1 microsecond'"), 3, CONTENT),
    "hash": (edit("hash = sha256('x')"), 3, CONTENT),
    "prev": (edit("prev = sha256('x')"), 3, LINK),
    "the first": (edit("body = '{}'", 1), 1, CONTENT),
    "the last": (edit("body = '{}'", 6), 6, CONTENT),
    "deleted": (delete, 4, GAP),
    "deleted and closed up": (delete_and_close_up, 3, LINK),
    "the first deleted": (delete_the_first, 2, GAP),
    "swapped": (swap, 4, LINK),
    "bodies swapped": (swap_bodies, 3, CONTENT),
    "hidden from readers": (edit("xid = '9223372036854775807'"), 4, ORDER),
    "the last hidden from readers": (edit("xid = '9223372036854775807'", 6), 6, ORDER),
    "shown to readers too early": (edit("xid = '1'"), 3, ORDER),
    "inserted": (insert, 4, LINK),
    "edited and re-linked": (relink, 3, LINK),
    "moved to another subject": (move_to_another_subject, 7, LINK),
}


@pytest.mark.parametrize("what", TAMPERED)
async def test_tampering_is_found_and_the_first_bad_fact_named(ground: Ground, what: str) -> None:
    tamper, seq, finding = TAMPERED[what]
    empty = await verdict(ground)
    one, other = await told(ground)
    before = await verdict(ground)
    assert (before.verified, before.first_bad) == (True, None)
    assert (before.facts - empty.facts, before.subjects - empty.subjects) == (12, 2)
    admin = await ground.of("admin")
    async with admin.transaction():
        await admin.execute("ALTER TABLE ledger DISABLE TRIGGER USER")
        await tamper(admin, one, other)
        await admin.execute("ALTER TABLE ledger ENABLE ALWAYS TRIGGER ledger_chain")
        await admin.execute("ALTER TABLE ledger ENABLE ALWAYS TRIGGER ledger_keep")
        await admin.execute("ALTER TABLE ledger ENABLE ALWAYS TRIGGER ledger_whole")
    found = await verdict(ground)
    assert found.verified is False
    assert found.first_bad is not None
    subject = other if what == "moved to another subject" else one
    assert (found.first_bad["subject"], found.first_bad["seq"], found.first_bad["finding"]) == (
        str(subject),
        seq,
        finding,
    )


async def test_one_tenants_broken_chain_is_not_anothers(ground: Ground) -> None:
    await told(ground)
    neighbour = Ground(ground.url)
    async with neighbour.stack:
        await neighbour.lay()
        one, _ = await told(neighbour)
        admin = await ground.of("admin")
        async with admin.transaction():
            await admin.execute("SET LOCAL session_replication_role = replica")
            await admin.execute("ALTER TABLE ledger DISABLE TRIGGER ledger_keep")
            await admin.execute("UPDATE ledger SET body = '{}' WHERE subject = $1 AND seq = 1", one)
            await admin.execute("ALTER TABLE ledger ENABLE ALWAYS TRIGGER ledger_keep")
        assert (await verdict(neighbour)).verified is False
    assert (await verdict(ground)).verified is True
