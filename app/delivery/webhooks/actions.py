"""What an owner does with a webhook: make, change, rotate, end, try out, deliver again. Each is one fact."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import text

from app import ledger, work
from app.caller import Caller
from app.clock import new_id, now
from app.db import WriteSession
from app.delivery.webhooks import signatures
from app.delivery.webhooks.queries import Delivery, Webhook, delivery, one
from app.delivery.webhooks.sealing import seal
from app.errors import Problem
from colony_client.signing import Keys

MOST_WEBHOOKS = 50  # of a tenant, deleted ones aside
MOST_SECRETS = 6  # live ones of a webhook, so that the signature header stays short
REDELIVER_AT_ONCE = 1000
MOST_TESTS = 10  # test messages of a webhook that wait

INSERT = text("""
  INSERT INTO webhook (tenant, id, url, types, description, created_by, after_xid, after_id)
  SELECT :tenant, :id, :url, :types, :description, :created_by,
    CASE WHEN :from_start THEN '0'::xid8 ELSE pg_snapshot_xmin(pg_current_snapshot()) END, 0""")
INSERT_SECRET = text("""INSERT INTO webhook_secret (tenant, id, webhook, kind, sealed, public_key)
                        VALUES (:tenant, :id, :webhook, :kind, :sealed, :public_key)""")
CHANGE = text("""UPDATE webhook SET url = :url, types = :types, description = :description, state = :state,
                   failures = CASE WHEN :forgive THEN 0 ELSE failures END,
                   failing_since = CASE WHEN :forgive THEN NULL ELSE failing_since END,
                   blocked_until = CASE WHEN :forgive THEN NULL ELSE blocked_until END
                 WHERE tenant = :tenant AND id = :id""")
WAKE = text("SELECT id FROM webhook_delivery WHERE tenant = :tenant AND webhook = :webhook AND state = 'pending'")
END_SECRETS = text("""UPDATE webhook_secret SET expires_at = LEAST(COALESCE(expires_at, 'infinity'), :until)
                      WHERE tenant = :tenant AND webhook = :webhook AND kind = :kind
                        AND (expires_at IS NULL OR expires_at > clock_timestamp())""")
LIVE = text("""SELECT count(*) FROM webhook_secret WHERE tenant = :tenant AND webhook = :webhook
                 AND (expires_at IS NULL OR expires_at > clock_timestamp())""")
CANCEL = text("""UPDATE webhook_delivery SET state = 'cancelled', settled_at = clock_timestamp(), next_at = NULL
                 WHERE tenant = :tenant AND webhook = :webhook AND state = 'pending'""")
INSERT_TEST = text("""INSERT INTO webhook_delivery (tenant, id, webhook, message, type, next_at)
                      VALUES (:tenant, :id, :webhook, :message, 'webhook.tested', clock_timestamp())""")
AGAIN = text("""UPDATE webhook_delivery SET state = 'pending', tries = 0, settled_at = NULL, next_at = clock_timestamp()
                WHERE tenant = :tenant AND webhook = :webhook AND id = ANY(:ids) AND state IN ('delivered', 'dead') RETURNING id""")
TESTS = text("""SELECT count(*) FROM webhook_delivery WHERE tenant = :tenant AND webhook = :webhook AND state = 'pending'
                  AND subject IS NULL""")
DEAD = text("""SELECT id FROM webhook_delivery WHERE tenant = :tenant AND webhook = :webhook AND state = 'dead'
               ORDER BY created_at, id LIMIT :limit""")


@dataclass(frozen=True)
class Made:
    """A new secret at the only moment it is known. secret: whsec_…; None for Ed25519, whose public half stays readable."""

    id: UUID
    kind: signatures.Kind
    public_key: str | None
    secret: str | None = field(repr=False)


async def create(
    session: WriteSession,
    caller: Caller,
    keys: Keys,
    *,
    url: str,
    types: list[str],
    description: str | None,
    kinds: list[signatures.Kind],
    from_start: bool,
) -> tuple[Webhook, list[Made]]:
    """A webhook that hears of every fact from now on, or of all there ever were. Raises Problem wrong_state at the bound."""
    count = await session.scalar(
        "SELECT count(*) FROM webhook WHERE tenant = :tenant AND state <> 'deleted'", {"tenant": session.tenant}
    )
    if count >= MOST_WEBHOOKS:
        raise Problem("wrong_state", f"There are {MOST_WEBHOOKS} webhooks already; delete one first.")
    webhook = new_id()
    await session.execute(
        INSERT,
        {
            "tenant": session.tenant,
            "id": webhook,
            "url": url,
            "types": types,
            "description": description,
            "created_by": caller.principal,
            "from_start": from_start,
        },
    )
    made = [await add_secret(session, keys, webhook, kind) for kind in kinds]
    await ledger.record(
        session, caller, "webhook.created", caller.tenant, webhook=webhook, secrets=[one.id for one in made]
    )
    return await found(session, webhook), made


async def add_secret(session: WriteSession, keys: Keys, webhook: UUID, kind: signatures.Kind) -> Made:
    secret, id = signatures.make(kind), new_id()
    assert session.tenant is not None
    await session.execute(
        INSERT_SECRET,
        {
            "tenant": session.tenant,
            "id": id,
            "webhook": webhook,
            "kind": kind,
            "sealed": seal(keys, session.tenant, id, secret.raw),
            "public_key": secret.public,
        },
    )
    public = signatures.public_text(secret.public) if secret.public else None
    return Made(id, kind, public, secret.text if kind == "v1" else None)


async def change(session: WriteSession, caller: Caller, before: Webhook, changes: dict[str, Any]) -> Webhook:
    """Sets url, types, description or state. Made active again, a webhook is tried at once, whatever failed before."""
    after = {name: changes.get(name, getattr(before, name)) for name in ("url", "types", "description", "state")}
    forgive = after["state"] == "active" and (before.state != "active" or after["url"] != before.url)
    await session.execute(CHANGE, {"tenant": session.tenant, "id": before.id, "forgive": forgive, **after})
    if forgive:
        await wake(
            session, [row.id for row in await session.rows(WAKE, {"tenant": session.tenant, "webhook": before.id})]
        )
        session.nudge(ledger.FACTS)
    changed = sorted(name for name in after if after[name] != getattr(before, name))
    await ledger.record(
        session, caller, "webhook.changed", caller.tenant, webhook=before.id, changed=changed, state=after["state"]
    )
    return await found(session, before.id)


async def rotate(
    session: WriteSession, caller: Caller, keys: Keys, webhook: Webhook, kind: signatures.Kind, overlap: timedelta
) -> Made:
    """A new secret of a kind. Those it replaces sign along until the overlap ends, so that no receiver is cut off."""
    until = now() + overlap
    await session.execute(END_SECRETS, {"tenant": session.tenant, "webhook": webhook.id, "kind": kind, "until": until})
    if await session.scalar(LIVE, {"tenant": session.tenant, "webhook": webhook.id}) >= MOST_SECRETS:
        raise Problem(
            "wrong_state",
            f"{MOST_SECRETS} secrets are live already; wait for an overlap to end, or ask for a shorter one.",
        )
    made = await add_secret(session, keys, webhook.id, kind)
    await ledger.record(
        session, caller, "webhook.secret_rotated", caller.tenant, webhook=webhook.id, secret=made.id, old_until=until
    )
    return made


async def delete(session: WriteSession, caller: Caller, webhook: Webhook) -> None:
    """Ends a webhook and what it still had to deliver."""
    await session.execute(
        "UPDATE webhook SET state = 'deleted' WHERE tenant = :tenant AND id = :id",
        {"tenant": session.tenant, "id": webhook.id},
    )
    cancelled = await session.execute(CANCEL, {"tenant": session.tenant, "webhook": webhook.id})
    await ledger.record(
        session, caller, "webhook.deleted", caller.tenant, webhook=webhook.id, cancelled=cancelled.rowcount
    )


async def test(session: WriteSession, caller: Caller, webhook: Webhook) -> Delivery:
    """Sends a message that is about nothing, signed and tried like any other."""
    require_active(webhook)
    if await session.scalar(TESTS, {"tenant": session.tenant, "webhook": webhook.id}) >= MOST_TESTS:
        raise Problem("wrong_state", f"{MOST_TESTS} test messages are waiting already; see what comes of them first.")
    id = new_id()
    await session.execute(
        INSERT_TEST, {"tenant": session.tenant, "id": id, "webhook": webhook.id, "message": f"test_{id}"}
    )
    await work.add(session, "webhook_send", id)
    await ledger.record(session, caller, "webhook.tested", caller.tenant, webhook=webhook.id, delivery=id)
    made = await delivery(session, webhook.id, id)
    assert made is not None
    return made


async def redeliver(session: WriteSession, caller: Caller, webhook: Webhook, ids: list[UUID] | Literal["dead"]) -> int:
    """Sends again, under the message ids of before: named deliveries, or all dead ones up to a bound. Answers how many."""
    require_active(webhook)
    if ids == "dead":
        rows = await session.rows(DEAD, {"tenant": session.tenant, "webhook": webhook.id, "limit": REDELIVER_AT_ONCE})
        ids = [row.id for row in rows]
    again = await session.rows(AGAIN, {"tenant": session.tenant, "webhook": webhook.id, "ids": ids})
    await wake(session, [row.id for row in again])
    if ids:
        await ledger.record(
            session, caller, "webhook.redelivered", caller.tenant, webhook=webhook.id, deliveries=len(again)
        )
    return len(again)


async def wake(session: WriteSession, ids: list[UUID]) -> None:
    """Has these deliveries tried now, all in one round trip."""
    kind, queue = "webhook_send", work.KINDS["webhook_send"]
    if ids:
        wanted = [
            {"tenant": session.tenant, "kind": kind, "subject": id, "queue": queue, "at": None} for id in sorted(ids)
        ]
        await session.execute(work.ADD, wanted)
        session.nudge(work.channel(kind))


def require_active(webhook: Webhook) -> None:
    if webhook.state != "active":
        raise Problem(
            "wrong_state",
            f"The webhook is {webhook.state}; make it active first.",
            current={"id": str(webhook.id), "state": webhook.state},
        )


async def found(session: WriteSession, webhook: UUID) -> Webhook:
    known = await one(session, webhook)
    assert known is not None
    return known
