"""Mission tokens: fifteen minutes of permission for one attempt at one mission, through one door.

The root makes and checks them with its own keys; the colony carries them without looking inside. The form is
`mt1.<kid>.<claims>.<mac>`, claims and mac in unpadded base64url, the mac HMAC-SHA256 over everything before it.
"""

import base64
import binascii
import hmac
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from colony_client.errors import (
    TokenExpired,
    TokenMalformed,
    TokenWrong,
    TokenWrongAttempt,
    TokenWrongAudience,
    TokenWrongMission,
)
from colony_client.signing import Keys

TTL_S = 900
MAX_TOKEN = 2_048

TokenAudience = Literal["callback", "gateway"]

_PURPOSE = b"mission-token-v1\n"  # the same keys sign cursors: neither may pass for the other


@dataclass(frozen=True)
class MissionToken:
    """What a genuine token says."""

    mission: UUID
    tenant: UUID
    attempt: int
    fence: int
    audience: TokenAudience
    expires_at: datetime


def issue(
    keys: Keys,
    *,
    mission: UUID,
    tenant: UUID,
    attempt: int,
    fence: int,
    audience: TokenAudience,
    ttl_s: int = TTL_S,
    now: datetime | None = None,
) -> str:
    """A token that ends `ttl_s` seconds from now, at most fifteen minutes."""
    if not 0 < ttl_s <= TTL_S:
        raise ValueError(f"a mission token lives 1 to {TTL_S} seconds, not {ttl_s}")
    expires = int((now or datetime.now(UTC)).timestamp()) + ttl_s
    claims = {"m": str(mission), "t": str(tenant), "n": attempt, "f": fence, "a": audience, "e": expires}
    kid = keys.signing_kid
    head = f"mt1.{kid}.{_to_text(json.dumps(claims, separators=(',', ':')).encode())}"
    return f"{head}.{_to_text(keys.mac(kid, _PURPOSE + head.encode()))}"


def verify(
    keys: Keys,
    token: str,
    *,
    audience: TokenAudience,
    mission: UUID,
    tenant: UUID | None = None,
    attempt: int | None = None,
    fence: int | None = None,
    now: datetime | None = None,
) -> MissionToken:
    """The claims of a token that is ours, alive, for this door and this mission; else one of the TokenRefused errors.

    `tenant`, `attempt` and `fence` are compared when they are known by now.
    """
    said = read(keys, token, audience=audience, now=now)
    if said.mission != mission or tenant not in (None, said.tenant):
        raise TokenWrongMission("the token belongs to another mission")
    if attempt not in (None, said.attempt) or fence not in (None, said.fence):
        raise TokenWrongAttempt("the token belongs to another attempt")
    return said


def read(keys: Keys, token: str, *, audience: TokenAudience, now: datetime | None = None) -> MissionToken:
    """Like `verify`, for a door that learns the mission from the token itself (the model gateway)."""
    parts = token.split(".") if len(token) <= MAX_TOKEN and token.isascii() else []
    if len(parts) != 4 or parts[0] != "mt1":
        raise TokenMalformed("not a mission token")
    head, _, mac = token.rpartition(".")
    kid = parts[1]
    genuine = hmac.compare_digest(_to_text(keys.mac(kid, _PURPOSE + head.encode())), mac)
    if not genuine or kid not in keys.by_kid:
        raise TokenWrong("the token is not signed by a current key")

    claims = json.loads(_to_bytes(parts[2]))
    said = MissionToken(
        mission=UUID(claims["m"]),
        tenant=UUID(claims["t"]),
        attempt=claims["n"],
        fence=claims["f"],
        audience=claims["a"],
        expires_at=datetime.fromtimestamp(claims["e"], UTC),
    )
    if said.audience != audience:
        raise TokenWrongAudience(f"the token is not for the {audience}")
    if said.expires_at <= (now or datetime.now(UTC)):
        raise TokenExpired("the token has expired")
    return said


def _to_text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _to_bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise TokenMalformed("not a mission token") from None
