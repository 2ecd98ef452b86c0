"""Taking documents in and out of a workspace.

Reading a document (reading.py) is processor time, up to minutes for a long PDF, and must not hold a transaction open: it
comes first and without a session; `ingest_document` then writes what was read in one transaction.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import text

from app import ledger
from app.artifacts import Laid, keep_blob
from app.caller import Caller
from app.clock import new_id
from app.db import WriteSession
from app.errors import Problem
from app.workspaces.passages import Passage
from app.workspaces.queries import current_document, find_workspace
from app.workspaces.reading import Reading
from app.workspaces.trust import Rule, Rules, put_trust, trust_rules

READER = 1  # raise it when extraction or splitting changes: documents ingested again are then read again
AT_ONCE = 2000  # passages per INSERT, so that no single statement runs for long

ADD_WORKSPACE = text("""INSERT INTO workspace (tenant, id, name) VALUES (:tenant, :id, :name)
                        ON CONFLICT (tenant, name) DO NOTHING RETURNING id""")
ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(hashtextextended(CAST(CAST(:workspace AS uuid) AS text), 13))")
NEXT_VERSION = text("""SELECT COALESCE(max(version), 0) + 1 FROM document
                       WHERE tenant = :tenant AND workspace = :workspace AND path = :path""")
RETIRE = text("""UPDATE document SET state = :state, retired_at = COALESCE(retired_at, clock_timestamp())
  WHERE tenant = :tenant AND workspace = :workspace AND path = :path
    AND (state = 'current' OR state = 'replaced' AND CAST(:state AS text) = 'removed')""")
ADD_DOCUMENT = text("""
  INSERT INTO document (tenant, id, workspace, path, version, title, kind, content_sha256, source_sha256, bytes,
    passages, reader, written_at)
  VALUES (:tenant, :id, :workspace, :path, :version, :title, :kind, :content, :source, :bytes, :passages, :reader,
    CASE WHEN CAST(:written AS timestamptz) > now() THEN now() ELSE CAST(:written AS timestamptz) END)""")
ADD_PASSAGES = text("""
  INSERT INTO passage (tenant, workspace, document, ordinal, start_byte, end_byte, heading, body)
  SELECT :tenant, :workspace, :document, p.* FROM unnest(CAST(:ordinals AS int[]), CAST(:starts AS bigint[]),
    CAST(:ends AS bigint[]), CAST(:headings AS text[]), CAST(:bodies AS text[])) p""")
DROP_PASSAGES = text("DELETE FROM passage WHERE tenant = :tenant AND document = :document")


@dataclass(frozen=True, slots=True)
class Ingested:
    """What ingestion did, and the document version that is current after it."""

    outcome: Literal["added", "updated", "unchanged"]
    workspace: UUID
    document: UUID
    version: int
    source_sha256: bytes
    passages: int


def document_path(path: str) -> str:
    """A document's path as it is kept: NFC, relative, with slashes. Raises Problem validation."""
    path = unicodedata.normalize("NFC", path).replace("\\", "/")
    parts = path.split("/")
    if not 1 <= len(path.encode()) <= 500 or re.search(r"[\x00-\x1f\x7f-\x9f]", path) or {"", ".", ".."} & set(parts):
        detail = "relative, at most 500 bytes, without empty, . or .. parts and control characters"
        raise Problem("validation", f"path must be {detail}.", errors=[{"parameter": "path", "detail": detail}])
    return path


async def ingest_document(
    session: WriteSession,
    caller: Caller,
    workspace_name: str,
    path: str,
    content_sha256: bytes,
    read: Reading,
    laid: Laid,
    written: datetime | None = None,
    *,
    may_set_trust: bool,
) -> Ingested:
    """Makes what was read the current version of a path; the workspace is made when it is new.

    content_sha256 is of the bytes it was read from; the same bytes again change nothing. laid: the text that was read, laid
    down. written: when it was last changed, as whoever brings it says; of this and the document's own word the older counts.
    Records `workspace.created` and `document.added` or `document.updated`. Raises Problem forbidden for a path that counts as
    authoritative when the caller may not say what does.
    """
    workspace = await _workspace(session, caller, workspace_name)
    await session.execute(ONE_AT_A_TIME, {"workspace": workspace})
    if not may_set_trust:
        await _refuse_authoritative(session, workspace, path)
    known = await current_document(session, workspace, path)
    if known and known.content_sha256 == content_sha256 and known.reader == READER:
        return Ingested("unchanged", workspace, known.id, known.version, known.source_sha256, known.passages)
    place = {"tenant": caller.tenant, "workspace": workspace, "path": path}
    if known:
        await session.execute(DROP_PASSAGES, {"tenant": caller.tenant, "document": known.id})
        await session.execute(RETIRE, {**place, "state": "replaced"})
    dated = [moment for moment in (written, read.written) if moment]
    passages, digest = read.passages, await keep_blob(session, caller.tenant, laid)
    document, version = new_id(), await session.scalar(NEXT_VERSION, place)
    await session.execute(
        ADD_DOCUMENT,
        {
            **place,
            "id": document,
            "version": version,
            "title": read.title,
            "kind": read.kind,
            "content": content_sha256,
            "source": digest,
            "bytes": laid.size,
            "passages": len(passages),
            "reader": READER,
            "written": min(dated) if dated else None,
        },
    )
    await _add_passages(session, caller.tenant, workspace, document, passages)
    await ledger.record(
        session,
        caller,
        "document.updated" if known else "document.added",
        caller.tenant,
        workspace=workspace,
        document=document,
        version=version,
        replaces=known.id if known else None,
        bytes=laid.size,
        content_sha256=content_sha256.hex(),
        source_sha256=digest.hex(),
        passages=len(passages),
    )
    return Ingested("updated" if known else "added", workspace, document, version, digest, len(passages))


async def remove_document(
    session: WriteSession, caller: Caller, workspace_name: str, path: str, *, may_set_trust: bool
) -> bool:
    """Takes a path out of its workspace, with every older version. False: it is not there. Records `document.removed`.

    The stored text stays under its hash for as long as missions cite it; retention, not this verb, erases it. Raises Problem
    forbidden as ingest_document does: what an authoritative folder no longer says counts, too.
    """
    workspace = await find_workspace(session, workspace_name)
    if workspace is None:
        return False
    await session.execute(ONE_AT_A_TIME, {"workspace": workspace})
    if not may_set_trust:
        await _refuse_authoritative(session, workspace, path)
    known = await current_document(session, workspace, path)
    if known is None:
        return False
    await session.execute(DROP_PASSAGES, {"tenant": caller.tenant, "document": known.id})
    await session.execute(RETIRE, {"tenant": caller.tenant, "workspace": workspace, "path": path, "state": "removed"})
    await ledger.record(
        session,
        caller,
        "document.removed",
        caller.tenant,
        workspace=workspace,
        document=known.id,
        version=known.version,
    )
    return True


async def class_sources(
    session: WriteSession, caller: Caller, workspace_name: str, rules: Sequence[Rule], seen: Callable[[Rules], None]
) -> Rules:
    """Replaces a workspace's rules of trust, one change at a time; the workspace is made when it is new.

    seen is shown the rules in force first, and may refuse to go on.
    """
    workspace = await _workspace(session, caller, workspace_name)
    await session.execute(ONE_AT_A_TIME, {"workspace": workspace})
    present = await trust_rules(session, workspace)
    seen(present)
    return await put_trust(session, caller, workspace, present.version + 1, rules)


async def _refuse_authoritative(session: WriteSession, workspace: UUID, path: str) -> None:
    if (await trust_rules(session, workspace)).trust_of("documents", path) == "authoritative":
        raise Problem(
            "forbidden",
            f"What stands at {path} counts as authoritative in this workspace; changing it takes the action workspaces.trust.",
            action="workspaces.trust",
        )


async def _workspace(session: WriteSession, caller: Caller, name: str) -> UUID:
    known = await find_workspace(session, name)
    if known is not None:
        return known
    made: UUID | None = await session.scalar(ADD_WORKSPACE, {"tenant": caller.tenant, "id": new_id(), "name": name})
    if made is not None:
        await ledger.record(session, caller, "workspace.created", caller.tenant, workspace=made)
        return made
    other = await find_workspace(session, name)  # made by somebody else a moment ago
    assert other is not None
    return other


async def _add_passages(
    session: WriteSession, tenant: UUID, workspace: UUID, document: UUID, passages: list[Passage]
) -> None:
    for first in range(0, len(passages), AT_ONCE):
        some = passages[first : first + AT_ONCE]
        await session.execute(
            ADD_PASSAGES,
            {
                "tenant": tenant,
                "workspace": workspace,
                "document": document,
                "ordinals": [p.ordinal for p in some],
                "starts": [p.start for p in some],
                "ends": [p.end for p in some],
                "headings": [p.heading for p in some],
                "bodies": [p.body for p in some],
            },
        )
