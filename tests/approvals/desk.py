"""What these tests keep doing at the human desk."""

from typing import Any

import httpx

from app import identity
from app.db import Database
from tests.world import World
from tests.world.life import Life, under_way


async def awaiting(world: World, proposals: int = 1, **ask: Any) -> Life:
    """A mission that waits for humans with some proposals."""
    life = await under_way(world, **ask)
    await life.complete(proposals=proposals)
    await world.run_work("review")
    return life


async def post(
    who: httpx.AsyncClient,
    approval: dict[str, Any],
    decision: str = "approve",
    *,
    match: str | None = "",
    key: str = "",
    **more: Any,
) -> httpx.Response:
    """A decision on an approval as it was read. match: another If-Match, or None for none; key: an Idempotency-Key."""
    headers = {"Idempotency-Key": key} if key else {}
    if match is not None:
        headers["If-Match"] = match or f'"v{approval["version"]}"'
    body = {"decision": decision, "payload_sha256": approval["payload_sha256"], "comment": "as the test says"} | more
    body = {name: value for name, value in body.items() if value is not None}
    return await who.post(f"/v1/approvals/{approval['id']}/decisions", json=body, headers=headers)


async def seen(world: World, approval: dict[str, Any]) -> dict[str, Any]:
    answer = await world.auditor.get(f"/v1/approvals/{approval['id']}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def as_registrar(world: World, statement: str, **values: Any) -> None:
    database = Database(world.url("registrar"), pool_size=1)
    async with database.write() as session:
        await identity.enter_tenant(session, "demo")
        await session.execute(statement, {"tenant": session.tenant, **values})
    await database.close()
