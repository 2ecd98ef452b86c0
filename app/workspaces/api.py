"""Workspaces and their documents."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel

from app.caller import Caller
from app.canonical import sha256
from app.clock import iso
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import Cursor, Door, Limit, Page, Reply, Routes, paged, read_body, reading, writing
from app.http.doors import Bearer, admit, mark
from app.workspaces.actions import READER, Ingested, document_path, ingest_document, remove_document
from app.workspaces.extract import Unreadable
from app.workspaces.queries import Document, Workspace, current_document, documents, find_workspace, workspaces
from app.workspaces.reading import read_document

router = Routes(tags=["workspaces"])

Name = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="The workspace's name.")]
DocumentPath = Annotated[
    str, Query(min_length=1, max_length=500, description="Where the document stands in the workspace.")
]


class WorkspaceView(BaseModel):
    """A workspace and the size of what is in it. bytes and passages count extracted text."""

    id: UUID
    name: str
    documents: int
    bytes: int
    passages: int
    created_at: str


class DocumentView(BaseModel):
    """The current version of a document. `source` is the SHA-256 of its text: what citations point into."""

    id: UUID
    document: str
    version: int
    title: str
    kind: Literal["markdown", "rst", "html", "pdf", "text"]
    source: str
    content_sha256: str
    bytes: int
    passages: int
    ingested_at: str


class IngestedView(BaseModel):
    """What an upload did."""

    outcome: Literal["added", "updated", "unchanged"]
    workspace: str
    document: str
    id: UUID
    version: int
    source: str
    passages: int


def workspace_view(found: Workspace) -> dict[str, Any]:
    return {
        "id": found.id,
        "name": found.name,
        "documents": found.documents,
        "bytes": found.bytes,
        "passages": found.passages,
        "created_at": iso(found.created_at),
    }


def document_view(found: Document) -> dict[str, Any]:
    return {
        "id": found.id,
        "document": found.path,
        "version": found.version,
        "title": found.title,
        "kind": found.kind,
        "source": found.source_sha256.hex(),
        "content_sha256": found.content_sha256.hex(),
        "bytes": found.bytes,
        "passages": found.passages,
        "ingested_at": iso(found.ingested_at),
    }


@router.get("/v1/workspaces", operation_id="listWorkspaces", response_model=Page[WorkspaceView], summary="Workspaces")
async def list_workspaces(
    request: Request,
    door: Annotated[Door[ReadSession], reading("workspaces.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Workspaces by name."""
    found = partial(workspaces, door.session)
    return await paged(request, "workspaces", limit, cursor, found, workspace_view, by=["name"])


@router.get(
    "/v1/workspaces/{name}/documents",
    operation_id="listDocuments",
    response_model=Page[DocumentView],
    summary="Documents of a workspace",
)
async def list_documents(
    name: Name,
    request: Request,
    door: Annotated[Door[ReadSession], reading("workspaces.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Current documents by path."""
    workspace = await find_workspace(door.session, name)
    if workspace is None:
        raise Problem("not_found", "There is no such workspace.")
    found = partial(documents, door.session, workspace)
    return await paged(request, f"documents:{workspace}", limit, cursor, found, document_view, by=["path"])


async def admitted(request: Request, bearer: Bearer) -> AsyncIterator[Caller]:
    # A session of its own: the transaction must be over before a large body is read and a PDF is taken apart.
    async with request.app.state.database.read() as session:
        caller = (await admit(session, request, bearer, "workspaces.write")).caller
    yield caller


UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The document's bytes, of any content type.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.put(
    "/v1/workspaces/{name}/documents",
    operation_id="putDocument",
    response_model=IngestedView,
    summary="Add or replace a document",
    openapi_extra=UPLOAD,
    responses={201: {"model": IngestedView, "description": "The document was not there before."}},
)
async def put_document(
    name: Name, path: DocumentPath, request: Request, caller: Annotated[Caller, mark(admitted, "workspaces.write")]
) -> Response:
    """Reads Markdown, reStructuredText, text, HTML or PDF, recognised by the path's suffix, and makes it searchable.

    The workspace is made when it is new. The same bytes again change nothing.
    """
    path, state = document_path(path), request.app.state
    data = await read_body(request, state.settings.max_document_bytes)
    async with state.database.read() as session:
        await session.enter(caller.tenant)
        done = await already_there(session, name, path, data)
    if done is None:
        read = await read_document(path, data)
        if isinstance(read, Unreadable):
            code = "too_large" if read.code == "too_large" else "validation"
            raise Problem(code, read.detail, errors=[{"parameter": "path", "detail": read.detail}], reason=read.code)
        laid = await state.objects.lay_down(caller.tenant, read.source)
        async with state.database.write() as session:
            await session.enter(caller.tenant)
            done = await ingest_document(session, caller, name, path, sha256(data), read, laid)
    return Reply(
        {
            "outcome": done.outcome,
            "workspace": name,
            "document": path,
            "id": done.document,
            "version": done.version,
            "source": done.source_sha256.hex(),
            "passages": done.passages,
        },
        201 if done.outcome == "added" else 200,
    ).response()


async def already_there(session: ReadSession, name: str, path: str, data: bytes) -> Ingested | None:
    """The unchanged document, found without reading the upload."""
    workspace = await find_workspace(session, name)
    known = await current_document(session, workspace, path) if workspace else None
    if known is None or known.content_sha256 != sha256(data) or known.reader != READER:
        return None
    return Ingested("unchanged", known.workspace, known.id, known.version, known.source_sha256, known.passages)


@router.delete(
    "/v1/workspaces/{name}/documents",
    operation_id="removeDocument",
    status_code=204,
    response_class=Response,
    summary="Remove a document",
)
async def delete_document(
    name: Name, path: DocumentPath, door: Annotated[Door[WriteSession], writing("workspaces.write")]
) -> Response:
    """Takes a document and its older versions out of the workspace. Finished missions keep the text they cite."""
    if not await remove_document(door.session, door.caller, name, document_path(path)):
        raise Problem("not_found", "There is no such document.")
    return Response(status_code=204)
