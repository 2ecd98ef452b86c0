"""What is going on in the whole installation, read by the worker once a period and said to Prometheus.

Every worker says the same, so that any of them may be away: take the maximum. Numbers that could not be read anew are not
said again: a graph that ends is the truth, one that stands still is not.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from app.db import Database
from app.missions.moves import OPEN
from app.work import KINDS

log = structlog.get_logger("gauges")
READ = "SELECT name, label, value FROM gauges()"
STALE_AFTER = 3  # periods without a reading

# name -> (the label, or None; the values that are said as 0 when there is nothing; what it is)
SAID: dict[str, tuple[str | None, Sequence[str], str]] = {
    "open_missions": ("state", sorted(OPEN), "Missions that are not closed, by state."),
    "open_mission_oldest_seconds": ("state", sorted(OPEN), "Longest time since an open mission last moved, by state."),
    "invariant_violations": ("invariant", ["liveness"], "Rows that break what must always hold, by invariant."),
    "liveness_look_oldest_seconds": (None, (), "Longest time since the open missions of a tenant were looked at."),
    "approvals_pending": ("subject", ["mission", "writeback"], "Approvals that wait for a human, by what they are of."),
    "approval_oldest_seconds": (None, (), "Age of the oldest pending approval; 0: none."),
    "approvals_expiring": (None, (), "Pending approvals that expire within an hour."),
    "writebacks_unsettled": ("state", ["executing", "unknown"], "Claimed writebacks without an outcome, by state."),
    "writeback_unknown_oldest_seconds": (None, (), "Age of the oldest execution whose outcome is unknown; 0: none."),
    "work_waiting": ("kind", sorted(KINDS), "Work rows, due or not, by kind."),
    "work_late_seconds": ("kind", sorted(KINDS), "How long the oldest due work has waited for somebody, by kind."),
    "ledger_lag_seconds": (None, (), "Age of the oldest fact that readers cannot see yet; 0: none."),
    "drill_passed": ("drill", (), "1 when a drill's newest run has passed, 0 when it has failed."),
    "drill_age_seconds": ("drill", (), "Time since a drill's newest run ended."),
}


class Gauges(Collector):
    """What was last read, as metrics of this process."""

    def __init__(self) -> None:
        self.period_s = 15.0
        self.found: dict[str, dict[str, float]] | None = None
        self.read_at = 0.0  # on the monotonic clock
        self.said_at = 0.0  # on everybody's

    def collect(self) -> Iterable[GaugeMetricFamily]:
        fresh = self.found is not None and time.monotonic() - self.read_at < STALE_AFTER * self.period_s
        for name, (label, always, help_) in SAID.items():
            family = GaugeMetricFamily(f"mission_root_{name}", help_, labels=[label] if label else [])
            if fresh and self.found is not None:
                values = dict.fromkeys(always, 0.0) | self.found.get(name, {})
                for of, value in values.items():
                    family.add_metric([of] if label else [], value)
            yield family
        read = GaugeMetricFamily("mission_root_gauges_read_timestamp_seconds", "When these numbers were last read.")
        if self.found is not None:
            read.add_metric([], self.said_at)
        yield read

    def take(self, rows: Sequence[Mapping[str, Any]]) -> None:
        found: dict[str, dict[str, float]] = {}
        for row in rows:
            found.setdefault(row["name"], {})[row["label"]] = row["value"]
        self.found, self.read_at, self.said_at = found, time.monotonic(), time.time()

    async def read(self, database: Database) -> None:
        self.take(await database.fetch(READ))

    async def keep_reading(self, database: Database, period_s: float) -> None:
        """Reads once a period, until cancelled. A database that is away is asked again the next time."""
        while True:
            began = time.monotonic()
            try:
                await self.read(database)
            except Exception as error:
                log.warning("gauges cannot be read", error=type(error).__name__)
            # a reading that takes long is made less often: it must not become what the database does all day
            self.period_s = max(period_s, 10 * (time.monotonic() - began))
            await asyncio.sleep(self.period_s)


GAUGES = Gauges()
REGISTRY.register(GAUGES)
