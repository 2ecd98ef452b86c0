"""Calls to the other side byte by byte, for what an honest client would never send; and what came back, as evidence."""

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel

from colony_client.client import CONNECT_TIMEOUT_S
from colony_client.errors import BadBody
from colony_client.signing import Audience, Keys, sign
from colony_client.wire import read_model
from colony_kit.evidence import said
from colony_kit.report import Failed

MOST_BYTES = 4 * 1024 * 1024
# Servers close what lies idle, many after five seconds: whoever sends at that very moment gets no answer, and would accuse them.
LIMITS = httpx.Limits(max_connections=100, keepalive_expiry=2)
Model = TypeVar("Model", bound=BaseModel)


@cache
def authorities() -> ssl.SSLContext:
    """Whom TLS trusts, read once: that takes longer than most requirements."""
    return httpx.create_ssl_context(trust_env=False)


@dataclass(frozen=True)
class Reply:
    """An answer, with the request it is for. status 0: the connection was closed without one."""

    asked: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def evidence(self) -> str:
        if self.status == 0:
            return f"{self.asked}; came back: {self.body.decode()}"
        return f"{self.asked}; came back: {self.status} {said(self.body)}".rstrip()

    @property
    def problem(self) -> dict[str, Any]:
        """The body as a problem document; empty when it is none."""
        if not self.headers.get("content-type", "").startswith("application/problem+json"):
            return {}
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def model(self, kind: type[Model], *statuses: int) -> Model:
        """The answer as a model. Raises Failed for another status, or for a body that is not what the contract says."""
        if self.status not in (statuses or (200,)):
            raise Failed(f"{self.evidence}; expected: {' or '.join(map(str, statuses or (200,)))}")
        try:
            return read_model(kind, self.body, unknown="ignore")
        except BadBody as bad:
            raise Failed(f"{self.evidence}; that is no {kind.__name__}: {bad}") from None


class Line:
    """One address, one key, one audience. Use it as `async with`."""

    def __init__(self, base_url: str, keys: Keys, audience: Audience, timeout_s: float) -> None:
        self.base_url, self.keys, self.audience, self.timeout_s = base_url.rstrip("/"), keys, audience, timeout_s
        self._http = httpx.AsyncClient(
            follow_redirects=False,
            trust_env=False,
            verify=authorities(),
            limits=LIMITS,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    def headers(
        self,
        method: str,
        path: str,
        body: bytes,
        *,
        keys: Keys | None = None,
        audience: Audience | None = None,
        now: datetime | None = None,
        nonce: str | None = None,
    ) -> dict[str, str]:
        return sign(keys or self.keys, method, path, body, audience or self.audience, now=now, nonce=nonce)

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        bearer: str | None = None,
        telling: str = "",
    ) -> Reply:
        """One exchange, signed rightly unless `headers` say otherwise. telling: what the request is, for the evidence."""
        given = dict(self.headers(method, path, body) if headers is None else headers)
        if body:
            given["Content-Type"] = "application/json"
        if bearer is not None:
            given["Authorization"] = f"Bearer {bearer}"
        asked = f"sent: {method} {path}" + (f" ({telling})" if telling else "")
        received = bytearray()
        timeout = httpx.Timeout(self.timeout_s, connect=CONNECT_TIMEOUT_S)
        try:
            async with asyncio.timeout(self.timeout_s):
                request = self._http.build_request(
                    method, self.base_url + path, content=body, headers=given, timeout=timeout
                )
                answer = await self._http.send(request, stream=True)
                try:
                    async for chunk in answer.aiter_bytes():
                        received += chunk
                        if len(received) > MOST_BYTES:
                            raise Failed(f"{asked}; came back: {answer.status_code} and more than {MOST_BYTES} bytes")
                finally:
                    await answer.aclose()
        except (TimeoutError, httpx.TimeoutException):
            return Reply(asked, 0, {}, f"no whole answer within {self.timeout_s:g} s".encode())
        except httpx.HTTPError as error:
            return Reply(asked, 0, {}, f"the connection broke ({type(error).__name__})".encode())
        return Reply(asked, answer.status_code, answer.headers, bytes(received))


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()
