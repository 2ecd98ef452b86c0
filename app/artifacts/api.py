"""A mission's artifacts."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from app import ledger
from app.artifacts.objects import removed
from app.artifacts.queries import Artifact, Source, of_mission, one, shown, sources
from app.clock import iso
from app.db import ReadSession
from app.errors import Problem
from app.http import Cursor, Door, Limit, Page, Reply, Routes, paged, reading
from colony_client.artifacts import ARTIFACT_TYPES

router = Routes(tags=["artifacts"])


class ArtifactSummary(BaseModel):
    """An artifact without its content."""

    id: UUID
    mission_id: UUID
    schema_name: str
    schema_version: str
    producer: str
    attempt: int
    sha256: str
    bytes: int
    created_at: str
    removed_at: str | None


class ArtifactView(ArtifactSummary):
    """An artifact with its content; sha256 is over the content's RFC 8785 bytes. Removed under retention: content is null."""

    content: dict[str, Any] | None
    note: str | None


class SourceView(BaseModel):
    """Stored bytes that the mission was shown: a document's text or a record as it was read. source is their SHA-256."""

    source: str
    document: str
    kind: Literal["document", "record"]
    version: str | None
    bytes: int
    read_at: str
    removed_at: str | None
    note: str | None


def summary(artifact: Artifact) -> dict[str, Any]:
    return {
        "id": artifact.id,
        "mission_id": artifact.mission,
        "schema_name": artifact.schema_name,
        "schema_version": artifact.schema_version,
        "producer": artifact.producer,
        "attempt": artifact.attempt,
        "sha256": artifact.sha256.hex(),
        "bytes": artifact.size,
        "created_at": iso(artifact.created_at),
        "removed_at": iso(artifact.removed_at) if artifact.removed_at else None,
    }


def source_view(found: Source) -> dict[str, Any]:
    return {
        "source": found.source,
        "document": found.document,
        "kind": found.kind,
        "version": found.version,
        "bytes": found.size,
        "read_at": iso(found.read_at),
        "removed_at": iso(found.removed_at) if found.removed_at else None,
        "note": removed(found.removed_at) if found.removed_at else None,
    }


@router.get(
    "/v1/missions/{mission_id}/artifacts",
    operation_id="listArtifacts",
    response_model=Page[ArtifactSummary],
    summary="Artifacts of a mission",
)
async def list_artifacts(
    mission_id: UUID,
    request: Request,
    door: Annotated[Door[ReadSession], reading("missions.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
    schema_name: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """Typed artifacts, oldest first; schema_name keeps one type."""
    if schema_name and schema_name not in ARTIFACT_TYPES:
        raise Problem(
            "validation",
            f"schema_name is one of {', '.join(ARTIFACT_TYPES)}.",
            errors=[{"parameter": "schema_name", "detail": "not an artifact type"}],
        )
    if not await ledger.known(door.session, mission_id):
        raise Problem("not_found", "There is no such mission.")
    found = partial(of_mission, door.session, mission_id, schema_name or None)
    return await paged(request, f"artifacts:{mission_id}", limit, cursor, found, summary)


@router.get(
    "/v1/missions/{mission_id}/artifacts/{artifact_id}",
    operation_id="getArtifact",
    response_model=ArtifactView,
    summary="One artifact",
)
async def get_artifact(
    mission_id: UUID, artifact_id: UUID, request: Request, door: Annotated[Door[ReadSession], reading("missions.read")]
) -> Response:
    """The artifact with its content. Until retention removes that it never changes, so its ETag is its hash."""
    artifact = await one(door.session, mission_id, artifact_id)
    if artifact is None:
        raise Problem("not_found", "There is no such artifact.")
    tag = f'"{artifact.sha256.hex()}{"-removed" if artifact.removed_at else ""}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag})
    note = removed(artifact.removed_at) if artifact.removed_at else None
    return Reply({**summary(artifact), "content": artifact.content(), "note": note}, headers={"ETag": tag}).response()


@router.get(
    "/v1/missions/{mission_id}/sources",
    operation_id="listSources",
    response_model=Page[SourceView],
    summary="Sources a mission was shown",
)
async def list_sources(
    mission_id: UUID,
    request: Request,
    door: Annotated[Door[ReadSession], reading("missions.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """What the mission's citations point into, by document."""
    if not await ledger.known(door.session, mission_id):
        raise Problem("not_found", "There is no such mission.")
    found = partial(sources, door.session, mission_id)
    return await paged(request, f"sources:{mission_id}", limit, cursor, found, source_view, by=["document", "source"])


BYTES: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


@router.get(
    "/v1/missions/{mission_id}/sources/{source}",
    operation_id="getSource",
    response_class=Response,
    summary="The bytes of a source",
    responses={200: {"content": {"text/plain": BYTES, "application/json": {"schema": {}}}}},
)
async def get_source(
    mission_id: UUID,
    source: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="The source's SHA-256.")],
    request: Request,
    door: Annotated[Door[ReadSession], reading("missions.read")],
) -> Response:
    """The stored bytes themselves, checked as they are sent: an answer that breaks off was damaged."""
    found = await shown(door.session, mission_id, bytes.fromhex(source))
    if found is None:
        raise Problem("not_found", "The mission was shown no such source.")
    kind, located = found
    await door.session.connection.close()  # nothing outside Postgres is asked while a transaction is open
    headers = {
        "ETag": f'"{source}"',
        "Content-Length": str(located.size),
        "Content-Disposition": f'attachment; filename="{source[:16]}.{"json" if kind == "record" else "txt"}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Accept-Ranges": "none",
    }
    if located.removed_at is None and request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers={"ETag": headers["ETag"]})
    pieces = request.app.state.objects.stream(located)
    first = await anext(pieces)  # what cannot be read at all is a problem document, not an answer that breaks off

    async def body() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    media_type = "application/json" if kind == "record" else "text/plain; charset=utf-8"
    return StreamingResponse(body(), headers=headers, media_type=media_type)
