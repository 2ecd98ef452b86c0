"""Signing a message the way Standard Webhooks writes it down, and checking such a signature.

`webhook-signature` is a list, one entry per live secret: `v1,<base64>` is HMAC-SHA256, `v1a,<base64>` Ed25519, both over
`<webhook-id>.<webhook-timestamp>.<body>`. Whoever receives needs one secret or public key that fits one entry.
Source: the specification at standardwebhooks.com.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Kind = Literal["v1", "v1a"]
SYMMETRIC, PRIVATE, PUBLIC = "whsec_", "whsk_", "whpk_"
SECRET_BYTES = 32
TOLERANCE_S = 300
MOST_ENTRIES = 20  # entries of a signature header that are looked at


@dataclass(frozen=True)
class Secret:
    """What a webhook is signed with. raw: 32 bytes, the HMAC key or the Ed25519 seed."""

    kind: Kind
    raw: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """How the HMAC key is shown to the receiver. An Ed25519 seed is shown to nobody."""
        assert self.kind == "v1"
        return SYMMETRIC + base64.b64encode(self.raw).decode()

    @property
    def public(self) -> bytes | None:
        if self.kind == "v1":
            return None
        return Ed25519PrivateKey.from_private_bytes(self.raw).public_key().public_bytes_raw()

    def sign(self, said: bytes) -> bytes:
        if self.kind == "v1":
            return hmac.new(self.raw, said, hashlib.sha256).digest()
        return Ed25519PrivateKey.from_private_bytes(self.raw).sign(said)


def make(kind: Kind) -> Secret:
    return Secret(kind, secrets.token_bytes(SECRET_BYTES))


def public_text(key: bytes) -> str:
    return PUBLIC + base64.b64encode(key).decode()


def headers(message: str, moment: datetime, body: bytes, signing: Iterable[Secret]) -> dict[str, str]:
    """The three headers of one try; the timestamp is that of the try, so that receivers can bound replays."""
    stamp = str(int(moment.timestamp()))
    said = signed_bytes(message, stamp, body)
    entries = [f"{one.kind},{base64.b64encode(one.sign(said)).decode()}" for one in signing]
    return {"webhook-id": message, "webhook-timestamp": stamp, "webhook-signature": " ".join(entries)}


class NotGenuine(Exception):
    """The message is not what its sender signed, or not now. The only thing `verify` raises, whatever it is handed."""


def verify(sent: Mapping[str, str], body: bytes, keys: Iterable[str], *, now: datetime | None = None) -> str:
    """The message id, when one signature fits one key (whsec_…, or whpk_… for Ed25519). Raises NotGenuine."""
    given = {name.lower(): value for name, value in sent.items()}
    message, stamp, entries = (given.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    if not message or not entries or not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        raise NotGenuine("webhook-id, webhook-timestamp and webhook-signature are needed")
    if abs(int(stamp) - (now or datetime.now(UTC)).timestamp()) > TOLERANCE_S:
        raise NotGenuine(f"webhook-timestamp is more than {TOLERANCE_S} s away")
    try:
        said = signed_bytes(message, stamp, body)
    except UnicodeEncodeError:
        raise NotGenuine("webhook-id is not text that could be sent") from None
    known = [read_key(key) for key in keys]
    for entry in entries.split(" ")[:MOST_ENTRIES]:
        kind, _, encoded = entry.partition(",")
        try:
            signature = base64.b64decode(encoded.encode("ascii"), validate=True)
        except (binascii.Error, UnicodeEncodeError):
            continue
        if any(fits(kind, signature, said, key_kind, key) for key_kind, key in known):
            return message
    raise NotGenuine("no signature fits")


def signed_bytes(message: str, stamp: str, body: bytes) -> bytes:
    return f"{message}.{stamp}.".encode() + body


def fits(kind: str, signature: bytes, said: bytes, key_kind: Kind, key: bytes) -> bool:
    if kind != key_kind:
        return False
    if key_kind == "v1":
        return hmac.compare_digest(hmac.new(key, said, hashlib.sha256).digest(), signature)
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, said)
    except InvalidSignature:
        return False
    return True


def read_key(key: str) -> tuple[Kind, bytes]:
    """A receiver's key: whsec_<base64> or whpk_<base64>. Raises ValueError."""
    for prefix, kind in ((SYMMETRIC, "v1"), (PUBLIC, "v1a")):
        if key.startswith(prefix):
            raw = base64.b64decode(key.removeprefix(prefix), validate=True)
            if (kind == "v1" and raw) or len(raw) == 32:
                return kind, raw  # type: ignore[return-value]
    raise ValueError(f"a key begins with {SYMMETRIC} or {PUBLIC}")
