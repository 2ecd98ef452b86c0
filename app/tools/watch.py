"""The look that nobody asked for: are the tools of a tenant's layers still what was registered?"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog
from sqlalchemy import text

from app import work
from app.clock import now
from app.tools import layers
from app.tools.sessions import Sessions
from app.work import Item

PAGE = 50  # layers, each with its schemas
AT_ONCE = 4
HOLD_ON = text("""
  UPDATE work SET lease_until = statement_timestamp() + CAST(:lease AS interval),
    next_at = CASE WHEN wanted = :wanted THEN statement_timestamp() + CAST(:lease AS interval) ELSE next_at END
  WHERE tenant = :tenant AND kind = :kind AND subject = :subject AND fence = :fence""")
log = structlog.get_logger("tools")


async def check_layers(sessions: Sessions, item: Item, interval: timedelta, lease: timedelta) -> None:
    """Asks every server of a tenant's layers for its tools, and comes back after the interval while there are any.

    A halted layer is looked at, too: whoever resumes it wants to know. Servers take their time, and so the lease, which the item was
    taken for, is prolonged meanwhile; when somebody else has it all the same, the look ends.
    """
    async with prolonged(sessions, item, lease) as ours:
        await look_at_all(sessions, item, interval, ours)


@asynccontextmanager
async def prolonged(sessions: Sessions, item: Item, lease: timedelta) -> AsyncIterator[asyncio.Event]:
    """Keeps an item while the block runs. The event is set for as long as it is ours."""
    ours = asyncio.Event()
    ours.set()

    async def hold_on() -> None:
        held = {"tenant": item.tenant, "kind": item.kind, "subject": item.subject, "fence": item.fence}
        while ours.is_set():
            await asyncio.sleep(lease.total_seconds() / 4)
            try:
                async with sessions.database.write() as session:
                    await session.enter(item.tenant)
                    kept = await session.execute(HOLD_ON, held | {"wanted": item.wanted, "lease": lease})
            except Exception as error:
                log.warning("a lease is prolonged later", kind=item.kind, error=type(error).__name__)
            else:
                if not kept.rowcount:
                    ours.clear()

    task = asyncio.create_task(hold_on(), name="the lease of a look at tool layers")
    try:
        yield ours
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def look_at_all(sessions: Sessions, item: Item, interval: timedelta, ours: asyncio.Event) -> None:
    turns = asyncio.Semaphore(AT_ONCE)

    async def look(one: layers.Kept) -> None:
        async with turns:
            if ours.is_set():
                await sessions.check(item.tenant, one.layer())

    after: list[str] = []
    any_left, more = False, True
    while more and ours.is_set():
        async with sessions.database.read() as session:
            await session.enter(item.tenant)
            page = await layers.all_of(session, after, PAGE)
        found = [one for one in page if not one.retired]
        await asyncio.gather(*(look(one) for one in found))
        any_left, more, after = any_left or bool(found), len(page) == PAGE, [one.name for one in page[-1:]]
    async with sessions.database.write() as session:
        await session.enter(item.tenant)
        if any_left:
            await work.again(session, item, now() + interval)
        else:
            await work.finish(session, item)
