"""The sweep: bytes whose time is over go, tenant by tenant, and objects that no row names go after them.

Rows first, objects second: a row says that its bytes are removed before they are. What a crash leaves between the two is an
object that no row names, and those are looked for by themselves. One that is being written is not named yet either, so
only what is older than a day counts; a row may name an object for an hour only, and Postgres refuses it later.
"""

import time
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from prometheus_client import Counter
from sqlalchemy import text

from app import ledger, work
from app.artifacts import Objects
from app.clock import now
from app.db import Database
from app.work import Item

log = structlog.get_logger("retention")

BITE = 100  # missions, and sources, in one transaction
TURN_S = 10.0  # of a lease of twenty seconds
ORPHANS_EVERY = timedelta(hours=6)
ORPHAN_AGE = timedelta(days=1)

REMOVED = Counter("mission_root_bytes_removed_total", "Bytes removed under retention.")
ORPHANS = Counter("mission_root_orphaned_objects_total", "Objects that no row named, deleted.")

REMOVE = text("SELECT missions, artifacts, sources, size, objects, more FROM remove_bytes(:tenant, :fence, :most)")
NAMED = text("SELECT object FROM blob WHERE tenant = :tenant AND object = ANY(:objects)")


class Sweeper:
    """What a worker does for retention, each tenant under a leased work row."""

    def __init__(self, database: Database, objects: Objects, interval: timedelta) -> None:
        self.database, self.objects, self.interval = database, objects, interval
        self.listed: dict[UUID, datetime] = {}

    async def turn(self, item: Item) -> None:
        """Removes what is over, for as long as a turn lasts, and says when to look again."""
        ends, more = time.monotonic() + TURN_S, True
        while more and time.monotonic() < ends:
            more = await self.bite(item)
        if not more:
            await self.orphans(item.tenant)
        async with self.database.write() as session:
            await session.enter(item.tenant)
            await work.again(session, item, now() if more else now() + self.interval)

    async def bite(self, item: Item) -> bool:
        """One transaction and the objects it let go. False: nothing more is over, or the work is another's by now."""
        async with self.database.write() as session:
            await session.enter(item.tenant)
            done = await session.first(REMOVE, {"tenant": item.tenant, "fence": item.fence, "most": BITE})
            if done is None:
                return False
            if done.missions or done.sources:
                session.nudge(ledger.FACTS)
        if done.missions or done.sources:
            REMOVED.inc(int(done.size))
            log.info(
                "bytes removed under retention",
                tenant_id=str(item.tenant),
                missions=done.missions,
                sources=done.sources,
            )
        await self.objects.discard(item.tenant, done.objects)
        return bool(done.more)

    async def orphans(self, tenant: UUID) -> int:
        """Deletes objects of a tenant that no row names and that are too old to be on their way into one; how many."""
        if self.listed.get(tenant, now() - ORPHANS_EVERY) > now() - ORPHANS_EVERY:
            return 0
        deleted = 0
        async for labels in self.objects.labels(tenant):
            old = {id: label for label in labels if (id := written_before(label, now() - ORPHAN_AGE))}
            async with self.database.read() as session:
                await session.enter(tenant)
                named = await session.rows(NAMED, {"tenant": tenant, "objects": list(old)})
            lost = [label for id, label in old.items() if id not in {row.object for row in named}]
            await self.objects.discard(tenant, lost)
            deleted += len(lost)
        self.listed[tenant] = now()
        if deleted:
            ORPHANS.inc(deleted)
            log.warning("objects that no row named are deleted", tenant_id=str(tenant), objects=deleted)
        return deleted


def written_before(label: str, moment: datetime) -> UUID | None:
    """The id in an object's label when it was made before a moment; None as well for what is none of ours."""
    try:
        id = UUID(label.rpartition(".")[2])
    except ValueError:
        return None
    made = id.int >> 80  # milliseconds, in the first 48 bits of a version 7 UUID
    return id if id.version == 7 and made < moment.timestamp() * 1000 else None
