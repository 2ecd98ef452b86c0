"""procrastinate: jobs in PostgreSQL, woken by LISTEN and NOTIFY."""

from collections.abc import Callable
from pathlib import Path

from bench.peers.base import Peer


class Procrastinate(Peer):
    name = "procrastinate"
    version = "3.10.0"
    durable = "PostgreSQL (the same server and settings as ours); accept defers to a queue that nobody takes from"
    stored = "SELECT count(*) - 1 FROM procrastinate_jobs WHERE queue_name = 'parked'"  # less one at the start
    pins = ("procrastinate==3.10.0", "psycopg[binary,pool]==3.3.9")

    def start(self, place: Path, new_database: Callable[[str], str]) -> None:
        self.database = new_database("bench_procrastinate")
        self.drive("procrastinate_driver.py", place / "driver.log", self.database)
