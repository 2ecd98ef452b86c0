"""The CRM's HTTP door. Every route but /health needs a bearer token; only the write token may change anything."""

import hmac
import json
import re
import time
from base64 import b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from sample_crm.problems import Problem, bad_fields
from sample_crm.settings import Settings
from sample_crm.store import Store

SAMPLE = Path(__file__).with_name("sample_data.json")
LARGEST_BODY = 64 * 1024
KEY = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass
class Failures:
    """How PATCH misbehaves. Only a test can hand one to `create_app`: no setting, header or route reaches it."""

    before_apply_s: float = 0
    after_apply_s: float = 0
    drop_after_apply: bool = False
    answer: Literal[429, 503] | None = None


class CutOff(Response):
    """Starts an answer and never finishes it, upon which the server closes the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"9999")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})


def create_app(settings: Settings, failures: Failures | None = None) -> FastAPI:
    """The service over the file in `settings.data`, which is created and filled with the sample when it is new."""
    store = Store(settings.data, SAMPLE)
    failing = failures or Failures()

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        store.close()

    app = FastAPI(
        title="Sample CRM", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    _answer_in_problems(app)
    reads = [Depends(_needs(settings, {settings.read_token, settings.write_token}))]
    writes = [Depends(_needs(settings, {settings.write_token}))]

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/records/{kind}", dependencies=reads)
    def listed(
        kind: str,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        cursor: str | None = None,
        lead_id: str | None = None,
    ) -> dict[str, Any]:
        if lead_id is not None and kind == "lead":
            raise Problem(422, "bad_query", "lead_id filters activities only.")
        found = store.records(kind, lead_id, _after(cursor), limit + 1)
        page, more = found[:limit], len(found) > limit
        following = urlsafe_b64encode(page[-1].id.encode()).decode() if more else None
        return {"items": [record.document() for record in page], "next_cursor": following, "has_more": more}

    @app.get("/records/{kind}/{record_id}", dependencies=reads)
    def one(kind: str, record_id: str) -> Response:
        record = store.record(kind, record_id)
        return JSONResponse(record.document(), headers={"ETag": record.etag})

    @app.get("/changes/{kind}/{record_id}", dependencies=reads)
    def history(kind: str, record_id: str) -> dict[str, Any]:
        return {"items": store.changes(kind, record_id)}

    @app.get("/receipts/{idempotency_key}", dependencies=reads)
    def receipt(idempotency_key: str) -> Response:
        body = store.receipt(idempotency_key)
        if body is None:
            raise Problem(404, "receipt_not_found", "No change was applied under this Idempotency-Key.")
        return Response(body, media_type="application/json")

    @app.patch("/records/{kind}/{record_id}", dependencies=writes)
    def change(
        kind: str, record_id: str, request: Request, changes: Annotated[dict[str, Any], Depends(_changes)]
    ) -> Response:
        key, etag = _conditions(request)
        if failing.answer:
            raise Problem(failing.answer, "busy", "Nothing was applied; try again.", headers={"Retry-After": "1"})
        time.sleep(failing.before_apply_s)
        done = store.apply(kind, record_id, changes, etag, key)
        time.sleep(failing.after_apply_s)
        if failing.drop_after_apply:
            return CutOff()
        headers = {"ETag": f'"v{done.version}"'} | ({"Idempotent-Replayed": "true"} if done.replayed else {})
        return Response(done.body, headers=headers, media_type="application/json")

    return app


def _needs(settings: Settings, accepted: set[str]) -> Callable[[Request], None]:
    def check(request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        # Header text is latin-1; comparing bytes keeps compare_digest from refusing non-ASCII input.
        same = [hmac.compare_digest(token.encode(), known.encode()) for known in accepted]
        if scheme.lower() == "bearer" and any(same):
            return
        if scheme.lower() == "bearer" and hmac.compare_digest(token.encode(), settings.read_token.encode()):
            raise Problem(403, "read_only_token", "This token may only read.")
        raise Problem(401, "unauthorized", "A bearer token is required.", headers={"WWW-Authenticate": "Bearer"})

    return check


def _conditions(request: Request) -> tuple[str, str]:
    """The Idempotency-Key and the If-Match of a change; both are required."""
    key, etag = request.headers.get("idempotency-key"), request.headers.get("if-match")
    if key is None or not KEY.fullmatch(key):
        raise Problem(400, "idempotency_key_required", "Idempotency-Key must be 1 to 128 of A-Z a-z 0-9 . _ : -")
    if etag is None:
        raise Problem(428, "if_match_required", "If-Match must name the version the change was made for.")
    return key, etag


async def _changes(request: Request) -> dict[str, Any]:
    """The `changes` object of a bounded, strictly read JSON body."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY:
            raise Problem(413, "too_large", f"The body must not exceed {LARGEST_BODY} bytes.")
    try:
        document = json.loads(body.decode(), object_pairs_hook=_distinct, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Problem(422, "bad_json", f"The body is not JSON: {type(error).__name__}.") from error
    if not isinstance(document, dict) or not isinstance(document.get("changes"), dict):
        raise bad_fields({"/changes": "must be an object of field and new value"})
    if unknown := document.keys() - {"changes"}:
        raise bad_fields({f"/{name}": "is not expected here" for name in sorted(unknown)})
    if not document["changes"]:
        raise bad_fields({"/changes": "must name at least one field"})
    return document["changes"]


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _after(cursor: str | None) -> str:
    try:
        return b64decode(cursor, altchars=b"-_", validate=True).decode() if cursor else ""
    except ValueError as error:
        raise Problem(422, "bad_query", "cursor was not given out by this service.") from error


def _answer_in_problems(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    def refused(_: Request, problem: Problem) -> Response:
        return problem.response()

    @app.exception_handler(HTTPException)
    def routed(_: Request, error: HTTPException) -> Response:
        headers = dict(error.headers) if error.headers else None
        return Problem(error.status_code, "no_such_route", str(error.detail), headers=headers).response()

    @app.exception_handler(RequestValidationError)
    def unreadable(_: Request, error: RequestValidationError) -> Response:
        named = "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in error.errors())
        return Problem(422, "bad_query", named).response()

    @app.exception_handler(Exception)
    def broken(_: Request, error: Exception) -> Response:
        detail = "The request failed; it is unknown whether a change was applied."
        return Problem(500, "internal", detail, headers={"Connection": "close"}).response()  # as the server will do
