"""The registrar process: the only one that serves HTTP and may write who may act. Wiring only.

The public API hands the requests under app.identity.PATHS to it as they are; it authenticates their bearer itself. It
judges the identity provider's tokens, and has no rights on missions, approvals or writebacks.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI
from prometheus_client import make_asgi_app

from app import identity, operations
from app.components import Component
from app.db import Database
from app.http import Cursors
from app.http.edge import install
from app.http.forward import Believe
from app.main import instrument, rate_limits, server
from app.nudge import Nudger
from app.settings import Misconfigured, Settings, load, refuse_write_credentials, stop
from app.telemetry import setup


class Registrar:
    """What the app of this process works with, opened and closed together."""

    def __init__(self, settings: Settings) -> None:
        refuse_write_credentials(settings)
        self.settings = settings
        url = settings.secret("registrar_database_url")
        self.keys = settings.registrar_keys()
        self.verifier = None
        if settings.oidc_issuer is not None or settings.oidc_audience is not None:
            self.verifier = identity.Verifier(settings)
        self.database = Database(
            url,
            pool_size=settings.database_pool_size,
            wait_ms=settings.database_pool_wait_ms,
            name="mission-root registrar",
        )
        self.limits = rate_limits(settings, url)
        self.nudger = Nudger(url, ["facts"])
        self.database.on_commit = self.nudger.send

    async def open(self) -> None:
        self.nudger.start()

    async def close(self) -> None:
        await self.nudger.stop()
        await self.database.close()
        await self.limits.database.close()


def registrar_app(registrar: Registrar) -> FastAPI:
    """Identity over HTTP, and the probes. On a private address: nobody but the public API needs to reach it."""
    app = FastAPI(
        title="Mission root, registrar",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan_of(registrar),
        redirect_slashes=False,
    )
    state = app.state
    state.settings, state.database, state.limits = registrar.settings, registrar.database, registrar.limits
    state.authenticate, state.allow = identity.authenticate, identity.allow
    state.verifier, state.exchange = registrar.verifier, identity.Exchange(identity.exchange_here)
    state.cursors = Cursors(registrar.keys)
    state.components = {"database": Component("database", "No request can be answered.")}
    state.log = structlog.get_logger("http")
    state.started = state.draining = False
    state.bearer_first = True
    app.include_router(identity.router)
    app.include_router(operations.probes)
    app.add_middleware(Believe, keys=registrar.keys)
    install(app)
    instrument(app)
    return app


def lifespan_of(registrar: Registrar) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await registrar.open()
        app.state.started = True
        yield
        app.state.draining = True
        await registrar.close()

    return lifespan


async def serve(settings: Settings) -> None:
    """Runs the two servers until SIGTERM or SIGINT, then lets requests finish."""
    app = registrar_app(Registrar(settings))
    servers = [
        server(app, settings.host, settings.registrar_port, lifespan="on"),
        server(make_asgi_app(), settings.host, settings.registrar_metrics_port),
    ]

    def drain() -> None:
        app.state.draining = True
        for one in servers:
            one.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, drain)
    await asyncio.gather(*(one.serve() for one in servers))


def run() -> None:
    """The entry of `mission-root registrar`."""
    try:
        settings = load()
        setup(
            "registrar",
            level=settings.log_level,
            otlp_endpoint=settings.otel_exporter_otlp_endpoint,
            sample=settings.trace_sample_ratio,
            environment=settings.environment,
        )
        from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

        HTTPXClientInstrumentor().instrument()
        with asyncio.Runner(loop_factory=uvicorn.Config("app.registrar").get_loop_factory()) as runner:
            runner.run(serve(settings))
    except Misconfigured as refused:
        stop(refused)
    except OSError as error:
        print(f"mission-root: a port cannot be opened: {error}", file=sys.stderr)
        os._exit(1)


if __name__ == "__main__":
    run()
