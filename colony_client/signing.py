"""Service authentication: a shared key signs each request and is itself never sent.

Signed is `mission-root-v1`, audience, method, path with query, Unix time, nonce and body digest, one per line, with
HMAC-SHA256. The audience is the service the request goes to, so an answer to one side is no request to the other.
A signature lives five minutes around its timestamp, and its nonce is good for one use in that time.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from colony_client.contract import CONTRACT_VERSION, VERSION_HEADER
from colony_client.errors import SignatureExpired, SignatureMissing, SignatureReplayed, SignatureWrong, UnknownKey

KEY_HEADER = "X-Colony-Key"
TIMESTAMP_HEADER = "X-Colony-Timestamp"
NONCE_HEADER = "X-Colony-Nonce"
SIGNATURE_HEADER = "X-Colony-Signature"

WINDOW = timedelta(minutes=5)
MIN_SECRET = 16
MAX_KEYS = 4

Audience = Literal["root", "colony"]
FirstUse = Callable[[str, datetime], Awaitable[bool]]  # (nonce, until when to remember it) -> never seen before

_NOBODYS_SECRET = secrets.token_bytes(32)
_KID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_SECRET = re.compile(rf"[!-+\--~]{{{MIN_SECRET},256}}")  # visible ASCII without the comma that separates keys
_NONCE = re.compile(r"[A-Za-z0-9_-]{16,64}")
_TIMESTAMP = re.compile(r"[0-9]{10,11}")
_SIGNATURE = re.compile(r"v1=[0-9a-f]{64}")


@dataclass(frozen=True)
class Keys:
    """Key ids and their secrets, in order of configuration: the first signs, any verifies."""

    by_kid: Mapping[str, bytes] = field(repr=False)

    @property
    def signing_kid(self) -> str:
        return next(iter(self.by_kid))

    def mac(self, kid: str, text: bytes) -> bytes:
        """HMAC-SHA256 under a key; an unknown id costs the same time and gives bytes that nobody can have sent."""
        return hmac.digest(self.by_kid.get(kid, _NOBODYS_SECRET), text, "sha256")


@dataclass(frozen=True)
class Signed:
    """A signature that is genuine and in time; its nonce has still to be claimed, and remembered until `expires_at`."""

    kid: str
    nonce: str
    expires_at: datetime


def parse_keys(text: str, variable: str) -> Keys:
    """Read `kid:secret[,kid:secret]`; ValueError is one sentence that names the variable and never the secret."""
    found: dict[str, bytes] = {}
    for entry in text.split(","):
        kid, colon, secret = entry.strip().partition(":")
        if not colon or not _KID.fullmatch(kid):
            raise ValueError(
                f"{variable} must be kid:secret[,kid:secret], each kid made of 1 to 32 letters, digits, '-' or '_'."
            )
        if not _SECRET.fullmatch(secret):
            raise ValueError(
                f"{variable}: the secret of key {kid!r} must be {MIN_SECRET} to 256 visible ASCII characters."
            )
        if kid in found:
            raise ValueError(f"{variable} names the key {kid!r} twice.")
        found[kid] = secret.encode()
    if len(found) > MAX_KEYS:
        raise ValueError(f"{variable} holds {len(found)} keys, at most {MAX_KEYS} are allowed.")
    return Keys(found)


def sign(
    keys: Keys,
    method: str,
    path: str,
    body: bytes,
    audience: Audience,
    *,
    now: datetime | None = None,
    nonce: str | None = None,
) -> dict[str, str]:
    """The headers that prove a request; `path` is percent-encoded as sent, with its query."""
    kid = keys.signing_kid
    timestamp = str(int((now or datetime.now(UTC)).timestamp()))
    nonce = nonce or secrets.token_urlsafe(18)
    mac = keys.mac(kid, _to_sign(audience, method, path, timestamp, nonce, body))
    return {
        KEY_HEADER: kid,
        TIMESTAMP_HEADER: timestamp,
        NONCE_HEADER: nonce,
        SIGNATURE_HEADER: f"v1={mac.hex()}",
        VERSION_HEADER: CONTRACT_VERSION,
    }


def check(
    keys: Keys,
    method: str,
    path: str,
    body: bytes,
    audience: Audience,
    headers: Mapping[str, str],
    *,
    now: datetime | None = None,
) -> Signed:
    """Everything about a signature but whether its nonce is fresh. Raises one of the SignatureRefused errors.

    `headers` must be looked up without regard to case (Starlette's and httpx's are). The signature is compared
    before anything is said about key or time, so that a stranger learns neither.
    """
    kid = headers.get(KEY_HEADER, "")
    timestamp = headers.get(TIMESTAMP_HEADER, "")
    nonce = headers.get(NONCE_HEADER, "")
    signature = headers.get(SIGNATURE_HEADER, "")
    forms = ((_KID, kid), (_TIMESTAMP, timestamp), (_NONCE, nonce), (_SIGNATURE, signature))
    if not all(form.fullmatch(value) for form, value in forms):
        raise SignatureMissing("a signature header is missing or malformed")

    expected = keys.mac(kid, _to_sign(audience, method, path, timestamp, nonce, body))
    genuine = hmac.compare_digest(f"v1={expected.hex()}", signature)
    if kid not in keys.by_kid:
        raise UnknownKey("the key id is not configured here")
    if not genuine:
        raise SignatureWrong("the signature does not match the request")
    signed_at = datetime.fromtimestamp(int(timestamp), UTC)
    if abs((now or datetime.now(UTC)) - signed_at) > WINDOW:
        raise SignatureExpired("the signature is outside its five minutes")
    return Signed(kid, nonce, signed_at + WINDOW)


async def verify(
    keys: Keys,
    method: str,
    path: str,
    body: bytes,
    audience: Audience,
    headers: Mapping[str, str],
    first_use: FirstUse,
    *,
    now: datetime | None = None,
) -> str:
    """`check`, then claim the nonce; returns the key id. Only genuine nonces are ever remembered."""
    signed = check(keys, method, path, body, audience, headers, now=now)
    if not await first_use(signed.nonce, signed.expires_at):
        raise SignatureReplayed("this request was already received")
    return signed.kid


def signed_path(scope: Mapping[str, Any]) -> str:
    """The path and query of an ASGI request exactly as they came over the wire, which is what was signed."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string") or b""
    return (raw.partition(b"?")[0] + (b"?" + query if query else b"")).decode("latin-1")


class MemoryNonces:
    """The nonces one process has seen, for a service without a database. Full of live ones, it refuses new ones."""

    def __init__(self, capacity: int = 200_000) -> None:
        self.capacity = capacity
        self._until: dict[str, datetime] = {}

    async def first_use(self, nonce: str, expires_at: datetime, *, now: datetime | None = None) -> bool:
        if nonce in self._until:
            return False
        if len(self._until) >= self.capacity:
            moment = now or datetime.now(UTC)
            self._until = {seen: until for seen, until in self._until.items() if until >= moment}
        if len(self._until) >= self.capacity:
            return False
        self._until[nonce] = expires_at
        return True


def _to_sign(audience: str, method: str, path: str, timestamp: str, nonce: str, body: bytes) -> bytes:
    digest = hashlib.sha256(body).hexdigest()
    return "\n".join(("mission-root-v1", audience, method.upper(), path, timestamp, nonce, digest)).encode()
