"""Keeps the processes of a plan alive, and stops them in order. One loop looks at all of them ten times a second."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from app.embedded import CannotStart, EmbeddedPostgres, ends_with_parent
from app.supervisor.plan import Process

LOOK_EVERY_S = 0.1
READY_WITHIN_S = 60.0
STOP_WITHIN_S = 10.0
LOST_CAUSE = 3  # deaths before ever being ready, within LOST_CAUSE_S
LOST_CAUSE_S = 10.0
WRONG_SETTING = 2  # the exit code of a process that refuses its environment: starting it again changes nothing
LONGEST_PAUSE_S = 5.0
LOGS_EVERY_S = 5.0
COMPLAIN_EVERY_S = 600.0
LONGEST_LOG = 32 << 20  # bytes; as many again are kept of what was said before
# What is imported stays: looking for garbage among it, then and at the end, is two fifths of what it costs to start and stop.
BEGIN = "import gc; gc.disable(); from {} import run; gc.freeze(); gc.enable(); run()"


@dataclass
class Child:
    """A process of the plan as it runs now."""

    process: Process
    log: Path
    running: "subprocess.Popen[bytes] | None" = None
    log_from: int = 0
    began_at: float = 0.0
    start_at: float = 0.0  # after a death: not before this
    ready: bool = False
    deaths: list[float] = field(default_factory=list)
    ended: str = ""  # how the one before ended, told once the next one runs

    @property
    def pid(self) -> int | None:
        return self.running.pid if self.running else None

    def start(self) -> None:
        self.log.parent.mkdir(mode=0o700, exist_ok=True)
        with self.log.open("ab") as log:
            self.log_from = log.tell()
            self.running = subprocess.Popen(
                # -P: the working folder is no place to import from (nor does it hold a .env that would add settings).
                # -u: what a process said last is in its log when it dies.
                [sys.executable, "-P", "-u", "-c", BEGIN.format(self.process.module)],
                env=dict(self.process.environment),
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops its children in order
                preexec_fn=ends_with_parent(signal.SIGKILL),
            )
        self.began_at, self.ready = time.monotonic(), False

    def last_words(self) -> str:
        """The last line of its log that says something."""
        with self.log.open("rb") as log:
            log.seek(self.log_from)
            said = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        return _plain(said[-1]) if said else "it said nothing"


class Watch:
    """All children and the database server. `run` starts them and ends only by CannotStart or by being cancelled."""

    def __init__(
        self,
        plan: list[Process],
        server: EmbeddedPostgres,
        logs: Path,
        say: Callable[[str], None],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.children = [Child(process, logs / f"{process.name}.log") for process in plan]
        self.server, self.say, self.changed = server, say, changed
        self.all_ready = asyncio.Event()
        self._server_deaths: list[float] = []
        self._logs_at = self._complain_at = 0.0

    def pids(self) -> dict[str, int | None]:
        return {child.process.name: child.pid for child in self.children} | {"postgres": self.server.pid}

    async def run(self) -> None:
        for child in self.children:
            child.start()
        async with httpx.AsyncClient(timeout=2, trust_env=False) as http:
            while True:
                self._look_at_server()
                for child in self.children:
                    self._look_at(child)
                await asyncio.gather(*(self._probe(http, child) for child in self.children if not child.ready))
                if all(child.ready for child in self.children):
                    self.all_ready.set()
                if time.monotonic() >= self._logs_at:
                    await self._look_at_logs()
                    self._logs_at = time.monotonic() + LOGS_EVERY_S
                await asyncio.sleep(LOOK_EVERY_S)

    async def stop(self) -> None:
        """In the plan's order, each group told to end and given ten seconds; PostgreSQL last."""
        for turn in sorted({child.process.stops for child in self.children}):
            group = [child.running for child in self.children if child.process.stops == turn and child.running]
            for process in group:
                process.terminate()
            deadline = time.monotonic() + STOP_WITHIN_S
            while any(process.poll() is None for process in group) and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            for process in group:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        self.server.stop()

    def _look_at(self, child: Child) -> None:
        if child.running is None:
            if time.monotonic() >= child.start_at:
                child.start()
                self.say(f"{child.ended}; started again as pid {child.pid}.")
                self.changed()
            return
        code = child.running.poll()
        if code is not None:
            child.ended = f"{child.process.name} (pid {child.running.pid}) {_how(code)}"
            self._lost_cause(child, code)
            child.running = None
            child.start_at = time.monotonic() + _pause(child.deaths)
        elif not child.ready and time.monotonic() - child.began_at > READY_WITHIN_S:
            waited = f"{child.process.name} is not ready after {READY_WITHIN_S:.0f} s"
            raise CannotStart(f"{waited}: {child.last_words()}.", 6)

    def _lost_cause(self, child: Child, code: int) -> None:
        now = time.monotonic()
        child.deaths = [at for at in child.deaths if now - at < 60] + [now]
        if child.ready:
            return
        early = sum(now - at < LOST_CAUSE_S for at in child.deaths)
        if code == WRONG_SETTING or early >= LOST_CAUSE:
            said = f"{child.process.name} cannot start, it {_how(code)}: {child.last_words()}"
            raise CannotStart(f"{said} (all of it: {child.log}).", 7)

    async def _probe(self, http: httpx.AsyncClient, child: Child) -> None:
        if child.running is None:
            return
        try:
            child.ready = (await http.get(child.process.ready_url)).status_code == 200
        except httpx.HTTPError:
            child.ready = False

    def _look_at_server(self) -> None:
        code, pid = self.server.returncode, self.server.pid
        if code is None:
            return
        now = time.monotonic()
        self._server_deaths = [at for at in self._server_deaths if now - at < LOST_CAUSE_S] + [now]
        if len(self._server_deaths) > LOST_CAUSE:
            raise CannotStart(f"PostgreSQL does not stay alive: it {_how(code)} (its log: {self.server.log}).", 7)
        self.server.start()
        self.say(f"postgres (pid {pid}) {_how(code)}; started again as pid {self.server.pid}.")
        self.changed()

    async def _look_at_logs(self) -> None:
        for child in self.children:
            if await self._cut(child.log):
                child.log_from = 0
        await self._cut(self.server.log)

    async def _cut(self, log: Path) -> bool:
        try:
            return await asyncio.to_thread(_put_aside, log)
        except OSError as problem:
            if time.monotonic() >= self._complain_at:
                self.say(f"{log} grows and cannot be put aside: {problem.strerror}.")
                self._complain_at = time.monotonic() + COMPLAIN_EVERY_S
            return False


def _put_aside(log: Path) -> bool:
    """What a log holds becomes NAME.log.1 when it is long, and it begins anew. Whoever writes to it has it open and would go on in a
    file that was renamed, so it is copied and emptied; what is said between the two, which is next to nothing, is lost."""
    if not log.exists() or log.stat().st_size < LONGEST_LOG:
        return False
    before, half = (log.with_name(log.name + end) for end in (".1", ".1.part"))
    try:
        with log.open("rb") as source, half.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
            copy.flush()  # else a full disk would be noticed after the log is empty
            half.replace(before)
            shutil.copyfileobj(source, copy)
            os.truncate(log, 0)
    finally:
        half.unlink(missing_ok=True)
    return True


def _how(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _pause(deaths: list[float]) -> float:
    """None before the first restart, then doubling."""
    return 0.0 if len(deaths) < 2 else min(LONGEST_PAUSE_S, 0.1 * 2 ** (len(deaths) - 2))


def _plain(line: str) -> str:
    """A log line as a person would say it: the event of a JSON line, without a closing full stop."""
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    if isinstance(said, dict):
        line = str(said.get("exception") or said.get("event") or line).splitlines()[-1]
    return line.rstrip(".")
