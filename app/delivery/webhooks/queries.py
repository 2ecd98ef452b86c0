"""Reading webhooks, their secrets' public side, and what was delivered."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.clock import iso
from app.db import ReadSession
from app.delivery.webhooks.signatures import public_text
from app.listing import Place, behind

WEBHOOK = """SELECT id, url, types, description, state, version, failures, failing_since, blocked_until, created_by, created_at,
    updated_at, after_xid::text AS after_xid, after_id FROM webhook WHERE tenant = :tenant AND state <> 'deleted'"""
ONE = text(f"{WEBHOOK} AND id = :id")
ONE_LOCKED = text(f"{WEBHOOK} AND id = :id FOR UPDATE")
DELIVERY = """SELECT id, webhook, message, type, subject, seq, state, tries, last_tries, next_at, created_at, settled_at
    FROM webhook_delivery WHERE tenant = :tenant AND webhook = :webhook"""
SECRETS = text("""SELECT id, webhook, kind, public_key, created_at, expires_at FROM webhook_secret
  WHERE tenant = :tenant AND webhook = ANY(:webhooks) AND (expires_at IS NULL OR expires_at > clock_timestamp())
  ORDER BY created_at DESC, id DESC""")
COUNTS = text("""SELECT webhook, state, count(*) AS n FROM webhook_delivery
                 WHERE tenant = :tenant AND webhook = ANY(:webhooks) AND state IN ('pending', 'dead') GROUP BY webhook, state""")


@dataclass(frozen=True)
class Webhook:
    """Where facts go. failures counts tries in a row that failed; blocked_until is when the next one is made."""

    id: UUID
    url: str
    types: list[str]
    description: str | None
    state: str
    version: int
    failures: int
    failing_since: datetime | None
    blocked_until: datetime | None
    created_by: UUID
    created_at: datetime
    updated_at: datetime
    after_xid: str
    after_id: int


@dataclass(frozen=True)
class Delivery:
    """One message for one webhook. last_tries: the last few, {at, status, error, ms}."""

    id: UUID
    webhook: UUID
    message: str
    type: str
    subject: UUID | None
    seq: int | None
    state: str
    tries: int
    last_tries: list[dict[str, Any]]
    next_at: datetime | None
    created_at: datetime
    settled_at: datetime | None


async def one(session: ReadSession, id: UUID, *, lock: bool = False) -> Webhook | None:
    row = await session.first(ONE_LOCKED if lock else ONE, {"tenant": session.tenant, "id": id})
    return Webhook(**row._mapping) if row else None


async def newest(session: ReadSession, before: Place, limit: int) -> list[Webhook]:
    return [Webhook(**row._mapping) for row in await behind(session, WEBHOOK, before, limit)]


async def views(session: ReadSession, found: Sequence[Webhook]) -> list[dict[str, Any]]:
    """What the API says of webhooks: with their live secrets' public side, and what waits or died."""
    asked = {"tenant": session.tenant, "webhooks": [one.id for one in found]}
    secrets = await session.rows(SECRETS, asked)
    counts = await session.rows(COUNTS, asked)
    return [
        {
            "id": one.id,
            "url": one.url,
            "types": one.types,
            "description": one.description,
            "state": one.state,
            "version": one.version,
            "secrets": [
                {
                    "id": row.id,
                    "kind": row.kind,
                    "public_key": public_text(row.public_key) if row.public_key else None,
                    "created_at": iso(row.created_at),
                    "expires_at": stamp(row.expires_at),
                }
                for row in secrets
                if row.webhook == one.id
            ],
            "pending": sum(row.n for row in counts if row.webhook == one.id and row.state == "pending"),
            "dead": sum(row.n for row in counts if row.webhook == one.id and row.state == "dead"),
            "failures": one.failures,
            "failing_since": stamp(one.failing_since),
            "blocked_until": stamp(one.blocked_until),
            "created_by": one.created_by,
            "created_at": iso(one.created_at),
            "updated_at": iso(one.updated_at),
        }
        for one in found
    ]


async def delivery(session: ReadSession, webhook: UUID, id: UUID) -> Delivery | None:
    row = await session.first(
        text(f"{DELIVERY} AND id = :id"), {"tenant": session.tenant, "webhook": webhook, "id": id}
    )
    return Delivery(**row._mapping) if row else None


async def own(session: ReadSession, webhook: UUID, ids: list[UUID]) -> set[UUID]:
    """Which of these are deliveries of the webhook."""
    asked = {"tenant": session.tenant, "webhook": webhook, "ids": ids}
    return {row.id for row in await session.rows(text(f"{DELIVERY} AND id = ANY(:ids)"), asked)}


async def deliveries(
    session: ReadSession, webhook: UUID, state: str | None, before: Place, limit: int
) -> list[Delivery]:
    rows = await behind(session, DELIVERY, before, limit, only={"state": state}, webhook=webhook)
    return [Delivery(**row._mapping) for row in rows]


def delivery_view(found: Delivery) -> dict[str, Any]:
    return {
        "id": found.id,
        "webhook_id": found.webhook,
        "message_id": found.message,
        "type": found.type,
        "subject": found.subject,
        "seq": found.seq,
        "state": found.state,
        "tries": found.tries,
        "last_tries": found.last_tries,
        "next_at": stamp(found.next_at),
        "created_at": iso(found.created_at),
        "settled_at": stamp(found.settled_at),
    }


def stamp(moment: datetime | None) -> str | None:
    return iso(moment) if moment else None
