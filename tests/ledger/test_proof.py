"""One subject's proof: by the anchors along its chain, whatever a backlog, a revoked key or a long chain makes of them."""

import base64
from pathlib import Path
from uuid import UUID

import pytest

from app import ledger
from app.ledger import anchors, proof
from app.ledger.export import prepare
from app.ledger.keys import Keyring, signer
from tests.ledger.anchored import OLD, WRITE, Anchored, anchored, owning, uuid4
from tests.walls.ground import Ground

LOST = signer("lost:" + base64.b64encode(b"l" * 32).decode())
REVOKED = Keyring({**OLD.public(), **LOST.public()}, frozenset({"lost"}))


async def proved(one: Anchored, subject: UUID, keys: Keyring | None = None) -> ledger.Proof:
    look = ledger.inside_of(one.api, one.tenant)
    return await ledger.prove(look, one.tenant, one.store, keys or one.keys, subject)


async def three_anchors(one: Anchored, mission: UUID, second: UUID) -> None:
    """The first takes in a fact of a mission; the second, by a key that is revoked by now, one of another or the same."""
    await one.tell(mission)
    await one.anchor()
    one.keys = REVOKED
    await one.tell(second)
    await one.anchor(one.another(LOST))
    await one.tell(uuid4())
    await one.anchor(one.another())


async def test_a_neighbours_anchor_by_a_revoked_key_is_not_this_missions_fault(ground: Ground, tmp_path: Path) -> None:
    async with anchored(ground, tmp_path / "store") as one:
        early, late = uuid4(), uuid4()
        await three_anchors(one, early, uuid4())
        await one.tell(early, late)
        await one.anchor(one.another())
        assert (await one.verify(REVOKED))[1]["state"] == "ok", "a later anchor covers it"
        for mission, numbers in ((early, [1, 4]), (late, [4])):
            found = await proved(one, mission, REVOKED)
            assert (found.anchors, found.finding, found.numbers) == ("ok", None, numbers)


async def test_what_an_anchor_by_a_revoked_key_signed_of_it_is_missed_when_it_is_gone(ground: Ground) -> None:
    async with anchored(ground, "memory:") as one:
        mission = uuid4()
        await three_anchors(one, mission, mission)
        whole = await proved(one, mission, REVOKED)
        assert (whole.anchors, len(whole.signed), whole.broken) == ("failed", 1, set())
        assert whole.finding == "anchor 2: it is signed by a key that was revoked: verify the whole ledger"
        async with owning(ground) as admin:
            await admin.execute(
                "DELETE FROM ledger WHERE tenant = $1 AND subject = $2 AND seq = 2", one.tenant, mission
            )
        found = await proved(one, mission, REVOKED)
        assert (found.chain, found.anchors) == (True, "failed")
        assert str(found.finding).endswith("which anchor 2 signed, is gone")


async def test_the_anchor_of_a_fact_is_found_behind_a_backlog(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchors, "BATCH", 3)
    async with anchored(ground, "memory:") as one:
        mission = uuid4()
        await one.tell(uuid4(), times=69)
        await one.tell(mission)
        rows = await one.rows()
        at, covering = ledger.Position(int(rows[-1]["x"]), rows[-1]["id"]), -(-len(rows) // 3)
        for _ in range(covering):
            await one.anchor()
        assert len(await one.objects()) == covering > 20
        found = await proved(one, mission)
        assert (found.anchors, found.numbers) == ("ok", [covering])
        look = ledger.inside_of(one.api, one.tenant)
        ready = await prepare(look, one.tenant, one.store, one.keys, mission, at)
        assert [anchor.number for anchor in ready.anchors] == [covering]
        await one.tell(uuid4(), times=9)
        await one.anchor()
        again = await prepare(look, one.tenant, one.store, one.keys, mission, at)
        assert [anchor.number for anchor in again.anchors] == [covering], "it stays the same while others' facts come"


async def test_each_place_of_a_long_chain_is_read_once(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []

    def at(line: bytes) -> ledger.Position:
        read.append(line)
        return ledger.Position.parse(anchors.place(line)) or ledger.Position(0, 0)

    monkeypatch.setattr(proof, "at", at)
    async with anchored(ground, "memory:") as one:
        for _ in range(6):
            await ground.run("api", WRITE, one.tenant, one.tenant, "test.said", b"{}")
            await one.anchor()
        found = await proved(one, one.tenant)
        assert (found.anchors, found.numbers) == ("ok", [1, 2, 3, 4, 5, 6])
        assert len(read) == found.facts == len(set(read))


async def test_a_first_fact_that_is_not_what_was_signed_does_not_hide_the_next(ground: Ground) -> None:
    """Both are named as broken, and what stands between them and what is newer than every anchor is not."""
    async with anchored(ground, "memory:") as one:
        mission = uuid4()
        for _ in range(3):
            await one.tell(mission)
            await one.anchor()
        await one.tell(mission)
        async with owning(ground) as admin:
            await admin.execute(
                "UPDATE ledger SET hash = sha256(hash) WHERE tenant = $1 AND subject = $2 AND seq IN (1, 3)",
                one.tenant,
                mission,
            )
        places = [f"{row['x']}-{row['id']}" for row in await one.rows() if row["subject"] == mission]
        found = await proved(one, mission)
        assert (found.anchors, found.broken, found.signed) == ("failed", {places[0], places[2]}, {places[1]})
        assert found.finding == f"the fact {places[0]} is not what anchor 1 signed"
