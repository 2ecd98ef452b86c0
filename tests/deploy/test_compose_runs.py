"""The environments of docker-compose.yml are enough: the same processes with them, and a mission runs to its end.

No container engine is asked for. Names of services become 127.0.0.1 and their ports free ones, nothing else is changed.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.cli.client import ENDED, Client
from app.cli.missions import await_state
from app.embedded import EmbeddedPostgres, free_port
from app.supervisor.plan import SURROUNDINGS, Process
from app.supervisor.watch import Watch
from tests.deploy.compose import filled_in, image_environment, made_up_secrets

MODULES = {
    "root": "app.main",
    "worker": "app.worker",
    "executor": "app.executor",
    "colony": "colony.main",
    "crm": "sample_crm.main",
}


class Here:
    """The installation on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = EmbeddedPostgres(folder, durable=False)
        self.server.start()
        secrets = made_up_secrets() | {"POSTGRES_PASSWORD": self.server.password()}
        self.services: dict[str, Any] = filled_in(secrets)["services"]
        self.ports = {"5432": str(self.server.port)} | {
            port: str(free_port()) for port in ("8080", "8081", "9400", "9401", "9402", "8090", "8070")
        }

    def environment(self, service: str) -> dict[str, str]:
        given = {name: str(value) for name, value in self.services[service]["environment"].items()}
        surroundings = {name: os.environ[name] for name in SURROUNDINGS if name in os.environ}
        return surroundings | {
            name: self.moved(value) for name, value in {**image_environment(), **given}.items() if name != "PATH"
        }

    def moved(self, value: str) -> str:
        if value == "/data/crm.sqlite":
            return str(self.folder / "crm.sqlite")
        if value in ("/anchors", "/artifacts"):
            return f"{self.folder}{value}"
        services, ports = "|".join(self.services), "|".join(self.ports)
        local = re.sub(rf"(?<=[/@])({services}):(?=({ports})\b)", "127.0.0.1:", value).replace("0.0.0.0", "127.0.0.1")
        return re.sub(r"(?<![\w.-])(\d{4})(?![\w.-])", lambda port: self.ports.get(port[1], port[1]), local)

    def once(self, service: str, *arguments: str) -> str:
        """One of the services that run and end."""
        one = self.services[service]
        command = [*one.get("entrypoint", ["mission-root"])[1:], *(arguments or one["command"])]
        done = subprocess.run(
            [sys.executable, "-m", "app.cli.main", *command],
            env=self.environment(service),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def processes(self) -> list[Process]:
        return [
            Process(name, module, environment, environment["HEALTH_URL"], stops=1)
            for name, module in MODULES.items()
            for environment in [self.environment(name)]
        ]


async def create_database(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE DATABASE mission_root")
    await connection.close()


def ask_about_leads(url: str, key: str) -> dict[str, Any]:
    with Client(url, key) as client:
        ask = {"mission_type": "crm_lead_intelligence", "user_goal": "Which leads deserve a call, and why?"}
        return await_state(client, client.post("/v1/missions", ask).body["id"], 60, {*ENDED, "awaiting_approval"})


def connect_crm(url: str, key: str) -> None:
    """A tenant has no connector before its admin declares one."""
    with Client(url, key) as client:
        client.call("PUT", "/v1/connectors/sample_crm", b'{"kind": "sample_crm"}', {"Content-Type": "application/json"})


@pytest.fixture
def here(tmp_path: Path) -> Any:
    made = Here(tmp_path)
    try:
        yield made
    finally:
        made.server.stop()


@pytest.mark.long
async def test_a_mission_completes_under_the_environments_of_compose(here: Here) -> None:
    await create_database(here.server.url("postgres", here.server.password()))
    for step in ("roles", "schema"):
        await asyncio.to_thread(here.once, step)
    here.once("identity", "create-tenant", "acme")
    made = here.once(
        "identity", "create-principal", "acme", "backend", "--kind", "service", "--role", "submitter", "--json"
    )
    admin = here.once("identity", "create-principal", "acme", "adam", "--role", "admin", "--json")
    watch = Watch(here.processes(), here.server, here.folder / "logs", print)
    running = asyncio.create_task(watch.run())
    try:
        ready = asyncio.create_task(watch.all_ready.wait())
        await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED, timeout=60)
        assert not running.done() or not running.exception(), running.exception()
        url = f"http://127.0.0.1:{here.ports['8080']}"
        await asyncio.to_thread(connect_crm, url, json.loads(admin)["key"])
        ended = await asyncio.to_thread(ask_about_leads, url, json.loads(made)["key"])
        # the CRM was read with the read token, and its proposals passed the review
        assert ended["state"] == "awaiting_approval" and len(ended["pending_approvals"]) >= 2
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await watch.stop()
