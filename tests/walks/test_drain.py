"""SIGTERM with requests, streams and executions in flight: what was begun is finished, and each process is gone in ten seconds."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.walks.conftest import Instance, until
from tests.walks.test_kills import approve_all, changes_in_crm, create, restore_crm, state

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("instance")]

ROUNDS = int(os.environ.get("DRAIN_ROUNDS", "2"))
LONGEST_S = 10.0
CLIENTS = 4


class Load:
    """Clients that ask for missions without a pause, each over a connection of its own, and streams of facts."""

    def __init__(self, instance: Instance) -> None:
        self.instance, self.over = instance, threading.Event()
        self.accepted: dict[str, str] = {}  # Idempotency-Key -> mission
        self.dropped: list[str] = []
        self.refused = 0
        self.streams_ended: list[str] = []
        self.threads = [threading.Thread(target=self.ask) for _ in range(CLIENTS)]
        self.threads += [threading.Thread(target=self.listen) for _ in range(2)]

    def __enter__(self) -> "Load":
        for one in self.threads:
            one.start()
        until(lambda: len(self.accepted) >= 2 * CLIENTS, "there is load")
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for one in self.threads:
            one.join(60)

    def ask(self) -> None:
        body = {"mission_type": "oracle_advisory", "user_goal": "What is the undo window?", "mode": "dry_run"}
        while not self.over.is_set():
            key = uuid4().hex
            with self.instance.client(
                "submitter"
            ) as client:  # its own connection: a kept one may be closed between two requests
                try:
                    answer = client.post("/v1/missions", json=body, headers={"Idempotency-Key": key})
                except httpx.ConnectError:  # nobody listens: it was never begun
                    self.refused += 1
                    time.sleep(0.05)
                    continue
                except httpx.HTTPError as error:
                    self.dropped.append(f"{type(error).__name__}: {error}")
                    continue
            if answer.status_code == 202:
                self.accepted[key] = answer.json()["id"]
            elif answer.status_code == 503:
                self.refused += 1
            else:
                self.dropped.append(answer.text)

    def listen(self) -> None:
        while not self.over.is_set():
            with self.instance.client("auditor") as client:
                try:
                    with client.stream(
                        "GET", "/v1/events", headers={"Accept": "text/event-stream"}, timeout=httpx.Timeout(10, read=2)
                    ) as answer:
                        for _ in answer.iter_lines():
                            if self.over.is_set():
                                return
                    self.streams_ended.append("ended")  # with its last chunk: a cut one raises
                except (httpx.ConnectError, httpx.ReadTimeout):  # nobody listens, or nothing happens
                    time.sleep(0.05)
                except httpx.HTTPError as error:
                    self.streams_ended.append(f"{type(error).__name__}: {error}")


@contextmanager
def frozen(pid: int) -> Any:
    """A process that hears nothing for the length of the block: whoever calls it waits."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def told_to_stop(instance: Instance, name: str) -> tuple[int, float]:
    pid = instance.pid(name)
    os.kill(pid, signal.SIGTERM)
    return pid, time.monotonic()


def waited(pid: int, since: float) -> float:
    """How long a process took to be gone."""
    until(lambda: gone(pid), f"{pid} is gone", 2 * LONGEST_S)
    return time.monotonic() - since


CALLS = "SELECT id, state FROM budget_reservation WHERE mission = $1::text::uuid AND purpose LIKE 'tool:crm.%'"


def calls(instance: Instance, mission: str, state: str) -> set[Any]:
    """The mission's calls of the CRM through the root that are in a state."""
    return {row["id"] for row in instance.sql(CALLS, mission) if row["state"] == state}


def claimed(instance: Instance, writebacks: list[str]) -> int:
    rows = instance.sql("SELECT count(*) FROM execution WHERE writeback = ANY ($1::text[]::uuid[])", writebacks)
    return int(rows[0][0])


@pytest.mark.parametrize("turn", range(ROUNDS))
def test_nothing_is_dropped_and_everybody_is_gone_in_time(instance: Instance, turn: int) -> None:
    before = changes_in_crm(instance)
    with instance.client("submitter") as client:
        mission = create(client, "crm_lead_intelligence", "Which leads deserve a call, and why?")
        until(lambda: state(client, mission) == "awaiting_approval", "there is something to approve")
    with ExitStack() as stack:
        with frozen(instance.pid("executor")):
            writebacks = approve_all(instance, mission)
            os.kill(instance.pid("crm"), signal.SIGSTOP)
            with instance.client("submitter") as client:
                asking = create(client, "crm_lead_intelligence", "Who has not been called for long?")
            asked = until(lambda: calls(instance, asking, "reserved"), "its colony asks through the internal port")
            load = stack.enter_context(Load(instance))
        with frozen(instance.pid("crm")):
            until(lambda: claimed(instance, writebacks) > 0, "a change is under way")
            stopped = [told_to_stop(instance, name) for name in ("serve", "worker", "executor")]
            time.sleep(1.0)  # the target is silent while they are told to stop, and nobody is left at the public port
        took = [waited(*one) for one in stopped]
        with instance.client("auditor") as client:
            until(lambda: client.get("/readyz").status_code == 200, "the next ones are there")
    assert max(took) <= LONGEST_S, took
    assert asked <= calls(instance, asking, "settled"), "what was asked through the internal port was answered and kept"
    assert load.dropped == [], f"{len(load.dropped)} of {len(load.accepted)}"
    assert load.streams_ended and set(load.streams_ended) == {"ended"}, load.streams_ended
    with instance.client("submitter") as client:
        until(lambda: state(client, mission) == "completed", "the mission is completed")
        settled = [client.get(f"/v1/writebacks/{one}").raise_for_status().json() for one in writebacks]
        kept = instance.sql(
            "SELECT count(*) FROM mission WHERE id = ANY ($1::text[]::uuid[])", list(load.accepted.values())
        )
    assert kept[0][0] == len(load.accepted), "what was accepted is there"
    assert {one["state"] for one in settled} == {"succeeded"}, settled
    tries = instance.sql("SELECT max(attempts) FROM execution WHERE writeback = ANY ($1::text[]::uuid[])", writebacks)
    assert tries[0][0] == 1, "what was claimed was finished by who had claimed it"
    after = changes_in_crm(instance)
    assert all(after[one["target"]] - before.get(one["target"], 0) == 1 for one in settled)
    restore_crm(instance)


def test_the_doctor_finds_the_instance_of_the_folder_and_nothing_wrong(instance: Instance) -> None:
    command = Path(sys.executable).parent / "mission-root"
    given = {name: value for name, value in os.environ.items() if not name.endswith("DATABASE_URL")}
    asked = [command, "doctor", "--json", "--data-dir", str(instance.data_dir)]

    def look() -> dict[str, str]:
        done = subprocess.run(asked, env=given, capture_output=True, text=True, check=False, timeout=120)
        return {one["name"]: f"{one['state']}: {one['said']}" for one in json.loads(done.stdout)["lines"]}

    found = until(lambda: all(said.startswith("pass") for said in look().values()) and look(), "all is well")
    assert "with their anchors" in found["ledger"]


def test_a_drill_runs_over_the_whole_instance(instance: Instance) -> None:
    command = Path(sys.executable).parent / "mission-root"
    given = os.environ | {
        "MISSION_ROOT_URL": instance.said["base_url"],
        "MISSION_ROOT_API_KEY": instance.said["keys"]["operator"],
    }
    for name in ("approved_writeback", "colony_down"):
        done = subprocess.run(
            [command, "drills", "run", name, "--json"],
            env=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=150,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["state"] == "passed"
