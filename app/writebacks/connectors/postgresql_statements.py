"""What the PostgreSQL connector says in SQL, and how values are spelled there.

Statements are built from declared names, quoted, and from parameters. Only one spelling of a value is taken, the one that
is read back: approved bytes must be found again.
"""
# ruff: noqa: S608  # declared names, quoted by ident(), and types out of CASTS

import json
import re
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from app.canonical import canonical
from app.writebacks.connectors import Payload, Refused, decimal_text
from app.writebacks.connectors.definitions.postgresql import KindOfRow, Table, Type, VersionColumn

DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{0,29}[1-9])?")
MOMENT = 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
RECEIPT = f"idempotency_key, record, version, payload_sha256, to_char(applied_at, '{MOMENT}') AS applied_at"
SAFE = 2**53 - 1
# declared type: the type a parameter is cast to
CASTS = {
    "text": "text", "integer": "bigint", "boolean": "boolean", "decimal": "numeric", "date": "date", "timestamp": "timestamptz",
    "uuid": "uuid", "json": "jsonb",
}  # fmt: skip


# --- statements


def ident(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def quoted(table: Table) -> str:
    return f"{ident(table.table_schema)}.{ident(table.table)}"


def select_row(said: KindOfRow) -> str:
    """Two rows of one key would be one too many: both are asked for."""
    key = f"{ident(said.key.column)} = CAST($1::text AS {CASTS[said.key.type]})"
    return f"SELECT {_columns(said)} FROM {quoted(said)} WHERE {key} LIMIT 2"


def select_rows(said: KindOfRow, *, after: bool) -> str:
    """Rows in the order of their keys: $1 of them, after the key $2 or from the first one on."""
    key = ident(said.key.column)
    where = f"WHERE {key} > CAST($2::text AS {CASTS[said.key.type]})" if after else ""
    return f"SELECT {_columns(said)} FROM {quoted(said)} {where} ORDER BY {key} LIMIT $1"


def select_receipt(receipts: Table) -> str:
    return f"SELECT {RECEIPT} FROM {quoted(receipts)} WHERE idempotency_key = $1"


def insert_receipt(receipts: Table) -> str:
    named = "idempotency_key, record, version, payload_sha256"
    return f"INSERT INTO {quoted(receipts)} ({named}) VALUES ($1, $2, $3, $4) RETURNING {RECEIPT}"


def update(said: KindOfRow, payload: Payload) -> tuple[str, list[Any]]:
    """The one statement of a change. Raises Refused."""
    values: list[Any] = [fit_id(said, payload.record_id), _expected(said, payload.expected_version)]
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
        f"UPDATE {quoted(said)} SET {', '.join(sets)} WHERE {ident(said.key.column)} = CAST($1::text AS {CASTS[said.key.type]}) "
        f"AND {left} = CAST($2::text AS {compared}) RETURNING {_version_text(version)} AS version"
    ), values


def _columns(said: KindOfRow) -> str:
    parts = [f"{ident(said.key.column)}::text AS id", f"{_version_text(said.version)} AS version"]
    for number, (name, column) in enumerate(said.columns.items()):
        read = f"to_char({ident(name)}, '{MOMENT}')" if column.type == "timestamp" else f"{ident(name)}::text"
        parts.append(f"{read} AS c{number}")
    return ", ".join(parts)


def _version_text(version: VersionColumn) -> str:
    if version.column is None:
        return "xmin::text"
    return (
        f"to_char({ident(version.column)}, '{MOMENT}')"
        if version.type == "timestamp"
        else f"{ident(version.column)}::text"
    )


# --- values


def fit_id(said: KindOfRow, record_id: str) -> str:
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
    """A value as a parameter."""
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


def shown(type: Type, value: str | None) -> Any:
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
        return decimal_text(number) if number.is_finite() else value
    return value
