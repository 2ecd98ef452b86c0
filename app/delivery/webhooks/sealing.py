"""Signing secrets at rest: encrypted under a key that only processes know, so that the database alone gives none away."""

import hashlib
import os
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from colony_client.signing import Keys

NONCE = 12


class CannotOpen(Exception):
    """A sealed secret was sealed under a key this process does not hold, or is not the one it claims to be."""


def seal(keys: Keys, tenant: UUID, id: UUID, raw: bytes) -> bytes:
    """`kid NUL nonce ciphertext`, bound to the row it is stored in: moved to another row it does not open."""
    kid, nonce = keys.signing_kid, os.urandom(NONCE)
    return kid.encode() + b"\0" + nonce + cipher(keys, kid).encrypt(nonce, raw, place(tenant, id))


def unseal(keys: Keys, tenant: UUID, id: UUID, sealed: bytes) -> bytes:
    """Raises CannotOpen."""
    kid, _, rest = sealed.partition(b"\0")
    name = kid.decode(errors="replace")
    if name not in keys.by_kid:
        raise CannotOpen(f"sealed under key {name[:40]!r}, which is not in WEBHOOK_SEALING_KEY")
    try:
        return cipher(keys, name).decrypt(rest[:NONCE], rest[NONCE:], place(tenant, id))
    except (InvalidTag, ValueError):
        raise CannotOpen("the sealed secret was changed or moved") from None


def cipher(keys: Keys, kid: str) -> AESGCM:
    # a key of its own for this purpose, whatever else the same words may once be used for
    return AESGCM(hashlib.sha256(keys.mac(kid, b"webhook-sealing-v1\n")).digest())


def place(tenant: UUID, id: UUID) -> bytes:
    return tenant.bytes + id.bytes
