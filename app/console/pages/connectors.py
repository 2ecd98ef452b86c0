"""Business systems: which there are, whether changes to them are halted, and the switch."""

import secrets
from typing import Any

from fastapi import Response
from fastapi.responses import RedirectResponse

from app.console.inside import Refused
from app.console.pages.base import Visit
from app.console.pages.policies import quoted
from app.identity import allow


async def shown(visit: Visit) -> Response:
    return await render(visit)


async def render(
    visit: Visit, status: int = 200, problem: dict[str, Any] | None = None, typed: str = "", which: str = ""
) -> Response:
    found, layers = await visit.gather(
        visit.inside.get("/v1/connectors", limit=100), visit.inside.get("/v1/tool-layers", limit=100)
    )
    names = await visit.names(*(one["switch"]["changed_by"] for one in found["items"]))
    return visit.page(
        "connectors.html", "connectors", status, connectors=found["items"], layers=layers["items"], names=names, problem=problem,
        typed=typed, which=which, once=secrets.token_hex(16),
        may_halt=allow("connectors.halt", visit.caller), may_resume=allow("connectors.resume", visit.caller),
    )  # fmt: skip


async def switched(visit: Visit) -> Response:
    sent, name = await visit.form(), visit.request.path_params["name"]
    verb = "resume" if sent.get("verb") == "resume" else "halt"
    try:
        await visit.inside.post(
            f"/v1/connectors/{quoted(name)}/{verb}", {"reason": sent.get("reason")}, idempotency_key=sent.get("once")
        )
    except Refused as refused:
        if refused.status in (401, 404):
            raise
        return await render(visit, refused.status, refused.document, sent.get("reason"), name)
    return RedirectResponse("/console/connectors", 303)
