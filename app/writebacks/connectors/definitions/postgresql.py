"""The declaration of tables in a PostgreSQL database: docs/connectors.md has every field."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from app import outbound
from app.writebacks.connectors.definitions import VERIFY, Capabilities, Common, KindName, Strict

Type = Literal["text", "integer", "boolean", "decimal", "date", "timestamp", "uuid", "json"]


def plain_name(value: str) -> str:
    if not value.isprintable() or len(value.encode()) > 63:
        raise ValueError("must be a name of at most 63 bytes")
    return value


Name = Annotated[str, Field(min_length=1, max_length=63), AfterValidator(plain_name)]


class Table(Strict):
    table_schema: Name = Field("public", alias="schema")
    table: Name


class KeyColumn(Strict):
    column: Name
    type: Literal["text", "integer", "uuid"] = "text"


class VersionColumn(Strict):
    """What tells that a row changed. integer and timestamp are moved on by the UPDATE unless the target's trigger does it."""

    type: Literal["integer", "timestamp", "xmin"]
    column: Name | None = None
    moved_by: Literal["connector", "trigger"] = "connector"

    @model_validator(mode="after")
    def named(self) -> Self:
        if (self.type == "xmin") != (self.column is None):
            raise ValueError("column: xmin has none, the others need one")
        return self


class Column(Strict):
    type: Type
    writable: bool = False


class KindOfRow(Table):
    """One table as a kind of record."""

    key: KeyColumn
    version: VersionColumn
    columns: dict[Name, Column] = Field(min_length=1, max_length=200)

    @model_validator(mode="after")
    def writable(self) -> Self:
        for name in (self.key.column, self.version.column):
            if name in self.columns and self.columns[name].writable:
                raise ValueError(f"columns: {name} is the key or the version, and is not written")
        return self


class PostgreSql(Common):
    """Tables of a PostgreSQL database. Credentials are DSNs, postgresql://user:password@host:port/database, of this very place."""

    host: Annotated[str, Field(min_length=1, max_length=253)]
    port: int = Field(5432, ge=1, le=65535)
    database: Name
    tls: Literal["verify", "off"] = "verify"
    connect_s: float = Field(3.0, gt=0, le=10, strict=False)
    statement_s: float = Field(5.0, gt=0, le=60, strict=False)
    receipts: Table
    kinds: dict[KindName, KindOfRow] = Field(min_length=1, max_length=50)

    @model_validator(mode="after")
    def reachable(self) -> Self:
        if not outbound.fit_host(self.host.lower()):
            raise ValueError("host: must be a plain name, or an address in its usual spelling")
        return self

    def capabilities(self) -> Capabilities:
        return Capabilities(
            read=self.read_by,
            lists=True,
            version=", ".join(sorted({one.version.column or "xmin" for one in self.kinds.values()})) + "; in the WHERE of every UPDATE",
            idempotency="a receipt in the target, written in the transaction of the change",
            verify=VERIFY,
            operations={
                name: ["update"] if any(one.writable for one in kind.columns.values()) else [] for name, kind in self.kinds.items()
            },
        )  # fmt: skip
