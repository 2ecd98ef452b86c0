"""How the root reaches a business system: what a connector does, what it may answer, and what an approved payload says.

A `Reader` holds a read-only credential, a `Writer` the one that may change things; `registry` builds either by name.
`apply` is called once the execution is claimed and committed, outside any transaction. It returns `Applied` or raises
one of three answers that must never be confused: `NotApplied` (proved: nothing happened), `Refused` (the target
understood and said no) and `Ambiguous` (it may have happened; only the target can tell). Whatever else escapes from
`apply`, cancellation included, counts as ambiguous.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple, Protocol, Self

from app.canonical import canonical


class ConnectorError(Exception):
    """The root of everything a connector says no with; `reason` is one sentence without credentials or bodies."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotConfigured(ConnectorError):
    """The connector is unknown, or this process lacks its address or credential."""


class NoWriteCredential(NotConfigured):
    """This process may not write: it was started without the connector's write credential."""


class BadPayload(ConnectorError):
    """The bytes are not a canonical writeback payload."""


class ReadFailed(ConnectorError):
    """Reading gave no usable answer; asking again later may. `code` says which kind of failure it was, for counters."""

    def __init__(self, reason: str, code: str = "connector_unusable") -> None:
        super().__init__(reason)
        self.code = code


class Refused(ConnectorError):
    """The target said no for good. `status` is its 4xx, or None when the connector refused before sending anything."""

    def __init__(self, reason: str, status: int | None) -> None:
        super().__init__(reason)
        self.status = status


class RecordMissing(Refused):
    """The target knows no such record."""


class NotApplied(ConnectorError):
    """Proved: this attempt changed nothing. When `retryable`, the same key may be tried again."""

    def __init__(self, reason: str, *, retryable: bool, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class Ambiguous(ConnectorError):
    """The request may have arrived. Settle it with `find` and a read-back, never by assuming."""


@dataclass(frozen=True)
class Observed:
    """A record as the target showed it: `value` holds its fields, `version` is the target's own, `read_at` is UTC."""

    kind: str
    record_id: str
    value: dict[str, Any]
    version: str
    read_at: datetime


MOST_DIGITS = 131_072  # as PostgreSQL's numeric before the point; written out, an exponent may say gigabytes


def decimal_text(number: Decimal) -> str:
    """How a decimal stands in `Observed.value`: digits without an exponent, and without zeros at the end.

    Raises ReadFailed for one that nobody can write out.
    """
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or abs(exponent) > MOST_DIGITS:
        raise ReadFailed("The target sent a number that cannot be written out.")
    plain = format(number, "f")
    plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    return "0" if plain == "-0" else plain


class Stale(NotApplied):
    """Nothing was changed because the record moved on; `current` is what it is now."""

    def __init__(self, reason: str, current: Observed) -> None:
        super().__init__(reason, retryable=False)
        self.current = current


@dataclass(frozen=True)
class Page:
    items: tuple[Observed, ...]
    next_cursor: str | None


@dataclass(frozen=True)
class Applied:
    """The target's receipt; `replayed` when an earlier attempt under the same key had already done it."""

    receipt: dict[str, Any]
    replayed: bool


class Reader(Protocol):
    """Reads a target. Each method raises ReadFailed, Refused or RecordMissing."""

    name: str

    async def read(self, kind: str, record_id: str) -> Observed: ...

    async def find(self, idempotency_key: str, payload: "Payload | None" = None) -> dict[str, Any] | None:
        """The receipt of the change applied under the key, or None when none has been applied so far.

        A target that keeps no keys is asked about the change itself, so that its connector needs the `payload`.
        None is no promise for a request that is still under way: wait out its time limit before believing it.
        """
        ...

    async def list(
        self, kind: str, limit: int = 50, cursor: str | None = None, filters: Mapping[str, str] | None = None
    ) -> Page: ...

    async def aclose(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


class Writer(Reader, Protocol):
    async def apply(self, claimed: bytes, idempotency_key: str) -> Applied:
        """Does what the claimed payload says, once per key. Raises NotApplied, Stale, Refused or Ambiguous."""
        ...


@dataclass(frozen=True)
class Payload:
    """What is approved and executed; `expected_version` is the target's version the proposal was made for."""

    connector: str
    kind: str
    record_id: str
    operation: str
    changes: dict[str, Any]
    expected_version: str


def encode(payload: Payload) -> bytes:
    """The canonical JSON (RFC 8785) that is stored, hashed, approved and claimed. Raises BadPayload."""
    document = {
        "connector": payload.connector,
        "target": {"kind": payload.kind, "id": payload.record_id},
        "operation": payload.operation,
        "changes": payload.changes,
        "expected_version": payload.expected_version,
    }
    try:
        encoded = canonical(document)
    except (ValueError, RecursionError) as error:
        raise BadPayload("The payload cannot be written as canonical JSON.") from error
    decode(encoded)
    return encoded


def decode(claimed: bytes) -> Payload:
    """Reads the claimed bytes, which must be exactly what `encode` writes. Raises BadPayload."""
    try:
        document = json.loads(claimed.decode("utf-8"))
        # Only one spelling is canonical: a duplicate key, NaN or reordered member does not come back the same.
        only_spelling = canonical(document) == claimed
    except (ValueError, RecursionError) as error:
        raise BadPayload("The payload is not canonical JSON.") from error
    match document if only_spelling else None:
        case {
            "connector": str(connector),
            "target": {"kind": str(kind), "id": str(record_id), **beside},
            "operation": str(operation),
            "changes": dict(changes),
            "expected_version": str(version),
            **more,
        } if changes and not beside and not more:
            return Payload(connector, kind, record_id, operation, changes, version)
    raise BadPayload("The payload is not a canonical writeback payload.")


class ReadBack(NamedTuple):
    """Whether the target shows what was approved, and the approved fields as they were observed."""

    matches: bool
    observed: dict[str, Any]


def verify(payload: Payload, observed: Observed) -> ReadBack:
    """Compares every changed field with the read-back, by canonical bytes: to Python, but not here, 1 equals True."""
    if (observed.kind, observed.record_id) != (payload.kind, payload.record_id):
        return ReadBack(False, {})
    subset = {name: observed.value[name] for name in payload.changes if name in observed.value}
    try:
        return ReadBack(canonical(subset) == canonical(payload.changes), subset)
    except ValueError:  # a number that canonical JSON cannot carry is not one that was approved
        return ReadBack(False, subset)
