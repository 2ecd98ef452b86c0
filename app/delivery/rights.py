"""Whether those who listen may still do so: looked at once for all streams of the same credential.

A page of the console, or a service, opens many streams; a thousand that began together would otherwise be a thousand questions at
once, again and again.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from app.caller import Caller
from app.db import Database

SHARED_S = 1.0


class Rights:
    """authenticate and allow are who judges requests too."""

    def __init__(self, database: Database, authenticate: Any, allow: Callable[[str, Caller], bool]) -> None:
        self.database, self.authenticate, self.allow = database, authenticate, allow
        self.asked: dict[str, asyncio.Task[bool]] = {}  # by credential, as long as the answer is new

    async def hold(self, caller: Caller) -> bool:
        """Whether this caller may read events, as of a second ago at most. Raises what the database raises."""
        task = self.asked.get(caller.secret)
        if task is None:
            task = self.asked[caller.secret] = asyncio.create_task(self.look(caller), name="rights of streams")
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever waits is told
            asyncio.get_running_loop().call_later(SHARED_S, self.asked.pop, caller.secret, None)
        return await asyncio.shield(task)  # a stream that ends takes the answer from no other

    async def look(self, caller: Caller) -> bool:
        async with self.database.read() as session:
            present = await self.authenticate(session, caller.secret)
        return present is not None and present.tenant == caller.tenant and self.allow("events.read", present)
