"""A port that somebody else holds ends a process with one sentence, whichever of its ports it is."""

import os
import socket
from importlib import import_module
from pathlib import Path

import pytest

from app.embedded import free_port
from tests.world.forked import forked

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


@pytest.mark.parametrize(("module", "taken"), [(module, port) for module, ports in PORTS.items() for port in ports])
def test_a_taken_port_is_one_sentence_and_exit_code_1(module: str, taken: str, tmp_path: Path) -> None:
    urls = ITS_OWN[module]
    given = {name: value for name, value in SETTINGS.items() if not name.endswith("DATABASE_URL") or name in urls}
    with socket.create_server(("127.0.0.1", 0)) as holder:
        ports = {name: str(free_port()) for name in PORTS[module]} | {taken: str(holder.getsockname()[1])}
        given |= {"PATH": os.environ["PATH"], "LOG_LEVEL": "warning", **ports}
        code, out, err = forked(import_module(module).run, given, tmp_path)
    [said] = [line for line in err.splitlines() if line.startswith("mission-root: ")] or [""]
    assert code == 1 and said.startswith("mission-root: a port cannot be opened: "), err
    assert err.rstrip().endswith("ddress already in use") and "Traceback" not in err + out, err
