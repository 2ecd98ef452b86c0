"""What the table's owner can do with the triggers off, and whoever reaches the store: found, and the first bad row named.

Each kind is tried TRIES times with the seed that is printed; LEDGER_SEED repeats a run.
"""

import os
import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from app.ledger.anchors import Anchor, build, entries_name, slot
from app.ledger.keys import signer
from tests.ledger.anchored import HASH, Anchored, anchored, owning, rehash
from tests.walls.ground import Ground

TRIES = 20
SEED = int(os.environ.get("LEDGER_SEED", "") or random.SystemRandom().randrange(2**32))
Row = asyncpg.Record


@dataclass
class Try:
    """One try: the tenant, its anchored rows, and the chance of this try."""

    one: Anchored
    other: Anchored
    rows: list[Row]
    chance: random.Random
    admin: asyncpg.Connection

    def pick(self, fits: Callable[[Row], bool] = lambda _: True) -> Row:
        return self.chance.choice([row for row in self.rows if fits(row)])

    def after(self, row: Row) -> list[Row]:
        return [found for found in self.rows if found["subject"] == row["subject"] and found["seq"] > row["seq"]]

    async def set(self, row: Row, change: str, *more: Any) -> None:
        await self.admin.execute(
            f"UPDATE ledger SET {change} WHERE tenant = $1 AND hash = $2", row["tenant"], row["hash"], *more
        )

    async def delete(self, *rows: Row) -> None:
        for row in rows:
            await self.admin.execute("DELETE FROM ledger WHERE tenant = $1 AND hash = $2", row["tenant"], row["hash"])


Tamper = Callable[[Try], Awaitable[Row]]  # answers the first row, in reading order, that was touched


def first(*rows: Row) -> Row:
    return min(rows, key=lambda row: (int(row["x"]), row["id"]))


EDITS = (
    'body = \'{"n":77}\'', "type = 'test.other'", "actor = 'system:other'", "at = at + interval '1 microsecond'",
    "hash = sha256('x')", "prev = sha256('x')", "body = body || ' '",
)  # fmt: skip


async def edit(on: Try) -> Row:
    row = on.pick()
    change = on.chance.choice(EDITS)
    await on.set(row, change)
    if not change.startswith("hash") and on.chance.random() < 0.5:  # and its own hash made to fit
        await on.admin.execute(
            f"UPDATE ledger SET hash = {HASH} WHERE tenant = $1 AND subject = $2 AND seq = $3",
            row["tenant"],
            row["subject"],
            row["seq"],
        )
    return row


async def delete(on: Try) -> Row:
    row = on.pick()
    await on.delete(row)
    if on.chance.random() < 0.5:  # and the gap closed
        for later in on.after(row):
            await on.set(later, "seq = seq - 1")
    return row


async def swap(on: Try) -> Row:
    row = on.pick(lambda row: bool(on.after(row)))
    other = on.chance.choice(on.after(row))
    await on.set(row, "seq = -1")
    await on.set(other, "seq = $3", row["seq"])
    await on.set(row, "seq = $3", other["seq"])
    return row


async def insert(on: Try) -> Row:
    """A forged fact right after another of its chain, in both orders, with hashes that fit.

    Not after the newest anchored fact: what stands there is new, and its owner may write new facts.
    """
    row = on.pick(lambda row: row is not on.rows[-1])
    chain = row["tenant"], row["subject"]
    await on.admin.execute(
        "UPDATE ledger SET seq = -seq - 1 WHERE tenant = $1 AND subject = $2 AND seq > $3", *chain, row["seq"]
    )
    await on.admin.execute("UPDATE ledger SET seq = -seq WHERE tenant = $1 AND subject = $2 AND seq < 0", *chain)
    made: Row = await on.admin.fetchrow(
        """INSERT INTO ledger (tenant, xid, id, subject, seq, type, actor, at, body, prev, hash)
            SELECT tenant, xid, nextval('ledger_id'), subject, seq + 1, 'test.forged', actor, at, body, hash, sha256('x')
            FROM ledger WHERE tenant = $1 AND hash = $2 RETURNING *, xid::text AS x""",
        row["tenant"], row["hash"],
    )  # fmt: skip
    if on.chance.random() < 0.5:
        await rehash(on.admin, row["tenant"], row["subject"])
    return first(made, *on.after(row))


async def tail_cut(on: Try) -> Row:
    """The newest facts of the whole ledger, down to some that were anchored."""
    cut = on.chance.randrange(1, len(on.rows))
    row = on.rows[-cut]
    await on.admin.execute(
        "DELETE FROM ledger WHERE tenant = $1 AND (xid, id) >= ($2::text::xid8, $3)", row["tenant"], row["x"], row["id"]
    )
    return row


async def full_rehash(on: Try) -> Row:
    """The owner rewrites a fact and every hash after it: the chains hold, all of them."""
    row = on.pick()
    await on.set(row, "body = '{\"n\":78}'")
    await rehash(on.admin, row["tenant"], row["subject"])
    return row


async def anchor_rollback(on: Try) -> Row:
    """The newest anchors are gone, an older store is restored, or the store is emptied."""
    folder, kept = Path(on.one.place), on.chance.randrange(3)
    for number in range(kept + 1, 4):
        (folder / slot(on.one.tenant, number)).unlink()
    if kept == 0 and on.chance.random() < 0.5:
        shutil.rmtree(folder / str(on.one.tenant))
    anchored_facts = [row for row in await on.one.rows() if row["type"] == "ledger.anchored"]
    return anchored_facts[kept]  # the first that states an anchor which is no longer there


async def forged_anchor(on: Try) -> Row:
    """A fact rewritten with all its chain, and the anchors from there on made anew, with a key of the forger's."""
    row = on.pick(lambda row: row["type"] == "test.said")
    await on.set(row, "body = '{\"n\":79}'")
    await rehash(on.admin, row["tenant"], row["subject"])
    rows = {found["id"]: found for found in await on.one.rows()}
    number = 1 + sum(1 for found in on.rows if found["type"] == "ledger.anchored" and found["id"] < row["id"])
    folder = Path(on.one.place)
    forger = signer("old:" + "Zm9yZ2VyZm9yZ2VyZm9yZ2VyZm9yZ2VyZm9yZ2VyZm8=")
    for forged in range(number, 4):
        true = Anchor.read((folder / slot(on.one.tenant, forged)).read_bytes())
        before = Anchor.read((folder / slot(on.one.tenant, forged - 1)).read_bytes()) if forged > 1 else None
        assert true is not None
        inside = [
            found for found in rows.values()
            if (before.last if before else (0, 0)) < (int(found["x"]), found["id"]) <= true.last
        ]  # fmt: skip
        lines = [
            f"{found['x']}-{found['id']} {found['subject']} {found['seq']} {found['type']} {found['hash'].hex()}".encode()
            for found in inside
        ]
        raw, entries = build(on.one.tenant, before, lines, forger, found_at(true))
        (folder / slot(on.one.tenant, forged)).write_bytes(raw)
        made = Anchor.read(raw)
        assert made is not None
        (folder / entries_name(on.one.tenant, made.entries)).write_bytes(entries)
    stating = [found for found in rows.values() if found["type"] == "ledger.anchored"]
    return stating[number - 1]  # the first fact that states an anchor which is another one now


def found_at(anchor: Anchor) -> datetime:
    return datetime.fromisoformat(anchor.at)


async def transplant(on: Try) -> Row:
    """A fact of one tenant becomes a fact of another, at the end of a chain of its own there."""
    row = on.pick(lambda row: row["type"] == "test.said")
    await on.admin.execute(
        "UPDATE ledger SET tenant = $3, subject = $4, seq = 1, prev = '' WHERE tenant = $1 AND hash = $2",
        row["tenant"], row["hash"], on.other.tenant, uuid4(),
    )  # fmt: skip
    await on.admin.execute(f"UPDATE ledger SET hash = {HASH} WHERE tenant = $1 AND id = $2", on.other.tenant, row["id"])
    return row


KINDS: dict[str, Tamper] = {
    "edit": edit,
    "delete": delete,
    "swap": swap,
    "insert": insert,
    "tail cut": tail_cut,
    "full re-hash by the owner": full_rehash,
    "anchor rollback": anchor_rollback,
    "forged anchor": forged_anchor,
    "cross-tenant transplant": transplant,
}


@pytest.fixture
async def both(ground: Ground, tmp_path: Path) -> AsyncIterator[tuple[Anchored, Anchored]]:
    """Two tenants, each with three chains and three anchors."""
    neighbour = Ground(ground.url)
    async with (
        neighbour.stack,
        anchored(ground, tmp_path / "one") as one,
    ):
        await neighbour.lay()
        async with anchored(neighbour, tmp_path / "one") as other:
            for tenant in (one, other):
                subjects: list[UUID] = [uuid4() for _ in range(3)]
                for _ in range(3):
                    await tenant.tell(*subjects, times=2)
                    await tenant.anchor()
            yield one, other


@pytest.mark.parametrize("kind", KINDS)
async def test_every_tampering_is_found_and_the_first_bad_row_named(
    kind: str, both: tuple[Anchored, Anchored], tmp_path: Path
) -> None:
    one, other = both
    print(f"LEDGER_SEED={SEED}")
    whole = await one.rows()
    last = max(position(found) for found in await covered(one))
    rows = [row for row in whole if (int(row["x"]), row["id"]) <= last]
    shutil.copytree(tmp_path / "one", tmp_path / "kept")
    assert (await one.verify())[0].verified
    missed = []
    for turn in range(TRIES):
        chance = random.Random(f"{SEED} {kind} {turn}")
        async with owning(one.ground) as admin:
            touched = await KINDS[kind](Try(one, other, rows, chance, admin))
        verdict, _ = await one.verify()
        named = verdict.first_bad and (
            verdict.first_bad["subject"],
            verdict.first_bad["seq"],
            verdict.first_bad["type"],
        )
        expected = str(touched["subject"]), touched["seq"], touched["type"]
        if verdict.verified or named != expected:
            missed.append((turn, expected, verdict.first_bad))
        if kind == "cross-tenant transplant":
            assert not (await other.verify())[0].verified
        await restore(one, other, whole, tmp_path)
        assert (await one.verify())[0].verified, "not restored"
    assert not missed, f"LEDGER_SEED={SEED}"


async def covered(one: Anchored) -> list[Anchor]:
    found = [Anchor.read(await one.store.get(name) or b"") for name in await one.objects()]
    return [anchor for anchor in found if anchor]


def position(anchor: Anchor) -> tuple[int, int]:
    return anchor.last.xid, anchor.last.id


async def restore(one: Anchored, other: Anchored, whole: list[Row], tmp_path: Path) -> None:
    """Rows and store as they were."""
    async with owning(one.ground) as admin:
        await admin.execute(
            "DELETE FROM ledger WHERE tenant = $1 OR (tenant = $2 AND id = ANY ($3))",
            one.tenant, other.tenant, [row["id"] for row in whole],
        )  # fmt: skip
        await admin.executemany(
            """INSERT INTO ledger (tenant, xid, id, subject, seq, type, actor, at, body, prev, hash)
               VALUES ($1, $2::text::xid8, $3, $4, $5, $6, $7, $8, $9, $10, $11)""",
            [
                (
                    r["tenant"],
                    r["x"],
                    r["id"],
                    r["subject"],
                    r["seq"],
                    r["type"],
                    r["actor"],
                    r["at"],
                    r["body"],
                    r["prev"],
                    r["hash"],
                )
                for r in whole
            ],
        )
    shutil.rmtree(tmp_path / "one")
    shutil.copytree(tmp_path / "kept", tmp_path / "one")


async def test_what_nobody_can_find_is_both_turned_back_together(
    both: tuple[Anchored, Anchored], tmp_path: Path
) -> None:
    """Stated, so that nobody promises more: database and every copy of the anchors, both as they were before."""
    one, _ = both
    rows = await one.rows()
    newest = (await covered(one))[-1]
    before = (await covered(one))[-2]
    async with owning(one.ground) as admin:
        for row in rows:
            if (int(row["x"]), row["id"]) > position(before):
                await admin.execute("DELETE FROM ledger WHERE tenant = $1 AND hash = $2", one.tenant, row["hash"])
    (tmp_path / "one" / slot(one.tenant, newest.number)).unlink()
    assert (await one.verify())[0].verified
