"""A real PgBouncer in transaction mode before the tests' PostgreSQL, and a world that reaches it through that only."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from pydantic import SecretStr

from app.embedded import free_port
from app.executor import Executor
from app.settings import Settings
from tests.conftest import PREFIX, Cluster
from tests.world import World
from tests.world.world import WRITE_TOKEN

SERVERS = 2  # connections of a role to PostgreSQL, however many clients there are


class Pooler:
    """The process, its place and its configuration. A pooler of a root user works as nobody."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder, self.port = cluster, folder, free_port()
        self.process: asyncio.subprocess.Process | None = None
        server = urlsplit(cluster.admin_url)
        self.direct = f"{server.hostname}:{server.port}"
        names = {f"{PREFIX}_{role}": word for role, word in cluster.passwords.items()}
        (folder / "users.txt").write_text("".join(f'"{name}" "{word}"\n' for name, word in names.items()))
        (folder / "pgbouncer.ini").write_text(f"""
[databases]
* = host={server.hostname} port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder / "users.txt"}
pool_mode = transaction
default_pool_size = {SERVERS}
max_client_conn = 500
logfile =
""")

    async def start(self) -> None:
        program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
        options = ["-q", *(["-u", "nobody"] if os.getuid() == 0 else [])]
        self.process = await asyncio.create_subprocess_exec(
            program, *options, str(self.folder / "pgbouncer.ini"),
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(200):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                assert self.process.returncode is None, "pgbouncer ended at once"
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
        raise AssertionError("pgbouncer does not listen")

    async def kill(self) -> None:
        if self.process and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def url(self, role: str, database: str) -> str:
        return self.cluster.url(role, database).replace(f"@{self.direct}/", f"@127.0.0.1:{self.port}/")


class PooledWorld(World):
    """Every process of it has URLs that lead to the pooler; whoever inspects it goes to PostgreSQL itself."""

    def __init__(self, cluster: Cluster, database: str, pooler: Pooler) -> None:
        super().__init__(lambda role: cluster.url(role, database))
        self.pooler, self.name = pooler, database

    def pooled(self, values: dict[str, Any]) -> dict[str, Any]:
        roles = ["api", "worker", "reader"] + [
            one for one in ("registrar", "executor") if f"{one}_database_url" in values
        ]
        named = {"database_url" if role == "api" else f"{role}_database_url": role for role in roles}
        through = {setting: SecretStr(self.pooler.url(role, self.name)) for setting, role in named.items()}
        return values | through | {"database_pooled": True, "database_direct_address": self.pooler.direct}

    def settings(self, **more: Any) -> Settings:
        return super().settings(**self.pooled(more))

    def executor(self, **more: Any) -> Executor:
        values = self.pooled({"executor_database_url": None, "crm_base_url": self.crm_base_url, **more})
        made = Executor(Settings(_env_file=None, crm_write_token=SecretStr(WRITE_TOKEN), **values))
        self.stack.push_async_callback(made.database.close)
        return made

    async def servers(self) -> dict[str, int]:
        """How many sessions each of our roles has on this database, those that go around the pooler left out."""
        connection = await asyncpg.connect(self.url("admin"))
        rows = await connection.fetch(
            """SELECT usename, count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND usename LIKE $1
                 AND application_name NOT IN ('mission-root nudger', 'mission-root limits') GROUP BY usename""",
            f"{PREFIX}\\_%",
        )
        await connection.close()
        return {row["usename"].removeprefix(f"{PREFIX}_"): row["n"] for row in rows}


@asynccontextmanager
async def pooled_world(cluster: Cluster, database: str) -> AsyncIterator[PooledWorld]:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)  # nobody has to read it
        pooler = Pooler(cluster, Path(place))
        await pooler.start()
        world = PooledWorld(cluster, database, pooler)
        try:
            await world.open()
            yield world
        finally:
            await world.close()
            await pooler.kill()
