"""One Postgres per test run, one migrated template in it, and a fresh copy of that for every test that asks."""

import asyncio
import gc
import itertools
import os
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from fastapi.routing import _IncludedRouter

from app.bootstrap import LOGIN_ROLES, bootstrap
from app.embedded import ephemeral
from app.identity import seed_demo
from app.migrate import upgrade
from app.policy import SHELF
from app.tools.judging import NEEDS as NEEDED_TOOLS
from app.tools.layers import LAYERS, NEWEST
from app.writebacks.book import BREAKERS
from tests.skips import (
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_sessionfinish,
    pytest_terminal_summary,
)
from tests.world import World

__all__ = ["pytest_addoption", "pytest_collection_modifyitems", "pytest_sessionfinish", "pytest_terminal_summary"]
# As in the Makefile, for who calls pytest without it: the tests start hundreds of processes, which share what is compiled.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# The servers of the tests speak no TLS: their clients need not ask them, on every connection.
os.environ.setdefault("PGSSLMODE", "disable")


def pytest_collection() -> None:
    gc.disable()  # what is collected lives as long as the run


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: half as many again as there are processors, because a test waits nearly as long as it computes."""
    return (3 * len(os.sched_getaffinity(0)) + 1) // 2


PREFIX = "mission_root"
TEMPLATE, DEMO = "template_mission_root", "template_mission_root_demo"
FIRST_OF_A_DATABASE = 16384  # the first oid that is not PostgreSQL's own
numbers = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def routes_are_made_once() -> None:
    """Every test has apps of its own, of the same routers: what FastAPI works out for a route is kept from one to the next."""
    made: dict[tuple[int, str], tuple[Any, Any]] = {}  # with the route itself, so that its id stays its own
    build = _IncludedRouter._build_effective_context

    def remembered(self: _IncludedRouter, route: Any) -> Any:
        context = self.include_context
        name = (id(route), repr((context.prefix, context.tags, [one.dependency for one in context.dependencies])))
        if name not in made:
            made[name] = route, build(self, route)
        return made[name][1]

    _IncludedRouter._build_effective_context = remembered  # type: ignore[method-assign]


@pytest.fixture(scope="session", autouse=True)
def arrays_are_asked_for_once() -> None:
    """What PostgreSQL's own types are made of is the same in every database; the driver asks on every connection, for 15 ms each."""
    known: dict[tuple[int, ...], tuple[Any, Any]] = {}
    ask = asyncpg.Connection._introspect_types

    async def remembered(self: asyncpg.Connection, oids: Iterable[int], timeout: float) -> tuple[Any, Any]:
        wanted = tuple(sorted(oids))
        if wanted[-1] >= FIRST_OF_A_DATABASE:
            return await ask(self, wanted, timeout)
        if wanted not in known:
            types, statement = await ask(self, wanted, timeout)
            known[wanted] = types, SimpleNamespace(name="asked before")  # over this connection nothing came between
            return types, statement
        return known[wanted]

    asyncpg.Connection._introspect_types = remembered


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True)
class Cluster:
    """A running Postgres with the roles made and a migrated template database in it."""

    admin_url: str
    passwords: dict[str, str]

    def url(self, role: str, database: str) -> str:
        """How a role reaches a database; role `admin` is the superuser."""
        parts = urlsplit(self.admin_url)
        login = parts.netloc.rpartition("@")
        who = login[0] if role == "admin" else f"{PREFIX}_{role}:{self.passwords[role]}"
        return urlunsplit(("postgresql", f"{who}@{login[2]}", f"/{database}", parts.query, ""))


@pytest.fixture(scope="session")
def admin_url() -> Iterator[str]:
    """A superuser URL: of TEST_DATABASE_URL, of a container with TEST_DATABASE=docker, else of an embedded server."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
    elif os.environ.get("TEST_DATABASE") == "docker":
        from testcontainers.postgres import PostgresContainer

        with PostgresContainer("postgres:18", driver=None) as container:
            yield container.get_connection_url()
    else:
        with ephemeral() as server:
            yield server.url("postgres", server.password(), "postgres")


@pytest.fixture(scope="session")
def cluster(admin_url: str) -> Cluster:
    found = Cluster(admin_url, {role: f"{role}-password-of-tests" for role in LOGIN_ROLES})

    async def prepare() -> None:
        admin = await asyncpg.connect(admin_url)
        await admin.execute(f"DROP DATABASE IF EXISTS {TEMPLATE}")
        await admin.execute(f"CREATE DATABASE {TEMPLATE}")
        await admin.close()
        await bootstrap(found.url("admin", TEMPLATE), PREFIX, found.passwords, TEMPLATE)

    asyncio.run(prepare())
    upgrade(found.url("admin", TEMPLATE), PREFIX)
    return found


@pytest.fixture(scope="session")
def demo(cluster: Cluster) -> dict[str, str]:
    """A second template with the demo tenant in it; the keys of its people."""

    async def make() -> dict[str, str]:
        async with fresh(cluster, TEMPLATE, DEMO, keep=True):
            return await seed_demo(cluster.url("registrar", DEMO))

    return asyncio.run(make())


@asynccontextmanager
async def fresh(cluster: Cluster, template: str, name: str, *, keep: bool = False) -> AsyncIterator[str]:
    """A copy of a template database, dropped afterwards."""
    admin = await asyncpg.connect(cluster.admin_url)
    try:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        # as files: block by block through the log, as PostgreSQL does it unasked, takes twice the processor's time
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        # CONNECT is granted per database and is not copied with it
        await admin.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
        for role in LOGIN_ROLES:
            await admin.execute(f"GRANT CONNECT ON DATABASE {name} TO {PREFIX}_{role}")
        yield name
        if not keep:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


@pytest.fixture
async def database(cluster: Cluster) -> AsyncIterator[str]:
    """The name of a fresh, migrated, empty database, dropped afterwards."""
    async with fresh(cluster, TEMPLATE, f"test_{os.getpid()}_{next(numbers)}") as name:
        yield name


@pytest.fixture
def world_settings() -> dict[str, Any]:
    """What the root is told beside what every test of it needs; a module that wants more has a fixture of this name."""
    return {}


@pytest.fixture
async def world(cluster: Cluster, demo: dict[str, str], world_settings: dict[str, Any]) -> AsyncIterator[World]:
    """The root in this process over a real database, with the demo tenant's people."""
    async with fresh(cluster, DEMO, f"test_{os.getpid()}_{next(numbers)}") as name:
        made = World(lambda role: cluster.url(role, name), **world_settings)
        for remembered in (
            SHELF.known,
            LAYERS,
            NEWEST,
            NEEDED_TOOLS,
            BREAKERS,
        ):  # by tenant, and every test has the same one
            remembered.clear()
        await made.open(demo)
        try:
            yield made
        finally:
            await made.close()
