"""The worker's loops for webhooks: planning when the ledger grows, sending when a delivery is due."""

import asyncio
import contextlib
import time
from datetime import timedelta
from email.utils import parsedate_to_datetime
from uuid import UUID

import httpx
import structlog
from opentelemetry.instrumentation.utils import suppress_http_instrumentation

from app import ledger, outbound, process, work
from app.clock import now
from app.db import Database, unavailable
from app.delivery.webhooks import deliver, signatures
from app.delivery.webhooks.deliver import Message, Tried
from app.nudge import Nudger, wait
from app.work import Item
from colony_client.signing import Keys

log = structlog.get_logger("webhooks")

AT_ONCE = 32
OF_WEBHOOK, OF_TENANT = 4, AT_ONCE // 2  # receivers that hang hold no more hands than this: the others are for others
POLL_S = 1.0
COALESCE_S = 0.02  # many commits, one look
LEASE = timedelta(seconds=40)  # longer than any one try
CONNECT_S, TOTAL_S = 5.0, 15.0
LARGEST_ANSWER = 65_536  # of an answer nobody reads; more than this is a failure
AGENT = "mission-root-webhooks/1"


class Courier:
    """Plans and sends. allowed: host:port that may be private addresses or plain http, from OUTBOUND_ALLOWED_HOSTS."""

    def __init__(self, database: Database, nudger: Nudger, keys: Keys, allowed: frozenset[str]) -> None:
        self.database, self.nudger, self.keys = database, nudger, keys
        self.client = outbound.client(
            allowed=allowed, any_public=True, timeout_s=TOTAL_S, connect_s=CONNECT_S, max_bytes=LARGEST_ANSWER
        )
        self.hands = asyncio.Semaphore(AT_ONCE)
        self.sending: dict[asyncio.Task[None], tuple[UUID, UUID | None]] = {}  # tenant and webhook of what is under way
        self.taking = asyncio.Lock()
        self.woken: asyncio.Event | None = None

    async def plan_loop(self) -> None:
        """Runs until cancelled: every fact wakes it, and it looks by itself every POLL_S."""
        with self.nudger.listening(ledger.FACTS) as woken:
            while True:
                try:
                    await self.plan()
                except Exception as error:  # the database is away: the cursor stands where it stood
                    log.warning("webhooks cannot be planned", error=type(error).__name__)
                    await asyncio.sleep(POLL_S)
                await asyncio.sleep(COALESCE_S)
                await wait(woken, POLL_S)

    async def plan(self) -> None:
        """A bite of each in turn, so that one with far to read does not keep the others waiting."""
        left = await deliver.waiting(self.database)
        while left:
            left = [one for one in left if await self.plan_some(*one)]

    async def plan_some(self, tenant: UUID, webhook: UUID) -> bool:
        try:
            async with self.database.write() as session:
                await session.enter(tenant)
                return await deliver.plan(session, webhook)
        except Exception as error:
            if unavailable(error):
                raise
            log.error("a webhook cannot be planned", webhook=str(webhook), exc_info=error)  # the others can
            return False

    async def send_loop(self) -> None:
        """Runs until cancelled; what is under way is then `stop`'s to end."""
        with self.nudger.listening(work.WEBHOOKS) as woken:
            self.woken = woken
            while True:
                taken = 0
                with contextlib.suppress(Exception):
                    taken = await self.take()
                if not taken:
                    await asyncio.sleep(COALESCE_S)
                    await wait(woken, POLL_S)

    async def take(self) -> int:
        """Takes what is due, as much as hands are free, and starts sending it."""
        async with self.taking:
            await self.hands.acquire()  # at least one free hand before anything is leased
            self.hands.release()
            free = max(AT_ONCE - len(self.sending), 1)
            held = self.sending.values()
            taken = await deliver.take(self.database, free, LEASE, held, OF_WEBHOOK, OF_TENANT)
            for item, webhook in taken:
                task = asyncio.create_task(self.guarded(item))
                self.sending[task] = (item.tenant, webhook)
                task.add_done_callback(self.done)
        return len(taken)

    def done(self, task: asyncio.Task[None]) -> None:
        self.sending.pop(task, None)
        if self.woken is not None:
            self.woken.set()  # what waited for this hand may be taken now

    async def guarded(self, item: Item) -> None:
        async with self.hands:
            try:
                await self.send(item)
            except Exception as error:  # the lease brings it back
                log.error("a webhook could not be sent", delivery=str(item.subject), exc_info=error)

    async def send(self, item: Item) -> None:
        found = await deliver.prepare(self.database, self.keys, item)
        if found is None:
            return
        tried = await post(self.client, found)
        async with self.database.write() as session:
            await session.enter(item.tenant)
            await deliver.settle(session, item, found, tried)

    async def idle(self) -> None:
        """Until nothing is being sent."""
        while self.sending:
            await asyncio.wait(self.sending)

    async def stop(self) -> None:
        """After its loops were cancelled: what is being sent is waited for as long as a process that ends may wait."""
        try:
            if not await process.finished(set(self.sending)):
                log.warning("webhooks that were being sent are left to the next worker")
        finally:
            await self.client.aclose()


async def post(client: httpx.AsyncClient, message: Message) -> Tried:
    """One try, outside any transaction. Whatever happens is an answer: nothing is raised but cancellation."""
    began = time.monotonic()
    sent = signatures.headers(message.id, now(), message.body, message.secrets)
    sent |= {"content-type": "application/json", "user-agent": AGENT}

    def done(status: int | None, error: str | None, retry_after_s: float | None = None) -> Tried:
        return Tried(status, error, round((time.monotonic() - began) * 1000), retry_after_s)

    try:
        # no span and no traceparent: the address may hold secrets of its owner's, and our traces are nobody else's business
        with suppress_http_instrumentation():
            async with asyncio.timeout(TOTAL_S):
                answer = await client.post(message.url, content=message.body, headers=sent)
    except (TimeoutError, httpx.TimeoutException):
        return done(None, "timed_out")
    except outbound.Forbidden:
        return done(None, "address_refused")
    except outbound.TooLarge:
        return done(None, "answer_too_large")
    except httpx.HTTPError as error:
        return done(None, "connection_failed" if isinstance(error, httpx.ConnectError) else "broke_off")
    except Exception as error:  # a URL or an answer that the client chokes on
        log.warning("a webhook failed unexpectedly", error=type(error).__name__)
        return done(None, "unexpected")
    if 200 <= answer.status_code < 300:
        return done(answer.status_code, None)
    return done(answer.status_code, "refused", wish(answer) if answer.status_code in (429, 503) else None)


def wish(answer: httpx.Response) -> float | None:
    """Retry-After in seconds, whichever of its two forms was used; None when it is neither."""
    said = answer.headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit():
        return float(min(int(said[:9]), 86_400))
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return min(max((parsedate_to_datetime(said) - now()).total_seconds(), 0.0), 86_400.0)
    return None
