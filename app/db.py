"""Connections, read and write sessions, and the only commit.

A write session is one transaction. It commits when its block ends without an exception and only then lets the nudges
go that its verbs asked for. `Database.together` and `Database.fetch` commit over a plain connection, and so does what `app.batch`
runs for many. Nothing else keeps a fact.
"""

import asyncio
import socket
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from sqlalchemy import MetaData, event, text
from sqlalchemy.engine import CursorResult, Row
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.sql import Executable

from app.errors import Problem
from app.settings import Address
from app.telemetry import POOL_EXHAUSTED, POOL_IN_USE, POOL_WAIT

log = structlog.get_logger("database")
metadata = MetaData()
Fetch = Callable[..., Awaitable[Sequence[Mapping[str, Any]]]]  # (statement, *values) in the transaction at hand

# SQLAlchemy names the statements that it prepares, and keeps them
UNNAMED: dict[str, Any] = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: ""}

# of a connection on which nothing moves: the first after so many seconds, then every so many, and so many without an answer end it
PROBES = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}

ENTER = text("SELECT set_config('app.tenant', :tenant, true)")
ENTER_FOR = text("SELECT set_config('app.tenant', :tenant, true), set_config('app.request', :request, true)")


class ReadSession:
    """A read-only transaction: one consistent statement snapshot at a time, no writes possible."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection
        self.tenant: UUID | None = None

    async def enter(self, tenant: UUID) -> None:
        """Sets the tenant that row-level security lets this transaction see, until it ends."""
        await self.connection.execute(ENTER, {"tenant": str(tenant)})
        self.tenant = tenant

    async def execute(self, statement: Executable | str, parameters: Any = None) -> CursorResult[Any]:
        """Runs a SQLAlchemy statement, or SQL text with :named parameters (a list of dicts runs it for each)."""
        return await self.connection.execute(text(statement) if isinstance(statement, str) else statement, parameters)

    async def fetch(self, statement: str, *values: Any) -> Sequence[Mapping[str, Any]]:
        """SQL with $1, $2, … in the driver's own types, as a plain connection's fetch: for statements that take arrays."""
        rows: Any = (await self.connection.exec_driver_sql(statement, values)).mappings().all()
        return rows

    async def rows(
        self, statement: Executable | str, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Row[Any]]:
        return (await self.execute(statement, parameters)).all()

    async def first(self, statement: Executable | str, parameters: Mapping[str, Any] | None = None) -> Row[Any] | None:
        return (await self.execute(statement, parameters)).first()

    async def scalar(self, statement: Executable | str, parameters: Mapping[str, Any] | None = None) -> Any:
        return (await self.execute(statement, parameters)).scalar()


class WriteSession(ReadSession):
    """One transaction that commits as a whole at the end of its block."""

    def __init__(self, connection: AsyncConnection) -> None:
        super().__init__(connection)
        self.nudges: set[str] = set()
        self.request: UUID | None = None  # by whose request: every fact of this transaction is found by it

    async def enter(self, tenant: UUID) -> None:
        if self.request is None:
            return await super().enter(tenant)
        await self.connection.execute(ENTER_FOR, {"tenant": str(tenant), "request": str(self.request)})
        self.tenant = tenant

    @asynccontextmanager
    async def part(self) -> AsyncIterator[None]:
        """A block that happens whole or, when it raises, not at all, whatever becomes of the rest of the transaction."""
        async with self.connection.begin_nested():
            yield

    def nudge(self, channel: str) -> None:
        """After the commit, wakes whoever listens on a channel. Speed only: every listener also polls."""
        self.nudges.add(channel)


class Lively(asyncpg.Connection):
    """Notices within two minutes that nobody is there any more. A firewall that forgets who has been idle tells neither side: the next
    request would wait for an answer as long as it may, and a listener for ever."""

    def __init__(self, protocol: Any, transport: asyncio.Transport, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        own = transport.get_extra_info("socket")
        if own.family == socket.AF_UNIX:
            return
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in PROBES.items():
            if hasattr(socket, name):  # not every system has each
                own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


@dataclass(frozen=True)
class Way:
    """How the driver itself connects as one role. name: as whom the server shows it; says: settings of the session besides."""

    address: Address
    name: str
    says: Mapping[str, str] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """Behind a pooler the next transaction is another server's, which knows no statement of before."""
        kept = {"statement_cache_size": 0} if self.address.pooled else {}
        said = {"application_name": self.name, **self.says}
        return {"timeout": 5, "command_timeout": 25, "server_settings": said, "connection_class": Lively, **kept}

    async def connect(self) -> asyncpg.Connection:
        """A connection that whoever asked for it closes."""
        return await asyncpg.connect(asyncpg_url(self.address.url), **self.options())


class Database:
    """The connection pool of one role, and the sessions made from it."""

    def __init__(
        self, address: Address | str, *, pool_size: int = 10, wait_ms: int = 1000, name: str = "mission-root"
    ) -> None:
        self.address = Address.of(address)
        way = Way(self.address, name)
        self.connect, self._plain = way.connect, list[asyncpg.Connection]()
        self.engine: AsyncEngine = create_async_engine(
            plain_url(self.address.url),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=wait_ms / 1000,
            pool_pre_ping=False,
            pool_use_lifo=True,
            hide_parameters=True,  # an error that is printed somewhere does not quote what people wrote
            connect_args=way.options() | (UNNAMED if self.address.pooled else {}),
        )
        event.listen(self.engine.sync_engine, "handle_error", mark_lost_connections)
        event.listen(self.engine.sync_engine, "checkout", refuse_dead_connections)
        self.on_commit = _nobody
        self.pool = name.removeprefix("mission-root ")  # what metrics call it
        POOL_EXHAUSTED.labels(self.pool)
        self._waits = POOL_WAIT.labels(self.pool)
        POOL_IN_USE.labels(self.pool).set_function(weakly(self.engine))

    async def fetch(self, statement: str, *values: Any) -> Sequence[Mapping[str, Any]]:
        """One statement that is a whole transaction: SQL with $1, $2, … over a plain connection, in one round trip."""
        async with self._one() as connection:
            rows: Sequence[Mapping[str, Any]] = await connection.fetch(statement, *values)
        return rows

    @asynccontextmanager
    async def together(self, nudges: set[str]) -> AsyncIterator[Fetch]:
        """A few such statements in one transaction, which commits when the block ends without an exception.

        nudges: the channels that the block wants to wake then. A write session does the same with more around it.
        """
        async with self._one() as connection, connection.transaction():
            yield connection.fetch
        self._wake(nudges)

    @asynccontextmanager
    async def _one(self) -> AsyncIterator[asyncpg.Connection]:
        """A plain connection. One is used again after what the server or we refused; after anything else nobody knows its state."""
        connection = None
        while self._plain and (connection is None or connection.is_closed()):
            connection = self._plain.pop()
        if connection is None or connection.is_closed():
            connection = await self.connect()
        try:
            yield connection
        except (asyncpg.PostgresError, Problem):
            self._plain.append(connection)  # rolled back; when it was lost with that, it is closed
            raise
        except BaseException:
            connection.terminate()
            raise
        self._plain.append(connection)

    async def _connected(self, stack: AsyncExitStack) -> AsyncConnection:
        """One of the pool's connections, until the stack ends; how long that took is measured."""
        began = time.perf_counter()
        try:
            connection = await stack.enter_async_context(self.engine.connect())
        except PoolTimeout:
            POOL_EXHAUSTED.labels(self.pool).inc()
            raise
        self._waits.observe(time.perf_counter() - began)
        return connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[ReadSession]:
        async with AsyncExitStack() as stack:
            connection = await self._connected(stack)
            await connection.execute(text("SET TRANSACTION READ ONLY"))
            yield ReadSession(connection)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[WriteSession]:
        async with AsyncExitStack() as stack:
            connection = await self._connected(stack)
            session = WriteSession(connection)
            async with connection.begin():
                yield session
        self._wake(session.nudges)

    def _wake(self, channels: set[str]) -> None:
        if channels:
            with after_commit():
                self.on_commit(channels)

    async def close(self) -> None:
        for connection in self._plain:
            connection.terminate()
        self._plain = []
        await self.engine.dispose()


@contextmanager
def after_commit() -> Iterator[None]:
    """Around what is counted and told once a transaction is committed: what fails there is logged and fails nobody, who would
    otherwise do what has been done once more."""
    try:
        yield
    except Exception as error:
        log.error("what follows a commit has failed", exc_info=error)


def _nobody(channels: set[str]) -> None:
    """Until main wires a nudger, commits wake nobody; listeners find out by polling."""


def weakly(engine: AsyncEngine) -> Callable[[], float]:
    """How many connections of an engine are in use; 0 once it is gone, which a metric must not keep it from."""
    known = weakref.ref(engine)

    def in_use() -> float:
        found = known()
        return float(found.pool.checkedout()) if found is not None else 0.0  # type: ignore[attr-defined]  # of a queue

    return in_use


def mark_lost_connections(context: Any) -> None:
    """A server that went away invalidates the pooled connection, so that the next request gets a new one."""
    if isinstance(context.original_exception, (asyncpg.PostgresConnectionError, ConnectionError, OSError)):
        context.is_disconnect = True


def refuse_dead_connections(connection: Any, _record: Any, _proxy: Any) -> None:
    """A pooled connection that the server has closed meanwhile is replaced before anything is sent over it.

    The driver was told when it happened, so looking costs no round trip; one that is still silent fails when it is used.
    """
    if connection.driver_connection.is_closed():
        raise DisconnectionError("the server closed this connection")


def unavailable(error: BaseException) -> Problem | None:
    """The 503 that a database fault deserves, or None when the error is a bug of ours."""
    if isinstance(error, PoolTimeout):
        return Problem("database_busy", "Every database connection is in use.", retry_after=1)
    original = getattr(error, "orig", None)
    cause = getattr(original, "__cause__", None) or original or error
    gone = (
        asyncpg.PostgresConnectionError,
        asyncpg.CannotConnectNowError,
        asyncpg.AdminShutdownError,
        asyncpg.CrashShutdownError,
        asyncpg.TooManyConnectionsError,
        asyncpg.InterfaceError,
        ConnectionError,
        OSError,
        asyncio.TimeoutError,
    )
    lost = getattr(
        error, "connection_invalidated", False
    )  # whatever the driver calls it when a connection dies under it
    if isinstance(cause, asyncpg.DataError):  # to the driver an interface error, and no fault of the connection's
        return None
    if lost or isinstance(cause, gone) or isinstance(error, (OperationalError, InterfaceError)):
        return Problem("database_unavailable", "The database does not answer.", retry_after=2)
    passing = (
        asyncpg.SerializationError,
        asyncpg.DeadlockDetectedError,
        asyncpg.LockNotAvailableError,
        asyncpg.QueryCanceledError,
        asyncpg.IdleInTransactionSessionTimeoutError,
    )
    if isinstance(cause, passing):
        return Problem("database_busy", "The request met others on the same rows and gave way.", retry_after=1)
    return None


def constraint(error: DBAPIError) -> str | None:
    """The name of the constraint or unique index that refused."""
    return getattr(getattr(error.orig, "__cause__", None), "constraint_name", None)


def sqlstate(error: DBAPIError) -> str | None:
    """The five-character code of a database error; RX… codes come from the walls."""
    return getattr(error.orig, "sqlstate", None) or getattr(getattr(error.orig, "__cause__", None), "sqlstate", None)


def plain_url(url: str) -> str:
    """A postgresql:// URL in the form SQLAlchemy's asyncpg dialect takes."""
    return "postgresql+asyncpg://" + url.split("://", 1)[1]


def asyncpg_url(url: str) -> str:
    """The same URL in the form asyncpg itself takes."""
    return "postgresql://" + url.split("://", 1)[1]
