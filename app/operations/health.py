"""What this process sees of those it depends on, what waits for them, and why a mission that is asked for now could not run."""

import asyncio
import contextlib
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import text

from app import artifacts, delivery, ledger
from app.boundary import colony_trouble
from app.boundary.dispatch import EFFECTS
from app.components import Component
from app.db import ReadSession
from app.http.probes import PROBE_S, schema_is_current
from app.ledger.store import UNREACHABLE, Store
from app.missions import Ask
from app.missions.types import MissionType
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
FULL = "SELECT full_approval_queues($1) AS tenants"


def registry(anchor_store: Store | None) -> dict[str, Component]:
    """The dependencies of a serving process, each with what its absence means to users."""
    return {
        "database": Component("database", "No request can be answered."),
        "colony": Component("colony", EFFECTS["colony_unavailable"]),
        "registrar": Component("registrar", "Nobody's rights or keys can be changed, and no new JWT is taken."),
        "worker": Component("worker", "Missions are accepted and wait: none is dispatched, reviewed or concluded.", 1),
        "executor": Component("executor", "Approved changes wait; they expire with their approvals.", 1),
        "anchors": ledger.component(anchor_store),
        "artifacts": artifacts.component(),
        "object_store": store_component(anchor_store),
        "bus": delivery.bus.component(),
    }


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
    if await schema_is_current(state.database):
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


async def inside(session: ReadSession, state: Any) -> tuple[list[dict[str, object]], dict[str, Any] | None]:
    """What the database knows, for the session's tenant: what waits for what, who has been seen working, tools and connectors.

    Answers the views of tools and connectors, which are the tenant's own, and the last look at its missions.
    """
    components, settings = state.components, state.settings
    await ledger.look(session, settings, components["anchors"])
    await delivery.bus.look(session, components["bus"])
    row = await session.first(QUEUES, {"tenant": session.tenant, "most": MOST_COUNTED})
    assert row is not None
    components["colony"].queued = waiting(missions=row.accepted)
    components["worker"].queued = waiting(missions=row.accepted + row.in_review, deliveries=row.to_deliver)
    components["executor"].queued = waiting(changes=row.to_execute)
    if row.overdue_s is not None and row.overdue_s > LATE_S:
        components["executor"].failed(f"a change has been due for {row.overdue_s:.0f} s")
    else:
        components["executor"].succeeded()
    seen = await last_look(session)
    if seen is not None:  # a tenant that is new has not been looked at yet, and that says nothing
        if seen["age_s"] > 3 * settings.liveness_interval_s + 10:
            components["worker"].failed(f"it has looked at nothing for {seen['age_s']:.0f} s")
        else:
            components["worker"].succeeded()
    approvals = state.root.watch.approvals(session.tenant)
    approvals.queued = waiting(approvals=row.pending)
    if 0 < settings.approval_queue_limit <= row.pending:
        approvals.failed(f"{row.pending} approvals wait, and {settings.approval_queue_limit} may")
    else:
        approvals.succeeded()
    own = [approvals, *await tool_layers(session), *await book.met(session), *await halted(session)]
    return [one.view() for one in own], seen


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
        self.full: frozenset[UUID] = frozenset()  # tenants with as many approvals waiting as may
        self.full_since: dict[UUID, dict[str, Any]] = {}
        self.desks: dict[UUID | None, Component] = {}
        self.task: asyncio.Task[None] | None = None

    def approvals(self, tenant: UUID | None) -> Component:
        """How full a tenant's queue of approvals is, as it was last seen here."""
        if len(self.desks) > MOST_COUNTED:
            self.desks.clear()
        return self.desks.setdefault(tenant, Component("approvals", EFFECTS["approval_queue_full"], 1))

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
            full = frozenset(rows[0]["tenants"]) if rows else frozenset()
            self.full_since = {one: self.full_since.get(one) or self.queue_full() for one in full}
            self.full = full

    @staticmethod
    def queue_full() -> dict[str, Any]:
        made = Component("approvals", EFFECTS["approval_queue_full"], 1)
        made.failed("full")
        return made.degraded("approval_queue_full") or {}

    def degraded(self, tenant: UUID, kind: MissionType, ask: Ask) -> dict[str, Any] | None:
        """Why a mission that is accepted now could not run now; None when nothing is known to be in its way."""
        colony: Component = self.state.components["colony"]
        said: dict[str, Any] | None = colony.degraded("colony_unavailable")
        if said is None and tenant in self.full and ask.mode != "dry_run":
            tools = kind.tools if ask.tools is None else ask.tools
            if any(not tool.startswith("workspace.") for tool in tools):
                return self.full_since[tenant]
        return said
