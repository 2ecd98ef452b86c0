"""Are all bytes there that the database speaks of? Everything it keeps is read and hashed, a page at a time."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.artifacts.objects import Located, Objects
from app.artifacts.queries import PLACE_ALONE
from app.db import Database, ReadSession
from app.errors import Problem

PAGE = 200
NAMED = 1000  # findings that are named; all are counted
FOUND = {"artifact_missing": "missing", "artifact_damaged": "damaged"}

# What is in rows is hashed where it is.
SOURCES = text(f"""SELECT {PLACE_ALONE}, b.sha256 = sha256(b.bytes) AS whole
  FROM blob b WHERE b.tenant = :tenant AND b.sha256 > :after ORDER BY b.sha256 LIMIT :limit""")  # noqa: S608
ARTIFACTS = text("""SELECT a.id, a.sha256, a.removed_at, a.sha256 = sha256(a.bytes) AS whole, COALESCE(octet_length(a.bytes), 0) AS size
  FROM artifact a WHERE a.tenant = :tenant AND a.id > :after ORDER BY a.id LIMIT :limit""")
TENANTS = text("SELECT * FROM tenants_after(:after, :limit)")
FIRST = UUID(int=0)


@dataclass
class Account:
    """What was looked at, and what was wrong with it: tenant, sha256, what (source or artifact), found (missing or damaged)."""

    sources: int = 0
    artifacts: int = 0
    size: int = 0
    removed: int = 0
    missing: int = 0
    damaged: int = 0
    findings: list[dict[str, Any]] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return not self.missing and not self.damaged

    def note(self, tenant: UUID, sha256: bytes, what: str, found: str) -> None:
        setattr(self, found, getattr(self, found) + 1)
        if len(self.findings) < NAMED:
            self.findings.append({"tenant": str(tenant), "sha256": sha256.hex(), "what": what, "found": found})


async def verify(database: Database, objects: Objects, tenant: UUID | None = None) -> Account:
    """Reads all that is kept of a tenant, or of all. Raises Problem when the store does not answer."""
    account = Account()
    async for one in tenants(database) if tenant is None else only(tenant):
        await verify_sources(database, objects, one, account)
        await verify_artifacts(database, one, account)
    return account


async def only(tenant: UUID) -> AsyncIterator[UUID]:
    yield tenant


async def tenants(database: Database) -> AsyncIterator[UUID]:
    after = None
    while True:
        async with database.read() as session:
            found = [row[0] for row in await session.rows(TENANTS, {"after": after, "limit": PAGE})]
        for one in found:
            yield one
        if len(found) < PAGE:
            return
        after = found[-1]


async def verify_sources(database: Database, objects: Objects, tenant: UUID, account: Account) -> None:
    after = b""
    while True:
        async with database.read() as session:
            await session.enter(tenant)
            page = await session.rows(SOURCES, {"tenant": tenant, "after": after, "limit": PAGE})
        for row in page:  # no transaction is open while the store is read
            said = dict(row._mapping)
            whole, place = said.pop("whole"), Located(**said)
            found = None
            if place.object is not None:
                found = await look(objects, place)
            elif place.removed_at is None and not whole:
                found = "damaged"
            if place.removed_at is not None:
                account.removed += 1
                continue
            account.sources += 1
            account.size += place.size
            if found and await still(database, place):
                account.note(tenant, place.sha256, "source", found)
        if len(page) < PAGE:
            return
        after = page[-1].sha256


async def look(objects: Objects, place: Located) -> str | None:
    """Reads an object to its end; what is wrong with it, or None."""
    try:
        async for _ in objects.stream(place):
            pass
    except Problem as refused:
        if refused.code not in FOUND:
            raise
        return FOUND[refused.code]
    return None


async def still(database: Database, place: Located) -> bool:
    """Whether the row still names this object: retention may have removed it in the meantime."""
    if place.object is None:
        return True
    async with database.read() as session:
        await session.enter(place.tenant)
        return await names(session, place)


async def names(session: ReadSession, place: Located) -> bool:
    asked = {"tenant": place.tenant, "sha256": place.sha256, "object": place.object}
    return bool(
        await session.scalar(
            "SELECT 1 FROM blob WHERE tenant = :tenant AND sha256 = :sha256 AND object = :object", asked
        )
    )


async def verify_artifacts(database: Database, tenant: UUID, account: Account) -> None:
    after = FIRST
    while True:
        async with database.read() as session:
            await session.enter(tenant)
            page = await session.rows(ARTIFACTS, {"tenant": tenant, "after": after, "limit": PAGE})
        for row in page:
            if row.removed_at is not None:
                account.removed += 1
                continue
            account.artifacts += 1
            account.size += row.size
            if not row.whole:
                account.note(tenant, row.sha256, "artifact", "damaged")
        if len(page) < PAGE:
            return
        after = page[-1].id
