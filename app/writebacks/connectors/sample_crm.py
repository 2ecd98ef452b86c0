"""The connector for the sample CRM.

An answer counts as the CRM's own only when it has the CRM's shape. A bare 404 or 503 may come from anything between
here and there, after the request got through; as the outcome of a change it proves nothing and is `Ambiguous`.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

import httpx

from app import clock, outbound
from app.canonical import canonical
from app.writebacks.connectors import (
    Ambiguous,
    Applied,
    BadPayload,
    NotApplied,
    NotConfigured,
    Observed,
    Page,
    Payload,
    ReadFailed,
    RecordMissing,
    Refused,
    Stale,
    decode,
)

LARGEST_ANSWER = 1024 * 1024
KINDS = ("lead", "activity")
KEY = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# What httpx raises before a single byte of the request has left.
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, outbound.Forbidden)


class _NoAnswer(Exception):
    """No complete answer arrived; `sent` is False only when it is certain that no request left either."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


@dataclass(frozen=True)
class _Answer:
    """A complete answer; `document` is None unless it was a JSON object, `code` is set on the CRM's own refusals."""

    status: int
    document: dict[str, Any] | None
    code: str | None
    headers: httpx.Headers


class SampleCrmReader:
    """Reads records and receipts with the read token. Times are seconds; `total_s` bounds a whole exchange."""

    idle_connections = 10

    def __init__(
        self, base_url: str, token: str, *, name: str = "sample_crm", connect_s: float = 2.0, total_s: float = 10.0
    ) -> None:
        self.name = name
        address, host = _http_address(base_url)
        if not (token.isascii() and token.isprintable()):
            raise NotConfigured("The CRM's token holds characters that no header can carry.")
        self._total_s = total_s
        self._base_url = address
        self._client = outbound.client(
            allowed=frozenset({host}),
            any_public=False,
            timeout_s=total_s,
            connect_s=connect_s,
            max_bytes=LARGEST_ANSWER,
            headers={"Authorization": f"Bearer {token}"},
            idle=self.idle_connections,
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def read(self, kind: str, record_id: str) -> Observed:
        return _observed(await self._get(_record_path(kind, record_id)), kind, record_id)

    async def find(self, idempotency_key: str, payload: Payload | None = None) -> dict[str, Any] | None:
        try:
            receipt = await self._get(f"/receipts/{_segment(_key(idempotency_key))}")
        except _Absent:
            return None
        if receipt.get("idempotency_key") != idempotency_key:
            raise ReadFailed("The CRM answered with another receipt than the one asked for.")
        return receipt

    async def list(
        self, kind: str, limit: int = 50, cursor: str | None = None, filters: Mapping[str, str] | None = None
    ) -> Page:
        """`limit` is 1 to 200; the one filter is `lead_id`, for activities."""
        asked = {**(filters or {}), "limit": str(limit), **({"cursor": cursor} if cursor else {})}
        answer = await self._get(f"/records/{_segment(_kind(kind))}", asked)
        match answer:
            case {"items": [*items], "next_cursor": None | str() as following}:
                return Page(tuple(_observed(item, kind) for item in items), following)
        raise ReadFailed("The CRM's list has an unexpected shape.")

    async def _get(self, path: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        try:
            answer = await self._exchange("GET", path, params=params)
        except _NoAnswer as silent:
            raise ReadFailed(silent.reason) from silent
        if answer.status == 200 and answer.document is not None:
            return answer.document
        if answer.code == "receipt_not_found":
            raise _Absent
        if answer.code == "record_not_found":
            raise RecordMissing(_told(answer), answer.status)
        if answer.code and 400 <= answer.status < 500 and answer.status != 429:
            raise Refused(_told(answer), answer.status)
        raise ReadFailed(f"The CRM answered {answer.status}, which shows nothing.")

    async def _exchange(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> _Answer:
        """One request and its whole, bounded answer. Raises _NoAnswer."""
        body = bytearray()
        try:
            async with (
                asyncio.timeout(self._total_s),
                self._client.stream(
                    method, self._base_url + path, params=params, headers=headers, content=content
                ) as response,
            ):
                async for part in response.aiter_raw():
                    body += part
        except TimeoutError as late:
            raise _NoAnswer(f"The CRM did not answer within {self._total_s:g} s.", sent=True) from late
        except outbound.TooLarge as large:
            raise _NoAnswer(f"The CRM's answer cannot be read: {large}.", sent=True) from large
        except httpx.HTTPError as broken:
            sent = not isinstance(broken, UNSENT)
            reason = "broke off" if sent else "cannot be connected to"
            raise _NoAnswer(f"The CRM {reason} ({type(broken).__name__}).", sent=sent) from broken
        document = _json_object(bytes(body))
        return _Answer(response.status_code, document, _problem_code(response, document), response.headers)


class SampleCrmWriter(SampleCrmReader):
    """Changes records with the write token, and reads with it too."""

    # A fresh connection per change: a kept one that died meanwhile looks just like a request that was lost on the way.
    idle_connections = 0

    async def apply(self, claimed: bytes, idempotency_key: str) -> Applied:
        payload = _accepted(claimed, self.name)
        headers = {
            "Idempotency-Key": _key(idempotency_key),
            "If-Match": f'"v{payload.expected_version}"',
            "Content-Type": "application/json",
        }
        path, content = _record_path(payload.kind, payload.record_id), canonical({"changes": payload.changes})
        try:
            answer = await self._exchange("PATCH", path, headers=headers, content=content)
        except _NoAnswer as silent:
            if silent.sent:
                raise Ambiguous(silent.reason) from silent
            raise NotApplied(silent.reason, retryable=True) from silent
        return _outcome(answer, payload, idempotency_key)


class _Absent(Exception):
    """The CRM itself says that it holds no such receipt."""


def _accepted(claimed: bytes, name: str) -> Payload:
    try:
        payload = decode(claimed)
    except BadPayload as bad:
        raise Refused(bad.reason, None) from bad
    if payload.connector != name or payload.operation != "update":
        raise Refused(f"This connector cannot do {payload.operation!r} for {payload.connector!r}.", None)
    if not (payload.expected_version.isascii() and payload.expected_version.isdigit()):
        raise Refused("The expected version is not one of this CRM's.", None)
    return payload


def _outcome(answer: _Answer, payload: Payload, idempotency_key: str) -> Applied:
    if answer.status == 200:
        receipt = answer.document or {}
        shown = receipt.get("idempotency_key"), receipt.get("kind"), receipt.get("id")
        if shown == (idempotency_key, payload.kind, payload.record_id) and isinstance(receipt.get("version"), int):
            return Applied(receipt, answer.headers.get("idempotent-replayed") == "true")
        raise Ambiguous("The CRM answered 200 without the receipt of this change.")
    if answer.status == 412 and answer.code == "stale" and answer.document:
        try:
            current = _observed(answer.document.get("current"), payload.kind, payload.record_id)
        except ReadFailed as unreadable:
            raise Ambiguous(unreadable.reason) from unreadable
        raise Stale(_told(answer), current)
    if answer.code and answer.status in (429, 503):
        raise NotApplied(_told(answer), retryable=True, retry_after_s=_seconds(answer.headers.get("retry-after")))
    if answer.code and 400 <= answer.status < 500:
        raise Refused(_told(answer), answer.status)
    raise Ambiguous(f"The CRM answered {answer.status}, which settles nothing.")


def _observed(document: Any, kind: str, record_id: str | None = None) -> Observed:
    """A record document as an observation; it must be of the kind (and be the record) that was asked for."""
    match document:
        case {"kind": seen, "id": str(found), "version": int(version), "fields": dict(fields)} if (
            seen == kind and record_id in (None, found)
        ):
            return Observed(kind, found, fields, str(version), clock.now())
    raise ReadFailed("The CRM's record has an unexpected shape.")


def _problem_code(response: httpx.Response, document: dict[str, Any] | None) -> str | None:
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    match document:
        case {"status": response.status_code, "code": str(code)} if media_type == "application/problem+json":
            return code
    return None


def _told(answer: _Answer) -> str:
    """The CRM's own sentence, bounded: it is stored and shown."""
    detail = (answer.document or {}).get("detail")
    return f"The CRM answered {answer.status} {answer.code}: {str(detail)[:500]}"


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _seconds(retry_after: str | None) -> float | None:
    return min(float(retry_after), 3600.0) if retry_after and retry_after.isascii() and retry_after.isdigit() else None


def _record_path(kind: str, record_id: str) -> str:
    return f"/records/{_segment(_kind(kind))}/{_segment(record_id)}"


def _kind(kind: str) -> str:
    if kind not in KINDS:
        raise Refused(f"This CRM has no kind {kind!r}.", None)
    return kind


def _key(idempotency_key: str) -> str:
    if not KEY.fullmatch(idempotency_key):
        raise Refused("The idempotency key must be 1 to 128 of A-Z a-z 0-9 . _ : -", None)
    return idempotency_key


def _segment(text: str) -> str:
    """One path segment, whatever the text holds. Empty and dot segments would name another resource: refused."""
    try:
        if text not in ("", ".", ".."):
            return quote(text, safe="")
    except UnicodeEncodeError:
        pass  # a lone surrogate
    raise Refused(f"{text!r} cannot be an id.", None)


def _http_address(base_url: str) -> tuple[str, str]:
    """The address without a slash at its end, and `host:port`, which is all that may be called."""
    try:
        address = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError) as error:
        raise NotConfigured("CRM_BASE_URL is not a URL.") from error
    if address.scheme not in ("http", "https") or not address.host or not 0 <= (address.port or 0) < 65536:
        raise NotConfigured("CRM_BASE_URL must be an http or https address.")
    host = f"{address.host}:{address.port or outbound.PORTS[address.scheme]}"
    return str(address).rstrip("/"), host
