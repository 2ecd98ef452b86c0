"""What Postgres keeps of webhooks: who they are, where they have read to, and secrets that only end."""

import asyncio
from uuid import uuid4

from tests.walls.ground import DENIED, Ground

FACT = "INSERT INTO ledger (tenant, subject, type, actor, body) VALUES ($1, $1, 'mission.running', 'system:api', '{}')"


async def test_a_webhook_keeps_its_identity_and_a_deleted_one_stays_deleted(ground: Ground) -> None:
    webhook = await ground.webhook()
    for change in ("id = gen_random_uuid()", "created_at = now()", "created_by = gen_random_uuid()"):
        await ground.refused("RX001", "owner", f"UPDATE webhook SET {change} WHERE id = $1", webhook)
    await ground.run("api", "UPDATE webhook SET state = 'deleted' WHERE id = $1", webhook)
    for change in ("state = 'active'", "url = 'https://example.org'", "after_id = 9"):
        await ground.refused("RX001", "owner", f"UPDATE webhook SET {change} WHERE id = $1", webhook)


async def test_a_reading_position_only_advances(ground: Ground) -> None:
    webhook = await ground.webhook()
    await ground.run("worker", "UPDATE webhook SET after_xid = '7', after_id = 3 WHERE id = $1", webhook)
    for back in ("after_xid = '6'", "after_id = 2", "after_xid = '6', after_id = 9"):
        await ground.refused("RX001", "worker", f"UPDATE webhook SET {back} WHERE id = $1", webhook)
    await ground.refused(DENIED, "api", "UPDATE webhook SET after_id = 99 WHERE id = $1", webhook)


async def test_versions_count_what_the_owner_changes(ground: Ground) -> None:
    webhook = await ground.webhook()

    async def version(change: str, role: str = "api") -> int:
        changed = f"UPDATE webhook SET {change} WHERE id = $1 RETURNING version"
        return await ground.value(role, changed, webhook)

    assert await version("after_xid = '7'", "worker") == 1
    assert await version("failures = 1, failing_since = now()", "worker") == 1
    assert await version("url = 'https://example.org'") == 2
    assert await version("types = '{mission.*}'") == 3
    assert await version("description = 'x'") == 4
    assert await version("state = 'paused'") == 5
    assert await version("version = 99", "owner") == 5
    late = "UPDATE webhook SET description = 'y', updated_at = 'epoch' WHERE id = $1 RETURNING updated_at > created_at"
    assert await ground.value("owner", late, webhook)


async def test_a_secret_only_ends(ground: Ground) -> None:
    webhook = await ground.webhook()
    for change in (
        "sealed = sealed || '\\x00'",
        "kind = 'v1a', public_key = sha256('x')",
        "webhook = gen_random_uuid()",
        "id = gen_random_uuid()",
    ):
        await ground.refused("RX001", "owner", f"UPDATE webhook_secret SET {change} WHERE webhook = $1", webhook)
    ended = "UPDATE webhook_secret SET expires_at = now() + interval '1 hour' WHERE webhook = $1"
    await ground.run("api", ended, webhook)
    await ground.refused("RX001", "api", "UPDATE webhook_secret SET expires_at = NULL WHERE webhook = $1", webhook)
    await ground.refused(
        "RX001", "api", "UPDATE webhook_secret SET expires_at = now() + interval '2 hours' WHERE webhook = $1", webhook
    )
    await ground.refused(DENIED, "api", "SELECT sealed FROM webhook_secret")
    await ground.refused(DENIED, "auditor", "SELECT sealed FROM webhook_secret")


async def test_a_delivery_keeps_what_it_is_about_and_a_fact_is_planned_once(ground: Ground) -> None:
    webhook, delivery = await ground.webhook(), uuid4()
    insert = """INSERT INTO webhook_delivery (tenant, id, webhook, message, type, subject, seq)
                VALUES ($1, $2, $3, 'm', 'tenant.created', $1, $4)"""
    mission = await ground.mission()
    await ground.run("api", FACT, ground.tenant)
    await ground.run("worker", insert, ground.tenant, delivery, webhook, 1)
    await ground.refused("23505", "worker", insert, ground.tenant, uuid4(), webhook, 1)
    await ground.refused("23503", "worker", insert, ground.tenant, uuid4(), webhook, 999)
    await ground.refused("23503", "worker", insert, ground.tenant, uuid4(), mission, 1)
    for change in (
        "message = 'n'",
        "type = 'x.y'",
        "seq = 2",
        "webhook = gen_random_uuid()",
        "created_at = now()",
        "id = gen_random_uuid()",
    ):
        await ground.refused("RX001", "owner", f"UPDATE webhook_delivery SET {change} WHERE id = $1", delivery)
    cancelled = "UPDATE webhook_delivery SET state = 'cancelled', settled_at = now() WHERE id = $1"
    await ground.run("api", cancelled, delivery)
    again = "UPDATE webhook_delivery SET state = 'pending', settled_at = NULL WHERE id = $1"
    await ground.refused("RX001", "worker", again, delivery)


async def test_the_worker_hears_which_webhooks_wait_whose_ever_they_are(ground: Ground) -> None:
    webhook = await ground.webhook()
    await ground.run("api", FACT, ground.tenant)
    worker = await ground.of("worker")

    async def waits() -> bool:
        return webhook in {row["webhook"] for row in await worker.fetch("SELECT * FROM waiting_webhooks(1000)")}

    async with asyncio.timeout(10):
        while not await waits():  # until older transactions of the cluster are over, whosever they are
            await asyncio.sleep(0.01)
    await ground.run("admin", "UPDATE tenant SET suspended_at = now() WHERE id = $1", ground.tenant)
    assert not await waits()
    await ground.run("admin", "UPDATE tenant SET suspended_at = NULL WHERE id = $1", ground.tenant)
    assert await waits()
    await ground.run("api", "UPDATE webhook SET state = 'paused' WHERE id = $1", webhook)
    assert not await waits()


async def test_deliveries_are_not_emptied_and_nobody_deletes_one(ground: Ground) -> None:
    await ground.webhook()
    said = await ground.refused("RX001", "admin", "TRUNCATE webhook_delivery")
    assert said == "wall: TRUNCATE on webhook_delivery is forbidden"
    for role in ("api", "worker", "auditor", "registrar", "executor", "reader"):
        await ground.refused(DENIED, role, "DELETE FROM webhook_delivery")
