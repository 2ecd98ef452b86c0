"""A JWT in place of an API key: exchanged once for a short session, whose secret then stands for it in this process.

Only the JWT's SHA-256 is kept, with the session's secret, until the session ends. Whether the session is still good is
asked of the database at every request, like with any key.
"""

import asyncio
import contextlib
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fastapi import Request

from app.canonical import sha256
from app.clock import now
from app.errors import KINDS, Problem
from app.http.edge import request_id
from app.http.forward import Upstream
from app.http.limits import address_of, networks
from app.identity.oidc import MAX_TOKEN, looks_like_jwt

MOST = 10_000
REFUSED_S = 5.0  # how long a refusal is remembered, so that a flood of one bad token stays here


@dataclass(frozen=True)
class Granted:
    """A session that stands for a token."""

    secret: str = field(repr=False)
    expires_at: datetime


def digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogateescape"))


Ask = Callable[[Request, str], Awaitable[Granted | None]]


class Exchange:
    """What this process knows of tokens it was shown. ask does the exchange; None says that the token proves nothing."""

    def __init__(self, ask: Ask, most: int = MOST) -> None:
        self.ask, self.most = ask, most
        self.granted: OrderedDict[bytes, Granted] = OrderedDict()
        self.refused: OrderedDict[bytes, float] = OrderedDict()
        self.asking: dict[bytes, asyncio.Lock] = {}

    async def __call__(self, request: Request, secret: str) -> str | None:
        """The secret to look up: of the token's session, the same for what is no token, None for a bad token."""
        if not looks_like_jwt(secret):
            return secret
        if len(secret) > MAX_TOKEN:
            return None
        name = digest(secret)
        lock = self.asking.setdefault(name, asyncio.Lock())
        try:
            async with lock:
                known = self.known(name)
                if known is None and not self.was_refused(name):
                    known = await self.ask(request, secret)
                    self.remember(name, known)
        finally:
            if not lock.locked():
                self.asking.pop(name, None)
        return known.secret if known else None

    def remembered(self, secret: str) -> str:
        """The session's secret for a token that was exchanged here before; anything else as it is."""
        if not looks_like_jwt(secret):
            return secret
        found = self.known(digest(secret))
        return found.secret if found else secret

    def known(self, name: bytes) -> Granted | None:
        found = self.granted.get(name)
        if found is not None and found.expires_at <= now():
            del self.granted[name]
            return None
        if found is not None:
            self.granted.move_to_end(name)
        return found

    def was_refused(self, name: bytes) -> bool:
        return self.refused.get(name, 0.0) > time.monotonic()

    def remember(self, name: bytes, found: Granted | None) -> None:
        kept: OrderedDict[bytes, Any] = self.refused if found is None else self.granted
        kept[name] = time.monotonic() + REFUSED_S if found is None else found
        while len(kept) > self.most:
            kept.popitem(last=False)


def through(upstream: Upstream) -> Ask:
    """Asking the registrar, which alone can judge a token and open a session."""

    async def ask(request: Request, token: str) -> Granted | None:
        answer = await upstream.send(
            "POST",
            b"/v1/sessions",
            {"authorization": f"Bearer {token}", "host": "registrar"},
            client=address_of(request, networks(request.app.state.settings.trusted_proxies)),
            request_id=request_id(request),
        )
        return read_answer(answer.status, answer.headers.get("retry-after"), answer.body)

    return ask


def read_answer(status: int, retry_after: str | None, body: bytes) -> Granted | None:
    if status in (401, 403):
        return None
    code = None
    with contextlib.suppress(ValueError, KeyError, TypeError):
        said = json.loads(body)
        if status == 201:
            return Granted(said["secret"], datetime.fromisoformat(said["expires_at"]))
        code = said["code"]
    wait = int(retry_after) if retry_after and retry_after.isdigit() else 2
    raise Problem(code if code in KINDS else "upstream_unavailable", "The token could not be judged.", retry_after=wait)
