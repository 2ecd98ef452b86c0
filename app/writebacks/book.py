"""A tenant's connectors: their definitions, the switch of each, and reading a record through one of them."""

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.clock import now
from app.components import Component
from app.db import Database, ReadSession
from app.declared import Declared
from app.listing import Place
from app.nudge import Nudger, wait
from app.work import READS
from app.writebacks.connectors import (
    NotConfigured,
    Observed,
    Page,
    Payload,
    Reader,
    ReadFailed,
    RecordMissing,
    Refused,
)
from app.writebacks.connectors.registry import ConnectorSettings, Definition, reader

NEWEST = text("""
  SELECT name, version, kind, definition, account, retired, created_by, created_at FROM connector
  WHERE tenant = :tenant AND name = :name ORDER BY version DESC LIMIT 1""")
ALL = text("""
  SELECT DISTINCT ON (c.name) c.name, c.version, c.kind, c.definition, c.account, c.retired, c.created_by, c.created_at
  FROM connector c WHERE c.tenant = :tenant AND (CAST(:after AS text) IS NULL OR c.name > :after)
  ORDER BY c.name, c.version DESC LIMIT :limit""")
HISTORY = text("""
  SELECT name, version, kind, definition, account, retired, created_by, created_at FROM connector
  WHERE tenant = :tenant AND name = :name ORDER BY version DESC LIMIT 200""")
CURRENT = text("""
  SELECT DISTINCT ON (c.name) c.name, c.version, c.retired FROM connector c WHERE c.tenant = :tenant AND c.name = ANY (:names)
  ORDER BY c.name, c.version DESC""")
ASK = text("SELECT ask_connector_read(:tenant, :connector, :kind, :record)")
ANSWER = text("SELECT value, version, problem, answered_at FROM connector_read WHERE tenant = :tenant AND id = :id")
LAST = text("""
  SELECT value, version, problem, answered_at FROM connector_read
  WHERE tenant = :tenant AND connector = :connector AND connector_version = :definition AND kind = :kind AND record_id = :record
    AND value IS NOT NULL ORDER BY answered_at DESC LIMIT 1""")
WAIT_S, LOOK_S = 3.0, 0.25
CONNECTORS = Declared(
    "connector",
    table="connector",
    column="connector",
    secrets="credentials",
    fields={
        "not_for_this_tenant": {
            "pointer": "/kind",
            "detail": "drill is for the tenant of the drills, and that has no other",
        },
        "connector_definition_check": {
            "pointer": "",
            "detail": "the definition is larger than 64 KiB as the database writes it",
        },
    },
)


@dataclass(frozen=True)
class Kept:
    """One version of a connector."""

    name: str
    version: int
    kind: str
    definition: dict[str, Any]
    account: str
    retired: bool
    created_by: UUID
    created_at: datetime

    def usable(self) -> Definition:
        return Definition(self.name, self.version, self.kind, self.definition, self.account)


async def newest(session: ReadSession, name: str) -> Kept | None:
    row = await session.first(NEWEST, {"tenant": session.tenant, "name": name})
    return Kept(**row._mapping) if row else None


async def known(session: ReadSession, name: str) -> bool:
    """Whether the tenant has the connector, and has not retired it."""
    found = await newest(session, name)
    return found is not None and not found.retired


async def connectors(session: ReadSession, after: Place, limit: int) -> list[Kept]:
    """The newest version of each, by name."""
    [name] = after or [None]
    rows = await session.rows(ALL, {"tenant": session.tenant, "after": name, "limit": limit})
    return [Kept(**row._mapping) for row in rows]


async def history(session: ReadSession, name: str) -> list[Kept]:
    return [Kept(**row._mapping) for row in await session.rows(HISTORY, {"tenant": session.tenant, "name": name})]


# --- reading


@dataclass(frozen=True)
class Source:
    """What reading needs. No transaction is open while a target is asked."""

    database: Database
    settings: ConnectorSettings
    tenant: UUID
    nudger: Nudger | None = None


@asynccontextmanager
async def reading(
    database: Database, settings: ConnectorSettings, tenant: UUID, name: str, nudger: Nudger | None = None
) -> AsyncIterator[Reader]:
    """A reader of one of the tenant's connectors, closed at the end. Raises NotConfigured."""
    async with await open_reader(Source(database, settings, tenant, nudger), name) as opened:
        yield opened


async def open_reader(source: Source, name: str) -> Reader:
    """A reader of one of the tenant's connectors; the caller closes it. Raises NotConfigured."""
    async with source.database.read() as session:
        await session.enter(source.tenant)
        found = await newest(session, name)
    if found is None or found.retired:
        raise NotConfigured(f"This tenant has no connector {name!r}.")
    if found.usable().read_by_executor:
        return ExecutorReader(source, found)
    return Guarded(reader(found.usable(), source.settings), breaker(source.tenant, found))


# Targets that this process reads: by tenant and connector the version that was read, and its breaker.
BREAKERS: OrderedDict[tuple[UUID, str], tuple[int, Component]] = OrderedDict()
MOST_BREAKERS = 2000
COUNTING = ("connector_unreachable", "connector_timed_out", "connector_broke_off")  # what opens one


def breaker(tenant: UUID, kept: Kept) -> Component:
    version, made = BREAKERS.get((tenant, kept.name), (None, None))
    if made is None or version != kept.version:  # what another definition has met says nothing about this one
        effect = "Its records cannot be read; missions that need them end, and approvals show no present value."
        made = Component(f"connector {kept.name}", effect, opens_after=5)
        BREAKERS[tenant, kept.name] = kept.version, made
        while len(BREAKERS) > MOST_BREAKERS:
            BREAKERS.popitem(last=False)
    return made


async def met(session: ReadSession) -> list[Component]:
    """The tenant's connectors that this process has read from, as they are defined now. Who has changed or retired one may be
    another process."""
    read = {name: known for (tenant, name), known in BREAKERS.items() if tenant == session.tenant}
    if not read:
        return []
    current = await session.rows(CURRENT, {"tenant": session.tenant, "names": list(read)})
    return [read[row.name][1] for row in current if not row.retired and row.version == read[row.name][0]]


class Guarded(Reader):
    """A reader that leaves its target alone for a while when that has not answered several times in a row."""

    def __init__(self, inner: Reader, component: Component) -> None:
        self.name, self._inner, self._component = inner.name, inner, component

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def read(self, kind: str, record_id: str) -> Observed:
        with self._watched():
            return await self._inner.read(kind, record_id)

    async def find(self, idempotency_key: str, payload: Payload | None = None) -> dict[str, Any] | None:
        with self._watched():
            return await self._inner.find(idempotency_key, payload)

    async def list(
        self, kind: str, limit: int = 50, cursor: str | None = None, filters: Mapping[str, str] | None = None
    ) -> Page:
        with self._watched():
            return await self._inner.list(kind, limit, cursor, filters)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        if (until := self._component.turned_away()) is not None:
            reason = f"{self.name} does not answer, and is left alone until {until:%H:%M:%S} UTC."
            raise ReadFailed(reason, "connector_unreachable")
        try:
            yield
        except ReadFailed as failed:
            if failed.code in COUNTING:
                self._component.failed(failed.code)
            else:
                self._component.succeeded()
            raise
        except Refused:
            self._component.succeeded()
            raise
        self._component.succeeded()


class StillReading(ReadFailed):
    """The executor has been asked and has not answered yet; asking again soon finds its answer."""


class ExecutorReader(Reader):
    """Reads through the executor, where a target has no account that may only read."""

    def __init__(self, source: Source, kept: Kept, wait_s: float = WAIT_S) -> None:
        self.name = kept.name
        self._source, self._kept, self._wait_s = source, kept, wait_s

    async def aclose(self) -> None:
        """Nothing is held."""

    async def find(self, idempotency_key: str, payload: Payload | None = None) -> dict[str, Any] | None:
        raise ReadFailed("Whether a change was applied can only be told by the executor.")

    async def list(
        self, kind: str, limit: int = 50, cursor: str | None = None, filters: Mapping[str, str] | None = None
    ) -> Page:
        raise Refused(f"{self.name} is read record by record: only the executor has an account there.", None)

    async def read(self, kind: str, record_id: str) -> Observed:
        """Asks, and waits a moment. Late answers are shown with their age; StillReading when there is none at all."""
        if not (0 < len(kind) <= 200 and 0 < len(record_id) <= 500):
            raise Refused("kind and id must be 1 to 200 and 1 to 500 letters.", None)
        asked = await self._ask(kind, record_id)
        row = await self._answer(asked)
        if row is None:
            async with self._source.database.read() as session:
                await session.enter(self._source.tenant)
                row = await session.first(LAST, self._named(kind, record_id) | {"definition": self._kept.version})
        if row is None:
            raise StillReading(f"The executor has not read it from {self.name} yet.")
        return observed(kind, record_id, row)

    async def _ask(self, kind: str, record_id: str) -> UUID:
        async with self._source.database.write() as session:
            await session.enter(self._source.tenant)
            asked: UUID | None = await session.scalar(ASK, self._named(kind, record_id))
            session.nudge("work_executor")
        if asked is None:
            raise ReadFailed(f"Too many reads of {self.name} wait for the executor.")
        return asked

    async def _answer(self, asked: UUID) -> Any:
        ends = time.monotonic() + self._wait_s
        if self._source.nudger is None:
            return await self._until(asked, ends, asyncio.Event())
        with self._source.nudger.listening(READS) as woken:
            return await self._until(asked, ends, woken)

    async def _until(self, asked: UUID, ends: float, woken: asyncio.Event) -> Any:
        """The answer's row once it is there; None at the end of the time."""
        while True:
            async with self._source.database.read() as session:
                await session.enter(self._source.tenant)
                row = await session.first(ANSWER, {"tenant": self._source.tenant, "id": asked})
            if row is None or row.answered_at is not None:
                return row
            left = ends - time.monotonic()
            if left <= 0:
                return None
            await wait(woken, min(left, LOOK_S))

    def _named(self, kind: str, record_id: str) -> dict[str, Any]:
        return {"tenant": self._source.tenant, "connector": self.name, "kind": kind, "record": record_id}


def observed(kind: str, record_id: str, row: Any) -> Observed:
    """An answer of the executor as what it stands for. Raises ReadFailed, Refused or RecordMissing."""
    if row.problem is not None:
        said, _, reason = row.problem.partition(" ")
        if said == "missing":
            raise RecordMissing(reason, 404)
        if said == "refused":
            raise Refused(reason, None)
        raise ReadFailed(reason)
    return Observed(kind, record_id, json.loads(row.value), row.version, row.answered_at)


def age_s(observed: Observed) -> float:
    """How long ago a record was read."""
    return round(max((now() - observed.read_at).total_seconds(), 0), 1)
