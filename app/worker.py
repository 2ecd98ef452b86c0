"""The worker process: takes due work, hands each kind to its verb, and tries again when one fails. Wiring only."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial

import httpx
import structlog
from prometheus_client import start_http_server

from app import (
    approvals,
    artifacts,
    boundary,
    budgets,
    drills,
    ledger,
    operations,
    process,
    release,
    replay,
    retention,
    tools,
    work,
)
from app.boundary import EFFECTS, Colony
from app.build import name_of
from app.caller import system
from app.clock import now
from app.components import Component
from app.db import Database, WriteSession
from app.delivery import Courier, bus
from app.evidence import Material
from app.http.serving import uvicorns_loop
from app.nudge import Nudger, wait
from app.operations.gauges import GAUGES
from app.outbound import authorities
from app.settings import Settings
from app.telemetry import WORK_DONE, begin
from app.work import Item
from colony_client.client import ColonyClient

log = structlog.get_logger("worker")

BATCH = 64
AT_ONCE = 8  # of what is done one by one
LOOKING = 32  # reviews that wait for their targets
CALLS = ("attempt_timer", "colony_cancel")
LEASE = timedelta(seconds=20)
POLL_S = 1.0
COALESCE_S = 0.02
SWEEP_S = 60.0
# When it is told to stop: for what was handed out, then for reviews that wait for targets; a loop may be a little later than these.
HANDED_OUT_S, LOOKING_S, SLACK_S = 4.0, 2.0, 0.3
# What puts back the work rows by which something is looked after for good.
RESTORES = {
    "restore_anchor_work", "restore_drill_work", "restore_liveness_work", "restore_retention_work", "restore_release_work",
}  # fmt: skip
SWEEP_BITE, SWEEP_BITES = 5000, 200  # rows in one transaction, and how many of those before others have their turn

begin(WORK_DONE, [kind for kind, queue in work.KINDS.items() if queue == "worker"], ["done", "failed"])
Handle = Callable[[list[Item]], Awaitable[None]]

# Work that is one verb in one transaction. What a verb answers is when it wants to be called again.
VERBS: dict[str, Callable[..., Awaitable[datetime | None]]] = {
    "ask": approvals.open_intake,
    "progress": approvals.progress,
    "approval_timer": approvals.climb,
}


def pause(due: datetime | None) -> float:
    """How long to sleep when the next work falls due then, at most POLL_S."""
    return POLL_S if due is None else min(max((due - now()).total_seconds(), 0.005), POLL_S)


class Worker:
    """The loops of one worker process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(
            settings.database("worker_database_url"),
            pool_size=settings.database_pool_size,
            wait_ms=5000,
            name="mission-root worker",
        )
        self.nudger = Nudger(settings.database("worker_database_url"), ["work_worker", work.WEBHOOKS, "facts"])
        self.database.on_commit = self.nudger.send
        self.colony = Colony(
            client=ColonyClient(
                settings.colony_service_base_url, settings.colony_keys(), timeout_s=settings.colony_timeout_ms / 1000
            ),
            keys=settings.signing_keys(),
            callback_base_url=settings.callback_base_url,
            lease=timedelta(milliseconds=settings.mission_lease_ms),
            max_attempts=settings.mission_max_attempts,
            component=Component("colony", EFFECTS["colony_unavailable"]),
            queue_limit=settings.approval_queue_limit,
        )
        keys = settings.webhook_keys()
        self.courier = Courier(self.database, self.nudger, keys, settings.outbound_hosts()) if keys else None
        self.bus = bus.publishing_side(settings, self.database, self.nudger)
        self.anchorer = ledger.signing_side(settings, self.database)
        if self.anchorer is None:
            log.warning("anchors are off: ANCHOR_STORE and ANCHOR_SIGNING_KEY are not both set")
        timeout = timedelta(milliseconds=settings.colony_timeout_ms)
        self.lease = max(LEASE, 2 * timeout)  # a colony that hangs must not outlast it
        self.begin_calls_s = (
            0.9 * self.lease - timeout
        ).total_seconds()  # after the work was taken, no later than this
        self.tools = tools.Sessions(settings, self.database)
        self.objects = artifacts.open_objects(settings)
        self.sweeper = retention.Sweeper(self.database, self.objects, timedelta(seconds=settings.retention_interval_s))
        self.drills = drills.Drills(settings, self.database, self.colony)
        self.root = httpx.AsyncClient(trust_env=False, verify=authorities())
        self.hands = asyncio.Semaphore(LOOKING)
        self.looking: set[asyncio.Future[None]] = set()  # reviews that ask targets
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        """Works until told to stop, then finishes what is in hand."""
        self.nudger.start()
        loops = [
            asyncio.create_task(self.take_up(), name="work"),
            asyncio.create_task(self.sweep(), name="sweep"),
            asyncio.create_task(GAUGES.keep_reading(self.database, self.settings.gauges_interval_s), name="gauges"),
            asyncio.create_task(
                boundary.keep_looking(self.colony, self.settings.gauges_interval_s), name="is the colony there"
            ),
        ]
        if self.courier:
            loops += [
                asyncio.create_task(self.courier.plan_loop(), name="webhook plans"),
                asyncio.create_task(self.courier.send_loop(), name="webhook sends"),
            ]
        if self.bus:
            loops.append(asyncio.create_task(self.bus.run(), name="bus"))
        await self.stopping.wait()
        for task in loops:
            task.cancel()
        ends = [asyncio.create_task(self.courier.stop())] if self.courier else []
        await process.finished(
            [*loops, *ends], process.DRAIN_S + SLACK_S
        )  # side by side: all have the same seconds, and their own limits
        closing = [self.tools.stop(), self.drills.close(), self.colony.client.aclose(), self.root.aclose()]
        await process.closed(*closing, *([self.bus.close()] if self.bus else []))
        await process.closed(self.nudger.stop(), self.database.close())

    def lines(self) -> list[tuple[tuple[str, ...], Handle]]:
        """Kinds of work and who does them; the lines work side by side, each at one batch at a time."""
        lines: list[tuple[tuple[str, ...], Handle]] = [
            (("dispatch",), self.dispatch),
            (("review",), self.review),
            (tuple(sorted(VERBS)), self.each(self.verb)),
            (("replay",), self.each(self.play)),
            (("tool_check",), self.each(self.check_tools)),
            (("liveness",), self.each(self.reconcile)),
            (("drills",), self.each(self.drills.plan)),
            (("drill",), self.each(self.run_drill)),
            (("release_check",), self.each(self.check_release)),
            *(
                ((kind,), self.each(self.call)) for kind in CALLS
            ),  # a colony that hangs holds up one kind, not the other
        ]
        lines.append((("retention",), self.each(self.sweeper.turn)))
        if self.anchorer:
            lines.append((("anchor",), self.each(self.anchorer.turn)))
        return lines

    async def take_up(self) -> None:
        """Takes what is due for all lines that are free, and hands it out, until cancelled. What is in hand is finished first."""
        lines = self.lines()
        line_of = {kind: line for line, (kinds, _) in enumerate(lines) for kind in kinds}
        busy: dict[int, asyncio.Future[None]] = {}
        with self.nudger.listening("work_worker") as woken:
            try:
                while True:
                    busy = {line: task for line, task in busy.items() if not task.done()}
                    free = [kind for kind, line in line_of.items() if line not in busy]
                    items: list[Item] = []
                    due: datetime | None = None
                    try:
                        if free:
                            items, due = await work.turn(self.database, free, BATCH, self.lease)
                    except Exception as error:  # the database is away: try again, for ever
                        log.warning("work cannot be taken", error=type(error).__name__)
                        await asyncio.sleep(POLL_S)
                        continue
                    for line in {line_of[item.kind] for item in items}:
                        own = [item for item in items if line_of[item.kind] == line]
                        busy[line] = asyncio.ensure_future(lines[line][1](own))
                        busy[line].add_done_callback(lambda _: woken.set())
                    if len(items) > 1:  # where much is going on more is about to come; a lone one waits for nobody
                        await asyncio.sleep(COALESCE_S)
                    await wait(woken, pause(due))
            finally:
                try:
                    in_time = await process.finished({*busy.values()}, HANDED_OUT_S)
                except asyncio.CancelledError:  # that wait was cut short: nobody is to go on looking without a database
                    for one in self.looking:
                        one.cancel()
                    raise
                if not await process.finished(self.looking, LOOKING_S) or not in_time:
                    log.warning("what is in hand is left to the next worker")

    async def dispatch(self, items: list[Item]) -> None:
        until = time.monotonic() + self.begin_calls_s
        if await self.drills.ours(items):
            mine = [item for item in items if item.tenant == self.drills.tenant]
            await self.together(mine, partial(self.drills.dispatch, until=until))
            items = [item for item in items if item.tenant != self.drills.tenant]
        if items:
            await self.together(items, partial(boundary.dispatch, self.database, self.colony, until=until))

    async def review(self, items: list[Item]) -> None:
        """Whoever has to look at targets first does so without keeping the others waiting."""

        async def conclude(some: list[Item]) -> None:
            for item, material in await approvals.conclude(self.database, some, self.objects):
                await self.hands.acquire()
                task = asyncio.ensure_future(self.look(item, material))
                self.looking.add(task)
                task.add_done_callback(self.looking.discard)

        await self.together(items, conclude)

    async def look(self, item: Item, material: Material) -> None:
        try:
            await approvals.conclude_changes(self.database, item, material, self.settings)
        except Exception as error:
            await self.failed(item, error)
        finally:
            self.hands.release()

    async def looked(self) -> None:
        """Until no review waits for a target."""
        await asyncio.gather(*self.looking, return_exceptions=True)

    async def together(self, items: list[Item], handle: Handle) -> None:
        """All at once, and one by one when that fails: whoever is to blame fails alone."""
        try:
            await handle(items)
            WORK_DONE.labels(items[0].kind, "done").inc(len(items))
        except Exception as error:
            if len(items) == 1:
                await self.failed(items[0], error)
            else:
                for item in items:
                    await self.together([item], handle)

    def each(self, handle: Callable[[Item], Awaitable[None]]) -> Handle:
        turns = asyncio.Semaphore(AT_ONCE)

        async def in_turn(item: Item, lease_ends: float) -> None:
            async with turns:
                if time.monotonic() < lease_ends:  # else somebody else may have it by now
                    await self.guarded(handle, item)

        async def all_of(items: list[Item]) -> None:
            ends = time.monotonic() + self.lease.total_seconds()
            await asyncio.gather(*(in_turn(item, ends) for item in items))

        return all_of

    async def guarded(self, handle: Callable[[Item], Awaitable[None]], item: Item) -> None:
        try:
            await handle(item)
            WORK_DONE.labels(item.kind, "done").inc()
        except Exception as error:
            await self.failed(item, error)

    async def verb(self, item: Item) -> None:
        """One verb, one transaction. Verbs look under a lock before they move: who lost the lease finds it done."""
        async with self.database.write() as session:
            await session.enter(item.tenant)
            again = await VERBS[item.kind](session, system(item.tenant, "worker"), item.subject)
            if again is None:
                await work.finish(session, item)
            else:
                await work.again(session, item, again)

    async def play(self, item: Item) -> None:
        await replay.play(self.database, item, self.settings.environment, self.objects)

    async def check_tools(self, item: Item) -> None:
        """Looks at the servers of a tenant's tool layers, outside of any transaction."""
        await tools.check_layers(self.tools, item, timedelta(seconds=self.settings.tool_check_interval_s), self.lease)

    async def reconcile(self, item: Item) -> None:
        """Looks whether every open mission of a tenant waits for something."""
        await operations.reconcile(self.database, item, timedelta(seconds=self.settings.liveness_interval_s))

    async def run_drill(self, item: Item) -> None:
        await self.drills.run(item, self.lease.total_seconds())

    async def check_release(self, item: Item) -> None:
        """Computes a tenant's gates; what is outside is looked at before the transaction begins."""
        settings = self.settings
        probes = await release.probe_from_outside(self.root, settings.root_base_url, self.colony.client)
        async with self.database.write() as session:
            await session.enter(item.tenant)
            build = name_of(settings.build)
            await release.review(session, system(item.tenant, "release"), settings.environment, build, probes)
            await work.again(session, item, now() + timedelta(seconds=settings.release_check_interval_s))

    async def call(self, item: Item) -> None:
        colony = self.drills.up if await self.drills.ours([item]) else self.colony
        if item.kind == "attempt_timer":
            await boundary.watch_attempt(self.database, colony, item)
        else:
            await boundary.cancel_in_colony(self.database, colony, item)

    async def failed(self, item: Item, error: Exception) -> None:
        """Logs and gives the item back, later each time."""
        WORK_DONE.labels(item.kind, "failed").inc()
        log.error("work failed", kind=item.kind, subject=str(item.subject), attempts=item.attempts, exc_info=error)
        delay = timedelta(seconds=min(0.2 * 2 ** min(item.attempts, 8), 60))
        with contextlib.suppress(Exception):
            async with self.database.write() as session:
                await session.enter(item.tenant)
                await work.again(session, item, now() + delay, failed=True)

    async def sweep(self) -> None:
        """Forgets nonces and idempotency answers that have had their time; puts back work rows that were lost."""
        while True:
            await self.swept("SELECT sweep_expired(:most)")
            await self.in_bites(budgets.reconcile, budgets.RECONCILED)
            await self.swept("SELECT sweep_rates(:most)")
            with contextlib.suppress(Exception):
                async with self.database.write() as session:
                    if restored := await session.scalar("SELECT restore_executor_work(500)"):
                        log.warning("executor work was missing and is back", rows=restored)
                        session.nudge("work_executor")
            with contextlib.suppress(Exception):
                async with self.database.write() as session:
                    if restored := await session.scalar("SELECT restore_approval_timers()"):
                        log.warning("approval timers were missing and are back", rows=restored)
                        session.nudge("work_worker")
            for restore in RESTORES if self.anchorer else RESTORES - {"restore_anchor_work"}:
                with contextlib.suppress(Exception):
                    async with self.database.write() as session:
                        if await session.scalar(f"SELECT {restore}()"):
                            session.nudge("work_worker")
            with contextlib.suppress(Exception):
                if self.bus is None:
                    await bus.switch_off(self.database)
            await self.swept("SELECT sweep_webhook_deliveries(:most)")
            await self.swept("SELECT sweep_connector_reads(:most)")
            await asyncio.sleep(SWEEP_S)

    async def swept(self, statement: str) -> int:
        """How many rows that were."""

        async def bite(session: WriteSession) -> int:
            found: int = await session.scalar(statement, {"most": SWEEP_BITE})
            return found

        return await self.in_bites(bite, SWEEP_BITE)

    async def in_bites(self, sweep: Callable[[WriteSession], Awaitable[int]], full: int) -> int:
        """Sweeps a bite at a time, each in a transaction of its own, until a bite is not full; how many rows that were."""
        done = 0
        try:
            for _ in range(SWEEP_BITES):
                async with self.database.write() as session:
                    found = await sweep(session)
                done += found
                if found < full:
                    break
        except Exception as error:  # what is left is swept the next time
            log.error("a sweep failed", exc_info=error)
        return done


async def serve(settings: Settings) -> None:
    worker = Worker(settings)
    process.set_when_told_to_stop(worker.stopping)
    start_http_server(settings.worker_metrics_port, settings.host)
    await worker.run()


def run() -> None:
    """The entry of `mission-root worker`."""
    process.run("worker", serve, uvicorns_loop())


if __name__ == "__main__":
    run()
