"""The embedded server: starts on real folders, survives kill -9, refuses passwords that are wrong."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.embedded import SUPERUSER, CannotStart, EmbeddedPostgres, ephemeral, free_port, read_private


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "data")
    yield server
    server.stop()


def ask(url: str, sql: str) -> Any:
    async def fetch() -> Any:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def test_it_is_ready_when_start_returns_and_soon(server: EmbeddedPostgres) -> None:
    began = time.monotonic()
    url = server.start()
    first = time.monotonic() - began
    server.stop()
    began = time.monotonic()
    assert server.start()
    again = time.monotonic() - began
    assert ask(server.url(SUPERUSER, server.password()), "SHOW server_version").startswith("18.")
    assert url.startswith("postgresql://postgres:")
    assert first < 10 and again < 5, f"about one second on an idle machine; here {first:.1f} s and {again:.1f} s"


def test_data_and_password_survive_a_restart_and_fsync_is_on(server: EmbeddedPostgres) -> None:
    ask(server.start(), "CREATE TABLE kept AS SELECT 7 AS seven")
    server.stop()
    url = server.start()
    assert ask(url, "SELECT seven FROM kept") == 7
    assert ask(url, "SHOW fsync") == "on" and ask(url, "SHOW synchronous_commit") == "on"
    secrets_file = server.data_dir / "secrets.json"
    assert stat.S_IMODE(secrets_file.stat().st_mode) == 0o600
    assert read_private(secrets_file)["postgres_superuser"] in url


def test_text_is_utf8_for_search_and_trigrams(server: EmbeddedPostgres) -> None:
    url = server.start()
    ask(url, "CREATE EXTENSION pg_trgm")
    assert ask(url, "SHOW server_encoding") == "UTF8"
    assert ask(url, "SELECT lower('ÄÖÜ Œ')") == "äöü œ"
    assert ask(url, "SELECT similarity('Käse', 'käse')") == 1
    assert ask(url, "SELECT similarity('Käse', 'K se')") < 1, "letters outside ASCII are letters"


def test_a_wrong_password_is_refused_on_both_doors(server: EmbeddedPostgres) -> None:
    server.start()
    with pytest.raises(asyncpg.InvalidPasswordError):
        ask(server.url(SUPERUSER, "guess"), "SELECT 1")
    by_socket = f"postgresql://{SUPERUSER}:guess@/postgres?host={server.cluster}&port={server.port}"
    with pytest.raises(asyncpg.InvalidPasswordError):
        ask(by_socket, "SELECT 1")


def test_it_listens_on_loopback_only(server: EmbeddedPostgres) -> None:
    assert ask(server.start(), "SHOW listen_addresses") == "127.0.0.1"


def test_the_log_holds_no_values(server: EmbeddedPostgres) -> None:
    url = server.start()
    ask(url, "CREATE TABLE person (email text PRIMARY KEY CHECK (length(email) > 3))")

    async def fail() -> None:
        connection = await asyncpg.connect(url)
        for value in ("canary@example.org", "canary@example.org", "c@n"):
            try:
                await connection.execute("INSERT INTO person VALUES ($1)", value)
            except asyncpg.IntegrityConstraintViolationError:
                continue
        await connection.close()

    asyncio.run(fail())
    said = server.log.read_text()
    assert "duplicate key" in said and "check constraint" in said
    assert "canary" not in said and "c@n" not in said


def test_it_recovers_after_kill_9_of_the_server(server: EmbeddedPostgres) -> None:
    ask(server.start(), "CREATE TABLE kept AS SELECT 7 AS seven")
    port, killed = server.port, server.pid
    assert killed
    os.kill(killed, signal.SIGKILL)
    assert server.returncode is None or server.returncode == -signal.SIGKILL
    while server.returncode is None:
        time.sleep(0.01)
    assert (server.cluster / "postmaster.pid").exists()
    url = server.start()
    assert ask(url, "SELECT seven FROM kept") == 7
    assert server.pid != killed and port


def test_a_stale_pid_file_naming_a_living_stranger_is_no_obstacle(server: EmbeddedPostgres) -> None:
    server.start()
    server.stop()
    pid_file = server.cluster / "postmaster.pid"
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        pid_file.write_text(f"{stranger.pid}\n{server.cluster}\n1\n5432\n.\n127.0.0.1\n0 0\nready   \n")
        assert ask(server.start(), "SELECT 1") == 1
        assert stranger.poll() is None, "a process that is not the server is left alone"
    finally:
        stranger.kill()
        stranger.wait()


STARTER = """
import sys, time
from pathlib import Path
from app.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


def started_elsewhere(folder: Path) -> tuple["subprocess.Popen[str]", int]:
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout
    return starter, int(starter.stdout.readline())


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_the_server_does_not_outlive_a_killed_starter(tmp_path: Path) -> None:
    starter, pid = started_elsewhere(tmp_path / "data")
    starter.kill()
    starter.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}/cwd").exists() and os.path.lexists(f"/proc/{pid}/exe"):
        if not _alive(pid):
            break
        assert time.monotonic() < deadline, "PostgreSQL outlived its starter"
        time.sleep(0.05)
    server = EmbeddedPostgres(tmp_path / "data")
    try:
        assert ask(server.start(), "SELECT 1") == 1
    finally:
        server.stop()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_folder_in_use_is_refused_in_one_sentence(server: EmbeddedPostgres) -> None:
    url = server.start()
    with pytest.raises(CannotStart, match="in use by another running instance") as refused:
        EmbeddedPostgres(server.data_dir).start()
    assert "\n" not in str(refused.value) and refused.value.exit_code == 5
    assert ask(url, "SELECT 1") == 1, "the one that runs is not disturbed"


def test_a_taken_port_is_refused_in_one_sentence(server: EmbeddedPostgres, tmp_path: Path) -> None:
    server.start()
    second = EmbeddedPostgres(tmp_path / "other", server.port)
    with pytest.raises(CannotStart, match=f"port {server.port}") as refused:
        second.start()
    assert "\n" not in str(refused.value)


def test_a_file_in_place_of_the_folder_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotStart, match="cannot be written") as refused:
        EmbeddedPostgres(tmp_path / "file" / "data").start()
    assert "\n" not in str(refused.value)


def test_an_interrupted_initdb_is_begun_anew(server: EmbeddedPostgres) -> None:
    server.cluster.mkdir(parents=True)
    (server.cluster / "PG_VERSION").write_text("18\n")
    (server.cluster / "base").mkdir()
    assert ask(server.start(), "SELECT 1") == 1


def test_a_wished_port_is_used(tmp_path: Path) -> None:
    port = free_port()
    server = EmbeddedPostgres(tmp_path, port)
    try:
        assert f":{port}/" in server.start()
    finally:
        server.stop()


def test_an_ephemeral_server_leaves_nothing() -> None:
    with ephemeral() as server:
        assert ask(server.url(SUPERUSER, server.password()), "SHOW fsync") == "off"
        pid, folder = server.pid, server.data_dir
    assert pid and not _alive(pid) and not folder.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_can_run_it() -> None:
    program = "from app.embedded import ephemeral\nwith ephemeral() as s: print(s.port > 0)"
    checkout, packages = Path(__file__).parents[2], Path(asyncpg.__file__).parents[1]
    try:
        done = subprocess.run(
            ["/usr/bin/python3.11", "-c", program],
            user="nobody",
            extra_groups=[],
            capture_output=True,
            text=True,
            cwd="/",
            env={"PATH": os.defpath, "PYTHONPATH": f"{checkout}:{packages}"},
            check=False,
            timeout=60,
        )
    except OSError as problem:
        pytest.skip(f"no Python that other users can run: {problem}")
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip("this checkout cannot be read by other users")
    assert done.stdout.strip() == "True", done.stderr
