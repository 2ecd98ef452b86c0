"""A whole instance as a user starts it: `mission-root up`, six real processes, real HTTP."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from app.embedded import free_port

COMMAND = Path(sys.executable).parent / "mission-root"
PATIENCE_S = 60.0


class Instance:
    """A running instance: its addresses, keys and processes, and clients for them.

    What `up` says on stderr is in up.err beside the data folder.
    """

    def __init__(self, data_dir: Path, port: int, environment: dict[str, str], *more: str) -> None:
        self.data_dir, self.port, self.environment = data_dir, port, environment
        self.errors = data_dir.parent / "up.err"
        self.command = [COMMAND, "up", "--json", "--port", str(port), "--data-dir", str(data_dir), *more]
        self.said: dict[str, Any] = {}
        self.start()

    def start(self) -> None:
        """Starts it and waits until everything is there; again in the same folder when it has been stopped."""
        with self.errors.open("a") as errors:
            self.up = subprocess.Popen(
                self.command, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | self.environment
            )
        assert self.up.stdout is not None
        line = self.up.stdout.readline()
        assert line, self.errors.read_text()
        self.said = json.loads(line)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ends it and answers its exit code."""
        if self.up.poll() is None:
            self.up.send_signal(how)
        return self.up.wait(40)

    def hear(self, pattern: str) -> re.Match[str]:
        """A line that `up` says on stderr, awaited."""
        lines = re.compile(pattern, re.MULTILINE)
        found: re.Match[str] = until(lambda: lines.search(self.errors.read_text()), f"it says {pattern}")
        return found

    def client(self, name: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.said['keys'][name]}"}
        return httpx.Client(base_url=self.said["base_url"], headers=headers, timeout=40)

    def pid(self, name: str) -> int:
        """The process as it is now: `up` starts a dead one again under another pid."""
        found: int = json.loads((self.data_dir / "up.json").read_text())["pids"][name]
        return found

    def kill(self, name: str) -> None:
        """kill -9, and wait until `up` has said that it is started again, and under which pid its successor is known."""
        victim = self.pid(name)
        os.kill(victim, signal.SIGKILL)
        back = self.hear(rf"{name} \(pid {victim}\) was ended by signal 9; started again as pid (\d+)\.")
        until(lambda: self.pid(name) == int(back[1]), f"up.json names the new {name}")

    def sql(self, statement: str, *values: Any) -> list[Any]:
        async def run() -> list[Any]:
            connection = await asyncpg.connect(self.said["databases"]["owner"])
            try:
                return list(await connection.fetch(statement, *values))
            finally:
                await connection.close()

        return asyncio.run(run())


def until(holds: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Asks again and again until something holds; another process's state has no event to await."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        try:
            if found := holds():
                return found
        except (httpx.HTTPError, OSError):
            pass  # the process asked is just being killed or started
        time.sleep(0.05)
    raise AssertionError(f"it did not happen within {patience_s} s: {what}")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def reachable(folder: Path) -> Path:
    """An embedded server of root runs as another user and has to get to its folder."""
    for one in (folder, *list(folder.parents)[:3]):
        one.chmod(one.stat().st_mode | 0o055)
    return folder


# leases short enough that a test can wait them out
SHORT = {
    "MISSION_LEASE_MS": "3000",
    "EXECUTION_LEASE_MS": "3000",
    "COLONY_TIMEOUT_MS": "3000",
    "ANCHOR_INTERVAL_S": "0.5",
}


@pytest.fixture(scope="package")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = reachable(tmp_path_factory.mktemp("instance"))
    made = Instance(folder / "data", free_port(), SHORT)
    try:
        furnish(made)
        yield made
    finally:
        ended = made.stop()
    assert ended == 0, made.errors.read_text()


def furnish(made: Instance) -> None:
    """Something to read, and no undo window to wait for."""
    documents = {"walls.md": WALLS, "release.md": RELEASE}
    with made.client("submitter") as client:
        for path, said in documents.items():
            client.put(
                "/v1/workspaces/default/documents", params={"path": path}, content=said.encode()
            ).raise_for_status()
    made.sql(
        """INSERT INTO approval_rule (tenant, id, version, subject, connector, operation, risk, required, life, undo_window)
           SELECT tenant, id, version + 1, subject, connector, operation, risk, required, life, '0' FROM approval_rule
           WHERE NOT break_glass"""
    )


WALLS = """# Writebacks

## Approval
A writeback is executed only after a human operator has approved exactly its bytes. The executor claims an approved
writeback, calls the target once, and reads the target back before the writeback counts as succeeded.

## Expiry
An approval that nobody decides within 72 hours expires, and the writeback is dead.
"""
RELEASE = """# Release

The undo window of a low risk approval is 10 seconds. The default port of the root is 8080.
"""
