"""Aegra: the Agent Protocol with runs and checkpoints in PostgreSQL."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from bench.load import Loaded, Post, load
from bench.peers.base import Unavailable, free_port, scalar
from bench.peers.langgraph import INPUT, Langgraph

EXTENSION = "SELECT count(*) FROM pg_available_extensions WHERE name = 'uuid-ossp'"


class Aegra(Langgraph):
    name = "aegra"
    version = "aegra-api 0.6.0"
    durable = "PostgreSQL (the same server and settings as ours) for runs and checkpoints"
    pins = ("aegra-api==0.6.0", "aegra-cli==0.6.0", "sqlalchemy[asyncio]==2.0.44", "aiohttp==3.14.5")

    def start(self, place: Path, new_database: Callable[[str], str]) -> None:
        port, log, url = free_port(), place / "server.log", new_database("bench_aegra")
        if not asyncio.run(scalar(url, EXTENSION)):
            raise Unavailable("its schema needs the extension uuid-ossp, which this PostgreSQL does not have")
        self.url = f"http://127.0.0.1:{port}"
        self.lay(place)
        (place / "aegra.json").write_text(json.dumps({"graphs": {"mission": "./graph.py:mission"}}))
        server = urlsplit(url)
        environ = {
            "DATABASE_URL": url,
            "POSTGRES_HOST": server.hostname or "",
            "POSTGRES_PORT": str(server.port),
            "POSTGRES_USER": server.username or "",
            "POSTGRES_PASSWORD": server.password or "",
            "POSTGRES_DB": "bench_aegra",
            "AEGRA_CONFIG": "aegra.json",
            "AUTH_TYPE": "noop",
            "LOG_LEVEL": "ERROR",
        }
        self.run([self.python.with_name("aegra"), "serve", "--host", "127.0.0.1", "--port", str(port)], log, environ)
        self.await_answer(f"{self.url}/health", log)
        self.drive("agent_protocol_driver.py", place / "driver.log", self.url)

    def accept(self, run: str, seconds: float, connections: int) -> Loaded:
        body = {"assistant_id": "mission", "input": INPUT}
        return load(Post(f"{self.url}/runs", body=json.dumps(body), keyed=False), run, connections, seconds)
