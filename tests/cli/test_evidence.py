"""`mission-root workspace trust` and `missions packet --zip`: what they send, show, refuse and write."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.packet import offline
from tests.cli.test_client import Ended, Root, command, problem, root

__all__ = ["command", "root"]

RULE = {"of": "documents", "pattern": "policies/**", "trust": "authoritative"}
VERSION: dict[str, Any] = {
    "version": 2,
    "rules": [RULE],
    "created_by": "p-1",
    "created_at": "2026-01-02T00:00:00.000000Z",
}
FIRST: dict[str, Any] = {**VERSION, "version": 1, "rules": []}
PATH = "/v1/workspaces/default/trust"


@pytest.fixture(autouse=True)
def answers(root: Root) -> None:
    root.answers[f"GET {PATH}"] = (200, {"ETag": '"v2"'}, {**VERSION, "workspace": "default", "history": [FIRST]})
    root.answers[f"PUT {PATH}"] = (200, {"ETag": '"v3"'}, {**VERSION, "version": 3})


def test_trust_is_shown_with_its_history(root: Root, command: Callable[..., Ended]) -> None:
    code, out, err = command("workspace", "trust")
    assert (code, err) == (0, "") and "policies/**" in out and "authoritative" in out and "Version 1" not in out
    _, out, _ = command("workspace", "trust", "--history")
    assert "Version 2" in out and "Version 1" in out
    _, out, _ = command("workspace", "trust", "--json")
    assert json.loads(out)["history"] == [FIRST]


def test_rules_replace_all_on_the_version_that_was_seen(root: Root, command: Callable[..., Ended]) -> None:
    code, _, err = command("workspace", "trust", "default", "wiki/**=untrusted", "records:sample_crm/**=authoritative")
    assert (code, err) == (0, "")
    put = next(asked for asked in root.asked if asked[0] == f"PUT {PATH}")
    said = json.dumps(put[3] if len(put) > 3 else put[2], default=str)
    assert "wiki/**" in said and "sample_crm/**" in said and "records" in said
    assert command("workspace", "trust", "default", "--clear")[0] == 0
    for nonsense in ("wiki/**", "wiki/**=sacred"):
        code, _, err = command("workspace", "trust", "default", nonsense)
        assert code == 2 and "is no rule" in err


def test_a_workspace_that_nobody_made(root: Root, command: Callable[..., Ended]) -> None:
    root.answers[f"GET {PATH}"] = (404, {}, problem("not_found"))
    assert command("workspace", "trust")[0] == 3
    assert command("workspace", "trust", "default", "wiki/**=untrusted")[0] == 0


def test_the_zip_and_the_verifier_are_written(root: Root, command: Callable[..., Ended], tmp_path: Path) -> None:
    root.answers["GET /v1/missions/m-1/packet"] = (200, {}, {"zip": "bytes"})
    file, verifier = tmp_path / "packet.zip", tmp_path / "verify.py"
    code, out, err = command("missions", "packet", "m-1", "--zip", str(file), "--verifier", str(verifier), "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"file": str(file), "bytes": file.stat().st_size}
    assert ("GET /v1/missions/m-1/packet", "format=zip") in [(asked[0], asked[1]) for asked in root.asked]
    assert verifier.read_bytes() == Path(offline.__file__).read_bytes()
    root.answers["GET /v1/missions/m-1/packet"] = (404, {}, problem("not_found"))
    assert command("missions", "packet", "m-1", "--zip", str(tmp_path / "none.zip"))[0] == 3
    assert not (tmp_path / "none.zip").exists()
