"""One root takes another's place under load, as an orchestrator does it: no request fails, and nothing is lost or doubled."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx

from app.embedded import free_port
from app.supervisor.plan import SURROUNDINGS
from tests.conftest import DEMO, Cluster, fresh
from tests.world.world import COLONY_KEY, REGISTRAR_KEY, SIGNING_KEY

CALLERS = 6
EXIT_WITHIN_S = 10.0


@dataclass
class RootProcess:
    """`mission-root serve` on ports of its own, over a database that others use, too."""

    process: asyncio.subprocess.Process
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def root(cluster: Cluster, database: str) -> AsyncIterator[RootProcess]:
    port = free_port()
    environment = {name: os.environ[name] for name in SURROUNDINGS if name in os.environ} | {
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
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", "from app.main import run; run()", env=environment
    )
    try:
        async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(60):
            while True:
                try:
                    if (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200:
                        break
                except httpx.HTTPError:
                    assert process.returncode is None, "it has ended"
                await asyncio.sleep(0.05)
        yield RootProcess(process, port)
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


async def test_no_request_fails_while_one_root_takes_anothers_place(cluster: Cluster, demo: dict[str, str]) -> None:
    async with fresh(cluster, DEMO, f"test_{os.getpid()}_rolling") as database, root(cluster, database) as old:
        balancer = Balancer([old.port])
        load = Load(await balancer.start(), demo["submitter"])
        callers = [asyncio.create_task(load.call(number)) for number in range(CALLERS)]
        try:
            await load.reaches(10)
            async with root(cluster, database) as new:
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
