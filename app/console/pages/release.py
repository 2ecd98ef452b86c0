"""Gates computed from evidence, and the ladder that they allow to be climbed."""

from fastapi import Response

from app.console.pages.base import Visit


async def shown(visit: Visit) -> Response:
    gates, ladder = await visit.gather(visit.inside.get("/v1/release/gates"), visit.inside.get("/v1/release/ladder"))
    return visit.page("release.html", "release", gates=gates["items"], ladder=ladder)
