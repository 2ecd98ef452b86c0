"""Lines of the log: what a value keeps to itself stays out of them, and each is written, in order."""

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from uuid import uuid4

import pytest

from app.build import name_of
from app.caller import Caller
from app.telemetry import Lines, render

REPOSITORY = Path(__file__).parents[2]
SAY = """
from prometheus_client import generate_latest
from app.telemetry import setup
setup("worker", environment="staging", build="3f2c9e1")
print(generate_latest().decode())
"""


def test_a_log_line_shows_nothing_that_its_value_keeps_to_itself(capsys: pytest.CaptureFixture[str]) -> None:
    caller = Caller(uuid4(), uuid4(), "principal:x", secret="mr_k_never_shown")
    for value in (caller, [caller], {"who": caller}, b"mr_k_never_shown"[:4]):
        line = render(None, "info", {"event": "x", "value": value})
        assert "never_shown" not in line and json.loads(line)["event"] == "x"
    said = {"event": "e", "n": 1, "f": 1.5, "none": None, "words": "\u202e \n\x1b é", "half": "\ud800"}
    line = render(None, "info", dict(said))
    assert line.isascii() and "\n" not in line and "\x1b" not in line and json.loads(line) == said


def test_a_process_says_what_it_was_made_from() -> None:
    said = subprocess.run(
        [sys.executable, "-c", SAY], capture_output=True, text=True, check=True, timeout=60, cwd=REPOSITORY
    ).stdout
    [line] = [one for one in said.splitlines() if one.startswith("mission_root_build_info{")]
    assert f'process="worker",version="{name_of("3f2c9e1")}"' in line and "+3f2c9e1" in line


async def test_lines_of_one_turn_come_in_order_and_none_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    for n in range(3):
        lines.info(f"turn {n}")
    lines.warning("at once")
    assert capsys.readouterr().err.splitlines() == ["turn 0", "turn 1", "turn 2", "at once"]
    lines.info("later")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert capsys.readouterr().err == "later\n"


def test_lines_outlive_their_loop(capsys: pytest.CaptureFixture[str]) -> None:
    async def leave() -> None:
        Lines().info("last words")
        asyncio.get_running_loop().stop()

    loop = asyncio.new_event_loop()
    with contextlib.suppress(RuntimeError):
        loop.run_until_complete(leave())
    loop.close()
    threads = [threading.Thread(target=Lines().info, args=(f"thread {n}",)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = capsys.readouterr().err.splitlines()
    assert sorted(said) == sorted(["last words", *(f"thread {n}" for n in range(20))])
