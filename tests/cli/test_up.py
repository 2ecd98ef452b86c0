"""`mission-root up` for real: what it prints, what it survives, what it leaves."""

import asyncio
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from app.embedded import CannotStart, free_port
from app.supervisor.folder import open_folder
from app.supervisor.instance import Instance, confirm_own, prepare_database

# a whole instance keeps both processors busy: one at a time
pytestmark = pytest.mark.xdist_group("instance")

COMMAND = [sys.executable, "-m", "app.cli.main"]
KEYS = {
    "submitter",
    "operator",
    "second_operator",
    "auditor",
    "policy_owner",
    "release_owner",
    "product_owner",
    "admin",
}
PROCESSES = {"serve", "registrar", "worker", "executor", "colony", "crm", "postgres"}


class Up:
    """One running `up --json`; `said` collects what it writes to stderr."""

    def __init__(self, data_dir: Path, *more: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "up", "--json", "--data-dir", str(data_dir), *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        assert self.process.stdout
        first = self.process.stdout.readline()
        assert first, f"it did not start: {list(self.said.queue)}"
        self.told: dict[str, Any] = json.loads(first)

    def _listen(self) -> None:
        assert self.process.stderr
        for sentence in self.process.stderr:
            self.said.put(sentence.rstrip("\n"))

    def hear(self, pattern: str, seconds: float = 30) -> re.Match[str]:
        deadline = time.monotonic() + seconds
        while True:
            try:
                sentence = self.said.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"nothing like {pattern!r} was said") from None
            if found := re.fullmatch(pattern, sentence):
                return found

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    port = str(free_port())  # the usual one may be somebody's

    def start() -> Up:
        started.append(Up(tmp_path / "data", "--port", port))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.stop()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


def test_it_says_where_everything_is_and_it_is_there(up: Callable[..., Up]) -> None:
    one = up()
    told = one.told
    asked = one.process.args[one.process.args.index("--port") + 1]  # type: ignore[union-attr,index]
    assert (
        told["base_url"] == f"http://127.0.0.1:{asked}" and told["console_url"] == f"http://127.0.0.1:{asked}/console"
    )
    assert set(told["keys"]) == KEYS and len(set(told["keys"].values())) == len(KEYS)
    assert set(told["pids"]) == PROCESSES and all(alive(pid) for pid in told["pids"].values())
    assert len(set(told["pids"].values())) == len(PROCESSES), "separate processes"
    assert set(told["databases"]) == {"owner", "api", "executor"}
    assert answers(f"{told['base_url']}/readyz") and answers(f"{told['colony_url']}/health")
    assert answers(f"{told['crm_url']}/health") and all(answers(url) for url in told["metrics_urls"].values())
    for key in told["keys"].values():
        assert (
            httpx.get(f"{told['base_url']}/v1/missions", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        )
    kit = [*COMMAND, "colony-kit", "--only", "C-04", "--only", "C-17", "--json"]
    asked = subprocess.run(kit, env=os.environ | told["kit_env"], capture_output=True, text=True, check=False)
    assert asked.returncode == 0 and json.loads(asked.stdout)["counts"]["pass"] == 2, asked.stdout + asked.stderr
    assert told["kit_env"]["MISSION_ROOT_API_KEY"] == told["keys"]["submitter"]
    kept = Path(told["data_dir"], "up.json")
    assert json.loads(kept.read_text()) == told and kept.stat().st_mode & 0o777 == 0o600

    second = subprocess.run(
        [*COMMAND, "up", "--data-dir", told["data_dir"]], capture_output=True, text=True, check=False
    )
    assert second.returncode == 5 and second.stdout == ""
    assert second.stderr == f"mission-root: The folder {told['data_dir']} is in use by another running instance.\n"

    assert one.stop() == 0
    assert not any(alive(pid) for pid in told["pids"].values())
    assert not kept.exists()


def test_a_second_up_continues_where_the_first_stopped(up: Callable[..., Up]) -> None:
    first = up()
    keys, ask = first.told["keys"], {"mission_type": "oracle_advisory", "user_goal": "Is anything here?", "inputs": {}}
    submitter = {"Authorization": f"Bearer {keys['submitter']}"}
    made = httpx.post(f"{first.told['base_url']}/v1/missions", json=ask, headers=submitter)
    assert made.status_code == 202, made.text
    assert first.stop() == 0
    second = up()
    same = ("base_url", "internal_url", "colony_url", "crm_url", "metrics_urls", "keys", "databases", "kit_env")
    assert {name: second.told[name] for name in same} == {name: first.told[name] for name in same}
    found = httpx.get(f"{second.told['base_url']}/v1/missions/{made.json()['id']}", headers=submitter)
    assert found.status_code == 200


def test_what_is_killed_comes_back_and_is_told(up: Callable[..., Up]) -> None:
    one = up()
    key = {"Authorization": f"Bearer {one.told['keys']['auditor']}"}
    for name in sorted(PROCESSES):
        pid = one.told["pids"][name]
        os.kill(pid, signal.SIGKILL)
        back = one.hear(rf"{name} \(pid {pid}\) was ended by signal 9; started again as pid (\d+)\.")
        assert alive(int(back[1]))
        until(lambda: answers(f"{one.told['base_url']}/readyz"))
        assert httpx.get(f"{one.told['base_url']}/v1/missions", headers=key).status_code == 200
        kept = json.loads(Path(one.told["data_dir"], "up.json").read_text())
        assert kept["pids"][name] == int(back[1])
    until(lambda: answers(f"{one.told['colony_url']}/health") and answers(f"{one.told['crm_url']}/health"))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_killed_supervisor_leaves_nothing_running_and_up_works_again(up: Callable[..., Up]) -> None:
    first = up()
    first.process.kill()
    first.process.wait()
    second = up()
    assert not any(alive(pid) for pid in first.told["pids"].values())
    assert second.told["keys"] == first.told["keys"]


def test_ctrl_c_ends_it_cleanly(up: Callable[..., Up]) -> None:
    one = up()
    one.process.send_signal(signal.SIGINT)
    assert one.process.wait(30) == 0
    assert not any(alive(pid) for pid in one.told["pids"].values())


def refused(*words: str) -> tuple[int, str]:
    done = subprocess.run([*COMMAND, "up", *words], capture_output=True, text=True, check=False)
    assert done.stdout == "" and done.stderr.startswith("mission-root: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr


def test_a_taken_port_is_one_readable_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        code, said = refused("--port", str(port), "--data-dir", str(tmp_path / "data"))
    assert code == 5 and f"Port {port} on 127.0.0.1 is taken" in said


def test_a_stranger_who_answers_in_its_place_is_noticed(tmp_path: Path) -> None:
    """Two instances may look for a port in the same moment; keys of the one would be wrong at the other's door."""

    async def stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        status = "200 OK" if b"/readyz" in asked else "401 Unauthorized"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        writer.close()

    async def walk() -> None:
        folder = open_folder(tmp_path / "data", None)
        instance = Instance(folder, print)
        folder.let_go()
        await prepare_database(folder, print)
        port = folder.ports["public"]
        try:
            async with await asyncio.start_server(stranger, "127.0.0.1", port):
                with pytest.raises(CannotStart, match=f"Port {port} on 127.0.0.1 was taken by another instance"):
                    await confirm_own(instance)
        finally:
            folder.server.stop()

    asyncio.run(walk())


def test_a_colony_that_is_no_address_is_one_readable_sentence(tmp_path: Path) -> None:
    code, said = refused("--colony", "localhost:8090", "--data-dir", str(tmp_path / "data"))
    assert code == 2 and "--colony must be an http or https URL" in said


def test_a_folder_that_cannot_be_written_is_one_readable_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, said = refused("--data-dir", str(tmp_path / "file"))
    assert code == 1 and f"The folder {tmp_path / 'file'} cannot be written" in said


def test_the_ledger_is_anchored_in_the_data_folder_and_a_changed_row_is_named(
    up: Callable[..., Up], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changed by the database's owner, with every hash after it made to fit: only the anchors can tell."""
    monkeypatch.setenv("ANCHOR_INTERVAL_S", "0.5")
    told = up().told
    base, keys = told["base_url"], told["keys"]
    ask = {"mission_type": "oracle_advisory", "user_goal": "Is anything here?", "inputs": {}}
    made = httpx.post(f"{base}/v1/missions", json=ask, headers={"Authorization": f"Bearer {keys['submitter']}"})
    assert made.status_code == 202, made.text

    def verified() -> tuple[int, dict[str, Any], str]:
        words = ["ledger", "verify", "--anchors", "--json", "--url", base, "--api-key", keys["auditor"]]
        done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)
        return done.returncode, json.loads(done.stdout), done.stderr

    def covered() -> bool:
        code, verdict, _ = verified()
        return code == 0 and verdict["anchors"]["state"] == "ok" and verdict["anchors"]["tail"] <= 1

    until(covered)
    folder = Path(told["data_dir"], "anchors")
    assert list(folder.glob("*/anchors/000000000001.json")) and folder.stat().st_mode & 0o777 == 0o700
    changed = asyncio.run(rewrite(told["databases"]["owner"], made.json()["id"]))
    code, verdict, said = verified()
    assert code == 1 and "Traceback" not in said
    bad = verdict["first_bad"]
    assert (bad["subject"], bad["seq"], bad["type"], bad["finding"]) == (*changed, "is not what was anchored")


async def rewrite(owner_url: str, mission: str) -> tuple[str, int, str]:
    """Another actor for the second fact of a mission; answers which fact that is."""
    owner = await asyncpg.connect(owner_url)
    try:
        await owner.execute("ALTER TABLE ledger DISABLE TRIGGER USER")
        await owner.execute("UPDATE ledger SET actor = 'system:nobody' WHERE subject = $1 AND seq = 2", mission)
        for seq in range(2, 1 + await owner.fetchval("SELECT max(seq) FROM ledger WHERE subject = $1", mission)):
            await owner.execute(
                """UPDATE ledger l SET prev = p.hash, hash = fact_hash(p.hash, l.tenant, l.subject, l.seq, l.type, l.actor, l.at, l.body)
                   FROM ledger p WHERE l.subject = $1 AND l.seq = $2 AND p.subject = $1 AND p.seq = $2 - 1""",
                mission, seq,
            )  # fmt: skip
        return mission, 2, await owner.fetchval("SELECT type FROM ledger WHERE subject = $1 AND seq = 2", mission)
    finally:
        await owner.close()
