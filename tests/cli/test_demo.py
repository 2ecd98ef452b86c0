"""`mission-root demo --once --json`: the first promise of the repository, checked from outside."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.embedded import free_port

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("instance")]  # a whole instance, one at a time


def test_the_demo_holds_from_nothing_to_a_verified_change(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app.cli.main", "demo", "--once", "--json", "--port", str(free_port())],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    told = json.loads(line)
    assert set(told) == {"missions", "writebacks", "ledger", "elapsed_s"}
    assert [mission["mission_type"] for mission in told["missions"]] == ["oracle_advisory", "crm_lead_intelligence"]
    for mission in told["missions"]:
        assert mission["state"] == "completed"
        assert mission["claims"] > 0 and mission["citations"] == mission["citations_verified"] > 0
    assert len(told["writebacks"]) >= 2
    for writeback in told["writebacks"]:
        assert (writeback["state"], writeback["approvals"]) == ("succeeded", 1)
        assert writeback["read_back_sha256"] == writeback["payload_sha256"] and writeback["read_back"]
    assert told["ledger"]["verified"] is True and told["ledger"]["facts"] > 50
    assert 0 < told["elapsed_s"] < 180
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
