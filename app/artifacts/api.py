"""A mission's artifacts."""

from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Request, Response
from pydantic import BaseModel

from app import ledger
from app.artifacts.queries import Artifact, of_mission, one
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


class ArtifactView(ArtifactSummary):
    """An artifact with its content; sha256 is over the content's RFC 8785 bytes."""

    content: dict[str, Any]


def summary(artifact: Artifact) -> dict[str, Any]:
    return {
        "id": artifact.id,
        "mission_id": artifact.mission,
        "schema_name": artifact.schema_name,
        "schema_version": artifact.schema_version,
        "producer": artifact.producer,
        "attempt": artifact.attempt,
        "sha256": artifact.sha256.hex(),
        "bytes": len(artifact.bytes),
        "created_at": iso(artifact.created_at),
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
    """The artifact with its content. It never changes, so its ETag is its hash."""
    artifact = await one(door.session, mission_id, artifact_id)
    if artifact is None:
        raise Problem("not_found", "There is no such artifact.")
    tag = f'"{artifact.sha256.hex()}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag})
    return Reply({**summary(artifact), "content": artifact.content()}, headers={"ETag": tag}).response()
