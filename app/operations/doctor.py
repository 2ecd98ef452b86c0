"""The doctor: what can be wrong with an installation, looked at line by line, each with its remedy and its page.

It changes nothing. It looks with whatever the environment gives it: what it cannot look at for want of a setting it leaves out,
and says so.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import asyncpg

from app import ledger
from app.clock import new_id, now
from app.db import Database, ReadSession, asyncpg_url
from app.ledger.wiring import store_and_keys
from app.migrate import ANEW, head
from app.operations.catalog import broken
from app.settings import Misconfigured, Settings
from colony_client.client import ColonyClient
from colony_client.errors import BoundaryError, Incompatible, Refused, Unauthorized

PATIENCE_S = 10.0  # of one line; the ledger's has its own
LEDGER_S = 120.0
MOST_SKEW_S = 2.0
OLD_KEY, SOON = timedelta(days=365), timedelta(days=14)
LEAST_FREE, LEAST_SHARE = 1024**3, 0.1  # bytes, and share of the disk

# setting -> the role it has to log in as
ROLES = {
    "database_url": "api",
    "worker_database_url": "worker",
    "reader_database_url": "reader",
    "executor_database_url": "executor",
    "registrar_database_url": "registrar",
}
PAGE = "docs/operations.md#the-doctor"


@dataclass(frozen=True)
class Line:
    """One finding. left_out: there was nothing to look at it with, or nothing to look at."""

    name: str
    state: Literal["pass", "fail", "left_out"]
    said: str
    remedy: str | None = None
    page: str | None = None


class Fault(Exception):
    """What is wrong, and what to do about it."""

    def __init__(self, said: str, remedy: str, page: str = PAGE) -> None:
        super().__init__(said)
        self.said, self.remedy, self.page = said, remedy, page


class LeftOut(Exception):
    """Why a line is not looked at."""


async def examine(load: Callable[[], Settings]) -> list[Line]:
    """All lines, in order. load gives the settings of this process or raises Misconfigured."""
    try:
        settings = load()
    except Misconfigured as wrong:
        remedy = "Correct the setting; .env.example lists all of them."
        rest = [Line(name, "left_out", "the settings cannot be read") for name in LINES]
        return [Line("environment", "fail", str(wrong), remedy, PAGE), *rest]
    lines = [Line("environment", "pass", f"every setting is well formed; ENVIRONMENT is {settings.environment}")]
    for name, (check, patience_s) in LINES.items():
        lines.append(await one(name, check, patience_s, settings))
    return lines


async def one(name: str, check: Callable[[Settings], Awaitable[str]], patience_s: float, settings: Settings) -> Line:
    try:
        async with asyncio.timeout(patience_s):
            return Line(name, "pass", await check(settings))
    except LeftOut as why:
        return Line(name, "left_out", str(why))
    except Fault as fault:
        return Line(name, "fail", fault.said, fault.remedy, fault.page)
    except TimeoutError:
        return Line(name, "fail", f"no answer within {patience_s:.3g} s", "Look at what it asks: see the page.", PAGE)
    except Exception as error:  # whatever it is, the other lines are still to be looked at
        said = f"{type(error).__name__}{f' {error.sqlstate}' if isinstance(error, asyncpg.PostgresError) else ''}"
        return Line(name, "fail", f"it could not be looked at ({said})", "Look at the line before it first.", PAGE)


def urls(settings: Settings) -> dict[str, str]:
    """The database settings that are given, with the role each is for."""
    found = {field: role for field, role in ROLES.items() if getattr(settings, field) is not None}
    if not found:
        raise LeftOut("no database URL is set: DATABASE_URL, WORKER_DATABASE_URL, ...")
    return found


@asynccontextmanager
async def connected(settings: Settings, field: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(asyncpg_url(settings.secret(field)), timeout=5, statement_cache_size=0)
    try:
        yield connection
    finally:
        await connection.close(timeout=1)


@asynccontextmanager
async def somebody(settings: Settings, *fields: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection over the first of these settings that is given, or over any."""
    given = urls(settings)
    wanted = next((field for field in fields if field in given), None)
    if fields and wanted is None:
        raise LeftOut(f"none of {', '.join(field.upper() for field in fields)} is set")
    async with connected(settings, wanted or next(iter(given))) as connection:
        yield connection


async def database(settings: Settings) -> str:
    for field in urls(settings):
        try:
            async with connected(settings, field) as connection:
                await connection.fetchval("SELECT 1")
        except (OSError, asyncpg.PostgresError, TimeoutError) as error:
            code = f" {error.sqlstate}" if isinstance(error, asyncpg.PostgresError) else ""
            raise Fault(
                f"{field.upper()} leads to nobody who answers ({type(error).__name__}{code})",
                "Is PostgreSQL running, are host, port and password right? `mission-root bootstrap` sets the passwords anew.",
            ) from None
    return f"answers over {', '.join(field.upper() for field in urls(settings))}"


async def roles(settings: Settings) -> str:
    prefix = settings.database_role_prefix
    for field, role in urls(settings).items():
        async with connected(settings, field) as connection:
            row = await connection.fetchrow(
                "SELECT rolname, rolsuper OR rolbypassrls OR rolcreaterole AS mighty FROM pg_roles WHERE rolname = session_user"
            )
        remedy = f"Let {field.upper()} log in as {prefix}_{role}; `mission-root bootstrap` makes the roles."
        if row["mighty"]:
            raise Fault(f"{field.upper()} logs in as {row['rolname']}, which no wall holds", remedy)
        if row["rolname"] != f"{prefix}_{role}":
            raise Fault(f"{field.upper()} logs in as {row['rolname']}, not as {prefix}_{role}", remedy)
    return f"each URL logs in as its own role of {prefix}_*, none of which gets past row-level security"


async def catalog(settings: Settings) -> str:
    async with somebody(settings) as connection:
        found = await broken(connection, settings.database_role_prefix)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise Fault(
            f"the schema breaks a rule of its own: {found[0]}{more}",
            "Somebody changed the schema by hand. Take the change back, or restore the schema with a migration.",
        )
    return "the schema keeps every rule of the linter"


async def migration(settings: Settings) -> str:
    async with somebody(settings, "database_url", "worker_database_url", "registrar_database_url") as connection:
        try:
            found = await connection.fetchrow("SELECT version_num, $1 = ANY (fits) AS fits FROM migration", head())
        except asyncpg.UndefinedColumnError:
            raise Fault("the schema is that of a build from before the first release", f"{ANEW}.") from None
    at = found["version_num"] if found else "none"
    if found is None or not found["fits"]:
        raise Fault(
            f"the schema is at {at}, this code wants {head()}", "Run `mission-root migrate` with ADMIN_DATABASE_URL."
        )
    return f"the schema is at {at}" + (
        ", as this code wants it" if at == head() else f", and this code ({head()}) fits it"
    )


async def clock(settings: Settings) -> str:
    async with somebody(settings) as connection:
        before = now()
        there = await connection.fetchval("SELECT clock_timestamp()")
        took = now() - before
    skew = abs((there - before - took / 2).total_seconds())
    if skew > MOST_SKEW_S + took.total_seconds():
        raise Fault(f"this clock and the database's differ by {skew:.1f} s", "Synchronize both machines' clocks (NTP).")
    return f"this clock and the database's differ by {skew * 1000:.0f} ms"


async def colony(settings: Settings) -> str:
    if not settings.colony_enabled:
        raise LeftOut("COLONY_ENABLED is false")
    if settings.colony_service_api_key is None:
        raise LeftOut("COLONY_SERVICE_API_KEY is not set")
    timeout_s = min(5.0, settings.colony_timeout_ms / 1000)
    away = "runbooks/colony-unavailable.md"
    async with ColonyClient(settings.colony_service_base_url, settings.colony_keys(), timeout_s=timeout_s) as client:
        try:
            if not (await client.ready()).ready:
                raise Fault(
                    "the colony says it is not ready", "Look at the providers in its /ready, and at its log.", away
                )
            try:
                await client.status(new_id())  # of a mission that nobody knows: it has to say so to whoever signs
            except Refused as refused:
                if isinstance(refused, Unauthorized) or refused.status != 404:
                    raise
        except Unauthorized:
            raise Fault(
                "the colony refuses the root's signature",
                "Give COLONY_SERVICE_API_KEY and the colony's ROOT_API_KEY the same kid and secret.",
                "runbooks/colony-authentication.md",
            ) from None
        except Incompatible as other:
            raise Fault(f"the colony speaks another contract: {other}", "Replace one of the two.", away) from None
        except BoundaryError as error:
            remedy = "Start the colony, or correct COLONY_SERVICE_BASE_URL."
            raise Fault(f"the colony does not answer ({type(error).__name__})", remedy, away) from None
    return f"the colony is ready, knows the root's signature, and speaks contract {client.version}"


async def numbers(settings: Settings) -> Any:
    async with somebody(settings, "database_url", "worker_database_url", "registrar_database_url") as connection:
        return await connection.fetchrow("SELECT * FROM doctor_numbers($1, $2)", OLD_KEY, SOON)


async def keys(settings: Settings) -> str:
    row = await numbers(settings)
    remedy = "Rotate them: `mission-root keys list` shows their age, `mission-root keys rotate ID` makes the next one."
    if row["ending_keys"]:
        raise Fault(f"{row['ending_keys']} of {row['keys']} live API keys end within {SOON.days} days", remedy)
    if row["old_keys"]:
        raise Fault(f"{row['old_keys']} of {row['keys']} live API keys are older than {OLD_KEY.days} days", remedy)
    return f"{row['keys']} live API keys, none older than {OLD_KEY.days} days and none about to end"


def places(settings: Settings) -> list[Path]:
    """The folders that something of the service is written to on this machine."""
    store = settings.anchor_store
    own = [Path(store)] if store and "://" not in store else []
    return [one for one in (*own, Path(tempfile.gettempdir()), Path.cwd()) if one.exists()]


async def disk(settings: Settings) -> str:
    shown = []
    for place in places(settings):
        usage = shutil.disk_usage(place)
        if usage.free < LEAST_FREE or usage.free < LEAST_SHARE * usage.total:
            share = 100 * usage.free / usage.total
            raise Fault(
                f"{place} has {usage.free // 1024**2} MiB free ({share:.0f} %)", "Free or add space before it is full."
            )
        shown.append(f"{usage.free // 1024**3} GiB free at {place}")
    return ", ".join(dict.fromkeys(shown))


async def chains(settings: Settings) -> str:
    """Every chain of every tenant, and the anchors where there is a store."""
    if settings.database_url is None:
        raise LeftOut("DATABASE_URL is not set")
    try:
        store, believed = store_and_keys(settings)
    except Misconfigured as wrong:
        raise Fault(str(wrong), "Correct the setting.", "docs/ledger.md") from None
    there = Database(settings.database("database_url"), pool_size=2, wait_ms=5000, name="mission-root doctor")
    try:
        facts = 0
        tenants = await every_tenant(there)
        for tenant in tenants:
            verdict, anchors = await ledger.audit(reading(there, tenant), tenant, store, believed)
            facts += verdict.facts
            if not verdict.verified:
                what = verdict.first_bad or {"finding": f"anchors: {anchors['failed'][:1]}"}
                raise Fault(
                    f"the ledger of tenant {tenant} does not hold: {what}",
                    "Keep everything as it is, and follow the page: somebody changed the record, or the anchors are gone.",
                    "docs/ledger.md",
                )
    finally:
        await there.close()
    with_anchors = "with their anchors" if store is not None else "without anchors: ANCHOR_STORE is not set"
    return f"{facts} facts of {len(tenants)} tenants hold, {with_anchors}"


async def every_tenant(there: Database) -> list[UUID]:
    found: list[UUID] = []
    page = "SELECT t.id FROM tenants_after($1, 1000) t (id)"
    while more := [row["id"] for row in await there.fetch(page, found[-1] if found else None)]:
        found += more
    return found


def reading(database: Database, tenant: UUID) -> Any:
    @asynccontextmanager
    async def opened() -> AsyncIterator[ReadSession]:
        async with database.read() as session:
            await session.enter(tenant)
            yield session

    return opened


async def missions(settings: Settings) -> str:
    row = await numbers(settings)
    page = "runbooks/stuck-mission.md"
    if row["stuck"]:
        raise Fault(
            f"{row['stuck']} open missions wait for nothing, and only a person can go on",
            "`mission-root status` names them; offer them anew, or end them.",
            page,
        )
    age = row["looked_age_s"]
    if age is not None and age > 3 * settings.liveness_interval_s + 60:
        raise Fault(
            f"nobody has looked for stuck missions for {age:.0f} s", "Is a worker running? Its log says why not.", page
        )
    return f"no open mission of {row['tenants']} tenants waits for nothing"


LINES: dict[str, tuple[Callable[[Settings], Awaitable[str]], float]] = {
    "database": (database, 30.0),
    "roles": (roles, PATIENCE_S),
    "catalog": (catalog, PATIENCE_S),
    "migration": (migration, PATIENCE_S),
    "clock": (clock, PATIENCE_S),
    "colony": (colony, PATIENCE_S),
    "keys": (keys, PATIENCE_S),
    "disk": (disk, PATIENCE_S),
    "ledger": (chains, LEDGER_S),
    "missions": (missions, PATIENCE_S),
}
