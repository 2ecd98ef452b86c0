"""What a process that serves HTTP does with its apps: opens them, measures them, serves them, and drains them at the end."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from functools import lru_cache
from typing import Any, Protocol

import uvicorn
from fastapi import FastAPI
from opentelemetry import trace
from prometheus_client import Counter, Histogram, Summary
from starlette.types import ASGIApp, Receive, Scope, Send

from app.http.joined import Joined
from app.process import CANCELLED_S, set_when_told_to_stop
from app.telemetry import without_query

LATE_S = 0.25  # waited twice at the end of a server: for who is just connecting, then for who has not asked yet
GRACE_S = 6  # then for what is under way; app.process says what the rest of the ten seconds is for


class Held(Protocol):
    """What the apps of a process work with, opened and closed together."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...


@asynccontextmanager
async def opened(held: Held, app: FastAPI) -> AsyncIterator[None]:
    """Around everything that serves, on whatever ports: nothing is closed that a request on one of them still needs.

    app is the one that says that the process has started, and that it drains.
    """
    await held.open()
    app.state.started = True
    try:
        yield
    finally:
        app.state.draining = True
        await held.close()


class HttpMetrics:
    """The metrics that prometheus_fastapi_instrumentator would make, under its names; so they can be counted without it, too."""

    def __init__(self) -> None:
        self.requests = Counter(
            "http_requests_total", "Requests by method, status and handler.", ["method", "status", "handler"]
        )
        self.received = Summary("http_request_size_bytes", "Content length of requests by handler.", ["handler"])
        self.sent = Summary("http_response_size_bytes", "Content length of answers by handler.", ["handler"])
        self.seconds = Histogram(
            "http_request_duration_highr_seconds",
            "Duration of requests, without labels, for percentiles.",
            buckets=(
                0.01,
                0.025,
                0.05,
                0.075,
                0.1,
                0.25,
                0.5,
                0.75,
                1,
                1.5,
                2,
                2.5,
                3,
                3.5,
                4,
                4.5,
                5,
                7.5,
                10,
                30,
                60,
            ),
        )
        self.seconds_of_handler = Histogram(
            "http_request_duration_seconds",
            "Duration of requests by handler, in few buckets.",
            ["handler", "method"],
            buckets=(0.1, 0.5, 1),
        )


@lru_cache(maxsize=1)
def http_metrics() -> HttpMetrics:
    """Made once, by a process that serves HTTP."""
    return HttpMetrics()


# How requests are traced, in the framework and beside it.
TRACED: dict[str, Any] = {"exclude_spans": ["receive", "send"], "server_request_hook": without_query}
SCHEMA = "https://opentelemetry.io/schemas/1.11.0"  # that FastAPIInstrumentor says its spans keep to


def instrument(app: FastAPI) -> None:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from prometheus_fastapi_instrumentator import Instrumentator

    FastAPIInstrumentor.instrument_app(app, excluded_urls="livez,readyz,startupz,healthz", **TRACED)
    http_metrics()
    Instrumentator(excluded_handlers=["/livez", "/readyz", "/startupz", "/healthz"]).add(counted).instrument(app)


class Traced:
    """The span of requests of a route that are answered without the framework: it is the one that FastAPIInstrumentor would make."""

    def __init__(self, method: str, route: str) -> None:
        from opentelemetry.instrumentation import fastapi
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        details = f"{method} {route}", {"http.route": route}
        self.middleware = OpenTelemetryMiddleware(
            self._within,
            default_span_details=lambda _scope: details,
            tracer=trace.get_tracer(fastapi.__name__, fastapi.__version__, schema_url=SCHEMA),
            **TRACED,
        )

    async def __call__(self, answer: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets answer have the request, within its span."""
        scope["within"] = answer
        await self.middleware(scope, receive, send)

    async def _within(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["within"](scope, receive, send)


def counted(seen: Any) -> None:
    """A request that passed the instrumentation; seen is its Info."""
    answered = seen.response.headers.get("Content-Length", 0) if seen.response is not None else 0
    received = seen.request.headers.get("Content-Length", 0)
    count(
        seen.method, seen.modified_handler, seen.modified_status, seen.modified_duration, int(received), int(answered)
    )


def count_request(method: str, route: str, status: int, seconds: float, received: int, sent: int) -> None:
    """The same metrics for a request that did not pass it."""
    count(method, route, f"{status // 100}xx", seconds, received, sent)


def count(method: str, handler: str, status: str, seconds: float, received: int, sent: int) -> None:
    requests, got, said, lasted = counters(method, handler, status)
    requests.inc()
    got.observe(received)
    said.observe(sent)
    http_metrics().seconds.observe(seconds)
    lasted.observe(seconds)


@lru_cache(maxsize=2048)  # methods, routes and classes of status: there are not more
def counters(method: str, handler: str, status: str) -> tuple[Counter, Summary, Summary, Histogram]:
    made = http_metrics()
    return (
        made.requests.labels(method, status, handler),
        made.received.labels(handler),
        made.sent.labels(handler),
        made.seconds_of_handler.labels(handler, method),
    )


class Server(uvicorn.Server):
    """Uvicorn without its own signal handlers: one drain serves all ports of a process. Nor does it end the process."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]  # a generator there
        return nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Raises OSError when the port cannot be opened; uvicorn would leave the process in the middle of a task."""
        try:
            await super().startup(sockets)
        except SystemExit as leaving:
            if isinstance(leaving.__context__, OSError):
                raise leaving.__context__ from None
            raise

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Who has connected by now is still heard: a request on its way is read, and answered as the last of its connection.

        The port stays open meanwhile, and what the kernel has let in by its end is taken in: closing it resets the rest.
        """
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        doors = [socket.socket(fileno=os.dup(one.fileno())) for server in self.servers for one in server.sockets]
        await asyncio.sleep(LATE_S)
        for listening in self.servers:
            listening.close()
        for door in doors:
            await self.take_in(door)
        await asyncio.sleep(LATE_S)
        await super().shutdown(sockets)
        if late := set(self.server_state.tasks):  # cancelled a moment ago: they say what they have used
            await asyncio.wait(late, timeout=CANCELLED_S)

    async def take_in(self, door: socket.socket) -> None:
        """Takes in everybody who has connected to a port that nobody listens at any more, and closes it."""
        door.setblocking(False)
        taken = []
        with suppress(OSError):  # that nobody is left says it so, too
            while True:
                taken.append(door.accept()[0])
        door.close()
        for one in taken:
            one.setblocking(False)
            with suppress(OSError):  # gone already
                await asyncio.get_running_loop().connect_accepted_socket(self.protocol, one)

    def protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


def server(app: Any, host: str, port: int) -> Server:
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=Joined,
        lifespan="off",  # opened() does it for all servers of a process
        access_log=False,
        log_config=None,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE_S,
        server_header=False,
        date_header=True,
        # a request that was sent together with the one before it would begin within that one's span, and with its ids in the log
        reset_contextvars=True,
        proxy_headers=False,  # uvicorn would believe anybody on this machine; TRUSTED_PROXIES alone says who is believed
        h11_max_incomplete_event_size=65_536,
    )
    return Server(config)


async def serve_all(
    held: Held, app: FastAPI, *servers: Server, let_go: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Opens what the apps work with and runs the servers until SIGTERM or SIGINT, lets requests on all of them finish, and closes it.

    app is the one that says it is draining. let_go: ends what would keep connections open. Raises OSError when one of the
    ports cannot be opened; the others have let go of theirs then.
    """
    stopping = asyncio.Event()
    set_when_told_to_stop(stopping)

    async def drain() -> None:
        await stopping.wait()
        app.state.draining = True
        for one in servers:
            one.should_exit = True
        if let_go is not None:
            await let_go()

    async with opened(held, app):
        watcher = asyncio.create_task(drain())
        serving = [asyncio.create_task(one.serve()) for one in servers]
        await asyncio.wait(serving, return_when=asyncio.FIRST_EXCEPTION)
        stopping.set()
        ended = await asyncio.gather(*serving, return_exceptions=True)
        watcher.cancel()
    for failure in ended:
        if isinstance(failure, BaseException):
            raise failure


def uvicorns_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The event loop that uvicorn would take. Asking also gives its log lines their shape, which server() leaves alone."""
    return uvicorn.Config("").get_loop_factory()
