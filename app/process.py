"""How a process of the root begins and ends: settings, logs and traces, an event loop, one sentence when it cannot start."""

import asyncio
import contextvars
import faulthandler
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Coroutine
from functools import partial
from typing import Any

import structlog

from app.settings import Misconfigured, Settings, load, refuse_write_credentials, stop
from app.telemetry import setup

log = structlog.get_logger("process")


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
            loop = runner.get_loop()
            leaving = partial(contextvars.copy_context().run, leave_in_time, loop)
            threading.Thread(target=leaving, name="leave in time", daemon=True).start()
            try:
                runner.run(serve(settings))
            finally:
                ending.put(None)  # also who was not told to stop has only so long for the rest
    except Misconfigured as refused:
        stop(refused)
    except OSError as error:
        raise SystemExit(f"mission-root: a port cannot be opened: {error}") from None


# Ten seconds are all that a process has once it is told to stop (app.supervisor.watch.STOP_WITHIN_S).
DRAIN_S = 6.5  # what is in hand is waited for
CANCELLED_S = 0.2  # and then for what was cancelled because it was late
CLOSE_S = 0.8  # each of the two steps in which a process closes what it works with
LEAVE_S = 9.6  # from being told: what has not ended by then ends with the process, whatever it is
LEFT_BEHIND = 75  # the exit code of a process that left so
# Put by a signal handler, which may interrupt anything: this is the one kind of queue that may be used in one.
ending: "queue.SimpleQueue[None]" = queue.SimpleQueue()


def leave_in_time(loop: asyncio.AbstractEventLoop) -> None:
    """A thread beside everything else: the orderly end waits for tasks that swallow their cancellation, and the interpreter for
    threads that do not end. What they did outside is found again by its lease, as after a crash."""
    ending.get()
    faulthandler.dump_traceback_later(LEAVE_S + 0.2, exit=True)  # where not even this can be told any more
    time.sleep(LEAVE_S)
    log.error("left before everything had ended", tasks=tasks_left(loop), threads=threads_left())
    os._exit(LEFT_BEHIND)


def tasks_left(loop: asyncio.AbstractEventLoop) -> list[str]:
    if loop.is_closed():
        return []
    left = [(one.get_name(), getattr(one.get_coro(), "__qualname__", "?")) for one in asyncio.all_tasks(loop)]
    return sorted(f"{name} ({does})" for name, does in left)


def threads_left() -> list[str]:
    """Those that the interpreter waits for, and what each is at."""
    at = sys._current_frames()
    waited_for = [one for one in threading.enumerate() if not one.daemon and one.ident in at]
    return sorted(f"{one.name} ({at[one.ident or 0].f_code.co_qualname})" for one in waited_for)


async def finished(in_hand: Collection[asyncio.Future[Any]], within_s: float = DRAIN_S) -> bool:
    """Whether what is in hand ends in time. What does not is cancelled: its lease runs out, and somebody else looks at it.

    So is all of it when the wait itself is cancelled: a busy loop may be so late that whoever waits for this wait is first.
    """
    if not in_hand:
        return True
    try:
        _, late = await asyncio.wait(in_hand, timeout=within_s)
    except asyncio.CancelledError:
        for one in in_hand:
            one.cancel()
        raise
    for one in late:
        one.cancel()
    if late:
        await asyncio.wait(late, timeout=CANCELLED_S)
    return not late


async def closed(*closing: Coroutine[Any, Any, object], within_s: float = CLOSE_S) -> None:
    """A step of the end, all of it side by side. What fails or is late is told of and holds up nothing: the process ends with it."""
    tasks = [asyncio.ensure_future(one) for one in closing]
    if not await finished(tasks, within_s):
        log.warning("not everything was closed in time")
    for one in tasks:
        if one.done() and not one.cancelled() and (error := one.exception()) is not None:
            log.warning("something was not closed", error=type(error).__name__)


def set_when_told_to_stop(stopping: asyncio.Event) -> None:
    """SIGTERM and SIGINT set the event, and the clock of the end runs; also when the event loop is stuck and hears nothing."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        signal.signal(number, lambda *_: ending.put(None))  # beside the loop's: that one is told by a file descriptor
