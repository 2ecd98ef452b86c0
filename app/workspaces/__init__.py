"""Documents ingested, indexed, searched.

A document is read into UTF-8 text (`source`, kept by its hash) and cut into passages: byte spans of that text under a
heading path, found by full text search weighted by rarity. Missions search and read here; what they cite are spans. How
far a source is trusted is said by rules of the workspace.
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
from app.workspaces.trust import LEVELS, Rule, Rules, lowest, read_rules, trust_rules

__all__ = [
    "LEVELS",
    "Apart",
    "Document",
    "Found",
    "Ingested",
    "Reading",
    "Rule",
    "Rules",
    "Span",
    "Unreadable",
    "Workspace",
    "current_document",
    "document_path",
    "documents",
    "find_workspace",
    "ingest_document",
    "kind_of",
    "lowest",
    "paths_of",
    "read_document",
    "read_rules",
    "read_span",
    "remove_document",
    "router",
    "search",
    "trust_rules",
    "workspaces",
]
