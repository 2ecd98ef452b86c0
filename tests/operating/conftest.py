"""An instance as an operator meets it: traces go to a collector, Prometheus scrapes it, and the colony is started by hand."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from app.embedded import free_port
from tests.operating.collector import Collector
from tests.operating.prometheus import Prometheus
from tests.walks.conftest import Instance, furnish, reachable, until


class Colony:
    """The reference colony as a process of the test's own, so that it can be stopped, and started with other settings."""

    def __init__(self, folder: Path, traces: str) -> None:
        self.port, self.traces = free_port(), traces
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / ".data" / "logs" / "colony.log"
        self.environment: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **other: str) -> None:
        """Starts it with its environment; other: settings that differ this time."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from colony.main import run; run()"],
                env=kept | self.environment | other,
                stdout=log,
                stderr=log,
            )
        until(lambda: httpx.get(f"{self.url}/health", trust_env=False).status_code == 200, "the colony answers")

    def know(self, instance: Instance) -> None:
        kit = instance.said["kit_env"]
        self.environment = {
            "PORT": str(self.port),
            "ROOT_API_BASE_URL": kit["ROOT_API_BASE_URL"],
            "ROOT_API_KEY": kit["ROOT_API_KEY"],
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.traces,
        }

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Operated(Instance):
    """The instance with what is around it. prometheus is None on a machine without one."""

    collector: Collector
    colony: Colony
    prometheus: Prometheus | None

    def address(self, url: str) -> str:
        return urlsplit(url).netloc


@pytest.fixture(scope="package")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    folder = reachable(tmp_path_factory.mktemp("operated"))
    collector = Collector()
    colony = Colony(folder, collector.url)
    environment = {
        "MISSION_LEASE_MS": "3000",
        "EXECUTION_LEASE_MS": "3000",
        "COLONY_TIMEOUT_MS": "2000",
        "GAUGES_INTERVAL_S": "0.5",
        "ANCHOR_INTERVAL_S": "0.5",
        "LIVENESS_INTERVAL_S": "1",
        "DATABASE_POOL_SIZE": "4",
        "DATABASE_POOL_WAIT_MS": "500",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
    }
    made = Operated(folder / ".data", free_port(), environment, "--colony", colony.url)
    made.collector, made.colony, made.prometheus = collector, colony, None
    try:
        furnish(made)
        colony.know(made)
        colony.start()
        until(lambda: drilled(made), "all drills have passed", 120)
        made.prometheus = watching(folder, made) if shutil.which("prometheus") else None
        yield made
    finally:
        if made.prometheus is not None:
            made.prometheus.close()
        ended = made.stop()
        colony.stop()
        collector.close()
    assert ended == 0, made.errors.read_text()


def drilled(instance: Operated) -> bool:
    """Whether all is well at the beginning. On a machine that has much to do the first drills may not pass in their time."""
    with instance.client("operator") as client:
        shown = client.get("/v1/drills").raise_for_status().json()["items"]
        for one in shown:
            if one["state"] == "failed":
                client.post(f"/v1/drills/{one['name']}/run", json={}).raise_for_status()
    return all(one["state"] == "passed" for one in shown)


def watching(folder: Path, instance: Operated) -> Prometheus:
    home = folder / "prometheus"
    home.mkdir()
    targets = {name: instance.address(url) for name, url in instance.said["metrics_urls"].items()}
    return Prometheus(home, targets | {"colony": instance.address(instance.colony.url)})
