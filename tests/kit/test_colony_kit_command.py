"""`mission-root colony-kit` as a user types it: on the reference colony as a process, and on one that is wrong."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest

from app.cli import main
from app.embedded import free_port
from colony_client.signing import parse_keys
from colony_kit.door import Door
from colony_kit.of_colony import REQUIREMENTS
from tests.kit.small_colony import SmallColony

KEY = "kit:key-of-the-conformance-tests"
SURROUNDINGS = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
# Ends the colony whose pid is in a file, starts another one, and is done when that one answers.
RESTART = """
import os, signal, subprocess, sys, time, urllib.request
pid, url = sys.argv[1], sys.argv[2]
if os.path.exists(pid):
    os.kill(int(open(pid).read()), signal.SIGKILL)
started = subprocess.Popen([sys.executable, "-m", "colony.main"], start_new_session=True, stderr=subprocess.DEVNULL)
open(pid, "w").write(str(started.pid))
for _ in range(600):
    try:
        urllib.request.urlopen(url + "/health")
        break
    except OSError:
        time.sleep(0.05)
else:
    sys.exit("the colony did not come up")
"""


def kit(url: str, *words: str, key: str = KEY, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli.main", "colony-kit", "--base-url", url, *words]
    given = SURROUNDINGS | ({"ROOT_API_KEY": key} if key else {}) | environment
    return subprocess.run(command, capture_output=True, text=True, env=given, timeout=300, check=False)


@pytest.fixture
def reference(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The reference colony as a process: its address, and the command that restarts it."""
    port, pid = free_port(), tmp_path / "pid"
    url, script = f"http://127.0.0.1:{port}", tmp_path / "restart.py"
    script.write_text(RESTART)
    environment = SURROUNDINGS | {"PORT": str(port), "ROOT_API_BASE_URL": "http://127.0.0.1:9", "ROOT_API_KEY": KEY}
    settings = " ".join(f"{name}={value}" for name, value in environment.items())
    command = f"/usr/bin/env -i {settings} {sys.executable} {script} {pid} {url}"
    started = subprocess.run(command.split(), check=False, timeout=60, cwd=Path(__file__).parents[2])
    assert started.returncode == 0
    try:
        yield url, command
    finally:
        os.kill(int(pid.read_text()), 9)


@pytest.mark.long
def test_the_reference_colony_passes(reference: tuple[str, str], tmp_path: Path) -> None:
    url, restart = reference
    done = kit(url, "--json", "--junit", str(tmp_path / "kit.xml"), "--restart-command", restart)
    assert done.stderr == "", done.stderr
    [line] = done.stdout.splitlines()
    told = json.loads(line)
    found = {one["id"]: (one["result"], one["evidence"]) for one in told["requirements"]}
    assert {id: one for id, one in found.items() if one[0] == "fail"} == {}
    assert {id for id, one in found.items() if one[0] == "not_applicable"} == set()
    assert [(one["id"], one["sentence"]) for one in told["requirements"]] == [
        (one.id, one.sentence) for one in REQUIREMENTS
    ]
    assert done.returncode == 0 and told["passed"] is True
    assert told["counts"] == {"pass": len(REQUIREMENTS), "fail": 0, "not_applicable": 0}
    assert "attempt 2 taken" in found["C-52"][1]
    suite = ElementTree.parse(tmp_path / "kit.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == (str(len(REQUIREMENTS)), "0", "0")


@asynccontextmanager
async def wrong(*faults: str) -> AsyncIterator[str]:
    colony = SmallColony(parse_keys(KEY, "TEST"), *faults)
    door = Door(colony.app, "127.0.0.1", 0)
    await door.open()
    try:
        yield door.url
    finally:
        await colony.close()
        await door.shut()


async def test_a_colony_that_is_wrong_ends_with_1_and_evidence_without_secrets(tmp_path: Path) -> None:
    asked = ("--only", "C-06", "--only", "c-15", "--only", "C-16")
    async with wrong("signs without the body", "answers HTML") as url:
        shown = await asyncio.to_thread(kit, url, *asked, "--junit", str(tmp_path / "kit.xml"), NO_COLOR="1")
        told = await asyncio.to_thread(kit, url, *asked, "--json")
    assert (shown.returncode, told.returncode) == (1, 1), shown.stderr + told.stderr
    assert "\x1b" not in shown.stdout and "C-06  FAIL" in shown.stdout and "C-15  pass" in shown.stdout
    assert "1 pass, 2 fail, 0 not applicable" in shown.stdout
    document = json.loads(told.stdout)
    assert [(one["id"], one["result"]) for one in document["requirements"]] == [
        ("C-06", "fail"), ("C-15", "pass"), ("C-16", "fail"),
    ]  # fmt: skip
    assert "signed with another secret); came back: 200" in document["requirements"][0]["evidence"]
    written = (tmp_path / "kit.xml").read_text()
    [suite] = ElementTree.fromstring(written)
    assert [case[0].tag if len(case) else "pass" for case in suite] == ["failure", "pass", "failure"]
    for said in (shown.stdout, told.stdout, written):
        assert "key-of-the-conformance-tests" not in said and "mt1." not in said


async def test_a_colony_with_another_key_is_asked_nothing_that_needs_it() -> None:
    other = "kit:another-key-than-the-colony-has"
    async with wrong() as url:
        done = await asyncio.to_thread(kit, url, "--json", "--only", "C-01", "--only", "C-17", key=other)
    document = json.loads(done.stdout)
    found = [(one["id"], one["result"]) for one in document["requirements"]]
    assert found == [("C-01", "pass"), ("C-04", "fail"), ("C-17", "not_applicable")], "also where C-04 was not named"
    assert "C-04" in document["requirements"][2]["evidence"] and done.returncode == 1


async def test_evidence_blots_out_what_a_colony_repeats() -> None:
    """A colony that answers with the key and a token in its problems."""

    async def telltale(scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        said = KEY.encode() + b" mt1.one.abcdef.ghijkl \x1b[31m" + headers.get(b"x-colony-key", b"")
        await send({"type": "http.response.start", "status": 418, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": said * 200})

    door = Door(telltale, "127.0.0.1", 0)
    await door.open()
    try:
        done = await asyncio.to_thread(kit, door.url, "--json", "--only", "C-01")
        plain = await asyncio.to_thread(kit, door.url, "--only", "C-01")
    finally:
        await door.shut()
    [one] = json.loads(done.stdout)["requirements"]
    assert one["result"] == "fail" and "[secret]" in one["evidence"] and "[token]" in one["evidence"]
    assert len(one["evidence"]) <= 1_500
    for said in (done.stdout, plain.stdout):
        assert "key-of-the-conformance-tests" not in said and "mt1." not in said and "\x1b[31m" not in said


NOBODY = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("words", "environment", "sentence"),
    [
        ((), {}, "The colony at http://127.0.0.1:9 cannot be reached"),
        ((), {"key": ""}, "set COLONY_SERVICE_API_KEY or ROOT_API_KEY"),
        ((), {"key": "a-secret-without-a-kid"}, "ROOT_API_KEY must be kid:secret"),
        (("--listen", "nowhere"), {}, "'nowhere' is no address to listen on"),
        (("--only", "C-99"), {}, "There is no requirement C-99; they are C-01 to C-52."),
        (("--restart-command", "echo 'half"), {}, "--restart-command cannot be read"),
        (("--callback-base-url", "here"), {}, "--callback-base-url must be an http or https URL"),
    ],
)
def test_misuse_is_one_sentence_and_status_2(
    words: tuple[str, ...],
    environment: dict[str, str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ROOT_API_KEY", environment.get("key", KEY))
    monkeypatch.delenv("COLONY_SERVICE_API_KEY", raising=False)
    monkeypatch.setattr(sys, "argv", ["mission-root", "colony-kit", "--base-url", NOBODY, *words])
    with pytest.raises(SystemExit) as left:
        main.run()
    said = capsys.readouterr()
    assert left.value.code == 2 and said.out == ""
    assert said.err.startswith("mission-root: ") and said.err.count("\n") == 1 and sentence in said.err
    assert "a-secret-without-a-kid" not in said.err


async def test_a_taken_address_and_a_report_that_cannot_be_written_are_misuse(tmp_path: Path) -> None:
    async with wrong() as url:
        taken = await asyncio.to_thread(kit, url, "--only", "C-01", "--listen", httpx.URL(url).netloc.decode())
        unwritten = await asyncio.to_thread(kit, url, "--only", "C-01", "--junit", str(tmp_path / "no" / "kit.xml"))
    assert (taken.returncode, unwritten.returncode) == (2, 2)
    assert "cannot be listened on: address already in use" in taken.stderr and "cannot be written" in unwritten.stderr
