"""The watch loop over tiny real processes: started, kept alive, told about, stopped in order."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from app.embedded import CannotStart, EmbeddedPostgres, free_port
from app.supervisor.plan import Process
from app.supervisor.watch import Watch

ANSWERS = """
    import http.server, os, signal, sys
    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200); self.end_headers()
        def log_message(self, *_): pass
    def leave(*_):
        print("left", os.environ["NAME"], __import__("time").monotonic(), flush=True)
        os._exit(0)
    def run():
        signal.signal(signal.SIGTERM, leave)
        http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Ready).serve_forever()
"""


class Server(EmbeddedPostgres):
    """A database server that never was started: the loop asks it how it is, and stops it last."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "answers.py").write_text(dedent(ANSWERS))
    return tmp_path


def process(place: Path, name: str, module: str = "answers", stops: int = 1, **environment: str) -> Process:
    port = free_port()
    given = {"PYTHONPATH": str(place / "modules"), "PORT": str(port), "NAME": name, **environment}
    return Process(name, module, given, f"http://127.0.0.1:{port}/", stops)


def watching(place: Path, *plan: Process) -> tuple[Watch, list[str]]:
    said: list[str] = []
    return Watch(list(plan), Server(place / "data"), place / "logs", said.append), said


async def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def while_running(watch: Watch, body: Callable[[], object]) -> None:
    task = asyncio.create_task(watch.run())
    try:
        ready = asyncio.create_task(watch.all_ready.wait())
        await asyncio.wait({task, ready}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        assert watch.all_ready.is_set()
        result = body()
        if asyncio.iscoroutine(result):
            await result
    finally:
        task.cancel()
        await watch.stop()


def test_a_killed_child_is_started_again_and_told_in_one_sentence(place: Path) -> None:
    watch, said = watching(place, process(place, "colony"))

    async def kill() -> None:
        first = watch.children[0].pid
        assert first
        os.kill(first, signal.SIGKILL)
        await until(lambda: bool(said))
        await until(lambda: watch.children[0].ready)
        [sentence] = said
        told = re.fullmatch(r"colony \(pid (\d+)\) was ended by signal 9; started again as pid (\d+)\.", sentence)
        assert told and int(told[1]) == first and int(told[2]) == watch.pids()["colony"] != first

    asyncio.run(while_running(watch, kill))


TALKS = """
    import answers, itertools, threading, time
    def talk():
        for n in itertools.count():
            print("line", n, flush=True)
            time.sleep(0.001)
    def run():
        threading.Thread(target=talk, daemon=True).start()
        answers.run()
"""


def test_a_log_begins_anew_before_it_fills_the_disk(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.supervisor.watch.LONGEST_LOG", 5_000)
    monkeypatch.setattr("app.supervisor.watch.LOGS_EVERY_S", 0.1)
    (place / "modules" / "talks.py").write_text(dedent(TALKS))
    watch, said = watching(place, process(place, "serve", "talks"))
    log, before = place / "logs" / "serve.log", place / "logs" / "serve.log.1"

    async def twice() -> None:
        await until(before.exists)
        first = before.read_text()
        await until(lambda: before.read_text() != first)
        lines = [int(line.split()[1]) for line in (before.read_text() + log.read_text()).splitlines()[1:-1]]
        assert lines == sorted(lines) and len(lines) > 0.9 * (lines[-1] - lines[0])
        assert {one.name for one in log.parent.iterdir()} == {"serve.log", "serve.log.1"} and said == []
        assert watch.children[0].last_words().startswith("line ")

    asyncio.run(while_running(watch, twice))


def test_a_log_that_cannot_be_put_aside_is_told_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.supervisor.watch.LONGEST_LOG", 0)
    monkeypatch.setattr("app.supervisor.watch.LOGS_EVERY_S", 0.0)
    watch, said = watching(place, process(place, "serve"))
    (place / "logs" / "serve.log.1").mkdir(parents=True)

    async def look() -> None:
        await until(lambda: bool(said))
        await asyncio.sleep(0.5)
        assert said == [f"{place}/logs/serve.log grows and cannot be put aside: Is a directory."]
        assert watch.children[0].ready

    asyncio.run(while_running(watch, look))


def test_a_child_that_keeps_dying_at_start_ends_everything_with_its_last_words(place: Path) -> None:
    (place / "modules" / "dies.py").write_text(
        "def run():\n    print('reading settings')\n    raise SystemExit('the port of the moon is closed')"
    )
    watch, _ = watching(place, process(place, "crm"), process(place, "worker", "dies"))
    with pytest.raises(CannotStart) as lost:
        asyncio.run(while_running(watch, lambda: None))
    assert str(lost.value).startswith(
        "worker cannot start, it ended with exit code 1: the port of the moon is closed ("
    )
    assert "\n" not in str(lost.value) and lost.value.exit_code == 7
    assert (place / "logs" / "worker.log").read_text().count("the port of the moon") == 3
    assert watch.children[0].running and watch.children[0].running.returncode == 0, "the others were told to leave"


def test_a_refused_setting_is_not_tried_again(place: Path) -> None:
    (place / "modules" / "refuses.py").write_text(
        "import sys\ndef run():\n    print('PORT is wrong.')\n    sys.exit(2)"
    )
    watch, _ = watching(place, process(place, "serve", "refuses"))
    with pytest.raises(CannotStart, match=r"exit code 2: PORT is wrong \("):
        asyncio.run(while_running(watch, lambda: None))
    assert (place / "logs" / "serve.log").read_text() == "PORT is wrong.\n"


def test_children_are_stopped_in_the_plans_order(place: Path) -> None:
    watch, _ = watching(
        place, process(place, "colony", stops=2), process(place, "serve", stops=1), process(place, "worker", stops=1)
    )
    asyncio.run(while_running(watch, lambda: None))
    left = {
        name: float((place / "logs" / f"{name}.log").read_text().split()[2]) for name in ("colony", "serve", "worker")
    }
    assert left["colony"] > max(left["serve"], left["worker"])


def test_a_child_that_ignores_sigterm_is_killed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.supervisor.watch.STOP_WITHIN_S", 0.3)
    stubborn = dedent(ANSWERS).replace(
        "signal.signal(signal.SIGTERM, leave)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    )
    (place / "modules" / "stubborn.py").write_text(stubborn)
    watch, _ = watching(place, process(place, "serve", "stubborn"))
    asyncio.run(while_running(watch, lambda: None))
    assert watch.children[0].running and watch.children[0].running.returncode == -signal.SIGKILL


def test_a_child_sees_nothing_but_its_own_environment(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tells = dedent(ANSWERS).replace("def run():", "def run():\n    print(sorted(os.environ), flush=True)")
    (place / "modules" / "tells.py").write_text(tells)
    monkeypatch.setenv("CRM_WRITE_TOKEN", "of the shell that started us")
    watch, _ = watching(place, process(place, "serve", "tells"))
    asyncio.run(while_running(watch, lambda: None))
    seen = set(eval((place / "logs" / "serve.log").read_text().splitlines()[0]))  # a printed list of names
    assert seen - {"LC_CTYPE"} == {"PYTHONPATH", "PORT", "NAME"}, "LC_CTYPE is Python's own (PEP 538)"


STARTER = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_watch import process, watching
place = Path({place!r})
watch, _ = watching(place, process(place, "serve"))
async def main():
    task = asyncio.create_task(watch.run())
    await watch.all_ready.wait()
    print(watch.children[0].pid, flush=True)
    await task
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_children_do_not_outlive_a_killed_supervisor(place: Path) -> None:
    program = STARTER.format(tests=str(Path(__file__).parent), place=str(place))
    supervisor = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout
    child = int(supervisor.stdout.readline())
    supervisor.kill()
    supervisor.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the child outlived its supervisor"
        time.sleep(0.05)
