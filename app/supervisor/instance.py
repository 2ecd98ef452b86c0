"""A whole instance: from an empty folder to six ready processes, and back to nothing running."""

import asyncio
import contextlib
import hashlib
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import httpx

from app import drills
from app.bootstrap import bootstrap
from app.embedded import CannotStart, write_private
from app.identity import seed_demo
from app.migrate import Unfit, upgrade
from app.supervisor.folder import Folder, open_folder
from app.supervisor.plan import processes
from app.supervisor.watch import Watch
from colony_client.signing import parse_keys

Result = TypeVar("Result")


class Instance:
    """What runs, and how to reach it."""

    def __init__(self, folder: Folder, say: Callable[[str], None], colony_url: str | None = None) -> None:
        self.folder, self.colony_url = folder, colony_url
        self.watch = Watch(processes(folder, colony_url=colony_url), folder.server, folder.logs, say, self.write_down)

    def describe(self) -> dict[str, Any]:
        """The object that `up --json` prints; fields are added over time, never renamed."""
        ports = {name: f"http://127.0.0.1:{port}" for name, port in self.folder.ports.items()}
        return {
            "base_url": ports["public"],
            "internal_url": ports["internal"],
            "colony_url": self.colony_url or ports["colony"],
            "crm_url": ports["crm"],
            "console_url": f"{ports['public']}/console",
            "metrics_urls": {
                "serve": f"{ports['metrics']}/metrics",
                "worker": f"{ports['worker_metrics']}/metrics",
                "executor": f"{ports['executor_metrics']}/metrics",
                "registrar": f"{ports['registrar_metrics']}/metrics",
            },
            "keys": self.folder.secrets["api_keys"],
            "kit_env": {
                "MISSION_ROOT_URL": ports["public"],
                "MISSION_ROOT_API_KEY": self.folder.secrets["api_keys"]["submitter"],
                "COLONY_SERVICE_BASE_URL": self.colony_url or ports["colony"],
                "COLONY_SERVICE_API_KEY": self.folder.secrets["colony_key"],
                "ROOT_API_BASE_URL": ports["internal"],
                "ROOT_API_KEY": self.folder.secrets["colony_key"],
            },
            "databases": {
                "owner": self.folder.owner_url(),
                "api": self.folder.database_url("api"),
                "executor": self.folder.database_url("executor"),
            },
            "pids": self.watch.pids(),
            "data_dir": str(self.folder.path),
        }

    def write_down(self) -> None:
        """The same for programs that come later, kept true when a process is started again."""
        write_private(self.folder.path / "up.json", self.describe())


@asynccontextmanager
async def running(
    data_dir: Path, port: int | None, say: Callable[[str], None], colony_url: str | None = None
) -> AsyncIterator[Instance]:
    """A ready instance over `data_dir` for the length of the block; the block is cancelled when the instance is lost.

    colony_url: a colony of one's own, which is not started here.
    Raises CannotStart. Must be entered on the main thread: the children's lives are tied to it.
    """
    folder = open_folder(data_dir, port)
    instance = Instance(folder, say, colony_url)
    try:
        await prepare_database(folder, say)
        whose = (
            "the colony and the sample CRM"
            if colony_url is None
            else f"and the sample CRM, for the colony at {colony_url}"
        )
        say(f"Starting the root, its registrar, worker and executor, {whose}.")
        folder.let_go()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(instance.watch.run())
            await instance.watch.all_ready.wait()
            await confirm_own(instance)
            instance.write_down()
            yield instance
            watching.cancel()
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    finally:
        folder.let_go()
        await instance.watch.stop()
        (folder.path / "up.json").unlink(missing_ok=True)


async def prepare_database(folder: Folder, say: Callable[[str], None]) -> None:
    """PostgreSQL with this instance's database, roles, schema and people in it."""
    fresh = not (folder.path / "postgres" / "PG_VERSION").exists()
    say(f"Starting PostgreSQL over {'a new cluster' if fresh else 'the cluster'} in {folder.path}.")
    server_url = folder.server.start()
    connection = await asyncpg.connect(server_url)
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = 'mission_root'"):
            await connection.execute("CREATE DATABASE mission_root")
    finally:
        await connection.close()
    say("Bringing roles and schema up to date.")
    await bootstrap(folder.owner_url(), "mission_root", folder.secrets["database_passwords"], "mission_root")
    try:
        await asyncio.to_thread(upgrade, folder.owner_url(), "mission_root")
    except Unfit as other:
        raise CannotStart(f"{other}.") from other
    await seed_demo(folder.database_url("registrar"), folder.secrets["api_keys"])
    await drills.prepare(folder.database_url("registrar"), parse_keys(folder.secrets["drill_key"], "DRILL_KEY"))


async def confirm_own(instance: Instance) -> None:
    """Is it this instance that answers? Another one that took the port in the last second would look just as ready."""
    folder, port = instance.folder, instance.folder.ports["public"]
    key = folder.secrets["api_keys"]["auditor"]
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
            answer = await http.get(f"http://127.0.0.1:{port}/v1/whoami", headers={"Authorization": f"Bearer {key}"})
    except httpx.HTTPError:
        return  # it went away just now: the watch sees to that
    if answer.status_code != 401:
        return
    connection = await asyncpg.connect(folder.owner_url())
    try:  # a key that was revoked since tells nothing
        live = await connection.fetchval("SELECT true FROM authenticate($1)", hashlib.sha256(key.encode()).digest())
    finally:
        await connection.close()
    if live:
        raise CannotStart(f"Port {port} on 127.0.0.1 was taken by another instance; choose another with --port.", 5)


def until_signalled(main: Coroutine[Any, Any, Result]) -> Result | None:
    """Run to the end, or until Ctrl-C, SIGTERM or a closed terminal, which cancel it once; None then."""

    async def guarded() -> Result | None:
        task, loop = asyncio.ensure_future(main), asyncio.get_running_loop()
        told: list[int] = []

        def end(sign: int) -> None:
            if not told:  # impatience must not interrupt the stopping itself
                told.append(sign)
                task.cancel()

        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(sign, end, sign)
        try:
            return await task
        except asyncio.CancelledError:
            return None

    with contextlib.suppress(KeyboardInterrupt):
        return asyncio.run(guarded())
    return None
