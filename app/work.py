"""The leased work table: durable to-dos that survive any crash.

A row says only that a subject wants a kind of attention; what to do is read from the subject's own rows. Adding is
part of the transaction that makes it necessary. A holder works under a lease and a fence; a lease that runs out makes
the row due again for anybody, and the old holder's fence then changes nothing; but for a lease that a crash of the server forgot,
whose fence the next holder gets, too (record 0061).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from sqlalchemy import text

from app.db import Database, WriteSession

Queue = Literal["worker", "executor"]

# Every kind of work and who does it. The worker's handlers and a test read this.
KINDS: dict[str, Queue] = {
    "ask": "worker",  # open the approval that policy asks for before the mission may run
    "dispatch": "worker",  # offer the mission's current attempt to the colony
    "attempt_timer": "worker",  # look after a lease or a deadline that may have passed
    "replay": "worker",  # play a past mission from its tape
    "review": "worker",  # check the evidence of a mission in review and conclude it
    "progress": "worker",  # the mission's writebacks moved: bring the mission's state up to them
    "approval_timer": "worker",  # a step of an approval's ladder, or its end, may have come (subject: the approval)
    "colony_cancel": "worker",  # tell the colony to stop
    "webhook_send": "worker",  # try a delivery (subject: the delivery)
    "anchor": "worker",  # sign the tenant's new facts outside Postgres (subject: the tenant)
    "liveness": "worker",  # does every open mission of the tenant wait for something? (subject: the tenant)
    "drills": "worker",  # which drills are due (subject: the tenant of the drills)
    "drill": "worker",  # run a drill (subject: the run)
    "tool_check": "worker",  # are the tools of the tenant's layers still what was registered? (subject: the tenant)
    "retention": "worker",  # remove bytes whose time is over (subject: the tenant)
    "release_check": "worker",  # compute the tenant's gates, and lower what its evidence no longer carries (subject: the tenant)
    "connector_read": "executor",  # read a record for those who may not (subject: the connector_read)
    "execute": "executor",  # claim an approved writeback and carry it out (subject: the writeback)
}

WEBHOOKS = "webhooks"
READS = "connector_read"  # nudged when one is answered

ADD = text("""
  INSERT INTO work (tenant, kind, subject, queue, next_at)
  VALUES (:tenant, :kind, :subject, :queue, COALESCE(CAST(:at AS timestamptz), clock_timestamp()))
  ON CONFLICT (tenant, kind, subject) DO UPDATE
    SET wanted = work.wanted + 1, next_at = LEAST(work.next_at, excluded.next_at)""")
FINISH = text("""
  DELETE FROM work WHERE tenant = :tenant AND kind = :kind AND subject = :subject AND fence = :fence AND wanted = :wanted""")
# Whoever wanted it while it was held is not put off: next_at then holds the time of that wish.
AGAIN = text("""
  UPDATE work SET lease_until = NULL, attempts = CASE WHEN CAST(:failed AS boolean) THEN attempts ELSE 0 END,
    next_at = LEAST(COALESCE(CAST(:at AS timestamptz), clock_timestamp()), CASE WHEN wanted > :wanted THEN next_at END)
  WHERE tenant = :tenant AND kind = :kind AND subject = :subject AND fence = :fence""")

TURN = """
  SELECT t.*, NULL::timestamptz AS due FROM take_worker_work($1, $2, $3) t
  UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL, next_worker_work($1)"""

# The executor may not take what it likes: each of its kinds has a door of its own.
EXECUTORS = {
    "execute": "SELECT * FROM take_executor_work($1, $2, $3)",
    "connector_read": "SELECT * FROM take_read_work($1, $2, $3)",
}


@dataclass(frozen=True)
class Item:
    """A leased work row. fence and wanted are what finish() compares; attempts counts claims since it was added, or last done."""

    tenant: UUID
    kind: str
    subject: UUID
    fence: int
    wanted: int
    attempts: int


ITEM = ("tenant", "kind", "subject", "fence", "wanted", "attempts")


async def add(session: WriteSession, kind: str, subject: UUID, *, at: datetime | None = None) -> None:
    """Asks for attention at a time (now when None). Repeating it never makes a second row, only an earlier one."""
    queue = KINDS[kind]
    await session.execute(ADD, {"tenant": session.tenant, "kind": kind, "subject": subject, "queue": queue, "at": at})
    session.nudge(channel(kind))


def channel(kind: str) -> str:
    """Who does a kind of work listens there. Deliveries have a channel of their own: they are the rarest, and whoever sends them
    would look for some with every step of every mission."""
    return WEBHOOKS if kind == "webhook_send" else f"work_{KINDS[kind]}"


async def finish(session: WriteSession, item: Item) -> bool:
    """Ends the item; when it was wanted again meanwhile it becomes due instead. False: the lease was lost."""
    done = await session.execute(FINISH, _key(item))
    return bool(done.rowcount) or await again(session, item, None)


async def again(session: WriteSession, item: Item, at: datetime | None, *, failed: bool = False) -> bool:
    """Gives the item back, due at a time: done for now, or failed, and then its attempts count on. False: the lease was lost."""
    given = await session.execute(AGAIN, _key(item) | {"at": at, "failed": failed})
    session.nudge(channel(item.kind))
    return bool(given.rowcount)


async def drop(session: WriteSession, kind: str, subject: UUID) -> None:
    """Takes a wish back, held or not: its holder finds its fence gone."""
    await session.execute(
        "DELETE FROM work WHERE tenant = :tenant AND kind = :kind AND subject = :subject",
        {"tenant": session.tenant, "kind": kind, "subject": subject},
    )


async def turn(
    database: Database, kinds: Sequence[str], limit: int, lease: timedelta
) -> tuple[list[Item], datetime | None]:
    """What a worker does each time it looks, in one round trip: leases what is due, and hears when the next of it will be."""
    rows = await database.fetch(TURN, list(kinds), limit, lease)
    items = [Item(*(row[name] for name in ITEM)) for row in rows if row["tenant"] is not None]
    due: datetime | None = rows[-1]["due"]
    return items, due


async def take(database: Database, kind: str, limit: int, lease: timedelta, spare: Iterable[UUID] = ()) -> list[Item]:
    """Leases up to limit due items of a kind of the executor's, whatever tenant they belong to, and commits that.

    spare: tenants whose items are left to others, or to later.
    """
    taken = await database.fetch(EXECUTORS[kind], limit, lease, list(spare))
    return [Item(*(row[name] for name in ITEM)) for row in taken]


async def next_due(database: Database, kind: str, spare: Iterable[UUID] = ()) -> datetime | None:
    """When the executor's earliest item of a kind falls due; None when nothing waits. spare: as for take()."""
    [row] = await database.fetch("SELECT next_executor_work($1, $2) AS due", kind, list(spare))
    due: datetime | None = row["due"]
    return due


def _key(item: Item) -> dict[str, object]:
    return {
        "tenant": item.tenant,
        "kind": item.kind,
        "subject": item.subject,
        "fence": item.fence,
        "wanted": item.wanted,
    }
