"""The colony as a process: its environment contract and how it starts and stops."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import httpx
import pytest
from fake_root import SECRET, FakeRoot, House, served, settings
from harbor_docs import harbor
from pydantic import ValidationError

from colony.settings import one_sentence
from colony.telemetry import trace_back
from colony_client.client import ColonyClient
from colony_client.signing import parse_keys

ROOT = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("wrong", "variable"),
    [
        ({"port": "eighty"}, "PORT"),
        ({"port": 70_000}, "PORT"),
        ({"root_api_key": "bare-secret-without-a-kid"}, "ROOT_API_KEY"),
        ({"root_api_base_url": "ftp://root"}, "ROOT_API_BASE_URL"),
        ({"root_api_base_url": "http://a,nonsense"}, "ROOT_API_BASE_URL"),
        ({"environment": "moon"}, "ENVIRONMENT"),
        ({"research_provider": "web"}, "RESEARCH_PROVIDER"),
        ({"browser_provider": "chromium"}, "BROWSER_PROVIDER"),
        ({"max_concurrent_missions": 0}, "MAX_CONCURRENT_MISSIONS"),
        ({"max_workers_per_mission": "many"}, "MAX_WORKERS_PER_MISSION"),
        ({"mission_timeout_ms": -1}, "MISSION_TIMEOUT_MS"),
        ({"mission_timeout_ms": 1000, "task_timeout_ms": 2000}, "TASK_TIMEOUT_MS"),
        ({"default_model_route": "root:"}, "DEFAULT_MODEL_ROUTE"),
        ({"default_model_route": "root:two words"}, "DEFAULT_MODEL_ROUTE"),
        ({"default_model_route": "magic"}, "DEFAULT_MODEL_ROUTE"),
        ({"default_model_route": "http://models.example/v1#m"}, "DEFAULT_MODEL_ROUTE"),
        ({"default_model_route": "https://models.example/v1#m", "environment": "staging"}, "DEFAULT_MODEL_ROUTE"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_it(wrong: dict[str, Any], variable: str) -> None:
    with pytest.raises(ValidationError) as refused:
        settings(**{"root_url": ROOT, **wrong}) if "root_api_base_url" not in wrong else settings(ROOT, **wrong)
    sentence = one_sentence(refused.value)
    assert variable in sentence and sentence.endswith(".") and "\n" not in sentence
    assert "bare-secret" not in sentence


def test_a_direct_model_route_is_taken_apart() -> None:
    assert settings(ROOT).direct_model is None
    route = settings(ROOT, default_model_route="https://models.example/v1#small").direct_model
    assert route == ("https://models.example/v1", "small")


def test_a_route_through_the_root_is_taken_apart_and_may_be_used_anywhere() -> None:
    assert settings(ROOT).root_model is None
    through = settings(ROOT, default_model_route="root:vendor/small-2", environment="production")
    assert (through.root_model, through.direct_model) == ("vendor/small-2", None)


def start(port: int, **environment: str) -> subprocess.Popen[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    ours = {"PORT": str(port), "ROOT_API_BASE_URL": ROOT, "ROOT_API_KEY": SECRET}
    given = {name: value for name, value in {**kept, **ours, **environment}.items() if value}
    command = [sys.executable, "-m", "colony.main"]
    return subprocess.Popen(command, env=given, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as door:
        return int(door.getsockname()[1])


def test_a_missing_setting_or_a_taken_port_stops_it_with_one_sentence_and_status_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        missing, occupied = start(port, ROOT_API_KEY=""), start(port)
        for process, words in ((missing, "ROOT_API_KEY is not set"), (occupied, f"PORT {port}")):
            _, said = process.communicate(timeout=15)
            assert process.returncode == 2
            assert said.count("\n") == 1 and words in said, said


def test_sigterm_in_the_middle_of_a_mission_ends_the_process_soon_and_cleanly() -> None:
    port = free_port()
    process = start(port, MISSION_TIMEOUT_MS="60000")
    root = FakeRoot(harbor(), tool_seconds=0.15)

    async def scene() -> None:
        async with served(root.app()) as root_port:
            url = f"http://127.0.0.1:{port}"
            async with ColonyClient(url, parse_keys(SECRET, "K")) as colony:
                built = House(root, colony, url, f"http://127.0.0.1:{root_port}", settings(ROOT))
                await until_healthy(url)
                asked = built.dispatch("What is a berth?")
                await colony.dispatch([asked])
                await asyncio.wait_for(root.sent.wait(), 5)
                process.send_signal(signal.SIGTERM)
                began = time.monotonic()
                await asyncio.to_thread(process.wait, 12)
                assert time.monotonic() - began < 10
                assert root.of(asked.mission_id)[-1]["type"] == "signal", "a short mission was not let finish"

    try:
        asyncio.run(scene())
        assert process.returncode == 0
    finally:
        process.kill()
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
    assert lines and all(line.startswith("{") for line in lines), lines


async def until_healthy(url: str) -> None:
    async with httpx.AsyncClient() as http:
        for _ in range(200):
            try:
                if (await http.get(f"{url}/health")).status_code == 200:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.05)
    raise AssertionError("the colony did not come up")


def test_the_log_tells_where_an_exception_came_from_and_not_what_it_says() -> None:
    try:
        try:
            raise ValueError("Anna Kowalski")
        except ValueError as cause:
            raise RuntimeError("Anna Kowalski") from cause
    except RuntimeError as error:
        told, handled = (
            trace_back(None, "error", {"event": "a stage failed", "exc_info": one}) for one in (error, True)
        )
    assert told == handled, "whoever logs inside of except need not name it"
    assert "Anna" not in str(told) and "exc_info" not in told
    assert re.search(r"^RuntimeError\n  .*test_colony_process\.py:\d+ .*\ncaused by ValueError\n", told["exception"])
