"""The look that nobody asked for: are the tools of a tenant's layers still what was registered?"""

import asyncio
from datetime import timedelta

from app import work
from app.clock import now
from app.tools import layers
from app.tools.sessions import Sessions
from app.work import Item

PAGE = 50  # layers, each with its schemas
AT_ONCE = 4


async def check_layers(sessions: Sessions, item: Item, interval: timedelta) -> None:
    """Asks every server of a tenant's layers for its tools, and comes back after the interval while there are any.

    A halted layer is looked at, too: whoever resumes it wants to know.
    """
    turns = asyncio.Semaphore(AT_ONCE)

    async def look(one: layers.Kept) -> None:
        async with turns:
            await sessions.check(item.tenant, one.layer())

    after: list[str] = []
    any_left, more = False, True
    while more:
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
