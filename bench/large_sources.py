"""Bytes in a row against bytes in a file, size by size, interleaved: `python -m bench.large_sources`. Milliseconds, medians."""

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from uuid import UUID

from app import bootstrap, identity
from app.artifacts import Objects, keep_blob, places
from app.bootstrap import LOGIN_ROLES
from app.db import Database
from app.embedded import ephemeral
from app.ledger.store import open_store
from app.migrate import upgrade

SIZES = (65_536, 262_144, 1_048_576, 4_194_304)
ROUNDS = 15
SPAN = 65_536  # what the colony reads at once


async def main() -> None:
    with ephemeral() as server, tempfile.TemporaryDirectory() as folder:
        admin = server.url("postgres", server.password(), "postgres")
        passwords = {role: "bench" for role in LOGIN_ROLES}
        await bootstrap.bootstrap(admin, "mission_root", passwords, "postgres")
        await asyncio.to_thread(upgrade, admin, "mission_root")
        await identity.seed_demo(server.url("mission_root_registrar", "bench", "postgres"))
        api, owner = (Database(url) for url in (server.url("mission_root_api", "bench", "postgres"), admin))
        async with owner.read() as session:
            tenant: UUID = await session.scalar("SELECT id FROM tenant")
        stores = {"row": Objects(None, 1), "file": Objects(open_store(str(Path(folder) / "objects")), 1)}
        print(f"{'bytes':>9}  {'':<5} {'write':>8} {'read':>8} {'span':>8}  {'WAL':>9}")
        for size in SIZES:
            took: dict[str, dict[str, list[float]]] = {
                name: {"write": [], "read": [], "span": [], "wal": []} for name in stores
            }
            for _ in range(ROUNDS):
                for name, objects in stores.items():
                    for what, value in (await one(api, owner, objects, tenant, os.urandom(size))).items():
                        took[name][what].append(value)
            for name, found in took.items():
                write, read, span, wal = (statistics.median(found[what]) for what in ("write", "read", "span", "wal"))
                print(f"{size:>9}  {name:<5} {write:>8.2f} {read:>8.2f} {span:>8.2f}  {wal:>9.0f}")
        await api.close()
        await owner.close()


async def one(api: Database, owner: Database, objects: Objects, tenant: UUID, data: bytes) -> dict[str, float]:
    """Keeps bytes, reads them whole, and reads a span from their middle."""
    before, begun = await wal(owner), time.perf_counter()
    laid = await objects.lay_down(tenant, data)
    async with api.write() as session:
        await session.enter(tenant)
        digest = await keep_blob(session, tenant, laid)
    written, after = time.perf_counter() - begun, await wal(owner)
    begun = time.perf_counter()
    async with api.read() as session:
        await session.enter(tenant)
        place = (await places(session, [digest]))[digest]
    assert await objects.read(place) == data
    read, begun, start = time.perf_counter() - begun, time.perf_counter(), len(data) // 2
    async with api.read() as session:
        await session.enter(tenant)
        if place.object is None:
            await session.scalar(
                "SELECT substring(bytes FROM CAST(:at AS int) FOR CAST(:most AS int)) FROM blob WHERE tenant = :tenant AND sha256 = :one",
                {"tenant": tenant, "one": digest, "at": start + 1, "most": SPAN},
            )
        else:
            place = (await places(session, [digest]))[digest]
    if place.object is not None:
        await objects.read(place, start, start + SPAN)
    span = time.perf_counter() - begun
    return {"write": written * 1000, "read": read * 1000, "span": span * 1000, "wal": float(after - before)}


async def wal(owner: Database) -> int:
    async with owner.read() as session:
        found: int = await session.scalar("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")
    return found


if __name__ == "__main__":
    asyncio.run(main())
