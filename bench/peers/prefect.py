"""Prefect's server on PostgreSQL: flow runs made and moved over its HTTP API."""

import json
from collections.abc import Callable
from pathlib import Path

from bench.load import BODY, Loaded, Post, load
from bench.peers.base import Peer, ask_json, free_port


class Prefect(Peer):
    name = "prefect"
    version = "3.8.8"
    durable = "PostgreSQL (the same server and settings as ours); accept makes a scheduled flow run"
    stored = "SELECT count(*) FROM flow_run WHERE state_type = 'SCHEDULED'"
    pins = ("prefect==3.8.8", "fastapi==0.139.0", "aiohttp==3.14.5", "asyncpg==0.32.0")

    def start(self, place: Path, new_database: Callable[[str], str]) -> None:
        port, log = free_port(), place / "server.log"
        self.url = f"http://127.0.0.1:{port}/api"
        self.database = new_database("bench_prefect")
        environ = {
            "PREFECT_HOME": str(place),
            "PREFECT_API_URL": self.url,
            "PREFECT_API_DATABASE_CONNECTION_URL": self.database.replace("postgresql://", "postgresql+asyncpg://"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
        }
        command = [self.python.with_name("prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        self.run([*command, "--no-ui"], log, environ)
        self.await_answer(f"{self.url}/health", log)
        self.flow = ask_json("POST", f"{self.url}/flows/", {"name": "mission"})["id"]
        self.drive("prefect_driver.py", place / "driver.log", self.url, self.flow)

    def accept(self, run: str, seconds: float, connections: int) -> Loaded:
        body = {"flow_id": self.flow, "parameters": json.loads(BODY), "state": {"type": "SCHEDULED"}}
        return self.tallied(
            load(Post(f"{self.url}/flow_runs/", body=json.dumps(body), keyed=False), run, connections, seconds)
        )
