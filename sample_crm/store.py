"""The CRM's one SQLite file: records, the changes applied to them, and the receipts given for those changes."""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sample_crm.problems import Problem
from sample_crm.records import KINDS, changed

SCHEMA = """
CREATE TABLE record (
    kind TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, fields TEXT NOT NULL, PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE INDEX record_by_lead ON record (kind, json_extract(fields, '$.lead_id'), id);
CREATE TABLE change (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, record TEXT NOT NULL, version INTEGER NOT NULL,
    idempotency_key TEXT NOT NULL UNIQUE, before TEXT NOT NULL, after TEXT NOT NULL, applied_at TEXT NOT NULL,
    UNIQUE (kind, record, version), FOREIGN KEY (kind, record) REFERENCES record (kind, id)
);
CREATE TABLE receipt (
    idempotency_key TEXT PRIMARY KEY REFERENCES change (idempotency_key), request_sha256 TEXT NOT NULL,
    body BLOB NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Record:
    kind: str
    id: str
    version: int
    fields: dict[str, Any]

    @property
    def etag(self) -> str:
        return f'"v{self.version}"'

    def document(self) -> dict[str, Any]:
        return {"kind": self.kind, "id": self.id, "version": self.version, "fields": self.fields}


@dataclass(frozen=True)
class Receipt:
    """The stored answer to an applied change, byte for byte; `version` is the one the change produced."""

    body: bytes
    version: int
    replayed: bool


class Store:
    """One connection, one lock: SQLite has a single writer anyway, and readers must not see its open transaction."""

    def __init__(self, path: Path, sample: Path) -> None:
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._db.execute(f"PRAGMA {pragma}")
        with self._transaction() as db:
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                _seed(db, json.loads(sample.read_text("utf-8")))

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def record(self, kind: str, record_id: str) -> Record:
        with self._lock:
            return _record(self._db, kind, record_id)

    def records(self, kind: str, lead_id: str | None, after: str, limit: int) -> list[Record]:
        """At most `limit` records with an id greater than `after`, ordered by id."""
        _known(kind)
        narrowed, arguments = "", [kind, after]
        if lead_id is not None:
            narrowed = "AND json_extract(fields, '$.lead_id') = ?"
            arguments.append(lead_id)
        query = f"SELECT kind, id, version, fields FROM record WHERE kind = ? AND id > ? {narrowed} ORDER BY id LIMIT ?"  # noqa: S608 - no caller's text
        with self._lock:
            rows = self._db.execute(query, [*arguments, limit]).fetchall()
        return [Record(kind, id_, version, json.loads(fields)) for kind, id_, version, fields in rows]

    def receipt(self, idempotency_key: str) -> bytes | None:
        with self._lock:
            row = self._db.execute("SELECT body FROM receipt WHERE idempotency_key = ?", [idempotency_key]).fetchone()
        return row[0] if row else None

    def changes(self, kind: str, record_id: str) -> list[dict[str, Any]]:
        """Every change ever applied to the record, oldest first."""
        columns = "id, version, idempotency_key, before, after, applied_at"
        with self._lock:
            _record(self._db, kind, record_id)
            rows = self._db.execute(
                f"SELECT {columns} FROM change WHERE kind = ? AND record = ? ORDER BY id",  # noqa: S608
                [kind, record_id],
            ).fetchall()
        return [
            {
                "change_id": id_, "version": version, "idempotency_key": key, "before": json.loads(before),
                "after": json.loads(after), "applied_at": at,
            }
            for id_, version, key, before, after, at in rows
        ]  # fmt: skip

    def apply(self, kind: str, record_id: str, changes: dict[str, Any], etag: str, idempotency_key: str) -> Receipt:
        """Applies `changes` once per key, in one durable transaction with its receipt. A refusal leaves no receipt."""
        asked = hashlib.sha256(json.dumps([kind, record_id, changes], sort_keys=True).encode()).hexdigest()
        with self._transaction() as db:
            known = db.execute(
                "SELECT request_sha256, body, version FROM receipt JOIN change USING (idempotency_key) "
                "WHERE idempotency_key = ?",
                [idempotency_key],
            ).fetchone()
            if known and known[0] != asked:
                raise Problem(422, "idempotency_key_reused", "This Idempotency-Key was used for another change.")
            if known:
                return Receipt(known[1], known[2], replayed=True)
            record = _record(db, kind, record_id)
            if record.etag != etag:
                raise Problem(
                    412, "stale", f"The record is at {record.etag}.", headers={"ETag": record.etag},
                    current=record.document(),
                )  # fmt: skip
            return _write(db, record, changed(kind, record.fields, changes), changes, idempotency_key, asked)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def _known(kind: str) -> None:
    if kind not in KINDS:
        raise Problem(404, "kind_not_found", f"There is no kind {kind!r}; there are {', '.join(KINDS)}.")


def _record(db: sqlite3.Connection, kind: str, record_id: str) -> Record:
    _known(kind)
    row = db.execute("SELECT version, fields FROM record WHERE kind = ? AND id = ?", [kind, record_id]).fetchone()
    if row is None:
        raise Problem(404, "record_not_found", f"There is no {kind} {record_id!r}.")
    return Record(kind, record_id, row[0], json.loads(row[1]))


def _write(
    db: sqlite3.Connection,
    record: Record,
    fields: dict[str, Any],
    changes: dict[str, Any],
    idempotency_key: str,
    request_sha256: str,
) -> Receipt:
    version, at = record.version + 1, datetime.now(UTC).isoformat().replace("+00:00", "Z")
    before = {name: record.fields[name] for name in changes}
    db.execute(
        "UPDATE record SET version = ?, fields = ? WHERE kind = ? AND id = ?",
        [version, json.dumps(fields), record.kind, record.id],
    )
    change = db.execute(
        "INSERT INTO change (kind, record, version, idempotency_key, before, after, applied_at) VALUES (?,?,?,?,?,?,?)",
        [record.kind, record.id, version, idempotency_key, json.dumps(before), json.dumps(changes), at],
    ).lastrowid
    body = json.dumps(
        {
            "idempotency_key": idempotency_key, "change_id": change, "kind": record.kind, "id": record.id,
            "previous_version": record.version, "version": version, "before": before, "after": changes,
            "applied_at": at,
        }
    ).encode()  # fmt: skip
    db.execute("INSERT INTO receipt VALUES (?, ?, ?)", [idempotency_key, request_sha256, body])
    return Receipt(body, version, replayed=False)


def _seed(db: sqlite3.Connection, sample: dict[str, list[dict[str, Any]]]) -> None:
    """Tables and sample records, within the caller's transaction; `user_version` marks the file as filled."""
    for statement in SCHEMA.split(";"):
        db.execute(statement)
    for kind, rows in sample.items():
        for fields in rows:
            KINDS[kind].model.model_validate(fields)
            db.execute("INSERT INTO record VALUES (?, ?, 1, ?)", [kind, fields["id"], json.dumps(fields)])
    db.execute("PRAGMA user_version = 1")
