"""How an instance ends and begins again in its folder. Runs last: what it does to the ledger is not undone."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from tests.walks.conftest import COMMAND, Instance, alive, answers, until
from tests.walks.test_kills import create

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("instance")]
SAME = ("base_url", "internal_url", "colony_url", "crm_url", "metrics_urls", "keys", "databases", "kit_env")


def test_whatever_is_killed_comes_back_and_is_told(instance: Instance) -> None:
    key = {"Authorization": f"Bearer {instance.said['keys']['auditor']}"}
    for name in ("postgres", "registrar", "colony"):  # the others are killed in the midst of missions
        instance.kill(name)
        assert alive(instance.pid(name))
        until(lambda: answers(f"{instance.said['base_url']}/readyz"), "it is ready again")
        assert httpx.get(f"{instance.said['base_url']}/v1/missions", headers=key).status_code == 200
    until(lambda: answers(f"{instance.said['colony_url']}/health"), "the colony is there again")


def test_the_ledger_still_verifies(instance: Instance) -> None:
    with instance.client("auditor") as client:
        verdict = client.post("/v1/ledger/verify").raise_for_status().json()
    assert verdict["verified"], verdict
    assert verdict["facts"] > 50


def test_a_changed_row_is_named_by_the_anchors_in_the_data_folder(instance: Instance) -> None:
    """Changed by the database's owner, with every hash after it made to fit: only the anchors can tell."""
    with instance.client("submitter") as client:
        mission = create(client, "oracle_advisory", "Is anything here?")

    def verified() -> tuple[int, dict[str, Any], str]:
        words = ["ledger", "verify", "--anchors", "--json", "--url", instance.said["base_url"]]
        words += ["--api-key", instance.said["keys"]["auditor"]]
        done = subprocess.run([COMMAND, *words], capture_output=True, text=True, check=False, timeout=300)
        return done.returncode, json.loads(done.stdout), done.stderr

    def covered() -> bool:
        code, verdict, _ = verified()
        return code == 0 and verdict["anchors"]["state"] == "ok" and verdict["anchors"]["tail"] <= 1

    until(covered, "an anchor covers the ledger")
    folder = instance.data_dir / "anchors"
    assert list(folder.glob("*/anchors/000000000001.json")) and folder.stat().st_mode & 0o777 == 0o700
    changed = asyncio.run(rewrite(instance.said["databases"]["owner"], mission))
    code, verdict, said = verified()
    assert code == 1 and "Traceback" not in said
    bad = verdict["first_bad"]
    assert (bad["subject"], bad["seq"], bad["type"], bad["finding"]) == (*changed, "is not what was anchored")


async def rewrite(owner_url: str, mission: str) -> tuple[str, int, str]:
    """Another actor for the second fact of a mission; answers which fact that is."""
    owner = await asyncpg.connect(owner_url)
    try:
        await owner.execute("ALTER TABLE ledger DISABLE TRIGGER USER")
        await owner.execute("UPDATE ledger SET actor = 'system:nobody' WHERE subject = $1 AND seq = 2", mission)
        for seq in range(2, 1 + await owner.fetchval("SELECT max(seq) FROM ledger WHERE subject = $1", mission)):
            await owner.execute(
                """UPDATE ledger l SET prev = p.hash, hash = fact_hash(p.hash, l.tenant, l.subject, l.seq, l.type, l.actor, l.at, l.body)
                   FROM ledger p WHERE l.subject = $1 AND l.seq = $2 AND p.subject = $1 AND p.seq = $2 - 1""",
                mission, seq,
            )  # fmt: skip
        for trigger in await owner.fetch(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = 'ledger'::regclass AND NOT tgisinternal"
        ):
            await owner.execute(f"ALTER TABLE ledger ENABLE ALWAYS TRIGGER {trigger['tgname']}")
        return mission, 2, await owner.fetchval("SELECT type FROM ledger WHERE subject = $1 AND seq = 2", mission)
    finally:
        await owner.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_it_ends_cleanly_and_continues_where_it_stopped(instance: Instance) -> None:
    """SIGTERM, then started again; kill -9 of `up` itself, then started again; Ctrl-C."""
    with instance.client("submitter") as client:
        mission = create(client, "oracle_advisory", "Is anything here?")
    first = instance.said
    running = [instance.pid(name) for name in first["pids"]]
    assert instance.stop(signal.SIGTERM) == 0
    assert not any(alive(pid) for pid in running) and not Path(first["data_dir"], "up.json").exists()

    instance.start()
    assert {name: instance.said[name] for name in SAME} == {name: first[name] for name in SAME}
    with instance.client("submitter") as client:
        assert client.get(f"/v1/missions/{mission}").status_code == 200
    running = list(instance.said["pids"].values())
    instance.stop(signal.SIGKILL)

    instance.start()
    assert not any(alive(pid) for pid in running), "nothing is left of one whose supervisor was killed"
    assert instance.said["keys"] == first["keys"]
    running = list(instance.said["pids"].values())
    assert instance.stop(signal.SIGINT) == 0
    assert not any(alive(pid) for pid in running)
