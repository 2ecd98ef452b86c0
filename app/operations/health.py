"""What this process sees of those it depends on, what waits for them, and why a mission that is asked for now could not run."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import text

from app import artifacts, delivery, ledger
from app.boundary import EFFECTS, colony_trouble
from app.components import Component
from app.db import ReadSession
from app.http.probes import PROBE_S, fits_the_schema
from app.ledger.store import UNREACHABLE, Store
from app.missions.tools import beyond_workspace
from app.operations.liveness import last_look
from app.writebacks import book
from colony_client.client import ColonyClient

log = structlog.get_logger("health")
MOST_COUNTED = 10_000  # that many wait, or more
QUEUES = text("""
  SELECT (SELECT count(*) FROM (SELECT 1 FROM mission WHERE tenant = :tenant AND state = 'accepted' LIMIT :most) q) AS accepted,
    (SELECT count(*) FROM (SELECT 1 FROM mission WHERE tenant = :tenant AND state = 'in_review' LIMIT :most) q) AS in_review,
    (SELECT count(*) FROM (SELECT 1 FROM approval WHERE tenant = :tenant AND state = 'pending' LIMIT :most) q) AS pending,
    (SELECT count(*) FROM (SELECT 1 FROM work WHERE tenant = :tenant AND kind = 'execute' LIMIT :most) q) AS to_execute,
    (SELECT count(*) FROM (SELECT 1 FROM work WHERE tenant = :tenant AND kind = 'webhook_send' LIMIT :most) q) AS to_deliver,
    (SELECT EXTRACT(EPOCH FROM clock_timestamp() - min(next_at)) FROM work WHERE tenant = :tenant AND kind = 'execute')::float8
      AS overdue_s""")
LAYERS = text("""
  SELECT DISTINCT ON (s.layer) s.layer, s.failure, s.failed_at, s.answered_at, cardinality(s.drifted) AS drifted
  FROM tool_layer_state s WHERE s.tenant = :tenant ORDER BY s.layer, s.version DESC LIMIT 200""")
HALTED = text("""
  SELECT connector, changed_at FROM connector_switch WHERE tenant = :tenant AND halted_at IS NOT NULL ORDER BY connector LIMIT 200""")
LATE_S = 60.0  # that an approved change is overdue until the executor counts as away
MOST_TENANTS = 10_000  # whose own components are remembered
FULL = "SELECT full_approval_queues($1) AS tenants"


def registry(anchor_store: Store | None) -> dict[str, Component]:
    """The dependencies of a serving process that are the same for every tenant, each with what its absence means to users."""
    return {
        "database": Component("database", "No request can be answered."),
        "colony": Component("colony", EFFECTS["colony_unavailable"]),
        "registrar": Component("registrar", "Nobody's rights or keys can be changed, and no new JWT is taken."),
        "artifacts": artifacts.component(),
        "object_store": store_component(anchor_store),
        "bus": delivery.bus.component(),
    }


@dataclass(frozen=True)
class Own:
    """What is a tenant's own, and shown to nobody else."""

    worker: Component
    executor: Component
    anchors: Component
    approvals: Component


def own(anchor_store: Store | None) -> Own:
    return Own(
        Component("worker", "Missions are accepted and wait: none is dispatched, reviewed or concluded.", 1),
        Component("executor", "Approved changes wait; they expire with their approvals.", 1),
        ledger.component(anchor_store),
        Component("approvals", EFFECTS["approval_queue_full"], 1),
    )


def store_component(store: Store | None) -> Component:
    made = Component("object_store", "The ledger cannot be verified against its anchors, and no new ones are kept.")
    if store is None:
        made.switched_off("ANCHOR_STORE is not set")
    return made


async def look(state: Any) -> None:
    """Looks at everything outside Postgres, side by side; no transaction is open."""
    await asyncio.gather(
        look_at_database(state),
        look_at_colony(state.colony, state.components["colony"], state.settings.colony_enabled),
        look_at_registrar(state),
        look_at_store(state.anchor_store, state.components["object_store"]),
        state.objects.look(state.components["artifacts"]),
    )


async def look_at_database(state: Any) -> None:
    database: Component = state.components["database"]
    if await fits_the_schema(state.database):
        database.succeeded()
    else:
        database.failed("no answer, or another schema")


async def look_at_registrar(state: Any) -> None:
    registrar: Component = state.components["registrar"]
    if await state.upstream.ready(PROBE_S):
        registrar.succeeded()
    else:
        registrar.failed("no answer")


async def look_at_colony(client: ColonyClient, component: Component, enabled: bool) -> None:
    if not enabled:
        component.failed("COLONY_ENABLED is false")
        return
    if trouble := await colony_trouble(client):
        component.failed(trouble)
    else:
        component.succeeded()


async def look_at_store(store: Store | None, component: Component) -> None:
    if store is None:
        return
    try:
        async with asyncio.timeout(PROBE_S):
            async for _ in store.names("keys"):
                break
        component.succeeded()
    except (*UNREACHABLE, TimeoutError) as away:
        component.failed(f"it cannot be read ({type(away).__name__})")


@dataclass(frozen=True)
class Inside:
    """What the database knows, for one tenant: views of components, what waits for the colony, the last look at its missions."""

    views: list[dict[str, object]]
    for_colony: dict[str, int]
    liveness: dict[str, Any] | None


async def inside(session: ReadSession, state: Any) -> Inside:
    """What waits for what, who has been seen working, tools and connectors: for the session's tenant alone."""
    settings = state.settings
    theirs: Own = state.root.watch.own(session.tenant)
    await ledger.look(session, settings, theirs.anchors)
    await delivery.bus.look(session, state.components["bus"])
    row = await session.first(QUEUES, {"tenant": session.tenant, "most": MOST_COUNTED})
    assert row is not None
    if row.overdue_s is not None and row.overdue_s > LATE_S:
        theirs.executor.failed(f"a change has been due for {row.overdue_s:.0f} s")
    else:
        theirs.executor.succeeded()
    seen = await last_look(session)
    if seen is not None:  # a tenant that is new has not been looked at yet, and that says nothing
        if seen["age_s"] > 3 * settings.liveness_interval_s + 10:
            theirs.worker.failed(f"it has looked at nothing for {seen['age_s']:.0f} s")
        else:
            theirs.worker.succeeded()
    if 0 < settings.approval_queue_limit <= row.pending:
        theirs.approvals.failed(f"{row.pending} approvals wait, and {settings.approval_queue_limit} may")
    else:
        theirs.approvals.succeeded()
    views = [
        theirs.worker.view(waiting(missions=row.accepted + row.in_review, deliveries=row.to_deliver)),
        theirs.executor.view(waiting(changes=row.to_execute)),
        theirs.anchors.view(),
        theirs.approvals.view(waiting(approvals=row.pending)),
    ]
    more = [*await tool_layers(session), *await book.met(session), *await halted(session)]
    return Inside(views + [one.view() for one in more], waiting(missions=row.accepted), seen)


def waiting(**counts: int) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


async def tool_layers(session: ReadSession) -> list[Component]:
    found = []
    for row in await session.rows(LAYERS, {"tenant": session.tenant}):
        one = Component(
            f"tool layer {row.layer}", "Its tools cannot be called; missions go on without them, or block.", 1
        )
        failed = row.failed_at is not None and (row.answered_at is None or row.failed_at > row.answered_at)
        if failed:
            one.failed(row.failure or "no answer")
        elif row.drifted:
            one.failed(f"{row.drifted} tools are not what was registered")
        else:
            one.succeeded()
        one.since = (row.failed_at if failed else row.answered_at) or one.since
        found.append(one)
    return found


async def halted(session: ReadSession) -> list[Component]:
    found = []
    for row in await session.rows(HALTED, {"tenant": session.tenant}):
        name = "writing anywhere" if row.connector == "*" else f"writing to {row.connector}"
        one = Component(name, "Nothing is written through it; what is approved waits.")
        one.switched_off("halted by an operator")
        one.since = row.changed_at
        found.append(one)
    return found


class Watch:
    """Looks at the dependencies again and again, so that a request is answered by what is known and asks nobody."""

    def __init__(self, state: Any, interval: timedelta) -> None:
        self.state, self.interval = state, interval
        self.tenants: OrderedDict[UUID | None, Own] = OrderedDict()
        self.task: asyncio.Task[None] | None = None

    def own(self, tenant: UUID | None) -> Own:
        """What is a tenant's own, as it was last seen here."""
        found = self.tenants.get(tenant)
        if found is None:
            found = self.tenants[tenant] = own(self.state.anchor_store)
        self.tenants.move_to_end(tenant)
        while len(self.tenants) > MOST_TENANTS:
            self.tenants.popitem(last=False)
        return found

    def start(self) -> None:
        self.task = asyncio.create_task(self._run(), name="components")

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self.interval.total_seconds())
            try:
                await self.turn()
            except Exception as error:
                log.warning("a look at the dependencies failed", error=type(error).__name__)

    async def turn(self) -> None:
        await look(self.state)
        limit = self.state.settings.approval_queue_limit
        with contextlib.suppress(OSError, TimeoutError):
            rows = await self.state.database.fetch(FULL, limit) if limit else []
            full: set[UUID] = set(rows[0]["tenants"]) if rows else set()
            for tenant in [one for one in self.tenants if one not in full]:
                self.tenants[tenant].approvals.succeeded()
            for tenant in full:
                self.own(tenant).approvals.failed(f"{limit} approvals wait or more, and {limit} may")
        await self.state.objects.look_again(lambda place: artifacts.still(self.state.database, place))

    def degraded(self, tenant: UUID, mode: str, tools: Collection[str]) -> dict[str, Any] | None:
        """Why a mission that is accepted now could not run now; None when nothing is known to be in its way.

        mode: how far it would go. tools: all that it may call.
        """
        colony: Component = self.state.components["colony"]
        said, own = colony.degraded("colony_unavailable"), self.tenants.get(tenant)
        if said is None and own is not None and mode != "dry_run" and beyond_workspace(tools):
            return own.approvals.degraded("approval_queue_full")
        return said
