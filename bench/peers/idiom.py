"""The usual way to write it: FastAPI, pydantic, SQLAlchemy's ORM, one session a request, the four bare rows of L1."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import asyncpg

from bench.load import Loaded, Post, load
from bench.peers.base import INSIDE, Peer, free_port

SCHEMA = Path(__file__).parents[1] / "limit_schema.sql"


class Idiom(Peer):
    name = "sqlalchemy"
    version = "fastapi 0.118.3, sqlalchemy 2.0.44, asyncpg 0.30.0"
    durable = "PostgreSQL (the same server and settings as ours); no authentication, tenants, policy or chain"
    pins = ("fastapi==0.118.3", "uvicorn[standard]==0.37.0", "sqlalchemy[asyncio]==2.0.44", "asyncpg==0.30.0")
    rows = ("accept",)
    stored = "SELECT count(*) FROM work"

    def start(self, place: Path, new_database: Callable[[str], str]) -> None:
        self.database = new_database("bench_idiom")
        asyncio.run(self.lay())
        port, log = free_port(), place / "server.log"
        self.url = f"http://127.0.0.1:{port}"
        command = [self.python, "-m", "uvicorn", "idiom_app:app", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--no-access-log", "--log-level", "warning"]
        url = self.database.replace("postgresql://", "postgresql+asyncpg://")
        self.run(command, log, {"PYTHONPATH": str(INSIDE), "IDIOM_DATABASE_URL": url})
        self.await_answer(f"{self.url}/missions", log)

    def accept(self, run: str, seconds: float, connections: int) -> Loaded:
        return self.tallied(load(Post(f"{self.url}/missions", keyed=False), run, connections, seconds))

    async def lay(self) -> None:
        connection = await asyncpg.connect(self.database)
        await connection.execute(SCHEMA.read_text())
        await connection.close()
