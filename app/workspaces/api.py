"""Workspaces and their documents."""

import unicodedata
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.caller import Caller
from app.canonical import sha256
from app.clock import iso
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import (
    Cursor,
    Door,
    Limit,
    Page,
    Reply,
    Routes,
    etag,
    paged,
    read_body,
    reading,
    require_version,
    writing,
)
from app.http.doors import admitting
from app.workspaces.actions import (
    READER,
    Ingested,
    class_sources,
    document_path,
    ingest_document,
    remove_document,
)
from app.workspaces.extract import Unreadable
from app.workspaces.queries import Document, Workspace, current_document, documents, find_workspace, workspaces
from app.workspaces.reading import read_document
from app.workspaces.trust import Of, Rule, Rules, trust_history, trust_rules
from colony_client.artifacts import Trust, Utc

router = Routes(tags=["workspaces"])

Name = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="The workspace's name.")]
_LETTERS = r"[^/*\x00-\x1f\x7f-\x9f]+"
_PART = rf"(?:\*\*?|\*?{_LETTERS}(?:\*{_LETTERS})*\*?)"  # ** stands alone between slashes
PATTERN = rf"^{_PART}(?:/{_PART})*$"
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
    written_at: str | None
    trust: Trust


class TrustRule(BaseModel):
    """Documents by path, or records by connector/kind/id. `*` stays within one part of a path, `**` is any number of parts."""

    model_config = ConfigDict(extra="forbid")
    of: Of = "documents"
    pattern: str = Field(min_length=1, max_length=200, pattern=PATTERN, examples=["policies/**"])
    trust: Trust


class TrustAsk(BaseModel):
    """All rules of a workspace, in order: the first that fits counts."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "rules": [
                        {"of": "documents", "pattern": "policies/**", "trust": "authoritative"},
                        {"of": "documents", "pattern": "wiki/**", "trust": "untrusted"},
                        {"of": "records", "pattern": "sample_crm/**", "trust": "authoritative"},
                    ]
                }
            ]
        },
    )
    rules: list[TrustRule] = Field(max_length=100)


class TrustVersion(BaseModel):
    version: int
    rules: list[TrustRule]
    created_by: UUID | None
    created_at: str | None


class TrustView(TrustVersion):
    """The rules in force and the newest 200 versions before them; version 0 has none, and everything is `normal`."""

    workspace: str
    history: list[TrustVersion]


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


def document_view(rules: Rules, found: Document) -> dict[str, Any]:
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
        "written_at": iso(found.written_at) if found.written_at else None,
        "trust": rules.trust_of("documents", found.path),
    }


def version_view(found: Rules) -> dict[str, Any]:
    return {
        "version": found.version,
        "rules": [{"of": rule.of, "pattern": rule.pattern, "trust": rule.trust} for rule in found.rules],
        "created_by": found.created_by,
        "created_at": iso(found.created_at) if found.created_at else None,
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
    view = partial(document_view, await trust_rules(door.session, workspace))
    return await paged(request, f"documents:{workspace}", limit, cursor, found, view, by=["path"])


@router.get(
    "/v1/workspaces/{name}/trust",
    operation_id="getTrust",
    response_model=TrustView,
    summary="How far sources are trusted",
)
async def get_trust(name: Name, door: Annotated[Door[ReadSession], reading("workspaces.read")]) -> Response:
    """The rules by which a workspace's documents, and the records its missions read, are classed. The ETag is for a change."""
    workspace = await find_workspace(door.session, name)
    if workspace is None:
        raise Problem("not_found", "There is no such workspace.")
    versions = await trust_history(door.session, workspace) or [Rules()]
    body = {"workspace": name, **version_view(versions[0]), "history": [version_view(one) for one in versions[1:]]}
    return Reply(body, headers={"ETag": etag(versions[0].version)}).response()


@router.put(
    "/v1/workspaces/{name}/trust",
    operation_id="putTrust",
    response_model=TrustVersion,
    summary="Say how far sources are trusted",
)
async def put_trust(
    name: Name, ask: TrustAsk, request: Request, door: Annotated[Door[WriteSession], writing("workspaces.trust")]
) -> Response:
    """Replaces all rules by a new version. Reviews from now on go by it; what was reviewed before keeps what it says.

    The workspace is made when it is new. Changing rules that are there needs If-Match.
    """

    def seen(present: Rules) -> None:
        if present.version or "if-match" in request.headers:
            require_version(request, present.version, version_view(present))

    rules = [Rule(one.of, as_kept(one), one.trust) for one in ask.rules]
    made = await class_sources(door.session, door.caller, name, rules, seen)
    return Reply(version_view(made), headers={"ETag": etag(made.version)}).response()


def as_kept(rule: TrustRule) -> str:
    """A pattern in the form of what it is held against: paths of documents are kept in NFC, ids of records as they came."""
    return unicodedata.normalize("NFC", rule.pattern) if rule.of == "documents" else rule.pattern


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
    name: Name,
    path: DocumentPath,
    request: Request,
    caller: Annotated[Caller, admitting("workspaces.write")],
    written_at: Annotated[Utc | None, Query(description="When it was last changed, as far as you know.")] = None,
) -> Response:
    """Reads Markdown, reStructuredText, text, HTML or PDF, recognised by the path's suffix, and makes it searchable.

    The workspace is made when it is new. The same bytes again change nothing. Of written_at and what the document says of
    itself the older counts.
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
            owns = state.allow("workspaces.trust", caller)
            done = await ingest_document(
                session, caller, name, path, sha256(data), read, laid, written_at, may_set_trust=owns
            )
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
    name: Name, path: DocumentPath, request: Request, door: Annotated[Door[WriteSession], writing("workspaces.write")]
) -> Response:
    """Takes a document and its older versions out of the workspace. Finished missions keep the text they cite.

    At a path that counts as authoritative that takes the action workspaces.trust, as writing there does.
    """
    owns = request.app.state.allow("workspaces.trust", door.caller)
    if not await remove_document(door.session, door.caller, name, document_path(path), may_set_trust=owns):
        raise Problem("not_found", "There is no such document.")
    return Response(status_code=204)
