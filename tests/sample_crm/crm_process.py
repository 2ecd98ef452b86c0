"""Runs the sample CRM for tests: in a thread for speed, or as a process of its own that can be killed."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import httpx
import uvicorn

from sample_crm.service import Failures, create_app
from sample_crm.settings import Settings

READ, WRITE = "read-token-for-tests", "write-token-for-tests"


def client(url: str, token: str | None = WRITE) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # Loading certificates for a plain-http client would cost more than the test itself.
    return httpx.Client(base_url=url, headers=headers, trust_env=False, verify=False, timeout=10)


def _app_server(data: Path, failures: Failures | None) -> uvicorn.Server:
    app = create_app(Settings(0, data, READ, WRITE), failures)
    return uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False))


@contextmanager
def in_thread(data: Path, failures: Failures | None = None) -> Iterator[str]:
    """The service behind a real socket; yields its base URL. `failures` may be changed while it runs."""
    door = socket.create_server(("127.0.0.1", 0))
    server = _app_server(data, failures)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{door.getsockname()[1]}"
    _wait_until_healthy(url)
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def as_process(data: Path, failures: Failures | None = None) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The service in its own process; yields its base URL and the process."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    command = [sys.executable, "-m", "tests.sample_crm.crm_process", str(data), str(port)]
    process = subprocess.Popen([*command, json.dumps(asdict(failures or Failures()))], cwd=Path(__file__).parents[2])
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_healthy(url)
        yield url, process
    finally:
        process.kill()
        process.wait(10)


def _wait_until_healthy(url: str) -> None:
    deadline = time.monotonic() + 20
    with client(url, None) as asking:
        while True:
            try:
                assert asking.get("/health").status_code == 200
                return
            except httpx.TransportError:
                assert time.monotonic() < deadline, "the CRM did not start"
                time.sleep(0.02)


if __name__ == "__main__":
    served = _app_server(Path(sys.argv[1]), Failures(**json.loads(sys.argv[3])))
    served.run(sockets=[socket.create_server(("127.0.0.1", int(sys.argv[2])))])
