"""A tenant's connectors over HTTP: what there is and what it can do, putting definitions, halting, and a look through one."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app import declared
from app.clock import iso
from app.db import ReadSession, WriteSession
from app.declared import SwitchedView, SwitchView, WhySwitch
from app.declared.body import put_body, read_document, split
from app.errors import Problem
from app.http import Cursor, Door, Limit, Page, Reply, Routes, etag, paged, writing
from app.http import reading as reads
from app.http.doors import Bearer
from app.writebacks import book
from app.writebacks.book import CONNECTORS
from app.writebacks.connectors import ConnectorError, RecordMissing, Refused
from app.writebacks.connectors.definitions import BadDefinition, Capabilities
from app.writebacks.connectors.registry import KINDS, capabilities, check, hosts, readable

router = Routes(tags=["connectors"])

Name = Annotated[str, Path(pattern=f"^{declared.NAME}$", max_length=63, description="The connector's name.")]
Switched = Annotated[
    str, Path(pattern=rf"^({declared.NAME}|\*)$", max_length=63, description="The connector's name; * is all of them.")
]
EXAMPLE = {
    "kind": "http_json",
    "description": "Our ticket system.",
    "base_url": "https://tickets.example.com/api",
    "refusals": {"media_type": "application/problem+json", "code": "/code"},
    "kinds": {
        "ticket": {
            "read": {"path": "/tickets/{id}", "fields": "", "version": {"header": "ETag"}, "id": "/id"},
            "operations": {
                "update": {
                    "method": "PATCH",
                    "path": "/tickets/{id}",
                    "body": {"set": "{changes}"},
                    "version": {"header": "If-Match"},
                    "stale": [{"status": 412}],
                    "find": "by_read_back",
                }
            },
        }
    },
}


class ConnectorView(BaseModel):
    """A connector in its newest version.

    hosts: what it calls. capabilities: what it can promise; null when this release cannot read the definition. readable:
    whether this process has what reading takes. credentials: the names of the environment variables that hold them.
    """

    name: str
    version: int
    kind: str
    retired: bool
    description: str | None
    hosts: list[str]
    capabilities: Capabilities | None
    read_by: Literal["api", "executor"]
    readable: bool
    credentials: dict[str, str]
    switch: SwitchView
    created_by: UUID
    created_at: str


class VersionView(BaseModel):
    version: int
    kind: str
    retired: bool
    definition: dict[str, Any]
    created_by: UUID
    created_at: str


class ConnectorHistory(ConnectorView):
    """A connector with its definition and every version it ever had, newest first."""

    definition: dict[str, Any]
    history: list[VersionView]


class Put(BaseModel):
    """What became of a definition. valid: it was only checked."""

    outcome: Literal["created", "changed", "retired", "valid"]
    name: str
    version: int | None
    hosts: list[str]
    capabilities: Capabilities | None
    credentials: dict[str, str]


class Look(BaseModel):
    """A record to read."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"kind": "lead", "id": "L-1001"}]}
    )
    kind: str = Field(min_length=1, max_length=200)
    id: str = Field(min_length=1, max_length=500)


class Seen(BaseModel):
    """What reading the record showed, or why it did not. age_s: how long ago it was read."""

    ok: bool
    problem: str | None
    missing: bool
    version: str | None
    fields: dict[str, Any] | None
    read_at: str | None
    age_s: float | None
    took_ms: float


def view(request: Request, kept: book.Kept, switched: dict[str, declared.Switch]) -> dict[str, Any]:
    settings = request.app.state.settings
    return {
        "name": kept.name,
        "version": kept.version,
        "kind": kept.kind,
        "retired": kept.retired,
        "description": kept.definition.get("description"),
        "hosts": hosts(kept.kind, kept.definition, settings),
        "capabilities": capabilities(kept.kind, kept.definition),
        "read_by": "executor" if kept.usable().read_by_executor else "api",
        "readable": not kept.retired and readable(kept.usable(), settings),
        "credentials": credentials(kept.account),
        "switch": declared.in_force(switched, kept.name).view(),
        "created_by": kept.created_by,
        "created_at": iso(kept.created_at),
    }


def credentials(account: str | None) -> dict[str, str]:
    return {} if account is None else {"read": f"{account}_READ", "write": f"{account}_WRITE"}


def version_view(kept: book.Kept) -> dict[str, Any]:
    return {
        "version": kept.version,
        "kind": kept.kind,
        "retired": kept.retired,
        "definition": kept.definition,
        "created_by": kept.created_by,
        "created_at": iso(kept.created_at),
    }


@router.get(
    "/v1/connectors", operation_id="listConnectors", response_model=Page[ConnectorView], summary="Connected systems"
)
async def list_connectors(
    request: Request,
    door: Annotated[Door[ReadSession], reads("connectors.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """The tenant's connectors by name: what they can do, whether they are halted. Never a credential."""

    async def views(found: Sequence[book.Kept]) -> list[dict[str, Any]]:
        switched = await declared.switches(door.session, CONNECTORS, [one.name for one in found])
        return [view(request, one, switched) for one in found]

    found = partial(book.connectors, door.session)
    return await paged(request, "connectors", limit, cursor, found, views=views, by=["name"])


@router.get(
    "/v1/connectors/{name}",
    operation_id="getConnector",
    response_model=ConnectorHistory,
    summary="One connected system",
)
async def get_connector(
    name: Name, request: Request, door: Annotated[Door[ReadSession], reads("connectors.read")]
) -> Response:
    """A connector, its definition, and how both came to be. The ETag is what a change wants as If-Match."""
    versions = await book.history(door.session, name)
    if not versions:
        raise declared.missing(CONNECTORS)
    newest = versions[0]
    shown = view(request, newest, await declared.switches(door.session, CONNECTORS, [name]))
    body = {**shown, "definition": newest.definition, "history": [version_view(one) for one in versions]}
    return Reply(body, headers={"ETag": etag(newest.version)}).response()


async def said(request: Request, bearer: Bearer) -> Any:
    """The body, JSON or YAML, before any session is open."""
    if bearer is None or not bearer.credentials:
        raise Problem("unauthenticated", "The request carries no API key.")
    return await read_document(request)


@router.put(
    "/v1/connectors/{name}",
    operation_id="putConnector",
    response_model=Put,
    summary="Put a connector's definition",
    openapi_extra=put_body(KINDS, EXAMPLE),
)
async def put_connector(
    name: Name,
    request: Request,
    document: Annotated[Any, Depends(said)],
    door: Annotated[Door[WriteSession], writing("connectors.write")],
    validate_only: Annotated[bool, Query(description="Check it and change nothing.")] = False,
) -> Response:
    """A new connector, or its next version. What waits for an approval under another definition is not carried out.

    docs/connectors.md has every field of every kind.
    """
    kind, body = split(document, KINDS)
    settings = request.app.state.settings
    try:
        check(kind, body, settings)
    except (BadDefinition, ConnectorError) as bad:
        errors = bad.errors if isinstance(bad, BadDefinition) else [{"pointer": "/base_url", "detail": str(bad)}]
        raise Problem("validation", f"{errors[0]['pointer']}: {errors[0]['detail']}", errors=errors) from None
    newest = await book.newest(door.session, name)
    outcome: str = "valid"
    version = newest.version if newest else None
    if not validate_only:
        declared.expect(request, CONNECTORS, name, newest)
        outcome, version = await declared.put(door.session, door.caller, CONNECTORS, name, version, kind, body)
        newest = await book.newest(door.session, name)
    answer = {
        "outcome": outcome,
        "name": name,
        "version": version,
        "hosts": hosts(kind, body, settings),
        "capabilities": capabilities(kind, body),
        "credentials": credentials(newest.account if newest else None),
    }
    return Reply(answer, 201 if outcome == "created" else 200, {"ETag": etag(version)} if version else {}).response()


@router.delete(
    "/v1/connectors/{name}", operation_id="retireConnector", response_model=Put, summary="Retire a connector"
)
async def retire_connector(
    name: Name, request: Request, door: Annotated[Door[WriteSession], writing("connectors.write")]
) -> Response:
    """Nothing is proposed for it or written to it any more. Its history stays; putting it again brings it back."""
    newest = await book.newest(door.session, name)
    if newest is None:
        raise declared.missing(CONNECTORS)
    declared.expect(request, CONNECTORS, name, newest)
    outcome, version = await declared.put(
        door.session, door.caller, CONNECTORS, name, newest.version, newest.kind, None
    )
    answer = {
        "outcome": outcome,
        "name": name,
        "version": version,
        "hosts": [],
        "capabilities": None,
        "credentials": credentials(newest.account),
    }
    return Reply(answer, headers={"ETag": etag(version)}).response()


@router.post(
    "/v1/connectors/{name}/halt", operation_id="haltConnector", response_model=SwitchedView, summary="Stop writing"
)
async def halt_connector(
    name: Switched, ask: WhySwitch, request: Request, door: Annotated[Door[WriteSession], writing("connectors.halt")]
) -> Response:
    """Nothing is approved for it or written to it from now on. What was claimed before runs to its truth."""
    return await declared.turned(door, request, CONNECTORS, name, True, ask.reason)


@router.post(
    "/v1/connectors/{name}/resume", operation_id="resumeConnector", response_model=SwitchedView, summary="Write again"
)
async def resume_connector(
    name: Switched, ask: WhySwitch, request: Request, door: Annotated[Door[WriteSession], writing("connectors.resume")]
) -> Response:
    """Takes a halt back."""
    return await declared.turned(door, request, CONNECTORS, name, False, ask.reason)


@router.post(
    "/v1/connectors/{name}/check",
    operation_id="checkConnector",
    response_model=Seen,
    summary="Read a record through it",
)
async def check_connector(
    name: Name, ask: Look, request: Request, door: Annotated[Door[ReadSession], reads("connectors.check")]
) -> Response:
    """Reads one record with the read credential and shows what it saw. Nothing is changed."""
    if await book.newest(door.session, name) is None:
        raise declared.missing(CONNECTORS)
    await door.session.connection.close()  # nothing outside Postgres is asked while a transaction is open
    state, began = request.app.state, time.perf_counter()
    shown: dict[str, Any] = dict.fromkeys(("problem", "version", "fields", "read_at", "age_s"))
    shown |= {"ok": False, "missing": False}
    try:
        async with book.reading(state.database, state.settings, door.caller.tenant, name, state.root.nudger) as target:
            found = await target.read(ask.kind, ask.id)
        shown |= {"ok": True, "version": found.version, "fields": found.value}
        shown |= {"read_at": iso(found.read_at), "age_s": book.age_s(found)}
    except Refused as refused:
        shown |= {"problem": refused.reason, "missing": isinstance(refused, RecordMissing)}
    except ConnectorError as failed:
        shown["problem"] = failed.reason
    return Reply(shown | {"took_ms": round((time.perf_counter() - began) * 1000, 1)}).response()
