"""A tenant whose facts are anchored in a folder, and the hands of whoever owns the database."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from app import ledger, work
from app.db import Database
from app.ledger.anchors import Anchorer
from app.ledger.keys import Keyring, Signer, signer
from app.ledger.store import Store, open_store
from app.ledger.verify import Verdict, audit
from tests.walls.ground import Ground

OLD = signer("old:" + base64.b64encode(b"o" * 32).decode())
WRITE = "INSERT INTO ledger (tenant, subject, type, actor, body) VALUES ($1, $2, $3, 'system:api', $4)"
HASH = "fact_hash(prev, tenant, subject, seq, type, actor, at, body)"


class Anchored:
    """One tenant, its anchors, and its verification."""

    def __init__(self, ground: Ground, place: Path | str, signing: Signer = OLD) -> None:
        self.ground, self.place = ground, place
        self.store: Store = open_store(str(place))
        self.worker = Database(ground.url("worker"), pool_size=2)
        self.api = Database(ground.url("api"), pool_size=2)
        self.keys = Keyring(signing.public())
        self.anchorer = self.another(signing)

    def another(self, signing: Signer = OLD, interval: float = 0.0, most: int = 1000) -> Anchorer:
        return Anchorer(self.worker, self.store, signing, self.keys, timedelta(seconds=interval), most)

    @property
    def tenant(self) -> UUID:
        return self.ground.tenant

    async def tell(self, *subjects: UUID, times: int = 1) -> None:
        for turn in range(times):
            for subject in subjects:
                await self.ground.run("api", WRITE, self.tenant, subject, "test.said", b'{"n":%d}' % turn)

    async def item(self) -> work.Item:
        """The tenant's work row, leased to us as the worker would lease it."""
        async with self.worker.write() as session:
            await session.execute("SELECT restore_anchor_work()")
        admin = await self.ground.of("admin")
        row = await admin.fetchrow(
            """UPDATE work SET fence = fence + 1, attempts = attempts + 1
               WHERE tenant = $1 AND kind = 'anchor' RETURNING fence, wanted, attempts""",
            self.tenant,
        )
        return work.Item(self.tenant, "anchor", self.tenant, row["fence"], row["wanted"], row["attempts"])

    async def settled(self) -> None:
        """Until no transaction of this cluster holds the horizon below what is written."""
        admin = await self.ground.of("admin")
        newest = "SELECT COALESCE(max(xid::text::bigint), 0) FROM ledger WHERE tenant = $1"
        for _ in range(500):
            low = await admin.fetchval("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
            if low > await admin.fetchval(newest, self.tenant):
                return
            await asyncio.sleep(0.01)
        raise AssertionError("a transaction is left open")

    async def anchor(self, anchorer: Anchorer | None = None) -> None:
        await self.settled()
        await (anchorer or self.anchorer).anchor(await self.item())

    async def verify(self, keys: Keyring | None = None) -> tuple[Verdict, dict[str, Any]]:
        return await audit(ledger.inside_of(self.api, self.tenant), self.tenant, self.store, keys or self.keys)

    async def rows(self) -> list[asyncpg.Record]:
        """The facts in reading order, as the superuser sees them."""
        admin = await self.ground.of("admin")
        return await admin.fetch("SELECT *, xid::text AS x FROM ledger WHERE tenant = $1 ORDER BY xid, id", self.tenant)

    async def stated(self) -> list[dict[str, Any]]:
        return [
            json.loads(row["body"]) | {"seq": row["seq"]}
            for row in await self.rows()
            if row["type"] == "ledger.anchored"
        ]

    async def objects(self) -> list[str]:
        return [name async for name in self.store.names(f"{self.tenant}/anchors")]


@asynccontextmanager
async def owning(ground: Ground) -> AsyncIterator[asyncpg.Connection]:
    """The table's owner as a superuser with the triggers off."""
    admin = await ground.of("admin")
    async with admin.transaction():
        await admin.execute("ALTER TABLE ledger DISABLE TRIGGER USER")
        yield admin
        for trigger in ("chain", "keep", "whole"):
            await admin.execute(f"ALTER TABLE ledger ENABLE ALWAYS TRIGGER ledger_{trigger}")


async def rehash(admin: asyncpg.Connection, tenant: UUID, subject: UUID) -> None:
    """Makes a chain fit again, from its first fact on, as its owner could."""
    last = b""
    for row in await admin.fetch(
        "SELECT seq FROM ledger WHERE tenant = $1 AND subject = $2 ORDER BY seq", tenant, subject
    ):
        await admin.execute(
            "UPDATE ledger SET prev = $4 WHERE tenant = $1 AND subject = $2 AND seq = $3",
            tenant,
            subject,
            row["seq"],
            last,
        )
        last = await admin.fetchval(
            f"UPDATE ledger SET hash = {HASH} WHERE tenant = $1 AND subject = $2 AND seq = $3 RETURNING hash",
            tenant, subject, row["seq"],
        )  # fmt: skip


@asynccontextmanager
async def anchored(ground: Ground, place: Path | str, signing: Signer = OLD) -> AsyncIterator[Anchored]:
    made = Anchored(ground, place, signing)
    try:
        yield made
    finally:
        await made.worker.close()
        await made.api.close()


__all__ = ["HASH", "OLD", "WRITE", "Anchored", "anchored", "owning", "rehash", "uuid4"]
