"""The executor process: the only one that can change a business system, and only what it has claimed.

claim -> COMMIT -> call the target -> read it back -> settle. A crash between any two of these leaves a row that the
next claim finds and settles by asking the target.
"""

import asyncio
import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from opentelemetry.trace import SpanKind
from prometheus_client import start_http_server

from app import process, work
from app.canonical import canonical, sha256
from app.clock import iso, now
from app.db import Database
from app.nudge import Nudger, wait
from app.settings import Settings
from app.signed import signers
from app.telemetry import WORK_DONE, WRITEBACKS, begin, continuing, span
from app.work import READS, Item
from app.writebacks.connectors import (
    Ambiguous,
    BadPayload,
    ConnectorError,
    NotApplied,
    NotConfigured,
    Observed,
    Payload,
    RecordMissing,
    Refused,
    Stale,
    Writer,
    decode,
    verify,
)
from app.writebacks.connectors.registry import Definition, reading_writer, writer

log = structlog.get_logger("executor")

HANDS = 64  # of each kind of work, for all tenants
SHARE = BATCH = (
    4  # at which a tenant is given no more, and what is taken at once: of its targets, no more than 7 calls at a time
)
POLL_S = 1.0
READ_S = 15.0  # whoever waits for a read has given up by then
LATER = timedelta(seconds=30)  # when to look again at what cannot be done now
begin(WRITEBACKS, ["succeeded", "failed", "stale", "unknown", "executing", "lost"])
CLAIM = "SELECT * FROM claim(:tenant, :writeback, :lease)"
SETTLE = "SELECT settle(:tenant, :writeback, :fence, :state, :receipt, :observed)"
READ_OF = "SELECT * FROM connector_read_of(:tenant, :id)"
ANSWER = "SELECT answer_connector_read(:tenant, :id, :fence, :value, :version, :problem)"
FINISH = "SELECT finish_executor_work(:tenant, :subject, :fence, :wanted, CAST(:again AS timestamptz), :failed)"


@dataclass(frozen=True)
class Claimed:
    """A permission to call the target: the approved bytes, the key that makes it once, and until when."""

    writeback: UUID
    payload: bytes
    idempotency_key: str
    fence: int
    not_after: datetime
    attempts: int
    unsettled: bool  # an earlier attempt may have arrived: ask before calling
    halted: bool  # writebacks are halted: asking is all that may be done
    tenant: UUID
    definition: Definition  # of the connector, as it was when the change was asked for
    signed: dict[str, Any] | None  # who signed what, when the rule counts signed approvals only
    until: float = math.inf  # on the monotonic clock: when its lease ends, and nothing may be sent any more
    traceparent: str | None = None  # of the request that asked for the mission: what is done here belongs to its trace


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended. again_s: when to look once more, for states that are not final."""

    state: str  # succeeded, failed, stale, unknown, or executing (proved not applied, to be tried again)
    receipt: dict[str, Any] | None = None
    observed: bytes | None = None
    again_s: float | None = None


class Executor:
    """The loop of one executor process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.lease = timedelta(milliseconds=settings.execution_lease_ms)
        self.database = Database(
            settings.database("executor_database_url"), pool_size=4, wait_ms=5000, name="mission-root executor"
        )
        self.nudger = Nudger(
            settings.database("executor_database_url"), ["work_executor", "work_worker", "facts", READS]
        )
        self.in_hand: set[asyncio.Future[Any]] = set()
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        self.nudger.start()
        loops = [
            asyncio.create_task(self.loop(), name="execute"),
            asyncio.create_task(self.loop("connector_read", self.answer), name="read"),
        ]
        await self.stopping.wait()
        for loop in loops:
            loop.cancel()
        items = len(self.in_hand)
        if not await process.finished([*loops, *self.in_hand]):
            log.warning("of what was in hand, some is left to the next executor", items=items)
        await process.closed(self.nudger.stop(), self.database.close())

    async def loop(self, kind: str = "execute", handle: Callable[[Item], Awaitable[None]] | None = None) -> None:
        """Takes what is due while there are hands for it, each item in a hand of its own.

        A target that hangs keeps the hands of its tenant, and those alone: no tenant is given more while SHARE are busy for it.
        """
        handle = handle or self.guarded
        busy: dict[asyncio.Future[None], Item] = {}
        with self.nudger.listening("work_executor") as woken:

            def free(hand: asyncio.Future[None]) -> None:
                del busy[hand]
                self.in_hand.discard(hand)
                if not hand.cancelled() and (error := hand.exception()) is not None:
                    log.error("an item was left to its lease", kind=kind, exc_info=error)
                woken.set()

            while True:
                many = Counter(item.tenant for item in busy.values())
                full = [tenant for tenant, hands in many.items() if hands >= SHARE]
                room = min(BATCH, HANDS - len(busy))
                items: list[Item] = []
                try:
                    if room:
                        items = await work.take(self.database, kind, room, self.lease, full)
                except Exception as error:
                    log.warning("work cannot be taken", error=type(error).__name__)
                    await asyncio.sleep(POLL_S)
                    continue
                held = {(item.tenant, item.subject) for item in busy.values()}
                for item in items:
                    if (item.tenant, item.subject) in held:  # its lease ran out in a hand, which still has it
                        continue
                    hand = asyncio.ensure_future(handle(item))
                    busy[hand] = item
                    self.in_hand.add(hand)
                    hand.add_done_callback(free)
                if not items:
                    await wait(woken, await self.pause(kind, full) if room else POLL_S)

    async def pause(self, kind: str, full: list[UUID]) -> float:
        with contextlib.suppress(Exception):
            due = await work.next_due(self.database, kind, full)
            if due is not None:
                return min(max((due - now()).total_seconds(), 0.005), POLL_S)
        return POLL_S

    async def guarded(self, item: Item) -> None:
        try:
            again = await self.execute(item)
            await self.finish(item, again)
            WORK_DONE.labels(item.kind, "done").inc()
        except Exception as error:
            WORK_DONE.labels(item.kind, "failed").inc()
            log.error("execution failed", writeback=str(item.subject), exc_info=error)
            with contextlib.suppress(Exception):
                pause = timedelta(seconds=min(2 ** min(item.attempts, 6), 60))
                await self.finish(item, now() + pause, failed=True)

    async def execute(self, item: Item) -> datetime | None:
        """Claims and carries out one writeback. Answers when to come back, None when it is finished with."""
        claimed = await self.claim(item)
        if not isinstance(claimed, Claimed):
            return claimed
        with span(
            "execute",
            context=continuing(claimed.traceparent),
            kind=SpanKind.CONSUMER,
            attributes={"writeback.id": str(item.subject), "execution.attempt": claimed.attempts},
        ) as leaving:
            outcome = await carry_out(claimed, self.settings)
            leaving.set_attribute("execution.outcome", outcome.state if outcome is not None else "nothing_learnt")
        if outcome is None:
            # Nothing was learnt, so nothing is settled: the claim's lease runs out by itself, and for a while nobody has it.
            return now() + self.lease + LATER
        held = await self.settle(item.tenant, claimed, outcome)
        WRITEBACKS.labels(outcome.state if held else "lost").inc()
        if not held:
            log.warning("the execution belongs to another holder", writeback=str(item.subject))
            return now() + timedelta(seconds=1)
        return now() + timedelta(seconds=outcome.again_s) if outcome.again_s is not None else None

    async def claim(self, item: Item) -> Claimed | datetime | None:
        """The permission, or when to come back, or None when there is nothing to do. Committed before anything is called."""
        until = time.monotonic() + self.lease.total_seconds()  # taken before the wall's own, so it ends no later
        async with self.database.write() as session:
            await session.enter(item.tenant)
            row = await session.first(CLAIM, {"tenant": item.tenant, "writeback": item.subject, "lease": self.lease})
        assert row is not None
        if row.outcome in ("apply", "reconcile"):
            self.nudger.send(["facts", "work_worker"])
            return Claimed(
                item.subject,
                row.payload,
                str(row.idempotency_key),
                row.fence,
                row.not_after,
                row.attempts,
                unsettled=row.outcome == "reconcile",
                halted=row.why is not None,
                tenant=item.tenant,
                definition=Definition(
                    row_connector(row.payload), row.connector_version, row.connector_kind, row.definition, row.account
                ),
                signed=row.signed,
                until=until,
                traceparent=row.traceparent,
            )
        if row.outcome in ("too_early", "busy"):
            return row.not_before
        if row.why in ("halted", "tenant_suspended"):
            return now() + LATER
        log.info("nothing to execute", writeback=str(item.subject), outcome=row.outcome, why=row.why)
        return None

    async def settle(self, tenant: UUID, claimed: Claimed, outcome: Outcome) -> bool:
        async with self.database.write() as session:
            await session.enter(tenant)
            held = await session.scalar(
                SETTLE,
                {
                    "tenant": tenant,
                    "writeback": claimed.writeback,
                    "fence": claimed.fence,
                    "state": outcome.state,
                    "receipt": canonical(outcome.receipt) if outcome.receipt is not None else None,
                    "observed": outcome.observed,
                },
            )
        self.nudger.send(["facts", "work_worker"])
        return bool(held)

    async def answer(self, item: Item) -> None:
        """Reads one record for a process that may not, and says what it saw. Whoever asked waits only seconds."""
        try:
            async with self.database.write() as session:
                await session.enter(item.tenant)
                asked = await session.first(READ_OF, {"tenant": item.tenant, "id": item.subject})
            seen: tuple[bytes | None, str | None, str | None] = (None, None, "failed Nobody waits for it any more.")
            if asked is not None:
                definition = Definition(
                    asked.connector, asked.connector_version, asked.connector_kind, asked.definition, asked.account
                )
                seen = await look(definition, asked.kind, asked.record_id, self.settings)
            value, version, problem = seen
            async with self.database.write() as session:
                await session.enter(item.tenant)
                await session.execute(
                    ANSWER,
                    {
                        "tenant": item.tenant,
                        "id": item.subject,
                        "fence": item.fence,
                        "value": value,
                        "version": version,
                        "problem": problem,
                    },
                )
            self.nudger.send([READS])
            WORK_DONE.labels(item.kind, "done").inc()
        except Exception as error:  # its lease runs out, and by then nobody waits
            WORK_DONE.labels(item.kind, "failed").inc()
            log.error("a read failed", read=str(item.subject), exc_info=error)

    async def finish(self, item: Item, again: datetime | None, *, failed: bool = False) -> None:
        async with self.database.write() as session:
            await session.enter(item.tenant)
            await session.execute(
                FINISH,
                {
                    "tenant": item.tenant,
                    "subject": item.subject,
                    "fence": item.fence,
                    "wanted": item.wanted,
                    "again": again,
                    "failed": failed,
                },
            )


def row_connector(payload: bytes) -> str:
    """The connector that the wall has read out of the payload; whether the rest of it is one is looked at later."""
    return str(json.loads(payload)["connector"])


async def look(
    definition: Definition, kind: str, record_id: str, settings: Settings
) -> tuple[bytes | None, str | None, str | None]:
    """Fields and version of a record, or why not: the first word of the problem says which kind of no it is."""
    try:
        async with asyncio.timeout(READ_S), reading_writer(definition, settings) as target:
            observed = await target.read(kind, record_id)
        return canonical(observed.value), observed.version, None
    except RecordMissing as error:
        return None, None, f"missing {error.reason}"
    except Refused as error:
        return None, None, f"refused {error.reason}"
    except ConnectorError as error:
        return None, None, f"failed {error.reason}"
    except (TimeoutError, ValueError) as error:
        return None, None, f"failed The record could not be read ({type(error).__name__})."


async def carry_out(claimed: Claimed, settings: Settings) -> Outcome | None:
    """Calls the target at most as often as it takes to know what happened, and reads back what it shows.

    None: nothing has arrived so far, and nothing may: writebacks are halted, the approval is over, or the claim's lease is.
    """
    if not enough_signed(claimed):  # nor were there enough at an earlier attempt: the wall counts keys as of the first
        return Outcome(
            "failed", {"finding": "signature_missing", "detail": "Too few approvals carry a valid signature."}
        )
    try:
        payload = decode(claimed.payload)
        connector = writer(claimed.definition, settings)
    except BadPayload as error:  # every attempt stops here, so none was ever sent
        return Outcome("failed", {"finding": "refused", "detail": error.reason})
    except NotConfigured as error:
        if claimed.unsettled:
            return unsettled(claimed, error)
        return Outcome(
            "executing", {"finding": "not_applied_yet", "detail": error.reason}, again_s=LATER.total_seconds()
        )
    async with connector as target:
        if claimed.unsettled:
            try:
                receipt = await target.find(claimed.idempotency_key, payload)
            except ConnectorError as error:
                return unsettled(claimed, error)
            if receipt is not None:
                return await read_back(target, claimed, payload, receipt)
            # An attempt that lost its lease may still be under way, so that absence is final only a lease after the end.
            if now() >= claimed.not_after + timedelta(milliseconds=settings.execution_lease_ms):
                return Outcome(
                    "failed",
                    {
                        "finding": "not_applied_in_time",
                        "detail": "The approval ended before the target could be reached.",
                    },
                )
            if claimed.halted or now() >= claimed.not_after:
                return None
        if (outcome := await nothing_to_do(target, claimed, payload)) is not None:
            return outcome
        if time.monotonic() >= claimed.until:  # somebody else may have it by now, or a human has said what became of it
            log.warning("not sent: the lease was over before the target had answered", writeback=str(claimed.writeback))
            return None
        return await apply(target, claimed, payload)


def enough_signed(claimed: Claimed) -> bool:
    """Did as many approvers as it takes sign exactly these bytes? Whoever wrote the rows is not asked, their keys are."""
    said = claimed.signed
    if said is None:
        return True
    who = signers(claimed.tenant, UUID(said["approval"]), sha256(claimed.payload), said["decisions"])
    if len(who) >= said["required"]:
        return True
    log.warning("approvals without valid signatures", writeback=str(claimed.writeback), valid=len(who))
    return False


async def nothing_to_do(target: Writer, claimed: Claimed, payload: Payload) -> Outcome | None:
    """Success without a call, when the very version that was approved for shows the approved values already."""
    try:
        observed = await target.read(payload.kind, payload.record_id)
    except Exception:
        return None  # what keeps the target from being read is the call's to say
    if observed.version != payload.expected_version or not verify(payload, observed).matches:
        return None
    return Outcome("succeeded", {"finding": "nothing_to_do", "current": seen(observed)}, observed=claimed.payload)


async def apply(target: Writer, claimed: Claimed, payload: Payload) -> Outcome:
    """One call under the execution's key. The target answers an earlier call of the same key with its receipt."""
    try:
        # the target is not told of our traces: a span of its own says how long it took
        with span("apply", kind=SpanKind.CLIENT):
            applied = await target.apply(claimed.payload, claimed.idempotency_key)
    except Stale as error:
        return Outcome("stale", {"finding": "stale", "detail": error.reason, "current": seen(error.current)})
    except NotApplied as error:
        wait_s = error.retry_after_s or min(0.5 * 2 ** min(claimed.attempts, 6), 30)
        late = now() + timedelta(seconds=wait_s) >= claimed.not_after
        if not error.retryable or (late and not claimed.unsettled):  # of an earlier attempt this answer says nothing
            return Outcome("failed", {"finding": "not_applied", "detail": error.reason})
        return Outcome("executing", {"finding": "not_applied_yet", "detail": error.reason}, again_s=wait_s)
    except Refused as error:
        return Outcome("failed", {"finding": "refused", "detail": error.reason, "status": error.status})
    except Exception as error:  # ambiguous by definition: the request may have arrived
        return unsettled(claimed, error)
    return await read_back(target, claimed, payload, applied.receipt)


def unsettled(claimed: Claimed, error: Exception) -> Outcome:
    """Nobody can tell: the state is unknown until the target can be asked."""
    detail = error.reason if isinstance(error, ConnectorError) else type(error).__name__
    if not isinstance(error, (Ambiguous, ConnectorError)):
        log.error("the connector failed unexpectedly", writeback=str(claimed.writeback), exc_info=error)
    return Outcome(
        "unknown", {"finding": "unknown", "detail": detail}, again_s=min(0.5 * 2 ** min(claimed.attempts, 6), 60)
    )


async def read_back(target: Writer, claimed: Claimed, payload: Payload, receipt: dict[str, Any]) -> Outcome:
    """Looks at the target after the write: success is what it shows, not what it said."""
    try:
        with span("read back", kind=SpanKind.CLIENT):
            observed = await target.read(payload.kind, payload.record_id)
    except Refused as error:
        return Outcome("failed", {"finding": "gone", "detail": error.reason, "receipt": receipt})
    except Exception as error:
        return unsettled(claimed, error)
    shown = verify(payload, observed)
    kept = {"receipt": receipt, "observed_version": observed.version, "observed_at": iso(observed.read_at)}
    # The payload again, with its changes as they stand in the target: equal bytes are the proof, and Postgres checks them.
    shown_payload = canonical({**json.loads(claimed.payload), "changes": shown.observed})
    if shown.matches:
        return Outcome("succeeded", {"finding": "applied", **kept}, observed=shown_payload)
    return Outcome("failed", {"finding": "read_back_differs", **kept}, observed=shown_payload)


def seen(observed: Observed) -> dict[str, Any]:
    return {"version": observed.version, "read_at": iso(observed.read_at)}


async def serve(settings: Settings) -> None:
    executor = Executor(settings)
    process.set_when_told_to_stop(executor.stopping)
    start_http_server(settings.executor_metrics_port, settings.host)
    await executor.run()


def run() -> None:
    """The entry of `mission-root executor`."""
    process.run("executor", serve, executes=True)


if __name__ == "__main__":
    run()
