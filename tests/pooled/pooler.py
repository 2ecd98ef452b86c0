"""A real PgBouncer in transaction mode before the tests' PostgreSQL, and a world that reaches it through that only."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from pydantic import SecretStr

from app.executor import Executor
from app.settings import Settings
from bench.pgbouncer import PgBouncer
from tests.conftest import PREFIX, Cluster
from tests.world import World
from tests.world.world import WRITE_TOKEN

SERVERS = 2  # connections of a role to PostgreSQL, however many clients there are


class Pooler(PgBouncer):
    """The same for the roles of the tests' cluster."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        server = urlsplit(cluster.admin_url)
        assert server.hostname is not None and server.port is not None
        users = {f"{PREFIX}_{role}": word for role, word in cluster.passwords.items()}
        super().__init__(folder, server.hostname, server.port, users, SERVERS)
        self.cluster, self.direct = cluster, f"{server.hostname}:{server.port}"

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
        pooler = Pooler(cluster, Path(place))
        pooler.start()
        world = PooledWorld(cluster, database, pooler)
        try:
            await world.open()
            yield world
        finally:
            await world.close()
            pooler.kill()
