"""The example colony in TypeScript: compiled once, and started on a free port."""

import fcntl
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from colony_client.publish import PUBLISHED

PROJECT = Path(__file__).parents[2] / "colony" / "examples" / "typescript"
PATIENCE_S = 20.0


@dataclass(frozen=True)
class Running:
    """A colony process: where it listens, the key it was given (`kid:secret`), and the process itself."""

    base_url: str
    key: str
    process: subprocess.Popen[str]


def build() -> Path:
    """The folder of the compiled colony. Installs TypeScript where it is not installed, and compiles what has changed."""
    with (PROJECT / "package.json").open() as alone:  # several test processes may ask at once
        fcntl.flock(alone, fcntl.LOCK_EX)
        if not (PROJECT / "node_modules" / ".bin" / "tsc").exists():
            if shutil.which("npm") is None:
                raise AssertionError(
                    "TypeScript is not installed, and npm is not there to install it: apt-get install npm"
                )
            _run("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent")
        built = PROJECT / "dist" / ".built"
        parts = [
            *(PROJECT / "src").iterdir(),
            *(PROJECT / "types").iterdir(),
            *PROJECT.glob("*.json"),
            *PUBLISHED.rglob("*.json"),
        ]
        if not built.exists() or built.stat().st_mtime < max(part.stat().st_mtime for part in parts):
            _run("npm", "run", "--silent", "build")
            built.touch()
    return PROJECT / "dist"


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr


def start(dist: Path, port: int, **environment: str) -> subprocess.Popen[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    given = {name: value for name, value in {**kept, "PORT": str(port), **environment}.items() if value}
    command = ["node", str(dist / "main.js")]
    return subprocess.Popen(command, env=given, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


@contextmanager
def running(dist: Path, key: str, **environment: str) -> Iterator[Running]:
    """The colony as a process while the block runs."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = int(door.getsockname()[1])
    ours = {"ROOT_API_KEY": key, "ROOT_API_BASE_URL": "http://127.0.0.1:9"}
    process = start(dist, port, **(ours | environment))
    base_url, end = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE_S
    try:
        while True:
            assert process.poll() is None and time.monotonic() < end, "the colony did not come up"
            try:
                if httpx.get(f"{base_url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.02)
        yield Running(base_url, key, process)
    finally:
        process.kill()
        process.communicate()
