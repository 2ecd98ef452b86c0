"""The conventions of every HTTP answer, built once: strict bodies, problems, doors, idempotency, pages, versions.

A room's api.py makes `router = Routes(...)`, takes a `Door` (session + caller) and returns a `Reply` or a model.
"""

from app.http.bodies import Routes, read_body
from app.http.doors import Door, Internal, reading, writing
from app.http.idempotency import once
from app.http.pages import Cursor, Cursors, Limit, Page, paged
from app.http.replies import Reply, etag, require_version

__all__ = [
    "Cursor",
    "Cursors",
    "Door",
    "Internal",
    "Limit",
    "Page",
    "Reply",
    "Routes",
    "etag",
    "once",
    "paged",
    "read_body",
    "reading",
    "require_version",
    "writing",
]
