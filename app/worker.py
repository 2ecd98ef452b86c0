"""The worker process: takes due work, hands each kind to its verb, and tries again when one fails. Wiring only."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog
from prometheus_client import start_http_server

from app import approvals, boundary, work
from app.boundary.dispatch import Colony
from app.caller import Caller, system
from app.clock import now
from app.components import Component
from app.db import Database, WriteSession
from app.nudge import Nudger, wait
from app.settings import Misconfigured, Settings, load, stop
from app.telemetry import WORK_DONE, setup
from app.work import Item
from colony_client.client import ColonyClient

log = structlog.get_logger("worker")

BATCH = 32
LEASE = timedelta(seconds=20)
POLL_S = 1.0
SWEEP_S = 60.0

# Work that is one verb in one transaction.
VERBS: dict[str, Callable[[WriteSession, Caller, object], Awaitable[None]]] = {
    "ask": approvals.open_intake,  # type: ignore[dict-item]
    "review": approvals.conclude,  # type: ignore[dict-item]
    "progress": approvals.progress,  # type: ignore[dict-item]
    "approval_timer": approvals.expire,  # type: ignore[dict-item]
}


class Worker:
    """The loops of one worker process."""

    def __init__(self, settings: Settings) -> None:
        self.database = Database(
            settings.secret("worker_database_url"),
            pool_size=settings.database_pool_size,
            wait_ms=5000,
            name="mission-root worker",
        )
        self.nudger = Nudger(settings.secret("worker_database_url"), ["work_worker", "work_executor", "facts"])
        self.database.on_commit = self.nudger.send
        self.colony = Colony(
            client=ColonyClient(
                settings.colony_service_base_url, settings.colony_keys(), timeout_s=settings.colony_timeout_ms / 1000
            ),
            keys=settings.signing_keys(),
            callback_base_url=settings.callback_base_url,
            lease=timedelta(milliseconds=settings.mission_lease_ms),
            max_attempts=settings.mission_max_attempts,
            component=Component("colony", "Missions are accepted and wait."),
        )
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        """Works until told to stop, then finishes what is in hand."""
        self.nudger.start()
        loops = [
            asyncio.create_task(self.loop(["dispatch"], BATCH, self.dispatch), name="dispatch"),
            asyncio.create_task(self.loop(sorted(VERBS), BATCH, self.each(self.verb)), name="verbs"),
            asyncio.create_task(self.loop(["attempt_timer", "colony_cancel"], 8, self.each(self.call)), name="calls"),
            asyncio.create_task(self.sweep(), name="sweep"),
        ]
        await self.stopping.wait()
        for task in loops:
            task.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await self.nudger.stop()
        await self.colony.client.aclose()
        await self.database.close()

    async def loop(self, kinds: list[str], limit: int, handle: Callable[[list[Item]], Awaitable[None]]) -> None:
        """Takes and handles until cancelled. A batch in hand is finished first."""
        with self.nudger.listening("work_worker") as woken:
            while True:
                try:
                    items = await work.take(self.database, "worker", kinds, limit, LEASE)
                except Exception as error:  # the database is away: try again, for ever
                    log.warning("work cannot be taken", error=type(error).__name__)
                    await asyncio.sleep(POLL_S)
                    continue
                if not items:
                    await wait(woken, await self.pause())
                    continue
                await asyncio.shield(asyncio.ensure_future(handle(items)))

    async def pause(self) -> float:
        """How long nothing is due, at most POLL_S."""
        with contextlib.suppress(Exception):
            due = await work.next_due(self.database, "worker")
            if due is not None:
                return min(max((due - now()).total_seconds(), 0.005), POLL_S)
        return POLL_S

    async def dispatch(self, items: list[Item]) -> None:
        try:
            await boundary.dispatch(self.database, self.colony, items)
            for item in items:
                WORK_DONE.labels(item.kind, "done").inc()
        except Exception as error:
            for item in items:
                await self.failed(item, error)

    def each(self, handle: Callable[[Item], Awaitable[None]]) -> Callable[[list[Item]], Awaitable[None]]:
        async def all_of(items: list[Item]) -> None:
            await asyncio.gather(*(self.guarded(handle, item) for item in items))

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
            await VERBS[item.kind](session, system(item.tenant, "worker"), item.subject)
            await work.finish(session, item)

    async def call(self, item: Item) -> None:
        if item.kind == "attempt_timer":
            await boundary.watch_attempt(self.database, self.colony, item)
        else:
            await boundary.cancel_in_colony(self.database, self.colony, item)

    async def failed(self, item: Item, error: Exception) -> None:
        """Logs and gives the item back, later each time."""
        WORK_DONE.labels(item.kind, "failed").inc()
        log.error("work failed", kind=item.kind, subject=str(item.subject), attempts=item.attempts, exc_info=error)
        delay = timedelta(seconds=min(0.2 * 2 ** min(item.attempts, 8), 60))
        with contextlib.suppress(Exception):
            async with self.database.write() as session:
                await session.enter(item.tenant)
                await work.again(session, item, now() + delay)

    async def sweep(self) -> None:
        """Forgets nonces and idempotency answers that have had their time."""
        while True:
            with contextlib.suppress(Exception):
                async with self.database.write() as session:
                    await session.execute("SELECT sweep_expired(5000)")
            await asyncio.sleep(SWEEP_S)


async def serve(settings: Settings) -> None:
    worker = Worker(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, worker.stopping.set)
    start_http_server(settings.worker_metrics_port, settings.host)
    await worker.run()


def run() -> None:
    """The entry of `mission-root worker`."""
    try:
        settings = load()
        if settings.crm_write_token is not None:
            raise Misconfigured(
                "CRM_WRITE_TOKEN is set, but only the executor may hold a write credential: remove it here."
            )
        setup(
            "worker",
            level=settings.log_level,
            otlp_endpoint=settings.otel_exporter_otlp_endpoint,
            sample=settings.trace_sample_ratio,
            environment=settings.environment,
        )
        from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

        HTTPXClientInstrumentor().instrument()
        asyncio.run(serve(settings))
    except Misconfigured as refused:
        stop(refused)
    except OSError as error:
        raise SystemExit(f"mission-root: a port cannot be opened: {error}") from None


if __name__ == "__main__":
    run()
