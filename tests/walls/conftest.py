"""One walled database for all these tests; each works in a tenant of its own."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from tests.conftest import TEMPLATE, Cluster, numbers
from tests.walls.ground import Ground, laid


@pytest.fixture(scope="session")
def walled(cluster: Cluster) -> Iterator[str]:
    """The name of a fresh copy of the migrated template, shared by the tests that bring their own tenant."""
    name = f"walled_{os.getpid()}_{next(numbers)}"
    asyncio.run(copy(cluster.admin_url, name, TEMPLATE))
    yield name
    asyncio.run(drop(cluster.admin_url, name))


@pytest.fixture
async def ground(cluster: Cluster, walled: str) -> AsyncIterator[Ground]:
    async with laid(lambda role: cluster.url(role, walled)) as made:
        yield made


async def copy(admin_url: str, name: str, template: str) -> None:
    """A copy of a database, with the same right to connect."""
    admin = await asyncpg.connect(admin_url)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    await admin.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    for (role,) in await admin.fetch(
        "SELECT rolname FROM pg_roles WHERE rolname LIKE 'mission\\_root\\_%' AND rolcanlogin"
    ):
        await admin.execute(f"GRANT CONNECT ON DATABASE {name} TO {role}")
    await admin.close()


async def drop(admin_url: str, name: str) -> None:
    admin = await asyncpg.connect(admin_url)
    await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await admin.close()
