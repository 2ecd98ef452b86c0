"""The console's pages and where they are: who is asked first, then the page, then the headers that keep it harmless."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog
from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from app.clock import now
from app.console import door, login
from app.console.inside import Inside, Refused
from app.console.pages import approval, audit, batch, connectors, health, inbox, mission, missions, policies, release
from app.console.pages.base import Visit
from app.console.render import STATIC, address, page, versions
from app.errors import KINDS, Problem
from app.http.edge import on_bug, on_problem

log = structlog.get_logger("console")
Page = Callable[[Visit], Awaitable[Response]]
KINDS_OF_FILE = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


def signed_in(shown: Page) -> Callable[[Request], Awaitable[Response]]:
    """A page for whoever is signed in. Others are asked to sign in, and come back to it."""

    async def serve(request: Request) -> Response:
        try:
            caller = await door.signed_in(request)
        except door.SignIn:
            return ask_in(request)
        structlog.contextvars.bind_contextvars(tenant_id=str(caller.tenant))
        return await shown(Visit(request, caller, Inside(request.app, request, caller.secret)))

    return serve


def ask_in(request: Request) -> Response:
    asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if request.url.path == "/console":
        return login.shown(request)
    if request.method != "GET":
        return login.shown(request, 401, "You were signed out. Sign in; what you sent was not taken.", "/console")
    return RedirectResponse(address("login", next=asked), 303)


async def sign_in(request: Request) -> Response:
    onward = request.query_params.get("next", "")
    if request.method == "POST":
        sent = await door.form(request)
        return await login.by_link(request, sent.get("link"), sent.get("next"))
    link = request.query_params.get("link")
    if link is not None:
        return await login.by_link(request, link, onward)
    return login.shown(request, onward=onward)


async def sign_out(visit: Visit) -> Response:
    """Ends the session itself, in every process, not only its cookie."""
    await visit.form()
    try:
        await visit.inside.post("/v1/sessions/current", method="DELETE")
    except Refused as refused:
        log.warning("the session could not be ended", code=refused.code)
        raise
    response = RedirectResponse("/console", 303)
    door.forget(response, visit.request, door.COOKIE)
    return response


async def stream(visit: Visit) -> Response:
    """Facts as they come, from where the page ends; a browser that comes back says itself what it saw last."""
    after = visit.request.headers.get("last-event-id") or visit.asked("after", 50)
    if not after:
        after = str((await visit.inside.get("/v1/ledger/head"))["id"])
    return visit.handed_on("/v1/events", "text/event-stream", headers={"last-event-id": after})


async def static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in versions():
        raise HTTPException(404)
    fresh = request.query_params.get("v") == versions()[name]
    kept = "public, max-age=31536000, immutable" if fresh else "no-cache"
    headers = {"Cache-Control": kept, "X-Content-Type-Options": "nosniff"}
    return Response((STATIC / name).read_bytes(), 200, headers, KINDS_OF_FILE[Path(name).suffix])


def route(path: str, shown: Page, method: str = "GET") -> Route:
    return Route(f"/console{path}", signed_in(shown), methods=[method])


ROUTES = [
    route("", inbox.shown),
    Route("/console/login", sign_in, methods=["GET", "POST"]),
    Route("/console/login/oidc", login.leave),
    Route("/console/login/callback", login.come_back),
    Route("/console/static/{name}", static),
    route("/logout", sign_out, "POST"),
    route("/stream", stream),
    route("/batch", batch.shown),
    route("/batch", batch.decided, "POST"),
    route("/approvals/{id:uuid}", approval.shown),
    route("/approvals/{id:uuid}/decision", approval.decided, "POST"),
    route("/approvals/{id:uuid}/revision", approval.revised, "POST"),
    route("/approvals/{id:uuid}/take-back", approval.taken_back, "POST"),
    route("/approvals/{id:uuid}/vouch", approval.vouched_by, "POST"),
    route("/approvals/{id:uuid}/renewal", approval.renewed, "POST"),
    route("/approvals/{id:uuid}/break-glass", approval.glass_broken, "POST"),
    route("/approvals/{id:uuid}/escalation", approval.escalated, "POST"),
    route("/approvals/{id:uuid}/questions", approval.asked, "POST"),
    route("/approvals/{id:uuid}/questions/{question:uuid}/answer", approval.answered, "POST"),
    route("/missions", missions.shown),
    route("/missions/{id:uuid}", mission.shown),
    route("/missions/{id:uuid}/packet", mission.packet),
    route("/missions/{id:uuid}/packet.zip", mission.packet_zip),
    route("/missions/{id:uuid}/diff", mission.diff),
    route("/missions/{id:uuid}/artifacts/{artifact:uuid}", mission.artifact),
    route("/missions/{id:uuid}/end", mission.ended, "POST"),
    route("/missions/{id:uuid}/replay", mission.replayed, "POST"),
    route("/audit", audit.shown),
    route("/audit/{id:uuid}", audit.of_mission),
    route("/release", release.shown),
    route("/health", health.shown),
    route("/policies", policies.shown),
    route("/policies/{name}", policies.one),
    route("/connectors", connectors.shown),
    route("/connectors/{name}/switch", connectors.switched, "POST"),
]


class Site:
    """Answers everything under /console; what it asks, it asks of the app around it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.router = Router(ROUTES, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path == "/console" or path.startswith("/console/")):
            return await self.app(scope, receive, send)
        if path == "/console/":
            scope = {**scope, "path": "/console", "raw_path": b"/console"}
        request = Request(scope, receive)
        sending = Sending(send)
        try:
            await self.router(scope, receive, sending)
        except Exception as error:
            if sending.began:
                raise
            await (await failed(request, error))(scope, receive, send)


class Sending:
    """Whether an answer has begun; and no page leaves without the headers that keep it harmless."""

    def __init__(self, send: Send) -> None:
        self.send, self.began = send, False

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.began = True
            there = {name.lower() for name, _ in message["headers"]}
            more = [(k.lower().encode(), v.encode()) for k, v in door.HEADERS.items()]
            message["headers"] = [*message["headers"], *((k, v) for k, v in more if k not in there)]
        await self.send(message)


async def failed(request: Request, error: Exception) -> Response:
    """The page of what could not be done. What passes by itself is asked for again by the browser, by itself."""
    if isinstance(error, Refused):
        if error.code == "unauthenticated":
            return ask_in(request)
        document, later = error.document, error.headers
    else:
        answer = await (on_problem(request, known) if (known := problem_of(error)) else on_bug(request, error))
        document, later = json.loads(bytes(answer.body)), answer.headers
    kind = KINDS.get(document.get("code", ""), KINDS["internal"])
    wait = {"Retry-After": later["retry-after"]} if "retry-after" in later else {}
    # what sends a form again, or a one-time code of the way in, does it only once
    way_in = request.url.path.startswith("/console/login")
    again = request.method == "GET" and not way_in and bool(document.get("retryable"))
    if again and wait:
        wait["Refresh"] = wait["Retry-After"]
    content = page("problem.html", problem=document, kind=kind, at=now(), again=again, wait_s=wait.get("Refresh"))
    return door.html(content, int(document.get("status", 500)), wait)


def problem_of(error: Exception) -> Problem | None:
    """What a page said of itself; None for what nobody foresaw."""
    if isinstance(error, HTTPException):
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "validation")
        return Problem(code, "There is no such page." if code == "not_found" else str(error.detail))
    return error if isinstance(error, Problem) else None
