"""Lines of the log: what a value keeps to itself stays out of them, and each is written, in order."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import structlog
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, SpanContext, use_span

from app import telemetry
from app.build import name_of
from app.caller import Caller
from app.telemetry import PROCESSORS, Lines, render

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


ODD = {"a": "é \u202e\n\x1b\x7f\u2028 \\ \" ' </a> \U0001f600 \x00", "b": "\ud800", "c": "x" * 5000, "d": ""}


@pytest.mark.parametrize("path", ["/v1/missions", *ODD.values()], ids=["usual", *ODD])
@pytest.mark.parametrize(
    "bound",
    [
        {},
        {"tenant_id": "t", "mission_id": ODD["a"]},
        {"a_token": "x"},
        {"n": 5},
        {"x": ODD["b"]},
        {"who": Caller(uuid4(), uuid4(), "principal:x", secret="mr_k_never_shown")},
    ],
    ids=["nothing", "texts", "a secret", "a number", "half a pair", "a caller"],
)
@pytest.mark.parametrize("traced", [False, True], ids=["", "traced"])
async def test_the_line_of_a_request_is_what_the_chain_makes_of_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, path: str, bound: dict[str, Any], traced: bool
) -> None:
    monkeypatch.setattr(Lines, "requests", Lines())
    lines = []
    span = NonRecordingSpan(SpanContext(1, 2, is_remote=False)) if traced else INVALID_SPAN
    chain = structlog.wrap_logger(
        Lines(), processors=PROCESSORS, wrapper_class=structlog.make_filtering_bound_logger(20)
    )
    monkeypatch.setattr(telemetry, "requests", chain)
    with structlog.contextvars.bound_contextvars(process="api", request_id="r.1", **bound), use_span(span):
        for say in (telemetry.say_request, partial(chain.info, "request")):
            say(method="POST", path=path, status=202, ms=1.25)
            Lines.write()
            [line] = capsys.readouterr().err.splitlines()
            assert line.isascii() and "\x1b" not in line and "never_shown" not in line
            lines.append(json.loads(line))
    for one in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z", one.pop("timestamp"))
    assert lines[0] == lines[1] and ("trace_id" in lines[0]) is traced and lines[0]["path"] == path


def test_lines_of_requests_are_not_said_when_nobody_wants_them(tmp_path: Path) -> None:
    said = {}
    for level in ("info", "warning"):
        code = f"from app import telemetry; telemetry.setup('x', level='{level}'); telemetry.say_request('GET', '/', 200, 1)"
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=REPOSITORY
        )
        said[level] = ran.stderr
    assert (
        json.loads(said["info"])["event"] == "request"
        and json.loads(said["info"])["process"] == "x"
        and not said["warning"]
    )


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
