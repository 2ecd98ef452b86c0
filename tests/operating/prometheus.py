"""A real Prometheus over a real instance, with the rules of the repository."""

import subprocess
from pathlib import Path
from typing import Any

import httpx
import yaml

from app.embedded import free_port
from tests.walks.conftest import until

REPOSITORY = Path(__file__).parents[2]
OBSERVABILITY = REPOSITORY / "observability"
RULES = OBSERVABILITY / "prometheus"
EVERY = "1s"  # scrapes and evaluations: a test has no quarter of a minute


class Prometheus:
    """Scrapes the processes of an instance until it is closed."""

    def __init__(self, folder: Path, targets: dict[str, str]) -> None:
        """targets: where each job is, as host:port."""
        given = yaml.safe_load((RULES / "prometheus.yml").read_text())
        assert {one["job_name"] for one in given["scrape_configs"]} == set(targets)
        given["global"] |= {"scrape_interval": EVERY, "evaluation_interval": EVERY, "scrape_timeout": EVERY}
        for one in given["scrape_configs"]:
            one["static_configs"] = [{"targets": [targets[one["job_name"]]]}]
        for name in given["rule_files"]:
            (folder / name).write_text((RULES / name).read_text())
        (folder / "prometheus.yml").write_text(yaml.safe_dump(given))
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = (folder / "prometheus.log").open("wb")
        self.process = subprocess.Popen(
            [
                "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
                f"--web.listen-address={self.url.removeprefix('http://')}",
            ],
            cwd=folder, stdout=self.log, stderr=self.log,
        )  # fmt: skip
        self.http = httpx.Client(base_url=self.url, timeout=10, trust_env=False)
        until(lambda: self.http.get("/-/ready").status_code == 200, "Prometheus is ready")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples that an expression answers now."""
        answer = self.http.get("/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, (expression, answer.text)
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    def close(self) -> None:
        self.http.close()
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


def alerts() -> dict[str, dict[str, Any]]:
    """The alert rules by name."""
    groups = yaml.safe_load((RULES / "alerts.yaml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def recorded() -> dict[str, str]:
    groups = yaml.safe_load((RULES / "recording.yaml").read_text())["groups"]
    return {rule["record"]: rule["expr"] for group in groups for rule in group["rules"]}
