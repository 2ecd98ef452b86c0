"""A tenant's tool layers over HTTP: what there is and how it fares, registering, a look at the server, halting."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Depends, Path, Query, Request, Response
from pydantic import BaseModel

from app import declared
from app.clock import iso
from app.db import ReadSession, WriteSession
from app.declared import SwitchedView, SwitchView, WhySwitch
from app.declared.body import put_body, read_document, split
from app.errors import Problem
from app.http import (
    Call,
    Cursor,
    Door,
    Limit,
    Page,
    Reply,
    Routes,
    calling,
    etag,
    paged,
    reading,
    writing,
)
from app.tools import layers
from app.tools.definition import KINDS, BadDefinition, Definition, Layer, parse
from app.tools.layers import TOOL_LAYERS
from app.tools.mcp import CODES, ServerFailed
from app.tools.pinning import pin
from app.tools.sessions import Sessions, Unusable

router = Routes(tags=["tool layers"])

Name = Annotated[str, Path(pattern=f"^{declared.NAME}$", max_length=30, description="The layer's name.")]
Switched = Annotated[
    str, Path(pattern=rf"^({declared.NAME}|\*)$", max_length=30, description="The layer's name; * is all of them.")
]
EXAMPLE = {
    "kind": "mcp",
    "owner": "Research platform",
    "description": "What analysts have written.",
    "transport": "streamable_http",
    "url": "https://research.example.com/mcp",
    "auth": {"header": "Authorization", "scheme": "Bearer"},
    "tools": [
        {
            "name": "find",
            "server_name": "search_notes",
            "access": "read",
            "reach": "internal",
            "sensitivity": "confidential",
        }
    ],
}


class RegisteredTool(BaseModel):
    """A tool of a layer, as missions are given it. becomes: whether a call of it turns into a proposal."""

    name: str
    server_name: str
    description: str
    access: Literal["read", "mutate"]
    reach: Literal["internal", "public"]
    sensitivity: str
    schema_sha256: str
    becomes: dict[str, Any] | None
    drifted: bool


class LayerView(BaseModel):
    """A layer as it is now. state: retired, halted, drifted (a tool is not what was registered), failing, healthy or unknown.

    calls and refusals count since this version was registered; breaker is that of the process that answers. key: the name of
    the environment variable that holds the layer's key, if it has one.
    """

    name: str
    version: int
    kind: str
    owner: str
    description: str | None
    transport: Literal["streamable_http", "stdio"]
    place: str
    state: Literal["retired", "halted", "drifted", "failing", "healthy", "unknown"]
    retired: bool
    tools: list[RegisteredTool]
    drifted: list[str]
    drifted_at: str | None
    answered_at: str | None
    failed_at: str | None
    failure: str | None
    breaker: dict[str, Any]
    calls: int
    refusals: int
    key: str | None
    switch: SwitchView
    created_by: UUID
    created_at: str


class LayerVersion(BaseModel):
    version: int
    retired: bool
    definition: dict[str, Any]
    created_by: UUID
    created_at: str


class LayerHistory(LayerView):
    """A layer with its definition, its pinned schemas and every version it ever had, newest first."""

    definition: dict[str, Any]
    schemas: dict[str, Any]
    history: list[LayerVersion]


class LayerPut(BaseModel):
    """What became of a definition. valid: it was only checked. schemas: what was pinned, by tool."""

    outcome: Literal["created", "changed", "retired", "valid"]
    name: str
    version: int | None
    key: str | None
    schemas: dict[str, str]


class Compared(BaseModel):
    """A registered tool beside what its server offers now. input_schema: the server's, where it is another."""

    name: str
    outcome: Literal["same", "changed", "gone", "other_server"]
    pinned_sha256: str
    schema_sha256: str | None
    input_schema: dict[str, Any] | None


class Checked(BaseModel):
    """What the server says now, or why it says nothing. offered: all its tools, with the hash of each schema."""

    ok: bool
    problem: str | None
    server: str | None
    protocol: str | None
    tools: list[Compared]
    offered: dict[str, str]
    took_ms: float


def view(request: Request, kept: layers.Kept, switched: dict[str, declared.Switch], tenant: UUID) -> dict[str, Any]:
    layer, switch = kept.layer(), declared.in_force(switched, kept.name)
    definition = layer.definition
    sessions: Sessions = request.app.state.tools
    return {
        "name": kept.name,
        "version": kept.version,
        "kind": kept.kind,
        "owner": definition.owner,
        "description": definition.description,
        "transport": definition.transport,
        "place": definition.place or f"server {definition.server}",
        "state": state(kept, switch),
        "retired": kept.retired,
        "tools": [tool_view(layer, one.name, kept.drifted) for one in definition.tools],
        "drifted": [f"{kept.name}.{one}" for one in kept.drifted],
        "drifted_at": stamp(kept.drifted_at),
        "answered_at": stamp(kept.answered_at),
        "failed_at": stamp(kept.failed_at),
        "failure": kept.failure,
        "breaker": sessions.breaker((tenant, kept.name, kept.version)).view() | {"name": kept.name},
        "calls": kept.calls,
        "refusals": kept.refusals,
        "key": key_of(definition, kept.account),
        "switch": switch.view(),
        "created_by": kept.created_by,
        "created_at": iso(kept.created_at),
    }


def state(kept: layers.Kept, switch: declared.Switch) -> str:
    if kept.retired:
        return "retired"
    if switch.halted_at is not None:
        return "halted"
    if kept.drifted:
        return "drifted"
    if kept.failed_at is not None and (kept.answered_at is None or kept.failed_at > kept.answered_at):
        return "failing"
    return "healthy" if kept.answered_at is not None else "unknown"


def stamp(at: Any) -> str | None:
    return iso(at) if at is not None else None


def tool_view(layer: Layer, name: str, drifted: Sequence[str]) -> dict[str, Any]:
    entry, pinned = layer.entry(name), layer.pinned[name]
    assert entry is not None
    return {
        "name": f"{layer.name}.{name}",
        "server_name": entry.theirs,
        "description": pinned.description,
        "access": entry.access,
        "reach": entry.reach,
        "sensitivity": entry.sensitivity,
        "schema_sha256": pinned.schema_sha256,
        "becomes": entry.becomes.model_dump(mode="json") if entry.becomes else None,
        "drifted": name in drifted,
    }


def key_of(definition: Definition, account: str | None) -> str | None:
    return f"{account}_KEY" if definition.auth is not None and account else None


def said_in(kept: layers.Kept) -> dict[str, Any]:
    """The definition as somebody put it."""
    return {name: value for name, value in kept.definition.items() if name not in ("pinned", "server_name")}


@router.get("/v1/tool-layers", operation_id="listToolLayers", response_model=Page[LayerView], summary="Tool layers")
async def list_layers(
    request: Request,
    door: Annotated[Door[ReadSession], reading("tool_layers.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """The tenant's layers by name: whose they are, what they hold, how they fare. Never a key."""

    async def views(found: Sequence[layers.Kept]) -> list[dict[str, Any]]:
        switched = await declared.switches(door.session, TOOL_LAYERS, [one.name for one in found])
        return [view(request, one, switched, door.caller.tenant) for one in found]

    found = partial(layers.all_of, door.session)
    return await paged(request, "tool_layers", limit, cursor, found, views=views, by=["name"])


@router.get(
    "/v1/tool-layers/{name}", operation_id="getToolLayer", response_model=LayerHistory, summary="One tool layer"
)
async def get_layer(
    name: Name, request: Request, door: Annotated[Door[ReadSession], reading("tool_layers.read")]
) -> Response:
    """A layer, its definition, its pinned schemas, and how they came to be. The ETag is what a change wants as If-Match."""
    versions = await layers.history(door.session, name)
    if not versions:
        raise declared.missing(TOOL_LAYERS)
    newest = versions[0]
    shown = view(request, newest, await declared.switches(door.session, TOOL_LAYERS, [name]), door.caller.tenant)
    body = {
        **shown,
        "definition": {"kind": newest.kind, **said_in(newest)},
        "schemas": {tool: pinned.input_schema for tool, pinned in newest.layer().pinned.items()},
        "history": [
            {
                "version": one.version,
                "retired": one.retired,
                "definition": said_in(one),
                "created_by": one.created_by,
                "created_at": iso(one.created_at),
            }
            for one in versions
        ],
    }
    return Reply(body, headers={"ETag": etag(newest.version)}).response()


@dataclass(frozen=True)
class Put:
    """A definition that was put, with what its server offered."""

    kind: str
    definition: dict[str, Any]


async def pinned(name: Name, request: Request, call: Annotated[Call, calling("tool_layers.write")]) -> Put:
    """Reads the body, JSON or YAML, and asks the server that it names. Raises Problem. No session is open meanwhile."""
    kind, body = split(await read_document(request), KINDS)
    app, caller = request.app.state, call.caller
    try:
        definition = parse(kind, body)
        async with app.database.read() as session:
            await session.enter(caller.tenant)
            known = await layers.newest(session, name)
            account = known.account if known else await layers.account(session, name)
        return Put(kind, await offered(app.tools, caller.tenant, definition, body, account))
    except BadDefinition as bad:
        raise Problem(
            "validation", f"{bad.errors[0]['pointer']}: {bad.errors[0]['detail']}", errors=bad.errors
        ) from None


async def offered(
    sessions: Sessions, tenant: UUID, definition: Definition, body: dict[str, Any], account: str | None
) -> dict[str, Any]:
    """The definition with the schemas that its server has now. Raises BadDefinition, and Problem upstream_unavailable."""
    try:
        where = sessions.where(tenant, definition, account)
    except Unusable as lacking:
        raise BadDefinition([{"pointer": lacking.pointer, "detail": str(lacking)}]) from None
    try:
        session = await sessions.begin_with(where, definition.timeout_s)
    except ServerFailed as failure:
        raise unanswered(failure) from None
    try:
        return pin(definition, body, session.server_name, session.offered)
    finally:
        await session.close()


def unanswered(failure: ServerFailed) -> Problem:
    return Problem(
        "upstream_unavailable",
        f"The layer's server was asked for its tools: {CODES[failure.code]}.",
        retry_after=5,
        cause=failure.code,
    )


@router.put(
    "/v1/tool-layers/{name}",
    operation_id="putToolLayer",
    response_model=LayerPut,
    summary="Register a tool layer",
    openapi_extra=put_body(KINDS, EXAMPLE),
)
async def put_layer(
    name: Name,
    request: Request,
    asked: Annotated[Put, Depends(pinned)],
    door: Annotated[Door[WriteSession], writing("tool_layers.write")],
    validate_only: Annotated[bool, Query(description="Check it, ask the server, and change nothing.")] = False,
) -> Response:
    """A new layer, or its next version. The server is asked for its tools, and their schemas are pinned as they are now.

    docs/tools.md has every field, and says what the variable that holds a layer's key is called.
    """
    newest = await layers.newest(door.session, name)
    outcome: str = "valid"
    version = newest.version if newest else None
    if not validate_only:
        declared.expect(request, TOOL_LAYERS, name, newest)
        outcome, version = await declared.put(
            door.session, door.caller, TOOL_LAYERS, name, version, asked.kind, asked.definition
        )
        newest = await layers.newest(door.session, name)
    account = newest.account if newest else None
    answer = {
        "outcome": outcome,
        "name": name,
        "version": version,
        "key": f"{account}_KEY" if asked.definition.get("auth") and account else None,
        "schemas": {f"{name}.{tool}": one["schema_sha256"] for tool, one in asked.definition["pinned"].items()},
    }
    return Reply(answer, 201 if outcome == "created" else 200, {"ETag": etag(version)} if version else {}).response()


@router.delete(
    "/v1/tool-layers/{name}", operation_id="retireToolLayer", response_model=LayerPut, summary="Retire a tool layer"
)
async def retire_layer(
    name: Name, request: Request, door: Annotated[Door[WriteSession], writing("tool_layers.write")]
) -> Response:
    """Its tools are called no more. Its history stays; registering it again brings it back."""
    newest = await layers.newest(door.session, name)
    if newest is None:
        raise declared.missing(TOOL_LAYERS)
    declared.expect(request, TOOL_LAYERS, name, newest)
    outcome, version = await declared.put(
        door.session, door.caller, TOOL_LAYERS, name, newest.version, newest.kind, None
    )
    answer = {"outcome": outcome, "name": name, "version": version, "key": None, "schemas": {}}
    return Reply(answer, headers={"ETag": etag(version)}).response()


@router.post(
    "/v1/tool-layers/{name}/halt",
    operation_id="haltToolLayer",
    response_model=SwitchedView,
    summary="Switch a layer off",
)
async def halt_layer(
    name: Switched, ask: WhySwitch, request: Request, door: Annotated[Door[WriteSession], writing("tool_layers.halt")]
) -> Response:
    """Its tools are refused from the next call on. Calls under way end as they end."""
    return await declared.turned(door, request, TOOL_LAYERS, name, True, ask.reason)


@router.post(
    "/v1/tool-layers/{name}/resume",
    operation_id="resumeToolLayer",
    response_model=SwitchedView,
    summary="Switch it on again",
)
async def resume_layer(
    name: Switched, ask: WhySwitch, request: Request, door: Annotated[Door[WriteSession], writing("tool_layers.resume")]
) -> Response:
    """Takes a halt back."""
    return await declared.turned(door, request, TOOL_LAYERS, name, False, ask.reason)


@router.post(
    "/v1/tool-layers/{name}/check", operation_id="checkToolLayer", response_model=Checked, summary="Ask the server now"
)
async def check_layer(
    name: Name, request: Request, door: Annotated[Door[ReadSession], reading("tool_layers.check")]
) -> Response:
    """Asks the layer's server for its tools and compares them with what was registered. What has drifted is refused from now on."""
    newest = await layers.newest(door.session, name)
    if newest is None:
        raise declared.missing(TOOL_LAYERS)
    await door.session.connection.close()  # nothing outside Postgres is asked while a transaction is open
    sessions: Sessions = request.app.state.tools
    began = time.perf_counter()
    shown = await sessions.check(door.caller.tenant, newest.layer())
    return Reply(shown | {"took_ms": round((time.perf_counter() - began) * 1000, 1)}).response()
