"""Anchors: what they cover, that they are made once, and how keys follow one another."""

import asyncio
import base64
import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from app.ledger.anchors import Anchor, Broken, slot
from app.ledger.keys import Keyring, keyring, public_text, signer
from app.ledger.store import open_store
from tests.ledger.anchored import OLD, anchored, owning
from tests.walls.ground import Ground

NEW = signer("new:" + base64.b64encode(b"n" * 32).decode())


async def test_an_anchor_covers_every_fact_and_the_anchor_before_it(ground: Ground, tmp_path: Path) -> None:
    async with anchored(ground, tmp_path) as one:
        before = len(await one.rows())
        await one.tell(uuid4(), uuid4(), times=3)
        await one.anchor()
        verdict, state = await one.verify()
        assert verdict.verified and state["state"] == "ok"
        assert (state["anchors"], state["covered"], state["tail"]) == (
            1,
            before + 6,
            1,
        )  # the tail is the anchor's own fact
        await one.anchor()
        assert len(await one.objects()) == 1  # an anchor is no reason for another
        await one.tell(uuid4())
        await one.anchor()
        verdict, state = await one.verify()
        assert verdict.verified and (state["anchors"], state["covered"]) == (2, before + 8)
        facts = await one.stated()
        assert [(fact["number"], fact["tree_size"], fact["key"]) for fact in facts] == [
            (1, before + 6, "old"),
            (2, before + 8, "old"),
        ]
        stored = [Anchor.read(await one.store.get(name) or b"") for name in await one.objects()]
        assert [fact["anchor"] for fact in facts] == [found.sha256 for found in stored if found]
        assert stored[1] and stored[0] and stored[1].previous == stored[0].sha256


async def test_what_cannot_be_overwritten_is_not(ground: Ground, tmp_path: Path) -> None:
    for store in (open_store(str(tmp_path)), open_store("memory:")):
        assert await store.create("a/1", b"first") is True
        assert await store.create("a/1", b"second") is False
        assert await store.get("a/1") == b"first"
        assert await store.get("a/2") is None
        assert await store.create("a/3", b"third") and await store.create("a/2", b"")
        assert [name async for name in store.names("a")] == ["a/1", "a/2", "a/3"]
        assert [name async for name in store.names("a", "a/1")] == ["a/2", "a/3"]


async def test_a_crash_between_store_and_fact_is_repaired(ground: Ground, tmp_path: Path) -> None:
    async with anchored(ground, tmp_path) as one:
        await one.tell(uuid4(), times=2)

        async def crash(*_: Any) -> None:
            raise ConnectionError("gone")

        broken = one.another()
        broken.record = crash  # type: ignore[method-assign]
        with pytest.raises(ConnectionError):
            await one.anchor(broken)
        assert len(await one.objects()) == 1 and not await one.stated()
        assert (await one.verify())[0].verified  # harmless
        await one.anchor()
        assert [fact["number"] for fact in await one.stated()] == [1]
        assert len(await one.objects()) == 1
        await one.tell(uuid4())
        await one.anchor()
        assert [fact["number"] for fact in await one.stated()] == [1, 2]
        assert (await one.verify())[0].verified


async def test_of_two_workers_one_wins(ground: Ground, tmp_path: Path) -> None:
    async with anchored(ground, tmp_path) as one:
        for _ in range(5):
            await one.tell(uuid4(), times=2)
            await one.settled()
            stale, fresh = await one.item(), await one.item()
            await asyncio.gather(one.another().anchor(stale), one.another().anchor(fresh))
            await one.anchor()
        facts = await one.stated()
        assert [fact["number"] for fact in facts] == list(range(1, len(facts) + 1))
        assert len(facts) == len(await one.objects()) >= 5
        assert (await one.verify())[0].verified


async def test_who_lost_the_lease_writes_no_fact(ground: Ground, tmp_path: Path) -> None:
    async with anchored(ground, tmp_path) as one:
        await one.tell(uuid4())
        await one.settled()
        stale = await one.item()
        await one.item()
        await one.anchorer.anchor(stale)
        assert len(await one.objects()) == 1 and not await one.stated()


async def test_facts_wait_for_the_interval_or_for_many(ground: Ground, tmp_path: Path) -> None:
    async with anchored(ground, tmp_path) as one:
        patient = one.another(interval=3600, most=1000)
        await one.tell(uuid4(), times=3)
        await one.anchor(patient)
        assert await one.objects() == [] and patient.waiting[one.tenant][0] >= 3 and patient.age() > 0
        await one.anchor(one.another(interval=3600, most=3))
        assert len(await one.objects()) == 1


async def test_the_worker_builds_nothing_on_a_store_or_ledger_that_was_turned_back(
    ground: Ground, tmp_path: Path
) -> None:
    async with anchored(ground, tmp_path) as one:
        subject = uuid4()
        for _ in range(3):
            await one.tell(subject, times=2)
            await one.anchor()
        newest = tmp_path / slot(one.tenant, 3)
        kept = newest.read_bytes()
        newest.unlink()
        await one.tell(subject)
        with pytest.raises(Broken, match="lost the newest"):
            await one.anchor()
        found = json.loads(kept)
        found["statement"]["root"] = "00" * 32
        newest.write_bytes(json.dumps(found).encode())
        with pytest.raises(Broken):
            await one.anchor()
        newest.write_bytes(kept)
        await one.anchor()
        assert (await one.verify())[0].verified
        rows = await one.rows()
        async with owning(ground) as admin:
            await admin.execute("DELETE FROM ledger WHERE tenant = $1 AND id >= $2", one.tenant, rows[-3]["id"])
        await one.tell(subject)
        with pytest.raises(Broken):
            await one.anchor()


async def test_a_new_key_is_vouched_for_by_the_old_one(ground: Ground, tmp_path: Path) -> None:
    async with anchored(ground, tmp_path) as one:
        await one.tell(uuid4())
        await one.anchor()
        both = signer(
            ",".join(f"{kid}:{base64.b64encode(raw * 32).decode()}" for kid, raw in (("new", b"n"), ("old", b"o")))
        )
        await one.tell(uuid4())
        await one.anchor(one.another(both))
        given_old, given_new = Keyring(OLD.public()), Keyring(NEW.public())
        verdict, state = await one.verify(given_old)
        assert verdict.verified and state["state"] == "ok"
        verdict, state = await one.verify(given_new)  # the old one is not reached backwards
        assert not verdict.verified
        assert state["failed"][0] == {"number": 1, "finding": "is signed by a key that nobody vouches for"}
        revoked = Keyring({**OLD.public(), **NEW.public()}, frozenset({"old"}))
        assert (await one.verify(revoked))[0].verified  # the newest anchor, by a key that counts, covers those before
        verdict, state = await one.verify(Keyring(OLD.public(), frozenset({"old"})))
        assert not verdict.verified  # who was revoked vouches for nobody
        await one.tell(uuid4())
        await one.anchor(one.another(OLD))
        verdict, state = await one.verify(revoked)
        assert not verdict.verified
        assert state["failed"] == [
            {"number": 3, "finding": "is signed by a key that was revoked, and no later anchor covers it"}
        ]


def test_keys_are_named_and_whole() -> None:
    assert keyring("") == Keyring({})
    text = public_text(OLD.public())
    assert keyring(text + "," + public_text(NEW.public()), "old").revoked == {"old"}
    for wrong in ("old", "old:AAAA", f"{text},{text}", "o d:" + text.split(":")[1], "old:!!"):
        with pytest.raises(ValueError):
            keyring(wrong)


async def test_moving_a_position_is_found(ground: Ground, tmp_path: Path) -> None:
    """No hash of a chain holds a position. Three subjects of one fact each: every chain stays whole."""
    async with anchored(ground, tmp_path) as one:
        await one.tell(*(uuid4() for _ in range(3)))
        await one.anchor()
        rows = [row for row in await one.rows() if row["type"] == "test.said"]
        async with owning(ground) as admin:
            for row, x in ((rows[0], -1), (rows[2], rows[0]["id"]), (rows[0], rows[2]["id"])):
                await admin.execute(
                    "UPDATE ledger SET id = $2 WHERE tenant = $1 AND hash = $3", one.tenant, x, row["hash"]
                )
            for row, other in ((rows[0], rows[2]), (rows[2], rows[0])):
                await admin.execute(
                    "UPDATE ledger SET xid = $2::text::xid8 WHERE tenant = $1 AND hash = $3",
                    one.tenant,
                    other["x"],
                    row["hash"],
                )
        verdict, _ = await one.verify()
        assert not verdict.verified and verdict.first_bad is not None
        assert (verdict.first_bad["subject"], verdict.first_bad["finding"]) == (
            str(rows[0]["subject"]),
            "is not what was anchored",
        )


async def test_a_store_that_is_away_is_not_a_store_that_is_well(ground: Ground, tmp_path: Path) -> None:
    async with anchored(ground, tmp_path) as one:
        await one.tell(uuid4())
        await one.anchor()

        class Away:
            async def get(self, _: str) -> bytes:
                raise TimeoutError

            def names(self, *_: Any) -> Any:
                raise TimeoutError

        one.store = Away()  # type: ignore[assignment]
        verdict, state = await one.verify()
        assert not verdict.verified and state["state"] == "unavailable"


async def test_an_interval_that_is_not_over_leaves_the_row_for_later(ground: Ground, tmp_path: Path) -> None:
    async with anchored(ground, tmp_path) as one:
        await one.tell(uuid4())
        await one.settled()
        item = await one.item()
        await one.another(interval=3600).turn(item)
        admin = await ground.of("admin")
        row = await admin.fetchrow(
            "SELECT lease_until, next_at - clock_timestamp() AS wait FROM work WHERE tenant = $1 AND kind = 'anchor'",
            one.tenant,
        )
        assert row["lease_until"] is None and timedelta(0) < row["wait"] <= timedelta(seconds=10)
