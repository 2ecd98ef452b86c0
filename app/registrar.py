"""The registrar process: the only one that serves HTTP and may write who may act. Wiring only.

The public API hands the requests under app.identity.PATHS to it as they are; it authenticates their bearer itself. It
judges the identity provider's tokens, and has no rights on missions, approvals or writebacks.
"""

import structlog
from fastapi import FastAPI
from prometheus_client import make_asgi_app

from app import identity, process
from app.components import Component
from app.db import Database
from app.http import Cursors
from app.http.edge import install
from app.http.forward import Believe
from app.http.limits import rate_limits
from app.http.probes import probes
from app.http.serving import instrument, serve_all, server, uvicorns_loop
from app.nudge import Nudger
from app.settings import Settings, refuse_write_credentials


class Registrar:
    """What the app of this process works with, opened and closed together."""

    def __init__(self, settings: Settings) -> None:
        refuse_write_credentials(settings)
        self.settings = settings
        address = settings.database("registrar_database_url")
        self.keys = settings.registrar_keys()
        self.verifier = None
        if settings.oidc_issuer is not None or settings.oidc_audience is not None:
            self.verifier = identity.Verifier(settings)
        self.database = Database(
            address,
            pool_size=settings.database_pool_size,
            wait_ms=settings.database_pool_wait_ms,
            name="mission-root registrar",
        )
        self.limits = rate_limits(settings, address)
        self.nudger = Nudger(address, ["facts"])
        self.database.on_commit = self.nudger.send

    async def open(self) -> None:
        self.nudger.start()
        self.limits.open()

    async def close(self) -> None:
        await process.closed(self.nudger.stop(), self.database.close(), self.limits.close())


def registrar_app(registrar: Registrar) -> FastAPI:
    """Identity over HTTP, and the probes. On a private address: nobody but the public API needs to reach it."""
    app = FastAPI(
        title="Mission root, registrar",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
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
    app.include_router(identity.links)
    app.include_router(probes)
    app.add_middleware(Believe, keys=registrar.keys)
    install(app)
    instrument(app)
    return app


async def serve(settings: Settings) -> None:
    registrar = Registrar(settings)
    app = registrar_app(registrar)
    await serve_all(
        registrar,
        app,
        server(app, settings.host, settings.registrar_port),
        server(make_asgi_app(), settings.host, settings.registrar_metrics_port),
    )


def run() -> None:
    """The entry of `mission-root registrar`."""
    process.run("registrar", serve, uvicorns_loop())


if __name__ == "__main__":
    run()
