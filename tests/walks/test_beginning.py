"""What `mission-root up` says when it has started, and that it is so."""

import json
import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.walks.conftest import COMMAND, Instance, alive, answers, until

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("instance")]
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


def test_it_says_where_everything_is_and_it_is_there(instance: Instance) -> None:
    told = instance.said
    assert (
        told["base_url"] == f"http://127.0.0.1:{instance.port}" and told["console_url"] == told["base_url"] + "/console"
    )
    assert set(told["keys"]) == KEYS and len(set(told["keys"].values())) == len(KEYS)
    assert set(told["pids"]) == PROCESSES and all(alive(pid) for pid in told["pids"].values())
    assert len(set(told["pids"].values())) == len(PROCESSES), "separate processes"
    assert set(told["databases"]) == {"owner", "api", "executor"}
    assert answers(f"{told['base_url']}/readyz") and answers(f"{told['colony_url']}/health")
    assert answers(f"{told['crm_url']}/health") and all(answers(url) for url in told["metrics_urls"].values())
    for key in told["keys"].values():
        shown = httpx.get(f"{told['base_url']}/v1/missions", headers={"Authorization": f"Bearer {key}"})
        assert shown.status_code == 200
    kept = Path(told["data_dir"], "up.json")
    assert json.loads(kept.read_text()) == told and kept.stat().st_mode & 0o777 == 0o600


def idle_for(pid: int, port: int) -> dict[str, float | None]:
    """Of each connection of a process to a port (its own as the key): in how many seconds it is probed if nothing moves."""
    sockets = {str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir()}
    found: dict[str, float | None] = {}
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, own, other, state, _, timer, _, _, _, inode, *_ = line.split()
        if state == "01" and f"socket:[{inode}]" in sockets and other.endswith(f":{port:04X}"):
            kind, _, after = timer.partition(":")
            found[own] = int(after, 16) / os.sysconf("SC_CLK_TCK") if kind == "02" else None
    return found


@pytest.mark.parametrize("name", ["serve", "registrar", "worker", "executor"])
def test_a_connection_to_the_database_that_somebody_forgot_is_found_out(instance: Instance, name: str) -> None:
    """Each of them: the pool's, those that work in batches, who listens, who asks for rates."""
    port = urlsplit(instance.said["databases"]["owner"]).port or 0

    def all_probed() -> bool:
        probed = idle_for(instance.pid(name), port)
        return len(probed) > 1 and all(after is not None and after <= 60 for after in probed.values())

    until(all_probed, f"every connection of {name} is probed", 10)


def test_the_kit_runs_with_what_it_says(instance: Instance) -> None:
    given = instance.said["kit_env"]
    assert given["MISSION_ROOT_API_KEY"] == instance.said["keys"]["submitter"]
    kit = [COMMAND, "colony-kit", "--only", "C-04", "--only", "C-17", "--json"]
    asked = subprocess.run(kit, env=os.environ | given, capture_output=True, text=True, check=False, timeout=300)
    assert asked.returncode == 0 and json.loads(asked.stdout)["counts"]["pass"] == 2, asked.stdout + asked.stderr


def test_a_folder_serves_one_instance_at_a_time(instance: Instance) -> None:
    words = [COMMAND, "up", "--data-dir", str(instance.data_dir)]
    second = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert second.returncode == 5 and second.stdout == ""
    assert second.stderr == f"mission-root: The folder {instance.data_dir} is in use by another running instance.\n"
