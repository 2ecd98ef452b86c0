"""The conventions of every HTTP answer, built once: strict bodies, problems, doors, idempotency, pages, versions.

A room's api.py makes `router = Routes(...)`, takes a `Door` (session + caller) and returns a `Reply` or a model.
"""

from app.http.bodies import Routes, read_body
from app.http.doors import Call, Door, Internal, calling, reading, writing
from app.http.idempotency import once
from app.http.pages import Cursor, Cursors, Limit, Page, paged
from app.http.replies import Reply, etag, require_version

__all__ = [
    "Call",
    "Cursor",
    "Cursors",
    "Door",
    "Internal",
    "Limit",
    "Page",
    "Reply",
    "Routes",
    "calling",
    "etag",
    "once",
    "paged",
    "read_body",
    "reading",
    "require_version",
    "writing",
]
