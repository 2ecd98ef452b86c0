"""The root API process: the public app, the internal app and the metrics, each on a port of its own. Wiring only."""

import asyncio
import gc
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import structlog
from fastapi import FastAPI
from prometheus_client import make_asgi_app
from starlette.types import ASGIApp, Receive, Scope, Send

from app import (
    approvals,
    artifacts,
    audit,
    budgets,
    calls,
    console,
    delivery,
    drills,
    identity,
    ledger,
    missions,
    model_gateway,
    operations,
    packet,
    policy,
    process,
    reference,
    release,
    replay,
    retention,
    tools,
    workspaces,
    writebacks,
)
from app.boundary import Callbacks
from app.boundary import api as boundary_api
from app.boundary.door import Nonces
from app.caller import Caller
from app.db import Database
from app.delivery import Rights, Tail
from app.http import Cursors
from app.http.doors import look_up, permit
from app.http.edge import install
from app.http.forward import Forward, Upstream
from app.http.lane import Lane
from app.http.limits import rate_limits
from app.http.probes import probes
from app.http.serving import instrument, serve_all, server, uvicorns_loop
from app.missions import Intake
from app.missions.lane import MissionLane
from app.missions.normalize import Defaults
from app.nudge import Nudger
from app.openapi import describe
from app.settings import Settings, check_console, refuse_the_registrars_place, refuse_write_credentials
from app.work import READS
from colony_client.client import ColonyClient
from colony_client.versions import SaysVersion

PUBLIC = (
    missions.router,
    operations.router,
    drills.router,
    delivery.router,
    ledger.router,
    delivery.webhooks,
    artifacts.router,
    packet.router,
    audit.router,
    replay.router,
    replay.recordings,
    release.router,
    release.papers,
    writebacks.router,
    writebacks.connecting,
    tools.registering,
    model_gateway.providers,
    approvals.router,
    approvals.interventions,
    approvals.questions,
    approvals.rules,
    policy.router,
    budgets.router,
    retention.router,
    workspaces.router,
    identity.router,
    console.router,
)
INTERNAL = (boundary_api.router, tools.router, model_gateway.router)
WAYS = (*boundary_api.WAYS, tools.WAY, model_gateway.WAY)


YOUNG = 10_000  # new objects until the collector looks for rings among them: with 700, as it comes, every few requests, for nothing


class Root:
    """What both apps of this process share, opened and closed together."""

    allow = staticmethod(identity.allow)

    def __init__(self, settings: Settings) -> None:
        refuse_write_credentials(settings)
        refuse_the_registrars_place(settings)
        check_console(settings)
        self.settings = settings
        self.database = Database(
            settings.database("database_url"),
            pool_size=settings.database_pool_size,
            wait_ms=settings.database_pool_wait_ms,
            name="mission-root api",
        )
        self.reader = Database(settings.database("reader_database_url"), pool_size=2, name="mission-root reader")
        self.limits = rate_limits(settings, settings.database("database_url"))
        self.nudger = Nudger(settings.database("database_url"), ["facts", "work_worker", "work_executor", READS])
        self.tail = Tail(self.reader, self.nudger)
        self.rights = Rights(self.database, identity.authenticate, self.allow)
        self.anchor_store, self.anchor_keys = ledger.reading_side(settings)
        self.transfer_signer, self.transfer_keys = replay.sides(settings)
        self.objects = artifacts.open_objects(settings)
        self.release = release.Sides.of(settings)
        self.colony_keys, self.signing_keys = settings.colony_keys(), settings.signing_keys()
        self.colony = ColonyClient(
            settings.colony_service_base_url, self.colony_keys, timeout_s=settings.colony_timeout_ms / 1000
        )
        self.models = model_gateway.Gateway.of(settings)
        self.nonces = Nonces(self.database)
        self.openings = calls.Openings(self.database, wait_ms=settings.database_pool_wait_ms)
        self.closings = calls.Closings(self.database, self.nudger.send, wait_ms=settings.database_pool_wait_ms)
        self.upstream = Upstream(settings.registrar_base_url, settings.registrar_keys())
        self.exchange = identity.Exchange(identity.through(self.upstream))
        self.database.on_commit = self.nudger.send
        self.callers = identity.Callers(self.database)
        self.intake = Intake(
            Defaults(
                settings.environment, settings.colony_default_time_budget_ms, settings.colony_default_token_budget
            ),
            self.database,
            self.submitter,
            self.nudger.send,
            tools.Register(),
            wait_ms=settings.database_pool_wait_ms,
        )
        self.tools = tools.Sessions(settings, self.database)
        self.callbacks = Callbacks(
            self.database,
            self.nudger.send,
            timedelta(milliseconds=settings.mission_lease_ms),
            wait_ms=settings.database_pool_wait_ms,
        )
        self.components = operations.registry(self.anchor_store)
        self.watch = operations.Watch(self, timedelta(seconds=settings.component_look_s))
        self.intake.degraded = self.watch.degraded

    async def submitter(self, secret: str) -> Caller:
        """Whoever presents this secret now, and may ask for missions. Raises Problem unauthenticated or forbidden."""
        caller = await look_up(self, secret)
        permit(self, caller, "missions.create")
        return caller

    async def open(self) -> None:
        self.nudger.start()
        self.intake.batches.start()
        self.callbacks.batches.start()
        self.openings.start()
        self.closings.batches.start()
        self.limits.open()
        self.tail.start()
        self.tools.start()
        self.watch.start()
        gc.collect()
        gc.freeze()  # what was imported lives for ever: the collector need not walk it in the middle of a request
        gc.set_threshold(YOUNG)

    async def close(self) -> None:
        """After the last request: first whatever still has something to tell the database, then the ways there."""
        await process.closed(
            self.watch.stop(),
            self.tail.stop(),
            self.models.close(),
            self.tools.stop(),
            self.colony.aclose(),
            self.upstream.close(),
        )
        await process.closed(
            self.intake.batches.stop(),
            self.callbacks.batches.stop(),
            self.openings.stop(),
            self.closings.batches.stop(),
            self.limits.close(),
            self.nudger.stop(),
            self.database.close(),
            self.reader.close(),
        )

    def share(self, app: FastAPI) -> None:
        """Puts what routes reach for on the app's state."""
        state = app.state
        state.root, state.settings, state.database, state.tail = self, self.settings, self.database, self.tail
        state.colony, state.components = self.colony, self.components
        state.colony_keys, state.signing_keys = self.colony_keys, self.signing_keys
        state.cursors = Cursors(self.signing_keys)
        state.anchor_store, state.anchor_keys = self.anchor_store, self.anchor_keys
        state.transfer_signer, state.transfer_keys = self.transfer_signer, self.transfer_keys
        state.objects, state.packing = self.objects, asyncio.Semaphore(packet.AT_ONCE)
        state.proving = asyncio.Semaphore(audit.AT_ONCE)
        state.release = self.release
        state.webhook_keys = self.settings.webhook_keys()
        state.authenticate, state.allow = identity.authenticate, self.allow
        state.rights = self.rights
        state.tools = self.tools
        state.upstream, state.exchange = self.upstream, self.exchange
        state.limits, state.nonces = self.limits, self.nonces
        state.models, state.openings, state.closings = self.models, self.openings, self.closings
        state.callers, state.intake, state.callbacks = self.callers, self.intake, self.callbacks
        state.log = structlog.get_logger("http")
        state.started = state.draining = False


class App(FastAPI):
    """An API whose busiest route has a short way in."""

    lane: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self.lane or super().__call__)(scope, receive, send)

    def put_before(self, lane: Callable[[FastAPI, ASGIApp, float], ASGIApp], root: Root) -> None:
        settings = root.settings
        traced = settings.trace_sample_ratio if settings.otel_exporter_otlp_endpoint is not None else 0.0
        self.lane = lane(self, super().__call__, traced)


def public_app(root: Root) -> FastAPI:
    """The public API."""
    app = App(title="Mission root", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    root.share(app)
    app.state.bearer_first = True
    for router in PUBLIC:
        app.include_router(router)
    app.include_router(probes)
    app.include_router(release.probe)
    app.add_middleware(Forward, paths=identity.PATHS)
    app.add_middleware(console.Site)
    install(app)
    describe(app)
    reference.install(app, operations=True)
    instrument(app)
    app.put_before(MissionLane, root)
    return app


def internal_app(root: Root) -> FastAPI:
    """The API for the colony: never mounted on the public one."""
    app = App(title="Mission root, internal", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    root.share(app)
    for router in INTERNAL:
        app.include_router(router)
    install(app)
    reference.install(app, operations=False)
    app.add_middleware(SaysVersion)
    instrument(app)
    app.put_before(partial(Lane, ways=WAYS), root)
    return app


async def serve(settings: Settings) -> None:
    root = Root(settings)
    public = public_app(root)
    await serve_all(
        root,
        public,
        server(public, settings.host, settings.port),
        server(internal_app(root), settings.host, settings.internal_port),
        server(make_asgi_app(), settings.host, settings.metrics_port),
        let_go=root.tail.stop,  # streams end, so that their connections can close
    )


def run() -> None:
    """The entry of `mission-root serve`."""
    process.run("api", serve, uvicorns_loop())


if __name__ == "__main__":
    run()
