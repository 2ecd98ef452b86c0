"""One exchange with a target: what may be sent at all, what was not sent, what got no answer, and what was answered.

What an answer means is the business of each connector. What never came, or never left, means the same for all of them.
"""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from app import outbound
from app.writebacks.connectors import Ambiguous, BadPayload, NotApplied, Payload, Refused, decode

LARGEST_ANSWER = 1024 * 1024
NOTHING = object()  # where JSON was looked for and there is none; null is something
LONGEST = 500  # characters of an id, a cursor or a filter's value
KEY = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# What httpx raises before a single byte of the request has left.
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, outbound.Forbidden)


# --- what may be sent


def claimed_payload(claimed: bytes) -> Payload:
    try:
        return decode(claimed)
    except BadPayload as bad:
        raise Refused(bad.reason, None) from bad


def fit_key(idempotency_key: str) -> str:
    if not KEY.fullmatch(idempotency_key):
        raise Refused("The idempotency key must be 1 to 128 of A-Z a-z 0-9 . _ : -", None)
    return idempotency_key


def segment(text: str) -> str:
    """One path segment, whatever the text holds. Empty and dot segments would name another resource: refused."""
    try:
        if text not in ("", ".", "..") and len(text) <= LONGEST:
            return quote(text, safe="")
    except UnicodeEncodeError:
        pass  # a lone surrogate
    raise Refused(f"{text[:100]!r} cannot be an id.", None)


def parameter(text: str) -> str:
    """A value for a query, such as a cursor. Raises Refused for one that no address can carry."""
    lone_surrogate = any("\ud800" <= character <= "\udfff" for character in text)
    if len(text) > LONGEST or lone_surrogate:
        raise Refused(f"{text[:100]!r} cannot be asked for.", None)
    return text


# --- what got no answer, and what was answered


class NoAnswer(Exception):
    """No complete answer arrived; `sent` is False only when it is certain that no request left either."""

    def __init__(self, reason: str, *, sent: bool, late: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent
        self.code = "connector_timed_out" if late else "connector_broke_off" if sent else "connector_unreachable"

    def about_a_change(self) -> Ambiguous | NotApplied:
        """What it means when the request was to change something."""
        return Ambiguous(self.reason) if self.sent else NotApplied(self.reason, retryable=True)


@dataclass(frozen=True)
class Answer:
    """A complete answer. `document` is its body as the line reads it; `code` is for the connector to find in it."""

    status: int
    headers: httpx.Headers
    document: Any
    code: str | None = None

    @property
    def media_type(self) -> str:
        return str(self.headers.get("content-type", "")).partition(";")[0].strip().lower()


def json_in(body: bytes, *, distinct: bool = False) -> Any:
    """What a body says in JSON, or NOTHING. distinct: it is not JSON when a name stands twice in one object."""
    pairs = _distinct if distinct else None
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return NOTHING


def at(document: Any, where: str) -> Any:
    """What a JSON Pointer leads to, or NOTHING."""
    for part in where.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict) and name in document:
            document = document[name]
        elif isinstance(document, list) and re.fullmatch(r"0|[1-9][0-9]{0,6}", name) and int(name) < len(document):
            document = document[int(name)]
        else:
            return NOTHING
    return document


def seconds(retry_after: str | None) -> float | None:
    return min(float(retry_after), 3600.0) if retry_after and retry_after.isascii() and retry_after.isdigit() else None


class Line:
    """The way to one target over HTTP. Times are seconds; `total_s` bounds a whole exchange.

    called: the target's name in sentences. unreadable: how the sentence about an answer beyond its bound begins; without
    it such an answer counts as one that broke off. read: what a body becomes. The rest is as in `outbound.client`.
    """

    def __init__(
        self,
        called: str,
        *,
        allowed: frozenset[str],
        connect_s: float,
        total_s: float,
        idle: int,
        read: Callable[[bytes], Any],
        unreadable: str | None = None,
        max_bytes: int = LARGEST_ANSWER,
        headers: dict[str, str] | None = None,
        encoded: bool = False,
    ) -> None:
        self._called, self._unreadable, self._total_s, self._read = called, unreadable, total_s, read
        self._client = outbound.client(
            allowed=allowed,
            any_public=False,
            timeout_s=total_s,
            connect_s=connect_s,
            max_bytes=max_bytes,
            headers=headers,
            idle=idle,
            encoded=encoded,
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    async def exchange(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Answer:
        """One request and its whole, bounded answer. Raises NoAnswer, and Refused for an address that is none."""
        body = bytearray()
        try:
            async with (
                asyncio.timeout(self._total_s),
                self._client.stream(method, url, params=params, headers=headers, content=content) as response,
            ):
                async for part in response.aiter_raw():
                    body += part
        except TimeoutError as late:
            raise NoAnswer(f"{self._called} did not answer within {self._total_s:g} s.", sent=True, late=True) from late
        except httpx.InvalidURL as wrong:
            raise Refused(
                f"{self._called} cannot be asked this: the address would be too long, or none.", None
            ) from wrong
        except httpx.HTTPError as broken:
            sent = not isinstance(broken, UNSENT)
            raise NoAnswer(self._broken(broken, sent), sent=sent) from broken
        return Answer(response.status_code, response.headers, self._read(bytes(body)))

    def _broken(self, broken: httpx.HTTPError, sent: bool) -> str:
        if self._unreadable and isinstance(broken, outbound.TooLarge):
            return f"{self._unreadable}: {broken}."
        return f"{self._called} {'broke off' if sent else 'cannot be connected to'} ({type(broken).__name__})."


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found
