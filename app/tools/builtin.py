"""The built-in reading tools: arguments in, result and shown sources out."""

import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app import workspaces, writebacks
from app.artifacts import Laid, Objects, keep_blob
from app.canonical import canonical
from app.db import Database
from app.errors import Problem
from app.missions import Terms
from app.nudge import Nudger
from app.settings import Settings
from app.writebacks.connectors import (
    ConnectorError,
    NotConfigured,
    Observed,
    Reader,
    ReadFailed,
    RecordMissing,
    Refused,
)
from colony_client.artifacts import (
    MAX_CHANGES,
    Citation,
    JsonObject,
    Line,
    Note,
    Quote,
    RiskLevel,
    SafeInteger,
    ToolName,
)

CRM = "sample_crm"  # the connector that is meant when none is named


@dataclass
class Result:
    """What a tool answers, and the (source hash, document, version) triples it has shown."""

    value: Any
    kind: Literal["document", "record"] = "document"
    shown: list[tuple[bytes, str, str | None]] = field(default_factory=list)
    keep: list[Laid] = field(default_factory=list)  # of what is shown, what is not kept yet
    proposal: dict[str, Any] | None = None  # what a call that changes something became


@dataclass(frozen=True)
class Context:
    """What a tool works with. Tools open sessions of their own: none is held while a target is asked."""

    database: Database
    settings: Settings
    tenant: Any
    mission: Terms
    objects: Objects
    nudger: Nudger | None = None


class Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class SearchArguments(Arguments):
    query: str = Field(min_length=1, max_length=2000)
    limit: int = Field(20, ge=1, le=50)
    workspace: str | None = Field(None, max_length=63)


class ReadArguments(Arguments):
    source: str = Field(pattern=r"^[0-9a-f]{64}$")
    start: int = Field(0, ge=0)
    end: int = Field(65_536, ge=1)
    workspace: str | None = Field(None, max_length=63)


class OutlineArguments(Arguments):
    workspace: str | None = Field(None, max_length=63)


class CrmListArguments(Arguments):
    connector: str = Field(CRM, pattern=r"^[a-z][a-z0-9_]{0,62}$")
    kind: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,63}$")
    limit: int = Field(50, ge=1, le=200)
    cursor: str | None = Field(None, max_length=500)
    lead_id: str | None = Field(None, min_length=1, max_length=63)


class CrmReadArguments(Arguments):
    connector: str = Field(CRM, pattern=r"^[a-z][a-z0-9_]{0,62}$")
    kind: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,63}$")
    id: str = Field(min_length=1, max_length=200)


class CrmUpdateArguments(Arguments):
    """A change of one record. expected_version: of the record as the mission has read it. evidence: what the change rests on."""

    model_config = ConfigDict(extra="forbid")
    connector: str = Field(CRM, pattern=r"^[a-z][a-z0-9_]{0,62}$")
    kind: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,63}$")
    id: str = Field(min_length=1, max_length=136)
    changes: Annotated[JsonObject, Field(min_length=1, max_length=MAX_CHANGES)]
    expected_version: Line | SafeInteger
    summary: Note
    rationale: Quote
    evidence: list[Citation] = Field(min_length=1, max_length=50)
    risk_level: RiskLevel | None = None


async def search(context: Context, asked: SearchArguments) -> Result:
    """Passages of the mission's workspace that fit a query, best first."""
    async with context.database.read() as session:
        await session.enter(context.tenant)
        found = await workspaces.search(session, chosen(context, asked.workspace), asked.query, asked.limit)
    shown: list[tuple[bytes, str, str | None]] = [(bytes.fromhex(one.source), one.document, None) for one in found]
    return Result({"passages": [asdict(one) for one in found]}, shown=shown)


async def read(context: Context, asked: ReadArguments) -> Result:
    """A stretch of a document's stored text, at most 64 KiB, cut at character boundaries."""
    source = bytes.fromhex(asked.source)
    async with context.database.read() as session:
        await session.enter(context.tenant)
        workspace = await workspaces.find_workspace(session, chosen(context, asked.workspace))
        found = await workspaces.read_span(session, workspace, source, asked.start, asked.end) if workspace else None
        paths = await workspaces.paths_of(session, workspace, source) if workspace and found else []
    if found is None:
        raise Problem("not_found", "The workspace holds no such source.")
    if isinstance(found, workspaces.Apart):
        found = await found.read(context.objects)
    return Result(asdict(found), shown=[(source, path, None) for path in paths])


async def outline(context: Context, asked: OutlineArguments) -> Result:
    """The documents of the mission's workspace."""
    async with context.database.read() as session:
        await session.enter(context.tenant)
        workspace = await workspaces.find_workspace(session, chosen(context, asked.workspace))
        found = await workspaces.documents(session, workspace) if workspace else []
    return Result(
        {
            "documents": [
                {"document": one.path, "source": one.source_sha256.hex(), "title": one.title, "bytes": one.bytes}
                for one in found
            ]
        }
    )


def chosen(context: Context, asked: str | None) -> str:
    """A mission reads its own workspace: policy has refused to go on with any other."""
    assert asked in (None, context.mission.workspace)
    return context.mission.workspace


async def crm_list(context: Context, asked: CrmListArguments) -> Result:
    """Records of a connected system, each with the snapshot that can be cited."""
    filters = {"lead_id": asked.lead_id} if asked.lead_id else None
    async with reading(context, asked.connector) as target:
        page = await target.list(asked.kind, asked.limit, asked.cursor, filters)
    result = await snapshots(context, asked.connector, list(page.items))
    result.value = {"records": result.value, "next_cursor": page.next_cursor}
    return result


async def crm_read(context: Context, asked: CrmReadArguments) -> Result:
    """One record of a connected system."""
    async with reading(context, asked.connector) as target:
        observed = await target.read(asked.kind, asked.id)
    result = await snapshots(context, asked.connector, [observed])
    result.value = result.value[0]
    return result


def reading(context: Context, connector: str) -> AbstractAsyncContextManager[Reader]:
    return writebacks.reading(context.database, context.settings, context.tenant, connector, context.nudger)


async def snapshots(context: Context, connector: str, observed: list[Observed]) -> Result:
    """Keeps what was read as it was read: the stored bytes are what citations point into."""
    values: list[dict[str, Any]] = []
    shown: list[tuple[bytes, str, str | None]] = []
    laid: dict[bytes, Laid] = {}
    for one in observed:
        data = canonical({"kind": one.kind, "id": one.record_id, "version": one.version, "fields": one.value})
        written = await context.objects.lay_down(context.tenant, data)
        laid[written.sha256] = written
        document = f"{connector}/{one.kind}/{one.record_id}"
        shown.append((written.sha256, document, one.version))
        values.append(
            {
                "record_id": one.record_id,
                "kind": one.kind,
                "version": one.version,
                "source": written.sha256.hex(),
                "document": document,
                "text": data.decode(),
                "fields": json.loads(data)["fields"],
            }
        )
    async with context.database.write() as session:
        await session.enter(context.tenant)
        for digest in sorted(laid):  # one order for all: two who read the same records never wait in a ring
            await keep_blob(session, context.tenant, laid[digest])
    return Result(values, kind="record", shown=shown)


@dataclass(frozen=True)
class Tool:
    """A tool: what it may do, how far it reaches, what it takes, and the function that does it. What changes something has none."""

    access: Literal["read", "mutate"]
    reach: Literal["internal", "public"]
    arguments: type[Arguments]
    run: Callable[[Context, Any], Awaitable[Result]] | None
    description: str

    @cached_property
    def schema(self) -> dict[str, Any]:
        return self.arguments.model_json_schema()


def reads(arguments: type[Arguments], run: Callable[[Context, Any], Awaitable[Result]]) -> Tool:
    return Tool("read", "internal", arguments, run, (run.__doc__ or "").strip())


PROPOSES = "A change of one record of a connected system: proposed, and made once humans have approved it."
TOOLS: dict[ToolName, Tool] = {
    "workspace.search": reads(SearchArguments, search),
    "workspace.read": reads(ReadArguments, read),
    "workspace.outline": reads(OutlineArguments, outline),
    "crm.list": reads(CrmListArguments, crm_list),
    "crm.read": reads(CrmReadArguments, crm_read),
    "crm.update": Tool("mutate", "internal", CrmUpdateArguments, None, PROPOSES),
}


def said_no(error: ConnectorError) -> Problem:
    """A connector's refusal as a colony hears it."""
    if isinstance(error, RecordMissing):
        return Problem("not_found", error.reason)
    if isinstance(error, Refused):
        return Problem("validation", error.reason)
    if isinstance(error, NotConfigured):  # asking again would not change that
        return Problem("not_found", error.reason)
    # the cause is one of our own words, so that it can be counted: the colony repeats it when it gives up
    cause = error.code if isinstance(error, ReadFailed) else "connector_unusable"
    return Problem("upstream_unavailable", error.reason, retry_after=2, cause=cause)
