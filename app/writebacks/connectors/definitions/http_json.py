"""The declaration of a JSON interface over HTTP: docs/connectors.md has every field.

It says where things are. What an answer proves is decided in app/writebacks/connectors/http_json.py.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from app.writebacks.connectors.definitions import VERIFY, BaseUrl, Capabilities, Common, KindName, Strict

HEADER = r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}"  # of RFC 9110: what a header may be called
PLACES = re.compile(r"\{([a-z_]*)\}")
# Headers that the connector or HTTP itself sets.
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


def placeholders(*known: str) -> AfterValidator:
    def check(value: str) -> str:
        for name in PLACES.findall(value):
            if name not in known:
                raise ValueError(f"knows only {', '.join(f'{{{one}}}' for one in known)}")
        if set(PLACES.sub("", value)) & set("{}"):
            raise ValueError("has a brace that belongs to no placeholder")
        return value

    return AfterValidator(check)


def pointer(value: str) -> str:
    """A JSON Pointer (RFC 6901)."""
    if value and not value.startswith("/"):
        raise ValueError("must be empty or begin with /")
    if re.search(r"~(?![01])", value):
        raise ValueError("must write ~ as ~0 and / inside a name as ~1")
    return value


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


Pointer = Annotated[str, Field(max_length=200), AfterValidator(pointer)]
HeaderName = Annotated[str, Field(pattern=f"^{HEADER}$"), AfterValidator(free_header)]
RecordPath = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(path), placeholders("id")]
KeyPath = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(path), placeholders("key", "id")]
PlainPath = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(path), placeholders()]
FieldName = Annotated[str, Field(min_length=1, max_length=200)]
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
    kinds: dict[KindName, KindOfRecord] = Field(min_length=1, max_length=50)

    @model_validator(mode="after")
    def each_header_once(self) -> Self:
        """HTTP does not tell `X-Key` from `x-key`: who says one twice sends both, or one in the other's place."""
        credential = self.auth.header.lower()
        fixed = [name.lower() for name in self.headers]
        if credential in fixed:
            raise ValueError(f"headers: {self.auth.header} carries the credential; leave it out")
        if len(set(fixed)) < len(fixed):
            raise ValueError("headers: a header stands there twice, in two spellings")
        for kind_name, kind in self.kinds.items():
            for name, operation in kind.operations.items():
                sent = [
                    said.header.lower() for said in (operation.version, operation.idempotency) if said and said.header
                ]
                where = f"kinds.{kind_name}.operations.{name}"
                if credential in sent:
                    raise ValueError(f"{where}: {self.auth.header} carries the credential; name another header")
                if len(set(sent)) < len(sent):
                    raise ValueError(f"{where}: version and idempotency cannot share a header")
        return self

    @model_validator(mode="after")
    def believable(self) -> Self:
        for kind in self.kinds.values():
            for operation in kind.operations.values():
                if self.refusals is None and (operation.not_applied or operation.find != "by_read_back"):
                    raise ValueError(
                        "refusals: say what the target's own refusals look like, or not_applied and find prove nothing"
                    )
        return self

    def capabilities(self) -> Capabilities:
        kinds = self.kinds.values()
        operations = [operation for kind in kinds for operation in kind.operations.values()]
        keyed = [operation.idempotency is not None and operation.find != "by_read_back" for operation in operations]
        versions = {
            f"header {one.read.version.header}" if one.read.version.header else one.read.version.pointer or "/"
            for one in kinds
        }
        return Capabilities(
            read=self.read_by,
            lists=any(kind.list for kind in kinds),
            version=f"{', '.join(sorted(versions))}; every change is made for one version",
            idempotency="a key per change; the target keeps a receipt for each" if operations and all(keyed)
            else "none that can be asked for; a change of unknown fate is settled by what the record shows",
            verify=VERIFY,
            operations={name: sorted(kind.operations) for name, kind in self.kinds.items()},
        )  # fmt: skip


def _texts(value: Any) -> Any:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
