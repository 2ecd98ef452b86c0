"""`mission-root ledger` as a person uses it, against the root on a real socket."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.inprocess import Done, command
from tests.conftest import Cluster
from tests.delivery.streams import serving
from tests.ledger.test_ledger_api import PUBLIC, SEED, anchor
from tests.ledger.test_ledger_api import signed as signed
from tests.world import World


async def call(*words: str, **environment: str) -> Done:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANCHOR_", "MISSION_ROOT_"))}
    return await asyncio.to_thread(command, "ledger", *words, environment=kept | environment)


@pytest.fixture
async def served(signed: World) -> AsyncIterator[Any]:
    """Says a command to the served world as its auditor."""
    async with serving(signed) as url:

        async def said(*words: str, key: str = "") -> Done:
            return await call(*words, "--url", url, "--api-key", key or signed.people["auditor"].key)

        yield said


async def test_nothing_is_anchored_yet(served: Any, signed: World) -> None:
    await signed.create()
    assert (await served("verify")).returncode == 0
    done = await served("verify", "--anchors")
    assert done.returncode == 1 and "No anchor covers the ledger (state none)" in done.stderr
    assert (await served("anchors")).stdout == "Nothing is anchored yet.\n"


async def test_anchors_are_listed_and_cover_the_ledger(served: Any, signed: World) -> None:
    for _ in range(2):
        await signed.create()
        await anchor(signed)
    done = await served("verify", "--anchors", "--json")
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["verified"] and verdict["anchors"]["covered"] == verdict["facts"] - 1 > 0
    found = json.loads((await served("anchors", "--json")).stdout)
    assert [one["number"] for one in found] == list(range(1, verdict["anchors"]["anchors"] + 1))
    shown = (await served("anchors", "--limit", "1")).stdout
    assert shown.count("\n") == 1 and found[0]["root"][:16] in shown and "key old" in shown


async def test_what_was_changed_is_named_and_the_exit_code_says_so(served: Any, signed: World) -> None:
    await signed.create()
    await anchor(signed)
    admin = await signed.connect("admin")
    async with admin.transaction():
        await admin.execute("ALTER TABLE ledger DISABLE TRIGGER USER")
        await admin.execute("UPDATE ledger SET actor = 'system:x' WHERE type = 'mission.accepted'")
    done = await served("verify", "--anchors")
    assert done.returncode == 1 and "mission.accepted" in done.stderr and "Traceback" not in done.stderr


async def test_an_export_is_verified_by_the_file_that_came_with_it(served: Any, signed: World, tmp_path: Path) -> None:
    mission = (await signed.create())["id"]
    await anchor(signed)
    checker = tmp_path / "verify_ledger.py"
    for more, name in ((), "whole.jsonl"), (("--mission", mission), "mission.jsonl"):
        file = tmp_path / name
        done = await served("export", "--out", str(file), "--verifier", str(checker), "--json", *more)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"file": str(file), "bytes": file.stat().st_size}
        ended = subprocess.run(
            [sys.executable, "-I", str(checker), str(file), "--key", PUBLIC],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        verdict = json.loads(ended.stdout)
        assert ended.returncode == 0 and verdict["covered"] > 0 and verdict["subject"] == (mission if more else None)
    refused = await served("export", "--out", str(tmp_path / "none"), key=signed.people["submitter"].key)
    assert refused.returncode == 4 or refused.returncode == 3, refused.stderr
    assert "Traceback" not in refused.stderr
    assert sorted(path.name for path in tmp_path.glob("*none*")) == []


async def test_the_auditors_url_names_what_cannot_be_used(signed: World, tmp_path: Path) -> None:
    await signed.create()
    await anchor(signed)
    tenant, store = str(await signed.tenant()), str(tmp_path / "anchors")
    url = signed.url("auditor")
    given = ["--tenant", tenant, "--anchor-store", store, "--public-keys", PUBLIC]
    assert (await call("verify", "--anchors", "--database-url", url, *given)).returncode == 0
    password = url.split("://", 1)[1].split(":", 1)[1].split("@", 1)[0]
    for wrong, words, code in (
        (url.replace(f":{password}@", ":wrong@"), given, 7),
        (url.rpartition("/")[0] + "/absent", given, 7),
        ("postgresql://x:y@127.0.0.1:1/none", given, 7),
        (signed.url("executor"), given, 7),
        ("nonsense", given, 2),
        (url, ["--tenant", "nobody"], 2),
        (url, ["--tenant", tenant, "--public-keys", "x"], 2),
        (url, ["--tenant", tenant, "--anchor-store", "/dev/null/x"], 2),
    ):
        done = await call("verify", "--anchors", "--database-url", wrong, *words)
        assert (done.returncode, done.stdout) == (code, ""), (words, done.stderr[-300:])
        assert (
            done.stderr.startswith("mission-root: ") and "Traceback" not in done.stderr and "wrong" not in done.stderr
        )


async def test_keys_are_made_and_shown_without_their_secret_half(cluster: Cluster) -> None:
    made = json.loads((await call("keys", "--new", "2027a", "--json")).stdout)
    seed = made["signing_key"].partition(":")[2]
    assert len(base64.b64decode(seed)) == 32
    shown = await call(
        "keys", ANCHOR_SIGNING_KEY=f"{made['signing_key']},{SEED.get_secret_value()}", ANCHOR_REVOKED_KEYS="old"
    )
    assert shown.returncode == 0, shown.stderr
    assert f"{made['public_key']}  signs\n" in shown.stdout and f"{PUBLIC}  revoked\n" in shown.stdout
    assert seed not in shown.stdout
    for wrong in ("a b", "a:b", "x" * 41):
        done = await call("keys", "--new", wrong)
        assert done.returncode == 2 and done.stderr.startswith("mission-root: ")
    done = await call("keys", ANCHOR_SIGNING_KEY="old:AAAA")
    assert done.returncode == 2 and "kid:base64" in done.stderr and "AAAA" not in done.stderr


async def test_without_keys_it_says_so() -> None:
    done = await call("keys")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1), done.stderr
    assert done.stdout.startswith("No keys are set")
    assert json.loads((await call("keys", "--json")).stdout) == []
