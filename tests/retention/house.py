"""A tenant with a real store: missions that read sources, end, grow old, are held, and are swept."""

import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from app import work
from app.artifacts import Objects, keep_blob
from app.artifacts.objects import Located
from app.artifacts.queries import places
from app.db import Database
from app.errors import Problem
from app.ledger.store import open_store
from app.retention import Sweeper
from tests.walls.ground import Ground

LARGE = 5_000  # from this size on bytes go to the store


class House:
    """One tenant: its rows over the walls' ground, its objects in a folder or a bucket."""

    def __init__(self, ground: Ground, place: Path | str) -> None:
        self.ground, self.place = ground, place
        self.objects = Objects(open_store(str(place)), LARGE)
        self.api = Database(ground.url("api"), pool_size=4)
        self.worker = Database(ground.url("worker"), pool_size=4)
        self.sweeper = Sweeper(self.worker, self.objects, timedelta(0))

    @property
    def tenant(self) -> UUID:
        return self.ground.tenant

    async def close(self) -> None:
        await self.api.close()
        await self.worker.close()

    # --- what happens to bytes

    async def keep(self, data: bytes) -> bytes:
        laid = await self.objects.lay_down(self.tenant, data)
        async with self.api.write() as session:
            await session.enter(self.tenant)
            return await keep_blob(session, self.tenant, laid)

    async def read(self, mission: UUID, source: bytes, document: str = "d") -> None:
        await self.ground.run(
            "api",
            "INSERT INTO reading (tenant, mission, source_sha256, document, kind) VALUES ($1, $2, $3, $4, 'document') "
            "ON CONFLICT DO NOTHING",
            self.tenant, mission, source, document,
        )  # fmt: skip

    async def document(self, source: bytes, size: int, path: str = "d", state: str = "current") -> None:
        await self.ground.run(
            "api",
            "INSERT INTO workspace (tenant, id, name) VALUES ($1, $1, 'default') ON CONFLICT DO NOTHING",
            self.tenant,
        )
        await self.ground.run(
            "api",
            """INSERT INTO document (tenant, id, workspace, path, version, title, kind, content_sha256, source_sha256, bytes, passages,
                 reader, state, retired_at)
               VALUES ($1, gen_random_uuid(), $1, $2, 1, 'd', 'text', $3, $3, $4, 1, 1, $5, CASE WHEN $5 <> 'current' THEN now() END)""",
            self.tenant, path, source, size, state,
        )  # fmt: skip

    async def mission(self, klass: str = "restricted", *, said: int = 1, **more: Any) -> UUID:
        mission = await self.ground.mission("adam", sensitivity_class=klass, **more)
        for _ in range(said):
            await self.ground.proposal(mission)
        return mission

    async def end(self, mission: UUID, days_ago: float = 0) -> None:
        """It is completed, and that so long ago; the row's own clock is set back, which no role of the product can."""
        await self.ground.run("api", "UPDATE mission SET state = 'completed', closed_at = now() WHERE id = $1", mission)
        if days_ago:
            await self.without("mission", "mission_guard", "UPDATE mission SET closed_at = closed_at - $2::interval WHERE id = $1", mission,
                               timedelta(days=days_ago))  # fmt: skip

    async def age(self, source: bytes, days: float = 1) -> None:
        """Nobody has brought this source for so long, and it is to be looked at."""
        await self.without(
            "blob", "blob_guard", "UPDATE blob SET kept_at = kept_at - $2::interval, look_at = now() WHERE tenant = $3 AND sha256 = $1",
            source, timedelta(days=days), self.tenant,
        )  # fmt: skip

    async def without(self, table: str, trigger: str, statement: str, *args: Any) -> None:
        async with self.ground.within("admin") as admin:
            await admin.execute(f"ALTER TABLE {table} DISABLE TRIGGER {trigger}")
            await admin.execute(statement, *args)
            await admin.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")

    async def hold(self, name: str, scope: str = "mission", mission: UUID | None = None, label: tuple[str, str] | None = None,
                   who: str = "adam") -> str:  # fmt: skip
        said: str = await self.ground.value(
            "api", "SELECT place_hold($1, $2, $3, $4, $5, $6, $7, 'a case')",
            self.tenant, self.ground.secrets[who], name, scope, mission, *(label or (None, None)),
        )  # fmt: skip
        return said

    async def lift(self, name: str, who: str = "paul") -> str:
        said: str = await self.ground.value(
            "api", "SELECT lift_hold($1, $2, $3, 'no case')", self.tenant, self.ground.secrets[who], name
        )
        return said

    async def schedule(self, restricted: int | None, days_ago: float = 8, **others: int | None) -> None:
        """Times that have been in force for a while. They are written as the wall writes them, earlier."""
        days = {"public": None, "internal": 1095, "confidential": 365, "unread": 30} | others
        await self.ground.run(
            "admin",
            """INSERT INTO retention_schedule (tenant, version, public_days, internal_days, confidential_days, restricted_days,
                 unread_days, set_by, set_at)
               VALUES ($1, (SELECT COALESCE(max(version), 0) + 1 FROM retention_schedule WHERE tenant = $1), $2, $3, $4, $5, $6, $7,
                 clock_timestamp() - $8::interval)""",
            self.tenant, days["public"], days["internal"], days["confidential"], restricted, days["unread"],
            self.ground.ids["adam"], timedelta(days=days_ago),
        )  # fmt: skip

    # --- the sweep

    async def item(self) -> work.Item:
        """The tenant's work row, leased to us as the worker would lease it."""
        async with self.worker.write() as session:
            await session.execute("SELECT restore_retention_work()")
        [row] = await self.ground.run(
            "admin",
            """UPDATE work SET fence = fence + 1, attempts = attempts + 1, lease_until = now() + interval '1 minute'
               WHERE tenant = $1 AND kind = 'retention' RETURNING fence, wanted, attempts""",
            self.tenant,
        )
        return work.Item(self.tenant, "retention", self.tenant, row["fence"], row["wanted"], row["attempts"])

    async def sweep(self) -> None:
        await self.sweeper.turn(await self.item())

    # --- what there is

    async def place_of(self, source: bytes) -> Located:
        async with self.api.read() as session:
            await session.enter(self.tenant)
            return (await places(session, [source]))[source]

    async def state(self, source: bytes) -> str:
        """kept, removed, or what is wrong; a kept source is read and hashed."""
        place = await self.place_of(source)
        try:
            data = await self.objects.read(place)
        except Problem as refused:
            return {"bytes_removed": "removed"}.get(refused.code, refused.code)
        assert hashlib.sha256(data).digest() == source
        return "kept"

    async def said(self, mission: UUID) -> list[bool]:
        """Whether each artifact of a mission still has its bytes."""
        rows = await self.ground.run(
            "admin", "SELECT bytes IS NOT NULL FROM artifact WHERE mission = $1 ORDER BY id", mission
        )
        return [row[0] for row in rows]

    async def stored(self) -> set[str]:
        """The labels of all objects of the tenant."""
        return {label async for page in self.objects.labels(self.tenant) for label in page}

    async def facts(self, type: str) -> list[asyncpg.Record]:
        return await self.ground.run(
            "admin",
            "SELECT subject, actor, convert_from(body, 'UTF8')::jsonb::text AS body FROM ledger WHERE tenant = $1 AND type = $2 "
            "ORDER BY id",
            self.tenant, type,
        )  # fmt: skip
