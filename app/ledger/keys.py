"""The keys that sign anchors: Ed25519, named, followed by one another through statements that the older one signed."""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from app.canonical import canonical, parsed

KID = re.compile(r"[A-Za-z0-9_-]{1,40}")
SUCCESSION = "mission-root anchor key 1"


@dataclass(frozen=True)
class Signer:
    """The keys a worker holds, the one that signs first; the others only vouch for it."""

    by_kid: Mapping[str, Ed25519PrivateKey] = field(repr=False)

    @property
    def kid(self) -> str:
        return next(iter(self.by_kid))

    def sign(self, data: bytes) -> bytes:
        return self.by_kid[self.kid].sign(data)

    def public(self) -> dict[str, bytes]:
        return {kid: key.public_key().public_bytes_raw() for kid, key in self.by_kid.items()}

    def successions(self) -> list[tuple[str, bytes]]:
        """What each older key says of the one that signs, as objects of the store: name and bytes."""
        public = base64.b64encode(self.public()[self.kid]).decode()
        found = []
        for kid, key in list(self.by_kid.items())[1:]:
            statement = {"by": kid, "key": self.kid, "public_key": public, "purpose": SUCCESSION}
            found.append((f"keys/{self.kid}.{kid}.json", sealed(statement, key)))
        return found


@dataclass(frozen=True)
class Keyring:
    """The public keys a verifier was given, and the ids it no longer believes."""

    by_kid: Mapping[str, bytes]
    revoked: frozenset[str] = frozenset()

    def reached(self, statements: Iterable[bytes]) -> "Keyring":
        """With the keys that keys known here vouch for, however far. What was given is never replaced."""
        known, waiting = dict(self.by_kid), list(statements)
        while True:
            left = []
            for raw in waiting:
                found = opened(raw, known)
                if found is None or found["statement"].get("purpose") != SUCCESSION:
                    left.append(raw)
                    continue
                said = found["statement"]
                if said["by"] not in self.revoked and KID.fullmatch(str(said.get("key"))):
                    known.setdefault(said["key"], unbase64(str(said.get("public_key"))))
            if len(left) == len(waiting):
                return Keyring(known, self.revoked)
            waiting = left


def sealed(statement: dict[str, Any], key: Ed25519PrivateKey) -> bytes:
    """A statement with its signature, in canonical form: what the store keeps."""
    signature = base64.b64encode(key.sign(canonical(statement))).decode()
    return canonical({"signature": signature, "statement": statement})


def parse(raw: bytes) -> dict[str, Any] | None:
    """A sealed object in its one form, signature unchecked; None when it is anything else."""
    try:
        found = parsed(raw)
        if (
            set(found) != {"signature", "statement"}
            or canonical(found) != raw
            or not isinstance(found["statement"], dict)
        ):
            return None
    except (ValueError, TypeError, RecursionError):
        return None
    return found


def opened(raw: bytes, keys: Mapping[str, bytes]) -> dict[str, Any] | None:
    """A sealed object whose signature one of these keys really gave: the one it names as `by`."""
    found = parse(raw)
    if found is None or not genuine(found, keys.get(str(found["statement"].get("by")))):
        return None
    return found


def genuine(found: dict[str, Any], public: bytes | None) -> bool:
    if public is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(unbase64(found["signature"]), canonical(found["statement"]))
    except (InvalidSignature, ValueError, TypeError, AttributeError):
        return False
    return True


def signer(text: str) -> Signer:
    """`kid:base64 seed[,kid:base64 seed]`. ValueError in a sentence."""
    return Signer({kid: Ed25519PrivateKey.from_private_bytes(raw) for kid, raw in pairs(text).items()})


def keyring(text: str, revoked: str = "") -> Keyring:
    """`kid:base64[,kid:base64]` and `kid[,kid]`. ValueError in a sentence."""
    return Keyring(
        pairs(text) if text.strip() else {}, frozenset(one.strip() for one in revoked.split(",") if one.strip())
    )


def public_text(keys: Mapping[str, bytes]) -> str:
    return ",".join(f"{kid}:{base64.b64encode(raw).decode()}" for kid, raw in keys.items())


def pairs(text: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for one in text.split(","):
        kid, _, encoded = one.strip().partition(":")
        raw = unbase64(encoded)
        if not KID.fullmatch(kid) or kid in found or len(raw) != 32:
            raise ValueError("must be kid:base64[,kid:base64], 32 bytes each and every kid once")
        found[kid] = raw
    return found


def unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as refused:
        raise ValueError("not base64") from refused
