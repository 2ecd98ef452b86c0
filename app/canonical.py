"""Canonical bytes (RFC 8785) and their SHA-256: what is stored, hashed, signed and approved is these bytes."""

import hashlib
import json
from typing import Any

from asyncpg.pgproto.pgproto import UUID

from colony_client.canonical import CanonicalizationError
from colony_client.canonical import canonical as canonical_json


def canonical(value: Any) -> bytes:
    """JSON values to their one canonical byte form. Integers beyond ±2^53 and non-JSON values raise ValueError."""
    try:
        return canonical_json(value)
    except CanonicalizationError as refused:
        raise ValueError(f"not canonical JSON: {refused}") from refused


def parsed(data: str | bytes) -> Any:
    """Canonical bytes as the value that they were. Beyond ±2^53 they write a float without an exponent, as if it were an integer."""
    return json.loads(data, parse_int=_number)


def _number(digits: str) -> int | float:
    value = int(digits)
    return value if -(2**53) < value < 2**53 else float(value)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def fingerprint(value: Any) -> bytes:
    return sha256(canonical(value))


def mark_of(id: str | None) -> UUID | None:
    """What a request is found by in the ledger: half of the SHA-256 of its id, so that no words from outside get there."""
    return UUID(sha256(id.encode())[:16]) if id else None
