"""The doctor: a healthy installation passes every line, and each line can fail and says what to do."""

import asyncio
import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from app.operations import doctor
from app.settings import Misconfigured, Settings
from tests.boundary.faults import broken
from tests.world import World
from tests.world.checks import inspector
from tests.world.life import age, asked_at_intake, begin, by_force, reconcile
from tests.world.world import served

REPOSITORY = Path(__file__).parents[2]
NAMES = ("environment", *doctor.LINES)


def settings_of(world: World, **more: Any) -> Settings:
    values = {"registrar_database_url": world.url("registrar"), "executor_database_url": world.url("executor")}
    return world.settings(**(values | more))


async def line(world: World, name: str, **more: Any) -> doctor.Line:
    """One line, looked at alone."""
    check, patience_s = doctor.LINES[name]
    return await doctor.one(name, check, patience_s, settings_of(world, **more))


def failed(found: doctor.Line, *words: str) -> None:
    assert found.state == "fail", found
    assert found.remedy and found.remedy.endswith("."), found
    assert found.page and (REPOSITORY / found.page.partition("#")[0]).exists(), found
    for word in words:
        assert word in found.said, found


async def test_a_healthy_installation_passes_every_line(world: World) -> None:
    await begin(world)
    await reconcile(world)  # the tenant may be older than the doctor's patience
    async with served(world.colony.app) as url:
        lines = await doctor.examine(lambda: settings_of(world, colony_service_base_url=url))
    assert [one.name for one in lines] == list(NAMES)
    assert {one.name: one.state for one in lines} == dict.fromkeys(NAMES, "pass"), lines
    assert all(one.remedy is None for one in lines)
    said = {one.name: one.said for one in lines}
    assert "facts of" in said["ledger"] and "knows the root's signature" in said["colony"]


async def test_wrong_settings_are_the_first_line_and_the_rest_is_left_out() -> None:
    def load() -> Settings:
        raise Misconfigured("PORT must be a number.")

    first, *rest = await doctor.examine(load)
    failed(first, "PORT must be a number")
    assert {one.state for one in rest} == {"left_out"}


async def test_what_nothing_is_given_for_is_left_out_and_not_called_healthy(world: World) -> None:
    bare = Settings(_env_file=None)
    lines = {one.name: one.state for one in await doctor.examine(lambda: bare)}
    assert lines == dict.fromkeys(NAMES, "left_out") | {"environment": "pass", "disk": "pass"}


async def test_a_database_that_is_away(world: World) -> None:
    nowhere = "postgresql://nobody:secret-of-nobody@127.0.0.1:1/none"
    found = await line(world, "database", worker_database_url=nowhere)
    failed(found, "WORKER_DATABASE_URL")
    assert "secret-of-nobody" not in str(found)


async def test_a_url_that_logs_in_as_somebody_else(world: World) -> None:
    failed(await line(world, "roles", database_url=world.url("worker")), "mission_root_worker", "mission_root_api")
    failed(await line(world, "roles", worker_database_url=world.url("admin")), "which no wall holds")


async def test_a_schema_that_somebody_changed_by_hand(world: World) -> None:
    await (await inspector(world)).execute("ALTER TABLE ledger NO FORCE ROW LEVEL SECURITY")
    failed(await line(world, "catalog"), "ledger")


async def test_another_schema(world: World) -> None:
    await (await inspector(world)).execute("UPDATE migration SET version_num = 'older', fits = '{older}'")
    failed(await line(world, "migration"), "older")


async def test_a_schema_of_before_the_first_release(world: World) -> None:
    await (await inspector(world)).execute("ALTER TABLE migration DROP COLUMN fits")
    found = await line(world, "migration")
    failed(found, "before the first release")
    assert "empty one" in str(found.remedy)


async def test_clocks_that_differ(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    from app.clock import now

    monkeypatch.setattr(doctor, "now", lambda: now() - timedelta(seconds=30))
    failed(await line(world, "clock"), "30.")


@pytest.mark.parametrize(
    ("manner", "words", "page"),
    [
        ("html_500", "does not answer", "colony-unavailable"),
        ("unauthorized_401", "refuses the root's signature", "colony-authentication"),
        ("not_ready_503", "not ready", "colony-unavailable"),
    ],
)
async def test_a_colony_that_is_no_use(world: World, manner: str, words: str, page: str) -> None:
    async with broken(world) as colony:
        colony.manner = manner
        url = str(world.worker.colony.client._base_url)
        found = await line(world, "colony", colony_service_base_url=url)
    failed(found, words)
    assert page in str(found.page)


async def test_keys_that_are_old_or_about_to_end(world: World) -> None:
    connection = await inspector(world)
    one = await connection.fetchval("SELECT id FROM api_key LIMIT 1")
    await connection.execute("UPDATE api_key SET expires_at = now() + interval '3 days' WHERE id = $1", one)
    failed(await line(world, "keys"), "end within 14 days")
    await connection.execute("UPDATE api_key SET revoked_at = now() WHERE id = $1", one)
    assert (await line(world, "keys")).state == "pass", "an ended key is nobody's trouble"
    await connection.execute("ALTER TABLE api_key DISABLE TRIGGER api_key_guard")
    await connection.execute("UPDATE api_key SET created_at = now() - interval '400 days' WHERE revoked_at IS NULL")
    await connection.execute("ALTER TABLE api_key ENABLE ALWAYS TRIGGER api_key_guard")
    failed(await line(world, "keys"), "older than 365 days")


async def test_a_disk_that_is_full(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100 * 1024**3, 95 * 1024**3, 5 * 1024**3))
    failed(await line(world, "disk"), "5 %")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(4 * 1024**3, 0, 1024**2))
    failed(await line(world, "disk"), "1 MiB")


async def test_a_ledger_that_somebody_edited(world: World) -> None:
    life = await begin(world)
    connection = await inspector(world)
    async with connection.transaction():
        await connection.execute("ALTER TABLE ledger DISABLE TRIGGER ALL")
        await connection.execute("UPDATE ledger SET body = '{}' WHERE subject = $1", life.id)
        for (name,) in await connection.fetch(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = 'ledger'::regclass AND NOT tgisinternal"
        ):
            await connection.execute(f"ALTER TABLE ledger ENABLE ALWAYS TRIGGER {name}")
    found = await line(world, "ledger")
    failed(found, str(life.id))
    assert str(found.page) == "docs/ledger.md"


async def test_a_mission_that_is_stuck_and_nobody_who_looks(world: World) -> None:
    life = await asked_at_intake(world)
    remove = "DELETE FROM work WHERE subject IN (SELECT id FROM approval WHERE mission = $1)"
    await by_force(
        world, remove, "UPDATE approval SET state = 'cancelled', closed_at = now() WHERE mission = $1", life=life
    )
    await age(life)
    await reconcile(world)
    failed(await line(world, "missions"), "1 open missions")
    assert (await life.end("fail")).status_code == 200
    await reconcile(world)
    assert (await line(world, "missions")).state == "pass"
    await (await inspector(world)).execute("UPDATE liveness_look SET looked_at = now() - interval '1 hour'")
    failed(await line(world, "missions"), "nobody has looked")


async def test_a_line_that_hangs_fails_alone(world: World) -> None:
    async def hangs(_: Settings) -> str:
        await asyncio.Event().wait()
        return "never"

    failed(await doctor.one("hangs", hangs, 0.05, settings_of(world)), "no answer within")

    async def breaks(_: Settings) -> str:
        raise RuntimeError("postgresql://user:s3cret@db")

    found = await doctor.one("breaks", breaks, 1, settings_of(world))
    failed(found, "RuntimeError")
    assert "s3cret" not in json.dumps(found.__dict__)


@pytest.mark.long
async def test_the_command_says_it_and_ends_by_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command in its own process, with an environment like a deployment's."""
    import os
    import subprocess
    import sys

    command = Path(sys.executable).parent / "mission-root"
    given = {name: value for name, value in os.environ.items() if not name.endswith("DATABASE_URL")}
    given |= {"DATABASE_URL": world.url("api"), "COLONY_ENABLED": "false"}

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [command, "doctor", *words],
            env=given | more,
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            timeout=60,
        )

    await reconcile(world)
    well = await asyncio.to_thread(run, "--json")
    assert well.returncode == 0, well.stdout + well.stderr
    found = json.loads(well.stdout)
    assert found["healthy"] and [one["name"] for one in found["lines"]] == list(NAMES)
    await (await inspector(world)).execute("UPDATE migration SET version_num = 'older', fits = '{older}'")
    ill = await asyncio.to_thread(run)
    assert ill.returncode == 1 and "FAIL migration" in ill.stdout and "mission-root migrate" in ill.stdout
    assert ill.stderr == f"mission-root: 1 of {len(NAMES)} lines failed: migration.\n"
    wrong = await asyncio.to_thread(run, "--json", PORT="nowhere")
    assert wrong.returncode == 1 and not json.loads(wrong.stdout)["healthy"]
