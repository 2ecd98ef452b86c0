"""Verification, anchors, proofs and export through the public door and the command line."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr

from app.ledger import offline
from app.ledger.merkle import leaf_hash, verify_inclusion
from app.main import Root
from app.settings import Misconfigured
from app.worker import Worker
from tests.conftest import Cluster
from tests.ledger.anchored import OLD
from tests.world import World
from tests.world.checks import inspector, problem

PUBLIC = "old:" + base64.b64encode(OLD.public()["old"]).decode()
SEED = SecretStr("old:" + base64.b64encode(b"o" * 32).decode())


@pytest.fixture
async def signed(cluster: Cluster, database: str, tmp_path: Path) -> AsyncIterator[World]:
    """A world whose ledger is anchored in tmp_path/anchors by its worker."""
    made = World(
        lambda role: cluster.url(role, database),
        anchor_store=str(tmp_path / "anchors"),
        anchor_public_keys=PUBLIC,
        anchor_interval_s=0.01,
    )
    await made.open()
    try:
        yield made
    finally:
        await made.close()


# of the whole cluster: any of them holds back what is settled
RUNNING = """SELECT datname, application_name, state, backend_xid, now() - xact_start AS since, left(query, 80) AS query
             FROM pg_stat_activity WHERE backend_xid IS NOT NULL OR backend_xmin IS NOT NULL"""


async def anchor(world: World) -> None:
    """A worker process's loop until it has anchored everything that is there, also what it said while it stopped."""

    async def all_of_it() -> bool:
        tail: int = (await world.auditor.post("/v1/ledger/verify")).json()["anchors"]["tail"]
        return tail == 1

    try:
        async with asyncio.timeout(40):
            while not await all_of_it():
                worker = Worker(world.settings(anchor_signing_key=SEED))
                running = asyncio.create_task(worker.run())
                try:
                    while not await all_of_it():
                        await asyncio.sleep(0.05)
                finally:
                    worker.stopping.set()
                    await running
    except TimeoutError:
        admin = await inspector(world)
        running_ones = await admin.fetch(RUNNING)
        due = await admin.fetch(
            "SELECT kind, attempts, next_at - now() AS next, lease_until - now() AS lease FROM work"
        )
        raise AssertionError(f"not anchored; open transactions: {running_ones}; work: {due}") from None


async def test_the_worker_anchors_and_everybody_can_check(signed: World, tmp_path: Path) -> None:
    mission = (await signed.create())["id"]
    before = (await signed.auditor.post("/v1/ledger/verify")).json()
    assert before["verified"] and before["anchors"]["state"] == "none" and before["anchors"]["tail"] == before["facts"]
    await anchor(signed)
    verdict = (await signed.auditor.post("/v1/ledger/verify")).json()
    assert verdict["verified"] and verdict["anchors"]["state"] == "ok" and verdict["anchors"]["failed"] == []
    assert verdict["anchors"]["covered"] == verdict["facts"] - 1

    first = (await signed.auditor.get("/v1/ledger/anchors?limit=1")).json()["items"]
    assert first[0]["number"] == 1 and first[0]["key"] == "old" and first[0]["previous"] is None
    [fact] = (await signed.auditor.get(f"/v1/ledger?subject={mission}&limit=1")).json()["items"]
    proof = (await signed.auditor.get(f"/v1/ledger/facts/{fact['id']}/proof")).json()
    path = [bytes.fromhex(one) for one in proof["path"]]
    root, size = bytes.fromhex(proof["anchor"]["root"]), proof["anchor"]["tree_size"]
    leaf = leaf_hash(proof["leaf_data"].encode())
    assert proof["leaf_data"].startswith(f"{fact['id']} {mission} 1 ")
    assert verify_inclusion(leaf, proof["index"], size, path, root)
    assert not verify_inclusion(leaf, proof["index"] + 1, size, path, root)

    for query in ("", f"?subject={mission}"):
        answer = await signed.auditor.get(f"/v1/ledger/export{query}")
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/jsonl"
        (tmp_path / "export.jsonl").write_bytes(answer.content)
        assert offline.verify(tmp_path / "export.jsonl", OLD.public())["verified"]


async def test_what_is_not_there_or_not_anchored_yet(signed: World) -> None:
    mission = (await signed.create())["id"]
    [fact] = (await signed.auditor.get(f"/v1/ledger?subject={mission}&limit=1")).json()["items"]
    problem(await signed.auditor.get(f"/v1/ledger/facts/{fact['id']}/proof"), "wrong_state")
    for nowhere in ("1-1", "x", str(uuid4()), "99999999999999999999-1"):
        problem(await signed.auditor.get(f"/v1/ledger/facts/{nowhere}/proof"), "not_found")
    stranger = await signed.another_tenant()
    problem(await stranger.http.get(f"/v1/ledger/facts/{fact['id']}/proof"), "not_found")
    problem(await signed.auditor.get(f"/v1/ledger/export?subject={uuid4()}"), "not_found")
    problem(await stranger.http.get(f"/v1/ledger/export?subject={mission}"), "not_found")
    problem(await signed.submitter.get("/v1/ledger/export"), "forbidden")
    assert (await signed.auditor.get("/v1/ledger/anchors")).json() == {
        "items": [],
        "next_cursor": None,
        "has_more": False,
    }


def component(status: dict[str, object]) -> dict[str, object]:
    [found] = [one for one in status["components"] if one["name"] == "anchors"]  # type: ignore[attr-defined]
    return found


async def test_status_says_when_anchors_are_off(world: World) -> None:
    off = component((await world.operator.get("/v1/status")).json())
    assert off["state"] == "off" and off["detail"] == "ANCHOR_STORE is not set" and off["effect"]


async def test_status_says_when_anchors_are_late(signed: World) -> None:
    await signed.create()
    await asyncio.sleep(0.05)  # three intervals of a hundredth of a second
    late = (await signed.operator.get("/v1/status")).json()
    assert component(late)["state"] == "degraded" and component(late)["effect"] and late["status"] == "degraded"
    await anchor(signed)
    assert component((await signed.operator.get("/v1/status")).json())["state"] == "up"


async def test_who_serves_http_cannot_sign(signed: World, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="ANCHOR_SIGNING_KEY"):
        Root(signed.settings(anchor_signing_key=SEED))
    key = {"anchor_signing_key": SEED}
    for wrong in (
        {"anchor_signing_key": SecretStr("x:y")},
        key | {"anchor_public_keys": "x"},
        key | {"anchor_store": "/dev/null/x"},
    ):
        with pytest.raises(Misconfigured, match="ANCHOR_"):
            Worker(signed.settings(**wrong))
    assert Worker(signed.settings()).anchorer is None
    assert Worker(signed.settings(anchor_signing_key=SEED)).anchorer.interval == timedelta(seconds=0.01)  # type: ignore[union-attr]


async def test_the_auditors_database_url_is_enough_to_verify(signed: World, tmp_path: Path) -> None:
    await signed.create()
    await anchor(signed)
    tenant = await signed.tenant()
    asked = [
        sys.executable, "-m", "app.cli.main", "ledger", "verify", "--anchors", "--json", "--database-url", signed.url("auditor"),
        "--tenant", str(tenant), "--anchor-store", str(tmp_path / "anchors"), "--public-keys", PUBLIC,
    ]  # fmt: skip

    async def run() -> tuple[int, str, str]:
        ended = await asyncio.to_thread(
            subprocess.run, asked, capture_output=True, text=True, env=os.environ, check=False
        )
        return ended.returncode, ended.stdout, ended.stderr

    code, out, err = await run()
    assert code == 0, err
    assert json.loads(out)["anchors"]["state"] == "ok"
    admin = await signed.connect("admin")
    async with admin.transaction():
        await admin.execute("ALTER TABLE ledger DISABLE TRIGGER USER")
        await admin.execute("UPDATE ledger SET body = '{}' WHERE tenant = $1 AND type = 'mission.accepted'", tenant)
    code, out, err = await run()
    assert code == 1 and json.loads(out)["first_bad"]["type"] == "mission.accepted" and "first bad fact" in err
