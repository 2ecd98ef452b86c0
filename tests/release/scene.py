"""Instances with an environment of their own, and what has to happen in one before its gates pass."""

import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from app.build import name_of
from app.clock import iso, now
from app.ledger.keys import sealed, signer
from app.policy import SHELF
from app.release.gates import CHECKS, GATES
from tests.conftest import DEMO, Cluster, fresh
from tests.world import World
from tests.world.checks import inspector
from tests.world.life import Life, under_way
from tests.world.world import RELEASE_KEYS

DRILLS = (
    "blocked_tool", "blocked_writeback", "approved_writeback", "expired_approval", "colony_down", "provider_down",
    "malformed_payload", "replay",
)  # fmt: skip
numbers = itertools.count(1)


@asynccontextmanager
async def instance(cluster: Cluster, demo: dict[str, str], environment: str, **more: Any) -> AsyncIterator[World]:
    """A whole installation with a database of its own, that signs as itself and believes the others."""
    async with fresh(cluster, DEMO, f"test_{os.getpid()}_release_{next(numbers)}") as name:
        made = World(lambda role: cluster.url(role, name), environment=environment, **more)
        SHELF.known.clear()
        await made.open(demo)
        try:
            yield made
        finally:
            await made.close()


# --- what happens


async def drilled(world: World, *names: str, state: str = "passed", ago: str = "0 s", **more: Any) -> list[UUID]:
    """Runs of drills as the service would have written them, in the tenant that drills run in."""
    connection, runs = await inspector(world), []
    tenant = await connection.fetchval("SELECT id FROM tenant WHERE drills")
    if tenant is None:
        tenant = uuid4()
        async with connection.transaction():  # its first approval rules are made in its name
            await connection.execute("SELECT set_config('app.tenant', $1, true)", str(tenant))
            await connection.execute("INSERT INTO tenant (id, name, drills) VALUES ($1, 'drills', true)", tenant)
    for name in names or DRILLS:
        runs.append(uuid4())
        await connection.execute(
            """INSERT INTO drill_run (tenant, id, drill, state, reason, build, started_at, finished_at)
               VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp() - $7::text::interval, clock_timestamp() - $7::text::interval)""",
            tenant, runs[-1], name, state, "as_the_test_says" if state == "failed" else None,
            more.get("build", name_of(world.settings().build)), ago,
        )  # fmt: skip
    return runs


async def mission(world: World, mission_type: str = "oracle_advisory", mode: str = "dry_run", **ask: Any) -> Life:
    """A mission that completes."""
    life = await under_way(world, mission_type=mission_type, mode=mode, **ask)
    await life.complete()
    await world.run_work("review")
    assert await life.state() == "completed"
    return life


async def failed(world: World, mission_type: str = "oracle_advisory", mode: str = "dry_run") -> Life:
    """A mission that the service failed: its evidence is not what was stored."""
    life = await under_way(world, mission_type=mission_type, mode=mode)
    await life.complete(honest=False)
    await world.run_work("review")
    assert await life.state() == "failed"
    return life


async def replayed(world: World, life: Life) -> Life:
    answer = await world.submitter.post(f"/v1/missions/{life.id}/replay", json={"mode": "recorded"})
    assert answer.status_code == 202, answer.text
    again = Life(world, UUID(answer.json()["id"]))
    await world.run_work("replay", "review")
    assert await again.state() == "completed"
    return again


async def attested(world: World, **more: Any) -> dict[str, Any]:
    ask = {"claim": "stable_for_demo", "comment": "Twelve questions, asked twice."} | more
    answer = await world.product_owner.post("/v1/release/attestations", json=ask)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def all_green(world: World, mode: str = "dry_run") -> None:
    """Everything that the four gates of staging, or of a developer's machine, want to see."""
    await drilled(world)
    for kind in ("oracle_advisory", "crm_lead_intelligence"):
        await replayed(world, await mission(world, kind, mode))
    await attested(world)


# --- what is seen


async def gates(world: World, **asked: Any) -> dict[str, Any]:
    answer = await world.release_owner.get("/v1/release/gates", params=asked)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def check(world: World, name: str, **asked: Any) -> dict[str, Any]:
    found = await gates(world, **asked)
    [one] = [one for gate in found["items"] for one in gate["checks"] if one["name"] == name]
    return dict(one)


async def rungs(world: World) -> dict[str, dict[str, Any]]:
    """The rungs of this environment by name."""
    answer = await world.auditor.get("/v1/release/ladder")
    assert answer.status_code == 200, answer.text
    said = answer.json()
    return {one["rung"]: one for one in said["items"] if one["environment"] == said["environment"]}


async def enable(world: World, rung: str, **ask: Any) -> Any:
    return await world.release_owner.post(f"/v1/release/ladder/{rung}/enable", json=ask)


async def ask_for(world: World, mission_type: str, mode: str) -> Any:
    body = {"mission_type": mission_type, "user_goal": "What is missing?", "mode": mode}
    return await world.submitter.post("/v1/missions", json=body)


async def export(world: World) -> bytes:
    answer = await world.release_owner.get("/v1/release/verdict")
    assert answer.status_code == 200, answer.text
    return bytes(answer.content)


async def bring(world: World, data: bytes) -> Any:
    """Imports a verdict."""
    headers = {"Content-Type": "application/json"}
    return await world.release_owner.post("/v1/release/verdicts", content=data, headers=headers)


def signed(environment: str, key: str | None = None, **said: Any) -> bytes:
    """A verdict of another environment in which everything passes, signed by its key or another; said changes the statement."""
    signing, at = signer(RELEASE_KEYS[key or environment]), now()
    ends = iso(at + timedelta(hours=1))
    statement = {
        "purpose": "mission-root verdict 1", "by": signing.kid, "tenant": "demo", "environment": environment, "build": name_of(None),
        "migration": "0001", "result": "pass", "evidence_sha256": "0" * 64, "made_at": iso(at), "expires_at": ends,
        "ladder": {"dry_run": "dry_run", "oracle_staging": "assisted", "crm_staging": "assisted"},
        "replayed": ["crm_lead_intelligence", "oracle_advisory"],
        "gates": [
            {"gate": gate, "result": "pass", "checks": [
                {"name": one.name, "result": "pass", "reason": None, "evidence": [], "seen_at": iso(at), "expires_at": ends}
                for one in CHECKS if one.gate == gate]} for gate in GATES],
    } | said  # fmt: skip
    return sealed(statement, signing.by_kid[signing.kid])


async def look_after(world: World) -> None:
    """What the worker does about releases, now."""
    connection = await world.worker.database.connect()
    try:
        await connection.execute("SELECT restore_release_work()")
    finally:
        await connection.close()
    await world.make_due("release_check")
    assert await world.run_work("release_check", rounds=1)
