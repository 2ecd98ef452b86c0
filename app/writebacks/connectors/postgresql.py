"""The connector for tables of another PostgreSQL database: one guarded UPDATE of one row, and nothing else.

The receipt of a change is a row of a table in the target, written in the transaction of the UPDATE: whether a change was
applied is never a guess.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg

from app import clock
from app.canonical import canonical, sha256
from app.writebacks.connectors import (
    Ambiguous,
    Applied,
    NotApplied,
    NotConfigured,
    Observed,
    Page,
    Payload,
    Reader,
    ReadFailed,
    RecordMissing,
    Refused,
    Stale,
    encode,
)
from app.writebacks.connectors.definitions.postgresql import KindOfRow, PostgreSql
from app.writebacks.connectors.postgresql_statements import (
    fit_id,
    insert_receipt,
    select_receipt,
    select_row,
    select_rows,
    shown,
    update,
)
from app.writebacks.connectors.wire import claimed_payload, fit_key

LARGEST_ROW = 262_144
OTHER_PAYLOAD = "The target holds a receipt of another change under this key."


class _Lost(Exception):
    """The connection could not be made, or ended, before anything was asked to be committed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class PostgreSqlReader(Reader):
    """Reads rows with a DSN, in read-only transactions."""

    application = "mission-root reads"
    read_only = "on"

    def __init__(self, name: str, definition: PostgreSql, dsn: str) -> None:
        self.name = name
        self._said = definition
        self._login = _login(name, definition, dsn)

    async def aclose(self) -> None:
        """Nothing is kept open between two calls."""

    async def read(self, kind: str, record_id: str) -> Observed:
        said = self._kind(kind)
        async with self._asking() as connection:
            return await self._look(connection, said, kind, record_id)

    async def find(self, idempotency_key: str, payload: Payload | None = None) -> dict[str, Any] | None:
        """A receipt of other bytes under the key proves that these were not applied, nor ever will be under it: None."""
        key = fit_key(idempotency_key)
        async with self._asking() as connection:
            row = await connection.fetchrow(select_receipt(self._said.receipts), key)
        if row is None or (payload is not None and row["payload_sha256"] != sha256(encode(payload)).hex()):
            return None
        return dict(row)

    async def list(
        self, kind: str, limit: int = 50, cursor: str | None = None, filters: Mapping[str, str] | None = None
    ) -> Page:
        """`limit` is 1 to 200; rows in the order of their keys."""
        said = self._kind(kind)
        if filters:
            raise Refused(f"{kind} cannot be filtered.", None)
        if not 1 <= limit <= 200:
            raise Refused("limit must be 1 to 200.", None)
        async with self._asking() as connection:
            after = [fit_id(said, cursor)] if cursor else []
            rows = await connection.fetch(select_rows(said, after=bool(after)), limit + 1, *after)
        items = tuple(self._seen(said, kind, row) for row in rows[:limit])
        return Page(items, items[-1].record_id if len(rows) > limit else None)

    # --- the connection

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection of its own. Raises _Lost when there is none to be had."""
        said = self._said
        tls = ssl.create_default_context() if said.tls == "verify" else False
        user, password = self._login
        try:
            connection = await asyncpg.connect(
                host=said.host, port=said.port, user=user, password=password, database=said.database, ssl=tls,
                timeout=said.connect_s, command_timeout=said.statement_s + 1, statement_cache_size=0,
                server_settings={
                    "application_name": self.application, "default_transaction_read_only": self.read_only,
                    "statement_timeout": f"{int(said.statement_s * 1000)}", "lock_timeout": f"{int(said.statement_s * 500) or 1}",
                    "idle_in_transaction_session_timeout": f"{int(said.statement_s * 2000)}",
                    "search_path": "pg_catalog", "timezone": "UTC", "synchronous_commit": "on",
                },
            )  # fmt: skip
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, ssl.SSLError) as error:
            raise _Lost(f"{self.name} cannot be connected to ({type(error).__name__}).") from error
        try:
            yield connection
        finally:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(1):
                    await connection.close()
            if not connection.is_closed():
                connection.terminate()

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[asyncpg.Connection]:
        """For what changes nothing. Raises ReadFailed."""
        try:
            async with self._connection() as connection:
                yield connection
        except _Lost as lost:
            raise ReadFailed(lost.reason, "connector_unreachable") from lost
        except asyncpg.PostgresError as error:
            raise ReadFailed(f"{self.name} refused to be read ({error.sqlstate}).") from error
        except (OSError, asyncpg.InterfaceError, TimeoutError) as error:
            code = "connector_timed_out" if isinstance(error, TimeoutError) else "connector_broke_off"
            raise ReadFailed(f"{self.name} broke off ({type(error).__name__}).", code) from error

    # --- rows

    async def _look(self, connection: asyncpg.Connection, said: KindOfRow, kind: str, record_id: str) -> Observed:
        rows = await connection.fetch(select_row(said), fit_id(said, record_id))
        if not rows:
            raise RecordMissing(f"{self.name} shows this account no {kind} {record_id[:200]}.", 404)
        if len(rows) > 1:
            raise ReadFailed(f"{said.key.column} is not unique in {said.table}.")
        return self._seen(said, kind, rows[0])

    def _seen(self, said: KindOfRow, kind: str, row: asyncpg.Record) -> Observed:
        values = [row[f"c{number}"] for number in range(len(said.columns))]
        fields = {
            name: shown(column.type, value) for (name, column), value in zip(said.columns.items(), values, strict=True)
        }
        if row["version"] is None:
            raise ReadFailed(f"A row of {said.table} has no version.")
        observed = Observed(kind, row["id"], fields, row["version"], clock.now())
        try:
            if len(canonical(fields)) <= LARGEST_ROW:
                return observed
        except ValueError as odd:
            raise ReadFailed(f"A row of {said.table} holds what JSON cannot carry.") from odd
        raise ReadFailed(f"A row of {said.table} exceeds {LARGEST_ROW} bytes.")

    def _kind(self, kind: str) -> KindOfRow:
        if kind not in self._said.kinds:
            raise Refused(f"{self.name} has no kind {kind[:100]!r}.", None)
        return self._said.kinds[kind]


class PostgreSqlWriter(PostgreSqlReader):
    """Changes rows with the DSN that may, and reads with it too."""

    application = "mission-root executor"
    read_only = "off"

    async def apply(self, claimed: bytes, idempotency_key: str) -> Applied:
        payload = claimed_payload(claimed)
        if payload.connector != self.name or payload.operation != "update":
            raise Refused(f"This connector cannot do {payload.operation[:100]!r} for {payload.connector!r}.", None)
        said, key = self._kind(payload.kind), fit_key(idempotency_key)
        statement, values = update(said, payload)
        try:
            async with self._connection() as connection:
                return await self._change(connection, said, payload, key, statement, values, sha256(claimed))
        except _Lost as lost:
            raise NotApplied(lost.reason, retryable=True) from lost
        except ReadFailed as odd:
            raise NotApplied(odd.reason, retryable=False) from odd

    async def _change(
        self,
        connection: asyncpg.Connection,
        said: KindOfRow,
        payload: Payload,
        key: str,
        statement: str,
        values: list[Any],
        digest: bytes,
    ) -> Applied:
        transaction = connection.transaction(isolation="read_committed")
        record = f"{payload.kind}/{payload.record_id}"
        try:
            await transaction.start()
            rows = await connection.fetch(statement, *values)
            if len(rows) > 1:
                raise Refused(f"{said.key.column} is not unique in {said.table}.", None)
            if not rows:
                earlier = await connection.fetchrow(select_receipt(self._said.receipts), key)
                if earlier is not None and earlier["payload_sha256"] != digest.hex():
                    raise Refused(OTHER_PAYLOAD, 409)
                if earlier is not None:
                    return Applied(dict(earlier), replayed=True)
                current = await self._look(connection, said, payload.kind, payload.record_id)
                raise Stale("The row was changed after it was read.", current)
            kept = (key, record, rows[0]["version"], digest.hex())
            receipt = await connection.fetchrow(insert_receipt(self._said.receipts), *kept)
        except asyncpg.PostgresError as error:
            if self._is_of_receipts(error) and await self._is_of_another(connection, transaction, key, digest):
                raise Refused(OTHER_PAYLOAD, 409) from error
            raise self._rolled_back(error) from error
        except (OSError, asyncpg.InterfaceError, TimeoutError) as error:
            # COMMIT was never sent: whatever the statements did ends with the connection
            raise _Lost(f"{self.name} broke off before the commit ({type(error).__name__}).") from error
        assert receipt is not None
        try:
            await transaction.commit()
        except asyncpg.PostgresError as error:
            state = error.sqlstate or ""
            # deferred checks are said instead of committing; 40003 says of itself that nobody knows
            if state[:2] in ("23", "40", "44") and state != "40003":
                raise self._rolled_back(error) from error
            raise Ambiguous(f"{self.name} broke off at the commit ({error.sqlstate}).") from error
        except (OSError, asyncpg.InterfaceError, TimeoutError) as error:
            raise Ambiguous(f"{self.name} broke off at the commit ({type(error).__name__}).") from error
        return Applied(dict(receipt), replayed=False)

    def _is_of_receipts(self, error: asyncpg.PostgresError) -> bool:
        """Whether there is a receipt of the key already."""
        receipts = (self._said.receipts.table_schema, self._said.receipts.table)
        return error.sqlstate == "23505" and (error.schema_name, error.table_name) == receipts

    async def _is_of_another(self, connection: asyncpg.Connection, transaction: Any, key: str, digest: bytes) -> bool:
        """Whether that receipt is of other bytes. False when it cannot be seen: then the change may be tried again."""
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            await transaction.rollback()
            row = await connection.fetchrow(select_receipt(self._said.receipts), key)
            return row is not None and bool(row["payload_sha256"] != digest.hex())
        return False

    def _rolled_back(self, error: asyncpg.PostgresError) -> NotApplied | Refused:
        """What a failed statement means: its transaction is over, and nothing of it stays."""
        state = error.sqlstate or ""
        told = f"{self.name} refused the change ({state})."
        # the server's troubles, timeouts and locks: not the change's
        if state[:2] in ("08", "25", "40", "53", "55", "57", "58"):
            return NotApplied(told, retryable=True)
        if self._is_of_receipts(error):  # the same key at the same time
            return NotApplied(told, retryable=True)
        return Refused(told, 409 if state[:2] == "23" else 400)


def _login(name: str, said: PostgreSql, dsn: str) -> tuple[str, str]:
    """User and password of a DSN, which must be one for the declared place. Raises NotConfigured."""
    try:
        parts = urlsplit(dsn)
        place = (parts.hostname or "").lower(), parts.port or 5432, unquote(parts.path.removeprefix("/"))
        whole = parts.scheme in ("postgresql", "postgres") and not parts.query and not parts.fragment
    except ValueError:
        whole = False
    if not whole or not parts.username or not parts.password:
        raise NotConfigured(f"The credential of {name} must be postgresql://user:password@host:port/database.")
    if place != (said.host.lower(), said.port, said.database):
        raise NotConfigured(f"The credential of {name} is for another host, port or database than the definition.")
    return unquote(parts.username), unquote(parts.password)
