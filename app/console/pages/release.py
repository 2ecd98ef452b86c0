"""Gates computed from evidence, and the ladder that they allow to be climbed."""

from fastapi import Response

from app.console.inside import Refused
from app.console.pages.base import Visit


async def shown(visit: Visit) -> Response:
    """A root that serves no gates says so: the page is there, and knows nothing."""
    gates, ladder = await visit.gather(
        visit.inside.try_get("/v1/release/gates", environment=visit.environment),
        visit.inside.try_get("/v1/release/ladder"),
    )
    problem = next((one.document for one in (gates, ladder) if isinstance(one, Refused) and one.status != 404), None)
    return visit.page(
        "release.html", "release",
        gates=[] if isinstance(gates, Refused) else gates.get("items", []),
        ladder={} if isinstance(ladder, Refused) else ladder,
        served=not isinstance(gates, Refused), problem=problem,
    )  # fmt: skip
