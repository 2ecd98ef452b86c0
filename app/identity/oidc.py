"""Judging a JWT of the identity provider: which algorithm, whose key, for whom, from when until when; nothing is assumed.

Keys come from the provider's JWKS document, found through its discovery document unless it is configured, kept for an hour
and fetched again when a token names an unknown key, but never more often than every half minute.
"""

import asyncio
import json
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import structlog
from jwt.exceptions import PyJWTError

from app import outbound
from app.errors import Problem
from app.settings import Misconfigured, Settings

log = structlog.get_logger("oidc")

MAX_TOKEN = 8192
SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
LEEWAY_S = 30
KEEP_S, STALE_S, AGAIN_S = 3600.0, 24 * 3600.0, 30.0
FETCH_S, MAX_DOCUMENT, MAX_KEYS = 5.0, 256 * 1024, 50
KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
REFUSED = "The token is not acceptable: unknown, expired, or not meant for this service."


@dataclass(frozen=True)
class Verified:
    """What a genuine token says."""

    issuer: str
    subject: str
    issued_at: datetime
    expires_at: datetime


class Unacceptable(Exception):
    """A token that proves nothing. The reason is for the log; whoever presents it is not told."""


def looks_like_jwt(secret: str) -> bool:
    return secret.count(".") == 2


class Verifier:
    """One identity provider."""

    def __init__(self, settings: Settings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        if settings.oidc_issuer is None or settings.oidc_audience is None:
            raise Misconfigured("OIDC_ISSUER and OIDC_AUDIENCE belong together: set both, or neither.")
        if settings.environment != "local" and urlsplit(settings.oidc_issuer).scheme != "https":
            raise Misconfigured("OIDC_ISSUER must begin with https:// outside ENVIRONMENT=local.")
        self.issuer, self.audience = settings.oidc_issuer, settings.oidc_audience
        self.algorithms = settings.oidc_algorithm_list()
        self.types = frozenset(one.strip().lower() for one in settings.oidc_token_types.split(","))
        self.parties = frozenset(filter(None, (one.strip() for one in settings.oidc_authorized_parties.split(","))))
        self.jwks = Jwks(settings, transport)

    async def verify(self, token: str) -> Verified:
        """Raises Unacceptable, or Problem upstream_unavailable when the provider's keys cannot be had."""
        try:
            return await self._verify(token)
        except (PyJWTError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise Unacceptable(type(error).__name__) from None

    async def _verify(self, token: str) -> Verified:
        if len(token) > MAX_TOKEN or not SHAPE.fullmatch(token):
            raise Unacceptable("not a compact JWS")
        header = jwt.get_unverified_header(token)
        algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        if algorithm not in self.algorithms:
            raise Unacceptable("algorithm")
        if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in self.types:
            raise Unacceptable("typ")
        if "crit" in header or not isinstance(kid, str) or not 1 <= len(kid) <= 200:
            raise Unacceptable("kid or crit")
        key = await self.jwks.key(kid)
        if key is None or not fits(key, algorithm):
            raise Unacceptable("no such key")
        claims = jwt.decode(
            token,
            jwt.PyJWK(key, algorithm),
            algorithms=[algorithm],
            audience=self.audience,
            issuer=self.issuer,
            leeway=LEEWAY_S,
            options={"require": ["exp", "iat", "iss", "aud", "sub"]},
        )
        return self.read(claims)

    def read(self, claims: dict[str, Any]) -> Verified:
        subject, party = claims["sub"], claims.get("azp", claims.get("client_id"))
        if not isinstance(subject, str) or not 1 <= len(subject) <= 255 or "\x00" in subject:
            raise Unacceptable("sub")
        if self.parties and party not in self.parties:
            raise Unacceptable("azp")
        return Verified(self.issuer, subject, moment(claims["iat"]), moment(claims["exp"]))


def moment(seconds: Any) -> datetime:
    try:
        return datetime.fromtimestamp(float(seconds), UTC)
    except (OverflowError, OSError):
        raise Unacceptable("a time beyond all time") from None


def fits(key: dict[str, Any], algorithm: str) -> bool:
    """Whether a published key is one to verify signatures of this algorithm with; never a shared secret."""
    return (
        key.get("kty") == KEY_TYPES.get(algorithm[:2])
        and key.get("use", "sig") == "sig"
        and key.get("alg", algorithm) == algorithm
        and "verify" in key.get("key_ops", ["verify"])
    )


class Jwks:
    """The provider's published keys, as long as they may be believed."""

    def __init__(self, settings: Settings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        assert settings.oidc_issuer is not None
        self.issuer, self.url = settings.oidc_issuer, settings.oidc_jwks_url
        # The deployment itself names the provider, so it may stand in a private network; nothing else may be called.
        self.allowed = settings.outbound_hosts() | {place(self.issuer)} | ({place(self.url)} if self.url else set())
        self.transport = transport
        self.keys: dict[str, dict[str, Any]] = {}
        self.fetched_at = self.tried_at = float("-inf")
        self.lock = asyncio.Lock()

    async def key(self, kid: str) -> dict[str, Any] | None:
        async with self.lock:  # one asks for all who wait
            now = time.monotonic()
            due = now - self.fetched_at > KEEP_S or kid not in self.keys
            if due and now - self.tried_at > AGAIN_S:
                self.tried_at = now
                try:
                    self.keys = await self.fetch()
                    self.fetched_at = time.monotonic()
                except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, TimeoutError) as error:
                    log.warning("keys of the identity provider cannot be read", error=type(error).__name__)
            if now - self.fetched_at > STALE_S:
                self.keys = {}
            if kid not in self.keys and self.tried_at > self.fetched_at:
                raise Problem(
                    "upstream_unavailable", "The identity provider's keys cannot be read.", retry_after=int(AGAIN_S)
                )
            return self.keys.get(kid)

    async def fetch(self) -> dict[str, dict[str, Any]]:
        async with asyncio.timeout(2 * FETCH_S), self.client() as http:
            url = self.url
            if url is None:
                said = await read(http, f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
                if said["issuer"] != self.issuer:
                    raise ValueError("the discovery document is another issuer's")
                url = str(said["jwks_uri"])
            found = (await read(http, url))["keys"]
        if not isinstance(found, list) or len(found) > MAX_KEYS:
            raise ValueError("not a list of keys")
        return {one["kid"]: one for one in found if isinstance(one, dict) and isinstance(one.get("kid"), str)}

    def client(self) -> httpx.AsyncClient:
        if self.transport is not None:
            return httpx.AsyncClient(transport=self.transport)
        return outbound.client(
            allowed=frozenset(self.allowed), any_public=True, timeout_s=FETCH_S, connect_s=2.0, max_bytes=MAX_DOCUMENT
        )


def place(url: str) -> str:
    parts = urlsplit(url)
    return f"{(parts.hostname or '').lower()}:{parts.port or outbound.PORTS[parts.scheme]}"


async def read(http: httpx.AsyncClient, url: str) -> Any:
    answer = await http.get(url, headers={"Accept": "application/json"})
    if answer.status_code != 200:
        raise httpx.HTTPStatusError("not 200", request=answer.request, response=answer)
    return json.loads(answer.content)
