"""A connector for any JSON interface over HTTP, declared instead of programmed: docs/connectors.md has every field.

The declaration says where things are; what an answer proves is decided here, with the same suspicion as for the sample
CRM. Only what has the declared shape counts as the target's own word. A change whose fate is not proved is `Ambiguous`.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

import httpx
from pydantic import AfterValidator, Field, model_validator

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
    verify,
)
from app.writebacks.connectors.definitions import (
    NOTHING,
    VERIFY,
    BaseUrl,
    Capabilities,
    Common,
    Pointer,
    Strict,
    at,
)

LARGEST_ANSWER = 1024 * 1024
KEY = re.compile(r"[A-Za-z0-9._:-]{1,128}")
HEADER = r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}"  # of RFC 9110: what a header may be called
PLACES = re.compile(r"\{([a-z_]*)\}")
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, outbound.Forbidden)
OURS = {
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "accept-encoding",
    "expect",
    "upgrade",
    "te",
}


# --- the declaration


def placeholders(*known: str) -> AfterValidator:
    def check(value: str) -> str:
        for name in PLACES.findall(value):
            if name not in known:
                raise ValueError(f"knows only {', '.join(f'{{{one}}}' for one in known)}")
        if set(PLACES.sub("", value)) & set("{}"):
            raise ValueError("has a brace that belongs to no placeholder")
        return value

    return AfterValidator(check)


def path(value: str) -> str:
    bare = PLACES.sub("x", value)
    if not bare.startswith("/") or bare.startswith("//"):
        raise ValueError("must begin with one / and go on from base_url")
    if not bare.isascii() or not bare.isprintable() or set(bare) & set('\\ #"<>^`|'):
        raise ValueError("must be plain ASCII; write other letters as %xx")
    if any(part in (".", "..") for part in bare.partition("?")[0].replace("%2e", ".").replace("%2E", ".").split("/")):
        raise ValueError("must not hold . or .. as a part")
    return value


def header_value(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise ValueError("must be plain ASCII")
    return value


def free_header(value: str) -> str:
    if value.lower() in OURS:
        raise ValueError(f"{value} is set by the connector itself")
    return value


HeaderName = Annotated[str, Field(pattern=f"^{HEADER}$"), AfterValidator(free_header)]
RecordPath = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(path), placeholders("id")]
KeyPath = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(path), placeholders("key", "id")]
PlainPath = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(path), placeholders()]
FieldName = Annotated[str, Field(min_length=1, max_length=200)]
Kind = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,63}$")]
Status = Annotated[int, Field(ge=200, le=599)]
Refusal = Annotated[int, Field(ge=400, le=599)]
# A body is JSON in which a whole text such as "{changes}" stands for a value. Nothing is pasted into other text.
Body = dict[str, Any]
VALUES = ("changes", "id", "version", "key")
RECEIPTS = ("{key}", "{id}", "{integer}", "{string}")


class Auth(Strict):
    """The header that carries the credential: `header: scheme credential`, or the credential alone."""

    header: HeaderName = "Authorization"
    scheme: Annotated[str, Field(pattern=r"^[A-Za-z0-9._~+/-]{1,50}$")] | None = "Bearer"


class Version(Strict):
    """Where a record's version is: in the answer's body, or in one of its headers."""

    pointer: Pointer | None = None
    header: HeaderName | None = None
    type: Literal["string", "integer"] = "string"

    @model_validator(mode="after")
    def one(self) -> Self:
        if (self.pointer is None) == (self.header is None):
            raise ValueError("say either pointer or header")
        if self.header and self.type == "integer":
            raise ValueError("a header is text: leave out type")
        return self


class Sign(Strict):
    """One of the target's own refusals: by its status, and by its code when one is named."""

    status: Refusal
    code: Annotated[str, Field(max_length=200)] | None = None


class Read(Strict):
    """How one record is read."""

    path: RecordPath
    fields: Pointer = ""
    version: Version
    id: Pointer | None = Field(None, description="Where the answer says which record it is; checked when it is given.")
    not_found: list[Sign] = Field(default_factory=lambda: [Sign(status=404)], max_length=10)


class Listing(Strict):
    """How records are listed. Pointers into an item stand for those of `read` where they differ."""

    path: PlainPath
    items: Pointer
    id: Pointer
    fields: Pointer | None = None
    version: Pointer
    limit: FieldName | None = None
    cursor: FieldName | None = None
    next: Pointer | None = None
    filters: dict[FieldName, FieldName] = Field(default_factory=dict, max_length=20)


class Guard(Strict):
    """How a change names the version it is made for: a header, or {version} in the body."""

    header: HeaderName | None = None
    format: Annotated[str, Field(max_length=100), AfterValidator(header_value), placeholders("version")] = "{version}"


class Idempotency(Strict):
    """How a change carries its key: a header, or {key} in the body."""

    header: HeaderName | None = None


class Refusals(Strict):
    """What the target's own refusals look like. Without it no refusal is believed, only what is read afterwards."""

    media_type: Annotated[str, Field(pattern=r"^[a-z0-9.+-]+/[a-z0-9.+-]+$")] = "application/problem+json"
    code: Pointer
    status: Pointer | None = None
    detail: Pointer | None = None


class Find(Strict):
    """Where the target answers the receipt of a key."""

    path: KeyPath
    key: Pointer = Field(description="Where the receipt repeats the key.")
    not_found: Sign


class Replayed(Strict):
    header: HeaderName
    value: str = Field("true", max_length=100)


class Operation(Strict):
    """How one operation is done, and what proves what."""

    method: Literal["PATCH", "PUT", "POST"]
    path: RecordPath
    body: Body
    version: Guard | None = None
    idempotency: Idempotency | None = None
    success: list[Annotated[int, Field(ge=200, le=299)]] = Field(
        default_factory=lambda: [200], min_length=1, max_length=10
    )
    receipt: dict[Pointer, str | int | bool] = Field(
        default_factory=dict,
        max_length=20,
        description="What a success must say where; {key}, {id}, {integer} or {string} may stand for it.",
    )
    replayed: Replayed | None = None
    stale: list[Sign] = Field(default_factory=list, max_length=10)
    current: Pointer | None = Field(None, description="Where a stale answer shows the record as `read` would.")
    not_applied: list[Literal[409, 423, 425, 429, 503]] = Field(
        default_factory=list,
        description="Refusals by which the target guarantees that nothing was done; the same key is tried again.",
    )
    find: Find | Literal["by_read_back"]
    writable: list[FieldName] | None = Field(None, max_length=200)

    @model_validator(mode="after")
    def provable(self) -> Self:
        texts = list(_texts(self.body))
        for text in texts:
            found = PLACES.findall(text)
            if found and (text != f"{{{found[0]}}}" or found[0] not in VALUES):
                raise ValueError(
                    "body: a placeholder is a whole text, one of " + ", ".join(f'"{{{one}}}"' for one in VALUES)
                )
        if "{changes}" not in texts:
            raise ValueError('body: "{changes}" stands nowhere in it')
        if self.version is not None and (self.version.header is None) == ("{version}" not in texts):
            raise ValueError('version: name a header, or put "{version}" into the body')
        if self.idempotency is not None and (self.idempotency.header is None) == ("{key}" not in texts):
            raise ValueError('idempotency: name a header, or put "{key}" into the body')
        if self.version is None:
            raise ValueError("version: a change without a guard would overwrite what others did meanwhile")
        if self.find != "by_read_back" and self.idempotency is None:
            raise ValueError("find: a receipt is found by a key, and no idempotency is declared")
        for text in self.receipt.values():
            if isinstance(text, str) and PLACES.search(text) and text not in RECEIPTS:
                raise ValueError(f"receipt: a placeholder is a whole text, one of {', '.join(RECEIPTS)}")
        return self


class KindOfRecord(Strict):
    """One kind of record. rename: what the root calls a field, and what the target calls it."""

    read: Read
    list: Listing | None = None
    rename: dict[FieldName, FieldName] = Field(default_factory=dict, max_length=200)
    operations: dict[Annotated[str, Field(pattern=r"^[a-z_]{1,50}$")], Operation] = Field(
        default_factory=dict, max_length=20
    )

    @model_validator(mode="after")
    def unambiguous(self) -> Self:
        if len(set(self.rename.values())) < len(self.rename):
            raise ValueError("rename: two fields cannot have one name in the target")
        if self.read.version.header and any(one.current is not None for one in self.operations.values()):
            raise ValueError(
                "current: the version is in a header of `read`, so that a stale answer cannot show it; leave current out"
            )
        return self


class HttpJson(Common):
    """A JSON interface over HTTP."""

    base_url: BaseUrl
    auth: Auth = Auth()
    headers: dict[HeaderName, Annotated[str, Field(max_length=500), AfterValidator(header_value)]] = Field(
        default_factory=dict, max_length=20
    )
    connect_s: float = Field(2.0, gt=0, le=10, strict=False)
    total_s: float = Field(10.0, gt=0, le=60, strict=False)
    refusals: Refusals | None = None
    kinds: dict[Kind, KindOfRecord] = Field(min_length=1, max_length=50)

    @model_validator(mode="after")
    def believable(self) -> Self:
        for kind in self.kinds.values():
            for operation in kind.operations.values():
                if self.refusals is None and (operation.not_applied or operation.find != "by_read_back"):
                    raise ValueError(
                        "refusals: say what the target's own refusals look like, or not_applied and find prove nothing"
                    )
        return self


def _texts(value: Any) -> Any:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def capabilities(model: HttpJson) -> Capabilities:
    kinds = model.kinds.values()
    operations = [operation for kind in kinds for operation in kind.operations.values()]
    keyed = [operation.idempotency is not None and operation.find != "by_read_back" for operation in operations]
    versions = {
        f"header {one.read.version.header}" if one.read.version.header else one.read.version.pointer or "/"
        for one in kinds
    }
    return Capabilities(
        read=model.read_by,
        lists=any(kind.list for kind in kinds),
        version=f"{', '.join(sorted(versions))}; every change is made for one version",
        idempotency="a key per change; the target keeps a receipt for each" if operations and all(keyed)
        else "none that can be asked for; a change of unknown fate is settled by what the record shows",
        verify=VERIFY,
        operations={name: sorted(kind.operations) for name, kind in model.kinds.items()},
    )  # fmt: skip


# --- the wire


class _NoAnswer(Exception):
    """No complete answer arrived; `sent` is False only when it is certain that no request left either."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


@dataclass(frozen=True)
class _Answer:
    """A complete answer; `code` is set on the target's own refusals."""

    status: int
    document: Any  # NOTHING unless it was JSON
    code: str | None
    headers: httpx.Headers


class HttpJsonReader:
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
        self._client = outbound.client(
            allowed=allowed,
            any_public=False,
            timeout_s=definition.total_s,
            connect_s=definition.connect_s,
            max_bytes=LARGEST_ANSWER,
            headers={
                **definition.headers,
                "Accept": "application/json",
                definition.auth.header: f"{scheme}{credential}",
            },
            idle=self.idle_connections,
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def read(self, kind: str, record_id: str) -> Observed:
        said = self._kind(kind)
        answer = await self._get(said.read.path, {"id": record_id})
        if _is_one_of(answer, said.read.not_found):
            raise RecordMissing(f"{self.name} shows this account no {kind} {record_id[:200]}.", 404)
        self._refuse(answer)
        return self._observed(kind, answer.document, answer.headers, record_id)

    async def find(self, idempotency_key: str, payload: Payload | None = None) -> dict[str, Any] | None:
        if payload is None:
            return await self._receipt(self._only_find(), _key(idempotency_key), "")
        operation = self._operation(payload)
        if isinstance(operation.find, Find):
            return await self._receipt(operation.find, _key(idempotency_key), payload.record_id)
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
            asked[said.list.cursor] = cursor
        for name, value in (filters or {}).items():
            if name not in said.list.filters:
                raise Refused(f"{kind} cannot be filtered by {name!r}.", None)
            asked[said.list.filters[name]] = value
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

    def _observed(self, kind: str, document: Any, headers: httpx.Headers | None, record_id: str) -> Observed:
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

    def _refuse(self, answer: _Answer) -> None:
        """Raises for every answer to a question that is not 200 with JSON."""
        if answer.status == 200 and answer.document is not NOTHING:
            return
        if answer.code and 400 <= answer.status < 500 and answer.status not in (408, 425, 429):
            raise Refused(self._told(answer), answer.status)
        raise ReadFailed(f"{self.name} answered {answer.status}, which shows nothing.")

    async def _get(self, path: str, values: Mapping[str, str], params: Mapping[str, str] | None = None) -> _Answer:
        try:
            return await self._exchange("GET", path, values, params=params)
        except _NoAnswer as silent:
            raise ReadFailed(silent.reason) from silent

    async def _exchange(
        self,
        method: str,
        path: str,
        values: Mapping[str, str],
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> _Answer:
        """One request and its whole, bounded answer. Raises _NoAnswer."""
        url = self._said.base_url + PLACES.sub(lambda found: _segment(values[found[1]]), path)
        total_s, body = self._said.total_s, bytearray()
        if params:
            query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in params.items())
            url += ("&" if "?" in url else "?") + query
        try:
            async with (
                asyncio.timeout(total_s),
                self._client.stream(method, url, headers=headers, content=content) as response,
            ):
                async for part in response.aiter_raw():
                    body += part
        except TimeoutError as late:
            raise _NoAnswer(f"{self.name} did not answer within {total_s:g} s.", sent=True) from late
        except outbound.TooLarge as large:
            raise _NoAnswer(f"The answer of {self.name} cannot be read: {large}.", sent=True) from large
        except httpx.HTTPError as broken:
            sent = not isinstance(broken, UNSENT)
            reason = "broke off" if sent else "cannot be connected to"
            raise _NoAnswer(f"{self.name} {reason} ({type(broken).__name__}).", sent=sent) from broken
        document = _json(bytes(body))
        return _Answer(response.status_code, document, self._code(response, document), response.headers)

    def _code(self, response: httpx.Response, document: Any) -> str | None:
        """The code of a refusal, when the answer is one of the target's own."""
        said = self._said.refusals
        if said is None or response.status_code < 400 or document is NOTHING:
            return None
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        code, status = at(document, said.code), at(document, said.status) if said.status else response.status_code
        if media_type != said.media_type or status != response.status_code or isinstance(status, bool):
            return None
        return code if isinstance(code, str) and code else None

    def _told(self, answer: _Answer) -> str:
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
        try:
            payload = decode(claimed)
        except BadPayload as bad:
            raise Refused(bad.reason, None) from bad
        operation, key = self._operation(payload), _key(idempotency_key)
        headers, content = self._request(operation, payload, key)
        try:
            answer = await self._exchange(
                operation.method, operation.path, {"id": payload.record_id}, headers=headers, content=content
            )
        except _NoAnswer as silent:
            if silent.sent:
                raise Ambiguous(silent.reason) from silent
            raise NotApplied(silent.reason, retryable=True) from silent
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

    async def _outcome(self, operation: Operation, answer: _Answer, payload: Payload, key: str) -> Applied:
        if answer.status in operation.success:
            replayed = operation.replayed
            again = replayed is not None and answer.headers.get(replayed.header) == replayed.value
            return Applied(self._proof(operation, answer, payload, key), again)
        if answer.code is None:
            raise Ambiguous(f"{self.name} answered {answer.status}, which settles nothing.")
        if _is_one_of(answer, operation.stale):
            raise await self._stale(operation, answer, payload)
        if answer.status in operation.not_applied:
            wait_s = _seconds(answer.headers.get("retry-after"))
            raise NotApplied(self._told(answer), retryable=True, retry_after_s=wait_s)
        # 408 says of itself that the request did not come through whole, which is not to say that nothing did
        if 400 <= answer.status < 500 and answer.status not in (408, 425, 429):
            raise Refused(self._told(answer), answer.status)
        raise Ambiguous(f"{self.name} answered {answer.status}, which settles nothing.")

    def _proof(self, operation: Operation, answer: _Answer, payload: Payload, key: str) -> dict[str, Any]:
        for where, wanted in operation.receipt.items():
            found = at(answer.document, where) if answer.document is not NOTHING else NOTHING
            if not _says(found, {"{key}": key, "{id}": payload.record_id}.get(str(wanted), wanted)):
                raise Ambiguous(f"{self.name} answered {answer.status} without the receipt of this change.")
        if isinstance(answer.document, dict) and operation.receipt:
            return answer.document
        return {"status": answer.status}

    async def _stale(self, operation: Operation, answer: _Answer, payload: Payload) -> Exception:
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


def _is_one_of(answer: _Answer, signs: list[Sign]) -> bool:
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


def _json(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        return NOTHING


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _seconds(retry_after: str | None) -> float | None:
    if not retry_after or not retry_after.isascii() or not retry_after.isdigit() or len(retry_after) > 6:
        return None
    return min(float(retry_after), 3600.0)


def _key(idempotency_key: str) -> str:
    if not KEY.fullmatch(idempotency_key):
        raise Refused("The idempotency key must be 1 to 128 of A-Z a-z 0-9 . _ : -", None)
    return idempotency_key


def _segment(text: str) -> str:
    """One path segment, whatever the text holds. Empty and dot segments would name another resource: refused."""
    try:
        if text not in ("", ".", "..") and len(text) <= 500:
            return quote(text, safe="")
    except UnicodeEncodeError:
        pass  # a lone surrogate
    raise Refused(f"{text[:100]!r} cannot be an id.", None)
