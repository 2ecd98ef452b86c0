"""What every peer is: installed into an environment of its own, started, asked for rounds, stopped, counted."""

import asyncio
import hashlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import asyncpg

from app.embedded import ends_with_parent, free_port
from bench.load import Loaded

INSIDE = Path(__file__).with_name("inside")
STEPS = 3  # durable steps after accepting, as a mission has them: dispatched, result taken, reviewed and completed
INSTALL_S, START_S, ROUND_S = 420, 120, 240


class Unavailable(Exception):
    """A peer cannot be installed or started here; the message says why, and becomes its row."""


@dataclass(frozen=True)
class Completed:
    """So many were asked for as fast as they were taken; the last one was done after `seconds`."""

    count: int
    seconds: float

    @property
    def per_s(self) -> float:
        return self.count / self.seconds


@dataclass(frozen=True)
class Counted:
    """What the store says afterwards beside what the clients were answered."""

    answered: int
    stored: int
    unanswered: int = 0  # sent, and the answer not waited for: may be in the store or not

    @property
    def match(self) -> bool:
        return self.answered <= self.stored <= self.answered + self.unanswered


class Peer:
    """Four verbs (install, start, accept, completed), and what belongs around them. A peer raises Unavailable."""

    name = ""
    version = ""
    durable = ""  # who writes what was accepted, and whether that has reached the disk when the answer goes out
    pins: Sequence[str] = ()  # packages of its environment
    rows = ("accept", "completed", "lone")  # what it can be asked for
    stored = ""  # how its database is asked how many it has accepted in accept rounds

    def __init__(self) -> None:
        self.database = ""  # its URL, for those who keep things in ours
        self.answered = self.unanswered = 0
        self.processes: list[subprocess.Popen[bytes]] = []
        self.driver: Driver | None = None

    def install(self) -> None:
        self.python = environment(self.name, self.pins)

    def start(self, place: Path, new_database: Callable[[str], str]) -> None:
        raise NotImplementedError

    def accept(self, run: str, seconds: float, connections: int) -> Loaded:
        """Requests to take something on, answered once it is durable."""
        return self.tallied(self.driven().accept(seconds, connections))

    def completed(self, run: str, count: int, connections: int) -> Completed:
        """The same, until all of it is done."""
        return self.driven().completed(count, connections)

    def lone(self, times: int) -> list[float]:
        """One at a time, from asking to seeing it completed, in milliseconds."""
        return self.driven().lone(times)

    def counted(self) -> Counted | None:
        """None where the store cannot be asked."""
        if not self.stored:
            return None
        return Counted(self.answered, asyncio.run(scalar(self.database, self.stored)), self.unanswered)

    def stop(self) -> None:
        if self.driver:
            self.driver.close()
        for process in reversed(self.processes):
            end(process)
        self.processes, self.driver = [], None

    # --- for those who write a peer

    def tallied(self, found: Loaded) -> Loaded:
        """What was answered in an accept round, kept for the count at the end."""
        self.answered += found.accepted
        self.unanswered += found.unanswered
        return found

    def run(self, command: Sequence[str | Path], log: Path, environ: Mapping[str, str] | None = None) -> None:
        """Starts one of its servers; it is ended with everything that it started, at the latest when we end."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            self.processes.append(
                subprocess.Popen(
                    [str(word) for word in command],
                    env=clean_environment(environ or {}),
                    cwd=log.parent,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                    preexec_fn=ends_with_parent(signal.SIGKILL),
                )
            )

    def drive(self, script: str, log: Path, *words: str, environ: Mapping[str, str] | None = None) -> None:
        """Starts `inside/<script>` in the peer's own environment: the client, where that is a Python SDK."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self.driver = Driver([str(self.python), str(INSIDE / script), *words], log, clean_environment(environ or {}))

    def driven(self) -> "Driver":
        assert self.driver is not None, f"{self.name} has no driver"
        return self.driver

    def await_answer(self, url: str, log: Path) -> None:
        """Until an HTTP server answers at all. Raises Unavailable."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            gone = next((process for process in self.processes if process.poll() is not None), None)
            if gone is not None:
                raise Unavailable(f"it ended with exit code {gone.returncode}: {last_words(log)}")
            try:
                urlopen(url, timeout=2).close()
                return
            except HTTPError:
                return
            except OSError:
                time.sleep(0.1)
        raise Unavailable(f"it did not answer within {START_S} s: {last_words(log)}")

    def await_port(self, port: int, log: Path) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if any(process.poll() is not None for process in self.processes):
                raise Unavailable(f"it ended at once: {last_words(log)}")
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise Unavailable(f"it did not listen within {START_S} s: {last_words(log)}")


class Driver:
    """A program in a peer's environment that takes one JSON command a line and answers each with one line."""

    def __init__(self, command: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command,
                env=dict(environ),
                cwd=log.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                start_new_session=True,
                preexec_fn=ends_with_parent(signal.SIGKILL),
            )
        self.said: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self._answer(START_S, Unavailable)

    def accept(self, seconds: float, connections: int) -> Loaded:
        return Loaded(**self.ask(do="accept", seconds=seconds, connections=connections))

    def completed(self, count: int, connections: int) -> Completed:
        return Completed(**self.ask(do="completed", count=count, connections=connections))

    def lone(self, times: int) -> list[float]:
        found: list[float] = self.ask(do="lone", times=times)["ms"]
        return found

    def ask(self, **command: Any) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()
        return self._answer(ROUND_S, RuntimeError)

    def close(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()  # it ends by itself
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            end(self.process)

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.put(line)
        self.said.put(b"")

    def _answer(self, seconds: float, raises: type[Exception]) -> dict[str, Any]:
        try:
            line = self.said.get(timeout=seconds)
        except queue.Empty:
            raise raises(f"no answer within {seconds:g} s") from None
        if not line:
            raise raises(f"it ended: {last_words(self.log)}")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise raises(found["error"])
        return found


def environment(name: str, pins: Sequence[str]) -> Path:
    """The Python of a virtual environment with exactly these packages, made when it is not there. Raises Unavailable."""
    mark = hashlib.sha256(json.dumps([sys.version, *pins]).encode()).hexdigest()[:12]
    folder = cache() / f"{name}-{mark}"
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        shutil.rmtree(folder, ignore_errors=True)
        uv = Path(sys.executable).with_name("uv")
        venv.create(folder, with_pip=not uv.exists(), symlinks=True)
        installer = [str(uv), "pip", "install", "--quiet", "--python", str(python)]
        if not uv.exists():
            installer = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        install([*installer, *pins])
        (folder / "installed").touch()
    return python


def npm_folder(name: str, package: str) -> Path:
    """Where an npm package of exactly this version is installed. Raises Unavailable."""
    folder = cache() / f"{name}-{hashlib.sha256(package.encode()).hexdigest()[:12]}"
    if not (folder / "installed").exists():
        if not shutil.which("npm"):
            raise Unavailable("npm is not installed")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        install(["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(folder), package])
        (folder / "installed").touch()
    return folder


def install(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"not installed within {INSTALL_S} s") from None
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise Unavailable(f"not installed: {' '.join(said[-3:])[:300]}")


def cache() -> Path:
    """Outside the repository: the environments of peers outlive a checkout."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "mission-root-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def clean_environment(more: Mapping[str, str]) -> dict[str, str]:
    """No setting of the caller's reaches a peer, beside what any program needs."""
    needed = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**needed, "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1", **more}


def end(process: "subprocess.Popen[bytes]") -> None:
    """A process and everything in the session that was made for it."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(8)
        except subprocess.TimeoutExpired:
            continue
    process.wait(5)


def last_words(log: Path) -> str:
    lines = (
        [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    )
    return lines[-1][:300] if lines else "it said nothing"


async def scalar(url: str, question: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval(question))
    finally:
        await connection.close()


def ask_json(method: str, url: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
    """One request and its JSON; None when there is none. Raises OSError, and HTTPError for a refusal."""
    data = None if body is None else json.dumps(body).encode()
    asked = Request(url, data, {"Content-Type": "application/json", "Accept": "application/json", **(headers or {})})
    asked.method = method
    with urlopen(asked, timeout=30) as answer:
        said = answer.read()
    return json.loads(said) if said else None


__all__ = ["STEPS", "Completed", "Counted", "Peer", "Unavailable", "ask_json", "free_port"]
