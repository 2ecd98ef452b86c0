"""The pages: /docs, one per operation, /problems, and one per problem at the address that `type` names."""

import base64
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

from app.errors import KINDS, Problem
from app.reference import document as reading
from app.reference.problems import CAUSES

HERE = Path(__file__).parent
STYLE = (HERE / "style.css").read_text()
DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
# Nothing but this one style, known by its hash: no script, no request to anywhere, no frame around it.
CSP = f"default-src 'none'; style-src 'sha256-{DIGEST}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
SHOWN_REQUEST = "8c1f6f0e7d2b4c5a9e3d1f0a2b4c6d8e"
FIRST = f"""export MISSION_ROOT_URL=…        # as `mission-root up` prints it
export MISSION_ROOT_API_KEY=…    # likewise, one per role
curl -H "Authorization: Bearer {reading.KEY}" "{reading.URL}/v1/whoami\""""


def install(app: FastAPI, *, operations: bool) -> None:
    """Adds the pages of the problems, and with `operations` those of the API itself, from its own OpenAPI document."""
    app.state.above_problems = ("/docs", "All operations") if operations else None
    app.add_api_route("/problems", problems_page, methods=["GET"], include_in_schema=False)
    app.add_api_route("/problems/{code}", problem_page, methods=["GET"], include_in_schema=False)
    if operations:
        app.add_api_route("/docs", index_page, methods=["GET"], include_in_schema=False)
        app.add_api_route("/docs/{operation}", operation_page, methods=["GET"], include_in_schema=False)


async def index_page(request: Request) -> HTMLResponse:
    found = request.app.openapi()
    groups: dict[str, list[dict[str, str]]] = {}
    for method, path, operation in reading.operations(found):
        one = {"method": method, "path": path, "id": operation["operationId"], "summary": operation["summary"]}
        groups.setdefault(operation["tags"][0], []).append(one)
    about = found["info"]["description"].split("\n\n")
    return page(
        kind="index", title=found["info"]["title"], up=None, about=about, first=FIRST, groups=list(groups.items())
    )


async def operation_page(operation: str, request: Request) -> HTMLResponse:
    found = request.app.openapi()
    match = next((one for one in reading.operations(found) if one[2]["operationId"] == operation), None)
    if match is None:
        raise Problem("not_found", "There is no such operation.")
    method, path, said = match
    answers = {status: one for status, one in said["responses"].items() if status < "300"}
    status = min(answers)
    media: dict[str, Any] = next(iter(answers[status].get("content", {}).values()), {})
    seen = reading.examples().get(operation)
    return page(
        kind="operation",
        title=said["summary"],
        up=("/docs", "All operations"),
        method=method,
        path=path,
        about=[one for one in said.get("description", "").split("\n\n") if one],
        parameters=[parameter(found, one) for one in said.get("parameters", ())],
        body=reading.rows(found, reading.body_of(said)[1].get("schema")),
        curl=reading.curl(found, method, path, said),
        example={"status": seen["status"], "body": pretty(seen["body"])} if seen else None,
        status=status,
        answer=reading.rows(found, media.get("schema")),
        refusals=[(code, one["description"].split(", ")) for code, one in said["responses"].items() if code >= "400"],
    )


def parameter(document: dict[str, Any], one: dict[str, Any]) -> dict[str, Any]:
    member = {"description": one.get("description", "")} | one["schema"]
    return {
        "name": one["name"],
        "required": one.get("required", False),
        "type": f"{one['in']}, {reading.type_of(document, one['schema'])}",
        "about": reading.about(member, reading.resolved(document, one["schema"])),
    }


async def problems_page(request: Request) -> HTMLResponse:
    return page(kind="problems", title="Problems", up=request.app.state.above_problems, problems=list(KINDS.items()))


async def problem_page(code: str) -> HTMLResponse:
    """What a problem's `type` shows to a person."""
    kind = KINDS.get(code)
    if kind is None:
        raise Problem("not_found", "There is no such problem type.")
    shown = Problem(code, kind.meaning).document("/v1/missions", SHOWN_REQUEST)
    return page(
        kind="problem",
        title=kind.title,
        up=("/problems", "All problems"),
        code=code,
        problem=kind,
        cause=CAUSES.get(code, kind.meaning),
        command="mission-root explain REQUEST_ID      # what a request did" if code == "internal" else "",
        example=pretty(shown),
    )


def page(**values: Any) -> HTMLResponse:
    return HTMLResponse(
        template().render(style=markup(STYLE), **values),
        headers={"Content-Security-Policy": CSP, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"},
    )


def markup(ours: str) -> Any:
    """A text of our own that goes onto the page as it is."""
    from markupsafe import Markup

    return Markup(ours)  # noqa: S704  # the style sheet beside this file, and what `told` has escaped


def told(words: str) -> Any:
    """A sentence in which `names` stand out."""
    from markupsafe import escape

    parts = [str(escape(part)) for part in words.split("`")]
    whole = len(parts) % 2 == 1  # a backtick without its partner is one
    return (
        markup("".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))) if whole else words
    )


def pretty(body: Any) -> str:
    return body if isinstance(body, str) else json.dumps(body, indent=2, ensure_ascii=False)


@lru_cache(maxsize=1)
def template() -> Any:
    import jinja2

    from app.visible import visible

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )  # fmt: skip
    environment.filters["told"] = told
    return environment.from_string((HERE / "page.html").read_text())
