"""DBOS: a Python library that keeps workflows in PostgreSQL; its client and its worker are one process."""

from collections.abc import Callable
from pathlib import Path

from bench.peers.base import Peer


class Dbos(Peer):
    name = "dbos"
    version = "3.4.0"
    durable = "PostgreSQL (the same server and settings as ours); accept enqueues, and nobody takes it from the queue"
    stored = "SELECT count(*) - 1 FROM dbos.workflow_status WHERE queue_name = 'parked'"  # less one at the start
    pins = ("dbos==3.4.0",)

    def start(self, place: Path, new_database: Callable[[str], str]) -> None:
        self.database = new_database("bench_dbos")
        self.drive("dbos_driver.py", place / "driver.log", self.database)
