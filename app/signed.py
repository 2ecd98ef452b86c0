"""Signed decisions: what an approver signs, how, and how the executor finds out that it was them.

A signature is a compact JWS (EdDSA, Ed25519). Its payload is the canonical form of one statement, so that whoever checks
builds the statement from what they know themselves and compares bytes: nothing is read out of the signature.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from app.canonical import canonical

TYPE = "mission-root-decision+jws"
PURPOSE = "mission-root"  # a signature given for something else is none here
LONGEST = 4096

Verdict = Literal["approve", "reject"]


def build_statement(tenant: UUID, approval: UUID, payload_sha256: bytes, verdict: Verdict, approver: UUID) -> bytes:
    """The canonical bytes that an approver signs."""
    return canonical(
        {
            "approval": str(approval),
            "approver": str(approver),
            "decided_for": PURPOSE,
            "payload_sha256": payload_sha256.hex(),
            "tenant": str(tenant),
            "verdict": verdict,
        }
    )


def sign(statement: bytes, key: Ed25519PrivateKey, key_id: UUID) -> str:
    """A statement as a compact JWS by a registered key."""
    header = canonical({"alg": "EdDSA", "kid": str(key_id), "typ": TYPE})
    signed = f"{encode(header)}.{encode(statement)}"
    return f"{signed}.{encode(key.sign(signed.encode()))}"


def verify(signature: str, statement: bytes, keys: Mapping[str, bytes]) -> bool:
    """Is this a signature over exactly this statement, by one of these keys (id: 32 bytes)?"""
    try:
        head, body, mark = signature.split(".")
        header = json.loads(decode(head))
        if not isinstance(header, dict) or set(header) != {"alg", "kid", "typ"}:
            return False
        if header["alg"] != "EdDSA" or header["typ"] != TYPE or decode(body) != statement:
            return False
        public = keys.get(str(header["kid"]))
        if public is None:
            return False
        Ed25519PublicKey.from_public_bytes(public).verify(decode(mark), f"{head}.{body}".encode())
    except (ValueError, InvalidSignature):
        return False
    return True


def signers(
    tenant: UUID, approval: UUID, payload_sha256: bytes, decisions: Iterable[Mapping[str, Any]]
) -> frozenset[UUID]:
    """Who of these really signed an approval of these bytes. A decision has approver, signature and keys (id: hex)."""
    found = set()
    for decision in decisions:
        approver = UUID(decision["approver"])
        statement = build_statement(tenant, approval, payload_sha256, "approve", approver)
        keys = {name: bytes.fromhex(public) for name, public in decision["keys"].items()}
        if verify(decision["signature"], statement, keys):
            found.add(approver)
    return frozenset(found)


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Unpadded base64url in its one form; ValueError otherwise, so that no two texts are one signature."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as refused:
        raise ValueError("not base64url") from refused
    if encode(raw) != text:
        raise ValueError("not canonical base64url")
    return raw
