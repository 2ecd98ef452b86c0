"""Documents ingested, indexed, searched.

A document is read into UTF-8 text (`source`, kept by its hash) and cut into passages: byte spans of that text under a
heading path, found by full text search weighted by rarity. Missions search and read here; what they cite are spans.
"""

from app.workspaces.actions import Ingested, document_path, ingest_document, remove_document
from app.workspaces.api import router
from app.workspaces.extract import Unreadable, kind_of
from app.workspaces.queries import (
    Apart,
    Document,
    Found,
    Span,
    Workspace,
    current_document,
    documents,
    find_workspace,
    paths_of,
    read_span,
    search,
    workspaces,
)
from app.workspaces.reading import Reading, read_document

__all__ = [
    "Apart",
    "Document",
    "Found",
    "Ingested",
    "Reading",
    "Span",
    "Unreadable",
    "Workspace",
    "current_document",
    "document_path",
    "documents",
    "find_workspace",
    "ingest_document",
    "kind_of",
    "paths_of",
    "read_document",
    "read_span",
    "remove_document",
    "router",
    "search",
    "workspaces",
]
