"""The colony's HTTP door. Everything under /v1 is signed; /health, /ready and /metrics say nothing worth signing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

import structlog
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from colony.desk import Desk
from colony.problems import Problem
from colony.settings import Settings
from colony_client.contract import (
    CONTRACT_VERSION,
    MAX_BODY_BYTES,
    VERSION_HEADER,
    CancelRequest,
    DispatchAnswers,
    DispatchBatch,
    Health,
    MissionStatus,
    Ready,
)
from colony_client.errors import BadBody, SignatureRefused, VersionRefused
from colony_client.signing import MemoryNonces, signed_path, verify
from colony_client.versions import SaysVersion, spoken_with, written
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
    app.add_middleware(SaysVersion)
    FastAPIInstrumentor.instrument_app(app, excluded_urls="health,ready,metrics")
    return app


@dataclass(frozen=True)
class Call:
    """A call that provably comes from the root, and the version of the contract to answer it in."""

    body: bytes
    version: str


async def _genuine(request: Request) -> Call:
    """Reads the body, bounded before it is kept, and checks the signature over it."""
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
    try:
        return Call(bytes(body), spoken_with(request.headers.get(VERSION_HEADER)))
    except VersionRefused as refused:
        raise Problem(400, "version_unsupported", str(refused)) from None


Signed = Annotated[Call, Depends(_genuine)]


def _add_routes(app: FastAPI, desk: Desk) -> None:
    @app.post("/v1/missions", operation_id="dispatchMissions", response_model=DispatchAnswers)
    async def dispatch(call: Signed) -> Response:
        try:
            batch = read_model(DispatchBatch, call.body)
        except BadBody as bad:
            raise Problem(422, "invalid_body", str(bad), fields=bad.problems) from None
        return _said(DispatchAnswers(missions=[desk.admit(mission) for mission in batch.missions]), call)

    @app.get("/v1/missions/{mission_id}", operation_id="missionStatus", response_model=MissionStatus)
    async def status(mission_id: UUID, call: Signed) -> Response:
        return _said(_known(desk.status(mission_id), mission_id), call)

    @app.post("/v1/missions/{mission_id}/cancel", operation_id="cancelMission", response_model=MissionStatus)
    async def cancel(mission_id: UUID, call: Signed) -> Response:
        try:
            ask = read_model(CancelRequest, call.body)
        except BadBody as bad:
            raise Problem(422, "invalid_body", str(bad), fields=bad.problems) from None
        return _said(_known(desk.cancel(mission_id, ask.reason), mission_id), call)

    @app.get("/health", operation_id="health")
    async def health() -> Health:
        return Health(service="reference colony", contract_version=CONTRACT_VERSION)

    @app.get("/ready", operation_id="ready", response_model=Ready)
    async def ready() -> JSONResponse:
        state: Ready = desk.ready()
        return JSONResponse(state.model_dump(mode="json"), 200 if state.ready else 503)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _said(answer: BaseModel, call: Call) -> Response:
    return Response(written(answer, call.version), media_type="application/json")


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
