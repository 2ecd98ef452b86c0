"""The example colony in TypeScript passes the kit: it was written from docs/contract.md alone."""

import json
import os
import subprocess
import sys

import pytest

from tests.world import typescript

KEY = "k1:" + "s" * 32
WITHOUT = {"C-39": "it proposes nothing", "C-52": "it is not restarted here"}


@pytest.mark.node
@pytest.mark.xdist_group("typescript")
def test_the_typescript_colony_passes() -> None:
    dist = typescript.build()
    with typescript.running(dist, KEY, MAX_CONCURRENT_MISSIONS="8", TASK_TIMEOUT_MS="2000") as colony:
        command = [sys.executable, "-m", "app.cli.main", "colony-kit", "--base-url", colony.base_url, "--json"]
        environment = {"PATH": os.environ["PATH"], "ROOT_API_KEY": KEY}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, check=False)
    found = {one["id"]: (one["result"], one["evidence"]) for one in json.loads(done.stdout)["requirements"]}
    assert {id: one for id, one in found.items() if one[0] == "fail"} == {}
    assert {id for id, one in found.items() if one[0] == "not_applicable"} == set(WITHOUT)
    assert done.returncode == 0, done.stderr
