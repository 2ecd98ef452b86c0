"""A connector for the tables of another PostgreSQL database: one guarded UPDATE of one row, and nothing else.

The receipt of a change is a row of a table in the target, written in the transaction of the UPDATE: whether a change was
applied is never a guess. Statements are built from declared names, quoted, and from parameters.
"""
# ruff: noqa: S608  # declared names, quoted by ident(), and types out of CASTS

import asyncio
import contextlib
import json
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit
from uuid import UUID

import asyncpg
from pydantic import AfterValidator, Field, model_validator

from app import clock, outbound
from app.canonical import canonical, sha256
from app.writebacks.connectors import (
    Ambiguous,
    Applied,
    BadPayload,
    NotApplied,
    NotConfigured,
    Observed,
    Page,
    Payload,
    ReadFailed,
    RecordMissing,
    Refused,
    Stale,
    decode,
)
from app.writebacks.connectors.definitions import VERIFY, Capabilities, Common, Strict

KEY = re.compile(r"[A-Za-z0-9._:-]{1,128}")
DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{0,29}[1-9])?")
MOMENT = 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
SAFE = 2**53 - 1
LARGEST_ROW = 262_144

Type = Literal["text", "integer", "boolean", "decimal", "date", "timestamp", "uuid", "json"]
# declared type: the type a parameter is cast to, and how a column is read as text or as a value of JSON
CASTS = {
    "text": "text", "integer": "bigint", "boolean": "boolean", "decimal": "numeric", "date": "date", "timestamp": "timestamptz",
    "uuid": "uuid", "json": "jsonb",
}  # fmt: skip


def plain_name(value: str) -> str:
    if not value.isprintable() or len(value.encode()) > 63:
        raise ValueError("must be a name of at most 63 bytes")
    return value


Name = Annotated[str, Field(min_length=1, max_length=63), AfterValidator(plain_name)]


class Table(Strict):
    table_schema: Name = Field("public", alias="schema")
    table: Name

    def quoted(self) -> str:
        return f"{ident(self.table_schema)}.{ident(self.table)}"


class KeyColumn(Strict):
    column: Name
    type: Literal["text", "integer", "uuid"] = "text"


class VersionColumn(Strict):
    """What tells that a row changed. integer and timestamp are moved on by the UPDATE unless the target's trigger does it."""

    type: Literal["integer", "timestamp", "xmin"]
    column: Name | None = None
    moved_by: Literal["connector", "trigger"] = "connector"

    @model_validator(mode="after")
    def named(self) -> Self:
        if (self.type == "xmin") != (self.column is None):
            raise ValueError("column: xmin has none, the others need one")
        return self


class Column(Strict):
    type: Type
    writable: bool = False


class KindOfRow(Table):
    """One table as a kind of record."""

    key: KeyColumn
    version: VersionColumn
    columns: dict[Name, Column] = Field(min_length=1, max_length=200)

    @model_validator(mode="after")
    def writable(self) -> Self:
        for name in (self.key.column, self.version.column):
            if name in self.columns and self.columns[name].writable:
                raise ValueError(f"columns: {name} is the key or the version, and is not written")
        return self


class PostgreSql(Common):
    """Tables of a PostgreSQL database. Credentials are DSNs, postgresql://user:password@host:port/database, of this very place."""

    host: Annotated[str, Field(min_length=1, max_length=253)]
    port: int = Field(5432, ge=1, le=65535)
    database: Name
    tls: Literal["verify", "off"] = "verify"
    connect_s: float = Field(3.0, gt=0, le=10, strict=False)
    statement_s: float = Field(5.0, gt=0, le=60, strict=False)
    receipts: Table
    kinds: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,63}$")], KindOfRow] = Field(
        min_length=1, max_length=50
    )

    @model_validator(mode="after")
    def reachable(self) -> Self:
        if not outbound.fit_host(self.host.lower()):
            raise ValueError("host: must be a plain name, or an address in its usual spelling")
        return self


def capabilities(model: PostgreSql) -> Capabilities:
    return Capabilities(
        read=model.read_by,
        lists=True,
        version=", ".join(sorted({one.version.column or "xmin" for one in model.kinds.values()})) + "; in the WHERE of every UPDATE",
        idempotency="a receipt in the target, written in the transaction of the change",
        verify=VERIFY,
        operations={
            name: ["update"] if any(one.writable for one in kind.columns.values()) else [] for name, kind in model.kinds.items()
        },
    )  # fmt: skip


def ident(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class _Lost(Exception):
    """The connection could not be made, or ended, before anything was asked to be committed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class PostgreSqlReader:
    """Reads rows with a DSN, in read-only transactions."""

    application = "mission-root reads"
    read_only = "on"

    def __init__(self, name: str, definition: PostgreSql, dsn: str) -> None:
        self.name = name
        self._said = definition
        self._login = _login(name, definition, dsn)

    async def aclose(self) -> None:
        """Nothing is kept open between two calls."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def read(self, kind: str, record_id: str) -> Observed:
        said = self._kind(kind)
        async with self._asking() as connection:
            return await self._look(connection, said, kind, record_id)

    async def find(self, idempotency_key: str, payload: Payload | None = None) -> dict[str, Any] | None:
        key = _key(idempotency_key)
        async with self._asking() as connection:
            row = await connection.fetchrow(self._receipt_sql(), key)
        return _receipt(row) if row else None

    async def list(
        self, kind: str, limit: int = 50, cursor: str | None = None, filters: Mapping[str, str] | None = None
    ) -> Page:
        """`limit` is 1 to 200; rows in the order of their keys."""
        said = self._kind(kind)
        if filters:
            raise Refused(f"{kind} cannot be filtered.", None)
        if not 1 <= limit <= 200:
            raise Refused("limit must be 1 to 200.", None)
        cast = CASTS[said.key.type]
        where = f"WHERE {ident(said.key.column)} > CAST($2::text AS {cast})" if cursor else ""
        statement = f"SELECT {_columns(said)} FROM {said.quoted()} {where} ORDER BY {ident(said.key.column)} LIMIT $1"
        async with self._asking() as connection:
            rows = await connection.fetch(statement, limit + 1, *([_id(said, cursor)] if cursor else []))
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
            raise ReadFailed(lost.reason) from lost
        except asyncpg.PostgresError as error:
            raise ReadFailed(f"{self.name} refused to be read ({error.sqlstate}).") from error
        except (OSError, asyncpg.InterfaceError, TimeoutError) as error:
            raise ReadFailed(f"{self.name} broke off ({type(error).__name__}).") from error

    # --- rows

    async def _look(self, connection: asyncpg.Connection, said: KindOfRow, kind: str, record_id: str) -> Observed:
        key = ident(said.key.column)
        statement = f"SELECT {_columns(said)} FROM {said.quoted()} WHERE {key} = CAST($1::text AS {CASTS[said.key.type]}) LIMIT 2"
        rows = await connection.fetch(statement, _id(said, record_id))
        if not rows:
            raise RecordMissing(f"{self.name} shows this account no {kind} {record_id[:200]}.", 404)
        if len(rows) > 1:
            raise ReadFailed(f"{said.key.column} is not unique in {said.table}.")
        return self._seen(said, kind, rows[0])

    def _seen(self, said: KindOfRow, kind: str, row: asyncpg.Record) -> Observed:
        values = [row[f"c{number}"] for number in range(len(said.columns))]
        fields = {
            name: _shown(column.type, value) for (name, column), value in zip(said.columns.items(), values, strict=True)
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

    def _receipt_sql(self) -> str:
        return (
            f"SELECT idempotency_key, record, version, payload_sha256, to_char(applied_at, '{MOMENT}') AS applied_at "
            f"FROM {self._said.receipts.quoted()} WHERE idempotency_key = $1"
        )


class PostgreSqlWriter(PostgreSqlReader):
    """Changes rows with the DSN that may, and reads with it too."""

    application = "mission-root executor"
    read_only = "off"

    async def apply(self, claimed: bytes, idempotency_key: str) -> Applied:
        try:
            payload = decode(claimed)
        except BadPayload as bad:
            raise Refused(bad.reason, None) from bad
        if payload.connector != self.name or payload.operation != "update":
            raise Refused(f"This connector cannot do {payload.operation[:100]!r} for {payload.connector!r}.", None)
        said, key = self._kind(payload.kind), _key(idempotency_key)
        statement, values = _update(said, payload)
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
                earlier = await connection.fetchrow(self._receipt_sql(), key)
                if earlier is not None:
                    return Applied(_receipt(earlier), replayed=True)
                current = await self._look(connection, said, payload.kind, payload.record_id)
                raise Stale("The row was changed after it was read.", current)
            receipt = await connection.fetchrow(
                f"""INSERT INTO {self._said.receipts.quoted()} (idempotency_key, record, version, payload_sha256)
                    VALUES ($1, $2, $3, $4)
                    RETURNING idempotency_key, record, version, payload_sha256, to_char(applied_at, '{MOMENT}') AS applied_at""",
                key, record, rows[0]["version"], digest.hex(),
            )  # fmt: skip
        except asyncpg.PostgresError as error:
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
        return Applied(_receipt(receipt), replayed=False)

    def _rolled_back(self, error: asyncpg.PostgresError) -> NotApplied | Refused:
        """What a failed statement means: its transaction is over, and nothing of it stays."""
        state = error.sqlstate or ""
        told = f"{self.name} refused the change ({state})."
        if state[:2] in (
            "08",
            "25",
            "40",
            "53",
            "55",
            "57",
            "58",
        ):  # the server's troubles, timeouts and locks: not the change's
            return NotApplied(told, retryable=True)
        receipts = (self._said.receipts.table_schema, self._said.receipts.table)
        if state == "23505" and (error.schema_name, error.table_name) == receipts:  # the same key at the same time
            return NotApplied(told, retryable=True)
        return Refused(told, 409 if state[:2] == "23" else 400)


def _login(name: str, said: PostgreSql, dsn: str) -> tuple[str, str]:
    """User and password of a DSN, which must be one for the declared place. Raises NotConfigured."""
    try:
        parts = urlsplit(dsn)
        found = (
            parts.scheme,
            (parts.hostname or "").lower(),
            parts.port or 5432,
            unquote(parts.path.removeprefix("/")),
        )
    except ValueError:
        found = ("", "", 0, "")
    if (
        found[0] not in ("postgresql", "postgres")
        or not parts.username
        or not parts.password
        or parts.query
        or parts.fragment
    ):
        raise NotConfigured(f"The credential of {name} must be postgresql://user:password@host:port/database.")
    if found[1:] != (said.host.lower(), said.port, said.database):
        raise NotConfigured(f"The credential of {name} is for another host, port or database than the definition.")
    return unquote(parts.username), unquote(parts.password)


def _update(said: KindOfRow, payload: Payload) -> tuple[str, list[Any]]:
    """The one statement of a change. Raises Refused."""
    values: list[Any] = [_id(said, payload.record_id), _expected(said, payload.expected_version)]
    sets = []
    for name, value in payload.changes.items():
        column = said.columns.get(name)
        if column is None or not column.writable:
            raise Refused(f"{name[:100]!r} cannot be changed here.", None)
        values.append(_sent(name, column.type, value))
        sets.append(f"{ident(name)} = CAST(${len(values)}::text AS {CASTS[column.type]})")
    version = said.version
    if version.column is not None and version.moved_by == "connector":
        column_name = ident(version.column)
        sets.append(f"{column_name} = {f'{column_name} + 1' if version.type == 'integer' else 'clock_timestamp()'}")
    compared = {"integer": "bigint", "timestamp": "timestamptz", "xmin": "text"}[version.type]
    left = "xmin::text" if version.column is None else ident(version.column)
    return (
        f"UPDATE {said.quoted()} SET {', '.join(sets)} WHERE {ident(said.key.column)} = CAST($1::text AS {CASTS[said.key.type]}) "
        f"AND {left} = CAST($2::text AS {compared}) RETURNING {_version_text(version)} AS version"
    ), values


def _columns(said: KindOfRow) -> str:
    shown = [f"{ident(said.key.column)}::text AS id", f"{_version_text(said.version)} AS version"]
    for number, (name, column) in enumerate(said.columns.items()):
        read = f"to_char({ident(name)}, '{MOMENT}')" if column.type == "timestamp" else f"{ident(name)}::text"
        shown.append(f"{read} AS c{number}")
    return ", ".join(shown)


def _version_text(version: VersionColumn) -> str:
    if version.column is None:
        return "xmin::text"
    return (
        f"to_char({ident(version.column)}, '{MOMENT}')"
        if version.type == "timestamp"
        else f"{ident(version.column)}::text"
    )


def _receipt(row: asyncpg.Record) -> dict[str, Any]:
    return {name: row[name] for name in ("idempotency_key", "record", "version", "payload_sha256", "applied_at")}


def _key(idempotency_key: str) -> str:
    if not KEY.fullmatch(idempotency_key):
        raise Refused("The idempotency key must be 1 to 128 of A-Z a-z 0-9 . _ : -", None)
    return idempotency_key


def _id(said: KindOfRow, record_id: str) -> str:
    try:
        right = {
            "text": lambda: _text(record_id),
            "integer": lambda: record_id == str(int(record_id)) and abs(int(record_id)) < 2**63,
            "uuid": lambda: record_id == str(UUID(record_id)),
        }[said.key.type]()
    except ValueError:
        right = False
    if not right:
        raise Refused(f"{record_id[:100]!r} cannot be a key here.", None)
    return record_id


def _expected(said: KindOfRow, version: str) -> str:
    shape = {
        "integer": r"-?(0|[1-9][0-9]{0,17})",
        "timestamp": r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z",
        "xmin": r"[0-9]{1,10}",
    }
    if not re.fullmatch(shape[said.version.type], version):
        raise Refused("The expected version is not one of this target's.", None)
    return version


def _text(value: str) -> bool:
    try:
        return bool(value) and "\0" not in value and bool(value.encode())
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _sent(name: str, type: Type, value: Any) -> str | None:
    """A value as a parameter. Only the spelling that is read back is taken: approved bytes must be found again."""
    if value is None:
        return None
    try:
        sent = _spelled(type, value)
    except (ValueError, TypeError, InvalidOperation):
        sent = None
    if sent is None:
        raise Refused(
            f"{name[:100]} does not take this value as {type}; docs/connectors.md says how each type is spelled.", None
        )
    return sent


def _spelled(type: Type, value: Any) -> str | None:
    if type == "integer":
        return str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= SAFE else None
    if type == "boolean":
        return ("true" if value else "false") if isinstance(value, bool) else None
    if type == "json":
        return canonical(value).decode() if "\\u0000" not in json.dumps(value) else None
    if not isinstance(value, str) or (value and not _text(value)):
        return None
    if type == "decimal":
        return value if DECIMAL.fullmatch(value) and value != "-0" else None
    if type == "date":
        return value if date.fromisoformat(value).isoformat() == value else None
    if type == "uuid":
        return value if str(UUID(value)) == value else None
    if type == "timestamp":
        moment = datetime.strptime(value, "%Y-%m-%dT%H:%M:%S.%fZ")
        return value if moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ") == value else None
    return value


def _shown(type: Type, value: str | None) -> Any:
    """A column's text as a value of JSON: decimals as text without zeros at the end, moments as text in UTC."""
    if value is None:
        return None
    if type == "integer":
        return int(value)
    if type == "boolean":
        return value == "true"
    if type == "json":
        return json.loads(value)
    if type == "decimal":
        number = Decimal(value)
        if not number.is_finite():
            return value
        plain = format(number, "f")
        plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
        return "0" if plain == "-0" else plain
    return value
