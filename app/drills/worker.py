"""What a worker has to do with drills: their runs, their schedule, and their missions' way to a colony of their own."""

import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import httpx
from sqlalchemy import text

from app import boundary, work
from app.boundary import Colony
from app.build import name_of
from app.components import Component
from app.db import Database
from app.drills import actions
from app.drills.colony import DOWN_FOR, DrillColony
from app.drills.run import Outcome, Runner
from app.settings import Settings
from app.work import Item
from colony_client.client import ColonyClient

MOST_TRIES = 3  # of a run that workers did not come to the end of
LOOK_S = 5.0  # for which a tenant is remembered as not the drills'
SHARE = 0.85  # of a lease that a run may take; the rest is for clearing up, and for saying how it went
RUN = text("SELECT drill, state FROM drill_run WHERE tenant = :tenant AND id = :id")
DOWN = text("""
  SELECT id FROM mission WHERE tenant = :tenant AND id = ANY (:missions) AND labels ->> 'drill' = 'colony_down'
    AND created_at > clock_timestamp() - CAST(:down_for AS interval)""")


class Drills:
    """The drills of one worker. door: instead of the network, in a test."""

    def __init__(
        self, settings: Settings, database: Database, colony: Colony, door: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.database, self.interval = database, timedelta(seconds=settings.drill_interval_s)
        self.build = name_of(settings.build)
        self.tenant: UUID | None = None
        self.others: set[UUID] = set()  # tenants that were not the drills' a moment ago
        self.look_at = 0.0
        keys = settings.drill_keys()
        self.runner = Runner(settings.root_base_url, keys, door) if keys else None
        self.transport = DrillColony(settings.colony_keys(), settings.callback_base_url, door)
        self.up = replace(
            colony,
            client=ColonyClient("http://drill-colony", settings.colony_keys(), transport=self.transport),
            component=Component("colony of drills", "Drills wait."),
            counted=False,
        )
        self.closed_door = refusing()
        port = self.closed_door.getsockname()[1]
        self.down = replace(
            colony,
            client=ColonyClient(f"http://127.0.0.1:{port}", settings.colony_keys(), timeout_s=1),
            component=Component("colony that is down", "A drill waits.", stays_open=timedelta(seconds=1)),
            counted=False,
        )

    async def close(self) -> None:
        await self.transport.aclose()
        for one in (self.up.client, self.down.client):
            await one.aclose()
        if self.runner is not None:
            await self.runner.aclose()
        self.closed_door.close()

    async def ours(self, items: Iterable[Item]) -> bool:
        """Whether any of the items could be a drill's.

        Which tenant is theirs is looked up until it is known: for one that was not met lately at once, for it may have been
        prepared since, and a drill that went to everybody's colony would show nothing.
        """
        whose = {item.tenant for item in items}
        if self.tenant is None and (time.monotonic() >= self.look_at or not whose <= self.others):
            [row] = await self.database.fetch("SELECT drill_tenant() AS tenant")
            if time.monotonic() >= self.look_at:
                self.others, self.look_at = set(), time.monotonic() + LOOK_S
            self.tenant = row["tenant"]
            self.others |= whose
        return self.tenant in whose

    async def dispatch(self, items: Sequence[Item], until: float) -> None:
        """Drills' missions go to their own colony, or for a while to one that is down; nobody else's meet either."""
        async with self.database.read() as session:
            await session.enter(items[0].tenant)
            missions = [item.subject for item in items]
            asked = {"tenant": session.tenant, "missions": missions, "down_for": DOWN_FOR}
            down = {row.id for row in await session.rows(DOWN, asked)}
        for colony, there in ((self.down, True), (self.up, False)):
            if some := [item for item in items if (item.subject in down) is there]:
                await boundary.dispatch(self.database, colony, some, until)

    async def plan(self, item: Item) -> None:
        """Begins the drills that are due. Without a key nobody here could run one."""
        async with self.database.write() as session:
            await session.enter(item.tenant)
            again = await actions.plan(session, self.interval if self.runner else timedelta(0), self.build)
            await work.again(session, item, again)

    async def run(self, item: Item, lease_s: float) -> None:
        """One run, to its end. A worker that dies in the middle of it leaves it to the next, which begins it anew."""
        async with self.database.read() as session:
            await session.enter(item.tenant)
            row = await session.first(RUN, {"tenant": item.tenant, "id": item.subject})
        outcome = None
        if row is not None and row.state == "running":
            if self.runner is None:
                outcome = Outcome("failed", "no_drill_key")
            elif item.attempts > MOST_TRIES:
                outcome = Outcome("failed", "interrupted")
            else:
                outcome = await self.runner.run(row.drill, item.subject, SHARE * lease_s)
        async with self.database.write() as session:
            await session.enter(item.tenant)
            if outcome is not None:
                await actions.end(session, item.subject, outcome)
            await work.finish(session, item)


def refusing() -> socket.socket:
    """An address that refuses every connection for as long as it is held: bound, and listened on by nobody."""
    door = socket.socket()
    door.bind(("127.0.0.1", 0))
    return door
