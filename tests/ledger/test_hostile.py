"""Export files by somebody who wants them to pass, keys that changed hands, and readers in the middle of writers."""

import base64
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from app import ledger
from app.ledger import offline
from app.ledger.anchors import Broken, slot
from app.ledger.export import prepare
from app.ledger.keys import Keyring, signer
from app.ledger.store import MOST, Store, open_store
from tests.ledger.anchored import OLD, WRITE, Anchored, anchored
from tests.ledger.test_export import KEYS, Lines, export, told, write
from tests.walls.ground import Ground

VERIFY = sys.modules["app.ledger.verify"]  # the package's own `verify` is the function
BOTH = signer(",".join(f"{kid}:{base64.b64encode(kid[:1].encode() * 32).decode()}" for kid in ("new", "old")))


def facts_of(lines: Lines) -> list[dict[str, Any]]:
    return [line for line in lines if line["kind"] == "fact"]


async def test_what_was_hashed_cannot_be_cut_up_another_way(ground: Ground, tmp_path: Path) -> None:
    """Fields are joined before they are hashed: the same bytes must not be read as another actor, time or body."""
    async with anchored(ground, tmp_path / "store") as one:
        await ground.run("api", WRITE, one.tenant, uuid4(), "test.said", b'{"n":\n1}')
        await told(one)
        lines = await export(one, tmp_path / "whole.jsonl")
    at = next(number for number, line in enumerate(lines) if line["kind"] == "fact" and line["type"] == "test.said")
    fact = lines[at]
    for bent in (
        {"at": f'{fact["at"]}\n{{"n":', "body": "1}"},
        {"actor": f"{fact['actor']}|{fact['at']}", "at": fact["body"]},
        {"type": f"{fact['type']}|{fact['actor']}", "actor": fact["at"], "at": ""},
    ):
        forged = [*lines[:at], fact | bent, *lines[at + 1 :]]
        verdict = offline.verify(write(tmp_path / "forged.jsonl", forged), KEYS)
        assert not verdict["verified"] and verdict["first_bad"]["line"] == at + 1, bent


async def test_an_export_after_a_change_of_keys_verifies(ground: Ground, tmp_path: Path) -> None:
    async with anchored(ground, tmp_path / "store") as one:
        mission = await told(one)
        one.keys = Keyring(BOTH.public())
        await one.anchor(one.another(BOTH))
        whole = await export(one, tmp_path / "whole.jsonl")
        one.keys = Keyring({"new": BOTH.public()["new"]})
        await export(one, tmp_path / "part.jsonl", mission)
    new = {"new": BOTH.public()["new"]}
    assert any(line["kind"] == "succession" for line in whole)
    file = tmp_path / "whole.jsonl"
    assert offline.verify(file, KEYS)["verified"]  # the new key is reached from the old one
    assert offline.verify(file, BOTH.public(), ["old"])["verified"]  # it is covered by the new one
    assert not offline.verify(file, KEYS, ["old"])["verified"]  # who was revoked vouches for nobody
    assert not offline.verify(file, new)["verified"]  # the old one is not reached backwards
    assert offline.verify(tmp_path / "part.jsonl", new)["verified"]  # its one anchor is by the new key


async def test_a_stolen_key_that_was_revoked_brings_in_no_other(ground: Ground, tmp_path: Path) -> None:
    """Its holder vouches for a key of their own, and signs the newest anchor with that."""
    both = ",".join(f"{kid}:{base64.b64encode(kid[:1].encode() * 32).decode()}" for kid in ("evil", "old"))
    async with anchored(ground, tmp_path / "store") as one:
        await told(one)
        one.keys = Keyring({**OLD.public(), **signer(both).public()})
        await one.anchor(one.another(signer(both)))
        lines = await export(one, tmp_path / "whole.jsonl")
        verdict, state = await one.verify(Keyring(OLD.public(), frozenset({"old"})))
        assert not verdict.verified
        assert "nobody vouches for" in state["failed"][-2]["finding"] or "revoked" in str(state["failed"])
    assert any(line["kind"] == "succession" for line in lines)
    unlisted = [line for line in lines if line["kind"] != "key"]
    verdict = offline.verify(write(tmp_path / "forged.jsonl", unlisted), KEYS, ["old"])
    assert not verdict["verified"] and "nobody vouches for" in verdict["first_bad"]["finding"]


async def test_an_export_of_which_nothing_is_anchored_says_so(ground: Ground, tmp_path: Path) -> None:
    """A true anchor of the tenant and an invented mission after it."""
    async with anchored(ground, tmp_path / "store") as one:
        await told(one)
        fresh = uuid4()
        await one.tell(fresh, times=2)
        await one.settled()
        lines = await export(one, tmp_path / "part.jsonl", fresh)
    assert [line["kind"] for line in lines].count("anchor") == 1 and len(facts_of(lines)) == 2
    verdict = offline.verify(tmp_path / "part.jsonl", KEYS)
    assert not verdict["verified"] and "no anchor signs any of this" in verdict["first_bad"]["finding"]
    assert offline.verify(tmp_path / "part.jsonl", KEYS, without_anchors=True)["verified"]


async def test_another_tenants_facts_do_not_pass_under_this_ones_anchor(ground: Ground, tmp_path: Path) -> None:
    other = Ground(ground.url)
    async with other.stack:
        await other.lay()
        async with anchored(ground, tmp_path / "store") as one, anchored(other, tmp_path / "store") as two:
            mission, theirs = await told(one), await told(two)
            ours = await export(one, tmp_path / "ours.jsonl", mission), await export(one, tmp_path / "ours.jsonl")
            foreign = await export(two, tmp_path / "two.jsonl", theirs), await export(two, tmp_path / "two.jsonl")
    for mine, their in zip(ours, foreign, strict=True):
        mixed = [mine[0], *their[1:]], [their[0], *mine[1:]], [*mine[:3], *their[3:]]
        for lines in mixed:
            assert not offline.verify(write(tmp_path / "forged.jsonl", list(lines)), KEYS)["verified"]
        assert offline.verify(write(tmp_path / "forged.jsonl", their), KEYS)["tenant"] == str(other.tenant)
    [anchor] = [line for line in ours[0] if line["kind"] == "anchor"]
    later = [line | {"index": None, "proof": None} for line in foreign[0] if line["kind"] == "fact"]
    lines = [foreign[0][0] | {"anchored": ours[0][0]["anchored"]}, anchor, *later, foreign[0][-1]]
    verdict = offline.verify(write(tmp_path / "forged.jsonl", lines), KEYS, without_anchors=True)
    assert verdict["first_bad"] == {"line": 2, "finding": "an anchor is another tenant's"}


def test_a_hostile_file_is_a_verdict_and_never_a_crash(tmp_path: Path) -> None:
    manifest = {"kind": "manifest", "format": offline.FORMAT, "tenant": str(uuid4()), "subject": None, "anchored": 0}
    fact = dict.fromkeys(offline.MEMBERS["fact"]) | {"kind": "fact"}
    for lines in (
        [manifest | {"tenant": "\ud800"}, fact],
        [manifest, fact | {"subject": "\ud800", "type": "\x1b[2J"}],
        [manifest, {"kind": "key", "kid": [], "public_key": {}}],
        [manifest, {"kind": "key", "kid": "a", "public_key": 7}],
        [manifest, fact | {"body": []}, {"kind": "end", "facts": True, "sha256": None}],
        [{"kind": []}], [{"kind": {}}], [manifest | {"anchored": 1e999}], [manifest | {"anchored": True}],
    ):  # fmt: skip
        (tmp_path / "file").write_text("".join(json.dumps(line) + "\n" for line in lines))
        ended = subprocess.run(
            [sys.executable, "-I", offline.__file__, str(tmp_path / "file")],
            capture_output=True, text=True, check=False, env={"LC_ALL": "C"}, timeout=60,
        )  # fmt: skip
        assert (ended.returncode, ended.stderr) == (1, ""), lines
        assert json.loads(ended.stdout)["verified"] is False and "\x1b" not in ended.stdout
    (tmp_path / "file").write_text('{"n":' + "1" * 5000 + "}")
    assert offline.verify(tmp_path / "file")["verified"] is False


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(4 * 2**30)  # a hole: it takes no room on the disk
    limited = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)); " \
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-c", limited, offline.__file__, str(tmp_path / "file")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    assert json.loads(ended.stdout)["first_bad"] == {"line": 1, "finding": "the line is longer than any may be"}


class Meanwhile(Store):
    """A store whose reader is overtaken: after it has listed the anchors, the worker makes another one."""

    def __init__(self, one: Anchored) -> None:
        super().__init__(one.store.objects, one.store.folder)
        self.one, self.done = one, False

    async def names(self, prefix: str, after: str | None = None) -> AsyncIterator[str]:
        found = [name async for name in super().names(prefix, after)]
        if "anchors" in prefix and not self.done:
            self.done = True
            await self.one.tell(uuid4(), times=2)
            await self.one.anchor()
        for name in found:
            yield name


async def test_an_anchor_that_is_made_during_verification_is_not_missed(ground: Ground, tmp_path: Path) -> None:
    async with anchored(ground, tmp_path / "store") as one:
        await told(one)
        overtaken = Meanwhile(one)
        verdict, state = await ledger.audit(ledger.inside_of(one.api, one.tenant), one.tenant, overtaken, one.keys)
        assert overtaken.done and verdict.verified and state["failed"] == [] and state["anchors"] == 3
        assert (await one.verify())[1]["anchors"] == 4


class Before(Meanwhile):
    """The same, before it lists them."""

    async def names(self, prefix: str, after: str | None = None) -> AsyncIterator[str]:
        if "anchors" in prefix and not self.done:
            self.done = True
            await self.one.tell(uuid4(), times=2)
            await self.one.anchor()
            await self.one.settled()
        async for name in Store.names(self, prefix, after):
            yield name


async def test_an_anchor_that_is_made_during_an_export_is_exported_with_its_facts(
    ground: Ground, tmp_path: Path
) -> None:
    async with anchored(ground, tmp_path / "store") as one:
        await told(one)
        overtaken = Before(one)
        ready = await prepare(ledger.inside_of(one.api, one.tenant), one.tenant, overtaken, one.keys, None)
        (tmp_path / "whole.jsonl").write_bytes(b"".join([page async for page in ready.lines()]))
    verdict = offline.verify(tmp_path / "whole.jsonl", KEYS)
    assert overtaken.done and verdict["verified"] and verdict["anchors"] == 4, verdict["first_bad"]


async def test_verification_reads_in_pages_and_says_the_same(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No statement and no transaction grows with the ledger."""
    async with anchored(ground, tmp_path / "store") as one:
        mission = await told(one)
        whole, _ = await one.verify()
        opened = []
        inside = ledger.inside_of(one.api, one.tenant)

        def counting() -> Any:
            opened.append(1)
            return inside()

        for page in (1, 2, 3, 7):
            monkeypatch.setattr(VERIFY, "PAGE", page)
            opened.clear()
            verdict, _ = await ledger.audit(counting, one.tenant, None, one.keys)
            assert verdict == whole and len(opened) >= whole.facts // page
        admin = await ground.of("admin")
        await admin.execute("ALTER TABLE ledger DISABLE TRIGGER USER")
        await admin.execute("DELETE FROM ledger WHERE tenant = $1 AND subject = $2 AND seq = 3", one.tenant, mission)
        for trigger in ("chain", "keep", "whole"):
            await admin.execute(f"ALTER TABLE ledger ENABLE ALWAYS TRIGGER ledger_{trigger}")
        for page in (1, 2, 3, 7, 1000):
            monkeypatch.setattr(VERIFY, "PAGE", page)
            verdict, _ = await ledger.audit(inside, one.tenant, None, one.keys)
            assert verdict.first_bad and (verdict.first_bad["subject"], verdict.first_bad["seq"]) == (str(mission), 4)
            assert verdict.first_bad["finding"] == "a fact before it is missing", page


async def test_a_horizon_that_stands_still_delays_anchors_and_tears_no_hole(ground: Ground, tmp_path: Path) -> None:
    """A transaction that began earlier and commits later: its fact is behind no anchor."""
    async with anchored(ground, tmp_path / "store") as one:
        await one.settled()
        late = uuid4()
        slow = await ground.connect("api")
        async with ground.within("api", connection=slow) as open_one:
            await open_one.execute("SELECT pg_current_xact_id()")
            await one.tell(uuid4(), times=2)
            await one.anchorer.anchor(await one.item())
            assert await one.stated() == [] or (await one.stated())[-1]["tree_size"] < len(await one.rows())
            await open_one.execute(
                "INSERT INTO ledger (tenant, subject, type, actor, body) VALUES ($1, $2, 'test.late', 'system:api', '{}')",
                one.tenant, late,
            )  # fmt: skip
        await one.anchor()
        verdict, state = await one.verify()
        assert verdict.verified and state["tail"] == 1 and state["covered"] == len(await one.rows()) - 1


async def test_a_worker_that_cannot_anchor_says_how_long(ground: Ground, tmp_path: Path) -> None:
    """The store lost an anchor: nothing is signed any more, and the gauge that is watched grows."""
    async with anchored(ground, tmp_path / "store") as one:
        await told(one)
        (tmp_path / "store" / slot(one.tenant, 3)).unlink()
        await one.tell(uuid4(), times=2)
        fresh = one.another()
        with pytest.raises(Broken):
            await one.anchor(fresh)
        assert fresh.waiting[one.tenant][0] >= 2 and fresh.age() > 0


async def test_a_ledger_that_was_turned_back_is_told_nothing_new(ground: Ground, tmp_path: Path) -> None:
    """Database restored from yesterday, store of today: no fact is added that would look like a new day."""
    from tests.ledger.anchored import owning

    async with anchored(ground, tmp_path / "store") as one:
        await told(one)
        cut = next(row for row in await one.rows() if row["type"] == "ledger.anchored")
        async with owning(ground) as admin:
            await admin.execute("DELETE FROM ledger WHERE tenant = $1 AND id > $2", one.tenant, cut["id"])
        await one.tell(uuid4())
        before = await one.rows()
        with pytest.raises(Broken):
            await one.anchor()
        assert await one.rows() == before
        assert not (await one.verify())[0].verified


async def test_an_object_of_any_size_is_not_taken(ground: Ground, tmp_path: Path) -> None:
    for store in (open_store(str(tmp_path)), open_store("memory:")):
        assert await store.create("a/big", bytes(MOST + 1)) and await store.create("a/fits", bytes(MOST))
        assert await store.get("a/big") is None and len(await store.get("a/fits") or b"") == MOST


async def test_what_a_killed_write_left_behind_is_no_anchor(tmp_path: Path) -> None:
    """kill -9 within a put: the store's half-written file stands under a name of its own."""
    store = open_store(str(tmp_path))
    assert await store.create("t/anchors/000000000001.json", b"whole")
    (tmp_path / "t/anchors/000000000002.json#1").write_bytes(b"ha")
    assert [name async for name in store.names("t/anchors")] == ["t/anchors/000000000001.json"]
    assert await store.create("t/anchors/000000000002.json", b"also whole")
    assert await store.get("t/anchors/000000000002.json") == b"also whole"
