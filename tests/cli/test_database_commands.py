"""`bootstrap` and `migrate` on a server of one's own, and what a command loads before it answers."""

import asyncio
import json
import os
import subprocess
import sys

import asyncpg
import pytest

from app.embedded import SUPERUSER, ephemeral, free_port
from tests.cli.test_client import Root, root

__all__ = ["root"]


def command(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "app.cli.main", *words],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def fetch(url: str, sql: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


@pytest.mark.long
def test_bootstrap_then_migrate_makes_a_database_that_the_roles_can_use() -> None:
    with ephemeral() as server:
        admin, api = server.url(SUPERUSER, server.password()), server.url("own_api", "a:pass/word")
        given = {"ADMIN_DATABASE_URL": admin, "DATABASE_URL": api, "DATABASE_ROLE_PREFIX": "own"}
        for _ in range(2):
            made = command("bootstrap", "--json", **given)
            assert made.returncode == 0, made.stderr
            assert {"own_owner", "own_api", "own_executor"} <= set(json.loads(made.stdout)["roles"])
            moved = command("migrate", "--json", **given)
            assert moved.returncode == 0, moved.stderr
        head = asyncio.run(fetch(api, "SELECT version_num FROM migration"))
        assert json.loads(moved.stdout) == {"head": head}
        # a newer build was here: beside what it has added there is nothing to do, and where it took something away that is said
        for fits, code in ((f"{{{head},9999}}", 0), ("{9999}", 1)):
            asyncio.run(fetch(admin, f"UPDATE migration SET version_num = '9999', fits = '{fits}' RETURNING fits"))
            moved = command("migrate", "--json", **given)
            assert moved.returncode == code
            assert not code or f"where code that knows {head} does not run any more" in moved.stderr
            assert code or json.loads(moved.stdout) == {"head": "9999"}
        asyncio.run(
            fetch(admin, "ALTER TABLE migration DROP COLUMN fits")
        )  # as a build before the first release made it
        moved = command("migrate", **given)
        assert moved.returncode == 1 and moved.stderr.count("\n") == 1
        assert "before the first release" in moved.stderr and "Begin with an empty one" in moved.stderr


def test_without_an_admin_url_it_says_so() -> None:
    refused = command("migrate")
    assert refused.returncode == 2
    assert refused.stderr == "mission-root: ADMIN_DATABASE_URL is not set, and this process needs it.\n"


def test_a_server_that_is_not_there_is_unavailable() -> None:
    url = f"postgresql://postgres:x@127.0.0.1:{free_port()}/postgres"
    for step in ("bootstrap", "migrate"):
        refused = command(step, ADMIN_DATABASE_URL=url)
        assert refused.returncode == 7
        assert refused.stderr.startswith("mission-root: The database of ADMIN_DATABASE_URL cannot be reached")
        assert refused.stderr.count("\n") == 1


HEAVY = {
    "httpx", "h2", "rich", "pygments", "click", "asyncio", "sqlalchemy", "fastapi", "pydantic", "asyncpg", "alembic",
}  # fmt: skip
LOADED = """
import sys
from app.cli import main
try:
    main.run()
finally:
    print(*sys.modules, file=sys.stderr)
"""


def test_a_command_loads_what_it_needs(root: Root) -> None:
    """Each of the others takes longer to load than most answers take to come."""
    root.answers["GET /v1/missions"] = (200, {}, {"items": [], "next_cursor": None, "has_more": False})
    known = os.environ | {"MISSION_ROOT_URL": root.url, "MISSION_ROOT_API_KEY": "mr_test"}
    for words, needed in ((("--help",), {"rich", "pygments", "asyncio"}), (("missions", "list", "--json"), {"httpx"})):
        done = subprocess.run(
            [sys.executable, "-c", LOADED, *words], capture_output=True, text=True, env=known, timeout=60
        )
        assert done.returncode == 0, done.stderr
        loaded = set(done.stderr.split())
        assert HEAVY & loaded <= needed, words
    assert {name for name in loaded if name.startswith("app.cli.")} == {
        f"app.cli.{name}" for name in ("main", "client", "lists", "missions", "refusals", "show")
    }
