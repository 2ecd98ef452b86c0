"""What the database alone takes: pgbench writes the four bare rows of a mission, one mission (L1) or 32 (L2) at a time."""

import asyncio
import re
import subprocess
from pathlib import Path

import asyncpg

from app import embedded
from bench.instance import Instance
from bench.load import Loaded
from bench.peers.base import Counted

HERE = Path(__file__).parent
DATABASE = "bench_limit"
ROWS = {name: f"SELECT count(*) FROM {name}" for name in ("mission", "fact", "audit", "work")}
BATCH = 32


class Limit:
    """Both limits, in one database on the same server as the product's."""

    def __init__(self, instance: Instance) -> None:
        self.instance, self.transactions, self.batches = instance, 0, 0
        asyncio.run(self._lay(instance.new_database(DATABASE)))

    async def _lay(self, url: str) -> None:
        connection = await asyncpg.connect(url)
        await connection.execute((HERE / "limit_schema.sql").read_text())
        await connection.close()

    def single(self, seconds: float, clients: int) -> Loaded:
        """L1: missions per second, one statement and transaction each."""
        found = self._pgbench("limit.sql", seconds, clients)
        self.transactions += found.accepted
        return found

    def batched(self, seconds: float, clients: int) -> Loaded:
        """L2: missions per second in batches of 32."""
        found = self._pgbench("limit_batch.sql", seconds, clients)
        self.batches += found.accepted
        return Loaded(found.accepted * BATCH, 0, found.seconds, found.p50_ms, found.p99_ms)

    def counted(self) -> Counted:
        """Four rows for each transaction that pgbench says it made."""
        rows = self.instance.counts(ROWS, DATABASE)
        wanted = self.transactions + BATCH * self.batches
        stored = next(iter(rows.values())) if len(set(rows.values())) == 1 else -1
        return Counted(wanted, stored)

    def _pgbench(self, script: str, seconds: float, clients: int) -> Loaded:
        done = subprocess.run(
            [
                str(embedded._binaries() / "pgbench"),
                *("--no-vacuum", "--protocol", "prepared", "--client", str(clients), "--jobs", "2"),
                *("--time", str(max(1, round(seconds))), "--file", str(HERE / script)),
                self.instance.superuser(DATABASE),
            ],
            capture_output=True,
            text=True,
            timeout=seconds + 60,
        )
        if done.returncode != 0:
            raise RuntimeError(f"pgbench failed: {done.stderr.strip()}")
        return understood(done.stdout)


def understood(said: str) -> Loaded:
    """Transactions and their rate without the time to connect, and the mean latency (pgbench keeps no percentiles)."""
    per_s = re.search(r"^tps = ([\d.]+)", said, re.M)
    number = re.search(r"^number of transactions actually processed: (\d+)", said, re.M)
    mean = re.search(r"^latency average = ([\d.]+) ms", said, re.M)
    if not (per_s and number and mean):
        raise RuntimeError(f"pgbench said something unexpected: {said[:300]}")
    count = int(number[1])
    return Loaded(count, 0, count / float(per_s[1]), float(mean[1]), float("nan"))
