"""The rules: what is allowed, denied or asked, and who approves what."""

from urllib.parse import quote

from fastapi import Response

from app.console.pages.base import Visit


async def shown(visit: Visit) -> Response:
    found, rules = await visit.gather(visit.inside.get("/v1/policies"), visit.inside.get("/v1/approval-rules"))
    names = await visit.names(*(one["created_by"] for one in [*found, *rules["items"]]))
    return visit.page("policies.html", "policies", policies=found, rules=rules["items"], names=names)


async def one(visit: Visit) -> Response:
    name = visit.request.path_params["name"]
    found = await visit.inside.get(f"/v1/policies/{quoted(name)}")
    names = await visit.names(found["created_by"], *(one["created_by"] for one in found["history"]))
    return visit.page("policy.html", "policies", found=found, names=names)


def quoted(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")
