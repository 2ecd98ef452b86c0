"""The connector for the sample CRM.

An answer counts as the CRM's own only when it has the CRM's shape. A bare 404 or 503 may come from anything between
here and there, after the request got through; as the outcome of a change it proves nothing and is `Ambiguous`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx

from app import clock, outbound
from app.canonical import canonical
from app.writebacks.connectors import (
    Ambiguous,
    Applied,
    NotApplied,
    NotConfigured,
    Observed,
    Page,
    Payload,
    Reader,
    ReadFailed,
    RecordMissing,
    Refused,
    Stale,
)
from app.writebacks.connectors.wire import (
    Answer,
    Line,
    NoAnswer,
    claimed_payload,
    fit_key,
    json_in,
    parameter,
    seconds,
    segment,
)

KINDS = ("lead", "activity")


class SampleCrmReader(Reader):
    """Reads records and receipts with the read token. Times are seconds; `total_s` bounds a whole exchange."""

    idle_connections = 10

    def __init__(
        self, base_url: str, token: str, *, name: str = "sample_crm", connect_s: float = 2.0, total_s: float = 10.0
    ) -> None:
        self.name = name
        address, host = _http_address(base_url)
        if not (token.isascii() and token.isprintable()):
            raise NotConfigured("The CRM's token holds characters that no header can carry.")
        self._base_url = address
        self._line = Line(
            "The CRM",
            allowed=frozenset({host}),
            connect_s=connect_s,
            total_s=total_s,
            idle=self.idle_connections,
            headers={"Authorization": f"Bearer {token}"},
            read=_json_object,
            unreadable="The CRM's answer cannot be read",
        )

    async def aclose(self) -> None:
        await self._line.aclose()

    async def read(self, kind: str, record_id: str) -> Observed:
        return _observed(await self._get(_record_path(kind, record_id)), kind, record_id)

    async def find(self, idempotency_key: str, payload: Payload | None = None) -> dict[str, Any] | None:
        try:
            receipt = await self._get(f"/receipts/{segment(fit_key(idempotency_key))}")
        except _Absent:
            return None
        if receipt.get("idempotency_key") != idempotency_key:
            raise ReadFailed("The CRM answered with another receipt than the one asked for.")
        return receipt

    async def list(
        self, kind: str, limit: int = 50, cursor: str | None = None, filters: Mapping[str, str] | None = None
    ) -> Page:
        """`limit` is 1 to 200; the one filter is `lead_id`, for activities."""
        asked = {parameter(name): parameter(value) for name, value in (filters or {}).items()}
        asked |= {"limit": str(limit), **({"cursor": parameter(cursor)} if cursor else {})}
        answer = await self._get(f"/records/{segment(_kind(kind))}", asked)
        match answer:
            case {"items": [*items], "next_cursor": None | str() as following}:
                return Page(tuple(_observed(item, kind) for item in items), following)
        raise ReadFailed("The CRM's list has an unexpected shape.")

    async def _get(self, path: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        try:
            answer = await self._exchange("GET", path, params=params)
        except NoAnswer as silent:
            raise ReadFailed(silent.reason, silent.code) from silent
        if answer.status == 200 and answer.document is not None:
            found: dict[str, Any] = answer.document
            return found
        if (answer.status, answer.code) == (404, "receipt_not_found"):
            raise _Absent(_told(answer))
        if (answer.status, answer.code) == (404, "record_not_found"):
            raise RecordMissing(_told(answer), answer.status)
        if answer.code and 400 <= answer.status < 500 and answer.status != 429:
            raise Refused(_told(answer), answer.status)
        raise ReadFailed(f"The CRM answered {answer.status}, which shows nothing.")

    async def _exchange(self, method: str, path: str, **more: Any) -> Answer:
        """The CRM's answer, with the code of its refusal. Raises NoAnswer."""
        answer = await self._line.exchange(method, self._base_url + path, **more)
        return replace(answer, code=_problem_code(answer))


class SampleCrmWriter(SampleCrmReader):
    """Changes records with the write token, and reads with it too."""

    # A fresh connection per change: a kept one that died meanwhile looks just like a request that was lost on the way.
    idle_connections = 0

    async def apply(self, claimed: bytes, idempotency_key: str) -> Applied:
        payload = _accepted(claimed, self.name)
        headers = {
            "Idempotency-Key": fit_key(idempotency_key),
            "If-Match": f'"v{payload.expected_version}"',
            "Content-Type": "application/json",
        }
        path, content = _record_path(payload.kind, payload.record_id), canonical({"changes": payload.changes})
        try:
            answer = await self._exchange("PATCH", path, headers=headers, content=content)
        except NoAnswer as silent:
            raise silent.about_a_change() from silent
        return _outcome(answer, payload, idempotency_key)


class _Absent(ReadFailed):
    """The CRM itself says that it holds no such receipt; of a record that says nothing."""


def _accepted(claimed: bytes, name: str) -> Payload:
    payload = claimed_payload(claimed)
    if payload.connector != name or payload.operation != "update":
        raise Refused(f"This connector cannot do {payload.operation!r} for {payload.connector!r}.", None)
    if not (payload.expected_version.isascii() and payload.expected_version.isdigit()):
        raise Refused("The expected version is not one of this CRM's.", None)
    return payload


def _outcome(answer: Answer, payload: Payload, idempotency_key: str) -> Applied:
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
        raise NotApplied(_told(answer), retryable=True, retry_after_s=seconds(answer.headers.get("retry-after")))
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


def _problem_code(answer: Answer) -> str | None:
    match answer.document:
        case {"status": answer.status, "code": str(code)} if answer.media_type == "application/problem+json":
            return code
    return None


def _told(answer: Answer) -> str:
    """The CRM's own sentence, bounded: it is stored and shown."""
    detail = (answer.document or {}).get("detail")
    return f"The CRM answered {answer.status} {(answer.code or '')[:100]}: {str(detail)[:500]}"


def _json_object(body: bytes) -> dict[str, Any] | None:
    document = json_in(body)
    return document if isinstance(document, dict) else None


def _record_path(kind: str, record_id: str) -> str:
    return f"/records/{segment(_kind(kind))}/{segment(record_id)}"


def _kind(kind: str) -> str:
    if kind not in KINDS:
        raise Refused(f"This CRM has no kind {kind!r}.", None)
    return kind


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
