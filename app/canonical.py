"""Canonical bytes (RFC 8785) and their SHA-256: what is stored, hashed, signed and approved is these bytes."""

import hashlib
from typing import Any

import rfc8785


def canonical(value: Any) -> bytes:
    """JSON values to their one canonical byte form. Integers beyond ±2^53 and non-JSON values raise ValueError."""
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as refused:
        raise ValueError(f"not canonical JSON: {refused}") from refused


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def fingerprint(value: Any) -> bytes:
    return sha256(canonical(value))
