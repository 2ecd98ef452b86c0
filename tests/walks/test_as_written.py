"""The quickstart as it is written, line by line, against a whole instance under the shipped rules; and both example clients."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.ledger import public_text, signer
from tests.walks.conftest import Instance, until
from tests.walks.test_kills import restore_crm

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("instance")]

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/quickstart.md").read_text()
CLIENT = (REPOSITORY / "docs/examples/client.py").read_text()
CURL = (REPOSITORY / "docs/examples/curl.sh").read_text()


COPIED = "subject, connector, operation, risk, required, approver_role, life, undo_window, comment_required, may_escalate_to, hops"


@contextmanager
def as_shipped(instance: Instance) -> Iterator[None]:
    """The rules that a tenant is born with, ladder and undo window and all; what the other walks have of them comes back."""
    again = f"""INSERT INTO approval_rule (tenant, id, version, {COPIED}) SELECT tenant, id, newest + 1, {COPIED}
      FROM approval_rule JOIN (SELECT tenant, id, max(version) AS newest FROM approval_rule GROUP BY 1, 2) n USING (tenant, id)
      WHERE NOT break_glass AND version = """
    instance.sql(again + "1")
    try:
        yield
    finally:
        instance.sql(again + "newest - 1")
        restore_crm(instance)


def test_it_runs_as_written(instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ARCHITECTURE.md", "docs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    (tmp_path / ".data").symlink_to(instance.data_dir)
    for name in [name for name in os.environ if name.startswith("MISSION_ROOT_")]:
        monkeypatch.delenv(name)
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    assert len(blocks) == 6
    # an auditor's two minutes, once the change is made: see the last but one block
    script = "set -eu\n" + "\n".join(f"echo '--- {number}' >&2\n{block}" for number, block in enumerate(blocks, 1))
    with as_shipped(instance):
        done = subprocess.run(
            ["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = done.stdout
    for words in (
        "submitter (service): submitter", "Workspace guide: 1 added", "✓ ARCHITECTURE.md:", "awaiting_approval", "pending",
        "Recorded; the approval is approved.", "Recorded; the approval is rejected.", "succeeded",
        "was written and read back: the target shows exactly what was approved", "every link recomputed", '"kind":"mission"',
        "policy would allow", "verified: True",
    ):  # fmt: skip
        assert words in said, f"{words}\n{said[-4000:]}"
    assert said.count("claims: 10") == 2, "both clients"
    auditability(instance, tmp_path, said)


def auditability(instance: Instance, folder: Path, said: str) -> None:
    """An operator shows it in under two minutes: from a record's name to its story, its proof and the file that proves it."""
    began = time.monotonic()
    target = re.search(r"update sample_crm/(lead/\S+)", said)
    assert target

    def run(command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "app.cli.main", *shlex.split(command), "--api-key", "operator"],
            cwd=folder, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    told = run(f"explain {target[1]}")
    assert (
        len(told.splitlines()) <= 25 and "read back as approved" in told and "operator approved the change to" in told
    )
    mission = re.search(r"^mission ([0-9a-f-]{36})", told, re.M)
    assert mission

    def worth() -> set[str]:
        story = json.loads(run(f"explain {mission[1]} --json"))
        assert story["proof"]["verified"]
        return {step["proof"] for step in story["steps"]}

    until(lambda: worth() == {"anchored"}, "the next anchor covers the mission")
    key = public_text(
        signer(json.loads((instance.data_dir / "secrets.json").read_text())["anchor_signing_key"]).public()
    )
    run(f"missions packet {mission[1]} --zip packet.zip --verifier verify.py")
    proof = subprocess.run(
        [sys.executable, "verify.py", "packet.zip", "--key", key],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert proof.returncode == 0, proof.stdout + proof.stderr
    assert time.monotonic() - began < 120


def test_both_clients_make_every_main_call() -> None:
    methods = set(re.findall(r"^    def ([a-z]+)\(self", CLIENT, re.M)) - {"call"}
    functions = set(re.findall(r"^([a-z]+)\(\) \{", CURL, re.M)) - {"call", "json", "etag", "once"}
    assert methods == functions
    assert methods >= {
        "ask",
        "mission",
        "wait",
        "packet",
        "approvals",
        "decide",
        "cancel",
        "evaluate",
        "explain",
        "verify",
    }
