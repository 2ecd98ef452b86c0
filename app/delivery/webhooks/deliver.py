"""From the ledger to the receivers: what is to be delivered is planned from the reading cursor, then each is tried.

Planning is one transaction per webhook: the next facts in reading order, a delivery row and a work row for those that
fit, and the cursor moved. Sending is one leased work row per delivery: read, call outside any transaction, write down
what came of it. A crash in between sends the same message again under the same `webhook-id`: at least once.
"""

import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import text

from app import ledger, work
from app.caller import Caller, system
from app.clock import iso, now
from app.db import Database, ReadSession, WriteSession
from app.delivery.webhooks import signatures
from app.delivery.webhooks.sealing import CannotOpen, unseal
from app.ledger import Fact, Position, fact_view, facts
from app.telemetry import WEBHOOKS
from app.work import ITEM, Item
from colony_client.signing import Keys

log = structlog.get_logger("webhooks")

PLAN_AT_ONCE = 200
BACKLOG = 1000  # pending deliveries of one webhook; beyond that the cursor waits, and the ledger keeps the rest
RETRY_S = (5, 30, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)  # a message is given up after three days
LONGEST_BLOCK_S = 300
GIVE_UP = timedelta(days=5)  # an address that failed this long is paused
KEEP_TRIES = 10
NEVER = "webhook."  # facts about deliveries would beget deliveries

TAKE = "SELECT * FROM take_webhook_work($1, $2, $3, $4, $5, $6)"
PLANNABLE = text("""SELECT id, types, after_xid::text AS after_xid, after_id,
    (SELECT count(*) FROM webhook_delivery d WHERE d.tenant = w.tenant AND d.webhook = w.id AND d.state = 'pending') AS pending
  FROM webhook w WHERE tenant = :tenant AND id = :id AND state = 'active' FOR UPDATE SKIP LOCKED""")
INSERT = text("""INSERT INTO webhook_delivery (tenant, id, webhook, message, type, subject, seq, next_at)
  VALUES (:tenant, gen_random_uuid(), :webhook, :message, :type, :subject, :seq, clock_timestamp())
  ON CONFLICT (tenant, webhook, subject, seq) DO NOTHING RETURNING id""")
ADVANCE = text("""UPDATE webhook SET after_xid = CAST(CAST(:xid AS text) AS xid8), after_id = :after
                  WHERE tenant = :tenant AND id = :id""")
READ = text("""
  SELECT d.webhook, d.message, d.type, d.subject, d.seq, d.state, d.tries, d.last_tries, d.created_at, w.url, w.state AS webhook_state,
    w.blocked_until
  FROM webhook_delivery d JOIN webhook w ON w.tenant = d.tenant AND w.id = d.webhook
  WHERE d.tenant = :tenant AND d.id = :id""")
SECRETS = text("""SELECT id, kind, sealed FROM webhook_secret
  WHERE tenant = :tenant AND webhook = :webhook AND (expires_at IS NULL OR expires_at > clock_timestamp())
  ORDER BY created_at DESC, id DESC""")
OF_FACT = text("""SELECT tenant, xid::text AS xid, id, subject, seq, type, actor, at, body FROM ledger
                  WHERE tenant = :tenant AND subject = :subject AND seq = :seq""")
SETTLE = text("""
  UPDATE webhook_delivery SET state = :state, tries = :tries, last_tries = CAST(:last_tries AS jsonb), next_at = :next_at,
    settled_at = CASE WHEN :state <> 'pending' THEN clock_timestamp() END
  WHERE tenant = :tenant AND id = :id AND state = 'pending'""")
WELL = text("""UPDATE webhook SET failures = 0, failing_since = NULL, blocked_until = NULL
               WHERE tenant = :tenant AND id = :id AND failures > 0""")
ILL = text("""
  UPDATE webhook SET failures = failures + 1, failing_since = COALESCE(failing_since, clock_timestamp()),
    blocked_until = clock_timestamp() + make_interval(secs => GREATEST(:wait, LEAST(power(2, LEAST(failures, 10)), :longest)))
  WHERE tenant = :tenant AND id = :id RETURNING failing_since""")
# Whoever changes a webhook holds it and then asks for its work, so a try that will touch it takes it before its own work row.
HOLD = text("""SELECT 1 FROM webhook WHERE tenant = :tenant AND id = :id AND (failures > 0 OR NOT CAST(:delivered AS boolean))
               FOR NO KEY UPDATE""")
PAUSE = text("UPDATE webhook SET state = 'paused' WHERE tenant = :tenant AND id = :id AND state = 'active'")


@dataclass(frozen=True)
class Tried:
    """What one try came to. error: a code, never what the other side said; retry_after_s: its own wish."""

    status: int | None
    error: str | None
    ms: int
    retry_after_s: float | None = None

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True)
class Message:
    """A delivery that is to be tried now."""

    webhook: UUID
    id: str
    type: str
    url: str
    body: bytes
    tries: int
    last_tries: list[dict[str, Any]]
    secrets: list[signatures.Secret]


async def waiting(database: Database) -> list[tuple[UUID, UUID]]:
    """(tenant, webhook) of those with facts before them."""
    rows = await database.fetch("SELECT * FROM waiting_webhooks(1000)")
    return [(row["tenant"], row["webhook"]) for row in rows]


async def take(
    database: Database,
    limit: int,
    lease: timedelta,
    held: Iterable[tuple[UUID, UUID | None]],
    each: int,
    share: int,
) -> list[tuple[Item, UUID | None]]:
    """Leases due deliveries, each with its webhook: at most `each` of a webhook and `share` of a tenant, beside what is held."""
    held = list(held)
    tenants, webhooks = (
        (json.dumps(Counter(map(str, ids))) for ids in zip(*held, strict=True)) if held else ("{}", "{}")
    )
    rows = await database.fetch(TAKE, limit, lease, webhooks, tenants, each, share)
    return [(Item(*(row[name] for name in ITEM)), row["webhook"]) for row in rows]


async def plan(session: WriteSession, webhook: UUID) -> bool:
    """Looks at the next facts for a webhook. True when there may be more; False also when somebody else is at it."""
    row = await session.first(PLANNABLE, {"tenant": session.tenant, "id": webhook})
    if row is None or row.pending >= BACKLOG:
        return False
    found = await facts(session, Position(int(row.after_xid), row.after_id), PLAN_AT_ONCE)
    for fact in found:
        if wanted(row.types, fact.type):
            delivery = await session.scalar(
                INSERT,
                {
                    "tenant": session.tenant,
                    "webhook": webhook,
                    "message": f"fact_{fact.position}",
                    "type": fact.type,
                    "subject": fact.subject,
                    "seq": fact.seq,
                },
            )
            if delivery is not None:
                await work.add(session, "webhook_send", delivery)
    if found:
        last = found[-1].position
        await session.execute(
            ADVANCE, {"tenant": session.tenant, "id": webhook, "xid": str(last.xid), "after": last.id}
        )
    return len(found) == PLAN_AT_ONCE


def wanted(types: list[str], type: str) -> bool:
    """Whether a list of types (`mission.completed`, `approval.*`, `*`) holds a fact's type."""
    if type.startswith(NEVER):
        return False
    return any(
        one in ("*", type) or (one.endswith(".*") and type.startswith(one[:-1]))
        for one in types
    )  # fmt: skip


async def message(session: ReadSession, keys: Keys, delivery: UUID) -> Message | str | None:
    """What is to be sent; a code when it cannot be sent yet; None when there is nothing to send. Raises CannotOpen."""
    row = await session.first(READ, {"tenant": session.tenant, "id": delivery})
    if row is None or row.state != "pending" or row.webhook_state != "active":
        return None
    if row.blocked_until is not None and row.blocked_until > now():
        return "blocked"
    if row.subject is None:
        body = {"type": row.type, "timestamp": iso(row.created_at), "data": {"webhook": str(row.webhook), "test": True}}
    else:
        said = await session.first(OF_FACT, {"tenant": session.tenant, "subject": row.subject, "seq": row.seq})
        assert said is not None, "a foreign key holds the fact"
        fact = Fact(
            said.tenant,
            Position(int(said.xid), said.id),
            said.subject,
            said.seq,
            said.type,
            said.actor,
            said.at,
            said.body,
        )
        body = {"type": fact.type, "timestamp": iso(fact.at), "data": fact_view(fact)}
    assert session.tenant is not None
    secrets = [
        signatures.Secret(one.kind, unseal(keys, session.tenant, one.id, one.sealed))
        for one in await session.rows(SECRETS, {"tenant": session.tenant, "webhook": row.webhook})
    ]
    encoded = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    return Message(row.webhook, row.message, row.type, row.url, encoded, row.tries, row.last_tries, secrets)


async def prepare(database: Database, keys: Keys, item: Item) -> Message | None:
    """The message of a work row, or None after the row was dealt with: ended, or put off."""
    caller = system(item.tenant, "worker")
    async with database.write() as session:
        await session.enter(item.tenant)
        try:
            found = await message(session, keys, item.subject)
        except CannotOpen as error:  # ours to mend: the message waits, and is not counted as tried
            log.error("a webhook's secret cannot be opened", delivery=str(item.subject), reason=str(error))
            WEBHOOKS.labels("secret_unreadable").inc()
            await work.again(session, item, now() + timedelta(seconds=60))
            return None
        if found is None:
            await work.finish(session, item)
        elif isinstance(found, str):
            until = await session.scalar(
                """SELECT w.blocked_until FROM webhook w JOIN webhook_delivery d ON d.tenant = w.tenant AND d.webhook = w.id
                   WHERE d.tenant = :tenant AND d.id = :id""",
                {"tenant": caller.tenant, "id": item.subject},
            )
            # spread: when an address comes back, its backlog should not arrive as one blow
            await work.again(session, item, (until or now()) + timedelta(seconds=random.uniform(0, 2)))  # noqa: S311
        else:
            return found
    return None


async def settle(session: WriteSession, item: Item, sent: Message, tried: Tried) -> bool:
    """Writes down what a try came to, and when the next one is. False: the lease was lost, and somebody else tells."""
    tries = sent.tries + 1
    note = {"at": iso(now()), "status": tried.status, "error": tried.error, "ms": tried.ms}
    gone = tried.status == 410
    wait_s = None if tried.delivered or gone or tries > len(RETRY_S) else wait_of(tries, tried)
    state = "delivered" if tried.delivered else "dead" if wait_s is None else "pending"
    next_at = now() + timedelta(seconds=wait_s) if wait_s is not None else None
    touched = await session.scalar(HOLD, {"tenant": item.tenant, "id": sent.webhook, "delivered": tried.delivered})
    held = await (work.again(session, item, next_at) if next_at else work.finish(session, item))
    if not held:
        return False
    caller = system(item.tenant, "worker")
    noted = await session.execute(
        SETTLE,
        {
            "tenant": item.tenant,
            "id": item.subject,
            "state": state,
            "tries": tries,
            "last_tries": json.dumps([*sent.last_tries, note][-KEEP_TRIES:]),
            "next_at": next_at,
        },
    )
    if not noted.rowcount:  # it was ended meanwhile, with its webhook
        await work.finish(session, item)
        return True
    if tried.delivered and touched:
        await session.execute(WELL, {"tenant": item.tenant, "id": sent.webhook})
    elif not tried.delivered:
        ill = await session.first(
            ILL,
            {
                "tenant": item.tenant,
                "id": sent.webhook,
                "wait": float(tried.retry_after_s or 0),
                "longest": float(LONGEST_BLOCK_S),
            },
        )
        if state == "dead":
            await ledger.record(
                session,
                caller,
                "webhook.given_up",
                item.tenant,
                webhook=sent.webhook,
                delivery=item.subject,
                tries=tries,
            )
        if gone or (state == "dead" and ill is not None and now() - ill.failing_since > GIVE_UP):
            await pause(session, caller, sent.webhook, "gone" if gone else "failing")
    WEBHOOKS.labels(state if state != "pending" else "retried").inc()
    return True


def wait_of(tries: int, tried: Tried) -> float:
    """Seconds until the next try: the schedule with a tenth of spread, or longer when the receiver asked for it."""
    planned = RETRY_S[tries - 1] * random.uniform(0.9, 1.1)  # noqa: S311
    return max(planned, min(tried.retry_after_s or 0, RETRY_S[-1]))


async def pause(session: WriteSession, caller: Caller, webhook: UUID, cause: str) -> None:
    paused = await session.execute(PAUSE, {"tenant": session.tenant, "id": webhook})
    if paused.rowcount:
        await ledger.record(session, caller, "webhook.paused", caller.tenant, webhook=webhook, cause=cause)
