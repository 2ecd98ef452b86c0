"""What a tenant says about a layer of tools, and what is kept of it: the same, with the schemas its server had then.

A definition says where a server is, which of its tools missions may be given, and what each of them may do. It holds no secret:
the key is looked up in the process's environment, under the name that the database gave the layer (`account`), with `_KEY` at its end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from app.writebacks.connectors.definitions import BadDefinition, KindName, Strict, endpoint, place
from app.writebacks.connectors.definitions.http_json import HeaderName, Pointer

KINDS = ("mcp",)
MOST_TOOLS = 64
CLASSES = ("public", "internal", "confidential", "restricted")  # of material, each more sensitive than the one before


def value_pointer(value: str) -> str:
    if not value:
        raise ValueError("must name a member of the arguments, such as /id")
    return value


Member = Annotated[Pointer, AfterValidator(value_pointer)]
OwnName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=33)]
ConnectorName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


class Auth(Strict):
    """The header that carries the layer's key. scheme: what stands before it; null sends the key alone."""

    header: HeaderName = "Authorization"
    scheme: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,40}$")] | None = "Bearer"


class Becomes(Strict):
    """What a call of a mutating tool becomes, since it never runs: a change of one record. Pointers lead into the arguments.

    changes: a pointer to an object, or one pointer for each field. Without expected_version the record is read when the
    change is proposed.
    """

    connector: ConnectorName
    operation: ConnectorName = "update"
    kind: KindName
    id: Member
    changes: Member | dict[Annotated[str, Field(min_length=1, max_length=200)], Member]
    expected_version: Member | None = None
    risk_level: Literal["low", "medium", "high"] | None = None


class Entry(Strict):
    """One tool. sensitivity: the most sensitive class of material it may be told of. schema_sha256: what was looked at."""

    name: OwnName
    server_name: str | None = Field(None, min_length=1, max_length=128)
    access: Literal["read", "mutate"]
    reach: Literal["internal", "public"]
    sensitivity: Literal["public", "internal", "confidential", "restricted"]
    description: str | None = Field(None, min_length=1, max_length=1000)
    schema_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    becomes: Becomes | None = None

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.becomes is not None and self.access == "read":
            raise ValueError("becomes is for tools with access mutate")
        if self.becomes is not None and self.becomes.changes == {}:
            raise ValueError("becomes.changes must name at least one field")
        return self

    @property
    def theirs(self) -> str:
        return self.server_name or self.name


class Definition(Strict):
    """A layer of an MCP server's tools. owner: whom to ask about it."""

    owner: str = Field(min_length=1, max_length=200)
    description: str | None = Field(None, max_length=1000)
    transport: Literal["streamable_http", "stdio"]
    url: Annotated[str, Field(min_length=8, max_length=500), AfterValidator(endpoint)] | None = None
    auth: Auth | None = None
    server: KindName | None = None
    timeout_s: float = Field(20, ge=0.1, le=60)
    tools: list[Entry] = Field(min_length=1, max_length=MOST_TOOLS)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        http = self.transport == "streamable_http"
        if http and (self.url is None or self.server is not None):
            raise ValueError("streamable_http takes a url and no server")
        if not http and (self.server is None or self.url is not None or self.auth is not None):
            raise ValueError("stdio takes the name of a server that the deployment runs, and neither url nor auth")
        names = [one.name for one in self.tools]
        if len(set(names)) < len(names):
            raise ValueError(f"tools name {next(name for name in names if names.count(name) > 1)} twice")
        return self

    @property
    def place(self) -> str | None:
        """`host:port` of its server; None for one that the deployment runs."""
        if self.url is None:
            return None
        return place(self.url)


def parse(kind: str, body: Mapping[str, Any]) -> Definition:
    """Raises BadDefinition."""
    if kind not in KINDS:
        raise BadDefinition([{"pointer": "/kind", "detail": f"must be one of {', '.join(KINDS)}"}])
    try:
        return Definition.model_validate(body)
    except ValidationError as refused:
        raise BadDefinition.of(refused) from None


@dataclass(frozen=True)
class Pin:
    """What a tool was when its layer was registered. description: the registrant's words, or else the server's."""

    input_schema: dict[str, Any]
    schema_sha256: str
    description: str


@dataclass(frozen=True)
class Layer:
    """One version of a tenant's layer, as the table `tool_layer` holds it. server_name: how the server called itself."""

    name: str
    version: int
    kind: str
    body: Mapping[str, Any]
    account: str

    @cached_property
    def definition(self) -> Definition:
        """Raises BadDefinition for one that this release cannot read any more."""
        return parse(
            self.kind, {name: value for name, value in self.body.items() if name not in ("pinned", "server_name")}
        )

    @cached_property
    def pinned(self) -> dict[str, Pin]:
        """By the names of our own."""
        return {name: Pin(**said) for name, said in self.body.get("pinned", {}).items()}

    @property
    def server_name(self) -> str | None:
        return self.body.get("server_name")

    def entry(self, tool: str) -> Entry | None:
        return next((one for one in self.definition.tools if one.name == tool), None)


def cleared(entry: Entry, material: str) -> bool:
    """Whether a tool may be told of material of a class."""
    return CLASSES.index(material) <= CLASSES.index(entry.sensitivity)
