"""The colony's HTTP door. Everything under /v1 is signed; /health, /ready and /metrics say nothing worth signing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID

import structlog
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from colony.desk import Desk
from colony.problems import Problem
from colony.settings import Settings
from colony_client.contract import (
    CONTRACT_VERSION,
    MAX_BODY_BYTES,
    CancelRequest,
    DispatchAnswers,
    DispatchBatch,
    Health,
    MissionStatus,
    Ready,
)
from colony_client.errors import BadBody, SignatureRefused
from colony_client.signing import MemoryNonces, signed_path, verify
from colony_client.wire import read_model

log = structlog.get_logger()


def create_app(settings: Settings) -> FastAPI:
    desk = Desk(settings)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await desk.close()

    app = FastAPI(title="Colony", version=CONTRACT_VERSION, lifespan=life, docs_url=None, redoc_url=None)
    app.state.desk, app.state.keys, app.state.nonces = desk, settings.keys(), MemoryNonces()
    app.add_exception_handler(Problem, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(RequestValidationError, _bad_id)
    app.add_exception_handler(Exception, _unforeseen)
    _add_routes(app, desk)
    FastAPIInstrumentor.instrument_app(app, excluded_urls="health,ready,metrics")
    return app


async def _signed_body(request: Request) -> bytes:
    """The body of a request that provably comes from the root; bounded before it is kept."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise Problem(413, "too_large", f"the body is larger than {MAX_BODY_BYTES} bytes")
    state = request.app.state
    try:
        await verify(
            state.keys, request.method, signed_path(request.scope), bytes(body), "colony", request.headers,
            state.nonces.first_use,
        )  # fmt: skip
    except SignatureRefused as refused:
        log.warning("signature refused", reason=type(refused).__name__, path=request.url.path)
        raise Problem(401, "unauthorized", "the request is not signed with a key that is valid here") from None
    return bytes(body)


Signed = Annotated[bytes, Depends(_signed_body)]


def _add_routes(app: FastAPI, desk: Desk) -> None:
    @app.post("/v1/missions")
    async def dispatch(body: Signed) -> DispatchAnswers:
        try:
            batch = read_model(DispatchBatch, body)
        except BadBody as bad:
            raise Problem(422, "invalid_body", str(bad), fields=bad.problems) from None
        return DispatchAnswers(missions=[desk.admit(mission) for mission in batch.missions])

    @app.get("/v1/missions/{mission_id}")
    async def status(mission_id: UUID, _: Signed) -> MissionStatus:
        return _known(desk.status(mission_id), mission_id)

    @app.post("/v1/missions/{mission_id}/cancel")
    async def cancel(mission_id: UUID, body: Signed) -> MissionStatus:
        try:
            ask = read_model(CancelRequest, body)
        except BadBody as bad:
            raise Problem(422, "invalid_body", str(bad), fields=bad.problems) from None
        return _known(desk.cancel(mission_id, ask.reason), mission_id)

    @app.get("/health")
    async def health() -> Health:
        return Health(service="reference colony")

    @app.get("/ready")
    async def ready() -> JSONResponse:
        state: Ready = desk.ready()
        return JSONResponse(state.model_dump(mode="json"), 200 if state.ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _known(status: MissionStatus | None, mission_id: UUID) -> MissionStatus:
    if status is None:
        raise Problem(404, "mission_unknown", f"mission {mission_id} is not known here")
    return status


async def _refused(_: Request, raised: Exception) -> Response:
    assert isinstance(raised, Problem)
    return raised.response()


async def _no_route(_: Request, raised: Exception) -> Response:
    assert isinstance(raised, HTTPException)
    return Problem(raised.status_code, "no_such_route", str(raised.detail)).response()


async def _bad_id(_: Request, _raised: Exception) -> Response:
    return Problem(404, "mission_unknown", "a mission is named by a UUID").response()


async def _unforeseen(_: Request, raised: Exception) -> Response:
    log.error("unforeseen error", exc_info=raised)
    return Problem(500, "internal_error", "the colony made a mistake; its log has the details").response()
