"""The root API process: the public app, the internal app and the metrics, each on a port of its own. Wiring only."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, Literal

import structlog
import uvicorn
from fastapi import FastAPI
from prometheus_client import make_asgi_app

from app import (
    approvals,
    artifacts,
    budgets,
    delivery,
    identity,
    ledger,
    missions,
    operations,
    packet,
    policy,
    tools,
    workspaces,
    writebacks,
)
from app.boundary import api as boundary_api
from app.components import Component
from app.db import Database
from app.delivery import Tail
from app.http import Cursors
from app.http.edge import install
from app.http.forward import Forward, Upstream
from app.http.limits import Limits, networks
from app.missions import Intake
from app.missions.normalize import Defaults
from app.nudge import Nudger
from app.openapi import describe
from app.settings import (
    Misconfigured,
    Settings,
    load,
    refuse_the_registrars_place,
    refuse_write_credentials,
    stop,
)
from app.telemetry import setup
from app.work import READS
from colony_client.client import ColonyClient

PUBLIC = (
    missions.router,
    operations.router,
    delivery.router,
    ledger.router,
    delivery.webhooks,
    artifacts.router,
    packet.router,
    writebacks.router,
    writebacks.connecting,
    approvals.router,
    approvals.interventions,
    approvals.rules,
    policy.router,
    budgets.router,
    workspaces.router,
    identity.router,
)
INTERNAL = (boundary_api.router, tools.router)


class Root:
    """What both apps of this process share, opened and closed together."""

    def __init__(self, settings: Settings) -> None:
        refuse_write_credentials(settings)
        refuse_the_registrars_place(settings)
        self.settings = settings
        self.database = Database(
            settings.secret("database_url"),
            pool_size=settings.database_pool_size,
            wait_ms=settings.database_pool_wait_ms,
            name="mission-root api",
        )
        self.reader = Database(settings.secret("reader_database_url"), pool_size=2, name="mission-root reader")
        self.limits = rate_limits(settings, settings.secret("database_url"))
        self.nudger = Nudger(settings.secret("database_url"), ["facts", "work_worker", "work_executor", READS])
        self.tail = Tail(self.reader, self.nudger)
        self.anchor_store, self.anchor_keys = ledger.reading_side(settings)
        self.colony_keys, self.signing_keys = settings.colony_keys(), settings.signing_keys()
        self.colony = ColonyClient(
            settings.colony_service_base_url, self.colony_keys, timeout_s=settings.colony_timeout_ms / 1000
        )
        self.upstream = Upstream(settings.registrar_base_url, settings.registrar_keys())
        self.exchange = identity.Exchange(identity.through(self.upstream))
        self.database.on_commit = self.nudger.send
        self.components = {
            "database": Component("database", "No request can be answered."),
            "colony": Component("colony", "Missions are accepted and wait."),
            "registrar": Component("registrar", "Nobody's rights or keys can be changed, and no new JWT is taken."),
            "anchors": ledger.component(self.anchor_store),
        }
        self.started = self.draining = False

    async def open(self) -> None:
        self.nudger.start()
        self.tail.start()
        self.started = True
        gc.collect()
        gc.freeze()  # what was imported lives for ever: the collector need not walk it in the middle of a request

    async def close(self) -> None:
        await self.tail.stop()
        await self.nudger.stop()
        await self.colony.aclose()
        await self.upstream.close()
        await self.database.close()
        await self.limits.database.close()
        await self.reader.close()

    def share(self, app: FastAPI) -> None:
        """Puts what routes reach for on the app's state."""
        state = app.state
        state.root, state.settings, state.database, state.tail = self, self.settings, self.database, self.tail
        state.colony, state.components = self.colony, self.components
        state.colony_keys, state.signing_keys = self.colony_keys, self.signing_keys
        state.cursors = Cursors(self.signing_keys)
        state.anchor_store, state.anchor_keys = self.anchor_store, self.anchor_keys
        state.webhook_keys = self.settings.webhook_keys()
        state.authenticate, state.allow = identity.authenticate, identity.allow
        state.upstream, state.exchange = self.upstream, self.exchange
        state.limits = self.limits
        state.intake = Intake(
            Defaults(
                self.settings.environment,
                self.settings.colony_default_time_budget_ms,
                self.settings.colony_default_token_budget,
            )
        )
        state.log = structlog.get_logger("http")
        state.started = state.draining = False


def rate_limits(settings: Settings, url: str) -> Limits:
    """The request rates of a process that serves HTTP, over a small pool of their own."""
    return Limits(
        Database(url, pool_size=2, wait_ms=settings.database_pool_wait_ms, name="mission-root limits"),
        key_per_s=settings.rate_limit_key_per_s,
        principal_per_s=settings.rate_limit_principal_per_s,
        tenant_per_s=settings.rate_limit_tenant_per_s,
        mission_per_s=settings.rate_limit_mission_per_s,
        burst_s=settings.rate_limit_burst_s,
        failures_per_minute=settings.auth_failures_per_minute,
        trusted=networks(settings.trusted_proxies),
    )


def public_app(root: Root) -> FastAPI:
    """The public API."""
    app = FastAPI(
        title="Mission root",
        version="1",
        docs_url="/docs",
        redoc_url=None,
        lifespan=lifespan_of(root),
        redirect_slashes=False,
    )
    root.share(app)
    app.state.bearer_first = True
    for router in PUBLIC:
        app.include_router(router)
    app.include_router(operations.probes)
    app.add_middleware(Forward, paths=identity.PATHS)
    install(app)
    describe(app)
    instrument(app)
    return app


def internal_app(root: Root) -> FastAPI:
    """The API for the colony: never mounted on the public one."""
    app = FastAPI(title="Mission root, internal", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    root.share(app)
    for router in INTERNAL:
        app.include_router(router)
    install(app)
    instrument(app)
    return app


def lifespan_of(root: Root) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await root.open()
        app.state.started = True
        yield
        app.state.draining = True
        await root.close()

    return lifespan


@lru_cache(maxsize=1)
def http_metrics() -> Any:
    """The HTTP metrics, made once: the library leaves every later app of a process without any."""
    from prometheus_fastapi_instrumentator import metrics

    made = metrics.default()
    assert made is not None, "somebody else registered the same metrics"
    return made


def instrument(app: FastAPI) -> None:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from prometheus_fastapi_instrumentator import Instrumentator

    FastAPIInstrumentor.instrument_app(
        app, excluded_urls="livez,readyz,startupz,healthz", exclude_spans=["receive", "send"]
    )
    Instrumentator(excluded_handlers=["/livez", "/readyz", "/startupz", "/healthz"]).add(http_metrics()).instrument(app)


async def serve(settings: Settings) -> None:
    """Runs the three servers until SIGTERM or SIGINT, then lets requests finish."""
    root = Root(settings)
    public = public_app(root)
    servers = [
        server(public, settings.host, settings.port, lifespan="on"),
        server(internal_app(root), settings.host, settings.internal_port),
        server(make_asgi_app(), settings.host, settings.metrics_port),
    ]
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)

    async def drain() -> None:
        await stopping.wait()
        public.state.draining = True
        await root.tail.stop()  # streams end, so that their connections can close
        for one in servers:
            one.should_exit = True

    watcher = asyncio.create_task(drain())
    await asyncio.gather(*(one.serve() for one in servers))
    watcher.cancel()


class Server(uvicorn.Server):
    """Uvicorn without its own signal handlers: one drain serves all three ports."""

    def install_signal_handlers(self) -> None:
        return

    def capture_signals(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()


def server(app: Any, host: str, port: int, lifespan: Literal["on", "off"] = "off") -> Server:
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        lifespan=lifespan,
        access_log=False,
        log_config=None,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=8,
        server_header=False,
        date_header=True,
        proxy_headers=False,  # uvicorn would believe anybody on this machine; TRUSTED_PROXIES alone says who is believed
        h11_max_incomplete_event_size=65_536,
    )
    return Server(config)


def run() -> None:
    """The entry of `mission-root serve`."""
    try:
        settings = load()
        setup(
            "api",
            level=settings.log_level,
            otlp_endpoint=settings.otel_exporter_otlp_endpoint,
            sample=settings.trace_sample_ratio,
            environment=settings.environment,
        )
        from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

        HTTPXClientInstrumentor().instrument()
        with asyncio.Runner(loop_factory=uvicorn.Config("app.main").get_loop_factory()) as runner:
            runner.run(serve(settings))
    except Misconfigured as refused:
        stop(refused)
    except OSError as error:
        print(f"mission-root: a port cannot be opened: {error}", file=sys.stderr)
        os._exit(1)


if __name__ == "__main__":
    run()
