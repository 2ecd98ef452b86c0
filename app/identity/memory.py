"""Who was behind a credential when it was last looked up. For verbs whose own transaction looks once more, and for nobody else."""

from collections import OrderedDict
from dataclasses import replace
from functools import partial

from app.caller import Caller
from app.canonical import sha256
from app.db import Database
from app.identity.authenticate import authenticate
from app.together import Together

MOST = 10_000


class Callers:
    """Callers by the hash of their credential, the least used forgotten first; no credential is kept."""

    def __init__(self, database: Database, most: int = MOST) -> None:
        self.database, self.most = database, most
        self.known: OrderedDict[bytes, Caller] = OrderedDict()
        self.asking: Together[bytes, Caller | None] = Together()

    def get(self, secret: str) -> Caller | None:
        """As last seen, or None when it has to be looked up."""
        name = digest(secret)
        found = self.known.get(name)
        if found is None:
            return None
        self.known.move_to_end(name)
        return found.presenting(secret)

    async def look_up(self, secret: str) -> Caller | None:
        """As it is now; None, and forgotten, when nobody live is behind it."""
        return await self.asking.ask(digest(secret), partial(self._look_up, secret))

    async def _look_up(self, secret: str) -> Caller | None:
        async with self.database.read() as session:
            found = await authenticate(session, secret)
        name = digest(secret)
        if found is None:
            self.known.pop(name, None)
            return None
        self.known[name] = replace(found, secret="")
        while len(self.known) > self.most:
            self.known.popitem(last=False)
        return found


def digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogateescape"))
