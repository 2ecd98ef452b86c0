"""The product as `mission-root up` runs it: PostgreSQL, and those of its processes that a measurement needs."""

import asyncio
import os
import subprocess
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import asyncpg
import httpx

from app import embedded
from app.bootstrap import bootstrap
from app.db import Database
from app.identity import seed_demo
from app.identity.actions import create_principal, create_tenant, grant_role, issue_key
from app.migrate import upgrade
from app.supervisor.folder import open_folder
from app.supervisor.plan import Process, processes
from app.supervisor.watch import Child
from bench.rounds import say

REPOSITORY = Path(__file__).parents[1]
PRODUCT_DATABASE = "mission_root"
STAND_INS = {"colony": "bench.colony", "crm": "bench.crm"}
TUNING = {
    "TRACE_SAMPLE_RATIO": "0.01",
    # The limits are asked for every request, as always, and never the reason for a refusal here.
    **{f"RATE_LIMIT_{who}_PER_S": "1000000" for who in ("KEY", "PRINCIPAL", "TENANT", "MISSION")},
}


class Instance:
    """Use as `with`. `names` are processes of the supervisor's plan; colony and CRM are the benchmark's stand-ins."""

    def __init__(self, place: Path, names: Collection[str], trace_sink: str, *, commit_times: bool = False) -> None:
        self.folder = open_folder(place, embedded.free_port())  # 8080 may be somebody's instance in a moment
        self.names, self.commit_times = names, commit_times
        self.surroundings = {"PATH": os.environ["PATH"], "OTEL_EXPORTER_OTLP_ENDPOINT": trace_sink, **TUNING}
        self.running: list[Child] = []
        self.ready_s: dict[str, float] = {}  # from the start of each process to its readiness
        self.tenant_keys: list[str] = []

    def __enter__(self) -> "Instance":
        try:
            asyncio.run(self._databases())
            upgrade(self.folder.owner_url(), PRODUCT_DATABASE)
            asyncio.run(seed_demo(self.folder.database_url("registrar"), self.folder.secrets["api_keys"]))
            self.folder.let_go()
            for process in processes(self.folder, self.surroundings):
                if process.name in self.names:
                    self.running.append(Child(self.dressed(process), self.folder.logs / f"{process.name}.log"))
                    self.running[-1].start()
            began = time.monotonic()
            for child in self.running:
                await_ready(child)
                self.ready_s[child.process.name] = round(time.monotonic() - began, 2)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, failed: object = None, *_: object) -> None:
        try:
            if failed is None:
                self.in_order()
        finally:
            self._end()

    def _end(self) -> None:
        for child in reversed(self.running):
            if child.running is not None:
                child.running.terminate()
        for child in self.running:
            if child.running is not None:
                try:
                    child.running.wait(15)
                except subprocess.TimeoutExpired:
                    child.running.kill()
                    child.running.wait(5)
        self.running = []
        self.folder.let_go()
        self.folder.server.stop()

    def dressed(self, process: Process) -> Process:
        """A process of the plan as it is started here."""
        return stand_in(process)

    def in_order(self) -> None:
        """Raises RuntimeError when the colony was answered for other missions than it spoke of: then no figure is worth anything."""
        if not any(child.process.name == "colony" for child in self.running):
            return
        said = httpx.get(f"{self.url_of('colony')}/bench/state", timeout=10, trust_env=False).json()
        if said["refused"]:
            say(f"  {said['refused']} callbacks of the colony were not taken")
        if said["mixed"]:
            raise RuntimeError(f"{said['mixed']} calls of the colony were answered for other missions than it spoke of")

    def stop_processes(self) -> None:
        """Told to drain, waited for; the database stays. What they were still doing is in the tables afterwards."""
        self.in_order()
        for child in self.running:
            assert child.running is not None
            child.running.terminate()
            child.running.wait(15)
        self.running = []

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.folder.ports['public']}"

    def url_of(self, door: str) -> str:
        return f"http://127.0.0.1:{self.folder.ports[door]}"

    def key_of(self, who: str) -> str:
        return str(self.folder.secrets["api_keys"][who])

    def superuser(self, database: str = PRODUCT_DATABASE) -> str:
        return self.folder.server.url("postgres", self.folder.server.password(), database)

    def memory_mb(self, name: str) -> float:
        """The resident memory of one of its processes."""
        [running] = [child.running for child in self.running if child.process.name == name]
        assert running is not None
        return round(resident_mb(running.pid), 1)

    def cpu_s(self) -> dict[str, float]:
        """How long each of its processes and PostgreSQL, all backends together, have used a processor."""
        found = {one.process.name: used_s(one.running.pid) for one in self.running if one.running is not None}
        postmaster = int((self.folder.server.cluster / "postmaster.pid").read_text().split()[0])
        backends = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        return found | {"postgres": sum(used_s(int(pid)) for pid in (postmaster, *backends))}

    def keys_of_tenants(self, count: int) -> list[str]:
        """A submitter's key of each of so many tenants, which are made when they do not exist."""

        async def make(first: int) -> None:
            database = Database(self.folder.database_url("registrar"), pool_size=2, name="bench tenants")
            for number in range(first, count):
                async with database.write() as session:
                    await create_tenant(session, f"bench-{number}")
                    principal = await create_principal(session, "submitter", "service")
                    await grant_role(session, principal, "submitter")
                    self.tenant_keys.append((await issue_key(session, principal)).secret)
            await database.close()

        asyncio.run(make(len(self.tenant_keys)))
        return self.tenant_keys[:count]

    def new_database(self, name: str) -> str:
        """A database for somebody else on the same server; the URL of its superuser."""

        async def create() -> None:
            connection = await asyncpg.connect(self.superuser("postgres"))
            await connection.execute(f"CREATE DATABASE {name}")
            await connection.close()

        asyncio.run(create())
        return self.superuser(name)

    def counts(self, questions: Mapping[str, str], database: str = PRODUCT_DATABASE) -> dict[str, int]:
        async def ask() -> dict[str, int]:
            connection = await asyncpg.connect(self.superuser(database))
            found = {name: await connection.fetchval(question) for name, question in questions.items()}
            await connection.close()
            return found

        return asyncio.run(ask())

    def settings(self) -> dict[str, str]:
        """What the server says of its own durability."""

        async def ask() -> dict[str, str]:
            connection = await asyncpg.connect(self.superuser())
            names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method")
            found = {name: await connection.fetchval(f"SHOW {name}") for name in names}
            await connection.close()
            return found

        return asyncio.run(ask())

    async def _databases(self) -> None:
        url = self.folder.server.start()
        if self.commit_times:  # when a transaction was committed is asked about afterwards
            connection = await asyncpg.connect(url)
            await connection.execute("ALTER SYSTEM SET track_commit_timestamp = on")
            await connection.close()
            self.folder.server.stop()
            url = self.folder.server.start()
        connection = await asyncpg.connect(url)
        await connection.execute(f"CREATE DATABASE {PRODUCT_DATABASE}")
        await connection.close()
        passwords = self.folder.secrets["database_passwords"]
        await bootstrap(self.folder.owner_url(), "mission_root", passwords, PRODUCT_DATABASE)


def stand_in(process: Process) -> Process:
    """The benchmark's own colony and CRM, where the plan has the product's."""
    if process.name not in STAND_INS:
        return process
    environment = {**process.environment, "PYTHONPATH": str(REPOSITORY)}
    return replace(process, module=STAND_INS[process.name], environment=environment)


def resident_mb(pid: int) -> float:
    """The memory that a process has of its own and shares, in MB."""
    said = Path(f"/proc/{pid}/status").read_text()
    return int(said.split("VmRSS:")[1].split()[0]) / 1024


def used_s(pid: int) -> float:
    """Processor time of a process and of the children that it has outlived; none of one that is gone."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(ticks) for ticks in said[11:15]) / os.sysconf("SC_CLK_TCK")


def await_ready(child: Child) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if child.running is None or child.running.poll() is not None:
            raise SystemExit(f"bench: {child.process.name} did not start: {child.last_words()}")
        try:
            if httpx.get(child.process.ready_url, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    say(child.last_words())
    raise SystemExit(f"bench: {child.process.name} was not ready in time")
