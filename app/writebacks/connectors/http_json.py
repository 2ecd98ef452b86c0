"""The connector for any JSON interface over HTTP, declared instead of programmed: see `definitions.http_json`.

The declaration says where things are; what an answer proves is decided here, with the same suspicion as for the sample
CRM. Only what has the declared shape counts as the target's own word. A change whose fate is not proved is `Ambiguous`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import quote

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
    verify,
)
from app.writebacks.connectors.definitions.http_json import (
    PLACES,
    Find,
    HttpJson,
    KindOfRecord,
    Listing,
    Operation,
    Sign,
)
from app.writebacks.connectors.wire import (
    NOTHING,
    Answer,
    Line,
    NoAnswer,
    at,
    claimed_payload,
    fit_key,
    json_in,
    parameter,
    seconds,
    segment,
)


class HttpJsonReader(Reader):
    """Reads records and receipts with the read credential. `total_s` bounds a whole exchange."""

    idle_connections = 10

    def __init__(self, name: str, definition: HttpJson, credential: str, *, allowed: frozenset[str]) -> None:
        self.name = name
        self._said = definition
        if not (credential.isascii() and credential.isprintable()):
            raise NotConfigured(f"The credential of {name} holds characters that no header can carry.")
        problem = outbound.unfit(definition.base_url, allowed, any_public=False)
        if problem is not None:
            raise NotConfigured(f"The address of {name} {problem}.")
        scheme = f"{definition.auth.scheme} " if definition.auth.scheme else ""
        self._line = Line(
            name,
            allowed=allowed,
            connect_s=definition.connect_s,
            total_s=definition.total_s,
            idle=self.idle_connections,
            headers={
                **definition.headers,
                "Accept": "application/json",
                definition.auth.header: f"{scheme}{credential}",
            },
            read=partial(json_in, distinct=True),
            unreadable=f"The answer of {name} cannot be read",
        )

    async def aclose(self) -> None:
        await self._line.aclose()

    async def read(self, kind: str, record_id: str) -> Observed:
        said = self._kind(kind)
        answer = await self._get(said.read.path, {"id": record_id})
        if _is_one_of(answer, said.read.not_found):
            raise RecordMissing(f"{self.name} shows this account no {kind} {record_id[:200]}.", 404)
        self._refuse(answer)
        return self._observed(kind, answer.document, answer.headers, record_id)

    async def find(self, idempotency_key: str, payload: Payload | None = None) -> dict[str, Any] | None:
        if payload is None:
            return await self._receipt(self._only_find(), fit_key(idempotency_key), "")
        operation = self._operation(payload)
        if isinstance(operation.find, Find):
            return await self._receipt(operation.find, fit_key(idempotency_key), payload.record_id)
        observed = await self.read(payload.kind, payload.record_id)
        if observed.version == payload.expected_version:
            return None  # the guard lets a change through for this version alone, so none was
        if verify(payload, observed).matches:
            return {"found_by": "read_back", "version": observed.version}
        raise ReadFailed("The record has another version and other values: a person has to look what happened.")

    def _only_find(self) -> Find:
        """How receipts are found, when it is the same for everything."""
        ways = [operation.find for kind in self._said.kinds.values() for operation in kind.operations.values()]
        first = ways[0] if ways else None
        if not isinstance(first, Find) or "{id}" in first.path or any(way != first for way in ways):
            raise ReadFailed(f"What became of a change at {self.name} can only be told with what it changes.")
        return first

    async def _receipt(self, find: Find, key: str, record_id: str) -> dict[str, Any] | None:
        answer = await self._get(find.path, {"key": key, "id": record_id})
        if _is_one_of(answer, [find.not_found]):
            return None
        self._refuse(answer)
        if at(answer.document, find.key) != key or not isinstance(answer.document, dict):
            raise ReadFailed(f"{self.name} answered with another receipt than the one asked for.")
        return answer.document

    async def list(
        self, kind: str, limit: int = 50, cursor: str | None = None, filters: Mapping[str, str] | None = None
    ) -> Page:
        said = self._kind(kind)
        if said.list is None:
            raise Refused(f"{self.name} cannot list {kind}.", None)
        asked: dict[str, str] = {}
        if said.list.limit:
            asked[said.list.limit] = str(limit)
        if cursor:
            if not said.list.cursor:
                raise Refused(f"{self.name} lists {kind} without cursors.", None)
            asked[said.list.cursor] = parameter(cursor)
        for name, value in (filters or {}).items():
            if name not in said.list.filters:
                raise Refused(f"{kind} cannot be filtered by {name!r}.", None)
            asked[said.list.filters[name]] = parameter(value)
        answer = await self._get(said.list.path, {}, asked)
        self._refuse(answer)
        rows = at(answer.document, said.list.items)
        if not isinstance(rows, list):
            raise ReadFailed(f"The list of {self.name} has an unexpected shape.")
        items = tuple(self._item(kind, said, said.list, row) for row in rows[:limit])
        following = at(answer.document, said.list.next) if said.list.next else None
        return Page(items, following if isinstance(following, str) and following and said.list.cursor else None)

    def _item(self, kind: str, said: KindOfRecord, listing: Listing, row: Any) -> Observed:
        id, fields = at(row, listing.id), at(row, said.read.fields if listing.fields is None else listing.fields)
        version = _version(at(row, listing.version), said.read.version.type)
        if not isinstance(id, str | int) or isinstance(id, bool) or not isinstance(fields, dict) or version is None:
            raise ReadFailed(f"A record in the list of {self.name} has an unexpected shape.")
        return Observed(kind, str(id), _renamed(said, fields), version, clock.now())

    def _observed(self, kind: str, document: Any, headers: Mapping[str, str] | None, record_id: str) -> Observed:
        """A record document as an observation of the record that was asked for."""
        said = self._kind(kind)
        fields, where = at(document, said.read.fields), said.read.version
        raw = (
            (headers.get(where.header) if headers is not None else None)
            if where.header
            else at(document, where.pointer or "")
        )
        version = _version(raw, where.type)
        if said.read.id is not None:
            shown = at(document, said.read.id)
            if isinstance(shown, bool) or not isinstance(shown, str | int) or str(shown) != record_id:
                raise ReadFailed(f"{self.name} answered with another record than the one asked for.")
        if not isinstance(fields, dict) or version is None:
            raise ReadFailed(f"The record of {self.name} has an unexpected shape.")
        return Observed(kind, record_id, _renamed(said, fields), version, clock.now())

    def _kind(self, kind: str) -> KindOfRecord:
        if kind not in self._said.kinds:
            raise Refused(f"{self.name} has no kind {kind[:100]!r}.", None)
        return self._said.kinds[kind]

    def _operation(self, payload: Payload) -> Operation:
        found = self._kind(payload.kind).operations.get(payload.operation)
        if found is None or payload.connector != self.name:
            raise Refused(f"This connector cannot do {payload.operation[:100]!r} for {payload.connector!r}.", None)
        return found

    def _refuse(self, answer: Answer) -> None:
        """Raises for every answer to a question that is not 200 with JSON."""
        if answer.status == 200 and answer.document is not NOTHING:
            return
        if answer.code and 400 <= answer.status < 500 and answer.status not in (408, 425, 429):
            raise Refused(self._told(answer), answer.status)
        raise ReadFailed(f"{self.name} answered {answer.status}, which shows nothing.")

    async def _get(self, path: str, values: Mapping[str, str], params: Mapping[str, str] | None = None) -> Answer:
        try:
            return await self._exchange("GET", path, values, params=params)
        except NoAnswer as silent:
            raise ReadFailed(silent.reason, silent.code) from silent

    async def _exchange(
        self,
        method: str,
        path: str,
        values: Mapping[str, str],
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Answer:
        """The target's answer, with the code of its refusal. Raises NoAnswer."""
        url = self._said.base_url + PLACES.sub(lambda found: segment(values[found[1]]), path)
        if params:
            query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in params.items())
            url += ("&" if "?" in url else "?") + query
        answer = await self._line.exchange(method, url, headers=headers, content=content)
        return replace(answer, code=self._code(answer))

    def _code(self, answer: Answer) -> str | None:
        """The code of a refusal, when the answer is one of the target's own."""
        said = self._said.refusals
        if said is None or answer.status < 400 or answer.document is NOTHING:
            return None
        code = at(answer.document, said.code)
        status = at(answer.document, said.status) if said.status else answer.status
        if answer.media_type != said.media_type or status != answer.status or isinstance(status, bool):
            return None
        return code if isinstance(code, str) and code else None

    def _told(self, answer: Answer) -> str:
        """The target's own sentence, bounded: it is stored and shown."""
        said = self._said.refusals
        detail = at(answer.document, said.detail) if said and said.detail else NOTHING
        more = f": {detail[:500]}" if isinstance(detail, str) else "."
        return f"{self.name} answered {answer.status} {(answer.code or '')[:100]}{more}"


class HttpJsonWriter(HttpJsonReader):
    """Changes records with the write credential, and reads with it too."""

    # A fresh connection per change: a kept one that died meanwhile looks just like a request that was lost on the way.
    idle_connections = 0

    async def apply(self, claimed: bytes, idempotency_key: str) -> Applied:
        payload = claimed_payload(claimed)
        operation, key = self._operation(payload), fit_key(idempotency_key)
        headers, content = self._request(operation, payload, key)
        try:
            answer = await self._exchange(
                operation.method, operation.path, {"id": payload.record_id}, headers=headers, content=content
            )
        except NoAnswer as silent:
            raise silent.about_a_change() from silent
        return await self._outcome(operation, answer, payload, key)

    def _request(self, operation: Operation, payload: Payload, key: str) -> tuple[dict[str, str], bytes]:
        kind = self._kind(payload.kind)
        refused = [
            name for name in payload.changes if operation.writable is not None and name not in operation.writable
        ]
        if refused:
            raise Refused(f"{refused[0][:100]!r} cannot be changed here.", None)
        changes = {kind.rename.get(name, name): value for name, value in payload.changes.items()}
        if len(changes) < len(payload.changes):
            raise Refused("Two of the changes are of one field.", None)
        version = _sendable(payload.expected_version, kind.read.version.type)
        headers = {"Content-Type": "application/json"}
        if operation.version and operation.version.header:
            headers[operation.version.header] = operation.version.format.replace("{version}", str(version))
        if operation.idempotency and operation.idempotency.header:
            headers[operation.idempotency.header] = key
        values = {"{changes}": changes, "{id}": payload.record_id, "{version}": version, "{key}": key}
        return headers, canonical(_filled(operation.body, values))

    async def _outcome(self, operation: Operation, answer: Answer, payload: Payload, key: str) -> Applied:
        if answer.status in operation.success:
            replayed = operation.replayed
            again = replayed is not None and answer.headers.get(replayed.header) == replayed.value
            return Applied(self._proof(operation, answer, payload, key), again)
        if answer.code is None:
            raise Ambiguous(f"{self.name} answered {answer.status}, which settles nothing.")
        if _is_one_of(answer, operation.stale):
            raise await self._stale(operation, answer, payload)
        if answer.status in operation.not_applied:
            wait = answer.headers.get("retry-after", "")
            wait_s = seconds(wait) if len(wait) <= 6 else None  # a wait of more digits is no advice
            raise NotApplied(self._told(answer), retryable=True, retry_after_s=wait_s)
        # 408 says of itself that the request did not come through whole, which is not to say that nothing did
        if 400 <= answer.status < 500 and answer.status not in (408, 425, 429):
            raise Refused(self._told(answer), answer.status)
        raise Ambiguous(f"{self.name} answered {answer.status}, which settles nothing.")

    def _proof(self, operation: Operation, answer: Answer, payload: Payload, key: str) -> dict[str, Any]:
        for where, wanted in operation.receipt.items():
            found = at(answer.document, where) if answer.document is not NOTHING else NOTHING
            if not _says(found, {"{key}": key, "{id}": payload.record_id}.get(str(wanted), wanted)):
                raise Ambiguous(f"{self.name} answered {answer.status} without the receipt of this change.")
        if isinstance(answer.document, dict) and operation.receipt:
            return answer.document
        return {"status": answer.status}

    async def _stale(self, operation: Operation, answer: Answer, payload: Payload) -> Exception:
        """Stale, with the record as it is now; or Ambiguous, when the record does not bear the answer out."""
        try:
            if operation.current is not None:
                current = self._observed(payload.kind, at(answer.document, operation.current), None, payload.record_id)
            else:
                current = await self.read(payload.kind, payload.record_id)
        except RecordMissing as gone:
            return gone
        except (ReadFailed, Refused) as blind:
            return Ambiguous(blind.reason)
        if current.version == payload.expected_version:
            return Ambiguous(f"{self.name} says that the record moved on, and shows it at the same version.")
        if not isinstance(operation.find, Find) and verify(payload, current).matches:
            return Ambiguous("The record moved on to just what is approved: an earlier call may have arrived.")
        return Stale(self._told(answer), current)


def _is_one_of(answer: Answer, signs: list[Sign]) -> bool:
    return answer.code is not None and any(
        sign.status == answer.status and sign.code in (None, answer.code) for sign in signs
    )


# --- values


def _says(found: Any, wanted: str | int | bool) -> bool:
    if wanted == "{integer}":
        return isinstance(found, int) and not isinstance(found, bool)
    if wanted == "{string}":
        return isinstance(found, str)
    return bool(found == wanted) and isinstance(found, bool) == isinstance(wanted, bool)


def _filled(template: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(template, str):
        return values.get(template, template)
    if isinstance(template, dict):
        return {name: _filled(inner, values) for name, inner in template.items()}
    if isinstance(template, list):
        return [_filled(inner, values) for inner in template]
    return template


def _renamed(said: KindOfRecord, fields: dict[str, Any]) -> dict[str, Any]:
    """The target's fields under the root's names. A name that another field was renamed away from is nobody's."""
    back = {theirs: ours for ours, theirs in said.rename.items()}
    return {back.get(name, name): value for name, value in fields.items() if name in back or name not in said.rename}


def _version(raw: Any, type: str) -> str | None:
    if type == "integer":
        return str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else None
    return raw if isinstance(raw, str) and _plain(raw) else None


def _sendable(version: str, type: str) -> str | int:
    """The expected version as the target takes it. Raises Refused for what cannot be one of its versions."""
    if type == "integer":
        if not re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", version):
            raise Refused("The expected version is not one of this target's.", None)
        return int(version)
    if not _plain(version):
        raise Refused("The expected version is not one of this target's.", None)
    return version


def _plain(text: str) -> bool:
    return 0 < len(text) <= 500 and text.isascii() and text.isprintable() and text == text.strip()
