"""Some paths of the public API are answered by another process: raw requests are handed to it, and its answers back.

Nothing is decided here but what may pass: a bounded body, listed headers, a bounded answer in time, no redirects. The
other process authenticates the bearer itself; it believes the client's address only with this process's proof beside it.
"""

import asyncio
import hmac
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import Problem
from app.http.bodies import read_body
from app.http.edge import on_problem, request_id
from app.http.limits import address_of, networks
from app.outbound import authorities
from app.telemetry import traceparent
from colony_client.signing import Keys

REQUEST_HEADERS = frozenset({
    "host", "authorization", "content-type", "accept", "idempotency-key", "if-match", "if-none-match", "user-agent", "tracestate",
})  # fmt: skip
ANSWER_HEADERS = frozenset({
    "content-type", "etag", "location", "link", "idempotent-replayed", "retry-after", "www-authenticate", "allow",
    "ratelimit", "ratelimit-policy", "cache-control", "content-security-policy",
})  # fmt: skip
CLIENT_HEADER, PROOF_HEADER = "x-mission-root-client", "x-mission-root-proof"
PROOF = re.compile(r"([A-Za-z0-9_-]{1,32})\.([0-9]{10,11})\.([0-9a-f]{64})")
PROOF_LIFE_S = 60
MAX_ANSWER = 4 * 1024 * 1024
ABSENT = "The process behind this path does not answer."
UNSURE = " Whether it changed something is not known: repeat it with the same Idempotency-Key."


@dataclass(frozen=True)
class Answer:
    status: int
    headers: httpx.Headers
    body: bytes


class Upstream:
    """The process behind some paths, as this one reaches it. Raises Problem upstream_unavailable."""

    def __init__(self, base_url: str, keys: Keys, *, timeout_s: float = 10.0) -> None:
        self.url, self.keys, self.timeout_s = httpx.URL(base_url), keys, timeout_s
        self.http = httpx.AsyncClient(
            timeout=httpx.Timeout(timeout_s, connect=2.0),
            verify=authorities(),
            trust_env=False,
            follow_redirects=False,
        )

    async def send(
        self,
        method: str,
        target: bytes,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        client: str = "",
        request_id: str | None = None,
    ) -> Answer:
        """One request and its whole answer. client is the address the request came from."""
        given = {
            **headers,
            "request-id": request_id or "",
            CLIENT_HEADER: client,
            PROOF_HEADER: prove(self.keys, client, request_id),
        }
        parent = traceparent()
        if parent:
            given["traceparent"] = parent
        try:
            url = self.url.copy_with(raw_path=target)
        except (ValueError, UnicodeError, httpx.InvalidURL):
            raise Problem("not_found", "There is no such path.") from None
        try:
            async with asyncio.timeout(self.timeout_s):
                raw = [(name.encode(), value.encode("latin-1")) for name, value in given.items()]
                request = self.http.build_request(method, url, headers=raw, content=body)
                answer = await self.http.send(request, stream=True)
                try:
                    return Answer(answer.status_code, answer.headers, await bounded(answer))
                finally:
                    await answer.aclose()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            raise Problem("upstream_unavailable", f"{ABSENT} Nothing was changed.", retry_after=2) from None
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError):
            unsure = "" if method in ("GET", "HEAD") else UNSURE
            raise Problem("upstream_unavailable", f"{ABSENT}{unsure}", retry_after=2) from None

    async def ready(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                return (await self.send("GET", b"/readyz", {})).status == 200
        except (Problem, TimeoutError):
            return False

    async def close(self) -> None:
        await self.http.aclose()


async def bounded(answer: httpx.Response) -> bytes:
    if 300 <= answer.status_code < 400:
        raise httpx.RemoteProtocolError("a redirect is not followed")
    parts, size = [], 0
    async for part in answer.aiter_bytes():
        size += len(part)
        if size > MAX_ANSWER:
            raise httpx.RemoteProtocolError("the answer exceeds its bound")
        parts.append(part)
    return b"".join(parts)


class Forward:
    """Hands requests under some paths to app.state.upstream instead of to this app's own routes."""

    def __init__(self, app: ASGIApp, paths: Sequence[str]) -> None:
        self.app, self.paths = app, tuple(paths)

    def takes(self, path: str) -> bool:
        return any(path == one or path.startswith(f"{one}/") for one in self.paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self.takes(scope["path"]):
            return await self.app(scope, receive, send)
        request = Request(scope, receive)
        try:
            answer = await self.forwarded(request)
        except Problem as refused:
            answer = await on_problem(request, refused)
        await answer(scope, receive, send)

    async def forwarded(self, request: Request) -> Response:
        if any(part in (".", "..") for part in request.scope["path"].split("/")):
            raise Problem("not_found", "There is no such path.")
        settings = request.app.state.settings
        body = await read_body(request, settings.max_body_bytes)
        target: bytes = request.scope.get("raw_path") or request.url.path.encode()
        target = target.partition(b"?")[0]
        if request.scope["query_string"]:
            target += b"?" + request.scope["query_string"]
        found = await request.app.state.upstream.send(
            request.method,
            target,
            {name: value for name, value in request.headers.items() if name in REQUEST_HEADERS},
            body,
            client=address_of(request, networks(settings.trusted_proxies)),
            request_id=request_id(request),
        )
        kept = {name: value for name, value in found.headers.items() if name in ANSWER_HEADERS}
        return Response(found.body, found.status, kept)


def prove(keys: Keys, client: str, request_id: str | None) -> str:
    kid, moment = keys.signing_kid, int(time.time())
    return f"{kid}.{moment}.{mac(keys, kid, moment, client, request_id or '')}"


def mac(keys: Keys, kid: str, moment: int, client: str, request_id: str) -> str:
    return keys.mac(kid, f"forwarded-v1\n{moment}\n{request_id}\n{client}".encode()).hex()


class Believe:
    """In the process behind: takes the client's address from the header when its proof is genuine and fresh."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            address = self.proved({k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]})
            if address:
                scope = {**scope, "client": (address, 0)}
        await self.app(scope, receive, send)

    def proved(self, headers: Mapping[str, Any]) -> str | None:
        address = headers.get(CLIENT_HEADER, "")
        proof = PROOF.fullmatch(headers.get(PROOF_HEADER, ""))
        if not proof or abs(time.time() - int(proof[2])) > PROOF_LIFE_S or proof[1] not in self.keys.by_kid:
            return None
        said = mac(self.keys, proof[1], int(proof[2]), address, headers.get("request-id", ""))
        return address if hmac.compare_digest(said, proof[3]) else None
