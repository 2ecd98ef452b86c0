"""A port that somebody else holds ends a process with one sentence, whichever of its ports it is."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from app.embedded import free_port

REPOSITORY = Path(__file__).parents[2]
SETTINGS = {
    "DATABASE_URL": "postgresql://a:b@127.0.0.1:1/c", "READER_DATABASE_URL": "postgresql://a:b@127.0.0.1:1/c",
    "REGISTRAR_DATABASE_URL": "postgresql://a:b@127.0.0.1:1/c", "WORKER_DATABASE_URL": "postgresql://a:b@127.0.0.1:1/c",
    "EXECUTOR_DATABASE_URL": "postgresql://a:b@127.0.0.1:1/c", "COLONY_SERVICE_API_KEY": "k:" + "x" * 32,
    "ROOT_SIGNING_KEY": "k:" + "y" * 32, "REGISTRAR_KEY": "k:" + "z" * 32, "HOST": "127.0.0.1",
}  # fmt: skip
PORTS = {
    "app.main": ("PORT", "INTERNAL_PORT", "METRICS_PORT"),
    "app.registrar": ("REGISTRAR_PORT", "REGISTRAR_METRICS_PORT"),
    "app.worker": ("WORKER_METRICS_PORT",),
    "app.executor": ("EXECUTOR_METRICS_PORT",),
}
ITS_OWN = {
    "app.main": ("DATABASE_URL", "READER_DATABASE_URL"), "app.registrar": ("REGISTRAR_DATABASE_URL",),
    "app.worker": ("WORKER_DATABASE_URL",), "app.executor": ("EXECUTOR_DATABASE_URL",),
}  # fmt: skip


def start(module: str, taken: str, held: int, folder: Path) -> "subprocess.Popen[str]":
    urls = ITS_OWN[module]
    given = {name: value for name, value in SETTINGS.items() if not name.endswith("DATABASE_URL") or name in urls}
    ports = {name: str(free_port()) for name in PORTS[module]} | {taken: str(held)}
    return subprocess.Popen(
        [sys.executable, "-m", module], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "LOG_LEVEL": "warning", **given, **ports},
    )  # fmt: skip


def test_a_taken_port_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    """All cases at once: starting Python is what takes the time."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        held = holder.getsockname()[1]
        started = {
            (module, port): start(module, port, held, tmp_path) for module, ports in PORTS.items() for port in ports
        }
        ended = {which: (process, *process.communicate(timeout=120)) for which, process in started.items()}
    for which, (process, out, err) in ended.items():
        [said] = [line for line in err.splitlines() if line.startswith("mission-root: ")] or [""]
        assert process.returncode == 1 and said.startswith("mission-root: a port cannot be opened: "), (which, err)
        assert err.rstrip().endswith("ddress already in use") and "Traceback" not in err + out, (which, err)
