"""Starts the sample CRM from its environment: `python -m sample_crm.main`."""

import os
import socket
import sqlite3
import sys

import uvicorn

from sample_crm.service import create_app
from sample_crm.settings import BadSetting, from_environment


def run() -> None:
    """Serves until it is told to stop; a wrong setting, file or port ends it with one sentence and status 2."""
    try:
        settings = from_environment(os.environ)
        door = _listen(settings.host, settings.port)
        app = create_app(settings)
    except BadSetting as refused:
        _stop(str(refused))
    except (OSError, sqlite3.Error) as failed:
        _stop(f"CRM_DATA cannot be used as a database file: {failed}.")
    config = uvicorn.Config(app, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[door])


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=2048)
    except OSError as failed:
        raise BadSetting(
            f"CRM_PORT {port} on {host} cannot be listened on: {os.strerror(failed.errno or 0)}."
        ) from failed


def _stop(sentence: str) -> None:
    print(f"sample CRM: {sentence}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    run()
