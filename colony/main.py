"""Starts the colony from its environment: `python -m colony.main`."""

import os
import signal
import socket
import sys

import uvicorn

from colony import telemetry
from colony.service import create_app
from colony.settings import Misconfigured, Settings, load

SECONDS_TO_CLOSE = 3  # for open connections, after the missions were let go


def run() -> None:
    """Serves until it is told to stop; a wrong setting or a taken port ends it with one sentence and status 2."""
    try:
        settings = load()
        door = _listen(settings)
    except Misconfigured as refused:
        print(f"colony: {refused}", file=sys.stderr)
        raise SystemExit(2) from None
    telemetry.setup(settings)
    config = uvicorn.Config(
        create_app(settings), log_config=None, access_log=False, timeout_graceful_shutdown=SECONDS_TO_CLOSE
    )
    for asked_to_stop in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal once more when it is done; ending as asked is no failure
        signal.signal(asked_to_stop, lambda *_: None)
    uvicorn.Server(config).run(sockets=[door])


def _listen(settings: Settings) -> socket.socket:
    try:
        return socket.create_server((settings.host, settings.port), backlog=2048)
    except OSError as failed:
        reason = os.strerror(failed.errno or 0).lower()
        raise Misconfigured(f"PORT {settings.port} on {settings.host} cannot be listened on: {reason}.") from failed


if __name__ == "__main__":
    run()
