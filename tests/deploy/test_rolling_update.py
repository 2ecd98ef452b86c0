"""A version takes another's place under load, as an orchestrator does it: no request fails, and nothing is lost or doubled.

The next version is a copy of this one with a migration more, and with code that does not run without it.
"""

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from app.embedded import free_port
from app.migrate import Ahead, upgrade
from app.supervisor.plan import SURROUNDINGS
from tests.conftest import DEMO, Cluster, fresh
from tests.world.world import COLONY_KEY, REGISTRAR_KEY, SIGNING_KEY

CALLERS = 6
EXIT_WITHIN_S = 10.0
REPOSITORY = Path(__file__).parents[2]
PREFIX = "mission_root"

EXPAND = """
revision = "0002"
down_revision = "0001"
oldest = "0001"  # a column more: whoever does not know it goes on

def upgrade() -> None:
    from alembic import context, op

    op.execute("ALTER TABLE mission ADD COLUMN colour text NOT NULL DEFAULT 'none'")
    op.execute(f"GRANT SELECT (colour) ON mission TO {context.config.attributes['prefix']}_api")
"""
CONTRACT = """
revision = "0003"
down_revision = "0002"
oldest = "0002"  # the column replaces another one, so to speak: whoever still looks for that is shut out

def upgrade() -> None:
    pass
"""


class Version:
    """Another version of the product: its code in a folder of its own, with migrations that this one does not have."""

    def __init__(self, folder: Path, **migrations: str) -> None:
        self.folder = folder
        for name in ("app", "colony_client", "migrations"):
            shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name, source in migrations.items():
            (folder / "migrations" / "versions" / f"{name}.py").write_text(source)
        probes = folder / "app" / "http" / "probes.py"
        looks = "session.first(text(FITS)"
        assert looks in probes.read_text()
        new = 'session.execute(text("SELECT colour FROM mission LIMIT 1")) and await session.first(text(FITS)'
        probes.write_text(probes.read_text().replace(looks, new))

    async def migrate(self, admin_url: str) -> str:
        """Brings a database to this version's schema; where it is then."""
        code = "import sys; from app.migrate import upgrade; print(upgrade(*sys.argv[1:]))"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-c", code, admin_url, PREFIX,
            env=surroundings() | {"PYTHONPATH": str(self.folder)}, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, _ = await process.communicate()
        assert process.returncode == 0
        return said.decode().strip()


def surroundings() -> dict[str, str]:
    return {name: os.environ[name] for name in SURROUNDINGS if name in os.environ}


@dataclass
class RootProcess:
    """`mission-root serve` on ports of its own, over a database that others use, too."""

    process: asyncio.subprocess.Process
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def ready(self) -> bool:
        async with httpx.AsyncClient(trust_env=False) as http:
            return (await http.get(f"{self.url}/readyz")).status_code == 200


@asynccontextmanager
async def root(cluster: Cluster, database: str, version: Version | None = None) -> AsyncIterator[RootProcess]:
    """Ready to be asked. version: another one than this."""
    port = free_port()
    environment = surroundings() | {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "INTERNAL_PORT": str(free_port()),
        "METRICS_PORT": str(free_port()),
        "DATABASE_URL": cluster.url("api", database),
        "READER_DATABASE_URL": cluster.url("reader", database),
        "COLONY_SERVICE_API_KEY": COLONY_KEY,
        "ROOT_SIGNING_KEY": SIGNING_KEY,
        "REGISTRAR_KEY": REGISTRAR_KEY,
        "LOG_LEVEL": "warning",
    }
    if version is not None:
        environment["PYTHONPATH"] = str(version.folder)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", "from app.main import run; run()", env=environment
    )
    made = RootProcess(process, port)
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    if await made.ready():
                        break
                except httpx.HTTPError:
                    assert process.returncode is None, "it has ended"
                await asyncio.sleep(0.05)
        yield made
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@dataclass
class Balancer:
    """What a service of Kubernetes does: each new connection goes to one of those that are in; the others keep theirs."""

    members: list[int] = field(default_factory=list)
    turn: int = 0
    server: asyncio.Server | None = None

    async def start(self) -> str:
        self.server = await asyncio.start_server(self.carry, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.turn += 1
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.members[self.turn % len(self.members)])
        except OSError:  # nobody is there any more: the caller is told so, as by any proxy
            writer.close()
            return
        await asyncio.gather(pour(reader, back), pour(there, writer))

    async def close(self) -> None:
        assert self.server is not None
        self.server.close()


async def pour(source: asyncio.StreamReader, into: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65_536):
            into.write(data)
            await into.drain()
    except ConnectionError:
        pass
    finally:
        into.close()


@dataclass
class Load:
    """Callers who ask for missions one after another, each over a connection of its own."""

    url: str
    key: str
    stopping: bool = False
    accepted: set[str] = field(default_factory=set)
    failures: list[Any] = field(default_factory=list)

    async def call(self, caller: int) -> None:
        number = 0
        headers = {"Authorization": f"Bearer {self.key}", "Connection": "close"}
        while not self.stopping:
            number += 1
            ask = {"mission_type": "oracle_advisory", "user_goal": f"What does {caller} need for the {number}th time?"}
            try:
                async with httpx.AsyncClient(base_url=self.url, timeout=20, trust_env=False) as http:
                    given = headers | {"Idempotency-Key": f"{caller}-{number}"}
                    answer = await http.post("/v1/missions", json=ask, headers=given)
                if answer.status_code == 202:
                    self.accepted.add(answer.json()["id"])
                else:
                    self.failures.append((answer.status_code, answer.text[:200]))
            except httpx.HTTPError as error:
                self.failures.append(repr(error))

    async def reaches(self, more: int) -> None:
        """Until so many more missions were accepted than now."""
        wanted = len(self.accepted) + more
        async with asyncio.timeout(60):
            while len(self.accepted) < wanted and not self.failures:
                await asyncio.sleep(0.02)


async def wait_for_facts(url: str, key: str, mission: str) -> int:
    """A long poll for what has not happened yet."""
    async with httpx.AsyncClient(base_url=url, timeout=40, trust_env=False) as http:
        headers = {"Authorization": f"Bearer {key}"}
        after = (await http.get(f"/v1/missions/{mission}/events", headers=headers)).json()["next_cursor"]
        parameters = {"wait": "30"} | ({"cursor": after} if after else {})
        answer = await http.get(f"/v1/missions/{mission}/events", params=parameters, headers=headers)
        return answer.status_code


@pytest.mark.long
async def test_no_request_fails_while_a_version_takes_anothers_place(
    cluster: Cluster, demo: dict[str, str], tmp_path: Path
) -> None:
    following = Version(tmp_path / "next", second=EXPAND)
    async with fresh(cluster, DEMO, f"test_{os.getpid()}_rolling") as database, root(cluster, database) as old:
        balancer = Balancer([old.port])
        load = Load(await balancer.start(), demo["submitter"])
        callers = [asyncio.create_task(load.call(number)) for number in range(CALLERS)]
        try:
            await load.reaches(10)
            assert await following.migrate(cluster.url("admin", database)) == "0002"
            assert await old.ready(), "the older version goes on beside what the newer one has added"
            await load.reaches(10)
            async with root(cluster, database, following) as new:
                await load.reaches(10)
                mission = next(iter(load.accepted))
                poll = asyncio.create_task(wait_for_facts(old.url, demo["submitter"], mission))
                await load.reaches(10)
                balancer.members = [new.port]  # out of the service, and then the pause of preStop
                await load.reaches(10)
                began = time.monotonic()
                old.process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(EXIT_WITHIN_S):
                    assert await old.process.wait() == 0
                took = time.monotonic() - began
                await load.reaches(20)
                assert await poll == 200 and took < EXIT_WITHIN_S
                load.stopping = True
                await asyncio.gather(*callers)
                assert load.failures == []
                connection = await asyncpg.connect(cluster.url("admin", database))
                rows = await connection.fetch("SELECT id::text FROM mission")
                await connection.close()
                assert {row["id"] for row in rows} == load.accepted, "as many are kept as were accepted, and no other"
        finally:
            load.stopping = True
            await asyncio.gather(*callers, return_exceptions=True)
            await balancer.close()


@pytest.mark.long
async def test_an_older_version_comes_back_until_what_it_needs_is_gone(
    cluster: Cluster, demo: dict[str, str], tmp_path: Path
) -> None:
    following = Version(tmp_path / "next", second=EXPAND)
    last = Version(tmp_path / "last", second=EXPAND, third=CONTRACT)
    async with fresh(cluster, DEMO, f"test_{os.getpid()}_back") as database:
        admin = cluster.url("admin", database)
        await following.migrate(admin)
        assert await asyncio.to_thread(upgrade, admin, PREFIX) == "0002", "its own job of before has nothing to do"
        async with root(cluster, database) as old, root(cluster, database, following) as new:
            assert await last.migrate(admin) == "0003"
            assert not await old.ready(), "it gets no request that it could only fail"
            assert await new.ready()
            with pytest.raises(
                Ahead, match="0003, where code that knows 0001 does not run any more: use the newer build"
            ):
                await asyncio.to_thread(upgrade, admin, PREFIX)
