"""How a process of the root begins and ends: settings, logs and traces, an event loop, one sentence when it cannot start."""

import asyncio
import signal
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from app.settings import Misconfigured, Settings, load, refuse_write_credentials, stop
from app.telemetry import setup


def run(
    name: str,
    serve: Callable[[Settings], Coroutine[Any, Any, None]],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    *,
    executes: bool = False,
) -> None:
    """Runs until serve returns. executes: it may hold write credentials, and tells nobody whom it calls of our traces."""
    try:
        settings = load()
        if not executes:
            refuse_write_credentials(settings)
        setup(
            name,
            level=settings.log_level,
            otlp_endpoint=settings.otel_exporter_otlp_endpoint,
            sample=settings.trace_sample_ratio,
            environment=settings.environment,
            build=settings.build,
        )
        if not executes:
            from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

            HTTPXClientInstrumentor().instrument()
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(serve(settings))
    except Misconfigured as refused:
        stop(refused)
    except OSError as error:
        raise SystemExit(f"mission-root: a port cannot be opened: {error}") from None


DRAIN_S = 7.0  # how long what is in hand is waited for once the process is told to stop; ten seconds are all it has


async def finished(in_hand: Collection[asyncio.Future[Any]], within_s: float = DRAIN_S) -> bool:
    """Whether what is in hand ends in time. What does not is cancelled: its lease runs out, and somebody else looks at it."""
    if not in_hand:
        return True
    _, late = await asyncio.wait(in_hand, timeout=within_s)
    for one in late:
        one.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    return not late


def set_when_told_to_stop(stopping: asyncio.Event) -> None:
    """SIGTERM and SIGINT set the event, and do nothing else any more."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
