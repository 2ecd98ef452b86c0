"""Any id in, the whole story out: one line from the request to the read-back, then the proof of it."""

from typing import Any

from fastapi import Response

from app.audit.find import LONGEST
from app.console.inside import Refused
from app.console.pages.base import Visit

MARKS = {"anchored": "good", "chained": "chain", "broken": "bad"}
NOTHING: dict[str, Any] = {"story": None, "missing": False, "verdict": None}


async def shown(visit: Visit) -> Response:
    """The story of what was asked for; with `proof`, recomputed and held against the anchors."""
    said = visit.asked("q", LONGEST).strip()
    return await story(visit, said) if said else visit.page("audit.html", "audit", q="", **NOTHING)


async def of_mission(visit: Visit) -> Response:
    return await story(visit, str(visit.id))


async def story(visit: Visit, said: str) -> Response:
    prove = bool(visit.asked("proof", 1))
    found = await visit.inside.try_get("/v1/explain", id=said, verify="true" if prove else "false")
    if isinstance(found, Refused):
        if found.status not in (404, 422):
            raise found
        return visit.page("audit.html", "audit", 404, q=said, **NOTHING | {"missing": True})
    steps = [{**one, "mark": MARKS.get(one["proof"])} for one in found["steps"]]
    return visit.page(
        "audit.html", "audit", q=said, story=found | {"steps": steps}, missing=False, verdict=found["proof"]
    )
