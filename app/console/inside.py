"""The API, asked from within: the console reads and writes through it and through nothing else.

A request goes to the same app, with the session's secret as its bearer, as if a program had sent it: authenticated, counted,
allowed and judged anew. So the console can do what its person can do over the API, and what that says is what it shows.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PASSED_ON = (b"host", b"x-forwarded-for", b"user-agent", b"traceparent", b"tracestate")


class Refused(Exception):
    """What the API would not do, as its problem document."""

    def __init__(self, document: dict[str, Any], headers: Mapping[str, str]) -> None:
        super().__init__(document.get("code", ""))
        self.document, self.headers = document, headers
        self.code: str = document.get("code", "internal")
        self.status: int = document.get("status", 500)


@dataclass(frozen=True)
class Answer:
    """A 2xx answer: its JSON, and the version to name in If-Match."""

    body: Any
    etag: str


class Inside:
    """One person's way to the API for the length of one request."""

    def __init__(self, app: ASGIApp, request: Request, secret: str) -> None:
        self.app, self.request, self.secret = app, request, secret

    async def get(self, path: str, **query: Any) -> Any:
        """The body of a GET. Raises Refused."""
        return (await self.answer("GET", path, query)).body

    async def try_get(self, path: str, **query: Any) -> Any | Refused:
        """The same, for a part of a page that the page can do without."""
        try:
            return await self.get(path, **query)
        except Refused as refused:
            return refused

    async def seen(self, path: str) -> Answer:
        """A resource with its version. Raises Refused."""
        return await self.answer("GET", path, {})

    async def post(
        self, path: str, body: Any = None, *, if_match: str = "", idempotency_key: str = "", method: str = "POST"
    ) -> Any:
        """What a verb answered. Raises Refused."""
        headers = {"if-match": if_match, "idempotency-key": idempotency_key, "content-type": "application/json"}
        return (await self.answer(method, path, {}, json.dumps({} if body is None else body).encode(), headers)).body

    async def try_post(self, path: str, body: Any = None) -> Any | Refused:
        """The same, for what a page can do without."""
        try:
            return await self.post(path, body)
        except Refused as refused:
            return refused

    async def answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any],
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        said, parts = dict[str, Any](), list[bytes]()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                said["status"] = message["status"]
                said["headers"] = {name.decode().lower(): value.decode("latin-1") for name, value in message["headers"]}
            elif message["type"] == "http.response.body":
                parts.append(message.get("body", b""))

        scope = self.scope(method, path, query, {"accept": "application/json", **(headers or {})})
        await self.app(scope, once(body), send)
        document = read(b"".join(parts))
        if said["status"] >= 400:
            raise Refused(document if isinstance(document, dict) else {"status": said["status"]}, said["headers"])
        return Answer(document, said["headers"].get("etag", ""))

    async def hand_on(
        self, path: str, query: Mapping[str, Any], headers: Mapping[str, str], receive: Receive, send: Send
    ) -> None:
        """The API's own answer as it comes, for streams and files."""
        await self.app(self.scope("GET", path, query, headers), receive, send)

    def scope(self, method: str, path: str, query: Mapping[str, Any], headers: Mapping[str, str]) -> Scope:
        outer = self.request.scope
        asked = {name: value for name, value in query.items() if value not in (None, "")}
        given = [(name, value) for name, value in outer["headers"] if name in PASSED_ON]
        given += [(name.encode(), value.encode()) for name, value in headers.items() if value]
        given += [
            (b"authorization", f"Bearer {self.secret}".encode()),
            (b"request-id", outer.get("state", {}).get("request_id", "").encode()),
        ]
        return {
            "type": "http",
            "asgi": outer["asgi"],
            "http_version": "1.1",
            "method": method,
            "scheme": outer["scheme"],
            "path": path,
            "raw_path": path.encode(),
            "query_string": urlencode(asked, doseq=True).encode(),
            "root_path": "",
            "headers": given,
            "client": outer.get("client"),
            "server": outer.get("server"),
            "state": {},
        }


def once(body: bytes) -> Receive:
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def read(data: bytes) -> Any:
    try:
        return json.loads(data) if data else None
    except ValueError:
        return None
