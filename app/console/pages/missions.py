"""Missions: filtered, newest first, a page at a time."""

from fastapi import Response

from app.console.inside import Refused
from app.console.pages.base import Visit
from app.missions.moves import STATES

PAGE = 50


async def shown(visit: Visit) -> Response:
    after = await visit.end()
    asked = {
        "state": visit.asked("state"),
        "mission_type": visit.asked("mission_type"),
        "label": visit.asked("label"),
        "created_after": visit.asked("created_after"),
        "cursor": visit.asked("cursor", 1000),
    }
    found, types = await visit.gather(
        visit.inside.try_get("/v1/missions", limit=PAGE, **asked), visit.inside.get("/v1/mission-types")
    )
    wrong = None
    if isinstance(found, Refused):
        if found.status != 422:
            raise found
        wrong, found = found.document, {"items": [], "next_cursor": None, "has_more": False}
    names = await visit.names(*(one["requested_by"] for one in found["items"]))
    kinds = [one["name"] for one in types]
    return visit.page(
        "missions.html",
        "missions",
        422 if wrong else 200,
        after,
        found=found,
        asked=asked,
        names=names,
        states=STATES,
        kinds=kinds,
        wrong=wrong,
    )
